//! What a child process does between fork and exec.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes `command` run inside the network namespace that `namespace` refers to.
///
/// ```no_run
/// # use std::process::Command;
/// let namespace = std::fs::File::open("/run/netns/node1")?.into();
/// let mut command = Command::new("calico-node");
/// calico_dataplane::sys::process::run_in_network_namespace(&mut command, namespace);
/// command.spawn()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn run_in_network_namespace(command: &mut Command, namespace: OwnedFd) {
    // SAFETY: between fork and exec only async-signal-safe work is allowed. The closure makes one system call,
    // without allocation or locks, and owns the descriptor, which is therefore open in the child.
    unsafe {
        command.pre_exec(move || {
            rustix::thread::move_into_link_name_space(
                namespace.as_fd(),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .map_err(io::Error::from)
        });
    }
}

/// Makes `command` die with the thread that spawned it (`PR_SET_PDEATHSIG`), so that a killed parent leaves no
/// children behind. Spawn it from a thread that lives as long as the child should.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: as above; prctl is one system call.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                .map_err(io::Error::from)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_runs_in_the_given_namespace() {
        let made = std::thread::spawn(|| {
            super::super::unshare::network()?;
            std::fs::File::open("/proc/thread-self/ns/net")
        });
        let namespace = match made.join().unwrap() {
            Ok(file) => file,
            Err(error) => {
                println!("skipped: the_child_runs_in_the_given_namespace: {error}");
                return;
            }
        };
        let mut command = Command::new("cat");
        command.arg("/proc/self/net/dev");
        die_with_parent(&mut command);
        run_in_network_namespace(&mut command, namespace.into());
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let names: Vec<&str> =
            text.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
        // Modules such as ipip add their default device to every namespace, so look for what must be absent.
        assert!(names.contains(&"lo"), "{text}");
        assert!(!names.iter().any(|name| name.starts_with("eth")), "{text}");
    }
}
