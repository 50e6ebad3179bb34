//! The order of tiers and of policies inside a tier (`policy.md` §2).

use std::cmp::Ordering;
use std::sync::Arc;

use crate::changes::DefaultAction;
use crate::ir::{PolicyId, PolicyKind};

/// What is known of a tier.
#[derive(Debug, Clone, PartialEq)]
pub struct TierOrder {
    /// Name.
    pub name: Arc<str>,
    /// True when the Tier object exists; policies may name one that does not.
    pub exists: bool,
    /// Order; absent sorts after every number.
    pub order: Option<f64>,
    /// End-of-tier behaviour. Deny when the tier does not exist.
    pub default_action: DefaultAction,
}

impl TierOrder {
    /// A tier that policies name but that has no object: it applies after all others and denies at its end.
    pub fn missing(name: Arc<str>) -> Self {
        Self { name, exists: false, order: None, default_action: DefaultAction::Deny }
    }

    /// The tiers that every cluster has, whether or not their objects have arrived.
    pub fn built_in(name: &str) -> Option<Self> {
        let (order, default_action) = match name {
            "kube-admin" => (1_000.0, DefaultAction::Pass),
            "default" => (1_000_000.0, DefaultAction::Deny),
            "kube-baseline" => (10_000_000.0, DefaultAction::Pass),
            _ => return None,
        };
        Some(Self { name: name.into(), exists: true, order: Some(order), default_action })
    }
}

/// Existing tiers before missing ones, then by order with absent last, then by name.
pub fn compare_tiers(a: &TierOrder, b: &TierOrder) -> Ordering {
    b.exists
        .cmp(&a.exists)
        .then_with(|| compare_orders(a.order, b.order))
        .then_with(|| a.name.as_bytes().cmp(b.name.as_bytes()))
}

/// Ascending with absent last; a NaN, which JSON cannot carry, counts as absent.
pub fn compare_orders(a: Option<f64>, b: Option<f64>) -> Ordering {
    let value = |order: Option<f64>| order.filter(|o| !o.is_nan()).unwrap_or(f64::INFINITY);
    value(a).partial_cmp(&value(b)).unwrap_or(Ordering::Equal)
}

/// By order with absent last, ties by the bytes of `name/namespace/kind`.
///
/// ```
/// use calico_policy::ir::{PolicyId, PolicyKind};
/// use calico_policy::order::compare_policies;
/// let id = |kind, namespace: &str, name: &str| PolicyId { kind, namespace: namespace.into(), name: name.into() };
/// let first = id(PolicyKind::GlobalNetworkPolicy, "", "a-x");
/// let second = id(PolicyKind::NetworkPolicy, "ns1", "a");
/// assert!(compare_policies((None, &first), (None, &second)).is_lt());
/// ```
pub fn compare_policies(a: (Option<f64>, &PolicyId), b: (Option<f64>, &PolicyId)) -> Ordering {
    compare_orders(a.0, b.0).then_with(|| tie_break(a.1).cmp(tie_break(b.1)))
}

fn tie_break(id: &PolicyId) -> impl Iterator<Item = u8> + '_ {
    let slash = std::iter::once(b'/');
    id.name
        .bytes()
        .chain(slash.clone())
        .chain(id.namespace.bytes())
        .chain(slash)
        .chain(kind_name(id.kind).bytes())
}

/// The kind as the reference spells it in keys.
pub fn kind_name(kind: PolicyKind) -> &'static str {
    match kind {
        PolicyKind::NetworkPolicy => "NetworkPolicy",
        PolicyKind::GlobalNetworkPolicy => "GlobalNetworkPolicy",
        PolicyKind::KubernetesNetworkPolicy => "KubernetesNetworkPolicy",
        PolicyKind::KubernetesClusterNetworkPolicy => "KubernetesClusterNetworkPolicy",
        PolicyKind::StagedNetworkPolicy => "StagedNetworkPolicy",
        PolicyKind::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
        PolicyKind::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(kind: PolicyKind, namespace: &str, name: &str) -> PolicyId {
        PolicyId { kind, namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn policies_sort_like_the_example_of_the_specification() {
        use PolicyKind::{GlobalNetworkPolicy, NetworkPolicy};
        let mut list = [
            (None, id(NetworkPolicy, "ns1", "a")),
            (None, id(GlobalNetworkPolicy, "", "a")),
            (Some(5.0), id(GlobalNetworkPolicy, "", "b")),
            (None, id(GlobalNetworkPolicy, "", "a-x")),
        ];
        list.sort_by(|a, b| compare_policies((a.0, &a.1), (b.0, &b.1)));
        let names: Vec<String> = list.iter().map(|(_, id)| id.to_string()).collect();
        assert_eq!(names, ["gnp/b", "gnp/a-x", "gnp/a", "np/ns1/a"]);
    }

    #[test]
    fn tiers_sort_missing_last_and_absent_order_after_numbers() {
        let tier = |name: &str, order| TierOrder { order, exists: true, ..TierOrder::missing(name.into()) };
        let mut list =
            [TierOrder::missing("a".into()), tier("z", None), tier("y", Some(10.0)), tier("x", Some(10.0))];
        list.sort_by(compare_tiers);
        assert_eq!(list.iter().map(|t| t.name.as_ref()).collect::<Vec<_>>(), ["x", "y", "z", "a"]);
    }
}
