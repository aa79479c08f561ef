//! Asking a registry whether it takes credentials.

use http::Method;

use super::client::{Extra, Repository, endpoints};
use super::{RegistryAuth, RegistryClient};
use crate::error::ImageError;
use crate::reference::{DEFAULT_DOMAIN, ImageRef};

/// Sends the credentials to the registry, named as Docker's clients name it (`https://index.docker.io/v1/` and nothing
/// at all mean Docker Hub). A token by which one may come again instead of with the password, where the registry's token
/// service gives one.
pub async fn login(client: &RegistryClient, server: &str, auth: &RegistryAuth) -> Result<Option<String>, ImageError> {
    let host = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    let host = if host.is_empty() || host == "index.docker.io" { DEFAULT_DOMAIN } else { host };
    // Any repository's name leads to its registry.
    let name = ImageRef::parse(&format!("{host}/library/login"))?;
    if name.domain() != host {
        return Err(ImageError::Invalid(format!("{server:?} is not the address of a registry")));
    }
    let mut last = None;
    for endpoint in endpoints(&name, &client.config, true) {
        let repository = Repository::account(client, endpoint, &name, Some(auth));
        let url = format!("{}/v2/", repository.endpoint.base);
        match repository.request(&Method::GET, &url, &Extra::default()).await {
            Ok(_) => {
                return Ok(repository.identity.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
            }
            Err(error) if error.is_wrong_door() => last = last.or(Some(error)),
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.map_or_else(|| ImageError::Unreachable("no registry to ask".to_owned()), Into::into))
}
