//! Sidecars as real processes in file mode, with certificates of a mesh of their own: settings, resources and state of each in a
//! directory of its own. Shared by test binaries here and by `integration/tests/budget`; what they call and count is theirs.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use weft_certs::{Identity, MeshCa, SpiffeId, TrustDomain};

/// How long any one condition may take, under valgrind on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An authority, and a directory for the sidecars whose certificates it signs.
pub struct Mesh {
    domain: TrustDomain,
    ca: MeshCa,
    folder: PathBuf,
}

impl Mesh {
    /// The mesh `weft.local`, whose sidecars keep their files in `folder`.
    pub fn new(folder: &Path) -> Self {
        let domain: TrustDomain = "weft.local".parse().unwrap();
        let ca = MeshCa::ephemeral(&domain, SystemTime::now()).unwrap();
        Self { domain, ca, folder: folder.to_owned() }
    }

    /// Of a workload in the namespace `shop`.
    pub fn id(&self, account: &str) -> SpiffeId {
        SpiffeId::workload(&self.domain, "shop", account).unwrap()
    }

    /// Key and certificate for it, as any sidecar of it would have.
    pub fn identity(&self, account: &str) -> Identity {
        let svid = self.ca.issue(&self.id(account), None, SystemTime::now()).unwrap();
        Identity::new(svid, self.ca.bundle())
    }

    /// Starts a sidecar beside `account`, in the directory `name`. `more` is put over settings whose listeners are on free ports of
    /// loopback; `launch` gives the command for a file of settings. What the process writes goes to `log`.
    pub fn start(
        &self,
        name: &str,
        account: &str,
        more: &Value,
        mut resources: Value,
        launch: impl FnOnce(&Path) -> Command,
    ) -> Sidecar {
        let home = self.folder.join(name);
        std::fs::create_dir(&home).unwrap();
        self.identity(account).write_files(&home.join("certificates")).unwrap();
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
        Sidecar::start(launch(&file), &home)
    }
}

/// A sidecar that runs; killed, by its own id, when the value goes.
pub struct Sidecar {
    child: Child,
    /// The sidecar's own process, which a program that watches it may have started.
    pub pid: u32,
    /// What it said of itself when it was ready: where it listens.
    pub ready: Value,
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
    /// Where one of its listeners is: `outbound`, `tunnel`, `plaintext`, `admin`.
    pub fn address(&self, name: &str) -> SocketAddr {
        self.ready[name].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{name}: {}", self.ready))
    }

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
