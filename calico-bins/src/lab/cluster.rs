//! The cluster: a bridge, nodes around it, pods on the nodes, and the real programs in all of them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_dataplane::netlink::{
    Address, Family, LinkChange, NetlinkError, NewKind, NewLink, Peer, Route, RouteFilter, RouteProtocol,
    Rtnetlink, route_text,
};
use calico_dataplane::netns::{NamespaceError, NetNs};
use calico_dataplane::sys::process;
use calico_datastore::config::DatastoreConfig;
use calico_datastore::{Backend, Role, StoreError};
use ipnet::{IpNet, Ipv4Net};

use super::args::Datastore;
use super::probe::Place;
use super::sandbox::{ROOT, program};
use crate::cni::error::CniError;
use crate::cni::result::AddResult;
use crate::ctl::{apply, input};
use crate::node::protocol::{Client, NodeStatus, Request, Response};

/// The subnet that the nodes are on.
const SUBNET: Ipv4Addr = Ipv4Addr::new(172, 18, 10, 0);

/// The conflist that a runtime on a node would use.
const CONFLIST: &str = include_str!("../../../examples/cni/10-calico.conflist");

/// Why a part of the cluster cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A namespace cannot be made or entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The datastore refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file or program failed.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's reason.
        error: io::Error,
    },
    /// A CNI plugin refused.
    #[error("{0}")]
    Cni(#[from] CniError),
    /// Manifests that are not taken.
    #[error("{0}")]
    Manifest(String),
    /// Anything else that did not happen as it should.
    #[error("{0}")]
    Unexpected(String),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> ClusterError {
    let what = what.into();
    move |error| ClusterError::Io { what, error }
}

/// A node: a network namespace with `eth0` on the bridge.
#[derive(Debug)]
pub struct Node {
    /// Name, `node1`.
    pub name: String,
    /// Its address on the bridge.
    pub address: Ipv4Addr,
    /// Its namespace.
    pub netns: NetNs,
    /// Where probes run.
    pub place: Place,
    /// Its files.
    pub dir: PathBuf,
    agent: Option<Child>,
}

/// A pod: a network namespace that a CNI plugin attached.
#[derive(Debug)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Index of its node.
    pub node: usize,
    /// Container ID.
    pub container_id: String,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Where probes run.
    pub place: Place,
    /// What ADD returned.
    pub result: AddResult,
}

impl Pod {
    /// Its first IPv4 address.
    pub fn ipv4(&self) -> Result<Ipv4Addr, ClusterError> {
        let v4 = self.result.ips.iter().find_map(|ip| match ip.address.addr() {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        });
        v4.ok_or_else(|| {
            ClusterError::Unexpected(format!("pod {}/{} has no IPv4 address", self.namespace, self.name))
        })
    }

    /// Its interface on the node.
    pub fn host_interface(&self) -> &str {
        self.result.interfaces.first().map_or("", |interface| interface.name.as_str())
    }
}

/// How a pod is to be.
#[derive(Debug, Clone, Default)]
pub struct PodWish<'a> {
    /// Namespace; `default` when empty.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// Index of the node.
    pub node: usize,
    /// Labels.
    pub labels: &'a [(&'a str, &'a str)],
    /// Annotations.
    pub annotations: &'a [(&'a str, &'a str)],
}

/// The whole cluster.
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The pods, by namespace and name.
    pub pods: BTreeMap<(String, String), Pod>,
    /// The datastore.
    pub store: Arc<dyn Backend>,
    runtime: tokio::runtime::Runtime,
    /// The etcd server; ends with the lab.
    _etcd: Option<Child>,
    /// Milliseconds that each ADD took.
    pub add_times: Vec<f64>,
    /// Milliseconds that each DEL took.
    pub del_times: Vec<f64>,
    containers: u64,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("nodes", &self.nodes)
            .field("pods", &self.pods.len())
            .finish_non_exhaustive()
    }
}

/// The directory of the datastore.
fn datastore_dir(datastore: Datastore) -> PathBuf {
    Path::new(ROOT).join("datastore").join(match datastore {
        Datastore::Embedded => "calico.db",
        Datastore::Etcd => "etcd",
    })
}

/// Which datastore the lab has, and where it is: a file, or an URL that all nodes reach.
pub fn datastore() -> (Datastore, String) {
    // The programs that `exec` starts find out by looking, like this one.
    if datastore_dir(Datastore::Etcd).exists() {
        let [a, b, c, _] = SUBNET.octets();
        (Datastore::Etcd, format!("http://{a}.{b}.{c}.1:2379"))
    } else {
        (Datastore::Embedded, datastore_dir(Datastore::Embedded).display().to_string())
    }
}

/// Starts etcd. Its address on the bridge will come later.
fn start_etcd() -> Result<Child, ClusterError> {
    let mut netlink = Rtnetlink::open()?;
    let lo = netlink.link("lo")?;
    netlink.change_link(lo.index, &LinkChange::Up)?;
    let dir = datastore_dir(Datastore::Etcd);
    let log =
        std::fs::File::create(Path::new(ROOT).join("etcd.log")).map_err(io_error("cannot make a log"))?;
    let outputs = log.try_clone().map_err(io_error("cannot duplicate a descriptor"))?;
    std::fs::create_dir_all(&dir).map_err(io_error(format!("cannot make {}", dir.display())))?;
    let (_, advertised) = datastore();
    Command::new("etcd")
        .arg("--data-dir")
        .arg(&dir)
        .args(["--listen-client-urls", "http://0.0.0.0:2379", "--advertise-client-urls", &advertised])
        .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
        .stdin(Stdio::null())
        .stdout(outputs)
        .stderr(log)
        .spawn()
        .map_err(io_error("cannot start etcd (Debian: apt-get install etcd-server)"))
}

impl Cluster {
    /// Opens the datastore; there are no nodes yet.
    pub fn open(datastore: Datastore) -> Result<Self, ClusterError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(io_error("cannot start the runtime"))?;
        let (place, etcd) = match datastore {
            Datastore::Embedded => (self::datastore().1, None),
            Datastore::Etcd => ("http://127.0.0.1:2379".to_owned(), Some(start_etcd()?)),
        };
        let store =
            calico_datastore::open_backend(&DatastoreConfig::from_place(&place, |_| None)?, Role::Tool)?;
        if etcd.is_some() {
            runtime.block_on(reachable(&store))?;
        }
        Ok(Self {
            nodes: Vec::new(),
            pods: BTreeMap::new(),
            store,
            runtime,
            _etcd: etcd,
            add_times: Vec::new(),
            del_times: Vec::new(),
            containers: 0,
        })
    }

    /// Prepares the datastore as the first agent of a cluster would.
    pub fn initialise(&self) -> Result<(), ClusterError> {
        Ok(self.runtime.block_on(crate::ctl::initialise::initialise(&self.store))?)
    }

    /// Applies manifests with the code of `calicoctl apply -f`. Returns what was written and when the last write was
    /// done.
    pub fn apply(&self, file: &str, text: &str) -> Result<(Vec<String>, Instant), ClusterError> {
        self.perform(file, text, apply::Action::Apply)
    }

    /// Deletes what the manifests name, with the code of `calicoctl delete -f`.
    pub fn delete(&self, file: &str, text: &str) -> Result<(Vec<String>, Instant), ClusterError> {
        self.perform(file, text, apply::Action::Delete)
    }

    fn perform(
        &self,
        file: &str,
        text: &str,
        action: apply::Action,
    ) -> Result<(Vec<String>, Instant), ClusterError> {
        let objects = input::read_bytes(file, text.as_bytes(), &input::Options::default())
            .map_err(|errors| ClusterError::Manifest(lines(errors.iter())))?;
        let outcomes = self.runtime.block_on(apply::perform(&self.store, &objects, action));
        let written = Instant::now();
        let failures: Vec<String> = outcomes
            .iter()
            .filter_map(|outcome| outcome.result.as_ref().err().map(|e| format!("{}: {e}", outcome.id)))
            .collect();
        if !failures.is_empty() {
            return Err(ClusterError::Manifest(failures.join("\n")));
        }
        Ok((outcomes.iter().map(|outcome| outcome.id.to_string()).collect(), written))
    }

    /// Makes the bridge that stands for the network between the nodes.
    pub fn build_fabric(&self) -> Result<(), ClusterError> {
        let mut netlink = Rtnetlink::open()?;
        netlink.create_link(&NewLink { up: true, ..NewLink::new("fabric", NewKind::Bridge) })?;
        let bridge = netlink.link("fabric")?;
        netlink.add_address(&Address::new(bridge.index, on_subnet(1)?))?;
        let lo = netlink.link("lo")?;
        netlink.change_link(lo.index, &LinkChange::Up)?;
        Ok(())
    }

    /// Adds a node to the bridge. Its agent does not run yet.
    pub fn add_node(&mut self) -> Result<(), ClusterError> {
        let number = self.nodes.len() + 1;
        let name = format!("node{number}");
        let net = on_subnet(10 + u8::try_from(number).unwrap_or(u8::MAX))?;
        let netns = NetNs::create_pinned(&Path::new(ROOT).join("netns"), &name)?;
        let mut fabric = Rtnetlink::open()?;
        let port = format!("{name}-port");
        let peer = Peer { name: "eth0", namespace: Some(std::os::fd::AsFd::as_fd(&netns)), mac: None };
        fabric.create_link(&NewLink { up: true, ..NewLink::new(&port, NewKind::Veth(peer)) })?;
        let (bridge, link) = (fabric.link("fabric")?, fabric.link(&port)?);
        fabric.change_link(link.index, &LinkChange::Master(Some(bridge.index)))?;
        netns.run(|| -> Result<(), ClusterError> {
            let mut inside = Rtnetlink::open()?;
            for name in ["lo", "eth0"] {
                let link = inside.link(name)?;
                inside.change_link(link.index, &LinkChange::Up)?;
            }
            let eth0 = inside.link("eth0")?;
            inside.add_address(&Address::new(eth0.index, net))?;
            Ok(())
        })??;
        let dir = Path::new(ROOT).join("nodes").join(&name);
        std::fs::create_dir_all(&dir).map_err(io_error(format!("cannot make {}", dir.display())))?;
        let IpAddr::V4(address) = net.addr() else {
            return Err(ClusterError::Unexpected(format!("{net} is not IPv4")));
        };
        let place = Place::new(clone_fd(&netns)?);
        self.nodes.push(Node { name, address, netns, place, dir, agent: None });
        Ok(())
    }

    /// Starts the agent of a node.
    pub fn start_agent(&mut self, node: usize) -> Result<(), ClusterError> {
        let node =
            self.nodes.get_mut(node).ok_or_else(|| ClusterError::Unexpected(format!("no node {node}")))?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(node.dir.join("calico-node.log"))
            .map_err(io_error("cannot open the agent's log"))?;
        let mut command = node.command(&program("calico-node"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(io_error("cannot start calico-node"))?;
        node.agent = Some(child);
        Ok(())
    }

    /// Attaches a pod with the CNI plugin, as a container runtime does.
    pub fn add_pod(&mut self, wish: &PodWish<'_>) -> Result<&Pod, ClusterError> {
        let namespace = if wish.namespace.is_empty() { "default" } else { wish.namespace };
        let manifest = pod_manifest(namespace, wish, &self.nodes);
        self.apply("pod.json", &manifest)?;
        self.containers += 1;
        let container_id = format!("{:064x}", 0x00c0_ffee_0000_0000_u64 + self.containers);
        let name = format!("pod-{namespace}-{}", wish.name);
        let dir = Path::new(ROOT).join("netns");
        let netns = NetNs::create_pinned(&dir, &name)?;
        netns.run(|| -> Result<(), NetlinkError> {
            let mut inside = Rtnetlink::open()?;
            let lo = inside.link("lo")?;
            inside.change_link(lo.index, &LinkChange::Up)
        })??;
        let place = Place::new(clone_fd(&netns)?);
        let mut pod = Pod {
            namespace: namespace.to_owned(),
            name: wish.name.to_owned(),
            node: wish.node,
            container_id,
            netns: dir.join(&name),
            place,
            result: AddResult::default(),
        };
        let begun = Instant::now();
        let answer = self.cni("ADD", &pod);
        let took = begun.elapsed();
        match answer {
            Ok(text) => pod.result = AddResult::from_json(&text)?,
            Err(error) => {
                let _ = NetNs::delete_pinned(&dir, &name);
                return Err(error);
            }
        }
        self.add_times.push(took.as_secs_f64() * 1000.0);
        let key = (pod.namespace.clone(), pod.name.clone());
        Ok(self.pods.entry(key).insert_entry(pod).into_mut())
    }

    /// Detaches a pod and forgets it.
    pub fn delete_pod(&mut self, namespace: &str, name: &str) -> Result<(), ClusterError> {
        let Some(pod) = self.pods.remove(&(namespace.to_owned(), name.to_owned())) else {
            return Err(ClusterError::Unexpected(format!("there is no pod {namespace}/{name}")));
        };
        let begun = Instant::now();
        self.cni("DEL", &pod)?;
        self.del_times.push(begun.elapsed().as_secs_f64() * 1000.0);
        let dir = Path::new(ROOT).join("netns");
        NetNs::delete_pinned(&dir, &format!("pod-{namespace}-{name}"))?;
        let manifest =
            format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\n");
        self.delete("pod.yaml", &manifest)?;
        Ok(())
    }

    /// Runs the CNI plugin of a node with a command.
    pub fn cni(&self, verb: &str, pod: &Pod) -> Result<Vec<u8>, ClusterError> {
        let node = self.node(pod.node)?;
        let conf = node.network_configuration()?;
        let mut command = node.command(&program("calico"))?;
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &pod.container_id)
            .env("CNI_NETNS", &pod.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", Path::new(ROOT).join("bin"))
            .env(
                "CNI_ARGS",
                format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={}", pod.namespace, pod.name),
            );
        run(command, conf.as_bytes())
    }

    /// A pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<&Pod, ClusterError> {
        self.pods
            .get(&(namespace.to_owned(), name.to_owned()))
            .ok_or_else(|| ClusterError::Unexpected(format!("there is no pod {namespace}/{name}")))
    }

    /// A node.
    pub fn node(&self, node: usize) -> Result<&Node, ClusterError> {
        self.nodes.get(node).ok_or_else(|| ClusterError::Unexpected(format!("there is no node {node}")))
    }

    /// Kills the agent of a node without warning.
    pub fn kill_agent(&mut self, node: usize) -> Result<(), ClusterError> {
        let node =
            self.nodes.get_mut(node).ok_or_else(|| ClusterError::Unexpected(format!("no node {node}")))?;
        if let Some(mut agent) = node.agent.take() {
            agent.kill().map_err(io_error("cannot kill calico-node"))?;
            agent.wait().map_err(io_error("lost calico-node"))?;
        }
        Ok(())
    }

    /// Whether the agent of a node has ended by itself, and how.
    pub fn agent_ended(&mut self, node: usize) -> Option<String> {
        let agent = self.nodes.get_mut(node)?.agent.as_mut()?;
        agent.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// Every key of the datastore with its text, for the checks.
    pub fn stored(&self, prefix: &str) -> Result<Vec<(String, String)>, ClusterError> {
        let list = self.runtime.block_on(self.store.list(&calico_datastore::KeyRanges::prefix(prefix)))?;
        Ok(list
            .entries
            .iter()
            .map(|entry| (entry.key.clone(), String::from_utf8_lossy(&entry.value).into_owned()))
            .collect())
    }
}

impl Node {
    /// A command that runs in this node, as its programs do.
    pub fn command(&self, program: &Path) -> Result<Command, ClusterError> {
        let mut command = Command::new(program);
        for (name, value) in self.environment() {
            command.env(name, value);
        }
        process::run_in_network_namespace(&mut command, clone_fd(&self.netns)?);
        Ok(command)
    }

    /// What tells the programs of this node where they are.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        environment(Some(&self.name))
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("node.sock")
    }

    /// Asks the agent how it is.
    pub fn status(&self) -> Result<NodeStatus, ClusterError> {
        let unreachable = |e: crate::node::protocol::ClientError| ClusterError::Unexpected(e.to_string());
        let mut client = Client::connect(&self.socket()).map_err(unreachable)?;
        match client.ask(&Request::Status, Duration::from_secs(5)).map_err(unreachable)? {
            Response::Status(status) => Ok(*status),
            other => Err(ClusterError::Unexpected(format!("the agent answered {other:?}"))),
        }
    }

    /// Its IPv4 routes.
    pub fn routes(&self) -> Result<Vec<Route>, ClusterError> {
        Ok(self.netns.run(|| Rtnetlink::open()?.routes(&RouteFilter::main(Family::V4)))??)
    }

    /// Its IPv4 routes in the form of `ip route`.
    pub fn route_table(&self) -> Result<String, ClusterError> {
        let table = self.netns.run(|| -> Result<String, NetlinkError> {
            let mut netlink = Rtnetlink::open()?;
            let (routes, links) = (netlink.routes(&RouteFilter::main(Family::V4))?, netlink.links()?);
            Ok(route_text::table(&routes, &links))
        })??;
        Ok(table)
    }

    /// The plugin's part of the conflist, as a runtime hands it to the plugin.
    pub(super) fn network_configuration(&self) -> Result<String, ClusterError> {
        let unreadable = |e: serde_json::Error| ClusterError::Unexpected(format!("conflist: {e}"));
        let list: serde_json::Value = serde_json::from_str(CONFLIST).map_err(unreadable)?;
        let mut plugin = list["plugins"][0].clone();
        plugin["name"] = list["name"].clone();
        plugin["cniVersion"] = list["cniVersion"].clone();
        plugin["nodename"] = self.name.clone().into();
        match datastore() {
            (Datastore::Embedded, path) => plugin["datastore_path"] = path.into(),
            (Datastore::Etcd, endpoint) => {
                plugin["datastore_type"] = "etcdv3".into();
                plugin["etcd_endpoints"] = endpoint.into();
            }
        }
        plugin["agent_socket"] = self.socket().display().to_string().into();
        plugin["log_file_path"] = self.dir.join("cni.log").display().to_string().into();
        plugin["ipam_lock_file"] = self.dir.join("ipam.lock").display().to_string().into();
        serde_json::to_string(&plugin).map_err(unreadable)
    }
}

/// What tells the programs of a node (or of none) where they are.
pub fn environment(node: Option<&str>) -> Vec<(&'static str, String)> {
    let mut variables = match datastore() {
        (Datastore::Embedded, path) => {
            vec![("DATASTORE_TYPE", "sqlite".to_owned()), ("CALICO_DATASTORE_PATH", path)]
        }
        (Datastore::Etcd, endpoint) => {
            vec![("DATASTORE_TYPE", "etcdv3".to_owned()), ("ETCD_ENDPOINTS", endpoint)]
        }
    };
    if let Some(node) = node {
        let dir = Path::new(ROOT).join("nodes").join(node);
        variables.push(("NODENAME", node.to_owned()));
        variables.push(("CALICO_NODENAME_FILE", dir.join("nodename").display().to_string()));
        variables.push(("CALICO_NODE_SOCKET", dir.join("node.sock").display().to_string()));
        variables.push((crate::cni::journal::VARIABLE, dir.join("cni-journal").display().to_string()));
    }
    variables
}

/// Waits until the store answers.
async fn reachable(store: &Arc<dyn Backend>) -> Result<(), StoreError> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match store.info().await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline || !error.is_retryable() => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Blocks that BGP must have brought to a node: routes of other nodes' blocks through their addresses.
pub fn bgp_routes(routes: &[Route]) -> Vec<(IpNet, Option<IpAddr>)> {
    routes
        .iter()
        .filter(|route| route.protocol == RouteProtocol::BIRD)
        .map(|route| (route.dst, route.nexthops.first().and_then(|hop| hop.via)))
        .collect()
}

fn on_subnet(host: u8) -> Result<IpNet, ClusterError> {
    let [a, b, c, _] = SUBNET.octets();
    let net = Ipv4Net::new(Ipv4Addr::new(a, b, c, host), 24);
    net.map(IpNet::V4).map_err(|e| ClusterError::Unexpected(e.to_string()))
}

fn clone_fd(netns: &NetNs) -> Result<std::os::fd::OwnedFd, ClusterError> {
    std::os::fd::AsFd::as_fd(netns).try_clone_to_owned().map_err(io_error("cannot duplicate a descriptor"))
}

pub(super) fn pod_manifest(namespace: &str, wish: &PodWish<'_>, nodes: &[Node]) -> String {
    let map = |pairs: &[(&str, &str)]| -> serde_json::Value {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), serde_json::Value::from(*value))).collect()
    };
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": wish.name,
            "namespace": namespace,
            "labels": map(wish.labels),
            "annotations": map(wish.annotations),
        },
        "spec": {
            "nodeName": nodes.get(wish.node).map(|node| node.name.clone()),
            "serviceAccountName": "default",
            "containers": [{"name": "busybox", "image": "busybox"}],
        },
    })
    .to_string()
}

/// Runs a program with `input` and returns what it printed; a CNI error object is returned as an error.
fn run(mut command: Command, input: &[u8]) -> Result<Vec<u8>, ClusterError> {
    use std::io::Write as _;
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io_error(format!("cannot start {name}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(io_error(format!("lost {name}")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    match serde_json::from_slice::<CniError>(&output.stdout) {
        Ok(error) => Err(error.into()),
        Err(_) => Err(ClusterError::Unexpected(format!(
            "{name} ended with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ))),
    }
}

fn lines<T: std::fmt::Display>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join("\n")
}
