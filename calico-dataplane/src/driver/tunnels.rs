//! Carrying out what the tunnel manager decides, and forgetting the connections of addresses that moved.

use std::time::{Duration, Instant};

use super::{Driver, PolicyDataplane, Progress};
use crate::manager::devices::{DeviceKind, DeviceSpec, DeviceStep};
use crate::netlink::neighbour::NeighbourTable;
use crate::netlink::{Address, Conntrack, LinkChange, NetlinkError, NewKind, NewLink};

/// How long to wait after a device could not be made.
const DEVICE_PAUSE: Duration = Duration::from_secs(1);

impl<P: PolicyDataplane> Driver<P> {
    /// Makes the devices, then the entries behind them, and claims the routes through them.
    pub(super) fn apply_tunnels(
        &mut self,
        now: Instant,
        progress: &mut Progress,
    ) -> Result<(), NetlinkError> {
        if self.tunnels.is_none() {
            return Ok(());
        }
        if self.device_retry.is_none_or(|at| at <= now) {
            self.device_retry = None;
            if self.apply_devices(now, progress) {
                // The kernel tells the indices of new devices.
                self.listen(now)?;
            }
        }
        let Some(tunnels) = &mut self.tunnels else { return Ok(()) };
        tunnels.settle(&self.interfaces, &mut self.routes);
        let work = tunnels.pending(now);
        if work.is_empty() {
            return Ok(());
        }
        let results = self.netlink.change_neighbours(work.iter().map(|(set, entry)| (*set, entry)))?;
        progress.messages += work.len();
        for ((_, entry), refusal) in work.iter().zip(results) {
            if let Some(refusal) = &refusal {
                tracing::debug!(%entry, %refusal, "tunnel neighbour not set");
            }
            tunnels.finished(entry, refusal.is_none(), now);
        }
        Ok(())
    }

    /// True when something was changed.
    fn apply_devices(&mut self, now: Instant, progress: &mut Progress) -> bool {
        let Some(tunnels) = &self.tunnels else { return false };
        let addresses: Vec<Address> = self.interfaces.addresses().copied().collect();
        let mut changed = 0;
        let mut failure = None;
        for index in tunnels.unwanted_devices(&self.interfaces) {
            changed += 1;
            match self.netlink.delete_link(index) {
                Err(error) if !error.is_absent() => failure = Some(error),
                _ => {}
            }
        }
        for spec in tunnels.devices(&self.interfaces) {
            let steps = spec.steps(self.interfaces.by_name(spec.name), &addresses);
            changed += steps.len();
            for step in steps {
                if let Err(error) = self.device_step(&spec, step) {
                    failure = Some(error);
                    break;
                }
            }
        }
        progress.messages += changed;
        self.device_error = failure.map(|error| error.to_string());
        if let Some(error) = &self.device_error {
            tracing::warn!(%error, "tunnel device not as it should be");
            self.device_retry = Some(now + DEVICE_PAUSE);
        }
        changed > 0
    }

    fn device_step(&mut self, spec: &DeviceSpec, step: DeviceStep) -> Result<(), NetlinkError> {
        match step {
            DeviceStep::Delete => return self.netlink.delete_link_by_name(spec.name).map(|_| ()),
            DeviceStep::Create => {
                let kind = match spec.kind {
                    DeviceKind::Vxlan(vxlan) => NewKind::Vxlan(vxlan),
                    DeviceKind::IpIp => NewKind::IpIp { local: None },
                };
                let mut new = NewLink::new(spec.name, kind);
                new.mac = spec.mac;
                new.mtu = Some(spec.mtu);
                return match self.netlink.create_link(&new) {
                    Err(error) if error.is_present() => Ok(()),
                    other => other,
                };
            }
            DeviceStep::RemoveAddress(address) => {
                return self.netlink.delete_address(&address).map(|_| ());
            }
            DeviceStep::Mtu(_) | DeviceStep::AddAddress(_) | DeviceStep::Up => {}
        }
        let index = self.netlink.link(spec.name)?.index;
        match step {
            DeviceStep::Mtu(mtu) => self.netlink.change_link(index, &LinkChange::Mtu(mtu)),
            DeviceStep::AddAddress(ip) => self.netlink.add_address(&Address::new(index, ip.into())),
            _ => self.netlink.change_link(index, &LinkChange::Up),
        }
    }

    /// Reads the entries behind our devices.
    pub(super) fn read_tunnels(&mut self) -> Result<(), NetlinkError> {
        let Some(tunnels) = &mut self.tunnels else { return Ok(()) };
        let mut entries = Vec::new();
        for (family, index) in tunnels.vxlan_devices(&self.interfaces) {
            entries.extend(self.netlink.neighbours(NeighbourTable::Address(family), index)?);
            entries.extend(self.netlink.neighbours(NeighbourTable::Forwarding, index)?);
        }
        self.drift += tunnels.refresh(entries);
        Ok(())
    }

    /// Forgets the connections of addresses that no pod of this node has any more, so that whoever gets the address
    /// next does not inherit them.
    pub(super) fn forget_connections(&mut self) {
        let released = self.routes.take_released();
        if released.is_empty() || !self.config.forget_connections {
            return;
        }
        let outcome = match &mut self.conntrack {
            Some(conntrack) => conntrack.forget_addresses(&released),
            None => Conntrack::open()
                .and_then(|conntrack| self.conntrack.insert(conntrack).forget_addresses(&released)),
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, addresses = ?released, "connections not forgotten");
            self.conntrack = None;
        }
    }
}
