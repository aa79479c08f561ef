//! sampan-cgroup
