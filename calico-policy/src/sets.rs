//! The sets in use and their members.
//!
//! A set is in use while a compiled policy or profile refers to it. Its members come from what its selector matches
//! (workload endpoints of all nodes, host endpoints, network sets) or from the endpoint slices of a service.

use std::collections::BTreeSet;
use std::sync::Arc;

use calico_selector::{MatchIndex, Selector, Transition};
use ipnet::IpNet;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::changes::{SetDelta, SetUpdate};
use crate::ir::{Member, SetId};
use crate::members::Members;
use crate::rules::SetSource;
use crate::services::{Backends, ServiceName, Services};

/// Something with labels and addresses: an endpoint or a network set. Interned by the graph.
pub(crate) type ItemId = u32;

/// What an item gives to the sets it matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// Host addresses of an endpoint, CIDRs of a network set.
    pub(crate) nets: SmallVec<[IpNet; 1]>,
    /// Named ports of an endpoint.
    pub(crate) ports: Box<[NamedPort]>,
}

/// A named port of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedPort {
    pub(crate) name: Box<str>,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

#[derive(Debug)]
struct Set {
    id: SetId,
    source: SetSource,
    members: Members,
    refs: u32,
    sent: bool,
    /// Members that differ from what was sent: true for added.
    delta: FxHashMap<Member, bool>,
}

#[derive(Debug, Default)]
struct SelectorNode {
    sets: SmallVec<[u32; 2]>,
}

/// All sets in use.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    table: Table,
    by_id: FxHashMap<SetId, u32>,
    next: u32,
    nodes: FxHashMap<u32, SelectorNode>,
    node_by_selector: FxHashMap<Box<str>, u32>,
    index: MatchIndex<u32, ItemId, Arc<str>>,
    items: FxHashMap<ItemId, Content>,
    services: Services,
    /// Sets without references; they go at the next flush unless somebody wants them again.
    idle: BTreeSet<u32>,
}

/// The sets by number, and those with something to say at the next flush.
#[derive(Debug, Default)]
struct Table {
    sets: FxHashMap<u32, Set>,
    dirty: BTreeSet<u32>,
}

impl Table {
    fn change(&mut self, set: u32, member: Member, add: bool) {
        let Some(entry) = self.sets.get_mut(&set) else { return };
        let Set { members, delta, sent, .. } = entry;
        let mut dirty = false;
        let mut emit = |member: Member, added: bool| {
            dirty = true;
            if !*sent {
                return;
            }
            if delta.get(&member) == Some(&!added) {
                delta.remove(&member);
            } else {
                delta.insert(member, added);
            }
        };
        if add {
            members.add(member, &mut emit);
        } else {
            members.remove(member, &mut emit);
        }
        if dirty {
            self.dirty.insert(set);
        }
    }

    fn contribute(&mut self, sets: &[u32], content: &Content, add: bool) {
        for set in sets {
            for member in self.contributions(*set, content) {
                self.change(*set, member, add);
            }
        }
    }

    fn contributions(&self, set: u32, content: &Content) -> SmallVec<[Member; 4]> {
        let mut out = SmallVec::new();
        match self.sets.get(&set).map(|set| &set.source) {
            Some(SetSource::Selector(_)) => out.extend(content.nets.iter().map(|net| Member::Net(*net))),
            Some(SetSource::NamedPort { protocol, name, .. }) => {
                let ports = content.ports.iter().filter(|p| p.name == *name && protocol.admits(p.protocol));
                for port in ports {
                    out.extend(content.nets.iter().map(|net| Member::AddrPort {
                        addr: net.addr(),
                        protocol: port.protocol,
                        port: port.port,
                    }));
                }
            }
            Some(SetSource::Service { .. }) | None => {}
        }
        out
    }
}

/// Hears of matches of the label index and moves contributions.
fn on_match<'a>(
    table: &'a mut Table,
    nodes: &'a FxHashMap<u32, SelectorNode>,
    items: &'a FxHashMap<ItemId, Content>,
) -> impl FnMut(&u32, &ItemId, Transition) + 'a {
    move |node, item, transition| {
        if let (Some(node), Some(content)) = (nodes.get(node), items.get(item)) {
            table.contribute(&node.sets, content, transition == Transition::Started);
        }
    }
}

impl Sets {
    /// Takes a reference to a set, which comes into use if it was not.
    pub(crate) fn acquire(&mut self, id: &SetId, source: &SetSource) -> u32 {
        if let Some(set) = self.by_id.get(id) {
            if let Some(entry) = self.table.sets.get_mut(set) {
                entry.refs += 1;
            }
            self.idle.remove(set);
            return *set;
        }
        let set = self.next;
        self.next += 1;
        let entry = Set {
            id: id.clone(),
            source: source.clone(),
            members: Members::new(source.kind()),
            refs: 1,
            sent: false,
            delta: FxHashMap::default(),
        };
        self.by_id.insert(id.clone(), set);
        self.table.sets.insert(set, entry);
        self.table.dirty.insert(set);
        match source {
            SetSource::Selector(selector) | SetSource::NamedPort { selector, .. } => {
                self.watch(set, selector)
            }
            SetSource::Service { namespace, name, with_ports } => {
                let service = ServiceName { namespace: namespace.clone(), name: name.clone() };
                for member in self.services.watch(service, set, *with_ports) {
                    self.table.change(set, member, true);
                }
            }
        }
        set
    }

    /// Gives a reference back.
    pub(crate) fn release(&mut self, set: u32) {
        let Some(entry) = self.table.sets.get_mut(&set) else { return };
        entry.refs = entry.refs.saturating_sub(1);
        if entry.refs == 0 {
            self.idle.insert(set);
        }
    }

    fn watch(&mut self, set: u32, selector: &Selector) {
        let known = self.node_by_selector.get(selector.id()).copied();
        if let Some(node) = known {
            for item in self.index.items_of(&node) {
                if let Some(content) = self.items.get(item) {
                    self.table.contribute(&[set], content, true);
                }
            }
            if let Some(entry) = self.nodes.get_mut(&node) {
                entry.sets.push(set);
            }
            return;
        }
        // The first set of a selector lends its number to the node.
        self.node_by_selector.insert(selector.id().into(), set);
        self.nodes.insert(set, SelectorNode { sets: SmallVec::from_slice(&[set]) });
        let heard = on_match(&mut self.table, &self.nodes, &self.items);
        self.index.set_selector(&set, selector, heard);
    }

    fn unwatch(&mut self, set: u32, source: &SetSource) {
        match source {
            SetSource::Selector(selector) | SetSource::NamedPort { selector, .. } => {
                let Some(node) = self.node_by_selector.get(selector.id()).copied() else { return };
                let Some(entry) = self.nodes.get_mut(&node) else { return };
                entry.sets.retain(|other| *other != set);
                if entry.sets.is_empty() {
                    self.nodes.remove(&node);
                    self.node_by_selector.remove(selector.id());
                    self.index.remove_selector(&node, |_, _, _| {});
                }
            }
            SetSource::Service { namespace, name, .. } => {
                self.services.unwatch(&ServiceName { namespace: namespace.clone(), name: name.clone() }, set);
            }
        }
    }

    /// Adds an item or replaces it.
    pub(crate) fn set_item<K: AsRef<str>, V: AsRef<str>>(
        &mut self,
        item: ItemId,
        labels: impl IntoIterator<Item = (K, V)>,
        parents: &[Arc<str>],
        content: Content,
    ) {
        let changed = self.items.get(&item).is_some_and(|old| *old != content);
        if changed {
            let sets = self.matched_sets(item);
            self.table.contribute(&sets, &content, true);
            if let Some(old) = self.items.get(&item) {
                self.table.contribute(&sets, old, false);
            }
        }
        self.items.insert(item, content);
        let heard = on_match(&mut self.table, &self.nodes, &self.items);
        self.index.set_item(&item, labels, parents, heard);
    }

    /// Removes an item.
    pub(crate) fn remove_item(&mut self, item: ItemId) {
        let heard = on_match(&mut self.table, &self.nodes, &self.items);
        self.index.remove_item(&item, heard);
        self.items.remove(&item);
    }

    fn matched_sets(&self, item: ItemId) -> SmallVec<[u32; 8]> {
        let nodes = self.index.selectors_of(&item).filter_map(|node| self.nodes.get(node));
        nodes.flat_map(|node| node.sets.iter().copied()).collect()
    }

    /// Labels that items inherit from a profile; `None` when the profile is gone.
    pub(crate) fn set_parent<'a>(
        &mut self,
        parent: &Arc<str>,
        labels: Option<impl IntoIterator<Item = (&'a str, &'a str)>>,
    ) {
        let heard = on_match(&mut self.table, &self.nodes, &self.items);
        match labels {
            Some(labels) => self.index.set_parent(parent, labels, heard),
            None => self.index.remove_parent(parent, heard),
        }
    }

    /// Endpoints of a service that one slice lists; without a service the slice is gone.
    pub(crate) fn set_slice(&mut self, slice: ServiceName, service: Option<ServiceName>, backends: Backends) {
        let Self { services, table, .. } = self;
        services.set_slice(slice, service, backends, &mut |set, member, add| table.change(set, member, add));
    }

    /// New sets, deltas and removals since the last flush, each sorted by id.
    pub(crate) fn flush(&mut self) -> (Vec<SetUpdate>, Vec<SetDelta>, Vec<SetId>) {
        let mut removed = Vec::new();
        for set in std::mem::take(&mut self.idle) {
            self.table.dirty.remove(&set);
            let Some(entry) = self.table.sets.remove(&set) else { continue };
            self.by_id.remove(&entry.id);
            self.unwatch(set, &entry.source);
            if entry.sent {
                removed.push(entry.id);
            }
        }
        let mut updates = Vec::new();
        let mut deltas = Vec::new();
        for set in std::mem::take(&mut self.table.dirty) {
            let Some(entry) = self.table.sets.get_mut(&set) else { continue };
            if !entry.sent {
                entry.sent = true;
                let members = entry.members.emitted();
                updates.push(SetUpdate { id: entry.id.clone(), kind: entry.members.kind(), members });
                continue;
            }
            let (mut added, mut gone) = (Vec::new(), Vec::new());
            for (member, add) in std::mem::take(&mut entry.delta) {
                if add { added.push(member) } else { gone.push(member) }
            }
            if !added.is_empty() || !gone.is_empty() {
                added.sort_unstable();
                gone.sort_unstable();
                deltas.push(SetDelta { id: entry.id.clone(), added, removed: gone });
            }
        }
        removed.sort();
        updates.sort_by(|a, b| a.id.cmp(&b.id));
        deltas.sort_by(|a, b| a.id.cmp(&b.id));
        (updates, deltas, removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(nets: &[&str]) -> Content {
        Content { nets: nets.iter().map(|n| n.parse().unwrap()).collect(), ports: Box::default() }
    }

    fn net(text: &str) -> Member {
        Member::Net(text.parse().unwrap())
    }

    fn source(text: &str) -> SetSource {
        SetSource::Selector(Selector::parse(text).unwrap())
    }

    #[test]
    fn members_follow_labels_and_addresses() {
        let mut sets = Sets::default();
        let web = source("role == 'web'");
        let set = sets.acquire(&web.id(), &web);
        sets.set_item(1, [("role", "web")], &[], content(&["10.0.0.1/32"]));
        let (updates, deltas, _) = sets.flush();
        assert_eq!(updates[0].members, [net("10.0.0.1/32")]);
        assert!(deltas.is_empty());

        // A change that is undone is not sent; a second contributor keeps the member.
        sets.set_item(2, [("role", "web")], &[], content(&["10.0.0.1/32"]));
        sets.set_item(1, [("role", "db")], &[], content(&["10.0.0.1/32"]));
        sets.set_item(3, [("role", "web")], &[], content(&["10.0.0.3/32"]));
        sets.remove_item(3);
        assert_eq!(sets.flush(), (vec![], vec![], vec![]));

        sets.set_item(2, [("role", "web")], &[], content(&["10.0.0.2/32"]));
        let (_, deltas, _) = sets.flush();
        assert_eq!(deltas[0].added, [net("10.0.0.2/32")]);
        assert_eq!(deltas[0].removed, [net("10.0.0.1/32")]);

        sets.release(set);
        assert_eq!(sets.flush().2, [web.id()]);
    }

    #[test]
    fn a_set_wanted_again_before_the_flush_stays() {
        let mut sets = Sets::default();
        let all = source("all()");
        let set = sets.acquire(&all.id(), &all);
        sets.flush();
        sets.release(set);
        sets.acquire(&all.id(), &all);
        assert_eq!(sets.flush(), (vec![], vec![], vec![]));
    }

    #[test]
    fn inherited_labels_start_and_stop_matches() {
        let mut sets = Sets::default();
        let prod = source("pcns.env == 'prod'");
        sets.acquire(&prod.id(), &prod);
        let parent: Arc<str> = "kns.a".into();
        sets.set_item(1, [("x", "y")], std::slice::from_ref(&parent), content(&["fd00::1/128"]));
        sets.flush();
        sets.set_parent(&parent, Some([("pcns.env", "prod")]));
        assert_eq!(sets.flush().1[0].added, [net("fd00::1/128")]);
        sets.set_parent(&parent, None::<[(&str, &str); 0]>);
        assert_eq!(sets.flush().1[0].removed, [net("fd00::1/128")]);
    }
}
