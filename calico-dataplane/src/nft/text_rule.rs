//! One rule as text: the registers are followed symbolically and each comparison becomes a statement.

use calico_policy::ir::Side;

use super::expr::{
    Bytes, CmpOp, CtKey, Expr, FibResult, LogTarget, MetaKey, NatKind, PayloadBase, Reg, RejectKind, SetRef,
    ct_state, fib_flags,
};
use super::object::{Field, LiteralSet, Rule};
use super::text::{elements_text, hex, protocol_text, quoted, range_text, value_text, verdict_text};

/// What a register holds.
#[derive(Debug, Clone)]
enum Operand {
    Meta(MetaKey),
    Ct(CtKey),
    Payload { base: PayloadBase, offset: u32, len: u32 },
    Fib { result: FibResult, flags: u32 },
    Constant(Bytes),
    Masked { of: Box<Operand>, mask: Bytes, xor: Bytes },
    Mapped(String),
}

/// A statement, and which earlier statement it makes superfluous.
struct Statement {
    text: String,
    /// It says `meta nfproto` or `meta l4proto` and nothing else.
    says_family: bool,
    says_protocol: bool,
    /// It implies the family or the protocol.
    implies_family: bool,
    implies_protocol: bool,
}

/// The rule without its comment.
pub(super) fn rule_text(rule: &Rule) -> String {
    let mut reader = Reader::default();
    for expr in &rule.exprs {
        reader.read(expr);
    }
    reader.finish()
}

#[derive(Default)]
struct Reader {
    registers: [Option<Operand>; Reg::COUNT],
    statements: Vec<Statement>,
    family: Option<u8>,
    protocol: Option<u8>,
    unknown: Vec<String>,
}

/// Text of an operand with its type and what it implies.
struct Spelled {
    text: String,
    field: Option<Field>,
    width: u32,
    implies_family: bool,
    implies_protocol: bool,
}

impl Reader {
    fn finish(self) -> String {
        let mut texts = Vec::with_capacity(self.statements.len());
        for (index, statement) in self.statements.iter().enumerate() {
            let mut later = self.statements.iter().skip(index + 1);
            let implied = (statement.says_family && later.clone().any(|s| s.implies_family))
                || (statement.says_protocol && later.any(|s| s.implies_protocol));
            if !implied {
                texts.push(statement.text.as_str());
            }
        }
        let mut text = texts.join(" ");
        if !self.unknown.is_empty() {
            text = format!("{text} # with {}", self.unknown.join(", "));
        }
        text
    }

    fn say(&mut self, text: impl Into<String>) {
        self.statements.push(Statement {
            text: text.into(),
            says_family: false,
            says_protocol: false,
            implies_family: false,
            implies_protocol: false,
        });
    }

    fn say_about(&mut self, spelled: &Spelled, text: String) {
        self.statements.push(Statement {
            text,
            says_family: false,
            says_protocol: false,
            implies_family: spelled.implies_family,
            implies_protocol: spelled.implies_protocol,
        });
    }

    fn load(&mut self, dreg: Reg, operand: Operand) {
        if let Some(register) = self.registers.get_mut(dreg.index()) {
            *register = Some(operand);
        }
    }

    fn operand(&self, sreg: Reg) -> Option<&Operand> {
        self.registers.get(sreg.index()).and_then(Option::as_ref)
    }

    fn read(&mut self, expr: &Expr) {
        match expr {
            Expr::Meta { key, dreg } => self.load(*dreg, Operand::Meta(*key)),
            Expr::Ct { key, dreg } => self.load(*dreg, Operand::Ct(*key)),
            Expr::Payload { base, offset, len, dreg } => {
                self.load(*dreg, Operand::Payload { base: *base, offset: *offset, len: *len });
            }
            Expr::Fib { dreg, result, flags } => {
                self.load(*dreg, Operand::Fib { result: *result, flags: *flags });
            }
            Expr::Immediate { dreg, value } => self.load(*dreg, Operand::Constant(value.clone())),
            Expr::Bitwise { sreg, dreg, mask, xor } => {
                if let Some(of) = self.operand(*sreg).cloned() {
                    let (mask, xor) = (mask.clone(), xor.clone());
                    self.load(*dreg, Operand::Masked { of: Box::new(of), mask, xor });
                }
            }
            Expr::Cmp { sreg, op, value } => self.compare(*sreg, *op, value),
            Expr::Range { sreg, negated, from, to } => {
                let Some(spelled) = self.operand(*sreg).map(|operand| self.spell(operand)) else { return };
                let range = match spelled.field {
                    Some(field) => range_text(field, from, to),
                    None => format!("{}-{}", hex(from), hex(to)),
                };
                let text = format!("{} {}{range}", spelled.text, if *negated { "!= " } else { "" });
                self.say_about(&spelled, text);
            }
            Expr::Lookup { sreg, set, negated } => self.look_up(*sreg, set, *negated),
            Expr::MapLookup { sreg, map, dreg } => {
                let width = match map {
                    SetRef::Literal(literal) => Some(literal.spec.key_len()),
                    SetRef::Named(_) => None,
                };
                let key = self.key_text(*sreg, width);
                let map = set_text(map);
                match dreg {
                    None => self.say_about(&key, format!("{} vmap {map}", key.text)),
                    Some(dreg) => self.load(*dreg, Operand::Mapped(format!("{} map {map}", key.text))),
                }
            }
            Expr::Verdict(verdict) => self.say(verdict_text(verdict)),
            _ => self.act(expr),
        }
    }

    /// Statements that are neither loads nor matches.
    fn act(&mut self, expr: &Expr) {
        match expr {
            Expr::MetaSet { key, sreg } => {
                let text = self.operand(*sreg).map(assignment_text).unwrap_or_default();
                self.say(format!("{} set {text}", meta_text(*key)));
            }
            Expr::PayloadSet { base: PayloadBase::Network, offset: 0, len: 2, sreg, checksum } => {
                let v6 = checksum.is_none();
                match self.operand(*sreg) {
                    Some(Operand::Masked { xor, .. }) => {
                        let (first, second) =
                            (xor.first().copied().unwrap_or(0), xor.get(1).copied().unwrap_or(0));
                        let value = if v6 { first << 2 | second >> 6 } else { second >> 2 };
                        self.say(format!("{} dscp set {value}", if v6 { "ip6" } else { "ip" }));
                    }
                    _ => self.unknown.push(expr.kernel_name().to_owned()),
                }
            }
            Expr::Counter => self.say("counter"),
            Expr::NamedCounter { name } => self.say(format!("counter name {}", quoted(name))),
            Expr::Limit { rate, unit, burst, over } => {
                let over = if *over { "over " } else { "" };
                let unit = match unit {
                    1 => "second",
                    60 => "minute",
                    3600 => "hour",
                    86_400 => "day",
                    _ => "week",
                };
                self.say(format!("limit rate {over}{rate}/{unit} burst {burst} packets"));
            }
            Expr::ConnLimit { count, over } => {
                self.say(format!("ct count {}{count}", if *over { "over " } else { "" }));
            }
            Expr::Log { target, prefix } => {
                let prefix =
                    prefix.as_ref().map(|text| format!(" prefix {}", quoted(text))).unwrap_or_default();
                self.say(match target {
                    LogTarget::Kernel { level } => format!("log{prefix} level {}", level_text(*level)),
                    LogTarget::Group { group, snaplen: 0 } => format!("log{prefix} group {group}"),
                    LogTarget::Group { group, snaplen } => {
                        format!("log{prefix} group {group} snaplen {snaplen}")
                    }
                });
            }
            Expr::Reject { kind, code } => self.say(match kind {
                RejectKind::TcpReset => "reject with tcp reset".to_owned(),
                RejectKind::IcmpxUnreach => format!("reject with icmpx {}", icmpx_text(*code)),
                RejectKind::IcmpUnreach => format!("reject with icmp {code}"),
            }),
            Expr::Masquerade { flags, ports } => {
                let mut text = "masquerade".to_owned();
                if let Some((low, high)) = ports {
                    let port = |reg: &Reg| match self.operand(*reg) {
                        Some(Operand::Constant(bytes)) => value_text(Field::Port, bytes),
                        _ => "?".to_owned(),
                    };
                    text.push_str(&format!(" to :{}-{}", port(low), port(high)));
                }
                if flags & super::expr::NAT_FULLY_RANDOM != 0 {
                    text.push_str(" fully-random");
                }
                self.say(text);
            }
            Expr::Nat { kind, family, addr, .. } => {
                let word = match kind {
                    NatKind::Snat => "snat",
                    NatKind::Dnat => "dnat",
                };
                let ip = if *family == 2 { "ip" } else { "ip6" };
                let to = addr.and_then(|reg| self.operand(reg)).map(|operand| match operand {
                    Operand::Mapped(text) => text.clone(),
                    Operand::Constant(bytes) if *family == 2 => value_text(Field::Ipv4, bytes),
                    Operand::Constant(bytes) => value_text(Field::Ipv6, bytes),
                    other => self.spell(other).text,
                });
                let implies_family = to.as_ref().is_some_and(|to| to.starts_with("ip"));
                let text = format!("{word} {ip} to {}", to.unwrap_or_default());
                self.say(text);
                if let Some(last) = self.statements.last_mut() {
                    last.implies_family = implies_family;
                }
            }
            Expr::Notrack => self.say("notrack"),
            Expr::FlowOffload { table } => self.say(format!("flow add @{table}")),
            other => self.unknown.push(other.kernel_name().to_owned()),
        }
    }

    fn compare(&mut self, sreg: Reg, op: CmpOp, value: &Bytes) {
        let Some(operand) = self.operand(sreg).cloned() else { return };
        let sign = match op {
            CmpOp::Eq => "",
            CmpOp::Neq => "!= ",
            CmpOp::Lt => "< ",
            CmpOp::Lte => "<= ",
            CmpOp::Gt => "> ",
            CmpOp::Gte => ">= ",
        };
        if let Operand::Masked { of, mask, .. } = &operand {
            return self.compare_masked(of, mask, op, sign, value);
        }
        let spelled = self.spell(&operand);
        let text = match (&operand, spelled.field) {
            (Operand::Meta(MetaKey::Nfproto), _) => {
                let word = if value.first() == Some(&2) { "ipv4" } else { "ipv6" };
                format!("{} {sign}{word}", spelled.text)
            }
            (Operand::Fib { result: FibResult::AddrType, .. }, _) => format!("{} {sign}local", spelled.text),
            (Operand::Fib { .. } | Operand::Meta(MetaKey::Iif | MetaKey::Oif), _) => {
                let number = <[u8; 4]>::try_from(value.as_slice()).map_or(0, u32::from_ne_bytes);
                format!("{} {sign}{number}", spelled.text)
            }
            // Fewer bytes than the field has: a prefix.
            (_, Some(field @ (Field::Ipv4 | Field::Ipv6))) if value.len() < field.width() => {
                let mut whole = value.to_vec();
                whole.resize(field.width(), 0);
                format!("{} {sign}{}/{}", spelled.text, value_text(field, &whole), value.len() * 8)
            }
            (_, Some(field)) => format!("{} {sign}{}", spelled.text, value_text(field, value)),
            (_, None) => format!("{} {sign}{}", spelled.text, hex(value)),
        };
        self.say_about(&spelled, text);
        let learned = op == CmpOp::Eq;
        if let Some(last) = self.statements.last_mut() {
            last.says_family = learned && matches!(operand, Operand::Meta(MetaKey::Nfproto));
            last.says_protocol = learned && matches!(operand, Operand::Meta(MetaKey::L4proto));
        }
        match operand {
            Operand::Meta(MetaKey::Nfproto) if learned => self.family = value.first().copied(),
            Operand::Meta(MetaKey::L4proto) if learned => self.protocol = value.first().copied(),
            _ => {}
        }
    }

    fn compare_masked(&mut self, of: &Operand, mask: &[u8], op: CmpOp, sign: &str, value: &[u8]) {
        let spelled = self.spell(of);
        let zero = value.iter().all(|byte| *byte == 0);
        let word = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).map_or(0, u32::from_ne_bytes);
        let text = match (of, spelled.field) {
            (Operand::Ct(CtKey::State), _) if zero && op == CmpOp::Neq => {
                format!("ct state {}", states_text(word(mask)))
            }
            (_, Some(field @ (Field::Ipv4 | Field::Ipv6))) => {
                let length: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
                format!("{} {sign}{}/{length}", spelled.text, value_text(field, value))
            }
            (Operand::Meta(_) | Operand::Ct(_), _) => {
                let sign = if op == CmpOp::Eq { "==" } else { sign.trim() };
                format!("{} & {:#010x} {sign} {:#010x}", spelled.text, word(mask), word(value))
            }
            _ => format!("{} & {} {sign}{}", spelled.text, hex(mask), hex(value)),
        };
        self.say_about(&spelled, text);
    }

    fn look_up(&mut self, sreg: Reg, set: &SetRef, negated: bool) {
        let width = match set {
            SetRef::Literal(literal) => Some(literal.spec.key_len()),
            SetRef::Named(_) => None,
        };
        let key = self.key_text(sreg, width);
        let sign = if negated { "!= " } else { "" };
        self.say_about(&key, format!("{} {sign}{}", key.text, set_text(set)));
        // The key is used up: what follows starts at the first register again.
        self.registers = Default::default();
    }

    /// The operands from `sreg` on, as far as they follow each other.
    fn key_text(&self, sreg: Reg, width: Option<usize>) -> Spelled {
        let mut texts = Vec::new();
        let (mut implies_family, mut implies_protocol) = (false, false);
        let mut word = sreg.index();
        let end = width.map_or(Reg::COUNT, |width| word + width.div_ceil(4));
        while word < end {
            let Some(operand) = self.registers.get(word).and_then(Option::as_ref) else { break };
            let spelled = self.spell(operand);
            word += spelled.width.div_ceil(4).max(1) as usize;
            implies_family |= spelled.implies_family;
            implies_protocol |= spelled.implies_protocol;
            texts.push(spelled.text);
        }
        Spelled { text: texts.join(" . "), field: None, width: 0, implies_family, implies_protocol }
    }

    fn spell(&self, operand: &Operand) -> Spelled {
        let plain = |text: &str, field, width| Spelled {
            text: text.to_owned(),
            field,
            width,
            implies_family: false,
            implies_protocol: false,
        };
        match operand {
            Operand::Meta(key) => {
                let (field, width) = match key {
                    MetaKey::Iifname | MetaKey::Oifname => (Some(Field::Ifname), 16),
                    MetaKey::L4proto => (Some(Field::Proto), 1),
                    MetaKey::Mark => (Some(Field::Mark), 4),
                    MetaKey::Nfproto => (None, 1),
                    MetaKey::Iif | MetaKey::Oif => (None, 4),
                };
                plain(meta_text(*key), field, width)
            }
            Operand::Ct(CtKey::State) => plain("ct state", None, 4),
            Operand::Ct(CtKey::Status) => plain("ct status", None, 4),
            Operand::Ct(CtKey::Mark) => plain("ct mark", Some(Field::Mark), 4),
            Operand::Fib { result, flags } => plain(&fib_text(*result, *flags), None, 4),
            Operand::Payload { base, offset, len } => self.spell_payload(*base, *offset, *len),
            Operand::Constant(bytes) => plain(&hex(bytes), None, bytes.len() as u32),
            Operand::Masked { of, mask, .. } => {
                let inner = self.spell(of);
                Spelled { text: format!("{} & {}", inner.text, hex(mask)), ..inner }
            }
            Operand::Mapped(text) => plain(text, None, 4),
        }
    }

    fn spell_payload(&self, base: PayloadBase, offset: u32, len: u32) -> Spelled {
        let address = |side| match side {
            Side::Source => "saddr",
            Side::Destination => "daddr",
        };
        let known = |text: String, field: Field, implies_family, implies_protocol| Spelled {
            text,
            width: field.width() as u32,
            field: Some(field),
            implies_family,
            implies_protocol,
        };
        let side = match (base, self.family, offset) {
            (PayloadBase::Network, Some(2), 12) => Some(("ip", Field::Ipv4, Side::Source)),
            (PayloadBase::Network, Some(2), 16) => Some(("ip", Field::Ipv4, Side::Destination)),
            (PayloadBase::Network, Some(10), 8) => Some(("ip6", Field::Ipv6, Side::Source)),
            (PayloadBase::Network, Some(10), 24) => Some(("ip6", Field::Ipv6, Side::Destination)),
            _ => None,
        };
        if let Some((word, field, side)) = side.filter(|(_, field, _)| len as usize <= field.width()) {
            return known(format!("{word} {}", address(side)), field, true, false);
        }
        match (base, offset, len, self.protocol) {
            (PayloadBase::Transport, 0 | 2, 2, Some(6 | 17 | 132) | None) => {
                let port = if offset == 0 { "sport" } else { "dport" };
                match self.protocol {
                    Some(number) => {
                        known(format!("{} {port}", protocol_text(number)), Field::Port, false, true)
                    }
                    None => known(format!("th {port}"), Field::Port, false, false),
                }
            }
            (PayloadBase::Transport, 0, 1, Some(1)) => {
                known("icmp type".to_owned(), Field::Icmpv6Type, false, self.family == Some(2))
            }
            (PayloadBase::Transport, 0, 1, Some(58)) => {
                known("icmpv6 type".to_owned(), Field::Icmpv6Type, true, true)
            }
            _ => {
                let header = match base {
                    PayloadBase::Link => "ll",
                    PayloadBase::Network => "nh",
                    PayloadBase::Transport => "th",
                };
                Spelled {
                    text: format!("@{header},{},{}", offset * 8, len * 8),
                    field: None,
                    width: len,
                    implies_family: false,
                    implies_protocol: false,
                }
            }
        }
    }
}

fn meta_text(key: MetaKey) -> &'static str {
    match key {
        MetaKey::Mark => "meta mark",
        MetaKey::Iif => "iif",
        MetaKey::Oif => "oif",
        MetaKey::Iifname => "iifname",
        MetaKey::Oifname => "oifname",
        MetaKey::Nfproto => "meta nfproto",
        MetaKey::L4proto => "meta l4proto",
    }
}

fn set_text(set: &SetRef) -> String {
    match set {
        SetRef::Named(name) => format!("@{name}"),
        SetRef::Literal(literal) => literal_text(literal),
    }
}

fn literal_text(literal: &LiteralSet) -> String {
    format!("{{ {} }}", elements_text(&literal.spec, &literal.elements, ", "))
}

/// `(x & mask) ^ xor`, written as and / or where the bits allow it.
fn assignment_text(operand: &Operand) -> String {
    let word = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).map_or(0, u32::from_ne_bytes);
    match operand {
        Operand::Constant(bytes) => format!("{:#010x}", word(bytes)),
        Operand::Masked { of, mask, xor } => {
            let Operand::Meta(key) = **of else { return hex(mask) };
            let (mask, xor) = (word(mask), word(xor));
            match xor {
                0 => format!("{} & {mask:#010x}", meta_text(key)),
                xor => format!("{} & {mask:#010x} ^ {xor:#010x}", meta_text(key)),
            }
        }
        _ => String::new(),
    }
}

fn states_text(bits: u32) -> String {
    let names = [
        (ct_state::INVALID, "invalid"),
        (ct_state::ESTABLISHED, "established"),
        (ct_state::RELATED, "related"),
        (ct_state::NEW, "new"),
        (ct_state::UNTRACKED, "untracked"),
    ];
    let words: Vec<&str> = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    words.join(",")
}

fn fib_text(result: FibResult, flags: u32) -> String {
    let names = [
        (fib_flags::SADDR, "saddr"),
        (fib_flags::DADDR, "daddr"),
        (fib_flags::MARK, "mark"),
        (fib_flags::IIF, "iif"),
        (fib_flags::OIF, "oif"),
    ];
    let words: Vec<&str> = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    let result = match result {
        FibResult::Oif => "oif",
        FibResult::Oifname => "oifname",
        FibResult::AddrType => "type",
    };
    format!("fib {} {result}", words.join(" . "))
}

fn level_text(level: u32) -> &'static str {
    match level {
        0 => "emerg",
        1 => "alert",
        2 => "crit",
        3 => "err",
        4 => "warn",
        5 => "notice",
        6 => "info",
        _ => "debug",
    }
}

fn icmpx_text(code: u8) -> &'static str {
    match code {
        0 => "no-route",
        1 => "port-unreachable",
        2 => "host-unreachable",
        _ => "admin-prohibited",
    }
}
