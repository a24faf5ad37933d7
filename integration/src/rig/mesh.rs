//! A mesh of one test: `weft up` in a directory of its own, and programs beside sidecars by `weft run`, as a user starts them.

use super::namespace::Namespace;
use super::process::{Output, Process, command, run};
use super::{binary, wait_for};
use rustix::process::Signal;
use serde_json::Value;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A control plane and its directory. Dropped, everything in it ends.
pub struct Mesh {
    control_plane: Option<Process>,
    folder: TempDir,
    grpc: SocketAddr,
    api: String,
    /// What `weft run` is told of the control plane; empty: it finds the one of the mesh by itself.
    addresses: String,
    /// Another kubeconfig than the first control plane's.
    asked: Option<PathBuf>,
    // Dropped last: what runs in it is gone by then.
    namespace: Option<Namespace>,
}

/// What `weft run` is asked to run.
#[derive(Default, Clone)]
pub struct Run<'a> {
    /// Workload name; also names the log.
    pub name: &'a str,
    /// Namespace; empty: `shop`.
    pub namespace: &'a str,
    /// Services that it serves.
    pub services: &'a [&'a str],
    /// `--port` values.
    pub ports: &'a [String],
    /// More flags of `weft run`.
    pub flags: &'a [&'a str],
    /// Words that the command line of `weft run` begins with.
    pub before: &'a [&'a str],
    /// The program and its arguments.
    pub command: &'a [&'a str],
}

/// A program that runs with a sidecar.
pub struct Sidecar {
    /// The `weft run` process.
    pub process: Process,
    /// Where the sidecar keeps its state.
    pub state: PathBuf,
    /// The sidecar's access log.
    pub access_log: PathBuf,
}

impl Mesh {
    /// A control plane with `weft up`, on ephemeral loopback ports.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A control plane in a network namespace of the test's own, where `weft run --isolation netns` may make bridges. Needs root.
    #[must_use]
    #[track_caller]
    pub fn start_in_namespace() -> Self {
        Self::start_in_namespace_with(&[])
    }

    /// The same with more flags.
    #[must_use]
    #[track_caller]
    pub fn start_in_namespace_with(flags: &[&str]) -> Self {
        let mut mesh = Self::new();
        mesh.namespace = Some(Namespace::new());
        mesh.up(flags);
        mesh
    }

    /// The same with more flags.
    #[must_use]
    #[track_caller]
    pub fn start_with(flags: &[&str]) -> Self {
        let mut mesh = Self::new();
        mesh.up(flags);
        mesh
    }

    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("weft-test-").tempdir().expect("a temporary directory");
        let grpc = SocketAddr::from(([127, 0, 0, 1], 0));
        let (addresses, asked) = (String::new(), None);
        Self { control_plane: None, folder, grpc, api: String::new(), addresses, asked, namespace: None }
    }

    /// A command that runs where the mesh runs.
    fn inside(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
        match &self.namespace {
            Some(namespace) => namespace.command(program, arguments),
            None => command(program, arguments),
        }
    }

    /// Starts the control plane on the data that is there.
    #[track_caller]
    pub fn up(&mut self, flags: &[&str]) {
        assert!(self.control_plane.is_none(), "the control plane runs already");
        let data = self.data();
        let endpoints = data.join("endpoints.json");
        let _ = std::fs::remove_file(&endpoints);
        let data = data.to_str().expect("UTF-8 path").to_owned();
        let mut up =
            self.inside(binary("weft"), &["up", "--data-dir", &data, "--grpc", "127.0.0.1:0", "--api", "127.0.0.1:0"]);
        let mut process = Process::start(self.folder.path(), "up", up.args(flags));
        let text = wait_for("weft up listens", || {
            process.assert_running();
            let text = std::fs::read_to_string(&endpoints).map_err(|e| e.to_string())?;
            serde_json::from_str::<Value>(&text).map_err(|e| e.to_string())
        });
        self.grpc = text["grpc"].as_str().and_then(|t| t.parse().ok()).expect("endpoints.json names grpc");
        self.api = text["api"].as_str().expect("endpoints.json names api").to_owned();
        self.control_plane = Some(process);
    }

    /// SIGKILL to the control plane.
    pub fn kill(&mut self) {
        let mut process = self.control_plane.take().expect("the control plane runs");
        process.signal(Signal::KILL);
        process.wait();
    }

    /// The control plane's process.
    pub fn control_plane(&mut self) -> &mut Process {
        self.control_plane.as_mut().expect("the control plane runs")
    }

    /// The namespace that the mesh runs in, if it has one.
    #[must_use]
    pub fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// Where sidecars connect.
    #[must_use]
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// URL of the resource API.
    #[must_use]
    pub fn api(&self) -> &str {
        &self.api
    }

    /// Directory of the test, for files of its own.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The control plane's data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("control-plane")
    }

    /// The admin's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.asked.clone().unwrap_or_else(|| self.data().join("kubeconfig"))
    }

    /// From now on commands ask the control plane of this kubeconfig.
    pub fn ask(&mut self, kubeconfig: PathBuf) {
        self.asked = Some(kubeconfig);
    }

    /// Sidecars that start from now on know the control plane by these addresses, comma-separated.
    pub fn reach_at(&mut self, addresses: String) {
        self.addresses = addresses;
    }

    /// `weft …` with the admin's kubeconfig.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_after(&[], arguments)
    }

    fn command_after(&self, before: &[&str], arguments: &[&str]) -> Command {
        let weft = binary("weft");
        let mut command = match before {
            [] => self.inside(weft, arguments),
            [first, rest @ ..] => self.inside(first, &[rest, &[super::stage::text(&weft)], arguments].concat()),
        };
        command.env("KUBECONFIG", self.kubeconfig()).current_dir(self.folder.path());
        if !self.addresses.is_empty() {
            command.env("WEFT_CONTROL_PLANE", &self.addresses);
        }
        command
    }

    /// Runs `weft …` to its end.
    #[track_caller]
    pub fn weft(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments))
    }

    /// Runs a script as a person types it: in the test's directory, with `weft` in the PATH and the admin's kubeconfig. It ends at the
    /// first command that fails. `before`: words that the shell's own command line begins with.
    #[track_caller]
    pub fn shell(&self, before: &[&str], script: &str) -> Output {
        let words = [before, &["sh", "-euc", script]].concat();
        let weft = binary("weft");
        let mut path = weft.parent().expect("programs live in a directory").as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = self.inside(words[0], &words[1..]);
        command.env("PATH", path).env("KUBECONFIG", self.kubeconfig()).current_dir(self.folder.path());
        run(&mut command)
    }

    /// Runs `weft apply -f -` with `yaml`.
    #[track_caller]
    pub fn apply(&self, yaml: &str) -> Output {
        let mut child = self
            .command(&["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("weft starts");
        child.stdin.take().expect("stdin is piped").write_all(yaml.as_bytes()).expect("weft reads its stdin");
        let output = child.wait_with_output().expect("weft ends");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Output { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// An object as JSON, `null` when there is none.
    #[track_caller]
    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Value {
        let output = self.weft(&["get", kind, name, "-n", namespace, "-o", "json"]);
        if output.code == 0 {
            serde_json::from_str(&output.out).expect("weft get -o json prints JSON")
        } else {
            Value::Null
        }
    }

    /// Starts a program with a sidecar; returns at once. `weft run` starts the program when its sidecar is ready.
    #[track_caller]
    pub fn run(&self, what: &Run<'_>) -> Sidecar {
        let state = self.folder.path().join(format!("state-{}", what.name));
        let access_log = self.folder.path().join(format!("{}-access.log", what.name));
        let mut command = self.command_after(what.before, &["run", "--name", what.name]);
        command.args(["-n", if what.namespace.is_empty() { "shop" } else { what.namespace }]);
        command.arg("--state-dir").arg(&state).arg("--access-log").arg(&access_log);
        for service in what.services {
            command.args(["--service", service]);
        }
        for port in what.ports {
            command.args(["--port", port]);
        }
        command.args(what.flags).arg("--").args(what.command);
        Sidecar { process: Process::start(self.folder.path(), what.name, &mut command), state, access_log }
    }

    /// Starts a program with a sidecar and waits until both run.
    #[track_caller]
    pub fn run_ready(&self, what: &Run<'_>) -> Sidecar {
        let mut sidecar = self.run(what);
        sidecar.wait_ready();
        sidecar
    }

    /// Runs a program with a sidecar to its end: what it printed and its exit code. What `weft run` and the sidecar say goes to stderr.
    #[track_caller]
    pub fn call(&self, what: &Run<'_>) -> Output {
        let mut command = self.command_after(
            what.before,
            &["run", "-n", if what.namespace.is_empty() { "shop" } else { what.namespace }],
        );
        if !what.name.is_empty() {
            command.args(["--name", what.name]);
        }
        run(command.args(what.flags).arg("--").args(what.command))
    }
}

impl Sidecar {
    /// The sidecar's ready file.
    #[must_use]
    pub fn ready_file(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.state.join("ready.json")).ok()?).ok()
    }

    /// Waits until the sidecar says that it is ready.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        wait_for("the sidecar is ready", || {
            self.process.assert_running();
            match self.ask("/ready")? {
                (200, _) => Ok(()),
                (code, body) => Err(format!("/ready says {code}: {body}")),
            }
        });
    }

    /// What `/metrics` says.
    #[track_caller]
    pub fn metrics(&self) -> String {
        self.ask("/metrics").expect("the sidecar answers /metrics").1
    }

    /// Sum of the samples of `name` whose labels contain all of `labels` (`direction="outbound"`).
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        sum(&self.metrics(), name, labels)
    }

    /// A GET on the sidecar's 0600 Unix socket.
    ///
    /// # Errors
    /// When the socket does not answer.
    pub fn admin(&self, path: &str) -> Result<String, String> {
        self.ask(path).map(|(_, body)| body)
    }

    /// A GET on the sidecar's socket, which can be reached from outside its network namespace: status and body.
    fn ask(&self, path: &str) -> Result<(u16, String), String> {
        let file = self.ready_file().ok_or("no ready file")?;
        let socket = file["socket"].as_str().ok_or("ready.json names no socket")?;
        let stream = UnixStream::connect(socket).map_err(|e| format!("{socket}: {e}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|e| e.to_string())?;
        super::exchange(stream, "sidecar", path)
    }

    /// The access log's lines.
    #[must_use]
    pub fn access(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.access_log).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Process id of the sidecar itself.
    #[must_use]
    pub fn sidecar_pid(&self) -> Option<u32> {
        self.ready_file()?["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
    }
}

fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_metric_is_the_sum_of_its_matching_samples() {
        let text = "# HELP a x\na_total{d=\"in\"} 2\na_total{d=\"out\"} 3\na_total_more{d=\"in\"} 9\n";
        assert!((super::sum(text, "a_total", &[]) - 5.0).abs() < 1e-9);
        assert!((super::sum(text, "a_total", &["d=\"in\""]) - 2.0).abs() < 1e-9);
    }
}
