//! A CNI plugin of somebody else, written on the crate `cni-plugin`, that gets its addresses from `calico-ipam`.
//!
//! It makes no interface: what it shows is that the IPAM plugin can be used without the rest of Calico. Run it as a
//! runtime does, with `CNI_*` set and a configuration such as this on standard input:
//!
//! ```json
//! {"cniVersion": "1.0.0", "name": "net", "type": "delegating-plugin", "ipam": {"type": "calico-ipam"}}
//! ```

use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use cni_plugin::config::NetworkConfig;
use cni_plugin::error::CniError;
use cni_plugin::reply::{IpamSuccessReply, SuccessReply, reply};
use cni_plugin::{Cni, Command, Inputs};

fn main() {
    let Some(Inputs { command, config, path, .. }) = Cni::load().into_inputs() else { return };
    match answer(command, &config, &path) {
        Ok(Some(success)) => reply(success),
        Ok(None) => {}
        Err(error) => reply(error.into_reply(config.cni_version.clone())),
    }
}

fn answer(
    command: Command,
    config: &NetworkConfig,
    path: &[PathBuf],
) -> Result<Option<SuccessReply>, CniError> {
    let printed = delegate(command, config, path)?;
    if !matches!(command, Command::Add) {
        return Ok(None);
    }
    let assigned: IpamSuccessReply = serde_json::from_slice(&printed)?;
    Ok(Some(SuccessReply {
        cni_version: config.cni_version.clone(),
        interfaces: Vec::new(),
        ips: assigned.ips,
        routes: assigned.routes,
        dns: assigned.dns,
        specific: assigned.specific,
    }))
}

/// Runs the IPAM plugin. The crate's own function for this takes silence for a failure, but a plugin that succeeds
/// with DEL or CHECK says nothing; and with tokio it panics on an assertion of its own.
fn delegate(command: Command, config: &NetworkConfig, path: &[PathBuf]) -> Result<Vec<u8>, CniError> {
    let plugin = config.ipam.as_ref().map_or("calico-ipam", |ipam| ipam.plugin.as_str());
    let file = path.iter().map(|dir| dir.join(plugin)).find(|file| file.is_file());
    let file = file.ok_or_else(|| CniError::Generic(format!("{plugin} is not in CNI_PATH")))?;
    let mut child = Process::new(file)
        .env("CNI_COMMAND", command.as_ref())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(stdin) = child.stdin.take() {
        serde_json::to_writer(stdin, config)?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(CniError::Generic(String::from_utf8_lossy(&output.stdout).into_owned()))
}
