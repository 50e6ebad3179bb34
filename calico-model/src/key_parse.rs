//! Paths back into keys.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::Kind;
use crate::key::*;

/// Why a path is not the path of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The path belongs to nothing this model knows; such entries are left alone.
    #[error("{path:?} is not a path of this datastore model")]
    Unknown {
        /// The path.
        path: String,
    },
    /// The path has a known shape, but a part is wrong.
    #[error("{path:?}: {part:?} is not {expected}")]
    Part {
        /// The path.
        path: String,
        /// The wrong part.
        part: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl Key {
    /// The key with the given path. A missing leading `/` is tolerated outside the resource paths.
    pub fn parse(path: &str) -> Result<Self, KeyError> {
        let unknown = || KeyError::Unknown { path: path.to_owned() };
        if let Some(rest) = path.strip_prefix(RESOURCE_PREFIX) {
            return resource(rest).ok_or_else(unknown);
        }
        if let Some(rest) = path.strip_prefix(KUBERNETES_PREFIX) {
            return kubernetes(rest).ok_or_else(unknown);
        }
        if path == "/calico/v1/Ready" {
            return Ok(Self::ReadyFlag);
        }
        let relative = path.strip_prefix('/').unwrap_or(path);
        let parts: Vec<&str> = relative.split('/').collect();
        match parts.as_slice() {
            ["calico", "ipam", "v2", rest @ ..] => ipam(path, rest),
            ["calico", "v1", rest @ ..] => dataplane(path, relative, rest),
            ["calico", "bgp", "v1", rest @ ..] => bgp(path, rest),
            ["calico", "felix", rest @ ..] => felix(path, rest),
            _ => Err(unknown()),
        }
    }
}

fn resource(rest: &str) -> Option<Key> {
    let mut parts = rest.split('/');
    let kind = Kind::from_plural(parts.next()?)?;
    let namespace = if kind.is_namespaced() { parts.next()? } else { "" };
    let name = parts.next()?;
    let complete =
        !name.is_empty() && parts.next().is_none() && (!kind.is_namespaced() || !namespace.is_empty());
    complete.then(|| Key::resource(kind, namespace, name))
}

fn kubernetes(rest: &str) -> Option<Key> {
    let mut parts = rest.split('/');
    let plural = parts.next()?;
    let kind = KubernetesKind::ALL.into_iter().find(|k| k.plural() == plural)?;
    let namespace = if kind.is_namespaced() { parts.next()? } else { "" };
    let name = parts.next()?;
    let complete =
        !name.is_empty() && parts.next().is_none() && (!kind.is_namespaced() || !namespace.is_empty());
    complete.then(|| Key::kubernetes(kind, namespace, name))
}

fn part(path: &str, part: &str, expected: &'static str) -> KeyError {
    KeyError::Part { path: path.to_owned(), part: part.to_owned(), expected }
}

/// `10.0.0.64-26` of the given family (`4` or `6` as last byte of the family part).
fn cidr(path: &str, family: &str, text: &str) -> Result<IpNet, KeyError> {
    let bad = || part(path, text, "a network such as 10.0.0.64-26");
    let (addr, len) = text.rsplit_once('-').ok_or_else(bad)?;
    let addr: IpAddr = addr.parse().map_err(|_| bad())?;
    let net = IpNet::new(addr, len.parse().map_err(|_| bad())?).map_err(|_| bad())?;
    let wanted_v4 = match family {
        "ipv4" | "v4" => true,
        "ipv6" | "v6" => false,
        _ => return Err(part(path, family, "ipv4 or ipv6")),
    };
    if wanted_v4 != addr.is_ipv4() {
        return Err(part(path, text, "a network of the family that the path names"));
    }
    Ok(net.trunc())
}

fn ipam(path: &str, rest: &[&str]) -> Result<Key, KeyError> {
    match rest {
        ["assignment", family, "block", net] => Ok(Key::Block(BlockKey { cidr: cidr(path, family, net)? })),
        ["handle", id] if !id.is_empty() => Ok(Key::handle(*id)),
        ["config"] => Ok(Key::IpamConfig),
        ["host", host] if !host.is_empty() => Ok(Key::IpamHost(IpamHostKey { host: (*host).to_owned() })),
        [owner, host, family, "block", net] if !host.is_empty() => {
            let owner_type = match *owner {
                "host" | "@" => AffinityType::Host,
                "virtual" => AffinityType::Virtual,
                other => return Err(part(path, other, "host or virtual")),
            };
            Ok(Key::affinity(owner_type, *host, cidr(path, family, net)?))
        }
        _ => Err(KeyError::Unknown { path: path.to_owned() }),
    }
}

fn endpoint_key(host: &str, orchestrator: &str, workload: &str, endpoint: &str) -> WorkloadEndpointKey {
    WorkloadEndpointKey {
        host: host.to_owned(),
        orchestrator: unescape(orchestrator),
        workload: unescape(workload),
        endpoint: unescape(endpoint),
    }
}

fn dataplane(path: &str, relative: &str, rest: &[&str]) -> Result<Key, KeyError> {
    let unknown = || KeyError::Unknown { path: path.to_owned() };
    let key = match rest {
        // Names of parameters may contain slashes: the rest of the path is the name.
        ["config", first, ..] if !first.is_empty() => {
            let name = relative.strip_prefix("calico/v1/config/").ok_or_else(unknown)?;
            Key::GlobalConfig { name: name.to_owned() }
        }
        ["host", host, "config", first, ..] if !first.is_empty() && !host.is_empty() => {
            let start = format!("calico/v1/host/{host}/config/");
            let name = relative.strip_prefix(start.as_str()).ok_or_else(unknown)?;
            Key::HostConfig { host: (*host).to_owned(), name: name.to_owned() }
        }
        ["host", host, "metadata"] => Key::HostMetadata { host: (*host).to_owned() },
        ["host", host, "wireguard"] => Key::Wireguard { host: (*host).to_owned() },
        ["host", host, "orchestrator_refs"] => Key::OrchRef { host: (*host).to_owned() },
        ["host", host, "workload", orchestrator, workload, "endpoint", endpoint] => {
            Key::WorkloadEndpoint(endpoint_key(host, orchestrator, workload, endpoint))
        }
        ["host", host, "endpoint", name] => {
            Key::HostEndpoint { host: (*host).to_owned(), name: unescape(name) }
        }
        ["netset", name] => Key::NetworkSet { name: unescape(name) },
        ["policy", "tier", name, "metadata"] => Key::Tier { name: (*name).to_owned() },
        ["policy", "tier", tier, "policy", name] => {
            Key::LegacyPolicy { tier: (*tier).to_owned(), name: unescape(name) }
        }
        ["policy", "profile", name, "rules"] => Key::ProfileRules { name: unescape(name) },
        ["policy", "profile", name, "labels"] => Key::ProfileLabels { name: unescape(name) },
        ["policy", kind, namespace, name] => Key::Policy {
            kind: kind.parse().map_err(|_| part(path, kind, "a kind of policy"))?,
            namespace: (*namespace).to_owned(),
            name: (*name).to_owned(),
        },
        ["ipam", family, "pool", net] => Key::IpPool { cidr: cidr(path, family, net)? },
        ["Ready"] => return Err(unknown()),
        _ => return Err(unknown()),
    };
    Ok(key)
}

fn bgp(path: &str, rest: &[&str]) -> Result<Key, KeyError> {
    let key = match rest {
        ["host", node, "peer_v4" | "peer_v6", peer] => {
            let (ip, port) = peer_address(path, peer)?;
            Key::NodeBgpPeer { node: (*node).to_owned(), ip, port }
        }
        ["global", "peer_v4" | "peer_v6", peer] => {
            let (ip, port) = peer_address(path, peer)?;
            Key::GlobalBgpPeer { ip, port }
        }
        ["host", node, name @ ..] if !name.is_empty() => {
            Key::NodeBgpConfig { node: (*node).to_owned(), name: name.join("/") }
        }
        ["global", name @ ..] if !name.is_empty() => Key::GlobalBgpConfig { name: name.join("/") },
        _ => return Err(KeyError::Unknown { path: path.to_owned() }),
    };
    Ok(key)
}

fn peer_address(path: &str, peer: &str) -> Result<(IpAddr, u16), KeyError> {
    let bad = || part(path, peer, "an address with optional -port");
    let (ip, port) = match peer.split_once('-') {
        None => (peer, 0),
        Some((ip, port)) => (ip, port.parse().map_err(|_| bad())?),
    };
    // Port 0 is written nowhere, and means the usual one.
    Ok((ip.parse().map_err(|_| bad())?, if port == 0 { 179 } else { port }))
}

fn felix(path: &str, rest: &[&str]) -> Result<Key, KeyError> {
    let owned = |s: &&str| (**s).to_owned();
    let key = match rest {
        ["v2", region, "host", host, "status"] => {
            Key::ActiveStatusReport { region: owned(region), host: owned(host) }
        }
        ["v2", region, "host", host, "last_reported_status"] => {
            Key::LastStatusReport { region: owned(region), host: owned(host) }
        }
        ["v2", region, "host", host, "workload", orchestrator, workload, "endpoint", endpoint] => {
            Key::WorkloadEndpointStatus {
                region: owned(region),
                endpoint: endpoint_key(host, orchestrator, workload, endpoint),
            }
        }
        ["v1", "host", host, "endpoint", name] => {
            Key::HostEndpointStatus { host: owned(host), name: unescape(name) }
        }
        _ => return Err(KeyError::Unknown { path: path.to_owned() }),
    };
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(key: Key, path: &str) {
        assert_eq!(key.path(), path);
        assert_eq!(Key::parse(path), Ok(key));
    }

    #[test]
    fn every_form() {
        let s = str::to_owned;
        both(
            Key::block("10.65.0.64/26".parse().unwrap()),
            "/calico/ipam/v2/assignment/ipv4/block/10.65.0.64-26",
        );
        both(
            Key::affinity(AffinityType::Host, "node1", "fd00:10:96::/122".parse().unwrap()),
            "/calico/ipam/v2/host/node1/ipv6/block/fd00:10:96::-122",
        );
        both(
            Key::affinity(AffinityType::Virtual, "lb", "10.0.0.0/26".parse().unwrap()),
            "/calico/ipam/v2/virtual/lb/ipv4/block/10.0.0.0-26",
        );
        both(Key::handle("k8s-pod-network.abc"), "/calico/ipam/v2/handle/k8s-pod-network.abc");
        both(Key::IpamConfig, "/calico/ipam/v2/config");
        both(Key::IpamHost(IpamHostKey { host: s("n") }), "/calico/ipam/v2/host/n");
        both(Key::ReadyFlag, "/calico/v1/Ready");
        both(Key::GlobalConfig { name: s("a/b") }, "/calico/v1/config/a/b");
        both(Key::HostConfig { host: s("n"), name: s("a/b") }, "/calico/v1/host/n/config/a/b");
        both(Key::HostMetadata { host: s("n") }, "/calico/v1/host/n/metadata");
        both(Key::Wireguard { host: s("n") }, "/calico/v1/host/n/wireguard");
        both(Key::OrchRef { host: s("n") }, "/calico/v1/host/n/orchestrator_refs");
        both(
            Key::WorkloadEndpoint(WorkloadEndpointKey {
                host: s("node-1"),
                orchestrator: s("k8s"),
                workload: s("default/nginx-abc"),
                endpoint: s("eth0"),
            }),
            "/calico/v1/host/node-1/workload/k8s/default%2fnginx-abc/endpoint/eth0",
        );
        both(Key::HostEndpoint { host: s("n"), name: s("a%/b") }, "/calico/v1/host/n/endpoint/a%25%2fb");
        both(Key::NetworkSet { name: s("ns1/a") }, "/calico/v1/netset/ns1%2fa");
        both(
            Key::Policy { kind: Kind::GlobalNetworkPolicy, namespace: s(""), name: s("deny") },
            "/calico/v1/policy/GlobalNetworkPolicy//deny",
        );
        both(Key::LegacyPolicy { tier: s("t"), name: s("ns/p") }, "/calico/v1/policy/tier/t/policy/ns%2fp");
        both(Key::Tier { name: s("default") }, "/calico/v1/policy/tier/default/metadata");
        both(Key::ProfileRules { name: s("kns.a") }, "/calico/v1/policy/profile/kns.a/rules");
        both(Key::ProfileLabels { name: s("kns.a") }, "/calico/v1/policy/profile/kns.a/labels");
        both(Key::IpPool { cidr: "10.0.0.0/16".parse().unwrap() }, "/calico/v1/ipam/v4/pool/10.0.0.0-16");
        both(Key::NodeBgpConfig { node: s("n"), name: s("as_num") }, "/calico/bgp/v1/host/n/as_num");
        both(Key::GlobalBgpConfig { name: s("node_mesh") }, "/calico/bgp/v1/global/node_mesh");
        both(
            Key::NodeBgpPeer { node: s("n"), ip: "10.0.0.1".parse().unwrap(), port: 179 },
            "/calico/bgp/v1/host/n/peer_v4/10.0.0.1",
        );
        both(
            Key::GlobalBgpPeer { ip: "fd00::1".parse().unwrap(), port: 1790 },
            "/calico/bgp/v1/global/peer_v6/fd00::1-1790",
        );
        both(
            Key::ActiveStatusReport { region: s("no-region"), host: s("n") },
            "/calico/felix/v2/no-region/host/n/status",
        );
        both(
            Key::LastStatusReport { region: s("region-eu"), host: s("n") },
            "/calico/felix/v2/region-eu/host/n/last_reported_status",
        );
        both(Key::HostEndpointStatus { host: s("n"), name: s("e") }, "/calico/felix/v1/host/n/endpoint/e");
        for kind in Kind::ALL {
            let ns = if kind.is_namespaced() { "ns" } else { "" };
            let key = Key::resource(*kind, ns, "x.y");
            assert_eq!(Key::parse(&key.path()), Ok(key));
        }
        for kind in KubernetesKind::ALL {
            let ns = if kind.is_namespaced() { "ns" } else { "" };
            let key = Key::kubernetes(kind, ns, "x.y");
            assert_eq!(Key::parse(&key.path()), Ok(key));
        }
        assert_eq!(
            Key::resource(Kind::WorkloadEndpoint, "default", "n-k8s-p-eth0").path(),
            "/calico/resources/v3/projectcalico.org/workloadendpoints/default/n-k8s-p-eth0"
        );
        assert_eq!(Key::kubernetes(KubernetesKind::Pod, "a", "b").path(), "/registry/pods/a/b");
    }

    #[test]
    fn tolerance_and_refusals() {
        assert_eq!(Key::parse("calico/v1/config/x"), Ok(Key::GlobalConfig { name: "x".into() }));
        assert_eq!(
            Key::parse("/calico/ipam/v2/@/n/ipv4/block/10.0.0.7-26"),
            Ok(Key::affinity(AffinityType::Host, "n", "10.0.0.0/26".parse().unwrap()))
        );
        assert_eq!(
            Key::parse("/calico/bgp/v1/global/peer_v4/10.0.0.1-0"),
            Ok(Key::GlobalBgpPeer { ip: "10.0.0.1".parse().unwrap(), port: 179 })
        );
        for bad in [
            "",
            "/",
            "calico/v1/Ready",
            "calico/resources/v3/projectcalico.org/tiers/x",
            "/calico/resources/v3/projectcalico.org/bogus/x",
            "/calico/resources/v3/projectcalico.org/tiers/",
            "/calico/resources/v3/projectcalico.org/networkpolicies/x",
            "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0",
            "/calico/ipam/v2/assignment/ipv6/block/10.0.0.0-26",
            "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-33",
            "/calico/v1/policy/Bogus/a/b",
            "/calico/v1/config/",
        ] {
            assert!(Key::parse(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parse_never_panics(path in "(/calico/(v1|ipam/v2|bgp/v1|felix|resources/v3))?[/a-z0-9:.%-]{0,40}") {
            if let Ok(key) = Key::parse(&path) {
                proptest::prop_assert_eq!(Key::parse(&key.path()), Ok(key));
            }
        }
    }
}
