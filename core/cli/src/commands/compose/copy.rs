//! `compose cp`.

use super::project;
use crate::commands::container::copy;
use crate::context::Context;
use crate::failure::{Failure, Outcome};

/// Options of `compose cp`.
#[derive(Debug, clap::Args)]
pub struct CopyArgs {
    /// Include containers created by the run command
    #[arg(long)]
    pub all: bool,
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    pub archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "int", default_value_t = 0)]
    pub index: u32,
    /// Source
    #[arg(allow_hyphen_values = true)]
    pub source: String,
    /// Destination
    #[arg(allow_hyphen_values = true)]
    pub destination: String,
}

/// `service` and `path` of `service:path`; nothing for a path here.
fn of_service(side: &str) -> Option<(&str, &str)> {
    let (service, path) = side.split_once(':')?;
    (!side.starts_with(['/', '.']) && !service.is_empty() && !service.contains('/')).then_some((service, path))
}

/// `compose cp`: from the first container of a service, or into all of them; with `--index`, that one.
pub async fn copy(context: Context, args: CopyArgs) -> Outcome {
    context.no_dry_run("cp", "it would have to copy the files")?;
    let (service, into) = match (of_service(&args.source), of_service(&args.destination)) {
        (Some(_), Some(_)) => return Err(Failure::new("copying between services is not supported")),
        (Some((service, _)), None) => (service, false),
        (None, Some((service, _))) => (service, true),
        (None, None) => return Err(Failure::new("name a service: SERVICE:PATH on one side")),
    };
    let service = service.to_owned();
    let chosen = project::of_services(&context, std::slice::from_ref(&service)).await?;
    let containers = match into && args.index == 0 && args.source != "-" {
        true => {
            let services = std::slice::from_ref(&service);
            let found = project::containers(&context.client, &chosen.name, services, true, args.all).await?;
            if found.is_empty() {
                return Err(Failure::new(format!("service \"{service}\" has no container")));
            }
            found
        }
        false => vec![project::any_container_of(&context.client, &chosen.name, &service, args.index).await?],
    };
    for container in &containers {
        let name = project::name(container);
        let side = |side: &str| match of_service(side) {
            Some((_, path)) => format!("{name}:{path}"),
            None => side.to_owned(),
        };
        let copy = copy::CopyArgs {
            archive: args.archive,
            follow_link: args.follow_link,
            quiet: false,
            source: side(&args.source),
            destination: side(&args.destination),
        };
        copy::run(context.clone(), copy).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        assert_eq!(of_service("web:/etc"), Some(("web", "/etc")));
        for here in ["./a:b", "/a:b", "a/b:c", "-", "file", ":x"] {
            assert_eq!(of_service(here), None, "{here}");
        }
    }
}
