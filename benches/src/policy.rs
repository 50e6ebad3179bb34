//! Clusters for the policy graph: many endpoints, few of them local, many policies.
//!
//! Everything follows from the sizes alone, so two runs see the same updates in the same order.

use std::sync::Arc;

use calico_model::{
    Action, AnyResource, EntityRule, GlobalNetworkSet, GlobalNetworkSetSpec, NetworkPolicy,
    NetworkPolicySpec, PolicyType, Port, Profile, ProfileSpec, Protocol, Rule, Update, Value,
    WorkloadEndpoint, WorkloadEndpointSpec,
};

/// Name of the node that the graph serves.
pub const NODE: &str = "node-0";

/// Sizes of a cluster.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Workload endpoints on all nodes.
    pub endpoints: usize,
    /// How many of them are on [`NODE`].
    pub local: usize,
    /// Policies.
    pub policies: usize,
}

const NAMESPACES: usize = 100;

fn put(resource: impl Into<AnyResource>) -> Update {
    let resource = resource.into();
    Update::set(resource.key(), Value::Resource(Arc::new(resource)), 1.into())
}

/// Profiles, endpoints and policies that select by label and allow from a label: `policies / 10` apps, each of ten roles.
pub fn label_policies(size: Size) -> impl Iterator<Item = Update> {
    let apps = (size.policies / 10).max(1);
    let policies = (0..size.policies).map(move |number| {
        let rule = Rule {
            action: Action::Allow,
            protocol: Some(Protocol::tcp()),
            source: EntityRule {
                selector: format!("app == 'app-{}' && role == 'role-{}'", (number + 1) % apps, number % 10),
                namespace_selector: "all()".into(),
                ..EntityRule::default()
            },
            destination: EntityRule { ports: vec![Port::single(8000)], ..EntityRule::default() },
            ..Rule::default()
        };
        let selector = format!("app == 'app-{}' && role == 'role-{}'", number % apps, number / apps);
        put(policy(number, selector, rule))
    });
    profiles().chain(endpoints(size, apps)).chain(policies)
}

/// Profiles, endpoints, network sets of ten CIDRs each and as many policies that select a hundredth of the endpoints
/// and allow from one set.
pub fn netset_policies(size: Size) -> impl Iterator<Item = Update> {
    let sets = (0..size.policies).map(|number| {
        let nets = (0..10)
            .map(|net| format!("172.{}.{}.{}/30", number / 4096, number / 16 % 256, number % 16 * 16 + net));
        let mut set =
            GlobalNetworkSet::new(format!("set-{number}"), GlobalNetworkSetSpec { nets: nets.collect() });
        set.metadata.labels.insert("net".into(), format!("net-{number}"));
        put(set)
    });
    let policies = (0..size.policies).map(|number| {
        let rule = Rule {
            action: Action::Allow,
            source: EntityRule {
                selector: format!("net == 'net-{number}'"),
                namespace_selector: "global()".into(),
                ..EntityRule::default()
            },
            ..Rule::default()
        };
        put(policy(number, format!("app == 'app-{}'", number % 100), rule))
    });
    profiles().chain(endpoints(size, 100)).chain(sets).chain(policies)
}

/// Removal of the endpoints of [`NODE`].
pub fn without_local(size: Size) -> impl Iterator<Item = Update> {
    (0..size.local).map(move |number| {
        let resource = AnyResource::from(endpoint(size, number, 1));
        Update { key: resource.key(), value: None, revision: 2.into() }
    })
}

fn profiles() -> impl Iterator<Item = Update> {
    (0..NAMESPACES).map(|namespace| {
        let allow = Rule { action: Action::Allow, ..Rule::default() };
        let mut spec =
            ProfileSpec { ingress: vec![allow.clone()], egress: vec![allow], ..ProfileSpec::default() };
        spec.labels_to_apply.insert("pcns.projectcalico.org/name".into(), format!("ns-{namespace}"));
        put(Profile::new(format!("kns.ns-{namespace}"), spec))
    })
}

fn endpoints(size: Size, apps: usize) -> impl Iterator<Item = Update> {
    (0..size.endpoints).map(move |number| put(endpoint(size, number, apps)))
}

/// The first endpoints are local, the others on nodes of as many endpoints each.
fn endpoint(size: Size, number: usize, apps: usize) -> WorkloadEndpoint {
    let node =
        if number < size.local { NODE.to_owned() } else { format!("node-{}", number / size.local.max(1)) };
    let namespace = number % NAMESPACES;
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".into(),
        pod: format!("pod-{number}"),
        endpoint: "eth0".into(),
        interface_name: format!("cali{number:x}"),
        ip_networks: vec![format!("10.{}.{}.{}/32", number >> 16, number >> 8 & 255, number & 255)],
        profiles: vec![format!("kns.ns-{namespace}")],
        node,
        ..WorkloadEndpointSpec::default()
    };
    let name = format!("{}-k8s-pod--{number}-eth0", spec.node.replace('-', "--"));
    let mut endpoint = WorkloadEndpoint::new(name, spec).in_namespace(format!("ns-{namespace}"));
    let labels = &mut endpoint.metadata.labels;
    labels.insert("app".into(), format!("app-{}", number % apps));
    labels.insert("role".into(), format!("role-{}", number / apps % 10));
    labels.insert("instance".into(), format!("instance-{number}"));
    endpoint
}

fn policy(number: usize, selector: String, rule: Rule) -> NetworkPolicy {
    let spec = NetworkPolicySpec {
        order: Some((number % 50) as f64),
        selector,
        ingress: vec![rule],
        types: vec![PolicyType::Ingress],
        ..NetworkPolicySpec::default()
    };
    NetworkPolicy::new(format!("policy-{number}"), spec).in_namespace(format!("ns-{}", number % NAMESPACES))
}
