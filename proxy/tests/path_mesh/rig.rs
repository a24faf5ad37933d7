//! A mesh in a test: an authority, sidecars made of the same parts that the binary wires together, and small servers and clients.

use bytes::Bytes;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use weft_certs::tls::ClientConfigs;
use weft_certs::{Identity, LiveIdentity, MeshCa, SpiffeId, TrustDomain};
use weft_policy::limit::Bulkhead;
use weft_proto::v1;
use weft_proxy::codec::Limits;
use weft_proxy::discovery::file::FileSource;
use weft_proxy::discovery::{Directory, Publisher};
use weft_proxy::drain::{Drain, Side};
use weft_proxy::endpoint::connect::{self, Connector};
use weft_proxy::exchange::Exchange;
use weft_proxy::inbound::{self, Inbound, Ports};
use weft_proxy::listen::{self, Gate};
use weft_proxy::outbound::{self, Outbound};
use weft_proxy::telemetry::access_log::{Options, Output};
use weft_proxy::telemetry::{Direction, Telemetry};

/// How long anything may take in these tests.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// An authority and a directory for files.
pub struct Mesh {
    ca: MeshCa,
    domain: TrustDomain,
    dir: tempfile::TempDir,
    sidecars: AtomicUsize,
    /// Validity of certificates; `None`: the default.
    pub leaf: Option<Duration>,
    /// What outlives its certificates has this long.
    pub grace: Duration,
    /// Of the sidecars.
    live: parking_lot::Mutex<Vec<Arc<LiveIdentity>>>,
}

impl Mesh {
    pub fn new() -> Self {
        let domain: TrustDomain = "weft.local".parse().unwrap();
        let ca = MeshCa::ephemeral(&domain, SystemTime::now()).unwrap();
        let (dir, sidecars) = (tempfile::tempdir().unwrap(), AtomicUsize::new(0));
        Self { ca, domain, dir, sidecars, leaf: None, grace: Duration::from_secs(3600), live: Default::default() }
    }

    pub fn id(&self, account: &str) -> String {
        SpiffeId::workload(&self.domain, "shop", account).unwrap().to_string()
    }

    pub fn identity(&self, account: &str) -> Arc<LiveIdentity> {
        let id = SpiffeId::workload(&self.domain, "shop", account).unwrap();
        let svid = self.ca.issue(&id, self.leaf, SystemTime::now()).unwrap();
        LiveIdentity::new(Identity::new(svid, self.ca.bundle()))
    }

    /// Gives every sidecar a new certificate.
    pub fn renew(&self) {
        for live in self.live.lock().iter() {
            live.replace_svid(self.ca.issue(live.id(), self.leaf, SystemTime::now()).unwrap()).unwrap();
        }
    }

    /// Starts a sidecar beside a workload of `shop`.
    pub async fn sidecar(&self, account: &str, resources: v1::Resources) -> Sidecar {
        self.sidecar_with(account, resources, None, &[]).await
    }

    /// A sidecar to which each of these destinations was redirected, in the order of `Sidecar::redirected`.
    pub async fn intercepting(&self, account: &str, resources: v1::Resources, to: &[SocketAddr]) -> Sidecar {
        let mut sidecar = self.sidecar(account, resources).await;
        for to in to {
            let (address, mut listeners) =
                listen::bind(SocketAddr::from(([127, 0, 0, 1], 0)), listen::Binding::one()).unwrap();
            let listener = TcpListener::from_std(listeners.remove(0)).unwrap();
            let (gate, outbound, to) = (sidecar.gate.clone(), Arc::clone(&sidecar.outbound_side), *to);
            sidecar.tasks.spawn(async move {
                gate.serve(listener, None, |a| Arc::clone(&outbound).transparent(a, Some(to))).await;
            });
            sidecar.redirected.push(address);
        }
        sidecar
    }

    pub async fn sidecar_with(
        &self,
        account: &str,
        mut resources: v1::Resources,
        credentials: Option<outbound::Credentials>,
        named: &[(&str, u16)],
    ) -> Sidecar {
        if resources.settings.is_none() {
            resources.settings = Some(v1::MeshSettings {
                trust_domain: "weft.local".into(),
                domain: "cluster.local".into(),
                ..Default::default()
            });
        }
        let n = self.sidecars.fetch_add(1, SeqCst);
        let path = self.dir.path().join(format!("{account}-{n}.json"));
        let log = self.dir.path().join(format!("{account}-{n}.log"));
        write(&path, &resources);
        let (directory, publisher, _asks) = Publisher::new();
        let (_dumps, requests) = tokio::sync::mpsc::channel(1);
        let source = FileSource::open(&path, publisher, requests).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let bind = || {
            let (address, mut listeners) = listen::bind(any, listen::Binding::one()).unwrap();
            (address, TcpListener::from_std(listeners.remove(0)).unwrap())
        };
        let (outbound_at, explicit) = bind();
        let (tunnel_at, tunnel) = bind();
        let (plain_at, plain) = bind();
        let own = vec![outbound_at, tunnel_at, plain_at];
        let telemetry = Arc::new(Telemetry::new(&Options::all(Output::File(log.clone()))).unwrap());
        let drain = Drain::new();
        let identity = self.identity(account);
        self.live.lock().push(Arc::clone(&identity));
        let connector = connector(
            connect::Settings {
                source: format!("shop/{account}"),
                limits: Limits::default(),
                mark: None,
                own: own.clone(),
                handshakes: Some(telemetry.handshakes.clone()),
                grace: self.grace,
                ..connect::Settings::default()
            },
            &identity,
        );
        let exchange = Arc::new(Exchange {
            connector,
            directory: directory.clone(),
            address: None,
            telemetry: Arc::clone(&telemetry),
            source: format!("shop/{account}").into(),
            identity: identity.id().as_str().into(),
            outbound_limit: Arc::new(Bulkhead::new(65_536)),
            inbound_limit: Arc::new(Bulkhead::new(65_536)),
            timers: weft_proxy::codec::Timers::default(),
            quiet: weft_proxy::codec::Timers::default(),
        });
        let outbound = Outbound::new(
            Arc::clone(&exchange),
            outbound::Settings { credentials, own: own.clone(), ..Default::default() },
            drain.leave(Side::Outbound),
        );
        let inbound = Inbound::new(
            exchange,
            Ports::new(),
            Some(&identity),
            inbound::Settings { own, grace: self.grace, ..Default::default() },
            drain.leave(Side::Inbound),
        )
        .unwrap();
        let gate = |direction, kind| Gate {
            direction,
            kind,
            permits: Arc::new(Semaphore::new(4096)),
            drain: drain.clone(),
            telemetry: Arc::clone(&telemetry),
        };
        let transparent = gate(Direction::Outbound, "transparent");
        let mut tasks = JoinSet::new();
        tasks.spawn(source.follow());
        let (g, o) = (gate(Direction::Outbound, "explicit"), Arc::clone(&outbound));
        tasks.spawn(async move { g.serve(explicit, None, |a| Arc::clone(&o).explicit(a)).await });
        let mut named_at = Vec::new();
        for (host, port) in named {
            let (address, listener) = bind();
            named_at.push(address);
            let (g, o, host, port) =
                (gate(Direction::Outbound, "named"), Arc::clone(&outbound), Arc::<str>::from(*host), *port);
            tasks.spawn(async move { g.serve(listener, None, |a| Arc::clone(&o).named(a, host.clone(), port)).await });
        }
        let (g, i) = (gate(Direction::Inbound, "tunnel"), Arc::clone(&inbound));
        tasks.spawn(async move { g.serve(tunnel, None, |a| Arc::clone(&i).tunnel(a)).await });
        let g = gate(Direction::Inbound, "plaintext");
        tasks.spawn(async move { g.serve(plain, None, |a| Arc::clone(&inbound).plaintext(a)).await });
        Sidecar {
            outbound: outbound_at,
            tunnel: tunnel_at,
            plain: plain_at,
            named: named_at,
            telemetry,
            directory,
            path,
            log,
            redirected: Vec::new(),
            gate: transparent,
            outbound_side: outbound,
            tasks,
            _dumps,
        }
    }
}

fn connector(settings: connect::Settings, identity: &Arc<LiveIdentity>) -> Connector {
    Connector::new(settings, Some(Arc::new(ClientConfigs::new(Arc::clone(identity)))))
}

fn write(path: &std::path::Path, resources: &v1::Resources) {
    let value = weft_proto::json::serialize("weft.v1.Resources", resources, serde_json::value::Serializer).unwrap();
    let next = path.with_extension("next");
    std::fs::write(&next, value.to_string()).unwrap();
    std::fs::rename(next, path).unwrap();
}

/// A running sidecar; dropping it ends it.
pub struct Sidecar {
    pub outbound: SocketAddr,
    pub tunnel: SocketAddr,
    pub plain: SocketAddr,
    pub named: Vec<SocketAddr>,
    pub telemetry: Arc<Telemetry>,
    pub directory: Directory,
    path: PathBuf,
    log: PathBuf,
    pub redirected: Vec<SocketAddr>,
    gate: Gate,
    outbound_side: Arc<Outbound>,
    tasks: JoinSet<()>,
    _dumps: tokio::sync::mpsc::Sender<weft_proxy::discovery::DumpRequest>,
}

impl Sidecar {
    /// Replaces its resources and waits until they are in force.
    pub async fn update(&self, mut resources: v1::Resources) {
        if resources.settings.is_none() {
            resources.settings = Some(v1::MeshSettings {
                trust_domain: "weft.local".into(),
                domain: "cluster.local".into(),
                ..Default::default()
            });
        }
        let mut changes = self.directory.changes();
        changes.borrow_and_update();
        write(&self.path, &resources);
        tokio::time::timeout(PATIENCE, changes.changed()).await.unwrap().unwrap();
    }

    pub fn metrics(&self) -> String {
        self.telemetry.render(self.directory.snapshot().clusters())
    }

    /// Sum of the samples of a metric whose line contains every one of `parts`.
    pub fn count(&self, name: &str, parts: &[&str]) -> f64 {
        let text = self.metrics();
        let lines = text.lines().filter(|l| l.starts_with(name) && parts.iter().all(|p| l.contains(p)));
        lines.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// The lines of its access log that contain `part`, once there is one.
    pub async fn logged(&self, part: &str) -> Vec<serde_json::Value> {
        eventually(|| {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let found: Vec<_> =
                text.lines().filter(|l| l.contains(part)).map(|l| serde_json::from_str(l).unwrap()).collect();
            (!found.is_empty()).then_some(found)
        })
        .await
    }
}

/// Waits until `probe` gives something.
pub async fn eventually<T>(mut probe: impl FnMut() -> Option<T>) -> T {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(tokio::time::Instant::now() < until, "it never happened");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// `shop/<name>` at port 80 with these endpoints and this edit.
pub fn service(name: &str, protocol: v1::Protocol, edit: impl FnOnce(&mut v1::ServicePort)) -> v1::Service {
    let mut port = v1::ServicePort {
        port: 80,
        protocol: protocol.into(),
        backend: Some(v1::Backend { slices: vec![format!("shop/{name}:80/a")], ..Default::default() }),
        ..Default::default()
    };
    edit(&mut port);
    v1::Service { name: format!("shop/{name}"), hostnames: vec![name.into()], ports: vec![port], ..Default::default() }
}

pub fn slice(name: &str, endpoints: Vec<v1::Endpoint>) -> v1::Endpoints {
    v1::Endpoints { name: format!("shop/{name}:80/a"), endpoints }
}

/// An endpoint without a sidecar.
pub fn bare(uid: &str, at: SocketAddr) -> v1::Endpoint {
    v1::Endpoint {
        uid: format!("shop/{uid}"),
        address: at.ip().to_string(),
        port: at.port().into(),
        health: v1::Health::Ready.into(),
        weight: 1,
        ..Default::default()
    }
}

/// An endpoint behind a sidecar.
pub fn meshed(uid: &str, at: SocketAddr, tunnel: SocketAddr, identity: String) -> v1::Endpoint {
    v1::Endpoint { tunnel: tunnel.to_string(), identity, server_name: server_name(at), ..bare(uid, at) }
}

fn server_name(at: SocketAddr) -> String {
    format!("{}.orders.shop.svc.cluster.local", at.port())
}

/// What the sidecar of an application at `at` enforces.
pub fn inbound(
    mesh: &Mesh,
    account: &str,
    at: SocketAddr,
    protocol: v1::Protocol,
    edit: impl FnOnce(&mut v1::InboundPort),
) -> v1::Resources {
    let mut port = v1::InboundPort {
        port: at.port().into(),
        authorities: vec![at.to_string()],
        server_names: vec![server_name(at)],
        local: at.to_string(),
        protocol: protocol.into(),
        service: format!("shop/{account}"),
        ..Default::default()
    };
    edit(&mut port);
    v1::Resources {
        inbound: Some(v1::Inbound {
            workload: format!("shop/{account}-1"),
            identity: mesh.id(account),
            ports: vec![port],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A pair of sidecars with one application behind the second: `orders` at port 80, of that protocol.
pub struct Pair {
    pub mesh: Mesh,
    pub client: Sidecar,
    pub server: Sidecar,
}

pub async fn pair(app: SocketAddr, protocol: v1::Protocol) -> Pair {
    pair_with(app, protocol, |_| {}).await
}

pub async fn pair_with(app: SocketAddr, protocol: v1::Protocol, edit: impl FnOnce(&mut v1::ServicePort)) -> Pair {
    pair_in(Mesh::new(), app, protocol, edit).await
}

pub async fn pair_in(
    mesh: Mesh,
    app: SocketAddr,
    protocol: v1::Protocol,
    edit: impl FnOnce(&mut v1::ServicePort),
) -> Pair {
    let server = mesh.sidecar("orders", inbound(&mesh, "orders", app, protocol, |_| {})).await;
    let endpoint = meshed("orders-1", app, server.tunnel, mesh.id("orders"));
    let resources = v1::Resources {
        services: vec![service("orders", protocol, edit)],
        endpoints: vec![slice("orders", vec![endpoint])],
        ..Default::default()
    };
    let client = mesh.sidecar_with("storefront", resources, None, &[("orders", 80)]).await;
    Pair { mesh, client, server }
}

/// A request as an HTTP/1 server of these tests reads it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The head without its final empty line, as it came.
    pub head: String,
    pub body: Vec<u8>,
}

pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// An HTTP/1.1 server with keep-alive that answers by a function from requests to raw responses.
pub struct Server {
    pub at: SocketAddr,
    pub calls: Arc<AtomicUsize>,
    pub connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub async fn start<F, R>(answer: F) -> Self
    where
        F: Fn(Seen) -> R + Send + Sync + 'static,
        R: Future<Output = Vec<u8>> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (calls, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, accepted, answer) = (Arc::clone(&calls), Arc::clone(&connections), Arc::new(answer));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, SeqCst);
                let (counted, answer) = (Arc::clone(&counted), Arc::clone(&answer));
                open.spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while let Some(head) = read_head(&mut stream).await {
                        counted.fetch_add(1, SeqCst);
                        let Some(body) = read_body(&mut stream, &head, true).await else { return };
                        let response = answer(Seen { head, body }).await;
                        if response.is_empty() || stream.write_all(&response).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { at, calls, connections, _tasks: tasks }
    }

    /// Always the same answer.
    pub async fn always(response: &'static str) -> Self {
        Self::start(move |_| async move { response.as_bytes().to_vec() }).await
    }

    pub fn count(&self) -> usize {
        self.calls.load(SeqCst)
    }
}

/// Any server: runs `serve` for each connection.
pub async fn raw_server<F, R>(serve: F) -> (SocketAddr, JoinSet<()>)
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.spawn(serve(stream));
        }
    });
    (at, tasks)
}

/// The head of a message, without its final empty line; `None` at the end of the connection.
pub async fn read_head<S: tokio::io::AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<String> {
    let mut head = Vec::new();
    loop {
        let from = head.len();
        if stream.read_until(b'\n', &mut head).await.ok()? == 0 {
            return None;
        }
        if &head[from..] == b"\r\n" {
            head.truncate(from.saturating_sub(2));
            return String::from_utf8(head).ok();
        }
    }
}

pub async fn read_body<S: tokio::io::AsyncRead + Unpin>(
    stream: &mut BufReader<S>,
    head: &str,
    request: bool,
) -> Option<Vec<u8>> {
    if header(head, "transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.ok()?;
            let size = usize::from_str_radix(line.trim().split(';').next()?, 16).ok()?;
            if size == 0 {
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.ok()?;
                    if line.trim().is_empty() {
                        return Some(body);
                    }
                }
            }
            let from = body.len();
            body.resize(from + size, 0);
            stream.read_exact(&mut body[from..]).await.ok()?;
            stream.read_exact(&mut [0; 2]).await.ok()?;
        }
    }
    if let Some(length) = header(head, "content-length") {
        let mut body = vec![0; length.parse().ok()?];
        stream.read_exact(&mut body).await.ok()?;
        return Some(body);
    }
    let mut body = Vec::new();
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !request && !status.starts_with('1') && status != "204" && status != "304" {
        stream.read_to_end(&mut body).await.ok()?;
    }
    Some(body)
}

/// A response as an HTTP/1 client of these tests reads it.
#[derive(Debug)]
pub struct Answer {
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap_or_default().parse().unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

/// A client's keep-alive connection.
pub struct Client(pub BufReader<TcpStream>);

impl Client {
    pub async fn connect(to: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(to).await.unwrap()))
    }

    /// Sends `request` as it is and reads one response.
    pub async fn send(&mut self, request: &str) -> Answer {
        self.0.write_all(request.as_bytes()).await.unwrap();
        self.read().await
    }

    pub async fn read(&mut self) -> Answer {
        tokio::time::timeout(PATIENCE, async {
            let head = read_head(&mut self.0).await.expect("a response");
            let body = read_body(&mut self.0, &head, false).await.expect("a body");
            Answer { head, body: String::from_utf8_lossy(&body).into_owned() }
        })
        .await
        .expect("a response in time")
    }

    pub async fn get(&mut self, url: &str) -> Answer {
        let host = url.trim_start_matches("http://").split('/').next().unwrap();
        self.send(&format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
    }

    pub async fn post(&mut self, url: &str, body: &str) -> Answer {
        let host = url.trim_start_matches("http://").split('/').next().unwrap();
        let length = body.len();
        self.send(&format!("POST {url} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}")).await
    }
}

/// A CONNECT through an explicit listener; the bytes inside.
pub async fn connect_through(proxy: SocketAddr, to: &str) -> (Answer, TcpStream) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("in time").expect("an answer");
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap().trim_end().to_owned();
    let mut body = Vec::new();
    if let Some(length) = header(&head, "content-length").filter(|_| !head.contains(" 200 ")) {
        body.resize(length.parse().unwrap(), 0);
        stream.read_exact(&mut body).await.unwrap();
    }
    (Answer { head, body: String::from_utf8_lossy(&body).into_owned() }, stream)
}

/// `HTTP/1.1 200 OK` with that body.
pub fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A relay that keeps what it carried.
pub async fn relay(to: SocketAddr) -> (SocketAddr, Arc<parking_lot::Mutex<Vec<u8>>>, JoinSet<()>) {
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let (at, tasks) = raw_server(move |near| {
        let kept = Arc::clone(&kept);
        async move {
            let Ok(far) = TcpStream::connect(to).await else { return };
            let ((mut nr, mut nw), (mut fr, mut fw)) = (near.into_split(), far.into_split());
            let one = pump(&mut nr, &mut fw, &kept);
            let other = pump(&mut fr, &mut nw, &kept);
            tokio::join!(one, other);
        }
    })
    .await;
    (at, seen, tasks)
}

async fn pump<R, W>(from: &mut R, to: &mut W, kept: &parking_lot::Mutex<Vec<u8>>)
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        kept.lock().extend_from_slice(&buffer[..n]);
        if to.write_all(&buffer[..n]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// An h2 client over any bytes.
pub async fn h2_over<S>(stream: S) -> (h2::client::SendRequest<Bytes>, JoinSet<()>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _ = connection.await;
    });
    (send.ready().await.unwrap(), tasks)
}
