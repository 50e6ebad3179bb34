//! Attaching and detaching without an agent.

use calico_bins::cni::SUPPORTED_VERSIONS;
use calico_bins::cni::error::code;
use calico_dataplane::netlink::{LinkChange, Rtnetlink};
use serde_json::{Value, json};

use crate::world::{Container, Layout, World, isolated};

#[test]
fn every_version_of_the_specification_without_an_agent() {
    isolated("attach::every_version_of_the_specification_without_an_agent", || {
        for layout in [Layout::OneProgram, Layout::TwoPrograms] {
            let world = World::new(layout);
            for version in SUPPORTED_VERSIONS {
                let name = version.replace('.', "");
                world.pod(&format!("web-{name}"), &json!({}));
                let container = Container::new(&format!("c{name}"), Some(&format!("web-{name}")));
                let conf = world.conf(version, json!({}));
                let result = world.add(&container, &conf);
                assert_eq!(result["cniVersion"], version);
                let address = match version {
                    "0.1.0" | "0.2.0" => &result["ip4"]["ip"],
                    _ => &result["ips"][0]["address"],
                };
                assert_eq!(container.addresses("eth0"), [address.as_str().unwrap()], "{result}");
                assert_eq!(world.add(&container, &conf), result, "a second ADD says the same");
                world.del(&container, &conf);
                world.del(&container, &conf);
                assert!(container.addresses("eth0").is_empty());
                assert_eq!(world.leftovers(), [""; 0], "{version} {layout:?}");
            }
        }
    });
}

#[test]
fn check_sees_every_difference() {
    isolated("attach::check_sees_every_difference", || {
        let world = World::new(Layout::OneProgram);
        world.pod("web", &json!({}));
        let container = Container::new("c1", Some("web"));
        let mut conf = world.conf("1.1.0", json!({}));
        conf["prevResult"] = world.add(&container, &conf);
        assert_eq!(world.run("CHECK", &container, &conf).unwrap(), Value::Null);
        let host = conf["prevResult"]["interfaces"][0]["name"].as_str().unwrap().to_owned();
        let broken = |world: &World| world.run("CHECK", &container, &conf).unwrap_err().details;

        let parameter = format!("/proc/sys/net/ipv4/conf/{host}/proxy_arp");
        std::fs::write(&parameter, "0").unwrap();
        assert!(broken(&world).contains("proxy_arp is 0 instead of 1"), "{}", broken(&world));
        std::fs::write(&parameter, "1").unwrap();

        container
            .netns
            .run(|| {
                let mut inside = Rtnetlink::open().unwrap();
                let link = inside.link("eth0").unwrap();
                inside.change_link(link.index, &LinkChange::Mtu(1300)).unwrap();
            })
            .unwrap();
        assert!(broken(&world).contains("MTU 1300 instead of 1440"), "{}", broken(&world));

        let handle = world.stored("/calico/ipam/v2/handle/").into_keys().next().unwrap();
        assert_eq!(handle, "/calico/ipam/v2/handle/net.c1");
        let ipam = json!({"type": "calico-ipam"});
        let mut alone = conf.clone();
        alone["type"] = "calico-ipam".into();
        alone["ipam"] = ipam;
        world.run("DEL", &container, &alone).unwrap();
        assert!(broken(&world).contains("not assigned to net.c1"), "{}", broken(&world));
        world.del(&container, &conf);
        assert!(world.run("CHECK", &container, &conf).is_err());
        assert_eq!(world.leftovers(), [""; 0]);
    });
}

#[test]
fn annotations_and_the_runtime_shape_the_attachment() {
    isolated("attach::annotations_and_the_runtime_shape_the_attachment", || {
        let world = World::new(Layout::OneProgram);
        let prefix = "cni.projectcalico.org/";
        world.pod(
            "both",
            &json!({
                format!("{prefix}ipFamilies"): r#"["IPv4","IPv6"]"#,
                format!("{prefix}ipv4pools"): r#"["other4"]"#,
                format!("{prefix}hwAddr"): "02:00:00:00:65:01",
                format!("{prefix}floatingIPs"): r#"["192.0.2.9","2001:db8::9"]"#,
                format!("{prefix}allowedSourcePrefixes"): r#"["203.0.113.9/24"]"#,
            }),
        );
        let container = Container::new("c1", Some("both"));
        let conf = world.conf("1.0.0", json!({"feature_control": {"floating_ips": true}}));
        let result = world.add(&container, &conf);
        assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:65:01");
        let addresses = container.addresses("eth0");
        let [v4, v6] = &*addresses else { panic!("{addresses:?}") };
        assert!(v4.starts_with("10.66.0.") && v4.ends_with("/32"), "{v4}");
        assert!(v6.starts_with("fd00:65::") && v6.ends_with("/128"), "{v6}");
        let (_, endpoint) = world.endpoints().into_iter().next().unwrap();
        let spec = &endpoint["spec"];
        assert_eq!(spec["mac"], "02:00:00:00:65:01");
        assert_eq!(spec["allowSpoofedSourcePrefixes"], json!(["203.0.113.0/24"]));
        assert_eq!(spec["ipNATs"][0]["externalIP"], "192.0.2.9");
        assert_eq!(spec["ipNATs"][1]["externalIP"], "2001:db8::9");
        assert_eq!(spec["profiles"], json!(["kns.default", "ksa.default.default"]));
        world.del(&container, &conf);

        let plain = Container::new("c2", None);
        let conf = world.conf(
            "1.0.0",
            json!({"policy": {}, "runtimeConfig": {"mac": "02:00:00:00:65:02", "ips": ["10.65.3.3/16"]}}),
        );
        let result = world.add(&plain, &conf);
        assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:65:02");
        assert_eq!(plain.addresses("eth0"), ["10.65.3.3/32"]);
        world.del(&plain, &conf);
        assert_eq!(world.leftovers(), [""; 0]);
    });
}

#[test]
fn a_pod_gets_the_address_it_names_in_every_sandbox() {
    isolated("attach::a_pod_gets_the_address_it_names_in_every_sandbox", || {
        for layout in [Layout::OneProgram, Layout::TwoPrograms] {
            let world = World::new(layout);
            world.pod("db-0", &json!({"cni.projectcalico.org/ipAddrs": r#"["10.65.7.7"]"#}));
            let conf = world.conf("1.0.0", json!({}));
            let first = Container::new("c1", Some("db-0"));
            world.add(&first, &conf);
            // The kubelet makes the new sandbox before it takes the old one down.
            let second = Container::new("c2", Some("db-0"));
            world.add(&second, &conf);
            assert_eq!(second.addresses("eth0"), ["10.65.7.7/32"]);
            world.del(&first, &conf);
            assert_eq!(second.addresses("eth0"), ["10.65.7.7/32"], "the old sandbox takes nothing along");
            assert_eq!(world.endpoints().len(), 1);
            // Somebody else's address is not taken away.
            world.pod("thief", &json!({"cni.projectcalico.org/ipAddrs": r#"["10.65.7.7"]"#}));
            let thief = Container::new("c3", Some("thief"));
            let error = world.run("ADD", &thief, &conf).unwrap_err();
            assert!(error.msg.starts_with("error getting IP from IPAM: "), "{error}");
            world.del(&thief, &conf);
            assert_eq!(second.addresses("eth0"), ["10.65.7.7/32"]);
            world.del(&second, &conf);
            assert_eq!(world.leftovers(), [""; 0]);
        }
    });
}

#[test]
fn an_address_past_ipam_and_two_networks_of_one_pod() {
    isolated("attach::an_address_past_ipam_and_two_networks_of_one_pod", || {
        let world = World::new(Layout::OneProgram);
        world.pod("web", &json!({"cni.projectcalico.org/ipAddrsNoIpam": r#"["10.99.0.1"]"#}));
        let gate = json!({"feature_control": {"ip_addrs_no_ipam": true}});
        let first = Container::new("c1", Some("web"));
        let conf = world.conf("1.0.0", gate);
        world.add(&first, &conf);
        assert_eq!(first.addresses("eth0"), ["10.99.0.1/32"]);
        assert_eq!(world.stored("/calico/ipam/v2/handle/").len(), 0);

        world.pod("web", &json!({}));
        let second = first.interface("net1");
        let other = world.conf(
            "1.0.0",
            json!({"name": "net-b", "ipam": {"type": "calico-ipam", "ipv4_pools": ["10.66.0.0/24"]},
            "include_default_routes": false}),
        );
        // Both want the default route; the second interface takes it over, as with the reference.
        let result = world.add(&second, &other);
        assert_eq!(world.endpoints().len(), 2);
        assert_ne!(result["interfaces"][0]["name"], "calic440f455693");
        world.del(&second, &other);
        assert_eq!(first.addresses("eth0"), ["10.99.0.1/32"]);
        assert_eq!(world.endpoints().len(), 1);
        world.del(&first, &conf);
        assert_eq!(world.leftovers(), [""; 0]);
    });
}

#[test]
fn a_network_without_kubernetes_gets_a_profile_of_its_own() {
    isolated("attach::a_network_without_kubernetes_gets_a_profile_of_its_own", || {
        let world = World::new(Layout::OneProgram);
        let conf = world.conf("0.4.0", json!({"policy": {}, "name": "Net_1"}));
        let (one, two) = (Container::new("c1", None), Container::new("c2", None));
        let (first, _) = (world.add(&one, &conf), world.add(&two, &conf));
        assert_eq!(first["interfaces"][0]["name"], "calic1");
        let profiles = world.stored("/calico/resources/v3/projectcalico.org/profiles/");
        let (_, profile) = profiles.iter().find(|(key, _)| key.ends_with("/Net_1")).unwrap();
        assert_eq!(profile["spec"]["ingress"][0]["source"]["selector"], "has(Net_1)");
        assert_eq!(profile["spec"]["labelsToApply"], json!({"Net_1": ""}));
        let spec = &world.endpoints().into_values().next().unwrap()["spec"];
        assert_eq!((&spec["orchestrator"], &spec["profiles"]), (&json!("cni"), &json!(["Net_1"])));
        world.del(&one, &conf);
        world.del(&two, &conf);
        assert_eq!(world.leftovers(), [""; 0]);
    });
}

#[test]
fn gc_takes_what_the_runtime_no_longer_knows_and_nothing_else() {
    isolated("attach::gc_takes_what_the_runtime_no_longer_knows_and_nothing_else", || {
        let world = World::new(Layout::TwoPrograms);
        let conf = world.conf("1.1.0", json!({}));
        let other = world.conf("1.1.0", json!({"name": "net-b"}));
        for name in ["kept", "gone", "foreign"] {
            world.pod(name, &json!({}));
        }
        let kept = Container::new("kept", Some("kept"));
        let gone = Container::new("gone", Some("gone"));
        let foreign = Container::new("foreign", Some("foreign"));
        world.add(&kept, &conf);
        world.add(&gone, &conf);
        world.add(&foreign, &other);
        let mut collect = conf.clone();
        collect["cni.dev/valid-attachments"] = json!([{"containerID": "kept", "ifname": "eth0"}]);
        world.run("GC", &kept, &collect).unwrap();
        assert!(gone.addresses("eth0").is_empty(), "its wire is cut");
        let handles: Vec<String> = world.stored("/calico/ipam/v2/handle/").into_keys().collect();
        assert_eq!(handles, ["/calico/ipam/v2/handle/net-b.foreign", "/calico/ipam/v2/handle/net.kept"]);
        assert_eq!(world.endpoints().len(), 2);
        assert_eq!(foreign.addresses("eth0").len(), 1);
        world.del(&kept, &conf);
        world.del(&foreign, &other);
        assert_eq!(world.leftovers(), [""; 0]);
    });
}

#[test]
fn errors_have_the_codes_that_runtimes_act_on() {
    isolated("attach::errors_have_the_codes_that_runtimes_act_on", || {
        let world = World::new(Layout::OneProgram);
        world.pod("web", &json!({}));
        let container = Container::new("c1", Some("web"));
        let fails = |verb: &str, conf: &Value| world.run(verb, &container, conf).unwrap_err();
        let with = |more: Value| world.conf("1.1.0", more);
        assert_eq!(fails("ADD", &world.conf("2.0.0", json!({}))).code, code::INCOMPATIBLE_VERSION);
        assert_eq!(fails("CHECK", &world.conf("0.3.1", json!({}))).code, code::INCOMPATIBLE_VERSION);
        assert_eq!(fails("ADD", &with(json!({"name": "a b"}))).code, code::INVALID_CONFIG);
        assert_eq!(fails("NOP", &with(json!({}))).code, code::INVALID_ENVIRONMENT);
        assert_eq!(fails("ADD", &with(json!({"mtu": "x"}))).code, code::DECODING);
        let refused = fails("ADD", &with(json!({"ipam": {"type": "calico-ipam", "ipv4_pools": ["nope"]}})));
        assert!(refused.msg.starts_with("error parsing pool \"nope\""), "{refused}");
        let lost = fails("ADD", &World::without_datastore(&with(json!({}))));
        assert_eq!(lost.code, code::TRY_AGAIN_LATER, "{lost}");
        let unnamed = with(json!({"nodename": ""}));
        let error = fails("ADD", &unnamed);
        assert_eq!(error.code, code::TRY_AGAIN_LATER);
        assert!(error.msg.contains("check that the calico/node container is running"), "{error}");
        assert_eq!(
            fails("ADD", &with(json!({"require_mtu_file": true, "mtu": 0}))).code,
            code::TRY_AGAIN_LATER
        );

        assert_eq!(world.run("STATUS", &container, &with(json!({}))).unwrap(), Value::Null);
        assert_eq!(
            fails("STATUS", &World::without_datastore(&with(json!({})))).code,
            code::NOT_AVAILABLE_LIMITED
        );
        let facts = world.stored("/calico/resources/v3/projectcalico.org/clusterinformations/default");
        let (key, mut information) = facts.into_iter().next().unwrap();
        information["spec"]["datastoreReady"] = false.into();
        world.put(&key, &information);
        assert_eq!(fails("ADD", &with(json!({}))).code, code::TRY_AGAIN_LATER);
        assert_eq!(fails("STATUS", &with(json!({}))).code, code::NOT_AVAILABLE_LIMITED);
        assert_eq!(world.leftovers(), [""; 0]);
    });
}

#[test]
fn twenty_at_once_get_twenty_addresses() {
    isolated("attach::twenty_at_once_get_twenty_addresses", || {
        let world = World::new(Layout::OneProgram);
        let conf = world.conf("1.0.0", json!({}));
        let containers: Vec<Container> = (0..20)
            .map(|n| {
                world.pod(&format!("p{n}"), &json!({}));
                Container::new(&format!("c{n}"), Some(&format!("p{n}")))
            })
            .collect();
        let running: Vec<_> = containers
            .iter()
            .map(|container| {
                use std::io::Write as _;
                let mut command = world.command("ADD", "calico", container);
                command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
                let mut child = command.spawn().unwrap();
                child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
                child
            })
            .collect();
        for child in running {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        let all: std::collections::BTreeSet<String> =
            containers.iter().flat_map(|container| container.addresses("eth0")).collect();
        assert_eq!(all.len(), 20, "{all:?}");
        for container in &containers {
            world.del(container, &conf);
        }
        assert_eq!(world.leftovers(), [""; 0]);
    });
}
