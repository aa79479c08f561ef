//! Variables in instructions, with every operator of the Dockerfile reference, and the removal of quotes.

/// Why a text cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// `${` without an end.
    #[error("${{ is not closed in {0}")]
    Open(String),
    /// A quote without an end.
    #[error("a quote is not closed in {0}")]
    Quote(String),
    /// `${}`, `${1x}` and the like.
    #[error("{0}: not a variable's name")]
    Name(String),
    /// An operator that there is not.
    #[error("${{{name}{operator}…}}: unknown operator; there are :- - :+ + :? ? # ## % %% / //")]
    Operator { name: String, operator: String },
    /// `${NAME:?message}` of a variable that is not there.
    #[error("{name}: {message}")]
    Required { name: String, message: String },
    /// Values within values without end.
    #[error("the variables are nested too deep")]
    Depth,
    /// A result beyond all reason.
    #[error("the expanded text has more than {MAX_RESULT} bytes")]
    Length,
}

/// Longest result.
const MAX_RESULT: usize = 4 << 20;
/// Deepest `${A:-${B:-…}}`.
const MAX_DEPTH: usize = 64;

/// Expands texts in one environment.
pub struct Expander<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    escape: char,
}

impl std::fmt::Debug for Expander<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expander").field("escape", &self.escape).finish_non_exhaustive()
    }
}

/// What stops the reading of a text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    End,
    Brace,
    /// The `/` between pattern and replacement, or the brace.
    Slash,
}

struct Scan<'a> {
    expander: &'a Expander<'a>,
    text: &'a str,
    rest: std::str::Chars<'a>,
    /// Quotes and escapes stay, as in here-documents.
    raw: bool,
    depth: usize,
    /// Finished words; `None` where words are not split.
    words: Option<Vec<String>>,
    /// Whether the present word has begun, perhaps with an empty quote.
    begun: bool,
}

impl<'a> Expander<'a> {
    /// An environment and the file's escape character.
    #[must_use]
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>, escape: char) -> Self {
        Self { lookup, escape }
    }

    /// One word: quotes and escapes are removed, white space stays.
    pub fn word(&self, text: &str) -> Result<String, ExpandError> {
        self.scan(text, false).run(Stop::End)
    }

    /// Several words, split at white space that is not quoted: also that of a value.
    pub fn words(&self, text: &str) -> Result<Vec<String>, ExpandError> {
        let mut scan = self.scan(text, false);
        scan.words = Some(Vec::new());
        let last = scan.run(Stop::End)?;
        let mut words = scan.words.take().unwrap_or_default();
        if scan.begun || !last.is_empty() {
            words.push(last);
        }
        Ok(words)
    }

    /// The content of a here-document: quotes stay as they are, an escaped `$` becomes one.
    pub fn document(&self, text: &str) -> Result<String, ExpandError> {
        self.scan(text, true).run(Stop::End)
    }

    fn scan(&'a self, text: &'a str, raw: bool) -> Scan<'a> {
        Scan { expander: self, text, rest: text.chars(), raw, depth: 0, words: None, begun: false }
    }
}

impl Scan<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    /// Reads up to `stop`, which is left unread.
    fn run(&mut self, stop: Stop) -> Result<String, ExpandError> {
        let mut out = String::new();
        loop {
            let Some(c) = self.peek() else {
                return if stop == Stop::End { Ok(out) } else { Err(ExpandError::Open(self.text.to_owned())) };
            };
            if (stop != Stop::End && c == '}') || (stop == Stop::Slash && c == '/') {
                return Ok(out);
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    self.put_value(&mut out, &value);
                }
                '\'' if !self.raw => self.single(&mut out)?,
                '"' if !self.raw => self.double(&mut out)?,
                _ if c == self.expander.escape => self.escaped(&mut out),
                _ => {
                    self.rest.next();
                    if c.is_whitespace() && stop == Stop::End && self.words.is_some() {
                        self.end_word(&mut out);
                    } else {
                        self.begun = true;
                        out.push(c);
                    }
                }
            }
            if out.len() > MAX_RESULT {
                return Err(ExpandError::Length);
            }
        }
    }

    fn end_word(&mut self, out: &mut String) {
        if let Some(words) = &mut self.words
            && (self.begun || !out.is_empty())
        {
            words.push(std::mem::take(out));
        }
        self.begun = false;
    }

    /// A value outside quotes is split where words are.
    fn put_value(&mut self, out: &mut String, value: &str) {
        if self.words.is_none() || self.depth > 0 {
            out.push_str(value);
            return;
        }
        for c in value.chars() {
            if c.is_whitespace() {
                self.end_word(out);
            } else {
                self.begun = true;
                out.push(c);
            }
        }
    }

    fn escaped(&mut self, out: &mut String) {
        self.rest.next();
        let escape = self.expander.escape;
        self.begun = true;
        match self.rest.next() {
            // In a document only what would else be special is escaped.
            Some(c) if self.raw && c != '$' && c != escape => {
                out.push(escape);
                out.push(c);
            }
            Some(c) => out.push(c),
            None if self.raw => out.push(escape),
            None => {}
        }
    }

    fn single(&mut self, out: &mut String) -> Result<(), ExpandError> {
        self.rest.next();
        self.begun = true;
        for c in self.rest.by_ref() {
            if c == '\'' {
                return Ok(());
            }
            out.push(c);
        }
        Err(ExpandError::Quote(self.text.to_owned()))
    }

    fn double(&mut self, out: &mut String) -> Result<(), ExpandError> {
        self.rest.next();
        self.begun = true;
        loop {
            let Some(c) = self.peek() else { return Err(ExpandError::Quote(self.text.to_owned())) };
            if c == '$' {
                out.push_str(&self.dollar()?);
                continue;
            }
            self.rest.next();
            if c == '"' {
                return Ok(());
            }
            if c == self.expander.escape {
                match self.rest.next() {
                    Some(next) if next == '"' || next == '$' || next == self.expander.escape => out.push(next),
                    Some(next) => {
                        out.push(c);
                        out.push(next);
                    }
                    None => return Err(ExpandError::Quote(self.text.to_owned())),
                }
                continue;
            }
            out.push(c);
        }
    }

    /// `$NAME` or `${…}`.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.rest.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok((self.expander.lookup)(&name).unwrap_or_default());
        }
        self.rest.next();
        let name = self.name();
        if name.is_empty() {
            let rest: String = self.rest.clone().take_while(|c| *c != '}').take(40).collect();
            return Err(ExpandError::Name(format!("${{{rest}}}")));
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ExpandError::Depth);
        }
        let value = self.operator(&name)?;
        self.depth -= 1;
        Ok(value)
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                while let Some(c) = self.peek().filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                    self.rest.next();
                }
            }
            Some(c) if c.is_ascii_digit() => {
                while let Some(c) = self.peek().filter(char::is_ascii_digit) {
                    name.push(c);
                    self.rest.next();
                }
            }
            Some(c) if matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                name.push(c);
                self.rest.next();
            }
            _ => {}
        }
        name
    }

    /// What follows the name, up to and with the closing brace.
    fn operator(&mut self, name: &str) -> Result<String, ExpandError> {
        let found = (self.expander.lookup)(name);
        let open = || ExpandError::Open(self.text.to_owned());
        let operator = self.rest.next().ok_or_else(open)?;
        let (colon, operator) = match operator {
            '}' => return Ok(found.unwrap_or_default()),
            ':' => (true, self.rest.next().ok_or_else(open)?),
            other => (false, other),
        };
        let usable = found.clone().filter(|value| !(colon && value.is_empty()));
        let value = match operator {
            '-' | '+' | '?' => {
                let word = self.argument(Stop::Brace)?;
                match operator {
                    '-' => usable.unwrap_or(word),
                    '+' => usable.map_or(String::new(), |_| word),
                    _ => usable.ok_or_else(|| ExpandError::Required {
                        name: name.to_owned(),
                        message: match (word.is_empty(), colon) {
                            (false, _) => word,
                            (true, true) => "must be set and not be empty".to_owned(),
                            (true, false) => "must be set".to_owned(),
                        },
                    })?,
                }
            }
            '#' | '%' if !colon => {
                let greedy = self.peek() == Some(operator);
                if greedy {
                    self.rest.next();
                }
                let pattern = self.pattern(Stop::Brace)?;
                trim(&found.unwrap_or_default(), &pattern, operator == '#', greedy)
            }
            '/' if !colon => {
                let all = self.peek() == Some('/');
                if all {
                    self.rest.next();
                }
                let pattern = self.pattern(Stop::Slash)?;
                let replacement = if self.peek() == Some('/') {
                    self.rest.next();
                    self.argument(Stop::Brace)?
                } else {
                    String::new()
                };
                replace(&found.unwrap_or_default(), &pattern, &replacement, all)
            }
            other => {
                return Err(ExpandError::Operator {
                    name: name.to_owned(),
                    operator: if colon { format!(":{other}") } else { other.to_string() },
                });
            }
        };
        self.rest.next();
        Ok(value)
    }

    /// An operator's word; it is no place where words end.
    fn argument(&mut self, stop: Stop) -> Result<String, ExpandError> {
        let words = self.words.take();
        let begun = self.begun;
        let raw = std::mem::replace(&mut self.raw, false);
        let result = self.run(stop);
        self.words = words;
        self.begun = begun;
        self.raw = raw;
        result
    }

    /// A pattern: `*` and `?` are wild unless escaped or quoted.
    fn pattern(&mut self, stop: Stop) -> Result<Vec<Glob>, ExpandError> {
        let mut globs = Vec::new();
        loop {
            let Some(c) = self.peek() else { return Err(ExpandError::Open(self.text.to_owned())) };
            if c == '}' || (stop == Stop::Slash && c == '/') {
                return Ok(globs);
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    globs.extend(value.chars().map(Glob::of));
                }
                _ if c == self.expander.escape => {
                    self.rest.next();
                    globs.extend(self.rest.next().map(Glob::Char));
                }
                _ => {
                    self.rest.next();
                    globs.push(Glob::of(c));
                }
            }
        }
    }
}

/// A piece of a shell pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Glob {
    Char(char),
    Any,
    One,
}

impl Glob {
    const fn of(c: char) -> Self {
        match c {
            '*' => Self::Any,
            '?' => Self::One,
            other => Self::Char(other),
        }
    }
}

/// Whether the whole text matches: linear passes with one point to return to.
fn matches(pattern: &[Glob], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Glob::Any) => {
                back = Some((p, t));
                p += 1;
            }
            Some(Glob::One) => {
                p += 1;
                t += 1;
            }
            Some(Glob::Char(c)) if *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star, from)) = back else { return false };
                back = Some((star, from + 1));
                p = star + 1;
                t = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|glob| *glob == Glob::Any)
}

/// Longest value to which `#`, `%` and `/` apply: they try every part of it.
const MAX_PATTERN_VALUE: usize = 4096;

fn trim(value: &str, pattern: &[Glob], front: bool, greedy: bool) -> String {
    let chars: Vec<char> = value.chars().collect();
    if chars.len() > MAX_PATTERN_VALUE {
        return value.to_owned();
    }
    let try_length = |length: usize| {
        let part = if front { &chars[..length] } else { &chars[chars.len() - length..] };
        matches(pattern, part)
    };
    let found = if greedy {
        (0..=chars.len()).rev().find(|n| try_length(*n))
    } else {
        (0..=chars.len()).find(|n| try_length(*n))
    };
    match found {
        Some(length) if front => chars[length..].iter().collect(),
        Some(length) => chars[..chars.len() - length].iter().collect(),
        None => value.to_owned(),
    }
}

fn replace(value: &str, pattern: &[Glob], replacement: &str, all: bool) -> String {
    let chars: Vec<char> = value.chars().collect();
    if pattern.is_empty() || chars.len() > MAX_PATTERN_VALUE {
        return value.to_owned();
    }
    let mut out = String::new();
    let mut at = 0;
    let mut done = false;
    while at < chars.len() {
        let longest =
            (!done).then(|| (at + 1..=chars.len()).rev().find(|end| matches(pattern, &chars[at..*end]))).flatten();
        match longest {
            Some(end) => {
                out.push_str(replacement);
                at = end;
                done = !all;
            }
            None => {
                out.push(chars[at]);
                at += 1;
            }
        }
        if out.len() > MAX_RESULT {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".into()),
            "E" => Some(String::new()),
            "P" => Some("/usr/local/bin.tar.gz".into()),
            "W" => Some("one two".into()),
            _ => None,
        }
    }

    fn word(text: &str) -> String {
        Expander::new(&env, '\\').word(text).unwrap()
    }

    #[test]
    fn names_and_quotes() {
        for (text, wanted) in [
            ("$A", "alpha"),
            ("${A}b", "alphab"),
            ("$Ab", ""),
            ("x$", "x$"),
            ("$.", "$."),
            (r"\$A", "$A"),
            (r"'$A'", "$A"),
            (r#""$A b""#, "alpha b"),
            (r#""\$A \" \n""#, r#"$A " \n"#),
            (r"a\ b\\", r"a b\"),
            (r"\", ""),
            ("'it''s'", "its"),
        ] {
            assert_eq!(word(text), wanted, "{text}");
        }
    }

    #[test]
    fn operators() {
        for (text, wanted) in [
            ("${A:-x}", "alpha"),
            ("${E:-x}", "x"),
            ("${E-x}", ""),
            ("${U-x}", "x"),
            ("${U:-${A}/y}", "alpha/y"),
            ("${A:+x}", "x"),
            ("${E:+x}", ""),
            ("${E+x}", "x"),
            ("${U+x}", ""),
            ("${A:?no}", "alpha"),
            ("${E?no}", ""),
            ("${U:-\"a } b\"}", "a } b"),
            ("${P#*/}", "usr/local/bin.tar.gz"),
            ("${P##*/}", "bin.tar.gz"),
            ("${P%.*}", "/usr/local/bin.tar"),
            ("${P%%.*}", "/usr/local/bin"),
            ("${A/a/b}", "blpha"),
            ("${A//a/b}", "blphb"),
            ("${A/l*h}", "aa"),
            ("${P//\\//_}", "_usr_local_bin.tar.gz"),
            ("${A#?}", "lpha"),
        ] {
            assert_eq!(word(text), wanted, "{text}");
        }
    }

    #[test]
    fn faults_are_named() {
        let fault = |text: &str| Expander::new(&env, '\\').word(text).unwrap_err().to_string();
        assert_eq!(fault("${A"), "${ is not closed in ${A");
        assert_eq!(fault("\"x"), "a quote is not closed in \"x");
        assert_eq!(fault("${}"), "${}: not a variable's name");
        assert_eq!(fault("${U:?set it}"), "U: set it");
        assert_eq!(fault("${U?}"), "U: must be set");
        assert!(fault("${A:x}").contains("unknown operator"));
        assert_eq!(fault(&"${U:-".repeat(100)), "the variables are nested too deep");
    }

    #[test]
    fn words_split_values_but_not_quotes() {
        let words = |text: &str| Expander::new(&env, '\\').words(text).unwrap();
        assert_eq!(words("$W  x"), ["one", "two", "x"]);
        assert_eq!(words("\"$W\" ''"), ["one two", ""]);
        assert_eq!(words("${U:-a b}c"), ["a", "bc"]);
        assert_eq!(words(" $E "), Vec::<String>::new());
    }

    #[test]
    fn documents_keep_quotes() {
        let text = Expander::new(&env, '\\').document("\"$A\" '$A' \\$A \\n ${U:-x}\n").unwrap();
        assert_eq!(text, "\"alpha\" 'alpha' $A \\n x\n");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\\$|\\{|\\}|A|E|U|:|-|\\+|\\?|#|%|/|\\*|\"|'|\\\\| |é){0,24}") {
            let expander = Expander::new(&env, '\\');
            let _ = (expander.word(&text), expander.words(&text), expander.document(&text));
        }

        #[test]
        fn a_text_without_signs_is_itself(text in "[a-zA-Z0-9 ./:=_-]{0,40}") {
            prop_assert_eq!(word(&text), text);
        }
    }
}
