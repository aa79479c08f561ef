//! Credentials for registries, in Docker's own file and by its helpers.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::reference;
use crate::failure::{Failure, Outcome};
use crate::output::tell;

/// The client's configuration file, of which everything is kept that is not understood here.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    content: Map<String, Value>,
}

impl ConfigFile {
    /// Reads `config.json` of a directory; one that is not there is empty.
    pub fn read(directory: &Path) -> Outcome<Self> {
        let path = directory.join("config.json");
        let content = match std::fs::read(&path) {
            Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => Map::new(),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Failure::new(format!("read the client's configuration {}: {error}", path.display()))
            })?,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Map::new(),
            Err(error) => {
                return Err(Failure::new(format!("read the client's configuration {}: {error}", path.display())));
            }
        };
        Ok(Self { path, content })
    }

    /// The program that keeps the credentials of a registry, if one does.
    fn helper(&self, key: &str) -> Option<String> {
        let own = self.content.get("credHelpers").and_then(|helpers| helpers.get(key));
        own.or_else(|| self.content.get("credsStore"))
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
    }

    /// Credentials of a registry, as the API takes them; null when there are none.
    pub fn credentials(&self, registry: &str) -> Value {
        let key = reference::credentials_key(registry);
        if let Some(helper) = self.helper(key) {
            return match call_helper(&helper, "get", key.as_bytes()) {
                Ok(answer) => from_helper(&answer, key),
                // Helpers answer with this error when they know nothing of a registry.
                Err(error) if error.message.contains("credentials not found") => Value::Null,
                Err(error) => {
                    tell!("WARNING: {}; going on without credentials for {registry}", error.message);
                    Value::Null
                }
            };
        }
        let Some(auths) = self.content.get("auths").and_then(Value::as_object) else { return Value::Null };
        let host = |name: &str| {
            name.trim_start_matches("https://")
                .trim_start_matches("http://")
                .split('/')
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        let found =
            auths.get(key).or_else(|| auths.iter().find(|(name, _)| host(name) == registry).map(|(_, found)| found));
        found.map_or(Value::Null, |found| from_file(found, key))
    }

    /// Credentials of all registries that the file itself holds, for builds.
    pub fn all(&self) -> Map<String, Value> {
        let names =
            self.content.get("auths").and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name.clone());
        let helpers = self
            .content
            .get("credHelpers")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone());
        // The store that keeps all the others says itself which they are.
        let store = self.content.get("credsStore").and_then(Value::as_str).filter(|name| !name.is_empty());
        let listed = store.and_then(|store| call_helper(store, "list", b"").ok());
        let listed: Map<String, Value> =
            listed.and_then(|answer| serde_json::from_slice(&answer).ok()).unwrap_or_default();
        let known: std::collections::BTreeSet<String> =
            names.chain(helpers).chain(listed.into_iter().map(|(name, _)| name)).collect();
        known
            .into_iter()
            .filter_map(|name| {
                let registry = if name == reference::HUB_KEY { reference::HUB.to_owned() } else { name.clone() };
                let found = self.credentials(&registry);
                (!found.is_null()).then_some((name, found))
            })
            .collect()
    }

    /// Keeps credentials; where they went.
    pub fn store(&mut self, key: &str, username: &str, secret: &str, token: bool) -> Outcome<Kept> {
        if let Some(helper) = self.helper(key) {
            let username = if token { "<token>" } else { username };
            let entry = json!({"ServerURL": key, "Username": username, "Secret": secret}).to_string();
            call_helper(&helper, "store", entry.as_bytes())?;
            self.auths().insert(key.to_owned(), json!({}));
            self.write()?;
            return Ok(Kept::Helper);
        }
        let entry = if token {
            json!({"auth": STANDARD.encode(format!("{username}:")), "identitytoken": secret})
        } else {
            json!({"auth": STANDARD.encode(format!("{username}:{secret}"))})
        };
        self.auths().insert(key.to_owned(), entry);
        self.write()?;
        Ok(Kept::File(self.path.clone()))
    }

    /// Forgets credentials; whether there were any.
    pub fn erase(&mut self, key: &str) -> Outcome<bool> {
        if let Some(helper) = self.helper(key) {
            call_helper(&helper, "erase", key.as_bytes())?;
        }
        let was = self.auths().remove(key).is_some();
        if was {
            self.write()?;
        }
        Ok(was)
    }

    fn auths(&mut self) -> &mut Map<String, Value> {
        let auths = self.content.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        match auths {
            Value::Object(map) => map,
            _ => unreachable!("made an object above"),
        }
    }

    /// Written beside and renamed, readable by the owner alone.
    fn write(&self) -> Outcome {
        let named = |error: io::Error| {
            Failure::new(format!("write the client's configuration {}: {error}", self.path.display()))
        };
        let directory = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).map_err(named)?;
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let temporary = path.with_file_name(format!("config.json.{}", std::process::id()));
        let text = serde_json::to_string_pretty(&self.content).map_err(|error| Failure::new(error.to_string()))?;
        let write = || {
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(|error| {
            let _ = std::fs::remove_file(&temporary);
            named(error)
        })
    }
}

/// Where credentials went.
#[derive(Debug, PartialEq, Eq)]
pub enum Kept {
    /// To a helper.
    Helper,
    /// Into the file, readable to whoever can read it.
    File(PathBuf),
}

/// The value of the header for one registry.
pub fn header(credentials: &Value) -> String {
    URL_SAFE.encode(if credentials.is_null() { "{}".to_owned() } else { credentials.to_string() })
}

fn from_file(entry: &Value, key: &str) -> Value {
    let text = |name: &str| entry[name].as_str().filter(|text| !text.is_empty());
    let decoded =
        text("auth").and_then(|auth| STANDARD.decode(auth).ok()).and_then(|auth| String::from_utf8(auth).ok());
    let (username, password) = match decoded.as_deref().and_then(|pair| pair.split_once(':')) {
        Some((name, secret)) => (name.to_owned(), secret.trim_end_matches('\0').to_owned()),
        None => (text("username").unwrap_or_default().to_owned(), text("password").unwrap_or_default().to_owned()),
    };
    let mut found = json!({"username": username, "password": password, "serveraddress": key});
    if let Some(token) = text("identitytoken") {
        found["identitytoken"] = json!(token);
        found["password"] = json!("");
    } else if username.is_empty() && password.is_empty() {
        return Value::Null;
    }
    found
}

fn from_helper(answer: &[u8], key: &str) -> Value {
    let Ok(answer) = serde_json::from_slice::<Value>(answer) else { return Value::Null };
    let text = |name: &str| answer[name].as_str().unwrap_or_default();
    if text("Username") == "<token>" {
        json!({"identitytoken": text("Secret"), "serveraddress": key})
    } else {
        json!({"username": text("Username"), "password": text("Secret"), "serveraddress": key})
    }
}

fn call_helper(name: &str, verb: &str, input: &[u8]) -> Outcome<Vec<u8>> {
    let program = format!("docker-credential-{name}");
    let failed = |why: String| Failure::new(format!("credential helper {program} {verb}: {why}"));
    // The name comes from a file of the user's; it must be one and not a path.
    if name.contains('/') {
        return Err(failed("its name is a path".to_owned()));
    }
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Err(failed(String::from_utf8_lossy(&said).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn credentials_are_kept_found_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), r#"{"psFormat": "x"}"#).unwrap();
        let mut file = ConfigFile::read(dir.path()).unwrap();
        assert!(file.credentials("r.example:5000").is_null());
        let kept = file.store("r.example:5000", "me", "pass:word", false).unwrap();
        assert_eq!(kept, Kept::File(dir.path().join("config.json")));
        let mut file = ConfigFile::read(dir.path()).unwrap();
        assert_eq!(file.content["psFormat"], "x");
        assert_eq!(
            file.credentials("r.example:5000"),
            json!({"username": "me", "password": "pass:word", "serveraddress": "r.example:5000"})
        );
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(dir.path().join("config.json")).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        assert!(file.erase("r.example:5000").unwrap() && !file.erase("r.example:5000").unwrap());
    }

    #[test]
    fn the_hub_has_an_old_name_and_tokens_replace_passwords() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = ConfigFile::read(dir.path()).unwrap();
        file.store(reference::HUB_KEY, "me", "tok", true).unwrap();
        let found = file.credentials("docker.io");
        assert_eq!((&found["identitytoken"], &found["password"]), (&json!("tok"), &json!("")));
        assert_eq!(file.all().len(), 1);
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{").unwrap();
        assert!(ConfigFile::read(dir.path()).unwrap_err().message.contains("config.json"));
        assert!(ConfigFile::read(Path::new("/no/such")).is_ok());
    }
}
