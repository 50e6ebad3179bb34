//! Slots filed under label names and values.

use super::numbers::NumberMap;
use super::postings::Postings;
use super::symbols::Symbol;

/// For each label name: who is filed under which value, and who under any value.
#[derive(Debug, Default)]
pub(super) struct Filing {
    labels: NumberMap<Symbol, Drawer>,
}

#[derive(Debug, Default)]
struct Drawer {
    values: NumberMap<Symbol, Postings>,
    any: Postings,
}

impl Filing {
    pub(super) fn insert(&mut self, label: Symbol, value: Option<Symbol>, slot: u32) {
        let drawer = self.labels.entry(label).or_default();
        match value {
            Some(value) => drawer.values.entry(value).or_default().insert(slot),
            None => drawer.any.insert(slot),
        };
    }

    pub(super) fn remove(&mut self, label: Symbol, value: Option<Symbol>, slot: u32) {
        let Some(drawer) = self.labels.get_mut(&label) else { return };
        match value {
            Some(value) => {
                if let Some(postings) = drawer.values.get_mut(&value) {
                    postings.remove(slot);
                    if postings.is_empty() {
                        drawer.values.remove(&value);
                    }
                }
            }
            None => {
                drawer.any.remove(slot);
            }
        }
        if drawer.values.is_empty() && drawer.any.is_empty() {
            self.labels.remove(&label);
        }
    }

    /// Who is filed under exactly this value.
    pub(super) fn valued(&self, label: Symbol, value: Symbol) -> Option<&Postings> {
        self.labels.get(&label)?.values.get(&value)
    }

    /// Who is filed under each value of a label.
    pub(super) fn each_value(&self, label: Symbol) -> impl Iterator<Item = &Postings> {
        self.labels.get(&label).into_iter().flat_map(|drawer| drawer.values.values())
    }

    /// How many are filed under any value of a label.
    pub(super) fn load_of_any(&self, label: Symbol) -> usize {
        self.labels.get(&label).map_or(0, |drawer| drawer.any.len())
    }

    /// Appends everybody who cares that a label has this value: those filed under it and under any.
    pub(super) fn interested(&self, label: Symbol, value: Symbol, out: &mut Vec<u32>) {
        if let Some(drawer) = self.labels.get(&label) {
            drawer.any.append_to(out);
            if let Some(postings) = drawer.values.get(&value) {
                postings.append_to(out);
            }
        }
    }

    /// Appends everybody who cares that a label goes from one value to another; `None` is absent.
    pub(super) fn concerned(
        &self,
        label: Symbol,
        from: Option<Symbol>,
        to: Option<Symbol>,
        out: &mut Vec<u32>,
    ) {
        let Some(drawer) = self.labels.get(&label) else { return };
        drawer.any.append_to(out);
        for value in [from, to].into_iter().flatten() {
            if let Some(postings) = drawer.values.get(&value) {
                postings.append_to(out);
            }
        }
    }
}
