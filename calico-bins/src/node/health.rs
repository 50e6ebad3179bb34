//! Whether this node's agent lives and is ready, and why not; pure.
//!
//! A BGP session that is down is the peer's or the network's matter: it is told, but it makes no agent unready, because
//! taking the agent out of service would not bring the session up.

use crate::http::Answer;

use super::protocol::{BgpStatus, NodeStatus};

/// One part of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Its name, one word.
    pub name: &'static str,
    /// It works at all.
    pub live: bool,
    /// It does what it should.
    pub ready: bool,
    /// Why not, or what is worth knowing.
    pub detail: String,
}

/// How all parts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The parts.
    pub components: Vec<Component>,
}

impl Health {
    /// Judges a status.
    ///
    /// ```
    /// use calico_bins::node::health::Health;
    /// use calico_bins::node::protocol::{DataplaneStatus, NodeStatus};
    /// let dataplane = DataplaneStatus { alive: true, ready: true, ..DataplaneStatus::default() };
    /// let mut status = NodeStatus { datastore: "in-sync".into(), dataplane, ..NodeStatus::default() };
    /// assert_eq!(Health::of(&status).readiness().status, 200);
    /// status.dataplane.ready = false;
    /// assert_eq!(Health::of(&status).readiness().status, 503);
    /// assert_eq!(Health::of(&status).liveness().status, 200);
    /// ```
    pub fn of(status: &NodeStatus) -> Self {
        let dataplane = &status.dataplane;
        let in_sync = status.datastore == "in-sync";
        let mut components = vec![
            Component {
                name: "Datastore",
                live: true,
                ready: in_sync,
                detail: if in_sync { String::new() } else { status.datastore.clone() },
            },
            Component {
                name: "Dataplane",
                live: dataplane.alive,
                ready: dataplane.alive && dataplane.ready && dataplane.last_error.is_empty(),
                detail: match (dataplane.last_error.as_str(), dataplane.ready) {
                    ("", true) => {
                        format!("{} of {} endpoints up", dataplane.endpoints_up, dataplane.endpoints)
                    }
                    ("", false) => "not everything is in the kernel yet".to_owned(),
                    (error, _) => error.to_owned(),
                },
            },
        ];
        components.extend(status.bgp.as_ref().map(speaker));
        Self { components }
    }

    /// Whether the agent should be left running.
    pub fn liveness(&self) -> Answer {
        self.answer(|component| component.live)
    }

    /// Whether the agent does its work.
    pub fn readiness(&self) -> Answer {
        self.answer(|component| component.ready)
    }

    fn answer(&self, good: impl Fn(&Component) -> bool) -> Answer {
        let mut table = format!("{:<12} {:<5} {:<5} DETAIL\n", "COMPONENT", "LIVE", "READY");
        for Component { name, live, ready, detail } in &self.components {
            let line = format!("{name:<12} {:<5} {:<5} {detail}", yes(*live), yes(*ready));
            table.push_str(line.trim_end());
            table.push('\n');
        }
        if self.components.iter().all(good) { Answer::ok(table) } else { Answer::unavailable(table) }
    }
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

fn speaker(bgp: &BgpStatus) -> Component {
    let down: Vec<String> = bgp
        .peers
        .iter()
        .filter(|peer| peer.bgp_state != "Established")
        .map(|peer| match peer.info.as_str() {
            "" => format!("{} is {}", peer.address, peer.bgp_state),
            info => format!("{} is {}: {info}", peer.address, peer.bgp_state),
        })
        .collect();
    let sessions = format!("{} of {} sessions established", bgp.peers.len() - down.len(), bgp.peers.len());
    let told: Vec<String> = bgp.error.iter().cloned().chain([sessions]).chain(down).collect();
    Component { name: "BGP", live: true, ready: bgp.error.is_none(), detail: told.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::{DataplaneStatus, PeerDetail, PeerKind, PeerStatus};
    use super::*;

    fn working() -> NodeStatus {
        NodeStatus {
            datastore: "in-sync".into(),
            dataplane: DataplaneStatus { alive: true, ready: true, ..DataplaneStatus::default() },
            ..NodeStatus::default()
        }
    }

    #[test]
    fn a_thread_that_does_not_answer_is_not_live() {
        let mut status = working();
        status.dataplane.alive = false;
        status.dataplane.last_error = "the dataplane thread does not answer".into();
        let health = Health::of(&status);
        assert_eq!((health.liveness().status, health.readiness().status), (503, 503));
        assert!(
            health.liveness().text.contains("Dataplane    no    no    the dataplane thread does not answer")
        );
    }

    #[test]
    fn a_datastore_out_of_reach_makes_unready_but_not_dead() {
        let status = NodeStatus { datastore: "wait-for-datastore".into(), ..working() };
        let health = Health::of(&status);
        assert_eq!((health.liveness().status, health.readiness().status), (200, 503));
    }

    #[test]
    fn a_session_that_is_down_is_told_with_its_reason_and_changes_nothing() {
        let peer = PeerStatus {
            address: "172.18.10.12".parse().unwrap(),
            kind: PeerKind::Global,
            state: "start".into(),
            bgp_state: "Active".into(),
            since: String::new(),
            info: "connection refused".into(),
            detail: PeerDetail::default(),
        };
        let bgp = BgpStatus { peers: vec![peer], ..BgpStatus::default() };
        let answer = Health::of(&NodeStatus { bgp: Some(bgp), ..working() }).readiness();
        assert_eq!(answer.status, 200);
        assert!(
            answer.text.contains("0 of 1 sessions established; 172.18.10.12 is Active: connection refused")
        );
        let broken = BgpStatus { error: Some("port 179 is taken".into()), ..BgpStatus::default() };
        assert_eq!(Health::of(&NodeStatus { bgp: Some(broken), ..working() }).readiness().status, 503);
    }
}
