//! `--security-opt`.

use super::Parsed;

/// Options as the daemon takes them: a seccomp profile's file is read here, since the daemon may see another file system.
pub fn options(texts: &[String]) -> Parsed<(Vec<String>, Unmasked)> {
    let mut all = Vec::new();
    let mut unmasked = Unmasked::default();
    for text in texts {
        let (name, value) = match text.split_once('=').or_else(|| text.split_once(':')) {
            Some((name, value)) => (name, value),
            None if text == "no-new-privileges" => (text.as_str(), "true"),
            None => return Err(format!("invalid --security-opt: {text:?}")),
        };
        match (name, value) {
            ("systempaths", "unconfined") => unmasked.0 = true,
            ("seccomp", "unconfined" | "builtin") => all.push(format!("seccomp={value}")),
            ("seccomp", path) => {
                let profile = std::fs::read_to_string(path)
                    .map_err(|error| format!("opening seccomp profile ({path}) failed: {error}"))?;
                let compact: serde_json::Value = serde_json::from_str(&profile)
                    .map_err(|error| format!("compacting json for seccomp profile ({path}) failed: {error}"))?;
                all.push(format!("seccomp={compact}"));
            }
            ("no-new-privileges", "true" | "false") | ("apparmor" | "label" | "writable-cgroups", _) => {
                all.push(format!("{name}={value}"))
            }
            ("no-new-privileges", _) => return Err(format!("invalid --security-opt: {text:?} (true or false)")),
            _ => return Err(format!("invalid --security-opt: {text:?}")),
        }
    }
    Ok((all, unmasked))
}

/// Whether the kernel's paths are shown unmasked (`systempaths=unconfined`).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Unmasked(pub bool);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn options_are_normalised_and_profiles_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\n \"a\": 1 }").unwrap();
        let profile = format!("seccomp={}", file.path().display());
        let given = ["no-new-privileges".into(), "seccomp:unconfined".into(), profile, "systempaths=unconfined".into()];
        let (all, unmasked) = options(&given).unwrap();
        assert_eq!(all, ["no-new-privileges=true", "seccomp=unconfined", "seccomp={\"a\":1}"]);
        assert_eq!(unmasked, Unmasked(true));
        assert!(options(&["frob=1".into()]).is_err() && options(&["seccomp=/no/such".into()]).is_err());
    }
}
