//! The datastore is away, and comes back.

use std::time::Duration;

use serde_json::json;

use crate::world::{Container, Layout, World, isolated};

#[test]
fn a_pod_goes_without_the_datastore_and_is_cleaned_up_later() {
    isolated("away::a_pod_goes_without_the_datastore_and_is_cleaned_up_later", || {
        for layout in [Layout::OneProgram, Layout::TwoPrograms] {
            let world = World::new(layout);
            world.pod("web", &json!({}));
            let conf = world.conf("1.1.0", json!({}));
            let away = World::without_datastore(&conf);
            let container = Container::new("c1", Some("web"));
            world.add(&container, &conf);
            world.del(&container, &away);
            world.del(&container, &away);
            assert!(container.addresses("eth0").is_empty(), "the wire is cut all the same");
            let notes = ["net_c1_eth0.addresses.json", "net_c1_eth0.endpoint.json"];
            assert_eq!(world.notes(), notes, "{layout:?}");
            assert_eq!(world.endpoints().len(), 1);

            // The next call that reaches the datastore does it, whatever it is.
            world.run("STATUS", &container, &conf).unwrap();
            assert_eq!(world.leftovers(), [""; 0], "{layout:?}");
        }
    });
}

#[test]
fn the_same_container_is_attached_again_only_after_its_clean_up() {
    isolated("away::the_same_container_is_attached_again_only_after_its_clean_up", || {
        let world = World::new(Layout::OneProgram);
        let conf = world.conf("1.0.0", json!({"policy": {}}));
        let container = Container::new("c1", None);
        world.add(&container, &conf);
        world.del(&container, &World::without_datastore(&conf));
        world.add(&container, &conf);
        // Were the note still there, the next call would release the address of a running container.
        assert_eq!(world.notes(), [""; 0]);
        let other = Container::new("c2", None);
        world.add(&other, &conf);
        assert_eq!(world.stored("/calico/ipam/v2/handle/").len(), 2);
        assert_ne!(container.addresses("eth0"), other.addresses("eth0"));
        world.del(&container, &conf);
        world.del(&other, &conf);
        assert_eq!(world.leftovers(), [""; 0]);
    });
}

#[test]
fn a_pod_goes_when_nobody_knows_the_name_of_the_node() {
    isolated("away::a_pod_goes_when_nobody_knows_the_name_of_the_node", || {
        let world = World::new(Layout::TwoPrograms);
        world.pod("web", &json!({}));
        let conf = world.conf("1.1.0", json!({}));
        let mut unnamed = conf.clone();
        unnamed["nodename"] = "".into();
        let container = Container::new("c1", Some("web"));
        world.add(&container, &conf);
        world.del(&container, &unnamed);
        assert!(container.addresses("eth0").is_empty());
        assert_eq!(world.notes(), ["net_c1_eth0.endpoint.json"], "the address needs no node to be released");
        std::fs::write(world.path("nodename"), "node1\n").unwrap();
        world.run("STATUS", &container, &unnamed).unwrap();
        assert_eq!(world.leftovers(), [""; 0]);
    });
}

#[test]
fn the_ipam_plugin_alone_notes_what_it_cannot_release() {
    isolated("away::the_ipam_plugin_alone_notes_what_it_cannot_release", || {
        let world = World::new(Layout::TwoPrograms);
        let conf = world.conf("0.3.1", json!({"type": "calico-ipam", "policy": {}}));
        let container = Container::new("c1", None);
        world.add(&container, &conf);
        world.del(&container, &World::without_datastore(&conf));
        assert_eq!(world.notes(), ["net_c1_eth0.addresses.json"]);
        let other = Container::new("c2", None);
        world.add(&other, &conf);
        assert_eq!(world.notes(), [""; 0]);
        world.del(&other, &conf);
        assert_eq!(world.leftovers(), [""; 0]);
    });
}

#[test]
fn the_agent_does_what_was_put_off() {
    isolated("away::the_agent_does_what_was_put_off", || {
        let world = World::new(Layout::OneProgram);
        let conf = world.conf("1.0.0", json!({"policy": {}}));
        let container = Container::new("c1", None);
        world.add(&container, &conf);
        world.del(&container, &World::without_datastore(&conf));
        assert_eq!(world.notes().len(), 2);
        // The test's stand-in for the agent: the same future on a runtime.
        let dir = world.path("journal");
        let sqlite = calico_datastore::SqliteOptions::new(world.path("calico.db"));
        let store = calico_datastore::Store::new(calico_datastore::SqliteStore::open(sqlite).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let replay = calico_bins::cni::journal::replay(&store, dir.as_ref(), "node1");
        let replayed =
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), replay).await });
        assert_eq!(replayed.unwrap().done, 2);
        assert_eq!(world.leftovers(), [""; 0]);
    });
}
