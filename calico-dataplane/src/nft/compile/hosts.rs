//! Which host endpoint polices which interface, and at which stages.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_policy::changes::{HostEndpoint, TierPolicies};
use calico_policy::ir::Direction;

use super::chains::Stage;
use crate::driver::InterfaceState;

/// A stage and direction at which host endpoints police packets; each has a verdict map of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum HostSlot {
    /// Before connection tracking, arriving.
    UntrackedIn,
    /// Before connection tracking, leaving.
    UntrackedOut,
    /// Before destination NAT.
    PreDnat,
    /// Forwarded, arriving.
    ForwardIn,
    /// Forwarded, leaving.
    ForwardOut,
    /// To the host.
    In,
    /// From the host.
    Out,
}

impl HostSlot {
    pub(super) const ALL: [Self; 7] = [
        Self::UntrackedIn,
        Self::UntrackedOut,
        Self::PreDnat,
        Self::ForwardIn,
        Self::ForwardOut,
        Self::In,
        Self::Out,
    ];

    /// Name of the verdict map.
    pub(super) fn map(self) -> &'static str {
        match self {
            Self::UntrackedIn => "cali-from-hep-untracked",
            Self::UntrackedOut => "cali-to-hep-untracked",
            Self::PreDnat => "cali-from-hep-pre-dnat",
            Self::ForwardIn => "cali-from-hep-forward",
            Self::ForwardOut => "cali-to-hep-forward",
            Self::In => "cali-from-host-endpoint",
            Self::Out => "cali-to-host-endpoint",
        }
    }

    pub(super) fn stage(self) -> Stage {
        match self {
            Self::UntrackedIn | Self::UntrackedOut => Stage::Untracked,
            Self::PreDnat => Stage::PreDnat,
            Self::ForwardIn | Self::ForwardOut => Stage::HostForward,
            Self::In | Self::Out => Stage::Host,
        }
    }

    pub(super) fn direction(self) -> Direction {
        match self {
            Self::UntrackedIn | Self::PreDnat | Self::ForwardIn | Self::In => Direction::Ingress,
            Self::UntrackedOut | Self::ForwardOut | Self::Out => Direction::Egress,
        }
    }

    /// The tiers of an endpoint that this slot evaluates.
    pub(super) fn tiers(self, endpoint: &HostEndpoint) -> &Arc<[TierPolicies]> {
        match self.stage() {
            Stage::Untracked => &endpoint.untracked,
            Stage::PreDnat => &endpoint.pre_dnat,
            Stage::HostForward => &endpoint.forward,
            Stage::Host | Stage::Workload => &endpoint.normal,
        }
    }
}

/// Which host endpoint each interface has, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Assignment {
    /// Interfaces with an endpoint of their own.
    pub(super) interfaces: BTreeMap<Arc<str>, Arc<str>>,
    /// The endpoint of all other interfaces.
    pub(super) everything: Option<Arc<str>>,
}

/// Resolves host endpoints to interfaces: by name, else by an expected address; the lowest name wins. `*` stands
/// for every interface that no other endpoint claims.
pub(super) fn assign(
    endpoints: &BTreeMap<Arc<str>, Arc<HostEndpoint>>,
    state: &InterfaceState,
    is_workload: impl Fn(&str) -> bool,
) -> Assignment {
    let mut assignment = Assignment::default();
    for (name, endpoint) in endpoints {
        match &*endpoint.interface {
            "*" => drop(assignment.everything.get_or_insert_with(|| name.clone())),
            "" => {
                for (interface, info) in &state.interfaces {
                    let matches = endpoint.expected_ips.iter().any(|ip| info.addresses.contains(ip));
                    if matches && !is_workload(interface) {
                        assignment.interfaces.entry(interface.clone()).or_insert_with(|| name.clone());
                    }
                }
            }
            // Policy for an interface that is not there yet is in place before its first packet.
            interface if !is_workload(interface) => {
                assignment.interfaces.entry(endpoint.interface.clone()).or_insert_with(|| name.clone());
            }
            _ => {}
        }
    }
    assignment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::InterfaceInfo;

    fn endpoint(name: &str, interface: &str, ips: &[&str]) -> (Arc<str>, Arc<HostEndpoint>) {
        let endpoint = HostEndpoint {
            name: name.into(),
            interface: interface.into(),
            expected_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            normal: Arc::default(),
            forward: Arc::default(),
            untracked: Arc::default(),
            pre_dnat: Arc::default(),
            profiles: Arc::default(),
            dscp: None,
        };
        (name.into(), Arc::new(endpoint))
    }

    #[test]
    fn names_addresses_and_wildcards() {
        let addresses = vec!["192.0.2.1".parse().unwrap()];
        let interfaces = BTreeMap::from([
            ("eth0".into(), InterfaceInfo { index: 2, up: true, addresses }),
            ("cali1".into(), InterfaceInfo::default()),
        ]);
        let state = InterfaceState { interfaces };
        let endpoints = BTreeMap::from([
            endpoint("z-by-name", "eth1", &["192.0.2.1"]),
            endpoint("b-by-address", "", &["192.0.2.1"]),
            endpoint("c-by-name", "eth0", &[]),
            endpoint("all-2", "*", &[]),
            endpoint("all-1", "*", &[]),
            endpoint("workload", "cali1", &[]),
        ]);
        let assignment = assign(&endpoints, &state, |name| name.starts_with("cali"));
        let expected = [("eth0", "b-by-address"), ("eth1", "z-by-name")];
        assert_eq!(assignment.interfaces, expected.map(|(i, e)| (i.into(), e.into())).into());
        assert_eq!(assignment.everything.as_deref(), Some("all-1"));
    }
}
