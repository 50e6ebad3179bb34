//! Network namespaces: open, create, pin under a name, run code inside.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FsWord, PROC_SUPER_MAGIC};
use rustix::mount::UnmountFlags;
use rustix::thread::LinkNameSpaceType;

use crate::sys::unshare;

const NSFS_MAGIC: FsWord = 0x6e73_6673;

/// What can go wrong with a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// A file or mount operation failed.
    #[error("network namespace {path}: {action}: {source}")]
    File {
        /// Path of the namespace.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The path exists but is not a namespace.
    #[error("{path} is not a network namespace; was the container stopped meanwhile?")]
    NotANamespace {
        /// The path.
        path: PathBuf,
    },
    /// Creating a namespace failed.
    #[error("creating a network namespace: {source}; it takes CAP_SYS_ADMIN (root, or a user namespace)")]
    Create {
        /// Why it failed.
        source: io::Error,
    },
    /// Entering it failed.
    #[error("entering network namespace {name}: {source}")]
    Enter {
        /// Path or description.
        name: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The closure that ran inside panicked.
    #[error("code running inside network namespace {name} panicked")]
    Panicked {
        /// Path or description.
        name: String,
    },
}

impl NamespaceError {
    /// True when the namespace is gone, which is fine for whoever wanted to clean it up.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::NotANamespace { .. } => true,
            _ => false,
        }
    }
}

/// A reference to a network namespace; it lives as long as anyone holds one.
///
/// ```no_run
/// use calico_dataplane::netns::NetNs;
/// let pod = NetNs::open("/run/netns/pod1")?;
/// let routes = pod.run(|| std::fs::read_to_string("/proc/net/route"))?;
/// # Ok::<(), calico_dataplane::netns::NamespaceError>(())
/// ```
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
    name: String,
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl NetNs {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// [`NamespaceError::File`] when `/proc` is not mounted.
    pub fn current() -> Result<Self, NamespaceError> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The namespace behind a path: a pinned one or `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// [`NamespaceError::File`], [`NamespaceError::NotANamespace`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NamespaceError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| NamespaceError::File {
            path: path.to_owned(),
            action: "open",
            source,
        })?;
        // The mount point of a namespace that was unmounted is an ordinary empty file.
        let kind = rustix::fs::fstatfs(&file).map(|stat| stat.f_type).unwrap_or(NSFS_MAGIC);
        if kind != NSFS_MAGIC && kind != PROC_SUPER_MAGIC {
            return Err(NamespaceError::NotANamespace { path: path.to_owned() });
        }
        Ok(Self { fd: file.into(), name: path.display().to_string() })
    }

    /// A new, empty namespace that nothing pins: it ends with the last reference or process.
    ///
    /// # Errors
    /// [`NamespaceError::Create`].
    pub fn create() -> Result<Self, NamespaceError> {
        let made = std::thread::spawn(|| {
            unshare::network().map_err(|source| NamespaceError::Create { source })?;
            Self::current()
        });
        let mut namespace =
            made.join().map_err(|_| NamespaceError::Panicked { name: "new".to_owned() })??;
        namespace.name = "anonymous".to_owned();
        Ok(namespace)
    }

    /// Creates a namespace and pins it at `directory/name`, as `ip netns add` does, so that it outlives this process.
    ///
    /// # Errors
    /// [`NamespaceError::Create`]; [`NamespaceError::File`], among them that the name is taken.
    pub fn create_pinned(directory: &Path, name: &str) -> Result<Self, NamespaceError> {
        let path = directory.join(name);
        let failed = |action| {
            move |source: io::Error| NamespaceError::File { path: directory.join(name), action, source }
        };
        let namespace = Self::create()?;
        fs::create_dir_all(directory).map_err(failed("create the directory"))?;
        File::options().write(true).create_new(true).open(&path).map_err(failed("create the file"))?;
        let source = format!("/proc/self/fd/{}", namespace.fd.as_raw_fd());
        if let Err(errno) = rustix::mount::mount_bind(source.as_str(), &path) {
            let _ = fs::remove_file(&path);
            return Err(failed("bind mount")(errno.into()));
        }
        Ok(Self { fd: namespace.fd, name: path.display().to_string() })
    }

    /// Unpins `directory/name`. False when it was not there.
    ///
    /// # Errors
    /// [`NamespaceError::File`].
    pub fn delete_pinned(directory: &Path, name: &str) -> Result<bool, NamespaceError> {
        let path = directory.join(name);
        let failed = |action| {
            let path = path.clone();
            move |source: io::Error| NamespaceError::File { path, action, source }
        };
        match rustix::mount::unmount(&path, UnmountFlags::DETACH) {
            // EINVAL: the file is there but nothing is mounted on it (after a reboot, or a crash half-way).
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(rustix::io::Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(failed("unmount")(errno.into())),
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true).map_err(failed("remove the file")),
        }
    }

    /// The names pinned in a directory, sorted; none when there is no such directory.
    ///
    /// # Errors
    /// [`NamespaceError::File`].
    pub fn list_pinned(directory: &Path) -> Result<Vec<String>, NamespaceError> {
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|source| NamespaceError::File {
                path: directory.to_owned(),
                action: "list",
                source,
            })?,
        };
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// Path or description, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Another reference to the same namespace.
    ///
    /// # Errors
    /// [`NamespaceError::File`] when the process has no descriptors left.
    pub fn try_clone(&self) -> Result<Self, NamespaceError> {
        let fd = self.fd.try_clone().map_err(|source| NamespaceError::File {
            path: PathBuf::from(&self.name),
            action: "duplicate the descriptor",
            source,
        })?;
        Ok(Self { fd, name: self.name.clone() })
    }

    /// True when both refer to the same namespace.
    pub fn is_same(&self, other: &Self) -> bool {
        let identity = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino)).ok();
        identity(&self.fd).is_some() && identity(&self.fd) == identity(&other.fd)
    }

    /// Moves the calling thread into it, for good. Meant for threads and processes that live inside; to look in and
    /// come back use [`Self::run`].
    ///
    /// # Errors
    /// [`NamespaceError::Enter`].
    pub fn enter(&self) -> Result<(), NamespaceError> {
        rustix::thread::move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| NamespaceError::Enter { name: self.name.clone(), source: errno.into() })
    }

    /// Runs `work` inside on a thread of its own, so that no thread of ours is ever left in the wrong namespace.
    /// Sockets opened by `work` stay in the namespace and can be taken out.
    ///
    /// # Errors
    /// [`NamespaceError::Enter`], [`NamespaceError::Panicked`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| self.enter().map(|()| work()))
                .join()
                .map_err(|_| NamespaceError::Panicked { name: self.name.clone() })?
        })
    }
}
