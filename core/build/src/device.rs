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
    if !is_name(&name) {
        return Err(wrong(&format!("{name} is no name of a device: expected vendor.example/class=name")));
    }
    Ok(Device { name, required })
}

/// As the Container Device Interface has it.
fn is_name(text: &str) -> bool {
    let (kind, device) = text.split_once('=').map_or((text, None), |(kind, device)| (kind, Some(device)));
    let Some((vendor, class)) = kind.split_once('/') else { return false };
    let word = |text: &str, more: &str, first: fn(&char) -> bool| {
        text.chars().next().is_some_and(|c| first(&c))
            && text.chars().last().is_some_and(|c| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    word(vendor, "_.-", char::is_ascii_alphabetic)
        && word(class, "_-", char::is_ascii_alphabetic)
        && device.is_none_or(|device| word(device, "_.:-", char::is_ascii_alphanumeric))
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
