//! Containers on the real kernel, with the real drivers and the real shim: run, stopped, restarted, adopted, removed; and
//! nothing left of them. Each test has a data root and a network namespace of its own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::future::Future;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bollard_stubs::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum as State, ContainerUpdateBody,
    HealthConfig, HostConfig, RestartPolicy, RestartPolicyNameEnum,
};
use sampan_engine::containers::{ListOptions, LogOptions, RemoveOptions, WaitCondition};
use sampan_engine::images::{ImportOptions, ImportSource};
use sampan_engine::{Engine, EngineConfig, ErrorKind, Filters};

const IMAGE: &str = "busybox:test";

/// A data root that must be empty of everything in the kernel when it goes.
struct Root {
    folder: tempfile::TempDir,
    config: EngineConfig,
}

fn programs() -> PathBuf {
    std::env::var_os("SAMPAN_TEST_BIN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug"), PathBuf::from)
}

impl Root {
    /// `None`, said, where the test cannot run.
    fn new(test: &str) -> Option<Self> {
        let drivers = std::env::var_os("SAMPAN_DRIVERS").map_or_else(|| programs().join("drivers"), PathBuf::from);
        let shim = programs().join("sampan-shim");
        let busybox = Path::new("/bin/busybox");
        for (needed, there) in [
            ("root", nix::unistd::geteuid().is_root()),
            (
                "drivers and shim (cargo xtask build --debug)",
                drivers.join("storage-overlay.wasm").exists() && shim.exists(),
            ),
            ("/bin/busybox (package busybox-static)", busybox.exists()),
        ] {
            if !there {
                println!("skipped: {test} needs {needed}");
                return None;
            }
        }
        let folder = tempfile::Builder::new().prefix("sampan-engine-").tempdir().unwrap();
        let (root, run) = (folder.path().join("root"), folder.path().join("run"));
        Some(Self { folder, config: EngineConfig::new(root, run, drivers, shim) })
    }

    /// Runs a part of a test as one daemon would; what it leaves running goes on, as after `kill -9`.
    fn daemon<T>(&self, work: impl AsyncFnOnce(Engine) -> T) -> T {
        // Threads of the runtime are born into this thread's network namespace.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let value = runtime.block_on(async {
            let engine = Engine::open(self.config.clone()).await.unwrap();
            work(engine).await
        });
        runtime.shutdown_timeout(Duration::from_secs(5));
        value
    }

    fn mounts(&self) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let below = self.folder.path().to_string_lossy().into_owned();
        mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|at| at.starts_with(&below))
            .map(Into::into)
            .collect()
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let instance = fs::read_to_string(self.config.root.join("instance")).unwrap_or_default();
        let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
        roots.extend(fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path()));
        let parents = roots.into_iter().map(|root| root.join(format!("sampan-{instance}")));
        parents
            .flat_map(|parent| fs::read_dir(parent).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect()
    }

    fn assert_clean(&self) {
        // The last step after an end is not waited for by anybody.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let bundles: Vec<_> =
                fs::read_dir(self.config.run.join("c")).unwrap().flatten().map(|e| e.path()).collect();
            let left = (self.mounts(), self.cgroups(), bundles);
            if left == (Vec::new(), Vec::new(), Vec::new()) {
                return;
            }
            assert!(Instant::now() < deadline, "left over: {left:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Runs a test on a thread of its own in a network namespace of its own.
fn apart(test: &'static str, work: impl FnOnce(&Root) + Send + 'static) {
    std::thread::spawn(move || {
        let Some(root) = Root::new(test) else { return };
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let up = std::process::Command::new("/bin/busybox").args(["ip", "link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        work(&root);
        root.daemon(async |engine| engine.shutdown().await);
        root.assert_clean();
    })
    .join()
    .unwrap();
}

fn busybox() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, mode: u32, content: &[u8], link: Option<&str>| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        if let Some(link) = link {
            header.set_link_name(link).unwrap();
        }
        tar.append_data(&mut header, path, content).unwrap();
    };
    for folder in ["bin", "etc", "tmp", "data"] {
        add(folder, tar::EntryType::Directory, 0o755, b"", None);
    }
    add("bin/busybox", tar::EntryType::Regular, 0o755, &fs::read("/bin/busybox").unwrap(), None);
    for name in ["sh", "true", "sleep", "cat", "echo", "ls", "test", "id", "hostname", "env", "wget", "mount"] {
        add(&format!("bin/{name}"), tar::EntryType::Symlink, 0o777, b"", Some("busybox"));
    }
    add("etc/passwd", tar::EntryType::Regular, 0o644, b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/tmp:/bin/sh\n", None);
    add("data/from-image", tar::EntryType::Regular, 0o644, b"image", None);
    tar.into_inner().unwrap()
}

async fn import(engine: &Engine) {
    let options = ImportOptions {
        repo: Some("busybox".into()),
        tag: Some("test".into()),
        changes: vec!["CMD [\"sh\"]".into(), "ENV FROM_IMAGE=yes".into()],
        ..ImportOptions::default()
    };
    let mut messages =
        engine.import_image(ImportSource::Upload(Box::pin(Cursor::new(busybox()))), options).await.unwrap();
    while let Some(message) = messages.recv().await {
        assert_eq!(message.error_detail, None);
    }
    engine.inspect_image(IMAGE).await.unwrap();
}

fn shell(script: &str) -> ContainerCreateBody {
    body(&["sh", "-c", script])
}

fn body(command: &[&str]) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(IMAGE.into()),
        cmd: Some(command.iter().map(|word| (*word).to_owned()).collect()),
        host_config: Some(HostConfig { network_mode: Some("none".into()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    }
}

fn with(mut body: ContainerCreateBody, change: impl FnOnce(&mut HostConfig)) -> ContainerCreateBody {
    change(body.host_config.get_or_insert_default());
    body
}

async fn start(engine: &Engine, name: &str, body: ContainerCreateBody) -> String {
    let id = engine.create(Some(name), body, None).await.unwrap().id;
    engine.start(&id).await.unwrap();
    id
}

/// Creates, starts and waits: the exit code.
async fn run(engine: &Engine, name: &str, body: ContainerCreateBody) -> i64 {
    let id = engine.create(Some(name), body, None).await.unwrap().id;
    let waiting = engine.wait(&id, WaitCondition::NextExit).await.unwrap();
    engine.start(&id).await.unwrap();
    within(waiting).await.unwrap().code
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("it took longer than a minute")
}

async fn inspect(engine: &Engine, id: &str) -> ContainerInspectResponse {
    engine.inspect_container(id, false).await.unwrap()
}

async fn status(engine: &Engine, id: &str) -> State {
    inspect(engine, id).await.state.unwrap().status.unwrap()
}

async fn until(what: &str, mut test: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !test().await {
        assert!(Instant::now() < deadline, "it did not come to this: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn logs(engine: &Engine, id: &str) -> String {
    let options = LogOptions { stdout: true, stderr: true, ..LogOptions::default() };
    let mut logs = engine.logs(id, options).await.unwrap();
    let mut text = String::new();
    while let Some(record) = logs.records.recv().await {
        text.push_str(&String::from_utf8_lossy(&record.bytes));
    }
    text
}

const FORCE: RemoveOptions = RemoveOptions { force: true, volumes: true, link: false };

#[test]
fn a_container_runs_is_logged_and_goes() {
    apart("a_container_runs_is_logged_and_goes", |root| {
        root.daemon(async |engine| {
            import(&engine).await;
            let script = "echo $FROM_IMAGE $HOSTNAME; id -u; hostname; cat /etc/hostname; exit 3";
            let mut wanted = shell(script);
            wanted.hostname = Some("ship".into());
            wanted.user = Some("web".into());
            assert_eq!(run(&engine, "one", wanted).await, 3);
            assert_eq!(logs(&engine, "one").await, "yes ship\n33\nship\nship\n");
            let found = inspect(&engine, "one").await;
            let state = found.state.unwrap();
            assert_eq!((state.status, state.exit_code, state.pid), (Some(State::EXITED), Some(3), Some(0)));
            assert_eq!(found.name.as_deref(), Some("/one"));
            root.assert_clean();
            let again = engine.create(Some("one"), shell("true"), None).await.unwrap_err();
            assert_eq!(again.kind, ErrorKind::Conflict);
            assert!(again.message.starts_with("Conflict. The container name \"/one\" is already in use by container"));
            engine.remove("one", RemoveOptions::default()).await.unwrap();
            let gone = engine.inspect_container("one", false).await.unwrap_err();
            assert_eq!((gone.kind, gone.message.as_str()), (ErrorKind::NotFound, "No such container: one"));
        });
    });
}

#[test]
fn what_cannot_start_leaves_nothing_and_says_why() {
    apart("what_cannot_start_leaves_nothing_and_says_why", |root| {
        root.daemon(async |engine| {
            import(&engine).await;
            for (name, wanted, code, told) in [
                (
                    "missing",
                    body(&["no-such-program"]),
                    127,
                    "exec: \"no-such-program\": executable file not found in $PATH",
                ),
                ("folder", body(&["/etc"]), 126, "permission denied"),
                (
                    "user",
                    ContainerCreateBody { user: Some("nobody9".into()), ..shell("true") },
                    126,
                    "unable to find user nobody9",
                ),
                (
                    "log",
                    with(shell("true"), |host| {
                        host.devices = Some(vec![bollard_stubs::models::DeviceMapping {
                            path_on_host: Some("/dev/no-such".into()),
                            ..Default::default()
                        }])
                    }),
                    128,
                    "error gathering device information",
                ),
            ] {
                engine.create(Some(name), wanted, None).await.unwrap();
                let error = engine.start(name).await.unwrap_err();
                assert!(error.message.contains(told), "{name}: {error}");
                let state = inspect(&engine, name).await.state.unwrap();
                assert_eq!((state.status, state.exit_code), (Some(State::CREATED), Some(code)), "{name}: {error}");
                assert!(state.error.unwrap().contains(told));
                root.assert_clean();
            }
            assert!(engine.create(None, with(shell("x"), |host| host.memory = Some(1)), None).await.is_err());
            let wrong = with(shell("x"), |host| {
                host.log_config =
                    Some(bollard_stubs::models::HostConfigLogConfig { typ: Some("paper".into()), config: None });
            });
            let error = engine.create(None, wrong, None).await.unwrap_err();
            assert!(error.message.starts_with("logger: no log driver named 'paper' is registered"), "{error}");
        });
    });
}

#[test]
fn stop_kill_pause_and_restart_do_what_they_say() {
    apart("stop_kill_pause_and_restart_do_what_they_say", |root| {
        root.daemon(async |engine| {
            import(&engine).await;
            let polite = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.02; done";
            let ready = async |times: usize| {
                until("it listens to signals", async || logs(&engine, "polite").await.lines().count() == times).await;
            };
            start(&engine, "polite", shell(polite)).await;
            ready(1).await;
            assert_eq!(engine.start("polite").await.unwrap_err().kind, ErrorKind::NotModified);
            let refused = engine.remove("polite", RemoveOptions::default()).await.unwrap_err();
            assert_eq!(
                refused.message,
                "cannot remove container \"/polite\": container is running: stop the container before removing or force remove"
            );
            engine.pause("polite").await.unwrap();
            assert_eq!(status(&engine, "polite").await, State::PAUSED);
            assert_eq!(engine.pause("polite").await.unwrap_err().kind, ErrorKind::Conflict);
            engine.unpause("polite").await.unwrap();
            engine.restart("polite", None, Some(10)).await.unwrap();
            assert_eq!(status(&engine, "polite").await, State::RUNNING);
            ready(2).await;
            engine.pause("polite").await.unwrap();
            engine.stop("polite", None, Some(10)).await.unwrap();
            assert_eq!(inspect(&engine, "polite").await.state.unwrap().exit_code, Some(5));
            assert_eq!(engine.stop("polite", None, None).await.unwrap_err().kind, ErrorKind::NotModified);
            let not_running = engine.kill("polite", None).await.unwrap_err();
            assert!(not_running.message.starts_with("cannot kill container: polite: container "), "{not_running}");

            start(&engine, "deaf", shell("trap '' TERM; while :; do sleep 0.02; done")).await;
            engine.stop("deaf", None, Some(0)).await.unwrap();
            assert_eq!(inspect(&engine, "deaf").await.state.unwrap().exit_code, Some(137));
            engine.start("deaf").await.unwrap();
            engine.rename("deaf", "renamed").await.unwrap();
            engine.kill("renamed", Some("KILL")).await.unwrap();
            until("it is killed", async || status(&engine, "renamed").await == State::EXITED).await;
            root.assert_clean();
        });
    });
}

#[test]
fn restart_policies_start_again_and_stop_at_a_word() {
    apart("restart_policies_start_again_and_stop_at_a_word", |root| {
        let policy = |name, count| Some(RestartPolicy { name: Some(name), maximum_retry_count: count });
        root.daemon(async |engine| {
            import(&engine).await;
            let failing = with(shell("exit 1"), |host| {
                host.restart_policy = policy(RestartPolicyNameEnum::ON_FAILURE, Some(2));
            });
            start(&engine, "failing", failing).await;
            until("it gives up", async || {
                let found = inspect(&engine, "failing").await;
                found.restart_count == Some(2) && found.state.unwrap().status == Some(State::EXITED)
            })
            .await;
            let always = with(shell("sleep 0.05"), |host| {
                host.restart_policy = policy(RestartPolicyNameEnum::ALWAYS, None);
            });
            let again = async |name: &str| {
                start(&engine, name, always.clone()).await;
                until("it is started again", async || inspect(&engine, name).await.restart_count >= Some(2)).await;
            };
            again("always").await;
            engine.stop("always", None, Some(0)).await.unwrap();
            let ended = inspect(&engine, "always").await.restart_count;
            // By then it would have been started, too.
            again("beside").await;
            engine.remove("beside", FORCE).await.unwrap();
            assert_eq!(inspect(&engine, "always").await.restart_count, ended);
            assert_eq!(status(&engine, "always").await, State::EXITED);
            root.assert_clean();
            let own = with(shell("exit 0"), |host| host.auto_remove = Some(true));
            let id = engine.create(Some("own"), own, None).await.unwrap().id;
            let removed = engine.wait(&id, WaitCondition::Removed).await.unwrap();
            engine.start(&id).await.unwrap();
            assert_eq!(within(removed).await.unwrap().code, 0);
            assert_eq!(engine.inspect_container(&id, false).await.unwrap_err().kind, ErrorKind::NotFound);
        });
    });
}

#[test]
fn a_daemon_that_dies_leaves_containers_alone_and_the_next_one_adopts_them() {
    apart("a_daemon_that_dies_leaves_containers_alone_and_the_next_one_adopts_them", |root| {
        let (running, ending, pid) = root.daemon(async |engine| {
            import(&engine).await;
            let counting = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
            let running = start(&engine, "running", with(shell(counting), |host| host.network_mode = None)).await;
            let ending = start(&engine, "ending", shell("sleep 0.5; exit 7")).await;
            start(&engine, "paused", shell("sleep 1000")).await;
            engine.pause("paused").await.unwrap();
            let pid = inspect(&engine, &ending).await.state.unwrap().pid.unwrap_or_default();
            (running, ending, pid)
        });
        // It ends while there is no daemon.
        let deadline = Instant::now() + Duration::from_secs(60);
        while pid > 0 && Path::new(&format!("/proc/{pid}")).exists() {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        root.daemon(async |engine| {
            assert_eq!(status(&engine, &running).await, State::RUNNING);
            assert_eq!(status(&engine, "paused").await, State::PAUSED);
            until("the other's end is noted", async || {
                inspect(&engine, &ending).await.state.unwrap().exit_code == Some(7)
            })
            .await;
            until("it goes on counting", async || logs(&engine, &running).await.lines().count() > 20).await;
            engine.stop(&running, None, Some(0)).await.unwrap();
            let lines: Vec<u64> = logs(&engine, &running).await.lines().map(|line| line.parse().unwrap()).collect();
            assert!(lines.len() > 20);
            assert!(lines.iter().enumerate().all(|(at, line)| *line == at as u64), "{lines:?}");
            engine.remove("paused", FORCE).await.unwrap();
            root.assert_clean();
        });
    });
}

#[test]
fn the_death_of_a_shim_ends_its_container_and_nothing_else() {
    apart("the_death_of_a_shim_ends_its_container_and_nothing_else", |root| {
        root.daemon(async |engine| {
            import(&engine).await;
            let id = start(&engine, "victim", shell("sleep 1000")).await;
            let pid = inspect(&engine, &id).await.state.unwrap().pid.unwrap();
            let stat = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let parent = stat.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(parent), nix::sys::signal::Signal::SIGKILL).unwrap();
            until("its end is noted", async || status(&engine, &id).await == State::EXITED).await;
            let state = inspect(&engine, &id).await.state.unwrap();
            assert_eq!(state.exit_code, Some(137));
            assert!(state.error.unwrap().contains("shim was killed"));
            // Gone, or dead and not yet waited for by the host's init.
            let stat = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            assert!(stat.is_empty() || stat.contains("State:\tZ"), "{stat}");
            root.assert_clean();
            engine.start(&id).await.unwrap();
            engine.remove(&id, FORCE).await.unwrap();
        });
    });
}

#[test]
fn volumes_binds_and_limits_reach_the_container() {
    apart("volumes_binds_and_limits_reach_the_container", |root| {
        let outside = root.folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "bound").unwrap();
        root.daemon(async |engine| {
            import(&engine).await;
            let script = "cat /data/from-image /mnt/file; echo; echo new > /data/new; echo x > /mnt/x || echo refused; \
                          test -w /tmp/t && mount | grep -c /tmp/t; cat /proc/self/cgroup | head -1";
            let wanted = with(shell(script), |host| {
                host.binds = Some(vec!["stuff:/data".into(), format!("{}:/mnt:ro", outside.display())]);
                host.tmpfs = Some([("/tmp/t".to_owned(), "size=1m".to_owned())].into());
                host.memory = Some(64 << 20);
                host.pids_limit = Some(50);
            });
            run(&engine, "first", wanted).await;
            let text = logs(&engine, "first").await;
            assert!(text.starts_with("imagebound\n"), "{text}");
            assert!(text.contains("refused"), "{text}");
            let again =
                with(shell("cat /data/new; ls /data | sort"), |host| host.binds = Some(vec!["stuff:/data".into()]));
            assert_eq!(run(&engine, "second", again).await, 0);
            assert!(logs(&engine, "second").await.starts_with("new\nfrom-image\n"));
            start(&engine, "limited", with(shell("sleep 1000"), |host| host.memory = Some(64 << 20))).await;
            let more = ContainerUpdateBody { memory: Some(96 << 20), memory_swap: Some(-1), ..Default::default() };
            engine.update("limited", more).await.unwrap();
            assert_eq!(inspect(&engine, "limited").await.host_config.unwrap().memory, Some(96 << 20));
            for name in ["first", "second", "limited"] {
                engine.remove(name, FORCE).await.unwrap();
            }
            root.assert_clean();
        });
    });
}

#[test]
fn lists_filter_and_health_is_told() {
    apart("lists_filter_and_health_is_told", |root| {
        root.daemon(async |engine| {
            import(&engine).await;
            let mut checked = shell("sleep 1000");
            checked.healthcheck = Some(HealthConfig {
                test: Some(vec!["CMD".into(), "true".into()]),
                interval: Some(1_000_000_000),
                ..HealthConfig::default()
            });
            start(&engine, "well", checked).await;
            run(&engine, "done", shell("exit 4")).await;
            let list = async |filters: &str| {
                let options = ListOptions { filters: Filters::parse(filters).unwrap(), ..ListOptions::default() };
                let found = engine.list_containers(options).await.unwrap();
                found.into_iter().map(|one| one.names.unwrap().remove(0)).collect::<Vec<_>>()
            };
            until("it is healthy", async || list(r#"{"health":["healthy"]}"#).await == ["/well"]).await;
            assert_eq!(list("{}").await, ["/well"]);
            assert_eq!(list(r#"{"status":["exited"]}"#).await, ["/done"]);
            assert_eq!(list(r#"{"ancestor":["busybox:test"]}"#).await, ["/well"]);
            assert_eq!(list(r#"{"name":["d.ne"],"status":["exited","running"]}"#).await, ["/done"]);
            let all =
                engine.list_containers(ListOptions { all: true, size: true, ..ListOptions::default() }).await.unwrap();
            assert!(all[1].status.as_ref().unwrap().contains("(healthy)"));
            assert!(all[0].status.as_ref().unwrap().starts_with("Exited (4)"));
            let info = engine.info().await.unwrap();
            assert_eq!((info.containers, info.containers_running), (Some(2), Some(1)));
            engine.disk_usage().await.unwrap();
            engine.remove("well", FORCE).await.unwrap();
            let pruned = engine.prune_containers(Filters::default()).await.unwrap();
            assert_eq!(pruned.containers_deleted.unwrap().len(), 1);
        });
    });
}

#[test]
fn namespaces_are_shared_when_asked() {
    apart("namespaces_are_shared_when_asked", |root| {
        root.daemon(async |engine| {
            import(&engine).await;
            let first = with(shell("echo shared > /dev/shm/x; sleep 1000"), |host| {
                host.ipc_mode = Some("shareable".into());
                host.network_mode = None;
            });
            start(&engine, "first", first).await;
            let second = with(shell("sleep 0.1; cat /dev/shm/x; ls /proc | grep -c '^[0-9]'; hostname"), |host| {
                host.ipc_mode = Some("container:first".into());
                host.pid_mode = Some("container:first".into());
                host.network_mode = Some("container:first".into());
            });
            assert_eq!(run(&engine, "second", second).await, 0);
            let text = logs(&engine, "second").await;
            assert!(text.starts_with("shared\n"), "{text}");
            assert_eq!(
                run(
                    &engine,
                    "host",
                    with(shell("true"), |host| {
                        host.network_mode = Some("host".into());
                        host.pid_mode = Some("host".into());
                        host.uts_mode = Some("host".into());
                        host.ipc_mode = Some("host".into());
                        host.privileged = Some(true);
                    })
                )
                .await,
                0
            );
            engine.remove("first", FORCE).await.unwrap();
            root.assert_clean();
        });
    });
}
