//! The root of the mesh is replaced while calls go on: nobody who calls notices, and who holds what the old root vouched for is nobody.

use crate::stage::{Caller, Instance, Load, assert_all_well, text};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime};
use tokio::io::AsyncReadExt as _;
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use weft_certs::tls::{ALPN_HBONE, ClientConfigs, unnamed};
use weft_certs::{Identity, LiveIdentity, MeshCa, SpiffeId};
use weft_integration::rig::{DEADLINE, Mesh, Run, Sidecar, program, wait_for};
use weft_integration::shop::proto::users_client::UsersClient;
use weft_integration::shop::proto::{FindRequest, User};

/// A service that says back what it hears, over plain TCP, whose application is the test.
pub fn echo(mesh: &Mesh) -> Sidecar {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let (sleep, ports) = (program("sleep"), [format!("7000:{port}:tcp")]);
    let command = [text(&sleep), "infinity"];
    mesh.run_ready(&Run { name: "echo-1", services: &["echo"], ports: &ports, command: &command, ..Run::default() })
}

/// Exchanges over one connection to `echo` until it is told to stop; gives how many there were.
fn chat(caller: &Caller, stop: &Arc<AtomicBool>, exchanges: &Arc<AtomicU64>) -> std::thread::JoinHandle<u64> {
    let ((outbound, credentials), stop, exchanges) = (caller.proxy(), Arc::clone(stop), Arc::clone(exchanges));
    std::thread::spawn(move || {
        let mut stream = TcpStream::connect(outbound).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(
            stream,
            "CONNECT echo:7000 HTTP/1.1\r\nHost: echo:7000\r\nProxy-Authorization: Basic {credentials}\r\n\r\n"
        )
        .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
        let mut count = 0_u64;
        while !stop.load(SeqCst) {
            stream.write_all(&count.to_be_bytes()).unwrap();
            let mut back = [0; 8];
            stream.read_exact(&mut back).expect("the connection lives on");
            assert_eq!(u64::from_be_bytes(back), count);
            count += 1;
            exchanges.fetch_add(1, SeqCst);
            std::thread::sleep(Duration::from_millis(2));
        }
        count
    })
}

/// One stream of messages both ways, open all the time, and single calls beside it.
fn grpc(caller: &Caller, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<(u64, u64)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let channels = runtime.block_on(async { [caller.tunnel("users:9000"), caller.tunnel("users:9000")] });
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        runtime.block_on(async {
            let [streams, calls] = channels.map(UsersClient::new);
            let stream = async {
                let mut client = streams;
                let (send, receive) = tokio::sync::mpsc::channel(1);
                let first = User { id: 0, ..User::default() };
                send.send(first).await.unwrap();
                let mut back = client.echo(ReceiverStream::new(receive)).await.unwrap().into_inner();
                let mut count = 0;
                while !stop.load(SeqCst) {
                    let message = back.next().await.expect("the stream goes on").unwrap();
                    assert_eq!(message.id, count);
                    count += 1;
                    send.send(User { id: count, ..User::default() }).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                count
            };
            let calls = async {
                let (mut client, mut count) = (calls, 0);
                while !stop.load(SeqCst) {
                    client.find(FindRequest { id: 7 }).await.unwrap();
                    count += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                count
            };
            tokio::join!(stream, calls)
        })
    })
}

/// Whether the sidecar at `tunnel` speaks with the holder of `identity` after the handshake.
fn speaks_with(tunnel: SocketAddr, identity: Identity) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = SpiffeId::workload(&"weft.local".parse().unwrap(), "shop", "catalog").unwrap();
    let tls = ClientConfigs::new(LiveIdentity::new(identity)).to_peer(&server, &[ALPN_HBONE]).unwrap();
    let dial = async {
        let stream = tokio::net::TcpStream::connect(tunnel).await.map_err(|e| e.to_string())?;
        let mut stream = TlsConnector::from(tls).connect(unnamed(), stream).await.map_err(|e| e.to_string())?;
        // In TLS 1.3 the client learns last what became of its certificate: a server that accepts it sends its SETTINGS.
        let mut first = [0; 9];
        stream.read_exact(&mut first).await.map(drop).map_err(|e| e.to_string())
    };
    runtime.block_on(async { tokio::time::timeout(DEADLINE, dial).await.expect("an answer in time") })
}

/// What somebody holds who has copied the authority at this time.
fn stolen(copy: &Path, trusting: &MeshCa) -> Identity {
    let domain = "weft.local".parse().unwrap();
    let ca = MeshCa::open(copy, &domain, SystemTime::now()).unwrap();
    let id = SpiffeId::workload(&domain, "shop", "load").unwrap();
    Identity::new(ca.issue(&id, None, SystemTime::now()).unwrap(), trusting.bundle())
}

fn identity(mesh: &Mesh) -> Value {
    serde_json::from_str(&mesh.weft(&["identity", "show", "-o", "json"]).ok()).unwrap()
}

#[test]
fn the_root_is_replaced_under_load_and_nobody_notices_but_who_relies_on_the_old_one() {
    let mesh = Mesh::start();
    let catalogs = [Instance::catalog(&mesh, "catalog-1", "v1"), Instance::catalog(&mesh, "catalog-2", "v1")];
    let _users = Instance::start(&mesh, "users", "users-1", &["users"]);
    let _echo = echo(&mesh);
    let caller = Caller::start(&mesh, "shop", "caller");
    let mut load = Load::start(&mesh, "http://catalog", 150);
    load.go_on_well(100);
    let (stop, exchanges) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (tcp, grpc) = (chat(&caller, &stop, &exchanges), grpc(&caller, &stop));
    wait_for("bytes flow", || if exchanges.load(SeqCst) > 10 { Ok(()) } else { Err("not yet".to_owned()) });

    let before = identity(&mesh);
    let old = before["signing"].as_str().unwrap().to_owned();
    let copy = mesh.folder().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in ["root.pem", "issuing.pem"] {
        std::fs::copy(mesh.data().join("identity").join(file), copy.join(file)).unwrap();
    }
    let domain = "weft.local".parse().unwrap();
    let authority = || MeshCa::open(&mesh.data().join("identity"), &domain, SystemTime::now()).unwrap();
    let tunnel = catalogs[0].sidecar.ready_file().unwrap()["tunnel"].as_str().unwrap().parse().unwrap();
    speaks_with(tunnel, stolen(&copy, &authority())).expect("the same was accepted before");

    let said = mesh.weft(&["identity", "rotate", "--timeout", "60s"]).ok();
    assert!(said.contains("1/2 publishing") && said.contains("2/2 reissuing") && said.contains("done: "), "{said}");
    load.go_on_well(300);

    let after = identity(&mesh);
    let new = after["signing"].as_str().unwrap();
    assert_ne!(new, old);
    assert_eq!((after["rotation"].is_null(), after["roots"].as_array().unwrap().len()), (true, 1), "{after:#}");
    let sidecars = after["sidecars"].as_object().unwrap();
    assert_eq!(sidecars.len(), 6, "{after:#}");
    for (name, certificate) in sidecars {
        assert_eq!(certificate["root"], new, "{name}: {after:#}");
    }
    wait_for("every sidecar trusts the new root alone", || {
        let now = identity(&mesh);
        let trusted = |c: &Value| c["trusted"].as_array().is_some_and(|all| all.len() == 1 && all[0] == new);
        if now["sidecars"].as_object().unwrap().values().all(trusted) { Ok(()) } else { Err(now.to_string()) }
    });
    let refused = speaks_with(tunnel, stolen(&copy, &authority())).expect_err("what the old root signs is refused");
    assert!(refused.contains("received fatal alert"), "{refused}");
    let own = authority();
    let id = SpiffeId::workload(&domain, "shop", "load").unwrap();
    let good = Identity::new(own.issue(&id, None, SystemTime::now()).unwrap(), own.bundle());
    speaks_with(tunnel, good).expect("what the new root signs is accepted");
    // Who comes now joins under the new root.
    assert_eq!(Caller::start(&mesh, "shop", "late").get("http://catalog/items").status, 200);

    stop.store(true, SeqCst);
    let ((streamed, called), exchanged) = (grpc.join().unwrap(), tcp.join().unwrap());
    println!("{streamed} messages, {called} calls, {exchanged} exchanges, {said}");
    assert!(streamed > 50 && called > 50 && exchanged > 100);
    assert_all_well(&load.stop());
}

#[test]
fn a_rotation_waits_for_a_sidecar_that_does_not_answer_and_can_be_broken_off() {
    let mut mesh = Mesh::start();
    let catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let caller = Caller::start(&mesh, "shop", "caller");
    assert_eq!(caller.get("http://catalog/items").status, 200);
    let old = identity(&mesh)["signing"].clone();
    // Stopped, it neither takes the new root nor leaves.
    let pid = rustix::process::Pid::from_raw(catalog.sidecar.sidecar_pid().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    mesh.weft(&["identity", "rotate", "--detach"]).ok();
    let waits = wait_for("the other sidecar has both roots", || {
        let now = identity(&mesh);
        if now["rotation"]["done"] == 1 { Ok(now) } else { Err(now.to_string()) }
    });
    assert_eq!(waits["rotation"]["stage"], "publishing");
    assert_eq!(waits["rotation"]["waitingFor"][0]["sidecar"], "shop/catalog-1", "{waits:#}");
    let shown = mesh.weft(&["identity", "show"]).ok();
    assert!(shown.contains("waiting for shop/catalog-1"), "{shown}");
    let twice = mesh.weft(&["identity", "rotate"]);
    assert!(twice.code != 0 && twice.err.contains("being rotated already"), "{twice:?}");
    // A control plane that starts anew goes on where it was.
    mesh.kill();
    mesh.up(&[]);
    assert_eq!(identity(&mesh)["rotation"]["stage"], "publishing");
    let said = mesh.weft(&["identity", "rotate", "--abort"]).ok();
    assert!(said.contains("done: one root is trusted"), "{said}");
    let after = identity(&mesh);
    assert_eq!((&after["signing"], after["roots"].as_array().unwrap().len()), (&old, 1));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    caller.until("calls go on", "http://catalog/items", |answer| answer.status == 200);
}
