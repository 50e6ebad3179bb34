//! Which policies apply to an endpoint, in which order.
//!
//! Policies of a tier stand in one sorted map; each has a rank, a number between those of its neighbours, so that the
//! policies of an endpoint are sorted by comparing numbers and an inserted policy disturbs nobody. Equal lists are
//! shared between endpoints.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::changes::{DefaultAction, TierPolicies};
use crate::ir::PolicyId;
use crate::order::{TierOrder, compare_policies, compare_tiers};

/// A policy by number; numbers are never used twice.
pub(crate) type PolicyNumber = u32;

/// Where a policy stands in its tier.
#[derive(Debug, Clone)]
struct Place {
    order: Option<f64>,
    id: PolicyId,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_policies((self.order, &self.id), (other.order, &other.id))
    }
}

/// All policies in order.
#[derive(Debug, Default)]
pub(crate) struct Ranks {
    places: BTreeMap<Place, PolicyNumber>,
    ranks: FxHashMap<PolicyNumber, u64>,
}

impl Ranks {
    /// Puts a policy at its place.
    pub(crate) fn insert(&mut self, number: PolicyNumber, order: Option<f64>, id: &PolicyId) {
        let place = Place { order, id: id.clone() };
        let rank = |neighbour: Option<(&Place, &PolicyNumber)>| {
            neighbour.and_then(|(_, number)| self.ranks.get(number).copied())
        };
        let below = rank(self.places.range(..&place).next_back()).unwrap_or(0);
        let above = rank(self.places.range(&place..).next()).unwrap_or(u64::MAX);
        let middle = below + (above - below) / 2;
        self.places.insert(place, number);
        if middle == below {
            self.renumber();
        } else {
            self.ranks.insert(number, middle);
        }
    }

    /// Takes a policy from its place.
    pub(crate) fn remove(&mut self, number: PolicyNumber, order: Option<f64>, id: &PolicyId) {
        self.places.remove(&Place { order, id: id.clone() });
        self.ranks.remove(&number);
    }

    fn renumber(&mut self) {
        let step = u64::MAX / (self.places.len() as u64 + 1);
        self.ranks = self.places.values().zip(1..).map(|(number, at)| (*number, at * step)).collect();
    }

    fn rank(&self, number: PolicyNumber) -> u64 {
        self.ranks.get(&number).copied().unwrap_or(u64::MAX)
    }
}

/// Tiers by name, with the numbers that policies refer to them by.
#[derive(Debug, Default)]
pub(crate) struct Tiers {
    known: FxHashMap<Arc<str>, TierOrder>,
    sorted: FxHashMap<Arc<str>, u32>,
    numbers: FxHashMap<Arc<str>, u32>,
}

impl Tiers {
    /// Adds, replaces or removes a tier.
    pub(crate) fn set(&mut self, name: &str, tier: Option<TierOrder>) {
        match tier {
            Some(tier) => {
                self.known.insert(name.into(), tier);
            }
            None => {
                self.known.remove(name);
            }
        }
        self.sorted.clear();
    }

    /// True when the tier has an object or is built in.
    pub(crate) fn exists(&self, name: &str) -> bool {
        self.known.contains_key(name) || TierOrder::built_in(name).is_some()
    }

    pub(crate) fn get(&self, name: &Arc<str>) -> TierOrder {
        let built_in = || TierOrder::built_in(name).unwrap_or_else(|| TierOrder::missing(name.clone()));
        self.known.get(name).cloned().unwrap_or_else(built_in)
    }

    /// A number that stands for the name for ever.
    fn number(&mut self, name: &Arc<str>) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry(name.clone()).or_insert(next)
    }

    /// Positions of the tiers that `wanted` names.
    fn positions<'a>(&mut self, wanted: impl Iterator<Item = &'a Arc<str>>) {
        let mut unknown = false;
        for name in wanted {
            if !self.sorted.contains_key(name) {
                unknown = true;
                self.sorted.insert(name.clone(), 0);
            }
        }
        if unknown {
            let mut tiers: Vec<TierOrder> = self.sorted.keys().map(|name| self.get(name)).collect();
            tiers.sort_by(compare_tiers);
            self.sorted = tiers.into_iter().zip(0..).map(|(tier, at)| (tier.name, at)).collect();
        }
    }
}

/// One policy of an endpoint, as the resolver needs it.
#[derive(Debug, Clone)]
pub(crate) struct Applied<'a> {
    pub(crate) number: PolicyNumber,
    pub(crate) id: &'a PolicyId,
    pub(crate) tier: &'a Arc<str>,
    pub(crate) ingress: bool,
    pub(crate) egress: bool,
}

type Shared<T> = FxHashMap<Box<[u32]>, Arc<[T]>>;

/// Makes the lists of endpoints and shares equal ones.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    lists: Shared<PolicyId>,
    pipelines: Shared<TierPolicies>,
}

impl Resolver {
    /// The ordered tiers of one endpoint. `always_pass` is for the stages whose tiers never deny at their end.
    pub(crate) fn resolve(
        &mut self,
        tiers: &mut Tiers,
        ranks: &Ranks,
        applied: &[Applied<'_>],
        always_pass: bool,
    ) -> Arc<[TierPolicies]> {
        tiers.positions(applied.iter().map(|policy| policy.tier));
        let position = |policy: &Applied<'_>| tiers.sorted.get(policy.tier).copied().unwrap_or(u32::MAX);
        let mut sorted: Vec<(u32, u64, &Applied<'_>)> =
            applied.iter().map(|policy| (position(policy), ranks.rank(policy.number), policy)).collect();
        sorted.sort_unstable_by_key(|(tier, rank, policy)| (*tier, *rank, policy.number));

        let mut key: Vec<u32> = Vec::with_capacity(sorted.len() + 2);
        let mut out: Vec<(TierOrder, Vec<u32>, Vec<u32>)> = Vec::new();
        for group in sorted.chunk_by(|a, b| a.0 == b.0) {
            let Some((_, _, first)) = group.first() else { continue };
            let mut tier = tiers.get(first.tier);
            if always_pass {
                tier.default_action = DefaultAction::Pass;
            }
            let governed = |wanted: fn(&Applied<'_>) -> bool| -> Vec<u32> {
                group.iter().filter(|(_, _, p)| wanted(p)).map(|(_, _, p)| p.number).collect()
            };
            let (ingress, egress) = (governed(|p| p.ingress), governed(|p| p.egress));
            // Lengths separate the lists.
            let passes = u32::from(tier.default_action == DefaultAction::Pass);
            key.extend([tiers.number(first.tier), passes, ingress.len() as u32]);
            key.extend(&ingress);
            key.push(egress.len() as u32);
            key.extend(&egress);
            out.push((tier, ingress, egress));
        }
        if let Some(shared) = self.pipelines.get(key.as_slice()) {
            return shared.clone();
        }
        let ids: FxHashMap<u32, &PolicyId> = applied.iter().map(|p| (p.number, p.id)).collect();
        let lists = &mut self.lists;
        let mut list = |numbers: Vec<u32>| -> Arc<[PolicyId]> {
            if let Some(shared) = lists.get(numbers.as_slice()) {
                return shared.clone();
            }
            let shared: Arc<[PolicyId]> =
                numbers.iter().filter_map(|n| ids.get(n)).map(|id| (*id).clone()).collect();
            lists.insert(numbers.into(), shared.clone());
            shared
        };
        let pipeline: Arc<[TierPolicies]> = out
            .into_iter()
            .map(|(tier, ingress, egress)| TierPolicies {
                tier: tier.name,
                default_action: tier.default_action,
                ingress: list(ingress),
                egress: list(egress),
            })
            .collect();
        self.pipelines.insert(key.into(), pipeline.clone());
        pipeline
    }

    /// Forgets lists that nobody holds any more.
    pub(crate) fn forget_unused(&mut self) {
        self.pipelines.retain(|_, shared| Arc::strong_count(shared) > 1);
        self.lists.retain(|_, shared| Arc::strong_count(shared) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::PolicyKind;

    fn id(name: &str) -> PolicyId {
        PolicyId { kind: PolicyKind::GlobalNetworkPolicy, namespace: "".into(), name: name.into() }
    }

    #[test]
    fn ranks_survive_insertion_at_one_spot() {
        let mut ranks = Ranks::default();
        for number in 0..500_u32 {
            ranks.insert(number, Some(f64::from(500 - number)), &id(&format!("p{number}")));
        }
        assert!((1..500).all(|number| ranks.rank(number) < ranks.rank(number - 1)));
    }

    #[test]
    fn equal_lists_are_one_list() {
        let mut resolver = Resolver::default();
        let mut ranks = Ranks::default();
        let mut tiers = Tiers::default();
        let ids = [id("a"), id("b")];
        let tier: Arc<str> = "default".into();
        ranks.insert(0, Some(2.0), &ids[0]);
        ranks.insert(1, Some(1.0), &ids[1]);
        let applied = |number: u32, id| Applied { number, id, tier: &tier, ingress: true, egress: false };
        let first = resolver.resolve(&mut tiers, &ranks, &[applied(0, &ids[0]), applied(1, &ids[1])], false);
        let second = resolver.resolve(&mut tiers, &ranks, &[applied(1, &ids[1]), applied(0, &ids[0])], false);
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first[0].ingress.as_ref(), [ids[1].clone(), ids[0].clone()]);
        drop((first, second));
        resolver.forget_unused();
        assert!(resolver.pipelines.is_empty() && resolver.lists.is_empty());
    }
}
