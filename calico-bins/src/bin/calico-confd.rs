//! BGP configuration for BIRD. See [`calico_bins::confd`].

use std::process::ExitCode;

fn main() -> ExitCode {
    calico_bins::confd::main()
}
