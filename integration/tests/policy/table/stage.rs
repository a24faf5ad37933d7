//! The mesh that all rows share: what is applied for them, who calls and who is called, and a row's two services as it sees them.

use super::{End, NEAR, Row, Scene};
use crate::app::{App, Apps, Speaks, obeys};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use weft_integration::rig::stage::{Answer, Caller, apply, file, text};
use weft_integration::rig::{Mesh, Run, Sidecar, program, wait_for};

/// Where services live whose applications have sidecars.
const GATED: &str = "gated";
/// First of the ports that a gate's peers ask for.
const GATE_PORTS: usize = 8000;

/// One of a row's services.
pub struct Side<'s> {
    stage: &'s Stage,
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service and of its policy.
    pub service: String,
    scene: &'s Scene,
    apps: Vec<App>,
}

impl Side<'_> {
    /// `http://service.namespace/path`
    pub fn url(&self, path: &str) -> String {
        format!("http://{}.{}{path}", self.service, self.namespace)
    }

    /// A call.
    pub fn call(&self, method: &str, path: &str, headers: &[&str]) -> Answer {
        self.caller().call(method, &self.url(path), headers)
    }

    /// A GET.
    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[])
    }

    /// GETs at the same time.
    pub fn get_at_once(&self, count: usize, path: &str) -> Vec<Answer> {
        std::thread::scope(|scope| {
            let calls: Vec<_> = (0..count).map(|_| scope.spawn(|| self.get(path))).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        })
    }

    /// Who calls.
    pub fn caller(&self) -> &Caller {
        &self.stage.callers[0]
    }

    /// Somebody else who calls.
    pub fn other_caller(&self) -> &Caller {
        &self.stage.callers[1]
    }

    /// An application of the service.
    pub fn app(&self, name: &str) -> &App {
        self.apps.iter().find(|app| app.name == name).unwrap_or_else(|| panic!("no application {name}"))
    }

    /// Calls that reached the service.
    pub fn calls(&self) -> usize {
        self.apps.iter().map(App::calls).sum()
    }

    /// Lets the endpoint that comes late come.
    pub fn join(&self, name: &str) {
        let (end, app) = self.scene.ends.iter().zip(&self.apps).find(|(end, _)| end.name == name).unwrap();
        apply(&self.stage.mesh, &self.workload(end, app));
    }

    fn port_name(&self) -> String {
        if self.scene.gated { self.service.clone() } else { "main".to_owned() }
    }

    fn objects(&self) -> String {
        let own = self.port_name();
        let targets = match (self.scene.gated, self.scene.spares) {
            (true, _) => vec![&*own, "spare"],
            (false, true) => vec!["main", "main"],
            (false, false) => vec!["main"],
        };
        let mut yaml = service(&self.namespace, &self.service, self.scene.protocol, &targets);
        if !self.scene.gated {
            yaml.push_str(&format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {}}}\n", self.namespace));
            for (end, app) in self.scene.ends.iter().zip(&self.apps).filter(|(end, _)| !end.late) {
                yaml.push_str(&self.workload(end, app));
            }
        }
        yaml
    }

    fn workload(&self, end: &End, app: &App) -> String {
        let protocol = if self.scene.protocol == "kubernetes.io/h2c" { "http2" } else { self.scene.protocol };
        let zone = if end.zone.is_empty() { String::new() } else { format!("zone: {}, ", end.zone) };
        workload(
            (&self.namespace, &format!("{}-{}", self.service, end.name)),
            &format!(
                "{zone}services: [{}], ports: [{{name: main, port: {}, protocol: {protocol}}}]",
                self.service, app.port
            ),
        )
    }

    fn policy(&self, kind: &str, spec: &str) -> String {
        let targets = if spec.contains("targetRefs") { "" } else { "targetRefs: [{kind: Service, name: $SERVICE}], " };
        let spec = format!("{targets}{spec}")
            .replace("$SERVICE", &self.service)
            .replace("$PORT", &self.port_name())
            .replace("$NAMESPACE", &self.namespace);
        format!(
            "---\napiVersion: weft.mesh/v1alpha1\nkind: {kind}\nmetadata: {{name: {}, namespace: {}}}\nspec: {{{spec}}}\n",
            self.service, self.namespace
        )
    }
}

/// A Service whose ports 80 and 81, as far as there are so many, lead to these ports of its workloads.
fn service(namespace: &str, name: &str, protocol: &str, targets: &[&str]) -> String {
    let mut yaml = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  ports:\n"
    );
    for (target, (name, port)) in targets.iter().zip([("main", 80), ("other", 81)]) {
        writeln!(yaml, "  - {{name: {name}, port: {port}, targetPort: {target}, appProtocol: {protocol}}}").unwrap();
    }
    yaml
}

/// A workload without a sidecar, as an operator writes it.
fn workload((namespace, name): (&str, &str), spec: &str) -> String {
    format!(
        "---\napiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{address: 127.0.0.1, {spec}}}\n"
    )
}

/// What all rows share. Fields are dropped in order: those who call, those who are called, the mesh.
pub(super) struct Stage {
    callers: Vec<Caller>,
    gates: Vec<Sidecar>,
    mesh: Mesh,
    apps: Apps,
    /// `one`, `two` and `far`.
    spares: [App; 3],
}

/// Where a side lives, and its applications.
pub(super) struct Placed {
    pub namespace: String,
    pub service: String,
    apps: Vec<App>,
}

impl Stage {
    pub fn new(mesh: Mesh) -> Self {
        let apps = Apps::start();
        let spares = ["one", "two", "far"].map(|name| apps.app(name, Speaks::Http(obeys)));
        Self { callers: Vec::new(), gates: Vec::new(), mesh, apps, spares }
    }

    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    pub fn place(&self, index: usize, side: &str, row: &Row) -> Placed {
        let apps = row.scene.ends.iter().map(|end| self.apps.app(end.name, end.speaks)).collect();
        if row.scene.gated {
            // A port name has 15 characters at most.
            return Placed { namespace: GATED.to_owned(), service: format!("{side}-{index}"), apps };
        }
        Placed { namespace: format!("row-{index}"), service: side.to_owned(), apps }
    }

    pub fn side<'s>(&'s self, row: &'s Row, placed: &Placed) -> Side<'s> {
        Side {
            stage: self,
            namespace: placed.namespace.clone(),
            service: placed.service.clone(),
            scene: &row.scene,
            apps: placed.apps.clone(),
        }
    }

    /// Applies everything, and starts who calls and who is called.
    pub fn set(&mut self, kind: &str, rows: &[Row], plan: &[[Placed; 2]]) {
        let mut objects = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {GATED}}}\n");
        objects.push_str(&service(GATED, "idle", "http", &["spare"]));
        objects.push_str("---\napiVersion: v1\nkind: Namespace\nmetadata: {name: far}\n");
        objects.push_str(&self.spare("far", "one", [&self.spares[2]; 2]));
        let mut policies = String::new();
        let mut gates: [Vec<(String, u16)>; 2] = Default::default();
        for (row, placed) in rows.iter().zip(plan) {
            for (number, placed) in placed.iter().enumerate() {
                let side = self.side(row, placed);
                objects.push_str(&side.objects());
                if row.scene.spares && number == 0 {
                    objects.push_str(&self.spare(&side.namespace, "one", [&self.spares[0], &self.spares[1]]));
                    objects.push_str(&self.spare(&side.namespace, "two", [&self.spares[1]; 2]));
                }
                let refused = row.refused.filter(|_| number == 0);
                if row.scene.in_turn {
                    policies.push_str(&side.policy("TrafficPolicy", "loadBalancer: {policy: RoundRobin}"));
                }
                if refused.is_none() {
                    policies.push_str(&side.policy(kind, &row.specs[number]));
                }
                if row.scene.gated {
                    for (gate, app) in gates.iter_mut().zip(&side.apps) {
                        gate.push((side.service.clone(), app.port));
                    }
                }
            }
        }
        objects = unique(&objects);
        apply(&self.mesh, &objects);
        for (number, services) in gates.iter().enumerate().filter(|(_, services)| !services.is_empty()) {
            self.gates.push(self.gate(number + 1, services));
        }
        // After the services' sidecars: then `--wait` returns when they hold what concerns them.
        apply(&self.mesh, &policies);
        self.assert_refusals(kind, rows, plan);
        let clerk = Caller::start_with(&self.mesh, "callers", "clerk", &["--zone", NEAR]);
        self.callers.push(clerk);
        self.callers.push(Caller::start(&self.mesh, "callers", "guest"));
    }

    /// A service whose two ports lead to these applications.
    fn spare(&self, namespace: &str, name: &str, [main, other]: [&App; 2]) -> String {
        let mut yaml = service(namespace, name, "http", &["main", "other"]);
        let port = |name: &str, app: &App| format!("{{name: {name}, port: {}, protocol: http}}", app.port);
        let mut ports = port("main", main);
        if main.port == other.port {
            // A workload has a port once.
            yaml = service(namespace, name, "http", &["main"]);
        } else {
            write!(ports, ", {}", port("other", other)).unwrap();
        }
        yaml.push_str(&workload(
            (namespace, &format!("spare-{name}")),
            &format!("services: [{name}], ports: [{ports}]"),
        ));
        yaml
    }

    /// A sidecar in front of applications, each the only one of its service there.
    fn gate(&self, number: usize, services: &[(String, u16)]) -> Sidecar {
        let sleep = program("sleep");
        let name = format!("gate-{number}");
        let ports: Vec<String> = services
            .iter()
            .enumerate()
            .map(|(i, (service, app))| format!("{service}={}:{app}:http", GATE_PORTS + i))
            .chain([format!("spare={}:{}:http", GATE_PORTS - 1, self.spares[0].port)])
            .collect();
        let names: Vec<&str> = services.iter().map(|(service, _)| service.as_str()).chain(["idle"]).collect();
        let gate = self.mesh.run_ready(&Run {
            name: &name,
            namespace: GATED,
            services: &names,
            ports: &ports,
            command: &[text(&sleep), "infinity"],
            ..Run::default()
        });
        wait_for("the control plane takes it for ready", || {
            let workload = self.mesh.object("workload", GATED, &name);
            if workload["status"]["phase"] == "Ready" { Ok(()) } else { Err(workload.to_string()) }
        });
        gate
    }

    /// Policies without a field that is needed are refused, and say so.
    fn assert_refusals(&self, kind: &str, rows: &[Row], plan: &[[Placed; 2]]) {
        for (row, placed) in rows.iter().zip(plan) {
            let Some(because) = row.refused else { continue };
            let yaml = self.side(row, &placed[0]).policy(kind, &row.specs[0]);
            let path = file(&self.mesh, &yaml);
            let output = self.mesh.weft(&["apply", "--wait", "-f", text(&path)]);
            assert!(output.code == 1 && output.err.contains(because), "{}: {output:?}", row.field);
        }
    }
}

/// Documents of a stream, each once.
fn unique(yaml: &str) -> String {
    let mut known = BTreeSet::new();
    let documents: Vec<&str> = yaml.split("---\n").filter(|document| known.insert(*document)).collect();
    documents.join("---\n")
}
