//! What is tried with every peer that can do it.

use std::time::Duration;

use calico_bgp::config::{Authentication, PeerConfig, SpeakerConfig, Ttl};
use calico_bgp::wire::FamilySet;

use crate::arena::{Arena, Running, arena, eventually};
use crate::speaker::{Speaker, node, peer};

pub(crate) const OUR_AS: u32 = 64512;
pub(crate) const PASSWORD: &str = "s3cret";

/// One way to run a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) our_as: u32,
    pub(crate) their_as: u32,
    /// The session runs over IPv6.
    pub(crate) over_six: bool,
    pub(crate) both_families: bool,
    pub(crate) md5: bool,
    pub(crate) gtsm: bool,
    pub(crate) add_path: bool,
    pub(crate) extended_next_hop: bool,
}

pub(crate) const EXTERNAL: Case = Case {
    name: "eBGP over IPv4",
    our_as: OUR_AS,
    their_as: 64513,
    over_six: false,
    both_families: false,
    md5: false,
    gtsm: false,
    add_path: false,
    extended_next_hop: false,
};
pub(crate) const EXTERNAL_SIX: Case = Case { name: "eBGP over IPv6", over_six: true, ..EXTERNAL };
pub(crate) const INTERNAL: Case = Case { name: "iBGP", their_as: OUR_AS, ..EXTERNAL };
pub(crate) const BOTH: Case = Case { name: "both families on one session", both_families: true, ..EXTERNAL };
pub(crate) const MD5: Case = Case { name: "MD5", md5: true, ..EXTERNAL };
pub(crate) const MD5_SIX: Case = Case { name: "MD5 over IPv6", md5: true, over_six: true, ..EXTERNAL };
pub(crate) const GTSM: Case = Case { name: "GTSM", gtsm: true, ..EXTERNAL };
pub(crate) const ADD_PATH: Case = Case { name: "ADD-PATH", add_path: true, ..INTERNAL };
pub(crate) const EXTENDED: Case =
    Case { name: "RFC 8950", over_six: true, both_families: true, extended_next_hop: true, ..EXTERNAL };
pub(crate) const LARGE_AS: Case =
    Case { name: "4-octet AS", our_as: 4_200_000_001, their_as: 4_200_000_002, ..EXTERNAL };

impl Case {
    pub(crate) const fn internal(&self) -> bool {
        self.our_as == self.their_as
    }

    pub(crate) const fn four(&self) -> bool {
        !self.over_six || self.both_families
    }

    pub(crate) const fn six(&self) -> bool {
        self.over_six || self.both_families
    }

    pub(crate) const fn our_address(&self) -> &'static str {
        if self.over_six { "fd99::1" } else { "10.99.0.1" }
    }

    pub(crate) const fn their_address(&self) -> &'static str {
        if self.over_six { "fd99::2" } else { "10.99.0.2" }
    }

    pub(crate) fn session(&self) -> PeerConfig {
        let mut peer = peer(self.their_address(), self.our_as, self.their_as);
        if self.both_families {
            peer.families = FamilySet::ALL;
        }
        if self.md5 {
            peer.authentication = Authentication::Md5(PASSWORD.as_bytes().into());
        }
        if self.gtsm {
            peer.ttl = Ttl::Security(1);
        }
        peer.add_path_receive = self.add_path;
        peer.add_path_send = self.add_path;
        peer.extended_next_hop = self.extended_next_hop;
        if self.extended_next_hop {
            // Who has no IPv4 address has no other choice.
            peer.other_family_address = None;
        }
        peer
    }

    pub(crate) fn speaker(&self) -> SpeakerConfig {
        node(self.our_as).with_peer(self.session())
    }
}

/// A BGP implementation. It announces 10.2.0.0/26 and fd10:2::/122.
pub(crate) trait Implementation {
    /// Programs that have to be there.
    const PROGRAMS: &'static [&'static str];

    fn start(arena: &Arena, case: &Case) -> Running;

    /// Starts it again after it was killed.
    fn restart(arena: &Arena, case: &Case) -> Running {
        Self::start(arena, case)
    }

    /// What it says about a prefix that it received.
    fn shows(arena: &Arena, prefix: &str) -> String;

    /// How it writes a text that must stand in [`Implementation::shows`] for our route.
    fn marks(case: &Case, six: bool) -> Vec<String>;
}

/// Runs a case: the session comes up, both learn the other's routes with the right next hop, and after `kill -9` of
/// the peer the routes stay until it has come back and said that it has told all.
pub(crate) fn run<P: Implementation>(test: &str, cases: &[Case]) {
    for case in cases {
        let Some(arena) = arena(test, P::PROGRAMS) else { return };
        let context = format!("{test}: {}", case.name);
        let theirs = P::start(&arena, case);
        let ours = Speaker::start(&arena, case.speaker());
        let check = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            ours.established(&context);
            let gateway = |six: bool| match (case.extended_next_hop, six) {
                (true, _) | (_, true) => "fd99::2",
                _ => "10.99.0.2",
            };
            if case.four() {
                ours.learns(&context, "10.2.0.0/26", &[gateway(false)]);
                shown::<P>(&arena, &context, "10.1.0.0/26", &P::marks(case, false));
            }
            if case.six() {
                ours.learns(&context, "fd10:2::/122", &[gateway(true)]);
                shown::<P>(&arena, &context, "fd10:1::/122", &P::marks(case, true));
            }
        }));
        if let Err(panic) = check {
            println!("{context}: the peer said: {}", theirs.said());
            std::panic::resume_unwind(panic);
        }
        println!("passed: {context}");
    }
}

fn shown<P: Implementation>(arena: &Arena, context: &str, prefix: &str, marks: &[String]) {
    eventually(context, || {
        let text = P::shows(arena, prefix);
        match marks.iter().find(|mark| !text.contains(mark.as_str())) {
            None => Ok(()),
            Some(mark) => Err(format!("no {mark:?} in {text}")),
        }
    });
}

/// `kill -9` of the peer, and its return.
pub(crate) fn graceful_restart<P: Implementation>(test: &str) {
    let Some(arena) = arena(test, P::PROGRAMS) else { return };
    let theirs = P::start(&arena, &EXTERNAL);
    let ours = Speaker::start(&arena, EXTERNAL.speaker());
    ours.learns(test, "10.2.0.0/26", &["10.99.0.2"]);
    // Long enough for the peer to have said that it has told all.
    std::thread::sleep(Duration::from_secs(1));
    drop(theirs);
    eventually(test, || match ours.peer() {
        Some(peer) if peer.bgp_state != "Established" && peer.detail.restarting => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(ours.has("10.2.0.0/26"), "the route outlives the session");
    let theirs = P::restart(&arena, &EXTERNAL);
    let mut lost = false;
    eventually(test, || {
        lost |= !ours.has("10.2.0.0/26");
        match ours.peer() {
            Some(peer) if peer.bgp_state == "Established" && !peer.detail.restarting => Ok(()),
            other => Err(format!("{other:?}: {}", theirs.said())),
        }
    });
    lost |= !ours.has("10.2.0.0/26");
    assert!(!lost, "the route was lost while the peer was away");
}

/// `kill -9` of ours, and our return: the peer keeps our route.
pub(crate) fn our_restart<P: Implementation>(test: &str) {
    let Some(arena) = arena(test, P::PROGRAMS) else { return };
    let _theirs = P::start(&arena, &EXTERNAL);
    let ours = Speaker::start(&arena, EXTERNAL.speaker());
    shown::<P>(&arena, test, "10.1.0.0/26", &P::marks(&EXTERNAL, false));
    ours.established(test);
    std::thread::sleep(Duration::from_secs(1));
    drop(ours);
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(200));
        let text = P::shows(&arena, "10.1.0.0/26");
        assert!(text.contains("10.1.0.0/26"), "the peer keeps our route: {text}");
    }
    let config = SpeakerConfig { restarting: true, ..EXTERNAL.speaker() };
    let ours = Speaker::start(&arena, config);
    let mut texts = Vec::new();
    eventually(test, || {
        texts.push(P::shows(&arena, "10.1.0.0/26"));
        match ours.peer() {
            Some(peer) if peer.bgp_state == "Established" && peer.detail.announced[0] > 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    std::thread::sleep(Duration::from_secs(1));
    texts.push(P::shows(&arena, "10.1.0.0/26"));
    assert!(texts.iter().all(|text| text.contains("10.1.0.0/26")), "{texts:?}");
}
