//! Drivers that take what containers write. A sink's instance lives as long as its container, or until its driver is
//! swapped or breaks; the next write opens another.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sampan_network::plan::Object;
use wasmtime::Store;
use wasmtime::component::{ComponentType, Lower, ResourceAny, TypedFunc};

use crate::bindings::log::LogDriver as Guest;
use crate::bindings::log::exports::sampan::driver::logs;
use crate::bindings::sampan::driver::types;
use crate::contract;
use crate::error::DriverError;
use crate::host::{Data, Grant};
use crate::plan_drivers::options;
use crate::slot::{Loaded, Slot};

/// Bytes that one call of the driver gets, as `wit/log.wit` says.
pub const BATCH: usize = 64 << 10;
/// Bytes before those of a record.
const HEAD: usize = 16;

/// Whose output it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The container.
    pub container: Object,
    /// Its image, as the user named it.
    pub image: String,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// The driver's options, as the user gave them.
    pub options: Vec<(String, String)>,
}

/// What to read back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Query {
    /// In nanoseconds since the epoch, inclusive.
    #[component(name = "since")]
    pub since: Option<u64>,
    /// In nanoseconds since the epoch, inclusive.
    #[component(name = "until")]
    pub until: Option<u64>,
    /// Lines from the end.
    #[component(name = "tail")]
    pub tail: Option<u64>,
}

/// A driver for logs.
#[derive(Debug, Clone)]
pub struct LogDriver {
    pub(crate) slot: Arc<Slot>,
}

impl Source {
    fn wit(&self, complete: &[(String, String)]) -> logs::Source {
        logs::Source {
            container: types::Object { id: self.container.id.clone(), name: self.container.name.clone() },
            image: self.image.clone(),
            labels: options(&self.labels),
            environment: self.environment.clone(),
            options: options(complete),
        }
    }
}

/// The registry gives a handle only to slots of its kind, and a slot's kind never changes.
async fn instance(
    loaded: &Loaded,
    store: &mut Store<Data>,
) -> wasmtime::Result<(Guest, wasmtime::component::Instance)> {
    let Loaded::Log(component) = loaded else { return Err(wasmtime::Error::msg("the driver is of another kind")) };
    let instance = component.instance_pre().instantiate_async(&mut *store).await?;
    Ok((Guest::new(store, &instance)?, instance))
}

impl LogDriver {
    /// The driver's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.slot.name
    }

    /// Checks options when a container is made: their names here, their values by the driver.
    pub fn check(&self, given: &[(String, String)]) -> Result<(), DriverError> {
        self.slot.admit()?;
        let manifest = self.slot.manifest();
        let all = manifest.options(given)?;
        let loaded = self.slot.loaded()?;
        let mut store = self.slot.store(&Grant { capabilities: &manifest.capabilities, options: &all, log: None })?;
        self.slot.call("check", &mut store, async |store| {
            let (guest, _) = instance(&loaded, store).await?;
            guest.sampan_driver_logs().call_check(store, &options(&all)).await
        })
    }

    /// Opens the sink of a container that starts, or that runs on. `dir` is the container's log directory.
    pub fn open(&self, source: &Source, dir: &Path) -> Result<LogSink, DriverError> {
        self.slot.admit()?;
        self.slot.sinks.fetch_add(1, Ordering::SeqCst);
        let mut sink =
            LogSink { slot: self.slot.clone(), source: source.clone(), dir: dir.to_owned(), live: None, changed: None };
        sink.reopen()?;
        Ok(sink)
    }

    /// Whether what was written can be read back.
    pub fn readable(&self) -> Result<bool, DriverError> {
        match &*self.slot.loaded()? {
            Loaded::Log(component) => {
                let component = component.instance_pre().component();
                Ok(component.get_export_index(None, history()).is_some())
            }
            _ => Ok(false),
        }
    }

    /// Reads back what a container wrote.
    pub fn read(&self, source: &Source, dir: &Path, query: Query) -> Result<LogCursor, DriverError> {
        self.slot.admit()?;
        let manifest = self.slot.manifest();
        let all = manifest.completed(&source.options);
        let loaded = self.slot.loaded()?;
        let log = manifest.capabilities.log_directory.then_some((dir, false));
        let mut store = self.slot.store(&Grant { capabilities: &manifest.capabilities, options: &all, log })?;
        let (next, cursor) = self.slot.call("read", &mut store, async |store| {
            let (_, instance) = instance(&loaded, store).await?;
            let interface = instance.get_export_index(&mut *store, None, &history());
            let interface = interface.ok_or_else(|| wasmtime::Error::msg("it cannot be read back"))?;
            let missing = || wasmtime::Error::msg("it exports only a part of history");
            let read = instance.get_export_index(&mut *store, Some(&interface), "read").ok_or_else(missing)?;
            let next =
                instance.get_export_index(&mut *store, Some(&interface), "[method]cursor.next").ok_or_else(missing)?;
            let read: Read = instance.get_typed_func(&mut *store, read)?;
            let next: Next = instance.get_typed_func(&mut *store, next)?;
            let (cursor,) = read.call_async(&mut *store, (&source.wit(&all), query)).await?;
            Ok(cursor.map(|cursor| (next, cursor)))
        })?;
        Ok(LogCursor { slot: self.slot.clone(), store, next, cursor })
    }
}

fn history() -> String {
    format!("sampan:driver/history@{}", contract::VERSION)
}

type Read<'a> = TypedFunc<(&'a logs::Source, Query), (Result<ResourceAny, types::Failure>,)>;
type Next = TypedFunc<(ResourceAny,), (Result<Vec<u8>, types::Failure>,)>;

/// Takes a container's output. Dropped without [`LogSink::close`], it is as if the driver had been killed.
pub struct LogSink {
    slot: Arc<Slot>,
    source: Source,
    dir: PathBuf,
    live: Option<Live>,
    /// When the log directory changed last, as far as its files' modes were looked at.
    changed: Option<(i64, i64)>,
}

impl std::fmt::Debug for LogSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogSink")
            .field("driver", &self.slot.name)
            .field("container", &self.source.container.id)
            .finish_non_exhaustive()
    }
}

struct Live {
    store: Store<Data>,
    guest: Guest,
    sink: ResourceAny,
    generation: u64,
}

impl LogSink {
    fn reopen(&mut self) -> Result<(), DriverError> {
        let generation = self.slot.generation();
        let manifest = self.slot.manifest();
        let all = manifest.completed(&self.source.options);
        let loaded = self.slot.loaded()?;
        let log = manifest.capabilities.log_directory.then_some((self.dir.as_path(), true));
        let mut store = self.slot.store(&Grant { capabilities: &manifest.capabilities, options: &all, log })?;
        let source = self.source.wit(&all);
        let (guest, sink) = self.slot.call("open", &mut store, async |store| {
            let (guest, _) = instance(&loaded, store).await?;
            let sink = guest.sampan_driver_logs().call_open(store, &source).await?;
            Ok(sink.map(|sink| (guest, sink)))
        })?;
        self.live = Some(Live { store, guest, sink, generation });
        self.seal();
        Ok(())
    }

    /// The instance to write with: the present one, unless the driver was swapped or broke.
    fn live(&mut self) -> Result<(), DriverError> {
        self.slot.admit()?;
        if self.live.as_ref().is_some_and(|live| live.generation != self.slot.generation()) {
            // What was written is the old instance's duty; a failure here must not keep the new one from its work.
            let _ = self.flush_live();
            self.live = None;
        }
        if self.live.is_none() {
            self.reopen()?;
        }
        Ok(())
    }

    /// Hands over whole framed records. When it answers, they are the driver's.
    ///
    /// After an error the caller keeps them and may try again: a driver that broke gets a new instance.
    pub fn write(&mut self, records: &[u8]) -> Result<(), DriverError> {
        let mut rest = records;
        while !rest.is_empty() {
            let (batch, more) = rest.split_at(whole(rest));
            self.live()?;
            let Some(live) = &mut self.live else { return Ok(()) };
            let (guest, sink) = (&live.guest, live.sink);
            let written = self.slot.call("write", &mut live.store, async |store| {
                guest.sampan_driver_logs().sink().call_write(store, sink, batch).await
            });
            self.settle(written)?;
            rest = more;
        }
        self.seal();
        Ok(())
    }

    /// Makes what was written readable.
    pub fn flush(&mut self) -> Result<(), DriverError> {
        self.live()?;
        let flushed = self.flush_live();
        self.seal();
        flushed
    }

    /// Ends in order: what was written is flushed. An error says that the end of the log may be missing where the driver
    /// keeps it. Its instance goes without a further call: what it waits for must not hold a container's end.
    pub fn close(mut self) -> Result<(), DriverError> {
        let flushed = self.flush_live();
        self.seal();
        flushed
    }

    fn flush_live(&mut self) -> Result<(), DriverError> {
        let Some(live) = &mut self.live else { return Ok(()) };
        let (guest, sink) = (&live.guest, live.sink);
        let flushed = self.slot.call("flush", &mut live.store, async |store| {
            guest.sampan_driver_logs().sink().call_flush(store, sink).await
        });
        self.settle(flushed)
    }

    /// An instance that trapped or was cut off is not used again.
    fn settle(&mut self, outcome: Result<(), DriverError>) -> Result<(), DriverError> {
        if matches!(outcome, Err(DriverError::Fault { .. })) {
            self.live = None;
        }
        outcome
    }

    /// Logs are for root and its group: a guest cannot set modes, so the host does when files have come.
    fn seal(&mut self) {
        let Ok(folder) = fs::metadata(&self.dir) else { return };
        let now = Some((folder.mtime(), folder.mtime_nsec()));
        if self.changed == now {
            return;
        }
        self.changed = now;
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            // By descriptor: the driver may put a link where a file was.
            let flags = nix::fcntl::OFlag::O_RDONLY
                | nix::fcntl::OFlag::O_NOFOLLOW
                | nix::fcntl::OFlag::O_NONBLOCK
                | nix::fcntl::OFlag::O_CLOEXEC;
            let Ok(file) = nix::fcntl::open(&entry.path(), flags, nix::sys::stat::Mode::empty()).map(fs::File::from)
            else {
                continue;
            };
            if let Ok(found) = file.metadata()
                && found.is_file()
                && found.permissions().mode() & 0o777 != 0o640
            {
                let _ = nix::sys::stat::fchmod(file.as_fd(), nix::sys::stat::Mode::from_bits_truncate(0o640));
            }
        }
    }
}

impl Drop for LogSink {
    fn drop(&mut self) {
        self.slot.sinks.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How many bytes of whole records fit one call; everything when the records cannot be told apart.
fn whole(records: &[u8]) -> usize {
    if records.len() <= BATCH {
        return records.len();
    }
    let mut end = 0;
    while let Some(head) = records.get(end..end + HEAD) {
        let length = u32::from_le_bytes([head[12], head[13], head[14], head[15]]) as usize;
        let next = end + HEAD + length;
        if next > records.len() || (next > BATCH && end > 0) {
            break;
        }
        end = next;
    }
    if end == 0 { records.len() } else { end }
}

/// Reads what a driver kept.
pub struct LogCursor {
    slot: Arc<Slot>,
    store: Store<Data>,
    next: Next,
    cursor: ResourceAny,
}

impl std::fmt::Debug for LogCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogCursor").field("driver", &self.slot.name).finish_non_exhaustive()
    }
}

impl LogCursor {
    /// The next framed records; empty at the present end, where a later call may find more.
    #[allow(clippy::should_implement_trait, reason = "it may go on after an empty answer")]
    pub fn next(&mut self) -> Result<Vec<u8>, DriverError> {
        let (next, cursor) = (&self.next, self.cursor);
        self.slot.call("next", &mut self.store, async |store| Ok(next.call_async(store, (cursor,)).await?.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(length: usize) -> Vec<u8> {
        let mut out = vec![0; 12];
        out.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_le_bytes());
        out.resize(HEAD + length, b'x');
        out
    }

    #[test]
    fn large_batches_are_split_between_records() {
        let many: Vec<u8> = (0..10).flat_map(|_| record(16 << 10)).collect();
        assert_eq!(whole(&many), 3 * (HEAD + (16 << 10)));
        assert_eq!(whole(&many[..100]), 100);
        let huge = record(200 << 10);
        assert_eq!(whole(&huge), huge.len());
        assert_eq!(whole(&vec![0xff; 100_000]), 100_000);
    }
}
