//! Label names and values as small numbers, so that comparing labels is comparing integers.

use std::collections::HashMap;
use std::sync::Arc;

/// A text known to one [`Symbols`] table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Symbol(u32);

/// Texts in use and how often. A text nobody uses any more is forgotten, so that labels which come and go with pods do
/// not pile up in a process that runs for months.
#[derive(Debug, Default)]
pub(super) struct Symbols {
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
    pub(super) fn acquire(&mut self, text: &str) -> Symbol {
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

    pub(super) fn release(&mut self, symbol: Symbol) {
        let Some(entry) = self.texts.get_mut(symbol.0 as usize) else { return };
        entry.uses = entry.uses.saturating_sub(1);
        if entry.uses == 0 {
            self.numbers.remove(&entry.text);
            entry.text = Arc::from("");
            self.free.push(symbol);
        }
    }

    pub(super) fn find(&self, text: &str) -> Option<Symbol> {
        self.numbers.get(text).copied()
    }

    pub(super) fn text(&self, symbol: Symbol) -> &str {
        self.texts.get(symbol.0 as usize).map_or("", |entry| &entry.text)
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }
}

/// Names and values of one object, sorted by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LabelSet(Box<[(Symbol, Symbol)]>);

impl LabelSet {
    /// Interns labels. When a name is repeated the last one counts, as in a map.
    pub(super) fn acquire<K: AsRef<str>, V: AsRef<str>>(
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

    pub(super) fn release(&self, symbols: &mut Symbols) {
        for (name, value) in &self.0 {
            symbols.release(*name);
            symbols.release(*value);
        }
    }

    pub(super) fn get(&self, name: Symbol) -> Option<Symbol> {
        let at = self.0.binary_search_by_key(&name, |pair| pair.0).ok()?;
        self.0.get(at).map(|pair| pair.1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Symbol, Symbol)> {
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
