//! Manifests as people write them, right and wrong, through `calicoctl validate -f`. What it says of each is beside it
//! (`UPDATE_EXPECT=1` writes it): a wrong manifest must be understood from that alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect_file;

#[test]
fn manifests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/validate");
    let entries = std::fs::read_dir(&folder).expect("tests/validate is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "yaml" || e == "json"));
    files.sort();
    assert!(files.len() >= 20, "only {} manifests in {}", files.len(), folder.display());
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).expect("plain name");
        let output = Command::new(env!("CARGO_BIN_EXE_calicoctl"))
            .args(["validate", "-f", name])
            .current_dir(&folder)
            .output()
            .expect("calicoctl runs");
        assert_eq!(output.status.success(), name.starts_with("good"), "{name}: {output:?}");
        let said = [output.stdout, output.stderr].concat();
        expect_file![file.with_extension("said")].assert_eq(&String::from_utf8_lossy(&said));
    }
}
