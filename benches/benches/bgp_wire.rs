//! UPDATEs read and written. Limit: 500 prefixes in 4 µs; rustbgpd's own figures for 500 prefixes are 3.3 µs to read
//! and 1.6 µs to write.
#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;

use calico_benches::bgp;
use calico_bgp::wire::{SessionParams, Update, UpdateBuilder};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn update(c: &mut Criterion) {
    let params = SessionParams { ibgp: false, ..SessionParams::default() };
    let mut group = c.benchmark_group("bgp_wire");
    for count in [8, 500] {
        let routes: Vec<_> = (0..count).map(bgp::prefix).collect();
        let attributes = bgp::attributes(7);
        let mut builder = UpdateBuilder::new();
        let mut message = None;
        builder.announce(&attributes, &routes, &params, |bytes| message = Some(bytes)).unwrap();
        let message = message.unwrap();
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(format!("read_{count}_prefixes"), |b| {
            b.iter(|| {
                let update = Update::decode(black_box(&message[19..]), &params).unwrap();
                update.announced.map(|route| u64::from(route.path_id)).sum::<u64>()
            });
        });
        group.bench_function(format!("write_{count}_prefixes"), |b| {
            b.iter(|| {
                builder.announce(black_box(&attributes), &routes, &params, |bytes| drop(black_box(bytes)))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, update);
criterion_main!(benches);
