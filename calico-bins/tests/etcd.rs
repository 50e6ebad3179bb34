//! The programs over etcd: everything that they do over the embedded store, and moving between the two.
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// An etcd server; ends with the test.
struct Etcd {
    child: Child,
    endpoint: String,
    directory: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Etcd {
    /// `None` where etcd is not installed.
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let endpoint = format!("http://127.0.0.1:{}", port());
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{}", port()), "--unsafe-no-fsync"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            println!(
                "skipped: calico-bins/tests/etcd.rs: no etcd in PATH (Debian: apt-get install etcd-server)"
            );
            return None;
        };
        let etcd = Self { child, endpoint, directory };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !etcd.calicoctl(&["get", "ippools"]).status.success() {
            assert!(Instant::now() < deadline, "etcd does not come up");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(etcd)
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .env("DATASTORE_TYPE", "etcdv3")
            .env("ETCD_ENDPOINTS", &self.endpoint)
            .env("CALICO_NODE_SOCKET", self.path("no-agent.sock"));
        command
    }

    fn calicoctl(&self, arguments: &[&str]) -> Output {
        self.program(env!("CARGO_BIN_EXE_calicoctl")).args(arguments).output().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs `calicoctl` and returns what it printed.
    fn says(&self, arguments: &[&str]) -> String {
        text(&self.calicoctl(arguments), arguments)
    }

    /// Runs `calico-ipam` as a container runtime does.
    fn ipam(&self, verb: &str, container: &str) -> Output {
        let conf = format!(
            r#"{{"cniVersion":"1.0.0","name":"k8s-pod-network","type":"calico","nodename":"node1","datastore_type":"etcdv3","etcd_endpoints":"{}","ipam_lock_file":"{}","ipam":{{"type":"calico-ipam"}}}}"#,
            self.endpoint,
            self.path("ipam.lock").display(),
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_calico-ipam"));
        command
            .env_clear()
            .env("PATH", "/nowhere")
            // Fields of the configuration win over the environment.
            .env("ETCD_ENDPOINTS", "http://127.0.0.1:1")
            .env("CALICO_NODE_SOCKET", self.path("no-agent.sock"))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", "/proc/self/ns/net")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(conf.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}

fn text(output: &Output, what: impl std::fmt::Debug) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what:?}: {out}{err}");
    out.into_owned()
}

fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name).display().to_string()
}

#[test]
fn commands_and_plugins_work_over_etcd() {
    let Some(etcd) = Etcd::start() else { return };
    etcd.says(&["apply", "-f", &example("cluster"), "-f", &example("policy")]);
    assert!(etcd.says(&["get", "ippools"]).contains("10.244.0.0/16"));
    assert!(etcd.says(&["get", "gnp", "deny-outside", "-o", "yaml"]).contains("order: 20"));
    assert!(etcd.says(&["get", "namespaces"]).contains("outside"));
    let node = etcd.path("node.yaml");
    std::fs::write(&node, "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: node1}\n").unwrap();
    etcd.says(&["create", "-f", &node.display().to_string()]);
    let again = etcd.calicoctl(&["create", "-f", &node.display().to_string()]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("already exists"));
    let (first, second) = (etcd.ipam("ADD", "pod-a"), etcd.ipam("ADD", "pod-b"));
    let address = |output: &Output| {
        let result: serde_json::Value = serde_json::from_str(&text(output, "ADD")).unwrap();
        result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned()
    };
    let (first, second) = (address(&first), address(&second));
    assert_ne!(first, second);
    assert!(etcd.says(&["ipam", "show", "--ip", &first]).contains("is in use"));
    text(&etcd.ipam("DEL", "pod-a"), "DEL");
    assert!(etcd.says(&["ipam", "show", "--ip", &first]).contains("is not assigned"));
    assert!(etcd.says(&["ipam", "show", "--ip", &second]).contains("is in use"));
    etcd.says(&["ipam", "release", "--ip", &second]);
    etcd.says(&["patch", "ippool", "default-ipv4-ippool", "-p", r#"{"spec":{"natOutgoing":false}}"#]);
    etcd.says(&["label", "node", "node1", "rack=a"]);
    assert!(etcd.says(&["get", "node", "node1", "-o", "yaml"]).contains("rack: a"));
    etcd.says(&["delete", "node", "node1"]);
    assert!(!etcd.says(&["get", "nodes"]).contains("node1"));
}

#[test]
fn a_configuration_file_selects_etcd() {
    let Some(etcd) = Etcd::start() else { return };
    let file = etcd.path("calicoctl.cfg");
    let endpoint = &etcd.endpoint;
    std::fs::write(
        &file,
        format!("apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nspec: {{datastoreType: etcdv3, etcdEndpoints: '{endpoint}'}}\n"),
    )
    .unwrap();
    let calicoctl = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_calicoctl"))
            .env_clear()
            // With a file the environment is not read.
            .env("ETCD_ENDPOINTS", "http://127.0.0.1:1")
            .args(arguments)
            .output()
            .unwrap()
    };
    let file = file.display().to_string();
    text(&calicoctl(&["--config", &file, "apply", "-f", &example("cluster/10-ippools.yaml")]), "apply");
    assert!(etcd.says(&["get", "ippools"]).contains("10.244.0.0/16"));
    let unreachable = calicoctl(&["get", "ippools"]);
    assert!(!unreachable.status.success());
    assert!(String::from_utf8_lossy(&unreachable.stderr).contains("127.0.0.1:1"));
}

#[test]
fn a_store_moves_to_etcd_and_back() {
    let Some(etcd) = Etcd::start() else { return };
    let (origin, back) = (etcd.path("a.db").display().to_string(), etcd.path("b.db").display().to_string());
    etcd.says(&["--datastore", &origin, "apply", "-f", &example("cluster"), "-f", &example("policy")]);
    etcd.says(&["--datastore", &origin, "ipam", "configure", "--strictaffinity", "true"]);
    etcd.says(&["datastore", "copy", &origin, &etcd.endpoint]);
    assert!(etcd.says(&["ipam", "show", "--show-configuration"]).contains("true"));
    etcd.says(&["datastore", "copy", &etcd.endpoint, &back]);
    let content = |place: &str| {
        let export = etcd.says(&["--datastore", place, "datastore", "migrate", "export"]);
        let entries = export.lines().skip(1).map(|line| {
            let mut entry: serde_json::Value = serde_json::from_str(line).unwrap();
            // Revisions count in each store for itself.
            entry.as_object_mut().unwrap().remove("revision");
            entry
        });
        entries.collect::<Vec<_>>()
    };
    assert_eq!(content(&origin), content(&back));
    assert_eq!(content(&origin), content(&etcd.endpoint));
    let refused = etcd.calicoctl(&["datastore", "copy", &origin, &etcd.endpoint]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--replace"));
    etcd.says(&["datastore", "copy", &origin, &etcd.endpoint, "--replace"]);
    assert_eq!(content(&origin), content(&etcd.endpoint));
    etcd.says(&["datastore", "migrate", "lock"]);
    let locked = etcd.ipam("ADD", "pod-c");
    assert!(!locked.status.success(), "a locked datastore assigns nothing");
    etcd.says(&["datastore", "migrate", "unlock"]);
    let missing = etcd.calicoctl(&["datastore", "copy", "/nowhere/calico.db", &etcd.endpoint, "--replace"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no such datastore"));
}

#[test]
fn a_whole_cluster_runs_over_etcd() {
    if Etcd::start().is_none() {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_calico-lab"));
    command.args(["--datastore", "etcd", "--nodes", "2", "--pods", "3"]);
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if err.contains("may not make namespaces")
        || err.contains("does not let an ordinary user make namespaces")
    {
        println!("skipped: a_whole_cluster_runs_over_etcd: {err}");
        return;
    }
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains(" 0 failed in "), "{out}");
}
