//! TCP MD5 signatures (RFC 2385), TCP-AO (RFC 5925) and the minimum TTL (RFC 5082) of BGP sessions.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use super::sockopt::{self, PlainData};

/// The longest key that the kernel takes.
pub const MAX_KEY: usize = 80;

const TCP_MD5SIG: i32 = 14;
const TCP_MD5SIG_EXT: i32 = 32;
const TCP_AO_ADD_KEY: i32 = 38;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;
const IP_MINTTL: i32 = 21;
const IPV6_MINHOPCOUNT: i32 = 73;

/// `struct tcp_md5sig` of `linux/tcp.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpMd5Sig {
    /// `struct sockaddr_storage`: family in host order, port 0, then the address.
    address: [u8; 128],
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: u32,
    key: [u8; MAX_KEY],
}

const _: () = assert!(size_of::<TcpMd5Sig>() == 216, "the layout of linux/tcp.h");

// SAFETY: 128 + 1 + 1 + 2 + 4 + 80 = 216 is the size asserted above, so there is no padding; all fields are
// integers or arrays of them.
unsafe impl PlainData for TcpMd5Sig {}

/// Why a key could not be set.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key is empty or longer than [`MAX_KEY`].
    #[error("a TCP MD5 key has 1 to {MAX_KEY} bytes, not {0}; shorten the BGP password")]
    Length(usize),
    /// The prefix is longer than the address.
    #[error("prefix length {prefix} is longer than the address {address}")]
    Prefix {
        /// The peer address.
        address: IpAddr,
        /// The prefix length asked for.
        prefix: u8,
    },
    /// The name of the algorithm is empty or too long for the kernel.
    #[error("a TCP-AO algorithm has a name of 1 to 63 bytes, not {0:?}; hmac(sha1) is understood everywhere")]
    Algorithm(String),
    /// The kernel refused.
    #[error("setting the TCP key for {address}: {source}")]
    Kernel {
        /// The peer address.
        address: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

fn signature(peer: IpAddr, prefix: u8, key: &[u8]) -> TcpMd5Sig {
    let mut sig = TcpMd5Sig {
        address: [0; 128],
        flags: 0,
        prefix_length: prefix,
        key_length: key.len() as u16,
        interface: 0,
        key: [0; MAX_KEY],
    };
    let (family, offset, octets): (i32, usize, Vec<u8>) = match peer {
        IpAddr::V4(v4) => (libc::AF_INET, 4, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, 8, v6.octets().to_vec()),
    };
    sig.address[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    sig.address[offset..offset + octets.len()].copy_from_slice(&octets);
    sig.key[..key.len()].copy_from_slice(key);
    sig
}

/// Signs all segments to and from `peer` on `socket` with `key` (RFC 2385). On a listening socket the key
/// holds for connections that it will accept from that peer.
///
/// # Errors
/// [`KeyError`] with the peer address.
pub fn set_md5_key(socket: &impl AsFd, peer: IpAddr, key: &[u8]) -> Result<(), KeyError> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(KeyError::Length(key.len()));
    }
    sockopt::set(socket.as_fd(), libc::IPPROTO_TCP, TCP_MD5SIG, &signature(peer, 0, key))
        .map_err(|source| KeyError::Kernel { address: peer, source })
}

/// As [`set_md5_key`] for every peer in `network/prefix` (dynamic neighbours).
///
/// # Errors
/// [`KeyError`] with the network address.
pub fn set_md5_key_for_prefix(
    socket: &impl AsFd,
    network: IpAddr,
    prefix: u8,
    key: &[u8],
) -> Result<(), KeyError> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(KeyError::Length(key.len()));
    }
    if prefix > if network.is_ipv4() { 32 } else { 128 } {
        return Err(KeyError::Prefix { address: network, prefix });
    }
    let mut sig = signature(network, prefix, key);
    sig.flags = TCP_MD5SIG_FLAG_PREFIX;
    sockopt::set(socket.as_fd(), libc::IPPROTO_TCP, TCP_MD5SIG_EXT, &sig)
        .map_err(|source| KeyError::Kernel { address: network, source })
}

/// Removes the key for `peer`; a key that is not there is not an error.
///
/// # Errors
/// [`KeyError::Kernel`].
pub fn remove_md5_key(socket: &impl AsFd, peer: IpAddr) -> Result<(), KeyError> {
    match sockopt::set(socket.as_fd(), libc::IPPROTO_TCP, TCP_MD5SIG, &signature(peer, 0, &[])) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map_err(|source| KeyError::Kernel { address: peer, source }),
    }
}

/// `struct tcp_ao_add` of `linux/tcp.h`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct TcpAoAdd {
    /// `struct sockaddr_storage`, as in [`TcpMd5Sig`].
    address: [u8; 128],
    algorithm: [u8; 64],
    interface: i32,
    /// Bit 0: sign with this key at once; bit 1: ask the peer for it.
    current_and_next: u32,
    reserved: u16,
    prefix_length: u8,
    send_id: u8,
    receive_id: u8,
    mac_length: u8,
    key_flags: u8,
    key_length: u8,
    key: [u8; MAX_KEY],
}

const _: () = assert!(size_of::<TcpAoAdd>() == 288, "the layout of linux/tcp.h");

// SAFETY: 128 + 64 + 4 + 4 + 2 + 6 + 80 = 288 is the size asserted above, so there is no padding; all fields are
// integers or arrays of them.
unsafe impl PlainData for TcpAoAdd {}

/// One key of TCP-AO (RFC 5925).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AoKey<'a> {
    /// Identifier in segments that we send.
    pub send_id: u8,
    /// Identifier in segments that we receive.
    pub receive_id: u8,
    /// The kernel's name of the algorithm: `hmac(sha1)`, `cmac(aes128)`, ….
    pub algorithm: &'a str,
    /// The secret, 1 to 80 octets.
    pub secret: &'a [u8],
    /// Sign with this key from now on, and ask the peer to do so.
    pub current: bool,
}

/// Adds a TCP-AO key for `peer` to `socket` (RFC 5925). On a listening socket the key holds for connections that it
/// will accept from that peer. Excludes MD5 for the same peer.
///
/// # Errors
/// [`KeyError`]; [`KeyError::Kernel`] with `ENOPROTOOPT` on a kernel without `CONFIG_TCP_AO`.
pub fn add_ao_key(socket: &impl AsFd, peer: IpAddr, key: &AoKey<'_>) -> Result<(), KeyError> {
    if key.secret.is_empty() || key.secret.len() > MAX_KEY {
        return Err(KeyError::Length(key.secret.len()));
    }
    let name = key.algorithm.as_bytes();
    // The kernel wants the name terminated.
    if name.is_empty() || name.len() >= 64 {
        return Err(KeyError::Algorithm(key.algorithm.to_owned()));
    }
    let md5 = signature(peer, 0, key.secret);
    let mut add = TcpAoAdd {
        address: md5.address,
        algorithm: [0; 64],
        interface: 0,
        // On a listening socket nothing is current yet; the kernel refuses the bits there.
        current_and_next: if key.current { 3 } else { 0 },
        reserved: 0,
        prefix_length: if peer.is_ipv4() { 32 } else { 128 },
        send_id: key.send_id,
        receive_id: key.receive_id,
        mac_length: 0,
        key_flags: 0,
        key_length: key.secret.len() as u8,
        key: md5.key,
    };
    add.algorithm[..name.len()].copy_from_slice(name);
    sockopt::set(socket.as_fd(), libc::IPPROTO_TCP, TCP_AO_ADD_KEY, &add)
        .map_err(|source| KeyError::Kernel { address: peer, source })
}

/// Drops segments that arrive with a TTL (hop limit) below `ttl`: the generalised TTL security mechanism.
/// `v6` names the family of the socket.
///
/// # Errors
/// What `setsockopt` said.
pub fn set_minimum_ttl(socket: &impl AsFd, v6: bool, ttl: u8) -> io::Result<()> {
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT) } else { (libc::IPPROTO_IP, IP_MINTTL) };
    sockopt::set(socket.as_fd(), level, name, &i32::from(ttl))
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    use std::time::Duration;

    use socket2::{Domain, Socket, Type};

    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn connect(to: SocketAddr, key: Option<&[u8]>) -> io::Result<std::net::TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        if let Some(key) = key {
            set_md5_key(&socket, PEER, key).map_err(io::Error::other)?;
        }
        socket.connect_timeout(&to.into(), Duration::from_millis(300))?;
        Ok(socket.into())
    }

    #[test]
    fn only_the_right_key_connects() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        match set_md5_key(&listener, PEER, b"secret") {
            Err(KeyError::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                println!("skipped: only_the_right_key_connects: this kernel has no TCP MD5");
                return;
            }
            other => other.unwrap(),
        }
        let to = listener.local_addr().unwrap();
        let mut good = connect(to, Some(b"secret")).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        good.write_all(b"hi").unwrap();
        let mut two = [0; 2];
        accepted.read_exact(&mut two).unwrap();
        assert_eq!(&two, b"hi");
        assert_eq!(connect(to, Some(b"wrong")).unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(connect(to, None).unwrap_err().kind(), ErrorKind::TimedOut);
        remove_md5_key(&listener, PEER).unwrap();
        remove_md5_key(&listener, PEER).unwrap();
        connect(to, None).unwrap();
    }

    #[test]
    fn keys_of_impossible_length_are_refused() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(matches!(set_md5_key(&listener, PEER, b""), Err(KeyError::Length(0))));
        assert!(matches!(set_md5_key(&listener, PEER, &[1; 81]), Err(KeyError::Length(81))));
        assert!(matches!(
            set_md5_key_for_prefix(&listener, PEER, 33, b"x"),
            Err(KeyError::Prefix { prefix: 33, .. })
        ));
    }

    #[test]
    fn addresses_sit_where_sockaddr_has_them() {
        let v4 = signature("192.0.2.1".parse().unwrap(), 0, b"k");
        assert_eq!(v4.address[..8], [2, 0, 0, 0, 192, 0, 2, 1]);
        let v6 = signature("2001:db8::1".parse().unwrap(), 0, b"k");
        assert_eq!(v6.address[..2], [10, 0]);
        assert_eq!(v6.address[8..12], [0x20, 0x01, 0x0d, 0xb8]);
    }

    #[test]
    fn tcp_ao_signs_where_the_kernel_has_it() {
        let key =
            |secret, current| AoKey { send_id: 1, receive_id: 2, algorithm: "hmac(sha1)", secret, current };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(matches!(add_ao_key(&listener, PEER, &key(b"", false)), Err(KeyError::Length(0))));
        let nameless = AoKey { algorithm: "", ..key(b"secret", false) };
        assert!(matches!(add_ao_key(&listener, PEER, &nameless), Err(KeyError::Algorithm(_))));
        match add_ao_key(&listener, PEER, &key(b"secret", false)) {
            Err(KeyError::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                println!("this kernel has no TCP-AO and says so");
                return;
            }
            other => other.unwrap(),
        }
        let to = listener.local_addr().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let mirrored = AoKey { send_id: 2, receive_id: 1, ..key(b"secret", true) };
        add_ao_key(&socket, PEER, &mirrored).unwrap();
        socket.connect_timeout(&to.into(), Duration::from_millis(300)).unwrap();
        assert_eq!(connect(to, None).unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn minimum_ttl_is_accepted() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        set_minimum_ttl(&listener, false, 255).unwrap();
    }
}
