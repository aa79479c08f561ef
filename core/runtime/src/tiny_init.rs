//! `--init`: process 1 that passes signals on to the program and reaps what is left to it.

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sys;

/// Watches over the program until it ends, and ends as it did.
pub fn supervise(program: i32) -> ! {
    sys::close_from(3);
    let program = Pid::from_raw(program);
    let signals = SigSet::all();
    // Blocked, so that they are waited for instead of acting here.
    let _ = signals.thread_block();
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {}
            Ok(signal) => {
                let _ = kill(program, signal);
                continue;
            }
            Err(_) => continue,
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == program => sys::exit(code),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => sys::exit(128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
    }
}
