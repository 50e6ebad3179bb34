//! IP sets of the policy graph as kernel sets, one per family.
//!
//! A set whose members are all single addresses is a hash set: constant-time look-up and cheap updates. The
//! first prefix among its members turns it into a set of ranges under another name, in one transaction with
//! the rules that look it up.

use std::collections::{BTreeMap, BTreeSet};

use calico_policy::changes::{SetDelta, SetUpdate};
use calico_policy::ir::{Family, Member, SetId, SetKind};

use crate::nft::build::{addr_field, family_of, net_key, octets};
use crate::nft::lower::Sets;
use crate::nft::names::set_name;
use crate::nft::object::{Element, Elements, Field, Key, KeyBytes, Name, SetSpec};
use crate::nft::table::Table;

/// Both families, in the order of [`IpSet::ranges`].
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[derive(Debug)]
struct IpSet {
    kind: SetKind,
    /// Per family: the kernel set holds ranges.
    ranges: [bool; 2],
}

/// All IP sets, by identity.
#[derive(Debug, Default)]
pub(super) struct IpSets {
    sets: BTreeMap<SetId, IpSet>,
    /// Sets whose kernel name changed, so that whoever looks them up must be written again.
    renamed: BTreeSet<SetId>,
    /// Sets that the kernel refuses; rules that need them fail closed.
    refused: BTreeMap<SetId, String>,
    /// Kernel sets to be removed once nothing refers to them.
    retired: Vec<Name>,
    /// The IP set behind each kernel set.
    owners: BTreeMap<Name, SetId>,
}

impl Sets for IpSets {
    fn kernel_set(&self, set: &SetId, family: Family) -> Option<Name> {
        let known = self.sets.get(set)?;
        if self.refused.contains_key(set) {
            return None;
        }
        Some(set_name(family, set, known.ranges[slot(family)]))
    }
}

fn slot(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

fn spec(kind: SetKind, family: Family, ranges: bool) -> SetSpec {
    let addr = addr_field(family);
    match kind {
        SetKind::Net if ranges => SetSpec::ranges(&[addr]),
        SetKind::Net => SetSpec::hash(&[addr]),
        SetKind::AddrPort => SetSpec::hash(&[addr, Field::Proto, Field::Port]),
    }
}

/// Family and key of a member; host prefixes have a key without upper bound.
fn key_of(member: &Member) -> (Family, Key) {
    match member {
        Member::Net(net) => (family_of(net), net_key(net)),
        Member::AddrPort { addr, protocol, port } => {
            let mut bytes: KeyBytes = octets(*addr);
            bytes.extend_from_slice(&[*protocol, 0, 0, 0]);
            bytes.extend_from_slice(&port.to_be_bytes());
            bytes.extend_from_slice(&[0, 0]);
            let family = if addr.is_ipv4() { Family::V4 } else { Family::V6 };
            (family, Key { low: bytes, high: None })
        }
    }
}

impl IpSets {
    /// Creates a set, or replaces its whole membership.
    pub(super) fn replace(&mut self, table: &mut Table, update: &SetUpdate) {
        let mut elements: [Vec<(Key, Element)>; 2] = Default::default();
        for member in &update.members {
            let (family, key) = key_of(member);
            elements[slot(family)].push((key, Element::default()));
        }
        let before = self.sets.get(&update.id).map(|set| set.ranges);
        let was_refused = self.refused.remove(&update.id).is_some();
        let mut ranges = [false; 2];
        for family in FAMILIES {
            let index = slot(family);
            let elements: Elements = std::mem::take(&mut elements[index]).into_iter().collect();
            // A set that held ranges keeps doing so: going back would rewrite its referrers for little.
            ranges[index] =
                before.is_some_and(|ranges| ranges[index]) || elements.keys().any(|key| key.high.is_some());
            let name = set_name(family, &update.id, ranges[index]);
            if before.is_some_and(|before| before[index] != ranges[index]) {
                let old = set_name(family, &update.id, false);
                self.owners.remove(&old);
                self.retired.push(old);
                self.renamed.insert(update.id.clone());
            }
            self.owners.insert(name.clone(), update.id.clone());
            table.add_set(&name, spec(update.kind, family, ranges[index]));
            table.replace_elements(&name, elements);
        }
        if before.is_none() || was_refused {
            // Rules may have been written against its absence.
            self.renamed.insert(update.id.clone());
        }
        self.sets.insert(update.id.clone(), IpSet { kind: update.kind, ranges });
    }

    /// Applies a delta; a set that is not there is left alone (its rules fail closed already).
    pub(super) fn change(&mut self, table: &mut Table, delta: &SetDelta) {
        let Some(set) = self.sets.get_mut(&delta.id) else { return };
        if self.refused.remove(&delta.id).is_some() {
            self.renamed.insert(delta.id.clone());
        }
        for member in &delta.removed {
            let (family, key) = key_of(member);
            table.remove_element(&set_name(family, &delta.id, set.ranges[slot(family)]), &key);
        }
        for member in &delta.added {
            let (family, key) = key_of(member);
            let index = slot(family);
            if key.high.is_some() && !set.ranges[index] {
                let old = set_name(family, &delta.id, false);
                let new = set_name(family, &delta.id, true);
                let elements = table.elements(&old).cloned().unwrap_or_default();
                table.add_set(&new, spec(set.kind, family, true));
                table.replace_elements(&new, elements);
                set.ranges[index] = true;
                self.owners.remove(&old);
                self.owners.insert(new, delta.id.clone());
                self.retired.push(old);
                self.renamed.insert(delta.id.clone());
            }
            table.set_element(&set_name(family, &delta.id, set.ranges[index]), key, Element::default());
        }
    }

    /// Forgets a set; its kernel sets go with [`sweep`](Self::sweep).
    pub(super) fn remove(&mut self, id: &SetId) {
        self.refused.remove(id);
        if let Some(set) = self.sets.remove(id) {
            for family in FAMILIES {
                let name = set_name(family, id, set.ranges[slot(family)]);
                self.owners.remove(&name);
                self.retired.push(name);
            }
            self.renamed.insert(id.clone());
        }
    }

    /// Sets whose referrers must be written again.
    pub(super) fn take_renamed(&mut self) -> BTreeSet<SetId> {
        std::mem::take(&mut self.renamed)
    }

    /// Removes the kernel sets that lost their last referrer in this flush.
    pub(super) fn sweep(&mut self, table: &mut Table) {
        for name in std::mem::take(&mut self.retired) {
            if !self.owners.contains_key(&name) {
                table.remove_set(&name);
            }
        }
    }

    /// The IP set behind a kernel set.
    pub(super) fn owner(&self, name: &Name) -> Option<&SetId> {
        self.owners.get(name)
    }

    /// Takes a set out of the kernel that the kernel does not accept. Its rules fail closed until it changes.
    pub(super) fn refuse(&mut self, table: &mut Table, id: &SetId, reason: String) {
        if let Some(set) = self.sets.get(id) {
            for family in FAMILIES {
                table.replace_elements(&set_name(family, id, set.ranges[slot(family)]), Elements::new());
            }
            self.refused.insert(id.clone(), reason);
            self.renamed.insert(id.clone());
        }
    }
}
