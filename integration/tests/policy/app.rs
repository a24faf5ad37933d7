//! Applications that the tests play themselves: each listens on a port of its own, answers as its script says, and counts what reaches it.
//! All of them live on one thread. Whether a request is a health check or a call is told by who sends it.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};
use weft_integration::rig::{DEADLINE, wait_for};

/// A request as a script sees it.
pub struct Asked<'r> {
    /// Path, without the query.
    pub path: &'r str,
    /// Value of `Host`.
    pub host: &'r str,
    /// Whether it is a sidecar's health check.
    pub probe: bool,
    /// Which of its kind it is here, from 1: health checks and calls are counted apart.
    pub nth: usize,
}

/// What is answered, and when.
#[derive(Clone, Copy)]
pub struct Said {
    /// HTTP status.
    pub status: u16,
    /// gRPC status, for gRPC calls.
    pub grpc: u8,
    /// Before the answer begins.
    pub after: Duration,
    /// Waits until the application is released.
    pub held: bool,
}

/// What an application does.
pub type Script = fn(&Asked<'_>) -> Said;

/// An answer with this status, at once.
pub fn status(status: u16) -> Said {
    Said { status, grpc: 0, after: Duration::ZERO, held: false }
}

/// Does what the path asks: `/status/503`, `/grpc/8`, `/wait/100` (milliseconds), `/hold` (until it is released).
pub fn obeys(asked: &Asked<'_>) -> Said {
    let mut parts = asked.path.split('/').skip(1);
    let (verb, number) = (parts.next().unwrap_or_default(), parts.next().and_then(|part| part.parse::<u16>().ok()));
    match (verb, number) {
        ("status", Some(code)) => status(code),
        ("grpc", Some(code)) => Said { grpc: u8::try_from(code).unwrap_or(2), ..status(200) },
        ("wait", Some(millis)) => Said { after: Duration::from_millis(millis.into()), ..status(200) },
        ("hold", _) => Said { held: true, ..status(200) },
        _ => status(200),
    }
}

/// What is spoken on a port.
#[derive(Clone, Copy)]
pub enum Speaks {
    /// HTTP/1.1.
    Http(Script),
    /// gRPC, and its health service: well in general, and not well as `shop.Catalog` where `false`.
    Grpc(Script, bool),
    /// Nothing: connections are accepted and left open.
    Silence,
    /// What it hears.
    Echo,
    /// Nothing: connections are accepted and closed.
    Goodbye,
}

/// The thread that applications live on.
pub struct Apps {
    handle: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Apps {
    /// Begins it.
    pub fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || drop(runtime.block_on(ended)));
        Self { handle, end: Some(end), thread: Some(thread) }
    }

    /// An application on a port of its own.
    pub fn app(&self, name: &'static str, speaks: Speaks) -> App {
        let state = Arc::new(State { name, ..State::default() });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let serving = Arc::clone(&state);
        self.handle.spawn(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                serving.accepted.fetch_add(1, SeqCst);
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve(stream, speaks, Arc::clone(&serving)));
            }
        });
        App { port, name, state }
    }
}

impl Drop for Apps {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One application.
#[derive(Clone)]
pub struct App {
    /// Where it listens.
    pub port: u16,
    /// What its answers say in `x-app`.
    pub name: &'static str,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    name: &'static str,
    calls: Calls,
    probes: AtomicUsize,
    accepted: AtomicUsize,
    released: Released,
}

struct Released(watch::Sender<bool>);

impl Default for Released {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

/// Paths of calls, and when they came.
#[derive(Default)]
struct Calls(Mutex<Vec<(String, Instant)>>);

impl Calls {
    /// One more; how many there are.
    fn add(&self, path: &str) -> usize {
        let mut all = self.all();
        all.push((path.to_owned(), Instant::now()));
        all.len()
    }

    fn all(&self) -> MutexGuard<'_, Vec<(String, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// Calls that reached it; health checks are none.
    pub fn calls(&self) -> usize {
        self.state.calls.all().len()
    }

    /// When they did.
    pub fn times(&self) -> Vec<Instant> {
        self.state.calls.all().iter().map(|(_, at)| *at).collect()
    }

    /// When those for a path did.
    pub fn times_of(&self, path: &str) -> Vec<Instant> {
        self.state.calls.all().iter().filter(|(of, _)| of == path).map(|(_, at)| *at).collect()
    }

    /// Waits for so many calls.
    #[track_caller]
    pub fn wait_for_calls(&self, count: usize) {
        self.wait("calls", count, || self.calls());
    }

    /// Waits for so many health checks.
    #[track_caller]
    pub fn wait_for_probes(&self, count: usize) {
        self.wait("health checks", count, || self.state.probes.load(SeqCst));
    }

    /// Health checks that reached it.
    pub fn probes(&self) -> usize {
        self.state.probes.load(SeqCst)
    }

    /// Waits for so many connections.
    #[track_caller]
    pub fn wait_for_connections(&self, count: usize) {
        self.wait("connections", count, || self.state.accepted.load(SeqCst));
    }

    #[track_caller]
    fn wait(&self, what: &str, count: usize, now: impl Fn() -> usize) {
        wait_for(&format!("{count} {what} at {}", self.name), || match now() {
            there if there >= count => Ok(()),
            there => Err(format!("{there}")),
        });
    }

    /// Answers what is held, and holds nothing from now on.
    pub fn release(&self) {
        self.state.released.0.send_replace(true);
    }
}

impl State {
    fn script(&self, script: Script, path: &str, headers: &HeaderMap, host: &str) -> Said {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let probe = text("user-agent") == "weft-proxy";
        let nth = if probe { self.probes.fetch_add(1, SeqCst) + 1 } else { self.calls.add(path) };
        script(&Asked { path, host, probe, nth })
    }

    async fn perform(&self, said: Said) {
        tokio::time::sleep(said.after).await;
        if said.held {
            let mut released = self.released.0.subscribe();
            let _ = tokio::time::timeout(DEADLINE, released.wait_for(|released| *released)).await;
        }
    }
}

async fn serve(mut stream: TcpStream, speaks: Speaks, state: Arc<State>) {
    match speaks {
        Speaks::Http(script) => {
            let answer = service_fn(|request: Request<Incoming>| {
                let state = &state;
                async move {
                    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
                    let said = state.script(script, request.uri().path(), request.headers(), host);
                    state.perform(said).await;
                    let head = Response::builder().status(said.status).header("x-app", state.name);
                    Ok::<_, Infallible>(head.body(Full::new(Bytes::new())).expect("a status and a token"))
                }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        }
        Speaks::Grpc(script, catalog) => {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(grpc(request, respond, (script, catalog), Arc::clone(&state)));
            }
        }
        Speaks::Echo => {
            let mut room = [0; 1024];
            while let Ok(count @ 1..) = stream.read(&mut room).await {
                if stream.write_all(&room[..count]).await.is_err() {
                    return;
                }
            }
        }
        Speaks::Silence => {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        Speaks::Goodbye => {}
    }
}

/// One call of a gRPC application; what is no gRPC is answered like any HTTP.
async fn grpc(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    (script, catalog): (Script, bool),
    state: Arc<State>,
) -> Option<()> {
    let (head, mut body) = request.into_parts();
    if head.uri.path() == "/grpc.health.v1.Health/Check" {
        let mut asked = BytesMut::new();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            asked.extend_from_slice(&data);
        }
        state.probes.fetch_add(1, SeqCst);
        let named = asked.windows(b"shop.Catalog".len()).any(|part| part == b"shop.Catalog");
        // HealthCheckResponse.status: 1 SERVING, 2 NOT_SERVING.
        let verdict = if named && !catalog { 2 } else { 1 };
        let head = Response::builder().header("content-type", "application/grpc").body(()).ok()?;
        let mut stream = respond.send_response(head, false).ok()?;
        let mut message = BytesMut::new();
        message.put_slice(&[0, 0, 0, 0, 2, 8, verdict]);
        stream.send_data(message.freeze(), false).ok()?;
        let trailers = HeaderMap::from_iter([("grpc-status".parse().ok()?, "0".parse().ok()?)]);
        return stream.send_trailers(trailers).ok();
    }
    let said = state.script(script, head.uri.path(), &head.headers, "");
    state.perform(said).await;
    let is_grpc = head.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let mut answer = Response::builder().status(said.status).header("x-app", state.name);
    if is_grpc {
        answer = answer.header("content-type", "application/grpc").header("grpc-status", said.grpc.to_string());
    }
    respond.send_response(answer.body(()).ok()?, true).ok().map(drop)
}
