//! Policies, tiers and profiles.

use serde::Serialize;
use serde_json::Value as Json;

use crate::defaults::{
    DEFAULT_TIER, DEFAULT_TIER_ORDER, KUBE_ADMIN_TIER, KUBE_ADMIN_TIER_ORDER, KUBE_BASELINE_TIER,
    KUBE_BASELINE_TIER_ORDER,
};
use crate::k8s;
use crate::resource::policy::{
    GlobalNetworkPolicySpec, NetworkPolicySpec, PerformanceHint, PolicyType, ProfileSpec, StagedAction,
    StagedGlobalNetworkPolicySpec, StagedNetworkPolicySpec,
};
use crate::resource::tier::TierDefaultAction;
use crate::{StagedKubernetesNetworkPolicy, Tier};

use super::rule::{Place, rules};
use super::{Check, meta};

/// What every policy kind shares.
struct Shared<'a> {
    tier: &'a str,
    order: Option<f64>,
    types: &'a [PolicyType],
    selector: &'a str,
    service_account_selector: &'a str,
    performance_hints: &'a [PerformanceHint],
}

fn shared(c: &mut Check, s: &Shared<'_>) {
    if !s.tier.is_empty() && !meta::is_tier_name(s.tier) {
        c.field("tier", |c| c.bad(s.tier, "is not the name of a tier"));
    }
    order(c, s.order);
    c.plain_selector("selector", s.selector);
    c.distinct("types", s.types);
    c.each("types", s.types, |c, t| {
        if !t.is_known() {
            c.bad(t, "must be Ingress or Egress");
        }
    });
    c.plain_selector("serviceAccountSelector", s.service_account_selector);
    c.distinct("performanceHints", s.performance_hints);
    c.each("performanceHints", s.performance_hints, |c, h| {
        if !h.is_known() {
            c.bad(h, format!("must be one of {}", PerformanceHint::KNOWN.join(", ")));
        }
    });
}

fn order(c: &mut Check, order: Option<f64>) {
    if order.is_some_and(|o| !o.is_finite()) {
        c.field("order", |c| c.problem("must be a finite number"));
    }
}

pub(super) fn network_policy(c: &mut Check, s: &NetworkPolicySpec) {
    let NetworkPolicySpec {
        tier,
        order,
        ingress,
        egress,
        selector,
        types,
        service_account_selector,
        performance_hints,
    } = s;
    let order = *order;
    shared(c, &Shared { tier, order, types, selector, service_account_selector, performance_hints });
    rules(c, "ingress", ingress, true, Place::Namespaced);
    rules(c, "egress", egress, false, Place::Namespaced);
}

pub(super) fn global_policy(c: &mut Check, s: &GlobalNetworkPolicySpec) {
    let GlobalNetworkPolicySpec {
        tier,
        order,
        ingress,
        egress,
        selector,
        types,
        do_not_track,
        pre_dnat,
        apply_on_forward,
        service_account_selector,
        namespace_selector,
        performance_hints,
    } = s;
    let order = *order;
    shared(c, &Shared { tier, order, types, selector, service_account_selector, performance_hints });
    c.plain_selector("namespaceSelector", namespace_selector);
    if *do_not_track && *pre_dnat {
        c.field("preDNAT", |c| c.problem("cannot be combined with doNotTrack"));
    }
    if *pre_dnat && !egress.is_empty() {
        c.field("egress", |c| c.problem("must be empty in a preDNAT policy"));
    }
    if *pre_dnat && types.contains(&PolicyType::Egress) {
        c.field("types", |c| c.problem("must not contain Egress in a preDNAT policy"));
    }
    if (*do_not_track || *pre_dnat) && !*apply_on_forward {
        let which = if *pre_dnat { "preDNAT" } else { "doNotTrack" };
        c.field("applyOnForward", |c| c.problem(format!("must be true when {which} is")));
    }
    rules(c, "ingress", ingress, true, Place::Global);
    rules(c, "egress", egress, false, Place::Global);
}

/// The request to delete a policy says which one, and nothing else.
fn only_deletes(c: &mut Check, spec: &impl Serialize) {
    let Ok(Json::Object(fields)) = serde_json::to_value(spec) else { return };
    for name in fields.keys().filter(|name| !["stagedAction", "tier"].contains(&name.as_str())) {
        c.field(name, |c| c.problem("must be absent when stagedAction is Delete"));
    }
}

fn staged_action(c: &mut Check, action: &StagedAction) {
    c.known("stagedAction", action.as_str(), StagedAction::KNOWN);
}

pub(super) fn staged_policy(c: &mut Check, s: &StagedNetworkPolicySpec) {
    staged_action(c, &s.staged_action);
    if s.staged_action == StagedAction::Delete {
        only_deletes(c, s);
        return;
    }
    network_policy(c, &s.enforced());
}

pub(super) fn staged_global_policy(c: &mut Check, s: &StagedGlobalNetworkPolicySpec) {
    staged_action(c, &s.staged_action);
    if s.staged_action == StagedAction::Delete {
        only_deletes(c, s);
        return;
    }
    global_policy(c, &s.enforced());
}

pub(super) fn staged_kubernetes_policy(c: &mut Check, p: &StagedKubernetesNetworkPolicy) {
    let s = &p.spec;
    c.field("spec", |c| {
        staged_action(c, &s.staged_action);
        if s.staged_action == StagedAction::Delete {
            only_deletes(c, s);
            return;
        }
        c.each("policyTypes", &s.policy_types, |c, t| {
            if !t.is_known() {
                c.bad(t, "must be Ingress or Egress");
            }
        });
        c.distinct("policyTypes", &s.policy_types);
    });
    if s.staged_action != StagedAction::Delete {
        let converted = k8s::policy::convert(&k8s::policy::of_staged(p));
        c.adopt(converted.problems);
    }
}

pub(super) fn profile(c: &mut Check, s: &ProfileSpec) {
    rules(c, "ingress", &s.ingress, true, Place::Profile);
    rules(c, "egress", &s.egress, false, Place::Profile);
    c.field("labelsToApply", |c| {
        for (key, value) in &s.labels_to_apply {
            if !meta::is_qualified_name(key) {
                c.entry(key, |c| c.problem("the key must have the form [prefix/]name"));
            }
            if !meta::is_label_value(value) {
                c.entry(key, |c| c.bad(value, "is not the value of a label"));
            }
        }
    });
}

pub(super) fn tier(c: &mut Check, t: &Tier) {
    let fixed = match t.metadata.name.as_str() {
        DEFAULT_TIER => Some((DEFAULT_TIER_ORDER, TierDefaultAction::Deny)),
        KUBE_ADMIN_TIER => Some((KUBE_ADMIN_TIER_ORDER, TierDefaultAction::Pass)),
        KUBE_BASELINE_TIER => Some((KUBE_BASELINE_TIER_ORDER, TierDefaultAction::Pass)),
        _ => None,
    };
    c.field("spec", |c| {
        order(c, t.spec.order);
        c.known("defaultAction", t.spec.default_action.as_str(), TierDefaultAction::KNOWN);
        let Some((order, action)) = fixed else { return };
        if t.spec.order.is_some_and(|o| o != order) {
            c.field("order", |c| c.problem(format!("must be {order} in the tier {}", t.metadata.name)));
        }
        if t.spec.default_action.is_known() && t.spec.default_action != action {
            c.field("defaultAction", |c| {
                c.problem(format!("must be {action} in the tier {}", t.metadata.name))
            });
        }
    });
}
