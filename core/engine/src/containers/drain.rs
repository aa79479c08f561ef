//! Taking a container out of service before it is stopped.

use std::collections::HashSet;

use super::record::ContainerRecord;
use crate::error::Result;
use crate::{Engine, blocking};

/// The group that a container has fixed ports together with: the replicas of its service.
pub(super) fn group(record: &ContainerRecord) -> Option<String> {
    let labels = record.config.labels.as_ref()?;
    let label = |name: &str| labels.get(&format!("com.docker.compose.{name}")).filter(|text| !text.is_empty());
    if label("oneoff").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        return None;
    }
    Some(format!("{}/{}", label("project")?, label("service")?))
}

impl Engine {
    /// Lets names and shared ports lead to others of a container's service, where there are some; or back to it.
    pub async fn withdraw(&self, id: &str, away: bool) -> Result<()> {
        let container = self.inner.containers.find(id)?;
        self.inner.networks.withdraw(&container.id, away).await
    }

    /// How many connections to what it listens on a container has open.
    pub async fn open_connections(&self, id: &str) -> Result<usize> {
        let pid = self.inner.containers.find(id)?.record().state.pid;
        if pid == 0 {
            return Ok(0);
        }
        blocking(move || {
            let read = |name| std::fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
            Ok(established(&[read("tcp"), read("tcp6")].concat()))
        })
        .await
    }
}

/// Counts connections on ports that are listened on, in the kernel's list of sockets. Pure.
fn established(list: &str) -> usize {
    const ESTABLISHED: &str = "01";
    const SYN_RECEIVED: &str = "03";
    const LISTEN: &str = "0A";
    let sockets = || {
        list.lines().filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (_, port) = words.next()?.rsplit_once(':')?;
            Some((port, words.nth(1)?))
        })
    };
    let served: HashSet<&str> = sockets().filter(|(_, state)| *state == LISTEN).map(|(port, _)| port).collect();
    let open = |state: &str| state == ESTABLISHED || state == SYN_RECEIVED;
    sockets().filter(|(port, state)| open(state) && served.contains(port)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_to_what_is_served_count_and_others_do_not() {
        let list = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   1: 0200000A:0050 0100000A:9C42 01 00000000:00000000 00:00000000 00000000     0
   2: 0200000A:0050 0100000A:9C44 06 00000000:00000000 00:00000000 00000000     0
   3: 0200000A:9C4E 0300000A:1538 01 00000000:00000000 00:00000000 00000000     0
   4: 00000000000000000000000000000000:0050 0:9C42 03 00000000:00000000
";
        assert_eq!(established(list), 2);
        assert_eq!(established(""), 0);
    }
}
