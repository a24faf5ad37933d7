//! A control plane as `weft up` runs it, in a process of its own over a store on disk that was filled beforehand; and its administrator.

use crate::shop::{self, Size};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use weft_certs::ca::Credential;
use weft_certs::ca::Vault;
use weft_certs::tls::{self, ALPN_GRPC, ClientConfigs};
use weft_certs::{Identity, LiveIdentity, SpiffeId};
use weft_control::identity::Authority;
use weft_control::store::{Embedded, Expect, Key, Options, Store as _, Write};
use weft_control::up::{self, Endpoints, Settings};

/// No wait is longer.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// Objects in one transaction of the store.
const BATCH: usize = 2000;

/// The other side of [`Plane`]: runs the control plane until standard input ends, and answers how much is on its heap.
pub fn serve(directory: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let settings = Settings {
        data_dir: directory.to_owned(),
        grpc: SocketAddr::from(([127, 0, 0, 1], 0)),
        api: SocketAddr::from(([127, 0, 0, 1], 0)),
        // Most of the endpoints are only written down: nothing of them is lost when no stream of theirs is there.
        stream_grace: Duration::from_secs(3600),
        start_grace: Duration::from_secs(3600),
        ..Settings::default()
    };
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let questions = std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines() {
            println!("{}", crate::memory::live());
        }
        stop.cancel();
    });
    runtime.block_on(up::run_until(settings, shutdown, |_| println!("up"))).expect("a control plane");
    questions.join().expect("an end of the questions");
}

/// A control plane with a world in it. Dropping it ends the process.
pub struct Plane {
    pub endpoints: Endpoints,
    directory: tempfile::TempDir,
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    started: Instant,
}

impl Plane {
    /// Fills a store and starts a control plane over it.
    pub async fn start(size: Option<Size>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        weft_certs::files::private_dir(&data).expect("a data directory");
        if let Some(size) = size {
            fill(&data.join("weft.redb"), size).await;
        }
        let started = Instant::now();
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args([Path::new("serve"), &data])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a control plane");
        let questions = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().expect("its answers"));
        let mut line = String::new();
        answers.read_line(&mut line).expect("its first word");
        assert_eq!(line.trim(), "up", "the control plane did not start");
        let text = std::fs::read(data.join("endpoints.json")).expect("endpoints.json");
        let endpoints = serde_json::from_slice(&text).expect("its endpoints");
        Self { endpoints, directory, child, questions, answers, started }
    }

    /// Since the process was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Bytes on its heap.
    pub fn heap(&mut self) -> f64 {
        let questions = self.questions.as_mut().expect("it runs");
        questions.write_all(b"heap\n").expect("a question");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        line.trim().parse().expect("a number")
    }

    /// Resident bytes of the process.
    pub fn resident(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).expect("/proc");
        let pages: f64 = text.split(' ').nth(1).and_then(|p| p.parse().ok()).expect("statm");
        pages * 4096.0
    }

    /// Seconds of CPU that it has used, in user space and in the kernel, to a hundredth: of all threads, ended ones included.
    pub fn cpu(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("/proc");
        // The second field is a name in parentheses; of those behind it, utime and stime are the twelfth and the thirteenth (proc_pid_stat(5)).
        let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
        assert_eq!(ticks.len(), 2, "no CPU time in {text:?}");
        // Whatever the kernel's own clock, it shows a hundred of them a second (USER_HZ).
        ticks.iter().sum::<f64>() / 100.0
    }

    /// The same to a nanosecond, for a moment: threads that end take theirs along.
    pub fn cpu_of_threads(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let of = |path: PathBuf| {
            let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or_default()
        };
        tasks.into_iter().flatten().flatten().map(|t| of(t.path())).sum::<f64>() / 1e9
    }

    /// How sidecars of a service account connect to it: each connection is its own, they share the certificate.
    pub fn sidecars(&self, namespace: &str) -> (SocketAddr, Arc<rustls::ClientConfig>) {
        const ALPN: &[&[u8]] = &[ALPN_GRPC];
        let domain = self.endpoints.trust_domain.parse().expect("a trust domain");
        let authority =
            Authority::open(&self.data().join("identity"), &Vault::default(), &domain).expect("the mesh CA");
        let id = SpiffeId::workload(&domain, namespace, "default").expect("an identity");
        let svid = authority.ca().issue(&id, None, SystemTime::now()).expect("a certificate");
        let configs = ClientConfigs::new(LiveIdentity::new(Identity::new(svid, authority.ca().bundle())));
        let address = self.endpoints.grpc.parse().expect("an address");
        (address, configs.to_control_plane(ALPN).expect("a client configuration"))
    }

    /// An administrator with a connection to the API.
    pub async fn administrator(&self) -> Administrator {
        use rustls_pki_types::pem::PemObject as _;
        let text = std::fs::read(self.data().join("kubeconfig")).expect("a kubeconfig");
        let config: Value = serde_json::from_slice(&text).expect("JSON");
        let pem = |pointer: &str| {
            let text = config.pointer(pointer).and_then(Value::as_str).expect("a kubeconfig with certificates");
            String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).expect("base64")).expect("PEM")
        };
        let ca = pem("/clusters/0/cluster/certificate-authority-data");
        let ca = rustls_pki_types::CertificateDer::from_pem_slice(ca.as_bytes()).expect("a certificate");
        let (chain, key) = (pem("/users/0/user/client-certificate-data"), pem("/users/0/user/client-key-data"));
        let credential = Credential::from_pem("kubeconfig", &chain, &key).expect("a credential");
        let config = tls::api_client_config([&ca], Some(&credential), &[b"http/1.1"]).expect("TLS");
        let host = self.endpoints.api.strip_prefix("https://").expect("https").to_owned();
        let tcp = TcpStream::connect(&host).await.expect("the API");
        tcp.set_nodelay(true).expect("nodelay");
        let name = "127.0.0.1".try_into().expect("a name");
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.expect("TLS");
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        let driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        Administrator { host, sender, _driver: driver }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        drop(self.questions.take());
        drop(self.child.wait());
    }
}

/// Somebody who edits objects.
pub struct Administrator {
    host: String,
    sender: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl Administrator {
    /// A merge patch of an object; returns when the API has answered.
    pub async fn patch(&mut self, path: &str, patch: &Value) {
        let request = http::Request::patch(path)
            .header("host", &self.host)
            .header("content-type", "application/merge-patch+json")
            .body(Full::new(Bytes::from(patch.to_string())))
            .expect("a request");
        self.sender.ready().await.expect("a connection");
        let response = self.sender.send_request(request).await.expect("an answer");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        assert!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
    }
}

/// Writes every object as the API would have.
async fn fill(path: &Path, size: Size) {
    let store = Embedded::open(path, Options::default()).expect("a store");
    let write = |document: Value| {
        let text = |name: &str| document[name].as_str().unwrap_or_default();
        let kind = weft_control::kinds::find_kind(text("apiVersion"), text("kind"));
        let meta = |name: &str| document["metadata"][name].as_str().unwrap_or_default();
        let key = Key::new(kind.expect("a known kind").resource(), meta("namespace"), meta("name"));
        Write { key, expect: Expect::Absent, value: Some(Bytes::from(document.to_string())) }
    };
    let mut writes: Vec<Write> = shop::documents(size).into_iter().map(write).collect();
    while !writes.is_empty() {
        let rest = writes.split_off(writes.len().min(BATCH));
        store.transact(std::mem::replace(&mut writes, rest)).await.expect("a transaction");
    }
}
