//! Which tier, policy, rule and label decided about a packet, on both ends.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use calico_model::Rule;
use calico_selector::compose::{self, Entity, Subject};
use calico_selector::{Finding, Reason as Condition, Selector, explain};
use serde::Serialize;

use super::in_tier_order;
use super::world::{Item, OraclePolicy, Rules, World};
use crate::changes::DefaultAction;
use crate::ir::{Direction, RuleAction};
use crate::packet::{Packet, has_ports};
use crate::verdict::{HostStage, Outcome, Reason, RuleOwner, RuleRef, Staged, Step, Verdict};

/// A packet, who has a say in it, and what each of them said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// Source address and, when known, who has it.
    pub from: Party,
    /// Destination address and, when known, who has it.
    pub to: Party,
    /// Protocol by name where it has one, else by number.
    pub protocol: String,
    /// Destination port, for protocols with ports.
    pub port: Option<u16>,
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// Egress of the source, then ingress of the destination, as far as the packet gets.
    pub hops: Vec<Hop>,
}

/// One end of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Party {
    /// Address.
    pub address: IpAddr,
    /// Endpoints and network sets that have the address.
    pub known_as: Vec<String>,
}

/// What the policy of one endpoint says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// The endpoint.
    pub endpoint: String,
    /// `egress` or `ingress`.
    pub direction: &'static str,
    /// What it says.
    pub verdict: Verdict,
    /// What decided, in words.
    pub reason: String,
    /// The rule that decided, when one did.
    pub rule: Option<RuleName>,
    /// Tiers that were consulted, in order.
    pub tiers: Vec<TierHop>,
    /// Profiles that were consulted, in order.
    pub profiles: Vec<ListHop>,
    /// What it would say with staged policies enforced, when that differs.
    pub staged: Option<StagedHop>,
}

/// The name of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RuleName {
    /// Tier, empty for profiles.
    pub tier: String,
    /// Text id of the policy, or name of the profile.
    pub policy: String,
    /// Position in its list, from 0.
    pub index: u32,
}

/// A tier that was consulted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TierHop {
    /// Name.
    pub tier: String,
    /// `Deny` or `Pass`.
    pub default_action: &'static str,
    /// Policies that were consulted, in order.
    pub policies: Vec<ListHop>,
}

/// A policy or profile that was consulted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListHop {
    /// Text id of the policy, or name of the profile.
    pub name: String,
    /// Why it applies to the endpoint: the labels that its selector asks for.
    pub selects_because: Vec<String>,
    /// Rules up to the one that decided.
    pub rules: Vec<RuleHop>,
}

/// A rule that was consulted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleHop {
    /// Position in its list, from 0.
    pub index: u32,
    /// Its action.
    pub action: String,
    /// True when it applies to the packet.
    pub applies: bool,
    /// The criterion that the packet does not meet.
    pub unmet: Option<&'static str>,
    /// The labels behind it.
    pub because: Vec<String>,
}

/// What staged policies would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StagedHop {
    /// What the endpoint would say.
    pub verdict: Verdict,
    /// What would decide.
    pub reason: String,
}

/// Why a packet is denied, in the fewest words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WhyDenied {
    /// The endpoint whose policy denies.
    pub endpoint: String,
    /// `egress` or `ingress`.
    pub direction: &'static str,
    /// What decided, in words.
    pub reason: String,
    /// The rule that denies; absent for the end of a tier.
    pub rule: Option<RuleName>,
    /// Allow rules that were consulted, and why each does not apply.
    pub near_misses: Vec<String>,
}

impl World {
    /// Follows a packet through the policy of both its ends.
    ///
    /// ```
    /// use calico_policy::oracle::World;
    /// use calico_policy::packet::Packet;
    /// let packet = Packet::tcp("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap(), 80);
    /// let text = World::new([]).trace(&packet).to_string();
    /// assert_eq!(text, "192.0.2.1 -> 192.0.2.2 TCP 80: allowed\n  neither end is policed\n");
    /// ```
    pub fn trace(&self, packet: &Packet) -> Trace {
        let flow = self.evaluate(packet, Staged::Ignored);
        let mut hops = Vec::new();
        for (direction, end) in [(Direction::Egress, flow.egress), (Direction::Ingress, flow.ingress)] {
            if let Some((key, outcome)) = end
                && let Some(item) = self.item(&key)
            {
                hops.push(self.hop(item, direction, packet, &outcome));
            }
        }
        Trace {
            from: self.party(packet.src),
            to: self.party(packet.dst),
            protocol: protocol_name(packet.protocol),
            port: has_ports(packet.protocol).then_some(packet.dst_port),
            verdict: flow.verdict,
            hops,
        }
    }

    /// Why a packet is denied; `None` when it is not.
    pub fn why_denied(&self, packet: &Packet) -> Option<WhyDenied> {
        let hop = self.trace(packet).hops.pop().filter(|hop| hop.verdict == Verdict::Deny)?;
        let lists = hop.tiers.iter().flat_map(|tier| &tier.policies).chain(&hop.profiles);
        let mut near_misses = Vec::new();
        for list in lists {
            for rule in list.rules.iter().filter(|rule| !rule.applies && rule.action == "Allow") {
                let because = if rule.because.is_empty() {
                    String::new()
                } else {
                    format!(": {}", rule.because.join("; "))
                };
                let unmet = rule.unmet.unwrap_or_default();
                let rule = format!("{} {}[{}]", list.name, hop.direction, rule.index);
                near_misses.push(format!("{rule} would allow, but {unmet} is not met{because}"));
            }
        }
        Some(WhyDenied {
            endpoint: hop.endpoint,
            direction: hop.direction,
            reason: hop.reason,
            rule: hop.rule,
            near_misses,
        })
    }

    fn party(&self, address: IpAddr) -> Party {
        Party { address, known_as: self.items_with(address).map(Item::title).collect() }
    }

    fn hop(&self, item: &Item, direction: Direction, packet: &Packet, outcome: &Outcome) -> Hop {
        let with_staged = self.evaluate_endpoint(item, HostStage::Normal, direction, packet, Staged::Counted);
        let staged = (with_staged.verdict != outcome.verdict)
            .then(|| StagedHop { verdict: with_staged.verdict, reason: with_staged.reason.to_string() });
        let mut hop = Hop {
            endpoint: item.title(),
            direction: direction_name(direction),
            verdict: outcome.verdict,
            reason: outcome.reason.to_string(),
            rule: match &outcome.reason {
                Reason::Rule(rule) => Some(rule_name(rule)),
                _ => None,
            },
            tiers: Vec::new(),
            profiles: Vec::new(),
            staged,
        };
        let selected: Vec<&OraclePolicy> = self
            .policies()
            .filter(|policy| policy.selects(item) && policy.applies_at(item, HostStage::Normal))
            .collect();
        let last_tier = match &outcome.reason {
            Reason::Rule(RuleRef { owner: RuleOwner::Policy { tier, .. }, .. }) => Some(tier),
            Reason::EndOfTier(tier) => Some(tier),
            _ => None,
        };
        for tier in self.tiers_of(&selected) {
            let mut policies: Vec<&OraclePolicy> = selected
                .iter()
                .copied()
                .filter(|policy| {
                    policy.tier == tier && policy.governs(direction) && !policy.id.kind.is_staged()
                })
                .collect();
            policies.sort_by(|a, b| in_tier_order(a, b));
            if policies.is_empty() {
                continue;
            }
            let mut lists = Vec::new();
            for policy in policies {
                let owner = RuleOwner::Policy { tier: tier.as_str().into(), policy: policy.id.clone() };
                let end = last_of(outcome, &owner);
                lists.push(ListHop {
                    name: policy.id.to_string(),
                    selects_because: selects_because(policy, item),
                    rules: self.rule_hops(&policy.rules(direction), &policy.id.namespace, packet, end),
                });
                if end.is_some() {
                    break;
                }
            }
            let default_action = match self.default_action(&tier) {
                DefaultAction::Deny => "Deny",
                DefaultAction::Pass => "Pass",
            };
            let last = last_tier.is_some_and(|last| **last == *tier);
            hop.tiers.push(TierHop { tier, default_action, policies: lists });
            if last {
                return hop;
            }
        }
        for name in &item.profiles {
            let end = last_of(outcome, &RuleOwner::Profile(name.as_str().into()));
            hop.profiles.push(ListHop {
                name: name.clone(),
                selects_because: Vec::new(),
                rules: self.rule_hops(&self.profile_rules(name, direction), "", packet, end),
            });
            if end.is_some() && hop.rule.is_some() {
                break;
            }
        }
        hop
    }

    fn rule_hops(
        &self,
        rules: &Rules<'_>,
        namespace: &str,
        packet: &Packet,
        end: Option<u32>,
    ) -> Vec<RuleHop> {
        let Rules::List(rules) = rules else {
            let because = vec!["it is missing or its selector cannot be read".to_owned()];
            return vec![RuleHop { index: 0, action: "Deny".into(), applies: true, unmet: None, because }];
        };
        let mut hops = Vec::new();
        for (index, rule) in (0_u32..).zip(rules.iter()) {
            let action = self.rule_action(rule, namespace, packet);
            let unmet = if action.is_some() { None } else { self.why_unmet(rule, namespace, packet) };
            let shown = action.map_or_else(|| rule.action.as_str().to_owned(), action_name);
            let because = self.peers_because(rule, namespace, packet, unmet.as_ref().map(|u| u.field));
            hops.push(RuleHop {
                index,
                action: shown,
                applies: action.is_some(),
                unmet: unmet.map(|u| u.field),
                because,
            });
            if end == Some(index) {
                break;
            }
        }
        hops
    }

    /// The labels behind the selectors of a rule: those of the side that is not met, or of both when all is met.
    fn peers_because(
        &self,
        rule: &Rule,
        namespace: &str,
        packet: &Packet,
        unmet: Option<&str>,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        let sides = [
            ("source.selector", &rule.source, packet.src),
            ("destination.selector", &rule.destination, packet.dst),
        ];
        for (field, entity, addr) in sides {
            if unmet.is_some_and(|unmet| unmet != field) {
                continue;
            }
            let accounts = entity.service_accounts.as_ref();
            let composed = compose::entity(
                &Entity {
                    selector: &entity.selector,
                    not_selector: &entity.not_selector,
                    namespace_selector: &entity.namespace_selector,
                    service_account_selector: accounts.map_or("", |a| &a.selector),
                    service_account_names: accounts.map_or(&[], |a| &a.names),
                },
                namespace,
            );
            let ((Some(selector), _) | (None, Some(selector))) = composed.merged() else { continue };
            if self.items_with(addr).next().is_none() {
                lines.push(format!("{addr} is no endpoint or network set"));
            }
            for item in self.items_with(addr) {
                lines.extend(
                    because(&selector, item).into_iter().map(|line| format!("{} {line}", item.title())),
                );
            }
        }
        lines
    }
}

fn last_of(outcome: &Outcome, owner: &RuleOwner) -> Option<u32> {
    let of = |rule: &RuleRef| (rule.owner == *owner).then_some(rule.index);
    match &outcome.reason {
        Reason::Rule(rule) if rule.owner == *owner => Some(rule.index),
        _ => outcome.steps.iter().find_map(|step| match step {
            Step::Passed(rule) => of(rule),
            _ => None,
        }),
    }
}

fn selects_because(policy: &OraclePolicy, item: &Item) -> Vec<String> {
    let [selector, namespaces, accounts] = &policy.texts;
    let subject = Subject { selector, namespace_selector: namespaces, service_account_selector: accounts };
    let composed = if policy.id.namespace.is_empty() {
        compose::global_policy_subject(&subject)
    } else {
        compose::network_policy_subject(&subject, &policy.id.namespace)
    };
    composed.selector.map(|selector| because(&selector, item)).unwrap_or_default()
}

/// What each deciding condition of a selector found.
fn because(selector: &Selector, item: &Item) -> Vec<String> {
    explain(selector, item).reasons.iter().map(condition_text).collect()
}

fn condition_text(condition: &Condition) -> String {
    let found = match &condition.label {
        Finding::NotAsked => return condition.condition.clone(),
        Finding::Absent { name } => format!("has no label {name}"),
        Finding::Present { name, value, inherited_from: None } => format!("has {name} = {value:?}"),
        Finding::Present { name, value, inherited_from: Some(profile) } => {
            format!("has {name} = {value:?} from profile {profile}")
        }
    };
    if condition.holds { found } else { format!("{found}, so not {}", condition.condition) }
}

fn rule_name(rule: &RuleRef) -> RuleName {
    match &rule.owner {
        RuleOwner::Policy { tier, policy } => {
            RuleName { tier: tier.to_string(), policy: policy.to_string(), index: rule.index }
        }
        RuleOwner::Profile(name) => {
            RuleName { tier: String::new(), policy: name.to_string(), index: rule.index }
        }
    }
}

fn action_name(action: RuleAction) -> String {
    match action {
        RuleAction::Allow => "Allow",
        RuleAction::Deny => "Deny",
        RuleAction::Pass => "Pass",
        RuleAction::Log => "Log",
    }
    .to_owned()
}

pub(super) fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// The usual name of a protocol, else its number.
pub(super) fn protocol_name(protocol: u8) -> String {
    let name = calico_model::PROTOCOL_NAMES.iter().find(|(_, number)| *number == protocol);
    name.map_or_else(|| protocol.to_string(), |(name, _)| (*name).to_owned())
}

fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow | Verdict::Continue => "allowed",
        Verdict::Deny => "denied",
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.known_as.is_empty() { Ok(()) } else { write!(f, " ({})", self.known_as.join(", ")) }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} {}", self.from, self.to, self.protocol)?;
        if let Some(port) = self.port {
            write!(f, " {port}")?;
        }
        writeln!(f, ": {}", verdict_name(self.verdict))?;
        if self.hops.is_empty() {
            writeln!(f, "  neither end is policed")?;
        }
        self.hops.iter().try_for_each(|hop| hop.fmt(f))
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {} of {}: {} ({})",
            self.direction,
            self.endpoint,
            verdict_name(self.verdict),
            self.reason
        )?;
        for tier in &self.tiers {
            writeln!(f, "    tier {}, default {}", tier.tier, tier.default_action)?;
            tier.policies.iter().try_for_each(|list| write_list(f, "    policy", list, self.direction))?;
        }
        self.profiles.iter().try_for_each(|list| write_list(f, "  profile", list, self.direction))?;
        if let Some(staged) = &self.staged {
            let verdict = verdict_name(staged.verdict);
            writeln!(f, "    with staged policies enforced: {verdict} ({})", staged.reason)?;
        }
        Ok(())
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, what: &str, list: &ListHop, direction: &str) -> fmt::Result {
    let mut line = format!("  {what} {}", list.name);
    if !list.selects_because.is_empty() {
        write!(line, ", since the endpoint {}", list.selects_because.join(" and "))?;
    }
    writeln!(f, "{line}")?;
    for rule in &list.rules {
        let stand = match rule.unmet {
            Some(field) => format!("does not apply: {field}"),
            None => "applies".to_owned(),
        };
        writeln!(f, "        {direction}[{}] {} {stand}", rule.index, rule.action)?;
        rule.because.iter().try_for_each(|line| writeln!(f, "          {line}"))?;
    }
    Ok(())
}

impl fmt::Display for WhyDenied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} of {} denies: {}", self.direction, self.endpoint, self.reason)?;
        self.near_misses.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}
