//! What `wit/` says, as Rust: generated. The worlds share the types of what they import.

#![allow(missing_debug_implementations, missing_docs, clippy::all)]

wasmtime::component::bindgen!({
    path: "../../wit",
    inline: "
        package sampan:host;
        world imports {
            import sampan:driver/types@0.1.0;
            import sampan:driver/kv@0.1.0;
            import sampan:driver/host-log@0.1.0;
            import sampan:driver/storage-plan@0.1.0;
            import sampan:driver/network-plan@0.1.0;
        }
    ",
    world: "sampan:host/imports",
    imports: { "sampan:driver/kv": async | trappable, default: trappable },
});

pub mod layer {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "layer-driver",
        exports: { default: async },
        with: { "sampan:driver@0.1.0": super::sampan::driver },
    });
}

pub mod volume {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "volume-driver",
        exports: { default: async },
        with: { "sampan:driver@0.1.0": super::sampan::driver },
    });
}

pub mod network {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "network-driver",
        exports: { default: async },
        with: { "sampan:driver@0.1.0": super::sampan::driver },
    });
}

pub mod log {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "log-driver",
        exports: { default: async },
        with: { "sampan:driver@0.1.0": super::sampan::driver },
    });
}
