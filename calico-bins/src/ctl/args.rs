//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Manages Calico objects and asks nodes about their state.
///
/// Without a configuration file the datastore is chosen by the environment: DATASTORE_TYPE (sqlite, etcdv3,
/// kubernetes), for sqlite CALICO_DATASTORE_PATH.
#[derive(Debug, Parser)]
#[command(name = "calicoctl", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file; when it exists the environment is not read.
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Datastore file of the embedded store; overrides configuration and environment.
    #[arg(long, global = true, value_name = "FILE")]
    pub datastore: Option<PathBuf>,

    /// Level of the log on standard error: panic, fatal, error, warn, info, debug or trace.
    #[arg(short, long, global = true, default_value = "panic", value_name = "LEVEL")]
    pub log_level: String,

    /// Do not compare the version of this program with that of the cluster.
    #[arg(long, global = true)]
    pub allow_version_mismatch: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create objects that are not there yet.
    Create {
        /// Where the objects come from.
        #[command(flatten)]
        files: Files,
        /// Objects that are there already are no error.
        #[arg(long)]
        skip_exists: bool,
    },
    /// Create objects, or change those that are there.
    Apply {
        /// Where the objects come from.
        #[command(flatten)]
        files: Files,
    },
    /// Change objects that are there.
    Replace {
        /// Where the objects come from.
        #[command(flatten)]
        files: Files,
    },
    /// Delete objects, named in files or on the command line.
    Delete {
        /// Which objects.
        #[command(flatten)]
        target: Target,
        /// Objects that are not there are no error.
        #[arg(short, long)]
        skip_not_exists: bool,
    },
    /// Show objects.
    Get {
        /// Which objects.
        #[command(flatten)]
        target: Target,
        /// Form of the output: ps, wide, yaml, json, name, custom-columns=NAME,HEADING:.path
        #[arg(short, long, default_value = "ps", value_name = "FORM")]
        output: String,
        /// Objects of all namespaces.
        #[arg(short = 'A', long, visible_short_alias = 'a')]
        all_namespaces: bool,
        /// Leave out what only this cluster knows; for objects given by name.
        #[arg(long)]
        export: bool,
    },
    /// Check files without a datastore.
    Validate {
        /// Where the objects come from.
        #[command(flatten)]
        files: Files,
    },
    /// Ask this node.
    Node {
        /// What to ask.
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Write the script that completes commands in a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Show versions of this program and of the cluster.
    Version {
        /// Only that of this program.
        #[arg(long)]
        client: bool,
    },
}

/// The commands about this node.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Show the state of the agent and of its BGP sessions.
    Status {
        /// Socket of the agent.
        #[arg(long, env = "CALICO_NODE_SOCKET", value_name = "PATH")]
        socket: Option<String>,
        /// Form of the output: ps, json or yaml.
        #[arg(short, long, default_value = "ps", value_name = "FORM")]
        output: String,
    },
}

/// Files with objects.
#[derive(Debug, Args)]
pub struct Files {
    /// File or directory with objects in YAML or JSON; `-` is standard input. May be repeated.
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    pub filename: Vec<String>,
    /// Walk directories below directories.
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Files without objects are no error.
    #[arg(long)]
    pub skip_empty: bool,
    /// Namespace of objects that name none.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// Objects in files, or a kind and names.
#[derive(Debug, Args)]
pub struct Target {
    /// Kind, such as ippool, networkpolicy (np), globalnetworkpolicy (gnp), workloadendpoint (wep), node, pod.
    #[arg(required_unless_present = "filename", value_name = "KIND")]
    pub kind: Option<String>,
    /// Names.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// File or directory that names the objects; `-` is standard input. May be repeated.
    #[arg(short, long = "filename", conflicts_with = "kind", value_name = "FILE")]
    pub filename: Vec<String>,
    /// Walk directories below directories.
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Files without objects are no error.
    #[arg(long)]
    pub skip_empty: bool,
    /// Namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}
