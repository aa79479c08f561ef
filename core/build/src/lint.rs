//! What a Dockerfile most likely does not mean. The rules bear the names of Docker's build checks, so that `# check=`
//! directives that are written for those hold here.

use std::collections::{BTreeMap, BTreeSet};

use crate::dockerignore::Ignore;
use crate::expand::Expander;
use crate::instruction::{Command, Dockerfile, Instruction, Kind, Transfer, TransferSource};
use crate::pattern::{Pattern, clean};
use crate::source::{Diagnostic, Span, nearest};

/// A rule that a line broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Such as `MaintainerDeprecated`.
    pub rule: &'static str,
    /// What and where.
    pub place: Diagnostic,
}

impl Warning {
    /// What the rule is about.
    #[must_use]
    pub fn description(&self) -> &'static str {
        described(self.rule)
    }

    /// In the form of BuildKit's frontend, which tools know.
    #[must_use]
    pub fn document(&self) -> serde_json::Value {
        serde_json::json!({
            "ruleName": self.rule,
            "description": self.description(),
            "detail": self.detail(),
            "location": crate::outline::Location::lines(self.place.line, self.place.line),
        })
    }

    /// What is wrong, without the name of the rule.
    #[must_use]
    pub fn detail(&self) -> &str {
        let message = &self.place.message;
        message.strip_prefix(self.rule).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(message)
    }
}

/// What `# check=` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    skip_all: bool,
    skip: BTreeSet<String>,
    /// Rules that are looked at only when named.
    experimental: BTreeSet<String>,
    /// Warnings fail the build.
    pub error: bool,
}

impl Options {
    /// `skip=Rule,Rule;error=true;experimental=Rule`; `all` stands for every rule.
    ///
    /// # Errors
    /// A sentence that names the option.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match (name.trim(), value.trim()) {
                ("skip", "all") => options.skip_all = true,
                ("skip", rules) => options.skip.extend(rules.split(',').map(|rule| rule.trim().to_ascii_lowercase())),
                ("experimental", rules) => {
                    options.experimental.extend(rules.split(',').map(|rule| rule.trim().to_ascii_lowercase()));
                }
                ("error", "true" | "1") => options.error = true,
                ("error", "false" | "0") => options.error = false,
                ("error", other) => return Err(format!("check=error={other}: expected true or false")),
                (other, _) => return Err(format!("check={other}: expected skip=, error= or experimental=")),
            }
        }
        Ok(options)
    }

    fn skips(&self, rule: &str) -> bool {
        self.skip_all || self.skip.contains(&rule.to_ascii_lowercase())
    }

    fn tries(&self, rule: &str) -> bool {
        self.experimental.contains("all") || self.experimental.contains(&rule.to_ascii_lowercase())
    }
}

/// Names that FROM may use without an ARG.
const AUTOMATIC: [&str; 9] = [
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETSTAGE",
];

/// Looks at a file; what `options` skip is left out. `ignore` is what the context leaves out.
#[must_use]
pub fn check(file: &Dockerfile, options: &Options, ignore: &Ignore) -> Vec<Warning> {
    let ignore = options.tries("CopyIgnoredFile").then_some(ignore);
    let describes = options.tries("InvalidDefinitionDescription");
    let (found, globals, stages) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let mut lint = Lint { file, found, globals, stages, names: BTreeSet::new(), stage: None, ignore, describes };
    lint.casing();
    for instruction in &file.instructions {
        lint.one(instruction);
    }
    let mut found = lint.found;
    found.retain(|warning| !options.skips(warning.rule));
    found.sort_by_key(|warning| (warning.place.line, warning.place.column));
    found
}

/// What a rule is about, for reports.
fn described(rule: &str) -> &'static str {
    match rule {
        "ConsistentInstructionCasing" => {
            "All commands within the Dockerfile should use the same casing (either upper or lower)"
        }
        "CopyIgnoredFile" => "Attempting to Copy file that is excluded by .dockerignore",
        "DuplicateStageName" => "Stage names should be unique",
        "ExposeInvalidFormat" => "IP address and host-port mapping should not be used in EXPOSE instruction",
        "ExposeProtoCasing" => "Protocol in EXPOSE instruction should be lowercase",
        "FromAsCasing" => "The 'as' keyword should match the case of the 'from' keyword",
        "FromPlatformFlagConstDisallowed" => "FROM --platform flag should not use a constant value",
        "InvalidDefaultArgInFrom" => "Default value for global ARG results in an empty or invalid base image name",
        "InvalidDefinitionDescription" => {
            "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment."
        }
        "JSONArgsRecommended" => {
            "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals"
        }
        "LegacyKeyValueFormat" => "Legacy key/value format with whitespace separator should not be used",
        "MaintainerDeprecated" => {
            "The MAINTAINER instruction is deprecated, use a label instead to define an image author"
        }
        "MultipleInstructionsDisallowed" => {
            "Multiple instructions of the same type should not be used in the same stage"
        }
        "NoEmptyContinuation" => "Empty continuation lines will become errors in a future release",
        "RedundantTargetPlatform" => {
            "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"
        }
        "ReservedStageName" => "Reserved words should not be used as stage names",
        "SecretsUsedInArgOrEnv" => "Sensitive data should not be used in the ARG or ENV commands",
        "StageNameCasing" => "Stage names should be lowercase",
        "UndefinedArgInFrom" => "FROM command must use declared ARGs",
        "UndefinedVar" => "Variables should be defined before their use",
        "WorkdirRelativePath" => {
            "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes"
        }
        _ => "",
    }
}

/// What was found, in the form of BuildKit's frontend, which tools know.
#[must_use]
pub fn report(found: &[Warning], text: &str) -> serde_json::Value {
    use base64::Engine as _;
    let warnings: Vec<_> = found.iter().map(Warning::document).collect();
    let source = base64::engine::general_purpose::STANDARD.encode(text);
    serde_json::json!({ "warnings": warnings, "sources": [source] })
}

/// What is known of the stage so far.
#[derive(Default)]
struct Stage {
    shell: bool,
    absolute: bool,
    seen: BTreeSet<&'static str>,
    /// Variables that have values: of ENV and of the stage below, and of ARG.
    variables: BTreeSet<String>,
    arguments: BTreeSet<String>,
    /// The base image may bring others.
    open: bool,
    name: Option<String>,
}

struct Lint<'a> {
    file: &'a Dockerfile,
    found: Vec<Warning>,
    /// ARGs before the first FROM, with their defaults.
    globals: BTreeMap<String, Option<String>>,
    /// By name: variables, and whether the base may bring others.
    stages: BTreeMap<String, (BTreeSet<String>, bool)>,
    /// Of the stages so far.
    names: BTreeSet<String>,
    stage: Option<Stage>,
    ignore: Option<&'a Ignore>,
    /// Comments above stages and arguments are looked at.
    describes: bool,
}

/// The word that is the instruction as written.
fn keyword(instruction: &Instruction) -> &str {
    instruction.text.split_whitespace().next().unwrap_or_default()
}

fn upper(word: &str) -> bool {
    !word.chars().any(|c| c.is_ascii_lowercase())
}

impl Lint<'_> {
    fn warn(&mut self, rule: &'static str, instruction: &Instruction, message: String) {
        let end = instruction.span.start + keyword(instruction).len();
        self.warn_at(rule, Span { start: instruction.span.start, end }, message);
    }

    /// Points at a word of the instruction.
    fn warn_word(&mut self, rule: &'static str, instruction: &Instruction, word: &str, message: String) {
        let text = self.file.source.text();
        let within = text.get(instruction.span.start..instruction.span.end).unwrap_or_default();
        let start = instruction.span.start + within.find(word).unwrap_or(0);
        self.warn_at(rule, Span { start, end: start + word.len() }, message);
    }

    fn warn_at(&mut self, rule: &'static str, span: Span, message: String) {
        self.found.push(Warning { rule, place: self.file.source.diagnostic(span, format!("{rule}: {message}")) });
    }

    /// Keywords are written all in one way.
    fn casing(&mut self) {
        let (upper_ones, others): (Vec<_>, Vec<_>) =
            self.file.instructions.iter().partition(|each| upper(keyword(each)));
        let wants_upper = upper_ones.len() >= others.len();
        for instruction in &self.file.instructions {
            let word = keyword(instruction);
            let lower = !word.chars().any(|c| c.is_ascii_uppercase());
            if if wants_upper { !upper(word) } else { !lower } {
                let case = if wants_upper { "uppercase" } else { "lowercase" };
                let message = format!("the command {word} should match the case of the others ({case})");
                self.warn("ConsistentInstructionCasing", instruction, message);
            }
        }
    }

    fn one(&mut self, instruction: &Instruction) {
        self.empty_continuation(instruction);
        match &instruction.kind {
            Kind::From(from) => {
                if from.name.is_some() {
                    let written = instruction.text.split_whitespace().last().unwrap_or_default();
                    self.describes(instruction, "build stage", &[written]);
                }
                self.from(instruction);
                self.begin(instruction);
            }
            Kind::Arg(items) => {
                let names: Vec<&str> = items.iter().map(|(name, _)| name.as_str()).collect();
                self.describes(instruction, "ARG", &names);
                if self.stage.is_none() {
                    self.globals.extend(items.iter().cloned());
                }
                self.undefined(instruction);
                if let Some(stage) = &mut self.stage {
                    stage.arguments.extend(items.iter().map(|(name, _)| name.clone()));
                }
                for (name, _) in items {
                    self.secret(instruction, name);
                }
            }
            Kind::Env(pairs) => {
                for (name, _) in pairs {
                    self.secret(instruction, name);
                }
                self.legacy(instruction);
                self.undefined(instruction);
                if let Some(stage) = &mut self.stage {
                    stage.variables.extend(pairs.iter().map(|(name, _)| name.clone()));
                }
            }
            Kind::Label(_) => {
                self.legacy(instruction);
                self.undefined(instruction);
            }
            Kind::User(_) | Kind::Volume(_) | Kind::StopSignal(_) => self.undefined(instruction),
            Kind::Copy(transfer) | Kind::Add(transfer) => {
                self.undefined(instruction);
                self.ignored(instruction, transfer);
            }
            Kind::Maintainer(_) => {
                let message = "MAINTAINER is deprecated: LABEL org.opencontainers.image.authors=… says it".to_owned();
                self.warn("MaintainerDeprecated", instruction, message);
            }
            Kind::Cmd(command) => {
                self.once(instruction, "CMD");
                self.exec_form(instruction, command);
            }
            Kind::Entrypoint(command) => {
                self.once(instruction, "ENTRYPOINT");
                self.exec_form(instruction, command);
            }
            Kind::Healthcheck(_) => self.once(instruction, "HEALTHCHECK"),
            Kind::Shell(_) => {
                if let Some(stage) = &mut self.stage {
                    stage.shell = true;
                }
            }
            Kind::Workdir(path) => {
                self.workdir(instruction, path);
                self.undefined(instruction);
            }
            Kind::Expose(ports) => {
                self.undefined(instruction);
                for port in ports {
                    if port.contains(':') && !port.contains('$') {
                        let message = format!(
                            "{port} names an address or a port of the host: EXPOSE takes the container's port alone"
                        );
                        self.warn_word("ExposeInvalidFormat", instruction, port, message);
                    }
                    let protocol = port.rsplit_once('/').map_or("", |(_, protocol)| protocol);
                    if protocol.chars().any(|c| c.is_ascii_uppercase()) {
                        let message = format!("the protocol of {port} should be lowercase");
                        self.warn_word("ExposeProtoCasing", instruction, port, message);
                    }
                }
            }
            _ => {}
        }
    }

    /// A comment right above a definition is taken for its description.
    fn describes(&mut self, instruction: &Instruction, what: &str, names: &[&str]) {
        let comments = crate::outline::comments(&self.file.source, instruction);
        let Some(last) = comments.last().filter(|_| self.describes) else { return };
        if names.contains(&last.split(' ').next().unwrap_or_default()) {
            return;
        }
        let name = match names {
            [one] => one,
            _ => "<arg_key>",
        };
        let message = format!("a comment for {what} should follow the format: `# {name} <description>`");
        self.warn("InvalidDefinitionDescription", instruction, message);
    }

    fn from(&mut self, instruction: &Instruction) {
        let Kind::From(from) = &instruction.kind else { return };
        let words: Vec<&str> = instruction.text.split_whitespace().collect();
        if let [.., word, name] = words.as_slice()
            && from.name.is_some()
        {
            if name.chars().any(|c| c.is_ascii_uppercase()) {
                self.warn_word(
                    "StageNameCasing",
                    instruction,
                    name,
                    format!("the stage name {name} should be lowercase"),
                );
            }
            if !self.names.insert(name.to_ascii_lowercase()) {
                let message = format!("the stage name {name} is taken: the last of several stages is meant");
                self.warn_word("DuplicateStageName", instruction, name, message);
            }
            if upper(word) != upper(keyword(instruction)) {
                let message = format!("the case of {word} and {} should match", keyword(instruction));
                self.warn_word("FromAsCasing", instruction, word, message);
            }
            if matches!(name.to_ascii_lowercase().as_str(), "scratch" | "context") {
                let message = format!("the stage name {name} is reserved");
                self.warn_word("ReservedStageName", instruction, name, message);
            }
        }
        if let Some(platform) = &from.platform {
            if matches!(platform.as_str(), "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
                let message = format!("--platform={platform} is what holds without it");
                self.warn_word("RedundantTargetPlatform", instruction, platform, message);
            } else if !platform.contains('$') {
                let message = format!(
                    "--platform={platform} should not be a constant: use $BUILDPLATFORM or --platform of the build"
                );
                self.warn_word("FromPlatformFlagConstDisallowed", instruction, platform, message);
            }
        }
        let text = format!("{} {}", from.platform.as_deref().unwrap_or_default(), from.image);
        for name in variables(&text) {
            if !self.globals.contains_key(name) && !AUTOMATIC.contains(&name) {
                let message = format!("FROM uses {name}, which no ARG before it declares");
                self.warn_word("UndefinedArgInFrom", instruction, name, message);
            }
        }
        self.default_image(instruction, &from.image);
    }

    /// An image whose name is none unless arguments are given.
    fn default_image(&mut self, instruction: &Instruction, image: &str) {
        let names = variables(image);
        let known = |name: &&str| self.globals.contains_key(*name) || AUTOMATIC.contains(name);
        if names.is_empty() || !names.iter().all(known) {
            return;
        }
        let mut values: BTreeMap<String, String> =
            AUTOMATIC.iter().map(|name| ((*name).to_owned(), "linux".to_owned())).collect();
        let word = |values: &BTreeMap<String, String>, text: &str| {
            let lookup = |name: &str| values.get(name).cloned();
            Expander::new(&lookup, self.file.directives.escape).word(text).ok()
        };
        for (name, default) in &self.globals {
            if let Some(value) = default.as_deref().and_then(|text| word(&values, text)) {
                values.insert(name.clone(), value);
            }
        }
        // One that is asked for by `:?` says so itself.
        let Some(default) = word(&values, image) else { return };
        if sampan_image::ImageRef::parse(&default).is_err() && !self.stages.contains_key(&default.to_ascii_lowercase())
        {
            let message = format!("without arguments {image} is {default:?}, which names no image: give ARG a default");
            self.warn_word("InvalidDefaultArgInFrom", instruction, image, message);
        }
    }

    /// A stage begins, with the variables of its base.
    fn begin(&mut self, instruction: &Instruction) {
        self.end();
        let Kind::From(from) = &instruction.kind else { return };
        let (variables, open) = match self.stages.get(&from.image.to_ascii_lowercase()) {
            Some(base) => base.clone(),
            None => (BTreeSet::from(["PATH".to_owned()]), from.image != "scratch"),
        };
        self.stage = Some(Stage { variables, open, name: from.name.clone(), ..Stage::default() });
    }

    fn end(&mut self) {
        if let Some(Stage { name: Some(name), mut variables, arguments, open, .. }) = self.stage.take() {
            variables.extend(arguments);
            self.stages.insert(name, (variables, open));
        }
    }

    /// A variable without a value. Where the base image may have it, only one that is spelled like another is.
    fn undefined(&mut self, instruction: &Instruction) {
        let Some(stage) = &self.stage else { return };
        let mut found = Vec::new();
        for name in expanded(&instruction.text) {
            if stage.variables.contains(name) || stage.arguments.contains(name) {
                continue;
            }
            let known = stage.variables.iter().chain(&stage.arguments).map(String::as_str);
            let meant = nearest(name, known.filter(|known| known.len() > 4 && known.len().abs_diff(name.len()) < 2));
            if stage.open && meant.is_none() {
                continue;
            }
            let hint = meant.map(|meant| format!("; did you mean ${meant}?")).unwrap_or_default();
            found.push((name, format!("${name} has no value here{hint}")));
        }
        for (name, message) in found {
            self.warn_word("UndefinedVar", instruction, &format!("${name}"), message.clone());
        }
    }

    /// A file that the context leaves out.
    fn ignored(&mut self, instruction: &Instruction, transfer: &Transfer) {
        let Some(ignore) = self.ignore.filter(|_| transfer.from.is_none()) else { return };
        for source in &transfer.sources {
            let TransferSource::Path(path) = source else { continue };
            let cleaned = clean(path.trim_start_matches('/'));
            if Pattern::is_literal(path) && !path.contains('$') && ignore.ignores(&cleaned) {
                let message = format!("{path} is left out by .dockerignore");
                self.warn_word("CopyIgnoredFile", instruction, path, message);
            }
        }
    }

    fn once(&mut self, instruction: &Instruction, word: &'static str) {
        let Some(stage) = &mut self.stage else { return };
        if !stage.seen.insert(word) {
            let message = format!("several {word} in one stage: only the last counts");
            self.warn("MultipleInstructionsDisallowed", instruction, message);
        }
    }

    fn exec_form(&mut self, instruction: &Instruction, command: &Command) {
        if matches!(command, Command::Shell(_)) && !self.stage.as_ref().is_some_and(|stage| stage.shell) {
            let word = instruction.kind.keyword();
            let message = format!("{word} as a JSON array, so that signals reach the program and not a shell");
            self.warn("JSONArgsRecommended", instruction, message);
        }
    }

    fn workdir(&mut self, instruction: &Instruction, path: &str) {
        let Some(stage) = &mut self.stage else { return };
        if path.starts_with(['/', '$']) {
            stage.absolute = true;
        } else if !stage.absolute {
            let message = format!("the relative path {path} depends on the base image");
            self.warn_word("WorkdirRelativePath", instruction, path, message);
        }
    }

    /// `ENV name value`.
    fn legacy(&mut self, instruction: &Instruction) {
        let word = instruction.text.split_whitespace().nth(1).unwrap_or_default();
        if !word.contains('=') {
            let message = format!("write {word}=VALUE: the form with a space is a legacy");
            self.warn_word("LegacyKeyValueFormat", instruction, word, message);
        }
    }

    fn secret(&mut self, instruction: &Instruction, name: &str) {
        let lower = name.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split(['_', '-']).collect();
        let words =
            ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
        if words.iter().any(|word| parts.contains(word)) && !parts.contains(&"public") {
            let message =
                format!("{name} looks like a secret, which ARG and ENV keep in the image: use RUN --mount=type=secret");
            self.warn_word("SecretsUsedInArgOrEnv", instruction, name, message);
        }
    }

    fn empty_continuation(&mut self, instruction: &Instruction) {
        let Span { start, end } = instruction.span;
        let text = self.file.source.text().get(start..end).unwrap_or_default();
        let heredocs = match &instruction.kind {
            Kind::Run(run) => !run.heredocs.is_empty(),
            Kind::Copy(transfer) | Kind::Add(transfer) => {
                transfer.sources.iter().any(|each| matches!(each, crate::instruction::TransferSource::Inline(_)))
            }
            _ => false,
        };
        if heredocs {
            return;
        }
        let mut at = start;
        for line in text.trim_end().split_inclusive('\n') {
            if line.trim().is_empty() {
                let message = "an empty line within a continued command".to_owned();
                self.warn_at("NoEmptyContinuation", Span { start: at, end: at }, message);
                return;
            }
            at += line.len();
        }
    }
}

/// Names of the variables that are replaced in an instruction, without those that say what holds when there is no value.
fn expanded(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let (mut single, mut double) = (false, false);
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' if !single => {
                letters.next();
            }
            '\'' if !double => single = !single,
            '"' if !single => double = !double,
            '$' if !single => {
                let rest = &text[at + 1..];
                let (rest, braced) = rest.strip_prefix('{').map_or((rest, false), |rest| (rest, true));
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                let plain = !braced || rest[end..].starts_with('}');
                if end > 0 && plain && !rest.starts_with(|c: char| c.is_ascii_digit()) {
                    names.push(&rest[..end]);
                }
            }
            _ => {}
        }
    }
    names
}

/// Names of the variables in a text.
fn variables(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        rest = rest[at + 1..].trim_start_matches('{');
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end > 0 {
            names.push(&rest[..end]);
        }
        rest = &rest[end..];
    }
    names
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::parser::parse;

    fn rules(text: &str, options: &str) -> Vec<String> {
        let file = parse("Dockerfile", text).unwrap();
        let found = check(&file, &Options::parse(options).unwrap(), &Ignore::parse("left/out\n").unwrap());
        found.into_iter().map(|each| format!("{}:{} {}", each.place.line, each.place.column, each.rule)).collect()
    }

    #[test]
    fn each_rule_points_at_its_word() {
        let text = "ARG BASE=x\nFROM $BASE as Build\nMAINTAINER me\nENV API_TOKEN abc\nWORKDIR src\nWORKDIR /a\nWORKDIR b\nEXPOSE 80/TCP\nCMD run\nCMD [\"run\"]\nrun true\nRUN a && \\\n\n    b\nFROM --platform=linux/amd64 $OTHER:1 AS context\nFROM --platform=$TARGETPLATFORM x AS build\nSHELL [\"/bin/bash\", \"-c\"]\nENTRYPOINT x\n";
        insta::assert_snapshot!(rules(text, "").join("\n"), @r"
        2:12 FromAsCasing
        2:15 StageNameCasing
        3:1 MaintainerDeprecated
        4:5 SecretsUsedInArgOrEnv
        4:5 LegacyKeyValueFormat
        5:9 WorkdirRelativePath
        8:8 ExposeProtoCasing
        9:1 JSONArgsRecommended
        10:1 MultipleInstructionsDisallowed
        11:1 ConsistentInstructionCasing
        13:1 NoEmptyContinuation
        15:17 FromPlatformFlagConstDisallowed
        15:30 UndefinedArgInFrom
        15:41 ReservedStageName
        16:17 RedundantTargetPlatform
        16:38 DuplicateStageName
        ");
    }

    #[test]
    fn variables_without_a_value_are_named() {
        let text = "ARG TAG\nFROM scratch AS base\nARG VERSION=1\nENV HOME=/h\nCOPY a $VERSON/\nLABEL a=$HOME b='$NOT' c=\\$NOR d=${OR:-x}\nRUN echo $ANY\nFROM base\nWORKDIR $HOME\nUSER $VERSION\nFROM alpine\nWORKDIR $OF_THE_BASE\nENV MY_NAME=x\nUSER $MY_NMAE\nEXPOSE 127.0.0.1:80:80\nFROM image:$TAG\nFROM $TAG\n";
        insta::assert_snapshot!(rules(text, "").join("\n"), @r"
        5:8 UndefinedVar
        14:6 UndefinedVar
        15:8 ExposeInvalidFormat
        16:6 InvalidDefaultArgInFrom
        17:6 InvalidDefaultArgInFrom
        ");
    }

    #[test]
    fn experimental_rules_are_asked_for() {
        let text = "FROM scratch\nCOPY left/out left/in /\n";
        assert!(rules(text, "").is_empty());
        assert_eq!(rules(text, "experimental=CopyIgnoredFile"), ["2:6 CopyIgnoredFile"]);
        assert_eq!(rules(text, "experimental=all"), ["2:6 CopyIgnoredFile"]);
        let text = "# syntax=docker/dockerfile:1\nARG A\n# B is told\nARG B=1\n# not told\nARG C=1\n# D\n#\nARG D\n\n\
                    # Base of all\nFROM scratch AS Base\n# words\n\nFROM scratch AS other\n# a scratch\nFROM scratch\n\
                    # E or F\nARG E F\n# nothing\nARG G H\n# words\nFROM scratch AS last\n";
        let found = rules(text, "experimental=InvalidDefinitionDescription;skip=StageNameCasing");
        assert_eq!(found.join("\n").replace(" InvalidDefinitionDescription", ""), "6:1\n21:1\n23:1");
        assert!(rules(text, "skip=StageNameCasing").is_empty());
    }

    #[test]
    fn directives_skip_rules() {
        let text = "FROM x\nMAINTAINER me\nCMD run\n";
        assert_eq!(rules(text, "skip=JSONArgsRecommended"), ["2:1 MaintainerDeprecated"]);
        assert!(rules(text, "skip=all").is_empty());
        assert!(Options::parse("skip=A;error=true").unwrap().error);
        Options::parse("error=maybe").unwrap_err();
        Options::parse("skp=A").unwrap_err();
    }
}
