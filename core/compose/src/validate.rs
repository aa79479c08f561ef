//! What must hold between the parts of a project.

use std::collections::{BTreeMap, BTreeSet};

use crate::decode::Cx;
use crate::model::{Bytes, Condition, MountType, Project, Service};
use crate::node::At;
use crate::normalize::{shared, volumes_source};
use crate::suggest::nearest;

/// Reports everything that does not fit together.
pub(crate) fn validate(cx: &mut Cx<'_, '_>, project: &Project) {
    if project.services.is_empty() && project.inactive.is_empty() {
        // Nothing to run, yet something to look at.
        if !cx.session.whole_specification {
            cx.session.plain_error(crate::Diagnostic::error("there are no services"));
        }
        return;
    }
    let all: BTreeMap<&str, &Service> =
        project.services.iter().chain(&project.inactive).map(|(name, service)| (name.as_str(), service)).collect();
    let check = &mut Check { cx, project, all: &all };
    for (name, service) in &all {
        check.image(name, service);
        check.references(name, service);
        check.services(name, service);
        check.networking(name, service);
        check.twice(name, service);
        check.targets(name, service);
    }
    check.container_names();
    check.inactive_dependencies();
    check.hopeless_waits();
    check.circles();
}

struct Check<'c, 's, 'a> {
    cx: &'c mut Cx<'s, 'a>,
    project: &'c Project,
    all: &'c BTreeMap<&'c str, &'c Service>,
}

impl Check<'_, '_, '_> {
    /// Reports at `services.SERVICE.TAIL`, or around it.
    fn error(&mut self, service: &str, tail: &str, message: String) {
        let at = self.cx.places.find(&format!("services.{service}.{tail}"));
        self.cx.session.error(at, message);
    }

    fn unknown<'k>(&mut self, at: At, service: &str, what: &str, name: &str, known: impl Iterator<Item = &'k str>) {
        let message = format!("service `{service}` refers to the {what} `{name}`, which is not defined");
        match nearest(name, known) {
            Some(meant) => self.cx.session.error_help(at, message, format!("did you mean `{meant}`?")),
            None if what == "service" => self.cx.session.error(at, message),
            None => {
                self.cx.session.error_help(at, message, format!("add `{name}:` under the top-level `{what}s:`"));
            }
        }
    }

    fn place(&self, service: &str, tail: &str) -> At {
        self.cx.places.find(&format!("services.{service}.{tail}"))
    }

    fn image(&mut self, name: &str, service: &Service) {
        if service.image.is_empty() && service.build.is_none() && service.provider.is_none() {
            let at = self.cx.places.find(&format!("services.{name}"));
            let message = format!("service `{name}` has neither `image` nor `build`");
            self.cx.session.error_help(at, message, "name an image to run, or a directory to build it from");
        }
    }

    fn references(&mut self, name: &str, service: &Service) {
        let project = self.project;
        for key in service.networks.keys().filter(|key| !project.networks.contains_key(*key)) {
            let at = self.place(name, &format!("networks.{key}"));
            self.unknown(at, name, "network", key, project.networks.keys().map(String::as_str));
        }
        for mount in service.volumes.iter().filter(|mount| mount.kind == MountType::Volume && !mount.source.is_empty())
        {
            if !project.volumes.contains_key(&mount.source) {
                let list = format!("services.{name}.volumes");
                let at = self.cx.places.find_item(&list, &format!("{}:", mount.source));
                self.unknown(at, name, "volume", &mount.source, project.volumes.keys().map(String::as_str));
            }
        }
        self.external(name, service);
        for reference in service.configs.iter().filter(|reference| !project.configs.contains_key(&reference.source)) {
            let at = self.place(name, &format!("configs.{}", reference.source));
            self.unknown(at, name, "config", &reference.source, project.configs.keys().map(String::as_str));
        }
        for key in service.models.keys().filter(|key| !project.models.contains_key(*key)) {
            let at = self.place(name, &format!("models.{key}"));
            self.unknown(at, name, "model", key, project.models.keys().map(String::as_str));
        }
        let of_build = service.build.iter().flat_map(|build| &build.secrets).map(|secret| ("build.secrets", secret));
        for (list, reference) in service.secrets.iter().map(|secret| ("secrets", secret)).chain(of_build) {
            if !project.secrets.contains_key(&reference.source) {
                let at = self.place(name, &format!("{list}.{}", reference.source));
                self.unknown(at, name, "secret", &reference.source, project.secrets.keys().map(String::as_str));
            }
        }
    }

    /// Configs and secrets that only a cluster keeps.
    fn external(&mut self, name: &str, service: &Service) {
        let project = self.project;
        let configs = service.configs.iter().map(|reference| {
            ("config", reference, project.configs.get(&reference.source).is_some_and(|found| found.external))
        });
        let secrets = service.secrets.iter().map(|reference| {
            ("secret", reference, project.secrets.get(&reference.source).is_some_and(|found| found.external))
        });
        for (kind, reference, _) in configs.chain(secrets).filter(|(.., external)| *external) {
            let at = self.place(name, &format!("{kind}s.{}", reference.source));
            let why = "only a cluster keeps such; give it by file, environment or content";
            self.cx.session.unsupported(at, format!("the {kind} `{}` is external: {why}", reference.source));
        }
    }

    /// Names of other services.
    fn services(&mut self, name: &str, service: &Service) {
        let mut named: Vec<(String, &str)> = Vec::new();
        for (key, mode) in [("network_mode", &service.network_mode), ("ipc", &service.ipc), ("pid", &service.pid)] {
            named.extend(shared(mode).map(|other| (key.to_owned(), other)));
        }
        named.extend(
            service
                .volumes_from
                .iter()
                .filter_map(|entry| Some((format!("volumes_from.{entry}"), volumes_source(entry)?))),
        );
        let provided = |name: &str| self.all.get(name).is_some_and(|service| service.provider.is_some());
        let without_container: Vec<(String, String)> = named
            .iter()
            .filter(|(_, other)| provided(other))
            .map(|(tail, other)| (tail.clone(), (*other).to_owned()))
            .collect();
        for (tail, other) in without_container {
            self.error(name, &tail, format!("service `{other}` is provided by a program and has no container"));
        }
        named
            .extend(service.links.iter().map(|link| (format!("links.{link}"), link.split(':').next().unwrap_or(link))));
        let contexts = service.build.iter().flat_map(|build| build.additional_contexts.iter());
        named.extend(
            contexts.filter_map(|(key, value)| Some((format!("build.additional_contexts.{key}"), shared(value)?))),
        );
        let implied: BTreeSet<&str> = named.iter().map(|(_, other)| *other).collect();
        let depends = service.depends_on.keys().filter(|other| !implied.contains(other.as_str()));
        named.extend(depends.map(|other| (format!("depends_on.{other}"), other.as_str())));
        for (tail, other) in named {
            if !self.all.contains_key(other) {
                let known: Vec<&str> = self.all.keys().copied().filter(|known| *known != name).collect();
                let at = self.place(name, &tail);
                self.unknown(at, name, "service", other, known.into_iter());
            } else if other == name {
                self.error(name, &tail, format!("service `{name}` depends on itself"));
            }
        }
    }

    fn networking(&mut self, name: &str, service: &Service) {
        let mode = service.network_mode.as_str();
        if mode.is_empty() {
            return;
        }
        if !service.networks.is_empty() {
            let message = format!("service `{name}` has both `network_mode` and `networks`; they exclude each other");
            self.error(name, "network_mode", message);
        }
        if service.ports.is_empty() {
            return;
        }
        if mode.starts_with("service:") || mode.starts_with("container:") {
            let message = format!("service `{name}` shares another's network; its `ports` belong there");
            self.error(name, "ports", message);
        } else if mode == "host" || mode == "none" {
            let at = self.cx.places.find(&format!("services.{name}.ports"));
            let message = format!("`ports` of service `{name}` have no effect with network_mode {mode}");
            self.cx.session.warning(at, message);
        }
    }

    /// Things that can be said in two places and must not differ.
    fn twice(&mut self, name: &str, service: &Service) {
        let Some(deploy) = &service.deploy else { return };
        let limits = deploy.resources.limits.clone().unwrap_or_default();
        let reservations = deploy.resources.reservations.clone().unwrap_or_default();
        let text = |bytes: Option<Bytes>| bytes.map(|bytes| bytes.0.to_string());
        let pairs = [
            ("scale", "deploy.replicas", service.scale.map(|n| n.to_string()), deploy.replicas.map(|n| n.to_string())),
            (
                "cpus",
                "deploy.resources.limits.cpus",
                service.cpus.map(|n| n.to_string()),
                limits.cpus.map(|n| n.to_string()),
            ),
            ("mem_limit", "deploy.resources.limits.memory", text(service.mem_limit), text(limits.memory)),
            (
                "mem_reservation",
                "deploy.resources.reservations.memory",
                text(service.mem_reservation),
                text(reservations.memory),
            ),
            (
                "pids_limit",
                "deploy.resources.limits.pids",
                service.pids_limit.map(|n| n.to_string()),
                limits.pids.map(|n| n.to_string()),
            ),
        ];
        for (one, other, first, second) in pairs {
            if let (Some(first), Some(second)) = (first, second)
                && first != second
            {
                let message = format!("service `{name}` sets `{one}` to {first} and `{other}` to {second}");
                self.error(name, one, message);
            }
        }
    }

    /// Temporary file systems where something else is mounted.
    fn targets(&mut self, name: &str, service: &Service) {
        let mut taken: BTreeSet<&str> = service.volumes.iter().map(|mount| mount.target.as_str()).collect();
        for entry in &service.tmpfs {
            let path = entry.split(':').next().unwrap_or(entry);
            let plain = path.trim_end_matches('/');
            if !taken.insert(if plain.is_empty() { path } else { plain }) {
                let message = format!("service `{name}` mounts two things at {path}");
                self.error(name, &format!("tmpfs.{entry}"), message);
            }
        }
    }

    fn container_names(&mut self) {
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, service) in self.all {
            if service.container_name.is_empty() {
                continue;
            }
            if service.replicas() > 1 {
                let message = format!(
                    "service `{name}` has a `container_name` and {} replicas; names are unique",
                    service.replicas()
                );
                self.error(name, "container_name", message);
            }
            if let Some(other) = seen.insert(&service.container_name, name) {
                let message = format!(
                    "services `{other}` and `{name}` have the same `container_name` {}",
                    service.container_name
                );
                self.error(name, "container_name", message);
            }
        }
    }

    fn inactive_dependencies(&mut self) {
        for (name, service) in &self.project.services {
            for (other, dependency) in &service.depends_on {
                if let Some(found) = self.project.inactive.get(other).filter(|_| dependency.required) {
                    let message = format!("service `{name}` needs `{other}`, which no chosen profile enables");
                    let at = self.cx.places.find(&format!("services.{name}.depends_on.{other}"));
                    let help = format!("choose one of its profiles: {}", found.profiles.join(", "));
                    self.cx.session.error_help(at, message, help);
                }
            }
        }
    }

    /// A check that is switched off never says healthy.
    fn hopeless_waits(&mut self) {
        for (name, service) in self.all {
            for (other, dependency) in &service.depends_on {
                let check = self.all.get(other.as_str()).and_then(|found| found.healthcheck.as_ref());
                let off =
                    check.is_some_and(|check| check.disable || check.test.first().is_some_and(|word| word == "NONE"));
                if off && dependency.condition == Condition::Healthy {
                    let at = self.place(name, &format!("depends_on.{other}"));
                    let message =
                        format!("service `{name}` waits for `{other}` to be healthy, whose check is disabled");
                    self.cx.session.warning(at, message);
                }
            }
        }
    }

    /// Reports each circle of dependencies once.
    fn circles(&mut self) {
        let mut done: BTreeSet<&str> = BTreeSet::new();
        for start in self.all.keys().copied() {
            if done.contains(start) {
                continue;
            }
            if let Some(circle) = self.circle(start, &mut done) {
                let first = circle.first().copied().unwrap_or(start);
                let second = circle.get(1).copied().unwrap_or(first);
                // One that depends on itself was reported with its key.
                if first != second {
                    let message = format!("services depend on each other in a circle: {}", circle.join(" → "));
                    self.error(first, &format!("depends_on.{second}"), message);
                }
            }
        }
    }

    /// Walks the dependencies below a service, without recursion: chains may be long.
    fn circle<'n>(&self, start: &'n str, done: &mut BTreeSet<&'n str>) -> Option<Vec<&'n str>>
    where
        Self: 'n,
    {
        let needs = |name: &str| -> Vec<&'n str> {
            let service = self.all.get(name);
            let names = service.into_iter().flat_map(|service| service.depends_on.keys());
            names.filter_map(|need| self.all.get_key_value(need.as_str()).map(|(name, _)| *name)).collect()
        };
        let mut path: Vec<(&str, Vec<&str>)> = vec![(start, needs(start))];
        let mut circle = None;
        while let Some((name, left)) = path.last_mut() {
            match left.pop() {
                None => {
                    done.insert(name);
                    path.pop();
                }
                Some(next) => {
                    if let Some(index) = path.iter().position(|(name, _)| *name == next) {
                        let mut found: Vec<&str> =
                            path.get(index..).unwrap_or_default().iter().map(|(name, _)| *name).collect();
                        found.push(next);
                        circle.get_or_insert(found);
                    } else if !done.contains(next) {
                        path.push((next, needs(next)));
                    }
                }
            }
        }
        circle
    }
}
