//! sampan-build
