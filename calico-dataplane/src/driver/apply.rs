//! One round of the driver: listen, decide, write.

use std::time::{Duration, Instant};

use calico_policy::Changes;

use super::policy::ApplyReport;
use super::wireguard::WireguardUnit;
use super::{Driver, PolicyDataplane, Progress};
use crate::manager::TunnelManager;
use crate::manager::endpoints::InterfaceSettings;
use crate::manager::interfaces::Touched;
use crate::netlink::neighbour::NeighbourTable;
use crate::netlink::{Event, Family, NetlinkError, RouteChange, RouteFilter, Rtnetlink};
use crate::reconcile::Backoff;

/// Rounds of route writing in one apply: what the first round changes may allow or demand more.
const ROUTE_ROUNDS: usize = 3;

impl<P: PolicyDataplane> Driver<P> {
    /// Hears what the kernel has to say, then makes it what it should be as far as that is possible now. What fails is
    /// remembered and tried again; nothing else waits for it.
    pub fn apply(&mut self, now: Instant) -> Progress {
        let mut progress = Progress::default();
        self.applies += 1;
        match self.round(now, &mut progress) {
            Ok(()) => self.kernel_error = None,
            Err(error) => {
                self.failures += 1;
                // The outcome of what was sent is unknown: take a new socket and look.
                tracing::warn!(%error, "the dataplane starts over");
                self.kernel_error = Some(error.to_string());
                self.read_again = true;
                progress.next = Some(now + Duration::from_secs(1));
                if let Ok(netlink) = Rtnetlink::open() {
                    self.netlink = netlink;
                    self.monitor.ignore_routes_of(self.netlink.port());
                }
            }
        }
        self.messages += progress.messages as u64;
        progress.statuses = self.endpoints.statuses(&self.standing, &self.routes, &self.interfaces);
        if self.gates.in_sync && self.kernel_error.is_none() && self.standing.in_force {
            self.applied_once = true;
        }
        progress
    }

    fn round(&mut self, now: Instant, progress: &mut Progress) -> Result<(), NetlinkError> {
        self.listen(now)?;
        let due = self.next_refresh.is_some_and(|at| at <= now);
        if due || self.read_again || self.routes.wants_refresh() {
            self.read_everything(now)?;
        }
        if self.gates.in_sync {
            self.apply_policy(now, progress);
            self.gates.policy = self.standing.in_force;
            self.apply_tunnels(now, progress)?;
            self.apply_wireguard(now, progress);
            self.apply_settings(now);
            self.apply_neighbours(now, progress)?;
            self.apply_routes(now, progress)?;
            self.forget_connections();
        }
        progress.next = self.next_wake(now);
        Ok(())
    }

    /// When something is to be done although nothing happens.
    fn next_wake(&self, now: Instant) -> Option<Instant> {
        let wireguard = self.wireguard.iter().filter_map(WireguardUnit::next_wake).min();
        let tunnels = self.tunnels.as_ref().and_then(TunnelManager::next_wake);
        let endpoints = self.endpoints.next_wake();
        let routes = self.routes.next_wake(now);
        [self.next_refresh, self.policy_retry, self.device_retry, wireguard, tunnels, endpoints, routes]
            .into_iter()
            .flatten()
            .min()
    }

    /// Takes all notifications that are there.
    pub(super) fn listen(&mut self, now: Instant) -> Result<(), NetlinkError> {
        for event in self.monitor.poll()? {
            match event {
                Event::Lost => self.read_again = true,
                Event::Route(route) => self.routes.observed(route, &self.interfaces, now),
                Event::RouteGone(route) => self.routes.vanished(&route),
                other => {
                    let touched = self.interfaces.apply(&other);
                    if let Event::LinkGone(link) = &other {
                        self.routes.interface_down(link.index);
                        self.endpoints.interface_lost_neighbours(link.index);
                    }
                    self.interfaces_touched(touched);
                }
            }
        }
        Ok(())
    }

    fn interfaces_touched(&mut self, touched: Touched) {
        for name in touched {
            self.wireguard.iter_mut().for_each(|unit| unit.interface_changed(&name));
            self.endpoints.interface_changed(&name, &mut self.routes, &self.interfaces);
            self.routes.interface_changed(&name, &self.interfaces);
        }
    }

    /// Reads everything that the managers own or depend on.
    pub(super) fn read_everything(&mut self, now: Instant) -> Result<(), NetlinkError> {
        self.read_again = false;
        self.next_refresh = self.config.refresh.map(|every| now + every);
        let links = self.netlink.links()?;
        let addresses = self.netlink.addresses()?;
        let touched = self.interfaces.refresh(links, addresses);
        self.interfaces_touched(touched);
        let mut routes = self.netlink.routes(&RouteFilter::main(Family::V4))?;
        if self.config.ipv6 {
            routes.extend(self.netlink.routes(&RouteFilter::main(Family::V6))?);
        }
        self.drift += self.routes.refresh(routes, &self.interfaces, now);
        let entries = self.netlink.neighbours(NeighbourTable::Address(Family::V4), 0)?;
        self.drift += self.endpoints.refresh_neighbours(entries, &self.interfaces);
        self.wireguard.iter_mut().for_each(WireguardUnit::distrust);
        self.read_tunnels()
    }

    fn apply_policy(&mut self, now: Instant, progress: &mut Progress) {
        let interfaces_changed = self.policy_saw != *self.interfaces.state();
        if interfaces_changed {
            self.policy_saw = self.interfaces.state().clone();
        }
        let mut queue = std::mem::take(&mut self.queue);
        if queue.is_empty() && (interfaces_changed || !self.standing.in_force) && self.policy_retry.is_none()
        {
            queue.push(Changes::default());
        }
        for changes in queue {
            let outcome = self.policy.apply(&changes, &self.policy_saw);
            self.policy_outcome(outcome, now, progress);
        }
        if self.policy_retry.is_some_and(|at| at <= now) {
            let outcome = self.policy.resync();
            self.policy_outcome(outcome, now, progress);
        }
        if self.standing.in_force && self.policy_retry.is_none() {
            match self.policy.repair() {
                Ok(None) => {}
                Ok(Some(report)) => self.policy_outcome(Ok(report), now, progress),
                Err(error) => self.policy_outcome(Err(error), now, progress),
            }
        }
    }

    fn policy_outcome(
        &mut self,
        outcome: Result<ApplyReport, P::Error>,
        now: Instant,
        progress: &mut Progress,
    ) {
        match outcome {
            Ok(report) => {
                progress.messages += report.messages;
                self.standing.in_force = true;
                self.standing.error = None;
                self.standing.failed = report.failed_endpoints;
                self.policy_failures = 0;
                self.policy_retry = None;
            }
            Err(error) => {
                tracing::error!(error = %describe(&error), "policy is not in force");
                self.failures += 1;
                self.standing.error = Some(describe(&error));
                self.policy_failures = self.policy_failures.saturating_add(1);
                self.policy_retry = Some(now + Backoff::default().delay(self.policy_failures));
            }
        }
    }

    fn apply_settings(&mut self, now: Instant) {
        for (name, settings) in self.endpoints.settings_pending(now) {
            let error = self.write_settings(&name, &settings);
            self.endpoints.settings_finished(&name, error, now);
        }
    }

    fn write_settings(&self, name: &str, settings: &InterfaceSettings) -> Option<String> {
        for setting in settings.list(name) {
            match self.sysctl.write(&setting.name, setting.value) {
                Ok(()) => {}
                Err(error) if !setting.required => {
                    tracing::debug!(%error, "kernel parameter of a workload interface not set");
                }
                Err(error) => return Some(error.to_string()),
            }
        }
        None
    }

    fn apply_neighbours(&mut self, now: Instant, progress: &mut Progress) -> Result<(), NetlinkError> {
        let work = self.endpoints.neighbours_pending(now);
        if work.is_empty() {
            return Ok(());
        }
        let results = self.netlink.change_neighbours(work.iter().map(|(set, entry)| (*set, entry)))?;
        progress.messages += work.len();
        for ((_, entry), refusal) in work.iter().zip(results) {
            if let Some(refusal) = &refusal {
                tracing::debug!(%entry, %refusal, "neighbour not set");
            }
            self.endpoints.neighbour_finished(entry, refusal.is_none(), now);
        }
        Ok(())
    }

    fn apply_routes(&mut self, now: Instant, progress: &mut Progress) -> Result<(), NetlinkError> {
        for _ in 0..ROUTE_ROUNDS {
            self.routes.settle(&self.interfaces);
            let work = self.routes.pending(self.gates, &self.interfaces, now);
            if work.is_empty() {
                break;
            }
            let changes = work.iter().map(|each| match &each.route {
                Some(route) => RouteChange::Replace(route),
                None => RouteChange::Delete(&each.key),
            });
            let results = self.netlink.change_routes(changes)?;
            progress.messages += work.len();
            for (each, refusal) in work.iter().zip(results) {
                if let Some(refusal) = &refusal {
                    tracing::debug!(dst = %each.key.dst, %refusal, "route not written");
                }
                self.routes.finished(each, refusal, now);
            }
        }
        Ok(())
    }
}

/// An error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Many errors repeat their cause in their own text.
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
