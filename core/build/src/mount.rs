//! `RUN --mount=…`.

use std::collections::BTreeSet;

use crate::instruction::{Dockerfile, Kind};

/// A mount of one RUN.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RunMount {
    /// Which kind.
    pub kind: MountKind,
    /// Where, in the stage's root; empty for secrets and agents, which have places of their own.
    pub target: String,
}

/// Kinds of mounts.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind { from: Option<String>, source: String, writable: bool },
    /// A directory that outlives the build.
    Cache {
        id: String,
        from: Option<String>,
        source: String,
        read_only: bool,
        sharing: Sharing,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// Memory.
    Tmpfs { size: Option<u64> },
    /// A file that is in no layer.
    Secret { id: String, required: bool, mode: u32, uid: u32, gid: u32, env: Option<String> },
    /// The user's agent.
    Ssh { id: String, required: bool, mode: u32, uid: u32, gid: u32 },
}

/// Whether builds that run at once share a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Sharing {
    Shared,
    Private,
    Locked,
}

/// What `from=` says, without reading the rest: the graph needs it before variables have values.
#[must_use]
pub fn from_of(text: &str) -> Option<String> {
    fields(text).ok()?.into_iter().find(|(key, _)| key == "from").map(|(_, value)| value)
}

/// Ids that the RUNs of a Dockerfile ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// Of secrets.
    pub secrets: BTreeSet<String>,
    /// Of agents.
    pub agents: BTreeSet<String>,
}

/// What the RUNs of all stages ask for, as far as it depends on no variable.
#[must_use]
pub fn needed(file: &Dockerfile) -> Needed {
    let mut needed = Needed::default();
    let runs = file.instructions.iter().filter_map(|each| match &each.kind {
        Kind::Run(run) => Some(run),
        _ => None,
    });
    for text in runs.flat_map(|run| &run.mounts) {
        match parse(text, &|text: &str| Ok(text.to_owned())).map(|mount| mount.kind) {
            Ok(MountKind::Secret { id, .. }) => drop(needed.secrets.insert(id)),
            Ok(MountKind::Ssh { id, .. }) => drop(needed.agents.insert(id)),
            // What is no mount is for the build to say.
            _ => {}
        }
    }
    needed
}

/// Reads a mount. `expand` gives variables their values.
///
/// # Errors
/// A sentence that names the key.
pub fn parse(text: &str, expand: &dyn Fn(&str) -> Result<String, String>) -> Result<RunMount, String> {
    let mut found = Fields::default();
    for (key, value) in fields(text)? {
        if key == "from" {
            if value.contains('$') {
                return Err(format!("from={value}: no variables here; give a stage a name: FROM {value} AS name"));
            }
            found.from = Some(value);
            continue;
        }
        found.set(&key, &expand(&value)?)?;
    }
    found.finish()
}

/// Comma-separated `key=value`; a field in double quotes may hold commas.
fn fields(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    for c in text.chars().chain([',']) {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                let (key, value) = field.split_once('=').unwrap_or((&field, ""));
                if key.is_empty() {
                    return Err(format!("--mount={text}: an empty field"));
                }
                fields.push((key.trim().to_ascii_lowercase(), value.to_owned()));
                field.clear();
            }
            _ => field.push(c),
        }
    }
    if quoted {
        return Err(format!("--mount={text}: a quote is not closed"));
    }
    Ok(fields)
}

#[derive(Default)]
struct Fields {
    kind: Option<String>,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    id: Option<String>,
    env: Option<String>,
    size: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    required: bool,
    read_only: Option<bool>,
    sharing: Option<Sharing>,
}

impl Fields {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let text = || {
            if value.is_empty() { Err(format!("--mount: {key} needs a value")) } else { Ok(Some(value.to_owned())) }
        };
        let number = |radix| {
            u32::from_str_radix(value, radix).map(Some).map_err(|_| format!("--mount: {key}={value} is not a number"))
        };
        match key {
            "type" => self.kind = text()?,
            "source" | "src" => self.source = text()?,
            "target" | "dst" | "destination" => self.target = text()?,
            "id" => self.id = text()?,
            "env" => self.env = text()?,
            "size" => self.size = Some(bytes(value).ok_or_else(|| format!("--mount: size={value} is not a size"))?),
            "mode" => self.mode = number(8)?,
            "uid" => self.uid = number(10)?,
            "gid" => self.gid = number(10)?,
            "required" => self.required = truth(key, value)?,
            "readonly" | "ro" => self.read_only = Some(truth(key, value)?),
            "readwrite" | "rw" => self.read_only = Some(!truth(key, value)?),
            "sharing" => {
                self.sharing = Some(match value {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => return Err(format!("--mount: sharing={value}: expected shared, private or locked")),
                });
            }
            _ => {
                let known = [
                    "type",
                    "from",
                    "source",
                    "target",
                    "id",
                    "env",
                    "size",
                    "mode",
                    "uid",
                    "gid",
                    "required",
                    "readonly",
                    "readwrite",
                    "sharing",
                ];
                let hint = crate::source::nearest(key, known).map(|meant| format!("; did you mean {meant}?"));
                return Err(format!("--mount has no option {key}{}", hint.unwrap_or_default()));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<RunMount, String> {
        let kind = self.kind.as_deref().unwrap_or("bind");
        let target = self.target.clone();
        let needed = || target.clone().ok_or_else(|| format!("--mount=type={kind} needs a target"));
        if self.size.is_some() && kind != "tmpfs" {
            return Err(format!("--mount=type={kind} takes no size"));
        }
        if self.sharing.is_some() && kind != "cache" {
            return Err(format!("--mount=type={kind} takes no sharing"));
        }
        if self.env.is_some() && kind != "secret" {
            return Err(format!("--mount=type={kind} takes no env"));
        }
        Ok(match kind {
            "bind" => RunMount {
                target: needed()?,
                kind: MountKind::Bind {
                    from: self.from,
                    source: self.source.unwrap_or_else(|| "/".to_owned()),
                    writable: self.read_only == Some(false),
                },
            },
            "cache" => {
                let target = needed()?;
                RunMount {
                    kind: MountKind::Cache {
                        id: self.id.unwrap_or_else(|| target.clone()),
                        from: self.from,
                        source: self.source.unwrap_or_else(|| "/".to_owned()),
                        read_only: self.read_only == Some(true),
                        sharing: self.sharing.unwrap_or(Sharing::Shared),
                        mode: self.mode.unwrap_or(0o755),
                        uid: self.uid.unwrap_or(0),
                        gid: self.gid.unwrap_or(0),
                    },
                    target,
                }
            }
            "tmpfs" => RunMount { target: needed()?, kind: MountKind::Tmpfs { size: self.size } },
            "secret" => {
                let id = match (self.id, &self.target) {
                    (Some(id), _) => id,
                    (None, Some(target)) => target.rsplit('/').next().unwrap_or_default().to_owned(),
                    (None, None) => return Err("--mount=type=secret needs an id".to_owned()),
                };
                // With a variable alone there is no file.
                let target = match (self.target, &self.env) {
                    (Some(target), _) => target,
                    (None, Some(_)) => String::new(),
                    (None, None) => format!("/run/secrets/{id}"),
                };
                RunMount {
                    target,
                    kind: MountKind::Secret {
                        id,
                        required: self.required,
                        mode: self.mode.unwrap_or(0o400),
                        uid: self.uid.unwrap_or(0),
                        gid: self.gid.unwrap_or(0),
                        env: self.env,
                    },
                }
            }
            "ssh" => RunMount {
                target: self.target.unwrap_or_default(),
                kind: MountKind::Ssh {
                    id: self.id.unwrap_or_else(|| "default".to_owned()),
                    required: self.required,
                    mode: self.mode.unwrap_or(0o600),
                    uid: self.uid.unwrap_or(0),
                    gid: self.gid.unwrap_or(0),
                },
            },
            other => {
                return Err(format!("--mount=type={other}: expected bind, cache, tmpfs, secret or ssh"));
            }
        })
    }
}

fn truth(key: &str, value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("--mount: {key}={value}: expected true or false")),
    }
}

/// `10m`, `1gb`, `4096`.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let number: u64 = lower[..digits].parse().ok()?;
    let factor = match lower[digits..].trim_end_matches('b').trim_end_matches('i') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mount(text: &str) -> Result<RunMount, String> {
        parse(text, &|value| Ok(value.to_owned()))
    }

    #[test]
    fn kinds_and_defaults() {
        assert_eq!(
            mount("target=/x").unwrap().kind,
            MountKind::Bind { from: None, source: "/".into(), writable: false }
        );
        let cache = mount("type=cache,dst=/root/.cache,sharing=locked,mode=0700").unwrap();
        assert!(
            matches!(cache.kind, MountKind::Cache { id, sharing: Sharing::Locked, mode: 0o700, .. } if id == "/root/.cache")
        );
        assert_eq!(mount("type=secret,id=key").unwrap().target, "/run/secrets/key");
        assert_eq!(mount("type=secret,id=key,env=KEY").unwrap().target, "");
        assert_eq!(mount("type=tmpfs,target=/t,size=2m").unwrap().kind, MountKind::Tmpfs { size: Some(2 << 20) });
        assert_eq!(from_of("type=bind,from=build,target=/b").as_deref(), Some("build"));
        assert_eq!(mount("\"target=/a,b\"").unwrap().target, "/a,b");
    }

    #[test]
    fn faults_name_the_key() {
        for (text, part) in [
            ("type=cash,target=/x", "expected bind"),
            ("type=cache", "needs a target"),
            ("taget=/x", "did you mean target?"),
            ("type=cache,target=/x,sharing=all", "expected shared"),
            ("type=bind,target=/x,size=1m", "takes no size"),
            ("target=/x,ro=maybe", "expected true or false"),
            ("from=$a,target=/x", "no variables"),
            ("target=/x,,", "empty field"),
        ] {
            let fault = mount(text).unwrap_err();
            assert!(fault.contains(part), "{text}: {fault}");
        }
    }
}
