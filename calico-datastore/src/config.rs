//! Which datastore to use: settings from the environment or from a `CalicoAPIConfig` file.
//!
//! The names are Calico's. `sqlite`, the embedded store, is this project's addition and the default when nothing
//! points at etcd or Kubernetes.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::error::StoreError;
use crate::yaml;

/// File that programs read when nobody names one.
pub const DEFAULT_FILE: &str = "/etc/calico/calicoctl.cfg";

/// Where the data is and how to get at it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum DatastoreConfig {
    /// The embedded store of one machine.
    Sqlite {
        /// Database file.
        path: PathBuf,
    },
    /// An etcd v3 cluster.
    Etcd(EtcdConfig),
    /// The Kubernetes API.
    Kubernetes(KubernetesConfig),
}

/// How to reach etcd.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct EtcdConfig {
    /// `http://host:port` or `https://host:port`, in the order to try.
    pub endpoints: Vec<String>,
    /// Domain whose SRV records name the endpoints; excludes `endpoints`.
    pub discovery_srv: Option<String>,
    /// User; used only together with `password`.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Private key of the client.
    pub key: Option<Pem>,
    /// Certificate of the client.
    pub cert: Option<Pem>,
    /// Authorities that may sign the server's certificate.
    pub ca: Option<Pem>,
}

/// A PEM text or the file that holds it.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// Path.
    File(PathBuf),
    /// Text.
    Inline(String),
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Inline(_) => f.write_str("Inline(..)"),
        }
    }
}

impl std::fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the password: settings are logged.
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("discovery_srv", &self.discovery_srv)
            .field("username", &self.username)
            .field("tls", &(self.ca.is_some(), self.cert.is_some()))
            .finish_non_exhaustive()
    }
}

impl Pem {
    /// The text.
    ///
    /// # Errors
    /// [`StoreError::Config`] naming the setting when the file cannot be read.
    pub fn read(&self, name: &str) -> Result<String, StoreError> {
        match self {
            Self::Inline(text) => Ok(text.clone()),
            Self::File(path) => std::fs::read_to_string(path).map_err(|error| StoreError::Config {
                name: name.to_owned(),
                reason: format!("cannot read {}: {error}", path.display()),
            }),
        }
    }
}

/// How to reach the Kubernetes API.
#[derive(Clone, PartialEq, Default)]
pub struct KubernetesConfig {
    /// `:`-separated list of kubeconfig files.
    pub kubeconfig: Option<String>,
    /// Text of a kubeconfig; wins over `kubeconfig`.
    pub kubeconfig_inline: Option<String>,
    /// Server URL, overrides the kubeconfig.
    pub api_endpoint: Option<String>,
    /// Client key file.
    pub key_file: Option<PathBuf>,
    /// Client certificate file.
    pub cert_file: Option<PathBuf>,
    /// Authority file.
    pub ca_file: Option<PathBuf>,
    /// Bearer token.
    pub api_token: Option<String>,
    /// Do not verify the server.
    pub insecure_skip_tls_verify: bool,
    /// Do not watch nodes.
    pub disable_node_poll: bool,
    /// Derive blocks from the nodes' podCIDRs.
    pub use_pod_cidr: bool,
    /// Requests per second; 0 is the client's default (5).
    pub client_qps: f64,
    /// Burst of requests; 0 is the client's default (100).
    pub client_burst: u32,
    /// Context of the kubeconfig.
    pub current_context: Option<String>,
    /// `projectcalico.org/v3` or `crd.projectcalico.org/v1`; discovered when unset.
    pub api_group: Option<String>,
}

impl std::fmt::Debug for KubernetesConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubernetesConfig")
            .field("kubeconfig", &self.kubeconfig)
            .field("api_endpoint", &self.api_endpoint)
            .field("current_context", &self.current_context)
            .field("api_group", &self.api_group)
            .finish_non_exhaustive()
    }
}

/// The `spec` of a `CalicoAPIConfig`; the same struct is filled from the environment.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Spec {
    datastore_type: Option<String>,
    /// Ours: the file of the embedded store.
    sqlite_path: Option<String>,
    etcd_endpoints: Option<String>,
    etcd_discovery_srv: Option<String>,
    etcd_username: Option<String>,
    etcd_password: Option<String>,
    etcd_key_file: Option<String>,
    etcd_cert_file: Option<String>,
    #[serde(rename = "etcdCACertFile")]
    etcd_ca_cert_file: Option<String>,
    etcd_key: Option<String>,
    etcd_cert: Option<String>,
    #[serde(rename = "etcdCACert")]
    etcd_ca_cert: Option<String>,
    kubeconfig: Option<String>,
    kubeconfig_inline: Option<String>,
    #[serde(rename = "k8sAPIEndpoint")]
    k8s_api_endpoint: Option<String>,
    k8s_key_file: Option<String>,
    k8s_cert_file: Option<String>,
    #[serde(rename = "k8sCAFile")]
    k8s_ca_file: Option<String>,
    #[serde(rename = "k8sAPIToken")]
    k8s_api_token: Option<String>,
    #[serde(rename = "k8sInsecureSkipTLSVerify")]
    k8s_insecure_skip_tls_verify: bool,
    k8s_disable_node_poll: bool,
    #[serde(rename = "usePodCIDR")]
    use_pod_cidr: bool,
    #[serde(rename = "k8sClientQPS")]
    k8s_client_qps: f64,
    k8s_client_burst: u32,
    k8s_current_context: Option<String>,
    #[serde(rename = "calicoAPIGroup")]
    calico_api_group: Option<String>,
}

impl DatastoreConfig {
    /// The file if it is named or if the default file exists, otherwise the environment. With a file the
    /// environment is not read at all.
    ///
    /// # Errors
    /// [`StoreError::Config`] naming the setting.
    pub fn load(file: Option<&Path>) -> Result<Self, StoreError> {
        let default = Path::new(DEFAULT_FILE);
        match file {
            Some(path) => Self::from_file(path),
            None if default.is_file() => Self::from_file(default),
            None => Self::from_environment(|name| std::env::var(name).ok()),
        }
    }

    /// Reads a `CalicoAPIConfig` file.
    ///
    /// # Errors
    /// [`StoreError::Config`] when it cannot be read or holds unknown fields.
    pub fn from_file(path: &Path) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        let text = std::fs::read(path).map_err(|error| StoreError::Config {
            name: name.clone(),
            reason: format!("cannot be read: {error}"),
        })?;
        Self::from_text(&name, &text)
    }

    /// Reads the text of a `CalicoAPIConfig`. `name` is used in messages.
    ///
    /// ```
    /// use calico_datastore::config::DatastoreConfig;
    /// let config = DatastoreConfig::from_text("calicoctl.cfg", b"
    /// apiVersion: projectcalico.org/v3
    /// kind: CalicoAPIConfig
    /// metadata:
    /// spec:
    ///   etcdEndpoints: https://etcd1:2379,https://etcd2:2379
    /// ")?;
    /// assert!(matches!(config, DatastoreConfig::Etcd(etcd) if etcd.endpoints.len() == 2));
    /// # Ok::<(), calico_datastore::StoreError>(())
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Config`].
    pub fn from_text(name: &str, text: &[u8]) -> Result<Self, StoreError> {
        let wrong = |reason: String| StoreError::Config { name: name.to_owned(), reason };
        let documents = yaml::parse_bytes(text).map_err(|error| wrong(error.to_string()))?;
        let [document] = documents.as_slice() else {
            return Err(wrong(format!("one CalicoAPIConfig expected, found {} documents", documents.len())));
        };
        let Value::Object(fields) = &document.value else {
            return Err(wrong("a mapping with apiVersion, kind and spec is expected".to_owned()));
        };
        for (field, want) in [("apiVersion", "projectcalico.org/v3"), ("kind", "CalicoAPIConfig")] {
            let found = fields.get(field).and_then(Value::as_str).unwrap_or_default();
            if found != want {
                return Err(wrong(format!("{field} is {found:?}, must be {want:?}")));
            }
        }
        if let Some(unknown) =
            fields.keys().find(|field| !["apiVersion", "kind", "metadata", "spec"].contains(&field.as_str()))
        {
            return Err(wrong(format!("unknown field {unknown:?}")));
        }
        let spec = match fields.get("spec") {
            None | Some(Value::Null) => Spec::default(),
            Some(spec) => {
                serde_json::from_value(spec.clone()).map_err(|error| wrong(format!("spec: {error}")))?
            }
        };
        spec.resolve(None)
    }

    /// Reads the name of a place: etcd endpoints, a `CalicoAPIConfig` file (`.cfg`, `.yaml`, `.yml`, `.json`), or the
    /// file of an embedded store. User and TLS files of etcd come from the environment.
    ///
    /// ```
    /// use calico_datastore::config::DatastoreConfig;
    /// let config = DatastoreConfig::from_place("/tmp/lab/calico.db", |_| None)?;
    /// assert_eq!(config, DatastoreConfig::Sqlite { path: "/tmp/lab/calico.db".into() });
    /// let config = DatastoreConfig::from_place("http://10.0.0.1:2379", |_| None)?;
    /// assert!(matches!(config, DatastoreConfig::Etcd(etcd) if etcd.endpoints.len() == 1));
    /// # Ok::<(), calico_datastore::StoreError>(())
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Config`].
    pub fn from_place(place: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, StoreError> {
        if place.starts_with("http://") || place.starts_with("https://") {
            return Self::from_environment(|name| match name.strip_prefix("CALICO_").unwrap_or(name) {
                "DATASTORE_TYPE" => Some("etcdv3".to_owned()),
                "ETCD_ENDPOINTS" => Some(place.to_owned()),
                "ETCD_DISCOVERY_SRV" => None,
                _ => env(name),
            });
        }
        let path = Path::new(place);
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("cfg" | "yaml" | "yml" | "json") => Self::from_file(path),
            _ if place.is_empty() => Err(StoreError::Config {
                name: "datastore".to_owned(),
                reason: "a place is a file or http://host:port".to_owned(),
            }),
            _ => Ok(Self::Sqlite { path: path.to_owned() }),
        }
    }

    /// Reads environment variables: for each `X`, `CALICO_X` wins over `X`; an empty value counts as unset.
    ///
    /// ```
    /// use calico_datastore::config::DatastoreConfig;
    /// let env = |name: &str| match name {
    ///     "DATASTORE_TYPE" => Some("sqlite".to_owned()),
    ///     "CALICO_DATASTORE_PATH" => Some("/tmp/lab/calico.db".to_owned()),
    ///     _ => None,
    /// };
    /// let config = DatastoreConfig::from_environment(env)?;
    /// assert_eq!(config, DatastoreConfig::Sqlite { path: "/tmp/lab/calico.db".into() });
    /// # Ok::<(), calico_datastore::StoreError>(())
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Config`] naming the variable.
    pub fn from_environment(env: impl Fn(&str) -> Option<String>) -> Result<Self, StoreError> {
        let text = |name: &str| {
            env(&format!("CALICO_{name}"))
                .filter(|value| !value.is_empty())
                .or_else(|| env(name).filter(|value| !value.is_empty()))
        };
        let flag = |name: &str| match text(name) {
            None => Ok(false),
            Some(value) => parse_bool(&value).ok_or_else(|| StoreError::Config {
                name: name.to_owned(),
                reason: format!("{value:?} is neither true nor false"),
            }),
        };
        let spec = Spec {
            datastore_type: text("DATASTORE_TYPE"),
            sqlite_path: text("DATASTORE_PATH"),
            etcd_endpoints: text("ETCD_ENDPOINTS"),
            etcd_discovery_srv: text("ETCD_DISCOVERY_SRV"),
            etcd_username: text("ETCD_USERNAME"),
            etcd_password: text("ETCD_PASSWORD"),
            etcd_key_file: text("ETCD_KEY_FILE"),
            etcd_cert_file: text("ETCD_CERT_FILE"),
            etcd_ca_cert_file: text("ETCD_CA_CERT_FILE"),
            kubeconfig: text("KUBECONFIG"),
            k8s_api_endpoint: text("K8S_API_ENDPOINT"),
            k8s_key_file: text("K8S_KEY_FILE"),
            k8s_cert_file: text("K8S_CERT_FILE"),
            k8s_ca_file: text("K8S_CA_FILE"),
            // Only under the prefixed name, as in the reference.
            k8s_api_token: env("CALICO_K8SAPITOKEN").filter(|value| !value.is_empty()),
            k8s_insecure_skip_tls_verify: flag("K8S_INSECURE_SKIP_TLS_VERIFY")?,
            k8s_disable_node_poll: flag("K8S_DISABLE_NODE_POLL")?,
            use_pod_cidr: flag("USE_POD_CIDR")?,
            k8s_client_qps: number(&text, "K8S_CLIENT_QPS")?,
            k8s_client_burst: number(&text, "K8S_CLIENT_BURST")?,
            k8s_current_context: text("K8S_CURRENT_CONTEXT"),
            calico_api_group: text("CALICO_API_GROUP").or_else(|| text("API_GROUP")),
            ..Spec::default()
        };
        spec.resolve(text("HOME"))
    }
}

fn number<T: std::str::FromStr + Default>(
    text: &impl Fn(&str) -> Option<String>,
    name: &str,
) -> Result<T, StoreError> {
    match text(name) {
        None => Ok(T::default()),
        Some(value) => value.parse().map_err(|_| StoreError::Config {
            name: name.to_owned(),
            reason: format!("{value:?} is not a number"),
        }),
    }
}

/// The spellings Go's `strconv.ParseBool` takes.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Spec {
    fn resolve(mut self, home: Option<String>) -> Result<DatastoreConfig, StoreError> {
        let set = |field: &Option<String>| field.as_deref().is_some_and(|text| !text.is_empty());
        let kind = match self.datastore_type.as_deref().filter(|kind| !kind.is_empty()) {
            Some(kind) => kind.to_owned(),
            None if set(&self.etcd_endpoints) || set(&self.etcd_discovery_srv) => "etcdv3".to_owned(),
            None if set(&self.kubeconfig) || set(&self.kubeconfig_inline) || set(&self.k8s_api_endpoint) => {
                "kubernetes".to_owned()
            }
            None => "sqlite".to_owned(),
        };
        match kind.to_ascii_lowercase().as_str() {
            "sqlite" => {
                let path = self.sqlite_path.take().filter(|path| !path.is_empty());
                Ok(DatastoreConfig::Sqlite { path: path.unwrap_or_else(|| DEFAULT_SQLITE.to_owned()).into() })
            }
            "etcdv3" => Ok(DatastoreConfig::Etcd(self.etcd()?)),
            "kubernetes" => Ok(DatastoreConfig::Kubernetes(self.kubernetes(home))),
            _ => Err(StoreError::Config {
                name: "DATASTORE_TYPE".to_owned(),
                reason: format!("{kind:?} is unknown; use sqlite, etcdv3 or kubernetes"),
            }),
        }
    }

    fn etcd(self) -> Result<EtcdConfig, StoreError> {
        let wrong = |name: &str, reason: String| Err(StoreError::Config { name: name.to_owned(), reason });
        let filled = |field: Option<String>| field.filter(|text| !text.is_empty());
        let endpoints: Vec<String> = self
            .etcd_endpoints
            .as_deref()
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|endpoint| !endpoint.is_empty())
            .map(str::to_owned)
            .collect();
        for endpoint in &endpoints {
            let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
            if rest.is_none_or(str::is_empty) {
                return wrong(
                    "ETCD_ENDPOINTS",
                    format!("{endpoint:?} must be http://host:port or https://host:port"),
                );
            }
        }
        let discovery_srv = filled(self.etcd_discovery_srv);
        if endpoints.is_empty() && discovery_srv.is_none() {
            return wrong("ETCD_ENDPOINTS", "no etcd endpoint; set http://host:port[,…]".to_owned());
        }
        if !endpoints.is_empty() && discovery_srv.is_some() {
            return wrong("ETCD_DISCOVERY_SRV", "set either this or ETCD_ENDPOINTS, not both".to_owned());
        }
        let files = [&self.etcd_key_file, &self.etcd_cert_file, &self.etcd_ca_cert_file];
        let inline = [&self.etcd_key, &self.etcd_cert, &self.etcd_ca_cert];
        let any = |fields: [&Option<String>; 3]| {
            fields.into_iter().any(|f| f.as_deref().is_some_and(|t| !t.is_empty()))
        };
        if any(files) && any(inline) {
            return wrong("etcdKey", "TLS material is given inline and as files; use one of both".to_owned());
        }
        let pem = |file: Option<String>, text: Option<String>| {
            filled(text).map(Pem::Inline).or_else(|| filled(file).map(|path| Pem::File(path.into())))
        };
        let key = pem(self.etcd_key_file, self.etcd_key);
        let cert = pem(self.etcd_cert_file, self.etcd_cert);
        if key.is_some() != cert.is_some() {
            return wrong(
                "ETCD_KEY_FILE",
                "client key and client certificate belong together; one is missing".to_owned(),
            );
        }
        let (username, password) = match (filled(self.etcd_username), filled(self.etcd_password)) {
            (Some(username), Some(password)) => (Some(username), Some(password)),
            _ => (None, None),
        };
        Ok(EtcdConfig {
            endpoints,
            discovery_srv,
            username,
            password,
            key,
            cert,
            ca: pem(self.etcd_ca_cert_file, self.etcd_ca_cert),
        })
    }

    fn kubernetes(self, home: Option<String>) -> KubernetesConfig {
        let filled = |field: Option<String>| field.filter(|text| !text.is_empty());
        let path = |field: Option<String>| filled(field).map(PathBuf::from);
        let api_endpoint = filled(self.k8s_api_endpoint);
        let kubeconfig = filled(self.kubeconfig).or_else(|| {
            let file = Path::new(&home?).join(".kube/config");
            (api_endpoint.is_none() && file.is_file()).then(|| file.display().to_string())
        });
        KubernetesConfig {
            kubeconfig,
            kubeconfig_inline: filled(self.kubeconfig_inline),
            api_endpoint,
            key_file: path(self.k8s_key_file),
            cert_file: path(self.k8s_cert_file),
            ca_file: path(self.k8s_ca_file),
            api_token: filled(self.k8s_api_token),
            insecure_skip_tls_verify: self.k8s_insecure_skip_tls_verify,
            disable_node_poll: self.k8s_disable_node_poll,
            use_pod_cidr: self.use_pod_cidr,
            client_qps: self.k8s_client_qps,
            client_burst: self.k8s_client_burst,
            current_context: filled(self.k8s_current_context),
            api_group: filled(self.calico_api_group),
        }
    }
}

/// Same as [`crate::DEFAULT_PATH`], known without the SQLite backend too.
const DEFAULT_SQLITE: &str = "/var/lib/calico/datastore/calico.db";

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &'static [(&'static str, &'static str)]) -> Result<DatastoreConfig, StoreError> {
        DatastoreConfig::from_environment(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn defaults_follow_what_is_set() {
        assert_eq!(env(&[]).unwrap(), DatastoreConfig::Sqlite { path: DEFAULT_SQLITE.into() });
        assert!(matches!(env(&[("ETCD_ENDPOINTS", "http://a:1")]).unwrap(), DatastoreConfig::Etcd(_)));
        assert!(matches!(env(&[("KUBECONFIG", "/x")]).unwrap(), DatastoreConfig::Kubernetes(_)));
        let both = env(&[("ETCD_ENDPOINTS", "http://a:1"), ("DATASTORE_TYPE", "sqlite")]).unwrap();
        assert!(matches!(both, DatastoreConfig::Sqlite { .. }));
    }

    #[test]
    fn the_prefixed_variable_wins() {
        let config =
            env(&[("ETCD_ENDPOINTS", "http://a:1"), ("CALICO_ETCD_ENDPOINTS", "http://b:1, http://c:2")]);
        let DatastoreConfig::Etcd(etcd) = config.unwrap() else { panic!("not etcd") };
        assert_eq!(etcd.endpoints, ["http://b:1", "http://c:2"]);
    }

    #[test]
    fn mistakes_name_their_setting() {
        let name = |result: Result<DatastoreConfig, StoreError>| match result {
            Err(StoreError::Config { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(name(env(&[("DATASTORE_TYPE", "mysql")])), "DATASTORE_TYPE");
        assert_eq!(name(env(&[("DATASTORE_TYPE", "etcdv3")])), "ETCD_ENDPOINTS");
        assert_eq!(name(env(&[("ETCD_ENDPOINTS", "a:2379")])), "ETCD_ENDPOINTS");
        assert_eq!(
            name(env(&[("ETCD_ENDPOINTS", "http://a"), ("ETCD_DISCOVERY_SRV", "x")])),
            "ETCD_DISCOVERY_SRV"
        );
        assert_eq!(name(env(&[("ETCD_ENDPOINTS", "http://a"), ("ETCD_KEY_FILE", "k")])), "ETCD_KEY_FILE");
        assert_eq!(name(env(&[("USE_POD_CIDR", "maybe")])), "USE_POD_CIDR");
    }

    #[test]
    fn a_file_is_strict() {
        let head = "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\n";
        let read = |rest: &str| DatastoreConfig::from_text("f", format!("{head}{rest}").as_bytes());
        assert!(read("spec: {etcdEndpoint: x}\n").unwrap_err().to_string().contains("etcdEndpoint"));
        assert!(read("specs: {}\n").unwrap_err().to_string().contains("specs"));
        assert!(read("spec: {datastoreType: kubernetes, k8sAPIToken: t}\n").is_ok());
        assert!(DatastoreConfig::from_text("f", b"kind: X").unwrap_err().to_string().contains("apiVersion"));
        let inline = "spec: {etcdEndpoints: 'http://a:1', etcdKey: k, etcdCert: c, etcdCACertFile: f}\n";
        assert!(read(inline).unwrap_err().to_string().contains("inline"));
    }

    #[test]
    fn secrets_are_not_printed() {
        let config =
            env(&[("ETCD_ENDPOINTS", "http://a:1"), ("ETCD_USERNAME", "root"), ("ETCD_PASSWORD", "hunter2")]);
        let config = config.unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        let DatastoreConfig::Etcd(etcd) = config else { panic!("not etcd") };
        assert_eq!(etcd.password.as_deref(), Some("hunter2"));
    }
}
