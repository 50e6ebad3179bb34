//! The committed corpus, old crashes among it, on a stable compiler.

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut folders = BTreeSet::new();
    for entry in std::fs::read_dir(&root).expect("corpus/ is there") {
        folders.insert(entry.expect("readable folder").file_name().into_string().expect("plain name"));
    }
    let targets: BTreeSet<String> =
        calico_fuzz::TARGETS.iter().map(|(name, _)| (*name).to_string()).collect();
    assert_eq!(folders, targets, "each target has a folder and each folder a target");
    for (name, target) in calico_fuzz::TARGETS {
        let mut inputs: Vec<_> = std::fs::read_dir(root.join(name))
            .expect("folder of the target")
            .map(|entry| entry.expect("readable input").path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "corpus/{name} has no input");
        for path in inputs {
            println!("{}", path.display());
            target(&std::fs::read(&path).expect("readable input"));
        }
    }
}
