//! The processes of the demo: started tied to this process's life, watched, killed on cue, and all gone at the end.
//!
//! Each stands in a process group of its own, so that Ctrl-C reaches the demo alone and the demo decides the order of leaving.

use super::topology::{self, Workload};
use crate::failure::Failure;
use crate::run::sidecar::{self, Ready};
use crate::trampoline::{self, Death};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Child;
use tokio::time::Instant;

/// Name of the control plane among the processes.
pub const CONTROL_PLANE: &str = "control-plane";

/// All processes, and the directory they live in.
pub struct Stage {
    /// Everything is below it.
    pub dir: PathBuf,
    weft: PathBuf,
    shop: PathBuf,
    processes: BTreeMap<String, Child>,
    ports: BTreeMap<&'static str, u16>,
    rps: u32,
}

impl Stage {
    /// An empty stage in an existing directory.
    pub fn new(dir: PathBuf, rps: u32) -> Result<Self, Failure> {
        let stage = Self {
            weft: trampoline::own_binary()?,
            shop: trampoline::sibling("weft-shop", "WEFT_SHOP")?,
            dir,
            processes: BTreeMap::new(),
            ports: ports()?,
            rps,
        };
        // Asked for early: without it nothing can run.
        trampoline::sibling("weft-proxy", "WEFT_PROXY")?;
        std::fs::create_dir_all(stage.logs()).map_err(|error| stage.bad("make", &stage.logs(), &error))?;
        Ok(stage)
    }

    fn bad(&self, what: &str, path: &Path, error: &std::io::Error) -> Failure {
        Failure::not_well(format!("cannot {what} {}: {error}", path.display()))
    }

    /// Where what the processes say is kept.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// The control plane's data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.join("control-plane")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data().join("kubeconfig")
    }

    /// The load driver's report.
    pub fn report(&self) -> PathBuf {
        self.dir.join("load.json")
    }

    /// Starts the control plane, for the first time or again.
    pub fn start_control_plane(&mut self) -> Result<(), Failure> {
        let _ = std::fs::remove_file(self.data().join("endpoints.json"));
        let data = self.data().display().to_string();
        let arguments = ["up", "--data-dir", &data, "--grpc", "127.0.0.1:0", "--api", "127.0.0.1:0"];
        self.spawn(CONTROL_PLANE, &arguments.map(str::to_owned))
    }

    /// Waits until the control plane says where it listens; gives the API's address.
    pub async fn control_plane_listens(&mut self, timeout: Duration) -> Result<String, Failure> {
        let deadline = Instant::now() + timeout;
        let file = self.data().join("endpoints.json");
        loop {
            let api = std::fs::read(&file)
                .ok()
                .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
                .and_then(|value| value.get("api")?.as_str().map(str::to_owned));
            if let Some(api) = api {
                return Ok(api);
            }
            self.all_alive()?;
            if Instant::now() > deadline {
                return Err(self.failed(CONTROL_PLANE, "does not listen"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts one instance of the shop with its sidecar.
    pub fn start_workload(&mut self, workload: &Workload) -> Result<(), Failure> {
        let port = self.ports.get(workload.name).copied().unwrap_or_default();
        let arguments = workload.arguments(&self.shop, port);
        self.spawn(workload.name, &arguments)
    }

    /// Starts the load driver with its sidecar.
    pub fn start_load(&mut self) -> Result<(), Failure> {
        let arguments = topology::load_arguments(&self.shop, self.rps, &self.report());
        self.spawn(topology::LOAD, &arguments)
    }

    fn spawn(&mut self, name: &str, arguments: &[String]) -> Result<(), Failure> {
        let path = self.logs().join(format!("{name}.log"));
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(|error| self.bad("write", &path, &error))?;
        let again = log.try_clone().map_err(|error| self.bad("write", &path, &error))?;
        let mut command = trampoline::command(&self.weft, Death::Kill)?;
        command
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            // What this shell may hold for other meshes.
            .env_remove("WEFT_JOIN_TOKEN")
            .env_remove("WEFT_CONTROL_PLANE")
            .env_remove("WEFT_DATA_DIR")
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(|error| Failure::not_well(format!("cannot start {name}: {error}")))?;
        self.processes.insert(name.to_owned(), child);
        Ok(())
    }

    /// Whether an instance's program accepts connections.
    pub async fn accepts(&self, name: &str) -> bool {
        let Some(port) = self.ports.get(name) else { return false };
        let connect = tokio::net::TcpStream::connect(("127.0.0.1", *port));
        matches!(tokio::time::timeout(Duration::from_secs(1), connect).await, Ok(Ok(_)))
    }

    /// What an instance's sidecar said of itself.
    pub fn ready(&self, name: &str) -> Option<Ready> {
        let dir = self.data().join("run").join(format!("{}.{name}", topology::NAMESPACE));
        serde_json::from_slice(&std::fs::read(dir.join("ready.json")).ok()?).ok()
    }

    /// The `/metrics` of an instance's sidecar.
    pub async fn metrics(&self, name: &str) -> Option<String> {
        let ready = self.ready(name)?;
        match sidecar::request(&ready.socket, "GET", "/metrics").await {
            Ok((200, body)) => Some(String::from_utf8_lossy(&body).into_owned()),
            _ => None,
        }
    }

    /// SIGKILL to a process and what it started, at once.
    pub async fn kill(&mut self, name: &str) {
        if let Some(mut child) = self.processes.remove(name) {
            // The sidecar first: it would see that the others are gone, and take its leave in order.
            if let (Some(ready), Some(parent)) = (self.ready(name), pid(&child))
                && let Some(sidecar) = i32::try_from(ready.pid).ok().and_then(Pid::from_raw)
                && parent_of(sidecar) == Some(parent)
            {
                let _ = kill_process(sidecar, Signal::KILL);
            }
            signal_group(&child, Signal::KILL);
            let _ = child.wait().await;
        }
    }

    /// SIGTERM to one process, and its end; SIGKILL after `patience`.
    pub async fn end(&mut self, name: &str, patience: Duration) {
        if let Some(mut child) = self.processes.remove(name) {
            signal(&child, Signal::TERM);
            if tokio::time::timeout(patience, child.wait()).await.is_err() {
                signal_group(&child, Signal::KILL);
                let _ = child.wait().await;
            }
        }
    }

    /// An error when a process ended that nobody asked to.
    pub fn all_alive(&mut self) -> Result<(), Failure> {
        let mut ended = None;
        for (name, child) in &mut self.processes {
            if let Ok(Some(status)) = child.try_wait() {
                ended = Some((name.clone(), status));
                break;
            }
        }
        match ended {
            Some((name, status)) => Err(self.failed(&name, &format!("ended ({status})"))),
            None => Ok(()),
        }
    }

    /// A failure of one process, with the end of its log.
    pub fn failed(&self, name: &str, what: &str) -> Failure {
        let path = self.logs().join(format!("{name}.log"));
        let text = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let end: String = lines[lines.len().saturating_sub(8)..].iter().map(|line| format!("\n  {line}")).collect();
        Failure::not_well(format!("{name} {what}{end}")).hint(format!("the logs are in {}", self.logs().display()))
    }

    /// Ends everything: callers, callees, then the control plane. `hurry` resolving means at once.
    pub async fn stop(&mut self, hurry: impl Future<Output = ()>) {
        let orderly = async {
            let mut control_plane = self.processes.remove(CONTROL_PLANE);
            self.processes.values().for_each(|child| signal(child, Signal::TERM));
            let all = futures_util::future::join_all(self.processes.values_mut().map(Child::wait));
            let _ = tokio::time::timeout(Duration::from_secs(8), all).await;
            self.processes.values().for_each(|child| signal_group(child, Signal::KILL));
            if let Some(child) = &mut control_plane {
                signal(child, Signal::TERM);
                if tokio::time::timeout(Duration::from_secs(4), child.wait()).await.is_err() {
                    signal_group(child, Signal::KILL);
                }
            }
        };
        tokio::select! {
            () = orderly => {}
            () = hurry => {}
        }
        for (_, mut child) in std::mem::take(&mut self.processes) {
            signal_group(&child, Signal::KILL);
            let _ = child.wait().await;
        }
    }
}

fn pid(child: &Child) -> Option<Pid> {
    // `None` once the end was seen: the number may be somebody else's by then.
    child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
}

/// The parent of a process: a number in a file may be somebody else's by now.
fn parent_of(process: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
    // "pid (name) state parent …"; the name may hold anything.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok().and_then(Pid::from_raw)
}

fn signal(child: &Child, number: Signal) {
    if let Some(pid) = pid(child) {
        let _ = kill_process(pid, number);
    }
}

fn signal_group(child: &Child, number: Signal) {
    if let Some(pid) = pid(child) {
        let _ = kill_process_group(pid, number);
    }
}

/// One free loopback port for each instance, below the range from which the kernel gives ports to clients: nobody takes one
/// between this moment and the program's start.
fn ports() -> Result<BTreeMap<&'static str, u16>, Failure> {
    use rand::RngExt;
    let mut rng = rand::rng();
    let mut held = Vec::new();
    let mut ports = BTreeMap::new();
    for workload in topology::WORKLOADS {
        let found = (0..200).find_map(|_| {
            let port = rng.random_range(20_000..32_000);
            TcpListener::bind(("127.0.0.1", port)).ok().map(|listener| (port, listener))
        });
        let (port, listener) =
            found.ok_or_else(|| Failure::not_well("no free port on 127.0.0.1 from 20000 to 31999"))?;
        held.push(listener);
        ports.insert(workload.name, port);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_parent() {
        let own = Pid::from_raw(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(parent_of(own), rustix::process::getppid());
    }

    #[test]
    fn every_instance_has_a_port_of_its_own() {
        let ports = ports().unwrap();
        let mut numbers: Vec<u16> = ports.values().copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), topology::WORKLOADS.len());
    }
}
