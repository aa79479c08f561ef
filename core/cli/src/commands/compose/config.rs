//! `config`: the project as it is understood.

use sampan_compose::Project;
use serde_json::{Value, json};

use super::{ProjectArgs, project};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{json as layout, table};

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
    /// Print the network names, one per line
    #[arg(long)]
    pub networks: bool,
    /// Don't interpolate environment variables
    #[arg(long)]
    pub no_interpolate: bool,
    /// Don't normalize compose model (refused)
    #[arg(long, hide = true)]
    pub no_normalize: bool,
    /// Don't resolve file paths (refused)
    #[arg(long, hide = true)]
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
    /// Pin image tags to digests (refused)
    #[arg(long, hide = true)]
    pub resolve_image_digests: bool,
    /// Print the service names, one per line
    #[arg(long)]
    pub services: bool,
    /// Print the model that the daemon has stored
    #[arg(long)]
    pub stored: bool,
    /// Print the volume names, one per line
    #[arg(long)]
    pub volumes: bool,
    /// Services
    #[arg(value_name = "SERVICE")]
    pub names: Vec<String>,
}

/// `config`
pub async fn run(context: Context, mut args: ConfigArgs) -> Outcome {
    for (given, flag) in [
        (args.no_normalize, "--no-normalize"),
        (args.no_path_resolution, "--no-path-resolution"),
        (args.resolve_image_digests, "--resolve-image-digests"),
    ] {
        if given {
            return Err(Failure::new(format!("{flag} is not supported")));
        }
    }
    let options = context.project.clone().joined(std::mem::take(&mut args.project));
    if args.stored {
        let chosen = project::find(&context.client, &options).await?;
        let path = format!("/sampan/v1/stacks/{}/config", crate::client::escape(&chosen.name));
        let stored: Value = context.client.get(&path).await?;
        return table::write_all(&(layout::pretty(&stored) + "\n"));
    }
    let mut load = options.options();
    load.interpolate = !args.no_interpolate;
    if args.environment {
        return table::write_all(&load.env.iter().map(|(name, value)| format!("{name}={value}\n")).collect::<String>());
    }
    let loaded = project::load_with(&load)?;
    let mut model = loaded.project;
    select(&mut model, &args.names)?;
    let out = text(&model, &args)?;
    if args.quiet {
        return Ok(());
    }
    match &args.output {
        Some(path) => {
            std::fs::write(path, out).map_err(|error| Failure::new(format!("write {}: {error}", path.display())))
        }
        None => table::write_all(&out),
    }
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
            return Err(Failure::new(format!("no such service: {name}")));
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
        return Ok(lines(model.volumes.keys().cloned().collect()));
    }
    if args.networks {
        return Ok(lines(model.networks.keys().cloned().collect()));
    }
    if args.images {
        return Ok(lines(model.services.keys().map(|name| model.image_name(name)).collect()));
    }
    if args.profiles {
        let mut names: Vec<String> = model
            .services
            .values()
            .chain(model.inactive.values())
            .flat_map(|service| service.profiles.clone())
            .collect();
        names.sort_unstable();
        names.dedup();
        return Ok(lines(names));
    }
    if let Some(which) = args.hash.as_deref() {
        let names: Vec<&str> =
            if which == "*" { model.services.keys().map(String::as_str).collect() } else { which.split(',').collect() };
        return names
            .into_iter()
            .map(|name| {
                let hash = model.config_hash(name).ok_or_else(|| Failure::new(format!("no such service: {name}")))?;
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
        let mut model = project::load_with(&project.options()).unwrap().project;
        select(&mut model, &["web".to_owned()]).unwrap();
        let services = text(&model, &ConfigArgs { services: true, ..ConfigArgs::default() }).unwrap();
        assert_eq!(services, "db\nweb\n");
        let images = text(&model, &ConfigArgs { images: true, ..ConfigArgs::default() }).unwrap();
        assert_eq!(images, "b\na\n");
        assert!(text(&model, &ConfigArgs::default()).unwrap().starts_with("name: demo\n"));
        assert!(select(&mut model, &["nope".to_owned()]).is_err());
    }
}
