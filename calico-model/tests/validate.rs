//! Good objects pass, bad ones fail with the path of the bad field.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests may fail loudly")]

use calico_model::decode::Mode;
use calico_model::{AnyResource, IPPool, IPPoolSpec, Kind, defaults, validate};
use serde_json::{Value, json};

fn object(kind: Kind, name: &str, spec: Value) -> Value {
    let mut metadata = json!({"name": name});
    if kind.is_namespaced() {
        metadata["namespace"] = "ns".into();
    }
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind.name(), "metadata": metadata, "spec": spec})
}

fn read(tree: &Value) -> AnyResource {
    AnyResource::read(tree.clone(), Mode::Strict).unwrap_or_else(|e| panic!("{e}\n{tree}"))
}

fn shown(tree: &Value) -> Vec<String> {
    validate::problems(&read(tree)).iter().map(ToString::to_string).collect()
}

/// `changes`: JSON pointer, value, and the paths that must then be reported.
fn table(good: &Value, changes: &[(&str, Value, &[&str])]) {
    assert_eq!(shown(good), Vec::<String>::new(), "{good}");
    let mut defaulted = read(good);
    defaults::apply(&mut defaulted);
    assert!(validate::check(&defaulted).is_ok(), "with defaults: {:?}", validate::problems(&defaulted));
    for (pointer, value, expected) in changes {
        let mut bad = good.clone();
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        let parent = bad.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"));
        match parent {
            Value::Array(list) => list[last.parse::<usize>().unwrap()] = value.clone(),
            other => other[last] = value.clone(),
        }
        let problems = validate::problems(&read(&bad));
        let mut paths: Vec<&str> = problems.iter().map(|p| p.path.as_str()).collect();
        paths.dedup();
        assert_eq!(&paths, expected, "{pointer} = {value}: {problems:?}");
    }
}

#[test]
fn network_policies() {
    let good = object(
        Kind::NetworkPolicy,
        "default.web",
        json!({
            "tier": "default", "order": 10.5, "selector": "app == 'web'", "types": ["Ingress", "Egress"],
            "ingress": [
                {"action": "Allow", "protocol": "TCP", "source": {"nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16"],
                    "selector": "a == 'b'", "namespaceSelector": "global()"},
                 "destination": {"ports": [80, "http", "1:2"]}},
                {"action": "Allow", "http": {"methods": ["GET"], "paths": [{"exact": "/a"}, {"prefix": "/b"}]}},
                {"action": "Log", "protocol": "ICMP", "icmp": {"type": 8, "code": 0}, "ipVersion": 4},
                {"action": "Deny", "source": {"services": {"name": "s"}}}
            ],
            "egress": [{"action": "Pass", "destination": {"services": {"name": "s", "namespace": "n"}}}]
        }),
    );
    let rule = |r: Value| r;
    table(
        &good,
        &[
            ("/metadata/name", json!("a.b.c"), &["metadata.name"]),
            ("/metadata/name", json!("x".repeat(300)), &["metadata.name"]),
            ("/metadata/namespace", json!(""), &["metadata.namespace"]),
            (
                "/metadata/labels",
                json!({"a b": "c", "d": "e f"}),
                &["metadata.labels[\"a b\"]", "metadata.labels[\"d\"]"],
            ),
            ("/metadata/annotations", json!({"a b": "c"}), &["metadata.annotations[\"a b\"]"]),
            ("/metadata/annotations", json!({"a": "x".repeat(300_000)}), &["metadata.annotations"]),
            ("/spec/tier", json!("A.b"), &["spec.tier"]),
            ("/spec/selector", json!("a == b"), &["spec.selector"]),
            ("/spec/selector", json!("global()"), &["spec.selector"]),
            ("/spec/types", json!(["Ingress", "Ingress"]), &["spec.types[1]"]),
            ("/spec/types", json!(["ingress"]), &["spec.types[0]"]),
            ("/spec/performanceHints", json!(["X"]), &["spec.performanceHints[0]"]),
            ("/spec/ingress/0", rule(json!({})), &["spec.ingress[0].action"]),
            ("/spec/ingress/0", rule(json!({"action": "allow"})), &["spec.ingress[0].action"]),
            ("/spec/ingress/0/protocol", json!("tcp"), &["spec.ingress[0].protocol"]),
            (
                "/spec/ingress/0/protocol",
                json!(0),
                &["spec.ingress[0].protocol", "spec.ingress[0].destination.ports"],
            ),
            ("/spec/ingress/0/protocol", json!("UDPLite"), &["spec.ingress[0].destination.ports"]),
            ("/spec/ingress/0/ipVersion", json!(5), &["spec.ingress[0].ipVersion"]),
            ("/spec/ingress/0/ipVersion", json!(6), &["spec.ingress[0].ipVersion"]),
            ("/spec/ingress/0/source/nets/0", json!("10.0.0.1"), &["spec.ingress[0].source.nets[0]"]),
            ("/spec/ingress/0/source/nets/0", json!("10.0.0.1/8"), &["spec.ingress[0].source.nets[0]"]),
            ("/spec/ingress/0/source/nets/0", json!("fd00::/8"), &["spec.ingress[0]"]),
            ("/spec/ingress/0/source/notNets/0", json!("0.0.0.0/0"), &["spec.ingress[0].source.notNets[0]"]),
            (
                "/spec/ingress/0/source/selector",
                json!("has(a) && global()"),
                &["spec.ingress[0].source.selector"],
            ),
            (
                "/spec/ingress/0/source/namespaceSelector",
                json!("!global()"),
                &["spec.ingress[0].source.namespaceSelector"],
            ),
            ("/spec/ingress/0/destination/ports", json!([0]), &["spec.ingress[0].destination.ports[0]"]),
            ("/spec/ingress/0/destination/ports", json!(["HTTP"]), &["spec.ingress[0].destination.ports[0]"]),
            (
                "/spec/ingress/0/icmp",
                json!({"code": 1}),
                &["spec.ingress[0].icmp.code", "spec.ingress[0].icmp"],
            ),
            ("/spec/ingress/0/notICMP", json!({"type": 255}), &["spec.ingress[0].notICMP.type"]),
            ("/spec/ingress/2/ipVersion", json!(6), &["spec.ingress[2].protocol"]),
            ("/spec/ingress/1/protocol", json!("UDP"), &["spec.ingress[1].http"]),
            ("/spec/ingress/1/action", json!("Deny"), &["spec.ingress[1].http"]),
            (
                "/spec/ingress/1/http/paths",
                json!([{"exact": "a?"}]),
                &["spec.ingress[1].http.paths[0].exact"],
            ),
            ("/spec/ingress/1/http/paths", json!([{}]), &["spec.ingress[1].http.paths[0]"]),
            ("/spec/ingress/1/http/methods", json!(["GET", "GET"]), &["spec.ingress[1].http.methods[1]"]),
            ("/spec/egress/0/http", json!({}), &["spec.egress[0].http"]),
            (
                "/spec/egress/0/source",
                json!({"services": {"name": "s"}}),
                &["spec.egress[0].source.services"],
            ),
            ("/spec/ingress/3/source/selector", json!("all()"), &["spec.ingress[3].source.selector"]),
            ("/spec/ingress/3/source/nets", json!(["10.0.0.0/8"]), &["spec.ingress[3].source.nets"]),
            ("/spec/ingress/3/source/services", json!({}), &["spec.ingress[3].source.services.name"]),
            ("/spec/egress/0/destination/ports", json!(["x"]), &["spec.egress[0].destination"]),
            (
                "/spec/egress/0/metadata",
                json!({"annotations": {"a b": ""}}),
                &["spec.egress[0].metadata.annotations[\"a b\"]"],
            ),
        ],
    );
}

#[test]
fn global_and_staged_policies() {
    let good = object(
        Kind::GlobalNetworkPolicy,
        "web",
        json!({"applyOnForward": true, "preDNAT": true, "types": ["Ingress"], "namespaceSelector": "has(a)",
            "ingress": [{"action": "Allow", "source": {"services": {"name": "s", "namespace": "n"}}}]}),
    );
    table(
        &good,
        &[
            ("/metadata/name", json!("knp.default.a.b"), &["metadata.name"]),
            ("/metadata/namespace", json!("ns"), &["metadata.namespace"]),
            ("/spec/doNotTrack", json!(true), &["spec.preDNAT"]),
            ("/spec/applyOnForward", json!(false), &["spec.applyOnForward"]),
            ("/spec/types", json!(["Egress"]), &["spec.types"]),
            ("/spec/egress", json!([{"action": "Deny"}]), &["spec.egress"]),
            ("/spec/namespaceSelector", json!("global()"), &["spec.namespaceSelector"]),
            (
                "/spec/ingress/0/source/services/namespace",
                json!(""),
                &["spec.ingress[0].source.services.namespace"],
            ),
        ],
    );
    table(
        &object(Kind::StagedNetworkPolicy, "a", json!({"stagedAction": "Delete", "tier": "t"})),
        &[
            ("/spec/order", json!(1), &["spec.order"]),
            ("/spec/selector", json!("all()"), &["spec.selector"]),
            ("/spec/stagedAction", json!("Drop"), &["spec.stagedAction"]),
        ],
    );
    table(
        &object(Kind::StagedGlobalNetworkPolicy, "a", json!({"stagedAction": "Learn"})),
        &[("/spec/doNotTrack", json!(true), &["spec.applyOnForward"])],
    );
    table(
        &object(
            Kind::StagedKubernetesNetworkPolicy,
            "a",
            json!({"podSelector": {"matchLabels": {"a": "b"}}}),
        ),
        &[
            ("/spec/ingress", json!([{"ports": [{"port": 99999}]}]), &["spec.ingress[0].ports[0]"]),
            ("/spec/stagedAction", json!("Delete"), &["spec.podSelector"]),
        ],
    );
}

#[test]
fn tiers_profiles_and_sets() {
    table(
        &object(Kind::Tier, "security", json!({"order": 1, "defaultAction": "Pass"})),
        &[
            ("/metadata/name", json!("a.b"), &["metadata.name"]),
            ("/metadata/name", json!("default"), &["spec.order", "spec.defaultAction"]),
            ("/spec/defaultAction", json!("Drop"), &["spec.defaultAction"]),
        ],
    );
    for tier in defaults::built_in_tiers() {
        assert_eq!(validate::check(&tier.into()), Ok(()));
    }
    table(
        &object(
            Kind::Profile,
            "p",
            json!({"labelsToApply": {"a": "b"}, "egress": [{"action": "Allow", "http": {}}]}),
        ),
        &[
            ("/spec/labelsToApply", json!({"a b": ""}), &["spec.labelsToApply[\"a b\"]"]),
            ("/spec/ingress", json!([{"action": "Allow", "icmp": {"type": 8}}]), &["spec.ingress[0].icmp"]),
        ],
    );
    for kind in [Kind::NetworkSet, Kind::GlobalNetworkSet] {
        table(
            &object(kind, "s", json!({"nets": ["10.0.0.1", "10.0.0.1/8", "fd00::/8"]})),
            &[
                ("/spec/nets/0", json!("x"), &["spec.nets[0]"]),
                ("/spec/nets/0", json!("fd00::/8"), &["spec.nets[2]"]),
                (
                    "/metadata/labels",
                    json!({"projectcalico.org/namespace": "x"}),
                    &["metadata.labels[\"projectcalico.org/namespace\"]"],
                ),
            ],
        );
    }
}

#[test]
fn endpoints() {
    table(
        &object(
            Kind::HostEndpoint,
            "h",
            json!({"node": "n", "interfaceName": "eth0", "expectedIPs": ["10.0.0.1"],
            "profiles": ["p"], "ports": [{"name": "http", "protocol": "TCP", "port": 80}]}),
        ),
        &[
            ("/spec/node", json!(""), &["spec.node"]),
            ("/spec/interfaceName", json!("a/b"), &["spec.interfaceName"]),
            ("/spec/expectedIPs/0", json!("10.0.0.0/8"), &["spec.expectedIPs[0]"]),
            ("/spec/ports/0/protocol", json!("ICMP"), &["spec.ports[0].protocol"]),
            ("/spec/ports/0/port", json!(0), &["spec.ports[0].port"]),
            ("/spec/ports/0/name", json!("HTTP"), &["spec.ports[0].name"]),
            ("/spec", json!({"node": "n"}), &["spec"]),
        ],
    );
    table(
        &object(
            Kind::WorkloadEndpoint,
            "n-k8s-p-eth0",
            json!({"node": "n", "orchestrator": "k8s", "pod": "p",
            "endpoint": "eth0", "interfaceName": "cali1", "ipNetworks": ["10.0.0.1/32"], "mac": "ee:ee:ee:ee:ee:ee",
            "ipNATs": [{"internalIP": "10.0.0.1", "externalIP": "1.1.1.1"}],
            "ports": [{"name": "", "hostPort": 80, "port": 80, "protocol": "TCP", "hostIP": ""}]}),
        ),
        &[
            ("/metadata/name", json!("other"), &["metadata.name"]),
            ("/spec/pod", json!("-p"), &["spec.pod"]),
            (
                "/spec/ipNetworks/0",
                json!("10.0.0.0/24"),
                &["spec.ipNetworks[0]", "spec.ipNATs[0].internalIP"],
            ),
            ("/spec/ipNATs/0/externalIP", json!("fd00::1"), &["spec.ipNATs[0]"]),
            ("/spec/interfaceName", json!(""), &["spec.interfaceName"]),
            ("/spec/mac", json!("x"), &["spec.mac"]),
            ("/spec/containerID", json!("a-"), &["spec.containerID"]),
            ("/spec/ipv4Gateway", json!("fd00::1"), &["spec.ipv4Gateway"]),
            ("/spec/ports/0/hostPort", json!(0), &["spec.ports[0].name"]),
        ],
    );
}

#[test]
fn pools_and_ipam() {
    table(
        &object(
            Kind::IPPool,
            "p",
            json!({"cidr": "10.0.0.0/16", "vxlanMode": "Always", "allowedUses": ["Workload"]}),
        ),
        &[
            ("/spec/cidr", json!("10.0.0.1/16"), &["spec.cidr"]),
            ("/spec/cidr", json!("10.0.0.0"), &["spec.cidr"]),
            ("/spec/cidr", json!("169.254.1.0/24"), &["spec.cidr"]),
            ("/spec/cidr", json!("0.0.0.0/0"), &["spec.cidr"]),
            ("/spec/cidr", json!("10.0.0.0/27"), &["spec.cidr"]),
            ("/spec/blockSize", json!(19), &["spec.blockSize"]),
            ("/spec/ipipMode", json!("Always"), &["spec.ipipMode"]),
            ("/spec/vxlanMode", json!("Sometimes"), &["spec.vxlanMode"]),
            ("/spec/nodeSelector", json!("x"), &["spec.nodeSelector"]),
            ("/spec/allowedUses", json!(["LoadBalancer"]), &["spec.vxlanMode"]),
            ("/spec/allowedUses", json!(["Teleport"]), &["spec.allowedUses[0]"]),
        ],
    );
    table(
        &object(Kind::IPPool, "p", json!({"cidr": "fd00::/64", "allowedUses": ["LoadBalancer"]})),
        &[
            ("/spec/ipipMode", json!("CrossSubnet"), &["spec.ipipMode"]),
            ("/spec/disableBGPExport", json!(true), &["spec.disableBGPExport"]),
            ("/spec/nodeSelector", json!("has(a)"), &["spec.nodeSelector"]),
            ("/spec/allowedUses", json!(["LoadBalancer", "Tunnel"]), &["spec.allowedUses"]),
        ],
    );
    table(
        &object(Kind::IPReservation, "r", json!({"reservedCIDRs": ["10.0.0.0/30", "10.0.0.9"]})),
        &[("/spec/reservedCIDRs/0", json!("x"), &["spec.reservedCIDRs[0]"])],
    );
    table(
        &object(Kind::IPAMConfiguration, "default", json!({"maxBlocksPerHost": 5})),
        &[
            ("/metadata/name", json!("other"), &["metadata.name"]),
            ("/spec/maxBlocksPerHost", json!(-1), &["spec.maxBlocksPerHost"]),
            ("/spec/ipCooldownSeconds", json!(1201), &["spec.ipCooldownSeconds"]),
        ],
    );
    let pool =
        |name: &str, cidr: &str| IPPool::new(name, IPPoolSpec { cidr: cidr.into(), ..Default::default() });
    let pools = [pool("b", "10.0.128.0/17"), pool("a", "10.0.0.0/16"), pool("c", "10.1.0.0/16")];
    let problems = validate::overlapping_pools(&pools);
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].0.metadata.name, "b");
    assert_eq!(problems[0].1.reason, "overlaps with 10.0.0.0/16 of pool a");
}

#[test]
fn bgp() {
    table(
        &object(
            Kind::BGPConfiguration,
            "default",
            json!({"asNumber": 64512, "logSeverityScreen": "info",
            "communities": [{"name": "c", "value": "1:2"}],
            "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["c", "1:2:3"]}],
            "ignoredInterfaces": ["docker*"], "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}),
        ),
        &[
            ("/metadata/name", json!("node.a"), &["spec.asNumber", "spec.serviceClusterIPs"]),
            ("/spec/communities/0/value", json!("1:99999"), &["spec.communities[0].value"]),
            (
                "/spec/prefixAdvertisements/0/communities/0",
                json!("d"),
                &["spec.prefixAdvertisements[0].communities[0]"],
            ),
            ("/spec/prefixAdvertisements", json!([]), &["spec.communities"]),
            ("/spec/ignoredInterfaces/0", json!("*"), &["spec.ignoredInterfaces[0]"]),
            ("/spec/ipv4NormalRoutePriority", json!(0), &["spec.ipv4NormalRoutePriority"]),
            ("/spec/nodeMeshPassword", json!({}), &["spec.nodeMeshPassword.secretKeyRef"]),
        ],
    );
    table(
        &object(
            Kind::BGPPeer,
            "p",
            json!({"peerIP": "10.0.0.1:1790", "asNumber": "1.1", "reachableBy": "10.0.0.2"}),
        ),
        &[
            ("/spec/peerIP", json!("x"), &["spec.peerIP", "spec.reachableBy"]),
            ("/spec/peerSelector", json!("all()"), &["spec.peerSelector", "spec.asNumber"]),
            ("/spec/reachableBy", json!("fd00::1"), &["spec.reachableBy"]),
            ("/spec/localWorkloadSelector", json!("has(a)"), &["spec.peerIP"]),
            ("/spec/nextHopMode", json!("None"), &["spec.nextHopMode"]),
        ],
    );
    table(
        &object(
            Kind::BGPFilter,
            "f",
            json!({"exportV4": [{"action": "Accept", "cidr": "10.0.0.0/8",
            "matchOperator": "In", "prefixLength": {"min": 8, "max": 24}, "operations": [{"setPriority": {"value": 5}}]}],
            "importV6": [{"action": "Reject", "interface": "eth*"}]}),
        ),
        &[
            ("/spec/exportV4/0/cidr", json!("fd00::/8"), &["spec.exportV4[0].cidr"]),
            ("/spec/exportV4/0/matchOperator", json!(""), &["spec.exportV4[0].matchOperator"]),
            ("/spec/exportV4/0/prefixLength", json!({"min": 33}), &["spec.exportV4[0].prefixLength.min"]),
            ("/spec/exportV4/0/action", json!("Reject"), &["spec.exportV4[0].operations"]),
            ("/spec/exportV4/0/operations", json!([{}]), &["spec.exportV4[0].operations[0]"]),
            ("/spec/importV6/0/communities", json!({"values": []}), &["spec.importV6[0].communities"]),
            ("/spec/importV6/0/cidr", json!("fd00::/8"), &["spec.importV6[0].matchOperator"]),
        ],
    );
}

#[test]
fn nodes_and_cluster() {
    table(
        &object(
            Kind::Node,
            "n",
            json!({"bgp": {"ipv4Address": "10.0.0.1/24"}, "addresses": [{"address": "10.0.0.1"}]}),
        ),
        &[
            ("/spec/bgp", json!({}), &["spec.bgp"]),
            ("/spec/bgp/ipv4Address", json!("fd00::1/64"), &["spec.bgp.ipv4Address"]),
            ("/spec/vxlanTunnelMACAddr", json!("x"), &["spec.vxlanTunnelMACAddr"]),
            ("/status", json!({"wireguardPublicKey": "eA=="}), &["status.wireguardPublicKey"]),
        ],
    );
    table(
        &object(
            Kind::CalicoNodeStatus,
            "s",
            json!({"node": "n", "classes": ["BGP"], "updatePeriodSeconds": 10}),
        ),
        &[
            ("/spec/updatePeriodSeconds", json!(100_000), &["spec.updatePeriodSeconds"]),
            ("/spec/updatePeriodSeconds", json!(null), &["spec.updatePeriodSeconds"]),
            ("/spec/classes", json!(["BGP", "BGP"]), &["spec.classes[1]"]),
        ],
    );
    table(
        &object(
            Kind::ClusterInformation,
            "default",
            json!({"clusterGUID": "0123456789abcdef0123456789abcdef"}),
        ),
        &[("/spec/clusterGUID", json!("x"), &["spec.clusterGUID"])],
    );
    table(
        &object(
            Kind::KubeControllersConfiguration,
            "default",
            json!({"controllers": {"node": {"hostEndpoint":
            {"templates": [{"generateName": "a", "interfaceCIDRs": ["10.0.0.0/8"]}]}}}}),
        ),
        &[
            (
                "/spec/controllers/node/hostEndpoint/templates/0/interfaceCIDRs",
                json!([]),
                &["spec.controllers.node.hostEndpoint.templates[0]"],
            ),
            ("/spec/controllers/node/syncLabels", json!("yes"), &["spec.controllers.node.syncLabels"]),
        ],
    );
    table(
        &object(Kind::LiveMigration, "m", json!({"target": {"selector": "a == 'b'"}})),
        &[("/spec/target", json!({}), &["spec.target"])],
    );
}

#[test]
fn felix() {
    table(
        &object(
            Kind::FelixConfiguration,
            "default",
            json!({"routeTableRanges": [{"min": 1, "max": 250}],
            "kubeNodePortRanges": ["30000:32767"], "externalNodesList": ["10.0.0.0/8"],
            "failsafeInboundHostPorts": [{"protocol": "tcp", "port": 22}], "nftablesMarkMask": 4_294_901_760_u32}),
        ),
        &[
            ("/spec/nodeSelector", json!("all()"), &["spec.nodeSelector"]),
            ("/spec/routeTableRange", json!({"min": 1, "max": 250}), &["spec.routeTableRange"]),
            ("/spec/routeTableRanges/0/min", json!(0), &["spec.routeTableRanges[0]"]),
            ("/spec/kubeNodePortRanges/0", json!("http"), &["spec.kubeNodePortRanges[0]"]),
            ("/spec/externalNodesList/0", json!("fd00::/8"), &["spec.externalNodesList[0]"]),
            (
                "/spec/failsafeInboundHostPorts/0/protocol",
                json!("icmp"),
                &["spec.failsafeInboundHostPorts[0].protocol"],
            ),
            ("/spec/nftablesMarkMask", json!(1), &["spec.nftablesMarkMask"]),
            ("/spec/natOutgoingAddress", json!("fd00::1"), &["spec.natOutgoingAddress"]),
            ("/spec/nftablesMode", json!("On"), &["spec.nftablesMode"]),
            ("/spec/healthPort", json!(70000), &["spec.healthPort"]),
            ("/spec/routeRefreshInterval", json!("-1s"), &["spec.routeRefreshInterval"]),
            ("/spec/logActionRateLimit", json!("5/week"), &["spec.logActionRateLimit"]),
        ],
    );
}
