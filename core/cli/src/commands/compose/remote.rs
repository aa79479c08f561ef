//! Projects that lie elsewhere: `oci://…` in registries and git repositories, as `-f`, `include` and `extends` name them.
//!
//! They are fetched by whoever asks, with that user's credentials, into a folder of that user's: by digest or commit, so
//! that what was fetched once stays what it was. The daemon is told which file stands for which reference.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::ProjectArgs;
use crate::client::{Client, escape};
use crate::commands::image::{auth, reference};
use crate::failure::{Failure, Outcome};
use crate::output::tell;

/// Files of one project.
const FILES: usize = 64;
/// What a project's own file may be called.
const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// Fetches, and remembers what for.
#[derive(Debug)]
pub struct Remote {
    client: Client,
    config: PathBuf,
    fetched: Mutex<BTreeMap<String, PathBuf>>,
}

impl Remote {
    /// Fetches through a daemon, with the credentials of a configuration.
    pub fn new(client: Client, config: PathBuf) -> Self {
        Self { client, config, fetched: Mutex::default() }
    }

    /// The file for each reference that was met.
    pub fn fetched(&self) -> BTreeMap<String, PathBuf> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The file that a reference leads to, fetched if it has to be.
    pub fn fetch(&self, text: &str) -> Result<PathBuf, String> {
        if let Some(known) = self.fetched().get(text) {
            return Ok(known.clone());
        }
        let file = match text.strip_prefix("oci://") {
            Some(name) => self.fetch_artifact(name),
            None => fetch_repository(text),
        }?;
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned(), file.clone());
        Ok(file)
    }

    /// Asks the daemon for a project's files, and keeps them under the digest of what names them.
    fn fetch_artifact(&self, name: &str) -> Result<PathBuf, String> {
        let (client, config, asked) = (self.client.apart(), self.config.clone(), reference::tagged(name));
        // Whoever loads a project cannot wait for a future: the request is made on a thread of its own.
        let work = move || -> Outcome<Value> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Failure::new(format!("start a runtime: {error}")))?;
            let credentials = auth::ConfigFile::read(&config)?.credentials(reference::registry(&asked));
            let headers = [("x-registry-auth", auth::header(&credentials))];
            runtime.block_on(client.get_with_headers(&format!("/sampan/v1/compositions/{}", escape(&asked)), &headers))
        };
        let found = std::thread::spawn(work).join().map_err(|_| "the thread that fetches it failed".to_owned())?;
        let found = found.map_err(|failure| failure.message)?;
        let digest = found["Digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:")).unwrap_or_default();
        if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("the daemon did not say which digest it has".to_owned());
        }
        keep(&cache()?.join(digest), &found)
    }
}

/// What comes from elsewhere is run only when the user says so: where it is from, and the variables that it will see.
pub fn trust(options: &ProjectArgs, yes: bool) -> Outcome {
    let fetched = options.fetched();
    if fetched.is_empty() || yes {
        return Ok(());
    }
    tell!(
        "This project has files from elsewhere, which could be made to do harm. Make sure that you trust their sources:"
    );
    let mut lines: Vec<String> = fetched.into_keys().collect();
    if let Ok(raw) = sampan_compose::load_raw(&options.options(), &options.files())
        && let Ok(env) = sampan_compose::environment(&options.options(), &options.files())
    {
        let names = raw.variables.into_iter().map(|variable| match env.get(&variable.name) {
            Some(_) => format!("variable {} (set)", variable.name),
            None if variable.default.is_empty() => format!("variable {} (not set)", variable.name),
            None => format!("variable {} (default {:?})", variable.name, variable.default),
        });
        lines.extend(names);
    }
    super::publish::ask(&lines, yes)
}

/// The folder for what is fetched.
fn cache() -> Result<PathBuf, String> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    let folder = folder.ok_or("neither XDG_CACHE_HOME nor HOME says where to keep it")?.join("sampan-compose");
    private(&folder)?;
    Ok(folder)
}

fn private(folder: &Path) -> Result<(), String> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| format!("create {}: {error}", folder.display()))
}

/// Puts something into a folder that is seen whole or not at all.
fn whole(folder: &Path, fill: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    if folder.is_dir() {
        return Ok(());
    }
    let partial = folder.with_extension(format!("{}.part", std::process::id()));
    let _ = fs::remove_dir_all(&partial);
    private(&partial)?;
    let filled = fill(&partial).and_then(|()| match fs::rename(&partial, folder) {
        // Another command was quicker.
        Err(_) if folder.is_dir() => Ok(()),
        other => other.map_err(|error| format!("create {}: {error}", folder.display())),
    });
    let _ = fs::remove_dir_all(&partial);
    filled
}

/// Writes a project's files: its own ones one behind the other, so that later ones are merged over earlier ones.
fn keep(folder: &Path, found: &Value) -> Result<PathBuf, String> {
    let files = found["Files"].as_array().map(Vec::as_slice).unwrap_or_default();
    if files.len() > FILES {
        return Err(format!("it has more than {FILES} files"));
    }
    whole(folder, |partial| {
        let mut own = String::new();
        for file in files {
            let text = |key: &str| file[key].as_str().unwrap_or_default();
            let name = text("Name");
            match text("Kind") {
                "compose" => {
                    if !own.is_empty() {
                        own.push_str("\n---\n");
                    }
                    own.push_str(text("Content"));
                }
                // The daemon has checked it; so does whoever writes.
                _ if !is_plain(name) || NAMES[..1].contains(&name) => {
                    return Err(format!("it has a file {name:?}, which is not the plain name of one"));
                }
                _ => write(&partial.join(name), text("Content"))?,
            }
        }
        write(&partial.join(NAMES[0]), &own)
    })?;
    Ok(folder.join(NAMES[0]))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("write {}: {error}", path.display()))
}

fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !name.contains(char::is_control)
}

/// `URL[#[REF][:FOLDER]]` taken apart.
fn repository(text: &str) -> (String, String, String) {
    let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (commit, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
    let address = if address.starts_with("github.com/") { format!("https://{address}") } else { address.to_owned() };
    let commit = if commit.is_empty() { "HEAD" } else { commit };
    (address, commit.to_owned(), folder.to_owned())
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Where a name may be found in a repository, the first being what counts: of an annotated tag the commit behind it.
fn places(wanted: &str) -> Vec<String> {
    match wanted {
        "HEAD" => vec!["HEAD".to_owned()],
        name => {
            ["refs/tags/{}^{}", "refs/tags/{}", "refs/heads/{}"].map(|place| place.replacen("{}", name, 1)).to_vec()
        }
    }
}

/// The commit of the first place that is listed.
fn found(listed: &str, places: &[String]) -> Option<String> {
    let lines = || listed.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let of = |place: &String| lines().find(|(_, name)| name.trim() == place).map(|(commit, _)| commit.to_owned());
    places.iter().find_map(of).filter(|commit| is_commit(commit))
}

/// Fetches a commit of a repository with the user's own git, and keeps it under the commit.
fn fetch_repository(text: &str) -> Result<PathBuf, String> {
    let (address, wanted, folder) = repository(text);
    let plain = Path::new(&folder).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if address.starts_with('-') || wanted.starts_with('-') || !plain {
        return Err("it is not URL[#REF[:FOLDER]] of a git repository".to_owned());
    }
    let cache = cache()?;
    let places = places(&wanted);
    let mut words = vec!["ls-remote", "--quiet", &address];
    words.extend(places.iter().map(String::as_str));
    let listed = git(&cache, &words)?;
    let commit = found(&listed, &places).or_else(|| is_commit(&wanted).then(|| wanted.clone()));
    let commit = commit.ok_or_else(|| format!("the repository has no branch or tag {wanted}"))?;
    let kept = cache.join(&commit);
    whole(&kept, |partial| {
        git(partial, &["init", "--quiet"])?;
        if git(partial, &["fetch", "--quiet", "--depth=1", &address, &commit]).is_err() {
            // Not every server gives single commits.
            git(partial, &["fetch", "--quiet", &address, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"])?;
        }
        git(partial, &["checkout", "--quiet", "--detach", &commit])?;
        fs::remove_dir_all(partial.join(".git")).map_err(|error| format!("remove .git: {error}"))
    })?;
    let root = kept.canonicalize().map_err(|error| format!("{}: {error}", kept.display()))?;
    let at = root.join(folder);
    let candidates = std::iter::once(at.clone()).filter(|at| at.is_file()).chain(NAMES.map(|name| at.join(name)));
    let file = candidates.into_iter().find_map(|path| path.canonicalize().ok().filter(|path| path.is_file()));
    match file {
        Some(path) if path.starts_with(&root) => Ok(path),
        Some(_) => Err("its compose file is a link that leads out of the repository".to_owned()),
        None => Err(format!("there is no compose file in {}", at.strip_prefix(&root).unwrap_or(&at).display())),
    }
}

/// Runs git without hooks and odd transports; its output, or the last words of its errors.
fn git(folder: &Path, words: &[&str]) -> Result<String, String> {
    let mut command = Command::new("git");
    command
        .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.symlinks=true"])
        .args(words)
        .current_dir(folder)
        .env("GIT_ALLOW_PROTOCOL", "http:https:git:ssh")
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(Stdio::null());
    let output = command.output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "git is not installed here, and repositories are fetched by it".to_owned(),
        _ => format!("run git: {error}"),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().lines().last().unwrap_or("it failed").chars().filter(|c| !c.is_control()).collect();
    Err(format!("git {}: {said}", words[0]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn repositories_are_named_with_commit_and_folder() {
        let parts = |text: &str| {
            let (address, commit, folder) = repository(text);
            format!("{address} {commit} {folder}")
        };
        assert_eq!(parts("https://x/y.git"), "https://x/y.git HEAD ");
        assert_eq!(parts("https://x/y.git#main"), "https://x/y.git main ");
        assert_eq!(parts("git@x:y.git#v1:deploy/prod"), "git@x:y.git v1 deploy/prod");
        assert_eq!(parts("github.com/x/y#:sub"), "https://github.com/x/y HEAD sub");
        for bad in ["https://x/y.git#main:../up", "https://x/y.git#-u:x", "https://x/y.git#main:/etc"] {
            assert!(fetch_repository(bad).unwrap_err().contains("URL[#REF[:FOLDER]]"), "{bad}");
        }
    }

    #[test]
    fn a_tag_counts_before_a_branch_and_a_like_name_does_not() {
        let (one, two, three) = ("1".repeat(40), "2".repeat(40), "3".repeat(40));
        let listed = format!("{one}\trefs/heads/v1\n{two}\trefs/tags/v1\n{three}\trefs/tags/v1^{{}}\n");
        assert_eq!(found(&listed, &places("v1")), Some(three));
        assert_eq!(found(&format!("{one}\trefs/heads/v1\n"), &places("v1")), Some(one.clone()));
        assert_eq!(found(&format!("{one}\trefs/heads/x/v1\n"), &places("v1")), None);
        assert_eq!(found(&format!("{one}\tHEAD\n"), &places("HEAD")), Some(one));
    }

    #[test]
    fn files_are_kept_by_plain_names_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, kind: &str, text: &str| json!({ "Name": name, "Kind": kind, "Content": text });
        let at = folder.path().join("one");
        let found = json!({ "Files": [
            file("compose.yaml", "compose", "name: a"), file("base.yaml", "extends", "b"), file("x.yaml", "compose", "c: {}"),
        ]});
        let path = keep(&at, &found).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "name: a\n---\nc: {}");
        assert_eq!(fs::read_to_string(at.join("base.yaml")).unwrap(), "b");
        for bad in ["../x", "/x", "a/b", "", "..", "compose.yaml"] {
            let at = folder.path().join("two");
            let found = json!({ "Files": [file(bad, "extends", "x")] });
            assert!(keep(&at, &found).is_err() && !at.exists(), "{bad}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "what was begun is gone");
    }
}
