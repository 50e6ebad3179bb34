use proptest::prelude::*;

use super::*;
use crate::netlink::Link;

const UP: u32 = 0x43;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn link(index: u32, name: &str, flags: u32) -> Link {
    let kind = name.starts_with("cali").then(|| "veth".to_owned());
    Link { index, name: name.to_owned(), flags, kind, ..Link::default() }
}

fn interfaces() -> Interfaces {
    let mut interfaces = Interfaces::new(["cali"]);
    let links = vec![link(1, "lo", 0x49), link(2, "eth0", UP), link(3, "cali1", UP), link(4, "cali2", UP)];
    interfaces.refresh(links, Vec::new());
    interfaces
}

fn open_gates() -> Gates {
    Gates { in_sync: true, bgp_converged: true, policy: true }
}

fn device(name: &str) -> Candidate {
    Candidate { target: Target::Device(name.into()), protocol: RouteProtocol::BOOT, mtu: None }
}

fn via(gateway: &str) -> Candidate {
    let hop = Hop { gateway: gateway.parse().unwrap(), interface: None, weight: 1 };
    Candidate { target: Target::Via(SmallVec::from_elem(hop, 1)), protocol: RouteProtocol::BIRD, mtu: None }
}

fn blackhole() -> Candidate {
    Candidate { target: Target::Blackhole, protocol: RouteProtocol::BIRD, mtu: None }
}

fn connected() -> Route {
    Route::device(net("172.18.0.0/24"), 2, RouteProtocol::KERNEL)
}

#[test]
fn the_local_pod_wins_and_the_next_class_takes_over_when_it_goes() {
    let (interfaces, now) = (interfaces(), Instant::now());
    let mut routes = RouteManager::new();
    routes.observed(connected(), &interfaces, now);
    let dst = net("10.65.0.2/32");
    let (bgp, cali1): (Arc<str>, Arc<str>) = ("bgp".into(), "cali1".into());
    routes.set(RouteClass::Bgp, &bgp, dst, via("172.18.0.3"));
    routes.set(RouteClass::LocalWorkload, &cali1, dst, device("cali1"));
    routes.settle(&interfaces);
    let work = routes.pending(open_gates(), &interfaces, now);
    let local = Route::device(dst, 3, RouteProtocol::BOOT);
    assert_eq!(work, [RouteWork { key: local.key(), route: Some(local) }]);
    routes.finished(&work[0], None, now);
    routes.remove(RouteClass::LocalWorkload, &cali1, dst);
    routes.settle(&interfaces);
    // The same key is replaced: there is no moment without a route.
    let work = routes.pending(open_gates(), &interfaces, now);
    let hop = NextHop::via("172.18.0.3".parse().unwrap(), 2);
    assert_eq!(work[0].route, Some(Route::via(dst, [hop], RouteProtocol::BIRD)));
    assert_eq!(work.len(), 1);
}

#[test]
fn gates_hold_back_what_they_are_for() {
    let (interfaces, now) = (interfaces(), Instant::now());
    let mut routes = RouteManager::new();
    let stale = Route::blackhole(net("10.1.0.0/26"), RouteProtocol::BIRD);
    let own = Route::blackhole(net("10.2.0.0/26"), RouteProtocol::CALICO);
    let stray = Route::device(net("10.3.0.1/32"), 3, RouteProtocol::STATIC);
    for route in [&stale, &own, &stray] {
        routes.observed(route.clone(), &interfaces, now);
    }
    routes.set(RouteClass::LocalWorkload, &"cali2".into(), net("10.3.0.2/32"), device("cali2"));
    routes.settle(&interfaces);
    let mut dsts = |gates: Gates, at: Instant| -> Vec<String> {
        routes.pending(gates, &interfaces, at).iter().map(|work| work.key.dst.to_string()).collect()
    };
    assert!(dsts(Gates { bgp_converged: true, policy: true, in_sync: false }, now).is_empty());
    let in_sync = Gates { in_sync: true, ..Gates::default() };
    assert_eq!(dsts(in_sync, now), ["10.2.0.0/26"]);
    assert_eq!(dsts(Gates { policy: true, ..in_sync }, now), ["10.3.0.2/32", "10.2.0.0/26"]);
    assert_eq!(dsts(Gates { bgp_converged: true, ..in_sync }, now), ["10.1.0.0/26", "10.2.0.0/26"]);
    let later = now + STRAY_GRACE;
    assert_eq!(dsts(Gates { policy: true, ..in_sync }, later), ["10.3.0.2/32", "10.2.0.0/26", "10.3.0.1/32"]);
    assert_eq!(routes.next_wake(now), Some(later));
    assert_eq!(routes.next_wake(later), None);
}

#[test]
fn several_next_hops_lose_those_that_nothing_leads_to() {
    let (interfaces, now) = (interfaces(), Instant::now());
    let mut routes = RouteManager::new();
    routes.observed(connected(), &interfaces, now);
    let hops = ["172.18.0.4", "192.0.2.1", "172.18.0.3"].map(|gateway| Hop {
        gateway: gateway.parse().unwrap(),
        interface: None,
        weight: 1,
    });
    let candidate = Candidate {
        target: Target::Via(hops.into_iter().collect()),
        protocol: RouteProtocol::BIRD,
        mtu: None,
    };
    routes.set(RouteClass::Bgp, &"bgp".into(), net("10.0.0.0/8"), candidate);
    routes.settle(&interfaces);
    let work = routes.pending(open_gates(), &interfaces, now);
    let gateways: Vec<String> =
        work[0].route.iter().flat_map(|r| &r.nexthops).map(|hop| hop.via.unwrap().to_string()).collect();
    assert_eq!(gateways, ["172.18.0.3", "172.18.0.4"]);
}

#[test]
fn a_refused_route_is_reported_and_tried_again() {
    let (interfaces, now) = (interfaces(), Instant::now());
    let mut routes = RouteManager::new();
    let dst = net("10.3.0.2/32");
    routes.set(RouteClass::LocalWorkload, &"cali1".into(), dst, device("cali1"));
    routes.settle(&interfaces);
    let work = routes.pending(open_gates(), &interfaces, now);
    let refusal = Refusal { errno: 1, message: None, offset: None };
    routes.finished(&work[0], Some(refusal.clone()), now);
    assert_eq!(routes.troubles(), [(dst, RouteStanding::Refused(refusal))]);
    assert!(routes.pending(open_gates(), &interfaces, now).is_empty());
    let again = routes.next_wake(now).unwrap();
    assert_eq!(routes.pending(open_gates(), &interfaces, again), work);
    routes.finished(&work[0], None, again);
    assert!(routes.troubles().is_empty());
}

#[test]
fn routes_of_another_bgp_program_are_not_ours() {
    let (interfaces, now) = (interfaces(), Instant::now());
    let theirs = Route::blackhole(net("10.1.0.0/26"), RouteProtocol::BIRD);
    let mut routes = RouteManager::new().without_bgp();
    routes.observed(theirs.clone(), &interfaces, now);
    assert!(routes.pending(open_gates(), &interfaces, now).is_empty());
    let mut routes = RouteManager::new();
    routes.observed(theirs, &interfaces, now);
    assert_eq!(routes.pending(open_gates(), &interfaces, now).len(), 1);
}

/// What may happen, over few destinations and next hops so that they collide.
#[derive(Debug, Clone)]
enum Op {
    Want(u8, u8, u8),
    Forget(u8, u8),
    Link(u8, bool),
    Foreign(u8, bool),
    Tamper(u8, bool),
    Work(u16),
}

const CLASSES: [RouteClass; 3] = [RouteClass::LocalWorkload, RouteClass::VxlanTunnel, RouteClass::Bgp];

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..3_u8, 0..4_u8, 0..4_u8).prop_map(|(class, dst, target)| Op::Want(class, dst, target)),
        (0..3_u8, 0..4_u8).prop_map(|(class, dst)| Op::Forget(class, dst)),
        (0..3_u8, any::<bool>()).prop_map(|(which, up)| Op::Link(which, up)),
        (0..3_u8, any::<bool>()).prop_map(|(which, there)| Op::Foreign(which, there)),
        (0..4_u8, any::<bool>()).prop_map(|(dst, there)| Op::Tamper(dst, there)),
        any::<u16>().prop_map(Op::Work),
    ]
}

fn dst(which: u8) -> IpNet {
    net(["10.0.0.1/32", "10.0.0.0/26", "10.0.0.0/8", "fd00::/64"][usize::from(which)])
}

fn candidate(target: u8) -> Candidate {
    match target {
        0 => device("cali1"),
        1 => device("eth0"),
        2 => via("172.18.0.3"),
        _ => blackhole(),
    }
}

fn foreign(which: u8) -> Route {
    match which {
        0 => connected(),
        1 => Route::via(
            net("0.0.0.0/0"),
            [NextHop::via("172.18.0.1".parse().unwrap(), 2)],
            RouteProtocol::STATIC,
        ),
        // In the way of one of our destinations.
        _ => Route::device(net("10.0.0.0/8"), 2, RouteProtocol::STATIC),
    }
}

/// A kernel that tells us everything except when an interface takes its routes along.
#[derive(Default)]
struct FakeKernel {
    routes: BTreeMap<RouteKey, Route>,
}

impl FakeKernel {
    fn write(&mut self, work: &RouteWork) {
        match &work.route {
            Some(route) => self.routes.insert(work.key, route.clone()),
            None => self.routes.remove(&work.key),
        };
    }
}

fn work(
    routes: &mut RouteManager,
    kernel: &mut FakeKernel,
    interfaces: &Interfaces,
    failing: u16,
    now: Instant,
) {
    routes.settle(interfaces);
    for (position, each) in routes.pending(open_gates(), interfaces, now).iter().enumerate() {
        if failing >> (position % 16) & 1 == 1 {
            routes.finished(each, Some(Refusal { errno: 12, message: None, offset: None }), now);
        } else {
            kernel.write(each);
            routes.finished(each, None, now);
        }
    }
}

proptest! {
    #[test]
    fn the_kernel_ends_with_exactly_the_winners(ops in proptest::collection::vec(op(), 0..50)) {
        let mut now = Instant::now();
        let mut interfaces = interfaces();
        let mut routes = RouteManager::new();
        let mut kernel = FakeKernel::default();
        let mut wishes: BTreeMap<(u8, u8), u8> = BTreeMap::new();
        let source: Arc<str> = "x".into();
        for op in ops {
            now += Duration::from_millis(7);
            match op {
                Op::Want(class, to, target) => {
                    wishes.insert((to, class), target);
                    routes.set(CLASSES[usize::from(class)], &source, dst(to), candidate(target));
                }
                Op::Forget(class, to) => {
                    wishes.remove(&(to, class));
                    routes.remove(CLASSES[usize::from(class)], &source, dst(to));
                }
                Op::Link(which, up) => {
                    let (index, name) = [(2, "eth0"), (3, "cali1"), (4, "cali2")][usize::from(which)];
                    let event = crate::netlink::Event::Link(link(index, name, if up { UP } else { 0 }));
                    for name in interfaces.apply(&event) {
                        routes.interface_changed(&name, &interfaces);
                    }
                    if !up {
                        kernel.routes.retain(|_, route| route.interface() != Some(index));
                    }
                }
                Op::Foreign(which, true) => {
                    let route = foreign(which);
                    if interfaces.by_name("eth0").is_some_and(Link::is_up) {
                        kernel.routes.insert(route.key(), route.clone());
                        routes.observed(route, &interfaces, now);
                    }
                }
                Op::Foreign(which, false) => {
                    let route = foreign(which);
                    if kernel.routes.get(&route.key()) == Some(&route) {
                        kernel.routes.remove(&route.key());
                        routes.vanished(&route);
                    }
                }
                Op::Tamper(to, true) => {
                    let route = Route::blackhole(dst(to), RouteProtocol::BIRD).canonical();
                    kernel.routes.insert(route.key(), route.clone());
                    routes.observed(route, &interfaces, now);
                }
                Op::Tamper(to, false) => {
                    if let Some(route) = kernel.routes.remove(&key(dst(to))) {
                        routes.vanished(&route);
                    }
                }
                Op::Work(failing) => work(&mut routes, &mut kernel, &interfaces, failing, now),
            }
            if routes.wants_refresh() {
                let all = kernel.routes.values().cloned().collect();
                routes.refresh(all, &interfaces, now);
            }
        }
        // Quiet at last: everything that can be in force is, and nothing else of ours is left.
        for _ in 0..20 {
            now += Duration::from_secs(11);
            work(&mut routes, &mut kernel, &interfaces, 0, now);
        }
        let eth0_up = interfaces.by_name("eth0").is_some_and(Link::is_up);
        let cali1_up = interfaces.by_name("cali1").is_some_and(Link::is_up);
        let reachable = [0, 1].iter().any(|which| {
            let route = foreign(*which);
            kernel.routes.get(&route.key()) == Some(&route)
        });
        for to in 0..4_u8 {
            let winner = (0..3_u8).find_map(|class| {
                let target = *wishes.get(&(to, class))?;
                let usable = match target {
                    0 => cali1_up,
                    1 => eth0_up,
                    2 => reachable,
                    _ => true,
                };
                usable.then_some((class, target))
            });
            let there = kernel.routes.get(&key(dst(to)));
            match winner {
                Some((2, _)) if there == Some(&foreign(2)) => {}
                Some((_, target)) => {
                    let there = there.unwrap_or_else(|| panic!("no route to {} of {target}", dst(to)));
                    prop_assert_eq!(there.protocol, candidate(target).protocol);
                    prop_assert_eq!(there.kind == RouteKind::Blackhole, target == 3);
                }
                None => prop_assert!(there.is_none_or(|route| *route == foreign(2)), "{there:?}"),
            }
        }
    }
}
