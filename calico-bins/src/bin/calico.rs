//! The CNI plugins, told apart by the name of the program. See [`calico_bins::cni`].

use std::process::ExitCode;

fn main() -> ExitCode {
    calico_bins::cni::plugin::main_by_name()
}
