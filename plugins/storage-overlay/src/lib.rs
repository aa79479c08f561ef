//! Layers as directories below `layers/`, containers below `containers/`, joined by overlayfs.

use sampan_driver_sdk::layer::{
    ChangeView, Directory, Failure, Guest, HostFacts, Mount, Place, Prepared, Step, Whiteouts,
};

struct Overlay;

fn directory(path: String) -> Step {
    Step::Directory(Directory { at: Place::Tree(path), mode: 0o755, uid: 0, gid: 0 })
}

/// Ids are long and the kernel's mount options short; 32 digits of a digest are as unique.
fn short(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..32).unwrap_or(id)
}

fn layer(id: &str) -> Place {
    Place::Tree(format!("layers/{}", short(id)))
}

fn container(id: &str, part: &str) -> String {
    format!("containers/{}/{part}", short(id))
}

impl Guest for Overlay {
    fn style(host: HostFacts) -> Result<Whiteouts, Failure> {
        if host.features.iter().any(|feature| feature == "overlay") {
            Ok(Whiteouts::Overlay)
        } else {
            Err(Failure::Unsupported(format!(
                "the kernel {} has no overlayfs on {}; use the storage driver vfs",
                host.kernel, host.data_root_fs
            )))
        }
    }

    fn prepare(_: HostFacts, id: String, _: Vec<String>) -> Result<Prepared, Failure> {
        Ok(Prepared {
            plan: vec![directory("layers".into()), directory(format!("layers/{}", short(&id)))],
            root: layer(&id),
        })
    }

    fn mount(_: HostFacts, id: String, parents: Vec<String>) -> Result<Prepared, Failure> {
        let (upper, work) = (container(&id, "upper"), container(&id, "work"));
        let mut plan = vec![
            directory("containers".into()),
            directory(format!("containers/{}", short(&id))),
            directory(upper.clone()),
            directory(work.clone()),
        ];
        let mut places: Vec<(String, Place)> =
            parents.iter().map(|parent| ("lowerdir".to_owned(), layer(parent))).collect();
        if places.is_empty() {
            // An image without layers still needs something below.
            plan.push(directory("empty".into()));
            places.push(("lowerdir".to_owned(), Place::Tree("empty".into())));
        }
        places.push(("upperdir".to_owned(), Place::Tree(upper)));
        places.push(("workdir".to_owned(), Place::Tree(work)));
        plan.push(Step::Mount(Mount {
            fstype: "overlay".into(),
            source: None,
            target: Place::Given(0),
            options: Vec::new(),
            places,
        }));
        Ok(Prepared { plan, root: Place::Given(0) })
    }

    fn changes(id: String, _: Vec<String>) -> Result<ChangeView, Failure> {
        Ok(ChangeView::Upper(Place::Tree(container(&id, "upper"))))
    }

    fn remove_layer(id: String) -> Result<Vec<Step>, Failure> {
        Ok(vec![Step::Remove(layer(&id))])
    }

    fn remove_container(id: String) -> Result<Vec<Step>, Failure> {
        Ok(vec![Step::Remove(Place::Tree(format!("containers/{}", short(&id))))])
    }
}

sampan_driver_sdk::layer::export!(Overlay with_types_in sampan_driver_sdk::layer::bindings);
