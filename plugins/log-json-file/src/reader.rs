//! Reading back: rotated files from the oldest to the newest, by time (found by halving) or from the end.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use flate2::read::GzDecoder;
use sampan_driver_sdk::frame::Record;
use sampan_driver_sdk::log::{Failure, GuestCursor, Query};
use serde::Deserialize;

use crate::{current, rotated, time};

/// What a call returns at most; a record more may stand above it only if it is alone.
const BATCH: usize = 60 << 10;
/// Read from a file at once.
const BLOCK: usize = 64 << 10;

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    log: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    stream: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    time: std::borrow::Cow<'a, str>,
}

/// A file with lines, on the disk or unpacked in memory.
trait Lines: Read + Seek {}
impl<T: Read + Seek> Lines for T {}

pub struct Reader {
    state: RefCell<State>,
}

struct State {
    id: String,
    /// Files that are still to come, the next one last.
    files: Vec<Box<dyn Lines>>,
    present: Option<Box<dyn Lines>>,
    rest: Vec<u8>,
    since: u64,
    until: u64,
    ended: bool,
}

impl Reader {
    pub fn open(id: &str, query: &Query) -> io::Result<Self> {
        let since = query.since.unwrap_or(0);
        // Newest first.
        let mut files: Vec<Box<dyn Lines>> = Vec::new();
        if let Ok(file) = File::open(current(id)) {
            files.push(Box::new(file));
        }
        for number in 1.. {
            let name = rotated(id, number);
            if let Ok(file) = File::open(&name) {
                files.push(Box::new(file));
            } else if let Ok(file) = File::open(name + ".gz") {
                let mut text = Vec::new();
                GzDecoder::new(file).read_to_end(&mut text)?;
                files.push(Box::new(io::Cursor::new(text)));
            } else {
                break;
            }
        }
        let mut wanted = Vec::new();
        let mut tail = query.tail;
        for mut file in files {
            if tail == Some(0) {
                if wanted.is_empty() {
                    file.seek(SeekFrom::End(0))?;
                    wanted.push(file);
                }
                break;
            }
            let start = if since > 0 { first_from(&mut *file, since)? } else { 0 };
            let (position, found) = match tail {
                Some(lines) => from_end(&mut *file, lines, start)?,
                None => (start, 0),
            };
            file.seek(SeekFrom::Start(position))?;
            tail = tail.map(|lines| lines - found);
            wanted.push(file);
            // Older files have only older lines.
            if start > 0 {
                break;
            }
        }
        let mut files = wanted;
        let present = files.pop();
        let state = State { id: id.to_owned(), files, present, rest: Vec::new(), since, until: query.until.unwrap_or(u64::MAX), ended: false };
        Ok(Self { state: RefCell::new(state) })
    }
}

fn time_of(line: &[u8]) -> Option<u64> {
    // The time stands at the end: `…,"time":"…"}`.
    let text = std::str::from_utf8(line).ok()?;
    let at = text.rfind("\"time\":\"")? + 8;
    time::parse(text[at..].split('"').next()?)
}

/// The first whole line at or behind a position: where it begins, and its text.
fn line_behind(file: &mut dyn Lines, position: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut start = position;
    file.seek(SeekFrom::Start(position.saturating_sub(1)))?;
    let mut text = Vec::new();
    let mut block = [0; 4096];
    let mut skipping = position > 0;
    let mut offset = position.saturating_sub(1);
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok(None);
        }
        let mut piece = &block[..read];
        if skipping {
            match piece.iter().position(|byte| *byte == b'\n') {
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
        text.extend_from_slice(piece);
        if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            text.truncate(end);
            return Ok(Some((start, text)));
        }
        offset += read as u64;
    }
}

/// Where the first line with a time from `since` on begins; lines are in the order of time.
fn first_from(file: &mut dyn Lines, since: u64) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.seek(SeekFrom::End(0))?);
    while low < high {
        let middle = low + (high - low) / 2;
        match line_behind(file, middle)? {
            Some((_, line)) if time_of(&line).is_some_and(|time| time < since) => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(line_behind(file, low)?.map_or(low, |(start, _)| start))
}

/// Where the last `lines` lines behind `floor` begin, and how many there are.
fn from_end(file: &mut dyn Lines, lines: u64, floor: u64) -> io::Result<(u64, u64)> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut position = end;
    let mut found = 0;
    let mut block = vec![0; BLOCK];
    while position > floor {
        let start = position.saturating_sub(BLOCK as u64).max(floor);
        let size = usize::try_from(position - start).unwrap_or(0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..size])?;
        for at in (0..size).rev() {
            let absolute = start + at as u64;
            if block[at] == b'\n' && absolute + 1 < end {
                found += 1;
                if found == lines {
                    return Ok((absolute + 1, found));
                }
            }
        }
        position = start;
    }
    Ok((floor, if end > floor { found + 1 } else { found }))
}

impl State {
    fn fill(&mut self) -> io::Result<bool> {
        loop {
            let Some(file) = &mut self.present else {
                // Nothing was written yet when the reader began.
                match File::open(current(&self.id)) {
                    Ok(file) => {
                        self.present = Some(Box::new(file));
                        continue;
                    }
                    Err(_) => return Ok(false),
                }
            };
            let before = self.rest.len();
            self.rest.resize(before + BLOCK, 0);
            let read = file.read(&mut self.rest[before..])?;
            self.rest.truncate(before + read);
            if read > 0 {
                return Ok(true);
            }
            match self.files.pop() {
                Some(next) => self.present = Some(next),
                None => return self.follow_rotation(),
            }
        }
    }

    /// At the end of what was the present file: if another has its name by now, go on there.
    fn follow_rotation(&mut self) -> io::Result<bool> {
        let Ok(mut now) = File::open(current(&self.id)) else { return Ok(false) };
        let length = now.metadata()?.len();
        let Some(file) = &mut self.present else { return Ok(false) };
        let position = file.stream_position()?;
        let own = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(position))?;
        // The old file stays as long as it was; the one with the name is shorter, or grows apart from it.
        if own == length {
            return Ok(false);
        }
        if own < position {
            now.seek(SeekFrom::Start(0))?;
        } else if own > position {
            return Ok(true);
        }
        self.rest.clear();
        self.present = Some(Box::new(now));
        Ok(length > 0)
    }

    fn next(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(BATCH);
        while !self.ended {
            let mut used = 0;
            while let Some(length) = self.rest[used..].iter().position(|byte| *byte == b'\n') {
                let line = &self.rest[used..used + length];
                // What cannot be read as a line was not written by this driver; it is passed over.
                if let Ok(line) = serde_json::from_slice::<Line<'_>>(line)
                    && let Some(time) = time::parse(&line.time)
                {
                    if time > self.until {
                        self.ended = true;
                        break;
                    }
                    if time >= self.since {
                        if out.len() + line.log.len() + 16 > BATCH && !out.is_empty() {
                            self.rest.drain(..used);
                            return Ok(out);
                        }
                        let (bytes, partial) = match line.log.strip_suffix('\n') {
                            Some(text) => (text, false),
                            None => (&*line.log, true),
                        };
                        let stream = if line.stream == "stderr" { 2 } else { 1 };
                        Record { time, stream, partial, bytes: bytes.as_bytes() }.encode(&mut out);
                    }
                }
                used += length + 1;
            }
            self.rest.drain(..used);
            if self.ended || out.len() > BATCH / 2 || !self.fill()? {
                break;
            }
        }
        Ok(out)
    }
}

impl GuestCursor for Reader {
    fn next(&self) -> Result<Vec<u8>, Failure> {
        self.state.borrow_mut().next().map_err(|error| crate::failed("read the log", &error))
    }
}
