//! How the daemon's stream of events about a stack is shown: lines that are redrawn on a terminal, plain lines elsewhere.

use http::Response;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::board::{Board, is_final};
use super::reach::Place;
use crate::client::JsonLines;
use crate::failure::{Failure, Outcome};
use crate::output::terminal;

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

/// How to show events, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// How.
    pub mode: Mode,
    /// On standard output, not on standard error.
    pub to_stdout: bool,
}

impl From<Mode> for Style {
    fn from(mode: Mode) -> Self {
        Self { mode, to_stdout: false }
    }
}

impl Style {
    fn write(self, text: &str) {
        // Whether somebody reads it does not matter.
        let _ = match self.to_stdout {
            true => io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()),
            false => io::stderr().write_all(text.as_bytes()),
        };
    }

    fn tell(self, line: &str) {
        self.write(&format!("{line}\n"));
    }
}

impl Mode {
    /// From what was asked for; by itself, as it suits where it is shown.
    pub fn of(progress: Option<&str>, ansi: Option<&str>, to_stdout: bool) -> Outcome<Self> {
        let is_terminal = || if to_stdout { io::stdout().is_terminal() } else { io::stderr().is_terminal() };
        let terminal = match ansi.unwrap_or("auto") {
            "always" => true,
            "never" => false,
            "auto" => is_terminal(),
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

/// What a stream of events came to.
#[derive(Debug, Default)]
pub struct Result {
    /// What went wrong.
    pub errors: Vec<String>,
    /// Whether the daemon said that it is done, and well.
    pub ok: bool,
    /// What a container like a service's own is made from, when that was asked for.
    pub pattern: Option<Value>,
    /// What is up, and where it is reached.
    pub places: Vec<Place>,
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
pub async fn show(response: Response<Incoming>, style: Style, title: &'static str) -> Outcome<Result> {
    Display::new(style, title).show(response).await
}

/// Shows the events of one command.
#[derive(Debug)]
pub struct Display {
    mode: Mode,
    style: Style,
    board: Board,
    began: Instant,
    quiet_pull: bool,
    quiet_build: bool,
    /// What happens to the images of services: the object's name, and what is done.
    images: HashMap<String, (String, String)>,
    result: Result,
}

impl Display {
    /// Of a command.
    pub fn new(style: impl Into<Style>, title: &'static str) -> Self {
        let style = style.into();
        Self {
            mode: style.mode,
            style,
            board: Board::new(title, std::env::var_os("NO_COLOR").is_none()),
            began: Instant::now(),
            quiet_pull: false,
            quiet_build: false,
            images: HashMap::new(),
            result: Result::default(),
        }
    }

    /// Without what pulls and builds say.
    #[must_use]
    pub fn quiet(mut self, pull: bool, build: bool) -> Self {
        (self.quiet_pull, self.quiet_build) = (pull, build);
        self
    }

    /// Shows a stream of events until it ends.
    pub async fn show(mut self, response: Response<Incoming>) -> Outcome<Result> {
        let mut lines = JsonLines::new(response);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                event = lines.next::<Value>() => {
                    let Some(event) = event? else { break };
                    self.take(&event)?;
                }
                _ = tick.tick(), if self.mode == Mode::Terminal => self.draw(),
            }
        }
        self.draw();
        Ok(self.result)
    }

    fn draw(&mut self) {
        if self.mode == Mode::Terminal && !self.board.is_empty() {
            let (rows, columns) = terminal::size().map_or((24, 80), |(rows, columns)| (rows.into(), columns.into()));
            let text = self.board.draw(rows, columns, self.began.elapsed());
            self.style.write(&text);
        }
    }

    fn take(&mut self, event: &Value) -> Outcome {
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        let kind = text("kind");
        if kind == "pattern" {
            self.result.pattern = Some(event["body"].clone());
            return Ok(());
        }
        if kind == "places" {
            // What was brought up is up, whether that can be told or not.
            self.result.places = Vec::deserialize(&event["places"]).unwrap_or_default();
            return Ok(());
        }
        if self.mode == Mode::Json
            && let Some(line) = as_compose(event)
        {
            self.style.tell(&line.to_string());
        }
        match kind {
            "done" => {
                self.result.ok = event["ok"].as_bool().unwrap_or(true) && self.result.errors.is_empty();
                if event["ok"] == false && self.result.errors.is_empty() && !text("message").is_empty() {
                    self.failed(text("message"), text("message"));
                }
            }
            "error" => {
                let what = [text("id"), text("service")].into_iter().find(|name| !name.is_empty());
                let message = text("message");
                if !text("id").is_empty() {
                    self.board.set(text("id"), "Error", self.began.elapsed());
                }
                match what.filter(|name| !message.contains(*name)) {
                    Some(name) => self.failed(message, &format!("{name}: {message}")),
                    None => self.failed(message, message),
                }
            }
            "plan" => crate::output::table::write_all(&plan(event))?,
            "warning" if !crate::output::first(text("message")) => {}
            "warning" => {
                let message = text("message");
                self.tell(&format!("WARN: {}", message.strip_prefix("warning: ").unwrap_or(message)));
            }
            "action" => self.action(text("id"), text("service"), text("status"), text("message")),
            _ => self.log(text("service"), text("message").trim_end()),
        }
        Ok(())
    }

    fn failed(&mut self, message: &str, shown: &str) {
        self.result.errors.push(message.to_owned());
        self.tell(&format!("Error: {shown}"));
    }

    fn action(&mut self, id: &str, service: &str, status: &str, message: &str) {
        if matches!(status, "Pulling" | "Building") {
            self.images.insert(service.to_owned(), (id.to_owned(), status.to_owned()));
        } else if matches!(status, "Pulled" | "Built") {
            self.images.remove(service);
        }
        match self.mode {
            Mode::Terminal => {
                self.board.set(id, status, self.began.elapsed());
                self.draw();
            }
            Mode::Plain if message.is_empty() => self.style.tell(&format!(" {id}  {status}")),
            Mode::Plain => self.style.tell(&format!(" {id}  {status}  {message}")),
            Mode::Json | Mode::Quiet => {}
        }
    }

    /// What a build or a pull says: a pull's steps stand on the image's line.
    fn log(&mut self, service: &str, message: &str) {
        if message.is_empty() || matches!(self.mode, Mode::Json | Mode::Quiet) {
            return;
        }
        match self.images.get(service) {
            Some((_, status))
                if (status == "Pulling" && self.quiet_pull) || (status == "Building" && self.quiet_build) => {}
            Some((id, status)) if status == "Pulling" && self.mode == Mode::Terminal => {
                self.board.detail(id, message, self.began.elapsed());
            }
            _ if service.is_empty() => self.tell(message),
            _ => self.tell(&format!("{service}: {message}")),
        }
    }

    /// Prints a line above the board, which is then drawn anew.
    fn tell(&mut self, text: &str) {
        if self.mode == Mode::Json {
            return;
        }
        self.style.write(&self.board.erase());
        self.style.tell(text);
        self.draw();
    }
}

/// An event as Compose writes it with `--progress json`.
fn as_compose(event: &Value) -> Option<Value> {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let state = |status: &str| match status {
        _ if status.starts_with("Error") => "Error",
        _ if is_final(status) => "Done",
        _ => "Working",
    };
    match text("kind") {
        "action" => {
            let mut line = json!({ "id": text("id"), "status": state(text("status")), "text": text("status") });
            if !text("message").is_empty() {
                line["details"] = event["message"].clone();
            }
            Some(line)
        }
        "error" => Some(json!({ "error": true, "message": text("message") })),
        "warning" => Some(json!({ "level": "warning", "message": text("message") })),
        "log" | "watch" => Some(json!({ "tail": true, "id": text("service"), "text": text("message") })),
        _ => None,
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

    #[test]
    fn ways_to_show_progress_are_chosen() {
        for (progress, ansi, mode) in [
            (None, Some("always"), Mode::Terminal),
            (None, Some("never"), Mode::Plain),
            (Some("tty"), Some("never"), Mode::Terminal),
            (Some("plain"), Some("always"), Mode::Plain),
            (Some("json"), None, Mode::Json),
            (Some("quiet"), None, Mode::Quiet),
        ] {
            assert_eq!(Mode::of(progress, ansi, false).unwrap(), mode);
        }
        assert!(Mode::of(Some("loud"), None, false).is_err() && Mode::of(None, Some("sometimes"), false).is_err());
    }

    #[test]
    fn the_end_of_the_stream_decides() {
        let mut display = Display::new(Mode::Quiet, "up");
        display.take(&json!({"kind": "action", "id": "x", "status": "Creating"})).unwrap();
        assert!(!display.result.ok);
        display.take(&json!({"kind": "done", "ok": true})).unwrap();
        assert!(display.result.ok);
        let mut display = Display::new(Mode::Quiet, "up");
        display.take(&json!({"kind": "error", "id": "x", "message": "no"})).unwrap();
        display.take(&json!({"kind": "done", "ok": false})).unwrap();
        assert_eq!(display.result.errors, ["no"]);
        assert_eq!(display.result.outcome().unwrap_err().code, 1);
        let mut display = Display::new(Mode::Quiet, "up");
        display.take(&json!({"kind": "pattern", "body": {"Image": "a"}})).unwrap();
        assert_eq!(display.result.pattern.unwrap()["Image"], "a");
    }

    #[test]
    fn events_are_written_as_compose_writes_them() {
        for (event, line) in [
            (
                json!({"kind": "action", "id": "Container p-web-1", "status": "Creating"}),
                json!({"id": "Container p-web-1", "status": "Working", "text": "Creating"}),
            ),
            (
                json!({"kind": "action", "id": "Container p-web-1", "status": "Healthy"}),
                json!({"id": "Container p-web-1", "status": "Done", "text": "Healthy"}),
            ),
            (json!({"kind": "error", "message": "no"}), json!({"error": true, "message": "no"})),
        ] {
            assert_eq!(as_compose(&event), Some(line));
        }
        assert_eq!(as_compose(&json!({"kind": "done", "ok": true})), None);
    }

    #[test]
    fn plans_are_lines() {
        assert_eq!(
            plan(&json!({"plan": ["create web", {"action": "recreate", "id": "db", "reason": "image"}]})),
            "create web\nrecreate  db  image\n"
        );
        assert!(plan(&json!({"plan": []})).starts_with("Nothing to do"));
    }
}
