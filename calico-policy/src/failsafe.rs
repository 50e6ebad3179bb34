//! Failsafe ports: what host endpoints always let through, so that a wrong policy cannot lock everybody out.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::ir::Direction;
use crate::packet::{Packet, TCP, UDP};

/// One entry of a failsafe list. `Display` gives the text form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failsafe {
    /// TCP or UDP, by number.
    pub protocol: u8,
    /// Port of the service.
    pub port: u16,
    /// Where the other end must be; `None` for anywhere.
    pub net: Option<IpNet>,
}

/// Why a text is not an entry of a failsafe list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a failsafe entry; write port, protocol:port or protocol:net:port with tcp or udp, IPv6 nets in []"
)]
pub struct FailsafeError {
    /// The text found.
    pub text: String,
}

const fn entry(protocol: u8, port: u16) -> Failsafe {
    Failsafe { protocol, port, net: None }
}

/// Ports of the host that stay reachable by default.
pub const DEFAULT_INBOUND: [Failsafe; 9] = [
    entry(TCP, 22),
    entry(UDP, 68),
    entry(TCP, 179),
    entry(TCP, 2379),
    entry(TCP, 2380),
    entry(TCP, 5473),
    entry(TCP, 6443),
    entry(TCP, 6666),
    entry(TCP, 6667),
];

/// Ports that the host can always reach by default.
pub const DEFAULT_OUTBOUND: [Failsafe; 9] = [
    entry(UDP, 53),
    entry(UDP, 67),
    entry(TCP, 179),
    entry(TCP, 2379),
    entry(TCP, 2380),
    entry(TCP, 5473),
    entry(TCP, 6443),
    entry(TCP, 6666),
    entry(TCP, 6667),
];

/// Reads a list such as `tcp:22,udp:10.0.0.0/8:53,179`; `none` is the empty list.
///
/// ```
/// use calico_policy::failsafe;
/// let list = failsafe::parse("tcp:22, udp:[fe80::/10]:53").unwrap();
/// assert_eq!(list[1].to_string(), "udp:[fe80::/10]:53");
/// assert_eq!(failsafe::parse("none"), Ok(vec![]));
/// assert!(failsafe::parse("icmp:8").is_err());
/// ```
pub fn parse(text: &str) -> Result<Vec<Failsafe>, FailsafeError> {
    if text.trim().eq_ignore_ascii_case("none") {
        return Ok(Vec::new());
    }
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(parse_entry).collect()
}

fn parse_entry(text: &str) -> Result<Failsafe, FailsafeError> {
    let bad = || FailsafeError { text: text.to_owned() };
    let (rest, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port = port.parse().map_err(|_| bad())?;
    let (protocol, net) = rest.split_once(':').unwrap_or((rest, ""));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => TCP,
        "udp" => UDP,
        _ => return Err(bad()),
    };
    let net = net.strip_prefix('[').and_then(|net| net.strip_suffix(']')).unwrap_or(net);
    let net = match net {
        "" => None,
        net => Some(crate::rules::parse_net(net).ok_or_else(bad)?),
    };
    Ok(Failsafe { protocol, port, net })
}

impl Failsafe {
    /// True when a packet of this direction of the host belongs to the entry.
    pub fn admits(&self, direction: Direction, packet: &Packet) -> bool {
        let remote = match direction {
            Direction::Ingress => packet.src,
            Direction::Egress => packet.dst,
        };
        packet.destination_port() == Some(self.port) && self.concerns(packet, remote)
    }

    /// True when a packet of this direction is an answer within the entry. Where connections are not tracked, answers
    /// must be let through too: inbound entries admit what the host sends back, outbound ones what it receives.
    pub fn admits_reply(&self, direction: Direction, packet: &Packet) -> bool {
        let remote = match direction {
            Direction::Ingress => packet.src,
            Direction::Egress => packet.dst,
        };
        packet.source_port() == Some(self.port) && self.concerns(packet, remote)
    }

    fn concerns(&self, packet: &Packet, remote: IpAddr) -> bool {
        packet.protocol == self.protocol && self.net.is_none_or(|net| net.contains(&remote))
    }
}

impl fmt::Display for Failsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.protocol == UDP { "udp" } else { "tcp" };
        match self.net {
            None => write!(f, "{protocol}:{}", self.port),
            Some(net @ IpNet::V4(_)) => write!(f, "{protocol}:{net}:{}", self.port),
            Some(net @ IpNet::V6(_)) => write!(f, "{protocol}:[{net}]:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_read_back_what_they_print() {
        for text in ["tcp:22", "udp:10.0.0.0/8:53", "tcp:[fd00::/8]:179"] {
            assert_eq!(parse(text).unwrap()[0].to_string(), text);
        }
        assert_eq!(parse("22").unwrap(), parse("TCP:22").unwrap());
        for bad in ["tcp", "tcp:x", "tcp:65536", "tcp:nowhere:1", "sctp:1", "a:b:c:1"] {
            assert_eq!(parse(bad), Err(FailsafeError { text: bad.into() }));
        }
        assert_eq!(parse(""), Ok(vec![]));
    }

    #[test]
    fn a_net_restricts_the_other_end() {
        let entry = parse("tcp:10.0.0.0/8:22").unwrap()[0];
        let packet = |src: &str, dst: &str| Packet::tcp(src.parse().unwrap(), dst.parse().unwrap(), 22);
        assert!(entry.admits(Direction::Ingress, &packet("10.1.1.1", "192.0.2.1")));
        assert!(!entry.admits(Direction::Ingress, &packet("192.0.2.1", "10.1.1.1")));
        assert!(entry.admits(Direction::Egress, &packet("192.0.2.1", "10.1.1.1")));
        let reply = Packet { src_port: 22, dst_port: 40_000, ..packet("192.0.2.1", "10.1.1.1") };
        assert!(entry.admits_reply(Direction::Egress, &reply));
        assert!(!entry.admits(Direction::Egress, &reply));
    }
}
