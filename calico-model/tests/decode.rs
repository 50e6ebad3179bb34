//! Reading and writing objects: what is kept, what is refused, and with which words.

use calico_model::decode::Mode;
use calico_model::{
    Action, AnyResource, FieldError, IPPool, Kind, ModelError, NetworkPolicy, NetworkPolicySpec, Port,
    Protocol, Rule,
};
use serde_json::json;

#[test]
fn a_policy_round_trips_in_the_spelling_of_the_api() {
    let text = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "NetworkPolicy",
        "metadata": {"name": "web", "namespace": "prod"},
        "spec": {
            "tier": "default",
            "order": 100,
            "selector": "app == 'web'",
            "types": ["Ingress"],
            "ingress": [{
                "action": "Allow",
                "protocol": "TCP",
                "notICMP": {"type": 8},
                "source": {"selector": "has(role)", "nets": ["10.0.0.0/8"]},
                "destination": {"ports": [80, "8000:8100", "http"]}
            }]
        }
    });
    let p = NetworkPolicy::from_json(text.to_string().as_bytes(), Mode::Strict).unwrap();
    assert_eq!(p.spec.order, Some(100.0));
    let rule = &p.spec.ingress[0];
    assert_eq!(rule.action, Action::Allow);
    assert_eq!(rule.protocol, Some(Protocol::tcp()));
    assert_eq!(
        rule.destination.ports,
        [Port::single(80), Port::Range(8000, 8100), Port::Named("http".into())]
    );
    assert_eq!(p.to_tree(), text);
}

#[test]
fn a_required_field_is_written_although_it_is_empty() {
    let text = json!({"apiVersion": "projectcalico.org/v3", "kind": "KubeControllersConfiguration",
        "metadata": {"name": "default"}, "spec": {"controllers": {}}});
    let resource = AnyResource::read(text.clone(), Mode::Strict).unwrap();
    assert_eq!(resource.to_tree(), text);
}

#[test]
fn unset_fields_are_not_written() {
    let p =
        NetworkPolicy::new("a", NetworkPolicySpec { ingress: vec![Rule::default()], ..Default::default() });
    let written = String::from_utf8(p.to_json()).unwrap();
    assert_eq!(
        written,
        concat!(
            r#"{"apiVersion":"projectcalico.org/v3","kind":"NetworkPolicy","#,
            r#""metadata":{"name":"a"},"spec":{"ingress":[{}]}}"#
        )
    );
}

#[test]
fn all_wrong_and_unknown_fields_are_reported_at_once() {
    let text = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "NetworkPolicy",
        "metadata": {"name": "web", "labls": {}},
        "spec": {
            "selectr": "all()",
            "order": "first",
            "ingress": [
                {"action": "Allow"},
                {"action": 5, "source": {"ports": ["10:1"], "netz": []}}
            ]
        }
    });
    let error = NetworkPolicy::from_tree(text, Mode::Strict).unwrap_err();
    let ModelError::Fields { what, problems } = &error else { panic!("{error}") };
    assert_eq!(what, "NetworkPolicy");
    let mut shown: Vec<String> = problems.iter().map(FieldError::to_string).collect();
    shown.sort();
    assert_eq!(
        shown,
        [
            "metadata.labls: unknown field; did you mean labels?",
            "spec.ingress[1].action: must be a text, not a number; put it in quotes (got \"5\")",
            "spec.ingress[1].source.netz: unknown field; did you mean nets?",
            "spec.ingress[1].source.ports[0]: \"10:1\" is not a port; use a number 0-65535, a range first:last with \
             first ≤ last, or a port name (got \"10:1\")",
            "spec.order: must be a number, not a text (got \"first\")",
            "spec.selectr: unknown field; did you mean selector?",
        ]
    );
}

#[test]
fn unknown_fields_survive_where_they_were() {
    let text = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": "a", "creationTimestamp": null, "new": true},
        "spec": {"cidr": "10.0.0.0/16", "future": {"x": [1, 2]}, "allowedUses": ["Workload", "Teleport"]},
        "status": {"conditions": [{"type": "Allocatable", "status": "True", "reason": "OK", "message": "", "extra": 1}]},
        "top": "level"
    });
    let mut pool = IPPool::from_tree(text.clone(), Mode::Lenient).unwrap();
    let mut expected = text;
    expected["metadata"].as_object_mut().unwrap().remove("creationTimestamp");
    assert_eq!(pool.to_tree(), expected);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&pool.to_json()).unwrap(), expected);
    assert_eq!(serde_json::to_value(&pool).unwrap(), expected);
    // A list that changed its length no longer says where the unknown field belongs.
    pool.status.as_mut().unwrap().conditions.clear();
    assert_eq!(pool.to_tree()["status"], json!({}));
    assert_eq!(pool.to_tree()["spec"], expected["spec"]);
}

#[test]
fn nulls_of_go_read_as_absent() {
    let text = json!({"metadata": {"name": "a", "labels": null}, "spec": {"ingress": null, "order": null,
        "egress": [{"action": "Deny", "destination": {"nets": null}}]}, "status": null});
    let p = NetworkPolicy::from_tree(text, Mode::Strict).unwrap();
    assert!(p.spec.ingress.is_empty() && p.spec.order.is_none() && p.status.is_none());
    assert_eq!(p.spec.egress[0].action, Action::Deny);
}

#[test]
fn kinds_and_versions_are_checked() {
    let pool = json!({"kind": "IPPool", "apiVersion": "projectcalico.org/v2", "spec": {}});
    assert_eq!(
        AnyResource::read(pool, Mode::Lenient).unwrap_err().to_string(),
        "IPPool: apiVersion \"projectcalico.org/v2\" is not supported; use projectcalico.org/v3"
    );
    let tier = json!({"kind": "Tier", "apiVersion": "projectcalico.org/v3"});
    assert_eq!(
        IPPool::from_tree(tier, Mode::Lenient).unwrap_err().to_string(),
        "expected kind IPPool, found Tier"
    );
    assert_eq!(
        IPPool::from_json(b"{\"spec\": }", Mode::Lenient).unwrap_err().to_string(),
        "not JSON: expected value at line 1 column 10"
    );
}

#[test]
fn lists_are_read_item_by_item() {
    let list = json!({"kind": "TierList", "apiVersion": "projectcalico.org/v3", "items": [
        {"metadata": {"name": "a"}, "spec": {"order": 1}},
        {"metadata": {"name": "b"}, "spec": {"defaultAction": "Pass"}}
    ]});
    let read = AnyResource::read_all(list, Mode::Strict).unwrap();
    assert_eq!(read.len(), 2);
    assert!(read.iter().all(|r| r.kind() == Kind::Tier));
    let bad = json!({"kind": "List", "items": [{"kind": "Tier", "spec": {"ordr": 1}}, {"kind": "Bogus"}]});
    assert_eq!(AnyResource::read_all(bad, Mode::Strict).unwrap_err().len(), 2);
}

#[test]
fn a_converted_kubernetes_policy_has_the_form_of_ours() {
    let text = br#"{"kind":"KubernetesNetworkPolicy","metadata":{"name":"x","namespace":"y"},"spec":{}}"#;
    let any = AnyResource::from_json(Kind::KubernetesNetworkPolicy, text, Mode::Lenient).unwrap();
    assert_eq!(any.kind(), Kind::KubernetesNetworkPolicy);
    assert!(matches!(any, AnyResource::NetworkPolicy(_)));
    assert_eq!(any.key().path(), "/calico/resources/v3/projectcalico.org/kubernetesnetworkpolicies/y/x");
}
