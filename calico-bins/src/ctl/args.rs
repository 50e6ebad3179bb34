//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::policy::args::{DataplaneCommand, PolicyCommand};

/// Manages Calico objects and asks nodes about their state.
///
/// Without a configuration file the datastore is chosen by the environment: DATASTORE_TYPE (sqlite, etcdv3), for
/// sqlite CALICO_DATASTORE_PATH, for etcdv3 ETCD_ENDPOINTS and the other ETCD_* variables.
#[derive(Debug, Parser)]
#[command(name = "calicoctl", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file; when it exists the environment is not read.
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// File of the embedded store, etcd endpoints, or a configuration file; overrides everything else.
    #[arg(long, global = true, value_name = "PLACE")]
    pub datastore: Option<String>,

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
    /// Write the custom resource definitions that a Kubernetes cluster needs to store Calico objects.
    Crds {
        /// API group: projectcalico.org, or crd.projectcalico.org of clusters with an API server of Calico's own.
        #[arg(long, default_value = "projectcalico.org", value_parser = ["projectcalico.org", "crd.projectcalico.org"])]
        group: String,
        /// Kinds; all when none is named.
        #[arg(value_name = "KIND")]
        kinds: Vec<String>,
    },
    /// Change a part of one object.
    Patch {
        /// Kind, such as ippool or node.
        kind: String,
        /// Name.
        name: String,
        /// The fields to change, in JSON or YAML; `null` removes a field, lists are replaced whole.
        #[arg(short, long, value_name = "TEXT")]
        patch: String,
        /// How to merge; both words mean the same for Calico objects.
        #[arg(short = 't', long = "type", default_value = "strategic", value_parser = ["strategic", "merge"])]
        kind_of_patch: String,
        /// Namespace.
        #[arg(short, long, value_name = "NAMESPACE")]
        namespace: Option<String>,
    },
    /// Set or remove a label of one object.
    Label {
        /// Kind, such as node or pod.
        kind: String,
        /// Name.
        name: String,
        /// `key=value`, or with --remove the key.
        label: String,
        /// Also when the label has another value.
        #[arg(long)]
        overwrite: bool,
        /// Take the label away.
        #[arg(long, conflicts_with = "overwrite")]
        remove: bool,
        /// Namespace.
        #[arg(short, long, value_name = "NAMESPACE")]
        namespace: Option<String>,
    },
    /// Show and correct the assignment of addresses.
    Ipam {
        /// What to do.
        #[command(subcommand)]
        command: IpamCommand,
    },
    /// Lock and move the datastore.
    Datastore {
        /// What to do.
        #[command(subcommand)]
        command: DatastoreCommand,
    },
    /// Explain, try and review policies.
    Policy {
        /// What to do.
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Show what is programmed.
    Dataplane {
        /// What to do.
        #[command(subcommand)]
        command: DataplaneCommand,
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

/// The commands about addresses.
#[derive(Debug, Subcommand)]
pub enum IpamCommand {
    /// Show how many addresses are in use, or who has one.
    Show {
        /// Who has this address.
        #[arg(long, value_name = "ADDRESS")]
        ip: Option<IpAddr>,
        /// With a line for each block.
        #[arg(long)]
        show_blocks: bool,
        /// Addresses that nodes use from the blocks of others.
        #[arg(long)]
        show_borrowed: bool,
        /// The settings.
        #[arg(long)]
        show_configuration: bool,
    },
    /// Give an address back that nobody uses.
    Release {
        /// The address.
        #[arg(long, value_name = "ADDRESS")]
        ip: IpAddr,
    },
    /// Change the settings.
    Configure {
        /// Nodes take addresses from their own blocks only.
        #[arg(long, value_name = "BOOL")]
        strictaffinity: Option<bool>,
        /// Most blocks per node; 0 is the built-in limit.
        #[arg(long, value_name = "NUMBER")]
        max_blocks_per_host: Option<u32>,
        /// Whether KubeVirt machines keep their addresses: Enabled or Disabled.
        #[arg(long, value_name = "SWITCH", value_parser = ["Enabled", "Disabled"])]
        kubevirt_ip_persistence: Option<String>,
        /// Seconds during which a released address is not assigned again.
        #[arg(long, value_name = "SECONDS")]
        ip_cooldown_seconds: Option<u32>,
    },
}

/// The commands about the datastore as a whole.
#[derive(Debug, Subcommand)]
pub enum DatastoreCommand {
    /// Move all content to another datastore.
    Migrate {
        /// The step.
        #[command(subcommand)]
        command: MigrateCommand,
    },
    /// Copy all content from one datastore into another one, which is locked until everything is there.
    ///
    /// A place is the file of an embedded store, etcd endpoints (http://host:port,…; user and TLS files come from
    /// ETCD_* variables), or a configuration file that ends in .cfg, .yaml, .yml or .json.
    Copy {
        /// Place of the source. Lock it first if programs still write there.
        from: String,
        /// Place of the target.
        to: String,
        /// Replace what the target has: what the source does not have is deleted.
        #[arg(long)]
        replace: bool,
    },
}

/// The steps of a migration.
#[derive(Debug, Subcommand)]
pub enum MigrateCommand {
    /// Make all programs wait.
    Lock,
    /// Let all programs go on.
    Unlock,
    /// Write all content to standard output.
    Export,
    /// Read what `export` wrote into an empty datastore.
    Import {
        /// File; `-` is standard input.
        #[arg(short, long = "filename", value_name = "FILE")]
        filename: String,
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
