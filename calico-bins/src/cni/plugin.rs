//! The `calico` plugin: from the environment and standard input to a printed answer.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use super::conf::NetConf;
use super::env::{Command, Env};
use super::error::{CniError, code};
use super::{SUPPORTED_VERSIONS, attach, detach, ipam, status};

/// Which of the two plugins runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// `calico`.
    Calico,
    /// `calico-ipam`.
    CalicoIpam,
}

impl Plugin {
    fn name(self) -> &'static str {
        match self {
            Self::Calico => "calico",
            Self::CalicoIpam => "calico-ipam",
        }
    }
}

/// Runs a plugin as its program does.
pub fn main(plugin: Plugin) -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        None => {}
        Some("-v" | "--version") => return print(env!("CARGO_PKG_VERSION")),
        Some("-h" | "--help") => return print(&about(plugin)),
        Some(other) => {
            eprintln_line(&format!("unknown argument {other:?}\n{}", about(plugin)));
            return ExitCode::FAILURE;
        }
    }
    let mut version = String::new();
    match serve(plugin, &mut version) {
        Ok(Answer::Text(text)) => print(&text),
        Ok(Answer::Nothing) => ExitCode::SUCCESS,
        Ok(Answer::About) => {
            eprintln_line(&about(plugin));
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(code = error.code, details = %error.details, "{}", error.msg);
            print(&error.to_json(if version.is_empty() { "1.1.0" } else { &version }));
            ExitCode::FAILURE
        }
    }
}

enum Answer {
    Text(String),
    Nothing,
    About,
}

fn serve(plugin: Plugin, version: &mut String) -> Result<Answer, CniError> {
    // `calico` takes whatever a runtime puts into CNI_ARGS; its delegate is as strict as the specification.
    let lenient = plugin == Plugin::Calico;
    let Some(env) = Env::read(|name| std::env::var(name).ok(), lenient)? else {
        return Ok(Answer::About);
    };
    if env.command == Command::Version {
        let versions = serde_json::json!({"cniVersion": "1.1.0", "supportedVersions": SUPPORTED_VERSIONS});
        return Ok(Answer::Text(versions.to_string()));
    }
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).map_err(|e| {
        CniError::new(code::IO, "cannot read the network configuration").details(e.to_string())
    })?;
    let conf = NetConf::parse(&text, env.command)?;
    version.clone_from(&conf.cni_version);
    super::log::start(plugin.name(), &conf);
    let _span = tracing::info_span!(
        "cni",
        command = env.command.as_str(),
        container = %env.container_id,
        pod = %format_args!(
            "{}/{}",
            env.args.namespace.as_deref().unwrap_or("-"),
            env.args.pod.as_deref().unwrap_or("-")
        ),
    )
    .entered();
    let begun = std::time::Instant::now();
    let result = match (plugin, env.command) {
        (Plugin::Calico, Command::Add) => Some(attach::add(&env, &conf)?),
        (Plugin::CalicoIpam, Command::Add) => Some(ipam::add(&env, &conf)?),
        (Plugin::Calico, Command::Del) => detach::del(&env, &conf).map(|()| None)?,
        (Plugin::CalicoIpam, Command::Del) => ipam::del(&env, &conf).map(|()| None)?,
        (Plugin::Calico, Command::Check) => attach::check(&env, &conf).map(|()| None)?,
        (Plugin::CalicoIpam, Command::Check) => ipam::check(&env, &conf).map(|()| None)?,
        (Plugin::Calico, Command::Gc) => detach::gc(&env, &conf).map(|()| None)?,
        (Plugin::CalicoIpam, Command::Gc) => ipam::gc(&env, &conf).map(|()| None)?,
        (_, Command::Status) => status::status(&conf).map(|()| None)?,
        (_, Command::Version) => None,
    };
    tracing::info!(took = ?begun.elapsed(), "done");
    match result {
        Some(result) => Ok(Answer::Text(result.to_value(&conf.cni_version)?.to_string())),
        None => Ok(Answer::Nothing),
    }
}

fn about(plugin: Plugin) -> String {
    format!(
        "{} {}: a CNI plugin of Calico in Rust\n\
         It is run by a container runtime with CNI_COMMAND, CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME and CNI_PATH set \
         and a network configuration on standard input.\n\
         CNI protocol versions supported: {}\n",
        plugin.name(),
        env!("CARGO_PKG_VERSION"),
        SUPPORTED_VERSIONS.join(", ")
    )
}

fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn eprintln_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}
