//! Graceful restart (RFC 4724, RFC 8538, RFC 9494): keeping the routes of a peer that restarts, and holding back our own
//! decisions after a restart of ours.

use std::time::{Duration, Instant};

use crate::fsm::Negotiated;
use crate::peer::Peer;
use crate::rib::{PeerId, Rib};
use crate::state::State;
use crate::wire::{Family, FamilySet};

/// How long a restarting speaker waits for peers that do not come up at all. A dead neighbour must not keep a node
/// without routes for the whole deferral time.
const ABSENT_PEER_PATIENCE: Duration = Duration::from_secs(30);

/// The helper side, for one peer.
#[derive(Debug, Default)]
pub(crate) struct Restart {
    /// Families with routes of the peer's last session.
    stale: FamilySet,
    /// When the peer has to be back.
    deadline: Option<Instant>,
    /// When long-lived stale routes go, per family.
    long_lived: [Option<Instant>; 2],
    /// How long they may stay, from the last session.
    long_lived_time: [Duration; 2],
    restart_time: Duration,
    /// Families whose End-of-RIB was not seen in this session.
    awaited: FamilySet,
}

impl Restart {
    /// Routes of an earlier session are kept.
    pub(crate) fn is_active(&self) -> bool {
        !self.stale.is_empty()
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.long_lived.iter().copied().chain([self.deadline]).flatten().min()
    }

    /// The session ended. `graceful` are the families whose routes may be kept.
    pub(crate) fn down(&mut self, now: Instant, id: PeerId, graceful: FamilySet, rib: &mut Rib) {
        rib.peer_down(id);
        let keep = if self.restart_time.is_zero() && self.long_lived_time == [Duration::ZERO; 2] {
            FamilySet::NONE
        } else {
            graceful
        };
        for family in Family::ALL {
            if keep.contains(family) {
                // What was stale already has missed its chance: the peer went down before it confirmed it.
                rib.sweep(id, family);
                rib.mark_stale(id, family);
            } else {
                rib.drop_routes(id, family, |_| true);
            }
        }
        self.stale = keep;
        self.awaited = FamilySet::NONE;
        self.long_lived = [None; 2];
        self.deadline = (!keep.is_empty()).then(|| now + self.restart_time);
    }

    /// A session came up.
    pub(crate) fn up(
        &mut self,
        now: Instant,
        id: PeerId,
        negotiated: &Negotiated,
        patience: Duration,
        rib: &mut Rib,
    ) {
        let remote = negotiated.remote.graceful_restart.as_ref();
        for family in self.stale.iter() {
            let kept = remote.and_then(|gr| gr.family(family)).is_some_and(|flags| flags.forwarding);
            if !kept || !negotiated.params.families.contains(family) {
                rib.sweep(id, family);
                self.stale.remove(family);
            }
        }
        self.awaited = negotiated.params.families;
        self.long_lived = [None; 2];
        // End-of-RIB sweeps; this is for a peer that never sends it.
        self.deadline = self.is_active().then(|| now + patience);
        self.restart_time = negotiated.restart_time();
        self.long_lived_time = Family::ALL.map(|family| negotiated.long_lived_time(family));
    }

    /// The peer has sent all its routes of a family.
    pub(crate) fn end_of_rib(&mut self, id: PeerId, family: Family, rib: &mut Rib) {
        self.awaited.remove(family);
        if self.stale.contains(family) {
            rib.sweep(id, family);
            self.stale.remove(family);
        }
        if self.stale.is_empty() {
            self.deadline = None;
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, id: PeerId, rib: &mut Rib) {
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = None;
            let returned = !self.awaited.is_empty();
            for family in self.stale.iter() {
                let time = self.long_lived_time.get(family.index()).copied().unwrap_or_default();
                if returned || time.is_zero() {
                    rib.sweep(id, family);
                    self.stale.remove(family);
                } else {
                    rib.mark_long_lived(id, family);
                    if let Some(place) = self.long_lived.get_mut(family.index()) {
                        *place = Some(now + time);
                    }
                }
            }
        }
        for family in Family::ALL {
            let Some(place) = self.long_lived.get_mut(family.index()) else { continue };
            if place.is_some_and(|at| at <= now) {
                *place = None;
                rib.sweep(id, family);
                self.stale.remove(family);
            }
        }
    }
}

/// Our own restart: decisions wait until the peers have sent what they have.
#[derive(Debug)]
pub(crate) struct Deferral {
    absent: Instant,
    end: Instant,
}

impl Deferral {
    pub(crate) fn begin(now: Instant, time: Duration) -> Self {
        Deferral { absent: now + time.min(ABSENT_PEER_PATIENCE), end: now + time }
    }

    pub(crate) fn next_timeout(&self, now: Instant) -> Option<Instant> {
        Some(if now < self.absent { self.absent } else { self.end })
    }

    /// Whether nobody has to be waited for any more. A peer that restarts itself is not waited for (RFC 4724 section
    /// 4.1), nor one without graceful restart once its End-of-RIB would not say anything.
    pub(crate) fn is_over<'a>(
        &self,
        now: Instant,
        peers: impl Iterator<Item = (&'a Peer, &'a Restart)>,
    ) -> bool {
        if now >= self.end {
            return true;
        }
        peers.into_iter().all(|(peer, restart)| match peer.session() {
            Some((_, negotiated)) => {
                let awaited = negotiated.graceful_families();
                let restarting = negotiated.remote.graceful_restart.as_ref().is_some_and(|gr| gr.restarting);
                restarting || awaited.intersection(restart.awaited).is_empty()
            }
            None => peer.state() == State::Idle || now >= self.absent,
        })
    }
}
