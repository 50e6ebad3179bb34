//! Vectors of the reference's behaviour, and a test for each of its defects that this module does away with.

use calico_model::decode::Mode;
use calico_model::{AnyResource, BlockAffinityValue, Key, Kind, KubernetesKind, Revision, Update, Value};
use serde_json::json;

use super::*;
use crate::config::{Authentication, LocalInstall, NextHopMode, PeerConfig, PeerKind, Ttl};
use crate::policy::{ExportReason, PoolEncapsulation, RouteView, Verdict};
use crate::route::RouteAttributes;
use crate::wire::Family;

fn set(mesh: &mut Mesh, kind: Kind, name: &str, spec: serde_json::Value) {
    set_labelled(mesh, kind, name, json!({}), spec);
}

fn set_labelled(mesh: &mut Mesh, kind: Kind, name: &str, labels: serde_json::Value, spec: serde_json::Value) {
    let tree = json!({
        "apiVersion": "projectcalico.org/v3", "kind": kind.name(),
        "metadata": {"name": name, "labels": labels}, "spec": spec,
    });
    let resource = AnyResource::from_tree(kind, tree, Mode::Strict).unwrap();
    let key = Key::resource(kind, "", name);
    mesh.apply(&Update::set(key, Value::Resource(resource.into()), Revision::default()));
}

fn remove(mesh: &mut Mesh, kind: Kind, name: &str) {
    mesh.apply(&Update::deleted(Key::resource(kind, "", name), Revision::default()));
}

fn kubernetes(mesh: &mut Mesh, kind: KubernetesKind, name: &str, object: Option<serde_json::Value>) -> bool {
    let key = Key::kubernetes(kind, "ns", name);
    let value = object.map(|mut object| {
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!("ns");
        Value::from_json(&key, object.to_string().as_bytes()).unwrap()
    });
    mesh.apply(&Update { key, value, revision: Revision::default() })
}

fn affinity(mesh: &mut Mesh, cidr: &str, state: &str) {
    let key = Key::affinity(AffinityType::Host, "node1", cidr.parse().unwrap());
    let value = BlockAffinityValue { state: state.into(), ..BlockAffinityValue::default() };
    mesh.apply(&Update::set(key, Value::BlockAffinity(value.into()), Revision::default()));
}

fn node(mesh: &mut Mesh, name: &str, address: &str, extra: serde_json::Value) {
    let mut bgp = json!({"ipv4Address": address});
    let mut labels = json!({"name": name});
    for (key, value) in extra.as_object().into_iter().flatten() {
        if key == "labels" {
            labels = value.clone();
        } else {
            bgp[key] = value.clone();
        }
    }
    set_labelled(mesh, Kind::Node, name, labels, json!({"bgp": bgp}));
}

fn cluster() -> Mesh {
    let mut mesh = Mesh::new(MeshSettings::new("node1"));
    node(&mut mesh, "node1", "10.0.0.10/24", json!({}));
    node(&mut mesh, "node2", "10.0.0.9/24", json!({}));
    node(&mut mesh, "node3", "10.0.0.1/24", json!({}));
    mesh
}

fn config(mesh: &Mesh) -> SpeakerConfig {
    mesh.derive().config.unwrap()
}

fn names(mesh: &Mesh) -> Vec<String> {
    config(mesh).peers.keys().map(|name| name.to_string()).collect()
}

fn peer(mesh: &Mesh, name: &str) -> PeerConfig {
    (*config(mesh).peers[name]).clone()
}

fn export(mesh: &Mesh, peer_name: &str, prefix: &str) -> (Verdict, ExportReason) {
    let config = config(mesh);
    let prefix = prefix.parse().unwrap();
    let local =
        config.routes.get(&prefix).cloned().unwrap_or(crate::config::LocalRoute::device("cali1", None));
    let route = RouteAttributes::local(&local);
    let peer = &config.peers[peer_name];
    let local_pref = route.local_pref(1024);
    peer.export.explain(&RouteView { prefix, route: &route, local_pref, internal: peer.is_internal() })
}

#[test]
fn the_mesh_has_every_other_node_and_dials_by_text() {
    let mesh = cluster();
    assert_eq!(names(&mesh), ["Mesh_10_0_0_1", "Mesh_10_0_0_9"]);
    assert!(peer(&mesh, "Mesh_10_0_0_9").passive, "10.0.0.9 is the greater text");
    assert!(!peer(&mesh, "Mesh_10_0_0_1").passive);
    let one = peer(&mesh, "Mesh_10_0_0_1");
    assert_eq!((one.local_as, one.remote_as, one.port), (64512, 64512, 179));
    assert_eq!(one.local_address, Some("10.0.0.10".parse().unwrap()));
    assert_eq!(one.ttl, Ttl::Multihop(64));
}

#[test]
fn reflectors_and_a_disabled_mesh_stay_out() {
    let mut mesh = cluster();
    node(&mut mesh, "node2", "10.0.0.9/24", json!({"routeReflectorClusterID": "244.0.0.1"}));
    assert_eq!(names(&mesh), ["Mesh_10_0_0_1"]);
    node(&mut mesh, "node1", "10.0.0.10/24", json!({"routeReflectorClusterID": "244.0.0.1"}));
    assert!(names(&mesh).is_empty());
    node(&mut mesh, "node1", "10.0.0.10/24", json!({}));
    set(&mut mesh, Kind::BGPConfiguration, "default", json!({"nodeToNodeMeshEnabled": false}));
    assert!(names(&mesh).is_empty());
    remove(&mut mesh, Kind::BGPConfiguration, "default");
    assert_eq!(names(&mesh), ["Mesh_10_0_0_1"]);
}

/// Defect 3: the reference gives a node without a number that of the node that looks.
#[test]
fn a_node_without_a_number_has_that_of_the_cluster() {
    let mut mesh = cluster();
    node(&mut mesh, "node1", "10.0.0.10/24", json!({"asNumber": 65001}));
    let other = peer(&mesh, "Mesh_10_0_0_1");
    assert_eq!((other.local_as, other.remote_as), (65001, 64512));
    assert!(!other.is_internal());
}

/// Defect 2: objects are looked at in map order and the first one wins.
#[test]
fn two_objects_for_one_peer_have_one_winner_and_a_report() {
    let mut mesh = cluster();
    for (name, number) in [("b", 65002), ("a", 65001), ("c", 65003)] {
        set(&mut mesh, Kind::BGPPeer, name, json!({"peerIP": "192.0.2.1", "asNumber": number}));
    }
    assert_eq!(peer(&mesh, "Global_192_0_2_1").remote_as, 65001);
    let problems = mesh.derive().problems;
    let told: Vec<_> =
        problems.iter().map(|problem| (problem.name.as_str(), problem.text.as_str())).collect();
    assert_eq!(
        told,
        [
            ("b", "Global_192_0_2_1 is already configured by a; this one is not used"),
            ("c", "Global_192_0_2_1 is already configured by a; this one is not used"),
        ]
    );
}

/// Defect 5: without a readable password the reference peers in the clear.
#[test]
fn an_unreadable_password_keeps_the_session_down() {
    let mut mesh = cluster();
    let password = json!({"secretKeyRef": {"name": "bgp", "key": "pw"}});
    let spec = json!({"peerIP": "192.0.2.1", "asNumber": 65001, "password": password});
    set(&mut mesh, Kind::BGPPeer, "tor", spec);
    let secret = SecretRef { name: "bgp".into(), key: "pw".into() };
    assert_eq!(mesh.derive().secrets, BTreeSet::from([secret.clone()]));
    let authentication = |mesh: &Mesh| peer(mesh, "Global_192_0_2_1").authentication;
    assert_eq!(authentication(&mesh), Authentication::Unavailable("secret bgp/pw was not read yet".into()));
    mesh.set_secret(secret.clone(), Err("forbidden".into()));
    assert_eq!(authentication(&mesh), Authentication::Unavailable("forbidden".into()));
    mesh.set_secret(secret, Ok(b"s3cret".as_slice().into()));
    assert_eq!(authentication(&mesh), Authentication::Md5(b"s3cret".as_slice().into()));
}

#[test]
fn selectors_ports_and_names() {
    let mut mesh = cluster();
    set(
        &mut mesh,
        Kind::BGPConfiguration,
        "default",
        json!({"nodeToNodeMeshEnabled": false, "listenPort": 1790}),
    );
    set(&mut mesh, Kind::BGPConfiguration, "node.node3", json!({"listenPort": 1791}));
    let spec = json!({"nodeSelector": "name == 'node1'", "peerSelector": "name in {'node2', 'node3'}"});
    set(&mut mesh, Kind::BGPPeer, "some", spec);
    assert_eq!(names(&mesh), ["Node_10_0_0_1_port_1791", "Node_10_0_0_9_port_1790"]);
    assert!(!peer(&mesh, "Node_10_0_0_9_port_1790").passive);
    assert_eq!(config(&mesh).listen_port, 1790);
    set(&mut mesh, Kind::BGPPeer, "far", json!({"peerIP": "[fd00::1]:1179", "asNumber": 65001}));
    assert!(mesh.derive().problems.is_empty());
    assert_eq!(names(&mesh).len(), 2, "without an IPv6 address of the node there is no IPv6 session");
    node(&mut mesh, "node1", "10.0.0.10/24", json!({"ipv6Address": "fd00::10/64"}));
    assert_eq!(names(&mesh)[0], "Global_fd00__1_port_1179");
}

#[test]
fn peerings_of_others_are_answered() {
    let mut mesh = cluster();
    set(&mut mesh, Kind::BGPConfiguration, "default", json!({"nodeToNodeMeshEnabled": false}));
    let spec = json!({"nodeSelector": "name == 'node2'", "peerSelector": "name == 'node1'"});
    set(&mut mesh, Kind::BGPPeer, "theirs", spec.clone());
    assert_eq!(names(&mesh), ["Node_10_0_0_9"]);
    let mut manual = spec;
    manual["reversePeering"] = json!("Manual");
    set(&mut mesh, Kind::BGPPeer, "theirs", manual);
    assert!(names(&mesh).is_empty());
    set(
        &mut mesh,
        Kind::BGPPeer,
        "theirs",
        json!({"node": "node3", "peerIP": "10.0.0.10", "asNumber": 64512}),
    );
    assert_eq!(names(&mesh), ["Node_10_0_0_1"]);
}

#[test]
fn a_reflector_serves_clients_of_other_clusters_only() {
    let mut mesh = cluster();
    node(&mut mesh, "node1", "10.0.0.10/24", json!({"routeReflectorClusterID": "244.0.0.1"}));
    node(&mut mesh, "node2", "10.0.0.9/24", json!({"routeReflectorClusterID": "244.0.0.1"}));
    set(&mut mesh, Kind::BGPPeer, "all", json!({"peerSelector": "all()"}));
    let cluster_id = Some("244.0.0.1".parse().unwrap());
    assert_eq!(peer(&mesh, "Global_10_0_0_1").reflector_client, cluster_id);
    assert_eq!(peer(&mesh, "Global_10_0_0_9").reflector_client, None);
    assert_eq!(config(&mesh).cluster_id, cluster_id);
}

#[test]
fn session_parameters() {
    let mut mesh = cluster();
    let spec = json!({
        "peerIP": "192.0.2.1", "asNumber": 65001, "localASNumber": 65010, "ttlSecurity": 1, "keepaliveTime": "3s",
        "maxRestartTime": "29.5s", "numAllowedLocalASNumbers": 2, "sourceAddress": "None", "nextHopMode": "Self",
        "reachableBy": "10.0.0.254",
    });
    set(&mut mesh, Kind::BGPPeer, "tor", spec);
    let tor = peer(&mesh, "Global_192_0_2_1");
    assert_eq!((tor.local_as, tor.remote_as, tor.allow_own_as), (65010, 65001, 2));
    assert_eq!(
        (tor.ttl, tor.next_hop, tor.local_address),
        (Ttl::Security(1), NextHopMode::SelfAddress, None)
    );
    assert_eq!(tor.graceful_restart.unwrap().restart_time.as_secs(), 30);
    // Defect 1: a short keepalive alone would not notice a dead peer any sooner.
    assert_eq!((tor.keepalive_time.unwrap().as_secs(), tor.hold_time.as_secs()), (3, 9));
    let route = &config(&mesh).routes[&"192.0.2.1/32".parse().unwrap()];
    assert_eq!((route.install, route.gateway), (LocalInstall::Gateway, Some("10.0.0.254".parse().unwrap())));
}

#[test]
fn keep_original_next_hop_is_for_external_peers() {
    let mut mesh = cluster();
    for (name, number) in [("192.0.2.1", 65001), ("192.0.2.2", 64512)] {
        let spec = json!({"peerIP": name, "asNumber": number, "keepOriginalNextHop": true});
        set(&mut mesh, Kind::BGPPeer, name, spec);
    }
    assert_eq!(peer(&mesh, "Global_192_0_2_1").next_hop, NextHopMode::Keep);
    assert_eq!(peer(&mesh, "Global_192_0_2_2").next_hop, NextHopMode::Auto);
}

#[test]
fn router_identifiers() {
    assert_eq!(RouterId::hash("kube-master").to_string(), "25.79.212.8");
    assert_eq!(RouterId::hash("node1").to_string(), "202.18.243.27");
    let mut settings = MeshSettings::new("node1");
    let six = json!({"bgp": {"ipv6Address": "fd00::10/64"}});
    let mut mesh = Mesh::new(settings.clone());
    assert_eq!(mesh.derive().problems[0].field, "metadata.name");
    set(&mut mesh, Kind::Node, "node1", six.clone());
    assert_eq!(mesh.derive().config, None);
    assert_eq!(mesh.derive().problems[0].field, "spec.bgp.ipv4Address");
    settings.router_id = "hash".parse().unwrap();
    let mut mesh = Mesh::new(settings);
    set(&mut mesh, Kind::Node, "node1", six);
    assert_eq!(config(&mesh).router_id.to_string(), "202.18.243.27");
}

#[test]
fn blocks_and_their_states() {
    let mut mesh = cluster();
    set(&mut mesh, Kind::IPPool, "pool", json!({"cidr": "10.1.0.0/16"}));
    affinity(&mut mesh, "10.1.0.0/26", "confirmed");
    affinity(&mut mesh, "10.1.0.64/26", "");
    affinity(&mut mesh, "10.1.0.128/26", "pending");
    affinity(&mut mesh, "10.1.1.1/32", "confirmed");
    let routes: Vec<_> = config(&mesh).routes.keys().map(ToString::to_string).collect();
    assert_eq!(routes, ["10.1.0.0/26", "10.1.0.64/26"]);
    assert_eq!(export(&mesh, "Mesh_10_0_0_1", "10.1.0.5/32").1, ExportReason::Aggregated);
    assert_eq!(export(&mesh, "Mesh_10_0_0_1", "10.1.0.130/32").1, ExportReason::Pool);
}

/// Defect 9: while a block drains, the reference announces its addresses one by one.
#[test]
fn a_leaving_block_is_withdrawn_when_it_is_empty_and_never_leaks() {
    let mut mesh = cluster();
    set(&mut mesh, Kind::IPPool, "pool", json!({"cidr": "10.1.0.0/16"}));
    affinity(&mut mesh, "10.1.0.0/26", "pendingDeletion");
    assert!(config(&mesh).routes.is_empty());
    assert_eq!(export(&mesh, "Mesh_10_0_0_1", "10.1.0.5/32").1, ExportReason::Aggregated);
    let workload = json!({"node": "node1", "ipNetworks": ["10.1.0.5/32"], "interfaceName": "cali1",
        "orchestrator": "cni", "endpoint": "eth0", "containerID": "x"});
    set(&mut mesh, Kind::WorkloadEndpoint, "w", workload);
    assert!(config(&mesh).routes.contains_key(&"10.1.0.0/26".parse().unwrap()));
}

#[test]
fn borrowed_addresses_are_announced_by_the_borrower() {
    let mut mesh = cluster();
    set(&mut mesh, Kind::IPPool, "pool", json!({"cidr": "10.1.0.0/16"}));
    affinity(&mut mesh, "10.1.0.0/26", "confirmed");
    let workload = json!({"node": "node1", "ipNetworks": ["10.1.0.5/32", "10.1.9.5/32"], "interfaceName": "cali1",
        "orchestrator": "cni", "endpoint": "eth0", "containerID": "x"});
    set(&mut mesh, Kind::WorkloadEndpoint, "w", workload);
    let routes: Vec<_> = config(&mesh).routes.keys().map(ToString::to_string).collect();
    assert_eq!(routes, ["10.1.0.0/26", "10.1.9.5/32"]);
}

#[test]
fn kernel_routes_follow_the_owner() {
    let mut mesh = cluster();
    set(&mut mesh, Kind::IPPool, "plain", json!({"cidr": "10.1.0.0/16"}));
    set(&mut mesh, Kind::IPPool, "ipip", json!({"cidr": "10.2.0.0/16", "ipipMode": "CrossSubnet"}));
    let owned =
        |mesh: &Mesh| config(mesh).fib.pools.iter().map(|p| (p.encapsulation, p.owned)).collect::<Vec<_>>();
    let (plain, ipip) = (PoolEncapsulation::None, PoolEncapsulation::IpIpCrossSubnet);
    assert_eq!(owned(&mesh), [(plain, true), (ipip, false)]);
    for (mode, expected) in [
        ("Enabled", (true, true)),
        ("Disabled", (false, false)),
        ("EnabledIPIPOnly", (false, true)),
        ("Nonsense", (true, false)),
    ] {
        let tree = json!({"apiVersion": "projectcalico.org/v3", "kind": "BGPConfiguration",
            "metadata": {"name": "default"}, "spec": {"programClusterRoutes": mode}});
        let resource = AnyResource::from_tree(Kind::BGPConfiguration, tree, Mode::Lenient).unwrap();
        let key = Key::resource(Kind::BGPConfiguration, "", "default");
        mesh.apply(&Update::set(key, Value::Resource(resource.into()), Revision::default()));
        assert_eq!(owned(&mesh), [(plain, expected.0), (ipip, expected.1)], "{mode}");
    }
}

/// Defect 11: two resources that may disagree on who programs which routes.
#[test]
fn disagreement_about_kernel_routes_is_reported() {
    let mut mesh = cluster();
    set(&mut mesh, Kind::FelixConfiguration, "default", json!({"programClusterRoutes": "EnabledIPIPOnly"}));
    assert!(mesh.derive().problems.is_empty());
    set(&mut mesh, Kind::FelixConfiguration, "default", json!({"programClusterRoutes": "Enabled"}));
    assert_eq!(mesh.derive().problems[0].field, "spec.programClusterRoutes");
}

/// Vector 8: names are resolved, values sorted.
#[test]
fn communities_of_prefixes() {
    let mut mesh = cluster();
    set(&mut mesh, Kind::IPPool, "pool", json!({"cidr": "192.168.0.0/16"}));
    let spec = json!({
        "communities": [{"name": "bgp-large", "value": "50:50:5364"}],
        "prefixAdvertisements": [{"cidr": "192.168.0.0/16", "communities": ["bgp-large", "5663:12"]}],
    });
    set(&mut mesh, Kind::BGPConfiguration, "default", spec);
    let (Verdict::Accept(edits), _) = export(&mesh, "Mesh_10_0_0_1", "192.168.1.5/32") else { panic!() };
    assert_eq!(edits.communities.as_slice(), [5663 << 16 | 12]);
    assert_eq!(edits.large_communities.as_slice(), [[50, 50, 5364]]);
    let own = json!({"prefixAdvertisements": [{"cidr": "192.168.0.0/16", "communities": ["1:1"]}]});
    set(&mut mesh, Kind::BGPConfiguration, "node.node1", own);
    let (Verdict::Accept(edits), _) = export(&mesh, "Mesh_10_0_0_1", "192.168.1.5/32") else { panic!() };
    assert_eq!(edits.communities.as_slice(), [1 << 16 | 1], "those of the node replace those of the cluster");
}

#[test]
fn filters_run_first_and_end_the_decision() {
    let mut mesh = cluster();
    set(&mut mesh, Kind::IPPool, "pool", json!({"cidr": "10.1.0.0/16", "disableBGPExport": true}));
    let filter = json!({
        "exportV4": [
            {"cidr": "10.1.5.0/24", "matchOperator": "In", "action": "Accept",
             "operations": [{"addCommunity": {"value": "65000:5"}}, {"prependASPath": {"prefix": [65000, 65001]}},
                            {"setPriority": {"value": 512}}]},
            {"cidr": "172.16.0.0/12", "matchOperator": "In", "prefixLength": {"min": 24}, "action": "Accept"},
        ],
    });
    set(&mut mesh, Kind::BGPFilter, "f", filter);
    set(
        &mut mesh,
        Kind::BGPPeer,
        "tor",
        json!({"peerIP": "192.0.2.1", "asNumber": 65001, "filters": ["f", "none"]}),
    );
    let (Verdict::Accept(edits), ExportReason::Filter) = export(&mesh, "Global_192_0_2_1", "10.1.5.7/32")
    else {
        panic!("a filter accepts before the disabled pool is looked at")
    };
    assert_eq!(edits.communities.as_slice(), [65000 << 16 | 5]);
    assert_eq!(edits.prepend.as_slice(), [65000, 65001]);
    assert_eq!(edits.local_pref, Some(2_147_483_647 - 512));
    assert_eq!(
        export(&mesh, "Global_192_0_2_1", "10.1.6.7/32"),
        (Verdict::Reject, ExportReason::PoolDisabled)
    );
    assert_eq!(export(&mesh, "Global_192_0_2_1", "172.16.1.0/24").1, ExportReason::Filter);
    assert_eq!(export(&mesh, "Global_192_0_2_1", "172.16.0.0/16").1, ExportReason::NotOurs);
    assert_eq!(mesh.derive().problems[0].text, "there is no BGPFilter none; it is left out");
}

/// Defect 14: Equal beside prefixLength never matches; it is reported.
#[test]
fn a_range_of_lengths_with_equal_never_matches() {
    let mut mesh = cluster();
    let rule = json!({"cidr": "10.1.0.0/16", "matchOperator": "Equal", "prefixLength": {"min": 16}, "action": "Accept"});
    set(&mut mesh, Kind::BGPFilter, "f", json!({"exportV4": [rule]}));
    set(&mut mesh, Kind::BGPPeer, "tor", json!({"peerIP": "192.0.2.1", "asNumber": 65001, "filters": ["f"]}));
    assert_eq!(export(&mesh, "Global_192_0_2_1", "10.1.0.0/16").1, ExportReason::NotOurs);
    assert!(mesh.derive().problems.iter().any(|problem| problem.field == "spec.exportV4[0].matchOperator"));
}

#[test]
fn an_unreadable_rule_is_closed() {
    let mut mesh = cluster();
    set(&mut mesh, Kind::IPPool, "pool", json!({"cidr": "10.1.0.0/16"}));
    let rule = |action: &str| json!({"cidr": "10.1.0.0/33", "matchOperator": "In", "action": action});
    for (action, expected) in [("Accept", ExportReason::Pool), ("Reject", ExportReason::Filter)] {
        set(&mut mesh, Kind::BGPFilter, "f", json!({"exportV4": [rule(action)]}));
        set(
            &mut mesh,
            Kind::BGPPeer,
            "tor",
            json!({"peerIP": "192.0.2.1", "asNumber": 65001, "filters": ["f"]}),
        );
        assert_eq!(export(&mesh, "Global_192_0_2_1", "10.1.5.7/32").1, expected);
        assert_eq!(mesh.derive().problems.len(), 1);
    }
}

fn service(kind: &str, policy: &str, extra: serde_json::Value) -> serde_json::Value {
    let mut spec = json!({"type": kind, "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
        "externalTrafficPolicy": policy});
    for (key, value) in extra.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"spec": spec})
}

fn slice(node: &str, ready: bool) -> serde_json::Value {
    json!({"metadata": {"labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.5"], "nodeName": node, "conditions": {"ready": ready}}]})
}

fn service_routes(mesh: &Mesh) -> Vec<String> {
    let routes = config(mesh).routes;
    routes
        .iter()
        .filter(|(_, r)| r.install == LocalInstall::Nothing)
        .map(|(net, _)| net.to_string())
        .collect()
}

fn serving() -> Mesh {
    let mut mesh = cluster();
    let spec = json!({
        "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
        "serviceExternalIPs": [{"cidr": "203.0.113.0/24"}, {"cidr": "198.51.100.7/32"}],
    });
    set(&mut mesh, Kind::BGPConfiguration, "default", spec);
    mesh
}

#[test]
fn local_services_are_announced_where_they_are_served() {
    let mut mesh = serving();
    let ranges = ["10.96.0.0/12", "203.0.113.0/24"];
    assert_eq!(service_routes(&mesh), ranges);
    let extra = json!({"externalIPs": ["203.0.113.9", "192.0.2.99"]});
    kubernetes(&mut mesh, KubernetesKind::Service, "web", Some(service("LoadBalancer", "Local", extra)));
    assert_eq!(service_routes(&mesh), ranges);
    kubernetes(&mut mesh, KubernetesKind::EndpointSlice, "web-1", Some(slice("node2", true)));
    assert_eq!(service_routes(&mesh), ranges);
    kubernetes(&mut mesh, KubernetesKind::EndpointSlice, "web-2", Some(slice("node1", true)));
    assert_eq!(service_routes(&mesh), ["10.96.0.0/12", "10.96.0.5/32", "203.0.113.0/24", "203.0.113.9/32"]);
    kubernetes(&mut mesh, KubernetesKind::EndpointSlice, "web-2", Some(slice("node1", false)));
    assert_eq!(service_routes(&mesh), ranges);
}

/// Defect 6: a deleted slice is not connected with its service, and nothing is withdrawn.
#[test]
fn a_deleted_slice_withdraws_its_service() {
    let mut mesh = serving();
    kubernetes(&mut mesh, KubernetesKind::Service, "web", Some(service("NodePort", "Local", json!({}))));
    kubernetes(&mut mesh, KubernetesKind::EndpointSlice, "web-1", Some(slice("node1", true)));
    assert_eq!(service_routes(&mesh).len(), 3);
    assert!(kubernetes(&mut mesh, KubernetesKind::EndpointSlice, "web-1", None));
    assert_eq!(service_routes(&mesh).len(), 2);
}

/// Defect 6 again: cluster addresses are announced without a look at the configured ranges.
#[test]
fn cluster_addresses_outside_the_ranges_stay_home() {
    let mut mesh = serving();
    let outside = json!({"clusterIP": "10.200.0.5", "clusterIPs": ["10.200.0.5"]});
    kubernetes(&mut mesh, KubernetesKind::Service, "web", Some(service("NodePort", "Local", outside)));
    kubernetes(&mut mesh, KubernetesKind::EndpointSlice, "web-1", Some(slice("node1", true)));
    assert_eq!(service_routes(&mesh).len(), 2);
}

/// Defect 7: single addresses of services become blackholes in the kernel.
#[test]
fn service_addresses_never_reach_the_kernel() {
    let mut mesh = serving();
    let extra = json!({"externalIPs": ["198.51.100.7"]});
    kubernetes(&mut mesh, KubernetesKind::Service, "web", Some(service("ClusterIP", "Cluster", extra)));
    assert!(
        service_routes(&mesh).contains(&"198.51.100.7/32".to_owned()),
        "a range of one address is not a range"
    );
    let config = config(&mesh);
    assert!(config.routes.values().all(|route| route.install == LocalInstall::Nothing));
    let hop = "10.0.0.9".parse().unwrap();
    assert_eq!(config.fib.decide("198.51.100.7/32".parse().unwrap(), hop), None);
    assert_eq!(config.fib.decide("10.96.0.5/32".parse().unwrap(), hop), None);
}

#[test]
fn an_excluded_node_announces_no_service_but_still_refuses_them() {
    let mut mesh = serving();
    node(&mut mesh, "node1", "10.0.0.10/24", json!({"labels": {services::EXCLUDE: "true"}}));
    assert!(service_routes(&mesh).is_empty());
    assert!(config(&mesh).fib.reject.covers("203.0.113.9/32".parse().unwrap()));
}

#[test]
fn workloads_are_peers_of_their_node() {
    let mut mesh = cluster();
    let workload = json!({"node": "node1", "ipNetworks": ["10.1.0.5/32"], "interfaceName": "cali1",
        "orchestrator": "cni", "endpoint": "eth0", "containerID": "x", "profiles": ["kns.default"]});
    set_labelled(&mut mesh, Kind::WorkloadEndpoint, "w", json!({"app": "router"}), workload);
    set(&mut mesh, Kind::Profile, "kns.default", json!({"labelsToApply": {"team": "net"}}));
    let spec = json!({"nodeSelector": "all()", "localWorkloadSelector": "app == 'router' && team == 'net'",
        "asNumber": 65100, "keepaliveTime": "1s"});
    set(&mut mesh, Kind::BGPPeer, "local", spec);
    let local = peer(&mesh, "Local_Workload_10_1_0_5");
    assert_eq!((local.kind, local.passive, local.local_address), (PeerKind::LocalWorkload, true, None));
    assert_eq!((local.remote_as, local.keepalive_time), (65100, None));
}

#[test]
fn the_order_of_changes_does_not_matter() {
    let build = |order: &[usize]| {
        let mut mesh = Mesh::new(MeshSettings::new("node1"));
        for step in order {
            match step {
                0 => node(&mut mesh, "node1", "10.0.0.10/24", json!({})),
                1 => node(&mut mesh, "node2", "10.0.0.9/24", json!({"asNumber": 65001})),
                2 => set(&mut mesh, Kind::IPPool, "pool", json!({"cidr": "10.1.0.0/16"})),
                3 => affinity(&mut mesh, "10.1.0.0/26", "confirmed"),
                _ => set(&mut mesh, Kind::BGPPeer, "p", json!({"peerSelector": "all()"})),
            }
        }
        mesh.derive()
    };
    let first = build(&[0, 1, 2, 3, 4]);
    for order in [[4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [3, 4, 0, 2, 1]] {
        assert_eq!(build(&order), first);
    }
    assert!(first.config.unwrap().routes.keys().all(|net| Family::of(net.addr()) == Family::Ipv4));
}

fn annotate(
    mesh: &mut Mesh,
    kind: Kind,
    name: &str,
    annotations: serde_json::Value,
    spec: serde_json::Value,
) -> bool {
    let tree = json!({
        "apiVersion": "projectcalico.org/v3", "kind": kind.name(),
        "metadata": {"name": name, "annotations": annotations}, "spec": spec,
    });
    let resource = AnyResource::from_tree(kind, tree, Mode::Strict).unwrap();
    let key = Key::resource(kind, "", name);
    mesh.apply(&Update::set(key, Value::Resource(resource.into()), Revision::default()))
}

#[test]
fn annotations_give_bfd_limits_and_filters_of_the_mesh() {
    let mut mesh = cluster();
    let spec = json!({"peerIP": "192.0.2.1", "asNumber": 65001});
    annotate(&mut mesh, Kind::BGPPeer, "tor", json!({}), spec.clone());
    let bfd = json!({"bgp.projectcalico.org/bfd": "100ms*3", "bgp.projectcalico.org/max-prefixes": "5"});
    assert!(annotate(&mut mesh, Kind::BGPPeer, "tor", bfd, spec.clone()), "an annotation is a change");
    set(&mut mesh, Kind::BGPFilter, "quiet", json!({"exportV4": [{"action": "Reject"}]}));
    let filters = json!({"bgp.projectcalico.org/node-mesh-filters": "quiet"});
    assert!(annotate(&mut mesh, Kind::BGPConfiguration, "default", filters, json!({})));
    let derived = mesh.derive();
    let config = derived.config.unwrap();
    let tor = &config.peers["Global_192_0_2_1"];
    assert_eq!(tor.bfd.map(|bfd| (bfd.interval.as_millis(), bfd.multiplier)), Some((100, 3)));
    assert_eq!(tor.max_prefixes, Some(5));
    let node = config.peers.values().find(|peer| peer.kind == PeerKind::Mesh).unwrap();
    assert_eq!((node.bfd, node.export.filters[&Family::Ipv4].len()), (None, 1));
    assert_eq!(derived.problems, []);
    annotate(&mut mesh, Kind::BGPPeer, "tor", json!({"bgp.projectcalico.org/bfd": "fast"}), spec);
    let derived = mesh.derive();
    assert!(derived.problems.iter().any(|p| p.name == "tor" && p.field.contains("/bfd")));
    assert!(derived.config.unwrap().peers["Global_192_0_2_1"].bfd.is_none());
}
