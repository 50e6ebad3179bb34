//! The packet that evaluators judge.

use std::net::IpAddr;

use crate::ir::Family;

/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// SCTP.
pub const SCTP: u8 = 132;
/// ICMP.
pub const ICMP: u8 = 1;
/// ICMPv6.
pub const ICMPV6: u8 = 58;

/// True for the protocols whose ports a rule can match.
///
/// ```
/// assert!(calico_policy::packet::has_ports(17));
/// assert!(!calico_policy::packet::has_ports(1));
/// ```
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

/// The header fields a policy can see, of the first packet of a flow.
///
/// ```
/// use calico_policy::packet::Packet;
/// let packet = Packet::tcp("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 80);
/// assert_eq!(packet.destination_port(), Some(80));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port; meaningless unless [`has_ports`].
    pub src_port: u16,
    /// Destination port; meaningless unless [`has_ports`].
    pub dst_port: u16,
    /// ICMP type and code; meaningless unless the protocol is ICMP of the packet's family.
    pub icmp: (u8, u8),
}

impl Packet {
    /// A TCP packet from an ephemeral port.
    pub fn tcp(src: IpAddr, dst: IpAddr, dst_port: u16) -> Self {
        Self { src, dst, protocol: TCP, src_port: 49_152, dst_port, icmp: (0, 0) }
    }

    /// A UDP packet from an ephemeral port.
    pub fn udp(src: IpAddr, dst: IpAddr, dst_port: u16) -> Self {
        Self { protocol: UDP, ..Self::tcp(src, dst, dst_port) }
    }

    /// Family of the packet, taken from the destination.
    pub fn family(&self) -> Family {
        if self.dst.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Source port, when the protocol has ports.
    pub fn source_port(&self) -> Option<u16> {
        has_ports(self.protocol).then_some(self.src_port)
    }

    /// Destination port, when the protocol has ports.
    pub fn destination_port(&self) -> Option<u16> {
        has_ports(self.protocol).then_some(self.dst_port)
    }

    /// ICMP type and code, when the packet is ICMP of its own family.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        let own = match self.family() {
            Family::V4 => ICMP,
            Family::V6 => ICMPV6,
        };
        (self.protocol == own).then_some(self.icmp)
    }
}
