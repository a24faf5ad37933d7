//! A whole fleet against one control plane, each side on a core of its own: thousands of sidecars, each with a connection, an xDS stream,
//! a control stream with reports, and twenty services drawn from a graph in which some are called by many. Endpoints come and go all the
//! while; then a policy changes, one sidecar hardly reads, and all of them connect anew at once.

use crate::plane::{DEADLINE, Plane};
use crate::report::{Report, Rounds, count, figure};
use crate::sessions::{acknowledged, ask, slices};
use crate::shop::Size;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_proto::discovery::DeltaDiscoveryResponse;
use weft_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::v1::control_client::ControlClient;
use weft_proto::{Resource as _, type_url, v1};

/// Services that each sidecar uses.
const USES: usize = 20;
/// Streams that are being opened at the same time while the fleet grows.
const OPENING: usize = 128;
/// Endpoints that change in a second.
const CHANGES: u32 = 10;
/// How often a sidecar with calls reports, unless the control plane wants another pace.
const REPORT: Duration = Duration::from_secs(2);
/// How often it sends summaries of its calls, by which plans are made.
const SUMMARY: Duration = Duration::from_secs(5);
/// What an endpoint that was changed weighs; all others weigh 1.
const CHANGED: u32 = 7;

/// The services that a sidecar uses. Low numbers are drawn more often: a quarter of all uses go to a sixteenth of the services.
fn uses(size: Size, sidecar: usize) -> BTreeSet<usize> {
    let mut state = sidecar as u64 + 1;
    let mut found = BTreeSet::new();
    while found.len() < USES.min(size.services) {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let uniform = ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
        found.insert(((uniform * uniform) * size.services as f64) as usize);
    }
    found
}

/// What a sidecar tells the one who measures.
enum Said {
    /// It holds everything that it asked for, in this life of its.
    Ready(usize),
    /// It was sent an endpoint that has changed, or a policy.
    Told(String, Instant),
}

/// What all sidecars share.
struct World {
    size: Size,
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    said: mpsc::UnboundedSender<Said>,
    received: AtomicU64,
    /// A new number: all connections end, and begin anew.
    life: watch::Receiver<usize>,
}

/// One sidecar, over all of its connections.
struct Sidecar {
    world: Arc<World>,
    number: usize,
    /// Versions of what it holds, by type and name: a stream that begins anew goes on where the last one was.
    held: BTreeMap<&'static str, BTreeMap<String, String>>,
    told: BTreeSet<String>,
}

fn typed(url: &str) -> Option<&'static str> {
    [type_url::MESH_SETTINGS, type_url::TRUST_BUNDLE, type_url::INBOUND, type_url::SERVICE, type_url::ENDPOINTS]
        .into_iter()
        .find(|known| *known == url)
}

impl Sidecar {
    async fn run(mut self) {
        let mut life = self.world.life.clone();
        loop {
            let number = *life.borrow_and_update();
            tokio::select! {
                () = self.live(number) => tokio::time::sleep(Duration::from_millis(50)).await,
                _ = life.changed() => {}
            }
        }
    }

    fn uid(&self) -> String {
        let size = self.world.size;
        size.workload(self.number % size.services, self.number / size.services % size.endpoints)
    }

    async fn live(&mut self, life: usize) {
        let world = self.world.clone();
        let channel = connect(&world, None);
        let (requests, messages) = mpsc::channel(64);
        let host = |i: usize| format!("host:item-{i}.{}", world.size.namespace(i));
        let first = [
            (type_url::MESH_SETTINGS, vec!["mesh".to_owned()]),
            (type_url::TRUST_BUNDLE, vec!["weft.local".to_owned()]),
            (type_url::INBOUND, vec![self.uid()]),
            (type_url::SERVICE, uses(world.size, self.number).into_iter().map(host).collect()),
        ];
        for (url, names) in first {
            let mut request = ask(url, names);
            request.initial_resource_versions = self.held.get(url).cloned().unwrap_or_default();
            drop(requests.send(request).await);
        }
        let resumed = self.held.get(type_url::ENDPOINTS).cloned().unwrap_or_default();
        let mut waits = if resumed.is_empty() { USES } else { 0 };
        if !resumed.is_empty() {
            let mut request = ask(type_url::ENDPOINTS, resumed.keys().cloned().collect());
            request.initial_resource_versions = resumed;
            drop(requests.send(request).await);
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
        let Ok(opened) = client.delta_aggregated_resources(ReceiverStream::new(messages)).await else { return };
        let mut responses = opened.into_inner();
        let Some(reports) = reporting(channel, self.uid(), self.number, &world).await else { return };
        tokio::pin!(reports);
        if waits == 0 {
            drop(world.said.send(Said::Ready(life)));
        }
        loop {
            let response = tokio::select! {
                response = responses.message() => response,
                () = &mut reports => return,
            };
            let Ok(Some(response)) = response else { return };
            let now = Instant::now();
            if requests.send(acknowledged(&response)).await.is_err() {
                return;
            }
            let new = self.take(&response, now);
            if response.type_url == type_url::SERVICE {
                let wanted: Vec<String> = slices(&response).into_iter().filter(|s| !self.holds(s)).collect();
                if !wanted.is_empty() && requests.send(ask(type_url::ENDPOINTS, wanted)).await.is_err() {
                    return;
                }
            }
            if response.type_url == type_url::ENDPOINTS && waits > 0 {
                waits = waits.saturating_sub(new);
                if waits == 0 {
                    drop(world.said.send(Said::Ready(life)));
                }
            }
        }
    }

    fn holds(&self, slice: &str) -> bool {
        self.held.get(type_url::ENDPOINTS).is_some_and(|held| held.contains_key(slice))
    }

    /// Keeps what came; returns how much of it is new to it.
    fn take(&mut self, response: &DeltaDiscoveryResponse, now: Instant) -> usize {
        let Some(url) = typed(&response.type_url) else { return 0 };
        let mut new = 0;
        for resource in &response.resources {
            let before = self.held.entry(url).or_default().insert(resource.name.clone(), resource.version.clone());
            new += usize::from(before.is_none());
            if before.is_some() && url == type_url::SERVICE {
                drop(self.world.said.send(Said::Told(resource.name.clone(), now)));
            }
            if url != type_url::ENDPOINTS {
                continue;
            }
            let Some(slice) = resource.resource.as_ref().and_then(|any| v1::Endpoints::from_any(any).ok()) else {
                continue;
            };
            for endpoint in slice.endpoints.into_iter().filter(|e| e.weight == CHANGED) {
                if self.told.insert(endpoint.uid.clone()) {
                    drop(self.world.said.send(Said::Told(endpoint.uid, now)));
                }
            }
        }
        new
    }
}

/// A connection that counts what it reads; with `slowly`, it reads one byte in this time.
fn connect(world: &Arc<World>, slowly: Option<Duration>) -> Channel {
    let world = world.clone();
    Endpoint::from_static("http://control").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let world = world.clone();
        let slowly = slowly.map(|each| Slowly { each, handshake: HANDSHAKE, pause: None });
        async move {
            let tcp = TcpStream::connect(world.address).await?;
            tcp.set_nodelay(true)?;
            let counted = Counted { tcp, world: world.clone(), slowly };
            let connector = tokio_rustls::TlsConnector::from(world.config.clone());
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(weft_certs::tls::unnamed(), counted).await?))
        }
    }))
}

struct Counted {
    tcp: TcpStream,
    world: Arc<World>,
    slowly: Option<Slowly>,
}

/// A pace at which somebody reads single bytes, once the handshake is over.
struct Slowly {
    each: Duration,
    /// Bytes that are still taken at the usual pace.
    handshake: usize,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// Bytes of a handshake and of the beginnings of HTTP/2, about.
const HANDSHAKE: usize = 6000;

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let Some(slowly) = this.slowly.as_mut().filter(|slowly| slowly.handshake == 0) else {
            let read = Pin::new(&mut this.tcp).poll_read(cx, buf);
            let taken = buf.filled().len() - before;
            this.world.received.fetch_add(taken as u64, Ordering::Relaxed);
            if let Some(slowly) = &mut this.slowly {
                slowly.handshake = slowly.handshake.saturating_sub(taken);
            }
            return read;
        };
        if let Some(waiting) = &mut slowly.pause {
            std::task::ready!(waiting.as_mut().poll(cx));
            slowly.pause = None;
        }
        let mut one = [0_u8; 1];
        let mut room = ReadBuf::new(&mut one);
        std::task::ready!(Pin::new(&mut this.tcp).poll_read(cx, &mut room))?;
        buf.put_slice(room.filled());
        slowly.pause = Some(Box::pin(tokio::time::sleep(slowly.each)));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// The control stream beside it: a greeting, readiness, then reports of the calls to each service that it uses, as a busy sidecar sends
/// them. Ends when the stream does.
async fn reporting(
    channel: Channel,
    uid: String,
    number: usize,
    world: &Arc<World>,
) -> Option<impl Future<Output = ()> + use<>> {
    let say = |message| v1::ControlUp { message: Some(message) };
    let (up, messages) = mpsc::channel(4);
    let hello = v1::control_up::Message::Hello(v1::Hello { workload: uid.clone(), version: "bench".into() });
    up.send(say(hello)).await.ok()?;
    let ready = v1::control_up::Message::Readiness(v1::Readiness { ready: true, ..Default::default() });
    up.send(say(ready)).await.ok()?;
    let mut client = ControlClient::new(channel);
    let mut commands = client.stream(ReceiverStream::new(messages)).await.ok()?.into_inner();
    let size = world.size;
    let calls = uses(size, number).into_iter().zip(1..).map(|(i, series)| v1::CallStats {
        series,
        direction: v1::Direction::Outbound.into(),
        source: uid.clone(),
        destination: size.service(i),
        endpoint: size.workload(i, number % size.endpoints),
        route: "default".into(),
        calls: 10,
        failures: u64::from(number.is_multiple_of(50)),
        attempts: 10,
        mtls: 10,
        latency_buckets: vec![0, 0, 1, 2, 4, 2, 1],
        bytes_sent: 4000,
        bytes_received: 9000,
        ..Default::default()
    });
    let mut report = v1::Report { interval_ms: 2000, calls: calls.collect(), breakers: Vec::new() };
    let summary = summary(&uid, number, size);
    Some(async move {
        // Not all at the same time.
        let offset = REPORT.mul_f64((number % 997) as f64 / 997.0);
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + offset, REPORT);
        let mut summed = tokio::time::Instant::now();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if summed.elapsed() >= SUMMARY {
                        summed = tokio::time::Instant::now();
                        let message = v1::control_up::Message::Traffic(summary.clone());
                        if up.send(v1::ControlUp { message: Some(message) }).await.is_err() {
                            return;
                        }
                    }
                    let message = v1::control_up::Message::Report(report.clone());
                    if up.send(v1::ControlUp { message: Some(message) }).await.is_err() {
                        return;
                    }
                    // What was named once has a number from then on.
                    for calls in &mut report.calls {
                        for name in [&mut calls.source, &mut calls.destination, &mut calls.endpoint, &mut calls.route] {
                            name.clear();
                        }
                    }
                }
                command = commands.message() => match command {
                    Ok(Some(v1::ControlDown { message: Some(v1::control_down::Message::Pace(pace)) })) => {
                        // As a sidecar does.
                        let pace = Duration::from_millis(pace.report_ms.into());
                        let offset = pace.mul_f64((number % 997) as f64 / 997.0);
                        ticks = tokio::time::interval_at(tokio::time::Instant::now() + offset, pace);
                    }
                    Ok(Some(_)) => {}
                    _ => return,
                },
            }
        }
    })
}

/// Its calls in summary: of each service a list and a single thing, by their path's template.
fn summary(uid: &str, number: usize, size: Size) -> v1::TrafficReport {
    let namespace = uid.split('/').next().unwrap_or_default();
    let series = uses(size, number).into_iter().flat_map(|i| {
        ["/items", "/items/{number}"].map(|path| v1::TrafficSeries {
            direction: v1::Direction::Outbound.into(),
            source: size.service(number % size.services),
            source_identity: format!("spiffe://weft.local/ns/{namespace}/sa/default"),
            destination: size.service(i),
            port: 80,
            protocol: "http1".into(),
            method: "GET".into(),
            authority: format!("item-{i}.{}", size.namespace(i)),
            path: path.into(),
            calls: 10,
            first_ms: 4900,
            last_ms: 100,
            ..Default::default()
        })
    });
    v1::TrafficReport { series: series.collect(), overflow: Vec::new() }
}

/// The fleet, and what is known of it.
struct Fleet {
    world: Arc<World>,
    plane: Plane,
    life: watch::Sender<usize>,
    said: mpsc::UnboundedReceiver<Said>,
    tasks: JoinSet<()>,
    /// How many sidecars use each service.
    users: Vec<usize>,
    /// The next endpoint that changes.
    next: usize,
}

/// Changes under way: since when, how many must still hear of it, and when the last one did.
#[derive(Default)]
struct Changes {
    open: HashMap<String, (Instant, usize)>,
    milliseconds: Rounds,
    deliveries: usize,
}

impl Changes {
    fn told(&mut self, what: &str, at: Instant) {
        self.deliveries += 1;
        if let Some((since, left)) = self.open.get_mut(what) {
            *left -= 1;
            if *left == 0 {
                self.milliseconds.0.push(at.saturating_duration_since(*since).as_secs_f64() * 1e3);
                self.open.remove(what);
            }
        }
    }
}

impl Fleet {
    async fn start(size: Size, sidecars: usize) -> Self {
        // What is started inherits it: the control plane has the first core, its sidecars the second.
        pin(0);
        let plane = Plane::start(Some(size)).await;
        pin(1);
        let (address, config) = plane.sidecars(&size.namespace(0));
        let (say, said) = mpsc::unbounded_channel();
        let (life, lives) = watch::channel(0);
        let world = World { size, address, config, said: say, received: AtomicU64::new(0), life: lives };
        let mut users = vec![0; size.services];
        for service in (0..sidecars).flat_map(|n| uses(size, n)) {
            users[service] += 1;
        }
        Self { world: Arc::new(world), plane, life, said, tasks: JoinSet::new(), users, next: 0 }
    }

    async fn grow(&mut self, to: usize) {
        while self.tasks.len() < to {
            let more = OPENING.min(to - self.tasks.len());
            for _ in 0..more {
                let number = self.tasks.len();
                let sidecar =
                    Sidecar { world: self.world.clone(), number, held: BTreeMap::new(), told: BTreeSet::new() };
                self.tasks.spawn(sidecar.run());
            }
            self.ready(more, &mut Changes::default()).await;
        }
    }

    /// Waits for so many to have everything.
    async fn ready(&mut self, mut many: usize, changes: &mut Changes) {
        let life = *self.life.borrow();
        while many > 0 {
            match tokio::time::timeout(DEADLINE, self.said.recv()).await.expect("a sidecar in time") {
                Some(Said::Ready(of)) if of == life => many -= 1,
                Some(Said::Told(what, at)) => changes.told(&what, at),
                _ => {}
            }
        }
    }

    /// Changes endpoints at the pace of the bench for a while, each another one, of services that somebody uses.
    async fn churn(&mut self, lasting: Duration) -> Changes {
        let mut administrator = self.plane.administrator().await;
        let mut changes = Changes::default();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / CHANGES);
        let end = Instant::now() + lasting;
        while Instant::now() < end {
            tokio::select! {
                _ = ticks.tick() => {
                    let uid = self.begin(&mut changes);
                    let (namespace, name) = uid.split_once('/').expect("namespace/name");
                    let path = format!("/apis/weft.mesh/v1alpha1/namespaces/{namespace}/workloads/{name}");
                    administrator.patch(&path, &json!({"spec": {"weight": CHANGED}})).await;
                }
                said = self.said.recv() => if let Some(Said::Told(what, at)) = said { changes.told(&what, at) },
            }
        }
        self.settle(&mut changes).await;
        changes
    }

    fn begin(&mut self, changes: &mut Changes) -> String {
        let size = self.world.size;
        loop {
            // Strides over all services, and within one over its endpoints.
            let (service, endpoint) = (self.next * 7919 % size.services, self.next / size.services % size.endpoints);
            self.next += 1;
            if self.users[service] > 0 {
                let uid = size.workload(service, endpoint);
                changes.open.insert(uid.clone(), (Instant::now(), self.users[service]));
                return uid;
            }
        }
    }

    /// Waits until everybody has heard of everything.
    async fn settle(&mut self, changes: &mut Changes) {
        while !changes.open.is_empty() {
            let said = tokio::time::timeout(DEADLINE, self.said.recv()).await;
            let Ok(said) = said else { panic!("changes that somebody never heard of: {:?}", changes.open) };
            if let Some(Said::Told(what, at)) = said {
                changes.told(&what, at);
            }
        }
    }
}

/// The sizes of the issue at hand, each in a control plane of its own.
pub fn run(report: &mut Report, quick: bool) {
    let whole = |services, endpoints| Size { services, in_namespace: services, endpoints };
    let sizes: &[(Size, usize)] =
        if quick { &[(whole(200, 20), 200)] } else { &[(whole(1_000, 20), 2_000), (whole(10_000, 10), 5_000)] };
    weft_control::up::raise_descriptors();
    let mut found = Vec::new();
    for (size, sidecars) in sizes {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        found.push(runtime.block_on(measure(report, *size, *sidecars, quick)));
    }
    report.value("fleet", Value::Array(found));
}

/// From now on this thread, and what it starts, runs on one core; where there is but one, on that.
fn pin(core: usize) {
    use rustix::thread::{CpuSet, sched_setaffinity};
    // As many as there were before the first call.
    static CORES: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
    let mut set = CpuSet::new();
    set.set(core.min(*CORES - 1));
    sched_setaffinity(None, &set).expect("a core");
}

async fn measure(report: &mut Report, size: Size, sidecars: usize, quick: bool) -> Value {
    let endpoints = size.services * size.endpoints;
    report.section(&format!(
        "{} sidecars, {} services, {} endpoints; each sidecar uses {USES}",
        count(sidecars),
        count(size.services),
        count(endpoints)
    ));
    let lasting = Duration::from_secs(if quick { 5 } else { 30 });
    let mut fleet = Fleet::start(size, sidecars).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let memory =
        |plane: &mut Plane| format!("{}; {}", figure(plane.resident() / 1048576.0), figure(plane.heap() / 1048576.0));
    let alone = memory(&mut fleet.plane);
    let (used, began) = (fleet.plane.cpu(), Instant::now());
    fleet.grow(sidecars).await;
    let mut rows = Vec::new();
    let mut row = |what: &str, value: String| {
        eprintln!("{what}: {value}");
        rows.push(vec![what.to_owned(), value]);
    };
    row("memory before anybody joins, MiB: resident; on the heap", alone);
    let joined = (began.elapsed().as_secs_f64(), fleet.plane.cpu() - used);
    row("all joined one after another: seconds; CPU seconds", format!("{}; {}", figure(joined.0), figure(joined.1)));
    tokio::time::sleep(Duration::from_secs(3)).await;
    row("memory with all of them, MiB: resident; on the heap", memory(&mut fleet.plane));

    let share = |used: f64, began: Instant| used / began.elapsed().as_secs_f64() * 100.0;
    let (used, began) = (fleet.plane.cpu(), Instant::now());
    tokio::time::sleep(lasting / 2).await;
    let quiet = share(fleet.plane.cpu() - used, began);
    row("nothing changes, reports come: CPU, % of a core", figure(quiet));

    let (used, began) = (fleet.plane.cpu(), Instant::now());
    let received = fleet.world.received.load(Ordering::Relaxed);
    let steady = fleet.churn(lasting).await;
    let busy = share(fleet.plane.cpu() - used, began);
    let sent = (fleet.world.received.load(Ordering::Relaxed) - received) as f64 / began.elapsed().as_secs_f64();
    let resident = fleet.plane.resident() / 1048576.0;
    row(&format!("{CHANGES} endpoints a second change: CPU, % of a core"), figure(busy));
    row("memory, MiB: resident; on the heap", memory(&mut fleet.plane));
    row("sent, KiB a second", figure(sent / 1024.0));
    let way = |changes: &Changes| {
        format!("{}; {}", figure(changes.milliseconds.at(0.5)), figure(changes.milliseconds.at(0.99)))
    };
    row("from the write to the last acknowledgement, ms: median; 99th percentile", way(&steady));
    row(
        "changes; sidecars told of each, on average",
        format!(
            "{}; {}",
            count(steady.milliseconds.0.len()),
            figure(steady.deliveries as f64 / steady.milliseconds.0.len() as f64)
        ),
    );

    let policy = policy(&mut fleet).await;
    row(
        "a policy changes: sidecars that use the service; told; CPU, ms",
        format!("{}; {}; {}", policy.0, policy.1, figure(policy.2)),
    );

    let slow = tokio::spawn(hardly_reads(fleet.world.clone()));
    let before = fleet.plane.resident();
    let beside = fleet.churn(lasting).await;
    let grown = (fleet.plane.resident() - before) / 1024.0;
    slow.abort();
    row("beside a sidecar that reads a byte a second, ms: median; 99th percentile", way(&beside));
    row("memory that it cost, KiB", figure(grown));

    // Changed while nobody is there to hear of it.
    let mut changes = Changes::default();
    let mut administrator = fleet.plane.administrator().await;
    let (used, began) = (fleet.plane.cpu(), Instant::now());
    let life = *fleet.life.borrow() + 1;
    fleet.life.send_replace(life);
    for _ in 0..CHANGES {
        let uid = fleet.begin(&mut changes);
        let (namespace, name) = uid.split_once('/').expect("namespace/name");
        let path = format!("/apis/weft.mesh/v1alpha1/namespaces/{namespace}/workloads/{name}");
        administrator.patch(&path, &json!({"spec": {"weight": CHANGED}})).await;
    }
    fleet.ready(sidecars, &mut changes).await;
    fleet.settle(&mut changes).await;
    let again = (began.elapsed().as_secs_f64(), fleet.plane.cpu() - used);
    row(
        "all connect anew at once, and miss nothing: seconds; CPU seconds",
        format!("{}; {}", figure(again.0), figure(again.1)),
    );
    row("resident memory at the end, MiB", figure(fleet.plane.resident() / 1048576.0));
    report.table(&["", "this run"], &rows);
    json!({
        "sidecars": sidecars, "services": size.services, "endpoints": endpoints, "quietCpuPercent": quiet,
        "busyCpuPercent": busy, "residentMiB": resident, "sentBytesPerSecond": sent,
        "changeMs": steady.milliseconds.json(), "besideSlowMs": beside.milliseconds.json(), "slowKiB": grown,
        "reconnectSeconds": again.0, "reconnectCpuSeconds": again.1,
        "policy": {"users": policy.0, "told": policy.1, "cpuMs": policy.2},
    })
}

/// A traffic policy of a service that few use changes: who uses it, who was told, and what it took.
async fn policy(fleet: &mut Fleet) -> (usize, usize, f64) {
    let size = fleet.world.size;
    let of = (0..size.services).rev().find(|i| size.has_policy(*i) && fleet.users[*i] > 0).expect("a policy");
    let path = format!("/apis/weft.mesh/v1alpha1/namespaces/{}/trafficpolicies/item-{of}", size.namespace(of));
    let mut administrator = fleet.plane.administrator().await;
    // What else is under way must not count.
    tokio::time::sleep(Duration::from_secs(2)).await;
    while fleet.said.try_recv().is_ok() {}
    let used = fleet.plane.cpu_of_threads();
    administrator.patch(&path, &json!({"spec": {"timeouts": {"request": "7s"}}})).await;
    let mut told = BTreeMap::new();
    let until = tokio::time::Instant::now() + Duration::from_secs(2);
    while let Ok(Some(said)) = tokio::time::timeout_at(until, fleet.said.recv()).await {
        if let Said::Told(what, _) = said {
            *told.entry(what).or_insert(0_usize) += 1;
        }
    }
    (fleet.users[of], told.values().sum(), (fleet.plane.cpu_of_threads() - used) * 1e3)
}

/// A sidecar that asks for more than others and takes a byte a second of it.
async fn hardly_reads(world: Arc<World>) {
    let channel = connect(&world, Some(Duration::from_secs(1)));
    let (requests, messages) = mpsc::channel(64);
    let host = |i: usize| format!("host:item-{i}.{}", world.size.namespace(i));
    drop(requests.send(ask(type_url::SERVICE, (0..100.min(world.size.services)).map(host).collect())).await);
    drop(
        requests
            .send(ask(type_url::ENDPOINTS, (0..100).map(|i| format!("{}:80/0", world.size.service(i))).collect()))
            .await,
    );
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    if let Ok(opened) = client.delta_aggregated_resources(ReceiverStream::new(messages)).await {
        let mut responses = opened.into_inner();
        while let Ok(Some(_)) = responses.message().await {}
    }
}
