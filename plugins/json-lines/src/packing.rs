//! Packing a rotated file, a piece with each write: a container's output never waits for a whole file.

use std::fs::{self, File};
use std::io::{self, Read};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::files::Files;

/// Bytes that are packed with each write. A write brings 64 KiB at most, so packing is done long before the next
/// rotation.
const PIECE: usize = 512 << 10;

/// The rotated file with the number 1 on its way to its packed form.
pub struct Packing {
    files: Files,
    from: File,
    encoder: GzEncoder<File>,
    block: Vec<u8>,
}

impl Packing {
    /// Begins; `None` when there is nothing to pack.
    pub fn begin(files: &Files) -> io::Result<Option<Self>> {
        let Ok(from) = File::open(files.rotated(1)) else { return Ok(None) };
        let encoder = GzEncoder::new(File::create(files.unfinished())?, Compression::fast());
        Ok(Some(Self { files: files.clone(), from, encoder, block: vec![0; 64 << 10] }))
    }

    /// Packs a piece; returns itself while there is more.
    pub fn go_on(mut self) -> io::Result<Option<Self>> {
        let mut done = 0;
        while done < PIECE {
            let read = self.from.read(&mut self.block)?;
            if read == 0 {
                return self.end().map(|()| None);
            }
            io::Write::write_all(&mut self.encoder, &self.block[..read])?;
            done += read;
        }
        Ok(Some(self))
    }

    /// Packs what is left.
    pub fn finish(self) -> io::Result<()> {
        let mut packing = Some(self);
        while let Some(more) = packing {
            packing = more.go_on()?;
        }
        Ok(())
    }

    /// The packed file appears whole, before the other goes: whoever reads finds one of them.
    fn end(self) -> io::Result<()> {
        self.encoder.finish()?;
        fs::rename(self.files.unfinished(), self.files.packed(1))?;
        fs::remove_file(self.files.rotated(1))
    }
}
