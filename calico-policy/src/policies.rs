//! Policies of all kinds as the graph keeps them: what they select, where they stand, what they say.

use std::sync::Arc;

use calico_model::AnyResource;
use calico_model::k8s::{self, networking, types};
use calico_model::resource::policy::{PerformanceHint, PolicyType, Rule as ModelRule, StagedAction};
use calico_model::{StagedNetworkPolicy, StagedNetworkPolicySpec};
use calico_selector::Selector;
use calico_selector::compose::{self, Subject};
use calico_selector::labels::NAMESPACE;

use crate::ir::{Direction, Policy, PolicyId, SetId};
use crate::rules::{self, BadField, RuleOptions, SetSource};

/// Name of the tier of policies that name none.
pub const DEFAULT_TIER: &str = "default";

/// Everything about a policy except its rules.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PolicyMeta {
    pub(crate) tier: Arc<str>,
    pub(crate) order: Option<f64>,
    pub(crate) ingress: bool,
    pub(crate) egress: bool,
    pub(crate) class: PolicyClass,
    /// Programmed on every node, even where it selects nothing.
    pub(crate) everywhere: bool,
}

/// To which traffic of an endpoint a policy applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PolicyClass {
    /// Traffic that ends or starts at the endpoint.
    Normal,
    /// That, and traffic forwarded through a host endpoint.
    NormalAndForward,
    /// Host endpoints before destination NAT.
    PreDnat,
    /// Host endpoints before connection tracking.
    Untracked,
}

/// A policy as the graph keeps it.
#[derive(Debug, Clone)]
pub(crate) struct PolicyInput {
    pub(crate) id: PolicyId,
    pub(crate) meta: PolicyMeta,
    pub(crate) subject: Selector,
    /// The resource; `None` when the subject is unreadable and the policy denies everything in its scope.
    resource: Option<Arc<AnyResource>>,
    pub(crate) problems: Vec<BadField>,
}

/// One view of the fields that all kinds of policies share.
pub(crate) struct PolicyView<'a> {
    pub(crate) tier: &'a str,
    pub(crate) order: Option<f64>,
    pub(crate) ingress: &'a [ModelRule],
    pub(crate) egress: &'a [ModelRule],
    pub(crate) selector: &'a str,
    pub(crate) namespace_selector: &'a str,
    pub(crate) service_account_selector: &'a str,
    pub(crate) types: &'a [PolicyType],
    pub(crate) hints: &'a [PerformanceHint],
    pub(crate) do_not_track: bool,
    pub(crate) pre_dnat: bool,
    pub(crate) apply_on_forward: bool,
    staged_action: Option<&'a StagedAction>,
}

macro_rules! view {
    ($resource:expr, $staged:expr, $($global:ident)?) => {{
        let resource = $resource;
        let spec = &resource.spec;
        PolicyView {
            tier: &spec.tier,
            order: spec.order,
            ingress: &spec.ingress,
            egress: &spec.egress,
            selector: &spec.selector,
            service_account_selector: &spec.service_account_selector,
            types: &spec.types,
            hints: &spec.performance_hints,
            staged_action: $staged,
            namespace_selector: view!(@text spec $($global)?),
            do_not_track: view!(@flag spec do_not_track $($global)?),
            pre_dnat: view!(@flag spec pre_dnat $($global)?),
            apply_on_forward: view!(@flag spec apply_on_forward $($global)?),
        }
    }};
    (@text $spec:ident) => { "" };
    (@text $spec:ident global) => { &$spec.namespace_selector };
    (@flag $spec:ident $field:ident) => { false };
    (@flag $spec:ident $field:ident global) => { $spec.$field };
}

impl<'a> PolicyView<'a> {
    /// The view of a policy of any kind; `None` for other resources.
    pub(crate) fn of(resource: &'a AnyResource) -> Option<Self> {
        Some(match resource {
            AnyResource::NetworkPolicy(policy) => view!(policy, None,),
            AnyResource::GlobalNetworkPolicy(policy) => view!(policy, None, global),
            AnyResource::StagedNetworkPolicy(policy) => view!(policy, Some(&policy.spec.staged_action),),
            AnyResource::StagedGlobalNetworkPolicy(policy) => {
                view!(policy, Some(&policy.spec.staged_action), global)
            }
            _ => return None,
        })
    }

    /// True when the policy counts as not there: a staged deletion or one to be ignored.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self.staged_action, Some(StagedAction::Delete | StagedAction::Ignore))
    }

    /// Tier, `default` when none is named.
    pub(crate) fn tier(&self) -> &'a str {
        if self.tier.is_empty() { DEFAULT_TIER } else { self.tier }
    }

    /// True when the policy governs the direction. Types that name no direction govern both.
    pub(crate) fn governs(&self, direction: Direction) -> bool {
        let is = |wanted: &str| self.types.iter().any(|t| t.as_str().eq_ignore_ascii_case(wanted));
        let (ingress, egress) = (is("ingress"), is("egress"));
        let both = !ingress && !egress;
        match direction {
            Direction::Ingress => both || ingress,
            Direction::Egress => (both || egress) && self.class() != PolicyClass::PreDnat,
        }
    }

    /// Which traffic it applies to.
    pub(crate) fn class(&self) -> PolicyClass {
        if self.do_not_track {
            PolicyClass::Untracked
        } else if self.pre_dnat {
            PolicyClass::PreDnat
        } else if self.apply_on_forward {
            PolicyClass::NormalAndForward
        } else {
            PolicyClass::Normal
        }
    }

    fn meta(&self) -> PolicyMeta {
        PolicyMeta {
            tier: self.tier().into(),
            order: self.order,
            ingress: self.governs(Direction::Ingress),
            egress: self.governs(Direction::Egress),
            class: self.class(),
            everywhere: self.hints.contains(&PerformanceHint::AssumeNeededOnEveryNode),
        }
    }
}

impl PolicyInput {
    /// The policy of a resource; `None` for other resources and for policies that count as absent.
    pub(crate) fn of(id: &PolicyId, resource: &Arc<AnyResource>) -> Option<Self> {
        let converted = from_kubernetes(resource);
        let resource = converted.as_ref().unwrap_or(resource);
        let view = PolicyView::of(resource)?;
        if view.is_absent() {
            return None;
        }
        let id = id.clone();
        let subject = Subject {
            selector: view.selector,
            namespace_selector: view.namespace_selector,
            service_account_selector: view.service_account_selector,
        };
        let composed = if id.namespace.is_empty() {
            compose::global_policy_subject(&subject)
        } else {
            compose::network_policy_subject(&subject, &id.namespace)
        };
        let meta = view.meta();
        if composed.problems.is_empty() {
            let subject = composed.selector.unwrap_or_default();
            return Some(Self { id, meta, subject, resource: Some(resource.clone()), problems: Vec::new() });
        }
        let problems = composed.problems.iter().map(|problem| BadField {
            field: "spec".to_owned(),
            reason: format!(
                "{problem}; until then the policy denies the directions it governs {}",
                scope(&id)
            ),
        });
        let problems = problems.collect();
        Some(Self { subject: fallback_subject(&id), id, meta, resource: None, problems })
    }

    /// Compiles the rules; the sets they refer to come along.
    pub(crate) fn compile(&self, options: &RuleOptions) -> (Policy, Vec<(SetId, SetSource)>, Vec<BadField>) {
        let mut sets = Vec::new();
        let mut problems = self.problems.clone();
        let mut list = |direction: Direction, governed: bool| {
            if !governed {
                return Vec::new();
            }
            let Some(view) = self.resource.as_deref().and_then(PolicyView::of) else {
                return rules::deny_all();
            };
            let rules = match direction {
                Direction::Ingress => view.ingress,
                Direction::Egress => view.egress,
            };
            let mut compiled = rules::compile(rules, &self.id.namespace, direction, options);
            sets.append(&mut compiled.sets);
            problems.append(&mut compiled.problems);
            compiled.rules
        };
        let ingress = list(Direction::Ingress, self.meta.ingress);
        let egress = list(Direction::Egress, self.meta.egress);
        sets.sort_by(|a: &(SetId, SetSource), b| a.0.cmp(&b.0));
        sets.dedup_by(|a, b| a.0 == b.0);
        (Policy { id: self.id.clone(), tier: self.meta.tier.clone(), ingress, egress }, sets, problems)
    }

    /// True when nothing but the stored revision can differ.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let spec = |input: &Self| input.resource.clone();
        self.meta == other.meta
            && self.subject == other.subject
            && self.problems == other.problems
            && match (spec(self), spec(other)) {
                (Some(a), Some(b)) => same_rules(&a, &b),
                (a, b) => a.is_none() == b.is_none(),
            }
    }
}

/// A staged Kubernetes policy in the form of a staged network policy; `None` for other resources.
pub(crate) fn from_kubernetes(resource: &AnyResource) -> Option<Arc<AnyResource>> {
    let AnyResource::StagedKubernetesNetworkPolicy(staged) = resource else { return None };
    let spec = &staged.spec;
    let policy = types::NetworkPolicy {
        metadata: types::Meta {
            name: staged.metadata.name.clone(),
            namespace: staged.metadata.namespace.clone(),
            ..types::Meta::default()
        },
        spec: networking::NetworkPolicySpec {
            pod_selector: spec.pod_selector.clone(),
            ingress: spec.ingress.clone(),
            egress: spec.egress.clone(),
            policy_types: spec.policy_types.iter().map(|t| t.as_str().to_owned()).collect(),
        },
    };
    let converted = k8s::policy::convert(&policy).object;
    let spec = StagedNetworkPolicySpec {
        staged_action: spec.staged_action.clone(),
        tier: converted.spec.tier,
        order: converted.spec.order,
        ingress: converted.spec.ingress,
        egress: converted.spec.egress,
        selector: converted.spec.selector,
        types: converted.spec.types,
        ..StagedNetworkPolicySpec::default()
    };
    let staged =
        StagedNetworkPolicy { metadata: staged.metadata.clone(), spec, ..StagedNetworkPolicy::default() };
    Some(Arc::new(AnyResource::from(staged)))
}

fn same_rules(a: &AnyResource, b: &AnyResource) -> bool {
    match (PolicyView::of(a), PolicyView::of(b)) {
        (Some(a), Some(b)) => a.ingress == b.ingress && a.egress == b.egress,
        _ => false,
    }
}

/// What a policy with an unreadable subject applies to: it must not fail open, so it denies in its whole scope.
/// Host endpoints stay out of it, lest a typing error in a global policy cut off every node at once.
pub(crate) fn fallback_subject(id: &PolicyId) -> Selector {
    let text = if id.namespace.is_empty() {
        format!("has({NAMESPACE})")
    } else {
        format!("{NAMESPACE} == '{}'", id.namespace)
    };
    Selector::parse(&text).unwrap_or_default()
}

fn scope(id: &PolicyId) -> String {
    if id.namespace.is_empty() {
        "for every workload".to_owned()
    } else {
        format!("for every workload of namespace {}", id.namespace)
    }
}
