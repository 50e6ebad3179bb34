//! The walls around the lab: namespaces that die with it, so that nothing is left behind however it ends.
//!
//! The front process makes user (when not root), mount, network and process-ID namespaces and starts itself
//! again inside. That inner process is process 1 in there: when it ends, the kernel kills every program of
//! the cluster, and with the last of them the mounts, interfaces and files of the lab disappear.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use calico_dataplane::sys::{process, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

/// Where the lab's files are, inside its own mount namespace.
pub const ROOT: &str = "/run/calico-lab";

/// Why the lab cannot be built here.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel or its administrator forbids namespaces to ordinary users.
    #[error(
        "this kernel does not let an ordinary user make namespaces ({0}); run it as root, for example with sudo, \
         or allow them: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000 \
         kernel.apparmor_restrict_unprivileged_userns=0"
    )]
    Forbidden(io::Error),
    /// Root without the capability, for example inside a container.
    #[error("this root may not make namespaces ({0}); give the container CAP_SYS_ADMIN and CAP_NET_ADMIN")]
    Powerless(io::Error),
    /// Something else.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's reason.
        error: io::Error,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> SandboxError {
    let what = what.into();
    move |error| SandboxError::Io { what, error }
}

/// Leaves the namespaces of the caller. The process must have one thread. Only its children are inside the
/// new process-ID namespace.
pub fn leave() -> Result<(), SandboxError> {
    if rustix::process::geteuid().is_root() {
        unshare::mount().and_then(|()| unshare::network()).map_err(SandboxError::Powerless)?;
    } else {
        unshare::user_network_and_mount().map_err(SandboxError::Forbidden)?;
    }
    unshare::process_ids().map_err(io_error("cannot make a process-ID namespace"))
}

/// This program's file, found before any mount could hide it.
pub fn own_program() -> Result<PathBuf, SandboxError> {
    std::env::current_exe().map_err(io_error("cannot tell the path of this program"))
}

/// Starts this program again as process 1 of the lab and waits for it.
pub fn run_inside(arguments: &[String], dies_with_us: bool) -> Result<ExitCode, SandboxError> {
    let mut command = Command::new(own_program()?);
    command.arg("__inside").args(arguments);
    if dies_with_us {
        process::die_with_parent(&mut command);
    }
    let mut child = command.spawn().map_err(io_error("cannot start the inside of the lab"))?;
    let status = child.wait().map_err(io_error("lost the inside of the lab"))?;
    Ok(match status.code() {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => ExitCode::from(130),
    })
}

/// Starts this program again as process 1 of a lab that outlives us; returns its process ID.
pub fn leave_running(arguments: &[String], output: &Path) -> Result<u32, SandboxError> {
    let log =
        std::fs::File::create(output).map_err(io_error(format!("cannot write {}", output.display())))?;
    let errors = log.try_clone().map_err(io_error("cannot duplicate a descriptor"))?;
    let child = Command::new(own_program()?)
        .arg("__inside")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(io_error("cannot start the inside of the lab"))?;
    Ok(child.id())
}

/// Inside: mounts of our own, a place for files that vanishes with us, and the programs by their names.
pub fn furnish() -> Result<(), SandboxError> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(io::Error::from)
        .map_err(io_error("cannot make the mounts private"))?;
    let program = own_program()?;
    mount("calico-lab", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755,size=512m")
        .map_err(io::Error::from)
        .map_err(io_error("cannot mount a tmpfs on /run"))?;
    for dir in ["bin", "datastore", "netns", "nodes"] {
        let dir = Path::new(ROOT).join(dir);
        std::fs::create_dir_all(&dir).map_err(io_error(format!("cannot make {}", dir.display())))?;
    }
    for name in PROGRAMS {
        let link = Path::new(ROOT).join("bin").join(name);
        std::os::unix::fs::symlink(&program, &link)
            .map_err(io_error(format!("cannot link {}", link.display())))?;
    }
    Ok(())
}

/// The programs of a node. `calico-lab` is all of them: which one is told by the name it is started under.
pub const PROGRAMS: [&str; 4] = ["calico", "calico-ipam", "calico-node", "calicoctl"];

/// The program `name` of the lab.
pub fn program(name: &str) -> PathBuf {
    Path::new(ROOT).join("bin").join(name)
}

/// What `exec` and `down` need to know of a lab that was kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Process 1 of the lab, as seen from outside.
    pub pid: u32,
    /// When that process started, in clock ticks since boot: guards against a reused process ID.
    pub started: u64,
}

impl Kept {
    /// The note about the lab of this user.
    pub fn file() -> PathBuf {
        std::env::temp_dir().join(format!("calico-lab-{}.json", rustix::process::geteuid().as_raw()))
    }

    /// Notes in `file` that `pid` is process 1 of a lab.
    pub fn write(file: &Path, pid: u32) -> Result<(), SandboxError> {
        let kept = Self { pid, started: start_time(pid).unwrap_or_default() };
        let text = serde_json::to_string(&kept).unwrap_or_default();
        std::fs::write(file, text).map_err(io_error(format!("cannot write {}", file.display())))
    }

    /// The lab that was kept and still runs, if any.
    pub fn read() -> Option<Self> {
        let kept: Self = serde_json::from_slice(&std::fs::read(Self::file()).ok()?).ok()?;
        (start_time(kept.pid) == Some(kept.started)).then_some(kept)
    }

    /// Enters the namespaces of the lab. The process must have one thread; only its children are in the
    /// process-ID namespace.
    pub fn enter(&self) -> Result<(), SandboxError> {
        // The user namespace comes first: it gives the right to enter the others. Root enters without.
        let mut kinds = vec![
            ("mnt", LinkNameSpaceType::Mount),
            ("net", LinkNameSpaceType::Network),
            ("pid", LinkNameSpaceType::ProcessID),
        ];
        if !rustix::process::geteuid().is_root() {
            kinds.insert(0, ("user", LinkNameSpaceType::User));
        }
        // All are opened before the first is entered: the new mount namespace has another /proc.
        let mut files = Vec::new();
        for (name, kind) in kinds {
            let path = format!("/proc/{}/ns/{name}", self.pid);
            let file = std::fs::File::open(&path).map_err(io_error(format!("cannot open {path}")))?;
            files.push((path, file, kind));
        }
        for (path, file, kind) in files {
            move_into_link_name_space(file.as_fd(), Some(kind))
                .map_err(io::Error::from)
                .map_err(io_error(format!("cannot enter {path}")))?;
        }
        Ok(())
    }

    /// Ends the lab.
    pub fn end(&self) -> Result<(), SandboxError> {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)
                .map_err(io::Error::from)
                .map_err(io_error(format!("cannot end process {}", self.pid)))?;
        }
        let _ = std::fs::remove_file(Self::file());
        Ok(())
    }
}

/// Field 22 of /proc/<pid>/stat. The command name before it may hold blanks and parentheses.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_of_this_process_is_known_and_stable() {
        let pid = std::process::id();
        assert!(start_time(pid).is_some());
        assert_eq!(start_time(pid), start_time(pid));
        assert_eq!(start_time(u32::MAX), None);
    }
}
