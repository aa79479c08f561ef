//! Names of images, as far as the client takes them apart.

/// The registry that a name without one means.
pub const HUB: &str = "docker.io";
/// Its name in files of credentials.
pub const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Name, tag and digest.
pub fn split(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
    match rest.rsplit_once(':') {
        // A colon before a slash belongs to a registry's port.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag), digest),
        _ => (rest, None, digest),
    }
}

/// The registry of a name.
pub fn registry(text: &str) -> &str {
    match text.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => HUB,
    }
}

/// The key of a registry's credentials.
pub fn credentials_key(registry: &str) -> &str {
    if matches!(registry, HUB | "index.docker.io") { HUB_KEY } else { registry }
}

/// With the tag that is meant when none is given.
pub fn tagged(text: &str) -> String {
    match split(text) {
        (_, None, None) => format!("{text}:latest"),
        _ => text.to_owned(),
    }
}

/// With the registry, as `pull` prints it at its end.
pub fn canonical(text: &str) -> String {
    let text = tagged(text);
    if registry(&text) != HUB {
        return text;
    }
    let bare = text.strip_prefix("docker.io/").unwrap_or(&text);
    if bare.contains('/') { format!("{HUB}/{bare}") } else { format!("{HUB}/library/{bare}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_apart() {
        assert_eq!(split("a"), ("a", None, None));
        assert_eq!(split("a:1"), ("a", Some("1"), None));
        assert_eq!(split("localhost:5000/a"), ("localhost:5000/a", None, None));
        assert_eq!(split("localhost:5000/a:1@sha256:x"), ("localhost:5000/a", Some("1"), Some("sha256:x")));
        assert_eq!(registry("a/b"), HUB);
        assert_eq!(registry("a.b/c"), "a.b");
        assert_eq!(registry("localhost:5000/c"), "localhost:5000");
        assert_eq!(canonical("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(canonical("a/b:1"), "docker.io/a/b:1");
        assert_eq!(canonical("localhost:5000/c"), "localhost:5000/c:latest");
        assert_eq!(credentials_key("docker.io"), HUB_KEY);
    }
}
