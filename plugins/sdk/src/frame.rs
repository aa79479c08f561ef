//! The framing of log records; see `wit/log.wit`.

/// Bytes before those of the record.
pub const HEAD: usize = 16;

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// 1 for output, 2 for errors.
    pub stream: u8,
    /// The line goes on in the next record of the stream.
    pub partial: bool,
    /// Without the end of the line.
    pub bytes: &'a [u8],
}

impl Record<'_> {
    /// Appends the framed record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.time.to_le_bytes());
        out.extend_from_slice(&[self.stream, u8::from(self.partial), 0, 0]);
        out.extend_from_slice(&u32::try_from(self.bytes.len()).unwrap_or(0).to_le_bytes());
        out.extend_from_slice(self.bytes);
    }
}

/// The records of a batch. A cut-off end is left out.
pub fn records(batch: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut rest = batch;
    std::iter::from_fn(move || {
        let head = rest.get(..HEAD)?;
        let time = u64::from_le_bytes(head[..8].try_into().ok()?);
        let length = usize::try_from(u32::from_le_bytes(head[12..16].try_into().ok()?)).ok()?;
        let bytes = rest.get(HEAD..HEAD + length)?;
        rest = &rest[HEAD + length..];
        Some(Record { time, stream: head[8], partial: head[9] & 1 != 0, bytes })
    })
}
