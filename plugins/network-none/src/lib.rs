//! Containers have a loopback and nothing else.

use sampan_driver_sdk::network::{Attachment, EndpointSpec, Failure, Guest, HostFacts, NetworkSpec, Step};

struct None;

impl Guest for None {
    fn attached(_: NetworkSpec) -> Result<Attachment, Failure> {
        Ok(Attachment::Isolated)
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

sampan_driver_sdk::network::export!(None with_types_in sampan_driver_sdk::network::bindings);
