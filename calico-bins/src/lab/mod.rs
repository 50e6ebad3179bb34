//! `calico-lab`: a whole cluster on one machine, built from the real programs, proved with real packets.
//!
//! The program is all programs of a node in one file: started as `calico`, `calico-ipam`, `calico-node` or `calicoctl`
//! it is that program. The lab links itself under these names, so the cluster runs the code that a node runs.

pub mod args;
pub mod cluster;
pub mod probe;
mod proof;
pub mod report;
pub mod sandbox;

use std::io::Write as _;
use std::process::{Command, ExitCode};

use clap::Parser as _;

use args::{Action, Cli, Up};
use sandbox::{Kept, SandboxError};

/// Runs the program that this process was started as.
pub fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.as_str() {
        "calico" => crate::cni::plugin::main(crate::cni::plugin::Plugin::Calico),
        "calico-ipam" => crate::cni::plugin::main(crate::cni::plugin::Plugin::CalicoIpam),
        "calico-node" => crate::cni::install::main_if_asked()
            .unwrap_or_else(|| crate::node::agent::main(crate::node::settings::Settings::parse())),
        "calicoctl" => crate::ctl::main(),
        _ => lab(Cli::parse()),
    }
}

fn lab(cli: Cli) -> ExitCode {
    let outcome = match cli.command {
        None => up(&cli.up),
        Some(Action::Inside(up)) => Ok(proof::inside(&up)),
        Some(Action::Exec { place, command }) => exec(&place, &command),
        Some(Action::Down) => down(),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "calico-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn up(options: &Up) -> Result<ExitCode, SandboxError> {
    let mut arguments = vec![
        format!("--nodes={}", options.nodes),
        format!("--pods={}", options.pods),
        format!("--datastore={}", options.datastore),
    ];
    if options.json {
        arguments.push("--json".to_owned());
    }
    if let Some(dir) = &options.logs {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
        arguments.push(format!("--logs={}", dir.display()));
    }
    if !options.keep {
        sandbox::leave()?;
        return sandbox::run_inside(&arguments, true);
    }
    if Kept::read().is_some() {
        let _ = writeln!(std::io::stderr(), "a cluster is running already; end it with: calico-lab down");
        return Ok(ExitCode::FAILURE);
    }
    arguments.push("--keep".to_owned());
    // The note carries the user's own number, which is another in the new user namespace.
    let note = Kept::file();
    sandbox::leave()?;
    let log = std::env::temp_dir().join(format!("calico-lab-{}.log", std::process::id()));
    let pid = sandbox::leave_running(&arguments, &log)?;
    Kept::write(&note, pid)?;
    let code = follow(pid, &log);
    if code == ExitCode::FAILURE && !std::path::Path::new(&format!("/proc/{pid}")).exists() {
        let _ = std::fs::remove_file(note);
    }
    Ok(code)
}

/// Prints what the inside reports until it is built or ends.
fn follow(pid: u32, log: &std::path::Path) -> ExitCode {
    let mut printed = 0;
    let code = loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        if let Some(new) = text.get(printed..) {
            let _ = std::io::stdout().write_all(new.as_bytes());
            let _ = std::io::stdout().flush();
            printed = text.len();
        }
        if text.contains(proof::KEPT) {
            break if text.contains(" 0 failed in ") { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        let alive = std::path::Path::new(&format!("/proc/{pid}/stat")).exists()
            && std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        if !alive {
            break ExitCode::FAILURE;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    let _ = std::fs::remove_file(log);
    code
}

fn exec(place: &str, command: &[String]) -> Result<ExitCode, SandboxError> {
    let Some(kept) = Kept::read() else {
        return Err(SandboxError::Io {
            what: "no cluster is running; start one with: calico-lab --keep".to_owned(),
            error: std::io::ErrorKind::NotFound.into(),
        });
    };
    kept.enter()?;
    let (namespace, node) = match place.split('/').collect::<Vec<_>>().as_slice() {
        ["fabric"] => (None, None),
        ["pod", namespace, name] => (Some(format!("pod-{namespace}-{name}")), None),
        ["node", name] | [name] => (Some((*name).to_owned()), Some((*name).to_owned())),
        _ => {
            return Err(SandboxError::Io {
                what: format!("{place:?} is no place: node1, pod/<namespace>/<name> or fabric"),
                error: std::io::ErrorKind::InvalidInput.into(),
            });
        }
    };
    if let Some(name) = namespace {
        let path = std::path::Path::new(sandbox::ROOT).join("netns").join(&name);
        let netns = calico_dataplane::netns::NetNs::open(&path).and_then(|netns| netns.enter());
        netns.map_err(|e| SandboxError::Io {
            what: format!("there is no {place} in the cluster"),
            error: std::io::Error::other(e),
        })?;
    }
    let Some((program, arguments)) = command.split_first() else { return Ok(ExitCode::FAILURE) };
    let mut child = Command::new(program);
    child.args(arguments);
    let bin = std::path::Path::new(sandbox::ROOT).join("bin");
    let path = std::env::var("PATH").unwrap_or_default();
    child.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", bin.display()));
    if sandbox::PROGRAMS.contains(&program.as_str()) {
        // The lab's own programs may not be found by the PATH of the caller's shell.
        child = Command::new(bin.join(program));
        child.args(arguments);
    }
    for (name, value) in cluster::environment(node.as_deref()) {
        child.env(name, value);
    }
    let status = child
        .spawn()
        .and_then(|mut child| child.wait())
        .map_err(|error| SandboxError::Io { what: format!("cannot run {program}"), error })?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

fn down() -> Result<ExitCode, SandboxError> {
    match Kept::read() {
        Some(kept) => {
            kept.end()?;
            let _ = writeln!(std::io::stdout(), "the cluster is gone");
            Ok(ExitCode::SUCCESS)
        }
        None => {
            let _ = std::fs::remove_file(Kept::file());
            let _ = writeln!(std::io::stdout(), "no cluster is running");
            Ok(ExitCode::SUCCESS)
        }
    }
}
