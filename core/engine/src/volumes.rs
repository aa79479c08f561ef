//! Volumes, as their drivers decide.
//!
//! A record is the intent: it is written as `making` before the driver's plan is carried out and as `there` after it, and
//! as `going` before a removal. What a dead daemon left in between is undone when the next one opens.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bollard_stubs::models::{
    EventMessageTypeEnum, Volume, VolumeCreateRequest, VolumeListResponse, VolumePruneResponse, VolumeScopeEnum,
    VolumeUsageData,
};
use sampan_drivers::{HostFacts, Kind, Object, VolumeDriver};
use sampan_storage::{Handles, Rules};
use sampan_store::{Collection, Durability, StoreError};
use serde::{Deserialize, Serialize};

use crate::containers::new_id;
use crate::error::{Error, Result};
use crate::filters::Filters;
use crate::layers::{carry_out, own_tree, place};
use crate::{Engine, Shared, blocking, events};

const VOLUMES: Collection<Record> = Collection::new("volumes");
/// Docker's mark of volumes that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";
const DEFAULT_DRIVER: &str = "local";

/// How a volume stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Stage {
    Making,
    There,
    Going,
}

/// A volume as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    name: String,
    driver: String,
    options: BTreeMap<String, String>,
    labels: HashMap<String, String>,
    /// Nanoseconds since the epoch.
    created_ns: u64,
    stage: Stage,
    /// Where containers see it from.
    at: PathBuf,
    /// Containers that refer to it.
    users: BTreeSet<String>,
    /// Containers that it is mounted for.
    mounted: BTreeSet<String>,
}

impl Record {
    fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS)
    }

    fn object(&self) -> Object {
        Object { id: self.name.clone(), name: self.name.clone() }
    }

    fn given(&self) -> Vec<(String, String)> {
        self.options.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn rules(&self) -> Rules<'_> {
        Rules { given: 0, device: self.options.get("device").map(String::as_str), remote: true }
    }

    fn volume(&self) -> Volume {
        let created = i64::try_from(self.created_ns / 1_000_000_000 * 1_000_000_000).unwrap_or(0);
        Volume {
            name: self.name.clone(),
            driver: self.driver.clone(),
            mountpoint: self.at.to_string_lossy().into_owned(),
            created_at: Some(sampan_image::timestamp::format(created)),
            labels: self.labels.clone(),
            options: self.options.clone().into_iter().collect(),
            scope: Some(VolumeScopeEnum::LOCAL),
            ..Volume::default()
        }
    }
}

/// The volumes of an engine. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Volumes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    facts: HostFacts,
    /// What the store holds; this process alone changes it.
    records: Mutex<BTreeMap<String, Record>>,
    /// One slow operation at a time for each volume.
    locks: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
struct Wanted {
    name: Option<String>,
    driver: Option<String>,
    options: HashMap<String, String>,
    labels: HashMap<String, String>,
    container: Option<String>,
}

impl Volumes {
    pub(crate) fn open(shared: &Arc<Shared>) -> Result<Self> {
        let records = shared.store.read(|tx| VOLUMES.all(tx))?.into_iter().collect();
        let facts = HostFacts::from(&shared.facts);
        let inner = Inner { shared: Arc::clone(shared), facts, records: Mutex::new(records), locks: Mutex::default() };
        inner.settle();
        Ok(Self { inner: Arc::new(inner) })
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        blocking(move || work(&inner)).await
    }

    /// Makes sure that a volume is there, notes that a container refers to it, and returns its name. Without a name an
    /// anonymous one is made. An existing volume keeps its driver and options; another driver asked for is a conflict.
    pub(crate) async fn ensure(
        &self,
        name: Option<&str>,
        driver: Option<&str>,
        options: HashMap<String, String>,
        labels: HashMap<String, String>,
        container: &str,
    ) -> Result<String> {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let wanted = Wanted {
            name: name.and_then(text),
            driver: driver.and_then(text),
            options,
            labels,
            container: Some(container.to_owned()),
        };
        self.run(move |inner| inner.ensure(wanted).map(|record| record.name)).await
    }

    /// Before a container starts: the directory that it shall see.
    pub(crate) async fn mount(&self, name: &str, container: &str) -> Result<PathBuf> {
        let (name, container) = (name.to_owned(), container.to_owned());
        self.run(move |inner| inner.mount(&name, &container)).await
    }

    /// After a container has ended.
    pub(crate) async fn unmount(&self, name: &str, container: &str) -> Result<()> {
        let (name, container) = (name.to_owned(), container.to_owned());
        self.run(move |inner| inner.unmount(&name, &container)).await
    }

    /// When a container is removed: it no longer refers to any volume. With `remove_anonymous`, its anonymous volumes go
    /// when no other container refers to them.
    pub(crate) async fn release(&self, container: &str, remove_anonymous: bool) -> Result<()> {
        let container = container.to_owned();
        self.run(move |inner| inner.release(&container, remove_anonymous)).await
    }

    /// After a restart of the daemon: takes off what is mounted for containers that do not live, and forgets
    /// references of containers that are gone.
    pub(crate) async fn clean(&self, known: HashSet<String>, live: HashSet<String>) -> Result<()> {
        self.run(move |inner| inner.clean(&known, &live)).await
    }

    /// The names of volumes by their driver.
    pub(crate) fn by_driver(&self) -> HashMap<String, Vec<String>> {
        let mut found: HashMap<String, Vec<String>> = HashMap::new();
        for record in lock(&self.inner.records).values() {
            found.entry(record.driver.clone()).or_default().push(format!("volume {}", record.name));
        }
        found
    }

    /// Every volume with its size, for `system df`.
    pub(crate) async fn usage(&self) -> Result<Vec<Volume>> {
        self.run(|inner| {
            let records: Vec<Record> = lock(&inner.records).values().cloned().collect();
            let with_size = |record: &Record| {
                let size = if record.driver == DEFAULT_DRIVER { size_of(&record.at) } else { -1 };
                let ref_count = i64::try_from(record.users.len()).unwrap_or(i64::MAX);
                Volume { usage_data: Some(VolumeUsageData { size, ref_count }), ..record.volume() }
            };
            Ok(records.iter().filter(|record| record.stage == Stage::There).map(with_size).collect())
        })
        .await
    }
}

impl Inner {
    fn locked(&self, name: &str) -> Arc<Mutex<()>> {
        let mut locks = lock(&self.locks);
        // What nobody holds is made again when it is needed.
        if locks.len() > 1024 {
            locks.retain(|_, held| Arc::strong_count(held) > 1);
        }
        locks.entry(name.to_owned()).or_default().clone()
    }

    fn get(&self, name: &str) -> Option<Record> {
        lock(&self.records).get(name).filter(|record| record.stage == Stage::There).cloned()
    }

    fn find(&self, name: &str) -> Result<Record> {
        self.get(name).ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))
    }

    fn put(&self, record: &Record, durability: Durability) -> Result<()> {
        self.shared.store.write::<_, StoreError>(durability, |tx| VOLUMES.put(tx, &record.name, record))?;
        lock(&self.records).insert(record.name.clone(), record.clone());
        Ok(())
    }

    fn forget(&self, name: &str) -> Result<()> {
        self.shared.store.write::<_, StoreError>(Durability::Power, |tx| VOLUMES.delete(tx, name).map(drop))?;
        lock(&self.records).remove(name);
        Ok(())
    }

    fn driver(&self, record: &Record) -> Result<(VolumeDriver, Handles)> {
        let driver = self.shared.drivers.volume(&record.driver)?;
        let tree = own_tree(&self.shared, Kind::Volume, driver.name())?;
        Ok((driver, Handles { tree, ..Handles::default() }))
    }

    fn tell(&self, action: &str, record: &Record, container: Option<&str>) {
        let mut attributes = vec![("driver".to_owned(), record.driver.clone())];
        attributes.extend(container.map(|id| ("container".to_owned(), id.to_owned())));
        self.shared.events.publish(EventMessageTypeEnum::VOLUME, action, &record.name, attributes);
    }

    fn ensure(&self, wanted: Wanted) -> Result<Record> {
        let anonymous = wanted.name.is_none();
        let name = match wanted.name {
            Some(name) => name,
            None => new_id()?,
        };
        check_name(&name)?;
        let guard = self.locked(&name);
        let _held = lock(&guard);
        let driver = wanted.driver.as_deref();
        if let Some(mut record) = self.get(&name) {
            let other = driver.map(|driver| self.shared.drivers.volume(driver)).transpose()?;
            if let Some(other) = other.filter(|other| other.name() != record.driver) {
                return Err(Error::conflict(format!(
                    "create {name}: conflict: the volume is there with the driver {}, not {}",
                    record.driver,
                    other.name()
                )));
            }
            if let Some(container) = wanted.container
                && record.users.insert(container)
            {
                self.put(&record, Durability::Process)?;
            }
            return Ok(record);
        }
        let driver = self.shared.drivers.volume(driver.unwrap_or(DEFAULT_DRIVER))?;
        let mut labels = wanted.labels;
        if anonymous {
            labels.insert(ANONYMOUS.to_owned(), String::new());
        }
        let record = Record {
            name,
            driver: driver.name().to_owned(),
            options: wanted.options.into_iter().collect(),
            labels,
            created_ns: events::now_ns(),
            stage: Stage::Making,
            at: PathBuf::new(),
            users: wanted.container.into_iter().collect(),
            mounted: BTreeSet::new(),
        };
        self.make(record)
    }

    fn make(&self, mut record: Record) -> Result<Record> {
        let (driver, handles) = self.driver(&record)?;
        let (object, given) = (record.object(), record.given());
        let plan = driver.create(&self.facts, &object, &given)?;
        // Only to learn where it lies: a mount is asked for again before each container.
        let at = driver.mount(&self.facts, &object, &given)?.root;
        record.at = place(at, driver.name(), &record.rules(), &handles)?;
        self.put(&record, Durability::Process)?;
        if let Err(error) = carry_out(plan, driver.name(), &record.rules(), &handles) {
            self.undo(&record);
            return Err(error.context(format!("create {}", record.name)));
        }
        record.stage = Stage::There;
        // Nobody relies on a volume without a name after a power loss that its container did not survive either.
        let durability = if record.is_anonymous() { Durability::Process } else { Durability::Power };
        self.put(&record, durability)?;
        self.tell("create", &record, None);
        Ok(record)
    }

    /// Takes back what making or removing a volume has begun. What cannot be done now is left for the next start.
    fn undo(&self, record: &Record) {
        let undone = self.dismantle(record).and_then(|()| self.forget(&record.name));
        if let Err(error) = undone {
            tracing::warn!(volume = %record.name, "a volume that was half made stays for now: {error}");
        }
    }

    fn dismantle(&self, record: &Record) -> Result<()> {
        let (driver, handles) = self.driver(record)?;
        let plan = driver.remove(&record.object(), &record.given())?;
        carry_out(plan, driver.name(), &record.rules(), &handles)
    }

    /// Finishes what a dead daemon has begun.
    fn settle(&self) {
        let open: Vec<Record> =
            lock(&self.records).values().filter(|record| record.stage != Stage::There).cloned().collect();
        for record in open {
            self.undo(&record);
        }
    }

    fn mount(&self, name: &str, container: &str) -> Result<PathBuf> {
        let guard = self.locked(name);
        let _held = lock(&guard);
        let mut record = self.find(name)?;
        let (driver, handles) = self.driver(&record)?;
        let mounted = driver.mount(&self.facts, &record.object(), &record.given())?;
        let at = place(mounted.root, driver.name(), &record.rules(), &handles)?;
        // Noted first: an unmount too many does no harm, one too few would.
        if record.mounted.insert(container.to_owned()) || record.at != at {
            record.users.insert(container.to_owned());
            record.at.clone_from(&at);
            self.put(&record, Durability::Process)?;
        }
        if let Err(error) = carry_out(mounted.plan, driver.name(), &record.rules(), &handles) {
            record.mounted.remove(container);
            self.put(&record, Durability::Process)?;
            return Err(error.context(format!("failed to mount volume {name}")));
        }
        self.tell("mount", &record, Some(container));
        Ok(at)
    }

    fn unmount(&self, name: &str, container: &str) -> Result<()> {
        let guard = self.locked(name);
        let _held = lock(&guard);
        let Some(mut record) = self.get(name) else { return Ok(()) };
        if record.mounted.remove(container) {
            self.take_off(&record)?;
            self.put(&record, Durability::Process)?;
            self.tell("unmount", &record, Some(container));
        }
        Ok(())
    }

    /// Unmounts a volume when nobody uses it any more.
    fn take_off(&self, record: &Record) -> Result<()> {
        if !record.mounted.is_empty() {
            return Ok(());
        }
        let (driver, handles) = self.driver(record)?;
        let plan = driver.unmount(&record.object(), &record.given())?;
        carry_out(plan, driver.name(), &record.rules(), &handles)
            .map_err(|error| error.context(format!("unmount volume {}", record.name)))
    }

    fn release(&self, container: &str, remove_anonymous: bool) -> Result<()> {
        let used: Vec<String> = lock(&self.records)
            .values()
            .filter(|record| record.users.contains(container) || record.mounted.contains(container))
            .map(|record| record.name.clone())
            .collect();
        let mut outcome = Ok(());
        for name in used {
            outcome = outcome.and(self.release_one(&name, container, remove_anonymous));
        }
        outcome
    }

    fn release_one(&self, name: &str, container: &str, remove_anonymous: bool) -> Result<()> {
        let guard = self.locked(name);
        let _held = lock(&guard);
        let Some(mut record) = self.get(name) else { return Ok(()) };
        record.users.remove(container);
        if record.mounted.remove(container) {
            self.take_off(&record)?;
        }
        if remove_anonymous && record.is_anonymous() && record.users.is_empty() {
            return self.remove_held(record);
        }
        self.put(&record, Durability::Process)
    }

    fn remove(&self, name: &str, force: bool) -> Result<()> {
        let guard = self.locked(name);
        let _held = lock(&guard);
        let Some(record) = self.get(name) else {
            return if force { Ok(()) } else { Err(Error::not_found(format!("get {name}: no such volume"))) };
        };
        if !record.users.is_empty() {
            let users: Vec<&str> = record.users.iter().map(String::as_str).collect();
            return Err(Error::conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
        }
        match self.remove_held(record.clone()) {
            // Its driver is gone for good: the record alone is left to remove.
            Err(error) if force && self.shared.drivers.volume(&record.driver).is_err() => {
                tracing::warn!(volume = %name, "removed without its driver: {error}");
                self.forget(name)
            }
            other => other,
        }
    }

    /// Removes a volume whose lock is held.
    fn remove_held(&self, mut record: Record) -> Result<()> {
        record.stage = Stage::Going;
        self.put(&record, Durability::Process)?;
        if let Err(error) = self.dismantle(&record) {
            // Still there, as far as it is: the user may try again.
            record.stage = Stage::There;
            self.put(&record, Durability::Process)?;
            return Err(error.context(format!("remove {}", record.name)));
        }
        self.forget(&record.name)?;
        self.tell("destroy", &record, None);
        Ok(())
    }

    fn clean(&self, known: &HashSet<String>, live: &HashSet<String>) -> Result<()> {
        let records: Vec<Record> = lock(&self.records).values().cloned().collect();
        for mut record in records.into_iter().filter(|record| record.stage == Stage::There) {
            let before = record.clone();
            record.users.retain(|id| known.contains(id));
            record.mounted.retain(|id| live.contains(id));
            if record == before {
                continue;
            }
            let guard = self.locked(&record.name);
            let _held = lock(&guard);
            if let Err(error) = self.take_off(&record) {
                tracing::warn!(volume = %record.name, "{error}");
            }
            self.put(&record, Durability::Process)?;
        }
        Ok(())
    }

    fn list(&self, filters: &Filters) -> Result<Vec<Record>> {
        filters.only(&["dangling", "driver", "label", "label!", "name"])?;
        let dangling = filters.truth("dangling")?;
        let records = lock(&self.records);
        let passes = |record: &&Record| {
            record.stage == Stage::There
                && dangling.is_none_or(|dangling| record.users.is_empty() == dangling)
                && filters.any("driver", |driver| record.driver == driver)
                && filters.any("name", |name| record.name.contains(name))
                && filters.labels(&record.labels)
        };
        Ok(records.values().filter(passes).cloned().collect())
    }

    fn prune(&self, filters: &Filters) -> Result<VolumePruneResponse> {
        filters.only(&["all", "label", "label!"])?;
        let all = filters.truth("all")?.unwrap_or(false);
        let unused: Vec<Record> = lock(&self.records)
            .values()
            .filter(|record| record.stage == Stage::There && record.users.is_empty())
            .filter(|record| (all || record.is_anonymous()) && filters.labels(&record.labels))
            .cloned()
            .collect();
        let (mut deleted, mut reclaimed) = (Vec::new(), 0);
        for record in unused {
            let size = if record.driver == DEFAULT_DRIVER { size_of(&record.at) } else { 0 };
            match self.remove(&record.name, false) {
                Ok(()) => {
                    reclaimed += size;
                    deleted.push(record.name);
                }
                // In use by now, or its driver fails: the others go all the same.
                Err(error) => tracing::warn!(volume = %record.name, "not pruned: {error}"),
            }
        }
        let attributes = [("reclaimed".to_owned(), reclaimed.to_string())];
        self.shared.events.publish(EventMessageTypeEnum::VOLUME, "prune", "", attributes);
        Ok(VolumePruneResponse { volumes_deleted: Some(deleted), space_reclaimed: Some(reclaimed) })
    }
}

/// Docker's rule for names, which also keeps them inside of one directory.
fn check_name(name: &str) -> Result<()> {
    if name.len() == 1 {
        return Err(Error::invalid("volume name is too short, names should be at least two alphanumeric characters"));
    }
    let good = name.len() <= 255
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if good {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "create {name}: {name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" \
         are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

/// Bytes below a directory, hard links once.
fn size_of(path: &Path) -> i64 {
    let mut seen = HashSet::new();
    let mut folders = vec![path.to_owned()];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                folders.push(entry.path());
            } else if found.nlink() == 1 || seen.insert((found.dev(), found.ino())) {
                bytes += i64::try_from(found.len()).unwrap_or(0);
            }
        }
    }
    bytes
}

impl Engine {
    /// `volume ls`.
    pub async fn list_volumes(&self, filters: Filters) -> Result<VolumeListResponse> {
        let records = self.inner.volumes.inner.list(&filters)?;
        let volumes = records.iter().map(Record::volume).collect();
        Ok(VolumeListResponse { volumes: Some(volumes), warnings: None })
    }

    /// `volume create`.
    pub async fn create_volume(&self, request: VolumeCreateRequest) -> Result<Volume> {
        if request.cluster_volume_spec.is_some() {
            return Err(Error::unsupported("volumes of a cluster are not supported: this engine works on one host"));
        }
        let wanted = Wanted {
            name: request.name.filter(|name| !name.is_empty()),
            driver: request.driver.filter(|driver| !driver.is_empty()),
            options: request.driver_opts.unwrap_or_default(),
            labels: request.labels.unwrap_or_default(),
            container: None,
        };
        self.inner.volumes.run(move |inner| inner.ensure(wanted).map(|record| record.volume())).await
    }

    /// `volume inspect`.
    pub async fn inspect_volume(&self, name: &str) -> Result<Volume> {
        self.inner.volumes.inner.find(name).map(|record| record.volume())
    }

    /// `volume rm`.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let name = name.to_owned();
        self.inner.volumes.run(move |inner| inner.remove(&name, force)).await
    }

    /// `volume prune`.
    pub async fn prune_volumes(&self, filters: Filters) -> Result<VolumePruneResponse> {
        self.inner.volumes.run(move |inner| inner.prune(&filters)).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing;

    fn volumes(root: &testing::Root) -> Volumes {
        Volumes::open(&root.shared()).unwrap()
    }

    fn wanted(name: &str, container: Option<&str>) -> Wanted {
        Wanted {
            name: Some(name.to_owned()).filter(|name| !name.is_empty()),
            container: container.map(str::to_owned),
            ..Wanted::default()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_volume_lives_as_long_as_somebody_refers_to_it() {
        let Some(root) = testing::root("a_volume_lives_as_long_as_somebody_refers_to_it") else { return };
        let volumes = volumes(&root);
        let name = volumes.ensure(Some("data"), None, HashMap::new(), HashMap::new(), "c1").await.unwrap();
        let at = volumes.mount(&name, "c1").await.unwrap();
        std::fs::write(at.join("kept"), "1").unwrap();
        assert_eq!(volumes.inner.find("data").unwrap().volume().mountpoint, at.to_string_lossy());
        let error = volumes.inner.remove("data", true).unwrap_err();
        assert_eq!(error.message, "remove data: volume is in use - [c1]");
        volumes.unmount(&name, "c1").await.unwrap();
        volumes.release("c1", true).await.unwrap();
        assert!(at.join("kept").exists(), "a named volume stays");

        // A later daemon finds it as it was.
        let volumes = Volumes::open(&root.shared()).unwrap();
        assert_eq!(volumes.mount("data", "c2").await.unwrap(), at);
        volumes.release("c2", false).await.unwrap();
        volumes.inner.remove("data", false).unwrap();
        assert!(!at.exists());
        assert_eq!(volumes.inner.remove("data", false).unwrap_err().message, "get data: no such volume");
        volumes.inner.remove("data", true).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn anonymous_volumes_go_with_their_container_and_with_prune() {
        let Some(root) = testing::root("anonymous_volumes_go_with_their_container_and_with_prune") else { return };
        let volumes = volumes(&root);
        let make = async |container: &str| {
            volumes.ensure(None, None, HashMap::new(), HashMap::new(), container).await.unwrap()
        };
        let (first, second) = (make("c1").await, make("c2").await);
        assert_eq!(first.len(), 64);
        volumes.release("c1", true).await.unwrap();
        assert!(volumes.inner.get(&first).is_none());
        volumes.release("c2", false).await.unwrap();
        volumes.inner.ensure(wanted("named", None)).unwrap();
        let listed = |json: &str| volumes.inner.list(&Filters::parse(json).unwrap()).unwrap().len();
        assert_eq!(listed(r#"{"dangling":["true"]}"#), 2);
        assert_eq!(listed(r#"{"name":["ame"],"driver":["local"]}"#), 1);
        let pruned = volumes.inner.prune(&Filters::default()).unwrap();
        assert_eq!(pruned.volumes_deleted, Some(vec![second]));
        let pruned = volumes.inner.prune(&Filters::parse(r#"{"all":["true"]}"#).unwrap()).unwrap();
        assert_eq!(pruned.volumes_deleted, Some(vec!["named".to_owned()]));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_mounted_volume_is_counted_by_container_and_cleaned_after_a_crash() {
        let Some(root) = testing::root("a_mounted_volume_is_counted_by_container_and_cleaned_after_a_crash") else {
            return;
        };
        let volumes = volumes(&root);
        let options = HashMap::from([
            ("type".into(), "tmpfs".into()),
            ("device".into(), "tmpfs".into()),
            ("o".into(), "size=1m".into()),
        ]);
        let name = volumes.ensure(Some("scratch"), None, options, HashMap::new(), "c1").await.unwrap();
        let at = volumes.mount(&name, "c1").await.unwrap();
        volumes.mount(&name, "c2").await.unwrap();
        std::fs::write(at.join("x"), "1").unwrap();
        volumes.unmount(&name, "c1").await.unwrap();
        assert!(at.join("x").exists(), "the other container sees it");
        volumes.unmount(&name, "c2").await.unwrap();
        assert!(!at.join("x").exists());

        volumes.mount(&name, "c1").await.unwrap();
        std::fs::write(at.join("x"), "1").unwrap();
        let volumes = Volumes::open(&root.shared()).unwrap();
        volumes.clean(HashSet::from(["c1".into()]), HashSet::from(["c1".into()])).await.unwrap();
        assert!(at.join("x").exists(), "its container lives");
        volumes.clean(HashSet::new(), HashSet::new()).await.unwrap();
        assert!(!at.join("x").exists());
        volumes.inner.remove(&name, false).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn wrong_wishes_are_named_and_leave_nothing() {
        let Some(root) = testing::root("wrong_wishes_are_named_and_leave_nothing") else { return };
        let volumes = volumes(&root);
        let refused = |wanted: Wanted| volumes.inner.ensure(wanted).unwrap_err().message;
        assert!(refused(wanted("x", None)).contains("too short"));
        assert!(refused(wanted("../x", None)).contains("includes invalid characters"));
        let driver = |driver: &str| Wanted { driver: Some(driver.to_owned()), ..wanted("data", None) };
        assert_eq!(refused(driver("cloud")), "there is no volume driver \"cloud\"; known: local");
        let option = |name: &str, value: &str| Wanted {
            options: HashMap::from([(name.to_owned(), value.to_owned())]),
            ..wanted("data", None)
        };
        assert!(refused(option("size", "1")).contains("has no option \"size\""));
        assert!(refused(option("type", "ext4")).contains("create: option device is missing"));
        assert!(lock(&volumes.inner.records).is_empty());
        let device = Wanted {
            options: HashMap::from([("o".into(), "bind".into()), ("device".into(), "/nowhere/at/all".into())]),
            ..wanted("data", Some("c1"))
        };
        volumes.inner.ensure(device).unwrap();
        let error = volumes.mount("data", "c1").await.unwrap_err();
        assert!(error.message.contains("/nowhere/at/all"), "{error}");
        assert!(volumes.inner.find("data").unwrap().mounted.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_dead_daemon_began_is_undone() {
        let Some(root) = testing::root("what_a_dead_daemon_began_is_undone") else { return };
        let volumes = volumes(&root);
        let mut record = volumes.inner.ensure(wanted("half", None)).unwrap();
        record.stage = Stage::Making;
        volumes.inner.put(&record, Durability::Process).unwrap();
        let volumes = Volumes::open(&root.shared()).unwrap();
        assert!(volumes.inner.get("half").is_none());
        assert!(!record.at.exists());
        volumes.inner.ensure(wanted("half", None)).unwrap();
    }
}
