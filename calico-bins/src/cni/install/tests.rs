use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;

struct Place {
    dir: tempfile::TempDir,
    variables: BTreeMap<String, String>,
    source: Option<PathBuf>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["host/opt/cni/bin", "host/etc/cni/net.d", "image", "account", "tls", "more"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("image/calico"), "the program, version 1").unwrap();
        let place = Self { dir, variables: BTreeMap::new(), source: None };
        let (account, tls) = (place.text("account"), place.text("tls"));
        place.with("SERVICE_ACCOUNT_DIR", &account).with("TLS_ASSETS_DIR", &tls)
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn settings(&self) -> Settings {
        let lookup = |name: &str| self.variables.get(name).cloned();
        Settings::read(lookup, &self.path("host"), &self.path("image/calico-node"), self.source.clone())
            .unwrap()
    }

    fn conf(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("host/etc/cni/net.d/10-calico.conflist")).unwrap())
            .unwrap()
    }

    /// Every file below the node's root.
    fn files(&self) -> Vec<String> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                match entry.path() {
                    path if path.is_dir() => walk(&path, found),
                    path => found.push(path),
                }
            }
        }
        let (root, mut found) = (self.path("host"), Vec::new());
        walk(&root, &mut found);
        let mut names: Vec<String> =
            found.iter().map(|path| path.strip_prefix(&root).unwrap().display().to_string()).collect();
        names.sort();
        names
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_first_installation_and_a_second_that_changes_nothing() {
    let place = Place::new();
    let settings = place.settings();
    assert_eq!(install(&settings).unwrap().len(), 3);
    let expected = [
        "etc/cni/net.d/10-calico.conflist",
        "etc/cni/net.d/calico-installed-files",
        "opt/cni/bin/calico",
        "opt/cni/bin/calico-ipam",
    ];
    assert_eq!(place.files(), expected);
    assert_eq!(mode(&settings.conf_path()), 0o600);
    let (calico, ipam) = (place.path("host/opt/cni/bin/calico"), place.path("host/opt/cni/bin/calico-ipam"));
    assert_eq!(mode(&calico), 0o755);
    assert_eq!(fs::metadata(&calico).unwrap().ino(), fs::metadata(&ipam).unwrap().ino(), "one file");
    let conf = place.conf();
    assert_eq!(conf["plugins"].as_array().unwrap().len(), 1, "no portmap is there");
    assert_eq!(conf["plugins"][0]["datastore_type"], "sqlite");
    assert_eq!(install(&settings).unwrap(), []);
}

#[test]
fn an_upgrade_replaces_programs_and_renames_the_configuration() {
    let place = Place::new().with("CNI_OLD_CONF_NAME", "05-calico.conflist").with("CNI_MTU", "1400");
    let old = place.path("host/etc/cni/net.d/05-calico.conflist");
    fs::write(&old, "{}").unwrap();
    install(&place.settings()).unwrap();
    assert!(!old.exists());
    assert_eq!(place.conf()["plugins"][0]["mtu"], 1400);
    // A plugin that is running keeps its file: the new one is another.
    let calico = place.path("host/opt/cni/bin/calico");
    let running = fs::File::open(&calico).unwrap();
    fs::write(place.path("image/calico"), "the program, version 2!").unwrap();
    assert_eq!(install(&place.settings()).unwrap().len(), 2);
    assert_ne!(running.metadata().unwrap().ino(), fs::metadata(&calico).unwrap().ino());
    for name in ["calico", "calico-ipam"] {
        let text = fs::read_to_string(place.path("host/opt/cni/bin").join(name)).unwrap();
        assert_eq!(text, "the program, version 2!");
    }
    // Programs that must not be replaced.
    fs::write(place.path("image/calico"), "the program, version 3").unwrap();
    let place = place.with("UPDATE_CNI_BINARIES", "false");
    assert_eq!(install(&place.settings()).unwrap(), []);
}

#[test]
fn uninstalling_leaves_nothing_of_ours_and_everything_of_others() {
    let mut place = Place::new().with("KUBERNETES_SERVICE_HOST", "fd00::1");
    let theirs = place.path("host/opt/cni/bin/loopback");
    fs::write(&theirs, "the distribution's").unwrap();
    fs::write(place.path("host/etc/cni/net.d/99-loopback.conf"), "{}").unwrap();
    for name in ["portmap", "bandwidth", "loopback", "install"] {
        let content = if name == "loopback" { "the distribution's" } else { name };
        fs::write(place.path("more").join(name), content).unwrap();
    }
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, text) in [("account/token", "secret"), ("account/ca.crt", "ca"), ("tls/etcd-cert", "cert")] {
        fs::write(place.path(name), text).unwrap();
    }
    place.source = Some(place.path("more"));
    let settings = place.settings();
    install(&settings).unwrap();
    let kubeconfig = fs::read_to_string(settings.kubeconfig_path()).unwrap();
    assert!(kubeconfig.contains("https://[fd00::1]:443") && kubeconfig.contains("secret"), "{kubeconfig}");
    assert_eq!(mode(&settings.kubeconfig_path()), 0o600);
    assert!(!place.conf().to_string().contains("secret"), "tokens stay out of the network configuration");
    assert_eq!(place.conf()["plugins"][1]["type"], "portmap");
    assert!(place.files().contains(&"etc/cni/net.d/calico-tls/etcd-cert".to_owned()));
    assert!(!place.files().contains(&"opt/cni/bin/install".to_owned()));
    // What the plugins leave while they work.
    for name in
        ["var/lib/calico/cni-journal/x.json", "var/log/calico/cni/cni.log", "var/run/calico/ipam.lock"]
    {
        let file = place.path("host").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
    }
    fs::create_dir_all(place.path("host/var/lib/calico/datastore")).unwrap();
    fs::write(place.path("host/var/lib/calico/datastore/calico.db"), "data").unwrap();
    // Somebody replaced one of the programs since.
    fs::write(place.path("host/opt/cni/bin/bandwidth"), "another").unwrap();

    uninstall(&settings).unwrap();
    let expected = [
        "etc/cni/net.d/99-loopback.conf",
        "opt/cni/bin/bandwidth",
        "opt/cni/bin/loopback",
        "var/lib/calico/datastore/calico.db",
    ];
    assert_eq!(place.files(), expected);
    assert!(!settings.tls_dir().exists());
    assert_eq!(uninstall(&settings).unwrap(), [], "a second time there is nothing to do");
}

#[test]
fn credentials_are_renewed_when_they_change() {
    let place = Place::new().with("KUBERNETES_SERVICE_HOST", "10.0.0.1").with("DATASTORE_TYPE", "kubernetes");
    fs::write(place.path("account/token"), "one\n").unwrap();
    let settings = place.settings();
    install(&settings).unwrap();
    assert_eq!(place.conf()["plugins"][0]["kubernetes"]["kubeconfig"], "/etc/cni/net.d/calico-kubeconfig");
    assert_eq!(refresh(&settings).unwrap(), []);
    fs::write(place.path("account/token"), "two\n").unwrap();
    assert_eq!(refresh(&settings).unwrap(), [Change::Written(settings.kubeconfig_path())]);
    assert!(fs::read_to_string(settings.kubeconfig_path()).unwrap().contains("\"two\""));
}

#[test]
fn templates_are_filled_and_checked() {
    let template = r#"{"name": "n", "plugins": [{"type": "calico", "mtu": __CNI_MTU__, "log_level": "__LOG_LEVEL__",
        "nodename": "__KUBERNETES_NODE_NAME__", "datastore_type": "__DATASTORE_TYPE__",
        "kubernetes": {"kubeconfig": "__KUBECONFIG_FILEPATH__"}, "etcd_key_file": "__ETCD_KEY_FILE__"}]}"#;
    let place = Place::new()
        .with("CNI_NETWORK_CONFIG", template)
        .with("KUBERNETES_NODE_NAME", "n1")
        .with("CNI_NET_DIR", "/etc/other/net.d");
    install(&place.settings()).unwrap();
    let plugin = place.conf()["plugins"][0].clone();
    assert_eq!((&plugin["mtu"], &plugin["nodename"]), (&Value::from(0), &Value::from("n1")));
    assert_eq!(plugin["kubernetes"]["kubeconfig"], "/etc/other/net.d/calico-kubeconfig");
    assert_eq!(plugin["etcd_key_file"], "", "no such file is installed");
    assert!(!place.conf().to_string().contains("__"));

    let place = Place::new().with("CNI_NETWORK_CONFIG", "{\"mtu\": __CNI_MTU__");
    let error = install(&place.settings()).unwrap_err();
    assert!(matches!(error, InstallError::Config { .. }), "{error}");
    assert!(!place.settings().conf_path().exists());
}

#[test]
fn mistakes_are_named() {
    let place = Place::new();
    fs::remove_file(place.path("image/calico")).unwrap();
    assert!(matches!(install(&place.settings()), Err(InstallError::NoPlugin { .. })));
    fs::remove_dir_all(place.path("host/opt")).unwrap();
    let error = install(&place.settings()).unwrap_err();
    assert!(error.to_string().contains("mount the node's /opt/cni/bin there"), "{error}");
    let read = |name: &str, value: &str| {
        let lookup = |asked: &str| (asked == name).then(|| value.to_owned());
        Settings::read(lookup, Path::new("/x"), Path::new("/y"), None)
    };
    assert!(matches!(read("CNI_CONF_NAME", "a/b"), Err(InstallError::Setting { .. })));
    assert!(matches!(read("SLEEP", "perhaps"), Err(InstallError::Setting { .. })));
    assert!(matches!(read("CNI_NETWORK_CONFIG_FILE", "/nonexistent/x"), Err(InstallError::Io { .. })));
    let place = Place::new().with("DATASTORE_TYPE", "mongodb");
    assert!(matches!(install(&place.settings()), Err(InstallError::Setting { name: "DATASTORE_TYPE", .. })));
    let place = Place::new();
    fs::write(place.path("host/etc/cni/net.d/calico-installed-files"), "[]").unwrap();
    assert!(matches!(install(&place.settings()), Err(InstallError::Manifest { .. })));
}
