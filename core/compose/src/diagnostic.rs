//! Located messages: what is wrong, where, and what may help.

use std::fmt;
use std::path::PathBuf;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Warning,
    Error,
}

/// One message, with its place where it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub message: String,
    /// The file as the user knows it; none for messages about the project or its environment.
    pub file: Option<PathBuf>,
    /// From 1; 0 when unknown.
    pub line: usize,
    /// From 1, in characters; 0 when unknown.
    pub column: usize,
    /// The source line, where known.
    pub source_line: Option<String>,
    /// What to do, or the key that was probably meant.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A message without a place.
    #[must_use]
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            file: None,
            line: 0,
            column: 0,
            source_line: None,
            help: None,
        }
    }

    /// The same message with advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Longest source line shown whole; longer ones are cut around the caret.
const SHOWN: usize = 100;

impl fmt::Display for Diagnostic {
    /// `file:line:column: error: message`, then the line with a caret, then the help. No newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", Printable(&file.to_string_lossy()))?;
            if self.line > 0 {
                write!(f, "{}:{}:", self.line, self.column)?;
            }
            f.write_str(" ")?;
        }
        let kind = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{kind}: {}", Printable(&self.message))?;
        if let Some(line) = &self.source_line {
            let (text, caret) = window(line, self.column.saturating_sub(1));
            let number = self.line.to_string();
            let margin = " ".repeat(number.len());
            write!(f, "\n {number} | {text}\n {margin} | {}^", " ".repeat(caret))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n   = help: {}", Printable(help))?;
        }
        Ok(())
    }
}

/// Text whose control characters are written out: what a file holds must not steer a terminal.
struct Printable<'t>(&'t str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c.is_control() {
            true => write!(f, "{}", c.escape_debug()),
            false => write!(f, "{c}"),
        })
    }
}

/// The part of a line around a column, safe to print, and the caret's place in it.
fn window(line: &str, column: usize) -> (String, usize) {
    let safe: Vec<char> = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let column = column.min(safe.len());
    let start = if safe.len() <= SHOWN { 0 } else { column.saturating_sub(SHOWN / 2) };
    let end = safe.len().min(start + SHOWN);
    let text: String = safe.get(start..end).unwrap_or_default().iter().collect();
    (text.trim_end().to_owned(), column - start)
}

/// Every error found, and the paths that were consulted before giving up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// Errors and warnings in the order in which they were found.
    pub items: Vec<Diagnostic>,
    /// What to watch for the mistake to be corrected.
    pub inputs: Vec<PathBuf>,
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.items.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{item}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
