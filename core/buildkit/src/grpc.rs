//! gRPC's frames (one byte of flags, four of length, the message) and statuses.

use base64::Engine as _;
use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use sampan_image::registry::unescape;

/// Bytes of a message; containerd's and BuildKit's own limit.
pub const MAX_MESSAGE: usize = 16 << 20;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// `google.rpc.Status`: why a call failed.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// `google.protobuf.Any`: more of it, by the name of its type.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

impl Status {
    /// A failure.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code as i32, message: message.into(), details: Vec::new() }
    }

    /// A call that is not answered here; the text says what to do instead.
    #[must_use]
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Code::Unimplemented, message)
    }

    /// Adds a detail in BuildKit's form, which is JSON under a name of its own.
    #[must_use]
    pub fn with(mut self, kind: &str, value: &serde_json::Value) -> Self {
        let value = value.to_string().into_bytes();
        self.details.push(Any { type_url: format!("github.com/moby/buildkit/{kind}+json"), value });
        self
    }

    /// The trailers that end a call with it.
    #[must_use]
    pub fn trailers(&self) -> Vec<(&'static str, String)> {
        let mut trailers = vec![("grpc-status", self.code.to_string())];
        if !self.message.is_empty() {
            trailers.push(("grpc-message", percent_encode(&self.message)));
        }
        if !self.details.is_empty() {
            let bytes = base64::engine::general_purpose::STANDARD_NO_PAD.encode(self.encode_to_vec());
            trailers.push(("grpc-status-details-bin", bytes));
        }
        trailers
    }

    /// Reads trailers; `Ok` for a call that went well.
    ///
    /// # Errors
    /// The status of one that did not.
    pub fn check<'a>(field: impl Fn(&str) -> Option<&'a str>) -> Result<(), Self> {
        let Some(code) = field("grpc-status") else {
            return Err(Self::new(Code::Unavailable, "the call ended without a status"));
        };
        match code.parse() {
            Ok(0) => Ok(()),
            code => Err(Self {
                code: code.unwrap_or(Code::Unknown as i32),
                message: String::from_utf8_lossy(&unescape(field("grpc-message").unwrap_or_default())).into_owned(),
                details: Vec::new(),
            }),
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A message as a frame.
#[must_use]
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(5 + length);
    bytes.push(0);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(message.encode_to_vec());
    bytes.into()
}

/// Why bytes are no frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a message of {0} bytes; {MAX_MESSAGE} are the most")]
    TooLong(usize),
    #[error("a compressed message, which was not offered")]
    Compressed,
    #[error("a message cannot be read: {0}")]
    Message(String),
    #[error("the stream ended within a message")]
    Cut,
}

impl From<FrameError> for Status {
    fn from(error: FrameError) -> Self {
        let code = if matches!(error, FrameError::TooLong(_)) { Code::ResourceExhausted } else { Code::Internal };
        Self::new(code, error.to_string())
    }
}

/// Bytes that come in pieces, as frames.
#[derive(Debug, Default)]
pub struct Frames(BytesMut);

impl Frames {
    /// Takes a piece.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// What breaks the form ends the call.
    pub fn take<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        let Some(head) = self.0.first_chunk::<5>() else { return Ok(None) };
        if head[0] != 0 {
            return Err(FrameError::Compressed);
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > MAX_MESSAGE {
            return Err(FrameError::TooLong(length));
        }
        if self.0.len() < 5 + length {
            return Ok(None);
        }
        self.0.advance(5);
        let bytes = self.0.split_to(length);
        M::decode(bytes.freeze()).map(Some).map_err(|error| FrameError::Message(error.to_string()))
    }

    /// Whether the stream may end here.
    ///
    /// # Errors
    /// When it ends within a message.
    pub fn end(&self) -> Result<(), FrameError> {
        if self.0.is_empty() { Ok(()) } else { Err(FrameError::Cut) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::session::BytesMessage;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_frame_is_refused_before_it_is_kept() {
        let next = |bytes: &[u8]| {
            let mut frames = Frames::default();
            frames.push(bytes);
            frames.take::<BytesMessage>()
        };
        assert_eq!(next(&[1, 0, 0, 0, 0]), Err(FrameError::Compressed));
        assert_eq!(next(&[0, 0xff, 0, 0, 0]), Err(FrameError::TooLong(0xff00_0000)));
        assert!(matches!(next(&[0, 0, 0, 0, 2, 0x0a, 9]), Err(FrameError::Message(_))));
        assert_eq!(next(&[0, 0, 0, 0]), Ok(None));
    }

    #[test]
    fn statuses_travel_in_trailers() {
        let status = Status::new(Code::NotFound, "no »x« here\n100%").with("errdefs.Source", &serde_json::json!({}));
        let trailers = status.trailers();
        let field = |name: &str| trailers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str());
        let read = Status::check(field).unwrap_err();
        assert_eq!((read.code, read.message.as_str()), (5, "no »x« here\n100%"));
        assert!(trailers.iter().all(|(_, value)| value.bytes().all(|byte| (b' '..=b'~').contains(&byte))));
        let details = field("grpc-status-details-bin").unwrap();
        let bytes = base64::engine::general_purpose::STANDARD_NO_PAD.decode(details).unwrap();
        assert_eq!(Status::decode(&bytes[..]).unwrap(), status);
        assert_eq!(Status::check(|_| None).unwrap_err().code, Code::Unavailable as i32);
        Status::check(|name| (name == "grpc-status").then_some("0")).unwrap();
    }

    proptest! {
        #[test]
        fn messages_come_back_however_they_are_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..6),
            piece in 1_usize..50,
        ) {
            let mut bytes = Vec::new();
            for data in &messages {
                bytes.extend(frame(&BytesMessage { data: data.clone().into() }));
            }
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for part in bytes.chunks(piece) {
                frames.push(part);
                while let Some(message) = frames.take::<BytesMessage>().unwrap() {
                    found.push(message.data.to_vec());
                }
            }
            frames.end().unwrap();
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut frames = Frames::default();
            frames.push(&bytes);
            while let Ok(Some(_)) = frames.take::<crate::control::SolveRequest>() {}
        }
    }
}
