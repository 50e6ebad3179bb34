//! How long a driver waits before a machine that lost a race tries again.

use std::time::Duration;

use crate::order::spread;

/// The wait before attempt number `attempt` (0 is the first and waits not at all): doubling
/// from 1 ms to 256 ms, of which half is jitter drawn from `seed`.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(calico_ipam::backoff(0, 7), Duration::ZERO);
/// assert!(calico_ipam::backoff(3, 7) <= Duration::from_millis(4));
/// assert!(calico_ipam::backoff(60, 7) >= Duration::from_millis(128));
/// ```
#[must_use]
pub fn backoff(attempt: u32, seed: u64) -> Duration {
    if attempt == 0 {
        return Duration::ZERO;
    }
    let ceiling = 1_000u64 << (attempt - 1).min(8);
    let half = ceiling / 2;
    Duration::from_micros(half + spread(seed ^ u64::from(attempt)) % (half + 1))
}
