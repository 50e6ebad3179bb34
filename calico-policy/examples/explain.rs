//! Ask the policy library what the agent would do, without an agent: trace a packet, find out why it is denied, try a
//! change before it is made. Run with `cargo run -p calico-policy --example explain`.

#![allow(clippy::print_stdout)]

use std::error::Error;

use calico_model::{AnyResource, Update, Value, decode::Mode};
use calico_policy::oracle::World;
use calico_policy::packet::Packet;

/// What a store would hold: a namespace with two pods, and a policy.
const CLUSTER: &str = r#"{"kind": "List", "items": [
  {"apiVersion": "projectcalico.org/v3", "kind": "Profile", "metadata": {"name": "kns.shop"}, "spec": {
    "ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}],
    "labelsToApply": {"pcns.env": "live"}}},
  {"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
   "metadata": {"name": "n-k8s-web-eth0", "namespace": "shop", "labels": {"role": "web"}},
   "spec": {"orchestrator": "k8s", "node": "n", "pod": "web", "endpoint": "eth0", "interfaceName": "cali1",
            "ipNetworks": ["10.0.0.1/32"], "profiles": ["kns.shop"]}},
  {"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
   "metadata": {"name": "n-k8s-db-eth0", "namespace": "shop", "labels": {"role": "db"}},
   "spec": {"orchestrator": "k8s", "node": "n", "pod": "db", "endpoint": "eth0", "interfaceName": "cali2",
            "ipNetworks": ["10.0.0.2/32"], "profiles": ["kns.shop"]}},
  {"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
   "metadata": {"name": "db", "namespace": "shop"},
   "spec": {"selector": "role == 'db'", "types": ["Ingress"], "ingress": [
     {"action": "Allow", "protocol": "TCP", "source": {"selector": "role == 'web'"}, "destination": {"ports": [5432]}}]}}
]}"#;

/// A change somebody wants to make.
const CHANGE: &str = r#"{"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
   "metadata": {"name": "web", "namespace": "shop"},
   "spec": {"selector": "role == 'web'", "types": ["Egress"], "egress": [{"action": "Deny"}]}}"#;

fn read(text: &str) -> Result<Vec<Update>, Box<dyn Error>> {
    let tree = serde_json::from_str(text)?;
    let resources = AnyResource::read_all(tree, Mode::Strict).map_err(|errors| format!("{errors:?}"))?;
    let put = |resource: AnyResource| Update::set(resource.key(), Value::Resource(resource.into()), 1.into());
    Ok(resources.into_iter().map(put).collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    let updates = read(CLUSTER)?;
    let world = World::new(updates.clone());
    let (web, db) = ("10.0.0.1".parse()?, "10.0.0.2".parse()?);

    println!("{}", world.trace(&Packet::tcp(web, db, 5432)));
    if let Some(why) = world.why_denied(&Packet::tcp(web, db, 22)) {
        println!("{why}");
    }
    println!("{}", world.matrix(None));
    let after = World::new(updates.into_iter().chain(read(CHANGE)?));
    println!("{}", world.simulate(&after));
    for finding in after.lint() {
        println!("{finding}");
    }
    Ok(())
}
