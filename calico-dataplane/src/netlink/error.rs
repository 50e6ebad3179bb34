//! What can go wrong between us and the kernel's netlink.

use std::fmt;

/// A message or attribute that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A message is shorter than it says or than its type demands.
    #[error("netlink message of type {kind} is truncated: {have} bytes where {need} are needed")]
    Truncated {
        /// Message type; 0 when not even the header was there.
        kind: u16,
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// An attribute is shorter than it says or than its type demands.
    #[error("netlink attribute {attribute} has {have} bytes where {need} are needed")]
    Attribute {
        /// Attribute type.
        attribute: u16,
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// A prefix length that does not fit the address.
    #[error("prefix length {length} does not fit the address family {family}")]
    Prefix {
        /// Address family number.
        family: u8,
        /// Prefix length.
        length: u8,
    },
}

/// The kernel's refusal of one request.
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Positive errno.
    pub errno: i32,
    /// The kernel's own words (extended acknowledgement), if it gave any.
    pub message: Option<String>,
    /// Offset of the offending attribute from the start of the request's header, if given.
    pub offset: Option<u32>,
}

impl Refusal {
    /// The object is not there: `ENOENT`, `ENODEV`, `ESRCH`, `EADDRNOTAVAIL`.
    pub fn is_absent(&self) -> bool {
        matches!(self.errno, libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL)
    }

    /// The object is there already.
    pub fn is_present(&self) -> bool {
        self.errno == libc::EEXIST
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.errno))?;
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, " (at byte {offset} of the request)")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What can go wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetlinkError {
    /// A system call on the socket failed.
    #[error("netlink socket: {call}: {}", std::io::Error::from_raw_os_error(*.errno))]
    Socket {
        /// Which call.
        call: &'static str,
        /// Errno.
        errno: i32,
    },
    /// The kernel refused the request.
    #[error("{action}: {refusal}")]
    Refused {
        /// What was asked, with the name of the object, for people.
        action: String,
        /// Why not.
        refusal: Refusal,
    },
    /// The reply cannot be read.
    #[error("{action}: {error}")]
    Decode {
        /// What was asked.
        action: String,
        /// What is wrong with the reply.
        error: DecodeError,
    },
    /// The table changed during every attempt to read it.
    #[error("{action}: the table changed while it was read, {tries} times in a row")]
    Interrupted {
        /// What was asked.
        action: String,
        /// Attempts made.
        tries: u32,
    },
    /// The kernel said nothing in time.
    #[error("{action}: no answer from the kernel within {seconds} s")]
    Timeout {
        /// What was asked.
        action: String,
        /// How long we waited.
        seconds: u64,
    },
    /// The kernel ended the reply without the object that was asked for.
    #[error("{action}: the reply ended without an answer")]
    NoReply {
        /// What was asked.
        action: String,
    },
    /// The receive buffer overflowed: answers were lost and the outcome is unknown.
    #[error("{action}: the receive buffer overflowed, so the outcome is unknown; read the state again")]
    Overrun {
        /// What was asked.
        action: String,
    },
}

impl NetlinkError {
    /// The errno behind this error, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket { errno, .. } => Some(*errno),
            Self::Refused { refusal, .. } => Some(refusal.errno),
            _ => None,
        }
    }

    /// True when the kernel said that the object is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. } if refusal.is_absent())
    }

    /// True when the kernel said that the object exists.
    pub fn is_present(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. } if refusal.is_present())
    }
}
