//! Sidecars as processes of their own, in file mode, and applications that say what reached them. Shared by the tests that put features
//! to a real sidecar; each uses its part.

#![allow(dead_code, reason = "each test program uses its part")]

pub mod app;
pub mod client;

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use weft_certs::{Identity, MeshCa, SpiffeId, TrustDomain};

/// How long any one condition may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An authority for sidecars that trust each other.
pub struct Mesh {
    ca: MeshCa,
    domain: TrustDomain,
}

impl Mesh {
    pub fn new() -> Self {
        let domain: TrustDomain = "weft.local".parse().unwrap();
        Self { ca: MeshCa::ephemeral(&domain, SystemTime::now()).unwrap(), domain }
    }

    pub fn id(&self, account: &str) -> String {
        SpiffeId::workload(&self.domain, "shop", account).unwrap().to_string()
    }

    /// A sidecar beside workload `shop/<account>-1`, with a certificate.
    pub fn sidecar(&self, account: &str, resources: &Value, more: &Value) -> Sidecar {
        let home = tempfile::tempdir().unwrap();
        let id = SpiffeId::workload(&self.domain, "shop", account).unwrap();
        let svid = self.ca.issue(&id, None, SystemTime::now()).unwrap();
        let folder = home.path().join("certificates");
        Identity::new(svid, self.ca.bundle()).write_files(&folder).unwrap();
        let mut settings = more.clone();
        settings["certificates"] = json!(folder);
        Sidecar::start_in(home, account, resources, &settings)
    }
}

/// A sidecar that runs; killed, by its own id, when the value goes.
pub struct Sidecar {
    child: Child,
    home: tempfile::TempDir,
    ready: Value,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sidecar {
    /// A sidecar that only calls, in plaintext, under these `weft.v1.Resources`.
    pub fn start(resources: &Value) -> Self {
        Self::start_with(resources, &json!({}))
    }

    /// As [`Sidecar::start`] with more settings.
    pub fn start_with(resources: &Value, more: &Value) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), "storefront", resources, more)
    }

    fn start_in(home: tempfile::TempDir, account: &str, resources: &Value, more: &Value) -> Self {
        let at = |name: &str| home.path().join(name);
        let mut settings = json!({
            "workload": {"namespace": "shop", "serviceAccount": account, "name": format!("{account}-1"), "services": [account]},
            "stateDir": at("state"), "resources": at("resources.json"), "outbound": {"listen": "127.0.0.1:0"},
            "inbound": {"tunnel": "127.0.0.1:0"}, "admin": {"listen": "127.0.0.1:0"}, "accessLog": {"path": at("access.log")},
        });
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        std::fs::write(at("settings.json"), settings.to_string()).unwrap();
        write(&at("resources.json"), resources);
        let log = std::fs::File::create(at("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft-proxy"));
        command.env_clear().arg("--config").arg(at("settings.json"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.spawn().unwrap();
        let ready: Value = eventually("ready.json", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{status}:\n{}", std::fs::read_to_string(at("log")).unwrap_or_default());
            }
            serde_json::from_slice(&std::fs::read(at("state/ready.json")).ok()?).ok()
        });
        let sidecar = Self { child, home, ready };
        eventually("readiness", || sidecar.admin("/ready").filter(|answer| answer.starts_with("HTTP/1.1 200")));
        sidecar
    }

    /// Where it listens: "outbound", "tunnel", "plaintext".
    pub fn at(&self, listener: &str) -> SocketAddr {
        let text = self.ready[listener].as_str();
        text.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{listener}: {}", self.ready))
    }

    /// Replaces its resources; they are in force soon.
    pub fn update(&self, resources: &Value) {
        write(&self.home.path().join("resources.json"), resources);
    }

    fn admin(&self, path: &str) -> Option<String> {
        let at = self.at("admin");
        let mut stream = TcpStream::connect(at).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Sum of the samples of a metric whose line contains every one of `parts`.
    pub fn count(&self, name: &str, parts: &[&str]) -> f64 {
        let text = self.admin("/metrics").unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with(name) && parts.iter().all(|part| line.contains(part)));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// The lines of its access log so far.
    pub fn logged(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.home.path().join("access.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The most memory that it has had, in bytes (`VmHWM`).
    pub fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// What it wrote, for the report of a failure.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}

fn write(path: &std::path::Path, resources: &Value) {
    let mut resources = resources.clone();
    if resources["settings"].is_null() {
        resources["settings"] = json!({"trustDomain": "weft.local", "domain": "cluster.local"});
    }
    let next: PathBuf = path.with_extension("next");
    std::fs::write(&next, resources.to_string()).unwrap();
    std::fs::rename(next, path).unwrap();
}

/// Waits until `probe` gives something, at most [`PATIENCE`].
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// `shop/<name>` with port 80 of that protocol, frontend and backend; its endpoints are those of [`slice`].
pub fn service(name: &str, protocol: &str, frontend: Value, mut backend: Value) -> Value {
    if backend["external"].is_null() {
        backend["slices"] = json!([format!("shop/{name}:80/0")]);
    }
    let port = json!({"port": 80, "protocol": protocol, "frontend": frontend, "backend": backend});
    json!({"name": format!("shop/{name}"), "hostnames": [name], "ports": [port]})
}

/// The endpoints of `shop/<name>`, in plaintext: `shop/<name>-0` and so on.
pub fn slice(name: &str, at: &[SocketAddr]) -> Value {
    let endpoint = |(n, at): (usize, &SocketAddr)| json!({"uid": format!("shop/{name}-{n}"), "address": at.ip(), "port": at.port(), "health": "HEALTH_READY", "weight": 1});
    json!({"name": format!("shop/{name}:80/0"), "endpoints": at.iter().enumerate().map(endpoint).collect::<Value>()})
}

/// A route of every call to these backends (name and weight), with more keys of its rule.
pub fn route(kind: &str, backends: &[(&str, u32)], more: Value) -> Value {
    let backend =
        |(name, weight): &(&str, u32)| json!({"service": format!("shop/{name}"), "port": 80, "weight": weight});
    let mut rule = json!({"backends": backends.iter().map(backend).collect::<Value>()});
    rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"name": "shop/r", "kind": kind, "rules": [rule]})
}
