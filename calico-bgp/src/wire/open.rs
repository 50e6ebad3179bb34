//! OPEN messages (RFC 4271 section 4.2, RFC 5492, RFC 9072).

use std::net::Ipv4Addr;

use super::capability::Capability;
use super::cursor::Cursor;
use super::iana::AS_TRANS;
use super::notification::{Notification, code};

const PARAMETER_CAPABILITIES: u8 = 2;
const PARAMETER_EXTENDED: u8 = 255;

/// An OPEN message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The sender's AS number as two octets, [`AS_TRANS`] when it needs four.
    pub my_as: u16,
    /// Proposed hold time in seconds: 0 for none, otherwise at least 3.
    pub hold_time: u16,
    /// The sender's BGP identifier.
    pub identifier: Ipv4Addr,
    /// Capabilities in the order sent.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// The sender's AS number: the four-octet capability when present, otherwise the two-octet field.
    pub fn asn(&self) -> u32 {
        self.capabilities
            .iter()
            .rev()
            .find_map(|c| match c {
                Capability::FourOctetAs(asn) => Some(*asn),
                _ => None,
            })
            .unwrap_or(u32::from(self.my_as))
    }

    /// The value for [`Open::my_as`] of an AS number.
    pub fn two_octet_as(asn: u32) -> u16 {
        u16::try_from(asn).unwrap_or(AS_TRANS)
    }

    /// Writes the body. Capabilities share one parameter; the extended form of RFC 9072 is used only when they do not
    /// fit otherwise.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        out.push(4);
        out.extend_from_slice(&self.my_as.to_be_bytes());
        out.extend_from_slice(&self.hold_time.to_be_bytes());
        out.extend_from_slice(&self.identifier.octets());
        let mut capabilities = Vec::with_capacity(64);
        for capability in &self.capabilities {
            capabilities.push(capability.code());
            let at = capabilities.len();
            capabilities.push(0);
            capability.encode_value(&mut capabilities);
            let length = capabilities.len() - at - 1;
            match (u8::try_from(length), capabilities.get_mut(at)) {
                (Ok(length), Some(field)) => *field = length,
                // One octet of length is all there is: a capability that does not fit is not offered.
                _ => capabilities.truncate(at - 1),
            }
        }
        if capabilities.is_empty() {
            out.push(0);
        } else if let Ok(length) = u8::try_from(capabilities.len() + 2) {
            out.extend_from_slice(&[length, PARAMETER_CAPABILITIES, length - 2]);
            out.extend_from_slice(&capabilities);
        } else {
            let length = u16::try_from(capabilities.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&[255, PARAMETER_EXTENDED]);
            out.extend_from_slice(&length.saturating_add(3).to_be_bytes());
            out.push(PARAMETER_CAPABILITIES);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&capabilities);
        }
    }

    /// Reads a body and checks what can be checked without knowing the peer: version, hold time, identifier and the
    /// shape of the parameters.
    ///
    /// # Errors
    /// The NOTIFICATION to send (code 2).
    pub fn decode_body(body: &[u8]) -> Result<Self, Notification> {
        let malformed = || Notification::new((2, 0));
        let mut c = Cursor::new(body);
        let version = c.u8().ok_or_else(malformed)?;
        if version != 4 {
            return Err(Notification::with_data(code::BAD_VERSION, [0, 4]));
        }
        let my_as = c.u16().ok_or_else(malformed)?;
        let hold_time = c.u16().ok_or_else(malformed)?;
        let identifier = Ipv4Addr::from(c.u32().ok_or_else(malformed)?);
        let short_length = c.u8().ok_or_else(malformed)?;
        if hold_time == 1 || hold_time == 2 {
            return Err(Notification::new(code::BAD_HOLD_TIME));
        }
        if identifier.is_unspecified() {
            return Err(Notification::new(code::BAD_IDENTIFIER));
        }
        let extended = short_length != 0 && c.rest().first() == Some(&PARAMETER_EXTENDED);
        let length = if extended {
            let _type = c.u8();
            usize::from(c.u16().ok_or_else(malformed)?)
        } else {
            usize::from(short_length)
        };
        if c.remaining() != length {
            return Err(malformed());
        }
        let mut capabilities = Vec::new();
        while !c.is_empty() {
            let kind = c.u8().ok_or_else(malformed)?;
            let length = if extended { c.u16().map(usize::from) } else { c.u8().map(usize::from) };
            let value = length.and_then(|length| c.take(length)).ok_or_else(malformed)?;
            if kind != PARAMETER_CAPABILITIES {
                return Err(Notification::new(code::BAD_PARAMETER));
            }
            let mut v = Cursor::new(value);
            while !v.is_empty() {
                let code = v.u8().ok_or_else(malformed)?;
                let value = v.u8().and_then(|n| v.take(usize::from(n))).ok_or_else(malformed)?;
                capabilities.push(Capability::decode(code, value));
            }
        }
        Ok(Open { my_as, hold_time, identifier, capabilities })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::capability::{Capabilities, GracefulFamily, GracefulRestart};
    use crate::wire::iana::{Family, FamilySet};
    use crate::wire::message::Message;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// The OPEN that Calico's BIRD sends, 63 octets.
    #[test]
    fn open_of_calico_bird() {
        let bytes =
            hex("ffffffffffffffffffffffffffffffff003f0104fc0000f00a000001220220010400010001020040060078\
             0001010041040000fc00450400010103 46004700");
        let v4 = FamilySet::only(Family::Ipv4);
        let caps = Capabilities {
            families: v4,
            route_refresh: true,
            enhanced_refresh: true,
            four_octet_as: Some(64512),
            add_path_receive: v4,
            add_path_send: v4,
            graceful_restart: Some(GracefulRestart {
                restart_time: 120,
                families: vec![GracefulFamily { afi: 1, safi: 1, forwarding: false }],
                ..GracefulRestart::default()
            }),
            long_lived: Some(vec![]),
            ..Capabilities::default()
        };
        let open = Open {
            my_as: 64512,
            hold_time: 240,
            identifier: Ipv4Addr::new(10, 0, 0, 1),
            capabilities: caps.to_list(),
        };
        assert_eq!(bytes.len(), 63);
        assert_eq!(Open::decode_body(&bytes[19..]), Ok(open.clone()));
        assert_eq!(Message::Open(open).encode(), bytes);
    }

    #[test]
    fn many_capabilities_use_the_extended_form() {
        let capabilities: Vec<_> =
            (100..110).map(|code| Capability::Unknown { code, value: vec![code; 40] }).collect();
        let open = Open { my_as: 1, hold_time: 90, identifier: Ipv4Addr::new(1, 1, 1, 1), capabilities };
        let bytes = Message::Open(open.clone()).encode();
        assert_eq!(bytes[28..30], [255, 255]);
        assert_eq!(Open::decode_body(&bytes[19..]), Ok(open));
    }

    #[test]
    fn refusals_name_their_reason() {
        let good = Open {
            my_as: 1,
            hold_time: 90,
            identifier: Ipv4Addr::new(1, 1, 1, 1),
            capabilities: vec![Capability::RouteRefresh],
        };
        let mut body = Vec::new();
        good.encode_body(&mut body);
        let refuse = |at: usize, with: u8| {
            let mut body = body.clone();
            body[at] = with;
            Open::decode_body(&body).map_err(|n| n.kind())
        };
        assert_eq!(refuse(0, 3), Err(code::BAD_VERSION));
        assert_eq!(refuse(4, 2), Err(code::BAD_HOLD_TIME));
        assert_eq!(refuse(10, 1), Err(code::BAD_PARAMETER));
        assert_eq!(refuse(9, 200), Err((2, 0)));
        assert_eq!(refuse(11, 1), Err((2, 0)));
        for end in 0..body.len() {
            assert!(Open::decode_body(&body[..end]).is_err());
        }
    }
}
