//! Containers through the command line.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use sampan_tests::{Host, IMAGE};

#[test]
fn short_run_prints_and_returns_the_programs_status() {
    let Some(host) = Host::with_image("short_run_prints_and_returns_the_programs_status") else { return };
    let answer = host.run(&["run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((answer.code, answer.out.as_str(), answer.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(host.ok(&["ps", "-aq"]), "", "--rm leaves nothing");
    assert_eq!(host.run(&["run", "--rm", "--init", IMAGE, "sh", "-c", "kill -9 $$"]).code, 137);
}

#[test]
fn failures_have_dockers_statuses_and_one_clear_error() {
    let Some(host) = Host::with_image("failures_have_dockers_statuses_and_one_clear_error") else { return };
    let (code, error) = host.fails(&["run", "--rm", IMAGE, "no-such-program"]);
    assert_eq!(code, 127, "{error}");
    assert!(error.contains("no-such-program") && error.contains("not found"), "{error}");
    let (code, error) = host.fails(&["run", "--rm", IMAGE, "/etc/passwd"]);
    assert_eq!(code, 126, "{error}");
    let (code, error) = host.fails(&["run", "--no-such-flag", IMAGE]);
    assert_eq!((code, error.lines().next().unwrap()), (125, "unknown flag: --no-such-flag"));
    let (code, error) = host.fails(&["run", "--rm", "-p", "99999:80", IMAGE, "true"]);
    assert_eq!(code, 125, "{error}");
    let (code, error) = host.fails(&["run", "--rm", "--pull", "never", "no-such-image", "true"]);
    assert_eq!(code, 125, "{error}");
    assert!(error.contains("no-such-image"), "{error}");
    host.ok(&["create", "--name", "taken", IMAGE, "true"]);
    let (code, error) = host.fails(&["run", "--name", "taken", IMAGE, "true"]);
    assert_eq!(code, 125);
    assert!(error.contains("Conflict") && error.contains("/taken"), "{error}");
    assert!(host.fails(&["inspect", "nothing"]).1.to_lowercase().contains("no such object"));
    assert_eq!(host.ok(&["ps", "-a", "--format", "{{.Names}}"]), "taken", "what failed left nothing");
}

#[test]
fn isolation_is_dockers_by_default() {
    let Some(host) = Host::with_image("isolation_is_dockers_by_default") else { return };
    let inside = |script: &str| host.ok(&["run", "--rm", "--hostname", "box", IMAGE, "sh", "-c", script]);
    assert_eq!(inside("echo $$; hostname"), "1\nbox");
    assert!(inside("grep -i capbnd /proc/self/status").ends_with("00000000a80425fb"));
    assert!(inside("grep Seccomp: /proc/self/status").ends_with('2'));
    assert_eq!(inside("head -c1 /proc/timer_list 2>/dev/null | wc -c"), "0", "masked");
    assert_eq!(inside("echo x > /proc/sysrq-trigger || echo no").lines().last(), Some("no"));
    assert_eq!(inside("mount -t tmpfs none /tmp 2>/dev/null || echo no"), "no");
    assert_eq!(inside("ls /proc/self/fd"), "0\n1\n2\n3", "no descriptor but the three and the one that looks");
    assert_eq!(inside("cat /proc/1/comm; true"), "sh");
    let privileged =
        host.ok(&["run", "--rm", "--privileged", IMAGE, "sh", "-c", "mount -t tmpfs none /tmp && echo yes"]);
    assert_eq!(privileged, "yes");
}

#[test]
fn options_reach_the_program() {
    let Some(host) = Host::with_image("options_reach_the_program") else { return };
    let run = |options: &[&str], script: &str| {
        let mut words = vec!["run", "--rm"];
        words.extend(options);
        words.extend([IMAGE, "sh", "-c", script]);
        host.ok(&words)
    };
    assert_eq!(run(&["-e", "A=b", "--env", "C=d e"], "echo $A $C"), "b d e");
    assert_eq!(run(&["-w", "/var/new"], "pwd"), "/var/new");
    assert_eq!(run(&["-u", "web"], "id -u; id -g"), "101\n102");
    assert_eq!(run(&["-u", "5:6", "--group-add", "extra"], "id -u; id -g; id -G"), "5\n6\n6 103");
    assert_eq!(run(&["--read-only", "--tmpfs", "/tmp"], "touch /x 2>/dev/null || touch /tmp/x && echo tmp"), "tmp");
    assert_eq!(run(&["--add-host", "there:10.1.2.3"], "grep there /etc/hosts | cut -f1"), "10.1.2.3");
    assert_eq!(run(&["--ulimit", "nofile=100:200"], "ulimit -n"), "100");
    assert_eq!(
        run(&["--cap-drop", "ALL", "--cap-add", "CHOWN"], "grep CapEff /proc/self/status | cut -f2"),
        "0000000000000001"
    );
    assert_eq!(run(&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status | cut -f2"), "1");
    assert_eq!(run(&["--sysctl", "net.ipv4.ip_default_ttl=42"], "cat /proc/sys/net/ipv4/ip_default_ttl"), "42");
    assert_eq!(run(&["--init"], "cat /proc/1/comm; echo $$").lines().last(), Some("2"));
    assert_eq!(run(&["--entrypoint", "/bin/echo"], "x"), "sh -c x");
    assert_eq!(run(&["--shm-size", "16m"], "df -k /dev/shm | tail -1 | awk '{print $2}'"), "16384");
    assert_eq!(run(&["--network", "none"], "ls /sys/class/net"), "lo");
    assert_eq!(host.run_with_input(&["run", "--rm", "-i", IMAGE, "cat"], b"typed\n").out, "typed\n");
}

#[test]
fn limits_hold() {
    let Some(host) = Host::with_image("limits_hold") else { return };
    let answer = host.run(&[
        "run",
        "--name",
        "hungry",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        IMAGE,
        "sh",
        "-c",
        "x=$(head -c 64m /dev/zero | tr '\\0' x); echo $?",
    ]);
    assert_ne!(answer.code, 0, "{}{}", answer.out, answer.err);
    assert_eq!(host.inspect("hungry")["State"]["OOMKilled"], true);
    let forks = host.run(&[
        "run",
        "--rm",
        "--pids-limit",
        "5",
        IMAGE,
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait",
    ]);
    assert!(forks.err.contains("fork"), "{}", forks.err);
    host.ok(&["run", "-d", "--name", "slim", "--cpus", "0.5", "-m", "32m", IMAGE, "sleep", "1000"]);
    host.ok(&["update", "-m", "64m", "--memory-swap", "64m", "slim"]);
    assert_eq!(host.inspect("slim")["HostConfig"]["Memory"], 64 << 20);
    let stats = host.ok(&["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", "slim"]);
    assert!(stats.starts_with("slim ") && stats.ends_with("/ 64MiB"), "{stats}");
}

#[test]
fn a_life_from_create_to_removal() {
    let Some(host) = Host::with_image("a_life_from_create_to_removal") else { return };
    let id = host.ok(&[
        "create",
        "--name",
        "one",
        "--label",
        "a=b",
        IMAGE,
        "sh",
        "-c",
        "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done",
    ]);
    assert_eq!(id.len(), 64);
    assert_eq!(host.ok(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]), "one Created");
    host.ok(&["start", "one"]);
    assert!(host.ok(&["ps", "--format", "{{.Names}} {{.Status}}"]).starts_with("one Up "));
    host.wait_until("it says that it is up", || host.ok(&["logs", "one"]) == "up");
    host.ok(&["pause", "one"]);
    assert!(host.ok(&["ps", "--format", "{{.Status}}"]).contains("(Paused)"));
    host.ok(&["unpause", "one"]);
    host.ok(&["rename", "one", "two"]);
    assert!(host.ok(&["top", "two"]).contains("sleep"));
    assert_eq!(host.ok(&["exec", "-e", "X=y", "two", "sh", "-c", "echo $X; hostname | wc -c"]), "y\n13");
    assert_eq!(host.run(&["exec", "two", "sh", "-c", "exit 9"]).code, 9);
    assert_eq!(host.run(&["exec", "two", "nothing"]).code, 127);
    let (_, error) = host.fails(&["rm", "two"]);
    assert!(error.contains("running"), "{error}");
    host.ok(&["stop", "-t", "20", "two"]);
    assert_eq!(host.inspect("two")["State"]["ExitCode"], 3);
    host.ok(&["restart", "-t", "0", "two"]);
    assert_eq!(host.inspect("two")["State"]["Running"], true);
    host.ok(&["kill", "two"]);
    assert_eq!(host.ok(&["wait", "two"]), "137");
    assert_eq!(host.ok(&["logs", "two"]).lines().filter(|line| *line == "up").count(), 2);
    assert!(host.ok(&["ps", "-a", "--filter", "label=a=b", "--format", "{{.Status}}"]).starts_with("Exited (137) "));
    host.ok(&["rm", "two"]);
    assert_eq!(host.ok(&["ps", "-aq"]), "");
}

#[test]
fn restart_policies_start_what_fails() {
    let Some(host) = Host::with_image("restart_policies_start_what_fails") else { return };
    host.ok(&["run", "-d", "--name", "tries", "--restart", "on-failure:2", IMAGE, "sh", "-c", "echo try; exit 1"]);
    host.wait_until("it has tried three times and given up", || {
        host.ok(&["logs", "tries"]).lines().count() == 3 && host.inspect("tries")["State"]["Status"] == "exited"
    });
    assert_eq!(host.inspect("tries")["RestartCount"], 2);
    host.ok(&["run", "-d", "--name", "stays", "--restart", "always", IMAGE, "sleep", "1000"]);
    let pid = host.inspect("stays")["State"]["Pid"].as_i64().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    host.wait_until("it runs again", || {
        let state = &host.inspect("stays")["State"];
        state["Running"] == true && state["Pid"].as_i64() != Some(pid)
    });
    host.ok(&["stop", "-t", "0", "stays"]);
    assert_eq!(host.inspect("stays")["State"]["Status"], "exited", "stopped by hand stays so");
}

#[test]
fn health_is_probed_early_and_told() {
    let Some(host) = Host::with_image("health_is_probed_early_and_told") else { return };
    host.ok(&[
        "run",
        "-d",
        "--name",
        "sick",
        "--health-cmd",
        "test -e /tmp/well",
        "--health-interval",
        "100ms",
        "--health-retries",
        "2",
        IMAGE,
        "sleep",
        "1000",
    ]);
    host.wait_until("it is unhealthy", || host.inspect("sick")["State"]["Health"]["Status"] == "unhealthy");
    host.ok(&["exec", "sick", "touch", "/tmp/well"]);
    host.wait_until("it is healthy", || host.inspect("sick")["State"]["Health"]["Status"] == "healthy");
    assert!(host.ok(&["ps", "--format", "{{.Status}}"]).contains("(healthy)"));
}

#[test]
fn files_go_in_and_out() {
    let Some(host) = Host::with_image("files_go_in_and_out") else { return };
    host.ok(&["run", "-d", "--name", "box", IMAGE, "sleep", "1000"]);
    let file = host.write("in.txt", "hello");
    host.ok(&["cp", file.to_str().unwrap(), "box:/var/in.txt"]);
    assert_eq!(host.ok(&["exec", "box", "cat", "/var/in.txt"]), "hello");
    host.ok(&["exec", "box", "sh", "-c", "mkdir -p /var/d && echo a > /var/d/a && ln -s /etc /var/d/link"]);
    host.ok(&["cp", "box:/var/d", host.path("out").to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(host.path("out/a")).unwrap(), "a\n");
    assert!(host.path("out/link").is_symlink());
    let changes = host.ok(&["diff", "box"]);
    assert!(
        changes.lines().any(|line| line == "A /var/d/a") && changes.lines().any(|line| line == "C /var"),
        "{changes}"
    );
    let (_, error) = host.fails(&["cp", "box:/nothing", "."]);
    assert!(error.contains("/nothing"), "{error}");
}

#[test]
fn a_thousand_short_lives_leave_nothing() {
    let Some(host) = Host::with_image("a_thousand_short_lives_leave_nothing") else { return };
    let count = |path: String| std::fs::read_dir(path).map_or(0, Iterator::count);
    let descriptors = || count(format!("/proc/{}/fd", host.pid()));
    host.ok(&["run", "--rm", IMAGE, "true"]);
    // The kernel takes a link away some time after the namespace at its other end.
    host.wait_until("only the loopback and the bridge are there", || host.links().len() == 2);
    let (links, before) = (host.links(), descriptors());
    for _ in 0..100 {
        assert_eq!(host.run(&["run", "--rm", IMAGE, "sh", "-c", "exit 5"]).code, 5);
    }
    host.wait_until("descriptors and links are back", || descriptors() <= before + 4 && host.links() == links);
}

#[test]
fn a_container_lies_in_the_cgroup_that_is_asked_for_and_leaves_nothing_there() {
    let test = "a_container_lies_in_the_cgroup_that_is_asked_for_and_leaves_nothing_there";
    let Some(host) = Host::with_image(test) else { return };
    let top = format!("/sampan-{}-other", host.instance());
    let places = [
        ("ci/jobs".to_owned(), format!("/sampan-{}/ci/jobs", host.instance())),
        (format!("{top}/a"), format!("{top}/a")),
    ];
    let roots = || std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    for (asked, lies) in places {
        let name = asked.replace('/', "_").trim_start_matches('_').to_owned();
        host.ok(&[
            "run",
            "-d",
            "--init",
            "--name",
            &name,
            "--cgroup-parent",
            &asked,
            "-m",
            "64m",
            IMAGE,
            "sleep",
            "infinity",
        ]);
        let found = host.inspect(&name);
        let (pid, id) = (found["State"]["Pid"].as_i64().unwrap(), found["Id"].as_str().unwrap().to_owned());
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(cgroups.contains(&format!("{lies}/{id}")), "{lies}: {cgroups}");
        assert!(host.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", &name]).contains("64MiB"));
        host.ok(&["pause", &name]);
        host.ok(&["unpause", &name]);
        host.ok(&["rm", "-f", &name]);
        let relative = lies.trim_start_matches('/');
        let left: Vec<_> = roots()
            .chain(["/sys/fs/cgroup".into()])
            .map(|root| root.join(relative))
            .filter(|path| path.exists())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let (_, error) = host.fails(&["create", "--cgroup-parent", "a/../b", IMAGE]);
    assert!(error.contains("invalid cgroup parent"), "{error}");
}

#[test]
fn swappiness_and_waiting_for_memory_are_version_1s_and_warned_of_otherwise() {
    let test = "swappiness_and_waiting_for_memory_are_version_1s_and_warned_of_otherwise";
    let Some(host) = Host::with_image(test) else { return };
    let words = [
        "create",
        "--name",
        "swaps",
        "-m",
        "64m",
        "--memory-swappiness",
        "10",
        "--oom-kill-disable",
        IMAGE,
        "sleep",
        "infinity",
    ];
    let made = host.run(&words);
    assert_eq!(made.code, 0, "{}", made.err);
    if !std::path::Path::new("/sys/fs/cgroup/memory/memory.swappiness").exists() {
        assert!(
            made.err.contains("Memory swappiness discarded.") && made.err.contains("OomKillDisable discarded."),
            "{}",
            made.err
        );
        return;
    }
    assert_eq!(made.err, "");
    host.ok(&["start", "swaps"]);
    let id = host.inspect("swaps")["Id"].as_str().unwrap().to_owned();
    let read = |file: &str| {
        let path = format!("/sys/fs/cgroup/memory/sampan-{}/{id}/memory.{file}", host.instance());
        std::fs::read_to_string(path).unwrap()
    };
    assert_eq!(read("swappiness").trim(), "10");
    assert!(read("oom_control").contains("oom_kill_disable 1"));
}

#[test]
fn devices_come_by_the_names_of_their_vendors() {
    let test = "devices_come_by_the_names_of_their_vendors";
    let own = tempfile::tempdir().unwrap();
    let specifications = own.path().join("cdi");
    std::fs::create_dir(&specifications).unwrap();
    let config = own.path().join("daemon.json");
    std::fs::write(&config, serde_json::json!({ "cdi-spec-dirs": [specifications] }).to_string()).unwrap();
    let Some(host) = Host::start_with(test, &["--config-file", config.to_str().unwrap()]) else { return };
    host.import_busybox();
    let shared = host.write("shared/library", "of the vendor");
    let log = host.write("log/program", "").parent().unwrap().to_owned();
    std::fs::set_permissions(log.join("program"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    // As vendors' programs do, it finds the root by the configuration that the state names.
    let hook = r#"#!/bin/sh
bundle=$(sed 's/.*"bundle":"\([^"]*\)".*/\1/')
root=$(sed -n 's/.*"root":{"path":"\([^"]*\)".*/\1/p' "$bundle/config.json")
echo "$WHO" > "$root/by-hook"
"#;
    let hook = host.write("log/hook", hook);
    std::fs::set_permissions(hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let specification = format!(
        "cdiVersion: 0.6.0
kind: nvidia.com/gpu
devices:
  - name: '0'
    containerEdits:
      deviceNodes: [{{path: /dev/gpu0, hostPath: /dev/null, fileMode: 0600}}]
      env: [GPU=zero]
  - name: hooked
    containerEdits:
      hooks:
        - {{hookName: createRuntime, path: /bin/sh, args: [sh, -c, 'cat > {log}/runtime']}}
        - {{hookName: createContainer, path: {log}/hook, env: [WHO=vendor]}}
        - {{hookName: startContainer, path: /bin/busybox, args: [sh, -c, '/bin/busybox grep CapEff /proc/self/status >> /by-hook']}}
        - {{hookName: poststop, path: /bin/sh, args: [sh, -c, 'cat > {log}/stopped']}}
  - name: failing
    containerEdits: {{hooks: [{{hookName: createContainer, path: /bin/sh, args: [sh, -c, 'echo no such card >&2; exit 3']}}]}}
  - name: slow
    containerEdits: {{hooks: [{{hookName: createRuntime, path: /bin/sleep, args: [sleep, '1000'], timeout: 1}}]}}
  - name: not-roots
    containerEdits: {{hooks: [{{hookName: createRuntime, path: {log}/program}}]}}
containerEdits:
  mounts: [{{hostPath: {}, containerPath: /opt/gpu, options: [ro, nosuid, rbind]}}]
",
        shared.parent().unwrap().display(),
        log = log.display(),
    );
    let (code, error) = host.fails(&["run", "--rm", "--gpus", "all", IMAGE, "true"]);
    assert!(error.contains("could not select device driver \"\" with capabilities: [[gpu]]"), "{error}");
    assert_eq!(code, 125);
    // Drivers write them while the daemon runs.
    std::fs::write(specifications.join("gpu.yaml"), specification).unwrap();
    let look = "stat -c %a,%t,%T /dev/gpu0; echo x > /dev/gpu0 && cat /opt/gpu/library; touch /opt/gpu/x 2>/dev/null || echo ' read-only'";
    let shown = "600,1,3\nof the vendor read-only";
    for [flag, device] in [["--gpus", "1"], ["--gpus", "\"device=0\""], ["--device", "nvidia.com/gpu=0"]] {
        assert_eq!(host.ok(&["run", "--rm", flag, device, IMAGE, "sh", "-c", look]), shown, "{flag} {device}");
        assert_eq!(host.ok(&["run", "--rm", flag, device, "-e", "GPU=none", IMAGE, "sh", "-c", "echo $GPU"]), "zero");
    }
    // Programs of the vendor run on the host before the container changes its root, inside of it, and when it is gone.
    let rights = "cat /by-hook; /bin/busybox grep CapEff /proc/self/status";
    let said = host.ok(&["run", "--name", "hooked", "--device", "nvidia.com/gpu=hooked", IMAGE, "sh", "-c", rights]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "vendor");
    assert_eq!(
        lines[1..2],
        lines[2..],
        "inside, where the image says what runs, it has no more rights than the program"
    );
    let state = |name: &str| std::fs::read_to_string(log.join(name)).unwrap_or_default();
    host.wait_until("the last program has run", || state("stopped").contains("\"status\":\"stopped\""));
    let first: serde_json::Value = serde_json::from_str(&state("runtime")).unwrap();
    assert_eq!(
        (&first["status"], first["id"].as_str()),
        (&"creating".into(), Some(host.ok(&["inspect", "-f", "{{.Id}}", "hooked"]).as_str()))
    );
    host.ok(&["rm", "hooked"]);
    for (name, part) in [
        ("gpu=7", "unresolvable CDI devices nvidia.com/gpu=7"),
        ("gpu=failing", "run the createContainer hook /bin/sh: exit status: 3: no such card"),
        ("gpu=slow", "run the createRuntime hook /bin/sleep: it did not end in 1 s"),
        ("gpu=not-roots", "others than root can write the hook"),
    ] {
        let (_, error) = host.fails(&["run", "--rm", "--device", &format!("nvidia.com/{name}"), IMAGE, "true"]);
        assert!(error.contains(part), "{error}");
    }
    let compose = format!(
        "name: demo
services:
  one: {{image: {IMAGE}, init: true, command: [sleep, infinity], gpus: [{{count: 1}}]}}
  two:
    image: {IMAGE}
    init: true
    command: [sleep, infinity]
    deploy: {{resources: {{reservations: {{devices: [{{capabilities: [gpu], device_ids: ['0']}}]}}}}}}
  three: {{image: {IMAGE}, init: true, command: [sleep, infinity], devices: ['nvidia.com/gpu=0']}}
"
    );
    let file = host.write("stack/compose.yaml", compose);
    host.ok_in(file.parent().unwrap(), &["up", "-d"]);
    for service in ["one", "two", "three"] {
        assert_eq!(host.ok(&["exec", &format!("demo-{service}-1"), "sh", "-c", look]), shown, "{service}");
    }
    assert_eq!(host.api("GET", "/info", None).1["CDISpecDirs"][0], specifications.to_str().unwrap());

    // Steps of builds have them, when whoever builds allows it.
    let text = format!(
        "FROM {IMAGE}\nRUN --device=nvidia.com/gpu=0 --device=nvidia.com/gpu=7 echo $GPU > /seen; stat -c %a,%t,%T /dev/gpu0 >> /seen; cat /opt/gpu/library >> /seen\n"
    );
    let folder = host.context(&[("Dockerfile", &text)]);
    let (_, error) = host.fails(&["build", &folder]);
    assert!(error.contains("Dockerfile:2") && error.contains("build with --allow device=nvidia.com/gpu=0"), "{error}");
    let built = host.run(&["build", "-t", "seen", "--allow", "device=nvidia.com/gpu", &folder]);
    assert!(built.code == 0 && built.err.contains("[Warning] RUN --device=nvidia.com/gpu=7"), "{}", built.err);
    assert_eq!(host.ok(&["run", "--rm", "seen", "cat", "/seen"]), "zero\n600,1,3\nof the vendor");
    assert_eq!(host.run(&["run", "--rm", "seen", "find", "/opt", "/dev/gpu0"]).out, "", "nothing of the device stays");
}
