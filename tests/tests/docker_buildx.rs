//! Docker's own client with its plugin buildx against the socket: `docker build`, `buildx bake`, `compose build`.
//!
//! `SAMPAN_TEST_DOCKER` names the client, with `cli-plugins` beside it in `../libexec/docker`; else the one on the path is
//! taken, with the plugins that it finds by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sampan_tests::web::{git, serve};
use sampan_tests::{Answer, Host, IMAGE, Registry};
use serde_json::Value;

struct Docker<'a> {
    host: &'a Host,
    program: PathBuf,
}

impl<'a> Docker<'a> {
    /// The client, with plugins; `None` after saying why the test is skipped.
    fn of(host: &'a Host, test: &str, plugins: &[&str]) -> Option<Self> {
        let program = std::env::var_os("SAMPAN_TEST_DOCKER").map_or_else(|| PathBuf::from("docker"), PathBuf::from);
        let beside = program.parent().and_then(Path::parent).map(|usr| usr.join("libexec/docker/cli-plugins"));
        let folders: Vec<PathBuf> = beside.into_iter().filter(|folder| folder.is_dir()).collect();
        let config = serde_json::json!({ "cliPluginsExtraDirs": folders });
        host.write("docker-config/config.json", config.to_string());
        let docker = Self { host, program };
        for plugin in plugins {
            let version = docker.command(&[plugin, "version"]).output();
            if !version.is_ok_and(|output| output.status.success()) {
                println!("skipped: {test} needs docker with its plugin {plugin} (on the path, or SAMPAN_TEST_DOCKER)");
                return None;
            }
        }
        Some(docker)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .envs(self.host.environment())
            .env("BUILDX_CONFIG", self.host.path("buildx"))
            .env("BUILDKIT_PROGRESS", "plain")
            .current_dir(self.host.path(""))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Answer {
        answer(self.command(words).output().unwrap())
    }

    fn ok(&self, words: &[&str]) -> Answer {
        let answer = self.run(words);
        assert_eq!(answer.code, 0, "docker {words:?}: {}{}\n{}", answer.out, answer.err, self.host.log());
        answer
    }

    fn fails(&self, words: &[&str]) -> String {
        let answer = self.run(words);
        assert_ne!(answer.code, 0, "docker {words:?} succeeded: {}{}", answer.out, answer.err);
        answer.err
    }

    fn with_input(&self, words: &[&str], input: &[u8]) -> Answer {
        let mut child =
            self.command(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        answer(child.wait_with_output().unwrap())
    }
}

impl Drop for Docker<'_> {
    /// Roots and programs of builds go after their builds, on their own; a daemon that ends before leaves them to the next
    /// one, which a test is not to see as a leak.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let (roots, programs) = (self.host.run_directory().join("m"), self.host.run_directory().join("c"));
        self.host.wait_until("the roots of builds are gone", || {
            !fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&format!("{}/", roots.display()))
        });
        self.host
            .wait_until("the programs of builds are gone", || fs::read_dir(&programs).map_or(0, Iterator::count) == 0);
    }
}

fn answer(output: std::process::Output) -> Answer {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Answer { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

#[test]
fn docker_build_makes_the_image_that_is_asked_for() {
    let test = "docker_build_makes_the_image_that_is_asked_for";
    let Some(host) = Host::with_image(test) else { return };
    let Some(docker) = Docker::of(&host, test, &["buildx"]) else { return };
    let key = host.write("key", "of the user");
    let folder = host.context(&[
        (
            "docker/app.Dockerfile",
            &format!(
                "FROM {IMAGE} AS base\n\
                 ARG WORD=none\n\
                 COPY --chmod=0600 a/ /a/\n\
                 RUN --mount=type=secret,id=key,required cat /run/secrets/key >/told; echo \"$WORD $(cat /etc/hosts | grep -c db)\" >>/told\n\
                 FROM base AS unused\n\
                 RUN exit 1\n\
                 FROM base AS app\n\
                 COPY --from=lib lib.txt /lib.txt\n\
                 RUN echo said $((6 * 7))\n\
                 CMD [\"cat\", \"/told\", \"/a/b/c\", \"/lib.txt\"]\n"
            ),
        ),
        (".dockerignore", "*\n!a\n**/left-out\n"),
        ("a/b/c", "copied\n"),
        ("a/left-out", ""),
        ("not/there", ""),
    ]);
    host.write("lib/lib.txt", "of another\n");
    std::os::unix::fs::symlink("b/c", host.path("ctx/a/link")).unwrap();
    fs::write(host.path("ctx/a/many"), vec![7; 3 << 20]).unwrap();
    let (secret, dockerfile) = (format!("id=key,src={}", key.display()), format!("{folder}/docker/app.Dockerfile"));
    let mut words: Vec<&str> = vec!["build", "-t", "app:1", "-t", "app:2", "-f", &dockerfile, "--target", "app"];
    words.extend(["--build-arg", "WORD=given", "--label", "mark=yes", "--add-host", "db:10.0.0.9"]);
    words.extend(["--secret", &secret, "--build-context", "lib=lib", "--iidfile", "id", "--metadata-file", "meta"]);
    words.push(&folder);
    let built = docker.ok(&words);
    for part in [
        "[internal] load build definition from app.Dockerfile",
        "[internal] load build context",
        "[base 2/3] COPY --chmod=0600 a/ /a/",
        " said 42\n",
        "naming to docker.io/library/app:2",
    ] {
        assert!(built.err.contains(part), "{part}: {}", built.err);
    }
    let id = fs::read_to_string(host.path("id")).unwrap();
    let meta: Value = serde_json::from_slice(&fs::read(host.path("meta")).unwrap()).unwrap();
    assert_eq!(meta["containerimage.config.digest"], id.as_str());
    assert_eq!(meta["image.name"], "docker.io/library/app:1,docker.io/library/app:2");
    assert_eq!(
        host.ok(&["image", "inspect", "app:2", "--format", "{{.Id}} {{.Config.Labels.mark}}"]),
        format!("{id} yes")
    );
    let told = docker.ok(&["run", "--rm", "app:1"]).out;
    assert_eq!(told, "of the usergiven 1\ncopied\nof another\n");
    let listed =
        host.ok(&["run", "--rm", "app:1", "sh", "-c", "cd /a; find . -type f | sort; readlink link; sha256sum <many"]);
    assert!(listed.starts_with("./b/c\n./many\nb/c\n"), "{listed}");
    let all_sevens = answer(Command::new("sha256sum").arg(host.path("ctx/a/many")).output().unwrap()).out;
    assert_eq!(listed.lines().last().unwrap().split(' ').next(), all_sevens.split(' ').next());

    // Nothing has changed.
    let again = docker.ok(&words);
    assert_eq!(fs::read_to_string(host.path("id")).unwrap(), id);
    assert!(again.err.contains("CACHED") && !again.err.contains("said 42"), "{}", again.err);
    // The engine's own client has the same steps.
    let lib = format!("lib={}", host.path("lib").display());
    let mut own =
        vec!["build", "-f", &dockerfile, "--target", "app", "--build-arg", "WORD=given", "--label", "mark=yes"];
    own.extend(["--add-host", "db:10.0.0.9", "--secret", &secret, "--build-context", &lib, "-q", &folder]);
    assert_eq!(host.ok(&own), id);
}

#[test]
fn docker_build_says_what_is_wrong_and_where() {
    let test = "docker_build_says_what_is_wrong_and_where";
    let Some(host) = Host::with_image(test) else { return };
    let Some(docker) = Docker::of(&host, test, &["buildx"]) else { return };
    let folder = host.context(&[("Dockerfile", &format!("FROM {IMAGE}\nENV a b\nRUN echo before; exit 3\n"))]);
    let error = docker.fails(&["build", &folder]);
    for part in
        ["did not complete successfully: exit code: 3", "   3 | >>> RUN echo before; exit 3", "LegacyKeyValueFormat"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    let checked = docker.run(&["build", "--check", &folder]);
    assert!(checked.out.contains("LegacyKeyValueFormat") && checked.out.contains(">>> ENV a b"), "{checked:?}");
    let outline = docker.ok(&["build", "--call", "outline,format=json", &folder]).out;
    serde_json::from_str::<Value>(&outline).unwrap();

    host.context(&[("Dockerfile", "FROM scratch\nCOPI x y\n")]);
    let error = docker.fails(&["build", &folder]);
    assert!(error.contains(">>> COPI x y") && error.contains("COPY"), "{error}");
    host.context(&[("Dockerfile", "FROM scratch\nCOPY missing /\n")]);
    let error = docker.fails(&["build", &folder]);
    assert!(error.contains(">>> COPY missing /") && error.contains("missing"), "{error}");
    host.context(&[("Dockerfile", "FROM scratch\n")]);
    let error = docker.fails(&["build", "-f", "other", &folder]);
    assert!(error.contains("other"), "{error}");
    for (words, part) in [
        (["--cache-to", "type=local,dest=cache"], "type=registry"),
        (["--output", "type=oci,tar=false,dest=layout"], "tar=true"),
        (["--sbom", "true"], "sbom"),
        (["--allow", "security.insecure"], "security.insecure"),
    ] {
        let error = docker.fails(&[&["build"], &words[..], &[&folder]].concat());
        assert!(error.contains(part), "{words:?}: {error}");
    }
}

#[test]
fn docker_build_takes_files_from_anywhere_and_puts_them_anywhere() {
    let test = "docker_build_takes_files_from_anywhere_and_puts_them_anywhere";
    let Some(host) = Host::with_image(test) else { return };
    let Some(docker) = Docker::of(&host, test, &["buildx"]) else { return };
    let folder = host.context(&[("Dockerfile", "FROM scratch\nCOPY a /in/a\nCOPY a /in/b\n"), ("a", "text")]);

    // Out: a directory, a tar, an archive.
    docker.ok(&["build", "-o", "out", &folder]);
    assert_eq!(fs::read_to_string(host.path("out/in/b")).unwrap(), "text");
    docker.ok(&["build", "-o", "type=tar,dest=out.tar", &folder]);
    let names: Vec<String> = tar::Archive::new(fs::File::open(host.path("out.tar")).unwrap())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(names.contains(&"in/a".to_owned()), "{names:?}");
    docker.ok(&["build", "-t", "named:1", "-o", "type=oci,dest=image.tar", &folder]);
    assert!(host.ok(&["images", "-q"]).lines().count() == 1, "files leave no image: {}", host.ok(&["images"]));
    assert!(host.ok(&["load", "-i", "image.tar"]).contains("named:1"));

    // In: a Dockerfile or a tar on standard input, a repository.
    let built =
        docker.with_input(&["build", "-t", "piped", "-"], format!("FROM {IMAGE}\nRUN echo piped >/x\n").as_bytes());
    assert_eq!(built.code, 0, "{}", built.err);
    assert_eq!(host.ok(&["run", "--rm", "piped", "cat", "/x"]), "piped");
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", &folder).unwrap();
    let built = docker.with_input(&["build", "-t", "packed", "-"], &tar.into_inner().unwrap());
    assert_eq!(built.code, 0, "{}", built.err);
    let built = docker.with_input(&["build", "-t", "inline", "-f", "-", &folder], b"FROM scratch\nCOPY a /only\n");
    assert_eq!(built.code, 0, "{}", built.err);
    assert_eq!(host.ok(&["image", "history", "-q", "inline"]).lines().count(), 1);
}

#[test]
fn docker_build_fetches_repositories_and_uses_what_the_client_knows() {
    let test = "docker_build_fetches_repositories_and_uses_what_the_client_knows";
    let Some(host) = Host::with_image(test) else { return };
    let Some(docker) = Docker::of(&host, test, &["buildx"]) else { return };

    // A repository, whose Dockerfile asks for a secret of the client's.
    if Command::new("git").arg("--version").output().is_ok() {
        let port = serve(&host, host.path("www"));
        let dockerfile =
            format!("FROM {IMAGE}\nRUN --mount=type=secret,id=key,required cat /run/secrets/key >/told\nCOPY a /a\n");
        host.write("work/sub/Dockerfile", dockerfile);
        let work = host.write("work/sub/a", "of git").parent().unwrap().parent().unwrap().to_owned();
        git(&work, &["init", "-q"]);
        git(&work, &["add", "-A"]);
        git(&work, &["commit", "-q", "-m", "x"]);
        fs::create_dir_all(host.path("www")).unwrap();
        let bare = host.path("www/repo.git");
        git(&host.path("www"), &["clone", "-q", "--bare", work.to_str().unwrap(), bare.to_str().unwrap()]);
        git(&bare, &["update-server-info"]);
        let secret = format!("id=key,src={}", host.write("key", "hidden ").display());
        let url = format!("http://127.0.0.1:{port}/repo.git#main:sub");
        docker.ok(&["build", "-t", "fetched", "--secret", &secret, &url]);
        assert_eq!(host.ok(&["run", "--rm", "fetched", "cat", "/told", "/a"]), "hidden of git");
    } else {
        println!("skipped in part: {test} needs git");
    }

    // A registry that wants to know who asks.
    host.write("htpasswd", "me:$2b$04$V.INB7cZblXsMWg9ZK/eLOFccf/yfFPg9Qa7MMIIg5r0F9pcJU2FK\n");
    let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", host.path("htpasswd").display());
    let Some(_registry) = Registry::start(test, &host, "", &auth) else { return };
    let name = "localhost:5000/team/base:1";
    let folder = host.context(&[("Dockerfile", &format!("FROM {IMAGE}\nRUN echo base >/base\n"))]);
    docker.fails(&["build", "--push", "-t", name, &folder]);
    let config = fs::read_to_string(host.path("docker-config/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["auths"] = serde_json::json!({ "localhost:5000": { "auth": "bWU6c2VjcmV0" } });
    host.write("docker-config/config.json", config.to_string());
    docker.ok(&["build", "--push", "-t", name, &folder]);
    host.ok(&["rmi", "-f", name]);
    host.context(&[("Dockerfile", &format!("FROM {name}\nRUN echo more >>/base\n"))]);
    docker.ok(&[
        "build",
        "-t",
        "above",
        "--cache-to",
        "type=registry,ref=localhost:5000/team/base:cache,mode=max",
        &folder,
    ]);
    assert_eq!(host.ok(&["run", "--rm", "above", "cat", "/base"]), "base\nmore");
}

/// Asks an agent for its keys, and says by which message it answers.
const ASKING: &str = r#"
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(int count, char **words) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, words[1], sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) return 1;
    if (write(fd, "\0\0\0\1\13", 5) != 5) return 2;
    unsigned char answer[5];
    for (int at = 0, got; at < 5; at += got)
        if ((got = read(fd, answer + at, 5 - at)) <= 0) return 3;
    printf("answered by %d\n", answer[4]);
    return 0;
}
"#;

/// An agent without keys; it ends with the value.
struct Agent(std::process::Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_agent_of_the_client_answers_inside_of_a_step() {
    let test = "an_agent_of_the_client_answers_inside_of_a_step";
    let Some(host) = Host::with_image(test) else { return };
    let Some(docker) = Docker::of(&host, test, &["buildx"]) else { return };
    let folder = host.context(&[(
        "Dockerfile",
        &format!("FROM {IMAGE}\nCOPY ask /bin/ask\nRUN --mount=type=ssh,id=keys,required /bin/ask $SSH_AUTH_SOCK\n"),
    )]);
    let compiled =
        Command::new("cc").args(["-static", "-o"]).arg(host.path("ctx/ask")).arg(host.write("ask.c", ASKING)).status();
    if !compiled.is_ok_and(|status| status.success()) {
        println!("skipped: {test} needs a C compiler with a static C library");
        return;
    }
    let socket = host.path("agent.sock");
    let Ok(agent) = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn() else {
        println!("skipped: {test} needs ssh-agent (package openssh-client)");
        return;
    };
    let _agent = Agent(agent);
    host.wait_until("the agent listens", || socket.exists());
    let keys = format!("keys={}", socket.display());
    let built = docker.ok(&["build", "--ssh", &keys, &folder]);
    assert!(built.err.contains("answered by 12"), "{}", built.err);
    let error = docker.fails(&["build", "--no-cache", &folder]);
    assert!(error.contains(">>> RUN --mount=type=ssh"), "{error}");
}

#[test]
fn bake_builds_targets_that_stand_on_each_other() {
    let test = "bake_builds_targets_that_stand_on_each_other";
    let Some(host) = Host::with_image(test) else { return };
    let Some(docker) = Docker::of(&host, test, &["buildx"]) else { return };
    host.context(&[
        ("base.Dockerfile", &format!("FROM {IMAGE}\nRUN echo below >/below\n")),
        ("Dockerfile", "FROM base\nCOPY a /a\n"),
        ("a", "above"),
    ]);
    let file = serde_json::json!({
        "group": { "default": { "targets": ["one", "two"] } },
        "target": {
            "base": { "context": "ctx", "dockerfile": "base.Dockerfile" },
            "one": { "context": "ctx", "contexts": { "base": "target:base" }, "tags": ["one:1"] },
            "two": { "context": "ctx", "contexts": { "base": "target:base" }, "tags": ["two:1"], "labels": { "l": "v" } },
        }
    });
    host.write("bake.json", file.to_string());
    docker.ok(&["buildx", "bake", "-f", "bake.json"]);
    for name in ["one:1", "two:1"] {
        assert_eq!(host.ok(&["run", "--rm", name, "cat", "/below", "/a"]), "below\nabove");
    }
    assert!(docker.ok(&["buildx", "du"]).out.contains("Total"));
    assert!(docker.ok(&["buildx", "ls"]).out.contains("running"));
    docker.ok(&["builder", "prune", "-af"]);
    assert!(!host.ok(&["builder", "du"]).contains("RUN"), "{}", host.ok(&["builder", "du"]));
}

#[test]
fn compose_builds_what_it_brings_up() {
    let test = "compose_builds_what_it_brings_up";
    let Some(host) = Host::with_image(test) else { return };
    let Some(docker) = Docker::of(&host, test, &["buildx", "compose"]) else { return };
    host.context(&[(
        "Dockerfile",
        &format!("FROM {IMAGE}\nARG WORD\nENV WORD=$WORD\nCMD [\"sh\", \"-c\", \"echo $WORD; sleep 1000\"]\n"),
    )]);
    let file = "name: built\nservices:\n  web: { build: { context: ctx, args: { WORD: one } }, init: true, stop_signal: SIGKILL }\n  db: { build: ctx, image: 'db:1', init: true, stop_signal: SIGKILL }\n";
    host.write("compose.yaml", file);
    docker.ok(&["compose", "build"]);
    assert!(host.ok(&["images"]).contains("built-web"));
    docker.ok(&["compose", "up", "-d", "--build"]);
    host.wait_until("it says what it was built with", || {
        docker.ok(&["compose", "logs", "--no-log-prefix", "web"]).out.contains("one")
    });
    let id = host.inspect("built-web-1")["Id"].clone();
    docker.ok(&["compose", "up", "-d", "--build"]);
    assert_eq!(host.inspect("built-web-1")["Id"], id, "nothing has changed");
    host.write("compose.yaml", file.replace("one", "two"));
    docker.ok(&["compose", "up", "-d", "--build"]);
    assert_ne!(host.inspect("built-web-1")["Id"], id);
    docker.ok(&["compose", "down", "-t", "0"]);
}

#[test]
fn a_client_that_is_gone_leaves_no_build_behind() {
    let test = "a_client_that_is_gone_leaves_no_build_behind";
    let Some(host) = Host::with_image(test) else { return };
    let Some(docker) = Docker::of(&host, test, &["buildx"]) else { return };
    let folder = host.context(&[("Dockerfile", &format!("FROM {IMAGE}\nRUN echo begun; sleep 1000\n"))]);
    let log = fs::File::create(host.path("log")).unwrap();
    let mut child = docker.command(&["build", &folder]).stderr(log).spawn().unwrap();
    host.wait_until("the step runs", || fs::read_to_string(host.path("log")).unwrap().contains("begun"));
    // Docker's client is the parent of the plugin: both go.
    let plugin = children(child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    for pid in plugin {
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
    }
    host.wait_until("the build is ended", || host.log().contains("a build was cancelled"));
}

/// Processes of a parent.
fn children(parent: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}
