//! Reference-counted members of one set, with overlap suppression.
//!
//! Several endpoints may contribute the same address, and a network set may contribute a CIDR around it. The
//! dataplane sees each address once: of the contributed CIDRs only the maximal ones are emitted, because an
//! interval set rejects overlaps.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::{Prefix, PrefixMap};

use crate::ir::{Member, SetKind};

/// What an operation on the members changed in the emitted set.
pub type Emit<'a> = &'a mut dyn FnMut(Member, bool);

/// A family's side of the arithmetic: host addresses are kept apart from wider prefixes because nearly all
/// members are hosts and a sorted map of plain addresses is far smaller than a trie.
trait NetFamily: Prefix + Copy + Ord {
    type Host: Ord + Copy;
    const MAX: u8;
    fn host(&self) -> Self::Host;
    fn last_host(&self) -> Self::Host;
    fn len(&self) -> u8;
    fn from_host(host: Self::Host) -> Self;
    fn member(self) -> Member;
}

impl NetFamily for Ipv4Net {
    type Host = u32;
    const MAX: u8 = 32;
    fn host(&self) -> u32 {
        self.network().to_bits()
    }
    fn last_host(&self) -> u32 {
        self.broadcast().to_bits()
    }
    fn len(&self) -> u8 {
        self.prefix_len()
    }
    fn from_host(host: u32) -> Self {
        Ipv4Addr::from_bits(host).into()
    }
    fn member(self) -> Member {
        Member::Net(IpNet::V4(self))
    }
}

impl NetFamily for Ipv6Net {
    type Host = u128;
    const MAX: u8 = 128;
    fn host(&self) -> u128 {
        self.network().to_bits()
    }
    fn last_host(&self) -> u128 {
        self.broadcast().to_bits()
    }
    fn len(&self) -> u8 {
        self.prefix_len()
    }
    fn from_host(host: u128) -> Self {
        Ipv6Addr::from_bits(host).into()
    }
    fn member(self) -> Member {
        Member::Net(IpNet::V6(self))
    }
}

#[derive(Debug, Clone)]
struct FamilyNets<P: NetFamily> {
    hosts: BTreeMap<P::Host, u32>,
    wide: PrefixMap<P, u32>,
}

impl<P: NetFamily> Default for FamilyNets<P> {
    fn default() -> Self {
        Self { hosts: BTreeMap::new(), wide: PrefixMap::new() }
    }
}

impl<P: NetFamily> FamilyNets<P> {
    fn add(&mut self, net: P, emit: Emit<'_>) {
        if net.len() == P::MAX {
            let count = self.hosts.entry(net.host()).or_insert(0);
            *count += 1;
            if *count == 1 && !self.wide.is_covered(&net) {
                emit(net.member(), true);
            }
            return;
        }
        if let Some(count) = self.wide.get_mut(&net) {
            *count += 1;
            return;
        }
        let covered = self.wide.is_covered(&net);
        if !covered {
            for below in self.maximal_below(net) {
                emit(below.member(), false);
            }
            emit(net.member(), true);
        }
        self.wide.insert(net, 1);
    }

    fn remove(&mut self, net: P, emit: Emit<'_>) {
        if net.len() == P::MAX {
            if let Some(count) = self.hosts.get_mut(&net.host()) {
                *count -= 1;
                if *count == 0 {
                    self.hosts.remove(&net.host());
                    if !self.wide.is_covered(&net) {
                        emit(net.member(), false);
                    }
                }
            }
            return;
        }
        let Some(count) = self.wide.get_mut(&net) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.wide.remove(&net);
        if !self.wide.is_covered(&net) {
            emit(net.member(), false);
            for below in self.maximal_below(net) {
                emit(below.member(), true);
            }
        }
    }

    /// The largest members strictly inside `net`, which itself is not stored.
    fn maximal_below(&self, net: P) -> Vec<P> {
        let mut out: Vec<P> = Vec::new();
        for (prefix, _) in self.wide.children(&net) {
            if !out.last().is_some_and(|last| last.contains(&prefix)) {
                out.push(prefix);
            }
        }
        let wide = out.len();
        for host in self.hosts.range(net.host()..=net.last_host()).map(|(host, _)| *host) {
            let inside = |p: &P| p.host() <= host && host <= p.last_host();
            let before = out[..wide].partition_point(|p| p.host() <= host);
            if !before.checked_sub(1).and_then(|at| out.get(at)).is_some_and(inside) {
                out.push(P::from_host(host));
            }
        }
        out
    }

    fn emitted(&self, out: &mut Vec<Member>) {
        let mut last: Option<P> = None;
        for (prefix, _) in self.wide.iter() {
            if !last.is_some_and(|l| l.contains(&prefix)) {
                out.push(prefix.member());
                last = Some(prefix);
            }
        }
        let wide_only = self.wide.is_empty();
        for host in self.hosts.keys() {
            let net = P::from_host(*host);
            if wide_only || !self.wide.is_covered(&net) {
                out.push(net.member());
            }
        }
    }
}

/// The members of one set.
///
/// ```
/// use calico_policy::ir::{Member, SetKind};
/// use calico_policy::members::Members;
/// let mut set = Members::new(SetKind::Net);
/// let mut emitted = Vec::new();
/// let host = Member::Net("10.0.0.1/32".parse().unwrap());
/// let net = Member::Net("10.0.0.0/24".parse().unwrap());
/// set.add(host, &mut |m, added| emitted.push((m, added)));
/// set.add(net, &mut |m, added| emitted.push((m, added)));
/// assert_eq!(emitted, [(host, true), (host, false), (net, true)]);
/// ```
#[derive(Debug, Clone)]
pub struct Members {
    kind: SetKind,
    v4: FamilyNets<Ipv4Net>,
    v6: FamilyNets<Ipv6Net>,
    ports: BTreeMap<(IpAddr, u8, u16), u32>,
}

impl Members {
    /// An empty set.
    pub fn new(kind: SetKind) -> Self {
        Self { kind, v4: FamilyNets::default(), v6: FamilyNets::default(), ports: BTreeMap::new() }
    }

    /// What the members are.
    pub fn kind(&self) -> SetKind {
        self.kind
    }

    /// Adds one contribution; `emit` hears what appears in and disappears from the emitted set.
    pub fn add(&mut self, member: Member, emit: Emit<'_>) {
        match member {
            Member::Net(IpNet::V4(net)) => self.v4.add(net.trunc(), emit),
            Member::Net(IpNet::V6(net)) => self.v6.add(net.trunc(), emit),
            Member::AddrPort { addr, protocol, port } => {
                let count = self.ports.entry((addr, protocol, port)).or_insert(0);
                *count += 1;
                if *count == 1 {
                    emit(member, true);
                }
            }
        }
    }

    /// Takes one contribution back; a member that was never added is ignored.
    pub fn remove(&mut self, member: Member, emit: Emit<'_>) {
        match member {
            Member::Net(IpNet::V4(net)) => self.v4.remove(net.trunc(), emit),
            Member::Net(IpNet::V6(net)) => self.v6.remove(net.trunc(), emit),
            Member::AddrPort { addr, protocol, port } => {
                let key = (addr, protocol, port);
                let Some(count) = self.ports.get_mut(&key) else { return };
                *count -= 1;
                if *count == 0 {
                    self.ports.remove(&key);
                    emit(member, false);
                }
            }
        }
    }

    /// The emitted set, sorted.
    pub fn emitted(&self) -> Vec<Member> {
        let mut out = Vec::with_capacity(self.v4.hosts.len() + self.v6.hosts.len() + self.ports.len());
        self.v4.emitted(&mut out);
        self.v6.emitted(&mut out);
        out.extend(self.ports.keys().map(|(addr, protocol, port)| Member::AddrPort {
            addr: *addr,
            protocol: *protocol,
            port: *port,
        }));
        out.sort_unstable();
        out
    }

    /// True when the address is inside a member.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => {
                self.v4.hosts.contains_key(&addr.to_bits()) || self.v4.wide.is_covered(&addr.into())
            }
            IpAddr::V6(addr) => {
                self.v6.hosts.contains_key(&addr.to_bits()) || self.v6.wide.is_covered(&addr.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Member {
        Member::Net(text.parse().unwrap())
    }

    #[test]
    fn the_vector_of_the_specification() {
        let mut set = Members::new(SetKind::Net);
        let mut log = Vec::new();
        let mut emit = |m: Member, added: bool| log.push((m, added));
        set.add(net("10.0.0.1/32"), &mut emit);
        set.add(net("10.0.0.0/24"), &mut emit);
        set.remove(net("10.0.0.0/24"), &mut emit);
        assert_eq!(
            log,
            [
                (net("10.0.0.1/32"), true),
                (net("10.0.0.1/32"), false),
                (net("10.0.0.0/24"), true),
                (net("10.0.0.0/24"), false),
                (net("10.0.0.1/32"), true),
            ]
        );
    }

    #[test]
    fn removing_a_stranger_changes_nothing() {
        let mut set = Members::new(SetKind::Net);
        set.remove(net("10.0.0.0/24"), &mut |_, _| unreachable!("nothing was there"));
        set.remove(net("10.0.0.1/32"), &mut |_, _| unreachable!("nothing was there"));
        assert!(set.emitted().is_empty());
    }

    fn small_net() -> impl Strategy<Value = Member> {
        (0u32..64, 24u8..=32, any::<bool>()).prop_map(|(low, len, v6)| {
            if v6 {
                let addr = Ipv6Addr::from_bits((0xfd00 << 112) | u128::from(low));
                Member::Net(IpNet::new(addr.into(), len + 96).unwrap().trunc())
            } else {
                let addr = Ipv4Addr::from_bits(0x0a00_0000 | low);
                Member::Net(IpNet::new(addr.into(), len).unwrap().trunc())
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        /// Replaying what was emitted gives the maximal contributed CIDRs, at every step.
        #[test]
        fn emitted_equals_the_maximal_contributions(
            ops in prop::collection::vec((small_net(), any::<bool>()), 0..80)
        ) {
            let mut set = Members::new(SetKind::Net);
            let mut counts: BTreeMap<Member, u32> = BTreeMap::new();
            let mut replayed: BTreeSet<Member> = BTreeSet::new();
            for (member, add) in ops {
                let mut emit = |m: Member, added: bool| {
                    let changed = if added { replayed.insert(m) } else { replayed.remove(&m) };
                    assert!(changed, "{m:?} {added}");
                };
                if add {
                    set.add(member, &mut emit);
                    *counts.entry(member).or_default() += 1;
                } else {
                    set.remove(member, &mut emit);
                    if let Some(count) = counts.get_mut(&member) {
                        *count -= 1;
                        if *count == 0 {
                            counts.remove(&member);
                        }
                    }
                }
                let nets: Vec<IpNet> =
                    counts.keys().map(|m| match m { Member::Net(n) => *n, _ => unreachable!() }).collect();
                let maximal: BTreeSet<Member> = nets
                    .iter()
                    .filter(|n| !nets.iter().any(|other| other != *n && other.contains(*n)))
                    .map(|n| Member::Net(*n))
                    .collect();
                prop_assert_eq!(&replayed, &maximal);
                prop_assert_eq!(set.emitted(), maximal.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
