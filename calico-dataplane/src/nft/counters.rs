//! What the named counters of rules say, by policy and rule.
//!
//! The answer follows from the kernel's table alone: comments name policies and rules, so it can be had without the
//! agent and without the datastore.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::expr::{Expr, Verdict};
use super::object::{Chain, Name, Rule, Ruleset};

/// How often a rule matched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RuleCount {
    /// Text id of the policy (`np/prod/db`), or `profile` and its name.
    pub policy: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Position in the list that the user wrote, from 0.
    pub index: u32,
    /// `Allow`, `Deny`, `Pass` or `Log`.
    pub action: &'static str,
    /// Packets, of which only the first of a connection meets policy.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
}

/// The counters of all rules that have one, sorted by policy, direction and rule. Rules that the same list entry became
/// share a counter and are one line here; so do the places where a policy is enforced.
///
/// ```
/// use calico_dataplane::nft::counters::rule_counts;
/// use calico_dataplane::nft::object::Ruleset;
/// assert!(rule_counts(&Ruleset::default(), &Default::default()).is_empty());
/// ```
pub fn rule_counts(ruleset: &Ruleset, values: &BTreeMap<Name, (u64, u64)>) -> Vec<RuleCount> {
    let mut counts: BTreeMap<(String, String, u32), RuleCount> = BTreeMap::new();
    let mut seen: BTreeSet<&Name> = BTreeSet::new();
    for chain in ruleset.chains.values() {
        for rule in &chain.rules {
            let Some(counter) = counter_of(rule) else { continue };
            let Some((policy, direction, index)) = place(chain, rule) else { continue };
            let key = (policy.to_owned(), direction.to_owned(), index);
            let count = counts.entry(key).or_insert_with(|| RuleCount {
                policy: policy.to_owned(),
                direction: direction.to_owned(),
                index,
                action: action(rule),
                packets: 0,
                bytes: 0,
            });
            if let (true, Some((packets, bytes))) = (seen.insert(counter), values.get(counter)) {
                count.packets += packets;
                count.bytes += bytes;
            }
        }
    }
    counts.into_values().collect()
}

fn counter_of(rule: &Rule) -> Option<&Name> {
    rule.exprs.iter().find_map(|expr| match expr {
        Expr::NamedCounter { name } => Some(name),
        _ => None,
    })
}

/// Policy, direction and index: `ingress[2]` in the chain of the policy, `np/prod/db ingress[2]` in the chain of a tier.
fn place<'a>(chain: &'a Chain, rule: &'a Rule) -> Option<(&'a str, &'a str, u32)> {
    let comment = rule.comment.as_deref()?;
    let (policy, rest) = match comment.rsplit_once(' ') {
        Some((policy, rest)) => (policy, rest),
        None => (chain.comment.as_deref()?, comment),
    };
    let (direction, rest) = rest.split_once('[')?;
    Some((policy, direction, rest.strip_suffix(']')?.parse().ok()?))
}

fn action(rule: &Rule) -> &'static str {
    for expr in &rule.exprs {
        match expr {
            Expr::Log { .. } => return "Log",
            Expr::Verdict(Verdict::Accept) => return "Allow",
            Expr::Verdict(Verdict::Return) => return "Pass",
            _ => {}
        }
    }
    "Deny"
}

#[cfg(test)]
mod tests {
    use calico_policy::changes::Changes;
    use calico_policy::ir::RuleAction;

    use super::super::compile::Compiler;
    use super::super::fixtures::{large_world, policy, protocol, rule, small_world};
    use super::*;
    use crate::driver::InterfaceState;

    fn counted(changes: &Changes) -> Compiler {
        let (_, config) = large_world();
        assert!(config.rule_counters);
        let mut compiler = Compiler::new(config);
        compiler.apply(changes, &InterfaceState::default());
        compiler
    }

    #[test]
    fn every_counter_of_a_table_is_found_by_policy_and_rule() {
        let compiler = counted(&large_world().0);
        let ruleset = compiler.table().desired();
        let values: BTreeMap<Name, (u64, u64)> =
            ruleset.counters.iter().map(|name| (name.clone(), (1, 100))).collect();
        let counts = rule_counts(ruleset, &values);
        let packets: u64 = counts.iter().map(|count| count.packets).sum();
        assert_eq!(packets, ruleset.counters.len() as u64, "each counter once");
        let actions: BTreeSet<&str> = counts.iter().map(|count| count.action).collect();
        assert!(actions.contains("Allow") && actions.contains("Deny"), "{actions:?}");
        assert!(counts.iter().any(|count| count.policy.starts_with("profile ")), "{counts:?}");
    }

    #[test]
    fn long_names_keep_their_place_and_several_rules_of_one_entry_are_one_line() {
        let mut world = small_world();
        let tier = &world.workload_endpoints[0].tiers[0];
        let id = tier.ingress[0].clone();
        let mut long = (*policy(&id.name, &[rule(7, RuleAction::Allow, &[protocol(6)])], &[])).clone();
        // One list entry that became two rules.
        long.ingress.push(rule(7, RuleAction::Allow, &[protocol(17)]));
        world.policies = vec![std::sync::Arc::new(long)];
        let compiler = counted(&world);
        let ruleset = compiler.table().desired();
        let values = ruleset.counters.iter().map(|name| (name.clone(), (3, 180))).collect();
        let of_policy: Vec<RuleCount> = rule_counts(ruleset, &values)
            .into_iter()
            .filter(|count| count.policy == id.to_string())
            .collect();
        let [one] = of_policy.as_slice() else { panic!("{of_policy:?}") };
        assert_eq!((one.index, one.packets, one.action, &*one.direction), (7, 3, "Allow", "ingress"));
    }
}
