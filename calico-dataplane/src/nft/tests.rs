//! The encoder against worked bytes, against another implementation, and against the kernel.

use std::sync::Arc;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};

use super::batch::Batch;
use super::decode;
use super::expr::{
    CmpOp, CtKey, Expr, FibResult, LogTarget, MetaKey, NatKind, PayloadBase, Reg, RejectKind, SetRef,
    Verdict, ct_state, fib_flags,
};
use super::kernel::{Kernel, KernelError, Monitor};
use super::object::{
    BaseHook, Chain, ChainKind, Element, Elements, Field, Hook, Key, LiteralSet, MapData, Name, Rule,
    Ruleset, Set, SetSpec, Value,
};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// `nftables.md` §13.1, with family `inet` in place of `ip`.
const WORKED_RULE: &str = "
    ec000000 060a050c 02000000 00000000 01000000
    06000100 74000000 06000200 63000000 c8000480
    24000180 09000100 6d657461 00000000 14000280 08000200 00000003 08000100 00000001
    44000180 0c000100 62697477 69736500 34000280 08000100 00000001 08000200 00000001
    08000300 00000004 0c000480 08000100 00000100 0c000580 08000100 00000000
    2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000000
    0c000380 08000100 00000100
    30000180 0e000100 696d6d65 64696174 65000000 1c000280 08000100 00000000
    10000280 0c000280 08000100 fffffffb";

fn mark_rule() -> Rule {
    let mask = 0x10000u32.to_ne_bytes();
    Rule::new(vec![
        Expr::Meta { key: MetaKey::Mark, dreg: Reg::FIRST },
        Expr::Bitwise {
            sreg: Reg::FIRST,
            dreg: Reg::FIRST,
            mask: mask.as_slice().into(),
            xor: [0u8; 4].as_slice().into(),
        },
        Expr::Cmp { sreg: Reg::FIRST, op: CmpOp::Eq, value: mask.as_slice().into() },
        Expr::Verdict(Verdict::Return),
    ])
}

#[test]
fn worked_bytes_of_the_specification() {
    let mut batch = Batch::new("t");
    batch.add_table();
    batch.add_rule(&"c".into(), 0, &mark_rule());
    let bytes = batch.finish(None);
    assert_eq!(bytes[..20], hex("14000000 10000100 00000000 00000000 0000000a"));
    let rule = decode::messages(&bytes).find(|m| m.nft_kind() == Some(6)).unwrap();
    let expected = hex(WORKED_RULE);
    assert_eq!(rule.flags, 0x0c05);
    assert_eq!(rule.seq, 2);
    assert_eq!(rule.body, &expected[16..]);
}

#[test]
fn another_implementation_reads_every_message_and_writes_the_same_bytes() {
    use netlink_packet_netfilter::NetfilterMessage;
    let mut batch = Batch::new("calico");
    batch.add_table();
    write(&mut batch, &sample());
    let bytes = batch.finish(None);
    let mut compared = 0;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
        let (one, tail) = rest.split_at(length);
        rest = tail;
        let parsed = NetlinkMessage::<NetfilterMessage>::deserialize(one).unwrap();
        let mut again = vec![0; parsed.buffer_len()];
        parsed.serialize(&mut again);
        assert!(matches!(parsed.payload, NetlinkPayload::InnerMessage(_)));
        // It leaves out the nested flag (0x80) in one attribute of concatenated sets; the kernel ignores it.
        let same = |(ours, theirs): (&u8, &u8)| ours == theirs || *ours == theirs | 0x80;
        assert!(again.len() == one.len() && one.iter().zip(&again).all(same), "{parsed:?}");
        compared += 1;
    }
    assert_eq!(compared, batch.last_seq() + 1);
}

/// Adds everything of a ruleset to a batch, in the order references need.
fn write(batch: &mut Batch, ruleset: &Ruleset) {
    ruleset.counters.iter().for_each(|name| batch.add_counter(name));
    ruleset.sets.iter().for_each(|(name, set)| batch.add_set(name, &set.spec));
    ruleset.chains.iter().for_each(|(name, chain)| batch.add_chain(name, chain));
    for (name, chain) in &ruleset.chains {
        for (index, rule) in chain.rules.iter().enumerate() {
            batch.add_rule(name, index as u32, rule);
        }
    }
    for (name, set) in &ruleset.sets {
        batch.add_elements(name, &set.spec, &set.elements);
    }
}

fn name(text: &str) -> Name {
    text.into()
}

fn ifname(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn plain(keys: impl IntoIterator<Item = Key>) -> Elements {
    keys.into_iter().map(|key| (key, Element::default())).collect()
}

fn load(key: MetaKey) -> Expr {
    Expr::Meta { key, dreg: Reg::FIRST }
}

fn equals(value: &[u8]) -> Expr {
    Expr::Cmp { sreg: Reg::FIRST, op: CmpOp::Eq, value: value.into() }
}

fn payload(base: PayloadBase, offset: u32, len: u32, word: usize) -> Expr {
    Expr::Payload { base, offset, len, dreg: Reg::word(word).unwrap() }
}

/// One of everything this crate produces.
pub(super) fn sample() -> Ruleset {
    let mut ruleset = Ruleset::default();
    ruleset.counters.insert(name("rule-0"));
    let hosts = plain([Key::value(&[10, 0, 0, 1]), Key::value(&[10, 0, 0, 7])]);
    ruleset.sets.insert(name("hosts"), Set { spec: SetSpec::hash(&[Field::Ipv4]), elements: hosts });
    let nets = plain([
        Key::range(&[0, 0, 0, 0], &[0, 0, 0, 255]),
        Key::range(&[10, 0, 0, 0], &[10, 0, 255, 255]),
        Key::value(&[10, 1, 0, 0]),
        Key::range(&[224, 0, 0, 0], &[255, 255, 255, 255]),
    ]);
    ruleset.sets.insert(name("nets"), Set { spec: SetSpec::ranges(&[Field::Ipv4]), elements: nets });
    let everything = plain([Key::range(&[0; 16], &[255; 16])]);
    ruleset.sets.insert(name("all6"), Set { spec: SetSpec::ranges(&[Field::Ipv6]), elements: everything });
    let named = plain([
        Key::value(&hex("0a000001 06000000 00500000")),
        Key::value(&hex("0a000002 11000000 00350000")),
    ]);
    let spec = SetSpec::hash(&[Field::Ipv4, Field::Proto, Field::Port]);
    ruleset.sets.insert(name("named"), Set { spec, elements: named });
    let mut low = ifname("cali1");
    let mut high = low.clone();
    low.extend_from_slice(&[10, 9, 0, 0]);
    high.extend_from_slice(&[10, 9, 0, 255]);
    let spec = SetSpec::ranges(&[Field::Ifname, Field::Ipv4]);
    ruleset.sets.insert(name("spoof"), Set { spec, elements: plain([Key::range(&low, &high)]) });
    let dispatch = [("cali1", "ep-a"), ("cali2", "ep-a")].map(|(interface, chain)| {
        let value = Some(Value::Verdict(Verdict::Goto(name(chain))));
        (Key::value(&ifname(interface)), Element { value, comment: Some(name("default/web-0")) })
    });
    let spec = SetSpec::map(&[Field::Ifname], MapData::Verdict);
    ruleset.sets.insert(name("dispatch"), Set { spec, elements: dispatch.into_iter().collect() });
    let floating = [([10, 0, 0, 5], [192, 0, 2, 5])].map(|(inside, outside)| {
        let value = Some(Value::Data(inside.as_slice().into()));
        (Key::value(&outside), Element { value, comment: None })
    });
    let spec = SetSpec::map(&[Field::Ipv4], MapData::Field(Field::Ipv4));
    ruleset.sets.insert(name("floating"), Set { spec, elements: floating.into_iter().collect() });

    let ports = plain([Key::range(&[0, 80], &[0, 90]), Key::value(&[1, 187])]);
    let ports = Arc::new(LiteralSet { spec: SetSpec::ranges(&[Field::Port]), elements: ports });
    let protocols = plain([Key::value(&[6]), Key::value(&[17])]);
    let protocols = Arc::new(LiteralSet { spec: SetSpec::hash(&[Field::Proto]), elements: protocols });
    let endpoint = vec![
        Rule::new(vec![
            Expr::Ct { key: CtKey::State, dreg: Reg::FIRST },
            Expr::Bitwise {
                sreg: Reg::FIRST,
                dreg: Reg::FIRST,
                mask: ct_state::INVALID.to_ne_bytes().as_slice().into(),
                xor: [0u8; 4].as_slice().into(),
            },
            Expr::Cmp { sreg: Reg::FIRST, op: CmpOp::Neq, value: [0u8; 4].as_slice().into() },
            Expr::Verdict(Verdict::Drop),
        ]),
        Rule::new(vec![
            load(MetaKey::L4proto),
            Expr::Lookup { sreg: Reg::FIRST, set: SetRef::Literal(protocols), negated: false },
            payload(PayloadBase::Transport, 2, 2, 0),
            Expr::Lookup { sreg: Reg::FIRST, set: SetRef::Literal(ports), negated: true },
            Expr::NamedCounter { name: name("rule-0") },
            Expr::Verdict(Verdict::Accept),
        ])
        .commented("np/default/web rule 0"),
        Rule::new(vec![
            load(MetaKey::Nfproto),
            equals(&[2]),
            payload(PayloadBase::Network, 12, 4, 0),
            Expr::Lookup { sreg: Reg::FIRST, set: SetRef::Named(name("nets")), negated: false },
            payload(PayloadBase::Network, 16, 4, 0),
            Expr::Meta { key: MetaKey::L4proto, dreg: Reg::word(1).unwrap() },
            payload(PayloadBase::Transport, 2, 2, 2),
            Expr::Lookup { sreg: Reg::FIRST, set: SetRef::Named(name("named")), negated: false },
            Expr::Limit { rate: 10, unit: 60, burst: 5, over: false },
            Expr::Log { target: LogTarget::Group { group: 1, snaplen: 80 }, prefix: Some(name("calico")) },
        ]),
        Rule::new(vec![
            load(MetaKey::L4proto),
            equals(&[6]),
            payload(PayloadBase::Transport, 0, 2, 0),
            Expr::Range {
                sreg: Reg::FIRST,
                negated: false,
                from: [0u8, 1].as_slice().into(),
                to: [3u8, 255].as_slice().into(),
            },
            Expr::Log { target: LogTarget::Kernel { level: 6 }, prefix: Some(name("low: ")) },
            Expr::Counter,
            Expr::Reject { kind: RejectKind::TcpReset, code: 0 },
        ]),
        Rule::new(vec![Expr::Reject { kind: RejectKind::IcmpxUnreach, code: 1 }]),
    ];
    ruleset
        .chains
        .insert(name("ep-a"), Chain { base: None, rules: endpoint, comment: Some(name("endpoint a")) });
    let filter = |hook, priority| Some(BaseHook { kind: ChainKind::Filter, hook, priority });
    let forward = vec![
        Rule::new(vec![
            load(MetaKey::Iifname),
            Expr::MapLookup { sreg: Reg::FIRST, map: SetRef::Named(name("dispatch")), dreg: None },
        ]),
        Rule::new(vec![load(MetaKey::Iifname), equals(b"cali"), Expr::Verdict(Verdict::Drop)]),
        mark_rule(),
    ];
    ruleset
        .chains
        .insert(name("forward-1"), Chain { base: filter(Hook::Forward, -5), rules: forward, comment: None });
    let raw = vec![
        Rule::new(vec![
            load(MetaKey::Nfproto),
            equals(&[2]),
            load(MetaKey::Iifname),
            payload(PayloadBase::Network, 12, 4, 4),
            Expr::Lookup { sreg: Reg::FIRST, set: SetRef::Named(name("spoof")), negated: false },
            Expr::Notrack,
            Expr::Immediate { dreg: Reg::FIRST, value: 0x10000u32.to_ne_bytes().as_slice().into() },
            Expr::MetaSet { key: MetaKey::Mark, sreg: Reg::FIRST },
        ]),
        Rule::new(vec![
            Expr::Fib { dreg: Reg::FIRST, result: FibResult::Oif, flags: fib_flags::SADDR | fib_flags::IIF },
            equals(&[0; 4]),
            Expr::Verdict(Verdict::Drop),
        ]),
    ];
    ruleset
        .chains
        .insert(name("raw"), Chain { base: filter(Hook::Prerouting, -300), rules: raw, comment: None });
    let nat = |hook, priority| Some(BaseHook { kind: ChainKind::Nat, hook, priority });
    let dnat = vec![Rule::new(vec![
        load(MetaKey::Nfproto),
        equals(&[2]),
        payload(PayloadBase::Network, 16, 4, 0),
        Expr::MapLookup { sreg: Reg::FIRST, map: SetRef::Named(name("floating")), dreg: Some(Reg::FIRST) },
        Expr::Nat { kind: NatKind::Dnat, family: 2, addr: Some(Reg::FIRST), port: None, flags: 0 },
    ])];
    ruleset
        .chains
        .insert(name("floating-in"), Chain { base: nat(Hook::Prerouting, -100), rules: dnat, comment: None });
    let low_port = |word, port: u16| Expr::Immediate {
        dreg: Reg::word(word).unwrap(),
        value: port.to_be_bytes().as_slice().into(),
    };
    let snat = vec![
        Rule::new(vec![
            load(MetaKey::L4proto),
            equals(&[6]),
            low_port(0, 1024),
            low_port(1, 65535),
            Expr::Masquerade { flags: 0x12, ports: Reg::word(0).zip(Reg::word(1)) },
        ]),
        Rule::new(vec![Expr::Masquerade { flags: 0, ports: None }]),
    ];
    ruleset
        .chains
        .insert(name("masq-out"), Chain { base: nat(Hook::Postrouting, 110), rules: snat, comment: None });
    ruleset
}

/// Runs `test` in a network namespace of its own, on a thread that ends with it. Without the privilege to
/// make one the test says so by name and passes.
pub(super) fn in_namespace(test_name: &str, test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let outcome = scope
            .spawn(|| match crate::sys::unshare::network() {
                Ok(()) => {
                    test();
                    true
                }
                Err(_) => false,
            })
            .join();
        match outcome {
            Ok(true) => {}
            Ok(false) => eprintln!("SKIPPED {test_name}: no privilege to create a network namespace"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
}

fn dump(kernel: &mut Kernel) -> Ruleset {
    kernel.dump("calico").unwrap().ruleset
}

#[test]
fn the_kernel_accepts_everything_and_shows_it_back_in_canonical_form() {
    in_namespace("the_kernel_accepts_everything", || {
        let mut kernel = Kernel::open().unwrap();
        let before = kernel.generation().unwrap();
        let mut batch = Batch::new("calico");
        batch.add_table();
        write(&mut batch, &sample());
        kernel.commit(&mut batch, Some(before)).unwrap();
        let dumped = dump(&mut kernel);
        let wanted = sample();
        for (name, set) in &wanted.sets {
            assert_eq!(dumped.sets.get(name), Some(set), "{name}");
        }
        for (name, chain) in &wanted.chains {
            assert_eq!(dumped.chains.get(name), Some(chain), "{name}");
        }
        assert_eq!(dumped, wanted);
        assert_eq!(dumped.chains["ep-a"].comment, wanted.chains["ep-a"].comment);
        assert_eq!(kernel.counters("calico").unwrap().get("rule-0"), Some(&(0, 0)));
        assert_eq!(kernel.generation().unwrap(), before + 1, "one batch is one commit");
    });
}

#[test]
fn elements_and_objects_can_be_taken_away_again() {
    in_namespace("elements_and_objects_can_be_taken_away_again", || {
        let mut kernel = Kernel::open().unwrap();
        let wanted = sample();
        let mut batch = Batch::new("calico");
        batch.add_table();
        write(&mut batch, &wanted);
        kernel.commit(&mut batch, None).unwrap();
        let mut batch = Batch::new("calico");
        for (name, set) in &wanted.sets {
            batch.delete_elements(name, &set.spec, &set.elements);
        }
        wanted.chains.keys().for_each(|name| batch.flush_chain(name));
        wanted.chains.keys().for_each(|name| batch.delete_chain(name));
        wanted.sets.keys().for_each(|name| batch.delete_set(name));
        wanted.counters.iter().for_each(|name| batch.delete_counter(name));
        kernel.commit(&mut batch, None).unwrap();
        assert_eq!(dump(&mut kernel), Ruleset::default());
        let mut batch = Batch::new("calico");
        batch.delete_table();
        kernel.commit(&mut batch, None).unwrap();
        assert!(!kernel.dump("calico").unwrap().exists);
    });
}

#[test]
fn a_refused_batch_names_rule_and_element_and_changes_nothing() {
    in_namespace("a_refused_batch_names_rule_and_element", || {
        let mut kernel = Kernel::open().unwrap();
        let mut batch = Batch::new("calico");
        batch.add_table();
        write(&mut batch, &sample());
        kernel.commit(&mut batch, None).unwrap();
        let before = dump(&mut kernel);

        let mut batch = Batch::new("calico");
        batch.add_chain("new", &Chain::default());
        let bad = Rule::new(vec![Expr::Verdict(Verdict::Jump(name("nowhere")))]);
        batch.add_rule(&name("new"), 0, &mark_rule());
        batch.add_rule(&name("new"), 1, &bad);
        let missing: Vec<_> = [[10, 0, 0, 1], [10, 0, 0, 99], [10, 0, 0, 7]].map(|k| Key::value(&k)).into();
        batch.delete_elements(&name("hosts"), &SetSpec::hash(&[Field::Ipv4]), &plain(missing));
        let generation = kernel.generation().unwrap();
        let Err(KernelError::Refused(refusals)) = kernel.commit(&mut batch, Some(generation)) else {
            panic!()
        };
        assert_eq!(refusals.len(), 2, "{refusals:?}");
        assert_eq!(refusals[0].origin, super::batch::Origin::Rule { chain: name("new"), index: 1 });
        assert_eq!(refusals[1].origin, super::batch::Origin::Elements(name("hosts")));
        assert_eq!(refusals[1].element, Some(Key::value(&[10, 0, 0, 99])));
        assert_eq!(refusals[1].errno, libc::ENOENT);
        assert_eq!(dump(&mut kernel), before);
    });
}

#[test]
fn a_stale_generation_is_told_apart_and_foreign_changes_are_seen() {
    in_namespace("a_stale_generation_is_told_apart", || {
        let mut kernel = Kernel::open().unwrap();
        let mut monitor = Monitor::open().unwrap();
        let generation = kernel.generation().unwrap();
        let mut other = Batch::new("other");
        other.add_table();
        kernel.commit(&mut other, None).unwrap();
        let mut batch = Batch::new("calico");
        batch.add_table();
        assert_eq!(kernel.commit(&mut batch, Some(generation)), Err(KernelError::Outdated));
        let foreign = monitor.poll("calico", &Default::default()).unwrap();
        assert_eq!((foreign.touched, foreign.generation), (false, Some(generation + 1)));
        let mut batch = Batch::new("calico");
        batch.add_table();
        batch.add_chain("x", &Chain::default());
        kernel.commit(&mut batch, foreign.generation).unwrap();
        assert!(monitor.poll("calico", &Default::default()).unwrap().touched);
    });
}

#[test]
fn a_hundred_thousand_elements_go_in_one_batch() {
    in_namespace("a_hundred_thousand_elements", || {
        let mut kernel = Kernel::open().unwrap();
        let mut batch = Batch::new("calico");
        batch.add_table();
        let spec = SetSpec::hash(&[Field::Ipv4]);
        let elements = plain((0..100_000u32).map(|i| Key::value(&(0x0a00_0000 + i).to_be_bytes())));
        batch.add_set("big", &spec);
        batch.add_elements(&name("big"), &spec, &elements);
        kernel.commit(&mut batch, None).unwrap();
        let dumped = dump(&mut kernel).sets["big"].elements.clone();
        assert_eq!(dumped.len(), elements.len());
        assert!(dumped == elements, "the same elements");
    });
}

/// The decoder reads what the kernel sends, which this crate must survive whatever it is.
#[test]
fn no_bytes_make_the_decoder_panic() {
    use proptest::prelude::*;
    let mut batch = Batch::new("calico");
    batch.add_table();
    write(&mut batch, &sample());
    let honest = batch.finish(None);
    decode::exercise(&honest);
    let mutation = (0..honest.len(), any::<u8>());
    proptest!(ProptestConfig::with_cases(512), |(mutations in prop::collection::vec(mutation, 1..8), cut in 0..honest.len())| {
        let mut bytes = honest.clone();
        for (at, value) in mutations {
            bytes[at] = value;
        }
        decode::exercise(&bytes);
        decode::exercise(&bytes[cut..]);
    });
    proptest!(ProptestConfig::with_cases(512), |(bytes in prop::collection::vec(any::<u8>(), 0..200))| {
        decode::exercise(&bytes);
    });
}
