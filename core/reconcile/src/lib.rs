//! sampan-reconcile
