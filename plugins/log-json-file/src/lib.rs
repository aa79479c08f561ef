//! Docker's `json-file` format: a line `{"log":"…\n","stream":"stdout","time":"…"}` for each record.

mod encode;
mod reader;
mod settings;
mod time;

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};

use flate2::{Compression, write::GzEncoder};
use sampan_driver_sdk::frame::records;
use sampan_driver_sdk::log::{Cursor, Failure, Guest, GuestSink, HistoryGuest, OptionValue, Query, Sink, Source};

use settings::Settings;

struct JsonFile;

/// The file that is written now.
fn current(id: &str) -> String {
    format!("/log/{id}-json.log")
}

fn rotated(id: &str, number: u32) -> String {
    format!("/log/{id}-json.log.{number}")
}

fn failed(what: &str, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::StorageFull => Failure::Unavailable(format!("{what}: no space is left")),
        _ => Failure::Internal(format!("{what}: {error}")),
    }
}

struct JsonSink {
    state: RefCell<State>,
}

struct State {
    id: String,
    file: File,
    length: u64,
    settings: Settings,
    attributes: String,
    buffer: Vec<u8>,
}

impl State {
    fn rotate(&mut self) -> Result<(), Failure> {
        let keep = self.settings.max_file;
        let compressed = self.settings.compress;
        let name = |number: u32| if compressed { rotated(&self.id, number) + ".gz" } else { rotated(&self.id, number) };
        if keep > 1 {
            for number in (1..keep - 1).rev() {
                let _ = fs::rename(name(number), name(number + 1));
            }
            let now = current(&self.id);
            if compressed {
                compress(&now, &name(1)).map_err(|error| failed("compress the log", &error))?;
                let _ = fs::remove_file(&now);
            } else {
                fs::rename(&now, name(1)).map_err(|error| failed("rotate the log", &error))?;
            }
            self.file = open_for_append(&now).map_err(|error| failed("open the log", &error))?;
        } else {
            self.file.set_len(0).map_err(|error| failed("rotate the log", &error))?;
        }
        self.length = 0;
        Ok(())
    }

    fn put(&mut self) -> Result<(), Failure> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let before = self.length;
        if let Err(error) = self.file.write_all(&self.buffer) {
            // A part of a batch would come again with the whole of it.
            let _ = self.file.set_len(before);
            self.buffer.clear();
            return Err(failed("write the log", &error));
        }
        self.length += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

fn open_for_append(path: &str) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn compress(from: &str, to: &str) -> io::Result<()> {
    let mut encoder = GzEncoder::new(File::create(to)?, Compression::fast());
    io::copy(&mut File::open(from)?, &mut encoder)?;
    encoder.finish()?.flush()
}

/// Cuts off what a crash left of a line; returns the length.
fn mend(path: &str) -> io::Result<u64> {
    let Ok(mut file) = OpenOptions::new().read(true).write(true).open(path) else { return Ok(0) };
    let length = file.metadata()?.len();
    let mut end = length;
    let mut block = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let size = usize::try_from(end - start).unwrap_or(0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..size])?;
        if let Some(at) = block[..size].iter().rposition(|byte| *byte == b'\n') {
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

impl GuestSink for JsonSink {
    fn write(&self, batch: Vec<u8>) -> Result<(), Failure> {
        let state = &mut *self.state.borrow_mut();
        for record in records(&batch) {
            if let Some(limit) = state.settings.max_size
                && state.length + state.buffer.len() as u64 >= limit
            {
                state.put()?;
                state.rotate()?;
            }
            encode::line(&record, &state.attributes, &mut state.buffer);
        }
        state.put()
    }

    fn flush(&self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Guest for JsonFile {
    type Sink = JsonSink;

    fn check(options: Vec<OptionValue>) -> Result<(), Failure> {
        Settings::parse(&options).map(drop).map_err(Failure::Invalid)
    }

    fn open(source: Source) -> Result<Sink, Failure> {
        let settings = Settings::parse(&source.options).map_err(Failure::Invalid)?;
        let path = current(&source.container.id);
        let length = mend(&path).map_err(|error| failed("mend the log", &error))?;
        let file = open_for_append(&path).map_err(|error| failed("open the log", &error))?;
        let attributes = settings.attributes(&source);
        let state = State { id: source.container.id, file, length, settings, attributes, buffer: Vec::new() };
        Ok(Sink::new(JsonSink { state: RefCell::new(state) }))
    }
}

impl HistoryGuest for JsonFile {
    type Cursor = reader::Reader;

    fn read(source: Source, query: Query) -> Result<Cursor, Failure> {
        reader::Reader::open(&source.container.id, &query).map(Cursor::new).map_err(|error| failed("read the log", &error))
    }
}

sampan_driver_sdk::log::export!(JsonFile with_types_in sampan_driver_sdk::log::bindings);
