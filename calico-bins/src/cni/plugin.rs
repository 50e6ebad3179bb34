//! The `calico` plugin: from the environment and standard input to a printed answer.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use super::conf::NetConf;
use super::env::{Command, Env};
use super::error::{CniError, code};
use super::store::Connection;
use super::{SUPPORTED_VERSIONS, attach, delegate, detach, ipam, status};

/// Longest time that `-t` waits for the datastore.
const TEST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

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

/// Runs the plugin that this process was started as: the program is both, like the reference's.
pub fn main_by_name() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    let is_ipam = std::path::Path::new(&name).file_name().is_some_and(|name| name == "calico-ipam");
    main(if is_ipam { Plugin::CalicoIpam } else { Plugin::Calico })
}

/// Runs a plugin as its program does.
pub fn main(plugin: Plugin) -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        None => {}
        Some("-v" | "--version") => return print(env!("CARGO_PKG_VERSION")),
        Some("-t") if plugin == Plugin::Calico => return test_datastore(),
        Some("-h" | "--help") => return print(&about(plugin)),
        Some(other) => {
            eprintln_line(&format!("unknown argument {other:?}\n{}", about(plugin)));
            return ExitCode::FAILURE;
        }
    }
    let mut version = String::new();
    let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| serve(plugin, &mut version)));
    let answer = answer.unwrap_or_else(|_| {
        // What was assigned was given back while the stack was unwound.
        Err(CniError::generic("the plugin panicked").details("its standard error says where; this is a bug"))
    });
    match answer {
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
    let text = read_stdin()?;
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
    let inside = plugin == Plugin::Calico && delegate::is_inside(&conf.ipam.plugin_type, &env.path);
    let result = match (plugin, env.command) {
        (Plugin::Calico, Command::Add) => Some(attach::add(&env, &conf, inside)?),
        (Plugin::CalicoIpam, Command::Add) => Some(ipam::add(&env, &conf)?),
        (Plugin::Calico, Command::Del) => detach::del(&env, &conf, inside).map(|()| None)?,
        (Plugin::CalicoIpam, Command::Del) => ipam::del(&env, &conf).map(|()| None)?,
        (Plugin::Calico, Command::Check) => attach::check(&env, &conf).map(|()| None)?,
        (Plugin::CalicoIpam, Command::Check) => ipam::check(&env, &conf).map(|()| None)?,
        (Plugin::Calico, Command::Gc) => detach::gc(&env, &conf).map(|()| None)?,
        (Plugin::CalicoIpam, Command::Gc) => ipam::gc(&env, &conf).map(|()| None)?,
        (_, Command::Status) => status::status(&env, &conf).map(|()| None)?,
        (_, Command::Version) => None,
    };
    tracing::info!(took = ?begun.elapsed(), "done");
    match result {
        Some(result) => Ok(Answer::Text(result.to_value(&conf.cni_version)?.to_string())),
        None => Ok(Answer::Nothing),
    }
}

/// `-t`: the configuration on standard input leads to a datastore that answers and is ready.
fn test_datastore() -> ExitCode {
    let tested = read_stdin().and_then(|text| NetConf::parse(&text, Command::Add)).and_then(|conf| {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = sender
                .send(Connection::open(&conf).and_then(|connection| status::require_ready(&connection)));
        });
        receiver.recv_timeout(TEST_TIMEOUT).unwrap_or_else(|_| {
            Err(CniError::generic(format!("the datastore does not answer in {TEST_TIMEOUT:?}")))
        })
    });
    match tested {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print(&CniError { code: 100, ..error }.to_json("1.1.0"));
            ExitCode::FAILURE
        }
    }
}

fn read_stdin() -> Result<Vec<u8>, CniError> {
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).map_err(|e| {
        CniError::new(code::IO, "cannot read the network configuration").details(e.to_string())
    })?;
    Ok(text)
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
