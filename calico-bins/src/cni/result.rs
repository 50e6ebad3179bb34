//! Results of ADD: one internal form, read from and printed in every version of the CNI specification.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::error::{CniError, code};

/// The result of an attachment, in the shape of CNI 1.1.0.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AddResult {
    /// Interfaces that the plugin made.
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<Ip>,
    /// Routes inside the container.
    pub routes: Vec<Route>,
    /// DNS settings, handed on as they came.
    pub dns: Dns,
}

/// An interface of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// MAC address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// MTU; 0 when unknown. CNI 1.1.0 and later.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// Path of the network namespace, empty for a host interface.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Path of the socket behind the interface (DPDK and the like). CNI 1.1.0 and later.
    #[serde(rename = "socketPath", default, skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// PCI address of the device. CNI 1.1.0 and later.
    #[serde(rename = "pciID", default, skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    /// Address with prefix length, host bits kept.
    pub address: IpNet,
    /// Gateway.
    pub gateway: Option<IpAddr>,
    /// Index into the interfaces.
    pub interface: Option<usize>,
}

/// A route of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination, host bits kept.
    pub dst: IpNet,
    /// Next hop.
    pub gw: Option<IpAddr>,
    /// What CNI 1.1.0 added; handed on as it came.
    pub more: RouteExtras,
}

impl Route {
    /// A route without attributes.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, more: RouteExtras::default() }
    }
}

/// Attributes of a route since CNI 1.1.0. Zero is a table and a scope of its own, so absence is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteExtras {
    /// MTU of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Maximum segment size announced to TCP peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Priority, lower wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u32>,
}

/// DNS settings of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// `(major, minor, patch)` of a version text; `None` when it is not three numbers.
pub fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(|part| part.parse::<u32>().ok());
    let version = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(version)
}

impl AddResult {
    /// Reads a result that names its own version, as a delegate prints it.
    pub fn from_json(text: &[u8]) -> Result<Self, CniError> {
        let value: Value = serde_json::from_slice(text).map_err(|e| {
            CniError::new(code::DECODING, "the result of the plugin is not JSON").details(e.to_string())
        })?;
        Self::from_value(&value)
    }

    /// Reads a result that is already JSON, for example `prevResult`.
    pub fn from_value(value: &Value) -> Result<Self, CniError> {
        let version = value.get("cniVersion").and_then(Value::as_str).unwrap_or("0.1.0");
        let parsed = parse_version(version).ok_or_else(|| {
            CniError::new(code::DECODING, format!("result has an invalid cniVersion {version:?}"))
        })?;
        let mut result = Self { dns: field(value, "dns")?, ..Self::default() };
        if parsed < (0, 3, 0) {
            for key in ["ip4", "ip6"] {
                if let Some(one) = value.get(key).filter(|v| !v.is_null()) {
                    result.ips.push(Ip {
                        address: required(one, "ip", key)?,
                        gateway: optional(one, "gateway")?,
                        interface: None,
                    });
                    read_routes(one, &mut result.routes)?;
                }
            }
            return Ok(result);
        }
        result.interfaces = field(value, "interfaces")?;
        for one in list(value, "ips") {
            result.ips.push(Ip {
                address: required(one, "address", "ips")?,
                gateway: optional(one, "gateway")?,
                interface: one.get("interface").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()),
            });
        }
        read_routes(value, &mut result.routes)?;
        Ok(result)
    }

    /// This plugin's result behind what earlier plugins of the chain did: theirs stays as it is, ours is added.
    #[must_use]
    pub fn after(mut self, previous: Option<Self>) -> Self {
        let Some(mut merged) = previous else { return self };
        let shift = merged.interfaces.len();
        for ip in &mut self.ips {
            ip.interface = ip.interface.map(|index| index + shift);
        }
        merged.interfaces.append(&mut self.interfaces);
        merged.ips.append(&mut self.ips);
        merged.routes.append(&mut self.routes);
        if self.dns != Dns::default() {
            merged.dns = self.dns;
        }
        merged
    }

    /// The addresses of the interface `name` inside the container. A result that names no interfaces (an IPAM
    /// plugin's, or one before 0.3.0) speaks of one interface only, and all addresses are its own.
    pub fn addresses_of(&self, name: &str) -> Vec<IpAddr> {
        let ours = |ip: &&Ip| match ip.interface.and_then(|index| self.interfaces.get(index)) {
            Some(interface) => interface.name == name && !interface.sandbox.is_empty(),
            None => ip.interface.is_none(),
        };
        self.ips.iter().filter(ours).map(|ip| ip.address.addr()).collect()
    }

    /// The interface `name` inside the container.
    pub fn container_interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.name == name && !i.sandbox.is_empty())
    }

    /// The result as JSON of CNI version `version`. Versions before 0.3.0 hold one address per family and no
    /// interfaces.
    pub fn to_value(&self, version: &str) -> Result<Value, CniError> {
        let parsed = parse_version(version).ok_or_else(|| {
            CniError::new(code::INCOMPATIBLE_VERSION, format!("invalid cniVersion {version:?}"))
        })?;
        let mut out = Map::new();
        out.insert("cniVersion".into(), json!(version));
        let routes = |v6: Option<bool>| -> Vec<Value> {
            self.routes
                .iter()
                .filter(|r| v6.is_none_or(|v6| r.dst.addr().is_ipv6() == v6))
                .map(|route| route_json(route, parsed >= (1, 1, 0)))
                .collect()
        };
        if parsed < (0, 3, 0) {
            for (key, v6) in [("ip4", false), ("ip6", true)] {
                if let Some(ip) = self.ips.iter().find(|ip| ip.address.addr().is_ipv6() == v6) {
                    let mut one = Map::new();
                    one.insert("ip".into(), json!(ip.address.to_string()));
                    if let Some(gateway) = ip.gateway {
                        one.insert("gateway".into(), json!(gateway));
                    }
                    let routes = routes(Some(v6));
                    if !routes.is_empty() {
                        one.insert("routes".into(), Value::Array(routes));
                    }
                    out.insert(key.into(), Value::Object(one));
                }
            }
        } else {
            if !self.interfaces.is_empty() {
                let mut interfaces = self.interfaces.clone();
                if parsed < (1, 1, 0) {
                    for interface in &mut interfaces {
                        interface.mtu = 0;
                        interface.socket_path.clear();
                        interface.pci_id.clear();
                    }
                }
                out.insert("interfaces".into(), json!(interfaces));
            }
            let ips: Vec<Value> = self.ips.iter().map(|ip| ip_json(ip, parsed < (1, 0, 0))).collect();
            if !ips.is_empty() {
                out.insert("ips".into(), Value::Array(ips));
            }
            let routes = routes(None);
            if !routes.is_empty() {
                out.insert("routes".into(), Value::Array(routes));
            }
        }
        out.insert("dns".into(), json!(self.dns));
        Ok(Value::Object(out))
    }
}

fn ip_json(ip: &Ip, with_version: bool) -> Value {
    let mut one = Map::new();
    if with_version {
        one.insert("version".into(), json!(if ip.address.addr().is_ipv6() { "6" } else { "4" }));
    }
    if let Some(interface) = ip.interface {
        one.insert("interface".into(), json!(interface));
    }
    one.insert("address".into(), json!(ip.address.to_string()));
    if let Some(gateway) = ip.gateway {
        one.insert("gateway".into(), json!(gateway));
    }
    Value::Object(one)
}

fn route_json(route: &Route, with_extras: bool) -> Value {
    let mut one = match serde_json::to_value(&route.more) {
        Ok(Value::Object(extras)) if with_extras => extras,
        _ => Map::new(),
    };
    one.insert("dst".into(), json!(route.dst.to_string()));
    if let Some(gw) = route.gw {
        one.insert("gw".into(), json!(gw));
    }
    Value::Object(one)
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn decoding(key: &str, error: impl std::fmt::Display) -> CniError {
    CniError::new(code::DECODING, format!("result field {key:?} is invalid")).details(error.to_string())
}

fn field<T: serde::de::DeserializeOwned + Default>(value: &Value, key: &str) -> Result<T, CniError> {
    match value.get(key) {
        None | Some(Value::Null) => Ok(T::default()),
        Some(inner) => T::deserialize(inner).map_err(|e| decoding(key, e)),
    }
}

fn required<T: std::str::FromStr>(value: &Value, key: &str, parent: &str) -> Result<T, CniError>
where
    T::Err: std::fmt::Display,
{
    let text = value
        .get(key)
        .and_then(Value::as_str)
        .ok_or_else(|| decoding(&format!("{parent}.{key}"), "it is missing or not a string"))?;
    text.parse().map_err(|e| decoding(&format!("{parent}.{key}"), format!("{text:?}: {e}")))
}

fn optional<T: std::str::FromStr>(value: &Value, key: &str) -> Result<Option<T>, CniError>
where
    T::Err: std::fmt::Display,
{
    match value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|e| decoding(key, format!("{text:?}: {e}"))),
    }
}

fn read_routes(value: &Value, routes: &mut Vec<Route>) -> Result<(), CniError> {
    for one in list(value, "routes") {
        let more = RouteExtras::deserialize(one).map_err(|e| decoding("routes", e))?;
        routes.push(Route { dst: required(one, "dst", "routes")?, gw: optional(one, "gw")?, more });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> AddResult {
        AddResult {
            interfaces: vec![
                Interface { name: "calic440f455693".into(), ..Interface::default() },
                Interface {
                    name: "eth0".into(),
                    mac: "8e:11:5c:00:00:01".into(),
                    mtu: 1450,
                    sandbox: "/n/x".into(),
                    ..Interface::default()
                },
            ],
            ips: vec![
                Ip { address: "10.0.0.5/32".parse().unwrap(), gateway: None, interface: Some(1) },
                Ip { address: "fd00::5/128".parse().unwrap(), gateway: None, interface: Some(1) },
            ],
            routes: vec![Route::new("0.0.0.0/0".parse().unwrap(), Some("169.254.1.1".parse().unwrap()))],
            dns: Dns::default(),
        }
    }

    #[test]
    fn every_version_reads_back_what_it_can_hold() {
        for version in crate::cni::SUPPORTED_VERSIONS {
            let value = sample().to_value(version).unwrap();
            let back = AddResult::from_value(&value).unwrap();
            assert_eq!(
                back.ips.iter().map(|ip| ip.address).collect::<Vec<_>>(),
                sample().ips.iter().map(|ip| ip.address).collect::<Vec<_>>(),
                "{version}"
            );
            assert_eq!(back.routes, sample().routes, "{version}");
            if parse_version(version) >= Some((0, 3, 0)) {
                assert_eq!(back.interfaces.len(), 2, "{version}");
            }
        }
    }

    #[test]
    fn old_forms_have_the_old_fields() {
        let v02 = sample().to_value("0.2.0").unwrap();
        assert_eq!(v02["ip4"]["ip"], "10.0.0.5/32");
        assert!(v02.get("interfaces").is_none());
        let v04 = sample().to_value("0.4.0").unwrap();
        assert_eq!(v04["ips"][1]["version"], "6");
        let v10 = sample().to_value("1.0.0").unwrap();
        assert!(v10["ips"][0].get("version").is_none());
        assert!(v10["interfaces"][1].get("mtu").is_none());
        assert_eq!(sample().to_value("1.1.0").unwrap()["interfaces"][1]["mtu"], 1450);
    }

    #[test]
    fn what_earlier_plugins_did_stays_and_ours_follows() {
        let text = br#"{"cniVersion":"1.1.0",
            "interfaces":[{"name":"dummy0","sandbox":"/n/x","pciID":"0000:00:02.0","socketPath":"/s"}],
            "ips":[{"interface":0,"address":"192.0.2.7/24"}],
            "routes":[{"dst":"198.51.100.0/24","mtu":1400,"table":0,"priority":7}],"dns":{"nameservers":["9.9.9.9"]}}"#;
        let previous = AddResult::from_json(text).unwrap();
        let merged = sample().after(Some(previous));
        assert_eq!(merged.interfaces.len(), 3);
        assert_eq!(merged.ips.iter().map(|ip| ip.interface).collect::<Vec<_>>(), [Some(0), Some(2), Some(2)]);
        assert_eq!(merged.addresses_of("eth0").len(), 2);
        assert_eq!(merged.addresses_of("dummy0").len(), 1);
        assert_eq!(merged.container_interface("eth0").unwrap().mtu, 1450);
        let newest = merged.to_value("1.1.0").unwrap();
        assert_eq!(newest["routes"][0], json!({"dst":"198.51.100.0/24","mtu":1400,"table":0,"priority":7}));
        assert_eq!(newest["interfaces"][0]["pciID"], "0000:00:02.0");
        assert_eq!(newest["dns"]["nameservers"][0], "9.9.9.9");
        let older = merged.to_value("1.0.0").unwrap();
        assert_eq!(older["routes"][0], json!({"dst":"198.51.100.0/24"}));
        assert!(older["interfaces"][0].get("pciID").is_none());
        assert_eq!(sample().after(None), sample());
    }

    #[test]
    fn malformed_results_are_named() {
        for (text, part) in [
            ("{", "not JSON"),
            (r#"{"cniVersion":"1"}"#, "cniVersion"),
            (r#"{"cniVersion":"1.0.0","ips":[{}]}"#, "ips.address"),
            (r#"{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.300/32"}]}"#, "ips.address"),
            (r#"{"cniVersion":"1.0.0","routes":[{"dst":"x"}]}"#, "routes.dst"),
            (r#"{"cniVersion":"1.0.0","interfaces":7}"#, "interfaces"),
        ] {
            let error = AddResult::from_json(text.as_bytes()).unwrap_err();
            assert_eq!(error.code, code::DECODING);
            assert!(error.msg.contains(part), "{text}: {error}");
        }
    }
}
