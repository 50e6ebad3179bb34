//! The CNI IPAM plugin. See [`calico_bins::cni::ipam`].

use std::process::ExitCode;

fn main() -> ExitCode {
    calico_bins::cni::plugin::main(calico_bins::cni::plugin::Plugin::CalicoIpam)
}
