//! `docker buildx` as a frontend: it has the Dockerfile built as a part of its own build, and returns the result.

use std::collections::HashMap;
use std::sync::Arc;

use sampan_buildkit::gateway::{
    BuildResult, Cap, PongResponse, Ref, RefMap, Refs, ReturnRequest, SolveRequest, SolveResponse,
};
use sampan_buildkit::grpc::Status;
use sampan_buildkit::llb::Definition;
use sampan_buildkit::session::Nothing;

use super::BuildKit;
use super::build::{Plan, Product};
use super::job::Job;

/// What a frontend may ask for.
const FRONTEND: [&str; 12] = [
    "solve.base",
    "return",
    "returnmap",
    "proto.refarray",
    "frontend.caps",
    "frontend.inputs",
    "importcaches",
    "gateway.evaluate",
    "gateway.solve.evaluate",
    "gateway.solve.metadata",
    "gateway.warnings",
    "reference.output",
];
/// What a build may be asked for beyond what all know.
const BUILD: [&str; 6] =
    ["source.image", "source.local", "constraints", "platform", "exporter.image.attestations", "exporter.multiple"];

/// What is there.
pub fn pong(kit: &BuildKit) -> PongResponse {
    PongResponse {
        frontend_caps: FRONTEND.map(Cap::of).into(),
        llb_caps: BUILD.map(Cap::of).into(),
        workers: kit.workers().record,
    }
}

/// A graph of operations is asked for.
pub fn no_graphs(what: &str) -> Status {
    Status::unimplemented(format!(
        "{what}: this engine builds Dockerfiles, and no graphs (LLB) of other frontends: build with a Dockerfile, or with a builder of buildx's own"
    ))
}

/// A frontend that is an image is asked for.
pub fn no_frontend(name: &str) -> Status {
    Status::unimplemented(format!(
        "the frontend {name} is not run here: the engine reads Dockerfiles itself, whatever `# syntax=` says"
    ))
}

/// Calls that are part of one build.
pub struct Bridge {
    job: Arc<Job>,
    asked: Arc<sampan_buildkit::control::SolveRequest>,
}

impl BuildKit {
    /// The build that a call is part of.
    pub async fn bridge(&self, id: &str) -> Result<Bridge, Status> {
        let job = self.jobs.get(id)?;
        let asked = job.request().await?;
        Ok(Bridge { job, asked })
    }
}

impl Bridge {
    /// Builds, or answers a question about the Dockerfile.
    pub async fn solve(&self, kit: &BuildKit, wanted: SolveRequest) -> Result<SolveResponse, Status> {
        match wanted.frontend.as_str() {
            "dockerfile.v0" => {}
            "" => return Err(no_graphs("Solve")),
            other => return Err(no_frontend(other)),
        }
        let plan = Plan {
            kit,
            job: &self.job,
            asked: &self.asked,
            opts: &wanted.frontend_opt,
            inputs: &wanted.frontend_inputs,
            imports: &wanted.cache_imports,
        };
        let product = plan.run().await?;
        let metadata: HashMap<String, Vec<u8>> = product.metadata.clone();
        let refs = if product.id.is_empty() { None } else { Some(self.refs(product)) };
        Ok(SolveResponse { reference: String::new(), result: Some(BuildResult { refs, metadata }) })
    }

    /// Names for the client: one, or one for each platform. Each stands for the whole result.
    fn refs(&self, product: Product) -> Refs {
        let definition = Some(Definition::of_image(&product.id));
        let platforms: Vec<String> = product.images.iter().map(|(platform, _)| platform.clone()).collect();
        let id = self.job.keep(product);
        let one = Ref { id, definition };
        if platforms.len() < 2 {
            return Refs::One(one);
        }
        Refs::Several(RefMap { refs: platforms.into_iter().map(|platform| (platform, one.clone())).collect() })
    }

    /// Takes what the build is to end with.
    pub fn returned(&self, returned: ReturnRequest) -> Result<Nothing, Status> {
        self.job.end_with(returned);
        Ok(Nothing {})
    }
}
