//! sampan-compose
