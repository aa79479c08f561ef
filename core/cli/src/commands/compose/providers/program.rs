//! Finding and running a provider's program.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sampan_compose::Project;
use sampan_compose::model::Provider;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::messages::{Said, Step, plain};
use crate::output::tell;

/// The longest line that is read.
const LINE: u64 = 1 << 20;
/// Answers that may wait for the program to read them.
const ANSWERS: usize = 8;
/// How long a program may take to describe itself.
const METADATA: Duration = Duration::from_secs(10);

/// A program that provides services.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    kind: String,
}

/// What is asked of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Up,
    Down,
    /// Only of those that say that they know it.
    Stop,
}

impl Ask {
    /// The word of the command line.
    fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Stop => "stop",
        }
    }
}

/// What a program says of its commands; nothing when it does not.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    description: String,
    up: OfCommand,
    down: OfCommand,
    stop: Option<OfCommand>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OfCommand {
    parameters: Option<Vec<Parameter>>,
}

/// Which options a command takes.
#[derive(Debug)]
enum Known {
    /// It does not say: all are passed.
    Any,
    These(Vec<Parameter>),
}

impl Metadata {
    /// The options of a command; none: the program does not know the command.
    fn of(self, ask: Ask) -> Option<Known> {
        // A program that says nothing at all of itself may take any option.
        let silent = self.description.is_empty() && self.up.parameters.is_none() && self.down.parameters.is_none();
        let command = match ask {
            Ask::Up => self.up,
            Ask::Down => self.down,
            Ask::Stop => self.stop?,
        };
        Some(if silent { Known::Any } else { Known::These(command.parameters.unwrap_or_default()) })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parameter {
    name: String,
    required: bool,
}

/// Whether it is a program.
fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Where plugins of the command line lie, the user's own first.
fn plugin_folders() -> Vec<PathBuf> {
    let config = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    let own = config.or(home).map(|folder| folder.join("cli-plugins"));
    let shared = ["/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec"];
    own.into_iter().chain(shared.map(|folder| Path::new(folder).join("docker/cli-plugins"))).collect()
}

fn find_in(folders: impl IntoIterator<Item = PathBuf>, name: &str) -> Option<PathBuf> {
    folders.into_iter().map(|folder| folder.join(name)).find(|path| is_program(path))
}

/// A plugin of the command line, which may also lie in `PATH`.
pub fn plugin(kind: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        plugin_folders().into_iter().chain(std::env::split_paths(&path).filter(|folder| folder.is_absolute()));
    find_in(folders, &format!("docker-{kind}"))
}

impl Program {
    /// The program of a type of provider: a plugin `docker-TYPE`, or else TYPE itself in `PATH`.
    pub fn of(kind: &str) -> Result<Self, String> {
        if kind == "compose" {
            return Err("'compose' is not a valid provider type".to_owned());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        // What lies in the folder where one happens to be is not meant.
        let folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
        plugin(kind).or_else(|| find_in(folders, kind)).map(|path| Self { path, kind: kind.to_owned() }).ok_or_else(|| {
            format!("its provider is not installed: there is neither a plugin docker-{kind} nor a program {kind} in PATH")
        })
    }

    /// It sees the variables that the project's files are read with, those of `.env` among them.
    fn command(&self, folder: &Path, env: &BTreeMap<String, String>) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(folder).envs(env).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// What it says of itself.
    async fn metadata(&self, folder: &Path, env: &BTreeMap<String, String>) -> Option<Metadata> {
        let mut command = self.command(folder, env);
        command.args(["compose", "metadata"]).stdin(Stdio::null()).stderr(Stdio::null());
        let output = tokio::time::timeout(METADATA, command.output()).await.ok()?.ok()?;
        serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())
    }

    /// Runs `compose --project-name=… VERB --option=value … SERVICE`, and follows what it says to its end. None when the
    /// program does not know what is asked.
    pub async fn run(
        &self,
        model: &Project,
        env: &BTreeMap<String, String>,
        (service, provider): (&str, &Provider),
        ask: Ask,
    ) -> Result<Option<Said>, String> {
        let folder = if model.working_dir.is_dir() { model.working_dir.clone() } else { PathBuf::from("/") };
        let metadata = self.metadata(&folder, env).await.unwrap_or_default();
        let Some(known) = metadata.of(ask) else { return Ok(None) };
        let options = options(&self.kind, provider, &known)?;
        if ask == Ask::Stop {
            tell!(" Service {service}  Stopping");
        }
        let mut command = self.command(&folder, env);
        command.args(["compose", &format!("--project-name={}", model.name), ask.as_str()]).args(options).arg(service);
        let failed = |error: std::io::Error| format!("run {}: {error}", self.path.display());
        let mut child = command.spawn().map_err(failed)?;
        let output = child.stdout.take().ok_or("the provider has no output")?;
        let input = child.stdin.take();
        // Answers go their own way: a program that talks on before it reads must not wait for itself.
        let (answers, mut wanted) = tokio::sync::mpsc::channel::<String>(ANSWERS);
        let answering = tokio::spawn(async move {
            let Some(mut input) = input else { return };
            while let Some(answer) = wanted.recv().await {
                // One that does not listen is told by its own end.
                let _ = input.write_all(answer.as_bytes()).await;
            }
        });
        let mut lines = BufReader::new(output);
        let mut said = Said::default();
        let mut failure = None;
        while let Some(line) = line(&mut lines).await? {
            match said.take(&line)? {
                Step::Go => {}
                Step::Show(text) => tell!(" Service {service}  {text}"),
                Step::Fail(text) => failure = Some(text),
                Step::Describe => {
                    let description = model.to_json()["services"][service].to_string();
                    answers
                        .try_send(format!("{description}\n"))
                        .map_err(|_| "it asks for its definition again and again, and reads no answer".to_owned())?;
                }
            }
        }
        drop(answers);
        let status = child.wait().await.map_err(failed)?;
        let _ = answering.await;
        match failure {
            Some(text) => Err(text),
            None if status.success() => Ok(Some(said)),
            None => Err(format!("its provider {} failed: {status}", plain(&self.kind))),
        }
    }
}

/// The next line without its end; none at the end.
async fn line(from: &mut BufReader<impl AsyncRead + Unpin>) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    let read = from.take(LINE + 1).read_until(b'\n', &mut line).await;
    let length = read.map_err(|error| format!("read from the provider: {error}"))?;
    if length as u64 > LINE {
        return Err("the provider says a line of more than 1 MiB".to_owned());
    }
    Ok((length > 0).then_some(line))
}

/// The options as flags, of which the program is known to take some.
fn options(kind: &str, provider: &Provider, known: &Known) -> Result<Vec<String>, String> {
    if let Known::These(known) = known {
        let given: BTreeSet<&String> = provider.options.keys().collect();
        if let Some(missing) = known.iter().find(|parameter| parameter.required && !given.contains(&parameter.name)) {
            return Err(format!("required parameter {:?} is missing from provider {kind:?} definition", missing.name));
        }
    }
    let taken = |name: &str| match known {
        Known::Any => true,
        Known::These(known) => known.iter().any(|parameter| parameter.name == name),
    };
    let all = provider.options.iter().filter(|(name, _)| taken(name));
    Ok(all.flat_map(|(name, values)| values.iter().map(move |value| format!("--{name}={value}"))).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn options_become_flags() {
        let list = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        let provider = Provider {
            kind: "cloud".into(),
            options: [("size".to_owned(), list(&["10"])), ("zone".to_owned(), list(&["a", "b"]))].into(),
            ..Provider::default()
        };
        assert_eq!(options("cloud", &provider, &Known::Any).unwrap(), ["--size=10", "--zone=a", "--zone=b"]);
        let parameter = |name: &str, required| Parameter { name: name.into(), required };
        let known = Known::These(vec![parameter("size", true), parameter("color", false)]);
        assert_eq!(options("cloud", &provider, &known).unwrap(), ["--size=10"]);
        let why = options("cloud", &provider, &Known::These(vec![parameter("name", true)])).unwrap_err();
        assert_eq!(why, "required parameter \"name\" is missing from provider \"cloud\" definition");
    }

    #[test]
    fn a_program_that_describes_itself_takes_what_it_names() {
        let of = |text: &str, ask| serde_json::from_str::<Metadata>(text).unwrap().of(ask);
        let names = |known: Option<Known>| match known {
            Some(Known::These(known)) => {
                known.into_iter().map(|parameter| parameter.name).collect::<Vec<_>>().join(" ")
            }
            Some(Known::Any) => "any".to_owned(),
            None => "no such command".to_owned(),
        };
        let full = r#"{"description":"x","up":{"parameters":[{"name":"a"}]},"stop":{}}"#;
        assert_eq!(names(of(full, Ask::Up)), "a");
        assert_eq!((names(of(full, Ask::Down)), names(of(full, Ask::Stop))), (String::new(), String::new()));
        assert_eq!((names(of("{}", Ask::Up)), names(of("{}", Ask::Stop))), ("any".into(), "no such command".into()));
    }

    #[tokio::test]
    async fn lines_are_bounded() {
        let text = [vec![b'x'; 10], vec![b'\n'], vec![b'y'; (LINE + 2) as usize]].concat();
        let mut from = BufReader::new(text.as_slice());
        assert_eq!(line(&mut from).await.unwrap().unwrap().len(), 11);
        assert!(line(&mut from).await.unwrap_err().contains("1 MiB"));
    }
}
