//! WireGuard: which nodes are peers, what is behind each, and which packets go through the device.
//!
//! Packets that are not encrypted yet are looked up in a routing table of its own: destinations behind peers lead to
//! the device, all others of the cluster back to the main table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use calico_policy::Changes;
use calico_policy::changes::{Route as PolicyRoute, RouteKind as Reach, WireguardPeer};
use ipnet::IpNet;

use crate::netlink::wireguard::{Device, DeviceChange, Key, Peer};
use crate::netlink::{Family, Route, RouteKind, RouteProtocol, Rule};

/// How one family of WireGuard is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardConfig {
    /// Name of this node.
    pub node: Arc<str>,
    /// Family of packets and of the underlay.
    pub family: Family,
    /// Name of the device: `wireguard.cali` or `wg-v6.cali`.
    pub device: Arc<str>,
    /// UDP port of all nodes (`WireguardListeningPort`).
    pub port: u16,
    /// Mark of encrypted packets.
    pub mark: u32,
    /// Routing table of its own.
    pub table: u32,
    /// Priority of the rule that leads there (`WireguardRoutingRulePriority`).
    pub priority: u32,
    /// Seconds (`WireguardPersistentKeepAlive`); 0 for none.
    pub keepalive: u16,
    /// Encrypt traffic between nodes as well (`WireguardHostEncryptionEnabled`).
    pub host_encryption: bool,
}

impl WireguardConfig {
    /// The defaults of Calico.
    pub fn new(node: impl Into<Arc<str>>, family: Family) -> Self {
        let v4 = family == Family::V4;
        Self {
            node: node.into(),
            family,
            device: if v4 { "wireguard.cali" } else { "wg-v6.cali" }.into(),
            port: if v4 { 51820 } else { 51821 },
            mark: 0x20_0000,
            table: 1,
            priority: 99,
            keepalive: 0,
            host_encryption: false,
        }
    }

    /// The rule that leads unencrypted packets to the table.
    pub fn rule(&self) -> Rule {
        Rule {
            family: self.family,
            priority: self.priority,
            table: self.table,
            mark: self.mark,
            mask: self.mark,
            invert: true,
            from_interface: None,
            protocol: RouteProtocol::UNSPEC,
        }
    }
}

/// Everything that should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireguardPlan {
    /// Peers by public key.
    pub peers: BTreeMap<Key, Peer>,
    /// Routes of the table, with interface index 0 in place of the device's.
    pub routes: BTreeSet<IpNet>,
    /// Destinations that go back to the main table.
    pub throws: BTreeSet<IpNet>,
    /// Nodes that are no peers because they claim the same key as another, with that key's text.
    pub conflicts: BTreeMap<Arc<str>, String>,
}

impl WireguardPlan {
    /// The routes of the table for a device with this index.
    pub fn kernel_routes(&self, config: &WireguardConfig, index: u32) -> Vec<Route> {
        let through = self.routes.iter().map(|dst| Route::device(*dst, index, RouteProtocol::CALICO));
        let back = self.throws.iter().map(|dst| {
            let mut route = Route::blackhole(*dst, RouteProtocol::CALICO);
            route.kind = RouteKind::Throw;
            route
        });
        through
            .chain(back)
            .map(|mut route| {
                route.table = config.table;
                route.canonical()
            })
            .collect()
    }

    /// What differs between the device and the plan: removals first, so that no two peers ever claim one address.
    pub fn device_changes(&self, device: &Device) -> Vec<DeviceChange<'_>> {
        let gone = device.peers.keys().filter(|key| !self.peers.contains_key(*key));
        let changed = self.peers.iter().filter(|(key, peer)| device.peers.get(*key) != Some(*peer));
        gone.map(|key| DeviceChange::RemovePeer(*key))
            .chain(changed.map(|(key, peer)| DeviceChange::SetPeer(*key, peer)))
            .collect()
    }
}

/// Decides over WireGuard of one family.
#[derive(Debug)]
pub struct WireguardManager {
    config: WireguardConfig,
    nodes: BTreeMap<Arc<str>, WireguardPeer>,
    addresses: BTreeMap<Arc<str>, IpAddr>,
    routes: BTreeMap<IpNet, PolicyRoute>,
}

impl WireguardManager {
    /// Nothing known yet.
    pub fn new(config: WireguardConfig) -> Self {
        Self { config, nodes: BTreeMap::new(), addresses: BTreeMap::new(), routes: BTreeMap::new() }
    }

    /// How it is set up.
    pub fn config(&self) -> &WireguardConfig {
        &self.config
    }

    /// Takes what the policy graph says.
    pub fn changes(&mut self, changes: &Changes) {
        for node in &changes.removed_wireguard {
            self.nodes.remove(node);
        }
        for peer in &changes.wireguard {
            self.nodes.insert(peer.node.clone(), peer.clone());
        }
        for node in &changes.removed_hosts {
            self.addresses.remove(node);
        }
        for host in &changes.hosts {
            let address = if self.config.family == Family::V4 { host.ipv4 } else { host.ipv6 };
            match address {
                Some(address) => self.addresses.insert(host.name.clone(), address),
                None => self.addresses.remove(&host.name),
            };
        }
        for dst in &changes.removed_routes {
            self.routes.remove(dst);
        }
        for route in &changes.routes {
            if Family::of(route.dst.addr()) == self.config.family {
                self.routes.insert(route.dst, route.clone());
            }
        }
    }

    /// This node's address in the underlay.
    pub fn node_address(&self) -> Option<IpAddr> {
        self.addresses.get(&self.config.node).copied()
    }

    /// The address that the device should have: its own, or the node's when traffic between nodes is encrypted too.
    pub fn interface_address(&self) -> Option<IpAddr> {
        let own = self.nodes.get(&self.config.node);
        let v4 = self.config.family == Family::V4;
        own.and_then(|peer| if v4 { peer.addr } else { peer.addr_v6 })
            .or_else(|| self.node_address().filter(|_| self.config.host_encryption))
    }

    fn key_of(&self, peer: &WireguardPeer) -> Option<Key> {
        let text = if self.config.family == Family::V4 { &peer.public_key } else { &peer.public_key_v6 };
        Key::from_base64(text.as_deref()?)
    }

    /// Everything that should be now.
    pub fn plan(&self) -> WireguardPlan {
        let mut plan = WireguardPlan::default();
        let mut claims: BTreeMap<Key, Vec<&Arc<str>>> = BTreeMap::new();
        for (node, peer) in self.nodes.iter().filter(|(node, _)| **node != self.config.node) {
            if let Some(key) = self.key_of(peer) {
                claims.entry(key).or_default().push(node);
            }
        }
        let mut keys: BTreeMap<&Arc<str>, Key> = BTreeMap::new();
        for (key, nodes) in claims {
            match nodes.as_slice() {
                [only] => {
                    if let Some(address) = self.addresses.get(*only) {
                        let endpoint = Some(SocketAddr::new(*address, self.config.port));
                        let keepalive = self.config.keepalive;
                        plan.peers.insert(key, Peer { endpoint, keepalive, allowed: BTreeSet::new() });
                        keys.insert(*only, key);
                    }
                }
                several => {
                    plan.conflicts.extend(several.iter().map(|node| ((*node).clone(), key.to_base64())));
                }
            }
        }
        for route in self.routes.values() {
            self.place(route, &keys, &mut plan);
        }
        // A pod of this node inside one of this node's blocks needs no throw of its own.
        let blocks: Vec<IpNet> = plan.throws.iter().copied().collect();
        plan.throws.retain(|dst| !blocks.iter().any(|block| block != dst && block.contains(dst)));
        plan
    }

    fn place(&self, route: &PolicyRoute, keys: &BTreeMap<&Arc<str>, Key>, plan: &mut WireguardPlan) {
        let workload = matches!(route.kind, Reach::RemoteWorkload | Reach::RemoteTunnel);
        let host = self.config.host_encryption && route.kind == Reach::RemoteHost;
        if workload || host {
            let peer =
                route.node.as_ref().and_then(|node| keys.get(node)).and_then(|key| plan.peers.get_mut(key));
            match peer {
                Some(peer) => {
                    peer.allowed.insert(route.dst);
                    plan.routes.insert(route.dst);
                }
                None => {
                    plan.throws.insert(route.dst);
                }
            }
        } else if matches!(route.kind, Reach::LocalWorkload | Reach::LocalTunnel) {
            plan.throws.insert(route.dst);
        }
    }
}

#[cfg(test)]
mod tests {
    use calico_policy::changes::{HostMetadata, Tunnel};

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn peer(node: &str, byte: u8) -> WireguardPeer {
        WireguardPeer {
            node: node.into(),
            public_key: Some(Key([byte; 32]).to_base64().into()),
            addr: None,
            public_key_v6: None,
            addr_v6: None,
        }
    }

    fn host(node: &str, address: &str) -> HostMetadata {
        let ipv4 = Some(address.parse().unwrap());
        HostMetadata { name: node.into(), ipv4, ipv6: None, as_number: None }
    }

    fn route(dst: &str, kind: Reach, node: &str) -> PolicyRoute {
        PolicyRoute {
            dst: net(dst),
            kind,
            node: Some(node.into()),
            node_ip: None,
            same_subnet: false,
            tunnel: Tunnel::None,
            nat_outgoing: false,
            borrowed: false,
        }
    }

    fn manager() -> WireguardManager {
        let mut manager = WireguardManager::new(WireguardConfig::new("a", Family::V4));
        manager.changes(&Changes {
            wireguard: vec![peer("a", 1), peer("b", 2), peer("d", 4), peer("e", 4)],
            hosts: vec![
                host("a", "172.18.0.1"),
                host("b", "172.18.0.2"),
                host("c", "172.18.0.3"),
                host("d", "172.18.0.4"),
                host("e", "172.18.0.5"),
            ],
            routes: vec![
                route("10.65.0.0/26", Reach::LocalWorkload, "a"),
                route("10.65.0.5/32", Reach::LocalWorkload, "a"),
                route("10.65.1.0/26", Reach::RemoteWorkload, "b"),
                route("10.65.9.7/32", Reach::RemoteWorkload, "b"),
                route("10.65.2.0/26", Reach::RemoteWorkload, "c"),
                route("10.65.3.0/26", Reach::RemoteWorkload, "d"),
                route("172.18.0.2/32", Reach::RemoteHost, "b"),
            ],
            ..Changes::default()
        });
        manager
    }

    #[test]
    fn peers_have_what_is_behind_them_and_all_else_goes_the_plain_way() {
        let plan = manager().plan();
        let expected = Peer {
            endpoint: Some("172.18.0.2:51820".parse().unwrap()),
            keepalive: 0,
            allowed: [net("10.65.1.0/26"), net("10.65.9.7/32")].into(),
        };
        assert_eq!(plan.peers, BTreeMap::from([(Key([2; 32]), expected)]));
        assert_eq!(plan.routes, [net("10.65.1.0/26"), net("10.65.9.7/32")].into());
        // Local pods are folded into the local block; c has no key, d and e share one.
        assert_eq!(plan.throws, [net("10.65.0.0/26"), net("10.65.2.0/26"), net("10.65.3.0/26")].into());
        let nodes: Vec<&str> = plan.conflicts.keys().map(AsRef::as_ref).collect();
        assert_eq!(nodes, ["d", "e"]);
    }

    #[test]
    fn a_conflict_ends_when_one_of_the_two_goes() {
        let mut manager = manager();
        manager.changes(&Changes { removed_wireguard: vec!["e".into()], ..Changes::default() });
        let plan = manager.plan();
        assert!(plan.conflicts.is_empty());
        assert!(plan.routes.contains(&net("10.65.3.0/26")));
    }

    #[test]
    fn host_encryption_takes_the_nodes_own_address_along() {
        let mut manager = manager();
        manager.config.host_encryption = true;
        assert!(manager.plan().peers[&Key([2; 32])].allowed.contains(&net("172.18.0.2/32")));
    }

    #[test]
    fn only_differences_are_sent_to_the_device() {
        let plan = manager().plan();
        let mut device = Device::default();
        assert_eq!(plan.device_changes(&device).len(), 1);
        device.peers = plan.peers.clone();
        assert_eq!(plan.device_changes(&device), []);
        let stranger = Peer { endpoint: None, keepalive: 0, allowed: BTreeSet::new() };
        device.peers.insert(Key([9; 32]), stranger);
        assert_eq!(plan.device_changes(&device), [DeviceChange::RemovePeer(Key([9; 32]))]);
    }

    #[test]
    fn the_table_reads_as_operators_expect() {
        let manager = manager();
        let routes = manager.plan().kernel_routes(manager.config(), 7);
        let names = BTreeMap::from([(7, "wireguard.cali")]);
        let lines: Vec<String> =
            routes.iter().map(|route| crate::netlink::route_text::line(route, &names)).collect();
        assert_eq!(lines[0], "10.65.1.0/26 dev wireguard.cali table 1 proto 80 scope link");
        assert!(lines.contains(&"throw 10.65.0.0/26 table 1 proto 80".to_owned()), "{lines:?}");
        let rule = manager.config().rule();
        assert_eq!((rule.priority, rule.table, rule.mask, rule.invert), (99, 1, 0x20_0000, true));
    }
}
