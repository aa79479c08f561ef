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
        /// What else the address asks for.
        wish: Wish,
    },
}

/// What the query of a repository's address asks for, beside what its fragment can say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// `keep-git-dir`.
    pub keep: bool,
    /// `checksum` or `commit`: the commit that it must be, or the beginning of its name.
    pub checksum: Option<String>,
    /// `submodules=false`.
    pub no_submodules: bool,
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
        let (address, query) =
            address.split_once('?').map_or((address, None), |(address, query)| (address, Some(query)));
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
        let asked = Asked::read(query.unwrap_or_default()).map_err(|why| format!("{text}: {why}"))?;
        let reference =
            either("branch, tag or commit", reference, &asked.reference).map_err(|why| format!("{text}: {why}"))?;
        let folder = either("directory", folder, &asked.folder).map_err(|why| format!("{text}: {why}"))?;
        // What must be a whole commit is that commit.
        let reference = match &asked.wish.checksum {
            Some(commit) if reference.is_empty() && commit.len() >= 40 => commit.as_str(),
            _ => reference,
        };
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
        Ok(Some(Self::Git { url, reference, folder, wish: asked.wish }))
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

/// What the query of a repository's address says.
#[derive(Debug, Default)]
struct Asked {
    reference: String,
    folder: String,
    wish: Wish,
}

impl Asked {
    fn read(query: &str) -> Result<Self, String> {
        let mut asked = Self::default();
        for field in query.split('&').filter(|field| !field.is_empty()) {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            let value = decoded(value).ok_or_else(|| format!("{field}: bytes are written as %41"))?;
            let truth = || match value.as_str() {
                "" | "1" | "true" => Ok(true),
                "0" | "false" => Ok(false),
                _ => Err(format!("{field}: expected true or false")),
            };
            match key {
                "ref" | "branch" | "tag" => {
                    let place = match key {
                        "branch" => "refs/heads/",
                        "tag" => "refs/tags/",
                        _ => "",
                    };
                    let named = format!("{place}{}", value.strip_prefix(place).unwrap_or(&value));
                    asked.reference = either("branch, tag or commit", &asked.reference, &named)?.to_owned();
                }
                "subdir" => asked.folder = value,
                "checksum" | "commit" => {
                    if value.len() < 7 || value.len() > 64 || !value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                        return Err(format!("{field}: expected at least 7 digits of a commit's name"));
                    }
                    let value = value.to_ascii_lowercase();
                    if asked.wish.checksum.as_ref().is_some_and(|other| *other != value) {
                        return Err("checksum and commit name two commits".to_owned());
                    }
                    asked.wish.checksum = Some(value);
                }
                "keep-git-dir" => asked.wish.keep = truth()?,
                "submodules" => asked.wish.no_submodules = !truth()?,
                _ => {
                    let known = "ref, branch, tag, subdir, commit, checksum, keep-git-dir and submodules are known";
                    return Err(format!("unexpected {key} in the address of a repository: {known}"));
                }
            }
        }
        Ok(asked)
    }
}

/// What only one of two places says, or both say alike.
fn either<'a>(what: &str, one: &'a str, other: &'a str) -> Result<&'a str, String> {
    match (one, other) {
        ("", other) => Ok(other),
        (one, "") => Ok(one),
        (one, other) if one == other => Ok(one),
        (one, other) => Err(format!("two names of a {what}: {one} and {other}")),
    }
}

/// A part of a query without its escapes.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
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
        let wish = Wish::default();
        Some(Remote::Git { url: url.into(), reference: reference.map(str::to_owned), folder: folder.into(), wish })
    }

    #[test]
    fn a_query_says_what_a_fragment_does_and_more() {
        let read = |text: &str| Remote::parse(text);
        assert_eq!(read("https://h/r.git?ref=v1&subdir=a/b").unwrap(), git("https://h/r.git", Some("v1"), "a/b"));
        assert_eq!(read("git://h/r?branch=a%2Fb#:sub").unwrap(), git("git://h/r", Some("refs/heads/a/b"), "sub"));
        assert_eq!(
            read("https://h/r.git?tag=v1#refs/tags/v1").unwrap(),
            git("https://h/r.git", Some("refs/tags/v1"), "")
        );
        let commit = "1771e51159f95afae36fa8a0eb42aceaa6ec0464";
        let found = read(&format!("https://h/r.git?commit={commit}&keep-git-dir=1&submodules=0")).unwrap().unwrap();
        let wish = Wish { keep: true, checksum: Some(commit.to_owned()), no_submodules: true };
        let (url, reference) = ("https://h/r.git".to_owned(), Some(commit.to_owned()));
        assert_eq!(found, Remote::Git { url, reference, folder: String::new(), wish });
        for (query, part) in [
            ("?ref=v1#dev", "two names"),
            ("?tag=a&branch=b", "two names"),
            ("?subdir=../x", "outside"),
            ("?ref=--upload-pack%3Dx", "cannot be"),
            ("?commit=xyz", "7 digits"),
            ("?depth=1", "unexpected depth"),
            ("?ref=a%0ab", "written as"),
            ("?keep-git-dir=perhaps", "true or false"),
        ] {
            let why = read(&format!("https://h/r.git{query}")).unwrap_err();
            assert!(why.contains(part), "{query}: {why}");
        }
        // A file's query is its own.
        let file = read("https://h/r.zip?ref=v1").unwrap();
        assert_eq!(file, Some(Remote::Http { url: "https://h/r.zip?ref=v1".into() }));
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
