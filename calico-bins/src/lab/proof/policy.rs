//! Policy, each step proved with packets: from the write in the store to the first packet judged by it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::super::cluster::{Cluster, ClusterError, PodWish};
use super::super::probe::{Place, Server};
use super::super::report::{Report, percentile};
use super::{PATIENCE, text};

const DEFAULT_DENY: (&str, &str) =
    ("examples/policy/default-deny.yaml", include_str!("../../../../examples/policy/default-deny.yaml"));
const ALLOW_BUSYBOX: (&str, &str) =
    ("examples/policy/allow-busybox.yaml", include_str!("../../../../examples/policy/allow-busybox.yaml"));
const ALLOW_DATABASE: (&str, &str) = (
    "examples/policy/allow-frontend-to-database.yaml",
    include_str!("../../../../examples/policy/allow-frontend-to-database.yaml"),
);
const DENY_OUTSIDE: (&str, &str) =
    ("examples/policy/deny-outside.yaml", include_str!("../../../../examples/policy/deny-outside.yaml"));

/// How long an attempt may stay unanswered before it counts as dropped. The answer of an admitted one takes well
/// under a millisecond here; the rest is for a busy machine.
const ATTEMPT: Duration = Duration::from_millis(40);

/// The web port of every probe that asks about all traffic.
const WEB: u16 = 80;
/// The port of the database.
const REDIS: u16 = 6379;

struct Scene {
    busybox01: Place,
    busybox03: Place,
    stranger: Place,
    web: SocketAddr,
    redis: SocketAddr,
    _servers: Vec<Server>,
}

fn scene(cluster: &Cluster) -> Result<Scene, String> {
    let target = cluster.pod("default", "busybox02").map_err(text)?;
    let address = target.ipv4().map_err(text)?;
    let place = |namespace, name| cluster.pod(namespace, name).map(|pod| pod.place.clone()).map_err(text);
    let servers = [WEB, REDIS].map(|port| target.place.serve(port).map_err(|e| e.to_string()));
    Ok(Scene {
        busybox01: place("default", "busybox01")?,
        busybox03: place("default", "busybox03")?,
        stranger: place("outside", "stranger")?,
        web: SocketAddr::from((address, WEB)),
        redis: SocketAddr::from((address, REDIS)),
        _servers: servers.into_iter().collect::<Result<_, _>>()?,
    })
}

/// Proves every step.
pub(super) fn prove(cluster: &mut Cluster, report: &mut Report) {
    report.section("Policy (milliseconds from the write in the store to the first packet judged by it)");
    let scene = match scene(cluster) {
        Ok(scene) => scene,
        Err(why) => {
            report.record("pods to prove it with", Err(why), Duration::ZERO);
            return;
        }
    };
    let mut latencies = Vec::new();
    let mut flip =
        |report: &mut Report, what: &str, write: Result<Instant, ClusterError>, from: &Place, to, open| {
            report.step(what, || {
                let written = write.map_err(text)?;
                let took = decided(from, to, open, written)?;
                latencies.push(took);
                Ok(format!("{took:.1} ms"))
            })
        };
    let at = |result: Result<(Vec<String>, Instant), ClusterError>| result.map(|(_, at)| at);

    let write = at(cluster.apply(DEFAULT_DENY.0, DEFAULT_DENY.1));
    flip(report, "Kubernetes default-deny: busybox01 is refused", write, &scene.busybox01, scene.web, false);
    hold(report, "… and so is busybox03", &scene.busybox03, scene.web, false);

    let write = at(cluster.apply(ALLOW_BUSYBOX.0, ALLOW_BUSYBOX.1));
    flip(
        report,
        "Kubernetes run=busybox01 to run=busybox02: busybox01 passes",
        write,
        &scene.busybox01,
        scene.web,
        true,
    );
    hold(report, "… busybox03 is still refused", &scene.busybox03, scene.web, false);

    let relabel = |cluster: &Cluster, run: &str, role: &str| relabel(cluster, "busybox03", run, role);
    let write = relabel(cluster, "busybox01", "none");
    flip(
        report,
        "busybox03 is relabelled run=busybox01 while it runs: it passes",
        write,
        &scene.busybox03,
        scene.web,
        true,
    );
    let write = relabel(cluster, "busybox03", "none");
    flip(report, "… and back: it is refused", write, &scene.busybox03, scene.web, false);

    let write = at(cluster.delete(ALLOW_BUSYBOX.0, ALLOW_BUSYBOX.1));
    flip(report, "that policy is deleted: busybox01 is refused", write, &scene.busybox01, scene.web, false);

    let write = at(cluster.apply(ALLOW_DATABASE.0, ALLOW_DATABASE.1));
    flip(report, "Calico frontend to database: TCP 6379 passes", write, &scene.busybox01, scene.redis, true);
    hold(report, "… exactly that port: 80 is refused", &scene.busybox01, scene.web, false);
    hold(report, "… exactly that role: busybox03 is refused", &scene.busybox03, scene.redis, false);

    let write = at(cluster.delete(DEFAULT_DENY.0, DEFAULT_DENY.1));
    report.step("default-deny is deleted; the Calico policy still closes port 80", || {
        write.map_err(text)?;
        refused(&scene.busybox01, scene.web)
    });
    let write = at(cluster.delete(ALLOW_DATABASE.0, ALLOW_DATABASE.1));
    flip(report, "all policies are deleted: port 80 is open again", write, &scene.busybox03, scene.web, true);

    let write = at(cluster.apply(DENY_OUTSIDE.0, DENY_OUTSIDE.1));
    flip(
        report,
        "GlobalNetworkPolicy order 20: namespace outside is refused",
        write,
        &scene.stranger,
        scene.web,
        false,
    );
    hold(report, "… and namespace default passes", &scene.busybox01, scene.web, true);
    let write = at(cluster.delete(DENY_OUTSIDE.0, DENY_OUTSIDE.1));
    flip(
        report,
        "the global policy is deleted: namespace outside passes",
        write,
        &scene.stranger,
        scene.web,
        true,
    );

    for p in [50.0, 99.0] {
        report.measure(
            format!("policy write to enforcement p{p:.0} ({} changes)", latencies.len()),
            percentile(&latencies, p),
            "ms",
        );
    }
}

/// Milliseconds from the write to the attempt that the change decided.
fn decided(from: &Place, to: SocketAddr, open: bool, written: Instant) -> Result<f64, String> {
    let attempt = if open { Duration::from_millis(5) } else { ATTEMPT };
    match from.await_tcp(to, open, attempt, written + PATIENCE).map_err(|e| e.to_string())? {
        Some(at) => Ok(at.saturating_duration_since(written).as_secs_f64() * 1000.0),
        None => {
            Err(format!("{to} is {} after {PATIENCE:?}", if open { "still refused" } else { "still open" }))
        }
    }
}

fn hold(report: &mut Report, what: &str, from: &Place, to: SocketAddr, open: bool) {
    report.step(what, || match from.connect(to, ATTEMPT * 2).map_err(|e| e.to_string())? {
        Some(_) if open => Ok(String::new()),
        None if !open => Ok(String::new()),
        Some(_) => Err(format!("{to} answered")),
        None => Err(format!("{to} did not answer")),
    });
}

/// Nothing may pass for a while: long enough for a wrong change to take effect.
fn refused(from: &Place, to: SocketAddr) -> Result<String, String> {
    for _ in 0..8 {
        if from.connect(to, ATTEMPT).map_err(|e| e.to_string())?.is_some() {
            return Err(format!("{to} answered"));
        }
    }
    Ok("8 attempts dropped".to_owned())
}

/// Writes the pod again with other labels, as a controller of Kubernetes would.
fn relabel(cluster: &Cluster, name: &str, run: &str, role: &str) -> Result<Instant, ClusterError> {
    let pod = cluster.pod("default", name)?;
    let labels = [("run", run), ("role", role)];
    let wish = PodWish { name, node: pod.node, labels: &labels, ..PodWish::default() };
    let manifest = super::super::cluster::pod_manifest("default", &wish, &cluster.nodes);
    cluster.apply("pod.json", &manifest).map(|(_, at)| at)
}
