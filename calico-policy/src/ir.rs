//! The rule IR: what a policy means once selectors are resolved to IP sets and lists are normalised.
//!
//! One IR serves every back end (nf_tables, the user-space interpreter, eBPF later). It holds no selector
//! text and no names that need a lookup: addresses, ranges, protocol numbers and set ids only.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// IP family of an address, a rule or a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Which way traffic flows, seen from the endpoint that is policed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Towards the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

/// Which end of the packet a match looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Source address or port.
    Source,
    /// Destination address or port.
    Destination,
}

/// Kind of a policy; with namespace and name it is the policy's identity (`policy.md` §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// `NetworkPolicy`, short form `np`.
    NetworkPolicy,
    /// `GlobalNetworkPolicy`, short form `gnp`.
    GlobalNetworkPolicy,
    /// A Kubernetes `NetworkPolicy`, short form `knp`.
    KubernetesNetworkPolicy,
    /// A Kubernetes `ClusterNetworkPolicy`, short form `kcnp`.
    KubernetesClusterNetworkPolicy,
    /// `StagedNetworkPolicy`, short form `snp`.
    StagedNetworkPolicy,
    /// `StagedGlobalNetworkPolicy`, short form `sgnp`.
    StagedGlobalNetworkPolicy,
    /// `StagedKubernetesNetworkPolicy`, short form `sknp`.
    StagedKubernetesNetworkPolicy,
}

impl PolicyKind {
    /// The short form used in chain names, logs and flow prefixes.
    pub fn short(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "np",
            Self::GlobalNetworkPolicy => "gnp",
            Self::KubernetesNetworkPolicy => "knp",
            Self::KubernetesClusterNetworkPolicy => "kcnp",
            Self::StagedNetworkPolicy => "snp",
            Self::StagedGlobalNetworkPolicy => "sgnp",
            Self::StagedKubernetesNetworkPolicy => "sknp",
        }
    }

    /// True for the kinds that are evaluated but never enforced.
    pub fn is_staged(self) -> bool {
        matches!(
            self,
            Self::StagedNetworkPolicy | Self::StagedGlobalNetworkPolicy | Self::StagedKubernetesNetworkPolicy
        )
    }
}

/// Identity of a policy. `Display` gives the text id, `np/ns/name` or `gnp/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId {
    /// Kind of the policy.
    pub kind: PolicyKind,
    /// Namespace; empty for global kinds.
    pub namespace: Arc<str>,
    /// Name as the user wrote it.
    pub name: Arc<str>,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind.short(), self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind.short(), self.namespace, self.name)
        }
    }
}

/// Identity of an IP set: `s:…` selector, `n:…` named port, `svc:…`/`svcnoport:…` service
/// (`selector.md` §6).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub Arc<str>);

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the members of a set are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// [`Member::Net`] of both families.
    Net,
    /// [`Member::AddrPort`] of both families.
    AddrPort,
}

/// One member of an IP set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// A CIDR, masked; a host is a /32 or /128. Members of one set never overlap.
    Net(IpNet),
    /// An address with protocol number (6, 17 or 132) and port.
    AddrPort {
        /// Address.
        addr: IpAddr,
        /// IP protocol number.
        protocol: u8,
        /// Port, host order.
        port: u16,
    },
}

/// Sorted, disjoint, non-adjacent inclusive ranges of port numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRanges(pub Vec<(u16, u16)>);

/// One criterion of a rule. All criteria of a rule must hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Match {
    /// The packet is of this family.
    Family(Family),
    /// The protocol number is (or, negated, is not) one of the sorted list.
    Protocol {
        /// True for `notProtocol`.
        negated: bool,
        /// Sorted protocol numbers, never empty.
        protocols: Vec<u8>,
    },
    /// The address is (not) inside one of the CIDRs.
    Nets {
        /// Source or destination.
        side: Side,
        /// True for `notNets`.
        negated: bool,
        /// Masked, sorted, aggregated CIDRs of both families, never empty.
        nets: Arc<[IpNet]>,
    },
    /// The address is (not) a member of a [`SetKind::Net`] set.
    AddrInSet {
        /// Source or destination.
        side: Side,
        /// True for a bare `notSelector`.
        negated: bool,
        /// The set.
        set: SetId,
    },
    /// The port is (not) in one of the ranges, or (address, protocol, port) is (not) in one of the
    /// [`SetKind::AddrPort`] sets. The alternatives are OR-ed, the negation applies to the whole. A rule with
    /// ranges always has a protocol criterion of TCP, UDP or SCTP. A packet without ports is in no range and in
    /// no set. One rule may have two of these for one side: a port list and a service.
    Ports {
        /// Source or destination.
        side: Side,
        /// True for `notPorts`.
        negated: bool,
        /// Numeric ranges, may be empty when `named` is not.
        ranges: PortRanges,
        /// Named-port and service sets.
        named: Vec<SetId>,
    },
    /// ICMP or ICMPv6 type, with code when given. Negation is NOT(type AND code). Either way only ICMP packets
    /// of the packet's own family match (protocol 1 over IPv4, 58 over IPv6); the compiler adds that protocol
    /// criterion to every rule that has this one.
    Icmp {
        /// True for `notICMP`.
        negated: bool,
        /// ICMP type.
        icmp_type: u8,
        /// ICMP code.
        code: Option<u8>,
    },
}

/// What happens to a packet that matches a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleAction {
    /// Accept; no later policy of this endpoint and direction is consulted.
    Allow,
    /// Drop (or reject).
    Deny,
    /// Leave the tier; in a profile, leave the profile.
    Pass,
    /// Log and go on with the next rule.
    Log,
}

/// One compiled rule. Its identity is (policy, direction, `index`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Position in the list the user wrote; stable across normalisation, several IR rules may share it.
    pub index: u32,
    /// Verdict.
    pub action: RuleAction,
    /// Criteria in normal form, sorted; empty matches everything.
    pub matches: Vec<Match>,
}

/// A compiled policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Identity.
    pub id: PolicyId,
    /// Tier it belongs to.
    pub tier: Arc<str>,
    /// Rules for traffic to the endpoint.
    pub ingress: Vec<Rule>,
    /// Rules for traffic from the endpoint.
    pub egress: Vec<Rule>,
}

/// A compiled profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Name, for example `kns.default`.
    pub name: Arc<str>,
    /// Rules for traffic to the endpoint.
    pub ingress: Vec<Rule>,
    /// Rules for traffic from the endpoint.
    pub egress: Vec<Rule>,
}
