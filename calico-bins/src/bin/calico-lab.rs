//! A whole cluster on one machine. See [`calico_bins::lab`].

use std::process::ExitCode;

fn main() -> ExitCode {
    calico_bins::lab::main()
}
