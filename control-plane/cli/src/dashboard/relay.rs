//! A server on loopback that hands out the dashboard's files and passes everything else on to the API, as whom the kubeconfig names.
//!
//! Two things keep others of this host, and pages of the web, away from those credentials: the `Host` must be a name of loopback, since a
//! name of somebody else's may be made to point here; and each request must bring the key, which is made at random for each start, travels
//! in the part of the address that browsers do not send, and never leaves this host. Answers go through as they come.

use crate::client::Client;
use crate::failure::{Exit, Failure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::client::Body;
use serde_json::json;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use weft_control::web;

/// Connections at once: a browser makes six for each of its windows.
const CONNECTIONS: usize = 128;
/// How long a client may take to say what it wants.
const HEADERS: Duration = Duration::from_secs(10);
/// How long a request may take to arrive, and its bytes: the API takes 3 MiB.
const BODY: Duration = Duration::from_secs(30);
const LARGEST: usize = 4 << 20;
/// How long the API may take to begin its answer; it sets itself 30 s.
const ANSWER: Duration = Duration::from_secs(60);
/// How long the address that opens the page once is good.
const OPENER: Duration = Duration::from_secs(60);
/// Where that is.
const OPEN: &str = "/open/";

/// A running relay; dropping it ends it.
pub struct Relay {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    client: Client,
    address: SocketAddr,
    key: String,
    /// What opens the page without showing the key, once, and until when.
    opener: Mutex<Option<(String, Instant)>>,
}

impl Relay {
    /// Listens on loopback; port 0 is any free one.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn start(client: Client, port: u16) -> Result<Self, Failure> {
        let taken = |error: std::io::Error| {
            Failure::not_well(format!("cannot listen on 127.0.0.1:{port}: {error}"))
                .hint("choose another with --port, or leave it out for any free one")
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        let shared = Arc::new(Shared { client, address, key: random(), opener: Mutex::default() });
        let task = tokio::spawn(serve(listener, shared.clone()));
        Ok(Self { shared, task })
    }

    /// The page's address, the key included.
    pub fn url(&self) -> String {
        self.shared.url()
    }

    /// An address that leads to the page once, soon: for the command line of a browser, which others of this host can read.
    pub fn opener(&self) -> String {
        let ticket = random();
        let until = Instant::now() + OPENER;
        *self.shared.opener.lock().unwrap_or_else(PoisonError::into_inner) = Some((ticket.clone(), until));
        format!("http://{}{OPEN}{ticket}", self.shared.address)
    }
}

/// 256 bits that nobody guesses.
fn random() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => drop(connections.spawn(connection(stream, shared.clone()))),
            // Out of descriptors: what is open goes on.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    drop(stream.set_nodelay(true));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(shared.answer(request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(64 << 10);
    // How it ended concerns who asked.
    drop(builder.serve_connection(TokioIo::new(stream), service).await);
}

impl Shared {
    fn url(&self) -> String {
        format!("http://{}{}#key={}", self.address, web::ROOT, self.key)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if let Some(refused) = strange(request.headers(), self.address.port()) {
            return refused;
        }
        let path = request.uri().path();
        if let Some(ticket) = path.strip_prefix(OPEN) {
            return self.opened(ticket);
        }
        if let Some(page) = web::answer(request.method(), path, request.headers()) {
            return page.map(Body::from);
        }
        if !self.has_key(request.headers()) {
            return failure(
                StatusCode::UNAUTHORIZED,
                "Unauthorized",
                "this page was opened with another key: run `weft dashboard` again, and open the address that it prints",
            );
        }
        self.pass_on(request).await
    }

    /// Leads to the page, once.
    fn opened(&self, ticket: &str) -> Response<Body> {
        let mut opener = self.opener.lock().unwrap_or_else(PoisonError::into_inner);
        let is_good = opener.as_ref().is_some_and(|(good, until)| is_same(good, ticket) && Instant::now() < *until);
        if !is_good {
            let text = "this address was good once: open the one that `weft dashboard` printed";
            return failure(StatusCode::NOT_FOUND, "NotFound", text);
        }
        *opener = None;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SEE_OTHER;
        let place = HeaderValue::try_from(self.url()).unwrap_or(HeaderValue::from_static(web::ROOT));
        response.headers_mut().insert(header::LOCATION, place);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        response
    }

    fn has_key(&self, headers: &HeaderMap) -> bool {
        let mut fields = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else { return false };
        let key = field.to_str().ok().and_then(|text| text.split_once(' '));
        key.is_some_and(|(scheme, key)| scheme.eq_ignore_ascii_case("bearer") && is_same(key.trim(), &self.key))
    }

    async fn pass_on(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut onward = match Request::builder().method(parts.method.clone()).uri(path).body(()) {
            Ok(onward) => onward,
            Err(error) => return failure(StatusCode::BAD_REQUEST, "BadRequest", &error.to_string()),
        };
        *onward.headers_mut() = end_to_end(&parts.headers);
        // Who asks is who the kubeconfig names; where from is nobody's business there.
        for name in [header::HOST, header::AUTHORIZATION, header::ORIGIN, header::REFERER, header::COOKIE] {
            onward.headers_mut().remove(name);
        }
        let read = tokio::time::timeout(BODY, Limited::new(body, LARGEST).collect()).await;
        let body = match read {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let text = format!("a request may be {LARGEST} bytes long");
                return failure(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &text);
            }
            Ok(Err(_)) | Err(_) => {
                return failure(StatusCode::BAD_REQUEST, "BadRequest", "the request broke off, or took too long");
            }
        };
        let onward = onward.map(|()| Body::from(body));
        let answered = tokio::time::timeout(ANSWER, self.client.pass_on(onward)).await;
        match answered {
            Ok(Ok(response)) => {
                let (mut parts, body) = response.into_parts();
                parts.headers = end_to_end(&parts.headers);
                parts.headers.remove(header::SET_COOKIE);
                parts.headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
                parts.version = http::Version::HTTP_11;
                Response::from_parts(parts, body)
            }
            Ok(Err(error)) => {
                let why = error.into_failure(&format!("{} {path}", parts.method));
                let hint = why.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                let code = if why.exit == Exit::Usage { StatusCode::BAD_REQUEST } else { StatusCode::BAD_GATEWAY };
                failure(code, "ServiceUnavailable", &format!("{}{hint}", why.message))
            }
            Err(_) => {
                let text = format!("{} did not answer within {} s", self.client.context.server, ANSWER.as_secs());
                failure(StatusCode::GATEWAY_TIMEOUT, "Timeout", &text)
            }
        }
    }
}

/// The refusal of a request that a page of somebody else's made: under another name (DNS rebinding), or from another origin.
fn strange(headers: &HeaderMap, port: u16) -> Option<Response<Body>> {
    let one = |name: HeaderName| {
        let mut fields = headers.get_all(name).iter();
        match (fields.next(), fields.next()) {
            (Some(field), None) => field.to_str().ok(),
            _ => None,
        }
    };
    let names = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    let Some(name) = names.iter().find(|name| one(header::HOST).is_some_and(|host| host.eq_ignore_ascii_case(name)))
    else {
        let text = "this server answers as 127.0.0.1 and localhost only";
        return Some(failure(StatusCode::MISDIRECTED_REQUEST, "Misdirected", text));
    };
    let is_elsewhere = headers.contains_key(header::ORIGIN) && one(header::ORIGIN) != Some(&format!("http://{name}"));
    is_elsewhere.then(|| failure(StatusCode::FORBIDDEN, "Forbidden", "pages of other origins are not answered"))
}

/// Without what is between two neighbours only (RFC 9110 §7.6.1).
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    const HOP: [&str; 8] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    let goes_on =
        |name: &HeaderName| !HOP.contains(&name.as_str()) && !named.iter().any(|hop| hop.as_str() == name.as_str());
    headers.iter().filter(|(name, _)| goes_on(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Takes as long whichever byte differs.
fn is_same(one: &str, other: &str) -> bool {
    let differs = one.bytes().zip(other.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b));
    one.len() == other.len() && differs == 0
}

/// An error in the API's own shape, so that the page understands both.
fn failure(code: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    });
    let mut response = Response::new(Body::from(status.to_string().into_bytes()));
    *response.status_mut() = code;
    for (name, value) in [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_names_of_loopback_and_the_pages_own_origin_are_answered() {
        let ours =
            |fields: &[(&'static str, &str)]| strange(&headers(fields), 4321).map(|refused| refused.status().as_u16());
        for host in ["127.0.0.1:4321", "localhost:4321", "LOCALHOST:4321"] {
            assert_eq!(ours(&[("host", host)]), None, "{host}");
        }
        for host in
            ["rebound.example:4321", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.rebound.example:4321", "192.0.2.1:4321"]
        {
            assert_eq!(ours(&[("host", host)]), Some(421), "{host}");
        }
        assert_eq!(ours(&[]), Some(421));
        assert_eq!(ours(&[("host", "127.0.0.1:4321"), ("host", "rebound.example")]), Some(421));
        let from = |origin| ours(&[("host", "127.0.0.1:4321"), ("origin", origin)]);
        assert_eq!(from("http://127.0.0.1:4321"), None);
        for origin in ["http://127.0.0.1:9999", "https://127.0.0.1:4321", "null", "http://rebound.example"] {
            assert_eq!(from(origin), Some(403), "{origin}");
        }
    }

    #[test]
    fn what_is_between_neighbours_stays_there() {
        let passed = end_to_end(&headers(&[
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("accept", "text/event-stream"),
        ]));
        assert_eq!(passed, headers(&[("accept", "text/event-stream")]));
    }

    #[test]
    fn keys_are_long_and_compared_whole() {
        let key = random();
        assert!(key.len() == 43 && key != random());
        assert!(is_same(&key, &key) && !is_same(&key, "") && !is_same(&key, &key[..42]) && !is_same("a", "b"));
    }
}
