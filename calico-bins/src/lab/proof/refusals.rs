//! Bad input: each is refused in words that name place and remedy, and nothing is left half-done.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use super::super::cluster::{Cluster, PodWish};
use super::super::report::Report;
use super::super::sandbox::{ROOT, program};
use super::{PATIENCE, all_established, eventually, text};

/// Everything that address management and CNI store.
const WATCHED: [&str; 2] = ["/calico/ipam/", "/calico/resources/v3/projectcalico.org/workloadendpoints/"];

const TINY_POOL: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: tiny}\nspec: {cidr: 10.251.0.0/30, blockSize: 30, nodeSelector: zone == 'nowhere'}\n";

/// Proves every refusal.
pub(super) fn prove(cluster: &mut Cluster, report: &mut Report) {
    report.section("Bad input: clear errors, nothing half-done");
    manifests(cluster, report);
    plugin(cluster, report);
    report.step("an exhausted pool says so and leaves nothing behind", || exhausted(cluster));
    report.step("garbage on port 179 disturbs no session", || {
        garbage(cluster)?;
        std::thread::sleep(Duration::from_millis(300));
        eventually(PATIENCE, || all_established(cluster))?;
        Ok(String::new())
    });
    report.step("a full disk: writing is refused, reading goes on", || full_disk(cluster));
    report.step("an agent without CAP_NET_ADMIN says what it needs", || powerless(cluster));
}

fn manifests(cluster: &Cluster, report: &mut Report) {
    let cases = [
        (
            "an unknown field is named",
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: x}\nspec: {cidr: 10.99.0.0/16, natOutgoin: true}\n",
            "spec.natOutgoin",
        ),
        (
            "a selector error has its column",
            "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: x, namespace: default}\nspec: {selector: role = 'db'}\n",
            "spec.selector: column 6",
        ),
        (
            "a pool that overlaps another is refused",
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: x}\nspec: {cidr: 10.244.128.0/17}\n",
            "default-ipv4-ippool",
        ),
    ];
    for (what, manifest, expected) in cases {
        report.step(what, || {
            let before = cluster.stored("/").map_err(text)?;
            let error = match cluster.apply("manifest.yaml", manifest) {
                Ok(_) => return Err("it was taken".to_owned()),
                Err(error) => error.to_string(),
            };
            if !error.contains(expected) {
                return Err(format!("{expected:?} is not in it: {error}"));
            }
            if before != cluster.stored("/").map_err(text)? {
                return Err(format!("the datastore changed: {error}"));
            }
            Ok(error)
        });
    }
}

fn plugin(cluster: &Cluster, report: &mut Report) {
    let unchanged = |cluster: &Cluster, work: &mut dyn FnMut() -> Result<String, String>| {
        let before = snapshot(cluster)?;
        let detail = work()?;
        if before == snapshot(cluster)? {
            Ok(detail)
        } else {
            Err(format!("the datastore changed: {detail}"))
        }
    };
    report.step("ADD twice gives the same answer", || {
        unchanged(cluster, &mut || {
            let pod = cluster.pod("default", "busybox01").map_err(text)?;
            let answer = cluster.cni("ADD", pod).map_err(text)?;
            let again = crate::cni::result::AddResult::from_json(&answer).map_err(|e| e.to_string())?;
            if again == pod.result {
                Ok(String::new())
            } else {
                Err(format!("{again:?} instead of {:?}", pod.result))
            }
        })
    });
    report.step("ADD into a namespace that is gone is refused with code 8", || {
        unchanged(cluster, &mut || {
            let answer = raw(
                cluster,
                |c| {
                    c.env("CNI_COMMAND", "ADD").env("CNI_NETNS", "/run/calico-lab/netns/nowhere");
                },
                None,
            )?;
            expect_code(&answer, 8)
        })
    });
    report.step("a malformed configuration is refused with code 6", || {
        unchanged(cluster, &mut || {
            expect_code(
                &raw(
                    cluster,
                    |c| {
                        c.env("CNI_COMMAND", "ADD");
                    },
                    Some("{\"name\":"),
                )?,
                6,
            )
        })
    });
    report.step("an unknown CNI version is refused with code 1", || {
        let conf = r#"{"cniVersion":"7.0.0","name":"n","type":"calico"}"#;
        unchanged(cluster, &mut || {
            expect_code(
                &raw(
                    cluster,
                    |c| {
                        c.env("CNI_COMMAND", "ADD");
                    },
                    Some(conf),
                )?,
                1,
            )
        })
    });
    report.step("missing CNI_* variables are refused with code 4", || {
        unchanged(cluster, &mut || {
            expect_code(
                &raw(
                    cluster,
                    |c| {
                        c.env("CNI_COMMAND", "ADD").env_remove("CNI_IFNAME");
                    },
                    None,
                )?,
                4,
            )
        })
    });
    report.step("DEL of what is gone already succeeds", || {
        unchanged(cluster, &mut || {
            let answer = raw(
                cluster,
                |c| {
                    c.env("CNI_COMMAND", "DEL").env("CNI_NETNS", "/run/calico-lab/netns/nowhere");
                },
                None,
            )?;
            if answer.trim().is_empty() { Ok(String::new()) } else { Err(answer) }
        })
    });
}

fn snapshot(cluster: &Cluster) -> Result<Vec<(String, String)>, String> {
    let mut all = Vec::new();
    for prefix in WATCHED {
        all.extend(cluster.stored(prefix).map_err(text)?);
    }
    Ok(all)
}

/// Runs the plugin of node1 for a container that nobody knows, changed by `change`; returns what it printed.
fn raw(cluster: &Cluster, change: impl FnOnce(&mut Command), conf: Option<&str>) -> Result<String, String> {
    let node = cluster.node(0).map_err(text)?;
    let conf = match conf {
        Some(conf) => conf.to_owned(),
        None => node.network_configuration().map_err(text)?,
    };
    let mut command = node.command(&program("calico")).map_err(text)?;
    command
        .env("CNI_CONTAINERID", "feedfacefeedface")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_NETNS", Path::new(ROOT).join("netns/pod-default-busybox01"))
        .env("CNI_PATH", Path::new(ROOT).join("bin"))
        .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=nobody");
    change(&mut command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(conf.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn expect_code(answer: &str, code: u32) -> Result<String, String> {
    let error: crate::cni::error::CniError =
        serde_json::from_str(answer).map_err(|e| format!("not an error object ({e}): {answer}"))?;
    if error.code == code { Ok(error.to_string()) } else { Err(format!("code {}: {error}", error.code)) }
}

fn exhausted(cluster: &mut Cluster) -> Result<String, String> {
    cluster.apply("tiny.yaml", TINY_POOL).map_err(text)?;
    let wanted = [("cni.projectcalico.org/ipv4pools", r#"["tiny"]"#)];
    let names: Vec<String> = (0..5).map(|n| format!("tiny{n}")).collect();
    let mut refused = Err("five pods got an address each out of a pool of four".to_owned());
    let mut attached = Vec::new();
    let mut before = Vec::new();
    for name in &names {
        let wish = PodWish { name, node: 0, annotations: &wanted, ..PodWish::default() };
        before = snapshot(cluster)?;
        match cluster.add_pod(&wish) {
            Ok(_) => attached.push(name),
            Err(error) => {
                refused = Ok(error.to_string());
                break;
            }
        }
    }
    let error = refused?;
    if attached.len() != 4 {
        return Err(format!("{} pods got an address: {error}", attached.len()));
    }
    if before != snapshot(cluster)? {
        return Err(format!("the datastore changed: {error}"));
    }
    for name in attached {
        cluster.delete_pod("default", name).map_err(text)?;
    }
    cluster.delete("tiny.yaml", TINY_POOL).map_err(text)?;
    Ok(error)
}

/// From a stranger, and from the address of a peer.
fn garbage(cluster: &Cluster) -> Result<(), String> {
    let target = SocketAddr::from((cluster.node(0).map_err(text)?.address, 179));
    let shout = move || -> std::io::Result<()> {
        let mut stream = std::net::TcpStream::connect_timeout(&target, Duration::from_secs(2))?;
        // Whoever is shouted at may close at once; what counts is that he lives on.
        let _ = stream.write_all(&[0x55; 4096]);
        Ok(())
    };
    shout().map_err(|e| format!("a stranger cannot connect to {target}: {e}"))?;
    let peer = cluster.node(cluster.nodes.len() - 1).map_err(text)?;
    peer.place.run(shout).map_err(|e| format!("{} cannot connect to {target}: {e}", peer.name))
}

fn full_disk(cluster: &Cluster) -> Result<String, String> {
    let dir = Path::new(ROOT).join("tiny");
    std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    mount("calico-lab", &dir, "tmpfs", MountFlags::empty(), c"size=512k").map_err(|e| e.to_string())?;
    let outcome = fill(cluster, &dir);
    let _ = unmount(&dir, UnmountFlags::DETACH);
    outcome
}

fn fill(cluster: &Cluster, dir: &Path) -> Result<String, String> {
    let calicoctl = |arguments: &[&str], input: &str| -> Result<(bool, String), String> {
        let mut command =
            cluster.node(0).and_then(|node| node.command(&program("calicoctl"))).map_err(text)?;
        command.env("DATASTORE_TYPE", "sqlite").env("CALICO_DATASTORE_PATH", dir.join("calico.db"));
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(|e| e.to_string())?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ok((output.status.success(), said))
    };
    let set = |n: u32| {
        let label = "x".repeat(60);
        let nets: Vec<String> = (0..250).map(|i| format!("10.{n}.{i}.0/24")).collect();
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{name: set{n}, labels: {{a: {label}}}}}\nspec: {{nets: [{}]}}\n",
            nets.join(", ")
        )
    };
    let (taken, said) = calicoctl(&["apply", "-f", "-"], &set(0))?;
    if !taken {
        return Err(format!("the first object does not fit: {said}"));
    }
    // The agent of a node has its datastore open all the time; so does this one.
    let _agent =
        calico_datastore::SqliteStore::open(calico_datastore::SqliteOptions::new(dir.join("calico.db")))
            .map_err(|e| e.to_string())?;
    std::fs::write(dir.join("ballast"), vec![0_u8; 1 << 20]).err().ok_or("the disk is not full")?;
    for n in 1..40 {
        let (taken, said) = calicoctl(&["apply", "-f", "-"], &set(n))?;
        if taken {
            continue;
        }
        let (readable, list) = calicoctl(&["get", "globalnetworksets"], "")?;
        if !readable || !list.contains("set0") {
            return Err(format!("reading fails, too: {list}"));
        }
        return if said.contains("accepts no writes") { Ok(said.trim().to_owned()) } else { Err(said) };
    }
    Err("40 objects fit onto a full disk".to_owned())
}

fn powerless(cluster: &Cluster) -> Result<String, String> {
    let node = cluster.node(0).map_err(text)?;
    let mut command = node.command(&program("calico-node")).map_err(text)?;
    command.env("CALICO_NODE_SOCKET", node.dir.join("powerless.sock"));
    // A thread of its own: what it gives up, its child does not have, and nobody else loses anything.
    let output = std::thread::scope(|scope| {
        scope
            .spawn(move || {
                let dropped = remove_capability_from_bounding_set(CapabilitySet::NET_ADMIN);
                dropped.map_err(std::io::Error::from)?;
                command.stdin(Stdio::null()).output()
            })
            .join()
    });
    let output = match output {
        Ok(output) => output.map_err(|e| e.to_string())?,
        Err(_) => return Err("the thread panicked".to_owned()),
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() || !said.contains("CAP_NET_ADMIN") {
        return Err(format!("{}: {said}", output.status));
    }
    Ok(said.lines().last().unwrap_or_default().split("error=").last().unwrap_or_default().to_owned())
}
