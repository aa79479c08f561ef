//! Whether a component is a driver of its kind: looked at before it is kept.

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::error::shown;
use crate::manifest::{Kind, Manifest};

/// The version of the contract that this engine serves.
pub const VERSION: &str = "0.1.0";

/// What is wrong with the bytes themselves, if anything.
pub fn bytes(component: &[u8]) -> Result<(), String> {
    let Some(head) = component.get(..8).filter(|head| head.starts_with(b"\0asm")) else {
        return Err("this is not WebAssembly".to_owned());
    };
    if head[4..] == [1, 0, 0, 0] {
        return Err("this is a core module, not a component; build it for wasm32-wasip2".to_owned());
    }
    Ok(())
}

/// The interface that a driver of the kind exports.
pub fn interface(kind: Kind) -> &'static str {
    match kind {
        Kind::Layer => "layers",
        Kind::Volume => "volumes",
        Kind::Network => "network",
        Kind::Log => "logs",
    }
}

/// Checks what a component exports and imports against its manifest.
pub fn check(engine: &Engine, component: &Component, manifest: &Manifest) -> Result<(), String> {
    let contents = component.component_type();
    let exports: Vec<String> = contents.exports(engine).map(|(name, _)| name.to_owned()).collect();
    let imports: Vec<String> = contents.imports(engine).map(|(name, _)| name.to_owned()).collect();
    exported(&exports, manifest.kind)?;
    imported(&imports, manifest)
}

fn exported(exports: &[String], kind: Kind) -> Result<(), String> {
    let wanted = format!("sampan:driver/{}@{VERSION}", interface(kind));
    if exports.iter().any(|name| serves(name, &wanted)) {
        return Ok(());
    }
    let stem = format!("sampan:driver/{}@", interface(kind));
    if let Some(other) = exports.iter().find_map(|name| name.strip_prefix(&stem)) {
        return Err(format!(
            "it is built against version {} of the contract; this engine serves {VERSION}",
            shown(other, 40)
        ));
    }
    for other in Kind::ALL {
        if exports.iter().any(|name| name.starts_with(&format!("sampan:driver/{}@", interface(other)))) {
            return Err(format!("the manifest says {kind}, but the component is a {other} driver"));
        }
    }
    let has = if exports.is_empty() { "nothing".to_owned() } else { shown(&exports.join(", "), 400) };
    Err(format!("the component does not export {wanted}, as a {kind} driver must; it exports {has}"))
}

fn imported(imports: &[String], manifest: &Manifest) -> Result<(), String> {
    let known = |name: &str| {
        let own = ["types", "kv", "host-log", "storage-plan", "network-plan"]
            .map(|interface| format!("sampan:driver/{interface}@{VERSION}"));
        let wasi = ["cli", "clocks", "filesystem", "io", "random", "sockets"];
        own.iter().any(|own| serves(name, own))
            || name.strip_prefix("wasi:").is_some_and(|rest| {
                rest.contains("@0.2.") && wasi.iter().any(|package| rest.starts_with(&format!("{package}/")))
            })
    };
    let unknown: Vec<&str> = imports.iter().map(String::as_str).filter(|name| !known(name)).collect();
    if !unknown.is_empty() {
        return Err(format!("it imports what no driver is given: {}", shown(&unknown.join(", "), 400)));
    }
    // Connecting would be refused later; say it now.
    let sockets =
        imports.iter().any(|name| name.starts_with("wasi:sockets/tcp") || name.starts_with("wasi:sockets/udp"));
    if sockets && manifest.capabilities.network.is_empty() {
        return Err("it uses sockets, but its manifest asks for no network".to_owned());
    }
    Ok(())
}

/// Whether an interface's name means another's: below 1.0, versions of one minor number go together.
fn serves(name: &str, wanted: &str) -> bool {
    let parts = |text: &str| {
        let (interface, version) = text.split_once('@')?;
        let minor = version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
        Some((interface.to_owned(), minor))
    };
    parts(name).is_some_and(|name| Some(name) == parts(wanted))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(bytes(b"hello, this").unwrap_err(), "this is not WebAssembly");
        assert!(bytes(b"\0asm\x01\0\0\0").unwrap_err().contains("core module"));
        assert!(bytes(b"\0asm\x0d\0\x01\0").is_ok());
        let exports = |name: &str| exported(&[name.to_owned()], Kind::Log).unwrap_err();
        assert!(exported(&["sampan:driver/logs@0.1.7".to_owned()], Kind::Log).is_ok());
        assert_eq!(
            exports("sampan:driver/logs@0.9.0"),
            "it is built against version 0.9.0 of the contract; this engine serves 0.1.0"
        );
        assert_eq!(
            exports("sampan:driver/volumes@0.1.0"),
            "the manifest says log, but the component is a volume driver"
        );
        assert!(exports("wasi:cli/run@0.2.0").contains("does not export sampan:driver/logs@0.1.0"));
        let manifest: Manifest = serde_json::from_str(r#"{"name":"x","kind":"log"}"#).unwrap();
        let imports = |name: &str| imported(&[name.to_owned()], &manifest);
        assert!(imports("wasi:clocks/wall-clock@0.2.6").is_ok());
        assert!(imports("wasi:http/outgoing-handler@0.2.0").unwrap_err().contains("wasi:http"));
        assert!(imports("wasi:sockets/tcp@0.2.0").unwrap_err().contains("asks for no network"));
        assert!(imports("evil:root/exec").unwrap_err().contains("evil:root/exec"));
    }
}
