//! Passwords of BGP sessions, from files: a Kubernetes Secret is mounted as a directory with a file per key.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use calico_bgp::mesh::{Mesh, SecretRef};

/// Where the directories of secrets are unless told otherwise.
pub const DEFAULT_DIRECTORY: &str = "/etc/calico/bgp-secrets";

/// The environment variable that names another directory.
pub const VARIABLE: &str = "CALICO_BGP_SECRETS";

/// The directory that the environment names.
pub fn directory() -> PathBuf {
    std::env::var_os(VARIABLE).map_or_else(|| DEFAULT_DIRECTORY.into(), PathBuf::from)
}

/// The password in `directory/<name>/<key>`, without the line end that editors add.
///
/// # Errors
/// Why it cannot be had, with the path: such a session stays down.
pub fn read(directory: &Path, secret: &SecretRef) -> Result<Arc<[u8]>, Arc<str>> {
    for part in [&secret.name, &secret.key] {
        let mut components = Path::new(part).components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
            return Err(format!("{part:?} is no name of a secret or of a key in it").into());
        }
    }
    let path = directory.join(&secret.name).join(&secret.key);
    let mut text = std::fs::read(&path).map_err(|error| -> Arc<str> {
        format!("secret {}/{}: cannot read {}: {error}", secret.name, secret.key, path.display()).into()
    })?;
    while text.last().is_some_and(|octet| matches!(octet, b'\n' | b'\r')) {
        text.pop();
    }
    Ok(text.into())
}

/// Reads all wanted secrets into `mesh`; `true` when one of them changed.
pub fn supply(mesh: &mut Mesh, directory: &Path, wanted: &BTreeSet<SecretRef>) -> bool {
    let mut changed = false;
    for secret in wanted {
        changed |= mesh.set_secret(secret.clone(), read(directory, secret));
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, key: &str) -> SecretRef {
        SecretRef { name: name.into(), key: key.into() }
    }

    #[test]
    fn a_mounted_secret_is_read_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bgp")).unwrap();
        std::fs::write(dir.path().join("bgp/pw"), "s3cret\n").unwrap();
        std::fs::write(dir.path().join("outside"), "x").unwrap();
        assert_eq!(&*read(dir.path(), &secret("bgp", "pw")).unwrap(), b"s3cret");
        let missing = read(dir.path(), &secret("bgp", "other")).unwrap_err();
        assert!(missing.contains("bgp/other") && missing.contains("No such file"), "{missing}");
        for (name, key) in [("..", "outside"), ("bgp", "../outside"), ("/etc", "hostname"), ("", "outside")] {
            assert!(read(dir.path(), &secret(name, key)).unwrap_err().contains("is no name"), "{name} {key}");
        }
    }
}
