//! Keeps nothing.

use sampan_driver_sdk::log_writer::{Failure, Guest, GuestSink, OptionValue, Sink, Source};

struct Nothing;

impl GuestSink for Nothing {
    fn write(&self, _: Vec<u8>) -> Result<(), Failure> {
        Ok(())
    }

    fn flush(&self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Guest for Nothing {
    type Sink = Nothing;

    fn check(_: Vec<OptionValue>) -> Result<(), Failure> {
        Ok(())
    }

    fn open(_: Source) -> Result<Sink, Failure> {
        Ok(Sink::new(Nothing))
    }
}

sampan_driver_sdk::log_writer::export!(Nothing with_types_in sampan_driver_sdk::log_writer::bindings);
