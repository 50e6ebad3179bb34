//! What the graph reads from nodes: addresses, tunnel endpoints, WireGuard keys.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_model::Node;
use calico_model::resource::node::NodeAddressType;
use ipnet::IpNet;
use sha1::{Digest, Sha1};

use crate::changes::{HostMetadata, Vtep, WireguardPeer};
use crate::endpoints::{address, parse_mac};
use crate::ir::Family;
use crate::outbox::Outbox;

/// The addresses of a node, parsed once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    /// Address between nodes with its subnet, BGP address first, then internal, then external.
    pub(crate) v4: Option<IpNet>,
    pub(crate) v6: Option<IpNet>,
    /// Every listed address.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ipip: Option<IpAddr>,
    pub(crate) vxlan: [Option<IpAddr>; 2],
    pub(crate) wireguard: [Option<IpAddr>; 2],
}

impl NodeFacts {
    pub(crate) fn of(node: &Node) -> Self {
        let wireguard = node.spec.wireguard.as_ref();
        let bgp = [bgp_net(node, Family::V4), bgp_net(node, Family::V6)];
        let mut addresses: Vec<IpAddr> =
            node.spec.addresses.iter().filter_map(|entry| address(&entry.address)).collect();
        addresses.sort();
        addresses.dedup();
        let with_fallback = |family: Family| {
            if bgp.iter().any(Option::is_some) {
                bgp[usize::from(family == Family::V6)]
            } else {
                listed(node, family).map(IpNet::from)
            }
        };
        Self {
            v4: with_fallback(Family::V4),
            v6: with_fallback(Family::V6),
            addresses,
            ipip: node.spec.bgp.as_ref().and_then(|bgp| address(&bgp.ipv4_ipip_tunnel_addr)),
            vxlan: [address(&node.spec.ipv4_vxlan_tunnel_addr), address(&node.spec.ipv6_vxlan_tunnel_addr)],
            wireguard: [
                wireguard.and_then(|w| address(&w.interface_ipv4_address)),
                wireguard.and_then(|w| address(&w.interface_ipv6_address)),
            ],
        }
    }

    /// The address between nodes, with its subnet.
    pub(crate) fn net(&self, v6: bool) -> Option<IpNet> {
        if v6 { self.v6 } else { self.v4 }
    }
}

/// The BGP address of a family; without a prefix length it counts as a host.
fn bgp_net(node: &Node, family: Family) -> Option<IpNet> {
    let bgp = node.spec.bgp.as_ref()?;
    let text = match family {
        Family::V4 => &bgp.ipv4_address,
        Family::V6 => &bgp.ipv6_address,
    };
    text.parse::<IpNet>().ok().or_else(|| address(text).map(IpNet::from))
}

/// The first listed internal, else external, address of a family.
fn listed(node: &Node, family: Family) -> Option<IpAddr> {
    let of_type = |wanted: &NodeAddressType| {
        node.spec
            .addresses
            .iter()
            .filter(|entry| entry.address_type == *wanted)
            .filter_map(|entry| address(&entry.address))
            .find(|addr| addr.is_ipv6() == (family == Family::V6))
    };
    of_type(&NodeAddressType::InternalIp).or_else(|| of_type(&NodeAddressType::ExternalIp))
}

/// Output about nodes.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    hosts: Outbox<Arc<str>, HostMetadata>,
    wireguard: Outbox<Arc<str>, WireguardPeer>,
    vteps: BTreeMap<Arc<str>, Vec<Vtep>>,
    sent_vteps: BTreeMap<Arc<str>, Vec<Vtep>>,
}

/// The part of [`crate::Changes`] that this node of the graph fills.
#[derive(Debug, Default)]
pub(crate) struct NodeChanges {
    pub(crate) hosts: Vec<HostMetadata>,
    pub(crate) removed_hosts: Vec<Arc<str>>,
    pub(crate) wireguard: Vec<WireguardPeer>,
    pub(crate) removed_wireguard: Vec<Arc<str>>,
    pub(crate) vteps: Vec<Vtep>,
    pub(crate) removed_vteps: Vec<Arc<str>>,
}

impl Nodes {
    /// Adds, replaces or removes a node.
    pub(crate) fn set(&mut self, name: &Arc<str>, node: Option<&Node>) {
        self.hosts.set(name.clone(), node.and_then(|node| metadata(name, node)));
        self.wireguard.set(name.clone(), node.and_then(|node| peer(name, node)));
        let vteps = node.map(|node| vteps(name, node)).unwrap_or_default();
        if vteps.is_empty() {
            self.vteps.remove(name);
        } else {
            self.vteps.insert(name.clone(), vteps);
        }
    }

    pub(crate) fn flush(&mut self) -> NodeChanges {
        let (hosts, removed_hosts) = self.hosts.flush();
        let (wireguard, removed_wireguard) = self.wireguard.flush();
        let mut changes =
            NodeChanges { hosts, removed_hosts, wireguard, removed_wireguard, ..NodeChanges::default() };
        for (name, sent) in &self.sent_vteps {
            let wanted = self.vteps.get(name).map_or(&[][..], Vec::as_slice);
            // The removal names the node: it is sent also when one family of two is gone.
            let lost = |old: &Vtep| !wanted.iter().any(|new| new.addr.is_ipv6() == old.addr.is_ipv6());
            if sent.iter().any(lost) {
                changes.removed_vteps.push(name.clone());
            }
        }
        for (name, wanted) in &self.vteps {
            let again = changes.removed_vteps.contains(name);
            let sent = self.sent_vteps.get(name).filter(|_| !again).map_or(&[][..], Vec::as_slice);
            changes.vteps.extend(wanted.iter().filter(|vtep| !sent.contains(vtep)).cloned());
        }
        if !changes.vteps.is_empty() || !changes.removed_vteps.is_empty() {
            self.sent_vteps.clone_from(&self.vteps);
        }
        changes
    }
}

/// BGP addresses must come with their subnet here; a bare one is not believed.
fn metadata(name: &Arc<str>, node: &Node) -> Option<HostMetadata> {
    let from_bgp = |family| {
        let bgp = node.spec.bgp.as_ref()?;
        let text = match family {
            Family::V4 => &bgp.ipv4_address,
            Family::V6 => &bgp.ipv6_address,
        };
        text.parse::<IpNet>().ok().map(|net| net.addr())
    };
    let any_bgp = [Family::V4, Family::V6].into_iter().any(|family| from_bgp(family).is_some());
    let pick = |family| if any_bgp { from_bgp(family) } else { listed(node, family) };
    let as_number = node.spec.bgp.as_ref().and_then(|bgp| bgp.as_number).map(|number| number.0);
    let host = HostMetadata { name: name.clone(), ipv4: pick(Family::V4), ipv6: pick(Family::V6), as_number };
    (host.ipv4.is_some() || host.ipv6.is_some()).then_some(host)
}

fn peer(name: &Arc<str>, node: &Node) -> Option<WireguardPeer> {
    let key = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
    let status = node.status.as_ref();
    let addr = NodeFacts::of(node).wireguard;
    let peer = WireguardPeer {
        node: name.clone(),
        public_key: status.and_then(|s| key(&s.wireguard_public_key)),
        addr: addr[0],
        public_key_v6: status.and_then(|s| key(&s.wireguard_public_key_v6)),
        addr_v6: addr[1],
    };
    let complete = peer.public_key.is_some() || peer.public_key_v6.is_some();
    complete.then_some(peer)
}

/// A tunnel endpoint per family that has both an underlay and a tunnel address.
fn vteps(name: &Arc<str>, node: &Node) -> Vec<Vtep> {
    let tunnel = NodeFacts::of(node).vxlan;
    let macs = [&node.spec.vxlan_tunnel_mac_addr, &node.spec.vxlan_tunnel_mac_addr_v6];
    let families = [Family::V4, Family::V6].into_iter().zip(tunnel).zip(macs);
    families
        .filter_map(|((family, addr), mac)| {
            Some(Vtep {
                node: name.clone(),
                mac: parse_mac(mac).unwrap_or_else(|| derived_mac(name, family)),
                addr: addr?,
                parent: bgp_net(node, family)?.addr(),
            })
        })
        .collect()
}

/// The MAC address of a node's VXLAN device when the node does not say: `f` and five bytes of a hash of the name.
///
/// ```
/// use calico_policy::{derived_mac, ir::Family};
/// assert_eq!(derived_mac("node1", Family::V4), [0x66, 0xf9, 0x37, 0xc3, 0x7e, 0x94]);
/// assert_eq!(derived_mac("node1", Family::V6), [0x66, 0x0f, 0x35, 0xf2, 0x60, 0xdf]);
/// ```
pub fn derived_mac(node: &str, family: Family) -> [u8; 6] {
    let mut hash = Sha1::new();
    hash.update(node.as_bytes());
    if family == Family::V6 {
        hash.update(b"-v6");
    }
    let mut mac = [b'f'; 6];
    for (to, from) in mac.iter_mut().skip(1).zip(hash.finalize()) {
        *to = from;
    }
    mac
}
