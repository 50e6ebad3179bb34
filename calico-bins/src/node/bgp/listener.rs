//! The sockets that peers connect to.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use calico_bgp::config::{Authentication, SpeakerConfig, Ttl};
use calico_dataplane::sys::tcp_auth;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::{NetEvent, sign};

/// Pause before a port that is taken is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Listens where the configuration says; a change starts anew, everything else is left alone.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    running: BTreeMap<SocketAddr, AbortHandle>,
    keys: Vec<(IpAddr, Authentication)>,
}

impl Listeners {
    pub(super) fn configure(&mut self, config: &SpeakerConfig, events: &mpsc::Sender<NetEvent>) {
        let keys: Vec<(IpAddr, Authentication)> = config
            .peers
            .values()
            .filter(|peer| peer.authentication != Authentication::None)
            .map(|peer| (peer.address, peer.authentication.clone()))
            .collect();
        let addresses = if config.listen_addresses.is_empty() {
            vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
        } else {
            config.listen_addresses.clone()
        };
        let wanted: Vec<SocketAddr> =
            addresses.into_iter().map(|address| SocketAddr::new(address, config.listen_port)).collect();
        let rekeyed = keys != self.keys;
        self.running.retain(|address, task| {
            let keep = wanted.contains(address) && !rekeyed;
            if !keep {
                task.abort();
            }
            keep
        });
        for address in wanted {
            self.running.entry(address).or_insert_with(|| {
                tokio::spawn(listen(address, keys.clone(), events.clone())).abort_handle()
            });
        }
        self.keys = keys;
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.running.values().for_each(AbortHandle::abort);
    }
}

async fn listen(address: SocketAddr, keys: Vec<(IpAddr, Authentication)>, events: mpsc::Sender<NetEvent>) {
    loop {
        match open(address, &keys) {
            Ok(listener) => {
                let _ = events.send(NetEvent::Listening).await;
                accept(&listener, &events).await;
            }
            // A node without IPv6 is no reason to complain.
            Err(error) if address.is_ipv6() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return,
            Err(error) => {
                let hint = match error.kind() {
                    io::ErrorKind::AddrInUse => "; does BIRD or another agent run on this node?",
                    io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
                    _ => "",
                };
                let reason = format!("cannot listen on {address}: {error}{hint}");
                if events.send(NetEvent::ListenFailed { reason }).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn open(address: SocketAddr, keys: &[(IpAddr, Authentication)]) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    for (peer, authentication) in keys.iter().filter(|(peer, _)| peer.is_ipv6() == address.is_ipv6()) {
        // A peer whose key cannot be set stays out: the kernel refuses its segments, or the speaker does.
        if let Err(reason) = sign(&socket, *peer, authentication) {
            tracing::error!(%peer, %reason, "cannot require the password of a BGP peer");
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: &TcpListener, events: &mpsc::Sender<NetEvent>) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let Ok(local) = stream.local_addr() else { continue };
                if events.send(NetEvent::Accepted { stream, local, remote }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a BGP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// TTL to send with, and the least to accept (GTSM, RFC 5082).
pub(super) fn apply_ttl(socket: &impl AsFd, remote: SocketAddr, ttl: Ttl) -> io::Result<()> {
    let reference = SockRef::from(socket);
    if remote.is_ipv4() {
        reference.set_ttl_v4(u32::from(ttl.send()))?;
    } else {
        reference.set_unicast_hops_v6(u32::from(ttl.send()))?;
    }
    match ttl.minimum() {
        0 => Ok(()),
        minimum => tcp_auth::set_minimum_ttl(socket, remote.is_ipv6(), minimum),
    }
}
