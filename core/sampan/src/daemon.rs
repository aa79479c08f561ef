//! `sampan daemon`: engine, stacks and server, from start to orderly end.

use std::process::ExitCode;
use std::time::Duration;

use sampan_api::Server;
use sampan_cli::DaemonArgs;
use sampan_engine::Engine;
use sampan_reconcile::Stacks;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::memory;
use crate::settings::{self, Settings};
use crate::socket;

/// Requests that are under way get so long to end.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the daemon until it is told to end.
pub fn main(args: DaemonArgs) -> ExitCode {
    let settings = match settings::gather(&args) {
        Ok(settings) => settings,
        Err(message) => return failed(&message),
    };
    if !nix::unistd::geteuid().is_root() {
        return failed("the daemon must run as root: it makes namespaces, mounts and links (use sudo)");
    }
    memory::share_arenas();
    log_to_stderr(&settings.log);
    // Requests mostly wait; what computes or blocks has threads of its own.
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 8);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(256)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("start threads: {error}")),
    };
    let result = runtime.block_on(serve(settings));
    // Threads that still wait for the kernel must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => failed(&message),
    }
}

fn failed(message: &str) -> ExitCode {
    eprintln!("sampan daemon: {message}");
    ExitCode::FAILURE
}

fn log_to_stderr(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SAMPAN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(filter));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
}

async fn serve(settings: Settings) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| format!("watch for signals: {error}"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| format!("watch for signals: {error}"))?;
    let (listener, ours) = socket::listen(&settings.socket, &settings.group)
        .map_err(|error| format!("listen on {}: {error}", settings.socket.display()))?;
    let engine = match Engine::open(settings.engine).await {
        Ok(engine) => engine,
        Err(error) => {
            if ours {
                let _ = std::fs::remove_file(&settings.socket);
            }
            return Err(error.message);
        }
    };
    let pid_file = engine.config().run.join("daemon.pid");
    std::fs::write(&pid_file, format!("{}\n", std::process::id()))
        .map_err(|error| format!("write {}: {error}", pid_file.display()))?;
    let stacks = Stacks::open(engine.clone()).await.map_err(|error| error.message)?;
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(|error| error.to_string())?;
    let (stop, stopping) = watch::channel(false);
    let server = Server::new(engine.clone(), stacks.clone());
    let mut serving = tokio::spawn(async move { server.serve(listener, stopping).await });
    tracing::info!(socket = %settings.socket.display(), root = %engine.config().root.display(), "ready");
    socket::notify("READY=1");
    tokio::spawn(memory::give_back(engine.clone()));
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = &mut serving => Some(ended),
    };
    tracing::info!("stopping");
    socket::notify("STOPPING=1");
    let _ = stop.send(true);
    if ours {
        let _ = std::fs::remove_file(&settings.socket);
    }
    stacks.shutdown().await;
    engine.shutdown().await;
    let _ = std::fs::remove_file(pid_file);
    match ended {
        None => {
            let _ = tokio::time::timeout(GRACE, serving).await;
            Ok(())
        }
        Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(error))) => Err(error.to_string()),
        Some(Err(error)) => Err(format!("the server failed: {error}")),
    }
}
