//! What `weft get`, `stat` and `check` print, as tables, documents and names, and the exit codes: 0 done, 1 not well, 2 usage, 3 cannot
//! reach the control plane.

use crate::stage::{Instance, Load, apply};
use serde_json::Value;
use weft_integration::rig::{Mesh, wait_for};

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: catalog, namespace: shop, labels: {app: catalog}}\nspec:\n  \
parentRefs: [{group: '', kind: Service, name: catalog, port: 80}]\n  rules: [{backendRefs: [{name: catalog, port: 80}]}]\n";

#[test]
fn get_prints_tables_documents_and_names() {
    let mesh = Mesh::start();
    let _catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    apply(&mesh, ROUTE);
    let get = |arguments: &[&str]| {
        let mut all = vec!["get"];
        all.extend(arguments);
        all.extend(["-n", "shop"]);
        let output = mesh.weft(&all);
        output.ok()
    };
    let table = get(&["services"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("NAME ") && lines[0].contains("CLUSTER-IP") && lines.len() == 2, "{table}");
    assert!(lines[1].starts_with("catalog ") && lines[1].contains("80/TCP"), "{table}");
    assert!(lines.iter().all(|l| *l == l.trim_end()), "{table}");
    assert!(get(&["wl"]).contains("Ready"));
    assert!(get(&["svc", "--no-headers"]).starts_with("catalog "));
    assert_eq!(get(&["svc,httproute", "-o", "name"]), "service/catalog\nhttproute.gateway.networking.k8s.io/catalog\n");
    assert_eq!(get(&["httproute", "-l", "app=catalog", "-o", "name"]).lines().count(), 1);
    assert_eq!(get(&["httproute", "-l", "app=other", "-o", "name"]), "");
    let one: Value = serde_json::from_str(&get(&["httproute", "catalog", "-o", "json"])).unwrap();
    assert_eq!((&one["kind"], &one["metadata"]["name"]), (&"HTTPRoute".into(), &"catalog".into()));
    let many: Value = serde_json::from_str(&get(&["httproute", "-o", "json"])).unwrap();
    assert_eq!((&many["kind"], &many["items"][0]["kind"]), (&"List".into(), &"HTTPRoute".into()));
    let yaml = get(&["httproute", "catalog", "-o", "yaml"]);
    assert!(yaml.contains("\nkind: HTTPRoute\n") || yaml.starts_with("kind: HTTPRoute\n"), "{yaml}");
    // What was printed can be applied, and changes nothing.
    let again = mesh.apply(&yaml).ok();
    assert!(again.ends_with("unchanged\n") || again.ends_with("configured\n"), "{again}");
    let described = mesh.weft(&["describe", "httproute", "catalog", "-n", "shop"]).ok();
    assert!(described.contains("Programmed") && described.contains("True"), "{described}");
}

#[test]
fn stat_and_check_say_how_the_mesh_is() {
    let mesh = Mesh::start();
    let catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    apply(&mesh, ROUTE);
    let mut load = Load::start(&mesh, "http://catalog", 100);
    load.go_on_well(200);
    let row = wait_for("weft stat shows the calls", || {
        let stat = mesh.weft(&["stat", "-n", "shop", "-o", "json"]).ok();
        let stat: Value = serde_json::from_str(&stat).map_err(|e| e.to_string())?;
        let mut rows = stat["services"].as_array().into_iter().flatten();
        let row = rows.find(|r| r["service"] == "shop/catalog").cloned().unwrap_or_default();
        if row["rps"].as_f64() > Some(10.0) { Ok(row) } else { Err(stat.to_string()) }
    });
    println!("{row:#}");
    assert_eq!(row["success"], 1.0, "{row}");
    assert_eq!(row["mtls"], 1.0, "{row}");
    assert_eq!((&row["readyEndpoints"], &row["endpoints"]), (&1.into(), &1.into()), "{row}");
    assert!(row["p50Ms"].as_f64() > Some(0.0) && row["p99Ms"].as_f64() >= row["p50Ms"].as_f64(), "{row}");
    let table = mesh.weft(&["stat"]).ok();
    println!("{table}");
    let line = table.lines().find(|l| l.starts_with("shop/catalog ")).expect("a line for catalog");
    assert!(line.contains("/s") && line.contains("100%") && line.contains("ms") && line.contains("1/1"), "{table}");
    assert_eq!(mesh.weft(&["stat", "-n", "shop", "-o", "name", "catalog"]).ok(), "service/shop/catalog\n");
    assert_eq!(mesh.weft(&["stat", "nobody"]).code, 1);

    let check = wait_for("the mesh is well", || {
        let check = mesh.weft(&["check"]);
        // Warnings too pass: of what is on its way for instance.
        if check.code == 0 && check.out.contains("\nthe mesh is well (") { Ok(check.out) } else { Err(check.out) }
    });
    println!("{check}");
    assert!(!check.contains("ERROR") && check.contains("  ok       every sidecar is connected"), "{check}");
    let check: Value = serde_json::from_str(&mesh.weft(&["check", "-o", "json"]).ok()).unwrap();
    assert!(check["ok"] == true && check["checks"].as_array().is_some_and(|c| c.len() >= 5), "{check}");

    // A route that refers to nothing, and an instance that is gone.
    mesh.apply(&ROUTE.replace("{name: catalog, port: 80}]}]", "{name: nowhere, port: 80}]}]")).ok();
    let unwell = wait_for("check says so", || {
        let check = mesh.weft(&["check"]);
        let told = check.code == 1 && check.out.contains("nowhere");
        if told { Ok(check.out) } else { Err(format!("{} {}", check.code, check.out)) }
    });
    println!("{unwell}");
    assert!(unwell.contains("  ERROR    ") && unwell.contains("shop/catalog"), "{unwell}");
    assert!(unwell.contains("hint: "), "it says what to do: {unwell}");
    drop((load, catalog));
}

#[test]
fn exit_codes_say_what_kind_of_failure_it_was() {
    let mut mesh = Mesh::start();
    let code = |mesh: &Mesh, arguments: &[&str]| {
        let output = mesh.weft(arguments);
        println!("{arguments:?}: {} {}", output.code, output.err.trim());
        assert!(output.code == 0 || output.err.contains("error: ") || !output.out.is_empty(), "{output:?}");
        output.code
    };
    for arguments in [&["get", "ns"][..], &["version"], &["get", "svc", "-A"], &["check"], &["stat"]] {
        assert_eq!(code(&mesh, arguments), 0, "{arguments:?}");
    }
    for arguments in [
        &["get", "svc", "nobody"][..],
        &["delete", "svc", "nobody"],
        &["describe", "httproute", "nobody"],
        &["stat", "nobody"],
    ] {
        assert_eq!(code(&mesh, arguments), 1, "{arguments:?}");
    }
    for arguments in [
        &["weave"][..],
        &["get"],
        &["get", "svc", "-o", "html"],
        &["apply"],
        &["apply", "-f", "no/such/file.yaml"],
        &["get", "svc", "a", "-A"],
        &["run", "--port", "80"],
        &["stat", "--window", "soon"],
    ] {
        assert_eq!(code(&mesh, arguments), 2, "{arguments:?}");
    }
    mesh.kill();
    for arguments in [&["get", "ns"][..], &["check"], &["stat"], &["delete", "svc", "a"]] {
        assert_eq!(code(&mesh, arguments), 3, "{arguments:?}");
    }
    let refused = mesh.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n");
    assert_eq!(refused.code, 3);
    assert!(refused.err.contains("hint: "), "{}", refused.err);
}
