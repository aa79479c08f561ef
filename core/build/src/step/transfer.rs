//! COPY and ADD.

use std::path::{Path, PathBuf};

use sampan_image::tree::Tree;

use super::{Files, StageRun, blocking, copy_fault, with_origin};
use crate::backend::{Backend, Root};
use crate::cache::{Entry, Key, KeyWriter};
use crate::copy::{self, Landing, Match, Selection};
use crate::dockerignore::Ignore;
use crate::error::{BuildError, Result};
use crate::executor::say;
use crate::instruction::{Transfer, TransferSource};
use crate::owner::{ModeChange, resolve_owner};
use crate::provenance::Material;
use crate::remote::Remote;

/// A transfer with its variables expanded.
struct Copying {
    keyword: &'static str,
    paths: Vec<String>,
    /// What is fetched, as it was written.
    remote: Vec<(String, Remote)>,
    keep_git_dir: bool,
    checksum: Option<String>,
    inline: Vec<(String, String)>,
    dest: String,
    chown: Option<String>,
    chmod: Option<String>,
    exclude: Vec<String>,
    parents: bool,
    unpack: bool,
    /// The same for what is fetched.
    unpack_fetched: bool,
}

/// One tree that a transfer takes from, and what of it.
struct Part<B: Backend> {
    files: Files<B>,
    paths: Vec<String>,
    matches: Vec<Match>,
    unpack: bool,
}

impl<B: Backend> StageRun<B> {
    pub(super) async fn transfer(&mut self, keyword: &'static str, transfer: &Transfer) -> Result<()> {
        let copying = self.copying(keyword, transfer)?;
        let files = self.files(transfer.from.as_deref()).await?;
        let step = history(&copying, transfer);
        // With --link the files make a layer of their own, which nothing below has a part in. As with BuildKit there is
        // none with --chmod.
        let link = transfer.link && copying.chmod.is_none();
        let parents = if link { Vec::new() } else { self.state.parents() };
        let owner = match &copying.chown {
            Some(text) if link => Some(self.owner(text).await?),
            _ => None,
        };
        let begin = |kind: &str| {
            let mut key = KeyWriter::new(if link { "link" } else { kind }, parents.first().copied());
            if link {
                key.text(kind).list(owner.map(|(uid, gid)| format!("{uid}:{gid}")));
            }
            self.copy_key(&mut key, &copying);
            key
        };

        // What a stage holds is known by its layers: nothing need be opened when they are the same.
        let quick = if let Files::Layers { top, .. } = &files {
            let mut key = begin("copy-from");
            key.maybe(top.map(|top| top.to_string()).as_deref()).list(&copying.paths);
            Some(key.finish())
        } else {
            None
        };
        let mut key = begin("copy");
        if let Some(quick) = quick
            && let Some(entry) = self.known(quick, parents.first().copied()).await?
        {
            return self.transferred(link, quick, &step, entry).await;
        }
        let parts = self.parts(&copying, files).await?;
        let parts = self.collect(&copying, parts).await?;
        for part in &parts {
            copy::hash_into(&mut key, &part.matches);
        }
        let key = key.finish();
        let flight = self.build.backend.flights().lock(key).await;
        let entry = match self.known(key, parents.first().copied()).await? {
            Some(entry) => entry,
            None => {
                let root = self.build.backend.open(&parents).await?;
                let created = self.build.now();
                self.land(copying, parts, root.path().to_owned(), owner, created).await?;
                let layer = self.build.backend.commit(&root, &parents, self.build.latest()).await?;
                drop(root);
                let entry = Entry { layer: Some(layer), created, description: step.clone() };
                self.remember(key, entry.clone()).await?;
                entry
            }
        };
        if let Some(quick) = quick {
            self.remember(quick, entry.clone()).await?;
        }
        drop(flight);
        self.transferred(link, key, &step, entry).await
    }

    /// Goes on with what was copied. A layer of its own is laid over the stage's first; there it is another, as it has
    /// others below it, with the same contents.
    async fn transferred(&mut self, link: bool, key: Key, step: &str, mut entry: Entry) -> Result<()> {
        let parents = self.state.parents();
        if link
            && !parents.is_empty()
            && let Some(layer) = entry.layer.take()
        {
            let mut laid = KeyWriter::new("link-on", parents.first().copied());
            laid.text(&key.to_string());
            let laid = laid.finish();
            let _flight = self.build.backend.flights().lock(laid).await;
            let known = self.build.backend.cached(laid, parents.first().copied()).await.and_then(|known| known.layer);
            let layer = match known.filter(|known| known.diff_id == layer.diff_id) {
                Some(known) => known,
                None => self.build.backend.rebase(&layer, &parents).await?,
            };
            entry.layer = Some(layer);
            self.build.backend.remember(laid, entry.clone()).await?;
        }
        self.made(key, step, entry).await
    }

    /// The numbers of `--chown` by the stage's own files.
    async fn owner(&self, text: &str) -> Result<(u32, u32)> {
        let stage = self.build.origin(&self.state.parents()).await?;
        let files = Files::<B>::Layers { root: stage, top: None, label: "the stage".to_owned() };
        let text = text.to_owned();
        blocking(move || with_origin(&files, |origin| owner_in(origin.root, &text))).await
    }

    fn copying(&self, keyword: &'static str, transfer: &Transfer) -> Result<Copying> {
        let maybe = |text: &Option<String>| text.as_deref().map(|text| self.word(text)).transpose();
        let (mut paths, mut remote, mut inline) = (Vec::new(), Vec::new(), Vec::new());
        for source in &transfer.sources {
            match source {
                TransferSource::Path(text) => {
                    let path = self.word(text)?;
                    match Remote::parse(&path).map_err(BuildError::Invalid)? {
                        Some(_) if keyword != "ADD" && transfer.from.is_none() => {
                            return Err(BuildError::Invalid(format!("{path}: COPY takes no URLs; ADD does")));
                        }
                        Some(found) if keyword == "ADD" => {
                            remote.push((path, found));
                            continue;
                        }
                        _ => {}
                    }
                    paths.push(path);
                }
                TransferSource::Inline(heredoc) => {
                    let body = heredoc.body();
                    let body = if heredoc.expand { self.expand(|expander| expander.document(&body))? } else { body };
                    inline.push((heredoc.name.clone(), body));
                }
            }
        }
        let checksum = maybe(&transfer.checksum)?;
        if checksum.is_some() && (remote.len() != 1 || !paths.is_empty() || !inline.is_empty()) {
            return Err(BuildError::Invalid("ADD --checksum: exactly one URL is expected".to_owned()));
        }
        let dest = self.word(&transfer.dest)?;
        if dest.is_empty() {
            return Err(BuildError::Invalid(format!("{keyword}: the destination is empty")));
        }
        Ok(Copying {
            keyword,
            paths,
            remote,
            keep_git_dir: transfer.keep_git_dir,
            checksum,
            inline,
            dest,
            chown: maybe(&transfer.chown)?,
            chmod: maybe(&transfer.chmod)?,
            exclude: transfer.exclude.iter().map(|text| self.word(text)).collect::<Result<_>>()?,
            parents: transfer.parents,
            unpack: keyword == "ADD" && transfer.unpack.unwrap_or(true),
            unpack_fetched: keyword == "ADD" && transfer.unpack.unwrap_or(false),
        })
    }

    /// A key of all but the contents.
    fn copy_key(&self, key: &mut KeyWriter, copying: &Copying) {
        key.text(&self.state.absolute(&copying.dest)).number(is_folder(&copying.dest).into());
        key.maybe(copying.chown.as_deref()).maybe(copying.chmod.as_deref()).list(&copying.exclude);
        key.number(copying.parents.into()).number(copying.unpack.into()).number(copying.paths.len() as u64);
        key.number(copying.unpack_fetched.into()).number(copying.remote.len() as u64);
        key.maybe(self.epoch().as_deref());
        for (name, content) in &copying.inline {
            key.text(name).text(content);
        }
    }

    /// The trees that a transfer takes from; what is remote is fetched.
    async fn parts(&self, copying: &Copying, files: Files<B>) -> Result<Vec<Part<B>>> {
        let mut parts = Vec::new();
        if !copying.paths.is_empty() {
            parts.push(Part { files, paths: copying.paths.clone(), matches: Vec::new(), unpack: copying.unpack });
        }
        for (written, remote) in &copying.remote {
            if matches!(remote, Remote::Http { .. }) && remote.file_name().is_empty() && is_folder(&copying.dest) {
                return Err(BuildError::Invalid(format!(
                    "ADD {written}: the URL names no file; name it in the destination"
                )));
            }
            say(&self.output, format!("Fetching {}\n", remote.shown())).await?;
            let fetched = self.build.backend.fetch(remote, copying.keep_git_dir, copying.checksum.as_deref()).await?;
            self.build.note(Material::remote(remote, copying.checksum.as_deref()));
            if let Some(note) = fetched.note {
                say(&self.output, format!("[Warning] {note}\n")).await?;
            }
            parts.push(Part {
                files: Files::Context(std::sync::Arc::new(fetched.context)),
                paths: vec![fetched.path],
                matches: Vec::new(),
                unpack: copying.unpack_fetched,
            });
        }
        Ok(parts)
    }

    async fn collect(&self, copying: &Copying, mut parts: Vec<Part<B>>) -> Result<Vec<Part<B>>> {
        let selection = Selection {
            exclude: Ignore::from_patterns(copying.exclude.iter().map(String::as_str))
                .map_err(|error| BuildError::Invalid(format!("--exclude: {error}")))?,
            parents: copying.parents,
        };
        let keyword = copying.keyword;
        let parts = blocking(move || {
            for part in &mut parts {
                let found = with_origin(&part.files, |origin| {
                    let mut matches = Vec::new();
                    for path in &part.paths {
                        matches.extend(copy::collect(origin, path, &selection).map_err(copy_fault)?);
                    }
                    Ok(matches)
                })?;
                if found.is_empty() {
                    return Err(BuildError::Invalid(format!("{keyword} {}: nothing matches", part.paths.join(" "))));
                }
                part.matches = found;
            }
            Ok(parts)
        })
        .await?;
        Ok(parts)
    }

    async fn land(
        &self,
        copying: Copying,
        parts: Vec<Part<B>>,
        root: PathBuf,
        owner: Option<(u32, u32)>,
        created: i64,
    ) -> Result<()> {
        let dest = self.state.absolute(&copying.dest);
        let found: usize = parts.iter().map(|part| part.matches.len()).sum();
        let most = found.max(copying.paths.len() + copying.remote.len()) + copying.inline.len();
        blocking(move || {
            // Several files go into a directory: one that is there, or one that is meant to be.
            if most > 1 && !is_folder(&copying.dest) && !is_folder_in(&root, &dest) {
                return Err(BuildError::Invalid(format!(
                    "When using {} with more than one source file, the destination must be a directory and end with a /",
                    copying.keyword
                )));
            }
            let owner = match (&copying.chown, owner) {
                (_, Some(known)) => Some(known),
                (Some(text), None) => Some(owner_in(&root, text)?),
                (None, None) => None,
            };
            let mode = copying.chmod.as_deref().map(ModeChange::parse).transpose().map_err(BuildError::Invalid)?;
            let mut landing = Landing {
                dest,
                folder: is_folder(&copying.dest),
                owner,
                mode,
                unpack: copying.unpack,
                time: Self::time(created),
            };
            for part in &parts {
                landing.unpack = part.unpack;
                with_origin(&part.files, |origin| {
                    copy::land(origin, &part.matches, &root, &landing).map_err(copy_fault)
                })?;
            }
            for (name, content) in &copying.inline {
                copy::land_inline(name, content.as_bytes(), &root, &landing).map_err(copy_fault)?;
            }
            Ok(())
        })
        .await
    }
}

/// Who `--chown` names in a root.
fn owner_in(root: &Path, text: &str) -> Result<(u32, u32)> {
    let mut tree = Tree::open(root).map_err(|error| BuildError::Backend(format!("open the stage's root: {error}")))?;
    resolve_owner(&mut tree, text).map_err(|why| BuildError::Invalid(format!("--chown: {why}")))
}

/// Whether a destination was written as a directory.
fn is_folder(dest: &str) -> bool {
    dest.ends_with('/') || dest == "." || dest == ".." || dest.ends_with("/.") || dest.ends_with("/..")
}

/// Whether a directory of that name is in a root, links followed.
fn is_folder_in(root: &Path, dest: &str) -> bool {
    let found = Tree::open(root).ok().and_then(|mut tree| {
        let (_, stat) = copy::resolve(&mut tree, dest.trim_start_matches('/').as_bytes()).ok()?;
        stat
    });
    found.is_some_and(|stat| sampan_image::tree::format(&stat) == libc::S_IFDIR)
}

/// COPY as the history shows it.
fn history(copying: &Copying, transfer: &Transfer) -> String {
    let mut text = copying.keyword.to_owned();
    if transfer.link {
        text.push_str(" --link");
    }
    for (name, value) in [("from", &transfer.from), ("chown", &copying.chown), ("chmod", &copying.chmod)] {
        if let Some(value) = value
            && name != "from"
        {
            text.push_str(&format!(" --{name}={value}"));
        }
    }
    for path in &copying.paths {
        text.push_str(&format!(" {path}"));
    }
    for (_, remote) in &copying.remote {
        text.push_str(&format!(" {}", remote.shown()));
    }
    for (name, _) in &copying.inline {
        text.push_str(&format!(" <<{name}"));
    }
    text.push_str(&format!(" {}", copying.dest));
    text
}
