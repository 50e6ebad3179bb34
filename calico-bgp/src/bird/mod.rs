//! The same configuration as text for BIRD, for those who keep it: BIRD 2 and 3 (one daemon, both families) and the
//! 1.6 fork of the reference (one daemon per family, with `krt_tunnel`).
//!
//! The text is rendered from a [`SpeakerConfig`], so that a BIRD told by it exports what a [`crate::Speaker`] with the
//! same configuration exports. Equal configurations give equal texts: reload only when the text changed. What BIRD
//! cannot be told safely disables its own session and is said in a comment there.

mod filters;

use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{Authentication, LocalInstall, LocalSource, NextHopMode, PeerConfig, SpeakerConfig, Ttl};
use crate::policy::{FibPolicy, METRIC_CEILING, NORMAL_PRIORITY, NetSet, PoolEncapsulation};
use crate::wire::{Family, FamilySet};

use filters::{export_filter, import_filter, net_set};

/// Which BIRD the text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// BIRD 2 and 3.
    Modern,
    /// The 1.6 fork of the reference, for one family.
    Fork(Family),
}

impl Dialect {
    fn families(self) -> FamilySet {
        match self {
            Dialect::Modern => FamilySet::ALL,
            Dialect::Fork(family) => FamilySet::only(family),
        }
    }
}

/// Settings of BIRD that a [`SpeakerConfig`] does not have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BirdSettings {
    /// Interfaces whose prefixes are not taken in, beside those of workloads; `*` is a wildcard.
    pub ignored_interfaces: Vec<String>,
    /// Log everything about sessions and filters.
    pub debug: bool,
}

/// The whole configuration.
pub fn render(config: &SpeakerConfig, settings: &BirdSettings, dialect: Dialect) -> String {
    let mut out = String::with_capacity(4096);
    // Writing to a String cannot fail.
    let _ = write_all(&mut out, config, settings, dialect);
    out
}

type Written = std::fmt::Result;

fn write_all(out: &mut String, config: &SpeakerConfig, settings: &BirdSettings, dialect: Dialect) -> Written {
    writeln!(out, "# Generated from Calico resources; changes made here are lost.")?;
    writeln!(out, "router id {};", config.router_id)?;
    if let Dialect::Fork(_) = dialect {
        let addresses =
            config.listen_addresses.iter().filter(|a| dialect.families().contains(Family::of(**a)));
        let address = addresses.map(|a| format!(" address {a}")).next().unwrap_or_default();
        writeln!(out, "listen bgp{address} port {};", config.listen_port)?;
    }
    if settings.debug {
        writeln!(out, "debug protocols {{ states, routes, filters, events }};")?;
    }
    writeln!(out, "\nprotocol device {{\n  scan time 2;\n}}")?;
    direct(out, settings, dialect)?;
    for family in dialect.families().iter() {
        statics(out, config, family, dialect)?;
        kernel(out, config, family, dialect)?;
    }
    for peer in config.peers.values() {
        let families = peer.families.intersection(dialect.families());
        if dialect.families().contains(Family::of(peer.address)) && !families.is_empty() {
            session(out, config, peer, families, dialect)?;
        }
    }
    Ok(())
}

fn direct(out: &mut String, settings: &BirdSettings, dialect: Dialect) -> Written {
    writeln!(out, "\nprotocol direct {{")?;
    if dialect == Dialect::Modern {
        writeln!(out, "  ipv4;\n  ipv6;")?;
    }
    write!(out, "  interface ")?;
    let usable = settings.ignored_interfaces.iter().filter(|name| quotable(name));
    for name in usable.map(String::as_str).chain(["cali*", "kube-ipvs*"]) {
        write!(out, "-\"{name}\", ")?;
    }
    writeln!(out, "\"*\";\n}}")
}

fn number(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 4,
        Family::Ipv6 => 6,
    }
}

fn statics(out: &mut String, config: &SpeakerConfig, family: Family, dialect: Dialect) -> Written {
    writeln!(out, "\nprotocol static static{} {{", number(family))?;
    if dialect == Dialect::Modern {
        writeln!(out, "  {family};")?;
    }
    let routes = config.routes.iter().filter(|(net, _)| Family::of(net.addr()) == family);
    for (net, route) in routes.filter(|(_, route)| route.source == LocalSource::Static) {
        match (route.install, route.gateway) {
            (LocalInstall::Gateway, Some(gateway)) => writeln!(out, "  route {net} via {gateway};")?,
            _ => writeln!(out, "  route {net} blackhole;")?,
        }
    }
    writeln!(out, "}}")
}

fn kernel(out: &mut String, config: &SpeakerConfig, family: Family, dialect: Dialect) -> Written {
    let filter = format!("calico_kernel{}", number(family));
    kernel_filter(out, config, family, dialect, &filter)?;
    writeln!(out, "\nprotocol kernel kernel{} {{", number(family))?;
    writeln!(out, "  learn;\n  persist;\n  scan time 2;\n  graceful restart;\n  merge paths on;")?;
    match dialect {
        Dialect::Modern => {
            // The metric is written per route.
            writeln!(
                out,
                "  metric 0;\n  {family} {{\n    import all;\n    export filter {filter};\n  }};\n}}"
            )
        }
        Dialect::Fork(_) => writeln!(out, "  import all;\n  export filter {filter};\n}}"),
    }
}

fn kernel_filter(
    out: &mut String,
    config: &SpeakerConfig,
    family: Family,
    dialect: Dialect,
    name: &str,
) -> Written {
    let policy: &FibPolicy = &config.fib;
    let announced_only: NetSet = config
        .routes
        .iter()
        .filter(|(net, route)| Family::of(net.addr()) == family && route.install == LocalInstall::Nothing)
        .map(|(net, _)| *net)
        .collect();
    writeln!(out, "\nfilter {name} {{")?;
    if policy.disabled {
        return writeln!(out, "  reject;\n}}");
    }
    if let Some(set) = net_set(announced_only.iter(), "") {
        writeln!(out, "  if source = RTS_STATIC && net ~ {set} then reject;")?;
    }
    if let Some(set) = net_set(policy.reject.iter().filter(|net| Family::of(net.addr()) == family), "+") {
        writeln!(out, "  if net ~ {set} then reject;")?;
    }
    writeln!(out, "  if source = RTS_STATIC then accept;")?;
    writeln!(out, "  if source != RTS_BGP then reject;")?;
    if let Some(set) = net_set(
        policy.wireguard.iter().filter(|hop| Family::of(**hop) == family).map(|hop| IpNet::from(*hop)),
        "",
    ) {
        writeln!(out, "  # Routes over WireGuard belong to the policy side.")?;
        match dialect {
            Dialect::Modern => writeln!(out, "  if bgp_next_hop ~ {set} then reject;")?,
            Dialect::Fork(_) => writeln!(out, "  if bgp_next_hop ~ {set} then reject;")?,
        }
    }
    writeln!(out, "  krt_metric = {METRIC_CEILING} - bgp_local_pref;")?;
    if let (Family::Ipv4, Some(own)) = (family, policy.own_network) {
        for pool in &policy.pools {
            let cidr = pool.cidr;
            match (pool.owned, pool.encapsulation, dialect) {
                (true, PoolEncapsulation::None, _) => writeln!(out, "  if net ~ [ {cidr}+ ] then accept;")?,
                (true, PoolEncapsulation::IpIpAlways, Dialect::Fork(_)) => {
                    writeln!(out, "  if net ~ [ {cidr}+ ] then {{ krt_tunnel = \"tunl0\"; accept; }}")?;
                }
                (true, PoolEncapsulation::IpIpCrossSubnet, Dialect::Fork(_)) => {
                    writeln!(out, "  if net ~ [ {cidr}+ ] then {{")?;
                    writeln!(
                        out,
                        "    if bgp_next_hop ~ [ {own}+ ] then krt_tunnel = \"\"; else krt_tunnel = \"tunl0\";"
                    )?;
                    writeln!(out, "    accept;\n  }}")?;
                }
                (
                    true,
                    PoolEncapsulation::IpIpAlways | PoolEncapsulation::IpIpCrossSubnet,
                    Dialect::Modern,
                ) => {
                    writeln!(
                        out,
                        "  # IP-in-IP: this BIRD has no tunnels; set programClusterRoutes of Felix to EnabledIPIPOnly."
                    )?;
                    writeln!(out, "  if net ~ [ {cidr}+ ] then reject;")?;
                }
                _ => {
                    writeln!(out, "  # Programmed by the policy side.\n  if net ~ [ {cidr}+ ] then reject;")?
                }
            }
        }
    }
    writeln!(out, "  accept;\n}}")
}

/// Whether a text may stand between quotes.
fn quotable(text: &str) -> bool {
    !text.contains(['"', '\n', '\r', '\0'])
}

fn session(
    out: &mut String,
    config: &SpeakerConfig,
    peer: &PeerConfig,
    families: FamilySet,
    dialect: Dialect,
) -> Written {
    let name = &peer.name;
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return writeln!(out, "\n# A session is left out: its name is no symbol.");
    }
    for family in families.iter() {
        import_filter(out, &format!("import{}_{name}", number(family)), peer)?;
        export_filter(out, &format!("export{}_{name}", number(family)), peer, family)?;
    }
    writeln!(out, "\nprotocol bgp {name} {{")?;
    let local = peer
        .local_address
        .filter(|_| dialect == Dialect::Modern)
        .map(|a| format!(" {a}"))
        .unwrap_or_default();
    let own_port = match dialect {
        Dialect::Modern if config.listen_port != crate::wire::iana::BGP_PORT => {
            format!(" port {}", config.listen_port)
        }
        _ => String::new(),
    };
    writeln!(out, "  local{local}{own_port} as {};", peer.local_as)?;
    writeln!(out, "  neighbor {} port {} as {};", peer.address, peer.port, peer.remote_as)?;
    if let (Dialect::Fork(_), Some(address)) = (dialect, peer.local_address) {
        writeln!(out, "  source address {address};")?;
    }
    match peer.ttl {
        Ttl::Multihop(hops) => writeln!(out, "  ttl security off;\n  multihop {hops};")?,
        Ttl::Security(hops) => writeln!(out, "  ttl security on;\n  multihop {hops};")?,
    }
    if dialect != Dialect::Modern {
        let family = Family::of(peer.address);
        channel(out, peer, family, "  ")?;
    }
    if peer.passive {
        writeln!(out, "  passive on;")?;
    }
    writeln!(out, "  connect delay time {};", peer.connect_delay.as_secs().max(1))?;
    writeln!(out, "  connect retry time {};", peer.connect_retry.as_secs().max(1))?;
    writeln!(
        out,
        "  error wait time {},{};",
        peer.error_wait.0.as_secs().max(1),
        peer.error_wait.1.as_secs().max(1)
    )?;
    writeln!(out, "  hold time {};", peer.hold_time.as_secs())?;
    if let Some(time) = peer.keepalive_time {
        writeln!(out, "  keepalive time {};", time.as_secs().max(1))?;
    }
    if let Some(restart) = &peer.graceful_restart {
        writeln!(out, "  graceful restart on;\n  graceful restart time {};", restart.restart_time.as_secs())?;
    }
    if let Some(cluster) = peer.reflector_client {
        writeln!(out, "  rr client;\n  rr cluster id {cluster};")?;
    }
    if peer.allow_own_as > 0 {
        writeln!(out, "  allow local as {};", peer.allow_own_as)?;
    }
    authentication(out, peer)?;
    if dialect == Dialect::Modern {
        for family in families.iter() {
            writeln!(out, "  {family} {{")?;
            channel(out, peer, family, "    ")?;
            if let Some(address) = own_address(peer, family).filter(|_| Family::of(peer.address) != family) {
                writeln!(out, "    next hop address {address};")?;
            }
            if peer.extended_next_hop && family == Family::Ipv4 {
                writeln!(out, "    extended next hop on;")?;
            }
            if let Some(limit) = peer.max_prefixes {
                writeln!(out, "    receive limit {limit} action disable;")?;
            }
            writeln!(out, "  }};")?;
        }
    }
    writeln!(out, "}}")
}

fn own_address(peer: &PeerConfig, family: Family) -> Option<IpAddr> {
    [peer.local_address, peer.other_family_address].into_iter().flatten().find(|a| Family::of(*a) == family)
}

/// What a channel says in BIRD 2 and the protocol itself in BIRD 1.6.
fn channel(out: &mut String, peer: &PeerConfig, family: Family, indent: &str) -> Written {
    let (name, number) = (&peer.name, number(family));
    writeln!(out, "{indent}import filter import{number}_{name};")?;
    writeln!(out, "{indent}export filter export{number}_{name};")?;
    match (peer.add_path_receive, peer.add_path_send) {
        (true, true) => writeln!(out, "{indent}add paths on;")?,
        (true, false) => writeln!(out, "{indent}add paths rx;")?,
        (false, true) => writeln!(out, "{indent}add paths tx;")?,
        (false, false) => {}
    }
    match peer.next_hop {
        NextHopMode::Auto => Ok(()),
        NextHopMode::SelfAddress => writeln!(out, "{indent}next hop self;"),
        NextHopMode::Keep => writeln!(out, "{indent}next hop keep;"),
    }
}

fn authentication(out: &mut String, peer: &PeerConfig) -> Written {
    let refused = match &peer.authentication {
        Authentication::None => None,
        Authentication::Md5(key) => match std::str::from_utf8(key) {
            Ok(key) if quotable(key) => {
                writeln!(out, "  password \"{key}\";")?;
                None
            }
            _ => Some("the password has a quote, a line break or is no text".to_owned()),
        },
        Authentication::Ao(_) => Some("this BIRD does not sign with TCP-AO".to_owned()),
        Authentication::Unavailable(why) => Some(why.replace(['\n', '\r'], " ")),
    };
    match refused {
        Some(why) => writeln!(out, "  disabled yes; # {why}"),
        None if peer.disabled => writeln!(out, "  disabled yes;"),
        None => Ok(()),
    }
}

/// The LOCAL_PREF of ordinary routes.
const fn normal_local_pref(priority: u32) -> u32 {
    METRIC_CEILING - if priority == 0 { NORMAL_PRIORITY } else { priority }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LocalRoute;
    use expect_test::expect_file;
    use std::sync::Arc;

    fn full() -> SpeakerConfig {
        use crate::policy::*;
        let set = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<NetSet>();
        let calico = Arc::new(CalicoExport {
            normal_priority: 1024,
            disabled_pools: set(&["10.9.0.0/16"]),
            owns_ipip: false,
            communities: vec![CommunityRule {
                cidr: "10.1.0.0/16".parse().unwrap(),
                communities: vec![
                    CommunityValue::Standard(65000 << 16 | 7),
                    CommunityValue::Large([50, 50, 5364]),
                ],
            }],
            own_blocks: set(&["10.1.0.64/26", "10.1.9.0/26"]),
            service_routes: set(&["10.96.0.0/12", "203.0.113.5/32"]),
            reflected_services: set(&["203.0.113.0/24"]),
            pools: set(&["10.1.0.0/16", "10.2.0.0/16"]),
        });
        let rule = FilterRule {
            internal: None,
            cidr: Some(CidrMatch::In("10.1.5.0/24".parse().unwrap(), 26, 32)),
            learned: true,
            interface: Some("eth*".into()),
            community: Some(CommunityValue::Standard(65000 << 16 | 1)),
            as_path_prefix: vec![65001, 65002],
            priority: Some(512),
            action: FilterAction::Accept(vec![
                Operation::AddCommunity(CommunityValue::Large([1, 2, 3])),
                Operation::PrependAsPath(vec![65010, 65011]),
                Operation::SetPriority(100),
            ]),
        };
        let refuse = FilterRule {
            cidr: Some(CidrMatch::NotEqual("10.3.0.0/16".parse().unwrap())),
            internal: Some(false),
            ..FilterRule::all(FilterAction::Reject)
        };
        let filter = Arc::new(Filter { name: "tor".into(), rules: vec![rule, refuse] });
        let peer = |name: &str, address: &str, local_as, remote_as| {
            let mut peer = PeerConfig::new(name, address.parse().unwrap(), local_as, remote_as);
            let own = if peer.address.is_ipv4() { "10.0.0.1" } else { "fd00::1" };
            peer.local_address = Some(own.parse().unwrap());
            peer.import.elevated_above = Some(normal_local_pref(1024));
            peer.export =
                Arc::new(ExportPolicy { filters: Default::default(), calico: Some(calico.clone()) });
            peer
        };
        let mesh = peer("Mesh_10_0_0_2", "10.0.0.2", 64512, 64512);
        let mut tor = peer("Global_192_0_2_1", "192.0.2.1", 64512, 65001);
        tor.ttl = Ttl::Security(2);
        tor.authentication = Authentication::Md5(b"s3cret".as_slice().into());
        tor.next_hop = NextHopMode::SelfAddress;
        tor.import.filters = vec![filter.clone()];
        let filters = [(Family::Ipv4, vec![filter])].into();
        tor.export = Arc::new(ExportPolicy { filters, calico: Some(calico.clone()) });
        let mut broken = peer("Node_10_0_0_3", "10.0.0.3", 64512, 64512);
        broken.authentication = Authentication::Md5(b"a\"; protocol x".as_slice().into());
        broken.reflector_client = Some("244.0.0.1".parse().unwrap());
        let six = peer("Mesh_fd00__2", "fd00::2", 64512, 64512);
        let mut config = SpeakerConfig::new("10.0.0.1".parse().unwrap(), 64512)
            .with_peer(mesh)
            .with_peer(tor)
            .with_peer(broken)
            .with_peer(six)
            .with_route("10.1.0.64/26".parse().unwrap(), LocalRoute::blackhole())
            .with_route("10.1.9.0/26".parse().unwrap(), LocalRoute::blackhole())
            .with_route("203.0.113.5/32".parse().unwrap(), LocalRoute::announced())
            .with_route("192.0.2.1/32".parse().unwrap(), LocalRoute::through("10.0.0.254".parse().unwrap()))
            .with_route("fd10::/122".parse().unwrap(), LocalRoute::blackhole());
        let pool = |cidr: &str, encapsulation, owned| PoolRoute {
            cidr: cidr.parse().unwrap(),
            encapsulation,
            owned,
        };
        config.fib = Arc::new(FibPolicy {
            disabled: false,
            reject: set(&["10.96.0.0/12", "203.0.113.5/32"]),
            wireguard: ["10.0.0.66".parse().unwrap()].into(),
            pools: vec![
                pool("10.1.0.0/16", PoolEncapsulation::None, true),
                pool("10.2.0.0/16", PoolEncapsulation::IpIpCrossSubnet, true),
                pool("10.3.0.0/16", PoolEncapsulation::Vxlan, false),
            ],
            own_network: Some("10.0.0.0/24".parse().unwrap()),
        });
        config
    }

    #[test]
    fn golden_files() {
        let settings = BirdSettings { ignored_interfaces: vec!["docker*".into()], debug: false };
        let golden = |dialect| render(&full(), &settings, dialect);
        expect_file!["../../tests/golden/bird2.conf"].assert_eq(&golden(Dialect::Modern));
        expect_file!["../../tests/golden/bird.cfg"].assert_eq(&golden(Dialect::Fork(Family::Ipv4)));
        expect_file!["../../tests/golden/bird6.cfg"].assert_eq(&golden(Dialect::Fork(Family::Ipv6)));
    }

    #[test]
    fn a_hostile_password_spoils_only_its_own_session() {
        let text = render(&full(), &BirdSettings::default(), Dialect::Modern);
        assert!(!text.contains("protocol x"));
        assert_eq!(text.matches("disabled yes;").count(), 1);
        assert!(text.contains("password \"s3cret\";"));
    }
}
