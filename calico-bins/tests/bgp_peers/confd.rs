//! BIRD as `calico-confd` configures it: accepted by `bird -p`, and exporting what our speaker would from the same
//! resources.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use calico_bgp::mesh::MeshSettings;
use calico_bins::confd::{Follower, follow};
use calico_datastore::{Datastore, SqliteOptions, SqliteStore, Store};
use calico_model::decode::Mode;
use calico_model::{AffinityType, AnyResource, BlockAffinityValue, Key, Kind, Value};
use serde_json::{Value as Json, json};

use crate::arena::{arena, eventually};
use crate::bird::{self, birdc};
use crate::cases::{Implementation as _, PASSWORD};
use crate::speaker::Speaker;

fn resource(kind: Kind, name: &str, spec: Json) -> (Key, Value) {
    let tree = json!({
        "apiVersion": "projectcalico.org/v3", "kind": kind.name(), "metadata": {"name": name}, "spec": spec,
    });
    let resource = AnyResource::from_tree(kind, tree, Mode::Strict).unwrap();
    (Key::resource(kind, "", name), Value::Resource(resource.into()))
}

/// Two nodes, the second with everything that shapes an export.
fn objects() -> Vec<(Key, Value)> {
    let node = |v4: &str, v6: &str| json!({"bgp": {"ipv4Address": v4, "ipv6Address": v6}});
    let affinity = |cidr: &str, state: &str| {
        let value = BlockAffinityValue { state: state.into(), ..BlockAffinityValue::default() };
        let key = Key::affinity(AffinityType::Host, "n2", cidr.parse().unwrap());
        (key, Value::BlockAffinity(value.into()))
    };
    vec![
        resource(Kind::Node, "n1", node("10.99.0.1/24", "fd99::1/64")),
        resource(Kind::Node, "n2", node("10.99.0.2/24", "fd99::2/64")),
        resource(Kind::IPPool, "p4", json!({"cidr": "10.2.0.0/16", "blockSize": 26})),
        resource(Kind::IPPool, "p6", json!({"cidr": "fd10:2::/48", "blockSize": 122})),
        resource(
            Kind::IPPool,
            "hidden",
            json!({"cidr": "10.3.0.0/16", "blockSize": 26, "disableBGPExport": true}),
        ),
        affinity("10.2.0.64/26", "confirmed"),
        affinity("10.2.1.0/26", "confirmed"),
        affinity("10.2.2.0/26", "pending"),
        affinity("10.3.0.0/26", "confirmed"),
        affinity("fd10:2::40/122", "confirmed"),
        resource(
            Kind::BGPConfiguration,
            "default",
            json!({
                "serviceClusterIPs": [{"cidr": "10.112.0.0/12"}],
                "serviceExternalIPs": [{"cidr": "203.0.113.0/24"}],
                "communities": [{"name": "blue", "value": "64512:7"}],
                "prefixAdvertisements": [{"cidr": "10.2.0.0/24", "communities": ["blue", "64512:1:2"]}],
                "ignoredInterfaces": ["docker*"],
            }),
        ),
        // A peer that nobody can make sense of spoils itself only.
        resource(
            Kind::BGPPeer,
            "keyless",
            json!({"node": "n2", "peerIP": "10.99.0.77", "asNumber": 65001,
                "password": {"secretKeyRef": {"name": "bgp", "key": "none"}}}),
        ),
        resource(
            Kind::BGPFilter,
            "tor",
            json!({
                "exportV4": [
                    {"action": "Reject", "matchOperator": "In", "cidr": "10.2.1.0/24"},
                    {"action": "Accept", "matchOperator": "Equal", "cidr": "10.2.0.64/26",
                     "operations": [{"addCommunity": {"value": "64512:99"}}, {"prependASPath": {"prefix": [64600]}}]},
                ],
                "importV4": [{"action": "Reject", "matchOperator": "In", "cidr": "10.1.7.0/24"}],
            }),
        ),
        resource(
            Kind::BGPPeer,
            "tor",
            json!({"node": "n2", "peerIP": "10.99.0.78", "asNumber": 65001, "filters": ["tor"],
                "password": {"secretKeyRef": {"name": "bgp", "key": "pw"}}}),
        ),
    ]
}

async fn fill(path: &Path) {
    let store = Store::new(SqliteStore::open(SqliteOptions::new(path)).unwrap());
    for (key, value) in objects() {
        store.apply(key, value).await.unwrap();
    }
}

/// The configuration that our own speaker would have on a node.
async fn speaker_of(path: &Path, node: &str, secrets: &Path) -> calico_bgp::config::SpeakerConfig {
    let store = std::sync::Arc::new(Store::new(SqliteStore::open(SqliteOptions::new(path)).unwrap()));
    let mut config = None;
    follow(store, Follower::new(MeshSettings::new(node), secrets), true, |rendered| {
        config = Some(rendered.config.clone());
        Ok(())
    })
    .await
    .unwrap();
    config.unwrap()
}

fn confd(dir: &Path, store: &Path, extra: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_calico-confd"))
        .args(["--nodename", "n2", "--directory"])
        .arg(dir)
        .arg("--secrets")
        .arg(dir.join("secrets"))
        .args(extra)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("DATASTORE_TYPE", "sqlite")
        .env("CALICO_DATASTORE_PATH", store)
        .output()
        .unwrap()
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Prefixes and attributes that matter, as `birdc show route all` prints them.
fn routes(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut net = String::new();
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if first.contains('/') {
            net = first.to_owned();
        }
        let line = line.trim();
        let kept = [
            "BGP.next_hop",
            "BGP.local_pref",
            "BGP.community",
            "BGP.large_community",
            "BGP.as_path",
            "BGP.origin",
        ];
        if kept.iter().any(|name| line.starts_with(name)) {
            found.insert(format!("{net} {line}"));
        }
    }
    found
}

#[test]
fn bird_exports_what_we_would() {
    let test = "bird_exports_what_we_would";
    let Some(arena) = arena(test, bird::Bird::PROGRAMS) else { return };
    let store = arena.path("calico.db");
    let dir = arena.path("confd");
    std::fs::create_dir_all(dir.join("secrets/bgp")).unwrap();
    std::fs::write(dir.join("secrets/bgp/pw"), PASSWORD).unwrap();
    block_on(fill(&store));

    let check = ["--once", "--check", "bird -p -c {}"];
    let output = confd(&dir, &store, &check);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let text = std::fs::read_to_string(dir.join("bird.conf")).unwrap();
    assert_eq!(text.matches("disabled yes;").count(), 1, "only the peer without its password:\n{text}");
    assert!(text.contains(&format!("password \"{PASSWORD}\"")));
    // The reload command runs for a change, and only then.
    let mark = arena.path("reloaded");
    let reload = format!("echo x >> {}", mark.display());
    assert!(confd(&dir, &store, &["--once", "--reload", &reload]).status.success());
    assert!(!mark.exists(), "nothing changed");

    // The same resources as seen by an observer on n1: once from BIRD, once from our speaker. Both speak to a BIRD
    // that takes everything.
    let observer = |name: &str, own: &str, other: &str| {
        format!(
            "router id 10.99.0.9;\nprotocol device {{}}\nprotocol direct {{ ipv4; ipv6; interface \"v*\"; }}
protocol bgp {name}4 {{ local {own} as 64512; neighbor {other} as 64512; strict bind on; multihop;
  connect delay time 1; connect retry time 1; ipv4 {{ import all; export none; add paths on; }}; }}\n"
        )
    };
    // BIRD as n2 in the peer's namespace, our speaker as observer and as n1.
    let birds = bird::start(&arena, "bird", &text);
    let n1 = block_on(speaker_of(&store, "n1", &dir.join("secrets")));
    let ours = Speaker::start(&arena, n1);
    eventually(test, || {
        let peers = ours.peers();
        let up = peers.iter().filter(|peer| peer.bgp_state == "Established").count();
        if up == 2 { Ok(()) } else { Err(format!("{peers:?}: {}", birdc(&arena, "bird", "show protocols"))) }
    });
    // Service ranges are announced as well, but no node programs them.
    for block in ["10.2.0.64/26", "10.2.1.0/26"] {
        ours.learns(test, block, &["10.99.0.2"]);
    }
    ours.learns(test, "fd10:2::40/122", &["fd99::2"]);
    std::thread::sleep(std::time::Duration::from_secs(1));
    for hidden in ["10.3.0.0/26", "10.2.2.0/26", "10.99.0.0/24", "fd99::/64"] {
        assert!(!ours.has(hidden), "{hidden} stays at home");
    }
    let exported = birdc(&arena, "bird", "show route export Mesh_10_99_0_1 all");
    drop((ours, birds));

    // Now our speaker is n2, and the observer is a BIRD at n1's address.
    let mut n2 = block_on(speaker_of(&store, "n2", &dir.join("secrets")));
    n2.peers.retain(|name, _| &**name == "Mesh_10_99_0_1");
    let theirs = routes(&exported);
    assert!(!theirs.is_empty(), "{exported}");
    // Ours lives in the other namespace: addresses change places.
    for (namespace, from, to) in [(&arena.ours, "1", "2"), (&arena.theirs, "2", "1")] {
        crate::arena::ip(&format!("-n {namespace} addr flush dev v0"));
        crate::arena::ip(&format!("-n {namespace} addr add 10.99.0.{to}/24 dev v0"));
        let _ = from;
    }
    let _observer = bird::start(&arena, "observer", &observer("dut", "10.99.0.1", "10.99.0.2"));
    let ours = Speaker::start(&arena, n2);
    ours.established(test);
    // `show route export` tells the attributes before the session's own edits: the next hop of local routes is not
    // among them, so it is compared above, by what n1 learned.
    let without_hop = |set: &BTreeSet<String>| -> BTreeSet<String> {
        set.iter()
            .filter(|line| {
                !line.contains("next_hop") && !line.contains("as_path") && !line.contains("origin")
            })
            .cloned()
            .collect()
    };
    let wanted = without_hop(&theirs);
    eventually(test, || {
        let seen = without_hop(&routes(&birdc(&arena, "observer", "show route protocol dut4 all")));
        if seen == wanted { Ok(()) } else { Err(format!("ours {seen:#?}\nBIRD's {wanted:#?}")) }
    });
}

#[test]
fn confd_follows_the_datastore() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("calico.db");
    block_on(fill(&store));
    let mark = dir.path().join("reloaded");
    let reload = format!("echo x >> {}", mark.display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_calico-confd"));
    command
        .args(["--watch", "--nodename", "n2", "--bird", "1.6", "--reload", &reload, "--directory"])
        .arg(dir.path())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("DATASTORE_TYPE", "sqlite")
        .env("CALICO_DATASTORE_PATH", &store)
        .stderr(std::process::Stdio::null());
    calico_dataplane::sys::process::die_with_parent(&mut command);
    let mut child = command.spawn().unwrap();
    let reloads = || std::fs::read_to_string(&mark).map_or(0, |text| text.lines().count());
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    eventually("the first rendering", || if reloads() == 1 { Ok(()) } else { Err(reloads().to_string()) });
    assert!(read("bird.cfg").contains("Mesh_10_99_0_1") && read("bird6.cfg").contains("Mesh_fd99__1"));
    let (key, value) = resource(Kind::Node, "n3", json!({"bgp": {"ipv4Address": "10.99.0.3/24"}}));
    let open = Store::new(SqliteStore::open(SqliteOptions::new(&store)).unwrap());
    block_on(open.apply(key, value)).unwrap();
    eventually("a new node", || {
        let text = read("bird.cfg");
        if text.contains("Mesh_10_99_0_3") && reloads() == 2 { Ok(()) } else { Err(text) }
    });
    // A label that no session depends on is no change of the text.
    let tree = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "n3", "labels": {"a": "b"}},
        "spec": {"bgp": {"ipv4Address": "10.99.0.3/24"}},
    });
    let node = AnyResource::from_tree(Kind::Node, tree, Mode::Strict).unwrap();
    block_on(open.apply(Key::resource(Kind::Node, "", "n3"), Value::Resource(node.into()))).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(reloads(), 2);
    child.kill().unwrap();
    child.wait().unwrap();
}
