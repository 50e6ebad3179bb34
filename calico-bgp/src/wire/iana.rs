//! Numbers assigned by IANA that the speaker understands.
//!
//! Registries: <https://www.iana.org/assignments/bgp-parameters/>, <https://www.iana.org/assignments/capability-codes/>.

use std::fmt;

/// The TCP port of BGP.
pub const BGP_PORT: u16 = 179;

/// The two-octet AS number that stands for one that needs four octets (RFC 6793).
pub const AS_TRANS: u16 = 23456;

/// Message types (RFC 4271 section 4.1, RFC 2918).
pub mod message_type {
    /// OPEN.
    pub const OPEN: u8 = 1;
    /// UPDATE.
    pub const UPDATE: u8 = 2;
    /// NOTIFICATION.
    pub const NOTIFICATION: u8 = 3;
    /// KEEPALIVE.
    pub const KEEPALIVE: u8 = 4;
    /// ROUTE-REFRESH.
    pub const ROUTE_REFRESH: u8 = 5;
}

/// Path attribute type codes.
pub mod attribute_code {
    /// ORIGIN.
    pub const ORIGIN: u8 = 1;
    /// AS_PATH.
    pub const AS_PATH: u8 = 2;
    /// NEXT_HOP.
    pub const NEXT_HOP: u8 = 3;
    /// MULTI_EXIT_DISC.
    pub const MED: u8 = 4;
    /// LOCAL_PREF.
    pub const LOCAL_PREF: u8 = 5;
    /// ATOMIC_AGGREGATE.
    pub const ATOMIC_AGGREGATE: u8 = 6;
    /// AGGREGATOR.
    pub const AGGREGATOR: u8 = 7;
    /// COMMUNITIES (RFC 1997).
    pub const COMMUNITIES: u8 = 8;
    /// ORIGINATOR_ID (RFC 4456).
    pub const ORIGINATOR_ID: u8 = 9;
    /// CLUSTER_LIST (RFC 4456).
    pub const CLUSTER_LIST: u8 = 10;
    /// MP_REACH_NLRI (RFC 4760).
    pub const MP_REACH: u8 = 14;
    /// MP_UNREACH_NLRI (RFC 4760).
    pub const MP_UNREACH: u8 = 15;
    /// EXTENDED COMMUNITIES (RFC 4360).
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    /// AS4_PATH (RFC 6793).
    pub const AS4_PATH: u8 = 17;
    /// AS4_AGGREGATOR (RFC 6793).
    pub const AS4_AGGREGATOR: u8 = 18;
    /// IPv6 address specific extended communities (RFC 5701).
    pub const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
    /// AIGP (RFC 7311).
    pub const AIGP: u8 = 26;
    /// LARGE COMMUNITIES (RFC 8092).
    pub const LARGE_COMMUNITIES: u8 = 32;
    /// Only to Customer (RFC 9234).
    pub const OTC: u8 = 35;
}

/// Well-known communities.
pub mod community {
    /// Routes stay in this AS and its confederation.
    pub const NO_EXPORT: u32 = 0xFFFF_FF01;
    /// Routes stay in this speaker.
    pub const NO_ADVERTISE: u32 = 0xFFFF_FF02;
    /// Routes stay in this member AS.
    pub const NO_EXPORT_SUBCONFED: u32 = 0xFFFF_FF03;
    /// The sender is about to go away: LOCAL_PREF becomes 0 (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: u32 = 0xFFFF_0000;
    /// A route kept by long-lived graceful restart (RFC 9494).
    pub const LLGR_STALE: u32 = 0xFFFF_0006;
    /// A route that must not be kept by long-lived graceful restart (RFC 9494).
    pub const NO_LLGR: u32 = 0xFFFF_0007;
    /// Traffic to the prefix should be dropped (RFC 7999).
    pub const BLACKHOLE: u32 = 0xFFFF_029A;
}

/// An address family this speaker carries routes of. Both are unicast (SAFI 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 unicast, AFI 1.
    Ipv4,
    /// IPv6 unicast, AFI 2.
    Ipv6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    /// The address family identifier.
    pub const fn afi(self) -> u16 {
        match self {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        }
    }

    /// The subsequent address family identifier, always unicast.
    pub const fn safi(self) -> u8 {
        1
    }

    /// The family of an AFI and SAFI, when it is one of ours.
    pub const fn from_codes(afi: u16, safi: u8) -> Option<Family> {
        match (afi, safi) {
            (1, 1) => Some(Family::Ipv4),
            (2, 1) => Some(Family::Ipv6),
            _ => None,
        }
    }

    /// The family that an address belongs to.
    pub const fn of(address: std::net::IpAddr) -> Family {
        match address {
            std::net::IpAddr::V4(_) => Family::Ipv4,
            std::net::IpAddr::V6(_) => Family::Ipv6,
        }
    }

    /// Bits of an address.
    pub const fn bits(self) -> u8 {
        match self {
            Family::Ipv4 => 32,
            Family::Ipv6 => 128,
        }
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Family::Ipv4 => 0,
            Family::Ipv6 => 1,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        })
    }
}

/// A set of families.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct FamilySet(u8);

impl FamilySet {
    /// No family.
    pub const NONE: FamilySet = FamilySet(0);
    /// Both families.
    pub const ALL: FamilySet = FamilySet(3);

    /// A set of one.
    pub const fn only(family: Family) -> FamilySet {
        FamilySet(1 << family.index())
    }

    /// Adds a family.
    pub fn insert(&mut self, family: Family) {
        self.0 |= 1 << family.index();
    }

    /// Removes a family.
    pub fn remove(&mut self, family: Family) {
        self.0 &= !(1 << family.index());
    }

    /// Whether the family is in the set.
    pub const fn contains(self, family: Family) -> bool {
        self.0 & (1 << family.index()) != 0
    }

    /// Families in both sets.
    pub const fn intersection(self, other: FamilySet) -> FamilySet {
        FamilySet(self.0 & other.0)
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The families, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.contains(*family))
    }
}

impl FromIterator<Family> for FamilySet {
    fn from_iter<I: IntoIterator<Item = Family>>(iter: I) -> Self {
        let mut set = FamilySet::NONE;
        for family in iter {
            set.insert(family);
        }
        set
    }
}

impl fmt::Debug for FamilySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
