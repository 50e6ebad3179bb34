//! Reading 100,000 objects from JSON, as at the start of every program: policies, endpoints, sets and pools in the
//! proportions of a cluster. Beside them the same bytes read into an untyped tree, which is the least a reader can do.

use std::time::Duration;

use calico_model::decode::Mode;
use calico_model::{AnyResource, Kind};
use criterion::{Criterion, Throughput};
use serde_json::{Value, json};

const OBJECTS: usize = 100_000;

/// Object `i`: of ten, eight are endpoints, one a policy, one a set.
fn object(i: usize, unknown: bool) -> (Kind, Vec<u8>) {
    let metadata = json!({
        "name": format!("object-{i}"), "namespace": format!("ns-{}", i % 100),
        "uid": "41cb1fde-57e7-42c1-a73b-0acaf38c7737", "creationTimestamp": "2026-08-22T13:33:20Z",
        "labels": {"app": format!("app-{}", i % 500), "projectcalico.org/namespace": format!("ns-{}", i % 100)},
    });
    let (kind, mut spec) = match i % 10 {
        0 => (
            Kind::NetworkPolicy,
            json!({"tier": "default", "order": i, "selector": "role == 'database'", "types": ["Ingress", "Egress"],
                "ingress": [
                    {"action": "Allow", "protocol": "TCP", "source": {"selector": "role == 'frontend'"},
                        "destination": {"ports": [6379, "6380:6389", "redis"]}},
                    {"action": "Deny", "source": {"nets": ["10.0.0.0/8", "192.168.0.0/16"]}}],
                "egress": [{"action": "Allow", "protocol": "UDP", "destination": {"ports": [53]}}]}),
        ),
        1 => (
            Kind::NetworkSet,
            json!({"nets": (0..20).map(|n| format!("10.{}.{n}.0/24", i % 256)).collect::<Vec<_>>()}),
        ),
        _ => (
            Kind::WorkloadEndpoint,
            json!({"orchestrator": "k8s", "node": format!("node-{}", i % 1000), "pod": format!("pod-{i}"),
                "endpoint": "eth0", "containerID": "1337495556942031415926535", "interfaceName": "cali0ef24ba0ef2",
                "ipNetworks": [format!("10.{}.{}.{}/32", i >> 16 & 255, i >> 8 & 255, i & 255)],
                "profiles": [format!("kns.ns-{}", i % 100), format!("ksa.ns-{}.default", i % 100)],
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}),
        ),
    };
    if unknown {
        spec["fromTheFuture"] = json!({"x": [1]});
    }
    let object = json!({"apiVersion": "projectcalico.org/v3", "kind": kind.name(), "metadata": metadata, "spec": spec});
    (kind, object.to_string().into_bytes())
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode 100k objects");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for (name, unknown) in [("known fields", false), ("an unknown field each", true)] {
        let objects: Vec<(Kind, Vec<u8>)> = (0..OBJECTS).map(|i| object(i, unknown)).collect();
        group.throughput(Throughput::Bytes(objects.iter().map(|(_, bytes)| bytes.len() as u64).sum()));
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let read =
                    |(kind, bytes): &(Kind, Vec<u8>)| AnyResource::from_json(*kind, bytes, Mode::Lenient);
                objects.iter().filter(|object| read(object).is_ok()).count()
            });
        });
        group.bench_function(format!("{name}, untyped tree"), |bench| {
            bench.iter(|| {
                let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes);
                objects.iter().filter(|(_, bytes)| read(bytes).is_ok()).count()
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    decode(&mut criterion);
    criterion.final_summary();
}
