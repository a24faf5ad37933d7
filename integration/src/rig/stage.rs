//! The stage of tests: instances of the shop's programs as services, and policies that are waited for until they are in force.

pub use super::caller::{Answer, Caller};
pub use super::load::{Load, assert_all_well};

use super::{Mesh, Run, Sidecar, accepts, binary, free_port, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// UTF-8 of a path.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

static FILES: AtomicU32 = AtomicU32::new(0);

/// Writes `yaml` into a file of its own.
pub fn file(mesh: &Mesh, yaml: &str) -> PathBuf {
    let path = mesh.folder().join(format!("{}.yaml", FILES.fetch_add(1, Ordering::Relaxed)));
    std::fs::write(&path, yaml).unwrap();
    path
}

/// `weft apply --wait`: returns when every sidecar that needs it runs it.
#[track_caller]
pub fn apply(mesh: &Mesh, yaml: &str) -> String {
    let path = file(mesh, yaml);
    mesh.weft(&["apply", "--wait", "-f", text(&path)]).ok()
}

/// A Namespace and Services in it, each with a port 80 of that protocol.
#[track_caller]
pub fn services(mesh: &Mesh, namespace: &str, names: &[&str], port: u16, protocol: &str) {
    let mut yaml = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n");
    for name in names {
        write!(
            yaml,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{ports: [{{name: {protocol}, port: {port}, targetPort: {protocol}, appProtocol: {protocol}}}]}}\n"
        )
        .unwrap();
    }
    apply(mesh, &yaml);
}

/// A program of the shop beside a sidecar, as an instance of one service.
pub struct Instance {
    /// The sidecar.
    pub sidecar: Sidecar,
    /// Where the program itself listens.
    pub port: u16,
}

impl Instance {
    /// Starts `weft-shop <what>` as the instance `name` of `service`, and waits until it takes calls.
    #[track_caller]
    pub fn start(mesh: &Mesh, service: &str, name: &str, what: &[&str]) -> Self {
        Self::start_at(mesh, service, name, what, free_port())
    }

    /// The same on a port that is given.
    #[track_caller]
    pub fn start_at(mesh: &Mesh, service: &str, name: &str, what: &[&str], port: u16) -> Self {
        let shop = binary("weft-shop");
        let (kind, rest) = what.split_first().expect("which service of the shop");
        let listen = format!("127.0.0.1:{port}");
        let mut command = vec![text(&shop), kind, "--listen", &listen];
        command.extend(rest);
        let ports = [if *kind == "users" { format!("9000:{port}:grpc") } else { format!("80:{port}:http") }];
        // Killed, `weft run` takes the program with it.
        let mut sidecar = mesh.run(&Run {
            name,
            services: &[service],
            ports: &ports,
            flags: &["--death", "kill"],
            command: &command,
            ..Run::default()
        });
        sidecar.wait_ready();
        wait_for("the program listens", || accepts(([127, 0, 0, 1], port).into()));
        wait_for("the control plane takes it for ready", || {
            let workload = mesh.object("workload", "shop", name);
            if workload["status"]["phase"] == "Ready" { Ok(()) } else { Err(workload.to_string()) }
        });
        Self { sidecar, port }
    }

    /// catalog, which says which version it is.
    #[track_caller]
    pub fn catalog(mesh: &Mesh, name: &str, version: &str) -> Self {
        Self::start(mesh, "catalog", name, &["catalog", "--version", version])
    }

    /// Calls that its sidecar let through to it.
    pub fn served(&self) -> f64 {
        self.sidecar.metric("weft_requests_total", &["direction=\"inbound\""])
    }

    /// SIGKILL to all of it at once, as a machine that dies does it: nobody says goodbye.
    pub fn die(mut self) {
        // `weft run` would start the sidecar again, and the sidecar leaves in order when `weft run` is gone.
        self.sidecar.process.signal(Signal::STOP);
        kill_sidecar(&self.sidecar);
        self.sidecar.process.signal(Signal::KILL);
        self.sidecar.process.wait();
        wait_for("the program is gone too", || match accepts(([127, 0, 0, 1], self.port).into()) {
            Ok(()) => Err("it listens".to_owned()),
            Err(_) => Ok(()),
        });
    }
}

/// SIGKILL to a sidecar alone; `weft run` starts it again.
pub fn kill_sidecar(sidecar: &Sidecar) {
    let pid = sidecar.sidecar_pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    kill_process(pid.expect("a ready sidecar has a process"), Signal::KILL).unwrap();
}

/// The condition `kind` of an object; of a route, under its first parent.
#[must_use]
pub fn condition(object: &Value, kind: &str) -> Value {
    let own = object.pointer("/status/conditions").and_then(Value::as_array);
    let of_parent = object.pointer("/status/parents/0/conditions").and_then(Value::as_array);
    let mut all = own.into_iter().chain(of_parent).flatten();
    all.find(|c| c["type"] == kind).cloned().unwrap_or_default()
}
