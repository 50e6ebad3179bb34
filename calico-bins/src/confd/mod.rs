//! `calico-confd`: BGP configuration for those who keep BIRD.
//!
//! [`Template`] says for which BIRD; [`Files::write`] puts the text of [`calico_bgp::bird`] where BIRD reads it, and
//! only when it changed; [`follow`] does so for every change of a datastore. An object that makes no sense is named in
//! the log and spoils its own peer.

mod file;
mod follow;
pub mod settings;

use std::process::ExitCode;

use clap::Parser as _;

pub use file::{FileError, Files, Outcome, Template};
pub use follow::{Follower, Rendered, follow};

use settings::Settings;

/// Runs `calico-confd` with the arguments of this process.
pub fn main() -> ExitCode {
    let settings = match Settings::try_parse() {
        Ok(settings) => settings,
        Err(error) => {
            let code = u8::from(error.use_stderr());
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    crate::logging::start(&settings.log, false);
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(run(&settings)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "calico-confd stops");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: &Settings) -> Result<(), String> {
    let config = calico_datastore::config::DatastoreConfig::load(settings.config.as_deref());
    let config = config.map_err(|error| error.to_string())?;
    let store = calico_datastore::open(&config, calico_datastore::Role::Tool).map_err(|e| e.to_string())?;
    let files = Files::new(settings)?;
    let follower = Follower::new(settings.mesh()?, &settings.secrets);
    follow(store, follower, settings.once, |rendered| match files.write(&rendered.config, &rendered.settings) {
        Ok(Outcome::Unchanged) => Ok(()),
        Ok(Outcome::Changed(paths)) => {
            tracing::info!(files = ?paths, peers = rendered.config.peers.len(), "BIRD configuration written");
            Ok(())
        }
        // With `--watch` the next change, or a repaired command, gets another chance.
        Err(error) if settings.once => Err(error.to_string()),
        Err(error) => {
            tracing::error!(%error, "BIRD keeps its last configuration");
            Ok(())
        }
    })
    .await
}
