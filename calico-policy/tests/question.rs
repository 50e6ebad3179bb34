//! Flows as people type them.

#![allow(clippy::unwrap_used)]

mod support;

use calico_model::{Protocol, WorkloadEndpoint, WorkloadEndpointPort, WorkloadEndpointSpec};
use calico_policy::ir::Family;
use calico_policy::oracle::{End, PortChoice, Question, World};
use calico_policy::packet::Packet;
use support::put;

fn pod(name: &str, ips: &[&str]) -> WorkloadEndpoint {
    let port = |name: &str, protocol: Protocol, port| WorkloadEndpointPort {
        name: name.into(),
        protocol,
        port,
        ..WorkloadEndpointPort::default()
    };
    let spec = WorkloadEndpointSpec {
        pod: name.into(),
        interface_name: format!("cali{name}"),
        ip_networks: ips.iter().map(|ip| (*ip).to_owned()).collect(),
        ports: vec![port("http", Protocol::tcp(), 8080), port("dns", Protocol::udp(), 5353)],
        ..WorkloadEndpointSpec::default()
    };
    WorkloadEndpoint::new(name, spec).in_namespace("shop")
}

fn world() -> World {
    World::new([
        put(pod("web", &["10.0.0.1/32", "fd00::1/128"])),
        put(pod("db", &["10.0.0.2/32", "fd00::2/128"])),
        put(pod("six", &["fd00::6/128"])),
        put(pod("new", &[])),
    ])
}

fn ask(from: &str, to: &str, family: Option<Family>) -> Result<Packet, String> {
    let question = Question::parse(from, to).map_err(|error| error.to_string())?;
    world().packet(&question, family).map_err(|error| error.to_string())
}

#[test]
fn flows_become_packets() {
    let tcp = |src: &str, dst: &str, port| Packet::tcp(src.parse().unwrap(), dst.parse().unwrap(), port);
    let web_to_db = tcp("10.0.0.1", "10.0.0.2", 5432);
    assert_eq!(ask("shop/web", "shop/db:5432/tcp", None), Ok(web_to_db));
    assert_eq!(ask("shop/web", "shop/db:5432", None), Ok(web_to_db), "TCP is meant");
    assert_eq!(ask("10.0.0.1", "10.0.0.2:5432/TCP", None), Ok(web_to_db));
    assert_eq!(
        ask("shop/web:7", "shop/db:5432/6", None).unwrap_err(),
        "\"shop/db:5432/6\": the protocol is tcp, udp, sctp, icmp, icmpv6, udplite or proto-NUMBER"
    );
    assert_eq!(ask("shop/web:7", "shop/db:5432/proto-6", None), Ok(Packet { src_port: 7, ..web_to_db }));
    assert_eq!(ask("shop/web", "shop/db:5432/tcp", Some(Family::V6)), Ok(tcp("fd00::1", "fd00::2", 5432)));
    assert_eq!(ask("shop/six", "shop/db:5432/tcp", None), Ok(tcp("fd00::6", "fd00::2", 5432)));
    assert_eq!(ask("fd00::9", "[fd00::2]:5432/tcp", None), Ok(tcp("fd00::9", "fd00::2", 5432)));
    assert_eq!(ask("[fd00::9]:7", "[fd00::2]:5432/tcp", None).unwrap().src_port, 7);
}

#[test]
fn ports_by_name_are_those_of_the_destination() {
    assert_eq!(ask("shop/web", "shop/db:http/tcp", None).unwrap().dst_port, 8080);
    let dns = ask("shop/web", "shop/db:dns/udp", None).unwrap();
    assert_eq!((dns.protocol, dns.dst_port), (17, 5353));
    assert_eq!(ask("shop/web", "10.0.0.2:http/tcp", None).unwrap().dst_port, 8080, "whoever has the address");
    let wrong = ask("shop/web", "shop/db:http/udp", None).unwrap_err();
    assert_eq!(wrong, "pod shop/db has no UDP port named \"http\"; there is dns");
    let nobody = ask("shop/web", "192.0.2.1:http/tcp", None).unwrap_err();
    assert_eq!(nobody, "192.0.2.1 has no TCP port named \"http\"");
}

#[test]
fn icmp_and_protocols_without_ports() {
    let echo = ask("shop/web", "shop/db:icmp", None).unwrap();
    assert_eq!((echo.protocol, echo.icmp), (1, (8, 0)));
    let echo = ask("shop/web", "shop/db:icmp", Some(Family::V6)).unwrap();
    assert_eq!((echo.protocol, echo.icmp), (58, (128, 0)), "ICMP of the packet's family");
    assert_eq!(ask("shop/web", "shop/db:3/icmp", None).unwrap().icmp, (3, 0));
    assert_eq!(ask("shop/web", "shop/db:proto-47", None).unwrap().protocol, 47);
}

#[test]
fn what_cannot_be_answered_says_what_would_be_right() {
    for (from, to, said) in [
        ("web", "shop/db:80/tcp", "\"web\": write a pod as namespace/name, or an address"),
        (
            "shop/web",
            "shop/db",
            "\"shop/db\": say which traffic: add :port/protocol such as :443/tcp, or :icmp",
        ),
        ("shop/web", "shop/db:", "\"shop/db:\": the port is missing; write for example :443/tcp"),
        ("shop/web", "shop/db:tcp", "\"shop/db:tcp\": the port is missing; write for example :443/tcp"),
        ("shop/web", "shop/db:70000/tcp", "\"shop/db:70000/tcp\": a port is a number up to 65535"),
        ("shop/web:http", "shop/db:80/tcp", "\"shop/web:http\": a source port is a number up to 65535"),
        (
            "shop/web",
            "shop/db:80/proto-47",
            "\"shop/db:80/proto-47\": this protocol has no ports; write :protocol alone",
        ),
        ("shop/web", "shop/db:ping/icmp", "\"shop/db:ping/icmp\": an ICMP type is a number up to 255"),
        ("shop/web", "fd00::1:80/tcp", "\"fd00\": write a pod as namespace/name, or an address"),
        ("shop/new", "shop/db:80/tcp", "pod shop/new has no address yet; ask about an address instead"),
        ("shop/six", "10.0.0.1:80/tcp", "shop/six and 10.0.0.1 have no addresses of one family"),
        ("store/web", "shop/db:80/tcp", "there is no pod store/web; there is shop/web"),
        (
            "shop/wep",
            "shop/db:80/tcp",
            "there is no pod shop/wep; there is shop/db, shop/new, shop/six, shop/web",
        ),
        ("mars/rover", "shop/db:80/tcp", "there is no pod mars/rover"),
    ] {
        assert_eq!(ask(from, to, None).unwrap_err(), said, "{from} {to}");
    }
    let none = ask("shop/six", "shop/db:80/tcp", Some(Family::V4)).unwrap_err();
    assert_eq!(none, "shop/six and shop/db have no addresses of one family, which should be IPv4");
}

#[test]
fn parts_of_a_question() {
    let question = Question::parse("a/b:9", "[::1]:dns/udp").unwrap();
    assert_eq!(question.from, End::Pod("a".into(), "b".into()));
    assert_eq!(question.source_port, Some(9));
    assert_eq!(question.to, End::Address("::1".parse().unwrap()));
    assert_eq!(question.port, Some(PortChoice::Name("dns".into())));
}
