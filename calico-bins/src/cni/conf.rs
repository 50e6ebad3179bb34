//! The network configuration on standard input.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::SUPPORTED_VERSIONS;
use super::env::{Command, is_plain_name};
use super::error::{CniError, code};
use super::result::{AddResult, parse_version};

/// What the plugins read of a network configuration. Everything else stays in [`NetConf::raw`] and reaches
/// the IPAM delegate untouched.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NetConf {
    /// `cniVersion`; `0.1.0` when absent.
    #[serde(rename = "cniVersion", deserialize_with = "null_as_default")]
    pub cni_version: String,
    /// Name of the network.
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    /// Type of the plugin.
    #[serde(rename = "type", deserialize_with = "null_as_default")]
    pub plugin_type: String,
    /// The `ipam` section.
    #[serde(deserialize_with = "null_as_default")]
    pub ipam: IpamConf,
    /// MTU of the pod interface; 0 = not set.
    pub mtu: u32,
    /// A missing MTU file is an error.
    pub require_mtu_file: bool,
    /// Queues of the veth in both directions.
    pub num_queues: i64,
    /// Kind of the pod's interface: empty or `veth`, or `netkit`.
    #[serde(deserialize_with = "null_as_default")]
    pub device_type: String,
    /// Name of this node; wins over every other source.
    #[serde(deserialize_with = "null_as_default")]
    pub nodename: String,
    /// File that holds the node's name.
    #[serde(deserialize_with = "null_as_default")]
    pub nodename_file: String,
    /// A missing nodename file is not an error.
    pub nodename_file_optional: bool,
    /// Deprecated source of the node's name.
    #[serde(deserialize_with = "null_as_default")]
    pub hostname: String,
    /// `sqlite` (default), `etcdv3` or `kubernetes`.
    #[serde(deserialize_with = "null_as_default")]
    pub datastore_type: String,
    /// Path of the embedded datastore.
    #[serde(deserialize_with = "null_as_default")]
    pub datastore_path: String,
    /// Comma-separated etcd endpoints.
    #[serde(deserialize_with = "null_as_default")]
    pub etcd_endpoints: String,
    /// Domain whose SRV records name the etcd endpoints.
    #[serde(deserialize_with = "null_as_default")]
    pub etcd_discovery_srv: String,
    /// Deprecated: `host:port` of one etcd endpoint.
    #[serde(deserialize_with = "null_as_default")]
    pub etcd_authority: String,
    /// Deprecated: scheme that goes with `etcd_authority`.
    #[serde(deserialize_with = "null_as_default")]
    pub etcd_scheme: String,
    /// etcd client key file.
    #[serde(deserialize_with = "null_as_default")]
    pub etcd_key_file: String,
    /// etcd client certificate file.
    #[serde(deserialize_with = "null_as_default")]
    pub etcd_cert_file: String,
    /// etcd CA file.
    #[serde(deserialize_with = "null_as_default")]
    pub etcd_ca_cert_file: String,
    /// The `kubernetes` section.
    #[serde(deserialize_with = "null_as_default")]
    pub kubernetes: KubernetesConf,
    /// API group of Calico's resources in Kubernetes.
    #[serde(deserialize_with = "null_as_default")]
    pub calico_api_group: String,
    /// Requests per second to the Kubernetes API; 0 = the client's default.
    pub qps: f64,
    /// Burst of requests to the Kubernetes API; 0 = the client's default.
    pub burst: u32,
    /// Unix socket of the node agent.
    #[serde(deserialize_with = "null_as_default")]
    pub agent_socket: String,
    /// The `policy` section.
    #[serde(deserialize_with = "null_as_default")]
    pub policy: PolicyConf,
    /// `debug`, `info` or `error`.
    #[serde(deserialize_with = "null_as_default")]
    pub log_level: String,
    /// File that the plugin logs to, besides standard error.
    #[serde(deserialize_with = "null_as_default")]
    pub log_file_path: String,
    /// Size in MB at which the log file is rotated; 0 = 100.
    pub log_file_max_size: u64,
    /// Days that rotated log files are kept; 0 = 30.
    pub log_file_max_age: u64,
    /// Rotated log files that are kept; 0 = 10.
    pub log_file_max_count: usize,
    /// Feature gates.
    #[serde(deserialize_with = "null_as_default")]
    pub feature_control: FeatureControl,
    /// Container settings.
    #[serde(deserialize_with = "null_as_default")]
    pub container_settings: ContainerSettings,
    /// Seconds to wait for the endpoint's policy; unset = 10. 0 turns the wait off.
    pub policy_setup_timeout_seconds: Option<i64>,
    /// Where an agent of another make notes the endpoints that are in force.
    #[serde(deserialize_with = "null_as_default")]
    pub endpoint_status_dir: String,
    /// URLs that must answer before a pod is attached.
    #[serde(deserialize_with = "null_as_default")]
    pub readiness_gates: Vec<String>,
    /// With host-local routes: the default routes besides them.
    pub include_default_routes: bool,
    /// Another dataplane than the kernel's; none is offered.
    #[serde(deserialize_with = "null_as_default")]
    pub dataplane_options: BTreeMap<String, Value>,
    /// What the runtime decided for this attachment.
    #[serde(rename = "runtimeConfig", deserialize_with = "null_as_default")]
    pub runtime: RuntimeConf,
    /// `args` by orchestrator.
    #[serde(deserialize_with = "null_as_default")]
    pub args: BTreeMap<String, Value>,
    /// Directory of the work that was put off; empty = the default.
    #[serde(deserialize_with = "null_as_default")]
    pub journal_dir: String,
    /// Host-wide IPAM lock.
    #[serde(deserialize_with = "null_as_default")]
    pub ipam_lock_file: String,
    /// What earlier plugins of the chain did.
    #[serde(rename = "prevResult")]
    pub prev_result: Option<Value>,
    /// GC: the attachments that are still valid.
    #[serde(rename = "cni.dev/valid-attachments", alias = "cni.dev/attachments")]
    pub valid_attachments: Option<Vec<Attachment>>,
    /// The configuration as it came.
    #[serde(skip)]
    pub raw: Value,
}

/// The `ipam` section.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct IpamConf {
    /// IPAM plugin.
    #[serde(rename = "type", deserialize_with = "null_as_default")]
    pub plugin_type: String,
    /// Assign an IPv4 address; text or boolean, only `false` turns it off.
    #[serde(deserialize_with = "bool_text")]
    pub assign_ipv4: Option<bool>,
    /// Assign an IPv6 address; text or boolean, only `true` turns it on.
    #[serde(deserialize_with = "bool_text")]
    pub assign_ipv6: Option<bool>,
    /// Names or CIDRs of the IPv4 pools to use.
    #[serde(deserialize_with = "null_as_default")]
    pub ipv4_pools: Vec<String>,
    /// Names or CIDRs of the IPv6 pools to use.
    #[serde(deserialize_with = "null_as_default")]
    pub ipv6_pools: Vec<String>,
    /// host-local: routes inside the pod.
    #[serde(deserialize_with = "null_as_default")]
    pub routes: Vec<RouteConf>,
}

/// A route of the `ipam` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RouteConf {
    /// Destination. The gateway is always the node.
    pub dst: IpNet,
}

impl IpamConf {
    /// Whether an IPv4 address is wanted (default yes).
    pub fn wants_ipv4(&self) -> bool {
        self.assign_ipv4.unwrap_or(true)
    }

    /// Whether an IPv6 address is wanted (default no).
    pub fn wants_ipv6(&self) -> bool {
        self.assign_ipv6.unwrap_or(false)
    }
}

/// The `policy` section.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PolicyConf {
    /// `k8s`: the pod and its namespace decide labels and profiles.
    #[serde(rename = "type", deserialize_with = "null_as_default")]
    pub policy_type: String,
    /// URL of the API server; what follows `/api/` is cut off.
    #[serde(deserialize_with = "null_as_default")]
    pub k8s_api_root: String,
    /// Bearer token.
    #[serde(deserialize_with = "null_as_default")]
    pub k8s_auth_token: String,
    /// Client certificate file.
    #[serde(deserialize_with = "null_as_default")]
    pub k8s_client_certificate: String,
    /// Client key file.
    #[serde(deserialize_with = "null_as_default")]
    pub k8s_client_key: String,
    /// Authority file.
    #[serde(deserialize_with = "null_as_default")]
    pub k8s_certificate_authority: String,
}

/// The `kubernetes` section.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct KubernetesConf {
    /// Path of a kubeconfig.
    #[serde(deserialize_with = "null_as_default")]
    pub kubeconfig: String,
    /// URL of the API server; wins over that of the `policy` section.
    #[serde(deserialize_with = "null_as_default")]
    pub k8s_api_root: String,
    /// Name of the Node object whose podCIDRs are used, when it is not the node's name.
    #[serde(deserialize_with = "null_as_default")]
    pub node_name: String,
}

/// What a runtime adds for one attachment.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RuntimeConf {
    /// MAC address of the pod's interface.
    #[serde(deserialize_with = "null_as_default")]
    pub mac: String,
    /// Addresses that the pod must get, with or without a prefix length.
    #[serde(deserialize_with = "null_as_default")]
    pub ips: Vec<String>,
}

impl RuntimeConf {
    /// The addresses that the pod must get.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, CniError> {
        let parse = |text: &String| {
            let address = text.split('/').next().unwrap_or_default().trim();
            address.parse().map_err(|_| {
                CniError::new(code::INVALID_CONFIG, format!("invalid IP format: {text}"))
                    .details("runtimeConfig.ips is a list of addresses, for example [\"10.0.0.5/24\"]")
            })
        };
        self.ips.iter().map(parse).collect()
    }
}

/// Feature gates.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct FeatureControl {
    /// Allow the `ipAddrsNoIpam` annotation.
    pub ip_addrs_no_ipam: bool,
    /// Allow the `floatingIPs` annotation.
    pub floating_ips: bool,
}

/// Container settings.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ContainerSettings {
    /// Forwarding inside the container.
    pub allow_ip_forwarding: bool,
}

/// One attachment of GC.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Attachment {
    /// Container ID.
    #[serde(rename = "containerID", default)]
    pub container_id: String,
    /// Interface name.
    #[serde(default)]
    pub ifname: String,
}

fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

fn bool_text<'de, D: Deserializer<'de>>(d: D) -> Result<Option<bool>, D::Error> {
    Ok(match Option::<Value>::deserialize(d)? {
        Some(Value::Bool(b)) => Some(b),
        Some(Value::String(s)) if s == "true" => Some(true),
        Some(Value::String(s)) if s == "false" => Some(false),
        // The reference takes only these two words to mean anything.
        Some(Value::String(_)) | None | Some(Value::Null) => None,
        Some(other) => {
            return Err(serde::de::Error::custom(format!("expected \"true\" or \"false\", got {other}")));
        }
    })
}

impl NetConf {
    /// Reads and checks a configuration for `command`.
    ///
    /// ```
    /// use calico_bins::cni::{conf::NetConf, env::Command};
    /// let conf = NetConf::parse(br#"{"cniVersion":"1.0.0","name":"n","type":"calico"}"#, Command::Add).unwrap();
    /// assert!(conf.ipam.wants_ipv4());
    /// ```
    pub fn parse(text: &[u8], command: Command) -> Result<Self, CniError> {
        let raw: Value = serde_json::from_slice(text).map_err(|e| {
            CniError::new(code::DECODING, "the network configuration is not JSON").details(format!(
                "line {}, column {}: {e}",
                e.line(),
                e.column()
            ))
        })?;
        if !raw.is_object() {
            return Err(CniError::new(code::DECODING, "the network configuration is not a JSON object"));
        }
        let mut conf = Self::deserialize(&raw).map_err(|e| {
            CniError::new(code::DECODING, "the network configuration is invalid").details(e.to_string())
        })?;
        conf.raw = raw;
        if conf.cni_version.is_empty() {
            conf.cni_version = "0.1.0".into();
        }
        check_version(&conf.cni_version, command)?;
        if matches!(command, Command::Add | Command::Del | Command::Check | Command::Gc)
            && !is_plain_name(&conf.name)
        {
            let what = if conf.name.is_empty() {
                "missing network name"
            } else {
                "invalid characters in network name"
            };
            return Err(CniError::new(code::INVALID_CONFIG, what)
                .details(format!("name: {:?}: letters, digits, '_', '.' and '-'", conf.name)));
        }
        if conf.policy_setup_timeout_seconds.is_some_and(|s| s < 0) {
            return Err(CniError::new(code::INVALID_CONFIG, "policy_setup_timeout_seconds is negative"));
        }
        if let Some(kind) = conf.dataplane_options.get("type").and_then(Value::as_str)
            && command == Command::Add
        {
            return Err(CniError::new(code::UNSUPPORTED_FIELD, format!("invalid dataplane type: {kind}"))
                .details("dataplane_options: leave it out; pods are attached through the kernel"));
        }
        if !matches!(conf.device_type.as_str(), "" | "veth" | "netkit") {
            return Err(CniError::new(
                code::INVALID_CONFIG,
                format!("invalid device_type {:?}", conf.device_type),
            )
            .details("device_type is \"veth\" or \"netkit\""));
        }
        Ok(conf)
    }

    /// What earlier plugins of the chain did, if any.
    pub fn previous(&self) -> Result<Option<AddResult>, CniError> {
        self.prev_result.as_ref().filter(|v| !v.is_null()).map(AddResult::from_value).transpose()
    }

    /// Settings of the datastore in the form of environment variables; they win over inherited ones.
    pub fn datastore_settings(&self) -> BTreeMap<String, String> {
        let policy = &self.policy;
        let legacy = match self.etcd_authority.as_str() {
            "" => String::new(),
            authority if self.etcd_scheme.is_empty() => format!("http://{authority}"),
            authority => format!("{}://{authority}", self.etcd_scheme),
        };
        let endpoints = if self.etcd_endpoints.is_empty() { &legacy } else { &self.etcd_endpoints };
        // Old configurations name the API by its version 1 root.
        let root = match self.kubernetes.k8s_api_root.as_str() {
            "" => policy.k8s_api_root.split("/api/").next().unwrap_or_default(),
            root => root,
        };
        let number = |value: f64| if value > 0.0 { value.to_string() } else { String::new() };
        let (qps, burst) = (number(self.qps), number(self.burst.into()));
        [
            ("DATASTORE_TYPE", self.datastore_type.as_str()),
            ("CALICO_DATASTORE_PATH", &self.datastore_path),
            ("ETCD_ENDPOINTS", endpoints),
            ("ETCD_DISCOVERY_SRV", &self.etcd_discovery_srv),
            ("ETCD_KEY_FILE", &self.etcd_key_file),
            ("ETCD_CERT_FILE", &self.etcd_cert_file),
            ("ETCD_CA_CERT_FILE", &self.etcd_ca_cert_file),
            ("KUBECONFIG", &self.kubernetes.kubeconfig),
            ("K8S_API_ENDPOINT", root),
            ("K8S_API_TOKEN", &policy.k8s_auth_token),
            ("K8S_CERT_FILE", &policy.k8s_client_certificate),
            ("K8S_KEY_FILE", &policy.k8s_client_key),
            ("K8S_CA_FILE", &policy.k8s_certificate_authority),
            ("CALICO_API_GROUP", &self.calico_api_group),
            ("K8S_CLIENT_QPS", &qps),
            ("K8S_CLIENT_BURST", &burst),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
    }

    /// Labels that Mesos gives a task, under keys and with values that Calico accepts.
    pub fn mesos_labels(&self) -> BTreeMap<String, String> {
        let pairs = self
            .args
            .get("org.apache.mesos")
            .and_then(|mesos| mesos.pointer("/network_info/labels/labels"))
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        let text =
            |pair: &Value, key: &str| pair.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let label = |pair: &Value| (sanitise(&text(pair, "key")), sanitise(&text(pair, "value")));
        pairs.iter().map(label).filter(|(key, _)| !key.is_empty()).collect()
    }
}

/// Turns what no label may contain into dashes, and cuts off what no label may begin or end with.
fn sanitise(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-');
    let replaced: String = text.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    replaced.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

/// Refuses versions that are unknown, and commands that are newer than the configuration's version.
fn check_version(version: &str, command: Command) -> Result<(), CniError> {
    if !SUPPORTED_VERSIONS.contains(&version) {
        return Err(CniError::new(code::INCOMPATIBLE_VERSION, "incompatible CNI versions")
            .details(format!("config is {version:?}, plugin supports [{}]", SUPPORTED_VERSIONS.join(" "))));
    }
    if parse_version(version) < parse_version(command.since()) {
        return Err(CniError::new(
            code::INCOMPATIBLE_VERSION,
            format!("config version {version} does not allow {}", command.as_str()),
        )
        .details(format!("{} needs cniVersion {} or later", command.as_str(), command.since())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, command: Command) -> CniError {
        NetConf::parse(text.as_bytes(), command).unwrap_err()
    }

    #[test]
    fn malformed_configurations() {
        for (text, expected) in [
            ("", code::DECODING),
            ("[]", code::DECODING),
            (r#"{"cniVersion":"1.0.0","name":7}"#, code::DECODING),
            (r#"{"cniVersion":"1.0.0","type":"calico"}"#, code::INVALID_CONFIG),
            (r#"{"cniVersion":"1.0.0","name":"a b"}"#, code::INVALID_CONFIG),
            (r#"{"cniVersion":"9.9.9","name":"n"}"#, code::INCOMPATIBLE_VERSION),
            (r#"{"cniVersion":"1.0","name":"n"}"#, code::INCOMPATIBLE_VERSION),
            (r#"{"cniVersion":"1.0.0","name":"n","policy_setup_timeout_seconds":-1}"#, code::INVALID_CONFIG),
            (r#"{"cniVersion":"1.0.0","name":"n","ipam":{"assign_ipv4":7}}"#, code::DECODING),
        ] {
            assert_eq!(refused(text, Command::Add).code, expected, "{text}");
        }
    }

    #[test]
    fn commands_newer_than_the_configuration_are_refused() {
        let text = r#"{"cniVersion":"0.3.1","name":"n"}"#;
        assert!(NetConf::parse(text.as_bytes(), Command::Add).is_ok());
        assert_eq!(refused(text, Command::Check).code, code::INCOMPATIBLE_VERSION);
        assert_eq!(refused(text, Command::Gc).code, code::INCOMPATIBLE_VERSION);
    }

    #[test]
    fn nulls_and_both_spellings_of_booleans_are_read() {
        let conf = NetConf::parse(
            br#"{"cniVersion":"1.0.0","name":"n","ipam":{"type":"calico-ipam","assign_ipv4":"false",
                "assign_ipv6":true,"ipv4_pools":null},"policy":null,"nodename":null}"#,
            Command::Add,
        )
        .unwrap();
        assert!(!conf.ipam.wants_ipv4());
        assert!(conf.ipam.wants_ipv6());
        assert_eq!(conf.raw["ipam"]["type"], "calico-ipam");
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_not_ignored() {
        for (text, expected) in [
            (r#"{"name":"n","device_type":"macvlan"}"#, code::INVALID_CONFIG),
            (r#"{"name":"n","dataplane_options":{"type":"grpc","socket":"/x"}}"#, code::UNSUPPORTED_FIELD),
            (r#"{"name":"n","ipam":{"routes":[{"dst":"10.0.0.0"}]}}"#, code::DECODING),
        ] {
            assert_eq!(refused(text, Command::Add).code, expected, "{text}");
        }
        let conf = NetConf::parse(br#"{"name":"n","runtimeConfig":{"ips":["x"]}}"#, Command::Add).unwrap();
        assert_eq!(conf.runtime.addresses().unwrap_err().code, code::INVALID_CONFIG);
        // What a container was attached with must not keep it from being detached.
        let grpc = br#"{"name":"n","dataplane_options":{"type":"grpc"}}"#;
        assert!(NetConf::parse(grpc, Command::Del).is_ok());
    }

    #[test]
    fn every_setting_of_a_datastore_reaches_it() {
        let conf = NetConf::parse(
            br#"{"name":"n","datastore_type":"kubernetes","etcd_authority":"a:1","etcd_scheme":"https",
                "etcd_discovery_srv":"x.org","kubernetes":{"kubeconfig":"/k"},"qps":7.5,"burst":9,
                "calico_api_group":"projectcalico.org/v3",
                "policy":{"k8s_api_root":"https://api:6443/api/v1/","k8s_auth_token":"t","k8s_client_key":"key",
                          "k8s_client_certificate":"cert","k8s_certificate_authority":"ca"}}"#,
            Command::Add,
        )
        .unwrap();
        let expected = [
            ("CALICO_API_GROUP", "projectcalico.org/v3"),
            ("DATASTORE_TYPE", "kubernetes"),
            ("ETCD_DISCOVERY_SRV", "x.org"),
            ("ETCD_ENDPOINTS", "https://a:1"),
            ("K8S_API_ENDPOINT", "https://api:6443"),
            ("K8S_API_TOKEN", "t"),
            ("K8S_CA_FILE", "ca"),
            ("K8S_CERT_FILE", "cert"),
            ("K8S_CLIENT_BURST", "9"),
            ("K8S_CLIENT_QPS", "7.5"),
            ("K8S_KEY_FILE", "key"),
            ("KUBECONFIG", "/k"),
        ];
        let settings = conf.datastore_settings();
        let settings: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(settings, expected);
    }

    #[test]
    fn labels_of_mesos_become_labels() {
        let conf = NetConf::parse(
            br#"{"name":"n","args":{"org.apache.mesos":{"network_info":{"labels":{"labels":
                [{"key":"app name","value":"-web:1-"},{"key":"!","value":"x"}]}}}}}"#,
            Command::Add,
        )
        .unwrap();
        assert_eq!(conf.mesos_labels(), BTreeMap::from([("app-name".to_owned(), "web-1".to_owned())]));
    }

    #[test]
    fn no_version_counts_as_the_first() {
        let conf = NetConf::parse(br#"{"name":"n"}"#, Command::Add).unwrap();
        assert_eq!(conf.cni_version, "0.1.0");
    }
}
