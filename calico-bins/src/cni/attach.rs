//! ADD and CHECK of the `calico` plugin.

use std::net::IpAddr;
use std::time::Duration;

use calico_dataplane::netlink::MacAddr;
use calico_dataplane::netns::NetNs;
use calico_dataplane::pod::{self, PodSpec};
use calico_datastore::StoreError;
use calico_model::{AnyResource, Key, Kind, Revision, Value, WorkloadEndpoint, names};
use ipnet::IpNet;

use super::annotations::{Addresses, Wishes};
use super::conf::NetConf;
use super::delegate;
use super::endpoint::{Attachment, Pod, describe};
use super::env::{Command, Env};
use super::error::{CniError, code};
use super::identity::{Identity, node_name};
use super::result::{AddResult, Interface, Ip, Route};
use super::status::require_ready;
use super::store::{Connection, store_error};

/// Longest wait for the policy of the new endpoint unless the configuration says otherwise.
const POLICY_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the agent writes the MTU that fits all tunnels in use.
const MTU_FILE: &str = "/var/lib/calico/mtu";

/// Attaches a pod. Whatever fails after addresses were assigned gives them back.
pub fn add(env: &Env, conf: &NetConf) -> Result<AddResult, CniError> {
    let netns = open_netns(&env.netns)?;
    let node = node_name(conf)?;
    let mtu = mtu(conf)?;
    let connection = Connection::open(conf)?;
    require_ready(&connection)?;
    let identity = Identity::new(env, conf, node, &interface_prefix());
    let key = Key::resource(Kind::WorkloadEndpoint, identity.namespace.clone(), identity.endpoint_name()?);
    let existing = stored_endpoint(&connection, &key)?;

    if let Some((endpoint, _)) = &existing
        && endpoint.spec.container_id == identity.container_id
    {
        return again(endpoint, &identity, &netns, env, mtu, conf);
    }

    let pod = read_pod(&connection, &identity, conf)?;
    let wishes = match &pod {
        Some(pod) => Wishes::read(&pod.object.metadata.annotations, &pod.namespace_annotations, conf)?,
        None => Wishes::default(),
    };
    let mac = wishes.mac.as_deref().map(parse_mac).transpose()?;

    let mut undo = Undo::new(env, conf, &wishes);
    let mut addresses = undo.assign()?;
    if addresses.is_empty() {
        return Err(undo.after(CniError::generic("IPAM plugin did not return any IP addresses")));
    }
    addresses.sort_by_key(|net| net.addr().is_ipv6());
    let spec = pod_spec(&identity, conf, &addresses, mtu, mac);
    let attached = match pod::attach(&spec, &netns) {
        Ok(attached) => attached,
        Err(error) => return Err(undo.after(CniError::generic(error.to_string()))),
    };
    for warning in &attached.warnings {
        tracing::warn!("{warning}");
    }
    undo.detach = Some((identity.host_interface.clone(), env.ifname.clone()));

    let attachment = Attachment {
        addresses: addresses.clone(),
        mac: attached.container_mac.to_string(),
        allowed_source_prefixes: wishes.allowed_source_prefixes.clone(),
        floating_ips: wishes.floating_ips.clone(),
    };
    let written = describe(&identity, pod.as_ref(), conf, &attachment).and_then(|endpoint| {
        write_endpoint(&connection, &key, endpoint, existing.map(|(_, revision)| revision))
    });
    let revision = match written {
        Ok(revision) => revision,
        Err(error) => return Err(undo.after(error)),
    };
    let timeout = conf
        .policy_setup_timeout_seconds
        .map_or(POLICY_TIMEOUT, |seconds| Duration::from_secs(seconds.try_into().unwrap_or(0)));
    if !timeout.is_zero() {
        match connection.wait_until_programmed(&identity.dataplane_id(), number(&revision), timeout) {
            Ok(true) => {}
            Ok(false) => tracing::info!("no agent runs: the endpoint stays closed until it does"),
            Err(error) => {
                let _ = connection.store.delete(key, None);
                return Err(undo.after(error));
            }
        }
    }
    Ok(result(&identity, env, mtu, &attached.container_mac.to_string(), &addresses))
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
        return Ok(result(identity, env, mtu, &endpoint.spec.mac, &addresses));
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
            for ip in
                previous.ips.iter().filter(|ip| !stored.iter().any(|net| net.addr() == ip.address.addr()))
            {
                problems.push(format!("workload endpoint {} lacks {}", key.path(), ip.address.addr()));
            }
        }
    }
    let addresses: Vec<IpNet> = previous.ips.iter().map(|ip| IpNet::from(ip.address.addr())).collect();
    let spec = pod_spec(&identity, conf, &addresses, mtu(conf)?, None);
    let found = pod::check(&spec, &netns).map_err(|e| CniError::generic(e.to_string()))?;
    problems.extend(found.iter().map(ToString::to_string));
    if conf.ipam.plugin_type == "calico-ipam" {
        let raw = serde_json::to_vec(&conf.raw).unwrap_or_default();
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

/// What must be undone when a later step fails.
struct Undo<'a> {
    env: &'a Env,
    conf: &'a NetConf,
    wishes: &'a Wishes,
    netconf: Vec<u8>,
    assigned: bool,
    detach: Option<(String, String)>,
}

impl<'a> Undo<'a> {
    fn new(env: &'a Env, conf: &'a NetConf, wishes: &'a Wishes) -> Self {
        let netconf = serde_json::to_vec(&wishes.rewrite(&conf.raw)).unwrap_or_default();
        Self { env, conf, wishes, netconf, assigned: false, detach: None }
    }

    /// Runs the IPAM plugin, once, or once for each wished address.
    fn assign(&mut self) -> Result<Vec<IpNet>, CniError> {
        let base = delegate_args(self.env);
        match &self.wishes.addresses {
            Addresses::Any => self.delegate(&base),
            Addresses::WithoutIpam(addresses) => Ok(addresses.iter().map(|a| IpNet::from(*a)).collect()),
            Addresses::Requested(addresses) => {
                let mut all = Vec::new();
                for address in addresses {
                    let assigned = self.delegate(&format!("{base};IP={address}")).map_err(|e| CniError {
                        msg: format!("error getting IP from IPAM: {}", e.msg),
                        ..e
                    })?;
                    all.extend(assigned.first().copied());
                }
                Ok(all)
            }
        }
    }

    fn delegate(&mut self, args: &str) -> Result<Vec<IpNet>, CniError> {
        // From here on addresses may be assigned, whatever the plugin says.
        self.assigned = true;
        let answer = delegate::run(&self.conf.ipam.plugin_type, Command::Add, self.env, args, &self.netconf)
            .and_then(|text| AddResult::from_json(&text));
        match answer {
            Ok(result) if result.ips.is_empty() => {
                Err(self.after(CniError::generic("IPAM plugin returned missing IP config")))
            }
            // The pod gets single addresses: nothing is on-link but the gateway.
            Ok(result) => Ok(result.ips.iter().map(|ip| IpNet::from(ip.address.addr())).collect()),
            Err(error) => Err(self.after(error)),
        }
    }

    /// Undoes what was done and hands on the error that made it necessary.
    fn after(&mut self, error: CniError) -> CniError {
        if let Some((host, container)) = self.detach.take() {
            let netns = open_netns(&self.env.netns).ok();
            if let Err(e) = pod::detach(&host, &container, netns.as_ref()) {
                tracing::warn!(error = %e, "cannot remove the interface of the failed attachment");
            }
        }
        if std::mem::take(&mut self.assigned) {
            let plugin = &self.conf.ipam.plugin_type;
            let args = delegate_args(self.env);
            if let Err(e) = delegate::run(plugin, Command::Del, self.env, &args, &self.netconf) {
                tracing::warn!(error = %e, "cannot give back the addresses of the failed attachment");
            }
        }
        error
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
    spec.queues = u32::try_from(conf.num_queues).ok().filter(|queues| *queues > 1);
    spec.mac = mac;
    spec.allow_ip_forwarding = conf.container_settings.allow_ip_forwarding;
    spec
}

fn parse_mac(text: &str) -> Result<MacAddr, CniError> {
    text.parse::<MacAddr>().map_err(|e| {
        CniError::generic(format!(
            "failed to parse MAC address {text:?} of annotation cni.projectcalico.org/hwAddr"
        ))
        .details(e.to_string())
    })
}

fn result(identity: &Identity, env: &Env, mtu: u32, mac: &str, addresses: &[IpNet]) -> AddResult {
    let default = |v6| if v6 { "::/0" } else { "0.0.0.0/0" };
    let mut routes = Vec::new();
    for v6 in [false, true] {
        if addresses.iter().any(|a| a.addr().is_ipv6() == v6)
            && let Ok(dst) = default(v6).parse()
        {
            let gw = if v6 { IpAddr::V6(MacAddr::HOST_SIDE.link_local()) } else { pod::GATEWAY.into() };
            routes.push(Route { dst, gw: Some(gw) });
        }
    }
    AddResult {
        interfaces: vec![
            Interface {
                name: identity.host_interface.clone(),
                mac: MacAddr::HOST_SIDE.to_string(),
                ..Interface::default()
            },
            Interface { name: env.ifname.clone(), mac: mac.to_owned(), mtu, sandbox: env.netns.clone() },
        ],
        ips: addresses.iter().map(|net| Ip { address: *net, gateway: None, interface: Some(1) }).collect(),
        routes,
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
    let Some(pair) = connection.store.get(key).map_err(store_error)? else { return Ok(None) };
    match &pair.value {
        Value::Resource(resource) => match &**resource {
            AnyResource::WorkloadEndpoint(endpoint) => Ok(Some(((**endpoint).clone(), pair.revision))),
            _ => Ok(None),
        },
        _ => Ok(None),
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
