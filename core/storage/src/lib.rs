//! sampan-storage
