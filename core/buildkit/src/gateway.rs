//! `moby.buildkit.v1.frontend.LLBBridge`: `docker buildx` plays a frontend, which has a Dockerfile built as a part of the
//! build that it asked [`crate::control`] for, and hands the result over.

use prost::{Message, Oneof};
use std::collections::HashMap;

use crate::control::{CacheEntry, WorkerRecord};
use crate::grpc::Status;
use crate::llb::Definition;

pub const SERVICE: &str = "moby.buildkit.v1.frontend.LLBBridge";

/// The header that says which build a call is part of.
pub const BUILD_ID: &str = "buildkit-controlapi-buildid";

#[derive(Clone, PartialEq, Message)]
pub struct SolveRequest {
    #[prost(message, optional, tag = "1")]
    pub definition: Option<Definition>,
    #[prost(string, tag = "2")]
    pub frontend: String,
    #[prost(map = "string, string", tag = "3")]
    pub frontend_opt: HashMap<String, String>,
    #[prost(bool, tag = "5")]
    pub allow_result_return: bool,
    #[prost(bool, tag = "6")]
    pub allow_result_array_ref: bool,
    #[prost(message, repeated, tag = "12")]
    pub cache_imports: Vec<CacheEntry>,
    #[prost(map = "string, message", tag = "13")]
    pub frontend_inputs: HashMap<String, Definition>,
    #[prost(bool, tag = "14")]
    pub evaluate: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct SolveResponse {
    #[prost(string, tag = "1")]
    pub reference: String,
    #[prost(message, optional, tag = "3")]
    pub result: Option<BuildResult>,
}

/// What was built.
#[derive(Clone, PartialEq, Message)]
pub struct BuildResult {
    #[prost(oneof = "Refs", tags = "3, 4")]
    pub refs: Option<Refs>,
    #[prost(map = "string, bytes", tag = "10")]
    pub metadata: HashMap<String, Vec<u8>>,
}

/// One image, or one for each platform.
#[derive(Clone, PartialEq, Oneof)]
pub enum Refs {
    #[prost(message, tag = "3")]
    One(Ref),
    #[prost(message, tag = "4")]
    Several(RefMap),
}

#[derive(Clone, PartialEq, Message)]
pub struct RefMap {
    #[prost(map = "string, message", tag = "1")]
    pub refs: HashMap<String, Ref>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Ref {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, optional, tag = "2")]
    pub definition: Option<Definition>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ReturnRequest {
    #[prost(message, optional, tag = "1")]
    pub result: Option<BuildResult>,
    #[prost(message, optional, tag = "2")]
    pub error: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PongResponse {
    #[prost(message, repeated, tag = "1")]
    pub frontend_caps: Vec<Cap>,
    #[prost(message, repeated, tag = "2")]
    pub llb_caps: Vec<Cap>,
    #[prost(message, repeated, tag = "3")]
    pub workers: Vec<WorkerRecord>,
}

/// Something that a client may ask for.
#[derive(Clone, PartialEq, Message)]
pub struct Cap {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(bool, tag = "2")]
    pub enabled: bool,
}

impl Cap {
    /// One that is there.
    #[must_use]
    pub fn of(id: &str) -> Self {
        Self { id: id.to_owned(), enabled: true }
    }
}
