//! What a source names, and what that contains.

use std::io::Read;
use std::sync::PoisonError;

use nix::sys::stat::{FileStat, SFlag};
use sampan_image::tree::{self, Tree};
use sha2::{Digest as _, Sha256};

use super::{CopyError, Entry, Kind, Match, Origin, Selection, join, open, resolve, shown};
use crate::error::At;
use crate::pattern::{Pattern, clean};
use crate::source::nearest;

/// How deep directories may lie in each other.
const MAX_DEPTH: usize = 250;

/// What a source names, with digests of all contents. A pattern may name nothing; a plain name may not.
pub fn collect(origin: &Origin<'_>, source: &str, selection: &Selection) -> Result<Vec<Match>, CopyError> {
    // Above the top there is nothing else than the top.
    let cleaned = clean(&format!("/{source}")).trim_start_matches('/').to_owned();
    let path = if cleaned == "." { String::new() } else { cleaned };
    let mut tree = Tree::open(origin.root).at("open", origin.root.as_os_str().as_encoded_bytes())?;
    let mut work = Collect { origin, selection, tree: &mut tree };
    let literal = Pattern::is_literal(&path);
    let names = if literal { vec![path.clone().into_bytes()] } else { work.expand(&path)? };
    let pivot = source.find("/./").map(|at| clean(&format!("/{}", &source[..at])).trim_start_matches('/').to_owned());
    let mut matches = Vec::new();
    for name in names {
        if let Some(found) = work.one(&name, pivot.as_deref())? {
            matches.push(found);
        } else if literal {
            return Err(work.missing(source, &path));
        }
    }
    Ok(matches)
}

struct Collect<'a> {
    origin: &'a Origin<'a>,
    selection: &'a Selection,
    tree: &'a mut Tree,
}

impl Collect<'_> {
    fn ignored(&self, path: &[u8]) -> bool {
        self.origin.ignore.is_some_and(|ignore| !path.is_empty() && ignore.ignores(&String::from_utf8_lossy(path)))
    }

    fn missing(&mut self, source: &str, path: &str) -> CopyError {
        let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
        let names: Vec<String> = resolve(self.tree, parent.as_bytes())
            .ok()
            .filter(|(_, stat)| stat.is_some())
            .and_then(|(parent, _)| self.tree.open_folder(&parent).ok())
            .and_then(|folder| tree::names(std::os::fd::AsFd::as_fd(&folder)).ok())
            .unwrap_or_default()
            .iter()
            .map(|name| shown(name))
            .collect();
        if names.iter().any(|name| name == last) {
            return CopyError::Source(format!("{source}: excluded from {} by .dockerignore", self.origin.label));
        }
        let hint = nearest(last, names.iter().map(String::as_str)).map(|name| format!("; did you mean {name}?"));
        CopyError::Source(format!("{source}: not found in {}{}", self.origin.label, hint.unwrap_or_default()))
    }

    /// Names that match a pattern with something wild in it.
    fn expand(&mut self, pattern: &str) -> Result<Vec<Vec<u8>>, CopyError> {
        let mut names: Vec<Vec<u8>> = vec![Vec::new()];
        for part in pattern.split('/') {
            let glob = Pattern::go(part).map_err(|error| CopyError::Source(error.to_string()))?;
            let mut next = Vec::new();
            for name in names {
                if Pattern::is_literal(part) {
                    next.push(join(&name, part.as_bytes()));
                    continue;
                }
                let (folder, stat) = resolve(self.tree, &name).at("open", &name)?;
                if stat.is_none_or(|stat| tree::format(&stat) != libc::S_IFDIR) {
                    continue;
                }
                let open = self.tree.open_folder(&folder).at("open", &folder)?;
                let found = tree::names(std::os::fd::AsFd::as_fd(&open)).at("list", &folder)?;
                next.extend(found.iter().filter(|each| glob.matches(&shown(each))).map(|each| join(&name, each)));
            }
            names = next;
        }
        Ok(names)
    }

    fn one(&mut self, name: &[u8], pivot: Option<&str>) -> Result<Option<Match>, CopyError> {
        if self.ignored(name) && !self.may_hold_exceptions(name) {
            return Ok(None);
        }
        let (path, stat) = resolve(self.tree, name).at("look at", name)?;
        let Some(stat) = stat else { return Ok(None) };
        let (above, last) = tree::split(name);
        let directory = tree::format(&stat) == libc::S_IFDIR;
        let mut entries = Vec::new();
        if directory {
            self.walk(name, &path, &[], 0, &mut entries)?;
        } else {
            let excluded = |text: &[u8]| self.selection.exclude.ignores(&String::from_utf8_lossy(text));
            if excluded(name) || excluded(last) {
                return Ok(Some(Match { name: last.to_vec(), above: Vec::new(), directory: true, entries }));
            }
            entries.push(self.entry(Vec::new(), path, &stat)?);
        }
        let above = if self.selection.parents {
            let whole = if directory { name } else { above };
            let cut = pivot.map_or(0, str::len);
            let rest = whole.get(cut..).unwrap_or_default();
            rest.strip_prefix(b"/").unwrap_or(rest).to_vec()
        } else {
            Vec::new()
        };
        Ok(Some(Match { name: last.to_vec(), above, directory, entries }))
    }

    fn may_hold_exceptions(&self, name: &[u8]) -> bool {
        self.origin.ignore.is_some_and(|ignore| !ignore.prunes(&String::from_utf8_lossy(name)))
    }

    /// The contents of a directory, `named` as the user sees it, `path` without links.
    fn walk(
        &mut self,
        named: &[u8],
        path: &[u8],
        below: &[u8],
        depth: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<(), CopyError> {
        if depth > MAX_DEPTH {
            return Err(CopyError::Source(format!("{}: directories are nested too deep", shown(named))));
        }
        let open = self.tree.open_folder(path).at("open", path)?;
        for name in tree::names(std::os::fd::AsFd::as_fd(&open)).at("list", path)? {
            let (inner, inner_named, inner_below) = (join(path, &name), join(named, &name), join(below, &name));
            let Some(stat) = tree::stat(&open, &name).at("look at", &inner)? else { continue };
            let directory = tree::format(&stat) == libc::S_IFDIR;
            let ignored =
                self.ignored(&inner_named) || self.selection.exclude.ignores(&String::from_utf8_lossy(&inner_below));
            if ignored && !directory {
                continue;
            }
            if !directory {
                // Pipes and sockets of a context are nobody's files.
                if !self.origin.keep && !matches!(tree::format(&stat), libc::S_IFREG | libc::S_IFLNK) {
                    continue;
                }
                if tree::format(&stat) == libc::S_IFSOCK {
                    continue;
                }
                entries.push(self.entry(inner_below, inner, &stat)?);
                continue;
            }
            if ignored {
                let text = String::from_utf8_lossy(&inner_named);
                let nothing = self.origin.ignore.is_none_or(|ignore| ignore.prunes(&text))
                    || self.selection.exclude.prunes(&String::from_utf8_lossy(&inner_below));
                if !nothing {
                    // The directory itself counts only for what an exception keeps below it.
                    let mut kept = Vec::new();
                    self.walk(&inner_named, &inner, &inner_below, depth + 1, &mut kept)?;
                    if !kept.is_empty() {
                        entries.push(self.entry(inner_below, inner, &stat)?);
                        entries.extend(kept);
                    }
                }
                continue;
            }
            entries.push(self.entry(inner_below.clone(), inner.clone(), &stat)?);
            self.walk(&inner_named, &inner, &inner_below, depth + 1, entries)?;
        }
        Ok(())
    }

    fn entry(&mut self, below: Vec<u8>, path: Vec<u8>, stat: &FileStat) -> Result<Entry, CopyError> {
        let (parent, last) = tree::split(&path);
        let last = if last.is_empty() { &b"."[..] } else { last };
        let folder = self.tree.folder(parent).at("open", parent)?;
        let kind = match tree::format(stat) {
            libc::S_IFREG => Kind::File { digest: self.digest(&path, &folder, last)? },
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFLNK => Kind::Symlink(tree::read_link(&*folder, last).at("read the link", &path)?),
            format => Kind::Node { flag: SFlag::from_bits_truncate(format), device: stat.st_rdev },
        };
        let xattrs = if self.origin.keep {
            let all = tree::attributes(&*folder, last).at("read the attributes of", &path)?;
            all.into_iter().filter(|(key, _)| !key.starts_with(b"trusted.")).collect()
        } else {
            Vec::new()
        };
        Ok(Entry {
            linked: (self.origin.keep && stat.st_nlink > 1 && matches!(kind, Kind::File { .. }))
                .then_some((stat.st_dev, stat.st_ino)),
            below,
            kind,
            mode: stat.st_mode & 0o7777,
            owner: if self.origin.keep { (stat.st_uid, stat.st_gid) } else { (0, 0) },
            mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            xattrs,
            path,
        })
    }

    fn digest(&self, path: &[u8], folder: &tree::Folder, last: &[u8]) -> Result<[u8; 32], CopyError> {
        if let Some(known) = self.origin.digests.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
            return Ok(*known);
        }
        let mut file = open(folder, last).at("open", path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let length = file.read(&mut buffer).at("read", path)?;
            if length == 0 {
                break;
            }
            hash.update(&buffer[..length]);
        }
        let digest: [u8; 32] = hash.finalize().into();
        self.origin.digests.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_vec(), digest);
        Ok(digest)
    }
}
