//! What `calico` does for the reference IPAM plugin `host-local`: the node's podCIDRs in place of a word, and the
//! routes of its section inside the pod.

use calico_model::k8s::KubernetesObject;
use calico_model::{AnyResource, Key, Kind, KubernetesKind, Value as Stored};
use ipnet::IpNet;
use serde_json::Value;

use super::conf::NetConf;
use super::error::CniError;
use super::store::{Connection, store_error};

/// The name of the plugin.
pub const NAME: &str = "host-local";

/// Where the networks that stand for the node's podCIDRs come from.
#[derive(Debug)]
pub enum PodCidrs<'a> {
    /// The Node object of this name.
    Of(&'a Connection, &'a str),
    /// Nobody looks at them: what is released is named by the container.
    Any,
}

/// The configuration for the plugin: `usePodCidr` and `usePodCidrIPv6` become networks. Any other plugin's stays as
/// it is.
pub fn prepare(conf: &NetConf, raw: &Value, cidrs: &PodCidrs<'_>) -> Result<Value, CniError> {
    let mut prepared = raw.clone();
    if conf.ipam.plugin_type != NAME {
        return Ok(prepared);
    }
    let Some(ipam) = prepared.get_mut("ipam") else { return Ok(prepared) };
    let mut places = Vec::new();
    places.push("/subnet".to_owned());
    for (i, set) in ipam.get("ranges").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let ranges = set.as_array().map_or(0, Vec::len);
        places.extend((0..ranges).map(|j| format!("/ranges/{i}/{j}/subnet")));
    }
    let mut networks = None;
    for place in places {
        let Some(subnet) = ipam.pointer_mut(&place) else { continue };
        let Some(v6) = subnet.as_str().and_then(placeholder) else { continue };
        let networks = match &mut networks {
            Some(known) => known,
            unknown => unknown.insert(cidrs.find(conf)?),
        };
        let network = if v6 { networks.v6 } else { networks.v4 };
        let Some(network) = network else {
            let family = if v6 { "IPv6" } else { "IPv4" };
            return Err(CniError::generic(format!(
                "usePodCidr found but there is no {family} CIDR configured"
            )));
        };
        *subnet = network.to_string().into();
    }
    Ok(prepared)
}

/// Destinations that the pod reaches through the node: those of the section if it has any, else everything.
pub fn routes(conf: &NetConf) -> Vec<IpNet> {
    let default = [IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())];
    if conf.ipam.plugin_type != NAME || conf.ipam.routes.is_empty() {
        return default.to_vec();
    }
    let mut routes: Vec<IpNet> = conf.ipam.routes.iter().map(|route| route.dst.trunc()).collect();
    if conf.include_default_routes {
        routes.extend(default);
    }
    routes.sort();
    routes.dedup();
    routes
}

/// The family that a placeholder stands for: true for IPv6.
fn placeholder(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "usepodcidr" => Some(false),
        "usepodcidripv6" => Some(true),
        _ => None,
    }
}

/// One network of each family at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Networks {
    v4: Option<IpNet>,
    v6: Option<IpNet>,
}

impl Networks {
    fn new(node: &str, texts: &[String]) -> Result<Self, CniError> {
        let mut networks = Self::default();
        for text in texts {
            let net: IpNet = text.parse().map_err(|_| {
                CniError::generic(format!("node {node} has an invalid podCIDR {text:?}"))
                    .details("spec.podCIDRs of the Node is a list of networks")
            })?;
            let slot = if net.addr().is_ipv6() { &mut networks.v6 } else { &mut networks.v4 };
            if slot.replace(net).is_some() {
                return Err(CniError::generic("ClusterCIDR contains two ranges of the same type")
                    .details(format!("podCIDRs of node {node}: {}", texts.join(", "))));
            }
        }
        Ok(networks)
    }
}

impl PodCidrs<'_> {
    fn find(&self, conf: &NetConf) -> Result<Networks, CniError> {
        let (connection, node) = match self {
            Self::Any => {
                return Ok(Networks {
                    v4: Some(IpNet::V4(ipnet::Ipv4Net::default())),
                    v6: Some(IpNet::V6(ipnet::Ipv6Net::default())),
                });
            }
            Self::Of(connection, node) => (connection, *node),
        };
        let node = match conf.kubernetes.node_name.as_str() {
            "" => node,
            name => name,
        };
        let cidrs = pod_cidrs(connection, node)?;
        if cidrs.is_empty() {
            return Err(CniError::generic(format!("no podCidr for node {node}"))
                .details("the Node has no spec.podCIDR: does the controller manager allocate node CIDRs?"));
        }
        Networks::new(node, &cidrs)
    }
}

/// The podCIDRs of the Kubernetes Node, or else of the Calico Node of that name.
fn pod_cidrs(connection: &Connection, node: &str) -> Result<Vec<String>, CniError> {
    let get = |key: Key| connection.store.get(&key).map_err(store_error);
    if let Some(pair) = get(Key::kubernetes(KubernetesKind::Node, "", node))?
        && let Stored::Kubernetes(object) = &pair.value
        && let KubernetesObject::Node(found) = &**object
    {
        if !found.spec.pod_cidrs.is_empty() {
            return Ok(found.spec.pod_cidrs.clone());
        }
        if !found.spec.pod_cidr.is_empty() {
            return Ok(vec![found.spec.pod_cidr.clone()]);
        }
    }
    if let Some(pair) = get(Key::resource(Kind::Node, "", node))?
        && let Stored::Resource(resource) = &pair.value
        && let AnyResource::Node(found) = &**resource
    {
        return Ok(found.status.as_ref().map(|status| status.pod_cidrs.clone()).unwrap_or_default());
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::super::env::Command;
    use super::*;
    use serde_json::json;

    fn conf(ipam: &Value) -> NetConf {
        let text = json!({"cniVersion": "1.0.0", "name": "n", "ipam": ipam}).to_string();
        NetConf::parse(text.as_bytes(), Command::Add).unwrap()
    }

    #[test]
    fn placeholders_become_networks_wherever_they_stand() {
        let conf = conf(&json!({"type": "host-local", "subnet": "usepodcidr", "dataDir": "/x",
            "ranges": [[{"subnet": "usePodCidr"}], [{"subnet": "usePodCidrIPv6"}, {"subnet": "10.9.0.0/24"}]]}));
        let prepared = prepare(&conf, &conf.raw, &PodCidrs::Any).unwrap();
        assert_eq!(
            prepared["ipam"],
            json!({"type": "host-local", "subnet": "0.0.0.0/0", "dataDir": "/x",
                "ranges": [[{"subnet": "0.0.0.0/0"}], [{"subnet": "::/0"}, {"subnet": "10.9.0.0/24"}]]})
        );
    }

    #[test]
    fn other_plugins_and_plain_subnets_are_left_alone() {
        for ipam in [
            json!({"type": "static", "subnet": "usePodCidr"}),
            json!({"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}]]}),
            json!({"type": "host-local", "ranges": "none"}),
        ] {
            let conf = conf(&ipam);
            assert_eq!(prepare(&conf, &conf.raw, &PodCidrs::Any).unwrap(), conf.raw);
        }
    }

    #[test]
    fn a_node_has_at_most_one_network_of_each_family() {
        let nets =
            |texts: &[&str]| Networks::new("n", &texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        let both = nets(&["10.0.1.0/24", "fd00::/64"]).unwrap();
        assert_eq!(both.v4, Some("10.0.1.0/24".parse().unwrap()));
        assert_eq!(both.v6, Some("fd00::/64".parse().unwrap()));
        let twice = nets(&["10.0.1.0/24", "10.0.2.0/24"]).unwrap_err();
        assert_eq!(twice.msg, "ClusterCIDR contains two ranges of the same type");
        assert!(nets(&["x"]).unwrap_err().msg.contains("invalid podCIDR"));
    }

    #[test]
    fn routes_of_the_section_replace_the_default_ones() {
        let texts = |conf: &NetConf| routes(conf).iter().map(ToString::to_string).collect::<Vec<_>>();
        let section = json!({"type": "host-local", "routes": [{"dst": "10.9.8.7/16", "gw": "1.1.1.1"}]});
        let mut with_routes = conf(&section);
        assert_eq!(texts(&with_routes), ["10.9.0.0/16"]);
        with_routes.include_default_routes = true;
        assert_eq!(texts(&with_routes), ["0.0.0.0/0", "10.9.0.0/16", "::/0"]);
        assert_eq!(texts(&conf(&json!({"type": "host-local"}))), ["0.0.0.0/0", "::/0"]);
        assert_eq!(texts(&conf(&json!({"type": "calico-ipam", "routes": [{"dst": "10.0.0.0/8"}]}))).len(), 2);
    }
}
