//! What `run` makes its container from.

use std::collections::BTreeSet;
use std::sync::Arc;

use bollard_stubs::models::ContainerCreateBody;
use tokio::sync::watch;

use super::{Stack, load};
use crate::desired;
use crate::images::{self, ImageOptions, Source};
use crate::labels;
use crate::material;
use crate::plan::{self, Action, PlanOptions};
use crate::progress::Progress;
use crate::request::{StackOptions, StackRequest};

impl Stack {
    /// Brings the image, networks and volumes of a service, and tells what its containers are made from. The stack does
    /// not become the daemon's by this, and what is up stays as it is.
    pub(super) async fn pattern(
        &self,
        request: &StackRequest,
        service: &str,
        options: &StackOptions,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
    ) -> Result<bool, String> {
        let request = self.with_provided(request.clone(), false);
        let loaded = load(&request).await?;
        for warning in &loaded.warnings {
            progress.warning(warning.to_string()).await;
        }
        let mut project = loaded.project;
        if project.name != self.name {
            return Err(format!("the files name the project {:?}, the request {:?}", project.name, self.name));
        }
        if !project.activate(service) {
            return Err(format!("no such service: {service}"));
        }
        let project = Arc::new(project);
        let services = [service.to_owned()];
        let mut observed = self.observe(&project, &services).await?;
        let wanted = ImageOptions { build: options.build, no_build: options.no_build, pull: options.pull.clone() };
        let present = observed.images.keys().cloned().collect();
        for need in images::decide(&project, &services, &present, &wanted)? {
            if need.source != Source::Present {
                images::provide(&self.engine, &project, &need, progress).await.map_err(|error| error.message)?;
            }
        }
        observed.containers.clear();
        let planned = PlanOptions {
            services: BTreeSet::from([service.to_owned()]),
            no_deps: true,
            no_start: true,
            ..PlanOptions::default()
        };
        let desired = self.desired(&project, &services)?;
        let mut plan = plan::up(&project, &desired, &observed, &planned).map_err(|error| error.to_string())?;
        plan.keep_only(|action| matches!(action, Action::CreateNetwork { .. } | Action::CreateVolume { .. }));
        let outcome = self.executor(Some(Arc::clone(&project)), progress, options.bounds(), cancel).run(&plan).await;
        outcome.tell(progress).await;
        if !outcome.ok() {
            return Ok(false);
        }
        let pattern = desired::container(&project, service, 1, &self.material).map_err(|error| error.to_string())?;
        let mut labels = pattern.labels(&project, service);
        material::put(pattern.material).await.map_err(|error| error.message)?;
        let image = project.image_name(service);
        let id = self.engine.inspect_image(&image).await.map_err(|error| error.message)?.id.unwrap_or_default();
        let mut body: ContainerCreateBody = pattern.body;
        body.image = Some(image);
        labels.insert(labels::IMAGE.to_owned(), id);
        body.labels = Some(labels);
        progress.pattern(body).await;
        Ok(true)
    }
}
