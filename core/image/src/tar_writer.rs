//! Writing a tar: ustar headers, PAX records where those are too small. The same entries give the same bytes.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

const BLOCK: u64 = 512;
/// The largest number that eight octal digits less one hold.
const MAX_SMALL: u64 = 0o7_777_777;
const MAX_SIZE: u64 = 0o77_777_777_777;

/// What is written before an entry's content.
#[derive(Debug, Clone)]
pub struct Head<'a> {
    pub kind: EntryType,
    /// Relative, without a trailing slash.
    pub path: &'a [u8],
    pub link: &'a [u8],
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    pub device: (u32, u32),
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl Default for Head<'_> {
    fn default() -> Self {
        Self {
            kind: EntryType::Regular,
            path: b"",
            link: b"",
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            device: (0, 0),
            xattrs: &[],
        }
    }
}

/// A tar that is being written.
pub struct TarWriter<W: Write> {
    inner: W,
    buffer: Vec<u8>,
}

impl<W: Write> std::fmt::Debug for TarWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarWriter").finish_non_exhaustive()
    }
}

impl<W: Write> TarWriter<W> {
    pub fn new(inner: W) -> Self {
        Self { inner, buffer: vec![0; 256 << 10] }
    }

    /// Writes an entry. `content` gives `size` bytes; if it has fewer, zeros follow, as the header is out already.
    pub fn entry(&mut self, head: &Head<'_>, content: Option<&mut dyn Read>) -> io::Result<()> {
        let mut path = head.path.to_vec();
        if head.kind == EntryType::Directory {
            path.push(b'/');
        }
        let records = extensions(head, &path);
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            set_bytes(&mut header.as_old_mut().name, &pax_name(&path));
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(records.len() as u64);
            header.set_cksum();
            self.inner.write_all(header.as_bytes())?;
            self.inner.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(head.kind);
        set_bytes(&mut header.as_old_mut().name, &path);
        set_bytes(&mut header.as_old_mut().linkname, head.link);
        header.set_mode(head.mode);
        header.set_uid(if u64::from(head.uid) > MAX_SMALL { 0 } else { head.uid.into() });
        header.set_gid(if u64::from(head.gid) > MAX_SMALL { 0 } else { head.gid.into() });
        header.set_mtime(u64::try_from(head.mtime).ok().filter(|time| *time <= MAX_SIZE).unwrap_or(0));
        header.set_size(if head.size > MAX_SIZE { 0 } else { head.size });
        if matches!(head.kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(head.device.0)?;
            header.set_device_minor(head.device.1)?;
        }
        header.set_cksum();
        self.inner.write_all(header.as_bytes())?;
        if let Some(content) = content {
            self.content(content, head.size)?;
        }
        Ok(())
    }

    fn content(&mut self, content: &mut dyn Read, size: u64) -> io::Result<()> {
        let mut rest = size;
        while rest > 0 {
            let wanted = usize::try_from(rest).unwrap_or(usize::MAX).min(self.buffer.len());
            let mut read = crate::tar_reader::read_some(&mut &mut *content, &mut self.buffer[..wanted])?;
            if read == 0 {
                self.buffer[..wanted].fill(0);
                read = wanted;
            }
            self.inner.write_all(&self.buffer[..read])?;
            rest -= read as u64;
        }
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = usize::try_from(size % BLOCK).unwrap_or(0);
        if over > 0 { self.inner.write_all(&[0; BLOCK as usize][over..]) } else { Ok(()) }
    }

    /// Where it is written.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.inner
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(&[0; 2 * BLOCK as usize])?;
        Ok(self.inner)
    }
}

fn set_bytes(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

/// Only old readers show this name.
fn pax_name(path: &[u8]) -> Vec<u8> {
    let base = path.split(|byte| *byte == b'/').rfind(|part| !part.is_empty()).unwrap_or(b"entry");
    [b"PaxHeaders.0/", base].concat()
}

fn extensions(head: &Head<'_>, path: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    if path.len() > 100 || !path.is_ascii() {
        record(&mut records, b"path", path);
    }
    if head.link.len() > 100 || !head.link.is_ascii() {
        record(&mut records, b"linkpath", head.link);
    }
    if head.size > MAX_SIZE {
        record(&mut records, b"size", head.size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], head.uid), (b"gid", head.gid)] {
        if u64::from(id) > MAX_SMALL {
            record(&mut records, key, id.to_string().as_bytes());
        }
    }
    if head.mtime < 0 || u64::try_from(head.mtime).is_ok_and(|time| time > MAX_SIZE) {
        record(&mut records, b"mtime", head.mtime.to_string().as_bytes());
    }
    for (key, value) in head.xattrs {
        record(&mut records, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
    }
    records
}

/// A record begins with its own length, the digits of the length included.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}
