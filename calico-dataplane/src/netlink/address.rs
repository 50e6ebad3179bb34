//! Interface addresses.

use ipnet::IpNet;

use super::error::{DecodeError, NetlinkError};
use super::route::Family;
use super::socket::Request;
use super::wire::{Body, Message, flags, u32_at};
use super::{RTM_DELADDR, RTM_GETADDR, RTM_NEWADDR, Rtnetlink};

const IFADDRMSG: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection.
const IFA_F_NODAD: u32 = 0x2;

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Interface index.
    pub interface: u32,
    /// The address with its prefix length, host bits kept.
    pub net: IpNet,
    /// Scope: 0 universe, 253 link, 254 host.
    pub scope: u8,
    /// `IFA_F_*`.
    pub flags: u32,
}

impl Address {
    /// A global address. IPv6 addresses skip duplicate address detection: Calico's are unique by allocation, and an
    /// address under detection cannot be used yet.
    pub fn new(interface: u32, net: IpNet) -> Self {
        let flags = if net.addr().is_ipv6() { IFA_F_NODAD } else { 0 };
        Self { interface, net, scope: 0, flags }
    }

    fn encode(&self, body: &mut Body<'_>) {
        let family = Family::of(self.net.addr());
        body.bytes(&[family.number(), self.net.prefix_len(), 0, self.scope]);
        body.bytes(&self.interface.to_ne_bytes());
        body.ip(IFA_LOCAL, self.net.addr());
        body.ip(IFA_ADDRESS, self.net.addr());
        if let IpNet::V4(net) = self.net
            && net.prefix_len() < 31
        {
            body.ip(IFA_BROADCAST, net.broadcast().into());
        }
        if self.flags != 0 {
            body.u32(IFA_FLAGS, self.flags);
        }
    }
}

/// Reads an `RTM_NEWADDR` or `RTM_DELADDR`; `None` for a family other than IPv4 and IPv6.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(message: &Message<'_>) -> Result<Option<Address>, DecodeError> {
    let fixed = message.fixed::<IFADDRMSG>()?;
    let [family, length, short_flags, scope, ..] = *fixed;
    if Family::from_number(family).is_none() {
        return Ok(None);
    }
    let (mut local, mut address, mut flags) = (None, None, u32::from(short_flags));
    for attribute in message.attributes(IFADDRMSG) {
        let attribute = attribute?;
        match attribute.kind {
            IFA_LOCAL => local = Some(attribute.ip()?),
            IFA_ADDRESS => address = Some(attribute.ip()?),
            IFA_FLAGS => flags = attribute.u32()?,
            _ => {}
        }
    }
    // On a point-to-point interface IFA_ADDRESS is the other end.
    let Some(ip) = local.or(address) else { return Ok(None) };
    let net = IpNet::new(ip, length).map_err(|_| DecodeError::Prefix { family, length })?;
    Ok(Some(Address { interface: u32_at(fixed, 4), net, scope, flags }))
}

impl Rtnetlink {
    /// All addresses of the namespace, sorted.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        self.dump_addresses(0)
    }

    /// The addresses of one interface, sorted.
    ///
    /// # Errors
    /// [`NetlinkError`]; absent when there is no such interface.
    pub fn addresses_of(&mut self, interface: u32) -> Result<Vec<Address>, NetlinkError> {
        self.dump_addresses(interface)
    }

    fn dump_addresses(&mut self, interface: u32) -> Result<Vec<Address>, NetlinkError> {
        let body = |body: &mut Body<'_>| {
            body.bytes(&[0; 4]);
            body.bytes(&interface.to_ne_bytes());
        };
        let request = Request { action: &"list addresses", kind: RTM_GETADDR, flags: 0, body: &body };
        let mut addresses = self.socket.dump(&request, |message| decode(&message))?;
        // A kernel without strict checking ignores the filter.
        addresses.retain(|address| interface == 0 || address.interface == interface);
        addresses.sort();
        Ok(addresses)
    }

    /// Adds an address, or refreshes it when it is there.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn add_address(&mut self, address: &Address) -> Result<(), NetlinkError> {
        let body = |body: &mut Body<'_>| address.encode(body);
        let action =
            format_args!("add address {} to interface with index {}", address.net, address.interface);
        self.socket.acknowledged(&Request {
            action: &action,
            kind: RTM_NEWADDR,
            flags: flags::CREATE | flags::REPLACE,
            body: &body,
        })
    }

    /// Removes an address. False when it was not there.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn delete_address(&mut self, address: &Address) -> Result<bool, NetlinkError> {
        let body = |body: &mut Body<'_>| address.encode(body);
        let action =
            format_args!("remove address {} from interface with index {}", address.net, address.interface);
        let request = Request { action: &action, kind: RTM_DELADDR, flags: 0, body: &body };
        match self.socket.acknowledged(&request) {
            Err(error) if error.is_absent() => Ok(false),
            other => other.map(|()| true),
        }
    }
}
