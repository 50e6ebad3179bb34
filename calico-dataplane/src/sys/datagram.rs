//! Datagrams with the TTL that they arrived with, for protocols that accept only direct neighbours (RFC 5082).

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use super::sockopt;

/// `struct sockaddr_storage`: 128 octets.
#[repr(C, align(8))]
struct Address([u8; 128]);

/// Room for two control messages of one integer each.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// A datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Octets written to the buffer; what did not fit is lost.
    pub length: usize,
    /// The sender.
    pub from: SocketAddr,
    /// TTL or hop limit on arrival; `None` when [`report_ttl`] was not asked for.
    pub ttl: Option<u8>,
}

/// From now on [`receive`] tells the TTL (hop limit). `v6` names the family of the socket.
///
/// # Errors
/// What `setsockopt` said.
pub fn report_ttl(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT) } else { (libc::IPPROTO_IP, libc::IP_RECVTTL) };
    sockopt::set(socket.as_fd(), level, name, &1_i32)
}

/// The next datagram.
///
/// # Errors
/// What `recvmsg` said, among them [`io::ErrorKind::WouldBlock`]; [`io::ErrorKind::InvalidData`] for a sender that is
/// not of the internet families.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut address = Address([0; 128]);
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all fields of msghdr are integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = address.0.as_mut_ptr().cast();
    message.msg_namelen = 128;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = 64;
    // SAFETY: the descriptor is borrowed, hence open for the whole call. Name, buffer, vector and control area are live
    // and exclusively borrowed for the call, and the lengths beside the pointers are their true sizes, so the kernel
    // writes only into them; all of them are plain octets, for which any content is valid.
    let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let used = control.0.get(..message.msg_controllen).unwrap_or_default();
    let from = sender(&address.0).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Received { length, from, ttl: ttl(used) })
}

/// Reads a `struct sockaddr_in` or `sockaddr_in6`.
fn sender(address: &[u8; 128]) -> Option<SocketAddr> {
    let [f0, f1, p0, p1, rest @ ..] = address;
    let port = u16::from_be_bytes([*p0, *p1]);
    let ip: IpAddr = match i32::from(u16::from_ne_bytes([*f0, *f1])) {
        libc::AF_INET => Ipv4Addr::from(*rest.first_chunk::<4>()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(*rest.get(4..)?.first_chunk::<16>()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Finds the TTL among control messages: length (of the platform's word), level, type, integer, padded to words.
fn ttl(mut control: &[u8]) -> Option<u8> {
    const WORD: usize = size_of::<usize>();
    while let Some((length, rest)) = control.split_first_chunk::<WORD>() {
        let length = usize::from_ne_bytes(*length);
        let (level, rest) = rest.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk::<4>()?;
        let found = (i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind));
        if found == (libc::IPPROTO_IP, libc::IP_TTL) || found == (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) {
            return u8::try_from(i32::from_ne_bytes(*rest.first_chunk()?)).ok();
        }
        control = control.get(length.max(1).next_multiple_of(WORD)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn the_senders_ttl_arrives() {
        for (host, v6) in [("127.0.0.1:0", false), ("[::1]:0", true)] {
            let Ok(socket) = UdpSocket::bind(host) else { continue };
            report_ttl(&socket, v6).unwrap();
            let other = socket2::Socket::from(UdpSocket::bind(host).unwrap());
            if v6 { other.set_unicast_hops_v6(255) } else { other.set_ttl_v4(255) }.unwrap();
            let other = UdpSocket::from(other);
            other.send_to(b"hello", socket.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 3];
            let received = receive(&socket, &mut buffer).unwrap();
            assert_eq!((received.length, &buffer), (3, b"hel"));
            assert_eq!((received.from, received.ttl), (other.local_addr().unwrap(), Some(255)));
        }
    }

    #[test]
    fn without_asking_there_is_no_ttl() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"", socket.local_addr().unwrap()).unwrap();
        assert_eq!(receive(&socket, &mut [0; 9]).unwrap().ttl, None);
    }

    #[test]
    fn an_empty_queue_would_block() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        assert_eq!(receive(&socket, &mut [0; 9]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
