//! The table's machinery: rows, the mesh that all of them share, and their comparison with the schema.
//!
//! Each row has two services of its own, one under a policy without its field and one under a policy with it, so that no row waits for
//! another and nothing is configured twice. Everything is applied at once; the rows then are looked at, several at a time.

mod schema;

use crate::app::{App, Apps, Speaks};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use weft_integration::rig::stage::{Answer, Caller, apply, file, text};
use weft_integration::rig::{Mesh, Run, Sidecar, program, wait_for};

/// Rows that are looked at at a time: most of them wait most of the time.
const AT_ONCE: usize = 12;
/// Zone of the caller.
pub const NEAR: &str = "near";
/// Where services live whose applications have sidecars.
const GATED: &str = "gated";
/// First of the ports that a gate's peers ask for.
const GATE_PORTS: usize = 8000;

/// One endpoint of a service.
#[derive(Clone, Copy)]
pub struct End {
    /// Name of the application.
    pub name: &'static str,
    /// What it does.
    pub speaks: Speaks,
    /// Where it runs; empty: it does not say.
    pub zone: &'static str,
    /// Whether it comes only when a row asks for it.
    pub late: bool,
}

/// An endpoint that is there from the beginning.
pub const fn end(name: &'static str, speaks: Speaks) -> End {
    End { name, speaks, zone: "", late: false }
}

/// Who answers a service's calls.
#[derive(Clone)]
pub struct Scene {
    /// Its endpoints.
    pub ends: Vec<End>,
    /// What the service's port is declared to speak.
    pub protocol: &'static str,
    /// Whether each endpoint is behind a sidecar of its own: the first gate, the second.
    pub gated: bool,
    /// Whether there are other services beside it: `one` and `two`, besides `one` in the namespace `far`, which is always there.
    pub spares: bool,
    /// Whether its endpoints get calls in turn, whatever its policies say.
    pub in_turn: bool,
}

/// HTTP, without sidecars.
pub fn scene(ends: &[End]) -> Scene {
    Scene { ends: ends.to_vec(), protocol: "http", gated: false, spares: false, in_turn: false }
}

/// What a service's callers see under its policy, in a few words.
pub type Look = Box<dyn Fn(&Side<'_>) -> String + Send + Sync>;

/// A field and what it does.
pub struct Row {
    field: String,
    scene: Scene,
    /// `spec` without the field and with it, as the inside of a flow mapping; `targetRefs` need not be said. `$SERVICE`, `$PORT` and
    /// `$NAMESPACE` stand for the side's own.
    specs: [String; 2],
    look: Look,
    /// What is seen without the field and with it.
    seen: [&'static str; 2],
    /// What the API says to the policy without the field.
    refused: Option<&'static str>,
}

/// A row of a field.
pub fn row(
    field: impl Into<String>,
    scene: Scene,
    [without, with]: [&str; 2],
    seen: [&'static str; 2],
    look: impl Fn(&Side<'_>) -> String + Send + Sync + 'static,
) -> Row {
    let field = field.into();
    assert_ne!(seen[0], seen[1], "{field}: nothing is seen of it");
    let specs = [without.to_owned(), with.to_owned()];
    Row { field, scene, specs, look: Box::new(look), seen, refused: None }
}

impl Row {
    /// The same with a sidecar before each application; `None`: it is not about calls that could have one.
    pub fn behind_sidecars(mut self) -> Option<Self> {
        let is_one_of_many = |end: &End| matches!(end.speaks, Speaks::Http(_)) && !end.late && end.zone.is_empty();
        let scene = &mut self.scene;
        let fits = (1..=2).contains(&scene.ends.len()) && scene.ends.iter().all(is_one_of_many) && !scene.spares;
        scene.gated = true;
        fits.then_some(self)
    }

    /// The API refuses the policy without the field, and says this.
    pub fn refused(mut self, because: &'static str) -> Self {
        self.refused = Some(because);
        self
    }
}

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
struct Stage {
    callers: Vec<Caller>,
    _gates: Vec<Sidecar>,
    mesh: Mesh,
    apps: Apps,
    /// `one`, `two` and `far`.
    spares: [App; 3],
}

/// Looks at every row, and at every field of the schema for its row.
pub fn check(kind: &str, rows: &[Row]) {
    let mesh = Mesh::start();
    schema::assert_every_field_has_a_row(&mesh, kind, rows);
    look_at_all(mesh, kind, rows);
}

/// Looks at these rows.
pub fn check_again(kind: &str, rows: &[Row]) {
    look_at_all(Mesh::start(), kind, rows);
}

fn look_at_all(mesh: Mesh, kind: &str, rows: &[Row]) {
    let began = Instant::now();
    let apps = Apps::start();
    let well = |name| apps.app(name, Speaks::Http(crate::app::obeys));
    let spares = [well("one"), well("two"), well("far")];
    let mut stage = Stage { callers: Vec::new(), _gates: Vec::new(), mesh, apps, spares };
    let plan: Vec<[Placed; 2]> =
        rows.iter().enumerate().map(|(i, row)| ["without", "with"].map(|side| stage.place(i, side, row))).collect();
    stage.set(kind, rows, &plan);
    schema::assert_rows_differ_in_their_fields(&stage.mesh, kind, rows, &plan);
    println!("{kind}: {} rows stand after {:.1?}", rows.len(), began.elapsed());

    let todo: Vec<(&Row, &[Placed; 2])> = rows.iter().zip(&plan).collect();
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Result<String, String>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((row, sides)) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = look(&stage, row, sides);
                    results.lock().unwrap().push(result);
                }
            });
        }
    });
    let results = results.into_inner().unwrap();
    let failures: Vec<&String> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    results.iter().filter_map(|result| result.as_ref().ok()).for_each(|line| println!("{line}"));
    println!("{kind}: {} rows in {:.1?}", rows.len(), began.elapsed());
    assert!(failures.is_empty(), "{kind}:\n{}", failures.iter().map(|f| f.as_str()).collect::<Vec<_>>().join("\n"));
}

/// Where a side lives, and its applications.
struct Placed {
    namespace: String,
    service: String,
    apps: Vec<App>,
}

fn look(stage: &Stage, row: &Row, sides: &[Placed; 2]) -> Result<String, String> {
    let began = Instant::now();
    let mut seen = Vec::new();
    for (placed, wanted) in sides.iter().zip(row.seen) {
        let side = stage.side(row, placed);
        let looked = catch_unwind(AssertUnwindSafe(|| (row.look)(&side)));
        seen.push(match looked {
            Ok(seen) => (seen, wanted),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                (text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned())).unwrap_or_default(), wanted)
            }
        });
    }
    let took: Duration = began.elapsed();
    let [(without, wanted_without), (with, wanted_with)] = &seen[..] else { unreachable!("two sides") };
    if without == wanted_without && with == wanted_with {
        return Ok(format!("{}: {without} without, {with} with it ({took:.1?})", row.field));
    }
    Err(format!(
        "{}: without it `{without}` (wanted `{wanted_without}`), with it `{with}` (wanted `{wanted_with}`), in {took:.1?}",
        row.field
    ))
}

impl Stage {
    fn place(&self, index: usize, side: &str, row: &Row) -> Placed {
        let apps = row.scene.ends.iter().map(|end| self.apps.app(end.name, end.speaks)).collect();
        if row.scene.gated {
            // A port name has 15 characters at most.
            return Placed { namespace: GATED.to_owned(), service: format!("{side}-{index}"), apps };
        }
        Placed { namespace: format!("row-{index}"), service: side.to_owned(), apps }
    }

    fn side<'s>(&'s self, row: &'s Row, placed: &Placed) -> Side<'s> {
        Side {
            stage: self,
            namespace: placed.namespace.clone(),
            service: placed.service.clone(),
            scene: &row.scene,
            apps: placed.apps.clone(),
        }
    }

    /// Applies everything, and starts who calls and who is called.
    fn set(&mut self, kind: &str, rows: &[Row], plan: &[[Placed; 2]]) {
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
            self._gates.push(self.gate(number + 1, services));
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

/// Status and `weft-error` of an answer: `504 request-timeout`, `200`.
pub fn told(answer: &Answer) -> String {
    match answer.header("weft-error") {
        Some(error) => format!("{} {error}", answer.status),
        None => answer.status.to_string(),
    }
}
