//! What the speaker tells about itself: status for the agent's socket, and the part of a CalicoNodeStatus that is about
//! sessions. Pure.

use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use calico_bgp::bfd::BfdConfig;
use calico_bgp::config::PeerKind as ConfiguredKind;
use calico_bgp::{Negotiated, PeerStatus as SpeakerPeer, Speaker, State};
use calico_model::{BgpPeerType, BgpSessionState, BgpStatus as ModelStatus, NodePeer};

use crate::node::protocol::{BgpStatus, PeerDetail, PeerKind, PeerStatus};

/// The whole state of a speaker. `now` and `wall` are the same moment on two clocks.
pub fn status(speaker: &Speaker, now: Instant, wall: SystemTime, error: Option<String>) -> BgpStatus {
    let mut peers: Vec<PeerStatus> =
        speaker.peers().iter().map(|peer| peer_status(peer, now, wall)).collect();
    peers.sort_by(|a, b| (a.address, &a.detail.name).cmp(&(b.address, &b.detail.name)));
    BgpStatus {
        as_number: speaker.config().asn,
        router_id: speaker.config().router_id.to_string(),
        peers,
        error,
    }
}

fn peer_status(peer: &SpeakerPeer, now: Instant, wall: SystemTime) -> PeerStatus {
    let since = wall.checked_sub(now.saturating_duration_since(peer.since)).unwrap_or(wall);
    let since = jiff::Timestamp::try_from(since).map(|t| t.to_string()).unwrap_or_default();
    let established = peer.state == State::Established;
    let negotiated = peer.negotiated.as_ref();
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    PeerStatus {
        address: peer.config.address,
        kind: match peer.config.kind {
            ConfiguredKind::Mesh => PeerKind::NodeToNodeMesh,
            ConfiguredKind::Global => PeerKind::Global,
            ConfiguredKind::Node | ConfiguredKind::LocalWorkload => PeerKind::NodeSpecific,
        },
        state: if established { "up" } else { "start" }.to_owned(),
        bgp_state: peer.state.to_string(),
        since,
        info: if established { String::new() } else { peer.reason.to_string() },
        detail: PeerDetail {
            name: peer.config.name.to_string(),
            local_as: peer.config.local_as,
            remote_as: peer.config.remote_as,
            identifier: negotiated.map(|n| n.identifier.to_string()).unwrap_or_default(),
            hold_seconds: negotiated.map_or(0, |n| n.hold_time.as_secs()),
            capabilities: negotiated.map(|n| capabilities(n, peer.config.bfd)).unwrap_or_default(),
            received: peer.prefixes_received.map(u64::from),
            announced: peer.prefixes_sent.map(number),
            updates_in: peer.counters.updates_in,
            updates_out: peer.counters.updates_out,
            octets_in: peer.counters.octets_in,
            established: peer.counters.established,
            malformed_updates: peer.counters.malformed_updates,
            unsendable: peer.counters.unsendable,
            restarting: peer.restarting,
        },
    }
}

/// What both sides can do, sorted.
fn capabilities(negotiated: &Negotiated, bfd: Option<BfdConfig>) -> Vec<String> {
    let params = &negotiated.params;
    let both =
        |has: fn(&calico_bgp::wire::Capabilities) -> bool| has(&negotiated.local) && has(&negotiated.remote);
    let any = |set: calico_bgp::wire::FamilySet| set.iter().next().is_some();
    let mut list: Vec<String> = params.families.iter().map(|family| family.to_string()).collect();
    let mut add = |on: bool, name: &str| {
        if on {
            list.push(name.to_owned());
        }
    };
    add(any(params.add_path_receive) || any(params.add_path_send), "add-path");
    add(bfd.is_some(), "bfd");
    add(negotiated.enhanced_refresh(), "enhanced-refresh");
    add(both(|c| c.extended_message), "extended-message");
    add(params.extended_next_hop, "extended-next-hop");
    add(any(negotiated.graceful_families()), "graceful-restart");
    let long_lived = params.families.iter().any(|family| !negotiated.long_lived_time(family).is_zero());
    add(long_lived, "long-lived-graceful-restart");
    add(negotiated.route_refresh(), "route-refresh");
    list.sort();
    list
}

/// The sessions as a CalicoNodeStatus has them.
pub fn node_status(status: &BgpStatus) -> ModelStatus {
    let of_family = |is_of_family: fn(&IpAddr) -> bool| {
        let peers: Vec<NodePeer> =
            status.peers.iter().filter(|peer| is_of_family(&peer.address)).map(node_peer).collect();
        let established = peers.iter().filter(|peer| peer.state == BgpSessionState::Established).count();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        (count(established), count(peers.len() - established), (!peers.is_empty()).then_some(peers))
    };
    let (established_v4, other_v4, peers_v4) = of_family(IpAddr::is_ipv4);
    let (established_v6, other_v6, peers_v6) = of_family(IpAddr::is_ipv6);
    ModelStatus {
        number_established_v4: established_v4,
        number_established_v6: established_v6,
        number_not_established_v4: other_v4,
        number_not_established_v6: other_v6,
        peers_v4,
        peers_v6,
    }
}

fn node_peer(peer: &PeerStatus) -> NodePeer {
    NodePeer {
        peer_ip: peer.address.to_string(),
        peer_type: match peer.kind {
            PeerKind::NodeToNodeMesh => BgpPeerType::NodeMesh,
            PeerKind::Global => BgpPeerType::GlobalPeer,
            PeerKind::NodeSpecific => BgpPeerType::NodePeer,
        },
        state: BgpSessionState::from(peer.bgp_state.as_str()),
        since: peer.since.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_bgp::Input;
    use calico_bgp::config::{Authentication, PeerConfig, SpeakerConfig};

    #[test]
    fn every_session_that_is_down_says_why() {
        let now = Instant::now();
        let peer = |name: &str, address: &str| PeerConfig::new(name, address.parse().unwrap(), 64512, 64512);
        let mut keyless = peer("Global_10_0_0_2", "10.0.0.2");
        keyless.authentication = Authentication::Unavailable("secret bgp/pw: no such file".into());
        let mut disabled = peer("Global_10_0_0_3", "10.0.0.3");
        disabled.disabled = true;
        let mut watched = peer("Global_10_0_0_4", "10.0.0.4");
        watched.bfd = Some(BfdConfig::default());
        let mut mesh = peer("Mesh_fd00__2", "fd00::2");
        mesh.kind = ConfiguredKind::Mesh;
        let config = SpeakerConfig::new("10.0.0.1".parse().unwrap(), 64512)
            .with_peer(keyless)
            .with_peer(disabled)
            .with_peer(watched)
            .with_peer(peer("Mesh_10_0_0_5", "10.0.0.5"))
            .with_peer(mesh);
        let mut speaker = Speaker::new(now, config, 1);
        let later = now + std::time::Duration::from_secs(3);
        speaker.handle(later, Input::Timeout);
        while let Some(event) = speaker.poll_event() {
            if let calico_bgp::Event::Connect { dial, .. } = event {
                let reason = "Connection refused (os error 111)".into();
                speaker.handle(later, Input::ConnectFailed { dial, reason });
            }
        }
        let status = status(&speaker, later, SystemTime::UNIX_EPOCH + later.duration_since(now), None);
        let infos: Vec<(&str, &str)> =
            status.peers.iter().map(|peer| (peer.detail.name.as_str(), peer.info.as_str())).collect();
        assert_eq!(
            infos,
            [
                ("Global_10_0_0_2", "password unavailable: secret bgp/pw: no such file"),
                ("Global_10_0_0_3", "disabled by configuration"),
                ("Global_10_0_0_4", "BFD does not hear the peer"),
                ("Mesh_10_0_0_5", "Socket: Connection refused (os error 111)"),
                ("Mesh_fd00__2", "Socket: Connection refused (os error 111)"),
            ]
        );
        let model = node_status(&status);
        assert_eq!((model.number_established_v4, model.number_not_established_v4), (0, 4));
        let six = &model.peers_v6.unwrap()[0];
        assert_eq!((six.peer_ip.as_str(), &six.peer_type), ("fd00::2", &BgpPeerType::NodeMesh));
        assert_eq!(six.since, "1970-01-01T00:00:00Z");
    }
}
