//! How the daemon's stream of events about a stack is shown: lines that are redrawn on a terminal, plain lines elsewhere.

use http::Response;
use hyper::body::Incoming;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::client::JsonLines;
use crate::failure::{Failure, Outcome};
use crate::output::tell;
use crate::output::terminal;

const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const TICK: Duration = Duration::from_millis(100);

/// How to show events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One line for each object, redrawn.
    Terminal,
    /// One line for each event.
    Plain,
    /// The events as they come.
    Json,
    /// Errors alone.
    Quiet,
}

impl Mode {
    /// From `--progress` and `--ansi`.
    pub fn chosen(progress: Option<&str>, ansi: Option<&str>) -> Outcome<Self> {
        let terminal = match ansi.unwrap_or("auto") {
            "always" => true,
            "never" => false,
            "auto" => io::stderr().is_terminal(),
            other => {
                return Err(Failure::usage(format!("invalid value for --ansi: {other:?}: use never, always or auto")));
            }
        };
        match progress.unwrap_or("auto") {
            "auto" => Ok(if terminal { Self::Terminal } else { Self::Plain }),
            "tty" => Ok(Self::Terminal),
            "plain" => Ok(Self::Plain),
            "json" | "rawjson" => Ok(Self::Json),
            "quiet" => Ok(Self::Quiet),
            other => Err(Failure::usage(format!(
                "unsupported --progress value {other:?}: use auto, tty, plain, json or quiet"
            ))),
        }
    }
}

/// One object's line.
#[derive(Debug)]
struct Line {
    id: String,
    status: String,
    started: Instant,
    took: Option<Duration>,
    failed: bool,
}

/// All lines, and how many of them are on the screen.
#[derive(Debug)]
struct Board {
    title: &'static str,
    lines: Vec<Line>,
    drawn: usize,
    turn: usize,
}

/// Whether nothing more is to come for an object: `Started`, `Healthy`, `Running`.
fn is_final(status: &str) -> bool {
    let word = status.split_whitespace().next().unwrap_or_default().trim_end_matches(':');
    matches!(word, "Healthy" | "Running" | "Waited" | "Error" | "Warning") || (word.ends_with("ed") && word != "Need")
}

impl Board {
    fn new(title: &'static str) -> Self {
        Self { title, lines: Vec::new(), drawn: 0, turn: 0 }
    }

    fn set(&mut self, id: &str, status: &str) {
        let now = Instant::now();
        let failed = status.starts_with("Error");
        let line = match self.lines.iter_mut().find(|line| line.id == id) {
            Some(line) => {
                // Something new begins for an object that was done.
                if line.took.is_some() && !is_final(status) {
                    line.started = now;
                }
                line
            }
            None => {
                self.lines.push(Line {
                    id: id.to_owned(),
                    status: String::new(),
                    started: now,
                    took: None,
                    failed: false,
                });
                let last = self.lines.len() - 1;
                &mut self.lines[last]
            }
        };
        line.status = status.to_owned();
        line.failed = failed;
        line.took = is_final(status).then(|| now.duration_since(line.started));
    }

    fn text(&mut self, columns: usize) -> String {
        let done = self.lines.iter().filter(|line| line.took.is_some()).count();
        let mut out = String::new();
        if self.drawn > 0 {
            let _ = write!(out, "\x1b[{}A", self.drawn);
        }
        let _ = writeln!(out, "\x1b[2K\r[+] {} {done}/{}", self.title, self.lines.len());
        let width = self.lines.iter().map(|line| line.id.chars().count()).max().unwrap_or(0);
        let statuses = self.lines.iter().map(|line| line.status.chars().count()).max().unwrap_or(0);
        let spinner = SPINNER[self.turn % SPINNER.len()];
        for line in &self.lines {
            let (sign, color) = match (line.failed, line.took) {
                (true, _) => ('✘', 31),
                (false, Some(_)) => ('✔', 32),
                (false, None) => (spinner, 33),
            };
            let seconds = line.took.unwrap_or_else(|| line.started.elapsed()).as_secs_f64();
            let body = format!("{:width$}  {:statuses$}", line.id, line.status);
            // A line that wraps could not be drawn over.
            let room = columns.saturating_sub(12).max(20);
            let body: String = body.chars().take(room).collect();
            let _ = writeln!(out, "\x1b[2K\r \x1b[{color}m{sign}\x1b[0m {body} {seconds:>6.1}s");
        }
        self.drawn = self.lines.len() + 1;
        self.turn += 1;
        out
    }
}

/// What a stream of events came to.
#[derive(Debug, Default)]
pub struct Result {
    /// What went wrong.
    pub errors: Vec<String>,
    /// Whether the daemon said that it is done, and well.
    pub ok: bool,
}

impl Result {
    /// As a command's outcome.
    pub fn outcome(self) -> Outcome {
        match (self.ok, self.errors.is_empty()) {
            (true, _) => Ok(()),
            // They were told as they came.
            (false, false) => Err(Failure::exit(1)),
            (false, true) => Err(Failure::new("the daemon did not finish the work on the stack; see its log")),
        }
    }
}

/// Shows a stream of events until it ends.
pub async fn show(response: Response<Incoming>, mode: Mode, title: &'static str) -> Outcome<Result> {
    let mut lines = JsonLines::new(response);
    let mut board = Board::new(title);
    let mut result = Result::default();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            event = lines.next::<Value>() => {
                let Some(event) = event? else { break };
                take(&event, mode, &mut board, &mut result)?;
            }
            _ = tick.tick(), if mode == Mode::Terminal => draw(&mut board),
        }
    }
    if mode == Mode::Terminal {
        draw(&mut board);
    }
    Ok(result)
}

fn draw(board: &mut Board) {
    if !board.lines.is_empty() {
        let columns = terminal::size().map_or(80, |(_, columns)| usize::from(columns));
        let _ = io::stderr().write_all(board.text(columns).as_bytes());
    }
}

fn take(event: &Value, mode: Mode, board: &mut Board, result: &mut Result) -> Outcome {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    if mode == Mode::Json {
        crate::output::table::write_all(&format!("{event}\n"))?;
    }
    let kind = text("kind");
    match kind {
        "done" => {
            result.ok = event["ok"].as_bool().unwrap_or(true) && result.errors.is_empty();
            if event["ok"] == false && result.errors.is_empty() && !text("message").is_empty() {
                tell(mode, board, &format!("Error: {}", text("message")));
                result.errors.push(text("message").to_owned());
            }
            return Ok(());
        }
        "error" => {
            let what = [text("id"), text("service")].into_iter().find(|name| !name.is_empty());
            let message = text("message");
            if let Some(id) = Some(text("id")).filter(|id| !id.is_empty()) {
                board.set(id, "Error");
            }
            let line = match what.filter(|name| !message.contains(*name)) {
                Some(name) => format!("Error: {name}: {message}"),
                None => format!("Error: {message}"),
            };
            tell(mode, board, &line);
            result.errors.push(message.to_owned());
            return Ok(());
        }
        _ => {}
    }
    match (kind, mode) {
        (_, Mode::Json) | ("action" | "log" | "plan", Mode::Quiet) => {}
        ("action", Mode::Terminal) => {
            board.set(text("id"), text("status"));
            draw(board);
        }
        ("action", Mode::Plain) => {
            let message = text("message");
            let tail = if message.is_empty() { String::new() } else { format!("  {message}") };
            tell!(" {}  {}{tail}", text("id"), text("status"));
        }
        ("plan", _) => crate::output::table::write_all(&plan(event))?,
        ("warning", _) => tell(mode, board, &format!("WARN: {}", text("message"))),
        _ => {
            let from = Some(text("service")).filter(|service| !service.is_empty());
            let message = text("message").trim_end();
            if !message.is_empty() {
                tell(mode, board, &from.map_or_else(|| message.to_owned(), |service| format!("{service}: {message}")));
            }
        }
    }
    Ok(())
}

/// Prints a line above the board, which is then drawn anew.
fn tell(mode: Mode, board: &mut Board, text: &str) {
    if mode == Mode::Terminal && board.drawn > 0 {
        let _ = write!(io::stderr(), "\x1b[{}A\x1b[0J", board.drawn);
        board.drawn = 0;
    }
    tell!("{text}");
    if mode == Mode::Terminal {
        draw(board);
    }
}

/// The steps of a plan, a line each.
fn plan(event: &Value) -> String {
    let steps = event["plan"].as_array().map(Vec::as_slice).unwrap_or_default();
    if steps.is_empty() {
        return "Nothing to do: everything is as the files say.\n".to_owned();
    }
    let mut out = String::new();
    for step in steps {
        let line = match step {
            Value::String(text) => text.clone(),
            other => {
                let named =
                    |names: &[&str]| names.iter().find_map(|name| other[*name].as_str()).unwrap_or_default().to_owned();
                let parts = [
                    named(&["action", "kind", "status"]),
                    named(&["id", "name", "target", "service"]),
                    named(&["message", "reason", "why"]),
                ];
                let shown: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
                if shown.is_empty() { other.to_string() } else { shown.join("  ") }
            }
        };
        let _ = writeln!(out, "{line}");
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_redrawn_in_place() {
        let mut board = Board::new("Running");
        board.set("Container p-web-1", "Creating");
        assert!(!board.text(80).contains("\x1b[1A"));
        board.set("Container p-web-1", "Started");
        let text = board.text(80);
        assert!(text.starts_with("\x1b[2A") && text.contains("1/1") && text.contains("✔"), "{text:?}");
        board.set("Container p-web-1", "Error while starting");
        assert!(board.text(80).contains("✘"));
    }

    #[test]
    fn the_end_of_the_stream_decides() {
        let mut board = Board::new("Running");
        let mut result = Result::default();
        take(&json!({"kind": "action", "id": "x", "status": "Creating"}), Mode::Quiet, &mut board, &mut result)
            .unwrap();
        assert!(!result.ok);
        take(&json!({"kind": "done", "ok": true}), Mode::Quiet, &mut board, &mut result).unwrap();
        assert!(result.ok);
        let mut result = Result::default();
        take(&json!({"kind": "error", "id": "x", "message": "no"}), Mode::Quiet, &mut board, &mut result).unwrap();
        take(&json!({"kind": "done", "ok": false}), Mode::Quiet, &mut board, &mut result).unwrap();
        assert_eq!(result.errors, ["no"]);
        assert_eq!(result.outcome().unwrap_err().code, 1);
    }

    #[test]
    fn plans_are_lines() {
        assert_eq!(
            plan(&json!({"plan": ["create web", {"action": "recreate", "id": "db", "reason": "image"}]})),
            "create web\nrecreate  db  image\n"
        );
        assert!(plan(&json!({"plan": []})).starts_with("Nothing to do"));
    }

    #[test]
    fn statuses_know_their_end() {
        for status in ["Started", "Healthy", "Removed", "Running", "Error: no", "Recreated"] {
            assert!(is_final(status), "{status}");
        }
        for status in ["Creating", "Starting", "Waiting", "Pulling"] {
            assert!(!is_final(status), "{status}");
        }
    }
}
