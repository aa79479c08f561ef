//! Devices of a service as the engine is asked for them. Pure.

use bollard_stubs::models::{DeviceMapping, DeviceRequest};
use sampan_compose::Service;
use sampan_compose::model;

/// Whether a device goes by its vendor's name, `vendor.com/class=name`, and not by its file.
fn is_named(device: &model::DeviceMapping) -> bool {
    !device.source.starts_with('/') && device.source.contains('=') && device.source == device.target
}

/// Devices by their files.
pub(crate) fn nodes(service: &Service) -> Option<Vec<DeviceMapping>> {
    let node = |device: &model::DeviceMapping| DeviceMapping {
        path_on_host: Some(device.source.clone()),
        path_in_container: Some(device.target.clone()),
        cgroup_permissions: Some(
            if device.permissions.is_empty() { "rwm" } else { device.permissions.as_str() }.to_owned(),
        ),
    };
    let all: Vec<DeviceMapping> = service.devices.iter().filter(|device| !is_named(device)).map(node).collect();
    (!all.is_empty()).then_some(all)
}

/// Devices by name, of `deploy.resources.reservations` and of `gpus`, as Compose asks for them.
pub(crate) fn requests(service: &Service) -> Option<Vec<DeviceRequest>> {
    let request = |wanted: &model::DeviceRequest, further: Option<&str>| DeviceRequest {
        driver: Some(wanted.driver.clone()).filter(|driver| !driver.is_empty()),
        count: wanted.count,
        device_ids: (!wanted.device_ids.is_empty()).then(|| wanted.device_ids.clone()),
        capabilities: Some(vec![
            wanted.capabilities.iter().map(String::as_str).chain(further).map(str::to_owned).collect(),
        ]),
        options: (!wanted.options.is_empty())
            .then(|| wanted.options.iter().map(|(key, value)| (key.clone(), value.clone())).collect()),
    };
    let reserved = service.deploy.iter().flat_map(|deploy| &deploy.resources.reservations);
    let mut all: Vec<DeviceRequest> =
        reserved.flat_map(|reserved| &reserved.devices).map(|wanted| request(wanted, None)).collect();
    all.extend(service.gpus.iter().map(|wanted| request(wanted, Some("gpu"))));
    let names: Vec<String> =
        service.devices.iter().filter(|device| is_named(device)).map(|device| device.source.clone()).collect();
    if !names.is_empty() {
        all.push(DeviceRequest { driver: Some("cdi".to_owned()), device_ids: Some(names), ..DeviceRequest::default() });
    }
    (!all.is_empty()).then_some(all)
}
