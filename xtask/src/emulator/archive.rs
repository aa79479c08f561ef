//! An initial file system as the kernel unpacks it: a `cpio` archive in its `newc` form.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;
const CONSOLE: u32 = 0o020_600;

/// What lies at a path.
#[derive(Debug)]
pub enum Node {
    Directory,
    /// A file of the host, with its mode.
    File(PathBuf),
    /// Content and mode.
    Text(Vec<u8>, u32),
    /// The device that init speaks through.
    Console,
}

/// Absolute paths and what lies there; folders above are made.
#[derive(Debug, Default)]
pub struct Archive {
    nodes: BTreeMap<PathBuf, Node>,
}

impl Archive {
    /// Puts something at an absolute path.
    pub fn add(&mut self, path: &str, node: Node) {
        let path = PathBuf::from(path.trim_start_matches('/'));
        for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            self.nodes.entry(above.to_owned()).or_insert(Node::Directory);
        }
        self.nodes.insert(path, node);
    }

    /// Puts a folder of the host at its own path.
    pub fn add_tree(&mut self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.add_tree(&entry.path())?;
            } else if kind.is_file() {
                self.add(&entry.path().to_string_lossy(), Node::File(entry.path()));
            }
        }
        Ok(())
    }

    /// Writes the archive.
    pub fn write(&self, to: &Path) -> Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(to)?);
        self.write_to(&mut out)?;
        out.flush().with_context(|| format!("write {}", to.display()))
    }

    fn write_to(&self, out: &mut impl Write) -> Result<()> {
        for (number, (path, node)) in self.nodes.iter().enumerate() {
            let mut head = Head {
                number: u32::try_from(number + 1)?,
                mode: DIRECTORY,
                size: 0,
                device: (0, 0),
                name: path.to_str().context("names are text")?,
            };
            match node {
                Node::Directory => head.write(out)?,
                Node::Console => {
                    (head.mode, head.device) = (CONSOLE, (5, 1));
                    head.write(out)?;
                }
                Node::Text(content, mode) => {
                    head.mode = REGULAR | mode;
                    head.size = u32::try_from(content.len())?;
                    head.write(out)?;
                    out.write_all(content)?;
                }
                Node::File(source) => {
                    let mut file = File::open(source).with_context(|| format!("open {}", source.display()))?;
                    let facts = file.metadata()?;
                    head.mode = REGULAR | (facts.permissions().mode() & 0o7777);
                    head.size = u32::try_from(facts.len())?;
                    head.write(out)?;
                    let copied = io::copy(&mut file, out)?;
                    anyhow::ensure!(copied == facts.len(), "{} changed while it was read", source.display());
                }
            }
            pad(out, head.size as usize)?;
        }
        Head { number: 0, mode: 0, size: 0, device: (0, 0), name: TRAILER }.write(out)
    }
}

struct Head<'a> {
    number: u32,
    mode: u32,
    size: u32,
    device: (u32, u32),
    name: &'a str,
}

impl Head<'_> {
    /// Thirteen numbers in hexadecimal, and the name with a closing zero.
    fn write(&self, out: &mut impl Write) -> Result<()> {
        let name = u32::try_from(self.name.len() + 1)?;
        let (major, minor) = self.device;
        let numbers = [self.number, self.mode, 0, 0, 1, 0, self.size, 0, 0, major, minor, name, 0];
        out.write_all(MAGIC.as_bytes())?;
        for number in numbers {
            write!(out, "{number:08x}")?;
        }
        out.write_all(self.name.as_bytes())?;
        out.write_all(&[0])?;
        pad(out, MAGIC.len() + numbers.len() * 8 + self.name.len() + 1)
    }
}

/// Everything begins at a multiple of four.
fn pad(out: &mut impl Write, written: usize) -> Result<()> {
    out.write_all(&[0; 3][..written.wrapping_neg() % 4]).context("write")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_folders_come_first() {
        let mut archive = Archive::default();
        archive.add("/a/b/text", Node::Text(b"hello".to_vec(), 0o644));
        let mut bytes = Vec::new();
        archive.write_to(&mut bytes).unwrap();
        let (mut at, mut names) = (0, Vec::new());
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], MAGIC.as_bytes());
            let number = |index: usize| {
                let from = at + 6 + index * 8;
                usize::from_str_radix(std::str::from_utf8(&bytes[from..from + 8]).unwrap(), 16).unwrap()
            };
            let (size, name) = (number(6), number(11));
            names.push(String::from_utf8_lossy(&bytes[at + 110..at + 110 + name - 1]).into_owned());
            at = (at + 110 + name).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
        assert_eq!(names, ["a", "a/b", "a/b/text", TRAILER]);
    }
}
