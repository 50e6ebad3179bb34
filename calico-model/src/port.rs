//! Ports of rules: a number, a range or a name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::shape::{NumberOrTextVisitor, Shape, TypeShape};

/// A port of a rule.
///
/// ```
/// use calico_model::Port;
/// assert_eq!("8000:8999".parse(), Ok(Port::Range(8000, 8999)));
/// assert_eq!("http".parse(), Ok(Port::Named("http".into())));
/// assert!("9:1".parse::<Port>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// Inclusive range, first ≤ last; a single port has first = last.
    Range(u16, u16),
    /// A named port of the endpoints that match.
    Named(Box<str>),
}

/// Why a text is not a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a port; use a number 0-65535, a range first:last with first ≤ last, or a port name")]
pub struct PortError {
    /// The text found.
    pub text: String,
}

impl Port {
    /// A single port.
    pub fn single(port: u16) -> Self {
        Self::Range(port, port)
    }
}

impl FromStr for Port {
    type Err = PortError;

    fn from_str(s: &str) -> Result<Self, PortError> {
        let bad = || PortError { text: s.to_owned() };
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        if digits(s) {
            return s.parse().map(Self::single).map_err(|_| bad());
        }
        if let Some((first, last)) = s.split_once(':') {
            if !digits(first) || !digits(last) {
                return Err(bad());
            }
            let first = first.parse().map_err(|_| bad())?;
            let last = last.parse().map_err(|_| bad())?;
            return if first <= last { Ok(Self::Range(first, last)) } else { Err(bad()) };
        }
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if (1..=128).contains(&s.len()) && s.bytes().all(name) && s.parse::<i64>().is_err() {
            Ok(Self::Named(s.into()))
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(a, b) if a == b => write!(f, "{a}"),
            Self::Range(a, b) => write!(f, "{a}:{b}"),
            Self::Named(n) => f.write_str(n),
        }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Range(a, b) if a == b => s.serialize_u16(*a),
            _ => s.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(NumberOrTextVisitor(
            |n| u16::try_from(n).map(Self::single).map_err(|_| format!("port {n} is not within 0-65535")),
            |s: &str| s.parse().map_err(|e: PortError| e.to_string()),
            "a port number, a range first:last or a port name",
        ))
    }
}

impl Shape for Port {
    fn shape() -> TypeShape {
        TypeShape::IntOrString
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
        let read = |s: &str| serde_json::from_str::<Port>(s);
        assert_eq!(read("80").unwrap(), Port::single(80));
        assert_eq!(read("\"80\"").unwrap(), Port::single(80));
        assert_eq!(read("\"1:2\"").unwrap(), Port::Range(1, 2));
        assert_eq!(serde_json::to_string(&Port::Range(1, 2)).unwrap(), "\"1:2\"");
        assert_eq!(serde_json::to_string(&read("\"80\"").unwrap()).unwrap(), "80");
        for bad in ["\"1:2:3\"", "\"*\"", "-1", "65536", "\"10:1\"", "\"\"", "\"65536\"", "\"-1\"", "\"1:x\""]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
