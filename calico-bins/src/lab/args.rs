//! The command line of `calico-lab`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A whole Calico cluster on one machine, without root and without a container engine.
///
/// Nodes and pods are network namespaces; the programs that run in them are the ones of a real cluster.
/// Without a subcommand the cluster is built, proved step by step with packets, and taken down again.
#[derive(Debug, Parser)]
#[command(name = "calico-lab", version, max_term_width = 100)]
pub struct Cli {
    /// What to do; without it: build, prove, take down.
    #[command(subcommand)]
    pub command: Option<Action>,
    /// Options of the proof.
    #[command(flatten)]
    pub up: Up,
}

/// Options of the proof.
#[derive(Debug, Clone, Args)]
pub struct Up {
    /// Leave the cluster running and print how to enter it.
    #[arg(long)]
    pub keep: bool,
    /// Number of nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=50))]
    pub nodes: u8,
    /// Pods that the step about overflowing blocks puts on one node.
    #[arg(long, default_value_t = 70, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub pods: u16,
    /// What holds the cluster's objects. etcd needs the program of that name, and this one built with --features etcd.
    #[arg(long, value_enum, default_value_t = Datastore::Embedded)]
    pub datastore: Datastore,
    /// Print one JSON object instead of lines.
    #[arg(long)]
    pub json: bool,
    /// Keep the logs of the agents in this directory.
    #[arg(long, value_name = "DIR")]
    pub logs: Option<PathBuf>,
}

/// The datastore of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Datastore {
    /// One SQLite file that all nodes open.
    Embedded,
    /// An etcd server that the nodes reach over the network.
    Etcd,
}

impl std::fmt::Display for Datastore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded",
            Self::Etcd => "etcd",
        })
    }
}

/// A subcommand.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Run a command in a node (`node1`) or pod (`pod/default/busybox01`) of the cluster that was kept.
    Exec {
        /// `node1`, `pod/<namespace>/<name>` or `fabric`.
        place: String,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Take down the cluster that was kept.
    Down,
    /// The inside of the cluster; started by the lab itself.
    #[command(name = "__inside", hide = true)]
    Inside(Up),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn exec_hands_on_dashes() {
        let cli = Cli::parse_from(["calico-lab", "exec", "node1", "--", "calicoctl", "get", "wep", "-A"]);
        match cli.command {
            Some(Action::Exec { place, command }) => {
                assert_eq!(place, "node1");
                assert_eq!(command, ["calicoctl", "get", "wep", "-A"]);
            }
            other => panic!("{other:?}"),
        }
    }
}
