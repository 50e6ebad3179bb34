//! The node agent. See [`calico_bins::node`].

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    calico_bins::node::agent::main(calico_bins::node::settings::Settings::parse())
}
