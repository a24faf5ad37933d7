//! An instance that dies is taken out of balancing by its callers' breakers and comes back when it is back. Calls that may be sent again
//! are; their callers notice nothing.

use crate::stage::{Caller, Instance, Load};
use serde_json::Value;
use weft_integration::rig::{Mesh, Sidecar, wait_for};

/// What a sidecar says of the breaker of an endpoint: 0 closed, 1 open, 2 half-open; `None` when it knows no such endpoint.
fn breaker(sidecar: &Sidecar, endpoint: &str) -> Option<f64> {
    let label = format!("endpoint=\"{endpoint}\"");
    let metrics = sidecar.metrics();
    let mut lines = metrics.lines().filter(|l| l.starts_with("weft_breaker_state{") && l.contains(&label));
    lines.next()?.rsplit(' ').next()?.parse().ok()
}

/// Failures of calls that may be sent again.
fn of_gets(report: &Value) -> Vec<&Value> {
    report["failures"].as_array().into_iter().flatten().filter(|f| f["method"] == "GET").collect()
}

#[test]
fn an_instance_that_is_killed_is_ejected_and_comes_back_and_no_idempotent_call_fails() {
    let mesh = Mesh::start();
    let _one = Instance::catalog(&mesh, "catalog-1", "v1");
    let _two = Instance::catalog(&mesh, "catalog-2", "v2");
    let three = Instance::catalog(&mesh, "catalog-3", "v3");
    let mut load = Load::start(&mesh, "http://catalog", 150);
    load.go_on_well(300);
    wait_for("every instance gets calls", || {
        let report = load.report()?;
        if report["variants"]["v3"].as_u64() > Some(10) { Ok(()) } else { Err(report["variants"].to_string()) }
    });
    assert_eq!(breaker(&load.sidecar, "shop/catalog-3"), Some(0.0));

    let port = three.port;
    three.die();
    wait_for("its breaker opens", || match breaker(&load.sidecar, "shop/catalog-3") {
        Some(state) if state > 0.5 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    wait_for("weft stat shows it", || {
        let stat = mesh.weft(&["stat", "catalog", "-n", "shop", "-o", "json"]).ok();
        let stat: Value = serde_json::from_str(&stat).map_err(|e| e.to_string())?;
        let open = |b: &Value| b["endpoint"] == "shop/catalog-3" && b["state"] != "closed";
        if stat["breakers"].as_array().into_iter().flatten().any(open) { Ok(()) } else { Err(stat.to_string()) }
    });
    // Others that live are not taken out with it.
    assert_eq!(breaker(&load.sidecar, "shop/catalog-1"), Some(0.0));
    assert_eq!(breaker(&load.sidecar, "shop/catalog-2"), Some(0.0));

    let before = load.report().unwrap()["variants"]["v3"].as_u64().unwrap();
    let three = Instance::start_at(&mesh, "catalog", "catalog-3", &["catalog", "--version", "v3"], port);
    wait_for("its breaker closes", || match breaker(&load.sidecar, "shop/catalog-3") {
        Some(state) if state < 0.5 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    wait_for("it gets calls again", || {
        let now = load.report()?["variants"]["v3"].as_u64().unwrap_or_default();
        if now > before + 10 { Ok(()) } else { Err(format!("{now} calls, {before} before")) }
    });
    assert!(three.served() > 0.0);
    let retries = load.sidecar.metric("weft_retries_total", &[]);
    let report = load.stop();
    println!("{} calls, {} failed, {retries} retries, {}", report["total"], report["failed"], report["variants"]);
    assert!(of_gets(&report).is_empty(), "{report:#}");
    // Of the others only those that were under way when it died could fail.
    assert!(report["failed"].as_u64() < Some(10), "{report:#}");
}

#[test]
fn the_only_instance_is_never_ejected() {
    let mesh = Mesh::start();
    let catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let caller = Caller::start(&mesh, "shop", "caller");
    assert_eq!(caller.get("http://catalog/items").status, 200);
    let port = catalog.port;
    catalog.die();
    for _ in 0..20 {
        let answer = caller.get("http://catalog/items");
        assert!(matches!(answer.status, 502..=504), "{answer:?}");
        assert_ne!(answer.header("weft-error"), Some("breaker-open"), "{answer:?}");
    }
    let _catalog = Instance::start_at(&mesh, "catalog", "catalog-1", &["catalog", "--version", "v1"], port);
    caller.until("it answers as soon as it is back", "http://catalog/items", |a| a.status == 200);
}
