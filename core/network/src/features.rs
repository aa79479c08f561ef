//! What the kernel's networking can do, found out by trying in a namespace that is thrown away.

use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};

use crate::filter::Filter;
use crate::links::{Kind, Links, Spec};
use crate::netns::on_thread;
use crate::validate::MacvlanMode;

/// The features that drivers choose by: `ipv6`, `packet-filter`, and `link.` with each kind that can be made.
pub fn features() -> io::Result<Vec<String>> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let mut links = Links::open()?;
        let mut features = Vec::new();
        if Path::new("/proc/net/if_inet6").exists() {
            features.push("ipv6".to_owned());
        }
        if Filter::open("probe").is_ok_and(|filter| filter.rebuild(&Default::default()).is_ok()) {
            features.push("packet-filter".to_owned());
        }
        // A bridge serves as the parent of those that need one.
        let mut parent = 0;
        for (name, kind) in ["bridge", "dummy", "vxlan", "macvlan", "ipvlan"].map(|name| (name, name)) {
            let kind = match kind {
                "bridge" => Kind::Bridge,
                "dummy" => Kind::Dummy,
                "vxlan" => Kind::Vxlan { vni: 1, port: 4789, local: None },
                "macvlan" => Kind::Macvlan { parent, mode: MacvlanMode::Bridge },
                _ => Kind::Ipvlan { parent },
            };
            let spec = Spec { name, kind, mtu: None, mac: None, master: None, namespace: None };
            if links.create(&spec).is_ok() {
                features.push(format!("link.{name}"));
                if let (0, Ok(Some(found))) = (parent, links.find(name)) {
                    parent = found.index;
                }
            }
        }
        Ok(features)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[test]
    fn features_are_found_without_a_trace() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let before = std::time::Instant::now();
        let features = super::features().unwrap();
        eprintln!("{features:?} in {:?}", before.elapsed());
        assert!(features.contains(&"link.bridge".to_owned()) || !features.contains(&"link.macvlan".to_owned()));
    }
}
