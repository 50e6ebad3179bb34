//! `calicoctl ipam`: the commands.

use std::net::IpAddr;
use std::sync::Arc;

use calico_datastore::Backend;
use calico_ipam::{ReleaseIps, ReleaseOptions, SetConfig};

use super::args::IpamCommand;
use super::ipam;
use super::run::{Failed, Streams, block_on};
use crate::ipam_driver;

pub(super) fn run(
    store: &Arc<dyn Backend>,
    command: &IpamCommand,
    streams: &mut Streams<'_>,
) -> Result<u8, Failed> {
    let text = match command {
        IpamCommand::Show {
            show_configuration: true,
            ip: None,
            show_blocks: false,
            show_borrowed: false,
        } => ipam::configuration(&block_on(ipam::stored_config(store))??),
        IpamCommand::Show { ip, show_blocks, show_borrowed, show_configuration: _ } => {
            let inventory = block_on(ipam::inventory(store))??;
            match ip {
                Some(address) => inventory.address(*address),
                None if *show_borrowed && !show_blocks => inventory.borrowed(),
                None => inventory.usage(*show_blocks),
            }
        }
        IpamCommand::Release { ip } => release(store, *ip)?,
        IpamCommand::Configure { .. } => configure(store, command)?,
    };
    streams.out.write_all(text.as_bytes())?;
    Ok(0)
}

fn release(store: &Arc<dyn Backend>, address: IpAddr) -> Result<String, Failed> {
    let operation = ReleaseIps::new(vec![ReleaseOptions::new(address)], ipam_driver::now());
    let store = ipam::typed(store);
    let done = block_on(ipam_driver::run(&store, operation, ipam_driver::now()))?
        .map_err(|error| Failed(error.to_string()))?;
    if let Some((block, error)) = done.errors.first() {
        return Err(Failed(format!("block {block}: {error}")));
    }
    Ok(if done.released.contains(&address) {
        format!("Successfully released IP address {address}\n")
    } else {
        format!("IP address {address} is not assigned\n")
    })
}

fn configure(store: &Arc<dyn Backend>, command: &IpamCommand) -> Result<String, Failed> {
    let IpamCommand::Configure {
        strictaffinity,
        max_blocks_per_host,
        kubevirt_ip_persistence,
        ip_cooldown_seconds,
    } = command
    else {
        return Ok(String::new());
    };
    let mut settings = ipam::settings(&block_on(ipam::stored_config(store))??);
    let mut text = String::new();
    let mut say = |name: &str, value: &dyn std::fmt::Display| {
        text.push_str(&format!("Successfully set {name} to: {value}\n"));
    };
    if let Some(strict) = strictaffinity {
        settings.strict_affinity = *strict;
        say("StrictAffinity", strict);
    }
    if let Some(most) = max_blocks_per_host {
        settings.max_blocks_per_host = *most;
        say("MaxBlocksPerHost", most);
    }
    if let Some(switch) = kubevirt_ip_persistence {
        settings.vm_address_persistence = switch == "Enabled";
        say("KubeVirtVMAddressPersistence", switch);
    }
    if let Some(seconds) = ip_cooldown_seconds {
        settings.cooldown_seconds = *seconds;
        say("IPCooldownSeconds", seconds);
    }
    if text.is_empty() {
        return Err(Failed("at least one configuration option must be specified".into()));
    }
    let store = ipam::typed(store);
    block_on(ipam_driver::run(&store, SetConfig::new(settings), ipam_driver::now()))?
        .map_err(|error| Failed(error.to_string()))?;
    Ok(text)
}
