//! Label names and values as small numbers, so that comparing labels is comparing integers.

use std::collections::HashMap;
use std::sync::Arc;

/// A text known to one [`Symbols`] table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Symbol(u32);

impl Symbol {
    /// No symbol of a table.
    pub(crate) const NONE: Self = Self(u32::MAX);

    /// The number; small, and close to those of texts that came at the same time.
    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

/// A set of symbols that does not change: a sorted list, and bits beside it when there are many that lie close together.
#[derive(Debug)]
pub(crate) struct SymbolSet {
    sorted: Box<[Symbol]>,
    first: u32,
    bits: Box<[u64]>,
}

impl SymbolSet {
    /// From this size on a search costs more than a look at a bit.
    const MANY: usize = 16;

    pub(crate) fn new(symbols: impl Iterator<Item = Symbol>) -> Self {
        let mut sorted: Vec<Symbol> = symbols.collect();
        sorted.sort_unstable();
        let (first, last) = match (sorted.first(), sorted.last()) {
            (Some(first), Some(last)) => (first.0, last.0),
            _ => (0, 0),
        };
        let words = (last - first) as usize / 64 + 1;
        // As long as the bits are not larger than the list.
        let bits = if sorted.len() > Self::MANY && words * 2 <= sorted.len() {
            let mut bits = vec![0_u64; words];
            for symbol in &sorted {
                let at = symbol.0 - first;
                if let Some(word) = bits.get_mut(at as usize / 64) {
                    *word |= 1 << (at % 64);
                }
            }
            bits
        } else {
            Vec::new()
        };
        Self { sorted: sorted.into(), first, bits: bits.into() }
    }

    pub(crate) fn contains(&self, symbol: Symbol) -> bool {
        if !self.bits.is_empty() {
            let at = symbol.0.wrapping_sub(self.first);
            return self.bits.get(at as usize / 64).is_some_and(|word| word >> (at % 64) & 1 == 1);
        }
        if self.sorted.len() <= Self::MANY {
            return self.sorted.contains(&symbol);
        }
        self.sorted.binary_search(&symbol).is_ok()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Symbol> {
        self.sorted.iter().copied()
    }
}

/// Texts in use and how often. A text nobody uses any more is forgotten, so that labels which come and go with pods do
/// not pile up in a process that runs for months.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    numbers: HashMap<Arc<str>, Symbol>,
    texts: Vec<Entry>,
    free: Vec<Symbol>,
}

#[derive(Debug)]
struct Entry {
    text: Arc<str>,
    uses: u32,
}

impl Symbols {
    /// The number of a text, which counts as used once more until [`Symbols::release`].
    pub(crate) fn acquire(&mut self, text: &str) -> Symbol {
        if let Some(&symbol) = self.numbers.get(text) {
            if let Some(entry) = self.texts.get_mut(symbol.0 as usize) {
                entry.uses += 1;
            }
            return symbol;
        }
        let text: Arc<str> = text.into();
        let entry = Entry { text: text.clone(), uses: 1 };
        let symbol = match self.free.pop() {
            Some(symbol) => {
                if let Some(slot) = self.texts.get_mut(symbol.0 as usize) {
                    *slot = entry;
                }
                symbol
            }
            None => {
                let symbol = Symbol(u32::try_from(self.texts.len()).unwrap_or(u32::MAX));
                self.texts.push(entry);
                symbol
            }
        };
        self.numbers.insert(text, symbol);
        symbol
    }

    pub(crate) fn release(&mut self, symbol: Symbol) {
        let Some(entry) = self.texts.get_mut(symbol.0 as usize) else { return };
        entry.uses = entry.uses.saturating_sub(1);
        if entry.uses == 0 {
            self.numbers.remove(&entry.text);
            entry.text = Arc::from("");
            self.free.push(symbol);
        }
    }

    pub(crate) fn find(&self, text: &str) -> Option<Symbol> {
        self.numbers.get(text).copied()
    }

    pub(crate) fn text(&self, symbol: Symbol) -> &str {
        self.texts.get(symbol.0 as usize).map_or("", |entry| &entry.text)
    }

    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }
}

/// Names and values of one object, sorted by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LabelSet(Box<[(Symbol, Symbol)]>);

impl LabelSet {
    /// Interns labels. When a name is repeated the last one counts, as in a map.
    pub(crate) fn acquire<K: AsRef<str>, V: AsRef<str>>(
        labels: impl IntoIterator<Item = (K, V)>,
        symbols: &mut Symbols,
    ) -> Self {
        let mut pairs: Vec<(Symbol, Symbol)> = Vec::new();
        for (name, value) in labels {
            let pair = (symbols.acquire(name.as_ref()), symbols.acquire(value.as_ref()));
            match pairs.binary_search_by_key(&pair.0, |p| p.0) {
                Err(at) => pairs.insert(at, pair),
                Ok(at) => {
                    if let Some(old) = pairs.get_mut(at) {
                        symbols.release(old.0);
                        symbols.release(old.1);
                        *old = pair;
                    }
                }
            }
        }
        Self(pairs.into())
    }

    pub(crate) fn release(&self, symbols: &mut Symbols) {
        for (name, value) in &self.0 {
            symbols.release(*name);
            symbols.release(*value);
        }
    }

    pub(crate) fn get(&self, name: Symbol) -> Option<Symbol> {
        // Few labels lie in one line of the cache, where looking at all is faster than halving.
        if self.0.len() <= 8 {
            return self.0.iter().find(|pair| pair.0 == name).map(|pair| pair.1);
        }
        let at = self.0.binary_search_by_key(&name, |pair| pair.0).ok()?;
        self.0.get(at).map(|pair| pair.1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Symbol, Symbol)> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_forgotten_and_numbers_reused() {
        let mut symbols = Symbols::default();
        let first = LabelSet::acquire([("a", "x"), ("b", "x"), ("a", "y")], &mut symbols);
        assert_eq!(symbols.len(), 4);
        let (a, y) = (symbols.find("a").unwrap(), symbols.find("y").unwrap());
        assert_eq!((first.get(a), symbols.text(y)), (Some(y), "y"));
        let second = LabelSet::acquire([("a", "x")], &mut symbols);
        first.release(&mut symbols);
        assert_eq!((symbols.len(), symbols.find("b"), symbols.find("y")), (2, None, None));
        let before = symbols.texts.len();
        let third = LabelSet::acquire([("c", "z")], &mut symbols);
        assert_eq!(symbols.texts.len(), before);
        second.release(&mut symbols);
        third.release(&mut symbols);
        assert_eq!(symbols.len(), 0);
    }
}
