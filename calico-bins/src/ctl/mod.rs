//! The command line for people, `calicoctl`.
//!
//! [`input`] turns files into objects, [`apply`] writes objects (the lab and tests call it as a library), [`get`]
//! reads them back, [`table`] and [`columns`] lay them out. [`run`] is the whole program over a datastore.

pub mod admission;
pub mod apply;
pub mod args;
pub mod check;
pub mod columns;
pub mod crds;
pub mod edit;
pub mod get;
pub mod initialise;
pub mod input;
pub mod ipam;
pub mod locate;
pub mod node;
pub mod object;
pub mod policy;
mod run;
mod run_ipam;
pub mod table;

pub use run::{Streams, run};

use std::process::ExitCode;

use clap::Parser as _;

/// Runs `calicoctl` with the arguments of this process.
pub fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no error; everything else exits with 1, never 2.
            let code = u8::from(error.use_stderr());
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    ExitCode::from(run(&cli, &mut Streams { out: &mut out, err: &mut err }))
}
