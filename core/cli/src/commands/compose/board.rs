//! What goes on in a stack as lines on a terminal, one for each object, drawn over. Pure: time is told, text comes out.

use std::fmt::Write as _;
use std::time::Duration;

const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// How it stands with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Working,
    Done,
    Failed,
}

/// One object's line.
#[derive(Debug)]
struct Line {
    id: String,
    status: String,
    /// What it is at, such as a pull's step.
    detail: String,
    state: State,
    started: Duration,
    took: Option<Duration>,
}

/// All lines, and how many of them are on the screen. Times are since the command began.
#[derive(Debug)]
pub struct Board {
    title: &'static str,
    colors: bool,
    lines: Vec<Line>,
    drawn: usize,
}

/// Whether nothing more is to come for an object: `Started`, `Healthy`, `Running`.
pub fn is_final(status: &str) -> bool {
    let word = status.split_whitespace().next().unwrap_or_default().trim_end_matches(':');
    matches!(word, "Healthy" | "Running" | "Waited" | "Error" | "Warning")
        || status.ends_with("still in use")
        || (word.ends_with("ed") && word != "Need")
}

impl Board {
    /// An empty one; the title is the command's.
    pub fn new(title: &'static str, colors: bool) -> Self {
        Self { title, colors, lines: Vec::new(), drawn: 0 }
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Takes what happened to an object.
    pub fn set(&mut self, id: &str, status: &str, now: Duration) {
        let state = match status {
            _ if status.starts_with("Error") => State::Failed,
            _ if is_final(status) => State::Done,
            _ => State::Working,
        };
        let line = self.line(id, now);
        // Something new begins for an object that was done.
        if line.took.is_some() && state == State::Working {
            line.started = now;
        }
        status.clone_into(&mut line.status);
        line.detail.clear();
        line.state = state;
        line.took = (state != State::Working).then(|| now.saturating_sub(line.started));
    }

    /// Takes what an object is at.
    pub fn detail(&mut self, id: &str, text: &str, now: Duration) {
        // Of what is not there yet nothing is known, and what comes from outside stays on its line.
        let text: String = text.chars().filter(|letter| !letter.is_control()).collect();
        self.line(id, now).detail = text;
    }

    fn line(&mut self, id: &str, now: Duration) -> &mut Line {
        let at = self.lines.iter().position(|line| line.id == id).unwrap_or_else(|| {
            self.lines.push(Line {
                id: id.to_owned(),
                status: String::new(),
                detail: String::new(),
                state: State::Working,
                started: now,
                took: None,
            });
            self.lines.len() - 1
        });
        &mut self.lines[at]
    }

    /// What takes the lines off the screen, so that something else can be printed there.
    pub fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            drawn => format!("\x1b[{drawn}A\x1b[0J"),
        }
    }

    /// What draws the lines over those that were drawn before, on a screen of that size.
    pub fn draw(&mut self, rows: usize, columns: usize, now: Duration) -> String {
        let (done, all) = (self.lines.iter().filter(|line| line.state == State::Done).count(), self.lines.len());
        let mut text = vec![format!("[+] {} {done}/{all}", self.title)];
        // A screen that scrolls cannot be drawn over: what is done gives way first.
        let room = rows.saturating_sub(2).max(1);
        let hidden = all.saturating_sub(room);
        let mut leave_out = if hidden > 0 { hidden + 1 } else { 0 };
        let mut left_out = 0;
        let shown: Vec<&Line> = self
            .lines
            .iter()
            .filter(|line| {
                let hide = leave_out > 0 && line.state == State::Done;
                leave_out -= usize::from(hide);
                left_out += usize::from(hide);
                !hide
            })
            .collect();
        if left_out > 0 {
            text.push(format!("   {left_out} more that are done"));
        }
        let wide = |of: fn(&Line) -> &str| shown.iter().map(|line| of(line).chars().count()).max().unwrap_or(0);
        let (ids, statuses) = (wide(|line| &line.id), wide(|line| &line.status));
        let turn = usize::try_from(now.as_millis() / 100).unwrap_or(0);
        for line in shown.iter().take(room) {
            let (sign, color) = match line.state {
                State::Failed => ('✘', "31"),
                State::Done => ('✔', "32"),
                State::Working => (SPINNER[turn % SPINNER.len()], "33"),
            };
            let seconds = line.took.unwrap_or_else(|| now.saturating_sub(line.started)).as_secs_f64();
            let body = format!("{:ids$}  {:statuses$}  {}", line.id, line.status, line.detail);
            // A line that wraps could not be drawn over either.
            let width = columns.saturating_sub(12).max(20);
            let body: String = body.trim_end().chars().take(width).collect();
            let width = width.min(ids + statuses + 2).max(body.chars().count());
            let painted = |text: String| match self.colors {
                true => format!("\x1b[{color}m{text}\x1b[0m"),
                false => text,
            };
            text.push(format!(" {} {body:width$} {seconds:>6.1}s", painted(sign.to_string())));
        }
        let mut out = self.erase();
        for line in &text {
            let _ = writeln!(out, "{line}");
        }
        self.drawn = text.len();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(tenths: u64) -> Duration {
        Duration::from_millis(tenths * 100)
    }

    #[test]
    fn lines_are_drawn_over() {
        let mut board = Board::new("up", false);
        board.set("Network p_default", "Creating", at(0));
        board.set("Network p_default", "Created", at(1));
        board.set("Container p-web-1", "Creating", at(1));
        board.detail("Container p-web-1", "\x1b[31mlayer 1/2", at(1));
        assert_eq!(
            board.draw(24, 80, at(4)),
            "[+] up 1/2\n ✔ Network p_default  Created     0.1s\n ⠼ Container p-web-1  Creating  [31mlayer 1/2    0.3s\n"
        );
        board.set("Container p-web-1", "Started", at(6));
        assert_eq!(
            board.draw(24, 80, at(9)),
            "\x1b[3A\x1b[0J[+] up 2/2\n ✔ Network p_default  Created    0.1s\n ✔ Container p-web-1  Started    0.5s\n"
        );
        board.set("Container p-web-1", "Error while starting", at(9));
        assert!(board.draw(24, 80, at(9)).contains(" ✘ Container p-web-1"));
        assert_eq!(board.erase(), "\x1b[3A\x1b[0J");
        assert_eq!(board.erase(), "");
    }

    #[test]
    fn what_is_done_gives_way_on_a_small_screen() {
        let mut board = Board::new("up", false);
        for number in 1..=30 {
            board.set(&format!("Container p-web-{number}"), if number == 30 { "Starting" } else { "Started" }, at(0));
        }
        let text = board.draw(10, 80, at(1));
        assert!(text.contains("more that are done") && text.contains("p-web-30"), "{text}");
        assert!(text.lines().count() < 10, "{text}");
        assert!(text.starts_with("[+] up 29/30\n"));
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
