//! `weft plan`: what it says of a change is what is measured once the change is made.

use crate::json;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use weft_integration::rig::stage::{Caller, apply, file, services, text};
use weft_integration::rig::{DEADLINE, Mesh, Upstream, wait_for};

/// Calls a second of the live load.
const RPS: u32 = 100;
/// How far a forecast may be off.
const POINTS: f64 = 0.02;

fn guard(path: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: guard, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: payments}}]
  action: Deny
  rules: [{{name: charging, from: [{{serviceAccounts: [orders]}}], to: [{{paths: ['{path}']}}]}}]
"
    )
}

const LIMIT: &str = "apiVersion: weft.mesh/v1alpha1
kind: RateLimitPolicy
metadata: {name: calm, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: payments}]
  limits: [{name: all, requests: 60, per: 1s, burst: 5}]
";

const CANARY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: payments, port: 80}]
  rules: [{backendRefs: [{name: payments, port: 80, weight: 80}, {name: payments-next, port: 80, weight: 20}]}]
";

/// How calls were answered: by status and body.
type Answers = BTreeMap<(u16, String), u64>;

/// Calls one after the other on one connection through a caller's sidecar.
struct Line {
    reader: BufReader<TcpStream>,
    credentials: String,
}

impl Line {
    fn open(caller: &Caller) -> Self {
        let (outbound, credentials) = caller.proxy();
        let stream = TcpStream::connect(outbound).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { reader: BufReader::new(stream), credentials }
    }

    fn call(&mut self, path: &str) -> (u16, String) {
        let request = format!(
            "GET http://payments{path} HTTP/1.1\r\nHost: payments\r\nProxy-Authorization: Basic {}\r\n\r\n",
            self.credentials
        );
        self.reader.get_mut().write_all(request.as_bytes()).unwrap();
        let status = self.line().split(' ').nth(1).unwrap().parse().unwrap();
        let mut length = None;
        loop {
            let field = self.line();
            match field.split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = Some(value.trim().parse().unwrap());
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut body = self.exactly(length.unwrap_or_default());
        // Without a length it comes in chunks.
        while length.is_none() {
            let size = usize::from_str_radix(&self.line(), 16).unwrap();
            body.extend(self.exactly(size));
            self.line();
            if size == 0 {
                break;
            }
        }
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes
    }
}

/// Three of five calls are charges, with ids of their own.
fn path(nth: u64) -> String {
    if nth % 5 < 3 { format!("/charges/{nth}") } else { "/items".to_owned() }
}

/// A load of a steady rate, for as long as it lives.
struct Steady {
    answers: Arc<Mutex<Answers>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Steady {
    fn start(caller: &Caller) -> Self {
        let (answers, stop) = (Arc::<Mutex<Answers>>::default(), Arc::<AtomicBool>::default());
        let (count, over, mut line) = (Arc::clone(&answers), Arc::clone(&stop), Line::open(caller));
        let thread = std::thread::spawn(move || {
            let mut due = Instant::now();
            for nth in 0_u64.. {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                // The pace of a load, not the wait for a condition. What a busy machine held up is not made up for: that would be another rate.
                due = (due + Duration::from_secs(1) / RPS).max(Instant::now());
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let (status, body) = line.call(&path(nth));
                let body = if status == 200 { body } else { String::new() };
                *count.lock().unwrap().entry((status, body)).or_default() += 1;
            }
        });
        Self { answers, stop, thread: Some(thread) }
    }

    fn total(&self) -> u64 {
        self.answers.lock().unwrap().values().sum()
    }

    fn wait(&self, calls: u64) {
        wait_for("the load goes on", || if self.total() >= calls { Ok(()) } else { Err(self.total().to_string()) });
    }

    /// Part of the next calls that are answered with a status.
    fn share(&self, calls: u64, status: u16) -> f64 {
        let of = |answers: &Answers| answers.iter().filter(|((s, _), _)| *s == status).map(|(_, n)| n).sum::<u64>();
        let before = self.answers.lock().unwrap().clone();
        let total: u64 = before.values().sum();
        self.wait(total + calls);
        let after = self.answers.lock().unwrap().clone();
        (of(&after) - of(&before)) as f64 / (after.values().sum::<u64>() - total) as f64
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What `weft plan` says, and with which exit code.
fn plan(mesh: &Mesh, yaml: &str) -> (Value, i32) {
    let path = file(mesh, yaml);
    let said = mesh.weft(&["plan", "-n", "shop", "-f", text(&path), "-o", "json"]);
    assert!(said.code < 2, "{said:?}");
    (json(said.out), said.code)
}

fn edge<'p>(plan: &'p Value, source: &str) -> &'p Value {
    let edges = plan["edges"].as_array().unwrap();
    edges.iter().find(|edge| edge["source"] == source).unwrap_or_else(|| panic!("no edge of {source}: {plan}"))
}

fn share(plan: &Value, source: &str, kind: &str) -> f64 {
    edge(plan, source)[kind].as_f64().unwrap()
}

#[track_caller]
fn assert_near(what: &str, forecast: f64, measured: f64) {
    println!("{what}: {:.1} % foreseen, {:.1} % measured", forecast * 100.0, measured * 100.0);
    assert!((forecast - measured).abs() <= POINTS, "{what}: {forecast} foreseen, {measured} measured");
}

#[test]
fn a_forecast_is_what_is_measured_once_the_change_is_made() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["payments", "payments-next"], 80, "http");
    let apps = ["v1", "v2"].map(|version| Upstream::start(move |_| (200, version.to_owned())));
    let _payments = apps[0].instance(&mesh, "payments", "payments-1");
    let _next = apps[1].instance(&mesh, "payments-next", "payments-next-1");
    let (orders, cart) = (Caller::start(&mesh, "shop", "orders"), Caller::start(&mesh, "shop", "cart"));
    orders.until("payments answers", "http://payments/items", |answer| answer.status == 200);
    let load = Steady::start(&orders);
    load.wait(u64::from(RPS) * 6);
    let known = wait_for("the calls are known", || {
        let (plan, code) = plan(&mesh, &guard("/admin*"));
        assert_eq!(code, 0, "{plan}");
        if plan["calls"].as_u64() >= Some(u64::from(RPS) * 4) { Ok(plan) } else { Err(plan.to_string()) }
    });

    // A rule that hits nothing.
    assert_eq!((&known["wouldDeny"], &known["changes"]), (&false.into(), &Value::Array(Vec::new())), "{known}");
    assert_eq!((&known["objects"][0]["change"], &known["unknown"]), (&"created".into(), &Value::Array(Vec::new())));
    // Nothing was written.
    assert_eq!(mesh.weft(&["get", "authorizationpolicy", "guard", "-n", "shop"]).code, 1);
    // Once it is, it is in force and none of them notices.
    apply(&mesh, &guard("/admin*"));
    assert_eq!(Line::open(&orders).call("/admin/keys").0, 403, "the rule is in force");
    assert_near("hit by a rule for others", share(&known, "shop/orders", "deniedShare"), 1.0 - load.share(500, 200));
    mesh.weft(&["delete", "authorizationpolicy", "guard", "-n", "shop"]).ok();
    let line = Mutex::new(Line::open(&orders));
    wait_for("the rule is gone", || match line.lock().unwrap().call("/admin/keys") {
        (403, _) => Err("denied".to_owned()),
        _ => Ok(()),
    });

    // One that hits orders → payments.
    let (denies, code) = plan(&mesh, &guard("/charges/*"));
    assert_eq!((code, &denies["wouldDeny"]), (1, &true.into()), "{denies}");
    let change = &denies["changes"][0];
    assert_eq!((&change["kind"], &change["path"]), (&"denied".into(), &"/charges/{number}".into()));
    assert_eq!((&change["source"], &change["policy"]), (&"shop/orders".into(), &"shop/guard".into()));
    apply(&mesh, &guard("/charges/*"));
    assert_near("denied", share(&denies, "shop/orders", "deniedShare"), load.share(500, 403));
    // What is in force is nothing new.
    let (again, code) = plan(&mesh, &guard("/charges/*"));
    assert_eq!((code, &again["objects"][0]["change"]), (0, &"unchanged".into()), "{again}");
    let (allows, _) = plan(&mesh, &guard("/admin*"));
    assert!(share(&allows, "shop/orders", "allowedShare") > 0.5, "{allows}");
    mesh.weft(&["delete", "authorizationpolicy", "guard", "-n", "shop"]).ok();
    wait_for("the policy is gone", || if load.share(20, 403) == 0.0 { Ok(()) } else { Err("denied".to_owned()) });

    // A rate limit below the live rate.
    let (limits, code) = plan(&mesh, LIMIT);
    assert_eq!(code, 0, "{limits}");
    apply(&mesh, LIMIT);
    load.share(50, 429);
    assert_near("limited", share(&limits, "shop/orders", "limitedShare"), load.share(800, 429));
    mesh.weft(&["delete", "ratelimitpolicy", "calm", "-n", "shop"]).ok();
    drop(load);

    // A canary of 20 %, of another caller whose calls are many: what is drawn must not decide.
    let mut line = Line::open(&cart);
    line.call("/items");
    let known = |plan: &Value| plan["edges"].as_array().unwrap().iter().any(|edge| edge["source"] == "shop/cart");
    let canary = wait_for("the calls of cart are known", || {
        let (plan, _) = plan(&mesh, CANARY);
        if known(&plan) { Ok(plan) } else { Err(plan.to_string()) }
    });
    assert_eq!(canary["wouldDeny"], false);
    apply(&mesh, CANARY);
    let drawn = (0..6000).filter(|nth| line.call(&path(*nth)) == (200, "v2".to_owned())).count();
    assert_near("rerouted", share(&canary, "shop/cart", "reroutedShare"), drawn as f64 / 6000.0);

    // People read a table; who may not change it may not ask either.
    let path = file(&mesh, &guard("/charges/*"));
    let table = mesh.weft(&["plan", "-n", "shop", "-f", text(&path)]);
    assert!(table.code == 1 && table.out.contains("/charges/{number}"), "{table:?}");
    assert!(table.out.contains("calls that are made now would be denied"), "{table:?}");
    mesh.weft(&["user", "add", "ana", "-o", "ana.kubeconfig"]).ok();
    let refused = mesh.weft(&["--kubeconfig", "ana.kubeconfig", "plan", "-n", "shop", "-f", text(&path)]);
    assert!(refused.code == 1 && refused.err.contains("plans"), "{refused:?}");
}
