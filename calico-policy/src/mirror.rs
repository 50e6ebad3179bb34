//! A dataplane in memory: it applies [`Changes`] and judges packets by interpreting the IR.
//!
//! It is the shortest correct consumer of the graph. Tests compare its state and its verdicts with those of
//! the reference evaluator; simulations and fake kernels start from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::changes::{
    Changes, DefaultAction, Encapsulation, HostEndpoint, HostMetadata, Pool, Problem, Route, ServiceCidrs,
    TierPolicies, Vtep, WireguardPeer, WorkloadEndpoint, WorkloadEndpointId,
};
use crate::ir::{
    Direction, Match, Member, Policy, PolicyId, Profile, Rule, RuleAction, SetId, SetKind, Side,
};
use crate::packet::Packet;
use crate::verdict::{HostStage, Outcome, Reason, RuleOwner, RuleRef, Staged, Step, Verdict};

/// A change that does not fit what was applied before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// A delta or removal names a set that is not there.
    #[error("set {0} is not there; send it whole before its deltas or removal")]
    UnknownSet(SetId),
    /// A delta adds a member that is there or removes one that is not.
    #[error("delta of set {set} does not fit its members at {member:?}")]
    BadDelta {
        /// The set.
        set: SetId,
        /// The first member that does not fit.
        member: Member,
    },
    /// Members of one set overlap.
    #[error("members {first} and {second} of set {set} overlap; only maximal prefixes may be sent")]
    Overlap {
        /// The set.
        set: SetId,
        /// One member.
        first: IpNet,
        /// The other.
        second: IpNet,
    },
    /// Something refers to an object that is not there.
    #[error("{referrer} refers to {missing}, which is not there")]
    Dangling {
        /// Who refers.
        referrer: String,
        /// What is missing.
        missing: String,
    },
}

/// A set as applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirroredSet {
    /// What the members are.
    pub kind: SetKind,
    /// Members, without overlaps.
    pub members: BTreeSet<Member>,
}

impl MirroredSet {
    /// True when the address is inside a member.
    pub fn contains(&self, addr: IpAddr) -> bool {
        // Members do not overlap: only the last one that starts at or before the address can contain it.
        let host = Member::Net(IpNet::from(addr));
        match self.members.range(..=host).next_back() {
            Some(Member::Net(net)) => net.contains(&addr),
            _ => false,
        }
    }
}

/// Everything applied so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mirror {
    /// Sets.
    pub sets: BTreeMap<SetId, MirroredSet>,
    /// Policies.
    pub policies: BTreeMap<PolicyId, Arc<Policy>>,
    /// Profiles.
    pub profiles: BTreeMap<Arc<str>, Arc<Profile>>,
    /// Workload endpoints.
    pub workload_endpoints: BTreeMap<WorkloadEndpointId, Arc<WorkloadEndpoint>>,
    /// Host endpoints.
    pub host_endpoints: BTreeMap<Arc<str>, Arc<HostEndpoint>>,
    /// Routes.
    pub routes: BTreeMap<IpNet, Route>,
    /// Tunnel endpoints by node and family (true for IPv6).
    pub vteps: BTreeMap<(Arc<str>, bool), Vtep>,
    /// Nodes.
    pub hosts: BTreeMap<Arc<str>, HostMetadata>,
    /// Pools.
    pub pools: BTreeMap<IpNet, Pool>,
    /// WireGuard peers.
    pub wireguard: BTreeMap<Arc<str>, WireguardPeer>,
    /// Encapsulations in use.
    pub encapsulation: Option<Encapsulation>,
    /// Service ranges.
    pub service_cidrs: Option<Arc<ServiceCidrs>>,
    /// Effective configuration.
    pub config: Option<Arc<BTreeMap<String, String>>>,
    /// Fail-closed inputs.
    pub problems: Option<Arc<[Problem]>>,
}

impl Mirror {
    /// Applies one flush, in the order of the fields of [`Changes`], and checks that every reference holds.
    pub fn apply(&mut self, changes: &Changes) -> Result<(), MirrorError> {
        if changes.config.is_some() {
            self.config.clone_from(&changes.config);
        }
        self.apply_sets(changes)?;
        for policy in &changes.policies {
            self.check_rules(&policy.id.to_string(), policy.ingress.iter().chain(&policy.egress))?;
            self.policies.insert(policy.id.clone(), policy.clone());
        }
        for profile in &changes.profiles {
            self.check_rules(&profile.name, profile.ingress.iter().chain(&profile.egress))?;
            self.profiles.insert(profile.name.clone(), profile.clone());
        }
        for endpoint in &changes.workload_endpoints {
            self.check_endpoint(&endpoint.interface, [&endpoint.tiers], &endpoint.profiles)?;
            self.workload_endpoints.insert(endpoint.id.clone(), endpoint.clone());
        }
        for endpoint in &changes.host_endpoints {
            let tiers = [&endpoint.normal, &endpoint.forward, &endpoint.untracked, &endpoint.pre_dnat];
            self.check_endpoint(&endpoint.name, tiers, &endpoint.profiles)?;
            self.host_endpoints.insert(endpoint.name.clone(), endpoint.clone());
        }
        remove_all(&mut self.workload_endpoints, &changes.removed_workload_endpoints)?;
        remove_all(&mut self.host_endpoints, &changes.removed_host_endpoints)?;
        remove_all(&mut self.profiles, &changes.removed_profiles)?;
        remove_all(&mut self.policies, &changes.removed_policies)?;
        remove_all(&mut self.sets, &changes.removed_sets)?;
        self.apply_network(changes)?;
        self.check_all()
    }

    fn apply_sets(&mut self, changes: &Changes) -> Result<(), MirrorError> {
        for update in &changes.sets {
            let members = update.members.iter().copied().collect();
            self.sets.insert(update.id.clone(), MirroredSet { kind: update.kind, members });
            self.check_overlaps(&update.id)?;
        }
        for delta in &changes.set_deltas {
            let set =
                self.sets.get_mut(&delta.id).ok_or_else(|| MirrorError::UnknownSet(delta.id.clone()))?;
            for member in &delta.removed {
                if !set.members.remove(member) {
                    return Err(MirrorError::BadDelta { set: delta.id.clone(), member: *member });
                }
            }
            for member in &delta.added {
                if !set.members.insert(*member) {
                    return Err(MirrorError::BadDelta { set: delta.id.clone(), member: *member });
                }
            }
            self.check_overlaps(&delta.id)?;
        }
        Ok(())
    }

    fn apply_network(&mut self, changes: &Changes) -> Result<(), MirrorError> {
        remove_all(&mut self.routes, &changes.removed_routes)?;
        for node in &changes.removed_vteps {
            self.vteps.retain(|(name, _), _| name != node);
        }
        for vtep in &changes.vteps {
            self.vteps.insert((vtep.node.clone(), vtep.addr.is_ipv6()), vtep.clone());
        }
        self.routes.extend(changes.routes.iter().map(|route| (route.dst, route.clone())));
        remove_all(&mut self.hosts, &changes.removed_hosts)?;
        self.hosts.extend(changes.hosts.iter().map(|host| (host.name.clone(), host.clone())));
        remove_all(&mut self.pools, &changes.removed_pools)?;
        self.pools.extend(changes.pools.iter().map(|pool| (pool.cidr, pool.clone())));
        remove_all(&mut self.wireguard, &changes.removed_wireguard)?;
        self.wireguard.extend(changes.wireguard.iter().map(|peer| (peer.node.clone(), peer.clone())));
        if changes.encapsulation.is_some() {
            self.encapsulation = changes.encapsulation;
        }
        if changes.service_cidrs.is_some() {
            self.service_cidrs.clone_from(&changes.service_cidrs);
        }
        if changes.problems.is_some() {
            self.problems.clone_from(&changes.problems);
        }
        Ok(())
    }

    fn check_overlaps(&self, id: &SetId) -> Result<(), MirrorError> {
        let mut last: Option<IpNet> = None;
        for member in self.sets.get(id).into_iter().flat_map(|set| &set.members) {
            let Member::Net(net) = member else { continue };
            if let Some(first) = last.filter(|first| first.contains(net)) {
                return Err(MirrorError::Overlap { set: id.clone(), first, second: *net });
            }
            last = Some(*net);
        }
        Ok(())
    }

    fn check_rules<'a>(
        &self,
        referrer: &str,
        rules: impl Iterator<Item = &'a Rule>,
    ) -> Result<(), MirrorError> {
        for set in rules.flat_map(|rule| &rule.matches).flat_map(referenced_sets) {
            if !self.sets.contains_key(set) {
                return Err(dangling(referrer, format!("set {set}")));
            }
        }
        Ok(())
    }

    fn check_endpoint<const N: usize>(
        &self,
        referrer: &str,
        tiers: [&Arc<[TierPolicies]>; N],
        profiles: &[Arc<str>],
    ) -> Result<(), MirrorError> {
        for tier in tiers.into_iter().flat_map(|tiers| tiers.iter()) {
            for id in tier.ingress.iter().chain(tier.egress.iter()) {
                if !self.policies.contains_key(id) {
                    return Err(dangling(referrer, format!("policy {id}")));
                }
            }
        }
        match profiles.iter().find(|name| !self.profiles.contains_key(*name)) {
            Some(name) => Err(dangling(referrer, format!("profile {name}"))),
            None => Ok(()),
        }
    }

    fn check_all(&self) -> Result<(), MirrorError> {
        for policy in self.policies.values() {
            self.check_rules(&policy.id.to_string(), policy.ingress.iter().chain(&policy.egress))?;
        }
        for profile in self.profiles.values() {
            self.check_rules(&profile.name, profile.ingress.iter().chain(&profile.egress))?;
        }
        for endpoint in self.workload_endpoints.values() {
            self.check_endpoint(&endpoint.interface, [&endpoint.tiers], &endpoint.profiles)?;
        }
        for endpoint in self.host_endpoints.values() {
            let tiers = [&endpoint.normal, &endpoint.forward, &endpoint.untracked, &endpoint.pre_dnat];
            self.check_endpoint(&endpoint.name, tiers, &endpoint.profiles)?;
        }
        Ok(())
    }

    /// True when the packet meets every criterion of the rule.
    pub fn rule_matches(&self, rule: &Rule, packet: &Packet) -> bool {
        rule.matches.iter().all(|criterion| self.holds(criterion, packet))
    }

    fn holds(&self, criterion: &Match, packet: &Packet) -> bool {
        let addr = |side: &Side| match side {
            Side::Source => packet.src,
            Side::Destination => packet.dst,
        };
        match criterion {
            Match::Family(family) => packet.family() == *family,
            Match::Protocol { negated, protocols } => {
                *negated != protocols.binary_search(&packet.protocol).is_ok()
            }
            Match::Nets { side, negated, nets } => {
                *negated != nets.iter().any(|net| net.contains(&addr(side)))
            }
            Match::AddrInSet { side, negated, set } => {
                *negated != self.sets.get(set).is_some_and(|set| set.contains(addr(side)))
            }
            Match::Ports { side, negated, ranges, named } => {
                let port = match side {
                    Side::Source => packet.source_port(),
                    Side::Destination => packet.destination_port(),
                };
                let found = port.is_some_and(|port| {
                    let member = Member::AddrPort { addr: addr(side), protocol: packet.protocol, port };
                    ranges.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
                        || named
                            .iter()
                            .any(|set| self.sets.get(set).is_some_and(|set| set.members.contains(&member)))
                });
                *negated != found
            }
            Match::Icmp { negated, icmp_type, code } => packet
                .icmp()
                .is_some_and(|(t, c)| *negated != (t == *icmp_type && code.is_none_or(|code| code == c))),
        }
    }

    /// The verdict of a workload endpoint's policy for a packet to (`Ingress`) or from (`Egress`) it.
    pub fn evaluate_workload(
        &self,
        id: &WorkloadEndpointId,
        direction: Direction,
        packet: &Packet,
        staged: Staged,
    ) -> Outcome {
        let Some(endpoint) = self.workload_endpoints.get(id) else {
            return Outcome::plain(Verdict::Continue, Reason::NotPoliced);
        };
        if !endpoint.active {
            return Outcome::plain(Verdict::Deny, Reason::Inactive);
        }
        let mut steps = Vec::new();
        let decided = self.run_tiers(&endpoint.tiers, direction, packet, staged, &mut steps);
        let (verdict, reason) =
            decided.unwrap_or_else(|| self.run_profiles(&endpoint.profiles, direction, packet, &mut steps));
        Outcome { verdict, reason, steps }
    }

    /// The verdict of one stage of a host endpoint.
    pub fn evaluate_host(
        &self,
        name: &str,
        stage: HostStage,
        direction: Direction,
        packet: &Packet,
        staged: Staged,
    ) -> Outcome {
        let Some(endpoint) = self.host_endpoints.get(name) else {
            return Outcome::plain(Verdict::Continue, Reason::NotPoliced);
        };
        let tiers = match stage {
            HostStage::Untracked => &endpoint.untracked,
            HostStage::PreDnat => &endpoint.pre_dnat,
            HostStage::Forward => &endpoint.forward,
            HostStage::Normal => &endpoint.normal,
        };
        if stage == HostStage::Forward && tiers.is_empty() {
            return Outcome::plain(Verdict::Allow, Reason::NothingApplies);
        }
        let mut steps = Vec::new();
        let decided = self.run_tiers(tiers, direction, packet, staged, &mut steps);
        let (verdict, reason) = match decided {
            Some(decided) => decided,
            None if stage == HostStage::Normal => {
                self.run_profiles(&endpoint.profiles, direction, packet, &mut steps)
            }
            None => (Verdict::Continue, Reason::NothingApplies),
        };
        Outcome { verdict, reason, steps }
    }

    fn run_tiers(
        &self,
        tiers: &[TierPolicies],
        direction: Direction,
        packet: &Packet,
        staged: Staged,
        steps: &mut Vec<Step>,
    ) -> Option<(Verdict, Reason)> {
        for tier in tiers {
            let counts = |id: &&PolicyId| staged == Staged::Counted || !id.kind.is_staged();
            let mut policies = tier.policies(direction).iter().filter(counts).peekable();
            if policies.peek().is_none() {
                continue;
            }
            let mut passed = false;
            for id in policies {
                let Some(policy) = self.policies.get(id) else { continue };
                let rules = match direction {
                    Direction::Ingress => &policy.ingress,
                    Direction::Egress => &policy.egress,
                };
                let owner = || RuleOwner::Policy { tier: tier.tier.clone(), policy: id.clone() };
                match self.run_rules(rules, owner, direction, packet, steps) {
                    Ruled::Decided(verdict, rule) => return Some((verdict, Reason::Rule(rule))),
                    Ruled::Passed => passed = true,
                    Ruled::Nothing => {}
                }
                if passed {
                    break;
                }
            }
            if passed {
                continue;
            }
            match tier.default_action {
                DefaultAction::Pass => steps.push(Step::TierPassed(tier.tier.clone())),
                DefaultAction::Deny => return Some((Verdict::Deny, Reason::EndOfTier(tier.tier.clone()))),
            }
        }
        None
    }

    fn run_profiles(
        &self,
        profiles: &[Arc<str>],
        direction: Direction,
        packet: &Packet,
        steps: &mut Vec<Step>,
    ) -> (Verdict, Reason) {
        for profile in profiles.iter().filter_map(|name| self.profiles.get(name)) {
            let rules = match direction {
                Direction::Ingress => &profile.ingress,
                Direction::Egress => &profile.egress,
            };
            let owner = || RuleOwner::Profile(profile.name.clone());
            if let Ruled::Decided(verdict, rule) = self.run_rules(rules, owner, direction, packet, steps) {
                return (verdict, Reason::Rule(rule));
            }
        }
        (Verdict::Deny, Reason::NoProfileAllows)
    }

    fn run_rules(
        &self,
        rules: &[Rule],
        owner: impl Fn() -> RuleOwner,
        direction: Direction,
        packet: &Packet,
        steps: &mut Vec<Step>,
    ) -> Ruled {
        for rule in rules.iter().filter(|rule| self.rule_matches(rule, packet)) {
            let reference = RuleRef { owner: owner(), direction, index: rule.index };
            match rule.action {
                RuleAction::Allow => return Ruled::Decided(Verdict::Allow, reference),
                RuleAction::Deny => return Ruled::Decided(Verdict::Deny, reference),
                RuleAction::Pass => {
                    steps.push(Step::Passed(reference));
                    return Ruled::Passed;
                }
                RuleAction::Log => steps.push(Step::Logged(reference)),
            }
        }
        Ruled::Nothing
    }
}

enum Ruled {
    Decided(Verdict, RuleRef),
    Passed,
    Nothing,
}

/// The sets that a criterion refers to.
pub fn referenced_sets(criterion: &Match) -> &[SetId] {
    match criterion {
        Match::AddrInSet { set, .. } => std::slice::from_ref(set),
        Match::Ports { named, .. } => named,
        _ => &[],
    }
}

fn dangling(referrer: &str, missing: String) -> MirrorError {
    MirrorError::Dangling { referrer: referrer.to_owned(), missing }
}

fn remove_all<K: Ord + std::fmt::Debug, V>(map: &mut BTreeMap<K, V>, keys: &[K]) -> Result<(), MirrorError> {
    for key in keys {
        if map.remove(key).is_none() {
            return Err(dangling("a removal", format!("{key:?}")));
        }
    }
    Ok(())
}
