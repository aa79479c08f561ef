//! `rm`, `rename`, `container prune`.

use std::sync::Arc;

use bollard_stubs::models::{ContainerPruneResponse, EventMessageTypeEnum};

use super::record::Status;
use super::{Container, Containers, RemoveOptions, list, names};
use crate::error::{Error, Result};
use crate::filters::Filters;
use crate::{Engine, blocking, detached};

impl Engine {
    /// `rm`.
    pub async fn remove(&self, id: &str, options: RemoveOptions) -> Result<()> {
        if options.link {
            return Err(Error::unsupported("links between containers are not supported by this engine"));
        }
        let containers = self.inner.containers.clone();
        let container = containers.find(id)?;
        detached(async move {
            let _operation = container.operation.lock().await;
            containers.remove_locked(&container, options).await
        })
        .await
    }

    /// `rename`.
    pub async fn rename(&self, id: &str, name: &str) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        let new = names::check(name)?.to_owned();
        let containers = self.inner.containers.clone();
        let container = containers.find(id)?;
        detached(async move {
            let _operation = container.operation.lock().await;
            let old = container.name();
            if old == new {
                return Err(Error::invalid("Renaming a container with the same name as its current name"));
            }
            containers.set_name(&container, &new)?;
            if let Err(error) = containers.networks().renamed(&container.id, &new).await {
                containers.set_name(&container, &old)?;
                return Err(error);
            }
            containers.publish(&container, "rename", [("oldName", format!("/{old}"))]);
            Ok(())
        })
        .await
    }

    /// `container prune`.
    pub async fn prune_containers(&self, filters: Filters) -> Result<ContainerPruneResponse> {
        filters.only(&["label", "label!", "until"])?;
        let until = filters.values("until").next().map(list::parse_time).transpose()?;
        let containers = &self.inner.containers;
        let (mut deleted, mut reclaimed) = (Vec::new(), 0);
        for container in containers.all() {
            let fits = {
                let record = container.record();
                let idle = matches!(record.state.status, Status::Created | Status::Exited | Status::Dead);
                let empty = std::collections::HashMap::new();
                idle && until.is_none_or(|until| record.created_ns < until)
                    && filters.labels(record.config.labels.as_ref().unwrap_or(&empty))
            };
            if !fits {
                continue;
            }
            let size = containers.written(&container).await.unwrap_or(0);
            match self.remove(&container.id, RemoveOptions::default()).await {
                Ok(()) => {
                    reclaimed += size;
                    deleted.push(container.id.clone());
                }
                // Started or removed by now: the others go all the same.
                Err(error) => tracing::debug!(container = %container.id, %error, "not pruned"),
            }
        }
        let attributes = [("reclaimed".to_owned(), reclaimed.to_string())];
        containers.shared().events.publish(EventMessageTypeEnum::CONTAINER, "prune", "", attributes);
        Ok(ContainerPruneResponse { containers_deleted: Some(deleted), space_reclaimed: Some(reclaimed) })
    }
}

impl Containers {
    /// `--rm`: removes a container that has ended, unless it was started again.
    pub(super) fn remove_after_end(&self, container: &Arc<Container>) {
        let (containers, container) = (self.clone(), Arc::clone(container));
        tokio::spawn(async move {
            let _operation = container.operation.lock().await;
            if !matches!(container.status(), Status::Created | Status::Exited) {
                return;
            }
            let options = RemoveOptions { force: false, volumes: true, link: false };
            if let Err(error) = containers.remove_locked(&container, options).await {
                tracing::warn!(container = %container.id, %error, "it was not removed after its end");
            }
        });
    }

    /// Removes a container; whoever calls has its `operation` lock.
    pub(super) async fn remove_locked(&self, container: &Arc<Container>, options: RemoveOptions) -> Result<()> {
        if self.find(&container.id).is_err() {
            return Err(Error::not_found(format!("No such container: {}", container.id)));
        }
        let status = container.status();
        if !options.force {
            let name = container.name();
            let refuse = |why: &str| Err(Error::conflict(format!("cannot remove container \"/{name}\": {why}")));
            match status {
                Status::Running => {
                    return refuse("container is running: stop the container before removing or force remove");
                }
                Status::Paused => return refuse("container is paused and must be unpaused first"),
                Status::Restarting => {
                    return refuse("container is restarting: stop the container before removing or force remove");
                }
                _ => {}
            }
        }
        if status.is_alive() {
            self.update(container, |record| record.stopped_by_hand = true)?;
            let name = container.name();
            self.kill_hard(container)
                .await
                .map_err(|error| error.context(format!("cannot remove container \"/{name}\": could not kill")))?;
        }
        let settled = container.settling.lock().await;
        self.update(container, |record| record.state.status = Status::Removing)?;
        let removed = self.remove_parts(container, options.volumes).await;
        drop(settled);
        if let Err(error) = removed {
            self.update(container, |record| {
                record.state.status = Status::Dead;
                record.state.error.clone_from(&error.message);
            })?;
            let name = container.name();
            return Err(error.context(format!("cannot remove container \"/{name}\"")));
        }
        self.publish(container, "destroy", []);
        container.set_phase(|phase| phase.removed = true);
        Ok(())
    }

    /// What is on the disk goes first, the record last: a removal that was broken off is taken up again.
    pub(super) async fn remove_parts(&self, container: &Arc<Container>, volumes: bool) -> Result<()> {
        let id = container.id.clone();
        let (layers, directory) = (self.layers().clone(), self.shared().config.container_dir(&id));
        let files = blocking(move || {
            layers.remove(&id)?;
            sampan_storage::remove_tree(&directory)
                .map_err(|error| Error::internal(format!("remove {}: {error}", directory.display())))
        });
        let (files, network, released) = tokio::join!(
            files,
            self.networks().remove_sandbox(&container.id),
            self.volumes().release(&container.id, volumes),
        );
        files?;
        network?;
        released?;
        self.forget(container)
    }
}
