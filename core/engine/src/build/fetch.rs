//! What a build takes from the network: files by http(s), and repositories by the host's `git`.
//!
//! Git is given an address that was checked, an environment of its own, and no way to run anything of the repository's:
//! no hooks, no local or external transports, no configuration but ours; the same for submodules.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};

use sampan_build::backend::Fetched;
use sampan_build::context::{Context, Scratch};
use sampan_build::error::{BuildError, Result};
use sampan_build::remote::Remote;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::Engine;

/// The longest file.
const LIMIT: u64 = 16 << 30;
/// A repository that takes longer is given up.
const GIT_WAIT: Duration = Duration::from_secs(1800);

pub(super) fn scratch(engine: &Engine) -> Result<Scratch> {
    Scratch::new(&engine.config().tmp()).map_err(|error| BuildError::Backend(format!("scratch folder: {error}")))
}

/// Fetches into a folder that goes with the result.
pub(super) async fn fetch(engine: &Engine, remote: &Remote, keep: bool, checksum: Option<&str>) -> Result<Fetched> {
    match remote {
        Remote::Http { url } => file(engine, remote, url, checksum).await,
        Remote::Git { url, reference, folder, wish } => {
            let scratch = scratch(engine)?;
            let given = [checksum, wish.checksum.as_deref()].into_iter().flatten();
            let wanted = Wanted {
                reference: reference.as_deref(),
                keep: keep || wish.keep,
                checksums: given.map(str::to_ascii_lowercase).collect(),
                submodules: !wish.no_submodules,
            };
            repository(scratch.path(), remote, url, wanted).await?;
            let path = if folder.is_empty() { ".".to_owned() } else { folder.clone() };
            Ok(Fetched { context: Context::scratch(scratch), path, note: None })
        }
    }
}

async fn file(engine: &Engine, remote: &Remote, url: &str, checksum: Option<&str>) -> Result<Fetched> {
    let wanted = checksum.map(|text| match text.split_once(':') {
        Some(("sha256", hex)) if hex.len() == 64 => Ok(hex.to_ascii_lowercase()),
        _ => Err(BuildError::Invalid(format!("--checksum={text}: expected sha256: and 64 digits"))),
    });
    let wanted = wanted.transpose()?;
    let scratch = scratch(engine)?;
    let name = match remote.file_name() {
        "" | "." | ".." => "download",
        name => name,
    };
    let path = scratch.path().join(name);
    let failed = |error: std::io::Error| BuildError::Backend(format!("keep {}: {error}", remote.shown()));
    let mut out = tokio::fs::File::create(&path).await.map_err(failed)?;
    let registries = engine.inner.images.registries();
    let modified =
        registries.fetch(url, LIMIT, &mut out).await.map_err(|error| BuildError::Invalid(error.to_string()))?;
    drop(out);
    let at = path.clone();
    let digest = tokio::task::spawn_blocking(move || finish(&at, modified))
        .await
        .map_err(|error| BuildError::Backend(format!("a worker thread failed: {error}")))?
        .map_err(failed)?;
    if let Some(wanted) = wanted.filter(|wanted| *wanted != digest) {
        return Err(BuildError::Invalid(format!(
            "{}: the checksum is sha256:{digest}, not sha256:{wanted}",
            remote.shown()
        )));
    }
    Ok(Fetched { context: Context::scratch(scratch), path: name.to_owned(), note: None })
}

/// Mode and time of a download, as Docker gives them; its digest. Blocks.
fn finish(path: &Path, modified: Option<i64>) -> std::io::Result<String> {
    use std::os::unix::fs::PermissionsExt;
    let mut file = std::fs::File::options().read(true).write(true).open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = std::io::Read::read(&mut file, &mut buffer)?;
        if length == 0 {
            break;
        }
        hash.update(&buffer[..length]);
    }
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    let seconds = u64::try_from(modified.unwrap_or(0)).unwrap_or(0);
    file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds))?;
    Ok(sampan_image::Digest::from_bytes(hash.finalize().into()).hex())
}

/// What is wanted of a repository.
struct Wanted<'a> {
    /// A branch, a tag or a commit.
    reference: Option<&'a str>,
    /// What git itself keeps there stays.
    keep: bool,
    /// The commit must be each of them; lower case, or the beginning of its name.
    checksums: Vec<String>,
    submodules: bool,
}

/// Checks a commit out into `folder`, with its submodules.
async fn repository(folder: &Path, remote: &Remote, url: &str, of: Wanted<'_>) -> Result<()> {
    let Wanted { reference, keep, checksums, submodules } = of;
    let shown = remote.shown();
    let wrong = |why: String| BuildError::Invalid(format!("{shown}: {why}"));
    git(folder, &["init", "--quiet"]).await.map_err(&wrong)?;
    // What submodules with relative addresses are relative to.
    git(folder, &["config", "remote.origin.url", url]).await.map_err(&wrong)?;
    let wanted = reference.unwrap_or("HEAD");
    let named = ["fetch", "--quiet", "--no-tags", "--depth=1", "--", url, wanted];
    if git(folder, &named).await.is_err() {
        // Servers that cannot cut the history, or give no commit by its digest, give everything.
        let all = "+refs/heads/*:refs/remotes/origin/*";
        let whole = ["fetch", "--quiet", "--tags", "--", url, all, "+HEAD:refs/remotes/head"];
        git(folder, &whole).await.map_err(&wrong)?;
        let places = match reference {
            None => vec!["refs/remotes/head".to_owned()],
            Some(name) => vec![
                format!("refs/remotes/origin/{}", name.strip_prefix("refs/heads/").unwrap_or(name)),
                format!("refs/tags/{name}"),
                name.to_owned(),
            ],
        };
        let mut found = None;
        for place in places {
            if let Ok(commit) = git(folder, &["rev-parse", "--verify", "--quiet", &format!("{place}^{{commit}}")]).await
            {
                found = Some(commit);
                break;
            }
        }
        let commit = found.ok_or_else(|| wrong(format!("there is no branch, tag or commit {wanted}")))?;
        git(folder, &["checkout", "--quiet", "--detach", commit.trim()]).await.map_err(&wrong)?;
    } else {
        git(folder, &["checkout", "--quiet", "--detach", "FETCH_HEAD"]).await.map_err(&wrong)?;
    }
    for wanted in checksums {
        let commit = git(folder, &["rev-parse", "HEAD"]).await.map_err(&wrong)?;
        if wanted.len() < 7 || !commit.trim().starts_with(&wanted) {
            return Err(wrong(format!("the commit is {}, not {wanted}", commit.trim())));
        }
    }
    if submodules && folder.join(".gitmodules").symlink_metadata().is_ok_and(|found| found.is_file()) {
        let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
        if git(folder, &[&update[..], &["--depth=1"]].concat()).await.is_err() {
            git(folder, &update).await.map_err(|why| wrong(format!("fetch submodules: {why}")))?;
        }
    }
    if !keep {
        let at = folder.to_owned();
        tokio::task::spawn_blocking(move || forget_git(&at))
            .await
            .map_err(|error| BuildError::Backend(format!("a worker thread failed: {error}")))?
            .map_err(|error| BuildError::Backend(format!("{shown}: remove .git: {error}")))?;
    }
    Ok(())
}

/// Removes what git itself has put there; no commit can hold anything of the name. Blocks.
fn forget_git(folder: &Path) -> std::io::Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let directory = entry.file_type()?.is_dir();
            match (entry.file_name() == ".git", directory) {
                (true, true) => std::fs::remove_dir_all(entry.path())?,
                (true, false) => std::fs::remove_file(entry.path())?,
                (false, true) => folders.push(entry.path()),
                (false, false) => {}
            }
        }
    }
    Ok(())
}

/// Runs git; its output, or the last words of its errors.
async fn git(folder: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("git");
    command.env_clear();
    let inherited = [
        "PATH",
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "NO_PROXY",
        "no_proxy",
        "ALL_PROXY",
        "all_proxy",
        "SSL_CERT_FILE",
    ];
    for name in inherited {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .envs([
            ("HOME", "/nonexistent"),
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "true"),
            ("GIT_ALLOW_PROTOCOL", "http:https:git:ssh"),
            ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes"),
            ("GIT_TEMPLATE_DIR", ""),
        ])
        .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "submodule.recurse=false"])
        .args(["-c", "protocol.file.allow=never", "-c", "protocol.ext.allow=never", "-c", "advice.detachedHead=false"])
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "git is not installed here, and repositories are fetched by it".to_owned(),
        _ => format!("run git: {error}"),
    })?;
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read = async {
        let first = async {
            if let Some(pipe) = stdout {
                let _ = pipe.take(1 << 20).read_to_end(&mut out).await;
            }
        };
        let second = async {
            if let Some(pipe) = stderr {
                let _ = pipe.take(1 << 20).read_to_end(&mut errors).await;
            }
        };
        tokio::join!(first, second);
        child.wait().await
    };
    let status = tokio::time::timeout(GIT_WAIT, read)
        .await
        .map_err(|_| format!("git gave no answer within {} minutes", GIT_WAIT.as_secs() / 60))?
        .map_err(|error| format!("wait for git: {error}"))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&out).into_owned());
    }
    let text = String::from_utf8_lossy(&errors);
    let last: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    Err(last[last.len().saturating_sub(3)..].join("; "))
}
