//! Servers by the name of a domain: SRV records (RFC 2782), asked of the resolvers in `/etc/resolv.conf`.
//!
//! The standard library resolves addresses only. What is needed here is one question and its answer.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// Time for one resolver to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Largest answer that is asked for over UDP; longer ones come over TCP.
const UDP_SIZE: u16 = 1_232;
/// Record type SRV, and OPT, which announces the size.
const SRV: u16 = 33;
const OPT: u16 = 41;
const INTERNET: u16 = 1;
/// Compressed names jump backwards at most this often.
const MAX_JUMPS: usize = 32;

/// One server of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Server {
    /// Lower ones are used first.
    priority: u16,
    /// Preference among equals, negated so that sorting puts the greater one first.
    weight: i32,
    /// Name of the host, without the dot at the end.
    pub(crate) host: String,
    /// Port.
    pub(crate) port: u16,
}

/// The servers of `name`, for example `_etcd-client._tcp.example.org`, best first. None when the name does not exist.
pub(crate) fn lookup(name: &str) -> Result<Vec<Server>, String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    lookup_at(&resolvers(&text), name)
}

/// The resolvers of a `resolv.conf`; the own host when none is named.
fn resolvers(text: &str) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, 53))
        .collect();
    if found.is_empty() {
        found.push(SocketAddr::from(([127, 0, 0, 1], 53)));
    }
    found
}

fn lookup_at(resolvers: &[SocketAddr], name: &str) -> Result<Vec<Server>, String> {
    let number = u16::try_from(uuid::Uuid::new_v4().as_u128() & 0xffff).unwrap_or(0);
    let Some(query) = query(number, name) else { return Err(format!("{name:?} is no domain name")) };
    let mut reasons = Vec::new();
    for resolver in resolvers {
        let answer = ask(*resolver, &query, number).map_err(|error| error.to_string());
        match answer.and_then(|answer| parse(number, &answer)) {
            Ok(mut servers) => {
                servers.sort();
                return Ok(servers);
            }
            Err(reason) => reasons.push(format!("{resolver}: {reason}")),
        }
    }
    Err(reasons.join("; "))
}

fn ask(resolver: SocketAddr, query: &[u8], number: u16) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if resolver.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(resolver)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(query)?;
    let mut answer = vec![0; usize::from(UDP_SIZE)];
    loop {
        let length = socket.recv(&mut answer)?;
        let got = answer.get(..length).unwrap_or_default();
        // An answer to an older question is passed over.
        if got.get(..2) != Some(&number.to_be_bytes()) {
            continue;
        }
        let truncated = got.get(2).is_some_and(|flags| flags & 0x02 != 0);
        if !truncated {
            return Ok(got.to_vec());
        }
        break;
    }
    let mut stream = TcpStream::connect_timeout(&resolver, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = u16::try_from(query.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&length.to_be_bytes()[..], query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// A question; `None` for what is no domain name.
fn query(number: u16, name: &str) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(name.len() + 32);
    // One question, one additional record; recursion wanted.
    for word in [number, 0x0100, 1, 0, 0, 1] {
        packet.extend(word.to_be_bytes());
    }
    let name = name.trim_end_matches('.');
    if name.len() > 253 {
        return None;
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        packet.push(length);
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    for word in [SRV, INTERNET] {
        packet.extend(word.to_be_bytes());
    }
    packet.push(0);
    for word in [OPT, UDP_SIZE, 0, 0, 0] {
        packet.extend(word.to_be_bytes());
    }
    Some(packet)
}

/// The servers in an answer.
fn parse(number: u16, packet: &[u8]) -> Result<Vec<Server>, String> {
    let cut = || "the answer is cut short".to_owned();
    let word = |at: usize| {
        let bytes = packet.get(at..at.checked_add(2)?)?;
        Some(u16::from_be_bytes(bytes.try_into().ok()?))
    };
    if word(0).ok_or_else(cut)? != number {
        return Err("the answer belongs to another question".to_owned());
    }
    match word(2).ok_or_else(cut)? & 0x000f {
        0 => {}
        // There is no such name.
        3 => return Ok(Vec::new()),
        code => return Err(format!("the resolver answers with error {code}")),
    }
    let (questions, answers) = (word(4).ok_or_else(cut)?, word(6).ok_or_else(cut)?);
    let mut at = 12;
    for _ in 0..questions {
        at = name(packet, at).ok_or_else(cut)?.1 + 4;
    }
    let mut servers = Vec::new();
    for _ in 0..answers {
        at = name(packet, at).ok_or_else(cut)?.1;
        let (kind, length) = (word(at).ok_or_else(cut)?, word(at + 8).ok_or_else(cut)?);
        let data = at + 10;
        if kind == SRV {
            let (host, _) = name(packet, data + 6).ok_or_else(cut)?;
            // A single dot says that the service is not offered here.
            if !host.is_empty() {
                servers.push(Server {
                    priority: word(data).ok_or_else(cut)?,
                    weight: -i32::from(word(data + 2).ok_or_else(cut)?),
                    port: word(data + 4).ok_or_else(cut)?,
                    host,
                });
            }
        }
        at = data + usize::from(length);
    }
    Ok(servers)
}

/// The name at an offset, and where what follows it begins.
fn name(packet: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut at, mut end, mut text) = (start, None, String::new());
    let mut jumps = 0;
    loop {
        let length = *packet.get(at)?;
        match length {
            0 => return Some((text, end.unwrap_or(at + 1))),
            1..=63 => {
                let label = packet.get(at + 1..at + 1 + usize::from(length))?;
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(std::str::from_utf8(label).ok()?);
                at += 1 + usize::from(length);
            }
            192.. => {
                let low = *packet.get(at + 1)?;
                end.get_or_insert(at + 2);
                at = usize::from(length & 0x3f) << 8 | usize::from(low);
                jumps += 1;
                if jumps > MAX_JUMPS {
                    return None;
                }
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An answer to `query` with these servers, their names compressed where they share the question's domain.
    fn answer(query: &[u8], servers: &[(u16, u16, u16, &str)]) -> Vec<u8> {
        let question = query.len() - 11;
        let mut packet = query[..question].to_vec();
        packet[2] = 0x81;
        packet[7] = u8::try_from(servers.len()).unwrap();
        packet[11] = 0;
        for (priority, weight, port, host) in servers {
            packet.extend([0xc0, 12]);
            for word in [SRV, INTERNET, 0, 60, 6 + u16::try_from(host.len()).unwrap() + 3] {
                packet.extend(word.to_be_bytes());
            }
            for word in [priority, weight, port] {
                packet.extend(word.to_be_bytes());
            }
            packet.push(u8::try_from(host.len()).unwrap());
            packet.extend(host.as_bytes());
            // `_etcd-client` and `_tcp` come before the domain in the question.
            packet.extend([0xc0, 12 + 13 + 5]);
        }
        packet
    }

    const NAME: &str = "_etcd-client._tcp.example.org";

    #[test]
    fn servers_come_best_first() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (resolver, silent) = (socket.local_addr().unwrap(), SocketAddr::from(([127, 0, 0, 1], 1)));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            // An answer to another question comes first.
            socket.send_to(&[0; 12], from).unwrap();
            let servers = [(10, 0, 2379, "c"), (5, 1, 2379, "a"), (5, 9, 2380, "b")];
            socket.send_to(&answer(&buffer[..length], &servers), from).unwrap();
        });
        let found = lookup_at(&[silent, resolver], NAME).unwrap();
        thread.join().unwrap();
        let places: Vec<String> = found.iter().map(|s| format!("{}:{}", s.host, s.port)).collect();
        assert_eq!(places, ["b.example.org:2380", "a.example.org:2379", "c.example.org:2379"]);
    }

    #[test]
    fn bad_names_and_bad_answers() {
        assert!(query(1, "a..b").is_none() && query(1, &"a".repeat(64)).is_none() && query(1, "").is_none());
        let question = query(7, NAME).unwrap();
        let good = answer(&question, &[(1, 1, 1, "a")]);
        assert_eq!(parse(7, &good).unwrap().len(), 1);
        assert!(parse(8, &good).is_err());
        for length in 0..good.len() {
            assert!(parse(7, &good[..length]).is_err(), "{length}");
        }
        // A name that points at itself.
        let mut circle = good.clone();
        circle[question.len() - 11] = 0xc0;
        circle[question.len() - 10] = u8::try_from(question.len() - 11).unwrap();
        assert!(parse(7, &circle).is_err());
        let mut absent = good.clone();
        absent[3] = 3;
        assert_eq!(parse(7, &absent), Ok(Vec::new()));
        absent[3] = 2;
        assert!(parse(7, &absent).is_err());
        assert_eq!(resolvers("# x\nnameserver ::1\nnameserver  10.0.0.1\noptions x\n").len(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut packet in proptest::collection::vec(any::<u8>(), 0..200)) {
            packet.splice(0..packet.len().min(8), [0, 7, 0x81, 0x80, 0, 1, 0, 3]);
            let _ = parse(7, &packet);
        }
    }
}
