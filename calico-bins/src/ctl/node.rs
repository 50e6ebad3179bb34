//! `calicoctl node status`: what the agent of this node says about itself.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::table::{Align, boxed};
use crate::node::protocol::{Client, ClientError, NodeStatus, PeerStatus, Request, Response};

/// How long the agent may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the agent behind a socket how it is doing.
pub fn ask(socket: &Path) -> Result<NodeStatus, ClientError> {
    match Client::connect(socket)?.ask(&Request::Status, TIMEOUT)? {
        Response::Status(status) => Ok(*status),
        Response::Error(failure) => Err(ClientError::Garbled(failure.message)),
        other => Err(ClientError::Garbled(format!("{other:?} instead of a status"))),
    }
}

/// The tables that operators know.
///
/// ```
/// use calico_bins::ctl::node::report;
/// use calico_bins::node::protocol::{BgpStatus, NodeStatus, PeerDetail, PeerKind, PeerStatus};
/// let peer = PeerStatus {
///     address: "172.18.10.12".parse().unwrap(),
///     kind: PeerKind::NodeToNodeMesh,
///     state: "up".into(),
///     bgp_state: "Established".into(),
///     since: "2026-11-21T00:12:30Z".into(),
///     info: String::new(),
///     detail: PeerDetail::default(),
/// };
/// let bgp = BgpStatus { peers: vec![peer], ..BgpStatus::default() };
/// let text = report(&NodeStatus { bgp: Some(bgp), ..NodeStatus::default() }, "2026-11-21T10:00:00Z");
/// assert_eq!(text, "\
/// Calico process is running.
///
/// IPv4 BGP status
/// +--------------+-------------------+-------+----------+-------------+
/// | PEER ADDRESS | PEER TYPE         | STATE | SINCE    | INFO        |
/// +--------------+-------------------+-------+----------+-------------+
/// | 172.18.10.12 | node-to-node mesh | up    | 00:12:30 | Established |
/// +--------------+-------------------+-------+----------+-------------+
///
/// IPv6 BGP status
/// No IPv6 peers found.
///
/// ");
/// ```
pub fn report(status: &NodeStatus, now: &str) -> String {
    let mut out = String::from("Calico process is running.\n");
    let Some(bgp) = &status.bgp else {
        out.push_str("\nThe BGP backend process is not running.\n");
        return out;
    };
    if let Some(error) = &bgp.error {
        out.push_str(&format!("\nThe BGP speaker cannot run: {error}\n"));
    }
    for (family, is_of_family) in
        [("IPv4", IpAddr::is_ipv4 as fn(&IpAddr) -> bool), ("IPv6", IpAddr::is_ipv6)]
    {
        out.push_str(&format!("\n{family} BGP status\n"));
        let rows: Vec<Vec<String>> = bgp
            .peers
            .iter()
            .filter(|peer| is_of_family(&peer.address))
            .map(|peer| {
                vec![
                    peer.address.to_string(),
                    peer.kind.to_string(),
                    peer.state.clone(),
                    since(&peer.since, now),
                    info(peer),
                ]
            })
            .collect();
        if rows.is_empty() {
            out.push_str(&format!("No {family} peers found.\n"));
        } else {
            let headings = ["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"].map(|h| (h, Align::Left));
            out.push_str(&boxed(&headings, &rows));
        }
    }
    out.push('\n');
    out
}

/// The time of day for what happened today, the date for what is older.
fn since(when: &str, now: &str) -> String {
    let (date, time) = when.split_once('T').unwrap_or((when, ""));
    let today = now.split('T').next().unwrap_or_default();
    if date == today && !time.is_empty() { time.chars().take(8).collect() } else { date.to_owned() }
}

fn info(peer: &PeerStatus) -> String {
    if peer.info.is_empty() { peer.bgp_state.clone() } else { format!("{} {}", peer.bgp_state, peer.info) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::protocol::{BgpStatus, PeerDetail, PeerKind};

    #[test]
    fn errors_and_families_are_shown() {
        let peer = |address: &str, since: &str| PeerStatus {
            address: address.parse().unwrap(),
            kind: PeerKind::NodeSpecific,
            state: "start".into(),
            bgp_state: "Active".into(),
            since: since.into(),
            info: "Socket: Connection refused".into(),
            detail: PeerDetail::default(),
        };
        let peers = vec![peer("10.0.0.1", "2026-11-20T23:59:59Z"), peer("fd00::1", "2026-11-21T00:00:01Z")];
        let bgp = BgpStatus { peers, error: Some("port 179 is taken".into()), ..BgpStatus::default() };
        let text = report(&NodeStatus { bgp: Some(bgp), ..NodeStatus::default() }, "2026-11-21T01:00:00Z");
        assert!(text.contains("The BGP speaker cannot run: port 179 is taken"));
        assert!(text.contains(
            "| 10.0.0.1     | node specific | start | 2026-11-20 | Active Socket: Connection refused |"
        ));
        assert!(text.contains(
            "| fd00::1      | node specific | start | 00:00:01 | Active Socket: Connection refused |"
        ));
        let without = report(&NodeStatus::default(), "2026-11-21T01:00:00Z");
        assert!(without.ends_with("The BGP backend process is not running.\n"));
    }
}
