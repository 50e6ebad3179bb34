//! The `calico-ipam` plugin: addresses out of Calico's pools.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_datastore::{Datastore, ListRequest};
use calico_ipam::{
    AssignIp, AssignIpArgs, Assignment, AutoAssign, AutoAssignArgs, Family, FamilyResult, IntendedUse,
    IpamError, IpsByHandle, Operation, ReleaseByHandle, ReleaseIps, ReleaseOptions,
};
use calico_model::{AnyResource, Kind, Value};
use ipnet::IpNet;

use super::conf::NetConf;
use super::env::Env;
use super::error::{CniError, code};
use super::identity::{Identity, node_name};
use super::journal::{self, Part};
use super::result::{AddResult, Ip, Route};
use super::status::require_ready;
use super::store::{Connection, store_error};
use crate::ipam_driver::{self, DriverError, now};

/// Host-wide lock that keeps concurrent calls of one node from racing each other through the datastore.
const LOCK_FILE: &str = "/var/run/calico/ipam.lock";

/// ADD of the plugin `calico-ipam`.
pub fn add(env: &Env, conf: &NetConf) -> Result<AddResult, CniError> {
    let node = node_name(conf)?;
    let connection = Connection::open(conf)?;
    let store = &connection.store;
    store.wait(journal::before_add(&**store.inner(), &journal::directory(conf), &node, &env.container_id))?;
    require_ready(&connection)?;
    assign(env, conf, &connection, node)
}

/// Assigns the addresses of an attachment: those that were asked for, or else one of each family that is wanted. When
/// it fails it has given back what it had assigned.
pub fn assign(
    env: &Env,
    conf: &NetConf,
    connection: &Connection,
    node: String,
) -> Result<AddResult, CniError> {
    let identity = Identity::new(env, conf, node, "cali");
    let requested = match &env.args.ip {
        Some(text) => {
            let address = text.parse().map_err(|_| {
                CniError::new(code::INVALID_ENVIRONMENT, format!("invalid IP format: {text}"))
                    .details("CNI_ARGS: IP=<address>")
            })?;
            vec![address]
        }
        None => conf.runtime.addresses()?,
    };
    if requested.is_empty() {
        return assign_any(conf, connection, &identity);
    }
    let _lock = Lock::take(conf);
    let mut assigned = Vec::new();
    for address in requested {
        let mut args = AssignIpArgs::new(address, &identity.node, &identity.handle);
        args.attributes = attributes(&identity);
        args.intended_use = Some(IntendedUse::Workload);
        match run(connection, &identity, AssignIp::new(args, now())) {
            Ok(one) => {
                tracing::info!(%address, "assigned the requested address");
                assigned.push(one.assignment);
            }
            Err(error) => {
                give_back(conf, connection, &identity, &assigned);
                return Err(error);
            }
        }
    }
    let nets: Vec<IpNet> = assigned.iter().map(|a| IpNet::from(a.address)).collect();
    Ok(result(conf, &nets))
}

fn assign_any(conf: &NetConf, connection: &Connection, identity: &Identity) -> Result<AddResult, CniError> {
    let v4 = u32::from(conf.ipam.wants_ipv4());
    let v6 = u32::from(conf.ipam.wants_ipv6());
    if v4 + v6 == 0 {
        return Err(CniError::new(
            code::INVALID_CONFIG,
            "ipam.assign_ipv4 and ipam.assign_ipv6 are both off",
        ));
    }
    let mut args = AutoAssignArgs::workload(&identity.node, &identity.handle, v4, v6);
    args.attributes = attributes(identity);
    args.namespace = (identity.orchestrator == "k8s").then(|| identity.namespace.as_str().into());
    args.v4.pools = pools(connection, &conf.ipam.ipv4_pools, false)?;
    args.v6.pools = pools(connection, &conf.ipam.ipv6_pools, true)?;
    let _lock = Lock::take(conf);
    let assigned = match run_operation(connection, identity, AutoAssign::new(args, now())) {
        Ok(assigned) => assigned,
        Err(DriverError::Ipam(IpamError::SecondFamily { assigned, cause })) => {
            give_back(conf, connection, identity, &assigned);
            return Err(driver_error(DriverError::Ipam(*cause)));
        }
        Err(error) => return Err(driver_error(error)),
    };
    let short = assigned.families.iter().find(|f| (f.assigned.len() as u64) < u64::from(f.requested));
    if let Some(short) = short {
        let error = too_few(short);
        give_back(conf, connection, identity, &assigned.addresses().cloned().collect::<Vec<_>>());
        return Err(error);
    }
    let in_block = |a: &Assignment| IpNet::new(a.address, a.block.prefix_len()).ok();
    let nets: Vec<IpNet> = assigned.addresses().filter_map(in_block).collect();
    Ok(result(conf, &nets))
}

/// Releases what a failed ADD had assigned; when the datastore is gone, somebody does it later.
fn give_back(conf: &NetConf, connection: &Connection, identity: &Identity, assigned: &[Assignment]) {
    if assigned.is_empty() {
        return;
    }
    let options = |a: &Assignment| ReleaseOptions {
        address: a.address,
        handle: Some(identity.handle.as_str().into()),
        sequence: Some(a.sequence),
    };
    let released = run(connection, identity, ReleaseIps::new(assigned.iter().map(options).collect(), now()));
    let outcome = journal::or_put_off(released.map(drop), conf, Part::Addresses, identity);
    if let Err(error) = outcome {
        tracing::warn!(%error, "cannot give back the addresses of the failed attachment");
    }
}

/// Gives back everything that the attachment holds. What is free already is fine. Without the datastore it is noted
/// for later, and that is success.
pub fn del(env: &Env, conf: &NetConf) -> Result<(), CniError> {
    let identity = Identity::new(env, conf, node_name(conf).unwrap_or_default(), "cali");
    let released = Connection::open(conf)
        .map_err(|error| CniError { code: code::TRY_AGAIN_LATER, ..error })
        .and_then(|connection| release_now(conf, &connection, &identity));
    journal::or_put_off(released, conf, Part::Addresses, &identity)
}

/// Gives back everything that the attachment holds.
pub fn release_now(conf: &NetConf, connection: &Connection, identity: &Identity) -> Result<(), CniError> {
    let _lock = Lock::take(conf);
    let handles = [identity.handle.clone(), identity.workload_handle()];
    connection.store.wait(release(&**connection.store.inner(), identity, &handles))
}

/// Releases all addresses of `handles`. A handle that does not exist is fine.
pub(super) async fn release(
    store: &dyn Datastore,
    identity: &Identity,
    handles: &[String],
) -> Result<(), CniError> {
    for handle in handles {
        match ipam_driver::run(store, ReleaseByHandle::new(handle, now()), seed(identity)).await {
            Ok(_) | Err(DriverError::Ipam(IpamError::NotFound { .. })) => {}
            Err(error) => return Err(driver_error(error)),
        }
    }
    Ok(())
}

/// Releases `addresses` whoever holds them: what an earlier sandbox of the same pod has.
pub(super) fn release_addresses(
    connection: &Connection,
    identity: &Identity,
    addresses: &[IpAddr],
) -> Result<(), CniError> {
    let options = |address: &IpAddr| ReleaseOptions { address: *address, handle: None, sequence: None };
    let options: Vec<ReleaseOptions> = addresses.iter().map(options).collect();
    run(connection, identity, ReleaseIps::new(options, now())).map(drop)
}

/// The attachment must hold an address.
pub fn check(env: &Env, conf: &NetConf) -> Result<(), CniError> {
    let identity = Identity::new(env, conf, node_name(conf)?, "cali");
    let connection = Connection::open(conf)?;
    let held: Vec<IpAddr> = match run_operation(&connection, &identity, IpsByHandle::new(&identity.handle)) {
        Ok(assigned) => assigned.into_iter().map(|a| a.address).collect(),
        Err(DriverError::Ipam(IpamError::NotFound { .. })) => Vec::new(),
        Err(error) => return Err(driver_error(error)),
    };
    let Some(previous) = conf.previous()? else { return Ok(()) };
    let expected = previous.addresses_of(&env.ifname);
    let lost: Vec<String> =
        expected.iter().filter(|address| !held.contains(address)).map(ToString::to_string).collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(CniError::generic(format!("not assigned to {}: {}", identity.handle, lost.join(", "))))
}

/// Gives back what this node assigned on this network to containers that the runtime no longer knows.
pub fn gc(_env: &Env, conf: &NetConf) -> Result<(), CniError> {
    let Some(valid) = &conf.valid_attachments else {
        return Err(CniError::new(code::INVALID_CONFIG, "GC needs cni.dev/valid-attachments"));
    };
    let begun = jiff::Timestamp::now();
    let node = node_name(conf)?;
    let connection = Connection::open(conf)?;
    connection.store.wait(journal::replay(&**connection.store.inner(), &journal::directory(conf), &node));
    let _lock = Lock::take(conf);
    let blocks = connection.store.list(&ListRequest::blocks()).map_err(store_error)?;
    let prefix = format!("{}.", conf.name);
    let machines = format!("{prefix}vmi.");
    let mut stale = std::collections::BTreeSet::new();
    for item in &blocks.items {
        let Value::Block(block) = &item.value else { continue };
        for attribute in &block.attributes {
            let Some(handle) = attribute.handle_id.as_deref() else { continue };
            let Some(container) = handle.strip_prefix(&prefix) else { continue };
            let ours = attribute.active_owner_attrs.get("node") == Some(&node);
            // The runtime made its list before it called; what is younger is an ADD of the meantime.
            let younger = attribute.active_owner_attrs.get("timestamp").and_then(|text| assigned_at(text));
            if younger.is_some_and(|at| at >= begun) {
                continue;
            }
            if ours && !handle.starts_with(&machines) && !valid.iter().any(|v| v.container_id == container) {
                stale.insert(handle.to_owned());
            }
        }
    }
    let mut first_error = None;
    for handle in stale {
        tracing::info!(%handle, "its container is gone");
        let released = connection.store.wait(ipam_driver::run(
            &**connection.store.inner(),
            ReleaseByHandle::new(&handle, now()),
            u64::from(std::process::id()),
        ));
        match released {
            Ok(_) | Err(DriverError::Ipam(IpamError::NotFound { .. })) => {}
            Err(error) => first_error = first_error.or(Some(driver_error(error))),
        }
    }
    first_error.map_or(Ok(()), Err)
}

fn attributes(identity: &Identity) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::from([
        ("node".to_owned(), identity.node.clone()),
        (
            "timestamp".to_owned(),
            jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string(),
        ),
    ]);
    if identity.orchestrator == "k8s" {
        attributes.insert("pod".to_owned(), identity.pod.clone());
        attributes.insert("namespace".to_owned(), identity.namespace.clone());
    }
    attributes
}

/// When an address was assigned, by its attribute.
fn assigned_at(text: &str) -> Option<jiff::Timestamp> {
    let (seconds, _) = text.split_once(" +0000")?;
    format!("{}Z", seconds.replacen(' ', "T", 1)).parse().ok()
}

/// Pools are named by CIDR or by name.
fn pools(connection: &Connection, wanted: &[String], v6: bool) -> Result<Vec<IpNet>, CniError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let stored = connection.store.list(&ListRequest::kind(Kind::IPPool)).map_err(store_error)?;
    let by_name = |name: &str| {
        stored.items.iter().find_map(|item| match &item.value {
            Value::Resource(resource) => match &**resource {
                AnyResource::IPPool(pool) if pool.metadata.name == name => {
                    pool.spec.cidr.parse::<IpNet>().ok()
                }
                _ => None,
            },
            _ => None,
        })
    };
    let mut pools = Vec::with_capacity(wanted.len());
    for text in wanted {
        let Some(cidr) = text.parse::<IpNet>().ok().or_else(|| by_name(text)) else {
            return Err(CniError::generic(format!(
                "error parsing pool {text:?}: invalid CIDR address: {text}"
            ))
            .details("it is neither a CIDR nor the name of an IPPool"));
        };
        if cidr.addr().is_ipv6() != v6 {
            let family = if v6 { "IPv6" } else { "IPv4" };
            return Err(CniError::generic(format!("\"{}\" isn't a {family} address", cidr.addr())));
        }
        pools.push(cidr);
    }
    Ok(pools)
}

fn too_few(short: &FamilyResult) -> CniError {
    let family = match short.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let notes: Vec<String> = short.notes.iter().map(ToString::to_string).collect();
    CniError::generic(format!(
        "failed to request {family} addresses: Assigned {} out of {} requested {family} addresses; {}",
        short.assigned.len(),
        short.requested,
        notes.join("; ")
    ))
}

/// Addresses with the block's prefix length. Calico's own plugin takes a route per address as the sign that it is to
/// make routes on the node; any other plugin would take it literally and trip over the kernel's own.
fn result(conf: &NetConf, nets: &[IpNet]) -> AddResult {
    let signs = if conf.plugin_type == "calico" { nets } else { &[] };
    AddResult {
        ips: nets.iter().map(|net| Ip { address: *net, gateway: None, interface: None }).collect(),
        routes: signs.iter().map(|net| Route::new(*net, None)).collect(),
        ..AddResult::default()
    }
}

fn run<O: Operation>(
    connection: &Connection,
    identity: &Identity,
    operation: O,
) -> Result<O::Output, CniError> {
    run_operation(connection, identity, operation).map_err(driver_error)
}

fn run_operation<O: Operation>(
    connection: &Connection,
    identity: &Identity,
    operation: O,
) -> Result<O::Output, DriverError> {
    connection.store.wait(ipam_driver::run(&**connection.store.inner(), operation, seed(identity)))
}

/// Spreads the waits of calls that race.
fn seed(identity: &Identity) -> u64 {
    u64::from(std::process::id()) ^ identity.handle.bytes().fold(0, |h, b| h << 5 ^ h >> 59 ^ u64::from(b))
}

fn driver_error(error: DriverError) -> CniError {
    match error {
        DriverError::Store(error) => store_error(error),
        // What may be different a moment later: a lost race, a write without an answer, a node that is not
        // registered yet.
        DriverError::Ipam(
            error @ (IpamError::Contention { .. }
            | IpamError::OutcomeUnknown { .. }
            | IpamError::NodeMissing { .. }),
        ) => CniError::new(code::TRY_AGAIN_LATER, error.to_string()),
        DriverError::Ipam(error) => CniError::generic(error.to_string()),
    }
}

/// The host-wide lock. Correctness does not need it, so a lock that cannot be taken is only remarked on.
struct Lock(#[allow(dead_code)] Option<std::fs::File>);

impl Lock {
    fn take(conf: &NetConf) -> Self {
        let path = if conf.ipam_lock_file.is_empty() { LOCK_FILE } else { &conf.ipam_lock_file };
        if let Some(dir) = std::path::Path::new(path).parent() {
            let _ = std::fs::create_dir_all(dir);
        }
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).and_then(
            |file| {
                rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
                Ok(file)
            },
        );
        match file {
            Ok(file) => Self(Some(file)),
            Err(error) => {
                tracing::debug!(%error, path, "going on without the host-wide lock");
                Self(None)
            }
        }
    }
}
