//! A record as a line.

use sampan_driver_sdk::frame::Record;

use crate::time;

/// Appends the line.
pub fn line(record: &Record<'_>, attributes: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(record.bytes, out);
    if !record.partial {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(if record.stream == 2 { b"\",\"stream\":\"stderr\"" } else { b"\",\"stream\":\"stdout\"" });
    out.extend_from_slice(attributes.as_bytes());
    out.extend_from_slice(b",\"time\":\"");
    time::write(record.time, out);
    out.extend_from_slice(b"\"}\n");
}

/// As Go's encoder escapes strings: what is not UTF-8 becomes the replacement character.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        let text = chunk.valid();
        let mut plain = 0;
        for (at, byte) in text.bytes().enumerate() {
            let replacement: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                b'\t' => b"\\t",
                b'<' => b"\\u003c",
                b'>' => b"\\u003e",
                b'&' => b"\\u0026",
                0..0x20 => {
                    out.extend_from_slice(&text.as_bytes()[plain..at]);
                    out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
                    plain = at + 1;
                    continue;
                }
                _ => continue,
            };
            out.extend_from_slice(&text.as_bytes()[plain..at]);
            out.extend_from_slice(replacement);
            plain = at + 1;
        }
        out.extend_from_slice(&text.as_bytes()[plain..]);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_dockers() {
        let mut out = Vec::new();
        let bytes = b"a \"b\" <\x01\xff>";
        line(&Record { time: 1_000_000_001, stream: 2, partial: false, bytes }, ",\"attrs\":{}", &mut out);
        let expected = "{\"log\":\"a \\\"b\\\" \\u003c\\u0001\u{fffd}\\u003e\\n\",\"stream\":\"stderr\",\"attrs\":{},\"time\":\"1970-01-01T00:00:01.000000001Z\"}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
