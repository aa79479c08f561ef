//! A build on a terminal: a line for each step with the time that it took, and below the one that runs the last lines of
//! what it says. What it has said goes when it is done; of a step that fails the command repeats it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Lines of a running step that are shown.
const WINDOW: usize = 6;
/// Letters of a line that are kept.
const MAX_LINE: usize = 4096;

/// What is shown, and what came of it until now.
#[derive(Debug)]
pub struct BuildWindow {
    width: usize,
    step: Option<Running>,
    /// Lines below the last finished one that the next drawing replaces.
    drawn: usize,
    /// Text without its line's end yet.
    partial: String,
}

#[derive(Debug)]
struct Running {
    title: String,
    began: Instant,
    cached: bool,
    said: VecDeque<String>,
}

impl BuildWindow {
    /// For a terminal of a width.
    pub fn new(width: usize) -> Self {
        Self { width: width.max(20), step: None, drawn: 0, partial: String::new() }
    }

    /// Takes text of the build's stream; what to write.
    pub fn take(&mut self, text: &str, now: Instant) -> String {
        let mut out = String::new();
        let text = std::mem::take(&mut self.partial) + text;
        let mut rest = text.as_str();
        while let Some((line, after)) = rest.split_once('\n') {
            self.line(line.trim_end_matches('\r'), now, &mut out);
            rest = after;
        }
        // A bar that is redrawn in its line shows its last state.
        let last = rest.rsplit('\r').next().unwrap_or_default();
        self.partial = last.chars().take(MAX_LINE).collect();
        out + &self.redraw(now)
    }

    fn line(&mut self, line: &str, now: Instant, out: &mut String) {
        if let Some((number, what)) = step_of(line) {
            out.push_str(&self.finish(now));
            self.step =
                Some(Running { title: format!("[{number}] {what}"), began: now, cached: false, said: VecDeque::new() });
        } else if line == " ---> Using cache" {
            self.step.iter_mut().for_each(|step| step.cached = true);
        } else if line.starts_with(" ---> ") {
            // Digits of a result are no news.
        } else if let Some(step) = &mut self.step {
            step.said.push_back(printable(line));
            if step.said.len() > WINDOW {
                step.said.pop_front();
            }
        } else {
            out.push_str(&self.clear());
            out.push_str(&printable(line));
            out.push('\n');
        }
    }

    /// The step is over: its line stays.
    pub fn finish(&mut self, now: Instant) -> String {
        let mut out = self.clear();
        if let Some(step) = self.step.take() {
            out.push_str(&self.title(&step, now));
            out.push('\n');
        }
        out
    }

    /// What stands below the finished lines, anew.
    pub fn redraw(&mut self, now: Instant) -> String {
        let mut out = self.clear();
        let Some(step) = &self.step else { return out };
        out.push_str(&self.title(step, now));
        out.push('\n');
        let partial = printable(&self.partial);
        let lines = step.said.iter().chain(Some(&partial).filter(|text| !text.is_empty()));
        let lines: Vec<&String> = lines.collect();
        let from = lines.len().saturating_sub(WINDOW);
        for line in &lines[from..] {
            let shown: String = line.chars().take(self.width.saturating_sub(6)).collect();
            out.push_str(&format!("\x1b[2m  | {shown}\x1b[0m\n"));
        }
        self.drawn = 1 + lines.len() - from;
        out
    }

    fn title(&self, step: &Running, now: Instant) -> String {
        let cached = if step.cached { "CACHED " } else { "" };
        let time = seconds(now.duration_since(step.began));
        let room = self.width.saturating_sub(time.len() + 6);
        let mut title: String = format!("{cached}{}", step.title).chars().take(room).collect();
        let gap = room.saturating_sub(title.chars().count());
        title.extend(std::iter::repeat_n(' ', gap));
        format!(" => {title} {time}")
    }

    fn clear(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }
}

/// `Step 2/5 : RUN x`: `2/5` and the instruction.
fn step_of(line: &str) -> Option<(&str, &str)> {
    let (number, what) = line.strip_prefix("Step ")?.split_once(" : ")?;
    number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'/').then_some((number, what))
}

fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

/// A program's words may not move the cursor here.
fn printable(line: &str) -> String {
    let mut out = String::new();
    let mut letters =
        line.rsplit('\r').find(|part| !part.is_empty()).unwrap_or_default().chars().take(MAX_LINE).peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\x1b' => {
                // `ESC [ … letter` colours and moves; the rest of such a sequence goes with it.
                if letters.next_if_eq(&'[').is_some() {
                    while letters.next_if(|letter| !letter.is_ascii_alphabetic()).is_some() {}
                    letters.next();
                }
            }
            '\t' => out.push_str("    "),
            letter if letter.is_control() => {}
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_step_has_a_window_and_a_finished_one_a_line() {
        let begin = Instant::now();
        let later = |tenths: u64| begin + Duration::from_millis(tenths * 100);
        let mut window = BuildWindow::new(40);
        assert_eq!(window.take("[Warning] x\n", begin), "[Warning] x\n");
        let shown = window.take("Step 1/2 : FROM a\n ---> abc\n", begin);
        assert_eq!(shown, " => [1/2] FROM a                   0.0s\n");
        let shown = window.take("Step 2/2 : RUN make\n", later(5));
        assert!(
            shown.starts_with("\x1b[1A\r\x1b[J => [1/2] FROM a                   0.5s\n => [2/2] RUN make"),
            "{shown:?}"
        );
        for number in 0..9 {
            window.take(&format!("line {number}\n"), later(6));
        }
        let shown = window.take("half", later(7));
        assert!(shown.starts_with("\x1b[7A\r\x1b[J"), "{shown:?}");
        assert!(shown.contains("| line 8") && !shown.contains("line 3") && shown.contains("| half"), "{shown:?}");
        let shown = window.finish(later(20));
        assert!(shown.ends_with("=> [2/2] RUN make                 1.5s\n") && !shown.contains("line"), "{shown:?}");
        assert_eq!(window.redraw(later(21)), "");
    }

    #[test]
    fn what_was_there_already_is_said_so() {
        let begin = Instant::now();
        let mut window = BuildWindow::new(60);
        window.take("Step 1/1 : RUN x\n ---> Using cache\n", begin);
        assert!(window.finish(begin).contains("=> CACHED [1/1] RUN x"));
    }

    #[test]
    fn programs_do_not_move_the_cursor() {
        assert_eq!(printable("\x1b[31mred\x1b[0m\x07 a\tb\x1b[2A"), "red a    b");
        assert_eq!(printable("10%\r50%\r"), "50%");
        let mut window = BuildWindow::new(30);
        let begin = Instant::now();
        window.take("Step 1/1 : RUN x\n", begin);
        let shown = window.take(&format!("{}\n", "x".repeat(200)), begin);
        assert!(shown.lines().all(|line| line.replace("\x1b[2m", "").replace("\x1b[0m", "").chars().count() < 40));
    }
}
