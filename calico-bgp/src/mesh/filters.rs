//! BGPFilter resources to [`Filter`]s.

use std::sync::Arc;

use calico_model::{
    BGPFilterRule, BGPFilterSpec, FilterAction as ModelAction, FilterMatchOperator, FilterPeerType,
    FilterSource, Kind,
};
use ipnet::IpNet;

use super::Problem;
use crate::policy::{CidrMatch, CommunityValue, Filter, FilterAction, FilterRule, Operation};
use crate::wire::Family;

/// Which rules of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Import,
    Export,
}

/// Compiles the rules of one direction and family. Without such rules there is nothing to run.
///
/// A rule that cannot be read is closed: if it would accept it is left out, if it would reject it rejects everything.
pub(super) fn compile(
    name: &str,
    spec: &BGPFilterSpec,
    direction: Direction,
    family: Family,
    problems: &mut Vec<Problem>,
) -> Option<Arc<Filter>> {
    let (field, rules) = match (direction, family) {
        (Direction::Export, Family::Ipv4) => ("exportV4", &spec.export_v4),
        (Direction::Import, Family::Ipv4) => ("importV4", &spec.import_v4),
        (Direction::Export, Family::Ipv6) => ("exportV6", &spec.export_v6),
        (Direction::Import, Family::Ipv6) => ("importV6", &spec.import_v6),
    };
    if rules.is_empty() {
        return None;
    }
    let mut compiled = Vec::with_capacity(rules.len());
    for (index, rule) in rules.iter().enumerate() {
        match rule_of(rule, family) {
            Ok(rule) => compiled.push(rule),
            Err((path, text)) => {
                let closed = rule.action != ModelAction::Accept;
                let follows = if closed { "every route is refused here" } else { "the rule is left out" };
                problems.push(Problem {
                    kind: Kind::BGPFilter,
                    name: name.into(),
                    field: format!("spec.{field}[{index}].{path}"),
                    text: format!("{text}; {follows}"),
                });
                if closed {
                    compiled.push(FilterRule::all(FilterAction::Reject));
                }
            }
        }
        if rule.prefix_length.is_some()
            && matches!(rule.match_operator, FilterMatchOperator::Equal | FilterMatchOperator::NotEqual)
        {
            problems.push(Problem {
                kind: Kind::BGPFilter,
                name: name.into(),
                field: format!("spec.{field}[{index}].matchOperator"),
                text: "Equal never and NotEqual always matches beside prefixLength; use In or NotIn".into(),
            });
        }
    }
    Some(Arc::new(Filter { name: name.into(), rules: compiled }))
}

type Reading<T> = Result<T, (&'static str, String)>;

fn rule_of(rule: &BGPFilterRule, family: Family) -> Reading<FilterRule> {
    let internal = match &rule.peer_type {
        FilterPeerType::EBgp => Some(false),
        FilterPeerType::IBgp => Some(true),
        other if other.is_unset() => None,
        other => return Err(("peerType", format!("{:?} is neither eBGP nor iBGP", other.as_str()))),
    };
    let learned = match &rule.source {
        FilterSource::RemotePeers => true,
        other if other.is_unset() => false,
        other => return Err(("source", format!("{:?} is not RemotePeers", other.as_str()))),
    };
    let community = match &rule.communities {
        None => None,
        Some(communities) => match communities.values.as_slice() {
            [value] => Some(community(value).map_err(|text| ("communities.values", text))?),
            values => {
                return Err((
                    "communities.values",
                    format!("{} values where exactly one is allowed", values.len()),
                ));
            }
        },
    };
    Ok(FilterRule {
        internal,
        cidr: cidr_of(rule, family)?,
        learned,
        interface: (!rule.interface.is_empty()).then(|| rule.interface.as_str().into()),
        community,
        as_path_prefix: rule.as_path_prefix.iter().map(|number| number.0).collect(),
        priority: rule.priority.map(|value| metric("priority", value)).transpose()?,
        action: action_of(rule)?,
    })
}

fn metric(path: &'static str, value: i32) -> Reading<u32> {
    u32::try_from(value).map_err(|_| (path, format!("{value} is not between 1 and 2147483646")))
}

fn community(text: &str) -> Result<CommunityValue, String> {
    text.parse().map_err(|error: crate::policy::CommunityError| error.to_string())
}

fn cidr_of(rule: &BGPFilterRule, family: Family) -> Reading<Option<CidrMatch>> {
    if rule.cidr.is_empty() {
        return if rule.match_operator.is_unset() {
            Ok(None)
        } else {
            Err(("cidr", "is missing beside matchOperator".into()))
        };
    }
    let cidr: IpNet =
        super::parse_net(&rule.cidr).ok_or_else(|| ("cidr", format!("{:?} is no CIDR", rule.cidr)))?;
    if Family::of(cidr.addr()) != family {
        return Err(("cidr", format!("{cidr} is of the other family")));
    }
    let bounds = rule.prefix_length.as_ref();
    let bound = |value: Option<i32>, default: u8| value.and_then(|v| u8::try_from(v).ok()).unwrap_or(default);
    let min = bound(bounds.and_then(|b| b.min), cidr.prefix_len()).max(cidr.prefix_len());
    let max = bound(bounds.and_then(|b| b.max), family.bits()).min(family.bits());
    Ok(Some(match (&rule.match_operator, bounds) {
        (FilterMatchOperator::In, _) => CidrMatch::In(cidr, min, max),
        (FilterMatchOperator::NotIn, _) => CidrMatch::NotIn(cidr, min, max),
        (FilterMatchOperator::Equal, None) => CidrMatch::Equal(cidr),
        (FilterMatchOperator::NotEqual, None) => CidrMatch::NotEqual(cidr),
        // As in the reference, where a prefix is compared with a set: an empty range of lengths.
        (FilterMatchOperator::Equal, Some(_)) => CidrMatch::In(cidr, 1, 0),
        (FilterMatchOperator::NotEqual, Some(_)) => CidrMatch::NotIn(cidr, 1, 0),
        (other, _) => {
            return Err((
                "matchOperator",
                format!("{:?} is none of Equal, NotEqual, In, NotIn", other.as_str()),
            ));
        }
    }))
}

fn action_of(rule: &BGPFilterRule) -> Reading<FilterAction> {
    match &rule.action {
        ModelAction::Reject => Ok(FilterAction::Reject),
        ModelAction::Accept => {
            let mut operations = Vec::with_capacity(rule.operations.len());
            for operation in &rule.operations {
                match (&operation.add_community, &operation.prepend_as_path, &operation.set_priority) {
                    (Some(add), None, None) => {
                        let value =
                            community(&add.value).map_err(|text| ("operations.addCommunity", text))?;
                        operations.push(Operation::AddCommunity(value));
                    }
                    (None, Some(prepend), None) => {
                        operations
                            .push(Operation::PrependAsPath(prepend.prefix.iter().map(|n| n.0).collect()));
                    }
                    (None, None, Some(set)) => {
                        operations
                            .push(Operation::SetPriority(metric("operations.setPriority.value", set.value)?));
                    }
                    _ => return Err(("operations", "an operation must set exactly one field".into())),
                }
            }
            Ok(FilterAction::Accept(operations))
        }
        other => Err(("action", format!("{:?} is neither Accept nor Reject", other.as_str()))),
    }
}
