//! sampan-image
