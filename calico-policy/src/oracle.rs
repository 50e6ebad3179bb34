//! The reference evaluator: what the resources mean, said as plainly as possible.
//!
//! It is written from the semantics and shares nothing with the compiler: no IR, no IP sets, no composed selectors, no
//! incremental state. It is slow and obvious, and the compiler and every dataplane are tested against it. Traces,
//! simulations and lints are built on it, because its answers name the rule and the label that decided.

mod host;
mod labels;
mod lint;
mod question;
mod reach;
mod rule;
mod trace;
mod world;

use std::cmp::Ordering;
use std::net::IpAddr;

use calico_model::ResourceKey;

pub use host::HostPath;
pub use lint::{Concern, LintFinding, Severity};
pub use question::{End, PortChoice, Question, QuestionError};
pub use reach::{Cell, Flip, Group, Matrix, Probe, Simulation};
pub use rule::Unmet;
pub use trace::{Hop, ListHop, Party, RuleHop, RuleName, StagedHop, TierHop, Trace, WhyDenied};
pub use world::{EndpointKind, Item, World};

use crate::changes::DefaultAction;
use crate::ir::{Direction, PolicyId, RuleAction};
use crate::packet::Packet;
use crate::rules::shared;
use crate::verdict::{HostStage, Outcome, Reason, RuleOwner, RuleRef, Staged, Step, Verdict};
use world::{OraclePolicy, Rules};

/// A packet of a new connection through the cluster, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowOutcome {
    /// Allow only when no policed end denies.
    pub verdict: Verdict,
    /// Policy of the workload that sends, when the source is one.
    pub egress: Option<(ResourceKey, Outcome)>,
    /// Policy of the workload that receives, when the destination is one. Absent when egress denies.
    pub ingress: Option<(ResourceKey, Outcome)>,
}

impl World {
    /// Judges the first packet of a connection: egress policy of the workload that has the source address, then ingress
    /// policy of the workload that has the destination address. Addresses outside count as unpoliced.
    ///
    /// ```
    /// use calico_policy::oracle::World;
    /// use calico_policy::packet::Packet;
    /// use calico_policy::verdict::Verdict;
    /// let world = World::new([]);
    /// let packet = Packet::tcp("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap(), 80);
    /// let outcome = world.evaluate(&packet, calico_policy::verdict::Staged::Ignored);
    /// assert_eq!(outcome.verdict, Verdict::Allow, "nobody here has a say in it");
    /// ```
    pub fn evaluate(&self, packet: &Packet, staged: Staged) -> FlowOutcome {
        let mut flow = FlowOutcome { verdict: Verdict::Allow, egress: None, ingress: None };
        if let Some(source) = self.workload_at(packet.src) {
            let outcome =
                self.evaluate_endpoint(source, HostStage::Normal, Direction::Egress, packet, staged);
            flow.verdict = outcome.verdict;
            flow.egress = Some((source.key.clone(), outcome));
        }
        if flow.verdict == Verdict::Deny {
            return flow;
        }
        if let Some(destination) = self.workload_at(packet.dst) {
            let outcome =
                self.evaluate_endpoint(destination, HostStage::Normal, Direction::Ingress, packet, staged);
            flow.verdict = outcome.verdict;
            flow.ingress = Some((destination.key.clone(), outcome));
        }
        flow
    }

    /// The workload endpoint that has the address; the first by key when several do.
    pub fn workload_at(&self, addr: IpAddr) -> Option<&Item> {
        self.items_with(addr).find(|item| item.kind == EndpointKind::Workload)
    }

    /// Judges a packet at one stage of one endpoint. Workload endpoints have the stage `Normal` only.
    pub fn evaluate_endpoint(
        &self,
        endpoint: &Item,
        stage: HostStage,
        direction: Direction,
        packet: &Packet,
        staged: Staged,
    ) -> Outcome {
        let selected: Vec<&OraclePolicy> = self
            .policies()
            .filter(|policy| policy.selects(endpoint) && policy.applies_at(endpoint, stage))
            .collect();
        if stage == HostStage::Forward && selected.is_empty() {
            return Outcome::plain(Verdict::Allow, Reason::NothingApplies);
        }
        let mut steps = Vec::new();
        let mut decided = None;
        for tier in self.tiers_of(&selected) {
            let mut policies: Vec<&OraclePolicy> = selected
                .iter()
                .copied()
                .filter(|policy| policy.tier == tier && policy.governs(direction))
                .filter(|policy| staged == Staged::Counted || !policy.id.kind.is_staged())
                .collect();
            policies.sort_by(|a, b| in_tier_order(a, b));
            if policies.is_empty() {
                continue;
            }
            decided = self.tier_verdict(&tier, &policies, stage, direction, packet, &mut steps);
            if decided.is_some() {
                break;
            }
        }
        let (verdict, reason) = match decided {
            Some(decided) => decided,
            None if stage == HostStage::Normal => {
                self.profile_verdict(endpoint, direction, packet, &mut steps)
            }
            None => (Verdict::Continue, Reason::NothingApplies),
        };
        Outcome { verdict, reason, steps }
    }

    /// Runs the policies of a tier; `None` means that the next tier decides.
    fn tier_verdict(
        &self,
        tier: &str,
        policies: &[&OraclePolicy],
        stage: HostStage,
        direction: Direction,
        packet: &Packet,
        steps: &mut Vec<Step>,
    ) -> Option<(Verdict, Reason)> {
        for policy in policies {
            let owner = RuleOwner::Policy { tier: shared(tier), policy: policy.id.clone() };
            match self.run(&policy.rules(direction), &policy.id, &owner, direction, packet, steps) {
                Ran::Decided(verdict, rule) => return Some((verdict, Reason::Rule(rule))),
                Ran::Passed => return None,
                Ran::Through => {}
            }
        }
        let before_routing = matches!(stage, HostStage::Untracked | HostStage::PreDnat);
        if before_routing || self.default_action(tier) == DefaultAction::Pass {
            steps.push(Step::TierPassed(shared(tier)));
            return None;
        }
        Some((Verdict::Deny, Reason::EndOfTier(shared(tier))))
    }

    fn profile_verdict(
        &self,
        endpoint: &Item,
        direction: Direction,
        packet: &Packet,
        steps: &mut Vec<Step>,
    ) -> (Verdict, Reason) {
        let nobody = PolicyId {
            kind: crate::ir::PolicyKind::GlobalNetworkPolicy,
            namespace: shared(""),
            name: shared(""),
        };
        for name in &endpoint.profiles {
            let owner = RuleOwner::Profile(shared(name));
            let rules = self.profile_rules(name, direction);
            if let Ran::Decided(verdict, rule) = self.run(&rules, &nobody, &owner, direction, packet, steps) {
                return (verdict, Reason::Rule(rule));
            }
        }
        (Verdict::Deny, Reason::NoProfileAllows)
    }

    fn run(
        &self,
        rules: &Rules<'_>,
        policy: &PolicyId,
        owner: &RuleOwner,
        direction: Direction,
        packet: &Packet,
        steps: &mut Vec<Step>,
    ) -> Ran {
        let reference = |index: usize| RuleRef { owner: owner.clone(), direction, index: index as u32 };
        let rules = match rules {
            Rules::DenyAll => return Ran::Decided(Verdict::Deny, reference(0)),
            Rules::List(rules) => rules,
        };
        for (index, rule) in rules.iter().enumerate() {
            match self.rule_action(rule, &policy.namespace, packet) {
                None => {}
                Some(RuleAction::Allow) => return Ran::Decided(Verdict::Allow, reference(index)),
                Some(RuleAction::Deny) => return Ran::Decided(Verdict::Deny, reference(index)),
                Some(RuleAction::Pass) => {
                    steps.push(Step::Passed(reference(index)));
                    return Ran::Passed;
                }
                Some(RuleAction::Log) => steps.push(Step::Logged(reference(index))),
            }
        }
        Ran::Through
    }

    /// The tiers of some policies, in order.
    fn tiers_of(&self, policies: &[&OraclePolicy]) -> Vec<String> {
        let mut names: Vec<String> = policies.iter().map(|policy| policy.tier.clone()).collect();
        names.sort();
        names.dedup();
        names.sort_by(|a, b| {
            let (a_missing, a_order) = self.tier_position(a);
            let (b_missing, b_order) = self.tier_position(b);
            a_missing.cmp(&b_missing).then(a_order.total_cmp(&b_order)).then(a.cmp(b))
        });
        names
    }
}

enum Ran {
    Decided(Verdict, RuleRef),
    Passed,
    Through,
}

/// Order ascending with absent last, ties by `name/namespace/kind`.
fn in_tier_order(a: &OraclePolicy, b: &OraclePolicy) -> Ordering {
    let order = |policy: &OraclePolicy| policy.order.unwrap_or(f64::INFINITY);
    let text = |policy: &OraclePolicy| {
        format!("{}/{}/{}", policy.id.name, policy.id.namespace, crate::order::kind_name(policy.id.kind))
    };
    order(a).total_cmp(&order(b)).then_with(|| text(a).cmp(&text(b)))
}
