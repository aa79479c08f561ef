//! What a client asks of the daemon as a whole: builds, what is remembered of them, who builds.

use futures_util::{Stream, stream};
use std::collections::HashMap;
use std::sync::Arc;

use sampan_buildkit::control::{
    DiskUsageRequest, DiskUsageResponse, InfoResponse, ListWorkersResponse, Platform, PruneRequest, SolveRequest,
    SolveResponse, StatusResponse, Timestamp, UsageRecord, Version, WorkerRecord,
};
use sampan_buildkit::gateway::{BuildResult, Refs};
use sampan_buildkit::grpc::{Code, Status};
use sampan_engine::{Filters, timestamp};

use super::build::{Plan, Product};
use super::job::Job;
use super::outputs::Outputs;
use super::progress::Progress;
use super::{BuildKit, bridge, status};

/// A build is told of as long as someone listens.
struct Listening(Arc<Job>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.unheard();
    }
}

impl BuildKit {
    fn version() -> Version {
        let version = concat!("v", env!("CARGO_PKG_VERSION"), "+sampan").to_owned();
        Version { package: "sampan".to_owned(), version, revision: String::new() }
    }

    /// Which engine this is.
    pub fn info(&self) -> InfoResponse {
        InfoResponse { version: Some(Self::version()) }
    }

    /// The one who builds: the engine.
    pub fn workers(&self) -> ListWorkersResponse {
        // By this label clients know that images may be for several platforms and leave in OCI's form.
        let labels = [("org.mobyproject.buildkit.worker.snapshotter", "overlayfs")];
        let host = sampan_engine::build::host_platform();
        let mut parts = host.split('/').map(str::to_owned);
        let (os, architecture) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let platform = Platform { os, architecture, variant: parts.next().unwrap_or_default() };
        let record = WorkerRecord {
            id: "sampan".to_owned(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            platforms: vec![platform],
            version: Some(Self::version()),
        };
        ListWorkersResponse { record: vec![record] }
    }

    /// Has something built; answers when it is.
    pub async fn solve(&self, asked: SolveRequest) -> Result<SolveResponse, Status> {
        if asked.definition.as_ref().is_some_and(|graph| !graph.def.is_empty()) {
            return Err(bridge::no_graphs("Solve"));
        }
        if !matches!(asked.frontend.as_str(), "" | "dockerfile.v0") {
            return Err(bridge::no_frontend(&asked.frontend));
        }
        let job = self.jobs.get(&asked.reference)?;
        let ending = self.jobs.ask(&job, asked.clone())?;
        // After it is known: other calls of the client's wait for that.
        let outputs = Outputs::parse(&asked)?;
        let product = if asked.frontend.is_empty() {
            self.played(&job).await?
        } else {
            let (opts, inputs) = (&asked.frontend_attrs, &asked.frontend_inputs);
            let plan = Plan { kit: self, job: &job, asked: &asked, opts, inputs, imports: &[] };
            Some(Arc::new(plan.run().await?))
        };
        let mut told = HashMap::new();
        if let Some(product) = product.filter(|product| !product.id.is_empty()) {
            let session = self.sessions.get(&asked.session).await?;
            let progress = Progress::new(Arc::clone(&job));
            told = outputs.write(self, &session, &progress, &product).await?;
        }
        drop(ending);
        Ok(SolveResponse { exporter_response: told })
    }

    /// What the client, which plays the frontend, hands over as the result.
    async fn played(&self, job: &Arc<Job>) -> Result<Option<Arc<Product>>, Status> {
        let returned = job.returned().await;
        if let Some(error) = returned.error {
            return Err(error);
        }
        let reference = match returned.result {
            Some(BuildResult { refs: Some(Refs::One(one)), .. }) => one.id,
            // All are of one build.
            Some(BuildResult { refs: Some(Refs::Several(map)), .. }) => {
                map.refs.into_values().next().unwrap_or_default().id
            }
            _ => String::new(),
        };
        if reference.is_empty() {
            return Ok(None);
        }
        let found = job.product(&reference);
        found.map(Some).ok_or_else(|| Status::new(Code::NotFound, format!("no result {reference} was built here")))
    }

    /// What happens in a build.
    pub fn follow(
        &self,
        reference: &str,
    ) -> Result<impl Stream<Item = Result<StatusResponse, Status>> + Send + 'static, Status> {
        let listening = Listening(self.jobs.get(reference)?);
        Ok(stream::unfold(listening, |listening| async move {
            let told = listening.0.hear().await?;
            Some((Ok(told), listening))
        }))
    }

    /// What is remembered of builds.
    pub async fn disk_usage(&self, _asked: DiskUsageRequest) -> Result<DiskUsageResponse, Status> {
        let usage = self.engine.disk_usage().await.map_err(|error| status(&error))?;
        let time = |text: &Option<String>| text.as_deref().and_then(timestamp::parse).map(Timestamp::from_nanoseconds);
        let record = usage.build_cache.into_iter().map(|entry| UsageRecord {
            mutable: false,
            in_use: entry.in_use.unwrap_or_default(),
            size: entry.size.unwrap_or_default(),
            created_at: time(&entry.created_at).or_else(|| Some(Timestamp::default())),
            last_used_at: time(&entry.last_used_at),
            usage_count: entry.usage_count.unwrap_or_default(),
            description: entry.description.unwrap_or_default(),
            record_type: entry.typ.map(|kind| kind.to_string()).unwrap_or_default(),
            shared: entry.shared.unwrap_or_default(),
            id: entry.id.unwrap_or_default(),
            parents: Vec::new(),
        });
        Ok(DiskUsageResponse { record: record.collect() })
    }

    /// Forgets results; those that are gone.
    pub async fn prune(&self, asked: PruneRequest) -> Result<Vec<UsageRecord>, Status> {
        let mut filters: HashMap<String, Vec<String>> = HashMap::new();
        for text in &asked.filter {
            // Several conditions, of which all hold.
            for condition in text.split(',').filter(|condition| !condition.is_empty()) {
                let (key, value) = condition
                    .split_once("==")
                    .or_else(|| condition.split_once('='))
                    .ok_or_else(|| Status::unimplemented(format!("the filter {condition}: expected KEY=VALUE")))?;
                filters.entry(key.to_owned()).or_default().push(value.to_owned());
            }
        }
        if asked.keep_duration > 0 {
            filters.entry("until".to_owned()).or_default().push(format!("{}ns", asked.keep_duration));
        }
        let keep = [asked.max_used_space, asked.reserved_space].into_iter().find(|bytes| *bytes > 0);
        let text = serde_json::to_string(&filters).map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        let filters = Filters::parse(&text).map_err(|error| status(&error))?;
        let before = self.disk_usage(DiskUsageRequest::default()).await?;
        let keep = keep.and_then(|bytes| u64::try_from(bytes).ok());
        let pruned = self.engine.prune_build(asked.all, keep, filters).await.map_err(|error| status(&error))?;
        let gone: std::collections::HashSet<String> = pruned.caches_deleted.unwrap_or_default().into_iter().collect();
        Ok(before.record.into_iter().filter(|record| gone.contains(&record.id)).collect())
    }
}
