//! Output as records, framed for a log driver as `wit/log.wit` says, and frames as records again.

use bytes::{BufMut, Bytes, BytesMut};
use sampan_drivers::BATCH;

use super::{LogRecord, OutputStream};

/// Bytes before those of a record.
pub(super) const HEAD: usize = 16;
/// The longest record; a longer line goes on in the next one.
pub(super) const RECORD: usize = 16 << 10;
/// Bit 0 of a record's flags: its line goes on.
const PARTIAL: u8 = 1;

/// What becomes of bytes behind the last newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// More of the line will come: they are left.
    Wait,
    /// Nothing will come: they are a line.
    Line,
    /// What will come does so by another way: they are a part of a line.
    Part,
}

/// What was cut off the front of some output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cut {
    /// Bytes, newlines included.
    pub bytes: usize,
    /// Records, those that were passed over included.
    pub records: u64,
}

/// Appends one record.
pub(super) fn put(out: &mut Vec<u8>, time: u64, stream: usize, partial: bool, bytes: &[u8]) {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&time.to_le_bytes());
    head[8] = if stream == 0 { 1 } else { 2 };
    head[9] = if partial { PARTIAL } else { 0 };
    head[12..].copy_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(bytes);
}

/// Cuts lines off the front of `bytes` and appends them to `out` as records of one time, until there is no whole line or
/// `out` is full. The first `skip` records are not appended, and counted down.
///
/// Where records begin and end depends on the bytes alone, so that the same output is always cut the same way.
pub(super) fn cut(bytes: &[u8], stream: usize, time: u64, tail: Tail, skip: &mut u64, out: &mut Vec<u8>) -> Cut {
    let mut done = Cut::default();
    let mut newlines = memchr::memchr_iter(b'\n', bytes);
    let mut newline = newlines.next();
    loop {
        let rest = bytes.len() - done.bytes;
        let (length, step, partial) = match newline {
            Some(at) if at - done.bytes <= RECORD => (at - done.bytes, at - done.bytes + 1, false),
            _ if rest > RECORD => (RECORD, RECORD, true),
            None if rest > 0 && tail != Tail::Wait => (rest, rest, tail == Tail::Part),
            _ => break,
        };
        if *skip > 0 {
            *skip -= 1;
        } else if out.len() + HEAD + length > BATCH {
            break;
        } else {
            put(out, time, stream, partial, &bytes[done.bytes..done.bytes + length]);
        }
        if step > length {
            newline = newlines.next();
        }
        done.bytes += step;
        done.records += 1;
    }
    done
}

/// A record as it stands in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub time: u64,
    pub stream: OutputStream,
    pub partial: bool,
    pub bytes: &'a [u8],
}

/// The records of frames; stops at what is none.
pub(super) fn frames(mut rest: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let (head, behind) = rest.split_at_checked(HEAD)?;
        let length = u32::from_le_bytes([head[12], head[13], head[14], head[15]]) as usize;
        let (bytes, next) = behind.split_at_checked(length)?;
        rest = next;
        let time = u64::from_le_bytes(head[..8].try_into().ok()?);
        let stream = if head[8] == 2 { OutputStream::Stderr } else { OutputStream::Stdout };
        Some(Frame { time, stream, partial: head[9] & PARTIAL != 0, bytes })
    })
}

/// The records of a driver's answer for readers, in one allocation.
pub(super) fn records(framed: &[u8]) -> Vec<LogRecord> {
    let mut text = BytesMut::with_capacity(framed.len());
    let mut found: Vec<(Frame<'_>, usize)> = Vec::new();
    for frame in frames(framed) {
        text.put_slice(frame.bytes);
        if !frame.partial {
            text.put_u8(b'\n');
        }
        found.push((frame, text.len()));
    }
    let text: Bytes = text.freeze();
    let mut start = 0;
    let record = |(frame, end): (Frame<'_>, usize)| {
        let bytes = text.slice(start..end);
        start = end;
        LogRecord { time_ns: frame.time, stream: frame.stream, partial: frame.partial, bytes }
    };
    found.into_iter().map(record).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn whole(bytes: &[u8], pieces: &[usize], skip: u64) -> Vec<(Vec<u8>, bool)> {
        // As the pump does it: a growing view, of which whole lines are taken off the front.
        let (mut start, mut end, mut skip) = (0, 0, skip);
        let mut found = Vec::new();
        for step in pieces.iter().copied().chain([usize::MAX]) {
            let last = step == usize::MAX;
            end = if last { bytes.len() } else { (end + step).min(bytes.len()) };
            loop {
                let mut out = Vec::new();
                let tail = if last { Tail::Line } else { Tail::Wait };
                let done = cut(&bytes[start..end], 0, 7, tail, &mut skip, &mut out);
                assert!(out.len() <= BATCH);
                found.extend(frames(&out).map(|frame| (frame.bytes.to_vec(), frame.partial)));
                start += done.bytes;
                if done.records == 0 {
                    break;
                }
            }
        }
        assert_eq!(start, bytes.len());
        found
    }

    fn output() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(
            prop_oneof![
                Just(b"\n".to_vec()),
                proptest::collection::vec(any::<u8>(), 0..200),
                (0_usize..40_000).prop_map(|length| vec![b'x'; length]),
                Just(vec![b'y'; RECORD]),
            ],
            0..12,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn every_byte_is_in_one_record_however_it_arrives(
            bytes in output(), pieces in proptest::collection::vec(1_usize..30_000, 0..20)
        ) {
            let found = whole(&bytes, &pieces, 0);
            prop_assert_eq!(&found, &whole(&bytes, &[], 0));
            let mut text: Vec<u8> = found.iter().flat_map(|(bytes, partial)| {
                bytes.iter().copied().chain((!partial).then_some(b'\n'))
            }).collect();
            if bytes.last().is_some_and(|byte| *byte != b'\n') {
                prop_assert_eq!(text.pop(), Some(b'\n'));
            }
            prop_assert_eq!(text, bytes);
        }

        #[test]
        fn what_the_log_has_is_passed_over(bytes in output(), skip in 0_u64..20) {
            let all = whole(&bytes, &[], 0);
            let skipped = usize::try_from(skip).unwrap().min(all.len());
            prop_assert_eq!(&whole(&bytes, &[], skip)[..], &all[skipped..]);
        }
    }

    #[test]
    fn a_line_of_just_the_longest_record_is_whole() {
        let mut bytes = vec![b'a'; RECORD];
        bytes.push(b'\n');
        assert_eq!(whole(&bytes, &[RECORD], 0), [(vec![b'a'; RECORD], false)]);
    }

    #[test]
    fn records_have_their_newlines_back() {
        let mut out = Vec::new();
        put(&mut out, 5, 0, true, b"ab");
        put(&mut out, 6, 1, false, b"");
        let read = records(&out);
        assert_eq!(read.len(), 2);
        assert_eq!((&read[0].bytes[..], read[0].partial, read[0].time_ns), (&b"ab"[..], true, 5));
        assert_eq!((&read[1].bytes[..], read[1].stream), (&b"\n"[..], OutputStream::Stderr));
        assert!(records(&out[..20]).len() == 1 || records(&out[..17]).is_empty());
    }
}
