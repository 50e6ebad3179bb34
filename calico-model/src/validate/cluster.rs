//! Cluster-wide settings.

use crate::net;
use crate::resource::bgp::Switch;
use crate::resource::cluster::ClusterInformationSpec;
use crate::resource::controllers::{
    AssignIps, AutoHostEndpointConfig, ControllerLogSeverity, KubeControllersConfigurationSpec,
};
use crate::resource::live_migration::LiveMigrationSpec;

use super::{Check, meta};

pub(super) fn information(c: &mut Check, s: &ClusterInformationSpec) {
    let guid = &s.cluster_guid;
    if !guid.is_empty() && (guid.len() != 32 || !guid.bytes().all(|b| b.is_ascii_hexdigit())) {
        c.field("clusterGUID", |c| c.bad(guid, "must be 32 hexadecimal digits"));
    }
}

pub(super) fn controllers(c: &mut Check, s: &KubeControllersConfigurationSpec) {
    c.known("logSeverityScreen", s.log_severity_screen.as_str(), ControllerLogSeverity::KNOWN);
    c.known("healthChecks", s.health_checks.as_str(), Switch::KNOWN);
    c.within("debugProfilePort", s.debug_profile_port.map(i64::from), 0, 65_535);
    c.field("controllers", |c| {
        if let Some(node) = &s.controllers.node {
            c.field("node", |c| {
                c.known("syncLabels", node.sync_labels.as_str(), Switch::KNOWN);
                if let Some(h) = &node.host_endpoint {
                    c.field("hostEndpoint", |c| host_endpoint(c, h));
                }
            });
        }
        if let Some(lb) = &s.controllers.load_balancer {
            c.field("loadBalancer", |c| c.known("assignIPs", lb.assign_ips.as_str(), AssignIps::KNOWN));
        }
        if let Some(m) = &s.controllers.migration {
            c.field("migration", |c| {
                c.known("policyNameMigrator", m.policy_name_migrator.as_str(), Switch::KNOWN);
            });
        }
    });
}

fn host_endpoint(c: &mut Check, h: &AutoHostEndpointConfig) {
    c.known("autoCreate", h.auto_create.as_str(), Switch::KNOWN);
    c.known("createDefaultHostEndpoint", h.create_default_host_endpoint.as_str(), Switch::KNOWN);
    let names: Vec<&str> = h.templates.iter().map(|t| t.generate_name.as_str()).collect();
    c.each("templates", &h.templates, |c, t| {
        if t.generate_name.is_empty() {
            c.field("generateName", |c| c.problem("required"));
        } else if !meta::is_name(&t.generate_name) {
            c.field("generateName", |c| {
                c.bad(&t.generate_name, "must consist of lower-case letters, digits, '-', '.'")
            });
        } else if names.iter().filter(|n| **n == t.generate_name).count() > 1 {
            c.field("generateName", |c| c.bad(&t.generate_name, "is used by more than one template"));
        }
        c.require(
            !t.interface_cidrs.is_empty() || !t.interface_pattern.is_empty(),
            "needs interfaceCIDRs or interfacePattern",
        );
        c.each("interfaceCIDRs", &t.interface_cidrs, |c, text| {
            if let Err(e) = net::cidr(text) {
                c.problem(e.to_string());
            }
        });
        meta::labels(c, &t.labels);
        meta::annotations(c, &t.annotations);
        c.selector("nodeSelector", &t.node_selector);
    });
}

pub(super) fn live_migration(c: &mut Check, s: &LiveMigrationSpec) {
    if let Some(source) = &s.source {
        let one = source.workload.is_some() != source.workload_endpoint.is_some();
        c.field("source", |c| c.require(one, "needs exactly one of workload and workloadEndpoint"));
    }
    if let Some(target) = &s.target {
        let one = target.selector.is_some() != target.workload_endpoint.is_some();
        c.field("target", |c| {
            c.require(one, "needs exactly one of selector and workloadEndpoint");
            c.selector("selector", target.selector.as_deref().unwrap_or_default());
        });
    }
}
