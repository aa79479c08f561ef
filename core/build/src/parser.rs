//! From logical lines to instructions. Whatever is wrong is refused here, with its place and what was meant.

use std::time::Duration;

use crate::instruction::{
    Command, Dockerfile, From, Healthcheck, Instruction, KEYWORDS, Kind, Run, Transfer, TransferSource,
};
use crate::lines::{self, Line};
use crate::source::{Diagnostic, Source, Span, nearest};
use crate::words::{self, NotArray, Word};

/// Parses a Dockerfile. `name` is shown in messages.
///
/// # Errors
/// The first fault, with its place. A file without `FROM` is faulty too.
pub fn parse(name: &str, text: &str) -> Result<Dockerfile, Diagnostic> {
    let source = Source::new(name, text);
    let (directives, lines) = lines::split(&source)?;
    if lines.is_empty() {
        return Err(source.diagnostic(Span::default(), "the file has no instructions").help("begin with FROM"));
    }
    check_frontend(&source, directives.syntax.as_ref())?;
    let mut instructions = Vec::with_capacity(lines.len());
    let mut in_stage = false;
    for line in &lines {
        let parser = Parser { source: &source, line, escape: directives.escape, nested: 0 };
        let instruction = parser.instruction()?;
        match instruction.kind {
            Kind::From(_) => in_stage = true,
            Kind::Arg(_) => {}
            _ if in_stage => {}
            ref other => {
                let keyword = other.keyword();
                return Err(source
                    .diagnostic(line.place(0, keyword.len()), format!("{keyword} stands before the first FROM"))
                    .help("only ARG may"));
            }
        }
        instructions.push(instruction);
    }
    if !in_stage {
        let last = lines.last().map_or(Span::default(), |line| line.place(0, line.text.len()));
        return Err(source.diagnostic(last, "no stage: there is no FROM").help("begin with FROM"));
    }
    Ok(Dockerfile { source, directives, instructions })
}

/// Parses the instruction of an `ONBUILD` trigger or of a `--change` option: anything but FROM, ONBUILD and MAINTAINER.
pub fn parse_one(name: &str, text: &str) -> Result<Instruction, Diagnostic> {
    let source = Source::new(name, text);
    let (directives, lines) = lines::split(&source)?;
    match lines.as_slice() {
        [line] => Parser { source: &source, line, escape: directives.escape, nested: 1 }.instruction(),
        _ => Err(source.diagnostic(Span { start: 0, end: text.len() }, "exactly one instruction is expected")),
    }
}

/// Foreign frontends are programs out of a registry; they are not run.
fn check_frontend(source: &Source, syntax: Option<&(String, Span)>) -> Result<(), Diagnostic> {
    let Some((frontend, span)) = syntax else { return Ok(()) };
    let name = frontend.split_whitespace().next().unwrap_or_default();
    let name = name.split('@').next().unwrap_or_default();
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(name, _)| name);
    if matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream" | "docker/dockerfile-experimental") {
        return Ok(());
    }
    Err(source
        .diagnostic(*span, format!("the frontend {frontend} is not run here"))
        .help("only the Dockerfile language itself is understood"))
}

/// A flag: its name and, after `=`, its value.
struct Flag<'a> {
    name: &'a str,
    value: Option<String>,
    span: Span,
}

struct Parser<'a> {
    source: &'a Source,
    line: &'a Line,
    escape: char,
    /// 1 inside ONBUILD.
    nested: usize,
}

impl Parser<'_> {
    fn instruction(&self) -> Result<Instruction, Diagnostic> {
        let text = self.line.text.trim_end();
        let kind = self.kind(text, 0)?;
        Ok(Instruction { span: self.line.span, line: self.line.number, text: text.trim_start().to_owned(), kind })
    }

    fn fault(&self, start: usize, end: usize, message: impl Into<String>) -> Diagnostic {
        self.source.diagnostic(self.line.place(start, end), message)
    }

    /// The instruction in `text`, which begins at `base` of the logical line.
    fn kind(&self, text: &str, base: usize) -> Result<Kind, Diagnostic> {
        let skipped = text.len() - text.trim_start().len();
        let (word, rest) = words::keyword(text.trim_start());
        let at = base + skipped;
        let keyword = word.to_ascii_uppercase();
        if !KEYWORDS.contains(&keyword.as_str()) {
            let fault = self.fault(at, at + word.len(), format!("unknown instruction {}", clip(word)));
            return Err(match nearest(word, KEYWORDS) {
                Some(meant) => fault.help(format!("did you mean {meant}?")),
                None => fault,
            });
        }
        let (flags, body, body_at) = words::flags(rest, self.escape);
        let rest_at = at + word.len();
        let flags = flags.into_iter().map(|flag| self.flag(flag, rest_at)).collect::<Result<Vec<_>, _>>()?;
        let body = Body { parser: self, keyword, text: body.trim_end(), at: rest_at + body_at, start: at, flags };
        body.kind()
    }

    fn flag<'w>(&self, word: Word<'w>, base: usize) -> Result<Flag<'w>, Diagnostic> {
        let text = &word.text[2..];
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        let span = self.line.place(base + word.at, base + word.at + word.text.len());
        if name.is_empty() {
            return Err(self.source.diagnostic(span, "a flag without a name"));
        }
        Ok(Flag { name, value: value.map(|value| words::unquote(value, self.escape)), span })
    }
}

/// What follows the keyword and the flags.
struct Body<'a> {
    parser: &'a Parser<'a>,
    keyword: String,
    text: &'a str,
    at: usize,
    start: usize,
    flags: Vec<Flag<'a>>,
}

impl Body<'_> {
    fn kind(&self) -> Result<Kind, Diagnostic> {
        self.known_flags()?;
        if self.text.is_empty() {
            return Err(self.whole(format!("{} needs an argument", self.keyword)));
        }
        Ok(match self.keyword.as_str() {
            "ADD" => Kind::Add(self.transfer()?),
            "COPY" => Kind::Copy(self.transfer()?),
            "ARG" => Kind::Arg(self.args()?),
            "CMD" => Kind::Cmd(self.command()?),
            "ENTRYPOINT" => Kind::Entrypoint(self.command()?),
            "ENV" => Kind::Env(self.pairs()?),
            "EXPOSE" => Kind::Expose(self.expose()?),
            "FROM" => Kind::From(self.from()?),
            "HEALTHCHECK" => Kind::Healthcheck(self.healthcheck()?),
            "LABEL" => Kind::Label(self.pairs()?),
            "MAINTAINER" if self.parser.nested == 0 => Kind::Maintainer(self.text.to_owned()),
            "ONBUILD" if self.parser.nested == 0 => self.onbuild()?,
            "RUN" => Kind::Run(self.run()?),
            "SHELL" => Kind::Shell(self.shell()?),
            "STOPSIGNAL" => Kind::StopSignal(self.single()?),
            "USER" => Kind::User(self.single()?),
            "VOLUME" => Kind::Volume(self.volume()?),
            "WORKDIR" => Kind::Workdir(self.text.to_owned()),
            other => return Err(self.whole(format!("{other} cannot be an ONBUILD trigger"))),
        })
    }

    /// A fault of the whole instruction.
    fn whole(&self, message: impl Into<String>) -> Diagnostic {
        self.parser.fault(self.start, self.at + self.text.len(), message)
    }

    /// A fault of one word of the text.
    fn at_word(&self, word: Word<'_>, message: impl Into<String>) -> Diagnostic {
        self.parser.fault(self.at + word.at, self.at + word.at + word.text.len(), message)
    }

    fn known_flags(&self) -> Result<(), Diagnostic> {
        let known: &[&str] = match self.keyword.as_str() {
            "ADD" => &["chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"],
            "COPY" => &["from", "chown", "chmod", "link", "parents", "exclude"],
            "FROM" => &["platform"],
            "RUN" => &["mount", "network", "security", "device"],
            "HEALTHCHECK" => &["interval", "timeout", "start-period", "start-interval", "retries"],
            _ => &[],
        };
        let mut seen: Vec<&str> = Vec::new();
        for flag in &self.flags {
            if !known.contains(&flag.name) {
                let fault = self
                    .parser
                    .source
                    .diagnostic(flag.span, format!("{} has no flag --{}", self.keyword, clip(flag.name)));
                return Err(match nearest(flag.name, known.iter().copied()) {
                    Some(meant) => fault.help(format!("did you mean --{meant}?")),
                    None if known.is_empty() => fault.help("it takes none"),
                    None => fault.help(format!("it knows --{}", known.join(", --"))),
                });
            }
            let many = matches!(flag.name, "mount" | "exclude" | "device");
            if !many && seen.contains(&flag.name) {
                return Err(self.parser.source.diagnostic(flag.span, format!("--{} is given twice", flag.name)));
            }
            seen.push(flag.name);
        }
        Ok(())
    }

    fn flag(&self, name: &str) -> Result<Option<String>, Diagnostic> {
        let Some(flag) = self.flags.iter().find(|flag| flag.name == name) else { return Ok(None) };
        match &flag.value {
            Some(value) if !value.is_empty() => Ok(Some(value.clone())),
            _ => Err(self
                .parser
                .source
                .diagnostic(flag.span, format!("--{name} needs a value"))
                .help(format!("write --{name}=VALUE"))),
        }
    }

    fn flag_list(&self, name: &str) -> Result<Vec<String>, Diagnostic> {
        self.flags
            .iter()
            .filter(|flag| flag.name == name)
            .map(|flag| {
                flag.value
                    .clone()
                    .filter(|value| !value.is_empty())
                    .ok_or_else(|| self.parser.source.diagnostic(flag.span, format!("--{name} needs a value")))
            })
            .collect()
    }

    fn flag_bool(&self, name: &str) -> Result<Option<bool>, Diagnostic> {
        let Some(flag) = self.flags.iter().find(|flag| flag.name == name) else { return Ok(None) };
        match flag.value.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("true" | "1" | "t") => Ok(Some(true)),
            Some("false" | "0" | "f") => Ok(Some(false)),
            Some(other) => {
                Err(self.parser.source.diagnostic(flag.span, format!("--{name}={other}: expected true or false")))
            }
        }
    }

    fn flag_duration(&self, name: &str) -> Result<Option<Duration>, Diagnostic> {
        let Some(flag) = self.flags.iter().find(|flag| flag.name == name) else { return Ok(None) };
        let text = flag.value.as_deref().unwrap_or_default();
        let fault = |why: &str| {
            self.parser.source.diagnostic(flag.span, format!("--{name}={text}: {why}")).help("for example 30s or 1m30s")
        };
        let time = duration(text).ok_or_else(|| fault("not a duration"))?;
        if !time.is_zero() && time < Duration::from_millis(1) {
            return Err(fault("less than 1ms"));
        }
        Ok(Some(time))
    }

    fn array(&self) -> Result<Option<Vec<String>>, Diagnostic> {
        match words::json_array(self.text) {
            Ok(items) => Ok(Some(items)),
            Err(NotArray::Text) => Ok(None),
            Err(NotArray::NotStrings) => {
                Err(self.whole(format!("{}: an array in exec form holds strings only", self.keyword)))
            }
        }
    }

    fn command(&self) -> Result<Command, Diagnostic> {
        Ok(match self.array()? {
            Some(items) => Command::Exec(items),
            None => Command::Shell(self.text.to_owned()),
        })
    }

    fn run(&self) -> Result<Run, Diagnostic> {
        let command = self.command()?;
        if matches!(&command, Command::Exec(items) if items.is_empty()) {
            return Err(self.whole("RUN needs an argument"));
        }
        let network = self.flag("network")?;
        if let Some(other) = network.as_deref().filter(|mode| !matches!(*mode, "default" | "none" | "host")) {
            return Err(self.whole(format!("--network={other}: expected default, none or host")));
        }
        let security = self.flag("security")?;
        if let Some(other) = security.as_deref().filter(|mode| !matches!(*mode, "sandbox" | "insecure")) {
            return Err(self.whole(format!("--security={other}: expected sandbox or insecure")));
        }
        Ok(Run {
            command,
            heredocs: self.parser.line.heredocs.clone(),
            mounts: self.flag_list("mount")?,
            network,
            security,
            devices: self.flag_list("device")?,
        })
    }

    fn transfer(&self) -> Result<Transfer, Diagnostic> {
        let mut parts: Vec<String> = match self.array()? {
            Some(items) => items,
            None => words::split(self.text, self.parser.escape).iter().map(|word| word.text.to_owned()).collect(),
        };
        let dest = parts.pop().unwrap_or_default();
        if parts.is_empty() || dest.is_empty() {
            return Err(self.whole(format!("{} needs a source and a destination", self.keyword)));
        }
        if lines::heredoc_mark(&dest).is_some() && !self.parser.line.heredocs.is_empty() {
            return Err(self.whole(format!("{}: the destination cannot be a here-document", self.keyword)));
        }
        let mut heredocs = self.parser.line.heredocs.iter();
        let sources = parts
            .into_iter()
            .map(|part| match lines::heredoc_mark(&part).and_then(|_| heredocs.next()) {
                Some(heredoc) => TransferSource::Inline(heredoc.clone()),
                None => TransferSource::Path(part),
            })
            .collect();
        let add = self.keyword == "ADD";
        Ok(Transfer {
            from: if add { None } else { self.flag("from")? },
            chown: self.flag("chown")?,
            chmod: self.flag("chmod")?,
            link: self.flag_bool("link")?.unwrap_or(false),
            parents: self.flag_bool("parents")?.unwrap_or(false),
            exclude: self.flag_list("exclude")?,
            checksum: self.flag("checksum")?,
            keep_git_dir: self.flag_bool("keep-git-dir")?.unwrap_or(false),
            unpack: self.flag_bool("unpack")?,
            sources,
            dest,
        })
    }

    fn args(&self) -> Result<Vec<(String, Option<String>)>, Diagnostic> {
        words::split(self.text, self.parser.escape)
            .into_iter()
            .map(|word| {
                let (name, value) =
                    word.text.split_once('=').map_or((word.text, None), |(name, value)| (name, Some(value.to_owned())));
                let name = words::unquote(name, self.parser.escape);
                if name.is_empty() {
                    return Err(self.at_word(word, "ARG: a name is missing before ="));
                }
                Ok((name, value))
            })
            .collect()
    }

    /// `name=value …`, or the old `name value`.
    fn pairs(&self) -> Result<Vec<(String, String)>, Diagnostic> {
        let found = words::split(self.text, self.parser.escape);
        let Some(first) = found.first() else {
            return Err(self.whole(format!("{} needs an argument", self.keyword)));
        };
        if !first.text.contains('=') {
            let value = self.text[first.at + first.text.len()..].trim();
            if value.is_empty() {
                return Err(self
                    .at_word(*first, format!("{} needs a value for {}", self.keyword, clip(first.text)))
                    .help(format!("write {}=VALUE", clip(first.text))));
            }
            return Ok(vec![(words::unquote(first.text, self.parser.escape), value.to_owned())]);
        }
        found
            .into_iter()
            .map(|word| {
                let Some((name, value)) = word.text.split_once('=') else {
                    return Err(self
                        .at_word(word, format!("{}: there is no = in {}", self.keyword, clip(word.text)))
                        .help("write name=value, and quotes round a value with spaces"));
                };
                // A label's name may hold a variable; its quotes go when it is expanded.
                let name =
                    if self.keyword == "LABEL" { name.to_owned() } else { words::unquote(name, self.parser.escape) };
                if name.is_empty() {
                    return Err(self.at_word(word, format!("{}: a name is missing before =", self.keyword)));
                }
                Ok((name, value.to_owned()))
            })
            .collect()
    }

    fn expose(&self) -> Result<Vec<String>, Diagnostic> {
        Ok(words::plain(self.text).into_iter().map(|word| word.text.to_owned()).collect())
    }

    fn from(&self) -> Result<From, Diagnostic> {
        if self.parser.nested > 0 {
            return Err(self.whole("FROM cannot be an ONBUILD trigger"));
        }
        let found = words::plain(self.text);
        let (image, name) = match found.as_slice() {
            [image] => (image, None),
            [image, word, name] if word.text.eq_ignore_ascii_case("as") => (image, Some(*name)),
            [_, word, ..] => {
                return Err(self
                    .at_word(*word, "FROM takes an image and, after AS, a name")
                    .help("write FROM image AS name"));
            }
            [] => return Err(self.whole("FROM needs an image")),
        };
        if let Some(word) = name {
            let valid = word.text.starts_with(|c: char| c.is_ascii_alphabetic())
                && word.text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
            if !valid {
                return Err(self
                    .at_word(word, format!("{} cannot be a stage's name", clip(word.text)))
                    .help("letters, digits, - _ . and a letter first"));
            }
        }
        Ok(From {
            platform: self.flag("platform")?,
            image: image.text.to_owned(),
            name: name.map(|word| word.text.to_ascii_lowercase()),
        })
    }

    fn healthcheck(&self) -> Result<Healthcheck, Diagnostic> {
        let (word, rest) = words::keyword(self.text);
        match word.to_ascii_uppercase().as_str() {
            "NONE" if !rest.trim().is_empty() => Err(self.whole("HEALTHCHECK NONE takes no arguments")),
            "NONE" if !self.flags.is_empty() => Err(self.whole("HEALTHCHECK NONE takes no flags")),
            "NONE" => Ok(Healthcheck::None),
            "CMD" => {
                let body = Body {
                    parser: self.parser,
                    keyword: "HEALTHCHECK CMD".to_owned(),
                    text: rest.trim(),
                    at: self.at + self.text.len() - rest.trim_start().len(),
                    start: self.start,
                    flags: Vec::new(),
                };
                let command = body.command()?;
                if matches!(&command, Command::Exec(items) if items.is_empty()) || body.text.is_empty() {
                    return Err(self.whole("HEALTHCHECK CMD needs an argument"));
                }
                let retries = self
                    .flag("retries")?
                    .map(|text| text.parse().map_err(|_| self.whole(format!("--retries={text}: not a number"))))
                    .transpose()?;
                Ok(Healthcheck::Probe {
                    command,
                    interval: self.flag_duration("interval")?,
                    timeout: self.flag_duration("timeout")?,
                    start_period: self.flag_duration("start-period")?,
                    start_interval: self.flag_duration("start-interval")?,
                    retries,
                })
            }
            _ => Err(self
                .whole(format!("HEALTHCHECK {}: not a kind of check", clip(word)))
                .help("write HEALTHCHECK CMD …, or HEALTHCHECK NONE")),
        }
    }

    fn onbuild(&self) -> Result<Kind, Diagnostic> {
        let nested = Parser { nested: 1, ..*self.parser };
        nested.kind(self.text, self.at)?;
        // The trigger is stored as text and is parsed again where it runs, here-documents included.
        let mut trigger = self.text.to_owned();
        for heredoc in &self.parser.line.heredocs {
            trigger.push('\n');
            trigger.push_str(&heredoc.content);
            trigger.push_str(&heredoc.name);
        }
        Ok(Kind::Onbuild(trigger))
    }

    fn shell(&self) -> Result<Vec<String>, Diagnostic> {
        match self.array()? {
            Some(items) if !items.is_empty() => Ok(items),
            _ => Err(self.whole("SHELL takes a JSON array").help(r#"for example ["/bin/bash", "-c"]"#)),
        }
    }

    fn single(&self) -> Result<String, Diagnostic> {
        let found = words::split(self.text, self.parser.escape);
        match found.as_slice() {
            [_] => Ok(self.text.to_owned()),
            [_, extra, ..] => Err(self.at_word(*extra, format!("{} takes exactly one argument", self.keyword))),
            [] => Err(self.whole(format!("{} needs an argument", self.keyword))),
        }
    }

    fn volume(&self) -> Result<Vec<String>, Diagnostic> {
        let paths = match self.array()? {
            Some(items) => items,
            None => words::split(self.text, self.parser.escape).iter().map(|word| word.text.to_owned()).collect(),
        };
        if paths.is_empty() || paths.iter().any(|path| path.trim().is_empty()) {
            return Err(self.whole("VOLUME: a path is empty"));
        }
        Ok(paths)
    }
}

fn clip(word: &str) -> String {
    match word.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &word[..at]),
        None => word.to_owned(),
    }
}

/// Go's duration text: `1h2m3.5s`, `300ms`, `0`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += value * unit;
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Kind {
        parse_one("Dockerfile", text).unwrap().kind
    }

    fn texts(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn every_instruction_in_its_forms() {
        let file = parse(
            "Dockerfile",
            r#"# syntax=docker/dockerfile:1
ARG VERSION=3
FROM --platform=linux/amd64 debian:${VERSION} AS Base
MAINTAINER someone <a@b>
LABEL a="b c" d=e
ENV A=1 B="two words" C=x\ y
ENV OLD some value
ARG X Y=2
WORKDIR /a b
USER 1:2
EXPOSE 80 90-92/udp
VOLUME /x /y
VOLUME ["/z z"]
SHELL ["/bin/bash", "-c"]
STOPSIGNAL SIGQUIT
RUN --mount=type=cache,target=/c --network=none echo "hi" && \
    true
RUN ["a", "b"]
COPY --from=base --chown=1:2 --chmod=644 --link --exclude=*.o --exclude=*.d a b /dest/
COPY ["a b", "/c d"]
ADD --checksum=sha256:00 https://x/y.tar /z
HEALTHCHECK --interval=1m30s --retries=2 CMD curl x
HEALTHCHECK NONE
ENTRYPOINT ["/e"]
CMD run it
ONBUILD COPY . /app
"#,
        )
        .unwrap();
        let kinds: Vec<&str> = file.instructions.iter().map(|each| each.kind.keyword()).collect();
        assert_eq!(kinds.len(), 24);
        assert_eq!(
            file.instructions[1].kind,
            Kind::From(From {
                platform: Some("linux/amd64".into()),
                image: "debian:${VERSION}".into(),
                name: Some("base".into())
            })
        );
        let Kind::Env(pairs) = &file.instructions[4].kind else { panic!() };
        assert_eq!(pairs[1], ("B".to_owned(), "\"two words\"".to_owned()));
        assert_eq!(file.instructions[5].kind, Kind::Env(vec![("OLD".into(), "some value".into())]));
        let Kind::Run(run) = &file.instructions[14].kind else { panic!() };
        assert_eq!(run.command, Command::Shell("echo \"hi\" &&     true".into()));
        assert_eq!(run.network.as_deref(), Some("none"));
        let Kind::Copy(copy) = &file.instructions[16].kind else { panic!() };
        assert_eq!(
            (copy.from.as_deref(), copy.link, copy.exclude.len(), copy.sources.len()),
            (Some("base"), true, 2, 2)
        );
        assert_eq!(file.instructions[23].kind, Kind::Onbuild("COPY . /app".into()));
    }

    #[test]
    fn heredocs_belong_to_their_instruction() {
        let file =
            parse("Dockerfile", "FROM a\nCOPY <<one.txt <<\"two\" c /d/\n1\none.txt\n2\ntwo\nRUN <<E\nx\nE\n").unwrap();
        let Kind::Copy(copy) = &file.instructions[1].kind else { panic!() };
        assert!(matches!(&copy.sources[0], TransferSource::Inline(h) if h.name == "one.txt" && h.content == "1\n"));
        assert!(matches!(&copy.sources[1], TransferSource::Inline(h) if !h.expand));
        assert_eq!(copy.sources[2], TransferSource::Path("c".into()));
        let Kind::Run(run) = &file.instructions[2].kind else { panic!() };
        assert_eq!((run.command.clone(), run.heredocs[0].content.as_str()), (Command::Shell("<<E".into()), "x\n"));
    }

    #[test]
    fn a_trigger_keeps_its_heredoc() {
        let file = parse("Dockerfile", "FROM a\nONBUILD RUN <<E\nx\nE\n").unwrap();
        assert_eq!(file.instructions[1].kind, Kind::Onbuild("RUN <<E\nx\nE".into()));
        assert!(matches!(one("RUN <<E\nx\nE"), Kind::Run(run) if run.heredocs.len() == 1));
    }

    #[test]
    fn array_forms_fall_back_to_text() {
        assert_eq!(one("RUN [ -e x ]"), one("RUN [ -e x ]"));
        assert!(matches!(one("RUN [ -e x ]"), Kind::Run(run) if run.command == Command::Shell("[ -e x ]".into())));
        assert_eq!(one("CMD []"), Kind::Cmd(Command::Exec(vec![])));
        assert_eq!(one("VOLUME [\"/a\"]"), Kind::Volume(texts(&["/a"])));
    }

    #[test]
    fn faults_show_the_line_and_what_was_meant() {
        let faults = [
            "",
            "# nothing\n",
            "FORM alpine\n",
            "FROM alpine\nRUN ok\n\n  COPPY a b\n",
            "RUN x\n",
            "FROM a b\n",
            "FROM a AS 1x\n",
            "FROM a\nCOPY --fron=x a b\n",
            "FROM a\nCOPY a\n",
            "FROM a\nENV A\n",
            "FROM a\nENV A=1 \\\n    B\n",
            "FROM a\nRUN [1]\n",
            "FROM a\nSHELL bash\n",
            "FROM a\nHEALTHCHECK curl x\n",
            "FROM a\nHEALTHCHECK --interval=5 CMD x\n",
            "FROM a\nONBUILD ONBUILD RUN x\n",
            "FROM a\nUSER a b\n",
            "FROM a\nRUN --network=web x\n",
            "# syntax=acme/front:1\nFROM a\n",
            "FROM a\nWORKDIR\n",
            "FROM a\nCMD --x y\n",
            "ARG A\n",
        ];
        let shown: Vec<String> = faults.iter().map(|text| parse("Dockerfile", text).unwrap_err().to_string()).collect();
        insta::assert_snapshot!(shown.join("\n\n"));
    }

    #[test]
    fn durations_are_those_of_go() {
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("1.5h"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("300ms"), Some(Duration::from_millis(300)));
        assert_eq!(duration("0"), Some(Duration::ZERO));
        for bad in ["", "5", "x", "1d", "-1s", "1s2"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(?s).{0,200}") {
            let _ = parse("Dockerfile", &text).map_err(|error| error.to_string());
        }

        #[test]
        fn no_near_dockerfile_makes_it_panic(lines in proptest::collection::vec(
            "(FROM|RUN|COPY|ENV|ARG|LABEL|ONBUILD|HEALTHCHECK|# escape=|\t|é)( |\\\\|`|\"|'|<<E|E|\\$|\\{|\\}|=|--a=|\\[|\\]|é|\r|\n){0,12}", 0..12)
        ) {
            let _ = parse("Dockerfile", &lines.join("\n")).map_err(|error| error.to_string());
        }
    }
}
