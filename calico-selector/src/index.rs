//! Which selectors match which items, kept up to date while selectors, items and parents come, change and go.
//!
//! Items have labels of their own and inherit from parents, in order, the labels they lack: endpoints inherit from
//! profiles. Every change reports exactly the matches that started and stopped because of it, and costs in proportion
//! to what can be affected:
//!
//! - a new item is compared only with the selectors filed under one of its labels (each selector is filed once, under
//!   the label that it restricts most) and with the few that restrict nothing;
//! - a changed item, or the items of a changed parent, only with the selectors that mention a label which changed, and
//!   that could have matched its old or its new value;
//! - a new selector only with the items that have the rarest label it demands, found through their own labels or those
//!   of their parents.

mod filing;
mod numbers;
mod postings;
pub(crate) mod program;
mod slab;
pub(crate) mod symbols;

use std::hash::Hash;

use crate::labels::{Labels, Origin};
use crate::selector::Selector;

use filing::Filing;
use postings::Postings;
use program::{Demand, Program};
use slab::Slab;
use symbols::{LabelSet, Symbol, Symbols};

/// The index. `S`, `I` and `P` are the caller's names for selectors, items and parents.
///
/// ```
/// use calico_selector::{MatchIndex, Selector, Transition};
///
/// let mut index: MatchIndex<&str, &str, &str> = MatchIndex::new();
/// let mut seen = Vec::new();
/// let mut note = |selector: &&str, item: &&str, what| seen.push(format!("{selector} {item} {what:?}"));
///
/// index.set_selector(&"prod", &Selector::parse("pcns.env == 'prod' && role == 'db'").unwrap(), &mut note);
/// index.set_item(&"pod", [("role", "db")], &["kns.default"], &mut note);
/// index.set_parent(&"kns.default", [("pcns.env", "prod")], &mut note);
/// index.set_parent(&"kns.default", [("pcns.env", "test")], &mut note);
/// assert_eq!(seen, ["prod pod Started", "prod pod Stopped"]);
/// ```
#[derive(Debug)]
pub struct MatchIndex<S, I, P> {
    symbols: Symbols,
    selectors: Slab<S, SelectorEntry>,
    items: Slab<I, ItemEntry>,
    parents: Slab<P, ParentEntry>,
    /// Selectors, each under the labels it demands in one place: where a new item looks.
    selectors_by_demand: Filing,
    /// Selectors that demand no label: every new item looks here.
    undemanding: Postings,
    /// Selectors under every label they mention: where a changed label looks.
    selectors_by_mention: Filing,
    /// Items by their own labels, parents by theirs: where a new selector looks.
    items_by_label: Filing,
    parents_by_label: Filing,
}

/// What happened between a selector and an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transition {
    /// The item matches from now on.
    Started,
    /// The item does not match any more.
    Stopped,
}

#[derive(Debug)]
struct SelectorEntry {
    selector: Selector,
    program: Program,
    demands: Vec<Demand>,
    filed: Filed,
    members: Postings,
}

/// Where in `selectors_by_demand` a selector is.
#[derive(Clone, Copy, Debug)]
enum Filed {
    /// Under the label of the demand with this position.
    Under(usize),
    /// With those that demand nothing.
    Undemanding,
    /// Nowhere, since it can match nothing.
    Nowhere,
}

#[derive(Debug, Default)]
struct ItemEntry {
    labels: LabelSet,
    parents: Box<[u32]>,
    /// Selectors that match, ascending.
    matches: Vec<u32>,
}

#[derive(Debug, Default)]
struct ParentEntry {
    labels: LabelSet,
    /// Whether the parent itself is known, or only items that name it.
    known: bool,
    members: Postings,
}

impl<S, I, P> Default for MatchIndex<S, I, P> {
    fn default() -> Self {
        Self {
            symbols: Symbols::default(),
            selectors: Slab::default(),
            items: Slab::default(),
            parents: Slab::default(),
            selectors_by_demand: Filing::default(),
            undemanding: Postings::default(),
            selectors_by_mention: Filing::default(),
            items_by_label: Filing::default(),
            parents_by_label: Filing::default(),
        }
    }
}

impl<S, I, P> MatchIndex<S, I, P>
where
    S: Clone + Eq + Hash,
    I: Clone + Eq + Hash,
    P: Clone + Eq + Hash,
{
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a selector. `on` hears of the matches that start and stop.
    pub fn set_selector(&mut self, key: &S, selector: &Selector, mut on: impl FnMut(&S, &I, Transition)) {
        let program = Program::compile(selector.expr(), &mut self.symbols);
        let demands = program::demands(selector.restrictions(), &self.symbols);
        let (slot, members) = match self.selectors.slot(key) {
            None => (None, Postings::default()),
            Some(slot) => {
                if self.selectors.get(slot).is_some_and(|old| old.selector == *selector) {
                    program.release(&mut self.symbols);
                    return;
                }
                self.unfile(slot);
                let members = self.selectors.get_mut(slot).map(|old| std::mem::take(&mut old.members));
                (Some(slot), members.unwrap_or_default())
            }
        };
        let filed = if selector.restrictions().satisfiable() {
            self.best_demand(&demands).map_or(Filed::Undemanding, Filed::Under)
        } else {
            Filed::Nowhere
        };
        let entry = SelectorEntry { selector: selector.clone(), program, demands, filed, members };
        let slot = match slot {
            Some(slot) => {
                if let Some(place) = self.selectors.get_mut(slot) {
                    let old = std::mem::replace(place, entry);
                    old.program.release(&mut self.symbols);
                }
                slot
            }
            None => self.selectors.slot_or_insert_with(key, || entry),
        };
        self.file(slot);

        // Items that matched before may stop, items that have what is demanded may start.
        let mut affected = self.items_for(slot);
        if let Some(entry) = self.selectors.get(slot) {
            entry.members.append_to(&mut affected);
        }
        affected.sort_unstable();
        affected.dedup();
        for item in affected {
            self.judge(slot, item, &mut on);
        }
    }

    /// Removes a selector. `on` hears that its matches stopped.
    pub fn remove_selector(&mut self, key: &S, mut on: impl FnMut(&S, &I, Transition)) {
        let Some(slot) = self.selectors.slot(key) else { return };
        let members = self.selectors.get(slot).map(|entry| entry.members.sorted()).unwrap_or_default();
        for item in members {
            self.set_match(slot, item, false, &mut on);
        }
        self.unfile(slot);
        if let Some((_, entry)) = self.selectors.remove(slot) {
            entry.program.release(&mut self.symbols);
        }
    }

    /// Adds an item or replaces its labels and parents. Parents may be unknown yet. `on` hears of the matches that
    /// start and stop.
    pub fn set_item<K: AsRef<str>, V: AsRef<str>>(
        &mut self,
        key: &I,
        labels: impl IntoIterator<Item = (K, V)>,
        parents: &[P],
        mut on: impl FnMut(&S, &I, Transition),
    ) {
        let labels = LabelSet::acquire(labels, &mut self.symbols);
        let is_new = self.items.slot(key).is_none();
        let slot = self.items.slot_or_insert_with(key, ItemEntry::default);
        let mut lineage: Vec<u32> = Vec::with_capacity(parents.len());
        for parent in parents {
            let parent = self.parents.slot_or_insert_with(parent, ParentEntry::default);
            if !lineage.contains(&parent) {
                lineage.push(parent);
            }
        }
        for &parent in &lineage {
            if let Some(entry) = self.parents.get_mut(parent) {
                entry.members.insert(slot);
            }
        }
        let Some(entry) = self.items.get_mut(slot) else { return };
        let old = std::mem::replace(&mut entry.labels, labels);
        let old_lineage = std::mem::replace(&mut entry.parents, lineage.into());
        self.refile_labels(slot, &old);

        let mut affected = Vec::new();
        if is_new {
            self.selectors_for(slot, &mut affected);
        } else {
            self.selectors_concerned(slot, &old, &old_lineage, &mut affected);
        }
        old.release(&mut self.symbols);
        for &parent in &old_lineage {
            let stays = self.items.get(slot).is_some_and(|entry| entry.parents.contains(&parent));
            if !stays {
                self.leave_parent(slot, parent);
            }
        }
        self.judge_all(slot, affected, &mut on);
    }

    /// Removes an item. `on` hears that its matches stopped.
    pub fn remove_item(&mut self, key: &I, mut on: impl FnMut(&S, &I, Transition)) {
        let Some(slot) = self.items.slot(key) else { return };
        let matches = self.items.get(slot).map(|entry| entry.matches.clone()).unwrap_or_default();
        for selector in matches {
            self.set_match(selector, slot, false, &mut on);
        }
        let Some((_, entry)) = self.items.remove(slot) else { return };
        for (name, value) in entry.labels.iter() {
            self.items_by_label.remove(name, Some(value), slot);
        }
        entry.labels.release(&mut self.symbols);
        for &parent in &entry.parents {
            self.leave_parent(slot, parent);
        }
    }

    /// Adds a parent or replaces its labels. `on` hears of the matches of its items that start and stop.
    pub fn set_parent<K: AsRef<str>, V: AsRef<str>>(
        &mut self,
        key: &P,
        labels: impl IntoIterator<Item = (K, V)>,
        on: impl FnMut(&S, &I, Transition),
    ) {
        let labels = LabelSet::acquire(labels, &mut self.symbols);
        let slot = self.parents.slot_or_insert_with(key, ParentEntry::default);
        self.replace_parent(slot, labels, true, on);
    }

    /// Removes a parent; its items lose what they inherited from it. `on` hears of the matches that start and stop.
    pub fn remove_parent(&mut self, key: &P, on: impl FnMut(&S, &I, Transition)) {
        let Some(slot) = self.parents.slot(key) else { return };
        self.replace_parent(slot, LabelSet::default(), false, on);
        self.forget_parent_if_unused(slot);
    }

    /// Whether a selector matches an item.
    pub fn matches(&self, selector: &S, item: &I) -> bool {
        let Some(item) = self.items.slot(item) else { return false };
        let entry = self.selectors.slot(selector).and_then(|slot| self.selectors.get(slot));
        entry.is_some_and(|entry| entry.members.contains(item))
    }

    /// The items that a selector matches.
    pub fn items_of(&self, selector: &S) -> impl Iterator<Item = &I> {
        let entry = self.selectors.slot(selector).and_then(|slot| self.selectors.get(slot));
        let slots = entry.map(|entry| entry.members.sorted()).unwrap_or_default();
        slots.into_iter().filter_map(|slot| self.items.key(slot))
    }

    /// How many items a selector matches; `None` for an unknown selector.
    pub fn item_count_of(&self, selector: &S) -> Option<usize> {
        self.selectors.get(self.selectors.slot(selector)?).map(|entry| entry.members.len())
    }

    /// The selectors that match an item.
    pub fn selectors_of(&self, item: &I) -> impl Iterator<Item = &S> {
        let entry = self.items.slot(item).and_then(|slot| self.items.get(slot));
        let slots = entry.map(|entry| entry.matches.as_slice()).unwrap_or_default();
        slots.iter().filter_map(|&slot| self.selectors.key(slot))
    }

    /// The labels of an item, own and inherited.
    pub fn labels_of(&self, item: &I) -> Option<ItemLabels<'_, S, I, P>> {
        let slot = self.items.slot(item)?;
        Some(ItemLabels { index: self, slot })
    }

    /// The selector filed under a key.
    pub fn selector(&self, key: &S) -> Option<&Selector> {
        self.selectors.get(self.selectors.slot(key)?).map(|entry| &entry.selector)
    }

    /// Selectors that match no item, which is often a mistake of whoever wrote them.
    pub fn idle_selectors(&self) -> impl Iterator<Item = &S> {
        self.selectors.iter().filter(|(_, _, entry)| entry.members.is_empty()).map(|(_, key, _)| key)
    }

    /// Number of selectors.
    pub fn selector_count(&self) -> usize {
        self.selectors.len()
    }

    /// Number of items.
    pub fn item_count(&self) -> usize {
        self.items.len()
    }

    /// Number of distinct label names and values held, for memory accounting.
    pub fn text_count(&self) -> usize {
        self.symbols.len()
    }

    /// The effective value of a label of an item.
    fn value(&self, item: &ItemEntry, name: Symbol) -> Option<Symbol> {
        self.value_in(&item.labels, &item.parents, name)
    }

    fn value_in(&self, own: &LabelSet, parents: &[u32], name: Symbol) -> Option<Symbol> {
        own.get(name)
            .or_else(|| parents.iter().find_map(|&parent| self.parents.get(parent)?.labels.get(name)))
    }

    /// Evaluates one selector on one item and notes the result.
    fn judge(&mut self, selector: u32, item: u32, on: &mut impl FnMut(&S, &I, Transition)) {
        let (Some(entry), Some(labels)) = (self.selectors.get(selector), self.items.get(item)) else {
            return;
        };
        let is_match = entry.program.matches(&self.symbols, &|name| self.value(labels, name));
        self.set_match(selector, item, is_match, on);
    }

    fn judge_all(&mut self, item: u32, mut selectors: Vec<u32>, on: &mut impl FnMut(&S, &I, Transition)) {
        selectors.sort_unstable();
        selectors.dedup();
        for selector in selectors {
            self.judge(selector, item, on);
        }
    }

    fn set_match(
        &mut self,
        selector: u32,
        item: u32,
        is_match: bool,
        on: &mut impl FnMut(&S, &I, Transition),
    ) {
        let (Some(entry), Some(matched)) = (self.selectors.get_mut(selector), self.items.get_mut(item))
        else {
            return;
        };
        let transition = match (matched.matches.binary_search(&selector), is_match) {
            (Err(at), true) => {
                matched.matches.insert(at, selector);
                entry.members.insert(item);
                Transition::Started
            }
            (Ok(at), false) => {
                matched.matches.remove(at);
                entry.members.remove(item);
                Transition::Stopped
            }
            _ => return,
        };
        if let (Some(selector), Some(item)) = (self.selectors.key(selector), self.items.key(item)) {
            on(selector, item, transition);
        }
    }

    /// The demand under which a selector costs new items least: values before mere presence, then the least crowded
    /// place.
    fn best_demand(&self, demands: &[Demand]) -> Option<usize> {
        let load = |demand: &Demand| match &demand.one_of {
            Some(values) => {
                let crowd = values.iter().map(|&value| {
                    self.selectors_by_demand.valued(demand.label, value).map_or(0, Postings::len)
                });
                (0, crowd.sum::<usize>() + values.len())
            }
            None => (1, self.selectors_by_demand.load_of_any(demand.label)),
        };
        demands.iter().enumerate().min_by_key(|(_, demand)| load(demand)).map(|(at, _)| at)
    }

    fn file(&mut self, slot: u32) {
        let Some(entry) = self.selectors.get(slot) else { return };
        match entry.filed {
            Filed::Nowhere => {}
            Filed::Undemanding => {
                self.undemanding.insert(slot);
            }
            Filed::Under(at) => {
                if let Some(demand) = entry.demands.get(at) {
                    each_place(demand, |label, value| self.selectors_by_demand.insert(label, value, slot));
                }
            }
        }
        for label in entry.program.labels() {
            each_mention(entry, label, |value| self.selectors_by_mention.insert(label, value, slot));
        }
    }

    fn unfile(&mut self, slot: u32) {
        let Some(entry) = self.selectors.get(slot) else { return };
        match entry.filed {
            Filed::Nowhere => {}
            Filed::Undemanding => {
                self.undemanding.remove(slot);
            }
            Filed::Under(at) => {
                if let Some(demand) = entry.demands.get(at) {
                    each_place(demand, |label, value| self.selectors_by_demand.remove(label, value, slot));
                }
            }
        }
        for label in entry.program.labels() {
            each_mention(entry, label, |value| self.selectors_by_mention.remove(label, value, slot));
        }
    }

    /// Items that may match a selector, through the demand that fewest items satisfy.
    fn items_for(&self, selector: u32) -> Vec<u32> {
        let Some(entry) = self.selectors.get(selector) else { return Vec::new() };
        if matches!(entry.filed, Filed::Nowhere) {
            return Vec::new();
        }
        let rarest = entry
            .demands
            .iter()
            .map(|demand| (self.bearers(demand).fold(0, |sum, set| sum + set.len()), demand))
            .min_by_key(|(count, _)| *count)
            .filter(|(count, _)| *count < self.items.len());
        match rarest {
            Some((count, demand)) => {
                let mut out = Vec::with_capacity(count);
                self.bearers(demand).for_each(|set| set.append_to(&mut out));
                out
            }
            None => self.items.iter().map(|(slot, _, _)| slot).collect(),
        }
    }

    /// The sets of items that satisfy a demand, through their own labels or those of a parent.
    fn bearers<'a>(&'a self, demand: &'a Demand) -> Box<dyn Iterator<Item = &'a Postings> + 'a> {
        let members = |parents: &'a Postings| {
            parents.sorted().into_iter().filter_map(|parent| self.parents.get(parent).map(|p| &p.members))
        };
        match &demand.one_of {
            Some(values) => Box::new(values.iter().flat_map(move |&value| {
                let own = self.items_by_label.valued(demand.label, value);
                let parents = self.parents_by_label.valued(demand.label, value);
                own.into_iter().chain(parents.into_iter().flat_map(members))
            })),
            None => Box::new(
                self.items_by_label
                    .each_value(demand.label)
                    .chain(self.parents_by_label.each_value(demand.label).flat_map(members)),
            ),
        }
    }

    /// Selectors that may match a new item.
    fn selectors_for(&self, item: u32, out: &mut Vec<u32>) {
        let Some(entry) = self.items.get(item) else { return };
        self.undemanding.append_to(out);
        for (name, value) in entry.labels.iter() {
            self.selectors_by_demand.interested(name, value, out);
        }
        for parent in entry.parents.iter().filter_map(|&parent| self.parents.get(parent)) {
            for (name, value) in parent.labels.iter() {
                if self.value(entry, name) == Some(value) {
                    self.selectors_by_demand.interested(name, value, out);
                }
            }
        }
    }

    /// Selectors whose verdict on an item can differ from that on its former labels and parents.
    fn selectors_concerned(&self, item: u32, old: &LabelSet, old_parents: &[u32], out: &mut Vec<u32>) {
        let Some(entry) = self.items.get(item) else { return };
        let mut names: Vec<Symbol> = old.iter().chain(entry.labels.iter()).map(|(name, _)| name).collect();
        if *old_parents != *entry.parents {
            for parent in old_parents.iter().chain(&entry.parents).filter_map(|&p| self.parents.get(p)) {
                names.extend(parent.labels.iter().map(|(name, _)| name));
            }
        }
        names.sort_unstable();
        names.dedup();
        for name in names {
            let (from, to) = (self.value_in(old, old_parents, name), self.value(entry, name));
            if from != to {
                self.selectors_by_mention.concerned(name, from, to, out);
            }
        }
    }

    /// Moves an item from its former labels to those it has now.
    fn refile_labels(&mut self, slot: u32, old: &LabelSet) {
        let Some(entry) = self.items.get(slot) else { return };
        for (name, value) in old.iter() {
            if entry.labels.get(name) != Some(value) {
                self.items_by_label.remove(name, Some(value), slot);
            }
        }
        for (name, value) in entry.labels.iter() {
            if old.get(name) != Some(value) {
                self.items_by_label.insert(name, Some(value), slot);
            }
        }
    }

    fn replace_parent(
        &mut self,
        slot: u32,
        labels: LabelSet,
        known: bool,
        mut on: impl FnMut(&S, &I, Transition),
    ) {
        let Some(entry) = self.parents.get_mut(slot) else { return };
        entry.known = known;
        let old = std::mem::replace(&mut entry.labels, labels);
        let members = entry.members.sorted();
        let mut names: Vec<Symbol> = old.iter().chain(entry.labels.iter()).map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|&name| old.get(name) != entry.labels.get(name));
        for &name in &names {
            if let Some(value) = old.get(name) {
                self.parents_by_label.remove(name, Some(value), slot);
            }
            if let Some(value) = entry.labels.get(name) {
                self.parents_by_label.insert(name, Some(value), slot);
            }
        }
        if !names.is_empty() {
            for item in members {
                let affected = self.selectors_concerned_by_parent(item, slot, &old, &names);
                self.judge_all(item, affected, &mut on);
            }
        }
        old.release(&mut self.symbols);
    }

    /// Selectors whose verdict on an item can differ since a parent of it had other labels.
    fn selectors_concerned_by_parent(
        &self,
        item: u32,
        parent: u32,
        old: &LabelSet,
        names: &[Symbol],
    ) -> Vec<u32> {
        let mut out = Vec::new();
        let Some(entry) = self.items.get(item) else { return out };
        for &name in names {
            let to = self.value(entry, name);
            let from = entry.labels.get(name).or_else(|| {
                entry.parents.iter().find_map(|&p| {
                    if p == parent { old.get(name) } else { self.parents.get(p)?.labels.get(name) }
                })
            });
            if from != to {
                self.selectors_by_mention.concerned(name, from, to, &mut out);
            }
        }
        out
    }

    fn leave_parent(&mut self, item: u32, parent: u32) {
        if let Some(entry) = self.parents.get_mut(parent) {
            entry.members.remove(item);
        }
        self.forget_parent_if_unused(parent);
    }

    fn forget_parent_if_unused(&mut self, slot: u32) {
        if self.parents.get(slot).is_some_and(|entry| !entry.known && entry.members.is_empty()) {
            self.parents.remove(slot);
        }
    }
}

/// The places of a demand: one for each value, or the one for any value.
fn each_place(demand: &Demand, mut visit: impl FnMut(Symbol, Option<Symbol>)) {
    match &demand.one_of {
        Some(values) => values.iter().for_each(|&value| visit(demand.label, Some(value))),
        None => visit(demand.label, None),
    }
}

/// The values of a mentioned label that matter: those demanded, or any.
fn each_mention(entry: &SelectorEntry, label: Symbol, mut visit: impl FnMut(Option<Symbol>)) {
    match entry.demands.iter().find(|demand| demand.label == label) {
        Some(Demand { one_of: Some(values), .. }) => values.iter().for_each(|&value| visit(Some(value))),
        _ => visit(None),
    }
}

/// The labels of an item in a [`MatchIndex`], looked up in place.
pub struct ItemLabels<'a, S, I, P> {
    index: &'a MatchIndex<S, I, P>,
    slot: u32,
}

impl<S, I, P> Labels for ItemLabels<'_, S, I, P>
where
    S: Clone + Eq + Hash,
    I: Clone + Eq + Hash,
    P: Clone + Eq + Hash + AsRef<str>,
{
    fn get(&self, name: &str) -> Option<&str> {
        let item = self.index.items.get(self.slot)?;
        let value = self.index.value(item, self.index.symbols.find(name)?)?;
        Some(self.index.symbols.text(value))
    }

    fn origin(&self, name: &str) -> Origin<'_> {
        let find = || {
            let item = self.index.items.get(self.slot)?;
            let name = self.index.symbols.find(name)?;
            if item.labels.get(name).is_some() {
                return None;
            }
            let parent = item.parents.iter().find(|&&p| {
                self.index.parents.get(p).is_some_and(|entry| entry.labels.get(name).is_some())
            })?;
            self.index.parents.key(*parent)
        };
        find().map_or(Origin::Own, |parent| Origin::Parent(parent.as_ref()))
    }
}
