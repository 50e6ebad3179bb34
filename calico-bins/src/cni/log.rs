//! Logging of the plugins: standard error, and a file when the configuration names one. Never standard output,
//! which carries the answer.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt as _};

use super::conf::NetConf;

/// Starts logging as `conf` says. A file that cannot be opened is no reason to fail.
pub(super) fn start(plugin: &'static str, conf: &NetConf) {
    let level = match conf.log_level.to_ascii_lowercase().as_str() {
        "debug" => tracing::Level::DEBUG,
        "error" => tracing::Level::ERROR,
        "warning" | "warn" => tracing::Level::WARN,
        _ => tracing::Level::INFO,
    };
    let to_stderr = std::io::stderr.with_max_level(tracing::Level::WARN);
    let writer = match open(conf) {
        Some(file) => BoxMakeWriter::new(to_stderr.and(std::sync::Mutex::new(file))),
        None => BoxMakeWriter::new(to_stderr),
    };
    let subscriber =
        tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(writer).finish();
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        tracing::debug!(plugin, "started");
    }
}

fn open(conf: &NetConf) -> Option<std::fs::File> {
    if conf.log_file_path.is_empty() {
        return None;
    }
    let path = Path::new(&conf.log_file_path);
    if let Some(dir) = path.parent() {
        let _ = std::fs::create_dir_all(dir);
    }
    let limits = Limits::of(conf);
    if path.metadata().is_ok_and(|file| file.len() >= limits.bytes) {
        rotate(path, &limits, SystemTime::now());
    }
    OpenOptions::new().append(true).create(true).open(path).ok()
}

struct Limits {
    bytes: u64,
    age: Duration,
    count: usize,
}

impl Limits {
    fn of(conf: &NetConf) -> Self {
        let or = |value: u64, default| if value == 0 { default } else { value };
        Self {
            bytes: or(conf.log_file_max_size, 100).saturating_mul(1 << 20),
            age: Duration::from_secs(or(conf.log_file_max_age, 30).saturating_mul(86_400)),
            count: if conf.log_file_max_count == 0 { 10 } else { conf.log_file_max_count },
        }
    }
}

/// Renames the full file to one with the time in its name, and removes those that are too old or too many. Plugins
/// that still have it open write to its end. Nothing of this may keep a pod from starting.
fn rotate(path: &Path, limits: &Limits, now: SystemTime) {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return };
    let stamp = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let _ = std::fs::rename(path, path.with_file_name(format!("{name}.{stamp:015}")));
    let dir = path.parent().unwrap_or(Path::new("."));
    let prefix = format!("{name}.");
    let mut kept: Vec<(PathBuf, SystemTime)> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let stamp = name.to_str().and_then(|name| name.strip_prefix(&prefix));
            stamp.is_some_and(|stamp| stamp.len() == 15 && stamp.bytes().all(|b| b.is_ascii_digit()))
        })
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.modified().ok()?)))
        .collect();
    kept.sort();
    kept.reverse();
    for (index, (file, modified)) in kept.iter().enumerate() {
        if index >= limits.count || now.duration_since(*modified).is_ok_and(|age| age > limits.age) {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_rotated_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cni.log");
        let limits = Limits { bytes: 1, age: Duration::from_secs(1000), count: 2 };
        let files = || std::fs::read_dir(dir.path()).unwrap().count();
        for second in 0..5 {
            std::fs::write(&path, "line").unwrap();
            rotate(&path, &limits, SystemTime::now() + Duration::from_secs(second));
        }
        std::fs::write(dir.path().join("cni.log.old"), "somebody else's").unwrap();
        assert_eq!(files(), 3, "two rotated files and the foreign one");
        rotate(&path, &limits, SystemTime::now() + Duration::from_secs(5000));
        assert_eq!(files(), 1);
    }

    #[test]
    fn the_defaults_are_those_of_the_reference() {
        let limits = Limits::of(&NetConf::default());
        assert_eq!((limits.bytes, limits.age.as_secs(), limits.count), (100 << 20, 30 * 86_400, 10));
    }
}
