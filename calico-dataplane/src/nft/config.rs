//! The part of the agent's configuration that shapes the ruleset.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::expr::LogTarget;

/// What happens to traffic that a verdict refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenyAction {
    /// Silently dropped.
    Drop,
    /// Answered with an ICMP error.
    Reject,
}

/// What happens to workload traffic addressed to this node after the workload's own policy allowed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToHostAction {
    /// Dropped.
    Drop,
    /// Left to the other rules of the node. `ACCEPT` means the same here: accepting ends one base chain only.
    Return,
}

/// Whether packets to service addresses that no service answers may loop through the uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoopPrevention {
    /// Not prevented.
    Disabled,
    /// Dropped.
    Drop,
    /// Answered with an ICMP error.
    Reject,
}

/// A failsafe port of host endpoints (`policy.md` §3.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failsafe {
    /// IP protocol number.
    pub protocol: u8,
    /// Restricts the remote end; only rendered for its family.
    pub net: Option<IpNet>,
    /// Port.
    pub port: u16,
}

/// Everything about the ruleset that is not policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Prefixes of workload interfaces.
    pub interface_prefixes: Vec<String>,
    /// Whether IPv6 rules are rendered.
    pub ipv6: bool,
    /// What a deny does.
    pub deny: DenyAction,
    /// Workload to host.
    pub to_host: ToHostAction,
    /// Packets that belong to no connection are dropped.
    pub drop_invalid: bool,
    /// Workloads may send VXLAN.
    pub allow_vxlan_from_workloads: bool,
    /// Workloads may send IPIP.
    pub allow_ipip_from_workloads: bool,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// UDP ports of WireGuard, IPv4 and IPv6, when it is enabled.
    pub wireguard_ports: [Option<u16>; 2],
    /// Failsafe ports towards the host.
    pub failsafe_in: Vec<Failsafe>,
    /// Failsafe ports from the host.
    pub failsafe_out: Vec<Failsafe>,
    /// Service loops.
    pub loop_prevention: LoopPrevention,
    /// Where Log rules write to.
    pub log_target: LogTarget,
    /// Prefix of Log rules; `%t %k %n %p` are replaced.
    pub log_prefix: String,
    /// Most records per unit (in seconds) of one Log rule, and burst.
    pub log_limit: Option<(u64, u64, u32)>,
    /// Masquerading picks ports at random.
    pub masquerade_random: bool,
    /// Masquerading uses these ports only.
    pub masquerade_ports: Option<(u16, u16)>,
    /// Masquerading spares traffic to other nodes, not only to pools.
    pub masquerade_spares_hosts: bool,
    /// Masquerading only on this interface.
    pub masquerade_interface: Option<String>,
    /// The mark bit that carries "allowed" from untracked and preDNAT policy to later stages.
    pub accept_mark: u32,
    /// Addresses of nodes outside the cluster that may send tunnel packets.
    pub external_nodes: Vec<IpNet>,
    /// Established connections between interfaces of the flowtable bypass forwarding.
    pub flow_offload: bool,
    /// Interfaces of the flowtable besides those of workloads and tunnels; a trailing `*` stands for any rest.
    pub flow_interfaces: Vec<String>,
    /// One named counter per policy rule.
    pub rule_counters: bool,
    /// Connections that the policy in force would not admit any more are forgotten, so that their packets meet it.
    pub cut_denied_connections: bool,
}

impl Default for Config {
    fn default() -> Self {
        let tcp = |port| Failsafe { protocol: 6, net: None, port };
        let udp = |port| Failsafe { protocol: 17, net: None, port };
        let control = [179, 2379, 2380, 5473, 6443, 6666, 6667].map(tcp);
        Self {
            interface_prefixes: vec!["cali".to_owned()],
            ipv6: true,
            deny: DenyAction::Drop,
            to_host: ToHostAction::Drop,
            drop_invalid: true,
            allow_vxlan_from_workloads: false,
            allow_ipip_from_workloads: false,
            vxlan_port: 4789,
            wireguard_ports: [None, None],
            failsafe_in: [tcp(22), udp(68)].into_iter().chain(control.clone()).collect(),
            failsafe_out: [udp(53), udp(67)].into_iter().chain(control).collect(),
            loop_prevention: LoopPrevention::Drop,
            log_target: LogTarget::Kernel { level: 6 },
            log_prefix: "calico-packet".to_owned(),
            log_limit: None,
            masquerade_random: false,
            masquerade_ports: None,
            masquerade_spares_hosts: false,
            masquerade_interface: None,
            accept_mark: 0x10000,
            external_nodes: Vec::new(),
            flow_offload: false,
            flow_interfaces: Vec::new(),
            rule_counters: false,
            cut_denied_connections: false,
        }
    }
}

impl Config {
    /// Reads Felix parameters. What is missing or unreadable keeps its default; unreadable parameters are
    /// returned by name.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use calico_dataplane::nft::config::{Config, DenyAction};
    ///
    /// let parameters = BTreeMap::from([("NftablesFilterDenyAction".to_owned(), "Reject".to_owned())]);
    /// let (config, unreadable) = Config::from_parameters(&parameters);
    /// assert_eq!(config.deny, DenyAction::Reject);
    /// assert!(unreadable.is_empty());
    /// ```
    pub fn from_parameters(parameters: &BTreeMap<String, String>) -> (Self, Vec<String>) {
        let mut config = Self::default();
        let mut unreadable = Vec::new();
        for (name, text) in parameters {
            if config.set(name, text.trim()).is_none() {
                unreadable.push(name.clone());
            }
        }
        if parameters.get("WireguardEnabled").and_then(|text| boolean(text)) != Some(true) {
            config.wireguard_ports[0] = None;
        }
        if parameters.get("WireguardEnabledV6").and_then(|text| boolean(text)) != Some(true) {
            config.wireguard_ports[1] = None;
        }
        (config, unreadable)
    }

    /// `None` when the text is not a value of the parameter; parameters of others are ignored.
    fn set(&mut self, name: &str, text: &str) -> Option<()> {
        match name {
            "InterfacePrefix" => {
                let prefixes: Vec<String> =
                    text.split(',').map(str::trim).filter(|p| !p.is_empty()).map(str::to_owned).collect();
                if prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.len() > 15) {
                    return None;
                }
                self.interface_prefixes = prefixes;
            }
            "Ipv6Support" | "IPv6Support" => self.ipv6 = boolean(text)?,
            "NftablesFilterDenyAction" | "IptablesFilterDenyAction" => {
                self.deny = match text.to_ascii_lowercase().as_str() {
                    "drop" => DenyAction::Drop,
                    "reject" => DenyAction::Reject,
                    _ => return None,
                }
            }
            "DefaultEndpointToHostAction" => {
                self.to_host = match text.to_ascii_lowercase().as_str() {
                    "drop" => ToHostAction::Drop,
                    "return" | "accept" => ToHostAction::Return,
                    _ => return None,
                }
            }
            "DisableConntrackInvalidCheck" => self.drop_invalid = !boolean(text)?,
            "AllowVXLANPacketsFromWorkloads" => self.allow_vxlan_from_workloads = boolean(text)?,
            "AllowIPIPPacketsFromWorkloads" => self.allow_ipip_from_workloads = boolean(text)?,
            "VXLANPort" => self.vxlan_port = text.parse().ok()?,
            "WireguardEnabled" => {
                boolean(text)?;
                self.wireguard_ports[0].get_or_insert(51820);
            }
            "WireguardEnabledV6" => {
                boolean(text)?;
                self.wireguard_ports[1].get_or_insert(51821);
            }
            "WireguardListeningPort" => self.wireguard_ports[0] = Some(text.parse().ok()?),
            "WireguardListeningPortV6" => self.wireguard_ports[1] = Some(text.parse().ok()?),
            "FailsafeInboundHostPorts" => self.failsafe_in = failsafes(text)?,
            "FailsafeOutboundHostPorts" => self.failsafe_out = failsafes(text)?,
            "ServiceLoopPrevention" => {
                self.loop_prevention = match text.to_ascii_lowercase().as_str() {
                    "disabled" => LoopPrevention::Disabled,
                    "drop" => LoopPrevention::Drop,
                    "reject" => LoopPrevention::Reject,
                    _ => return None,
                }
            }
            "LogPrefix" => self.log_prefix = text.to_owned(),
            "LogActionRateLimit" => self.log_limit = Some(rate(text, self.log_limit)?),
            "LogActionRateLimitBurst" => {
                let (rate, unit, _) = self.log_limit.unwrap_or((0, 1, 0));
                self.log_limit = Some((rate, unit, text.parse().ok()?));
            }
            "NATPortRange" => {
                let (low, high) = text.split_once(['-', ':'])?;
                self.masquerade_ports = Some((low.parse().ok()?, high.parse().ok()?));
            }
            "MasqueradeRandomFully" | "IptablesMASQUERADERandomFully" => {
                self.masquerade_random = boolean(text)?;
            }
            "NATOutgoingExclusions" => {
                self.masquerade_spares_hosts = match text {
                    "IPPoolsOnly" => false,
                    "IPPoolsAndHostIPs" => true,
                    _ => return None,
                }
            }
            "IptablesNATOutgoingInterfaceFilter" => {
                self.masquerade_interface = (!text.is_empty()).then(|| text.to_owned());
            }
            "NftablesMarkMask" => {
                let mask = number(text)?;
                // The lowest bit of the mask, as the reference hands bits out.
                self.accept_mark = 1u32.checked_shl(mask.trailing_zeros())?;
            }
            "NFTablesFlowTableOffload" => {
                self.flow_offload = match text.to_ascii_lowercase().as_str() {
                    "all" => true,
                    "disabled" => false,
                    _ => return None,
                }
            }
            "NFTablesFlowTableDataIfacePattern" => self.flow_interfaces = name_patterns(text)?,
            "ExternalNodesCIDRList" => {
                let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
                self.external_nodes = entries.map(net).collect::<Option<_>>()?;
            }
            _ => return self.set_own(name, text),
        }
        Some(())
    }
}

impl Config {
    /// Parameters that the reference does not have, and its `FelixConfiguration` has no field for: they are set in the
    /// environment (`FELIX_POLICYRULECOUNTERS`), in the configuration file or as raw parameters of the datastore, in any
    /// case.
    ///
    /// | parameter | values | meaning |
    /// |---|---|---|
    /// | `PolicyRuleCounters` | boolean, default false | [`Config::rule_counters`] |
    /// | `PolicyChangeConnections` | `Keep` (default, as the reference does), `CutDenied` | [`Config::cut_denied_connections`] |
    /// | `LogGroup` | number of an NFLOG group | Log rules write there and not to the kernel's log |
    fn set_own(&mut self, name: &str, text: &str) -> Option<()> {
        let is = |own: &str| name.eq_ignore_ascii_case(own);
        if is("PolicyRuleCounters") {
            self.rule_counters = boolean(text)?;
        } else if is("PolicyChangeConnections") {
            self.cut_denied_connections = match text.to_ascii_lowercase().as_str() {
                "keep" => false,
                "cutdenied" => true,
                _ => return None,
            };
        } else if is("LogGroup") {
            self.log_target = LogTarget::Group { group: text.parse().ok()?, snaplen: 128 };
        }
        Some(())
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "y" | "t" | "enabled" => Some(true),
        "false" | "0" | "no" | "n" | "f" | "disabled" => Some(false),
        _ => None,
    }
}

/// The names that a regular expression stands for, when it is one of names and beginnings of names: `^eth0$|^ens.*`.
fn name_patterns(text: &str) -> Option<Vec<String>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '@');
    let alternatives = text.trim_start_matches('(').trim_end_matches(')').split('|');
    let one = |part: &str| {
        let part = part.trim().trim_start_matches('^').trim_end_matches('$');
        let (name, rest) = match part.strip_suffix(".*") {
            Some(start) => (start, "*"),
            None => (part, ""),
        };
        (!name.is_empty() && name.chars().all(plain)).then(|| format!("{name}{rest}"))
    };
    if text.trim().is_empty() { Some(Vec::new()) } else { alternatives.map(one).collect() }
}

/// A CIDR or a single address.
fn net(text: &str) -> Option<IpNet> {
    text.parse().map(|net: IpNet| net.trunc()).ok().or_else(|| text.parse::<IpAddr>().map(IpNet::from).ok())
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `N/second`, `N/minute`, `N/hour`, `N/day`; the burst set before is kept.
fn rate(text: &str, before: Option<(u64, u64, u32)>) -> Option<(u64, u64, u32)> {
    let (count, unit) = text.split_once('/')?;
    let seconds = match unit {
        "second" => 1,
        "minute" => 60,
        "hour" => 3600,
        "day" => 86_400,
        _ => return None,
    };
    let burst = before.map_or(5, |(_, _, burst)| burst);
    Some((count.parse().ok().filter(|count| (1..=9999).contains(count))?, seconds, burst))
}

fn failsafes(text: &str) -> Option<Vec<Failsafe>> {
    if text.eq_ignore_ascii_case("none") {
        return Some(Vec::new());
    }
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries.map(|entry| entry.parse().ok()).collect()
}

/// A failsafe entry that is not `port`, `proto:port` or `proto:net:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failsafe port {0:?} is not port, proto:port or proto:net:port with proto tcp or udp")]
pub struct FailsafeError(pub String);

impl FromStr for Failsafe {
    type Err = FailsafeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || FailsafeError(text.to_owned());
        let (head, port) = match text.rsplit_once(':') {
            Some((head, port)) => (Some(head), port),
            None => (None, text),
        };
        let port = port.parse().map_err(|_| bad())?;
        let (protocol, net) = head.map_or(("tcp", ""), |head| head.split_once(':').unwrap_or((head, "")));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => 6,
            "udp" => 17,
            _ => return Err(bad()),
        };
        let net = match net.trim_start_matches('[').trim_end_matches(']') {
            "" => None,
            net => Some(net.parse::<IpNet>().map_err(|_| bad())?.trunc()),
        };
        Ok(Self { protocol, net, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failsafe_syntax() {
        let parsed = failsafes("tcp:22, udp:10.0.0.0/8:53,6443,tcp:[fd00::/8]:179").unwrap();
        let text: Vec<_> =
            parsed.iter().map(|f| (f.protocol, f.net.map(|n| n.to_string()), f.port)).collect();
        let expected = [
            (6, None, 22),
            (17, Some("10.0.0.0/8".to_owned()), 53),
            (6, None, 6443),
            (6, Some("fd00::/8".to_owned()), 179),
        ];
        assert_eq!(text, expected);
        assert_eq!(failsafes("none"), Some(Vec::new()));
        assert_eq!(failsafes("icmp:22"), None);
    }

    #[test]
    fn patterns_of_interfaces() {
        assert_eq!(name_patterns("^(eth0|ens.*)$"), None, "anchors outside of the alternatives");
        assert_eq!(name_patterns("eth0|^ens.*"), Some(vec!["eth0".to_owned(), "ens*".to_owned()]));
        assert_eq!(name_patterns("(en[op].*)"), None, "more than names and beginnings");
        assert_eq!(name_patterns(""), Some(Vec::new()));
    }

    #[test]
    fn parameters_of_our_own_come_in_any_case() {
        let parameters =
            [("POLICYRULECOUNTERS", "true"), ("policychangeconnections", "CutDenied"), ("LOGGROUP", "7")];
        let parameters = parameters.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let (config, unreadable) = Config::from_parameters(&parameters);
        assert!(unreadable.is_empty(), "{unreadable:?}");
        assert!(config.rule_counters && config.cut_denied_connections);
        assert_eq!(config.log_target, LogTarget::Group { group: 7, snaplen: 128 });
        let wrong = [("PolicyChangeConnections".to_owned(), "Cut".to_owned())].into();
        assert_eq!(Config::from_parameters(&wrong).1, ["PolicyChangeConnections"]);
    }

    #[test]
    fn unreadable_parameters_are_named_and_keep_their_default() {
        let parameters =
            [("VXLANPort", "many"), ("InterfacePrefix", "tap,cali"), ("LogActionRateLimit", "7/minute")];
        let parameters = parameters.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let (config, unreadable) = Config::from_parameters(&parameters);
        assert_eq!(unreadable, ["VXLANPort"]);
        assert_eq!(config.vxlan_port, 4789);
        assert_eq!(config.interface_prefixes, ["tap", "cali"]);
        assert_eq!(config.log_limit, Some((7, 60, 5)));
    }
}
