//! sampan-shim-protocol
