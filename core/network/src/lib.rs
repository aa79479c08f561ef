//! Networks of one instance: what drivers decide, checked and carried out, and what belongs to all of them alike.
//!
//! A plan ([`plan::Step`]s) comes from a driver, which is not trusted. [`validate`] checks it whole against what the
//! core gave, the [`Executor`] carries it out and takes back what it did when a step fails. [`ipam`] chooses subnets and
//! addresses, [`names`] and [`dns`] answer for endpoints, the [`Filter`] says what may pass and where published [`ports`]
//! lead.
//!
//! Invariants: whatever touches the kernel speaks netlink, never runs a program; what is made carries the instance's
//! mark; validation, address management, names and the filter's messages are pure.

mod conntrack;
pub mod dns;
mod execute;
mod features;
mod filter;
pub mod ipam;
mod links;
pub mod names;
mod netlink;
mod netns;
mod nft;
pub mod plan;
pub mod ports;
mod validate;
mod watch;

pub use execute::{ExecuteError, Executor, HostSide, Joined, Marked};
pub use features::features;
pub use filter::{BridgeFilter, Filter, NetworkFilter, Protocol, Publish, Share, Wanted, ensure_forwarding};
pub use links::{Found, Links};
pub use netlink::NetlinkError;
pub use netns::{create_netns, inside, is_netns, remove_netns};
pub use validate::{
    Act, Kind, Labels, Mac, MacvlanMode, Make, Meaning, NewLink, Purpose, Refusal, Rules, SubnetRule, Validated, mac,
    validate,
};
pub use watch::Watch;
