//! Connection tracking: read flows, forget flows.
//!
//! The kernel selects by address itself, so forgetting the flows of one pod costs one pass over the table in the
//! kernel and no copy of it.

use std::net::IpAddr;

use super::error::{DecodeError, NetlinkError};
use super::route::Family;
use super::socket::{Protocol, Request, Socket, Step};
use super::wire::{Attributes, Body, Message};

const SUBSYSTEM: u16 = 1 << 8;
const CT_GET: u16 = SUBSYSTEM | 1;
const CT_DELETE: u16 = SUBSYSTEM | 2;
/// Length of `struct nfgenmsg`.
const NFGENMSG: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// Compare the source address.
const FILTER_SOURCE: u32 = 1;

/// Addresses and ports of one direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// Ports, or what the protocol has instead.
    pub ports: Ports,
}

/// What tells flows between the same addresses apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// TCP, UDP, SCTP, DCCP: source and destination port.
    Pair(u16, u16),
    /// ICMP and ICMPv6: identifier, type, code.
    Icmp {
        /// Identifier.
        id: u16,
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Nothing.
    None,
}

/// A tracked flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// As the first packet went.
    pub original: Tuple,
    /// As answers come; differs from the mirrored original where addresses were translated.
    pub reply: Tuple,
    /// `IPS_*`.
    pub status: u32,
    /// Connection mark.
    pub mark: u32,
    /// Zone.
    pub zone: u16,
    /// The kernel's identifier.
    pub id: u32,
}

impl Tuple {
    fn encode(&self, kind: u16, body: &mut Body<'_>) {
        body.nested(kind, |tuple| {
            encode_addresses(tuple, Some(self.source), Some(self.destination));
            tuple.nested(CTA_TUPLE_PROTO, |proto| {
                proto.u8(1, self.protocol);
                match self.ports {
                    Ports::Pair(source, destination) => {
                        proto.be16(2, source);
                        proto.be16(3, destination);
                    }
                    Ports::Icmp { id, kind, code } => {
                        let base = if self.source.is_ipv4() { 4 } else { 7 };
                        proto.be16(base, id);
                        proto.u8(base + 1, kind);
                        proto.u8(base + 2, code);
                    }
                    Ports::None => {}
                }
            });
        });
    }

    fn decode(attributes: Attributes<'_>) -> Result<Option<Self>, DecodeError> {
        let (mut source, mut destination) = (None, None);
        let (mut protocol, mut ports) = (0, Ports::None);
        for attribute in attributes {
            let attribute = attribute?;
            match attribute.kind {
                CTA_TUPLE_IP => {
                    for address in attribute.nested() {
                        let address = address?;
                        match address.kind {
                            1 | 3 => source = Some(address.ip()?),
                            2 | 4 => destination = Some(address.ip()?),
                            _ => {}
                        }
                    }
                }
                CTA_TUPLE_PROTO => (protocol, ports) = decode_ports(attribute.nested())?,
                _ => {}
            }
        }
        let addresses = source.zip(destination);
        Ok(addresses.map(|(source, destination)| Self { source, destination, protocol, ports }))
    }
}

fn encode_addresses(tuple: &mut Body<'_>, source: Option<IpAddr>, destination: Option<IpAddr>) {
    tuple.nested(CTA_TUPLE_IP, |addresses| {
        for (address, v4, v6) in [(source, 1, 3), (destination, 2, 4)] {
            if let Some(address) = address {
                addresses.ip(if address.is_ipv4() { v4 } else { v6 }, address);
            }
        }
    });
}

fn decode_ports(attributes: Attributes<'_>) -> Result<(u8, Ports), DecodeError> {
    let mut protocol = 0;
    let (mut source, mut destination) = (None, None);
    let (mut id, mut kind, mut code) = (None, 0, 0);
    for attribute in attributes {
        let attribute = attribute?;
        match attribute.kind {
            1 => protocol = attribute.u8()?,
            2 => source = Some(attribute.be16()?),
            3 => destination = Some(attribute.be16()?),
            4 | 7 => id = Some(attribute.be16()?),
            5 | 8 => kind = attribute.u8()?,
            6 | 9 => code = attribute.u8()?,
            _ => {}
        }
    }
    let ports = match (source.zip(destination), id) {
        (Some((source, destination)), _) => Ports::Pair(source, destination),
        (None, Some(id)) => Ports::Icmp { id, kind, code },
        (None, None) => Ports::None,
    };
    Ok((protocol, ports))
}

/// Reads a flow; `None` when it has no addresses.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(message: &Message<'_>) -> Result<Option<Flow>, DecodeError> {
    message.fixed::<NFGENMSG>()?;
    let (mut original, mut reply) = (None, None);
    let (mut status, mut mark, mut zone, mut id) = (0, 0, 0, 0);
    for attribute in message.attributes(NFGENMSG) {
        let attribute = attribute?;
        match attribute.kind {
            CTA_TUPLE_ORIG => original = Tuple::decode(attribute.nested())?,
            CTA_TUPLE_REPLY => reply = Tuple::decode(attribute.nested())?,
            CTA_STATUS => status = attribute.be32()?,
            CTA_MARK => mark = attribute.be32()?,
            CTA_ZONE => zone = attribute.be16()?,
            CTA_ID => id = attribute.be32()?,
            _ => {}
        }
    }
    Ok(original.zip(reply).map(|(original, reply)| Flow { original, reply, status, mark, zone, id }))
}

/// A connection to connection tracking in one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

fn generic_header(body: &mut Body<'_>, family: Family) {
    body.bytes(&[family.number(), 0, 0, 0]);
}

impl Conntrack {
    /// Opens it for the namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn open() -> Result<Self, NetlinkError> {
        Socket::open(Protocol::Netfilter).map(|socket| Self { socket })
    }

    /// All flows of a family, sorted.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn flows(&mut self, family: Family) -> Result<Vec<Flow>, NetlinkError> {
        let body = |body: &mut Body<'_>| generic_header(body, family);
        let request = Request { action: &"list connections", kind: CT_GET, flags: 0, body: &body };
        let mut flows = self.socket.dump(&request, |message| decode(&message))?;
        flows.sort();
        flows.dedup();
        Ok(flows)
    }

    /// Forgets exactly these flows. Returns how many were still there.
    ///
    /// # Errors
    /// Only for the socket itself: a flow that ended meanwhile is no error.
    pub fn forget(&mut self, flows: &[Flow]) -> Result<usize, NetlinkError> {
        let steps = flows.iter().map(|flow| Step {
            kind: CT_DELETE,
            flags: 0,
            body: move |body: &mut Body<'_>| {
                generic_header(body, Family::of(flow.original.source));
                flow.original.encode(CTA_TUPLE_ORIG, body);
                if flow.zone != 0 {
                    body.be16(CTA_ZONE, flow.zone);
                }
                // Only this very flow, not a new one between the same ports.
                body.be32(CTA_ID, flow.id);
            },
        });
        let results = self.socket.pipeline(steps)?;
        Ok(results.iter().filter(|result| result.is_none()).count())
    }

    /// Forgets all flows that these addresses began or answered: they are no longer here, or no longer theirs.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn forget_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), NetlinkError> {
        let directions = [(CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS), (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS)];
        let steps = addresses.iter().flat_map(|address| {
            directions.map(|(tuple, compare)| Step {
                kind: CT_DELETE,
                flags: 0,
                body: move |body: &mut Body<'_>| {
                    generic_header(body, Family::of(*address));
                    body.nested(tuple, |tuple| encode_addresses(tuple, Some(*address), None));
                    body.nested(CTA_FILTER, |filter| {
                        let flags = |wanted| if wanted == compare { FILTER_SOURCE } else { 0 };
                        filter.u32(CTA_FILTER_ORIG_FLAGS, flags(CTA_FILTER_ORIG_FLAGS));
                        filter.u32(CTA_FILTER_REPLY_FLAGS, flags(CTA_FILTER_REPLY_FLAGS));
                    });
                },
            })
        });
        let results = self.socket.pipeline(steps)?;
        match results.into_iter().flatten().find(|refusal| !refusal.is_absent()) {
            Some(refusal) => {
                Err(NetlinkError::Refused { action: "forget connections by address".to_owned(), refusal })
            }
            None => Ok(()),
        }
    }
}
