//! Installing what was built.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build::{self, Profile};

/// Programs, drivers, unit, socket and completions below a prefix.
pub fn run(root: &Path, prefix: &str) -> Result<()> {
    build::all(root, Profile::Release)?;
    let built = Profile::Release.folder(root);
    let prefix = Path::new(prefix);
    let library = prefix.join("lib/sampan");
    put(&built.join("sampan"), &prefix.join("bin/sampan"), 0o755)?;
    for program in ["sampand", "sampan-shim"] {
        put(&built.join(program), &library.join(program), 0o755)?;
    }
    for entry in fs::read_dir(built.join("drivers"))? {
        let path = entry?.path();
        if path.is_file() {
            let name = path.file_name().context("a driver has a name")?;
            put(&path, &library.join("drivers").join(name), 0o644)?;
        }
    }
    let program = prefix.join("bin/sampan");
    let units = prefix.join("lib/systemd/system");
    write(&units.join("sampan.service"), &service(&program))?;
    write(&units.join("sampan.socket"), SOCKET)?;
    for (shell, place) in [
        ("bash", "share/bash-completion/completions/sampan"),
        ("zsh", "share/zsh/site-functions/_sampan"),
        ("fish", "share/fish/vendor_completions.d/sampan.fish"),
    ] {
        let output = Command::new(&program).args(["completion", shell]).output().context("run sampan completion")?;
        write(&prefix.join(place), &String::from_utf8_lossy(&output.stdout))?;
    }
    println!("installed {} and what it needs below {}", program.display(), library.display());
    println!("next: systemctl daemon-reload && systemctl enable --now sampan.socket");
    Ok(())
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file has a folder")?)?;
    let temporary = to.with_extension("new");
    fs::copy(from, &temporary).with_context(|| format!("copy {} to {}", from.display(), temporary.display()))?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))?;
    fs::rename(&temporary, to).with_context(|| format!("put {} in its place", to.display()))
}

fn write(to: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file has a folder")?)?;
    fs::write(to, text).with_context(|| format!("write {}", to.display()))
}

fn service(program: &Path) -> String {
    format!(
        "[Unit]
Description=Sampan container engine
After=network-online.target sampan.socket
Wants=network-online.target
Requires=sampan.socket

[Service]
Type=notify
ExecStart={} daemon --host fd:// --live-restore
# Containers outlive the daemon: only the daemon itself is stopped.
KillMode=process
Delegate=yes
LimitNOFILE=1048576
TasksMax=infinity
Restart=on-failure
RestartSec=1

[Install]
WantedBy=multi-user.target
",
        program.display()
    )
}

const SOCKET: &str = "[Unit]
Description=Sampan API socket

[Socket]
ListenStream=/run/sampan/sampan.sock
SocketMode=0660
DirectoryMode=0711

[Install]
WantedBy=sockets.target
";
