//! What a provider's program says on its output: a JSON object in each line. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Variables that one program may set.
const VARIABLES: usize = 256;
/// The longest name and value together.
const LONGEST: usize = 128 << 10;

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    message: String,
}

/// What is to be done about a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Go,
    /// Show it.
    Show(String),
    /// Answer with the service's definition.
    Describe,
    /// It says that it failed.
    Fail(String),
}

/// What was said until now.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Said {
    /// Set for those who depend on the service, with its name before each.
    prefixed: BTreeMap<String, String>,
    /// Set as they are.
    raw: BTreeMap<String, String>,
}

impl Said {
    /// Takes a line in.
    pub fn take(&mut self, line: &[u8]) -> Result<Step, String> {
        let text = String::from_utf8_lossy(line);
        if text.trim().is_empty() {
            return Ok(Step::Go);
        }
        let message: Message = serde_json::from_str(text.trim())
            .map_err(|_| format!("invalid response from the provider: {}", plain(&text)))?;
        match message.kind.as_str() {
            "info" => Ok(Step::Show(plain(&message.message))),
            "error" => Ok(Step::Fail(plain(&message.message))),
            "debug" => Ok(Step::Go),
            "setenv" | "rawsetenv" => {
                let (name, value) = variable(&message.message)?;
                let all = if message.kind == "setenv" { &mut self.prefixed } else { &mut self.raw };
                all.insert(name, value);
                if self.prefixed.len() + self.raw.len() > VARIABLES {
                    return Err(format!("it sets more than {VARIABLES} variables"));
                }
                Ok(Step::Go)
            }
            "get-service-config" => Ok(Step::Describe),
            other => Err(format!("invalid response from the provider: a message of type {}", plain(other))),
        }
    }

    /// The variables by the names that they have in containers. As Compose makes them: a hyphen in the service's name stays,
    /// although no shell can read such a variable; `rawsetenv` has the name that the program wants.
    pub fn variables(&self, service: &str) -> BTreeMap<String, String> {
        let prefix = service.to_uppercase();
        let prefixed = self.prefixed.iter().map(|(name, value)| (format!("{prefix}_{name}"), value.clone()));
        prefixed.chain(self.raw.clone()).collect()
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    // Not shown whole: a value may be a password.
    let invalid = || "invalid response from the provider: a variable that is not NAME=VALUE".to_owned();
    let (name, value) = text.split_once('=').ok_or_else(invalid)?;
    if name.is_empty() || text.contains('\0') || text.len() > LONGEST {
        return Err(invalid());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Text of a program as a terminal may see it: in one line, and not endless.
pub fn plain(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(500).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages_are_shown_kept_or_answered() {
        let mut said = Said::default();
        let mut take = |text: &str| said.take(text.as_bytes());
        let info = take(r#"{"type":"info","message":"pulling\u001b[2J 25%"}"#).unwrap();
        assert_eq!(info, Step::Show("pulling\u{fffd}[2J 25%".into()));
        assert_eq!(take(r#"{"type":"debug","message":"x"}"#), Ok(Step::Go));
        assert_eq!(take(""), Ok(Step::Go));
        assert_eq!(take(r#"{"type":"get-service-config"}"#), Ok(Step::Describe));
        assert_eq!(take(r#"{"type":"error","message":"no money"}"#), Ok(Step::Fail("no money".into())));
        take(r#"{"type":"setenv","message":"URL=https://x/?a=b"}"#).unwrap();
        take(r#"{"type":"rawsetenv","message":"KEY=1"}"#).unwrap();
        let all = said.variables("my-db");
        assert_eq!(all["MY-DB_URL"], "https://x/?a=b");
        assert_eq!(all["KEY"], "1");
    }

    #[test]
    fn what_is_no_message_ends_it_and_values_are_not_told() {
        for bad in [
            "hello",
            r#"{"message":"x"}"#,
            r#"{"type":"frob","message":"x"}"#,
            r#"{"type":"setenv","message":"SECRET"}"#,
            r#"{"type":"setenv","message":"=SECRET"}"#,
            r#"{"type":"setenv","message":"A\u0000=SECRET"}"#,
        ] {
            let why = Said::default().take(bad.as_bytes()).unwrap_err();
            assert!(why.starts_with("invalid response") && !why.contains("SECRET"), "{bad}: {why}");
        }
        let mut said = Said::default();
        let set = |said: &mut Said, number: usize| {
            said.take(format!(r#"{{"type":"setenv","message":"A{number}=1"}}"#).as_bytes())
        };
        assert!((0..256).all(|number| set(&mut said, number).is_ok()) && set(&mut said, 256).is_err());
    }
}
