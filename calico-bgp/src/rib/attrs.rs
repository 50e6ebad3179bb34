//! Interned attributes with what the decision process reads of them, laid out densely.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::intern::{Interner, NONE};
use crate::policy::NORMAL_PRIORITY;
use crate::route::RouteAttributes;
use crate::wire::iana::community;

/// The fields that the decision process compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hot {
    pub(crate) preference: u32,
    pub(crate) local_pref: u32,
    pub(crate) hops: u32,
    pub(crate) med: u32,
    /// 0 when the path is empty or begins with a set.
    pub(crate) neighbour: u32,
    /// ORIGINATOR_ID, 0 when absent.
    pub(crate) originator: u32,
    /// Cost to the next hop.
    pub(crate) cost: u32,
    pub(crate) clusters: u16,
    pub(crate) origin: u8,
    pub(crate) local: bool,
    pub(crate) reachable: bool,
    pub(crate) llgr_stale: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct AttrStore {
    interner: Interner<RouteAttributes>,
    hot: Vec<Hot>,
    /// What the caller said about next hops; others are reachable at no cost.
    next_hops: HashMap<IpAddr, Option<u32>>,
}

impl AttrStore {
    pub(crate) fn new(seed: u64) -> Self {
        AttrStore { interner: Interner::new(seed), hot: Vec::new(), next_hops: HashMap::new() }
    }

    pub(crate) fn intern(&mut self, route: RouteAttributes) -> u32 {
        let hot = self.measure(&route);
        let (number, new) = self.interner.intern(route);
        if new {
            let at = number as usize;
            if at < self.hot.len() {
                self.hot.iter_mut().skip(at).take(1).for_each(|place| *place = hot);
            } else {
                self.hot.push(hot);
            }
        }
        number
    }

    fn measure(&self, route: &RouteAttributes) -> Hot {
        let path = &route.path;
        let way = route.next_hop().and_then(|hop| self.next_hops.get(&hop)).copied().unwrap_or(Some(0));
        Hot {
            preference: route.preference,
            local_pref: route.local_pref(NORMAL_PRIORITY),
            hops: path.as_path.hop_count(),
            med: path.med.unwrap_or(0),
            neighbour: path.as_path.neighbour().unwrap_or(0),
            originator: path.originator.map_or(0, u32::from),
            cost: way.unwrap_or(u32::MAX),
            clusters: u16::try_from(path.cluster_list.len()).unwrap_or(u16::MAX),
            origin: path.origin as u8,
            local: route.local.is_some(),
            reachable: way.is_some(),
            llgr_stale: path.has_community(community::LLGR_STALE),
        }
    }

    pub(crate) fn retain(&mut self, number: u32) {
        if number != NONE {
            self.interner.retain(number);
        }
    }

    pub(crate) fn release(&mut self, number: u32) {
        if number != NONE {
            self.interner.release(number);
        }
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Arc<RouteAttributes>> {
        self.interner.get(number)
    }

    pub(crate) fn hot(&self, number: u32) -> Option<&Hot> {
        self.hot.get(number as usize)
    }

    pub(crate) fn len(&self) -> usize {
        self.interner.len()
    }

    /// Notes a change of the way to a next hop. `true` when paths over it have to be compared again.
    pub(crate) fn set_next_hop(&mut self, address: IpAddr, cost: Option<u32>) -> bool {
        let before = self.next_hops.insert(address, cost);
        if before == Some(cost) || (before.is_none() && cost == Some(0)) {
            return false;
        }
        let mut touched = false;
        for (number, hot) in self.hot.iter_mut().enumerate() {
            let number = u32::try_from(number).unwrap_or(NONE);
            if self.interner.get(number).is_some_and(|route| route.next_hop() == Some(address)) {
                hot.cost = cost.unwrap_or(u32::MAX);
                hot.reachable = cost.is_some();
                touched = true;
            }
        }
        touched
    }

    /// Whether a number goes over this next hop.
    pub(crate) fn uses_next_hop(&self, number: u32, address: IpAddr) -> bool {
        self.get(number).is_some_and(|route| route.next_hop() == Some(address))
    }
}
