//! One object of every kind, as clusters store it: read, checked and written back without a difference.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests may fail loudly")]

use calico_model::decode::Mode;
use calico_model::k8s::custom_resource::{Group, from_custom_resource, to_custom_resource};
use calico_model::{AnyResource, Kind, Value, validate};

/// The golden object of a kind; the v1 name of the IPAM settings shares that of v3.
fn golden(kind: Kind) -> Option<&'static str> {
    macro_rules! files {
        ($($kind:ident $file:literal)*) => {
            match kind {
                $( Kind::$kind => Some(include_str!(concat!("golden/", $file, ".json"))), )*
                _ => None,
            }
        };
    }
    files! {
        BGPConfiguration "bgpconfiguration" BGPFilter "bgpfilter" BGPPeer "bgppeer" BlockAffinity "blockaffinity"
        CalicoNodeStatus "caliconodestatus" ClusterInformation "clusterinformation"
        FelixConfiguration "felixconfiguration" GlobalNetworkPolicy "globalnetworkpolicy"
        GlobalNetworkSet "globalnetworkset" HostEndpoint "hostendpoint" IPAMBlock "ipamblock"
        IPAMConfiguration "ipamconfiguration" IPAMHandle "ipamhandle" IPPool "ippool" IPReservation "ipreservation"
        KubeControllersConfiguration "kubecontrollersconfiguration" LiveMigration "livemigration"
        NetworkPolicy "networkpolicy" NetworkSet "networkset" Node "node" Profile "profile"
        StagedGlobalNetworkPolicy "stagedglobalnetworkpolicy"
        StagedKubernetesNetworkPolicy "stagedkubernetesnetworkpolicy" StagedNetworkPolicy "stagednetworkpolicy"
        Tier "tier" WorkloadEndpoint "workloadendpoint"
    }
}

#[test]
fn every_kind() {
    let mut seen = 0;
    for kind in Kind::ALL.iter().copied().filter(|k| !k.is_pseudo() && *k != Kind::IPAMConfig) {
        let text = golden(kind).unwrap_or_else(|| panic!("no golden file for {kind}"));
        let tree: serde_json::Value = serde_json::from_str(text).unwrap();
        let resource = AnyResource::read(tree.clone(), Mode::Strict).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(validate::problems(&resource), [], "{kind}");
        assert_eq!(resource.to_tree(), tree, "{kind}");
        let written: serde_json::Value = serde_json::from_slice(&resource.to_json()).unwrap();
        assert_eq!(written, tree, "{kind}");
        let key = resource.key();
        let value = Value::from_json(&key, text.as_bytes()).unwrap();
        assert_eq!(Value::from_json(&key, &value.to_json()), Ok(value), "{kind}");
        for group in [Group::V1, Group::V3] {
            let stored = to_custom_resource(&resource, group);
            assert_eq!(stored["apiVersion"], group.api_version());
            assert_eq!(from_custom_resource(kind, stored), Ok(resource.clone()), "{kind} {group:?}");
        }
        seen += 1;
    }
    assert_eq!(seen, 26);
}
