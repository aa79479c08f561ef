//! What is measured.

use super::{BIG, IMAGE, RUNS};

/// A command's words. `{peer}` is the engine's name, `{run}` the number of the run.
type Words = &'static [&'static str];

/// A thing to measure, as words of the command line, the same for every peer. Stacks are words that begin with `compose`.
pub struct Row {
    pub name: &'static str,
    pub runs: usize,
    /// What is done before and not timed.
    pub before: &'static [Words],
    pub words: Words,
    /// So often at once.
    pub at_once: usize,
    /// What takes it away again, not timed.
    pub after: &'static [Words],
    /// What is run on is something else each time: the environment's `EDIT`, and the file of that name of a build.
    pub edited: bool,
    /// Needs the registry, which is empty before each run: what it has it need not be given, whatever its name there.
    pub registry: bool,
}

const ROW: Row =
    Row { name: "", runs: RUNS, before: &[], words: &[], at_once: 1, after: &[], edited: false, registry: false };

const CHAIN: Words = &["compose", "-f", "chain.yaml", "-p", "chain", "up", "-d", "--wait"];
const CHAIN_DOWN: Words = &["compose", "-f", "chain.yaml", "-p", "chain", "down", "-t", "0"];
const WIDE: Words = &["compose", "-f", "wide.yaml", "-p", "wide", "up", "-d"];
const WIDE_DOWN: Words = &["compose", "-f", "wide.yaml", "-p", "wide", "down", "-t", "0"];
const BUILD: Words = &["build", "-q", "-t", "ten", "ten"];
const LOAD: Words = &["load", "-q", "-i", "big.tar"];
const UNLOAD: Words = &["rmi", "-f", BIG];
/// On the registry that is started beside the engines.
const PUSHED: &str = "127.0.0.1:5999/{peer}{run}:1";

pub const ROWS: [Row; 24] = [
    Row { name: "run --rm true, default bridge", words: &["run", "--rm", IMAGE, "true"], ..ROW },
    Row { name: "run --rm true, no network", words: &["run", "--rm", "--network", "none", IMAGE, "true"], ..ROW },
    Row {
        name: "run --rm true, one published port",
        words: &["run", "--rm", "-p", "127.0.0.1:39999:80", IMAGE, "true"],
        ..ROW
    },
    Row {
        name: "run -d",
        words: &["run", "-d", "--name", "timed", IMAGE, "sleep", "1000"],
        after: &[&["rm", "-f", "timed"]],
        ..ROW
    },
    Row {
        name: "create",
        words: &["create", "--name", "timed", IMAGE, "true"],
        after: &[&["rm", "-f", "timed"]],
        ..ROW
    },
    Row { name: "exec true", words: &["exec", "standing", "true"], ..ROW },
    Row { name: "ps", words: &["ps"], ..ROW },
    Row { name: "inspect", words: &["inspect", "standing"], ..ROW },
    Row { name: "logs of one line", words: &["logs", "standing"], ..ROW },
    Row { name: "stats --no-stream", runs: 5, words: &["stats", "--no-stream"], ..ROW },
    Row { name: "8 run --rm at once", runs: 5, words: &["run", "--rm", IMAGE, "true"], at_once: 8, ..ROW },
    Row { name: "chain of 10 healthy services: up", runs: 3, words: CHAIN, after: &[CHAIN_DOWN], ..ROW },
    Row { name: "50 services: up", runs: 3, words: WIDE, after: &[WIDE_DOWN], ..ROW },
    Row { name: "50 services: up, nothing changed", runs: 5, before: &[WIDE], words: WIDE, ..ROW },
    Row { name: "50 services: up, one edited", runs: 5, before: &[WIDE], words: WIDE, edited: true, ..ROW },
    Row { name: "50 services: down", runs: 3, before: &[WIDE], words: WIDE_DOWN, ..ROW },
    Row { name: "build of ten steps, nothing changed", runs: 5, words: BUILD, ..ROW },
    Row { name: "build of ten steps, one file edited", runs: 5, words: BUILD, edited: true, ..ROW },
    Row {
        name: "build of ten steps, all anew",
        runs: 5,
        words: &["build", "-q", "-t", "anew", "--build-arg", "EDIT", "-f", "ten/Dockerfile.anew", "ten"],
        edited: true,
        ..ROW
    },
    Row { name: "load of 300 MB, 20,000 files", runs: 3, words: LOAD, after: &[UNLOAD], ..ROW },
    Row {
        name: "save of it",
        runs: 3,
        before: &[LOAD],
        words: &["save", "-o", "saved.tar", BIG],
        after: &[UNLOAD],
        ..ROW
    },
    Row {
        name: "import of its files",
        runs: 3,
        words: &["import", "root.tar", "imported:1"],
        after: &[&["rmi", "-f", "imported:1"]],
        ..ROW
    },
    Row {
        name: "push of it",
        runs: 3,
        before: &[LOAD, &["tag", BIG, PUSHED]],
        words: &["push", "-q", PUSHED],
        after: &[&["rmi", "-f", PUSHED], UNLOAD],
        registry: true,
        ..ROW
    },
    Row {
        name: "pull of it",
        runs: 3,
        before: &[LOAD, &["tag", BIG, PUSHED], &["push", "-q", PUSHED], &["rmi", "-f", PUSHED], UNLOAD],
        words: &["pull", "-q", PUSHED],
        after: &[&["rmi", "-f", PUSHED]],
        registry: true,
        ..ROW
    },
];
