//! The small languages in which builds are asked for, which compose files and the command line share: what names a
//! context, and where results of builds come from and go to.

use std::path::PathBuf;

/// What the text of a build context names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextKind<'a> {
    /// A directory of this host.
    Directory,
    /// A git repository, or a file by http(s).
    Remote,
    /// `docker-image://NAME`: an image.
    Image(&'a str),
    /// `oci-layout://PATH`: an image in a directory of OCI's form.
    Layout(&'a str),
    /// `service:NAME`: the image of another service.
    Service(&'a str),
}

/// How addresses of what is fetched begin.
const REMOTE: [&str; 6] = ["https://", "http://", "git://", "ssh://", "git@", "github.com/"];

impl<'a> ContextKind<'a> {
    /// Tells the kinds apart.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        if let Some(image) = text.strip_prefix("docker-image://") {
            Self::Image(image)
        } else if let Some(path) = text.strip_prefix("oci-layout://") {
            Self::Layout(path)
        } else if let Some(name) = text.strip_prefix("service:") {
            Self::Service(name)
        } else if REMOTE.iter().any(|start| text.starts_with(start)) {
            Self::Remote
        } else {
            Self::Directory
        }
    }
}

/// A place for results of builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// `type=local`: a directory.
    Local(PathBuf),
    /// `type=registry`, or an image's name alone.
    Registry(String),
    /// `type=inline`: the image that is built.
    Inline,
}

/// One `cache_to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTarget {
    /// Where to.
    pub place: CachePlace,
    /// `mode=max`: the results of all steps.
    pub all: bool,
    /// `ignore-error`: a failure is a warning.
    pub ignore_error: bool,
}

/// Reads one `cache_from`.
///
/// # Errors
/// A sentence on what is wrong with it.
pub fn cache_from(text: &str) -> Result<CachePlace, String> {
    let options = CacheOptions::read(text, "src")?;
    if options.mode.is_some() || options.ignore_error.is_some() {
        return Err("mode and ignore-error are for what is written".to_owned());
    }
    if options.kind == "inline" {
        return Err(
            "type=inline is for what is written; to read it, name the image: type=registry,ref=IMAGE".to_owned()
        );
    }
    options.place("src")
}

/// Reads one `cache_to`.
///
/// # Errors
/// A sentence on what is wrong with it.
pub fn cache_to(text: &str) -> Result<CacheTarget, String> {
    let options = CacheOptions::read(text, "dest")?;
    let all = match (options.mode.as_deref(), options.kind.as_str()) {
        (None | Some("min"), _) => false,
        (Some("max"), "inline") => return Err("mode=max: an image has no results but its own (mode=min)".to_owned()),
        (Some("max"), _) => true,
        (Some(other), _) => return Err(format!("mode={other}: expected min or max")),
    };
    let ignore_error = options.ignore_error.unwrap_or(false);
    Ok(CacheTarget { place: options.place("dest")?, all, ignore_error })
}

#[derive(Default)]
struct CacheOptions {
    kind: String,
    path: Option<String>,
    reference: Option<String>,
    mode: Option<String>,
    ignore_error: Option<bool>,
}

impl CacheOptions {
    fn read(text: &str, path: &str) -> Result<Self, String> {
        if !text.contains('=') {
            return Ok(Self { kind: "registry".to_owned(), reference: Some(text.to_owned()), ..Self::default() });
        }
        let mut options = Self::default();
        for (key, value) in fields(text)? {
            match key.as_str() {
                "type" => options.kind = value,
                "ref" => options.reference = Some(value),
                "mode" => options.mode = Some(value),
                "ignore-error" => options.ignore_error = Some(truth(&key, &value)?),
                key if key == path || (path == "src" && key == "source") => options.path = Some(value),
                // How a registry or a directory keeps it is decided here.
                "image-manifest" | "oci-mediatypes" if matches!(value.as_str(), "true" | "1") => {}
                "compression" if value == "uncompressed" => {}
                other => {
                    return Err(format!("unknown key {other}: type, ref, {path}, mode and ignore-error are known"));
                }
            }
        }
        Ok(options)
    }

    fn place(self, path: &str) -> Result<CachePlace, String> {
        let given = |value: Option<String>, key: &str| {
            value.filter(|value| !value.is_empty()).ok_or_else(|| format!("{key} is missing"))
        };
        match self.kind.as_str() {
            "local" => Ok(CachePlace::Local(PathBuf::from(given(self.path, path)?))),
            "registry" => Ok(CachePlace::Registry(given(self.reference, "ref")?)),
            "inline" => Ok(CachePlace::Inline),
            "" => Err("type is missing".to_owned()),
            other => Err(format!("type={other} is not supported: use local, registry or inline")),
        }
    }
}

fn truth(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!("{key}={other}: expected true or false")),
    }
}

/// Comma-separated `key=value`; a field in double quotes may hold commas.
fn fields(text: &str) -> Result<Vec<(String, String)>, String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for letter in text.chars().chain([',']) {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                let (key, value) = field.split_once('=').unwrap_or((&field, ""));
                fields.push((key.trim().to_ascii_lowercase(), value.to_owned()));
                field.clear();
            }
            letter => field.push(letter),
        }
    }
    if quoted { Err("a quote is not closed".to_owned()) } else { Ok(fields) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn contexts_are_known_by_how_they_begin() {
        for (text, kind) in [
            (".", ContextKind::Directory),
            ("/x/https://", ContextKind::Directory),
            ("github.community/x", ContextKind::Directory),
            ("https://example.com/x.git#main:sub", ContextKind::Remote),
            ("git@example.com:x/y.git", ContextKind::Remote),
            ("github.com/x/y", ContextKind::Remote),
            ("docker-image://alpine:3", ContextKind::Image("alpine:3")),
            ("oci-layout:///x@sha256:1", ContextKind::Layout("/x@sha256:1")),
            ("service:base", ContextKind::Service("base")),
        ] {
            assert_eq!(ContextKind::of(text), kind, "{text}");
        }
    }

    #[test]
    fn caches_in_short_and_long() {
        assert_eq!(cache_from("me/app:cache").unwrap(), CachePlace::Registry("me/app:cache".into()));
        assert_eq!(cache_from("type=local,src=c").unwrap(), CachePlace::Local("c".into()));
        assert_eq!(cache_from("type=local,\"src=a,b\"").unwrap(), CachePlace::Local("a,b".into()));
        let to = cache_to("type=registry,ref=r:5000/c,mode=max,ignore-error=true,image-manifest=true").unwrap();
        assert_eq!(to, CacheTarget { place: CachePlace::Registry("r:5000/c".into()), all: true, ignore_error: true });
        assert_eq!(cache_to("type=inline").unwrap().place, CachePlace::Inline);
        assert!(!cache_to("type=local,dest=d").unwrap().all);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("type=local", "dest is missing"),
            ("type=registry", "ref is missing"),
            ("type=gha", "type=gha is not supported"),
            ("type=local,dest=x,mode=all", "expected min or max"),
            ("type=inline,mode=max", "mode=min"),
            ("type=local,dest=x,colour=red", "unknown key colour"),
            ("type=registry,ref=x,compression=zstd", "unknown key compression"),
            ("dest=x", "type is missing"),
            ("type=\"local", "not closed"),
        ] {
            let fault = cache_to(text).unwrap_err();
            assert!(fault.contains(part), "{text}: {fault}");
        }
        assert!(cache_from("type=inline").unwrap_err().contains("type=registry,ref=IMAGE"));
        assert!(cache_from("type=local,src=x,mode=max").unwrap_err().contains("written"));
    }
}
