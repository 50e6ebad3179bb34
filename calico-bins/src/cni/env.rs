//! The environment a container runtime hands to a plugin, checked before anything else is looked at.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::{CniError, code};

/// What the runtime asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach a container.
    Del,
    /// Verify an attachment.
    Check,
    /// Release what belongs to no listed attachment.
    Gc,
    /// Tell whether ADD can be served.
    Status,
    /// Print the supported versions.
    Version,
}

impl Command {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    /// The word used in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The oldest configuration version that knows the command.
    pub fn since(self) -> &'static str {
        match self {
            Self::Add | Self::Del => "0.1.0",
            Self::Version => "0.2.0",
            Self::Check => "0.4.0",
            Self::Gc | Self::Status => "1.1.0",
        }
    }
}

/// The checked `CNI_*` variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Env {
    /// `CNI_COMMAND`.
    pub command: Command,
    /// `CNI_CONTAINERID`; empty for GC, STATUS and VERSION.
    pub container_id: String,
    /// `CNI_NETNS`, a path; empty when the runtime has none any more.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS` as given.
    pub args_text: String,
    /// `CNI_ARGS`, taken apart.
    pub args: Args,
    /// `CNI_PATH`, taken apart.
    pub path: Vec<PathBuf>,
}

/// The keys of `CNI_ARGS` that the plugins read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    /// `IgnoreUnknown`.
    pub ignore_unknown: bool,
    /// `IP`: the address to assign.
    pub ip: Option<String>,
    /// `K8S_POD_NAME`.
    pub pod: Option<String>,
    /// `K8S_POD_NAMESPACE`.
    pub namespace: Option<String>,
    /// `K8S_POD_INFRA_CONTAINER_ID`.
    pub infra_container_id: Option<String>,
    /// `K8S_POD_UID`.
    pub pod_uid: Option<String>,
}

impl Args {
    /// Parses `K=V;K=V`. Unknown keys are an error unless `IgnoreUnknown` is `1` or `true`, or `lenient` is
    /// set (the `calico` plugin always ignores them).
    ///
    /// ```
    /// let args = calico_bins::cni::env::Args::parse("K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0", true).unwrap();
    /// assert_eq!(args.pod.as_deref(), Some("web-0"));
    /// ```
    pub fn parse(text: &str, lenient: bool) -> Result<Self, CniError> {
        let mut args = Self::default();
        let mut pairs = BTreeMap::new();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((key, value)) if !value.contains('=') => pairs.insert(key, value),
                _ => {
                    return Err(CniError::new(
                        code::INVALID_ENVIRONMENT,
                        format!("ARGS: invalid pair {pair:?}"),
                    )
                    .details("CNI_ARGS is a list of KEY=VALUE joined by ';'"));
                }
            };
        }
        let mut unknown = Vec::new();
        for (key, value) in pairs {
            let slot = match key {
                "IgnoreUnknown" => {
                    args.ignore_unknown = matches!(value, "1" | "true" | "True" | "TRUE" | "t" | "T");
                    continue;
                }
                "IP" => &mut args.ip,
                "K8S_POD_NAME" => &mut args.pod,
                "K8S_POD_NAMESPACE" => &mut args.namespace,
                "K8S_POD_INFRA_CONTAINER_ID" => &mut args.infra_container_id,
                "K8S_POD_UID" => &mut args.pod_uid,
                _ => {
                    unknown.push(key);
                    continue;
                }
            };
            if !value.is_empty() {
                *slot = Some(value.to_owned());
            }
        }
        if !unknown.is_empty() && !args.ignore_unknown && !lenient {
            return Err(CniError::new(
                code::INVALID_ENVIRONMENT,
                format!("ARGS: unknown args {unknown:?} in {text:?}"),
            )
            .details("add IgnoreUnknown=1 to CNI_ARGS to have them ignored"));
        }
        Ok(args)
    }
}

impl Env {
    /// Reads and checks the variables through `lookup`. `Ok(None)` means that `CNI_COMMAND` is not set at
    /// all: somebody typed the program's name at a prompt.
    pub fn read(
        lookup: impl Fn(&str) -> Option<String>,
        lenient_args: bool,
    ) -> Result<Option<Self>, CniError> {
        let var = |name: &str| lookup(name).unwrap_or_default();
        let word = var("CNI_COMMAND");
        if word.is_empty() {
            return Ok(None);
        }
        let Some(command) = Command::parse(&word) else {
            return Err(CniError::new(code::INVALID_ENVIRONMENT, format!("unknown CNI_COMMAND: {word}"))
                .details("known are ADD, DEL, CHECK, GC, STATUS and VERSION"));
        };
        let required: &[&str] = match command {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            Command::Gc | Command::Status => &["CNI_PATH"],
            Command::Version => &[],
        };
        let missing: Vec<_> = required.iter().copied().filter(|name| var(name).is_empty()).collect();
        if !missing.is_empty() {
            return Err(CniError::new(
                code::INVALID_ENVIRONMENT,
                format!("required env variables [{}] missing", missing.join(",")),
            )
            .details(format!("CNI_COMMAND is {word}")));
        }
        let env = Self {
            command,
            container_id: var("CNI_CONTAINERID"),
            netns: var("CNI_NETNS"),
            ifname: var("CNI_IFNAME"),
            args: Args::parse(&var("CNI_ARGS"), lenient_args)?,
            args_text: var("CNI_ARGS"),
            path: std::env::split_paths(&var("CNI_PATH")).filter(|dir| !dir.as_os_str().is_empty()).collect(),
        };
        if matches!(command, Command::Add | Command::Check | Command::Del) {
            check_container_id(&env.container_id)?;
            check_ifname(&env.ifname)?;
        }
        Ok(Some(env))
    }
}

/// Network names and container IDs: `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`.
pub(super) fn is_plain_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn check_container_id(id: &str) -> Result<(), CniError> {
    if is_plain_name(id) {
        return Ok(());
    }
    Err(CniError::new(code::INVALID_ENVIRONMENT, "invalid characters in containerID")
        .details(format!("{id:?}: expected a letter or digit, then letters, digits, '_', '.' and '-'")))
}

fn check_ifname(name: &str) -> Result<(), CniError> {
    let reason = if name.is_empty() {
        "interface name is empty"
    } else if name.len() > 15 {
        "interface name is too long"
    } else if name == "." || name == ".." {
        "interface name is . or .."
    } else if name.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace()) {
        "interface name contains / or : or whitespace characters"
    } else {
        return Ok(());
    };
    Err(CniError::new(code::INVALID_ENVIRONMENT, reason)
        .details(format!("CNI_IFNAME={name:?}: 1 to 15 bytes without '/', ':' and white space")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Option<Env>, CniError> {
        let vars: BTreeMap<String, String> =
            vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Env::read(|name| vars.get(name).cloned(), false)
    }

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "abc"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
    ];

    fn add_with(name: &str, value: &str) -> Result<Option<Env>, CniError> {
        let mut vars: Vec<_> = ADD.into_iter().filter(|(k, _)| *k != name).collect();
        vars.push((name, value));
        read(&vars)
    }

    #[test]
    fn a_complete_add_is_read() {
        let env = read(&ADD).unwrap().unwrap();
        assert_eq!(env.command, Command::Add);
        assert_eq!(env.path.len(), 2);
    }

    #[test]
    fn missing_variables_are_all_named() {
        let error = read(&[("CNI_COMMAND", "ADD"), ("CNI_PATH", "/x")]).unwrap_err();
        assert_eq!(error.code, code::INVALID_ENVIRONMENT);
        assert_eq!(error.msg, "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing");
    }

    #[test]
    fn del_needs_no_netns_and_version_needs_nothing() {
        let del: Vec<_> = ADD
            .into_iter()
            .filter(|(k, _)| *k != "CNI_NETNS")
            .map(|(k, v)| if k == "CNI_COMMAND" { (k, "DEL") } else { (k, v) })
            .collect();
        assert!(read(&del).unwrap().is_some());
        assert!(read(&[("CNI_COMMAND", "VERSION")]).unwrap().is_some());
        assert!(read(&[]).unwrap().is_none());
    }

    #[test]
    fn bad_values_are_refused_with_code_4() {
        for (name, value) in [
            ("CNI_COMMAND", "add"),
            ("CNI_CONTAINERID", "-abc"),
            ("CNI_CONTAINERID", "a/b"),
            ("CNI_IFNAME", "sixteen-letters-"),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "a:b"),
            ("CNI_ARGS", "K8S_POD_NAME"),
            ("CNI_ARGS", "A=b=c"),
            ("CNI_ARGS", "UNHEARD_OF=1"),
        ] {
            let error = add_with(name, value).unwrap_err();
            assert_eq!(error.code, code::INVALID_ENVIRONMENT, "{name}={value}: {error}");
        }
        assert!(add_with("CNI_ARGS", "IgnoreUnknown=1;UNHEARD_OF=1").is_ok());
    }
}
