//! sampan-network
