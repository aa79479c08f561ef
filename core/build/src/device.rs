//! `RUN --device=…`: devices by the names of the Container Device Interface.

/// A device that a step asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// `vendor.example/class=name`, or without `=name` whichever of the class there is.
    pub name: String,
    /// Whether the step cannot do without it.
    pub required: bool,
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
    let (kind, device) = name.split_once('=').map_or((name.as_str(), None), |(kind, device)| (kind, Some(device)));
    if !is_kind(kind) || !device.is_none_or(is_device) {
        return Err(wrong(&format!("{name} is no name of a device: expected vendor.example/class=name")));
    }
    Ok(Device { name, required })
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
        ] {
            assert_eq!(parse(text).unwrap(), Device { name: name.into(), required }, "{text}");
        }
        for (text, part) in [
            ("", "name is missing"),
            ("required", "name is missing"),
            ("/dev/null", "no name of a device"),
            ("gpu", "no name of a device"),
            ("v.com/c=a b", "no name of a device"),
            ("v.com/c=a,name=v.com/c=b", "two names"),
            ("v.com/c=a,mode=x", "mode=x"),
            ("v.com/c=a,required=maybe", "true or false"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
