//! `--device`, `--device-cgroup-rule`.

use bollard_stubs::models::DeviceMapping;

use super::Parsed;

/// `/dev/x[:/dev/y][:rwm]`.
pub fn device(text: &str) -> Parsed<DeviceMapping> {
    let wrong = || format!("invalid device specification: {text}");
    if !text.starts_with('/') && text.contains('=') {
        return Err(format!("{text}: CDI device names are not supported; name the device's path"));
    }
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, access) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, access] if is_access(access) => (*host, *host, *access),
        [host, container] => (*host, *container, "rwm"),
        [host, container, access] if is_access(access) => (*host, *container, *access),
        _ => return Err(wrong()),
    };
    let container = if container.is_empty() { host } else { container };
    if host.is_empty() {
        return Err(wrong());
    }
    if !container.starts_with('/') {
        return Err(format!("{container} is not an absolute path"));
    }
    Ok(DeviceMapping {
        path_on_host: Some(host.to_owned()),
        path_in_container: Some(container.to_owned()),
        cgroup_permissions: Some(access.to_owned()),
    })
}

fn is_access(text: &str) -> bool {
    let once = |letter| text.matches(letter).count() <= 1;
    !text.is_empty() && text.bytes().all(|byte| b"rwm".contains(&byte)) && once('r') && once('w') && once('m')
}

/// `c 1:3 rwm`: checked here, so that a mistake is named before anything is made.
pub fn cgroup_rule(text: &str) -> Parsed<String> {
    let words: Vec<&str> = text.split(' ').collect();
    let number = |text: &str| text == "*" || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    let right = match words.as_slice() {
        [kind, numbers, access] => {
            matches!(*kind, "a" | "b" | "c")
                && numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
                && is_access(access)
        }
        _ => false,
    };
    if right { Ok(text.to_owned()) } else { Err(format!("invalid device cgroup format '{text}'")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shown(text: &str) -> String {
        let device = device(text).unwrap();
        [device.path_on_host, device.path_in_container, device.cgroup_permissions].map(Option::unwrap).join("|")
    }

    #[test]
    fn devices() {
        assert_eq!(shown("/dev/fuse"), "/dev/fuse|/dev/fuse|rwm");
        assert_eq!(shown("/dev/fuse:/dev/x"), "/dev/fuse|/dev/x|rwm");
        assert_eq!(shown("/dev/fuse:r"), "/dev/fuse|/dev/fuse|r");
        assert_eq!(shown("/dev/fuse:/dev/x:rw"), "/dev/fuse|/dev/x|rw");
        for text in ["", "/dev/a:/dev/b:x", "/dev/a:/dev/b:rr", "/a:/b:r:w", "/dev/a:b", "nvidia.com/gpu=0"] {
            assert!(device(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rules() {
        assert!(cgroup_rule("c 1:3 rwm").is_ok() && cgroup_rule("a *:* r").is_ok());
        assert!(cgroup_rule("x 1:3 r").is_err() && cgroup_rule("c 1 r").is_err() && cgroup_rule("c 1:3").is_err());
    }
}
