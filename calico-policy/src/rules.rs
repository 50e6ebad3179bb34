//! Rules of the resource model to rules of the IR.
//!
//! The translation is total. What cannot be enforced as written is enforced in a form that permits no more than it
//! could have meant, and reported: an Allow or Log rule with a bad criterion matches nothing, a Deny or Pass rule
//! loses the bad criterion (so it matches more) and denies.

use std::sync::Arc;

use calico_model::resource::policy::{Action, EntityRule, IcmpFields, Rule as ModelRule};
use calico_model::{Port, Protocol};
use calico_selector::compose::{self, Composed, Entity};
use calico_selector::{Selector, named_port_id, service_id};
use ipnet::IpNet;

use crate::ir::{Direction, Family, Rule, RuleAction, SetId, SetKind, Side};
use crate::normal::{Criteria, Families, PortCriterion, reachable};
use crate::packet::{SCTP, TCP, UDP, has_ports};

/// Protocol of a named-port set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortProtocol {
    /// The rule names no protocol.
    Any,
    /// TCP, also for protocols without ports.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl PortProtocol {
    fn of(protocol: Option<u8>) -> Self {
        match protocol {
            None => Self::Any,
            Some(UDP) => Self::Udp,
            Some(SCTP) => Self::Sctp,
            Some(_) => Self::Tcp,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// True when an endpoint's port of protocol number `protocol` belongs to the set.
    pub fn admits(self, protocol: u8) -> bool {
        match self {
            Self::Any => has_ports(protocol),
            Self::Tcp => protocol == TCP,
            Self::Udp => protocol == UDP,
            Self::Sctp => protocol == SCTP,
        }
    }
}

/// Where the members of a set come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetSource {
    /// Addresses of what the selector matches.
    Selector(Selector),
    /// A named port of what the selector matches.
    NamedPort {
        /// Restricts the endpoints.
        selector: Selector,
        /// Restricts the protocol.
        protocol: PortProtocol,
        /// Port name.
        name: Box<str>,
    },
    /// Endpoints of a Kubernetes service.
    Service {
        /// Namespace.
        namespace: Box<str>,
        /// Name.
        name: Box<str>,
        /// Addresses with ports (destinations) or addresses alone (sources).
        with_ports: bool,
    },
}

impl SetSource {
    /// Identity of the set (`policy.md` §5).
    pub fn id(&self) -> SetId {
        match self {
            Self::Selector(selector) => SetId(selector.id().into()),
            Self::NamedPort { selector, protocol, name } => {
                SetId(named_port_id(selector.id(), protocol.text(), name).into())
            }
            Self::Service { namespace, name, with_ports } => {
                SetId(service_id(namespace, name, *with_ports).into())
            }
        }
    }

    /// What the members are.
    pub fn kind(&self) -> SetKind {
        match self {
            Self::Selector(_) | Self::Service { with_ports: false, .. } => SetKind::Net,
            Self::NamedPort { .. } | Self::Service { with_ports: true, .. } => SetKind::AddrPort,
        }
    }
}

/// A field that could not be used as written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BadField {
    /// Field path.
    pub field: String,
    /// What is wrong and what is done instead.
    pub reason: String,
}

/// How ambiguous cases are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleOptions {
    /// Reference behaviour: `notNets` of one family limit the rule to that family. False computes exactly.
    pub not_nets_bind_family: bool,
}

impl Default for RuleOptions {
    fn default() -> Self {
        Self { not_nets_bind_family: true }
    }
}

/// A compiled list of rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompiledRules {
    /// Rules in normal form, unreachable ones left out.
    pub rules: Vec<Rule>,
    /// Every set that `rules` refers to, sorted by id, without repetition.
    pub sets: Vec<(SetId, SetSource)>,
    /// What could not be used as written.
    pub problems: Vec<BadField>,
}

/// Compiles the rules of one direction. `namespace` is empty for global policies and profiles.
///
/// ```
/// use calico_model::resource::policy::{Action, Rule};
/// use calico_policy::ir::Direction;
/// use calico_policy::rules::{RuleOptions, compile};
/// let mut rule = Rule { action: Action::Allow, ..Rule::default() };
/// rule.source.nets = vec!["not a net".into()];
/// let compiled = compile(&[rule], "", Direction::Ingress, &RuleOptions::default());
/// assert!(compiled.rules.is_empty(), "an allow list without a readable entry allows nothing");
/// assert_eq!(compiled.problems[0].field, "spec.ingress[0].source.nets[0]");
/// ```
pub fn compile(
    rules: &[ModelRule],
    namespace: &str,
    direction: Direction,
    options: &RuleOptions,
) -> CompiledRules {
    let list = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let mut out = CompiledRules::default();
    let mut sources: Vec<(SetId, SetSource)> = Vec::new();
    let mut compiled = Vec::with_capacity(rules.len());
    for (index, rule) in rules.iter().enumerate() {
        let mut builder = Builder {
            namespace,
            path: format!("spec.{list}[{index}]"),
            lenient: matches!(action_of(&rule.action), Some(RuleAction::Allow | RuleAction::Log)),
            criteria: Criteria { not_nets_bind_family: options.not_nets_bind_family, ..Criteria::default() },
            sources: &mut sources,
            problems: &mut out.problems,
            bad: false,
        };
        if let Some((action, criteria)) = builder.rule(rule)
            && let Some(matches) = criteria.normalise()
        {
            compiled.push(Rule { index: u32::try_from(index).unwrap_or(u32::MAX), action, matches });
        }
    }
    out.rules = reachable(compiled);
    let used: rustc_hash::FxHashSet<&SetId> =
        out.rules.iter().flat_map(|rule| &rule.matches).flat_map(crate::mirror::referenced_sets).collect();
    sources.retain(|(id, _)| used.contains(id));
    sources.sort_by(|a, b| a.0.cmp(&b.0));
    sources.dedup_by(|a, b| a.0 == b.0);
    out.sets = sources;
    out
}

/// The rule that denies everything, for what fails closed as a whole.
pub fn deny_all() -> Vec<Rule> {
    vec![Rule { index: 0, action: RuleAction::Deny, matches: Vec::new() }]
}

fn action_of(action: &Action) -> Option<RuleAction> {
    match action {
        Action::Allow => Some(RuleAction::Allow),
        Action::Deny => Some(RuleAction::Deny),
        Action::Log => Some(RuleAction::Log),
        Action::Pass => Some(RuleAction::Pass),
        // The reference reads an absent action as allow (policy.md §3).
        Action::Other(text) if text.is_empty() => Some(RuleAction::Allow),
        Action::Other(_) => None,
    }
}

/// Numeric ranges and named-port sets.
type PortList = (Vec<(u16, u16)>, Vec<SetId>);

struct Builder<'a> {
    namespace: &'a str,
    path: String,
    /// A rule that may be narrowed: dropping an entry of a positive list fails closed.
    lenient: bool,
    criteria: Criteria,
    sources: &'a mut Vec<(SetId, SetSource)>,
    problems: &'a mut Vec<BadField>,
    bad: bool,
}

impl Builder<'_> {
    fn rule(&mut self, rule: &ModelRule) -> Option<(RuleAction, Criteria)> {
        let action = action_of(&rule.action);
        if action.is_none() {
            self.report("action", format!("{:?} is not Allow, Deny, Log or Pass", rule.action.as_str()));
        }
        self.version(rule.ip_version);
        let protocol = self.protocol("protocol", rule.protocol.as_ref());
        if let Some((number, by_name)) = protocol {
            self.criteria.protocols = Some(vec![number]);
            if by_name && rule.ip_version.is_none() {
                match number {
                    crate::packet::ICMP => self.criteria.families = Families::only(Family::V4),
                    crate::packet::ICMPV6 => self.criteria.families = Families::only(Family::V6),
                    _ => {}
                }
            }
        }
        if let Some((number, _)) = self.protocol("notProtocol", rule.not_protocol.as_ref()) {
            self.criteria.not_protocols.push(number);
        }
        self.icmp("icmp", false, rule.icmp.as_ref());
        self.icmp("notICMP", true, rule.not_icmp.as_ref());
        let number = protocol.map(|(number, _)| number);
        self.entity(Side::Source, &rule.source, number);
        self.entity(Side::Destination, &rule.destination, number);
        let action = match (action, self.bad) {
            (Some(action), false) => action,
            (Some(RuleAction::Allow | RuleAction::Log), true) => return None,
            _ => RuleAction::Deny,
        };
        Some((action, std::mem::take(&mut self.criteria)))
    }

    /// Records a field that cannot be used; the rule falls back to its fail-closed form.
    fn report(&mut self, field: &str, reason: String) {
        self.bad = true;
        let fallback = if self.lenient { "the rule matches nothing" } else { "the rule denies without it" };
        self.problems.push(BadField {
            field: format!("{}.{field}", self.path),
            reason: format!("{reason}; {fallback}"),
        });
    }

    fn version(&mut self, version: Option<u8>) {
        match version {
            None => {}
            Some(4) => self.criteria.families = Families::only(Family::V4),
            Some(6) => self.criteria.families = Families::only(Family::V6),
            Some(other) => self.report("ipVersion", format!("{other} is neither 4 nor 6")),
        }
    }

    fn protocol(&mut self, field: &str, protocol: Option<&Protocol>) -> Option<(u8, bool)> {
        let protocol = protocol.filter(|p| !p.is_unset())?;
        let number = protocol.number();
        if number.is_none() {
            self.report(field, format!("{protocol} is not the name of a protocol; write its number"));
        }
        Some((number?, matches!(protocol, Protocol::Name(_))))
    }

    fn icmp(&mut self, field: &str, negated: bool, icmp: Option<&IcmpFields>) {
        let Some(icmp) = icmp else { return };
        let byte = |value: i64| u8::try_from(value).ok();
        match (icmp.icmp_type, icmp.code) {
            (None, None) => {}
            (None, Some(_)) => self.report(field, "an ICMP code needs a type".to_owned()),
            (Some(icmp_type), code) => match (byte(icmp_type), code.map(byte)) {
                (Some(icmp_type), None) => self.criteria.icmp.push((negated, icmp_type, None)),
                (Some(icmp_type), Some(Some(code))) => {
                    self.criteria.icmp.push((negated, icmp_type, Some(code)));
                }
                _ => self.report(field, "ICMP type and code are numbers from 0 to 255".to_owned()),
            },
        }
    }

    fn entity(&mut self, side: Side, entity: &EntityRule, protocol: Option<u8>) {
        let name = match side {
            Side::Source => "source",
            Side::Destination => "destination",
        };
        self.nets(side, &format!("{name}.nets"), &entity.nets, false);
        self.nets(side, &format!("{name}.notNets"), &entity.not_nets, true);
        let (selector, not_selector) = self.selectors(name, entity);
        let ports = self.ports(&format!("{name}.ports"), &entity.ports, protocol, selector.as_ref());
        let only_named = ports.as_ref().is_some_and(|(ranges, named)| ranges.is_empty() && !named.is_empty());
        let not_ports =
            self.ports(&format!("{name}.notPorts"), &entity.not_ports, protocol, selector.as_ref());
        for (negated, list) in [(false, ports), (true, not_ports)] {
            let Some((ranges, named)) = list else { continue };
            self.criteria.ports.push(PortCriterion { side, negated, ranges, named });
        }
        // A named-port set holds only addresses that the selector matches.
        if let Some(selector) = selector.filter(|_| !only_named) {
            let id = self.need(SetSource::Selector(selector));
            self.criteria.sets.push((side, false, id));
        }
        if let Some(selector) = not_selector {
            let id = self.need(SetSource::Selector(selector));
            self.criteria.sets.push((side, true, id));
        }
        self.service(side, name, entity);
    }

    fn nets(&mut self, side: Side, field: &str, texts: &[String], negated: bool) {
        if texts.is_empty() {
            return;
        }
        let mut nets = Vec::with_capacity(texts.len());
        let mut dropped = false;
        for (index, text) in texts.iter().enumerate() {
            match parse_net(text) {
                Some(net) => nets.push(net),
                None if self.lenient && !negated => {
                    self.problems.push(BadField {
                        field: format!("{}.{field}[{index}]", self.path),
                        reason: format!("{text:?} is not a CIDR; the entry is left out"),
                    });
                }
                None => {
                    dropped = true;
                    self.report(&format!("{field}[{index}]"), format!("{text:?} is not a CIDR"));
                }
            }
        }
        if dropped {
            return;
        }
        let list = if negated { &mut self.criteria.not_nets } else { &mut self.criteria.nets };
        list.push((side, nets));
    }

    /// The positive and the negative selector of a side, folded into one when both are there.
    fn selectors(&mut self, name: &str, entity: &EntityRule) -> (Option<Selector>, Option<Selector>) {
        let accounts = entity.service_accounts.as_ref();
        let composed: Composed = compose::entity(
            &Entity {
                selector: &entity.selector,
                not_selector: &entity.not_selector,
                namespace_selector: &entity.namespace_selector,
                service_account_selector: accounts.map_or("", |a| &a.selector),
                service_account_names: accounts.map_or(&[], |a| &a.names),
            },
            self.namespace,
        );
        if composed.problems.is_empty() {
            return composed.merged();
        }
        for problem in &composed.problems {
            self.report(name, problem.to_string());
        }
        (None, None)
    }

    /// Numeric ranges and named-port sets of a list; `None` when there is no list or it cannot be used.
    fn ports(
        &mut self,
        field: &str,
        ports: &[Port],
        protocol: Option<u8>,
        selector: Option<&Selector>,
    ) -> Option<PortList> {
        if ports.is_empty() {
            return None;
        }
        let mut ranges = Vec::new();
        let mut named = Vec::new();
        for port in ports {
            match port {
                Port::Range(first, last) => ranges.push((*first, *last)),
                Port::Named(port) => named.push(self.need(SetSource::NamedPort {
                    selector: selector.cloned().unwrap_or_default(),
                    protocol: PortProtocol::of(protocol),
                    name: port.clone(),
                })),
            }
        }
        if !ranges.is_empty() && !protocol.is_some_and(has_ports) {
            self.report(field, "port numbers need protocol TCP, UDP or SCTP".to_owned());
            return None;
        }
        Some((ranges, named))
    }

    fn service(&mut self, side: Side, name: &str, entity: &EntityRule) {
        let Some(service) = &entity.services else { return };
        let namespace = if service.namespace.is_empty() { self.namespace } else { &service.namespace };
        if service.name.is_empty() || namespace.is_empty() {
            self.report(
                &format!("{name}.services"),
                "a service needs a name and, outside namespaced policies, a namespace".to_owned(),
            );
            return;
        }
        let with_ports = side == Side::Destination;
        let set = self.need(SetSource::Service {
            namespace: namespace.into(),
            name: service.name.as_str().into(),
            with_ports,
        });
        if with_ports {
            self.criteria.ports.push(PortCriterion {
                side,
                negated: false,
                ranges: Vec::new(),
                named: vec![set],
            });
        } else {
            self.criteria.sets.push((side, false, set));
        }
    }

    fn need(&mut self, source: SetSource) -> SetId {
        let id = source.id();
        self.sources.push((id.clone(), source));
        id
    }
}

/// A CIDR, or a bare address as a host CIDR; masked.
pub fn parse_net(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>()
        .ok()
        .or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
        .map(|n| n.trunc())
}

/// Shared text, for ids.
pub(crate) fn shared(text: &str) -> Arc<str> {
    Arc::from(text)
}
