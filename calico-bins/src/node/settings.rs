//! The command line and environment of `calico-node`.

use std::path::PathBuf;

use clap::Parser;

use super::autodetect::Method;
use super::protocol::{DEFAULT_SOCKET, SOCKET_VARIABLE};

/// The node agent of Calico: policy, routes, BGP and the CNI service of one node.
///
/// Parameters of the dataplane come from FelixConfiguration resources, the file named by --felix-config, and FELIX_*
/// variables, the last winning. Which datastore is used is told by DATASTORE_TYPE, CALICO_DATASTORE_PATH or ETCD_*.
#[derive(Debug, Clone, Parser)]
#[command(name = "calico-node", version, max_term_width = 100)]
pub struct Settings {
    /// Name of this node. Without it: the nodename file, then the host's own name in lower case.
    #[arg(long, env = "NODENAME")]
    pub nodename: Option<String>,
    /// File that the node's name is written to, for the CNI plugins.
    #[arg(long, env = "CALICO_NODENAME_FILE", default_value = "/var/lib/calico/nodename")]
    pub nodename_file: PathBuf,
    /// IPv4 address of this node with the length of its subnet; `autodetect` finds it, `none` keeps what is stored.
    #[arg(long, env = "IP", default_value = "autodetect")]
    pub ip: String,
    /// IPv6 address of this node; `autodetect` finds it, `none` keeps what is stored.
    #[arg(long, env = "IP6", default_value = "none")]
    pub ip6: String,
    /// How to find the IPv4 address: first-found, interface=…, skip-interface=…, cidr=….
    #[arg(long, env = "IP_AUTODETECTION_METHOD", default_value = "first-found")]
    pub ip_autodetection_method: Method,
    /// How to find the IPv6 address.
    #[arg(long, env = "IP6_AUTODETECTION_METHOD", default_value = "first-found")]
    pub ip6_autodetection_method: Method,
    /// AS number of this node; without it the stored or the global one.
    #[arg(long = "as", env = "AS", value_name = "NUMBER")]
    pub as_number: Option<String>,
    /// Which routing runs here: `bird` (the built-in BGP speaker), `vxlan` or `none`.
    #[arg(long, env = "CALICO_NETWORKING_BACKEND", default_value = "bird")]
    pub networking_backend: String,
    /// Unix socket for the CNI plugins and `calicoctl node status`.
    #[arg(long, env = SOCKET_VARIABLE, default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Parameters in the form of Felix's configuration file.
    #[arg(long, env = "FELIX_CONFIG", default_value = "/etc/calico/felix.cfg")]
    pub felix_config: PathBuf,
    /// Fan-out servers (calico-typha) as host:port, in the order to try; objects are then read from them instead of
    /// from the datastore. Also told by FELIX_TYPHAADDR, with TLS by FELIX_TYPHAKEYFILE, …CERTFILE, …CAFILE and …CN
    /// or …URISAN.
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT")]
    pub peers: Vec<String>,
    /// Log lines as JSON.
    #[arg(long, env = "CALICO_LOG_JSON")]
    pub log_json: bool,
    /// What to log: a level, or directives such as info,calico_bgp=debug.
    #[arg(long, env = "CALICO_LOG", default_value = "info")]
    pub log: String,
}

impl Settings {
    /// The node's name.
    pub fn node_name(&self) -> String {
        let named = self.nodename.as_deref().map(str::trim).filter(|name| !name.is_empty());
        let stored = || std::fs::read_to_string(&self.nodename_file).ok().map(|text| text.trim().to_owned());
        let host = || rustix::system::uname().nodename().to_string_lossy().trim().to_lowercase();
        named.map(str::to_owned).or_else(|| stored().filter(|name| !name.is_empty())).unwrap_or_else(host)
    }

    /// Whether the BGP speaker runs.
    pub fn bgp(&self) -> bool {
        !matches!(self.networking_backend.as_str(), "none" | "vxlan")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Settings::command().debug_assert();
    }

    #[test]
    fn a_given_name_wins_and_is_trimmed() {
        let settings = Settings::parse_from(["calico-node", "--nodename", " node1 "]);
        assert_eq!(settings.node_name(), "node1");
        assert!(settings.bgp());
    }
}
