//! The fan-out with many clients: time and bytes of a snapshot, memory of an idle client, processor time and delay of a
//! stream of updates.
//!
//! The server is a process of its own, so that its memory and time are its alone; this process plays all clients, most of
//! which only count what comes. `cargo bench -p calico-benches --features fanout --bench fanout [-- CLIENTS]`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use calico_datastore::fanout::frame::{ClientHello, Frame, PROTOCOL, decode};
use calico_datastore::fanout::{FanoutServer, ServerOptions, View};
use calico_datastore::{Backend, Expect, ListRequest, MemoryStore, RawWrite, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const OBJECTS: usize = 100_000;
const UPDATES_PER_SECOND: u64 = 1_000;
const SECONDS: u64 = 15;
/// One in so many clients reads what it gets and tells how old it is.
const SAMPLE: usize = 50;

fn nanos() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

fn write(n: usize) -> RawWrite {
    let value = format!("{} {}", nanos(), "x".repeat(120));
    RawWrite::put(format!("/calico/v1/config/Object{n:06}"), Expect::Any, value.into_bytes())
}

/// The server's process: objects, a server, and updates when it is told to.
fn server() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = MemoryStore::new();
        for n in 0..OBJECTS {
            store.txn(vec![write(n)]).await.unwrap();
        }
        let options = ServerOptions {
            views: vec![View { name: "felix".into(), request: ListRequest::everything() }],
            ..ServerOptions::default()
        };
        let typed = Arc::new(Store::new(store.clone()));
        let server = FanoutServer::start(typed, ([127, 0, 0, 1], 0).into(), options).await.unwrap();
        println!("{}", server.address());
        let mut lines = std::io::stdin().lines();
        while let Some(Ok(line)) = tokio::task::block_in_place(|| lines.next()) {
            let count: u64 = line.trim().parse().unwrap();
            let mut tick = tokio::time::interval(Duration::from_nanos(1_000_000_000 / UPDATES_PER_SECOND));
            for n in 0..count {
                tick.tick().await;
                store.txn(vec![write(usize::try_from(n * 7_919).unwrap() % OBJECTS)]).await.unwrap();
            }
            println!("done");
        }
    });
}

/// Processor time of a process in seconds.
fn processor(child: &Child) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / 100.0
}

/// Resident memory of a process in KiB.
fn resident(child: &Child) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[derive(Default)]
struct Crowd {
    /// Clients that have their snapshot.
    complete: AtomicUsize,
    bytes: AtomicU64,
    /// Nanoseconds from the write to the read.
    delays: Mutex<Vec<u64>>,
    snapshots: Mutex<Vec<Duration>>,
}

async fn client(address: String, number: usize, crowd: Arc<Crowd>) {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let hello = ClientHello { protocol: PROTOCOL, min_protocol: PROTOCOL, ..ClientHello::default() };
    stream.write_all(&Frame::ClientHello(hello).encode()).await.unwrap();
    let mut chunk = vec![0; 64 * 1024];
    // Type of the frame in hand, and how much of it is to come.
    let (mut head, mut kind, mut left) = (Vec::with_capacity(6), 0, 0_usize);
    let mut held = bytes::BytesMut::new();
    let mut following = false;
    loop {
        let read = match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        crowd.bytes.fetch_add(read as u64, Ordering::Relaxed);
        let mut rest = &chunk[..read];
        while !rest.is_empty() {
            if left == 0 && head.len() < 6 {
                let take = rest.len().min(6 - head.len());
                head.extend_from_slice(&rest[..take]);
                rest = &rest[take..];
                if head.len() < 6 {
                    break;
                }
                left = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize - 2;
                kind = head[4];
                held.extend_from_slice(&head);
            }
            let take = rest.len().min(left);
            let wanted = kind == 7 || (kind == 4 && following && number.is_multiple_of(SAMPLE));
            if wanted {
                held.extend_from_slice(&rest[..take]);
            }
            rest = &rest[take..];
            left -= take;
            if left > 0 {
                break;
            }
            head.clear();
            if wanted {
                match decode(&mut held, 16 << 20).unwrap().unwrap() {
                    Frame::Ping(beat) => stream.write_all(&Frame::Pong(beat).encode()).await.unwrap(),
                    Frame::KvBatch(batch) => {
                        let now = nanos();
                        let mut delays = crowd.delays.lock().unwrap();
                        for kv in batch.kvs {
                            let text = std::str::from_utf8(&kv.value).unwrap();
                            let then: u128 = text.split(' ').next().unwrap().parse().unwrap();
                            delays.push(u64::try_from(now.saturating_sub(then)).unwrap());
                        }
                    }
                    _ => {}
                }
            }
            held.clear();
            if kind == 5 && !following {
                following = true;
                crowd.snapshots.lock().unwrap().push(begun.elapsed());
                crowd.complete.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

async fn wait_for(crowd: &Crowd, count: usize) {
    while crowd.complete.load(Ordering::Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn percentile<T: Copy + Ord>(values: &mut [T], percent: usize) -> T {
    values.sort_unstable();
    values[(values.len() - 1) * percent / 100]
}

fn main() {
    if std::env::var_os("CALICO_BENCH_SERVER").is_some() {
        return server();
    }
    let clients: usize = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(2_000);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env("CALICO_BENCH_SERVER", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut commands = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.next().unwrap().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let crowd = Arc::new(Crowd::default());
    runtime.block_on(async {
        // The first one makes the server read the store and encode the snapshot; the second one meets it ready.
        let alone = |number: usize| {
            runtime.spawn(client(address.clone(), number, Arc::clone(&crowd)));
            wait_for(&crowd, number)
        };
        alone(1).await;
        // The first client may have come before the server was in sync: its snapshot is then a stream.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = crowd.bytes.load(Ordering::Relaxed);
        alone(2).await;
        let ready = crowd.snapshots.lock().unwrap()[1];
        let size = (crowd.bytes.load(Ordering::Relaxed) - before) as f64 / f64::from(1 << 20);
        println!("fanout/snapshot of {OBJECTS}: {size:.1} MiB in {ready:?} to one client");
        let (base, used, begun) = (resident(&child), processor(&child), Instant::now());
        for number in 3..=clients {
            runtime.spawn(client(address.clone(), number, Arc::clone(&crowd)));
            // A wave at a time, as nodes restart.
            wait_for(&crowd, number.saturating_sub(64)).await;
        }
        wait_for(&crowd, clients).await;
        let (joined, used) = (begun.elapsed(), processor(&child) - used);
        let mut times = crowd.snapshots.lock().unwrap().clone();
        println!(
            "fanout/{clients} clients join, 64 at a time: {joined:?}, {used:.2} s of processor in the server; one snapshot p50 {:?}, p99 {:?}",
            percentile(&mut times, 50),
            percentile(&mut times, 99)
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
        println!(
            "fanout/memory of an idle client: {:.1} KiB ({:.0} MiB with objects and {clients} clients)",
            (resident(&child) - base) / (clients - 2) as f64,
            resident(&child) / 1024.0
        );
        crowd.delays.lock().unwrap().clear();
        let (used, bytes, begun) = (processor(&child), crowd.bytes.load(Ordering::Relaxed), Instant::now());
        writeln!(commands, "{}", UPDATES_PER_SECOND * SECONDS).unwrap();
        let done = tokio::task::spawn_blocking(move || lines.next()).await.unwrap();
        assert_eq!(done.unwrap().unwrap(), "done");
        let (took, used) = (begun.elapsed(), processor(&child) - used);
        let bytes = crowd.bytes.load(Ordering::Relaxed) - bytes;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut delays = std::mem::take(&mut *crowd.delays.lock().unwrap());
        println!(
            "fanout/{} updates in {took:?} to {clients} clients: {:.2} cores, {:.0} clients per core, {:.0} MB/s, delay p50 {:.1} ms, p99 {:.1} ms ({} seen by samples)",
            UPDATES_PER_SECOND * SECONDS,
            used / took.as_secs_f64(),
            clients as f64 / (used / took.as_secs_f64()),
            bytes as f64 / took.as_secs_f64() / 1e6,
            percentile(&mut delays, 50) as f64 / 1e6,
            percentile(&mut delays, 99) as f64 / 1e6,
            delays.len()
        );
    });
    child.kill().unwrap();
    child.wait().unwrap();
    runtime.shutdown_timeout(Duration::from_millis(100));
}
