//! Whether a rule applies to a packet, criterion by criterion (`policy.md` §4).

use std::net::IpAddr;

use calico_model::{Action, EntityRule, IcmpFields, Port, Protocol, Rule};
use calico_selector::Expr;
use ipnet::IpNet;

use super::labels::{self, PLAIN, Words};
use super::world::{EndpointKind, Item, World, cidr};
use crate::ir::RuleAction;
use crate::packet::Packet;

/// How a criterion stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Met,
    Unmet,
    /// It cannot be read.
    Unreadable,
}

fn met(holds: bool) -> Stand {
    if holds { Stand::Met } else { Stand::Unmet }
}

/// The first criterion of a rule that a packet does not meet, by the name of its field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// Field path inside the rule, for example `source.selector`.
    pub field: &'static str,
}

struct Side<'a> {
    entity: &'a EntityRule,
    addr: IpAddr,
    port: Option<u16>,
    destination: bool,
}

impl World {
    /// What the rule does with the packet; `None` when it does not apply. A rule with an unreadable criterion applies in
    /// the form that permits no more than it could have meant.
    pub(super) fn rule_action(&self, rule: &Rule, namespace: &str, packet: &Packet) -> Option<RuleAction> {
        let action = match &rule.action {
            Action::Allow => Some(RuleAction::Allow),
            Action::Deny => Some(RuleAction::Deny),
            Action::Pass => Some(RuleAction::Pass),
            Action::Log => Some(RuleAction::Log),
            Action::Other(text) if text.is_empty() => Some(RuleAction::Allow),
            Action::Other(_) => None,
        };
        let permissive = matches!(action, Some(RuleAction::Allow | RuleAction::Log));
        let stands = self.criteria(rule, namespace, packet, permissive);
        if stands.iter().any(|(_, stand)| *stand == Stand::Unmet) {
            return None;
        }
        let unreadable = action.is_none() || stands.iter().any(|(_, stand)| *stand == Stand::Unreadable);
        match (unreadable, permissive) {
            (false, _) => action,
            (true, true) => None,
            (true, false) => Some(RuleAction::Deny),
        }
    }

    /// Why a rule of a policy does not apply to a packet: the first criterion that is not met. `None` when all are.
    pub fn why_unmet(&self, rule: &Rule, namespace: &str, packet: &Packet) -> Option<Unmet> {
        let stands = self.criteria(rule, namespace, packet, true);
        stands.into_iter().find(|(_, stand)| *stand != Stand::Met).map(|(field, _)| Unmet { field })
    }

    fn criteria(
        &self,
        rule: &Rule,
        namespace: &str,
        packet: &Packet,
        permissive: bool,
    ) -> Vec<(&'static str, Stand)> {
        let protocol = rule.protocol.as_ref().filter(|p| !p.is_unset());
        let mut stands = vec![
            ("ipVersion", ip_version(rule, packet)),
            ("protocol", is_protocol(protocol, packet, true)),
            ("notProtocol", is_protocol(rule.not_protocol.as_ref(), packet, false)),
            ("icmp", icmp(rule.icmp.as_ref(), packet, true)),
            ("notICMP", icmp(rule.not_icmp.as_ref(), packet, false)),
        ];
        let source =
            Side { entity: &rule.source, addr: packet.src, port: packet.source_port(), destination: false };
        let destination = Side {
            entity: &rule.destination,
            addr: packet.dst,
            port: packet.destination_port(),
            destination: true,
        };
        let names = ["source.nets", "source.notNets", "source.selector", "source.ports", "source.notPorts"];
        self.side(&source, protocol, namespace, packet, permissive, names, &mut stands);
        stands.push(("source.services", self.service(&source, namespace, packet)));
        let names = [
            "destination.nets",
            "destination.notNets",
            "destination.selector",
            "destination.ports",
            "destination.notPorts",
        ];
        self.side(&destination, protocol, namespace, packet, permissive, names, &mut stands);
        stands.push(("destination.services", self.service(&destination, namespace, packet)));
        stands
    }

    #[expect(clippy::too_many_arguments, reason = "one call per side, spelled out once")]
    fn side(
        &self,
        side: &Side<'_>,
        protocol: Option<&Protocol>,
        namespace: &str,
        packet: &Packet,
        permissive: bool,
        names: [&'static str; 5],
        stands: &mut Vec<(&'static str, Stand)>,
    ) {
        let entity = side.entity;
        let [nets, not_nets, selector, ports, not_ports] = names;
        stands.push((nets, in_nets(&entity.nets, side.addr, permissive)));
        stands.push((not_nets, in_no_net(&entity.not_nets, side.addr)));
        let peers = Peers::of(entity, namespace);
        stands.push((selector, self.peer(&peers, side.addr)));
        stands.push((ports, self.ports(&entity.ports, side, protocol, &peers, packet)));
        stands.push((
            not_ports,
            match self.ports(&entity.not_ports, side, protocol, &peers, packet) {
                _ if entity.not_ports.is_empty() => Stand::Met,
                Stand::Met => Stand::Unmet,
                Stand::Unmet => Stand::Met,
                Stand::Unreadable => Stand::Unreadable,
            },
        ));
    }

    /// True when a side of a rule asks for known peers and nothing that exists is meant.
    pub(super) fn means_nobody(&self, entity: &EntityRule, namespace: &str) -> bool {
        match Peers::of(entity, namespace) {
            Ok(peers) => peers.limited() && !self.items().iter().any(|item| peers.mean(item)),
            Err(()) => false,
        }
    }

    /// The selectors of one side: the address must be of a known peer that is meant, or of none that is excluded.
    fn peer(&self, peers: &Result<Peers, ()>, addr: IpAddr) -> Stand {
        let Ok(peers) = peers else { return Stand::Unreadable };
        if peers.limited() {
            return met(self.items_with(addr).any(|item| peers.mean(item)));
        }
        met(!self.items_with(addr).any(|item| peers.exclude(item)))
    }

    /// Numeric ports, or named ports of known peers that are meant.
    fn ports(
        &self,
        ports: &[Port],
        side: &Side<'_>,
        protocol: Option<&Protocol>,
        peers: &Result<Peers, ()>,
        packet: &Packet,
    ) -> Stand {
        if ports.is_empty() {
            return Stand::Met;
        }
        let number = protocol.and_then(Protocol::number);
        let numeric = ports.iter().any(|port| matches!(port, Port::Range(..)));
        if numeric && !matches!(number, Some(6 | 17 | 132)) {
            return Stand::Unreadable;
        }
        let Some(wanted) = side.port else { return Stand::Unmet };
        met(ports.iter().any(|port| match port {
            Port::Range(first, last) => (*first..=*last).contains(&wanted),
            Port::Named(name) => {
                // A named port of a rule for another protocol is looked up among TCP ports.
                let admitted = match number {
                    None => true,
                    Some(17 | 132) => Some(packet.protocol) == number,
                    Some(_) => packet.protocol == 6,
                };
                let port_of = |item: &Item| {
                    let matches = |(n, p, number): &(String, u8, u16)| {
                        **n == **name && *p == packet.protocol && *number == wanted
                    };
                    item.kind != EndpointKind::NetworkSet && item.ports.iter().any(matches)
                };
                let meant = |item: &Item| match peers {
                    Ok(peers) => !peers.limited() || peers.mean(item),
                    Err(()) => true,
                };
                admitted && self.items_with(side.addr).any(|item| port_of(item) && meant(item))
            }
        }))
    }

    fn service(&self, side: &Side<'_>, namespace: &str, packet: &Packet) -> Stand {
        let Some(service) = &side.entity.services else { return Stand::Met };
        let namespace = if service.namespace.is_empty() { namespace } else { &service.namespace };
        if service.name.is_empty() || namespace.is_empty() {
            return Stand::Unreadable;
        }
        let Some(backends) = self.backends(namespace, &service.name) else { return Stand::Unmet };
        met(if side.destination {
            side.port.is_some_and(|port| backends.ports.contains(&(side.addr, packet.protocol, port)))
        } else {
            backends.addresses.contains(&side.addr)
        })
    }
}

/// Who one side of a rule talks about.
struct Peers {
    /// The policy's own namespace, when the rule names no namespaces but uses a selector.
    own_namespace: Option<String>,
    namespaces: Option<Expr>,
    accounts: Option<Expr>,
    account_names: Vec<String>,
    selector: Option<Expr>,
    not_selector: Option<Expr>,
}

impl Peers {
    fn of(entity: &EntityRule, namespace: &str) -> Result<Self, ()> {
        let parse = |text: &str| labels::parse(text).map_err(|_| ());
        let accounts = entity.service_accounts.as_ref();
        let account_names: Vec<String> = accounts.map(|a| a.names.clone()).unwrap_or_default();
        if account_names.iter().any(|name| name.contains('\'') && name.contains('"')) {
            return Err(());
        }
        let mut peers = Self {
            own_namespace: None,
            namespaces: parse(&entity.namespace_selector)?,
            accounts: parse(accounts.map_or("", |a| &a.selector))?,
            account_names,
            selector: parse(&entity.selector)?,
            not_selector: parse(&entity.not_selector)?,
        };
        let uses_selectors = peers.limited() || peers.not_selector.is_some();
        if uses_selectors && peers.namespaces.is_none() && !namespace.is_empty() {
            peers.own_namespace = Some(namespace.to_owned());
        }
        Ok(peers)
    }

    /// True when the peer must be a known one.
    fn limited(&self) -> bool {
        self.own_namespace.is_some()
            || self.namespaces.is_some()
            || self.accounts.is_some()
            || !self.account_names.is_empty()
            || self.selector.is_some()
    }

    fn mean(&self, item: &Item) -> bool {
        const NAMESPACE: &str = "projectcalico.org/namespace";
        const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
        let of_namespace = Words { prefix: "pcns.", all_has: NAMESPACE, global_lacks: NAMESPACE };
        let of_account = Words { prefix: "pcsa.", ..PLAIN };
        let meets = |expr: &Option<Expr>, words| {
            expr.as_ref().is_none_or(|expr| labels::holds(expr, &item.labels, words))
        };
        let own = self.own_namespace.as_ref();
        let account = item.labels.get(SERVICE_ACCOUNT);
        own.is_none_or(|own| item.labels.get(NAMESPACE) == Some(own))
            && meets(&self.namespaces, of_namespace)
            && meets(&self.accounts, of_account)
            && (self.account_names.is_empty() || account.is_some_and(|a| self.account_names.contains(a)))
            && meets(&self.selector, PLAIN)
            && !self.exclude(item)
    }

    fn exclude(&self, item: &Item) -> bool {
        self.not_selector.as_ref().is_some_and(|expr| labels::holds(expr, &item.labels, PLAIN))
    }
}

fn ip_version(rule: &Rule, packet: &Packet) -> Stand {
    let v4 = packet.dst.is_ipv4();
    match rule.ip_version {
        Some(4) => met(v4),
        Some(6) => met(!v4),
        Some(_) => Stand::Unreadable,
        // The names of the ICMP protocols say which version is meant, their numbers do not.
        None => match &rule.protocol {
            Some(Protocol::Name(name)) if name.eq_ignore_ascii_case("icmp") => met(v4),
            Some(Protocol::Name(name)) if name.eq_ignore_ascii_case("icmpv6") => met(!v4),
            _ => Stand::Met,
        },
    }
}

fn is_protocol(protocol: Option<&Protocol>, packet: &Packet, wanted: bool) -> Stand {
    match protocol.filter(|p| !p.is_unset()) {
        None => Stand::Met,
        Some(protocol) => match protocol.number() {
            Some(number) => met((number == packet.protocol) == wanted),
            None => Stand::Unreadable,
        },
    }
}

/// Both forms look at ICMP packets only.
fn icmp(fields: Option<&IcmpFields>, packet: &Packet, wanted: bool) -> Stand {
    let Some(fields) = fields else { return Stand::Met };
    let byte = |value: Option<i64>| value.is_none_or(|value| (0..=255).contains(&value));
    match (fields.icmp_type, fields.code) {
        (None, None) => Stand::Met,
        (None, Some(_)) => Stand::Unreadable,
        _ if !byte(fields.icmp_type) || !byte(fields.code) => Stand::Unreadable,
        (Some(icmp_type), code) => match packet.icmp() {
            None => Stand::Unmet,
            Some((t, c)) => {
                let same = i64::from(t) == icmp_type && code.is_none_or(|code| i64::from(c) == code);
                met(same == wanted)
            }
        },
    }
}

/// An unreadable entry narrows a permissive rule; any other rule does without the whole list.
fn in_nets(texts: &[String], addr: IpAddr, permissive: bool) -> Stand {
    if texts.is_empty() {
        return Stand::Met;
    }
    let nets: Vec<Option<IpNet>> = texts.iter().map(|text| cidr(text)).collect();
    if !permissive && nets.iter().any(Option::is_none) {
        return Stand::Unreadable;
    }
    met(nets.iter().flatten().any(|net| net.contains(&addr)))
}

/// A list that has no entry of the packet's version keeps the rule from applying to that version.
fn in_no_net(texts: &[String], addr: IpAddr) -> Stand {
    if texts.is_empty() {
        return Stand::Met;
    }
    let nets: Vec<Option<IpNet>> = texts.iter().map(|text| cidr(text)).collect();
    if nets.iter().any(Option::is_none) {
        return Stand::Unreadable;
    }
    let same_version: Vec<&IpNet> =
        nets.iter().flatten().filter(|net| net.addr().is_ipv4() == addr.is_ipv4()).collect();
    met(!same_version.is_empty() && !same_version.iter().any(|net| net.contains(&addr)))
}
