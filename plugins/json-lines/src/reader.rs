//! Reading back: rotated files from the oldest to the newest, by time (found by halving) or from the end, and on through
//! rotations while the log is followed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use flate2::read::GzDecoder;
use sampan_driver_sdk::frame::{HEAD, Record};

use crate::encode::{parse, time_of};
use crate::files::{Files, Form, identity, identity_of};

/// What a call returns at most; a record more may stand above it only if it is alone.
const BATCH: usize = 60 << 10;
/// Read from a file at once.
const BLOCK: usize = 64 << 10;
/// A line that is longer than any record can make is none of ours: its text is forgotten.
const LINE: usize = 1 << 20;

/// What is read.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// In nanoseconds since the epoch, both inclusive.
    pub since: u64,
    pub until: u64,
    /// Lines from the end.
    pub tail: Option<u64>,
}

/// A file that is being read.
enum Open {
    /// The one that is written now, or was when the reader came to it.
    Present {
        file: File,
        identity: Option<u64>,
    },
    Rotated(Box<dyn Read>),
}

impl Open {
    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Present { file, .. } => file.read(block),
            Self::Rotated(reader) => reader.read(block),
        }
    }
}

pub struct Reader {
    files: Files,
    /// Files that are still to come, the next one last.
    coming: Vec<Open>,
    open: Option<Open>,
    /// What was read of a line that is not whole yet.
    rest: Vec<u8>,
    wanted: Wanted,
    ended: bool,
}

impl Reader {
    pub fn open(files: Files, wanted: Wanted) -> io::Result<Self> {
        // Newest first.
        let mut coming = Vec::new();
        let mut tail = wanted.tail;
        let mut full = false;
        if let Ok(mut file) = File::open(files.current()) {
            let identity = same(&mut file)?;
            let (start, found) = start_of(&mut file, wanted.since, tail)?;
            file.seek(SeekFrom::Start(start))?;
            tail = tail.map(|lines| lines - found);
            full = start > 0 && found > 0;
            coming.push(Open::Present { file, identity });
        }
        for number in 1.. {
            if tail == Some(0) || full {
                break;
            }
            let Some((mut file, form)) = files.open_rotated(number) else { break };
            let (start, found) = match form {
                Form::Plain => start_of(&mut file, wanted.since, tail)?,
                Form::Packed => start_of_packed(&mut file, wanted.since, tail)?,
            };
            tail = tail.map(|lines| lines - found);
            // Older files have only older lines.
            full = start > 0;
            coming.push(Open::Rotated(reading_from(file, form, start)?));
        }
        let open = coming.pop();
        Ok(Self { files, coming, open, rest: Vec::new(), wanted, ended: false })
    }

    /// The next framed records; empty at the present end.
    #[allow(clippy::should_implement_trait)] // it can fail, and is done when it gives nothing
    pub fn next(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(BATCH + HEAD);
        loop {
            let taken = self.take(&mut out);
            if self.ended || taken == Taken::Full || out.len() > BATCH / 2 || !self.fill()? {
                return Ok(out);
            }
        }
    }

    /// Frames the whole lines at hand.
    fn take(&mut self, out: &mut Vec<u8>) -> Taken {
        let mut used = 0;
        let mut taken = Taken::All;
        while let Some(length) = memchr::memchr(b'\n', &self.rest[used..]) {
            if let Some(line) = parse(&self.rest[used..used + length]) {
                if line.time > self.wanted.until {
                    self.ended = true;
                    break;
                }
                if line.time >= self.wanted.since {
                    if out.len() + line.text.len() + HEAD > BATCH && !out.is_empty() {
                        taken = Taken::Full;
                        break;
                    }
                    Record { time: line.time, stream: line.stream, partial: line.partial, bytes: &line.text }
                        .encode(out);
                }
            }
            used += length + 1;
        }
        self.rest.drain(..used);
        if self.rest.len() > LINE {
            self.rest.clear();
        }
        taken
    }

    /// Reads on; whether there was anything.
    fn fill(&mut self) -> io::Result<bool> {
        loop {
            let Some(open) = &mut self.open else {
                // Nothing had been written when the reader began.
                match File::open(self.files.current()) {
                    Ok(mut file) => {
                        let identity = same(&mut file)?;
                        self.open = Some(Open::Present { file, identity });
                        continue;
                    }
                    Err(_) => return Ok(false),
                }
            };
            let before = self.rest.len();
            self.rest.resize(before + BLOCK, 0);
            let read = open.read(&mut self.rest[before..]);
            self.rest.truncate(before + *read.as_ref().unwrap_or(&0));
            if read? > 0 {
                return Ok(true);
            }
            match self.coming.pop() {
                Some(next) => {
                    self.rest.clear();
                    self.open = Some(next);
                }
                None if self.follow_rotation()? => {}
                None => return Ok(false),
            }
        }
    }

    /// At the end of what was the present file: whether to go on, in it or in those that took its place.
    fn follow_rotation(&mut self) -> io::Result<bool> {
        let Some(Open::Present { file, identity: known }) = &mut self.open else { return self.begin_anew() };
        // The name first: what came to the file before it lost its name is then there to be read.
        let Ok(mut now) = File::open(self.files.current()) else { return Ok(false) };
        let of_name = same(&mut now)?;
        let position = file.stream_position()?;
        let own = same(file)?;
        if known.is_none() {
            *known = own;
        }
        if own != *known {
            // Emptied in place, and written since or not.
            *known = own;
            file.seek(SeekFrom::Start(0))?;
            self.rest.clear();
            return Ok(own.is_some());
        }
        file.seek(SeekFrom::Start(position))?;
        if file.metadata()?.len() > position {
            return Ok(true);
        }
        if of_name == own || own.is_none() {
            return Ok(false);
        }
        let own = own.unwrap_or_default();
        self.rest.clear();
        self.coming = vec![Open::Present { file: now, identity: of_name }];
        // Rotated several times since: the ones between come first.
        for number in 1.. {
            let Some((mut file, form)) = self.files.open_rotated(number) else { break };
            if identity_of(file.try_clone()?, form)? == Some(own) {
                break;
            }
            file.seek(SeekFrom::Start(0))?;
            self.coming.push(Open::Rotated(reading_from(file, form, 0)?));
        }
        self.open = self.coming.pop();
        Ok(self.open.is_some())
    }

    /// Behind rotated files without a present one.
    fn begin_anew(&mut self) -> io::Result<bool> {
        let Ok(mut file) = File::open(self.files.current()) else { return Ok(false) };
        let identity = same(&mut file)?;
        self.rest.clear();
        self.open = Some(Open::Present { file, identity });
        Ok(true)
    }
}

#[derive(PartialEq, Eq)]
enum Taken {
    All,
    Full,
}

/// A file's identity; leaves it at its beginning.
fn same(file: &mut File) -> io::Result<Option<u64>> {
    file.seek(SeekFrom::Start(0))?;
    let found = identity(&mut *file)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(found)
}

/// A rotated file from a position of its text on.
fn reading_from(mut file: File, form: Form, start: u64) -> io::Result<Box<dyn Read>> {
    match form {
        Form::Plain => {
            file.seek(SeekFrom::Start(start))?;
            Ok(Box::new(file))
        }
        Form::Packed => {
            file.seek(SeekFrom::Start(0))?;
            let mut reader = GzDecoder::new(file);
            io::copy(&mut (&mut reader).take(start), &mut io::sink())?;
            Ok(Box::new(reader))
        }
    }
}

/// Where in a file the wanted lines begin, and how many there are (counted only when a tail is asked for).
fn start_of(file: &mut File, since: u64, tail: Option<u64>) -> io::Result<(u64, u64)> {
    let floor = if since > 0 { first_from(file, since)? } else { 0 };
    match tail {
        Some(lines) => from_end(file, lines, floor),
        None => Ok((floor, u64::from(floor < file.seek(SeekFrom::End(0))?))),
    }
}

/// The same for a packed file, which can only be read from its beginning.
fn start_of_packed(file: &mut File, since: u64, tail: Option<u64>) -> io::Result<(u64, u64)> {
    let pass = |file: &mut File, visit: &mut dyn FnMut(u64, &[u8]) -> bool| -> io::Result<()> {
        file.seek(SeekFrom::Start(0))?;
        let mut reader = io::BufReader::with_capacity(BLOCK, GzDecoder::new(file));
        let (mut position, mut line) = (0, Vec::new());
        loop {
            line.clear();
            let length = io::BufRead::read_until(&mut reader, b'\n', &mut line)?;
            if length == 0 || !visit(position, line.strip_suffix(b"\n").unwrap_or(&line)) {
                return Ok(());
            }
            position += length as u64;
        }
    };
    let (mut floor, mut count, mut end) = (None, 0, 0);
    pass(file, &mut |position, line| {
        if floor.is_none() && (since == 0 || time_of(line).is_some_and(|time| time >= since)) {
            floor = Some(position);
        }
        count += u64::from(floor.is_some());
        end = position + line.len() as u64 + 1;
        tail.is_some() || floor.is_none()
    })?;
    let Some(floor) = floor else { return Ok((end, 0)) };
    let Some(lines) = tail.filter(|lines| *lines < count) else { return Ok((floor, count)) };
    let (mut skip, mut start) = (count - lines, end);
    pass(file, &mut |position, _| {
        if position >= floor {
            if skip == 0 {
                start = position;
                return false;
            }
            skip -= 1;
        }
        true
    })?;
    Ok((start, lines))
}

/// The first whole line at or behind a position: where it begins, and its text.
fn line_behind(file: &mut File, position: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut start = position;
    let mut offset = position.saturating_sub(1);
    file.seek(SeekFrom::Start(offset))?;
    let mut text = Vec::new();
    let mut block = [0; 4096];
    let mut skipping = position > 0;
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok(None);
        }
        let mut piece = &block[..read];
        if skipping {
            match memchr::memchr(b'\n', piece) {
                Some(at) => {
                    start = offset + at as u64 + 1;
                    piece = &piece[at + 1..];
                    skipping = false;
                }
                None => {
                    offset += read as u64;
                    continue;
                }
            }
        }
        let before = text.len();
        text.extend_from_slice(piece);
        if let Some(end) = memchr::memchr(b'\n', &text[before..]) {
            text.truncate(before + end);
            return Ok(Some((start, text)));
        }
        offset += read as u64;
    }
}

/// Where the first line with a time from `since` on begins; lines are in the order of time.
fn first_from(file: &mut File, since: u64) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low) / 2;
        match line_behind(file, middle)? {
            Some((_, line)) if time_of(&line).is_some_and(|time| time < since) => low = middle + 1,
            _ => high = middle,
        }
    }
    // Behind the last whole line there may be the beginning of another.
    Ok(match line_behind(file, low)? {
        Some((start, _)) => start,
        None => end_of_lines(file, end)?,
    })
}

/// Behind the last whole line.
fn end_of_lines(file: &mut File, end: u64) -> io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let mut position = end;
    while position > 0 {
        let start = position.saturating_sub(BLOCK as u64);
        let size = usize::try_from(position - start).unwrap_or(0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..size])?;
        if let Some(at) = memchr::memrchr(b'\n', &block[..size]) {
            return Ok(start + at as u64 + 1);
        }
        position = start;
    }
    Ok(0)
}

/// Where the last `lines` lines behind `floor` begin, and how many there are.
fn from_end(file: &mut File, lines: u64, floor: u64) -> io::Result<(u64, u64)> {
    let length = file.seek(SeekFrom::End(0))?;
    let end = end_of_lines(file, length)?;
    if lines == 0 || end <= floor {
        return Ok((end.max(floor), 0));
    }
    let mut position = end - 1;
    let mut found = 0;
    let mut block = vec![0; BLOCK];
    while position > floor {
        let start = position.saturating_sub(BLOCK as u64).max(floor);
        let size = usize::try_from(position - start).unwrap_or(0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..size])?;
        for at in memchr::memrchr_iter(b'\n', &block[..size]) {
            found += 1;
            if found == lines {
                return Ok((start + at as u64 + 1, found));
            }
        }
        position = start;
    }
    Ok((floor, found + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Rotation;
    use crate::writer::Writer;
    use sampan_driver_sdk::frame::records;
    use std::path::Path;

    const ALL: Wanted = Wanted { since: 0, until: u64::MAX, tail: None };

    fn writer(folder: &Path, max_size: Option<u64>, max_file: u32, compress: bool) -> Writer {
        Writer::open(Files::new(folder.into(), "c"), Rotation { max_size, max_file, compress }, "").unwrap()
    }

    fn write(writer: &mut Writer, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let mut batch = Vec::new();
            Record { time: number * 1000, stream: 1, partial: false, bytes: format!("line {number}").as_bytes() }
                .encode(&mut batch);
            writer.write(&batch).unwrap();
        }
    }

    fn reader(folder: &Path, wanted: Wanted) -> Reader {
        Reader::open(Files::new(folder.into(), "c"), wanted).unwrap()
    }

    /// The numbers of the lines up to the present end.
    fn rest(reader: &mut Reader) -> Vec<u64> {
        let mut found = Vec::new();
        loop {
            let batch = reader.next().unwrap();
            if batch.is_empty() {
                return found;
            }
            found.extend(records(&batch).map(|record| record.time / 1000));
        }
    }

    fn range(numbers: std::ops::Range<u64>) -> Vec<u64> {
        numbers.collect()
    }

    #[test]
    fn every_window_of_a_log_is_found_packed_or_not() {
        for compress in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let mut writer = writer(folder.path(), Some(2000), 100, compress);
            write(&mut writer, 0..200);
            assert!(folder.path().join(if compress { "c-json.log.2.gz" } else { "c-json.log.2" }).exists());
            let read = |wanted| rest(&mut reader(folder.path(), wanted));
            assert_eq!(read(ALL), range(0..200));
            for from in [0, 1, 25, 26, 27, 50, 100, 199, 200, 500] {
                assert_eq!(read(Wanted { since: from * 1000, ..ALL }), range(from.min(200)..200), "since {from}");
                assert_eq!(read(Wanted { until: from * 1000, ..ALL }), range(0..(from + 1).min(200)), "until {from}");
                assert_eq!(read(Wanted { tail: Some(from), ..ALL }), range(200 - from.min(200)..200), "tail {from}");
                let both = Wanted { since: 150_000, tail: Some(from), ..ALL };
                assert_eq!(read(both), range(200 - from.min(50)..200), "tail {from} since 150");
            }
            assert_eq!(read(Wanted { since: 99_500, until: 102_000, tail: None }), [100, 101, 102]);
        }
    }

    #[test]
    fn a_reader_follows_through_rotations() {
        for compress in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let mut following = reader(folder.path(), ALL);
            assert!(rest(&mut following).is_empty());
            let mut writer = writer(folder.path(), Some(1000), 50, compress);
            let mut next = 0;
            // Less than a file, one, and several between two looks.
            for step in [1, 3, 15, 1, 60, 200, 0, 14, 14, 1] {
                write(&mut writer, next..next + step);
                assert_eq!(rest(&mut following), range(next..next + step), "{next} and {step} more");
                next += step;
            }
        }
    }

    #[test]
    fn a_reader_follows_a_file_that_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(folder.path(), Some(1000), 1, false);
        write(&mut writer, 0..5);
        let mut following = reader(folder.path(), Wanted { tail: Some(0), ..ALL });
        assert!(rest(&mut following).is_empty());
        write(&mut writer, 5..7);
        assert_eq!(rest(&mut following), [5, 6]);
        // What was emptied before it was read is lost; what is there comes whole, once.
        write(&mut writer, 7..100);
        let found = rest(&mut following);
        assert_eq!(found.last(), Some(&99));
        assert!(found.windows(2).all(|pair| pair[1] == pair[0] + 1), "{found:?}");
        write(&mut writer, 100..101);
        assert_eq!(rest(&mut following), [100]);
    }

    #[test]
    fn what_is_no_line_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(folder.path(), None, 1, false);
        write(&mut writer, 0..2);
        let path = folder.path().join("c-json.log");
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"\n\x00\xffgarbage\n");
        std::fs::write(&path, &text).unwrap();
        write(&mut writer, 2..3);
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"log\":\"half");
        std::fs::write(&path, &text).unwrap();
        assert_eq!(rest(&mut reader(folder.path(), ALL)), [0, 1, 2]);
        assert_eq!(rest(&mut reader(folder.path(), Wanted { tail: Some(1), ..ALL })), [2]);
        assert_eq!(rest(&mut reader(folder.path(), Wanted { since: 2000, ..ALL })), [2]);
    }

    #[test]
    fn large_records_come_a_few_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(folder.path(), None, 1, false);
        let mut batch = Vec::new();
        for number in 0..10 {
            Record { time: number * 1000, stream: 2, partial: true, bytes: &[b'<'; 16 << 10] }.encode(&mut batch);
        }
        writer.write(&batch).unwrap();
        let mut reader = reader(folder.path(), ALL);
        let first = reader.next().unwrap();
        assert!(first.len() <= 64 << 10);
        assert!(records(&first).count() >= 2);
        assert!(records(&first).all(|record| record.partial && record.stream == 2 && record.bytes == [b'<'; 16 << 10]));
    }
}
