//! `--chown` and `--chmod`: names looked up in the stage's own files, modes in both notations.

use std::io::Read;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use sampan_image::tree::{self, Tree};

/// Longest `passwd` or `group` that is read.
const MAX_FILE: u64 = 4 << 20;

/// Finds the numbers of `user[:group]`. A user without a group has the group of the same number, as Docker has it; of
/// `user:` and `:group` the other is 0.
pub fn resolve_owner(tree: &mut Tree, text: &str) -> Result<(u32, u32), String> {
    if text.is_empty() || text == ":" {
        return Err(format!("{text:?} is not a valid name of a user or group"));
    }
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let uid = resolve(tree, user, "passwd")?;
    let gid = match group {
        Some(group) => resolve(tree, group, "group")?,
        None => uid,
    };
    Ok((uid, gid))
}

fn resolve(tree: &mut Tree, name: &str, file: &str) -> Result<u32, String> {
    if name.is_empty() {
        return Ok(0);
    }
    if let Ok(number) = name.parse::<u32>() {
        return if number == u32::MAX { Err(format!("{name} is not a valid number of a user")) } else { Ok(number) };
    }
    if name.contains(['/', '\n']) {
        return Err(format!("{name:?} is not a valid name of a user or group"));
    }
    let what = if file == "passwd" { "user" } else { "group" };
    let text = read(tree, file).map_err(|error| format!("read /etc/{file} of the stage: {error}"))?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1).and_then(|id| id.parse().ok())).flatten()
    });
    found.ok_or_else(|| format!("there is no {what} {name} in the stage's /etc/{file}"))
}

fn read(tree: &mut Tree, file: &str) -> std::io::Result<String> {
    let folder = match tree.folder(b"etc") {
        Err(nix::errno::Errno::ENOENT) => return Ok(String::new()),
        other => other?,
    };
    match tree::stat(&*folder, file.as_bytes())? {
        None => return Ok(String::new()),
        Some(stat) if tree::format(&stat) == libc::S_IFREG => {}
        Some(_) => return Err(std::io::Error::other("not a regular file")),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = std::fs::File::from(openat(&*folder, file, flags, Mode::empty())?);
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A change of modes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModeChange {
    /// Octal: all bits.
    Exact(u32),
    /// Symbolic, such as `u=rwX,go-w`.
    Symbolic(Vec<Clause>),
}

/// One clause of a symbolic mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    who: u32,
    operator: char,
    bits: u32,
    /// `X`: execute where it is a directory or someone may execute already.
    conditional: bool,
}

impl ModeChange {
    /// Reads either notation.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("--chmod={text}: not a mode; write 644, 0755 or u=rwX,go=rX");
        if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o7777 => Ok(Self::Exact(mode)),
                _ => Err(wrong()),
            };
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let at = part.find(['=', '+', '-']).ok_or_else(wrong)?;
            let mut who = 0;
            for c in part[..at].chars() {
                who |= match c {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o1007,
                    'a' => 0o7777,
                    _ => return Err(wrong()),
                };
            }
            let mut clause = Clause {
                who: if who == 0 { 0o7777 } else { who },
                operator: part[at..].chars().next().unwrap_or('='),
                bits: 0,
                conditional: false,
            };
            for c in part[at + 1..].chars() {
                match c {
                    'r' => clause.bits |= 0o444,
                    'w' => clause.bits |= 0o222,
                    'x' => clause.bits |= 0o111,
                    's' => clause.bits |= 0o6000,
                    't' => clause.bits |= 0o1000,
                    'X' => clause.conditional = true,
                    _ => return Err(wrong()),
                }
            }
            clauses.push(clause);
        }
        Ok(Self::Symbolic(clauses))
    }

    /// The mode of a file that has `mode` now.
    #[must_use]
    pub fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            Self::Exact(exact) => *exact,
            Self::Symbolic(clauses) => clauses.iter().fold(mode & 0o7777, |mode, clause| {
                let execute = if clause.conditional && (directory || mode & 0o111 != 0) { 0o111 } else { 0 };
                let bits = (clause.bits | execute) & clause.who;
                match clause.operator {
                    '+' => mode | bits,
                    '-' => mode & !bits,
                    _ => (mode & !(clause.who & 0o777)) | bits,
                }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_those_of_the_stage() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/passwd"), "root:x:0:0::/:\nweb:x:33:44::/:\n").unwrap();
        std::fs::write(folder.path().join("etc/group"), "root:x:0:\nstaff:x:50:\n").unwrap();
        let mut tree = Tree::open(folder.path()).unwrap();
        assert_eq!(resolve_owner(&mut tree, "web"), Ok((33, 33)));
        assert_eq!(resolve_owner(&mut tree, "web:staff"), Ok((33, 50)));
        assert_eq!(resolve_owner(&mut tree, "5:6"), Ok((5, 6)));
        assert_eq!(
            resolve_owner(&mut tree, "nobody").unwrap_err(),
            "there is no user nobody in the stage's /etc/passwd"
        );
        assert_eq!((resolve_owner(&mut tree, "web:"), resolve_owner(&mut tree, ":staff")), (Ok((33, 0)), Ok((0, 50))));
        assert!(resolve_owner(&mut tree, ":").is_err());
    }

    #[test]
    fn modes_in_both_notations() {
        let apply = |text: &str, mode, directory| ModeChange::parse(text).unwrap().apply(mode, directory);
        assert_eq!(apply("755", 0o600, false), 0o755);
        assert_eq!(apply("u=rwX,go=rX", 0o600, false), 0o644);
        assert_eq!(apply("u=rwX,go=rX", 0o700, true), 0o755);
        assert_eq!(apply("+x", 0o644, false), 0o755);
        assert_eq!(apply("go-rwx", 0o777, false), 0o700);
        assert_eq!(apply("u+s", 0o755, false), 0o4755);
        for bad in ["", "999", "77777", "u", "z=r", "u=q"] {
            assert!(ModeChange::parse(bad).is_err(), "{bad}");
        }
    }
}
