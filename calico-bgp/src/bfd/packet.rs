//! The control packet of BFD (RFC 5880 section 4.1), without authentication.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// Length of a control packet without authentication.
pub const PACKET_LENGTH: usize = 24;

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const CONTROL_PLANE_INDEPENDENT: u8 = 0x08;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// The state of a session, as both ends tell each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BfdState {
    /// Switched off on purpose; says nothing about the way.
    AdminDown,
    /// The other end is not heard.
    Down,
    /// The other end is heard, but does not hear us yet.
    Init,
    /// Both hear each other.
    Up,
}

impl BfdState {
    const fn code(self) -> u8 {
        match self {
            BfdState::AdminDown => 0,
            BfdState::Down => 1,
            BfdState::Init => 2,
            BfdState::Up => 3,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code & 3 {
            0 => BfdState::AdminDown,
            1 => BfdState::Down,
            2 => BfdState::Init,
            _ => BfdState::Up,
        }
    }
}

impl fmt::Display for BfdState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BfdState::AdminDown => "AdminDown",
            BfdState::Down => "Down",
            BfdState::Init => "Init",
            BfdState::Up => "Up",
        })
    }
}

/// Why a session last left [`BfdState::Up`]: the number of RFC 5880 section 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// Nothing happened.
    pub const NONE: Diagnostic = Diagnostic(0);
    /// Nothing was heard for the detection time.
    pub const EXPIRED: Diagnostic = Diagnostic(1);
    /// The other end said that it is down.
    pub const NEIGHBOR_DOWN: Diagnostic = Diagnostic(3);
    /// Switched off.
    pub const ADMIN_DOWN: Diagnostic = Diagnostic(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "detection time expired",
            2 => "echo failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            other => return write!(f, "diagnostic {other}"),
        })
    }
}

/// A control packet.
///
/// ```
/// use calico_bgp::bfd::{BfdState, Packet};
/// let packet = Packet::new(7.try_into().unwrap(), BfdState::Down);
/// let bytes = packet.encode();
/// assert_eq!(bytes.len(), 24);
/// assert_eq!(Packet::decode(&bytes), Ok(packet));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender is not, or was not, up.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: BfdState,
    /// The sender wants a packet with [`Packet::fin`] at once.
    pub poll: bool,
    /// Answer to a poll.
    pub fin: bool,
    /// The sender's BFD survives a restart of its control plane.
    pub independent: bool,
    /// The sender wants no periodic packets.
    pub demand: bool,
    /// Packets that may be lost in a row.
    pub multiplier: u8,
    /// The sender's number for the session.
    pub my_discriminator: NonZeroU32,
    /// The receiver's number for the session, 0 while unknown.
    pub your_discriminator: u32,
    /// The interval at which the sender would like to send.
    pub desired_min_tx: Duration,
    /// The least interval at which the sender can receive; zero: it wants none.
    pub required_min_rx: Duration,
}

/// Why a packet is discarded (RFC 5880 section 6.8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Fewer octets than the packet says, or than any packet has.
    #[error("{0} octets are too few for a BFD packet")]
    Short(usize),
    /// Not version 1.
    #[error("BFD version {0} is not 1")]
    Version(u8),
    /// The multiplier is 0.
    #[error("the detection multiplier is 0")]
    Multiplier,
    /// The sender's discriminator is 0.
    #[error("the sender's discriminator is 0")]
    Discriminator,
    /// A session beyond Down must name the receiver's discriminator.
    #[error("state {0} without the receiver's discriminator")]
    Unaddressed(BfdState),
    /// Multipoint packets are not spoken.
    #[error("multipoint bit is set")]
    Multipoint,
    /// Authentication is not configured here.
    #[error("the packet is authenticated, this session is not")]
    Authenticated,
}

impl Packet {
    /// A packet with intervals of one second and multiplier 3.
    pub const fn new(my_discriminator: NonZeroU32, state: BfdState) -> Self {
        Packet {
            diagnostic: Diagnostic::NONE,
            state,
            poll: false,
            fin: false,
            independent: false,
            demand: false,
            multiplier: 3,
            my_discriminator,
            your_discriminator: 0,
            desired_min_tx: Duration::from_secs(1),
            required_min_rx: Duration::from_secs(1),
        }
    }

    /// The octets on the wire. Intervals are cut to whole microseconds and to 71 minutes.
    pub fn encode(&self) -> [u8; PACKET_LENGTH] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.poll, POLL)
            | flag(self.fin, FINAL)
            | flag(self.independent, CONTROL_PLANE_INDEPENDENT)
            | flag(self.demand, DEMAND);
        let [m0, m1, m2, m3] = self.my_discriminator.get().to_be_bytes();
        let [y0, y1, y2, y3] = self.your_discriminator.to_be_bytes();
        let [t0, t1, t2, t3] = micros(self.desired_min_tx);
        let [r0, r1, r2, r3] = micros(self.required_min_rx);
        [
            VERSION << 5 | (self.diagnostic.0 & 0x1f),
            self.state.code() << 6 | flags,
            self.multiplier,
            PACKET_LENGTH as u8,
            m0,
            m1,
            m2,
            m3,
            y0,
            y1,
            y2,
            y3,
            t0,
            t1,
            t2,
            t3,
            r0,
            r1,
            r2,
            r3,
            0,
            0,
            0,
            0,
        ]
    }

    /// Reads a packet with the checks of RFC 5880 section 6.8.6 that need no session.
    ///
    /// # Errors
    /// Why it has to be discarded.
    pub fn decode(data: &[u8]) -> Result<Self, PacketError> {
        let Some((header, _)) = data.split_first_chunk::<PACKET_LENGTH>() else {
            return Err(PacketError::Short(data.len()));
        };
        let [first, second, multiplier, length, rest @ ..] = *header;
        let [m0, m1, m2, m3, y0, y1, y2, y3, t0, t1, t2, t3, r0, r1, r2, r3, _, _, _, _] = rest;
        if first >> 5 != VERSION {
            return Err(PacketError::Version(first >> 5));
        }
        let least = if second & AUTHENTICATED == 0 { PACKET_LENGTH } else { PACKET_LENGTH + 2 };
        if usize::from(length) < least || usize::from(length) > data.len() {
            return Err(PacketError::Short(data.len().min(usize::from(length))));
        }
        if multiplier == 0 {
            return Err(PacketError::Multiplier);
        }
        if second & MULTIPOINT != 0 {
            return Err(PacketError::Multipoint);
        }
        if second & AUTHENTICATED != 0 {
            return Err(PacketError::Authenticated);
        }
        let state = BfdState::from_code(second >> 6);
        let my_discriminator =
            NonZeroU32::new(u32::from_be_bytes([m0, m1, m2, m3])).ok_or(PacketError::Discriminator)?;
        let your_discriminator = u32::from_be_bytes([y0, y1, y2, y3]);
        if your_discriminator == 0 && state > BfdState::Down {
            return Err(PacketError::Unaddressed(state));
        }
        let interval = |octets| Duration::from_micros(u64::from(u32::from_be_bytes(octets)));
        Ok(Packet {
            diagnostic: Diagnostic(first & 0x1f),
            state,
            poll: second & POLL != 0,
            fin: second & FINAL != 0,
            independent: second & CONTROL_PLANE_INDEPENDENT != 0,
            demand: second & DEMAND != 0,
            multiplier,
            my_discriminator,
            your_discriminator,
            desired_min_tx: interval([t0, t1, t2, t3]),
            required_min_rx: interval([r0, r1, r2, r3]),
        })
    }
}

fn micros(interval: Duration) -> [u8; 4] {
    u32::try_from(interval.as_micros()).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Packet {
        Packet::new(NonZeroU32::MIN, BfdState::Down)
    }

    #[test]
    fn fields_sit_where_the_rfc_has_them() {
        let packet = Packet {
            diagnostic: Diagnostic::EXPIRED,
            poll: true,
            your_discriminator: 0x0506_0708,
            my_discriminator: NonZeroU32::new(0x0102_0304).unwrap(),
            state: BfdState::Up,
            required_min_rx: Duration::from_millis(100),
            ..packet()
        };
        let hex: String = packet.encode().iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(hex, "21e003180102030405060708000f4240000186a000000000");
    }

    #[test]
    fn what_must_be_discarded_is() {
        let change = |at: usize, value: u8| {
            let mut bytes = packet().encode();
            bytes[at] = value;
            Packet::decode(&bytes)
        };
        assert_eq!(Packet::decode(&packet().encode()[..23]), Err(PacketError::Short(23)));
        assert_eq!(change(0, 0x40), Err(PacketError::Version(2)));
        assert_eq!(change(2, 0), Err(PacketError::Multiplier));
        assert_eq!(change(3, 23), Err(PacketError::Short(23)));
        assert_eq!(change(3, 25), Err(PacketError::Short(24)));
        assert_eq!(change(7, 0), Err(PacketError::Discriminator));
        assert_eq!(change(1, 0x41), Err(PacketError::Multipoint));
        assert_eq!(change(1, 0xc0), Err(PacketError::Unaddressed(BfdState::Up)));
        let mut signed = packet().encode().to_vec();
        (signed[1], signed[3]) = (0x44, 28);
        signed.extend([1, 4, 0, 0]);
        assert_eq!(Packet::decode(&signed), Err(PacketError::Authenticated));
    }
}
