//! DEL and GC of the `calico` plugin.

use std::collections::{BTreeMap, BTreeSet};

use calico_dataplane::netlink::Rtnetlink;
use calico_dataplane::netns::NetNs;
use calico_dataplane::pod;
use calico_datastore::{Datastore, ListRequest, StoreError};
use calico_model::{AnyResource, Key, Kind, Value};

use super::attach::{delegate_args, endpoint_of, interface_prefix};
use super::conf::{Attachment, NetConf};
use super::delegate;
use super::env::{Command, Env};
use super::error::{CniError, code};
use super::host_local::{self, PodCidrs};
use super::identity::{Identity, node_name};
use super::ipam;
use super::journal::{self, Part};
use super::store::{Connection, store_error};

/// How often a delete is tried again when the endpoint changed meanwhile.
const DELETE_TRIES: usize = 6;

/// Detaches a pod. Every step is tried; what is gone already is fine; what needs a datastore that is away is noted for
/// later; the first failure is reported. `inside`: the IPAM plugin is this program.
pub fn del(env: &Env, conf: &NetConf, inside: bool) -> Result<(), CniError> {
    // Not even the node's name is needed to let a pod go.
    let node = node_name(conf).unwrap_or_default();
    let identity = Identity::new(env, conf, node, &interface_prefix());
    // The kernel comes first: it needs no datastore, and a pod whose wire is cut harms nobody.
    let kernel = remove_interface(&identity, env);
    let connection =
        Connection::open(conf).map_err(|error| CniError { code: code::TRY_AGAIN_LATER, ..error });
    let endpoint = match &connection {
        Ok(connection) => {
            let store = &connection.store;
            let dir = journal::directory(conf);
            store.wait(journal::replay(&**store.inner(), &dir, &identity.node));
            store.wait(delete_endpoint(&**store.inner(), &identity))
        }
        Err(error) => Err(error.clone()),
    };
    let endpoint = journal::or_put_off(endpoint, conf, Part::Endpoint, &identity);
    let ipam = match (conf.ipam.plugin_type.as_str(), connection) {
        ("", _) => Ok(()),
        (_, connection) if inside => {
            let released = connection.and_then(|connection| ipam::release_now(conf, &connection, &identity));
            journal::or_put_off(released, conf, Part::Addresses, &identity)
        }
        (plugin, _) => {
            delegate::run(plugin, Command::Del, env, &delegate_args(env), &netconf_for_cleanup(conf))
                .map(drop)
        }
    };
    kernel.and(endpoint).and(ipam)
}

/// The configuration for an IPAM plugin that is to release.
pub(super) fn netconf_for_cleanup(conf: &NetConf) -> Vec<u8> {
    let prepared = host_local::prepare(conf, &conf.raw, &PodCidrs::Any);
    serde_json::to_vec(prepared.as_ref().unwrap_or(&conf.raw)).unwrap_or_default()
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

/// Deletes the endpoint of an attachment, unless a newer sandbox of the pod has it by now.
pub(super) async fn delete_endpoint(store: &dyn Datastore, identity: &Identity) -> Result<(), CniError> {
    if identity.node.is_empty() {
        return Err(CniError::new(code::TRY_AGAIN_LATER, "the name of this node is not known"));
    }
    let key = Key::resource(Kind::WorkloadEndpoint, identity.namespace.clone(), identity.endpoint_name()?);
    for _ in 0..DELETE_TRIES {
        let stored = store.get(&key).await.map_err(store_error)?;
        let Some((endpoint, revision)) = stored.and_then(endpoint_of) else { return Ok(()) };
        if !endpoint.spec.container_id.is_empty() && endpoint.spec.container_id != identity.container_id {
            tracing::info!(other = %endpoint.spec.container_id, "the endpoint belongs to another sandbox of the pod");
            return Ok(());
        }
        match store.delete(key.clone(), Some(revision)).await {
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
    let store = &connection.store;
    store.wait(journal::replay(&**store.inner(), &journal::directory(conf), &node));
    let list = store.list(&ListRequest::kind(Kind::WorkloadEndpoint)).map_err(store_error)?;
    let networks = networks_of_containers(&connection)?;
    let mut first_error = None;
    for item in list.items {
        let Value::Resource(resource) = &item.value else { continue };
        let AnyResource::WorkloadEndpoint(endpoint) = &**resource else { continue };
        let spec = &endpoint.spec;
        let known = Attachment { container_id: spec.container_id.clone(), ifname: spec.endpoint.clone() };
        if spec.node != node || spec.container_id.is_empty() || valid.contains(&known) {
            continue;
        }
        // The runtime lists the attachments of one network; those of others are none of its business here.
        let is_ours = match networks.get(spec.container_id.as_str()) {
            Some(names) => names.contains(&conf.name),
            None if spec.orchestrator == "cni" => spec.profiles.contains(&conf.name),
            // No address of ours tells the network. What has no wire any more can go.
            None => !interface_exists(&spec.interface_name),
        };
        if !is_ours {
            continue;
        }
        tracing::info!(endpoint = %item.key.path(), "its container is gone");
        match connection.store.delete(item.key, Some(item.revision)) {
            Ok(_) | Err(StoreError::Missing { .. }) => {
                let removed = pod::detach(&spec.interface_name, &spec.endpoint, None);
                first_error = first_error.or(removed.err().map(|e| CniError::generic(e.to_string())));
            }
            // It was changed since the list: somebody uses it.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => first_error = first_error.or(Some(store_error(error))),
        }
    }
    if !conf.ipam.plugin_type.is_empty() {
        let netconf = netconf_for_cleanup(conf);
        match delegate::run(&conf.ipam.plugin_type, Command::Gc, env, &delegate_args(env), &netconf) {
            Ok(_) => {}
            Err(error) if delegate::is_unknown_command(&error) => {
                tracing::info!(plugin = %conf.ipam.plugin_type, "the IPAM plugin knows no GC");
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// The networks that each container holds addresses of, by the handles of the addresses.
fn networks_of_containers(connection: &Connection) -> Result<BTreeMap<String, BTreeSet<String>>, CniError> {
    let blocks = connection.store.list(&ListRequest::blocks()).map_err(store_error)?;
    let mut networks: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for item in &blocks.items {
        let Value::Block(block) = &item.value else { continue };
        for handle in block.attributes.iter().filter_map(|attribute| attribute.handle_id.as_deref()) {
            // Names of networks may hold dots, and container IDs may too, but runtimes make hexadecimal ones.
            if let Some((network, container)) = handle.rsplit_once('.') {
                networks.entry(container.to_owned()).or_default().insert(network.to_owned());
            }
        }
    }
    Ok(networks)
}

fn interface_exists(name: &str) -> bool {
    Rtnetlink::open().and_then(|mut netlink| netlink.link(name)).is_ok()
}
