//! The tables as an operator sees them.

use std::sync::Arc;

use ipnet::IpNet;

use super::intern::NONE;
use super::prefixes::{Path, PeerId};
use super::{Rib, RibPrefix};
use crate::route::RouteAttributes;
use crate::wire::{Family, Prefix, Prefix4, Prefix6};

/// Counts of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RibStatistics {
    /// IPv4 prefixes.
    pub prefixes_v4: usize,
    /// IPv6 prefixes.
    pub prefixes_v6: usize,
    /// Different sets of attributes.
    pub attribute_sets: usize,
    /// Groups of peers that are told the same.
    pub update_groups: usize,
}

/// A route as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteInfo {
    /// The prefix.
    pub prefix: IpNet,
    /// The name of the peer it came from; `None` when it begins here.
    pub peer: Option<Arc<str>>,
    /// The identifier the peer gave it.
    pub path_id: u32,
    /// Attributes after import, or as received when the import policy refused it.
    pub attributes: Arc<RouteAttributes>,
    /// The decision chose it.
    pub best: bool,
    /// The import policy refused it, or it ran in a loop.
    pub filtered: bool,
    /// Its peer is restarting.
    pub stale: bool,
}

impl Rib {
    pub(crate) fn statistics(&self) -> RibStatistics {
        RibStatistics {
            prefixes_v4: self.tables.v4.table.len(),
            prefixes_v6: self.tables.v6.table.len(),
            attribute_sets: self.attrs.len(),
            update_groups: self.groups.len(),
        }
    }

    /// How many prefixes a peer was told.
    pub(crate) fn announced_count(&self, id: PeerId, family: Family) -> usize {
        let group = self.peer(id).and_then(|peer| self.groups.get(&peer.group?));
        group.map_or(0, |group| group.announced_count(family, id))
    }

    /// Prefixes received from a peer.
    pub(crate) fn received_count(&self, id: PeerId, family: Family) -> u32 {
        self.peer(id).and_then(|peer| peer.received.get(family.index()).copied()).unwrap_or(0)
    }

    /// All routes of a family, sorted by prefix and then best first.
    pub(crate) fn routes(&self, family: Family) -> Vec<RouteInfo> {
        let mut routes = match family {
            Family::Ipv4 => self.routes_in::<Prefix4>(),
            Family::Ipv6 => self.routes_in::<Prefix6>(),
        };
        routes.sort_by(|a, b| {
            (a.prefix, !a.best, &a.peer, a.path_id).cmp(&(b.prefix, !b.best, &b.peer, b.path_id))
        });
        routes
    }

    fn routes_in<P: RibPrefix>(&self) -> Vec<RouteInfo> {
        let table = &P::of(&self.tables).table;
        let slots = (0..table.slots()).filter_map(|slot| Some((slot, table.entry(slot)?)));
        slots
            .flat_map(|(slot, entry)| {
                table.paths(slot).iter().enumerate().map(move |(at, path)| (entry, at, path))
            })
            .filter_map(|(entry, at, path)| {
                let filtered = path.attributes == NONE;
                let shown = if filtered { path.received } else { path.attributes };
                Some(RouteInfo {
                    prefix: entry.prefix.to_net(),
                    peer: self.peer(path.peer).map(|peer| peer.config.name.clone()),
                    path_id: path.path_id,
                    attributes: self.attrs.get(shown)?.clone(),
                    best: at == 0 && entry.selected,
                    filtered,
                    stale: path.has(Path::STALE),
                })
            })
            .collect()
    }

    /// What a peer was told, sorted by prefix.
    pub(crate) fn announced(&self, id: PeerId, family: Family) -> Vec<(IpNet, u32, Arc<RouteAttributes>)> {
        let Some(group) = self.peer(id).and_then(|peer| self.groups.get(&peer.group?)) else {
            return Vec::new();
        };
        let prefix = |slot| match family {
            Family::Ipv4 => self.tables.v4.table.entry(slot).map(|entry| entry.prefix.to_net()),
            Family::Ipv6 => self.tables.v6.table.entry(slot).map(|entry| entry.prefix.to_net()),
        };
        let mut list: Vec<_> = group
            .announced(family, id)
            .into_iter()
            .filter_map(|(slot, path_id, sent)| {
                Some((prefix(slot)?, u32::from(path_id), self.attrs.get(sent)?.clone()))
            })
            .collect();
        list.sort_by_key(|(prefix, id, _)| (*prefix, *id));
        list
    }
}
