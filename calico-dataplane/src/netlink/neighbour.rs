//! Neighbours (ARP, NDP) and forwarding entries (FDB).

use std::net::IpAddr;

use super::error::{DecodeError, NetlinkError, Refusal};
use super::mac::MacAddr;
use super::route::Family;
use super::socket::{Request, Step};
use super::wire::{Body, Message, flags, u16_at, u32_at};
use super::{RTM_DELNEIGH, RTM_GETNEIGH, RTM_NEWNEIGH, Rtnetlink};

const NDMSG: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_IFINDEX: u16 = 8;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 0x2;
const AF_BRIDGE: u8 = 7;
const RTN_UNICAST: u8 = 1;

/// Which table an entry is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NeighbourTable {
    /// Which Ethernet address has an IP address.
    Address(Family),
    /// Behind which tunnel endpoint an Ethernet address is.
    Forwarding,
}

impl NeighbourTable {
    fn family(self) -> u8 {
        match self {
            Self::Address(family) => family.number(),
            Self::Forwarding => AF_BRIDGE,
        }
    }
}

/// An entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// Interface index.
    pub interface: u32,
    /// Table.
    pub table: NeighbourTable,
    /// The neighbour's address; in the forwarding table the tunnel endpoint.
    pub ip: Option<IpAddr>,
    /// Its Ethernet address, when resolved.
    pub mac: Option<MacAddr>,
    /// Never expires, never probed.
    pub permanent: bool,
}

impl Neighbour {
    /// A permanent ARP or NDP entry.
    pub fn permanent(interface: u32, ip: IpAddr, mac: MacAddr) -> Self {
        let table = NeighbourTable::Address(Family::of(ip));
        Self { interface, table, ip: Some(ip), mac: Some(mac), permanent: true }
    }

    /// A permanent forwarding entry of a tunnel device: `mac` is behind the endpoint `remote`.
    pub fn forwarding(interface: u32, mac: MacAddr, remote: IpAddr) -> Self {
        Self {
            interface,
            table: NeighbourTable::Forwarding,
            ip: Some(remote),
            mac: Some(mac),
            permanent: true,
        }
    }

    pub(super) fn encode(&self, body: &mut Body<'_>) {
        let flags = if self.table == NeighbourTable::Forwarding { NTF_SELF } else { 0 };
        let state = if self.permanent { NUD_PERMANENT } else { 0x2 };
        body.bytes(&[self.table.family(), 0, 0, 0]);
        body.bytes(&self.interface.to_ne_bytes());
        body.bytes(&state.to_ne_bytes());
        body.bytes(&[flags, if flags == 0 { RTN_UNICAST } else { 0 }]);
        if let Some(ip) = self.ip {
            body.ip(NDA_DST, ip);
        }
        if let Some(mac) = self.mac {
            body.attribute(NDA_LLADDR, &mac.0);
        }
    }
}

impl std::fmt::Display for Neighbour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = |value: Option<&dyn std::fmt::Display>| value.map_or("-".to_owned(), |v| v.to_string());
        let ip = part(self.ip.as_ref().map(|ip| ip as &dyn std::fmt::Display));
        let mac = part(self.mac.as_ref().map(|mac| mac as &dyn std::fmt::Display));
        match self.table {
            NeighbourTable::Address(_) => write!(f, "neighbour {ip} lladdr {mac}")?,
            NeighbourTable::Forwarding => write!(f, "forwarding entry {mac} dst {ip}")?,
        }
        write!(f, " on interface with index {}", self.interface)
    }
}

/// Reads an `RTM_NEWNEIGH` or `RTM_DELNEIGH`; `None` for other families.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(message: &Message<'_>) -> Result<Option<Neighbour>, DecodeError> {
    let fixed = message.fixed::<NDMSG>()?;
    let table = match (fixed[0], Family::from_number(fixed[0])) {
        (AF_BRIDGE, _) => NeighbourTable::Forwarding,
        (_, Some(family)) => NeighbourTable::Address(family),
        _ => return Ok(None),
    };
    let mut neighbour = Neighbour {
        interface: u32_at(fixed, 4),
        table,
        ip: None,
        mac: None,
        permanent: u16_at(fixed, 8) & NUD_PERMANENT != 0,
    };
    for attribute in message.attributes(NDMSG) {
        let attribute = attribute?;
        match attribute.kind {
            NDA_DST => neighbour.ip = Some(attribute.ip()?),
            NDA_LLADDR => neighbour.mac = attribute.value.first_chunk().copied().map(MacAddr),
            _ => {}
        }
    }
    Ok(Some(neighbour))
}

impl Rtnetlink {
    /// The entries of one table on one interface (0: on all), sorted.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn neighbours(
        &mut self,
        table: NeighbourTable,
        interface: u32,
    ) -> Result<Vec<Neighbour>, NetlinkError> {
        let body = |body: &mut Body<'_>| {
            body.bytes(&[table.family(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            if interface != 0 {
                body.u32(NDA_IFINDEX, interface);
            }
        };
        let request = Request { action: &"list neighbours", kind: RTM_GETNEIGH, flags: 0, body: &body };
        let mut neighbours = self.socket.dump(&request, |message| decode(&message))?;
        neighbours.retain(|entry| (interface == 0 || entry.interface == interface) && entry.table == table);
        neighbours.sort();
        Ok(neighbours)
    }

    /// Adds or replaces an entry.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn replace_neighbour(&mut self, neighbour: &Neighbour) -> Result<(), NetlinkError> {
        let body = |body: &mut Body<'_>| neighbour.encode(body);
        let action = format_args!("set {neighbour}");
        self.socket.acknowledged(&Request {
            action: &action,
            kind: RTM_NEWNEIGH,
            flags: flags::CREATE | flags::REPLACE,
            body: &body,
        })
    }

    /// Deletes an entry. False when there was none.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn delete_neighbour(&mut self, neighbour: &Neighbour) -> Result<bool, NetlinkError> {
        let body = |body: &mut Body<'_>| neighbour.encode(body);
        let action = format_args!("delete {neighbour}");
        let request = Request { action: &action, kind: RTM_DELNEIGH, flags: 0, body: &body };
        match self.socket.acknowledged(&request) {
            Err(error) if error.is_absent() => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Sets (`true`) and deletes (`false`) many entries. One result per entry: `None` for success.
    ///
    /// # Errors
    /// Only for the socket itself.
    pub fn change_neighbours<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (bool, &'a Neighbour)>,
    ) -> Result<Vec<Option<Refusal>>, NetlinkError> {
        let steps = changes.into_iter().map(|(set, neighbour)| {
            let (kind, flags) =
                if set { (RTM_NEWNEIGH, flags::CREATE | flags::REPLACE) } else { (RTM_DELNEIGH, 0) };
            Step { kind, flags, body: move |body: &mut Body<'_>| neighbour.encode(body) }
        });
        let mut results = self.socket.pipeline(steps)?;
        for result in &mut results {
            if result.as_ref().is_some_and(|refusal| refusal.errno == libc::ENOENT) {
                *result = None;
            }
        }
        Ok(results)
    }
}
