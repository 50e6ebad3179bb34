//! Framing and the message header (RFC 4271 section 4.1, RFC 8654).

use super::iana::message_type;
use super::notification::{Notification, code};
use super::open::Open;
use super::refresh::RouteRefresh;

/// Octets of marker, length and type.
pub const HEADER_LENGTH: usize = 19;

/// The longest message without the extended message capability.
pub const MAX_LENGTH: usize = 4096;

/// The longest message with the extended message capability (RFC 8654).
pub const MAX_EXTENDED_LENGTH: usize = 65535;

/// What the receiver accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageLimits {
    /// The longest message, header included.
    pub max_length: usize,
}

impl MessageLimits {
    /// 4096 octets.
    pub const fn classic() -> Self {
        MessageLimits { max_length: MAX_LENGTH }
    }

    /// 65535 octets, once both sides sent the extended message capability.
    pub const fn extended() -> Self {
        MessageLimits { max_length: MAX_EXTENDED_LENGTH }
    }
}

/// What stands at the front of a receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// Fewer octets than a message needs; `missing` is the least number that helps.
    Incomplete {
        /// Octets still to come.
        missing: usize,
    },
    /// A whole message.
    Message {
        /// The type octet, always a known one.
        kind: u8,
        /// What follows the header.
        body: &'a [u8],
        /// Octets to remove from the buffer.
        length: usize,
    },
}

/// Finds the first message of a receive buffer and checks its header.
///
/// # Errors
/// The NOTIFICATION to send (code 1), after which the stream cannot be read any further.
pub fn split_message(buffer: &[u8], limits: MessageLimits) -> Result<Decoded<'_>, Notification> {
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER_LENGTH>() else {
        // A wrong marker is told as early as possible, so that a stranger's stream is not buffered.
        if buffer.iter().take(16).any(|octet| *octet != 0xff) {
            return Err(Notification::new(code::NOT_SYNCHRONIZED));
        }
        return Ok(Decoded::Incomplete { missing: HEADER_LENGTH - buffer.len() });
    };
    let [marker @ .., high, low, kind] = header;
    if *marker != [0xff; 16] {
        return Err(Notification::new(code::NOT_SYNCHRONIZED));
    }
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let (min, max) = match *kind {
        message_type::OPEN => (29, MAX_LENGTH),
        message_type::UPDATE => (23, limits.max_length),
        message_type::NOTIFICATION => (21, limits.max_length),
        message_type::KEEPALIVE => (HEADER_LENGTH, HEADER_LENGTH),
        message_type::ROUTE_REFRESH => (HEADER_LENGTH, limits.max_length),
        _ => return Err(Notification::with_data(code::BAD_TYPE, [*kind])),
    };
    if length < min || length > max {
        return Err(Notification::with_data(code::BAD_LENGTH, [*high, *low]));
    }
    let body_length = length - HEADER_LENGTH;
    match rest.get(..body_length) {
        Some(body) => Ok(Decoded::Message { kind: *kind, body, length }),
        None => Ok(Decoded::Incomplete { missing: body_length - rest.len() }),
    }
}

/// A message other than UPDATE, which [`super::UpdateBuilder`] writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// OPEN.
    Open(Open),
    /// NOTIFICATION.
    Notification(Notification),
    /// KEEPALIVE.
    Keepalive,
    /// ROUTE-REFRESH.
    RouteRefresh(RouteRefresh),
}

impl Message {
    /// The whole message with its header.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, max) = match self {
            Message::Open(_) => (message_type::OPEN, MAX_LENGTH),
            Message::Notification(_) => (message_type::NOTIFICATION, MAX_LENGTH),
            Message::Keepalive => (message_type::KEEPALIVE, MAX_LENGTH),
            Message::RouteRefresh(_) => (message_type::ROUTE_REFRESH, MAX_LENGTH),
        };
        let mut out = begin_message(kind);
        match self {
            Message::Open(open) => open.encode_body(&mut out),
            Message::Notification(notification) => notification.encode_body(&mut out),
            Message::Keepalive => {}
            Message::RouteRefresh(refresh) => refresh.encode_body(&mut out),
        }
        // Only the free-form data of a NOTIFICATION can be too long; its tail says nothing that matters.
        out.truncate(max);
        finish_message(&mut out);
        out
    }
}

/// A buffer with a header whose length is still to be filled in by [`finish_message`].
pub(crate) fn begin_message(kind: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    begin_message_in(&mut out, kind);
    out
}

pub(crate) fn begin_message_in(out: &mut Vec<u8>, kind: u8) {
    out.clear();
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&[0, 0, kind]);
}

/// Writes the length of the message that starts at the front of `out`.
pub(crate) fn finish_message(out: &mut [u8]) {
    let length = u16::try_from(out.len()).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(field) = out.get_mut(16..18) {
        field.copy_from_slice(&length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_stream_is_refused_at_the_first_octet() {
        assert_eq!(
            split_message(b"GET / HTTP/1.1", MessageLimits::classic()),
            Err(Notification::new(code::NOT_SYNCHRONIZED))
        );
    }

    #[test]
    fn lengths_are_checked_per_type() {
        let mut keepalive = Message::Keepalive.encode();
        assert_eq!(keepalive.len(), 19);
        assert_eq!(
            split_message(&keepalive[..10], MessageLimits::classic()),
            Ok(Decoded::Incomplete { missing: 9 })
        );
        keepalive[17] = 20;
        keepalive.push(0);
        assert_eq!(
            split_message(&keepalive, MessageLimits::classic()),
            Err(Notification::with_data(code::BAD_LENGTH, [0, 20]))
        );
        keepalive[18] = 9;
        assert_eq!(
            split_message(&keepalive, MessageLimits::classic()),
            Err(Notification::with_data(code::BAD_TYPE, [9]))
        );
        let mut update = begin_message(message_type::UPDATE);
        update.resize(5000, 0);
        finish_message(&mut update);
        assert!(split_message(&update, MessageLimits::classic()).is_err());
        assert!(matches!(
            split_message(&update, MessageLimits::extended()),
            Ok(Decoded::Message { length: 5000, .. })
        ));
    }
}
