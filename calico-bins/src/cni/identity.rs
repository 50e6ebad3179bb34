//! Who is attached: names of node, workload, endpoint, host interface and IPAM handle.

use std::path::Path;

use calico_model::{WorkloadEndpointSpec, names};
use calico_policy::changes::WorkloadEndpointId;

use super::conf::NetConf;
use super::env::Env;
use super::error::{CniError, code};

/// Where the node's name is when the configuration does not say otherwise.
const NODENAME_FILE: &str = "/var/lib/calico/nodename";

/// The names of one attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of this node.
    pub node: String,
    /// `k8s`, or `cni` when the runtime names no pod.
    pub orchestrator: &'static str,
    /// Namespace of the pod; `default` outside Kubernetes.
    pub namespace: String,
    /// Name of the pod; empty outside Kubernetes.
    pub pod: String,
    /// Container ID.
    pub container_id: String,
    /// Interface inside the pod.
    pub endpoint: String,
    /// Interface on the host.
    pub host_interface: String,
    /// Handle that the addresses are assigned under.
    pub handle: String,
}

impl Identity {
    /// The names of the attachment that `env` and `conf` speak of. `interface_prefix` is the first prefix of the
    /// agent's configuration, normally `cali`.
    pub fn new(env: &Env, conf: &NetConf, node: String, interface_prefix: &str) -> Self {
        let pod = match (&env.args.namespace, &env.args.pod) {
            (Some(namespace), Some(pod)) => Some((namespace.clone(), pod.clone())),
            _ => None,
        };
        Self::of(&conf.name, &env.container_id, &env.ifname, pod, node, interface_prefix)
    }

    /// The names of the attachment of `container_id` to `network`. `pod` is namespace and name where there are pods.
    pub fn of(
        network: &str,
        container_id: &str,
        ifname: &str,
        pod: Option<(String, String)>,
        node: String,
        interface_prefix: &str,
    ) -> Self {
        let handle = format!("{network}.{container_id}");
        let host_interface = match &pod {
            Some((namespace, pod)) => kubernetes_interface(interface_prefix, namespace, pod, ifname),
            None => plain_interface(interface_prefix, container_id, ifname),
        };
        let (orchestrator, (namespace, pod)) = match pod {
            Some(pod) => ("k8s", pod),
            None => ("cni", ("default".to_owned(), String::new())),
        };
        Self {
            node,
            orchestrator,
            namespace,
            pod,
            container_id: container_id.to_owned(),
            endpoint: ifname.to_owned(),
            host_interface,
            handle,
        }
    }

    /// The part of a WorkloadEndpoint that names it.
    pub fn names(&self) -> WorkloadEndpointSpec {
        WorkloadEndpointSpec {
            orchestrator: self.orchestrator.to_owned(),
            node: self.node.clone(),
            container_id: self.container_id.clone(),
            pod: self.pod.clone(),
            endpoint: self.endpoint.clone(),
            ..WorkloadEndpointSpec::default()
        }
    }

    /// Name of the WorkloadEndpoint resource.
    pub fn endpoint_name(&self) -> Result<String, CniError> {
        names::workload_endpoint_name(&self.names()).map_err(|e| CniError::generic(e.to_string()))
    }

    /// Identity of the endpoint in the dataplane.
    pub fn dataplane_id(&self) -> WorkloadEndpointId {
        let workload = if self.orchestrator == "k8s" {
            format!("{}/{}", self.namespace, self.pod)
        } else {
            self.container_id.clone()
        };
        WorkloadEndpointId {
            orchestrator: self.orchestrator.into(),
            workload: workload.into(),
            endpoint: self.endpoint.as_str().into(),
        }
    }

    /// The second handle that a release tries: what older releases assigned under.
    pub fn workload_handle(&self) -> String {
        if self.orchestrator == "k8s" {
            format!("{}.{}", self.namespace, self.pod)
        } else {
            self.container_id.clone()
        }
    }
}

/// The name that Calico gives the host side of a pod's `eth0`. Further interfaces of a pod get names of their own.
fn kubernetes_interface(prefix: &str, namespace: &str, pod: &str, ifname: &str) -> String {
    if ifname == "eth0" {
        return names::veth_name(prefix, namespace, pod);
    }
    names::veth_name(prefix, namespace, &format!("{pod}.{ifname}"))
}

/// The name that Calico gives the host side of a container's `eth0`. Further interfaces get names of their own.
fn plain_interface(prefix: &str, container_id: &str, ifname: &str) -> String {
    if ifname == "eth0" {
        let id: String = container_id.chars().take(11).collect();
        return format!("{prefix}{id}");
    }
    names::veth_name(prefix, container_id, ifname)
}

/// The node's name: configuration, file, deprecated `hostname`, then the host's own name in lower case.
pub fn node_name(conf: &NetConf) -> Result<String, CniError> {
    let file = if conf.nodename_file.is_empty() { NODENAME_FILE } else { &conf.nodename_file };
    let configured = conf.nodename.trim();
    if !configured.is_empty() {
        let other = std::fs::read_to_string(file).unwrap_or_default();
        if !other.trim().is_empty() && other.trim() != configured {
            tracing::warn!(configured, agent = other.trim(), "the agent of this node uses another name");
        }
        return Ok(configured.to_owned());
    }
    match std::fs::read_to_string(Path::new(file)) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {
            return Err(CniError::new(code::TRY_AGAIN_LATER, format!("{file} is empty"))
                .details("it holds the node's name once calico-node has started"));
        }
        Err(_) if conf.nodename_file_optional => {}
        Err(e) => {
            return Err(CniError::new(
                code::TRY_AGAIN_LATER,
                format!(
                    "stat {file}: {}: check that the calico/node container is running and has mounted \
                     /var/lib/calico/",
                    if e.kind() == std::io::ErrorKind::NotFound {
                        "no such file or directory".into()
                    } else {
                        e.to_string()
                    }
                ),
            ));
        }
    }
    if !conf.hostname.trim().is_empty() {
        return Ok(conf.hostname.trim().to_owned());
    }
    let uname = rustix::system::uname();
    Ok(uname.nodename().to_string_lossy().trim().to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::super::env::{Args, Command};
    use super::*;

    fn env(namespace: Option<&str>, pod: Option<&str>, ifname: &str) -> Env {
        Env {
            command: Command::Add,
            container_id: "0123456789abcdef".into(),
            netns: "/x".into(),
            ifname: ifname.into(),
            args_text: String::new(),
            args: Args { namespace: namespace.map(Into::into), pod: pod.map(Into::into), ..Args::default() },
            path: Vec::new(),
        }
    }

    fn conf() -> NetConf {
        NetConf { name: "k8s-pod-network".into(), ..NetConf::default() }
    }

    #[test]
    fn names_are_those_of_calico() {
        for (namespace, pod, interface) in
            [("default", "nginx", "calic440f455693"), ("kube-system", "coredns-0", "cali8c346e38bf4")]
        {
            let id =
                Identity::new(&env(Some(namespace), Some(pod), "eth0"), &conf(), "node-1".into(), "cali");
            assert_eq!(id.host_interface, interface);
        }
        let id =
            Identity::new(&env(Some("default"), Some("web-0"), "eth0"), &conf(), "node-1".into(), "cali");
        assert_eq!(id.endpoint_name().unwrap(), "node--1-k8s-web--0-eth0");
        assert_eq!(&*id.dataplane_id().workload, "default/web-0");
        assert_eq!(id.handle, "k8s-pod-network.0123456789abcdef");
        let plain = Identity::new(&env(None, None, "eth0"), &conf(), "n".into(), "cali");
        assert_eq!(plain.host_interface, "cali0123456789a");
        assert_eq!(plain.endpoint_name().unwrap(), "n-cni-0123456789abcdef-eth0");
    }

    #[test]
    fn a_second_interface_of_a_pod_has_a_name_of_its_own() {
        let first = Identity::new(&env(Some("a"), Some("b"), "eth0"), &conf(), "n".into(), "cali");
        let second = Identity::new(&env(Some("a"), Some("b"), "net1"), &conf(), "n".into(), "cali");
        assert_ne!(first.host_interface, second.host_interface);
        assert_eq!(second.host_interface.len(), 15);
        let first = Identity::new(&env(None, None, "eth0"), &conf(), "n".into(), "cali");
        let second = Identity::new(&env(None, None, "eth1"), &conf(), "n".into(), "cali");
        assert_ne!(first.host_interface, second.host_interface);
        assert_eq!(second.host_interface.len(), 15);
    }

    #[test]
    fn the_configured_node_name_wins_and_is_trimmed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nodename");
        let mut conf = NetConf { nodename_file: file.display().to_string(), ..conf() };
        assert_eq!(node_name(&conf).unwrap_err().code, code::TRY_AGAIN_LATER);
        std::fs::write(&file, "node-7\n").unwrap();
        assert_eq!(node_name(&conf).unwrap(), "node-7");
        std::fs::write(&file, "\n").unwrap();
        assert!(node_name(&conf).unwrap_err().msg.contains("is empty"));
        conf.nodename = "node-8".into();
        assert_eq!(node_name(&conf).unwrap(), "node-8");
    }
}
