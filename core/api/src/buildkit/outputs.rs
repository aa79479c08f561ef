//! Handing over what was built: under names in the engine, or as files to the client.

use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

use sampan_buildkit::control::{Exporter, SolveRequest};
use sampan_buildkit::files::{Packet, Send, Stat, Step, mode, order};
use sampan_buildkit::grpc::{Code, Status};
use sampan_buildkit::session::{BytesMessage, FILE_SEND, Nothing};
use sampan_engine::build::{ImageFiles, image_registry};
use sampan_engine::images::Download;

use super::build::Product;
use super::progress::Progress;
use super::session::Session;
use super::{BuildKit, gather, status};

/// Where a result goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// The engine's images.
    Image,
    /// The files, into a directory of the client's.
    Local,
    /// The files, as a tar.
    Tar,
    /// The image, as a tar in both forms.
    Archive,
}

/// One result that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Output {
    kind: Kind,
    names: Vec<String>,
    /// To the registries of its names, too.
    push: bool,
    /// The files of each platform in a folder of its own, even if there is one.
    split: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Outputs {
    all: Vec<Output>,
    /// Times in layers become `SOURCE_DATE_EPOCH`.
    pub rewrite_timestamp: bool,
}

/// Bytes of a piece of a file.
const PIECE: usize = 32 << 10;

impl Outputs {
    /// Reads what is asked for.
    pub fn parse(asked: &SolveRequest) -> Result<Self, Status> {
        let (mut outputs, mut rewrite_timestamp) = (Vec::new(), false);
        let deprecated = Exporter { kind: asked.exporter.clone(), attrs: asked.exporter_attrs.clone() };
        let listed = if asked.exporters.is_empty() { vec![deprecated] } else { asked.exporters.clone() };
        for exporter in listed.iter().filter(|exporter| !exporter.kind.is_empty()) {
            let attr = |key: &str| exporter.attrs.get(key).map(String::as_str).unwrap_or_default();
            let truth = |key: &str| matches!(attr(key), "true" | "1");
            let refuse = |what: &str, instead: &str| {
                Err(Status::unimplemented(format!("--output type={},{what}: {instead}", exporter.kind)))
            };
            let kind = match exporter.kind.as_str() {
                "moby" | "image" => Kind::Image,
                "local" => Kind::Local,
                "tar" => Kind::Tar,
                "oci" | "docker" if attr("tar") == "false" => {
                    return refuse("tar=false", "unpack the archive of tar=true, or use `sampan build`");
                }
                "oci" | "docker" => Kind::Archive,
                other => {
                    return Err(Status::unimplemented(format!(
                        "--output type={other}: image, local, tar, oci and docker are known"
                    )));
                }
            };
            rewrite_timestamp |= truth("rewrite-timestamp");
            for key in ["compression", "push-by-digest"] {
                if !matches!(attr(key), "" | "false" | "0") {
                    return refuse(key, "not done over BuildKit's protocol; use `sampan build`");
                }
            }
            let names = attr("name").split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            let push = kind == Kind::Image && truth("push");
            let output = Output { kind, names, push, split: truth("platform-split") };
            if push && output.names.is_empty() {
                return Err(Status::new(Code::InvalidArgument, "tag is needed when pushing to registry"));
            }
            outputs.push(output);
        }
        Ok(Self { all: outputs, rewrite_timestamp })
    }

    /// The names that the image gets in the engine.
    pub fn names_here(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for output in self.all.iter().filter(|output| output.kind == Kind::Image) {
            names.extend(output.names.iter().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());
        }
        names
    }

    /// Whether the image stays in the engine.
    fn keeps(&self) -> bool {
        self.all.iter().any(|output| output.kind == Kind::Image)
    }

    /// Hands over; what is to be told of the result.
    pub async fn write(
        &self,
        kit: &BuildKit,
        session: &Session,
        progress: &Progress,
        product: &Product,
    ) -> Result<HashMap<String, String>, Status> {
        let mut told = HashMap::new();
        let mut written = Ok(());
        for (number, output) in self.all.iter().enumerate() {
            let writing = Writing { kit, session, progress, product, number };
            written = writing.write(output, &mut told).await;
            if written.is_err() {
                break;
            }
        }
        if !self.keeps() {
            for (_, id) in product.by_platform() {
                kit.engine.forget_image(id).await;
            }
        }
        written.map(|()| told)
    }
}

/// One result on its way.
struct Writing<'a> {
    kit: &'a BuildKit,
    session: &'a Session,
    progress: &'a Progress,
    product: &'a Product,
    /// By which the client knows it.
    number: usize,
}

impl Writing<'_> {
    async fn write(&self, output: &Output, told: &mut HashMap<String, String>) -> Result<(), Status> {
        let product = self.product;
        match output.kind {
            Kind::Image => {
                let shown = self.progress.begin("exporting to image").await;
                shown.part(format!("writing image {}", product.id)).end().await;
                let names: Vec<String> = output.names.iter().map(|name| canonical(name)).collect();
                for name in &names {
                    shown.part(format!("naming to {name}")).end().await;
                }
                shown.end().await;
                self.tell(told, &names);
                for name in names.iter().filter(|_| output.push) {
                    let shown = self.progress.begin(format!("pushing {name}")).await;
                    let pushed = self.push(name).await;
                    shown.ends(pushed).await?;
                }
                Ok(())
            }
            Kind::Archive => {
                let shown = self.progress.begin("exporting to oci image format").await;
                let names: Vec<String> = output.names.iter().map(|name| canonical(name)).collect();
                self.tell(told, &names);
                let work = async {
                    let tar = self.kit.engine.save_image_as(&product.id, &names).await;
                    let tar = tar.map_err(|error| status(&error))?;
                    let fields = [("exporter-md-containerimage.digest", vec![product.id.clone()])];
                    self.stream(tar, &fields, shown.part("sending tarball")).await
                };
                let result = work.await;
                shown.ends(result).await
            }
            Kind::Tar => {
                let shown = self.progress.begin("exporting to client tarball").await;
                let work = async {
                    let [(None, id)] = product.by_platform()[..] else {
                        return Err(Status::unimplemented(
                            "--output type=tar of several platforms: build for one, use type=local, or `sampan build`",
                        ));
                    };
                    let files = self.files(id).await?;
                    self.stream(files.tar(), &[], shown.part("sending tarball")).await
                };
                let result = work.await;
                shown.ends(result).await
            }
            Kind::Local => {
                let shown = self.progress.begin("exporting to client directory").await;
                let work = async {
                    let mut roots = Vec::new();
                    for (platform, id) in product.by_platform() {
                        let folder = match platform {
                            Some(platform) => Some(platform.replace('/', "_")),
                            None if output.split => Some(sampan_engine::build::host_platform().replace('/', "_")),
                            None => None,
                        };
                        roots.push((folder, self.files(id).await?));
                    }
                    self.directory(roots, shown.part("copying files")).await
                };
                let result = work.await;
                shown.ends(result).await
            }
        }
    }

    /// Sends the image to a registry, as the client is known there.
    async fn push(&self, name: &str) -> Result<(), Status> {
        let auth = match image_registry(name) {
            Some(registry) => gather::login(self.session.clone())(registry).await,
            None => None,
        };
        let mut messages = self.kit.engine.push_image(name, None, None, auth).await.map_err(|error| status(&error))?;
        while let Some(message) = messages.recv().await {
            if let Some(failure) = message.error_detail {
                let why = failure.message.unwrap_or_default();
                return Err(Status::new(Code::Unknown, format!("failed to push {name}: {why}")));
            }
        }
        Ok(())
    }

    fn tell(&self, told: &mut HashMap<String, String>, names: &[String]) {
        // As of Docker's engines, the digest by which an image is known is its id.
        told.insert("containerimage.digest".to_owned(), self.product.id.clone());
        if self.product.images.is_empty() {
            told.insert("containerimage.config.digest".to_owned(), self.product.id.clone());
        }
        if !names.is_empty() {
            told.insert("image.name".to_owned(), names.join(","));
        }
    }

    async fn files(&self, id: &str) -> Result<ImageFiles, Status> {
        self.kit.engine.image_files(id).await.map_err(|error| status(&error))
    }

    fn field(&self) -> (&'static str, Vec<String>) {
        ("buildkit-attachable-exporter-id", vec![self.number.to_string()])
    }

    /// Sends a byte stream that the client writes to a file.
    async fn stream(
        &self,
        mut bytes: Download,
        fields: &[(&'static str, Vec<String>)],
        mut told: super::progress::Transfer,
    ) -> Result<(), Status> {
        let fields: Vec<_> = fields.iter().cloned().chain([self.field()]).collect();
        let mut exchange = self.session.open(FILE_SEND, &fields)?;
        while let Some(piece) = bytes.recv().await {
            let piece = piece.map_err(|error| Status::new(Code::Unknown, format!("read the result: {error}")))?;
            told.add(piece.len());
            // A client that ends the call says why.
            if let Err(error) = exchange.send(&BytesMessage { data: piece }).await {
                exchange.rest().await?;
                return Err(error);
            }
        }
        exchange.end();
        exchange.rest().await?;
        told.end().await;
        Ok(())
    }

    /// Sends files that the client writes into a directory.
    async fn directory(
        &self,
        roots: Vec<(Option<String>, ImageFiles)>,
        mut told: super::progress::Transfer,
    ) -> Result<(), Status> {
        let wrong = |error: std::io::Error| Status::new(Code::Unknown, format!("read the result: {error}"));
        let failed = |error: tokio::task::JoinError| Status::new(Code::Internal, error.to_string());
        let listing = tokio::task::spawn_blocking(move || list(&roots).map(|listed| (listed, roots)));
        // The roots stay mounted until all is sent.
        let (listed, _roots) = listing.await.map_err(failed)?.map_err(wrong)?;
        let mut exchange = self.session.open(FILE_SEND, &[self.field()])?;
        let mut send = Send::default();
        let mut paths = HashMap::new();
        for (stat, path) in listed {
            send.name(&stat);
            paths.insert(stat.path.clone(), path);
            exchange.send(&Packet::of(Some(stat))).await?;
        }
        exchange.send(&Packet::of(None)).await?;
        while let Some(packet) = exchange.receive::<Packet>().await? {
            let step = send.take(&packet).map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
            let Step::Send { id, path } = step else {
                exchange.send(&Packet::finished()).await?;
                exchange.end();
                break;
            };
            let Some(path) = paths.remove(&path) else { continue };
            let mut pieces = read(path);
            while let Some(piece) = pieces.recv().await {
                let piece = piece.map_err(wrong)?;
                told.add(piece.len());
                exchange.send(&Packet::data(id, piece)).await?;
            }
            exchange.send(&Packet::data(id, Bytes::new())).await?;
        }
        while exchange.receive::<Nothing>().await?.is_some() {}
        told.end().await;
        Ok(())
    }
}

/// An image's name in full.
fn canonical(name: &str) -> String {
    sampan_engine::build::image_name(name).unwrap_or_else(|| name.to_owned())
}

/// A file in pieces; links are not followed.
fn read(path: PathBuf) -> mpsc::Receiver<std::io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(8);
    tokio::task::spawn_blocking(move || {
        let work = || {
            let mut file = File::options().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(&path)?;
            loop {
                let mut piece = vec![0; PIECE];
                let length = file.read(&mut piece)?;
                piece.truncate(length);
                if length == 0 || sender.blocking_send(Ok(piece.into())).is_err() {
                    return Ok(());
                }
            }
        };
        if let Err(error) = work() {
            let _ = sender.blocking_send(Err(error));
        }
    });
    receiver
}

/// All files in the order of a transfer, with where they are. Blocks.
fn list(roots: &[(Option<String>, ImageFiles)]) -> std::io::Result<Vec<(Stat, PathBuf)>> {
    let mut found = Vec::new();
    for (folder, files) in roots {
        let prefix = match folder {
            Some(name) => {
                found.push((stat(files.path(), name.clone())?, files.path().to_owned()));
                format!("{name}/")
            }
            None => String::new(),
        };
        walk(files.path(), &prefix, &mut found)?;
    }
    found.sort_by(|(one, _), (other, _)| order(&one.path, &other.path));
    Ok(found)
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<(Stat, PathBuf)>) -> std::io::Result<()> {
    let mut entries = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // The protocol has no names that are no text.
        let Ok(name) = std::str::from_utf8(entry.file_name().as_bytes()).map(str::to_owned) else {
            return Err(std::io::Error::other(format!("{:?} is no name that can be sent", entry.path())));
        };
        entries.insert(name, entry.path());
    }
    for (name, path) in entries {
        let stat = stat(&path, format!("{prefix}{name}"))?;
        let below = format!("{}/", stat.path);
        let is_folder = stat.mode & mode::DIRECTORY != 0;
        found.push((stat, path.clone()));
        if is_folder {
            walk(&path, &below, found)?;
        }
    }
    Ok(())
}

fn stat(path: &Path, name: String) -> std::io::Result<Stat> {
    use std::os::unix::fs::FileTypeExt;
    let found = fs::symlink_metadata(path)?;
    let kind = found.file_type();
    let bits = match () {
        () if kind.is_dir() => mode::DIRECTORY,
        () if kind.is_symlink() => mode::SYMLINK,
        () if kind.is_fifo() => mode::PIPE,
        () if kind.is_socket() => mode::SOCKET,
        () if kind.is_char_device() => mode::DEVICE | mode::CHARACTER,
        () if kind.is_block_device() => mode::DEVICE,
        () => 0,
    };
    let number = |part: u64| i64::try_from(part).unwrap_or(0);
    let linkname = if kind.is_symlink() {
        fs::read_link(path)?
            .into_os_string()
            .into_string()
            .map_err(|link| std::io::Error::other(format!("{name} leads to {link:?}, which cannot be sent")))?
    } else {
        String::new()
    };
    Ok(Stat {
        mode: mode::from_unix(found.mode()) | bits,
        uid: 0,
        gid: 0,
        size: if kind.is_file() { i64::try_from(found.size()).unwrap_or(i64::MAX) } else { 0 },
        mod_time: found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec()),
        linkname,
        devmajor: number(nix::libc::major(found.rdev()).into()),
        devminor: number(nix::libc::minor(found.rdev()).into()),
        path: name,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn outputs(kind: &str, attrs: &[(&str, &str)]) -> Result<Outputs, Status> {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let exporters = vec![Exporter { kind: kind.to_owned(), attrs }];
        Outputs::parse(&SolveRequest { exporters, ..SolveRequest::default() })
    }

    #[test]
    fn results_are_images_or_files() {
        let found = outputs("moby", &[("name", "a,b:1")]).unwrap();
        assert_eq!(found.names_here(), ["a", "b:1"]);
        let found = outputs("oci", &[("name", "a")]).unwrap();
        assert!(found.names_here().is_empty() && !found.keeps());
        assert_eq!(Outputs::parse(&SolveRequest::default()).unwrap().all, []);
        for (kind, attrs, part) in [
            ("oci", ("tar", "false"), "sampan build"),
            ("image", ("push", "true"), "tag is needed"),
            ("image", ("compression", "zstd"), "sampan build"),
            ("other", ("", ""), "are known"),
        ] {
            assert!(outputs(kind, &[attrs]).unwrap_err().message.contains(part));
        }
    }

    #[test]
    fn a_directory_is_listed_in_order_and_links_are_links() {
        let folder = std::env::temp_dir().join(format!("sampan-outputs-{}", std::process::id()));
        fs::create_dir_all(folder.join("a/b")).unwrap();
        fs::write(folder.join("a/b/c"), "text").unwrap();
        fs::write(folder.join("a.txt"), "").unwrap();
        std::os::unix::fs::symlink("/etc", folder.join("etc")).unwrap();
        let mut found = Vec::new();
        walk(&folder, "", &mut found).unwrap();
        found.sort_by(|(one, _), (other, _)| order(&one.path, &other.path));
        fs::remove_dir_all(&folder).unwrap();
        let shown: Vec<_> = found.iter().map(|(stat, _)| (stat.path.as_str(), stat.mode & mode::KIND)).collect();
        let wanted =
            [("a", mode::DIRECTORY), ("a/b", mode::DIRECTORY), ("a/b/c", 0), ("a.txt", 0), ("etc", mode::SYMLINK)];
        assert_eq!(shown, wanted);
        assert_eq!((found[2].0.size, found[4].0.linkname.as_str()), (4, "/etc"));
    }
}
