//! Coalescing of output: what was sent, what is wanted, and the difference at flush.
//!
//! Any number of changes of one key between two flushes ends as at most one update or one removal, and a
//! change that was undone ends as nothing.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

/// Values of one class of output by key.
#[derive(Debug, Clone)]
pub(crate) struct Outbox<K, V> {
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
    pub(crate) fn set(&mut self, key: K, value: Option<V>) {
        self.pending.insert(key, value);
    }

    /// Updates and removals since the last flush, each sorted by key.
    pub(crate) fn flush(&mut self) -> (Vec<V>, Vec<K>) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
