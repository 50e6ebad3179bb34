//! The network configuration on standard input.

use std::collections::BTreeMap;

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
    /// etcd client key file.
    #[serde(deserialize_with = "null_as_default")]
    pub etcd_key_file: String,
    /// etcd client certificate file.
    #[serde(deserialize_with = "null_as_default")]
    pub etcd_cert_file: String,
    /// etcd CA file.
    #[serde(deserialize_with = "null_as_default")]
    pub etcd_ca_cert_file: String,
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
    /// Feature gates.
    #[serde(deserialize_with = "null_as_default")]
    pub feature_control: FeatureControl,
    /// Container settings.
    #[serde(deserialize_with = "null_as_default")]
    pub container_settings: ContainerSettings,
    /// Seconds to wait for the endpoint's policy; unset = 10. 0 turns the wait off.
    pub policy_setup_timeout_seconds: Option<i64>,
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
        Ok(conf)
    }

    /// What earlier plugins of the chain did, if any.
    pub fn previous(&self) -> Result<Option<AddResult>, CniError> {
        self.prev_result.as_ref().filter(|v| !v.is_null()).map(AddResult::from_value).transpose()
    }

    /// Settings of the datastore in the form of environment variables; they win over inherited ones.
    pub fn datastore_settings(&self) -> BTreeMap<String, String> {
        [
            ("DATASTORE_TYPE", &self.datastore_type),
            ("CALICO_DATASTORE_PATH", &self.datastore_path),
            ("ETCD_ENDPOINTS", &self.etcd_endpoints),
            ("ETCD_KEY_FILE", &self.etcd_key_file),
            ("ETCD_CERT_FILE", &self.etcd_cert_file),
            ("ETCD_CA_CERT_FILE", &self.etcd_ca_cert_file),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect()
    }
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
    fn no_version_counts_as_the_first() {
        let conf = NetConf::parse(br#"{"name":"n"}"#, Command::Add).unwrap();
        assert_eq!(conf.cni_version, "0.1.0");
    }
}
