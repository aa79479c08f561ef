//! Env files, by Docker's rules.

use crate::interpolate::{Env, substitute};

/// What is wrong, and in which line (from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnvError {
    pub line: u32,
    pub message: String,
}

/// The variables of a file in its order; a name alone has the value that `lookup` knows, or is left out.
/// `lookup` comes before the file's own earlier lines when variables are replaced, `known` after them.
pub(crate) fn parse(
    text: &str,
    known: Env,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut dyn FnMut(&str),
) -> Result<Vec<(String, String)>, EnvError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut parser = DotEnv { rest: &text, line: 1, known, found: Vec::new() };
    parser.run(lookup, unset)?;
    Ok(parser.found)
}

/// The variables of a file in Docker's raw format: no quotes, no replacement.
pub(crate) fn parse_raw(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut found = Vec::new();
    for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (line, lookup(line)),
        };
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(EnvError {
                line: u32::try_from(index + 1).unwrap_or(u32::MAX),
                message: format!("`{key}` is not the name of a variable"),
            });
        }
        found.extend(value.map(|value| (key.to_owned(), value)));
    }
    Ok(found)
}

struct DotEnv<'t> {
    rest: &'t str,
    line: u32,
    known: Env,
    found: Vec<(String, String)>,
}

impl<'t> DotEnv<'t> {
    fn run(&mut self, lookup: &dyn Fn(&str) -> Option<String>, unset: &mut dyn FnMut(&str)) -> Result<(), EnvError> {
        loop {
            self.skip_blank();
            if self.rest.is_empty() {
                return Ok(());
            }
            if self.rest.starts_with('#') {
                self.take_line();
                continue;
            }
            let (key, alone) = self.key()?;
            let value = if alone { lookup(&key) } else { Some(self.value(lookup, unset)?) };
            if let Some(value) = value {
                self.known.insert(key.clone(), value.clone());
                self.found.push((key, value));
            }
        }
    }

    fn error(&self, message: impl Into<String>) -> EnvError {
        EnvError { line: self.line, message: message.into() }
    }

    fn advance(&mut self, bytes: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += u32::try_from(taken.matches('\n').count()).unwrap_or_default();
        self.rest = rest;
        taken
    }

    fn skip_blank(&mut self) {
        self.advance(self.rest.len() - self.rest.trim_start().len());
    }

    fn take_line(&mut self) -> &'t str {
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        let line = self.advance(end);
        self.advance(usize::from(!self.rest.is_empty()));
        line
    }

    /// The name, and whether it stands alone on its line.
    fn key(&mut self) -> Result<(String, bool), EnvError> {
        if let Some(after) = self.rest.strip_prefix("export")
            && after.starts_with([' ', '\t'])
        {
            let after = after.trim_start_matches([' ', '\t']);
            self.advance(self.rest.len() - after.len());
        }
        let end = self.rest.find(['=', ':', '\n']).unwrap_or(self.rest.len());
        let written = self.rest.get(..end).unwrap_or_default();
        let key = written.trim();
        if key.is_empty() {
            return Err(self.error("a variable has no name"));
        }
        let alone = !matches!(self.rest.as_bytes().get(end), Some(b'=' | b':'));
        // A name alone may be followed by a comment.
        let key = if alone { key.split(" #").next().unwrap_or(key).trim_end() } else { key };
        if let Some(bad) = key.chars().find(|c| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']'))) {
            return Err(
                self.error(format!("`{}` is not allowed in the name of a variable: `{key}`", bad.escape_debug()))
            );
        }
        let key = key.to_owned();
        self.advance(end);
        if !alone {
            self.advance(1);
        }
        Ok((key, alone))
    }

    fn value(
        &mut self,
        lookup: &dyn Fn(&str) -> Option<String>,
        unset: &mut dyn FnMut(&str),
    ) -> Result<String, EnvError> {
        let blank = self.rest.len() - self.rest.trim_start_matches([' ', '\t']).len();
        self.advance(blank);
        let line = self.line;
        let template = match self.rest.as_bytes().first() {
            Some(b'\'') => return self.quoted('\''),
            Some(b'"') => escapes(&self.quoted('"')?),
            _ => {
                let text = self.take_line();
                // ` #` starts a comment; so does a value that is nothing but one.
                let text = if blank > 0 && text.starts_with('#') { "" } else { text };
                text.split(" #").next().unwrap_or(text).trim_end().to_owned()
            }
        };
        let known = &self.known;
        let find = |name: &str| lookup(name).or_else(|| known.get(name).cloned());
        substitute(&template, &find, unset)
            .map_err(|error| EnvError { line, message: format!("{}: {}", error.message, error.part) })
    }

    /// The inside of quotes; an escaped quote loses its backslash, other escapes stay.
    fn quoted(&mut self, quote: char) -> Result<String, EnvError> {
        let mut out = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        let end = loop {
            match characters.next() {
                None => return Err(self.error("a quoted value does not end")),
                Some((index, c)) if c == quote => break index + 1,
                Some((_, '\\')) => match characters.next() {
                    Some((_, c)) if c == quote => out.push(c),
                    Some((_, c)) => out.extend(['\\', c]),
                    None => return Err(self.error("a quoted value does not end")),
                },
                Some((_, c)) => out.push(c),
            }
        };
        self.advance(end);
        let tail = self.rest.split('\n').next().unwrap_or_default().trim();
        if !tail.is_empty() && !tail.starts_with('#') {
            return Err(self.error(format!("unexpected text after a quoted value: `{tail}`")));
        }
        self.take_line();
        Ok(out)
    }
}

/// Escapes of a double quoted value; `\$` becomes `$$` for the replacement that follows.
fn escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(rest.get(..at).unwrap_or_default());
        let after = rest.get(at + 1..).unwrap_or_default();
        let mut used = 1;
        match after.as_bytes().first() {
            Some(b'a') => out.push('\u{7}'),
            Some(b'b') => out.push('\u{8}'),
            Some(b'f') => out.push('\u{c}'),
            Some(b'n') => out.push('\n'),
            Some(b'r') => out.push('\r'),
            Some(b't') => out.push('\t'),
            Some(b'v') => out.push('\u{b}'),
            Some(b'\\') => out.push('\\'),
            Some(b'"') => out.push('"'),
            Some(b'$') => out.push_str("$$"),
            Some(b'0') => {
                let digits: String = after.chars().skip(1).take(3).take_while(|c| ('0'..='7').contains(c)).collect();
                match u8::from_str_radix(&digits, 8) {
                    Ok(byte) if digits.len() == 3 => {
                        out.push(char::from(byte));
                        used = 4;
                    }
                    _ => out.push_str("\\0"),
                }
            }
            _ => {
                out.push('\\');
                used = 0;
            }
        }
        rest = after.get(used..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, EnvError> {
        let lookup = |name: &str| (name == "OUTER").then(|| "outer".to_owned());
        parse(text, Env::new(), &lookup, &mut |_| {})
    }

    fn value(text: &str) -> String {
        read(text).unwrap().pop().unwrap().1
    }

    #[test]
    fn dockers_rules() {
        for (text, expected) in [
            ("A=1", "1"),
            ("export A=1", "1"),
            ("A = spaced  ", "spaced"),
            ("A: yaml", "yaml"),
            ("A=a#b # c", "a#b"),
            ("A= # c", ""),
            ("A='single $OUTER \\n'", "single $OUTER \\n"),
            ("A=\"double $OUTER \\n\\t\\\"\\$x\" # c", "double outer \n\t\"$x"),
            ("A='it\\'s'", "it's"),
            ("A=\"two\nlines\"", "two\nlines"),
            ("A=$OUTER/${B:-c}", "outer/c"),
            ("B=1\nA=${B}2", "12"),
            ("OUTER=own\nA=$OUTER", "outer"),
            ("OUTER", "outer"),
            ("A=a=b=c\r\n", "a=b=c"),
            ("\u{feff}A=1", "1"),
            ("A=", ""),
            ("A=\"\\053x\\0123\"", "\\053xS"),
        ] {
            assert_eq!(value(text), expected, "{text:?}");
        }
        assert_eq!(read("UNKNOWN\n# c\n\n").unwrap(), []);
    }

    #[test]
    fn mistakes_have_a_line() {
        for (text, line) in
            [("A=1\nB C=2", 2), ("=x", 1), ("\n\nA='x\ny", 3), ("A=\"x\" y", 1), ("A=${", 1), ("A\"=1", 1)]
        {
            assert_eq!(read(text).unwrap_err().line, line, "{text:?}");
        }
    }

    #[test]
    fn raw_files_are_taken_as_they_are() {
        let found = parse_raw("# c\nA='x' $Y # z\nOUTER\n", &|_| Some("o".to_owned())).unwrap();
        assert_eq!(found, [("A".into(), "'x' $Y # z".into()), ("OUTER".into(), "o".into())]);
        assert!(parse_raw("A B=1", &|_| None).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[A\"'=#\\\\$\\{\\}\n :a0]{0,40}") {
            let _ = read(&text);
            let _ = parse_raw(&text, &|_| None);
        }
    }
}
