//! `config`: the project as it is understood.

use sampan_compose::{Project, RawProject, Without};
use serde_json::{Map, Value, json};

use std::path::Path;

use super::{ProjectArgs, project};
use crate::client::Client;
use crate::commands::image::{auth, reference};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{json as layout, table, tell};

/// Options of `config`.
#[derive(Debug, Default, clap::Args)]
pub struct ConfigArgs {
    /// Which project.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Print environment used for interpolation
    #[arg(long)]
    pub environment: bool,
    /// Format the output. Values: [yaml | json]
    #[arg(long)]
    pub format: Option<String>,
    /// Print the service config hash, one per line
    #[arg(long, value_name = "string")]
    pub hash: Option<String>,
    /// Print the image names, one per line
    #[arg(long)]
    pub images: bool,
    /// Produces an override file with image digests
    #[arg(long)]
    pub lock_image_digests: bool,
    /// Print the model names, one per line
    #[arg(long)]
    pub models: bool,
    /// Print the network names, one per line
    #[arg(long)]
    pub networks: bool,
    /// Don't interpolate environment variables
    #[arg(long)]
    pub no_interpolate: bool,
    /// Don't check model consistency
    #[arg(long)]
    pub no_consistency: bool,
    /// Don't resolve service env files
    #[arg(long)]
    pub no_env_resolution: bool,
    /// Don't normalize compose model
    #[arg(long)]
    pub no_normalize: bool,
    /// Don't resolve file paths
    #[arg(long)]
    pub no_path_resolution: bool,
    /// Save to file (default to stdout)
    #[arg(short, long)]
    pub output: Option<std::path::PathBuf>,
    /// Print the profile names, one per line
    #[arg(long)]
    pub profiles: bool,
    /// Only validate the configuration, don't print anything
    #[arg(short, long)]
    pub quiet: bool,
    /// Pin image tags to digests
    #[arg(long)]
    pub resolve_image_digests: bool,
    /// Print the service names, one per line
    #[arg(long)]
    pub services: bool,
    /// Print the model that the daemon has stored
    #[arg(long)]
    pub stored: bool,
    /// Print model variables and default values
    #[arg(long)]
    pub variables: bool,
    /// Print the volume names, one per line
    #[arg(long)]
    pub volumes: bool,
    /// Services
    #[arg(value_name = "SERVICE")]
    pub names: Vec<String>,
}

/// `config`
pub async fn run(context: Context, mut args: ConfigArgs) -> Outcome {
    let options = context.project.clone().joined(std::mem::take(&mut args.project));
    if args.stored {
        let chosen = project::find(&context.client, &options).await?;
        let path = format!("/sampan/v1/stacks/{}/config", crate::client::escape(&chosen.name));
        let stored: Value = context.client.get(&path).await?;
        return table::write_all(&(layout::pretty(&stored) + "\n"));
    }
    let mut load = options.options();
    // Looking at a model needs no engine that can run it.
    load.whole_specification = true;
    load.without = Without {
        normalization: args.no_normalize,
        path_resolution: args.no_path_resolution,
        env_resolution: args.no_env_resolution,
        consistency: args.no_consistency,
    };
    if args.environment {
        let found = sampan_compose::environment(&load, &options.files()).map_err(|wrong| project::broken(&wrong))?;
        return write(&args, &found.iter().map(|(name, value)| format!("{name}={value}\n")).collect::<String>());
    }
    // What lists parts of the model needs values; variables and the text of the files do not.
    let listing = args.services || args.volumes || args.networks || args.models || args.images || args.profiles;
    if args.variables || (args.no_interpolate && !listing && args.hash.is_none()) {
        let raw = sampan_compose::load_raw(&load, &options.files()).map_err(|wrong| project::broken(&wrong))?;
        raw.warnings.iter().for_each(|warning| tell!("{warning}"));
        let out = if args.variables { variables(&raw, &args)? } else { raw_text(raw, &args)? };
        return write(&args, &out);
    }
    let loaded = project::load_with(&load, &options)?;
    let mut model = loaded.project;
    select(&mut model, &args.names)?;
    if args.resolve_image_digests || args.lock_image_digests {
        pin(&context.client, &context.config, &mut model).await?;
    }
    write(&args, &text(&model, &args)?)
}

/// Prints a text, or writes it where it is wanted; nothing when only mistakes were looked for.
fn write(args: &ConfigArgs, out: &str) -> Outcome {
    match &args.output {
        _ if args.quiet => Ok(()),
        Some(path) => {
            std::fs::write(path, out).map_err(|error| Failure::new(format!("write {}: {error}", path.display())))
        }
        None => table::write_all(out),
    }
}

/// The variables that the files name, as a table or as JSON.
fn variables(raw: &RawProject, args: &ConfigArgs) -> Outcome<String> {
    match args.format.as_deref() {
        Some("json") => {
            let all: Map<String, Value> = raw
                .variables
                .iter()
                .map(|found| {
                    let value = json!({
                        "Name": found.name,
                        "DefaultValue": found.default,
                        "PresenceValue": found.alternate,
                        "Required": found.required,
                    });
                    (found.name.clone(), value)
                })
                .collect();
            Ok(layout::pretty(&Value::Object(all)) + "\n")
        }
        _ => {
            let mut out = format!("{:<20}{:<20}{:<20}ALTERNATE VALUE\n", "NAME", "REQUIRED", "DEFAULT VALUE");
            for found in &raw.variables {
                let line = format!("{:<20}{:<20}{:<20}{}", found.name, found.required, found.default, found.alternate);
                out += line.trim_end();
                out.push('\n');
            }
            Ok(out)
        }
    }
}

/// The merged files with their variables as they stand.
fn raw_text(mut raw: RawProject, args: &ConfigArgs) -> Outcome<String> {
    if let Some(services) = raw.model["services"].as_object_mut().filter(|_| !args.names.is_empty()) {
        if let Some(unknown) = args.names.iter().find(|name| !services.contains_key(*name)) {
            return Err(Failure::new(format!("no such service: {unknown}")));
        }
        services.retain(|name, _| args.names.contains(name));
    }
    match (args.format.as_deref(), &raw.model) {
        (None | Some("yaml"), Value::Object(model)) => Ok(sampan_compose::to_yaml(model)),
        (None | Some("yaml" | "json"), model) => Ok(layout::pretty(model) + "\n"),
        (Some(other), _) => Err(Failure::usage(format!("unsupported format {other:?}: use yaml or json"))),
    }
}

/// Gives every image the digest that its registry has now; where that cannot be asked, the one that it was pulled by.
pub async fn pin(client: &Client, config: &Path, model: &mut Project) -> Outcome {
    for (name, service) in &mut model.services {
        if service.image.is_empty() || service.image.contains("@sha256:") {
            continue;
        }
        service.image = match asked(client, config, &service.image).await {
            Ok(image) => image,
            Err(failure) => {
                let known = known(client, &service.image).await;
                let Some(image) = known else {
                    let why = failure.message;
                    return Err(Failure::new(format!("service {name}: no digest of {}: {why}", service.image)));
                };
                tell!("WARN: service {name}: {}; it is pinned to what was pulled last", failure.message);
                image
            }
        };
    }
    Ok(())
}

/// An image with the digest that its registry has now.
async fn asked(client: &Client, config: &Path, image: &str) -> Outcome<String> {
    let name = reference::tagged(image);
    let credentials = auth::ConfigFile::read(config)?.credentials(reference::registry(&name));
    let headers = [("x-registry-auth", auth::header(&credentials))];
    let path = format!("/distribution/{}/json", crate::client::escape(image));
    let found: Value = client.get_with_headers(&path, &headers).await?;
    let digest = found["Descriptor"]["digest"].as_str().unwrap_or_default();
    if !digest.starts_with("sha256:") {
        return Err(Failure::new("the daemon did not say which digest the registry has"));
    }
    let (repository, tag) = named(image);
    Ok(format!("{repository}:{tag}@{digest}"))
}

/// An image with the digest that it was pulled by, if it was.
async fn known(client: &Client, image: &str) -> Option<String> {
    let path = format!("/images/{}/json", crate::client::escape(image));
    let found: Value = client.get(&path).await.ok()?;
    let digests: Vec<&str> = found["RepoDigests"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    pinned(image, &digests)
}

/// An image with its domain and digest, of the digests that are known for it under any name.
fn pinned(image: &str, digests: &[&str]) -> Option<String> {
    let (repository, _) = named(image);
    let digest = digests.iter().find_map(|known| {
        let (name, digest) = known.split_once('@')?;
        (named(name).0 == repository).then_some(digest)
    })?;
    let (repository, tag) = named(image);
    Some(format!("{repository}:{tag}@{digest}"))
}

/// The whole name of a repository, and the tag.
fn named(image: &str) -> (String, &str) {
    let (name, tag) = match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
    };
    let whole = match name.split_once('/') {
        Some((domain, _)) if domain.contains(['.', ':']) || domain == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    };
    (whole, tag)
}

/// Keeps the services that were named, and what they need.
fn select(model: &mut Project, names: &[String]) -> Outcome {
    if names.is_empty() {
        return Ok(());
    }
    let mut wanted: Vec<String> = Vec::new();
    let mut waiting: Vec<String> = names.to_vec();
    while let Some(name) = waiting.pop() {
        if wanted.contains(&name) {
            continue;
        }
        if !model.activate(&name) {
            return Err(project::no_service(model, &name));
        }
        if let Some(service) = model.services.get(&name) {
            waiting.extend(service.depends_on.keys().cloned());
        }
        wanted.push(name);
    }
    model.services.retain(|name, _| wanted.contains(name));
    Ok(())
}

fn text(model: &Project, args: &ConfigArgs) -> Outcome<String> {
    let lines = |names: Vec<String>| names.into_iter().map(|name| name + "\n").collect::<String>();
    if args.services {
        return Ok(lines(model.services.keys().cloned().collect()));
    }
    if args.volumes {
        return Ok(lines(model.volume_names().into_iter().map(str::to_owned).collect()));
    }
    if args.networks {
        return Ok(lines(model.network_names().into_iter().map(str::to_owned).collect()));
    }
    if args.models {
        let used = model.used().models;
        let names = model.models.iter().filter(|(key, _)| used.contains(*key));
        return Ok(lines(names.map(|(_, found)| found.model.clone()).collect()));
    }
    if args.images {
        return Ok(lines(model.images()));
    }
    if args.lock_image_digests {
        let images = model.services.iter().filter(|(_, service)| !service.image.is_empty());
        let services: Map<String, Value> =
            images.map(|(name, service)| (name.clone(), json!({ "image": service.image }))).collect();
        let lock = Map::from_iter([("services".to_owned(), Value::Object(services))]);
        return match args.format.as_deref() {
            Some("json") => Ok(layout::pretty(&Value::Object(lock)) + "\n"),
            _ => Ok(sampan_compose::to_yaml(&lock)),
        };
    }
    if args.profiles {
        return Ok(lines(model.profile_names().into_iter().map(str::to_owned).collect()));
    }
    if let Some(which) = args.hash.as_deref() {
        let names: Vec<&str> =
            if which == "*" { model.services.keys().map(String::as_str).collect() } else { which.split(',').collect() };
        return names
            .into_iter()
            .map(|name| {
                let hash = model.config_hash(name).ok_or_else(|| project::no_service(model, name))?;
                Ok(format!("{name} {hash}\n"))
            })
            .collect();
    }
    match args.format.as_deref() {
        None | Some("yaml") => Ok(model.to_yaml()),
        Some("json") => {
            Ok(serde_json::to_string_pretty(&model.to_json()).unwrap_or_else(|_| json!(null).to_string()) + "\n")
        }
        Some(other) => Err(Failure::usage(format!("unsupported format {other:?}: use yaml or json"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts_of_a_project_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("compose.yaml");
        let yaml = "name: demo\nservices:\n  web:\n    image: a\n    depends_on: [db]\n  db:\n    image: b\n  other:\n    image: c\n";
        std::fs::write(&file, yaml).unwrap();
        let project = ProjectArgs { file: vec![file.display().to_string()], ..ProjectArgs::default() };
        let mut model = project::load_with(&project.options(), &project).unwrap().project;
        select(&mut model, &["web".to_owned()]).unwrap();
        let services = text(&model, &ConfigArgs { services: true, ..ConfigArgs::default() }).unwrap();
        assert_eq!(services, "db\nweb\n");
        let images = text(&model, &ConfigArgs { images: true, ..ConfigArgs::default() }).unwrap();
        assert_eq!(images, "b\na\n");
        assert!(text(&model, &ConfigArgs::default()).unwrap().starts_with("name: demo\n"));
        assert!(select(&mut model, &["nope".to_owned()]).is_err());
    }

    #[test]
    fn variables_are_told_and_stay_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("compose.yaml");
        std::fs::write(
            &file,
            "name: demo\nservices: {web: {image: 'x:${TAG:-1}', ports: ['${PORT?which}:80']}, b: {image: y}}\n",
        )
        .unwrap();
        let project = ProjectArgs { file: vec![file.display().to_string()], ..ProjectArgs::default() };
        let raw = sampan_compose::load_raw(&project.options(), &project.files()).unwrap();
        let told = variables(&raw, &ConfigArgs::default()).unwrap();
        let lines: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.get(1).unwrap(), &["TAG", "false", "1"]);
        assert_eq!(lines.get(2).unwrap(), &["PORT", "true"]);
        let json = ConfigArgs { format: Some("json".to_owned()), ..ConfigArgs::default() };
        let told: Value = serde_json::from_str(&variables(&raw, &json).unwrap()).unwrap();
        assert_eq!(told["PORT"]["Required"], true);
        assert_eq!(told["TAG"]["DefaultValue"], "1");
        let one = ConfigArgs { names: vec!["web".to_owned()], ..ConfigArgs::default() };
        let text = raw_text(raw.clone(), &one).unwrap();
        assert!(text.contains("image: x:${TAG:-1}") && text.contains("${PORT?which}:80"), "{text}");
        assert!(!text.contains("image: y"), "{text}");
        assert!(raw_text(raw, &ConfigArgs { names: vec!["z".to_owned()], ..ConfigArgs::default() }).is_err());
    }

    #[tokio::test]
    async fn images_are_pinned_to_what_their_registries_have_or_to_what_was_pulled() {
        let known = r#"{"RepoDigests": ["other/x@sha256:00", "x@sha256:ef"]}"#;
        let fake = crate::fake::Fake::start(move |path, _| match path {
            "GET /distribution/x/json" => crate::fake::Reply::Json(200, r#"{"Descriptor": {"digest": "sha256:ab"}}"#),
            path if path.contains("/distribution/") || path.contains("gone") => {
                crate::fake::Reply::Json(500, r#"{"message": "no way there"}"#)
            }
            _ => crate::fake::Reply::Json(200, known),
        });
        let config = tempfile::tempdir().unwrap();
        let pin = async |model: &mut Project| pin(&fake.client(), config.path(), model).await;
        let mut model = Project::default();
        for (name, image) in [("a", "x"), ("b", "docker.io/other/x:2"), ("c", "y@sha256:cd"), ("d", "")] {
            let service = sampan_compose::Service { image: image.to_owned(), ..Default::default() };
            model.services.insert(name.to_owned(), service);
        }
        pin(&mut model).await.unwrap();
        let lock = text(&model, &ConfigArgs { lock_image_digests: true, ..ConfigArgs::default() }).unwrap();
        let expected = "services:\n  a:\n    image: docker.io/library/x:latest@sha256:ab\n  b:\n    image: docker.io/other/x:2@sha256:00\n  c:\n    image: y@sha256:cd\n";
        assert_eq!(lock, expected);
        model.services.get_mut("a").unwrap().image = "gone".to_owned();
        let why = pin(&mut model).await.unwrap_err().message;
        assert!(why.contains("no digest of gone") && why.contains("no way there"), "{why}");
    }
}
