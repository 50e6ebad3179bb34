//! Resources that several tests make.

#![allow(dead_code, reason = "each test uses some of them")]

use std::sync::Arc;

use calico_model::{
    Action, AnyResource, EntityRule, NetworkPolicy, NetworkPolicySpec, PolicyType, Port, Profile,
    ProfileSpec, Protocol, Rule, Update, Value,
};

/// The update that stores a resource.
pub(crate) fn put(resource: impl Into<AnyResource>) -> Update {
    let resource = resource.into();
    Update::set(resource.key(), Value::Resource(Arc::new(resource)), 1.into())
}

/// A rule that allows TCP to a port, from a role.
pub(crate) fn allow_from(role: &str, port: u16) -> Rule {
    Rule {
        action: Action::Allow,
        protocol: Some(Protocol::tcp()),
        source: EntityRule { selector: format!("role == '{role}'"), ..EntityRule::default() },
        destination: EntityRule { ports: vec![Port::single(port)], ..EntityRule::default() },
        ..Rule::default()
    }
}

/// An ingress policy.
pub(crate) fn policy(namespace: &str, name: &str, selector: &str, ingress: Vec<Rule>) -> NetworkPolicy {
    let spec = NetworkPolicySpec {
        selector: selector.into(),
        ingress,
        types: vec![PolicyType::Ingress],
        ..NetworkPolicySpec::default()
    };
    NetworkPolicy::new(name, spec).in_namespace(namespace)
}

/// A profile that allows everything.
pub(crate) fn open_profile(name: &str) -> Profile {
    let allow = Rule { action: Action::Allow, ..Rule::default() };
    let spec = ProfileSpec { ingress: vec![allow.clone()], egress: vec![allow], ..ProfileSpec::default() };
    Profile::new(name, spec)
}
