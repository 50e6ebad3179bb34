//! Endpoints of Kubernetes services, from endpoint slices.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::ir::Member;

/// Namespace and name of a service or of a slice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ServiceName {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
}

/// What a slice lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Backends {
    pub(crate) addresses: Vec<IpAddr>,
    /// Protocol numbers and ports; every address has all of them.
    pub(crate) ports: Vec<(u8, u16)>,
}

impl Backends {
    fn members(&self, with_ports: bool) -> Vec<Member> {
        if !with_ports {
            return self.addresses.iter().map(|addr| Member::Net(IpNet::from(*addr))).collect();
        }
        let ports_of = |addr: &IpAddr| {
            let addr = *addr;
            self.ports.iter().map(move |(protocol, port)| Member::AddrPort {
                addr,
                protocol: *protocol,
                port: *port,
            })
        };
        self.addresses.iter().flat_map(ports_of).collect()
    }
}

/// Hears of a contribution to a set that comes (true) or goes.
pub(crate) type Heard<'a> = &'a mut dyn FnMut(u32, Member, bool);

#[derive(Debug, Default)]
pub(crate) struct Services {
    slices: FxHashMap<ServiceName, Slice>,
    by_service: FxHashMap<ServiceName, BTreeMap<ServiceName, ()>>,
    watchers: FxHashMap<ServiceName, SmallVec<[(u32, bool); 2]>>,
}

#[derive(Debug)]
struct Slice {
    service: ServiceName,
    backends: Backends,
}

impl Services {
    /// A set wants the endpoints of a service from now on; the answer is what there is now.
    pub(crate) fn watch(&mut self, service: ServiceName, set: u32, with_ports: bool) -> Vec<Member> {
        let slices = self.by_service.get(&service).into_iter().flat_map(BTreeMap::keys);
        let slices = slices.filter_map(|slice| self.slices.get(slice));
        let members = slices.flat_map(|slice| slice.backends.members(with_ports)).collect();
        self.watchers.entry(service).or_default().push((set, with_ports));
        members
    }

    /// A set is no longer interested.
    pub(crate) fn unwatch(&mut self, service: &ServiceName, set: u32) {
        if let Some(watchers) = self.watchers.get_mut(service) {
            watchers.retain(|(other, _)| *other != set);
            if watchers.is_empty() {
                self.watchers.remove(service);
            }
        }
    }

    /// Adds, moves, changes or (without a service) removes a slice.
    pub(crate) fn set_slice(
        &mut self,
        slice: ServiceName,
        service: Option<ServiceName>,
        mut backends: Backends,
        heard: Heard<'_>,
    ) {
        backends.addresses.sort_unstable();
        backends.addresses.dedup();
        backends.ports.sort_unstable();
        backends.ports.dedup();
        if let Some(service) = &service {
            self.tell(service, &backends, true, heard);
        }
        if let Some(old) = self.slices.remove(&slice) {
            self.tell(&old.service, &old.backends, false, heard);
            if let Some(slices) = self.by_service.get_mut(&old.service) {
                slices.remove(&slice);
                if slices.is_empty() {
                    self.by_service.remove(&old.service);
                }
            }
        }
        if let Some(service) = service {
            self.by_service.entry(service.clone()).or_default().insert(slice.clone(), ());
            self.slices.insert(slice, Slice { service, backends });
        }
    }

    fn tell(&self, service: &ServiceName, backends: &Backends, add: bool, heard: Heard<'_>) {
        for (set, with_ports) in self.watchers.get(service).into_iter().flatten() {
            for member in backends.members(*with_ports) {
                heard(*set, member, add);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ServiceName {
        ServiceName { namespace: "ns".into(), name: name.into() }
    }

    #[test]
    fn a_slice_that_moves_takes_its_members_along() {
        let mut services = Services::default();
        let addr: IpAddr = "10.0.0.1".parse().unwrap();
        let backends = || Backends { addresses: vec![addr], ports: vec![(6, 80)] };
        services.watch(name("a"), 1, true);
        services.watch(name("b"), 2, false);
        let mut log = Vec::new();
        services
            .set_slice(name("s"), Some(name("a")), backends(), &mut |set, m, add| log.push((set, m, add)));
        services
            .set_slice(name("s"), Some(name("b")), backends(), &mut |set, m, add| log.push((set, m, add)));
        let port = Member::AddrPort { addr, protocol: 6, port: 80 };
        let addr = Member::Net(addr.into());
        assert_eq!(log, [(1, port, true), (2, addr, true), (1, port, false)]);
        assert_eq!(services.watch(name("b"), 3, true), [port]);
        assert_eq!(services.watch(name("a"), 4, true), []);
    }
}
