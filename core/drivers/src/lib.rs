//! sampan-drivers
