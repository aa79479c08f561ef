//! Addresses of what is fetched for a build: files by http(s) and git repositories. Nothing is fetched here.

use sampan_compose::build_options::ContextKind;

/// What a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// One file.
    Http {
        /// `http://` or `https://`.
        url: String,
    },
    /// The files of a commit.
    Git {
        /// What git fetches from.
        url: String,
        /// A branch, a tag or a commit; the default branch when there is none.
        reference: Option<String>,
        /// The directory that counts; relative, cleaned.
        folder: String,
    },
}

impl Remote {
    /// Reads an address; `None` when it is a path.
    ///
    /// # Errors
    /// A sentence on what must not be in it: words that git would take for options, control characters, `..`.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        if ContextKind::of(text) != ContextKind::Remote {
            return Ok(None);
        }
        let http = text.starts_with("http://") || text.starts_with("https://");
        let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
        let git = !http || address.trim_end_matches('/').ends_with(".git");
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(format!("{text:?}: a URL has no spaces and no control characters"));
        }
        if !git {
            if host(text).is_empty() {
                return Err(format!("{text}: the URL names no host"));
            }
            return Ok(Some(Self::Http { url: text.to_owned() }));
        }
        let url = if address.starts_with("github.com/") { format!("https://{address}") } else { address.to_owned() };
        let named = host(&url);
        if named.is_empty() || named.starts_with('-') {
            return Err(format!("{text}: the URL names no host that git may be given"));
        }
        let (reference, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-' | '+' | '@');
        if reference.starts_with('-') || reference.contains("..") || !reference.chars().all(plain) {
            return Err(format!("{text}: {reference} cannot be a branch, a tag or a commit"));
        }
        let folder = crate::pattern::clean(folder.trim_start_matches('/'));
        if folder == ".." || folder.starts_with("../") {
            return Err(format!("{text}: the directory lies outside of the repository"));
        }
        let folder = if folder == "." { String::new() } else { folder };
        let reference = (!reference.is_empty()).then(|| reference.to_owned());
        Ok(Some(Self::Git { url, reference, folder }))
    }

    /// The name of the file in the URL's path; empty when it ends in a directory.
    #[must_use]
    pub fn file_name(&self) -> &str {
        let Self::Http { url } = self else { return "" };
        let path = url.split(['?', '#']).next().unwrap_or_default();
        let path = path.split_once("://").map_or(path, |(_, rest)| rest);
        path.split_once('/').and_then(|(_, path)| path.rsplit('/').next()).unwrap_or_default()
    }

    /// The address without what may be a password in it.
    #[must_use]
    pub fn shown(&self) -> String {
        let (Self::Http { url } | Self::Git { url, .. }) = self;
        match url.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                let authority = authority.rsplit('@').next().unwrap_or_default();
                format!("{scheme}://{authority}/{}", path.split('?').next().unwrap_or_default())
            }
            None => url.clone(),
        }
    }
}

/// The host of `scheme://user@host:port/path` or `user@host:path`.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.starts_with('[') { host } else { host.split(':').next().unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn git(url: &str, reference: Option<&str>, folder: &str) -> Option<Remote> {
        Some(Remote::Git { url: url.into(), reference: reference.map(str::to_owned), folder: folder.into() })
    }

    #[test]
    fn files_and_repositories_are_told_apart() {
        assert_eq!(Remote::parse("src/a.git").unwrap(), None);
        assert_eq!(Remote::parse("/x").unwrap(), None);
        let file = Remote::parse("https://h/dir/x.tgz?sig=1").unwrap().unwrap();
        assert_eq!((file.file_name(), file.shown().as_str()), ("x.tgz", "https://h/dir/x.tgz"));
        assert_eq!(Remote::parse("http://h/").unwrap().unwrap().file_name(), "");
        assert_eq!(Remote::parse("https://h/r.git").unwrap(), git("https://h/r.git", None, ""));
        assert_eq!(Remote::parse("https://h/r.git#v1:sub/./x").unwrap(), git("https://h/r.git", Some("v1"), "sub/x"));
        assert_eq!(Remote::parse("git@h:o/r.git#:sub").unwrap(), git("git@h:o/r.git", None, "sub"));
        assert_eq!(Remote::parse("github.com/o/r").unwrap(), git("https://github.com/o/r", None, ""));
        let secret = Remote::parse("https://me:pass@h/r.git").unwrap().unwrap();
        assert_eq!(secret.shown(), "https://h/r.git");
    }

    #[test]
    fn options_and_ways_out_are_refused() {
        for text in [
            "https://h/r.git#--upload-pack=x",
            "https://h/r.git#a..b",
            "https://h/r.git#main:../x",
            "git@-oProxyCommand=x:r.git",
            "ssh://-oProxyCommand=x/r.git",
            "git://h/r\nx",
            "https:///x",
            "https://h/r.git#a b",
        ] {
            Remote::parse(text).unwrap_err();
        }
    }
}
