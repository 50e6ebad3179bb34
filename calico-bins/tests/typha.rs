//! An agent that reads from `calico-typha`: in sync through it, told of changes, and back after the server was away.
#![cfg(feature = "fanout")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use calico_dataplane::netlink::{Address, LinkChange, NewKind, NewLink, Rtnetlink};

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(name: &str, directory: &Path) -> Command {
    let mut command = Command::new(name);
    command
        .env("DATASTORE_TYPE", "sqlite")
        .env("CALICO_DATASTORE_PATH", directory.join("calico.db"))
        .env("CALICO_NODE_SOCKET", directory.join("node.sock"))
        .stderr(Stdio::null());
    command
}

fn typha(directory: &Path) -> Running {
    let mut command = program(env!("CARGO_BIN_EXE_calico-typha"), directory);
    command.env("TYPHA_SERVERHOST", "127.0.0.1").env("TYPHA_HEALTHPORT", "9098");
    Running(command.env("TYPHA_SHUTDOWNTIMEOUTSECS", "10").spawn().unwrap())
}

/// A counter of the server; `None` while it does not answer.
fn counter(name: &str) -> Option<u64> {
    let mut stream = TcpStream::connect("127.0.0.1:9098").ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The test itself, inside a network namespace of its own.
#[test]
fn inside() {
    if std::env::var_os("CALICO_TYPHA_INSIDE").is_none() {
        return;
    }
    let mut netlink = Rtnetlink::open().unwrap();
    let lo = netlink.link("lo").unwrap();
    netlink.change_link(lo.index, &LinkChange::Up).unwrap();
    netlink.create_link(&NewLink { up: true, ..NewLink::new("eth0", NewKind::Bridge) }).unwrap();
    let eth0 = netlink.link("eth0").unwrap();
    netlink.add_address(&Address::new(eth0.index, "172.18.10.11/24".parse().unwrap())).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let calicoctl = |arguments: &[&str]| {
        let output = program(env!("CARGO_BIN_EXE_calicoctl"), directory).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let example = |name: &str| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name).display().to_string()
    };
    calicoctl(&["apply", "-f", &example("cluster")]);
    let mut server = typha(directory);
    eventually("the server answers", || counter("typha_connections_active").is_some());
    let _agent = Running(
        program(env!("CARGO_BIN_EXE_calico-node"), directory)
            .args(["--nodename", "node1", "--ip", "172.18.10.11/24"])
            .arg("--nodename-file")
            .arg(directory.join("nodename"))
            .env("FELIX_TYPHAADDR", "127.0.0.1:5473")
            .spawn()
            .unwrap(),
    );
    let in_sync = || calicoctl(&["node", "status", "-o", "json"]).contains(r#""datastore": "in-sync""#);
    eventually("the agent is in sync", in_sync);
    assert_eq!(counter("typha_connections_active"), Some(1));
    let before = counter("typha_updates_total").unwrap();
    calicoctl(&["apply", "-f", &example("policy")]);
    eventually("the policies reach the server", || counter("typha_updates_total").unwrap() >= before + 4);
    // A graceful end: the client is sent away and the server is gone long before its time is over.
    let pid = server.0.id().to_string();
    let begun = Instant::now();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(server.0.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(9), "the server waited for its client in vain");
    let _server = typha(directory);
    eventually("the agent comes back", || counter("typha_connections_active") == Some(1));
    eventually("the agent is in sync again", in_sync);
}

#[test]
fn an_agent_follows_the_fan_out() {
    let root = rustix::process::geteuid().is_root();
    let flags: &[&str] = if root { &["--net"] } else { &["--user", "--map-root-user", "--net"] };
    if !Command::new("unshare").args(flags).arg("true").status().is_ok_and(|status| status.success()) {
        println!("skipped: an_agent_follows_the_fan_out: no network namespaces for this user");
        return;
    }
    let output = Command::new("unshare")
        .args(flags)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture"])
        .env("CALICO_TYPHA_INSIDE", "1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
}
