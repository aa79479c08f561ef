//! `.dockerignore`: what of a directory is not part of the build's context.
//!
//! Patterns are matched against paths relative to the context, with `*`, `?`, `[…]` within a name, `**` across names and
//! `!` to take back; the last that matches decides, and what matches a directory matches all below it.

use std::path::Path;

use crate::archive::Take;
use crate::flags::mounts::clean;

/// The patterns of a file.
#[derive(Debug, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    tokens: Vec<Token>,
    /// Takes back what others left out.
    back: bool,
    /// Directories named literally at its front: what lies elsewhere cannot match.
    prefix: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Letter(char),
    /// `?`
    One,
    /// `*`
    Many,
    /// `**/`: any directories, or none.
    Directories,
    /// `**` at the end or inside of a name.
    All,
    Class(bool, Vec<(char, char)>),
}

impl Ignore {
    /// Reads a file's text; patterns that mean nothing are left out, as comments are.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut patterns = Vec::new();
        for line in text.trim_start_matches('\u{feff}').lines() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (back, rest) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest.trim()));
            if rest.is_empty() {
                if back {
                    return Err("illegal exclusion pattern: \"!\"".to_owned());
                }
                continue;
            }
            let cleaned = clean(Path::new(rest.trim_start_matches('/'))).display().to_string();
            if cleaned.is_empty() || cleaned == "." {
                continue;
            }
            patterns.push(Pattern {
                tokens: tokens(&cleaned).ok_or_else(|| format!("syntax error in pattern: {rest}"))?,
                back,
                prefix: prefix(&cleaned),
            });
        }
        Ok(Self { patterns })
    }

    /// Keeps a path whatever the patterns say.
    pub fn keep(&mut self, path: &str) {
        let letters = path.chars().map(Token::Letter).collect();
        self.patterns.push(Pattern { tokens: letters, back: true, prefix: prefix(path) });
    }

    /// Whether a path is left out.
    pub fn ignores(&self, path: &str) -> bool {
        let mut ignored = false;
        for pattern in &self.patterns {
            if pattern.back == ignored && pattern.matches_with_parents(path) {
                ignored = !pattern.back;
            }
        }
        ignored
    }

    /// What to do with an entry of the context.
    pub fn take(&self, path: &Path, directory: bool) -> Take {
        if self.patterns.is_empty() {
            return Take::Yes;
        }
        let text = path.to_string_lossy();
        if !self.ignores(&text) {
            Take::Yes
        } else if directory && self.patterns.iter().any(|pattern| pattern.back && pattern.may_match_below(&text)) {
            Take::Below
        } else {
            Take::No
        }
    }
}

impl Pattern {
    fn matches_with_parents(&self, path: &str) -> bool {
        let ends = path.char_indices().filter(|(_, letter)| *letter == '/').map(|(at, _)| at);
        ends.chain([path.len()]).any(|end| matches(&self.tokens, &path[..end]))
    }

    fn may_match_below(&self, directory: &str) -> bool {
        self.prefix.iter().map(String::as_str).zip(directory.split('/')).all(|(a, b)| a == b)
    }
}

/// The directories at the front of a pattern that have no wildcard.
fn prefix(pattern: &str) -> Vec<String> {
    pattern.split('/').take_while(|name| !name.contains(['*', '?', '[', '\\'])).map(str::to_owned).collect()
}

fn tokens(pattern: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        tokens.push(match letter {
            '*' if letters.next_if_eq(&'*').is_some() => {
                while letters.next_if_eq(&'*').is_some() {}
                if letters.next_if_eq(&'/').is_some() { Token::Directories } else { Token::All }
            }
            '*' => Token::Many,
            '?' => Token::One,
            '\\' => Token::Letter(letters.next()?),
            '[' => {
                let negated = letters.next_if(|letter| matches!(letter, '^' | '!')).is_some();
                let mut ranges = Vec::new();
                loop {
                    let start = match letters.next()? {
                        ']' if !ranges.is_empty() => break,
                        '\\' => letters.next()?,
                        other => other,
                    };
                    if letters.next_if_eq(&'-').is_some() {
                        match letters.next()? {
                            ']' => {
                                ranges.extend([(start, start), ('-', '-')]);
                                break;
                            }
                            end => ranges.push((start, end)),
                        }
                    } else {
                        ranges.push((start, start));
                    }
                }
                Token::Class(negated, ranges)
            }
            other => Token::Letter(other),
        });
    }
    Some(tokens)
}

/// Walks all ways through the pattern at once, so that no pattern takes long.
fn matches(tokens: &[Token], text: &str) -> bool {
    let mut here = vec![false; tokens.len() + 1];
    here[0] = true;
    skip(tokens, &mut here, true);
    let mut at_start = true;
    for letter in text.chars() {
        let mut next = vec![false; tokens.len() + 1];
        for at in (0..tokens.len()).filter(|at| here[*at]) {
            match &tokens[at] {
                Token::Letter(expected) => next[at + 1] |= *expected == letter,
                Token::One => next[at + 1] |= letter != '/',
                Token::Many => next[at] |= letter != '/',
                Token::All => next[at] = true,
                Token::Directories => {
                    next[at] = true;
                    next[at + 1] |= letter == '/' && !at_start;
                }
                Token::Class(negated, ranges) => {
                    let found = ranges.iter().any(|(from, to)| (*from..=*to).contains(&letter));
                    next[at + 1] |= letter != '/' && found != *negated;
                }
            }
        }
        // Directories may be none, but only where a name begins.
        skip_after(tokens, &mut next, &here, letter);
        here = next;
        at_start = false;
    }
    here[tokens.len()]
}

/// Moves past tokens that may stand for nothing.
fn skip(tokens: &[Token], states: &mut [bool], directories: bool) {
    for at in 0..tokens.len() {
        let empty = match tokens[at] {
            Token::Many | Token::All => true,
            Token::Directories => directories,
            _ => false,
        };
        if states[at] && empty {
            states[at + 1] = true;
        }
    }
}

/// As [`skip`] after a letter: a state at `Directories` that was reached just now has consumed nothing yet.
fn skip_after(tokens: &[Token], next: &mut [bool], before: &[bool], letter: char) {
    for at in 0..tokens.len() {
        let empty = match tokens[at] {
            Token::Many | Token::All => true,
            Token::Directories => letter == '/' || !before[at],
            _ => false,
        };
        if next[at] && empty {
            next[at + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn ignored(patterns: &str, path: &str) -> bool {
        Ignore::parse(patterns).unwrap().ignores(path)
    }

    #[test]
    fn patterns_match_as_dockers() {
        for (pattern, path, expected) in [
            ("target", "target", true),
            ("target", "target/debug/x", true),
            ("target", "sub/target", false),
            ("/target/", "target/x", true),
            ("./target", "target", true),
            ("a/../b", "b", true),
            ("*.log", "a.log", true),
            ("*.log", "sub/a.log", false),
            ("**/*.log", "a.log", true),
            ("**/*.log", "sub/deep/a.log", true),
            ("sub/**", "sub/a/b", true),
            ("sub/**", "sub", false),
            ("**", "anything/at/all", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/x/y/c", false),
            ("a/**/b", "ab", false),
            ("?.txt", "a.txt", true),
            ("?.txt", "ab.txt", false),
            ("[a-c].txt", "b.txt", true),
            ("[^a-c].txt", "b.txt", false),
            ("\\*.txt", "*.txt", true),
            ("\\*.txt", "a.txt", false),
            ("*/temp*", "a/tempest", true),
            ("*/*/temp*", "a/b/temp", true),
            ("# target", "# target", false),
            ("**/node_modules", "a/node_modules/x/y", true),
            ("foo**", "foobar/baz", true),
            (".", "a", false),
            ("**/.git", "x.git", false),
        ] {
            assert_eq!(ignored(pattern, path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn the_last_pattern_decides() {
        assert!(!ignored("*\n!keep", "keep"));
        assert!(ignored("*\n!keep\nkeep/no", "keep/no"));
        assert!(!ignored("docs\n!docs/README.md", "docs/README.md"));
        assert!(ignored("docs\n!docs/README.md", "docs/other"));
        assert!(Ignore::parse("!").is_err());
    }

    #[test]
    fn directories_are_entered_only_for_what_comes_back() {
        let ignore = Ignore::parse("node_modules\ndocs\n!docs/a/keep").unwrap();
        assert_eq!(ignore.take(Path::new("node_modules"), true), Take::No);
        assert_eq!(ignore.take(Path::new("docs"), true), Take::Below);
        assert_eq!(ignore.take(Path::new("docs/b"), true), Take::No);
        assert_eq!(ignore.take(Path::new("docs/a/keep"), false), Take::Yes);
        assert_eq!(ignore.take(Path::new("src"), true), Take::Yes);
    }

    #[test]
    fn what_must_be_kept_is() {
        let mut ignore = Ignore::parse("**").unwrap();
        ignore.keep("Dockerfile");
        assert!(!ignore.ignores("Dockerfile") && ignore.ignores("other"));
    }

    proptest! {
        #[test]
        fn nothing_panics_or_takes_long(pattern in "[a*?/\\[\\]^!.-]{0,24}", path in "[a/.b]{0,40}") {
            if let Ok(ignore) = Ignore::parse(&pattern) {
                ignore.ignores(&path);
            }
        }
    }
}
