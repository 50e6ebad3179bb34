//! What an agent does once: it looks at its host and makes sure that its Node resource says the truth.

use std::net::IpAddr;
use std::sync::Arc;

use calico_dataplane::netlink::{Family, NetlinkError, RouteFilter, Rtnetlink};
use calico_datastore::{Condition, Datastore, Effect, ListRequest, StoreError, Write};
use calico_model::{AnyResource, Key, Kind, Node, NodeAddress, NodeBgpSpec, OrchRef, Timestamp, Value};
use ipnet::IpNet;

use super::autodetect::{Interface, Method, choose};
use super::settings::Settings;

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// The kernel does not answer.
    #[error("cannot read the interfaces of this host: {0}")]
    Netlink(#[from] NetlinkError),
    /// The datastore does not take the node.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No address can be found.
    #[error(
        "no IPv4 address of this node was found ({skipped}); name one with --ip (IP) or a method with \
         --ip-autodetection-method (IP_AUTODETECTION_METHOD)"
    )]
    NoAddress {
        /// What was passed over, and why.
        skipped: String,
    },
    /// A configured value is not what it should be.
    #[error("{name}={value:?} is not {expected}")]
    Setting {
        /// Name of the variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Another node has the address.
    #[error(
        "node {other:?} has the address {address} already; two nodes of one name or one address cannot work"
    )]
    AddressTaken {
        /// The other node.
        other: String,
        /// The address.
        address: IpAddr,
    },
}

/// Addresses of this host by family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4 with the length of its subnet.
    pub v4: Option<IpNet>,
    /// IPv6 with the length of its subnet.
    pub v6: Option<IpNet>,
}

/// Interfaces of the network namespace of the calling thread.
pub fn interfaces() -> Result<Vec<Interface>, NetlinkError> {
    let mut netlink = Rtnetlink::open()?;
    let links = netlink.links()?;
    let addresses = netlink.addresses()?;
    let mut defaults = Vec::new();
    for family in [Family::V4, Family::V6] {
        let routes = netlink.routes(&RouteFilter::main(family))?;
        defaults
            .extend(routes.iter().filter(|route| route.dst.prefix_len() == 0).filter_map(|r| r.interface()));
    }
    Ok(links
        .into_iter()
        .map(|link| Interface {
            up: link.is_up(),
            addresses: addresses.iter().filter(|a| a.interface == link.index).map(|a| a.net).collect(),
            default_route: defaults.contains(&link.index),
            kind: link.kind.unwrap_or_default(),
            name: link.name,
        })
        .collect())
}

/// The node's addresses as the settings want them; pure.
pub fn addresses(settings: &Settings, interfaces: &[Interface]) -> Result<Addresses, StartupError> {
    let v4 = address("IP", &settings.ip, false, &settings.ip_autodetection_method, interfaces)?;
    let v6 = address("IP6", &settings.ip6, true, &settings.ip6_autodetection_method, interfaces)?;
    Ok(Addresses { v4, v6 })
}

fn address(
    name: &'static str,
    wanted: &str,
    v6: bool,
    method: &Method,
    interfaces: &[Interface],
) -> Result<Option<IpNet>, StartupError> {
    match wanted {
        "none" => Ok(None),
        "" | "autodetect" => {
            let choice = choose(interfaces, v6, method);
            if let Some((interface, net)) = &choice.found {
                tracing::info!(%interface, address = %net, "found the node's address");
            }
            let skipped: Vec<String> = choice.skipped.iter().map(ToString::to_string).collect();
            tracing::debug!(?skipped, "interfaces passed over");
            match choice.found {
                Some((_, net)) => Ok(Some(net)),
                None if v6 => Ok(None),
                None => Err(StartupError::NoAddress { skipped: skipped.join("; ") }),
            }
        }
        text => {
            let expected = if v6 { "an IPv6 address or CIDR" } else { "an IPv4 address or CIDR" };
            let wrong = || StartupError::Setting { name, value: text.to_owned(), expected };
            let net = match text.parse::<IpNet>() {
                Ok(net) => net,
                Err(_) => {
                    let bare: IpAddr = text.parse().map_err(|_| wrong())?;
                    // The length of the subnet stands on the interface that has the address.
                    let on_host = interfaces.iter().flat_map(|i| &i.addresses).find(|net| net.addr() == bare);
                    on_host.copied().unwrap_or_else(|| IpNet::from(bare))
                }
            };
            if net.addr().is_ipv6() == v6 { Ok(Some(net)) } else { Err(wrong()) }
        }
    }
}

/// The Node resource as it should be, from what is stored; pure. What is not this function's stays as it is.
pub fn desired_node(
    name: &str,
    stored: Option<&Node>,
    addresses: Addresses,
    as_number: Option<&str>,
    bgp: bool,
) -> Result<Node, StartupError> {
    let mut node = stored.cloned().unwrap_or_else(|| Node::new(name, Default::default()));
    let spec = &mut node.spec;
    if bgp {
        let section = spec.bgp.get_or_insert_with(NodeBgpSpec::default);
        if let Some(v4) = addresses.v4 {
            section.ipv4_address = v4.to_string();
        }
        if let Some(v6) = addresses.v6 {
            section.ipv6_address = v6.to_string();
        }
        if let Some(text) = as_number.filter(|text| !text.is_empty()) {
            section.as_number = Some(text.parse().map_err(|_| StartupError::Setting {
                name: "AS",
                value: text.to_owned(),
                expected: "an AS number (1 to 4294967295, or high.low)",
            })?);
        }
    }
    let own: Vec<String> =
        [addresses.v4, addresses.v6].into_iter().flatten().map(|net| net.to_string()).collect();
    spec.addresses.retain(|address| address.address_type.as_str() != "CalicoNodeIP");
    let mut all: Vec<NodeAddress> =
        own.into_iter().map(|address| NodeAddress { address, address_type: "CalicoNodeIP".into() }).collect();
    all.append(&mut spec.addresses);
    spec.addresses = all;
    if spec.orch_refs.is_empty() {
        spec.orch_refs.push(OrchRef { node_name: name.to_owned(), orchestrator: "k8s".to_owned() });
    }
    node.metadata.name = name.to_owned();
    Ok(node)
}

/// Another node with one of the addresses.
pub fn rival<'a>(
    name: &str,
    addresses: Addresses,
    nodes: impl Iterator<Item = &'a Node>,
) -> Option<(String, IpAddr)> {
    let own: Vec<IpAddr> = [addresses.v4, addresses.v6].into_iter().flatten().map(|net| net.addr()).collect();
    for node in nodes.filter(|node| node.metadata.name != name) {
        let Some(bgp) = &node.spec.bgp else { continue };
        for text in [&bgp.ipv4_address, &bgp.ipv6_address] {
            let address = text.parse::<IpNet>().map(|net| net.addr()).or_else(|_| text.parse());
            if let Ok(address) = address
                && own.contains(&address)
            {
                return Some((node.metadata.name.clone(), address));
            }
        }
    }
    None
}

/// Writes the Node resource when it differs from what should be.
pub async fn register(
    store: &dyn Datastore,
    name: &str,
    addresses: Addresses,
    as_number: Option<&str>,
    bgp: bool,
) -> Result<(), StartupError> {
    let key = Key::resource(Kind::Node, "", name);
    for attempt in 0.. {
        let list = store.list(&ListRequest::kind(Kind::Node)).await?;
        let nodes = list.items.iter().filter_map(|pair| match &pair.value {
            Value::Resource(resource) => match &**resource {
                AnyResource::Node(node) => Some((&pair.key, &**node, &pair.revision)),
                _ => None,
            },
            _ => None,
        });
        let nodes: Vec<_> = nodes.collect();
        if let Some((other, address)) = rival(name, addresses, nodes.iter().map(|(_, node, _)| *node)) {
            return Err(StartupError::AddressTaken { other, address });
        }
        let stored = nodes.iter().find(|(stored, ..)| **stored == key);
        let mut node = desired_node(name, stored.map(|(_, node, _)| *node), addresses, as_number, bgp)?;
        let condition = match stored {
            Some((_, old, _)) if **old == node => return Ok(()),
            Some((_, _, revision)) => Condition::Revision((*revision).clone()),
            None => {
                node.metadata.uid = uuid::Uuid::new_v4().to_string();
                node.metadata.creation_timestamp = Some(now());
                Condition::Absent
            }
        };
        node.metadata.resource_version.clear();
        let value = Value::Resource(Arc::new(AnyResource::from(node)));
        let write = Write { key: key.clone(), condition, effect: Effect::Put(value, None) };
        match store.txn(vec![write]).await {
            Ok(_) => {
                tracing::info!(node = name, "registered the node");
                return Ok(());
            }
            Err(error) if (error.is_conflict() || error.exists()) && attempt < 10 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn now() -> Timestamp {
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    Timestamp::from_unix_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(text: &str) -> Addresses {
        Addresses { v4: Some(text.parse().unwrap()), v6: None }
    }

    #[test]
    fn a_node_is_made_once_and_then_left_alone() {
        let made = desired_node("n", None, v4("10.0.0.1/24"), None, true).unwrap();
        assert_eq!(made.spec.bgp.as_ref().unwrap().ipv4_address, "10.0.0.1/24");
        let again = desired_node("n", Some(&made), v4("10.0.0.1/24"), None, true).unwrap();
        assert_eq!(made, again);
    }

    #[test]
    fn what_others_wrote_stays() {
        let mut stored = Node::new("n", Default::default());
        stored.metadata.labels.insert("rack".into(), "1".into());
        stored.spec.ipv4_vxlan_tunnel_addr = "10.244.0.1".into();
        stored.spec.bgp =
            Some(NodeBgpSpec { ipv4_ipip_tunnel_addr: "10.244.0.2".into(), ..NodeBgpSpec::default() });
        let node = desired_node("n", Some(&stored), v4("10.0.0.9/24"), Some("65001"), true).unwrap();
        assert_eq!(node.metadata.labels["rack"], "1");
        assert_eq!(node.spec.ipv4_vxlan_tunnel_addr, "10.244.0.1");
        let bgp = node.spec.bgp.unwrap();
        assert_eq!(
            (bgp.ipv4_ipip_tunnel_addr.as_str(), bgp.as_number.map(|n| n.0)),
            ("10.244.0.2", Some(65001))
        );
    }

    #[test]
    fn bad_settings_are_named() {
        let error = desired_node("n", None, v4("10.0.0.1/24"), Some("x"), true).unwrap_err();
        assert!(error.to_string().contains("AS=\"x\""), "{error}");
        let interfaces =
            [Interface { addresses: vec!["10.0.0.1/24".parse().unwrap()], ..Interface::default() }];
        let net = address("IP", "10.0.0.1", false, &Method::FirstFound, &interfaces).unwrap();
        assert_eq!(net.unwrap().prefix_len(), 24);
        assert!(address("IP", "fd00::1", false, &Method::FirstFound, &interfaces).is_err());
        assert!(address("IP", "autodetect", false, &Method::FirstFound, &[]).is_err());
    }

    #[test]
    fn two_nodes_with_one_address_are_noticed() {
        let other = desired_node("other", None, v4("10.0.0.1/24"), None, true).unwrap();
        assert_eq!(
            rival("n", v4("10.0.0.1/16"), [&other].into_iter()),
            Some(("other".to_owned(), "10.0.0.1".parse().unwrap()))
        );
        assert_eq!(rival("other", v4("10.0.0.1/16"), [&other].into_iter()), None);
    }
}
