//! Questions a project answers: names, order, what is used.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{MountType, Project, Service};

/// Keys of the resources that the services of a project need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    pub networks: BTreeSet<String>,
    pub volumes: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
    pub configs: BTreeSet<String>,
    pub models: BTreeSet<String>,
}

impl Project {
    /// A service, active or not.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.get(name).or_else(|| self.inactive.get(name))
    }

    /// The image a service runs: its `image`, or `PROJECT-SERVICE` when it is built without one.
    #[must_use]
    pub fn image_name(&self, service: &str) -> String {
        match self.service(service) {
            Some(found) if !found.image.is_empty() => found.image.clone(),
            _ => format!("{}{}{service}", self.name, self.separator()),
        }
    }

    /// What stands between the parts of the names of containers and images.
    #[must_use]
    pub fn separator(&self) -> char {
        if self.compatibility { '_' } else { '-' }
    }

    /// The image behind a mount of type image: what a service of that name builds, or an image of that name.
    #[must_use]
    pub fn mounted_image(&self, source: &str) -> String {
        match self.service(source) {
            Some(found) if found.build.is_some() => self.image_name(source),
            _ => source.to_owned(),
        }
    }

    /// The images that a service mounts, in the order of its mounts.
    #[must_use]
    pub fn mounted_images(&self, service: &str) -> Vec<String> {
        let mounts = self.service(service).into_iter().flat_map(|service| &service.volumes);
        mounts.filter(|mount| mount.kind == MountType::Image).map(|mount| self.mounted_image(&mount.source)).collect()
    }

    /// What the active services use; only this is created.
    #[must_use]
    pub fn used(&self) -> Used {
        let mut used = Used::default();
        if self.all_resources {
            used.networks.extend(self.networks.keys().cloned());
            used.volumes.extend(self.volumes.keys().cloned());
            used.secrets.extend(self.secrets.keys().cloned());
            used.configs.extend(self.configs.keys().cloned());
            used.models.extend(self.models.keys().cloned());
        }
        for service in self.services.values() {
            used.networks.extend(service.networks.keys().cloned());
            let named =
                service.volumes.iter().filter(|mount| mount.kind == MountType::Volume && !mount.source.is_empty());
            used.volumes.extend(named.map(|mount| mount.source.clone()));
            used.models.extend(service.models.keys().cloned());
            used.secrets.extend(service.secrets.iter().map(|reference| reference.source.clone()));
            used.configs.extend(service.configs.iter().map(|reference| reference.source.clone()));
            if let Some(build) = &service.build {
                used.secrets.extend(build.secrets.iter().map(|reference| reference.source.clone()));
            }
        }
        used
    }

    /// Makes an inactive service active, with the services it requires: it was named on the command line. False when
    /// there is no such service.
    pub fn activate(&mut self, name: &str) -> bool {
        if self.services.contains_key(name) {
            return true;
        }
        let Some(service) = self.inactive.remove(name) else { return false };
        let needed: Vec<String> = service
            .depends_on
            .iter()
            .filter(|(_, dependency)| dependency.required)
            .map(|(name, _)| name.clone())
            .collect();
        self.services.insert(name.to_owned(), service);
        for name in needed {
            self.activate(&name);
        }
        true
    }

    /// Services in the order in which they start: dependencies first, names decide among equals.
    #[must_use]
    pub fn start_order(&self) -> Vec<&str> {
        self.start_levels().into_iter().flatten().collect()
    }

    /// Services in groups: each group depends on earlier ones alone. A circle, which loading refuses, comes last.
    #[must_use]
    pub fn start_levels(&self) -> Vec<Vec<&str>> {
        let mut needs: BTreeMap<&str, usize> = BTreeMap::new();
        let mut needed_by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, service) in &self.services {
            let active = service.depends_on.keys().filter(|need| self.services.contains_key(*need));
            needs.insert(name, active.clone().count());
            active.for_each(|need| needed_by.entry(need).or_default().push(name));
        }
        let mut levels = Vec::new();
        let mut ready: Vec<&str> = needs.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
        while !ready.is_empty() {
            let mut next = Vec::new();
            for name in &ready {
                needs.remove(name);
                for dependent in needed_by.get(name).into_iter().flatten() {
                    if let Some(count) = needs.get_mut(dependent) {
                        *count -= 1;
                        if *count == 0 {
                            next.push(*dependent);
                        }
                    }
                }
            }
            next.sort_unstable();
            levels.push(std::mem::replace(&mut ready, next));
        }
        if !needs.is_empty() {
            levels.push(needs.into_keys().collect());
        }
        levels
    }

    /// Active services that depend on a service directly.
    #[must_use]
    pub fn dependents(&self, name: &str) -> Vec<&str> {
        let depends = |service: &Service| service.depends_on.contains_key(name);
        self.services.iter().filter(|(_, service)| depends(service)).map(|(name, _)| name.as_str()).collect()
    }

    /// Names of the active services, as `config --services` lists them.
    #[must_use]
    pub fn service_names(&self) -> Vec<&str> {
        self.services.keys().map(String::as_str).collect()
    }

    /// Keys of the volumes in use, as `config --volumes` lists them.
    #[must_use]
    pub fn volume_names(&self) -> Vec<&str> {
        let used = self.used();
        self.volumes.keys().filter(|key| used.volumes.contains(*key)).map(String::as_str).collect()
    }

    /// Keys of the networks in use, as `config --networks` lists them.
    #[must_use]
    pub fn network_names(&self) -> Vec<&str> {
        let used = self.used();
        self.networks.keys().filter(|key| used.networks.contains(*key)).map(String::as_str).collect()
    }

    /// Images of the active services, as `config --images` lists them.
    #[must_use]
    pub fn images(&self) -> Vec<String> {
        self.services.keys().map(|name| self.image_name(name)).collect()
    }

    /// Profiles that any service names, as `config --profiles` lists them.
    #[must_use]
    pub fn profile_names(&self) -> Vec<&str> {
        let all = self.services.values().chain(self.inactive.values());
        let names: BTreeSet<&str> = all.flat_map(|service| service.profiles.iter().map(String::as_str)).collect();
        names.into_iter().collect()
    }
}
