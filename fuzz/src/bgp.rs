//! What a BGP peer may send.

use std::time::{Duration, Instant};

use calico_bgp::config::{LocalRoute, PeerConfig, SpeakerConfig};
use calico_bgp::wire::{
    Capabilities, Capability, Family, FamilySet, Message, Open, SessionParams, Update, message::MAX_LENGTH,
};
use calico_bgp::{ConnectionId, Input, Speaker};

/// Any body of an OPEN is refused with code 2, or read into something that is written and read back the same.
pub fn bgp_open(data: &[u8]) {
    match Open::decode_body(data) {
        Err(refusal) => assert_eq!(refusal.code, 2),
        Ok(open) => {
            let bytes = Message::Open(open.clone()).encode();
            assert!(bytes.len() <= MAX_LENGTH);
            if bytes.len() < MAX_LENGTH {
                assert_eq!(Open::decode_body(&bytes[19..]), Ok(open));
            }
        }
    }
}

/// Any capability keeps its octets, and folding a list twice changes nothing.
pub fn bgp_capability(data: &[u8]) {
    let Some((code, value)) = data.split_first() else { return };
    let capability = Capability::decode(*code, value);
    let mut written = Vec::new();
    capability.encode_value(&mut written);
    assert_eq!(Capability::decode(*code, &written), capability);
    let folded = Capabilities::from_list(&[capability]);
    // A family that is not ours cannot be told from no family at all once it is folded.
    if !folded.families.is_empty() {
        assert_eq!(Capabilities::from_list(&folded.to_list()), folded);
    }
}

/// The first octet chooses the session; any body after it is survived, and attributes that pass are stable.
pub fn bgp_update(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else { return };
    let flag = |bit: u8| choice & (1 << bit) != 0;
    let set = |on: bool| if on { FamilySet::ALL } else { FamilySet::NONE };
    let params = SessionParams {
        four_octet_as: flag(0),
        ibgp: flag(1),
        enforce_first_as: flag(2).then_some(65001),
        add_path_receive: set(flag(3)),
        extended_next_hop: flag(4),
        ..SessionParams::default()
    };
    let update = match Update::decode(body, &params) {
        Err(refusal) => {
            assert_eq!(refusal.code, 3);
            return;
        }
        Ok(update) => update,
    };
    assert_eq!(update.withdrawn.count(), update.withdrawn.count());
    assert!(update.issues.iter().all(|issue| issue.offset <= body.len()));
    let mut once = Vec::new();
    update.attributes.encode(None, &params, &mut once);
    let mut again = Vec::from([0, 0]);
    let Ok(length) = u16::try_from(once.len()) else { return };
    again.extend_from_slice(&length.to_be_bytes());
    again.extend_from_slice(&once);
    let back = Update::decode(&again, &params).expect("what was written can be read");
    let mut twice = Vec::new();
    back.attributes.encode(None, &params, &mut twice);
    assert_eq!(once, twice);
}

/// A peer sends any octets, in chunks with pauses: a length and that many octets; length 0 lets five seconds pass and
/// opens a new connection when there is none. The speaker survives, and keeps the route of its own.
pub fn bgp_session(data: &[u8]) {
    // The beginning of time does not matter.
    let mut now = Instant::now();
    let address = "10.0.0.2".parse().expect("an address");
    let mut peer = PeerConfig::new("peer", address, 64512, 65001);
    peer.passive = true;
    peer.families = FamilySet::ALL;
    peer.max_prefixes = Some(1000);
    let own = "10.1.0.0/26".parse().expect("a prefix");
    let config = SpeakerConfig::new("10.0.0.1".parse().expect("an identifier"), 64512)
        .with_peer(peer)
        .with_route(own, LocalRoute::blackhole());
    let mut speaker = Speaker::new(now, config, 1);
    let mut connection = 0;
    let mut rest = data;
    let connect = |speaker: &mut Speaker, now, number| {
        let (local, remote) = ("10.0.0.1:179", "10.0.0.2:40000");
        let (local, remote) = (local.parse().expect("an end"), remote.parse().expect("an end"));
        speaker.handle(now, Input::Accepted { connection: ConnectionId(number), local, remote });
    };
    connect(&mut speaker, now, connection);
    while let Some((length, tail)) = rest.split_first() {
        let (chunk, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = tail;
        if chunk.is_empty() {
            now += Duration::from_secs(5);
            speaker.handle(now, Input::Timeout);
            connection += 1;
            connect(&mut speaker, now, connection);
        } else {
            speaker.handle(now, Input::Received { connection: ConnectionId(connection), data: chunk });
        }
        while let Some(transmit) = speaker.poll_transmit() {
            assert!(transmit.bytes.len() >= 19);
        }
        while speaker.poll_event().is_some() {}
    }
    assert!(speaker.routes(Family::Ipv4).iter().any(|route| route.prefix == own && route.peer.is_none()));
}
