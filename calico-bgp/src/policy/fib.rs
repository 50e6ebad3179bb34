//! Which routes learned by BGP are installed in the kernel, and through what.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::NetSet;

/// How packets of a pool travel between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolEncapsulation {
    /// As they are.
    None,
    /// Always inside IP.
    IpIpAlways,
    /// Inside IP when the next hop is not in the node's own subnet.
    IpIpCrossSubnet,
    /// Inside VXLAN; never ours to program.
    Vxlan,
}

/// A pool as the kernel policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolRoute {
    /// The pool.
    pub cidr: IpNet,
    /// Its encapsulation.
    pub encapsulation: PoolEncapsulation,
    /// The BGP side programs this pool's routes; otherwise the policy side (Felix) does.
    pub owned: bool,
}

/// How a route is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteVia {
    /// Through the next hop as it is.
    Direct,
    /// Through the IP-in-IP device, with the next hop on-link.
    IpIp,
}

/// The kernel policy of a node (spec of Calico's kernel filter, in its order). The default installs everything directly.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FibPolicy {
    /// Install nothing: the node only reflects.
    pub disabled: bool,
    /// Destinations that are never installed: service ranges.
    pub reject: NetSet,
    /// Next hops reached through WireGuard; routes over them belong to the policy side.
    pub wireguard: BTreeSet<IpAddr>,
    /// The pools.
    pub pools: Vec<PoolRoute>,
    /// The node's own IPv4 subnet. Without it no statement about IPv4 pools is made.
    pub own_network: Option<Ipv4Net>,
}

impl FibPolicy {
    /// How to install a route learned by BGP; `None` not at all.
    pub fn decide(&self, prefix: IpNet, next_hop: IpAddr) -> Option<RouteVia> {
        if self.disabled || self.reject.covers(prefix) || self.wireguard.contains(&next_hop) {
            return None;
        }
        let (IpNet::V4(_), Some(own)) = (prefix, self.own_network) else {
            return Some(RouteVia::Direct);
        };
        let Some(pool) = self.pools.iter().find(|pool| pool.cidr.contains(&prefix)) else {
            return Some(RouteVia::Direct);
        };
        match (pool.owned, pool.encapsulation) {
            (false, _) | (_, PoolEncapsulation::Vxlan) => None,
            (true, PoolEncapsulation::None) => Some(RouteVia::Direct),
            (true, PoolEncapsulation::IpIpAlways) => Some(RouteVia::IpIp),
            (true, PoolEncapsulation::IpIpCrossSubnet) => {
                Some(if on_link(own, next_hop) { RouteVia::Direct } else { RouteVia::IpIp })
            }
        }
    }
}

fn on_link(own: Ipv4Net, next_hop: IpAddr) -> bool {
    match next_hop {
        IpAddr::V4(address) => own.contains(&Ipv4Addr::from(u32::from(address))),
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(encapsulation: PoolEncapsulation, owned: bool) -> FibPolicy {
        FibPolicy {
            pools: vec![PoolRoute { cidr: "10.1.0.0/16".parse().unwrap(), encapsulation, owned }],
            own_network: Some("10.0.0.0/24".parse().unwrap()),
            reject: ["10.96.0.0/12".parse().unwrap()].into_iter().collect(),
            wireguard: BTreeSet::from(["10.0.0.66".parse().unwrap()]),
            ..FibPolicy::default()
        }
    }

    fn decide(policy: &FibPolicy, prefix: &str, next_hop: &str) -> Option<RouteVia> {
        policy.decide(prefix.parse().unwrap(), next_hop.parse().unwrap())
    }

    #[test]
    fn cross_subnet_looks_at_the_next_hop() {
        let policy = policy(PoolEncapsulation::IpIpCrossSubnet, true);
        assert_eq!(decide(&policy, "10.1.0.64/26", "10.0.0.7"), Some(RouteVia::Direct));
        assert_eq!(decide(&policy, "10.1.0.64/26", "10.0.9.7"), Some(RouteVia::IpIp));
    }

    #[test]
    fn every_other_statement() {
        let always = policy(PoolEncapsulation::IpIpAlways, true);
        assert_eq!(decide(&always, "10.1.0.64/26", "10.0.0.7"), Some(RouteVia::IpIp));
        assert_eq!(decide(&always, "10.96.1.1/32", "10.0.0.7"), None);
        assert_eq!(decide(&always, "10.1.0.64/26", "10.0.0.66"), None);
        assert_eq!(decide(&always, "172.16.0.0/24", "10.0.0.7"), Some(RouteVia::Direct));
        assert_eq!(decide(&always, "fd00::/64", "fd99::1"), Some(RouteVia::Direct));
        assert_eq!(decide(&policy(PoolEncapsulation::Vxlan, true), "10.1.0.64/26", "10.0.0.7"), None);
        assert_eq!(decide(&policy(PoolEncapsulation::None, false), "10.1.0.64/26", "10.0.0.7"), None);
        let unknown = FibPolicy { own_network: None, ..policy(PoolEncapsulation::Vxlan, true) };
        assert_eq!(decide(&unknown, "10.1.0.64/26", "10.0.0.7"), Some(RouteVia::Direct));
        let off = FibPolicy { disabled: true, ..FibPolicy::default() };
        assert_eq!(decide(&off, "192.0.2.0/24", "10.0.0.7"), None);
    }
}
