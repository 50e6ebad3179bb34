//! IP protocols by name or number.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::shape::{NumberOrTextVisitor, Shape, TypeShape};

/// An IP protocol: a number, or a name kept exactly as written. The default is the empty name, "not given".
///
/// ```
/// use calico_model::Protocol;
/// let p: Protocol = serde_json::from_str("\"UDP\"").unwrap();
/// assert_eq!(p.number(), Some(17));
/// assert_eq!(serde_json::from_str::<Protocol>("\"17\"").unwrap(), Protocol::Number(17));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// By number.
    Number(u8),
    /// By name, for example `TCP`.
    Name(Box<str>),
}

/// The names that validation accepts, with their numbers.
pub const PROTOCOL_NAMES: &[(&str, u8)] =
    &[("TCP", 6), ("UDP", 17), ("ICMP", 1), ("ICMPv6", 58), ("SCTP", 132), ("UDPLite", 136)];

impl Protocol {
    /// TCP by name.
    pub fn tcp() -> Self {
        Self::Name("TCP".into())
    }

    /// UDP by name.
    pub fn udp() -> Self {
        Self::Name("UDP".into())
    }

    /// Reads text: a decimal number 0–255 becomes a number, everything else stays a name.
    pub fn from_text(s: &str) -> Self {
        match s.parse::<u8>() {
            Ok(n) if s.bytes().all(|b| b.is_ascii_digit()) => Self::Number(n),
            _ => Self::Name(s.into()),
        }
    }

    /// The name in its usual spelling, whatever the case of `s`: `tcp` gives `TCP`.
    pub fn from_any_case(s: &str) -> Self {
        match PROTOCOL_NAMES.iter().find(|(n, _)| n.eq_ignore_ascii_case(s)) {
            Some((n, _)) => Self::Name((*n).into()),
            None => Self::from_text(s),
        }
    }

    /// The protocol number; `None` for a name outside [`PROTOCOL_NAMES`]. Case is ignored.
    pub fn number(&self) -> Option<u8> {
        match self {
            Self::Number(n) => Some(*n),
            Self::Name(s) => PROTOCOL_NAMES.iter().find(|(n, _)| n.eq_ignore_ascii_case(s)).map(|(_, n)| *n),
        }
    }

    /// True for TCP, UDP and SCTP, the protocols whose ports rules may match.
    pub fn supports_ports(&self) -> bool {
        matches!(self.number(), Some(6 | 17 | 132))
    }

    /// True when the protocol is not given.
    pub fn is_unset(&self) -> bool {
        matches!(self, Self::Name(s) if s.is_empty())
    }
}

impl Default for Protocol {
    fn default() -> Self {
        Self::Name(Box::default())
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Name(s) => f.write_str(s),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(n) => s.serialize_u8(*n),
            Self::Name(n) => s.serialize_str(n),
        }
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(NumberOrTextVisitor(
            |n| {
                u8::try_from(n)
                    .map(Self::Number)
                    .map_err(|_| format!("protocol number {n} is not within 0-255"))
            },
            |s: &str| Ok(Self::from_text(s)),
            "a protocol name or a number 0-255",
        ))
    }
}

impl Shape for Protocol {
    fn shape() -> TypeShape {
        TypeShape::IntOrString
    }
    fn unset(&self) -> bool {
        self.is_unset()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_numbers() {
        let read = |s: &str| serde_json::from_str::<Protocol>(s);
        assert_eq!(read("6").unwrap(), Protocol::Number(6));
        assert_eq!(read("\"255\"").unwrap(), Protocol::Number(255));
        assert_eq!(read("\"256\"").unwrap(), Protocol::Name("256".into()));
        assert!(read("256").is_err());
        assert!(read("-1").is_err());
        assert_eq!(serde_json::to_string(&read("\"6\"").unwrap()).unwrap(), "6");
        assert_eq!(serde_json::to_string(&read("\"tcp\"").unwrap()).unwrap(), "\"tcp\"");
        assert_eq!(Protocol::from_any_case("icmpV6"), Protocol::Name("ICMPv6".into()));
        assert!(Protocol::Number(132).supports_ports());
        assert!(!Protocol::from_text("UDPLite").supports_ports());
        assert_eq!(Protocol::from_text("bogus").number(), None);
    }
}
