//! Annotations of pods and namespaces that steer an attachment (`cni.projectcalico.org/…`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::conf::NetConf;
use super::error::CniError;

const PREFIX: &str = "cni.projectcalico.org/";

/// What the annotations ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Where addresses come from.
    pub addresses: Addresses,
    /// Pools by family; `None` leaves the configuration's.
    pub ipv4_pools: Option<Vec<String>>,
    /// Pools by family; `None` leaves the configuration's.
    pub ipv6_pools: Option<Vec<String>>,
    /// Families; `None` leaves the configuration's.
    pub families: Option<Families>,
    /// MAC address of the pod's interface, as text.
    pub mac: Option<String>,
    /// Source prefixes that the pod may use besides its addresses.
    pub allowed_source_prefixes: Vec<IpNet>,
    /// Floating addresses.
    pub floating_ips: Vec<IpAddr>,
}

/// Where the addresses of a pod come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Addresses {
    /// The IPAM plugin chooses.
    #[default]
    Any,
    /// These, through the IPAM plugin.
    Requested(Vec<IpAddr>),
    /// These, without asking the IPAM plugin.
    WithoutIpam(Vec<IpAddr>),
}

/// Families that a pod wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Wishes {
    /// Reads the annotations. Those of the pod win over those of its namespace, key by key.
    pub fn read(
        pod: &BTreeMap<String, String>,
        namespace: &BTreeMap<String, String>,
        conf: &NetConf,
    ) -> Result<Self, CniError> {
        let own = |key: &str| pod.get(&format!("{PREFIX}{key}")).map(String::as_str);
        let either =
            |key: &str| own(key).or_else(|| namespace.get(&format!("{PREFIX}{key}")).map(String::as_str));
        let strings = |key: &str, text: Option<&str>| text.map(|text| string_list(key, text)).transpose();

        let requested = own("ipAddrs");
        let without = own("ipAddrsNoIpam");
        let ipam = conf.ipam.plugin_type.as_str();
        let addresses = match (requested, without) {
            (Some(_), Some(_)) => {
                return Err(CniError::generic(
                    "can't have both annotations: 'ipAddrs' and 'ipAddrsNoIpam' in use at the same time",
                ));
            }
            (Some(text), None) => {
                if ipam != "calico-ipam" {
                    return Err(CniError::generic(format!(
                        "ipAddrs is not compatible with configured IPAM: {ipam}"
                    )));
                }
                Addresses::Requested(address_list("ipAddrs", text)?)
            }
            (None, Some(text)) => {
                if !conf.feature_control.ip_addrs_no_ipam {
                    return Err(CniError::generic("requested feature is not enabled: ip_addrs_no_ipam")
                        .details("set feature_control.ip_addrs_no_ipam in the network configuration"));
                }
                if ipam != "calico-ipam" {
                    return Err(CniError::generic(format!(
                        "ipAddrsNoIpam is not compatible with configured IPAM: {ipam}"
                    )));
                }
                Addresses::WithoutIpam(address_list("ipAddrsNoIpam", text)?)
            }
            (None, None) => Addresses::Any,
        };
        let floating_ips = match own("floatingIPs") {
            None => Vec::new(),
            Some(_) if !conf.feature_control.floating_ips => {
                return Err(CniError::generic("requested feature is not enabled: floating_ips")
                    .details("set feature_control.floating_ips in the network configuration"));
            }
            Some(text) => addresses_of(string_list("floatingIPs", text)?)?,
        };
        let families =
            either("ipFamilies").map(|text| families(string_list("ipFamilies", text)?, text)).transpose()?;
        let allowed_source_prefixes = match own("allowedSourcePrefixes") {
            None => Vec::new(),
            Some(text) => string_list("allowedSourcePrefixes", text)?
                .iter()
                .map(|cidr| {
                    parse_prefix(cidr).ok_or_else(|| {
                        CniError::generic(format!(
                            "invalid CIDR {cidr:?} in annotation \"{PREFIX}allowedSourcePrefixes\""
                        ))
                    })
                })
                .collect::<Result<_, _>>()?,
        };
        Ok(Self {
            addresses,
            ipv4_pools: strings("ipv4pools", either("ipv4pools"))?,
            ipv6_pools: strings("ipv6pools", either("ipv6pools"))?,
            families,
            mac: own("hwAddr").map(str::to_owned),
            allowed_source_prefixes,
            floating_ips,
        })
    }

    /// The network configuration for the IPAM delegate: pools and families as wished.
    pub fn rewrite(&self, raw: &Value) -> Value {
        let mut rewritten = raw.clone();
        let Some(ipam) = rewritten.get_mut("ipam").and_then(Value::as_object_mut) else {
            return rewritten;
        };
        for (key, pools) in [("ipv4_pools", &self.ipv4_pools), ("ipv6_pools", &self.ipv6_pools)] {
            if let Some(pools) = pools {
                ipam.insert(key.into(), Value::from(pools.clone()));
            }
        }
        if let Some(families) = self.families {
            ipam.insert("assign_ipv4".into(), families.v4.to_string().into());
            ipam.insert("assign_ipv6".into(), families.v6.to_string().into());
        }
        rewritten
    }
}

fn string_list(key: &str, text: &str) -> Result<Vec<String>, CniError> {
    serde_json::from_str(text).map_err(|e| {
        CniError::generic(format!(
            "failed to parse IPs {text} for annotation \"{PREFIX}{key}\": failed to parse '{text}' as JSON: {e}"
        ))
        .details("the value is a JSON list of strings, for example [\"10.0.0.1\"]")
    })
}

fn addresses_of(texts: Vec<String>) -> Result<Vec<IpAddr>, CniError> {
    texts
        .iter()
        .map(|text| text.parse().map_err(|_| CniError::generic(format!("invalid IP format: {text}"))))
        .collect()
}

/// A non-empty list of addresses, at most one per family.
fn address_list(key: &str, text: &str) -> Result<Vec<IpAddr>, CniError> {
    let addresses = addresses_of(string_list(key, text)?)?;
    if addresses.is_empty() {
        return Err(CniError::generic(format!("annotation \"{PREFIX}{key}\" specified but empty")));
    }
    for (family, v6) in [("IPv4", false), ("IPv6", true)] {
        if addresses.iter().filter(|a| a.is_ipv6() == v6).count() > 1 {
            return Err(CniError::generic(format!(
                "cannot have more than one {family} address for \"{PREFIX}{key}\" annotation"
            )));
        }
    }
    Ok(addresses)
}

fn families(words: Vec<String>, text: &str) -> Result<Families, CniError> {
    let mut families = Families::default();
    for word in &words {
        match word.as_str() {
            "IPv4" => families.v4 = true,
            "IPv6" => families.v6 = true,
            _ => {
                return Err(CniError::generic(format!("error parsing ipFamilies: {text}"))
                    .details("a JSON list of \"IPv4\" and \"IPv6\""));
            }
        }
    }
    if words.is_empty() {
        return Err(
            CniError::generic(format!("error parsing ipFamilies: {text}")).details("the list is empty")
        );
    }
    Ok(families)
}

/// A CIDR, masked, or a bare address.
fn parse_prefix(text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(net) => Some(net.trunc()),
        Err(_) => text.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf() -> NetConf {
        let mut conf = NetConf::default();
        conf.ipam.plugin_type = "calico-ipam".into();
        conf
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (format!("{PREFIX}{k}"), (*v).to_owned())).collect()
    }

    fn refused(pod: &[(&str, &str)]) -> String {
        Wishes::read(&map(pod), &BTreeMap::new(), &conf()).unwrap_err().msg
    }

    #[test]
    fn the_pod_wins_over_its_namespace() {
        let pod = map(&[("ipv4pools", r#"["a"]"#)]);
        let namespace = map(&[("ipv4pools", r#"["b"]"#), ("ipv6pools", r#"["c"]"#)]);
        let wishes = Wishes::read(&pod, &namespace, &conf()).unwrap();
        assert_eq!(wishes.ipv4_pools, Some(vec!["a".to_owned()]));
        assert_eq!(wishes.ipv6_pools, Some(vec!["c".to_owned()]));
        let raw = serde_json::json!({"ipam": {"type": "calico-ipam", "ipv4_pools": ["z"], "keep": 1}});
        let rewritten = wishes.rewrite(&raw);
        assert_eq!(rewritten["ipam"]["ipv4_pools"], serde_json::json!(["a"]));
        assert_eq!(rewritten["ipam"]["keep"], 1);
    }

    #[test]
    fn wrong_annotations_have_the_messages_that_operators_know() {
        assert_eq!(
            refused(&[("ipAddrs", r#"["10.0.0.1","10.0.0.2"]"#)]),
            "cannot have more than one IPv4 address for \"cni.projectcalico.org/ipAddrs\" annotation"
        );
        assert_eq!(refused(&[("ipAddrs", r#"["x"]"#)]), "invalid IP format: x");
        assert_eq!(
            refused(&[("ipAddrs", "[]")]),
            "annotation \"cni.projectcalico.org/ipAddrs\" specified but empty"
        );
        assert!(
            refused(&[("ipAddrs", "10.0.0.1")])
                .starts_with("failed to parse IPs 10.0.0.1 for annotation \"cni.projectcalico.org/ipAddrs\"")
        );
        assert_eq!(
            refused(&[("ipAddrs", r#"["10.0.0.1"]"#), ("ipAddrsNoIpam", r#"["10.0.0.1"]"#)]),
            "can't have both annotations: 'ipAddrs' and 'ipAddrsNoIpam' in use at the same time"
        );
        assert_eq!(
            refused(&[("ipAddrsNoIpam", r#"["10.0.0.1"]"#)]),
            "requested feature is not enabled: ip_addrs_no_ipam"
        );
        assert_eq!(refused(&[("ipFamilies", r#"["IPv5"]"#)]), r#"error parsing ipFamilies: ["IPv5"]"#);
        assert_eq!(refused(&[("floatingIPs", "[]")]), "requested feature is not enabled: floating_ips");
    }

    #[test]
    fn one_address_of_each_family_is_fine() {
        let pod =
            map(&[("ipAddrs", r#"["10.0.0.1","fd00::1"]"#), ("allowedSourcePrefixes", r#"["10.9.8.7/8"]"#)]);
        let wishes = Wishes::read(&pod, &BTreeMap::new(), &conf()).unwrap();
        assert!(matches!(wishes.addresses, Addresses::Requested(ref list) if list.len() == 2));
        assert_eq!(wishes.allowed_source_prefixes, ["10.0.0.0/8".parse::<IpNet>().unwrap()]);
    }
}
