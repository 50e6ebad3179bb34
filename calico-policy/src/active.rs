//! Which policies and profiles matter on this node, and what its endpoints are told.
//!
//! A policy matters while its selector matches a local endpoint. Only then are its rules compiled and its sets in
//! use. Everything here is lazy: updates mark what they may have changed, a flush looks at the marks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_model::{AnyResource, Profile as ModelProfile};
use calico_selector::MatchIndex;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::changes::{HostEndpoint, TierPolicies, WorkloadEndpoint, WorkloadEndpointId};
use crate::endpoints::{HostStages, Labelled, host_output, workload_output};
use crate::ir::{Direction, Policy, PolicyId, Profile};
use crate::order::TierOrder;
use crate::outbox::Outbox;
use crate::policies::{PolicyClass, PolicyInput};
use crate::problems::Problems;
use crate::resolver::{Applied, PolicyNumber, Ranks, Resolver, Tiers};
use crate::rules::{self, RuleOptions};
use crate::sets::{ItemId, Sets};

#[derive(Debug)]
struct Entry {
    input: PolicyInput,
    node: u32,
    /// What the compiled rules hold; `None` while the policy does not matter.
    compiled: Option<Held>,
    /// The rules changed since they were compiled.
    stale: bool,
}

/// What a policy in use holds on to.
#[derive(Debug)]
struct Held {
    sets: Vec<u32>,
    tier: Arc<str>,
}

#[derive(Debug)]
struct Local {
    resource: Arc<AnyResource>,
    profiles: Vec<Arc<str>>,
}

#[derive(Debug, Default)]
struct ProfileEntry {
    /// Local endpoints that name it.
    users: FxHashSet<ItemId>,
    model: Option<Arc<AnyResource>>,
    compiled: Option<Vec<u32>>,
    stale: bool,
}

/// Policies, profiles, tiers and local endpoints.
#[derive(Debug, Default)]
pub(crate) struct Active {
    options: RuleOptions,
    index: MatchIndex<u32, ItemId, Arc<str>>,
    /// Policies with one subject selector.
    nodes: FxHashMap<u32, Vec<PolicyNumber>>,
    node_by_selector: FxHashMap<Box<str>, u32>,
    policies: FxHashMap<PolicyNumber, Entry>,
    numbers: FxHashMap<PolicyId, PolicyNumber>,
    next: PolicyNumber,
    next_node: u32,
    profiles: FxHashMap<Arc<str>, ProfileEntry>,
    tiers: Tiers,
    ranks: Ranks,
    resolver: Resolver,
    locals: FxHashMap<ItemId, Local>,
    spoofing_allowed: bool,

    touched_policies: BTreeSet<PolicyNumber>,
    touched_profiles: BTreeSet<Arc<str>>,
    dirty: FxHashSet<ItemId>,
    /// How many policies in use name each tier, to report tiers without an object.
    tier_users: BTreeMap<Arc<str>, u32>,
    tiers_touched: bool,

    policies_out: Outbox<PolicyId, Arc<Policy>>,
    profiles_out: Outbox<Arc<str>, Arc<Profile>>,
    workloads_out: Outbox<WorkloadEndpointId, Arc<WorkloadEndpoint>>,
    hosts_out: Outbox<Arc<str>, Arc<HostEndpoint>>,
    /// Under which identity a local workload endpoint was announced.
    announced: FxHashMap<ItemId, WorkloadEndpointId>,
    announced_hosts: FxHashMap<ItemId, Arc<str>>,
}

/// The part of [`crate::Changes`] that this node of the graph fills.
#[derive(Debug, Default)]
pub(crate) struct ActiveChanges {
    pub(crate) policies: Vec<Arc<Policy>>,
    pub(crate) profiles: Vec<Arc<Profile>>,
    pub(crate) workload_endpoints: Vec<Arc<WorkloadEndpoint>>,
    pub(crate) host_endpoints: Vec<Arc<HostEndpoint>>,
    pub(crate) removed_workload_endpoints: Vec<WorkloadEndpointId>,
    pub(crate) removed_host_endpoints: Vec<Arc<str>>,
    pub(crate) removed_profiles: Vec<Arc<str>>,
    pub(crate) removed_policies: Vec<PolicyId>,
}

impl Active {
    pub(crate) fn new(options: RuleOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// Adds, replaces or removes a policy.
    pub(crate) fn set_policy(&mut self, id: PolicyId, input: Option<PolicyInput>) {
        let known = self.numbers.get(&id).copied();
        if let (Some(number), Some(input)) = (known, &input)
            && let Some(entry) = self.policies.get_mut(&number)
        {
            if entry.input.same_as(input) {
                entry.input = input.clone();
                return;
            }
            let moved = entry.input.meta != input.meta || entry.input.subject != input.subject;
            if !moved {
                entry.input = input.clone();
                entry.stale = true;
                self.touched_policies.insert(number);
                return;
            }
        }
        // A policy that moves becomes another one under the same name.
        if let Some(number) = known {
            self.dirty
                .extend(self.policies.get(&number).into_iter().flat_map(|e| self.index.items_of(&e.node)));
            self.detach(number);
            if let Some(entry) = self.policies.get_mut(&number) {
                entry.stale = true;
            }
        }
        match input {
            Some(input) => {
                let number = known.unwrap_or_else(|| {
                    self.next += 1;
                    self.next
                });
                let compiled = self.policies.remove(&number).and_then(|old| old.compiled);
                self.ranks.insert(number, input.meta.order, &id);
                let node = self.attach(number, &input);
                self.policies.insert(number, Entry { input, node, compiled, stale: true });
                self.numbers.insert(id, number);
                self.dirty.extend(self.index.items_of(&node));
                self.touched_policies.insert(number);
            }
            None => {
                if let Some(number) = self.numbers.remove(&id) {
                    self.touched_policies.insert(number);
                }
            }
        }
    }

    /// Files the policy under its subject selector.
    fn attach(&mut self, number: PolicyNumber, input: &PolicyInput) -> u32 {
        if let Some(node) = self.node_by_selector.get(input.subject.id()) {
            self.nodes.entry(*node).or_default().push(number);
            return *node;
        }
        let node = self.next_node;
        self.next_node += 1;
        self.node_by_selector.insert(input.subject.id().into(), node);
        self.nodes.insert(node, vec![number]);
        self.index.set_selector(&node, &input.subject, |_, _, _| {});
        node
    }

    fn detach(&mut self, number: PolicyNumber) {
        let Some(entry) = self.policies.get(&number) else { return };
        let (order, id) = (entry.input.meta.order, entry.input.id.clone());
        self.ranks.remove(number, order, &id);
        let Some(others) = self.nodes.get_mut(&entry.node) else { return };
        others.retain(|other| *other != number);
        if others.is_empty() {
            self.nodes.remove(&entry.node);
            self.node_by_selector.remove(entry.input.subject.id());
            self.index.remove_selector(&entry.node, |_, _, _| {});
        }
    }

    /// Adds, replaces or removes a tier.
    pub(crate) fn set_tier(&mut self, name: &str, tier: Option<TierOrder>) {
        let name: Arc<str> = name.into();
        let before = self.tiers.get(&name);
        self.tiers.set(&name, tier);
        self.tiers_touched = true;
        if self.tiers.get(&name) != before {
            self.dirty.extend(self.locals.keys());
        }
    }

    /// Adds, replaces or removes a profile's rules and labels.
    pub(crate) fn set_profile(&mut self, name: &Arc<str>, profile: Option<Arc<AnyResource>>) {
        let mut touched = FxHashSet::default();
        let heard = |node: &u32, item: &ItemId| {
            touched.insert((*node, *item));
        };
        let labels = profile.as_deref().and_then(as_profile).map(profile_labels);
        Self::set_parent(&mut self.index, name, labels, heard);
        self.on_matches(touched);
        let entry = self.profiles.entry(name.clone()).or_default();
        entry.model = profile;
        entry.stale = true;
        self.touched_profiles.insert(name.clone());
    }

    fn set_parent<'a>(
        index: &mut MatchIndex<u32, ItemId, Arc<str>>,
        name: &Arc<str>,
        labels: Option<impl Iterator<Item = (&'a str, &'a str)>>,
        mut heard: impl FnMut(&u32, &ItemId),
    ) {
        match labels {
            Some(labels) => index.set_parent(name, labels, |node, item, _| heard(node, item)),
            None => index.remove_parent(name, |node, item, _| heard(node, item)),
        }
    }

    /// Adds or replaces an endpoint of this node.
    pub(crate) fn set_local(&mut self, item: ItemId, resource: &Arc<AnyResource>, labelled: &Labelled<'_>) {
        let mut touched = FxHashSet::default();
        self.index.set_item(&item, labelled.labels.iter().copied(), &labelled.parents, |node, item, _| {
            touched.insert((*node, *item));
        });
        self.on_matches(touched);
        let profiles = labelled.parents.clone();
        for name in &profiles {
            let entry = self.profiles.entry(name.clone()).or_default();
            if entry.users.insert(item) {
                self.touched_profiles.insert(name.clone());
            }
        }
        let local = Local { resource: resource.clone(), profiles };
        let old = self.locals.insert(item, local);
        let left = old.into_iter().flat_map(|old| old.profiles).filter(|p| !labelled.parents.contains(p));
        self.leave_profiles(item, left);
        self.dirty.insert(item);
    }

    /// Forgets an endpoint of this node, or hears that it is not (any more) of this node.
    pub(crate) fn remove_local(&mut self, item: ItemId) {
        let Some(old) = self.locals.remove(&item) else { return };
        let mut touched = FxHashSet::default();
        self.index.remove_item(&item, |node, item, _| {
            touched.insert((*node, *item));
        });
        self.on_matches(touched);
        self.leave_profiles(item, old.profiles.into_iter());
        self.dirty.insert(item);
    }

    fn leave_profiles(&mut self, item: ItemId, left: impl Iterator<Item = Arc<str>>) {
        for name in left {
            if let Some(entry) = self.profiles.get_mut(&name) {
                entry.users.remove(&item);
                self.touched_profiles.insert(name);
            }
        }
    }

    /// Whether workloads may use source addresses of `allowSpoofedSourcePrefixes`.
    pub(crate) fn set_spoofing_allowed(&mut self, allowed: bool) {
        if self.spoofing_allowed != allowed {
            self.spoofing_allowed = allowed;
            self.dirty.extend(self.locals.keys());
        }
    }

    fn on_matches(&mut self, touched: FxHashSet<(u32, ItemId)>) {
        for (node, item) in touched {
            self.dirty.insert(item);
            self.touched_policies.extend(self.nodes.get(&node).into_iter().flatten());
        }
    }

    /// Compiles what came into use, lets go of what went out of it, and recomputes marked endpoints.
    pub(crate) fn flush(&mut self, sets: &mut Sets, problems: &mut Problems) -> ActiveChanges {
        for number in std::mem::take(&mut self.touched_policies) {
            self.refresh_policy(number, sets, problems);
        }
        for name in std::mem::take(&mut self.touched_profiles) {
            self.refresh_profile(&name, sets, problems);
        }
        if std::mem::take(&mut self.tiers_touched) {
            self.report_tiers(problems);
        }
        for item in std::mem::take(&mut self.dirty) {
            self.refresh_endpoint(item);
        }
        self.resolver.forget_unused();
        let (policies, removed_policies) = self.policies_out.flush();
        let (profiles, removed_profiles) = self.profiles_out.flush();
        let (workload_endpoints, removed_workload_endpoints) = self.workloads_out.flush();
        let (host_endpoints, removed_host_endpoints) = self.hosts_out.flush();
        ActiveChanges {
            policies,
            profiles,
            workload_endpoints,
            host_endpoints,
            removed_workload_endpoints,
            removed_host_endpoints,
            removed_profiles,
            removed_policies,
        }
    }

    fn refresh_policy(&mut self, number: PolicyNumber, sets: &mut Sets, problems: &mut Problems) {
        let Some(entry) = self.policies.get_mut(&number) else { return };
        let id = entry.input.id.clone();
        let exists = self.numbers.get(&id) == Some(&number);
        let matched = exists && self.index.item_count_of(&entry.node).is_some_and(|count| count > 0);
        let wanted = matched || (exists && entry.input.meta.everywhere);
        if wanted && (entry.stale || entry.compiled.is_none()) {
            let (policy, sources, bad) = entry.input.compile(&self.options);
            let sets_held = sources.iter().map(|(id, source)| sets.acquire(id, source)).collect();
            let held = Held { sets: sets_held, tier: policy.tier.clone() };
            *self.tier_users.entry(held.tier.clone()).or_default() += 1;
            let old = entry.compiled.replace(held);
            entry.stale = false;
            problems.set(&object_name(&id), bad);
            self.let_go(old, sets);
            self.policies_out.set(id, Some(Arc::new(policy)));
        } else if !wanted {
            let old = entry.compiled.take();
            problems.set(&object_name(&id), if exists { entry.input.problems.clone() } else { Vec::new() });
            self.let_go(old, sets);
            self.policies_out.set(id, None);
        }
        if !exists {
            self.policies.remove(&number);
        }
    }

    fn let_go(&mut self, held: Option<Held>, sets: &mut Sets) {
        self.tiers_touched = true;
        let Some(held) = held else { return };
        if let Some(users) = self.tier_users.get_mut(&held.tier) {
            *users -= 1;
            if *users == 0 {
                self.tier_users.remove(&held.tier);
            }
        }
        release(Some(held.sets), sets);
    }

    fn refresh_profile(&mut self, name: &Arc<str>, sets: &mut Sets, problems: &mut Problems) {
        let Some(entry) = self.profiles.get_mut(name) else { return };
        let object = format!("Profile/{name}");
        if entry.users.is_empty() {
            release(entry.compiled.take(), sets);
            self.profiles_out.set(name.clone(), None);
            problems.set(&object, Vec::new());
            if entry.model.is_none() {
                self.profiles.remove(name);
            }
            return;
        }
        if entry.compiled.is_some() && !entry.stale {
            return;
        }
        entry.stale = false;
        let (profile, sources, bad) = match entry.model.as_deref().and_then(as_profile) {
            Some(model) => compile_profile(name, model, &self.options),
            None => (missing_profile(name), Vec::new(), vec![missing_profile_problem()]),
        };
        let held = sources.iter().map(|(id, source)| sets.acquire(id, source)).collect();
        release(entry.compiled.replace(held), sets);
        self.profiles_out.set(name.clone(), Some(Arc::new(profile)));
        problems.set(&object, bad);
    }

    fn report_tiers(&self, problems: &mut Problems) {
        let missing = self.tier_users.keys().filter(|tier| !self.tiers.exists(tier));
        problems.set_class("Tier/", missing.map(|tier| {
            let reason = "policies name this tier but it does not exist; they apply after all other tiers \
                          and what they leave undecided is denied";
            (tier.to_string(), vec![rules::BadField { field: "metadata.name".into(), reason: reason.into() }])
        }));
    }

    fn refresh_endpoint(&mut self, item: ItemId) {
        match self.locals.get(&item).map(|local| local.resource.clone()).as_deref() {
            Some(AnyResource::WorkloadEndpoint(endpoint)) => {
                let tiers = self.tiers_of(item, Stage::Normal);
                let output =
                    workload_output(&endpoint.metadata, &endpoint.spec, tiers, self.spoofing_allowed);
                let id = output.as_ref().map(|output| output.id.clone());
                let old = match &id {
                    Some(id) => self.announced.insert(item, id.clone()),
                    None => self.announced.remove(&item),
                };
                if let Some(old) = old.filter(|old| Some(old) != id.as_ref()) {
                    self.workloads_out.set(old, None);
                }
                if let (Some(id), Some(output)) = (id, output) {
                    self.workloads_out.set(id, Some(Arc::new(output)));
                }
            }
            Some(AnyResource::HostEndpoint(endpoint)) => {
                // Without an interface of its own an endpoint cannot be policed before connection tracking.
                let untracked = if endpoint.spec.interface_name == "*" {
                    Arc::default()
                } else {
                    self.tiers_of(item, Stage::Untracked)
                };
                let stages = HostStages {
                    normal: self.tiers_of(item, Stage::Normal),
                    forward: self.tiers_of(item, Stage::Forward),
                    untracked,
                    pre_dnat: self.tiers_of(item, Stage::PreDnat),
                };
                let output = host_output(&endpoint.metadata, &endpoint.spec, stages);
                self.announced_hosts.insert(item, output.name.clone());
                self.hosts_out.set(output.name.clone(), Some(Arc::new(output)));
            }
            _ => {
                if let Some(id) = self.announced.remove(&item) {
                    self.workloads_out.set(id, None);
                }
                if let Some(name) = self.announced_hosts.remove(&item) {
                    self.hosts_out.set(name, None);
                }
            }
        }
    }

    fn tiers_of(&mut self, item: ItemId, stage: Stage) -> Arc<[TierPolicies]> {
        let numbers = self.index.selectors_of(&item).filter_map(|node| self.nodes.get(node)).flatten();
        let entries = numbers.filter_map(|number| Some((*number, &self.policies.get(number)?.input)));
        let applied: Vec<Applied<'_>> = entries
            .filter(|(_, input)| stage.takes(input.meta.class) && (input.meta.ingress || input.meta.egress))
            .map(|(number, input)| Applied {
                number,
                id: &input.id,
                tier: &input.meta.tier,
                ingress: input.meta.ingress,
                egress: input.meta.egress,
            })
            .collect();
        let always_pass = matches!(stage, Stage::Untracked | Stage::PreDnat);
        self.resolver.resolve(&mut self.tiers, &self.ranks, &applied, always_pass)
    }
}

/// Which list of an endpoint.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Normal,
    Forward,
    Untracked,
    PreDnat,
}

impl Stage {
    fn takes(self, class: PolicyClass) -> bool {
        match self {
            Self::Normal => matches!(class, PolicyClass::Normal | PolicyClass::NormalAndForward),
            Self::Forward => class == PolicyClass::NormalAndForward,
            Self::Untracked => class == PolicyClass::Untracked,
            Self::PreDnat => class == PolicyClass::PreDnat,
        }
    }
}

fn release(held: Option<Vec<u32>>, sets: &mut Sets) {
    for set in held.into_iter().flatten() {
        sets.release(set);
    }
}

/// `Kind/namespace/name` or `Kind/name`.
fn object_name(id: &PolicyId) -> String {
    let kind = crate::order::kind_name(id.kind);
    if id.namespace.is_empty() {
        format!("{kind}/{}", id.name)
    } else {
        format!("{kind}/{}/{}", id.namespace, id.name)
    }
}

pub(crate) fn as_profile(resource: &AnyResource) -> Option<&ModelProfile> {
    match resource {
        AnyResource::Profile(profile) => Some(profile),
        _ => None,
    }
}

/// Labels that endpoints inherit from a profile.
pub(crate) fn profile_labels(profile: &ModelProfile) -> impl Iterator<Item = (&str, &str)> {
    profile.spec.labels_to_apply.iter().map(|(k, v)| (k.as_str(), v.as_str()))
}

type CompiledProfile = (Profile, Vec<(crate::ir::SetId, rules::SetSource)>, Vec<rules::BadField>);

fn compile_profile(name: &Arc<str>, model: &ModelProfile, options: &RuleOptions) -> CompiledProfile {
    let mut ingress = rules::compile(&model.spec.ingress, "", Direction::Ingress, options);
    let mut egress = rules::compile(&model.spec.egress, "", Direction::Egress, options);
    ingress.sets.append(&mut egress.sets);
    ingress.problems.append(&mut egress.problems);
    ingress.sets.sort_by(|a, b| a.0.cmp(&b.0));
    ingress.sets.dedup_by(|a, b| a.0 == b.0);
    let profile = Profile { name: name.clone(), ingress: ingress.rules, egress: egress.rules };
    (profile, ingress.sets, ingress.problems)
}

/// What stands in for a profile that an endpoint names but that does not exist.
fn missing_profile(name: &Arc<str>) -> Profile {
    Profile { name: name.clone(), ingress: rules::deny_all(), egress: rules::deny_all() }
}

fn missing_profile_problem() -> rules::BadField {
    rules::BadField {
        field: "metadata.name".into(),
        reason: "endpoints name this profile but it does not exist; it denies until it arrives".into(),
    }
}
