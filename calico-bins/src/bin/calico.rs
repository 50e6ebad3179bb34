//! The CNI plugin. See [`calico_bins::cni`].

use std::process::ExitCode;

fn main() -> ExitCode {
    calico_bins::cni::plugin::main(calico_bins::cni::plugin::Plugin::Calico)
}
