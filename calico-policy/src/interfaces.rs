//! Which host endpoint polices which interface of the node (`policy.md` §3.1).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::changes::HostEndpoint;

/// The endpoints of the interfaces of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Endpoint name by interface.
    pub by_interface: BTreeMap<String, Arc<str>>,
    /// The endpoint with interface `*`, which stands for every interface that no other endpoint has.
    pub any: Option<Arc<str>>,
    /// Endpoints of which no interface is there, sorted.
    pub unresolved: Vec<Arc<str>>,
}

impl Claims {
    /// The endpoint that polices an interface.
    pub fn endpoint_of(&self, interface: &str) -> Option<&Arc<str>> {
        self.by_interface.get(interface).or(self.any.as_ref())
    }
}

/// Finds the endpoint of each interface. `interfaces` are the names, workload interfaces left out, with their addresses.
///
/// An endpoint claims an interface by its name or, when it names none, by any of its expected addresses. Of several
/// endpoints the first by name wins.
///
/// ```
/// use calico_policy::interfaces::claim;
/// let claims = claim([], [("eth0", &["10.0.0.1".parse().unwrap()][..])]);
/// assert_eq!(claims.endpoint_of("eth0"), None);
/// ```
pub fn claim<'a>(
    endpoints: impl IntoIterator<Item = &'a HostEndpoint>,
    interfaces: impl IntoIterator<Item = (&'a str, &'a [IpAddr])>,
) -> Claims {
    let mut sorted: Vec<&HostEndpoint> = endpoints.into_iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut claims = Claims {
        any: sorted.iter().find(|endpoint| &*endpoint.interface == "*").map(|endpoint| endpoint.name.clone()),
        ..Claims::default()
    };
    for (name, addresses) in interfaces {
        let claims_it = |endpoint: &&&HostEndpoint| match &*endpoint.interface {
            "*" => false,
            "" => endpoint.expected_ips.iter().any(|addr| addresses.contains(addr)),
            interface => interface == name,
        };
        if let Some(endpoint) = sorted.iter().find(claims_it) {
            claims.by_interface.insert(name.to_owned(), endpoint.name.clone());
        }
    }
    let resolved = |endpoint: &HostEndpoint| {
        claims.by_interface.values().chain(&claims.any).any(|name| *name == endpoint.name)
    };
    claims.unresolved = sorted.iter().filter(|e| !resolved(e)).map(|e| e.name.clone()).collect();
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, interface: &str, addr: &str) -> HostEndpoint {
        HostEndpoint {
            name: name.into(),
            interface: interface.into(),
            expected_ips: addr.parse().into_iter().collect(),
            normal: Arc::default(),
            forward: Arc::default(),
            untracked: Arc::default(),
            pre_dnat: Arc::default(),
            profiles: Arc::default(),
            dscp: None,
        }
    }

    #[test]
    fn names_come_before_addresses_of_nobody_and_the_first_endpoint_wins() {
        let endpoints = [
            endpoint("b", "eth0", ""),
            endpoint("a", "", "10.0.0.1"),
            endpoint("c", "eth1", "10.0.0.1"),
            endpoint("d", "eth9", "10.0.0.1"),
            endpoint("y", "*", ""),
            endpoint("x", "*", ""),
        ];
        let addr: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap()];
        let claims = claim(&endpoints, [("eth0", &addr[..]), ("eth1", &[]), ("eth2", &[])]);
        let shown: Vec<String> = claims.by_interface.iter().map(|(i, e)| format!("{i} {e}")).collect();
        assert_eq!(shown, ["eth0 a", "eth1 c"], "an endpoint with a name never matches by address");
        assert_eq!(claims.any.as_deref(), Some("x"));
        assert_eq!(claims.endpoint_of("eth2").map(|e| &**e), Some("x"));
        assert_eq!(claims.unresolved.iter().map(|e| &**e).collect::<Vec<_>>(), ["b", "d", "y"]);
    }
}
