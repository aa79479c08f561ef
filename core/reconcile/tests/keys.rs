//! Every key of a service either shows in what the engine is asked for, or is refused where it is written.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use sampan_compose::{LoadOptions, MemoryFiles, Project};
use sampan_reconcile::desired;

const REST: &str = "
  other: {image: y, healthcheck: {test: a}}
networks: {n: {}}
volumes: {v: {}}
secrets: {s: {file: s}, e: {environment: SET}, x: {external: true}}
configs: {c: {content: c}, x: {external: true}}
models: {m: {model: m}}
";

fn load(key: &str) -> Result<(Project, String), String> {
    let text = format!("name: p\nservices:\n  web:\n    image: x\n    {key}\n{REST}");
    let files = MemoryFiles::default()
        .with("/p/compose.yaml", text)
        .with("/p/s", "secret")
        .with("/p/e.env", "FROM=file")
        .with("/p/l.txt", "from=file")
        .with("/p/profile.json", r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
    let options = LoadOptions { working_dir: "/p".into(), ..LoadOptions::default() };
    let mut options = options;
    options.env.insert("SET".to_owned(), "yes".to_owned());
    match sampan_compose::load(&options, &files) {
        Ok(loaded) => {
            let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
            Ok((loaded.project, warnings))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// What the engine is asked for.
fn asked(project: &Project) -> String {
    let wanted = desired::container(project, "web", 1, Path::new("/m")).unwrap();
    format!("{} {:?} {:?}", serde_json::to_value(&wanted.body).unwrap(), wanted.hash, wanted.material.len())
}

/// Keys that make another container.
const SHOWN: &[&str] = &[
    "annotations: {a: b}",
    "blkio_config: {weight: 300}",
    "blkio_config: {device_read_bps: [{path: /dev/sda, rate: 1m}]}",
    "cap_add: [NET_ADMIN]",
    "cap_drop: [ALL]",
    "cgroup: host",
    "cgroup_parent: p",
    "command: a b",
    "configs: [c]",
    "configs: [{source: c, target: /t, uid: '1', gid: '2', mode: 0400}]",
    "container_name: named",
    "cpu_period: 50000",
    "cpu_quota: 5000",
    "cpu_shares: 5",
    "cpus: 0.5",
    "cpuset: '0'",
    "depends_on: {other: {condition: service_healthy, restart: true}}",
    "deploy: {resources: {limits: {cpus: '0.5'}}}",
    "deploy: {resources: {limits: {memory: 64m}}}",
    "deploy: {resources: {limits: {pids: 5}}}",
    "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}",
    "deploy: {resources: {reservations: {memory: 64m}}}",
    "deploy: {restart_policy: {condition: on-failure, max_attempts: 3}}",
    "device_cgroup_rules: ['c 1:3 r']",
    "devices: [/dev/null:/dev/x:r]",
    "devices: [vendor.com/class=name]",
    "dns: 1.1.1.1",
    "dns_opt: [ndots:1]",
    "dns_search: x.y",
    "domainname: x",
    "entrypoint: a",
    "env_file: e.env",
    "environment: {A: b}",
    "expose: [80]",
    "extra_hosts: ['a=1.1.1.1']",
    "gpus: all",
    "group_add: [mail]",
    "healthcheck: {test: a, interval: 1s, timeout: 2s, retries: 3, start_period: 4s, start_interval: 5s}",
    "hostname: h",
    "init: true",
    "ipc: host",
    "ipc: service:other",
    "label_file: l.txt",
    "labels: {a: b}",
    "logging: {driver: local, options: {max-size: 1m}}",
    "mac_address: 02:42:ac:11:00:02",
    "mem_limit: 64m",
    "mem_reservation: 64m",
    "mem_swappiness: 5",
    "memswap_limit: 64m",
    "network_mode: host",
    "networks: [n]",
    "networks: {n: {aliases: [a]}}",
    "networks: {n: {driver_opts: {a: b}}}",
    "networks: {n: {gw_priority: 3}}",
    "networks: {n: {interface_name: x0}}",
    "networks: {n: {ipv4_address: 10.0.0.2}}",
    "networks: {n: {ipv6_address: 'fd00::2'}}",
    "networks: {n: {link_local_ips: [169.254.1.1, 'fe80::1:1']}}",
    "networks: {n: {mac_address: 02:42:ac:11:00:02}}",
    "networks: {n: {}, default: {priority: -1}}",
    "oom_kill_disable: true",
    "oom_score_adj: 5",
    "pid: host",
    "pids_limit: 5",
    "ports: ['8080:80']",
    "post_start: [{command: a}]",
    "pre_start: [{command: a}]",
    "pre_stop: [{command: a}]",
    "privileged: true",
    "read_only: true",
    "restart: always",
    "runtime: runc",
    "secrets: [s]",
    "secrets: [e]",
    "secrets: [{source: s, mode: 0400}]",
    "security_opt: [no-new-privileges]",
    "security_opt: ['seccomp:profile.json']",
    "shm_size: 1m",
    "stdin_open: true",
    "stop_grace_period: 1s",
    "stop_signal: INT",
    "sysctls: {net.core.somaxconn: 5}",
    "tmpfs: /t",
    "tty: true",
    "ulimits: {nofile: 5}",
    "user: u",
    "userns_mode: host",
    "uts: host",
    "volumes: ['v:/v']",
    "volumes: ['v:/v:nocopy']",
    "volumes: ['./a:/a:ro']",
    "volumes: [{type: bind, source: ./a, target: /a, bind: {create_host_path: false}}]",
    "volumes: [{type: bind, source: ./a, target: /a, bind: {propagation: rshared}}]",
    "volumes: [{type: bind, source: ./a, target: /a, bind: {recursive: disabled}}]",
    "volumes: [{type: image, source: y, target: /y}]",
    "volumes: [{type: image, source: y, target: /y, image: {subpath: a}}]",
    "volumes: [{type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 0700}}]",
    "volumes: [{type: volume, source: v, target: /v, volume: {subpath: a, labels: {a: b}}}]",
    "volumes_from: [other]",
    "working_dir: /w",
];

/// Keys that others than the container's maker look at: what they set in the project.
const ELSEWHERE: &[&str] = &[
    "attach: false",
    "build: {context: ., cache_from: [a]}",
    "build: {context: ., cache_to: [a]}",
    "build: {context: ., no_cache: true}",
    "build: {context: ., platforms: [linux/amd64, linux/arm64]}",
    "build: {context: ., provenance: mode=max}",
    "deploy: {mode: global}",
    "deploy: {replicas: 2}",
    "deploy: {update_config: {order: start-first}, rollback_config: {parallelism: 0}}",
    "develop: {watch: [{path: ., action: rebuild}]}",
    "links: [other:o]",
    "models: [m]",
    "platform: linux/amd64",
    "profiles: [p]",
    "provider: {type: x}",
    "pull_policy: daily",
    "scale: 2",
];

/// Keys that are refused, each with a word of the reason.
const REFUSED: &[(&str, &str)] = &[
    ("blkio_config: {weight_device: [{path: /dev/sda, weight: 5}]}", "weight"),
    ("build: {context: ., entitlements: [security.insecure]}", "rights"),
    ("build: {context: ., privileged: true}", "rights"),
    ("build: {context: ., ssh: [default]}", "socket"),
    ("configs: [x]", "cluster"),
    ("cpu_count: 2", "Windows"),
    ("cpu_percent: 5", "Windows"),
    ("cpu_rt_period: 5000", "real-time"),
    ("cpu_rt_runtime: 5000", "real-time"),
    ("credential_spec: {file: x}", "Windows"),
    ("deploy: {mode: global-job}", "global-job"),
    ("deploy: {placement: {constraints: [a == b]}}", "one host"),
    (
        "deploy: {resources: {reservations: {generic_resources: [{discrete_resource_spec: {kind: a, value: 1}}]}}}",
        "cluster",
    ),
    ("external_links: [a]", "share a network"),
    ("isolation: hyperv", "Windows"),
    ("pre_start: [{command: a, per_replica: true}]", "per_replica"),
    ("provider: {type: ./x}", "provider's program"),
    ("runtime: kata", "runtime"),
    ("secrets: [x]", "cluster"),
    ("security_opt: [label=type:x]", "SELinux"),
    ("storage_opt: {size: 1g}", "project quotas"),
    ("use_api_socket: true", "whole engine"),
    ("userns_mode: private", "user namespace"),
    ("volumes: [{type: cluster, source: a, target: /a}]", "not supported"),
    ("volumes: [{type: npipe, source: a, target: /a}]", "not supported"),
];

/// Keys that do nothing here and say so.
const INEFFECTIVE: &[&str] = &[
    "deploy: {endpoint_mode: vip}",
    "deploy: {labels: {a: b}}",
    "deploy: {resources: {reservations: {cpus: '0.5'}}}",
    "deploy: {restart_policy: {condition: any, delay: 5s}}",
    "deploy: {restart_policy: {condition: any, window: 5s}}",
    "security_opt: [apparmor=x]",
];

#[test]
fn every_key_shows_or_is_refused_where_it_is_written() {
    let plain = load("").unwrap().0;
    let mut wrong = Vec::new();
    for key in SHOWN {
        match load(key) {
            Ok((project, _)) => {
                let name = desired::container_name(&project, "web", 1);
                if asked(&project) == asked(&plain) && name == "p-web-1" {
                    wrong.push(format!("{key}: nothing changes"));
                }
            }
            Err(error) => wrong.push(format!("{key}: refused: {error}")),
        }
    }
    for key in ELSEWHERE {
        match load(key) {
            Ok((project, _)) if project == plain => wrong.push(format!("{key}: it is lost")),
            Ok(_) => {}
            Err(error) => wrong.push(format!("{key}: refused: {error}")),
        }
    }
    for (key, word) in REFUSED {
        match load(key) {
            Ok(_) => wrong.push(format!("{key}: taken")),
            Err(error) if !error.contains("/p/compose.yaml:") || !error.contains(word) => {
                wrong.push(format!("{key}: {error}"));
            }
            Err(_) => {}
        }
    }
    for key in INEFFECTIVE {
        match load(key) {
            Ok((_, warnings)) if !warnings.contains("no effect") => wrong.push(format!("{key}: silent: {warnings}")),
            Ok(_) => {}
            Err(error) => wrong.push(format!("{key}: refused: {error}")),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The keys of a service in the model, from one that has them all.
#[test]
fn no_key_of_the_model_is_missing_in_the_tables() {
    let listed: Vec<&str> = SHOWN
        .iter()
        .chain(ELSEWHERE)
        .chain(INEFFECTIVE)
        .copied()
        .chain(REFUSED.iter().map(|(key, _)| *key))
        .filter_map(|key| key.split(':').next())
        .collect();
    let source = include_str!("../../compose/src/model/service.rs");
    let body = source.split("pub struct Service {").nth(1).unwrap().split("\n    }").next().unwrap();
    let keys = body.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next());
    let missing: Vec<&str> =
        keys.filter(|key| !listed.contains(key) && !matches!(*key, "image" | "extensions")).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
