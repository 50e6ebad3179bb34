//! Log lines of the long-running programs: on standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

/// Starts logging. `filter` is a level, or directives such as `info,calico_bgp=debug`; one that cannot be read means
/// `info`.
pub(crate) fn start(filter: &str, json: bool) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let started = if json {
        tracing::subscriber::set_global_default(builder.json().finish())
    } else {
        tracing::subscriber::set_global_default(builder.finish())
    };
    if let Err(error) = started {
        tracing::warn!(%error, "logging was started before");
    }
}
