//! sampan-shim
fn main() {}
