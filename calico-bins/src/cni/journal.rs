//! Work that a DEL had to put off because the datastore did not answer.
//!
//! A pod must be able to go while the datastore is away. DEL cuts its wire, notes here what is left to do, one file
//! per attachment and part, and reports success. Every later call that reaches the datastore does what is noted
//! first, and so does the agent. Everything noted is named by the container, whose ID is never used again, so doing it
//! twice or late harms nobody; only an ADD of the same container must not overtake it, and does not.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use calico_datastore::Datastore;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::conf::NetConf;
use super::detach;
use super::error::{CniError, code};
use super::identity::Identity;
use super::ipam;

/// Where the notes are unless told otherwise. It must survive a reboot, as the addresses in the datastore do.
pub const DIRECTORY: &str = "/var/lib/calico/cni-journal";

/// The environment variable that names another directory.
pub const VARIABLE: &str = "CALICO_CNI_JOURNAL";

/// How often the agent looks for work that was put off.
const AGENT_PERIOD: Duration = Duration::from_secs(10);

/// What was put off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The workload endpoint is to be deleted.
    Endpoint,
    /// The addresses are to be released.
    Addresses,
}

/// One note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// What is left to do.
    pub part: Part,
    /// Name of the network.
    pub network: String,
    /// Container ID.
    pub container_id: String,
    /// Interface inside the container.
    pub ifname: String,
    /// Name of the node; empty when it was not known.
    pub node: String,
    /// Namespace of the pod; empty outside Kubernetes.
    pub namespace: String,
    /// Name of the pod; empty outside Kubernetes.
    pub pod: String,
}

impl Entry {
    /// What is left to do for the attachment `identity`.
    pub fn new(part: Part, network: &str, identity: &Identity) -> Self {
        let kubernetes = identity.orchestrator == "k8s";
        Self {
            part,
            network: network.to_owned(),
            container_id: identity.container_id.clone(),
            ifname: identity.endpoint.clone(),
            node: identity.node.clone(),
            namespace: if kubernetes { identity.namespace.clone() } else { String::new() },
            pod: identity.pod.clone(),
        }
    }

    fn file_name(&self) -> String {
        let part = match self.part {
            Part::Endpoint => "endpoint",
            Part::Addresses => "addresses",
        };
        // Names of networks, containers and interfaces hold no slash; that is checked before anything else.
        format!("{}_{}_{}.{part}.json", self.network, self.container_id, self.ifname)
    }

    fn identity(&self, node: &str) -> Identity {
        let node = if self.node.is_empty() { node } else { &self.node };
        let pod = (!self.pod.is_empty()).then(|| (self.namespace.clone(), self.pod.clone()));
        Identity::of(&self.network, &self.container_id, &self.ifname, pod, node.to_owned(), "cali")
    }

    async fn perform(&self, store: &dyn Datastore, node: &str) -> Result<(), CniError> {
        let identity = self.identity(node);
        match self.part {
            Part::Endpoint => detach::delete_endpoint(store, &identity).await,
            // Older releases' second handle names the pod, and a new pod may have that name by now.
            Part::Addresses => ipam::release(store, &identity, std::slice::from_ref(&identity.handle)).await,
        }
    }
}

/// The directory of the notes.
pub fn directory(conf: &NetConf) -> PathBuf {
    let variable = std::env::var(VARIABLE).unwrap_or_default();
    let named = [conf.journal_dir.as_str(), &variable].into_iter().find(|dir| !dir.is_empty());
    named.unwrap_or(DIRECTORY).into()
}

/// Notes what is left to do, durably: success is only reported to the runtime after this.
pub fn put_off(dir: &Path, entry: &Entry) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let text = serde_json::to_vec(entry).map_err(io::Error::other)?;
    let name = entry.file_name();
    let unfinished = dir.join(format!(".{name}.{}", std::process::id()));
    let mut file = File::create(&unfinished)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&unfinished, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// Whether `done` failed for want of a datastore: then it is noted for later, and that is success.
pub fn or_put_off(
    done: Result<(), CniError>,
    conf: &NetConf,
    part: Part,
    identity: &Identity,
) -> Result<(), CniError> {
    let Err(error) = done else { return Ok(()) };
    if error.code != code::TRY_AGAIN_LATER {
        return Err(error);
    }
    let dir = directory(conf);
    match put_off(&dir, &Entry::new(part, &conf.name, identity)) {
        Ok(()) => {
            tracing::warn!(%error, ?part, journal = %dir.display(), "the datastore is away; noted for later");
            Ok(())
        }
        Err(cannot) => {
            tracing::error!(error = %cannot, journal = %dir.display(), "cannot even note it");
            Err(error)
        }
    }
}

/// What a replay came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Notes that are done.
    pub done: usize,
    /// Notes that are still there.
    pub left: Vec<Entry>,
    /// Why, for the first of them.
    pub error: Option<CniError>,
}

/// Does what is noted. One caller at a time: others wait for it.
pub async fn replay(store: &dyn Datastore, dir: &Path, node: &str) -> Replayed {
    replay_under(FlockOperation::LockExclusive, store, dir, node).await
}

async fn replay_under(operation: FlockOperation, store: &dyn Datastore, dir: &Path, node: &str) -> Replayed {
    let mut replayed = Replayed::default();
    if notes(dir).is_empty() {
        return replayed;
    }
    // Held until the end. Between reading a note and removing it no ADD may begin with the same container.
    let lock = File::open(dir).and_then(|file| {
        rustix::fs::flock(&file, operation)?;
        Ok(file)
    });
    let _lock = match lock {
        Ok(lock) => Some(lock),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return replayed,
        // A file system without locks: better than never doing it.
        Err(_) => None,
    };
    for path in notes(dir) {
        let Some(entry) = read(&path) else { continue };
        if replayed.error.is_some() {
            replayed.left.push(entry);
            continue;
        }
        match entry.perform(store, node).await {
            Ok(()) => {
                tracing::info!(container = %entry.container_id, part = ?entry.part, "did what was put off");
                let _ = fs::remove_file(&path);
                replayed.done += 1;
            }
            Err(error) => {
                tracing::warn!(container = %entry.container_id, %error, "still cannot do what was put off");
                replayed.left.push(entry);
                replayed.error = Some(error);
            }
        }
    }
    replayed
}

/// What an ADD does first. What is noted for its own container must be done before it may go on.
pub async fn before_add(
    store: &dyn Datastore,
    dir: &Path,
    node: &str,
    container_id: &str,
) -> Result<(), CniError> {
    let replayed = replay(store, dir, node).await;
    match replayed.error {
        Some(error) if replayed.left.iter().any(|entry| entry.container_id == container_id) => {
            Err(CniError::new(
                code::TRY_AGAIN_LATER,
                format!("an earlier attachment of container {container_id} is not cleaned up yet"),
            )
            .details(error.to_string()))
        }
        _ => Ok(()),
    }
}

/// The agent's part: does what is noted, for as long as the agent runs.
pub async fn replay_forever(store: std::sync::Arc<dyn Datastore>, node: String) {
    let dir = directory(&NetConf::default());
    loop {
        // A plugin that is at it may be waiting for this very agent: never wait for it.
        replay_under(FlockOperation::NonBlockingLockExclusive, &*store, &dir, &node).await;
        tokio::time::sleep(AGENT_PERIOD).await;
    }
}

/// Files of the notes, sorted.
fn notes(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let finished = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.ends_with(".json") && !name.starts_with('.')
    };
    let mut notes: Vec<PathBuf> = entries.filter(finished).collect();
    notes.sort();
    notes
}

/// A note that cannot be read is kept for the operator under another name: nobody knows what it wanted.
fn read(path: &Path) -> Option<Entry> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "cannot read a note");
            return None;
        }
    };
    match serde_json::from_slice(&text) {
        Ok(entry) => Some(entry),
        Err(error) => {
            tracing::error!(file = %path.display(), %error, "this note is damaged; kept as .damaged");
            let _ = fs::rename(path, path.with_extension("damaged"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_datastore::{MemoryStore, Store};

    fn entry(container: &str, part: Part) -> Entry {
        Entry {
            part,
            network: "net".into(),
            container_id: container.into(),
            ifname: "eth0".into(),
            node: "n".into(),
            namespace: "default".into(),
            pod: "web-0".into(),
        }
    }

    #[tokio::test]
    async fn what_is_noted_is_done_once_and_damage_is_kept_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(MemoryStore::new());
        for part in [Part::Endpoint, Part::Addresses] {
            put_off(dir.path(), &entry("c1", part)).unwrap();
            put_off(dir.path(), &entry("c1", part)).unwrap();
        }
        fs::write(dir.path().join("x.json"), "{\"part\":\"endpoint\"").unwrap();
        fs::write(dir.path().join(".half.json.7"), "{").unwrap();
        let replayed = replay(&store, dir.path(), "n").await;
        // Nothing of it exists in this store: that is as good as done.
        assert_eq!((replayed.done, replayed.left.len(), replayed.error), (2, 0, None));
        assert!(dir.path().join("x.damaged").exists());
        assert_eq!(replay(&store, dir.path(), "n").await, Replayed::default());
    }

    #[test]
    fn a_note_survives_being_written_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let note = entry("c2", Part::Addresses);
        put_off(dir.path(), &note).unwrap();
        let [path] = notes(dir.path()).try_into().unwrap();
        assert_eq!(read(&path), Some(note.clone()));
        let identity = note.identity("other");
        assert_eq!((identity.node.as_str(), identity.handle.as_str()), ("n", "net.c2"));
        let unnamed = Entry { node: String::new(), ..note };
        assert_eq!(unnamed.identity("other").node, "other");
    }
}
