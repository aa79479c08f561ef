//! Docker's `json-file`: a line of JSON for each record, in files of the container.

#![cfg_attr(not(target_family = "wasm"), allow(dead_code))]

use std::cell::RefCell;

use json_lines::files::Files;
use json_lines::settings::Settings;
use json_lines::{failed, reader, writer};
use sampan_driver_sdk::log::{
    Cursor, Failure, Guest, GuestCursor, GuestSink, HistoryGuest, OptionValue, Query, Sink, Source,
};

struct JsonFile;

/// Where the container's directory is seen.
const FOLDER: &str = "/log";

struct JsonSink(RefCell<writer::Writer>);

impl GuestSink for JsonSink {
    fn write(&self, batch: Vec<u8>) -> Result<(), Failure> {
        self.0.borrow_mut().write(&batch).map_err(|error| failed("write the log", &error))
    }

    fn flush(&self) -> Result<(), Failure> {
        Ok(())
    }
}

struct JsonCursor(RefCell<reader::Reader>);

impl GuestCursor for JsonCursor {
    fn next(&self) -> Result<Vec<u8>, Failure> {
        self.0.borrow_mut().next().map_err(|error| failed("read the log", &error))
    }
}

impl Guest for JsonFile {
    type Sink = JsonSink;

    fn check(options: Vec<OptionValue>) -> Result<(), Failure> {
        Settings::parse(&options).map(drop).map_err(Failure::Invalid)
    }

    fn open(source: Source) -> Result<Sink, Failure> {
        let settings = Settings::parse(&source.options).map_err(Failure::Invalid)?;
        let attributes = settings.attributes(&source);
        let files = Files::new(FOLDER.into(), &source.container.id);
        let writer = writer::Writer::open(files, settings.rotation, &attributes);
        writer.map(|writer| Sink::new(JsonSink(RefCell::new(writer)))).map_err(|error| failed("open the log", &error))
    }
}

impl HistoryGuest for JsonFile {
    type Cursor = JsonCursor;

    fn read(source: Source, query: Query) -> Result<Cursor, Failure> {
        let files = Files::new(FOLDER.into(), &source.container.id);
        let wanted = reader::Wanted {
            since: query.since.unwrap_or(0),
            until: query.until.unwrap_or(u64::MAX),
            tail: query.tail,
        };
        let reader = reader::Reader::open(files, wanted);
        reader
            .map(|reader| Cursor::new(JsonCursor(RefCell::new(reader))))
            .map_err(|error| failed("read the log", &error))
    }
}

// A host's linker does not know such names; there the crate is built for its tests alone.
#[cfg(target_family = "wasm")]
sampan_driver_sdk::log::export!(JsonFile with_types_in sampan_driver_sdk::log::bindings);
