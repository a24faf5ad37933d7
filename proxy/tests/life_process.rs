//! The whole process, as its users start it: joining, serving, outliving its control plane, renewing, leaving.

#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod life_plane;

use life_plane::{Plane, eventually, service, slice};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use weft_proto::v1::control_up::Message;

/// A sidecar with its directory; killed, by its own id, when the value goes.
struct Proxy {
    child: Child,
    stdin: Option<ChildStdin>,
    state: PathBuf,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(dir: &Path, control: SocketAddr, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-proxy"));
    command
        .env_clear()
        .args(["--control-plane", &control.to_string(), "--state-dir", dir.join("state").to_str().unwrap()])
        .args(["--namespace", "shop", "--service-account", "cart", "--name", "cart-1"])
        .args(["--outbound", "127.0.0.1:0", "--tunnel", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    command
}

impl Proxy {
    fn start(dir: &Path, control: SocketAddr, token: Option<&str>, more: &[&str]) -> Self {
        let mut command = command(dir, control, more);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
        command.stderr(log);
        if let Some(token) = token {
            command.env("WEFT_JOIN_TOKEN", token);
        }
        let state = dir.join("state");
        let _ = std::fs::remove_file(state.join("ready.json"));
        let mut child = command.spawn().unwrap();
        Self { stdin: child.stdin.take(), child, state }
    }

    async fn ready(&mut self) -> serde_json::Value {
        let path = self.state.join("ready.json");
        let ports: serde_json::Value =
            eventually("ready.json", || serde_json::from_slice(&std::fs::read(&path).ok()?).ok()).await;
        let admin: SocketAddr = ports["admin"].as_str().unwrap().parse().unwrap();
        eventually("readiness", || {
            (ask(admin, "GET /ready HTTP/1.1\r\n\r\n")?.starts_with("HTTP/1.1 200")).then_some(())
        })
        .await;
        ports
    }

    /// One request over the private socket.
    fn socket(&self, request: &str) -> Option<String> {
        exchange(UnixStream::connect(self.state.join("admin.sock")).ok()?, request)
    }

    fn json(&self, path: &str) -> Option<serde_json::Value> {
        let answer = self.socket(&format!("GET {path} HTTP/1.1\r\n\r\n"))?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    async fn exited(&mut self) -> std::process::ExitStatus {
        eventually("the process ends", || self.child.try_wait().unwrap()).await
    }
}

fn exchange(mut stream: impl Read + Write, request: &str) -> Option<String> {
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn ask(address: SocketAddr, request: &str) -> Option<String> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    exchange(stream, request)
}

/// A call of the application through the explicit listener.
fn call(ports: &serde_json::Value, host: &str) -> Option<String> {
    let outbound = ports["outbound"].as_str()?.parse().ok()?;
    ask(outbound, &format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

/// An application that answers everything with "hello".
fn application() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test process.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let (mut stream, mut seen, mut buffer) = (stream, Vec::new(), [0; 1024]);
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    seen.extend_from_slice(&buffer[..n]);
                    if seen.ends_with(b"\r\n\r\n") {
                        seen.clear();
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
                    }
                }
            });
        }
    });
    address
}

fn shop(plane: &Plane) {
    plane.put_basics("shop/cart-1", "spiffe://weft.test/ns/shop/sa/cart");
    plane.put([service("shop/catalog", &[]), slice("shop/catalog", application())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_joins_and_serves_and_after_a_kill_serves_without_its_control_plane() {
    let (dir, plane) = (tempfile::tempdir().unwrap(), Plane::new());
    shop(&plane);
    let running = plane.start(None).await;
    let token = plane.token();
    let mut proxy =
        Proxy::start(dir.path(), running.address, Some(&token), &["--service", "cart", "--port", "8080:http"]);
    let ports = proxy.ready().await;
    let registered = plane.registered();
    assert_eq!(registered[0].tunnel, ports["tunnel"].as_str().unwrap());
    assert_eq!((registered[0].name.as_str(), registered[0].services.as_slice()), ("cart-1", &["cart".to_owned()][..]));
    assert_eq!(registered[0].ports[0].port, 8080);
    assert_eq!(plane.issued(), (1, 0));
    let answer = call(&ports, "catalog").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    assert!(call(&ports, "nobody").unwrap().starts_with("HTTP/1.1 421"));
    let identity = proxy.json("/certificate").unwrap();
    assert_eq!(identity["id"], "spiffe://weft.test/ns/shop/sa/cart");
    assert_eq!(proxy.json("/config_dump").unwrap()["services"][0]["state"], "active");
    eventually("a report of the calls", || {
        plane
            .ups()
            .into_iter()
            .find(|up| matches!(up, Message::Report(r) if r.calls.iter().any(|c| c.destination == "shop/catalog")))
    })
    .await;
    eventually("last-known-good", || std::fs::metadata(dir.path().join("state/last-known-good")).ok()).await;

    // No goodbye for either; and no token: the certificate on disk has to do.
    let before = Instant::now();
    proxy.signal(rustix::process::Signal::KILL);
    proxy.exited().await;
    let address = running.address;
    drop(running);
    let mut proxy = Proxy::start(dir.path(), address, None, &["--service", "cart", "--port", "8080:http"]);
    let ports = proxy.ready().await;
    let answer = call(&ports, "catalog").unwrap();
    assert!(answer.ends_with("hello"), "{answer} after {:?}", before.elapsed());

    // When it is back, the workload is registered again by its certificate.
    let _again = plane.start(Some(address)).await;
    eventually("it registers again", || (plane.registered().len() == 2).then_some(())).await;
    assert!(plane.registered()[1].join_token.is_empty());
    assert_eq!(plane.issued(), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reports_as_often_as_its_control_plane_wants_within_bounds() {
    let mut plane = Plane::new();
    shop(&plane);
    // Less than a second is a second; unasked, it would be two.
    plane.report_ms = 10;
    let (dir, running) = (tempfile::tempdir().unwrap(), plane.start(None).await);
    let token = plane.token();
    let mut proxy = Proxy::start(dir.path(), running.address, Some(&token), &[]);
    let ports = proxy.ready().await;
    eventually("a report of about a second", || {
        call(&ports, "catalog");
        plane.ups().into_iter().find(|up| matches!(up, Message::Report(r) if (900..1900).contains(&r.interval_ms)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_withdraws_then_waits_for_the_application_and_ends_well() {
    let (dir, plane) = (tempfile::tempdir().unwrap(), Plane::new());
    shop(&plane);
    let running = plane.start(None).await;
    let token = plane.token();
    let mut proxy = Proxy::start(dir.path(), running.address, Some(&token), &["--until-stdin-closes"]);
    let ports = proxy.ready().await;
    eventually("it says that it is ready", || {
        plane.ups().into_iter().find(|up| matches!(up, Message::Readiness(r) if r.ready))
    })
    .await;
    proxy.signal(rustix::process::Signal::TERM);
    eventually("it withdraws", || {
        plane.ups().into_iter().find(|up| matches!(up, Message::Readiness(r) if r.withdraw && !r.ready))
    })
    .await;
    eventually("inbound ends", || (proxy.json("/stats")?["drain"]["stage"] == "outbound").then_some(())).await;
    let admin = ports["admin"].as_str().unwrap().parse().unwrap();
    assert!(ask(admin, "GET /ready HTTP/1.1\r\n\r\n").unwrap().starts_with("HTTP/1.1 503"));
    // The application is still there, and its calls go through.
    assert!(call(&ports, "catalog").unwrap().ends_with("hello"));
    assert!(proxy.child.try_wait().unwrap().is_none());
    drop(proxy.stdin.take());
    assert!(proxy.exited().await.success());
    assert!(!proxy.state.join("ready.json").exists() && !proxy.state.join("admin.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demand_to_reissue_is_met_at_once_and_once() {
    let (dir, plane) = (tempfile::tempdir().unwrap(), Plane::new());
    shop(&plane);
    let running = plane.start(None).await;
    let mut proxy = Proxy::start(dir.path(), running.address, Some(&plane.token()), &[]);
    proxy.ready().await;
    let before = proxy.json("/certificate").unwrap()["chain"][0]["serial"].clone();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    plane.put([plane.bundle(i64::try_from(now).unwrap())]);
    let serial = || Some(proxy.json("/certificate")?["chain"][0]["serial"].clone()).filter(|s| *s != before);
    let after = eventually("another certificate", serial).await;
    assert_eq!(plane.issued(), (1, 1));
    // A later push with the same demand asks for nothing more.
    plane.put([service("shop/orders", &[])]);
    let answer = proxy.socket("PUT /log?filter=debug HTTP/1.1\r\n\r\n").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let metrics = proxy.socket("GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    assert!(metrics.contains("weft_certificate_renewals_total{result=\"ok\"} 1"), "{metrics}");
    assert!(metrics.contains("weft_xds_connected 1"), "{metrics}");
    assert_eq!(proxy.json("/certificate").unwrap()["chain"][0]["serial"], after);
    assert_eq!(plane.issued(), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_ends_with_a_reason() {
    let (dir, plane) = (tempfile::tempdir().unwrap(), Plane::new());
    let running = plane.start(None).await;
    let run = |token: Option<String>, more: &[&str]| {
        let mut command = command(dir.path(), running.address, more);
        command.stdin(Stdio::null());
        if let Some(token) = token {
            command.env("WEFT_JOIN_TOKEN", token);
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = run(None, &[]);
    assert!(code == Some(1) && error.contains("weft token create"), "{error}");
    let (code, error) = run(Some("hello".into()), &[]);
    assert!(code == Some(2) && error.contains("WEFT_JOIN_TOKEN"), "{error}");
    let (code, error) = run(Some(plane.token()), &["--service", "payments"]);
    assert!(code == Some(1) && error.contains("does not allow the service"), "{error}");
    // Another mesh with the same address: its control plane is not the one that the token pins.
    let (code, error) = run(Some(plane.token()), &["--workers", "0"]);
    assert!(code == Some(2) && error.contains("workers"), "{error}");
}
