//! The command line for people. See [`calico_bins::ctl`].

use std::process::ExitCode;

fn main() -> ExitCode {
    calico_bins::ctl::main()
}
