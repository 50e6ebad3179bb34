//! Netlink, spoken directly.
//!
//! The wire forms are our own: one encoder serves rtnetlink, nfnetlink and generic netlink, a decoder reads only what
//! is used and steps over the rest, and nothing of it changes with the releases of another crate. The rust-netlink
//! crates are the oracle in the tests.
//!
//! ```no_run
//! use calico_dataplane::netlink::{Family, Rtnetlink, route::RouteFilter, route_text};
//! let mut netlink = Rtnetlink::open()?;
//! let routes = netlink.routes(&RouteFilter::main(Family::V4))?;
//! let links = netlink.links()?;
//! print!("{}", route_text::table(&routes, &links));
//! # Ok::<(), calico_dataplane::netlink::NetlinkError>(())
//! ```

pub mod address;
pub mod conntrack;
pub mod error;
pub mod generic;
pub mod link;
pub mod mac;
pub mod monitor;
pub mod neighbour;
#[cfg(test)]
mod oracle;
pub mod route;
pub mod route_text;
pub mod rule;
pub mod socket;
pub mod wire;
pub mod wireguard;

pub use address::Address;
pub use conntrack::Conntrack;
pub use error::{DecodeError, NetlinkError, Refusal};
pub use generic::Generic;
pub use link::{Link, LinkChange, NewKind, NewLink, Peer};
pub use mac::MacAddr;
pub use monitor::{Event, Group, Monitor};
pub use neighbour::Neighbour;
pub use route::{
    Family, NextHop, Route, RouteChange, RouteFilter, RouteKey, RouteKind, RouteProtocol, Scope,
};
pub use rule::Rule;
pub use socket::{Protocol, Request, Socket, Step};

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_GETADDR: u16 = 22;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_GETROUTE: u16 = 26;
pub(crate) const RTM_NEWNEIGH: u16 = 28;
pub(crate) const RTM_DELNEIGH: u16 = 29;
pub(crate) const RTM_GETNEIGH: u16 = 30;
pub(crate) const RTM_NEWRULE: u16 = 32;
pub(crate) const RTM_DELRULE: u16 = 33;
pub(crate) const RTM_GETRULE: u16 = 34;

/// A connection to rtnetlink: links, addresses, routes, neighbours, rules of one network namespace.
#[derive(Debug)]
pub struct Rtnetlink {
    pub(crate) socket: Socket,
}

impl Rtnetlink {
    /// Opens it for the namespace of the calling thread. It stays there whichever thread uses it later.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        Socket::open(Protocol::Route).map(|socket| Self { socket })
    }

    /// The port of the socket: notifications of our own changes carry it.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// The socket underneath, for pipelines.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }
}
