//! The stage between a store that holds raw Kubernetes objects and the consumers of Calico resources.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::FieldError;
use crate::k8s::types::Pod;
use crate::k8s::{KubernetesObject, cluster_policy, pod, policy, profile};
use crate::key::{Key, KubernetesKey, KubernetesKind, ResourceKey};
use crate::names::{self, namespace_profile, service_account_profile};
use crate::resource::endpoint::WorkloadEndpointPort;
use crate::value::{Revision, Update, Value};
use crate::{AnyResource, Kind, Labels, WorkloadEndpoint};

type Name = (String, String);

/// What a pod adds to its stored endpoints.
#[derive(Debug, Clone, PartialEq)]
struct Overlay {
    labels: Labels,
    profiles: Vec<String>,
    ports: Vec<WorkloadEndpointPort>,
    service_account: String,
}

/// An endpoint as stored, with what went out last.
#[derive(Debug)]
struct Endpoint {
    stored: Arc<AnyResource>,
    revision: Revision,
    sent: Value,
}

/// Turns raw Kubernetes objects in a stream of updates into the resources that stand for them. Pure; the result
/// depends on the latest state of each key only, never on the order in which keys arrive.
///
/// * Namespace and ServiceAccount become profiles, NetworkPolicy and ClusterNetworkPolicy policies of pseudo-kinds.
/// * Labels, profiles and ports of a Pod are laid over its stored workload endpoint, so that a change of the pod
///   reaches the endpoint.
/// * Labels that only namespaces and service accounts may give are removed from endpoints and network sets.
/// * Everything else passes through.
///
/// ```
/// use calico_model::k8s::Derive;
/// use calico_model::{Key, KubernetesKind, Kind, Revision, Update, Value};
/// let key = Key::kubernetes(KubernetesKind::Namespace, "", "prod");
/// let value = Value::from_json(&key, br#"{"metadata": {"name": "prod", "labels": {"env": "p"}}}"#).unwrap();
/// let out = Derive::new().apply(Update::set(key, value, Revision::from(7)));
/// assert_eq!(out[0].key, Key::resource(Kind::Profile, "", "kns.prod"));
/// ```
#[derive(Debug, Default)]
pub struct Derive {
    pods: BTreeMap<Name, Overlay>,
    /// Endpoints by pod, then by name.
    endpoints: BTreeMap<Name, BTreeMap<String, Endpoint>>,
    /// Pod of each endpoint, by namespace and name of the endpoint.
    owners: BTreeMap<Name, String>,
    problems: BTreeMap<Key, Vec<FieldError>>,
}

impl Derive {
    /// An empty stage.
    pub fn new() -> Self {
        Self::default()
    }

    /// What could not be converted as meant, by key of the Kubernetes object; entries go when the object is corrected or
    /// deleted.
    pub fn problems(&self) -> impl Iterator<Item = (&Key, &[FieldError])> {
        self.problems.iter().map(|(k, p)| (k, p.as_slice()))
    }

    /// Takes one update and gives the updates that follow from it. May be empty.
    pub fn apply(&mut self, update: Update) -> Vec<Update> {
        let Update { key, value, revision } = update;
        match (&key, &value) {
            (Key::Kubernetes(k), None) => self.kubernetes_deleted(k.clone(), key, revision),
            (Key::Kubernetes(_), Some(Value::Kubernetes(object))) => {
                let object = Arc::clone(object);
                self.kubernetes_set(key, &object, value, revision)
            }
            (Key::Resource(r), _) if r.kind == Kind::WorkloadEndpoint => {
                let r = r.clone();
                self.endpoint(r, value, revision)
            }
            (Key::Resource(r), Some(_))
                if matches!(r.kind, Kind::HostEndpoint | Kind::NetworkSet | Kind::GlobalNetworkSet) =>
            {
                vec![Update { key, value: value.map(without_forged_labels), revision }]
            }
            _ => vec![Update { key, value, revision }],
        }
    }

    fn note(&mut self, key: &Key, problems: Vec<FieldError>) {
        if problems.is_empty() {
            self.problems.remove(key);
        } else {
            self.problems.insert(key.clone(), problems);
        }
    }

    fn kubernetes_deleted(&mut self, k: KubernetesKey, key: Key, revision: Revision) -> Vec<Update> {
        self.problems.remove(&key);
        if k.kind == KubernetesKind::Pod {
            let name = (k.namespace, k.name);
            return if self.pods.remove(&name).is_some() { self.resend(&name) } else { Vec::new() };
        }
        vec![Update { key: derived_key(&k).unwrap_or(key), value: None, revision }]
    }

    fn kubernetes_set(
        &mut self,
        key: Key,
        object: &KubernetesObject,
        raw: Option<Value>,
        revision: Revision,
    ) -> Vec<Update> {
        let Key::Kubernetes(k) = &key else { return Vec::new() };
        let derived = derived_key(k);
        let resource: Option<AnyResource> = match object {
            KubernetesObject::Namespace(n) => Some(profile::from_namespace(n).into()),
            KubernetesObject::ServiceAccount(a) => Some(profile::from_service_account(a).into()),
            KubernetesObject::NetworkPolicy(p) => {
                let converted = policy::convert(p);
                self.note(&key, converted.problems);
                Some(converted.object.into())
            }
            KubernetesObject::ClusterNetworkPolicy(p) => {
                let converted = cluster_policy::convert(p);
                self.note(&key, converted.problems);
                converted.object.map(AnyResource::from)
            }
            KubernetesObject::Pod(p) => return self.pod(p, (k.namespace.clone(), k.name.clone())),
            _ => return vec![Update { key, value: raw, revision }],
        };
        match derived {
            Some(derived) => vec![Update { key: derived, value: resource.map(Value::from), revision }],
            None => Vec::new(),
        }
    }

    fn pod(&mut self, p: &Pod, name: Name) -> Vec<Update> {
        if !pod::has_endpoint(p) {
            return if self.pods.remove(&name).is_some() { self.resend(&name) } else { Vec::new() };
        }
        let overlay = Overlay {
            labels: pod::labels(p),
            profiles: pod::profiles(p),
            ports: pod::ports(p),
            service_account: p.spec.service_account_name.clone(),
        };
        if self.pods.get(&name) == Some(&overlay) {
            return Vec::new();
        }
        self.pods.insert(name.clone(), overlay);
        self.resend(&name)
    }

    /// Sends the endpoints of a pod again where they changed.
    fn resend(&mut self, pod: &Name) -> Vec<Update> {
        let overlay = self.pods.get(pod);
        let mut out = Vec::new();
        for (name, endpoint) in self.endpoints.get_mut(pod).into_iter().flatten() {
            let value = overlaid(&endpoint.stored, overlay);
            if endpoint.sent != value {
                endpoint.sent = value.clone();
                let key = Key::resource(Kind::WorkloadEndpoint, pod.0.as_str(), name.as_str());
                out.push(Update::set(key, value, endpoint.revision.clone()));
            }
        }
        out
    }

    fn endpoint(&mut self, r: ResourceKey, value: Option<Value>, revision: Revision) -> Vec<Update> {
        let key = Key::Resource(r.clone());
        self.forget(&r);
        let Some(value) = value else { return vec![Update::deleted(key, revision)] };
        let Value::Resource(stored) = value else { return vec![Update::set(key, value, revision)] };
        let pod = match &*stored {
            AnyResource::WorkloadEndpoint(w) if !w.spec.pod.is_empty() => w.spec.pod.clone(),
            _ => return vec![Update::set(key, overlaid(&stored, None), revision)],
        };
        let name = (r.namespace.clone(), pod.clone());
        let sent = overlaid(&stored, self.pods.get(&name));
        self.owners.insert((r.namespace, r.name.clone()), pod);
        let endpoint = Endpoint { stored, revision: revision.clone(), sent: sent.clone() };
        self.endpoints.entry(name).or_default().insert(r.name, endpoint);
        vec![Update::set(key, sent, revision)]
    }

    /// Drops the endpoint from the pod it belongs to.
    fn forget(&mut self, r: &ResourceKey) {
        let Some(pod) = self.owners.remove(&(r.namespace.clone(), r.name.clone())) else { return };
        let name = (r.namespace.clone(), pod);
        if let Some(endpoints) = self.endpoints.get_mut(&name) {
            endpoints.remove(&r.name);
            if endpoints.is_empty() {
                self.endpoints.remove(&name);
            }
        }
    }
}

/// Key of the resource that stands for a Kubernetes object.
fn derived_key(k: &KubernetesKey) -> Option<Key> {
    Some(match k.kind {
        KubernetesKind::Namespace => Key::resource(Kind::Profile, "", namespace_profile(&k.name)),
        KubernetesKind::ServiceAccount => {
            Key::resource(Kind::Profile, "", service_account_profile(&k.namespace, &k.name))
        }
        KubernetesKind::NetworkPolicy => {
            Key::resource(Kind::KubernetesNetworkPolicy, k.namespace.as_str(), k.name.as_str())
        }
        KubernetesKind::ClusterNetworkPolicy => {
            Key::resource(Kind::KubernetesClusterNetworkPolicy, "", k.name.as_str())
        }
        _ => return None,
    })
}

/// The stored endpoint with what the pod adds, and without forged labels.
fn overlaid(stored: &Arc<AnyResource>, overlay: Option<&Overlay>) -> Value {
    let (AnyResource::WorkloadEndpoint(w), Some(o)) = (&**stored, overlay) else {
        return without_forged_labels(Value::Resource(Arc::clone(stored)));
    };
    let mut w: WorkloadEndpoint = (**w).clone();
    w.metadata.labels = o.labels.clone();
    names::strip_inherited_labels(&mut w.metadata.labels);
    w.spec.profiles.clone_from(&o.profiles);
    w.spec.ports.clone_from(&o.ports);
    w.spec.service_account_name.clone_from(&o.service_account);
    Value::from(AnyResource::from(w))
}

fn without_forged_labels(value: Value) -> Value {
    let Value::Resource(resource) = &value else { return value };
    let mut labels = resource.metadata().labels.clone();
    if !names::strip_inherited_labels(&mut labels) {
        return value;
    }
    let mut resource = (**resource).clone();
    resource.metadata_mut().labels = labels;
    Value::from(resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    fn set(key: &Key, tree: &Json) -> Update {
        let value = Value::from_json(key, tree.to_string().as_bytes()).unwrap();
        Update::set(key.clone(), value, Revision::from(1))
    }

    fn pod_key() -> Key {
        Key::kubernetes(KubernetesKind::Pod, "ns", "web")
    }

    fn pod_tree(labels: &Json) -> Json {
        json!({"metadata": {"name": "web", "namespace": "ns", "labels": labels}, "spec": {"nodeName": "n",
            "serviceAccountName": "sa", "containers": [{"ports": [{"containerPort": 80, "name": "http"}]}]}})
    }

    fn endpoint_key() -> Key {
        Key::resource(Kind::WorkloadEndpoint, "ns", "n-k8s-web-eth0")
    }

    fn endpoint_tree() -> Json {
        json!({"metadata": {"name": "n-k8s-web-eth0", "namespace": "ns",
                "labels": {"old": "1", "pcns.env": "forged"}},
            "spec": {"node": "n", "orchestrator": "k8s", "pod": "web", "endpoint": "eth0",
                "interfaceName": "cali1", "ipNetworks": ["10.0.0.1/32"], "profiles": ["kns.ns"]}})
    }

    fn endpoint(update: &Update) -> &WorkloadEndpoint {
        match update.value.as_ref().and_then(Value::as_resource) {
            Some(AnyResource::WorkloadEndpoint(w)) => w,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_label_of_a_pod_reaches_its_endpoint() {
        let mut d = Derive::new();
        let first = d.apply(set(&endpoint_key(), &endpoint_tree()));
        assert_eq!(endpoint(&first[0]).metadata.labels, [("old".to_owned(), "1".to_owned())].into());
        let second = d.apply(set(&pod_key(), &pod_tree(&json!({"app": "web", "pcsa.x": "forged"}))));
        let w = endpoint(&second[0]);
        assert_eq!(w.metadata.labels["app"], "web");
        assert!(!w.metadata.labels.keys().any(|k| k.starts_with("pc")));
        assert_eq!(w.spec.profiles, ["kns.ns", "ksa.ns.sa"]);
        assert_eq!(w.spec.ports[0].name, "http");
        assert_eq!(w.spec.ip_networks, ["10.0.0.1/32"]);
        // Nothing new, nothing sent.
        assert!(d.apply(set(&pod_key(), &pod_tree(&json!({"app": "web", "pcsa.x": "forged"})))).is_empty());
        assert_eq!(d.apply(Update::deleted(pod_key(), Revision::default())), first);
        assert!(d.apply(Update::deleted(pod_key(), Revision::default())).is_empty());
        let gone = d.apply(Update::deleted(endpoint_key(), Revision::default()));
        assert_eq!(gone, [Update::deleted(endpoint_key(), Revision::default())]);
        assert!(d.apply(set(&pod_key(), &pod_tree(&json!({})))).is_empty());
    }

    #[test]
    fn policies_and_profiles_have_keys_of_their_own() {
        let mut d = Derive::new();
        let key = Key::kubernetes(KubernetesKind::NetworkPolicy, "ns", "p");
        let tree = json!({"metadata": {"name": "p", "namespace": "ns"},
            "spec": {"ingress": [{"ports": [{"port": -1}]}]}});
        let out = d.apply(set(&key, &tree));
        assert_eq!(out[0].key, Key::resource(Kind::KubernetesNetworkPolicy, "ns", "p"));
        assert_eq!(out[0].value.as_ref().unwrap().as_resource().unwrap().key(), out[0].key);
        assert_eq!(d.problems().count(), 1);
        let out = d.apply(Update::deleted(key, Revision::default()));
        assert_eq!(
            out[0],
            Update::deleted(Key::resource(Kind::KubernetesNetworkPolicy, "ns", "p"), Revision::default())
        );
        assert_eq!(d.problems().count(), 0);
        let key = Key::kubernetes(KubernetesKind::ServiceAccount, "ns", "sa");
        let out = d.apply(Update::deleted(key, Revision::default()));
        assert_eq!(out[0].key, Key::resource(Kind::Profile, "", "ksa.ns.sa"));
        let key = Key::kubernetes(KubernetesKind::ClusterNetworkPolicy, "", "c");
        let out = d.apply(set(&key, &json!({"spec": {"tier": "Unknown"}})));
        assert_eq!((out[0].value.clone(), d.problems().count()), (None, 1));
        let service = Key::kubernetes(KubernetesKind::Service, "ns", "s");
        let update = set(&service, &json!({"spec": {"clusterIP": "10.96.0.1"}}));
        assert_eq!(d.apply(update.clone()), [update]);
    }

    #[test]
    fn forged_labels_are_removed_everywhere() {
        for (kind, ns) in [(Kind::HostEndpoint, ""), (Kind::NetworkSet, "ns"), (Kind::GlobalNetworkSet, "")] {
            let key = Key::resource(kind, ns, "x");
            let out =
                Derive::new().apply(set(&key, &json!({"metadata": {"labels": {"pcns.a": "b", "c": "d"}}})));
            let labels = &out[0].value.as_ref().unwrap().as_resource().unwrap().metadata().labels;
            assert_eq!(labels.keys().collect::<Vec<_>>(), ["c"]);
        }
    }

    proptest::proptest! {
        /// The last state of every key decides, not the order in which the keys arrived.
        #[test]
        fn any_order_gives_the_same_state(steps in proptest::collection::vec((0usize..2, 0usize..4), 1..24)) {
            let updates = |key: usize, version: usize| match (key, version) {
                (0, 0) => Update::deleted(pod_key(), Revision::from(1)),
                (0, v) => set(&pod_key(), &pod_tree(&json!({"v": v.to_string()}))),
                (_, 0) => Update::deleted(endpoint_key(), Revision::from(1)),
                (_, v) => {
                    let mut tree = endpoint_tree();
                    tree["spec"]["mac"] = v.to_string().into();
                    set(&endpoint_key(), &tree)
                }
            };
            let run = |steps: &[(usize, usize)]| {
                let mut d = Derive::new();
                let mut state = BTreeMap::new();
                for (key, version) in steps {
                    for u in d.apply(updates(*key, *version)) {
                        state.insert(u.key, u.value);
                    }
                }
                state.retain(|_, v| v.is_some());
                state
            };
            let last = |key: usize| steps.iter().rev().find(|(k, _)| *k == key).copied();
            let mut short: Vec<_> = [last(0), last(1)].into_iter().flatten().collect();
            let forwards = run(&short);
            short.reverse();
            proptest::prop_assert_eq!(&run(&short), &forwards);
            proptest::prop_assert_eq!(run(&steps), forwards);
        }
    }
}
