//! The whole way of a packet through a host endpoint: the order of its stages and the failsafe ports.

use super::world::{Item, World};
use crate::failsafe::Failsafe;
use crate::ir::Direction;
use crate::packet::Packet;
use crate::verdict::{HostStage, Outcome, Reason, Staged, Verdict};

/// How a packet crosses the interface of a host endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPath {
    /// It comes in and ends at the host.
    Terminating,
    /// It starts at the host and goes out.
    Originating,
    /// It comes in and is forwarded.
    ForwardedIn,
    /// It is forwarded out.
    ForwardedOut,
}

impl World {
    /// Judges a packet on its whole way through a host endpoint: failsafe ports, then untracked, then pre-DNAT, then
    /// forward or normal policy. An Allow of an early stage spares the packet the later ones. The answer says which
    /// stage decided. `failsafes` are those of the packet's direction.
    ///
    /// ```
    /// use calico_model::{AnyResource, HostEndpoint, HostEndpointSpec, Update, Value};
    /// use calico_policy::failsafe::DEFAULT_INBOUND;
    /// use calico_policy::oracle::{HostPath, World};
    /// use calico_policy::packet::Packet;
    /// use calico_policy::verdict::{Reason, Verdict};
    /// let endpoint = AnyResource::from(HostEndpoint::new("h", HostEndpointSpec::default()));
    /// let world = World::new([Update::set(endpoint.key(), Value::Resource(endpoint.into()), 1.into())]);
    /// let host = &world.items()[0];
    /// let packet = |port| Packet::tcp("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap(), port);
    /// let judge = |port| world.evaluate_host_path(host, HostPath::Terminating, &packet(port), &DEFAULT_INBOUND).1;
    /// assert_eq!((judge(22).verdict, judge(22).reason), (Verdict::Allow, Reason::Failsafe));
    /// assert_eq!(judge(80).verdict, Verdict::Deny, "a host endpoint without policy and profiles denies");
    /// ```
    pub fn evaluate_host_path(
        &self,
        endpoint: &Item,
        path: HostPath,
        packet: &Packet,
        failsafes: &[Failsafe],
    ) -> (HostStage, Outcome) {
        let direction = match path {
            HostPath::Terminating | HostPath::ForwardedIn => Direction::Ingress,
            HostPath::Originating | HostPath::ForwardedOut => Direction::Egress,
        };
        let safe = failsafes.iter().any(|entry| entry.admits(direction, packet));
        let early: &[HostStage] = match path {
            HostPath::Terminating | HostPath::ForwardedIn => &[HostStage::Untracked, HostStage::PreDnat],
            HostPath::Originating => &[HostStage::Untracked],
            // Forwarded packets leave through neither the raw nor the pre-DNAT hook.
            HostPath::ForwardedOut => &[],
        };
        for stage in early.iter().filter(|_| !safe) {
            let outcome = self.evaluate_endpoint(endpoint, *stage, direction, packet, Staged::Ignored);
            if outcome.verdict != Verdict::Continue {
                return (*stage, outcome);
            }
        }
        match path {
            HostPath::ForwardedIn | HostPath::ForwardedOut => {
                let stage = HostStage::Forward;
                (stage, self.evaluate_endpoint(endpoint, stage, direction, packet, Staged::Ignored))
            }
            _ if safe => (HostStage::Normal, Outcome::plain(Verdict::Allow, Reason::Failsafe)),
            _ => {
                let stage = HostStage::Normal;
                (stage, self.evaluate_endpoint(endpoint, stage, direction, packet, Staged::Ignored))
            }
        }
    }
}
