//! Labels and selectors as numbers, for those who match many selectors against many items and keep both.
//!
//! Every label name and value is stored once. A selector is compiled against the same table, so that comparing texts
//! becomes comparing integers. Besides, labels and selectors carry a signature of a few words: what a selector demands must
//! be among what the labels offer, so most pairs that do not match are told apart without a look at any label.

use crate::index::program::{self, Program};
use crate::index::symbols::{LabelSet, Symbol, Symbols};
use crate::selector::Selector;

/// The table of texts that labels and selectors share.
///
/// ```
/// use calico_selector::{Selector, interned::Interner};
///
/// let mut texts = Interner::new();
/// let selector = texts.selector(&Selector::parse("role == 'db' && pcns.env != 'test'")?);
/// let pod = texts.labels([("role", "db"), ("zone", "a")]);
/// assert!(selector.matches(&pod, &texts));
/// // Labels of a profile count where the pod has none of that name, and are stored once for all its pods.
/// let profile = texts.labels([("pcns.env", "test"), ("role", "web")]);
/// assert!(!selector.matches_inherited(&pod, &[&profile], &texts));
/// texts.forget_labels(pod);
/// # Ok::<(), calico_selector::ParseError>(())
/// ```
#[derive(Debug, Default)]
pub struct Interner {
    symbols: Symbols,
}

/// Labels of one item or profile in an [`Interner`].
#[derive(Debug)]
pub struct InternedLabels {
    offers: Signature,
    places: Places,
}

/// A selector compiled for an [`Interner`].
#[derive(Debug)]
pub struct InternedSelector {
    demands: Signature,
    /// The pairs of the demand with fewest values, when it has several; of these one must be there. 0 when there is none.
    one_of: u128,
    program: Program,
}

impl Interner {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores labels. When a name is repeated the last value counts.
    pub fn labels<K: AsRef<str>, V: AsRef<str>>(
        &mut self,
        labels: impl IntoIterator<Item = (K, V)>,
    ) -> InternedLabels {
        let labels = LabelSet::acquire(labels, &mut self.symbols);
        let places = Places::new(&labels);
        let mut offers = Signature::default();
        for (name, value) in labels.iter() {
            offers.add_name(name);
            offers.add_pair(name, value);
        }
        InternedLabels { offers, places }
    }

    /// Compiles a selector.
    pub fn selector(&mut self, selector: &Selector) -> InternedSelector {
        let program = Program::compile(selector.expr(), &mut self.symbols);
        let mut demands = Signature::default();
        let mut choices: Option<Vec<Symbol>> = None;
        let mut chooser = Symbol::NONE;
        for demand in program::demands(selector.restrictions(), &self.symbols) {
            match demand.one_of.as_deref() {
                Some([value]) => demands.add_pair(demand.label, *value),
                Some(values) if choices.as_ref().is_none_or(|fewest| values.len() < fewest.len()) => {
                    demands.add_name(demand.label);
                    choices = Some(values.to_vec());
                    chooser = demand.label;
                }
                _ => demands.add_name(demand.label),
            }
        }
        let mut one_of = Signature::default();
        choices.iter().flatten().for_each(|value| one_of.add_pair(chooser, *value));
        InternedSelector { demands, one_of: one_of.pairs, program }
    }

    /// Gives the texts of labels back; those that nobody uses any more are dropped.
    pub fn forget_labels(&mut self, labels: InternedLabels) {
        for (name, value) in labels.places.iter() {
            self.symbols.release(name);
            self.symbols.release(value);
        }
    }

    /// Gives the texts of a selector back.
    pub fn forget_selector(&mut self, selector: InternedSelector) {
        selector.program.release(&mut self.symbols);
    }

    /// Number of distinct texts.
    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    /// True when no text is stored.
    pub fn is_empty(&self) -> bool {
        self.symbols.len() == 0
    }
}

impl InternedSelector {
    /// Whether labels match. Never allocates. The labels must be of the same table as the selector.
    #[inline]
    pub fn matches(&self, labels: &InternedLabels, texts: &Interner) -> bool {
        self.possible(labels.offers) && self.program.matches(&texts.symbols, &|name| labels.places.get(name))
    }

    /// Whether labels match together with those inherited: own labels win, then the first parent that has the label.
    pub fn matches_inherited(
        &self,
        own: &InternedLabels,
        parents: &[&InternedLabels],
        texts: &Interner,
    ) -> bool {
        let offers = parents.iter().fold(own.offers, |sum, parent| sum.with(parent.offers));
        self.possible(offers)
            && self.program.matches(&texts.symbols, &|name| {
                own.places.get(name).or_else(|| parents.iter().find_map(|parent| parent.places.get(name)))
            })
    }

    #[inline(always)]
    fn possible(&self, offers: Signature) -> bool {
        self.demands.within(offers) && (self.one_of == 0 || self.one_of & offers.pairs != 0)
    }
}

/// Labels in a table that is at most half full, so that a look at one or two places finds a name or its absence.
#[derive(Debug)]
struct Places {
    /// [`Symbol::NONE`] where nothing is.
    table: Box<[(Symbol, Symbol)]>,
    shift: u32,
}

impl Places {
    fn new(labels: &LabelSet) -> Self {
        let size = (labels.iter().count() * 2).next_power_of_two();
        let mut places = Self {
            table: vec![(Symbol::NONE, Symbol::NONE); size].into(),
            shift: 32 - size.trailing_zeros(),
        };
        for (name, value) in labels.iter() {
            let mut at = places.first(name);
            while let Some(place) = places.table.get_mut(at) {
                if place.0 == Symbol::NONE {
                    *place = (name, value);
                    break;
                }
                at = (at + 1) & (size - 1);
            }
        }
        places
    }

    #[inline(always)]
    fn first(&self, name: Symbol) -> usize {
        // A shift by 32, of a table with one place, is none.
        name.number().wrapping_mul(0x9E37_79B1).checked_shr(self.shift).unwrap_or(0) as usize
    }

    #[inline(always)]
    fn get(&self, name: Symbol) -> Option<Symbol> {
        let mut at = self.first(name);
        while let Some(&(found, value)) = self.table.get(at) {
            if found == name {
                return Some(value);
            }
            if found == Symbol::NONE {
                break;
            }
            at = (at + 1) & (self.table.len() - 1);
        }
        None
    }

    fn iter(&self) -> impl Iterator<Item = (Symbol, Symbol)> {
        self.table.iter().copied().filter(|(name, _)| *name != Symbol::NONE)
    }
}

/// Bloom filters of one hash: over pairs of name and value, and over names.
#[derive(Clone, Copy, Debug, Default)]
struct Signature {
    pairs: u128,
    names: u64,
}

impl Signature {
    fn add_name(&mut self, name: Symbol) {
        self.names |= 1 << (name.number().wrapping_mul(0x9E37_79B1) >> 26);
    }

    fn add_pair(&mut self, name: Symbol, value: Symbol) {
        let mixed = name.number().wrapping_mul(0x85EB_CA6B) ^ value.number().wrapping_mul(0xC2B2_AE35);
        self.pairs |= 1 << ((mixed ^ mixed >> 15).wrapping_mul(0x9E37_79B1) >> 25);
    }

    fn with(self, other: Self) -> Self {
        Self { pairs: self.pairs | other.pairs, names: self.names | other.names }
    }

    #[inline(always)]
    fn within(self, other: Self) -> bool {
        self.pairs & !other.pairs == 0 && self.names & !other.names == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_stored_once_and_given_back() {
        let mut texts = Interner::new();
        let selector = texts.selector(&Selector::parse("app in {'a', 'b'} && has(team)").unwrap());
        let items: Vec<_> = (0..100)
            .map(|i| texts.labels([("app", if i % 2 == 0 { "a" } else { "c" }), ("team", "t")]))
            .collect();
        assert_eq!(texts.len(), 6);
        assert_eq!(items.iter().filter(|item| selector.matches(item, &texts)).count(), 50);
        texts.forget_selector(selector);
        items.into_iter().for_each(|item| texts.forget_labels(item));
        assert!(texts.is_empty());
    }

    #[test]
    fn large_sets() {
        let mut texts = Interner::new();
        let values: Vec<String> = (0..1000).map(|i| format!("'v{i}'")).collect();
        let text = format!("app in {{{}}}", values.join(","));
        let selector = texts.selector(&Selector::parse(&text).unwrap());
        for (value, expected) in [("v0", true), ("v999", true), ("v1000", false), ("", false)] {
            let labels = texts.labels([("app", value)]);
            assert_eq!(selector.matches(&labels, &texts), expected, "{value}");
        }
    }

    #[test]
    fn what_a_parent_offers_counts() {
        let mut texts = Interner::new();
        let selector = texts.selector(&Selector::parse("a == 'own' && c == '1'").unwrap());
        let own = texts.labels([("a", "own")]);
        let first = texts.labels([("a", "1"), ("c", "1")]);
        let second = texts.labels([("c", "2")]);
        assert!(selector.matches_inherited(&own, &[&first, &second], &texts));
        assert!(!selector.matches_inherited(&own, &[&second, &first], &texts));
        assert!(!selector.matches_inherited(&first, &[&own], &texts));
        assert!(!selector.matches(&own, &texts));
    }
}
