//! Felix configuration: the resource as stored. Effective values come from [`crate::config`].

use std::collections::BTreeMap;

use crate::shape::object;
use crate::{Dscp, GoDuration, Port};

object! {
    /// Spec of a `FelixConfiguration`. Absent fields leave the parameter to the next source.
    pub struct FelixConfigurationSpec {
        /// Parameter `AllowIPIPPacketsFromWorkloads`; built-in default `false`.
        allow_ipip_packets_from_workloads: Option<bool> = "allowIPIPPacketsFromWorkloads",
        /// Parameter `AllowVXLANPacketsFromWorkloads`; built-in default `false`.
        allow_vxlan_packets_from_workloads: Option<bool> = "allowVXLANPacketsFromWorkloads",
        /// Parameter `AWSSrcDstCheck`; built-in default `DoNothing`; one of ``"Disable"``, ``"DoNothing"``,
        /// ``"Enable"``.
        aws_src_dst_check: String = "awsSrcDstCheck",
        /// Parameter `BPFAttachType`; built-in default `Netkit`; one of ``"Netkit"``, ``"TC"``, ``"TCX"``.
        bpf_attach_type: String = "bpfAttachType",
        /// Parameter `BPFCTLBLogFilter`.
        bpf_ctlb_log_filter: String = "bpfCTLBLogFilter",
        /// Parameter `BPFConnectTimeLoadBalancing`; built-in default `TCP`; one of ``"Disabled"``,
        /// ``"Enabled"``, ``"TCP"``.
        bpf_connect_time_load_balancing: String = "bpfConnectTimeLoadBalancing",
        /// Parameter `BPFConnectTimeLoadBalancingEnabled`.
        bpf_connect_time_load_balancing_enabled: Option<bool> = "bpfConnectTimeLoadBalancingEnabled",
        /// Parameter `BPFConntrackLogLevel`; built-in default `off`; one of ``"Debug"``, ``"Off"``.
        bpf_conntrack_log_level: String = "bpfConntrackLogLevel",
        /// Parameter `BPFConntrackCleanupMode`; built-in default `Auto`; one of ``"Auto"``, ``"BPFProgram"``,
        /// ``"Userspace"``.
        bpf_conntrack_mode: String = "bpfConntrackMode",
        /// Parameter `BPFConntrackTimeouts`.
        bpf_conntrack_timeouts: Option<BpfConntrackTimeouts> = "bpfConntrackTimeouts",
        /// Parameter `BPFDSROptoutCIDRs`.
        bpf_dsr_optout_cidrs: Option<Vec<String>> = "bpfDSROptoutCIDRs",
        /// Parameter `BPFDataIfacePattern`; built-in default
        /// `^((en|wl|ww|sl|ib)[Popsx].*|(eth|wlan|wwan|bond).*)`.
        bpf_data_iface_pattern: String = "bpfDataIfacePattern",
        /// Parameter `BPFDisableGROForIfaces`.
        bpf_disable_gro_for_ifaces: String = "bpfDisableGROForIfaces",
        /// Parameter `BPFDisableUnprivileged`; built-in default `true`.
        bpf_disable_unprivileged: Option<bool> = "bpfDisableUnprivileged",
        /// Parameter `BPFEnabled`; built-in default `false`.
        bpf_enabled: Option<bool> = "bpfEnabled",
        /// Parameter `BPFEnforceRPF`; built-in default `Loose`; one of `Disabled`, `Loose`, `Strict`.
        bpf_enforce_rpf: String = "bpfEnforceRPF",
        /// Parameter `BPFExcludeCIDRsFromNAT`.
        bpf_exclude_cidrs_from_nat: Option<Vec<String>> = "bpfExcludeCIDRsFromNAT",
        /// Parameter `BPFExportBufferSizeMB`; built-in default `1`.
        bpf_export_buffer_size_mb: Option<i64> = "bpfExportBufferSizeMB",
        /// Parameter `BPFExtToServiceConnmark`; built-in default `0`.
        bpf_ext_to_service_connmark: Option<i64> = "bpfExtToServiceConnmark",
        /// Parameter `BPFExternalServiceMode`; built-in default `tunnel`; one of `DSR`, `Tunnel`.
        bpf_external_service_mode: String = "bpfExternalServiceMode",
        /// Parameter `BPFForceTrackPacketsFromIfaces`; built-in default `docker+`.
        bpf_force_track_packets_from_ifaces: Option<Vec<String>> = "bpfForceTrackPacketsFromIfaces",
        /// Parameter `BPFHostConntrackBypass`; built-in default `false`.
        bpf_host_conntrack_bypass: Option<bool> = "bpfHostConntrackBypass",
        /// Parameter `BPFHostNetworkedNATWithoutCTLB`; built-in default `Enabled`; one of ``"Disabled"``,
        /// ``"Enabled"``.
        bpf_host_networked_nat_without_ctlb: String = "bpfHostNetworkedNATWithoutCTLB",
        /// Parameter `BPFIPFragTimeout`; built-in default `0`.
        bpf_ip_frag_timeout: Option<GoDuration> = "bpfIPFragTimeout",
        /// Parameter `BPFIPFragmentReassemblyEnabled`; built-in default `true`.
        bpf_ip_fragment_reassembly_enabled: Option<bool> = "bpfIPFragmentReassemblyEnabled",
        /// Parameter `BPFJITHardening`; built-in default `Auto`; one of ``"Auto"``, ``"Strict"``.
        bpf_jit_hardening: String = "bpfJITHardening",
        /// Parameter `BPFKubeProxyHealthzPort`; built-in default `10256`.
        bpf_kube_proxy_healthz_port: Option<i64> = "bpfKubeProxyHealthzPort",
        /// Parameter `BPFKubeProxyIptablesCleanupEnabled`; built-in default `true`.
        bpf_kube_proxy_iptables_cleanup_enabled: Option<bool> = "bpfKubeProxyIptablesCleanupEnabled",
        /// Parameter `BPFKubeProxyMinSyncPeriod`; built-in default `1`.
        bpf_kube_proxy_min_sync_period: Option<GoDuration> = "bpfKubeProxyMinSyncPeriod",
        /// Parameter `BPFL3IfacePattern`.
        bpf_l3_iface_pattern: String = "bpfL3IfacePattern",
        /// Parameter `BPFLogFilters`.
        bpf_log_filters: Option<BTreeMap<String, String>> = "bpfLogFilters",
        /// Parameter `BPFLogLevel`; built-in default `off`; one of `Debug`, `Info`, `Off`.
        bpf_log_level: String = "bpfLogLevel",
        /// Parameter `BPFMaglevMaxEndpointsPerService`; built-in default `100`.
        bpf_maglev_max_endpoints_per_service: Option<i64> = "bpfMaglevMaxEndpointsPerService",
        /// Parameter `BPFMaglevMaxServices`; built-in default `100`.
        bpf_maglev_max_services: Option<i64> = "bpfMaglevMaxServices",
        /// Parameter `BPFMapSizeConntrack`; built-in default `512000`.
        bpf_map_size_conntrack: Option<i64> = "bpfMapSizeConntrack",
        /// Parameter `BPFMapSizeConntrackCleanupQueue`; built-in default `100000`.
        bpf_map_size_conntrack_cleanup_queue: Option<i64> = "bpfMapSizeConntrackCleanupQueue",
        /// Parameter `BPFMapSizeConntrackScaling`; built-in default `DoubleIfFull`; one of `Disabled`,
        /// `DoubleIfFull`.
        bpf_map_size_conntrack_scaling: String = "bpfMapSizeConntrackScaling",
        /// Parameter `BPFMapSizeIPSets`; built-in default `1048576`.
        bpf_map_size_ip_sets: Option<i64> = "bpfMapSizeIPSets",
        /// Parameter `BPFMapSizeIfState`; built-in default `1000`.
        bpf_map_size_if_state: Option<i64> = "bpfMapSizeIfState",
        /// Parameter `BPFMapSizeNATAffinity`; built-in default `65536`.
        bpf_map_size_nat_affinity: Option<i64> = "bpfMapSizeNATAffinity",
        /// Parameter `BPFMapSizeNATBackend`; built-in default `262144`.
        bpf_map_size_nat_backend: Option<i64> = "bpfMapSizeNATBackend",
        /// Parameter `BPFMapSizeNATFrontend`; built-in default `65536`.
        bpf_map_size_nat_frontend: Option<i64> = "bpfMapSizeNATFrontend",
        /// Parameter `BPFMapSizePerCPUConntrack`; built-in default `0`.
        bpf_map_size_per_cpu_conntrack: Option<i64> = "bpfMapSizePerCpuConntrack",
        /// Parameter `BPFMapSizeRoute`; built-in default `262144`.
        bpf_map_size_route: Option<i64> = "bpfMapSizeRoute",
        /// Parameter `BPFOverlayHostSourceIP`; built-in default `TunnelAddress`; one of ``"HostAddress"``,
        /// ``"TunnelAddress"``.
        bpf_overlay_host_source_ip: String = "bpfOverlayHostSourceIP",
        /// Parameter `BPFPSNATPorts`; built-in default `20000:29999`.
        bpf_psnat_ports: Option<Port> = "bpfPSNATPorts",
        /// Parameter `BPFPolicyDebugEnabled`; built-in default `true`.
        bpf_policy_debug_enabled: Option<bool> = "bpfPolicyDebugEnabled",
        /// Parameter `BPFProfiling`; built-in default `Disabled`; one of ``"Disabled"``, ``"Enabled"``.
        bpf_profiling: String = "bpfProfiling",
        /// Parameter `BPFRedirectToPeer`; built-in default `Enabled`; one of ``"Disabled"``, ``"Enabled"``.
        bpf_redirect_to_peer: String = "bpfRedirectToPeer",
        /// Parameter `CgroupV2Path`.
        cgroup_v2_path: String = "cgroupV2Path",
        /// Parameter `ChainInsertMode`; built-in default `insert`; one of `Append`, `Insert`.
        chain_insert_mode: String = "chainInsertMode",
        /// Parameter `DataplaneDriver`; built-in default `calico-iptables-plugin`.
        dataplane_driver: String = "dataplaneDriver",
        /// Parameter `DataplaneWatchdogTimeout`; built-in default `90`.
        dataplane_watchdog_timeout: Option<GoDuration> = "dataplaneWatchdogTimeout",
        /// Parameter `DebugDisableLogDropping`; built-in default `false`.
        debug_disable_log_dropping: Option<bool> = "debugDisableLogDropping",
        /// Parameter `DebugHost`; built-in default `localhost`.
        debug_host: String = "debugHost",
        /// Parameter `DebugMemoryProfilePath`.
        debug_memory_profile_path: String = "debugMemoryProfilePath",
        /// Parameter `DebugPort`.
        debug_port: Option<i64> = "debugPort",
        /// Parameter `DebugSimulateCalcGraphHangAfter`; built-in default `0`.
        debug_simulate_calc_graph_hang_after: Option<GoDuration> = "debugSimulateCalcGraphHangAfter",
        /// Parameter `DebugSimulateDataplaneApplyDelay`; built-in default `0`.
        debug_simulate_dataplane_apply_delay: Option<GoDuration> = "debugSimulateDataplaneApplyDelay",
        /// Parameter `DebugSimulateDataplaneHangAfter`; built-in default `0`.
        debug_simulate_dataplane_hang_after: Option<GoDuration> = "debugSimulateDataplaneHangAfter",
        /// Parameter `DefaultEndpointToHostAction`; built-in default `DROP`; one of `Accept`, `Drop`,
        /// `Return`.
        default_endpoint_to_host_action: String = "defaultEndpointToHostAction",
        /// Parameter `DeviceRouteProtocol`; built-in default `3`.
        device_route_protocol: Option<i64> = "deviceRouteProtocol",
        /// Parameter `DeviceRouteSourceAddress`.
        device_route_source_address: String = "deviceRouteSourceAddress",
        /// Parameter `DeviceRouteSourceAddressIPv6`.
        device_route_source_address_ipv6: String = "deviceRouteSourceAddressIPv6",
        /// Parameter `DisableConntrackInvalidCheck`; built-in default `false`.
        disable_conntrack_invalid_check: Option<bool> = "disableConntrackInvalidCheck",
        /// Parameter `EndpointReportingDelaySecs`; built-in default `1`.
        endpoint_reporting_delay: Option<GoDuration> = "endpointReportingDelay",
        /// Parameter `EndpointReportingEnabled`; built-in default `false`.
        endpoint_reporting_enabled: Option<bool> = "endpointReportingEnabled",
        /// Parameter `EndpointStatusPathPrefix`; built-in default `/var/run/calico`.
        endpoint_status_path_prefix: String = "endpointStatusPathPrefix",
        /// Parameter `ExternalNodesCIDRList`.
        external_nodes_list: Option<Vec<String>> = "externalNodesList",
        /// Parameter `FailsafeInboundHostPorts`.
        failsafe_inbound_host_ports: Option<Vec<ProtoPort>> = "failsafeInboundHostPorts",
        /// Parameter `FailsafeOutboundHostPorts`.
        failsafe_outbound_host_ports: Option<Vec<ProtoPort>> = "failsafeOutboundHostPorts",
        /// Parameter `FeatureDetectOverride`.
        feature_detect_override: String = "featureDetectOverride",
        /// Parameter `FeatureGates`.
        feature_gates: String = "featureGates",
        /// Parameter `FloatingIPs`; built-in default `Disabled`; one of ``"Disabled"``, ``"Enabled"``.
        floating_ips: String = "floatingIPs",
        /// Parameter `FlowLogsCollectorDebugTrace`; built-in default `false`.
        flow_logs_collector_debug_trace: Option<bool> = "flowLogsCollectorDebugTrace",
        /// Parameter `FlowLogsFlushInterval`; built-in default `300`.
        flow_logs_flush_interval: Option<GoDuration> = "flowLogsFlushInterval",
        /// Parameter `FlowLogsGoldmaneServer`.
        flow_logs_goldmane_server: String = "flowLogsGoldmaneServer",
        /// Parameter `FlowLogsLocalReporter`; built-in default `Disabled`; one of ``"Disabled"``,
        /// ``"Enabled"``.
        flow_logs_local_reporter: String = "flowLogsLocalReporter",
        /// Parameter `FlowLogsPolicyEvaluationMode`; built-in default `Continuous`; one of ``"Continuous"``,
        /// ``"None"``.
        flow_logs_policy_evaluation_mode: String = "flowLogsPolicyEvaluationMode",
        /// Parameter `GenericXDPEnabled`; built-in default `false`.
        generic_xdp_enabled: Option<bool> = "genericXDPEnabled",
        /// Parameter `GoGCThreshold`; built-in default `40`.
        go_gc_threshold: Option<i64> = "goGCThreshold",
        /// Parameter `GoMaxProcs`; built-in default `-1`.
        go_max_procs: Option<i64> = "goMaxProcs",
        /// Parameter `GoMemoryLimitMB`; built-in default `-1`.
        go_memory_limit_mb: Option<i64> = "goMemoryLimitMB",
        /// Parameter `HealthEnabled`; built-in default `false`.
        health_enabled: Option<bool> = "healthEnabled",
        /// Parameter `HealthHost`; built-in default `localhost`.
        health_host: String = "healthHost",
        /// Parameter `HealthPort`; built-in default `9099`.
        health_port: Option<i64> = "healthPort",
        /// Parameter `HealthTimeoutOverrides`.
        health_timeout_overrides: Vec<HealthTimeoutOverride> = "healthTimeoutOverrides",
        /// Parameter `InterfaceExclude`; built-in default `kube-ipvs0`.
        interface_exclude: String = "interfaceExclude",
        /// Parameter `InterfacePrefix`; built-in default `cali`.
        interface_prefix: String = "interfacePrefix",
        /// Parameter `InterfaceRefreshInterval`; built-in default `90`.
        interface_refresh_interval: Option<GoDuration> = "interfaceRefreshInterval",
        /// Parameter `IPForwarding`; built-in default `Enabled`; one of ``"Disabled"``, ``"Enabled"``.
        ip_forwarding: String = "ipForwarding",
        /// Parameter `IpInIpEnabled`.
        ipip_enabled: Option<bool> = "ipipEnabled",
        /// Parameter `IpInIpMtu`; built-in default `0`.
        ipip_mtu: Option<i64> = "ipipMTU",
        /// Parameter `IpsetsRefreshInterval`; built-in default `90`.
        ipsets_refresh_interval: Option<GoDuration> = "ipsetsRefreshInterval",
        /// Parameter `IptablesBackend`; built-in default `auto`; one of ``"Auto"``, ``"Legacy"``, ``"NFT"``.
        iptables_backend: String = "iptablesBackend",
        /// Parameter `IptablesFilterAllowAction`; built-in default `ACCEPT`; one of `Accept`, `Return`.
        iptables_filter_allow_action: String = "iptablesFilterAllowAction",
        /// Parameter `IptablesFilterDenyAction`; built-in default `DROP`; one of `Drop`, `Reject`.
        iptables_filter_deny_action: String = "iptablesFilterDenyAction",
        /// Parameter `IptablesLockProbeIntervalMillis`; built-in default `50`.
        iptables_lock_probe_interval: Option<GoDuration> = "iptablesLockProbeInterval",
        /// Parameter `IptablesMangleAllowAction`; built-in default `ACCEPT`; one of `Accept`, `Return`.
        iptables_mangle_allow_action: String = "iptablesMangleAllowAction",
        /// Parameter `IptablesMarkMask`; built-in default `0xffff0000`.
        iptables_mark_mask: Option<i64> = "iptablesMarkMask",
        /// Parameter `IptablesNATOutgoingInterfaceFilter`.
        iptables_nat_outgoing_interface_filter: String = "iptablesNATOutgoingInterfaceFilter",
        /// Parameter `IptablesPostWriteCheckIntervalSecs`; built-in default `5`.
        iptables_post_write_check_interval: Option<GoDuration> = "iptablesPostWriteCheckInterval",
        /// Parameter `IptablesRefreshInterval`; built-in default `180`.
        iptables_refresh_interval: Option<GoDuration> = "iptablesRefreshInterval",
        /// Parameter `IPv4ElevatedRoutePriority`; built-in default `512`.
        ipv4_elevated_route_priority: Option<i64> = "ipv4ElevatedRoutePriority",
        /// Parameter `IPv4NormalRoutePriority`; built-in default `1024`.
        ipv4_normal_route_priority: Option<i64> = "ipv4NormalRoutePriority",
        /// Parameter `IPv6ElevatedRoutePriority`; built-in default `512`.
        ipv6_elevated_route_priority: Option<i64> = "ipv6ElevatedRoutePriority",
        /// Parameter `IPv6NormalRoutePriority`; built-in default `1024`.
        ipv6_normal_route_priority: Option<i64> = "ipv6NormalRoutePriority",
        /// Parameter `Ipv6Support`; built-in default `true`.
        ipv6_support: Option<bool> = "ipv6Support",
        /// Parameter `IstioAmbientMode`; built-in default `Disabled`; one of ``"Disabled"``, ``"Enabled"``.
        istio_ambient_mode: String = "istioAmbientMode",
        /// Parameter `IstioDSCPMark`; built-in default `23`.
        istio_dscp_mark: Option<Dscp> = "istioDSCPMark",
        /// Parameter `KubeNodePortRanges`; built-in default `30000:32767`.
        kube_node_port_ranges: Option<Vec<Port>> = "kubeNodePortRanges",
        /// Parameter `LiveMigrationRouteConvergenceTime`; built-in default `30`.
        live_migration_route_convergence_time: Option<GoDuration> = "liveMigrationRouteConvergenceTime",
        /// Parameter `LocalSubnetL2Reachability`; built-in default `Disabled`; one of ``"Disabled"``,
        /// ``"PodsAndLoadBalancers"``.
        local_subnet_l2_reachability: String = "localSubnetL2Reachability",
        /// Parameter `LocalSubnetL2ReachabilityRefreshInterval`; built-in default `120`.
        local_subnet_l2_reachability_refresh_interval: Option<GoDuration> = "localSubnetL2ReachabilityRefreshInterval",
        /// Parameter `LogActionRateLimit`.
        log_action_rate_limit: String = "logActionRateLimit",
        /// Parameter `LogActionRateLimitBurst`; built-in default `5`.
        log_action_rate_limit_burst: Option<i64> = "logActionRateLimitBurst",
        /// Parameter `LogDebugFilenameRegex`.
        log_debug_filename_regex: String = "logDebugFilenameRegex",
        /// Parameter `LogFilePath`; built-in default `/var/log/calico/felix.log`.
        log_file_path: String = "logFilePath",
        /// Parameter `LogPrefix`; built-in default `calico-packet`.
        log_prefix: String = "logPrefix",
        /// Parameter `LogSeverityFile`; built-in default `INFO`; one of `Debug`, `Error`, `Fatal`, `Info`,
        /// `Trace`, `Warning`.
        log_severity_file: String = "logSeverityFile",
        /// Parameter `LogSeverityScreen`; built-in default `INFO`; one of `Debug`, `Error`, `Fatal`, `Info`,
        /// `Trace`, `Warning`.
        log_severity_screen: String = "logSeverityScreen",
        /// Parameter `LogSeveritySys`; built-in default `INFO`; one of `Debug`, `Error`, `Fatal`, `Info`,
        /// `Trace`, `Warning`.
        log_severity_sys: String = "logSeveritySys",
        /// Parameter `MaxIpsetSize`; built-in default `1048576`.
        max_ipset_size: Option<i64> = "maxIpsetSize",
        /// Parameter `MetadataAddr`; built-in default `127.0.0.1`.
        metadata_addr: String = "metadataAddr",
        /// Parameter `MetadataPort`; built-in default `8775`.
        metadata_port: Option<i64> = "metadataPort",
        /// Parameter `MTUIfacePattern`; built-in default `^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)`.
        mtu_iface_pattern: String = "mtuIfacePattern",
        /// Parameter `NATOutgoingAddress`.
        nat_outgoing_address: String = "natOutgoingAddress",
        /// Parameter `NATOutgoingExclusions`; built-in default `IPPoolsOnly`; one of ``"IPPoolsAndHostIPs"``,
        /// ``"IPPoolsOnly"``.
        nat_outgoing_exclusions: String = "natOutgoingExclusions",
        /// Parameter `NATPortRange`.
        nat_port_range: Option<Port> = "natPortRange",
        /// Parameter `NetlinkTimeoutSecs`; built-in default `10`.
        netlink_timeout: Option<GoDuration> = "netlinkTimeout",
        /// Parameter `NftablesFilterAllowAction`; built-in default `ACCEPT`; one of `Accept`, `Return`.
        nftables_filter_allow_action: String = "nftablesFilterAllowAction",
        /// Parameter `NftablesFilterDenyAction`; built-in default `DROP`; one of `Drop`, `Reject`.
        nftables_filter_deny_action: String = "nftablesFilterDenyAction",
        /// Parameter `NFTablesFlowTableDataIfacePattern`.
        nftables_flow_table_data_iface_pattern: String = "nftablesFlowTableDataIfacePattern",
        /// Parameter `NFTablesFlowTableOffload`; built-in default `Disabled`; one of ``"All"``,
        /// ``"Disabled"``.
        nftables_flow_table_offload: String = "nftablesFlowTableOffload",
        /// Parameter `NftablesMangleAllowAction`; built-in default `ACCEPT`; one of `Accept`, `Return`.
        nftables_mangle_allow_action: String = "nftablesMangleAllowAction",
        /// Parameter `NftablesMarkMask`; built-in default `0xffff0000`.
        nftables_mark_mask: Option<i64> = "nftablesMarkMask",
        /// Parameter `NFTablesMode`; built-in default `Auto`; one of ``"Auto"``, ``"Disabled"``,
        /// ``"Enabled"``.
        nftables_mode: String = "nftablesMode",
        /// Parameter `NftablesRefreshInterval`; built-in default `180`.
        nftables_refresh_interval: Option<GoDuration> = "nftablesRefreshInterval",
        /// Field `nodeSelector`.
        node_selector: String = "nodeSelector",
        /// Parameter `OpenstackRegion`.
        openstack_region: String = "openstackRegion",
        /// Parameter `PolicySyncPathPrefix`.
        policy_sync_path_prefix: String = "policySyncPathPrefix",
        /// Parameter `ProgramClusterRoutes`; built-in default `EnabledIPIPOnly`; one of ``"Disabled"``,
        /// ``"Enabled"``, ``"EnabledIPIPOnly"``, ``"EnabledNoEncapOnly"``.
        program_cluster_routes: String = "programClusterRoutes",
        /// Parameter `PrometheusGoMetricsEnabled`; built-in default `true`.
        prometheus_go_metrics_enabled: Option<bool> = "prometheusGoMetricsEnabled",
        /// Parameter `PrometheusMetricsCAFile`.
        prometheus_metrics_ca_file: String = "prometheusMetricsCAFile",
        /// Parameter `PrometheusMetricsCertFile`.
        prometheus_metrics_cert_file: String = "prometheusMetricsCertFile",
        /// Parameter `PrometheusMetricsClientAuth`; built-in default `NoClientCert`; one of
        /// ``"NoClientCert"``, ``"RequireAndVerifyClientCert"``, ``"RequireAnyClientCert"``,
        /// ``"VerifyClientCertIfGiven"``.
        prometheus_metrics_client_auth: String = "prometheusMetricsClientAuth",
        /// Parameter `PrometheusMetricsEnabled`; built-in default `false`.
        prometheus_metrics_enabled: Option<bool> = "prometheusMetricsEnabled",
        /// Parameter `PrometheusMetricsHost`.
        prometheus_metrics_host: String = "prometheusMetricsHost",
        /// Parameter `PrometheusMetricsKeyFile`.
        prometheus_metrics_key_file: String = "prometheusMetricsKeyFile",
        /// Parameter `PrometheusMetricsPort`; built-in default `9091`.
        prometheus_metrics_port: Option<i64> = "prometheusMetricsPort",
        /// Parameter `PrometheusProcessMetricsEnabled`; built-in default `true`.
        prometheus_process_metrics_enabled: Option<bool> = "prometheusProcessMetricsEnabled",
        /// Parameter `PrometheusWireGuardMetricsEnabled`; built-in default `true`.
        prometheus_wireguard_metrics_enabled: Option<bool> = "prometheusWireGuardMetricsEnabled",
        /// Parameter `RemoveExternalRoutes`; built-in default `true`.
        remove_external_routes: Option<bool> = "removeExternalRoutes",
        /// Parameter `ReportingIntervalSecs`; built-in default `30`.
        reporting_interval: Option<GoDuration> = "reportingInterval",
        /// Parameter `ReportingTTLSecs`; built-in default `90`.
        reporting_ttl: Option<GoDuration> = "reportingTTL",
        /// Parameter `RequireMTUFile`; built-in default `false`.
        require_mtu_file: Option<bool> = "requireMTUFile",
        /// Parameter `RouteRefreshInterval`; built-in default `90`.
        route_refresh_interval: Option<GoDuration> = "routeRefreshInterval",
        /// Parameter `RouteSource`; built-in default `CalicoIPAM`; one of `CalicoIPAM`, `WorkloadIPs`.
        route_source: String = "routeSource",
        /// Parameter `RouteSyncDisabled`; built-in default `false`.
        route_sync_disabled: Option<bool> = "routeSyncDisabled",
        /// Parameter `RouteTableRange`.
        route_table_range: Option<RouteTableIdRange> = "routeTableRange",
        /// Parameter `RouteTableRanges`.
        route_table_ranges: Option<Vec<RouteTableIdRange>> = "routeTableRanges",
        /// Parameter `ServiceLoopPrevention`; built-in default `Drop`; one of `Disabled`, `Drop`, `Reject`.
        service_loop_prevention: String = "serviceLoopPrevention",
        /// Parameter `SidecarAccelerationEnabled`; built-in default `false`.
        sidecar_acceleration_enabled: Option<bool> = "sidecarAccelerationEnabled",
        /// Parameter `UsageReportingEnabled`; built-in default `true`.
        usage_reporting_enabled: Option<bool> = "usageReportingEnabled",
        /// Parameter `UsageReportingInitialDelaySecs`; built-in default `300`.
        usage_reporting_initial_delay: Option<GoDuration> = "usageReportingInitialDelay",
        /// Parameter `UsageReportingIntervalSecs`; built-in default `86400`.
        usage_reporting_interval: Option<GoDuration> = "usageReportingInterval",
        /// Parameter `UseInternalDataplaneDriver`; built-in default `true`.
        use_internal_dataplane_driver: Option<bool> = "useInternalDataplaneDriver",
        /// Parameter `VXLANEnabled`.
        vxlan_enabled: Option<bool> = "vxlanEnabled",
        /// Parameter `VXLANMTU`; built-in default `0`.
        vxlan_mtu: Option<i64> = "vxlanMTU",
        /// Parameter `VXLANMTUV6`; built-in default `0`.
        vxlan_mtu_v6: Option<i64> = "vxlanMTUV6",
        /// Parameter `VXLANPort`; built-in default `4789`.
        vxlan_port: Option<i64> = "vxlanPort",
        /// Parameter `VXLANVNI`; built-in default `4096`.
        vxlan_vni: Option<i64> = "vxlanVNI",
        /// Parameter `WindowsManageFirewallRules`; built-in default `Disabled`; one of ``"Disabled"``,
        /// ``"Enabled"``.
        windows_manage_firewall_rules: String = "windowsManageFirewallRules",
        /// Parameter `WireguardEnabled`; built-in default `false`.
        wireguard_enabled: Option<bool> = "wireguardEnabled",
        /// Parameter `WireguardEnabledV6`; built-in default `false`.
        wireguard_enabled_v6: Option<bool> = "wireguardEnabledV6",
        /// Parameter `WireguardHostEncryptionEnabled`; built-in default `false`.
        wireguard_host_encryption_enabled: Option<bool> = "wireguardHostEncryptionEnabled",
        /// Parameter `WireguardInterfaceName`; built-in default `wireguard.cali`.
        wireguard_interface_name: String = "wireguardInterfaceName",
        /// Parameter `WireguardInterfaceNameV6`; built-in default `wg-v6.cali`.
        wireguard_interface_name_v6: String = "wireguardInterfaceNameV6",
        /// Parameter `WireguardPersistentKeepAlive`; built-in default `0`.
        wireguard_keep_alive: Option<GoDuration> = "wireguardKeepAlive",
        /// Parameter `WireguardListeningPort`; built-in default `51820`.
        wireguard_listening_port: Option<i64> = "wireguardListeningPort",
        /// Parameter `WireguardListeningPortV6`; built-in default `51821`.
        wireguard_listening_port_v6: Option<i64> = "wireguardListeningPortV6",
        /// Parameter `WireguardMTU`; built-in default `0`.
        wireguard_mtu: Option<i64> = "wireguardMTU",
        /// Parameter `WireguardMTUV6`; built-in default `0`.
        wireguard_mtu_v6: Option<i64> = "wireguardMTUV6",
        /// Parameter `WireguardRoutingRulePriority`; built-in default `99`.
        wireguard_routing_rule_priority: Option<i64> = "wireguardRoutingRulePriority",
        /// Parameter `WireguardThreadingEnabled`; built-in default `false`.
        wireguard_threading_enabled: Option<bool> = "wireguardThreadingEnabled",
        /// Parameter `WorkloadSourceSpoofing`; built-in default `Disabled`; one of `Any`, `Disabled`.
        workload_source_spoofing: String = "workloadSourceSpoofing",
        /// Parameter `XDPEnabled`; built-in default `true`.
        xdp_enabled: Option<bool> = "xdpEnabled",
        /// Parameter `XDPRefreshInterval`; built-in default `90`.
        xdp_refresh_interval: Option<GoDuration> = "xdpRefreshInterval",
    }

    /// A port of a protocol, optionally only for some addresses.
    pub struct ProtoPort {
        /// `TCP` or `UDP`, any case; empty means TCP.
        protocol: String = "protocol",
        /// Number, 1–65535.
        port: u16 = "port",
        /// Network of the peers concerned; empty for all.
        net: String = "net",
    }

    /// Timeouts of the BPF connection table, each a duration or `Auto`.
    pub struct BpfConntrackTimeouts {
        /// Least age of an entry before it is removed; default 10 s.
        creation_grace_period: String = "creationGracePeriod",
        /// TCP after SYN; default 20 s.
        tcp_syn_sent: String = "tcpSynSent",
        /// Established TCP; default 1 h.
        tcp_established: String = "tcpEstablished",
        /// TCP after both FINs; default `Auto`.
        tcp_fins_seen: String = "tcpFinsSeen",
        /// TCP after RST; default 40 s.
        tcp_reset_seen: String = "tcpResetSeen",
        /// UDP; default 60 s.
        udp_timeout: String = "udpTimeout",
        /// Other protocols; default 10 m.
        generic_timeout: String = "genericTimeout",
        /// ICMP; default 5 s.
        icmp_timeout: String = "icmpTimeout",
    }
}

object! {
    /// A time after which a component that shows no sign of life counts as dead.
    pub struct HealthTimeoutOverride always {
        /// Name of the component.
        name: String = "name",
        /// The time.
        timeout: GoDuration = "timeout",
    }

    /// An inclusive range of kernel routing tables.
    pub struct RouteTableIdRange always {
        /// First table, from 1.
        min: i64 = "min",
        /// Last table.
        max: i64 = "max",
    }
}
