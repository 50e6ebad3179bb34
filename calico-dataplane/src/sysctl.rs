//! Kernel parameters under `/proc/sys`.
//!
//! Parameters below `net` belong to the network namespace of the thread that opens the file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a parameter could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("sysctl {name}: {action}: {source}")]
pub struct SysctlError {
    /// Parameter in the form of sysctl(8) with slashes, `net/ipv4/conf/cali1234/proxy_arp`.
    pub name: String,
    /// `read`, or `write 1`.
    pub action: String,
    /// What the kernel said.
    pub source: io::Error,
}

impl SysctlError {
    /// True when the parameter does not exist: the interface is gone, or the kernel lacks the feature.
    pub fn is_absent(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::NotFound)
    }
}

/// Reads and writes kernel parameters.
///
/// ```
/// use calico_dataplane::sysctl::Sysctl;
/// let forwarding = Sysctl::new().read("net/ipv4/ip_forward")?;
/// assert!(forwarding == "0" || forwarding == "1");
/// # Ok::<(), calico_dataplane::sysctl::SysctlError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sysctl {
    root: PathBuf,
}

impl Default for Sysctl {
    fn default() -> Self {
        Self::new()
    }
}

impl Sysctl {
    /// The parameters of this machine.
    pub fn new() -> Self {
        Self::at("/proc/sys")
    }

    /// The parameters below another root, for tests and for agents in containers.
    pub fn at(root: impl AsRef<Path>) -> Self {
        Self { root: root.as_ref().to_owned() }
    }

    /// The value, without surrounding blanks.
    ///
    /// # Errors
    /// [`SysctlError`].
    pub fn read(&self, name: &str) -> Result<String, SysctlError> {
        match fs::read_to_string(self.root.join(name)) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(source) => Err(SysctlError { name: name.to_owned(), action: "read".to_owned(), source }),
        }
    }

    /// Sets the value. Some parameters have side effects even when the same value is written (`forwarding` resets
    /// others and flushes the route cache), so an equal value is not written.
    ///
    /// # Errors
    /// [`SysctlError`].
    pub fn write(&self, name: &str, value: &str) -> Result<(), SysctlError> {
        if self.read(name).is_ok_and(|current| current == value) {
            return Ok(());
        }
        fs::write(self.root.join(name), value).map_err(|source| SysctlError {
            name: name.to_owned(),
            action: format!("write {value}"),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_trimmed_and_written_only_when_different() {
        let root = std::env::temp_dir().join(format!("sysctl-{}", std::process::id()));
        fs::create_dir_all(root.join("net")).unwrap();
        fs::write(root.join("net/x"), "1\n").unwrap();
        let sysctl = Sysctl::at(&root);
        assert_eq!(sysctl.read("net/x").unwrap(), "1");
        sysctl.write("net/x", "1").unwrap();
        assert_eq!(fs::read_to_string(root.join("net/x")).unwrap(), "1\n", "not rewritten");
        sysctl.write("net/x", "0").unwrap();
        assert_eq!(sysctl.read("net/x").unwrap(), "0");
        let error = sysctl.read("net/ipv4/conf/cali1/proxy_arp").unwrap_err();
        assert!(error.is_absent());
        assert!(error.to_string().starts_with("sysctl net/ipv4/conf/cali1/proxy_arp: read: "), "{error}");
        fs::remove_dir_all(root).unwrap();
    }
}
