//! Coalescing of output: what was sent, what is wanted, and the difference at flush.
//!
//! Any number of changes of one key between two flushes ends as at most one update or one removal, and a
//! change that was undone ends as nothing.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::changes::{SetDelta, SetUpdate};
use crate::ir::{Member, SetId};

/// Values of one class of output by key.
#[derive(Debug, Clone)]
pub struct Outbox<K, V> {
    sent: FxHashMap<K, V>,
    pending: BTreeMap<K, Option<V>>,
}

impl<K, V> Default for Outbox<K, V> {
    fn default() -> Self {
        Self { sent: FxHashMap::default(), pending: BTreeMap::new() }
    }
}

impl<K: Ord + Clone + std::hash::Hash, V: PartialEq + Clone> Outbox<K, V> {
    /// The value wanted from the next flush on; `None` removes the key.
    pub fn set(&mut self, key: K, value: Option<V>) {
        self.pending.insert(key, value);
    }

    /// The value that the next flush leaves in place.
    pub fn wanted(&self, key: &K) -> Option<&V> {
        match self.pending.get(key) {
            Some(value) => value.as_ref(),
            None => self.sent.get(key),
        }
    }

    /// Updates and removals since the last flush, each sorted by key.
    pub fn flush(&mut self) -> (Vec<V>, Vec<K>) {
        let mut updates = Vec::new();
        let mut removals = Vec::new();
        for (key, value) in std::mem::take(&mut self.pending) {
            match value {
                Some(value) => {
                    if self.sent.get(&key) != Some(&value) {
                        self.sent.insert(key, value.clone());
                        updates.push(value);
                    }
                }
                None => {
                    if self.sent.remove(&key).is_some() {
                        removals.push(key);
                    }
                }
            }
        }
        (updates, removals)
    }
}

/// Sets: whole membership first, deltas afterwards.
#[derive(Debug, Clone, Default)]
pub struct SetOutbox {
    sent: FxHashSet<SetId>,
    fresh: BTreeSet<SetId>,
    gone: BTreeSet<SetId>,
    deltas: BTreeMap<SetId, FxHashMap<Member, bool>>,
}

impl SetOutbox {
    /// A set came into use; its membership is read at flush.
    pub fn added(&mut self, id: &SetId) {
        self.gone.remove(id);
        self.deltas.remove(id);
        self.fresh.insert(id.clone());
    }

    /// A set is no longer used.
    pub fn removed(&mut self, id: &SetId) {
        self.fresh.remove(id);
        self.deltas.remove(id);
        if self.sent.contains(id) {
            self.gone.insert(id.clone());
        }
    }

    /// A member came to or left a set in use.
    pub fn member(&mut self, id: &SetId, member: Member, added: bool) {
        if self.fresh.contains(id) || !self.sent.contains(id) {
            return;
        }
        if !self.deltas.contains_key(id) {
            self.deltas.insert(id.clone(), FxHashMap::default());
        }
        let Some(toggles) = self.deltas.get_mut(id) else { return };
        if toggles.get(&member) == Some(&!added) {
            toggles.remove(&member);
        } else {
            toggles.insert(member, added);
        }
    }

    /// New sets, deltas and removals since the last flush, sorted by id.
    pub fn flush(
        &mut self,
        mut whole: impl FnMut(&SetId) -> Option<SetUpdate>,
    ) -> (Vec<SetUpdate>, Vec<SetDelta>, Vec<SetId>) {
        let mut updates = Vec::with_capacity(self.fresh.len());
        for id in std::mem::take(&mut self.fresh) {
            if let Some(update) = whole(&id) {
                self.sent.insert(id);
                updates.push(update);
            }
        }
        let mut deltas = Vec::with_capacity(self.deltas.len());
        for (id, toggles) in std::mem::take(&mut self.deltas) {
            let mut added: Vec<Member> = toggles.iter().filter(|(_, add)| **add).map(|(m, _)| *m).collect();
            let mut removed: Vec<Member> =
                toggles.iter().filter(|(_, add)| !**add).map(|(m, _)| *m).collect();
            added.sort_unstable();
            removed.sort_unstable();
            if !added.is_empty() || !removed.is_empty() {
                deltas.push(SetDelta { id, added, removed });
            }
        }
        let gone: Vec<SetId> = std::mem::take(&mut self.gone).into_iter().collect();
        for id in &gone {
            self.sent.remove(id);
        }
        (updates, deltas, gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::SetKind;

    #[test]
    fn a_change_that_is_undone_is_not_sent() {
        let mut outbox: Outbox<&str, u32> = Outbox::default();
        outbox.set("a", Some(1));
        assert_eq!(outbox.flush(), (vec![1], vec![]));
        outbox.set("a", Some(2));
        outbox.set("a", Some(1));
        outbox.set("b", Some(1));
        outbox.set("b", None);
        assert_eq!(outbox.flush(), (vec![], vec![]));
        outbox.set("a", None);
        outbox.set("a", Some(3));
        assert_eq!(outbox.flush(), (vec![3], vec![]));
        outbox.set("a", None);
        assert_eq!(outbox.flush(), (vec![], vec!["a"]));
    }

    #[test]
    fn members_cancel_out() {
        let id = SetId("s:x".into());
        let member = |n: &str| Member::Net(n.parse().unwrap());
        let whole = |id: &SetId| {
            Some(SetUpdate { id: id.clone(), kind: SetKind::Net, members: vec![member("10.0.0.1/32")] })
        };
        let mut outbox = SetOutbox::default();
        outbox.added(&id);
        outbox.member(&id, member("10.0.0.1/32"), true);
        let (updates, deltas, gone) = outbox.flush(whole);
        assert_eq!((updates.len(), deltas.len(), gone.len()), (1, 0, 0));
        outbox.member(&id, member("10.0.0.2/32"), true);
        outbox.member(&id, member("10.0.0.2/32"), false);
        outbox.member(&id, member("10.0.0.1/32"), false);
        let (updates, deltas, gone) = outbox.flush(whole);
        assert_eq!((updates.len(), gone.len()), (0, 0));
        assert_eq!(deltas[0].removed, [member("10.0.0.1/32")]);
        assert!(deltas[0].added.is_empty());
        outbox.removed(&id);
        assert_eq!(outbox.flush(whole).2, std::slice::from_ref(&id));
    }
}
