//! DEL and GC of the `calico` plugin.

use std::collections::BTreeSet;

use calico_dataplane::netns::NetNs;
use calico_dataplane::pod;
use calico_datastore::{ListRequest, StoreError};
use calico_model::{AnyResource, Key, Kind, Value};

use super::attach::{delegate_args, interface_prefix, stored_endpoint};
use super::conf::{Attachment, NetConf};
use super::delegate;
use super::env::{Command, Env};
use super::error::{CniError, code};
use super::identity::{Identity, node_name};
use super::store::{Connection, store_error};

/// How often a delete is tried again when the endpoint changed meanwhile.
const DELETE_TRIES: usize = 6;

/// Detaches a pod. Every step is tried; what is gone already is fine; the first failure is reported.
pub fn del(env: &Env, conf: &NetConf) -> Result<(), CniError> {
    let identity = Identity::new(env, conf, node_name(conf)?, &interface_prefix());
    // The kernel comes first: it needs no datastore, and a pod whose wire is cut harms nobody.
    let kernel = remove_interface(&identity, env);
    let endpoint = Connection::open(conf).and_then(|connection| remove_endpoint(&connection, &identity));
    let raw = serde_json::to_vec(&conf.raw).unwrap_or_default();
    let ipam = match conf.ipam.plugin_type.as_str() {
        "" => Ok(()),
        plugin => delegate::run(plugin, Command::Del, env, &delegate_args(env), &raw).map(drop),
    };
    kernel.and(endpoint).and(ipam)
}

/// Removes the pair of interfaces, unless the host side serves another container of the same pod already.
fn remove_interface(identity: &Identity, env: &Env) -> Result<(), CniError> {
    let netns = match env.netns.as_str() {
        "" => None,
        path => match NetNs::open(path) {
            Ok(netns) => Some(netns),
            Err(error) if error.is_absent() => None,
            Err(error) => {
                return Err(CniError::new(code::INVALID_NETNS, format!("failed to open netns {path:?}"))
                    .details(error.to_string()));
            }
        },
    };
    match netns {
        // With the namespace, its end names the pair: a newer sandbox of the pod keeps its own.
        Some(netns) => pod::detach_inside(&env.ifname, &netns).map(drop),
        // Without it, the kernel has removed the pair together with the namespace.
        None => Ok(()),
    }
    .map_err(|e| {
        CniError::generic(e.to_string()).details(format!("pod {}/{}", identity.namespace, identity.pod))
    })
}

fn remove_endpoint(connection: &Connection, identity: &Identity) -> Result<(), CniError> {
    let key = Key::resource(Kind::WorkloadEndpoint, identity.namespace.clone(), identity.endpoint_name()?);
    for _ in 0..DELETE_TRIES {
        let Some((endpoint, revision)) = stored_endpoint(connection, &key)? else { return Ok(()) };
        if !endpoint.spec.container_id.is_empty() && endpoint.spec.container_id != identity.container_id {
            tracing::info!(other = %endpoint.spec.container_id, "the endpoint belongs to another sandbox of the pod");
            return Ok(());
        }
        match connection.store.delete(key.clone(), Some(revision)) {
            Ok(_) | Err(StoreError::Missing { .. }) => return Ok(()),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(store_error(error)),
        }
    }
    Err(CniError::new(code::TRY_AGAIN_LATER, format!("{} keeps changing", key.path())))
}

/// Deletes the endpoints of this node and network whose containers the runtime no longer knows.
pub fn gc(env: &Env, conf: &NetConf) -> Result<(), CniError> {
    let Some(valid) = &conf.valid_attachments else {
        return Err(CniError::new(code::INVALID_CONFIG, "GC needs cni.dev/valid-attachments"));
    };
    let valid: BTreeSet<&Attachment> = valid.iter().collect();
    let node = node_name(conf)?;
    let connection = Connection::open(conf)?;
    let list = connection.store.list(&ListRequest::kind(Kind::WorkloadEndpoint)).map_err(store_error)?;
    let mut first_error = None;
    for item in list.items {
        let Value::Resource(resource) = &item.value else { continue };
        let AnyResource::WorkloadEndpoint(endpoint) = &**resource else { continue };
        let spec = &endpoint.spec;
        let known = Attachment { container_id: spec.container_id.clone(), ifname: spec.endpoint.clone() };
        if spec.node != node || spec.container_id.is_empty() || valid.contains(&known) {
            continue;
        }
        tracing::info!(endpoint = %item.key.path(), "its container is gone");
        match connection.store.delete(item.key, Some(item.revision)) {
            Ok(_) | Err(StoreError::Missing { .. }) => {
                let removed = pod::detach(&spec.interface_name, &spec.endpoint, None);
                first_error = first_error.or(removed.err().map(|e| CniError::generic(e.to_string())));
            }
            Err(error) => first_error = first_error.or(Some(store_error(error))),
        }
    }
    let raw = serde_json::to_vec(&conf.raw).unwrap_or_default();
    if !conf.ipam.plugin_type.is_empty() {
        let forwarded = delegate::run(&conf.ipam.plugin_type, Command::Gc, env, &delegate_args(env), &raw);
        first_error = first_error.or(forwarded.err());
    }
    first_error.map_or(Ok(()), Err)
}
