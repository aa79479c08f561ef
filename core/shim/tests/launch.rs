//! The shim on the real kernel: a bundle with busybox, and what a container does.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use sampan_shim_protocol::{
    CONTROL_FD, Connected, Connection, Event, ExecRequest, Message, OCI_CONFIG, Packet, Reply, Request, SHIM_CONFIG,
    SPOOL, Seccomp, ShimConfig, SpoolFrame, StartFailure,
};
use serde_json::{Value, json};

const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Whether the test can run here; says by name when it cannot.
fn able(test: &str) -> bool {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: {test} needs root");
        return false;
    }
    if !Path::new("/bin/busybox").exists() {
        println!("skipped: {test} needs /bin/busybox (package busybox-static)");
        return false;
    }
    true
}

struct Bundle {
    folder: tempfile::TempDir,
    cgroup: String,
    spec: Value,
    config: ShimConfig,
}

impl Bundle {
    fn new(name: &str, script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("rootfs");
        for directory in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for tool in [
            "sh", "cat", "id", "sleep", "mount", "unshare", "stty", "touch", "ls", "kill", "hostname", "grep", "dd",
            "seq", "pwd", "head", "ps",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(tool)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n").unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nweb:x:102:\n").unwrap();
        let cgroup = format!("/sampan-shim-test-{}-{name}", std::process::id());
        let spec = json!({
            "ociVersion": "1.2.0",
            "process": {
                "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/bin", "A=b"], "cwd": "/",
                "capabilities": {"bounding": DEFAULT_CAPABILITIES, "effective": DEFAULT_CAPABILITIES, "permitted": DEFAULT_CAPABILITIES, "inheritable": [], "ambient": []},
            },
            "root": {"path": root},
            "hostname": "box",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]},
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}, {"type": "cgroup"}],
                "cgroupsPath": cgroup,
                "resources": {"devices": []},
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
                "readonlyPaths": ["/proc/sys", "/proc/bus"],
            },
        });
        let config = ShimConfig {
            id: name.to_owned(),
            seccomp: Seccomp::Default,
            spool_limit: 64 << 20,
            ..ShimConfig::default()
        };
        Self { folder, cgroup, spec, config }
    }

    fn start(self) -> Running {
        let bundle = self.folder.path().to_owned();
        fs::write(bundle.join(OCI_CONFIG), serde_json::to_vec(&self.spec).unwrap()).unwrap();
        fs::write(bundle.join(SHIM_CONFIG), serde_json::to_vec(&self.config).unwrap()).unwrap();
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sampan-shim"));
        command.arg("--bundle").arg(&bundle);
        // SAFETY: dup2 is safe between fork and exec.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || {
                use std::os::fd::AsRawFd;
                let raw = theirs.as_raw_fd();
                if libc::dup2(raw, CONTROL_FD) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let shim = command.spawn().unwrap();
        drop(command);
        Running {
            bundle,
            cgroup: self.cgroup.clone(),
            shim,
            connection: Connection::new(ours),
            seq: 0,
            events: Vec::new(),
            _folder: self.folder,
        }
    }
}

struct Running {
    bundle: PathBuf,
    cgroup: String,
    shim: Child,
    connection: Connection,
    seq: u64,
    events: Vec<Event>,
    _folder: tempfile::TempDir,
}

impl Running {
    fn started(&mut self) -> Result<i32, StartFailure> {
        match self.event() {
            Event::Started { pid } => Ok(pid),
            Event::StartFailed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    fn event(&mut self) -> Event {
        if !self.events.is_empty() {
            return self.events.remove(0);
        }
        match self.connection.receive::<Message>().unwrap().expect("the shim is there").0 {
            Message::Event(event) => event,
            Message::Reply { .. } => panic!("a reply nobody asked for"),
        }
    }

    fn ask(&mut self, request: Request) -> (Reply, Vec<OwnedFd>) {
        self.seq += 1;
        self.connection.send(&Packet { seq: self.seq, request }, &[]).unwrap();
        loop {
            match self.connection.receive::<Message>().unwrap().expect("the shim is there") {
                (Message::Reply { seq, reply }, given) => {
                    assert_eq!(seq, self.seq);
                    return (reply, given);
                }
                (Message::Event(event), _) => self.events.push(event),
            }
        }
    }

    fn connect(&mut self) -> (Box<Connected>, Vec<OwnedFd>) {
        match self.ask(Request::Connect) {
            (Reply::Connected(connected), given) => (connected, given),
            other => panic!("{other:?}"),
        }
    }

    fn exit_code(&mut self) -> u8 {
        loop {
            if let Event::Exited(status) = self.event() {
                return status.code;
            }
        }
    }

    /// Runs to the end: exit code and both outputs.
    fn finish(mut self) -> (u8, String, String) {
        self.started().unwrap();
        let (_, given) = self.connect();
        let mut texts = given.into_iter().map(|reader| {
            let mut text = Vec::new();
            File::from(reader).read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        let (output, errors) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        let code = self.exit_code();
        (code, output, errors)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.seq += 1;
        let _ = self.connection.send(&Packet { seq: self.seq, request: Request::Kill { signal: 9, all: true } }, &[]);
        // It leaves only when the container has ended, which takes its time on a slow machine.
        let mut waited = 0;
        while self.shim.try_wait().unwrap().is_none() {
            if waited % 10 == 0 {
                let _ = self.connection.send(&Packet { seq: self.seq, request: Request::Shutdown }, &[]);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
            waited += 1;
            if waited == 2000 {
                self.shim.kill().unwrap();
            }
        }
        let cgroup = sampan_cgroup_path(&self.cgroup);
        if !std::thread::panicking() {
            assert!(waited < 2000, "the shim did not leave");
            assert!(!cgroup.exists(), "{} is left", cgroup.display());
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            assert!(!mounts.contains(self.bundle.to_str().unwrap()), "mounts are left");
        }
    }
}

fn sampan_cgroup_path(path: &str) -> PathBuf {
    let v1 = Path::new("/sys/fs/cgroup/pids");
    if v1.exists() {
        v1.join(path.trim_start_matches('/'))
    } else {
        Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'))
    }
}

fn run(name: &str, script: &str) -> (u8, String, String) {
    Bundle::new(name, script).start().finish()
}

#[test]
fn output_and_exit_codes_come_back() {
    if !able("output_and_exit_codes_come_back") {
        return;
    }
    assert_eq!(run("ok", "echo out; echo err >&2"), (0, "out\n".into(), "err\n".into()));
    assert_eq!(run("seven", "exit 7").0, 7);
    assert_eq!(run("killed", "sh -c 'kill -9 $$'; exit $?").0, 137);
}

#[test]
fn the_container_sees_only_its_own() {
    if !able("the_container_sees_only_its_own") {
        return;
    }
    let (code, output, errors) = run(
        "own",
        "hostname; echo $$ $A $HOME; pwd; ls /proc | grep -c '^[0-9]'; ls /proc/self/fd; grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status; mount | grep -c ' / '",
    );
    assert_eq!(code, 0, "{errors}");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..3], ["box", "1 b /root", "/"], "{output}");
    assert!(lines[3].parse::<u32>().unwrap() <= 4, "{output}");
    assert!(output.contains("CapEff:\t00000000a80425fb"), "{output}");
    assert!(output.contains("Seccomp:\t2"), "{output}");
    // 3 is ls's own view of the directory.
    assert!(!output.contains("\n4\n"), "{output}");
}

#[test]
fn what_is_forbidden_fails() {
    if !able("what_is_forbidden_fails") {
        return;
    }
    let script = "mount -t tmpfs none /tmp; unshare -n true; echo x > /proc/sys/kernel/hostname; cat /proc/kcore | head -c 1 | wc -c; head -c1 /proc/keys; echo 1 > /sys/kernel/x; echo done";
    let (_, output, errors) = run("forbidden", script);
    assert!(output.ends_with("done\n"), "{output}");
    for part in ["mount:", "unshare:", "/proc/sys/kernel/hostname", "/sys/kernel/x"] {
        assert!(errors.contains(part), "{part} is missing in {errors}");
    }
}

#[test]
fn only_allowed_devices_open_and_the_cgroup_is_its_own() {
    if !able("only_allowed_devices_open_and_the_cgroup_is_its_own") {
        return;
    }
    let script = "b=/bin/busybox; $b mknod /tmp/n c 1 3; $b mknod /tmp/mem c 1 1; $b mknod /tmp/disk b 8 0
        echo x > /tmp/n && echo null; head -c 1 /tmp/mem; head -c 1 /tmp/disk
        $b cat /proc/self/cgroup >&2; $b mkdir /sys/fs/cgroup/x; echo done";
    let (_, output, errors) = run("devices", script);
    assert_eq!(output, "null\ndone\n", "{errors}");
    if sampan_cgroup::Hierarchy::detect().unwrap().version() == sampan_cgroup::Version::V2 {
        assert!(errors.lines().any(|line| line == "0::/"), "{errors}");
    }
    for node in ["/tmp/mem", "/tmp/disk"] {
        assert!(errors.contains(&format!("{node}: Operation not permitted")), "{errors}");
    }
    assert!(errors.contains("/sys/fs/cgroup/x"), "{errors}");
}

#[test]
fn a_user_by_name_has_its_ids_and_no_capabilities() {
    if !able("a_user_by_name_has_its_ids_and_no_capabilities") {
        return;
    }
    let mut bundle =
        Bundle::new("user", "id -u; id -g; echo $HOME; pwd; grep CapEff /proc/self/status; echo x > /dev/stdout");
    bundle.config.user = "web".into();
    bundle.spec["process"]["cwd"] = json!("/made/here");
    let (code, output, errors) = bundle.start().finish();
    assert_eq!((code, output.as_str()), (0, "101\n102\n/srv\n/made/here\nCapEff:\t0000000000000000\nx\n"), "{errors}");
}

#[test]
fn failures_name_the_step_and_leave_nothing() {
    if !able("failures_name_the_step_and_leave_nothing") {
        return;
    }
    let failure = |change: &dyn Fn(&mut Bundle), name: &str| {
        let mut bundle = Bundle::new(name, "true");
        change(&mut bundle);
        let mut running = bundle.start();
        let failure = running.started().unwrap_err();
        running.shim.wait().unwrap();
        failure
    };
    let missing = failure(&|bundle| bundle.spec["process"]["args"] = json!(["nothere"]), "missing");
    assert_eq!(
        (missing.code, missing.to_string().as_str()),
        (127, "exec: \"nothere\": executable file not found in $PATH")
    );
    let denied = failure(&|bundle| bundle.spec["process"]["args"] = json!(["/etc/passwd"]), "denied");
    assert_eq!((denied.code, denied.to_string().as_str()), (126, "exec: \"/etc/passwd\": permission denied"));
    let user = failure(&|bundle| bundle.config.user = "nobody".into(), "nouser");
    assert!(user.cause.contains("unable to find user nobody"), "{user}");
    let mount = failure(
        &|bundle| {
            bundle.spec["mounts"]
                .as_array_mut()
                .unwrap()
                .push(json!({"destination": "/x", "type": "bind", "source": "/not/there", "options": ["rbind"]}))
        },
        "nomount",
    );
    assert!(mount.step.contains("mount /not/there at /x"), "{mount}");
}

#[test]
fn a_link_of_the_image_does_not_lead_a_mount_out() {
    if !able("a_link_of_the_image_does_not_lead_a_mount_out") {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::new("escape", "ls /data; cat /inner/file");
    let root = bundle.folder.path().join("rootfs");
    std::os::unix::fs::symlink(outside.path(), root.join("data")).unwrap();
    let source = bundle.folder.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    bundle.spec["mounts"].as_array_mut().unwrap().extend([
        json!({"destination": "/data/deep", "type": "bind", "source": source, "options": ["rbind", "rro"]}),
        json!({"destination": "/inner", "type": "bind", "source": source, "options": ["rbind"]}),
    ]);
    let (_, output, errors) = bundle.start().finish();
    assert!(output.ends_with("content"), "{output} {errors}");
    assert!(fs::read_dir(outside.path()).unwrap().next().is_none(), "something was made outside");
}

#[test]
fn a_terminal_has_a_size_and_takes_input() {
    if !able("a_terminal_has_a_size_and_takes_input") {
        return;
    }
    let mut bundle = Bundle::new("tty", "stty size; read line; echo got $line; read again; stty size");
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.config.open_stdin = true;
    bundle.config.size = Some((30, 100));
    let mut running = bundle.start();
    running.started().unwrap();
    let (connected, mut given) = running.connect();
    assert!(connected.terminal && connected.stdin);
    let mut input = File::from(given.pop().unwrap());
    let mut output = File::from(given.pop().unwrap());
    input.write_all(b"hello\n").unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 256];
    while !seen.contains("got hello") {
        let read = output.read(&mut buffer).unwrap();
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    assert!(seen.contains("30 100"), "{seen}");
    assert!(matches!(running.ask(Request::Resize { exec: None, rows: 10, columns: 20 }).0, Reply::Done));
    input.write_all(b"\n").unwrap();
    output.read_to_string(&mut seen).unwrap();
    assert!(seen.contains("10 20"), "{seen}");
    assert_eq!(running.exit_code(), 0);
}

#[test]
fn many_execs_at_once_each_return_their_own() {
    if !able("many_execs_at_once_each_return_their_own") {
        return;
    }
    let mut running = Bundle::new("exec", "sleep 60").start();
    running.started().unwrap();
    running.connect();
    let mut readers = Vec::new();
    for number in 0..20 {
        let process: oci_spec::runtime::Process = serde_json::from_value(json!({
            "terminal": false, "user": {"uid": 0, "gid": 0}, "cwd": "/tmp", "env": ["PATH=/bin"],
            "args": ["sh", "-c", format!("echo {number} $(id -u) $(hostname); exit {number}")],
            "capabilities": {"bounding": DEFAULT_CAPABILITIES, "effective": DEFAULT_CAPABILITIES, "permitted": DEFAULT_CAPABILITIES},
        })).unwrap();
        let request = ExecRequest {
            id: format!("e{number}"),
            process,
            user: "web".into(),
            groups: Vec::new(),
            stdin: false,
            size: None,
            privileged: false,
            detached: false,
        };
        let (reply, given) = running.ask(Request::Exec(Box::new(request)));
        assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
        readers.push(given);
    }
    for (number, given) in readers.into_iter().enumerate() {
        let mut text = String::new();
        File::from(given.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("{number} 101 box\n"));
    }
    let mut codes = Vec::new();
    while codes.len() < 20 {
        if let Event::ExecExited { id, code } = running.event() {
            assert_eq!(id, format!("e{code}"));
            codes.push(code);
        }
    }
    let process =
        serde_json::from_value(json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["nothere"]})).unwrap();
    let request = ExecRequest {
        id: "x".into(),
        process,
        user: String::new(),
        groups: Vec::new(),
        stdin: false,
        size: None,
        privileged: false,
        detached: false,
    };
    match running.ask(Request::Exec(Box::new(request))).0 {
        Reply::ExecFailed(failure) => assert_eq!(failure.code, 127),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_daemon_that_dies_finds_every_byte_once() {
    if !able("a_daemon_that_dies_finds_every_byte_once") {
        return;
    }
    let bundle = Bundle::new("spool", "seq 1 200000; echo end");
    let expected: Vec<u8> = (1..=200_000).flat_map(|n| format!("{n}\n").into_bytes()).chain(*b"end\n").collect();
    let mut running = bundle.start();
    running.started().unwrap();
    let mut seen = Vec::new();
    let (_, given) = running.connect();
    // Look at some bytes and acknowledge only a part: the rest must come again.
    let (aside_reader, aside_writer) = nix::unistd::pipe().unwrap();
    let looked =
        nix::fcntl::tee(given[0].as_fd(), aside_writer.as_fd(), 5000, nix::fcntl::SpliceFFlags::empty()).unwrap();
    let mut bytes = vec![0; looked];
    File::from(aside_reader).read_exact(&mut bytes).unwrap();
    seen.extend_from_slice(&bytes[..looked / 2]);
    assert!(matches!(
        running.ask(Request::Consumed { stream: 0, bytes: (looked / 2) as u64, next_time: 77 }).0,
        Reply::Done
    ));
    drop(given);
    // The daemon dies; the container ends meanwhile.
    let (lonely, _unused) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    running.connection = Connection::new(lonely);
    while !running.bundle.join("exit.json").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    running.connection = Connection::open(&running.bundle).unwrap();
    let (connected, given) = running.connect();
    assert_eq!(connected.exit.as_ref().unwrap().code, 0);
    assert_eq!((connected.next_time[0], connected.dropped), (77, 0));
    let spool = fs::read(running.bundle.join(SPOOL)).unwrap_or_default();
    let mut rest = &spool[..];
    while !rest.is_empty() {
        let head = SpoolFrame::decode(rest[..SpoolFrame::HEAD].try_into().unwrap());
        let end = SpoolFrame::HEAD + head.length as usize;
        seen.extend_from_slice(&rest[SpoolFrame::HEAD..end]);
        rest = &rest[end..];
    }
    File::from(given.into_iter().next().unwrap()).read_to_end(&mut seen).unwrap();
    assert_eq!(seen.len(), expected.len());
    assert!(seen == expected);
}

#[test]
fn limits_hold_and_running_out_of_memory_is_told() {
    if !able("limits_hold_and_running_out_of_memory_is_told") {
        return;
    }
    let mut bundle = Bundle::new("oom", "dd if=/dev/zero of=/dev/null bs=200M count=1");
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    let mut running = bundle.start();
    running.started().unwrap();
    loop {
        if let Event::Exited(status) = running.event() {
            assert!(status.oom, "{status:?}");
            break;
        }
    }
    drop(running);
    let mut bundle = Bundle::new("pids", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done; echo unlimited");
    bundle.spec["linux"]["resources"]["pids"] = json!({"limit": 5});
    let (_, output, errors) = bundle.start().finish();
    assert!(!output.contains("unlimited") && errors.contains("fork"), "{output} {errors}");
}

#[test]
fn a_killed_shim_takes_its_container_with_it() {
    if !able("a_killed_shim_takes_its_container_with_it") {
        return;
    }
    let mut running = Bundle::new("orphan", "sleep 300").start();
    let pid = running.started().unwrap();
    running.shim.kill().unwrap();
    running.shim.wait().unwrap();
    let mut tries = 0;
    while Path::new(&format!("/proc/{pid}/status")).exists()
        && !fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default().contains("Z (zombie)")
    {
        std::thread::sleep(std::time::Duration::from_millis(5));
        tries += 1;
        assert!(tries < 400, "process {pid} lives on");
    }
    let hierarchy = sampan_cgroup::Hierarchy::detect().unwrap();
    let cgroup = hierarchy.cgroup(&running.cgroup);
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();
}

#[test]
fn an_init_reaps_and_passes_signals_on() {
    if !able("an_init_reaps_and_passes_signals_on") {
        return;
    }
    let mut bundle =
        Bundle::new("init", "trap 'echo term; exit 3' TERM; (sleep 0.05 &) ; echo $$; while true; do sleep 0.05; done");
    bundle.config.init = true;
    let mut running = bundle.start();
    running.started().unwrap();
    let (_, given) = running.connect();
    let mut output = File::from(given.into_iter().next().unwrap());
    let mut buffer = [0; 16];
    let read = output.read(&mut buffer).unwrap();
    assert_ne!(&buffer[..read], b"1\n");
    assert!(matches!(running.ask(Request::Kill { signal: 15, all: false }).0, Reply::Done));
    assert_eq!(running.exit_code(), 3);
}
