//! Who reaches whom: a matrix of all kinds of endpoints, and what a change of resources would change in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::IpAddr;

use calico_model::{Port, Protocol};
use ipnet::IpNet;
use serde::Serialize;

use super::trace::protocol_name;
use super::world::{EndpointKind, Item, World, cidr};
use crate::packet::{ICMP, ICMPV6, Packet, TCP, UDP, has_ports};
use crate::verdict::{Reason, Staged, Verdict};

/// A kind of traffic to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Probe {
    /// IP protocol number; ICMP stands for ICMPv6 between IPv6 addresses.
    pub protocol: u8,
    /// Destination port, for protocols with ports.
    pub port: u16,
    /// True for a port that nothing mentions and that stands for all such ports.
    pub other: bool,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&protocol_name(self.protocol))?;
        match (has_ports(self.protocol), self.other) {
            (false, _) => Ok(()),
            (true, false) => write!(f, " {}", self.port),
            (true, true) => f.write_str(" other"),
        }
    }
}

impl Probe {
    /// Traffic of a protocol to a port (0 for protocols without ports).
    pub fn new(protocol: u8, port: u16) -> Self {
        Self { protocol, port: if has_ports(protocol) { port } else { 0 }, other: false }
    }

    fn packet(self, src: IpAddr, dst: IpAddr) -> Packet {
        let protocol = if self.protocol == ICMP && dst.is_ipv6() { ICMPV6 } else { self.protocol };
        let echo = if dst.is_ipv6() { (128, 0) } else { (8, 0) };
        Packet { protocol, icmp: echo, ..Packet::tcp(src, dst, self.port) }
    }
}

/// Endpoints that no policy can tell apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Group {
    /// Name of its first member.
    pub name: String,
    /// Names of all members, sorted.
    pub members: Vec<String>,
    /// Addresses of the first member.
    #[serde(skip)]
    addresses: Vec<IpAddr>,
    /// Addresses of the second, for traffic inside the group.
    #[serde(skip)]
    others: Vec<IpAddr>,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.members.len() {
            0 | 1 => f.write_str(&self.name),
            n => write!(f, "{} (+{})", self.name, n - 1),
        }
    }
}

/// Which traffic passes between two groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cell {
    /// Everything that was tried.
    All,
    /// Nothing that was tried.
    None,
    /// Only these.
    Some(Vec<Probe>),
    /// The groups have no two addresses of the same family.
    Unreachable,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::None => f.write_str("-"),
            Self::Unreachable => f.write_str("n/a"),
            Self::Some(probes) => {
                f.write_str(&probes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// Who reaches whom with what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Matrix {
    /// Rows (sources) and columns (destinations), in this order.
    pub groups: Vec<Group>,
    /// What was tried.
    pub probes: Vec<Probe>,
    /// By row, then column.
    pub cells: Vec<Vec<Cell>>,
}

/// A pair of groups for which a change of resources changes the verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flip {
    /// Source.
    pub from: Group,
    /// Destination.
    pub to: Group,
    /// Traffic, as text.
    pub traffic: String,
    /// Verdict before the change.
    pub before: Verdict,
    /// Verdict after it.
    pub after: Verdict,
    /// What decides after the change.
    pub reason: String,
}

/// What a change of resources would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Simulation {
    /// How many combinations of groups and traffic were tried.
    pub tried: usize,
    /// Those whose verdict changes.
    pub flips: Vec<Flip>,
}

/// An address that is in no network set or pool.
const OUTSIDE: [&str; 2] = ["192.0.2.254", "2001:db8::fffe"];

impl World {
    /// The traffic that rules tell apart: every port that a rule or endpoint names, one that none does, and echo.
    pub fn probes(&self) -> Vec<Probe> {
        let mut probes: BTreeSet<Probe> = BTreeSet::new();
        let mut add = |protocol: Option<u8>, port: u16| {
            for protocol in protocol.map_or(vec![TCP, UDP], |p| vec![p]) {
                probes.insert(Probe::new(protocol, port));
            }
        };
        for rule in self.all_rules() {
            let protocol = rule.protocol.as_ref().and_then(Protocol::number).filter(|p| *p != ICMPV6);
            let ports = [&rule.destination.ports, &rule.destination.not_ports];
            for port in ports.into_iter().flatten() {
                if let Port::Range(first, last) = port {
                    add(protocol, *first);
                    add(protocol, *last);
                }
            }
            if let Some(protocol) = protocol.filter(|p| !has_ports(*p)) {
                add(Some(protocol), 0);
            }
        }
        self.items()
            .iter()
            .flat_map(|item| &item.ports)
            .for_each(|(_, protocol, port)| add(Some(*protocol), *port));
        self.all_backends()
            .flat_map(|b| &b.ports)
            .for_each(|(_, protocol, port)| add(Some(*protocol), *port));
        probes.insert(Probe::new(ICMP, 0));
        for protocol in [TCP, UDP] {
            let unused = (1..u16::MAX).find(|port| !probes.contains(&Probe::new(protocol, *port)));
            probes.extend(unused.map(|port| Probe { other: true, ..Probe::new(protocol, port) }));
        }
        probes.into_iter().collect()
    }

    /// Workloads, network sets and the outside, those that no rule tells apart taken together.
    pub fn groups(&self) -> Vec<Group> {
        self.groups_beside(self)
    }

    /// Groups whose members neither this world nor the other tells apart.
    fn groups_beside(&self, other: &Self) -> Vec<Group> {
        let mut nets: BTreeSet<IpNet> = BTreeSet::new();
        for world in [self, other] {
            for rule in world.all_rules() {
                let sides = [&rule.source, &rule.destination];
                let texts = sides.into_iter().flat_map(|side| side.nets.iter().chain(&side.not_nets));
                nets.extend(texts.filter_map(|text| cidr(text)));
            }
            let sets = world.items().iter().filter(|item| item.kind == EndpointKind::NetworkSet);
            nets.extend(sets.flat_map(|set| set.nets.iter().copied()));
        }
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        for item in
            self.items().iter().filter(|item| item.kind != EndpointKind::Host && !item.nets.is_empty())
        {
            let addresses: Vec<IpAddr> = first_addresses(item);
            let twin = other.item(&item.key);
            let inside: Vec<&IpNet> =
                nets.iter().filter(|n| addresses.iter().any(|a| n.contains(a))).collect();
            let served: Vec<bool> = [self, other]
                .into_iter()
                .flat_map(World::all_backends)
                .map(|backends| addresses.iter().any(|addr| backends.addresses.contains(addr)))
                .collect();
            let shape = |item: &Item| format!("{:?} {:?} {:?}", item.labels, item.profiles, item.ports);
            let families: Vec<bool> = addresses.iter().map(IpAddr::is_ipv4).collect();
            let own = if item.kind == EndpointKind::NetworkSet { item.title() } else { String::new() };
            let key =
                format!("{own} {} {:?} {inside:?} {served:?} {families:?}", shape(item), twin.map(shape));
            let group = groups.entry(key).or_insert_with(|| Group {
                name: item.title(),
                members: Vec::new(),
                addresses: addresses.clone(),
                others: Vec::new(),
            });
            group.members.push(item.title());
            if group.members.len() == 2 {
                group.others = addresses;
            }
        }
        let mut groups: Vec<Group> = groups.into_values().collect();
        groups.iter_mut().for_each(|group| group.members.sort());
        groups.sort();
        let outside = OUTSIDE.iter().filter_map(|text| text.parse().ok()).collect();
        groups.push(Group {
            name: "outside".into(),
            members: vec!["outside".into()],
            addresses: outside,
            others: Vec::new(),
        });
        groups
    }

    /// Who reaches whom. With probes given only those are tried, else all of [`World::probes`].
    ///
    /// ```
    /// use calico_policy::oracle::World;
    /// let matrix = World::new([]).matrix(None);
    /// assert_eq!(matrix.groups.len(), 1, "only the outside");
    /// assert!(matrix.to_svg().starts_with("<svg "));
    /// ```
    pub fn matrix(&self, probes: Option<Vec<Probe>>) -> Matrix {
        let groups = self.groups();
        let probes = probes.unwrap_or_else(|| self.probes());
        let row = |from: &Group| groups.iter().map(|to| self.cell(from, to, &probes)).collect();
        let cells = groups.iter().map(row).collect();
        Matrix { groups, probes, cells }
    }

    fn cell(&self, from: &Group, to: &Group, probes: &[Probe]) -> Cell {
        let Some((src, dst)) = pair(from, to) else { return Cell::Unreachable };
        let passes =
            |probe: &&Probe| self.evaluate(&probe.packet(src, dst), Staged::Ignored).verdict != Verdict::Deny;
        let passed: Vec<Probe> = probes.iter().filter(passes).copied().collect();
        match passed.len() {
            0 => Cell::None,
            n if n == probes.len() => Cell::All,
            _ => Cell::Some(passed),
        }
    }

    /// What would change for whom if the resources became those of `after`.
    pub fn simulate(&self, after: &World) -> Simulation {
        let probes: BTreeSet<Probe> = self.probes().into_iter().chain(after.probes()).collect();
        let mut groups = after.groups_beside(self);
        let gone = self.groups_beside(after);
        let known: BTreeSet<String> = groups.iter().flat_map(|group| group.members.clone()).collect();
        groups
            .extend(gone.into_iter().filter(|group| !group.members.iter().any(|name| known.contains(name))));
        let mut simulation = Simulation { tried: 0, flips: Vec::new() };
        for from in &groups {
            for to in &groups {
                let Some((src, dst)) = pair(from, to) else { continue };
                for probe in &probes {
                    simulation.tried += 1;
                    let packet = probe.packet(src, dst);
                    let before = self.evaluate(&packet, Staged::Ignored).verdict;
                    let outcome = after.evaluate(&packet, Staged::Ignored);
                    if before == outcome.verdict {
                        continue;
                    }
                    let last = outcome.ingress.or(outcome.egress).map(|(_, outcome)| outcome.reason);
                    simulation.flips.push(Flip {
                        from: from.clone(),
                        to: to.clone(),
                        traffic: probe.to_string(),
                        before,
                        after: outcome.verdict,
                        reason: last.unwrap_or(Reason::NotPoliced).to_string(),
                    });
                }
            }
        }
        simulation
    }
}

/// The first address of each family.
fn first_addresses(item: &Item) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for addr in item.nets.iter().map(|net| net.addr()) {
        if !addresses.iter().any(|other| other.is_ipv4() == addr.is_ipv4()) {
            addresses.push(addr);
        }
    }
    addresses
}

/// Addresses of one family, the first choice being IPv4.
fn pair(from: &Group, to: &Group) -> Option<(IpAddr, IpAddr)> {
    [true, false].into_iter().find_map(|v4| {
        let of = |list: &[IpAddr]| list.iter().copied().find(|addr| addr.is_ipv4() == v4);
        let to = if from.name == to.name { &to.others } else { &to.addresses };
        Some((of(&from.addresses)?, of(to)?))
    })
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let corner = std::iter::once("from \\ to".to_owned());
        rows.push(corner.chain(self.groups.iter().map(ToString::to_string)).collect());
        for (group, cells) in self.groups.iter().zip(&self.cells) {
            let name = std::iter::once(group.to_string());
            rows.push(name.chain(cells.iter().map(ToString::to_string)).collect());
        }
        let columns = self.groups.len() + 1;
        let widths: Vec<usize> = (0..columns)
            .map(|at| {
                rows.iter().filter_map(|row| row.get(at)).map(|text| text.chars().count()).max().unwrap_or(0)
            })
            .collect();
        for row in rows {
            let mut line = String::new();
            for (text, width) in row.iter().zip(&widths) {
                write!(line, "{text:<width$}  ")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl fmt::Display for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} of {} combinations change", self.flips.len(), self.tried)?;
        for flip in &self.flips {
            let verdict = |verdict| if verdict == Verdict::Deny { "denied" } else { "allowed" };
            let (before, after) = (verdict(flip.before), verdict(flip.after));
            writeln!(
                f,
                "  {} -> {} {}: {before}, then {after} ({})",
                flip.from, flip.to, flip.traffic, flip.reason
            )?;
        }
        Ok(())
    }
}

impl Matrix {
    /// The matrix as a picture; every cell has its text as a tooltip.
    pub fn to_svg(&self) -> String {
        const CELL: usize = 24;
        const LABEL: usize = 220;
        let size = LABEL + CELL * self.groups.len() + 10;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{size}\" height=\"{size}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n"
        );
        for (at, group) in self.groups.iter().enumerate() {
            let middle = LABEL + CELL * at + CELL / 2 + 4;
            let name = escape(&group.to_string());
            let right = LABEL - 6;
            // Writing to a String cannot fail.
            let _ = writeln!(svg, "<text x=\"{right}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>");
            let turn = format!("rotate(-90 {middle} {right})");
            let _ = writeln!(svg, "<text x=\"{middle}\" y=\"{right}\" transform=\"{turn}\">{name}</text>");
        }
        for (row, (from, cells)) in self.groups.iter().zip(&self.cells).enumerate() {
            for (column, (to, cell)) in self.groups.iter().zip(cells).enumerate() {
                let (x, y) = (LABEL + CELL * column, LABEL + CELL * row);
                let fill = match cell {
                    Cell::All => "#2a9d5c",
                    Cell::Some(_) => "#e9b949",
                    Cell::None => "#c8443c",
                    Cell::Unreachable => "#dddddd",
                };
                let title = escape(&format!("{from} to {to}: {cell}"));
                let side = CELL - 2;
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill=\"{fill}\"><title>{title}</title></rect>"
                );
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
