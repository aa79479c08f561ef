//! The distribution's kernel, unpacked but not installed, and the modules that containers need.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Modules that a distribution would load by itself when they are asked for. What is missing may be built in.
const MODULES: [&str; 37] = [
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
    /// Downloads and unpacks a package's kernel once. A meta package stands for the image that it depends on.
    pub fn fetch(folder: &Path, package: &str) -> Result<Self> {
        ensure!(
            package.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-+.".contains(&byte)),
            "{package:?} is not the name of a package"
        );
        let place = folder.join("kernels").join(package);
        if let Ok(found) = Self::at(&place) {
            return Ok(found);
        }
        let _ = fs::remove_dir_all(&place);
        let download = place.join("download");
        fs::create_dir_all(&download)?;
        let concrete = match image_of(package)? {
            Some(image) => image,
            None => {
                apt("apt-get", &["update", "-q"], folder)?;
                image_of(package)?.with_context(|| format!("the distribution has no package {package}"))?
            }
        };
        println!("kernel: fetching {concrete}");
        if apt("apt-get", &["download", "-q", &concrete], &download).is_err() {
            // The lists are older than the mirror.
            apt("apt-get", &["update", "-q"], folder)?;
            apt("apt-get", &["download", "-q", &concrete], &download)?;
        }
        for entry in fs::read_dir(&download)? {
            let archive = entry?.path();
            let run =
                Command::new("dpkg").arg("-x").arg(&archive).arg(place.join("root")).status().context("run dpkg")?;
            ensure!(run.success(), "unpack {}", archive.display());
        }
        fs::remove_dir_all(&download)?;
        Self::at(&place)
    }

    fn at(place: &Path) -> Result<Self> {
        let root = place.join("root");
        for entry in fs::read_dir(root.join("boot"))? {
            let image = entry?.path();
            let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(release) = name.strip_prefix("vmlinuz-") {
                return Ok(Self { release: release.to_owned(), image, root });
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

/// The package with the image: the package itself, or what a meta package depends on; `None` when nobody knows it.
fn image_of(package: &str) -> Result<Option<String>> {
    let Ok(text) = apt("apt-cache", &["depends", package], Path::new("/")) else { return Ok(None) };
    let image = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"));
    Ok(Some(image.unwrap_or(package).to_owned()))
}

fn apt(tool: &str, arguments: &[&str], folder: &Path) -> Result<String> {
    let run = Command::new(tool)
        .args(["-o", "APT::Sandbox::User=root"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .with_context(|| format!("run {tool}"))?;
    ensure!(run.status.success(), "{tool} {}: {}", arguments.join(" "), String::from_utf8_lossy(&run.stderr).trim());
    Ok(String::from_utf8_lossy(&run.stdout).into_owned())
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
