//! Socket buffer sizes beyond the system limit (`SO_SNDBUFFORCE`, `SO_RCVBUFFORCE`).
//!
//! One nf_tables transaction must be one send, and a send larger than the send buffer fails with `EMSGSIZE`.

use std::io;
use std::os::fd::AsFd;

use super::sockopt;

/// Sets the send buffer of `socket` to `bytes`, beyond `net.core.wmem_max` where privilege allows it, up to that
/// limit otherwise. Returns the size in force (the kernel doubles what was asked for its own bookkeeping).
///
/// # Errors
/// What `setsockopt` said, when even the unprivileged form failed.
///
/// ```
/// let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
/// assert!(calico_dataplane::sys::sockbuf::set_send(&socket, 64 * 1024)? >= 64 * 1024);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn set_send(socket: &impl AsFd, bytes: usize) -> io::Result<usize> {
    set(socket, bytes, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)
}

/// Sets the receive buffer of `socket`; as [`set_send`].
///
/// # Errors
/// What `setsockopt` said, when even the unprivileged form failed.
pub fn set_receive(socket: &impl AsFd, bytes: usize) -> io::Result<usize> {
    set(socket, bytes, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)
}

fn set(socket: &impl AsFd, bytes: usize, force: i32, plain: i32) -> io::Result<usize> {
    let value = i32::try_from(bytes).unwrap_or(i32::MAX);
    match sockopt::set(socket.as_fd(), libc::SOL_SOCKET, force, &value) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            sockopt::set(socket.as_fd(), libc::SOL_SOCKET, plain, &value)?;
        }
        other => other?,
    }
    let in_force = sockopt::get_int(socket.as_fd(), libc::SOL_SOCKET, plain)?;
    Ok(usize::try_from(in_force).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_at_least_what_was_asked_within_the_limit() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(set_send(&socket, 100_000).unwrap() >= 100_000);
        assert!(set_receive(&socket, 100_000).unwrap() >= 100_000);
    }
}
