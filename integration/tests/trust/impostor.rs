//! A workload that poses as the control plane: it has a good SVID of the mesh, and shows the root with it, and sidecars refuse it before
//! they say anything. The same server with the control plane's own name is believed, so it is the name that counts.

use crate::peer::{Peer, Token, block};
use crate::stage::DOMAIN;
use crate::tokens::is_ready;
use rustix::process::Signal;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use weft_certs::tls::{ALPN_GRPC, ClientAuth, server_config};
use weft_certs::{Identity, LiveIdentity, MeshCa, Svid, TrustBundle};
use weft_integration::rig::{Mesh, Process, binary, wait_for};
use weft_proto::type_url;

/// What one connection brought: the failure of its handshake, or the bytes that followed it.
type Visit = Result<Vec<u8>, String>;

/// A TLS server that notes what comes, on a thread of its own.
struct Server {
    address: std::net::SocketAddr,
    visits: Arc<Mutex<Vec<Visit>>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(tls: Arc<ServerConfig>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let visits = Arc::<Mutex<Vec<Visit>>>::default();
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let notes = Arc::clone(&visits);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    tokio::select! {
                        accepted = listener.accept() => {
                            let (tls, notes) = (TlsAcceptor::from(Arc::clone(&tls)), Arc::clone(&notes));
                            // Ends with the runtime.
                            drop(tokio::spawn(async move { notes_visit(tls, accepted.unwrap().0, &notes).await }));
                        }
                        _ = &mut stopped => return,
                    }
                }
            });
        });
        Self { address, visits, stop: Some(stop), thread: Some(thread) }
    }

    fn visits(&self) -> Vec<Visit> {
        self.visits.lock().unwrap().clone()
    }
}

async fn notes_visit(tls: TlsAcceptor, stream: tokio::net::TcpStream, notes: &Mutex<Vec<Visit>>) {
    let mut stream = match tls.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            let reason = weft_certs::Error::from_handshake(&error).to_string();
            notes.lock().unwrap().push(Err(reason));
            return;
        }
    };
    let mut bytes = Vec::new();
    // What a client says without being answered; it ends when it says no more.
    let mut part = [0; 4096];
    while let Ok(Ok(n @ 1..)) = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut part)).await {
        bytes.extend(&part[..n]);
        if bytes.windows(TOKEN.len()).any(|w| w == TOKEN) {
            break;
        }
    }
    notes.lock().unwrap().push(Ok(bytes));
}

const TOKEN: &[u8] = b"weft-join.";

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A server that presents `svid` and asks for nothing.
fn presenting(svid: Svid, roots: &[weft_certs::CertificateDer<'static>]) -> Server {
    let bundle = TrustBundle::from_der(DOMAIN.parse().unwrap(), roots.iter().map(|r| r.to_vec())).unwrap();
    let live = LiveIdentity::new(Identity::new(svid, bundle));
    Server::start(server_config(&live, ClientAuth::Optional, &[ALPN_GRPC]).unwrap())
}

/// `weft-proxy` as the workload `name` of cart.
fn sidecar(mesh: &Mesh, name: &str, log: &str, control: std::net::SocketAddr, token: Option<&Path>) -> Process {
    let mut command = Command::new(binary("weft-proxy"));
    command.args(["--namespace", "shop", "--name", name, "--service-account", "cart", "--service", "cart"]);
    command.args(["--outbound", "127.0.0.1:0", "--tunnel", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.arg("--control-plane").arg(control.to_string());
    command.arg("--state-dir").arg(mesh.folder().join(format!("{name}-state")));
    if let Some(token) = token {
        command.arg("--join-token-file").arg(token);
    }
    Process::start(mesh.folder(), log, &mut command)
}

/// The mesh, a server with cart's SVID and the root behind it, and a good token of cart in a file.
fn scene() -> (Mesh, Server, Token, std::path::PathBuf) {
    let mesh = Mesh::start();
    mesh.apply(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: Service\n\
         metadata: {name: cart, namespace: shop}\nspec: {ports: [{name: http, port: 8080}]}\n",
    )
    .ok();
    let impostor = block(Peer::join(&mesh, "cart"));
    let chain = impostor.chain.iter().chain(&impostor.roots).cloned().collect();
    let server = presenting(Svid::new(chain, &impostor.key).unwrap(), &impostor.roots);
    let token = Token::create(&mesh, "cart", &[]);
    let file = mesh.folder().join("token");
    std::fs::write(&file, &token.0).unwrap();
    (mesh, server, token, file)
}

const WHY: [&str; 3] = ["peer is spiffe://weft.local/ns/shop/sa/cart", "weft-system/sa/weft-control", "was expected"];

/// Waits until the sidecar came to the server and said in its log why it left.
#[track_caller]
fn refuses(server: &Server, process: &Process) {
    wait_for("the sidecar says whom it met and whom it wanted", || {
        let log = process.log();
        let line = log.lines().find(|line| WHY.iter().all(|word| line.contains(word)));
        line.map(|line| eprintln!("{line}")).ok_or(log.clone())
    });
    let visits = wait_for("the impostor notes the visit", || {
        Some(server.visits()).filter(|v| !v.is_empty()).ok_or(String::new())
    });
    for visit in visits {
        let reason = visit.expect_err("no sidecar finishes a handshake with an impostor");
        assert!(reason.contains("peer refused this side's certificate") || reason.contains("closed"), "{reason}");
    }
}

#[test]
fn a_joining_sidecar_refuses_a_workload_that_poses_as_the_control_plane() {
    let (mesh, impostor, token, file) = scene();
    let mut process = sidecar(&mesh, "joining", "joining", impostor.address, Some(&file));
    refuses(&impostor, &process);
    assert!(!is_ready(&mesh, "joining"));
    assert!(!process.log().contains(&token.field("secret")), "{}", process.log());
    process.signal(Signal::KILL);
    process.wait();
    // The same server under the control plane's own name gets the token at once: it was the name.
    let now = SystemTime::now();
    let ca = MeshCa::open(&mesh.data().join("identity"), &DOMAIN.parse().unwrap(), now).unwrap();
    let own = presenting(ca.issue_control_plane(now).unwrap(), ca.bundle().roots());
    let _believer = sidecar(&mesh, "believer", "believer", own.address, Some(&file));
    wait_for("the token is sent to the control plane's own name", || {
        let visits = own.visits();
        let sent = visits.iter().flatten().any(|bytes| bytes.windows(TOKEN.len()).any(|w| w == TOKEN));
        if sent { Ok(()) } else { Err(format!("{visits:?}")) }
    });
}

#[test]
fn a_sidecar_that_has_joined_refuses_it_as_well_and_goes_on_with_what_it_has() {
    let (mesh, impostor, _, file) = scene();
    let mut process = sidecar(&mesh, "settled", "settled-1", mesh.grpc(), Some(&file));
    wait_for("the sidecar is ready", || if is_ready(&mesh, "settled") { Ok(()) } else { Err(process.log()) });
    let kept = mesh.folder().join("settled-state/last-known-good");
    wait_for("what it knows is on disk", || {
        let content = std::fs::read(&kept).map_err(|e| e.to_string())?;
        let inbound = content.windows(type_url::INBOUND.len()).any(|w| w == type_url::INBOUND.as_bytes());
        if inbound { Ok(()) } else { Err("no Inbound in it".to_owned()) }
    });
    process.signal(Signal::KILL);
    process.wait();
    let ready = mesh.folder().join("settled-state/ready.json");
    let _ = std::fs::remove_file(ready);
    let process = sidecar(&mesh, "settled", "settled-2", impostor.address, None);
    refuses(&impostor, &process);
    wait_for("last-known-good serves", || if is_ready(&mesh, "settled") { Ok(()) } else { Err(process.log()) });
}

#[test]
fn a_sidecar_refuses_a_control_plane_of_another_root() {
    let (mesh, _, _, file) = scene();
    let now = SystemTime::now();
    let other = MeshCa::ephemeral(&DOMAIN.parse().unwrap(), now).unwrap();
    let server = presenting(other.issue_control_plane(now).unwrap(), other.bundle().roots());
    let process = sidecar(&mesh, "elsewhere", "elsewhere", server.address, Some(&file));
    wait_for("the sidecar says that the pin does not fit", || {
        let log = process.log();
        let line = log.lines().find(|line| line.contains("holds none with the pinned root key"));
        line.map(|line| eprintln!("{line}")).ok_or(log.clone())
    });
    assert!(server.visits().iter().all(Result::is_err), "{:?}", server.visits());
    assert!(!is_ready(&mesh, "elsewhere"));
}
