use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use calico_dataplane::netlink::conntrack::Ports;
use calico_dataplane::netlink::{Address, Conntrack, Family, LinkChange, Rtnetlink};
use calico_dataplane::nft::batch::Batch;
use calico_dataplane::nft::expr::{CtKey, Expr, Reg};
use calico_dataplane::nft::kernel::Kernel;
use calico_dataplane::nft::object::{BaseHook, Chain, ChainKind, Hook, Rule};

use crate::isolation::{isolated, skip};

/// Connection tracking watches a namespace only while a rule there asks for it.
fn track_connections() -> Result<(), String> {
    let base = BaseHook { kind: ChainKind::Filter, hook: Hook::Output, priority: 0 };
    let mut batch = Batch::new("track");
    batch.add_table();
    batch.add_chain("output", &Chain { base: Some(base), ..Chain::default() });
    let state = Expr::Ct { key: CtKey::State, dreg: Reg::word(0).unwrap() };
    batch.add_rule(&"output".into(), 0, &Rule::new(vec![state]));
    let mut kernel = Kernel::open().map_err(|error| error.to_string())?;
    kernel.commit(&mut batch, None).map_err(|error| error.to_string())
}

/// A node with three addresses on its loopback and one UDP flow from each of the first two to the third.
fn flows() -> Vec<UdpSocket> {
    let mut netlink = Rtnetlink::open().unwrap();
    netlink.change_link(1, &LinkChange::Up).unwrap();
    for address in ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.9/32", "fd00::1/128", "fd00::9/128"] {
        netlink.add_address(&Address::new(1, address.parse().unwrap())).unwrap();
    }
    let mut sockets = Vec::new();
    for (from, to) in [("10.0.0.1", "10.0.0.9"), ("10.0.0.2", "10.0.0.9"), ("fd00::1", "fd00::9")] {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let server = UdpSocket::bind((to, 0)).unwrap();
        let client = UdpSocket::bind((from, 0)).unwrap();
        // The kernel finishes IPv6 addresses in the background: send until one packet arrives.
        server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let arrived = (0..100).any(|_| {
            client.send_to(b"x", server.local_addr().unwrap()).unwrap();
            server.recv(&mut [0; 8]).is_ok()
        });
        assert!(arrived, "{from} to {to}");
        sockets.extend([server, client]);
    }
    sockets
}

#[test]
fn flows_are_read_and_forgotten_one_by_one_and_by_address() {
    let name = "conntrack::flows_are_read_and_forgotten_one_by_one_and_by_address";
    isolated(name, || {
        if let Err(why) = track_connections() {
            let name = "conntrack::flows_are_read_and_forgotten_one_by_one_and_by_address";
            return skip(name, &why);
        }
        let sockets = flows();
        let mut conntrack = Conntrack::open().unwrap();
        let sources = |conntrack: &mut Conntrack, family| -> Vec<String> {
            let flows = conntrack.flows(family).unwrap();
            flows.iter().map(|flow| flow.original.source.to_string()).collect()
        };
        let v4 = conntrack.flows(Family::V4).unwrap();
        assert_eq!(sources(&mut conntrack, Family::V4), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(sources(&mut conntrack, Family::V6), ["fd00::1"]);
        let client = sockets[1].local_addr().unwrap();
        let server = sockets[0].local_addr().unwrap();
        assert_eq!(v4[0].original.ports, Ports::Pair(client.port(), server.port()));
        assert_eq!(v4[0].reply.source, server.ip());
        assert_eq!(v4[0].original.protocol, 17);

        assert_eq!(conntrack.forget(&v4[..1]).unwrap(), 1);
        assert_eq!(conntrack.forget(&v4[..1]).unwrap(), 0, "it is gone");
        assert_eq!(sources(&mut conntrack, Family::V4), ["10.0.0.2"]);
        // Somebody who only answered is found as well, and the other family is left alone.
        conntrack.forget_addresses(&["10.0.0.7".parse().unwrap()]).unwrap();
        assert_eq!(sources(&mut conntrack, Family::V4), ["10.0.0.2"]);
        conntrack.forget_addresses(&["10.0.0.9".parse().unwrap()]).unwrap();
        assert!(sources(&mut conntrack, Family::V4).is_empty());
        assert_eq!(sources(&mut conntrack, Family::V6), ["fd00::1"]);
        conntrack.forget_addresses(&["fd00::1".parse().unwrap()]).unwrap();
        assert!(sources(&mut conntrack, Family::V6).is_empty());
    });
}
