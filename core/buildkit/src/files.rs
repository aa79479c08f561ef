//! A directory on its way: fsutil's packets. Who sends names every file in order, with what `stat` says of it; who
//! receives asks for contents by number; both say when they are done.

mod receive;
mod send;

use prost::Message;
use std::cmp::Ordering;

pub use receive::{Limits, Receive, ReceiveError};
pub use send::{Send, SendError, Step};

/// Bits of a mode, as Go's `os.FileMode` has them.
pub mod mode {
    pub const DIRECTORY: u32 = 1 << 31;
    pub const SYMLINK: u32 = 1 << 27;
    pub const DEVICE: u32 = 1 << 26;
    pub const PIPE: u32 = 1 << 25;
    pub const SOCKET: u32 = 1 << 24;
    pub const SETUID: u32 = 1 << 23;
    pub const SETGID: u32 = 1 << 22;
    pub const CHARACTER: u32 = 1 << 21;
    pub const STICKY: u32 = 1 << 20;
    pub const IRREGULAR: u32 = 1 << 19;
    /// All that tell what something is.
    pub const KIND: u32 = DIRECTORY | SYMLINK | DEVICE | PIPE | SOCKET | CHARACTER | IRREGULAR;

    /// Permissions as the kernel has them.
    #[must_use]
    pub fn to_unix(mode: u32) -> u32 {
        let bit = |from: u32, to: u32| if mode & from != 0 { to } else { 0 };
        (mode & 0o777) | bit(SETUID, 0o4000) | bit(SETGID, 0o2000) | bit(STICKY, 0o1000)
    }

    /// The same from there.
    #[must_use]
    pub fn from_unix(mode: u32) -> u32 {
        let bit = |from: u32, to: u32| if mode & from != 0 { to } else { 0 };
        (mode & 0o777) | bit(0o4000, SETUID) | bit(0o2000, SETGID) | bit(0o1000, STICKY)
    }
}

/// One message of either side.
#[derive(Clone, PartialEq, Message)]
pub struct Packet {
    #[prost(int32, tag = "1")]
    pub kind: i32,
    #[prost(message, optional, tag = "2")]
    pub stat: Option<Stat>,
    #[prost(uint32, tag = "3")]
    pub id: u32,
    #[prost(bytes = "bytes", tag = "4")]
    pub data: bytes::Bytes,
}

/// Values of [`Packet::kind`].
pub mod kind {
    /// A name; without one, there are no more.
    pub const STAT: i32 = 0;
    /// Asks for the content of a file.
    pub const REQUEST: i32 = 1;
    /// A piece of it; an empty one ends it.
    pub const DATA: i32 = 2;
    /// Nothing more is wanted.
    pub const FINISHED: i32 = 3;
    /// Why the transfer is given up.
    pub const FAILURE: i32 = 4;
}

impl Packet {
    /// Asks for a file.
    #[must_use]
    pub fn request(id: u32) -> Self {
        Self { kind: kind::REQUEST, id, ..Self::default() }
    }

    /// Says that nothing more is wanted.
    #[must_use]
    pub fn finished() -> Self {
        Self { kind: kind::FINISHED, ..Self::default() }
    }

    /// A name, or the end of them.
    #[must_use]
    pub fn of(stat: Option<Stat>) -> Self {
        Self { stat, ..Self::default() }
    }

    /// A piece of a file, or its end.
    #[must_use]
    pub fn data(id: u32, data: bytes::Bytes) -> Self {
        Self { kind: kind::DATA, id, data, ..Self::default() }
    }
}

/// What is said of a file.
#[derive(Clone, PartialEq, Message)]
pub struct Stat {
    /// Below the directory, with slashes.
    #[prost(string, tag = "1")]
    pub path: String,
    /// See [`mode`].
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    #[prost(int64, tag = "5")]
    pub size: i64,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "6")]
    pub mod_time: i64,
    /// Of a symbolic link, or another name of the same file.
    #[prost(string, tag = "7")]
    pub linkname: String,
    #[prost(int64, tag = "8")]
    pub devmajor: i64,
    #[prost(int64, tag = "9")]
    pub devminor: i64,
}

impl Stat {
    /// Whether its content can be asked for; both sides count by it.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.mode & mode::KIND == 0
    }
}

/// The order of names: a directory comes before what is in it, and that before its next sibling.
#[must_use]
pub fn order(one: &str, other: &str) -> Ordering {
    one.split('/').cmp(other.split('/'))
}

/// Checks a name of the other side's.
///
/// # Errors
/// What is wrong with it.
pub fn check_path(path: &str) -> Result<(), &'static str> {
    match path {
        "" => Err("an empty name"),
        _ if path.len() > 4096 => Err("a name of more than 4096 bytes"),
        _ if path.contains('\0') => Err("a name with a zero byte"),
        _ if path.starts_with('/') => Err("an absolute name"),
        _ => path.split('/').try_for_each(|part| match part {
            "" => Err("a name with an empty part"),
            "." | ".." => Err("a name that leads elsewhere"),
            _ if part.len() > 255 => Err("a name of more than 255 bytes"),
            _ => Ok(()),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn directories_come_before_what_is_in_them() {
        let mut names = ["b", "a.txt", "a/z", "a", "a/b/c", "a/b", "a-"];
        names.sort_by(|one, other| order(one, other));
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/z", "a-", "a.txt", "b"]);
    }

    #[test]
    fn modes_are_translated() {
        assert_eq!(mode::to_unix(mode::DIRECTORY | mode::STICKY | 0o755), 0o1755);
        for unix in [0o644, 0o4755, 0o2775, 0o1777] {
            assert_eq!(mode::to_unix(mode::from_unix(unix)), unix);
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_as_a_name_stays_below(path in "[a./\\\\\0]{0,12}") {
            if check_path(&path).is_ok() {
                let parts: Vec<_> = std::path::Path::new(&path).components().collect();
                prop_assert!(parts.iter().all(|part| matches!(part, std::path::Component::Normal(_))));
                prop_assert_eq!(parts.len(), path.split('/').count());
            }
        }
    }
}
