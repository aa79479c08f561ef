//! A log driver to copy from: each record becomes `time=… stream=… message="…"` in `/log/plain.log`.

use sampan_driver_sdk::frame::records;
mod bindings {
    wit_bindgen::generate!({ world: "log-driver", path: "../../../wit", generate_all });
}

use bindings::exports::sampan::driver::logs::{Guest, GuestSink, Sink, Source};
use bindings::sampan::driver::types::{Failure, OptionValue};
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;

struct Plain;

struct PlainSink {
    file: RefCell<File>,
    prefix: String,
}

fn internal(error: std::io::Error) -> Failure {
    Failure::Internal(format!("write /log/plain.log: {error}"))
}

impl GuestSink for PlainSink {
    fn write(&self, batch: Vec<u8>) -> Result<(), Failure> {
        let mut text = String::with_capacity(batch.len() * 2);
        for record in records(&batch) {
            let stream = if record.stream == 2 { "stderr" } else { "stdout" };
            let message = String::from_utf8_lossy(record.bytes);
            text.push_str(&format!("{}time={} stream={stream} message={message:?}\n", self.prefix, record.time));
        }
        self.file.borrow_mut().write_all(text.as_bytes()).map_err(internal)
    }

    fn flush(&self) -> Result<(), Failure> {
        self.file.borrow_mut().flush().map_err(internal)
    }
}

impl Guest for Plain {
    type Sink = PlainSink;

    fn check(_: Vec<OptionValue>) -> Result<(), Failure> {
        Ok(())
    }

    fn open(source: Source) -> Result<Sink, Failure> {
        let prefix = source
            .options
            .iter()
            .find(|option| option.key == "prefix")
            .map(|option| option.value.clone())
            .unwrap_or_default();
        let file = OpenOptions::new().create(true).append(true).open("/log/plain.log").map_err(internal)?;
        Ok(Sink::new(PlainSink { file: RefCell::new(file), prefix }))
    }
}

bindings::export!(Plain with_types_in bindings);
