//! Pods that travel in VXLAN, beside pods that do not, switched on in a running cluster.

use std::time::Duration;

use super::super::cluster::{Cluster, PodWish};
use super::super::report::Report;
use super::{PATIENCE, eventually, text};

const POOL: &str = include_str!("../../../../examples/overlay/vxlan-ippool.yaml");
const FILE: &str = "examples/overlay/vxlan-ippool.yaml";
const DEVICE: &str = "vxlan.calico";
const NAMES: [&str; 2] = ["overlay01", "overlay02"];

/// Proves every step.
pub(super) fn prove(cluster: &mut Cluster, report: &mut Report) {
    report.section("Overlay: VXLAN");
    let up = report.step(format!("calicoctl apply -f {FILE}: every node makes its tunnel"), || {
        cluster.apply(FILE, POOL).map_err(text)?;
        eventually(PATIENCE, || everywhere(cluster, true))
    });
    if !up {
        return;
    }
    let pools = [("cni.projectcalico.org/ipv4pools", r#"["overlay-ippool"]"#)];
    for (index, name) in NAMES.into_iter().enumerate() {
        report.step(format!("CNI ADD of pod default/{name} on node{}", index + 1), || {
            let wish = PodWish { name, node: index, annotations: &pools, ..PodWish::default() };
            Ok(cluster.add_pod(&wish).and_then(|pod| pod.ipv4()).map_err(text)?.to_string())
        });
    }
    report.step("overlay01 pings overlay02 through the tunnel, TTL 62 on arrival", || {
        let address = cluster.pod("default", NAMES[1]).and_then(|pod| pod.ipv4()).map_err(text)?;
        let sent = || -> Result<u64, String> {
            let node = cluster.node(0).map_err(text)?;
            let read = node
                .place
                .run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))
                .map_err(|e| e.to_string())?;
            packets_sent(&read, DEVICE).ok_or_else(|| format!("{DEVICE} is not in /proc/thread-self/net/dev"))
        };
        let before = sent()?;
        eventually(PATIENCE, || {
            let from = &cluster.pod("default", NAMES[0]).map_err(text)?.place;
            match from.ping(address, Duration::from_millis(500)).map_err(|e| e.to_string())? {
                Some(echo) if echo.ttl == 62 => Ok(()),
                Some(echo) => Err(format!("{address}: ttl={}", echo.ttl)),
                None => Err(format!("no answer from {address}")),
            }
        })?;
        match sent()? - before {
            0 => Err(format!("the packet did not leave through {DEVICE}")),
            packets => Ok(format!("{address}, {packets} packets through {DEVICE}")),
        }
    });
    report.step("pods and pool are deleted: the tunnels are gone", || {
        for name in NAMES {
            cluster.delete_pod("default", name).map_err(text)?;
        }
        cluster.delete(FILE, POOL).map_err(text)?;
        eventually(PATIENCE, || everywhere(cluster, false))
    });
}

/// Whether every node has the device or none has it.
fn everywhere(cluster: &Cluster, wanted: bool) -> Result<String, String> {
    for node in &cluster.nodes {
        let devices = node
            .place
            .run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))
            .map_err(|e| e.to_string())?;
        if packets_sent(&devices, DEVICE).is_some() != wanted {
            return Err(format!(
                "{}: {DEVICE} {}",
                node.name,
                if wanted { "is missing" } else { "is still there" }
            ));
        }
    }
    Ok(String::new())
}

/// The packets that a device sent, from the text of `/proc/thread-self/net/dev`; `None` when there is no such device.
fn packets_sent(table: &str, device: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    line.split_whitespace().nth(9)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::packets_sent;

    #[test]
    fn the_tenth_column_counts_what_was_sent() {
        let table = "Inter-|   Receive |  Transmit\n face |bytes packets\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12\n\
                     vxlan.calico:0 0 0 0 0 0 0 0 840 7 0 0\n";
        assert_eq!(packets_sent(table, "vxlan.calico"), Some(7));
        assert_eq!(packets_sent(table, "vxlan"), None);
    }
}
