//! Reading a tar as a stream: ustar, PAX and GNU, with long names, sparse files, large numbers and attributes.
//!
//! Only the format: names are as they stand in the archive, nothing is judged here but what would not be a tar, and
//! lengths that would take memory without bound.

use std::io::{self, Read};

use tar::{EntryType, Header};

const BLOCK: usize = 512;
const BUFFER: usize = 256 << 10;
/// Longest extension record: names, attributes and maps of one entry.
const MAX_EXTENSION: u64 = 4 << 20;
/// Parts of one sparse file.
const MAX_PARTS: usize = 1 << 16;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Hardlink,
    Character,
    Block,
    Fifo,
}

/// An entry's header.
#[derive(Debug, Clone)]
pub struct Entry {
    pub kind: Kind,
    /// As it stands in the archive, without a trailing slash.
    pub path: Vec<u8>,
    /// Where a link points.
    pub link: Vec<u8>,
    /// Permission bits and set-id bits.
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Bytes of the file, holes included.
    pub size: u64,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    pub device: (u32, u32),
    /// Names without the `SCHILY.xattr.` before them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Offset and length of what is stored of a sparse file.
    pub parts: Option<Vec<(u64, u64)>>,
}

/// What the extension headers before an entry say.
#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_map: Option<Vec<u64>>,
    sparse_version: (u64, u64),
}

/// A tar that is being read.
#[derive(Debug)]
pub struct TarReader<R> {
    inner: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Stored bytes of the present entry that are still to be read.
    rest: u64,
    padding: u64,
    /// Bytes of the archive that were read so far.
    offset: u64,
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

impl<R: Read> TarReader<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, buffer: vec![0; BUFFER].into(), start: 0, end: 0, rest: 0, padding: 0, offset: 0 }
    }

    /// What is at hand, at least one byte unless the stream is at its end.
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = read_some(&mut self.inner, &mut self.buffer)?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, length: usize) {
        self.start += length;
        self.offset += length as u64;
    }

    fn skip(&mut self, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let at_hand = self.fill()?.len();
            if at_hand == 0 {
                return Err(truncated(self.offset));
            }
            let step = length.min(at_hand as u64);
            self.consume(usize::try_from(step).unwrap_or(at_hand));
            length -= step;
        }
        Ok(())
    }

    /// One block; `None` at the end of the stream.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let at_hand = self.fill()?;
            if at_hand.is_empty() {
                return if filled == 0 { Ok(None) } else { Err(truncated(self.offset)) };
            }
            let step = at_hand.len().min(BLOCK - filled);
            block[filled..filled + step].copy_from_slice(&at_hand[..step]);
            self.consume(step);
            filled += step;
        }
        Ok(Some(block))
    }

    /// The next piece of the present entry's stored bytes; empty at its end.
    pub fn chunk(&mut self) -> io::Result<&[u8]> {
        if self.rest == 0 {
            return Ok(&[]);
        }
        let rest = self.rest;
        if self.fill()?.is_empty() {
            return Err(truncated(self.offset));
        }
        let step = usize::try_from(rest).unwrap_or(usize::MAX).min(self.end - self.start);
        let from = self.start;
        self.consume(step);
        self.rest -= step as u64;
        Ok(&self.buffer[from..from + step])
    }

    /// The present entry's stored bytes as a stream of their own.
    pub fn stored(&mut self) -> Stored<'_, R> {
        Stored(self)
    }

    /// The whole content of an entry that must be short.
    pub fn content(&mut self, limit: u64) -> io::Result<Vec<u8>> {
        if self.rest > limit {
            return Err(invalid(format!("a record of {} bytes is longer than {limit}", self.rest)));
        }
        let mut content = Vec::with_capacity(usize::try_from(self.rest).unwrap_or(0));
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(content);
            }
            content.extend_from_slice(chunk);
        }
    }

    /// Goes to the next entry, past what is unread of the present one. `None` at the end of the archive.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut extension = Extension::default();
        loop {
            self.skip(self.rest + self.padding)?;
            (self.rest, self.padding) = (0, 0);
            let at = self.offset;
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            check_sum(&block).map_err(|why| invalid(format!("at byte {at}: {why}")))?;
            let kind = header.entry_type();
            let mut size = number(&block[124..136])?;
            if kind.is_gnu_longname()
                || kind.is_gnu_longlink()
                || kind.is_pax_local_extensions()
                || kind.is_pax_global_extensions()
            {
                self.begin(size)?;
                let content = self.content(MAX_EXTENSION)?;
                match kind {
                    EntryType::GNULongName => extension.path = Some(until_nul(&content).to_vec()),
                    EntryType::GNULongLink => extension.link = Some(until_nul(&content).to_vec()),
                    EntryType::XHeader => extension.read_pax(&content)?,
                    // What git and others put here (a comment) concerns no single entry.
                    _ => {}
                }
                continue;
            }
            if let Some(given) = extension.size {
                size = given;
            }
            return self.finish_entry(&block, header, size, extension).map(Some);
        }
    }

    fn begin(&mut self, size: u64) -> io::Result<()> {
        self.rest = size;
        let padded = size.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| invalid("an impossible size"))?;
        self.padding = padded - size;
        Ok(())
    }

    fn finish_entry(
        &mut self,
        block: &[u8; BLOCK],
        header: &Header,
        size: u64,
        extension: Extension,
    ) -> io::Result<Entry> {
        let raw_kind = header.entry_type();
        let mut path = match extension.sparse_name.or(extension.path) {
            Some(path) => path,
            None => header.path_bytes().into_owned(),
        };
        let kind = match raw_kind {
            // Before POSIX a directory was a file whose name ends with a slash.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::Hardlink,
            EntryType::Char => Kind::Character,
            EntryType::Block => Kind::Block,
            EntryType::Fifo => Kind::Fifo,
            other => {
                let name = String::from_utf8_lossy(&path).into_owned();
                return Err(invalid(format!("{name:?}: unknown kind of entry {:?}", char::from(other.as_byte()))));
            }
        };
        while path.len() > 1 && path.last() == Some(&b'/') {
            path.pop();
        }
        let mut entry = Entry {
            kind,
            path,
            link: extension
                .link
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .unwrap_or_default(),
            mode: u32::try_from(number(&block[100..108])? & 0o7777).unwrap_or(0),
            uid: match extension.uid {
                Some(uid) => uid,
                None => number(&block[108..116])?,
            },
            gid: match extension.gid {
                Some(gid) => gid,
                None => number(&block[116..124])?,
            },
            size,
            mtime: match extension.mtime {
                Some(time) => time,
                None => (signed_mtime(block)?, 0),
            },
            device: (
                header.device_major().ok().flatten().unwrap_or(0),
                header.device_minor().ok().flatten().unwrap_or(0),
            ),
            xattrs: extension.xattrs,
            parts: None,
        };
        if kind != Kind::File {
            // Links, directories and devices have no content, whatever their size field says.
            self.begin(0)?;
            entry.size = 0;
            return Ok(entry);
        }
        self.begin(size)?;
        if raw_kind.is_gnu_sparse() {
            let (parts, real) = self.gnu_sparse(block)?;
            entry.size = real;
            entry.parts = Some(check_parts(parts, real, self.rest)?);
        } else if extension.sparse_version == (1, 0) {
            let real = extension.sparse_size.ok_or_else(|| invalid("a sparse file without its size"))?;
            let parts = self.pax_sparse_map()?;
            entry.size = real;
            entry.parts = Some(check_parts(parts, real, self.rest)?);
        } else if let Some(map) = extension.sparse_map {
            let real = extension.sparse_size.ok_or_else(|| invalid("a sparse file without its size"))?;
            let parts = map.chunks(2).map(|pair| (pair[0], pair.get(1).copied().unwrap_or(0))).collect();
            entry.size = real;
            entry.parts = Some(check_parts(parts, real, self.rest)?);
        }
        Ok(entry)
    }

    /// The old GNU format: four parts in the header, 21 in each block that follows.
    fn gnu_sparse(&mut self, block: &[u8; BLOCK]) -> io::Result<(Vec<(u64, u64)>, u64)> {
        let mut parts = Vec::new();
        let mut take = |fields: &[u8]| -> io::Result<()> {
            for field in fields.chunks_exact(24) {
                if field[0] == 0 || field[12] == 0 {
                    break;
                }
                parts.push((number(&field[..12])?, number(&field[12..])?));
            }
            if parts.len() > MAX_PARTS { Err(invalid("a sparse file of too many parts")) } else { Ok(()) }
        };
        take(&block[386..482])?;
        let real = number(&block[483..495])?;
        let mut more = block[482] != 0;
        // These blocks come before the content and do not count as such.
        while more {
            let next = self.block()?.ok_or_else(|| truncated(self.offset))?;
            take(&next[..504])?;
            more = next[504] != 0;
        }
        Ok((parts, real))
    }

    /// The PAX format 1.0: decimal numbers in lines before the content, padded to a block.
    fn pax_sparse_map(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted = 1;
        let mut text = Vec::new();
        while numbers.len() < wanted {
            if self.rest < BLOCK as u64 {
                return Err(invalid("a sparse file's map is cut off"));
            }
            let block = self.block()?.ok_or_else(|| truncated(self.offset))?;
            self.rest -= BLOCK as u64;
            for byte in block {
                match byte {
                    b'\n' => {
                        numbers.push(decimal(&text)?);
                        text.clear();
                        if numbers.len() == 1 {
                            let parts = usize::try_from(numbers[0]).unwrap_or(usize::MAX);
                            if parts > MAX_PARTS {
                                return Err(invalid("a sparse file of too many parts"));
                            }
                            wanted = 1 + 2 * parts;
                        }
                        if numbers.len() == wanted {
                            break;
                        }
                    }
                    digit if text.len() < 20 => text.push(digit),
                    _ => return Err(invalid("a sparse file's map is not of numbers")),
                }
            }
        }
        Ok(numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    /// Reads the stream to its end, so that whoever hashes it sees all.
    pub fn drain(mut self) -> io::Result<()> {
        loop {
            let at_hand = self.fill()?.len();
            if at_hand == 0 {
                return Ok(());
            }
            self.consume(at_hand);
        }
    }
}

/// See [`TarReader::stored`].
#[derive(Debug)]
pub struct Stored<'a, R>(&'a mut TarReader<R>);

impl<R: Read> Read for Stored<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let tar = &mut *self.0;
        if tar.rest == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let at_hand = tar.fill()?;
        if at_hand.is_empty() {
            return Err(truncated(tar.offset));
        }
        let step = at_hand.len().min(buffer.len()).min(usize::try_from(tar.rest).unwrap_or(usize::MAX));
        buffer[..step].copy_from_slice(&tar.buffer[tar.start..tar.start + step]);
        tar.consume(step);
        tar.rest -= step as u64;
        Ok(step)
    }
}

impl Extension {
    fn read_pax(&mut self, content: &[u8]) -> io::Result<()> {
        let mut rest = content;
        while !rest.is_empty() && rest[0] != 0 {
            let bad = || invalid("a PAX record that cannot be read");
            let space = rest.iter().position(|byte| *byte == b' ').filter(|at| *at <= 8).ok_or_else(bad)?;
            let length = usize::try_from(decimal(&rest[..space])?).map_err(|_| bad())?;
            // A record's length counts itself, the space and the newline; values may hold any byte.
            if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &rest[space + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
            self.take(&record[..equals], &record[equals + 1..])?;
            rest = &rest[length..];
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.major" => self.sparse_version.0 = decimal(value)?,
            b"GNU.sparse.minor" => self.sparse_version.1 = decimal(value)?,
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse_size = Some(decimal(value)?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse_number(decimal(value)?)?,
            b"GNU.sparse.map" => {
                for part in value.split(|byte| *byte == b',').filter(|part| !part.is_empty()) {
                    self.sparse_number(decimal(part)?)?;
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    fn sparse_number(&mut self, number: u64) -> io::Result<()> {
        let map = self.sparse_map.get_or_insert_default();
        map.push(number);
        if map.len() > 2 * MAX_PARTS { Err(invalid("a sparse file of too many parts")) } else { Ok(()) }
    }
}

/// Parts must be in order, within the file, and as long together as what is stored.
fn check_parts(parts: Vec<(u64, u64)>, size: u64, stored: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut end = 0;
    let mut sum: u64 = 0;
    for (offset, length) in &parts {
        let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= size);
        end = next.ok_or_else(|| invalid("a sparse file whose parts overlap or lie outside"))?;
        sum = sum.saturating_add(*length);
    }
    if sum == stored { Ok(parts) } else { Err(invalid("a sparse file whose parts do not fit what is stored")) }
}

fn truncated(offset: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("the archive ends in the middle of an entry, at byte {offset}"),
    )
}

pub fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn check_sum(block: &[u8; BLOCK]) -> Result<(), &'static str> {
    let wanted = number(&block[148..156]).map_err(|_| "this is not a tar archive")?;
    let unsigned = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let sum = unsigned(&block[..148]) + 8 * u64::from(b' ') + unsigned(&block[156..]);
    if sum == wanted { Ok(()) } else { Err("a header's checksum is wrong: the archive is damaged, or is no tar") }
}

/// Whether an archive that begins so is a tar.
pub fn is_header(start: &[u8]) -> bool {
    start
        .first_chunk()
        .is_some_and(|block: &[u8; BLOCK]| block.iter().any(|byte| *byte != 0) && check_sum(block).is_ok())
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A header's number: octal digits, or big-endian when the highest bit is set.
fn number(field: &[u8]) -> io::Result<u64> {
    if field[0] & 0x80 != 0 {
        let mut value = u64::from(field[0] & 0x7f);
        for byte in &field[1..] {
            value =
                value.checked_shl(8).filter(|_| value >> 56 == 0).ok_or_else(|| invalid("a number out of range"))?
                    | u64::from(*byte);
        }
        return Ok(value);
    }
    // Writers put NUL or blanks where others put zeros, also in front and all over.
    let start = field.iter().position(|byte| !matches!(byte, 0 | b' ')).unwrap_or(field.len());
    let digits = until_nul(&field[start..]).trim_ascii();
    let text = std::str::from_utf8(digits).map_err(|_| invalid("a number that is none"))?;
    if text.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(text, 8).map_err(|_| invalid(format!("{text:?} is not a number")))
}

/// The header's time, which may lie before 1970 in the binary form.
fn signed_mtime(block: &[u8; BLOCK]) -> io::Result<i64> {
    let field = &block[136..148];
    if field[0] == 0xff {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&field[4..]);
        return Ok(i64::from_be_bytes(bytes));
    }
    Ok(i64::try_from(number(field)?).unwrap_or(0))
}

fn decimal(text: &[u8]) -> io::Result<u64> {
    let bad = || invalid(format!("{:?} is not a number", String::from_utf8_lossy(text)));
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(bad)
}

/// Seconds with a fraction, perhaps negative.
fn time(text: &[u8]) -> io::Result<(i64, u32)> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(at) => (&digits[..at], &digits[at + 1..]),
        None => (digits, &[][..]),
    };
    let seconds = i64::try_from(decimal(whole)?).map_err(|_| invalid("a time out of range"))?;
    let mut nanoseconds = 0;
    let mut unit = 100_000_000;
    for digit in fraction {
        if !digit.is_ascii_digit() {
            return Err(invalid("a time that is none"));
        }
        nanoseconds += u32::from(digit - b'0') * unit;
        unit /= 10;
    }
    Ok(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A header of a directory whose numeric fields are as given, but for its checksum.
    fn archive(change: impl FnOnce(&mut [u8; BLOCK])) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.set_path("dir/").unwrap();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(0o755);
        let mut block = *header.as_bytes();
        change(&mut block);
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        [&block[..], &[0; 2 * BLOCK]].concat()
    }

    #[test]
    fn numbers_that_are_left_out_are_zero() {
        const FIELDS: [std::ops::Range<usize>; 7] =
            [100..108, 108..116, 116..124, 124..136, 136..148, 329..337, 337..345];
        for filler in [0, b' '] {
            let bytes = archive(|block| FIELDS.into_iter().for_each(|field| block[field].fill(filler)));
            let mut tar = TarReader::new(bytes.as_slice());
            let entry = tar.next_entry().unwrap().unwrap();
            assert_eq!((entry.path.as_slice(), entry.kind), (&b"dir"[..], Kind::Directory));
            assert_eq!((entry.mode, entry.uid, entry.gid, entry.size), (0, 0, 0, 0));
            assert_eq!((entry.mtime, entry.device), ((0, 0), (0, 0)));
            assert!(tar.next_entry().unwrap().is_none());
        }
    }

    #[test]
    fn numbers_may_be_surrounded_but_not_be_words() {
        assert_eq!(number(b"  755 \0\0").unwrap(), 0o755);
        assert_eq!(number(b"\0\x20644\0 \0").unwrap(), 0o644);
        assert_eq!(number(b"0000000\0").unwrap(), 0);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 2]).unwrap(), 0x102);
        assert!(number(b"9999999\0").is_err() && number(b"what\0\0\0\0").is_err());
        let bytes = archive(|block| block[108..116].copy_from_slice(b"nobody\0\0"));
        assert!(TarReader::new(bytes.as_slice()).next_entry().is_err());
    }

    /// Random numbers whose seed is shown when a test fails.
    struct Random(u64);

    impl Random {
        fn new() -> Self {
            use std::hash::{BuildHasher, Hasher};
            let seed = std::env::var("SAMPAN_SEED").ok().and_then(|text| text.parse().ok());
            let seed = seed.unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish()) | 1;
            println!("SAMPAN_SEED={seed}");
            Self(seed)
        }

        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 11).unwrap() % limit.max(1)
        }
    }

    /// Archives of every kind of entry and extension.
    fn samples() -> Vec<Vec<u8>> {
        use crate::tar_writer::Head;
        use crate::testing::Archive;
        let long = "long/".repeat(60) + "name";
        let xattrs = [(b"user.note".to_vec(), vec![0, 1, 255]), (b"user.other".to_vec(), vec![b'x'; 300])];
        let ours = Archive::new()
            .dir("etc")
            .file("etc/a", &"content ".repeat(200))
            .file(&long, "named at length")
            .link(EntryType::Symlink, "link", &long)
            .link(EntryType::Link, "etc/b", "etc/a")
            .add(&Head { kind: EntryType::Char, path: b"null", device: (1, 3), ..Head::default() })
            .add(&Head { path: b"noted", uid: 4_000_000_000, mtime: -5, xattrs: &xattrs, ..Head::default() })
            .done();
        let mut gnu = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(3);
        gnu.append_data(&mut header, &long, &b"gnu"[..]).unwrap();
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        gnu.append_link(&mut header, "l", &long).unwrap();
        vec![ours, gnu.into_inner().unwrap()]
    }

    /// Changes some bytes, lengths and blocks; half of the time headers keep a right checksum.
    fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
        const FIELDS: &[u8] = b"01234567 \0\x80\xffxgLKS9-";
        for _ in 0..=random.below(6) {
            let at = random.below(bytes.len());
            match random.below(5) {
                0 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes.truncate(at.max(1)),
                3 => {
                    let block = bytes[at / BLOCK * BLOCK..].iter().copied().take(BLOCK).collect::<Vec<_>>();
                    let to = random.below(bytes.len()) / BLOCK * BLOCK;
                    drop(bytes.splice(to..to, block));
                }
                // A field of a header: mode, ids, size, time, kind.
                _ => {
                    let field = at / BLOCK * BLOCK + 100 + random.below(60);
                    if let Some(byte) = bytes.get_mut(field) {
                        *byte = FIELDS[random.below(FIELDS.len())];
                    }
                }
            }
            let start = at / BLOCK * BLOCK;
            if random.below(2) == 0
                && let Some(block) = bytes.get_mut(start..start + BLOCK)
            {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
    }

    #[test]
    fn archives_that_were_tampered_with_are_read_to_an_end_or_refused() {
        let mut random = Random::new();
        let samples = samples();
        for sample in &samples {
            let mut tar = TarReader::new(sample.as_slice());
            while tar.next_entry().unwrap().is_some() {}
        }
        for _ in 0..3000 {
            let mut bytes = samples[random.below(samples.len())].clone();
            mutate(&mut bytes, &mut random);
            let mut tar = TarReader::new(bytes.as_slice());
            let mut stored = 0;
            while let Ok(Some(entry)) = tar.next_entry() {
                let parts: u64 = entry.parts.iter().flatten().map(|(_, length)| length).sum();
                assert!(entry.parts.is_none() || parts <= entry.size);
                assert!(entry.path.len() as u64 <= MAX_EXTENSION);
                while let Ok(chunk) = tar.chunk()
                    && !chunk.is_empty()
                {
                    stored += chunk.len();
                }
            }
            assert!(stored <= bytes.len(), "no more is read than there is");
        }
    }
}
