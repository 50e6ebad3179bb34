//! NOTIFICATION messages (RFC 4271 section 4.5, RFC 4486, RFC 6608, RFC 8538, RFC 9003, RFC 9687).

use std::fmt;

/// A NOTIFICATION: why a session ends. Equal values are equal on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Notification {
    /// The error code.
    pub code: u8,
    /// The error subcode, 0 when unspecific.
    pub subcode: u8,
    /// What the code's definition says; often the offending octets.
    pub data: Vec<u8>,
}

macro_rules! notifications {
    ($($name:ident = ($code:expr, $subcode:expr), $text:expr;)*) => {
        /// Codes and subcodes as pairs.
        pub mod code {
            $(#[doc = $text] pub const $name: (u8, u8) = ($code, $subcode);)*
        }

        const NAMES: &[((u8, u8), &str)] = &[$((($code, $subcode), $text)),*];
    };
}

notifications! {
    NOT_SYNCHRONIZED = (1, 1), "Connection not synchronized";
    BAD_LENGTH = (1, 2), "Bad message length";
    BAD_TYPE = (1, 3), "Bad message type";
    BAD_VERSION = (2, 1), "Unsupported version number";
    BAD_PEER_AS = (2, 2), "Bad peer AS";
    BAD_IDENTIFIER = (2, 3), "Bad BGP identifier";
    BAD_PARAMETER = (2, 4), "Unsupported optional parameter";
    BAD_HOLD_TIME = (2, 6), "Unacceptable hold time";
    BAD_CAPABILITY = (2, 7), "Required capability missing";
    NO_COMMON_FAMILY = (2, 8), "No supported AFI/SAFI";
    ROLE_MISMATCH = (2, 11), "Role mismatch";
    MALFORMED_ATTRIBUTES = (3, 1), "Malformed attribute list";
    UNKNOWN_WELL_KNOWN = (3, 2), "Unrecognized well-known attribute";
    MISSING_WELL_KNOWN = (3, 3), "Missing mandatory attribute";
    ATTRIBUTE_FLAGS = (3, 4), "Invalid attribute flags";
    ATTRIBUTE_LENGTH = (3, 5), "Invalid attribute length";
    BAD_ORIGIN = (3, 6), "Invalid ORIGIN attribute";
    BAD_NEXT_HOP = (3, 8), "Invalid NEXT_HOP attribute";
    OPTIONAL_ATTRIBUTE = (3, 9), "Optional attribute error";
    BAD_NETWORK = (3, 10), "Invalid network field";
    BAD_AS_PATH = (3, 11), "Malformed AS_PATH";
    HOLD_EXPIRED = (4, 0), "Hold timer expired";
    UNEXPECTED = (5, 0), "Finite state machine error";
    UNEXPECTED_OPEN_SENT = (5, 1), "Unexpected message in OpenSent state";
    UNEXPECTED_OPEN_CONFIRM = (5, 2), "Unexpected message in OpenConfirm state";
    UNEXPECTED_ESTABLISHED = (5, 3), "Unexpected message in Established state";
    MAX_PREFIXES = (6, 1), "Maximum number of prefixes reached";
    ADMIN_SHUTDOWN = (6, 2), "Administrative shutdown";
    DECONFIGURED = (6, 3), "Peer de-configured";
    ADMIN_RESET = (6, 4), "Administrative reset";
    REJECTED = (6, 5), "Connection rejected";
    CONFIG_CHANGE = (6, 6), "Other configuration change";
    COLLISION = (6, 7), "Connection collision resolution";
    OUT_OF_RESOURCES = (6, 8), "Out of resources";
    HARD_RESET = (6, 9), "Hard reset";
    BFD_DOWN = (6, 10), "BFD down";
    REFRESH_LENGTH = (7, 1), "Invalid ROUTE-REFRESH length";
    SEND_HOLD_EXPIRED = (8, 0), "Send hold timer expired";
}

impl Notification {
    /// A notification without data.
    pub const fn new(code: (u8, u8)) -> Self {
        Notification { code: code.0, subcode: code.1, data: Vec::new() }
    }

    /// A notification with data.
    pub fn with_data(code: (u8, u8), data: impl Into<Vec<u8>>) -> Self {
        Notification { code: code.0, subcode: code.1, data: data.into() }
    }

    /// An administrative shutdown or reset (`code::ADMIN_SHUTDOWN`, `code::ADMIN_RESET`) with a text for the other
    /// operator (RFC 9003). The text is cut at 255 octets on a character boundary.
    pub fn with_text(code: (u8, u8), text: &str) -> Self {
        let mut end = text.len().min(255);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = text.as_bytes().get(..end).unwrap_or_default();
        let mut data = Vec::with_capacity(end + 1);
        data.push(u8::try_from(end).unwrap_or(u8::MAX));
        data.extend_from_slice(text);
        Notification { code: code.0, subcode: code.1, data }
    }

    /// The code and subcode as a pair, to compare with [`code`].
    pub const fn kind(&self) -> (u8, u8) {
        (self.code, self.subcode)
    }

    /// The other operator's text of an administrative shutdown or reset, with control characters replaced, so that
    /// it can be logged. `None` when there is none or it is not well formed.
    pub fn shutdown_text(&self) -> Option<String> {
        if self.kind() != code::ADMIN_SHUTDOWN && self.kind() != code::ADMIN_RESET {
            return None;
        }
        let (length, rest) = self.data.split_first()?;
        let text = std::str::from_utf8(rest.get(..usize::from(*length))?).ok()?;
        if text.is_empty() {
            return None;
        }
        Some(text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect())
    }

    /// The message body.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        out.push(self.code);
        out.push(self.subcode);
        out.extend_from_slice(&self.data);
    }

    /// Reads a message body of at least two octets.
    pub fn decode_body(body: &[u8]) -> Option<Self> {
        match body {
            [code, subcode, data @ ..] => {
                Some(Notification { code: *code, subcode: *subcode, data: data.to_vec() })
            }
            _ => None,
        }
    }

    /// What the code means, in words.
    pub fn describe(&self) -> &'static str {
        let named = |kind: (u8, u8)| NAMES.iter().find(|(k, _)| *k == kind).map(|(_, name)| *name);
        named(self.kind()).unwrap_or(match self.code {
            1 => "Message header error",
            2 => "Invalid OPEN message",
            3 => "Invalid UPDATE message",
            4 => "Hold timer expired",
            5 => "Finite state machine error",
            6 => "Cease",
            7 => "ROUTE-REFRESH error",
            8 => "Send hold timer expired",
            _ => "Unknown error",
        })
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}/{})", self.describe(), self.code, self.subcode)?;
        if let Some(text) = self.shutdown_text() {
            write!(f, ": {text}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_text_is_cut_on_a_character_and_cleaned() {
        let long = "é".repeat(200);
        let n = Notification::with_text(code::ADMIN_SHUTDOWN, &long);
        assert_eq!(n.data.first(), Some(&254));
        assert_eq!(n.shutdown_text(), Some("é".repeat(127)));
        let n = Notification::with_text(code::ADMIN_RESET, "a\u{1b}[31mb");
        assert_eq!(n.shutdown_text().as_deref(), Some("a\u{FFFD}[31mb"));
        let bad = Notification::with_data(code::ADMIN_SHUTDOWN, [5, b'a']);
        assert_eq!(bad.shutdown_text(), None);
        assert_eq!(n.to_string(), "Administrative reset (6/4): a\u{FFFD}[31mb");
    }

    #[test]
    fn unknown_codes_still_have_words() {
        assert_eq!(Notification::new((6, 77)).to_string(), "Cease (6/77)");
        assert_eq!(Notification::new((99, 1)).to_string(), "Unknown error (99/1)");
    }
}
