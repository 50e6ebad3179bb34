//! The etcd backend against real etcd servers.
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use calico_datastore::config::{EtcdConfig, Pem};
use calico_datastore::{Backend, EtcdStore, Expect, KeyRanges, RawWrite, StoreError, conformance};
use futures::StreamExt;

/// A running server; ends with the test.
struct Etcd {
    child: Child,
    endpoint: String,
    _directory: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn installed() -> bool {
    let found =
        Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!(
            "skipped: tests/etcd.rs: no etcd in PATH (Debian: apt-get install etcd-server etcd-client)"
        );
    }
    found
}

fn installed_with_ctl() -> bool {
    let found =
        Command::new("etcdctl").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!(
            "skipped: a case of tests/etcd.rs: no etcdctl in PATH (Debian: apt-get install etcd-client)"
        );
    }
    found && installed()
}

fn start(extra: &[String], scheme: &str) -> Etcd {
    let directory = tempfile::tempdir().unwrap();
    let (client, peer) = (port(), port());
    let endpoint = format!("{scheme}://127.0.0.1:{client}");
    let child = Command::new("etcd")
        .arg("--data-dir")
        .arg(directory.path().join("data"))
        .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
        .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")])
        .args(["--unsafe-no-fsync"])
        .args(extra)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Etcd { child, endpoint, _directory: directory }
}

fn config(endpoints: &[&Etcd]) -> EtcdConfig {
    EtcdConfig {
        endpoints: endpoints.iter().map(|etcd| etcd.endpoint.clone()).collect(),
        ..EtcdConfig::default()
    }
}

async fn ready(store: &EtcdStore) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = store.info().await {
        assert!(Instant::now() < deadline, "etcd does not come up: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn ctl(etcd: &Etcd, arguments: &[&str]) -> String {
    let output = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &etcd.endpoint])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn put(store: &EtcdStore, key: &str, value: &str) -> Result<u64, StoreError> {
    let write = RawWrite::put(key, Expect::Any, value.as_bytes());
    Ok(store.txn(vec![write]).await?.revision)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_contract() {
    if !installed() {
        return;
    }
    let etcd = start(&[], "http");
    let store = EtcdStore::new(&config(&[&etcd])).unwrap();
    ready(&store).await;
    let failed: Vec<_> =
        conformance::run(&store).await.into_iter().filter(|case| case.failure.is_some()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test]
async fn bytes_are_those_of_other_clients() {
    if !installed_with_ctl() {
        return;
    }
    let etcd = start(&[], "http");
    let store = EtcdStore::new(&config(&[&etcd])).unwrap();
    ready(&store).await;
    put(&store, "/calico/v1/Ready", "true").await.unwrap();
    assert_eq!(ctl(&etcd, &["get", "--print-value-only", "/calico/v1/Ready"]).trim(), "true");
    ctl(&etcd, &["put", "/calico/v1/config/LogPrefix", "x y"]);
    let entry = store.get("/calico/v1/config/LogPrefix").await.unwrap().unwrap();
    assert_eq!(&*entry.value, b"x y");
    // More than one page.
    for n in 0..2_300 {
        put(&store, &format!("/calico/many/{n:05}"), "1").await.unwrap();
    }
    let list = store.list(&KeyRanges::prefix("/calico/many/")).await.unwrap();
    assert_eq!(list.entries.len(), 2_300);
    assert!(list.entries.windows(2).all(|pair| pair[0].key < pair[1].key));
    // Kubernetes' own data is not touched.
    assert!(matches!(put(&store, "/registry/pods/x", "1").await, Err(StoreError::NotSupported { .. })));
    ctl(&etcd, &["put", "/registry/pods/default/x", "k8s"]);
    assert!(store.list(&KeyRanges::prefix("/registry/")).await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn compaction_expires_watches() {
    if !installed_with_ctl() {
        return;
    }
    let etcd = start(&[], "http");
    let store = EtcdStore::new(&config(&[&etcd])).unwrap();
    ready(&store).await;
    let first = put(&store, "/calico/a", "1").await.unwrap();
    for n in 0..10 {
        put(&store, "/calico/a", &n.to_string()).await.unwrap();
    }
    let newest = put(&store, "/calico/a", "last").await.unwrap();
    ctl(&etcd, &["compaction", &newest.to_string()]);
    let ranges = KeyRanges::prefix("/calico/");
    let error = match store.watch(&ranges, first).await {
        Err(error) => error,
        Ok(mut watch) => watch.next().await.unwrap().unwrap_err(),
    };
    assert!(error.is_expired(), "{error}");
    // The newest state can still be followed.
    let mut watch = store.watch(&ranges, newest).await.unwrap();
    put(&store, "/calico/a", "after").await.unwrap();
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!(batch.events.len(), 1);
}

#[tokio::test]
async fn passwords_and_tokens() {
    if !installed_with_ctl() {
        return;
    }
    // Simple tokens expire quickly here, so that renewal is exercised.
    let etcd = start(&["--auth-token-ttl=1".to_owned()], "http");
    let open = EtcdStore::new(&EtcdConfig {
        username: Some("root".into()),
        password: Some("secret".into()),
        ..config(&[&etcd])
    })
    .unwrap();
    // Credentials do no harm while authentication is off.
    ready(&open).await;
    ctl(&etcd, &["user", "add", "root:secret"]);
    ctl(&etcd, &["auth", "enable"]);
    let with = |name: &str, password: &str| {
        EtcdStore::new(&EtcdConfig {
            username: Some(name.into()),
            password: Some(password.into()),
            ..config(&[&etcd])
        })
        .unwrap()
    };
    let anonymous = EtcdStore::new(&config(&[&etcd])).unwrap();
    assert!(matches!(
        anonymous.get("/calico/a").await,
        Err(StoreError::Unauthorised { .. } | StoreError::Invalid { .. })
    ));
    let wrong = with("root", "wrong").get("/calico/a").await.unwrap_err();
    assert!(matches!(wrong, StoreError::Unauthorised { .. }), "{wrong:?}");
    let store = with("root", "secret");
    for _ in 0..3 {
        put(&store, "/calico/a", "1").await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }
    let from = store.info().await.unwrap().revision;
    let mut watch = store.watch(&KeyRanges::prefix("/calico/"), from).await.unwrap();
    put(&store, "/calico/a", "2").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 1);
}

/// Makes an authority and certificates for a server and a client with the openssl program.
fn certificates(directory: &Path) -> bool {
    let script = "
        set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt
        issue() {
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$1 -keyout $1.key -out $1.csr
            printf 'subjectAltName=%s\\nextendedKeyUsage=serverAuth,clientAuth\\n' $3 > ext
            openssl x509 -req -days $2 -in $1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile ext -out $1.crt
        }
        issue server 2 IP:127.0.0.1,DNS:localhost
        issue client 2 DNS:client
        issue elsewhere 2 DNS:elsewhere.example
        issue outdated -1 IP:127.0.0.1
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=stranger -keyout other.key -out other.crt";
    let done = Command::new("sh").args(["-c", script]).current_dir(directory).output();
    let made = done.is_ok_and(|output| output.status.success());
    if !made {
        eprintln!("skipped: etcd over TLS: no openssl program to make certificates");
    }
    made
}

#[tokio::test]
async fn mutual_tls() {
    let directory = tempfile::tempdir().unwrap();
    if !installed() || !certificates(directory.path()) {
        return;
    }
    let file = |name: &str| directory.path().join(name);
    let tls = |name: &str| -> Etcd {
        let files = [("cert", format!("{name}.crt")), ("key", format!("{name}.key"))];
        let own = files.iter().map(|(option, name)| format!("--{option}-file={}", file(name).display()));
        let authority = format!("--trusted-ca-file={}", file("ca.crt").display());
        let arguments: Vec<String> = own.chain([authority, "--client-cert-auth".to_owned()]).collect();
        start(&arguments, "https")
    };
    let etcd = tls("server");
    let good = EtcdConfig {
        ca: Some(Pem::File(file("ca.crt"))),
        cert: Some(Pem::File(file("client.crt"))),
        key: Some(Pem::Inline(std::fs::read_to_string(file("client.key")).unwrap())),
        ..config(&[&etcd])
    };
    let store = EtcdStore::new(&good).unwrap();
    ready(&store).await;
    put(&store, "/calico/a", "1").await.unwrap();
    let distrust =
        EtcdStore::new(&EtcdConfig { ca: Some(Pem::File(file("other.crt"))), ..good.clone() }).unwrap();
    let error = distrust.get("/calico/a").await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let nameless = EtcdStore::new(&EtcdConfig { cert: None, key: None, ..good.clone() }).unwrap();
    assert!(nameless.get("/calico/a").await.is_err());
    let outdated = EtcdStore::new(&EtcdConfig {
        cert: Some(Pem::File(file("outdated.crt"))),
        key: Some(Pem::File(file("outdated.key"))),
        ..good.clone()
    })
    .unwrap();
    assert!(outdated.get("/calico/a").await.is_err(), "an expired certificate of a client was taken");
    // A server that shows the certificate of another name, and one whose certificate has expired.
    for (name, word) in [("elsewhere", "NotValidForName"), ("outdated", "Expired")] {
        let server = tls(name);
        let store =
            EtcdStore::new(&EtcdConfig { endpoints: vec![server.endpoint.clone()], ..good.clone() }).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let error = store.get("/calico/a").await.expect_err("a wrong certificate of a server was taken");
            let text = error.to_string();
            if text.contains(word) || text.to_lowercase().contains("certificate") {
                assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
                break;
            }
            assert!(Instant::now() < deadline, "{name}: {text}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // With a good member beside it the store works.
        let both =
            EtcdConfig { endpoints: vec![server.endpoint.clone(), etcd.endpoint.clone()], ..good.clone() };
        let store = EtcdStore::new(&both).unwrap();
        assert_eq!(&*store.get("/calico/a").await.unwrap().unwrap().value, b"1");
    }
    let missing = EtcdStore::new(&EtcdConfig { ca: Some(Pem::File(file("none.crt"))), ..good });
    assert!(matches!(missing, Err(StoreError::Config { name, .. }) if name == "ETCD_CA_CERT_FILE"));
}

/// Three members on this machine.
fn cluster() -> Vec<Etcd> {
    let ports: Vec<(u16, u16)> = (0..3).map(|_| (port(), port())).collect();
    let initial: Vec<String> =
        ports.iter().enumerate().map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}")).collect();
    ports
        .iter()
        .enumerate()
        .map(|(n, (client, peer))| {
            let directory = tempfile::tempdir().unwrap();
            let endpoint = format!("http://127.0.0.1:{client}");
            let peer = format!("http://127.0.0.1:{peer}");
            let child = Command::new("etcd")
                .args(["--name", &format!("m{n}"), "--unsafe-no-fsync", "--data-dir"])
                .arg(directory.path().join("data"))
                .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &initial.join(","), "--initial-cluster-state", "new"])
                .args(["--heartbeat-interval=50", "--election-timeout=500"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            Etcd { child, endpoint, _directory: directory }
        })
        .collect()
}

fn signal(etcd: &Etcd, name: &str) {
    let status = Command::new("kill").args([name, &etcd.child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_members_loses_no_update() {
    use calico_datastore::{ListRequest, Store, SyncEvent, Syncer};
    if !installed() {
        return;
    }
    let mut members = cluster();
    let all: Vec<&Etcd> = members.iter().collect();
    let store = EtcdStore::new(&config(&all)).unwrap();
    ready(&store).await;
    let mut syncer = Syncer::start(
        std::sync::Arc::new(Store::new(store.clone())),
        ListRequest::prefix("/calico/v1/config/"),
        Default::default(),
    );
    let writer = store.clone();
    let writes = tokio::spawn(async move {
        let mut last = 0;
        for n in 0..400_u32 {
            loop {
                match put(&writer, "/calico/v1/config/N", &n.to_string()).await {
                    Ok(revision) => {
                        assert!(revision > last, "the revision stepped back");
                        last = revision;
                        break;
                    }
                    Err(error) => {
                        assert!(error.is_retryable(), "{error:?}");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    // One member dies, then another one hangs for a while (two of three must be alive to write).
    tokio::time::sleep(Duration::from_secs(1)).await;
    signal(&members[0], "-STOP");
    tokio::time::sleep(Duration::from_secs(2)).await;
    signal(&members[0], "-CONT");
    tokio::time::sleep(Duration::from_secs(1)).await;
    members[1].child.kill().unwrap();
    let mut seen = None;
    let deadline = Instant::now() + Duration::from_secs(60);
    while seen != Some(399) {
        assert!(Instant::now() < deadline, "only {seen:?} arrived");
        let event = tokio::time::timeout(Duration::from_secs(60), syncer.next()).await.unwrap().unwrap();
        let SyncEvent::Updates(updates) = event else { continue };
        for update in updates {
            let text = update.value.expect("nothing was deleted").to_json();
            let number: u32 = std::str::from_utf8(&text).unwrap().parse().unwrap();
            // A write whose answer was lost may have been repeated; never an older value.
            assert!(seen.is_none_or(|last| number >= last), "{number} after {seen:?}");
            seen = Some(number);
        }
    }
    writes.await.unwrap();
}

#[tokio::test]
async fn a_store_moves_to_etcd_and_back() {
    use calico_datastore::migrate::{self, Target};
    use calico_datastore::{SqliteOptions, SqliteStore};
    if !installed() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let sqlite = |name: &str| SqliteStore::open(SqliteOptions::new(directory.path().join(name))).unwrap();
    let (origin, back) = (sqlite("a.db"), sqlite("b.db"));
    for (key, value) in [
        ("/calico/ipam/v2/handle/h", r#"{"block":{"10.65.0.0/30":1},"deleted":false}"#),
        (
            "/calico/resources/v3/projectcalico.org/ippools/p",
            r#"{"kind":"IPPool","spec":{"cidr":"10.65.0.0/16"}}"#,
        ),
        ("/calico/v1/Ready", "true"),
        ("/registry/namespaces/prod", r#"{"kind":"Namespace"}"#),
    ] {
        origin.txn_blocking(&[RawWrite::put(key, Expect::Any, value.as_bytes())]).unwrap();
    }
    for n in 0..3_000 {
        let key = format!("/calico/v1/config/{n:05}");
        origin.txn_blocking(&[RawWrite::put(key, Expect::Any, vec![b'x'; 200])]).unwrap();
    }
    let etcd = start(&[], "http");
    let remote = EtcdStore::with_kubernetes_objects(&config(&[&etcd])).unwrap();
    ready(&remote).await;
    let there = migrate::copy(&origin, &remote, Target::MustBeEmpty).await.unwrap();
    migrate::copy(&remote, &back, Target::MustBeEmpty).await.unwrap();
    let contents = |store: &SqliteStore| {
        let list = store.list_blocking(&KeyRanges::prefix("/")).unwrap();
        list.entries.into_iter().map(|entry| (entry.key, entry.value.to_vec())).collect::<Vec<_>>()
    };
    assert_eq!(there.written, 3_004);
    assert_eq!(contents(&back), contents(&origin));
}
