//! The network configuration and the credentials that it points at.

use std::fs;
use std::io;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::settings::{InstallError, Settings};

/// The network configuration to write.
pub(super) fn render(settings: &Settings) -> Result<String, InstallError> {
    let (text, origin) = match &settings.given_config {
        Some((template, origin)) => (fill(template, settings)?, origin.as_str()),
        None => (serde_json::to_string_pretty(&built_in(settings)?).unwrap_or_default(), "this program"),
    };
    match serde_json::from_str::<Value>(&text) {
        Ok(_) => Ok(text + "\n"),
        Err(e) => Err(InstallError::Config { origin: origin.to_owned(), reason: e.to_string() }),
    }
}

/// Puts values in place of the placeholders that Calico's installer knows.
fn fill(template: &str, settings: &Settings) -> Result<String, InstallError> {
    let tls = |name: &str| match settings.tls_dir().join(name).is_file() {
        true => settings.cni_net_dir.join("calico-tls").join(name).display().to_string(),
        false => String::new(),
    };
    let mut text = template.to_owned();
    let direct = [
        "LOG_LEVEL",
        "LOG_FILE_PATH",
        "LOG_FILE_MAX_SIZE",
        "LOG_FILE_MAX_AGE",
        "LOG_FILE_MAX_COUNT",
        "DATASTORE_TYPE",
        "KUBERNETES_NODE_NAME",
        "CNI_MTU",
        "KUBERNETES_SERVICE_HOST",
        "KUBERNETES_SERVICE_PORT",
        "CALICO_API_GROUP",
        "ETCD_ENDPOINTS",
        "ETCD_DISCOVERY_SRV",
        "REQUIRE_MTU_FILE",
    ];
    for name in direct {
        text = text.replace(&format!("__{name}__"), settings.variable(name));
    }
    let kubeconfig = settings.cni_net_dir.join("calico-kubeconfig").display().to_string();
    for (placeholder, value) in [
        ("__KUBECONFIG_FILEPATH__", kubeconfig),
        ("__ETCD_CA_CERT_FILE__", tls("etcd-ca")),
        ("__ETCD_CERT_FILE__", tls("etcd-cert")),
        ("__ETCD_KEY_FILE__", tls("etcd-key")),
    ] {
        text = text.replace(placeholder, &value);
    }
    if text.contains("__SERVICEACCOUNT_TOKEN__") {
        text = text.replace("__SERVICEACCOUNT_TOKEN__", &token(settings)?.unwrap_or_default());
    }
    Ok(text)
}

/// The list when none is given: this plugin, then `portmap` where there is one.
fn built_in(settings: &Settings) -> Result<Value, InstallError> {
    let variable = |name: &str| settings.variable(name);
    let number = |name: &'static str| {
        variable(name).parse::<u64>().map_err(|_| InstallError::Setting {
            name,
            value: variable(name).to_owned(),
            expected: "a number",
        })
    };
    let mut calico = json!({
        "type": "calico",
        "log_level": variable("LOG_LEVEL"),
        "log_file_path": variable("LOG_FILE_PATH"),
        "log_file_max_size": number("LOG_FILE_MAX_SIZE")?,
        "log_file_max_age": number("LOG_FILE_MAX_AGE")?,
        "log_file_max_count": number("LOG_FILE_MAX_COUNT")?,
        "datastore_type": variable("DATASTORE_TYPE"),
        "agent_socket": variable("CALICO_NODE_SOCKET"),
        "ipam": {"type": "calico-ipam"},
        "policy": {"type": "k8s"},
    });
    if number("CNI_MTU")? != 0 {
        calico["mtu"] = number("CNI_MTU")?.into();
    }
    if !variable("KUBERNETES_NODE_NAME").is_empty() {
        calico["nodename"] = variable("KUBERNETES_NODE_NAME").into();
    }
    if variable("REQUIRE_MTU_FILE") == "true" {
        calico["require_mtu_file"] = true.into();
    }
    match variable("DATASTORE_TYPE") {
        "sqlite" => calico["datastore_path"] = variable("CALICO_DATASTORE_PATH").into(),
        "kubernetes" => {
            let kubeconfig = settings.cni_net_dir.join("calico-kubeconfig");
            calico["kubernetes"] = json!({"kubeconfig": kubeconfig.display().to_string()});
            calico["calico_api_group"] = variable("CALICO_API_GROUP").into();
        }
        "etcdv3" => {
            calico["etcd_endpoints"] = variable("ETCD_ENDPOINTS").into();
            calico["etcd_discovery_srv"] = variable("ETCD_DISCOVERY_SRV").into();
            for (key, name) in [
                ("etcd_ca_cert_file", "etcd-ca"),
                ("etcd_cert_file", "etcd-cert"),
                ("etcd_key_file", "etcd-key"),
            ] {
                if settings.tls_dir().join(name).is_file() {
                    let file = settings.cni_net_dir.join("calico-tls").join(name);
                    calico[key] = file.display().to_string().into();
                }
            }
        }
        other => {
            return Err(InstallError::Setting {
                name: "DATASTORE_TYPE",
                value: other.to_owned(),
                expected: "sqlite, etcdv3 or kubernetes",
            });
        }
    }
    let mut plugins = vec![calico];
    // A list that names a plugin which is not there would keep every pod from starting.
    if settings.bin_dirs().iter().any(|dir| dir.join("portmap").is_file()) {
        plugins.push(json!({"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}));
    }
    Ok(json!({"name": "k8s-pod-network", "cniVersion": "1.0.0", "plugins": plugins}))
}

/// The pod's own token, if it has one.
fn token(settings: &Settings) -> Result<Option<String>, InstallError> {
    let path = settings.service_account.join("token");
    match fs::read_to_string(&path) {
        Ok(token) => Ok(Some(token.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(InstallError::io("read", &path)(error)),
    }
}

/// The credentials for the Kubernetes API; none outside a pod. A token never goes into the network configuration
/// itself unless a given template asks for it.
pub(super) fn kubeconfig(settings: &Settings) -> Result<Option<String>, InstallError> {
    let Some(token) = token(settings)? else { return Ok(None) };
    let host = settings.variable("KUBERNETES_SERVICE_HOST");
    if host.is_empty() {
        return Ok(None);
    }
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let server = format!(
        "{}://{host}:{}",
        settings.variable("KUBERNETES_SERVICE_PROTOCOL"),
        settings.variable("KUBERNETES_SERVICE_PORT")
    );
    let mut cluster = json!({"server": server});
    if settings.variable("SKIP_TLS_VERIFY") == "true" {
        cluster["insecure-skip-tls-verify"] = true.into();
    } else if let Ok(ca) = fs::read(settings.service_account.join("ca.crt")) {
        cluster["certificate-authority-data"] = BASE64_STANDARD.encode(ca).into();
    }
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": cluster}],
        "users": [{"name": "calico", "user": {"token": token}}],
        "contexts": [{"name": "calico-context", "context": {"cluster": "local", "user": "calico"}}],
        "current-context": "calico-context",
    });
    // JSON is YAML, and needs no quoting rules.
    Ok(Some(serde_json::to_string_pretty(&config).unwrap_or_default() + "\n"))
}
