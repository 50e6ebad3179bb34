//! The table of Felix parameters: name, type, default, allowed values. A parameter is declared here and nowhere else.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;

use super::parse::*;
use crate::resource::felix::ProtoPort;
use crate::{Dscp, GoDuration};

/// How a value is written outside of the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// As it is.
    Plain,
    /// A duration, as a number of seconds.
    Seconds,
    /// A duration, as a number of milliseconds.
    Milliseconds,
}

/// What is known about a parameter besides its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Name in files, annotations and (after `FELIX_`) the environment. Case does not matter there.
    pub name: &'static str,
    /// Name in the spec of a `FelixConfiguration`; empty when it has no place there.
    pub yaml: &'static str,
    /// Built-in default as text; empty for the zero value.
    pub default: &'static str,
    /// How a duration is written.
    pub unit: Unit,
    /// Allowed values, for people.
    pub accepts: &'static str,
    flags: u8,
}

/// `none` is no value for the parameter.
const REQUIRED: u8 = 1;
/// A bad value must stop the program.
const FATAL: u8 = 2;
/// The datastore cannot set the parameter.
const LOCAL: u8 = 4;

impl Parameter {
    /// True when the parameter must not be set to nothing.
    pub fn is_required(&self) -> bool {
        self.flags & REQUIRED != 0
    }

    /// True when a program must not start with a bad value.
    pub fn is_fatal(&self) -> bool {
        self.flags & FATAL != 0
    }

    /// True when only environment and file count, because the parameter is needed to reach the datastore.
    pub fn is_local(&self) -> bool {
        self.flags & LOCAL != 0
    }

    /// The parameter with the given name, any case.
    pub fn find(name: &str) -> Option<&'static Self> {
        PARAMETERS.iter().find(|p| p.name.eq_ignore_ascii_case(name))
    }

    /// The parameter with the given name in the resource.
    pub fn of_yaml(yaml: &str) -> Option<&'static Self> {
        PARAMETERS.iter().find(|p| !p.yaml.is_empty() && p.yaml == yaml)
    }

    /// Checks a text without keeping the value.
    pub fn check(&self, text: &str) -> Result<(), String> {
        FelixConfig::zero().assign(self.name, text)
    }
}

macro_rules! parameters {
    ($(
        $(#[$doc:meta])*
        $field:ident : $type:ty =
            $name:literal, $yaml:literal, $default:literal, $flags:expr, $unit:expr, $accepts:literal, $parser:expr;
    )*) => {
        /// The effective value of every Felix parameter.
        #[derive(Debug, Clone, PartialEq)]
        pub struct FelixConfig {
            $( $(#[$doc])* pub $field: $type, )*
        }

        /// Every parameter, in order of topic.
        pub const PARAMETERS: &[Parameter] = &[$(
            Parameter {
                name: $name, yaml: $yaml, default: $default, unit: $unit, accepts: $accepts, flags: $flags,
            },
        )*];

        impl FelixConfig {
            /// Every parameter at the zero value of its type.
            pub(super) fn zero() -> Self {
                Self { $( $field: Default::default(), )* }
            }

            /// Sets the parameter of that exact name from text.
            pub(super) fn assign(&mut self, name: &str, text: &str) -> Result<(), String> {
                match name {
                    $( $name => self.$field = ($parser)(text)?, )*
                    _ => return Err("no such parameter".to_owned()),
                }
                Ok(())
            }

            /// Sets the parameter of that exact name to the zero value of its type.
            pub(super) fn clear(&mut self, name: &str) {
                match name {
                    $( $name => self.$field = Default::default(), )*
                    _ => {}
                }
            }
        }
    };
}

impl Default for FelixConfig {
    /// The built-in defaults.
    fn default() -> Self {
        let mut config = Self::zero();
        for p in PARAMETERS.iter().filter(|p| !p.default.is_empty()) {
            // Every default parses; a test holds the table to it.
            let _ = config.assign(p.name, p.default);
        }
        config
    }
}

parameters! {
    /// `DatastoreType`: one of etcdv3, kubernetes; default `etcdv3`.
    datastore_type: &'static str = "DatastoreType", "", "etcdv3", REQUIRED | FATAL | LOCAL, Unit::Plain, "one of etcdv3, kubernetes", one_of(&["etcdv3", "kubernetes"]);
    /// `EtcdAddr`: host:port; default `127.0.0.1:2379`.
    etcd_addr: String = "EtcdAddr", "", "127.0.0.1:2379", LOCAL, Unit::Plain, "host:port", host_and_port;
    /// `EtcdCaFile`: a path.
    etcd_ca_file: String = "EtcdCaFile", "", "", LOCAL, Unit::Plain, "a path", text;
    /// `EtcdCertFile`: a path.
    etcd_cert_file: String = "EtcdCertFile", "", "", LOCAL, Unit::Plain, "a path", text;
    /// `EtcdEndpoints`: texts, separated by commas.
    etcd_endpoints: Vec<String> = "EtcdEndpoints", "", "", LOCAL, Unit::Plain, "texts, separated by commas", texts;
    /// `EtcdKeyFile`: a path.
    etcd_key_file: String = "EtcdKeyFile", "", "", LOCAL, Unit::Plain, "a path", text;
    /// `EtcdScheme`: one of http, https; default `http`.
    etcd_scheme: &'static str = "EtcdScheme", "", "http", LOCAL, Unit::Plain, "one of http, https", one_of(&["http", "https"]);
    /// `FelixHostname`: letters, digits and _ . -.
    felix_hostname: String = "FelixHostname", "", "", REQUIRED | LOCAL, Unit::Plain, "letters, digits and _ . -", characters(255, b"_.-");
    /// `TyphaAddr`: host:port.
    typha_addr: String = "TyphaAddr", "", "", LOCAL, Unit::Plain, "host:port", host_and_port;
    /// `TyphaCAFile`: a path.
    typha_ca_file: String = "TyphaCAFile", "", "", LOCAL, Unit::Plain, "a path", text;
    /// `TyphaCN`: text.
    typha_cn: String = "TyphaCN", "", "", LOCAL, Unit::Plain, "text", text;
    /// `TyphaCertFile`: a path.
    typha_cert_file: String = "TyphaCertFile", "", "", LOCAL, Unit::Plain, "a path", text;
    /// `TyphaK8sNamespace`: text; default `kube-system`.
    typha_k8s_namespace: String = "TyphaK8sNamespace", "", "kube-system", REQUIRED | LOCAL, Unit::Plain, "text", text;
    /// `TyphaK8sServiceName`: text.
    typha_k8s_service_name: String = "TyphaK8sServiceName", "", "", LOCAL, Unit::Plain, "text", text;
    /// `TyphaKeyFile`: a path.
    typha_key_file: String = "TyphaKeyFile", "", "", LOCAL, Unit::Plain, "a path", text;
    /// `TyphaReadTimeout`: seconds; default `30`.
    typha_read_timeout: Duration = "TyphaReadTimeout", "", "30", LOCAL, Unit::Seconds, "seconds", seconds;
    /// `TyphaURISAN`: text.
    typha_uri_san: String = "TyphaURISAN", "", "", LOCAL, Unit::Plain, "text", text;
    /// `TyphaWriteTimeout`: seconds; default `10`.
    typha_write_timeout: Duration = "TyphaWriteTimeout", "", "10", LOCAL, Unit::Seconds, "seconds", seconds;
    /// `FeatureDetectOverride` (`featureDetectOverride`): key=value pairs, separated by commas.
    feature_detect_override: BTreeMap<String, String> = "FeatureDetectOverride", "featureDetectOverride", "", 0, Unit::Plain, "key=value pairs, separated by commas", pairs;
    /// `FeatureGates` (`featureGates`): key=value pairs, separated by commas.
    feature_gates: BTreeMap<String, String> = "FeatureGates", "featureGates", "", 0, Unit::Plain, "key=value pairs, separated by commas", pairs;
    /// `GoGCThreshold` (`goGCThreshold`): a number from -1; default `40`.
    go_gc_threshold: i64 = "GoGCThreshold", "goGCThreshold", "40", 0, Unit::Plain, "a number from -1", int(-1, i64::MAX);
    /// `GoMaxProcs` (`goMaxProcs`): a number from -1; default `-1`.
    go_max_procs: i64 = "GoMaxProcs", "goMaxProcs", "-1", 0, Unit::Plain, "a number from -1", int(-1, i64::MAX);
    /// `GoMemoryLimitMB` (`goMemoryLimitMB`): a number from -1; default `-1`.
    go_memory_limit_mb: i64 = "GoMemoryLimitMB", "goMemoryLimitMB", "-1", 0, Unit::Plain, "a number from -1", int(-1, i64::MAX);
    /// `HealthEnabled` (`healthEnabled`): true or false; default `false`.
    health_enabled: bool = "HealthEnabled", "healthEnabled", "false", 0, Unit::Plain, "true or false", boolean;
    /// `HealthHost` (`healthHost`): up to 64 letters, digits and : . _ + -; default `localhost`.
    health_host: String = "HealthHost", "healthHost", "localhost", 0, Unit::Plain, "up to 64 letters, digits and : . _ + -", characters(64, b":._+-");
    /// `HealthPort` (`healthPort`): a number from 0 to 65535; default `9099`.
    health_port: i64 = "HealthPort", "healthPort", "9099", 0, Unit::Plain, "a number from 0 to 65535", int(0, 65535);
    /// `HealthTimeoutOverrides` (`healthTimeoutOverrides`): name=duration pairs, separated by commas.
    health_timeout_overrides: BTreeMap<String, GoDuration> = "HealthTimeoutOverrides", "healthTimeoutOverrides", "", 0, Unit::Plain, "name=duration pairs, separated by commas", duration_pairs;
    /// `LogActionRateLimit` (`logActionRateLimit`): n/second, n/minute, n/hour or n/day, n up to 9999.
    log_action_rate_limit: String = "LogActionRateLimit", "logActionRateLimit", "", 0, Unit::Plain, "n/second, n/minute, n/hour or n/day, n up to 9999", rate;
    /// `LogActionRateLimitBurst` (`logActionRateLimitBurst`): a number from 0 to 9999; default `5`.
    log_action_rate_limit_burst: i64 = "LogActionRateLimitBurst", "logActionRateLimitBurst", "5", 0, Unit::Plain, "a number from 0 to 9999", int(0, 9999);
    /// `LogDebugFilenameRegex` (`logDebugFilenameRegex`): a regular expression.
    log_debug_filename_regex: String = "LogDebugFilenameRegex", "logDebugFilenameRegex", "", 0, Unit::Plain, "a regular expression", text;
    /// `LogFilePath` (`logFilePath`): a path; default `/var/log/calico/felix.log`.
    log_file_path: String = "LogFilePath", "logFilePath", "/var/log/calico/felix.log", FATAL, Unit::Plain, "a path", text;
    /// `LogPrefix` (`logPrefix`): text; default `calico-packet`.
    log_prefix: String = "LogPrefix", "logPrefix", "calico-packet", 0, Unit::Plain, "text", text;
    /// `LogSeverityFile` (`logSeverityFile`): one of DEBUG, ERROR, FATAL, INFO, TRACE, WARNING; default
    /// `INFO`.
    log_severity_file: &'static str = "LogSeverityFile", "logSeverityFile", "INFO", 0, Unit::Plain, "one of DEBUG, ERROR, FATAL, INFO, TRACE, WARNING", one_of(&["DEBUG", "ERROR", "FATAL", "INFO", "TRACE", "WARNING"]);
    /// `LogSeverityScreen` (`logSeverityScreen`): one of DEBUG, ERROR, FATAL, INFO, TRACE, WARNING; default
    /// `INFO`.
    log_severity_screen: &'static str = "LogSeverityScreen", "logSeverityScreen", "INFO", 0, Unit::Plain, "one of DEBUG, ERROR, FATAL, INFO, TRACE, WARNING", one_of(&["DEBUG", "ERROR", "FATAL", "INFO", "TRACE", "WARNING"]);
    /// `LogSeveritySys` (`logSeveritySys`): one of DEBUG, ERROR, FATAL, INFO, TRACE, WARNING; default
    /// `INFO`.
    log_severity_sys: &'static str = "LogSeveritySys", "logSeveritySys", "INFO", 0, Unit::Plain, "one of DEBUG, ERROR, FATAL, INFO, TRACE, WARNING", one_of(&["DEBUG", "ERROR", "FATAL", "INFO", "TRACE", "WARNING"]);
    /// `PrometheusGoMetricsEnabled` (`prometheusGoMetricsEnabled`): true or false; default `true`.
    prometheus_go_metrics_enabled: bool = "PrometheusGoMetricsEnabled", "prometheusGoMetricsEnabled", "true", 0, Unit::Plain, "true or false", boolean;
    /// `PrometheusMetricsCAFile` (`prometheusMetricsCAFile`): text.
    prometheus_metrics_ca_file: String = "PrometheusMetricsCAFile", "prometheusMetricsCAFile", "", 0, Unit::Plain, "text", text;
    /// `PrometheusMetricsCertFile` (`prometheusMetricsCertFile`): text.
    prometheus_metrics_cert_file: String = "PrometheusMetricsCertFile", "prometheusMetricsCertFile", "", 0, Unit::Plain, "text", text;
    /// `PrometheusMetricsClientAuth` (`prometheusMetricsClientAuth`): one of NoClientCert,
    /// RequireAndVerifyClientCert, RequireAnyClientCert, VerifyClientCertIfGiven; default `NoClientCert`.
    prometheus_metrics_client_auth: &'static str = "PrometheusMetricsClientAuth", "prometheusMetricsClientAuth", "NoClientCert", 0, Unit::Plain, "one of NoClientCert, RequireAndVerifyClientCert, RequireAnyClientCert, VerifyClientCertIfGiven", one_of(&["NoClientCert", "RequireAndVerifyClientCert", "RequireAnyClientCert", "VerifyClientCertIfGiven"]);
    /// `PrometheusMetricsEnabled` (`prometheusMetricsEnabled`): true or false; default `false`.
    prometheus_metrics_enabled: bool = "PrometheusMetricsEnabled", "prometheusMetricsEnabled", "false", 0, Unit::Plain, "true or false", boolean;
    /// `PrometheusMetricsHost` (`prometheusMetricsHost`): up to 64 letters, digits and : . _ + -.
    prometheus_metrics_host: String = "PrometheusMetricsHost", "prometheusMetricsHost", "", 0, Unit::Plain, "up to 64 letters, digits and : . _ + -", characters(64, b":._+-");
    /// `PrometheusMetricsKeyFile` (`prometheusMetricsKeyFile`): text.
    prometheus_metrics_key_file: String = "PrometheusMetricsKeyFile", "prometheusMetricsKeyFile", "", 0, Unit::Plain, "text", text;
    /// `PrometheusMetricsPort` (`prometheusMetricsPort`): a number from 0 to 65535; default `9091`.
    prometheus_metrics_port: i64 = "PrometheusMetricsPort", "prometheusMetricsPort", "9091", 0, Unit::Plain, "a number from 0 to 65535", int(0, 65535);
    /// `PrometheusProcessMetricsEnabled` (`prometheusProcessMetricsEnabled`): true or false; default
    /// `true`.
    prometheus_process_metrics_enabled: bool = "PrometheusProcessMetricsEnabled", "prometheusProcessMetricsEnabled", "true", 0, Unit::Plain, "true or false", boolean;
    /// `PrometheusWireGuardMetricsEnabled` (`prometheusWireGuardMetricsEnabled`): true or false; default
    /// `true`.
    prometheus_wireguard_metrics_enabled: bool = "PrometheusWireGuardMetricsEnabled", "prometheusWireGuardMetricsEnabled", "true", 0, Unit::Plain, "true or false", boolean;
    /// `AllowIPIPPacketsFromWorkloads` (`allowIPIPPacketsFromWorkloads`): true or false; default `false`.
    allow_ipip_packets_from_workloads: bool = "AllowIPIPPacketsFromWorkloads", "allowIPIPPacketsFromWorkloads", "false", 0, Unit::Plain, "true or false", boolean;
    /// `AllowVXLANPacketsFromWorkloads` (`allowVXLANPacketsFromWorkloads`): true or false; default `false`.
    allow_vxlan_packets_from_workloads: bool = "AllowVXLANPacketsFromWorkloads", "allowVXLANPacketsFromWorkloads", "false", 0, Unit::Plain, "true or false", boolean;
    /// `CgroupV2Path` (`cgroupV2Path`): text.
    cgroup_v2_path: String = "CgroupV2Path", "cgroupV2Path", "", 0, Unit::Plain, "text", text;
    /// `ChainInsertMode` (`chainInsertMode`): one of append, insert; default `insert`.
    chain_insert_mode: &'static str = "ChainInsertMode", "chainInsertMode", "insert", REQUIRED | FATAL, Unit::Plain, "one of append, insert", one_of(&["append", "insert"]);
    /// `DataplaneDriver` (`dataplaneDriver`): a path; default `calico-iptables-plugin`.
    dataplane_driver: String = "DataplaneDriver", "dataplaneDriver", "calico-iptables-plugin", REQUIRED | FATAL, Unit::Plain, "a path", text;
    /// `DataplaneWatchdogTimeout` (`dataplaneWatchdogTimeout`): seconds; default `90`.
    dataplane_watchdog_timeout: Duration = "DataplaneWatchdogTimeout", "dataplaneWatchdogTimeout", "90", 0, Unit::Seconds, "seconds", seconds;
    /// `DefaultEndpointToHostAction` (`defaultEndpointToHostAction`): one of ACCEPT, DROP, RETURN; default
    /// `DROP`.
    default_endpoint_to_host_action: &'static str = "DefaultEndpointToHostAction", "defaultEndpointToHostAction", "DROP", REQUIRED | FATAL, Unit::Plain, "one of ACCEPT, DROP, RETURN", one_of(&["ACCEPT", "DROP", "RETURN"]);
    /// `DeviceRouteProtocol` (`deviceRouteProtocol`): a number; default `3`.
    device_route_protocol: i64 = "DeviceRouteProtocol", "deviceRouteProtocol", "3", 0, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `DeviceRouteSourceAddress` (`deviceRouteSourceAddress`): an IPv4 address.
    device_route_source_address: Option<Ipv4Addr> = "DeviceRouteSourceAddress", "deviceRouteSourceAddress", "", 0, Unit::Plain, "an IPv4 address", optional(address);
    /// `DeviceRouteSourceAddressIPv6` (`deviceRouteSourceAddressIPv6`): an IPv6 address.
    device_route_source_address_ipv6: Option<Ipv6Addr> = "DeviceRouteSourceAddressIPv6", "deviceRouteSourceAddressIPv6", "", 0, Unit::Plain, "an IPv6 address", optional(address);
    /// `DisableConntrackInvalidCheck` (`disableConntrackInvalidCheck`): true or false; default `false`.
    disable_conntrack_invalid_check: bool = "DisableConntrackInvalidCheck", "disableConntrackInvalidCheck", "false", 0, Unit::Plain, "true or false", boolean;
    /// `EndpointStatusPathPrefix` (`endpointStatusPathPrefix`): a path; default `/var/run/calico`.
    endpoint_status_path_prefix: String = "EndpointStatusPathPrefix", "endpointStatusPathPrefix", "/var/run/calico", 0, Unit::Plain, "a path", text;
    /// `ExternalNodesCIDRList` (`externalNodesList`): networks, separated by commas.
    external_nodes_list: Vec<IpNet> = "ExternalNodesCIDRList", "externalNodesList", "", FATAL, Unit::Plain, "networks, separated by commas", ipv4_networks;
    /// `FailsafeInboundHostPorts` (`failsafeInboundHostPorts`): tcp:port or udp:net:port, separated by
    /// commas.
    failsafe_inbound_host_ports: Vec<ProtoPort> = "FailsafeInboundHostPorts", "failsafeInboundHostPorts", "tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667", FATAL, Unit::Plain, "tcp:port or udp:net:port, separated by commas", proto_ports;
    /// `FailsafeOutboundHostPorts` (`failsafeOutboundHostPorts`): tcp:port or udp:net:port, separated by
    /// commas.
    failsafe_outbound_host_ports: Vec<ProtoPort> = "FailsafeOutboundHostPorts", "failsafeOutboundHostPorts", "udp:53,udp:67,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667", FATAL, Unit::Plain, "tcp:port or udp:net:port, separated by commas", proto_ports;
    /// `FloatingIPs` (`floatingIPs`): one of Disabled, Enabled; default `Disabled`.
    floating_ips: &'static str = "FloatingIPs", "floatingIPs", "Disabled", 0, Unit::Plain, "one of Disabled, Enabled", one_of(&["Disabled", "Enabled"]);
    /// `IPForwarding` (`ipForwarding`): one of Disabled, Enabled; default `Enabled`.
    ip_forwarding: &'static str = "IPForwarding", "ipForwarding", "Enabled", 0, Unit::Plain, "one of Disabled, Enabled", one_of(&["Disabled", "Enabled"]);
    /// `IPv4ElevatedRoutePriority` (`ipv4ElevatedRoutePriority`): a number from 1 to 2147483646; default
    /// `512`.
    ipv4_elevated_route_priority: i64 = "IPv4ElevatedRoutePriority", "ipv4ElevatedRoutePriority", "512", 0, Unit::Plain, "a number from 1 to 2147483646", int(1, 2147483646);
    /// `IPv4NormalRoutePriority` (`ipv4NormalRoutePriority`): a number from 1 to 2147483646; default
    /// `1024`.
    ipv4_normal_route_priority: i64 = "IPv4NormalRoutePriority", "ipv4NormalRoutePriority", "1024", 0, Unit::Plain, "a number from 1 to 2147483646", int(1, 2147483646);
    /// `IPv6ElevatedRoutePriority` (`ipv6ElevatedRoutePriority`): a number from 1 to 2147483646; default
    /// `512`.
    ipv6_elevated_route_priority: i64 = "IPv6ElevatedRoutePriority", "ipv6ElevatedRoutePriority", "512", 0, Unit::Plain, "a number from 1 to 2147483646", int(1, 2147483646);
    /// `IPv6NormalRoutePriority` (`ipv6NormalRoutePriority`): a number from 1 to 2147483646; default
    /// `1024`.
    ipv6_normal_route_priority: i64 = "IPv6NormalRoutePriority", "ipv6NormalRoutePriority", "1024", 0, Unit::Plain, "a number from 1 to 2147483646", int(1, 2147483646);
    /// `InterfaceExclude` (`interfaceExclude`): texts, separated by commas; default `kube-ipvs0`.
    interface_exclude: Vec<String> = "InterfaceExclude", "interfaceExclude", "kube-ipvs0", 0, Unit::Plain, "texts, separated by commas", texts;
    /// `InterfacePrefix` (`interfacePrefix`): interface prefixes, separated by commas; default `cali`.
    interface_prefix: String = "InterfacePrefix", "interfacePrefix", "cali", REQUIRED | FATAL, Unit::Plain, "interface prefixes, separated by commas", interface_prefixes;
    /// `InterfaceRefreshInterval` (`interfaceRefreshInterval`): seconds; default `90`.
    interface_refresh_interval: Duration = "InterfaceRefreshInterval", "interfaceRefreshInterval", "90", 0, Unit::Seconds, "seconds", seconds;
    /// `Ipv6Support` (`ipv6Support`): true or false; default `true`.
    ipv6_support: bool = "Ipv6Support", "ipv6Support", "true", 0, Unit::Plain, "true or false", boolean;
    /// `IstioAmbientMode` (`istioAmbientMode`): one of Disabled, Enabled; default `Disabled`.
    istio_ambient_mode: &'static str = "IstioAmbientMode", "istioAmbientMode", "Disabled", 0, Unit::Plain, "one of Disabled, Enabled", one_of(&["Disabled", "Enabled"]);
    /// `IstioDSCPMark` (`istioDSCPMark`): a DSCP name or a number from 0 to 63; default `23`.
    istio_dscp_mark: Dscp = "IstioDSCPMark", "istioDSCPMark", "23", 0, Unit::Plain, "a DSCP name or a number from 0 to 63", dscp;
    /// `LiveMigrationRouteConvergenceTime` (`liveMigrationRouteConvergenceTime`): seconds; default `30`.
    live_migration_route_convergence_time: Duration = "LiveMigrationRouteConvergenceTime", "liveMigrationRouteConvergenceTime", "30", 0, Unit::Seconds, "seconds", seconds;
    /// `LocalSubnetL2Reachability` (`localSubnetL2Reachability`): one of Disabled, PodsAndLoadBalancers;
    /// default `Disabled`.
    local_subnet_l2_reachability: &'static str = "LocalSubnetL2Reachability", "localSubnetL2Reachability", "Disabled", 0, Unit::Plain, "one of Disabled, PodsAndLoadBalancers", one_of(&["Disabled", "PodsAndLoadBalancers"]);
    /// `LocalSubnetL2ReachabilityRefreshInterval` (`localSubnetL2ReachabilityRefreshInterval`): seconds;
    /// default `120`.
    local_subnet_l2_reachability_refresh_interval: Duration = "LocalSubnetL2ReachabilityRefreshInterval", "localSubnetL2ReachabilityRefreshInterval", "120", 0, Unit::Seconds, "seconds", seconds;
    /// `MTUIfacePattern` (`mtuIfacePattern`): a regular expression; default
    /// `^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)`.
    mtu_iface_pattern: String = "MTUIfacePattern", "mtuIfacePattern", "^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)", 0, Unit::Plain, "a regular expression", text;
    /// `NATOutgoingAddress` (`natOutgoingAddress`): an IPv4 address.
    nat_outgoing_address: Option<Ipv4Addr> = "NATOutgoingAddress", "natOutgoingAddress", "", 0, Unit::Plain, "an IPv4 address", optional(address);
    /// `NATOutgoingExclusions` (`natOutgoingExclusions`): one of IPPoolsAndHostIPs, IPPoolsOnly; default
    /// `IPPoolsOnly`.
    nat_outgoing_exclusions: &'static str = "NATOutgoingExclusions", "natOutgoingExclusions", "IPPoolsOnly", 0, Unit::Plain, "one of IPPoolsAndHostIPs, IPPoolsOnly", one_of(&["IPPoolsAndHostIPs", "IPPoolsOnly"]);
    /// `NATPortRange` (`natPortRange`): a port or first:last.
    nat_port_range: Option<(u16, u16)> = "NATPortRange", "natPortRange", "", 0, Unit::Plain, "a port or first:last", optional(port_range);
    /// `NFTablesFlowTableDataIfacePattern` (`nftablesFlowTableDataIfacePattern`): a regular expression.
    nftables_flow_table_data_iface_pattern: String = "NFTablesFlowTableDataIfacePattern", "nftablesFlowTableDataIfacePattern", "", 0, Unit::Plain, "a regular expression", text;
    /// `NFTablesFlowTableOffload` (`nftablesFlowTableOffload`): one of All, Disabled; default `Disabled`.
    nftables_flow_table_offload: &'static str = "NFTablesFlowTableOffload", "nftablesFlowTableOffload", "Disabled", 0, Unit::Plain, "one of All, Disabled", one_of(&["All", "Disabled"]);
    /// `NFTablesMode` (`nftablesMode`): one of Auto, Disabled, Enabled; default `Auto`.
    nftables_mode: &'static str = "NFTablesMode", "nftablesMode", "Auto", 0, Unit::Plain, "one of Auto, Disabled, Enabled", one_of(&["Auto", "Disabled", "Enabled"]);
    /// `NetlinkTimeoutSecs` (`netlinkTimeout`): seconds; default `10`.
    netlink_timeout: Duration = "NetlinkTimeoutSecs", "netlinkTimeout", "10", 0, Unit::Seconds, "seconds", seconds;
    /// `PolicySyncPathPrefix` (`policySyncPathPrefix`): a path.
    policy_sync_path_prefix: String = "PolicySyncPathPrefix", "policySyncPathPrefix", "", 0, Unit::Plain, "a path", text;
    /// `ProgramClusterRoutes` (`programClusterRoutes`): one of Disabled, EnabledIPIPOnly,
    /// EnabledNoEncapOnly, Enabled; default `EnabledIPIPOnly`.
    program_cluster_routes: &'static str = "ProgramClusterRoutes", "programClusterRoutes", "EnabledIPIPOnly", 0, Unit::Plain, "one of Disabled, EnabledIPIPOnly, EnabledNoEncapOnly, Enabled", one_of(&["Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly", "Enabled"]);
    /// `RemoveExternalRoutes` (`removeExternalRoutes`): true or false; default `true`.
    remove_external_routes: bool = "RemoveExternalRoutes", "removeExternalRoutes", "true", 0, Unit::Plain, "true or false", boolean;
    /// `RequireMTUFile` (`requireMTUFile`): true or false; default `false`.
    require_mtu_file: bool = "RequireMTUFile", "requireMTUFile", "false", 0, Unit::Plain, "true or false", boolean;
    /// `RouteRefreshInterval` (`routeRefreshInterval`): seconds; default `90`.
    route_refresh_interval: Duration = "RouteRefreshInterval", "routeRefreshInterval", "90", 0, Unit::Seconds, "seconds", seconds;
    /// `RouteSource` (`routeSource`): one of CalicoIPAM, WorkloadIPs; default `CalicoIPAM`.
    route_source: &'static str = "RouteSource", "routeSource", "CalicoIPAM", 0, Unit::Plain, "one of CalicoIPAM, WorkloadIPs", one_of(&["CalicoIPAM", "WorkloadIPs"]);
    /// `RouteSyncDisabled` (`routeSyncDisabled`): true or false; default `false`.
    route_sync_disabled: bool = "RouteSyncDisabled", "routeSyncDisabled", "false", 0, Unit::Plain, "true or false", boolean;
    /// `RouteTableRange` (`routeTableRange`): first-last within 1 and 250.
    route_table_range: Option<(u32, u32)> = "RouteTableRange", "routeTableRange", "", FATAL, Unit::Plain, "first-last within 1 and 250", optional(old_route_table_range);
    /// `RouteTableRanges` (`routeTableRanges`): first-last, separated by commas.
    route_table_ranges: Vec<(u32, u32)> = "RouteTableRanges", "routeTableRanges", "1-250", FATAL, Unit::Plain, "first-last, separated by commas", route_table_ranges;
    /// `ServiceLoopPrevention` (`serviceLoopPrevention`): one of Disabled, Drop, Reject; default `Drop`.
    service_loop_prevention: &'static str = "ServiceLoopPrevention", "serviceLoopPrevention", "Drop", 0, Unit::Plain, "one of Disabled, Drop, Reject", one_of(&["Disabled", "Drop", "Reject"]);
    /// `SidecarAccelerationEnabled` (`sidecarAccelerationEnabled`): true or false; default `false`.
    sidecar_acceleration_enabled: bool = "SidecarAccelerationEnabled", "sidecarAccelerationEnabled", "false", 0, Unit::Plain, "true or false", boolean;
    /// `UseInternalDataplaneDriver` (`useInternalDataplaneDriver`): true or false; default `true`.
    use_internal_dataplane_driver: bool = "UseInternalDataplaneDriver", "useInternalDataplaneDriver", "true", 0, Unit::Plain, "true or false", boolean;
    /// `WorkloadSourceSpoofing` (`workloadSourceSpoofing`): one of Any, Disabled; default `Disabled`.
    workload_source_spoofing: &'static str = "WorkloadSourceSpoofing", "workloadSourceSpoofing", "Disabled", 0, Unit::Plain, "one of Any, Disabled", one_of(&["Any", "Disabled"]);
    /// `IpsetsRefreshInterval` (`ipsetsRefreshInterval`): seconds; default `90`.
    ipsets_refresh_interval: Duration = "IpsetsRefreshInterval", "ipsetsRefreshInterval", "90", 0, Unit::Seconds, "seconds", seconds;
    /// `IptablesBackend` (`iptablesBackend`): one of auto, legacy, nft; default `auto`.
    iptables_backend: &'static str = "IptablesBackend", "iptablesBackend", "auto", 0, Unit::Plain, "one of auto, legacy, nft", one_of(&["auto", "legacy", "nft"]);
    /// `IptablesFilterAllowAction` (`iptablesFilterAllowAction`): one of ACCEPT, RETURN; default `ACCEPT`.
    iptables_filter_allow_action: &'static str = "IptablesFilterAllowAction", "iptablesFilterAllowAction", "ACCEPT", REQUIRED | FATAL, Unit::Plain, "one of ACCEPT, RETURN", one_of(&["ACCEPT", "RETURN"]);
    /// `IptablesFilterDenyAction` (`iptablesFilterDenyAction`): one of DROP, REJECT; default `DROP`.
    iptables_filter_deny_action: &'static str = "IptablesFilterDenyAction", "iptablesFilterDenyAction", "DROP", REQUIRED | FATAL, Unit::Plain, "one of DROP, REJECT", one_of(&["DROP", "REJECT"]);
    /// `IptablesLockProbeIntervalMillis` (`iptablesLockProbeInterval`): milliseconds; default `50`.
    iptables_lock_probe_interval: Duration = "IptablesLockProbeIntervalMillis", "iptablesLockProbeInterval", "50", 0, Unit::Milliseconds, "milliseconds", milliseconds;
    /// `IptablesMangleAllowAction` (`iptablesMangleAllowAction`): one of ACCEPT, RETURN; default `ACCEPT`.
    iptables_mangle_allow_action: &'static str = "IptablesMangleAllowAction", "iptablesMangleAllowAction", "ACCEPT", REQUIRED | FATAL, Unit::Plain, "one of ACCEPT, RETURN", one_of(&["ACCEPT", "RETURN"]);
    /// `IptablesMarkMask` (`iptablesMarkMask`): a 32-bit mask with at least two bits set; default
    /// `0xffff0000`.
    iptables_mark_mask: u32 = "IptablesMarkMask", "iptablesMarkMask", "0xffff0000", REQUIRED | FATAL, Unit::Plain, "a 32-bit mask with at least two bits set", mark_mask;
    /// `IptablesNATOutgoingInterfaceFilter` (`iptablesNATOutgoingInterfaceFilter`): up to 15 letters,
    /// digits and : . _ + -.
    iptables_nat_outgoing_interface_filter: String = "IptablesNATOutgoingInterfaceFilter", "iptablesNATOutgoingInterfaceFilter", "", 0, Unit::Plain, "up to 15 letters, digits and : . _ + -", characters(15, b":._+-");
    /// `IptablesPostWriteCheckIntervalSecs` (`iptablesPostWriteCheckInterval`): seconds; default `5`.
    iptables_post_write_check_interval: Duration = "IptablesPostWriteCheckIntervalSecs", "iptablesPostWriteCheckInterval", "5", 0, Unit::Seconds, "seconds", seconds;
    /// `IptablesRefreshInterval` (`iptablesRefreshInterval`): seconds; default `180`.
    iptables_refresh_interval: Duration = "IptablesRefreshInterval", "iptablesRefreshInterval", "180", 0, Unit::Seconds, "seconds", seconds;
    /// `KubeNodePortRanges` (`kubeNodePortRanges`): ports or first:last, separated by commas; default
    /// `30000:32767`.
    kube_node_port_ranges: Vec<(u16, u16)> = "KubeNodePortRanges", "kubeNodePortRanges", "30000:32767", 0, Unit::Plain, "ports or first:last, separated by commas", port_ranges;
    /// `MaxIpsetSize` (`maxIpsetSize`): a number; default `1048576`.
    max_ipset_size: i64 = "MaxIpsetSize", "maxIpsetSize", "1048576", REQUIRED, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `NftablesFilterAllowAction` (`nftablesFilterAllowAction`): one of ACCEPT, RETURN; default `ACCEPT`.
    nftables_filter_allow_action: &'static str = "NftablesFilterAllowAction", "nftablesFilterAllowAction", "ACCEPT", REQUIRED | FATAL, Unit::Plain, "one of ACCEPT, RETURN", one_of(&["ACCEPT", "RETURN"]);
    /// `NftablesFilterDenyAction` (`nftablesFilterDenyAction`): one of DROP, REJECT; default `DROP`.
    nftables_filter_deny_action: &'static str = "NftablesFilterDenyAction", "nftablesFilterDenyAction", "DROP", REQUIRED | FATAL, Unit::Plain, "one of DROP, REJECT", one_of(&["DROP", "REJECT"]);
    /// `NftablesMangleAllowAction` (`nftablesMangleAllowAction`): one of ACCEPT, RETURN; default `ACCEPT`.
    nftables_mangle_allow_action: &'static str = "NftablesMangleAllowAction", "nftablesMangleAllowAction", "ACCEPT", REQUIRED | FATAL, Unit::Plain, "one of ACCEPT, RETURN", one_of(&["ACCEPT", "RETURN"]);
    /// `NftablesMarkMask` (`nftablesMarkMask`): a 32-bit mask with at least two bits set; default
    /// `0xffff0000`.
    nftables_mark_mask: u32 = "NftablesMarkMask", "nftablesMarkMask", "0xffff0000", REQUIRED | FATAL, Unit::Plain, "a 32-bit mask with at least two bits set", mark_mask;
    /// `NftablesRefreshInterval` (`nftablesRefreshInterval`): seconds; default `180`.
    nftables_refresh_interval: Duration = "NftablesRefreshInterval", "nftablesRefreshInterval", "180", 0, Unit::Seconds, "seconds", seconds;
    /// `BPFAttachType` (`bpfAttachType`): one of Netkit, TCX, TC; default `Netkit`.
    bpf_attach_type: &'static str = "BPFAttachType", "bpfAttachType", "Netkit", REQUIRED, Unit::Plain, "one of Netkit, TCX, TC", one_of(&["Netkit", "TCX", "TC"]);
    /// `BPFCTLBLogFilter` (`bpfCTLBLogFilter`): one of all.
    bpf_ctlb_log_filter: &'static str = "BPFCTLBLogFilter", "bpfCTLBLogFilter", "", 0, Unit::Plain, "one of all", one_of(&["all"]);
    /// `BPFConnectTimeLoadBalancing` (`bpfConnectTimeLoadBalancing`): one of Disabled, Enabled, TCP;
    /// default `TCP`.
    bpf_connect_time_load_balancing: &'static str = "BPFConnectTimeLoadBalancing", "bpfConnectTimeLoadBalancing", "TCP", REQUIRED, Unit::Plain, "one of Disabled, Enabled, TCP", one_of(&["Disabled", "Enabled", "TCP"]);
    /// `BPFConnectTimeLoadBalancingEnabled` (`bpfConnectTimeLoadBalancingEnabled`): true or false.
    bpf_connect_time_load_balancing_enabled: bool = "BPFConnectTimeLoadBalancingEnabled", "bpfConnectTimeLoadBalancingEnabled", "", 0, Unit::Plain, "true or false", boolean;
    /// `BPFConntrackCleanupMode` (`bpfConntrackMode`): one of Auto, BPFProgram, Userspace; default `Auto`.
    bpf_conntrack_mode: &'static str = "BPFConntrackCleanupMode", "bpfConntrackMode", "Auto", 0, Unit::Plain, "one of Auto, BPFProgram, Userspace", one_of(&["Auto", "BPFProgram", "Userspace"]);
    /// `BPFConntrackLogLevel` (`bpfConntrackLogLevel`): one of debug, off; default `off`.
    bpf_conntrack_log_level: &'static str = "BPFConntrackLogLevel", "bpfConntrackLogLevel", "off", REQUIRED, Unit::Plain, "one of debug, off", one_of(&["debug", "off"]);
    /// `BPFConntrackTimeouts` (`bpfConntrackTimeouts`): key=value pairs, separated by commas.
    bpf_conntrack_timeouts: BTreeMap<String, String> = "BPFConntrackTimeouts", "bpfConntrackTimeouts", "CreationGracePeriod=10s,TCPSynSent=20s,TCPEstablished=1h,TCPFinsSeen=Auto,TCPResetSeen=40s,UDPTimeout=60s,GenericTimeout=10m,ICMPTimeout=5s", 0, Unit::Plain, "key=value pairs, separated by commas", pairs;
    /// `BPFDSROptoutCIDRs` (`bpfDSROptoutCIDRs`): networks, separated by commas.
    bpf_dsr_optout_cidrs: Vec<IpNet> = "BPFDSROptoutCIDRs", "bpfDSROptoutCIDRs", "", 0, Unit::Plain, "networks, separated by commas", networks;
    /// `BPFDataIfacePattern` (`bpfDataIfacePattern`): a regular expression; default
    /// `^((en|wl|ww|sl|ib)[Popsx].*|(eth|wlan|wwan|bond).*)`.
    bpf_data_iface_pattern: String = "BPFDataIfacePattern", "bpfDataIfacePattern", "^((en|wl|ww|sl|ib)[Popsx].*|(eth|wlan|wwan|bond).*)", 0, Unit::Plain, "a regular expression", text;
    /// `BPFDisableGROForIfaces` (`bpfDisableGROForIfaces`): a regular expression.
    bpf_disable_gro_for_ifaces: String = "BPFDisableGROForIfaces", "bpfDisableGROForIfaces", "", 0, Unit::Plain, "a regular expression", text;
    /// `BPFDisableUnprivileged` (`bpfDisableUnprivileged`): true or false; default `true`.
    bpf_disable_unprivileged: bool = "BPFDisableUnprivileged", "bpfDisableUnprivileged", "true", 0, Unit::Plain, "true or false", boolean;
    /// `BPFEnabled` (`bpfEnabled`): true or false; default `false`.
    bpf_enabled: bool = "BPFEnabled", "bpfEnabled", "false", 0, Unit::Plain, "true or false", boolean;
    /// `BPFEnforceRPF` (`bpfEnforceRPF`): one of Disabled, Loose, Strict; default `Loose`.
    bpf_enforce_rpf: &'static str = "BPFEnforceRPF", "bpfEnforceRPF", "Loose", REQUIRED, Unit::Plain, "one of Disabled, Loose, Strict", one_of(&["Disabled", "Loose", "Strict"]);
    /// `BPFExcludeCIDRsFromNAT` (`bpfExcludeCIDRsFromNAT`): networks, separated by commas.
    bpf_exclude_cidrs_from_nat: Vec<IpNet> = "BPFExcludeCIDRsFromNAT", "bpfExcludeCIDRsFromNAT", "", 0, Unit::Plain, "networks, separated by commas", networks;
    /// `BPFExportBufferSizeMB` (`bpfExportBufferSizeMB`): a number; default `1`.
    bpf_export_buffer_size_mb: i64 = "BPFExportBufferSizeMB", "bpfExportBufferSizeMB", "1", REQUIRED, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `BPFExtToServiceConnmark` (`bpfExtToServiceConnmark`): a number; default `0`.
    bpf_ext_to_service_connmark: i64 = "BPFExtToServiceConnmark", "bpfExtToServiceConnmark", "0", 0, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `BPFExternalServiceMode` (`bpfExternalServiceMode`): one of dsr, tunnel; default `tunnel`.
    bpf_external_service_mode: &'static str = "BPFExternalServiceMode", "bpfExternalServiceMode", "tunnel", REQUIRED, Unit::Plain, "one of dsr, tunnel", one_of(&["dsr", "tunnel"]);
    /// `BPFForceTrackPacketsFromIfaces` (`bpfForceTrackPacketsFromIfaces`): texts, separated by commas;
    /// default `docker+`.
    bpf_force_track_packets_from_ifaces: Vec<String> = "BPFForceTrackPacketsFromIfaces", "bpfForceTrackPacketsFromIfaces", "docker+", 0, Unit::Plain, "texts, separated by commas", texts;
    /// `BPFHostConntrackBypass` (`bpfHostConntrackBypass`): true or false; default `false`.
    bpf_host_conntrack_bypass: bool = "BPFHostConntrackBypass", "bpfHostConntrackBypass", "false", 0, Unit::Plain, "true or false", boolean;
    /// `BPFHostNetworkedNATWithoutCTLB` (`bpfHostNetworkedNATWithoutCTLB`): one of Disabled, Enabled;
    /// default `Enabled`.
    bpf_host_networked_nat_without_ctlb: &'static str = "BPFHostNetworkedNATWithoutCTLB", "bpfHostNetworkedNATWithoutCTLB", "Enabled", REQUIRED, Unit::Plain, "one of Disabled, Enabled", one_of(&["Disabled", "Enabled"]);
    /// `BPFIPFragTimeout` (`bpfIPFragTimeout`): seconds; default `0`.
    bpf_ip_frag_timeout: Duration = "BPFIPFragTimeout", "bpfIPFragTimeout", "0", 0, Unit::Seconds, "seconds", seconds;
    /// `BPFIPFragmentReassemblyEnabled` (`bpfIPFragmentReassemblyEnabled`): true or false; default `true`.
    bpf_ip_fragment_reassembly_enabled: bool = "BPFIPFragmentReassemblyEnabled", "bpfIPFragmentReassemblyEnabled", "true", 0, Unit::Plain, "true or false", boolean;
    /// `BPFJITHardening` (`bpfJITHardening`): one of Auto, Strict; default `Auto`.
    bpf_jit_hardening: &'static str = "BPFJITHardening", "bpfJITHardening", "Auto", REQUIRED, Unit::Plain, "one of Auto, Strict", one_of(&["Auto", "Strict"]);
    /// `BPFKubeProxyHealthzPort` (`bpfKubeProxyHealthzPort`): a number; default `10256`.
    bpf_kube_proxy_healthz_port: i64 = "BPFKubeProxyHealthzPort", "bpfKubeProxyHealthzPort", "10256", 0, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `BPFKubeProxyIptablesCleanupEnabled` (`bpfKubeProxyIptablesCleanupEnabled`): true or false; default
    /// `true`.
    bpf_kube_proxy_iptables_cleanup_enabled: bool = "BPFKubeProxyIptablesCleanupEnabled", "bpfKubeProxyIptablesCleanupEnabled", "true", 0, Unit::Plain, "true or false", boolean;
    /// `BPFKubeProxyMinSyncPeriod` (`bpfKubeProxyMinSyncPeriod`): seconds; default `1`.
    bpf_kube_proxy_min_sync_period: Duration = "BPFKubeProxyMinSyncPeriod", "bpfKubeProxyMinSyncPeriod", "1", 0, Unit::Seconds, "seconds", seconds;
    /// `BPFL3IfacePattern` (`bpfL3IfacePattern`): a regular expression.
    bpf_l3_iface_pattern: String = "BPFL3IfacePattern", "bpfL3IfacePattern", "", 0, Unit::Plain, "a regular expression", text;
    /// `BPFLogFilters` (`bpfLogFilters`): key=value pairs, separated by commas.
    bpf_log_filters: BTreeMap<String, String> = "BPFLogFilters", "bpfLogFilters", "", 0, Unit::Plain, "key=value pairs, separated by commas", pairs;
    /// `BPFLogLevel` (`bpfLogLevel`): one of debug, info, off; default `off`.
    bpf_log_level: &'static str = "BPFLogLevel", "bpfLogLevel", "off", REQUIRED, Unit::Plain, "one of debug, info, off", one_of(&["debug", "info", "off"]);
    /// `BPFMaglevMaxEndpointsPerService` (`bpfMaglevMaxEndpointsPerService`): a number from 1 to 3000;
    /// default `100`.
    bpf_maglev_max_endpoints_per_service: i64 = "BPFMaglevMaxEndpointsPerService", "bpfMaglevMaxEndpointsPerService", "100", 0, Unit::Plain, "a number from 1 to 3000", int(1, 3000);
    /// `BPFMaglevMaxServices` (`bpfMaglevMaxServices`): a number from 1 to 3000; default `100`.
    bpf_maglev_max_services: i64 = "BPFMaglevMaxServices", "bpfMaglevMaxServices", "100", 0, Unit::Plain, "a number from 1 to 3000", int(1, 3000);
    /// `BPFMapSizeConntrack` (`bpfMapSizeConntrack`): a number; default `512000`.
    bpf_map_size_conntrack: i64 = "BPFMapSizeConntrack", "bpfMapSizeConntrack", "512000", REQUIRED, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `BPFMapSizeConntrackCleanupQueue` (`bpfMapSizeConntrackCleanupQueue`): a number; default `100000`.
    bpf_map_size_conntrack_cleanup_queue: i64 = "BPFMapSizeConntrackCleanupQueue", "bpfMapSizeConntrackCleanupQueue", "100000", REQUIRED, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `BPFMapSizeConntrackScaling` (`bpfMapSizeConntrackScaling`): one of Disabled, DoubleIfFull; default
    /// `DoubleIfFull`.
    bpf_map_size_conntrack_scaling: &'static str = "BPFMapSizeConntrackScaling", "bpfMapSizeConntrackScaling", "DoubleIfFull", REQUIRED, Unit::Plain, "one of Disabled, DoubleIfFull", one_of(&["Disabled", "DoubleIfFull"]);
    /// `BPFMapSizeIPSets` (`bpfMapSizeIPSets`): a number; default `1048576`.
    bpf_map_size_ip_sets: i64 = "BPFMapSizeIPSets", "bpfMapSizeIPSets", "1048576", REQUIRED, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `BPFMapSizeIfState` (`bpfMapSizeIfState`): a number; default `1000`.
    bpf_map_size_if_state: i64 = "BPFMapSizeIfState", "bpfMapSizeIfState", "1000", REQUIRED, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `BPFMapSizeNATAffinity` (`bpfMapSizeNATAffinity`): a number; default `65536`.
    bpf_map_size_nat_affinity: i64 = "BPFMapSizeNATAffinity", "bpfMapSizeNATAffinity", "65536", REQUIRED, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `BPFMapSizeNATBackend` (`bpfMapSizeNATBackend`): a number; default `262144`.
    bpf_map_size_nat_backend: i64 = "BPFMapSizeNATBackend", "bpfMapSizeNATBackend", "262144", REQUIRED, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `BPFMapSizeNATFrontend` (`bpfMapSizeNATFrontend`): a number; default `65536`.
    bpf_map_size_nat_frontend: i64 = "BPFMapSizeNATFrontend", "bpfMapSizeNATFrontend", "65536", REQUIRED, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `BPFMapSizePerCPUConntrack` (`bpfMapSizePerCpuConntrack`): a number; default `0`.
    bpf_map_size_per_cpu_conntrack: i64 = "BPFMapSizePerCPUConntrack", "bpfMapSizePerCpuConntrack", "0", 0, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `BPFMapSizeRoute` (`bpfMapSizeRoute`): a number; default `262144`.
    bpf_map_size_route: i64 = "BPFMapSizeRoute", "bpfMapSizeRoute", "262144", REQUIRED, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `BPFOverlayHostSourceIP` (`bpfOverlayHostSourceIP`): one of HostAddress, TunnelAddress; default
    /// `TunnelAddress`.
    bpf_overlay_host_source_ip: &'static str = "BPFOverlayHostSourceIP", "bpfOverlayHostSourceIP", "TunnelAddress", REQUIRED, Unit::Plain, "one of HostAddress, TunnelAddress", one_of(&["HostAddress", "TunnelAddress"]);
    /// `BPFPSNATPorts` (`bpfPSNATPorts`): a port or first:last; default `20000:29999`.
    bpf_psnat_ports: Option<(u16, u16)> = "BPFPSNATPorts", "bpfPSNATPorts", "20000:29999", 0, Unit::Plain, "a port or first:last", optional(port_range);
    /// `BPFPolicyDebugEnabled` (`bpfPolicyDebugEnabled`): true or false; default `true`.
    bpf_policy_debug_enabled: bool = "BPFPolicyDebugEnabled", "bpfPolicyDebugEnabled", "true", 0, Unit::Plain, "true or false", boolean;
    /// `BPFProfiling` (`bpfProfiling`): one of Disabled, Enabled; default `Disabled`.
    bpf_profiling: &'static str = "BPFProfiling", "bpfProfiling", "Disabled", REQUIRED, Unit::Plain, "one of Disabled, Enabled", one_of(&["Disabled", "Enabled"]);
    /// `BPFRedirectToPeer` (`bpfRedirectToPeer`): one of Disabled, Enabled, L2Only; default `Enabled`.
    bpf_redirect_to_peer: &'static str = "BPFRedirectToPeer", "bpfRedirectToPeer", "Enabled", REQUIRED, Unit::Plain, "one of Disabled, Enabled, L2Only", one_of(&["Disabled", "Enabled", "L2Only"]);
    /// `WindowsManageFirewallRules` (`windowsManageFirewallRules`): one of Disabled, Enabled; default
    /// `Disabled`.
    windows_manage_firewall_rules: &'static str = "WindowsManageFirewallRules", "windowsManageFirewallRules", "Disabled", 0, Unit::Plain, "one of Disabled, Enabled", one_of(&["Disabled", "Enabled"]);
    /// `EndpointReportingDelaySecs` (`endpointReportingDelay`): seconds; default `1`.
    endpoint_reporting_delay: Duration = "EndpointReportingDelaySecs", "endpointReportingDelay", "1", 0, Unit::Seconds, "seconds", seconds;
    /// `EndpointReportingEnabled` (`endpointReportingEnabled`): true or false; default `false`.
    endpoint_reporting_enabled: bool = "EndpointReportingEnabled", "endpointReportingEnabled", "false", 0, Unit::Plain, "true or false", boolean;
    /// `MetadataAddr` (`metadataAddr`): letters, digits and _ . -; default `127.0.0.1`.
    metadata_addr: String = "MetadataAddr", "metadataAddr", "127.0.0.1", FATAL, Unit::Plain, "letters, digits and _ . -", characters(255, b"_.-");
    /// `MetadataPort` (`metadataPort`): a number from 0 to 65535; default `8775`.
    metadata_port: i64 = "MetadataPort", "metadataPort", "8775", FATAL, Unit::Plain, "a number from 0 to 65535", int(0, 65535);
    /// `OpenstackRegion` (`openstackRegion`): text.
    openstack_region: String = "OpenstackRegion", "openstackRegion", "", FATAL, Unit::Plain, "text", text;
    /// `ReportingIntervalSecs` (`reportingInterval`): seconds; default `30`.
    reporting_interval: Duration = "ReportingIntervalSecs", "reportingInterval", "30", 0, Unit::Seconds, "seconds", seconds;
    /// `ReportingTTLSecs` (`reportingTTL`): seconds; default `90`.
    reporting_ttl: Duration = "ReportingTTLSecs", "reportingTTL", "90", 0, Unit::Seconds, "seconds", seconds;
    /// `GenericXDPEnabled` (`genericXDPEnabled`): true or false; default `false`.
    generic_xdp_enabled: bool = "GenericXDPEnabled", "genericXDPEnabled", "false", 0, Unit::Plain, "true or false", boolean;
    /// `XDPEnabled` (`xdpEnabled`): true or false; default `true`.
    xdp_enabled: bool = "XDPEnabled", "xdpEnabled", "true", 0, Unit::Plain, "true or false", boolean;
    /// `XDPRefreshInterval` (`xdpRefreshInterval`): seconds; default `90`.
    xdp_refresh_interval: Duration = "XDPRefreshInterval", "xdpRefreshInterval", "90", 0, Unit::Seconds, "seconds", seconds;
    /// `VXLANEnabled` (`vxlanEnabled`): true or false.
    vxlan_enabled: Option<bool> = "VXLANEnabled", "vxlanEnabled", "", 0, Unit::Plain, "true or false", optional(boolean);
    /// `VXLANMTU` (`vxlanMTU`): a number; default `0`.
    vxlan_mtu: i64 = "VXLANMTU", "vxlanMTU", "0", 0, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `VXLANMTUV6` (`vxlanMTUV6`): a number; default `0`.
    vxlan_mtu_v6: i64 = "VXLANMTUV6", "vxlanMTUV6", "0", 0, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `VXLANPort` (`vxlanPort`): a number; default `4789`.
    vxlan_port: i64 = "VXLANPort", "vxlanPort", "4789", 0, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `VXLANVNI` (`vxlanVNI`): a number; default `4096`.
    vxlan_vni: i64 = "VXLANVNI", "vxlanVNI", "4096", 0, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `IpInIpEnabled` (`ipipEnabled`): true or false.
    ipip_enabled: Option<bool> = "IpInIpEnabled", "ipipEnabled", "", 0, Unit::Plain, "true or false", optional(boolean);
    /// `IpInIpMtu` (`ipipMTU`): a number; default `0`.
    ipip_mtu: i64 = "IpInIpMtu", "ipipMTU", "0", 0, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `WireguardEnabled` (`wireguardEnabled`): true or false; default `false`.
    wireguard_enabled: bool = "WireguardEnabled", "wireguardEnabled", "false", 0, Unit::Plain, "true or false", boolean;
    /// `WireguardEnabledV6` (`wireguardEnabledV6`): true or false; default `false`.
    wireguard_enabled_v6: bool = "WireguardEnabledV6", "wireguardEnabledV6", "false", 0, Unit::Plain, "true or false", boolean;
    /// `WireguardHostEncryptionEnabled` (`wireguardHostEncryptionEnabled`): true or false; default `false`.
    wireguard_host_encryption_enabled: bool = "WireguardHostEncryptionEnabled", "wireguardHostEncryptionEnabled", "false", 0, Unit::Plain, "true or false", boolean;
    /// `WireguardInterfaceName` (`wireguardInterfaceName`): up to 15 letters, digits and : . _ + -; default
    /// `wireguard.cali`.
    wireguard_interface_name: String = "WireguardInterfaceName", "wireguardInterfaceName", "wireguard.cali", REQUIRED, Unit::Plain, "up to 15 letters, digits and : . _ + -", characters(15, b":._+-");
    /// `WireguardInterfaceNameV6` (`wireguardInterfaceNameV6`): up to 15 letters, digits and : . _ + -;
    /// default `wg-v6.cali`.
    wireguard_interface_name_v6: String = "WireguardInterfaceNameV6", "wireguardInterfaceNameV6", "wg-v6.cali", REQUIRED, Unit::Plain, "up to 15 letters, digits and : . _ + -", characters(15, b":._+-");
    /// `WireguardListeningPort` (`wireguardListeningPort`): a number; default `51820`.
    wireguard_listening_port: i64 = "WireguardListeningPort", "wireguardListeningPort", "51820", 0, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `WireguardListeningPortV6` (`wireguardListeningPortV6`): a number; default `51821`.
    wireguard_listening_port_v6: i64 = "WireguardListeningPortV6", "wireguardListeningPortV6", "51821", 0, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `WireguardMTU` (`wireguardMTU`): a number; default `0`.
    wireguard_mtu: i64 = "WireguardMTU", "wireguardMTU", "0", 0, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `WireguardMTUV6` (`wireguardMTUV6`): a number; default `0`.
    wireguard_mtu_v6: i64 = "WireguardMTUV6", "wireguardMTUV6", "0", 0, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `WireguardPersistentKeepAlive` (`wireguardKeepAlive`): seconds; default `0`.
    wireguard_keep_alive: Duration = "WireguardPersistentKeepAlive", "wireguardKeepAlive", "0", 0, Unit::Seconds, "seconds", seconds;
    /// `WireguardRoutingRulePriority` (`wireguardRoutingRulePriority`): a number; default `99`.
    wireguard_routing_rule_priority: i64 = "WireguardRoutingRulePriority", "wireguardRoutingRulePriority", "99", 0, Unit::Plain, "a number", int(i64::MIN, i64::MAX);
    /// `WireguardThreadingEnabled` (`wireguardThreadingEnabled`): true or false; default `false`.
    wireguard_threading_enabled: bool = "WireguardThreadingEnabled", "wireguardThreadingEnabled", "false", 0, Unit::Plain, "true or false", boolean;
    /// `FlowLogsCollectorDebugTrace` (`flowLogsCollectorDebugTrace`): true or false; default `false`.
    flow_logs_collector_debug_trace: bool = "FlowLogsCollectorDebugTrace", "flowLogsCollectorDebugTrace", "false", 0, Unit::Plain, "true or false", boolean;
    /// `FlowLogsFlushInterval` (`flowLogsFlushInterval`): seconds; default `300`.
    flow_logs_flush_interval: Duration = "FlowLogsFlushInterval", "flowLogsFlushInterval", "300", 0, Unit::Seconds, "seconds", seconds;
    /// `FlowLogsGoldmaneServer` (`flowLogsGoldmaneServer`): text.
    flow_logs_goldmane_server: String = "FlowLogsGoldmaneServer", "flowLogsGoldmaneServer", "", 0, Unit::Plain, "text", text;
    /// `FlowLogsLocalReporter` (`flowLogsLocalReporter`): one of Disabled, Enabled; default `Disabled`.
    flow_logs_local_reporter: &'static str = "FlowLogsLocalReporter", "flowLogsLocalReporter", "Disabled", 0, Unit::Plain, "one of Disabled, Enabled", one_of(&["Disabled", "Enabled"]);
    /// `FlowLogsPolicyEvaluationMode` (`flowLogsPolicyEvaluationMode`): one of Continuous, None; default
    /// `Continuous`.
    flow_logs_policy_evaluation_mode: &'static str = "FlowLogsPolicyEvaluationMode", "flowLogsPolicyEvaluationMode", "Continuous", 0, Unit::Plain, "one of Continuous, None", one_of(&["Continuous", "None"]);
    /// `AWSSrcDstCheck` (`awsSrcDstCheck`): one of Disable, DoNothing, Enable; default `DoNothing`.
    aws_src_dst_check: &'static str = "AWSSrcDstCheck", "awsSrcDstCheck", "DoNothing", REQUIRED, Unit::Plain, "one of Disable, DoNothing, Enable", one_of(&["Disable", "DoNothing", "Enable"]);
    /// `DebugBPFCgroupV2`: text.
    debug_bpf_cgroup_v2: String = "DebugBPFCgroupV2", "", "", LOCAL, Unit::Plain, "text", text;
    /// `DebugCPUProfilePath`: a path; default `/tmp/felix-cpu-<timestamp>.pprof`.
    debug_cpu_profile_path: String = "DebugCPUProfilePath", "", "/tmp/felix-cpu-<timestamp>.pprof", 0, Unit::Plain, "a path", text;
    /// `DebugDisableLogDropping` (`debugDisableLogDropping`): true or false; default `false`.
    debug_disable_log_dropping: bool = "DebugDisableLogDropping", "debugDisableLogDropping", "false", 0, Unit::Plain, "true or false", boolean;
    /// `DebugHost` (`debugHost`): up to 64 letters, digits and : . _ + -; default `localhost`.
    debug_host: String = "DebugHost", "debugHost", "localhost", 0, Unit::Plain, "up to 64 letters, digits and : . _ + -", characters(64, b":._+-");
    /// `DebugMemoryProfilePath` (`debugMemoryProfilePath`): a path.
    debug_memory_profile_path: String = "DebugMemoryProfilePath", "debugMemoryProfilePath", "", 0, Unit::Plain, "a path", text;
    /// `DebugPanicAfter`: seconds; default `0`.
    debug_panic_after: Duration = "DebugPanicAfter", "", "0", 0, Unit::Seconds, "seconds", seconds;
    /// `DebugPort` (`debugPort`): a number from 0 to 65535.
    debug_port: i64 = "DebugPort", "debugPort", "", 0, Unit::Plain, "a number from 0 to 65535", int(0, 65535);
    /// `DebugSimulateCalcGraphHangAfter` (`debugSimulateCalcGraphHangAfter`): seconds; default `0`.
    debug_simulate_calc_graph_hang_after: Duration = "DebugSimulateCalcGraphHangAfter", "debugSimulateCalcGraphHangAfter", "0", 0, Unit::Seconds, "seconds", seconds;
    /// `DebugSimulateDataRace`: true or false; default `false`.
    debug_simulate_data_race: bool = "DebugSimulateDataRace", "", "false", 0, Unit::Plain, "true or false", boolean;
    /// `DebugSimulateDataplaneApplyDelay` (`debugSimulateDataplaneApplyDelay`): seconds; default `0`.
    debug_simulate_dataplane_apply_delay: Duration = "DebugSimulateDataplaneApplyDelay", "debugSimulateDataplaneApplyDelay", "0", 0, Unit::Seconds, "seconds", seconds;
    /// `DebugSimulateDataplaneHangAfter` (`debugSimulateDataplaneHangAfter`): seconds; default `0`.
    debug_simulate_dataplane_hang_after: Duration = "DebugSimulateDataplaneHangAfter", "debugSimulateDataplaneHangAfter", "0", 0, Unit::Seconds, "seconds", seconds;
    /// `UsageReportingEnabled` (`usageReportingEnabled`): true or false; default `true`.
    usage_reporting_enabled: bool = "UsageReportingEnabled", "usageReportingEnabled", "true", 0, Unit::Plain, "true or false", boolean;
    /// `UsageReportingInitialDelaySecs` (`usageReportingInitialDelay`): seconds; default `300`.
    usage_reporting_initial_delay: Duration = "UsageReportingInitialDelaySecs", "usageReportingInitialDelay", "300", 0, Unit::Seconds, "seconds", seconds;
    /// `UsageReportingIntervalSecs` (`usageReportingInterval`): seconds; default `86400`.
    usage_reporting_interval: Duration = "UsageReportingIntervalSecs", "usageReportingInterval", "86400", 0, Unit::Seconds, "seconds", seconds;
}
