//! A pair of sidecars in file mode: real processes with certificates of a mesh of their own, whatever starts them (this test's own
//! executable, strace, valgrind), and how to know that their workers rest. Shared with `integration/tests/budget`.

use crate::load::{Hot, PATIENCE};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use weft_certs::{Identity, MeshCa, SpiffeId, TrustDomain};

/// Which of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Beside the client.
    Outbound,
    /// Beside the application.
    Inbound,
}

impl Side {
    /// As records and reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// A sidecar that runs; killed, by its own id, when the value goes.
pub struct Sidecar {
    child: Child,
    /// The sidecar's own process, which a program that watches it may have started.
    pub pid: u32,
    ready: Value,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let ended = |child: &mut Child| child.try_wait().ok().flatten().is_some();
        if !ended(&mut self.child) {
            if let Some(pid) = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            // What watches it may have something to write yet.
            let until = Instant::now() + Duration::from_secs(5);
            while !ended(&mut self.child) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sidecar {
    fn address(&self, name: &str) -> SocketAddr {
        self.ready[name].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{name}: {}", self.ready))
    }

    /// Thread ids of its data workers.
    pub fn workers(&self) -> Vec<u32> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
        let all = threads.flatten().filter_map(|t| t.file_name().to_str()?.parse().ok());
        all.filter(|tid| {
            let name = std::fs::read_to_string(format!("/proc/{}/task/{tid}/comm", self.pid));
            name.is_ok_and(|name| name.starts_with("weft-worker"))
        })
        .collect()
    }

    /// What would change if a worker ran; `None` while one does.
    fn rest(&self) -> Option<Vec<String>> {
        let mut switches = Vec::new();
        for tid in self.workers() {
            let status = std::fs::read_to_string(format!("/proc/{}/task/{tid}/status", self.pid)).ok()?;
            if !status.contains("State:\tS") {
                return None;
            }
            switches.push(status.split_once("voluntary_ctxt_switches")?.1.to_owned());
        }
        (!switches.is_empty()).then_some(switches)
    }
}

/// Two sidecars with applications behind the second.
pub struct Pair {
    pub outbound: Sidecar,
    pub inbound: Sidecar,
}

impl Pair {
    /// Starts a pair in `folder` for these paths, each with its application. `launch` gives the command for a sidecar: its settings are
    /// in that file, and what it writes goes beside it. [`Hot::Plain`] goes alone: without a redirect a plaintext listener leads to the
    /// only port that there is.
    pub fn start(paths: &[(Hot, SocketAddr)], folder: &Path, launch: impl Fn(Side, &Path) -> Command) -> Self {
        let domain: TrustDomain = "weft.local".parse().unwrap();
        let ca = MeshCa::ephemeral(&domain, SystemTime::now()).unwrap();
        let id = |account: &str| SpiffeId::workload(&domain, "shop", account).unwrap();
        let start = |side: Side, account: &str, more: Value, mut resources: Value| {
            let home = folder.join(side.name());
            std::fs::create_dir(&home).unwrap();
            let svid = ca.issue(&id(account), None, SystemTime::now()).unwrap();
            Identity::new(svid, ca.bundle().clone()).write_files(&home.join("certificates")).unwrap();
            resources["settings"] = json!({"trustDomain": "weft.local", "domain": "cluster.local"});
            std::fs::write(home.join("resources.json"), resources.to_string()).unwrap();
            let mut settings = json!({
                "workload": {"namespace": "shop", "serviceAccount": account, "name": format!("{account}-1"), "services": [account]},
                "stateDir": home.join("state"), "resources": home.join("resources.json"), "certificates": home.join("certificates"),
                "outbound": {"listen": "127.0.0.1:0"}, "inbound": {"tunnel": "127.0.0.1:0"}, "admin": {"listen": "127.0.0.1:0"},
                "accessLog": {"path": home.join("access.log")},
            });
            settings.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
            let file = home.join("settings.json");
            std::fs::write(&file, settings.to_string()).unwrap();
            Sidecar::start(launch(side, &file), &home)
        };
        let server_name = |hot: Hot| format!("80.{}.shop.svc.cluster.local", hot.name());
        let ports = paths.iter().map(|(hot, at)| json!({
            "port": at.port(), "authorities": [at], "serverNames": [server_name(*hot)], "local": at, "protocol": hot.protocol(),
            "service": format!("shop/{}", hot.name()), "tls": if *hot == Hot::Plain { "TLS_MODE_PERMISSIVE" } else { "TLS_MODE_STRICT" },
        }));
        let served =
            json!({"workload": "shop/orders-1", "identity": id("orders").as_str(), "ports": ports.collect::<Value>()});
        let listen = json!({"inbound": {"tunnel": "127.0.0.1:0", "plaintext": "127.0.0.1:0"}});
        let inbound = start(Side::Inbound, "orders", listen, json!({ "inbound": served }));
        let services = paths.iter().map(|(hot, _)| json!({
            "name": format!("shop/{}", hot.name()), "hostnames": [hot.name()], "ports": [{"port": 80, "protocol": hot.protocol(),
                "frontend": {}, "backend": {"slices": [format!("shop/{}:80/0", hot.name())]}}],
        }));
        let slices = paths.iter().map(|(hot, at)| {
            let mut endpoint =
                json!({"uid": "shop/orders-1", "address": "127.0.0.1", "port": at.port(), "health": "HEALTH_READY", "weight": 1});
            if *hot == Hot::Plain {
                endpoint["port"] = inbound.address("plaintext").port().into();
            } else {
                endpoint["tunnel"] = inbound.ready["tunnel"].clone();
                endpoint["identity"] = id("orders").as_str().into();
                endpoint["serverName"] = server_name(*hot).into();
            }
            json!({"name": format!("shop/{}:80/0", hot.name()), "endpoints": [endpoint]})
        });
        let called = json!({"services": services.collect::<Value>(), "endpoints": slices.collect::<Value>()});
        let named = json!([{"listen": "127.0.0.1:0", "host": format!("{}:80", Hot::Tcp.name())}]);
        let listen = json!({"outbound": {"listen": "127.0.0.1:0", "tcp": named}});
        let outbound = start(Side::Outbound, "storefront", listen, called);
        Self { outbound, inbound }
    }

    /// Where the client of a path connects.
    pub fn at(&self, hot: Hot) -> SocketAddr {
        match hot {
            Hot::Tcp => self.outbound.ready["tcp"][0]["listen"].as_str().and_then(|text| text.parse().ok()).unwrap(),
            _ => self.outbound.address("outbound"),
        }
    }

    /// Each with its side.
    pub fn sides(&self) -> [(Side, &Sidecar); 2] {
        [(Side::Outbound, &self.outbound), (Side::Inbound, &self.inbound)]
    }

    /// Waits until no worker of either has run between two looks: what the last answer left to do is done.
    pub fn settle(&self) {
        let mut before = None;
        eventually("the workers rest", || {
            let now = self.outbound.rest().zip(self.inbound.rest());
            let rests = now.is_some() && now == before;
            before = now;
            rests.then_some(())
        });
    }
}

impl Sidecar {
    fn start(mut command: Command, home: &Path) -> Self {
        let log = std::fs::File::create(home.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let at: PathBuf = home.join("state/ready.json");
        let ready: Value = eventually("ready.json", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{status}:\n{}", std::fs::read_to_string(home.join("log")).unwrap_or_default());
            }
            serde_json::from_slice(&std::fs::read(&at).ok()?).ok()
        });
        let sidecar =
            Self { child, pid: ready["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap(), ready };
        let admin = sidecar.address("admin");
        eventually("readiness", || get(admin, "/ready").filter(|answer| answer.starts_with("HTTP/1.1 200")));
        sidecar
    }
}

/// An answer of the admin listener, head and body.
fn get(at: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
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
