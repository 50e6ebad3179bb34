//! `setsockopt` and `getsockopt` with plain-data values.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A type whose every byte is initialised and that the kernel may read, or overwrite with any bytes.
///
/// # Safety
/// The type must have no padding, no pointers and no invalid bit patterns.
pub(super) unsafe trait PlainData: Copy {}

// SAFETY: an integer has no padding and every bit pattern is a value.
unsafe impl PlainData for i32 {}

/// Sets a socket option to `value`.
pub(super) fn set<T: PlainData>(fd: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed, hence open for the whole call; the pointer and the length describe
    // exactly one live `T`, which `PlainData` promises to be fully initialised; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an integer socket option.
pub(super) fn get_int(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value: i32 = 0;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the whole call; value and length are live, exclusively borrowed, and
    // length tells the kernel the true size of value, so that it cannot write beyond it. Any bytes form an i32.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, std::ptr::from_mut(&mut value).cast(), &mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_option_that_was_set_is_read_back() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        set(socket.as_fd(), libc::IPPROTO_IP, libc::IP_TTL, &33_i32).unwrap();
        assert_eq!(get_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_TTL).unwrap(), 33);
        assert_eq!(socket.ttl().unwrap(), 33);
    }

    #[test]
    fn an_unknown_option_is_an_error() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = set(socket.as_fd(), libc::IPPROTO_IP, 9999, &1_i32).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT));
    }
}
