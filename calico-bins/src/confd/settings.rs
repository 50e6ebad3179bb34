//! The command line and environment of `calico-confd`.

use std::path::PathBuf;
use std::time::Duration;

use crate::node::bgp::secrets;
use calico_bgp::mesh::{MeshSettings, RouterId};
use clap::{ArgGroup, Parser, ValueEnum};

/// Which BIRD reads the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bird {
    /// BIRD 2 or 3: one daemon, one file, both families.
    #[value(name = "2")]
    Two,
    /// The 1.6 fork of Calico: `bird.cfg` and `bird6.cfg` for a daemon each.
    #[value(name = "1.6")]
    Fork,
}

/// Writes the configuration of BIRD from Calico's resources.
///
/// A file is replaced at once and only when its text changed; then the reload command runs. Without a configuration
/// file the datastore is chosen by the environment: DATASTORE_TYPE (sqlite, etcdv3), for sqlite CALICO_DATASTORE_PATH.
#[derive(Debug, Clone, Parser)]
#[command(name = "calico-confd", version, max_term_width = 100)]
#[command(group(ArgGroup::new("how").required(true).args(["once", "watch"])))]
pub struct Settings {
    /// Write once and end.
    #[arg(long)]
    pub once: bool,
    /// Follow the datastore.
    #[arg(long)]
    pub watch: bool,
    /// Configuration file of the datastore; when it exists the environment is not read.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of this node.
    #[arg(long, env = "NODENAME")]
    pub nodename: String,
    /// Name of this node in Kubernetes, when it has another one there.
    #[arg(long, env = "CALICO_K8S_NODE_REF")]
    pub kubernetes_node: Option<String>,
    /// Which BIRD reads the files.
    #[arg(long, value_enum, default_value = "2")]
    pub bird: Bird,
    /// Directory of bird.conf (BIRD 2 and 3), or of bird.cfg and bird6.cfg.
    #[arg(long, default_value = "/etc/calico/confd/config", value_name = "DIR")]
    pub directory: PathBuf,
    /// Command that looks at a new file before it replaces the old one; {} stands for its path.
    #[arg(long, value_name = "COMMAND", default_value = "")]
    pub check: String,
    /// Command that makes BIRD read its files again, for example `birdc configure`.
    #[arg(long, value_name = "COMMAND", default_value = "")]
    pub reload: String,
    /// Longest time that a command may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub command_timeout: u64,
    /// Directory of passwords: the file `secret/key` holds the value of that key of that secret.
    #[arg(long, env = secrets::VARIABLE, default_value = secrets::DEFAULT_DIRECTORY, value_name = "DIR")]
    pub secrets: PathBuf,
    /// BGP identifier: empty for the node's IPv4 address, `hash` of its name, or an identifier.
    #[arg(long, env = "CALICO_ROUTER_ID", default_value = "")]
    pub router_id: String,
    /// Range of cluster addresses that replaces serviceClusterIPs.
    #[arg(long, env = "CALICO_ADVERTISE_CLUSTER_IPS", value_name = "CIDR")]
    pub advertise_cluster_ips: Option<ipnet::IpNet>,
    /// What to log.
    #[arg(long, env = "CALICO_LOG", default_value = "info")]
    pub log: String,
}

impl Settings {
    /// What the derivation of sessions is told.
    ///
    /// # Errors
    /// Which setting cannot be read.
    pub fn mesh(&self) -> Result<MeshSettings, String> {
        let mut mesh = MeshSettings::new(&self.nodename);
        if let Some(name) = self.kubernetes_node.as_ref().filter(|name| !name.is_empty()) {
            mesh.kubernetes_node = name.clone();
        }
        mesh.router_id = self.router_id.parse::<RouterId>().map_err(|_| {
            format!("CALICO_ROUTER_ID: {:?} is neither empty, hash nor an IPv4 address", self.router_id)
        })?;
        mesh.advertise_cluster_ips = self.advertise_cluster_ips.map(|net| vec![net]);
        // BIRD finds the routes of workloads in the kernel.
        mesh.workload_routes = false;
        Ok(mesh)
    }

    /// Longest time that a command may take.
    pub const fn timeout(&self) -> Duration {
        Duration::from_secs(self.command_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Settings::command().debug_assert();
        let parse = |arguments: &[&str]| {
            let all = ["calico-confd", "--nodename", "n"].iter().chain(arguments);
            Settings::try_parse_from(all)
        };
        assert!(parse(&["--once", "--bird", "1.6"]).is_ok());
        assert!(parse(&[]).is_err(), "once or watch");
        assert!(parse(&["--once", "--watch"]).is_err());
        let odd = parse(&["--once", "--router-id", "x"]).unwrap();
        assert!(odd.mesh().unwrap_err().contains("CALICO_ROUTER_ID"));
    }
}
