//! What the engine has of a project, as far as planning needs it.

use std::collections::BTreeMap;

use sampan_compose::Project;

/// A project's objects in the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Every network, by name.
    pub networks: BTreeMap<String, ObservedResource>,
    /// Every volume, by name.
    pub volumes: BTreeMap<String, ObservedResource>,
    /// The project's containers.
    pub containers: Vec<ObservedContainer>,
    /// Ids of the images that services run, by the name they ask for.
    pub images: BTreeMap<String, String>,
}

impl Observed {
    /// Ids of the images that a service's containers mount, if all are there.
    #[must_use]
    pub fn mounted(&self, project: &Project, service: &str) -> Option<String> {
        let names = project.mounted_images(service);
        let ids: Option<Vec<&str>> = names.iter().map(|name| self.images.get(name).map(String::as_str)).collect();
        ids.filter(|ids| !ids.is_empty()).map(|ids| ids.join(","))
    }

    /// Whether a container is of the images that its service names by now. One that is not there tells nothing.
    #[must_use]
    pub fn has_images(&self, project: &Project, service: &str, container: &ObservedContainer) -> bool {
        let own = self.images.get(&project.image_name(service));
        let mounted = self.mounted(project, service).zip(container.mounted.as_ref());
        own.is_none_or(|image| *image == container.image) && mounted.is_none_or(|(now, then)| now == *then)
    }
}

/// A network or a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedResource {
    /// The project whose label it carries.
    pub project: Option<String>,
    /// Its key in the project.
    pub key: Option<String>,
    /// Of what it was made from.
    pub hash: Option<String>,
    /// Of a network of the project that is outdated: names of the running containers in it that are not the project's.
    pub others: Vec<String>,
}

impl ObservedResource {
    /// Whether it was made from another definition than the one with this hash.
    #[must_use]
    pub fn is_outdated(&self, hash: impl FnOnce() -> String) -> bool {
        self.hash.as_ref().is_some_and(|known| *known != hash())
    }
}

/// A container of the project.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedContainer {
    /// Its id.
    pub id: String,
    /// Its name, without a slash.
    pub name: String,
    /// The service.
    pub service: String,
    /// Which of the service's, from 1.
    pub number: u32,
    /// Made by `run`: not the plan's business.
    pub oneoff: bool,
    /// Of what it was made from.
    pub hash: String,
    /// Of its parts, as [`crate::in_place`] writes them; empty when something else made it.
    pub parts: String,
    /// Id of its image.
    pub image: String,
    /// Ids of the images that it mounts, as [`Observed::mounted`] writes them.
    pub mounted: Option<String>,
    /// How it stands.
    pub status: Status,
    /// Names of the networks that it is in.
    pub networks: Vec<String>,
    /// When it was started last, by a clock that nobody sets; 0 when that is not known.
    pub started: u64,
    /// Its limits or restart policy were changed by hand.
    pub updated: bool,
    /// What its health check says; none while it does not know.
    pub well: Option<bool>,
    /// Ids of the containers whose namespaces it shares.
    pub bound: Vec<String>,
    /// Nanoseconds since the epoch of its last start and end.
    pub ran_ns: (u64, u64),
}

/// How a container stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Status {
    /// Never started.
    #[default]
    Created,
    /// Runs, or is about to by its restart policy.
    Running,
    /// Frozen by hand.
    Paused,
    /// Ended.
    Exited {
        /// 128 and more for a signal.
        code: i64,
        /// Stopped or killed by a user's request.
        by_hand: bool,
        /// Not the program's doing: the host was restarted, or the shim killed.
        lost: bool,
    },
    /// Left over by a removal that failed.
    Dead,
}

impl Status {
    /// Whether its processes are there.
    #[must_use]
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}
