//! Stored IPAM objects, and sequences of operations with faults.

use calico_ipam::sim::{Faults, Scenario, replay};
use calico_ipam::{Item, Stored};
use calico_model::{Key, Revision, Value};

/// The objects that are read, by the first byte of the input.
const PATHS: [&str; 6] = [
    "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30",
    "/calico/ipam/v2/assignment/ipv6/block/fd00::-126",
    "/calico/ipam/v2/host/node1/ipv4/block/10.0.0.0-30",
    "/calico/ipam/v2/handle/h",
    "/calico/ipam/v2/config",
    "/calico/resources/v3/projectcalico.org/ippools/p",
];

/// Longest schedule played: a few seconds of a small cluster.
const MAX_STEPS: usize = 400;

/// Any JSON under any IPAM key: it is refused with a reason, or read, and then it survives being written and read
/// again. Nothing is repaired on the way.
pub fn ipam_stored(data: &[u8]) {
    let Some((first, json)) = data.split_first() else { return };
    let Some(path) = PATHS.get(usize::from(*first) % PATHS.len()) else { return };
    let Ok(key) = Key::parse(path) else { panic!("{path} is a key") };
    let revision = Revision::new("1");
    let Ok(value) = Value::from_json(&key, json) else { return };
    let Some(item) = Item::from_model(&key, &value, &revision) else { panic!("{path} is IPAM's") };
    if let Stored::Damaged(error) = &item.value {
        assert!(!error.to_string().is_empty());
        return;
    }
    let Some(written) = item.value.to_model() else { return };
    let again = Value::from_json(&key, &written.to_json());
    let again = again.ok().and_then(|value| Item::from_model(&key, &value, &revision));
    assert_eq!(again, Some(item), "what was read and written does not read back");
}

/// A schedule of a small cluster, eight bytes per decision: no invariant breaks, whatever crashes or gets lost. The
/// first byte chooses the kind of store and cluster.
pub fn ipam_ops(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let schedule: Vec<u64> = rest
        .chunks(8)
        .take(MAX_STEPS)
        .map(|chunk| chunk.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
        .collect();
    let base = if first & 1 == 0 { Scenario::crowded() } else { Scenario::default() };
    let scenario = Scenario {
        transactions: first & 2 != 0,
        strict_affinity: first & 4 != 0,
        cooldown_seconds: if first & 8 == 0 { 0 } else { 10 },
        faults: Faults { crash: 60, lost: 60, stale: 100 },
        ..base
    };
    if let Err(violation) = replay(&schedule, &scenario) {
        panic!("{violation}");
    }
}
