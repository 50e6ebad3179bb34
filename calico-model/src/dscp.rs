//! Differentiated-services code points.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::shape::{NumberOrTextVisitor, Shape, TypeShape};

/// Names of code points (RFC 2474, 2597, 3246) with their values.
pub const DSCP_NAMES: &[(&str, u8)] = &[
    ("DF", 0),
    ("EF", 46),
    ("AF11", 10),
    ("AF12", 12),
    ("AF13", 14),
    ("AF21", 18),
    ("AF22", 20),
    ("AF23", 22),
    ("AF31", 26),
    ("AF32", 28),
    ("AF33", 30),
    ("AF41", 34),
    ("AF42", 36),
    ("AF43", 38),
    ("CS0", 0),
    ("CS1", 8),
    ("CS2", 16),
    ("CS3", 24),
    ("CS4", 32),
    ("CS5", 40),
    ("CS6", 48),
];

/// A DSCP value as written: a number 0–63 or a name such as `AF41`.
///
/// ```
/// use calico_model::Dscp;
/// assert_eq!("ef".parse::<Dscp>().unwrap().value(), 46);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dscp {
    value: u8,
    name: Option<Box<str>>,
}

/// Why a text is not a DSCP value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a DSCP value; use 0-63 or a name such as EF, AF41 or CS3")]
pub struct DscpError {
    /// The text found.
    pub text: String,
}

impl Dscp {
    /// A value by number; `None` above 63.
    pub fn new(value: u8) -> Option<Self> {
        (value < 64).then_some(Self { value, name: None })
    }

    /// The six-bit value.
    pub fn value(&self) -> u8 {
        self.value
    }
}

impl FromStr for Dscp {
    type Err = DscpError;

    fn from_str(s: &str) -> Result<Self, DscpError> {
        let text = s.trim();
        if let Some((_, value)) = DSCP_NAMES.iter().find(|(n, _)| n.eq_ignore_ascii_case(text)) {
            return Ok(Self { value: *value, name: Some(s.into()) });
        }
        text.parse().ok().and_then(Self::new).ok_or_else(|| DscpError { text: s.to_owned() })
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(n) => f.write_str(n),
            None => write!(f, "{}", self.value),
        }
    }
}

impl Serialize for Dscp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match &self.name {
            Some(n) => s.serialize_str(n),
            None => s.serialize_u8(self.value),
        }
    }
}

impl<'de> Deserialize<'de> for Dscp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(NumberOrTextVisitor(
            |n| {
                u8::try_from(n).ok().and_then(Self::new).ok_or_else(|| format!("DSCP {n} is not within 0-63"))
            },
            |s: &str| s.parse().map_err(|e: DscpError| e.to_string()),
            "a DSCP name or a number 0-63",
        ))
    }
}

impl Shape for Dscp {
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
        assert_eq!(" af41 ".parse::<Dscp>().unwrap().value(), 34);
        assert_eq!("63".parse::<Dscp>().unwrap().value(), 63);
        assert!("64".parse::<Dscp>().is_err());
        assert!("CS7".parse::<Dscp>().is_err());
        let d: Dscp = serde_json::from_str("\"EF\"").unwrap();
        assert_eq!(serde_json::to_string(&d).unwrap(), "\"EF\"");
        assert_eq!(serde_json::to_string(&Dscp::new(5)).unwrap(), "5");
    }
}
