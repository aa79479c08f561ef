//! What an image brings and a request changes, by Docker's rules. Pure.

use std::collections::BTreeSet;

use bollard_stubs::models::{
    ContainerConfig, ContainerCreateBody, HealthConfig, HostConfig, ImageConfig, NetworkingConfig,
};

/// The parts of a request.
pub(crate) fn split(body: ContainerCreateBody) -> (ContainerConfig, HostConfig, NetworkingConfig) {
    let config = ContainerConfig {
        hostname: body.hostname,
        domainname: body.domainname,
        user: body.user,
        attach_stdin: body.attach_stdin,
        attach_stdout: body.attach_stdout,
        attach_stderr: body.attach_stderr,
        exposed_ports: body.exposed_ports,
        tty: body.tty,
        open_stdin: body.open_stdin,
        stdin_once: body.stdin_once,
        env: body.env,
        cmd: body.cmd,
        healthcheck: body.healthcheck,
        args_escaped: body.args_escaped,
        image: body.image,
        volumes: body.volumes,
        working_dir: body.working_dir,
        entrypoint: body.entrypoint,
        network_disabled: body.network_disabled,
        on_build: body.on_build,
        labels: body.labels,
        stop_signal: body.stop_signal,
        stop_timeout: body.stop_timeout,
        shell: body.shell,
    };
    (config, body.host_config.unwrap_or_default(), body.networking_config.unwrap_or_default())
}

/// Completes a request's configuration by the image's. A request without a program gets the image's, one with an entry
/// point gets the image's arguments only if it has none of its own and did not change the entry point.
pub(crate) fn with_image(config: &mut ContainerConfig, image: &ImageConfig) {
    inherit_text(&mut config.user, image.user.as_ref());
    inherit_text(&mut config.working_dir, image.working_dir.as_ref());
    inherit_text(&mut config.stop_signal, image.stop_signal.as_ref());
    config.exposed_ports = union(config.exposed_ports.take(), image.exposed_ports.as_ref());
    config.volumes = union(config.volumes.take(), image.volumes.as_ref());
    let environment = config.env.get_or_insert_default();
    for inherited in image.env.iter().flatten() {
        let key = variable(inherited);
        if !environment.iter().any(|own| variable(own) == key) {
            environment.push(inherited.clone());
        }
    }
    let labels = config.labels.get_or_insert_default();
    for (key, value) in image.labels.iter().flatten() {
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    if is_empty(config.entrypoint.as_ref()) {
        if is_empty(config.cmd.as_ref()) {
            config.cmd.clone_from(&image.cmd);
            config.args_escaped = image.args_escaped;
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    if is_empty(config.shell.as_ref()) {
        config.shell.clone_from(&image.shell);
    }
    inherit_health(&mut config.healthcheck, image.healthcheck.as_ref());
    // The command line's `--entrypoint ""`.
    if config.entrypoint.as_deref() == Some(&[String::new()]) {
        config.entrypoint = None;
    }
}

/// Completes a health check by the image's.
pub(crate) fn inherit_health(own: &mut Option<HealthConfig>, inherited: Option<&HealthConfig>) {
    match (own, inherited) {
        (own @ None, inherited) => *own = inherited.cloned(),
        (Some(own), Some(inherited)) => {
            if is_empty(own.test.as_ref()) {
                own.test.clone_from(&inherited.test);
            }
            for (own, inherited) in [
                (&mut own.interval, inherited.interval),
                (&mut own.timeout, inherited.timeout),
                (&mut own.retries, inherited.retries),
                (&mut own.start_period, inherited.start_period),
                (&mut own.start_interval, inherited.start_interval),
            ] {
                if own.unwrap_or(0) == 0 {
                    *own = inherited;
                }
            }
        }
        (Some(_), None) => {}
    }
}

fn inherit_text(own: &mut Option<String>, inherited: Option<&String>) {
    if own.as_ref().is_none_or(String::is_empty) {
        *own = Some(inherited.cloned().unwrap_or_default());
    }
}

fn is_empty(list: Option<&Vec<String>>) -> bool {
    list.is_none_or(Vec::is_empty)
}

/// Both lists, each item once.
pub(crate) fn union(own: Option<Vec<String>>, inherited: Option<&Vec<String>>) -> Option<Vec<String>> {
    let all: BTreeSet<String> = own.into_iter().flatten().chain(inherited.into_iter().flatten().cloned()).collect();
    (!all.is_empty()).then(|| all.into_iter().collect())
}

/// The name of a variable `NAME=value` or `NAME`.
fn variable(text: &str) -> &str {
    text.split('=').next().unwrap_or(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bollard_stubs::models::HealthConfig;

    fn list(items: &[&str]) -> Option<Vec<String>> {
        Some(items.iter().map(|item| (*item).to_owned()).collect())
    }

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: list(&["/entry"]),
            cmd: list(&["serve"]),
            env: list(&["PATH=/bin", "MODE=image"]),
            exposed_ports: list(&["80/tcp"]),
            user: Some("web".into()),
            labels: Some([("a".to_owned(), "image".to_owned()), ("b".to_owned(), "image".to_owned())].into()),
            healthcheck: Some(HealthConfig { test: list(&["CMD", "check"]), retries: Some(3), ..Default::default() }),
            ..ImageConfig::default()
        }
    }

    fn merged(config: ContainerConfig) -> ContainerConfig {
        let mut config = config;
        with_image(&mut config, &image());
        config
    }

    #[test]
    fn programs_merge_as_dockers() {
        let of = |entrypoint: Option<Vec<String>>, cmd: Option<Vec<String>>| {
            let merged = merged(ContainerConfig { entrypoint, cmd, ..ContainerConfig::default() });
            (merged.entrypoint, merged.cmd)
        };
        assert_eq!(of(None, None), (list(&["/entry"]), list(&["serve"])));
        assert_eq!(of(None, list(&["x"])), (list(&["/entry"]), list(&["x"])));
        assert_eq!(of(list(&["/own"]), None), (list(&["/own"]), None));
        assert_eq!(of(list(&["/own"]), list(&["x"])), (list(&["/own"]), list(&["x"])));
        assert_eq!(of(Some(vec![]), None), (Some(vec![]), list(&["serve"])));
        assert_eq!(of(list(&[""]), list(&["x"])), (None, list(&["x"])));
    }

    #[test]
    fn the_request_wins_and_the_rest_is_inherited() {
        let config = merged(ContainerConfig {
            env: list(&["MODE=own", "X=1"]),
            exposed_ports: list(&["90/udp"]),
            labels: Some([("a".to_owned(), "own".to_owned())].into()),
            healthcheck: Some(HealthConfig { interval: Some(5), ..Default::default() }),
            ..ContainerConfig::default()
        });
        assert_eq!(config.env, list(&["MODE=own", "X=1", "PATH=/bin"]));
        assert_eq!(config.exposed_ports, list(&["80/tcp", "90/udp"]));
        assert_eq!(config.user.as_deref(), Some("web"));
        let labels = config.labels.unwrap();
        assert_eq!((labels["a"].as_str(), labels["b"].as_str()), ("own", "image"));
        let check = config.healthcheck.unwrap();
        assert_eq!((check.test, check.interval, check.retries), (list(&["CMD", "check"]), Some(5), Some(3)));
    }
}
