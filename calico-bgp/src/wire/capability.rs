//! Capabilities (RFC 5492) and what each of them carries.

use super::cursor::Cursor;
use super::iana::{Family, FamilySet};

/// Capability codes.
pub mod code {
    /// Multiprotocol (RFC 4760).
    pub const MULTIPROTOCOL: u8 = 1;
    /// Route refresh (RFC 2918).
    pub const ROUTE_REFRESH: u8 = 2;
    /// Extended next hop (RFC 8950).
    pub const EXTENDED_NEXT_HOP: u8 = 5;
    /// Extended message (RFC 8654).
    pub const EXTENDED_MESSAGE: u8 = 6;
    /// BGP role (RFC 9234).
    pub const ROLE: u8 = 9;
    /// Graceful restart (RFC 4724).
    pub const GRACEFUL_RESTART: u8 = 64;
    /// Four-octet AS numbers (RFC 6793).
    pub const FOUR_OCTET_AS: u8 = 65;
    /// Several paths per prefix (RFC 7911).
    pub const ADD_PATH: u8 = 69;
    /// Enhanced route refresh (RFC 7313).
    pub const ENHANCED_REFRESH: u8 = 70;
    /// Long-lived graceful restart (RFC 9494).
    pub const LLGR: u8 = 71;
    /// Host and domain name; informational.
    pub const FQDN: u8 = 73;
}

/// One family of a graceful restart capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GracefulFamily {
    /// Address family.
    pub afi: u16,
    /// Subsequent address family.
    pub safi: u8,
    /// The sender kept forwarding for this family while it restarted (F).
    pub forwarding: bool,
}

/// The graceful restart capability (RFC 4724, RFC 8538).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct GracefulRestart {
    /// The sender has restarted (R).
    pub restarting: bool,
    /// The sender also restarts gracefully after a NOTIFICATION (N, RFC 8538).
    pub notification: bool,
    /// Seconds until the sender is back, at most 4095.
    pub restart_time: u16,
    /// Families whose routes the receiver should keep.
    pub families: Vec<GracefulFamily>,
}

impl GracefulRestart {
    /// The flags of one of our families, when it is listed.
    pub fn family(&self, family: Family) -> Option<GracefulFamily> {
        self.families.iter().copied().find(|f| f.afi == family.afi() && f.safi == family.safi())
    }
}

/// One family of a long-lived graceful restart capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LongLivedFamily {
    /// Address family.
    pub afi: u16,
    /// Subsequent address family.
    pub safi: u8,
    /// The sender kept forwarding for this family (F).
    pub forwarding: bool,
    /// Seconds the receiver should keep stale routes, 24 bits.
    pub stale_time: u32,
}

/// One capability as it stands in an OPEN. Unknown ones are kept as octets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Capability {
    /// A family the sender speaks.
    Multiprotocol {
        /// Address family.
        afi: u16,
        /// Subsequent address family.
        safi: u8,
    },
    /// The sender answers ROUTE-REFRESH.
    RouteRefresh,
    /// Families whose next hop may be of another family: AFI, SAFI, next hop AFI.
    ExtendedNextHop(Vec<(u16, u16, u16)>),
    /// Messages up to 65535 octets.
    ExtendedMessage,
    /// The sender's role towards the receiver.
    Role(u8),
    /// Graceful restart.
    GracefulRestart(GracefulRestart),
    /// The sender's AS number.
    FourOctetAs(u32),
    /// Families with path identifiers: AFI, SAFI, 1 receive, 2 send, 3 both.
    AddPath(Vec<(u16, u8, u8)>),
    /// ROUTE-REFRESH with begin and end marks.
    EnhancedRefresh,
    /// Long-lived graceful restart; empty means "aware only".
    LongLivedGracefulRestart(Vec<LongLivedFamily>),
    /// Anything else, or a known code with a body of the wrong shape.
    Unknown {
        /// The code.
        code: u8,
        /// The value.
        value: Vec<u8>,
    },
}

impl Capability {
    /// The code of this capability.
    pub const fn code(&self) -> u8 {
        match self {
            Capability::Multiprotocol { .. } => code::MULTIPROTOCOL,
            Capability::RouteRefresh => code::ROUTE_REFRESH,
            Capability::ExtendedNextHop(_) => code::EXTENDED_NEXT_HOP,
            Capability::ExtendedMessage => code::EXTENDED_MESSAGE,
            Capability::Role(_) => code::ROLE,
            Capability::GracefulRestart(_) => code::GRACEFUL_RESTART,
            Capability::FourOctetAs(_) => code::FOUR_OCTET_AS,
            Capability::AddPath(_) => code::ADD_PATH,
            Capability::EnhancedRefresh => code::ENHANCED_REFRESH,
            Capability::LongLivedGracefulRestart(_) => code::LLGR,
            Capability::Unknown { code, .. } => *code,
        }
    }

    /// Reads one capability. A known code whose value has a wrong shape is returned as [`Capability::Unknown`]: RFC 5492
    /// lets a receiver ignore what it does not understand, and nothing is gained by ending the session.
    pub fn decode(code: u8, value: &[u8]) -> Capability {
        Self::decode_known(code, value).unwrap_or_else(|| Capability::Unknown { code, value: value.to_vec() })
    }

    fn decode_known(code: u8, value: &[u8]) -> Option<Capability> {
        let mut c = Cursor::new(value);
        let capability = match code {
            code::MULTIPROTOCOL => {
                let afi = c.u16()?;
                let _reserved = c.u8()?;
                Capability::Multiprotocol { afi, safi: c.u8()? }
            }
            code::ROUTE_REFRESH => Capability::RouteRefresh,
            code::EXTENDED_MESSAGE => Capability::ExtendedMessage,
            code::ENHANCED_REFRESH => Capability::EnhancedRefresh,
            code::ROLE => Capability::Role(c.u8()?),
            code::FOUR_OCTET_AS => Capability::FourOctetAs(c.u32()?),
            code::EXTENDED_NEXT_HOP => {
                let mut list = Vec::with_capacity(value.len() / 6);
                while !c.is_empty() {
                    list.push((c.u16()?, c.u16()?, c.u16()?));
                }
                Capability::ExtendedNextHop(list)
            }
            code::ADD_PATH => {
                let mut list = Vec::with_capacity(value.len() / 4);
                while !c.is_empty() {
                    list.push((c.u16()?, c.u8()?, c.u8()?));
                }
                Capability::AddPath(list)
            }
            code::GRACEFUL_RESTART => {
                let head = c.u16()?;
                let mut families = Vec::with_capacity(value.len() / 4);
                while !c.is_empty() {
                    families.push(GracefulFamily {
                        afi: c.u16()?,
                        safi: c.u8()?,
                        forwarding: c.u8()? & 0x80 != 0,
                    });
                }
                Capability::GracefulRestart(GracefulRestart {
                    restarting: head & 0x8000 != 0,
                    notification: head & 0x4000 != 0,
                    restart_time: head & 0x0fff,
                    families,
                })
            }
            code::LLGR => {
                let mut list = Vec::with_capacity(value.len() / 7);
                while !c.is_empty() {
                    let (afi, safi, flags) = (c.u16()?, c.u8()?, c.u8()?);
                    let [a, b, d] = c.array()?;
                    let stale_time = u32::from_be_bytes([0, a, b, d]);
                    list.push(LongLivedFamily { afi, safi, forwarding: flags & 0x80 != 0, stale_time });
                }
                Capability::LongLivedGracefulRestart(list)
            }
            _ => return None,
        };
        c.is_empty().then_some(capability)
    }

    /// Writes the value, without code and length.
    pub fn encode_value(&self, out: &mut Vec<u8>) {
        match self {
            Capability::RouteRefresh | Capability::ExtendedMessage | Capability::EnhancedRefresh => {}
            Capability::Multiprotocol { afi, safi } => {
                out.extend_from_slice(&afi.to_be_bytes());
                out.extend_from_slice(&[0, *safi]);
            }
            Capability::ExtendedNextHop(list) => {
                for (afi, safi, nh) in list {
                    out.extend_from_slice(&afi.to_be_bytes());
                    out.extend_from_slice(&safi.to_be_bytes());
                    out.extend_from_slice(&nh.to_be_bytes());
                }
            }
            Capability::Role(role) => out.push(*role),
            Capability::FourOctetAs(asn) => out.extend_from_slice(&asn.to_be_bytes()),
            Capability::AddPath(list) => {
                for (afi, safi, mode) in list {
                    out.extend_from_slice(&afi.to_be_bytes());
                    out.extend_from_slice(&[*safi, *mode]);
                }
            }
            Capability::GracefulRestart(gr) => {
                let head = (u16::from(gr.restarting) << 15)
                    | (u16::from(gr.notification) << 14)
                    | (gr.restart_time & 0x0fff);
                out.extend_from_slice(&head.to_be_bytes());
                for family in &gr.families {
                    out.extend_from_slice(&family.afi.to_be_bytes());
                    out.extend_from_slice(&[family.safi, u8::from(family.forwarding) << 7]);
                }
            }
            Capability::LongLivedGracefulRestart(list) => {
                for family in list {
                    out.extend_from_slice(&family.afi.to_be_bytes());
                    out.extend_from_slice(&[family.safi, u8::from(family.forwarding) << 7]);
                    let [_, a, b, c] = family.stale_time.to_be_bytes();
                    out.extend_from_slice(&[a, b, c]);
                }
            }
            Capability::Unknown { value, .. } => out.extend_from_slice(value),
        }
    }
}

/// The capabilities of one side, in the form the session needs. Built from the list of an OPEN by
/// [`Capabilities::from_list`]; of several with the same code the last wins, families accumulate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Families of ours that the side speaks. No multiprotocol capability at all means IPv4.
    pub families: FamilySet,
    /// Answers ROUTE-REFRESH.
    pub route_refresh: bool,
    /// Marks begin and end of a refresh.
    pub enhanced_refresh: bool,
    /// Accepts messages up to 65535 octets.
    pub extended_message: bool,
    /// Accepts IPv6 next hops for IPv4 prefixes.
    pub extended_next_hop: bool,
    /// AS number of the four-octet AS capability.
    pub four_octet_as: Option<u32>,
    /// Families for which the side can receive several paths.
    pub add_path_receive: FamilySet,
    /// Families for which the side can send several paths.
    pub add_path_send: FamilySet,
    /// Graceful restart.
    pub graceful_restart: Option<GracefulRestart>,
    /// Long-lived graceful restart; `Some(empty)` is "aware only".
    pub long_lived: Option<Vec<LongLivedFamily>>,
    /// BGP role.
    pub role: Option<u8>,
}

impl Capabilities {
    /// Folds the list of an OPEN.
    pub fn from_list(list: &[Capability]) -> Self {
        let mut caps = Capabilities::default();
        let mut multiprotocol = false;
        for capability in list {
            match capability {
                Capability::Multiprotocol { afi, safi } => {
                    multiprotocol = true;
                    if let Some(family) = Family::from_codes(*afi, *safi) {
                        caps.families.insert(family);
                    }
                }
                Capability::RouteRefresh => caps.route_refresh = true,
                Capability::EnhancedRefresh => caps.enhanced_refresh = true,
                Capability::ExtendedMessage => caps.extended_message = true,
                Capability::ExtendedNextHop(list) => caps.extended_next_hop = list.contains(&(1, 1, 2)),
                Capability::FourOctetAs(asn) => caps.four_octet_as = Some(*asn),
                Capability::AddPath(list) => {
                    caps.add_path_receive = FamilySet::NONE;
                    caps.add_path_send = FamilySet::NONE;
                    for (afi, safi, mode) in list {
                        let Some(family) = Family::from_codes(*afi, *safi) else { continue };
                        if matches!(mode, 1 | 3) {
                            caps.add_path_receive.insert(family);
                        }
                        if matches!(mode, 2 | 3) {
                            caps.add_path_send.insert(family);
                        }
                    }
                }
                Capability::GracefulRestart(gr) => caps.graceful_restart = Some(gr.clone()),
                Capability::LongLivedGracefulRestart(list) => caps.long_lived = Some(list.clone()),
                Capability::Role(role) => caps.role = Some(*role),
                Capability::Unknown { .. } => {}
            }
        }
        if !multiprotocol {
            caps.families = FamilySet::only(Family::Ipv4);
        }
        if caps.graceful_restart.is_none() {
            // RFC 9494 section 4.2: meaningless alone.
            caps.long_lived = None;
        }
        caps
    }

    /// The list to put into an OPEN, in the order BIRD sends it.
    pub fn to_list(&self) -> Vec<Capability> {
        let mut list = Vec::with_capacity(12);
        for family in self.families.iter() {
            list.push(Capability::Multiprotocol { afi: family.afi(), safi: family.safi() });
        }
        if self.route_refresh {
            list.push(Capability::RouteRefresh);
        }
        if self.extended_next_hop {
            list.push(Capability::ExtendedNextHop(vec![(1, 1, 2)]));
        }
        if self.extended_message {
            list.push(Capability::ExtendedMessage);
        }
        if let Some(role) = self.role {
            list.push(Capability::Role(role));
        }
        if let Some(gr) = &self.graceful_restart {
            list.push(Capability::GracefulRestart(gr.clone()));
        }
        if let Some(asn) = self.four_octet_as {
            list.push(Capability::FourOctetAs(asn));
        }
        let add_path: Vec<_> = Family::ALL
            .into_iter()
            .filter_map(|family| {
                let mode = u8::from(self.add_path_receive.contains(family))
                    | (u8::from(self.add_path_send.contains(family)) << 1);
                (mode != 0).then_some((family.afi(), family.safi(), mode))
            })
            .collect();
        if !add_path.is_empty() {
            list.push(Capability::AddPath(add_path));
        }
        if self.enhanced_refresh {
            list.push(Capability::EnhancedRefresh);
        }
        if let Some(long_lived) = &self.long_lived {
            list.push(Capability::LongLivedGracefulRestart(long_lived.clone()));
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_shapes_are_kept_as_unknown() {
        for (code, value) in [(code::FOUR_OCTET_AS, &[1, 2][..]), (code::ADD_PATH, &[0, 1, 1]), (200, &[9])] {
            let capability = Capability::decode(code, value);
            assert_eq!(capability, Capability::Unknown { code, value: value.to_vec() });
            let mut out = Vec::new();
            capability.encode_value(&mut out);
            assert_eq!(out, value);
        }
    }

    #[test]
    fn last_wins_families_accumulate_and_llgr_needs_gr() {
        let caps = Capabilities::from_list(&[
            Capability::Multiprotocol { afi: 1, safi: 1 },
            Capability::Multiprotocol { afi: 2, safi: 1 },
            Capability::Multiprotocol { afi: 25, safi: 70 },
            Capability::FourOctetAs(1),
            Capability::FourOctetAs(2),
            Capability::AddPath(vec![(1, 1, 3), (2, 1, 7), (1, 1, 1)]),
            Capability::LongLivedGracefulRestart(vec![]),
        ]);
        assert_eq!(caps.families, FamilySet::ALL);
        assert_eq!(caps.four_octet_as, Some(2));
        assert!(
            caps.add_path_receive.contains(Family::Ipv4) && !caps.add_path_receive.contains(Family::Ipv6)
        );
        assert_eq!(caps.long_lived, None);
        assert_eq!(Capabilities::from_list(&[]).families, FamilySet::only(Family::Ipv4));
    }

    #[test]
    fn list_and_fold_are_inverse() {
        let caps = Capabilities {
            families: FamilySet::ALL,
            route_refresh: true,
            enhanced_refresh: true,
            extended_message: true,
            extended_next_hop: true,
            four_octet_as: Some(4_200_000_000),
            add_path_receive: FamilySet::ALL,
            add_path_send: FamilySet::only(Family::Ipv6),
            graceful_restart: Some(GracefulRestart {
                restarting: true,
                notification: true,
                restart_time: 120,
                families: vec![GracefulFamily { afi: 1, safi: 1, forwarding: true }],
            }),
            long_lived: Some(vec![LongLivedFamily {
                afi: 1,
                safi: 1,
                forwarding: false,
                stale_time: 86_400,
            }]),
            role: Some(3),
        };
        let list = caps.to_list();
        let again: Vec<_> = list
            .iter()
            .map(|c| {
                let mut value = Vec::new();
                c.encode_value(&mut value);
                Capability::decode(c.code(), &value)
            })
            .collect();
        assert_eq!(again, list);
        assert_eq!(Capabilities::from_list(&again), caps);
    }
}
