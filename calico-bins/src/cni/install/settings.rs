//! What to install, and where.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Why an installation stopped.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file cannot be read, written or removed.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// There is no directory for the plugins.
    #[error("none of {} can be written; mount the node's /opt/cni/bin there", list(.directories))]
    NoDirectory {
        /// The directories that were tried.
        directories: Vec<PathBuf>,
    },
    /// The plugins to install are not where they should be.
    #[error("{path} does not exist; it must lie beside this program")]
    NoPlugin {
        /// The file that is missing.
        path: PathBuf,
    },
    /// The network configuration is not JSON.
    #[error(
        "the network configuration from {origin} is not JSON after its placeholders were filled: {reason}"
    )]
    Config {
        /// The variable or file that it came from.
        origin: String,
        /// Place and reason.
        reason: String,
    },
    /// A setting that is not one of its values.
    #[error("{name}: {value:?} is not {expected}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// The list of installed files cannot be read.
    #[error("{path} is not a list of installed files: {reason}; remove it to install afresh")]
    Manifest {
        /// The list.
        path: PathBuf,
        /// Place and reason.
        reason: String,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl InstallError {
    /// For `map_err` of a file operation.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { action, path, error }
    }
}

/// A file that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Written for the first time, or anew.
    Written(PathBuf),
    /// Removed.
    Removed(PathBuf),
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Written(path) => write!(f, "wrote {}", path.display()),
            Self::Removed(path) => write!(f, "removed {}", path.display()),
        }
    }
}

/// Everything that the installer needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the node's file system is mounted.
    pub root: PathBuf,
    /// The plugin's program; it is both plugins.
    pub plugin: PathBuf,
    /// A directory with further plugins.
    pub source: Option<PathBuf>,
    /// Directory of network configurations, as the node sees it.
    pub cni_net_dir: PathBuf,
    /// Name of the network configuration.
    pub conf_name: String,
    /// Name that it had before.
    pub old_conf_name: String,
    /// Directory with `etcd-ca`, `etcd-cert` and `etcd-key`.
    pub tls_assets: PathBuf,
    /// Programs that are not installed.
    pub skip_binaries: Vec<String>,
    /// Replace programs that are there already.
    pub update_binaries: bool,
    /// Stay and renew credentials.
    pub sleep: bool,
    /// Directory with the pod's own `token` and `ca.crt`.
    pub service_account: PathBuf,
    /// All variables that the template of the network configuration knows.
    pub variables: BTreeMap<&'static str, String>,
    /// The network configuration that was given, and where it came from.
    pub given_config: Option<(String, String)>,
}

impl Settings {
    /// Reads the settings through `lookup`. `own` is this program's file: the plugins lie beside it.
    ///
    /// # Errors
    /// [`InstallError::Setting`], and [`InstallError::Io`] for a configuration file that cannot be read.
    pub fn read(
        lookup: impl Fn(&str) -> Option<String>,
        root: &Path,
        own: &Path,
        source: Option<PathBuf>,
    ) -> Result<Self, InstallError> {
        let text = |name: &str, default: &str| {
            lookup(name).filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned())
        };
        let flag = |name: &'static str, default: bool| match text(name, "").to_ascii_lowercase().as_str() {
            "" => Ok(default),
            "true" | "1" | "yes" => Ok(true),
            "false" | "0" | "no" => Ok(false),
            other => Err(InstallError::Setting { name, value: other.to_owned(), expected: "true or false" }),
        };
        let conf_name = file_name("CNI_CONF_NAME", text("CNI_CONF_NAME", "10-calico.conflist"))?;
        let old_conf_name = file_name("CNI_OLD_CONF_NAME", text("CNI_OLD_CONF_NAME", &conf_name))?;
        let given_config = match (text("CNI_NETWORK_CONFIG_FILE", ""), text("CNI_NETWORK_CONFIG", "")) {
            (file, _) if !file.is_empty() => {
                let read = std::fs::read_to_string(&file);
                Some((read.map_err(InstallError::io("read", Path::new(&file)))?, file))
            }
            (_, config) if !config.is_empty() => Some((config, "CNI_NETWORK_CONFIG".to_owned())),
            _ => None,
        };
        let variables = [
            ("LOG_LEVEL", "info"),
            ("LOG_FILE_PATH", "/var/log/calico/cni/cni.log"),
            ("LOG_FILE_MAX_SIZE", "100"),
            ("LOG_FILE_MAX_AGE", "30"),
            ("LOG_FILE_MAX_COUNT", "10"),
            ("DATASTORE_TYPE", "sqlite"),
            ("CALICO_DATASTORE_PATH", "/var/lib/calico/datastore/calico.db"),
            ("CALICO_NODE_SOCKET", crate::node::protocol::DEFAULT_SOCKET),
            ("KUBERNETES_NODE_NAME", ""),
            ("CNI_MTU", "0"),
            ("KUBERNETES_SERVICE_PROTOCOL", "https"),
            ("KUBERNETES_SERVICE_HOST", ""),
            ("KUBERNETES_SERVICE_PORT", "443"),
            ("SKIP_TLS_VERIFY", "false"),
            ("CALICO_API_GROUP", "crd.projectcalico.org/v1"),
            ("ETCD_ENDPOINTS", ""),
            ("ETCD_DISCOVERY_SRV", ""),
            ("REQUIRE_MTU_FILE", "false"),
        ];
        let variables = variables.map(|(name, default)| (name, text(name, default)));
        let skip = text("SKIP_CNI_BINARIES", "");
        Ok(Self {
            root: root.to_owned(),
            plugin: own.with_file_name("calico"),
            source,
            cni_net_dir: text("CNI_NET_DIR", "/etc/cni/net.d").into(),
            conf_name,
            old_conf_name,
            tls_assets: text("TLS_ASSETS_DIR", "/calico-secrets").into(),
            skip_binaries: skip.split(',').map(|name| name.trim().to_owned()).collect(),
            update_binaries: flag("UPDATE_CNI_BINARIES", true)?,
            sleep: flag("SLEEP", false)?,
            service_account: text("SERVICE_ACCOUNT_DIR", "/var/run/secrets/kubernetes.io/serviceaccount")
                .into(),
            variables: variables.into_iter().collect(),
            given_config,
        })
    }

    /// A variable of the template.
    pub(super) fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    /// A path of the node, seen from here.
    pub(super) fn on_node(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Where programs may go; all that can be written get them.
    pub fn bin_dirs(&self) -> Vec<PathBuf> {
        vec![self.root.join("opt/cni/bin"), self.root.join("secondary-bin-dir")]
    }

    /// The directory of network configurations, seen from here. In a container it is always mounted at its usual
    /// place, wherever the node has it.
    pub fn net_dir(&self) -> PathBuf {
        let usual = self.root.join("etc/cni/net.d");
        if self.root == Path::new("/") || !usual.is_dir() { self.on_node(&self.cni_net_dir) } else { usual }
    }

    /// The network configuration.
    pub fn conf_path(&self) -> PathBuf {
        self.net_dir().join(&self.conf_name)
    }

    /// The credentials for the Kubernetes API.
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.net_dir().join("calico-kubeconfig")
    }

    /// The credentials for etcd.
    pub fn tls_dir(&self) -> PathBuf {
        self.net_dir().join("calico-tls")
    }

    /// The list of installed files. Runtimes read files of certain endings as networks; this has none of them.
    pub fn manifest_path(&self) -> PathBuf {
        self.net_dir().join("calico-installed-files")
    }

    /// What the plugins make while they work and nobody needs when they are gone. The datastore is not theirs.
    pub(super) fn left_by_plugins(&self) -> Vec<PathBuf> {
        let log = Path::new(self.variable("LOG_FILE_PATH"));
        // The directory of the usual log file is the plugins' own; another may hold other people's files.
        let log = if log.starts_with("/var/log/calico/cni") { Path::new("/var/log/calico/cni") } else { log };
        [log, Path::new(crate::cni::journal::DIRECTORY), Path::new("/var/run/calico/ipam.lock")]
            .map(|path| self.on_node(path))
            .to_vec()
    }
}

fn file_name(name: &'static str, value: String) -> Result<String, InstallError> {
    if value.contains('/') || value.starts_with('.') {
        return Err(InstallError::Setting {
            name,
            value,
            expected: "the name of a file, without a directory",
        });
    }
    Ok(value)
}
