use super::*;

#[allow(clippy::disallowed_methods, reason = "the clock begins somewhere")]
fn beginning() -> Instant {
    Instant::now()
}

const STEP: Duration = Duration::from_millis(1);

/// Two sessions and the way between them, a millisecond at a time.
struct Pair {
    ends: [Session; 2],
    now: Instant,
    /// What a direction lets through.
    open: [bool; 2],
    sent: [u32; 2],
    events: Vec<(usize, Instant, BfdEvent)>,
}

impl Pair {
    fn new(first: BfdConfig, second: BfdConfig) -> Self {
        let session =
            |number: u32, config| Session::new(number.try_into().unwrap(), config, u64::from(number));
        Pair {
            ends: [session(1, first), session(2, second)],
            now: beginning(),
            open: [true; 2],
            sent: [0; 2],
            events: Vec::new(),
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            for from in 0..2 {
                if self.ends[from].poll_timeout().is_none_or(|at| at <= self.now) {
                    self.ends[from].handle_timeout(self.now);
                }
                while let Some(packet) = self.ends[from].poll_transmit(self.now) {
                    self.sent[from] += 1;
                    let packet = Packet::decode(&packet.encode()).unwrap();
                    if self.open[from] {
                        self.ends[1 - from].receive(self.now, &packet);
                    }
                }
                while let Some(event) = self.ends[from].poll_event() {
                    self.events.push((from, self.now, event));
                }
            }
        }
    }

    fn states(&self) -> [BfdState; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }
}

fn fast(interval: u64, multiplier: u8) -> BfdConfig {
    BfdConfig { interval: Duration::from_millis(interval), multiplier, ..BfdConfig::default() }
}

#[test]
fn both_come_up_and_speed_up() {
    let mut pair = Pair::new(fast(100, 3), fast(50, 5));
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.states(), [BfdState::Up; 2]);
    // The slower wish of both directions counts.
    assert_eq!(pair.ends[0].transmit_interval(), Some(Duration::from_millis(100)));
    assert_eq!(pair.ends[1].transmit_interval(), Some(Duration::from_millis(100)));
    assert_eq!(pair.ends[0].detection_time(), Duration::from_millis(500));
    assert_eq!(pair.ends[1].detection_time(), Duration::from_millis(300));
    pair.sent = [0; 2];
    pair.run(Duration::from_secs(10));
    // 75 to 100 ms apart.
    assert!((100..=134).contains(&pair.sent[0]), "{:?}", pair.sent);
}

#[test]
fn silence_is_noticed_within_the_detection_time() {
    let mut pair = Pair::new(fast(100, 3), fast(100, 3));
    pair.run(Duration::from_secs(4));
    pair.events.clear();
    let cut = pair.now;
    pair.open = [false, true];
    pair.run(Duration::from_secs(1));
    let [(first, at, down), (second, _, told)] = pair.events[..] else { panic!("{:?}", pair.events) };
    assert_eq!((first, down.state, down.diagnostic), (1, BfdState::Down, Diagnostic::EXPIRED));
    assert!(at - cut <= Duration::from_millis(301), "{:?}", at - cut);
    assert_eq!((second, told.state, told.diagnostic), (0, BfdState::Down, Diagnostic::NEIGHBOR_DOWN));
    pair.open = [true; 2];
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.states(), [BfdState::Up; 2]);
}

#[test]
fn a_few_lost_packets_do_no_harm() {
    let mut pair = Pair::new(fast(100, 3), fast(100, 3));
    pair.run(Duration::from_secs(4));
    pair.events.clear();
    for _ in 0..50 {
        pair.open = [false, false];
        pair.run(Duration::from_millis(90));
        pair.open = [true, true];
        pair.run(Duration::from_millis(110));
    }
    assert_eq!(pair.events, []);
}

#[test]
fn switching_off_is_told_and_is_no_expiry() {
    let mut pair = Pair::new(fast(100, 3), fast(100, 3));
    pair.run(Duration::from_secs(4));
    pair.ends[0].set_enabled(pair.now, false);
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.states(), [BfdState::AdminDown, BfdState::Down]);
    let last = pair.events.iter().rfind(|(end, ..)| *end == 1).unwrap().2;
    assert_eq!(last.diagnostic, Diagnostic::NEIGHBOR_DOWN);
    pair.ends[0].set_enabled(pair.now, true);
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.states(), [BfdState::Up; 2]);
}

#[test]
fn intervals_change_by_a_poll_and_the_session_stays_up() {
    let mut pair = Pair::new(fast(100, 3), fast(100, 3));
    pair.run(Duration::from_secs(4));
    pair.events.clear();
    pair.ends[0].configure(pair.now, fast(500, 3));
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.ends[0].transmit_interval(), Some(Duration::from_millis(500)));
    assert_eq!(pair.ends[1].detection_time(), Duration::from_millis(1500));
    pair.ends[0].configure(pair.now, fast(50, 3));
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.ends[1].detection_time(), Duration::from_millis(300));
    assert_eq!(pair.ends[0].detection_time(), Duration::from_millis(300));
    assert_eq!((pair.states(), pair.events.len()), ([BfdState::Up; 2], 0));
}

#[test]
fn a_restarted_neighbour_with_another_number_is_taken_back() {
    let mut pair = Pair::new(fast(100, 3), fast(100, 3));
    pair.run(Duration::from_secs(4));
    pair.ends[1] = Session::new(9.try_into().unwrap(), fast(100, 3), 9);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.states(), [BfdState::Up; 2]);
}

#[test]
fn a_packet_for_somebody_else_changes_nothing() {
    let mut session = Session::new(1.try_into().unwrap(), fast(100, 3), 1);
    let now = beginning();
    let stranger = Packet { your_discriminator: 77, ..Packet::new(2.try_into().unwrap(), BfdState::Init) };
    session.receive(now, &stranger);
    assert_eq!((session.state(), session.poll_event()), (BfdState::Down, None));
}

#[test]
fn who_wants_no_packets_gets_none() {
    let mut session = Session::new(1.try_into().unwrap(), fast(100, 3), 1);
    let mut now = beginning();
    let mute =
        Packet { required_min_rx: Duration::ZERO, ..Packet::new(2.try_into().unwrap(), BfdState::Down) };
    session.handle_timeout(now);
    assert!(session.poll_transmit(now).is_some());
    session.receive(now, &mute);
    for _ in 0..20 {
        now += Duration::from_millis(100);
        session.handle_timeout(now);
        assert_eq!(session.poll_transmit(now), None);
    }
}
