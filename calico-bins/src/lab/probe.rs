//! Probes that run inside a pod's network namespace: ICMP echo and TCP, each with a time-out.

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// A network namespace that probes run in.
#[derive(Debug, Clone)]
pub struct Place(Arc<OwnedFd>);

/// What came back from a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// TTL of the answer on arrival.
    pub ttl: u8,
    /// Round trip.
    pub rtt: Duration,
}

/// Echo identifiers are never used twice: the kernel's connection tracking would take the second probe for a
/// part of the first, which policy no longer judges.
static NEXT_ECHO: AtomicU16 = AtomicU16::new(1);

impl Place {
    /// The namespace that `namespace` refers to.
    pub fn new(namespace: OwnedFd) -> Self {
        Self(Arc::new(namespace))
    }

    /// Runs `work` on a thread of its own inside the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            });
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the probe's thread panicked")))
        })
    }

    /// Pings `to` once; `Ok(None)` when no answer came within `timeout`.
    pub fn ping(&self, to: Ipv4Addr, timeout: Duration) -> io::Result<Option<Echo>> {
        self.run(|| ping(to, timeout))
    }

    /// Opens a TCP connection to `to` and closes it again; `Ok(None)` when nothing answered within `timeout`.
    pub fn connect(&self, to: SocketAddr, timeout: Duration) -> io::Result<Option<Duration>> {
        self.run(|| connect(to, timeout))
    }

    /// What an HTTP server on this place's loopback answers, header and body.
    pub fn fetch(&self, port: u16, path: &str) -> io::Result<String> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        self.run(move || {
            let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            io::Write::write_all(&mut stream, request.as_bytes())?;
            io::read_to_string(stream)
        })
    }

    /// Tries a TCP connection to `to` again and again until it opens (`open`) or stays unanswered (`!open`).
    /// Returns when the deciding attempt began; `None` when `deadline` passed first.
    pub fn await_tcp(
        &self,
        to: SocketAddr,
        open: bool,
        attempt: Duration,
        deadline: Instant,
    ) -> io::Result<Option<Instant>> {
        self.run(|| {
            loop {
                let begun = Instant::now();
                if begun >= deadline {
                    return Ok(None);
                }
                // Drops are what most attempts of an opening end in; a short first try keeps the measure sharp.
                if connect(to, attempt)?.is_some() == open {
                    return Ok(Some(begun));
                }
                if !open {
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
        })
    }

    /// Accepts connections on `port` until the returned guard is dropped.
    pub fn serve(&self, port: u16) -> io::Result<Server> {
        let listener = self.run(move || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
            socket.listen(128)?;
            socket.set_nonblocking(true)?;
            Ok(TcpListener::from(socket))
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || accept(&listener, &stopped));
        Ok(Server { stop, thread: Some(thread) })
    }
}

/// A TCP server in a pod; stops when dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
                let _ = stream.read(&mut [0; 64]);
            }
            Err(_) => {
                let mut fds = [rustix::event::PollFd::new(listener, rustix::event::PollFlags::IN)];
                let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
                let _ = rustix::event::poll(&mut fds, Some(&wait));
            }
        }
    }
}

fn connect(to: SocketAddr, timeout: Duration) -> io::Result<Option<Duration>> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    // Closing with a reset leaves no TIME_WAIT behind, however often a probe is repeated.
    socket.set_linger(Some(Duration::ZERO))?;
    let begun = Instant::now();
    match socket.connect_timeout(&SockAddr::from(to), timeout) {
        Ok(()) => Ok(Some(begun.elapsed())),
        Err(e) if no_answer(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Errors that say "the network did not let me", as opposed to "the probe is broken".
fn no_answer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::ConnectionReset
    )
}

fn ping(to: Ipv4Addr, timeout: Duration) -> io::Result<Option<Echo>> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    let id = NEXT_ECHO.fetch_add(1, Ordering::Relaxed);
    let request = echo_request(id);
    let begun = Instant::now();
    match socket.send_to(&request, &SocketAddr::from((to, 0)).into()) {
        Ok(_) => {}
        Err(e) if no_answer(&e) => return Ok(None),
        Err(e) => return Err(e),
    }
    let mut packet = [0_u8; 1500];
    loop {
        let left = timeout.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let length = match (&socket).read(&mut packet) {
            Ok(length) => length,
            Err(e) if no_answer(&e) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if let Some(ttl) = packet.get(..length).and_then(|packet| echo_reply(packet, to, id)) {
            return Ok(Some(Echo { ttl, rtt: begun.elapsed() }));
        }
    }
}

/// An ICMP echo request with a correct checksum (RFC 792).
fn echo_request(id: u16) -> [u8; 16] {
    let mut packet = [0_u8; 16];
    packet[0] = 8;
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[7] = 1;
    packet[8..].copy_from_slice(b"calico..");
    let sum: u32 = packet.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    packet[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    packet
}

/// The TTL of `packet` when it is `from`'s answer to the echo request `id`.
fn echo_reply(packet: &[u8], from: Ipv4Addr, id: u16) -> Option<u8> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let icmp = packet.get(header..)?;
    let is_ours = Ipv4Addr::from(source) == from
        && icmp.first() == Some(&0)
        && icmp.get(4..6) == Some(id.to_be_bytes().as_slice());
    is_ours.then_some(*packet.get(8)?)
}

/// The IPv4 address of `addr`, for probes that know no other family.
pub fn ipv4(addr: IpAddr) -> io::Result<Ipv4Addr> {
    match addr {
        IpAddr::V4(v4) => Ok(v4),
        IpAddr::V6(v6) => Err(io::Error::other(format!("{v6} is not an IPv4 address"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_request_folds_to_zero() {
        let packet = echo_request(0x1234);
        let sum: u32 = packet.chunks_exact(2).map(|p| u32::from(u16::from_be_bytes([p[0], p[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn only_the_right_answer_counts() {
        let mut packet = vec![0_u8; 28];
        packet[0] = 0x45;
        packet[8] = 62;
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet[24..26].copy_from_slice(&7_u16.to_be_bytes());
        assert_eq!(echo_reply(&packet, Ipv4Addr::new(10, 0, 0, 1), 7), Some(62));
        assert_eq!(echo_reply(&packet, Ipv4Addr::new(10, 0, 0, 2), 7), None);
        assert_eq!(echo_reply(&packet, Ipv4Addr::new(10, 0, 0, 1), 8), None);
        assert_eq!(echo_reply(&packet[..10], Ipv4Addr::new(10, 0, 0, 1), 7), None);
    }

    #[test]
    fn loopback_answers() {
        let here = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let place = Place::new(here.into());
        let server = place.serve(0);
        if let Err(error) = &server
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            println!("skipped: loopback_answers: {error}");
            return;
        }
        assert!(server.is_ok());
        let closed = place.connect("127.0.0.1:1".parse().unwrap(), Duration::from_millis(200)).unwrap();
        assert_eq!(closed, None);
    }
}
