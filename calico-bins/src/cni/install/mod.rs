//! Putting the CNI plugins and their configuration on a node, and taking them away again.
//!
//! `calico-node install-cni` takes its settings from the variables that Calico's own installer takes. Every file
//! appears whole or not at all: it is written beside its place, synced and renamed. What was written is listed in a
//! file beside the network configuration, so that `calico-node uninstall-cni` removes exactly that.

mod config;
mod files;
mod settings;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

pub use files::Manifest;
pub use settings::{Change, InstallError, Settings};

/// How often a sleeping installer looks whether credentials changed.
const PERIOD: Duration = Duration::from_secs(10);

/// Installs the CNI plugins on this node.
///
/// Settings come from the variables of Calico's installer: CNI_NET_DIR, CNI_CONF_NAME, CNI_OLD_CONF_NAME,
/// CNI_NETWORK_CONFIG, CNI_NETWORK_CONFIG_FILE, TLS_ASSETS_DIR, SKIP_CNI_BINARIES, UPDATE_CNI_BINARIES, SLEEP,
/// CNI_MTU, KUBERNETES_NODE_NAME, DATASTORE_TYPE, LOG_LEVEL, LOG_FILE_PATH and others.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "calico-node install-cni",
    bin_name = "calico-node install-cni",
    version,
    max_term_width = 100
)]
pub struct Arguments {
    /// Where the node's file system is mounted; /host when that exists, else /.
    #[arg(long, env = "CNI_HOST_ROOT")]
    pub root: Option<PathBuf>,
    /// A directory whose other plugins (portmap, bandwidth, …) are installed as well.
    #[arg(long, env = "CNI_SOURCE_DIR")]
    pub source: Option<PathBuf>,
}

impl Arguments {
    fn settings(&self) -> Result<Settings, InstallError> {
        let host = Path::new("/host");
        let fallback = if host.is_dir() { host } else { Path::new("/") };
        let root = self.root.clone().unwrap_or_else(|| fallback.to_owned());
        let own = std::env::current_exe().map_err(InstallError::io("find", Path::new("this program")))?;
        Settings::read(|name| std::env::var(name).ok(), &root, &own, self.source.clone())
    }
}

/// Runs `install-cni` or `uninstall-cni` when the first argument of this process asks for it.
pub fn main_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let program = arguments.next()?;
    let verb = arguments.next()?;
    let rest = std::iter::once(program).chain(arguments);
    let outcome = match verb.to_str()? {
        "install-cni" => Arguments::parse_from(rest).settings().and_then(|settings| run(&settings)),
        "uninstall-cni" => Arguments::parse_from(rest)
            .settings()
            .and_then(|settings| uninstall(&settings))
            .map(|changes| changes.iter().for_each(say)),
        _ => return None,
    };
    Some(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    })
}

fn say(change: &Change) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{change}");
}

fn run(settings: &Settings) -> Result<(), InstallError> {
    install(settings)?.iter().for_each(say);
    if !settings.sleep {
        return Ok(());
    }
    loop {
        std::thread::sleep(PERIOD);
        // Credentials are renewed under the same names; what did not change is not written.
        refresh(settings)?.iter().for_each(say);
    }
}

/// Installs everything. Returns what was changed; nothing when all was there already.
///
/// # Errors
/// [`InstallError`] names the file and what would be right. What was written before stays, and is listed.
pub fn install(settings: &Settings) -> Result<Vec<Change>, InstallError> {
    let mut manifest = Manifest::open(settings)?;
    let mut changes = files::binaries(settings, &mut manifest)?;
    changes.extend(credentials(settings, &mut manifest)?);
    let text = config::render(settings)?;
    changes.extend(files::write(&settings.conf_path(), text.as_bytes(), 0o600, &mut manifest)?);
    if settings.old_conf_name != settings.conf_name {
        changes.extend(files::remove(&settings.net_dir().join(&settings.old_conf_name))?);
    }
    manifest.save()?;
    Ok(changes)
}

/// Writes credentials again when their source changed.
///
/// # Errors
/// As [`install`].
pub fn refresh(settings: &Settings) -> Result<Vec<Change>, InstallError> {
    let mut manifest = Manifest::open(settings)?;
    let changes = credentials(settings, &mut manifest)?;
    if !changes.is_empty() {
        manifest.save()?;
    }
    Ok(changes)
}

fn credentials(settings: &Settings, manifest: &mut Manifest) -> Result<Vec<Change>, InstallError> {
    let mut changes = files::tls(settings, manifest)?;
    if let Some(text) = config::kubeconfig(settings)? {
        changes.extend(files::write(&settings.kubeconfig_path(), text.as_bytes(), 0o600, manifest)?);
    }
    Ok(changes)
}

/// Removes every trace: the configuration first, so that no runtime starts a plugin that is gone; then the listed
/// files, unless somebody replaced them; then what the plugins themselves left. Fine when there is nothing.
///
/// # Errors
/// [`InstallError`] for the first file that cannot be removed, after all were tried.
pub fn uninstall(settings: &Settings) -> Result<Vec<Change>, InstallError> {
    let manifest = Manifest::open(settings)?;
    let mut outcomes = vec![files::remove(&settings.conf_path())];
    outcomes.extend(manifest.remove_listed());
    outcomes.push(files::remove(&settings.kubeconfig_path()));
    outcomes.extend(settings.left_by_plugins().iter().map(|path| files::remove(path)));
    outcomes.push(files::remove(&settings.tls_dir()));
    let mut changes = Vec::new();
    let mut failure = None;
    for outcome in outcomes {
        match outcome {
            Ok(change) => changes.extend(change),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        Some(error) => Err(error),
        // The list goes last: a second try must know what to do.
        None => {
            changes.extend(files::remove(&settings.manifest_path())?);
            Ok(changes)
        }
    }
}

#[cfg(test)]
mod tests;
