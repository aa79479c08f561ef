//! Network plans: what a network driver decides, checked and carried out; addresses, names and the packet filter.

mod execute;
mod filter;
pub mod ipam;
mod links;
mod netlink;
mod netns;
mod nft;
pub mod plan;
mod validate;

pub use execute::{ExecuteError, Executor, HostSide, Joined, Marked};
pub use filter::{BridgeFilter, Filter, NetworkFilter, Protocol, Publish, Wanted, ensure_forwarding};
pub use links::{Found, Links};
pub use netlink::NetlinkError;
pub use netns::{create_netns, inside, is_netns, remove_netns};
pub use validate::{
    Act, Kind, Labels, Mac, MacvlanMode, Make, Meaning, NewLink, Purpose, Refusal, Rules, SubnetRule, Validated, mac,
    validate,
};
