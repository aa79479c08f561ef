//! `RUN --device=…`: devices by the names of the Container Device Interface.

/// A device that a step asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// `vendor.example/class=name`; without `=name` the first of the class, with `=*` all of it.
    pub name: String,
    /// Whether the step cannot do without it.
    pub required: bool,
}

/// What whoever builds lets the steps have beyond a container's rights.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    all: bool,
    /// Names, and kinds for all of theirs.
    names: Vec<String>,
    network_host: bool,
}

impl Allowed {
    /// Whether steps may be in the host's network (`RUN --network=host`).
    #[must_use]
    pub fn network_host(&self) -> bool {
        self.network_host
    }

    /// Whether a device (`vendor.example/class=name`) is among them.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let kind = name.split('=').next().unwrap_or_default();
        self.all || self.names.iter().any(|allowed| allowed == name || allowed == kind)
    }
}

/// Reads entries of `--allow`: `device`, `device=KIND`, `device=NAME`, `network.host`.
///
/// # Errors
/// A sentence on what is wrong.
pub fn allowed(entries: &[String]) -> Result<Allowed, String> {
    let mut found = Allowed::default();
    for entry in entries {
        match entry.split_once('=').map_or((entry.as_str(), None), |(key, value)| (key, Some(value))) {
            ("device", None) => found.all = true,
            ("device", Some(name)) if is_name(name) => found.names.push(name.to_owned()),
            ("device", Some(_)) => {
                return Err(format!("--allow {entry}: no name of a device: expected vendor.example/class[=name]"));
            }
            ("network.host", None) => found.network_host = true,
            ("security.insecure", None) => {
                return Err(format!("--allow {entry}: steps have a container's rights and no more"));
            }
            _ => return Err(format!("--allow {entry}: device, device=NAME and network.host are known")),
        }
    }
    Ok(found)
}

/// What steps got of the devices that they asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Whole names, each once.
    pub names: Vec<String>,
    /// Where they mount something in the root.
    pub targets: Vec<String>,
    /// What is not there and not required, as it was asked for.
    pub missing: Vec<String>,
}

/// Reads `NAME[,required]`, the name first or as `name=NAME`.
///
/// # Errors
/// A sentence on what is wrong.
pub fn parse(text: &str) -> Result<Device, String> {
    let wrong = |why: &str| format!("--device={text}: {why}");
    let (mut name, mut required) = (None, false);
    for field in text.split(',') {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        match (key.to_ascii_lowercase().as_str(), value) {
            ("required", None | Some("true" | "1")) => required = true,
            ("required", Some("false" | "0")) => required = false,
            ("required", Some(_)) => return Err(wrong("required is true or false")),
            ("name", Some(value)) if name.is_none() => name = Some(value.to_owned()),
            ("name", Some(_)) => return Err(wrong("two names")),
            // Names have a `=` of their own.
            _ if name.is_none() => name = Some(field.to_owned()),
            _ => return Err(wrong(&format!("{field}: name and required are known"))),
        }
    }
    let name = name.filter(|name| !name.is_empty()).ok_or_else(|| wrong("the name is missing"))?;
    if !is_name(&name) {
        return Err(wrong(&format!("{name} is no name of a device: expected vendor.example/class=name")));
    }
    Ok(Device { name, required })
}

/// Whether it is `vendor/class`, or that with a device or `*`.
fn is_name(text: &str) -> bool {
    let (kind, device) = text.split_once('=').map_or((text, None), |(kind, device)| (kind, Some(device)));
    is_kind(kind) && device.is_none_or(|device| device == "*" || is_device(device))
}

fn is_word(text: &str, inside: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 253
        && text.chars().all(|c| plain(c) || inside.contains(c))
        && text.chars().next().is_some_and(plain)
        && text.chars().next_back().is_some_and(plain)
}

/// Whether it is `vendor/class`.
pub fn is_kind(text: &str) -> bool {
    let begins = |part: &str| part.starts_with(|c: char| c.is_ascii_alphabetic());
    text.split_once('/').is_some_and(|(vendor, class)| {
        begins(vendor) && begins(class) && is_word(vendor, "_-.") && is_word(class, "_-")
    })
}

/// Whether it is a name within its kind.
pub fn is_device(text: &str) -> bool {
    is_word(text, "_-.:")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn devices_have_names_of_their_interface() {
        for (text, name, required) in [
            ("nvidia.com/gpu=all", "nvidia.com/gpu=all", false),
            ("vendor1.com/device=foo,required", "vendor1.com/device=foo", true),
            ("required=false,name=vendor1.com/device", "vendor1.com/device", false),
            ("name=v.com/c=0:1,required=true", "v.com/c=0:1", true),
            ("v.com/c=*", "v.com/c=*", false),
        ] {
            assert_eq!(parse(text).unwrap(), Device { name: name.into(), required }, "{text}");
        }
        for (text, part) in [
            ("", "name is missing"),
            ("required", "name is missing"),
            ("/dev/null", "no name of a device"),
            ("gpu", "no name of a device"),
            ("v.com/c=a b", "no name of a device"),
            ("v.com/c=a*", "no name of a device"),
            ("v.com/c=a,name=v.com/c=b", "two names"),
            ("v.com/c=a,mode=x", "mode=x"),
            ("v.com/c=a,required=maybe", "true or false"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn devices_are_allowed_one_by_one_by_kind_or_all() {
        let of = |entries: &[&str]| allowed(&entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>());
        for (entries, names) in [
            (&[][..], [false, false, false]),
            (&["network.host"][..], [false, false, false]),
            (&["device=v.com/c=a"][..], [true, false, false]),
            (&["device=v.com/c", "device=x.com/y=z"][..], [true, true, false]),
            (&["device"][..], [true, true, true]),
        ] {
            let found = of(entries).unwrap();
            assert_eq!(["v.com/c=a", "v.com/c=b", "v.com/d=a"].map(|name| found.has(name)), names, "{entries:?}");
        }
        for (entry, part) in [
            ("device=/dev/null", "no name of a device"),
            ("security.insecure", "a container's rights"),
            ("all", "network.host are known"),
        ] {
            assert!(of(&[entry]).unwrap_err().contains(part), "{entry}");
        }
    }
}
