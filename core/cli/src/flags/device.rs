//! `--device`, `--device-cgroup-rule`, `--gpus`.

use bollard_stubs::models::{DeviceMapping, DeviceRequest};

use super::{Parsed, csv, map};

/// A device as it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Device {
    /// By its file.
    Node(DeviceMapping),
    /// By the name that its vendor gave it: `vendor.com/class=name`.
    Named(String),
}

/// Those that are asked for by their files.
pub fn nodes(devices: &[Device]) -> Vec<DeviceMapping> {
    let node = |device: &Device| match device {
        Device::Node(mapping) => Some(mapping.clone()),
        Device::Named(_) => None,
    };
    devices.iter().filter_map(node).collect()
}

/// Requests for those that are asked for by name, and for GPUs.
pub fn requests(devices: &[Device], gpus: &[String]) -> Parsed<Vec<DeviceRequest>> {
    let name = |device: &Device| match device {
        Device::Named(name) => Some(name.clone()),
        Device::Node(_) => None,
    };
    let names: Vec<String> = devices.iter().filter_map(name).collect();
    let mut all: Vec<DeviceRequest> = gpus.iter().map(|text| gpu(text)).collect::<Parsed<_>>()?;
    if !names.is_empty() {
        all.push(DeviceRequest { driver: Some("cdi".to_owned()), device_ids: Some(names), ..DeviceRequest::default() });
    }
    Ok(all)
}

/// `all`, a number, or `driver=…,count=…,"device=0,1","capabilities=…","options=…"`.
fn gpu(text: &str) -> Parsed<DeviceRequest> {
    let count = |text: &str| match text {
        "all" => Ok(-1),
        number => number
            .parse::<i64>()
            .map_err(|_| format!("invalid count ({number}): value must be either \"all\" or an integer")),
    };
    let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let mut request = DeviceRequest::default();
    let mut seen: Vec<String> = Vec::new();
    for field in csv(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, value),
            None => ("count", field.as_str()),
        };
        if seen.iter().any(|known| known == key) {
            return Err(format!("gpu request key '{key}' can be specified only once"));
        }
        seen.push(key.to_owned());
        match key {
            "driver" => request.driver = Some(value.to_owned()),
            "count" => request.count = Some(count(value)?),
            "device" => request.device_ids = Some(list(value)),
            "capabilities" => {
                let mut all = list(value);
                all.push("gpu".to_owned());
                request.capabilities = Some(vec![all]);
            }
            "options" => request.options = Some(map(&csv(value)?)),
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if request.device_ids.is_none() {
        request.count.get_or_insert(1);
    }
    request.capabilities.get_or_insert_with(|| vec![vec!["gpu".to_owned()]]);
    Ok(request)
}

/// `/dev/x[:/dev/y][:rwm]`, or a name.
pub fn device(text: &str) -> Parsed<Device> {
    let wrong = || format!("invalid device specification: {text}");
    if !text.starts_with('/') && text.split_once('=').is_some_and(|(kind, name)| kind.contains('/') && !name.is_empty())
    {
        return Ok(Device::Named(text.to_owned()));
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
    Ok(Device::Node(DeviceMapping {
        path_on_host: Some(host.to_owned()),
        path_in_container: Some(container.to_owned()),
        cgroup_permissions: Some(access.to_owned()),
    }))
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
        let device = nodes(&[device(text).unwrap()]).remove(0);
        [device.path_on_host, device.path_in_container, device.cgroup_permissions].map(Option::unwrap).join("|")
    }

    #[test]
    fn devices() {
        assert_eq!(shown("/dev/fuse"), "/dev/fuse|/dev/fuse|rwm");
        assert_eq!(shown("/dev/fuse:/dev/x"), "/dev/fuse|/dev/x|rwm");
        assert_eq!(shown("/dev/fuse:r"), "/dev/fuse|/dev/fuse|r");
        assert_eq!(shown("/dev/fuse:/dev/x:rw"), "/dev/fuse|/dev/x|rw");
        for text in ["", "/dev/a:/dev/b:x", "/dev/a:/dev/b:rr", "/a:/b:r:w", "/dev/a:b", "gpu=0", "nvidia.com/gpu="] {
            assert!(device(text).is_err(), "{text}");
        }
    }

    #[test]
    fn devices_by_name_and_gpus_are_requests() {
        let asked = [device("/dev/fuse").unwrap(), device("nvidia.com/gpu=0").unwrap(), device("a.b/c=d:1").unwrap()];
        let one = requests(&asked, &[]).unwrap().remove(0);
        assert_eq!(one.driver.as_deref(), Some("cdi"));
        assert_eq!(one.device_ids.unwrap(), ["nvidia.com/gpu=0", "a.b/c=d:1"]);
        assert_eq!(nodes(&asked).len(), 1);
        let gpus = |text: &str| requests(&[], &[text.to_owned()]).map(|mut all| all.remove(0));
        let shown = |text: &str| {
            let request = gpus(text).unwrap();
            (request.count, request.device_ids, request.capabilities.unwrap().concat().join("+"))
        };
        let ids = |ids: &[&str]| Some(ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
        assert_eq!(shown("all"), (Some(-1), None, "gpu".to_owned()));
        assert_eq!(shown("2"), (Some(2), None, "gpu".to_owned()));
        assert_eq!(shown("driver=x"), (Some(1), None, "gpu".to_owned()));
        assert_eq!(shown("\"device=0,1\""), (None, ids(&["0", "1"]), "gpu".to_owned()));
        assert_eq!(
            shown("\"capabilities=utility,compute\",count=all"),
            (Some(-1), None, "utility+compute+gpu".to_owned())
        );
        assert_eq!(gpus("\"options=a=b,c\"").unwrap().options.unwrap()["a"], "b");
        for (text, part) in
            [("some", "value must be either"), ("1,count=2", "only once"), ("x=1", "unexpected key 'x'")]
        {
            assert!(gpus(text).unwrap_err().contains(part), "{text}");
        }
    }

    #[test]
    fn rules() {
        assert!(cgroup_rule("c 1:3 rwm").is_ok() && cgroup_rule("a *:* r").is_ok());
        assert!(cgroup_rule("x 1:3 r").is_err() && cgroup_rule("c 1 r").is_err() && cgroup_rule("c 1:3").is_err());
    }
}
