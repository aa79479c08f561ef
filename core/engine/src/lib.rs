//! sampan-engine
