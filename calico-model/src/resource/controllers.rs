//! Configuration of the cluster-wide controllers.

use std::collections::BTreeMap;

use crate::GoDuration;
use crate::resource::bgp::Switch;
use crate::shape::{object, text_enum};

text_enum! {
    /// Which services get a load-balancer address.
    pub enum AssignIps {
        /// All of type LoadBalancer.
        AllServices = "AllServices",
        /// Those that ask by annotation.
        RequestedServicesOnly = "RequestedServicesOnly",
    }

    /// How verbose the log of the controllers is.
    pub enum ControllerLogSeverity {
        /// Nothing.
        None = "None",
        /// Details for debugging.
        Debug = "Debug",
        /// Normal events.
        Info = "Info",
        /// Things that may be wrong.
        Warning = "Warning",
        /// Things that are wrong.
        Error = "Error",
        /// Things after which the program ends.
        Fatal = "Fatal",
        /// Things that should never happen.
        Panic = "Panic",
    }
}

object! {
    /// Spec of the `KubeControllersConfiguration` named `default`.
    pub struct KubeControllersConfigurationSpec {
        /// Log verbosity; unset means `Info`.
        log_severity_screen: ControllerLogSeverity = "logSeverityScreen",
        /// Serve health checks; unset means `Enabled`.
        health_checks: Switch = "healthChecks",
        /// How often etcd is compacted, 0 for never; absent means 10 m.
        etcd_v3_compaction_period: Option<GoDuration> = "etcdV3CompactionPeriod",
        /// Port of the metrics; absent means 9094, 0 is off.
        prometheus_metrics_port: Option<u16> = "prometheusMetricsPort",
        /// Port of the profiler; absent is off.
        debug_profile_port: Option<i32> = "debugProfilePort",
        /// The controllers; an absent one is off.
        controllers: ControllersConfig = "controllers",
    }

    /// Settings of each controller; an absent one is off.
    pub struct ControllersConfig present {
        /// Nodes: leaked addresses, labels, host endpoints.
        node: Option<NodeControllerConfig> = "node",
        /// Kubernetes network policies into etcd.
        policy: Option<PeriodicControllerConfig> = "policy",
        /// Pod labels into etcd.
        workload_endpoint: Option<PeriodicControllerConfig> = "workloadEndpoint",
        /// Service accounts into etcd.
        service_account: Option<PeriodicControllerConfig> = "serviceAccount",
        /// Namespaces into etcd.
        namespace: Option<PeriodicControllerConfig> = "namespace",
        /// Addresses of services of type LoadBalancer.
        load_balancer: Option<LoadBalancerControllerConfig> = "loadBalancer",
        /// Migration of stored data.
        migration: Option<MigrationControllerConfig> = "migration",
    }

    /// Settings of the node controller.
    pub struct NodeControllerConfig {
        /// How often to reconcile; absent means 5 m.
        reconciler_period: Option<GoDuration> = "reconcilerPeriod",
        /// Copy Kubernetes node labels to Calico nodes (etcd only); unset means `Enabled`.
        sync_labels: Switch = "syncLabels",
        /// Host endpoints made from nodes.
        host_endpoint: Option<AutoHostEndpointConfig> = "hostEndpoint",
        /// How long an address must look leaked before it is released; absent means 15 m.
        leak_grace_period: Option<GoDuration> = "leakGracePeriod",
    }

    /// Host endpoints made from nodes.
    pub struct AutoHostEndpointConfig {
        /// Make them; unset means `Disabled`.
        auto_create: Switch = "autoCreate",
        /// Make the endpoint for all interfaces; unset means `Enabled`.
        create_default_host_endpoint: Switch = "createDefaultHostEndpoint",
        /// Further endpoints.
        templates: Vec<HostEndpointTemplate> = "templates",
    }

    /// A host endpoint to make for each node that matches.
    pub struct HostEndpointTemplate {
        /// Suffix of the name; required, unique.
        generate_name: String = "generateName",
        /// Networks of the interface addresses.
        interface_cidrs: Vec<String> = "interfaceCIDRs",
        /// Regular expression of the interface name.
        interface_pattern: String = "interfacePattern",
        /// Labels of the endpoint.
        labels: BTreeMap<String, String> = "labels",
        /// Annotations of the endpoint.
        annotations: BTreeMap<String, String> = "annotations",
        /// Selects nodes.
        node_selector: String = "nodeSelector",
    }

    /// Settings of a controller that only reconciles periodically.
    pub struct PeriodicControllerConfig {
        /// How often; absent means 5 m.
        reconciler_period: Option<GoDuration> = "reconcilerPeriod",
    }

    /// Settings of the load-balancer controller.
    pub struct LoadBalancerControllerConfig {
        /// Which services get an address; unset means `AllServices`.
        assign_ips: AssignIps = "assignIPs",
    }

    /// Settings of the migration controller.
    pub struct MigrationControllerConfig {
        /// Rewrite names of old policies; unset means `Enabled`.
        policy_name_migrator: Switch = "policyNameMigrator",
    }

    /// Status of a `KubeControllersConfiguration`.
    pub struct KubeControllersConfigurationStatus {
        /// The configuration in force, environment included.
        running_config: Option<KubeControllersConfigurationSpec> = "runningConfig",
        /// Environment variables that override the configuration.
        environment_vars: BTreeMap<String, String> = "environmentVars",
    }
}
