//! Who one is to a registry: credentials, challenges, and tokens got with them.
//!
//! Credentials go to the registry they are for, and to the token service that it names, and nowhere else.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;

/// Credentials for one registry. Neither debug output nor errors show them.
#[derive(Clone, Default)]
pub struct RegistryAuth {
    /// Name of the user.
    pub username: String,
    /// Password or access token.
    pub password: String,
    /// A refresh token, instead of both.
    pub identity_token: String,
    /// A token to be sent as it is, instead of all that.
    pub registry_token: String,
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAuth").finish_non_exhaustive()
    }
}

impl RegistryAuth {
    /// The value of an `Authorization` header, if there is a name.
    pub fn basic(&self) -> Option<String> {
        if self.username.is_empty() {
            return None;
        }
        let pair = format!("{}:{}", self.username, self.password);
        Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
    }
}

/// Reads `username:password` in base64, as Docker's configuration file keeps it.
#[must_use]
pub fn decode_basic(text: &str) -> Option<(String, String)> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim()).ok()?;
    let pair = String::from_utf8(bytes).ok()?;
    let (username, password) = pair.split_once(':')?;
    Some((username.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// A `WWW-Authenticate` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// In lower case: `bearer` or `basic`.
    pub scheme: String,
    pub parameters: HashMap<String, String>,
}

impl Challenge {
    /// Reads `Bearer realm="…",service="…",scope="…"`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (scheme, mut rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut parameters = HashMap::new();
        loop {
            rest = rest.trim_start_matches([' ', ',', '\t']);
            if rest.is_empty() {
                break;
            }
            let (key, after) = rest.split_once('=')?;
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => {
                    let end = quoted.find('"')?;
                    (&quoted[..end], &quoted[end + 1..])
                }
                None => after.split_once(',').unwrap_or((after, "")),
            };
            parameters.insert(key.trim().to_ascii_lowercase(), value.to_owned());
            rest = after;
        }
        Some(Self { scheme: scheme.to_ascii_lowercase(), parameters })
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.parameters.get(key).map(String::as_str)
    }
}

/// Escapes a query's value.
pub fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn challenges_are_read() {
        let header = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io", scope="repository:library/alpine:pull,push""#;
        let challenge = Challenge::parse(header).unwrap();
        assert_eq!(challenge.scheme, "bearer");
        assert_eq!(challenge.get("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(challenge.get("scope"), Some("repository:library/alpine:pull,push"));
        assert_eq!(Challenge::parse("Basic realm=x").unwrap().get("realm"), Some("x"));
        assert_eq!(Challenge::parse("Basic").unwrap().scheme, "basic");
        assert!(Challenge::parse("Bearer realm=\"x").is_none());
    }

    #[test]
    fn credentials_are_not_shown() {
        let auth = RegistryAuth { username: "u".into(), password: "secret".into(), ..RegistryAuth::default() };
        assert!(!format!("{auth:?}").contains("secret"));
        assert_eq!(auth.basic().unwrap(), "Basic dTpzZWNyZXQ=");
        assert_eq!(escape("a b&c=d/é"), "a%20b%26c%3Dd%2F%C3%A9");
    }
}
