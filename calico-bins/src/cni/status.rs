//! STATUS: whether an ADD would have a chance.

use calico_datastore::ListRequest;
use calico_model::{AnyResource, Key, Kind, Value};

use super::conf::NetConf;
use super::error::{CniError, code};
use super::identity::node_name;
use super::store::{Connection, store_error};

/// Fails with code 50 when an ADD cannot succeed, and says why.
pub fn status(conf: &NetConf) -> Result<(), CniError> {
    let unavailable = |e: CniError| CniError::new(code::NOT_AVAILABLE, e.msg).details(e.details);
    node_name(conf).map_err(unavailable)?;
    let connection = Connection::open(conf).map_err(unavailable)?;
    require_ready(&connection).map_err(unavailable)?;
    let pools =
        connection.store.list(&ListRequest::kind(Kind::IPPool)).map_err(store_error).map_err(unavailable)?;
    let usable = pools.items.iter().any(|item| match &item.value {
        Value::Resource(resource) => matches!(&**resource, AnyResource::IPPool(pool) if !pool.spec.disabled),
        _ => false,
    });
    if conf.ipam.plugin_type == "calico-ipam" && !usable {
        return Err(CniError::new(code::NOT_AVAILABLE, "there is no enabled IPPool")
            .details("create one with: calicoctl create -f pool.yaml"));
    }
    Ok(())
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
