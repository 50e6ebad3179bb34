//! Addresses for Services of type LoadBalancer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use calico_model::k8s::types::Service;
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::assign::{AutoAssignArgs, FamilyRequest};
use crate::assign_ip::AssignIpArgs;
use crate::pools::IntendedUse;
use crate::range::Family;

/// The owner and host name of LoadBalancer blocks.
pub const LOAD_BALANCER_HOST: &str = "load-balancer";

const V4_POOLS: &str = "projectcalico.org/ipv4pools";
const V6_POOLS: &str = "projectcalico.org/ipv6pools";
const ADDRESSES: &str = "projectcalico.org/loadBalancerIPs";

/// Which services get addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssignServices {
    /// All whose class is unset or `calico`.
    All,
    /// Those whose class is `calico`, or that ask for addresses or pools.
    Requested,
}

/// Why a wish of a service cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?} is not {expected}")]
pub struct WishError {
    /// The annotation or field.
    pub field: &'static str,
    /// What it says.
    pub value: String,
    /// What would be right.
    pub expected: &'static str,
}

/// What a service wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// These addresses, at most one per family.
    Addresses(Vec<IpAddr>),
    /// Addresses from these pools.
    Pools {
        /// IPv4 pools.
        v4: Vec<IpNet>,
        /// IPv6 pools.
        v6: Vec<IpNet>,
    },
    /// Any address.
    Automatic,
}

/// The handle of a service's addresses.
///
/// ```
/// let handle = calico_ipam::service_handle("web", "default", "11111111-2222-3333-4444-555555555555");
/// assert_eq!(handle, "lb-jjk6ij4dw79dv9NNom8HOGR2E5ZlAZAysPlA49pcH8E");
/// ```
#[must_use]
pub fn service_handle(name: &str, namespace: &str, uid: &str) -> String {
    let text = format!("{name}-{namespace}-{uid}").to_lowercase();
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes()));
    // A Kubernetes name must not end in one of these; the reference leaves them out wherever they stand.
    format!("lb-{}", hash.replace(['-', '_', '.'], ""))
}

/// Whether a service gets its addresses from us.
#[must_use]
pub fn is_managed(service: &Service, mode: AssignServices) -> bool {
    if service.spec.r#type != "LoadBalancer" {
        return false;
    }
    let class = service.spec.load_balancer_class.as_str();
    let asks =
        [V4_POOLS, V6_POOLS, ADDRESSES].iter().any(|key| service.metadata.annotations.contains_key(*key))
            || !service.spec.load_balancer_ip.is_empty();
    match (mode, class) {
        (AssignServices::All, "" | "calico") | (AssignServices::Requested, "calico") => true,
        (AssignServices::Requested, "") => asks,
        _ => false,
    }
}

/// What a service wants: addresses before `spec.loadBalancerIP` before pools before anything.
///
/// # Errors
/// If an annotation is not a JSON array of addresses or prefixes, or names two addresses of a
/// family.
pub fn wish(service: &Service) -> Result<Wish, WishError> {
    let annotations = &service.metadata.annotations;
    let addresses: Vec<IpAddr> = list(annotations, ADDRESSES, "a JSON array of IP addresses")?;
    if !addresses.is_empty() {
        let v4 = addresses.iter().filter(|address| address.is_ipv4()).count();
        if v4 > 1 || addresses.len() - v4 > 1 {
            let value = annotations.get(ADDRESSES).cloned().unwrap_or_default();
            return Err(WishError { field: ADDRESSES, value, expected: "at most one address per family" });
        }
        return Ok(Wish::Addresses(addresses));
    }
    let single = service.spec.load_balancer_ip.trim();
    if !single.is_empty() {
        let address = single.parse().map_err(|_| WishError {
            field: "spec.loadBalancerIP",
            value: single.to_owned(),
            expected: "an IP address",
        })?;
        return Ok(Wish::Addresses(vec![address]));
    }
    let v4: Vec<IpNet> = list(annotations, V4_POOLS, "a JSON array of IPv4 prefixes")?;
    let v6: Vec<IpNet> = list(annotations, V6_POOLS, "a JSON array of IPv6 prefixes")?;
    if v4.is_empty() && v6.is_empty() { Ok(Wish::Automatic) } else { Ok(Wish::Pools { v4, v6 }) }
}

fn list<T: std::str::FromStr>(
    annotations: &BTreeMap<String, String>,
    field: &'static str,
    expected: &'static str,
) -> Result<Vec<T>, WishError> {
    let Some(text) = annotations.get(field) else { return Ok(Vec::new()) };
    let wrong = || WishError { field, value: text.clone(), expected };
    let items: Vec<String> = serde_json::from_str(text).map_err(|_| wrong())?;
    items.iter().map(|item| item.trim().parse().map_err(|_| wrong())).collect()
}

/// The next thing to do for a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceAction {
    /// It has what it wants.
    Nothing,
    /// Release these addresses first: it has them and does not want them.
    Release(Vec<IpAddr>),
    /// Assign addresses by name.
    AssignIps(Vec<AssignIpArgs>),
    /// Assign addresses.
    Assign(Box<AutoAssignArgs>),
}

/// Decides for a managed service that wants `families` and holds `held`. Families are counted
/// one by one: having an IPv4 address says nothing about IPv6.
#[must_use]
pub fn service_addresses(
    service: &Service,
    wish: &Wish,
    families: &[Family],
    held: &[IpAddr],
) -> ServiceAction {
    let meta = &service.metadata;
    let handle = service_handle(&meta.name, &meta.namespace, &meta.uid);
    let attributes = BTreeMap::from([
        ("namespace".to_owned(), meta.namespace.clone()),
        ("service".to_owned(), meta.name.clone()),
        ("type".to_owned(), service.spec.r#type.clone()),
    ]);
    let fits = |address: &IpAddr| match wish {
        Wish::Addresses(wanted) => wanted.contains(address),
        Wish::Pools { v4, v6 } => v4.iter().chain(v6).any(|pool| pool.contains(address)),
        Wish::Automatic => families.contains(&Family::of(*address)),
    };
    let unwanted: Vec<IpAddr> = held.iter().copied().filter(|address| !fits(address)).collect();
    if !unwanted.is_empty() {
        return ServiceAction::Release(unwanted);
    }
    let missing = |family: Family| !held.iter().any(|address| Family::of(*address) == family);
    match wish {
        Wish::Addresses(wanted) => {
            let args: Vec<AssignIpArgs> = wanted
                .iter()
                .filter(|address| !held.contains(address))
                .map(|address| {
                    let mut args = AssignIpArgs::new(*address, LOAD_BALANCER_HOST, &handle);
                    args.intended_use = Some(IntendedUse::LoadBalancer);
                    args.attributes.clone_from(&attributes);
                    args
                })
                .collect();
            if args.is_empty() { ServiceAction::Nothing } else { ServiceAction::AssignIps(args) }
        }
        Wish::Pools { .. } | Wish::Automatic => {
            let mut args = AutoAssignArgs::workload(LOAD_BALANCER_HOST, &handle, 0, 0);
            args.intended_use = Some(IntendedUse::LoadBalancer);
            args.attributes = attributes;
            let request = |family: Family, pools: &[IpNet], only_listed: bool| FamilyRequest {
                count: u32::from(
                    families.contains(&family) && missing(family) && !(only_listed && pools.is_empty()),
                ),
                pools: pools.to_vec(),
                ..FamilyRequest::default()
            };
            let (v4, v6, listed) = match wish {
                Wish::Pools { v4, v6 } => (v4.as_slice(), v6.as_slice(), true),
                _ => ([].as_slice(), [].as_slice(), false),
            };
            args.v4 = request(Family::V4, v4, listed);
            args.v6 = request(Family::V6, v6, listed);
            if args.v4.count + args.v6.count == 0 {
                ServiceAction::Nothing
            } else {
                ServiceAction::Assign(Box::new(args))
            }
        }
    }
}
