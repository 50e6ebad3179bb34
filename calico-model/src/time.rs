//! Points in time as RFC 3339 text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::shape::{Shape, TextVisitor, TypeShape};

/// A point in time: seconds since 1970-01-01T00:00:00Z and nanoseconds. Written in UTC, with a fraction only when
/// it has one.
///
/// ```
/// use calico_model::Timestamp;
/// let t: Timestamp = "2026-08-22T15:33:20+02:00".parse().unwrap();
/// assert_eq!(t.to_string(), "2026-08-22T13:33:20Z");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanos: u32,
}

/// Why a text is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an RFC 3339 time such as 2026-08-22T13:33:20Z")]
pub struct TimestampError {
    /// The text found.
    pub text: String,
}

impl Timestamp {
    /// The whole second that contains the given Unix time in nanoseconds.
    pub fn from_unix_nanos(nanos: i64) -> Self {
        Self { seconds: nanos.div_euclid(1_000_000_000), nanos: 0 }
    }

    /// Unix time in nanoseconds, saturating.
    pub fn unix_nanos(self) -> i64 {
        self.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(self.nanos))
    }
}

/// Days since the epoch of a Gregorian date (Hinnant's algorithm).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    (year, month, doy - (153 * mp + 2) / 5 + 1)
}

fn parse(s: &str) -> Option<Timestamp> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let t = s.get(range)?;
        t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse().ok())?
    };
    let byte = |i: usize, wanted: &[u8]| s.as_bytes().get(i).filter(|b| wanted.contains(b)).map(|_| ());
    byte(4, b"-")?;
    byte(7, b"-")?;
    byte(10, b"Tt ")?;
    byte(13, b":")?;
    byte(16, b":")?;
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=last).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut rest = s.get(19..)?;
    let mut nanos = 0u32;
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit())?;
        let (digits, tail) = fraction.split_at(end);
        if digits.is_empty() {
            return None;
        }
        let mut place = 100_000_000;
        for d in digits.bytes() {
            nanos += u32::from(d - b'0') * place;
            place /= 10;
        }
        rest = tail;
    }
    let offset = match rest {
        "Z" | "z" => 0,
        _ => {
            let base = s.len() - rest.len();
            let sign = match rest.as_bytes().first()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            byte(base + 3, b":")?;
            let (h, m) = (number(base + 1..base + 3)?, number(base + 4..base + 6)?);
            if rest.len() != 6 || h > 23 || m > 59 {
                return None;
            }
            sign * (h * 3600 + m * 60)
        }
    };
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Some(Timestamp { seconds, nanos })
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(s: &str) -> Result<Self, TimestampError> {
        parse(s).ok_or_else(|| TimestampError { text: s.to_owned() })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.seconds.div_euclid(86_400));
        let t = self.seconds.rem_euclid(86_400);
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", t / 3600, t / 60 % 60, t % 60)?;
        if self.nanos != 0 {
            let digits = format!("{:09}", self.nanos);
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let read = |s: &str| s.parse().map_err(|e: TimestampError| e.to_string());
        d.deserialize_str(TextVisitor(read, "an RFC 3339 time"))
    }
}

impl Shape for Timestamp {
    fn shape() -> TypeShape {
        TypeShape::Time
    }
    fn unset(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors() {
        let t: Timestamp = "2026-08-22T13:33:20Z".parse().unwrap();
        assert_eq!(t.seconds, 1_787_405_600);
        assert_eq!(Timestamp::default().to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(
            "1969-12-31T23:59:59.25Z".parse::<Timestamp>().unwrap().to_string(),
            "1969-12-31T23:59:59.25Z"
        );
        for bad in ["", "2026-02-29T00:00:00Z", "2026-08-22", "2026-08-22T13:33:20", "2026-13-01T00:00:00Z"] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn print_parse(seconds in -62_135_596_800i64..253_402_300_799, nanos in 0u32..1_000_000_000) {
            let t = Timestamp { seconds, nanos };
            proptest::prop_assert_eq!(t.to_string().parse(), Ok(t));
        }
    }
}
