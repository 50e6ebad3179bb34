//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use smallvec::SmallVec;

use super::error::{DecodeError, NetlinkError, Refusal};
use super::socket::{Request, Step};
use super::wire::{Attributes, Body, Message, flags, u16_at, u32_at};
use super::{RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE, Rtnetlink};

const RTMSG: usize = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const RTNH_F_ONLINK: u8 = 4;
const RTM_F_CLONED: u32 = 0x200;

/// The metric that IPv6 gives a route that was added with none.
pub const IPV6_DEFAULT_PRIORITY: u32 = 1024;

/// An address family with routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `AF_INET` or `AF_INET6`.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => libc::AF_INET as u8,
            Self::V6 => libc::AF_INET6 as u8,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        match i32::from(number) {
            libc::AF_INET => Some(Self::V4),
            libc::AF_INET6 => Some(Self::V6),
            _ => None,
        }
    }

    fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

/// Who put a route there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteProtocol(pub u8);

impl RouteProtocol {
    /// Any, in a deletion.
    pub const UNSPEC: Self = Self(0);
    /// The kernel itself.
    pub const KERNEL: Self = Self(2);
    /// Nobody in particular: what `ip route add` uses.
    pub const BOOT: Self = Self(3);
    /// The administrator.
    pub const STATIC: Self = Self(4);
    /// BGP routes, as Calico's BIRD marks them.
    pub const BIRD: Self = Self(12);
    /// The agent's own routes.
    pub const CALICO: Self = Self(80);
}

/// What happens to a packet that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// Sent to a next hop.
    Unicast,
    /// Delivered here.
    Local,
    /// Dropped silently.
    Blackhole,
    /// Dropped with "host unreachable".
    Unreachable,
    /// Dropped with "administratively prohibited".
    Prohibit,
    /// The lookup goes on in the next table.
    Throw,
    /// Another `RTN_*`.
    Other(u8),
}

impl RouteKind {
    fn number(self) -> u8 {
        match self {
            Self::Unicast => 1,
            Self::Local => 2,
            Self::Blackhole => 6,
            Self::Unreachable => 7,
            Self::Prohibit => 8,
            Self::Throw => 9,
            Self::Other(number) => number,
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Unicast,
            2 => Self::Local,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            8 => Self::Prohibit,
            9 => Self::Throw,
            other => Self::Other(other),
        }
    }

    /// True for the kinds that need a device.
    pub fn has_device(self) -> bool {
        !matches!(self, Self::Blackhole | Self::Unreachable | Self::Prohibit | Self::Throw)
    }
}

/// How far away the destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(pub u8);

impl Scope {
    /// Anywhere, through a gateway.
    pub const UNIVERSE: Self = Self(0);
    /// Directly attached.
    pub const LINK: Self = Self(253);
    /// This machine.
    pub const HOST: Self = Self(254);
    /// Any, in a deletion.
    pub const NOWHERE: Self = Self(255);
}

/// One way to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// Gateway; `None` for a directly attached destination.
    pub via: Option<IpAddr>,
    /// Interface index; 0 lets the kernel choose by the gateway.
    pub interface: u32,
    /// Share of the traffic, 1 to 256.
    pub weight: u16,
    /// The gateway is reachable on the interface although no route says so.
    pub onlink: bool,
}

impl NextHop {
    /// Straight out of an interface.
    pub fn device(interface: u32) -> Self {
        Self { via: None, interface, weight: 1, onlink: false }
    }

    /// Through a gateway.
    pub fn via(gateway: IpAddr, interface: u32) -> Self {
        Self { via: Some(gateway), interface, weight: 1, onlink: false }
    }
}

/// What identifies a route in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// Routing table.
    pub table: u32,
    /// Destination.
    pub dst: IpNet,
    /// Type of service (IPv4).
    pub tos: u8,
    /// Metric; lower wins.
    pub priority: u32,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Destination, masked.
    pub dst: IpNet,
    /// Routing table.
    pub table: u32,
    /// Metric; lower wins.
    pub priority: u32,
    /// Type of service (IPv4).
    pub tos: u8,
    /// What happens to matching packets.
    pub kind: RouteKind,
    /// Who put it there.
    pub protocol: RouteProtocol,
    /// Distance.
    pub scope: Scope,
    /// Source address for packets of this machine.
    pub source: Option<IpAddr>,
    /// Path MTU.
    pub mtu: Option<u32>,
    /// Where packets go: one for most, several for equal-cost routes, none for blackholes and their like.
    pub nexthops: SmallVec<[NextHop; 1]>,
}

/// The main routing table.
pub const MAIN_TABLE: u32 = 254;

impl Route {
    fn new(dst: IpNet, kind: RouteKind, scope: Scope, protocol: RouteProtocol) -> Self {
        Self {
            dst: dst.trunc(),
            table: MAIN_TABLE,
            priority: 0,
            tos: 0,
            kind,
            protocol,
            scope,
            source: None,
            mtu: None,
            nexthops: SmallVec::new(),
        }
    }

    /// A directly attached destination.
    pub fn device(dst: IpNet, interface: u32, protocol: RouteProtocol) -> Self {
        let mut route = Self::new(dst, RouteKind::Unicast, Scope::LINK, protocol);
        route.nexthops.push(NextHop::device(interface));
        route
    }

    /// A destination behind one or more gateways.
    pub fn via(dst: IpNet, nexthops: impl IntoIterator<Item = NextHop>, protocol: RouteProtocol) -> Self {
        let mut route = Self::new(dst, RouteKind::Unicast, Scope::UNIVERSE, protocol);
        route.nexthops.extend(nexthops);
        route
    }

    /// A destination whose packets are dropped.
    pub fn blackhole(dst: IpNet, protocol: RouteProtocol) -> Self {
        Self::new(dst, RouteKind::Blackhole, Scope::UNIVERSE, protocol)
    }

    /// Its identity in the kernel.
    pub fn key(&self) -> RouteKey {
        RouteKey { table: self.table, dst: self.dst, tos: self.tos, priority: self.priority }
    }

    /// The form in which the kernel reports what was asked for: IPv6 has no scope, gives metric 1024 to routes
    /// without one, and hangs blackholes on the loopback; next hops are sorted. Compare only this form.
    #[must_use]
    pub fn canonical(mut self) -> Self {
        if self.dst.addr().is_ipv6() {
            self.scope = Scope::UNIVERSE;
            self.tos = 0;
            if self.priority == 0 {
                self.priority = IPV6_DEFAULT_PRIORITY;
            }
        }
        if !self.kind.has_device() {
            self.nexthops.clear();
        }
        if self.nexthops.len() > 1 {
            self.nexthops.sort();
        } else if let [only] = self.nexthops.as_mut_slice() {
            only.weight = 1;
        }
        self
    }

    /// The interface when there is exactly one.
    pub fn interface(&self) -> Option<u32> {
        match self.nexthops.as_slice() {
            [only] if only.interface != 0 => Some(only.interface),
            _ => None,
        }
    }

    fn encode(&self, body: &mut Body<'_>) {
        let family = Family::of(self.dst.addr());
        let onlink = matches!(self.nexthops.as_slice(), [only] if only.onlink);
        let short_table = u8::try_from(self.table).unwrap_or(0);
        body.bytes(&[
            family.number(),
            self.dst.prefix_len(),
            0,
            self.tos,
            short_table,
            self.protocol.0,
            self.scope.0,
            self.kind.number(),
        ]);
        body.bytes(&(if onlink { u32::from(RTNH_F_ONLINK) } else { 0 }).to_ne_bytes());
        body.ip(RTA_DST, self.dst.addr());
        body.u32(RTA_TABLE, self.table);
        if self.priority != 0 {
            body.u32(RTA_PRIORITY, self.priority);
        }
        if let Some(source) = self.source {
            body.ip(RTA_PREFSRC, source);
        }
        if let Some(mtu) = self.mtu {
            body.nested(RTA_METRICS, |metrics| metrics.u32(RTAX_MTU, mtu));
        }
        match self.nexthops.as_slice() {
            [] => {}
            [only] => {
                encode_gateway(family, only, body);
                if only.interface != 0 {
                    body.u32(RTA_OIF, only.interface);
                }
            }
            many => body.attribute_with(RTA_MULTIPATH, |list| {
                for hop in many {
                    encode_nexthop(family, hop, list);
                }
            }),
        }
    }
}

fn encode_gateway(family: Family, hop: &NextHop, body: &mut Body<'_>) {
    let Some(via) = hop.via else { return };
    if Family::of(via) == family {
        body.ip(RTA_GATEWAY, via);
    } else {
        // An IPv4 destination behind an IPv6 gateway (RFC 5549).
        body.attribute_with(RTA_VIA, |value| {
            value.bytes(&u16::from(Family::of(via).number()).to_ne_bytes());
            match via {
                IpAddr::V4(v4) => value.bytes(&v4.octets()),
                IpAddr::V6(v6) => value.bytes(&v6.octets()),
            }
        });
    }
}

/// `struct rtnexthop`: length, flags, weight - 1, interface; then attributes.
fn encode_nexthop(family: Family, hop: &NextHop, list: &mut Body<'_>) {
    let mut inner = super::wire::Encoder::new();
    inner.message(0, 0, 0, |body| encode_gateway(family, hop, body));
    let attributes = inner.as_bytes().get(super::wire::HEADER..).unwrap_or_default();
    let flags = if hop.onlink { RTNH_F_ONLINK } else { 0 };
    list.bytes(&((8 + attributes.len()) as u16).to_ne_bytes());
    list.bytes(&[flags, hop.weight.clamp(1, 256).saturating_sub(1) as u8]);
    list.bytes(&hop.interface.to_ne_bytes());
    list.bytes(attributes);
}

fn decode_via(value: &[u8]) -> Option<IpAddr> {
    let address = value.get(2..)?;
    match address.len() {
        4 => <[u8; 4]>::try_from(address).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(address).ok().map(IpAddr::from),
    }
}

fn decode_nexthops(mut bytes: &[u8]) -> Result<SmallVec<[NextHop; 1]>, DecodeError> {
    let mut hops = SmallVec::new();
    while let Some(header) = bytes.first_chunk::<8>() {
        let length = usize::from(u16_at(header, 0));
        let Some(attributes) = bytes.get(8..length) else {
            return Err(DecodeError::Attribute {
                attribute: RTA_MULTIPATH,
                need: length.max(8),
                have: bytes.len(),
            });
        };
        let mut hop = NextHop {
            via: None,
            interface: u32_at(header, 4),
            weight: u16::from(header[3]) + 1,
            onlink: header[2] & RTNH_F_ONLINK != 0,
        };
        for attribute in Attributes::new(attributes) {
            let attribute = attribute?;
            match attribute.kind {
                RTA_GATEWAY => hop.via = Some(attribute.ip()?),
                RTA_VIA => hop.via = decode_via(attribute.value),
                _ => {}
            }
        }
        hops.push(hop);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(hops)
}

/// Reads an `RTM_NEWROUTE` or `RTM_DELROUTE` into canonical form; `None` for other families and for routes that the
/// kernel cloned from ours (path MTU exceptions).
///
/// # Errors
/// [`DecodeError`].
pub fn decode(message: &Message<'_>) -> Result<Option<Route>, DecodeError> {
    let fixed = message.fixed::<RTMSG>()?;
    let [family, length, _, tos, table, protocol, scope, kind, ..] = *fixed;
    let Some(inet) = Family::from_number(family) else { return Ok(None) };
    let route_flags = u32_at(fixed, 8);
    if route_flags & RTM_F_CLONED != 0 {
        return Ok(None);
    }
    let mut dst = inet.unspecified();
    let mut hop =
        NextHop { via: None, interface: 0, weight: 1, onlink: route_flags as u8 & RTNH_F_ONLINK != 0 };
    let mut route =
        Route::new(IpNet::from(dst), RouteKind::from_number(kind), Scope(scope), RouteProtocol(protocol));
    route.tos = tos;
    route.table = table.into();
    for attribute in message.attributes(RTMSG) {
        let attribute = attribute?;
        match attribute.kind {
            RTA_DST => dst = attribute.ip()?,
            RTA_OIF => hop.interface = attribute.u32()?,
            RTA_GATEWAY => hop.via = Some(attribute.ip()?),
            RTA_VIA => hop.via = decode_via(attribute.value),
            RTA_PRIORITY => route.priority = attribute.u32()?,
            RTA_PREFSRC => route.source = Some(attribute.ip()?),
            RTA_TABLE => route.table = attribute.u32()?,
            RTA_MULTIPATH => route.nexthops = decode_nexthops(attribute.value)?,
            RTA_METRICS => {
                for metric in attribute.nested() {
                    let metric = metric?;
                    if metric.kind == RTAX_MTU {
                        route.mtu = Some(metric.u32()?);
                    }
                }
            }
            _ => {}
        }
    }
    if route.nexthops.is_empty() && (hop.via.is_some() || hop.interface != 0) {
        route.nexthops.push(hop);
    }
    route.dst = IpNet::new(dst, length).map_err(|_| DecodeError::Prefix { family, length })?.trunc();
    Ok(Some(route.canonical()))
}

/// Which routes to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteFilter {
    /// Family.
    pub family: Family,
    /// Table; `None` for all.
    pub table: Option<u32>,
    /// Protocol; `None` for all.
    pub protocol: Option<RouteProtocol>,
    /// Interface index; `None` for all.
    pub interface: Option<u32>,
}

impl RouteFilter {
    /// All routes of the main table of a family.
    pub fn main(family: Family) -> Self {
        Self { family, table: Some(MAIN_TABLE), protocol: None, interface: None }
    }

    fn accepts(&self, route: &Route) -> bool {
        self.table.is_none_or(|table| table == route.table)
            && self.protocol.is_none_or(|protocol| protocol == route.protocol)
            && self.interface.is_none_or(|index| route.nexthops.iter().any(|hop| hop.interface == index))
    }
}

/// One change to the kernel's routes.
#[derive(Debug, Clone, Copy)]
pub enum RouteChange<'a> {
    /// Add the route, or put it in the place of the one with the same key.
    Replace(&'a Route),
    /// Delete whatever has this key.
    Delete(&'a RouteKey),
}

fn encode_delete(key: &RouteKey, body: &mut Body<'_>) {
    let family = Family::of(key.dst.addr()).number();
    let short_table = u8::try_from(key.table).unwrap_or(0);
    // Protocol, scope and type as wildcards.
    body.bytes(&[family, key.dst.prefix_len(), 0, key.tos, short_table, 0, Scope::NOWHERE.0, 0]);
    body.bytes(&[0; 4]);
    body.ip(RTA_DST, key.dst.addr());
    body.u32(RTA_TABLE, key.table);
    if key.priority != 0 {
        body.u32(RTA_PRIORITY, key.priority);
    }
}

impl Rtnetlink {
    /// Routes, sorted by destination. The kernel filters, so asking for little costs little.
    ///
    /// # Errors
    /// [`NetlinkError`]. A table that does not exist is empty.
    pub fn routes(&mut self, filter: &RouteFilter) -> Result<Vec<Route>, NetlinkError> {
        let body = |body: &mut Body<'_>| {
            let protocol = filter.protocol.map_or(0, |protocol| protocol.0);
            body.bytes(&[filter.family.number(), 0, 0, 0, 0, protocol, 0, 0, 0, 0, 0, 0]);
            if let Some(table) = filter.table {
                body.u32(RTA_TABLE, table);
            }
            if let Some(interface) = filter.interface {
                body.u32(RTA_OIF, interface);
            }
        };
        let request = Request { action: &"list routes", kind: RTM_GETROUTE, flags: 0, body: &body };
        let routes =
            self.socket.dump(&request, |message| Ok(decode(&message)?.filter(|route| filter.accepts(route))));
        match routes {
            Ok(mut routes) => {
                routes.sort();
                Ok(routes)
            }
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Adds a route.
    ///
    /// # Errors
    /// [`NetlinkError`], present when a route with the same key exists.
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.write_route(route, "add route to", flags::CREATE | flags::EXCL)
    }

    /// Adds a route, or puts it in the place of the one with the same key.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn replace_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.write_route(route, "replace route to", flags::CREATE | flags::REPLACE)
    }

    fn write_route(&mut self, route: &Route, verb: &str, flags: u16) -> Result<(), NetlinkError> {
        let body = |body: &mut Body<'_>| route.encode(body);
        let action = format_args!("{verb} {}", route.dst);
        self.socket.acknowledged(&Request { action: &action, kind: RTM_NEWROUTE, flags, body: &body })
    }

    /// Deletes the route with this key. False when there was none.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn delete_route(&mut self, key: &RouteKey) -> Result<bool, NetlinkError> {
        let body = |body: &mut Body<'_>| encode_delete(key, body);
        let action = format_args!("delete route to {}", key.dst);
        let request = Request { action: &action, kind: RTM_DELROUTE, flags: 0, body: &body };
        match self.socket.acknowledged(&request) {
            Err(error) if error.is_absent() => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Makes many changes with few system calls. One entry per change: `None` for success. Deleting what is absent
    /// is success.
    ///
    /// # Errors
    /// Only for the socket itself.
    pub fn change_routes<'a>(
        &mut self,
        changes: impl IntoIterator<Item = RouteChange<'a>>,
    ) -> Result<Vec<Option<Refusal>>, NetlinkError> {
        let steps = changes.into_iter().map(|change| {
            let (kind, flags) = match change {
                RouteChange::Replace(_) => (RTM_NEWROUTE, flags::CREATE | flags::REPLACE),
                RouteChange::Delete(_) => (RTM_DELROUTE, 0),
            };
            Step { kind, flags, body: move |body: &mut Body<'_>| change.encode(body) }
        });
        let mut results = self.socket.pipeline(steps)?;
        for result in &mut results {
            if result.as_ref().is_some_and(|refusal| refusal.errno == libc::ESRCH) {
                *result = None;
            }
        }
        Ok(results)
    }
}

impl RouteChange<'_> {
    pub(super) fn encode(&self, body: &mut Body<'_>) {
        match self {
            Self::Replace(route) => route.encode(body),
            Self::Delete(key) => encode_delete(key, body),
        }
    }

    /// The destination, for messages.
    pub fn dst(&self) -> IpNet {
        match self {
            Self::Replace(route) => route.dst,
            Self::Delete(key) => key.dst,
        }
    }
}
