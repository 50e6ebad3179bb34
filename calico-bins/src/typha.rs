//! `calico-typha`: follows the datastore once and serves many nodes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::Role;
use calico_datastore::config::{DatastoreConfig, Pem};
use calico_datastore::fanout::{FanoutServer, ServerOptions, TlsSettings};
use clap::Parser;
use tokio::net::TcpListener;

use crate::http::{self, Answer};
use crate::logging;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Fan-out of a Calico datastore: one watch on the store, any number of nodes behind it.
///
/// Which datastore is used is told by DATASTORE_TYPE, CALICO_DATASTORE_PATH or ETCD_*. Either all of the TLS
/// settings are given, with at least one name that clients must have, or none.
#[derive(Debug, Clone, Parser)]
#[command(name = "calico-typha", version, max_term_width = 100)]
pub struct Settings {
    /// Address to listen on; all addresses by default.
    #[arg(long, env = "TYPHA_SERVERHOST", default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    pub host: IpAddr,
    /// Port to listen on.
    #[arg(long, env = "TYPHA_SERVERPORT", default_value_t = 5473)]
    pub port: u16,
    /// Private key of the server.
    #[arg(long, env = "TYPHA_SERVERKEYFILE")]
    pub key_file: Option<PathBuf>,
    /// Certificate of the server.
    #[arg(long, env = "TYPHA_SERVERCERTFILE")]
    pub cert_file: Option<PathBuf>,
    /// Authority of the clients' certificates.
    #[arg(long, env = "TYPHA_CAFILE")]
    pub ca_file: Option<PathBuf>,
    /// Common name that clients may have.
    #[arg(long, env = "TYPHA_CLIENTCN")]
    pub client_cn: Option<String>,
    /// URI name that clients may have.
    #[arg(long, env = "TYPHA_CLIENTURISAN")]
    pub client_uri_san: Option<String>,
    /// Clients beyond this number are sent to an alternate.
    #[arg(long, env = "TYPHA_MAXCONNECTIONSUPPERLIMIT", default_value_t = 10_000)]
    pub max_connections: usize,
    /// Other servers as host:port, for clients that are sent away.
    #[arg(long, env = "TYPHA_ALTERNATES", value_delimiter = ',')]
    pub alternates: Vec<String>,
    /// Seconds that a client may lag.
    #[arg(long, env = "TYPHA_SERVERMAXFALLBEHINDSECS", default_value_t = 300)]
    pub max_fall_behind: u64,
    /// Seconds within which updates to one client go out together.
    #[arg(long, env = "TYPHA_SERVERMINBATCHINGAGETHRESHOLDSECS", default_value_t = 0.01)]
    pub min_batching: f64,
    /// Seconds between pings.
    #[arg(long, env = "TYPHA_SERVERPINGINTERVALSECS", default_value_t = 10)]
    pub ping_interval: u64,
    /// Seconds of silence after which a client is given up.
    #[arg(long, env = "TYPHA_SERVERPONGTIMEOUTSECS", default_value_t = 60)]
    pub pong_timeout: u64,
    /// Seconds that clients get to leave at the end.
    #[arg(long, env = "TYPHA_SHUTDOWNTIMEOUTSECS", default_value_t = 300)]
    pub shutdown_timeout: u64,
    /// Port of /liveness, /readiness and /metrics on localhost; 0, the default, serves none.
    #[arg(long, env = "TYPHA_HEALTHPORT", default_value_t = 0)]
    pub health_port: u16,
    /// What to log: a level, or directives such as info,calico_datastore=debug.
    #[arg(long, env = "CALICO_LOG", default_value = "info")]
    pub log: String,
}

impl Settings {
    fn tls(&self) -> Result<Option<TlsSettings>, AnyError> {
        match (&self.key_file, &self.cert_file, &self.ca_file) {
            (None, None, None) => Ok(None),
            (Some(key), Some(cert), Some(ca)) => Ok(Some(TlsSettings {
                cert: Pem::File(cert.clone()),
                key: Pem::File(key.clone()),
                ca: Pem::File(ca.clone()),
                peer_cn: self.client_cn.clone().filter(|name| !name.is_empty()),
                peer_uri: self.client_uri_san.clone().filter(|name| !name.is_empty()),
            })),
            _ => Err("TLS needs a key file, a certificate file and an authority file; set all three or none"
                .into()),
        }
    }

    fn options(&self) -> Result<ServerOptions, AnyError> {
        Ok(ServerOptions {
            tls: self.tls()?,
            max_connections: self.max_connections,
            alternates: self.alternates.clone(),
            max_fall_behind: Duration::from_secs(self.max_fall_behind),
            min_batching: Duration::try_from_secs_f64(self.min_batching)
                .map_err(|error| format!("{} seconds of batching: {error}", self.min_batching))?,
            ping_interval: Duration::from_secs(self.ping_interval.max(1)),
            pong_timeout: Duration::from_secs(self.pong_timeout.max(2)),
            ..ServerOptions::default()
        })
    }
}

/// Serves until it is told to stop.
pub fn main(settings: Settings) -> ExitCode {
    logging::start(&settings.log, false);
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(AnyError::from)
        .and_then(|runtime| runtime.block_on(run(&settings)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "calico-typha stops");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: &Settings) -> Result<(), AnyError> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let config = DatastoreConfig::load(None)?;
    let store = calico_datastore::open(&config, Role::Agent)?;
    let address = SocketAddr::new(settings.host, settings.port);
    let server = Arc::new(FanoutServer::start(store, address, settings.options()?).await?);
    tracing::info!(address = %server.address(), tls = settings.key_file.is_some(), "calico-typha serves");
    let health = match settings.health_port {
        0 => None,
        port => {
            let listener = TcpListener::bind(("localhost", port)).await?;
            let server = Arc::clone(&server);
            Some(tokio::spawn(http::serve(listener, Arc::new(move |path: &str| answer(path, &server)))))
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; clients are sent to other servers");
    if let Some(health) = health {
        health.abort();
    }
    server.shutdown(Duration::from_secs(settings.shutdown_timeout)).await;
    Ok(())
}

fn answer(path: &str, server: &FanoutServer) -> Option<Answer> {
    match path {
        "/liveness" => Some(Answer::ok("alive\n")),
        "/readiness" if server.ready() => Some(Answer::ok("ready\n")),
        "/readiness" => Some(Answer::unavailable("not in sync with the datastore\n")),
        "/metrics" => Some(Answer::ok(server.stats().prometheus())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Settings::command().debug_assert();
    }

    #[test]
    fn half_of_tls_is_refused() {
        let settings = Settings::parse_from(["calico-typha", "--key-file", "/k"]);
        assert!(settings.options().unwrap_err().to_string().contains("all three"));
        let settings = Settings::parse_from(["calico-typha"]);
        assert!(settings.options().unwrap().tls.is_none());
    }
}
