//! Fetching what a build needs of its client: directories, secrets, agents, credentials.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use sampan_buildkit::files::{Limits, Packet, Receive};
use sampan_buildkit::grpc::{Code, Status};
use sampan_buildkit::session::{
    BytesMessage, CHECK_AGENT, CREDENTIALS, CheckAgentRequest, CredentialsRequest, CredentialsResponse, DIFF_COPY,
    FORWARD_AGENT, GET_SECRET, GetSecretRequest, GetSecretResponse, Nothing, UPLOAD,
};
use sampan_engine::Engine;
use sampan_engine::build::{AskLogin, Scratch};
use sampan_engine::messages::Credentials;

use super::progress::Transfer;
use super::session::{Exchange, Field, Session};
use crate::request::Upload;
use crate::routes::archive::receiver;

/// How often the progress of a transfer is told.
const TOLD: Duration = Duration::from_millis(150);
/// Secrets of a build, together; as much as fits the memory of a step.
const SECRETS: usize = 64 << 20;
/// Connections to an agent at once.
const AGENT_CONNECTIONS: usize = 64;

/// What of a directory is wanted.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only these, and what links among them lead to; all if there are none.
    pub follow: Vec<String>,
    /// None of these.
    pub exclude: Vec<String>,
}

/// A directory of the client's, as a tar.
pub fn directory(session: &Session, name: &str, selection: Selection, told: Transfer) -> Result<Upload, Status> {
    let mut fields: Vec<Field> = vec![("dir-name", vec![name.to_owned()])];
    if !selection.follow.is_empty() {
        fields.push(("followpaths", selection.follow));
    }
    if !selection.exclude.is_empty() {
        fields.push(("exclude-patterns", selection.exclude));
    }
    let exchange = session.open(DIFF_COPY, &fields)?;
    let (sender, pieces) = mpsc::channel::<io::Result<Bytes>>(16);
    tokio::spawn(async move {
        let closed = sender.clone();
        tokio::select! {
            result = receive(exchange, &sender, told) => {
                if let Err(error) = result {
                    let _ = sender.send(Err(io::Error::other(error.message))).await;
                }
            }
            () = closed.closed() => {}
        }
    });
    Ok(Box::pin(StreamReader::new(receiver(pieces))))
}

async fn receive(
    mut exchange: Exchange,
    sender: &mpsc::Sender<io::Result<Bytes>>,
    mut told: Transfer,
) -> Result<(), Status> {
    let mut files = Receive::new(Limits::default());
    let mut last = Instant::now();
    loop {
        while let Some(packet) = files.next_packet() {
            exchange.send(&packet).await?;
        }
        if files.is_finished() {
            break;
        }
        let Some(packet) = exchange.receive::<Packet>().await? else {
            return Err(Status::new(Code::Unavailable, "the client ended the transfer early"));
        };
        told.add(packet.data.len());
        files.take(packet).map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
        let tar = files.tar();
        if !tar.is_empty() && sender.send(Ok(tar.into())).await.is_err() {
            return Ok(());
        }
        if last.elapsed() > TOLD {
            told.tell().await;
            last = Instant::now();
        }
    }
    // The client says that it is done too, and ends the call.
    exchange.receive::<Packet>().await?;
    exchange.end();
    told.end().await;
    Ok(())
}

/// What the client has on its standard input.
pub fn upload(session: &Session, path: &str, mut told: Transfer) -> Result<Upload, Status> {
    let mut exchange = session.open(UPLOAD, &[("urlpath", vec![format!("/{path}")])])?;
    let (sender, pieces) = mpsc::channel::<io::Result<Bytes>>(16);
    tokio::spawn(async move {
        loop {
            let piece = tokio::select! {
                piece = exchange.receive::<BytesMessage>() => piece,
                () = sender.closed() => return,
            };
            let sent = match piece {
                Ok(Some(piece)) => {
                    told.add(piece.data.len());
                    sender.send(Ok(piece.data)).await
                }
                Ok(None) => break,
                Err(error) => sender.send(Err(io::Error::other(error.message))).await,
            };
            if sent.is_err() {
                return;
            }
        }
        told.end().await;
    });
    Ok(Box::pin(StreamReader::new(receiver(pieces))))
}

/// Secrets by their ids; one that the client does not have is left out, which fails the steps that must have it.
pub async fn secrets(
    session: &Session,
    ids: impl IntoIterator<Item = String>,
) -> Result<BTreeMap<String, Arc<[u8]>>, Status> {
    let (mut found, mut bytes) = (BTreeMap::new(), 0);
    for id in ids {
        let asked = GetSecretRequest { id: id.clone(), ..GetSecretRequest::default() };
        match session.call::<GetSecretResponse>(GET_SECRET, &asked).await {
            Ok(secret) => {
                bytes += secret.data.len();
                if bytes > SECRETS {
                    return Err(Status::new(Code::ResourceExhausted, format!("secrets of more than {SECRETS} bytes")));
                }
                found.insert(id, secret.data.into());
            }
            Err(error) if absent(&error) => {}
            Err(error) => return Err(Status { message: format!("the secret {id}: {}", error.message), ..error }),
        }
    }
    Ok(found)
}

/// Whether the client just does not have what it was asked for, or gives nothing of the kind at all.
fn absent(error: &Status) -> bool {
    error.code == Code::NotFound as i32 || error.code == Code::Unimplemented as i32
}

/// Ways to the client's agents, as sockets below a folder; they end with the value.
#[derive(Debug)]
pub struct Agents {
    /// By their ids.
    pub sockets: BTreeMap<String, PathBuf>,
    listening: Vec<tokio::task::AbortHandle>,
    _folder: Option<Scratch>,
}

impl Drop for Agents {
    fn drop(&mut self) {
        for task in &self.listening {
            task.abort();
        }
    }
}

/// Opens ways to the agents of these ids that the client has.
pub async fn agents(
    engine: &Engine,
    session: &Session,
    ids: impl IntoIterator<Item = String>,
) -> Result<Agents, Status> {
    let mut agents = Agents { sockets: BTreeMap::new(), listening: Vec::new(), _folder: None };
    for (number, id) in ids.into_iter().enumerate() {
        match session.call::<Nothing>(CHECK_AGENT, &CheckAgentRequest { id: id.clone() }).await {
            Ok(_) => {}
            Err(error) if absent(&error) || error.code == Code::Unknown as i32 => continue,
            Err(error) => return Err(Status { message: format!("the agent {id}: {}", error.message), ..error }),
        }
        let folder = match &agents._folder {
            Some(folder) => folder.path().to_owned(),
            None => {
                let made = engine.build_scratch();
                let made = made.map_err(|error| Status::new(Code::Unknown, error.to_string()))?;
                agents._folder.insert(made).path().to_owned()
            }
        };
        let socket = folder.join(number.to_string());
        let listener = UnixListener::bind(&socket)
            .map_err(|error| Status::new(Code::Internal, format!("the agent {id}: make a socket: {error}")))?;
        let (session, name) = (session.clone(), id.clone());
        let task = tokio::spawn(async move {
            let slots = Arc::new(tokio::sync::Semaphore::new(AGENT_CONNECTIONS));
            while let (Ok(slot), Ok((stream, _))) = (Arc::clone(&slots).acquire_owned().await, listener.accept().await)
            {
                let (session, name) = (session.clone(), name.clone());
                tokio::spawn(async move {
                    if let Err(error) = forward(&session, &name, stream).await {
                        tracing::debug!(agent = name, %error, "a connection to an agent ended");
                    }
                    drop(slot);
                });
            }
        });
        agents.listening.push(task.abort_handle());
        agents.sockets.insert(id, socket);
    }
    Ok(agents)
}

/// Joins a connection to an agent of the client's.
async fn forward(session: &Session, id: &str, stream: UnixStream) -> Result<(), Status> {
    let exchange = session.open(FORWARD_AGENT, &[("buildkit.ssh.id", vec![id.to_owned()])])?;
    let (sending, mut reading) = exchange.split();
    let (mut from, mut to) = stream.into_split();
    let there = async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if !sending.send(&BytesMessage { data: Bytes::copy_from_slice(&buffer[..length]) }).await {
                break;
            }
        }
    };
    let back = async move {
        while let Some(piece) = reading.receive::<BytesMessage>().await? {
            if to.write_all(&piece.data).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    // Whoever goes first ends both: an agent answers while it is asked.
    tokio::select! {
        () = there => Ok(()),
        result = back => result,
    }
}

/// Asks the client for its credentials.
pub fn login(session: Session) -> AskLogin {
    Arc::new(move |registry: String| {
        let session = session.clone();
        Box::pin(async move {
            let host = if registry == "docker.io" { "registry-1.docker.io".to_owned() } else { registry.clone() };
            let asked = CredentialsRequest { host };
            match session.call::<CredentialsResponse>(CREDENTIALS, &asked).await {
                Ok(found) if found.username.is_empty() && !found.secret.is_empty() => Some(Credentials {
                    identitytoken: Some(found.secret),
                    serveraddress: Some(registry),
                    ..Credentials::default()
                }),
                Ok(found) if !found.username.is_empty() => Some(Credentials {
                    username: Some(found.username),
                    password: Some(found.secret),
                    serveraddress: Some(registry),
                    ..Credentials::default()
                }),
                Ok(_) => None,
                Err(error) => {
                    tracing::debug!(registry, %error, "a client gives no credentials");
                    None
                }
            }
        })
    })
}
