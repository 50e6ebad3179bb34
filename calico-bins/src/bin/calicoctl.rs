//! The command line for people. See [`calico_bins::ctl`].

use std::process::ExitCode;

use calico_bins::ctl::args::Cli;
use calico_bins::ctl::{Streams, run};
use clap::Parser as _;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
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
