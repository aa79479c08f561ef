//! What the daemon asks of the client, over the connection that the client opened for it (`POST /session`).

use bytes::Bytes;
use prost::Message;
use std::collections::HashMap;

/// A directory of the client's, as [`crate::files::Packet`]s.
pub const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";
/// A directory or a file for the client to write.
pub const FILE_SEND: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// What the client reads from its standard input.
pub const UPLOAD: &str = "/moby.upload.v1.Upload/Pull";
/// Credentials for a registry.
pub const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
/// The content of a secret.
pub const GET_SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
/// Whether there is an agent.
pub const CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
/// A connection to it.
pub const FORWARD_AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";

/// A piece of a byte stream; each service has one of this form.
#[derive(Clone, PartialEq, Message)]
pub struct BytesMessage {
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub struct CredentialsRequest {
    #[prost(string, tag = "1")]
    pub host: String,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct CredentialsResponse {
    #[prost(string, tag = "1")]
    pub username: String,
    /// A password; an identity token when there is no name.
    #[prost(string, tag = "2")]
    pub secret: String,
}

impl std::fmt::Debug for CredentialsResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialsResponse").finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct GetSecretRequest {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(map = "string, string", tag = "2")]
    pub annotations: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct GetSecretResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
}

impl std::fmt::Debug for GetSecretResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GetSecretResponse").finish_non_exhaustive()
    }
}

/// Names an agent.
#[derive(Clone, PartialEq, Message)]
pub struct CheckAgentRequest {
    #[prost(string, tag = "1")]
    pub id: String,
}

/// A message without fields.
#[derive(Clone, PartialEq, Message)]
pub struct Nothing {}

/// Values of a header in the form that fsutil's peers read: percent-encoded when one of them is not ASCII, which a second
/// header (`NAME-encoded: 1`) says.
#[must_use]
pub fn header_values(values: &[String]) -> (Vec<String>, bool) {
    let plain = |text: &String| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if values.iter().all(plain) {
        return (values.to_vec(), false);
    }
    let encode = |text: &String| {
        text.bytes()
            .map(|byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            })
            .collect()
    };
    (values.iter().map(encode).collect(), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_no_ascii_are_encoded_together() {
        let texts = |values: &[&str]| values.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(header_values(&texts(&["a b", "*.go"])), (texts(&["a b", "*.go"]), false));
        assert_eq!(header_values(&texts(&["ä", "a b"])), (texts(&["%C3%A4", "a%20b"]), true));
        assert_eq!(header_values(&texts(&["a\nb"])), (texts(&["a%0Ab"]), true));
    }
}
