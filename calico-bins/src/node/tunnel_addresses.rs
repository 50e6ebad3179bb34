//! Looks after the addresses of this node's tunnel devices: one from each pool that needs the device, kept in the Node
//! resource, where the other nodes find it. `calico-ipam` decides; this reads, assigns and writes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::{
    Condition, Datastore, Effect, StoreError, SyncEvent, SyncStatus, Syncer, SyncerOptions, Write,
    tunnel_view,
};
use calico_ipam::{
    AssignIp, AutoAssign, Holder, IpamError, Item, LookupAddress, Pool, ReleaseByHandle, ReleaseIps,
    ReleaseOptions, Stored, Tunnel, TunnelAction, TunnelState, tunnel_address,
};
use calico_model::{AnyResource, Key, Kind, Node, NodeBgpSpec, NodeWireguardSpec, Revision, Value};

use crate::ipam_driver::{DriverError, now, run};

/// How long to wait after something failed.
const PAUSE: Duration = Duration::from_secs(5);

/// Times that a write may lose against others before it waits.
const ATTEMPTS: u64 = 10;

/// Why the addresses are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum TunnelAddressError {
    /// The datastore did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Address management refused.
    #[error("{tunnel:?}: {error}")]
    Ipam {
        /// For which device.
        tunnel: Tunnel,
        /// Why.
        error: DriverError,
    },
    /// The pools that need the device have no address left.
    #[error("{0:?}: no pool that needs the device has a free address")]
    Exhausted(Tunnel),
    /// Others write the Node resource all the time.
    #[error("the Node resource changes faster than it can be written")]
    Contended,
}

/// Looks after the addresses until the task is aborted.
pub async fn watch(store: Arc<dyn Datastore>, node: String) {
    let view = tunnel_view(Some(&node));
    let mut events = Syncer::start(Arc::clone(&store), view, SyncerOptions::default()).into_events();
    let mut in_sync = false;
    while let Some(event) = events.recv().await {
        in_sync |= matches!(event, SyncEvent::Status(SyncStatus::InSync));
        while let Ok(event) = events.try_recv() {
            in_sync |= matches!(event, SyncEvent::Status(SyncStatus::InSync));
        }
        while in_sync && let Err(error) = ensure(&*store, &node).await {
            tracing::error!(%error, "tunnel addresses are not as they should be; trying again");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Brings the addresses to what pools and node ask for now. Does nothing when they are.
pub async fn ensure(store: &dyn Datastore, name: &str) -> Result<(), TunnelAddressError> {
    for seed in 0..ATTEMPTS {
        let Some((node, revision, pools)) = read(store, name).await? else { return Ok(()) };
        let mut wanted = node.clone();
        let mut taken = Vec::new();
        let mut failure = None;
        for tunnel in Tunnel::ALL {
            match one(store, tunnel, &node, &pools, seed).await {
                Ok(Outcome::Keep) => {}
                Ok(Outcome::Clear) => set_field(&mut wanted, tunnel, None),
                Ok(Outcome::Set(address)) => {
                    taken.push(ReleaseOptions {
                        handle: Some(tunnel.handle(name).into()),
                        ..ReleaseOptions::new(address)
                    });
                    set_field(&mut wanted, tunnel, Some(address));
                }
                // The others do not wait for this one.
                Err(error) => failure = Some(error),
            }
        }
        if wanted != node {
            wanted.metadata.resource_version.clear();
            let value = Value::Resource(Arc::new(AnyResource::from(wanted)));
            let key = Key::resource(Kind::Node, "", name);
            let write =
                Write { key, condition: Condition::Revision(revision), effect: Effect::Put(value, None) };
            if let Err(error) = store.txn(vec![write]).await {
                give_back(store, taken, seed).await;
                if error.is_conflict() || error.is_missing() {
                    continue;
                }
                return Err(error.into());
            }
            tracing::info!(node = name, "tunnel addresses written");
        }
        return failure.map_or(Ok(()), Err);
    }
    Err(TunnelAddressError::Contended)
}

type Read = (Node, Revision, Vec<Arc<Pool>>);

async fn read(store: &dyn Datastore, name: &str) -> Result<Option<Read>, StoreError> {
    let list = store.list(&tunnel_view(Some(name))).await?;
    let mut own = None;
    let mut pools = Vec::new();
    for pair in list.items {
        if let Value::Resource(resource) = &pair.value
            && let AnyResource::Node(node) = &**resource
        {
            own = Some(((**node).clone(), pair.revision.clone()));
        } else if let Some(Item { value: Stored::Pool(pool), .. }) =
            Item::from_model(&pair.key, &pair.value, &pair.revision)
        {
            pools.push(pool);
        }
    }
    Ok(own.map(|(node, revision)| (node, revision, pools)))
}

enum Outcome {
    Keep,
    Clear,
    Set(IpAddr),
}

async fn one(
    store: &dyn Datastore,
    tunnel: Tunnel,
    node: &Node,
    pools: &[Arc<Pool>],
    seed: u64,
) -> Result<Outcome, TunnelAddressError> {
    let failed = |error| TunnelAddressError::Ipam { tunnel, error };
    let name = node.metadata.name.as_str();
    let current = field(node, tunnel);
    let holder = match current {
        None => Holder::Nobody,
        Some(address) => match run(store, LookupAddress::new(address), seed).await {
            Ok(attribute) => Holder::Somebody(attribute),
            Err(DriverError::Ipam(
                IpamError::NotInPool { .. } | IpamError::NotAssigned { .. } | IpamError::InCooldown { .. },
            )) => Holder::Nobody,
            Err(error) => return Err(failed(error)),
        },
    };
    let state = TunnelState {
        node: name,
        labels: &node.metadata.labels,
        pools,
        wanted: wanted(node, tunnel),
        current,
        holder,
    };
    match tunnel_address(tunnel, &state) {
        TunnelAction::Keep => Ok(Outcome::Keep),
        // A node that never had the device has no handle of it either.
        TunnelAction::Clear { .. } if current.is_none() => Ok(Outcome::Keep),
        TunnelAction::Clear { handle } => {
            release_handle(store, &handle, seed).await.map_err(failed)?;
            Ok(Outcome::Clear)
        }
        TunnelAction::Assign { release, args } => {
            if let Some(handle) = release {
                release_handle(store, &handle, seed).await.map_err(failed)?;
            }
            let assigned = run(store, AutoAssign::new(*args, now()), seed).await.map_err(failed)?;
            let address = assigned.addresses().next().map(|assignment| assignment.address);
            address.map(Outcome::Set).ok_or(TunnelAddressError::Exhausted(tunnel))
        }
        TunnelAction::Adopt { address, args } => {
            let old = ReleaseIps::new(vec![ReleaseOptions::new(address)], now());
            run(store, old, seed).await.map_err(failed)?;
            run(store, AssignIp::new(*args, now()), seed).await.map_err(failed)?;
            Ok(Outcome::Set(address))
        }
    }
}

async fn release_handle(store: &dyn Datastore, handle: &str, seed: u64) -> Result<(), DriverError> {
    match run(store, ReleaseByHandle::new(handle, now()), seed).await {
        Ok(_) | Err(DriverError::Ipam(IpamError::NotFound { .. })) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn give_back(store: &dyn Datastore, taken: Vec<ReleaseOptions>, seed: u64) {
    if taken.is_empty() {
        return;
    }
    if let Err(error) = run(store, ReleaseIps::new(taken, now()), seed).await {
        // The handle has the node's name: the next assignment releases it first.
        tracing::warn!(%error, "cannot give back tunnel addresses that could not be written to the node");
    }
}

fn wanted(node: &Node, tunnel: Tunnel) -> bool {
    let key = |pick: fn(&calico_model::NodeStatus) -> &str| {
        node.status.as_ref().is_some_and(|status| !pick(status).is_empty())
    };
    match tunnel {
        Tunnel::Wireguard => key(|status| &status.wireguard_public_key),
        Tunnel::WireguardV6 => key(|status| &status.wireguard_public_key_v6),
        Tunnel::Ipip | Tunnel::Vxlan | Tunnel::VxlanV6 => true,
    }
}

/// The address that the Node resource has for a device.
pub fn field(node: &Node, tunnel: Tunnel) -> Option<IpAddr> {
    let spec = &node.spec;
    let text = match tunnel {
        Tunnel::Vxlan => &spec.ipv4_vxlan_tunnel_addr,
        Tunnel::VxlanV6 => &spec.ipv6_vxlan_tunnel_addr,
        Tunnel::Ipip => &spec.bgp.as_ref()?.ipv4_ipip_tunnel_addr,
        Tunnel::Wireguard => &spec.wireguard.as_ref()?.interface_ipv4_address,
        Tunnel::WireguardV6 => &spec.wireguard.as_ref()?.interface_ipv6_address,
    };
    text.parse().ok()
}

fn set_field(node: &mut Node, tunnel: Tunnel, address: Option<IpAddr>) {
    let text = address.map(|address| address.to_string()).unwrap_or_default();
    let spec = &mut node.spec;
    match tunnel {
        Tunnel::Vxlan => spec.ipv4_vxlan_tunnel_addr = text,
        Tunnel::VxlanV6 => spec.ipv6_vxlan_tunnel_addr = text,
        Tunnel::Ipip => spec.bgp.get_or_insert_with(NodeBgpSpec::default).ipv4_ipip_tunnel_addr = text,
        Tunnel::Wireguard => {
            spec.wireguard.get_or_insert_with(NodeWireguardSpec::default).interface_ipv4_address = text;
        }
        Tunnel::WireguardV6 => {
            spec.wireguard.get_or_insert_with(NodeWireguardSpec::default).interface_ipv6_address = text;
        }
    }
}

#[cfg(test)]
mod tests {
    use calico_datastore::{MemoryStore, Store};
    use calico_model::{EncapMode, IPPool, IPPoolSpec};

    use super::*;

    async fn put(store: &dyn Datastore, resource: AnyResource) {
        let key = Key::resource(resource.kind(), "", &resource.metadata().name);
        store.apply(key, Value::Resource(Arc::new(resource))).await.unwrap();
    }

    fn pool(vxlan: bool) -> AnyResource {
        let mut spec = IPPoolSpec { cidr: "10.244.0.0/16".into(), ..IPPoolSpec::default() };
        if vxlan {
            spec.vxlan_mode = EncapMode::Always;
        }
        AnyResource::from(IPPool::new("p", spec))
    }

    async fn stored(store: &dyn Datastore) -> Node {
        read(store, "n").await.unwrap().unwrap().0
    }

    #[test]
    fn an_address_comes_with_the_pool_that_needs_it_stays_and_goes_with_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::new(MemoryStore::new());
            put(&store, AnyResource::from(Node::new("n", Default::default()))).await;
            put(&store, pool(false)).await;
            ensure(&store, "n").await.unwrap();
            assert_eq!(field(&stored(&store).await, Tunnel::Vxlan), None);

            put(&store, pool(true)).await;
            ensure(&store, "n").await.unwrap();
            let first = field(&stored(&store).await, Tunnel::Vxlan).unwrap();
            assert_eq!(field(&stored(&store).await, Tunnel::Ipip), None);
            ensure(&store, "n").await.unwrap();
            assert_eq!(field(&stored(&store).await, Tunnel::Vxlan), Some(first));

            // Somebody wiped the field: the handle still holds the address, and is not leaked.
            let mut wiped = stored(&store).await;
            set_field(&mut wiped, Tunnel::Vxlan, None);
            put(&store, AnyResource::from(wiped)).await;
            ensure(&store, "n").await.unwrap();
            assert!(field(&stored(&store).await, Tunnel::Vxlan).is_some());
            let blocks = store.list(&calico_datastore::ListRequest::blocks()).await.unwrap();
            let Value::Block(block) = &blocks.items[0].value else { panic!() };
            assert_eq!(block.allocations.iter().flatten().count(), 1);

            put(&store, pool(false)).await;
            ensure(&store, "n").await.unwrap();
            assert_eq!(field(&stored(&store).await, Tunnel::Vxlan), None);
            let address = first;
            let gone = run(&store, LookupAddress::new(address), 0).await;
            assert!(matches!(gone, Err(DriverError::Ipam(IpamError::NotAssigned { .. }))), "{gone:?}");
        });
    }
}
