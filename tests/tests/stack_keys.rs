//! Keys of compose files take effect: stacks are brought up, and looked at from inside.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;

use sampan_tests::{Host, IMAGE};

/// Brings up a stack `demo` whose services are written with `IMAGE` for the image.
fn up(host: &Host, compose: &str) {
    let text = format!("name: demo\n{}", compose.replace("IMAGE", IMAGE));
    let file = host.write("stack/compose.yaml", text);
    host.ok_in(file.parent().unwrap(), &["up", "-d"]);
}

/// What a script says in the first container of a service.
fn inside(host: &Host, service: &str, script: &str) -> String {
    host.ok(&["exec", &format!("demo-{service}-1"), "sh", "-c", script])
}

/// Checks that each script says what is expected of it.
fn check(host: &Host, service: &str, expected: &[(&str, &str)]) {
    for (script, wanted) in expected {
        assert_eq!(inside(host, service, script), *wanted, "{service}: {script}");
    }
}

#[test]
fn configs_and_secrets_have_the_owner_and_rights_they_are_given_and_lie_in_memory() {
    let test = "configs_and_secrets_have_the_owner_and_rights_they_are_given_and_lie_in_memory";
    let Some(host) = Host::with_image(test) else { return };
    host.write("stack/word", "from-a-file");
    let compose = r#"
services:
  web:
    image: IMAGE
    init: true
    user: "1000:1000"
    command: [sleep, infinity]
    environment: {NOTHING: ""}
    secrets:
      - plain
      - {source: word, target: owned, uid: "1000", gid: "1001", mode: 0440}
      - {source: variable, target: /etc/variable, uid: "1000", mode: 0400}
      - source: variable
    configs:
      - {source: inline, target: /etc/inline, uid: "5", gid: "6", mode: 0604}
      - variable
secrets:
  plain: {file: ./word}
  word: {file: ./word}
  variable: {environment: TOKEN}
configs:
  inline: {content: "a = b"}
  variable: {environment: TOKEN}
"#;
    let file = host.write("stack/compose.yaml", format!("name: demo\n{}", compose.replace("IMAGE", IMAGE)));
    let folder = file.parent().unwrap();
    let done = host.command(&["up", "-d"]).current_dir(folder).env("TOKEN", "hush-hush").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    check(
        &host,
        "web",
        &[
            ("cat /run/secrets/plain", "from-a-file"),
            ("stat -c '%u:%g %a' /run/secrets/owned; cat /run/secrets/owned", "1000:1001 440\nfrom-a-file"),
            ("stat -c '%u:%g %a' /etc/variable; cat /etc/variable", "1000:0 400\nhush-hush"),
            ("stat -c '%u:%g %a' /run/secrets/variable; cat /run/secrets/variable", "0:0 444\nhush-hush"),
            ("stat -c '%u:%g %a' /etc/inline; cat /etc/inline", "5:6 604\na = b"),
            ("cat /variable", "hush-hush"),
            ("grep -c -E ' (/run/secrets/owned|/etc/variable|/etc/inline|/variable) tmpfs ro' /proc/mounts", "4"),
        ],
    );
    assert!(!host.inspect("demo-web-1").to_string().contains("hush-hush"));
    assert!(!host.log().contains("hush-hush"));
    let material = host.run_directory().join("stacks/demo");
    assert_eq!(std::fs::read_dir(&material).unwrap().count(), 4, "what is the same lies there once");
    host.ok_in(folder, &["down", "-t", "0"]);
    assert!(!material.exists(), "what is secret goes with the stack");
}

#[test]
fn an_edited_secret_that_is_copied_makes_a_new_container() {
    let Some(host) = Host::with_image("an_edited_secret_that_is_copied_makes_a_new_container") else { return };
    let word = host.write("stack/word", "one");
    let compose = "
services:
  web: {image: IMAGE, init: true, command: [sleep, infinity], secrets: [{source: word, mode: 0400}]}
secrets: {word: {file: ./word}}
";
    up(&host, compose);
    assert_eq!(inside(&host, "web", "cat /run/secrets/word"), "one");
    std::fs::write(word, "two").unwrap();
    host.wait_until("the new word is there", || {
        host.run(&["exec", "demo-web-1", "cat", "/run/secrets/word"]).out == "two"
    });
}

#[test]
fn mounts_are_as_they_are_described() {
    let Some(host) = Host::with_image("mounts_are_as_they_are_described") else { return };
    host.write("stack/folder/file", "host");
    let compose = r#"
services:
  first:
    image: IMAGE
    command: [sh, -c, "mkdir -p /all/part && echo in-part > /all/part/file"]
    volumes: ["data:/all"]
  web:
    image: IMAGE
    init: true
    command: [sleep, infinity]
    depends_on: {first: {condition: service_completed_successfully}}
    read_only: true
    tmpfs: ["/run/one:size=1m,mode=700", /run/two]
    volumes:
      - {type: volume, source: data, target: /part, volume: {subpath: part}, read_only: true}
      - {type: volume, source: empty, target: /bin-not-copied, volume: {nocopy: true}}
      - {type: tmpfs, target: /scratch, tmpfs: {size: 2m, mode: 0751}}
      - {type: bind, source: ./folder, target: /folder, read_only: true, bind: {propagation: rslave}}
      - ./made/by/the/engine:/made
volumes: {data: {labels: {kept: yes}}, empty: {}}
"#;
    up(&host, compose);
    check(
        &host,
        "web",
        &[
            ("cat /part/file; touch /part/x 2>/dev/null || echo read-only", "in-part\nread-only"),
            ("ls -A /bin-not-copied | wc -l", "0"),
            ("stat -c %a /scratch; df -k /scratch | tail -1 | awk '{print $2}'", "751\n2048"),
            ("stat -c %a /run/one; df -k /run/one | tail -1 | awk '{print $2}'", "700\n1024"),
            ("touch /run/two/x && echo written", "written"),
            ("cat /folder/file; touch /folder/x 2>/dev/null || echo read-only", "hostread-only"),
            ("touch /made/x /x 2>/dev/null; ls /made; test -e /x || echo root-is-read-only", "x\nroot-is-read-only"),
        ],
    );
    assert!(host.path("stack/made/by/the/engine/x").exists());
    let missing = "name: demo\nservices: {web: {image: IMAGE, volumes: [{type: bind, source: ./nothing, target: /n, bind: {create_host_path: false}}]}}\n";
    let file = host.write("missing/compose.yaml", missing.replace("demo", "other").replace("IMAGE", IMAGE));
    let told = host.run_in(file.parent().unwrap(), &["up", "-d"]);
    assert_ne!(told.code, 0);
    assert!(
        format!("{}{}", told.out, told.err).contains("bind source path does not exist"),
        "{}{}",
        told.out,
        told.err
    );
    assert!(!Path::new(&host.path("missing/nothing")).exists());
}

#[test]
fn mounted_images_are_built_and_followed() {
    let Some(host) = Host::with_image("mounted_images_are_built_and_followed") else { return };
    host.write("stack/assets/Dockerfile", "FROM scratch\nCOPY page /www/page\n");
    host.write("stack/assets/page", "one");
    let compose = "
services:
  web:
    image: IMAGE
    init: true
    command: [sleep, infinity]
    volumes:
      - {type: image, source: assets, target: /site, image: {subpath: www}}
      - {type: image, source: IMAGE, target: /tools}
  assets: {build: ./assets, scale: 0}
";
    up(&host, compose);
    check(&host, "web", &[("cat /site/page; touch /site/x 2>/dev/null || echo read-only", "oneread-only")]);
    check(&host, "web", &[("/tools/bin/busybox echo from-an-image", "from-an-image")]);
    let id = host.inspect("demo-web-1")["Id"].clone();
    let folder = host.path("stack");
    host.ok_in(&folder, &["up", "-d"]);
    assert_eq!(host.inspect("demo-web-1")["Id"], id, "nothing changed");
    host.write("stack/assets/page", "two");
    host.ok_in(&folder, &["up", "-d", "--build"]);
    check(&host, "web", &[("cat /site/page", "two")]);
    host.ok_in(&folder, &["down", "-t", "0"]);
}

#[test]
fn a_services_place_on_its_networks_is_as_described() {
    let Some(host) = Host::with_image("a_services_place_on_its_networks_is_as_described") else { return };
    let compose = r#"
services:
  web:
    image: IMAGE
    init: true
    command: [sleep, infinity]
    hostname: webhost
    domainname: example.test
    dns: [192.0.2.53]
    dns_search: [example.test]
    dns_opt: ["ndots:3"]
    extra_hosts: ["other:192.0.2.7", "six=2001:db8::7"]
    networks:
      front:
        ipv4_address: 10.98.1.10
        ipv6_address: fd98:1::10
        mac_address: 02:42:0a:62:01:0a
        interface_name: front0
        aliases: [frontal]
      back: {interface_name: back0, gw_priority: 10, priority: 5, link_local_ips: [169.254.8.8, "fe80::8:8"]}
      closed: {}
  peer:
    image: IMAGE
    init: true
    command: [sleep, infinity]
    networks: [front]
    links: ["web:linked"]
  guest:
    image: IMAGE
    init: true
    command: [sleep, infinity]
    network_mode: service:web
networks:
  front: {enable_ipv6: true, ipam: {config: [{subnet: 10.98.1.0/24}, {subnet: "fd98:1::/64"}]}}
  back: {ipam: {config: [{subnet: 10.98.2.0/24}]}}
  closed: {internal: true, ipam: {config: [{subnet: 10.98.3.0/24}]}}
"#;
    up(&host, compose);
    check(
        &host,
        "web",
        &[
            ("hostname; cat /proc/sys/kernel/domainname", "webhost\nexample.test"),
            ("cat /sys/class/net/front0/address", "02:42:0a:62:01:0a"),
            ("ip -4 -o addr show front0 | awk '{print $4}'", "10.98.1.10/24"),
            ("ip -6 -o addr show front0 scope global | awk '{print $4}'", "fd98:1::10/64"),
            ("ip route | awk '/default/ {print $3, $5}'", "10.98.2.1 back0"),
            ("ip -4 -o addr show back0 | awk '{print $4}' | tail -1", "169.254.8.8/16"),
            ("ip -6 -o addr show back0 | grep -c fe80::8:8/64", "1"),
            ("grep -c -E '^(search example.test|options .*ndots:3)' /etc/resolv.conf", "2"),
            ("grep -E 'other|six' /etc/hosts | awk '{print $1, $2}'", "192.0.2.7 other\n2001:db8::7 six"),
        ],
    );
    for name in ["frontal", "linked", "web"] {
        assert_eq!(inside(&host, "peer", &format!("ping -c1 -W2 {name} >/dev/null && echo reached")), "reached");
    }
    assert_eq!(
        inside(&host, "guest", "ls /sys/class/net | sort | tr '\\n' ' '"),
        inside(&host, "web", "ls /sys/class/net | sort | tr '\\n' ' '")
    );
}

#[test]
fn limits_rights_and_namespaces_are_as_described() {
    let Some(host) = Host::with_image("limits_rights_and_namespaces_are_as_described") else { return };
    host.write("stack/labels", "from.a.file=yes\n");
    host.write("stack/one.env", "ONE=1\nTWO=$ONE\n");
    let compose = r#"
services:
  web:
    image: IMAGE
    init: true
    tty: true
    stdin_open: true
    command: [sleep, infinity]
    user: "7:8"
    group_add: ["9", "10"]
    working_dir: /tmp
    env_file: one.env
    environment: {THREE: "3"}
    labels: {own: label}
    label_file: labels
    annotations: {an: annotation}
    cap_drop: [ALL]
    cap_add: [NET_ADMIN, CAP_CHOWN]
    security_opt: ["no-new-privileges:true"]
    oom_score_adj: 321
    shm_size: 8m
    ulimits: {nofile: {soft: 123, hard: 456}, core: 0}
    sysctls: {net.ipv4.ip_unprivileged_port_start: "81"}
    stop_signal: SIGINT
    stop_grace_period: 3s
    devices: ["/dev/null:/dev/nothing:r"]
    device_cgroup_rules: ["c 1:9 r"]
    logging: {driver: json-file, options: {max-size: 1m, tag: x}}
    platform: linux/amd64
    ipc: shareable
    mem_limit: 64m
    memswap_limit: 64m
    pids_limit: 50
    cpus: 0.5
    cpu_shares: 512
    cpuset: "0"
    restart: on-failure:3
  deployed:
    image: IMAGE
    init: true
    command: [sleep, infinity]
    ipc: service:web
    pid: service:web
    scale: 1
    deploy: {resources: {limits: {cpus: "0.25", memory: 32m, pids: 20}, reservations: {memory: 16m}}}
  host:
    image: IMAGE
    command: [sleep, infinity]
    pid: host
    ipc: host
    uts: host
    cgroup: host
    network_mode: host
    privileged: true
"#;
    up(&host, compose);
    check(
        &host,
        "web",
        &[
            ("id -u; id -g; id -G", "7\n8\n8 9 10"),
            ("pwd; echo $ONE$TWO$THREE", "/tmp\n113"),
            ("cat /proc/1/oom_score_adj", "321"),
            ("awk '/NoNewPrivs/ {print $2}' /proc/self/status", "1"),
            ("awk '/CapBnd/ {print $2}' /proc/self/status", "0000000000001001"),
            ("df -k /dev/shm | tail -1 | awk '{print $2}'", "8192"),
            ("ulimit -Sn; ulimit -Hn; ulimit -c", "123\n456\n0"),
            ("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "81"),
            ("stat -c '%F %t:%T' /dev/nothing", "character special file 1:3"),
            ("nproc", "1"),
        ],
    );
    let web = host.inspect("demo-web-1");
    let (config, settings) = (&web["Config"], &web["HostConfig"]);
    assert_eq!((&config["Labels"]["own"], &config["Labels"]["from.a.file"]), (&"label".into(), &"yes".into()));
    assert_eq!((&config["StopSignal"], &config["StopTimeout"]), (&"SIGINT".into(), &3.into()));
    assert_eq!((&config["Tty"], &config["OpenStdin"]), (&true.into(), &true.into()));
    assert_eq!(settings["Annotations"]["an"], "annotation");
    assert_eq!((&settings["Memory"], &settings["PidsLimit"]), (&(64 << 20).into(), &50.into()));
    assert_eq!((&settings["NanoCpus"], &settings["CpuShares"]), (&500_000_000.into(), &512.into()));
    assert_eq!(settings["RestartPolicy"], serde_json::json!({ "Name": "on-failure", "MaximumRetryCount": 3 }));
    assert_eq!(settings["LogConfig"]["Config"]["tag"], "x");
    assert_eq!(settings["DeviceCgroupRules"][0], "c 1:9 r");
    let deployed = host.inspect("demo-deployed-1")["HostConfig"].clone();
    assert_eq!((&deployed["Memory"], &deployed["PidsLimit"]), (&(32 << 20).into(), &20.into()));
    assert_eq!((&deployed["NanoCpus"], &deployed["MemoryReservation"]), (&250_000_000.into(), &(16 << 20).into()));
    let same = |namespace: &str, one: &str, other: &str| {
        let link = |service: &str| inside(&host, service, &format!("readlink /proc/self/ns/{namespace}"));
        link(one) == link(other)
    };
    assert!(same("ipc", "web", "deployed") && same("pid", "web", "deployed"));
    assert!(!same("net", "web", "deployed") && !same("mnt", "web", "deployed"));
    for namespace in ["pid", "ipc", "uts"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
        assert_eq!(inside(&host, "host", &format!("readlink /proc/self/ns/{namespace}")), own.display().to_string());
    }
}

#[test]
fn builds_of_stacks_get_their_secrets_and_contexts() {
    let Some(host) = Host::with_image("builds_of_stacks_get_their_secrets_and_contexts") else { return };
    host.write("stack/word", "from-a-file");
    host.write("stack/extra/file", "from-elsewhere");
    std::fs::create_dir_all(host.path("stack/app")).unwrap();
    let compose = r#"
services:
  web:
    build:
      context: ./app
      dockerfile_inline: |
        FROM IMAGE
        RUN --mount=type=secret,id=token cat /run/secrets/token > /told
        COPY --from=extra /file /extra
      secrets: [{source: word, target: token}]
      additional_contexts: {extra: ./extra}
    init: true
    command: [sleep, infinity]
secrets: {word: {file: ./word}}
"#;
    up(&host, compose);
    check(
        &host,
        "web",
        &[("cat /told", "from-a-file"), ("cat /extra; ls /run/secrets 2>/dev/null; true", "from-elsewhere")],
    );
    assert!(!host.ok(&["history", "--no-trunc", "demo-web"]).contains("from-a-file"));
}

#[test]
fn a_filter_of_system_calls_is_read_from_its_file_and_devices_are_slowed_down() {
    let test = "a_filter_of_system_calls_is_read_from_its_file_and_devices_are_slowed_down";
    let Some(host) = Host::with_image(test) else { return };
    let profile =
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    host.write("stack/profile.json", profile);
    let compose = r#"
services:
  web:
    image: IMAGE
    init: true
    command: [sleep, infinity]
    security_opt: ["seccomp:profile.json"]
"#;
    up(&host, compose);
    assert_eq!(inside(&host, "web", "mkdir /x 2>/dev/null || echo denied"), "denied");
    if !Path::new("/dev/loop0").exists() {
        println!("skipped: limits of block devices need /dev/loop0");
        return;
    }
    let limited = "    blkio_config: {device_read_bps: [{path: /dev/loop0, rate: 1m}], device_write_iops: [{path: /dev/loop0, rate: 30}]}\n";
    up(&host, &(compose.to_owned() + limited));
    let script = "cd /sys/fs/cgroup; cat blkio/blkio.throttle.read_bps_device blkio/blkio.throttle.write_iops_device io.max 2>/dev/null; true";
    let told = inside(&host, "web", script);
    assert!(told == "7:0 1048576\n7:0 30" || told.contains("rbps=1048576 wbps=max riops=max wiops=30"), "{told}");
}

#[test]
fn compose_finds_the_hashes_that_it_would_give() {
    let Some(host) = Host::with_image("compose_finds_the_hashes_that_it_would_give") else { return };
    let compose = "
services:
  web: {image: IMAGE, init: true, command: [sleep, infinity], environment: {A: \"<b>\"}, volumes: ['data:/data'], networks: [one]}
volumes: {data: {}}
networks: {one: {internal: true}}
";
    up(&host, compose);
    let told = host.ok_in(&host.path("stack"), &["config", "--hash", "web"]);
    let label = |value: serde_json::Value| value["com.docker.compose.config-hash"].as_str().unwrap().to_owned();
    assert_eq!(told, format!("web {}", label(host.inspect("demo-web-1")["Config"]["Labels"].clone())));
    // What Compose gives these two, from what it did.
    let (_, network) = host.api("GET", "/networks/demo_one", None);
    assert_eq!(label(network["Labels"].clone()), "78fcc9aa761dd9bbb5a7bdc3ede08712bcdd5e26cffeae29c0fca6e090ce61bd");
    let (_, volume) = host.api("GET", "/volumes/demo_data", None);
    assert_eq!(label(volume["Labels"].clone()), "504ad458c80a54e9120954e1d0ad581a3e0d7b50499e9f2755876d04a2d3321a");
}

/// What the daemon has to say about the stack `demo`.
fn problem(host: &Host) -> String {
    host.api("GET", "/sampan/v1/stacks/demo", None).1["problem"].as_str().unwrap_or_default().to_owned()
}

/// A program in a folder of its own, which is to lie first in `PATH`.
fn program(host: &Host, name: &str, script: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = host.write(&format!("programs/{name}"), format!("#!/bin/busybox sh\n{script}"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let folder = path.parent().unwrap().display().to_string();
    format!("{folder}:{}", std::env::var("PATH").unwrap_or_default())
}

#[test]
fn programs_provide_services_and_the_daemon_runs_none() {
    let Some(host) = Host::with_image("programs_provide_services_and_the_daemon_runs_none") else { return };
    let cloud = r#"
if [ "$2" = metadata ]; then
    [ -e described ] || exit 1
    echo '{"description":"x","up":{},"down":{},"stop":{"parameters":[{"name":"size"}]}}'
    exit
fi
echo "$@" >> log
[ "$3" != stop ] || echo "in $REGION" >> log
case "$3" in up)
    echo '{"type":"info","message":"making it"}'
    echo '{"type":"get-service-config"}'
    read -r config
    echo "$config" > config
    echo "{\"type\":\"setenv\",\"message\":\"URL=cloud://${4#--}\"}"
    echo '{"type":"rawsetenv","message":"TOKEN=s3cret"}'
esac
"#;
    let runner = r#"
echo "model $@" >> log
case "$1" in
    ls) echo '[]' ;;
    status) echo '{"running":true,"endpoint":"http://runner/v1"}' ;;
esac
"#;
    program(&host, "cloud", cloud);
    let path = program(&host, "docker-model", runner);
    let compose = format!(
        "
name: demo
services:
  db: {{provider: {{type: cloud, options: {{size: 10}}}}}}
  web: {{image: {IMAGE}, init: true, command: [sleep, infinity], depends_on: [db], models: [llm], environment: {{ROUND: one}}}}
models: {{llm: {{model: ai/small, context_size: 100}}}}
"
    );
    let file = host.write("stack/compose.yaml", &compose);
    let folder = file.parent().unwrap();
    let run = |words: &[&str]| host.command(words).current_dir(folder).env("PATH", &path).output().unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let up = run(&["up", "-d"]);
    let told = String::from_utf8_lossy(&up.stderr).into_owned();
    assert!(up.status.success() && told.contains("Service db  making it"), "{told}");
    let look = "echo $DB_URL $TOKEN $LLM_URL $LLM_MODEL $ROUND";
    let inside = || host.run(&["exec", "demo-web-1", "sh", "-c", look]).out.trim().to_owned();
    assert_eq!(inside(), "cloud://size=10 s3cret http://runner/v1 ai/small one");
    let ran =
        "model ls --json\nmodel pull ai/small\nmodel configure --context-size 100 ai/small\nmodel status --json\n";
    assert_eq!(read("log"), format!("compose --project-name=demo up --size=10 db\n{ran}"));
    assert!(read("config").contains("\"provider\""), "{}", read("config"));
    std::fs::remove_file(folder.join("log")).unwrap();
    // What is provided has no container to be started anew.
    for verb in ["restart", "pause", "kill"] {
        assert!(run(&[verb, "db"]).status.success(), "{verb}");
    }
    // The daemon follows the file with what it was told, and runs nothing.
    std::fs::write(&file, compose.replace("ROUND: one", "ROUND: two")).unwrap();
    host.wait_until("the edit is there", || inside() == "cloud://size=10 s3cret http://runner/v1 ai/small two");
    std::fs::write(&file, compose.replace("size: 10", "size: 20")).unwrap();
    host.wait_until("it says who has to run the program", || {
        problem(&host).contains("which the program cloud provides")
    });
    assert_eq!((read("log"), inside().contains("size=10")), (String::new(), true), "what is up stays");
    assert!(run(&["up", "-d"]).status.success());
    assert_eq!(inside(), "cloud://size=20 s3cret http://runner/v1 ai/small one");
    std::fs::remove_file(folder.join("log")).unwrap();
    assert!(run(&["up", "-d", "--dry-run"]).status.success());
    // Only a program that says so is asked to stop. It has the variables that the files have.
    assert!(run(&["stop", "-t", "0"]).status.success());
    std::fs::write(folder.join("described"), "").unwrap();
    std::fs::write(folder.join(".env"), "REGION=here\n").unwrap();
    assert!(run(&["stop", "-t", "0"]).status.success());
    std::fs::remove_file(folder.join("described")).unwrap();
    assert!(run(&["down", "-t", "0"]).status.success());
    let stopped = "compose --project-name=demo stop --size=20 db\nin here\n";
    assert_eq!(read("log"), format!("{stopped}compose --project-name=demo down --size=20 db\n"));
    let missing = host.run_in(folder, &["up", "-d"]);
    assert!(missing.code != 0 && missing.err.contains("docker-cloud nor a program cloud"), "{}", missing.err);
}

#[test]
fn projects_are_published_and_taken_from_registries_and_repositories() {
    let test = "projects_are_published_and_taken_from_registries_and_repositories";
    let Some(host) = Host::with_image(test) else { return };
    let Some(_registry) = sampan_tests::Registry::start(test, &host, "", "") else { return };
    let run = |folder: &Path, words: &[&str], variables: &[(&str, &str)]| {
        let mut command = host.command(words);
        command.current_dir(folder).env("XDG_CACHE_HOME", host.path("cache")).stdin(std::process::Stdio::null());
        command.envs(variables.iter().copied());
        let done = host.in_network(move || command.output().unwrap());
        (
            done.status.success(),
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr),
        )
    };
    let base = format!("services: {{base: {{image: {IMAGE}, init: true, command: [sleep, infinity]}}}}\n");
    host.write("source/base.yaml", base);
    host.write("source/web.env", "FROM_FILE=in-the-file\n");
    let compose = "
name: published
services:
  web:
    extends: {file: base.yaml, service: base}
    env_file: web.env
    environment: {GREETING: '${GREETING:-hello}'}
";
    let source = host.write("source/compose.yaml", compose);
    let source = source.parent().unwrap();
    let (done, told) = run(source, &["compose", "publish", "localhost:5000/team/app:1"], &[]);
    assert!(!done && told.contains("--with-env"), "{told}");
    let (done, told) = run(source, &["compose", "publish", "--with-env", "-y", "localhost:5000/team/app:1"], &[]);
    assert!(done && told.contains("published  sha256:"), "{told}");
    let elsewhere = host.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let from = ["-f", "oci://localhost:5000/team/app:1"];
    let (done, told) = run(&elsewhere, &[&from[..], &["up", "-d"]].concat(), &[]);
    assert!(!done && told.contains("variable GREETING (default \"hello\")") && told.contains("cancelled"), "{told}");
    let (done, told) = run(&elsewhere, &[&from[..], &["compose", "run", "--rm", "-T", "web", "true"]].concat(), &[]);
    assert!(!done && told.contains("cancelled"), "{told}");
    let (done, told) = run(&elsewhere, &[&from[..], &["up", "-d", "-y"]].concat(), &[("GREETING", "moin")]);
    assert!(done, "{told}");
    let look = "echo $GREETING $FROM_FILE";
    assert_eq!(host.ok(&["exec", "published-web-1", "sh", "-c", look]), "moin in-the-file");
    // The next version has another folder, and is the same stack.
    std::fs::write(source.join("web.env"), "FROM_FILE=in-the-next\n").unwrap();
    let (done, told) = run(source, &["compose", "publish", "--with-env", "-y", "localhost:5000/team/app:1"], &[]);
    assert!(done, "{told}");
    let (done, told) = run(&elsewhere, &[&from[..], &["up", "-d", "-y"]].concat(), &[("GREETING", "moin")]);
    assert!(done, "{told}");
    assert_eq!(host.ok(&["exec", "published-web-1", "sh", "-c", look]), "moin in-the-next");
    let (done, told) = run(&elsewhere, &[&from[..], &["down", "-t", "0"]].concat(), &[]);
    assert!(done, "{told}");

    // A project of this host that takes one part from the registry and one from a repository.
    if std::process::Command::new("git").arg("--version").output().is_err() {
        println!("skipped: the part of {test} that needs git");
        return;
    }
    let other = format!(
        "services: {{other: {{image: {IMAGE}, init: true, command: [sleep, infinity], environment: [GREETING]}}}}\n"
    );
    host.write("repository/deploy/compose.yaml", other);
    let repository = host.path("repository");
    for words in [&["init", "-q", "-b", "main"][..], &["add", "-A"], &["commit", "-q", "-m", "x"]] {
        sampan_tests::web::git(&repository, words);
    }
    let www = host.path("www");
    std::fs::create_dir(&www).unwrap();
    sampan_tests::web::git(&www, &["clone", "-q", "--bare", repository.to_str().unwrap(), "parts.git"]);
    sampan_tests::web::git(&www.join("parts.git"), &["update-server-info"]);
    let port = sampan_tests::web::serve(&host, www);
    let whole = format!(
        "name: demo
include:
  - oci://localhost:5000/team/app:1
  - http://127.0.0.1:{port}/parts.git#main:deploy
services: {{own: {{image: {IMAGE}, init: true, command: [sleep, infinity]}}}}
"
    );
    let file = host.write("stack/compose.yaml", &whole);
    let folder = file.parent().unwrap();
    let (done, told) = run(folder, &["up", "-d", "-y"], &[("GREETING", "moin")]);
    assert!(done, "{told}");
    assert_eq!(host.ok(&["exec", "demo-web-1", "sh", "-c", look]), "moin in-the-next");
    assert_eq!(host.ok(&["exec", "demo-other-1", "sh", "-c", "echo $GREETING"]), "moin");
    // The daemon follows the file; what is new in it from elsewhere waits for the next `up`.
    std::fs::write(&file, whole.replace("services: {own: {", "services: {own: {environment: [A=b], ")).unwrap();
    host.wait_until("the edit is there", || host.run(&["exec", "demo-own-1", "sh", "-c", "echo $A"]).out == "b\n");
    std::fs::write(&file, whole.replace("app:1", "app:2")).unwrap();
    host.wait_until("it is told", || problem(&host).contains("was not fetched yet"));
    host.ok(&["stack", "rm", "demo"]);
}

#[test]
fn a_program_is_asked_when_the_containers_it_needs_are_there() {
    let Some(host) = Host::with_image("a_program_is_asked_when_the_containers_it_needs_are_there") else { return };
    let path = program(
        &host,
        "cloud",
        r#"
[ "$2" != metadata ] || exit 1
echo "$3" >> log
echo "{\"type\":\"setenv\",\"message\":\"URL=cloud://1\"}"
"#,
    );
    let compose = format!(
        "
name: demo
services:
  base:
    image: {IMAGE}
    init: true
    command: [sh, -c, 'echo base >> /p/log; sleep infinity']
    volumes: ['.:/p']
    healthcheck: {{test: [CMD, test, -e, /p/log]}}
  db: {{provider: {{type: cloud}}, depends_on: {{base: {{condition: service_healthy}}}}}}
  web: {{image: {IMAGE}, init: true, command: [sleep, infinity], depends_on: [db]}}
"
    );
    let file = host.write("stack/compose.yaml", &compose);
    let folder = file.parent().unwrap();
    let up = || host.command(&["up", "-d"]).current_dir(folder).env("PATH", &path).output().unwrap();
    let first = up();
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let log = || std::fs::read_to_string(folder.join("log")).unwrap();
    assert_eq!(log(), "base\nup\n");
    assert_eq!(host.run(&["exec", "demo-web-1", "sh", "-c", "echo $DB_URL"]).out.trim(), "cloud://1");
    // Once more: what runs is left alone while the program is asked again.
    let id = |name: &str| host.ok(&["inspect", "-f", "{{.Id}}", name]);
    let before = (id("demo-base-1"), id("demo-web-1"));
    assert!(up().status.success());
    assert_eq!((log().as_str(), (id("demo-base-1"), id("demo-web-1"))), ("base\nup\nup\n", before));
}
