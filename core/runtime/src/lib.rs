//! sampan-runtime
