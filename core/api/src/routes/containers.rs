//! `/containers`.

use bollard_stubs::models::{ContainerCreateBody, ContainerUpdateBody, ContainerWaitExitError, ContainerWaitResponse};
use bytes::{BufMut, BytesMut};
use futures_util::stream;
use http::StatusCode;
use jiff::Timestamp;
use sampan_engine::containers::{
    AttachOptions, ListOptions, LogOptions, LogRecord, OutputStream, RemoveOptions, WaitCondition,
};
use sampan_engine::{Engine, Error, Result};
use std::time::Duration;

use crate::hijack;
use crate::request::Call;
use crate::response::{Answer, json, json_status, json_stream, no_content, stream as stream_body};
use crate::routes::stacks;
use crate::server::Server;

/// `GET /containers/json`
pub async fn list(engine: &Engine, call: &Call) -> Answer {
    let limit = call.query.number::<i64>("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|n| *n > 0);
    let options = ListOptions {
        all: call.query.flag("all") || limit.is_some(),
        limit,
        size: call.query.flag("size"),
        filters: call.query.filters()?,
    };
    json(&engine.list_containers(options).await?)
}

/// `POST /containers/create`
pub async fn create(server: &Server, call: &mut Call) -> Answer {
    let body: ContainerCreateBody = call.json().await?;
    stacks::before_create(server, call, &body).await?;
    let created = server.engine.create(call.query.get("name"), body, call.query.get("platform")).await?;
    json_status(StatusCode::CREATED, &created)
}

/// `GET /containers/{id}/json`
pub async fn inspect(engine: &Engine, id: &str, call: &Call) -> Answer {
    let found = engine.inspect_container(id, call.query.flag("size")).await?;
    let mut document = serde_json::to_value(&found).map_err(|error| Error::internal(error.to_string()))?;
    older_network_settings(&mut document);
    json(&document)
}

/// Templates of many years read the address on the default bridge from these fields, which the model has no more.
fn older_network_settings(document: &mut serde_json::Value) {
    let Some(settings) = document.get_mut("NetworkSettings").and_then(serde_json::Value::as_object_mut) else { return };
    let bridge = settings.get("Networks").and_then(|networks| networks.get("bridge")).cloned().unwrap_or_default();
    let texts = ["EndpointID", "Gateway", "GlobalIPv6Address", "IPAddress", "IPv6Gateway", "MacAddress"];
    for name in texts {
        settings.insert(name.into(), bridge.get(name).cloned().unwrap_or_else(|| "".into()));
    }
    for name in ["GlobalIPv6PrefixLen", "IPPrefixLen"] {
        settings.insert(name.into(), bridge.get(name).cloned().unwrap_or_else(|| 0.into()));
    }
}

/// `POST /containers/{id}/start`
pub async fn start(engine: &Engine, id: &str) -> Answer {
    engine.start(id).await?;
    no_content()
}

/// `POST /containers/{id}/stop`
pub async fn stop(engine: &Engine, id: &str, call: &Call) -> Answer {
    engine.stop(id, call.query.get("signal"), call.query.number("t")?).await?;
    no_content()
}

/// `POST /containers/{id}/restart`
pub async fn restart(engine: &Engine, id: &str, call: &Call) -> Answer {
    engine.restart(id, call.query.get("signal"), call.query.number("t")?).await?;
    no_content()
}

/// `POST /containers/{id}/kill`
pub async fn kill(engine: &Engine, id: &str, call: &Call) -> Answer {
    engine.kill(id, call.query.get("signal")).await?;
    no_content()
}

/// `POST /containers/{id}/pause`
pub async fn pause(engine: &Engine, id: &str) -> Answer {
    engine.pause(id).await?;
    no_content()
}

/// `POST /containers/{id}/unpause`
pub async fn unpause(engine: &Engine, id: &str) -> Answer {
    engine.unpause(id).await?;
    no_content()
}

/// `POST /containers/{id}/rename`
pub async fn rename(engine: &Engine, id: &str, call: &Call) -> Answer {
    engine.rename(id, call.query.required("name")?).await?;
    no_content()
}

/// `POST /containers/{id}/resize`
pub async fn resize(engine: &Engine, id: &str, call: &Call) -> Answer {
    let (rows, columns) = size(call)?;
    engine.resize(id, rows, columns).await?;
    json(&serde_json::json!({}))
}

/// The `h` and `w` of a terminal.
pub fn size(call: &Call) -> Result<(u16, u16)> {
    let rows = call.query.number("h")?.ok_or_else(|| Error::invalid("parameter h (rows) is missing"))?;
    let columns = call.query.number("w")?.ok_or_else(|| Error::invalid("parameter w (columns) is missing"))?;
    Ok((rows, columns))
}

/// `DELETE /containers/{id}`
pub async fn remove(server: &Server, id: &str, call: &Call) -> Answer {
    stacks::before_remove(server, call, id).await?;
    let options =
        RemoveOptions { force: call.query.flag("force"), volumes: call.query.flag("v"), link: call.query.flag("link") };
    server.engine.remove(id, options).await?;
    no_content()
}

/// `POST /containers/{id}/wait`: the headers go out at once, so that a client can wait before it starts.
pub async fn wait(engine: &Engine, id: &str, call: &Call) -> Answer {
    let condition = match call.query.get("condition") {
        None | Some("not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => {
            return Err(Error::invalid(format!("invalid condition: {other:?} (not-running, next-exit or removed)")));
        }
    };
    let waiting = engine.wait(id, condition).await?;
    json_stream(stream::once(async move {
        match waiting.await {
            Ok(status) => ContainerWaitResponse {
                status_code: status.code,
                error: status.error.map(|message| ContainerWaitExitError { message: Some(message) }),
            },
            Err(error) => ContainerWaitResponse {
                status_code: 125,
                error: Some(ContainerWaitExitError { message: Some(error.message) }),
            },
        }
    }))
}

/// `POST /containers/{id}/update`
pub async fn update(engine: &Engine, id: &str, call: &mut Call) -> Answer {
    let body: ContainerUpdateBody = call.json().await?;
    json(&engine.update(id, body).await?)
}

/// `POST /containers/{id}/attach`
pub async fn attach(engine: &Engine, id: &str, call: &mut Call) -> Answer {
    let options = AttachOptions {
        stream: call.query.flag("stream"),
        logs: call.query.flag("logs"),
        stdin: call.query.flag("stdin"),
        stdout: call.query.flag("stdout"),
        stderr: call.query.flag("stderr"),
    };
    let attached = engine.attach(id, options).await?;
    hijack::answer(call, attached)
}

/// `GET /containers/{id}/logs`
pub async fn logs(engine: &Engine, id: &str, call: &Call) -> Answer {
    let (stdout, stderr) = (call.query.flag("stdout"), call.query.flag("stderr"));
    if !stdout && !stderr {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
    }
    let tail = match call.query.get("tail") {
        None | Some("all") => None,
        // Docker takes a negative number, too, as everything.
        Some(text) => match text.parse::<i64>() {
            Ok(count) => u64::try_from(count).ok(),
            Err(_) => return Err(Error::invalid(format!("parameter tail: {text:?} is neither a number nor \"all\""))),
        },
    };
    let options = LogOptions {
        follow: call.query.flag("follow"),
        stdout,
        stderr,
        since_ns: timestamp(call, "since")?,
        until_ns: timestamp(call, "until")?,
        tail,
        details: call.query.flag("details"),
    };
    let timestamps = call.query.flag("timestamps");
    let logs = engine.logs(id, options).await?;
    let tty = logs.tty;
    let content_type = if tty || call.version < (1, 42) {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    };
    stream_body(
        content_type,
        stream::unfold((logs.records, [true; 2]), move |(mut records, mut fresh)| async move {
            let mut out = BytesMut::new();
            let first = records.recv().await?;
            write_record(&mut out, tty, timestamps, &mut fresh, &first);
            // What has arrived meanwhile goes out in one piece.
            while out.len() < 64 << 10 {
                let Ok(next) = records.try_recv() else { break };
                write_record(&mut out, tty, timestamps, &mut fresh, &next);
            }
            Some((Ok(out.freeze()), (records, fresh)))
        }),
    )
}

/// A time is written once a line: a record that continues a partial one has none.
fn write_record(out: &mut BytesMut, tty: bool, timestamps: bool, fresh: &mut [bool; 2], record: &LogRecord) {
    let stream = usize::from(record.stream == OutputStream::Stderr);
    let time = if timestamps && fresh[stream] { format!("{} ", rfc3339(record.time_ns)) } else { String::new() };
    fresh[stream] = !record.partial;
    if !tty {
        let length = time.len() + record.bytes.len();
        out.put_u8(if record.stream == OutputStream::Stderr { 2 } else { 1 });
        out.put_bytes(0, 3);
        out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    }
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(&record.bytes);
}

/// Nanoseconds since the epoch as `2006-01-02T15:04:05.000000000Z` (RFC 3339).
pub fn rfc3339(nanoseconds: u64) -> String {
    format!("{:.9}", Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or(Timestamp::MAX))
}

/// `1700000000.000000001`: seconds and a fraction, in nanoseconds since the epoch.
pub fn timestamp(call: &Call, name: &str) -> Result<Option<i64>> {
    let Some(text) = call.query.get(name) else { return Ok(None) };
    let wrong = || {
        Error::invalid(format!("parameter {name}: {text:?} is not a Unix time (seconds, with an optional fraction)"))
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().map_err(|_| wrong())?;
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let nanoseconds: i64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    let total = seconds.checked_mul(1_000_000_000).and_then(|ns| ns.checked_add(nanoseconds)).ok_or_else(wrong)?;
    // Zero is what Docker's client sends for "not given".
    Ok((total != 0).then_some(total))
}

/// `GET /containers/{id}/top`
pub async fn top(engine: &Engine, id: &str, call: &Call) -> Answer {
    json(&engine.top(id, call.query.get("ps_args").unwrap_or("-ef")).await?)
}

/// `GET /containers/{id}/stats`: one sample a second, or one alone.
pub async fn stats(engine: &Engine, id: &str, call: &Call) -> Answer {
    let first = engine.stats(id).await?;
    if !call.query.flag_or("stream", true) {
        if call.query.flag("one-shot") {
            return json(&first);
        }
        // Clients compute shares from two samples; a short distance serves as well as Docker's second.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut second = engine.stats(id).await?;
        second.precpu_stats = first.cpu_stats;
        second.preread = first.read;
        return json(&second);
    }
    let engine = engine.clone();
    let id = id.to_owned();
    json_stream(stream::unfold((engine, id, Some(first), None), |(engine, id, first, previous)| async move {
        let mut sample = match first {
            Some(sample) => sample,
            None => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                engine.stats(&id).await.ok()?
            }
        };
        let kept = (sample.cpu_stats.clone(), sample.read.clone());
        if let Some((cpu, read)) = previous {
            sample.precpu_stats = cpu;
            sample.preread = read;
        }
        Some((sample, (engine, id, None, Some(kept))))
    }))
}

/// `GET /containers/{id}/changes`
pub async fn changes(engine: &Engine, id: &str) -> Answer {
    json(&engine.changes(id).await?)
}

/// `POST /containers/prune`
pub async fn prune(engine: &Engine, call: &Call) -> Answer {
    json(&engine.prune_containers(call.query.filters()?).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_docker_writes_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(1_709_210_096_000_000_007), "2024-02-29T12:34:56.000000007Z");
        assert_eq!(rfc3339(951_868_799_000_000_000), "2000-02-29T23:59:59.000000000Z");
    }

    #[test]
    fn the_address_on_the_default_bridge_is_where_it_always_was() {
        let mut document = serde_json::json!({
            "NetworkSettings": { "Networks": { "bridge": { "IPAddress": "172.17.0.2", "IPPrefixLen": 16 } } }
        });
        older_network_settings(&mut document);
        let settings = &document["NetworkSettings"];
        assert_eq!((settings["IPAddress"].as_str(), settings["IPPrefixLen"].as_i64()), (Some("172.17.0.2"), Some(16)));
        assert_eq!(settings["Gateway"].as_str(), Some(""));
    }

    #[test]
    fn a_time_is_written_once_a_line() {
        let record = |bytes: &'static str, partial| LogRecord {
            time_ns: 1,
            stream: OutputStream::Stdout,
            partial,
            bytes: bytes::Bytes::from_static(bytes.as_bytes()),
        };
        let (mut out, mut fresh) = (BytesMut::new(), [true; 2]);
        for part in [record("a", true), record("b\n", false), record("c\n", false)] {
            write_record(&mut out, true, true, &mut fresh, &part);
        }
        assert_eq!(&out[..], b"1970-01-01T00:00:00.000000001Z ab\n1970-01-01T00:00:00.000000001Z c\n");
    }
}
