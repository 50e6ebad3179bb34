//! Addresses for a node's tunnel devices: keep, take, move or give back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::assign::{AutoAssignArgs, FamilyRequest};
use crate::assign_ip::AssignIpArgs;
use crate::attribute::Attribute;
use crate::pools::{IntendedUse, Labels, Pool};
use crate::range::Family;

/// A tunnel device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tunnel {
    /// WireGuard over IPv4.
    Wireguard,
    /// WireGuard over IPv6.
    WireguardV6,
    /// IP in IP.
    Ipip,
    /// VXLAN over IPv4.
    Vxlan,
    /// VXLAN over IPv6.
    VxlanV6,
}

impl Tunnel {
    /// All of them, in the order in which a node takes their addresses.
    pub const ALL: [Self; 5] = [Self::Wireguard, Self::WireguardV6, Self::Ipip, Self::Vxlan, Self::VxlanV6];

    /// The family of its address.
    #[must_use]
    pub fn family(self) -> Family {
        match self {
            Self::Wireguard | Self::Ipip | Self::Vxlan => Family::V4,
            Self::WireguardV6 | Self::VxlanV6 => Family::V6,
        }
    }

    /// The `type` attribute of its address.
    #[must_use]
    pub fn attribute(self) -> &'static str {
        match self {
            Self::Wireguard => "wireguardTunnelAddress",
            Self::WireguardV6 => "wireguardV6TunnelAddress",
            Self::Ipip => "ipipTunnelAddress",
            Self::Vxlan => "vxlanTunnelAddress",
            Self::VxlanV6 => "vxlanV6TunnelAddress",
        }
    }

    /// The handle of its address.
    ///
    /// ```
    /// assert_eq!(calico_ipam::Tunnel::VxlanV6.handle("n1"), "vxlan-v6-tunnel-addr-n1");
    /// ```
    #[must_use]
    pub fn handle(self, node: &str) -> String {
        let prefix = match self {
            Self::Wireguard => "wireguard-tunnel-addr",
            Self::WireguardV6 => "wireguard-v6-tunnel-addr",
            Self::Ipip => "ipip-tunnel-addr",
            Self::Vxlan => "vxlan-tunnel-addr",
            Self::VxlanV6 => "vxlan-v6-tunnel-addr",
        };
        format!("{prefix}-{node}")
    }

    fn needed_by(self, pool: &Pool) -> bool {
        match self {
            Self::Wireguard | Self::WireguardV6 => true,
            Self::Ipip => pool.encapsulation.ipip,
            Self::Vxlan | Self::VxlanV6 => pool.encapsulation.vxlan,
        }
    }
}

/// What the datastore says about the address a node has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// It is not assigned, or lies in no enabled pool.
    Nobody,
    /// It is assigned with these attributes.
    Somebody(Arc<Attribute>),
}

/// What a node knows when it looks after one tunnel.
#[derive(Debug, Clone)]
pub struct TunnelState<'a> {
    /// The node.
    pub node: &'a str,
    /// Its labels.
    pub labels: &'a Labels,
    /// All pools.
    pub pools: &'a [Arc<Pool>],
    /// Whether the device is wanted at all: WireGuard needs the node's public key and no host
    /// encryption; the others are always wanted.
    pub wanted: bool,
    /// The address in the node object.
    pub current: Option<IpAddr>,
    /// Who holds it.
    pub holder: Holder,
}

/// What to do about one tunnel address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelAction {
    /// Nothing.
    Keep,
    /// Release the handle and clear the field of the node.
    Clear {
        /// The handle.
        handle: String,
    },
    /// Release the handle if given, assign an address and write it to the node.
    Assign {
        /// The handle to release first.
        release: Option<String>,
        /// The request.
        args: Box<AutoAssignArgs>,
    },
    /// The address is held without a handle, by an old version: release it by name and assign
    /// the same one again with a handle.
    Adopt {
        /// The address.
        address: IpAddr,
        /// The request.
        args: Box<AssignIpArgs>,
    },
}

/// Decides about one tunnel address. If writing the node fails afterwards, the caller releases
/// a newly assigned address again.
#[must_use]
pub fn tunnel_address(tunnel: Tunnel, state: &TunnelState<'_>) -> TunnelAction {
    let handle = tunnel.handle(state.node);
    let candidates: Vec<&Arc<Pool>> = state
        .pools
        .iter()
        .filter(|pool| {
            pool.family() == tunnel.family()
                && pool.enabled
                && pool.allows(IntendedUse::Tunnel)
                && pool.nodes.matches(state.labels)
                && tunnel.needed_by(pool)
        })
        .collect();
    if candidates.is_empty() || !state.wanted {
        return TunnelAction::Clear { handle };
    }
    let attributes = BTreeMap::from([
        ("node".to_owned(), state.node.to_owned()),
        ("type".to_owned(), tunnel.attribute().to_owned()),
    ]);
    let assign = |release: Option<String>| {
        let request = FamilyRequest {
            count: 1,
            pools: candidates.iter().map(|pool| pool.cidr).collect(),
            ..FamilyRequest::default()
        };
        let mut args = AutoAssignArgs::workload(state.node, &handle, 0, 0);
        args.intended_use = Some(IntendedUse::Tunnel);
        args.attributes.clone_from(&attributes);
        match tunnel.family() {
            Family::V4 => args.v4 = request,
            Family::V6 => args.v6 = request,
        }
        TunnelAction::Assign { release, args: Box::new(args) }
    };
    let (Some(address), Holder::Somebody(holder)) = (state.current, &state.holder) else {
        // The field and the store may disagree after a crash: whatever the handle holds goes.
        return assign(Some(handle.clone()));
    };
    let inside = candidates.iter().any(|pool| pool.cidr.contains(&address));
    let ours = holder.active.get("type").map(String::as_str) == Some(tunnel.attribute())
        && holder.active.get("node").map(String::as_str) == Some(state.node);
    if ours {
        return if inside { TunnelAction::Keep } else { assign(Some(handle.clone())) };
    }
    if holder.handle.is_none() && holder.active.is_empty() {
        let mut args = AssignIpArgs::new(address, state.node, &handle);
        args.attributes = attributes;
        args.intended_use = Some(IntendedUse::Tunnel);
        return TunnelAction::Adopt { address, args: Box::new(args) };
    }
    // It is somebody else's by now: leave it to them.
    assign(None)
}
