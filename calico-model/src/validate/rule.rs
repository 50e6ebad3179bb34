//! Rules of policies and profiles.

use crate::resource::policy::{Action, EntityRule, HttpMatch, IcmpFields, Rule};
use crate::{Port, Protocol};

use super::{Check, meta};

/// Most rules of one direction.
pub(super) const MAX_RULES: usize = 1024;

/// Where a rule stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a policy of a namespace.
    Namespaced,
    /// In a global policy.
    Global,
    /// In a profile, where service and HTTP matches have no fixed direction.
    Profile,
}

/// All rules of one direction.
pub(super) fn rules(c: &mut Check, name: &str, rules: &[Rule], ingress: bool, place: Place) {
    c.at_most(name, rules, MAX_RULES);
    c.each(name, rules, |c, r| rule(c, r, ingress, place));
}

fn rule(c: &mut Check, r: &Rule, ingress: bool, place: Place) {
    if r.action.is_unset() {
        c.field("action", |c| c.problem("required: Allow, Deny, Log or Pass"));
    } else {
        c.known("action", r.action.as_str(), Action::KNOWN);
    }
    if let Some(v) = r.ip_version.filter(|v| ![4, 6].contains(v)) {
        c.field("ipVersion", |c| c.bad(v, "must be 4 or 6"));
    }
    for (name, p) in [("protocol", &r.protocol), ("notProtocol", &r.not_protocol)] {
        if let Some(p) = p {
            protocol(c, name, p, r.ip_version);
        }
    }
    if let Some(icmp) = &r.icmp {
        c.field("icmp", |c| {
            icmp_fields(c, icmp);
            let is_icmp = r.protocol.as_ref().is_some_and(|p| matches!(p.number(), Some(1 | 58)));
            c.require(is_icmp, "needs protocol ICMP or ICMPv6 in the rule");
        });
    }
    if let Some(icmp) = &r.not_icmp {
        c.field("notICMP", |c| icmp_fields(c, icmp));
    }
    families(c, r);
    c.field("source", |c| entity(c, &r.source, r, place));
    c.field("destination", |c| {
        entity(c, &r.destination, r, place);
        let d = &r.destination;
        if d.services.is_some() && !(d.ports.is_empty() && d.not_ports.is_empty()) {
            c.problem("ports and notPorts cannot stand beside services: a service brings its ports");
        }
    });
    services_placed(c, r, ingress, place);
    if let Some(h) = &r.http {
        c.field("http", |c| http(c, h, r, ingress, place));
    }
    if let Some(m) = &r.metadata {
        c.field("metadata", |c| meta::annotations(c, &m.annotations));
    }
}

pub(super) fn protocol(c: &mut Check, name: &str, p: &Protocol, ip_version: Option<u8>) {
    match p {
        Protocol::Number(0) => c.field(name, |c| c.bad(0, "must be within 1 and 255")),
        Protocol::Name(text) if !crate::PROTOCOL_NAMES.iter().any(|(n, _)| *n == &**text) => {
            let names: Vec<&str> = crate::PROTOCOL_NAMES.iter().map(|(n, _)| *n).collect();
            let reason = match Protocol::from_any_case(text) {
                Protocol::Name(n) if n != *text && names.contains(&&*n) => format!("must be written {n}"),
                _ => format!("must be a number 1-255 or one of {}", names.join(", ")),
            };
            c.field(name, |c| c.bad(text, reason));
        }
        _ => {}
    }
    let needed = match p.number() {
        Some(1) => 4,
        Some(58) => 6,
        _ => return,
    };
    if ip_version.is_some_and(|v| v != needed) {
        c.field(name, |c| c.bad(p, format!("is a protocol of IPv{needed}, but ipVersion says otherwise")));
    }
}

fn icmp_fields(c: &mut Check, icmp: &IcmpFields) {
    c.within("type", icmp.icmp_type, 0, 254);
    c.within("code", icmp.code, 0, 255);
    if icmp.code.is_some() && icmp.icmp_type.is_none() {
        c.field("code", |c| c.problem("needs a type"));
    }
}

/// All networks of a rule must be of one family, which must be that of `ipVersion`.
fn families(c: &mut Check, r: &Rule) {
    let sides = [&r.source, &r.destination];
    let nets = sides.into_iter().flat_map(|s| s.nets.iter().chain(&s.not_nets));
    let families: Vec<u8> = nets
        .filter_map(|t| crate::net::cidr_or_ip(t).ok())
        .map(|n| if n.addr().is_ipv4() { 4 } else { 6 })
        .collect();
    if families.iter().any(|f| Some(f) != families.first()) {
        c.problem("mixes IPv4 and IPv6 networks; write one rule for each");
    } else if let (Some(v), Some(f)) = (r.ip_version, families.first())
        && v != *f
    {
        c.field("ipVersion", |c| c.bad(v, format!("contradicts the IPv{f} networks of the rule")));
    }
}

fn nets(c: &mut Check, name: &str, list: &[String], negated: bool) {
    c.at_most(name, list, 256);
    c.distinct(name, list);
    c.each(name, list, |c, text| match crate::net::cidr(text) {
        Err(_) if crate::net::ip(text).is_ok() => {
            let length = if text.contains(':') { 128 } else { 32 };
            c.bad(text, format!("needs a prefix length: {text}/{length}"));
        }
        Err(e) => c.problem(e.to_string()),
        Ok(net) if !crate::net::is_masked(&net) => {
            c.bad(text, format!("has host bits set; write {}", net.trunc()))
        }
        Ok(net) if negated && net.prefix_len() == 0 => {
            c.bad(text, "excludes every address, so that nothing matches")
        }
        Ok(_) => {}
    });
}

fn entity(c: &mut Check, e: &EntityRule, r: &Rule, place: Place) {
    nets(c, "nets", &e.nets, false);
    nets(c, "notNets", &e.not_nets, true);
    c.plain_selector("selector", &e.selector);
    c.selector("notSelector", &e.not_selector);
    c.namespace_selector("namespaceSelector", &e.namespace_selector);
    let supports = r.protocol.as_ref().is_some_and(Protocol::supports_ports);
    for (name, ports) in [("ports", &e.ports), ("notPorts", &e.not_ports)] {
        c.at_most(name, ports, 50);
        c.each(name, ports, port);
        let numeric = ports.iter().any(|p| matches!(p, Port::Range(..)));
        if numeric && !supports {
            c.field(name, |c| c.problem("numbers need protocol TCP, UDP or SCTP in the rule"));
        } else if !ports.is_empty() && !supports && r.protocol.is_some() {
            c.field(name, |c| c.problem("the protocol of the rule has no ports"));
        }
    }
    if let Some(s) = &e.service_accounts {
        c.field("serviceAccounts", |c| {
            c.selector("selector", &s.selector);
            c.each("names", &s.names, |c, n| {
                if !meta::is_name(n) {
                    c.bad(n, "is not the name of a service account");
                }
            });
        });
    }
    if let Some(s) = &e.services {
        c.field("services", |c| {
            if s.name.is_empty() {
                c.field("name", |c| c.problem("required"));
            }
            c.no_longer("name", &s.name, 253);
            c.no_longer("namespace", &s.namespace, 253);
            if place == Place::Global && s.namespace.is_empty() {
                c.field("namespace", |c| c.problem("required in a policy without a namespace"));
            }
        });
        for (name, given) in [
            ("namespaceSelector", !e.namespace_selector.is_empty()),
            ("selector", !e.selector.is_empty()),
            ("notSelector", !e.not_selector.is_empty()),
            ("serviceAccounts", e.service_accounts.is_some()),
            ("nets", !e.nets.is_empty()),
            ("notNets", !e.not_nets.is_empty()),
        ] {
            if given {
                c.field(name, |c| c.problem("cannot stand beside services"));
            }
        }
    }
}

fn services_placed(c: &mut Check, r: &Rule, ingress: bool, place: Place) {
    if place == Place::Profile {
        return;
    }
    let (side, entity, reason) = if ingress {
        ("destination", &r.destination, "is not allowed in an ingress rule; only source.services is")
    } else {
        ("source", &r.source, "is not allowed in an egress rule; only destination.services is")
    };
    if entity.services.is_some() {
        c.field(side, |c| c.field("services", |c| c.problem(reason)));
    }
}

/// A port of a rule: never 0, and a name that IANA would accept.
pub(super) fn port(c: &mut Check, p: &Port) {
    match p {
        Port::Range(0, _) => c.bad(p, "must be within 1 and 65535"),
        Port::Range(..) => {}
        Port::Named(n) if !is_port_name(n) => {
            c.bad(n, "must be 1-15 lower-case letters, digits or single '-', with at least one letter");
        }
        Port::Named(_) => {}
    }
}

/// RFC 6335 service name.
pub(super) fn is_port_name(n: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=15).contains(&n.len())
        && n.bytes().all(allowed)
        && n.bytes().any(|b| b.is_ascii_lowercase())
        && !n.starts_with('-')
        && !n.ends_with('-')
        && !n.contains("--")
}

fn http(c: &mut Check, h: &HttpMatch, r: &Rule, ingress: bool, place: Place) {
    let tcp = r.protocol.as_ref().is_none_or(|p| p.number() == Some(6));
    c.require(tcp, "needs protocol TCP, or none");
    c.require(r.action == Action::Allow, "is allowed in rules with action Allow only");
    c.require(ingress || place == Place::Profile, "is not allowed in an egress rule");
    c.at_most("methods", &h.methods, 20);
    c.distinct("methods", &h.methods);
    c.at_most("paths", &h.paths, 20);
    c.each("paths", &h.paths, |c, p| {
        let (name, text) = match (p.exact.as_str(), p.prefix.as_str()) {
            ("", "") => return c.problem("needs exact or prefix"),
            (exact, "") => ("exact", exact),
            ("", prefix) => ("prefix", prefix),
            _ => return c.problem("has both exact and prefix; use one of them"),
        };
        c.no_longer(name, text, 1024);
        c.field(name, |c| {
            if !text.starts_with('/') {
                c.bad(text, "must begin with '/'");
            }
            if text.contains(['?', ' ', '#']) {
                c.bad(text, "must not contain '?', '#' or a space");
            }
        });
    });
}
