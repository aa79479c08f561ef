//! Sending: names leave in order, then what the other side asks for.

use std::collections::BTreeMap;

use super::{Packet, Stat, kind};

/// Why a transfer ends early.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("the client: {0}")]
    Client(String),
    #[error("the client asks for a file that was not named")]
    Request,
    #[error("a packet that has no place here")]
    Packet,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The content of this file is wanted.
    Send { id: u32, path: String },
    /// The other side has all.
    Finish,
}

/// A directory that is being sent.
#[derive(Debug, Default)]
pub struct Send {
    files: BTreeMap<u32, String>,
    names: u32,
}

impl Send {
    /// Counts a name that is sent.
    pub fn name(&mut self, stat: &Stat) {
        if stat.is_file() {
            self.files.insert(self.names, stat.path.clone());
        }
        self.names += 1;
    }

    /// What a packet of the other side asks for. A file is given once.
    ///
    /// # Errors
    /// What breaks a rule ends the transfer.
    pub fn take(&mut self, packet: &Packet) -> Result<Step, SendError> {
        match packet.kind {
            kind::REQUEST => {
                let path = self.files.remove(&packet.id).ok_or(SendError::Request)?;
                Ok(Step::Send { id: packet.id, path })
            }
            kind::FINISHED => Ok(Step::Finish),
            kind::FAILURE => Err(SendError::Client(String::from_utf8_lossy(&packet.data).into_owned())),
            _ => Err(SendError::Packet),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::files::mode;

    #[test]
    fn files_are_given_once_by_their_numbers() {
        let mut send = Send::default();
        send.name(&Stat { path: "a".into(), mode: mode::DIRECTORY, ..Stat::default() });
        send.name(&Stat { path: "a/b".into(), ..Stat::default() });
        assert!(send.take(&Packet::request(0)).is_err());
        assert_eq!(send.take(&Packet::request(1)).unwrap(), Step::Send { id: 1, path: "a/b".into() });
        assert!(send.take(&Packet::request(1)).is_err());
        assert_eq!(send.take(&Packet::finished()).unwrap(), Step::Finish);
        assert!(send.take(&Packet::of(None)).is_err());
    }
}
