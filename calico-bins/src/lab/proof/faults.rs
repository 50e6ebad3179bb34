//! Faults: an agent is killed, and nobody notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::super::cluster::Cluster;
use super::super::probe::Place;
use super::super::report::Report;
use super::{PATIENCE, established, eventually, text};

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
