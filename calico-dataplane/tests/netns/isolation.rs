//! A network namespace per test, with or without root.

use std::process::Command;

use calico_dataplane::netns::{NamespaceError, NetNs};

const INSIDE: &str = "CALICO_TEST_INSIDE";

/// Reports that `name` cannot run here.
pub(crate) fn skip(name: &str, why: &str) {
    assert!(std::env::var_os("CALICO_NO_SKIP").is_none(), "{name} may not be skipped here: {why}");
    println!("skipped: {name}: {why}");
}

/// Runs `test` on a thread inside a new, empty network namespace.
pub(crate) fn isolated(name: &str, test: fn()) {
    match NetNs::create() {
        Ok(namespace) => match namespace.run(test) {
            Ok(()) => {}
            Err(error) => panic!("{name}: {error}"),
        },
        Err(NamespaceError::Create { source })
            if source.kind() == std::io::ErrorKind::PermissionDenied
                && std::env::var_os(INSIDE).is_none() =>
        {
            again_in_user_namespace(name, &source);
        }
        Err(error) => skip(name, &error.to_string()),
    }
}

fn again_in_user_namespace(name: &str, denied: &std::io::Error) {
    let executable = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["-Urnm", "--"])
        .arg(executable)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return skip(name, &format!("{denied}; and unshare(1) cannot be run: {error}")),
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.starts_with("unshare:") {
        return skip(name, stderr.trim());
    }
    print!("{stdout}");
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("1 passed"), "the test ran: {stdout}");
}

/// Output of a program inside the current namespace; `None` when it is not installed.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{program} {arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) => {
            println!("not compared: {program} cannot be run: {error}");
            None
        }
    }
}

/// True when two texts are the same but for trailing blanks.
pub(crate) fn same_lines(ours: &str, theirs: &str) -> bool {
    ours.lines().map(str::trim_end).eq(theirs.lines().map(str::trim_end))
}
