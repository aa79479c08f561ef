//! `top`: the processes of a container, in the columns that ps(1) would show for its arguments.
//!
//! Read from the host's `/proc`, with the host's numbers and names of users, as Docker does. Clock times are in UTC.

use std::collections::HashMap;
use std::fs;

use bollard_stubs::models::ContainerTopResponse;

use crate::error::{Error, Result};
use crate::events::now_ns;
use crate::{Engine, blocking};

/// Ticks of the kernel's clock in a second, as it shows them.
const TICKS: u64 = 100;
const PAGE: u64 = 4096;

/// What is known of a process.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    pid: i32,
    parent: i32,
    uid: u32,
    gid: u32,
    user: String,
    name: String,
    command: String,
    state: String,
    session: i32,
    threads: u64,
    nice: i64,
    priority: i64,
    terminal: u64,
    /// Seconds of processor time.
    used: u64,
    /// Seconds since it was started.
    age: u64,
    /// Seconds since the epoch.
    started: u64,
    virtual_kib: u64,
    resident_kib: u64,
}

/// What is true of the host at this moment.
#[derive(Debug, Clone, Copy)]
struct Now {
    seconds: u64,
    memory_kib: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    User,
    Uid,
    Gid,
    Pid,
    Parent,
    Share,
    SharePercent,
    MemoryPercent,
    Virtual,
    Resident,
    Terminal,
    State,
    Started,
    Time,
    ShortTime,
    Elapsed,
    Command,
    Name,
    Threads,
    Nice,
    Priority,
    Session,
}

impl Column {
    /// The column of `-o`, with its title.
    fn named(name: &str) -> Option<(Self, &'static str)> {
        Some(match name {
            "pid" | "tgid" => (Self::Pid, "PID"),
            "ppid" => (Self::Parent, "PPID"),
            "user" | "uname" | "euser" | "ruser" => (Self::User, "USER"),
            "uid" | "euid" | "ruid" => (Self::Uid, "UID"),
            "gid" | "egid" | "rgid" => (Self::Gid, "GID"),
            "c" => (Self::Share, "C"),
            "pcpu" | "%cpu" => (Self::SharePercent, "%CPU"),
            "pmem" | "%mem" => (Self::MemoryPercent, "%MEM"),
            "vsz" | "vsize" => (Self::Virtual, "VSZ"),
            "rss" | "rssize" | "rsz" => (Self::Resident, "RSS"),
            "tty" | "tt" | "tname" => (Self::Terminal, "TTY"),
            "stat" | "state" | "s" => (Self::State, "STAT"),
            "stime" => (Self::Started, "STIME"),
            "start" | "start_time" | "bsdstart" => (Self::Started, "START"),
            "time" | "cputime" => (Self::Time, "TIME"),
            "bsdtime" => (Self::ShortTime, "TIME"),
            "etime" => (Self::Elapsed, "ELAPSED"),
            "cmd" => (Self::Command, "CMD"),
            "args" | "command" => (Self::Command, "COMMAND"),
            "comm" | "ucmd" | "ucomm" => (Self::Name, "COMMAND"),
            "nlwp" | "thcount" => (Self::Threads, "NLWP"),
            "ni" | "nice" => (Self::Nice, "NI"),
            "pri" => (Self::Priority, "PRI"),
            "sid" | "sess" | "session" => (Self::Session, "SID"),
            _ => return None,
        })
    }

    fn value(self, seen: &Seen, now: Now) -> String {
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
        match self {
            Self::User => seen.user.clone(),
            Self::Uid => seen.uid.to_string(),
            Self::Gid => seen.gid.to_string(),
            Self::Pid => seen.pid.to_string(),
            Self::Parent => seen.parent.to_string(),
            Self::Share => format!("{:.0}", share(seen.used, seen.age).min(99.0).floor()),
            Self::SharePercent => format!("{:.1}", share(seen.used, seen.age)),
            Self::MemoryPercent => format!("{:.1}", share(seen.resident_kib, now.memory_kib)),
            Self::Virtual => seen.virtual_kib.to_string(),
            Self::Resident => seen.resident_kib.to_string(),
            Self::Terminal => terminal(seen.terminal),
            Self::State => seen.state.clone(),
            Self::Started => started(seen.started, now.seconds),
            Self::Time => format!("{:02}:{:02}:{:02}", seen.used / 3600, seen.used / 60 % 60, seen.used % 60),
            Self::ShortTime => format!("{}:{:02}", seen.used / 60, seen.used % 60),
            Self::Elapsed => elapsed(seen.age),
            Self::Command => seen.command.clone(),
            Self::Name => seen.name.clone(),
            Self::Threads => seen.threads.to_string(),
            Self::Nice => seen.nice.to_string(),
            Self::Priority => (39 - seen.priority).to_string(),
            Self::Session => seen.session.to_string(),
        }
    }
}

fn terminal(number: u64) -> String {
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match major {
        0 => "?".to_owned(),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        5 => "console".to_owned(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => format!("{major},{minor}"),
    }
}

/// The time of day, the day when it is another one.
fn started(at: u64, now: u64) -> String {
    let text = sampan_image::timestamp::format(i64::try_from(at.saturating_mul(1_000_000_000)).unwrap_or(i64::MAX));
    if now.saturating_sub(at) < 24 * 60 * 60 {
        return text.get(11..16).unwrap_or("?").to_owned();
    }
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = text.get(5..7).and_then(|month| month.parse::<usize>().ok()).and_then(|month| MONTHS.get(month - 1));
    format!("{}{}", month.unwrap_or(&"?"), text.get(8..10).unwrap_or("?"))
}

fn elapsed(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes:02}:{:02}", seconds % 60),
        (0, _) => format!("{hours:02}:{minutes:02}:{:02}", seconds % 60),
        _ => format!("{days}-{hours:02}:{minutes:02}:{:02}", seconds % 60),
    }
}

type Columns = Vec<(Column, String)>;

fn titled(names: &[(&str, &str)]) -> Columns {
    names.iter().filter_map(|(name, title)| Some((Column::named(name)?.0, (*title).to_owned()))).collect()
}

/// The columns of ps's arguments.
fn columns(arguments: &str) -> Result<Columns> {
    let unknown = |what: &str| {
        Error::invalid(format!(
            "ps: {what} is not known here; use -ef, aux, or -o with pid, ppid, user, uid, pcpu, pmem, vsz, rss, tty, stat, \
             stime, etime, time, nlwp, ni, comm, args"
        ))
    };
    let full = || {
        titled(&[
            ("user", "UID"),
            ("pid", "PID"),
            ("ppid", "PPID"),
            ("c", "C"),
            ("stime", "STIME"),
            ("tty", "TTY"),
            ("time", "TIME"),
            ("cmd", "CMD"),
        ])
    };
    let users = || {
        titled(&[
            ("user", "USER"),
            ("pid", "PID"),
            ("pcpu", "%CPU"),
            ("pmem", "%MEM"),
            ("vsz", "VSZ"),
            ("rss", "RSS"),
            ("tty", "TTY"),
            ("stat", "STAT"),
            ("start", "START"),
            ("bsdtime", "TIME"),
            ("args", "COMMAND"),
        ])
    };
    let mut chosen: Columns = Vec::new();
    let mut shape = titled(&[("pid", "PID"), ("tty", "TTY"), ("time", "TIME"), ("comm", "CMD")]);
    let mut words = arguments.split_whitespace();
    while let Some(word) = words.next() {
        let letters = word.strip_prefix('-').unwrap_or(word);
        let dashed = letters.len() < word.len();
        for (at, letter) in letters.char_indices() {
            match letter {
                'e' | 'A' | 'a' | 'x' | 'w' | 'd' => {}
                'f' if dashed => shape = full(),
                'F' if dashed => shape = full(),
                'f' => {}
                'u' if !dashed || letters.contains('x') => shape = users(),
                'o' => {
                    let rest = &letters[at + 1..];
                    let list = if rest.is_empty() { words.next().unwrap_or_default() } else { rest };
                    for item in list.split(',').filter(|item| !item.is_empty()) {
                        let (name, title) =
                            item.split_once('=').map_or((item, None), |(name, title)| (name, Some(title)));
                        let (column, usual) = Column::named(&name.to_lowercase())
                            .ok_or_else(|| unknown(&format!("the column {name:?}")))?;
                        chosen.push((column, title.unwrap_or(usual).to_owned()));
                    }
                    break;
                }
                _ => return Err(unknown(&format!("the argument {word:?}"))),
            }
        }
    }
    let columns = if chosen.is_empty() { shape } else { chosen };
    if !columns.iter().any(|(column, _)| *column == Column::Pid) {
        return Err(Error::invalid("Couldn't find PID field in ps output"));
    }
    Ok(columns)
}

/// One process; `None` when it is gone.
fn look(pid: i32, up: u64, now: u64, users: &HashMap<u32, String>) -> Option<Seen> {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).ok();
    let stat = String::from_utf8_lossy(&read("stat")?).into_owned();
    // The name stands in parentheses, and may hold any character itself.
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = after.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<i64>().ok()).unwrap_or(0);
    let positive = |at: usize| u64::try_from(number(at)).unwrap_or(0);
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let id = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let command = read("cmdline").unwrap_or_default();
    let command: Vec<u8> = command
        .strip_suffix(b"\0")
        .unwrap_or(&command)
        .iter()
        .map(|byte| if *byte == 0 { b' ' } else { *byte })
        .collect();
    let command = if command.is_empty() { format!("[{name}]") } else { String::from_utf8_lossy(&command).into_owned() };
    let uid = id("Uid:").unwrap_or(0);
    let age = up.saturating_sub(positive(19) / TICKS);
    let narrow = |at: usize| i32::try_from(number(at)).unwrap_or(0);
    Some(Seen {
        pid,
        parent: narrow(1),
        uid,
        gid: id("Gid:").unwrap_or(0),
        user: users.get(&uid).cloned().unwrap_or_else(|| uid.to_string()),
        name,
        command,
        state: state(&fields, narrow(3) == pid, narrow(5), narrow(2)),
        session: narrow(3),
        threads: positive(17),
        nice: number(16),
        priority: number(15),
        terminal: positive(4),
        used: (positive(11) + positive(12)) / TICKS,
        age,
        started: now.saturating_sub(age),
        virtual_kib: positive(20) >> 10,
        resident_kib: (positive(21) * PAGE) >> 10,
    })
}

/// As ps marks it: the state, `<` or `N` by niceness, `s` for leaders of a session, `l` for threads, `+` in the foreground.
fn state(fields: &[&str], leads: bool, foreground: i32, group: i32) -> String {
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<i64>().ok()).unwrap_or(0);
    let mut text = fields.first().copied().unwrap_or("?").to_owned();
    match number(16) {
        nice if nice < 0 => text.push('<'),
        nice if nice > 0 => text.push('N'),
        _ => {}
    }
    if leads {
        text.push('s');
    }
    if number(17) > 1 {
        text.push('l');
    }
    if foreground == group {
        text.push('+');
    }
    text
}

fn user_names(passwd: &str) -> HashMap<u32, String> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    // The first entry of a number counts.
    passwd.lines().rev().filter_map(entry).collect()
}

impl Engine {
    /// `top`, with the arguments of ps(1).
    pub async fn top(&self, id: &str, arguments: &str) -> Result<ContainerTopResponse> {
        let containers = &self.inner.containers;
        let (container, _) = containers.running(id)?;
        let arguments = if arguments.trim().is_empty() { "-ef" } else { arguments };
        let columns = columns(arguments)?;
        let cgroup = containers.cgroup(&container.record());
        blocking(move || {
            let seconds = now_ns() / 1_000_000_000;
            let first = |file: &str| fs::read_to_string(file).unwrap_or_default();
            let up = first("/proc/uptime").split('.').next().and_then(|up| up.parse().ok()).unwrap_or(0);
            let memory = first("/proc/meminfo");
            let memory_kib = memory.split_whitespace().nth(1).and_then(|total| total.parse().ok()).unwrap_or(0);
            let users = user_names(&first("/etc/passwd"));
            let now = Now { seconds, memory_kib };
            let seen = cgroup.processes().into_iter().filter_map(|pid| look(pid, up, seconds, &users));
            let rows = seen.map(|seen| columns.iter().map(|(column, _)| column.value(&seen, now)).collect()).collect();
            Ok(ContainerTopResponse {
                titles: Some(columns.iter().map(|(_, title)| title.clone()).collect()),
                processes: Some(rows),
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn titles(arguments: &str) -> String {
        match columns(arguments) {
            Ok(columns) => columns.into_iter().map(|(_, title)| title).collect::<Vec<_>>().join(" "),
            Err(error) => error.message,
        }
    }

    #[test]
    fn arguments_choose_columns_as_with_ps() {
        assert_eq!(titles("-ef"), "UID PID PPID C STIME TTY TIME CMD");
        let users = "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND";
        assert_eq!((titles("aux").as_str(), titles("-aux").as_str()), (users, users));
        assert_eq!(titles("-e"), "PID TTY TIME CMD");
        assert_eq!(titles("-eo pid,comm"), "PID COMMAND");
        assert_eq!(titles("-o pid -o rss=MEM"), "PID MEM");
        assert_eq!(titles("-o comm"), "Couldn't find PID field in ps output");
        assert!(titles("-o pid,wchan").contains("the column \"wchan\""));
        assert!(titles("--forest").contains("\"--forest\""));
    }

    #[test]
    fn values_are_written_as_ps_writes_them() {
        let now = Now { seconds: 1_709_210_096, memory_kib: 1000 };
        let seen = Seen {
            used: 3725,
            age: 7450,
            started: now.seconds - 60,
            resident_kib: 25,
            terminal: 0x8801,
            ..Seen::default()
        };
        let value = |column: Column| column.value(&seen, now);
        assert_eq!(value(Column::Time), "01:02:05");
        assert_eq!(value(Column::ShortTime), "62:05");
        assert_eq!(value(Column::SharePercent), "50.0");
        assert_eq!(value(Column::MemoryPercent), "2.5");
        assert_eq!(value(Column::Terminal), "pts/1");
        assert_eq!(value(Column::Started), "12:33");
        assert_eq!(value(Column::Elapsed), "02:04:10");
        assert_eq!(started(now.seconds - 3 * 86_400, now.seconds), "Feb26");
    }

    #[test]
    fn a_process_is_seen() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let seen = look(pid, 1_000_000, 2_000_000, &user_names("root:x:0:0::/root:/bin/sh\n")).unwrap();
        assert_eq!(seen.pid, pid);
        assert!(seen.resident_kib > 0 && seen.threads > 0 && !seen.command.is_empty());
        assert_eq!(look(i32::MAX, 0, 0, &HashMap::new()), None);
    }
}
