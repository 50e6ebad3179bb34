//! Maps and sets by small numbers. The numbers are counted here, not chosen by a peer, so a multiplication is hash enough.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

pub(super) type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;
pub(super) type NumberSet = HashSet<u32, BuildHasherDefault<NumberHasher>>;

/// Hashes one `u32`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        // Multiplying moves bits upwards only, and tables look at both ends.
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_spread() {
        let hash = |number| {
            let mut hasher = NumberHasher::default();
            hasher.write_u32(number);
            hasher.finish()
        };
        let low: HashSet<u64> = (0..4096).map(|number| hash(number) & 0xFFFF).collect();
        let high: HashSet<u64> = (0..4096).map(|number| hash(number) >> 57).collect();
        assert!(low.len() > 3900 && high.len() == 128, "{} {}", low.len(), high.len());
    }
}
