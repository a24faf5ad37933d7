//! Many sidecars' streams over loopback to a control plane in another process: its memory for each, and how long a change is on its way.

use crate::plane::{DEADLINE, Plane};
use crate::report::{Report, Rounds, count, figure};
use crate::sessions::{CALLS, acknowledged, ask, slices, wanted};
use crate::shop::Size;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::v1::control_client::ControlClient;
use weft_proto::{type_url, v1};

/// Streams that are being opened at the same time.
const OPENING: usize = 64;
/// How long nothing may change before memory is read.
const REST: Duration = Duration::from_millis(1500);

/// What a sidecar tells the one who measures.
enum Said {
    /// It holds everything that it asked for.
    Ready,
    /// It was sent a newer slice of the service that all call.
    Told(Instant),
}

/// A connection of its own with an xDS stream, as a sidecar has it.
async fn sidecar(
    size: Size,
    number: usize,
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    control: bool,
    said: mpsc::UnboundedSender<Said>,
) {
    let connector = tokio_rustls::TlsConnector::from(config);
    let endpoint = Endpoint::from_static("http://control");
    let channel: Channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(weft_certs::tls::unnamed(), tcp).await?))
        }
    }));
    let (requests, messages) = mpsc::channel(64);
    let subscriptions = wanted(size, number);
    for (url, names) in subscriptions.clone() {
        requests.send(ask(url, names)).await.expect("room for a subscription");
    }
    let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
    let mut responses =
        client.delta_aggregated_resources(ReceiverStream::new(messages)).await.expect("an xDS stream").into_inner();
    let _commands = match control {
        true => Some(open_control(channel, subscriptions[2].1[0].clone()).await),
        false => None,
    };
    let common = format!("{}:80/0", size.service(0));
    let (mut services, mut endpoints) = (0, 0);
    while let Ok(Some(response)) = responses.message().await {
        let now = Instant::now();
        requests.send(acknowledged(&response)).await.expect("an acknowledgement");
        match response.type_url.as_str() {
            type_url::SERVICE if services < CALLS => {
                services += response.resources.len();
                requests.send(ask(type_url::ENDPOINTS, slices(&response))).await.expect("a subscription");
            }
            type_url::ENDPOINTS if endpoints < CALLS => {
                endpoints += response.resources.len();
                if endpoints >= CALLS {
                    drop(said.send(Said::Ready));
                }
            }
            type_url::ENDPOINTS if response.resources.iter().any(|r| r.name == common) => {
                drop(said.send(Said::Told(now)));
            }
            _ => {}
        }
    }
}

/// The control stream beside it, on the same connection.
async fn open_control(
    channel: Channel,
    uid: String,
) -> (mpsc::Sender<v1::ControlUp>, tonic::Streaming<v1::ControlDown>) {
    let say = |message| v1::ControlUp { message: Some(message) };
    let (up, messages) = mpsc::channel(4);
    let hello = v1::control_up::Message::Hello(v1::Hello { workload: uid, version: "bench".into() });
    up.send(say(hello)).await.expect("a greeting");
    let ready = v1::control_up::Message::Readiness(v1::Readiness { ready: true, ..Default::default() });
    up.send(say(ready)).await.expect("readiness");
    let mut client = ControlClient::new(channel);
    let stream = client.stream(ReceiverStream::new(messages)).await.expect("a control stream");
    (up, stream.into_inner())
}

/// The sidecars of one run.
struct Fleet {
    size: Size,
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    control: bool,
    tasks: JoinSet<()>,
    say: mpsc::UnboundedSender<Said>,
    said: mpsc::UnboundedReceiver<Said>,
}

impl Fleet {
    fn new(plane: &Plane, size: Size, control: bool) -> Self {
        let (address, config) = plane.sidecars(&size.namespace(0));
        let (say, said) = mpsc::unbounded_channel();
        Self { size, address, config, control, tasks: JoinSet::new(), say, said }
    }

    /// Connects more, until there are so many.
    async fn grow(&mut self, to: usize) {
        while self.tasks.len() < to {
            let more = OPENING.min(to - self.tasks.len());
            for _ in 0..more {
                let number = self.tasks.len();
                self.tasks.spawn(sidecar(
                    self.size,
                    number,
                    self.address,
                    self.config.clone(),
                    self.control,
                    self.say.clone(),
                ));
            }
            for _ in 0..more {
                let ready = tokio::time::timeout(DEADLINE, self.said.recv()).await.expect("a sidecar in time");
                assert!(matches!(ready, Some(Said::Ready)), "a sidecar was told of a change before there was one");
            }
        }
    }

    /// When the last of them had the next change; how many were told.
    async fn told(&mut self) -> Instant {
        let mut last = None;
        for _ in 0..self.tasks.len() {
            let said = tokio::time::timeout(DEADLINE, self.said.recv()).await.expect("a sidecar in time");
            let Some(Said::Told(at)) = said else { panic!("a sidecar began anew") };
            last = last.max(Some(at));
        }
        last.expect("at least one sidecar")
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Memory for each stream, and the time of a change to all of them.
pub fn run(report: &mut Report, size: Size, steps: &[usize], least: usize) {
    report.section(&format!("Streams of `weft up` with {} services", count(size.services)));
    let (mut rows, mut found) = (Vec::new(), Vec::new());
    let mut changes = Vec::new();
    for control in [false, true] {
        runtime().block_on(async {
            let mut plane = Plane::start(Some(size)).await;
            let mut fleet = Fleet::new(&plane, size, control);
            let mut points = Vec::new();
            for step in steps {
                let used = plane.cpu_of_threads();
                fleet.grow(*step).await;
                let joined = plane.cpu_of_threads() - used;
                tokio::time::sleep(REST).await;
                points.push((*step as f64, plane.resident(), plane.heap(), joined));
            }
            let (first, last) = (points[0], points[points.len() - 1]);
            let slope = |of: fn(&(f64, f64, f64, f64)) -> f64| (of(&last) - of(&first)) / (last.0 - first.0) / 1024.0;
            let (resident, heap) = (slope(|p| p.1), slope(|p| p.2));
            rows.push(vec![
                if control { "xDS and control stream" } else { "xDS stream" }.to_owned(),
                format!("{} → {}", count(first.0 as i64), count(last.0 as i64)),
                format!("{} → {}", figure(first.1 / 1048576.0), figure(last.1 / 1048576.0)),
                figure(resident),
                figure(heap),
            ]);
            let points: Vec<Value> = points
                .iter()
                .map(|p| json!({"streams": p.0, "residentBytes": p.1, "heapBytes": p.2, "cpuSeconds": p.3}))
                .collect();
            found.push(json!({
                "control": control, "services": size.services, "points": points, "residentKiBEach": resident,
                "heapKiBEach": heap,
            }));
            if !control {
                changes.push(fan_out(&mut plane, &mut fleet, least).await);
            }
        });
    }
    let head =
        ["each connection (mTLS) carries", "sidecars", "RSS, MiB", "KiB of RSS for each", "KiB of heap for each"];
    report.table(&head, &rows);
    report.value("streams", Value::Array(found));
    tell(report, "fanOut", &changes);
}

/// From the request that changes an endpoint to the last sidecar that has it.
async fn fan_out(plane: &mut Plane, fleet: &mut Fleet, least: usize) -> Value {
    let mut administrator = plane.administrator().await;
    let size = fleet.size;
    let path = format!("/apis/weft.mesh/v1alpha1/namespaces/{}/workloads/item-0-0", size.namespace(0));
    let (mut answered, mut told, mut cpu) = (Rounds::default(), Rounds::default(), Rounds::default());
    for round in 0..least {
        let used = plane.cpu_of_threads();
        let started = Instant::now();
        administrator.patch(&path, &json!({"spec": {"weight": 2 + round}})).await;
        answered.0.push(started.elapsed().as_secs_f64() * 1e3);
        let last = fleet.told().await;
        told.0.push(last.duration_since(started).as_secs_f64() * 1e3);
        // What follows upon the acknowledgements (statuses) is part of the price.
        tokio::time::sleep(Duration::from_millis(700)).await;
        cpu.0.push((plane.cpu_of_threads() - used) * 1e3);
    }
    json!({
        "services": size.services, "streams": fleet.tasks.len(), "apiMs": answered.json(), "lastMs": told.json(),
        "cpuMs": cpu.json(),
    })
}

fn tell(report: &mut Report, name: &str, changes: &[Value]) {
    let ms = |v: &Value| {
        format!(
            "{} ({})",
            figure(v["median"].as_f64().unwrap_or(f64::NAN)),
            figure(v["max"].as_f64().unwrap_or(f64::NAN))
        )
    };
    let row = |c: &Value| {
        let number = |n: &str| count(c[n].as_i64().unwrap_or_default());
        vec![number("services"), number("streams"), ms(&c["apiMs"]), ms(&c["lastMs"]), ms(&c["cpuMs"])]
    };
    report.text("One endpoint changes, from the request to the API on (25 ms of it are the debounce):\n");
    report.table(
        &[
            "services",
            "streams that hold it",
            "the API answers, ms (max)",
            "the last has it, ms (max)",
            "CPU of the control plane, ms (max)",
        ],
        &changes.iter().map(row).collect::<Vec<_>>(),
    );
    report.value(name, Value::Array(changes.to_vec()));
}

/// A control plane with so many services: its size, its start, and the time of a change to one sidecar.
pub fn scale(report: &mut Report, sizes: &[Option<Size>], least: usize) {
    report.section("`weft up` as it grows");
    let (mut rows, mut found, mut changes) = (Vec::new(), Vec::new(), Vec::new());
    for size in sizes {
        runtime().block_on(async {
            let mut plane = Plane::start(*size).await;
            let mut first = None;
            if let Some(size) = size {
                let mut fleet = Fleet::new(&plane, *size, false);
                fleet.grow(1).await;
                first = Some(plane.age().as_secs_f64());
                tokio::time::sleep(REST).await;
                changes.push(fan_out(&mut plane, &mut fleet, least).await);
            } else {
                tokio::time::sleep(REST).await;
            }
            let (resident, heap) = (plane.resident(), plane.heap());
            let services = size.map_or(0, |s| s.services);
            rows.push(vec![
                count(services),
                first.map_or("–".to_owned(), figure),
                figure(resident / 1048576.0),
                figure(heap / 1048576.0),
            ]);
            found.push(json!({
                "services": services, "firstSidecarSeconds": first, "residentBytes": resident, "heapBytes": heap,
            }));
        });
    }
    report.table(&["services", "start to the first sidecar served, s", "RSS, MiB", "heap, MiB"], &rows);
    report.value("scale", Value::Array(found));
    tell(report, "change", &changes);
}
