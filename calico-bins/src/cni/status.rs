//! STATUS: whether an ADD would have a chance.

use calico_datastore::ListRequest;
use calico_model::{AnyResource, Key, Kind, Value};

use super::conf::NetConf;
use super::delegate;
use super::env::{Command, Env};
use super::error::{CniError, code};
use super::identity::node_name;
use super::journal;
use super::store::{Connection, store_error};

/// Fails when an ADD cannot succeed, and says why: with code 50, or with 51 when no agent runs either, so that what
/// is attached already may be cut off as well. The question is passed on to a foreign IPAM plugin.
pub fn status(env: &Env, conf: &NetConf) -> Result<(), CniError> {
    let node = node_name(conf).map_err(|e| unavailable(e, false))?;
    let connection = Connection::open(conf).map_err(|e| unavailable(e, false))?;
    let agent = connection.has_agent();
    connection.store.wait(journal::replay(&**connection.store.inner(), &journal::directory(conf), &node));
    require_ready(&connection)
        .and_then(|()| require_pool(&connection, conf))
        .map_err(|e| unavailable(e, agent))?;
    if conf.plugin_type == "calico" && !matches!(conf.ipam.plugin_type.as_str(), "" | "calico-ipam") {
        let raw = serde_json::to_vec(&conf.raw).unwrap_or_default();
        match delegate::run(&conf.ipam.plugin_type, Command::Status, env, &env.args_text, &raw) {
            Ok(_) => {}
            Err(error) if delegate::is_unknown_command(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn unavailable(error: CniError, agent: bool) -> CniError {
    let code = if agent { code::NOT_AVAILABLE } else { code::NOT_AVAILABLE_LIMITED };
    CniError::new(code, error.msg).details(error.details)
}

fn require_pool(connection: &Connection, conf: &NetConf) -> Result<(), CniError> {
    if conf.ipam.plugin_type != "calico-ipam" {
        return Ok(());
    }
    let pools = connection.store.list(&ListRequest::kind(Kind::IPPool)).map_err(store_error)?;
    let usable = pools.items.iter().any(|item| match &item.value {
        Value::Resource(resource) => matches!(&**resource, AnyResource::IPPool(pool) if !pool.spec.disabled),
        _ => false,
    });
    if usable {
        return Ok(());
    }
    Err(CniError::generic("there is no enabled IPPool")
        .details("create one with: calicoctl create -f pool.yaml"))
}

/// Everybody waits while the datastore is not ready: it is being set up or migrated.
pub fn require_ready(connection: &Connection) -> Result<(), CniError> {
    let key = Key::resource(Kind::ClusterInformation, "", "default");
    let ready = match connection.store.get(&key).map_err(store_error)? {
        Some(pair) => match &pair.value {
            Value::Resource(resource) => match &**resource {
                AnyResource::ClusterInformation(info) => info.spec.datastore_ready == Some(true),
                _ => false,
            },
            _ => false,
        },
        None => false,
    };
    if ready {
        return Ok(());
    }
    Err(CniError::new(code::TRY_AGAIN_LATER, "Calico is currently not ready to process requests").details(
        "ClusterInformation \"default\" does not say datastoreReady: true; it does once calico-node has started and \
         no migration holds the lock",
    ))
}
