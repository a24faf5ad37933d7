//! What fails, where it begins and who suffers for it: the pages `problems`, `stat` and `live` of a shop whose payments fail on purpose, and
//! who may read them.

use crate::json;
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};
use weft_integration::rig::stage::{Instance, Load, apply, services};
use weft_integration::rig::{Mesh, Process, program, wait_for};

const FAULT: &str = "apiVersion: weft.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: payments-chaos, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: payments}]
  faults: [{abort: {status: 503, percent: 100}}]
";

/// A stream of server-sent events, as who the kubeconfig names.
fn follow(mesh: &Mesh, name: &str, query: &str) -> Process {
    let papers = mesh.papers();
    let mut curl = Command::new(program("curl"));
    curl.args(["-sSN", "--noproxy", "*", "--max-time", "120"]);
    curl.arg("--cacert").arg(papers.root).arg("--cert").arg(papers.chain).arg("--key").arg(papers.key);
    Process::start(mesh.folder(), name, curl.arg(format!("{}/weft/v1/live{query}", mesh.api())))
}

/// The data of the last whole event of a name.
fn last(log: &str, name: &str) -> Option<Value> {
    let begin = format!("event: {name}\ndata: ");
    let mut events = log.rsplit("\n\n").skip(1).filter_map(|event| event.trim_start().strip_prefix(begin.as_str()));
    events.next().and_then(|data| serde_json::from_str(data).ok())
}

/// Where calls fail: a service or an edge.
fn failing(problems: &Value) -> Vec<Value> {
    let items = problems["items"].as_array().expect("a list of problems").iter();
    items.filter(|item| item["kind"] == "service" || item["kind"] == "edge").cloned().collect()
}

#[test]
fn a_fault_is_shown_within_ten_seconds_with_who_suffers_for_it() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["storefront", "catalog", "orders", "inventory", "payments"], 80, "http");
    services(&mesh, "shop", &["users"], 9000, "grpc");
    let _callees = [
        Instance::start(&mesh, "users", "users-1", &["users"]),
        Instance::start(&mesh, "inventory", "inventory-1", &["inventory"]),
        Instance::start(&mesh, "payments", "payments-1", &["payments"]),
        Instance::start(&mesh, "catalog", "catalog-1", &["catalog", "--version", "v1"]),
        Instance::start(&mesh, "orders", "orders-1", &["orders"]),
        Instance::start(&mesh, "storefront", "storefront-1", &["storefront"]),
    ];
    let _load = Load::start(&mesh, "http://storefront", 50);
    wait_for("payments are called, and nothing fails", || {
        let stat = mesh.fetch("/weft/v1/stat?namespace=shop");
        let edges = stat["edges"].as_array().unwrap();
        let is_called = |edge: &&Value| edge["source"] == "shop/orders" && edge["service"] == "shop/payments";
        let failing = failing(&mesh.fetch("/weft/v1/problems"));
        if edges.iter().any(|edge| is_called(&edge) && edge["calls"].as_u64() > Some(20)) && failing.is_empty() {
            Ok(())
        } else {
            Err(format!("{failing:?} {edges:?}"))
        }
    });
    let table = mesh.weft(&["edges", "--from", "orders", "--to", "shop/payments"]).ok();
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines.len() == 2 && lines[1].starts_with("shop/orders  shop/payments") && lines[1].contains("100%"),
        "{table}"
    );
    let mut live = follow(&mesh, "live", "");
    live.wait_for_log("\"full\":true");

    apply(&mesh, FAULT);
    let begun = Instant::now();
    let cause = wait_for("the cause is named with all who suffer", || {
        let problems = failing(&mesh.fetch("/weft/v1/problems?namespace=shop"));
        let suffers = problems.first().map(|first| first["suffers"].to_string()).unwrap_or_default();
        match problems.as_slice() {
            [only]
                if only["name"] == "shop/payments"
                    && only["severity"] == "error"
                    && suffers.contains("shop/storefront") =>
            {
                Ok(only.clone())
            }
            other => Err(format!("{other:?}")),
        }
    });
    let stat = json(mesh.weft(&["stat", "payments", "-o", "json"]).ok());
    assert!(stat["services"][0]["success"].as_f64() < Some(0.96), "{stat}");
    wait_for("the stream has told of it too", || match last(&live.log(), "problems") {
        Some(told) if failing(&told).first().is_some_and(|first| first["name"] == "shop/payments") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let took = begun.elapsed();
    println!("shown everywhere after {took:?}: {cause}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(cause["kind"], "service");
    assert!(cause["fact"].as_str().unwrap().ends_with("of calls to shop/payments fail"), "{cause}");
    let suffers: Vec<&str> = cause["suffers"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(suffers.contains(&"shop/orders") && suffers.contains(&"shop/storefront"), "{suffers:?}");
    assert!(!suffers.iter().any(|name| ["shop/catalog", "shop/users", "shop/inventory"].contains(name)), "{suffers:?}");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let since = cause["since"].as_u64().map(|since| now.saturating_sub(since));
    assert!(since.is_none_or(|ago| ago <= 20), "{cause}");

    wait_for("the first step is over", || {
        let series = mesh.fetch("/weft/v1/series?about=edge&service=payments&source=shop/orders&window=2m");
        let line = &series["items"][0];
        let is_known = line["success"].as_array().is_some_and(|steps| steps.iter().any(Value::is_number));
        let is_it = series["from"] == "memory" && line["source"] == "shop/orders" && line["service"] == "shop/payments";
        if is_known && is_it { Ok(()) } else { Err(series.to_string()) }
    });

    mesh.weft(&["delete", "trafficpolicy", "payments-chaos", "-n", "shop"]).ok();
    wait_for("it is over", || match failing(&mesh.fetch("/weft/v1/problems")) {
        none if none.is_empty() => Ok(()),
        still => Err(format!("{still:?}")),
    });
    live.assert_running();
}

const BINDING: &str = "apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: observers, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: weft-observer}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: ana}]
";

#[test]
fn who_observes_one_namespace_reads_its_pages_until_the_role_goes() {
    let mut mesh = Mesh::start();
    services(&mesh, "shop", &["catalog"], 80, "http");
    services(&mesh, "office", &["mail"], 80, "http");
    apply(&mesh, BINDING);
    let plane = mesh.fetch("/weft/v1/controlplane");
    assert_eq!((&plane["replicas"][0]["leader"], &plane["store"]["answers"]), (&true.into(), &true.into()), "{plane}");
    assert!(plane["generation"].as_u64() > Some(0) && plane["convergence"]["last"].is_array(), "{plane}");
    mesh.weft(&["user", "add", "ana", "-o", "ana.kubeconfig"]).ok();
    let admin = mesh.kubeconfig();
    mesh.ask(mesh.folder().join("ana.kubeconfig"));
    for page in ["stat", "series", "problems"] {
        let text = mesh.fetch(&format!("/weft/v1/{page}?namespace=shop")).to_string();
        assert!(!text.contains("office/"), "{page}: {text}");
    }
    let pages =
        ["stat", "series", "problems", "live", "controlplane", "stat?namespace=office", "live?namespace=office"];
    for page in pages {
        let papers = mesh.papers();
        let mut curl = Command::new(program("curl"));
        curl.args(["-sS", "--noproxy", "*", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}"]);
        curl.arg("--cacert").arg(papers.root).arg("--cert").arg(papers.chain).arg("--key").arg(papers.key);
        let code = weft_integration::rig::run(curl.arg(format!("{}/weft/v1/{page}", mesh.api()))).ok();
        assert_eq!(code, "403", "{page}");
    }
    let mut live = follow(&mesh, "live", "?namespace=shop");
    live.wait_for_log("\"service\":\"shop/catalog\"");
    assert!(!live.log().contains("office/"), "{}", live.log());
    mesh.ask(admin);
    mesh.weft(&["delete", "rolebinding", "observers", "-n", "shop"]).ok();
    live.wait();
    assert_eq!(last(&live.log(), "end").unwrap()["reason"], "forbidden");
}
