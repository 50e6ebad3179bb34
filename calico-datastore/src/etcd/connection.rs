//! Channels to the members of a cluster: which one is used, what is retried on another one, and credentials.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::proto::{AuthenticateRequest, AuthenticateResponse};
use crate::config::EtcdConfig;
use crate::error::StoreError;

/// Time for a TCP and TLS connection.
const DIAL: Duration = Duration::from_secs(10);
/// HTTP/2 pings.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Time for the answer to a ping.
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(10);
/// Time for one unary call on one member.
const CALL: Duration = Duration::from_secs(8);
/// Largest answer; lists come in pages far below it.
const MAX_MESSAGE: usize = 256 << 20;
/// Where distributions keep the authorities of the system.
const SYSTEM_AUTHORITIES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Whether a call may be sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// A read: another member may be asked after any failure.
    Safe,
    /// A write: after it was sent only the caller can know whether it happened.
    Unsafe,
}

/// The members of one cluster.
pub(crate) struct Connection {
    endpoints: Vec<Endpoint>,
    names: Vec<String>,
    credentials: Option<(String, String)>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Index of the member in use.
    member: usize,
    channel: Option<Channel>,
    token: Option<AsciiMetadataValue>,
}

/// A channel and what to send along.
#[derive(Clone)]
struct Session {
    member: usize,
    channel: Channel,
    token: Option<AsciiMetadataValue>,
}

impl Connection {
    pub(crate) fn new(config: &EtcdConfig) -> Result<Self, StoreError> {
        let names = match &config.discovery_srv {
            Some(domain) => discover(domain)?,
            None => config.endpoints.clone(),
        };
        let mut endpoints = Vec::new();
        for name in &names {
            let wrong = |reason: String| StoreError::Config { name: "ETCD_ENDPOINTS".to_owned(), reason };
            let mut endpoint = Endpoint::from_shared(name.clone())
                .map_err(|error| wrong(format!("{name:?}: {error}")))?
                .connect_timeout(DIAL)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE_ANSWER)
                .keep_alive_while_idle(true)
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(4 << 20);
            if name.starts_with("https://") {
                endpoint = endpoint
                    .tls_config(tls(config)?)
                    .map_err(|error| wrong(format!("TLS settings: {}", chain(&error))))?;
            }
            endpoints.push(endpoint);
        }
        Ok(Self {
            endpoints,
            names,
            credentials: config.username.clone().zip(config.password.clone()),
            state: Mutex::new(State::default()),
        })
    }

    /// All endpoints, for messages.
    pub(crate) fn place(&self) -> String {
        self.names.join(",")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The channel in use, or a new one to the first member that answers.
    async fn session(&self) -> Result<Session, StoreError> {
        let (start, known, token) = {
            let state = self.lock();
            (state.member, state.channel.clone(), state.token.clone())
        };
        if let Some(channel) = known {
            return Ok(Session { member: start, channel, token });
        }
        let mut reasons = Vec::new();
        for step in 0..self.endpoints.len() {
            let member = (start + step) % self.endpoints.len().max(1);
            let (Some(endpoint), Some(name)) = (self.endpoints.get(member), self.names.get(member)) else {
                break;
            };
            let channel = match tokio::time::timeout(DIAL, endpoint.connect()).await {
                Ok(Ok(channel)) => channel,
                Ok(Err(error)) => {
                    reasons.push(format!("{name}: {}", chain(&error)));
                    continue;
                }
                Err(_) => {
                    reasons.push(format!("{name}: no connection within {DIAL:?}"));
                    continue;
                }
            };
            let token = match self.authenticate(&channel).await {
                Ok(token) => token,
                Err(status) if unusable(&status) => {
                    reasons.push(format!("{name}: {}", status.message()));
                    continue;
                }
                Err(status) => return Err(self.error(&status)),
            };
            let mut state = self.lock();
            state.member = member;
            state.channel = Some(channel.clone());
            state.token.clone_from(&token);
            return Ok(Session { member, channel, token });
        }
        Err(StoreError::Unreachable { store: self.place(), reason: reasons.join("; ") })
    }

    async fn authenticate(&self, channel: &Channel) -> Result<Option<AsciiMetadataValue>, Status> {
        let Some((name, password)) = self.credentials.clone() else { return Ok(None) };
        let request = AuthenticateRequest { name, password };
        let answer: Result<AuthenticateResponse, Status> =
            unary(channel.clone(), None, "/etcdserverpb.Auth/Authenticate", request).await;
        match answer {
            Ok(answer) => AsciiMetadataValue::try_from(answer.token)
                .map(Some)
                .map_err(|_| Status::internal("the token of the server is not printable")),
            // Credentials for a cluster without authentication: fine, nobody asks for them.
            Err(status) if status.message().contains("authentication is not enabled") => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Stops using a member that failed.
    fn abandon(&self, session: &Session) {
        let mut state = self.lock();
        if state.member == session.member {
            state.member = (session.member + 1) % self.endpoints.len().max(1);
            state.channel = None;
        }
    }

    /// Asks for a new token on the same channel the next time.
    fn forget_token(&self) {
        self.lock().channel = None;
    }

    /// One request, one answer.
    pub(crate) async fn call<M, R>(
        &self,
        path: &'static str,
        repeat: Repeat,
        request: M,
    ) -> Result<R, StoreError>
    where
        M: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        let mut attempts = self.endpoints.len().max(1);
        let mut renewed = false;
        loop {
            let session = self.session().await?;
            let answer = unary(session.channel.clone(), session.token.clone(), path, request.clone()).await;
            let status = match answer {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            if !renewed && invalid_token(&status) {
                // Tokens live five minutes; the refused call did nothing.
                renewed = true;
                self.forget_token();
                continue;
            }
            if unusable(&status) {
                self.abandon(&session);
                attempts -= 1;
                if attempts > 0 && repeat == Repeat::Safe {
                    continue;
                }
            }
            return Err(self.error(&status));
        }
    }

    /// A stream of answers to one request that stays open.
    pub(crate) async fn stream<M, R>(
        &self,
        path: &'static str,
        request: M,
    ) -> Result<(Streaming<R>, tokio::sync::mpsc::Sender<M>), StoreError>
    where
        M: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        let mut renewed = false;
        loop {
            let session = self.session().await?;
            let (sender, receiver) = tokio::sync::mpsc::channel(1);
            // The first request is sent at once and a sender is kept: the server ends the stream with the requests.
            let _ = sender.try_send(request.clone());
            let requests = futures::stream::unfold(receiver, |mut receiver| async move {
                receiver.recv().await.map(|request| (request, receiver))
            });
            let mut grpc = client(session.channel.clone());
            let opened = tokio::time::timeout(CALL, async {
                grpc.ready().await.map_err(|error| Status::unavailable(chain(&error)))?;
                let request = with_metadata(requests, session.token.clone());
                grpc.streaming(request, PathAndQuery::from_static(path), ProstCodec::<M, R>::default()).await
            })
            .await
            .unwrap_or_else(|_| Err(Status::unavailable(format!("no answer within {CALL:?}"))));
            match opened {
                Ok(answer) => return Ok((answer.into_inner(), sender)),
                Err(status) if !renewed && invalid_token(&status) => {
                    renewed = true;
                    self.forget_token();
                }
                Err(status) => {
                    if unusable(&status) {
                        self.abandon(&session);
                    }
                    return Err(self.error(&status));
                }
            }
        }
    }

    /// Called when an open stream fails: the next call goes to another member.
    pub(crate) fn stream_failed(&self, status: &Status) -> StoreError {
        if unusable(status) {
            let mut state = self.lock();
            state.member = (state.member + 1) % self.endpoints.len().max(1);
            state.channel = None;
        }
        self.error(status)
    }

    /// Translates an answer of the server.
    pub(crate) fn error(&self, status: &Status) -> StoreError {
        let store = self.place();
        let reason = status.message().to_owned();
        match status.code() {
            Code::OutOfRange => StoreError::Expired { requested: 0, oldest: 0 },
            Code::Unauthenticated | Code::PermissionDenied => StoreError::Unauthorised { store, reason },
            Code::InvalidArgument if reason.contains("authentication failed") => {
                StoreError::Unauthorised { store, reason }
            }
            Code::ResourceExhausted if reason.contains("space") => StoreError::ReadOnly {
                store,
                reason: format!("{reason}; compact and defragment, then disarm the alarm"),
            },
            Code::InvalidArgument => StoreError::invalid("request", "value", reason),
            _ if unusable(status) => StoreError::Unreachable { store, reason },
            _ => StoreError::Failed { store, reason },
        }
    }
}

/// The members that the SRV records of a domain name, those with TLS first.
fn discover(domain: &str) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    let mut reasons = Vec::new();
    for (service, scheme) in [("_etcd-client-ssl", "https"), ("_etcd-client", "http")] {
        match crate::srv::lookup(&format!("{service}._tcp.{domain}")) {
            Ok(servers) => {
                names.extend(
                    servers.iter().map(|server| format!("{scheme}://{}:{}", server.host, server.port)),
                );
            }
            Err(reason) => reasons.push(reason),
        }
    }
    if names.is_empty() {
        reasons
            .push(format!("no SRV record at _etcd-client-ssl._tcp.{domain} or _etcd-client._tcp.{domain}"));
        return Err(StoreError::Config { name: "ETCD_DISCOVERY_SRV".to_owned(), reason: reasons.join("; ") });
    }
    Ok(names)
}

fn client(channel: Channel) -> Grpc<Channel> {
    Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
}

fn with_metadata<T>(message: T, token: Option<AsciiMetadataValue>) -> Request<T> {
    let mut request = Request::new(message);
    // A member that has lost its leader says so instead of hanging.
    request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
    request
}

async fn unary<M, R>(
    channel: Channel,
    token: Option<AsciiMetadataValue>,
    path: &'static str,
    message: M,
) -> Result<R, Status>
where
    M: Message + 'static,
    R: Message + Default + 'static,
{
    let mut grpc = client(channel);
    let call = async {
        grpc.ready().await.map_err(|error| Status::unavailable(chain(&error)))?;
        let request = with_metadata(message, token);
        grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::<M, R>::default()).await
    };
    match tokio::time::timeout(CALL, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::unavailable(format!("no answer within {CALL:?}"))),
    }
}

/// The member cannot serve; another one may.
fn unusable(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => true,
        // A connection that breaks in the middle of an answer.
        Code::Unknown | Code::Internal => {
            let text = status.message();
            text.contains("transport")
                || text.contains("h2 protocol")
                || text.contains("connection")
                || text.contains("leader")
        }
        _ => false,
    }
}

fn invalid_token(status: &Status) -> bool {
    let text = status.message();
    text.contains("invalid auth token")
        || text.contains("user name is empty")
        || text.contains("revision of auth store is old")
}

fn tls(config: &EtcdConfig) -> Result<ClientTlsConfig, StoreError> {
    let authority = match &config.ca {
        Some(pem) => pem.read("ETCD_CA_CERT_FILE")?,
        None => SYSTEM_AUTHORITIES.iter().find_map(|path| std::fs::read_to_string(path).ok()).ok_or_else(
            || StoreError::Config {
                name: "ETCD_CA_CERT_FILE".to_owned(),
                reason: "https needs the authority that signed the server's certificate".to_owned(),
            },
        )?,
    };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
    if let (Some(cert), Some(key)) = (&config.cert, &config.key) {
        tls = tls.identity(Identity::from_pem(cert.read("ETCD_CERT_FILE")?, key.read("ETCD_KEY_FILE")?));
    }
    Ok(tls)
}

/// An error with its causes: the outer one of the transport only says "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}
