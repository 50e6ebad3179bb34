//! `calicoctl ipam`: which addresses are in use, by whom, and how many are left.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use calico_datastore::{Backend, Datastore, ListRequest, Store, StoreError};
use calico_ipam::{Config, Family, Reservations};
use calico_model::VmAddressPersistence;
use calico_model::{AllocationAttribute, AllocationBlock, AnyResource, IpamConfig, Key, Kind, Value};
use ipnet::IpNet;

use super::apply::client;
use super::table::{Align, boxed};

/// Everything that the reports are about, as it was at one time.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Pools, by network.
    pub pools: BTreeMap<IpNet, String>,
    /// Blocks, by network.
    pub blocks: BTreeMap<IpNet, Arc<AllocationBlock>>,
    /// Networks that are never assigned from.
    pub reserved: Vec<String>,
}

/// Reads pools, blocks and reservations.
pub async fn inventory(store: &Arc<dyn Backend>) -> Result<Inventory, StoreError> {
    let mut out = Inventory::default();
    for resource in client(store).list(Kind::IPPool, None).await?.items {
        if let AnyResource::IPPool(pool) = resource
            && let Ok(cidr) = pool.spec.cidr.parse::<IpNet>()
        {
            out.pools.insert(cidr.trunc(), pool.metadata.name);
        }
    }
    for resource in client(store).list(Kind::IPReservation, None).await?.items {
        if let AnyResource::IPReservation(reservation) = resource {
            out.reserved.extend(reservation.spec.reserved_cidrs);
        }
    }
    for pair in typed(store).list(&ListRequest::blocks()).await?.items {
        if let Value::Block(block) = pair.value {
            out.blocks.insert(block.cidr, block);
        }
    }
    Ok(out)
}

/// The typed view of a store.
pub fn typed(store: &Arc<dyn Backend>) -> Store<Arc<dyn Backend>> {
    Store::new(Arc::clone(store))
}

/// The stored configuration, or what holds without one.
pub async fn stored_config(store: &Arc<dyn Backend>) -> Result<IpamConfig, StoreError> {
    match typed(store).get(&Key::IpamConfig).await?.map(|pair| pair.value) {
        Some(Value::IpamConfig(config)) => Ok(Arc::unwrap_or_clone(config)),
        _ => Ok(IpamConfig::when_missing()),
    }
}

/// The stored configuration in the form of the operation that changes it.
pub fn settings(stored: &IpamConfig) -> Config {
    Config {
        strict_affinity: stored.strict_affinity,
        auto_allocate_blocks: stored.auto_allocate_blocks,
        max_blocks_per_host: stored.max_blocks_per_host,
        vm_address_persistence: stored.kubevirt_vm_address_persistence != VmAddressPersistence::Disabled,
        cooldown_seconds: stored.ip_cooldown_seconds,
    }
}

impl Inventory {
    /// The table of pools, with `--show-blocks` of blocks too. Blocks outside of all pools come last.
    pub fn usage(&self, with_blocks: bool) -> String {
        let reservations = Reservations::parse(self.reserved.iter().map(String::as_str));
        let mut rows = Vec::new();
        for pool in self.pools.keys() {
            let blocks = self.blocks.iter().filter(|(cidr, _)| pool.contains(*cidr));
            let in_use = blocks.clone().map(|(_, block)| in_use(block)).sum();
            rows.push(usage_row("IP Pool", pool, in_use, &reservations));
            if with_blocks {
                rows.extend(
                    blocks.map(|(cidr, block)| usage_row("Block", cidr, self::in_use(block), &reservations)),
                );
            }
        }
        if with_blocks {
            let strays =
                self.blocks.iter().filter(|(cidr, _)| !self.pools.keys().any(|pool| pool.contains(*cidr)));
            rows.extend(strays.map(|(cidr, block)| usage_row("Block", cidr, in_use(block), &reservations)));
        }
        let headings = [
            ("GROUPING", Align::Left),
            ("CIDR", Align::Left),
            ("IPS TOTAL", Align::Right),
            ("IPS IN USE", Align::Right),
            ("IPS RESERVED", Align::Right),
            ("IPS FREE", Align::Right),
        ];
        boxed(&headings, &rows)
    }

    /// Who has an address.
    pub fn address(&self, address: IpAddr) -> String {
        let found = self.blocks.values().find(|block| block.cidr.contains(&address)).and_then(|block| {
            let ordinal = usize::try_from(number(address) - number(block.cidr.network())).ok()?;
            let index = usize::try_from((*block.allocations.get(ordinal)?)?).ok()?;
            block.attributes.get(index).filter(|attribute| attribute.released_at.is_none())
        });
        let Some(attribute) = found else { return format!("{address} is not assigned\n") };
        let handle = attribute.handle_id.as_deref().unwrap_or("<none>");
        let mut out = format!("IP {address} is in use\nHandle ID: {handle}\n");
        if attribute.active_owner_attrs.is_empty() {
            out.push_str("No Active Owner attributes defined\n");
        } else {
            push_attributes("Active", &attribute.active_owner_attrs, &mut out);
        }
        if !attribute.alternate_owner_attrs.is_empty() {
            push_attributes("Alternate", &attribute.alternate_owner_attrs, &mut out);
        }
        out
    }

    /// Addresses that a node uses from the block of another.
    pub fn borrowed(&self) -> String {
        let (mut rows, mut without_node) = (Vec::new(), 0);
        for (address, block, attribute) in self.allocations() {
            let attrs = &attribute.active_owner_attrs;
            let owner = block.affinity.as_deref().unwrap_or_default();
            let owner = owner.split_once(':').map_or(owner, |(_, name)| name);
            match attrs.get("node") {
                None => without_node += 1,
                Some(node) if node != owner => {
                    let kind =
                        if attrs.contains_key("pod") { "pod" } else { attrs.get("type").map_or("", |t| t) };
                    let to = match (attrs.get("namespace"), attrs.get("pod")) {
                        (Some(namespace), Some(pod)) => format!("{namespace}/{pod}"),
                        _ => attribute.handle_id.clone().unwrap_or_default(),
                    };
                    rows.push(vec![
                        address.to_string(),
                        node.clone(),
                        block.cidr.to_string(),
                        owner.to_owned(),
                        kind.to_owned(),
                        to,
                    ]);
                }
                Some(_) => {}
            }
        }
        let headings = ["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"];
        let mut out = boxed(&headings.map(|heading| (heading, Align::Left)), &rows);
        if without_node > 0 {
            out.push_str(&format!(
                "Note: found {without_node} IP allocations without an explicit node association. Unable to determine \
                 if they are borrowed.\n"
            ));
        }
        out
    }

    /// Every address in use with its block and owner, ascending.
    pub fn allocations(&self) -> impl Iterator<Item = (IpAddr, &AllocationBlock, &AllocationAttribute)> {
        self.blocks.values().flat_map(|block| {
            block.allocations.iter().enumerate().filter_map(|(ordinal, index)| {
                let attribute = block.attributes.get(usize::try_from((*index)?).ok()?)?;
                let address = nth(block.cidr, ordinal);
                attribute.released_at.is_none().then_some((address, &**block, attribute))
            })
        })
    }
}

/// The table of the configuration.
pub fn configuration(config: &IpamConfig) -> String {
    let settings = settings(config);
    let persistence = if settings.vm_address_persistence { "Enabled" } else { "Disabled" };
    let rows = [
        ("StrictAffinity", settings.strict_affinity.to_string()),
        ("AutoAllocateBlocks", settings.auto_allocate_blocks.to_string()),
        ("MaxBlocksPerHost", settings.max_blocks_per_host.to_string()),
        ("KubeVirtVMAddressPersistence", persistence.to_owned()),
        ("IPCooldownSeconds", settings.cooldown_seconds.to_string()),
    ]
    .map(|(name, value)| vec![name.to_owned(), value]);
    boxed(&[("PROPERTY", Align::Left), ("VALUE", Align::Left)], &rows)
}

fn push_attributes(which: &str, attributes: &BTreeMap<String, String>, out: &mut String) {
    out.push_str(&format!("{which} Owner Attributes:\n"));
    for (name, value) in attributes {
        out.push_str(&format!("  {name}: {value}\n"));
    }
}

fn in_use(block: &AllocationBlock) -> u128 {
    let held = |index: &u32| {
        let attribute = usize::try_from(*index).ok().and_then(|index| block.attributes.get(index));
        attribute.is_none_or(|attribute| attribute.released_at.is_none())
    };
    block.allocations.iter().flatten().filter(|index| held(index)).count() as u128
}

fn usage_row(grouping: &str, cidr: &IpNet, in_use: u128, reservations: &Reservations) -> Vec<String> {
    let (first, last) = (number(cidr.network()), number(cidr.broadcast()));
    let total = (last - first).saturating_add(1);
    let reserved = reservations.ranges(Family::of_net(cidr)).count_within(first, last);
    let free = total.saturating_sub(in_use).saturating_sub(reserved);
    let share = |part: u128| format!("{} ({}%)", five_digits(part as f64), percent(part, total));
    vec![
        grouping.to_owned(),
        cidr.to_string(),
        five_digits(total as f64),
        share(in_use),
        share(reserved),
        share(free),
    ]
}

/// Whole percent, halves to the even side.
fn percent(part: u128, total: u128) -> f64 {
    (100.0 * part as f64 / total as f64).round_ties_even()
}

/// At most five significant digits, as `%.5g` prints them.
fn five_digits(number: f64) -> String {
    let scientific = format!("{number:.4e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..5).contains(&exponent) {
        return format!("{number}");
    }
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn nth(cidr: IpNet, ordinal: usize) -> IpAddr {
    let at = number(cidr.network()).saturating_add(ordinal as u128);
    match cidr {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(at).unwrap_or(u32::MAX))),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample() -> Inventory {
        let block: AllocationBlock = serde_json::from_value(json!({
            "cidr": "10.65.79.0/30", "affinity": "host:node1",
            "allocations": [0, 1, null, 2], "unallocated": [2],
            "attributes": [
                {"handle_id": "h1", "secondary": {"node": "node1", "namespace": "x", "pod": "p"}},
                {"handle_id": "h2", "secondary": {"node": "node2", "namespace": "x", "pod": "q"}},
                {"handle_id": "h3", "releasedAt": "2026-11-21T00:00:00Z"},
            ],
        }))
        .unwrap();
        Inventory {
            pools: BTreeMap::from([("10.65.0.0/16".parse().unwrap(), "pool".to_owned())]),
            blocks: BTreeMap::from([(block.cidr, Arc::new(block))]),
            reserved: vec!["10.65.1.0/24".to_owned()],
        }
    }

    #[test]
    fn usage_counts_what_is_held() {
        assert_eq!(
            sample().usage(true),
            "\
+----------+---------------+-----------+------------+--------------+--------------+
| GROUPING | CIDR          | IPS TOTAL | IPS IN USE | IPS RESERVED | IPS FREE     |
+----------+---------------+-----------+------------+--------------+--------------+
| IP Pool  | 10.65.0.0/16  |     65536 |     2 (0%) |     256 (0%) | 65278 (100%) |
| Block    | 10.65.79.0/30 |         4 |    2 (50%) |       0 (0%) |      2 (50%) |
+----------+---------------+-----------+------------+--------------+--------------+
"
        );
    }

    #[test]
    fn addresses_and_borrowers() {
        let inventory = sample();
        assert_eq!(
            inventory.address("10.65.79.1".parse().unwrap()),
            "IP 10.65.79.1 is in use\nHandle ID: h2\nActive Owner Attributes:\n  namespace: x\n  node: node2\n  pod: q\n"
        );
        assert_eq!(inventory.address("10.65.79.2".parse().unwrap()), "10.65.79.2 is not assigned\n");
        assert_eq!(
            inventory.address("10.65.79.3".parse().unwrap()),
            "10.65.79.3 is not assigned\n",
            "cooling down"
        );
        assert_eq!(inventory.address("10.1.1.1".parse().unwrap()), "10.1.1.1 is not assigned\n");
        assert!(
            inventory
                .borrowed()
                .contains("| 10.65.79.1 | node2          | 10.65.79.0/30 | node1       | pod  | x/q")
        );
        assert!(!inventory.borrowed().contains("10.65.79.0 "));
    }

    #[test]
    fn numbers_have_five_digits() {
        let texts = [65536.0, 1_048_576.0, 70_000.0, 978_320.0, 0.0].map(five_digits);
        assert_eq!(texts, ["65536", "1.0486e+06", "70000", "9.7832e+05", "0"]);
        assert_eq!((percent(1, 200), percent(3, 200), percent(5, 64)), (0.0, 2.0, 8.0));
    }
}
