//! Keeps nothing.

mod bindings {
    wit_bindgen::generate!({ world: "log-driver", path: "../../wit", generate_all });
}

use bindings::exports::sampan::driver::logs::{Guest, GuestSink, Sink, Source};
use bindings::sampan::driver::types::{Failure, OptionValue};

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

bindings::export!(Nothing with_types_in bindings);
