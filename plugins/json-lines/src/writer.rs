//! Writing and rotating.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use sampan_driver_sdk::frame::records;

use crate::encode::Encoder;
use crate::files::Files;
use crate::packing::Packing;
use crate::settings::Rotation;

/// The sink of a container.
pub struct Writer {
    files: Files,
    file: File,
    length: u64,
    rotation: Rotation,
    encoder: Encoder,
    buffer: Vec<u8>,
    packing: Option<Packing>,
}

impl Writer {
    /// Goes on where an earlier one stopped. `attributes` is what stands between stream and time.
    pub fn open(files: Files, rotation: Rotation, attributes: &str) -> io::Result<Self> {
        let length = mend(&files.current())?;
        let file = open_for_append(&files.current())?;
        // What an earlier one had begun to pack is packed anew.
        let _ = fs::remove_file(files.unfinished());
        let packing = if rotation.compress { Packing::begin(&files)? } else { None };
        Ok(Self { files, file, length, rotation, encoder: Encoder::new(attributes), buffer: Vec::new(), packing })
    }

    /// Writes a batch whole, or leaves the file as it was as far as it can.
    pub fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        let limit = self.rotation.max_size.unwrap_or(u64::MAX);
        self.buffer.reserve(batch.len() * 2);
        for record in records(batch) {
            if self.length + self.buffer.len() as u64 >= limit {
                self.put()?;
                self.rotate()?;
            }
            self.encoder.line(&record, &mut self.buffer);
        }
        self.put()?;
        if let Some(packing) = self.packing.take() {
            // A packed copy is a matter of space only: a failure must not cost the lines that follow.
            self.packing = packing.go_on().unwrap_or_default();
        }
        Ok(())
    }

    fn put(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.buffer);
        let length = self.buffer.len() as u64;
        self.buffer.clear();
        match written {
            Ok(()) => {
                self.length += length;
                Ok(())
            }
            Err(error) => {
                // The batch comes again as a whole.
                let _ = self.file.set_len(self.length);
                Err(error)
            }
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.rotation.max_file < 2 {
            self.file.set_len(0)?;
            self.length = 0;
            return Ok(());
        }
        if let Some(packing) = self.packing.take() {
            let _ = packing.finish();
        }
        self.files.shift(self.rotation.max_file - 1)?;
        fs::rename(self.files.current(), self.files.rotated(1))?;
        self.file = open_for_append(&self.files.current())?;
        self.length = 0;
        if self.rotation.compress {
            self.packing = Packing::begin(&self.files).unwrap_or_default();
        }
        Ok(())
    }
}

fn open_for_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Cuts off what a crash left of a line; returns the length.
fn mend(path: &Path) -> io::Result<u64> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let mut end = length;
    let mut block = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let size = usize::try_from(end - start).unwrap_or(0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..size])?;
        if let Some(at) = memchr::memrchr(b'\n', &block[..size]) {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < length {
        file.set_len(end)?;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_driver_sdk::frame::Record;

    fn batch(text: &[u8], time: u64) -> Vec<u8> {
        let mut out = Vec::new();
        Record { time, stream: 1, partial: false, bytes: text }.encode(&mut out);
        out
    }

    fn writer(folder: &Path, max_size: Option<u64>, max_file: u32, compress: bool) -> Writer {
        Writer::open(Files::new(folder.into(), "c"), Rotation { max_size, max_file, compress }, "").unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_torn_line_is_cut_off_and_the_log_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c-json.log");
        fs::write(&path, "{\"log\":\"a\\n\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:00Z\"}\n{\"log\":\"tor")
            .unwrap();
        writer(folder.path(), None, 1, false).write(&batch(b"b", 1)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    }

    #[test]
    fn files_rotate_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(folder.path(), Some(100), 3, false);
        for number in 0..20 {
            writer.write(&batch(format!("line {number}").as_bytes(), number)).unwrap();
        }
        assert_eq!(names(folder.path()), ["c-json.log", "c-json.log.1", "c-json.log.2"]);
        let text = fs::read_to_string(folder.path().join("c-json.log.1")).unwrap();
        assert_eq!(text.lines().count(), 2, "a line more than fits");
        let last = fs::read_to_string(folder.path().join("c-json.log")).unwrap();
        assert!(last.contains("line 19"));
    }

    #[test]
    fn one_file_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(folder.path(), Some(100), 1, false);
        for number in 0..20 {
            writer.write(&batch(b"text", number)).unwrap();
        }
        assert_eq!(names(folder.path()), ["c-json.log"]);
        assert!(fs::metadata(folder.path().join("c-json.log")).unwrap().len() < 200);
    }

    #[test]
    fn rotated_files_are_packed_piece_by_piece_also_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let mut large = writer(folder.path(), Some(2 << 20), 3, true);
        let text = vec![b'x'; 16 << 10];
        let mut time = 0;
        while !folder.path().join("c-json.log.1").exists() {
            large.write(&batch(&text, time)).unwrap();
            time += 1;
        }
        // Killed while it packs.
        drop(large);
        assert!(folder.path().join("c-json.log.tmp").exists());
        let mut large = writer(folder.path(), Some(2 << 20), 3, true);
        for _ in 0..10 {
            large.write(&batch(b"more", time)).unwrap();
        }
        assert_eq!(names(folder.path()), ["c-json.log", "c-json.log.1.gz"]);
        while names(folder.path()).len() < 3 {
            large.write(&batch(&text, time)).unwrap();
        }
        (0..100).for_each(|_| large.write(&batch(&text, time)).unwrap());
        assert_eq!(names(folder.path()), ["c-json.log", "c-json.log.1.gz", "c-json.log.2.gz"]);
    }
}
