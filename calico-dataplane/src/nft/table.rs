//! The desired content of the table, and what the kernel lacks of it.
//!
//! The kernel's content is not kept twice: an object is remembered only as "the kernel has it as desired"
//! or "it was touched". A flush costs what was touched, whatever the size of the table.

use std::collections::{BTreeMap, BTreeSet};

use super::batch::Batch;
use super::object::{
    BaseHook, Chain, Element, Elements, Flowtable, Key, MAX_COMMENT, Name, Ruleset, Set, SetSpec,
};

/// Desired state of one table with the difference to the kernel.
///
/// ```
/// use calico_dataplane::nft::object::Chain;
/// use calico_dataplane::nft::table::Table;
///
/// let mut table = Table::new("calico");
/// table.set_chain(&"example".into(), Chain::default());
/// assert_eq!(table.batch().len(), 2, "the table and the chain");
/// table.committed();
/// assert!(table.batch().is_empty());
/// ```
#[derive(Debug)]
pub struct Table {
    name: Name,
    desired: Ruleset,
    /// The kernel has the table.
    exists: bool,
    /// Throw the kernel's table away first, in the same transaction.
    recreate: bool,
    /// Chains the kernel has.
    kernel_chains: BTreeMap<Name, Option<BaseHook>>,
    /// Sets the kernel has.
    kernel_sets: BTreeMap<Name, SetSpec>,
    kernel_counters: BTreeSet<Name>,
    kernel_flowtables: BTreeMap<Name, Flowtable>,
    dirty_chains: BTreeSet<Name>,
    dirty_sets: BTreeSet<Name>,
    dirty_counters: BTreeSet<Name>,
    /// For sets the kernel has: touched keys with the kernel's element.
    touched: BTreeMap<Name, BTreeMap<Key, Option<Element>>>,
}

impl Table {
    /// An empty table that the kernel does not have.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            desired: Ruleset::default(),
            exists: false,
            recreate: false,
            kernel_chains: BTreeMap::new(),
            kernel_sets: BTreeMap::new(),
            kernel_counters: BTreeSet::new(),
            kernel_flowtables: BTreeMap::new(),
            dirty_chains: BTreeSet::new(),
            dirty_sets: BTreeSet::new(),
            dirty_counters: BTreeSet::new(),
            touched: BTreeMap::new(),
        }
    }

    /// Name of the table.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What the table should hold.
    pub fn desired(&self) -> &Ruleset {
        &self.desired
    }

    /// Creates a chain or replaces its rules.
    pub fn set_chain(&mut self, name: &Name, chain: Chain) {
        if self.desired.chains.get(name) != Some(&chain) {
            self.dirty_chains.insert(name.clone());
            self.desired.chains.insert(name.clone(), chain);
        }
    }

    /// Removes a chain; absent is fine.
    pub fn remove_chain(&mut self, name: &Name) {
        if self.desired.chains.remove(name).is_some() {
            self.dirty_chains.insert(name.clone());
        }
    }

    /// Creates an empty set or map, unless one of that type is there.
    pub fn add_set(&mut self, name: &Name, spec: SetSpec) {
        match self.desired.sets.get(name) {
            Some(set) if set.spec == spec => {}
            _ => {
                // Removed (or of another type) since the last commit while the kernel still has it: which of its
                // elements to delete is no longer known.
                self.recreate |= self.kernel_sets.contains_key(name);
                self.desired.sets.insert(name.clone(), Set { spec, elements: Elements::new() });
                self.dirty_sets.insert(name.clone());
            }
        }
    }

    /// Removes a set or map; absent is fine.
    pub fn remove_set(&mut self, name: &Name) {
        if self.desired.sets.remove(name).is_some() {
            self.dirty_sets.insert(name.clone());
            self.touched.remove(name);
        }
    }

    /// Elements of a set.
    pub fn elements(&self, name: &Name) -> Option<&Elements> {
        self.desired.sets.get(name).map(|set| &set.elements)
    }

    /// Adds an element, or changes what it leads to. A set that does not exist is left alone.
    pub fn set_element(&mut self, name: &Name, key: Key, element: Element) {
        let Some(set) = self.desired.sets.get_mut(name) else { return };
        if set.elements.get(&key) == Some(&element) {
            return;
        }
        let before = set.elements.insert(key.clone(), element);
        self.touch(name, key, before);
    }

    /// Removes an element; absent is fine.
    pub fn remove_element(&mut self, name: &Name, key: &Key) {
        let Some(set) = self.desired.sets.get_mut(name) else { return };
        if let Some((key, before)) = set.elements.remove_entry(key) {
            self.touch(name, key, Some(before));
        }
    }

    fn touch(&mut self, name: &Name, key: Key, before: Option<Element>) {
        if self.kernel_sets.contains_key(name) && !self.recreate {
            match self.touched.get_mut(name) {
                Some(keys) => {
                    keys.entry(key).or_insert(before);
                }
                None => {
                    self.touched.insert(name.clone(), BTreeMap::from([(key, before)]));
                }
            }
        }
    }

    /// Makes `elements` the whole content of a set.
    pub fn replace_elements(&mut self, name: &Name, elements: Elements) {
        let Some(set) = self.desired.sets.get(name) else { return };
        let gone: Vec<Key> =
            set.elements.keys().filter(|key| !elements.contains_key(*key)).cloned().collect();
        gone.iter().for_each(|key| self.remove_element(name, key));
        elements.into_iter().for_each(|(key, element)| self.set_element(name, key, element));
    }

    /// Creates a named counter.
    pub fn add_counter(&mut self, name: &Name) {
        if self.desired.counters.insert(name.clone()) {
            self.dirty_counters.insert(name.clone());
        }
    }

    /// Removes a named counter.
    pub fn remove_counter(&mut self, name: &Name) {
        if self.desired.counters.remove(name) {
            self.dirty_counters.insert(name.clone());
        }
    }

    /// Keys of a set whose elements the next batch adds, changes or deletes.
    pub fn pending_keys(&self, set: &Name) -> Vec<Key> {
        if self.exists && !self.recreate && !self.dirty_sets.contains(set) {
            return self.touched.get(set).map(|keys| keys.keys().cloned().collect()).unwrap_or_default();
        }
        self.elements(set).map(|elements| elements.keys().cloned().collect()).unwrap_or_default()
    }

    /// Creates a flowtable or changes its devices; `None` removes it.
    pub fn set_flowtable(&mut self, name: &Name, flowtable: Option<Flowtable>) {
        match flowtable {
            Some(flowtable) => drop(self.desired.flowtables.insert(name.clone(), flowtable)),
            None => drop(self.desired.flowtables.remove(name)),
        }
    }

    /// True when the kernel has everything.
    pub fn is_clean(&self) -> bool {
        self.exists
            && !self.recreate
            && self.dirty_chains.is_empty()
            && self.dirty_sets.is_empty()
            && self.dirty_counters.is_empty()
            && self.touched.is_empty()
            && self.kernel_flowtables == self.desired.flowtables
    }

    /// The transaction that gives the kernel what it lacks; empty when it lacks nothing.
    ///
    /// Everything referenced is created before its referrer and deleted after it; elements leave before others
    /// come, so ranges may move inside one set.
    pub fn batch(&self) -> Batch {
        let mut batch = Batch::new(&self.name);
        if self.is_clean() {
            return batch;
        }
        if self.recreate || !self.exists {
            batch.add_table();
            if self.recreate {
                batch.delete_table();
                batch.add_table();
            }
            self.write_all(&mut batch);
        } else {
            self.write_difference(&mut batch);
        }
        batch
    }

    fn write_all(&self, batch: &mut Batch) {
        let desired = &self.desired;
        desired.flowtables.iter().for_each(|(name, flowtable)| batch.add_flowtable(name, flowtable));
        desired.counters.iter().for_each(|name| batch.add_counter(name));
        desired.sets.iter().for_each(|(name, set)| batch.add_set(name, &set.spec));
        desired.chains.iter().for_each(|(name, chain)| batch.add_chain(name, chain));
        for (name, set) in desired.sets.iter().filter(|(_, set)| !set.spec.is_map()) {
            batch.add_elements(name, &set.spec, &set.elements);
        }
        desired.chains.iter().for_each(|(name, chain)| write_rules(batch, name, chain));
        for (name, set) in desired.sets.iter().filter(|(_, set)| set.spec.is_map()) {
            batch.add_elements(name, &set.spec, &set.elements);
        }
    }

    fn write_difference(&self, batch: &mut Batch) {
        let desired = &self.desired;
        for (name, flowtable) in &desired.flowtables {
            if self.kernel_flowtables.get(name) != Some(flowtable) {
                batch.add_flowtable(name, flowtable);
            }
        }
        for name in &self.dirty_counters {
            if desired.counters.contains(name) && !self.kernel_counters.contains(name) {
                batch.add_counter(name);
            }
        }
        let new_sets = || {
            let new = |name: &&Name| !self.kernel_sets.contains_key(*name);
            self.dirty_sets.iter().filter(new).filter_map(|name| Some((name, desired.sets.get(name)?)))
        };
        new_sets().for_each(|(name, set)| batch.add_set(name, &set.spec));

        let differs = |name: &Name, chain: &Chain| self.kernel_chains.get(name) != Some(&chain.base);
        for name in &self.dirty_chains {
            match (self.kernel_chains.contains_key(name), desired.chains.get(name)) {
                (false, Some(chain)) => batch.add_chain(name, chain),
                // Another hook: only a new chain can have it.
                (true, Some(chain)) if differs(name, chain) => {
                    batch.flush_chain(name);
                    batch.delete_chain(name);
                    batch.add_chain(name, chain);
                }
                (true, _) => batch.flush_chain(name),
                (false, None) => {}
            }
        }

        for (name, keys) in &self.touched {
            let Some(set) = desired.sets.get(name) else { continue };
            let gone = keys.iter().filter_map(|(key, before)| {
                let before = before.as_ref()?;
                (set.elements.get(key) != Some(before)).then_some((key, before))
            });
            batch.delete_elements(name, &set.spec, gone);
        }
        let write_elements = |batch: &mut Batch, maps: bool| {
            for (name, set) in new_sets().filter(|(_, set)| set.spec.is_map() == maps) {
                batch.add_elements(name, &set.spec, &set.elements);
            }
            for (name, keys) in &self.touched {
                let Some(set) = desired.sets.get(name).filter(|set| set.spec.is_map() == maps) else {
                    continue;
                };
                let come = keys.iter().filter_map(|(key, before)| {
                    let entry = set.elements.get_key_value(key)?;
                    (before.as_ref() != Some(entry.1)).then_some(entry)
                });
                batch.add_elements(name, &set.spec, come);
            }
        };
        write_elements(batch, false);
        for name in &self.dirty_chains {
            if let Some(chain) = desired.chains.get(name) {
                write_rules(batch, name, chain);
            }
        }
        write_elements(batch, true);

        for name in &self.dirty_chains {
            if self.kernel_chains.contains_key(name) && !desired.chains.contains_key(name) {
                batch.delete_chain(name);
            }
        }
        for name in &self.dirty_sets {
            if self.kernel_sets.contains_key(name) && !desired.sets.contains_key(name) {
                batch.delete_set(name);
            }
        }
        for name in &self.dirty_counters {
            if self.kernel_counters.contains(name) && !desired.counters.contains(name) {
                batch.delete_counter(name);
            }
        }
        for name in self.kernel_flowtables.keys() {
            if !desired.flowtables.contains_key(name) {
                batch.delete_flowtable(name);
            }
        }
    }

    /// Call when the batch was applied: the kernel now has everything.
    pub fn committed(&mut self) {
        if self.recreate || !self.exists {
            self.kernel_chains.clear();
            self.kernel_sets.clear();
            self.kernel_counters.clear();
            self.kernel_flowtables.clear();
            self.kernel_chains
                .extend(self.desired.chains.iter().map(|(name, chain)| (name.clone(), chain.base)));
            self.kernel_sets
                .extend(self.desired.sets.iter().map(|(name, set)| (name.clone(), set.spec.clone())));
            self.kernel_counters.clone_from(&self.desired.counters);
        } else {
            for name in &self.dirty_chains {
                match self.desired.chains.get(name) {
                    Some(chain) => drop(self.kernel_chains.insert(name.clone(), chain.base)),
                    None => drop(self.kernel_chains.remove(name)),
                }
            }
            for name in &self.dirty_sets {
                match self.desired.sets.get(name) {
                    Some(set) => drop(self.kernel_sets.insert(name.clone(), set.spec.clone())),
                    None => drop(self.kernel_sets.remove(name)),
                }
            }
            for name in &self.dirty_counters {
                if self.desired.counters.contains(name) {
                    self.kernel_counters.insert(name.clone());
                } else {
                    self.kernel_counters.remove(name);
                }
            }
        }
        self.kernel_flowtables.clone_from(&self.desired.flowtables);
        self.exists = true;
        self.recreate = false;
        self.forget_pending();
    }

    fn forget_pending(&mut self) {
        self.dirty_chains.clear();
        self.dirty_sets.clear();
        self.dirty_counters.clear();
        self.touched.clear();
    }

    /// Takes note of what the kernel really holds, as read back: from here the difference is exact.
    pub fn adopt(&mut self, exists: bool, actual: &Ruleset) {
        self.forget_pending();
        self.exists = exists;
        self.recreate = false;
        self.kernel_chains = actual.chains.iter().map(|(name, chain)| (name.clone(), chain.base)).collect();
        self.kernel_sets = actual.sets.iter().map(|(name, set)| (name.clone(), set.spec.clone())).collect();
        self.kernel_counters.clone_from(&actual.counters);
        self.kernel_flowtables.clone_from(&actual.flowtables);
        if !exists {
            return;
        }
        for (name, chain) in &self.desired.chains {
            if actual.chains.get(name) != Some(chain) {
                self.dirty_chains.insert(name.clone());
            }
        }
        self.dirty_chains
            .extend(actual.chains.keys().filter(|name| !self.desired.chains.contains_key(*name)).cloned());
        self.dirty_counters = actual.counters.symmetric_difference(&self.desired.counters).cloned().collect();
        for (name, set) in &self.desired.sets {
            match actual.sets.get(name) {
                Some(kernel) if kernel.spec == set.spec => {
                    let touched = difference(&set.elements, &kernel.elements);
                    if !touched.is_empty() {
                        self.touched.insert(name.clone(), touched);
                    }
                }
                // A set of ours with another type, or elements this code would not know how to delete.
                Some(_) => self.recreate = true,
                None => drop(self.dirty_sets.insert(name.clone())),
            }
        }
        self.dirty_sets
            .extend(actual.sets.keys().filter(|name| !self.desired.sets.contains_key(*name)).cloned());
    }

    /// Gives up on the difference: the next batch deletes the kernel's table and writes it anew, atomically.
    pub fn recreate(&mut self) {
        self.recreate = true;
    }
}

fn write_rules(batch: &mut Batch, name: &Name, chain: &Chain) {
    for (index, rule) in chain.rules.iter().enumerate() {
        debug_assert!(rule.comment.as_ref().is_none_or(|comment| comment.len() <= MAX_COMMENT));
        batch.add_rule(name, index as u32, rule);
    }
}

/// Keys whose elements differ, with the kernel's.
fn difference(desired: &Elements, kernel: &Elements) -> BTreeMap<Key, Option<Element>> {
    let mut touched = BTreeMap::new();
    if desired == kernel {
        return touched;
    }
    for (key, element) in desired {
        let actual = kernel.get(key);
        if actual != Some(element) {
            touched.insert(key.clone(), actual.cloned());
        }
    }
    for (key, element) in kernel {
        if !desired.contains_key(key) {
            touched.insert(key.clone(), Some(element.clone()));
        }
    }
    touched
}
