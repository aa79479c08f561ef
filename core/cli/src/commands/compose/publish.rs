//! `publish`: a project's files put under a name of a registry, from where `-f oci://…` and `include` take them.
//!
//! What is published is one file, in which all files of the project, what they include and what they extend are merged;
//! variables stay variables. What lies beside it is not published but env files, and those only when that is asked for.

use std::fs;
use std::io::{BufRead, IsTerminal};
use std::path::Path;

use sampan_compose::{LoadOptions, Without, load_raw};
use serde_json::{Value, json};

use super::config::pin;
use super::project;
use crate::client::escape;
use crate::commands::image::{auth, reference};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{show, tell};

/// The largest env file that is published.
const LARGEST: u64 = 1 << 20;

/// Options of `publish`.
#[derive(Debug, Default, clap::Args)]
pub struct PublishArgs {
    /// Published compose application (includes referenced images) (refused)
    #[arg(long, hide = true)]
    pub app: bool,
    /// OCI image/artifact specification version (automatically determined by default)
    #[arg(long)]
    pub oci_version: Option<String>,
    /// Pin image tags to digests
    #[arg(long)]
    pub resolve_image_digests: bool,
    /// Include environment variables in the published OCI artifact
    #[arg(long)]
    pub with_env: bool,
    /// Assume "yes" as answer to all prompts
    #[arg(short, long)]
    pub yes: bool,
    /// Where to, such as registry.example.com/team/app:1.0
    #[arg(required = true)]
    pub repository: String,
}

/// `compose publish`
pub async fn publish(context: Context, args: PublishArgs) -> Outcome {
    if args.app {
        let why = "the project's files are published alone; its images are pushed by `compose push`";
        return Err(Failure::new(format!("--app is not supported: {why}")));
    }
    let options = LoadOptions { whole_specification: true, ..context.project.options() };
    let mut loaded = project::load_with(&options, &context.project)?;
    let as_written = Without { normalization: true, path_resolution: true, env_resolution: true, ..Without::default() };
    let raw = load_raw(&LoadOptions { without: as_written, ..options }, &context.project.files());
    let mut model = raw.map_err(|wrong| project::broken(&wrong))?.model;
    model["name"] = json!(loaded.project.name);
    if args.resolve_image_digests {
        pin(&context.client, &context.config, &mut loaded.project).await?;
        for (name, service) in loaded.project.services.iter().filter(|(_, service)| !service.image.is_empty()) {
            model["services"][name]["image"] = json!(service.image);
        }
    }
    let directory = loaded.project.working_dir.clone();
    let read = |path: &str| read(&directory.join(path));
    let found = prepare(&mut model, args.with_env, read).map_err(Failure::new)?;
    for note in &found.notes {
        tell!("WARN: {note}");
    }
    if !found.questions.is_empty() {
        ask(&found.questions, args.yes)?;
    }
    let Value::Object(document) = &model else { return Err(Failure::new("there is nothing to publish")) };
    let mut files =
        vec![json!({ "Name": "compose.yaml", "Kind": "compose", "Content": sampan_compose::to_yaml(document) })];
    files.extend(found.env.iter().map(|(name, content)| json!({ "Name": name, "Kind": "env", "Content": content })));
    let name = reference::tagged(args.repository.strip_prefix("oci://").unwrap_or(&args.repository));
    if context.project.dry_run {
        tell!(" {name}  would be published ({} files)", files.len());
        return Ok(());
    }
    tell!(" {name}  publishing");
    let credentials = auth::ConfigFile::read(&context.config)?.credentials(reference::registry(&name));
    let headers = [("x-registry-auth", auth::header(&credentials))];
    let body = json!({ "Files": files, "OciVersion": args.oci_version });
    let path = format!("/sampan/v1/compositions/{}", escape(&name));
    let done: Value = context.client.put_with_headers(&path, &body, &headers).await?;
    tell!(" {name}  published  {}", done["Digest"].as_str().unwrap_or_default());
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    let told = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let found = fs::metadata(path).map_err(|error| told(&error))?;
    if !found.is_file() || found.len() > LARGEST {
        return Err(told(&"it is not a file of at most 1 MiB"));
    }
    fs::read_to_string(path).map_err(|error| told(&error))
}

/// What was found on the way to what is published.
#[derive(Debug, Default, PartialEq)]
struct Found {
    /// Env files by the names that they have from now on.
    env: Vec<(String, String)>,
    /// What is asked before it is published.
    questions: Vec<String>,
    /// What is told.
    notes: Vec<String>,
}

/// Makes a model fit to be published, or says what keeps it from that. `read` gives an env file's text.
fn prepare(model: &mut Value, with_env: bool, read: impl Fn(&str) -> Result<String, String>) -> Result<Found, String> {
    let mut found = Found::default();
    let Some(services) = model["services"].as_object_mut() else { return Err("it has no services".to_owned()) };
    for (name, service) in services {
        if service["build"].is_object() && service["image"].as_str().unwrap_or_default().is_empty() {
            return Err(format!(
                "service {name} is only built, and what it is built from is not published: give it an `image`, and push that"
            ));
        }
        let filled = |key: &str| match &service[key] {
            Value::Object(map) => !map.is_empty(),
            Value::Array(list) => !list.is_empty(),
            other => !other.is_null(),
        };
        for key in ["environment", "env_file"] {
            if filled(key) && !with_env {
                return Err(format!(
                    "service {name} has `{key}`: variables may be secret, so they are published only with --with-env"
                ));
            }
        }
        // Not by index, which would put an empty `env_file` where there is none: Compose refuses that.
        let env_files = service.get_mut("env_file").and_then(Value::as_array_mut);
        for entry in env_files.into_iter().flatten() {
            let path = entry["path"].as_str().or(entry.as_str()).unwrap_or_default().to_owned();
            let optional = entry["required"] == json!(false);
            let content = match read(&path) {
                Ok(content) => content,
                Err(_) if optional => continue,
                Err(why) => return Err(format!("service {name}: env_file {why}")),
            };
            let known = found.env.iter().find(|(_, known)| *known == content).map(|(name, _)| name.clone());
            let plain = known.unwrap_or_else(|| format!("{name}-{}.env", found.env.len() + 1));
            if !found.env.iter().any(|(name, _)| *name == plain) {
                found.env.push((plain.clone(), content));
            }
            match entry {
                Value::Object(entry) => drop(entry.insert("path".to_owned(), json!(plain))),
                entry => *entry = json!(plain),
            }
        }
        for mount in service["volumes"].as_array().into_iter().flatten() {
            let source = mount["source"].as_str().unwrap_or_default();
            if mount["type"] == "bind" {
                found.questions.push(format!("service {name} binds {source} of whichever host it will run on"));
            }
        }
    }
    for kind in ["configs", "secrets"] {
        for (name, entry) in model[kind].as_object().into_iter().flatten() {
            if let Some(file) = entry["file"].as_str() {
                found.notes.push(format!("{kind}: {name} is the file {file}, which is not published"));
            }
            if kind == "configs" && entry["content"].is_string() {
                found.questions.push(format!("config {name} is published with its content"));
            }
        }
    }
    Ok(found)
}

/// Asks whether that is meant; without a terminal the answer is read all the same, and no answer is no.
pub fn ask(lines: &[String], yes: bool) -> Outcome {
    if yes {
        return Ok(());
    }
    for line in lines {
        tell!("  {line}");
    }
    show!("Do you want to continue? [y/N] ")?;
    std::io::Write::flush(&mut std::io::stdout())?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ if !std::io::stdin().is_terminal() => Err(Failure::new("operation cancelled: nobody has answered (use -y)")),
        _ => Err(Failure::new("operation cancelled")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_may_be_secret_is_published_only_when_that_is_said() {
        let model = || {
            json!({
                "services": {
                    "web": {"image": "x", "env_file": [{"path": "../secret/a.env"}, {"path": "no", "required": false}],
                            "volumes": [{"type": "bind", "source": "./data"}]},
                    "db": {"image": "y", "env_file": [{"path": "../secret/a.env"}], "environment": {"A": "b"}},
                    "plain": {"image": "z"},
                },
                "secrets": {"s": {"file": "./s"}},
                "configs": {"c": {"content": "text"}},
            })
        };
        let read = |path: &str| if path == "no" { Err("none".to_owned()) } else { Ok("A=b".to_owned()) };
        assert!(prepare(&mut model(), false, read).unwrap_err().contains("--with-env"));
        let mut published = model();
        let found = prepare(&mut published, true, read).unwrap();
        let [(name, content)] = &found.env[..] else { panic!("{found:?}") };
        assert_eq!(content, "A=b");
        for service in ["web", "db"] {
            assert_eq!(published["services"][service]["env_file"][0]["path"], json!(name));
        }
        assert_eq!(published["services"]["plain"], json!({"image": "z"}));
        assert_eq!((found.questions.len(), found.notes.len()), (2, 1));
        let mut built = json!({"services": {"web": {"build": {"context": "."}}}});
        assert!(prepare(&mut built, true, read).unwrap_err().contains("only built"));
    }
}
