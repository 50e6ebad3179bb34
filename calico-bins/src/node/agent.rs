//! `calico-node`: everything of a node in one process, wired together.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use calico_dataplane::driver::{self, Handle, Input};
use calico_dataplane::manager::EndpointStatus;
use calico_dataplane::netlink::{Family, RouteFilter, RouteProtocol, Rtnetlink};
use calico_dataplane::nft;
use calico_datastore::config::DatastoreConfig;
use calico_datastore::{Datastore, Role, Store};
use calico_model::config::Texts;
use calico_policy::GraphConfig;
use tokio::sync::{mpsc, watch};

use super::bgp::{self, Board};
use super::configuration::{self, Fixed, Place};
use super::endpoints::{EndpointState, EndpointTable};
use super::engine::{Engine, SharedStatus};
use super::health::Health;
use super::metrics;
use super::protocol::{DataplaneStatus, NodeStatus};
use super::settings::Settings;
use super::socket::{self, Services};
use super::upstream::{self, Peers};
use super::{startup, tunnel_addresses};
use crate::{http, logging};

/// Runs the agent until it is told to stop. Whatever it wrote to the kernel stays there.
pub fn main(settings: Settings) -> ExitCode {
    logging::start(&settings.log, settings.log_json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(&settings));
    // Tasks that wait for sockets are of no use any more.
    runtime.shutdown_timeout(Duration::from_millis(200));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error, "calico-node stops");
            ExitCode::FAILURE
        }
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn run(settings: &Settings) -> Result<(), AnyError> {
    let started = Instant::now();
    let node = settings.node_name();
    tracing::info!(%node, version = env!("CARGO_PKG_VERSION"), "calico-node starts");
    let local = configuration::local(settings);
    let peers = Peers::new(&settings.peers, &local, |name| std::env::var(name).ok());
    require_privileges()?;

    let config = DatastoreConfig::load(None)?;
    let backend = calico_datastore::open_backend(&config, Role::Agent)?;
    let store: Arc<dyn Datastore> = Arc::new(Store::new(Arc::clone(&backend)));
    crate::ctl::initialise::initialise(&backend).await?;
    let addresses = startup::addresses(settings, &startup::interfaces()?)?;
    startup::register(&*store, &node, addresses, settings.as_number.as_deref(), settings.bgp()).await?;
    write_nodename(settings, &node);

    let (table_sender, table) = watch::channel(Arc::new(EndpointTable::default()));
    let parameters = configuration::effective(&*store, &node, &local).await?;
    for rejected in &parameters.rejected {
        tracing::warn!(%rejected, "configuration");
    }
    let fixed = Fixed::of(&parameters.config, &node, settings.bgp());
    let effective: Texts =
        parameters.origins.into_iter().map(|(name, (_, text))| (name.to_owned(), text)).collect();
    // What the ruleset does not understand was refused above already.
    let (nft_config, _) = nft::config::Config::from_parameters(&effective);
    let restarting = holds_bgp_routes();
    let mut recorder = Recorder { table: EndpointTable::default(), sender: table_sender };
    let driver = driver::spawn(
        fixed.driver.clone(),
        move || nft::Dataplane::open(nft_config),
        move |output| recorder.record(output),
    )?;
    let driver = Arc::new(driver);

    let board = Board::default();
    let bgp = settings.bgp().then(|| start_bgp(&driver, board.clone(), &node));
    if bgp.is_none() || !restarting {
        driver.send(Input::BgpConverged);
    }
    let sync_status = SharedStatus::default();
    let graph = GraphConfig { node: node.clone(), local_parameters: local, ..GraphConfig::default() };
    let (changed, mut outdated) = mpsc::channel(1);
    let configured = {
        let (node, bgp, fixed) = (node.clone(), settings.bgp(), fixed.clone());
        move |parameters: &Texts| {
            let wanted = Fixed::of_texts(parameters, &node, bgp);
            if wanted != fixed && !restarted_for(&wanted) {
                // One word is enough, and a full channel has it.
                let _ = changed.try_send(wanted);
            }
        }
    };
    let engine =
        Engine::new(graph, Arc::clone(&driver), bgp, restarting, sync_status.clone(), Box::new(configured));
    tokio::spawn(tunnel_addresses::watch(Arc::clone(&store), node.clone()));
    let events = upstream::follow(Arc::clone(&store), &node, &peers)?;
    let engine = std::thread::Builder::new().name("policy".to_owned()).spawn(move || engine.run(events))?;

    let health = Arc::new(Mutex::new(DataplaneStatus::default()));
    tokio::spawn(watch_health(Arc::clone(&driver), Arc::clone(&health)));
    tokio::spawn(crate::cni::journal::replay_forever(Arc::clone(&store), node.clone()));
    let status: Arc<socket::StatusReader> = {
        let (node, table) = (node.clone(), table.clone());
        let speaks_bgp = settings.bgp();
        Arc::new(move || NodeStatus {
            node: node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: started.elapsed().as_secs(),
            resident_kib: resident_kib(),
            datastore: sync_status.word().to_owned(),
            bgp: speaks_bgp.then(|| board.read()),
            dataplane: {
                let table = table.borrow();
                DataplaneStatus {
                    endpoints: table.endpoints.len(),
                    endpoints_up: table.up(),
                    ..health.lock().unwrap_or_else(PoisonError::into_inner).clone()
                }
            },
        })
    };
    let _servers = serve_http(&fixed, &status).await;
    let services = Services { store: backend, status, endpoints: table };
    let bound = socket::bind(&settings.socket)?;
    tracing::info!(socket = %settings.socket.display(), "serving the programs of this node");
    let serving = tokio::spawn(socket::serve(bound, Arc::new(services)));

    let reason = wait_for_end(&engine, &driver, &mut outdated).await;
    serving.abort();
    // The socket's file goes with the task.
    let _ = serving.await;
    match reason {
        End::Signal(name) => {
            tracing::info!(signal = name, "stopping; kernel state stays as it is");
            Ok(())
        }
        End::Outdated(wanted) => Err(start_again(&wanted).into()),
        End::Broken(what) => Err(what.into()),
    }
}

/// Serves health and metrics where the configuration wants them. A place that is taken is told and costs the agent
/// nothing else.
async fn serve_http(fixed: &Fixed, status: &Arc<socket::StatusReader>) -> tokio::task::JoinSet<()> {
    let mut servers = tokio::task::JoinSet::new();
    let mut start = async |what: &str, place: &Option<Place>, respond: Arc<http::Respond>| {
        let Some((host, port)) = place else { return };
        // An empty host means all addresses.
        let host = if host.is_empty() { "::" } else { host.as_str() };
        match tokio::net::TcpListener::bind((host, *port)).await {
            Ok(listener) => {
                tracing::info!(%host, port, "serving {what}");
                servers.spawn(http::serve(listener, respond));
            }
            Err(error) => tracing::error!(%host, port, %error, "cannot serve {what}"),
        }
    };
    let reader = Arc::clone(status);
    let health = move |path: &str| match path {
        "/liveness" => Some(Health::of(&reader()).liveness()),
        "/readiness" => Some(Health::of(&reader()).readiness()),
        _ => None,
    };
    start("health", &fixed.health, Arc::new(health)).await;
    let reader = Arc::clone(status);
    let metrics = move |path: &str| (path == "/metrics").then(|| http::Answer::ok(metrics::page(&reader())));
    start("metrics", &fixed.metrics, Arc::new(metrics)).await;
    servers
}

/// The environment variable that tells a new start what it was made for, so that two readings of the configuration
/// that never agree cannot start the agent over and over.
const RESTARTED_FOR: &str = "CALICO_NODE_RESTARTED_FOR";

fn restarted_for(wanted: &Fixed) -> bool {
    std::env::var(RESTARTED_FOR).is_ok_and(|text| text == format!("{wanted:?}"))
}

/// Becomes a new agent in the same process. Returns only when that failed, with the reason.
fn start_again(wanted: &Fixed) -> std::io::Error {
    use std::os::unix::process::CommandExt as _;
    tracing::info!("a parameter that is read once has changed; starting again");
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    match std::env::current_exe() {
        Ok(program) => std::process::Command::new(program)
            .arg0(name)
            .args(arguments)
            .env(RESTARTED_FOR, format!("{wanted:?}"))
            .exec(),
        Err(error) => error,
    }
}

enum End {
    Signal(&'static str),
    Outdated(Box<Fixed>),
    Broken(&'static str),
}

async fn wait_for_end(
    engine: &std::thread::JoinHandle<()>,
    driver: &Handle,
    outdated: &mut mpsc::Receiver<Fixed>,
) -> End {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return End::Broken("cannot listen for signals");
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => return End::Signal("SIGTERM"),
            _ = interrupt.recv() => return End::Signal("SIGINT"),
            Some(wanted) = outdated.recv() => return End::Outdated(Box::new(wanted)),
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                if engine.is_finished() {
                    return End::Broken("the policy thread ended");
                }
                if !driver.is_alive() {
                    return End::Broken("the dataplane thread ended");
                }
            }
        }
    }
}

/// Everything below needs CAP_NET_ADMIN; one clear line is better than the first refusal of many.
fn require_privileges() -> Result<(), AnyError> {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    match effective {
        Some(capabilities) if capabilities & CAP_NET_ADMIN == 0 => Err(
            "calico-node needs CAP_NET_ADMIN to program routes and nf_tables; run it as root or grant the capability"
                .into(),
        ),
        _ => Ok(()),
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

fn write_nodename(settings: &Settings, node: &str) {
    if let Some(dir) = settings.nodename_file.parent() {
        let _ = std::fs::create_dir_all(dir);
    }
    if let Err(error) = std::fs::write(&settings.nodename_file, node) {
        tracing::warn!(
            file = %settings.nodename_file.display(), %error,
            "cannot write the nodename file; CNI plugins need `nodename` in their configuration"
        );
    }
}

/// Whether an earlier agent left BGP routes: then the speaker must not let them go before it has heard its peers.
fn holds_bgp_routes() -> bool {
    let Ok(mut netlink) = Rtnetlink::open() else { return false };
    [Family::V4, Family::V6].into_iter().any(|family| {
        let filter = RouteFilter { protocol: Some(RouteProtocol::BIRD), ..RouteFilter::main(family) };
        netlink.routes(&filter).is_ok_and(|routes| routes.iter().any(|route| !route.nexthops.is_empty()))
    })
}

fn start_bgp(driver: &Arc<Handle>, board: Board, node: &str) -> mpsc::UnboundedSender<bgp::Command> {
    let (sender, commands) = mpsc::unbounded_channel();
    let driver = Arc::clone(driver);
    let seed = node.bytes().fold(u64::from(std::process::id()), |h, b| h.rotate_left(7) ^ u64::from(b));
    tokio::spawn(bgp::run(commands, board, seed, move |output| {
        driver.send(match output {
            bgp::Output::Fib(updates) => Input::Fib(updates),
            bgp::Output::Converged => Input::BgpConverged,
        });
    }));
    sender
}

async fn watch_health(driver: Arc<Handle>, status: Arc<Mutex<DataplaneStatus>>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let driver = Arc::clone(&driver);
        let asked = tokio::task::spawn_blocking(move || driver.health(Duration::from_secs(5))).await;
        let mut status = status.lock().unwrap_or_else(PoisonError::into_inner);
        *status = match asked {
            Ok(Some(health)) => DataplaneStatus {
                alive: true,
                ready: health.ready,
                applies: health.applies,
                failures: health.failures,
                messages: health.messages,
                routes: health.routes,
                unsettled: health.unsettled,
                drift: health.drift,
                last_error: [health.policy_error, health.kernel_error, health.device_error]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join("; "),
                ..DataplaneStatus::default()
            },
            _ => DataplaneStatus {
                alive: false,
                last_error: "the dataplane thread does not answer".to_owned(),
                ..status.clone()
            },
        };
    }
}

/// Keeps the table that CNI requests wait on.
struct Recorder {
    table: EndpointTable,
    sender: watch::Sender<Arc<EndpointTable>>,
}

impl Recorder {
    fn record(&mut self, output: driver::Output) {
        match output {
            driver::Output::Endpoint(id, status) => {
                let state = match status {
                    Some(EndpointStatus::Up) => EndpointState::Up,
                    Some(EndpointStatus::Down(why)) => EndpointState::Down(why),
                    Some(EndpointStatus::Error(why)) => EndpointState::Error(why),
                    None => {
                        self.table.endpoints.remove(&id);
                        self.publish();
                        return;
                    }
                };
                self.table.endpoints.insert(id, state);
            }
            driver::Output::Passed(revision) => {
                if self.table.revision == revision {
                    return;
                }
                self.table.revision = revision;
            }
            driver::Output::Ready => {
                tracing::info!("policy and routes are in the kernel");
                return;
            }
        }
        self.publish();
    }

    fn publish(&self) {
        self.sender.send_replace(Arc::new(self.table.clone()));
    }
}
