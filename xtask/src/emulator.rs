//! The tests on a stock kernel with cgroup v2, in an emulator.
//!
//! The distribution's kernel boots with an initial file system that holds busybox, the modules, the programs and the
//! tests; `init.sh` runs them as init's children and switches the machine off. Nothing of the host is touched: the
//! packages are unpacked below `target/emulator`. Emulation needs no rights and no device of the host.

mod archive;
mod kernel;
mod suites;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{build, packages};
use archive::{Archive, Node};
use kernel::Kernel;
use suites::Suite;

/// The kernel that is booted unless another is named.
pub const PACKAGE: &str = "linux-image-cloud-amd64";

const EMULATOR: &str = "/usr/bin/qemu-system-x86_64";
const BUSYBOX: &str = "/bin/busybox";
const PACKAGES: [(&str, &str); 2] = [(EMULATOR, "qemu-system-x86"), (BUSYBOX, "busybox-static")];
/// The machine's memory, which also holds its files.
const MEMORY: &str = "3G";
const PROCESSORS: &str = "2";
/// Only a hang takes longer; `SAMPAN_KERNEL_TIMEOUT` (seconds) sets another.
const PATIENCE: Duration = Duration::from_secs(45 * 60);
/// Where the drivers' machine code comes out of the machine, and where it is kept.
const DISK: u64 = 256 << 20;
const CODE: &str = "machine-code";
/// What the machine is told to run first, and what it says, line by line.
const INIT: &str = include_str!("emulator/init.sh");
const MARK: &str = "sampan-guest: ";

/// Boots the kernel of a package and runs the suites in it. `name` is a list with commas: names of suites (`cgroup`,
/// `shim`, `network`, `storage`, or a file of `tests/`), and parts of tests' names for all that run.
pub fn run(root: &Path, package: &str, name: Option<&str>) -> Result<()> {
    packages::ensure(&PACKAGES)?;
    let folder = root.join("target/emulator");
    fs::create_dir_all(&folder)?;
    let kernel = Kernel::fetch(&folder, package)?;
    let chosen = suites::choose(root, name.unwrap_or_default())?;
    let image = folder.join("initramfs.cpio");
    pack(root, &folder, &kernel, &chosen)?.write(&image)?;
    println!(
        "kernel: booting {} with {} suites ({} MiB)",
        kernel.release,
        chosen.suites.len(),
        fs::metadata(&image)?.len() >> 20
    );
    let disk = folder.join("disk");
    File::create(&disk)?.set_len(DISK)?;
    let outcome = Machine::boot(&kernel, &image, &disk)?.watch()?;
    if outcome.saved {
        keep(&disk, &folder.join(CODE))?;
    }
    fs::remove_file(&disk)?;
    println!("kernel: {}", outcome.line());
    outcome.verdict(chosen.suites.len())
}

/// Takes the machine code of drivers from the machine's disk: the next machine has the same processor.
fn keep(disk: &Path, code: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(code);
    fs::create_dir_all(code)?;
    let mut command = Command::new("tar");
    command.arg("-C").arg(code).arg("-xf").arg(disk).args(["--no-same-owner", "--wildcards", "./*.cwasm"]);
    build::run(&mut command, "keep the drivers' machine code")
}

/// What the machine's file system holds.
fn pack(root: &Path, folder: &Path, kernel: &Kernel, chosen: &suites::Chosen) -> Result<Archive> {
    let mut archive = Archive::default();
    for path in ["/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/sbin", "/usr/bin", "/usr/sbin", "/var/tmp", "/mnt"]
    {
        archive.add(path, Node::Directory);
    }
    archive.add("/dev/console", Node::Console);
    archive.add("/init", Node::Text(INIT.as_bytes().to_vec(), 0o755));
    archive.add(BUSYBOX, Node::File(PathBuf::from(BUSYBOX)));
    archive.add("/etc/passwd", Node::Text(b"root:x:0:0:root:/root:/bin/sh\n".to_vec(), 0o644));
    archive.add("/etc/group", Node::Text(b"root:x:0:\ntty:x:5:\n".to_vec(), 0o644));
    archive.add("/etc/hosts", Node::Text(b"127.0.0.1 localhost\n::1 localhost\n".to_vec(), 0o644));
    let mut order = String::new();
    for module in kernel.modules(&folder.join("modules"))? {
        let name = module.file_name().context("a module has a name")?.to_string_lossy().into_owned();
        archive.add(&format!("/modules/{name}"), Node::File(module));
        order += &format!("/modules/{name}\n");
    }
    archive.add("/modules/order", Node::Text(order.into_bytes(), 0o644));
    let stripped = folder.join("stripped");
    for program in chosen.suites.iter().map(|suite| &suite.program).chain(&chosen.programs) {
        for library in suites::libraries(program)? {
            archive.add(&library.to_string_lossy(), Node::File(library.clone()));
        }
        archive.add(&program.to_string_lossy(), Node::File(suites::strip(program, &stripped)?));
    }
    for suite in &chosen.suites {
        archive.add(&suite.folder.to_string_lossy(), Node::Directory);
    }
    for tree in &chosen.trees {
        archive.add_tree(tree)?;
    }
    for code in fs::read_dir(folder.join(CODE)).into_iter().flatten().flatten() {
        archive.add(&format!("/var/cache/drivers/{}", code.file_name().display()), Node::File(code.path()));
    }
    archive.add("/suites", Node::Text(chosen.suites.iter().map(Suite::line).collect::<String>().into_bytes(), 0o644));
    let settings = format!(
        "export SAMPAN_TEST_BIN={}\nPATIENCE={}\nWORDS='{}'\n",
        suites::programs_folder(root).display(),
        patience().as_secs() / 3,
        chosen.words.join(" ").replace('\'', "")
    );
    archive.add("/settings", Node::Text(settings.into_bytes(), 0o644));
    Ok(archive)
}

struct Machine {
    emulator: Child,
    started: Instant,
}

impl Machine {
    fn boot(kernel: &Kernel, image: &Path, disk: &Path) -> Result<Self> {
        // One processor's worth of host is enough for it; `max` has what drivers' machine code may use.
        let emulator = Command::new(EMULATOR)
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", PROCESSORS, "-m", MEMORY])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"])
            .args(["-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off"])
            .arg("-drive")
            .arg(format!("if=virtio,format=raw,cache=unsafe,file={}", disk.display()))
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(image)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {EMULATOR}"))?;
        Ok(Self { emulator, started: Instant::now() })
    }

    /// Shows the console until the machine is off.
    fn watch(mut self) -> Result<Outcome> {
        let console = self.emulator.stdout.take().context("the emulator has a console")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(console);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    break;
                }
            }
        });
        let deadline = self.started + patience();
        let mut outcome = Outcome::default();
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.hear(&mut outcome, &line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    println!("kernel: switched off after {} s", patience().as_secs());
                    self.emulator.kill()?;
                    break;
                }
            }
        }
        self.emulator.wait()?;
        Ok(outcome)
    }

    fn hear(&self, outcome: &mut Outcome, line: &str) {
        let Some(said) = line.strip_prefix(MARK) else {
            if outcome.read(line) {
                println!("kernel| {line}");
            }
            return;
        };
        let at = self.started.elapsed().as_secs_f32();
        match said.split(' ').collect::<Vec<_>>().as_slice() {
            ["up", rest @ ..] => println!("kernel: up after {at:.1} s, {}", rest.join(" ")),
            ["suite", name, "starts"] => println!("kernel: {name} starts at {at:.1} s"),
            ["suite", name, "ended", code] => {
                println!("kernel: {name} ended with {code} at {at:.1} s");
                outcome.ended.push(((*name).to_owned(), *code == "0"));
            }
            ["saved"] => outcome.saved = true,
            ["end"] => outcome.whole = true,
            _ => println!("kernel: {said} at {at:.1} s"),
        }
    }
}

fn patience() -> Duration {
    let set = std::env::var("SAMPAN_KERNEL_TIMEOUT").ok().and_then(|text| text.parse().ok());
    set.map_or(PATIENCE, Duration::from_secs)
}

/// What was heard from the machine.
#[derive(Default)]
struct Outcome {
    passed: u32,
    failed: u32,
    skipped: u32,
    /// Suites, and whether they ended well.
    ended: Vec<(String, bool)>,
    whole: bool,
    /// Whether drivers were compiled anew.
    saved: bool,
    /// Within the part that repeats what has passed.
    repeating: bool,
}

impl Outcome {
    /// Reads a line of the tests' own output; whether it is worth showing.
    fn read(&mut self, line: &str) -> bool {
        match line {
            "successes:" => self.repeating = true,
            "failures:" => self.repeating = false,
            _ => {}
        }
        if line.starts_with("skipped: ") {
            self.skipped += 1;
        }
        let Some(result) = line.strip_prefix("test result: ") else {
            let repeated = self.repeating && (line.starts_with("    ") || line == "successes:");
            return !repeated && !line.trim().is_empty();
        };
        self.repeating = false;
        let count = |word: &str| -> u32 {
            let mut parts = result.split([';', '.']).filter_map(|part| part.trim().strip_suffix(word));
            parts.find_map(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        self.passed += count("passed");
        self.failed += count("failed");
        true
    }

    /// The closing line. A test that found something missing counts as skipped, not as passed.
    fn line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed.saturating_sub(self.skipped), self.failed, self.skipped)
    }

    fn verdict(&self, suites: usize) -> Result<()> {
        let bad: Vec<&str> = self.ended.iter().filter(|(_, well)| !well).map(|(name, _)| name.as_str()).collect();
        ensure!(bad.is_empty(), "failed on this kernel: {}", bad.join(", "));
        ensure!(
            self.whole && self.ended.len() == suites,
            "the machine ended after {} of {suites} suites",
            self.ended.len()
        );
        ensure!(self.failed == 0, "{} tests failed on this kernel", self.failed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_and_skips_are_not_passes() {
        let mut outcome = Outcome::default();
        outcome.read("test a ... ok");
        outcome.read("skipped: b needs root");
        outcome.read("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.01s");
        outcome.read("test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s");
        assert_eq!(outcome.line(), "12 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_machine_that_stops_early_has_not_passed() {
        let mut outcome = Outcome { ended: vec![("one".to_owned(), true)], whole: true, ..Outcome::default() };
        assert!(outcome.verdict(1).is_ok());
        assert!(outcome.verdict(2).is_err());
        outcome.whole = false;
        assert!(outcome.verdict(1).is_err());
    }
}
