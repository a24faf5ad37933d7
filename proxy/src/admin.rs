//! Two doors for operators. On TCP: `/ready`, `/live`, `/metrics` and the application's own probes (`/app-probe/…`), and nothing else. On a Unix socket that only the owner may open
//! (0600), besides those: `GET /config_dump`, `GET /stats`, `PUT /log?filter=…`, `POST /drain[?phase=outbound]`, `GET /certificate`,
//! `GET /process`, and `POST /take-over` for a process that takes this one's place.
//!
//! HTTP/1.1, one request a connection: it serves a scraper and a person, runs on the control thread, and bounds everything.

mod app_probe;
mod stats;

use crate::discovery::{Directory, DumpRequest};
use crate::drain::Drain;
use crate::takeover::{self, Giver, Relieved, Turn};
use crate::telemetry::Telemetry;
use crate::telemetry::exposition::Format;
pub use app_probe::AppProbe;
use serde_json::{Value, json};
pub use stats::stats;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use weft_certs::{CertificateInfo, LiveIdentity};

/// Largest request head.
const HEAD: usize = 8 * 1024;
/// One request, from its first byte to the last of its response.
const REQUEST: Duration = Duration::from_secs(10);
/// Connections open at once, on each door.
const CONNECTIONS: usize = 32;

/// Sets the log filter of the process.
pub type SetLog = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What the doors show and do.
#[derive(Clone)]
pub struct Admin {
    /// Whether the sidecar is ready to serve.
    pub ready: watch::Receiver<bool>,
    /// Metrics.
    pub telemetry: Arc<Telemetry>,
    /// Clusters, for metrics.
    pub directory: Directory,
    /// Begun by `POST /drain`.
    pub drain: Drain,
    /// Where dumps are made.
    pub dumps: mpsc::Sender<DumpRequest>,
    /// The certificate to describe, when there is one.
    pub identity: Arc<OnceLock<Arc<LiveIdentity>>>,
    /// For `PUT /log`.
    pub set_log: SetLog,
    /// For `GET /app-probe/…`.
    pub probes: Arc<[AppProbe]>,
    /// The turn of this process: nobody is answered outside of it.
    pub turn: Turn,
    /// For `POST /take-over`.
    pub giver: Option<Arc<Giver>>,
    /// Whose place this process has taken.
    pub relieved: Relieved,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admin")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Tcp,
    Socket,
}

struct Answer {
    status: u16,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body: body.into() }
    }

    fn json(value: &Value) -> Self {
        Self { status: 200, kind: "application/json", body: value.to_string() + "\n" }
    }
}

impl Admin {
    /// Serves readiness and metrics during the turn of this process, and what was asked then to its end.
    pub async fn serve_tcp(self, listener: Arc<TcpListener>) {
        self.turn.begun().await;
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if tasks.len() < CONNECTIONS => {
                        tasks.spawn(self.clone().converse(stream, Door::Tcp));
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
                Some(_) = tasks.join_next() => {}
                () = self.turn.over() => break,
            }
        }
        drop(listener);
        while tasks.join_next().await.is_some() {}
    }

    /// Serves the private socket, likewise.
    pub async fn serve_socket(self, listener: Arc<UnixListener>) {
        self.turn.begun().await;
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if tasks.len() < CONNECTIONS => {
                        tasks.spawn(self.clone().converse_privately(stream));
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
                Some(_) = tasks.join_next() => {}
                () = self.turn.over() => break,
            }
        }
        drop(listener);
        while tasks.join_next().await.is_some() {}
    }

    async fn converse(self, mut stream: impl AsyncRead + AsyncWrite + Unpin, door: Door) {
        let exchange = async {
            let Some(asked) = read_head(&mut stream).await else { return };
            let answer = self.answer(door, &asked.method, &asked.target, &asked.headers).await;
            respond(&mut stream, &asked, &answer).await;
        };
        // A client that is slower than this learns nothing.
        let _ = timeout(REQUEST, exchange).await;
    }

    async fn converse_privately(self, mut stream: UnixStream) {
        let Ok(Some(asked)) = timeout(REQUEST, read_head(&mut stream)).await else { return };
        if let Some(giver) = self.giver.as_ref().filter(|_| asked.method == "POST" && asked.target == takeover::PATH) {
            // It lasts as long as there is something to say.
            if let Err(((status, why), mut stream)) = giver.give(stream, asked.header("upgrade")).await {
                let _ = timeout(REQUEST, respond(&mut stream, &asked, &Answer::text(status, why + "\n"))).await;
            }
            return;
        }
        let exchange = async {
            let answer = self.answer(Door::Socket, &asked.method, &asked.target, &asked.headers).await;
            respond(&mut stream, &asked, &answer).await;
        };
        let _ = timeout(REQUEST, exchange).await;
    }

    async fn answer(&self, door: Door, method: &str, target: &str, headers: &[(String, Vec<u8>)]) -> Answer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let read = matches!(method, "GET" | "HEAD");
        match (door, path) {
            (_, "/live") if read => Answer::text(200, "live\n"),
            (_, "/ready") if read => match (*self.ready.borrow(), self.drain.begun()) {
                (true, false) => Answer::text(200, "ready\n"),
                (_, true) => Answer::text(503, "draining\n"),
                (false, false) => Answer::text(503, "not ready: no certificate or no inbound configuration yet\n"),
            },
            (_, "/metrics") if read => {
                let accept = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("accept"));
                let accept: Vec<_> = accept.filter_map(|(_, value)| std::str::from_utf8(value).ok()).collect();
                let format = Format::accepted(&accept.join(","));
                let body = self.telemetry.render_as(format, self.directory.snapshot().clusters());
                Answer { status: 200, kind: format.content_type(), body }
            }
            (_, "/live" | "/ready" | "/metrics") => Answer::text(405, "only GET and HEAD\n"),
            (Door::Tcp, path) if read && path.starts_with("/app-probe/") => {
                let name = path.trim_start_matches("/app-probe/");
                let Some(probe) = self.probes.iter().find(|probe| probe.name == name) else {
                    return Answer::text(404, "there is no such probe\n");
                };
                match probe.ask(headers).await {
                    Ok(said) => Answer::text(200, said + "\n"),
                    Err((status, why)) => Answer::text(status, why + "\n"),
                }
            }
            (Door::Tcp, _) => Answer::text(404, "this port has /ready, /live and /metrics\n"),
            (Door::Socket, "/config_dump") if read => match self.dump().await {
                Some(dump) => Answer::json(&dump),
                None => Answer::text(503, "discovery does not answer\n"),
            },
            (Door::Socket, "/stats") if read => Answer::json(&self.stats()),
            (Door::Socket, "/certificate") if read => self.certificate(),
            (Door::Socket, "/process") if read => Answer::json(&json!({
                "pid": std::process::id(),
                "version": env!("CARGO_PKG_VERSION"),
                "relieved": self.relieved.shown(),
            })),
            (Door::Socket, "/log") if method == "PUT" => match parameter(query, "filter") {
                Some(filter) => match (self.set_log)(&filter) {
                    Ok(()) => Answer::text(200, format!("log filter is {filter}\n")),
                    Err(error) => Answer::text(400, format!("{error}\n")),
                },
                None => Answer::text(400, "say PUT /log?filter=info,weft_proxy=debug\n"),
            },
            (Door::Socket, "/drain") if method == "POST" => match parameter(query, "phase").as_deref() {
                None | Some("inbound") => {
                    self.drain.begin();
                    Answer::text(202, "draining\n")
                }
                Some("outbound") => {
                    self.drain.application_gone();
                    Answer::text(202, "the application is gone; closing\n")
                }
                Some(_) => Answer::text(400, "phase is inbound or outbound\n"),
            },
            (Door::Socket, _) => Answer::text(
                404,
                "GET /config_dump, GET /stats, PUT /log?filter=, POST /drain[?phase=outbound], GET /certificate, GET /process\n",
            ),
        }
    }

    async fn dump(&self) -> Option<Value> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.dumps.send(reply).await.ok()?;
            answer.await.ok()
        };
        timeout(Duration::from_secs(5), asked).await.ok().flatten()
    }

    fn stats(&self) -> Value {
        stats(&self.directory.snapshot(), &self.drain, *self.ready.borrow(), std::time::Instant::now())
    }

    fn certificate(&self) -> Answer {
        let Some(live) = self.identity.get() else { return Answer::text(404, "this sidecar has no certificate\n") };
        let current = live.current();
        let chain: Vec<_> = current.svid.chain().iter().map(|c| CertificateInfo::of(c).ok()).collect();
        let left = current.svid.not_after().duration_since(SystemTime::now()).unwrap_or_default();
        Answer::json(&json!({
            "id": live.id().to_string(),
            "expiresInSeconds": left.as_secs(),
            "generation": live.generation(),
            "chain": chain,
            "pem": current.svid.chain_pem(),
            "trustDomains": current.bundles.iter().map(|b| json!({
                "trustDomain": b.trust_domain().to_string(),
                "roots": b.roots().iter().map(|r| CertificateInfo::of(r).ok()).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
        }))
    }
}

/// A request, as far as it matters.
struct Asked {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
}

impl Asked {
    /// A header field's value; empty where there is none.
    fn header(&self, name: &str) -> &str {
        let field = self.headers.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        field.and_then(|(_, value)| std::str::from_utf8(value).ok()).unwrap_or_default()
    }
}

async fn respond(stream: &mut (impl AsyncWrite + Unpin), asked: &Asked, answer: &Answer) {
    let reason = http::StatusCode::from_u16(answer.status).ok().and_then(|s| s.canonical_reason()).unwrap_or("");
    let head = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        answer.status,
        answer.kind,
        answer.body.len()
    );
    let body = if asked.method == "HEAD" { "" } else { &answer.body };
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// What is asked for; `None` for what is no request, too long, or gone.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<Asked> {
    let mut buffer = Vec::with_capacity(1024);
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        if request.parse(&buffer).ok()?.is_complete() {
            let headers = request.headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec()));
            return Some(Asked {
                method: request.method?.to_owned(),
                target: request.path?.to_owned(),
                headers: headers.collect(),
            });
        }
        if buffer.len() >= HEAD || stream.read_buf(&mut buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// A parameter of a query, percent-decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    let raw = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |b: Option<u8>| (b? as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
                digit(rest.next())? * 16 + digit(rest.next())?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Publisher;

    fn admin() -> (Admin, watch::Sender<bool>, Drain) {
        let (directory, _, _) = Publisher::new();
        let (ready, watched) = watch::channel(false);
        let drain = Drain::new();
        let admin = Admin {
            ready: watched,
            telemetry: Arc::new(Telemetry::quiet()),
            directory,
            drain: drain.clone(),
            dumps: mpsc::channel(1).0,
            identity: Arc::default(),
            set_log: Arc::new(|filter| if filter == "info,a=debug" { Ok(()) } else { Err("no filter".into()) }),
            probes: Arc::default(),
            turn: Turn::now(),
            giver: None,
            relieved: Relieved::default(),
        };
        (admin, ready, drain)
    }

    async fn ask(admin: &Admin, door: Door, request: &str) -> String {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        client.write_all(request.as_bytes()).await.unwrap();
        admin.clone().converse(server, door).await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_port_has_three_pages_and_nothing_else() {
        let (admin, ready, drain) = admin();
        assert!(ask(&admin, Door::Tcp, "GET /live HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        assert!(ask(&admin, Door::Tcp, "GET /ready HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 503"));
        ready.send_replace(true);
        assert!(ask(&admin, Door::Tcp, "GET /ready HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        assert!(ask(&admin, Door::Tcp, "GET /metrics HTTP/1.1\r\n\r\n").await.contains("version=0.0.4"));
        for path in ["/config_dump", "/drain", "/log", "/stats", "/certificate", "/"] {
            for method in ["GET", "POST", "PUT"] {
                let answer = ask(&admin, Door::Tcp, &format!("{method} {path} HTTP/1.1\r\n\r\n")).await;
                assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
            }
        }
        assert!(!drain.begun());
        drain.begin();
        assert!(ask(&admin, Door::Tcp, "GET /ready HTTP/1.1\r\n\r\n").await.contains("draining"));
    }

    #[tokio::test]
    async fn the_socket_drains_and_sets_the_log() {
        let (admin, _ready, drain) = admin();
        let answer = ask(&admin, Door::Socket, "PUT /log?filter=info%2Ca%3Ddebug HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let answer = ask(&admin, Door::Socket, "PUT /log?filter=%zz HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(ask(&admin, Door::Socket, "POST /drain HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 202"));
        assert!(drain.begun());
    }

    #[tokio::test]
    async fn what_is_no_request_gets_no_answer_and_does_not_grow() {
        let (admin, _ready, _drain) = admin();
        assert_eq!(ask(&admin, Door::Tcp, "\0\0\0\r\n\r\n").await, "");
        let endless = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(HEAD));
        assert_eq!(ask(&admin, Door::Tcp, &endless).await, "");
    }
}
