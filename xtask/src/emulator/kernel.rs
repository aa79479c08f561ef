//! The distribution's kernel, unpacked but not installed, and the modules that containers need.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::drivers;

/// Modules that a distribution would load by itself when they are asked for. What is missing may be built in.
const MODULES: [&str; 39] = [
    "virtio_pci",
    "virtio_blk",
    "overlay",
    "bridge",
    "br_netfilter",
    "veth",
    "vxlan",
    "macvlan",
    "ipvlan",
    "dummy",
    "tun",
    "nf_tables",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_ct",
    "nft_fib",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_reject",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_limit",
    "nft_log",
    "nft_numgen",
    "nft_hash",
    "nft_objref",
    "nft_meta_bridge",
    "nft_socket",
    "fuse",
    "loop",
    "btrfs",
    "virtio_rng",
];

/// A kernel on disk.
#[derive(Debug)]
pub struct Kernel {
    /// As `uname -r` says.
    pub release: String,
    /// What boots.
    pub image: PathBuf,
    root: PathBuf,
}

impl Kernel {
    /// Downloads and unpacks a package's kernel once. A meta package stands for the image that it depends on;
    /// `sid/linux-image-cloud-amd64` is one of another suite than the host's.
    pub fn fetch(folder: &Path, package: &str) -> Result<Self> {
        let (suite, name) = package.split_once('/').map_or((None, package), |(suite, name)| (Some(suite), name));
        for word in suite.into_iter().chain([name]) {
            ensure!(
                !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-+".contains(&byte)),
                "{package:?} is not the name of a package"
            );
        }
        let place = folder.join("kernels").join(package.replace('/', "_"));
        if let Ok(found) = Self::at(&place) {
            return Ok(found);
        }
        let _ = fs::remove_dir_all(&place);
        let download = place.join("download");
        fs::create_dir_all(&download)?;
        let packages = Packages::of(suite, folder)?;
        if packages.download(name, &download).is_err() {
            // There are no lists yet, or they are older than the mirror.
            packages.run("apt-get", &["update", "-q"], folder)?;
            packages.download(name, &download)?;
        }
        for entry in fs::read_dir(&download)? {
            let archive = entry?.path();
            println!("kernel: unpacking {}", archive.file_name().unwrap_or_default().display());
            let run =
                Command::new("dpkg").arg("-x").arg(&archive).arg(place.join("root")).status().context("run dpkg")?;
            ensure!(run.success(), "unpack {}", archive.display());
        }
        fs::remove_dir_all(&download)?;
        Self::at(&place)
    }

    fn at(place: &Path) -> Result<Self> {
        let root = place.join("root");
        for entry in fs::read_dir(root.join("boot")).into_iter().flatten().flatten() {
            let image = entry.path();
            let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(release) = name.strip_prefix("vmlinuz-") {
                return Ok(Self { release: release.to_owned(), image, root });
            }
        }
        for entry in fs::read_dir(root.join("usr/lib/modules")).into_iter().flatten().flatten() {
            let image = entry.path().join("vmlinuz");
            if image.exists() {
                return Ok(Self { release: entry.file_name().to_string_lossy().into_owned(), image, root });
            }
        }
        bail!("{} holds no kernel", place.display())
    }

    /// The modules' files in the order in which they can be loaded, unpacked where they are packed.
    pub fn modules(&self, scratch: &Path) -> Result<Vec<PathBuf>> {
        let mut files = BTreeMap::new();
        let below = [self.root.join("lib/modules"), self.root.join("usr/lib/modules")];
        let tree = below.iter().map(|folder| folder.join(&self.release)).find(|folder| folder.exists());
        collect(&tree.context("the kernel has modules")?.join("kernel"), &mut files)?;
        let scratch = scratch.join(&self.release);
        fs::create_dir_all(&scratch)?;
        let (mut order, mut seen) = (Vec::new(), Vec::new());
        for name in MODULES {
            load(name, &files, &scratch, &mut order, &mut seen)?;
        }
        Ok(order)
    }
}

/// Names use dashes and underscores for the same.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some((name, _)) =
            path.file_name().and_then(|name| name.to_str()).and_then(|n| n.split_once(".ko"))
        {
            files.insert(plain(name), path);
        }
    }
    Ok(())
}

/// What a module needs comes before it.
fn load(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    scratch: &Path,
    order: &mut Vec<PathBuf>,
    seen: &mut Vec<String>,
) -> Result<()> {
    let name = plain(name);
    let Some(file) = files.get(&name) else { return Ok(()) };
    if seen.contains(&name) {
        return Ok(());
    }
    seen.push(name);
    let file = unpacked(file, scratch)?;
    for needed in needs(&fs::read(&file)?) {
        load(&needed, files, scratch, order, seen)?;
    }
    order.push(file);
    Ok(())
}

/// The names that a module says it depends on.
fn needs(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn unpacked(file: &Path, scratch: &Path) -> Result<PathBuf> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return Ok(file.to_owned()),
    };
    let place = scratch.join(file.file_stem().context("a module has a name")?);
    if !place.exists() {
        let run =
            Command::new(program).args(["-d", "-c"]).arg(file).output().with_context(|| format!("run {program}"))?;
        ensure!(run.status.success(), "unpack {}", file.display());
        fs::write(&place, run.stdout)?;
    }
    Ok(place)
}

/// The distribution's packages, of the host's suite or of another.
struct Packages {
    options: Vec<String>,
}

impl Packages {
    fn of(suite: Option<&str>, folder: &Path) -> Result<Self> {
        let mut options = vec!["APT::Sandbox::User=root".to_owned()];
        if let Some(suite) = suite {
            let folder = folder.join("apt").join(suite);
            for part in ["lists/partial", "cache/archives/partial"] {
                fs::create_dir_all(folder.join(part))?;
            }
            let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
            let mirror = drivers::mirror()?;
            fs::write(folder.join("sources.list"), format!("deb [signed-by={keyring}] {mirror} {suite} main\n"))?;
            options.push("Dir::Etc::sourceparts=-".to_owned());
            for (name, part) in
                [("Dir::Etc::sourcelist", "sources.list"), ("Dir::State::lists", "lists"), ("Dir::Cache", "cache")]
            {
                options.push(format!("{name}={}", folder.join(part).display()));
            }
        }
        Ok(Self { options })
    }

    /// Downloads the package, or the image that it depends on, and the parts that newer images are split into.
    fn download(&self, package: &str, into: &Path) -> Result<()> {
        let image = self.depends(package, &["linux-image-"])?.into_iter().next().unwrap_or(package.to_owned());
        let mut wanted = self.depends(&image, &["linux-binary-", "linux-modules-"])?;
        wanted.push(image);
        let mut words = vec!["download", "-q"];
        words.extend(wanted.iter().map(String::as_str));
        self.run("apt-get", &words, into).map(|_| ())
    }

    /// The packages called so that a package depends on.
    fn depends(&self, package: &str, called: &[&str]) -> Result<Vec<String>> {
        let text = self.run("apt-cache", &["depends", package], Path::new("/"))?;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.filter(|name| called.iter().any(|start| name.starts_with(start))).map(str::to_owned).collect())
    }

    fn run(&self, tool: &str, arguments: &[&str], folder: &Path) -> Result<String> {
        let mut command = Command::new(tool);
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        let run = command.args(arguments).current_dir(folder).output().with_context(|| format!("run {tool}"))?;
        ensure!(
            run.status.success(),
            "{tool} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&run.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&run.stdout).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_needs() {
        assert_eq!(needs(b"..\0license=GPL\0depends=nf_nat,nf_tables\0retpoline=Y\0"), ["nf_nat", "nf_tables"]);
        assert!(needs(b"..\0depends=\0intree=Y\0").is_empty());
        assert!(needs(b"nothing").is_empty());
    }
}
