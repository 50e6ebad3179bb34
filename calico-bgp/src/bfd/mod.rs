//! Bidirectional forwarding detection (RFC 5880, asynchronous mode): whether a neighbour is heard, within fractions of
//! a second.
//!
//! [`Session`] is one session without socket and clock, in the style of [`crate::Speaker`]: [`Session::receive`] and
//! [`Session::handle_timeout`] go in; [`Session::poll_transmit`], [`Session::poll_timeout`] and [`Session::poll_event`]
//! come out, drained in this order after every call. UDP ports, TTL 255 and finding the session of a packet (RFC 5881,
//! RFC 5883) are the caller's.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use calico_bgp::bfd::{BfdConfig, BfdState, Session};
//!
//! let now = Instant::now();
//! let config = BfdConfig { interval: Duration::from_millis(100), multiplier: 3, ..BfdConfig::default() };
//! let mut ours = Session::new(1.try_into().unwrap(), config, 7);
//! let mut theirs = Session::new(2.try_into().unwrap(), config, 8);
//! let mut at = now;
//! for _ in 0..10 {
//!     at += Duration::from_secs(1);
//!     for (from, to) in [(0, 1), (1, 0)] {
//!         let mut ends = [&mut ours, &mut theirs];
//!         ends[from].handle_timeout(at);
//!         while let Some(packet) = ends[from].poll_transmit(at) {
//!             ends[to].receive(at, &packet);
//!         }
//!     }
//! }
//! assert_eq!((ours.state(), theirs.state()), (BfdState::Up, BfdState::Up));
//! assert_eq!(ours.detection_time(), Duration::from_millis(300));
//! ours.handle_timeout(at + Duration::from_millis(301));
//! assert_eq!(ours.state(), BfdState::Down);
//! ```

mod packet;

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

pub use packet::{BfdState, Diagnostic, PACKET_LENGTH, Packet, PacketError};

/// The port of sessions over one hop (RFC 5881).
pub const SINGLE_HOP_PORT: u16 = 3784;

/// The port of sessions over several hops (RFC 5883).
pub const MULTIHOP_PORT: u16 = 4784;

/// The least interval of a session that is not up (RFC 5880 section 6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// How a session is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BfdConfig {
    /// Interval at which to send, and the least at which to receive.
    pub interval: Duration,
    /// Packets that may be lost in a row before the neighbour counts as lost.
    pub multiplier: u8,
    /// The neighbour is more than one hop away.
    pub multihop: bool,
}

impl Default for BfdConfig {
    fn default() -> Self {
        BfdConfig { interval: Duration::from_millis(300), multiplier: 3, multihop: false }
    }
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BfdEvent {
    /// The new state.
    pub state: BfdState,
    /// Why the session is not up.
    pub diagnostic: Diagnostic,
    /// The other end's BFD does not share the fate of its control plane: a loss is a loss of the way (RFC 5882
    /// section 4.3).
    pub independent: bool,
    /// The other end was switched off on purpose, which says nothing about the way (RFC 5882 section 4.1).
    pub switched_off: bool,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Session {
    config: BfdConfig,
    discriminator: NonZeroU32,
    state: BfdState,
    diagnostic: Diagnostic,
    /// What is advertised, and what is in force: a slower interval holds once the other end has confirmed it.
    advertised_tx: Duration,
    effective_tx: Duration,
    advertised_rx: Duration,
    effective_rx: Duration,
    remote: Option<Remote>,
    polling: bool,
    answer: bool,
    send_now: bool,
    next_tx: Option<Instant>,
    detect: Option<Instant>,
    jitter: u64,
    events: VecDeque<BfdEvent>,
}

/// What the other end said last.
#[derive(Debug, Clone, Copy)]
struct Remote {
    discriminator: u32,
    state: BfdState,
    min_rx: Duration,
    min_tx: Duration,
    multiplier: u8,
    demand: bool,
    independent: bool,
}

impl Session {
    /// A session that is down and sends its first packet at the first [`Session::handle_timeout`]. The discriminator
    /// must be unique on this machine; the seed spreads packets in time.
    pub fn new(discriminator: NonZeroU32, config: BfdConfig, seed: u64) -> Self {
        let slow = config.interval.max(SLOW);
        Session {
            config,
            discriminator,
            state: BfdState::Down,
            diagnostic: Diagnostic::NONE,
            advertised_tx: slow,
            effective_tx: slow,
            advertised_rx: config.interval,
            effective_rx: config.interval,
            remote: None,
            polling: false,
            answer: false,
            send_now: true,
            next_tx: None,
            detect: None,
            jitter: (seed ^ u64::from(discriminator.get()).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1,
            events: VecDeque::new(),
        }
    }

    /// The state.
    pub const fn state(&self) -> BfdState {
        self.state
    }

    /// Our number for the session; packets of the other end name it once it knows it.
    pub const fn discriminator(&self) -> NonZeroU32 {
        self.discriminator
    }

    /// How long silence is borne; zero while the other end was never heard.
    pub fn detection_time(&self) -> Duration {
        self.remote.map_or(Duration::ZERO, |remote| {
            self.effective_rx.max(remote.min_tx) * u32::from(remote.multiplier)
        })
    }

    /// The interval at which packets are sent, before jitter; `None` when the other end wants none.
    pub fn transmit_interval(&self) -> Option<Duration> {
        match self.remote {
            Some(remote) if remote.min_rx.is_zero() => None,
            Some(remote) => Some(self.effective_tx.max(remote.min_rx)),
            None => Some(self.effective_tx),
        }
    }

    /// New intervals, while the session runs; both ends agree on them by a poll.
    pub fn configure(&mut self, now: Instant, config: BfdConfig) {
        if config == self.config {
            return;
        }
        self.config = config;
        let up = self.state == BfdState::Up;
        self.advertised_tx = if up { config.interval } else { config.interval.max(SLOW) };
        self.advertised_rx = config.interval;
        // Whatever makes the session more patient or more talkative holds at once.
        if !up || self.advertised_tx < self.effective_tx {
            self.effective_tx = self.advertised_tx;
        }
        if !up || self.advertised_rx > self.effective_rx {
            self.effective_rx = self.advertised_rx;
        }
        self.polling = up;
        self.hurry(now);
    }

    /// Switches the session off, telling the other end that this is no failure, or on again.
    pub fn set_enabled(&mut self, now: Instant, enabled: bool) {
        match (self.state, enabled) {
            (BfdState::AdminDown, true) => self.enter(now, BfdState::Down, Diagnostic::NONE),
            (BfdState::AdminDown, false) | (_, true) => {}
            (_, false) => self.enter(now, BfdState::AdminDown, Diagnostic::ADMIN_DOWN),
        }
    }

    /// A packet of the other end.
    pub fn receive(&mut self, now: Instant, packet: &Packet) {
        if packet.your_discriminator != 0 && packet.your_discriminator != self.discriminator.get() {
            return;
        }
        self.remote = Some(Remote {
            discriminator: packet.my_discriminator.get(),
            state: packet.state,
            min_rx: packet.required_min_rx,
            min_tx: packet.desired_min_tx,
            multiplier: packet.multiplier,
            demand: packet.demand,
            independent: packet.independent,
        });
        if self.polling && packet.fin {
            self.polling = false;
            self.effective_tx = self.advertised_tx;
            self.effective_rx = self.advertised_rx;
        }
        if self.state == BfdState::AdminDown {
            return;
        }
        match (self.state, packet.state) {
            (BfdState::Down, BfdState::Down) => self.enter(now, BfdState::Init, self.diagnostic),
            (BfdState::Down, BfdState::Init) | (BfdState::Init, BfdState::Init | BfdState::Up) => {
                self.enter(now, BfdState::Up, Diagnostic::NONE);
            }
            (BfdState::Up, BfdState::Down | BfdState::AdminDown) | (BfdState::Init, BfdState::AdminDown) => {
                self.enter(now, BfdState::Down, Diagnostic::NEIGHBOR_DOWN);
            }
            _ => {}
        }
        self.answer |= packet.poll;
        self.detect = Some(now + self.detection_time());
        self.hurry(now);
    }

    fn enter(&mut self, now: Instant, state: BfdState, diagnostic: Diagnostic) {
        let was = std::mem::replace(&mut self.state, state);
        self.diagnostic = diagnostic;
        if state == BfdState::Up {
            self.advertised_tx = self.config.interval;
            self.effective_tx = self.effective_tx.min(self.advertised_tx);
            self.polling = true;
        } else if was == BfdState::Up {
            self.advertised_tx = self.config.interval.max(SLOW);
            self.effective_tx = self.advertised_tx;
            self.effective_rx = self.advertised_rx;
            self.polling = false;
        }
        if was != state {
            let independent = self.remote.is_some_and(|remote| remote.independent);
            let switched_off = self.remote.is_some_and(|remote| remote.state == BfdState::AdminDown);
            self.events.push_back(BfdEvent { state, diagnostic, independent, switched_off });
            // The other end should not wait for the next regular packet.
            self.send_now = true;
            self.hurry(now);
        }
    }

    /// Shortens the wait for the next packet when the interval became shorter.
    fn hurry(&mut self, now: Instant) {
        if let (Some(at), Some(interval)) = (self.next_tx, self.transmit_interval()) {
            self.next_tx = Some(at.min(now + interval));
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.detect.is_some_and(|at| at <= now) {
            self.detect = None;
            // Whoever comes back may have another number.
            self.remote = None;
            if matches!(self.state, BfdState::Init | BfdState::Up) {
                self.enter(now, BfdState::Down, Diagnostic::EXPIRED);
            }
        }
        if self.next_tx.is_none_or(|at| at <= now) {
            self.send_now = true;
        }
    }

    /// The next packet to send. Ask again until `None`.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Packet> {
        if std::mem::take(&mut self.answer) {
            return Some(Packet { poll: false, fin: true, ..self.packet() });
        }
        if !std::mem::take(&mut self.send_now) {
            return None;
        }
        let interval = self.transmit_interval();
        let delay = self.jittered(interval.unwrap_or(SLOW));
        self.next_tx = Some(now + delay);
        interval?;
        let both_up = |remote: Remote| remote.state == BfdState::Up && self.state == BfdState::Up;
        if self.remote.is_some_and(|remote| remote.demand && both_up(remote)) && !self.polling {
            return None;
        }
        Some(self.packet())
    }

    fn packet(&self) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            poll: self.polling,
            multiplier: self.config.multiplier.max(1),
            your_discriminator: self.remote.map_or(0, |remote| remote.discriminator),
            desired_min_tx: self.advertised_tx,
            required_min_rx: self.advertised_rx,
            ..Packet::new(self.discriminator, self.state)
        }
    }

    /// 75 % to 100 % of the interval, at most 90 % when no packet may be lost (RFC 5880 section 6.8.7).
    fn jittered(&mut self, interval: Duration) -> Duration {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        let most: u64 = if self.config.multiplier <= 1 { 900 } else { 1000 };
        let share = 750 + u32::try_from(self.jitter % (most - 749)).unwrap_or(0);
        interval * share / 1000
    }

    /// When to call [`Session::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.next_tx, self.detect].into_iter().flatten().min()
    }

    /// The next change of state.
    pub fn poll_event(&mut self) -> Option<BfdEvent> {
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests;
