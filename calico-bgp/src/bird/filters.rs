//! Policies as BIRD filters.

use std::fmt::Write;

use ipnet::IpNet;

use super::{Written, normal_local_pref, quotable};
use crate::config::PeerConfig;
use crate::policy::{
    CalicoExport, CidrMatch, CommunityValue, ELEVATED_PREFERENCE, Filter, FilterAction, FilterRule,
    METRIC_CEILING, Operation,
};
use crate::wire::Family;

/// A set of prefixes, each with a suffix; `None` when it would be empty, which BIRD does not accept.
pub(super) fn net_set(nets: impl Iterator<Item = IpNet>, suffix: &str) -> Option<String> {
    let list: Vec<String> = nets.map(|net| format!("{net}{suffix}")).collect();
    (!list.is_empty()).then(|| format!("[ {} ]", list.join(", ")))
}

/// Import: filters, then the preference of elevated routes, then everything.
pub(super) fn import_filter(out: &mut String, name: &str, peer: &PeerConfig) -> Written {
    writeln!(out, "\nfilter {name} {{")?;
    for filter in &peer.import.filters {
        rules(out, filter, peer.is_internal())?;
    }
    if let Some(limit) = peer.import.elevated_above {
        writeln!(out, "  if bgp_local_pref > {limit} then preference = {ELEVATED_PREFERENCE};")?;
    }
    writeln!(out, "  accept;\n}}")
}

/// Export: LOCAL_PREF of the metric, filters, then the decision of the node.
pub(super) fn export_filter(out: &mut String, name: &str, peer: &PeerConfig, family: Family) -> Written {
    let normal = normal_local_pref(peer.export.normal_priority());
    writeln!(out, "\nfilter {name} {{")?;
    // Prefixes of interfaces and alien kernel routes are no routes of the speaker; the decision sorts them out.
    writeln!(out, "  if source != RTS_BGP then {{")?;
    writeln!(out, "    if defined(krt_metric) then bgp_local_pref = {METRIC_CEILING} - krt_metric;")?;
    writeln!(out, "    else bgp_local_pref = {normal};\n  }}")?;
    for filter in peer.export.filters.get(&family).into_iter().flatten() {
        rules(out, filter, peer.is_internal())?;
    }
    match &peer.export.calico {
        None => writeln!(out, "  accept;\n}}"),
        Some(calico) => decision(out, calico, peer.is_internal(), family, normal),
    }
}

fn decision(out: &mut String, calico: &CalicoExport, internal: bool, family: Family, normal: u32) -> Written {
    let ours = |net: &IpNet| Family::of(net.addr()) == family;
    let set = |nets: &crate::policy::NetSet, suffix| net_set(nets.iter().filter(ours), suffix);
    if let Some(set) = set(&calico.disabled_pools, "+") {
        writeln!(out, "  if net ~ {set} then reject;")?;
    }
    if internal {
        writeln!(out, "  if ifname ~ \"*.cali\" || ifname ~ \"*.calico\" then reject;")?;
        if !calico.owns_ipip {
            writeln!(out, "  if ifname = \"tunl0\" then reject;")?;
        }
    }
    writeln!(out, "  if ifname ~ \"bpf*.cali\" then reject;")?;
    for rule in calico.communities.iter().filter(|rule| ours(&rule.cidr)) {
        write!(out, "  if net ~ [ {}+ ] then {{", rule.cidr)?;
        for community in &rule.communities {
            write!(out, " {}", add(community))?;
        }
        writeln!(out, " }}")?;
    }
    if let (Some(exact), Some(inside)) = (set(&calico.own_blocks, ""), set(&calico.own_blocks, "+")) {
        writeln!(out, "  if net ~ {exact} then accept;")?;
        writeln!(out, "  if net ~ {inside} then {{ if bgp_local_pref > {normal} then accept; reject; }}")?;
    }
    for nets in [&calico.service_routes, &calico.reflected_services, &calico.pools] {
        if let Some(set) = set(nets, "+") {
            writeln!(out, "  if net ~ {set} then accept;")?;
        }
    }
    writeln!(out, "  reject;\n}}")
}

fn add(community: &CommunityValue) -> String {
    match community {
        CommunityValue::Standard(value) => {
            format!("bgp_community.add(({},{}));", value >> 16, value & 0xffff)
        }
        CommunityValue::Large([a, b, c]) => format!("bgp_large_community.add(({a},{b},{c}));"),
    }
}

fn rules(out: &mut String, filter: &Filter, internal: bool) -> Written {
    let name: String = filter.name.chars().filter(|c| !c.is_control()).collect();
    writeln!(out, "  # BGPFilter {name}")?;
    for rule in filter.rules.iter().filter(|rule| rule.internal.is_none_or(|wanted| wanted == internal)) {
        let conditions = conditions(rule);
        let guard = if conditions.is_empty() {
            String::new()
        } else {
            format!("if {} then ", conditions.join(" && "))
        };
        match &rule.action {
            FilterAction::Reject => writeln!(out, "  {guard}{{ reject; }}")?,
            FilterAction::Accept(operations) => {
                write!(out, "  {guard}{{")?;
                for operation in operations {
                    match operation {
                        Operation::AddCommunity(community) => write!(out, " {}", add(community))?,
                        Operation::PrependAsPath(asns) => {
                            // BIRD puts one number in front at a time: the last one goes first.
                            for asn in asns.iter().rev() {
                                write!(out, " bgp_path.prepend({asn});")?;
                            }
                        }
                        Operation::SetPriority(metric) => {
                            write!(out, " bgp_local_pref = {};", METRIC_CEILING.saturating_sub(*metric))?;
                        }
                    }
                }
                writeln!(out, " accept; }}")?;
            }
        }
    }
    Ok(())
}

fn conditions(rule: &FilterRule) -> Vec<String> {
    let mut list = Vec::new();
    match rule.cidr {
        None => {}
        Some(CidrMatch::Equal(net)) => list.push(format!("net = {net}")),
        Some(CidrMatch::NotEqual(net)) => list.push(format!("net != {net}")),
        // A range of no length: nothing is in it, everything outside.
        Some(CidrMatch::In(_, min, max)) if min > max => list.push("false".into()),
        Some(CidrMatch::NotIn(_, min, max)) if min > max => list.push("true".into()),
        Some(CidrMatch::In(net, min, max)) => list.push(format!("net ~ [ {net}{{{min},{max}}} ]")),
        Some(CidrMatch::NotIn(net, min, max)) => list.push(format!("net !~ [ {net}{{{min},{max}}} ]")),
    }
    if rule.learned {
        list.push("source = RTS_BGP".into());
    }
    if let Some(pattern) = &rule.interface {
        // A pattern that cannot be written matches nothing.
        list.push(if quotable(pattern) { format!("ifname ~ \"{pattern}\"") } else { "false".into() });
    }
    match rule.community {
        None => {}
        Some(CommunityValue::Standard(value)) => {
            list.push(format!("({},{}) ~ bgp_community", value >> 16, value & 0xffff));
        }
        Some(CommunityValue::Large([a, b, c])) => list.push(format!("({a},{b},{c}) ~ bgp_large_community")),
    }
    if !rule.as_path_prefix.is_empty() {
        let asns: Vec<String> = rule.as_path_prefix.iter().map(u32::to_string).collect();
        list.push(format!("bgp_path ~ [= {} * =]", asns.join(" ")));
    }
    if let Some(metric) = rule.priority {
        list.push(format!("bgp_local_pref = {}", METRIC_CEILING.saturating_sub(metric)));
    }
    list
}
