//! Logging of the plugins: standard error, and a file when the configuration names one. Never standard output,
//! which carries the answer.

use std::fs::OpenOptions;
use std::path::Path;

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
    let writer = match open(&conf.log_file_path) {
        Some(file) => BoxMakeWriter::new(to_stderr.and(std::sync::Mutex::new(file))),
        None => BoxMakeWriter::new(to_stderr),
    };
    let subscriber =
        tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(writer).finish();
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        tracing::debug!(plugin, "started");
    }
}

fn open(path: &str) -> Option<std::fs::File> {
    if path.is_empty() {
        return None;
    }
    if let Some(dir) = Path::new(path).parent() {
        let _ = std::fs::create_dir_all(dir);
    }
    OpenOptions::new().append(true).create(true).open(path).ok()
}
