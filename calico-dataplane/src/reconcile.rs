//! Desired and actual state of one family of kernel objects, and the difference between them.
//!
//! A [`Table`] knows what should be and what is, tells what to do about it, and remembers what failed and when to
//! try again. It touches nothing itself: the owner reads the kernel, carries out the differences and reports back.
//! The kernel is never trusted: [`Table::refresh`] compares with a complete reading at any time.
//!
//! ```
//! use std::time::Instant;
//! use calico_dataplane::reconcile::{Delta, Table};
//! let now = Instant::now();
//! let mut table = Table::new();
//! table.refresh([("10.0.0.0/8", "eth0"), ("10.1.0.0/16", "eth1")]);
//! table.set("10.0.0.0/8", "eth2");
//! let work: Vec<_> = table.pending(now).collect();
//! assert_eq!(work, [
//!     Delta { key: &"10.0.0.0/8", desired: Some(&"eth2"), actual: Some(&"eth0") },
//!     Delta { key: &"10.1.0.0/16", desired: None, actual: Some(&"eth1") },
//! ]);
//! table.applied(&"10.0.0.0/8");
//! table.failed(&"10.1.0.0/16", now);
//! assert_eq!(table.pending(now).count(), 0);
//! assert!(table.next_retry().unwrap() > now);
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long to wait after the first, second, … failure in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure; doubles with each further one.
    pub first: Duration,
    /// Never longer than this.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(50), longest: Duration::from_secs(10) }
    }
}

impl Backoff {
    /// The wait after `failures` failures in a row.
    pub fn delay(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

#[derive(Debug, Clone)]
struct Row<V> {
    desired: Option<V>,
    actual: Option<V>,
    failures: u32,
    /// Set while waiting for the next attempt.
    retry_at: Option<Instant>,
}

impl<V: PartialEq> Row<V> {
    fn differs(&self) -> bool {
        self.desired != self.actual
    }
}

/// One difference: `desired` and `actual` are never equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delta<'a, K, V> {
    /// Which object.
    pub key: &'a K,
    /// What should be; `None` means to delete.
    pub desired: Option<&'a V>,
    /// What is; `None` means to create.
    pub actual: Option<&'a V>,
}

/// Desired and actual objects by key.
#[derive(Debug, Clone)]
pub struct Table<K, V> {
    rows: BTreeMap<K, Row<V>>,
    /// Rows that differ and are not waiting.
    dirty: BTreeSet<K>,
    /// Rows that differ and wait for their time.
    waiting: BTreeSet<(Instant, K)>,
    backoff: Backoff,
}

impl<K: Ord + Clone, V: PartialEq> Default for Table<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord + Clone, V: PartialEq> Table<K, V> {
    /// An empty table.
    pub fn new() -> Self {
        Self::with_backoff(Backoff::default())
    }

    /// An empty table with its own back-off.
    pub fn with_backoff(backoff: Backoff) -> Self {
        Self { rows: BTreeMap::new(), dirty: BTreeSet::new(), waiting: BTreeSet::new(), backoff }
    }

    /// This object should be there.
    pub fn set(&mut self, key: K, value: V) {
        self.change(key, |row| {
            if row.desired.as_ref() == Some(&value) {
                return false;
            }
            row.desired = Some(value);
            row.failures = 0;
            true
        });
    }

    /// This object should not be there.
    pub fn remove(&mut self, key: &K) {
        if self.rows.get(key).is_some_and(|row| row.desired.is_some()) {
            self.change(key.clone(), |row| {
                row.desired = None;
                row.failures = 0;
                true
            });
        }
    }

    /// The kernel says that this object is there.
    pub fn observed(&mut self, key: K, value: V) {
        self.change(key, |row| {
            if row.actual.as_ref() == Some(&value) {
                return false;
            }
            row.actual = Some(value);
            true
        });
    }

    /// The kernel says that this object is gone.
    pub fn vanished(&mut self, key: &K) {
        if self.rows.get(key).is_some_and(|row| row.actual.is_some()) {
            self.change(key.clone(), |row| {
                row.actual = None;
                true
            });
        }
    }

    /// All objects that the kernel has, from a complete reading. Returns how many rows this contradicted.
    pub fn refresh(&mut self, all: impl IntoIterator<Item = (K, V)>) -> usize {
        let mut unseen: BTreeSet<K> =
            self.rows.iter().filter(|(_, row)| row.actual.is_some()).map(|(key, _)| key.clone()).collect();
        let mut surprises = 0;
        for (key, value) in all {
            unseen.remove(&key);
            if self.rows.get(&key).is_none_or(|row| row.actual.as_ref() != Some(&value)) {
                surprises += 1;
                self.observed(key, value);
            }
        }
        surprises += unseen.len();
        for key in unseen {
            self.vanished(&key);
        }
        surprises
    }

    /// The differences to work on now, in key order. Those that failed lately are left out until their time comes.
    pub fn pending(&mut self, now: Instant) -> impl Iterator<Item = Delta<'_, K, V>> {
        while let Some((at, _)) = self.waiting.first()
            && *at <= now
            && let Some((_, key)) = self.waiting.pop_first()
        {
            if let Some(row) = self.rows.get_mut(&key) {
                row.retry_at = None;
            }
            self.dirty.insert(key);
        }
        self.dirty.iter().filter_map(|key| {
            let row = self.rows.get(key)?;
            Some(Delta { key, desired: row.desired.as_ref(), actual: row.actual.as_ref() })
        })
    }

    /// The desired state of this object was reached.
    pub fn applied(&mut self, key: &K)
    where
        V: Clone,
    {
        if self.rows.contains_key(key) {
            self.change(key.clone(), |row| {
                row.actual.clone_from(&row.desired);
                row.failures = 0;
                true
            });
        }
    }

    /// Carrying out this difference failed: it comes back after a while, or as soon as something about the object
    /// changes. Returns the number of failures in a row.
    pub fn failed(&mut self, key: &K, now: Instant) -> u32 {
        let Some(row) = self.rows.get_mut(key) else { return 0 };
        row.failures = row.failures.saturating_add(1);
        let failures = row.failures;
        if let Some(at) = row.retry_at.take() {
            self.waiting.remove(&(at, key.clone()));
        }
        if row.differs() {
            let at = now + self.backoff.delay(failures);
            row.retry_at = Some(at);
            self.dirty.remove(key);
            self.waiting.insert((at, key.clone()));
        }
        failures
    }

    /// When the next failed object comes back.
    pub fn next_retry(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// What should be.
    pub fn desired(&self, key: &K) -> Option<&V> {
        self.rows.get(key)?.desired.as_ref()
    }

    /// What is.
    pub fn actual(&self, key: &K) -> Option<&V> {
        self.rows.get(key)?.actual.as_ref()
    }

    /// True when the object is as it should be.
    pub fn is_settled(&self, key: &K) -> bool {
        self.rows.get(key).is_none_or(|row| !row.differs())
    }

    /// Number of objects that are not as they should be, waiting ones included.
    pub fn unsettled(&self) -> usize {
        self.dirty.len() + self.waiting.len()
    }

    /// All that should be, in key order.
    pub fn all_desired(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter().filter_map(|(key, row)| Some((key, row.desired.as_ref()?)))
    }

    /// All that is, in key order.
    pub fn all_actual(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter().filter_map(|(key, row)| Some((key, row.actual.as_ref()?)))
    }

    /// Applies `edit` to a row (made if absent) and files it where it belongs. `edit` says whether it changed.
    fn change(&mut self, key: K, edit: impl FnOnce(&mut Row<V>) -> bool) {
        let row = self.rows.entry(key.clone()).or_insert(Row {
            desired: None,
            actual: None,
            failures: 0,
            retry_at: None,
        });
        if !edit(row) {
            return;
        }
        if let Some(at) = row.retry_at.take() {
            self.waiting.remove(&(at, key.clone()));
        }
        if row.differs() {
            self.dirty.insert(key);
            return;
        }
        self.dirty.remove(&key);
        row.failures = 0;
        if row.desired.is_none() {
            self.rows.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    #[test]
    fn back_off_doubles_up_to_its_limit() {
        let backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(1) };
        let delays: Vec<u128> =
            [1, 2, 3, 5, 6, 40, u32::MAX].iter().map(|n| backoff.delay(*n).as_millis()).collect();
        assert_eq!(delays, [50, 100, 200, 800, 1000, 1000, 1000]);
    }

    #[test]
    fn a_failed_row_waits_and_news_about_it_end_the_wait() {
        let now = Instant::now();
        let mut table: Table<u8, u8> = Table::new();
        table.set(1, 1);
        assert_eq!(table.failed(&1, now), 1);
        assert_eq!(table.pending(now).count(), 0);
        assert_eq!(table.unsettled(), 1);
        assert_eq!(table.pending(now + Duration::from_millis(50)).count(), 1);
        assert_eq!(table.failed(&1, now), 2);
        assert_eq!(table.next_retry(), Some(now + Duration::from_millis(100)));
        table.set(1, 2);
        assert_eq!(table.pending(now).count(), 1);
        assert_eq!(table.next_retry(), None);
        table.failed(&1, now);
        table.observed(1, 2);
        assert_eq!((table.unsettled(), table.next_retry()), (0, None));
    }

    #[test]
    fn a_refresh_counts_what_it_contradicts() {
        let mut table: Table<u8, u8> = Table::new();
        assert_eq!(table.refresh([(1, 1), (2, 2)]), 2);
        table.set(1, 1);
        table.set(2, 2);
        assert_eq!(table.unsettled(), 0);
        assert_eq!(table.refresh([(1, 1), (2, 2)]), 0);
        assert_eq!(table.refresh([(1, 9), (3, 3)]), 3);
        assert_eq!(table.unsettled(), 3);
    }

    /// What may happen, over few keys and values so that they collide.
    #[derive(Debug, Clone)]
    enum Op {
        Set(u8, u8),
        Remove(u8),
        /// Somebody else changes the kernel and we hear of it.
        Tamper(u8, Option<u8>),
        /// Somebody else changes the kernel and we do not hear of it.
        Silent(u8, Option<u8>),
        /// Carry out what is pending; the bits say which writes fail.
        Work(u16),
        Refresh,
    }

    fn op() -> impl Strategy<Value = Op> {
        let key = 0..6_u8;
        let value = 0..3_u8;
        prop_oneof![
            (key.clone(), value.clone()).prop_map(|(k, v)| Op::Set(k, v)),
            key.clone().prop_map(Op::Remove),
            (key.clone(), proptest::option::of(value.clone())).prop_map(|(k, v)| Op::Tamper(k, v)),
            (key, proptest::option::of(value)).prop_map(|(k, v)| Op::Silent(k, v)),
            any::<u16>().prop_map(Op::Work),
            Just(Op::Refresh),
        ]
    }

    fn put(kernel: &mut BTreeMap<u8, u8>, key: u8, value: Option<u8>) {
        match value {
            Some(value) => kernel.insert(key, value),
            None => kernel.remove(&key),
        };
    }

    fn work(table: &mut Table<u8, u8>, kernel: &mut BTreeMap<u8, u8>, failing: u16, now: Instant) {
        let todo: Vec<(u8, Option<u8>)> =
            table.pending(now).map(|delta| (*delta.key, delta.desired.copied())).collect();
        assert!(todo.is_sorted(), "in key order, each key once");
        for (position, (key, value)) in todo.into_iter().enumerate() {
            if failing >> (position % 16) & 1 == 1 {
                table.failed(&key, now);
            } else {
                put(kernel, key, value);
                table.applied(&key);
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_happened_one_refresh_and_quiet_retries_reach_the_goal(ops in proptest::collection::vec(op(), 0..60)) {
            let mut now = Instant::now();
            let mut table = Table::new();
            let mut kernel = BTreeMap::new();
            let mut goal = BTreeMap::new();
            for op in ops {
                now += STEP;
                match op {
                    Op::Set(key, value) => {
                        goal.insert(key, value);
                        table.set(key, value);
                    }
                    Op::Remove(key) => {
                        goal.remove(&key);
                        table.remove(&key);
                    }
                    Op::Tamper(key, value) => {
                        put(&mut kernel, key, value);
                        match value {
                            Some(value) => table.observed(key, value),
                            None => table.vanished(&key),
                        }
                    }
                    Op::Silent(key, value) => put(&mut kernel, key, value),
                    Op::Work(failing) => work(&mut table, &mut kernel, failing, now),
                    Op::Refresh => {
                        table.refresh(kernel.clone());
                    }
                }
                // What the table believes about the goal is always right.
                let believed: BTreeMap<u8, u8> = table.all_desired().map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(&believed, &goal);
                // Every difference is either to be worked on now or has a time.
                let open = table.unsettled();
                let differing = (0..6).filter(|key| table.desired(key) != table.actual(key)).count();
                prop_assert_eq!(open, differing);
            }
            table.refresh(kernel.clone());
            while let Some(at) = table.next_retry().or((table.unsettled() > 0).then_some(now)) {
                work(&mut table, &mut kernel, 0, at);
            }
            prop_assert_eq!(table.unsettled(), 0);
            prop_assert_eq!(kernel, goal);
        }
    }
}
