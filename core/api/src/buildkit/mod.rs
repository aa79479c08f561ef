//! BuildKit's protocol, as `docker buildx` and Compose speak it: another boundary of the same builds that `POST /build`
//! begins.
//!
//! A client opens two connections. Over `POST /grpc` it is the client of gRPC calls (`serve`): `control` takes a build
//! that is asked for, `bridge` the part of it that buildx plays itself, `job` joins both and what is told of them. Over
//! `POST /session` the daemon is the client (`session`) and asks for files, secrets, credentials and agents. `request`
//! translates what is wanted, `gather` fetches the files, `build` has the engine build, `progress` puts what it tells
//! into BuildKit's words, `outputs` hands the result over.
//!
//! Graphs of BuildKit's own (LLB) are not run: what asks for one is refused with the way round it.

mod bridge;
mod build;
mod control;
mod gather;
mod job;
mod outputs;
mod progress;
mod request;
mod serve;
mod session;

use http::{Response, StatusCode, header};
use std::sync::Arc;

use sampan_buildkit::grpc::{Code, Status};
use sampan_engine::{Engine, Error, ErrorKind};

use crate::request::Call;
use crate::response::{Answer, full};
use job::Jobs;
use session::Sessions;

/// What all connections share.
#[derive(Clone, Debug)]
pub struct BuildKit {
    engine: Engine,
    sessions: Arc<Sessions>,
    jobs: Arc<Jobs>,
}

impl BuildKit {
    /// Over an engine.
    pub fn new(engine: Engine) -> Self {
        Self { engine, sessions: Arc::default(), jobs: Arc::default() }
    }

    /// `POST /grpc`: the connection becomes one of HTTP/2, on which the client calls.
    pub fn grpc(&self, call: &mut Call) -> Answer {
        let upgrade = upgrade(call)?;
        let kit = self.clone();
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                serve::connection(kit, upgraded).await;
            }
        });
        switched()
    }

    /// `POST /session`: the connection becomes one of HTTP/2, on which the daemon calls.
    pub fn session(&self, call: &mut Call) -> Answer {
        let id = session::id_of(&call.headers).map_err(|status| Error::invalid(status.message))?;
        let upgrade = upgrade(call)?;
        let sessions = Arc::clone(&self.sessions);
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                sessions.serve(id, upgraded).await;
            }
        });
        switched()
    }
}

fn upgrade(call: &mut Call) -> Result<hyper::upgrade::OnUpgrade, Error> {
    if call.header("upgrade") != Some("h2c") {
        return Err(Error::invalid("this is for clients of BuildKit's protocol, which ask for `Upgrade: h2c`"));
    }
    call.take_upgrade().ok_or_else(|| Error::invalid("the connection cannot be taken over"))
}

fn switched() -> Answer {
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "h2c")
        .body(full(bytes::Bytes::new()))
        .map_err(|error| Error::internal(format!("write the answer: {error}")))
}

/// A failure of the engine's as a status.
fn status(error: &Error) -> Status {
    let code = match error.kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::Unauthorized => Code::PermissionDenied,
        ErrorKind::Unsupported => Code::Unimplemented,
        _ => Code::Unknown,
    };
    Status::new(code, error.message.clone())
}
