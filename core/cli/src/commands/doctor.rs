//! `doctor`: what of the host and the daemon helps or stands in the way.

use serde_json::Value;
use std::path::Path;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::say as line;

/// `doctor` has no options of its own.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {}

/// How a finding is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Good,
    Warning,
    Bad,
}

fn say(mark: Mark, what: &str, text: &str) {
    let sign = match mark {
        Mark::Good => "ok",
        Mark::Warning => "!!",
        Mark::Bad => "no",
    };
    let _ = line!("[{sign}] {what}: {text}");
}

/// `doctor`
pub async fn run(context: Context, _args: DoctorArgs) -> Outcome {
    let mut bad = host();
    let socket = context.client.socket().display().to_string();
    match context.client.get::<Value>("/info").await {
        Ok(info) => {
            let version = info["ServerVersion"].as_str().unwrap_or("unknown").to_owned();
            say(Mark::Good, "daemon", &format!("version {version} answers on unix://{socket}"));
            bad |= daemon(&info);
        }
        Err(failure) => {
            say(Mark::Bad, "daemon", &failure.message);
            bad = true;
        }
    }
    match context.client.get::<Vec<Value>>("/sampan/v1/plugins").await {
        Ok(plugins) => {
            for plugin in &plugins {
                let problem = plugin["Problem"].as_str().filter(|text| !text.is_empty());
                if let Some(problem) = problem {
                    say(Mark::Warning, &format!("driver {}", plugin["Name"].as_str().unwrap_or("?")), problem);
                }
            }
            say(Mark::Good, "drivers", &format!("{} installed", plugins.len()));
        }
        Err(failure) if failure.status.is_some() => say(Mark::Warning, "drivers", &failure.message),
        Err(_) => {}
    }
    if let Ok(stacks) = context.client.get::<Vec<Value>>("/sampan/v1/stacks").await {
        for stack in &stacks {
            if let Some(problem) = stack["problem"].as_str().filter(|problem| !problem.is_empty()) {
                say(Mark::Warning, &format!("stack {}", stack["name"].as_str().unwrap_or("?")), problem);
            }
        }
    }
    if bad { Err(Failure::exit(1)) } else { Ok(()) }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What the kernel has to offer; whether something needed is missing.
fn host() -> bool {
    let mut bad = false;
    let mut check = |mark: Mark, what: &str, text: &str| {
        bad |= mark == Mark::Bad;
        say(mark, what, text);
    };
    check(Mark::Good, "kernel", read("/proc/sys/kernel/osrelease").trim());
    if nix::unistd::geteuid().is_root() {
        check(Mark::Good, "user", "root");
    } else {
        check(Mark::Warning, "user", "not root: the daemon needs root; its socket opens to the group that owns it");
    }
    let systems = read("/proc/filesystems");
    let has = |name: &str| systems.split_whitespace().any(|word| word == name);
    if has("overlay") {
        check(Mark::Good, "overlay", "available");
    } else {
        check(Mark::Warning, "overlay", "missing: images take more room and time with the vfs driver");
    }
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        check(Mark::Good, "cgroups", "version 2");
    } else if Path::new("/sys/fs/cgroup/memory").exists() {
        check(Mark::Good, "cgroups", "version 1");
    } else {
        check(Mark::Bad, "cgroups", "not mounted: limits cannot be set");
    }
    let namespaces = ["mnt", "pid", "net", "ipc", "uts", "user", "cgroup"];
    let missing: Vec<&str> =
        namespaces.into_iter().filter(|name| !Path::new("/proc/self/ns").join(name).exists()).collect();
    if missing.is_empty() {
        check(Mark::Good, "namespaces", "all kinds");
    } else {
        check(
            if missing == ["user"] { Mark::Warning } else { Mark::Bad },
            "namespaces",
            &format!("missing: {}", missing.join(" ")),
        );
    }
    let forwarding = read("/proc/sys/net/ipv4/ip_forward");
    if forwarding.trim() == "1" {
        check(Mark::Good, "forwarding", "on");
    } else {
        check(Mark::Warning, "forwarding", "off: the daemon switches it on with the first bridge network");
    }
    bad
}

/// What the daemon says of itself.
fn daemon(info: &Value) -> bool {
    let text = |name: &str| info[name].as_str().unwrap_or("unknown");
    say(Mark::Good, "storage driver", text("Driver"));
    say(Mark::Good, "logging driver", text("LoggingDriver"));
    for (field, what) in [
        ("MemoryLimit", "memory limits"),
        ("SwapLimit", "swap limits"),
        ("PidsLimit", "process limits"),
        ("CpuCfsQuota", "processor limits"),
        ("IPv4Forwarding", "forwarding"),
    ] {
        if info[field] == false {
            say(Mark::Warning, what, "the daemon says that the kernel does not offer them");
        }
    }
    for warning in info["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        say(Mark::Warning, "daemon", warning.trim_start_matches("WARNING: "));
    }
    false
}
