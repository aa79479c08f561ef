//! Docker's `local` driver: bounded by default, packed when rotated. Its files are for the engine alone; here they are
//! lines of JSON too.

#![cfg_attr(not(target_family = "wasm"), allow(dead_code))]

use std::cell::RefCell;

use json_lines::files::Files;
use json_lines::reader::{Reader, Wanted};
use json_lines::settings::{Rotation, Settings};
use json_lines::{failed, writer::Writer};
use sampan_driver_sdk::log::{
    Cursor, Failure, Guest, GuestCursor, GuestSink, HistoryGuest, OptionValue, Query, Sink, Source,
};

struct Local;

fn files() -> Files {
    Files::new("/log".into(), "local")
}

/// As Docker does: one file that is kept, or one that is never rotated, cannot be compressed; that is no mistake when
/// compression was not asked for.
fn rotation(options: &[OptionValue]) -> Result<Rotation, Failure> {
    let value = |name: &str| options.iter().find(|option| option.key == name).map(|option| option.value.as_str());
    let single = value("max-file") == Some("1") || value("max-size") == Some("-1");
    let mut given: Vec<OptionValue> = Vec::new();
    for option in options {
        let skipped = single && option.key == "compress" || value("max-size") == Some("-1") && option.key == "max-file";
        if !skipped {
            given.push(OptionValue { key: option.key.clone(), value: option.value.clone() });
        }
    }
    Settings::parse(&given).map(|settings| settings.rotation).map_err(Failure::Invalid)
}

struct LocalSink(RefCell<Writer>);

impl GuestSink for LocalSink {
    fn write(&self, batch: Vec<u8>) -> Result<(), Failure> {
        self.0.borrow_mut().write(&batch).map_err(|error| failed("write the log", &error))
    }

    fn flush(&self) -> Result<(), Failure> {
        Ok(())
    }
}

struct LocalCursor(RefCell<Reader>);

impl GuestCursor for LocalCursor {
    fn next(&self) -> Result<Vec<u8>, Failure> {
        self.0.borrow_mut().next().map_err(|error| failed("read the log", &error))
    }
}

impl Guest for Local {
    type Sink = LocalSink;

    fn check(options: Vec<OptionValue>) -> Result<(), Failure> {
        rotation(&options).map(drop)
    }

    fn open(source: Source) -> Result<Sink, Failure> {
        let writer = Writer::open(files(), rotation(&source.options)?, "");
        writer.map(|writer| Sink::new(LocalSink(RefCell::new(writer)))).map_err(|error| failed("open the log", &error))
    }
}

impl HistoryGuest for Local {
    type Cursor = LocalCursor;

    fn read(_: Source, query: Query) -> Result<Cursor, Failure> {
        let wanted =
            Wanted { since: query.since.unwrap_or(0), until: query.until.unwrap_or(u64::MAX), tail: query.tail };
        let reader = Reader::open(files(), wanted);
        reader
            .map(|reader| Cursor::new(LocalCursor(RefCell::new(reader))))
            .map_err(|error| failed("read the log", &error))
    }
}

#[cfg(target_family = "wasm")]
sampan_driver_sdk::log::export!(Local with_types_in sampan_driver_sdk::log::bindings);
