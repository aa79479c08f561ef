//! Receiving: packets enter, requests and the bytes of a tar leave.

use std::collections::{HashSet, VecDeque};
use std::io;

use bytes::Bytes;
use sampan_image::tar_writer::{Head, TarWriter};
use tar::EntryType;

use super::{Packet, Stat, check_path, kind, mode, order};

/// Bounds of one directory.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Names.
    pub names: u32,
    /// Bytes of all names and links together.
    pub name_bytes: usize,
    /// Bytes of files that are asked for before their turn.
    pub ahead: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { names: 5_000_000, name_bytes: 512 << 20, ahead: 8 << 20 }
    }
}

/// Files that are asked for at once, at most.
const REQUESTS: usize = 100;

/// Why a directory is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error("{path:?}: {why}")]
    Name { path: String, why: &'static str },
    #[error("more than {0} names")]
    TooMany(u32),
    #[error("its names have more than {0} bytes together")]
    TooLong(usize),
    #[error("{path:?} could not be read, or changed meanwhile: {missing} bytes are missing")]
    Short { path: String, missing: u64 },
    #[error("the client: {0}")]
    Client(String),
    #[error("a packet that was not asked for")]
    Packet,
    #[error("write it as a tar: {0}")]
    Tar(#[from] io::Error),
}

/// A name whose turn has not come.
struct Waiting {
    stat: Stat,
    id: u32,
    /// Came before its turn.
    pieces: Vec<Bytes>,
    /// Bytes that have not come.
    left: u64,
    /// The client has sent all that it has.
    ended: bool,
}

impl Waiting {
    /// A file of its own, not another name of one.
    fn is_content(&self) -> bool {
        self.stat.is_file() && self.stat.linkname.is_empty()
    }

    /// Whether it is written to its end when what has come is. One that was asked for ends as the client says.
    fn is_whole(&self) -> bool {
        !self.is_content() || self.stat.size == 0 || self.ended
    }
}

/// A directory that is being received.
pub struct Receive {
    limits: Limits,
    tar: TarWriter<Vec<u8>>,
    /// In order; the first is being written when it was begun.
    waiting: VecDeque<Waiting>,
    begun: bool,
    /// How many names are before the first that waits.
    gone: u32,
    /// The first name that nothing was asked of.
    asked: u32,
    /// Bytes that were asked for and have not been written.
    ahead: u64,
    /// Files that were asked for and have not ended.
    open: usize,
    names: u32,
    name_bytes: usize,
    last: Option<String>,
    /// Directories above the last name, and itself if it is one.
    folders: Vec<String>,
    /// Files, which other names may be of.
    files: HashSet<String>,
    complete: bool,
    finished: bool,
    out: VecDeque<Packet>,
}

impl std::fmt::Debug for Receive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receive").field("names", &self.names).field("waiting", &self.waiting.len()).finish()
    }
}

impl Receive {
    /// Nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            tar: TarWriter::new(Vec::new()),
            waiting: VecDeque::new(),
            begun: false,
            gone: 0,
            asked: 0,
            ahead: 0,
            open: 0,
            names: 0,
            name_bytes: 0,
            last: None,
            folders: Vec::new(),
            files: HashSet::new(),
            complete: false,
            finished: false,
            out: VecDeque::new(),
        }
    }

    /// Takes a packet.
    ///
    /// # Errors
    /// What breaks a rule ends the transfer.
    pub fn take(&mut self, packet: Packet) -> Result<(), ReceiveError> {
        match packet.kind {
            kind::STAT if !self.complete => match packet.stat {
                Some(stat) => self.name(stat)?,
                None => self.complete = true,
            },
            kind::DATA => self.data(packet.id, packet.data)?,
            kind::FAILURE => return Err(ReceiveError::Client(String::from_utf8_lossy(&packet.data).into_owned())),
            kind::FINISHED if self.finished => return Ok(()),
            _ => return Err(ReceiveError::Packet),
        }
        self.go_on()
    }

    /// A packet to be sent, if there is one.
    pub fn next_packet(&mut self) -> Option<Packet> {
        self.out.pop_front()
    }

    /// Bytes of the tar that have come about.
    #[must_use]
    pub fn tar(&mut self) -> Vec<u8> {
        std::mem::take(self.tar.get_mut())
    }

    /// Whether all is there; the tar has its end then.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    fn name(&mut self, stat: Stat) -> Result<(), ReceiveError> {
        if self.names == self.limits.names {
            return Err(ReceiveError::TooMany(self.limits.names));
        }
        self.name_bytes += stat.path.len() + stat.linkname.len();
        if self.name_bytes > self.limits.name_bytes {
            return Err(ReceiveError::TooLong(self.limits.name_bytes));
        }
        let check = || {
            check_path(&stat.path)?;
            if self.last.as_deref().is_some_and(|last| order(last, &stat.path).is_ge()) {
                return Err("a name out of order");
            }
            if stat.size < 0 {
                return Err("a negative size");
            }
            let parent = stat.path.rsplit_once('/').map(|(parent, _)| parent);
            if parent.is_some_and(|parent| !self.folders.iter().any(|folder| folder == parent)) {
                return Err("a name below no directory");
            }
            if stat.is_file() && !stat.linkname.is_empty() && !self.files.contains(&stat.linkname) {
                return Err("another name of a file that did not come before");
            }
            if stat.mode & mode::SYMLINK != 0 && (stat.linkname.is_empty() || stat.linkname.contains('\0')) {
                return Err("a link that leads nowhere");
            }
            Ok(())
        };
        check().map_err(|why| ReceiveError::Name { path: stat.path.clone(), why })?;
        self.folders.retain(|folder| stat.path.strip_prefix(folder.as_str()).is_some_and(|rest| rest.starts_with('/')));
        if stat.mode & mode::DIRECTORY != 0 {
            self.folders.push(stat.path.clone());
        } else if stat.is_file() && stat.linkname.is_empty() {
            self.files.insert(stat.path.clone());
        }
        self.last = Some(stat.path.clone());
        let left = if stat.is_file() && stat.linkname.is_empty() { u64::try_from(stat.size).unwrap_or(0) } else { 0 };
        self.waiting.push_back(Waiting { stat, id: self.names, pieces: Vec::new(), left, ended: false });
        self.names += 1;
        Ok(())
    }

    fn data(&mut self, id: u32, data: Bytes) -> Result<(), ReceiveError> {
        let at = id.checked_sub(self.gone).filter(|_| id < self.asked).ok_or(ReceiveError::Packet)?;
        let first = at == 0 && self.begun;
        let waiting = self.waiting.get_mut(at as usize).ok_or(ReceiveError::Packet)?;
        if waiting.ended || waiting.stat.size == 0 || !waiting.is_content() {
            return Err(ReceiveError::Packet);
        }
        if data.is_empty() {
            waiting.ended = true;
            self.open = self.open.saturating_sub(1);
            if waiting.left > 0 {
                let (path, missing) = (waiting.stat.path.clone(), waiting.left);
                return Err(ReceiveError::Short { path, missing });
            }
            return Ok(());
        }
        // A file that has grown since it was named is what it was then.
        let wanted = usize::try_from(waiting.left).unwrap_or(usize::MAX).min(data.len());
        waiting.left -= wanted as u64;
        let piece = data.slice(..wanted);
        if first {
            self.ahead -= piece.len() as u64;
            self.tar.get_mut().extend_from_slice(&piece);
        } else {
            waiting.pieces.push(piece);
        }
        Ok(())
    }

    /// Writes what has its turn, and asks for more.
    fn go_on(&mut self) -> Result<(), ReceiveError> {
        while let Some(first) = self.waiting.front_mut() {
            if !self.begun {
                head(&mut self.tar, &first.stat)?;
                self.begun = true;
            }
            for piece in std::mem::take(&mut first.pieces) {
                self.ahead -= piece.len() as u64;
                self.tar.get_mut().extend_from_slice(&piece);
            }
            if !first.is_whole() {
                break;
            }
            if first.is_content() {
                let over = usize::try_from(first.stat.size % 512).unwrap_or(0);
                if over > 0 {
                    self.tar.get_mut().extend(std::iter::repeat_n(0, 512 - over));
                }
            }
            self.asked = self.asked.max(first.id + 1);
            self.waiting.pop_front();
            self.gone += 1;
            self.begun = false;
        }
        while let Some(next) = self.waiting.get((self.asked - self.gone) as usize) {
            if next.is_content() && next.stat.size > 0 {
                if self.open > 0 && (self.open >= REQUESTS || self.ahead + next.left > self.limits.ahead) {
                    break;
                }
                self.ahead += next.left;
                self.open += 1;
                self.out.push_back(Packet::request(next.id));
            }
            self.asked += 1;
        }
        if self.complete && self.waiting.is_empty() && !self.finished {
            self.finished = true;
            self.tar.get_mut().extend([0; 1024]);
            self.out.push_back(Packet::finished());
        }
        Ok(())
    }
}

fn head(tar: &mut TarWriter<Vec<u8>>, stat: &Stat) -> io::Result<()> {
    let kind = match stat.mode & mode::KIND {
        0 if stat.linkname.is_empty() => EntryType::Regular,
        0 => EntryType::Link,
        mode::DIRECTORY => EntryType::Directory,
        mode::SYMLINK => EntryType::Symlink,
        mode::PIPE => EntryType::Fifo,
        kind if kind == mode::DEVICE | mode::CHARACTER => EntryType::Char,
        mode::DEVICE => EntryType::Block,
        // A tar has no sockets, and no build a use for them.
        _ => return Ok(()),
    };
    let device = |number: i64| u32::try_from(number).unwrap_or(0);
    let head = Head {
        kind,
        path: stat.path.as_bytes(),
        link: stat.linkname.as_bytes(),
        mode: mode::to_unix(stat.mode),
        uid: stat.uid,
        gid: stat.gid,
        size: if kind == EntryType::Regular { u64::try_from(stat.size).unwrap_or(0) } else { 0 },
        mtime: stat.mod_time.div_euclid(1_000_000_000),
        device: (device(stat.devmajor), device(stat.devminor)),
        ..Head::default()
    };
    tar.entry(&head, None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::io::Read as _;

    fn stat(path: &str, mode: u32, size: usize) -> Stat {
        Stat { path: path.to_owned(), mode, size: i64::try_from(size).unwrap(), ..Stat::default() }
    }

    fn file(path: &str, size: usize) -> Packet {
        Packet::of(Some(stat(path, 0o644, size)))
    }

    fn folder(path: &str) -> Packet {
        Packet::of(Some(stat(path, mode::DIRECTORY | 0o755, 4096)))
    }

    fn error(packets: Vec<Packet>) -> String {
        let mut receive = Receive::new(Limits { names: 5, name_bytes: 100, ahead: 100 });
        for packet in packets {
            if let Err(error) = receive.take(packet) {
                return error.to_string();
            }
        }
        String::new()
    }

    #[test]
    fn names_that_break_a_rule_end_the_transfer() {
        let link =
            |path: &str, to: &str, mode: u32| Packet::of(Some(Stat { linkname: to.to_owned(), ..stat(path, mode, 0) }));
        assert_eq!(error(vec![file("a", 0), file("b", 0), Packet::of(None)]), "");
        for (packets, part) in [
            (vec![file("../a", 0)], "leads elsewhere"),
            (vec![file("/a", 0)], "absolute"),
            (vec![file("", 0)], "empty"),
            (vec![file("b", 0), file("a", 0)], "out of order"),
            (vec![file("a", 0), file("a", 0)], "out of order"),
            (vec![file("a/b", 0)], "below no directory"),
            (vec![file("a", 0), file("a/b", 0)], "below no directory"),
            (vec![folder("a"), file("b", 0), file("b/c", 0)], "below no directory"),
            (vec![link("a", "b", 0o644)], "did not come before"),
            (vec![folder("a"), link("b", "a", 0o644)], "did not come before"),
            (vec![link("a", "", mode::SYMLINK | 0o777)], "leads nowhere"),
            (vec![Packet::of(Some(Stat { size: -1, ..stat("a", 0o644, 0) }))], "negative"),
            (vec![file("a", 0), file("b", 0), file("c", 0), file("d", 0), file("e", 0), file("f", 0)], "more than 5"),
            (vec![file(&"a".repeat(101), 0)], "more than 100 bytes"),
            (vec![Packet::of(None), file("a", 0)], "not asked for"),
            (vec![file("a", 1), Packet::data(1, Bytes::new())], "not asked for"),
            (vec![folder("a"), Packet::data(0, Bytes::from_static(b"x"))], "not asked for"),
            (vec![file("a", 2), Packet::data(0, Bytes::from_static(b"x")), Packet::data(0, Bytes::new())], "1 bytes"),
            (vec![Packet::finished()], "not asked for"),
            (vec![Packet { kind: kind::FAILURE, data: Bytes::from_static(b"no"), ..Packet::default() }], "no"),
        ] {
            let said = error(packets);
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    /// Plays a client that sends what is asked for in pieces, several files at once.
    fn transfer(stats: &[Stat], contents: &BTreeMap<String, Vec<u8>>, ahead: u64, piece: usize) -> Vec<u8> {
        let mut receive = Receive::new(Limits { ahead, ..Limits::default() });
        let mut sent = Vec::new();
        let mut open: Vec<(u32, VecDeque<Bytes>)> = Vec::new();
        let mut stats_left: VecDeque<Packet> = stats.iter().cloned().map(|stat| Packet::of(Some(stat))).collect();
        stats_left.push_back(Packet::of(None));
        let mut turn = 0;
        loop {
            while let Some(packet) = receive.next_packet() {
                match packet.kind {
                    kind::REQUEST => {
                        let content = &contents[&stats[packet.id as usize].path];
                        let pieces = content.chunks(piece).map(Bytes::copy_from_slice);
                        open.push((packet.id, pieces.chain([Bytes::new()]).collect()));
                    }
                    kind::FINISHED => {
                        receive.take(Packet::finished()).unwrap();
                        assert!(open.is_empty() && receive.is_finished());
                        sent.extend(receive.tar());
                        return sent;
                    }
                    other => panic!("{other}"),
                }
            }
            turn += 1;
            let names = turn % 2 == 0 || open.is_empty();
            if let Some(packet) = stats_left.pop_front_if(|_| names) {
                receive.take(packet).unwrap();
                continue;
            }
            let at = turn % open.len();
            let (id, pieces) = &mut open[at];
            receive.take(Packet::data(*id, pieces.pop_front().unwrap())).unwrap();
            if pieces.is_empty() {
                open.remove(at);
            }
            sent.extend(receive.tar());
        }
    }

    proptest! {
        #[test]
        fn a_directory_arrives_as_a_tar_of_it(
            files in proptest::collection::btree_map(
                "[a-c]{1,2}(/[a-c.]{2}x){0,2}", proptest::collection::vec(any::<u8>(), 0..1500), 0..12),
            ahead in 0_u64..4000,
            piece in 1_usize..700,
        ) {
            // What is a directory of another cannot be a file.
            let folders: std::collections::BTreeSet<String> = files
                .keys()
                .flat_map(|path| path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect::<Vec<_>>())
                .collect();
            let contents: BTreeMap<String, Vec<u8>> =
                files.into_iter().filter(|(path, _)| !folders.contains(path)).collect();
            let mut stats: Vec<Stat> = folders.iter().map(|path| stat(path, mode::DIRECTORY | 0o755, 4096)).collect();
            stats.extend(contents.iter().map(|(path, content)| stat(path, 0o644, content.len())));
            stats.sort_by(|one, other| order(&one.path, &other.path));
            let bytes = transfer(&stats, &contents, ahead, piece);
            let (mut found, mut found_folders) = (BTreeMap::new(), std::collections::BTreeSet::new());
            for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().to_str().unwrap().trim_end_matches('/').to_owned();
                if entry.header().entry_type().is_dir() {
                    found_folders.insert(path);
                } else {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content).unwrap();
                    found.insert(path, content);
                }
            }
            prop_assert_eq!(found, contents);
            prop_assert_eq!(found_folders, folders);
        }

        #[test]
        fn any_packets_are_taken_or_refused(
            packets in proptest::collection::vec(
                (0_i32..6, proptest::option::of(("[a-b/.]{0,4}", any::<u32>(), -2_i64..5, "[a-b]{0,1}")), 0_u32..4,
                    proptest::collection::vec(any::<u8>(), 0..4)), 0..20),
        ) {
            let mut receive = Receive::new(Limits::default());
            for (kind, stat, id, data) in packets {
                let stat = stat.map(|(path, mode, size, linkname)| Stat { path, mode, size, linkname, ..Stat::default() });
                if receive.take(Packet { kind, stat, id, data: data.into() }).is_err() {
                    break;
                }
            }
        }
    }
}
