//! Network interfaces.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::error::{DecodeError, NetlinkError};
use super::mac::MacAddr;
use super::socket::{Request, Step};
use super::wire::{Attributes, Body, Message, flags, u16_at, u32_at};
use super::{RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, Rtnetlink};

/// Length of `struct ifinfomsg`.
pub(super) const IFINFOMSG: usize = 16;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;

const IFF_UP: u32 = 0x1;
const IFF_RUNNING: u32 = 0x40;
const IFF_LOOPBACK: u32 = 0x8;
const ARPHRD_ETHER: u16 = 1;

/// An interface as the kernel reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Index, unique within the namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// `IFF_*`.
    pub flags: u32,
    /// Hardware type (`ARPHRD_*`).
    pub hardware: u16,
    /// Ethernet address, if it is an Ethernet-like interface.
    pub mac: Option<MacAddr>,
    /// MTU.
    pub mtu: u32,
    /// Index of the bridge, bond or VRF that it belongs to.
    pub master: Option<u32>,
    /// Index of the other end (veth) or of the device underneath (VLAN, VXLAN); in the namespace
    /// [`Self::peer_namespace`] when that is set.
    pub parent: Option<u32>,
    /// Identifier of the other namespace when [`Self::parent`] is not in this one.
    pub peer_namespace: Option<i32>,
    /// `veth`, `vxlan`, `bridge`, …; `None` for physical and loopback devices.
    pub kind: Option<String>,
    /// Description.
    pub alias: Option<String>,
    /// Alternative names.
    pub alternative_names: Vec<String>,
    /// RFC 2863 operational state: 6 is up, 0 unknown.
    pub operational: u8,
    /// What is special about a VXLAN device.
    pub vxlan: Option<Vxlan>,
}

impl Link {
    /// Administratively up.
    pub fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    /// Administratively and operationally up: packets can leave.
    pub fn is_running(&self) -> bool {
        self.flags & IFF_RUNNING != 0 && self.is_up()
    }

    /// The loopback interface.
    pub fn is_loopback(&self) -> bool {
        self.flags & IFF_LOOPBACK != 0
    }
}

/// What a VXLAN device is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vxlan {
    /// Network identifier.
    pub vni: u32,
    /// UDP port of the other side.
    pub port: u16,
    /// Source address of the outer packets.
    pub local: Option<IpAddr>,
    /// Index of the device underneath.
    pub parent: Option<u32>,
    /// Learn forwarding entries from traffic; Calico programs them instead.
    pub learning: bool,
    /// Tunnel parameters come from the route or a program, not from the device.
    pub flow_based: bool,
    /// Group policy extension.
    pub group_policy: bool,
    /// A multicast group or default remote is set (never by us).
    pub group: Option<IpAddr>,
    /// Report unknown MACs to user space.
    pub l2_miss: bool,
}

/// The other end of a veth pair.
#[derive(Debug, Clone, Default)]
pub struct Peer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace; `None` leaves it here.
    pub namespace: Option<BorrowedFd<'a>>,
    /// Its Ethernet address; `None` for a random one.
    pub mac: Option<MacAddr>,
}

/// What to create.
#[derive(Debug, Clone)]
pub enum NewKind<'a> {
    /// A pair of connected interfaces, both ends complete in one message.
    Veth(Peer<'a>),
    /// A bridge.
    Bridge,
    /// A dummy interface.
    Dummy,
    /// An intermediate functional block, for shaping ingress.
    Ifb,
    /// A VXLAN device.
    Vxlan(Vxlan),
    /// An IP-in-IP device.
    IpIp {
        /// Source of the outer packets.
        local: Option<IpAddr>,
    },
    /// A WireGuard device.
    WireGuard,
}

impl NewKind<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Veth(_) => "veth",
            Self::Bridge => "bridge",
            Self::Dummy => "dummy",
            Self::Ifb => "ifb",
            Self::Vxlan(_) => "vxlan",
            Self::IpIp { .. } => "ipip",
            Self::WireGuard => "wireguard",
        }
    }
}

/// An interface to create.
#[derive(Debug, Clone)]
pub struct NewLink<'a> {
    /// Name.
    pub name: &'a str,
    /// Kind.
    pub kind: NewKind<'a>,
    /// Ethernet address; `None` for a random one.
    pub mac: Option<MacAddr>,
    /// MTU, of both ends of a pair; `None` for the kind's default.
    pub mtu: Option<u32>,
    /// Transmit and receive queues, of both ends of a pair; `None` for the kind's default.
    pub queues: Option<u32>,
    /// Set it up at once.
    pub up: bool,
}

impl<'a> NewLink<'a> {
    /// An interface with defaults.
    pub fn new(name: &'a str, kind: NewKind<'a>) -> Self {
        Self { name, kind, mac: None, mtu: None, queues: None, up: false }
    }
}

/// A change to an existing interface.
#[derive(Debug, Clone)]
pub enum LinkChange<'a> {
    /// Administratively up.
    Up,
    /// Administratively down.
    Down,
    /// New MTU.
    Mtu(u32),
    /// New Ethernet address.
    Mac(MacAddr),
    /// Into a bridge, or out of it with `None`.
    Master(Option<u32>),
    /// New name; the kernel wants the interface down.
    Name(&'a str),
    /// New description.
    Alias(&'a str),
    /// Into another namespace.
    Namespace(BorrowedFd<'a>),
}

fn header(body: &mut Body<'_>, index: u32, flags: u32, change: u32) {
    let mut bytes = [0; IFINFOMSG];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    body.bytes(&bytes);
}

fn properties(body: &mut Body<'_>, mac: Option<MacAddr>, mtu: Option<u32>, queues: Option<u32>) {
    if let Some(mac) = mac {
        body.attribute(IFLA_ADDRESS, &mac.0);
    }
    if let Some(mtu) = mtu {
        body.u32(IFLA_MTU, mtu);
    }
    if let Some(queues) = queues {
        body.u32(IFLA_NUM_TX_QUEUES, queues);
        body.u32(IFLA_NUM_RX_QUEUES, queues);
    }
}

pub(super) fn encode_new(new: &NewLink<'_>, body: &mut Body<'_>) {
    let flags = if new.up { IFF_UP } else { 0 };
    header(body, 0, flags, flags);
    body.text(IFLA_IFNAME, new.name);
    properties(body, new.mac, new.mtu, new.queues);
    body.nested(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, new.kind.name());
        match &new.kind {
            NewKind::Veth(peer) => info.nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |end| {
                    header(end, 0, 0, 0);
                    end.text(IFLA_IFNAME, peer.name);
                    properties(end, peer.mac, new.mtu, new.queues);
                    if let Some(namespace) = peer.namespace {
                        end.u32(IFLA_NET_NS_FD, namespace.as_raw_fd() as u32);
                    }
                });
            }),
            NewKind::Vxlan(vxlan) => info.nested(IFLA_INFO_DATA, |data| vxlan.encode(data)),
            NewKind::IpIp { local } => info.nested(IFLA_INFO_DATA, |data| {
                if let Some(local) = local {
                    data.ip(2, *local);
                }
            }),
            NewKind::Bridge | NewKind::Dummy | NewKind::Ifb | NewKind::WireGuard => {}
        }
    });
}

impl Vxlan {
    fn encode(&self, data: &mut Body<'_>) {
        data.u32(1, self.vni);
        if let Some(group) = self.group {
            data.ip(if group.is_ipv4() { 2 } else { 16 }, group);
        }
        if let Some(parent) = self.parent {
            data.u32(3, parent);
        }
        if let Some(local) = self.local {
            data.ip(if local.is_ipv4() { 4 } else { 17 }, local);
        }
        data.u8(7, self.learning.into());
        if self.l2_miss {
            data.u8(13, 1);
        }
        data.be16(15, self.port);
        if self.group_policy {
            data.flag(23);
        }
        if self.flow_based {
            data.u8(25, 1);
        }
    }

    fn decode(attributes: Attributes<'_>) -> Result<Self, DecodeError> {
        let mut vxlan = Self::default();
        for attribute in attributes {
            let attribute = attribute?;
            match attribute.kind {
                1 => vxlan.vni = attribute.u32()?,
                2 | 16 => vxlan.group = Some(attribute.ip()?).filter(|ip| !ip.is_unspecified()),
                3 => vxlan.parent = Some(attribute.u32()?).filter(|index| *index != 0),
                4 | 17 => vxlan.local = Some(attribute.ip()?).filter(|ip| !ip.is_unspecified()),
                7 => vxlan.learning = attribute.u8()? != 0,
                13 => vxlan.l2_miss = attribute.u8()? != 0,
                15 => vxlan.port = attribute.be16()?,
                23 => vxlan.group_policy = true,
                25 => vxlan.flow_based = attribute.u8()? != 0,
                _ => {}
            }
        }
        Ok(vxlan)
    }
}

/// Reads an `RTM_NEWLINK` or `RTM_DELLINK`.
///
/// # Errors
/// [`DecodeError`] when the message or one of the attributes that we use is too short.
pub fn decode(message: &Message<'_>) -> Result<Link, DecodeError> {
    let fixed = message.fixed::<IFINFOMSG>()?;
    let mut link = Link {
        index: u32_at(fixed, 4),
        hardware: u16_at(fixed, 2),
        flags: u32_at(fixed, 8),
        ..Link::default()
    };
    for attribute in message.attributes(IFINFOMSG) {
        let attribute = attribute?;
        match attribute.kind {
            IFLA_ADDRESS if link.hardware == ARPHRD_ETHER => {
                link.mac = attribute.value.first_chunk().copied().map(MacAddr);
            }
            IFLA_IFNAME => link.name = attribute.text().into_owned(),
            IFLA_MTU => link.mtu = attribute.u32()?,
            IFLA_LINK => link.parent = Some(attribute.u32()?).filter(|index| *index != 0),
            IFLA_MASTER => link.master = Some(attribute.u32()?).filter(|index| *index != 0),
            IFLA_OPERSTATE => link.operational = attribute.u8()?,
            IFLA_IFALIAS => link.alias = Some(attribute.text().into_owned()),
            IFLA_LINK_NETNSID => link.peer_namespace = Some(attribute.u32()? as i32),
            IFLA_PROP_LIST => {
                for property in attribute.nested() {
                    let property = property?;
                    if property.kind == IFLA_ALT_IFNAME {
                        link.alternative_names.push(property.text().into_owned());
                    }
                }
            }
            IFLA_LINKINFO => decode_info(attribute.nested(), &mut link)?,
            _ => {}
        }
    }
    Ok(link)
}

fn decode_info(attributes: Attributes<'_>, link: &mut Link) -> Result<(), DecodeError> {
    for attribute in attributes {
        let attribute = attribute?;
        match attribute.kind {
            IFLA_INFO_KIND => link.kind = Some(attribute.text().into_owned()),
            IFLA_INFO_DATA if link.kind.as_deref() == Some("vxlan") => {
                link.vxlan = Some(Vxlan::decode(attribute.nested())?);
            }
            _ => {}
        }
    }
    Ok(())
}

impl Rtnetlink {
    /// All interfaces of the namespace, by index.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let body = |body: &mut Body<'_>| {
            header(body, 0, 0, 0);
            body.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        };
        let request = Request { action: &"list interfaces", kind: RTM_GETLINK, flags: 0, body: &body };
        let mut links = self.socket.dump(&request, |message| decode(&message).map(Some))?;
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The interface with this name.
    ///
    /// # Errors
    /// [`NetlinkError`], with [`NetlinkError::is_absent`] when there is none.
    pub fn link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let body = |body: &mut Body<'_>| {
            header(body, 0, 0, 0);
            body.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
            body.text(IFLA_IFNAME, name);
        };
        let action = format_args!("read interface {name}");
        let request = Request { action: &action, kind: RTM_GETLINK, flags: 0, body: &body };
        self.socket.single(&request, |message| decode(&message))
    }

    /// The interface with this index.
    ///
    /// # Errors
    /// As [`Self::link`].
    pub fn link_by_index(&mut self, index: u32) -> Result<Link, NetlinkError> {
        let body = |body: &mut Body<'_>| {
            header(body, index, 0, 0);
            body.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        };
        let action = format_args!("read interface with index {index}");
        let request = Request { action: &action, kind: RTM_GETLINK, flags: 0, body: &body };
        self.socket.single(&request, |message| decode(&message))
    }

    /// Creates an interface; a pair with both its ends, wherever they are to be.
    ///
    /// # Errors
    /// [`NetlinkError`]: present when the name is taken; `EOPNOTSUPP` when the kernel lacks the kind.
    pub fn create_link(&mut self, new: &NewLink<'_>) -> Result<(), NetlinkError> {
        let body = |body: &mut Body<'_>| encode_new(new, body);
        let action = format_args!("create {} interface {}", new.kind.name(), new.name);
        self.socket.acknowledged(&Request {
            action: &action,
            kind: RTM_NEWLINK,
            flags: flags::CREATE | flags::EXCL,
            body: &body,
        })
    }

    /// Changes an interface.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<(), NetlinkError> {
        let body = |body: &mut Body<'_>| encode_change(index, change, body);
        let action = format_args!("set interface with index {index} to {change:?}");
        self.socket.acknowledged(&Request { action: &action, kind: RTM_NEWLINK, flags: 0, body: &body })
    }

    /// Deletes an interface (and with it the other end of a pair).
    ///
    /// # Errors
    /// [`NetlinkError`], absent when it is gone already.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let body = |body: &mut Body<'_>| header(body, index, 0, 0);
        let action = format_args!("delete interface with index {index}");
        self.socket.acknowledged(&Request { action: &action, kind: RTM_DELLINK, flags: 0, body: &body })
    }

    /// Deletes an interface by name. False when there is none.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn delete_link_by_name(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let body = |body: &mut Body<'_>| {
            header(body, 0, 0, 0);
            body.text(IFLA_IFNAME, name);
        };
        let action = format_args!("delete interface {name}");
        let request = Request { action: &action, kind: RTM_DELLINK, flags: 0, body: &body };
        match self.socket.acknowledged(&request) {
            Err(error) if error.is_absent() => Ok(false),
            other => other.map(|()| true),
        }
    }
}

fn encode_change(index: u32, change: &LinkChange<'_>, body: &mut Body<'_>) {
    match change {
        LinkChange::Up => header(body, index, IFF_UP, IFF_UP),
        LinkChange::Down => header(body, index, 0, IFF_UP),
        _ => header(body, index, 0, 0),
    }
    match change {
        LinkChange::Up | LinkChange::Down => {}
        LinkChange::Mtu(mtu) => body.u32(IFLA_MTU, *mtu),
        LinkChange::Mac(mac) => body.attribute(IFLA_ADDRESS, &mac.0),
        LinkChange::Master(master) => body.u32(IFLA_MASTER, master.unwrap_or(0)),
        LinkChange::Name(name) => body.text(IFLA_IFNAME, name),
        LinkChange::Alias(alias) => body.attribute(IFLA_IFALIAS, alias.as_bytes()),
        LinkChange::Namespace(namespace) => body.u32(IFLA_NET_NS_FD, namespace.as_raw_fd() as u32),
    }
}

/// A change of one interface as a step of a pipeline.
pub fn change_step(index: u32, change: LinkChange<'_>) -> Step<impl FnOnce(&mut Body<'_>)> {
    Step { kind: RTM_NEWLINK, flags: 0, body: move |body: &mut Body<'_>| encode_change(index, &change, body) }
}
