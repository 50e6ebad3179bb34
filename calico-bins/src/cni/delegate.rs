//! Running another CNI plugin.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use super::env::{Command, Env};
use super::error::{CniError, code};

/// The first executable named `plugin` in `path`.
pub fn find(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, CniError> {
    use std::os::unix::fs::PermissionsExt as _;
    if plugin.is_empty() || plugin.contains('/') {
        return Err(CniError::new(code::INVALID_CONFIG, format!("invalid plugin name {plugin:?}"))
            .details("a plugin is named by its file name alone"));
    }
    path.iter()
        .map(|dir| dir.join(plugin))
        .find(|file| file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
        .ok_or_else(|| {
            let dirs: Vec<_> = path.iter().map(|dir| dir.display().to_string()).collect();
            CniError::generic(format!("failed to find plugin {plugin:?} in path [{}]", dirs.join(" ")))
        })
}

/// Whether `plugin` is `calico-ipam` and the very program that runs already, under its other name. Then its work can
/// be done here, without another process and without asking the datastore everything twice.
pub fn is_inside(plugin: &str, path: &[PathBuf]) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let same = |a: &Path, b: &Path| match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    };
    plugin == "calico-ipam" && find(plugin, path).is_ok_and(|file| same(&file, Path::new("/proc/self/exe")))
}

/// Whether a plugin failed because it is older than the command.
pub fn is_unknown_command(error: &CniError) -> bool {
    error.code == code::INVALID_ENVIRONMENT && error.msg.to_ascii_lowercase().contains("unknown cni_command")
        || error.code == code::INCOMPATIBLE_VERSION
}

/// Runs `plugin` with the caller's environment and `netconf` on standard input. `args` replaces `CNI_ARGS`.
/// Standard error goes to ours. An error object of the plugin is returned as it is.
pub fn run(
    plugin: &str,
    command: Command,
    env: &Env,
    args: &str,
    netconf: &[u8],
) -> Result<Vec<u8>, CniError> {
    let program = find(plugin, &env.path)?;
    let fail = |what: &str, e: std::io::Error| {
        CniError::new(code::IO, format!("{what} {}", program.display())).details(e.to_string())
    };
    let mut child = Process::new(&program)
        .env("CNI_COMMAND", command.as_str())
        .env("CNI_ARGS", args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|e| fail("cannot run", e))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that fails before it reads closes the pipe; its own error says more than ours.
        if let Err(e) = stdin.write_all(netconf)
            && e.kind() != std::io::ErrorKind::BrokenPipe
        {
            let _ = child.kill();
            let _ = child.wait();
            return Err(fail("cannot write the configuration to", e));
        }
    }
    let output = child.wait_with_output().map_err(|e| fail("lost", e))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(failure(&program, &output.stdout, output.status))
}

fn failure(program: &Path, stdout: &[u8], status: std::process::ExitStatus) -> CniError {
    match serde_json::from_slice::<CniError>(stdout) {
        Ok(error) => error,
        Err(_) => CniError::generic(format!("plugin {} failed: {status}", program.display()))
            .details(String::from_utf8_lossy(stdout).trim().chars().take(500).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn env(dir: &Path) -> Env {
        Env {
            command: Command::Add,
            container_id: "c".into(),
            netns: "/x".into(),
            ifname: "eth0".into(),
            args_text: String::new(),
            args: Default::default(),
            path: vec![dir.into()],
        }
    }

    fn script(dir: &Path, name: &str, body: &str) {
        let file = dir.join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn only_our_own_file_is_run_without_a_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = vec![dir.path().to_owned()];
        assert!(!is_inside("calico-ipam", &path), "it is not there");
        script(dir.path(), "calico-ipam", "exit 1");
        assert!(!is_inside("calico-ipam", &path), "somebody's wrapper");
        std::fs::remove_file(dir.path().join("calico-ipam")).unwrap();
        for name in ["calico-ipam", "host-local"] {
            std::os::unix::fs::symlink(std::env::current_exe().unwrap(), dir.path().join(name)).unwrap();
        }
        assert!(is_inside("calico-ipam", &path));
        assert!(!is_inside("host-local", &path));
    }

    #[test]
    fn plugins_older_than_the_command_are_recognised() {
        for (code, text, old) in [
            (4, "unknown CNI_COMMAND: STATUS", true),
            (1, "incompatible CNI versions", true),
            (4, "required env variables [CNI_IFNAME] missing", false),
            (50, "no address left", false),
        ] {
            assert_eq!(is_unknown_command(&CniError::new(code, text)), old, "{text}");
        }
    }

    #[test]
    fn answers_and_errors_pass_through() {
        let dir = tempfile::tempdir().unwrap();
        script(dir.path(), "echoes", "cat; printf '%s' \"$CNI_COMMAND $CNI_ARGS\"");
        let out = run("echoes", Command::Del, &env(dir.path()), "A=b", b"conf ").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "conf DEL A=b");

        script(dir.path(), "fails", r#"echo '{"code":11,"msg":"later"}'; exit 1"#);
        let error = run("fails", Command::Add, &env(dir.path()), "", b"{}").unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (code::TRY_AGAIN_LATER, "later"));

        script(dir.path(), "mumbles", "echo what; exit 3");
        let error = run("mumbles", Command::Add, &env(dir.path()), "", b"{}").unwrap_err();
        assert_eq!((error.code, error.details.as_str()), (code::GENERIC, "what"));

        let error = run("absent", Command::Add, &env(dir.path()), "", b"{}").unwrap_err();
        assert!(error.msg.contains("failed to find plugin \"absent\""), "{error}");
        assert!(run("../x", Command::Add, &env(dir.path()), "", b"{}").is_err());
    }
}
