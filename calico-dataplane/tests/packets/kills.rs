//! The agent's process is killed and started again, a hundred times, while policy changes all the time.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use calico_dataplane::driver::{DriverConfig, Input, InterfaceState, Output, PolicyDataplane, spawn};
use calico_dataplane::nft::Dataplane;
use calico_dataplane::nft::config::Config;
use calico_policy::packet::Packet;
use calico_policy::scenario::Dice;

use crate::isolation::isolated;
use crate::pods::{Pod, address, forget_connections, node, one_door, settle};

const NAME: &str = "kills::no_gap_while_policy_changes_and_the_agent_is_killed";
/// Tells a process of this test that it is the agent, and how often there was one before.
const AGENT: &str = "CALICO_TEST_AGENT";
/// An agent that nobody kills ends by itself.
const LIFETIME: Duration = Duration::from_secs(60);

#[test]
fn no_gap_while_policy_changes_and_the_agent_is_killed() {
    match std::env::var(AGENT) {
        Ok(round) => agent(round.parse().unwrap()),
        Err(_) => isolated(NAME, churn_and_kills_leave_no_gap),
    }
}

/// The agent: adopts what the kernel has and then changes policy without rest. The door's own rules, its set and the
/// endpoints change and come back, but what the prober tries is allowed or denied all the time.
fn agent(round: u32) {
    let say = |output| {
        if output == Output::Ready {
            println!("\nagent ready");
        }
    };
    let config = DriverConfig { own_bgp_routes: false, ..DriverConfig::default() };
    let driver = spawn(config, || Dataplane::open(Config::default()), say).unwrap();
    let end = Instant::now() + LIFETIME;
    driver.send(Input::Changes(Box::new(one_door(round % 4))));
    driver.send(Input::InSync);
    let mut step = round;
    while Instant::now() < end {
        step = step.wrapping_add(1);
        let mut changes = one_door(step % 5);
        if step.is_multiple_of(3) {
            // Those that do not take part go and come.
            changes.workload_endpoints.truncate(3);
            changes.removed_workload_endpoints =
                one_door(0).workload_endpoints[3..].iter().map(|endpoint| endpoint.id.clone()).collect();
        }
        assert!(driver.send(Input::Changes(Box::new(changes))));
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("nobody killed this agent");
}

/// A running agent; killed at the latest when this is dropped.
struct Agent(Child);

impl Agent {
    fn start(round: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", NAME, "--nocapture"]).env(AGENT, round.to_string());
        Self(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn wait_until_ready(&mut self) {
        let stdout = BufReader::new(self.0.stdout.take().unwrap());
        let mut lines = stdout.lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "agent ready"), "the agent ended by itself");
        // Whatever it says later finds an open pipe.
        std::mem::forget(lines);
    }

    fn kill(mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "the agent ended by itself");
        self.0.kill().unwrap();
        assert!(!self.0.wait().unwrap().success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Policies churn, the table is rewritten, and the agent is killed and restarted a hundred times, while a prober sends
/// new connections all the time: none that is allowed is lost, none that is denied gets through.
fn churn_and_kills_leave_no_gap() {
    let restarts: usize =
        std::env::var("CALICO_RESTARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let pods = node();
    settle(&pods);
    let mut first = Dataplane::open(Config::default()).unwrap();
    first.apply(&one_door(0), &InterfaceState::default()).unwrap();
    let before = first.stats().commits;
    drop(first);
    forget_connections();
    pods.iter().for_each(|pod| drop(pod.arrived()));

    let stop = AtomicBool::new(false);
    let mut dice = Dice::new(restarts as u64);
    let mut early = 0;
    let probes = std::thread::scope(|scope| {
        let prober = scope.spawn(|| probe(&pods, &stop));
        for round in 0..restarts {
            let mut agent = Agent::start(round);
            // Some die at their work, some while they start.
            if dice.one_in(4) {
                early += 1;
            } else {
                agent.wait_until_ready();
            }
            std::thread::sleep(Duration::from_micros(dice.below(40_000) as u64));
            agent.kill();
            if prober.is_finished() {
                break;
            }
        }
        stop.store(true, Ordering::SeqCst);
        prober.join().unwrap()
    });
    println!("{restarts} kills, {early} of them during the start: {probes} connections tried of each kind");
    assert!(probes > restarts, "the prober kept pace: {probes}");
    // The agents did work, and the next one takes over what they left.
    let mut next = Dataplane::open(Config::default()).unwrap();
    next.apply(&one_door(0), &InterfaceState::default()).unwrap();
    assert_eq!(next.resync().unwrap().messages, 0);
    assert!(before > 0 && next.stats().reads > 0);
}

/// New connections of both kinds until told to stop; answers how many of each.
fn probe(pods: &[Pod], stop: &AtomicBool) -> usize {
    let mut marker = 0u16;
    let mut rounds = 0;
    while !stop.load(Ordering::SeqCst) {
        // A marker and a source port of its own for each, so that every packet begins a connection.
        marker = marker.wrapping_add(2) | 1;
        rounds += 1;
        let v6 = rounds % 2 == 0;
        let mut allowed = Packet::udp(address(0, v6), address(1, v6), 4242);
        allowed.src_port = 10_000 + (rounds % 50_000) as u16;
        let mut denied = Packet { src: address(2, v6), ..allowed };
        denied.src_port = allowed.src_port;
        assert!(pods[0].send(&allowed, marker));
        assert!(pods[2].send(&denied, marker.wrapping_add(1)));
        let mut arrived = BTreeSet::new();
        for _ in 0..200 {
            arrived.extend(pods[1].arrived());
            if arrived.contains(&marker) {
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        assert!(arrived.contains(&marker), "an allowed connection was lost in round {rounds}");
        // Those that are denied have even markers, also the ones of earlier rounds that were late.
        let leaked: Vec<&u16> = arrived.iter().filter(|marker| **marker % 2 == 0).collect();
        assert!(leaked.is_empty(), "a denied connection got through by round {rounds}");
    }
    rounds
}
