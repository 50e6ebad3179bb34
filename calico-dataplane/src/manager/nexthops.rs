//! Through which interface and neighbour a BGP next hop is reached.
//!
//! The answer comes from the routes that are not ours: connected networks, static routes, the default route. A next
//! hop behind a router is reached through that router, as BIRD resolves recursive routes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::{Family, Route, RouteKey, RouteKind};

/// Where to send packets for a next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resolved {
    /// The neighbour on the link: the next hop itself or a router on the way.
    pub via: IpAddr,
    /// Interface index.
    pub interface: u32,
    /// The neighbour is reachable although no connected route covers it.
    pub onlink: bool,
}

/// The routes of the main table that belong to others.
#[derive(Debug, Clone, Default)]
pub struct ForeignRoutes {
    routes: BTreeMap<RouteKey, Route>,
    /// How many routes there are of each prefix length, so that a lookup tries only lengths that occur.
    lengths: BTreeMap<(Family, u8), usize>,
}

impl ForeignRoutes {
    /// Adds or replaces a route. True when that changed anything.
    pub fn insert(&mut self, route: Route) -> bool {
        let key = route.key();
        if self.routes.get(&key) == Some(&route) {
            return false;
        }
        if self.routes.insert(key, route).is_none() {
            *self.lengths.entry((Family::of(key.dst.addr()), key.dst.prefix_len())).or_default() += 1;
        }
        true
    }

    /// Removes a route. True when it was there.
    pub fn remove(&mut self, key: &RouteKey) -> bool {
        if self.routes.remove(key).is_none() {
            return false;
        }
        let length = (Family::of(key.dst.addr()), key.dst.prefix_len());
        if let Some(count) = self.lengths.get_mut(&length) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length);
            }
        }
        true
    }

    /// The route with this key.
    pub fn get(&self, key: &RouteKey) -> Option<&Route> {
        self.routes.get(key)
    }

    /// All routes, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&RouteKey, &Route)> {
        self.routes.iter()
    }

    /// The route that the kernel would take to `address`: longest prefix, lowest metric.
    pub fn lookup(&self, address: IpAddr) -> Option<&Route> {
        let family = Family::of(address);
        let lengths = self.lengths.range((family, 0)..=(family, u8::MAX)).rev();
        lengths.into_iter().find_map(|((_, length), _)| {
            let dst = IpNet::new(address, *length).ok()?.trunc();
            let first = |table| RouteKey { table, dst, tos: 0, priority: 0 };
            let mut candidates = self.routes.range(first(crate::netlink::route::MAIN_TABLE)..);
            candidates.next().filter(|(key, _)| key.dst == dst && key.tos == 0).map(|(_, route)| route)
        })
    }

    /// How to reach a next hop; `None` while nothing leads there.
    pub fn resolve(&self, next_hop: IpAddr) -> Option<Resolved> {
        let route = self.lookup(next_hop)?;
        if route.kind != RouteKind::Unicast {
            return None;
        }
        let hop = route.nexthops.first().filter(|hop| hop.interface != 0)?;
        Some(match hop.via {
            Some(router) => Resolved { via: router, interface: hop.interface, onlink: hop.onlink },
            None => Resolved { via: next_hop, interface: hop.interface, onlink: false },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::{NextHop, RouteProtocol};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn table() -> ForeignRoutes {
        let mut foreign = ForeignRoutes::default();
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        foreign.insert(Route::device(net("172.18.0.0/24"), 2, RouteProtocol::KERNEL));
        let router = NextHop::via(ip("172.18.0.1"), 2);
        foreign.insert(Route::via(net("0.0.0.0/0"), [router], RouteProtocol::STATIC));
        foreign.insert(Route::blackhole(net("10.99.0.0/16"), RouteProtocol::STATIC));
        let mut backup = Route::device(net("172.18.0.0/24"), 3, RouteProtocol::KERNEL);
        backup.priority = 100;
        foreign.insert(backup);
        foreign
    }

    #[test]
    fn neighbours_directly_others_through_the_router_and_blackholes_not_at_all() {
        let mut foreign = table();
        let direct = Resolved { via: ip("172.18.0.7"), interface: 2, onlink: false };
        assert_eq!(foreign.resolve(ip("172.18.0.7")), Some(direct));
        let routed = Resolved { via: ip("172.18.0.1"), interface: 2, onlink: false };
        assert_eq!(foreign.resolve(ip("192.0.2.1")), Some(routed));
        assert_eq!(foreign.resolve(ip("10.99.1.1")), None);
        assert_eq!(foreign.resolve(ip("fd00::1")), None);
        // Without the better route the one with the higher metric holds.
        let best = foreign.lookup(ip("172.18.0.7")).unwrap().key();
        assert!(foreign.remove(&best));
        assert_eq!(foreign.resolve(ip("172.18.0.7")).map(|r| r.interface), Some(3));
        assert!(!foreign.remove(&best));
    }

    proptest! {
        #[test]
        fn lookup_is_the_longest_match(
            nets in proptest::collection::vec((any::<u32>(), 0..=32_u8, 0..3_u32), 0..20),
            address in any::<u32>(),
        ) {
            let mut foreign = ForeignRoutes::default();
            let mut all = Vec::new();
            for (bits, length, priority) in nets {
                // Crowd the prefixes so that they cover each other.
                let net = IpNet::new(std::net::Ipv4Addr::from(bits & 0x0303_0303).into(), length).unwrap();
                let mut route = Route::device(net, 2, RouteProtocol::STATIC);
                route.priority = priority;
                all.push(route.clone());
                foreign.insert(route);
            }
            let address = IpAddr::V4((address & 0x0303_0303).into());
            let slow = all
                .iter()
                .filter(|route| route.dst.contains(&address))
                .max_by_key(|route| (route.dst.prefix_len(), std::cmp::Reverse(route.priority)))
                .map(Route::key);
            prop_assert_eq!(foreign.lookup(address).map(Route::key), slow);
        }
    }
}
