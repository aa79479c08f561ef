//! The daemon's listening socket: given by systemd, or made here.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use sampan_engine::COPIES;

/// First descriptor of socket activation, `sd_listen_fds(3)`.
const FIRST: i32 = 3;

/// The listener, and whether the socket's file is ours to remove.
pub fn listen(path: &Path, group: &str) -> io::Result<(UnixListener, bool)> {
    if let Some(given) = given() {
        return Ok((given, false));
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // A socket that nobody listens on was left by a daemon that died.
    let deadline = Instant::now() + COPIES;
    loop {
        match UnixStream::connect(path) {
            Ok(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another daemon listens there; stop it, or choose another socket (--socket, SAMPAN_RUN)",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => break fs::remove_file(path)?,
            Err(_) => break,
        }
    }
    // Nobody may connect before owner and mode are right.
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    if let Ok(Some(found)) = nix::unistd::Group::from_name(group) {
        chown(&temporary, None, Some(found.gid.as_raw()))?;
    }
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o660))?;
    fs::rename(&temporary, path)?;
    Ok((listener, true))
}

#[allow(unsafe_code)]
fn given() -> Option<UnixListener> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID")? != std::process::id() || number("LISTEN_FDS")? < 1 {
        return None;
    }
    // SAFETY: systemd's protocol says that this descriptor is open and ours.
    Some(UnixListener::from(unsafe { OwnedFd::from_raw_fd(FIRST) }))
}

/// Tells systemd how it stands, when it asked for that (`sd_notify(3)`).
pub fn notify(state: &str) {
    if let Some(address) =
        std::env::var_os("NOTIFY_SOCKET").filter(|address| address.as_encoded_bytes().starts_with(b"/"))
        && let Ok(socket) = std::os::unix::net::UnixDatagram::unbound()
    {
        let _ = socket.send_to(state.as_bytes(), Path::new(&address));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_socket_that_is_about_to_be_let_go_is_taken_over_and_one_that_is_served_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sampan.sock");
        let held = UnixListener::bind(&path).unwrap();
        assert_eq!(listen(&path, "none").unwrap_err().kind(), io::ErrorKind::AddrInUse);
        // As the copy in a process whose program is about to begin.
        let passing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(held);
        });
        assert!(listen(&path, "none").is_ok());
        passing.join().unwrap();
    }
}
