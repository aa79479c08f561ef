//! Building the drivers: components for `wasm32-wasip2`, from whichever toolchain can be had.
//!
//! In order: the installed target; `rustup target add`; a compiler and a standard library from the distribution's
//! packages, unpacked below the target folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const TARGET: &str = "wasm32-wasip2";

/// A driver: its folder below `plugins/`, and whether it ships with the binary.
struct Driver {
    folder: PathBuf,
    shipped: bool,
}

/// Builds every driver, and puts those that ship (component and manifest) into `out`, the examples into `out/examples`.
pub fn build(root: &Path, out: &Path) -> Result<()> {
    let plugins = root.join("plugins");
    let toolchain = Toolchain::find(root)?;
    println!("drivers: {}", toolchain.said);
    let target = plugins.join("target").join(&toolchain.name);
    let mut command = Command::new("cargo");
    command
        .args(["build", "--quiet", "--release", "--locked", "--target", TARGET, "--workspace"])
        .current_dir(&plugins)
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("RUSTFLAGS")
        .env("PATH", &toolchain.path);
    if let Some(compiler) = &toolchain.compiler {
        command.env("RUSTC", compiler).env_remove("RUSTC_WRAPPER").env_remove("RUSTUP_TOOLCHAIN");
    }
    ensure!(command.status().context("run cargo")?.success(), "the drivers do not build");
    for driver in drivers(&plugins)? {
        let manifest = fs::read_to_string(driver.folder.join("manifest.json"))?;
        let package = driver.folder.file_name().context("a driver's folder has a name")?.to_string_lossy().into_owned();
        let into = if driver.shipped { out.to_owned() } else { out.join("examples") };
        fs::create_dir_all(&into)?;
        let built = target.join(TARGET).join("release").join(format!("{}.wasm", package.replace('-', "_")));
        copy_if_changed(&built, &into.join(format!("{package}.wasm")))?;
        write_if_changed(&into.join(format!("{package}.json")), manifest.as_bytes())?;
    }
    Ok(())
}

fn drivers(plugins: &Path) -> Result<Vec<Driver>> {
    let mut found = Vec::new();
    for (folder, shipped) in [(plugins.to_owned(), true), (plugins.join("examples"), false)] {
        for entry in fs::read_dir(folder)? {
            let folder = entry?.path();
            if folder.join("manifest.json").exists() {
                found.push(Driver { folder, shipped });
            }
        }
    }
    Ok(found)
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    write_if_changed(to, &bytes)
}

/// The machine code cache goes by content, but a daemon looks at times first.
fn write_if_changed(to: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    fs::write(to, bytes).with_context(|| format!("write {}", to.display()))
}

struct Toolchain {
    name: String,
    said: String,
    compiler: Option<PathBuf>,
    path: std::ffi::OsString,
}

impl Toolchain {
    fn find(root: &Path) -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // `packages` takes the last way where an earlier one would do.
        let packages = std::env::var_os("SAMPAN_WASM_TOOLCHAIN").is_some_and(|way| way == "packages");
        if !packages && installed() {
            return Ok(Self {
                name: "native".into(),
                said: format!("the installed {TARGET} target"),
                compiler: None,
                path,
            });
        }
        let added = !packages
            && Command::new("timeout")
                .args(["20", "rustup", "target", "add", TARGET])
                .output()
                .is_ok_and(|run| run.status.success());
        if added && installed() {
            return Ok(Self {
                name: "native".into(),
                said: format!("{TARGET}, added by rustup"),
                compiler: None,
                path,
            });
        }
        let folder = root.join("target").join("wasm-toolchain");
        let version = unpack(&folder).context("get a wasm toolchain from the distribution's packages")?;
        let compiler = wrapper(&folder)?;
        Ok(Self {
            name: "packages".into(),
            said: format!("rustc {version} from the distribution's packages"),
            compiler: Some(compiler),
            path: with_linker(&path)?,
        })
    }
}

fn installed() -> bool {
    let Ok(run) = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output() else {
        return false;
    };
    let folder = PathBuf::from(String::from_utf8_lossy(&run.stdout).trim());
    fs::read_dir(folder)
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-")))
}

/// Linking a component needs programs that the host's own toolchain ships.
fn with_linker(path: &std::ffi::OsStr) -> Result<std::ffi::OsString> {
    let run = Command::new("rustc").args(["--print", "sysroot"]).output().context("ask rustc for its folder")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&run.stdout).trim());
    let mut folders = Vec::new();
    for entry in fs::read_dir(sysroot.join("lib/rustlib"))? {
        let tools = entry?.path().join("bin");
        if tools.join("rust-lld").exists() {
            folders.extend([tools.clone(), tools.join("gcc-ld")]);
        }
    }
    ensure!(!folders.is_empty(), "the Rust toolchain has no rust-lld; install it with rustup");
    folders.extend(std::env::split_paths(path));
    std::env::join_paths(folders).context("make a search path")
}

/// Downloads and unpacks the packages once; returns the compiler's version.
fn unpack(folder: &Path) -> Result<String> {
    let done = folder.join("version");
    if let Ok(version) = fs::read_to_string(&done) {
        return Ok(version);
    }
    let _ = fs::remove_dir_all(folder);
    for part in ["lists/partial", "cache/archives/partial", "packages", "root"] {
        fs::create_dir_all(folder.join(part))?;
    }
    let mirror = mirror()?;
    println!(
        "drivers: no {TARGET} target is installed; fetching one from the distribution's packages (about 190 MB, once)"
    );
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    fs::write(folder.join("sources.list"), format!("deb [signed-by={keyring}] {mirror} sid main\n"))?;
    let apt = |tool: &str, arguments: &[&str]| -> Result<String> {
        let option = |name: &str, path: &str| format!("{name}={}", folder.join(path).display());
        let mut command = Command::new(tool);
        for setting in [
            option("Dir::Etc::sourcelist", "sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            option("Dir::State::lists", "lists"),
            option("Dir::Cache", "cache"),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.arg("-o").arg(setting);
        }
        let run = command
            .args(arguments)
            .current_dir(folder.join("packages"))
            .output()
            .with_context(|| format!("run {tool}"))?;
        ensure!(
            run.status.success(),
            "{tool} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&run.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&run.stdout).into_owned())
    };
    apt("apt-get", &["update", "-q"])?;
    let policy = apt("apt-cache", &["policy", "rustc"])?;
    let candidate =
        policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: ")).context("there is no package rustc")?;
    let minor: String = candidate.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let library = format!("libstd-rust-{minor}");
    let depends = apt("apt-cache", &["depends", &library])?;
    let llvm = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("libllvm")));
    let llvm = llvm.with_context(|| format!("{library} names no libllvm"))?.to_owned();
    let mut packages =
        vec!["rustc", "libstd-rust-dev", "libstd-rust-dev-wasm32", &library, &llvm, "libc6", "libgcc-s1", "libstdc++6"];
    // What the compiler's library needs, whatever the versions are called now.
    let of_llvm = apt("apt-cache", &["depends", &llvm])?;
    let mut more: Vec<&str> = of_llvm
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .filter(|name| !name.starts_with('<'))
        .collect();
    let of_xml = match more.iter().find(|name| name.starts_with("libxml2")) {
        Some(xml) => apt("apt-cache", &["depends", xml])?,
        None => String::new(),
    };
    more.extend(
        of_xml.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).filter(|name| !name.starts_with('<')),
    );
    more.extend(["libbsd0", "libmd0", "liblzma5", "zlib1g", "libzstd1"]);
    packages.extend(more);
    packages.sort_unstable();
    packages.dedup();
    let mut arguments = vec!["download", "-q"];
    arguments.extend(packages);
    apt("apt-get", &arguments)?;
    for entry in fs::read_dir(folder.join("packages"))? {
        let package = entry?.path();
        let run = Command::new("dpkg").arg("-x").arg(&package).arg(folder.join("root")).status().context("run dpkg")?;
        ensure!(run.success(), "unpack {}", package.display());
        fs::remove_file(package)?;
    }
    fs::write(done, candidate)?;
    Ok(candidate.to_owned())
}

/// The mirror that this host's own sources name.
pub fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path()));
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            if let Some(address) = line
                .split_whitespace()
                .find(|word| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian"))
            {
                return Ok(address.to_owned());
            }
        }
    }
    bail!("this host's package sources name no Debian mirror; install the target with `rustup target add {TARGET}`")
}

/// The packaged compiler wants a newer C library than the host may have: it is started by its own loader.
fn wrapper(folder: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let root = folder.join("root");
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let loader = libraries.join("ld-linux-x86-64.so.2");
    let path = folder.join("rustc");
    let text = format!(
        "#!/bin/sh\nexec {} --library-path {} {} --sysroot {} \"$@\"\n",
        loader.display(),
        libraries.display(),
        root.join("usr/bin/rustc").display(),
        root.join("usr").display()
    );
    if fs::read_to_string(&path).is_ok_and(|present| present == text) {
        return Ok(path);
    }
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
