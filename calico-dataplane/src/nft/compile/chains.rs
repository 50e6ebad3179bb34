//! The chains that policy compiles to, shared and reference counted.
//!
//! ```text
//! verdict map: interface ─► pipeline ─► tier ─► policy
//!                                   └─► profile
//! ```
//!
//! A pipeline stands for one combination of tiers, profiles and direction; every endpoint with that combination
//! leads to the same one. A chain's name follows from what it stands for, not from its rules: changing a
//! policy rewrites the chain of that policy and nothing that leads to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use calico_policy::changes::DefaultAction;
use calico_policy::ir::{Direction, Policy, PolicyId, Profile, Rule as IrRule, RuleAction};

use super::sets::IpSets;
use crate::nft::build::{
    accept, change_mark, drop_packet, eq, is_invalid, is_protocol, jump, load_port, reject,
};
use crate::nft::config::{Config, DenyAction};
use crate::nft::expr::{Expr, Reg, RejectKind, Verdict};
use crate::nft::lower::{LowerError, lower};
use crate::nft::names::{object_name, policy_chain, short_hash};
use crate::nft::object::{Chain, MAX_COMMENT, Name, Rule, clip};
use crate::nft::table::Table;

/// Longest log prefix.
const MAX_LOG_PREFIX: usize = 127;

/// What allowing means where a policy is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Style {
    /// Accept; deny drops or rejects as configured.
    Filter,
    /// Accept; deny drops, because the hook cannot reject.
    FilterDrop,
    /// Take out of connection tracking, carry "allowed" to later stages, accept.
    Untracked,
    /// Carry "allowed" to later stages, accept.
    PreDnat,
}

impl Style {
    const ALL: [Self; 4] = [Self::Filter, Self::FilterDrop, Self::Untracked, Self::PreDnat];

    fn letter(self) -> &'static str {
        match self {
            Self::Filter => "p",
            Self::FilterDrop => "e",
            Self::Untracked => "u",
            Self::PreDnat => "d",
        }
    }
}

/// Where a pipeline is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Stage {
    /// Traffic of a workload.
    Workload,
    /// Traffic that ends or starts at the host.
    Host,
    /// Traffic forwarded through a host interface.
    HostForward,
    /// Before connection tracking.
    Untracked,
    /// Before destination NAT.
    PreDnat,
}

/// The enforced policies of one tier for one direction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TierKey {
    pub(super) tier: Arc<str>,
    pub(super) default: DefaultAction,
    pub(super) direction: Direction,
    pub(super) style: Style,
    pub(super) policies: Vec<PolicyId>,
}

/// Everything that decides about a packet at one stage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PipelineKey {
    pub(super) stage: Stage,
    pub(super) direction: Direction,
    pub(super) style: Style,
    pub(super) tiers: Vec<Arc<TierKey>>,
    pub(super) profiles: Arc<[Arc<str>]>,
    /// Most concurrent connections, with the endpoint they are counted for.
    pub(super) max_connections: Option<(Arc<str>, u32)>,
}

/// What a chain stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ChainKey {
    Policy {
        id: PolicyId,
        direction: Direction,
        style: Style,
    },
    Profile {
        name: Arc<str>,
        direction: Direction,
        style: Style,
    },
    Tier(Arc<TierKey>),
    Pipeline(Arc<PipelineKey>),
    /// Packet rate limit of one interface.
    Rate {
        interface: Arc<str>,
        direction: Direction,
        rate: u64,
        burst: u32,
    },
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn letter(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "i",
        Direction::Egress => "o",
    }
}

impl ChainKey {
    fn name(&self) -> Name {
        match self {
            Self::Policy { id, direction, style } => {
                policy_chain(&format!("cali-{}{}-", style.letter(), letter(*direction)), id)
            }
            Self::Profile { name, direction, style } => {
                object_name(&format!("cali-{}r{}-", style.letter(), letter(*direction)), name)
            }
            Self::Tier(key) => {
                let ids: Vec<String> = key.policies.iter().map(PolicyId::to_string).collect();
                let default = match key.default {
                    DefaultAction::Deny => "deny",
                    DefaultAction::Pass => "pass",
                };
                let hash =
                    short_hash([&*key.tier, default].into_iter().chain(ids.iter().map(String::as_str)));
                let prefix = format!("cali-{}t{}-", key.style.letter(), letter(key.direction));
                object_name(&prefix, &format!("{}-{hash}", key.tier))
            }
            Self::Pipeline(key) => {
                let mut parts: Vec<String> =
                    key.tiers.iter().map(|tier| Self::Tier(tier.clone()).name().to_string()).collect();
                parts.push(String::new());
                parts.extend(key.profiles.iter().map(|name| name.to_string()));
                if let Some((endpoint, count)) = &key.max_connections {
                    parts.push(format!("\n{endpoint} {count}"));
                }
                let kind = match (key.stage, key.direction) {
                    (Stage::Workload, Direction::Ingress) => "tw",
                    (Stage::Workload, Direction::Egress) => "fw",
                    (Stage::Host, Direction::Ingress) => "fh",
                    (Stage::Host, Direction::Egress) => "th",
                    (Stage::HostForward, Direction::Ingress) => "fhfw",
                    (Stage::HostForward, Direction::Egress) => "thfw",
                    (Stage::Untracked, Direction::Ingress) => "fhut",
                    (Stage::Untracked, Direction::Egress) => "thut",
                    (Stage::PreDnat, _) => "fhpd",
                };
                format!("cali-{kind}-{}", short_hash(parts.iter().map(String::as_str))).into()
            }
            Self::Rate { interface, direction, .. } => {
                object_name(&format!("cali-rl{}-", letter(*direction)), interface)
            }
        }
    }
}

/// What the content of chains is made from.
pub(super) struct Sources<'a> {
    pub(super) config: &'a Config,
    pub(super) policies: &'a BTreeMap<PolicyId, Arc<Policy>>,
    pub(super) profiles: &'a BTreeMap<Arc<str>, Arc<Profile>>,
    pub(super) sets: &'a IpSets,
}

#[derive(Debug)]
struct Node {
    name: Name,
    refs: usize,
    children: Vec<ChainKey>,
    counters: BTreeSet<Name>,
}

/// Every chain that policy needs, with who refers to whom.
#[derive(Debug, Default)]
pub(super) struct Chains {
    nodes: BTreeMap<ChainKey, Node>,
    by_name: BTreeMap<Name, ChainKey>,
    /// Tiers that name a policy.
    tiers_of: BTreeMap<PolicyId, BTreeSet<ChainKey>>,
    /// Nodes that lost their last reference in this flush.
    garbage: BTreeSet<ChainKey>,
    counter_refs: BTreeMap<Name, usize>,
    /// Content the kernel refused, by chain, with its words.
    refused: BTreeMap<Name, (Vec<Rule>, String)>,
    /// Chains that fail closed, and why.
    failed: BTreeMap<Name, String>,
}

impl Chains {
    /// The chain for `key`, created when it is not there. Each call is one reference.
    pub(super) fn acquire(&mut self, table: &mut Table, sources: &Sources<'_>, key: &ChainKey) -> Name {
        if let Some(node) = self.nodes.get_mut(key) {
            node.refs += 1;
            self.garbage.remove(key);
            return node.name.clone();
        }
        let name = key.name();
        let node = Node { name: name.clone(), refs: 1, children: Vec::new(), counters: BTreeSet::new() };
        self.nodes.insert(key.clone(), node);
        self.by_name.insert(name.clone(), key.clone());
        if let ChainKey::Tier(tier) = key {
            for id in &tier.policies {
                self.tiers_of.entry(id.clone()).or_default().insert(key.clone());
            }
        }
        self.build(table, sources, key);
        name
    }

    /// Gives one reference back.
    pub(super) fn release(&mut self, key: &ChainKey) {
        if let Some(node) = self.nodes.get_mut(key) {
            node.refs = node.refs.saturating_sub(1);
            if node.refs == 0 {
                self.garbage.insert(key.clone());
            }
        }
    }

    /// Removes every chain without references.
    pub(super) fn sweep(&mut self, table: &mut Table) {
        while let Some(key) = self.garbage.pop_first() {
            let Some(node) = self.nodes.remove(&key) else { continue };
            self.by_name.remove(&node.name);
            self.refused.remove(&node.name);
            self.failed.remove(&node.name);
            if let ChainKey::Tier(tier) = &key {
                for id in &tier.policies {
                    if let Some(tiers) = self.tiers_of.get_mut(id) {
                        tiers.remove(&key);
                        if tiers.is_empty() {
                            self.tiers_of.remove(id);
                        }
                    }
                }
            }
            table.remove_chain(&node.name);
            node.counters.iter().for_each(|name| self.drop_counter(table, name));
            node.children.iter().for_each(|child| self.release(child));
        }
    }

    fn drop_counter(&mut self, table: &mut Table, name: &Name) {
        if let Some(refs) = self.counter_refs.get_mut(name) {
            *refs -= 1;
            if *refs == 0 {
                self.counter_refs.remove(name);
                table.remove_counter(name);
            }
        }
    }

    /// Writes the chain for `key` again, if there is one.
    pub(super) fn build(&mut self, table: &mut Table, sources: &Sources<'_>, key: &ChainKey) {
        let Some(name) = self.nodes.get(key).map(|node| node.name.clone()) else { return };
        let mut content = Content::default();
        let failure = content.fill(sources, key).err().map(|error| error.to_string());
        if let Some((rules, reason)) = self.refused.get(&name) {
            if *rules == content.rules {
                let reason = reason.clone();
                self.fail(&name, &mut content, reason);
            } else {
                self.refused.remove(&name);
                self.failed.remove(&name);
            }
        } else if let Some(reason) = failure {
            self.fail(&name, &mut content, reason);
        } else {
            self.failed.remove(&name);
        }
        let chain = Chain { base: None, comment: content.comment, rules: content.rules };
        for child in &content.children {
            self.acquire(table, sources, child);
        }
        let counters: BTreeSet<Name> = chain
            .rules
            .iter()
            .flat_map(|rule| &rule.exprs)
            .filter_map(|expr| match expr {
                Expr::NamedCounter { name } => Some(name.clone()),
                _ => None,
            })
            .collect();
        for counter in &counters {
            *self.counter_refs.entry(counter.clone()).or_default() += 1;
            table.add_counter(counter);
        }
        table.set_chain(&name, chain);
        if let Some(node) = self.nodes.get_mut(key) {
            let old_children = std::mem::replace(&mut node.children, content.children);
            let old_counters = std::mem::replace(&mut node.counters, counters);
            old_children.iter().for_each(|child| self.release(child));
            old_counters.iter().for_each(|counter| self.drop_counter(table, counter));
        }
    }

    fn fail(&mut self, name: &Name, content: &mut Content, reason: String) {
        content.rules = vec![Rule::new(vec![drop_packet()]).commented(&format!("fails closed: {reason}"))];
        content.children.clear();
        self.failed.insert(name.clone(), reason);
    }

    /// Writes the chains of a policy again, after it changed from `before` to `after`.
    pub(super) fn policy_changed(
        &mut self,
        table: &mut Table,
        sources: &Sources<'_>,
        id: &PolicyId,
        before: Option<&Policy>,
        after: Option<&Policy>,
    ) {
        for direction in [Direction::Ingress, Direction::Egress] {
            for style in Style::ALL {
                self.build(table, sources, &ChainKey::Policy { id: id.clone(), direction, style });
            }
        }
        let shapes_tier = |policy: Option<&Policy>| policy.is_none_or(passes_anywhere);
        if shapes_tier(before) || shapes_tier(after) {
            for key in self.tiers_of.get(id).cloned().unwrap_or_default() {
                self.build(table, sources, &key);
            }
        }
    }

    /// Writes the chains of a profile, and the pipelines that found it missing, again.
    pub(super) fn profile_changed(
        &mut self,
        table: &mut Table,
        sources: &Sources<'_>,
        name: &Arc<str>,
        came_or_went: bool,
    ) {
        for direction in [Direction::Ingress, Direction::Egress] {
            for style in Style::ALL {
                self.build(table, sources, &ChainKey::Profile { name: name.clone(), direction, style });
            }
        }
        if came_or_went {
            let uses = |key: &ChainKey| matches!(key, ChainKey::Pipeline(p) if p.profiles.contains(name));
            let keys: Vec<ChainKey> = self.nodes.keys().filter(|key| uses(key)).cloned().collect();
            keys.iter().for_each(|key| self.build(table, sources, key));
        }
    }

    /// Writes everything again.
    pub(super) fn rebuild(&mut self, table: &mut Table, sources: &Sources<'_>) {
        let keys: Vec<ChainKey> = self.nodes.keys().cloned().collect();
        keys.iter().for_each(|key| self.build(table, sources, key));
    }

    /// Closes a chain whose present content the kernel refuses. False when it is not one of these chains.
    pub(super) fn refuse(
        &mut self,
        table: &mut Table,
        sources: &Sources<'_>,
        name: &Name,
        reason: String,
    ) -> bool {
        let Some(key) = self.by_name.get(name).cloned() else { return false };
        let Some(chain) = table.desired().chains.get(name) else { return false };
        if self.refused.contains_key(name) {
            return false;
        }
        self.refused.insert(name.clone(), (chain.rules.clone(), reason));
        self.build(table, sources, &key);
        true
    }

    /// Why the chain or one it leads to fails closed.
    pub(super) fn failure(&self, key: &ChainKey) -> Option<String> {
        if self.failed.is_empty() {
            return None;
        }
        let node = self.nodes.get(key)?;
        match self.failed.get(&node.name) {
            Some(reason) => Some(format!("chain {}: {reason}", node.name)),
            None => node.children.iter().find_map(|child| self.failure(child)),
        }
    }
}

fn passes(rules: &[IrRule]) -> bool {
    rules.iter().any(|rule| rule.action == RuleAction::Pass)
}

fn passes_anywhere(policy: &Policy) -> bool {
    passes(&policy.ingress) || passes(&policy.egress)
}

fn rules_of(policy: &Policy, direction: Direction) -> &[IrRule] {
    match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

/// A chain under construction.
#[derive(Default)]
struct Content {
    rules: Vec<Rule>,
    children: Vec<ChainKey>,
    comment: Option<Name>,
}

/// Whose rules are being written.
struct Owner<'a> {
    /// For log prefixes: tier, short kind, name, namespace/name.
    tier: &'a str,
    kind: &'a str,
    name: &'a str,
    namespaced: String,
    /// Text before the rule's place in comments.
    label: String,
    /// Prefix of counter names.
    counter: Name,
}

impl Content {
    fn fill(&mut self, sources: &Sources<'_>, key: &ChainKey) -> Result<(), LowerError> {
        match key {
            ChainKey::Policy { id, direction, style } => {
                self.comment = Some(clip(&id.to_string(), MAX_COMMENT).into());
                match sources.policies.get(id) {
                    Some(policy) => self.policy(sources, policy, *direction, *style, false)?,
                    None => self.deny_because("policy is missing"),
                }
            }
            ChainKey::Profile { name, direction, style } => {
                self.comment = Some(clip(&format!("profile {name}"), MAX_COMMENT).into());
                match sources.profiles.get(name) {
                    Some(profile) => self.profile(sources, profile, *direction, *style)?,
                    None => self.deny_because("profile is missing"),
                }
            }
            ChainKey::Tier(tier) => self.tier(sources, tier)?,
            ChainKey::Pipeline(pipeline) => self.pipeline(sources, pipeline),
            ChainKey::Rate { rate, burst, .. } => {
                let limit = Expr::Limit { rate: *rate, unit: 1, burst: *burst, over: true };
                self.rules.push(Rule::new(vec![limit, drop_packet()]));
            }
        }
        Ok(())
    }

    fn deny_because(&mut self, why: &str) {
        self.rules.push(Rule::new(vec![drop_packet()]).commented(why));
    }

    fn policy(
        &mut self,
        sources: &Sources<'_>,
        policy: &Policy,
        direction: Direction,
        style: Style,
        inlined: bool,
    ) -> Result<(), LowerError> {
        let label = if inlined { format!("{} ", policy.id) } else { String::new() };
        let prefix = format!("cali-{}{}-", style.letter(), letter(direction));
        let namespaced = match &*policy.id.namespace {
            "" => policy.id.name.to_string(),
            namespace => format!("{namespace}/{}", policy.id.name),
        };
        let owner = Owner {
            tier: &policy.tier,
            kind: policy.id.kind.short(),
            name: &policy.id.name,
            namespaced,
            label,
            counter: policy_chain(&prefix, &policy.id),
        };
        self.rules_of(sources, rules_of(policy, direction), direction, style, &owner)
    }

    fn profile(
        &mut self,
        sources: &Sources<'_>,
        profile: &Profile,
        direction: Direction,
        style: Style,
    ) -> Result<(), LowerError> {
        let rules = match direction {
            Direction::Ingress => &profile.ingress,
            Direction::Egress => &profile.egress,
        };
        let prefix = format!("cali-{}r{}-", style.letter(), letter(direction));
        let owner = Owner {
            tier: "",
            kind: "pro",
            name: &profile.name,
            namespaced: profile.name.to_string(),
            label: String::new(),
            counter: object_name(&prefix, &profile.name),
        };
        self.rules_of(sources, rules, direction, style, &owner)
    }

    fn rules_of(
        &mut self,
        sources: &Sources<'_>,
        rules: &[IrRule],
        direction: Direction,
        style: Style,
        owner: &Owner<'_>,
    ) -> Result<(), LowerError> {
        for rule in rules {
            let comment: Name =
                clip(&format!("{}{}[{}]", owner.label, word(direction), rule.index), MAX_COMMENT).into();
            for mut exprs in lower(rule, sources.sets, sources.config.ipv6)? {
                if sources.config.rule_counters {
                    let name = object_name("", &format!("{}/{}", owner.counter, rule.index));
                    exprs.push(Expr::NamedCounter { name });
                }
                match rule.action {
                    RuleAction::Log => exprs.extend(log(sources.config, owner)),
                    RuleAction::Allow => exprs.extend(allow(sources.config, style)),
                    RuleAction::Deny => exprs.push(deny(sources.config, style)),
                    RuleAction::Pass => exprs.push(Expr::Verdict(Verdict::Return)),
                }
                self.rules.push(Rule { exprs, comment: Some(comment.clone()) });
            }
        }
        Ok(())
    }

    /// Policies are jumped to, except those that can pass: their `return` must leave the tier.
    fn tier(&mut self, sources: &Sources<'_>, key: &TierKey) -> Result<(), LowerError> {
        self.comment = Some(clip(&format!("tier {} {}", key.tier, word(key.direction)), MAX_COMMENT).into());
        for id in &key.policies {
            match sources.policies.get(id) {
                Some(policy) if passes(rules_of(policy, key.direction)) => {
                    self.policy(sources, policy, key.direction, key.style, true)?;
                }
                _ => {
                    let child =
                        ChainKey::Policy { id: id.clone(), direction: key.direction, style: key.style };
                    self.rules.push(Rule::new(vec![jump(&child.name())]));
                    self.children.push(child);
                }
            }
        }
        if key.default == DefaultAction::Deny {
            let end = Rule::new(vec![deny(sources.config, key.style)]);
            self.rules.push(end.commented(&format!("end of tier {}", key.tier)));
        }
        Ok(())
    }

    fn pipeline(&mut self, sources: &Sources<'_>, key: &PipelineKey) {
        let config = sources.config;
        let tiers: Vec<&str> = key.tiers.iter().map(|tier| &*tier.tier).collect();
        let profiles: Vec<&str> = key.profiles.iter().map(|name| &**name).collect();
        let summary = format!("tiers: {}; profiles: {}", tiers.join(" "), profiles.join(" "));
        self.comment = Some(clip(&summary, MAX_COMMENT).into());
        let tracked = matches!(key.stage, Stage::Workload | Stage::Host | Stage::HostForward);
        if tracked && config.drop_invalid {
            let mut exprs = is_invalid();
            exprs.push(drop_packet());
            self.rules.push(Rule::new(exprs));
        }
        if let Some((_, count)) = &key.max_connections {
            let reset = Expr::Reject { kind: RejectKind::TcpReset, code: 0 };
            self.rules.push(Rule::new(vec![Expr::ConnLimit { count: *count, over: true }, reset]));
        }
        if (key.stage, key.direction) == (Stage::Workload, Direction::Egress) {
            if !config.allow_vxlan_from_workloads {
                let mut exprs = is_protocol(17).to_vec();
                exprs.push(load_port(calico_policy::ir::Side::Destination, Reg::FIRST));
                exprs.push(eq(&config.vxlan_port.to_be_bytes()));
                exprs.push(drop_packet());
                self.rules.push(Rule::new(exprs).commented("workloads may not send VXLAN"));
            }
            if !config.allow_ipip_from_workloads {
                let mut exprs = is_protocol(4).to_vec();
                exprs.push(drop_packet());
                self.rules.push(Rule::new(exprs).commented("workloads may not send IPIP"));
            }
        }
        for tier in &key.tiers {
            let child = ChainKey::Tier(tier.clone());
            self.rules.push(Rule::new(vec![jump(&child.name())]));
            self.children.push(child);
        }
        if !matches!(key.stage, Stage::Workload | Stage::Host) {
            return;
        }
        for name in key.profiles.iter() {
            if !sources.profiles.contains_key(name) {
                self.deny_because(&format!("profile {name} is missing"));
                return;
            }
            let child = ChainKey::Profile { name: name.clone(), direction: key.direction, style: key.style };
            self.rules.push(Rule::new(vec![jump(&child.name())]));
            self.children.push(child);
        }
        self.rules.push(Rule::new(vec![deny(config, key.style)]).commented("no profile allows it"));
    }
}

fn allow(config: &Config, style: Style) -> Vec<Expr> {
    let mut exprs = Vec::new();
    if style == Style::Untracked {
        exprs.push(Expr::Notrack);
    }
    if matches!(style, Style::Untracked | Style::PreDnat) {
        exprs.extend(change_mark(config.accept_mark, true));
    }
    exprs.push(accept());
    exprs
}

fn deny(config: &Config, style: Style) -> Expr {
    match (style, config.deny) {
        (Style::Filter, DenyAction::Reject) => reject(),
        _ => drop_packet(),
    }
}

fn log(config: &Config, owner: &Owner<'_>) -> Vec<Expr> {
    let mut prefix = String::new();
    let mut letters = config.log_prefix.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            prefix.push(letter);
            continue;
        }
        match letters.next() {
            Some('t') => prefix.push_str(owner.tier),
            Some('k') => prefix.push_str(owner.kind),
            Some('n') => prefix.push_str(owner.name),
            Some('p') => prefix.push_str(&owner.namespaced),
            Some(other) => {
                let _ = write!(prefix, "%{other}");
            }
            None => prefix.push('%'),
        }
    }
    prefix.push_str(": ");
    let mut exprs = Vec::new();
    if let Some((rate, unit, burst)) = config.log_limit.filter(|(rate, ..)| *rate > 0) {
        exprs.push(Expr::Limit { rate, unit, burst, over: false });
    }
    let prefix = Some(clip(&prefix, MAX_LOG_PREFIX).into());
    exprs.push(Expr::Log { target: config.log_target, prefix });
    exprs
}
