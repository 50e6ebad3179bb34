use calico_dataplane::netlink::{
    Address, Event, Group, LinkChange, Monitor, NewKind, NewLink, Peer, Route, RouteProtocol, Rtnetlink,
};

use crate::isolation::isolated;

#[test]
fn changes_are_told_in_order() {
    isolated("monitor::changes_are_told_in_order", || {
        let mut monitor = Monitor::open(&[Group::Links, Group::Addresses, Group::Routes]).unwrap();
        assert!(monitor.poll().unwrap().is_empty());
        let mut netlink = Rtnetlink::open().unwrap();
        let peer = Peer { name: "v1", ..Peer::default() };
        netlink.create_link(&NewLink::new("v0", NewKind::Veth(peer))).unwrap();
        let index = netlink.link("v0").unwrap().index;
        let other = netlink.link("v1").unwrap().index;
        netlink.change_link(other, &LinkChange::Up).unwrap();
        netlink.change_link(index, &LinkChange::Up).unwrap();
        netlink.add_address(&Address::new(index, "10.0.0.1/24".parse().unwrap())).unwrap();
        let route = Route::device("10.1.0.0/16".parse().unwrap(), index, RouteProtocol::CALICO);
        netlink.add_route(&route).unwrap();
        netlink.delete_route(&route.key()).unwrap();
        netlink.delete_link(index).unwrap();

        let events = monitor.poll().unwrap();
        let position = |what: &str, test: &dyn Fn(&Event) -> bool| {
            events.iter().position(test).unwrap_or_else(|| panic!("no {what} in {events:#?}"))
        };
        let order = [
            position("new link", &|e| matches!(e, Event::Link(l) if l.name == "v0" && !l.is_up())),
            position("link up", &|e| matches!(e, Event::Link(l) if l.name == "v0" && l.is_up())),
            position("address", &|e| matches!(e, Event::Address(a) if a.net.to_string() == "10.0.0.1/24")),
            position("route", &|e| *e == Event::Route(route.clone())),
            position("route gone", &|e| *e == Event::RouteGone(route.clone())),
            position("link gone", &|e| matches!(e, Event::LinkGone(l) if l.name == "v0")),
        ];
        assert!(order.is_sorted(), "{order:?}");
        assert!(monitor.poll().unwrap().is_empty());
    });
}

#[test]
fn a_thread_can_wait() {
    isolated("monitor::a_thread_can_wait", || {
        let mut monitor = Monitor::open(&[Group::Links]).unwrap();
        let waiter = std::thread::spawn(move || monitor.wait().unwrap());
        Rtnetlink::open().unwrap().create_link(&NewLink::new("br0", NewKind::Bridge)).unwrap();
        let events = waiter.join().unwrap();
        assert!(matches!(&events[..], [Event::Link(link), ..] if link.name == "br0"), "{events:?}");
    });
}
