//! Docker's stream of progress messages (pull, push, load, import, build), shown as `docker` shows it.

use serde_json::Value;
use std::io::{IsTerminal, Write};

use super::human::decimal_size;
use crate::failure::{Failure, Outcome};

/// Where the messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Standard output.
    Output,
    /// Standard error.
    Errors,
    /// Nowhere; errors are still errors.
    Nowhere,
}

/// Shows messages as they come: on a terminal, each layer keeps its line.
#[derive(Debug)]
pub struct Progress {
    to: To,
    terminal: bool,
    /// Layers in the order of their lines.
    lines: Vec<String>,
    /// What the daemon said of an object it made, if anything.
    pub made: Option<Value>,
}

impl Progress {
    /// For a stream.
    pub fn new(to: To) -> Self {
        let terminal = match to {
            To::Output => std::io::stdout().is_terminal(),
            To::Errors => std::io::stderr().is_terminal(),
            To::Nowhere => false,
        };
        Self { to, terminal, lines: Vec::new(), made: None }
    }

    /// Shows one message; an error in it ends the command.
    pub fn take(&mut self, message: &Value) -> Outcome {
        let error = message["errorDetail"]["message"].as_str().or_else(|| message["error"].as_str());
        if let Some(error) = error {
            return Err(Failure::new(error.trim_end()));
        }
        if !message["aux"].is_null() {
            self.made = Some(message["aux"].clone());
            return Ok(());
        }
        let text = self.text(message);
        self.write(&text)
    }

    fn write(&self, text: &str) -> Outcome {
        match self.to {
            To::Output => super::table::write_all(text).and_then(|()| Ok(std::io::stdout().flush()?)),
            To::Errors => {
                let _ = std::io::stderr().write_all(text.as_bytes());
                Ok(())
            }
            To::Nowhere => Ok(()),
        }
    }

    fn text(&mut self, message: &Value) -> String {
        if let Some(stream) = message["stream"].as_str() {
            return stream.to_owned();
        }
        let status = message["status"].as_str().unwrap_or_default();
        let bar = bar(message);
        let Some(id) = message["id"].as_str().filter(|id| !id.is_empty()) else {
            return if status.is_empty() { String::new() } else { format!("{status}\n") };
        };
        if !self.terminal {
            // Steps of a bar are no news in a file.
            return if bar.is_empty() { format!("{id}: {status}\n") } else { String::new() };
        }
        let line = format!("{id}: {status} {bar}");
        match self.lines.iter().position(|known| known == id) {
            None => {
                self.lines.push(id.to_owned());
                format!("{}\n", line.trim_end())
            }
            Some(at) => {
                let up = self.lines.len() - at;
                format!("\x1b[{up}A\x1b[2K\r{}\x1b[{up}B\r", line.trim_end())
            }
        }
    }
}

/// `[====>   ]  1.2MB/3.4MB`
fn bar(message: &Value) -> String {
    const WIDTH: u64 = 50;
    let detail = &message["progressDetail"];
    let current = detail["current"].as_u64().unwrap_or(0);
    match detail["total"].as_u64().filter(|total| *total > 0) {
        Some(total) => {
            let done = usize::try_from((current * WIDTH / total).min(WIDTH)).unwrap_or(0);
            let arrow = if done < 50 { ">" } else { "" };
            let left = " ".repeat(50_usize.saturating_sub(done + arrow.len()));
            format!("[{}{arrow}{left}] {:>8}/{}", "=".repeat(done), decimal_size(current), decimal_size(total))
        }
        None if current > 0 => format!("{:>8}", decimal_size(current)),
        None => message["progress"].as_str().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_of_layers_are_replaced_on_a_terminal_only() {
        let mut shown = Progress { to: To::Nowhere, terminal: true, lines: Vec::new(), made: None };
        let half = json!({"id": "a1", "status": "Downloading", "progressDetail": {"current": 500, "total": 1000}});
        assert!(shown.text(&json!({"id": "a1", "status": "Waiting"})).ends_with("a1: Waiting\n"));
        let text = shown.text(&half);
        assert!(text.starts_with("\x1b[1A\x1b[2K\ra1: Downloading [=====") && text.contains("500B/1kB"), "{text:?}");
        shown.terminal = false;
        assert_eq!(shown.text(&half), "");
        assert_eq!(shown.text(&json!({"id": "a1", "status": "Pull complete"})), "a1: Pull complete\n");
        assert_eq!(shown.text(&json!({"status": "Digest: x"})), "Digest: x\n");
    }

    #[test]
    fn errors_end_and_results_are_kept() {
        let mut shown = Progress::new(To::Nowhere);
        shown.take(&json!({"aux": {"ID": "sha256:1"}})).unwrap();
        assert_eq!(shown.made.as_ref().unwrap()["ID"], "sha256:1");
        assert_eq!(shown.take(&json!({"errorDetail": {"message": "no"}, "error": "no"})).unwrap_err().message, "no");
    }
}
