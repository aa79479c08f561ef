//! Which fields the daemon's objects have, as far as templates must know.

use serde_json::Value;

/// Maps whose keys are anybody's: a key that is not there is no mistake.
const FREE: [&str; 14] = [
    "Labels",
    "Attributes",
    "Options",
    "DriverOpts",
    "ExposedPorts",
    "Volumes",
    "Networks",
    "Ports",
    "PortBindings",
    "Sysctls",
    "Annotations",
    "Tmpfs",
    "Containers",
    "Data",
];

/// Fields that the daemon leaves out when there is nothing to say.
pub(super) const OPTIONAL: [&str; 40] = [
    "Health",
    "Healthcheck",
    "StopSignal",
    "StopTimeout",
    "Shell",
    "ArgsEscaped",
    "NetworkDisabled",
    "MacAddress",
    "SizeRw",
    "SizeRootFs",
    "Mounts",
    "Init",
    "Runtime",
    "StorageOpt",
    "Node",
    "GraphDriver",
    "ImageManifestDescriptor",
    "Variant",
    "OsVersion",
    "Peers",
    "Services",
    "Status",
    "UsageData",
    "CreatedAt",
    "Name",
    "Driver",
    "BindOptions",
    "VolumeOptions",
    "TmpfsOptions",
    "ReadOnly",
    "IPAMConfig",
    "Config",
    "Warnings",
    "Error",
    "OnBuild",
    "Author",
    "Comment",
    "DockerVersion",
    "Platform",
    "Descriptor",
];

/// Lists, which Go prints as `[]` when they are null.
pub(super) const LISTS: [&str; 22] = [
    "Binds",
    "Cmd",
    "Entrypoint",
    "Env",
    "OnBuild",
    "Shell",
    "CapAdd",
    "CapDrop",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "SecurityOpt",
    "Devices",
    "DeviceRequests",
    "DeviceCgroupRules",
    "Ulimits",
    "VolumesFrom",
    "ExecIDs",
    "Aliases",
];

/// Follows field names; `Id` finds `ID` and the reverse, since the daemon's JSON and Go's fields differ in case there.
pub(super) fn walk(value: &Value, fields: &[String]) -> Result<Value, String> {
    let mut current = value;
    for (at, field) in fields.iter().enumerate() {
        current = match current {
            Value::Object(map) => match map
                .get(field)
                .or_else(|| map.iter().find(|(name, _)| name.eq_ignore_ascii_case(field)).map(|(_, value)| value))
            {
                Some(found) => found,
                None if OPTIONAL.contains(&field.as_str()) || LISTS.contains(&field.as_str()) => {
                    return Ok(Value::Null);
                }
                None if at > 0 && FREE.contains(&fields[at - 1].as_str()) => return Ok(Value::Null),
                None => {
                    let path = fields.join(".");
                    return Err(format!(
                        "template parsing error: template: executing at <.{path}>: map has no entry for key {field:?}"
                    ));
                }
            },
            Value::Null => return Ok(Value::Null),
            _ => {
                return Err(format!(
                    "template parsing error: template: can't evaluate field {field} in a value that has no fields"
                ));
            }
        };
    }
    Ok(current.clone())
}
