//! What only the embedded store promises: files, several processes, compaction, backups, damage, a full disk.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use calico_datastore::{Backend, Expect, KeyRanges, RawWrite, SqliteOptions, SqliteStore, StoreError};
use futures::StreamExt;

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(SqliteOptions::new(path)).unwrap()
}

fn put(store: &SqliteStore, key: &str, value: &str) -> u64 {
    let write = RawWrite::put(key, Expect::Any, value.as_bytes());
    store.txn_blocking(&[write]).unwrap().revision
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store/calico.db");
    (directory, path)
}

#[test]
fn files_are_private() {
    let (_directory, path) = scratch();
    let store = open(&path);
    put(&store, "/calico/a", "1");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for entry in fs::read_dir(path.parent().unwrap()).unwrap() {
        let entry = entry.unwrap().path();
        assert_eq!(mode(&entry), 0o600, "{}", entry.display());
    }
    let backup = path.with_file_name("copy.db");
    store.backup_blocking(&backup).unwrap();
    assert_eq!(mode(&backup), 0o600);
}

#[test]
fn files_of_others_are_refused_and_left_alone() {
    let (directory, _) = scratch();
    let text = directory.path().join("text");
    fs::write(&text, "hello, this is a diary and not a database, please keep it".repeat(20)).unwrap();
    let before = fs::read(&text).unwrap();
    assert!(matches!(SqliteStore::open(SqliteOptions::new(&text)), Err(StoreError::Foreign { .. })));
    assert!(matches!(
        SqliteStore::open(SqliteOptions::new(&text).maintained()),
        Err(StoreError::Foreign { .. })
    ));
    assert_eq!(fs::read(&text).unwrap(), before);

    let other = directory.path().join("other.db");
    let connection = rusqlite::Connection::open(&other).unwrap();
    connection.execute_batch("CREATE TABLE songs(title); PRAGMA user_version=7;").unwrap();
    drop(connection);
    assert!(matches!(SqliteStore::open(SqliteOptions::new(&other)), Err(StoreError::Foreign { .. })));
}

#[test]
fn a_newer_schema_is_refused() {
    let (_directory, path) = scratch();
    drop(open(&path));
    rusqlite::Connection::open(&path).unwrap().execute_batch("PRAGMA user_version=99").unwrap();
    let error = SqliteStore::open(SqliteOptions::new(&path)).unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { found: 99, known: 1, .. }), "{error}");
}

#[test]
fn many_openers_create_one_store() {
    let (_directory, path) = scratch();
    let identities: Vec<String> = std::thread::scope(|scope| {
        let open = || open(&path).info_blocking().unwrap().identity;
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(identities.iter().all(|identity| Some(identity) == identities.first()), "{identities:?}");
}

#[tokio::test]
async fn a_watch_wakes_for_writes_of_another_opener() {
    let (_directory, path) = scratch();
    let (reader, writer) = (open(&path), open(&path));
    let from = reader.info_blocking().unwrap().revision;
    let mut watch = reader.watch(&KeyRanges::prefix("/calico/"), from).await.unwrap();
    for n in 0..50_u32 {
        let began = Instant::now();
        let other = writer.clone();
        let revision =
            tokio::task::spawn_blocking(move || put(&other, "/calico/a", &n.to_string())).await.unwrap();
        loop {
            let batch = watch.next().await.unwrap().unwrap();
            if batch.revision >= revision {
                assert_eq!(&*batch.events.last().unwrap().value.clone().unwrap(), n.to_string().as_bytes());
                break;
            }
        }
        // Far below the one-second fallback: the notification arrived.
        assert!(began.elapsed() < Duration::from_millis(700), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn compaction_expires_old_revisions_only() {
    let (_directory, path) = scratch();
    let options =
        SqliteOptions { retain_revisions: 100, retain_age: Duration::ZERO, ..SqliteOptions::new(&path) };
    let store = SqliteStore::open(options).unwrap();
    let first = put(&store, "/calico/a", "0");
    let mut lagging = store.watch(&KeyRanges::prefix("/calico/"), first).await.unwrap();
    for n in 0..1_200 {
        put(&store, "/calico/a", &n.to_string());
    }
    while store.compact_blocking().unwrap().is_some() {}
    let newest = store.info_blocking().unwrap().revision;
    let ranges = KeyRanges::prefix("/calico/");
    let Err(error) = store.watch(&ranges, newest - 101).await else { panic!("must be expired") };
    assert_eq!(error, StoreError::Expired { requested: newest - 101, oldest: newest - 100 });
    let error = lagging.next().await.unwrap().unwrap_err();
    assert!(error.is_expired(), "{error}");
    assert!(lagging.next().await.is_none());
    let mut watch = store.watch(&ranges, newest - 100).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 100);
}

#[tokio::test]
async fn young_revisions_survive_compaction() {
    let (_directory, path) = scratch();
    let store =
        SqliteStore::open(SqliteOptions { retain_revisions: 10, ..SqliteOptions::new(&path) }).unwrap();
    let first = put(&store, "/calico/a", "0");
    for n in 0..50 {
        put(&store, "/calico/a", &n.to_string());
    }
    assert_eq!(store.compact_blocking().unwrap(), None);
    let mut watch = store.watch(&KeyRanges::prefix("/calico/"), first).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 50);
}

#[tokio::test]
async fn a_restore_never_steps_back() {
    let (_directory, path) = scratch();
    let (store, other) = (open(&path), open(&path));
    put(&store, "/calico/kept", "1");
    let copy = path.with_file_name("copy.db");
    store.backup_blocking(&copy).unwrap();
    assert!(store.backup_blocking(&copy).is_err(), "a backup must not overwrite");
    let later = put(&store, "/calico/later", "1");
    let identity = store.info_blocking().unwrap().identity;
    let mut watch = other.watch(&KeyRanges::prefix("/calico/"), later).await.unwrap();
    store.restore_blocking(&copy).unwrap();
    let info = other.info_blocking().unwrap();
    assert!(info.revision > later);
    assert_ne!(info.identity, identity);
    assert!(watch.next().await.unwrap().unwrap_err().is_expired());
    let list = other.list_blocking(&KeyRanges::prefix("/calico/")).unwrap();
    assert_eq!(list.entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["/calico/kept"]);
}

/// Overwrites pages in the middle of the file.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let length = bytes.len();
    assert!(length > 3 * 4096, "{length}");
    bytes[4096..length].fill(0x5a);
    fs::write(path, bytes).unwrap();
}

/// A store whose whole content is in the main file.
fn filled(path: &Path) -> u64 {
    let store = open(path);
    let mut last = 0;
    for n in 0..50 {
        last = put(&store, &format!("/calico/{n}"), &"x".repeat(500));
    }
    drop(store);
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).unwrap();
    last
}

#[test]
fn a_damaged_store_is_moved_aside_and_restored() {
    let (_directory, path) = scratch();
    let last = filled(&path);
    let backups = path.with_file_name("calico.db-backups");
    fs::create_dir(&backups).unwrap();
    open(&path).backup_blocking(&backups.join("000000000000001.db")).unwrap();
    // A newer backup that is damaged as well is passed over.
    fs::copy(backups.join("000000000000001.db"), backups.join("000000000000002.db")).unwrap();
    fs::write(backups.join("000000000000002.db"), vec![1; 9_000]).unwrap();
    damage(&path);
    let store = SqliteStore::open(SqliteOptions::new(&path).maintained()).unwrap();
    assert_eq!(store.list_blocking(&KeyRanges::prefix("/calico/")).unwrap().entries.len(), 50);
    assert!(store.info_blocking().unwrap().revision > last);
    let aside = fs::read_dir(path.parent().unwrap())
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("damaged"))
        .count();
    assert_eq!(aside, 1);
}

#[test]
fn a_damaged_store_without_backup_starts_empty() {
    let (_directory, path) = scratch();
    filled(&path);
    damage(&path);
    let store = SqliteStore::open(SqliteOptions::new(&path).maintained()).unwrap();
    assert_eq!(store.list_blocking(&KeyRanges::prefix("/")).unwrap().entries.len(), 0);
    put(&store, "/calico/a", "1");
}

#[test]
fn a_damaged_store_in_use_is_not_touched() {
    let (_directory, path) = scratch();
    filled(&path);
    let user = open(&path);
    damage(&path);
    let error = SqliteStore::open(SqliteOptions::new(&path).maintained()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(path.exists());
    drop(user);
}

#[test]
fn a_file_that_is_removed_is_noticed() {
    let (_directory, path) = scratch();
    let store = open(&path);
    put(&store, "/calico/a", "1");
    fs::remove_file(&path).unwrap();
    let write = RawWrite::put("/calico/a", Expect::Any, *b"2");
    assert!(matches!(store.txn_blocking(&[write]), Err(StoreError::Unreachable { .. })));
}

#[test]
fn deep_json_and_large_values_are_only_bytes() {
    let (_directory, path) = scratch();
    let store = open(&path);
    put(&store, "/calico/deep", &"[".repeat(10_000));
    put(&store, "/calico/large", &"x".repeat(1 << 20));
    assert_eq!(store.get_blocking("/calico/large").unwrap().unwrap().value.len(), 1 << 20);
}

/// Runs in a child inside a mount namespace with a tiny file system; does nothing in a normal test run.
#[test]
fn full_disk_child() {
    let Ok(directory) = std::env::var("CALICO_TEST_FULL_DISK") else { return };
    let store = open(&Path::new(&directory).join("calico.db"));
    let mut written = 0;
    let error = loop {
        let write = RawWrite::put(format!("/calico/{written}"), Expect::Absent, vec![b'x'; 20_000]);
        match store.txn_blocking(&[write]) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1_000, "the disk never filled up");
    };
    assert!(matches!(&error, StoreError::ReadOnly { .. }), "{error:?}");
    assert!(error.to_string().contains("full"), "{error}");
    let list = store.list_blocking(&KeyRanges::prefix("/calico/")).unwrap();
    assert_eq!(list.entries.len(), written, "reading goes on");
    // A delete may need a page of log as well; once there is room everything goes on.
    fs::remove_file(Path::new(&directory).join("ballast")).unwrap();
    put(&store, "/calico/after", "1");
}

#[test]
fn a_full_disk_makes_the_store_read_only() {
    let (directory, _) = scratch();
    let mount = directory.path().join("small");
    fs::create_dir(&mount).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=2m tmpfs {0} && dd if=/dev/zero of={0}/ballast bs=1k count=700 2>/dev/null && \
         CALICO_TEST_FULL_DISK={0} exec {1} --exact full_disk_child --nocapture",
        mount.display(),
        std::env::current_exe().unwrap().display(),
    );
    let namespaces = ["-rm", "true"];
    if !Command::new("unshare").args(namespaces).status().is_ok_and(|status| status.success()) {
        eprintln!(
            "skipped: a_full_disk_makes_the_store_read_only: needs unprivileged user namespaces (or root)"
        );
        return;
    }
    let output = Command::new("unshare").args(["-rm", "sh", "-c", &script]).output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}
