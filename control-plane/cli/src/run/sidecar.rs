//! The sidecar process beside a program: its settings file, its start and readiness, its restart, its socket, its end.
//!
//! The sidecar is asked to end by its standard input: the pipe closes when the application is gone, or when this process is.

use crate::failure::Failure;
use crate::trampoline::{self, Death};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::process::{Child, ChildStdin};
use tokio::time::Instant;

/// Name of the join token's file in a state directory.
pub const TOKEN_FILE: &str = "join-token";

/// What a sidecar writes once its listeners are bound.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// Its process.
    pub pid: u32,
    /// Where the application's calls go.
    pub outbound: SocketAddr,
    /// Where peers dial.
    pub tunnel: SocketAddr,
    /// `/ready`, `/live`, `/metrics`.
    pub admin: SocketAddr,
    /// The private socket.
    pub socket: PathBuf,
}

/// How to start the sidecar again, always the same way.
pub struct Plan {
    /// The `weft-proxy` program.
    pub program: PathBuf,
    /// Words before the program: entering a network namespace.
    pub prefix: Vec<std::ffi::OsString>,
    /// Its state directory (0700).
    pub state_dir: PathBuf,
    /// What `--config` names, without what changes between starts.
    pub settings: Value,
    /// How it follows us when we die.
    pub death: Death,
}

/// A running sidecar.
pub struct Sidecar {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Where it listens.
    pub ready: Ready,
}

impl Plan {
    /// Where the sidecar writes its own log.
    pub fn log_file(&self) -> PathBuf {
        self.state_dir.join("sidecar.log")
    }

    /// Starts the sidecar and waits until it serves: listeners bound, certificate issued, configuration held.
    ///
    /// # Errors
    /// When it exits before, or is not ready in time; the message holds the end of its log.
    pub async fn start(&self, timeout: Duration) -> Result<Sidecar, Failure> {
        let deadline = Instant::now() + timeout;
        let settings = self.state_dir.join("settings.json");
        private_file(&settings, self.settings_now().to_string().as_bytes())?;
        let ready_file = self.state_dir.join("ready.json");
        match std::fs::remove_file(&ready_file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::not_well(format!("cannot remove {}: {error}", ready_file.display())));
            }
            _ => {}
        }
        let log_start = std::fs::metadata(self.log_file()).map_or(0, |meta| meta.len());
        let log = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(self.log_file());
        let log =
            log.map_err(|error| Failure::not_well(format!("cannot write {}: {error}", self.log_file().display())))?;
        let mut words = self.prefix.clone();
        words.push(self.program.clone().into());
        let mut words = words.into_iter();
        let first = words.next().unwrap_or_default();
        let mut command = trampoline::command(Path::new(&first), self.death)?;
        if !self.prefix.is_empty() {
            command.env("PATH", super::netns::path());
        }
        let mut child = command
            .args(words)
            .arg("--config")
            .arg(&settings)
            // The file says it, where there is one.
            .env_remove("WEFT_JOIN_TOKEN")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(|error| Failure::not_well(error.to_string()))?)
            .stderr(log)
            // Ctrl-C in a terminal is for the application; the sidecar outlives it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::not_well(format!("cannot start {}: {error}", self.program.display())))?;
        let stdin = child.stdin.take();
        let pid = child.id().unwrap_or_default();
        let outcome = tokio::select! {
            status = child.wait() => Err(match status {
                Ok(status) => format!("the sidecar ended while it started ({status})"),
                Err(error) => format!("the sidecar cannot be watched: {error}"),
            }),
            ready = until_ready(&ready_file, pid) => Ok(ready),
            () = tokio::time::sleep_until(deadline) => {
                Err(format!("the sidecar was not ready within {} s", timeout.as_secs()))
            }
        };
        match outcome {
            Ok(ready) => {
                // The secret has done its work.
                let _ = std::fs::remove_file(self.token_file());
                Ok(Sidecar { child, stdin, ready })
            }
            Err(what) => {
                let end = tail(&self.log_file(), log_start);
                Err(Failure::not_well(format!("{what}{end}"))
                    .hint(format!("its whole log is {}", self.log_file().display())))
            }
        }
    }

    /// Where a fresh join token lies for the next start; without one the identity of an earlier start must do.
    pub fn token_file(&self) -> PathBuf {
        self.state_dir.join(TOKEN_FILE)
    }

    fn settings_now(&self) -> Value {
        let mut settings = self.settings.clone();
        if let Some(object) = settings.as_object_mut()
            && self.token_file().is_file()
        {
            object.insert("joinTokenFile".into(), self.token_file().display().to_string().into());
        }
        settings
    }

    /// Pins the ports that the sidecar bound, so that after a restart it is where the application and peers know it.
    pub fn pin(&mut self, ready: &Ready) {
        let pins = [
            ("/outbound/listen", ready.outbound.to_string()),
            ("/inbound/tunnel", ready.tunnel.to_string()),
            ("/admin/listen", ready.admin.to_string()),
        ];
        for (pointer, address) in pins {
            if let Some(place) = self.settings.pointer_mut(pointer) {
                *place = address.into();
            }
        }
    }
}

async fn until_ready(file: &Path, pid: u32) -> Ready {
    let mut pause = Duration::from_millis(2);
    loop {
        if let Ok(text) = tokio::fs::read(file).await
            && let Ok(ready) = serde_json::from_slice::<Ready>(&text)
            && ready.pid == pid
            && is_ready(&ready).await
        {
            return ready;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

async fn is_ready(ready: &Ready) -> bool {
    matches!(request(&ready.socket, "GET", "/ready").await, Ok((200, _)))
}

/// The end of a log from `start` on, indented, for an error message.
fn tail(log: &Path, start: u64) -> String {
    let Ok(text) = std::fs::read(log) else { return String::new() };
    let from = usize::try_from(start).unwrap_or(0).min(text.len());
    let text = String::from_utf8_lossy(&text[from..]);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines.len().saturating_sub(8);
    lines[last..].iter().map(|line| format!("\n  {line}")).collect()
}

impl Sidecar {
    /// Resolves when the process ends.
    pub async fn exited(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Begins the drain: unready, withdrawn from discovery, inbound asked to end.
    pub async fn drain(&self) -> Result<(), String> {
        match request(&self.ready.socket, "POST", "/drain").await {
            Ok((200..=299, _)) => Ok(()),
            Ok((status, body)) => Err(format!("{status} {}", String::from_utf8_lossy(&body))),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until calls to the application have ended, at most `timeout`. Cancel-safe.
    pub async fn inbound_ended(&self, timeout: Duration) {
        let poll = async {
            loop {
                match request(&self.ready.socket, "GET", "/stats").await {
                    Ok((200, body)) if inbound_is_over(&body) => return,
                    // Its socket is gone, and with it whatever it served.
                    Err(_) => return,
                    Ok(_) => tokio::time::sleep(Duration::from_millis(25)).await,
                }
            }
        };
        let _ = tokio::time::timeout(timeout, poll).await;
    }

    /// Tells it that the application is gone, and waits for its end; kills it after `timeout`.
    pub async fn finish(mut self, timeout: Duration) {
        drop(self.stdin.take());
        if tokio::time::timeout(timeout, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

fn inbound_is_over(stats: &[u8]) -> bool {
    let Ok(stats) = serde_json::from_slice::<Value>(stats) else { return false };
    let stage = stats.pointer("/drain/stage").and_then(Value::as_str).unwrap_or_default();
    ["outbound", "closing", "done"].iter().any(|over| stage.eq_ignore_ascii_case(over))
}

/// One request over a Unix socket; at most 5 s and 16 MiB.
pub async fn request(socket: &Path, method: &str, path: &str) -> std::io::Result<(u16, Bytes)> {
    let exchange = async {
        let stream = tokio::net::UnixStream::connect(socket).await?;
        exchange(stream, method, path).await
    };
    tokio::time::timeout(Duration::from_secs(5), exchange)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer within 5 s")))
}

async fn exchange<S>(stream: S, method: &str, path: &str) -> std::io::Result<(u16, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let other = std::io::Error::other;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(other)?;
    let call = async {
        let response = sender.send_request(request).await.map_err(std::io::Error::other)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), 16 << 20).collect().await.map_err(std::io::Error::other)?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(call);
    tokio::pin!(connection);
    let mut open = true;
    loop {
        tokio::select! {
            outcome = &mut call => return outcome,
            _ = &mut connection, if open => open = false,
        }
    }
}

/// Writes a file that only its owner may read, in one step.
pub fn private_file(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let bad = |error: std::io::Error| Failure::not_well(format!("cannot write {}: {error}", path.display()));
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::OpenOptions::new();
    file.create(true).truncate(true).write(true).mode(0o600);
    let mut file = file.open(&temporary).map_err(bad)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(bad)?;
    std::fs::rename(&temporary, path).map_err(bad)
}

/// Everything the settings file needs.
pub struct Wanted<'a> {
    /// Namespace of the workload.
    pub namespace: &'a str,
    /// Its service account.
    pub service_account: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Services it belongs to.
    pub services: &'a [String],
    /// What the application serves.
    pub ports: &'a [super::ports::Port],
    /// Labels.
    pub labels: &'a std::collections::BTreeMap<String, String>,
    /// Zone.
    pub zone: &'a str,
    /// Where peers reach it.
    pub address: std::net::IpAddr,
    /// Where the application listens (the address part).
    pub local: std::net::IpAddr,
    /// gRPC addresses of the control plane's replicas.
    pub control_plane: &'a [SocketAddr],
    /// State directory.
    pub state_dir: &'a Path,
    /// The private socket.
    pub socket: &'a Path,
    /// Credentials of the explicit proxy.
    pub credentials: Option<(&'a str, &'a str)>,
    /// Named TCP outbounds.
    pub tcp: &'a [super::ports::TcpOutbound],
    /// Access log: `off`, or a path.
    pub access_log: &'a str,
    /// How long a drain may take in all: the inbound part, and the program's own end.
    pub drain: Duration,
    /// What the sidecar logs.
    pub log: Option<&'a str>,
}

/// The settings that `weft-proxy --config` reads, with ephemeral ports.
pub fn settings(wanted: &Wanted<'_>) -> Value {
    let ports: Vec<Value> = wanted
        .ports
        .iter()
        .map(|port| {
            let local = SocketAddr::new(wanted.local, port.app);
            json!({"name": port.name, "port": port.app, "protocol": port.protocol.name(), "local": local})
        })
        .collect();
    let tcp: Vec<Value> = wanted.tcp.iter().map(|tcp| json!({"listen": tcp.listen, "host": tcp.host})).collect();
    let loopback = "127.0.0.1:0";
    let mut settings = json!({
        "workload": {
            "namespace": wanted.namespace,
            "serviceAccount": wanted.service_account,
            "name": wanted.name,
            "services": wanted.services,
            "ports": ports,
            "address": wanted.address,
            "labels": wanted.labels,
            "zone": wanted.zone,
        },
        "controlPlane": {"address": wanted.control_plane},
        "stateDir": wanted.state_dir,
        "outbound": {"listen": loopback, "tcp": tcp},
        "inbound": {"tunnel": SocketAddr::new(wanted.address, 0)},
        "admin": {"listen": loopback, "socket": wanted.socket},
        "drain": {"deadline": format!("{}ms", wanted.drain.as_millis())},
        "accessLog": {"path": wanted.access_log},
        "untilStdinCloses": true,
    });
    if let Some(object) = settings.as_object_mut() {
        if let Some(log) = wanted.log {
            object.insert("log".into(), log.into());
        }
        if let (Some((user, password)), Some(outbound)) =
            (wanted.credentials, object.get_mut("outbound").and_then(Value::as_object_mut))
        {
            outbound.insert("credentials".into(), json!({"user": user, "password": password}));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_past_inbound_from_its_outbound_stage_on() {
        assert!(!inbound_is_over(br#"{"drain":{"stage":"inbound"}}"#));
        assert!(inbound_is_over(br#"{"drain":{"stage":"Outbound"}}"#));
        assert!(!inbound_is_over(b"nonsense"));
    }

    #[test]
    fn the_end_of_a_log_begins_where_this_start_did() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "old\nnew one\n\nnew two\n").unwrap();
        assert_eq!(tail(&log, 4), "\n  new one\n  new two");
        assert_eq!(tail(&dir.path().join("none"), 0), "");
    }

    #[test]
    fn a_private_file_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.json");
        private_file(&path, b"one").unwrap();
        private_file(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
