//! Programs that are not ours.

use std::path::PathBuf;
use std::process::Command;

use calico_dataplane::sys::unshare;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use serde_json::{Value, json};

use crate::world::{
    Container, Layout, REFERENCE_PLUGINS, World, answer, communicate, find_plugin, find_program, isolated,
    skip,
};

#[test]
fn host_local_assigns_out_of_the_nodes_pod_cidr() {
    const NAME: &str = "peers::host_local_assigns_out_of_the_nodes_pod_cidr";
    if find_plugin("host-local").is_none() {
        return skip(NAME, "there is no reference plugin host-local");
    }
    isolated(NAME, || {
        let world = World::new(Layout::OneProgram);
        world.pod("web", &json!({}));
        let data = world.path("host-local");
        let conf = world.conf(
            "1.0.0",
            json!({"ipam": {"type": "host-local", "dataDir": data,
                "ranges": [[{"subnet": "usePodCidr"}], [{"subnet": "usePodCidrIPv6"}]],
                "routes": [{"dst": "198.51.100.0/24"}, {"dst": "2001:db8::/32"}]}}),
        );
        let container = Container::new("c1", Some("web"));
        let refused = world.run("ADD", &container, &conf).unwrap_err();
        assert_eq!(refused.msg, "no podCidr for node node1");
        world.put(
            "/registry/nodes/node1",
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"},
                "spec": {"podCIDRs": ["10.77.3.0/24", "fd00:77::/120"]}}),
        );
        let result = world.add(&container, &conf);
        let addresses = container.addresses("eth0");
        assert_eq!(addresses, ["10.77.3.2/32", "fd00:77::2/128"], "{result}");
        assert_eq!(result["routes"][0]["dst"], "198.51.100.0/24");
        assert_eq!(result["routes"].as_array().unwrap().len(), 2);
        let mut check = conf.clone();
        check["prevResult"] = result;
        world.run("CHECK", &container, &check).unwrap();
        // DEL needs neither the Node nor a datastore to release.
        world.del(&container, &World::without_datastore(&conf));
        let kept = std::fs::read_dir(format!("{data}/net")).unwrap().flatten();
        let kept: Vec<String> = kept.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        assert!(!kept.iter().any(|name| name.starts_with("10.") || name.starts_with("fd00")), "{kept:?}");
        let with_status = world.conf("1.1.0", json!({"ipam": conf["ipam"]}));
        world.run("STATUS", &container, &with_status).unwrap();
        assert_eq!(world.leftovers(), [""; 0]);
    });
}

#[test]
fn a_reference_plugin_takes_its_addresses_from_calico_ipam() {
    const NAME: &str = "peers::a_reference_plugin_takes_its_addresses_from_calico_ipam";
    if find_plugin("bridge").is_none() {
        return skip(NAME, "there is no reference plugin bridge");
    }
    isolated(NAME, || {
        let world = World::new(Layout::TwoPrograms);
        for version in ["0.3.1", "0.4.0", "1.0.0"] {
            let container = Container::new(&format!("c{}", version.replace('.', "")), None);
            let conf = world.conf(version, json!({"type": "bridge", "bridge": "br-test", "policy": null}));
            let result = world.add(&container, &conf);
            let address = result["ips"][0]["address"].as_str().unwrap();
            assert!(address.starts_with("10.6") && address.ends_with("/28"), "{result}");
            assert_eq!(world.stored("/calico/ipam/v2/handle/").len(), 1);
            world.del(&container, &conf);
            assert_eq!(world.stored("/calico/ipam/v2/handle/").len(), 0);
        }
    });
}

#[test]
fn a_plugin_on_the_crate_cni_plugin_delegates_to_calico_ipam() {
    const NAME: &str = "peers::a_plugin_on_the_crate_cni_plugin_delegates_to_calico_ipam";
    // Cargo builds examples along with the tests, but tells only the paths of programs.
    let executable = std::env::current_exe().unwrap();
    let plugin = executable.ancestors().nth(2).unwrap().join("examples/delegating-plugin");
    if !plugin.is_file() {
        return skip(NAME, "the example delegating-plugin is not built");
    }
    isolated(NAME, || {
        let world = World::new(Layout::TwoPrograms);
        for version in ["0.4.0", "1.0.0"] {
            let container = Container::new("c1", None);
            let conf = world.conf(version, json!({"type": "delegating-plugin", "policy": null}));
            let run = |verb: &str, conf: &Value| {
                let mut command = Command::new(&plugin);
                command.envs(world.environment(verb, &container));
                answer(&communicate(command, conf))
            };
            let result = run("ADD", &conf).unwrap();
            assert!(result["ips"][0]["address"].as_str().unwrap().starts_with("10.6"), "{result}");
            assert_eq!(world.stored("/calico/ipam/v2/handle/").len(), 1);
            let mut check = conf.clone();
            check["prevResult"] = result;
            run("CHECK", &check).unwrap();
            run("DEL", &conf).unwrap();
            assert_eq!(world.leftovers(), [""; 0]);
        }
        // A refusal passes through too.
        let container = Container::new("c2", None);
        let conf = world.conf(
            "1.0.0",
            json!({"type": "delegating-plugin",
            "ipam": {"type": "calico-ipam", "ipv4_pools": ["nope"]}}),
        );
        let mut command = Command::new(&plugin);
        command.envs(world.environment("ADD", &container));
        assert!(answer(&communicate(command, &conf)).unwrap_err().to_string().contains("nope"));
        assert_eq!(world.leftovers(), [""; 0]);
    });
}

/// A root file system with one static program.
fn root_file_system(world: &World) -> Option<PathBuf> {
    let busybox = find_program("busybox")?;
    let root = world.dir.path().join("rootfs");
    for dir in ["bin", "proc", "sys", "dev", "etc", "tmp", "run"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for name in ["sh", "ip", "nc", "httpd", "sleep", "cat"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    Some(root)
}

#[test]
fn podman_runs_a_container_on_the_network() {
    const NAME: &str = "peers::podman_runs_a_container_on_the_network";
    if std::env::var_os("CALICO_TEST_PODMAN").is_none() && !rustix::process::geteuid().is_root() {
        return skip(NAME, "podman without root keeps its networks in a namespace of its own");
    }
    let Some(podman) = find_program("podman") else { return skip(NAME, "podman is not installed") };
    isolated(NAME, || {
        // Mounts of the engine stay with this thread and its children.
        unshare::mount().unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        // crun refuses a machine with both generations of control groups; it needs neither here.
        let _ = unmount("/sys/fs/cgroup/unified", UnmountFlags::DETACH);
        let world = World::new(Layout::OneProgram);
        let Some(root) = root_file_system(&world) else {
            return skip(NAME, "there is no static busybox for the container's files");
        };
        let mut ours = world.conf("0.4.0", json!({"policy": {}}));
        ours.as_object_mut().unwrap().retain(|key, _| key != "name" && key != "cniVersion");
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let list = json!({"cniVersion": "0.4.0", "name": "net", "plugins": [ours, portmap]});
        for dir in ["net.d", "storage", "run", "tmp"] {
            std::fs::create_dir(world.path(dir)).unwrap();
        }
        std::fs::write(world.path("net.d/10-calico.conflist"), list.to_string()).unwrap();
        let directories: Vec<String> = std::iter::once(world.bin.display().to_string())
            .chain(REFERENCE_PLUGINS.map(str::to_owned))
            .collect();
        std::fs::write(
            world.path("containers.conf"),
            format!(
                "[network]\nnetwork_backend = \"cni\"\nnetwork_config_dir = {:?}\ncni_plugin_dirs = {directories:?}\n\
                 [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nhooks_dir = []\n\
                 [containers]\ncgroups = \"disabled\"\n\
                 default_ulimits = [\"nofile=256:256\", \"nproc=256:256\"]\n",
                world.path("net.d")
            ),
        )
        .unwrap();
        let podman = |arguments: &[&str]| {
            let mut command = Command::new(&podman);
            command.args(["--root", &world.path("storage"), "--runroot", &world.path("run")]);
            command.args(["--tmpdir", &world.path("tmp"), "--storage-driver", "vfs"]).args(arguments);
            command.env("CONTAINERS_CONF", world.path("containers.conf"));
            command.output().unwrap()
        };
        let info = podman(&["info", "--format", "{{.Host.NetworkBackend}}"]);
        if String::from_utf8_lossy(&info.stdout).trim() != "cni" {
            return skip(NAME, &format!("this podman has no CNI back end: {info:?}"));
        }
        let root = root.display().to_string();
        let started = podman(&[
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "net",
            "-p",
            "8080:80",
            "--security-opt",
            "seccomp=unconfined",
            "--rootfs",
            &root,
            "/bin/sleep",
            "600",
        ]);
        if !started.status.success() {
            let reason = String::from_utf8_lossy(&started.stderr).trim().to_owned();
            assert!(!reason.contains("calico"), "{reason}\n{}", world.log());
            return skip(NAME, &format!("podman cannot run a container here: {reason}"));
        }
        let seen = podman(&["exec", "web", "/bin/ip", "-o", "-4", "addr", "show", "dev", "eth0"]);
        let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
        let endpoints = world.endpoints();
        let spec = &endpoints.values().next().unwrap()["spec"];
        let address = spec["ipNetworks"][0].as_str().unwrap();
        assert!(seen.contains(address), "{seen:?} {address}");
        let rules = Command::new("iptables-save").output().unwrap();
        let plain = address.trim_end_matches("/32");
        assert!(String::from_utf8_lossy(&rules.stdout).contains(&format!("--to-destination {plain}:80")));
        let removed = podman(&["rm", "-f", "-t", "0", "web"]);
        assert!(removed.status.success(), "{removed:?}");
        assert_eq!(world.leftovers(), [""; 0], "{}", world.log());
    });
}
