//! Compose's own labels, so that Compose, IDEs and Sampan see the same stacks.

/// The project's name.
pub const PROJECT: &str = "com.docker.compose.project";
/// The service's name.
pub const SERVICE: &str = "com.docker.compose.service";
/// Which of the service's containers, from 1.
pub const NUMBER: &str = "com.docker.compose.container-number";
/// `True` for containers of `run`, `False` for the services' own; what has no such label was not made by a stack.
pub const ONEOFF: &str = "com.docker.compose.oneoff";
/// `pre_start` for init containers.
pub const HOOK: &str = "com.docker.compose.hook";
/// Of what it was made from, as Compose reckons it: Compose leaves alone what has the hash that it would give.
pub const CONFIG_HASH: &str = "com.docker.compose.config-hash";
/// Of what the container was made from, to the last part of the request.
pub const HASH: &str = "sampan.hash";
/// Hashes of the container's parts: what differs may be changed in place.
pub const PARTS: &str = "sampan.parts";
/// What is run in the container after its start and before its stop, as JSON.
pub const HOOKS: &str = "sampan.hooks";
/// Id of the image that it was made from.
pub const IMAGE: &str = "com.docker.compose.image";
/// Ids of the images that it mounts, separated by commas.
pub const MOUNTED_IMAGES: &str = "sampan.mounted-images";
/// `service:condition:restart`, separated by commas.
pub const DEPENDS_ON: &str = "com.docker.compose.depends_on";
/// The compose files, separated by commas.
pub const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
/// The project directory.
pub const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
/// Key of a network in the project.
pub const NETWORK: &str = "com.docker.compose.network";
/// Key of a volume in the project.
pub const VOLUME: &str = "com.docker.compose.volume";
/// Version of Compose whose labels these are.
pub const VERSION: &str = "com.docker.compose.version";
/// What [`VERSION`] says.
pub const VERSION_VALUE: &str = "2.40.0";

/// Whether these are the labels of a container that was made beside its service's own: by `run`, or before them.
#[must_use]
pub fn is_one_off(labels: &std::collections::HashMap<String, String>) -> bool {
    labels.get(ONEOFF).is_some_and(|once| once.eq_ignore_ascii_case("true"))
}

/// What tells one version of a container from another: its own hash, or Compose's where Compose has made it.
#[must_use]
pub fn version(labels: &std::collections::HashMap<String, String>) -> String {
    labels.get(HASH).or_else(|| labels.get(CONFIG_HASH)).cloned().unwrap_or_default()
}
