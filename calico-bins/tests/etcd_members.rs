//! Three members of etcd, each in a network namespace of its own, are cut off one after the other while a store writes
//! and a syncer follows: no update is missed, none is invented, none comes twice or out of order.
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use calico_dataplane::netlink::{Address, LinkChange, NewKind, NewLink, Peer, Rtnetlink};
use calico_dataplane::netns::NetNs;
use calico_dataplane::sys::process::run_in_network_namespace;
use calico_datastore::config::DatastoreConfig;
use calico_datastore::{
    Backend, Expect, KeyRanges, ListRequest, RawWrite, Role, Store, SyncEvent, Syncer, SyncerOptions,
};

const MEMBERS: usize = 3;
const KEYS: u64 = 7;

struct Member {
    child: Child,
    port: u32,
    _directory: tempfile::TempDir,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(host: usize) -> String {
    format!("10.99.0.{host}")
}

/// A namespace on the bridge with a member in it.
fn member(fabric: &mut Rtnetlink, number: usize) -> Member {
    let netns = NetNs::create().unwrap();
    let name = format!("m{number}");
    let peer = Peer { name: "eth0", namespace: Some(netns.as_fd()), mac: None };
    fabric.create_link(&NewLink { up: true, ..NewLink::new(&name, NewKind::Veth(peer)) }).unwrap();
    let (bridge, port) = (fabric.link("fabric").unwrap(), fabric.link(&name).unwrap());
    fabric.change_link(port.index, &LinkChange::Master(Some(bridge.index))).unwrap();
    let own = address(number);
    netns
        .run(|| {
            let mut inside = Rtnetlink::open().unwrap();
            for name in ["lo", "eth0"] {
                let link = inside.link(name).unwrap();
                inside.change_link(link.index, &LinkChange::Up).unwrap();
            }
            let link = inside.link("eth0").unwrap();
            inside.add_address(&Address::new(link.index, format!("{own}/24").parse().unwrap())).unwrap();
        })
        .unwrap();
    let initial: Vec<String> = (1..=MEMBERS).map(|n| format!("m{n}=http://{}:2380", address(n))).collect();
    let directory = tempfile::tempdir().unwrap();
    let (client, peer) = (format!("http://{own}:2379"), format!("http://{own}:2380"));
    let mut command = Command::new("etcd");
    command
        .args(["--name", &name, "--unsafe-no-fsync", "--data-dir"])
        .arg(directory.path().join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &initial.join(","), "--initial-cluster-state", "new"])
        .args(["--heartbeat-interval=100", "--election-timeout=1000"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    run_in_network_namespace(&mut command, netns.as_fd().try_clone_to_owned().unwrap());
    Member { child: command.spawn().unwrap(), port: port.index, _directory: directory }
}

/// What the writer tried: every value is written to one key once.
#[derive(Default)]
struct Ledger {
    tried: BTreeMap<String, String>,
    /// Revisions of acknowledged puts, with their value.
    acknowledged: BTreeMap<u64, String>,
}

async fn write(
    store: Arc<dyn Backend>,
    ledger: Arc<Mutex<Ledger>>,
    mut stop: tokio::sync::watch::Receiver<bool>,
) {
    for n in 0.. {
        if *stop.borrow_and_update() {
            return;
        }
        let (key, value) = (format!("/calico/v1/config/K{}", n % KEYS), format!("v{n}"));
        ledger.lock().unwrap().tried.insert(value.clone(), key.clone());
        let put = RawWrite::put(key, Expect::Any, value.clone().into_bytes());
        match store.txn(vec![put]).await {
            Ok(done) => {
                let mut ledger = ledger.lock().unwrap();
                let newest = ledger.acknowledged.last_key_value().map_or(0, |(revision, _)| *revision);
                assert!(done.revision > newest, "the revision stepped back");
                ledger.acknowledged.insert(done.revision, value);
            }
            // Whether it was written is not known; the value is not used again.
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The test itself, inside namespaces of its own.
#[test]
fn inside() {
    if std::env::var_os("CALICO_MEMBERS_INSIDE").is_none() {
        return;
    }
    let mut fabric = Rtnetlink::open().unwrap();
    fabric.create_link(&NewLink { up: true, ..NewLink::new("fabric", NewKind::Bridge) }).unwrap();
    let bridge = fabric.link("fabric").unwrap();
    let own: IpAddr = address(254).parse().unwrap();
    fabric.add_address(&Address::new(bridge.index, format!("{own}/24").parse().unwrap())).unwrap();
    let members: Vec<Member> = (1..=MEMBERS).map(|number| member(&mut fabric, number)).collect();
    let endpoints: Vec<String> = (1..=MEMBERS).map(|n| format!("http://{}:2379", address(n))).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = DatastoreConfig::from_place(&endpoints.join(","), |_| None).unwrap();
        let store = calico_datastore::open_backend(&config, Role::Tool).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(error) = store.info().await {
            assert!(Instant::now() < deadline, "etcd does not come up: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let reader = calico_datastore::open_backend(&config, Role::Tool).unwrap();
        let view = ListRequest::prefix("/calico/v1/config/");
        let mut syncer =
            Syncer::start(Arc::new(Store::new(reader)), view, SyncerOptions::default()).into_events();
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let writer = tokio::spawn(write(Arc::clone(&store), Arc::clone(&ledger), stopped));
        let seen = Arc::new(Mutex::new(BTreeMap::<u64, (String, String)>::new()));
        let reading = {
            let (seen, ledger) = (Arc::clone(&seen), Arc::clone(&ledger));
            tokio::spawn(async move {
                while let Some(event) = syncer.recv().await {
                    let SyncEvent::Updates(updates) = event else { continue };
                    for update in updates {
                        let (key, revision) = (update.key.path(), update.revision.as_str().parse().unwrap());
                        let value = update.value.unwrap_or_else(|| panic!("{key} was never deleted"));
                        let value = String::from_utf8(value.to_json()).unwrap();
                        assert_eq!(
                            ledger.lock().unwrap().tried.get(&value),
                            Some(&key),
                            "nobody wrote {value}"
                        );
                        let mut seen = seen.lock().unwrap();
                        let newest = seen.last_key_value().map_or(0, |(revision, _)| *revision);
                        assert!(revision > newest, "revision {revision} after {newest}");
                        seen.insert(revision, (key, value));
                    }
                }
            })
        };
        tokio::time::sleep(Duration::from_secs(1)).await;
        for member in &members {
            let before = ledger.lock().unwrap().acknowledged.len();
            fabric.change_link(member.port, &LinkChange::Down).unwrap();
            // Longer than an election, shorter than a call's patience: the rest of the cluster takes over.
            tokio::time::sleep(Duration::from_secs(12)).await;
            let during = ledger.lock().unwrap().acknowledged.len();
            assert!(during > before, "nothing could be written while one member was cut off");
            fabric.change_link(member.port, &LinkChange::Up).unwrap();
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        stop.send_replace(true);
        writer.await.unwrap();
        let truth = store.list(&KeyRanges::prefix("/calico/v1/config/")).await.unwrap();
        let last = truth.entries.iter().map(|entry| entry.revision).max().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while seen.lock().unwrap().last_key_value().map_or(0, |(revision, _)| *revision) < last {
            assert!(Instant::now() < deadline && !reading.is_finished(), "the syncer does not catch up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (seen, ledger) = (seen.lock().unwrap(), ledger.lock().unwrap());
        let mut state = BTreeMap::new();
        for (revision, (key, value)) in &*seen {
            state.insert(key.clone(), (value.clone(), *revision));
        }
        for entry in &truth.entries {
            let value = String::from_utf8(entry.value.to_vec()).unwrap();
            assert_eq!(state.get(&entry.key), Some(&(value, entry.revision)));
        }
        assert_eq!(state.len(), truth.entries.len());
        let arrived: BTreeSet<u64> = seen.keys().copied().collect();
        let missed = ledger.acknowledged.keys().filter(|revision| !arrived.contains(revision)).count();
        let (all, tried) = (ledger.acknowledged.len(), ledger.tried.len());
        println!("{tried} writes tried, {all} acknowledged, {} updates seen, {missed} missed", seen.len());
        assert_eq!(missed, 0, "of {all} acknowledged writes");
        reading.abort();
    });
}

#[test]
fn cutting_members_off_loses_and_invents_nothing() {
    if Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: etcd_members: no etcd in PATH (Debian: apt-get install etcd-server)");
        return;
    }
    // An ordinary user becomes root of a user namespace of its own.
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt;
        own.uid() == 0
    });
    let flags: &[&str] = if root { &["--net"] } else { &["--user", "--map-root-user", "--net"] };
    if !Command::new("unshare").args(flags).arg("true").status().is_ok_and(|status| status.success()) {
        println!("skipped: etcd_members: no network namespaces for this user");
        return;
    }
    let output = Command::new("unshare")
        .args(flags)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture"])
        .env("CALICO_MEMBERS_INSIDE", "1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    print!("{out}");
}
