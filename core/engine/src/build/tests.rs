//! Builds on the real kernel: needs root, built drivers, a built shim and a static busybox.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{BuildContext, BuildRequest};
use crate::config::EngineConfig;
use crate::filters::Filters;
use crate::messages::BuildMessage;
use crate::{Engine, Result};

struct World {
    engine: Engine,
    folder: tempfile::TempDir,
}

/// `None`, said, where the test cannot run.
async fn world(test: &str) -> Option<World> {
    let built = |variable: &str, path: &str| {
        let named = std::env::var_os(variable).map(PathBuf::from);
        named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug").join(path))
    };
    let (drivers, shim) = (built("SAMPAN_DRIVERS", "drivers"), built("SAMPAN_SHIM", "sampan-shim"));
    let able = nix::unistd::geteuid().is_root()
        && drivers.join("storage-overlay.wasm").exists()
        && shim.exists()
        && Path::new("/bin/busybox").exists();
    if !able {
        println!("skipped: {test} needs root, a built shim, drivers in {} and /bin/busybox", drivers.display());
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("context")).unwrap();
    std::fs::copy("/bin/busybox", folder.path().join("context/busybox")).unwrap();
    let config = EngineConfig::new(folder.path().join("root"), folder.path().join("run"), drivers, shim);
    let engine = Engine::open(config).await.unwrap();
    Some(World { engine, folder })
}

const BASE: &str = "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n";

impl World {
    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join("context").join(name), text).unwrap();
    }

    fn request(&self, text: &str) -> BuildRequest {
        BuildRequest {
            context: BuildContext::Directory(self.folder.path().join("context")),
            dockerfile_inline: Some(format!("{BASE}{text}")),
            ..BuildRequest::default()
        }
    }

    async fn build(&self, request: BuildRequest) -> (String, Option<String>, Option<String>) {
        let mut receiver = self.engine.build_image(request).await.unwrap();
        let (mut said, mut id, mut fault) = (String::new(), None, None);
        while let Some(BuildMessage { stream, aux, error, .. }) = receiver.recv().await {
            said.push_str(&stream.unwrap_or_default());
            id = aux.and_then(|aux| aux["ID"].as_str().map(str::to_owned)).or(id);
            fault = error.or(fault);
        }
        (said, id, fault)
    }

    /// Everything that builds make in the kernel is gone again, soon.
    async fn clean(&self) {
        let begin = Instant::now();
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "left: {left}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn left(&self) -> String {
        let mut left = self.engine.inner.builds.roots().unwrap();
        for folder in ["run/c", "run/m", "run/netns", "root/tmp"] {
            for entry in std::fs::read_dir(self.folder.path().join(folder)).into_iter().flatten().flatten() {
                left.push(entry.path().display().to_string());
            }
        }
        left.join(" ")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_with_a_containers_rights_and_its_files_become_a_layer() -> Result<()> {
    let Some(world) = world("a_program_runs_with_a_containers_rights_and_its_files_become_a_layer").await else {
        return Ok(());
    };
    let text = "ENV WHO=builder\nWORKDIR /work\nRUN echo \"hello $WHO\" > made && id -u && grep CapEff /proc/self/status && cat made >&2\nUSER 5:6\nRUN id -u; id -g\nUSER 0\nRUN --network=none --mount=type=tmpfs,target=/t --mount=type=cache,target=/c echo kept >> /c/f && cat /c/f && ls / \nCMD [\"cat\", \"/work/made\"]\n";
    let (said, id, fault) = world.build(world.request(text)).await;
    assert_eq!(fault, None, "{said}");
    assert!(said.contains("CapEff:\t00000000a80425fb"), "{said}");
    assert!(said.contains("hello builder\n") && said.contains("5\n6\n"), "{said}");
    let id = id.unwrap();
    world.clean().await;

    // Nothing changed: the same image, quickly.
    let begin = Instant::now();
    let (said, again, _) = world.build(world.request(text)).await;
    assert_eq!(again.as_ref(), Some(&id), "{said}");
    println!("a build in which nothing changed took {:?}", begin.elapsed());

    // The cache mount is there for others, and what it held is in no layer.
    let (said, _, fault) = world
        .build(world.request("RUN --mount=type=cache,target=/c cat /c/f\nRUN test ! -e /c && test ! -e /t\n"))
        .await;
    assert_eq!(fault, None, "{said}");
    assert!(said.contains("kept\n"), "{said}");
    world.clean().await;
    world.engine.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_secrets_and_failures() -> Result<()> {
    let Some(world) = world("stages_secrets_and_failures").await else { return Ok(()) };
    world.put("source", "text");
    let text = "COPY source /src/\nRUN --mount=type=secret,id=key cat /run/secrets/key > /dev/null && tr a-z A-Z < /src/source > /out\nFROM scratch\nCOPY --from=0 /out /out\n";
    let mut request = world.request(text);
    request.options.secrets.insert("key".into(), b"hidden".as_slice().into());
    request.tags = vec!["made:here".into()];
    let (said, id, fault) = world.build(request).await;
    assert_eq!(fault, None, "{said}");
    let image = world.engine.inner.images.resolve("made:here")?;
    assert_eq!(Some(image.id.to_string()), id);
    assert_eq!(image.layers.len(), 1);
    assert!(!serde_json::to_string(&*image).unwrap().contains("hidden"));

    let (said, id, fault) = world.build(world.request("RUN echo before; exit 3\n")).await;
    assert_eq!(fault.as_deref(), Some("The command '/bin/sh -c echo before; exit 3' returned a non-zero code: 3"));
    assert!(said.contains("before\n") && id.is_none());
    let (_, _, fault) = world.build(world.request("RUN [\"/nothere\"]\n")).await;
    assert!(fault.unwrap().contains("/nothere"), "the program is named");
    world.clean().await;
    let pruned = world.engine.prune_build(true, None, Filters::default()).await?;
    assert!(!pruned.caches_deleted.unwrap().is_empty());
    world.engine.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_ends_the_program() -> Result<()> {
    let Some(world) = world("a_reader_that_leaves_ends_the_program").await else { return Ok(()) };
    let mut receiver = world.engine.build_image(world.request("RUN echo begun; sleep 1000\n")).await?;
    while let Some(message) = receiver.recv().await {
        assert_eq!(message.error, None);
        if message.stream.as_deref() == Some("begun\n") {
            break;
        }
    }
    drop(receiver);
    world.clean().await;
    world.engine.shutdown().await;
    Ok(())
}
