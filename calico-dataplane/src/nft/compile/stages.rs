//! The base chains: one per stage and hook, each ending with `accept` for what it allows.
//!
//! An `accept` ends one base chain only and a `drop` is final, so the stages of a hook are simply chains of
//! rising priority and no mark has to carry "allowed so far" from one to the next. A base chain is registered only
//! while it has something to do.

use std::collections::{BTreeMap, BTreeSet};

use calico_policy::ir::{Family, Side};
use ipnet::IpNet;

use super::hosts::HostSlot;
use crate::nft::build::{
    accept, addr_field, change_mark, drop_packet, eq, goto, in_literal, in_set, interface_prefix,
    is_established, is_family, is_local, is_protocol, jump, literal, load_addr, load_port, mark_has, meta,
    net_key, not_in_set, reject, set_dscp, vmap,
};
use crate::nft::config::{Config, Failsafe, LoopPrevention, ToHostAction};
use crate::nft::expr::{
    CmpOp, Expr, MetaKey, NAT_FULLY_RANDOM, NAT_PROTO_SPECIFIED, NatKind, PayloadBase, Reg,
};
use crate::nft::object::{BaseHook, Chain, ChainKind, Field, Hook, Key, Name, Rule};

/// Interface to pipeline, from workloads.
pub(super) const FROM_WORKLOAD: &str = "cali-from-wl-dispatch";
/// Interface to pipeline, to workloads.
pub(super) const TO_WORKLOAD: &str = "cali-to-wl-dispatch";
/// Interface to packet rate limit, from workloads.
pub(super) const FROM_WORKLOAD_RATE: &str = "cali-from-wl-rate";
/// Interface to packet rate limit, to workloads.
pub(super) const TO_WORKLOAD_RATE: &str = "cali-to-wl-rate";
/// Sources a workload may use.
pub(super) const ANTI_SPOOF: &str = "cali-anti-spoof";
/// The flowtable.
pub(super) const FLOWTABLE: &str = "calico";
const FAILSAFE_IN: &str = "cali-failsafe-in";
const FAILSAFE_OUT: &str = "cali-failsafe-out";
const FAILSAFE_IN_RAW: &str = "cali-failsafe-in-raw";
const FAILSAFE_OUT_RAW: &str = "cali-failsafe-out-raw";
/// ICMPv6: multicast listener query, report, done; router solicitation, neighbour solicitation and
/// advertisement. Without them a workload cannot even resolve its gateway.
const ND_TYPES: [u8; 6] = [130, 131, 132, 133, 135, 136];

/// Kernel sets that are not policy.
pub(super) mod sets {
    use calico_policy::ir::Family;

    use crate::nft::object::Name;

    /// Name of a set for one family; `n` marks ranges.
    pub(in crate::nft::compile) fn name(family: Family, ranges: bool, what: &str) -> Name {
        let number = if family == Family::V4 { '4' } else { '6' };
        format!("cali{number}{}{what}", if ranges { 'n' } else { '0' }).into()
    }

    pub(in crate::nft::compile) const MASQUERADE: &str = "masq-ipam-pools";
    pub(in crate::nft::compile) const POOLS: &str = "all-ipam-pools";
    pub(in crate::nft::compile) const HOSTS: &str = "all-hosts-net";
    pub(in crate::nft::compile) const VTEPS: &str = "all-vxlan-net";
    pub(in crate::nft::compile) const SOURCES: &str = "wl-sources";
    pub(in crate::nft::compile) const SPOOF: &str = "wl-spoof-allowed";
    pub(in crate::nft::compile) const FLOATING: &str = "floating-dnat";
    pub(in crate::nft::compile) const NO_OFFLOAD: &str = "no-flow-offload";

    /// Sources whose packets get a DSCP value.
    pub(in crate::nft::compile) fn dscp(family: Family, value: u8) -> Name {
        name(family, false, &format!("dscp-{value}"))
    }

    pub(in crate::nft::compile) const HAIRPIN: &str = "floating-snat";
}

/// What the base chains depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// Host-endpoint stages in use, with the chain of the endpoint of all other interfaces.
    pub(super) hosts: BTreeMap<HostSlot, Option<Name>>,
    /// Some workload has a packet rate limit, from and to.
    pub(super) rates: [bool; 2],
    /// Some workload may use more source prefixes, per family.
    pub(super) spoof: [bool; 2],
    /// Some pool masquerades, per family.
    pub(super) masquerade: [bool; 2],
    /// Floating addresses exist, per family.
    pub(super) floating: [bool; 2],
    /// IPIP is in use.
    pub(super) ipip: bool,
    /// VXLAN is in use, per family.
    pub(super) vxlan: [bool; 2],
    /// Names of tunnel devices that have an address.
    pub(super) tunnels: Vec<Name>,
    /// DSCP values in use, per family.
    pub(super) dscp: [BTreeSet<u8>; 2],
    /// Established connections go to the flowtable.
    pub(super) offload: bool,
    /// Ranges of service addresses.
    pub(super) services: Vec<IpNet>,
}

type Chains = BTreeMap<Name, Chain>;

fn rule(parts: impl IntoIterator<Item = Expr>) -> Rule {
    Rule::new(parts.into_iter().collect())
}

/// A rule from pieces of expressions.
macro_rules! rule {
    ($($part:expr),+ $(,)?) => {{
        let mut exprs: Vec<Expr> = Vec::new();
        $(exprs.extend($part);)+
        rule(exprs)
    }};
}

fn base(kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { base: Some(BaseHook { kind, hook, priority }), rules, comment: None }
}

/// All chains that do not come from policy.
pub(super) fn chains(config: &Config, shape: &Shape) -> Chains {
    let builder = Builder { config, shape, chains: Chains::new() };
    builder.all()
}

struct Builder<'a> {
    config: &'a Config,
    shape: &'a Shape,
    chains: Chains,
}

impl Builder<'_> {
    fn all(mut self) -> Chains {
        self.raw();
        self.forward();
        self.input();
        self.host_egress();
        self.nat();
        self.dscp();
        self.offload();
        self.failsafes();
        self.chains
    }

    fn families(&self) -> impl Iterator<Item = Family> + use<> {
        [Family::V4, Family::V6].into_iter().take(if self.config.ipv6 { 2 } else { 1 })
    }

    fn has(&self, slot: HostSlot) -> bool {
        self.shape.hosts.contains_key(&slot)
    }

    /// "Allowed" travels from untracked or preDNAT policy to later stages.
    fn carries_mark(&self) -> bool {
        self.has(HostSlot::UntrackedIn) || self.has(HostSlot::UntrackedOut) || self.has(HostSlot::PreDnat)
    }

    fn put(&mut self, name: &str, chain: Chain) {
        if !chain.rules.is_empty() {
            self.chains.insert(name.into(), chain);
        }
    }

    fn prefixes(&self, key: MetaKey) -> Vec<[Expr; 2]> {
        self.config.interface_prefixes.iter().map(|prefix| interface_prefix(key, prefix)).collect()
    }

    fn dispatch(&self, slot: HostSlot, rules: &mut Vec<Rule>) {
        let Some(everything) = self.shape.hosts.get(&slot) else { return };
        let key = match slot.direction() {
            calico_policy::ir::Direction::Ingress => MetaKey::Iifname,
            calico_policy::ir::Direction::Egress => MetaKey::Oifname,
        };
        rules.push(rule!([meta(key), vmap(&slot.map().into())]));
        if let Some(chain) = everything {
            rules.push(rule!([goto(chain)]));
        }
    }

    fn accept_marked(&self, rules: &mut Vec<Rule>) {
        if self.carries_mark() {
            rules.push(rule!(mark_has(self.config.accept_mark, true), [accept()]));
        }
    }

    fn raw(&mut self) {
        let mark = self.config.accept_mark;
        let mut rules = Vec::new();
        if self.carries_mark() {
            rules.push(rule!(change_mark(mark, false)).commented("only policy may set the mark"));
        }
        let mut output = rules.clone();
        if self.shape.vxlan != [false; 2] {
            let notrack = rule!(self.udp_to(self.config.vxlan_port), [Expr::Notrack]);
            rules.push(notrack.clone().commented("VXLAN"));
            if self.has(HostSlot::UntrackedOut) {
                output.push(notrack.commented("VXLAN"));
            }
        }
        for prefix in self.prefixes(MetaKey::Iifname) {
            rules.push(rule!(prefix, [goto(&ANTI_SPOOF.into())]));
        }
        self.failsafe_jump(HostSlot::UntrackedIn, FAILSAFE_IN_RAW, &mut rules);
        self.dispatch(HostSlot::UntrackedIn, &mut rules);
        self.put("raw-prerouting", base(ChainKind::Filter, Hook::Prerouting, -300, rules));
        self.anti_spoof();

        if self.has(HostSlot::UntrackedOut) {
            self.failsafe_jump(HostSlot::UntrackedOut, FAILSAFE_OUT_RAW, &mut output);
            self.dispatch(HostSlot::UntrackedOut, &mut output);
        }
        if self.carries_mark() {
            self.put("raw-output", base(ChainKind::Filter, Hook::Output, -300, output));
        }

        if self.has(HostSlot::PreDnat) {
            let mut rules = vec![rule!(is_established(), [accept()])];
            self.accept_marked(&mut rules);
            for prefix in self.prefixes(MetaKey::Iifname) {
                rules.push(rule!(prefix, [accept()]));
            }
            self.failsafe_jump(HostSlot::PreDnat, FAILSAFE_IN, &mut rules);
            self.dispatch(HostSlot::PreDnat, &mut rules);
            self.put("mangle-prerouting", base(ChainKind::Filter, Hook::Prerouting, -150, rules));
        }
    }

    fn failsafe_jump(&self, slot: HostSlot, chain: &str, rules: &mut Vec<Rule>) {
        if self.has(slot) {
            rules.push(rule!([jump(&chain.into())]));
        }
    }

    fn anti_spoof(&mut self) {
        let mut rules = Vec::new();
        let second = |family, set: &Name| {
            [
                meta(MetaKey::Iifname),
                load_addr(family, Side::Source, Reg::word(4).unwrap_or(Reg::FIRST)),
                in_set(set),
                accept(),
            ]
        };
        for family in self.families() {
            let set = sets::name(family, false, sets::SOURCES);
            rules.push(rule!(is_family(family), second(family, &set)));
        }
        for (index, family) in self.families().enumerate() {
            if self.shape.spoof[index] {
                let set = sets::name(family, true, sets::SPOOF);
                rules.push(rule!(is_family(family), second(family, &set)));
            }
        }
        if self.config.ipv6 {
            let link_local = [[0xfe, 0x80].as_slice(), &[0; 14]].concat();
            let last = [[0xfe, 0xbf].as_slice(), &[0xff; 14]].concat();
            let sources = literal(Field::Ipv6, [Key::value(&[0; 16]), Key::range(&link_local, &last)]);
            rules.push(
                rule!(
                    is_family(Family::V6),
                    [load_addr(Family::V6, Side::Source, Reg::FIRST), in_literal(sources, false), accept()]
                )
                .commented("neighbour discovery, duplicate address detection"),
            );
        }
        let any = [0u8; 4];
        rules.push(
            rule!(
                is_family(Family::V4),
                is_protocol(17),
                [load_addr(Family::V4, Side::Source, Reg::FIRST), eq(&any)],
                [load_port(Side::Source, Reg::FIRST), eq(&68u16.to_be_bytes())],
                [load_port(Side::Destination, Reg::FIRST), eq(&67u16.to_be_bytes()), accept()],
            )
            .commented("DHCP of a workload without address"),
        );
        rules.push(rule!([drop_packet()]).commented("spoofed source"));
        self.put(
            ANTI_SPOOF,
            Chain { base: None, rules, comment: Some("sources that workloads may use".into()) },
        );
    }

    fn forward(&mut self) {
        let filter = |priority, rules| base(ChainKind::Filter, Hook::Forward, priority, rules);
        let established = || rule!(is_established(), [accept()]);
        for (slot, name, priority) in [
            (HostSlot::ForwardIn, "forward-10-from-host", 0),
            (HostSlot::ForwardOut, "forward-40-to-host", 3),
        ] {
            if self.has(slot) {
                let mut rules = vec![established()];
                self.accept_marked(&mut rules);
                self.dispatch(slot, &mut rules);
                self.put(name, filter(priority, rules));
            }
        }

        let mut rules = Vec::new();
        self.rate_limits(0, &mut rules);
        rules.push(established());
        rules.push(rule!([meta(MetaKey::Iifname), vmap(&FROM_WORKLOAD.into())]));
        self.drop_unknown(MetaKey::Iifname, &mut rules);
        self.put("forward-20-from-workload", filter(1, rules));

        let mut rules = Vec::new();
        self.rate_limits(1, &mut rules);
        rules.push(established());
        rules.push(rule!([meta(MetaKey::Oifname), vmap(&TO_WORKLOAD.into())]));
        self.drop_unknown(MetaKey::Oifname, &mut rules);
        self.put("forward-30-to-workload", filter(2, rules));

        let end = match self.config.loop_prevention {
            LoopPrevention::Disabled => return,
            LoopPrevention::Drop => drop_packet(),
            LoopPrevention::Reject => reject(),
        };
        let mut rules = Vec::new();
        for family in self.families() {
            let nets = self.shape.services.iter().filter(|net| crate::nft::build::family_of(net) == family);
            let nets = IpNet::aggregate(&nets.copied().collect());
            if !nets.is_empty() {
                let nets = literal(addr_field(family), nets.iter().map(net_key));
                let load = load_addr(family, Side::Destination, Reg::FIRST);
                rules.push(rule!(is_family(family), [load, in_literal(nets, false), end.clone()]));
            }
        }
        self.put("forward-50-service-loop", filter(4, rules));
    }

    fn rate_limits(&self, way: usize, rules: &mut Vec<Rule>) {
        if self.shape.rates[way] {
            let (key, map) =
                [(MetaKey::Iifname, FROM_WORKLOAD_RATE), (MetaKey::Oifname, TO_WORKLOAD_RATE)][way];
            rules.push(rule!([meta(key), vmap(&map.into())]));
        }
    }

    fn drop_unknown(&self, key: MetaKey, rules: &mut Vec<Rule>) {
        for prefix in self.prefixes(key) {
            rules.push(rule!(prefix, [drop_packet()]).commented("unknown workload interface"));
        }
    }

    fn udp_to(&self, port: u16) -> Vec<Expr> {
        let mut exprs = is_protocol(17).to_vec();
        exprs.push(load_port(Side::Destination, Reg::FIRST));
        exprs.push(eq(&port.to_be_bytes()));
        exprs
    }

    /// Tunnel packets from other nodes (`Source`) or to them (`Destination`).
    fn tunnels(&self, remote: Side) -> Vec<Rule> {
        let local = match remote {
            Side::Source => Side::Destination,
            Side::Destination => Side::Source,
        };
        let mut rules = Vec::new();
        if self.shape.ipip {
            let hosts = sets::name(Family::V4, true, sets::HOSTS);
            rules.push(
                rule!(
                    is_family(Family::V4),
                    is_protocol(4),
                    [load_addr(Family::V4, remote, Reg::FIRST), in_set(&hosts)],
                    is_local(local),
                    [accept()]
                )
                .commented("IPIP between nodes"),
            );
        }
        for (index, family) in self.families().enumerate() {
            if self.shape.vxlan[index] {
                let vteps = sets::name(family, true, sets::VTEPS);
                rules.push(
                    rule!(
                        is_family(family),
                        self.udp_to(self.config.vxlan_port),
                        [load_addr(family, remote, Reg::FIRST), in_set(&vteps)],
                        is_local(local),
                        [accept()]
                    )
                    .commented("VXLAN between nodes"),
                );
            }
        }
        for (index, family) in self.families().enumerate() {
            if let Some(port) = self.config.wireguard_ports[index] {
                rules.push(
                    rule!(is_family(family), self.udp_to(port), is_local(local), [accept()])
                        .commented("WireGuard"),
                );
            }
        }
        rules
    }

    fn input(&mut self) {
        let filter = |priority, rules| base(ChainKind::Filter, Hook::Input, priority, rules);
        let mut rules = self.tunnels(Side::Source);
        if self.shape.ipip {
            rules.push(
                rule!(is_family(Family::V4), is_protocol(4), [drop_packet()])
                    .commented("IPIP from elsewhere"),
            );
        }
        for (index, family) in self.families().enumerate() {
            if self.shape.vxlan[index] {
                let exprs = rule!(
                    is_family(family),
                    self.udp_to(self.config.vxlan_port),
                    is_local(Side::Destination),
                    [drop_packet()]
                );
                rules.push(exprs.commented("VXLAN from elsewhere"));
            }
        }
        self.rate_limits(0, &mut rules);
        rules.push(rule!(is_established(), [accept()]));
        let discovery = self.neighbour_discovery();
        rules.extend(discovery.clone());
        rules.push(rule!([meta(MetaKey::Iifname), vmap(&FROM_WORKLOAD.into())]));
        self.drop_unknown(MetaKey::Iifname, &mut rules);
        self.put("input-10-from-workload", filter(0, rules));

        if self.config.to_host == ToHostAction::Drop {
            let mut rules = vec![rule!(is_established(), [accept()])];
            rules.extend(discovery);
            for prefix in self.prefixes(MetaKey::Iifname) {
                rules.push(rule!(prefix, [drop_packet()]).commented("DefaultEndpointToHostAction"));
            }
            self.put("input-20-workload-to-host", filter(1, rules));
        }

        if self.has(HostSlot::In) {
            let mut rules = self.tunnels(Side::Source);
            rules.push(rule!(is_established(), [accept()]));
            self.accept_marked(&mut rules);
            for prefix in self.prefixes(MetaKey::Iifname) {
                rules.push(rule!(prefix, [accept()]));
            }
            self.failsafe_jump(HostSlot::In, FAILSAFE_IN, &mut rules);
            self.dispatch(HostSlot::In, &mut rules);
            self.put("input-30-host", filter(2, rules));
        }
    }

    fn neighbour_discovery(&self) -> Vec<Rule> {
        if !self.config.ipv6 {
            return Vec::new();
        }
        let types = literal(Field::Icmpv6Type, ND_TYPES.map(|number| Key::value(&[number])));
        self.prefixes(MetaKey::Iifname)
            .into_iter()
            .map(|prefix| {
                let load =
                    Expr::Payload { base: PayloadBase::Transport, offset: 0, len: 1, dreg: Reg::FIRST };
                rule!(
                    prefix,
                    is_family(Family::V6),
                    is_protocol(58),
                    [load, in_literal(types.clone(), false), accept()]
                )
                .commented("neighbour discovery")
            })
            .collect()
    }

    /// What the host itself sends, once its interface is final.
    fn host_egress(&mut self) {
        if !self.has(HostSlot::Out) {
            return;
        }
        let mut rules = vec![
            rule!([
                meta(MetaKey::Iif),
                Expr::Cmp { sreg: Reg::FIRST, op: CmpOp::Neq, value: [0u8; 4].as_slice().into() },
                accept()
            ])
            .commented("forwarded"),
            rule!(is_established(), [accept()]),
        ];
        self.accept_marked(&mut rules);
        for prefix in self.prefixes(MetaKey::Oifname) {
            rules.push(rule!(prefix, [accept()]));
        }
        rules.extend(self.tunnels(Side::Destination));
        self.failsafe_jump(HostSlot::Out, FAILSAFE_OUT, &mut rules);
        self.dispatch(HostSlot::Out, &mut rules);
        self.put("postrouting-host", base(ChainKind::Filter, Hook::Postrouting, 101, rules));
    }

    fn nat(&mut self) {
        let nat = |hook, priority, rules| base(ChainKind::Nat, hook, priority, rules);
        let translate = |family: Family, kind, side, map: &Name| {
            let mut exprs = is_family(family).to_vec();
            exprs.push(load_addr(family, side, Reg::FIRST));
            exprs.push(Expr::MapLookup {
                sreg: Reg::FIRST,
                map: crate::nft::expr::SetRef::Named(map.clone()),
                dreg: Some(Reg::FIRST),
            });
            let family = u32::from(crate::nft::build::nfproto(family));
            exprs.push(Expr::Nat { kind, family, addr: Some(Reg::FIRST), port: None, flags: 0 });
            rule(exprs)
        };
        let mut dnat = Vec::new();
        let mut rules = Vec::new();
        for (index, family) in self.families().enumerate() {
            if self.shape.floating[index] {
                let map = sets::name(family, false, sets::FLOATING);
                dnat.push(translate(family, NatKind::Dnat, Side::Destination, &map));
                // A workload that reached its own floating address sees itself as source and destination.
                let second = Reg::word(if family == Family::V4 { 1 } else { 4 }).unwrap_or(Reg::FIRST);
                let both = sets::name(family, false, "floating-self");
                let snat =
                    translate(family, NatKind::Snat, Side::Source, &sets::name(family, false, sets::HAIRPIN));
                let mut exprs = is_family(family).to_vec();
                exprs.push(load_addr(family, Side::Source, Reg::FIRST));
                exprs.push(load_addr(family, Side::Destination, second));
                exprs.push(in_set(&both));
                exprs.extend(snat.exprs.into_iter().skip(2));
                rules.push(rule(exprs).commented("floating address of itself"));
            }
        }
        self.put("nat-prerouting", nat(Hook::Prerouting, -100, dnat.clone()));
        self.put("nat-output", nat(Hook::Output, -100, dnat));

        for (index, family) in self.families().enumerate() {
            if self.shape.masquerade[index] {
                rules.extend(self.masquerade(family));
            }
        }
        for device in &self.shape.tunnels {
            let flags = crate::nft::expr::fib_flags::SADDR | crate::nft::expr::fib_flags::OIF;
            let not_on_device = [
                Expr::Fib { dreg: Reg::FIRST, result: crate::nft::expr::FibResult::AddrType, flags },
                Expr::Cmp {
                    sreg: Reg::FIRST,
                    op: CmpOp::Neq,
                    value: crate::nft::expr::FIB_ADDR_LOCAL.to_ne_bytes().as_slice().into(),
                },
            ];
            rules.push(
                rule!(
                    [meta(MetaKey::Oifname), eq(&crate::nft::build::ifname_key(device))],
                    not_on_device,
                    is_local(Side::Source),
                    [Expr::Masquerade { flags: self.random(), ports: None }]
                )
                .commented("host traffic into the tunnel"),
            );
        }
        self.put("nat-postrouting", nat(Hook::Postrouting, 110, rules));
    }

    fn random(&self) -> u32 {
        if self.config.masquerade_random { NAT_FULLY_RANDOM } else { 0 }
    }

    fn masquerade(&self, family: Family) -> Vec<Rule> {
        let source = load_addr(family, Side::Source, Reg::FIRST);
        let destination = load_addr(family, Side::Destination, Reg::FIRST);
        let mut guard = is_family(family).to_vec();
        guard.extend([source, in_set(&sets::name(family, true, sets::MASQUERADE))]);
        guard.extend([destination.clone(), not_in_set(&sets::name(family, true, sets::POOLS))]);
        if self.config.masquerade_spares_hosts {
            guard.extend([destination, not_in_set(&sets::name(family, true, sets::HOSTS))]);
        }
        if let Some(interface) = &self.config.masquerade_interface {
            guard.extend([meta(MetaKey::Oifname), eq(&crate::nft::build::ifname_key(interface))]);
        }
        let mut rules = Vec::new();
        if let Some((low, high)) = self.config.masquerade_ports {
            let port = |word, port: u16| {
                let dreg = Reg::word(word).unwrap_or(Reg::FIRST);
                (Expr::Immediate { dreg, value: port.to_be_bytes().as_slice().into() }, dreg)
            };
            for protocol in [6, 17] {
                let ((load_low, low), (load_high, high)) = (port(0, low), port(1, high));
                let flags = NAT_PROTO_SPECIFIED | self.random();
                rules.push(rule!(
                    guard.clone(),
                    is_protocol(protocol),
                    [load_low, load_high, Expr::Masquerade { flags, ports: Some((low, high)) }]
                ));
            }
        }
        rules.push(rule!(guard, [Expr::Masquerade { flags: self.random(), ports: None }]));
        rules
    }

    /// DSCP of what leaves the cluster, before source NAT hides who sent it.
    fn dscp(&mut self) {
        let mut rules = Vec::new();
        for (index, family) in self.families().enumerate() {
            for value in &self.shape.dscp[index] {
                rules.push(rule!(
                    is_family(family),
                    [load_addr(family, Side::Source, Reg::FIRST), in_set(&sets::dscp(family, *value))],
                    [load_addr(family, Side::Destination, Reg::FIRST)],
                    [not_in_set(&sets::name(family, true, sets::POOLS))],
                    set_dscp(family, *value),
                ));
            }
        }
        self.put("mangle-postrouting", base(ChainKind::Filter, Hook::Postrouting, -150, rules));
    }

    /// What was allowed and answered goes on without any of these chains, except where every packet counts.
    fn offload(&mut self) {
        if !self.shape.offload {
            return;
        }
        let mut rules = Vec::new();
        for family in self.families() {
            let set = sets::name(family, false, sets::NO_OFFLOAD);
            rules.push(rule!(
                is_family(family),
                is_established(),
                [load_addr(family, Side::Source, Reg::FIRST), not_in_set(&set)],
                [load_addr(family, Side::Destination, Reg::FIRST), not_in_set(&set)],
                [Expr::FlowOffload { table: FLOWTABLE.into() }],
            ));
        }
        self.put("forward-00-offload", base(ChainKind::Filter, Hook::Forward, -1, rules));
    }

    fn failsafes(&mut self) {
        let (inward, outward) = (&self.config.failsafe_in, &self.config.failsafe_out);
        let tracked_in: &[_] = &[HostSlot::In, HostSlot::PreDnat];
        for (slots, name, own, replies, remote) in [
            (tracked_in, FAILSAFE_IN, inward, None, Side::Source),
            (&[HostSlot::Out], FAILSAFE_OUT, outward, None, Side::Destination),
            // Half a failsafe connection must not be taken out of tracking: before connection tracking replies are
            // admitted too, which come from the ports that the other direction goes to.
            (&[HostSlot::UntrackedIn], FAILSAFE_IN_RAW, inward, Some(outward), Side::Source),
            (&[HostSlot::UntrackedOut], FAILSAFE_OUT_RAW, outward, Some(inward), Side::Destination),
        ] {
            if !slots.iter().any(|slot| self.has(*slot)) {
                continue;
            }
            let mut rules = self.failsafe_rules(own, Side::Destination, remote);
            rules
                .extend(replies.into_iter().flat_map(|list| self.failsafe_rules(list, Side::Source, remote)));
            // Kept even when empty: base chains jump to it.
            self.chains
                .insert(name.into(), Chain { base: None, rules, comment: Some("failsafe ports".into()) });
        }
    }

    fn failsafe_rules(&self, entries: &[Failsafe], port: Side, remote: Side) -> Vec<Rule> {
        let mut rules = Vec::new();
        for protocol in [6, 17] {
            let open = entries.iter().filter(|entry| entry.protocol == protocol && entry.net.is_none());
            let keys: Vec<Key> = open.map(|entry| Key::value(&entry.port.to_be_bytes())).collect();
            if !keys.is_empty() {
                let ports = in_literal(literal(Field::Port, keys), false);
                rules.push(rule!(is_protocol(protocol), [load_port(port, Reg::FIRST), ports, accept()]));
            }
        }
        for entry in entries {
            let Some(net) = &entry.net else { continue };
            let family = crate::nft::build::family_of(net);
            rules.push(rule!(
                is_family(family),
                is_protocol(entry.protocol),
                crate::nft::build::in_net(family, remote, net, false),
                [load_port(port, Reg::FIRST), eq(&entry.port.to_be_bytes()), accept()]
            ));
        }
        rules
    }
}
