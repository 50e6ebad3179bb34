//! A keyed hash. What is hashed here is chosen by peers, so the key must not be known to them; it is the seed that the
//! caller gives to the speaker.

use std::hash::{BuildHasher, Hasher};

/// Builds [`FoldHasher`]s of one seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FoldState {
    seed: u64,
}

impl FoldState {
    pub(crate) const fn new(seed: u64) -> Self {
        FoldState { seed: fold(seed ^ 0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344) }
    }

    pub(crate) const fn hash_pair(&self, (a, b): (u64, u64)) -> u64 {
        let first = fold(a ^ self.seed, 0x9e37_79b9_7f4a_7c15 ^ self.seed.rotate_left(32));
        fold(first ^ b, 0xd6e8_feb8_6659_fd93 ^ self.seed)
    }
}

/// Multiplies to 128 bits and folds the halves: every input bit reaches every output bit.
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    (product as u64) ^ ((product >> 64) as u64)
}

impl BuildHasher for FoldState {
    type Hasher = FoldHasher;

    fn build_hasher(&self) -> FoldHasher {
        FoldHasher { state: self.seed, seed: self.seed }
    }
}

/// The hasher.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FoldHasher {
    state: u64,
    seed: u64,
}

impl FoldHasher {
    fn word(&mut self, word: u64) {
        self.state = fold(self.state ^ word, 0x9e37_79b9_7f4a_7c15 ^ self.seed.rotate_left(32));
    }
}

impl Hasher for FoldHasher {
    fn finish(&self) -> u64 {
        fold(self.state, 0xd6e8_feb8_6659_fd93 ^ self.seed)
    }

    fn write(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            self.word(u64::from_le_bytes(*chunk));
        }
        let mut last = [0u8; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.word(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    fn write_u8(&mut self, i: u8) {
        self.word(u64::from(i));
    }

    fn write_u16(&mut self, i: u16) {
        self.word(u64::from(i));
    }

    fn write_u32(&mut self, i: u32) {
        self.word(u64::from(i));
    }

    fn write_u64(&mut self, i: u64) {
        self.word(i);
    }

    fn write_usize(&mut self, i: usize) {
        self.word(i as u64);
    }
}
