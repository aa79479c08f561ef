//! Where a crash can be asked for, in builds with debug assertions: just before and just after each change of state.
//!
//! `SAMPAN_FAULT` names a file. While it holds a number, each place that is passed takes one off; at zero the process kills
//! itself as `kill -9` would, after taking the file away, so that the next daemon lives. Tests count through the places in
//! this way; a release build has none of it.

/// A place where the process may be asked to die.
#[cfg(not(debug_assertions))]
pub(crate) fn point() {}

/// A place where the process may be asked to die.
#[cfg(debug_assertions)]
pub(crate) fn point() {
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex, PoisonError};

    static FILE: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("SAMPAN_FAULT").map(PathBuf::from));
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    let Some(file) = FILE.as_deref() else { return };
    let _held = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(left) = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u64>().ok()) else {
        return;
    };
    // Whoever takes the file away has thought better of it, also while this looks at it.
    if left == 0 && std::fs::remove_file(file).is_ok() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
        // The signal ends all threads; this one must not get further first.
        loop {
            std::thread::park();
        }
    }
    if let Ok(mut file) = std::fs::File::options().write(true).truncate(true).open(file) {
        let _ = file.write_all(left.saturating_sub(1).to_string().as_bytes());
    }
}
