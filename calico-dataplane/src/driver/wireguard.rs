//! Carrying out what the WireGuard managers decide. The rule comes last: only when device, peers and routes are in
//! place may packets be led there.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Driver, PolicyDataplane, Progress};
use crate::manager::mtu::{Overlay, host_mtu, pod_mtu};
use crate::manager::{WireguardConfig, WireguardManager};
use crate::netlink::wireguard::{DeviceChange, Key};
use crate::netlink::{
    Address, Family, Generic, LinkChange, NetlinkError, NewKind, NewLink, Route, RouteChange, RouteFilter,
    RouteKey,
};

/// How long to wait after WireGuard could not be set up: a kernel without it will not get it soon.
const PAUSE: Duration = Duration::from_secs(30);

/// WireGuard of one family and what is known about it.
pub(super) struct WireguardUnit {
    manager: WireguardManager,
    generic: Option<Generic>,
    dirty: bool,
    retry: Option<Instant>,
    /// The public key of this node, to be published.
    public_key: Option<Key>,
    error: Option<String>,
}

impl WireguardUnit {
    pub(super) fn new(config: WireguardConfig) -> Self {
        let manager = WireguardManager::new(config);
        Self { manager, generic: None, dirty: true, retry: None, public_key: None, error: None }
    }

    pub(super) fn changes(&mut self, changes: &calico_policy::Changes) {
        self.manager.changes(changes);
        self.dirty = true;
    }

    /// Somebody did something to an interface.
    pub(super) fn interface_changed(&mut self, name: &str) {
        self.dirty |= *name == *self.manager.config().device;
    }

    /// The kernel was read again.
    pub(super) fn distrust(&mut self) {
        self.dirty = true;
    }

    /// The device and its public key, or why there is none; `None` before the first attempt.
    pub(super) fn report(&self) -> Option<(Arc<str>, Result<String, String>)> {
        let device = self.manager.config().device.clone();
        match (&self.error, self.public_key) {
            (Some(error), _) => Some((device, Err(error.clone()))),
            (None, Some(key)) => Some((device, Ok(key.to_base64()))),
            (None, None) => None,
        }
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.retry
    }
}

/// A new private key from the kernel's random numbers.
fn new_private_key() -> Result<Key, NetlinkError> {
    let mut random = [0; 32];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).map_err(
        |error| NetlinkError::Socket {
            call: "read /dev/urandom",
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        },
    )?;
    Ok(Key::clamped(random))
}

impl<P: PolicyDataplane> Driver<P> {
    pub(super) fn apply_wireguard(&mut self, now: Instant, progress: &mut Progress) {
        let mut units = std::mem::take(&mut self.wireguard);
        for unit in &mut units {
            let due = unit.dirty || unit.retry.is_some_and(|at| at <= now);
            if !due || unit.retry.is_some_and(|at| at > now) {
                continue;
            }
            unit.dirty = false;
            match self.wireguard_unit(unit, progress) {
                Ok(()) => (unit.retry, unit.error) = (None, None),
                Err(error) => {
                    tracing::warn!(%error, "WireGuard is not in force");
                    unit.error = Some(error.to_string());
                    unit.retry = Some(now + PAUSE);
                    unit.generic = None;
                }
            }
        }
        self.wireguard = units;
    }

    fn wireguard_unit(
        &mut self,
        unit: &mut WireguardUnit,
        progress: &mut Progress,
    ) -> Result<(), NetlinkError> {
        let config = unit.manager.config().clone();
        let name = config.device.as_ref();
        let overlay = if config.family == Family::V4 { Overlay::WireGuard } else { Overlay::WireGuardV6 };
        let node: Vec<_> = unit.manager.node_address().into_iter().collect();
        let mtu = pod_mtu(host_mtu(&self.interfaces, &node).0, [(overlay, None)]);
        let link = match self.netlink.link(name) {
            Ok(link) => link,
            Err(error) if error.is_absent() => {
                let mut new = NewLink::new(name, NewKind::WireGuard);
                new.mtu = Some(mtu);
                self.netlink.create_link(&new)?;
                progress.messages += 1;
                self.netlink.link(name)?
            }
            Err(error) => return Err(error),
        };
        let generic = match &mut unit.generic {
            Some(generic) => generic,
            None => unit.generic.insert(Generic::wireguard()?),
        };
        let mut device = generic.wireguard_device(name)?;
        if device.public_key.is_none() || device.listen_port != config.port || device.mark != config.mark {
            let private_key = device.public_key.is_none().then(new_private_key).transpose()?;
            let (listen_port, mark) = (config.port, config.mark);
            generic.change_wireguard(name, [DeviceChange::Configure { listen_port, mark, private_key }])?;
            progress.messages += 1;
            device = generic.wireguard_device(name)?;
        }
        unit.public_key = device.public_key;
        let plan = unit.manager.plan();
        for (node, key) in &plan.conflicts {
            tracing::warn!(%node, %key, "several nodes claim one WireGuard key; none of them is a peer");
        }
        let changes = plan.device_changes(&device);
        progress.messages += changes.len();
        if let Some(refusal) = generic.change_wireguard(name, changes)?.into_iter().flatten().next() {
            return Err(NetlinkError::Refused { action: format!("set the peers of {name}"), refusal });
        }
        if let Some(address) = unit.manager.interface_address() {
            let address = Address::new(link.index, address.into());
            if !self.netlink.addresses_of(link.index)?.iter().any(|other| other.net == address.net) {
                self.netlink.add_address(&address)?;
                progress.messages += 1;
            }
        }
        if !link.is_up() {
            self.netlink.change_link(link.index, &LinkChange::Up)?;
            progress.messages += 1;
        }
        self.wireguard_routes(&config, plan.kernel_routes(&config, link.index), progress)?;
        let rule = config.rule();
        if !self.netlink.rules(config.family)?.iter().any(|other| other.table == rule.table) {
            self.netlink.add_rule(&rule)?;
            progress.messages += 1;
        }
        Ok(())
    }

    /// Makes the table exactly so: every route in it is ours.
    fn wireguard_routes(
        &mut self,
        config: &WireguardConfig,
        wanted: Vec<Route>,
        progress: &mut Progress,
    ) -> Result<(), NetlinkError> {
        let filter =
            RouteFilter { family: config.family, table: Some(config.table), protocol: None, interface: None };
        let existing = self.netlink.routes(&filter)?;
        let stale: Vec<RouteKey> = existing
            .iter()
            .map(Route::key)
            .filter(|key| !wanted.iter().any(|route| route.key() == *key))
            .collect();
        let changed = wanted.iter().filter(|route| !existing.contains(route)).map(RouteChange::Replace);
        let changes: Vec<RouteChange<'_>> = changed.chain(stale.iter().map(RouteChange::Delete)).collect();
        progress.messages += changes.len();
        match self.netlink.change_routes(changes)?.into_iter().flatten().next() {
            Some(refusal) => Err(NetlinkError::Refused {
                action: format!("set routes of table {}", config.table),
                refusal,
            }),
            None => Ok(()),
        }
    }
}
