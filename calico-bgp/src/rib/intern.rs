//! Values stored once and named by a number.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::hash::FoldState;

/// Counted values: equal ones share a number, and the number comes back when nobody uses it any more.
#[derive(Debug)]
pub(crate) struct Interner<T> {
    values: Vec<Option<Arc<T>>>,
    counts: Vec<u32>,
    free: Vec<u32>,
    numbers: HashMap<Arc<T>, u32, FoldState>,
}

/// The number that names nothing.
pub(crate) const NONE: u32 = u32::MAX;

impl<T: Eq + Hash> Interner<T> {
    pub(crate) fn new(seed: u64) -> Self {
        Interner {
            values: Vec::new(),
            counts: Vec::new(),
            free: Vec::new(),
            numbers: HashMap::with_hasher(FoldState::new(seed)),
        }
    }

    /// The number of a value, counted once more; the flag tells that it is new.
    pub(crate) fn intern(&mut self, value: T) -> (u32, bool) {
        if let Some(number) = self.numbers.get(&value).copied() {
            self.retain(number);
            return (number, false);
        }
        let value = Arc::new(value);
        let number = match self.free.pop() {
            Some(number) => {
                let at = number as usize;
                if let (Some(slot), Some(count)) = (self.values.get_mut(at), self.counts.get_mut(at)) {
                    *slot = Some(value.clone());
                    *count = 1;
                }
                number
            }
            None => {
                self.values.push(Some(value.clone()));
                self.counts.push(1);
                u32::try_from(self.values.len() - 1).unwrap_or(NONE)
            }
        };
        self.numbers.insert(value, number);
        (number, true)
    }

    pub(crate) fn retain(&mut self, number: u32) {
        if let Some(count) = self.counts.get_mut(number as usize) {
            *count += 1;
        }
    }

    /// Gives one use back.
    pub(crate) fn release(&mut self, number: u32) {
        let at = number as usize;
        let Some(count) = self.counts.get_mut(at).filter(|count| **count > 0) else { return };
        *count -= 1;
        if *count == 0
            && let Some(value) = self.values.get_mut(at).and_then(Option::take)
        {
            self.numbers.remove(&value);
            self.free.push(number);
        }
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Arc<T>> {
        self.values.get(number as usize)?.as_ref()
    }

    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_live_as_long_as_their_uses() {
        let mut interner = Interner::new(7);
        let (a, new) = interner.intern("a");
        assert!(new);
        assert_eq!(interner.intern("a"), (a, false));
        let (b, _) = interner.intern("b");
        assert_ne!(a, b);
        interner.release(a);
        assert_eq!(interner.get(a).map(|v| **v), Some("a"));
        interner.release(a);
        assert_eq!(interner.get(a), None);
        interner.release(a);
        assert_eq!(interner.intern("c"), (a, true));
        assert_eq!(interner.len(), 2);
    }
}
