//! What a person at a terminal does: run, resize, detach, attach again, and an attached stack.
#![allow(clippy::unwrap_used, clippy::expect_used, unsafe_code, missing_docs)]

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_tests::{Host, IMAGE};

nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, Winsize);

/// A command at a terminal of its own.
struct Terminal {
    screen: File,
    command: Child,
    /// What was shown and not yet expected.
    shown: String,
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    fn open(host: &Host, folder: &Path, words: &[&str]) -> Self {
        let pair = openpty(Some(&size(31, 91)), None).unwrap();
        let end = || File::from(pair.slave.try_clone().unwrap());
        let command = host.command(words).current_dir(folder).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        Self { screen: File::from(pair.master), command, shown: String::new() }
    }

    fn say(&mut self, text: &str) {
        self.screen.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the text is shown, and takes everything up to it.
    fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + sampan_tests::PATIENCE;
        loop {
            if let Some(at) = self.shown.find(text) {
                self.shown.drain(..at + text.len());
                return;
            }
            assert!(Instant::now() < deadline, "{text:?} was not shown, but {:?}", self.shown);
            let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(&self.screen), PollFlags::POLLIN)];
            if poll(&mut ready, 100_u8).unwrap() > 0 {
                let mut piece = [0; 4096];
                // An end that nobody has open any more is an error of its own.
                let read = self.screen.read(&mut piece).unwrap_or(0);
                self.shown.push_str(&String::from_utf8_lossy(&piece[..read]));
            }
        }
    }

    fn resize(&self, rows: u16, columns: u16) {
        // SAFETY: the descriptor is a terminal's, and the kernel only reads the size.
        unsafe { set_size(std::os::fd::AsRawFd::as_raw_fd(&self.screen), &size(rows, columns)) }.unwrap();
        self.signal(Signal::SIGWINCH);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.command.id()).unwrap()), signal).unwrap();
    }

    fn ended(mut self) -> Option<i32> {
        let deadline = Instant::now() + sampan_tests::PATIENCE;
        loop {
            if let Some(status) = self.command.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the command goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_shell_is_resized_left_and_found_again() {
    let Some(host) = Host::with_image("a_shell_is_resized_left_and_found_again") else { return };
    let here = host.path("");
    let mut terminal = Terminal::open(&host, &here, &["run", "-it", "--name", "shell", IMAGE, "sh"]);
    terminal.say("stty size; echo sum $((40+2))\n");
    terminal.expect("31 91");
    terminal.expect("sum 42");
    terminal.resize(12, 45);
    host.wait_until("the new size is there", || {
        host.ok(&["exec", "shell", "stty", "-F", "/dev/console", "size"]) == "12 45"
    });
    terminal.say("kept=yes\n");
    terminal.say("\x10\x11");
    assert_eq!(terminal.ended(), Some(0), "detaching ends the command, not the container");
    assert_eq!(host.inspect("shell")["State"]["Running"], true);
    for turn in 0..2 {
        let mut again = Terminal::open(&host, &here, &["attach", "--detach-keys", "ctrl-e", "shell"]);
        again.say(&format!("echo turn-$(({turn}+7)) $kept\n"));
        again.expect(&format!("turn-{} yes", turn + 7));
        again.say("\x05");
        assert_eq!(again.ended(), Some(0));
    }
    let mut last = Terminal::open(&host, &here, &["attach", "shell"]);
    last.say("exit 5\n");
    assert_eq!(last.ended(), Some(5), "the container's exit code is the command's");
    assert_eq!(host.inspect("shell")["State"]["ExitCode"], 5);
}

#[test]
fn an_attached_stack_shows_its_logs_and_ends_with_ctrl_c() {
    let Some(host) = Host::with_image("an_attached_stack_shows_its_logs_and_ends_with_ctrl_c") else { return };
    let text = format!(
        "name: seen\nservices:\n  web:\n    image: {IMAGE}\n    init: true\n    command: sh -c 'echo begun; sleep 1000'\n"
    );
    let file = host.write("seen/compose.yaml", text);
    let mut terminal = Terminal::open(&host, file.parent().unwrap(), &["up"]);
    terminal.expect("begun");
    terminal.signal(Signal::SIGINT);
    let code = terminal.ended();
    assert!(code == Some(0) || code == Some(130), "{code:?}");
    assert_eq!(host.inspect("seen-web-1")["State"]["Status"], "exited");
    host.ok_in(file.parent().unwrap(), &["down"]);
}
