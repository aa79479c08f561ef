//! The Wasm engine of the process, what an instance sees of the host, and how a call is bounded.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime::{Config, Engine, OptLevel, Store, StoreLimits, StoreLimitsBuilder, UpdateDeadline};
use wasmtime_wasi::filesystem::FsPerms;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use crate::bindings::{Imports, sampan::driver as wit};
use crate::egress::{self, Allowed};
use crate::error::DriverError;
use crate::kv;
use crate::manifest::Capabilities;
use crate::voice::{LastWords, Voice};

/// Bounds of a call.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a call may take.
    pub time: Duration,
    /// Memory of an instance in bytes, unless its manifest was granted more.
    pub memory: usize,
    /// Bytes that a call may hand to the host.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: Duration::from_secs(10), memory: 64 << 20, output: 4 << 20 }
    }
}

/// What an instance's store holds.
pub struct Data {
    wasi: WasiCtx,
    table: ResourceTable,
    limits: StoreLimits,
    /// What the present call has changed of the driver's state.
    pub kv: kv::Transaction,
    voice: Arc<Voice>,
    /// What was written to standard output and error.
    pub words: LastWords,
    /// Ticks that the present call may still see while the driver itself runs.
    ticks: u64,
}

impl WasiView for Data {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl wit::types::Host for Data {}
impl wit::storage_plan::Host for Data {}
impl wit::network_plan::Host for Data {}

impl wit::kv::Host for Data {
    async fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        Ok(self.kv.get(&key).await?)
    }

    async fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<()> {
        Ok(self.kv.set(key, Some(value)).await?)
    }

    async fn delete(&mut self, key: String) -> wasmtime::Result<()> {
        Ok(self.kv.set(key, None).await?)
    }

    async fn keys(&mut self, prefix: String, after: Option<String>) -> wasmtime::Result<Vec<String>> {
        Ok(self.kv.keys(&prefix, after.as_deref()).await?)
    }
}

impl wit::host_log::Host for Data {
    fn log(&mut self, level: wit::host_log::Level, message: String) -> wasmtime::Result<()> {
        self.voice.say(level, &message);
        Ok(())
    }
}

/// What an instance is given.
pub struct Grant<'a> {
    /// From the manifest, as the user agreed to it.
    pub capabilities: &'a Capabilities,
    /// Options of the user's, for addresses that they name.
    pub options: &'a [(String, String)],
    /// A container's log directory, and whether it may be written.
    pub log: Option<(&'a Path, bool)>,
}

/// Why a call did not end by itself.
pub enum Cut {
    /// The driver's own doing.
    Driver(String),
    /// Its state could not be read.
    Store(sampan_store::StoreError),
}

/// The engine, one for the process.
pub struct Host {
    engine: Engine,
    linker: Linker<Data>,
    limits: Limits,
    ticker: Arc<Ticker>,
    handle: Option<Handle>,
    own: OnceLock<Runtime>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("limits", &self.limits).finish_non_exhaustive()
    }
}

fn broken(error: impl std::fmt::Display) -> DriverError {
    DriverError::Host(format!("{error:#}"))
}

/// The configuration that machine code is made for.
pub fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .parallel_compilation(false)
        .generate_address_map(false)
        .native_unwind_info(false)
        .wasm_backtrace_max_frames(None)
        .max_wasm_stack(512 << 10)
        .async_stack_size(1 << 20)
        .memory_init_cow(true)
        .table_lazy_init(true);
    config
}

impl Host {
    /// Makes the engine; no driver is loaded by it.
    pub fn new(limits: Limits) -> Result<Self, DriverError> {
        let engine = Engine::new(&config()).map_err(broken)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(broken)?;
        Imports::add_to_linker::<Data, HasSelf<Data>>(&mut linker, |data| data).map_err(broken)?;
        let ticker = Arc::new(Ticker {
            engine: engine.clone(),
            calls: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            thread: OnceLock::new(),
        });
        Ok(Self { engine, linker, limits, ticker, handle: Handle::try_current().ok(), own: OnceLock::new() })
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn linker(&self) -> &Linker<Data> {
        &self.linker
    }

    /// A store for a new instance.
    pub fn store(
        &self,
        grant: &Grant<'_>,
        state: Arc<kv::Shared>,
        voice: Arc<Voice>,
    ) -> Result<Store<Data>, DriverError> {
        let words = LastWords::default();
        let mut wasi = WasiCtxBuilder::new();
        // Calls run on threads that may block: a round through the runtime for each write would cost most of the time.
        wasi.allow_blocking_current_thread(true).stdout(words.clone()).stderr(words.clone()).max_random_size(64 << 10);
        let file = |path: &Path, error: wasmtime::Error| DriverError::File {
            path: path.to_owned(),
            source: std::io::Error::other(format!("{error:#}")),
        };
        if let Some((path, write)) = grant.log {
            let perms = if write { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            wasi.preopened_dir(path, "/log", perms).map_err(|error| file(path, error))?;
        }
        for directory in &grant.capabilities.directories {
            let perms = if directory.write { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            wasi.preopened_dir(&directory.path, &directory.path, perms)
                .map_err(|error| file(Path::new(&directory.path), error))?;
        }
        for name in &grant.capabilities.environment {
            if let Ok(value) = std::env::var(name) {
                wasi.env(name, value);
            }
        }
        let allowed = Allowed::new(grant.capabilities, grant.options);
        if allowed.is_empty() {
            wasi.allow_tcp(false).allow_udp(false);
        } else {
            wasi.allow_tcp(true).allow_udp(true).allow_ip_name_lookup(allowed.has_names());
            wasi.socket_addr_check(egress::check(Arc::new(allowed)));
        }
        let memory = grant.capabilities.memory.map_or(self.limits.memory, |mib| (mib as usize) << 20);
        let limits = StoreLimitsBuilder::new()
            .memory_size(memory)
            .table_elements(200_000)
            .instances(64)
            .tables(64)
            .memories(8)
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(4096);
        let data = Data { wasi: wasi.build(), table, limits, kv: kv::Transaction::new(state), voice, words, ticks: 0 };
        let mut store = Store::new(&self.engine, data);
        store.limiter(|data| &mut data.limits);
        store.set_hostcall_fuel(self.limits.output);
        store.set_epoch_deadline(1);
        // Counts what the driver itself spends: a disk that keeps it waiting is no fault of its.
        store.epoch_deadline_callback(|mut store| match store.data_mut().ticks.checked_sub(1) {
            Some(left) => {
                store.data_mut().ticks = left;
                Ok(UpdateDeadline::Continue(1))
            }
            None => Err(wasmtime::Trap::Interrupt.into()),
        });
        Ok(store)
    }

    /// Runs a call within its time, on this thread.
    pub fn run<T>(
        &self,
        store: &mut Store<Data>,
        call: impl AsyncFnOnce(&mut Store<Data>) -> wasmtime::Result<T>,
    ) -> Result<T, Cut> {
        let time = self.limits.time;
        store.data_mut().ticks = u64::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX);
        let late = || Cut::Driver(format!("took longer than {} s and was cut off", time.as_secs_f32()));
        let _running = self.ticker.running();
        // Loops end by the epoch; what waits on the host (a sleep, a socket) by the timeout.
        let outcome = self.block_on(async { tokio::time::timeout(time, call(store)).await });
        match outcome {
            Err(_) => Err(late()),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if error.is::<sampan_store::StoreError>() => match error.downcast() {
                Ok(error) => Err(Cut::Store(error)),
                Err(error) => Err(Cut::Driver(format!("{error:#}"))),
            },
            Ok(Err(error)) => match error.downcast_ref::<wasmtime::Trap>() {
                Some(wasmtime::Trap::Interrupt) => Err(late()),
                trap => {
                    let mut cause = match trap {
                        Some(trap) => format!("trapped: {}", trap.to_string().trim_start_matches("wasm trap: ")),
                        None => format!("{error:#}"),
                    };
                    let words = store.data().words.take();
                    if !words.is_empty() {
                        cause = format!("{cause}; it said: {words}");
                    }
                    Err(Cut::Driver(cause))
                }
            },
        }
    }

    /// Waits on this thread. The runtime's own `block_on` would panic on one of its workers; here the runtime only moves
    /// timers and sockets on, and the thread is the caller's to lose.
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        let current = Handle::try_current().ok();
        let _entered = match current.as_ref().or(self.handle.as_ref()) {
            Some(handle) => handle.enter(),
            // Only where no runtime is about, as in tests.
            None => self.own.get_or_init(own_runtime).enter(),
        };
        let mut future = std::pin::pin!(future);
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            match future.as_mut().poll(&mut context) {
                Poll::Ready(value) => return value,
                Poll::Pending => std::thread::park(),
            }
        }
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[allow(clippy::expect_used, reason = "without a thread nothing can be called")]
fn own_runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("start a runtime")
}

const TICK: Duration = Duration::from_millis(10);
/// Ticks without a call after which the thread sleeps until the next one.
const IDLE_TICKS: u32 = 100;

/// Moves the epoch on while calls run. Sleeps otherwise: an idle daemon costs nothing.
struct Ticker {
    engine: Engine,
    calls: AtomicUsize,
    asleep: AtomicBool,
    thread: OnceLock<std::thread::Thread>,
}

/// While it lives, the epoch moves on.
struct Running(Arc<Ticker>);

impl Ticker {
    fn running(self: &Arc<Self>) -> Running {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let thread = self.thread.get_or_init(|| {
            let ticker = Arc::downgrade(self);
            let spawned = std::thread::Builder::new()
                .name("driver-epoch".into())
                .stack_size(64 << 10)
                .spawn(move || tick(&ticker));
            // Without the thread, a call that waits on the host still ends by the timeout.
            spawned.map_or_else(|_| std::thread::current(), |joined| joined.thread().clone())
        });
        if self.asleep.swap(false, Ordering::SeqCst) {
            thread.unpark();
        }
        Running(self.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

fn tick(ticker: &std::sync::Weak<Ticker>) {
    let mut idle = 0;
    loop {
        let Some(live) = ticker.upgrade() else { return };
        if live.calls.load(Ordering::SeqCst) > 0 {
            idle = 0;
            live.engine.increment_epoch();
        } else {
            idle += 1;
        }
        if idle < IDLE_TICKS {
            drop(live);
            std::thread::sleep(TICK);
            continue;
        }
        live.asleep.store(true, Ordering::SeqCst);
        // A call that came between the look and the flag has seen the flag down: look again.
        if live.calls.load(Ordering::SeqCst) > 0 {
            live.asleep.store(false, Ordering::SeqCst);
            idle = 0;
            continue;
        }
        drop(live);
        std::thread::park();
        idle = 0;
    }
}
