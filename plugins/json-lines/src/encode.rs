//! Records as lines, and back.

use std::borrow::Cow;

use sampan_driver_sdk::frame::Record;
use serde::Deserialize;

use crate::time;

/// Makes lines. What stands behind the text of a record changes once a second: it is kept.
pub struct Encoder {
    /// For output and errors, whole lines and parts.
    between: [Vec<u8>; 4],
    attributes: String,
    second: Option<u64>,
}

impl Encoder {
    pub fn new(attributes: &str) -> Self {
        Self { between: Default::default(), attributes: attributes.to_owned(), second: None }
    }

    fn prepare(&mut self, second: u64) {
        self.second = Some(second);
        for (number, between) in self.between.iter_mut().enumerate() {
            let (end, stream) = (["\\n", ""][number & 1], ["stdout", "stderr"][number >> 1]);
            between.clear();
            between.extend_from_slice(
                format!("{end}\",\"stream\":\"{stream}\"{},\"time\":\"", self.attributes).as_bytes(),
            );
            time::write_second(second, between);
        }
    }

    /// Appends the line of a record.
    pub fn line(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        let second = record.time / 1_000_000_000;
        if self.second != Some(second) {
            self.prepare(second);
        }
        out.extend_from_slice(b"{\"log\":\"");
        escape(record.bytes, out);
        let number = usize::from(record.partial) | usize::from(record.stream == 2) << 1;
        out.extend_from_slice(&self.between[number]);
        time::write_fraction(record.time % 1_000_000_000, out);
        out.extend_from_slice(b"Z\"}\n");
    }
}

/// 1 for what is written otherwise, 2 for the beginning of what is not ASCII.
const SPECIAL: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte {
            0..0x20 => 1,
            0x80.. => 2,
            _ => 0,
        };
        byte += 1;
    }
    table[b'"' as usize] = 1;
    table[b'\\' as usize] = 1;
    table[b'<' as usize] = 1;
    table[b'>' as usize] = 1;
    table[b'&' as usize] = 1;
    table
};

/// As Docker's own encoder escapes: tabs by number, what is not UTF-8 by the number of the replacement character.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| SPECIAL[usize::from(*byte)] != 0) {
        out.extend_from_slice(&rest[..at]);
        let byte = rest[at];
        rest = &rest[at..];
        if byte < 0x80 {
            escape_ascii(byte, out);
            rest = &rest[1..];
        } else {
            let end = rest.iter().position(u8::is_ascii).unwrap_or(rest.len());
            escape_foreign(&rest[..end], out);
            rest = &rest[end..];
        }
    }
    out.extend_from_slice(rest);
}

fn escape_ascii(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        _ => {
            let digit = |number: u8| b"0123456789abcdef"[usize::from(number)];
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

/// Bytes that are all beyond ASCII.
fn escape_foreign(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        let mut text = chunk.valid();
        // What JavaScript takes for the end of a line.
        while let Some(at) = text.find(['\u{2028}', '\u{2029}']) {
            out.extend_from_slice(&text.as_bytes()[..at]);
            out.extend_from_slice(if text[at..].starts_with('\u{2028}') { b"\\u2028" } else { b"\\u2029" });
            text = &text[at + 3..];
        }
        out.extend_from_slice(text.as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// A line as it is read.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub time: u64,
    pub stream: u8,
    pub text: Cow<'a, [u8]>,
    pub partial: bool,
}

#[derive(Deserialize)]
struct Loose<'a> {
    #[serde(borrow, default)]
    log: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
}

/// The time of a line, which stands at its end.
pub fn time_of(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\"}")?;
    let at = memchr::memrchr(b'"', line)?;
    line[..at].ends_with(b"\"time\":").then(|| time::parse(&line[at + 1..]))?
}

/// Reads a line. What cannot be read was not written by this driver.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    quick(line).or_else(|| loose(line))
}

/// A line as this driver writes it, when its text needs no more than its end taken off.
fn quick(line: &[u8]) -> Option<Line<'_>> {
    let rest = line.strip_prefix(b"{\"log\":\"")?;
    let at = memchr::memchr2(b'"', b'\\', rest)?;
    let (text, mut rest) = rest.split_at(at);
    let partial = match rest.strip_prefix(b"\\n") {
        Some(behind) => {
            rest = behind;
            false
        }
        None => true,
    };
    let rest = rest.strip_prefix(b"\",\"stream\":\"std")?;
    let (stream, rest) = match rest.strip_prefix(b"out\"") {
        Some(rest) => (1, rest),
        None => (2, rest.strip_prefix(b"err\"")?),
    };
    // Only lines without further text are sure to have their time where it seems to be.
    let rest = rest.strip_prefix(b",\"time\":\"")?;
    let time = time::parse(rest.strip_suffix(b"\"}")?)?;
    Some(Line { time, stream, text: Cow::Borrowed(text), partial })
}

fn loose(line: &[u8]) -> Option<Line<'_>> {
    let line: Loose<'_> = serde_json::from_slice(line).ok()?;
    let time = time::parse(line.time.as_bytes())?;
    let stream = if line.stream == "stderr" { 2 } else { 1 };
    let partial = !line.log.ends_with('\n');
    let mut text = match line.log {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    };
    if !partial {
        match &mut text {
            Cow::Borrowed(text) => *text = &text[..text.len() - 1],
            Cow::Owned(text) => drop(text.pop()),
        }
    }
    Some(Line { time, stream, text, partial })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(record: &Record<'_>, attributes: &str) -> String {
        let mut out = Vec::new();
        Encoder::new(attributes).line(record, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_dockers() {
        let bytes = "a \"b\"\\ \t\r<\x01>&é\u{2028}".as_bytes();
        let record = Record { time: 1_000_000_001, stream: 2, partial: false, bytes };
        let expected = "{\"log\":\"a \\\"b\\\"\\\\ \\u0009\\r\\u003c\\u0001\\u003e\\u0026é\\u2028\\n\",\"stream\":\"stderr\",\"attrs\":{\"x\":\"y\"},\"time\":\"1970-01-01T00:00:01.000000001Z\"}\n";
        assert_eq!(line(&record, ",\"attrs\":{\"x\":\"y\"}"), expected);
        let record = Record { time: 0, stream: 1, partial: true, bytes: b"\xff\xe2\x28\xc3" };
        assert_eq!(
            line(&record, ""),
            "{\"log\":\"\\ufffd\\ufffd(\\ufffd\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:00Z\"}\n"
        );
    }

    #[test]
    fn what_is_written_is_read() {
        let texts: [&[u8]; 7] = [
            b"",
            b"plain",
            b"a\"b",
            b"back\\slash",
            b"tab\t",
            "caf\u{e9} \u{2029}".as_bytes(),
            b"x\",\"time\":\"1999-01-01T00:00:00Z\"}",
        ];
        for attributes in ["", ",\"attrs\":{\"a\":\"\\\",\\\"time\\\":\\\"\"}"] {
            for text in texts {
                for (stream, partial) in [(1, false), (2, true)] {
                    let record = Record { time: 1_709_210_096_120_000_000, stream, partial, bytes: text };
                    let written = line(&record, attributes);
                    let written = written.trim_end().as_bytes();
                    assert_eq!(
                        parse(written),
                        Some(Line { time: record.time, stream, text: text.into(), partial }),
                        "{text:?}"
                    );
                    assert_eq!(time_of(written), Some(record.time));
                    serde_json::from_slice::<serde_json::Value>(written).unwrap();
                }
            }
        }
        assert_eq!(parse(b"{\"log\":\"torn"), None);
        assert_eq!(parse(b"not json"), None);
        // As other writers order and space it.
        let other = br#"{ "time": "2024-02-29T12:34:56.12Z", "stream": "stderr", "log": "x\n" }"#;
        assert_eq!(parse(other).unwrap().stream, 2);
    }
}
