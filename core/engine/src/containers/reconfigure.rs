//! Published ports, health check and log options of a container, changed while it runs.

use std::sync::Arc;

use bollard_stubs::models::{ContainerCreateBody, ImageConfig};

use super::record::{ContainerRecord, Status};
use super::validate::{self, Sharing};
use super::{Container, Containers, drain, health, merge, ports};
use crate::error::{Error, Result};
use crate::{Engine, detached};

/// A part of a container that can be changed as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Exposed and published ports.
    Ports,
    /// The health check.
    Healthcheck,
    /// Options of the log driver.
    LogOptions,
}

impl Engine {
    /// Makes parts of a container what a request says, which stays otherwise as it is. The program runs on.
    pub async fn reconfigure(&self, id: &str, body: ContainerCreateBody, parts: Vec<Part>) -> Result<()> {
        let containers = self.inner.containers.clone();
        let container = containers.find(id)?;
        let image = container.record().image.clone();
        let image = self.inspect_image(&image).await.ok().and_then(|image| image.config).unwrap_or_default();
        detached(async move { containers.reconfigure(&container, body, &image, &parts).await }).await
    }
}

impl Containers {
    async fn reconfigure(
        &self,
        container: &Arc<Container>,
        body: ContainerCreateBody,
        image: &ImageConfig,
        parts: &[Part],
    ) -> Result<()> {
        let _operation = container.operation.lock().await;
        if matches!(container.status(), Status::Removing | Status::Dead) {
            return Err(Error::conflict(format!("container {} is marked for removal", container.id)));
        }
        let (given, mut host, _) = merge::split(body);
        let mut changed = ContainerRecord::clone(&container.record());
        if parts.contains(&Part::Ports) {
            changed.config.exposed_ports = merge::union(given.exposed_ports, image.exposed_ports.as_ref());
            changed.host.port_bindings = host.port_bindings.take();
            changed.host.publish_all_ports = host.publish_all_ports;
            ports::normalize(&mut changed.config, &mut changed.host)?;
        }
        if parts.contains(&Part::Healthcheck) {
            changed.config.healthcheck = given.healthcheck;
            merge::inherit_health(&mut changed.config.healthcheck, image.healthcheck.as_ref());
            validate::healthcheck(&changed.config)?;
        }
        if parts.contains(&Part::LogOptions) {
            self.check_log(&mut host).await?;
            let log = host.log_config.clone().unwrap_or_default();
            if log.typ.as_ref() != Some(&changed.log_driver) {
                return Err(Error::unsupported("the log driver of a container cannot be another one"));
            }
            changed.host.log_config = host.log_config;
            changed.log_options = log.config.unwrap_or_default();
        }
        let alive = changed.state.status.is_alive();
        if alive && parts.contains(&Part::Ports) && validate::network(&changed.host) == Sharing::Own {
            let wanted = ports::to_publish(&changed.config, &changed.host);
            let published = self.networks().republish(&container.id, &wanted, drain::group(&changed)).await?;
            changed.state.ports = ports::shown(&changed.config, published);
        }
        if alive && parts.contains(&Part::LogOptions) {
            container.hub.reopen(self.shared(), &changed).await?;
        }
        self.update(container, |record| {
            record.config.exposed_ports = changed.config.exposed_ports;
            record.config.healthcheck = changed.config.healthcheck;
            record.host.port_bindings = changed.host.port_bindings;
            record.host.publish_all_ports = changed.host.publish_all_ports;
            record.host.log_config = changed.host.log_config;
            record.log_options = changed.log_options;
            if record.state.status.is_alive() {
                record.state.ports = changed.state.ports;
            }
        })?;
        if alive && parts.contains(&Part::Healthcheck) {
            health::renew(self, container).await;
        }
        self.publish(container, "update", []);
        Ok(())
    }
}
