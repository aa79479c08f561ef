//! Messages of long operations, and credentials, in Docker's JSON.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A line of the answer to a build or a load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BuildMessage {
    /// Text to print.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// A state, such as `Loading layer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// What the state is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How far it is.
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    pub progress_detail: Option<Progress>,
    /// Such as `{"ID": "sha256:…"}` of what was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<serde_json::Value>,
    /// Why it failed; the last message.
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<Failure>,
    /// The same again, as Docker writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl BuildMessage {
    /// Text to print.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { stream: Some(text.into()), ..Self::default() }
    }

    /// A failure; the last message.
    #[must_use]
    pub fn failure(message: impl Into<String>, code: Option<i64>) -> Self {
        let message = message.into();
        Self {
            error: Some(message.clone()),
            error_detail: Some(Failure { code, message: Some(message) }),
            ..Self::default()
        }
    }
}

/// How far something is, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<i64>,
    /// Of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
}

/// Why something failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Of a program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    /// For a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Credentials for a registry. Debug output shows none of them.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Credentials {
    /// Name of the user.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// `username:password` in base64, instead of both.
    pub auth: Option<String>,
    /// The registry.
    pub serveraddress: Option<String>,
    /// A token to get others with.
    pub identitytoken: Option<String>,
    /// A token to send as it is.
    pub registrytoken: Option<String>,
}

impl Credentials {
    /// Whether there is nothing to show a registry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [&self.username, &self.identitytoken, &self.registrytoken, &self.auth]
            .into_iter()
            .all(|text| text.as_deref().unwrap_or_default().is_empty())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("serveraddress", &self.serveraddress).finish_non_exhaustive()
    }
}
