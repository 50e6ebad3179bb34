//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

/// An Ethernet address.
///
/// ```
/// use calico_dataplane::netlink::MacAddr;
/// let mac: MacAddr = "ee:ee:ee:ee:ee:ee".parse()?;
/// assert_eq!(mac, MacAddr::HOST_SIDE);
/// # Ok::<(), calico_dataplane::netlink::mac::ParseMacError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// What the host side of every workload interface carries, so that a workload's ARP cache stays right when it
    /// moves to another node.
    pub const HOST_SIDE: Self = Self([0xee; 6]);

    /// The IPv6 link-local address that the kernel derives from this address (EUI-64, RFC 4291 appendix A).
    pub fn link_local(self) -> std::net::Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        std::net::Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }

    /// False for broadcast, multicast and all-zero addresses, which no interface may carry.
    pub fn is_usable(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// Text that is no Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an Ethernet address; write six pairs of hexadecimal digits: 02:00:5e:10:00:01")]
pub struct ParseMacError {
    /// The text.
    pub text: String,
}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let error = || ParseMacError { text: text.to_owned() };
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().ok_or_else(error)?;
            if part.len() != 2 || part.starts_with('+') {
                return Err(error());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() { Err(error()) } else { Ok(Self(octets)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let mac: MacAddr = "66-F9-37-c3-7e-94".parse().unwrap();
        assert_eq!(mac.to_string(), "66:f9:37:c3:7e:94");
        for bad in
            ["", "1", "66:f9:37:c3:7e", "66:f9:37:c3:7e:94:00", "66:f9:37:c3:7e:9g", "+6:f9:37:c3:7e:94"]
        {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_host_side_has_the_link_local_that_workloads_route_through() {
        assert_eq!(MacAddr::HOST_SIDE.link_local().to_string(), "fe80::ecee:eeff:feee:eeee");
    }
}
