//! Messages to a syslog server, by UDP or TCP. What cannot be sent is refused as `unavailable`: the engine keeps it and
//! comes again.

#![cfg_attr(not(target_family = "wasm"), allow(dead_code))]

mod bindings {
    wit_bindgen::generate!({ world: "log-driver", path: "../../wit", generate_all });
}
mod link;
mod message;

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hasher};

use bindings::exports::sampan::driver::logs::{Guest, GuestSink, Sink, Source};
use bindings::sampan::driver::types::{Failure, OptionValue};
use sampan_driver_sdk::frame::records;
use sampan_driver_sdk::tag::{self, Names};

use link::{Address, Link};
use message::Style;

struct Syslog;

/// Options as they are meant.
fn settings(options: &[OptionValue]) -> Result<(Address, Style, String), String> {
    let value =
        |name: &str| options.iter().find(|option| option.key == name).map_or("", |option| option.value.as_str());
    let address = Address::parse(value("syslog-address"))?;
    let style = Style::parse(value("syslog-format"), value("syslog-facility"))?;
    tag::check(value("tag"))?;
    Ok((address, style, value("tag").to_owned()))
}

struct SyslogSink(RefCell<State>);

struct State {
    link: Link,
    style: Style,
    /// The batch that failed, and how many of its records had gone: it comes again as a whole.
    begun: Option<(u64, usize)>,
}

impl GuestSink for SyslogSink {
    fn write(&self, batch: Vec<u8>) -> Result<(), Failure> {
        let state = &mut *self.0.borrow_mut();
        let mut hasher = DefaultHasher::new();
        hasher.write(&batch);
        let same = hasher.finish();
        let gone = state.begun.take().filter(|(batch, _)| *batch == same).map_or(0, |(_, gone)| gone);
        let mut text = Vec::new();
        for (number, record) in records(&batch).enumerate().skip(gone) {
            text.clear();
            state.style.message(&record, &mut text);
            if let Err(failed) = state.link.send(&mut text) {
                state.begun = Some((same, number + usize::from(failed.begun)));
                return Err(Failure::Unavailable(format!("{}: {}", state.link.address(), failed.error)));
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Guest for Syslog {
    type Sink = SyslogSink;

    fn check(options: Vec<OptionValue>) -> Result<(), Failure> {
        settings(&options).map(drop).map_err(Failure::Invalid)
    }

    fn open(source: Source) -> Result<Sink, Failure> {
        let (address, mut style, template) = settings(&source.options).map_err(Failure::Invalid)?;
        let names = Names { id: &source.container.id, name: &source.container.name, image: &source.image };
        style.from(&tag::fill(&template, names).map_err(Failure::Invalid)?);
        // A server that is away does not keep a container from its start: the first write says so.
        let state = State { link: Link::new(address), style, begun: None };
        Ok(Sink::new(SyslogSink(RefCell::new(state))))
    }
}

#[cfg(target_family = "wasm")]
bindings::export!(Syslog with_types_in bindings);
