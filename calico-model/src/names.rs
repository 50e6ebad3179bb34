//! Names that Calico computes: of endpoints, interfaces, blocks, affinities, profiles; and derived UIDs.

use ipnet::IpNet;
#[cfg(feature = "kubernetes")]
use sha1::Sha1;
use sha2::{Digest, Sha256};
#[cfg(feature = "kubernetes")]
use sha3::Sha3_256;

use crate::resource::endpoint::WorkloadEndpointSpec;

/// Label that carries the namespace of an endpoint or network set.
pub const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";
/// Label that carries the orchestrator of an endpoint.
pub const ORCHESTRATOR_LABEL: &str = "projectcalico.org/orchestrator";
/// Label that carries the service account of an endpoint.
pub const SERVICE_ACCOUNT_LABEL: &str = "projectcalico.org/serviceaccount";
/// Label that carries the tier of a policy.
pub const TIER_LABEL: &str = "projectcalico.org/tier";
/// Prefix of labels inherited from namespaces.
pub const NAMESPACE_LABEL_PREFIX: &str = "pcns.";
/// Prefix of labels inherited from service accounts.
pub const SERVICE_ACCOUNT_LABEL_PREFIX: &str = "pcsa.";
/// Prefix of the profiles of namespaces.
pub const NAMESPACE_PROFILE_PREFIX: &str = "kns.";
/// Prefix of the profiles of service accounts.
pub const SERVICE_ACCOUNT_PROFILE_PREFIX: &str = "ksa.";
/// Orchestrator of Kubernetes pods.
pub const ORCHESTRATOR_K8S: &str = "k8s";
/// Prefix of the host side of workload interfaces unless configured otherwise.
pub const INTERFACE_PREFIX: &str = "cali";
/// Group label of block affinities: hash of the host name.
pub const HOSTNAME_HASH_LABEL: &str = "projectcalico.org/hostname-hash";
/// Label of block affinities: `host` or `virtual`.
pub const AFFINITY_TYPE_LABEL: &str = "projectcalico.org/affinity-type";
/// Label of block affinities: `4` or `6`.
pub const IP_VERSION_LABEL: &str = "projectcalico.org/ip-version";

/// Why the name of a workload endpoint cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointNameError {
    /// A part of the name is not given.
    #[error("spec.{field}: required to compute the name of the endpoint")]
    Missing {
        /// JSON name of the field.
        field: &'static str,
    },
    /// A part begins or ends with a dash, so that the name could not be taken apart again.
    #[error("spec.{field}: {value:?} must not begin or end with a dash")]
    Dash {
        /// JSON name of the field.
        field: &'static str,
        /// Its value.
        value: String,
    },
}

/// The parts of an endpoint's name in order, with the JSON names of their fields.
fn endpoint_parts(spec: &WorkloadEndpointSpec) -> [(&'static str, &str); 4] {
    let (field, middle) = match spec.orchestrator.as_str() {
        "k8s" => ("pod", spec.pod.as_str()),
        "cni" => ("containerID", spec.container_id.as_str()),
        "libnetwork" => ("orchestrator", "libnetwork"),
        _ => ("workload", spec.workload.as_str()),
    };
    [
        ("node", &spec.node),
        ("orchestrator", &spec.orchestrator),
        (field, middle),
        ("endpoint", &spec.endpoint),
    ]
}

/// The name that a workload endpoint must have: its parts joined by dashes, dashes inside them doubled.
///
/// ```
/// use calico_model::{WorkloadEndpointSpec, names};
/// let spec = WorkloadEndpointSpec {
///     node: "node-1".into(),
///     orchestrator: "k8s".into(),
///     pod: "web-0".into(),
///     endpoint: "eth0".into(),
///     ..Default::default()
/// };
/// assert_eq!(names::workload_endpoint_name(&spec).unwrap(), "node--1-k8s-web--0-eth0");
/// ```
pub fn workload_endpoint_name(spec: &WorkloadEndpointSpec) -> Result<String, EndpointNameError> {
    let mut name = String::new();
    for (field, part) in endpoint_parts(spec) {
        if part.is_empty() {
            return Err(EndpointNameError::Missing { field });
        }
        if part.starts_with('-') || part.ends_with('-') {
            return Err(EndpointNameError::Dash { field, value: part.to_owned() });
        }
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(&part.replace('-', "--"));
    }
    Ok(name)
}

/// Prefix of the names of all endpoints that agree in the parts given, up to the first that is not. It may match more
/// than meant (`n1-k8s-pod-` also begins `n1-k8s-pod--1-eth0`), so results must be checked.
pub fn workload_endpoint_name_prefix(spec: &WorkloadEndpointSpec) -> String {
    let mut name = String::new();
    for (_, part) in endpoint_parts(spec) {
        if part.is_empty() {
            break;
        }
        name.push_str(&part.replace('-', "--"));
        name.push('-');
    }
    name
}

/// Takes the name of a workload endpoint apart; single dashes separate, doubled ones stand for one.
///
/// ```
/// use calico_model::names;
/// assert_eq!(names::split_endpoint_name("node--1-k8s-web--0-eth0"), ["node-1", "k8s", "web-0", "eth0"]);
/// ```
pub fn split_endpoint_name(name: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '-' {
            // A separator is never the first byte of a part.
            if chars.next_if_eq(&'-').is_some() || part.is_empty() {
                part.push('-');
            } else {
                parts.push(std::mem::take(&mut part));
            }
        } else {
            part.push(c);
        }
    }
    parts.push(part);
    parts
}

/// Name of the host side of a pod's interface.
///
/// ```
/// use calico_model::names;
/// assert_eq!(names::veth_name("cali", "default", "web-0"), "cali0d7763386da");
/// ```
#[cfg(feature = "kubernetes")]
pub fn veth_name(prefix: &str, namespace: &str, pod: &str) -> String {
    let hash = hex(&Sha1::digest(format!("{namespace}.{pod}")));
    format!("{prefix}{}", &hash[..11])
}

/// The first entry of a comma-separated list of interface prefixes; [`INTERFACE_PREFIX`] when it is empty.
pub fn interface_prefix(list: &str) -> &str {
    match list.split(',').next().unwrap_or_default() {
        "" => INTERFACE_PREFIX,
        first => first,
    }
}

/// A network as (part of) a Kubernetes name: `10-0-0-64-26`.
pub fn cidr_name(cidr: &IpNet) -> String {
    let text = cidr.trunc().to_string();
    text.replacen('.', "-", 3).replacen(':', "-", 7).replacen('/', "-", 1)
}

/// Name of the Kubernetes object of a block affinity; hashed when it would exceed 252 bytes.
pub fn affinity_name(host: &str, cidr: &IpNet) -> String {
    let net = cidr_name(cidr);
    let plain = format!("{host}-{net}");
    if plain.len() < 253 {
        return plain;
    }
    let hash = hex(&Sha256::digest(format!("{host}+{net}")));
    let mut cut = 252 - net.len() - 13;
    while !host.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}-{net}-{}", &host[..cut], &hash[..11])
}

/// Value of [`HOSTNAME_HASH_LABEL`]: base32 of SHA3-256 of the host name, without padding.
///
/// ```
/// use calico_model::names;
/// assert_eq!(names::hostname_hash("node1"), "7DS2CCNJGGLTHBDQLLFO6SX24SY2YDDEG3W2VN556FA2W4DLLV5A");
/// ```
#[cfg(feature = "kubernetes")]
pub fn hostname_hash(host: &str) -> String {
    base32(&Sha3_256::digest(host.as_bytes()))
}

/// Name of the profile of a namespace.
pub fn namespace_profile(namespace: &str) -> String {
    format!("{NAMESPACE_PROFILE_PREFIX}{namespace}")
}

/// Name of the profile of a service account; an empty namespace is `default`.
pub fn service_account_profile(namespace: &str, account: &str) -> String {
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    format!("{SERVICE_ACCOUNT_PROFILE_PREFIX}{namespace}.{account}")
}

/// Where a profile comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfileOrigin<'a> {
    /// A namespace.
    Namespace(&'a str),
    /// A service account.
    ServiceAccount {
        /// Its namespace.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// A person.
    User(&'a str),
}

/// Reads where a profile comes from in its name.
pub fn profile_origin(profile: &str) -> ProfileOrigin<'_> {
    if let Some(namespace) = profile.strip_prefix(NAMESPACE_PROFILE_PREFIX) {
        return ProfileOrigin::Namespace(namespace);
    }
    match profile.strip_prefix(SERVICE_ACCOUNT_PROFILE_PREFIX).and_then(|rest| rest.split_once('.')) {
        Some((namespace, name)) => ProfileOrigin::ServiceAccount { namespace, name },
        None => ProfileOrigin::User(profile),
    }
}

/// Derives the UID of an object from that of another: the bits of every byte are reversed, except bytes 6 and 8, which
/// hold version and variant. Doing it twice gives the UID back. Text that is no UUID is returned as it is.
///
/// ```
/// use calico_model::names;
/// let uid = "41cb1fde-57e7-42c1-a73b-0acaf38c7737";
/// assert_eq!(names::derived_uid(uid), "82d3f87b-eae7-4283-a7dc-5053cf31eeec");
/// assert_eq!(names::derived_uid(&names::derived_uid(uid)), uid);
/// ```
pub fn derived_uid(uid: &str) -> String {
    let dashes = [8, 13, 18, 23];
    let well_formed = uid.len() == 36
        && uid
            .bytes()
            .enumerate()
            .all(|(i, b)| if dashes.contains(&i) { b == b'-' } else { b.is_ascii_hexdigit() });
    if !well_formed {
        return uid.to_owned();
    }
    let digits: Vec<u8> = uid
        .bytes()
        .filter(|b| *b != b'-')
        .map(|b| u8::try_from((b as char).to_digit(16).unwrap_or(0)).unwrap_or(0))
        .collect();
    let mut out = String::with_capacity(36);
    for (i, pair) in digits.chunks_exact(2).enumerate() {
        if [4, 6, 8, 10].contains(&i) {
            out.push('-');
        }
        let byte = pair.iter().fold(0, |acc, d| acc << 4 | d);
        let byte = if i == 6 || i == 8 { byte } else { byte.reverse_bits() };
        out.push_str(&format!("{byte:02x}"));
    }
    out
}

/// Removes labels that only namespaces and service accounts may give: an endpoint or network set that carries them
/// itself would pretend to belong to another namespace. True when there were any.
pub fn strip_inherited_labels(labels: &mut crate::Labels) -> bool {
    let before = labels.len();
    labels.retain(|k, _| {
        !k.starts_with(NAMESPACE_LABEL_PREFIX) && !k.starts_with(SERVICE_ACCOUNT_LABEL_PREFIX)
    });
    labels.len() != before
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// RFC 4648 base32, upper case, no padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut out = String::new();
    let (mut buffer, mut bits) = (0u32, 0u32);
    for b in bytes {
        buffer = buffer << 8 | u32::from(*b);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(char::from(ALPHABET[(buffer >> bits & 31) as usize]));
        }
    }
    if bits > 0 {
        out.push(char::from(ALPHABET[(buffer << (5 - bits) & 31) as usize]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    #[test]
    fn vectors() {
        assert_eq!(veth_name("cali", "kube-system", "coredns-abc"), "cali3d5d6ab04b5");
        assert_eq!(veth_name("cali", "default", "nginx"), "calic440f455693");
        assert_eq!(veth_name("cali", "default", "nginx-abc"), "calic611c731f42");
        assert_eq!(cidr_name(&net("10.0.0.64/26")), "10-0-0-64-26");
        assert_eq!(cidr_name(&net("fd00:10:244::/122")), "fd00-10-244---122");
        assert_eq!(cidr_name(&net("fd00::c0/122")), "fd00--c0-122");
        assert_eq!(hostname_hash("node-1"), "A3XPYDATRKB7Q4SM2O5FN4RXIHBFIL2PITFX26BAIP5XAB2X74CA");
        assert_eq!(hostname_hash("load-balancer"), "TAU2RK2F2FG7MIS72DPZYC6FJ3U3BIWIDZAMUTQY7ZXMSKQZ5GSQ");
        assert_eq!(
            derived_uid("30316465-6365-4463-ad63-3564622d3638"),
            "0c8c26a6-c6a6-44c6-adc6-ac2646b46c1c"
        );
        assert_eq!(derived_uid("not-a-uid"), "not-a-uid");
    }

    #[test]
    fn long_affinity_names_are_hashed() {
        let host = "n".repeat(240);
        let name = affinity_name(&host, &net("10.0.0.64/26"));
        assert_eq!(name, format!("{}-10-0-0-64-26-6ea79999869", "n".repeat(227)));
        assert_eq!(name.len(), 252);
        assert_eq!(affinity_name("a", &net("10.0.0.64/26")), "a-10-0-0-64-26");
        // A host name is ASCII, but nothing breaks when it is not.
        assert!(affinity_name(&"é".repeat(130), &net("10.0.0.64/26")).len() <= 252);
    }

    #[test]
    fn endpoint_names_need_their_parts() {
        let mut spec =
            WorkloadEndpointSpec { node: "n".into(), orchestrator: "k8s".into(), ..Default::default() };
        assert_eq!(workload_endpoint_name(&spec), Err(EndpointNameError::Missing { field: "pod" }));
        assert_eq!(workload_endpoint_name_prefix(&spec), "n-k8s-");
        spec.pod = "-x".into();
        assert!(matches!(workload_endpoint_name(&spec), Err(EndpointNameError::Dash { field: "pod", .. })));
        let cni = WorkloadEndpointSpec {
            node: "n".into(),
            orchestrator: "cni".into(),
            container_id: "abc".into(),
            endpoint: "eth0".into(),
            ..Default::default()
        };
        assert_eq!(workload_endpoint_name(&cni).unwrap(), "n-cni-abc-eth0");
        let libnetwork = WorkloadEndpointSpec { orchestrator: "libnetwork".into(), ..cni.clone() };
        assert_eq!(workload_endpoint_name(&libnetwork).unwrap(), "n-libnetwork-libnetwork-eth0");
        let other = WorkloadEndpointSpec { orchestrator: "openstack".into(), workload: "vm-1".into(), ..cni };
        assert_eq!(workload_endpoint_name(&other).unwrap(), "n-openstack-vm--1-eth0");
    }

    #[test]
    fn profiles() {
        assert_eq!(profile_origin("kns.a"), ProfileOrigin::Namespace("a"));
        assert_eq!(
            profile_origin("ksa.ns.name.with.dots"),
            ProfileOrigin::ServiceAccount { namespace: "ns", name: "name.with.dots" }
        );
        assert_eq!(profile_origin("mine"), ProfileOrigin::User("mine"));
        assert_eq!(service_account_profile("", "x"), "ksa.default.x");
    }

    proptest::proptest! {
        #[test]
        fn split_undoes_join(parts in proptest::collection::vec("[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", 4)) {
            let spec = WorkloadEndpointSpec {
                node: parts[0].clone(),
                orchestrator: format!("o{}", parts[1]),
                workload: parts[2].clone(),
                endpoint: parts[3].clone(),
                ..Default::default()
            };
            let name = workload_endpoint_name(&spec).unwrap();
            let wanted = [parts[0].clone(), format!("o{}", parts[1]), parts[2].clone(), parts[3].clone()];
            proptest::prop_assert_eq!(split_endpoint_name(&name), wanted);
        }
    }
}
