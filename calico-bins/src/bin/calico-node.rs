//! The node agent, and the installer of the CNI plugins. See [`calico_bins::node`] and
//! [`calico_bins::cni::install`].

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    if let Some(code) = calico_bins::cni::install::main_if_asked() {
        return code;
    }
    calico_bins::node::agent::main(calico_bins::node::settings::Settings::parse())
}
