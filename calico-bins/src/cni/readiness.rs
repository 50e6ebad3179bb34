//! Waiting for others before a pod is attached: URLs that must answer, and the note of an agent of another make.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::time::{Duration, Instant};

use calico_policy::changes::WorkloadEndpointId;

use super::error::{CniError, code};

/// Longest wait for one URL.
const GATE_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between two questions to a URL.
const GATE_PERIOD: Duration = Duration::from_secs(5);

/// Pause between two looks for a file.
const FILE_PERIOD: Duration = Duration::from_millis(100);

/// An `http` URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Gate {
    host: String,
    port: u16,
    path: String,
}

impl Gate {
    fn parse(url: &str) -> Result<Self, CniError> {
        let bad = |why: &str| {
            CniError::new(code::INVALID_CONFIG, format!("readiness_gates: {url:?}: {why}"))
                .details("a gate is a URL such as http://localhost:9099/readiness")
        };
        let rest = url.strip_prefix("http://").ok_or_else(|| bad("it does not begin with http://"))?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, port.parse().map_err(|_| bad("the port is not a number up to 65535"))?)
            }
            _ => (authority, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || !url.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("it names no host, or holds blanks"));
        }
        Ok(Self { host: host.to_owned(), port, path: path.to_owned() })
    }

    /// Asks once. The status code, or why there is none.
    fn ask(&self, timeout: Duration) -> std::io::Result<u16> {
        let address = (self.host.as_str(), self.port).to_socket_addrs()?.next();
        let address = address.ok_or_else(|| std::io::Error::other("the host has no address"))?;
        let mut stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let request =
            format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.path, self.host);
        stream.write_all(request.as_bytes())?;
        let mut head = [0; 64];
        let mut filled = 0;
        while let Some(free) = head.get_mut(filled..).filter(|free| !free.is_empty()) {
            match stream.read(free)? {
                0 => break,
                n => filled += n,
            }
            if head.get(..filled).is_some_and(|read| read.contains(&b'\n')) {
                break;
            }
        }
        let line = String::from_utf8_lossy(head.get(..filled).unwrap_or_default()).into_owned();
        let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        status.ok_or_else(|| std::io::Error::other(format!("this is not HTTP: {line:?}")))
    }
}

/// Waits until every URL answers with a status of 200 to 399.
pub fn wait_for_gates(urls: &[String]) -> Result<(), CniError> {
    let gates = urls.iter().map(|url| Gate::parse(url)).collect::<Result<Vec<_>, _>>()?;
    gates.iter().zip(urls).try_for_each(|(gate, url)| wait_for_gate(gate, url, GATE_TIMEOUT, GATE_PERIOD))
}

fn wait_for_gate(gate: &Gate, url: &str, timeout: Duration, period: Duration) -> Result<(), CniError> {
    let deadline = Instant::now() + timeout;
    loop {
        let reason = match gate.ask(period) {
            Ok(200..=399) => return Ok(()),
            Ok(status) => format!("it answers with status {status}"),
            Err(error) => error.to_string(),
        };
        if Instant::now() + period > deadline {
            return Err(CniError::new(
                code::TRY_AGAIN_LATER,
                format!("readiness gate {url} is not ready after {timeout:?}"),
            )
            .details(reason));
        }
        std::thread::sleep(period);
    }
}

/// The name of the file by which an agent tells that an endpoint is in force.
pub fn status_file(id: &WorkloadEndpointId) -> String {
    [&id.orchestrator, &id.workload, &id.endpoint].map(|part| escape(part)).join(" ")
}

/// Escapes a path segment of a URL.
fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+=:@".contains(&b);
    let one = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(one).collect()
}

/// Waits until the agent's file for `id` is in `dir`. False when the time is up: the pod starts all the same.
pub fn wait_for_file(dir: &Path, id: &WorkloadEndpointId, timeout: Duration) -> bool {
    let file = dir.join(status_file(id));
    let deadline = Instant::now() + timeout;
    while !file.exists() {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
        std::thread::sleep(FILE_PERIOD.min(left));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn serve(answers: Vec<&'static str>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 512]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        port
    }

    #[test]
    fn urls_are_taken_apart_or_refused() {
        let gate = |host: &str, port, path: &str| Gate { host: host.into(), port, path: path.into() };
        assert_eq!(
            Gate::parse("http://localhost:9099/readiness").unwrap(),
            gate("localhost", 9099, "/readiness")
        );
        assert_eq!(Gate::parse("http://[::1]:80").unwrap(), gate("::1", 80, "/"));
        assert_eq!(Gate::parse("http://[::1]").unwrap(), gate("::1", 80, "/"));
        assert_eq!(Gate::parse("http://host").unwrap(), gate("host", 80, "/"));
        for bad in ["", "host:80", "https://h", "http://", "http://h:99999/", "http://h/a b"] {
            assert_eq!(Gate::parse(bad).unwrap_err().code, code::INVALID_CONFIG, "{bad}");
        }
    }

    #[test]
    fn a_gate_opens_when_it_answers_well() {
        let port = serve(vec!["HTTP/1.1 503 No\r\n\r\n", "rubbish\n", "HTTP/1.1 204 Yes\r\n\r\n"]);
        let gate = Gate { host: "127.0.0.1".into(), port, path: "/".into() };
        wait_for_gate(&gate, "x", Duration::from_secs(5), Duration::from_millis(20)).unwrap();
        let port = serve(vec!["HTTP/1.1 503 No\r\n\r\n"; 3]);
        let gate = Gate { port, ..gate };
        let error =
            wait_for_gate(&gate, "x", Duration::from_millis(30), Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.code, code::TRY_AGAIN_LATER);
        assert!(error.details.contains("503"), "{error}");
    }

    #[test]
    fn files_of_endpoints_have_the_names_that_the_reference_gives_them() {
        let id = WorkloadEndpointId {
            orchestrator: "k8s".into(),
            workload: "default/testpod1".into(),
            endpoint: "eth0".into(),
        };
        assert_eq!(status_file(&id), "k8s default%2Ftestpod1 eth0");
        let dir = tempfile::tempdir().unwrap();
        assert!(!wait_for_file(dir.path(), &id, Duration::from_millis(20)));
        let file = dir.path().join(status_file(&id));
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            std::fs::write(file, "").unwrap();
        });
        assert!(wait_for_file(dir.path(), &id, Duration::from_secs(10)));
    }
}
