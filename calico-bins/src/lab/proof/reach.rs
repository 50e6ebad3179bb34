//! Reachability before any policy.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::cluster::Cluster;
use super::super::report::Report;
use super::text;

/// Longest wait for an answer on a network without loss.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Proves that pods reach each other across nodes.
pub(super) fn prove(cluster: &Cluster, report: &mut Report) {
    report.section("Reachability");
    report.step("busybox01 on node1 pings busybox02 on node2, TTL 62 on arrival", || {
        let (from, to) = (
            cluster.pod("default", "busybox01").map_err(text)?,
            cluster.pod("default", "busybox02").map_err(text)?,
        );
        let address = to.ipv4().map_err(text)?;
        match from.place.ping(address, TIMEOUT).map_err(|e| e.to_string())? {
            Some(echo) if echo.ttl == 62 => {
                Ok(format!("{address}: ttl=62 time={:.2} ms", echo.rtt.as_secs_f64() * 1e3))
            }
            Some(echo) => Err(format!("{address}: ttl={}", echo.ttl)),
            None => Err(format!("no answer from {address}")),
        }
    });
    report.step("busybox01 opens TCP to busybox02", || {
        let (from, to) = (
            cluster.pod("default", "busybox01").map_err(text)?,
            cluster.pod("default", "busybox02").map_err(text)?,
        );
        let _server = to.place.serve(80).map_err(|e| e.to_string())?;
        let address = SocketAddr::from((to.ipv4().map_err(text)?, 80));
        match from.place.connect(address, TIMEOUT).map_err(|e| e.to_string())? {
            Some(took) => Ok(format!("{address} in {:.2} ms", took.as_secs_f64() * 1e3)),
            None => Err(format!("no connection to {address}")),
        }
    });
    report.step("busybox01 pings busybox03 on its own node", || {
        let (from, to) = (
            cluster.pod("default", "busybox01").map_err(text)?,
            cluster.pod("default", "busybox03").map_err(text)?,
        );
        let address = to.ipv4().map_err(text)?;
        match from.place.ping(address, TIMEOUT).map_err(|e| e.to_string())? {
            Some(echo) => Ok(format!("{address}: ttl={}", echo.ttl)),
            None => Err(format!("no answer from {address}")),
        }
    });
}
