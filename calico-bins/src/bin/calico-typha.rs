//! The fan-out between one datastore and many nodes. See [`calico_bins::typha`].

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    calico_bins::typha::main(calico_bins::typha::Settings::parse())
}
