//! Network plans: what a network driver decides, checked and carried out; addresses, names and the packet filter.

pub mod plan;
