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
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::{NetEvent, sign};

/// Pause before a port that is taken is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Listens where the configuration says; a change starts anew, everything else is left alone.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    running: BTreeMap<SocketAddr, AbortHandle>,
    keys: watch::Sender<Keys>,
}

/// Who has to sign, sorted by the peers' names.
type Keys = Vec<(IpAddr, Authentication)>;

impl Listeners {
    pub(super) fn configure(&mut self, config: &SpeakerConfig, events: &mpsc::Sender<NetEvent>) {
        let keys: Keys = config
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
        self.keys.send_if_modified(|known| std::mem::replace(known, keys.clone()) != keys);
        self.running.retain(|address, task| {
            let keep = wanted.contains(address);
            if !keep {
                task.abort();
            }
            keep
        });
        for address in wanted {
            self.running.entry(address).or_insert_with(|| {
                tokio::spawn(listen(address, self.keys.subscribe(), events.clone())).abort_handle()
            });
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.running.values().for_each(AbortHandle::abort);
    }
}

async fn listen(address: SocketAddr, mut keys: watch::Receiver<Keys>, events: mpsc::Sender<NetEvent>) {
    loop {
        let mut signed = keys.borrow_and_update().clone();
        match open(address, &signed) {
            Ok(listener) => {
                let _ = events.send(NetEvent::Listening).await;
                loop {
                    tokio::select! {
                        () = accept(&listener, &events) => return,
                        changed = keys.changed() => if changed.is_err() { return },
                    }
                    let wanted = keys.borrow_and_update().clone();
                    change_keys(&listener, address, &signed, &wanted);
                    signed = wanted;
                }
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
    change_keys(&socket, address, &[], keys);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

/// Makes a listening socket demand the wanted keys. Connections that were accepted keep theirs.
fn change_keys(
    socket: &impl AsFd,
    address: SocketAddr,
    known: &[(IpAddr, Authentication)],
    wanted: &[(IpAddr, Authentication)],
) {
    let here = |(peer, _): &&(IpAddr, Authentication)| peer.is_ipv6() == address.is_ipv6();
    for (peer, _) in known.iter().filter(here).filter(|(peer, _)| wanted.iter().all(|(p, _)| p != peer)) {
        if let Err(error) = tcp_auth::remove_md5_key(socket, *peer) {
            tracing::warn!(%peer, %error, "the password of a former BGP peer is still demanded");
        }
    }
    for (peer, authentication) in wanted.iter().filter(here).filter(|entry| !known.contains(entry)) {
        // A peer whose key cannot be set stays out: the kernel refuses its segments, or the speaker does.
        if let Err(reason) = sign(socket, *peer, authentication, false) {
            tracing::error!(%peer, %reason, "cannot require the password of a BGP peer");
        }
    }
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
