//! An ADD that dies, or is refused by the system, at each of its steps. `strace` counts the system calls that change
//! something, then kills the plugin at the n-th of them, or lets it fail, for every n.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::world::{Container, Layout, World, answer, communicate, find_program, isolated, skip};

/// Calls that change or decide something: netlink, files, namespaces, locks, processes.
const CALLS: &str = "sendto,sendmsg,recvfrom,recvmsg,pwrite64,ftruncate,fsync,fdatasync,rename,unlink,mkdir,setns,flock,execve,write";

/// Calls that may fail without ending everything: not the report itself, and no start of a program.
const REFUSED: &str =
    "sendto,sendmsg,recvfrom,recvmsg,pwrite64,ftruncate,fsync,fdatasync,rename,unlink,mkdir,setns,flock";

/// Steps that are tried unless the variable asks for all: evenly spread.
const STEPS: usize = 24;
const EVERY: &str = "CALICO_EVERY_STEP";

fn traced(world: &World, container: &Container, conf: &Value, output: &str, filters: &[String]) -> Output {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", output]);
    for filter in filters {
        command.args(["-e", filter]);
    }
    command.arg("--").arg(world.bin.join("calico"));
    command.envs(world.environment("ADD", container));
    communicate(command, conf)
}

/// How many of `calls` an ADD makes.
fn count(world: &World, conf: &Value, calls: &str) -> usize {
    let container = Container::new("count", Some("web"));
    let trace = world.path("trace");
    let output = traced(world, &container, conf, &trace, &[format!("trace={calls}")]);
    answer(&output).unwrap_or_else(|error| panic!("{error}"));
    world.del(&container, conf);
    std::fs::read_to_string(trace).unwrap().lines().count()
}

fn steps(count: usize) -> impl Iterator<Item = usize> {
    let stride = if std::env::var_os(EVERY).is_some() { 1 } else { count.div_ceil(STEPS) };
    (1..=count).step_by(stride)
}

/// Whether processes can be traced here.
fn can_trace(name: &str) -> bool {
    if find_program("strace").is_none() {
        skip(name, "strace is not installed");
        return false;
    }
    match Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).output() {
        Ok(output) if output.status.success() => true,
        other => {
            skip(name, &format!("strace does not work here: {other:?}"));
            false
        }
    }
}

fn each(
    layout: Layout,
    calls: &str,
    fault: &str,
    verify: impl Fn(&World, &Container, &Value, &Output, usize),
) {
    let world = World::new(layout);
    world.pod("web", &json!({}));
    let conf = world.conf("1.1.0", json!({}));
    let count = count(&world, &conf, calls);
    assert!(count > 20, "the plugin makes {count} calls");
    for step in steps(count) {
        let container = Container::new(&format!("c{step}"), Some("web"));
        let filters = [format!("trace={calls}"), format!("inject={calls}:{fault}:when={step}")];
        let output = traced(&world, &container, &conf, "/dev/null", &filters);
        verify(&world, &container, &conf, &output, step);
    }
    println!("{layout:?}, {fault}: {} of {count} steps", steps(count).count());
}

#[test]
fn killed_at_any_step_a_del_cleans_up() {
    const NAME: &str = "fault::killed_at_any_step_a_del_cleans_up";
    if !can_trace(NAME) {
        return;
    }
    isolated(NAME, || {
        for layout in [Layout::OneProgram, Layout::TwoPrograms] {
            each(layout, CALLS, "signal=KILL", |world, container, conf, output, step| {
                // The runtime sees no result and detaches, as the specification says.
                world.del(container, conf);
                assert_eq!(world.leftovers(), [""; 0], "killed at step {step}: {output:?}");
            });
        }
    });
}

#[test]
fn refused_at_any_step_an_add_that_fails_leaves_nothing() {
    const NAME: &str = "fault::refused_at_any_step_an_add_that_fails_leaves_nothing";
    if !can_trace(NAME) {
        return;
    }
    isolated(NAME, || {
        for layout in [Layout::OneProgram, Layout::TwoPrograms] {
            each(layout, REFUSED, "error=EIO", |world, container, conf, output, step| {
                if output.status.success() {
                    // The call did not matter, or was tried again: then the attachment must be whole.
                    let mut conf = conf.clone();
                    conf["prevResult"] = answer(output).unwrap();
                    world.run("CHECK", container, &conf).unwrap_or_else(|e| panic!("step {step}: {e}"));
                    world.del(container, &conf);
                } else {
                    // What could not be undone at once is noted, and the next call does it.
                    world.run("STATUS", container, conf).unwrap_or_else(|e| panic!("step {step}: {e}"));
                }
                let log = world.log();
                let last: Vec<&str> = log.lines().rev().take(12).collect();
                assert_eq!(world.leftovers(), [""; 0], "refused at step {step}: {output:?}\n{last:#?}");
            });
        }
    });
}
