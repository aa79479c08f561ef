//! What only some hosts offer: devices by driver, block device limits, hooks, models, providers, Windows' keys.

use std::collections::BTreeMap;

use super::fields::Fields;
use super::{Cx, process, service};
use crate::model::{
    BlkioConfig, Bytes, CredentialSpec, DeviceRequest, DiscreteResource, Exec, GenericResource, Model, Provider,
    Service, ServiceModel, ThrottleDevice, WeightDevice,
};
use crate::node::{Node, Value};

const REAL_TIME: &str = "groups of real-time scheduling are cgroup version 1's alone, on kernels built for them; `cap_add: [SYS_NICE]` with `ulimits: { rtprio: 99 }` lets a program ask for it";

/// Keys that are decoded and that the engine can't act on, each with the reason.
const REFUSED: &[(&str, &str)] = &[
    ("cpu_count", "it is of Windows alone"),
    ("cpu_percent", "it is of Windows alone"),
    ("cpu_rt_period", REAL_TIME),
    ("cpu_rt_runtime", REAL_TIME),
    ("credential_spec", "it is of Windows alone"),
    ("external_links", "links to containers of other stacks need the old bridge; share a network instead"),
    (
        "storage_opt",
        "no layer driver of this engine sets project quotas; bound what is written by a `tmpfs` or a volume",
    ),
    ("use_api_socket", "it gives a container the whole engine; mount the socket under `volumes` instead"),
];

/// Decodes the keys of this file, and refuses those that are given where a stack is to run.
pub(super) fn special(cx: &mut Cx<'_, '_>, node: &Node, fields: &mut Fields<'_>, service: &mut Service) {
    service.blkio_config = fields.option(cx, "blkio_config", blkio);
    service.cpu_count = fields.get(cx, "cpu_count", Cx::integer);
    service.cpu_percent = fields.get(cx, "cpu_percent", Cx::float);
    service.cpu_rt_period = fields.get(cx, "cpu_rt_period", process::microseconds);
    service.cpu_rt_runtime = fields.get(cx, "cpu_rt_runtime", process::microseconds);
    service.credential_spec = fields.option(cx, "credential_spec", credential_spec);
    service.external_links = fields.get(cx, "external_links", Cx::strings);
    service.gpus = fields.get(cx, "gpus", gpus);
    service.isolation = fields.get(cx, "isolation", isolation);
    service.models = fields.get(cx, "models", models);
    service.post_start = fields.get(cx, "post_start", hooks);
    service.pre_stop = fields.get(cx, "pre_stop", hooks);
    service.pre_start = fields
        .get(cx, "pre_start", |cx, list| cx.list(list, |cx, container| service::init_container(cx, node, container)));
    service.provider = fields.option(cx, "provider", provider);
    service.use_api_socket = fields.get(cx, "use_api_socket", Cx::boolean);
    for entry in node.entries().iter().filter(|entry| says_something(&entry.value)) {
        if let Some((key, why)) = REFUSED.iter().find(|(key, _)| entry.key == *key) {
            cx.session.unsupported(entry.at, format!("`{key}` is not supported: {why}"));
        }
    }
    values(cx, node, service);
}

/// Refuses values of keys that are supported otherwise.
fn values(cx: &mut Cx<'_, '_>, node: &Node, service: &Service) {
    let at = |key: &str| node.entry(key).map_or(node.at, |entry| entry.value.at);
    if !matches!(service.userns_mode.as_str(), "" | "host") {
        let message = format!(
            "`userns_mode`: {} is not supported: containers share the host's user namespace",
            service.userns_mode
        );
        cx.session.unsupported(at("userns_mode"), message);
    }
    if !matches!(service.runtime.as_str(), "" | "sampan" | "runc") {
        let message =
            format!("`runtime`: {} is not known: this engine has its own and starts no other", service.runtime);
        cx.session.unsupported(at("runtime"), message);
    }
    if service.blkio_config.as_ref().is_some_and(|config| !config.weight_device.is_empty()) {
        let at =
            node.get("blkio_config").and_then(|config| config.entry("weight_device")).map_or(node.at, |entry| entry.at);
        cx.session.unsupported(at, "`weight_device` is not supported: only a whole group has a weight");
    }
    for option in &service.security_opt {
        let (key, value) = option.split_once([':', '=']).unwrap_or((option, ""));
        let at = cx.item_place(node, "security_opt", option);
        match (key, value) {
            ("label", "disable") | ("apparmor", "unconfined") => {}
            ("label", _) => cx
                .session
                .unsupported(at, format!("`security_opt`: `{option}` is not supported: no SELinux labels are set")),
            ("apparmor", _) => cx
                .session
                .ineffective(at, format!("`security_opt`: `{option}` has no effect: no AppArmor profiles are set")),
            ("credentialspec", _) => {
                cx.session.unsupported(at, format!("`security_opt`: `{option}` is of Windows alone"))
            }
            _ => {}
        }
    }
}

/// Whether a value is there and neither empty nor what holds anyway.
fn says_something(node: &Node) -> bool {
    match &node.value {
        Value::Null | Value::Bool(false) | Value::Int(0) => false,
        Value::Seq(items) => !items.is_empty(),
        Value::Map(entries) => !entries.is_empty(),
        _ => true,
    }
}

/// Windows' ways to keep containers apart.
pub(super) fn isolation(cx: &mut Cx<'_, '_>, node: &Node) -> Option<String> {
    let text = cx.string(node)?;
    if !matches!(text.as_str(), "" | "default") {
        cx.session.unsupported(node.at, format!("`isolation`: {text} is of Windows alone"));
    }
    Some(text)
}

fn gpus(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<DeviceRequest>> {
    match &node.value {
        Value::Str(text) if text == "all" => Some(vec![DeviceRequest { count: Some(-1), ..DeviceRequest::default() }]),
        Value::Seq(_) => cx.list(node, |cx, item| device_request(cx, item, false)),
        Value::Str(text) => {
            cx.bad(node, format!("`{text}` is neither `all` nor a list of devices"));
            None
        }
        _ => {
            cx.wants(node, "`all` or a list of devices");
            None
        }
    }
}

/// Devices reserved under `deploy`, which name their capabilities.
pub(super) fn reserved_devices(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<DeviceRequest>> {
    cx.list(node, |cx, item| device_request(cx, item, true))
}

fn device_request(cx: &mut Cx<'_, '_>, item: &Node, named: bool) -> Option<DeviceRequest> {
    let mut fields = Fields::of(cx, item, "a device request")?;
    let mut request = DeviceRequest {
        capabilities: fields.get(cx, "capabilities", Cx::strings),
        driver: fields.get(cx, "driver", Cx::string),
        count: fields.option(cx, "count", |cx, node| match node.as_str() {
            Some("all") => Some(-1),
            _ => cx.integer(node),
        }),
        device_ids: fields.get(cx, "device_ids", Cx::strings),
        options: fields.get(cx, "options", Cx::pairs),
        ..DeviceRequest::default()
    };
    request.extensions = fields.finish(cx, &[]);
    if named && item.lacks("capabilities") {
        cx.session.error(item.at, "a device request needs `capabilities`");
    }
    if request.count.is_some() && !request.device_ids.is_empty() {
        cx.session.error(item.at, "`count` and `device_ids` exclude each other");
    }
    if request.device_ids.is_empty() {
        request.count.get_or_insert(-1);
    }
    Some(request)
}

pub(super) fn generic_resources(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<GenericResource>> {
    let resources = cx.list(node, |cx, item| {
        let mut fields = Fields::of(cx, item, "a generic resource")?;
        let mut resource = GenericResource {
            discrete_resource_spec: fields.option(cx, "discrete_resource_spec", |cx, node| {
                let mut fields = Fields::of(cx, node, "a counted resource")?;
                let mut spec = DiscreteResource {
                    kind: fields.get(cx, "kind", Cx::string),
                    value: fields.get(cx, "value", Cx::integer),
                    ..DiscreteResource::default()
                };
                spec.extensions = fields.finish(cx, &[]);
                Some(spec)
            }),
            ..GenericResource::default()
        };
        resource.extensions = fields.finish(cx, &[]);
        Some(resource)
    })?;
    if !resources.is_empty() {
        cx.session.unsupported(node.at, "`generic_resources` is not supported: only a cluster counts them");
    }
    Some(resources)
}

fn blkio(cx: &mut Cx<'_, '_>, node: &Node) -> Option<BlkioConfig> {
    let mut fields = Fields::of(cx, node, "`blkio_config`")?;
    let mut config = BlkioConfig {
        weight: fields.get(cx, "weight", weight),
        weight_device: fields.get(cx, "weight_device", |cx, node| cx.list(node, weight_device).map(once)),
        device_read_bps: fields.get(cx, "device_read_bps", throttled),
        device_read_iops: fields.get(cx, "device_read_iops", throttled),
        device_write_bps: fields.get(cx, "device_write_bps", throttled),
        device_write_iops: fields.get(cx, "device_write_iops", throttled),
        ..BlkioConfig::default()
    };
    config.extensions = fields.finish(cx, &[]);
    Some(config)
}

/// The list without items that say the same.
fn once<T: PartialEq>(list: Vec<T>) -> Vec<T> {
    list.into_iter().fold(Vec::new(), |mut kept, item| {
        if !kept.contains(&item) {
            kept.push(item);
        }
        kept
    })
}

fn weight(cx: &mut Cx<'_, '_>, node: &Node) -> Option<u16> {
    let Value::Int(value) = node.value else {
        cx.wants(node, "a number");
        return None;
    };
    let weight = u16::try_from(value).ok().filter(|weight| *weight <= 1000);
    if weight.is_none() {
        cx.bad(node, format!("{value} is not between 0 and 1000"));
    }
    weight
}

fn weight_device(cx: &mut Cx<'_, '_>, item: &Node) -> Option<WeightDevice> {
    let mut fields = Fields::of(cx, item, "a device's weight")?;
    let device = WeightDevice { path: fields.get(cx, "path", Cx::string), weight: fields.get(cx, "weight", weight) };
    fields.finish(cx, &[]);
    Some(device)
}

fn throttled(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<ThrottleDevice>> {
    let devices = cx.list(node, |cx, item| {
        let mut fields = Fields::of(cx, item, "a device's limit")?;
        let device = ThrottleDevice {
            path: fields.get(cx, "path", Cx::string),
            rate: fields.option(cx, "rate", Cx::bytes).unwrap_or(Bytes(0)),
        };
        fields.finish(cx, &[]);
        Some(device)
    })?;
    Some(once(devices))
}

fn credential_spec(cx: &mut Cx<'_, '_>, node: &Node) -> Option<CredentialSpec> {
    let mut fields = Fields::of(cx, node, "`credential_spec`")?;
    let mut spec = CredentialSpec {
        config: fields.get(cx, "config", Cx::string),
        file: fields.get(cx, "file", Cx::string),
        registry: fields.get(cx, "registry", Cx::string),
        ..CredentialSpec::default()
    };
    spec.extensions = fields.finish(cx, &[]);
    Some(spec)
}

fn hooks(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<Exec>> {
    cx.list(node, |cx, item| {
        if item.lacks("command") && matches!(item.value, Value::Map(_)) {
            cx.session.error(item.at, "a hook needs a `command`");
        }
        process::exec(cx, item)
    })
}

fn provider(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Provider> {
    let mut fields = Fields::of(cx, node, "a provider")?;
    let mut provider = Provider {
        kind: fields.get(cx, "type", Cx::string),
        options: fields.get(cx, "options", provider_options),
        ..Provider::default()
    };
    provider.extensions = fields.finish(cx, &[]);
    if node.lacks("type") {
        cx.session.error(node.at, "a provider needs a `type`");
    } else if provider.kind == "compose" || provider.kind.starts_with('-') || provider.kind.contains('/') {
        let at = node.get("type").map_or(node.at, |kind| kind.at);
        let message = format!("`type`: `{}` is not the name of a provider's program", provider.kind);
        cx.session.error_help(at, message, "name a plugin (`model` is docker-model) or a program in PATH, not a path");
    }
    Some(provider)
}

fn provider_options(cx: &mut Cx<'_, '_>, node: &Node) -> Option<BTreeMap<String, Vec<String>>> {
    if !matches!(node.value, Value::Map(_)) {
        cx.wants(node, "a mapping");
        return None;
    }
    let mut out = BTreeMap::new();
    for entry in node.entries() {
        let items = match &entry.value.value {
            Value::Seq(items) => items.iter().collect(),
            _ => vec![&entry.value],
        };
        let mut values = Vec::new();
        for item in items {
            match item.scalar_text() {
                Some(text) => values.push(text),
                None => {
                    cx.bad(item, format!("`{}` takes strings, numbers and booleans, not {}", entry.key, item.kind()))
                }
            }
        }
        out.insert(entry.key.clone(), values);
    }
    Some(out)
}

fn models(cx: &mut Cx<'_, '_>, node: &Node) -> Option<BTreeMap<String, Option<ServiceModel>>> {
    let node = super::networking::named(cx, node, false)?;
    let mut out = BTreeMap::new();
    for entry in node.entries() {
        let model = match &entry.value.value {
            Value::Null => None,
            _ => service_model(cx, &entry.value),
        };
        out.insert(entry.key.clone(), model);
    }
    Some(out)
}

fn service_model(cx: &mut Cx<'_, '_>, node: &Node) -> Option<ServiceModel> {
    let mut fields = Fields::of(cx, node, "a service's model")?;
    let mut model = ServiceModel {
        endpoint_var: fields.get(cx, "endpoint_var", Cx::string),
        model_var: fields.get(cx, "model_var", Cx::string),
        ..ServiceModel::default()
    };
    model.extensions = fields.finish(cx, &[]);
    Some(model)
}

/// An entry of the top-level `models`.
pub(super) fn model(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Model> {
    let mut fields = Fields::of(cx, node, "a model")?;
    let mut model = Model {
        name: fields.get(cx, "name", Cx::string),
        model: fields.get(cx, "model", Cx::string),
        context_size: fields.option(cx, "context_size", Cx::count),
        runtime_flags: fields.get(cx, "runtime_flags", Cx::strings),
        ..Model::default()
    };
    model.extensions = fields.finish(cx, &[]);
    if model.model.starts_with('-') {
        cx.session
            .error(node.get("model").map_or(node.at, |model| model.at), "the name of a model does not begin with `-`");
    }
    if node.lacks("model") {
        cx.session.error(node.at, "a model needs `model`, the image it is pulled from");
    }
    Some(model)
}
