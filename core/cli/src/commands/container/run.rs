//! `run`.

use http::Method;
use serde_json::Value;
use std::time::Duration;

use super::create::{self, CreateArgs, Streams};
use super::signals;
use super::streams::{self, Ended, Session};
use crate::client::{Client, JsonLines, Query, Raw};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::say;
use crate::output::terminal::{self, DetachKeys};

/// How long a container that could not start may take to be removed.
const REMOVAL: Duration = Duration::from_secs(10);

/// Options of `run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Run container in background and print container ID
    #[arg(short, long)]
    pub detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long)]
    pub detach_keys: Option<String>,
    /// Proxy received signals to the process
    #[arg(long, default_value = "true")]
    pub sig_proxy: bool,
    /// What to create.
    #[command(flatten)]
    pub create: CreateArgs,
}

/// `run`
pub async fn run(context: Context, args: RunArgs) -> Outcome {
    let streams = Streams::chosen(&args.create.attach, args.create.interactive, args.detach).map_err(Failure::usage)?;
    let keys = DetachKeys::chosen(args.detach_keys.as_deref())?;
    let tty = args.create.tty;
    if streams.input && tty && !terminal::input_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let body = create::body(&args.create, streams, args.detach).map_err(Failure::usage)?;
    let id = create::create(&context, &args.create, &body).await?;
    let client = &context.client;
    if !streams.any() {
        start(client, &id).await?;
        say!("{id}")?;
        return Ok(());
    }
    if !streams.output && !streams.errors {
        say!("{id}")?;
    }
    if args.sig_proxy && !tty {
        signals::forward(client, &id);
    }
    attached(client, &id, streams, tty, keys, args.create.rm).await
}

/// Joins the streams of a container that is created and not started, starts it, and ends as it does.
pub async fn attached(
    client: &Client,
    id: &str,
    streams: Streams,
    tty: bool,
    keys: DetachKeys,
    removed: bool,
) -> Outcome {
    // Attached and waiting before the start: the output and status of a process that ends at once are not missed.
    let (raw, status) =
        tokio::join!(attach(client, id, streams), wait(client, id, if removed { "removed" } else { "next-exit" }));
    let (raw, mut status) = (raw?, status?);
    if let Err(failure) = start(client, id).await {
        if removed {
            let _ = tokio::time::timeout(REMOVAL, status.next::<Value>()).await;
        }
        return Err(failure);
    }
    if tty && (streams.output || streams.errors) {
        streams::follow_size(client, format!("/containers/{id}"));
    }
    match streams::join(Session { raw, tty, input: streams.input, detach_keys: keys }).await? {
        Ended::Detached => Ok(()),
        Ended::Output => exit_status(&mut status).await,
    }
}

/// Takes a container's streams over.
pub async fn attach(client: &Client, id: &str, streams: Streams) -> Outcome<Raw> {
    let query = Query::new()
        .with("stream", "1")
        .flag("stdin", streams.input)
        .flag("stdout", streams.output)
        .flag("stderr", streams.errors);
    let raw = client.hijack(&format!("/containers/{id}/attach{query}"), None::<&()>).await?;
    raw.ok_or_else(|| Failure::new("the daemon did not hand the connection over"))
}

/// Begins to wait: the daemon has answered that it does when this returns.
pub async fn wait(client: &Client, id: &str, condition: &str) -> Outcome<JsonLines> {
    let path = format!("/containers/{id}/wait{}", Query::new().with("condition", condition));
    Ok(JsonLines::new(client.call(Method::POST, &path, None::<&()>).await?))
}

/// Ends as the container ended.
pub async fn exit_status(status: &mut JsonLines) -> Outcome {
    let ended: Value = status.next().await?.unwrap_or_default();
    let code = ended["StatusCode"].as_i64().unwrap_or(125);
    if let Some(message) = ended["Error"]["Message"].as_str().filter(|message| !message.is_empty()) {
        return Err(Failure::new(format!("Error waiting for container: {message}")).with_code(low_byte(code)));
    }
    if code == 0 { Ok(()) } else { Err(Failure::exit(low_byte(code))) }
}

/// An exit status as the shell gets it.
pub fn low_byte(code: i64) -> u8 {
    u8::try_from(code & 0xff).unwrap_or(125)
}

/// Starts a container; the exit status of a failure tells a missing program from one that cannot be run.
pub async fn start(client: &Client, id: &str) -> Outcome {
    client.act(&format!("/containers/{id}/start")).await.map_err(|failure| {
        let code = start_code(&failure.message);
        failure.of_program().with_code(code)
    })
}

/// 127 for a program that is not there, 126 for one that cannot be run, 125 for all else.
pub fn start_code(message: &str) -> u8 {
    let message = message.to_ascii_lowercase();
    let says = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
    if says(&["executable file not found", "no such file or directory", "system cannot find the file specified"]) {
        127
    } else if says(&["permission denied", "not a directory", "is a directory", "exec format error"]) {
        126
    } else {
        125
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::app::parse_for_test;
    use crate::fake::{Fake, Reply};
    use std::sync::atomic::{AtomicBool, Ordering};

    fn context(fake: &Fake) -> Context {
        Context {
            client: fake.client(),
            config: "/no/such".into(),
            project: crate::commands::compose::ProjectArgs::default(),
            services: false,
        }
    }

    #[tokio::test]
    async fn a_run_attaches_and_waits_before_it_starts() {
        let fake = Fake::start(|short, _| match short {
            "POST /containers/create" => Reply::Json(201, r#"{"Id":"c1","Warnings":[]}"#),
            "POST /containers/c1/attach" => Reply::Raw(b"\x01\0\0\0\0\0\0\0"),
            "POST /containers/c1/wait" => Reply::AfterStart("{\"StatusCode\":42}\n"),
            _ => Reply::Json(204, ""),
        });
        let args: RunArgs = parse_for_test(&["--rm", "busybox", "false"]).unwrap();
        let failure = run(context(&fake), args).await.unwrap_err();
        assert_eq!((failure.code, failure.message.as_str()), (42, ""));
        let mut lines = fake.lines();
        assert_eq!(lines.remove(0), "POST /containers/create");
        assert_eq!(lines.pop().unwrap(), "POST /containers/c1/start");
        lines.sort_unstable();
        assert_eq!(lines, ["POST /containers/c1/attach", "POST /containers/c1/wait"]);
    }

    #[tokio::test]
    async fn a_detached_run_needs_one_connection() {
        let fake = Fake::start(|short, _| match short {
            "POST /containers/create" => Reply::Json(201, r#"{"Id":"c1","Warnings":[]}"#),
            _ => Reply::Json(204, ""),
        });
        let args: RunArgs = parse_for_test(&["-d", "busybox"]).unwrap();
        run(context(&fake), args).await.unwrap();
        assert_eq!(
            fake.asked(),
            [(1, "POST /containers/create".to_owned()), (1, "POST /containers/c1/start".to_owned())]
        );
    }

    #[tokio::test]
    async fn a_missing_image_is_pulled_once_and_a_missing_registry_is_told() {
        static PULLED: AtomicBool = AtomicBool::new(false);
        let fake = Fake::start(|short, line| match short {
            "POST /images/create" if line.contains("fromImage=busybox&tag=latest") => {
                PULLED.store(true, Ordering::SeqCst);
                Reply::Json(200, "{\"status\":\"Pulled\"}\n")
            }
            "POST /containers/create" if PULLED.load(Ordering::SeqCst) => Reply::Json(201, r#"{"Id":"c1"}"#),
            "POST /containers/create" => Reply::Json(404, r#"{"message":"No such image: busybox:latest"}"#),
            _ => Reply::Json(204, ""),
        });
        let args: RunArgs = parse_for_test(&["-d", "busybox"]).unwrap();
        run(context(&fake), args).await.unwrap();
        assert_eq!(fake.lines()[..3], ["POST /containers/create", "POST /images/create", "POST /containers/create"]);
        let fake = Fake::start(|short, _| match short {
            "POST /images/create" => {
                Reply::Json(200, "{\"errorDetail\":{\"message\":\"no registry\"},\"error\":\"no registry\"}\n")
            }
            _ => Reply::Json(404, r#"{"message":"No such image: busybox:latest"}"#),
        });
        let failure = run(context(&fake), parse_for_test(&["busybox"]).unwrap()).await.unwrap_err();
        assert_eq!((failure.code, failure.message.as_str()), (125, "no registry"));
        let failure = run(context(&fake), parse_for_test(&["--pull=never", "busybox"]).unwrap()).await.unwrap_err();
        assert_eq!(failure.message, "sampan: Error response from daemon: No such image: busybox:latest");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_127() {
        let fake = Fake::start(|short, _| match short {
            "POST /containers/create" => Reply::Json(201, r#"{"Id":"c1"}"#),
            "POST /containers/c1/attach" => Reply::Raw(b""),
            "POST /containers/c1/wait" => Reply::AfterStart("{\"StatusCode\":127}\n"),
            _ => Reply::Json(400, r#"{"message":"exec \"frob\": executable file not found in $PATH"}"#),
        });
        let failure = run(context(&fake), parse_for_test(&["busybox", "frob"]).unwrap()).await.unwrap_err();
        assert_eq!(failure.code, 127);
        assert!(failure.message.contains("executable file not found"));
    }

    #[test]
    fn start_failures_have_the_shells_codes() {
        assert_eq!(start_code("exec: \"frob\": executable file not found in $PATH"), 127);
        assert_eq!(start_code("exec /frob: no such file or directory"), 127);
        assert_eq!(start_code("exec: \"/etc/passwd\": permission denied"), 126);
        assert_eq!(start_code("port is already allocated"), 125);
        assert_eq!(low_byte(137), 137);
        assert_eq!(low_byte(-1), 255);
    }
}
