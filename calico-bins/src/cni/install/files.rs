//! Files that appear whole or not at all, and the list of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha1::{Digest as _, Sha1};

use super::settings::{Change, InstallError, Settings};

/// The installed files, by path, with a digest of their content: what somebody replaced since is not ours.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    path: PathBuf,
    files: BTreeMap<PathBuf, String>,
}

impl Manifest {
    /// Reads the list; an absent one is empty.
    ///
    /// # Errors
    /// [`InstallError::Io`], [`InstallError::Manifest`].
    pub fn open(settings: &Settings) -> Result<Self, InstallError> {
        let path = settings.manifest_path();
        let files = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|e| InstallError::Manifest { path: path.clone(), reason: e.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(InstallError::io("read", &path)(error)),
        };
        Ok(Self { path, files })
    }

    /// Writes the list.
    ///
    /// # Errors
    /// [`InstallError::Io`].
    pub fn save(&self) -> Result<(), InstallError> {
        let text = serde_json::to_vec_pretty(&self.files).unwrap_or_default();
        replace(&self.path, &text, 0o600)
    }

    /// The paths.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    fn add(&mut self, path: &Path, content: &[u8]) {
        self.files.insert(path.to_owned(), digest(content));
    }

    /// Removes the files that are still as they were installed.
    pub(super) fn remove_listed(&self) -> Vec<Result<Option<Change>, InstallError>> {
        let is_ours =
            |path: &Path, listed: &str| fs::read(path).is_ok_and(|content| digest(&content) == listed);
        let ours = self.files.iter().filter(|(path, listed)| is_ours(path, listed));
        ours.map(|(path, _)| remove(path)).collect()
    }
}

fn digest(content: &[u8]) -> String {
    Sha1::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name that a file has until it is whole.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Writes a file beside its place, syncs it and renames it.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError> {
    let unfinished = unfinished(path);
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(InstallError::io("make", dir))?;
    let written = (|| {
        // What an interrupted installer left may be a link to the program itself.
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::File::create_new(&unfinished)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        fs::File::open(dir)?.sync_all()
    })();
    written.map_err(|error| {
        let _ = fs::remove_file(&unfinished);
        InstallError::io("write", path)(error)
    })
}

/// Writes a file unless it is there with the same content and mode.
pub(super) fn write(
    path: &Path,
    content: &[u8],
    mode: u32,
    manifest: &mut Manifest,
) -> Result<Option<Change>, InstallError> {
    manifest.add(path, content);
    if is_same(path, content, mode) {
        return Ok(None);
    }
    replace(path, content, mode)?;
    if is_same(path, content, mode) {
        return Ok(Some(Change::Written(path.to_owned())));
    }
    Err(InstallError::io("verify", path)(io::Error::other("it does not hold what was written")))
}

fn is_same(path: &Path, content: &[u8], mode: u32) -> bool {
    let Ok(mut file) = fs::File::open(path) else { return false };
    let Ok(metadata) = file.metadata() else { return false };
    if metadata.len() != content.len() as u64 || metadata.permissions().mode() & 0o7777 != mode {
        return false;
    }
    let mut existing = Vec::with_capacity(content.len());
    file.read_to_end(&mut existing).is_ok() && existing == content
}

/// Makes `path` another name of the file at `program`.
fn link(path: &Path, program: &Path) -> Result<Option<Change>, InstallError> {
    let identity = |path: &Path| fs::symlink_metadata(path).map(|m| (m.dev(), m.ino())).ok();
    if identity(path).is_some() && identity(path) == identity(program) {
        return Ok(None);
    }
    let unfinished = unfinished(path);
    let _ = fs::remove_file(&unfinished);
    let linked = fs::hard_link(program, &unfinished).and_then(|()| fs::rename(&unfinished, path));
    linked.map_err(InstallError::io("link", path))?;
    Ok(Some(Change::Written(path.to_owned())))
}

/// Removes a file or a directory with all that is in it. `None` when there is nothing.
pub(super) fn remove(path: &Path) -> Result<Option<Change>, InstallError> {
    let _ = fs::remove_file(unfinished(path));
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => Ok(Some(Change::Removed(path.to_owned()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(InstallError::io("remove", path)(error)),
    }
}

/// Installs the programs into every directory that can be written. `calico-ipam` becomes another name of `calico`,
/// which then need not start it as a program.
pub(super) fn binaries(settings: &Settings, manifest: &mut Manifest) -> Result<Vec<Change>, InstallError> {
    let directories = settings.bin_dirs();
    let usable: Vec<&PathBuf> = directories.iter().filter(|dir| is_writable(dir, settings)).collect();
    if usable.is_empty() {
        let there = |dir: &PathBuf| ["calico", "calico-ipam"].iter().all(|name| dir.join(name).is_file());
        if !settings.update_binaries && directories.iter().any(there) {
            return Ok(Vec::new());
        }
        return Err(InstallError::NoDirectory { directories });
    }
    if !settings.plugin.is_file() {
        return Err(InstallError::NoPlugin { path: settings.plugin.clone() });
    }
    let plugin = fs::read(&settings.plugin).map_err(InstallError::io("read", &settings.plugin))?;
    let others = others(settings)?;
    let mut changes = Vec::new();
    for dir in usable {
        let skipped = |name: &str| {
            settings.skip_binaries.iter().any(|skip| skip == name)
                || !settings.update_binaries && dir.join(name).is_file()
        };
        let (calico, ipam) = (dir.join("calico"), dir.join("calico-ipam"));
        if !skipped("calico") {
            changes.extend(write(&calico, &plugin, 0o755, manifest)?);
        }
        if !skipped("calico-ipam") {
            manifest.add(&ipam, &plugin);
            // Without `calico`, or on a file system without links, it is a file of its own.
            let linked = if skipped("calico") { None } else { link(&ipam, &calico).ok() };
            match linked {
                Some(change) => changes.extend(change),
                None => changes.extend(write(&ipam, &plugin, 0o755, manifest)?),
            }
        }
        for (name, file) in others.iter().filter(|(name, _)| !skipped(name)) {
            let content = fs::read(file).map_err(InstallError::io("read", file))?;
            let target = dir.join(name);
            // What somebody else installed already, and is the same, stays theirs.
            if is_same(&target, &content, 0o755) && !manifest.files.contains_key(&target) {
                continue;
            }
            changes.extend(write(&target, &content, 0o755, manifest)?);
        }
    }
    Ok(changes)
}

fn is_writable(dir: &Path, settings: &Settings) -> bool {
    // On the node itself the directory is made; in a container it is mounted or not wanted.
    if settings.root == Path::new("/") && dir == settings.bin_dirs()[0] {
        let _ = fs::create_dir_all(dir);
    }
    let probe = dir.join(".calico-writable.tmp");
    let writable = fs::write(&probe, "").is_ok();
    let _ = fs::remove_file(probe);
    writable
}

/// The further plugins of the source directory.
fn others(settings: &Settings) -> Result<Vec<(String, PathBuf)>, InstallError> {
    let Some(source) = &settings.source else { return Ok(Vec::new()) };
    let entries = fs::read_dir(source).map_err(InstallError::io("list", source))?;
    let mut others: Vec<(String, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .filter(|(name, _)| !matches!(name.as_str(), "install" | "calico" | "calico-ipam" | "calico-node"))
        .collect();
    others.sort();
    Ok(others)
}

/// Copies the credentials for etcd, if there are any.
pub(super) fn tls(settings: &Settings, manifest: &mut Manifest) -> Result<Vec<Change>, InstallError> {
    let mut changes = Vec::new();
    for name in ["etcd-ca", "etcd-cert", "etcd-key"] {
        let source = settings.tls_assets.join(name);
        let target = settings.tls_dir().join(name);
        match fs::read(&source) {
            Ok(content) => changes.extend(write(&target, &content, 0o600, manifest)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => changes.extend(remove(&target)?),
            Err(error) => return Err(InstallError::io("read", &source)(error)),
        }
    }
    Ok(changes)
}
