//! From the text of a Dockerfile to logical lines: directives read, comments dropped, continuations joined, here-documents
//! attached. The rules are those of the Dockerfile reference; nothing here knows an instruction but for which of them may
//! have here-documents.

use crate::source::{Diagnostic, Source, Span};
use crate::words;

/// A file longer than this is refused.
pub const MAX_FILE: usize = 16 << 20;
/// A line longer than this is refused.
pub const MAX_LINE: usize = 1 << 20;

/// What the comments at the top of the file say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`: the frontend that is asked for.
    pub syntax: Option<(String, Span)>,
    /// `# escape=`: a backslash unless said otherwise.
    pub escape: char,
    /// `# check=`: options of the linter.
    pub check: Option<String>,
}

impl Default for Directives {
    fn default() -> Self {
        Self { syntax: None, escape: '\\', check: None }
    }
}

/// A here-document of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it.
    pub name: String,
    /// The descriptor before `<<`, 0 by default.
    pub fd: u32,
    /// False when the word was quoted: variables are left as they are.
    pub expand: bool,
    /// `<<-`: leading tabs are dropped.
    pub chomp: bool,
    /// The lines, as they stand in the file (with tabs).
    pub content: String,
    /// Where the content stands.
    pub span: Span,
}

impl Heredoc {
    /// The content with its leading tabs dropped where `<<-` asked for it.
    #[must_use]
    pub fn body(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// One instruction's text, joined over its physical lines.
#[derive(Debug, Clone)]
pub struct Line {
    /// The joined text, without the escape characters and line ends.
    pub text: String,
    /// Pairs (offset in `text`, offset in the source), one for each joined piece.
    pieces: Vec<(usize, usize)>,
    /// From the first to the last byte, here-documents included.
    pub span: Span,
    /// The first line's number, from 1.
    pub number: usize,
    /// Here-documents, in order.
    pub heredocs: Vec<Heredoc>,
}

impl Line {
    /// Where a byte of `text` stands in the source.
    #[must_use]
    pub fn offset(&self, at: usize) -> usize {
        let piece = self.pieces.iter().rev().find(|(from, _)| *from <= at).or(self.pieces.first());
        piece.map_or(self.span.start, |(from, source)| source + at.saturating_sub(*from))
    }

    /// A range of `text` in the source; it ends on the line where it begins.
    #[must_use]
    pub fn place(&self, start: usize, end: usize) -> Span {
        let from = self.offset(start);
        Span { start: from, end: from + end.saturating_sub(start) }
    }
}

/// Splits a source into logical lines.
pub fn split(source: &Source) -> Result<(Directives, Vec<Line>), Diagnostic> {
    if source.text().len() > MAX_FILE {
        return Err(source.diagnostic(
            Span::default(),
            format!("the file has {} bytes, more than {MAX_FILE}: this is not a Dockerfile", source.text().len()),
        ));
    }
    if let Some(at) = source.text().find('\0') {
        return Err(source.diagnostic(Span { start: at, end: at + 1 }, "the file is binary, not text"));
    }
    let mut reader = Reader { source, at: if source.text().starts_with('\u{feff}') { 3 } else { 0 }, number: 0 };
    let directives = directives(&mut reader)?;
    let mut lines = Vec::new();
    while let Some(first) = reader.next()? {
        if let Some(line) = logical(&mut reader, first, directives.escape)? {
            lines.push(line);
        }
    }
    Ok((directives, lines))
}

/// A physical line: its text without the line end, and where it starts.
#[derive(Clone, Copy)]
struct Physical<'a> {
    text: &'a str,
    start: usize,
    number: usize,
}

struct Reader<'a> {
    source: &'a Source,
    at: usize,
    number: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<Physical<'a>>, Diagnostic> {
        let Some(line) = self.peek()? else { return Ok(None) };
        let rest = &self.source.text()[self.at..];
        self.at += rest.find('\n').map_or(rest.len(), |at| at + 1);
        self.number += 1;
        Ok(Some(line))
    }

    fn peek(&self) -> Result<Option<Physical<'a>>, Diagnostic> {
        let rest = &self.source.text()[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let text = rest.split('\n').next().unwrap_or_default();
        if text.len() > MAX_LINE {
            return Err(self.source.diagnostic(
                Span { start: self.at, end: self.at + 1 },
                format!("the line has {} bytes, more than {MAX_LINE}", text.len()),
            ));
        }
        Ok(Some(Physical { text: text.strip_suffix('\r').unwrap_or(text), start: self.at, number: self.number + 1 }))
    }
}

fn directives(reader: &mut Reader<'_>) -> Result<Directives, Diagnostic> {
    let mut found = Directives::default();
    let mut seen: Vec<String> = Vec::new();
    while let Some(line) = reader.peek()? {
        let Some((key, value, at)) = directive(line.text) else { break };
        let key = key.to_ascii_lowercase();
        let start = line.start + at;
        let span = Span { start, end: start + value.len() };
        if !matches!(key.as_str(), "syntax" | "escape" | "check") {
            break;
        }
        if seen.contains(&key) {
            return Err(reader.source.diagnostic(span, format!("the directive {key} is given twice")));
        }
        match key.as_str() {
            "escape" => {
                found.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    other => {
                        return Err(reader
                            .source
                            .diagnostic(span, format!("{other:?} cannot be the escape character"))
                            .help("give \\ or `"));
                    }
                }
            }
            "syntax" => found.syntax = Some((value.to_owned(), span)),
            _ => found.check = Some(value.to_owned()),
        }
        seen.push(key);
        reader.next()?;
    }
    Ok(found)
}

/// `# key=value`, and the offset of the value.
fn directive(line: &str) -> Option<(&str, &str, usize)> {
    let rest = line.trim_start().strip_prefix('#')?.trim_start();
    let (key, value) = rest.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let word = key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(|c| c.is_ascii_alphanumeric());
    let at = value.as_ptr() as usize - line.as_ptr() as usize;
    (word && !value.is_empty()).then_some((key, value, at))
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// The text before a continuation at the end of the line, or `None` where the line ends here.
fn continued(line: &str, escape: char) -> Option<&str> {
    let body = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    // An escaped escape character is a character, not a continuation.
    (!body.ends_with(escape)).then_some(body)
}

fn logical(reader: &mut Reader<'_>, first: Physical<'_>, escape: char) -> Result<Option<Line>, Diagnostic> {
    let trimmed = first.text.trim_start();
    if trimmed.is_empty() || trimmed.starts_with('#') {
        return Ok(None);
    }
    let start = first.start + (first.text.len() - trimmed.len());
    let mut line = Line {
        text: String::new(),
        pieces: Vec::new(),
        span: Span { start, end: first.start + first.text.len() },
        number: first.number,
        heredocs: Vec::new(),
    };
    let mut open = append(&mut line, trimmed, start, escape);
    while open {
        let Some(next) = reader.next()? else { break };
        if is_comment(next.text) || next.text.trim().is_empty() {
            continue;
        }
        line.span.end = next.start + next.text.len();
        open = append(&mut line, next.text, next.start, escape);
        if line.text.len() > MAX_LINE {
            return Err(reader.source.diagnostic(line.span, format!("the instruction has more than {MAX_LINE} bytes")));
        }
    }
    if line.text.trim().is_empty() {
        return Ok(None);
    }
    if may_have_heredocs(&line.text) {
        for mut heredoc in heredocs(&line.text, escape) {
            read_heredoc(reader, &mut line, &mut heredoc)?;
            line.heredocs.push(heredoc);
        }
    }
    Ok(Some(line))
}

/// Adds a physical line; true when it goes on in the next one.
fn append(line: &mut Line, text: &str, start: usize, escape: char) -> bool {
    line.pieces.push((line.text.len(), start));
    match continued(text, escape) {
        Some(body) => {
            line.text.push_str(body);
            true
        }
        None => {
            line.text.push_str(text);
            false
        }
    }
}

/// Only RUN, COPY and ADD (also after ONBUILD) have here-documents, and not in exec form.
fn may_have_heredocs(text: &str) -> bool {
    if !text.contains("<<") {
        return false;
    }
    let (keyword, rest) = words::keyword(text);
    let rest = rest.trim_start();
    match keyword.to_ascii_uppercase().as_str() {
        "ONBUILD" => may_have_heredocs(rest),
        "RUN" | "COPY" | "ADD" => {
            let rest = words::after_flags(rest);
            !(rest.starts_with('[') && words::json_array(rest).is_ok())
        }
        _ => false,
    }
}

/// The here-documents that a line announces.
fn heredocs(text: &str, escape: char) -> Vec<Heredoc> {
    words::split(text, escape).into_iter().filter_map(|word| heredoc_mark(word.text)).collect()
}

/// Reads `2<<-"EOF"` and its kin.
#[must_use]
pub fn heredoc_mark(word: &str) -> Option<Heredoc> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let fd = if digits == 0 { 0 } else { word[..digits].parse().ok()? };
    let rest = word[digits..].strip_prefix("<<")?;
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    if rest.is_empty() || rest.contains('<') || rest.contains(char::is_whitespace) {
        return None;
    }
    let name: String = rest.chars().filter(|c| !matches!(c, '"' | '\'' | '\\')).collect();
    if name.is_empty() {
        return None;
    }
    Some(Heredoc { expand: name == rest, name, fd, chomp, content: String::new(), span: Span::default() })
}

fn read_heredoc(reader: &mut Reader<'_>, line: &mut Line, heredoc: &mut Heredoc) -> Result<(), Diagnostic> {
    let from = reader.at;
    loop {
        let before = reader.at;
        let Some(next) = reader.next()? else {
            return Err(reader
                .source
                .diagnostic(line.place(0, line.text.len()), format!("the here-document {} is not closed", heredoc.name))
                .help(format!("end it with a line that is only {}", heredoc.name)));
        };
        let possible = if heredoc.chomp { next.text.trim_start_matches('\t') } else { next.text };
        if possible == heredoc.name {
            heredoc.span = Span { start: from, end: before };
            line.span.end = next.start + next.text.len();
            return Ok(());
        }
        heredoc.content.push_str(next.text);
        heredoc.content.push('\n');
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        split(&Source::new("Dockerfile", text)).unwrap().1.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn continuations_skip_comments_and_empty_lines() {
        let text = "FROM a\n# c\nRUN one \\\n  # note\n\n  two \\  \n three\n\nRUN x \\\\\nRUN y\n";
        assert_eq!(lines(text), ["FROM a", "RUN one   two  three", "RUN x \\\\", "RUN y"]);
    }

    #[test]
    fn crlf_and_bom_are_no_part_of_the_text() {
        assert_eq!(lines("\u{feff}FROM a\r\nRUN b \\\r\n  c\r\n"), ["FROM a", "RUN b   c"]);
    }

    #[test]
    fn directives_end_at_the_first_other_line() {
        let read = |text: &str| split(&Source::new("Dockerfile", text)).unwrap().0;
        assert_eq!(read("# escape=`\n# Syntax = docker/dockerfile:1\nFROM a").escape, '`');
        assert_eq!(read("# note\n# escape=`\nFROM a").escape, '\\');
        assert_eq!(read("# unknown=1\n# escape=`\nFROM a").escape, '\\');
        assert_eq!(read("# check=skip=all\nFROM a").check.as_deref(), Some("skip=all"));
        assert_eq!(lines("# escape=`\nFROM a `\n b\nRUN c:\\\n"), ["FROM a  b", "RUN c:\\"]);
    }

    #[test]
    fn heredocs_are_read_in_order() {
        let text = "FROM a\nRUN cat <<A 3<<-'B'\none\nA\n\ttwo\n\tB\nCOPY <<\"C\" /x\n$y\nC\nRUN [\"<<D\"]\n";
        let (_, lines) = split(&Source::new("Dockerfile", text)).unwrap();
        let docs = &lines[1].heredocs;
        assert_eq!((docs[0].name.as_str(), docs[0].content.as_str(), docs[0].expand), ("A", "one\n", true));
        assert_eq!((docs[1].fd, docs[1].body().as_str(), docs[1].expand), (3, "two\n", false));
        assert_eq!(lines[2].heredocs[0].content, "$y\n");
        assert!(lines[3].heredocs.is_empty());
    }

    #[test]
    fn an_offset_is_found_again_after_a_continuation() {
        let text = "FROM a\nENV A=1 \\\n    B\n";
        let (_, lines) = split(&Source::new("Dockerfile", text)).unwrap();
        let at = lines[1].text.find('B').unwrap();
        assert_eq!(lines[1].offset(at), text.rfind('B').unwrap());
    }

    #[test]
    fn wrong_files_are_refused() {
        let refuse = |text: String| split(&Source::new("Dockerfile", text)).unwrap_err().message;
        assert_eq!(refuse("FROM a\nRUN \0".to_owned()), "the file is binary, not text");
        assert!(refuse(format!("FROM a\nRUN {}\n", "x".repeat(10 << 20))).starts_with("the line has"));
        assert!(refuse("FROM a\nRUN <<E\nx\n".to_owned()).contains("here-document E is not closed"));
        assert!(refuse("# escape=x\nFROM a".to_owned()).contains("escape"));
        assert!(refuse("# escape=`\n# escape=`\nFROM a".to_owned()).contains("twice"));
    }
}
