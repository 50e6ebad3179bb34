//! The thread that turns datastore updates into what kernel and BGP speaker should do.

use std::sync::{Arc, Mutex, PoisonError};

use calico_bgp::mesh::{Mesh, MeshSettings};
use calico_dataplane::driver::{Handle, Input};
use calico_datastore::{SyncEvent, SyncStatus};
use calico_model::Update;
use calico_model::config::Texts;
use calico_model::k8s::Derive;
use calico_policy::{Graph, GraphConfig};
use tokio::sync::mpsc;

use super::bgp::{Command, secrets};

/// Most events that one flush may wait for.
const DRAIN: usize = 256;

/// What the thread works with.
pub struct Engine {
    derive: Derive,
    graph: Graph,
    mesh: Option<(Mesh, mpsc::UnboundedSender<Command>)>,
    restarting: bool,
    driver: Arc<Handle>,
    status: SharedStatus,
    configured: Box<dyn FnMut(&Texts) + Send>,
    revision: u64,
    in_sync: bool,
    mesh_dirty: bool,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("revision", &self.revision)
            .field("in_sync", &self.in_sync)
            .finish_non_exhaustive()
    }
}

/// How the datastore is, for the status.
#[derive(Debug, Clone)]
pub struct SharedStatus(Arc<Mutex<SyncStatus>>);

impl Default for SharedStatus {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(SyncStatus::WaitForDatastore)))
    }
}

impl SharedStatus {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            SyncStatus::WaitForDatastore => "wait-for-datastore",
            SyncStatus::Resync => "resync",
            SyncStatus::InSync => "in-sync",
        }
    }

    fn set(&self, status: SyncStatus) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

impl Engine {
    /// An engine for `node`. `bgp` is absent when no speaker runs; `restarting` tells that the kernel holds routes of
    /// an earlier agent; `configured` is called with the effective parameters whenever they change.
    pub fn new(
        config: GraphConfig,
        driver: Arc<Handle>,
        bgp: Option<mpsc::UnboundedSender<Command>>,
        restarting: bool,
        status: SharedStatus,
        configured: Box<dyn FnMut(&Texts) + Send>,
    ) -> Self {
        let mesh = bgp.map(|commands| (Mesh::new(MeshSettings::new(&config.node)), commands));
        Self {
            derive: Derive::new(),
            graph: Graph::new(config),
            mesh,
            restarting,
            driver,
            status,
            configured,
            revision: 0,
            in_sync: false,
            mesh_dirty: true,
        }
    }

    /// Works until the syncer ends.
    pub fn run(mut self, mut events: mpsc::Receiver<SyncEvent>) {
        while let Some(event) = events.blocking_recv() {
            self.take(event);
            // A burst of updates is one flush: less work, and one kernel transaction.
            for _ in 0..DRAIN {
                match events.try_recv() {
                    Ok(event) => self.take(event),
                    Err(_) => break,
                }
            }
            self.flush();
        }
    }

    fn take(&mut self, event: SyncEvent) {
        match event {
            SyncEvent::Status(status) => {
                tracing::info!(?status, "datastore");
                self.status.set(status);
                if status == SyncStatus::InSync && !self.in_sync {
                    self.in_sync = true;
                    self.graph.in_sync();
                    self.flush();
                    self.driver.send(Input::InSync);
                }
            }
            SyncEvent::Updates(updates) => updates.into_iter().for_each(|update| self.update(update)),
            SyncEvent::ParseFailed(failure) => {
                tracing::error!(key = %failure.key, reason = %failure.reason, "a stored object cannot be read; its last good form stays in force");
            }
        }
    }

    fn update(&mut self, update: Update) {
        // Stores that count their revisions let a caller wait for one; others are waited for by content alone.
        if let Ok(revision) = update.revision.as_str().parse::<u64>() {
            self.revision = self.revision.max(revision);
        }
        for derived in self.derive.apply(update) {
            if let Some((mesh, _)) = &mut self.mesh {
                self.mesh_dirty |= mesh.apply(&derived);
            }
            self.graph.apply(derived);
        }
    }

    fn flush(&mut self) {
        if !self.in_sync {
            return;
        }
        let changes = self.graph.flush();
        if let Some(parameters) = &changes.config {
            (self.configured)(parameters);
        }
        if !changes.is_empty() {
            self.driver.send(Input::Changes(Box::new(changes)));
        }
        self.driver.send(Input::Mark(self.revision));
        if std::mem::take(&mut self.mesh_dirty)
            && let Some((mesh, commands)) = &mut self.mesh
        {
            let mut derived = mesh.derive();
            if secrets::supply(mesh, &secrets::directory(), &derived.secrets) {
                derived = mesh.derive();
            }
            for problem in &derived.problems {
                tracing::warn!(%problem, "BGP configuration");
            }
            if let Some(mut config) = derived.config {
                config.restarting = self.restarting;
                config.selection_deferral = std::time::Duration::from_secs(30);
                let _ = commands.send(Command::Configure(Box::new(config)));
            }
        }
    }
}
