//! The model as `config` shows it, by the real program.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use sampan_tests::Host;
use serde_json::Value;

const FILE: &str = "name: demo
services:
  web:
    image: busybox:${TAG:-1}
    ports: ['${PORT:-8080}:80']
    gpus: all
    post_start: [{command: echo hi}]
    blkio_config: {device_read_bps: [{path: /dev/sda, rate: 1mb}]}
    models: [llm]
    profiles: [all]
  db:
    image: busybox
models:
  llm: {model: ai/x}
";

#[test]
fn what_the_engine_cannot_run_is_shown_by_config_and_refused_by_up() {
    let Some(host) = Host::start("what_the_engine_cannot_run_is_shown_by_config_and_refused_by_up") else { return };
    let folder = host.write("stack/compose.yaml", FILE).parent().unwrap().to_owned();
    let ask = |arguments: &[&str]| host.ok_in(&folder, &[&["--profile", "all", "config"], arguments].concat());
    let model: Value = serde_json::from_str(&ask(&["--format", "json"])).unwrap();
    let web = &model["services"]["web"];
    assert_eq!(web["gpus"][0]["count"], -1);
    assert_eq!(web["post_start"][0]["command"][1], "hi");
    assert_eq!(web["blkio_config"]["device_read_bps"][0]["rate"], "1048576");
    assert_eq!(web["ports"][0]["published"], "8080");
    assert_eq!(model["models"]["llm"]["model"], "ai/x");
    assert_eq!(ask(&["--services"]), "db\nweb");
    assert_eq!(ask(&["--models"]), "ai/x");
    assert_eq!(ask(&["--profiles"]), "all");
    assert_eq!(ask(&["--networks"]), "default");
    assert_eq!(ask(&["--images"]), "busybox\nbusybox:1");
    assert_eq!(ask(&["--hash", "web"]).split(' ').next(), Some("web"));
    assert!(ask(&["--environment"]).contains("COMPOSE_PROJECT_NAME=demo"));
    let variables: Value = serde_json::from_str(&ask(&["--variables", "--format", "json"])).unwrap();
    assert_eq!(variables["PORT"]["DefaultValue"], "8080");
    assert!(ask(&["--no-interpolate"]).contains("image: busybox:${TAG:-1}"));
    assert_eq!(ask(&["--quiet"]), "");
    assert_eq!(ask(&["-o", "out.yaml"]), "");
    assert!(std::fs::read_to_string(folder.join("out.yaml")).unwrap().starts_with("name: demo\n"));
    let refused = host.run_in(&folder, &["--profile", "all", "up", "-d"]);
    assert_ne!(refused.code, 0);
    for place in ["compose.yaml:6:5", "compose.yaml:7:5", "compose.yaml:8:5", "compose.yaml:9:5"] {
        assert!(refused.err.contains(place), "{place}: {}", refused.err);
    }
}
