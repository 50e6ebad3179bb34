//! A node to attach containers to: a network namespace, a datastore, a directory of plugins, no agent.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use calico_bins::cni::error::CniError;
use calico_bins::ctl::{apply, initialise, input};
use calico_dataplane::netlink::{LinkChange, Rtnetlink};
use calico_dataplane::netns::{NamespaceError, NetNs};
use calico_datastore::{Backend, KeyRanges, SqliteOptions, SqliteStore};
use serde_json::{Value, json};

const INSIDE: &str = "CALICO_TEST_INSIDE";

/// Where Debian and other distributions keep the reference plugins.
pub(crate) const REFERENCE_PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// Reports that `name` cannot run here.
pub(crate) fn skip(name: &str, why: &str) {
    assert!(std::env::var_os("CALICO_NO_SKIP").is_none(), "{name} may not be skipped here: {why}");
    println!("skipped: {name}: {why}");
}

/// Runs `test` on a thread inside a new, empty network namespace, as root of it.
pub(crate) fn isolated(name: &str, test: impl FnOnce() + Send) {
    match NetNs::create() {
        Ok(namespace) => match namespace.run(|| {
            link_up("lo");
            test();
        }) {
            Ok(()) => {}
            Err(error) => panic!("{name}: {error}"),
        },
        Err(NamespaceError::Create { source })
            if source.kind() == std::io::ErrorKind::PermissionDenied
                && std::env::var_os(INSIDE).is_none() =>
        {
            again_in_user_namespace(name, &source);
        }
        Err(error) => skip(name, &error.to_string()),
    }
}

fn again_in_user_namespace(name: &str, denied: &std::io::Error) {
    let output = Command::new("unshare")
        .args(["-Urnm", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return skip(name, &format!("{denied}; and unshare(1) cannot be run: {error}")),
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.starts_with("unshare:") {
        return skip(name, stderr.trim());
    }
    print!("{stdout}");
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("1 passed"), "the test ran: {stdout}");
}

pub(crate) fn link_up(name: &str) {
    let mut netlink = Rtnetlink::open().unwrap();
    let link = netlink.link(name).unwrap();
    netlink.change_link(link.index, &LinkChange::Up).unwrap();
}

/// A program of the system, by its name.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// A reference plugin.
pub(crate) fn find_plugin(name: &str) -> Option<PathBuf> {
    REFERENCE_PLUGINS.iter().map(|dir| Path::new(dir).join(name)).find(|file| file.is_file())
}

/// How the plugins lie in their directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `calico-ipam` is `calico` under another name, as the installer leaves them.
    OneProgram,
    /// Two files.
    TwoPrograms,
}

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) bin: PathBuf,
    store: Arc<dyn Backend>,
    runtime: tokio::runtime::Runtime,
}

const MANIFESTS: &str = r#"
{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: node1}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: default}}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pool4}
spec: {cidr: 10.65.0.0/16, blockSize: 28}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pool6}
spec: {cidr: 'fd00:65::/112', blockSize: 124}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: other4}
spec: {cidr: 10.66.0.0/24, blockSize: 28}
"#;

impl World {
    pub(crate) fn new(layout: Layout) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let calico = env!("CARGO_BIN_EXE_calico");
        let ipam = if layout == Layout::OneProgram { calico } else { env!("CARGO_BIN_EXE_calico-ipam") };
        std::os::unix::fs::symlink(calico, bin.join("calico")).unwrap();
        std::os::unix::fs::symlink(ipam, bin.join("calico-ipam")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store: Arc<dyn Backend> =
            Arc::new(SqliteStore::open(SqliteOptions::new(dir.path().join("calico.db"))).unwrap());
        runtime.block_on(initialise::initialise(&store)).unwrap();
        let world = Self { dir, bin, store, runtime };
        world.apply(MANIFESTS);
        world
    }

    pub(crate) fn apply(&self, manifests: &str) {
        let objects =
            input::read_bytes("test.yaml", manifests.as_bytes(), &input::Options::default()).unwrap();
        for outcome in self.runtime.block_on(apply::perform(&self.store, &objects, apply::Action::Apply)) {
            outcome.result.unwrap_or_else(|error| panic!("{}: {error}", outcome.id));
        }
    }

    pub(crate) fn pod(&self, name: &str, annotations: &Value) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "annotations": annotations,
                         "labels": {"app": name}},
            "spec": {"nodeName": "node1", "serviceAccountName": "default",
                     "containers": [{"name": "c", "image": "c"}]}});
        self.apply(&pod.to_string());
    }

    /// Writes an object that no command writes.
    pub(crate) fn put(&self, key: &str, value: &Value) {
        let write = calico_datastore::RawWrite::put(
            key,
            calico_datastore::Expect::Any,
            value.to_string().into_bytes(),
        );
        self.runtime.block_on(self.store.txn(vec![write])).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// A configuration of the plugin; `more` is laid over it, key by key.
    pub(crate) fn conf(&self, version: &str, more: Value) -> Value {
        let mut conf = json!({
            "cniVersion": version,
            "name": "net",
            "type": "calico",
            "datastore_type": "sqlite",
            "datastore_path": self.path("calico.db"),
            "agent_socket": self.path("no-agent.sock"),
            "nodename": "node1",
            "nodename_file": self.path("nodename"),
            "ipam_lock_file": self.path("ipam.lock"),
            "journal_dir": self.path("journal"),
            "log_file_path": self.path("cni.log"),
            "log_level": "debug",
            "mtu": 1440,
            "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "false"},
            "policy": {"type": "k8s"},
        });
        let Value::Object(more) = more else { panic!("{more}") };
        conf.as_object_mut().unwrap().extend(more);
        conf
    }

    /// The same configuration with a datastore that nobody serves.
    pub(crate) fn without_datastore(conf: &Value) -> Value {
        let mut conf = conf.clone();
        conf["datastore_path"] = "/proc/none/calico.db".into();
        conf
    }

    /// A plugin, ready to be run for `container`.
    pub(crate) fn command(&self, verb: &str, plugin: &str, container: &Container) -> Command {
        let mut command = Command::new(self.bin.join(plugin));
        for (name, value) in self.environment(verb, container) {
            command.env(name, value);
        }
        command
    }

    pub(crate) fn environment(&self, verb: &str, container: &Container) -> BTreeMap<&'static str, String> {
        let reference = REFERENCE_PLUGINS.join(":");
        let args = match &container.pod {
            Some(pod) => format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}"),
            None => container.args.clone(),
        };
        BTreeMap::from([
            ("CNI_COMMAND", verb.to_owned()),
            ("CNI_CONTAINERID", container.id.clone()),
            ("CNI_NETNS", container.netns_path()),
            ("CNI_IFNAME", container.ifname.clone()),
            ("CNI_PATH", format!("{}:{reference}", self.bin.display())),
            ("CNI_ARGS", args),
        ])
    }

    pub(crate) fn run(&self, verb: &str, container: &Container, conf: &Value) -> Result<Value, CniError> {
        let plugin = conf["type"].as_str().unwrap();
        let command = match find_plugin(plugin) {
            Some(program) => {
                let mut command = Command::new(program);
                command.envs(self.environment(verb, container));
                command
            }
            None => self.command(verb, plugin, container),
        };
        answer(&communicate(command, conf))
    }

    pub(crate) fn add(&self, container: &Container, conf: &Value) -> Value {
        self.run("ADD", container, conf).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    pub(crate) fn del(&self, container: &Container, conf: &Value) {
        self.run("DEL", container, conf).unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("cni.log")).unwrap_or_default()
    }

    pub(crate) fn stored(&self, prefix: &str) -> BTreeMap<String, Value> {
        let list = self.runtime.block_on(self.store.list(&KeyRanges::prefix(prefix))).unwrap();
        let entry = |entry: calico_datastore::RawEntry| {
            (entry.key, serde_json::from_slice(&entry.value).unwrap_or(Value::Null))
        };
        list.entries.into_iter().map(entry).collect()
    }

    pub(crate) fn endpoints(&self) -> BTreeMap<String, Value> {
        self.stored("/calico/resources/v3/projectcalico.org/workloadendpoints/")
    }

    /// What is left of attachments: assigned addresses, handles, endpoints, interfaces, notes.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (key, block) in self.stored("/calico/ipam/v2/assignment/") {
            let used = block["allocations"].as_array().unwrap().iter().filter(|a| !a.is_null()).count();
            if used > 0 {
                left.push(format!("{key}: {used} addresses: {}", block["attributes"]));
            }
        }
        left.extend(self.stored("/calico/ipam/v2/handle/").into_keys());
        left.extend(self.endpoints().into_keys());
        let links = Rtnetlink::open().unwrap().links().unwrap();
        left.extend(links.into_iter().map(|link| link.name).filter(|name| name.starts_with("cali")));
        left.extend(self.notes());
        left
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("journal")).into_iter().flatten().flatten();
        let mut notes: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        notes.sort();
        notes
    }
}

/// Runs a plugin with `conf` on its standard input.
pub(crate) fn communicate(mut command: Command, conf: &Value) -> Output {
    use std::io::Write as _;
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(conf.to_string().as_bytes());
    child.wait_with_output().unwrap()
}

/// What a plugin printed, as a runtime reads it.
pub(crate) fn answer(output: &Output) -> Result<Value, CniError> {
    let text = &output.stdout;
    if output.status.success() {
        if text.is_empty() {
            return Ok(Value::Null);
        }
        return Ok(serde_json::from_slice(text).unwrap());
    }
    let error = serde_json::from_slice::<CniError>(text);
    Err(error.unwrap_or_else(|_| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        CniError::generic(format!("{}: {}{stderr}", output.status, String::from_utf8_lossy(text)))
    }))
}

/// A container to attach.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) ifname: String,
    /// Name of the pod in namespace `default`.
    pub(crate) pod: Option<String>,
    /// `CNI_ARGS` of a container that is no pod.
    pub(crate) args: String,
    pub(crate) netns: NetNs,
}

impl Container {
    pub(crate) fn new(id: &str, pod: Option<&str>) -> Self {
        let netns = NetNs::create().unwrap();
        netns.run(|| link_up("lo")).unwrap();
        Self { id: id.into(), ifname: "eth0".into(), pod: pod.map(Into::into), args: String::new(), netns }
    }

    /// Another interface of the same container.
    pub(crate) fn interface(&self, ifname: &str) -> Self {
        Self {
            id: self.id.clone(),
            ifname: ifname.into(),
            pod: self.pod.clone(),
            args: self.args.clone(),
            netns: self.netns.try_clone().unwrap(),
        }
    }

    /// A path that leads here from any process.
    pub(crate) fn netns_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_fd().as_raw_fd())
    }

    /// Addresses of an interface inside, as texts.
    pub(crate) fn addresses(&self, ifname: &str) -> Vec<String> {
        let ifname = ifname.to_owned();
        self.netns
            .run(move || {
                let mut inside = Rtnetlink::open().unwrap();
                let Ok(link) = inside.link(&ifname) else { return Vec::new() };
                let addresses = inside.addresses_of(link.index).unwrap();
                let global = addresses.iter().filter(|a| !a.net.to_string().starts_with("fe80"));
                let mut texts: Vec<String> = global.map(|a| a.net.to_string()).collect();
                texts.sort();
                texts
            })
            .unwrap()
    }
}
