//! Texts of Felix parameters into values. Each function says in its error what would be right.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::resource::felix::ProtoPort;
use crate::{Dscp, GoDuration, Port};

type Parsed<T> = Result<T, String>;

pub(super) fn boolean(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "y" | "t" => Ok(true),
        "false" | "0" | "no" | "n" | "f" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

pub(super) fn optional<T>(parse: impl Fn(&str) -> Parsed<T>) -> impl Fn(&str) -> Parsed<Option<T>> {
    move |text| parse(text).map(Some)
}

fn scaled(text: &str, unit: &str) -> Parsed<Duration> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let parsed = GoDuration::from_str(&format!("{text}{unit}"));
    match parsed {
        Ok(d) if plain => Ok(d.as_duration()),
        _ => Err(format!("must be a number of {}", if unit == "s" { "seconds" } else { "milliseconds" })),
    }
}

pub(super) fn seconds(text: &str) -> Parsed<Duration> {
    scaled(text, "s")
}

pub(super) fn milliseconds(text: &str) -> Parsed<Duration> {
    scaled(text, "ms")
}

pub(super) fn int(min: i64, max: i64) -> impl Fn(&str) -> Parsed<i64> {
    move |text| match text.parse::<i64>() {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        Ok(_) if max == i64::MAX => Err(format!("must be at least {min}")),
        Ok(_) => Err(format!("must be within {min} and {max}")),
        Err(_) => Err("must be a whole number".to_owned()),
    }
}

pub(super) fn one_of(allowed: &'static [&'static str]) -> impl Fn(&str) -> Parsed<&'static str> {
    move |text| {
        let found = allowed.iter().find(|a| a.eq_ignore_ascii_case(text));
        found.copied().ok_or_else(|| format!("must be one of {}", allowed.join(", ")))
    }
}

// The parsers share one signature, also where nothing can go wrong.
#[allow(clippy::unnecessary_wraps)]
pub(super) fn text(text: &str) -> Parsed<String> {
    Ok(text.to_owned())
}

pub(super) fn characters(most: usize, besides: &'static [u8]) -> impl Fn(&str) -> Parsed<String> {
    move |text| {
        let fits = (1..=most).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || besides.contains(&b));
        if fits {
            return Ok(text.to_owned());
        }
        let besides: Vec<String> = besides.iter().map(|b| char::from(*b).to_string()).collect();
        Err(format!("must be up to {most} letters, digits or {}", besides.join(" ")))
    }
}

pub(super) fn host_and_port(text: &str) -> Parsed<String> {
    match text.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty() && !host.contains([':', '/']) && port.parse::<u16>().is_ok() =>
        {
            Ok(text.to_owned())
        }
        _ => Err("must be host:port".to_owned()),
    }
}

pub(super) fn rate(text: &str) -> Parsed<String> {
    let ok = text.split_once('/').is_some_and(|(n, unit)| {
        (1..=4).contains(&n.len())
            && n.bytes().all(|b| b.is_ascii_digit())
            && !n.starts_with('0')
            && ["second", "minute", "hour", "day"].contains(&unit)
    });
    if ok {
        Ok(text.to_owned())
    } else {
        Err("must be n/second, n/minute, n/hour or n/day, n from 1 to 9999".to_owned())
    }
}

pub(super) fn interface_prefixes(text: &str) -> Parsed<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    let ok = text.split(',').all(|p| (1..=15).contains(&p.len()) && p.bytes().all(allowed));
    if ok { Ok(text.to_owned()) } else { Err("must be interface prefixes separated by commas".to_owned()) }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|s| !s.is_empty())
}

#[allow(clippy::unnecessary_wraps)]
pub(super) fn texts(text: &str) -> Parsed<Vec<String>> {
    Ok(items(text).map(str::to_owned).collect())
}

pub(super) fn pairs(text: &str) -> Parsed<BTreeMap<String, String>> {
    let pair = |item: &str| match item.split_once('=') {
        Some((k, v)) if !k.trim().is_empty() => Ok((k.trim().to_owned(), v.trim().to_owned())),
        _ => Err(format!("{item:?} must have the form key=value")),
    };
    items(text).map(pair).collect()
}

pub(super) fn duration_pairs(text: &str) -> Parsed<BTreeMap<String, GoDuration>> {
    let parse = |(k, v): (String, String)| match v.parse() {
        Ok(d) => Ok((k, d)),
        Err(e) => Err(format!("{k}: {e}")),
    };
    pairs(text)?.into_iter().map(parse).collect()
}

pub(super) fn networks(text: &str) -> Parsed<Vec<IpNet>> {
    items(text).map(|t| crate::net::cidr_or_ip(t).map_err(|e| e.to_string())).collect()
}

pub(super) fn ipv4_networks(text: &str) -> Parsed<Vec<IpNet>> {
    let nets = networks(text)?;
    match nets.iter().find(|n| n.addr().is_ipv6()) {
        Some(n) => Err(format!("{n} must be IPv4")),
        None => Ok(nets),
    }
}

pub(super) fn address<T: FromStr>(text: &str) -> Parsed<T> {
    text.parse().map_err(|_| "must be an address of the right family".to_owned())
}

pub(super) fn port_range(text: &str) -> Parsed<(u16, u16)> {
    match text.parse::<Port>() {
        Ok(Port::Range(first, last)) => Ok((first, last)),
        _ => Err(format!("{text:?} must be a port or first:last")),
    }
}

pub(super) fn port_ranges(text: &str) -> Parsed<Vec<(u16, u16)>> {
    items(text).map(port_range).collect()
}

/// `22`, `tcp:22`, `udp:10.0.0.0/8:53`, `udp:[fe80::/10]:53`.
pub(super) fn proto_ports(text: &str) -> Parsed<Vec<ProtoPort>> {
    items(text).map(proto_port).collect()
}

fn proto_port(item: &str) -> Parsed<ProtoPort> {
    let bad = |what: &str| format!("{item:?}: {what}; use tcp:22, udp:10.0.0.0/8:53 or udp:[fe80::/10]:53");
    let (head, port) = item.rsplit_once(':').unwrap_or(("tcp", item));
    let port = port.parse().map_err(|_| bad("the port must be a number"))?;
    let (protocol, net) = head.split_once(':').unwrap_or((head, ""));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp"].contains(&protocol.as_str()) {
        return Err(bad("the protocol must be tcp or udp"));
    }
    let net = net.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(net);
    if !net.is_empty() && crate::net::cidr_or_ip(net).is_err() {
        return Err(bad("the network is none"));
    }
    Ok(ProtoPort { protocol, port, net: net.to_owned() })
}

pub(super) fn mark_mask(text: &str) -> Parsed<u32> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let mask = match hex {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    match mask {
        Some(mask) if mask.count_ones() >= 2 => Ok(mask),
        _ => Err("must be a 32-bit mask with at least two bits set, such as 0xffff0000".to_owned()),
    }
}

pub(super) fn dscp(text: &str) -> Parsed<Dscp> {
    text.parse().map_err(|e: crate::DscpError| e.to_string())
}

fn table_range(item: &str, most: u32) -> Parsed<(u32, u32)> {
    let parsed =
        item.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    match parsed {
        Some((first, last)) if first >= 1 && first <= last && last <= most => Ok((first, last)),
        _ => Err(format!("{item:?} must be first-last within 1 and {most}")),
    }
}

pub(super) fn old_route_table_range(text: &str) -> Parsed<(u32, u32)> {
    table_range(text, 250)
}

pub(super) fn route_table_ranges(text: &str) -> Parsed<Vec<(u32, u32)>> {
    let ranges: Vec<(u32, u32)> = text
        .split([',', ' '])
        .filter(|s| !s.is_empty())
        .map(|item| table_range(item, u32::MAX))
        .collect::<Parsed<_>>()?;
    let total: u64 = ranges.iter().map(|(a, b)| u64::from(b - a) + 1).sum();
    if total > 65_535 { Err(format!("covers {total} tables; at most 65535 are allowed")) } else { Ok(ranges) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(milliseconds("50"), Ok(Duration::from_millis(50)));
        assert!(seconds("1m").is_err() && seconds("-1").is_err() && seconds("").is_err());
        assert_eq!(boolean("YES"), Ok(true));
        assert_eq!(mark_mask("0xff"), Ok(255));
        assert!(mark_mask("0x80").is_err());
        assert_eq!(route_table_ranges("1-250, 300-400"), Ok(vec![(1, 250), (300, 400)]));
        assert!(route_table_ranges("1-70000").is_err() && route_table_ranges("0-5").is_err());
        let port =
            |protocol: &str, port, net: &str| ProtoPort { protocol: protocol.into(), port, net: net.into() };
        assert_eq!(
            proto_ports("22,udp:[fe80::/10]:53, TCP:10.0.0.0/8:80"),
            Ok(vec![port("tcp", 22, ""), port("udp", 53, "fe80::/10"), port("tcp", 80, "10.0.0.0/8")])
        );
        assert!(proto_ports("sctp:1").is_err() && proto_ports("tcp:x:1").is_err());
        assert_eq!(one_of(&["Enabled", "Disabled"])("enabled"), Ok("Enabled"));
        assert!(int(1, 5)("6").is_err() && int(1, 5)("x").is_err());
        assert!(rate("100/second").is_ok() && rate("0/second").is_err() && rate("5/week").is_err());
        assert!(host_and_port("a:1").is_ok() && host_and_port("a").is_err());
    }
}
