//! Routes coming in: UPDATEs, import policy, loops, and the life of stale routes.

use std::net::IpAddr;
use std::sync::Arc;

use super::intern::NONE;
use super::prefixes::{Path, PeerId};
use super::{Rib, RibPrefix};
use crate::config::PeerConfig;
use crate::fsm::Negotiated;
use crate::policy::{DEFAULT_LOCAL_PREF, RouteView, Verdict};
use crate::route::RouteAttributes;
use crate::wire::iana::community;
use crate::wire::update::MpNlri;
use crate::wire::{Family, NextHop, NlriIter, Notification, PathAttributes, Prefix4, Prefix6, Update};

/// What an UPDATE led to, apart from routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Applied {
    pub(crate) end_of_rib: Option<Family>,
    /// It had a defect that RFC 7606 lets pass.
    pub(crate) malformed: bool,
    /// The family of which the peer now has sent more prefixes than allowed.
    pub(crate) exceeded: Option<Family>,
}

/// A received set of attributes, interned, with the outcome of an import policy that does not look at prefixes.
struct Received {
    number: u32,
    imported: Option<u32>,
}

impl Rib {
    /// Applies the body of an UPDATE.
    ///
    /// # Errors
    /// The NOTIFICATION to send; nothing was applied.
    pub(crate) fn update(
        &mut self,
        id: PeerId,
        body: &[u8],
        negotiated: &Negotiated,
    ) -> Result<Applied, Notification> {
        let update = Update::decode(body, &negotiated.params)?;
        let mut applied =
            Applied { end_of_rib: update.end_of_rib, malformed: !update.issues.is_empty(), exceeded: None };
        for withdrawn in update.withdrawn {
            self.withdraw_path::<Prefix4>(id, withdrawn.prefix, withdrawn.path_id);
        }
        match update.mp_withdrawn {
            MpNlri::None => {}
            MpNlri::Ipv4(list) => self.withdraw_all(id, list),
            MpNlri::Ipv6(list) => self.withdraw_all(id, list),
        }
        if update.treat_as_withdraw {
            self.withdraw_all(id, update.announced);
            match update.mp_announced {
                MpNlri::None => {}
                MpNlri::Ipv4(list) => self.withdraw_all(id, list),
                MpNlri::Ipv6(list) => self.withdraw_all(id, list),
            }
            return Ok(applied);
        }
        let mp = update.mp_next_hop.map(|hop| (update.mp_announced, hop));
        if let Some((list, hop)) = mp {
            let attributes = PathAttributes { next_hop: Some(hop), ..update.attributes.clone() };
            match list {
                MpNlri::None => {}
                MpNlri::Ipv4(list) => self.announce_all(id, list, attributes, &mut applied),
                MpNlri::Ipv6(list) => self.announce_all(id, list, attributes, &mut applied),
            }
        }
        if !update.announced.is_empty() {
            self.announce_all(id, update.announced, update.attributes, &mut applied);
        }
        Ok(applied)
    }

    fn withdraw_all<P: RibPrefix>(&mut self, id: PeerId, list: NlriIter<'_, P>) {
        for withdrawn in list {
            self.withdraw_path::<P>(id, withdrawn.prefix, withdrawn.path_id);
        }
    }

    fn announce_all<P: RibPrefix>(
        &mut self,
        id: PeerId,
        list: NlriIter<'_, P>,
        attributes: PathAttributes,
        applied: &mut Applied,
    ) {
        if matches!(attributes.next_hop, Some(NextHop::V4(_))) && P::FAMILY == Family::Ipv6 {
            return;
        }
        let received = self.receive_attributes(id, attributes);
        for announced in list {
            self.announce_path(id, announced.prefix, announced.path_id, &received);
        }
        // The counts of this function itself.
        self.attrs.release(received.number);
        if let Some(imported) = received.imported {
            self.attrs.release(imported);
        }
        if let Some(peer) = self.peer_mut(id)
            && let Some(limit) = peer.config.max_prefixes
            && peer.count(P::FAMILY).is_some_and(|count| *count > limit)
        {
            applied.exceeded = Some(P::FAMILY);
        }
    }

    fn receive_attributes(&mut self, id: PeerId, attributes: PathAttributes) -> Received {
        let config = self.peer(id).map(|peer| peer.config.clone());
        let number = self.attrs.intern(RouteAttributes::learned(attributes));
        let imported = config.filter(|config| config.import.filters.is_empty()).map(|config| {
            // Without filters the prefix plays no part: once per message is enough.
            self.import(&config, ipnet::IpNet::default(), number)
        });
        Received { number, imported }
    }

    /// The attributes after import, counted once for the caller; [`NONE`] when the route must not be used.
    fn import(&mut self, config: &Arc<PeerConfig>, prefix: ipnet::IpNet, number: u32) -> u32 {
        let Some(route) = self.attrs.get(number).cloned() else { return NONE };
        if self.loops(config, &route) {
            return NONE;
        }
        let internal = config.is_internal();
        let shutdown = route.path.has_community(community::GRACEFUL_SHUTDOWN);
        if config.import.is_trivial() && !shutdown {
            self.attrs.retain(number);
            return number;
        }
        let local_pref = if shutdown { 0 } else { route.path.local_pref.unwrap_or(DEFAULT_LOCAL_PREF) };
        let view = RouteView { prefix, route: &route, local_pref, internal };
        let (verdict, preference) = config.import.evaluate(&view);
        let Verdict::Accept(edits) = verdict else { return NONE };
        if edits.is_empty() && preference == route.preference && !shutdown {
            self.attrs.retain(number);
            return number;
        }
        let mut changed = RouteAttributes::clone(&route);
        changed.preference = preference;
        if shutdown {
            // RFC 8326: the sender is about to go; use it only when there is nothing else.
            changed.path.local_pref = Some(0);
        }
        edits.apply(&mut changed);
        self.attrs.intern(changed)
    }

    /// Whether a route has been here before, or points to ourselves.
    fn loops(&self, config: &PeerConfig, route: &RouteAttributes) -> bool {
        let path = &route.path;
        path.as_path.count(config.local_as) > usize::from(config.allow_own_as)
            || path.originator.is_some_and(|id| u32::from(id) == self.router_id)
            || self.cluster_id.is_some_and(|cluster| path.cluster_list.contains(&cluster))
            || config.reflector_client.is_some_and(|cluster| path.cluster_list.contains(&u32::from(cluster)))
            || route.next_hop().is_some_and(|hop| Some(hop) == config.local_address)
    }

    fn announce_path<P: RibPrefix>(&mut self, id: PeerId, prefix: P, path_id: u32, received: &Received) {
        let imported = match received.imported {
            Some(imported) => {
                self.attrs.retain(imported);
                imported
            }
            None => {
                let Some(config) = self.peer(id).map(|peer| peer.config.clone()) else { return };
                self.import(&config, prefix.to_net(), received.number)
            }
        };
        let family = P::of_mut(&mut self.tables);
        let slot = family.table.insert(prefix);
        let old =
            family.table.paths_mut(slot).iter_mut().find(|path| path.peer == id && path.path_id == path_id);
        if let Some(path) = old {
            if path.received == received.number && path.attributes == imported && path.flags == 0 {
                self.attrs.release(imported);
                return;
            }
            let before = *path;
            path.received = received.number;
            path.attributes = imported;
            path.flags = 0;
            self.attrs.retain(received.number);
            self.attrs.release(before.received);
            self.attrs.release(before.attributes);
        } else {
            let path = Path {
                received: received.number,
                attributes: imported,
                path_id,
                peer: id,
                sent_id: 0,
                flags: 0,
            };
            family.table.add_path(slot, path);
            self.attrs.retain(received.number);
            if let Some(count) = self.peer_mut(id).and_then(|peer| peer.count(P::FAMILY)) {
                *count += 1;
            }
        }
        P::of_mut(&mut self.tables).mark(slot);
    }

    pub(super) fn withdraw_path<P: RibPrefix>(&mut self, id: PeerId, prefix: P, path_id: u32) {
        let family = P::of_mut(&mut self.tables);
        let Some(slot) = family.table.find(&prefix) else { return };
        let at = family.table.paths(slot).iter().position(|path| path.peer == id && path.path_id == path_id);
        if let Some(at) = at {
            self.remove_at::<P>(slot, at);
        }
    }

    fn remove_at<P: RibPrefix>(&mut self, slot: u32, at: usize) {
        let family = P::of_mut(&mut self.tables);
        let Some(path) = family.table.remove_path(slot, at) else { return };
        family.mark(slot);
        self.attrs.release(path.received);
        self.attrs.release(path.attributes);
        if let Some(count) = self.peer_mut(path.peer).and_then(|peer| peer.count(P::FAMILY)) {
            *count = count.saturating_sub(1);
        }
    }

    /// Drops the routes of a peer that the condition wants gone.
    pub(crate) fn drop_routes(&mut self, id: PeerId, family: Family, gone: impl Fn(u16) -> bool) {
        match family {
            Family::Ipv4 => self.drop_in::<Prefix4>(id, gone),
            Family::Ipv6 => self.drop_in::<Prefix6>(id, gone),
        }
    }

    fn drop_in<P: RibPrefix>(&mut self, id: PeerId, gone: impl Fn(u16) -> bool) {
        for slot in 0..P::of(&self.tables).table.slots() {
            while let Some(at) = P::of(&self.tables)
                .table
                .paths(slot)
                .iter()
                .position(|path| path.peer == id && gone(path.flags))
            {
                self.remove_at::<P>(slot, at);
            }
        }
    }

    /// Drops what the peer did not confirm since its restart or refresh.
    pub(crate) fn sweep(&mut self, id: PeerId, family: Family) {
        self.drop_routes(id, family, |flags| flags & Path::STALE != 0);
    }

    /// The peer restarts: its routes stay until it is back.
    pub(crate) fn mark_stale(&mut self, id: PeerId, family: Family) {
        match family {
            Family::Ipv4 => self.flag_in::<Prefix4>(id, Path::STALE),
            Family::Ipv6 => self.flag_in::<Prefix6>(id, Path::STALE),
        }
    }

    /// The restart takes longer than the peer said: routes become a last resort, except those that must not be kept.
    pub(crate) fn mark_long_lived(&mut self, id: PeerId, family: Family) {
        match family {
            Family::Ipv4 => self.long_lived_in::<Prefix4>(id),
            Family::Ipv6 => self.long_lived_in::<Prefix6>(id),
        }
    }

    fn long_lived_in<P: RibPrefix>(&mut self, id: PeerId) {
        for slot in 0..P::of(&self.tables).table.slots() {
            loop {
                let attrs = &self.attrs;
                let forbidden = P::of(&self.tables).table.paths(slot).iter().position(|path| {
                    path.peer == id
                        && path.has(Path::STALE)
                        && attrs
                            .get(path.received)
                            .is_some_and(|route| route.path.has_community(community::NO_LLGR))
                });
                let Some(at) = forbidden else { break };
                self.remove_at::<P>(slot, at);
            }
        }
        self.flag_in::<P>(id, Path::STALE | Path::LONG_LIVED);
    }

    fn flag_in<P: RibPrefix>(&mut self, id: PeerId, flags: u16) {
        let family = P::of_mut(&mut self.tables);
        for slot in 0..family.table.slots() {
            let mut changed = false;
            for path in family.table.paths_mut(slot).iter_mut().filter(|path| path.peer == id) {
                // Staleness alone does not enter the decision.
                changed |= (path.flags ^ flags) & Path::LONG_LIVED != 0;
                path.flags = flags;
            }
            if changed {
                family.mark(slot);
            }
        }
    }

    /// The import side changed: run it again over what the peer has sent.
    pub(super) fn import_again(&mut self, id: PeerId) {
        self.import_again_in::<Prefix4>(id);
        self.import_again_in::<Prefix6>(id);
    }

    fn import_again_in<P: RibPrefix>(&mut self, id: PeerId) {
        let Some(config) = self.peer(id).map(|peer| peer.config.clone()) else { return };
        for slot in 0..P::of(&self.tables).table.slots() {
            let Some(prefix) = P::of(&self.tables).table.entry(slot).map(|entry| entry.prefix) else {
                continue;
            };
            for at in 0..P::of(&self.tables).table.paths(slot).len() {
                let Some(path) =
                    P::of(&self.tables).table.paths(slot).get(at).filter(|path| path.peer == id).copied()
                else {
                    continue;
                };
                let imported = self.import(&config, prefix.to_net(), path.received);
                self.attrs.release(path.attributes);
                if imported == path.attributes {
                    continue;
                }
                let family = P::of_mut(&mut self.tables);
                if let Some(place) = family.table.paths_mut(slot).get_mut(at) {
                    place.attributes = imported;
                }
                family.mark(slot);
            }
        }
    }

    /// The peer marks the begin of a refresh.
    pub(crate) fn refresh_begins(&mut self, id: PeerId, family: Family) {
        if let Some(peer) = self.peer_mut(id) {
            peer.refreshing.insert(family);
        }
        self.mark_stale(id, family);
    }

    /// The peer marks the end of a refresh.
    pub(crate) fn refresh_ends(&mut self, id: PeerId, family: Family) {
        let begun = self.peer_mut(id).is_some_and(|peer| {
            let begun = peer.refreshing.contains(family);
            peer.refreshing.remove(family);
            begun
        });
        if begun {
            self.sweep(id, family);
        }
    }

    /// The addresses that routes of a peer go to; for tracking.
    pub(crate) fn next_hops_of(&self, id: PeerId) -> Vec<IpAddr> {
        fn collect<P: RibPrefix>(rib: &Rib, id: PeerId, out: &mut Vec<IpAddr>) {
            let table = &P::of(&rib.tables).table;
            for slot in 0..table.slots() {
                let paths = table.paths(slot).iter().filter(|path| path.peer == id);
                out.extend(paths.filter_map(|path| rib.attrs.get(path.received)?.next_hop()));
            }
        }
        let mut out = Vec::new();
        collect::<Prefix4>(self, id, &mut out);
        collect::<Prefix6>(self, id, &mut out);
        out.sort_unstable();
        out.dedup();
        out
    }
}
