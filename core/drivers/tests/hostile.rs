//! Drivers that do what they must not: each call ends as an error that names driver, call and cause.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Root, facts, shipped};
use sampan_drivers::{Class, DriverError, Limits, Manifest, Object};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const LIMITS: Limits = Limits { time: Duration::from_millis(500), memory: 4 << 20, output: 1 << 20 };

/// Answers `ok([])`.
const FINE: &str = "(i32.store (i32.const 1024) (i32.const 0)) (i32.store (i32.const 1028) (i32.const 0))
    (i32.store (i32.const 1032) (i32.const 0)) (i32.const 1024)";

/// A volume driver by the body of its `create`; `more` is for imports and data.
fn component(more: &str, create: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            {more}
            (memory (export "memory") 2)
            (global $next (mut i32) (i32.const 8192))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                (global.set $next (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
            (func $create (export "sampan:driver/volumes@0.1.0#create")
                (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) {create})
            (func (export "sampan:driver/volumes@0.1.0#mount")
                (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) unreachable)
            (func (export "sampan:driver/volumes@0.1.0#unmount") (param i32 i32 i32 i32 i32 i32) (result i32) {FINE})
            (func (export "sampan:driver/volumes@0.1.0#remove") (param i32 i32 i32 i32 i32 i32) (result i32) {FINE}))"#
    );
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = Resolve::default();
    resolve
        .push_str("wasi-io.wit", "package wasi:io@0.2.0; interface poll { resource pollable { block: func(); } }")
        .unwrap();
    resolve
        .push_str(
            "wasi-clocks.wit",
            "package wasi:clocks@0.2.0; interface monotonic-clock { use wasi:io/poll@0.2.0.{pollable}; subscribe-duration: func(when: u64) -> pollable; }",
        )
        .unwrap();
    resolve.push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")).unwrap();
    let test = resolve
        .push_str(
            "test.wit",
            "package test:test; world hostile {
                include sampan:driver/volume-driver@0.1.0;
                import wasi:io/poll@0.2.0; import wasi:clocks/monotonic-clock@0.2.0;
            }",
        )
        .unwrap();
    let world = resolve.select_world(&[test], Some("hostile")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

fn manifest(name: &str) -> Manifest {
    Manifest::parse(format!(r#"{{"name":"{name}","kind":"volume"}}"#).as_bytes()).unwrap()
}

fn root() -> Root {
    let empty = tempfile::tempdir().unwrap();
    common::root(empty.path().to_owned(), LIMITS)
}

fn create(root: &Root, name: &str) -> Result<usize, DriverError> {
    let volume = Object { id: "data".into(), name: "data".into() };
    root.drivers.volume(name)?.create(&facts(), &volume, &[]).map(|plan| plan.len())
}

/// Installs a driver and makes its `create`.
fn outcome(more: &str, body: &str) -> Result<usize, DriverError> {
    let root = root();
    root.drivers.install(&component(more, body), manifest("evil"), false).unwrap();
    let began = Instant::now();
    let outcome = create(&root, "evil");
    assert!(began.elapsed() < Duration::from_secs(60), "it was not cut off");
    outcome
}

fn says(more: &str, body: &str) -> String {
    let error = outcome(more, body).unwrap_err();
    assert_eq!(error.class(), Class::Internal);
    let text = error.to_string();
    assert!(text.starts_with("driver \"evil\" (volume): create: "), "{text}");
    text
}

#[test]
fn a_well_behaved_one_is_heard() {
    assert_eq!(outcome("", FINE).unwrap(), 0);
}

#[test]
fn traps_and_endless_recursion_are_named() {
    assert!(says("", "unreachable").contains("trapped: wasm `unreachable` instruction executed"));
    let arguments = "(local.get 0) ".repeat(12);
    assert!(says("", &format!("(call $create {arguments})")).contains("call stack exhausted"));
    assert!(says("", "(i32.load (i32.const 0x7fffffff))").contains("out of bounds"));
}

#[test]
fn an_endless_loop_is_cut_off() {
    assert!(says("", "(loop (br 0)) unreachable").contains("took longer than 0.5 s and was cut off"));
}

#[test]
fn a_long_sleep_is_cut_off() {
    let imports = r#"
        (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $after (param i64) (result i32)))
        (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))"#;
    let text = says(imports, "(call $block (call $after (i64.const 3600000000000))) unreachable");
    assert!(text.contains("took longer than 0.5 s and was cut off"), "{text}");
}

#[test]
fn memory_has_an_end() {
    // The guest is told -1 at the limit; it then answers with how many pages it has, as an invalid pointer.
    let grow =
        "(block $full (loop $more (br_if $full (i32.eq (memory.grow (i32.const 16)) (i32.const -1))) (br $more)))
        (if (i32.gt_u (memory.size) (i32.const 64)) (then unreachable))";
    assert_eq!(outcome("", &format!("{grow} {FINE}")).unwrap(), 0);
}

#[test]
fn answers_are_bounded_and_checked() {
    let answer = |tag: u32, pointer: u32, length: u32| {
        format!(
            "(i32.store (i32.const 1024) (i32.const {tag})) (i32.store (i32.const 1028) (i32.const {pointer}))
             (i32.store (i32.const 1032) (i32.const {length})) (i32.const 1024)"
        )
    };
    // More steps than the memory holds, a gigabyte, and an unknown case.
    assert!(says("", &answer(0, 0, 50_000_000)).contains("out of bounds"));
    assert!(says("", &answer(0, 0x7fff_fff0, 1)).contains("out of bounds"));
    assert!(says("", &answer(77, 0, 0)).contains("discriminant"), "{}", says("", &answer(77, 0, 0)));
    assert!(says("", "(i32.const 0x7ffffff0)").contains("out of bounds"));
    // As many steps as the memory holds come to more than a call may hand over.
    let full = format!("(drop (memory.grow (i32.const 40))) {}", answer(0, 8192, 30_000));
    let text = says("", &full);
    assert!(text.contains("fuel") || text.contains("allocat"), "{text}");
}

#[test]
fn text_is_bounded_and_harmless() {
    // `err(invalid(…))` with an escape sequence.
    let data = r#"(data (i32.const 2048) "\1b[2Jgone")"#;
    let body = "(i32.store (i32.const 1024) (i32.const 1)) (i32.store (i32.const 1028) (i32.const 0))
        (i32.store (i32.const 1032) (i32.const 2048)) (i32.store (i32.const 1036) (i32.const 8)) (i32.const 1024)";
    let error = outcome(data, body).unwrap_err();
    assert_eq!(error.class(), Class::Invalid);
    assert_eq!(error.to_string(), "driver \"evil\" (volume): create: \\u{1b}[2Jgone");
    // Not UTF-8.
    let text = says(r#"(data (i32.const 2048) "\ff\ff\ff\ff\ff\ff\ff\ff")"#, body);
    assert!(text.contains("utf-8") || text.contains("UTF-8"), "{text}");
}

#[test]
fn state_is_kept_only_by_calls_that_succeed() {
    let imports = r#"
        (import "sampan:driver/kv@0.1.0" "set" (func $set (param i32 i32 i32 i32)))
        (import "sampan:driver/kv@0.1.0" "get" (func $get (param i32 i32 i32)))
        (data (i32.const 2048) "key")"#;
    let set = "(call $set (i32.const 2048) (i32.const 3) (i32.const 2048) (i32.const 3))";
    let is_there = "(call $get (i32.const 2048) (i32.const 3) (i32.const 4096)) (if (i32.load8_u (i32.const 4096)) (then unreachable))";
    let root = root();
    let with = |body: &str| component(imports, body);
    root.drivers.install(&with(&format!("{set} unreachable")), manifest("keeper"), false).unwrap();
    create(&root, "keeper").unwrap_err();
    root.drivers.upgrade("keeper", &with(&format!("{is_there} {set} {FINE}")), manifest("keeper"), false).unwrap();
    create(&root, "keeper").unwrap();
    // The second time it finds what the first has kept, across a swap too.
    assert!(create(&root, "keeper").is_err());
    // A key that is too long fails the call.
    let long = format!("(call $set (i32.const 2048) (i32.const 300) (i32.const 2048) (i32.const 3)) {FINE}");
    root.drivers.upgrade("keeper", &with(&long), manifest("keeper"), false).unwrap();
    assert!(create(&root, "keeper").unwrap_err().to_string().contains("a key of its state has 300 bytes"));
    root.drivers.remove("keeper", false).unwrap();
    root.drivers.install(&with(&format!("{is_there} {FINE}")), manifest("keeper"), false).unwrap();
    create(&root, "keeper").unwrap();
}

#[test]
fn a_driver_that_says_too_much_is_cut_short() {
    let imports = r#"(import "sampan:driver/host-log@0.1.0" "log" (func $log (param i32 i32 i32)))"#;
    let flood = "(local $n i32) (loop $again (call $log (i32.const 3) (i32.const 0) (i32.const 60000))
        (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $again (i32.lt_u (local.get $n) (i32.const 2000))))";
    assert_eq!(outcome(imports, &format!("{flood} {FINE}")).unwrap(), 0);
}

#[test]
fn a_driver_that_fails_again_and_again_is_left_alone_and_then_disabled() {
    let root = root();
    root.drivers.install(&component("", "unreachable"), manifest("evil"), false).unwrap();
    root.drivers.install(&component("", FINE), manifest("good"), false).unwrap();
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let hears = told.clone();
    root.drivers.on_trouble(move |trouble| hears.lock().unwrap().push((trouble.name.clone(), trouble.disabled)));
    for _ in 0..3 {
        assert!(matches!(create(&root, "evil").unwrap_err(), DriverError::Fault { .. }));
    }
    let error = create(&root, "evil").unwrap_err();
    assert!(
        error.to_string().contains("is left alone for 1 s after 3 failures in a row; the last: create: trapped"),
        "{error}"
    );
    assert_eq!(root.drivers.info("evil").unwrap().state, "resting");
    assert_eq!(*told.lock().unwrap(), [("evil".to_owned(), false)]);
    assert_eq!(create(&root, "good").unwrap(), 0, "others go on");
    root.drivers.enable("evil", true).unwrap();
    assert!(matches!(create(&root, "evil").unwrap_err(), DriverError::Fault { .. }));
    root.drivers.enable("evil", false).unwrap();
    let error = create(&root, "evil").unwrap_err();
    assert_eq!(error.to_string(), "driver \"evil\" (volume) is disabled: it was disabled by the user");
    // Another daemon of the same root knows it too.
    let again = sampan_drivers::Drivers::open_with(
        common::config(root.folder.path(), root.folder.path().join("installed")),
        root.store.clone(),
        LIMITS,
    )
    .unwrap();
    assert_eq!(again.info("evil").unwrap().state, "disabled");
    assert_eq!(again.info("good").unwrap().state, "ready");
}

#[test]
fn what_does_not_keep_the_contract_is_not_installed() {
    let root = root();
    let good = component("", FINE);
    let refused = |bytes: &[u8], manifest: Manifest| {
        let error = root.drivers.install(bytes, manifest, false).unwrap_err();
        assert!(root.drivers.list().is_empty(), "nothing is kept");
        assert_eq!(std::fs::read_dir(root.folder.path().join("installed")).unwrap().count(), 0, "nothing is kept");
        error.to_string()
    };
    assert!(refused(b"#!/bin/sh\nexit 0\n", manifest("x")).contains("this is not WebAssembly"));
    assert!(refused(&wat::parse_str("(module)").unwrap(), manifest("x")).contains("this is a core module"));
    let text = refused(&good[..good.len() / 2], manifest("x"));
    assert!(text.starts_with("driver \"x\" (volume): the component cannot be used: "), "{text}");
    assert!(refused(&wat::parse_str("(component)").unwrap(), manifest("x")).contains("it exports nothing"));
    let log = Manifest::parse(br#"{"name":"x","kind":"log"}"#).unwrap();
    assert!(refused(&good, log).contains("the manifest says log, but the component is a volume driver"));
    let greedy = wat::parse_str(r#"(component (import "evil:root/exec" (instance)) (instance $i) (export "sampan:driver/volumes@0.1.0" (instance $i)))"#).unwrap();
    assert!(refused(&greedy, manifest("x")).contains("evil:root/exec"));
    let hollow =
        wat::parse_str(r#"(component (instance $i) (export "sampan:driver/volumes@0.1.0" (instance $i)))"#).unwrap();
    assert!(refused(&hollow, manifest("x")).contains("it does not keep the contract"));
    let newer =
        wat::parse_str(r#"(component (instance $i) (export "sampan:driver/volumes@0.7.0" (instance $i)))"#).unwrap();
    assert!(refused(&newer, manifest("x")).contains("version 0.7.0 of the contract; this engine serves 0.1.0"));
    let mut wanting = manifest("x");
    wanting.capabilities.network = vec!["logs.example:514".into()];
    assert!(refused(&good, wanting.clone()).ends_with("wants network access to logs.example:514; grant it to install"));
    root.drivers.install(&good, wanting, true).unwrap();
    assert!(
        root.drivers
            .install(&good, manifest("x"), false)
            .unwrap_err()
            .to_string()
            .contains("there is a volume driver \"x\" already")
    );
}

#[test]
fn calls_of_several_threads_do_not_disturb_each_other() {
    let root = root();
    root.drivers.install(&component("", FINE), manifest("good"), false).unwrap();
    root.drivers.install(&component("", "(loop (br 0)) unreachable"), manifest("evil"), false).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| create(&root, "evil").unwrap_err());
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| assert_eq!(create(&root, "good").unwrap(), 0)));
        }
    });
}

#[test]
fn a_swapped_driver_of_the_same_bytes_keeps_its_file() {
    let Some(shipped) = shipped() else { return };
    let component = std::fs::read(shipped.join("volume-local.wasm")).unwrap();
    let root = root();
    root.drivers.install(&component, manifest("one"), false).unwrap();
    root.drivers.install(&component, manifest("two"), false).unwrap();
    root.drivers.remove("one", false).unwrap();
    assert!(create(&root, "two").is_ok());
    assert!(create(&root, "one").unwrap_err().to_string().contains("there is no volume driver \"one\"; known: two"));
}
