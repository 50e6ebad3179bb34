//! ROUTE-REFRESH messages (RFC 2918, RFC 7313).

use super::cursor::Cursor;
use super::iana::Family;

/// What a ROUTE-REFRESH says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteRefreshKind {
    /// Send the whole family again.
    Request,
    /// The whole family follows (BoRR).
    Begin,
    /// The whole family was sent (EoRR).
    End,
    /// A subtype this speaker does not know; to be ignored.
    Other(u8),
}

impl RouteRefreshKind {
    const fn code(self) -> u8 {
        match self {
            RouteRefreshKind::Request => 0,
            RouteRefreshKind::Begin => 1,
            RouteRefreshKind::End => 2,
            RouteRefreshKind::Other(code) => code,
        }
    }
}

/// A ROUTE-REFRESH message. AFI and SAFI are kept as numbers, for one of an unknown family is ignored, not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteRefresh {
    /// Address family.
    pub afi: u16,
    /// Subsequent address family.
    pub safi: u8,
    /// Request, begin or end.
    pub kind: RouteRefreshKind,
}

impl RouteRefresh {
    /// A message about one of our families.
    pub const fn new(family: Family, kind: RouteRefreshKind) -> Self {
        RouteRefresh { afi: family.afi(), safi: family.safi(), kind }
    }

    /// The family, when it is one of ours.
    pub const fn family(&self) -> Option<Family> {
        Family::from_codes(self.afi, self.safi)
    }

    /// The four octets of the body.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.afi.to_be_bytes());
        out.push(self.kind.code());
        out.push(self.safi);
    }

    /// Reads a body of exactly four octets.
    pub fn decode_body(body: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(body);
        let afi = cursor.u16()?;
        let kind = match cursor.u8()? {
            0 => RouteRefreshKind::Request,
            1 => RouteRefreshKind::Begin,
            2 => RouteRefreshKind::End,
            other => RouteRefreshKind::Other(other),
        };
        let safi = cursor.u8()?;
        cursor.is_empty().then_some(RouteRefresh { afi, safi, kind })
    }
}
