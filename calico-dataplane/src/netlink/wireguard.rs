//! WireGuard devices (`linux/wireguard.h`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ipnet::IpNet;

use super::error::{DecodeError, NetlinkError};
use super::generic::{Generic, HEADER, header};
use super::route::Family;
use super::socket::{Request, Step};
use super::wire::{Attributes, Body, Message, flags, u16_at};

const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;
const DEVICE_NAME: u16 = 2;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_PUBLIC_KEY: u16 = 4;
const DEVICE_LISTEN_PORT: u16 = 6;
const DEVICE_MARK: u16 = 7;
const DEVICE_PEERS: u16 = 8;
const PEER_PUBLIC_KEY: u16 = 1;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_KEEPALIVE: u16 = 5;
const PEER_ALLOWED: u16 = 9;
const PEER_REMOVE: u32 = 1;
const PEER_REPLACE_ALLOWED: u32 = 2;
const ALLOWED_FAMILY: u16 = 1;
const ALLOWED_ADDRESS: u16 = 2;
const ALLOWED_LENGTH: u16 = 3;

/// A Curve25519 key. Its debug form does not show it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

impl Key {
    /// A public key from its base64 text; `None` when it is no key.
    pub fn from_base64(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text.trim()).ok()?;
        <[u8; 32]>::try_from(bytes).ok().map(Self).filter(|key| !key.is_zero())
    }

    /// Base64 text.
    pub fn to_base64(self) -> String {
        BASE64_STANDARD.encode(self.0)
    }

    /// Makes random bytes a private key (RFC 7748 section 5).
    pub fn clamped(mut random: [u8; 32]) -> Self {
        random[0] &= 248;
        random[31] = (random[31] & 127) | 64;
        Self(random)
    }

    /// What the kernel reports for "none".
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 32]
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it listens.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between packets that keep a path through address translation open; 0 for none.
    pub keepalive: u16,
    /// What is behind it.
    pub allowed: BTreeSet<IpNet>,
}

/// A device as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Its public key; `None` while it has no private one.
    pub public_key: Option<Key>,
    /// UDP port.
    pub listen_port: u16,
    /// Mark of the packets that it sends.
    pub mark: u32,
    /// Peers by public key.
    pub peers: BTreeMap<Key, Peer>,
}

/// A change to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceChange<'a> {
    /// Port and mark, and a private key when it has none.
    Configure {
        /// UDP port.
        listen_port: u16,
        /// Mark.
        mark: u32,
        /// Private key to set.
        private_key: Option<Key>,
    },
    /// Adds a peer or makes it exactly so.
    SetPeer(Key, &'a Peer),
    /// Removes a peer.
    RemovePeer(Key),
}

fn encode_endpoint(body: &mut Body<'_>, endpoint: SocketAddr) {
    body.attribute_with(PEER_ENDPOINT, |value| match endpoint {
        // struct sockaddr_in: family, port, address, padding.
        SocketAddr::V4(v4) => {
            value.bytes(&(libc::AF_INET as u16).to_ne_bytes());
            value.bytes(&v4.port().to_be_bytes());
            value.bytes(&v4.ip().octets());
            value.bytes(&[0; 8]);
        }
        // struct sockaddr_in6: family, port, flow information, address, scope.
        SocketAddr::V6(v6) => {
            value.bytes(&(libc::AF_INET6 as u16).to_ne_bytes());
            value.bytes(&v6.port().to_be_bytes());
            value.bytes(&v6.flowinfo().to_be_bytes());
            value.bytes(&v6.ip().octets());
            value.bytes(&v6.scope_id().to_ne_bytes());
        }
    });
}

fn decode_endpoint(value: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*value.get(2..)?.first_chunk()?);
    let address: IpAddr = match i32::from(u16_at(value, 0)) {
        libc::AF_INET => Ipv4Addr::from(*value.get(4..)?.first_chunk::<4>()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(*value.get(8..)?.first_chunk::<16>()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

fn encode_change(name: &str, change: &DeviceChange<'_>, body: &mut Body<'_>) {
    header(body, SET_DEVICE);
    body.text(DEVICE_NAME, name);
    match change {
        DeviceChange::Configure { listen_port, mark, private_key } => {
            if let Some(key) = private_key {
                body.attribute(DEVICE_PRIVATE_KEY, &key.0);
            }
            body.u16(DEVICE_LISTEN_PORT, *listen_port);
            body.u32(DEVICE_MARK, *mark);
        }
        DeviceChange::SetPeer(key, peer) => body.nested(DEVICE_PEERS, |peers| {
            peers.nested(0, |out| {
                out.attribute(PEER_PUBLIC_KEY, &key.0);
                out.u32(PEER_FLAGS, PEER_REPLACE_ALLOWED);
                if let Some(endpoint) = peer.endpoint {
                    encode_endpoint(out, endpoint);
                }
                out.u16(PEER_KEEPALIVE, peer.keepalive);
                out.nested(PEER_ALLOWED, |list| {
                    for net in &peer.allowed {
                        list.nested(0, |item| {
                            item.u16(ALLOWED_FAMILY, Family::of(net.addr()).number().into());
                            item.ip(ALLOWED_ADDRESS, net.addr());
                            item.u8(ALLOWED_LENGTH, net.prefix_len());
                        });
                    }
                });
            });
        }),
        DeviceChange::RemovePeer(key) => body.nested(DEVICE_PEERS, |peers| {
            peers.nested(0, |out| {
                out.attribute(PEER_PUBLIC_KEY, &key.0);
                out.u32(PEER_FLAGS, PEER_REMOVE);
            });
        }),
    }
}

fn key(value: &[u8]) -> Option<Key> {
    <[u8; 32]>::try_from(value).ok().map(Key).filter(|key| !key.is_zero())
}

fn decode_peer(attributes: Attributes<'_>) -> Result<Option<(Key, Peer)>, DecodeError> {
    let mut public_key = None;
    let mut peer = Peer { endpoint: None, keepalive: 0, allowed: BTreeSet::new() };
    for attribute in attributes {
        let attribute = attribute?;
        match attribute.kind {
            PEER_PUBLIC_KEY => public_key = key(attribute.value),
            PEER_ENDPOINT => peer.endpoint = decode_endpoint(attribute.value),
            PEER_KEEPALIVE => peer.keepalive = attribute.u16()?,
            PEER_ALLOWED => {
                for item in attribute.nested() {
                    let (mut address, mut length) = (None, 0);
                    for part in item?.nested() {
                        let part = part?;
                        match part.kind {
                            ALLOWED_ADDRESS => address = Some(part.ip()?),
                            ALLOWED_LENGTH => length = part.u8()?,
                            _ => {}
                        }
                    }
                    peer.allowed.extend(address.and_then(|ip| IpNet::new(ip, length).ok()));
                }
            }
            _ => {}
        }
    }
    Ok(public_key.map(|key| (key, peer)))
}

/// Adds what one message of a device dump says; a device with many peers takes several.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_into(device: &mut Device, message: &Message<'_>) -> Result<(), DecodeError> {
    for attribute in message.attributes(HEADER) {
        let attribute = attribute?;
        match attribute.kind {
            DEVICE_PUBLIC_KEY => device.public_key = key(attribute.value),
            DEVICE_LISTEN_PORT => device.listen_port = attribute.u16()?,
            DEVICE_MARK => device.mark = attribute.u32()?,
            DEVICE_PEERS => {
                for peer in attribute.nested() {
                    let Some((key, peer)) = decode_peer(peer?.nested())? else { continue };
                    // The allowed addresses of one peer may be spread over messages, too.
                    match device.peers.get_mut(&key) {
                        Some(known) => known.allowed.extend(peer.allowed),
                        None => {
                            device.peers.insert(key, peer);
                        }
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

impl Generic {
    /// Opens WireGuard.
    ///
    /// # Errors
    /// [`NetlinkError`], absent when the kernel lacks WireGuard.
    pub fn wireguard() -> Result<Self, NetlinkError> {
        Self::open("wireguard")
    }

    /// Reads a device.
    ///
    /// # Errors
    /// [`NetlinkError`], absent when there is no such device.
    pub fn wireguard_device(&mut self, name: &str) -> Result<Device, NetlinkError> {
        let body = |body: &mut Body<'_>| {
            header(body, GET_DEVICE);
            body.text(DEVICE_NAME, name);
        };
        let action = format_args!("read WireGuard device {name}");
        let request = Request { action: &action, kind: self.family, flags: 0, body: &body };
        let parts = self.socket.dump(&request, |message| {
            let mut part = Device::default();
            decode_into(&mut part, &message)?;
            Ok(Some(part))
        })?;
        let mut parts = parts.into_iter();
        let mut device = parts.next().unwrap_or_default();
        for part in parts {
            for (key, peer) in part.peers {
                match device.peers.get_mut(&key) {
                    Some(known) => known.allowed.extend(peer.allowed),
                    None => {
                        device.peers.insert(key, peer);
                    }
                }
            }
        }
        Ok(device)
    }

    /// Changes a device. One result per change: `None` for success.
    ///
    /// # Errors
    /// Only for the socket itself.
    pub fn change_wireguard<'a>(
        &mut self,
        name: &str,
        changes: impl IntoIterator<Item = DeviceChange<'a>>,
    ) -> Result<Vec<Option<super::Refusal>>, NetlinkError> {
        let family = self.family;
        let steps = changes.into_iter().map(|change| Step {
            kind: family,
            flags: flags::ACK,
            body: move |body: &mut Body<'_>| encode_change(name, &change, body),
        });
        self.socket.pipeline(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Encoder, Messages};
    use super::*;

    #[test]
    fn a_peer_is_read_back_as_it_was_written() {
        for endpoint in ["172.18.0.3:51820", "[fd18::3]:51821"] {
            let peer = Peer {
                endpoint: Some(endpoint.parse().unwrap()),
                keepalive: 25,
                allowed: ["10.65.1.0/26", "fd00:65::/122", "10.65.9.0/32"]
                    .map(|net| net.parse().unwrap())
                    .into(),
            };
            let key = Key([7; 32]);
            let mut encoder = Encoder::new();
            encoder.message(30, 0, 1, |body| {
                encode_change("wireguard.cali", &DeviceChange::SetPeer(key, &peer), body);
            });
            let message = Messages::new(encoder.as_bytes()).next().unwrap().unwrap();
            assert_eq!(message.payload[..4], [1, 1, 0, 0]);
            let mut device = Device::default();
            decode_into(&mut device, &message).unwrap();
            // A second part of the same device adds to what is known.
            decode_into(&mut device, &message).unwrap();
            assert_eq!(device.peers, BTreeMap::from([(key, peer)]));
        }
    }

    #[test]
    fn endpoints_are_socket_addresses() {
        let mut encoder = Encoder::new();
        encoder.message(30, 0, 1, |body| encode_endpoint(body, "172.18.0.3:51820".parse().unwrap()));
        let message = Messages::new(encoder.as_bytes()).next().unwrap().unwrap();
        let value = message.attributes(0).next().unwrap().unwrap().value;
        assert_eq!(value, [2, 0, 0xca, 0x6c, 172, 18, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
        encoder.clear();
        encoder.message(30, 0, 1, |body| encode_endpoint(body, "[fd18::3]:1".parse().unwrap()));
        let message = Messages::new(encoder.as_bytes()).next().unwrap().unwrap();
        assert_eq!(message.attributes(0).next().unwrap().unwrap().value.len(), 28);
    }

    #[test]
    fn keys_are_base64_and_not_shown() {
        let text = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
        let key = Key::from_base64(text).unwrap();
        assert_eq!((key, key.to_base64().as_str()), (Key([1; 32]), text));
        assert_eq!(format!("{key:?}"), "Key(…)");
        for bad in ["", "AQ==", "not base64", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
            assert_eq!(Key::from_base64(bad), None, "{bad}");
        }
        let private = Key::clamped([0xff; 32]);
        assert_eq!((private.0[0], private.0[31]), (0xf8, 0x7f));
    }
}
