//! The smallest program around the speaker: blocking sockets, a thread per connection, events as lines on standard
//! output. It shows the contract of `Speaker` and serves to try it against other implementations.
//!
//! ```text
//! speaker id=10.99.0.2 as=64513 peer=10.99.0.1,64512 route=10.2.0.0/26 [hold=9] [v6=fd99::2] [port=179] [for=20]
//! ```
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    reason = "this is the adapter: it has the sockets, the clock and the output that the library does without"
)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use calico_bgp::config::{LocalRoute, PeerConfig, SpeakerConfig};
use calico_bgp::wire::FamilySet;
use calico_bgp::{ConnectionId, DialId, Event, Input, Speaker};

/// What threads report.
enum News {
    Connected(DialId, TcpStream),
    Failed(DialId, String),
    Accepted(TcpStream),
    Data(ConnectionId, Vec<u8>),
    Closed(ConnectionId, String),
}

struct Adapter {
    speaker: Speaker,
    sockets: HashMap<ConnectionId, TcpStream>,
    next: u64,
    news: Sender<News>,
    began: Instant,
}

impl Adapter {
    /// Names a connection and starts its reader.
    fn adopt(&mut self, mut socket: TcpStream) -> ConnectionId {
        let id = ConnectionId(self.next);
        self.next += 1;
        socket.set_nodelay(true).unwrap();
        self.sockets.insert(id, socket.try_clone().unwrap());
        let news = self.news.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            loop {
                let report = match socket.read(&mut buffer) {
                    Ok(0) => News::Closed(id, "closed by the peer".into()),
                    Ok(length) => News::Data(id, buffer[..length].to_vec()),
                    Err(error) => News::Closed(id, error.to_string()),
                };
                let ended = matches!(report, News::Closed(..));
                if news.send(report).is_err() || ended {
                    return;
                }
            }
        });
        id
    }

    fn take(&mut self, news: News) {
        let now = Instant::now();
        match news {
            News::Connected(dial, socket) => {
                let local = socket.local_addr().unwrap();
                let connection = self.adopt(socket);
                self.speaker.handle(now, Input::Connected { dial, connection, local });
            }
            News::Failed(dial, why) => {
                self.speaker.handle(now, Input::ConnectFailed { dial, reason: why.as_str().into() });
            }
            News::Accepted(socket) => {
                let (local, remote) = (socket.local_addr().unwrap(), socket.peer_addr().unwrap());
                let connection = self.adopt(socket);
                self.speaker.handle(now, Input::Accepted { connection, local, remote });
            }
            News::Data(connection, data) => {
                self.speaker.handle(now, Input::Received { connection, data: &data });
            }
            News::Closed(connection, why) => {
                self.sockets.remove(&connection);
                self.speaker.handle(now, Input::Closed { connection, reason: why.as_str().into() });
            }
        }
    }

    /// The order of the contract: octets, then events.
    fn drain(&mut self) {
        while let Some(transmit) = self.speaker.poll_transmit() {
            if let Some(socket) = self.sockets.get_mut(&transmit.connection) {
                // A failure shows up at the reader as well.
                let _ = socket.write_all(&transmit.bytes);
            }
        }
        while let Some(event) = self.speaker.poll_event() {
            println!("{:7.3} {}", self.began.elapsed().as_secs_f64(), show(&event));
            match event {
                Event::Connect { dial, remote, .. } => {
                    let news = self.news.clone();
                    std::thread::spawn(move || {
                        let result = TcpStream::connect_timeout(&remote, Duration::from_secs(4));
                        let _ = news.send(match result {
                            Ok(socket) => News::Connected(dial, socket),
                            Err(error) => News::Failed(dial, error.to_string()),
                        });
                    });
                }
                Event::Close { connection, farewell } => {
                    if let Some(mut socket) = self.sockets.remove(&connection) {
                        if let Some(bytes) = farewell {
                            let _ = socket.write_all(&bytes);
                        }
                        let _ = socket.shutdown(Shutdown::Both);
                    }
                }
                Event::Fib(_) | Event::PeerState { .. } | Event::RestartComplete => {}
            }
        }
    }

    fn run(&mut self, reports: &Receiver<News>, end: Instant) {
        loop {
            self.drain();
            let now = Instant::now();
            if now >= end {
                return;
            }
            let wake = self.speaker.poll_timeout().unwrap_or(end).min(end);
            match reports.recv_timeout(wake.saturating_duration_since(now)) {
                Ok(news) => self.take(news),
                Err(RecvTimeoutError::Timeout) => self.speaker.handle(Instant::now(), Input::Timeout),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

fn show(event: &Event) -> String {
    match event {
        Event::Connect { remote, .. } => format!("connect {remote}"),
        Event::Close { connection, .. } => format!("close {}", connection.0),
        Event::Fib(change) => match &change.route {
            Some(route) => format!("route {} {route:?}", change.prefix),
            None => format!("unroute {}", change.prefix),
        },
        Event::PeerState { peer, state, reason } => format!("peer {peer} {state} ({reason})"),
        Event::RestartComplete => "restart complete".into(),
    }
}

/// Reads `key=value` arguments; the second value is how long to run.
fn configuration(arguments: &[String]) -> (SpeakerConfig, Duration) {
    let all = |key: &str| {
        let mut found = Vec::new();
        for argument in arguments {
            if let Some((name, value)) = argument.split_once('=')
                && name == key
            {
                found.push(value.to_owned());
            }
        }
        found
    };
    let one = |key: &str| all(key).pop();
    let own = one("id").expect("id=ADDRESS").parse::<std::net::Ipv4Addr>().expect("an IPv4 address");
    let asn = one("as").expect("as=NUMBER").parse().expect("a number");
    let mut config = SpeakerConfig::new(own, asn);
    config.restarting = one("restarting").is_some();
    if let Some(port) = one("port") {
        config.listen_port = port.parse().expect("a port");
    }
    for peer in all("peer") {
        let (address, remote_as) = peer.split_once(',').expect("peer=ADDRESS,AS");
        let address: IpAddr = address.parse().expect("an address");
        let mut peer =
            PeerConfig::new(&format!("peer_{address}"), address, asn, remote_as.parse().expect("an AS"));
        peer.connect_delay = Duration::from_millis(500);
        if let Some(six) = one("v6") {
            peer.families = FamilySet::ALL;
            peer.other_family_address = Some(six.parse().expect("an IPv6 address"));
        }
        if let Some(hold) = one("hold") {
            peer.hold_time = Duration::from_secs(hold.parse().expect("seconds"));
        }
        config = config.with_peer(peer);
    }
    for route in all("route") {
        config = config.with_route(route.parse().expect("a prefix"), LocalRoute::announced());
    }
    (config, Duration::from_secs(one("for").map_or(3600, |text| text.parse().expect("seconds"))))
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (config, time) = configuration(&arguments);
    let (news, reports) = channel();
    let listener =
        TcpListener::bind(SocketAddr::new(config.router_id.into(), config.listen_port)).expect("the port");
    let accepted = news.clone();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            if accepted.send(News::Accepted(socket)).is_err() {
                return;
            }
        }
    });
    let began = Instant::now();
    let speaker = Speaker::new(began, config, u64::from(std::process::id()));
    let mut adapter = Adapter { speaker, sockets: HashMap::new(), next: 0, news, began };
    adapter.run(&reports, began + time);
    for family in calico_bgp::wire::Family::ALL {
        for route in adapter.speaker.routes(family) {
            let peer: Option<Arc<str>> = route.peer;
            println!(
                "table {} from {:?} {:?} best={}",
                route.prefix, peer, route.attributes.path, route.best
            );
        }
    }
}
