//! Faults: an agent is killed, and nobody notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::super::cluster::{Cluster, PodWish};
use super::super::probe::Place;
use super::super::report::Report;
use super::{HANDLES, PATIENCE, established, eventually, text};

const DENY_OUTSIDE: &str = include_str!("../../../../examples/policy/deny-outside.yaml");

/// Counts what a prober saw while an agent was down and came back.
#[derive(Debug, Default)]
struct Tally {
    sent: AtomicU32,
    wrong: AtomicU32,
}

/// Proves that a killed agent takes nothing with it.
pub(super) fn prove(cluster: &mut Cluster, report: &mut Report) {
    report.section("Fault: kill -9 of the agent of node2");
    let prepared =
        cluster.apply("examples/policy/deny-outside.yaml", DENY_OUTSIDE).map_err(text).and_then(|_| {
            let target = cluster.pod("default", "busybox02").map_err(text)?;
            let address = SocketAddr::from((target.ipv4().map_err(text)?, 80));
            let server = target.place.serve(80).map_err(|e| e.to_string())?;
            let place =
                |namespace, name| cluster.pod(namespace, name).map(|pod| pod.place.clone()).map_err(text);
            let (friend, stranger) = (place("default", "busybox01")?, place("outside", "stranger")?);
            // From here on the policy is in force: the stranger is refused.
            let closed = stranger
                .await_tcp(address, false, Duration::from_millis(40), Instant::now() + PATIENCE)
                .map_err(|e| e.to_string())?;
            closed.ok_or("the policy does not come into force")?;
            Ok((server, friend, stranger, address))
        });
    let (_server, friend, stranger, address) = match prepared {
        Ok(prepared) => prepared,
        Err(why) => {
            report.record("a policy and two probers", Err(why), Duration::ZERO);
            return;
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    let allowed = prober(friend, address, true, &stop);
    let denied = prober(stranger, address, false, &stop);
    std::thread::sleep(Duration::from_millis(200));

    let killed = report.step("the agent is killed; traffic goes on while it is down", || {
        cluster.kill_agent(1).map_err(text)?;
        let before = allowed.0.sent.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1500));
        let probes = allowed.0.sent.load(Ordering::Relaxed) - before;
        match allowed.0.wrong.load(Ordering::Relaxed) {
            0 if probes > 0 => Ok(format!("{probes} connections opened")),
            0 => Err("no connection was tried".to_owned()),
            lost => Err(format!("{lost} connections were lost")),
        }
    });
    if killed {
        alone(cluster, report);
        let begun = Instant::now();
        report.step("it starts again and BGP is Established", || {
            cluster.start_agent(1).map_err(text)?;
            let node = cluster.node(1).map_err(text)?;
            eventually(PATIENCE, || established(cluster, node))?;
            Ok(format!("{:.0} ms after the start", begun.elapsed().as_secs_f64() * 1000.0))
        });
        report.step("routes are as before", || {
            eventually(PATIENCE, || super::routes(cluster, 1)).map(|_| String::new())
        });
        report.step("the pod that was attached without an agent is reachable now", || {
            let orphan = cluster.pod("default", "orphan").map_err(text)?;
            let address = SocketAddr::from((orphan.ipv4().map_err(text)?, 80));
            let _server = orphan.place.serve(80).map_err(|e| e.to_string())?;
            let from = &cluster.pod("default", "busybox01").map_err(text)?.place;
            let open = from
                .await_tcp(address, true, Duration::from_millis(40), Instant::now() + PATIENCE)
                .map_err(|e| e.to_string())?;
            open.map(|_| address.to_string()).ok_or_else(|| format!("{address} does not answer"))
        });
        starts_again(cluster, report);
        std::thread::sleep(Duration::from_millis(500));
    }
    stop.store(true, Ordering::Relaxed);
    for (what, (tally, thread)) in
        [("no allowed connection was lost", allowed), ("no denied connection passed", denied)]
    {
        let _ = thread.join();
        report.step(what, || {
            let (sent, wrong) = (tally.sent.load(Ordering::Relaxed), tally.wrong.load(Ordering::Relaxed));
            if wrong == 0 && sent > 0 {
                Ok(format!("{sent} attempts"))
            } else {
                Err(format!("{wrong} of {sent}"))
            }
        });
    }
    report.step("policy works after the restart: the denial is lifted", || {
        let (_, written) = cluster.delete("examples/policy/deny-outside.yaml", DENY_OUTSIDE).map_err(text)?;
        let stranger = cluster.pod("outside", "stranger").map_err(text)?;
        let open = stranger
            .place
            .await_tcp(address, true, Duration::from_millis(20), written + PATIENCE)
            .map_err(|e| e.to_string())?;
        let at = open.ok_or("it is still refused")?;
        Ok(format!("{:.1} ms", at.saturating_duration_since(written).as_secs_f64() * 1000.0))
    });
}

/// Proves that the CNI plugins need no agent: they do the work themselves, and what they attach stays closed until an
/// agent has put its policy in force.
fn alone(cluster: &mut Cluster, report: &mut Report) {
    let wish = |name| PodWish { name, node: 1, ..PodWish::default() };
    report.step("CNI ADD without an agent: the plugin does the work itself", || {
        let pod = cluster.add_pod(&wish("orphan")).map_err(text)?;
        let detail = format!("{}/32 dev {}", pod.ipv4().map_err(text)?, pod.host_interface());
        super::check_wire(cluster, "default", "orphan")?;
        Ok(detail)
    });
    report.step("… and nobody reaches that pod before its policy is in force", || {
        let orphan = cluster.pod("default", "orphan").map_err(text)?;
        let address = SocketAddr::from((orphan.ipv4().map_err(text)?, 80));
        let _server = orphan.place.serve(80).map_err(|e| e.to_string())?;
        let from = &cluster.pod("default", "busybox01").map_err(text)?.place;
        match from.connect(address, Duration::from_millis(300)).map_err(|e| e.to_string())? {
            None => Ok(String::new()),
            Some(_) => Err(format!("{address} answers")),
        }
    });
    report.step("CNI DEL without an agent gives the address back", || {
        let before = cluster.stored(HANDLES).map_err(text)?.len();
        cluster.add_pod(&wish("brief")).map_err(text)?;
        cluster.delete_pod("default", "brief").map_err(text)?;
        match cluster.stored(HANDLES).map_err(text)?.len() {
            after if after == before => Ok(format!("{after} handles before and after")),
            after => Err(format!("{before} handles before, {after} after")),
        }
    });
}

/// Proves that a change of what an agent reads once needs nobody to restart it: metrics are turned on for node2.
fn starts_again(cluster: &Cluster, report: &mut Report) {
    const METRICS: &str = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\n\
        metadata: {name: node.node2}\nspec: {prometheusMetricsEnabled: true}\n";
    report.step("metrics are turned on: the agent starts again by itself and serves them", || {
        let node = cluster.node(1).map_err(text)?;
        let before = node.status().map_err(text)?.pid;
        cluster.apply("node.node2", METRICS).map_err(text)?;
        let page = eventually(PATIENCE, || {
            let page = node.place.fetch(9091, "/metrics").map_err(|e| e.to_string())?;
            established(cluster, node)?;
            if page.contains("\ncalico_dataplane_ready 1\n") { Ok(page) } else { Err("not ready".to_owned()) }
        })?;
        let after = node.status().map_err(text)?.pid;
        if before != after {
            return Err(format!("process {before} became {after}"));
        }
        let samples = page.lines().filter(|line| !line.starts_with('#')).count();
        Ok(format!("{samples} samples, still process {after}"))
    });
}

/// Opens connections until told to stop and counts those that end as they must not.
fn prober(
    from: Place,
    to: SocketAddr,
    open: bool,
    stop: &Arc<AtomicBool>,
) -> (Arc<Tally>, std::thread::JoinHandle<()>) {
    let tally = Arc::new(Tally::default());
    let (stop, shared) = (Arc::clone(stop), Arc::clone(&tally));
    // An allowed attempt gets time for a retransmission on a busy machine, but a lost SYN is counted: the first
    // retransmission comes after a second.
    let timeout = if open { Duration::from_millis(900) } else { Duration::from_millis(30) };
    let thread = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let answered = from.connect(to, timeout).is_ok_and(|answer| answer.is_some());
            shared.sent.fetch_add(1, Ordering::Relaxed);
            if answered != open {
                shared.wrong.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    (tally, thread)
}
