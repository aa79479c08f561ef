//! Network plans: what a network driver decides, checked and carried out; addresses, names and the packet filter.

pub mod ipam;
pub mod plan;
mod validate;

pub use validate::{
    Act, Kind, Labels, Mac, MacvlanMode, Make, Meaning, NewLink, Purpose, Refusal, Rules, SubnetRule, Validated, mac,
    validate,
};
