//! The terminal: raw mode for `-it`, its size, and the detach keys.

use nix::sys::termios::{self, SetArg, Termios};
use std::io::IsTerminal;
use std::os::fd::AsFd;

use crate::failure::{Failure, Outcome};

/// Whether standard input is a terminal.
pub fn input_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// Whether standard output is a terminal.
pub fn output_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Raw mode of standard input, until dropped.
#[derive(Debug, Default)]
pub struct RawMode(Option<Termios>);

impl RawMode {
    /// Switches the terminal, if standard input is one.
    pub fn enter() -> Outcome<Self> {
        if !input_is_terminal() {
            return Ok(Self(None));
        }
        let input = std::io::stdin();
        let before = termios::tcgetattr(input.as_fd())
            .map_err(|error| Failure::new(format!("read the terminal's mode: {error}")))?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        // The container's terminal makes carriage returns; output from here stays as it comes.
        termios::tcsetattr(input.as_fd(), SetArg::TCSANOW, &raw)
            .map_err(|error| Failure::new(format!("set the terminal's mode: {error}")))?;
        Ok(Self(Some(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSADRAIN, before);
        }
    }
}

/// Rows and columns of the terminal that output goes to.
pub fn size() -> Option<(u16, u16)> {
    let size = terminal_size::terminal_size()?;
    Some((size.1.0, size.0.0))
}

/// Finds the detach sequence in what is typed; keys that only began one are passed on.
#[derive(Debug)]
pub struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

/// What to do with typed bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// Send them.
    Pass(Vec<u8>),
    /// Send them, and leave.
    Detach(Vec<u8>),
}

/// The keys that detach unless others are chosen.
const DETACH: &str = "ctrl-p,ctrl-q";

impl DetachKeys {
    /// From `--detach-keys`, else Docker's own.
    pub fn chosen(flag: Option<&str>) -> Outcome<Self> {
        Self::parse(flag.unwrap_or(DETACH))
    }

    /// Parses Docker's form: `ctrl-p,ctrl-q`, `a,b`, or one key.
    pub fn parse(text: &str) -> Outcome<Self> {
        let keys = text
            .split(',')
            .filter(|key| !key.is_empty())
            .map(|key| match key.strip_prefix("ctrl-") {
                Some(letter) => match letter.as_bytes() {
                    [letter @ b'a'..=b'z'] => Ok(letter - b'a' + 1),
                    [b'@'] => Ok(0),
                    [symbol @ (b'[' | b'\\' | b']' | b'^' | b'_')] => Ok(symbol - b'@'),
                    _ => Err(key),
                },
                None => match key.as_bytes() {
                    [one] => Ok(*one),
                    _ => Err(key),
                },
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|key| {
                Failure::usage(format!(
                    "invalid detach keys: unknown character: {key:?} (a letter, or ctrl- and one of a-z @ [ \\ ] ^ _)"
                ))
            })?;
        Ok(Self { keys, matched: 0 })
    }

    /// Takes typed bytes.
    pub fn feed(&mut self, typed: &[u8]) -> Typed {
        let mut pass = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return Typed::Detach(pass);
                }
                continue;
            }
            pass.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(self.keys.first() == Some(byte));
            if self.matched == 0 {
                pass.push(*byte);
            }
        }
        Typed::Pass(pass)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn detach_keys_are_found_across_reads_and_others_pass() {
        let mut keys = DetachKeys::parse("ctrl-p,ctrl-q").unwrap();
        assert_eq!(keys.feed(b"ab\x10"), Typed::Pass(b"ab".to_vec()));
        assert_eq!(keys.feed(b"c"), Typed::Pass(b"\x10c".to_vec()));
        assert_eq!(keys.feed(b"\x10"), Typed::Pass(vec![]));
        assert_eq!(keys.feed(b"\x11"), Typed::Detach(vec![]));
        assert!(DetachKeys::parse("ctrl-ä").is_err());
    }
}
