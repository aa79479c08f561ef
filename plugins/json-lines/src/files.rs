//! The files of a log: the present one, and those that were rotated away, the newest with the number 1.

use std::fs::{self, File};
use std::hash::Hasher;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use flate2::read::GzDecoder;

/// How much of a first line is looked at to know a file again. Lines are shorter, as records are.
const FIRST: u64 = 256 << 10;

/// Names of a log's files.
#[derive(Clone)]
pub struct Files {
    folder: PathBuf,
    id: String,
}

/// A rotated file, as it lies there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    Plain,
    Packed,
}

impl Files {
    pub fn new(folder: PathBuf, id: &str) -> Self {
        Self { folder, id: id.to_owned() }
    }

    /// The one that is written now.
    pub fn current(&self) -> PathBuf {
        self.folder.join(format!("{}-json.log", self.id))
    }

    pub fn rotated(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{}-json.log.{number}", self.id))
    }

    pub fn packed(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{}-json.log.{number}.gz", self.id))
    }

    /// Where packing goes on until it is done.
    pub fn unfinished(&self) -> PathBuf {
        self.folder.join(format!("{}-json.log.tmp", self.id))
    }

    /// Opens a rotated file; `None` when there is none of that number.
    pub fn open_rotated(&self, number: u32) -> Option<(File, Form)> {
        let plain = File::open(self.rotated(number)).map(|file| (file, Form::Plain));
        plain.or_else(|_| File::open(self.packed(number)).map(|file| (file, Form::Packed))).ok()
    }

    /// Makes room at the number 1; the file of the number `keep` goes.
    pub fn shift(&self, keep: u32) -> io::Result<()> {
        for name in [self.rotated(keep), self.packed(keep)] {
            gone(fs::remove_file(name))?;
        }
        for number in (1..keep).rev() {
            gone(fs::rename(self.rotated(number), self.rotated(number + 1)))?;
            gone(fs::rename(self.packed(number), self.packed(number + 1)))?;
        }
        Ok(())
    }
}

/// What is not there needs no moving.
fn gone(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// By what a file is known again under another name: its first line has a time of its own. `None` while it is empty.
pub fn identity(reader: impl Read) -> io::Result<Option<u64>> {
    let mut line = Vec::new();
    BufReader::with_capacity(512, reader).take(FIRST).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Ok(None);
    }
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(&line);
    Ok(Some(hasher.finish()))
}

/// The identity of a rotated file.
pub fn identity_of(file: File, form: Form) -> io::Result<Option<u64>> {
    match form {
        Form::Plain => identity(file),
        Form::Packed => identity(GzDecoder::new(file)),
    }
}
