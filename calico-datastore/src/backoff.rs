//! Pauses between attempts.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// Source of jitter; good enough to keep processes from marching in step.
#[derive(Debug, Clone)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new() -> Self {
        Self(std::collections::hash_map::RandomState::new().build_hasher().finish() | 1)
    }

    /// The duration, changed by up to ±25 %.
    pub(crate) fn spread(&mut self, base: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let percent = u32::try_from(self.0 % 51).unwrap_or(0) + 75;
        base.saturating_mul(percent) / 100
    }
}

/// Doubling pauses with jitter.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    limit: Duration,
    current: Duration,
    jitter: Jitter,
}

impl Backoff {
    pub(crate) fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, current: first, jitter: Jitter::new() }
    }

    /// The pause before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.jitter.spread(self.current);
        self.current = self.current.saturating_mul(2).min(self.limit);
        pause
    }

    /// Something worked: start small again.
    pub(crate) fn reset(&mut self) {
        self.current = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut want = 100;
        for _ in 0..8 {
            let pause = u64::try_from(backoff.next().as_millis()).unwrap();
            assert!((want * 3 / 4..=want * 5 / 4).contains(&pause), "{pause} is not near {want}");
            want = (want * 2).min(1_000);
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(125));
    }
}
