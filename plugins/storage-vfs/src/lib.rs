//! Full copies: slow and large, but they need nothing of the kernel or the file system.

use sampan_driver_sdk::layer::{
    ChangeView, Directory, Failure, Guest, HostFacts, Mount, Place, Prepared, Step, Whiteouts,
};

struct Vfs;

fn place(kind: &str, id: &str) -> Place {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    Place::Tree(format!("{kind}/{}", id.get(..32).unwrap_or(id)))
}

fn directory(at: Place) -> Step {
    Step::Directory(Directory { at, mode: 0o755, uid: 0, gid: 0 })
}

/// A directory that begins as a copy of the nearest parent.
fn copied(kind: &str, id: &str, parents: &[String]) -> Vec<Step> {
    let mut plan = vec![directory(Place::Tree(kind.to_owned())), directory(place(kind, id))];
    if let Some(parent) = parents.first() {
        plan.push(Step::Copy((place("layers", parent), place(kind, id))));
    }
    plan
}

impl Guest for Vfs {
    fn style(_: HostFacts) -> Result<Whiteouts, Failure> {
        Ok(Whiteouts::Remove)
    }

    fn prepare(_: HostFacts, id: String, parents: Vec<String>) -> Result<Prepared, Failure> {
        Ok(Prepared { plan: copied("layers", &id, &parents), root: place("layers", &id) })
    }

    fn mount(_: HostFacts, id: String, parents: Vec<String>) -> Result<Prepared, Failure> {
        let mut plan = copied("containers", &id, &parents);
        plan.push(Step::Mount(Mount {
            fstype: "bind".into(),
            source: Some(place("containers", &id)),
            target: Place::Given(0),
            options: Vec::new(),
            places: Vec::new(),
        }));
        Ok(Prepared { plan, root: Place::Given(0) })
    }

    fn changes(id: String, parents: Vec<String>) -> Result<ChangeView, Failure> {
        let before = parents.first().map_or_else(|| Place::Tree("empty".into()), |parent| place("layers", parent));
        Ok(ChangeView::Compare((before, place("containers", &id))))
    }

    fn remove_layer(id: String) -> Result<Vec<Step>, Failure> {
        Ok(vec![Step::Remove(place("layers", &id))])
    }

    fn remove_container(id: String) -> Result<Vec<Step>, Failure> {
        Ok(vec![Step::Remove(place("containers", &id))])
    }
}

sampan_driver_sdk::layer::export!(Vfs with_types_in sampan_driver_sdk::layer::bindings);
