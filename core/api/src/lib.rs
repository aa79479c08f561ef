//! sampan-api
