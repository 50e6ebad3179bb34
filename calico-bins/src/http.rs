//! The small HTTP server behind health and metrics: every path is answered at once from what is known.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// Longest time that a client may take to send its request line and headers.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);

/// An answer in plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status, for example 200 or 503.
    pub status: u16,
    /// What a person or a scraper reads.
    pub text: String,
}

impl Answer {
    /// 200 with a text; 204 when there is nothing to say.
    pub fn ok(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { status: if text.is_empty() { 204 } else { 200 }, text }
    }

    /// 503 with a reason.
    pub fn unavailable(text: impl Into<String>) -> Self {
        Self { status: 503, text: text.into() }
    }
}

/// Answers a path; `None` when there is nothing there.
pub type Respond = dyn Fn(&str) -> Option<Answer> + Send + Sync;

/// Serves until the listener fails or the task is aborted.
pub async fn serve(listener: TcpListener, respond: Arc<Respond>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Too many open files, mostly: it passes.
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let respond = Arc::clone(&respond);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request: Request<Incoming>| {
                let response = response(request.method(), request.uri().path(), &*respond);
                async move { Ok::<_, Infallible>(response) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_PATIENCE)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "an HTTP client went away");
            }
        });
    }
}

fn response(method: &Method, path: &str, respond: &Respond) -> Response<Full<Bytes>> {
    let answer = if method == Method::GET || method == Method::HEAD {
        respond(path).unwrap_or_else(|| Answer { status: 404, text: "there is nothing here\n".to_owned() })
    } else {
        Answer { status: 405, text: "only GET and HEAD\n".to_owned() }
    };
    let mut response = Response::new(Full::new(Bytes::from(answer.text)));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn paths_are_answered_and_others_are_not_there() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let respond: Arc<Respond> = Arc::new(|path| match path {
            "/liveness" => Some(Answer::ok("alive\n")),
            "/readiness" => Some(Answer::unavailable("datastore: resync\n")),
            "/quiet" => Some(Answer::ok("")),
            _ => None,
        });
        let server = runtime.spawn(serve(listener, respond));
        let get = |path: &str| {
            ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
        };
        assert!(get("/liveness").starts_with("HTTP/1.1 200 "));
        assert!(get("/liveness").ends_with("alive\n"));
        assert!(get("/readiness").starts_with("HTTP/1.1 503 "));
        assert!(get("/quiet").starts_with("HTTP/1.1 204 "));
        assert!(get("/").starts_with("HTTP/1.1 404 "));
        let posted = ask(
            address,
            "POST /liveness HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        );
        assert!(posted.starts_with("HTTP/1.1 405 "));
        let garbage = ask(address, "\u{1}\u{2} what\r\n\r\n");
        assert!(garbage.starts_with("HTTP/1.1 400 "), "{garbage}");
        server.abort();
    }
}
