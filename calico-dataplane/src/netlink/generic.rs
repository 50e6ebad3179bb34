//! Generic netlink: subsystems that the kernel numbers at run time.

use super::error::{DecodeError, NetlinkError};
use super::socket::{Protocol, Request, Socket};
use super::wire::Body;

/// Length of `struct genlmsghdr`.
pub const HEADER: usize = 4;

const CONTROL_FAMILY: u16 = 16;
const GET_FAMILY: u8 = 3;
const ATTRIBUTE_ID: u16 = 1;
const ATTRIBUTE_NAME: u16 = 2;

/// A connection to one generic netlink subsystem in one network namespace.
#[derive(Debug)]
pub struct Generic {
    pub(crate) socket: Socket,
    pub(crate) family: u16,
}

/// Writes the header that every generic message starts with.
pub fn header(body: &mut Body<'_>, command: u8) {
    body.bytes(&[command, 1, 0, 0]);
}

impl Generic {
    /// Opens the subsystem with this name (`wireguard`) for the namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetlinkError`], absent when the kernel does not have the subsystem.
    pub fn open(name: &str) -> Result<Self, NetlinkError> {
        let mut socket = Socket::open(Protocol::Generic)?;
        let body = |body: &mut Body<'_>| {
            header(body, GET_FAMILY);
            body.text(ATTRIBUTE_NAME, name);
        };
        let action = format_args!("find the kernel's {name} subsystem");
        let request = Request { action: &action, kind: CONTROL_FAMILY, flags: 0, body: &body };
        let family = socket.single(&request, |message| {
            for attribute in message.attributes(HEADER) {
                let attribute = attribute?;
                if attribute.kind == ATTRIBUTE_ID {
                    return attribute.u16();
                }
            }
            Err(DecodeError::Attribute { attribute: ATTRIBUTE_ID, need: 2, have: 0 })
        })?;
        Ok(Self { socket, family })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_family_knows_itself() {
        assert_eq!(Generic::open("nlctrl").unwrap().family, CONTROL_FAMILY);
    }

    #[test]
    fn an_unknown_subsystem_is_absent() {
        let error = Generic::open("nosuch").unwrap_err();
        assert!(error.is_absent());
        assert!(error.to_string().contains("find the kernel's nosuch subsystem"), "{error}");
    }
}
