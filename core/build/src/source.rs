//! Text with places in it, and the messages that point at them.

use std::fmt;
use std::sync::Arc;

/// A range of bytes of a source text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// A named text.
#[derive(Debug, Clone)]
pub struct Source {
    name: Arc<str>,
    text: Arc<str>,
}

/// What is wrong with a Dockerfile, and where. Shown with the source line under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file's name as the user gave it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What was probably meant, or what to do.
    pub help: Option<String>,
    /// The source line, shortened when it is very long.
    pub excerpt: String,
    /// How many characters of the line are meant.
    pub width: usize,
}

/// Characters of a source line that are shown on each side of a fault.
const EXCERPT: usize = 90;

impl Source {
    /// A text and the name to show for it.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The line (from 1) of a byte offset.
    #[must_use]
    pub fn line(&self, offset: usize) -> usize {
        self.text.as_bytes()[..offset.min(self.text.len())].iter().filter(|b| **b == b'\n').count() + 1
    }

    /// A message about `span`.
    #[must_use]
    pub fn diagnostic(&self, span: Span, message: impl Into<String>) -> Diagnostic {
        let text = &*self.text;
        let mut start = span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let column = text[line_start..start].chars().count();
        let mut end = span.end.clamp(start, line_end);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let marked = text[start..end].trim_end().chars().count();
        let (excerpt, column_shown) = shorten(line, column);
        let shown_after = excerpt.chars().count().saturating_sub(column_shown);
        Diagnostic {
            file: self.name.to_string(),
            line: self.line(start),
            column: column + 1,
            message: message.into(),
            help: None,
            excerpt,
            width: marked.clamp(1, shown_after.max(1)),
        }
    }
}

/// The part of a line around a column, and the column inside that part.
fn shorten(line: &str, column: usize) -> (String, usize) {
    let plain = |c: char| if c == '\t' || c.is_control() { ' ' } else { c };
    let length = line.chars().count();
    if length <= 2 * EXCERPT {
        return (line.chars().map(plain).collect(), column);
    }
    let from = column.saturating_sub(EXCERPT);
    let mut part: String = line.chars().skip(from).take(2 * EXCERPT).map(plain).collect();
    let mut shown = column - from;
    if from > 0 {
        part.insert(0, '…');
        shown += 1;
    }
    if from + 2 * EXCERPT < length {
        part.push('…');
    }
    (part, shown)
}

impl Diagnostic {
    /// Adds what was probably meant.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn column_in_excerpt(&self) -> usize {
        let column = self.column - 1;
        if self.excerpt.starts_with('…') { EXCERPT + 1 } else { column }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        let number = self.line.to_string();
        writeln!(f, " {number} | {}", self.excerpt)?;
        let margin = " ".repeat(number.len());
        write!(f, " {margin} | {}{}", " ".repeat(self.column_in_excerpt()), "^".repeat(self.width))?;
        if let Some(help) = &self.help {
            write!(f, " {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

/// The candidate nearest to `word`, when it is near enough to have been meant.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.chars().count() > 40 {
        return None;
    }
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(far, candidate)| *far <= 1 + candidate.len() / 3)
        .min_by_key(|(far, _)| *far)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_long_line_is_shown_around_the_fault() {
        let text = format!("{}X{}\n", "a".repeat(5000), "b".repeat(5000));
        let source = Source::new("Dockerfile", text);
        let shown = source.diagnostic(Span { start: 5000, end: 5001 }, "here").to_string();
        assert!(shown.len() < 700, "{}", shown.len());
        let lines: Vec<&str> = shown.lines().collect();
        let caret = lines[2].chars().position(|c| c == '^').unwrap();
        assert_eq!(lines[1].chars().nth(caret), Some('X'));
    }

    #[test]
    fn nearest_knows_slips_of_the_finger() {
        assert_eq!(nearest("FORM", ["FROM", "RUN"]), Some("FROM"));
        assert_eq!(nearest("copi", ["COPY", "RUN"]), Some("COPY"));
        assert_eq!(nearest("BANANA", ["COPY", "RUN"]), None);
    }
}
