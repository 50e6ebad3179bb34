//! Networks as text.

use std::net::IpAddr;

use ipnet::IpNet;

/// Why a text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct NetError {
    /// The text found.
    pub text: String,
    /// What would be right.
    pub expected: &'static str,
}

/// Reads a CIDR (host bits are kept) or a bare address, which stands for itself alone.
///
/// ```
/// use calico_model::net;
/// assert_eq!(net::cidr_or_ip("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
/// assert_eq!(net::cidr_or_ip("10.0.0.1/8").unwrap().to_string(), "10.0.0.1/8");
/// assert!(net::cidr_or_ip("10.0.0/8").is_err());
/// ```
pub fn cidr_or_ip(text: &str) -> Result<IpNet, NetError> {
    if let Ok(net) = text.parse::<IpNet>() {
        return Ok(net);
    }
    text.parse::<IpAddr>().map(IpNet::from).map_err(|_| NetError {
        text: text.to_owned(),
        expected: "a network such as 10.0.0.0/8 or an address",
    })
}

/// Reads a CIDR (host bits are kept).
pub fn cidr(text: &str) -> Result<IpNet, NetError> {
    text.parse().map_err(|_| NetError { text: text.to_owned(), expected: "a network such as 10.0.0.0/8" })
}

/// Reads an address.
pub fn ip(text: &str) -> Result<IpAddr, NetError> {
    text.parse().map_err(|_| NetError { text: text.to_owned(), expected: "an IP address" })
}

/// True when no host bit is set.
pub fn is_masked(net: &IpNet) -> bool {
    net.addr() == net.network()
}

/// True when the networks share an address.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_and_overlapping() {
        let net = |s: &str| cidr(s).unwrap();
        assert!(is_masked(&net("10.0.0.0/8")) && !is_masked(&net("10.0.0.1/8")));
        assert!(overlap(&net("10.0.0.0/8"), &net("10.1.0.0/16")));
        assert!(overlap(&net("10.1.0.0/16"), &net("10.0.0.0/8")));
        assert!(!overlap(&net("10.0.0.0/9"), &net("10.128.0.0/9")));
        assert!(!overlap(&net("10.0.0.0/9"), &net("::/0")));
        assert!(cidr("10.0.0.1").is_err() && ip("10.0.0.0/8").is_err());
    }
}
