//! What can be asked of a Dockerfile without building it: what a target takes (`outline`), and which targets there are.
//! The documents are those of BuildKit's frontend, which tools know.

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::expand::Expander;
use crate::graph::{Base, Graph};
use crate::instruction::{Dockerfile, Instruction, Kind};
use crate::mount::{self, MountKind};
use crate::scope::BuildArgs;
use crate::source::Source;

/// Where something stands, from line 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// One, whose end is its last line.
    pub ranges: Vec<Range>,
}

/// Lines of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first.
    pub start: Position,
    /// The last.
    pub end: Position,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// From 1.
    pub line: usize,
}

impl Location {
    /// Where an instruction stands.
    #[must_use]
    pub fn of(source: &Source, instruction: &Instruction) -> Self {
        let end = source.line(instruction.span.end.saturating_sub(1).max(instruction.span.start));
        Self::lines(instruction.line, end)
    }

    /// From one line to another.
    #[must_use]
    pub fn lines(start: usize, end: usize) -> Self {
        Self { ranges: vec![Range { start: Position { line: start }, end: Position { line: end } }] }
    }
}

/// What a target takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    /// The stage's, if it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What a comment says of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Build arguments, in the order of the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Arg>,
    /// Secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Need>,
    /// Agents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<Need>,
    /// Directories of cache mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cache: Vec<Cache>,
    /// The Dockerfile, as base64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arg {
    /// Its name.
    pub name: String,
    /// What a comment says of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it is worth in such a build.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Where it is declared.
    pub location: Location,
}

/// A secret or an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// Its id.
    pub name: String,
    /// Whether the build fails without it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// Where it is asked for.
    pub location: Location,
}

/// A directory that is kept over builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// Its name.
    #[serde(rename = "ID")]
    pub id: String,
    /// Where it is mounted.
    pub location: Location,
}

/// The targets of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// Each stage.
    pub targets: Vec<Target>,
    /// The Dockerfile, as base64.
    pub sources: Vec<String>,
}

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Whether it is built when none is asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// What a comment says of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it begins with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub base: String,
    /// For what it is, if FROM says so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// Where it begins.
    pub location: Location,
}

/// The comments right above an instruction, without their marks, first to last; an empty line or comment ends them, and
/// directives are none.
#[must_use]
pub fn comments<'a>(source: &'a Source, instruction: &Instruction) -> Vec<&'a str> {
    let before = source.text().get(..instruction.span.start).unwrap_or_default();
    let before = &before[..before.rfind('\n').map_or(0, |at| at + 1)];
    let mut found = Vec::new();
    for line in before.lines().rev() {
        let Some(comment) = line.trim().strip_prefix('#').map(str::trim) else { break };
        let directive = comment.split_once('=').is_some_and(|(name, _)| {
            matches!(name.trim().to_ascii_lowercase().as_str(), "syntax" | "escape" | "check")
        });
        if comment.is_empty() || directive {
            break;
        }
        found.push(comment);
    }
    found.reverse();
    found
}

/// What the comments above an instruction say of a name: `# NAME and then the text`.
fn description(source: &Source, instruction: &Instruction, name: &str) -> String {
    let of = |comment: &&str| comment.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '));
    let found = comments(source, instruction).into_iter().find(of);
    found.map(|comment| comment[name.len()..].trim().to_owned()).unwrap_or_default()
}

fn encoded(source: &Source) -> Vec<String> {
    vec![base64::engine::general_purpose::STANDARD.encode(source.text())]
}

/// The targets of a file.
#[must_use]
pub fn targets(file: &Dockerfile, graph: &Graph) -> Targets {
    let last = graph.stages.len().saturating_sub(1);
    let targets = graph.stages.iter().enumerate().map(|(at, stage)| {
        let instruction = &file.instructions[stage.from];
        let from = if let Kind::From(from) = &instruction.kind { Some(from) } else { None };
        // As it is written there.
        let written = instruction.text.split_whitespace().last().filter(|_| stage.name.is_some());
        Target {
            name: stage.name.clone().unwrap_or_default(),
            default: at == last,
            description: written.map(|name| description(&file.source, instruction, name)).unwrap_or_default(),
            base: match &stage.base {
                Base::Image(name) => name.clone(),
                Base::Scratch | Base::Stage(_) | Base::Context(_) => {
                    from.map(|from| from.image.clone()).unwrap_or_default()
                }
            },
            platform: from.and_then(|from| from.platform.clone()).unwrap_or_default(),
            location: Location::of(&file.source, instruction),
        }
    });
    Targets { targets: targets.collect(), sources: encoded(&file.source) }
}

/// What the target of a plan takes, with what its arguments are worth then.
#[must_use]
pub fn outline(file: &Dockerfile, graph: &Graph, args: &BuildArgs) -> Outline {
    let target = &graph.stages[graph.target];
    let from = &file.instructions[target.from];
    let written = from.text.split_whitespace().last().filter(|_| target.name.is_some());
    let mut outline = Outline {
        name: target.name.clone().unwrap_or_default(),
        description: written.map(|name| description(&file.source, from, name)).unwrap_or_default(),
        sources: encoded(&file.source),
        ..Outline::default()
    };
    let first = graph.stages.first().map_or(file.instructions.len(), |stage| stage.from);
    let used: Vec<&str> =
        graph.order.iter().map(|index| file.instructions[graph.stages[*index].from].text.as_str()).collect();
    let globals = file.instructions[..first].iter();
    let mut stages: Vec<usize> = graph.order.clone();
    stages.sort_unstable();
    let bodies = stages.iter().flat_map(|index| &file.instructions[graph.stages[*index].body.clone()]);
    let declared: Vec<&str> = bodies
        .clone()
        .filter_map(|each| if let Kind::Arg(items) = &each.kind { Some(items) } else { None })
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    for (instruction, is_global) in globals.map(|each| (each, true)).chain(bodies.map(|each| (each, false))) {
        let location = Location::of(&file.source, instruction);
        match &instruction.kind {
            Kind::Arg(items) => {
                for (name, default) in items {
                    let mentioned =
                        |text: &&str| text.contains(&format!("${name}")) || text.contains(&format!("${{{name}"));
                    // One before all stages counts where a FROM or an ARG of a stage takes it.
                    let counts = !is_global || used.iter().any(mentioned) || declared.contains(&name.as_str());
                    if !counts || args.is_automatic(name) || outline.args.iter().any(|known| known.name == *name) {
                        continue;
                    }
                    let lookup = |each: &str| {
                        let known =
                            outline.args.iter().find(|known| known.name == each).map(|known| known.value.clone());
                        known.or_else(|| graph.globals.lookup(args, each))
                    };
                    let expander = Expander::new(&lookup, file.directives.escape);
                    let default = default.as_deref().and_then(|text| expander.word(text).ok());
                    let value = args.given(name).map(str::to_owned).or(default);
                    let value = value.or_else(|| graph.globals.lookup(args, name)).unwrap_or_default();
                    let description = description(&file.source, instruction, name);
                    outline.args.push(Arg { name: name.clone(), description, value, location: location.clone() });
                }
            }
            Kind::Run(run) => {
                for text in &run.mounts {
                    // What is no mount, or depends on variables, is for the build to say.
                    let Ok(mount) = mount::parse(text, &|text: &str| Ok(text.to_owned())) else { continue };
                    let (place, need) = match mount.kind {
                        MountKind::Cache { id, .. } => {
                            if !outline.cache.iter().any(|known| known.id == id) {
                                outline.cache.push(Cache { id, location: location.clone() });
                            }
                            continue;
                        }
                        MountKind::Secret { id, required, .. } => (&mut outline.secrets, (id, required)),
                        MountKind::Ssh { id, required, .. } => (&mut outline.ssh, (id, required)),
                        MountKind::Bind { .. } | MountKind::Tmpfs { .. } => continue,
                    };
                    match place.iter_mut().find(|known| known.name == need.0) {
                        Some(known) => known.required |= need.1,
                        None => place.push(Need { name: need.0, required: need.1, location: location.clone() }),
                    }
                }
            }
            _ => {}
        }
    }
    outline
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::parser::parse;
    use sampan_image::Platform;
    use std::collections::{BTreeSet, HashMap};

    const TEXT: &str = "# syntax=docker/dockerfile:1\n# VERSION of the compiler\nARG VERSION=1.2\nARG UNUSED=x\n\n\
        # Build makes the program\nFROM --platform=$BUILDPLATFORM rust:${VERSION} AS Build\n\
        # any words\nARG TARGETARCH\n# FEATURES to build with\nARG FEATURES=\"a b\"\nARG VERSION\n\
        RUN --mount=type=secret,id=token,required=true --mount=type=cache,target=/c,id=crates \\\n    --mount=type=ssh make\n\
        # no description\n\n# tests runs them\nFROM build AS tests\nARG ONLY\nRUN --mount=type=secret,id=other x\n\
        FROM scratch\nCOPY --from=build /out /\n";

    fn planned(target: Option<&str>) -> (Dockerfile, Graph, BuildArgs) {
        let file = parse("Dockerfile", TEXT).unwrap();
        let host = Platform::parse("linux/amd64").unwrap();
        let given = HashMap::from([("ONLY".to_owned(), Some("given".to_owned()))]);
        let args = BuildArgs::new(&given, &host, &host, target.unwrap_or_default());
        let graph = Graph::plan(&file, &args, target, BTreeSet::new()).unwrap();
        (file, graph, args)
    }

    #[test]
    fn an_outline_tells_what_a_target_takes() {
        let shown: Vec<String> = [None, Some("tests")]
            .into_iter()
            .map(|target| {
                let (file, graph, args) = planned(target);
                let found = Outline { sources: Vec::new(), ..outline(&file, &graph, &args) };
                serde_json::to_string_pretty(&found).unwrap()
            })
            .collect();
        insta::assert_snapshot!(shown.join("\n\n"));
    }

    #[test]
    fn targets_are_told_with_what_is_said_of_them() {
        let (file, graph, _) = planned(None);
        let found = Targets { sources: Vec::new(), ..targets(&file, &graph) };
        insta::assert_snapshot!(serde_json::to_string_pretty(&found).unwrap());
    }
}
