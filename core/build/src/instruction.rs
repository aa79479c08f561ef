//! The instructions of a Dockerfile, as data. Variables in them are not expanded yet.

use std::time::Duration;

use crate::lines::{Directives, Heredoc};
use crate::source::{Source, Span};

/// A parsed file.
#[derive(Debug, Clone)]
pub struct Dockerfile {
    /// The text, for messages.
    pub source: Source,
    /// The comments at its top.
    pub directives: Directives,
    /// Everything, in order.
    pub instructions: Vec<Instruction>,
}

/// One instruction and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// From the keyword to the end of the last here-document.
    pub span: Span,
    /// Line of the keyword, from 1.
    pub line: usize,
    /// The joined text as the user wrote it, for progress and history.
    pub text: String,
    /// What it says.
    pub kind: Kind,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Add(Transfer),
    Arg(Vec<(String, Option<String>)>),
    Cmd(Command),
    Copy(Transfer),
    Entrypoint(Command),
    Env(Vec<(String, String)>),
    Expose(Vec<String>),
    From(From),
    Healthcheck(Healthcheck),
    Label(Vec<(String, String)>),
    Maintainer(String),
    /// The instruction to be run by images built on this one.
    Onbuild(String),
    Run(Run),
    Shell(Vec<String>),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// Every instruction's keyword.
pub const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

impl Kind {
    /// The keyword.
    #[must_use]
    pub fn keyword(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::From(_) => "FROM",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// A program to run, in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Text for the stage's shell.
    Shell(String),
    /// The arguments themselves.
    Exec(Vec<String>),
}

/// `FROM [--platform=P] image [AS name]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// `--platform`.
    pub platform: Option<String>,
    /// An image, `scratch`, or an earlier stage.
    pub image: String,
    /// The stage's name, in lower case.
    pub name: Option<String>,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transfer {
    /// `--from`: a stage, an image or a named context.
    pub from: Option<String>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, each a pattern.
    pub exclude: Vec<String>,
    /// `--checksum` of `ADD`.
    pub checksum: Option<String>,
    /// `--keep-git-dir` of `ADD`.
    pub keep_git_dir: bool,
    /// `--unpack` of `ADD`; archives are unpacked, downloads are not, unless it says so.
    pub unpack: Option<bool>,
    /// What is copied.
    pub sources: Vec<TransferSource>,
    /// Where to.
    pub dest: String,
}

/// One thing to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferSource {
    /// A path, a pattern or (for `ADD`) a URL.
    Path(String),
    /// A file whose content stands in the Dockerfile.
    Inline(Heredoc),
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What is run.
    pub command: Command,
    /// Here-documents of the shell form.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, not yet expanded.
    pub mounts: Vec<String>,
    /// `--network`: `default`, `none` or `host`.
    pub network: Option<String>,
    /// `--security`: `sandbox` or `insecure`.
    pub security: Option<String>,
    /// `--device`, not yet expanded.
    pub devices: Vec<String>,
}

/// `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`.
    None,
    /// `HEALTHCHECK [options] CMD …`.
    Probe {
        command: Command,
        interval: Option<Duration>,
        timeout: Option<Duration>,
        start_period: Option<Duration>,
        start_interval: Option<Duration>,
        retries: Option<u32>,
    },
}
