//! Fan-out: clients see what the store holds, whatever servers and connections do.
#![cfg(feature = "fanout")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::config::Pem;
use calico_datastore::fanout::{ClientOptions, FanoutClient, FanoutServer, ServerOptions, TlsSettings, View};
use calico_datastore::{
    Backend, Datastore, Expect, ListRequest, MemoryStore, RawWrite, Store, SyncEvent, SyncStatus,
    SyncerOptions,
};
use calico_model::{Key, Revision, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn server_options() -> ServerOptions {
    ServerOptions {
        views: vec![View { name: "felix".into(), request: ListRequest::everything() }],
        ping_interval: Duration::from_millis(200),
        syncer: SyncerOptions { min_resync_interval: Duration::from_millis(5), ..SyncerOptions::default() },
        ..ServerOptions::default()
    }
}

fn client_options(servers: &[SocketAddr]) -> ClientOptions {
    ClientOptions {
        min_retry: Duration::from_millis(5),
        max_retry: Duration::from_millis(50),
        ..ClientOptions::new(servers.iter().map(ToString::to_string).collect(), "felix")
    }
}

fn key(n: usize) -> Key {
    Key::GlobalConfig { name: format!("N{n:05}") }
}

async fn put(store: &dyn Datastore, n: usize, text: &str) -> Revision {
    store.apply(key(n), Value::Text(text.into())).await.unwrap().revision
}

fn stores() -> (MemoryStore, Arc<Store<MemoryStore>>) {
    let memory = MemoryStore::new();
    (memory.clone(), Arc::new(Store::new(memory)))
}

/// A consumer that checks the promises while it builds its picture.
struct Picture {
    client: FanoutClient,
    objects: BTreeMap<Key, Value>,
    newest: BTreeMap<Key, u64>,
    statuses: Vec<SyncStatus>,
    failures: usize,
    updates: usize,
}

impl Picture {
    fn new(options: ClientOptions) -> Self {
        Self {
            client: FanoutClient::start(options).unwrap(),
            objects: BTreeMap::new(),
            newest: BTreeMap::new(),
            statuses: Vec::new(),
            failures: 0,
            updates: 0,
        }
    }

    async fn step(&mut self) {
        match tokio::time::timeout(Duration::from_secs(20), self.client.next()).await.unwrap().unwrap() {
            SyncEvent::Status(status) => {
                assert_ne!(self.statuses.last(), Some(&status));
                self.statuses.push(status);
            }
            SyncEvent::ParseFailed(_) => self.failures += 1,
            SyncEvent::Updates(updates) => {
                for update in updates {
                    self.updates += 1;
                    let revision: u64 = update.revision.as_str().parse().unwrap();
                    let last = self.newest.insert(update.key.clone(), revision).unwrap_or(0);
                    assert!(revision >= last, "{:?} went back from {last} to {revision}", update.key);
                    match update.value {
                        Some(value) => drop(self.objects.insert(update.key, value)),
                        None => {
                            assert!(self.objects.remove(&update.key).is_some(), "deletion of an unknown key")
                        }
                    }
                }
            }
        }
    }

    async fn until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        while !done(self) {
            self.step().await;
        }
    }

    async fn equals(&mut self, store: &dyn Datastore) {
        let list = store.list(&ListRequest::everything()).await.unwrap();
        let truth: BTreeMap<Key, Value> = list.items.into_iter().map(|item| (item.key, item.value)).collect();
        self.until(|p| p.objects == truth && p.statuses.last() == Some(&SyncStatus::InSync)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_see_snapshot_and_changes() {
    let (memory, store) = stores();
    for n in 0..2_000 {
        put(&*store, n, "a").await;
    }
    let server = FanoutServer::start(store.clone(), local(), server_options()).await.unwrap();
    let mut clients: Vec<Picture> =
        (0..8).map(|_| Picture::new(client_options(&[server.address()]))).collect();
    for client in &mut clients {
        client.equals(&*store).await;
        assert_eq!(client.statuses, [SyncStatus::WaitForDatastore, SyncStatus::Resync, SyncStatus::InSync]);
    }
    for n in 0..3_000 {
        put(&*store, n % 100, &n.to_string()).await;
    }
    store.delete(key(1_999), None).await.unwrap();
    for client in &mut clients {
        client.equals(&*store).await;
    }
    // What cannot be read stays as it was, and says nothing to the clients.
    memory.txn(vec![RawWrite::put("/calico/v1/Ready", Expect::Any, *b"maybe")]).await.unwrap();
    put(&*store, 7, "after").await;
    for client in &mut clients {
        client.until(|p| p.objects.get(&key(7)) == Some(&Value::Text("after".into()))).await;
    }
    assert!(server.ready());
    assert_eq!(server.stats().active(), 8);
    assert!(server.stats().prometheus().contains("typha_connections_active 8\n"));
    // An idle connection lives on pings.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(server.stats().active(), 8);
    drop(clients);
    server.shutdown(Duration::from_secs(5)).await;
}

/// Passes bytes on and can be cut.
async fn proxy(target: SocketAddr) -> (SocketAddr, tokio::sync::watch::Sender<u32>) {
    let listener = tokio::net::TcpListener::bind(local()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cut, cuts) = tokio::sync::watch::channel(0_u32);
    tokio::spawn(async move {
        while let Ok((mut inbound, _)) = listener.accept().await {
            let mut cuts = cuts.clone();
            cuts.borrow_and_update();
            tokio::spawn(async move {
                let Ok(mut outbound) = tokio::net::TcpStream::connect(target).await else { return };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound) => {}
                    _ = cuts.changed() => {}
                }
            });
        }
    });
    (address, cut)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_is_resumed_without_a_snapshot() {
    let (_, store) = stores();
    for n in 0..500 {
        put(&*store, n, "a").await;
    }
    let server = FanoutServer::start(store.clone(), local(), server_options()).await.unwrap();
    let (address, cut) = proxy(server.address()).await;
    let mut client = Picture::new(client_options(&[address]));
    client.equals(&*store).await;
    for round in 0..5 {
        cut.send_modify(|count| *count += 1);
        put(&*store, round, "b").await;
        store.delete(key(100 + round), None).await.unwrap();
        client.equals(&*store).await;
        // The changes may arrive before the cut does: the next cut must find a new connection.
        for _ in 0..2_000 {
            if server.stats().resumed() > round as u64 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!((server.stats().snapshots(), server.stats().resumed()), (1, 5));
    assert_eq!(client.updates, 500 + 5 + 5, "nothing was sent twice");
    assert_eq!(client.statuses.len(), 3, "the consumer noticed nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_takes_over() {
    let (_, store) = stores();
    for n in 0..300 {
        put(&*store, n, "a").await;
    }
    let first = FanoutServer::start(store.clone(), local(), server_options()).await.unwrap();
    let second = FanoutServer::start(store.clone(), local(), server_options()).await.unwrap();
    // The client learns the second address from the first server only.
    drop(first);
    let options = ServerOptions { alternates: vec![second.address().to_string()], ..server_options() };
    let first = FanoutServer::start(store.clone(), local(), options).await.unwrap();
    let mut client = Picture::new(client_options(&[first.address()]));
    client.equals(&*store).await;
    first.shutdown(Duration::from_secs(5)).await;
    store.delete(key(5), None).await.unwrap();
    put(&*store, 6, "b").await;
    client.equals(&*store).await;
    assert_eq!(second.stats().active(), 1);
    assert_eq!(client.updates, 302, "unchanged objects were not delivered again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_later_is_believed() {
    let (_, store) = stores();
    for n in 0..10 {
        put(&*store, n, "a").await;
    }
    let later = tokio::net::TcpListener::bind(local()).await.unwrap().local_addr().unwrap();
    let first = FanoutServer::start(store.clone(), local(), server_options()).await.unwrap();
    let mut client = Picture::new(client_options(&[first.address(), later]));
    client.equals(&*store).await;
    // The newest revision the client has seen is that of a deletion, which the other server never sees.
    store.delete(key(3), None).await.unwrap();
    client.equals(&*store).await;
    first.shutdown(Duration::from_secs(5)).await;
    drop(first);
    let second = FanoutServer::start(store.clone(), later, server_options()).await.unwrap();
    put(&*store, 4, "b").await;
    store.delete(key(5), None).await.unwrap();
    client.equals(&*store).await;
    assert_eq!(second.stats().active(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lags_is_not_believed() {
    // The stale server reads a copy of the store that stays behind.
    let (_, fresh) = stores();
    let (_, stale) = stores();
    for store in [&fresh, &stale] {
        put(&**store, 1, "a").await;
    }
    for n in 0..50 {
        put(&*fresh, 2, &n.to_string()).await;
    }
    let good = FanoutServer::start(fresh.clone(), local(), server_options()).await.unwrap();
    let old = FanoutServer::start(stale.clone(), local(), server_options()).await.unwrap();
    let (address, cut) = proxy(good.address()).await;
    let mut client = Picture::new(client_options(&[address, old.address()]));
    client.equals(&*fresh).await;
    for _ in 0..4 {
        cut.send_modify(|count| *count += 1);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    put(&*fresh, 3, "new").await;
    client.equals(&*fresh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_silent_clients_are_cut_off() {
    let (_, store) = stores();
    let options = ServerOptions {
        pong_timeout: Duration::from_secs(2),
        max_lag_bytes: 4 << 20,
        write_timeout: Duration::from_secs(3),
        ..server_options()
    };
    let server = FanoutServer::start(store.clone(), local(), options).await.unwrap();
    // One says hello and then nothing: it answers no ping.
    let hello = hello_bytes("felix");
    let mut silent = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    silent.write_all(&hello).await.unwrap();
    let mut sink = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), silent.read_to_end(&mut sink)).await;
    assert!(ended.is_ok(), "the silent client is still connected");
    // One never reads: its socket fills and the server gives up.
    let mut slow = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    slow.write_all(&hello).await.unwrap();
    let mut quick = Picture::new(client_options(&[server.address()]));
    let large = "x".repeat(200_000);
    for n in 0..100 {
        let text = format!("{large}{n}");
        put(&*store, n % 5, &text).await;
        // The other one reads everything as it comes and is never cut off.
        quick.until(|p| p.objects.get(&key(n % 5)) == Some(&Value::Text(text.as_str().into()))).await;
    }
    quick.equals(&*store).await;
    for _ in 0..200 {
        if server.stats().active() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((server.stats().active(), server.stats().dropped()), (1, 2));
}

fn hello_bytes(view: &str) -> Vec<u8> {
    use calico_datastore::fanout::frame::{ClientHello, Frame, PROTOCOL};
    let hello = ClientHello {
        protocol: PROTOCOL,
        min_protocol: PROTOCOL,
        syncer: view.to_owned(),
        ..ClientHello::default()
    };
    Frame::ClientHello(hello).encode().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_unknown_views_are_refused() {
    use calico_datastore::fanout::frame::{Frame, MAX_SERVER_FRAME, decode};
    let (_, store) = stores();
    let server = FanoutServer::start(store, local(), server_options()).await.unwrap();
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 64], vec![0; 64]] {
        let mut socket = tokio::net::TcpStream::connect(server.address()).await.unwrap();
        socket.write_all(&garbage).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut answer)).await;
        assert!(ended.is_ok());
    }
    let mut socket = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    socket.write_all(&hello_bytes("no-such-view")).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    let frame = decode(&mut bytes::BytesMut::from(&answer[..]), MAX_SERVER_FRAME).unwrap().unwrap();
    assert!(
        matches!(frame, Frame::Reject(reject) if reject.code == 2 && reject.text.contains("no-such-view"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_sends_clients_elsewhere() {
    let (_, store) = stores();
    put(&*store, 1, "a").await;
    let roomy = FanoutServer::start(store.clone(), local(), server_options()).await.unwrap();
    let options = ServerOptions {
        max_connections: 1,
        alternates: vec![roomy.address().to_string()],
        ..server_options()
    };
    let small = FanoutServer::start(store.clone(), local(), options).await.unwrap();
    let mut first = Picture::new(client_options(&[small.address()]));
    first.equals(&*store).await;
    let mut second = Picture::new(client_options(&[small.address()]));
    second.equals(&*store).await;
    assert_eq!((small.stats().active(), roomy.stats().active()), (1, 1));
}

/// An authority with certificates for a server, a client and a stranger, made with the openssl program.
fn certificates(directory: &Path) -> bool {
    let script = "
        set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt
        issue() {
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /O=test/CN=$1 -keyout $1.key -out $1.csr
            printf 'subjectAltName=URI:spiffe://cluster/%s,DNS:elsewhere.example\\nextendedKeyUsage=serverAuth,clientAuth\\n' $1 > ext
            openssl x509 -req $2 -in $1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile ext -out $1.crt
        }
        issue typha-server '-days 2'
        issue typha-client '-days 2'
        issue other '-days 2'
        issue expired '-days -1' || cp other.crt expired.crt";
    let done = Command::new("sh").args(["-c", script]).current_dir(directory).output();
    let made = done.is_ok_and(|output| output.status.success());
    if !made {
        eprintln!("skipped: fan-out over TLS: no openssl program to make certificates");
    }
    made
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_check_who_the_other_is() {
    let directory = tempfile::tempdir().unwrap();
    if !certificates(directory.path()) {
        return;
    }
    let settings = |own: &str, cn: Option<&str>, uri: Option<&str>| TlsSettings {
        cert: Pem::File(directory.path().join(format!("{own}.crt"))),
        key: Pem::File(directory.path().join(format!("{own}.key"))),
        ca: Pem::File(directory.path().join("ca.crt")),
        peer_cn: cn.map(str::to_owned),
        peer_uri: uri.map(str::to_owned),
    };
    let (_, store) = stores();
    put(&*store, 1, "a").await;
    let options = ServerOptions {
        tls: Some(settings("typha-server", Some("typha-client"), None)),
        handshake_timeout: Duration::from_secs(2),
        ..server_options()
    };
    let server = FanoutServer::start(store.clone(), local(), options).await.unwrap();
    let client = |tls| ClientOptions { tls, ..client_options(&[server.address()]) };
    // By common name, and by URI name when the common name is another one.
    for (cn, uri) in [(Some("typha-server"), None), (Some("x"), Some("spiffe://cluster/typha-server"))] {
        Picture::new(client(Some(settings("typha-client", cn, uri)))).equals(&*store).await;
    }
    let refused = [
        Some(settings("typha-client", Some("somebody"), None)),
        Some(settings("other", Some("typha-server"), None)),
        Some(settings("expired", Some("typha-server"), None)),
        None,
    ];
    for tls in refused {
        let mut picture = Picture::new(client(tls.clone()));
        let waited = tokio::time::timeout(Duration::from_millis(700), picture.until(|p| p.updates > 0)).await;
        assert!(waited.is_err(), "{tls:?} was let in");
    }
    // Half a configuration is no configuration.
    assert!(FanoutClient::start(client(Some(settings("typha-client", None, None)))).is_err());
    assert!(FanoutClient::start(client(Some(settings("nobody", Some("x"), None)))).is_err());
}
