//! Values written into objects when they are created or updated, and those that a read fills in.

use crate::names::{NAMESPACE_LABEL, ORCHESTRATOR_LABEL, TIER_LABEL};
use crate::resource::bgp::Switch;
use crate::resource::controllers::AssignIps;
use crate::resource::ip_pool::{AllowedUse, AssignmentMode, EncapMode};
use crate::resource::policy::{Action, PolicyType, Rule, StagedAction};
use crate::resource::tier::TierDefaultAction;
use crate::{
    AnyResource, GlobalNetworkPolicySpec, GoDuration, IPPoolSpec, Labels, NetworkPolicySpec, Profile,
    ProfileSpec, StagedGlobalNetworkPolicySpec, StagedKubernetesNetworkPolicySpec, StagedNetworkPolicySpec,
    Tier, TierSpec,
};

/// Name of the tier that policies without a tier belong to.
pub const DEFAULT_TIER: &str = "default";
/// Order of a tier without an order, and of the default tier.
pub const DEFAULT_TIER_ORDER: f64 = 1_000_000.0;
/// Tier of Kubernetes cluster network policies of tier Admin.
pub const KUBE_ADMIN_TIER: &str = "kube-admin";
/// Order of [`KUBE_ADMIN_TIER`].
pub const KUBE_ADMIN_TIER_ORDER: f64 = 1_000.0;
/// Tier of Kubernetes cluster network policies of tier Baseline.
pub const KUBE_BASELINE_TIER: &str = "kube-baseline";
/// Order of [`KUBE_BASELINE_TIER`].
pub const KUBE_BASELINE_TIER_ORDER: f64 = 10_000_000.0;
/// Name of the profile that allows everything and always exists.
pub const DEFAULT_ALLOW_PROFILE: &str = "projectcalico-default-allow";

/// Block size of a pool that gives none: 26 for IPv4, 122 for IPv6.
pub fn block_size(ipv6: bool) -> i32 {
    if ipv6 { 122 } else { 26 }
}

/// The tiers that every cluster has.
pub fn built_in_tiers() -> [Tier; 3] {
    let tier =
        |name: &str, order, default_action| Tier::new(name, TierSpec { order: Some(order), default_action });
    [
        tier(KUBE_ADMIN_TIER, KUBE_ADMIN_TIER_ORDER, TierDefaultAction::Pass),
        tier(DEFAULT_TIER, DEFAULT_TIER_ORDER, TierDefaultAction::Deny),
        tier(KUBE_BASELINE_TIER, KUBE_BASELINE_TIER_ORDER, TierDefaultAction::Pass),
    ]
}

/// The profile [`DEFAULT_ALLOW_PROFILE`].
pub fn default_allow_profile() -> Profile {
    let allow = vec![Rule { action: Action::Allow, ..Rule::default() }];
    let spec = ProfileSpec { ingress: allow.clone(), egress: allow, ..ProfileSpec::default() };
    let mut profile = Profile::new(DEFAULT_ALLOW_PROFILE, spec);
    profile.metadata.resource_version = "1".to_owned();
    profile
}

/// Fills in what a person left out, as the API does on create and update.
///
/// ```
/// use calico_model::{AnyResource, IPPool, IPPoolSpec, defaults};
/// let pool = IPPool::new("blue", IPPoolSpec { cidr: "10.1.0.7/16".into(), ..Default::default() });
/// let mut any = AnyResource::from(pool);
/// defaults::apply(&mut any);
/// let AnyResource::IPPool(pool) = any else { unreachable!() };
/// assert_eq!((pool.spec.cidr.as_str(), pool.spec.block_size), ("10.1.0.7/16", 26));
/// assert_eq!(pool.spec.node_selector, "all()");
/// ```
pub fn apply(resource: &mut AnyResource) {
    match resource {
        AnyResource::NetworkPolicy(p) => {
            let NetworkPolicySpec { tier, types, ingress, egress, .. } = &mut p.spec;
            policy(tier, types, ingress, egress, &mut p.metadata.labels);
        }
        AnyResource::GlobalNetworkPolicy(p) => {
            let GlobalNetworkPolicySpec { tier, types, ingress, egress, .. } = &mut p.spec;
            policy(tier, types, ingress, egress, &mut p.metadata.labels);
        }
        AnyResource::StagedNetworkPolicy(p) => {
            let StagedNetworkPolicySpec { tier, types, ingress, egress, staged_action, .. } = &mut p.spec;
            staged(staged_action);
            if *staged_action == StagedAction::Delete {
                tier_and_label(tier, &mut p.metadata.labels);
            } else {
                policy(tier, types, ingress, egress, &mut p.metadata.labels);
            }
        }
        AnyResource::StagedGlobalNetworkPolicy(p) => {
            let StagedGlobalNetworkPolicySpec { tier, types, ingress, egress, staged_action, .. } =
                &mut p.spec;
            staged(staged_action);
            if *staged_action == StagedAction::Delete {
                tier_and_label(tier, &mut p.metadata.labels);
            } else {
                policy(tier, types, ingress, egress, &mut p.metadata.labels);
            }
        }
        AnyResource::StagedKubernetesNetworkPolicy(p) => {
            let StagedKubernetesNetworkPolicySpec { staged_action, egress, policy_types, .. } = &mut p.spec;
            staged(staged_action);
            if policy_types.is_empty() && *staged_action != StagedAction::Delete {
                policy_types.push(PolicyType::Ingress);
                if !egress.is_empty() {
                    policy_types.push(PolicyType::Egress);
                }
            }
        }
        AnyResource::Tier(t) => on_read_tier(&mut t.spec),
        AnyResource::IPPool(p) => pool(&mut p.spec),
        AnyResource::FelixConfiguration(f) => {
            let spec = &mut f.spec;
            fill(&mut spec.floating_ips, "Disabled");
            // The deprecated switch wins over both of its successors.
            if let Some(on) = spec.bpf_connect_time_load_balancing_enabled {
                let mode = if on { "Enabled" } else { "Disabled" };
                spec.bpf_connect_time_load_balancing = mode.to_owned();
                spec.bpf_host_networked_nat_without_ctlb = "Disabled".to_owned();
            }
            fill(&mut spec.bpf_connect_time_load_balancing, "TCP");
            fill(&mut spec.bpf_host_networked_nat_without_ctlb, "Enabled");
        }
        AnyResource::KubeControllersConfiguration(k) => {
            k.spec.prometheus_metrics_port.get_or_insert(9094);
            if k.spec.health_checks.is_unset() {
                k.spec.health_checks = Switch::Enabled;
            }
            if let Some(node) = &mut k.spec.controllers.node {
                node.leak_grace_period.get_or_insert(GoDuration::from_secs(900));
            }
            if let Some(lb) = &mut k.spec.controllers.load_balancer
                && lb.assign_ips.is_unset()
            {
                lb.assign_ips = AssignIps::AllServices;
            }
        }
        AnyResource::WorkloadEndpoint(w) => {
            let namespace = w.metadata.namespace.clone();
            w.metadata.labels.insert(NAMESPACE_LABEL.to_owned(), namespace);
            w.metadata.labels.insert(ORCHESTRATOR_LABEL.to_owned(), w.spec.orchestrator.clone());
            if w.metadata.name.is_empty()
                && let Ok(name) = crate::names::workload_endpoint_name(&w.spec)
            {
                w.metadata.name = name;
            }
        }
        AnyResource::IPAMConfiguration(c) => {
            c.spec.auto_allocate_blocks.get_or_insert(true);
            c.spec.max_blocks_per_host.get_or_insert(0);
        }
        AnyResource::IPAMConfig(c) => {
            c.spec.auto_allocate_blocks.get_or_insert(true);
        }
        _ => {}
    }
}

/// Fills in what every reader may rely on, although older writers left it out: the tier label of policies, and order
/// and default action of tiers.
pub fn on_read(resource: &mut AnyResource) {
    let kind = resource.kind();
    if kind.is_tiered_policy() {
        let labels = &mut resource.metadata_mut().labels;
        labels.entry(TIER_LABEL.to_owned()).or_insert_with(|| DEFAULT_TIER.to_owned());
    }
    if let AnyResource::Tier(t) = resource {
        on_read_tier(&mut t.spec);
    }
}

fn on_read_tier(spec: &mut TierSpec) {
    spec.order.get_or_insert(DEFAULT_TIER_ORDER);
    if spec.default_action.is_unset() {
        spec.default_action = TierDefaultAction::Deny;
    }
}

fn fill(field: &mut String, default: &str) {
    if field.is_empty() {
        field.push_str(default);
    }
}

fn staged(action: &mut StagedAction) {
    if action.is_unset() {
        *action = StagedAction::Set;
    }
}

fn tier_and_label(tier: &mut String, labels: &mut Labels) {
    fill(tier, DEFAULT_TIER);
    labels.insert(TIER_LABEL.to_owned(), tier.clone());
}

fn policy(
    tier: &mut String,
    types: &mut Vec<PolicyType>,
    ingress: &[Rule],
    egress: &[Rule],
    labels: &mut Labels,
) {
    tier_and_label(tier, labels);
    if types.is_empty() {
        *types = default_types(!ingress.is_empty(), !egress.is_empty());
    }
}

/// Directions of a policy that lists none: those it has rules for, and ingress when it has no rules at all.
pub fn default_types(has_ingress: bool, has_egress: bool) -> Vec<PolicyType> {
    match (has_ingress, has_egress) {
        (_, false) => vec![PolicyType::Ingress],
        (false, true) => vec![PolicyType::Egress],
        (true, true) => vec![PolicyType::Ingress, PolicyType::Egress],
    }
}

fn pool(spec: &mut IPPoolSpec) {
    if spec.block_size == 0 {
        spec.block_size = block_size(spec.cidr.contains(':'));
    }
    for mode in [&mut spec.ipip_mode, &mut spec.vxlan_mode] {
        if mode.is_unset() {
            *mode = EncapMode::Never;
        }
    }
    fill(&mut spec.node_selector, "all()");
    if spec.allowed_uses.is_empty() {
        spec.allowed_uses = vec![AllowedUse::Workload, AllowedUse::Tunnel];
    }
    if spec.assignment_mode.is_unset() {
        spec.assignment_mode = AssignmentMode::Automatic;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NetworkPolicy, StagedNetworkPolicy};

    fn rule() -> Vec<Rule> {
        vec![Rule { action: Action::Allow, ..Rule::default() }]
    }

    #[test]
    fn types_follow_the_rules() {
        use PolicyType::{Egress, Ingress};
        for (ingress, egress, expected) in [
            (vec![], vec![], vec![Ingress]),
            (rule(), vec![], vec![Ingress]),
            (vec![], rule(), vec![Egress]),
            (rule(), rule(), vec![Ingress, Egress]),
        ] {
            let mut any = AnyResource::from(NetworkPolicy::new(
                "a",
                NetworkPolicySpec { ingress, egress, ..Default::default() },
            ));
            apply(&mut any);
            let AnyResource::NetworkPolicy(p) = any else { panic!() };
            assert_eq!(p.spec.types, expected);
            assert_eq!(p.metadata.labels[TIER_LABEL], "default");
            assert_eq!(p.spec.tier, "default");
        }
    }

    #[test]
    fn a_staged_delete_stays_empty() {
        let spec = StagedNetworkPolicySpec {
            staged_action: StagedAction::Delete,
            tier: "a".into(),
            ..Default::default()
        };
        let mut any = AnyResource::from(StagedNetworkPolicy::new("a.b", spec));
        apply(&mut any);
        let AnyResource::StagedNetworkPolicy(p) = &any else { panic!() };
        assert!(p.spec.types.is_empty());
        assert_eq!(p.metadata.labels[TIER_LABEL], "a");
    }

    #[test]
    fn applying_twice_changes_nothing() {
        for any in [
            AnyResource::from(default_allow_profile()),
            AnyResource::from(Tier::new("x", TierSpec::default())),
            AnyResource::from(crate::FelixConfiguration::default()),
            AnyResource::from(crate::KubeControllersConfiguration::default()),
        ] {
            let mut once = any.clone();
            apply(&mut once);
            let mut twice = once.clone();
            apply(&mut twice);
            assert_eq!(once, twice);
        }
    }
}
