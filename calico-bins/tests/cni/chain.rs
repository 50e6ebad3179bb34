//! One of several plugins.

use calico_bins::cni::result::AddResult;
use calico_dataplane::netlink::{NewKind, NewLink, Rtnetlink};
use serde_json::{Value, json};

use crate::world::{Container, Layout, World, find_plugin, isolated, skip};

#[test]
fn what_earlier_plugins_did_is_handed_on() {
    isolated("chain::what_earlier_plugins_did_is_handed_on", || {
        let world = World::new(Layout::OneProgram);
        world.pod("web", &json!({}));
        let container = Container::new("c1", Some("web"));
        container
            .netns
            .run(|| Rtnetlink::open().unwrap().create_link(&NewLink::new("br0", NewKind::Bridge)).unwrap())
            .unwrap();
        let previous = json!({"cniVersion": "1.1.0",
            "interfaces": [{"name": "br0", "sandbox": container.netns_path(), "mac": "02:00:00:00:00:07"}],
            "ips": [{"address": "192.0.2.7/24", "interface": 0}],
            "routes": [{"dst": "198.51.100.0/24", "priority": 3}],
            "dns": {"nameservers": ["9.9.9.9"]}});
        let mut conf = world.conf("1.1.0", json!({"prevResult": previous}));
        let result = world.add(&container, &conf);
        assert_eq!(world.add(&container, &conf), result, "also when it is there already");
        assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
        assert_eq!(result["ips"][0], previous["ips"][0]);
        assert_eq!(result["routes"][0], previous["routes"][0]);
        assert_eq!(result["dns"], previous["dns"]);
        assert_eq!(result["interfaces"][2]["name"], "eth0");
        assert_eq!(result["ips"][1]["interface"], 2);
        conf["prevResult"] = result;
        world.run("CHECK", &container, &conf).unwrap();
        world.del(&container, &conf);
        assert_eq!(world.leftovers(), [""; 0]);
    });
}

#[test]
fn a_previous_result_that_is_none_is_refused_before_anything_is_done() {
    isolated("chain::a_previous_result_that_is_none_is_refused_before_anything_is_done", || {
        let world = World::new(Layout::OneProgram);
        world.pod("web", &json!({}));
        let container = Container::new("c1", Some("web"));
        let conf =
            world.conf("1.0.0", json!({"prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "x"}]}}));
        let error = world.run("ADD", &container, &conf).unwrap_err();
        assert!(error.msg.contains("ips.address"), "{error}");
        assert_eq!(world.leftovers(), [""; 0]);
        // DEL has no use for it.
        world.del(&container, &conf);
    });
}

/// Runs a list of plugins as a runtime does: each gets the result of the one before.
fn add_list(world: &World, container: &Container, list: &[Value]) -> Value {
    let mut result = Value::Null;
    for conf in list {
        let mut conf = conf.clone();
        if !result.is_null() {
            conf["prevResult"] = result;
        }
        result = world.add(container, &conf);
    }
    result
}

fn del_list(world: &World, container: &Container, list: &[Value], result: &Value) {
    for conf in list.iter().rev() {
        let mut conf = conf.clone();
        conf["prevResult"] = result.clone();
        world.del(container, &conf);
    }
}

#[test]
fn portmap_and_bandwidth_follow() {
    const NAME: &str = "chain::portmap_and_bandwidth_follow";
    let missing = ["portmap", "bandwidth"].iter().find(|plugin| find_plugin(plugin).is_none());
    if let Some(plugin) = missing {
        return skip(NAME, &format!("there is no reference plugin {plugin}"));
    }
    if crate::world::find_program("iptables").is_none() {
        return skip(NAME, "portmap needs iptables");
    }
    isolated(NAME, || {
        let world = World::new(Layout::OneProgram);
        for version in ["0.3.1", "0.4.0", "1.0.0"] {
            let name = format!("web{}", version.replace('.', ""));
            world.pod(&name, &json!({}));
            let container = Container::new(&name, Some(&name));
            let list = [
                world.conf(version, json!({})),
                json!({"cniVersion": version, "name": "net", "type": "portmap", "snat": true,
                    "capabilities": {"portMappings": true},
                    "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}}),
                json!({"cniVersion": version, "name": "net", "type": "bandwidth",
                    "capabilities": {"bandwidth": true},
                    "runtimeConfig": {"bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 800_000,
                                                    "egressRate": 8_000_000, "egressBurst": 800_000}}}),
            ];
            let result = add_list(&world, &container, &list);
            let address = result["ips"][0]["address"].as_str().unwrap();
            assert_eq!(container.addresses("eth0"), [address]);
            let plain = address.split('/').next().unwrap();
            let rules = std::process::Command::new("iptables-save").output().unwrap();
            let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
            assert!(rules.contains(&format!("--to-destination {plain}:80")), "{rules}");
            // The last result describes the whole chain; ours must still be as ADD left it.
            let read = AddResult::from_value(&result).unwrap();
            assert!(read.interfaces.len() >= 3, "bandwidth adds its device: {result}");
            if version != "0.3.1" {
                let mut conf = list[0].clone();
                conf["prevResult"] = result.clone();
                world.run("CHECK", &container, &conf).unwrap();
            }
            del_list(&world, &container, &list, &result);
            assert_eq!(world.leftovers(), [""; 0]);
        }
    });
}
