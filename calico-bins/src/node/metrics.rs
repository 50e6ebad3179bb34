//! The numbers of this node's agent in the text form of Prometheus; pure. Where Felix has a metric for the same thing,
//! ours has its name.

use std::fmt::{Display, Write as _};

use super::protocol::NodeStatus;

/// A page of metrics while it is being written.
#[derive(Debug, Default)]
struct Page(String);

impl Page {
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.metric(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// The page for a status.
///
/// ```
/// use calico_bins::node::metrics::page;
/// use calico_bins::node::protocol::NodeStatus;
/// let status = NodeStatus { datastore: "in-sync".into(), ..NodeStatus::default() };
/// assert!(page(&status).contains("\nfelix_resync_state 3\n"));
/// ```
pub fn page(status: &NodeStatus) -> String {
    let mut page = Page::default();
    page.metric("felix_host", "gauge", "Name of this node and version of its agent; always 1.");
    page.sample("felix_host", &[("host", &status.node), ("version", &status.version)], 1);
    page.single(
        "felix_resync_state",
        "gauge",
        "Datastore: 1 waiting for it, 2 reading it, 3 in sync.",
        match status.datastore.as_str() {
            "in-sync" => 3,
            "resync" => 2,
            _ => 1,
        },
    );
    let dataplane = &status.dataplane;
    page.single(
        "felix_active_local_endpoints",
        "gauge",
        "Workload endpoints of this node.",
        dataplane.endpoints,
    );
    page.single(
        "calico_local_endpoints_up",
        "gauge",
        "Workload endpoints whose policy and routes are in the kernel.",
        dataplane.endpoints_up,
    );
    page.single(
        "calico_dataplane_ready",
        "gauge",
        "1 when all that was stored at the start is in the kernel.",
        u8::from(dataplane.ready),
    );
    page.single("calico_dataplane_applies", "counter", "Rounds of the dataplane.", dataplane.applies);
    page.single("felix_int_dataplane_failures", "counter", "Rounds that failed.", dataplane.failures);
    page.single(
        "felix_int_dataplane_messages",
        "counter",
        "Messages that changed the kernel.",
        dataplane.messages,
    );
    page.single(
        "calico_dataplane_unsettled",
        "gauge",
        "Routes, interfaces and neighbours that are not as they should be.",
        dataplane.unsettled,
    );
    page.single(
        "calico_dataplane_drift",
        "counter",
        "Objects that somebody else changed and the agent set right.",
        dataplane.drift,
    );
    page.single("felix_route_table_num_routes", "gauge", "Routes of Calico in the kernel.", dataplane.routes);
    if let Some(bgp) = &status.bgp {
        let up = |peer: &super::protocol::PeerStatus| u8::from(peer.bgp_state == "Established");
        page.metric("calico_bgp_session_up", "gauge", "1 when the session with the peer is Established.");
        for peer in &bgp.peers {
            page.sample(
                "calico_bgp_session_up",
                &[("peer", &peer.address), ("type", &peer.kind), ("state", &peer.bgp_state)],
                up(peer),
            );
        }
        type Count = fn(&super::protocol::PeerDetail) -> u64;
        let counts: [(&str, &str, &str, Count); 6] = [
            ("calico_bgp_updates_received", "counter", "UPDATEs received.", |d| d.updates_in),
            ("calico_bgp_updates_sent", "counter", "UPDATEs sent.", |d| d.updates_out),
            ("calico_bgp_octets_received", "counter", "Octets received.", |d| d.octets_in),
            ("calico_bgp_established", "counter", "Times the session came up.", |d| d.established),
            ("calico_bgp_malformed_updates", "counter", "Malformed UPDATEs survived.", |d| {
                d.malformed_updates
            }),
            ("calico_bgp_hold_seconds", "gauge", "Agreed hold time.", |d| d.hold_seconds),
        ];
        for (name, kind, help, count) in counts {
            page.metric(name, kind, help);
            for peer in &bgp.peers {
                page.sample(name, &[("peer", &peer.address)], count(&peer.detail));
            }
        }
        type PerFamily = fn(&super::protocol::PeerDetail) -> [u64; 2];
        let prefixes: [(&str, &str, PerFamily); 2] = [
            ("calico_bgp_prefixes_received", "Prefixes that the peer announces.", |d| d.received),
            ("calico_bgp_prefixes_announced", "Prefixes that are announced to the peer.", |d| d.announced),
        ];
        for (name, help, count) in prefixes {
            page.metric(name, "gauge", help);
            for peer in &bgp.peers {
                for (family, number) in ["ipv4", "ipv6"].iter().zip(count(&peer.detail)) {
                    page.sample(name, &[("peer", &peer.address), ("family", family)], number);
                }
            }
        }
        let established = bgp.peers.iter().filter(|peer| up(peer) == 1).count();
        page.single("calico_bgp_sessions", "gauge", "Configured BGP sessions.", bgp.peers.len());
        page.single("calico_bgp_sessions_established", "gauge", "Established BGP sessions.", established);
    }
    page.single("process_resident_memory_bytes", "gauge", "Resident memory.", status.resident_kib * 1024);
    page.single("calico_uptime_seconds", "gauge", "Seconds since the agent started.", status.uptime_seconds);
    page.0
}

#[cfg(test)]
mod tests {
    use super::super::protocol::{BgpStatus, PeerDetail, PeerKind, PeerStatus};
    use super::*;

    #[test]
    fn every_sample_has_a_type_and_labels_are_escaped() {
        let peer = PeerStatus {
            address: "fd00::1".parse().unwrap(),
            kind: PeerKind::NodeToNodeMesh,
            state: "up".into(),
            bgp_state: "Established".into(),
            since: String::new(),
            info: String::new(),
            detail: PeerDetail { received: [7, 0], ..PeerDetail::default() },
        };
        let status = NodeStatus {
            node: "a\"b\\c\n".into(),
            bgp: Some(BgpStatus { peers: vec![peer], ..BgpStatus::default() }),
            resident_kib: 2,
            ..NodeStatus::default()
        };
        let text = page(&status);
        assert!(text.contains(r#"felix_host{host="a\"b\\c\n",version=""} 1"#), "{text}");
        assert!(text.contains(
            "calico_bgp_session_up{peer=\"fd00::1\",type=\"node-to-node mesh\",state=\"Established\"} 1\n"
        ));
        assert!(
            text.contains("calico_bgp_prefixes_received{peer=\"fd00::1\",family=\"ipv4\"} 7\n"),
            "{text}"
        );
        assert!(text.contains("\nprocess_resident_memory_bytes 2048\n"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(text.contains(&format!("# TYPE {name} ")), "{line}");
        }
    }
}
