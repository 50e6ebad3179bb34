//! Durations in Go's text form.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::shape::{Shape, TextVisitor, TypeShape};

/// A signed duration in nanoseconds, with Go's text form (`90s`, `1m30s`, `1.5h`).
///
/// ```
/// use calico_model::GoDuration;
/// let d: GoDuration = "90s".parse().unwrap();
/// assert_eq!(d.to_string(), "1m30s");
/// assert_eq!(d.as_duration(), std::time::Duration::from_secs(90));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(pub i64);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The form is wrong.
    #[error("{0:?} is not a duration; use a number with a unit, for example 90s, 1m30s or 250ms")]
    Form(String),
    /// The value does not fit into 64 bits of nanoseconds (about 292 years).
    #[error("duration {0:?} is too long")]
    TooLong(String),
}

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl GoDuration {
    /// A duration of whole seconds.
    pub const fn from_secs(s: i64) -> Self {
        Self(s.saturating_mul(1_000_000_000))
    }

    /// A duration of whole milliseconds.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// The standard form; negative durations become zero.
    pub fn as_duration(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl From<Duration> for GoDuration {
    fn from(d: Duration) -> Self {
        Self(i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(s: &str) -> Result<Self, DurationError> {
        let form = || DurationError::Form(s.to_owned());
        let too_long = || DurationError::TooLong(s.to_owned());
        let (negative, mut rest) = match s.as_bytes().first() {
            Some(b'-') => (true, &s[1..]),
            Some(b'+') => (false, &s[1..]),
            _ => (false, s),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(form());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(form)?;
            let (number, tail) = rest.split_at(end);
            let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, next) = tail.split_at(unit_end);
            let (_, scale) = UNITS.iter().find(|(n, _)| *n == unit).ok_or_else(form)?;
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
                return Err(form());
            }
            let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_long())? };
            let mut part = whole.checked_mul(*scale).ok_or_else(too_long)?;
            let mut place = u128::from(*scale);
            let mut extra: u128 = 0;
            // Exact decimal fraction: digit k is worth scale / 10^k; scaled by 1e18 to stay integral.
            place *= 1_000_000_000_000_000_000;
            for d in fraction.bytes().take(18) {
                place /= 10;
                extra += u128::from(d - b'0') * place;
            }
            part = part
                .checked_add(u64::try_from(extra / 1_000_000_000_000_000_000).map_err(|_| too_long())?)
                .ok_or_else(too_long)?;
            total = total.checked_add(part).ok_or_else(too_long)?;
            rest = next;
        }
        if negative {
            0i64.checked_sub_unsigned(total).map(Self).ok_or_else(too_long)
        } else {
            i64::try_from(total).map(Self).map_err(|_| too_long())
        }
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0.unsigned_abs();
        if n == 0 {
            return f.write_str("0s");
        }
        if self.0 < 0 {
            f.write_str("-")?;
        }
        if n < 1_000 {
            return write!(f, "{n}ns");
        }
        if n < 1_000_000 {
            return write!(f, "{}µs", decimal(n, 1_000));
        }
        if n < 1_000_000_000 {
            return write!(f, "{}ms", decimal(n, 1_000_000));
        }
        let minutes = n / 60_000_000_000;
        if minutes >= 60 {
            write!(f, "{}h", minutes / 60)?;
        }
        if minutes > 0 {
            write!(f, "{}m", minutes % 60)?;
        }
        write!(f, "{}s", decimal(n % 60_000_000_000, 1_000_000_000))
    }
}

/// `n / unit` as a decimal without trailing zeros.
fn decimal(n: u64, unit: u64) -> String {
    let (whole, fraction) = (n / unit, n % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{fraction:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let read = |s: &str| s.parse().map_err(|e: DurationError| e.to_string());
        d.deserialize_str(TextVisitor(read, "a duration such as 90s"))
    }
}

impl Shape for GoDuration {
    fn shape() -> TypeShape {
        TypeShape::Duration
    }
    fn unset(&self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_vectors() {
        for (text, nanos, printed) in [
            ("90s", 90_000_000_000, "1m30s"),
            ("0", 0, "0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("1h", 3_600_000_000_000, "1h0m0s"),
            ("100ms", 100_000_000, "100ms"),
            ("1.5us", 1_500, "1.5µs"),
            ("-1m", -60_000_000_000, "-1m0s"),
            (".5s", 500_000_000, "500ms"),
            ("1.s", 1_000_000_000, "1s"),
            ("3h2m1.000000001s", 10_921_000_000_001, "3h2m1.000000001s"),
            ("7ns", 7, "7ns"),
        ] {
            let d: GoDuration = text.parse().unwrap();
            assert_eq!(d.0, nanos, "{text}");
            assert_eq!(d.to_string(), printed, "{text}");
        }
        for bad in ["", "1", "s", "1x", ".s", "1..5s", "-", "1s 2s", "99999999999h"] {
            assert!(bad.parse::<GoDuration>().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn print_parse(n: i64) {
            proptest::prop_assert_eq!(GoDuration(n).to_string().parse(), Ok(GoDuration(n)));
        }

        #[test]
        fn never_panics(s in "[-+0-9.a-zµ]{0,12}") {
            let _ = s.parse::<GoDuration>();
        }
    }
}
