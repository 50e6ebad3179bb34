//! What is legal in policies and most likely not meant.

use std::fmt;

use calico_model::{EntityRule, Rule};
use calico_selector::{Limits, LintKind};
use serde::Serialize;

use super::in_tier_order;
use super::trace::direction_name;
use super::world::{EndpointKind, OraclePolicy, Rules, World};
use crate::changes::DefaultAction;
use crate::ir::{Direction, Match, Rule as IrRule, RuleAction};
use crate::rules::{self, RuleOptions};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Enforced otherwise than written.
    Error,
    /// Surely without effect, or with a surprising one.
    Warning,
    /// Worth knowing.
    Note,
}

/// What a finding is about, for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Concern {
    /// A field cannot be read.
    Unreadable,
    /// An earlier rule takes everything that the rule would.
    Shadowed,
    /// No packet can meet all criteria of the rule.
    Contradiction,
    /// A selector matches nothing that exists.
    MatchesNothing,
    /// A selector is suspicious in itself.
    Selector,
    /// Everything not allowed is denied, without a rule that says so.
    ImplicitDeny,
    /// A policy that only logs denies.
    LogOnly,
    /// HTTP criteria are enforced by an application-layer proxy only.
    HttpWithoutProxy,
    /// Rules of a direction that the policy does not govern.
    UngovernedRules,
    /// The tier has no object.
    MissingTier,
    /// A profile that an endpoint names does not exist.
    MissingProfile,
    /// Options for host endpoints on a policy that selects none.
    NoHostEndpoint,
    /// A policy for workloads selects host endpoints as well.
    SelectsHosts,
    /// A service without endpoints.
    EmptyService,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LintFinding {
    /// Text id of the policy, or the endpoint that it is about.
    pub object: String,
    /// Field path.
    pub field: String,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub concern: Concern,
    /// What is found and what to do.
    pub message: String,
}

impl fmt::Display for LintFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        write!(f, "{severity}: {} {}: {}", self.object, self.field, self.message)
    }
}

struct Findings {
    object: String,
    list: Vec<LintFinding>,
}

impl Findings {
    fn add(
        &mut self,
        field: impl Into<String>,
        severity: Severity,
        concern: Concern,
        message: impl Into<String>,
    ) {
        self.list.push(LintFinding {
            object: self.object.clone(),
            field: field.into(),
            severity,
            concern,
            message: message.into(),
        });
    }
}

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

impl World {
    /// Everything suspicious, sorted by object and field.
    ///
    /// ```
    /// use calico_policy::oracle::World;
    /// assert!(World::new([]).lint().is_empty());
    /// ```
    pub fn lint(&self) -> Vec<LintFinding> {
        let mut all = Vec::new();
        let mut policies: Vec<&OraclePolicy> = self.policies().collect();
        policies.sort_by(|a, b| in_tier_order(a, b));
        for policy in policies {
            let mut findings = Findings { object: policy.id.to_string(), list: Vec::new() };
            self.lint_subject(policy, &mut findings);
            for direction in DIRECTIONS {
                self.lint_direction(policy, direction, &mut findings);
            }
            all.append(&mut findings.list);
        }
        for item in self.items() {
            let mut findings = Findings { object: item.title(), list: Vec::new() };
            for name in item.profiles.iter().filter(|name| !self.profile_exists(name)) {
                let message = format!("profile {name} does not exist; what no policy decides is denied");
                findings.add("spec.profiles", Severity::Warning, Concern::MissingProfile, message);
            }
            all.append(&mut findings.list);
        }
        all.sort();
        all.dedup();
        all
    }

    fn lint_subject(&self, policy: &OraclePolicy, findings: &mut Findings) {
        let fields = ["spec.selector", "spec.namespaceSelector", "spec.serviceAccountSelector"];
        for (field, text) in fields.into_iter().zip(&policy.texts) {
            lint_selector(
                field,
                text,
                "the policy denies the directions it governs for all workloads in scope",
                findings,
            );
        }
        if !self.tier_exists(&policy.tier) {
            let message = format!(
                "tier {} does not exist; the policy applies after all other tiers, and the tier denies at its end",
                policy.tier
            );
            findings.add("spec.tier", Severity::Error, Concern::MissingTier, message);
        }
        let endpoints = || self.items().iter().filter(|item| item.kind != EndpointKind::NetworkSet);
        let selected = |kind: EndpointKind| endpoints().any(|item| item.kind == kind && policy.selects(item));
        let (workloads, hosts) = (selected(EndpointKind::Workload), selected(EndpointKind::Host));
        if !workloads && !hosts {
            findings.add("spec.selector", Severity::Note, Concern::MatchesNothing, "no endpoint is selected");
            return;
        }
        let for_hosts = policy.is_for_hosts();
        if for_hosts && !hosts {
            let message =
                "doNotTrack, preDNAT and applyOnForward concern host endpoints, and none is selected";
            findings.add("spec", Severity::Warning, Concern::NoHostEndpoint, message);
        }
        if hosts && workloads && !for_hosts {
            let message =
                "host endpoints are selected beside workloads; a namespaceSelector would leave them out";
            findings.add("spec.selector", Severity::Note, Concern::SelectsHosts, message);
        }
    }

    fn lint_direction(&self, policy: &OraclePolicy, direction: Direction, findings: &mut Findings) {
        let Rules::List(list) = policy.rules(direction) else { return };
        let name = direction_name(direction);
        if !policy.governs(direction) {
            if !list.is_empty() {
                let message =
                    format!("the policy does not govern {name}, so these rules do nothing; add it to types");
                findings.add(format!("spec.{name}"), Severity::Warning, Concern::UngovernedRules, message);
            }
            return;
        }
        let compiled = rules::compile(list, &policy.id.namespace, direction, &RuleOptions::default());
        for problem in compiled.problems {
            findings.add(problem.field, Severity::Error, Concern::Unreadable, problem.reason);
        }
        for (index, rule) in list.iter().enumerate() {
            self.lint_rule(policy, rule, &format!("spec.{name}[{index}]"), findings);
        }
        lint_reachability(policy, list, direction, findings);
        let denies = policy.ends_tier() && self.default_action(&policy.tier) == DefaultAction::Deny;
        let lets_on = |rule: &Rule| matches!(rule.action.as_str(), "Allow" | "Pass" | "");
        if !denies || list.iter().any(lets_on) {
            return;
        }
        if !list.is_empty() && list.iter().all(|rule| rule.action.as_str() == "Log") {
            let message = format!(
                "the policy only logs, and thereby denies all {name} that no later policy of the tier allows"
            );
            findings.add(format!("spec.{name}"), Severity::Warning, Concern::LogOnly, message);
        } else if list.is_empty() {
            let message = format!("no rules: all {name} that no other policy of the tier allows is denied");
            findings.add(format!("spec.{name}"), Severity::Note, Concern::ImplicitDeny, message);
        }
    }

    fn lint_rule(&self, policy: &OraclePolicy, rule: &Rule, path: &str, findings: &mut Findings) {
        if rule.http.is_some() {
            let message = "without an application-layer proxy on the endpoint every request is allowed, whatever its method and path";
            findings.add(format!("{path}.http"), Severity::Warning, Concern::HttpWithoutProxy, message);
        }
        for (side, entity) in [("source", &rule.source), ("destination", &rule.destination)] {
            let path = format!("{path}.{side}");
            let texts = [
                ("selector", &entity.selector),
                ("notSelector", &entity.not_selector),
                ("namespaceSelector", &entity.namespace_selector),
            ];
            for (field, text) in texts {
                lint_selector(&format!("{path}.{field}"), text, "", findings);
            }
            self.lint_peers(policy, entity, &path, findings);
        }
    }

    fn lint_peers(&self, policy: &OraclePolicy, entity: &EntityRule, path: &str, findings: &mut Findings) {
        if self.means_nobody(entity, &policy.id.namespace) {
            let message = "no endpoint or network set matches";
            findings.add(format!("{path}.selector"), Severity::Note, Concern::MatchesNothing, message);
        }
        if let Some(service) = &entity.services {
            let namespace =
                if service.namespace.is_empty() { &*policy.id.namespace } else { service.namespace.as_str() };
            if self.backends(namespace, &service.name).is_none_or(|backends| backends.addresses.is_empty()) {
                let message = format!("service {namespace}/{} has no endpoints", service.name);
                findings.add(format!("{path}.services"), Severity::Note, Concern::EmptyService, message);
            }
        }
    }
}

/// Rules that an earlier one shadows, and rules that contradict themselves.
fn lint_reachability(policy: &OraclePolicy, list: &[Rule], direction: Direction, findings: &mut Findings) {
    let name = direction_name(direction);
    let options = RuleOptions::default();
    let mut final_rules: Vec<(usize, IrRule)> = Vec::new();
    for (index, rule) in list.iter().enumerate() {
        let alone = rules::compile(std::slice::from_ref(rule), &policy.id.namespace, direction, &options);
        if !alone.problems.is_empty() {
            continue;
        }
        let field = format!("spec.{name}[{index}]");
        let Some(compiled) = alone.rules.into_iter().next() else {
            let message = "no packet can meet all criteria of this rule";
            findings.add(field, Severity::Warning, Concern::Contradiction, message);
            continue;
        };
        let shadow = final_rules.iter().find(|(_, earlier)| covers(&earlier.matches, &compiled.matches));
        if let Some((earlier, _)) = shadow {
            let message = format!("{name}[{earlier}] takes every packet that this rule is meant for");
            findings.add(field, Severity::Warning, Concern::Shadowed, message);
        } else if compiled.action != RuleAction::Log {
            final_rules.push((index, compiled));
        }
    }
}

/// True when every packet that meets `inner` meets `outer`.
fn covers(outer: &[Match], inner: &[Match]) -> bool {
    outer.iter().all(|wide| inner.iter().any(|narrow| implied(narrow, wide)))
}

fn implied(narrow: &Match, wide: &Match) -> bool {
    match (narrow, wide) {
        (
            Match::Nets { side: a, negated: false, nets: inner },
            Match::Nets { side: b, negated: false, nets: outer },
        ) => a == b && inner.iter().all(|net| outer.iter().any(|other| other.contains(net))),
        (
            Match::Protocol { negated: false, protocols: inner },
            Match::Protocol { negated: false, protocols: outer },
        ) => inner.iter().all(|protocol| outer.contains(protocol)),
        (
            Match::Ports { side: a, negated: false, ranges: inner, named: n },
            Match::Ports { side: b, negated: false, ranges: outer, named: m },
        ) => {
            a == b
                && n.iter().all(|set| m.contains(set))
                && inner.0.iter().all(|(first, last)| outer.0.iter().any(|(f, l)| f <= first && last <= l))
        }
        _ => narrow == wide,
    }
}

fn lint_selector(field: &str, text: &str, consequence: &str, findings: &mut Findings) {
    if text.is_empty() {
        return;
    }
    let found = match calico_selector::lint(text, &Limits::DEFAULT) {
        Ok(found) => found,
        Err(error) => {
            if !consequence.is_empty() {
                findings.add(field, Severity::Error, Concern::Unreadable, format!("{error}; {consequence}"));
            }
            return;
        }
    };
    for lint in found {
        let severity = match lint.kind {
            LintKind::Never | LintKind::ReservedPrefix { .. } | LintKind::EmptySet => Severity::Warning,
            _ => Severity::Note,
        };
        findings.add(field, severity, Concern::Selector, lint.kind.to_string());
    }
}
