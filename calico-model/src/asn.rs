//! Autonomous system numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::shape::{NumberOrTextVisitor, Shape, TypeShape};

/// A four-byte AS number (RFC 6793). Read from a number, a decimal text or `high.low`; written as a number.
///
/// ```
/// use calico_model::ASNumber;
/// assert_eq!("1.10".parse(), Ok(ASNumber(65546)));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ASNumber(pub u32);

/// Why a text is not an AS number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an AS number; use 0-4294967295 or high.low with both parts 0-65535")]
pub struct ASNumberError {
    /// The text found.
    pub text: String,
}

impl FromStr for ASNumber {
    type Err = ASNumberError;

    fn from_str(s: &str) -> Result<Self, ASNumberError> {
        let bad = || ASNumberError { text: s.to_owned() };
        if !s.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(bad());
        }
        match s.split_once('.') {
            None => s.parse().map(Self).map_err(|_| bad()),
            Some((high, low)) => {
                let high: u16 = high.parse().map_err(|_| bad())?;
                let low: u16 = low.parse().map_err(|_| bad())?;
                Ok(Self(u32::from(high) << 16 | u32::from(low)))
            }
        }
    }
}

impl fmt::Display for ASNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Serialize for ASNumber {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for ASNumber {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(NumberOrTextVisitor(
            |n| u32::try_from(n).map(Self).map_err(|_| format!("AS number {n} is not within 0-4294967295")),
            |s: &str| s.parse().map_err(|e: ASNumberError| e.to_string()),
            "an AS number",
        ))
    }
}

impl Shape for ASNumber {
    fn shape() -> TypeShape {
        TypeShape::Integer { bits: 32, signed: false }
    }
    fn unset(&self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors() {
        let read = |s: &str| serde_json::from_str::<ASNumber>(s);
        assert_eq!(read("\"1.10\"").unwrap(), ASNumber(65546));
        assert_eq!(read("64512").unwrap(), ASNumber(64512));
        assert_eq!(read("\"4294967295\"").unwrap(), ASNumber(u32::MAX));
        assert!(read("4294967296").is_err());
        assert!(read("\"1.65536\"").is_err());
        assert!(read("\"1.2.3\"").is_err());
        assert!(read("\"+1\"").is_err());
        assert_eq!(serde_json::to_string(&ASNumber(65546)).unwrap(), "65546");
    }
}
