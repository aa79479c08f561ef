//! Containers live in the host's network.

use sampan_driver_sdk::network::{Attachment, EndpointSpec, Failure, Guest, HostFacts, NetworkSpec, Step};

struct Host;

impl Guest for Host {
    fn attached(_: NetworkSpec) -> Result<Attachment, Failure> {
        Ok(Attachment::Host)
    }

    fn create(_: HostFacts, _: NetworkSpec) -> Result<Vec<Step>, Failure> {
        Ok(Vec::new())
    }

    fn join(_: HostFacts, _: NetworkSpec, _: EndpointSpec) -> Result<Vec<Step>, Failure> {
        Ok(Vec::new())
    }

    fn publishes(_: NetworkSpec) -> Result<bool, Failure> {
        Ok(false)
    }

    fn left(_: NetworkSpec, _: EndpointSpec) -> Result<(), Failure> {
        Ok(())
    }

    fn removed(_: NetworkSpec) -> Result<(), Failure> {
        Ok(())
    }
}

sampan_driver_sdk::network::export!(Host with_types_in sampan_driver_sdk::network::bindings);
