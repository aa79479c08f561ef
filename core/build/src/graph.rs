//! Stages and what they need of each other.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::expand::Expander;
use crate::instruction::{Dockerfile, Instruction, Kind};
use crate::mount;
use crate::scope::{BuildArgs, Globals};
use crate::source::{Diagnostic, Span, nearest};

/// Where a stage begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image.
    Image(String),
    /// A context of the user's, which stands for a stage or an image.
    Context(String),
}

/// What `--from` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A stage.
    Stage(usize),
    /// An image.
    Image(String),
    /// A context of the user's.
    Context(String),
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Its name, in lower case.
    pub name: Option<String>,
    /// Where it begins.
    pub base: Base,
    /// `--platform`, expanded.
    pub platform: Option<String>,
    /// Where its FROM is among the instructions.
    pub from: usize,
    /// Its other instructions.
    pub body: Range<usize>,
    /// Stages that must be there first.
    pub needs: BTreeSet<usize>,
}

/// The stages of a file, and which of them a target needs.
#[derive(Debug, Clone)]
pub struct Graph {
    /// All stages, in the order of the file.
    pub stages: Vec<Stage>,
    /// The stage that becomes the image.
    pub target: usize,
    /// The stages that the target needs, itself last; each after all that it needs.
    pub order: Vec<usize>,
    /// The ARGs before the first FROM.
    pub globals: Globals,
    /// Names of the user's contexts (`--build-context`).
    contexts: BTreeSet<String>,
}

/// A fault without a place.
type Plain = String;

impl Graph {
    /// Plans a build of `target` (a name or a number; the last stage by default). `contexts` are names that come before
    /// stages and images.
    pub fn plan(
        file: &Dockerfile,
        args: &BuildArgs,
        target: Option<&str>,
        contexts: BTreeSet<String>,
    ) -> Result<Self, Diagnostic> {
        let mut globals = Globals::default();
        let mut stages: Vec<Stage> = Vec::new();
        for (at, instruction) in file.instructions.iter().enumerate() {
            match &instruction.kind {
                Kind::Arg(items) if stages.is_empty() => {
                    for (name, default) in items {
                        let lookup = |each: &str| globals.lookup(args, each);
                        let default = default
                            .as_deref()
                            .map(|text| Expander::new(&lookup, file.directives.escape).word(text))
                            .transpose()
                            .map_err(|error| fault(file, instruction, error.to_string()))?;
                        globals.declare(args, name, default);
                    }
                }
                Kind::From(from) => {
                    let lookup = |each: &str| globals.lookup(args, each);
                    let expander = Expander::new(&lookup, file.directives.escape);
                    let expand =
                        |text: &str| expander.word(text).map_err(|error| fault(file, instruction, error.to_string()));
                    let image = expand(&from.image)?;
                    if image.trim().is_empty() {
                        return Err(fault(file, instruction, format!("FROM {}: the name is empty", from.image))
                            .help("declare the ARG before the first FROM, with a default"));
                    }
                    let base = match (context_named(&contexts, &image), by_name(&stages, &image)) {
                        (Some(context), _) => Base::Context(context),
                        (None, Some(index)) => Base::Stage(index),
                        (None, None) if image == "scratch" => Base::Scratch,
                        (None, None) => Base::Image(image),
                    };
                    let platform = from.platform.as_deref().map(expand).transpose()?.filter(|text| !text.is_empty());
                    stages.push(Stage {
                        name: from.name.clone(),
                        base,
                        platform,
                        from: at,
                        body: at + 1..at + 1,
                        needs: BTreeSet::new(),
                    });
                }
                _ => {
                    if let Some(stage) = stages.last_mut() {
                        stage.body.end = at + 1;
                    }
                }
            }
        }
        let target = find_target(file, &stages, target)?;
        let mut graph = Self { stages, target, order: Vec::new(), globals, contexts };
        graph.link(file)?;
        graph.order = graph.sort(file)?;
        Ok(graph)
    }

    /// What a `--from` of `stage` names.
    pub fn origin(&self, stage: usize, text: &str) -> Result<Origin, Plain> {
        if text.contains('$') {
            return Err(format!("--from={text}: no variables here; give a stage a name: FROM {text} AS name"));
        }
        if let Some(context) = context_named(&self.contexts, text) {
            return Ok(Origin::Context(context));
        }
        let lower = text.to_ascii_lowercase();
        let index = by_name(&self.stages, &lower).or_else(|| {
            let index: usize = text.parse().ok()?;
            (index < self.stages.len()).then_some(index)
        });
        match index {
            Some(index) if index == stage => Err(format!("--from={text}: the stage would copy from itself")),
            Some(index) => Ok(Origin::Stage(index)),
            None if text.bytes().all(|b| b.is_ascii_digit()) => {
                Err(format!("--from={text}: there are {} stages, counted from 0", self.stages.len()))
            }
            None => Ok(Origin::Image(text.to_owned())),
        }
    }

    fn link(&mut self, file: &Dockerfile) -> Result<(), Diagnostic> {
        for index in 0..self.stages.len() {
            let mut needs = BTreeSet::new();
            if let Base::Stage(base) = self.stages[index].base {
                needs.insert(base);
            }
            for instruction in &file.instructions[self.stages[index].body.clone()] {
                for from in origins(instruction) {
                    let origin = self.origin(index, &from).map_err(|why| fault(file, instruction, why))?;
                    if let Origin::Stage(other) = origin {
                        needs.insert(other);
                    }
                }
            }
            self.stages[index].needs = needs;
        }
        Ok(())
    }

    /// Depth first from the target; a stage that is met again on the way down needs itself.
    fn sort(&self, file: &Dockerfile) -> Result<Vec<usize>, Diagnostic> {
        let mut order = Vec::new();
        let mut done = vec![false; self.stages.len()];
        let mut path: Vec<(usize, Vec<usize>)> = vec![(self.target, self.needs_of(self.target))];
        while let Some((stage, rest)) = path.last_mut() {
            let stage = *stage;
            let Some(next) = rest.pop() else {
                if !done[stage] {
                    done[stage] = true;
                    order.push(stage);
                }
                path.pop();
                continue;
            };
            if done[next] {
                continue;
            }
            if path.iter().any(|(each, _)| *each == next) {
                let ring: Vec<String> = path
                    .iter()
                    .map(|(each, _)| *each)
                    .skip_while(|each| *each != next)
                    .chain([next])
                    .map(|each| self.label(each))
                    .collect();
                let instruction = &file.instructions[self.stages[stage].from];
                return Err(fault(file, instruction, format!("the stages need each other: {}", ring.join(" -> "))));
            }
            path.push((next, self.needs_of(next)));
        }
        Ok(order)
    }

    /// Highest first, so that the lowest is taken from the end.
    fn needs_of(&self, stage: usize) -> Vec<usize> {
        self.stages[stage].needs.iter().rev().copied().collect()
    }

    /// The stage's name, or its number.
    #[must_use]
    pub fn label(&self, stage: usize) -> String {
        self.stages[stage].name.clone().unwrap_or_else(|| stage.to_string())
    }
}

/// The `--from` values of an instruction.
#[must_use]
pub fn origins(instruction: &Instruction) -> Vec<String> {
    match &instruction.kind {
        Kind::Copy(copy) => copy.from.iter().cloned().collect(),
        Kind::Run(run) => run.mounts.iter().filter_map(|text| mount::from_of(text)).collect(),
        _ => Vec::new(),
    }
}

/// The user's context of a name; an image's name stands for all its spellings.
fn context_named(contexts: &BTreeSet<String>, name: &str) -> Option<String> {
    let familiar = |text: &str| sampan_image::ImageRef::parse(text).ok().map(|name| name.familiar());
    let lower = name.to_ascii_lowercase();
    let same = |each: &&String| {
        **each == lower
            || (each.contains([':', '/', '.']) && familiar(each).is_some_and(|it| familiar(name) == Some(it)))
    };
    contexts.iter().find(same).cloned()
}

/// The last of a name: `--check` warns of others.
fn by_name(stages: &[Stage], name: &str) -> Option<usize> {
    let name = name.to_ascii_lowercase();
    stages.iter().rposition(|stage| stage.name.as_ref() == Some(&name))
}

fn fault(file: &Dockerfile, instruction: &Instruction, message: String) -> Diagnostic {
    file.source.diagnostic(instruction.span, message)
}

fn find_target(file: &Dockerfile, stages: &[Stage], target: Option<&str>) -> Result<usize, Diagnostic> {
    let last = stages.len().saturating_sub(1);
    let Some(target) = target.filter(|text| !text.is_empty()) else { return Ok(last) };
    let number = || target.parse::<usize>().ok().filter(|index| *index <= last);
    by_name(stages, target).or_else(number).ok_or_else(|| {
        let span = stages.last().map_or(Span::default(), |stage| file.instructions[stage.from].span);
        let names: Vec<&str> = stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
        let fault = file.source.diagnostic(span, format!("there is no stage {target}"));
        match nearest(target, names.iter().copied()) {
            Some(meant) => fault.help(format!("did you mean {meant}?")),
            None if names.is_empty() => fault.help("no stage has a name"),
            None => fault.help(format!("there are {}", names.join(", "))),
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::parser::parse;
    use sampan_image::Platform;
    use std::collections::HashMap;

    fn plan(text: &str, target: Option<&str>) -> Result<Graph, Diagnostic> {
        let host = Platform::host();
        let args = BuildArgs::new(&HashMap::new(), &host, &host, "");
        Graph::plan(&parse("Dockerfile", text).unwrap(), &args, target, BTreeSet::new())
    }

    #[test]
    fn only_what_the_target_needs_is_built_in_order() {
        let text = "ARG V=3\nFROM debian:${V} AS base\nFROM base AS b\nRUN x\nFROM base AS unused\nFROM scratch AS c\nRUN --mount=type=bind,from=1,target=/b x\nFROM c\nCOPY --from=B /x /\nCOPY --from=busybox /y /\n";
        let graph = plan(text, None).unwrap();
        assert_eq!(graph.order, [0, 1, 3, 4]);
        assert_eq!(graph.stages[0].base, Base::Image("debian:3".into()));
        assert_eq!(graph.stages[4].base, Base::Stage(3));
        assert_eq!(graph.origin(4, "busybox").unwrap(), Origin::Image("busybox".into()));
        assert_eq!(plan(text, Some("unused")).unwrap().order, [0, 2]);
        assert_eq!(plan(text, Some("1")).unwrap().target, 1);
    }

    #[test]
    fn contexts_of_the_user_come_before_stages_and_images() {
        let host = Platform::host();
        let args = BuildArgs::new(&HashMap::new(), &host, &host, "");
        let text =
            "FROM alpine AS deps\nRUN x\nFROM docker.io/library/debian:12\nCOPY --from=deps / /\nCOPY --from=Lib / /\n";
        let contexts: BTreeSet<String> = ["deps", "lib", "debian:12"].map(str::to_owned).into();
        let graph = Graph::plan(&parse("Dockerfile", text).unwrap(), &args, None, contexts).unwrap();
        assert_eq!(graph.order, [1], "the stage is replaced");
        assert_eq!(graph.stages[1].base, Base::Context("debian:12".into()));
        assert_eq!(graph.origin(1, "Lib").unwrap(), Origin::Context("lib".into()));
        assert_eq!(graph.origin(1, "deps").unwrap(), Origin::Context("deps".into()));
    }

    #[test]
    fn what_cannot_be_planned_is_shown() {
        let shown: Vec<String> = [
            ("FROM a AS x\nCOPY --from=y / /\nFROM a AS y\nCOPY --from=x / /\n", None),
            ("FROM a AS x\nCOPY --from=x / /\n", None),
            ("FROM ${NOTHING}\n", None),
            ("FROM a AS build\nFROM b AS test\n", Some("biuld")),
            ("FROM a\nCOPY --from=7 a b\n", None),
            ("ARG X\nFROM a:${X:?say-which}\n", None),
        ]
        .into_iter()
        .map(|(text, target)| plan(text, target).unwrap_err().to_string())
        .collect();
        insta::assert_snapshot!(shown.join("\n\n"));
    }
}
