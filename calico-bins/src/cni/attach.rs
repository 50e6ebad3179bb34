//! ADD and CHECK of the `calico` plugin.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use calico_dataplane::netlink::MacAddr;
use calico_dataplane::netns::NetNs;
use calico_dataplane::pod::{self, PodSpec};
use calico_datastore::{KvPair, StoreError};
use calico_model::{AnyResource, Key, Kind, Revision, Value, WorkloadEndpoint, names};
use ipnet::IpNet;

use super::annotations::{Addresses, Wishes};
use super::conf::NetConf;
use super::delegate;
use super::detach::{delete_endpoint, netconf_for_cleanup};
use super::endpoint::{Attachment, Pod, describe};
use super::env::{Args, Command, Env};
use super::error::{CniError, code};
use super::host_local::{self, PodCidrs};
use super::identity::{Identity, node_name};
use super::ipam;
use super::journal::{self, Part};
use super::profile;
use super::readiness;
use super::result::{AddResult, Interface, Ip, Route};
use super::status::require_ready;
use super::store::{Connection, store_error};

/// Longest wait for the policy of the new endpoint unless the configuration says otherwise.
const POLICY_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the agent writes the MTU that fits all tunnels in use.
const MTU_FILE: &str = "/var/lib/calico/mtu";

/// Where another make of agent notes endpoints that are in force.
const STATUS_DIR: &str = "/var/run/calico/endpoint-status";

/// Attaches a pod. Whatever fails after addresses were assigned gives them back. `inside`: the IPAM plugin is this
/// program.
pub fn add(env: &Env, conf: &NetConf, inside: bool) -> Result<AddResult, CniError> {
    let previous = conf.previous()?;
    let netns = open_netns(&env.netns)?;
    let node = node_name(conf)?;
    let mtu = mtu(conf)?;
    if conf.device_type == "netkit" {
        tracing::warn!("device_type netkit is not available; the pod gets a veth pair");
    }
    let connection = Connection::open(conf)?;
    let store = &connection.store;
    store.wait(journal::before_add(&**store.inner(), &journal::directory(conf), &node, &env.container_id))?;
    require_ready(&connection)?;
    readiness::wait_for_gates(&conf.readiness_gates)?;
    let identity = Identity::new(env, conf, node, &interface_prefix());
    let key = Key::resource(Kind::WorkloadEndpoint, identity.namespace.clone(), identity.endpoint_name()?);
    let existing = stored_endpoint(&connection, &key)?;

    if let Some((endpoint, _)) = &existing
        && endpoint.spec.container_id == identity.container_id
    {
        let result = again(endpoint, &identity, &netns, env, mtu, conf)?;
        return Ok(result.after(previous));
    }

    let pod = read_pod(&connection, &identity, conf)?;
    let wishes = match &pod {
        Some(pod) => Wishes::read(&pod.object.metadata.annotations, &pod.namespace_annotations, conf)?,
        None if conf.feature_control.ip_addrs_no_ipam && identity.orchestrator == "cni" => {
            return Err(CniError::new(
                code::INVALID_CONFIG,
                "requested feature is not supported for this runtime: ip_addrs_no_ipam",
            )
            .details("feature_control.ip_addrs_no_ipam needs Kubernetes, whose pods carry the annotation"));
        }
        None => Wishes::default(),
    };
    let mac = match (&wishes.mac, conf.runtime.mac.as_str()) {
        (Some(mac), _) => Some(parse_mac(mac, "annotation cni.projectcalico.org/hwAddr")?),
        (None, "") => None,
        (None, mac) => Some(parse_mac(mac, "runtimeConfig.mac")?),
    };
    if let (Some((old, _)), Addresses::Requested(wanted)) = (&existing, &wishes.addresses) {
        // A pod that asks for its address by name gets it in its next sandbox, before the last one is taken down.
        let held: Vec<IpAddr> =
            networks(old).iter().map(IpNet::addr).filter(|a| wanted.contains(a)).collect();
        if !held.is_empty() {
            ipam::release_addresses(&connection, &identity, &held)?;
        }
    }

    let mut attempt = Attempt::new(env, conf, &wishes, &connection, &identity, inside)?;
    let mut addresses = attempt.assign()?;
    if addresses.is_empty() {
        return Err(CniError::generic("IPAM plugin did not return any IP addresses"));
    }
    addresses.sort_by_key(|net| net.addr().is_ipv6());
    let spec = pod_spec(&identity, conf, &addresses, mtu, mac);
    attempt.attached = true;
    let attached = pod::attach(&spec, &netns).map_err(|error| CniError::generic(error.to_string()))?;
    for warning in &attached.warnings {
        tracing::warn!("{warning}");
    }

    let attachment = Attachment {
        addresses: addresses.clone(),
        mac: attached.container_mac.to_string(),
        allowed_source_prefixes: wishes.allowed_source_prefixes.clone(),
        floating_ips: wishes.floating_ips.clone(),
    };
    if pod.is_none() {
        profile::ensure(&connection, &conf.name, identity.orchestrator == "k8s")?;
    }
    let endpoint = describe(&identity, pod.as_ref(), conf, &attachment)?;
    // The write may succeed and its answer get lost.
    attempt.written = true;
    let revision = write_endpoint(&connection, &key, endpoint, existing.map(|(_, revision)| revision))?;
    wait_for_policy(&connection, conf, &identity, &revision)?;
    attempt.succeed();
    let mac = attached.container_mac.to_string();
    Ok(result(&spec, &identity, env, &mac).after(previous))
}

/// Returns when the policy of the new endpoint is in force, as far as somebody can tell.
fn wait_for_policy(
    connection: &Connection,
    conf: &NetConf,
    identity: &Identity,
    revision: &Revision,
) -> Result<(), CniError> {
    let wanted = conf.policy_setup_timeout_seconds.map(|seconds| seconds.try_into().unwrap_or(0));
    let timeout = wanted.map_or(POLICY_TIMEOUT, Duration::from_secs);
    if timeout.is_zero() {
        return Ok(());
    }
    let id = identity.dataplane_id();
    if connection.wait_until_programmed(&id, number(revision), timeout)? {
        return Ok(());
    }
    match wanted {
        Some(_) => {
            let dir =
                if conf.endpoint_status_dir.is_empty() { STATUS_DIR } else { &conf.endpoint_status_dir };
            if !readiness::wait_for_file(Path::new(dir), &id, timeout) {
                tracing::warn!(?timeout, dir, "nobody says that the policy of the pod is in force");
            }
        }
        None => tracing::info!("no agent runs: the endpoint stays closed until it does"),
    }
    Ok(())
}

/// A second ADD for an attachment that is already there: the same answer when it is whole, else an error that
/// changes nothing.
fn again(
    endpoint: &WorkloadEndpoint,
    identity: &Identity,
    netns: &NetNs,
    env: &Env,
    mtu: u32,
    conf: &NetConf,
) -> Result<AddResult, CniError> {
    let addresses = networks(endpoint);
    let problems = if addresses.is_empty() {
        vec!["it has no addresses".to_owned()]
    } else {
        let mac = endpoint.spec.mac.parse().ok();
        let spec = pod_spec(identity, conf, &addresses, mtu, mac);
        let found = pod::check(&spec, netns).map_err(|e| CniError::generic(e.to_string()))?;
        found.iter().map(ToString::to_string).collect()
    };
    if problems.is_empty() {
        tracing::info!("already attached, and whole");
        let spec = pod_spec(identity, conf, &addresses, mtu, None);
        return Ok(result(&spec, identity, env, &endpoint.spec.mac));
    }
    Err(CniError::generic(format!("container {} is already attached, but not whole", identity.container_id))
        .details(format!("{}; run DEL before another ADD", problems.join("; "))))
}

/// Verifies an attachment: interfaces, addresses, routes, and the stored endpoint.
pub fn check(env: &Env, conf: &NetConf) -> Result<(), CniError> {
    let netns = open_netns(&env.netns)?;
    let Some(previous) = conf.previous()? else {
        return Err(CniError::new(code::INVALID_CONFIG, "CHECK needs prevResult"));
    };
    let connection = Connection::open(conf)?;
    let identity = Identity::new(env, conf, node_name(conf)?, &interface_prefix());
    let key = Key::resource(Kind::WorkloadEndpoint, identity.namespace.clone(), identity.endpoint_name()?);
    let mut problems = Vec::new();
    match stored_endpoint(&connection, &key)? {
        None => problems.push(format!("workload endpoint {} does not exist", key.path())),
        Some((endpoint, _)) if endpoint.spec.container_id != identity.container_id => {
            problems.push(format!(
                "workload endpoint {} belongs to container {}",
                key.path(),
                endpoint.spec.container_id
            ));
        }
        Some((endpoint, _)) => {
            let stored = networks(&endpoint);
            for lost in previous.addresses_of(&env.ifname) {
                if !stored.iter().any(|net| net.addr() == lost) {
                    problems.push(format!("workload endpoint {} lacks {lost}", key.path()));
                }
            }
        }
    }
    let addresses: Vec<IpNet> = previous.addresses_of(&env.ifname).into_iter().map(IpNet::from).collect();
    let interface = previous.container_interface(&env.ifname);
    // Only what the result tells is known: the MTU may have been chosen when the tunnels were others.
    let mtu = interface.map_or(0, |interface| interface.mtu);
    let mac = interface.and_then(|interface| interface.mac.parse().ok());
    let spec = pod_spec(&identity, conf, &addresses, mtu, mac);
    let found = pod::check(&spec, &netns).map_err(|e| CniError::generic(e.to_string()))?;
    problems.extend(found.iter().map(ToString::to_string));
    if !conf.ipam.plugin_type.is_empty() {
        let raw = netconf_for_cleanup(conf);
        if let Err(error) =
            delegate::run(&conf.ipam.plugin_type, Command::Check, env, &delegate_args(env), &raw)
        {
            problems.push(error.to_string());
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(CniError::generic("the attachment is not as ADD left it").details(problems.join("; ")))
}

/// An ADD on its way. Dropped before it succeeded, it undoes what was done, whatever the reason.
struct Attempt<'a> {
    env: &'a Env,
    conf: &'a NetConf,
    wishes: &'a Wishes,
    connection: &'a Connection,
    identity: &'a Identity,
    /// The IPAM plugin is this program.
    inside: bool,
    /// The configuration that the IPAM plugin gets.
    netconf: Vec<u8>,
    /// Addresses may be assigned.
    assigned: bool,
    /// The pair of interfaces may be there.
    attached: bool,
    /// The endpoint may be written.
    written: bool,
}

impl<'a> Attempt<'a> {
    fn new(
        env: &'a Env,
        conf: &'a NetConf,
        wishes: &'a Wishes,
        connection: &'a Connection,
        identity: &'a Identity,
        inside: bool,
    ) -> Result<Self, CniError> {
        let cidrs = PodCidrs::Of(connection, &identity.node);
        let prepared = host_local::prepare(conf, &wishes.rewrite(&conf.raw), &cidrs)?;
        let netconf = serde_json::to_vec(&prepared).unwrap_or_default();
        let (assigned, attached, written) = (false, false, false);
        Ok(Self { env, conf, wishes, connection, identity, inside, netconf, assigned, attached, written })
    }

    fn succeed(mut self) {
        (self.assigned, self.attached, self.written) = (false, false, false);
    }

    /// Runs the IPAM plugin, once, or once for each wished address.
    fn assign(&mut self) -> Result<Vec<IpNet>, CniError> {
        let base = delegate_args(self.env);
        match &self.wishes.addresses {
            Addresses::Any => self.ipam(&base),
            Addresses::WithoutIpam(addresses) => Ok(addresses.iter().map(|a| IpNet::from(*a)).collect()),
            Addresses::Requested(addresses) => {
                let mut all = Vec::new();
                for address in addresses {
                    let assigned = self.ipam(&format!("{base};IP={address}")).map_err(|e| CniError {
                        msg: format!("error getting IP from IPAM: {}", e.msg),
                        ..e
                    })?;
                    all.extend(assigned.first().copied());
                }
                Ok(all)
            }
        }
    }

    fn ipam(&mut self, args: &str) -> Result<Vec<IpNet>, CniError> {
        // From here on addresses may be assigned, whatever the plugin says.
        self.assigned = true;
        let plugin = &self.conf.ipam.plugin_type;
        let result = if self.inside {
            let env = Env { args: Args::parse(args, false)?, args_text: args.to_owned(), ..self.env.clone() };
            let conf = NetConf::parse(&self.netconf, Command::Add)?;
            ipam::assign(&env, &conf, self.connection, self.identity.node.clone())?
        } else {
            let answer = delegate::run(plugin, Command::Add, self.env, args, &self.netconf)?;
            AddResult::from_json(&answer)?
        };
        if result.ips.is_empty() {
            return Err(CniError::generic("IPAM plugin returned missing IP config"));
        }
        // The pod gets single addresses: nothing is on-link but the gateway.
        Ok(result.ips.iter().map(|ip| IpNet::from(ip.address.addr())).collect())
    }

    fn give_back(&self) -> Result<(), CniError> {
        if self.inside {
            let released = ipam::release_now(self.conf, self.connection, self.identity);
            return journal::or_put_off(released, self.conf, Part::Addresses, self.identity);
        }
        let plugin = &self.conf.ipam.plugin_type;
        let args = delegate_args(self.env);
        delegate::run(plugin, Command::Del, self.env, &args, &self.netconf).map(drop)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.attached {
            let netns = open_netns(&self.env.netns).ok();
            let host = &self.identity.host_interface;
            if let Err(error) = pod::detach(host, &self.env.ifname, netns.as_ref()) {
                tracing::warn!(%error, "cannot remove the interface of the failed attachment");
            }
        }
        if self.written {
            let store = &self.connection.store;
            let deleted = store.wait(delete_endpoint(&**store.inner(), self.identity));
            if let Err(error) = journal::or_put_off(deleted, self.conf, Part::Endpoint, self.identity) {
                tracing::warn!(%error, "cannot delete the endpoint of the failed attachment");
            }
        }
        if self.assigned
            && let Err(error) = self.give_back()
        {
            tracing::warn!(%error, "cannot give back the addresses of the failed attachment");
        }
    }
}

/// `CNI_ARGS` for the delegate: unknown keys must not trouble it.
pub(super) fn delegate_args(env: &Env) -> String {
    if env.args_text.is_empty() {
        "IgnoreUnknown=1".to_owned()
    } else {
        format!("IgnoreUnknown=1;{}", env.args_text)
    }
}

/// The namespace of the pod. It must exist and not be the node's own.
pub(super) fn open_netns(path: &str) -> Result<NetNs, CniError> {
    let invalid =
        |e: String| CniError::new(code::INVALID_NETNS, format!("failed to open netns {path:?}")).details(e);
    let netns = NetNs::open(path).map_err(|e| invalid(e.to_string()))?;
    let own = NetNs::current().map_err(|e| invalid(e.to_string()))?;
    let overridden = std::env::var("CNI_NETNS_OVERRIDE")
        .is_ok_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "true"));
    if netns.is_same(&own) && !overridden {
        return Err(CniError::new(
            code::INVALID_NETNS,
            format!("plugin's netns and netns from CNI_NETNS should not be the same: {path}"),
        )
        .details("a pod on the host's network needs no plugin"));
    }
    Ok(netns)
}

/// The first prefix of the agent's `interfacePrefix`.
pub(super) fn interface_prefix() -> String {
    let list = std::env::var("FELIX_INTERFACEPREFIX").unwrap_or_default();
    names::interface_prefix(list.trim()).to_owned()
}

fn mtu(conf: &NetConf) -> Result<u32, CniError> {
    if conf.mtu != 0 {
        return Ok(conf.mtu);
    }
    match std::fs::read_to_string(MTU_FILE) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|_| CniError::generic(format!("{MTU_FILE} does not hold a number: {:?}", text.trim()))),
        Err(e) if conf.require_mtu_file => {
            Err(CniError::new(code::TRY_AGAIN_LATER, format!("cannot read {MTU_FILE}: {e}")))
        }
        Err(_) => Ok(1500),
    }
}

fn pod_spec(
    identity: &Identity,
    conf: &NetConf,
    addresses: &[IpNet],
    mtu: u32,
    mac: Option<MacAddr>,
) -> PodSpec {
    let addresses: Vec<IpAddr> = addresses.iter().map(IpNet::addr).collect();
    let mut spec = PodSpec::new(&identity.endpoint, &identity.host_interface, &addresses);
    spec.mtu = mtu;
    spec.routes = host_local::routes(conf);
    spec.queues = u32::try_from(conf.num_queues).ok().filter(|queues| *queues > 1);
    spec.mac = mac;
    spec.allow_ip_forwarding = conf.container_settings.allow_ip_forwarding;
    spec
}

fn parse_mac(text: &str, origin: &str) -> Result<MacAddr, CniError> {
    text.parse::<MacAddr>().map_err(|e| {
        CniError::generic(format!("failed to parse MAC address {text:?} of {origin}")).details(e.to_string())
    })
}

/// What the runtime is told: the interfaces, the addresses, and the routes that were really made.
fn result(spec: &PodSpec, identity: &Identity, env: &Env, mac: &str) -> AddResult {
    let gateway = |dst: &IpNet| match dst {
        IpNet::V4(_) => IpAddr::from(pod::GATEWAY),
        IpNet::V6(_) => IpAddr::V6(MacAddr::HOST_SIDE.link_local()),
    };
    let has = |v6: bool| spec.addresses.iter().any(|address| address.is_ipv6() == v6);
    AddResult {
        interfaces: vec![
            Interface {
                name: identity.host_interface.clone(),
                mac: MacAddr::HOST_SIDE.to_string(),
                ..Interface::default()
            },
            Interface {
                name: env.ifname.clone(),
                mac: mac.to_owned(),
                mtu: spec.mtu,
                sandbox: env.netns.clone(),
                ..Interface::default()
            },
        ],
        ips: spec
            .addresses
            .iter()
            .map(|address| Ip { address: IpNet::from(*address), gateway: None, interface: Some(1) })
            .collect(),
        routes: spec
            .routes
            .iter()
            .filter(|dst| has(dst.addr().is_ipv6()))
            .map(|dst| Route::new(*dst, Some(gateway(dst))))
            .collect(),
        ..AddResult::default()
    }
}

fn networks(endpoint: &WorkloadEndpoint) -> Vec<IpNet> {
    endpoint
        .spec
        .ip_networks
        .iter()
        .filter_map(|text| {
            text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
        })
        .collect()
}

/// The endpoint as it is stored, with its revision.
pub(super) fn stored_endpoint(
    connection: &Connection,
    key: &Key,
) -> Result<Option<(WorkloadEndpoint, Revision)>, CniError> {
    Ok(connection.store.get(key).map_err(store_error)?.and_then(endpoint_of))
}

/// The endpoint in what a store answered.
pub(super) fn endpoint_of(pair: KvPair) -> Option<(WorkloadEndpoint, Revision)> {
    match &pair.value {
        Value::Resource(resource) => match &**resource {
            AnyResource::WorkloadEndpoint(endpoint) => Some(((**endpoint).clone(), pair.revision)),
            _ => None,
        },
        _ => None,
    }
}

fn read_pod(connection: &Connection, identity: &Identity, conf: &NetConf) -> Result<Option<Pod>, CniError> {
    if identity.orchestrator != "k8s" || conf.policy.policy_type != "k8s" {
        return Ok(None);
    }
    Pod::read(connection, &identity.namespace, &identity.pod).map(Some)
}

fn write_endpoint(
    connection: &Connection,
    key: &Key,
    mut endpoint: WorkloadEndpoint,
    revision: Option<Revision>,
) -> Result<Revision, CniError> {
    let written = match revision {
        Some(revision) => {
            if let Some((old, _)) = stored_endpoint(connection, key)? {
                endpoint.metadata.uid = old.metadata.uid;
                endpoint.metadata.creation_timestamp = old.metadata.creation_timestamp;
            }
            connection.store.update(key.clone(), value(endpoint), revision)
        }
        None => connection.store.create(key.clone(), value(endpoint)),
    };
    match written {
        Ok(pair) => Ok(pair.revision),
        Err(error @ (StoreError::Conflict { .. } | StoreError::Exists { .. })) => Err(CniError::new(
            code::TRY_AGAIN_LATER,
            "another ADD or DEL of the same pod runs at the same time",
        )
        .details(error.to_string())),
        Err(error) => Err(store_error(error)),
    }
}

fn value(endpoint: WorkloadEndpoint) -> Value {
    Value::Resource(std::sync::Arc::new(AnyResource::from(endpoint)))
}

/// The revision as a number where the store counts; 0 asks the agent for any revision.
fn number(revision: &Revision) -> u64 {
    revision.as_str().parse().unwrap_or(0)
}
