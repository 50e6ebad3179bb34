//! The command line of `calicoctl policy` and `calicoctl dataplane`.

use clap::{Args, Subcommand, ValueEnum};

use crate::ctl::args::Files;

/// The commands about policy.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Follow a packet through the policy of both its ends.
    ///
    /// Shows every tier, policy and rule that is consulted, the labels behind each answer, and what decides. The
    /// datastore is asked, not the dataplane: this is what the policies mean.
    #[command(after_help = FLOW_HELP)]
    Trace {
        /// The flow.
        #[command(flatten)]
        flow: Flow,
        /// Form of the output.
        #[arg(short, long, default_value = "text", value_name = "FORM")]
        output: TextOrJson,
    },
    /// Say in a few lines why a packet is denied, and which rules would nearly have allowed it.
    ///
    /// Exit code 0 when it is denied, 1 when it is allowed after all.
    #[command(after_help = FLOW_HELP)]
    WhyDenied {
        /// The flow.
        #[command(flatten)]
        flow: Flow,
        /// Form of the output.
        #[arg(short, long, default_value = "text", value_name = "FORM")]
        output: TextOrJson,
    },
    /// Show for whom a verdict would change if files were applied. Nothing is written.
    #[command(after_help = "Exit code 0; with --exit-code 1 when any verdict would change.\n\nExample:\n  \
                            calicoctl policy simulate -f new.yaml")]
    Simulate {
        /// Where the objects come from.
        #[command(flatten)]
        files: Files,
        /// The objects are deleted instead of applied.
        #[arg(long)]
        delete: bool,
        /// Exit with 1 when any verdict would change.
        #[arg(long)]
        exit_code: bool,
        /// Form of the output.
        #[arg(short, long, default_value = "text", value_name = "FORM")]
        output: TextOrJson,
    },
    /// Report what is legal in policies and most likely not meant: shadowed rules, selectors that match nothing, implicit
    /// denies, HTTP rules without a proxy, and more.
    #[command(after_help = "Exit code 1 when there is an error; with --strict also for warnings.")]
    Lint {
        /// Files with objects that are reviewed as if they were applied; `-` is standard input. May be repeated.
        #[arg(short, long = "filename", value_name = "FILE")]
        filename: Vec<String>,
        /// Namespace of objects in files that name none.
        #[arg(short, long, value_name = "NAMESPACE")]
        namespace: Option<String>,
        /// Warnings fail, too.
        #[arg(long)]
        strict: bool,
        /// Form of the output.
        #[arg(short, long, default_value = "text", value_name = "FORM")]
        output: TextOrJson,
    },
    /// Show who reaches whom with what. Endpoints that no policy tells apart are one row.
    #[command(after_help = "Example:\n  calicoctl policy matrix -o svg > matrix.svg")]
    Matrix {
        /// Try only this traffic, such as 443/tcp or icmp; may be repeated. Without it every port that a rule, an endpoint
        /// or a service names, one that nothing names, and ping.
        #[arg(long, value_name = "TRAFFIC")]
        probe: Vec<String>,
        /// Files with objects that are laid over the datastore. May be repeated.
        #[arg(short, long = "filename", value_name = "FILE")]
        filename: Vec<String>,
        /// Namespace of objects in files that name none.
        #[arg(short, long, value_name = "NAMESPACE")]
        namespace: Option<String>,
        /// Form of the output.
        #[arg(short, long, default_value = "text", value_name = "FORM")]
        output: Picture,
    },
    /// Show how often each rule matched on this machine.
    ///
    /// The counters are read from the kernel, which has them while calico-node runs with FELIX_POLICYRULECOUNTERS=true.
    /// The packets of established connections do not meet policy and are not counted.
    Stats {
        /// Only rules that matched.
        #[arg(long)]
        nonzero: bool,
        /// Only policies whose text id (such as np/prod/db) contains this.
        #[arg(long, value_name = "TEXT")]
        policy: Option<String>,
        /// Form of the output.
        #[arg(short, long, default_value = "text", value_name = "FORM")]
        output: TextOrJson,
    },
}

/// The commands about the dataplane.
#[derive(Debug, Subcommand)]
pub enum DataplaneCommand {
    /// Show the ruleset of this machine, or the one that a node's agent makes of the datastore.
    ///
    /// The text is a script that `nft -f` accepts.
    #[command(
        after_help = "Examples:\n  calicoctl dataplane show\n  calicoctl dataplane show --node node1 | nft -c -f -"
    )]
    Show {
        /// Compile what the datastore says for this node, instead of reading the kernel of this machine. Parameters that
        /// only the node's own environment has are not known.
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// Form of the output.
        #[arg(long, default_value = "nft", value_name = "FORM")]
        format: RulesetFormat,
    },
}

const FLOW_HELP: &str = "\
A pod is namespace/name; an address stands for whoever has it; an IPv6 address with a port is put in brackets.
The traffic is port/protocol (5432/tcp), a named port (http/tcp), a port alone (TCP), or icmp.

Examples:
  calicoctl policy trace --from shop/web --to shop/db:5432/tcp
  calicoctl policy trace --from 192.0.2.7 --to shop/web:http/tcp
  calicoctl policy why-denied --from shop/web --to '[fd00::5]:53/udp'";

/// A flow to ask about.
#[derive(Debug, Args)]
pub struct Flow {
    /// Who sends: namespace/pod or an address, with :port when the source port matters.
    #[arg(long, value_name = "FROM")]
    pub from: String,
    /// Who receives, and what: namespace/pod:port/protocol or address:port/protocol.
    #[arg(long, value_name = "TO")]
    pub to: String,
    /// IP version, where both ends have both; without it 4.
    #[arg(long, value_name = "VERSION", value_parser = clap::builder::PossibleValuesParser::new(["4", "6"]))]
    pub ip_version: Option<String>,
}

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TextOrJson {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Forms of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Picture {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// A picture.
    Svg,
}

/// Forms of a ruleset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RulesetFormat {
    /// A script for `nft -f`.
    Nft,
}
