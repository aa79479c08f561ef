//! Patterns over paths: those of Go's `filepath.Match` (sources of COPY and ADD), and with `**` those of `.dockerignore`.

/// A pattern that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}: not a valid pattern")]
pub struct BadPattern(pub String);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`: one character but no slash.
    One,
    /// `*`: any characters but no slash.
    Star,
    /// `**`: anything.
    Deep,
    /// `**/`: nothing, or what [`Token::UpToSlash`], which always follows, takes.
    DeepSlash,
    /// Anything that ends with a slash.
    UpToSlash,
    /// `[…]`; as in Go it may match a slash.
    Class {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    tokens: Vec<Token>,
}

/// Longest pattern.
const MAX_PATTERN: usize = 4096;

impl Pattern {
    /// Go's `filepath.Match`.
    pub fn go(text: &str) -> Result<Self, BadPattern> {
        Self::compile(text, false)
    }

    /// With `**`, as `.dockerignore` and `--exclude` have it.
    pub fn deep(text: &str) -> Result<Self, BadPattern> {
        Self::compile(text, true)
    }

    fn compile(text: &str, deep: bool) -> Result<Self, BadPattern> {
        let bad = || BadPattern(text.chars().take(80).collect());
        if text.len() > MAX_PATTERN {
            return Err(bad());
        }
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let token = match c {
                '*' if deep && chars.next_if_eq(&'*').is_some() => {
                    chars.next_if_eq(&'/');
                    if chars.peek().is_none() {
                        Token::Deep
                    } else {
                        tokens.push(Token::DeepSlash);
                        Token::UpToSlash
                    }
                }
                '*' => Token::Star,
                '?' => Token::One,
                '[' => class(&mut chars).ok_or_else(bad)?,
                '\\' => Token::Char(chars.next().ok_or_else(bad)?),
                other => Token::Char(other),
            };
            tokens.push(token);
        }
        Ok(Self { tokens })
    }

    /// Whether the whole of `path` matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        // States of the pattern that are reached after each character: no pattern is slow.
        let mut now = vec![false; self.tokens.len() + 1];
        now[0] = true;
        self.skip_empty(&mut now);
        for c in path {
            let mut next = vec![false; self.tokens.len() + 1];
            for (at, token) in self.tokens.iter().enumerate() {
                if !now[at] {
                    continue;
                }
                match token {
                    Token::Char(wanted) => next[at + 1] |= *wanted == c,
                    Token::One => next[at + 1] |= c != '/',
                    Token::Star => next[at] |= c != '/',
                    Token::Deep => next[at] = true,
                    Token::DeepSlash => {}
                    Token::UpToSlash => {
                        next[at] = true;
                        next[at + 1] |= c == '/';
                    }
                    Token::Class { not, ranges } => {
                        let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
                        next[at + 1] |= inside != *not;
                    }
                }
            }
            now = next;
            self.skip_empty(&mut now);
        }
        now[self.tokens.len()]
    }

    /// Tokens that may match nothing.
    fn skip_empty(&self, states: &mut [bool]) {
        for (at, token) in self.tokens.iter().enumerate() {
            if !states[at] {
                continue;
            }
            match token {
                Token::Star | Token::Deep => states[at + 1] = true,
                Token::DeepSlash => {
                    states[at + 1] = true;
                    states[at + 2] = true;
                }
                _ => {}
            }
        }
    }

    /// Whether there is nothing wild in the text.
    #[must_use]
    pub fn is_literal(text: &str) -> bool {
        !text.contains(['*', '?', '[', '\\'])
    }
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let not = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    let one = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next()? {
        '\\' => chars.next(),
        '-' | ']' => None,
        other => Some(other),
    };
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(Token::Class { not, ranges });
        }
        let low = one(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { one(chars)? } else { low };
        ranges.push((low, high));
    }
}

/// Go's `filepath.Clean`: no doubled slashes, no `.`, `..` resolved where it can be.
#[must_use]
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(last) if *last != ".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(".."),
            },
            other => parts.push(other),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn go_matches() {
        for (pattern, path, wanted) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[^c]", "abc", false),
            ("ab[^b-d]", "abc", false),
            (r"a\*b", "a*b", true),
            ("a?b", "a/b", false),
            ("a[^a]b", "a/b", true),
            ("[\\]a]", "]", true),
            ("*x", "xxx", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(Pattern::go(pattern).unwrap().matches(path), wanted, "{pattern} {path}");
        }
        for bad in ["[]a]", "[-]", "[x-]", "[", "[^", "[a", "a[", "\\"] {
            assert!(Pattern::go(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn two_stars_cross_slashes() {
        for (pattern, path, wanted) in [
            ("**", "a/b", true),
            ("**/b", "b", true),
            ("**/b", "a/c/b", true),
            ("**/b", "ab", false),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/x/y/c", true),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("**/*.go", "x/y.go", true),
            ("a**b", "a/x/b", true),
            ("a**b", "axb", false),
            ("*.go", "x/y.go", false),
        ] {
            assert_eq!(Pattern::deep(pattern).unwrap().matches(path), wanted, "{pattern} {path}");
        }
    }

    #[test]
    fn clean_is_that_of_go() {
        for (path, wanted) in
            [("", "."), ("a//b/./c/..", "a/b"), ("/../a", "/a"), ("../a/../..", "../.."), ("./", "."), ("a/", "a")]
        {
            assert_eq!(clean(path), wanted);
        }
    }

    proptest! {
        #[test]
        fn no_pattern_is_slow_or_panics(pattern in "(\\*|\\*\\*|/|a|\\?|\\[|\\]|\\^|-|\\\\){0,20}", path in "[ab/]{0,60}") {
            if let Ok(pattern) = Pattern::deep(&pattern) {
                let _ = pattern.matches(&path);
            }
        }
    }
}
