//! A change of policy that breaks every call it is about reaches a twentieth of the sidecars, and goes back by itself: users hardly notice.

use crate::stage::{Caller, Instance, Load, apply, condition, file, services, text};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use weft_integration::rig::{Mesh, Output, wait_for};

/// Instances of the storefront: a sample of 5 % is one of them.
const STOREFRONTS: usize = 20;

const SETTINGS: &str = "apiVersion: weft.mesh/v1alpha1\nkind: MeshSettings\nmetadata: {name: default}\n\
    spec: {rollout: {percent: 5, duration: 12s}}\n";
const GOOD: &str = "timeouts: {request: 5s}";
const BETTER: &str = "timeouts: {request: 4s}";
const BROKEN: &str = "faults: [{abort: {status: 503}}]";

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: catalog, namespace: shop}}\nspec:\n  \
         targetRefs: [{{kind: Service, name: catalog}}]\n  {spec}\n"
    )
}

fn wait(mesh: &Mesh, yaml: &str) -> Output {
    mesh.weft(&["apply", "--wait", "--timeout", "30s", "-f", text(&file(mesh, yaml))])
}

/// Reasons and messages of the events of the policy.
fn events(mesh: &Mesh) -> Vec<(String, String, String)> {
    let all: Value = serde_json::from_str(&mesh.weft(&["get", "events", "-n", "shop", "-o", "json"]).ok()).unwrap();
    let of =
        |event: &Value| ["type", "reason", "message"].map(|field| event[field].as_str().unwrap_or_default().to_owned());
    let items = all["items"].as_array().cloned().unwrap_or_default();
    let own = items.iter().filter(|event| event["involvedObject"]["kind"] == "TrafficPolicy");
    own.map(|event| of(event).into()).collect()
}

fn programmed(mesh: &Mesh) -> Value {
    condition(&mesh.object("trafficpolicy", "shop", "catalog"), "Programmed")
}

/// The shop with its many storefronts, and its users.
struct Shop {
    _instances: Vec<Instance>,
    load: Load,
}

fn open(mesh: &Mesh) -> Shop {
    let behind = ["catalog", "orders", "inventory", "payments"];
    services(mesh, "shop", &[&["storefront"][..], &behind].concat(), 80, "http");
    services(mesh, "shop", &["users"], 9000, "grpc");
    let start = |service: &str, name: &str| Instance::start(mesh, service, name, &[service]);
    let mut instances: Vec<_> =
        behind.iter().chain(&["users"]).map(|service| start(service, &format!("{service}-1"))).collect();
    instances.extend((1..=STOREFRONTS).map(|i| start("storefront", &format!("storefront-{i}"))));
    let mut load = Load::start(mesh, "http://storefront", 200);
    load.go_on_well(1000);
    apply(mesh, &policy(GOOD));
    apply(mesh, SETTINGS);
    Shop { _instances: instances, load }
}

#[test]
fn a_change_that_breaks_calls_is_rolled_back_by_itself_and_a_good_one_gets_to_all() {
    let mut mesh = Mesh::start();
    let shop = open(&mesh);

    // Of what breaks every call of a sidecar that has it, users see little, and not for long: theirs are tried again elsewhere, too.
    let start = Instant::now();
    let output = wait(&mesh, &policy(BROKEN));
    println!("after {:?}: {}\n{}", start.elapsed(), output.code, output.err);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.err.contains("RolledBack") && output.err.contains("1 of 20 sidecars"), "{output:?}");
    let condition = programmed(&mesh);
    assert_eq!((&condition["status"], &condition["reason"]), (&"False".into(), &"RolledBack".into()), "{condition}");
    println!("{}", condition["message"]);
    let told = wait_for("an event says why", || {
        let events = events(&mesh);
        let found = events.iter().find(|(kind, reason, _)| kind == "Warning" && reason == "RolledBack");
        found.cloned().ok_or_else(|| format!("{events:?}"))
    });
    assert!(told.2.contains("error rate of 1 of 20 sidecars went from 0.0 % to"), "{told:?}");
    assert!(events(&mesh).iter().any(|(_, reason, _)| reason == "RolloutStarted"));

    // The same again is no change; nor does a restart of the control plane let it in.
    let broken = shop.load.report().unwrap();
    assert_eq!(wait(&mesh, &policy(BROKEN)).code, 1);
    mesh.kill();
    mesh.up(&[]);
    wait_for("the restarted control plane says the same", || {
        let condition = programmed(&mesh);
        if condition["reason"] == "RolledBack" { Ok(()) } else { Err(condition.to_string()) }
    });
    let reached = shop.load.total();
    wait_for("calls go on", || if shop.load.total() > reached + 2000 { Ok(()) } else { Err("not yet".into()) });
    let report = shop.load.report().unwrap();
    assert_eq!(report["failed"], broken["failed"], "nobody has it any more: {report:#}");

    // A good one takes its time, and is in force for all.
    let start = Instant::now();
    let output = wait(&mesh, &policy(BETTER));
    println!("after {:?}: {}{}", start.elapsed(), output.out, output.err);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(start.elapsed() >= Duration::from_secs(12), "{:?}", start.elapsed());
    let condition = programmed(&mesh);
    assert_eq!(condition["message"], "20 of 20 sidecars hold generation 3", "{condition}");
    wait_for("an event says so", || {
        let events = events(&mesh);
        if events.iter().any(|(_, reason, _)| reason == "RolledOut") { Ok(()) } else { Err(format!("{events:?}")) }
    });

    let report = shop.load.stop();
    let (total, failed) = (report["total"].as_f64().unwrap(), report["failed"].as_f64().unwrap());
    println!("{failed} of {total} calls of users failed: {:.3} %", failed / total * 100.0);
    assert!(failed / total < 0.01, "{report:#}");
}

#[test]
fn a_policy_that_refuses_everybody_is_taken_back_from_the_one_instance_that_had_it() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["catalog"], 80, "http");
    let instances = ["catalog-1", "catalog-2", "catalog-3"].map(|name| Instance::catalog(&mesh, name, "v1"));
    let caller = Caller::start(&mesh, "shop", "web");
    caller.until("catalog answers", "http://catalog/items", |answer| answer.status == 200);
    apply(&mesh, SETTINGS);
    let (over, seen) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !over.load(SeqCst) {
                let status = caller.get("http://catalog/items").status;
                seen[usize::from(status != 200)].fetch_add(1, SeqCst);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let deny = "apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: nobody, namespace: shop}\n\
            spec: {targetRefs: [{kind: Service, name: catalog}], action: Deny, rules: [{name: all}]}\n";
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait(&mesh, deny)));
        over.store(true, SeqCst);
        let output = tried.unwrap();
        println!("{output:?}");
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.err.contains("share of refused calls of 1 of 3 sidecars"), "{output:?}");
    });
    let [well, refused] = seen.map(|count| count.load(SeqCst));
    println!("{refused} calls were refused, {well} were not");
    assert!(refused > 0 && refused < well, "{refused} calls were refused, {well} were not");
    caller.until("nobody is refused any more", "http://catalog/items", |answer| answer.status == 200);
    for _ in 0..30 {
        assert_eq!(caller.get("http://catalog/items").status, 200);
    }
    drop(instances);
}
