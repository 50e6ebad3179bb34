//! What a container runtime hands to the CNI plugins: the configuration on standard input, `CNI_ARGS`, and results of
//! other plugins.

use calico_bins::cni::SUPPORTED_VERSIONS;
use calico_bins::cni::annotations::Wishes;
use calico_bins::cni::conf::NetConf;
use calico_bins::cni::env::{Args, Command};
use calico_bins::cni::host_local::{self, PodCidrs};
use calico_bins::cni::result::AddResult;

const COMMANDS: [Command; 5] = [Command::Add, Command::Del, Command::Check, Command::Gc, Command::Status];

/// Any text as a network configuration, the first byte choosing the command: it is refused with a code of the
/// specification and a reason, or read; then what reaches the delegate is what came, key for key.
pub fn netconf(data: &[u8]) {
    let Some((first, text)) = data.split_first() else { return };
    let command = COMMANDS[usize::from(*first) % COMMANDS.len()];
    let conf = match NetConf::parse(text, command) {
        Ok(conf) => conf,
        Err(error) => {
            assert!(matches!(error.code, 1 | 2 | 6 | 7), "{error}");
            assert!(!error.msg.is_empty());
            return;
        }
    };
    assert!(SUPPORTED_VERSIONS.contains(&conf.cni_version.as_str()));
    assert_eq!(Wishes::default().rewrite(&conf.raw), conf.raw, "unknown keys survive");
    for (name, value) in conf.datastore_settings() {
        assert!(!value.is_empty(), "{name} is set to nothing");
    }
    for (key, _) in conf.mesos_labels() {
        assert!(!key.is_empty());
    }
    let _ = conf.runtime.addresses();
    assert!(!host_local::routes(&conf).is_empty());
    if let Ok(prepared) = host_local::prepare(&conf, &conf.raw, &PodCidrs::Any) {
        let again = host_local::prepare(&conf, &prepared, &PodCidrs::Any);
        assert_eq!(again.as_ref(), Ok(&prepared), "no placeholder is left");
    }
    let again = NetConf::parse(conf.raw.to_string().as_bytes(), command);
    assert_eq!(again.map(|again| again.raw), Ok(conf.raw.clone()));
    if let Ok(Some(previous)) = conf.previous() {
        round_trip(&previous);
    }
}

/// Whatever can be read as a result is printed in every version and read again without loss of addresses.
fn round_trip(result: &AddResult) {
    for version in SUPPORTED_VERSIONS {
        let printed = match result.to_value(version) {
            Ok(printed) => printed,
            Err(error) => panic!("{version}: {error}"),
        };
        let read = match AddResult::from_value(&printed) {
            Ok(read) => read,
            Err(error) => panic!("{version}: {error}: {printed}"),
        };
        if version.starts_with("0.1") || version.starts_with("0.2") {
            let first = |v6| result.ips.iter().find(move |ip| ip.address.addr().is_ipv6() == v6);
            let expected: Vec<_> = [false, true].into_iter().filter_map(first).map(|ip| ip.address).collect();
            assert_eq!(read.ips.iter().map(|ip| ip.address).collect::<Vec<_>>(), expected);
            continue;
        }
        assert_eq!(read.ips, result.ips, "{version}");
        assert_eq!(read.interfaces.len(), result.interfaces.len(), "{version}");
        assert_eq!(read.routes.len(), result.routes.len(), "{version}");
        if version == "1.1.0" {
            assert_eq!(&read, result);
        }
        let merged = result.clone().after(Some(read));
        assert_eq!(merged.ips.len(), 2 * result.ips.len());
    }
}

/// Any text as `CNI_ARGS`: what the strict reader takes, the lenient one reads the same; what it refuses has code 4.
pub fn cni_args(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let strict = Args::parse(text, false);
    let lenient = Args::parse(text, true);
    for error in [&strict, &lenient].into_iter().filter_map(|read| read.as_ref().err()) {
        assert_eq!(error.code, 4, "{error}");
    }
    match (&strict, &lenient) {
        (Ok(strict), lenient) => assert_eq!(lenient.as_ref(), Ok(strict)),
        (Err(_), Ok(args)) => assert!(!args.ignore_unknown, "unknown keys were to be ignored: {text:?}"),
        (Err(_), Err(_)) => {}
    }
    if let Ok(args) = &lenient {
        let values = [&args.ip, &args.pod, &args.namespace, &args.infra_container_id, &args.pod_uid];
        for value in values.into_iter().flatten() {
            assert!(!value.is_empty() && text.contains(value.as_str()));
        }
    }
    // Ours is put in front for the delegate: the rest must not change its meaning.
    let delegated = Args::parse(&format!("IgnoreUnknown=1;{text}"), false);
    if lenient.is_ok() && !text.contains("IgnoreUnknown") {
        assert!(delegated.is_ok(), "{text:?}");
    }
}
