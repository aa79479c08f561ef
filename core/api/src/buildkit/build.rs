//! One build: gathers what the engine needs for it, has it build, and keeps what came of it.

use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

use sampan_buildkit::control::{CacheEntry, SolveRequest, SourceInfo};
use sampan_buildkit::grpc::{Code, Status};
use sampan_buildkit::llb::Definition;
use sampan_engine::build::{
    BuildContext, BuildError, BuildRequest, Call, Context, Message, NamedContext, ignore_patterns, needed,
};

use super::gather::{self, Agents, Selection};
use super::job::Job;
use super::outputs::Outputs;
use super::progress::{Progress, Shown, rule_page};
use super::request::{self, Files, Local, Wanted};
use super::session::Session;
use super::{BuildKit, status};

/// What came of a build.
#[derive(Debug, Default, Clone)]
pub struct Product {
    /// Of the image, or of the index that joins several; empty when only a question was answered.
    pub id: String,
    /// Platforms and ids of images that an index joins.
    pub images: Vec<(String, String)>,
    /// Documents for the client.
    pub metadata: HashMap<String, Vec<u8>>,
}

impl Product {
    /// The images by platform; without one where there is a single image.
    pub fn by_platform(&self) -> Vec<(Option<&str>, &str)> {
        match self.images.as_slice() {
            [] => vec![(None, &self.id)],
            [(_, id)] => vec![(None, id)],
            all => all.iter().map(|(platform, id)| (Some(platform.as_str()), id.as_str())).collect(),
        }
    }
}

/// A build that is asked for.
pub struct Plan<'a> {
    pub kit: &'a BuildKit,
    pub job: &'a Arc<Job>,
    pub asked: &'a SolveRequest,
    pub opts: &'a HashMap<String, String>,
    pub inputs: &'a HashMap<String, Definition>,
    pub imports: &'a [CacheEntry],
}

/// The Dockerfile, as it was read.
#[derive(Debug, Default, Clone)]
struct File {
    name: String,
    text: Option<String>,
    /// The step that read it.
    step: String,
}

impl File {
    fn info(&self) -> SourceInfo {
        let data = self.text.clone().unwrap_or_default().into_bytes();
        SourceInfo { filename: self.name.clone(), data, language: "Dockerfile".to_owned() }
    }
}

impl Plan<'_> {
    /// Builds.
    pub async fn run(self) -> Result<Product, Status> {
        let outputs = Outputs::parse(self.asked)?;
        let mut wanted = request::translate(self.opts, self.inputs, self.imports, self.asked, outputs.names_here())?;
        wanted.request.options.rewrite_timestamp = outputs.rewrite_timestamp;
        let session = self.kit.sessions.get(&self.asked.session).await?;
        let progress = Arc::new(Progress::new(Arc::clone(self.job)));
        let gathering = Gathering { plan: &self, session: &session, progress: &progress };
        let (request, file, _agents) = gathering.gather(wanted).await?;
        let call = request.call;
        let messages = self.kit.engine.build(request).await.map_err(|error| status(&error))?;
        self.follow(messages, &progress, file, call).await
    }

    async fn follow(
        &self,
        mut messages: tokio::sync::mpsc::Receiver<Result<Message, BuildError>>,
        progress: &Arc<Progress>,
        file: File,
        call: Call,
    ) -> Result<Product, Status> {
        let mut steps = progress.steps(file.step.clone(), file.info());
        let mut product = Product::default();
        let mut complete = call != Call::Build;
        while let Some(message) = messages.recv().await {
            match message {
                Ok(Message::Image { id, .. }) => {
                    product.id = id.to_string();
                    complete = true;
                }
                Ok(Message::Index { index, images }) => {
                    product.id = index.to_string();
                    product.images =
                        images.iter().map(|(platform, id)| (platform.to_string(), id.to_string())).collect();
                    complete = true;
                }
                Ok(Message::Warnings(found, text)) => {
                    let warnings: Vec<Value> = found
                        .iter()
                        .map(|warning| {
                            let mut document = warning.document();
                            document["url"] = rule_page(warning.rule).into();
                            document
                        })
                        .collect();
                    let source = json!({ "filename": file.name, "language": "Dockerfile", "data": base64(&text) });
                    answer(&mut product, &json!({ "warnings": warnings, "sources": [source] }));
                }
                Ok(Message::Told(document)) => answer(&mut product, &document),
                Ok(message) => steps.take(message).await,
                Err(error) => {
                    let (line, failed) = failure(&error, &file);
                    steps.fail(line, &failed.message).await;
                    return Err(failed);
                }
            }
        }
        if complete { Ok(product) } else { Err(Status::new(Code::Canceled, "the build was cancelled")) }
    }
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// Answers a question about the Dockerfile, in the form of the frontend's subrequests.
fn answer(product: &mut Product, document: &Value) {
    product.metadata.insert("result.json".to_owned(), format!("{document:#}").into_bytes());
    product.metadata.insert("version".to_owned(), b"1.0.0".to_vec());
}

/// A failure as the client is told of it, and the line of the Dockerfile that it is of.
fn failure(error: &BuildError, file: &File) -> (Option<usize>, Status) {
    let (line, message) = match error {
        BuildError::Run { command, code, place } => (
            Some(place.line).filter(|_| place.file == file.name),
            format!("process \"{command}\" did not complete successfully: exit code: {code}"),
        ),
        BuildError::Dockerfile(place) => {
            let help = place.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
            (Some(place.line).filter(|_| place.file == file.name), format!("{}{help}", place.message))
        }
        other => (None, other.to_string()),
    };
    let code = match error {
        BuildError::Invalid(_) | BuildError::Dockerfile(_) | BuildError::Context(_) => Code::InvalidArgument,
        BuildError::Unsupported(_) => Code::Unimplemented,
        BuildError::Cancelled => Code::Canceled,
        BuildError::Run { .. } | BuildError::Backend(_) => Code::Unknown,
    };
    let mut failed = Status::new(code, message);
    if let (Some(line), Some(text)) = (line, &file.text) {
        let at = json!({ "line": line });
        let info = json!({ "filename": file.name, "data": base64(text), "language": "Dockerfile" });
        let source = json!({ "info": info, "ranges": [{ "start": at, "end": at }] });
        failed = failed.with("errdefs.Source", &source);
    }
    (line, failed)
}

/// An address without what is secret in it.
fn bare(url: &str) -> String {
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?.1))) {
        Some((scheme, rest)) => format!("{scheme}://{rest}"),
        None => url.to_owned(),
    }
}

fn wrong(error: &BuildError) -> Status {
    failure(error, &File::default()).1
}

/// A build whose files are being fetched.
struct Gathering<'a> {
    plan: &'a Plan<'a>,
    session: &'a Session,
    progress: &'a Arc<Progress>,
}

impl Gathering<'_> {
    async fn session(&self, local: &Local) -> Result<Session, Status> {
        match &local.session {
            Some(id) => self.plan.kit.sessions.get(id).await,
            None => Ok(self.session.clone()),
        }
    }

    /// A directory of the client's, taken in.
    async fn directory(
        &self,
        local: &Local,
        selection: Selection,
        shown: &Shown,
        part: &str,
    ) -> Result<Context, Status> {
        let session = self.session(local).await?;
        let tar = gather::directory(&session, &local.name, selection, shown.part(part))?;
        self.plan.kit.engine.receive_context(tar).await.map_err(|error| wrong(&error))
    }

    /// Text files at the top of a directory of the client's; `None` for those that are not there.
    async fn texts(
        &self,
        local: &Local,
        names: Vec<String>,
        shown: &Shown,
        part: &str,
    ) -> Result<Vec<Option<String>>, Status> {
        let selection = Selection { follow: names.clone(), exclude: Vec::new() };
        let context = self.directory(local, selection, shown, part).await?;
        let read = move || names.iter().map(|name| context.read_text(name)).collect::<Result<Vec<_>, _>>();
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|error| Status::new(Code::Internal, format!("a worker thread failed: {error}")))?;
        read.map_err(|error| wrong(&error))
    }

    /// The Dockerfile and the `.dockerignore` that is its own.
    async fn dockerfile(&self, local: &Local, name: &str) -> Result<(File, Option<String>), Status> {
        let shown = self.progress.begin(format!("[internal] load build definition from {name}")).await;
        let step = shown.digest().to_owned();
        let read = async {
            let mut names = vec![name.to_owned(), format!("{name}.dockerignore")];
            if name == "Dockerfile" {
                names.push("dockerfile".to_owned());
            }
            let mut texts = self.texts(local, names, &shown, "transferring dockerfile:").await?.into_iter();
            let (text, ignore, lower) = (texts.next().flatten(), texts.next().flatten(), texts.next().flatten());
            let missing = || {
                Status::new(
                    Code::NotFound,
                    format!("failed to read dockerfile: open {name}: no such file or directory"),
                )
            };
            Ok::<_, Status>((text.or(lower).ok_or_else(missing)?, ignore))
        };
        let read = read.await;
        let (text, ignore) = shown.ends(read).await?;
        Ok((File { name: name.to_owned(), text: Some(text), step }, ignore))
    }

    /// The main files, and what does not count of them.
    async fn main(&self, local: &Local, ignore: Option<String>, build: bool) -> Result<(BuildContext, String), Status> {
        let ignore = match ignore {
            Some(ignore) => ignore,
            None => {
                let shown = self.progress.begin("[internal] load .dockerignore").await;
                let read = self.texts(local, vec![".dockerignore".to_owned()], &shown, "transferring context:").await;
                shown.ends(read).await?.pop().flatten().unwrap_or_default()
            }
        };
        if !build {
            return Ok((BuildContext::default(), ignore));
        }
        let shown = self.progress.begin("[internal] load build context").await;
        let exclude = ignore_patterns(&ignore).map_err(|error| wrong(&error))?;
        let selection = Selection { follow: Vec::new(), exclude };
        let context = self.directory(local, selection, &shown, "transferring context:").await;
        let context = shown.ends(context).await?;
        Ok((BuildContext::Received(Box::new(context)), ignore))
    }

    /// Reads the Dockerfile in files that did not come from a directory of the client's, unless that has it.
    async fn read(&self, context: Context, file: &mut File, elsewhere: &Option<Local>) -> Result<Context, Status> {
        if elsewhere.is_some() {
            return Ok(context);
        }
        let name = file.name.clone();
        let shown = self.progress.begin(format!("[internal] load build definition from {name}")).await;
        shown.digest().clone_into(&mut file.step);
        let read = tokio::task::spawn_blocking(move || context.dockerfile(&name).map(|text| (text, context))).await;
        let read = read.map_err(|error| Status::new(Code::Internal, format!("a worker thread failed: {error}")));
        let (text, context) = shown.ends(read.and_then(|read| read.map_err(|error| wrong(&error)))).await?;
        file.text = Some(text);
        Ok(context)
    }

    /// A further context.
    async fn named(&self, name: &str, local: &Local) -> Result<NamedContext, Status> {
        let shown = self.progress.begin(format!("[context {name}] load .dockerignore")).await;
        let read = self.texts(local, vec![".dockerignore".to_owned()], &shown, "transferring context:").await;
        let ignore = shown.ends(read).await?.pop().flatten().unwrap_or_default();
        let exclude = ignore_patterns(&ignore).map_err(|error| wrong(&error))?;
        let shown = self.progress.begin(format!("[context {name}] load from client")).await;
        let selection = Selection { follow: Vec::new(), exclude };
        let read = self.directory(local, selection, &shown, "transferring context:").await;
        Ok(NamedContext::Received(Arc::new(shown.ends(read).await?)))
    }

    /// Fetches all that the client has.
    async fn gather(&self, wanted: Wanted) -> Result<(BuildRequest, File, Option<Agents>), Status> {
        let Wanted { mut request, filename, context, dockerfile, locals } = wanted;
        let (mut file, mut ignore) = (File { name: filename.clone(), ..File::default() }, None);
        if let Some(local) = &dockerfile {
            (file, ignore) = self.dockerfile(local, &filename).await?;
        }
        request.dockerfile = Some(filename);
        match context {
            Files::Local(local) => {
                let (files, rules) = self.main(&local, ignore, request.call == Call::Build).await?;
                request.context = files;
                request.dockerignore_inline = Some(rules);
            }
            Files::Upload(path) => {
                let shown = self.progress.begin("[internal] load remote build context").await;
                let tar = gather::upload(self.session, &path, shown.part("transferring context:"))?;
                let received = self.plan.kit.engine.receive_context(tar).await.map_err(|error| wrong(&error));
                let context = self.read(shown.ends(received).await?, &mut file, &dockerfile).await?;
                request.context = BuildContext::Received(Box::new(context));
            }
            Files::Remote(url) => {
                let shown = self.progress.begin(format!("[internal] load remote build context {}", bare(&url))).await;
                let keep = request.options.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
                let keep = matches!(keep.and_then(Option::as_deref), Some("1" | "true"));
                let fetched = self.plan.kit.engine.fetch_context(&url, keep).await.map_err(|error| wrong(&error));
                let context = self.read(shown.ends(fetched).await?, &mut file, &dockerfile).await?;
                request.context = BuildContext::Received(Box::new(context));
            }
        }
        request.dockerfile_inline.clone_from(&file.text);
        for (name, local) in &locals {
            let context = self.named(name, local).await?;
            request.contexts.push((name.clone(), context));
        }
        let mut agents = None;
        if let Some(text) = &file.text {
            let needed = needed(text);
            request.options.secrets = gather::secrets(self.session, needed.secrets).await?;
            let opened = gather::agents(&self.plan.kit.engine, self.session, needed.agents).await?;
            request.options.ssh.clone_from(&opened.sockets);
            agents = Some(opened);
        }
        request.login = Some(gather::login(self.session.clone()));
        Ok((request, file, agents))
    }
}
