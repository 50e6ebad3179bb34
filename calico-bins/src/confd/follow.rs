//! From a datastore to configurations.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use calico_bgp::bird::BirdSettings;
use calico_bgp::config::SpeakerConfig;
use calico_bgp::mesh::{Mesh, MeshSettings, Problem};
use calico_datastore::{Datastore, ListRequest, SyncEvent, SyncStatus, Syncer, SyncerOptions, bgp_view};
use calico_model::k8s::Derive;
use calico_model::{Kind, KubernetesKind};

use crate::node::bgp::secrets;

/// Events that one rendering may wait for.
const DRAIN: usize = 256;

/// How often mounted secrets are looked at again.
const SECRETS_INTERVAL: Duration = Duration::from_secs(10);

/// What is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// Sessions, routes and policies.
    pub config: SpeakerConfig,
    /// What only BIRD needs.
    pub settings: BirdSettings,
}

/// Turns updates into configurations.
#[derive(Debug)]
pub struct Follower {
    derive: Derive,
    mesh: Mesh,
    secrets: PathBuf,
    node: String,
    reported: BTreeSet<Problem>,
}

impl Follower {
    /// For the node of `settings`; passwords are read below `secrets`.
    pub fn new(settings: MeshSettings, secrets: &Path) -> Self {
        let node = settings.node.clone();
        Self {
            derive: Derive::new(),
            mesh: Mesh::new(settings),
            secrets: secrets.to_owned(),
            node,
            reported: BTreeSet::new(),
        }
    }

    /// What of the datastore is needed.
    fn view(&self) -> ListRequest {
        let kubernetes = [
            KubernetesKind::Service,
            KubernetesKind::EndpointSlice,
            KubernetesKind::Node,
            KubernetesKind::Namespace,
            KubernetesKind::ServiceAccount,
            KubernetesKind::Pod,
        ];
        let resources = [Kind::FelixConfiguration, Kind::WorkloadEndpoint, Kind::Profile];
        kubernetes
            .into_iter()
            .map(ListRequest::kubernetes)
            .fold(bgp_view(Some(&self.node)).and(ListRequest::kinds(resources)), ListRequest::and)
    }

    /// Takes in an event; `true` when the configuration may have changed.
    fn take(&mut self, event: SyncEvent) -> bool {
        let mut changed = false;
        match event {
            SyncEvent::Status(_) => {}
            SyncEvent::Updates(updates) => {
                for update in updates {
                    for derived in self.derive.apply(update) {
                        changed |= self.mesh.apply(&derived);
                    }
                }
            }
            SyncEvent::ParseFailed(failure) => {
                tracing::error!(key = %failure.key, reason = %failure.reason, "a stored object cannot be read; its last good form stays in force");
            }
        }
        changed
    }

    /// The configuration by now; `None` while the node itself is unknown.
    fn render(&mut self) -> Option<Rendered> {
        let mut derived = self.mesh.derive();
        if secrets::supply(&mut self.mesh, &self.secrets, &derived.secrets) {
            derived = self.mesh.derive();
        }
        let problems: BTreeSet<Problem> = derived.problems.into_iter().collect();
        for problem in problems.difference(&self.reported) {
            tracing::warn!(%problem, "left out");
        }
        self.reported = problems;
        let config = derived.config?;
        let settings = BirdSettings { ignored_interfaces: derived.ignored_interfaces, debug: false };
        Some(Rendered { config, settings })
    }
}

/// Hands every configuration that the datastore leads to, from the first complete one on, to `write`; only the first
/// one with `once`.
///
/// # Errors
/// What `write` returns; that the datastore cannot be read or, with `once`, does not know the node.
pub async fn follow(
    store: Arc<dyn Datastore>,
    mut follower: Follower,
    once: bool,
    mut write: impl FnMut(&Rendered) -> Result<(), String>,
) -> Result<(), String> {
    if once {
        // A datastore that cannot be reached is an error here, nothing to wait for.
        store.info().await.map_err(|error| error.to_string())?;
    }
    let mut events = Syncer::start(store, follower.view(), SyncerOptions::default()).into_events();
    let mut in_sync = false;
    loop {
        let mut dirty = false;
        tokio::select! {
            event = events.recv() => {
                let mut event = event;
                for _ in 0..DRAIN {
                    let Some(now) = event.take() else { break };
                    if now == SyncEvent::Status(SyncStatus::InSync) {
                        in_sync = true;
                        dirty = true;
                    }
                    dirty |= follower.take(now);
                    event = events.try_recv().ok();
                }
                if let Some(event) = event {
                    dirty |= follower.take(event);
                }
                if events.is_closed() && events.is_empty() {
                    return Err("the datastore is gone".to_owned());
                }
            }
            () = tokio::time::sleep(SECRETS_INTERVAL) => dirty = true,
        }
        if !(in_sync && dirty) {
            continue;
        }
        match follower.render() {
            Some(rendered) => {
                // A file that was refused, or a reload that is owed, is tried again in any case.
                write(&rendered)?;
                if once {
                    return Ok(());
                }
            }
            None if once => return Err(format!("there is no Node {} with an address", follower.node)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_datastore::{MemoryStore, Store};
    use calico_model::decode::Mode;
    use calico_model::{AnyResource, Key, Value};
    use serde_json::json;

    fn resource(kind: Kind, name: &str, spec: serde_json::Value) -> (Key, Value) {
        let tree = json!({
            "apiVersion": "projectcalico.org/v3", "kind": kind.name(), "metadata": {"name": name}, "spec": spec,
        });
        let resource = AnyResource::from_tree(kind, tree, Mode::Strict).unwrap();
        (Key::resource(kind, "", name), Value::Resource(resource.into()))
    }

    async fn store(objects: &[(Kind, &str, serde_json::Value)]) -> Arc<Store<MemoryStore>> {
        let store = Arc::new(Store::new(MemoryStore::new()));
        for (kind, name, spec) in objects {
            let (key, value) = resource(*kind, name, spec.clone());
            store.apply(key, value).await.unwrap();
        }
        store
    }

    fn node(address: &str) -> serde_json::Value {
        json!({"bgp": {"ipv4Address": address}})
    }

    fn follower(secrets: &Path) -> Follower {
        Follower::new(MeshSettings::new("n1"), secrets)
    }

    #[tokio::test]
    async fn once_renders_the_whole_store_and_a_password_that_cannot_be_read_spoils_only_its_peer() {
        let objects = [
            (Kind::Node, "n1", node("10.0.0.1/24")),
            (Kind::Node, "n2", node("10.0.0.2/24")),
            (
                Kind::BGPPeer,
                "tor",
                json!({"peerIP": "10.0.0.9", "asNumber": 65001,
                    "password": {"secretKeyRef": {"name": "bgp", "key": "pw"}}}),
            ),
        ];
        let dir = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        let store = store(&objects).await;
        follow(store, follower(dir.path()), true, |rendered| {
            seen.push(rendered.clone());
            Ok(())
        })
        .await
        .unwrap();
        let text =
            calico_bgp::bird::render(&seen[0].config, &seen[0].settings, calico_bgp::bird::Dialect::Modern);
        assert_eq!(seen.len(), 1);
        assert_eq!(text.matches("disabled yes;").count(), 1, "{text}");
        assert!(text.contains("protocol bgp Mesh_10_0_0_2"), "{text}");
    }

    #[tokio::test]
    async fn once_without_the_node_is_an_error() {
        let store = store(&[(Kind::Node, "n2", node("10.0.0.2/24"))]).await;
        let error = follow(store, follower(Path::new("/nonexistent")), true, |_| Ok(())).await.unwrap_err();
        assert!(error.contains("no Node n1"), "{error}");
    }

    #[tokio::test]
    async fn watching_renders_every_change() {
        let store = store(&[(Kind::Node, "n1", node("10.0.0.1/24"))]).await;
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let task =
            tokio::spawn(follow(store.clone(), follower(Path::new("/nonexistent")), false, move |r| {
                sender.send(r.config.peers.len()).map_err(|e| e.to_string())
            }));
        assert_eq!(seen.recv().await, Some(0));
        let (key, value) = resource(Kind::Node, "n2", node("10.0.0.2/24"));
        store.apply(key.clone(), value).await.unwrap();
        assert_eq!(seen.recv().await, Some(1));
        store.delete(key, None).await.unwrap();
        assert_eq!(seen.recv().await, Some(0));
        task.abort();
    }
}
