//! Routing tables with the sharing of attributes that real ones have.

use std::net::Ipv4Addr;

use calico_bgp::wire::{AsPath, NextHop, PathAttributes, PathPrefix, Prefix, Prefix4};

/// Different sets of attributes in a table.
pub const ATTRIBUTE_SETS: u32 = 2000;

/// Prefixes in one UPDATE.
pub const PREFIXES_PER_UPDATE: u32 = 8;

/// One of the [`ATTRIBUTE_SETS`]: paths of 3 to 6 systems, up to two communities, sometimes a MULTI_EXIT_DISC.
pub fn attributes(number: u32) -> PathAttributes {
    let mut path = vec![65001, 100 + number % 50, 1000 + number];
    path.extend((0..number % 4).map(|hop| 20_000 + hop));
    let mut attributes = PathAttributes {
        as_path: AsPath::sequence(&path),
        next_hop: Some(NextHop::V4(Ipv4Addr::new(10, 0, 0, 1))),
        med: number.is_multiple_of(3).then_some(number),
        ..PathAttributes::default()
    };
    for community in 0..number % 3 {
        attributes.add_community(65001 << 16 | community);
    }
    attributes
}

/// The n-th prefix, a /24.
pub fn prefix(number: u32) -> PathPrefix<Prefix4> {
    let [a, b, c, _] = (0x0100_0000 + (number << 8)).to_be_bytes();
    PathPrefix { path_id: 0, prefix: Prefix4::from_wire(24, &[a, b, c]) }
}

/// Groups of prefixes with their set of attributes, as they come in UPDATEs.
pub fn table(prefixes: u32) -> impl Iterator<Item = (u32, Vec<PathPrefix<Prefix4>>)> {
    (0..prefixes.div_ceil(PREFIXES_PER_UPDATE)).map(move |update| {
        let first = update * PREFIXES_PER_UPDATE;
        let end = prefixes.min(first + PREFIXES_PER_UPDATE);
        (update.wrapping_mul(2_654_435_761) % ATTRIBUTE_SETS, (first..end).map(prefix).collect())
    })
}
