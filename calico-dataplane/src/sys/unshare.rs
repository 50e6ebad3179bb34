//! Leaving the namespaces of the parent.

use std::io;

use rustix::thread::UnshareFlags;

/// Moves the calling thread into a new, empty network namespace.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` in the current user namespace.
pub fn network() -> io::Result<()> {
    unshare(UnshareFlags::NEWNET)
}

/// Moves the calling thread into a copy of its mount namespace.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `EINVAL` never.
pub fn mount() -> io::Result<()> {
    // Each thread that leaves the shared mount namespace also needs its own idea of root and working
    // directory; the kernel demands CLONE_FS and sets it itself for CLONE_NEWNS.
    unshare(UnshareFlags::NEWNS)
}

/// Moves the whole process into a new user namespace in which the caller is root, with network and mount
/// namespaces of its own. Works for an ordinary user where the kernel permits it.
///
/// # Errors
/// `EINVAL` when the process has more than one thread; `EPERM` or `ENOSPC` where unprivileged user namespaces are
/// forbidden; whatever the writes of the identity maps said.
pub fn user_network_and_mount() -> io::Result<()> {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWNS)?;
    // An unprivileged process may map its own group only after it gave up setgroups(2) (user_namespaces(7)).
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Puts the children that the calling thread makes from now on into a new process-ID namespace. The first of them
/// is process 1 in there: when it ends, the kernel kills all others.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `ENOSPC` at the limit of nested namespaces.
pub fn process_ids() -> io::Result<()> {
    unshare(UnshareFlags::NEWPID)
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: rustix requires that no thread comes to see a descriptor of an unshared table. Descriptor tables
    // stay shared: no caller in this module passes FILES, and none of NEWUSER, NEWNET, NEWNS, NEWPID implies it.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network_id() -> std::path::PathBuf {
        std::fs::read_link("/proc/thread-self/ns/net").unwrap()
    }

    #[test]
    fn only_the_calling_thread_moves() {
        let before = network_id();
        let inside = std::thread::spawn(|| network().map(|()| network_id())).join().unwrap();
        match inside {
            Ok(inside) => assert_ne!(inside, before),
            Err(error) => println!("skipped: only_the_calling_thread_moves: {error}"),
        }
        assert_eq!(network_id(), before);
    }

    #[test]
    fn a_process_with_threads_cannot_leave_its_user_namespace() {
        // The test harness itself has several threads, so the call must fail and change nothing.
        let before = network_id();
        std::thread::spawn(|| assert!(user_network_and_mount().is_err())).join().unwrap();
        assert_eq!(network_id(), before);
    }
}
