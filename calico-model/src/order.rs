//! The order in which tiers and policies apply, and the names under which old versions stored policies.

use std::cmp::Ordering;

use crate::defaults::DEFAULT_TIER;
use crate::{Kind, Labels};

/// Position of a tier: tiers that exist come before those that are only named by policies, then by order (absent last),
/// then by name.
///
/// ```
/// use calico_model::order::TierRank;
/// let rank = |exists, order, name| TierRank { exists, order, name };
/// let mut tiers = [rank(false, None, "a"), rank(true, None, "b"), rank(true, Some(5.0), "c"), rank(true, Some(-1.0), "d")];
/// tiers.sort_by(TierRank::compare);
/// assert_eq!(tiers.map(|t| t.name), ["d", "c", "b", "a"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TierRank<'a> {
    /// True when there is a tier of this name.
    pub exists: bool,
    /// Its order.
    pub order: Option<f64>,
    /// Its name.
    pub name: &'a str,
}

impl TierRank<'_> {
    /// Which applies first.
    pub fn compare(&self, other: &Self) -> Ordering {
        other
            .exists
            .cmp(&self.exists)
            .then_with(|| compare_orders(self.order, other.order))
            .then_with(|| self.name.cmp(other.name))
    }
}

/// Position of a policy within its tier: by order (absent last), then by the bytes of `name/namespace/kind`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyRank<'a> {
    /// Its order.
    pub order: Option<f64>,
    /// Its name.
    pub name: &'a str,
    /// Its namespace; empty for global kinds.
    pub namespace: &'a str,
    /// Its kind.
    pub kind: Kind,
}

impl PolicyRank<'_> {
    /// Which applies first.
    pub fn compare(&self, other: &Self) -> Ordering {
        fn text<'a>(p: &'a PolicyRank<'_>) -> impl Iterator<Item = u8> + 'a {
            [p.name, "/", p.namespace, "/", p.kind.name()].into_iter().flat_map(str::bytes)
        }
        compare_orders(self.order, other.order).then_with(|| text(self).cmp(text(other)))
    }
}

/// Numbers ascending, absent last. Not-a-number counts as absent.
pub fn compare_orders(a: Option<f64>, b: Option<f64>) -> Ordering {
    let key = |o: Option<f64>| o.filter(|n| !n.is_nan()).unwrap_or(f64::INFINITY);
    key(a).total_cmp(&key(b))
}

/// Annotation in which the name that the user wrote is kept, as `{"name": …}`.
pub const METADATA_ANNOTATION: &str = "projectcalico.org/metadata";

/// The name a user knows a stored policy by. Since 3.30 it stands in an annotation; before, names in the default tier
/// were stored with the prefix `default.`.
pub fn user_policy_name(stored: &str, tier: &str, annotations: &Labels) -> String {
    #[derive(serde::Deserialize)]
    struct Named {
        #[serde(default)]
        name: String,
    }
    let annotated = annotations.get(METADATA_ANNOTATION).and_then(|t| serde_json::from_str::<Named>(t).ok());
    match annotated {
        Some(n) if !n.name.is_empty() => n.name,
        _ if tier.is_empty() || tier == DEFAULT_TIER => {
            stored.strip_prefix("default.").unwrap_or(stored).to_owned()
        }
        _ => stored.to_owned(),
    }
}

/// Reads the name of a policy as fan-out servers before 3.32 send it: kind, namespace and name.
///
/// ```
/// use calico_model::{Kind, order};
/// assert_eq!(order::legacy_identity("ns/staged:x"), (Kind::StagedNetworkPolicy, "ns", "x"));
/// ```
pub fn legacy_identity(name: &str) -> (Kind, &str, &str) {
    match name.split_once('/') {
        Some((ns, rest)) => {
            if let Some(n) = rest.strip_prefix("staged:knp.default.") {
                (Kind::StagedKubernetesNetworkPolicy, ns, n)
            } else if let Some(n) = rest.strip_prefix("staged:") {
                (Kind::StagedNetworkPolicy, ns, n)
            } else if let Some(n) = rest.strip_prefix("knp.default.") {
                (Kind::KubernetesNetworkPolicy, ns, n)
            } else {
                (Kind::NetworkPolicy, ns, rest)
            }
        }
        None => {
            if let Some(n) = name.strip_prefix("staged:") {
                (Kind::StagedGlobalNetworkPolicy, "", n)
            } else if let Some(n) = name.strip_prefix("kcnp.") {
                (Kind::KubernetesClusterNetworkPolicy, "", n)
            } else {
                (Kind::GlobalNetworkPolicy, "", name)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_are_broken_by_the_whole_identity() {
        let rank = |name, namespace, kind| PolicyRank { order: Some(1.0), name, namespace, kind };
        let a = rank("a", "z", Kind::NetworkPolicy);
        let b = rank("a", "", Kind::GlobalNetworkPolicy);
        // "a//GlobalNetworkPolicy" < "a/z/NetworkPolicy"
        assert_eq!(a.compare(&b), Ordering::Greater);
        assert_eq!(rank("a-b", "", Kind::GlobalNetworkPolicy).compare(&b), Ordering::Less);
        assert_eq!(PolicyRank { order: None, ..b }.compare(&a), Ordering::Greater);
        assert_eq!(compare_orders(None, Some(f64::INFINITY)), Ordering::Equal);
    }

    #[test]
    fn old_names() {
        let none = Labels::new();
        assert_eq!(user_policy_name("default.x", "", &none), "x");
        assert_eq!(user_policy_name("default.default.x", "default", &none), "default.x");
        assert_eq!(user_policy_name("sec.x", "sec", &none), "sec.x");
        let named = [(METADATA_ANNOTATION.to_owned(), r#"{"name":"default.x"}"#.to_owned())].into();
        assert_eq!(user_policy_name("default.x", "", &named), "default.x");
        for (text, identity) in [
            ("ns/knp.default.x", (Kind::KubernetesNetworkPolicy, "ns", "x")),
            ("ns/staged:knp.default.x", (Kind::StagedKubernetesNetworkPolicy, "ns", "x")),
            ("ns/x", (Kind::NetworkPolicy, "ns", "x")),
            ("staged:x", (Kind::StagedGlobalNetworkPolicy, "", "x")),
            ("kcnp.x", (Kind::KubernetesClusterNetworkPolicy, "", "x")),
            ("x", (Kind::GlobalNetworkPolicy, "", "x")),
        ] {
            assert_eq!(legacy_identity(text), identity);
        }
    }
}
