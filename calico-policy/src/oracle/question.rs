//! Flows as people write them, `shop/web` to `shop/db:5432/tcp`, and the packets that they mean.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use calico_model::Protocol;

use super::trace::protocol_name;
use super::world::{EndpointKind, Item, World};
use crate::ir::Family;
use crate::packet::{ICMP, ICMPV6, Packet, TCP, has_ports};

/// One end of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// An address, of whoever has it.
    Address(IpAddr),
    /// A pod, by namespace and name.
    Pod(String, String),
}

/// A port of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortChoice {
    /// By number.
    Number(u16),
    /// By the name that the destination's endpoint gives it.
    Name(String),
}

/// A flow that somebody asks about.
///
/// ```
/// use calico_policy::oracle::{End, Question, QuestionError};
/// let question = Question::parse("shop/web", "[fd00::5]:8080/udp")?;
/// assert_eq!(question.from, End::Pod("shop".into(), "web".into()));
/// assert_eq!(question.protocol, 17);
/// assert!(matches!(Question::parse("shop/web", "shop/db"), Err(QuestionError::Syntax { .. })));
/// # Ok::<(), QuestionError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who sends.
    pub from: End,
    /// Source port; without one an ephemeral port.
    pub source_port: Option<u16>,
    /// Who receives.
    pub to: End,
    /// IP protocol number; ICMP stands for ICMPv6 between IPv6 addresses.
    pub protocol: u8,
    /// Destination port, for protocols with ports.
    pub port: Option<PortChoice>,
    /// ICMP type, for ICMP; without one an echo request.
    pub icmp_type: Option<u8>,
}

/// Why a question cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// The text is not a flow.
    #[error("{text:?}: {reason}")]
    Syntax {
        /// The text.
        text: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// There is no such pod.
    #[error("there is no pod {namespace}/{name}{}", known(.near))]
    NoPod {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// What there is instead.
        near: Vec<String>,
    },
    /// The endpoint has no address.
    #[error("{endpoint} has no address yet; ask about an address instead")]
    NoAddress {
        /// The endpoint.
        endpoint: String,
    },
    /// The ends have no family in common.
    #[error("{from} and {to} have no addresses of one family{}", family_text(*.wanted))]
    NoCommonFamily {
        /// Who sends.
        from: String,
        /// Who receives.
        to: String,
        /// The family that was asked for.
        wanted: Option<Family>,
    },
    /// The destination has no port of that name.
    #[error("{endpoint} has no {protocol} port named {name:?}{}", known(.names))]
    NoPort {
        /// The endpoint, or the address.
        endpoint: String,
        /// Protocol.
        protocol: String,
        /// Name of the port.
        name: String,
        /// Names that it has.
        names: Vec<String>,
    },
}

fn known(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; there is {}", names.join(", ")) }
}

fn family_text(family: Option<Family>) -> &'static str {
    match family {
        None => "",
        Some(Family::V4) => ", which should be IPv4",
        Some(Family::V6) => ", which should be IPv6",
    }
}

/// Most names in an error.
const SUGGESTIONS: usize = 8;

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Pod(namespace, name) => write!(f, "{namespace}/{name}"),
        }
    }
}

impl FromStr for End {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Self::Address(address));
        }
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::Pod(namespace.to_owned(), name.to_owned()))
            }
            _ => Err(syntax(text, "write a pod as namespace/name, or an address")),
        }
    }
}

impl Question {
    /// Reads the two ends of a flow. `from` is a pod (`namespace/name`) or an address, with `:port` when the source port
    /// matters. `to` is the same with the traffic: `:5432/tcp`, `:http/tcp` (a named port), `:5432` (TCP), `:icmp`,
    /// `:8/icmp` (an ICMP type), `:proto-47` (a protocol by number). IPv6 addresses with a port stand in brackets.
    ///
    /// # Errors
    /// [`QuestionError::Syntax`].
    pub fn parse(from: &str, to: &str) -> Result<Self, QuestionError> {
        let (from_end, source) = split(from);
        let source_port = match source {
            None => None,
            Some(port) => {
                Some(port.parse().map_err(|_| syntax(from, "a source port is a number up to 65535"))?)
            }
        };
        let (to_end, traffic) = split(to);
        let Some(traffic) = traffic else {
            return Err(syntax(to, "say which traffic: add :port/protocol such as :443/tcp, or :icmp"));
        };
        let mut question = Self {
            from: from_end.parse()?,
            source_port,
            to: to_end.parse()?,
            protocol: TCP,
            port: None,
            icmp_type: None,
        };
        question.traffic(to, traffic)?;
        Ok(question)
    }

    fn traffic(&mut self, text: &str, traffic: &str) -> Result<(), QuestionError> {
        let (port, protocol) = match traffic.split_once('/') {
            Some((port, protocol)) => (Some(port), Some(protocol)),
            None if protocol_number(traffic).is_some_and(|number| !has_ports(number)) => {
                (None, Some(traffic))
            }
            None => (Some(traffic), None),
        };
        if let Some(name) = protocol {
            self.protocol = protocol_number(name).ok_or_else(|| {
                syntax(text, "the protocol is tcp, udp, sctp, icmp, icmpv6, udplite or proto-NUMBER")
            })?;
        }
        let Some(port) = port else { return Ok(()) };
        match (self.protocol, port) {
            (ICMP | ICMPV6, number) => {
                let number =
                    number.parse().map_err(|_| syntax(text, "an ICMP type is a number up to 255"))?;
                self.icmp_type = Some(number);
            }
            (protocol, _) if !has_ports(protocol) => {
                return Err(syntax(text, "this protocol has no ports; write :protocol alone"));
            }
            (_, "") => return Err(syntax(text, "the port is missing; write for example :443/tcp")),
            (_, digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                let number = digits.parse().map_err(|_| syntax(text, "a port is a number up to 65535"))?;
                self.port = Some(PortChoice::Number(number));
            }
            (_, name) if protocol_number(name).is_some() && protocol.is_none() => {
                return Err(syntax(text, "the port is missing; write for example :443/tcp"));
            }
            (_, name) => self.port = Some(PortChoice::Name(name.to_owned())),
        }
        Ok(())
    }
}

fn syntax(text: &str, reason: &str) -> QuestionError {
    QuestionError::Syntax { text: text.to_owned(), reason: reason.to_owned() }
}

fn protocol_number(name: &str) -> Option<u8> {
    match name.strip_prefix("proto-") {
        Some(number) => number.parse().ok(),
        // A bare number would be mistaken for a port.
        None if name.bytes().all(|byte| byte.is_ascii_digit()) => None,
        None => Protocol::from_text(name).number(),
    }
}

/// The end of a flow and what stands behind its colon. A bare IPv6 address has colons of its own.
fn split(text: &str) -> (&str, Option<&str>) {
    if text.parse::<IpAddr>().is_ok() {
        return (text, None);
    }
    let after = text.find(']').unwrap_or(0);
    match text.get(after..).and_then(|rest| rest.find(':')) {
        Some(at) => (text.get(..after + at).unwrap_or(text), text.get(after + at + 1..)),
        None => (text, None),
    }
}

impl World {
    /// The packet that a question means: of the family asked for, else IPv4 where both ends have it.
    ///
    /// # Errors
    /// When an end does not exist, has no fitting address, or has no port of that name.
    pub fn packet(&self, question: &Question, family: Option<Family>) -> Result<Packet, QuestionError> {
        let (sources, _) = self.addresses(&question.from)?;
        let (destinations, owner) = self.addresses(&question.to)?;
        let wanted = family.map_or(vec![Family::V4, Family::V6], |family| vec![family]);
        let of = |list: &[IpAddr], family| {
            list.iter().copied().find(|address| address.is_ipv4() == (family == Family::V4))
        };
        let pair =
            wanted.into_iter().find_map(|family| Some((of(&sources, family)?, of(&destinations, family)?)));
        let Some((src, dst)) = pair else {
            let (from, to) = (question.from.to_string(), question.to.to_string());
            return Err(QuestionError::NoCommonFamily { from, to, wanted: family });
        };
        let protocol = match question.protocol {
            ICMP | ICMPV6 if dst.is_ipv6() => ICMPV6,
            ICMP | ICMPV6 => ICMP,
            protocol => protocol,
        };
        let dst_port = match &question.port {
            None => 0,
            Some(PortChoice::Number(number)) => *number,
            Some(PortChoice::Name(name)) => named_port(owner, &question.to, protocol, name)?,
        };
        let mut packet = Packet::tcp(src, dst, dst_port);
        packet.protocol = protocol;
        if matches!(protocol, ICMP | ICMPV6) {
            let echo = if dst.is_ipv6() { 128 } else { 8 };
            packet.icmp = (question.icmp_type.unwrap_or(echo), 0);
        }
        packet.src_port = question.source_port.unwrap_or(packet.src_port);
        Ok(packet)
    }

    /// The addresses of an end, and the endpoint that has them.
    fn addresses(&self, end: &End) -> Result<(Vec<IpAddr>, Option<&Item>), QuestionError> {
        let (namespace, name) = match end {
            End::Address(address) => {
                let endpoints = |item: &&Item| item.kind != EndpointKind::NetworkSet;
                return Ok((vec![*address], self.items_with(*address).find(endpoints)));
            }
            End::Pod(namespace, name) => (namespace, name),
        };
        let Some(item) = self.workload(namespace, name) else {
            let near = self.near(namespace, name);
            return Err(QuestionError::NoPod { namespace: namespace.clone(), name: name.clone(), near });
        };
        if item.nets.is_empty() {
            return Err(QuestionError::NoAddress { endpoint: item.title() });
        }
        Ok((item.nets.iter().map(|net| net.addr()).collect(), Some(item)))
    }

    /// Pods that may be meant: of the same name, else of the same namespace.
    fn near(&self, namespace: &str, name: &str) -> Vec<String> {
        let pods = || self.items().iter().filter(|item| item.kind == EndpointKind::Workload);
        let text = |item: &Item| format!("{}/{}", item.key.namespace, item.workload);
        let twins: Vec<String> = pods().filter(|item| item.workload == name).map(text).collect();
        let mut near = if twins.is_empty() {
            pods().filter(|item| item.key.namespace == namespace).map(text).collect()
        } else {
            twins
        };
        near.sort();
        if near.len() > SUGGESTIONS {
            let more = near.len() - SUGGESTIONS;
            near.truncate(SUGGESTIONS);
            near.push(format!("{more} more"));
        }
        near
    }
}

fn named_port(owner: Option<&Item>, end: &End, protocol: u8, name: &str) -> Result<u16, QuestionError> {
    let ports = || owner.into_iter().flat_map(|item| &item.ports).filter(|(_, of, _)| *of == protocol);
    if let Some((_, _, port)) = ports().find(|(known, _, _)| known == name) {
        return Ok(*port);
    }
    Err(QuestionError::NoPort {
        endpoint: owner.map_or_else(|| end.to_string(), Item::title),
        protocol: protocol_name(protocol),
        name: name.to_owned(),
        names: ports().map(|(known, _, _)| known.clone()).collect(),
    })
}
