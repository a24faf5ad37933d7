//! Whom calls were addressed to, and who answered: a route that gives them to another service, on two services at once, and a workload that
//! belongs to two.

use crate::json;
use serde_json::Value;
use weft_integration::rig::stage::{Caller, apply, services};
use weft_integration::rig::{Mesh, Run, accepts, binary, free_port, wait_for};

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: released, namespace: shop}
spec:
  parentRefs:
  - {group: '', kind: Service, name: catalog, port: 80}
  - {group: '', kind: Service, name: wares, port: 80}
  rules: [{backendRefs: [{name: catalog-v1, port: 80}]}]
";

/// Calls of each service, by name: all of them, and those that were sent to nobody.
fn counted(mesh: &Mesh) -> Vec<(String, u64, u64)> {
    let stat = json(mesh.weft(&["stat", "-n", "shop", "--window", "5m", "-o", "json"]).ok());
    let count = |row: &Value, what: &str| row[what].as_u64().unwrap_or_else(|| panic!("{what}: {row}"));
    let of = |row: &Value| (row["service"].as_str().unwrap().to_owned(), count(row, "calls"), count(row, "unsent"));
    stat["services"].as_array().unwrap().iter().map(of).collect()
}

/// The services that took calls of a route of `service`, with how many.
fn taken(mesh: &Mesh, service: &str) -> Vec<(String, u64)> {
    let routes = json(mesh.weft(&["routes", service, "--window", "5m", "-o", "json"]).ok());
    let item = routes["items"].as_array().unwrap().iter().find(|item| item["route"] == "shop/released");
    let traffic = item.and_then(|item| item["traffic"].as_array()).into_iter().flatten();
    traffic.map(|row| (row["service"].as_str().unwrap().to_owned(), row["calls"].as_u64().unwrap())).collect()
}

#[test]
fn calls_count_for_the_service_that_was_called_and_for_the_one_that_a_route_gave_them_to() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["catalog", "catalog-v1", "empty", "shelf", "wares"], 80, "http");
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let mut instance = mesh.run(&Run {
        name: "catalog-v1-1",
        // Of its two services the first is the one that nobody calls.
        services: &["shelf", "catalog-v1"],
        ports: &[format!("80:{port}:http")],
        flags: &["--death", "kill"],
        command: &[binary("weft-shop").to_str().unwrap(), "catalog", "--listen", &listen],
        ..Run::default()
    });
    instance.wait_ready();
    wait_for("the program listens", || accepts(([127, 0, 0, 1], port).into()));
    apply(&mesh, ROUTE);
    let buyer = Caller::start(&mesh, "shop", "buyer");
    let hosts = [("catalog", 30), ("wares", 20), ("catalog-v1", 10)];
    for (host, _) in hosts {
        // Nothing is counted twice: each is called once until it answers.
        wait_for("it answers", || match buyer.get(&format!("http://{host}/items")).status {
            200 => Ok(()),
            status => Err(format!("{host}: {status}")),
        });
    }
    let before = wait_for("the first calls are told", || {
        let counted = counted(&mesh);
        let all =
            hosts.iter().all(|(host, _)| counted.iter().any(|(name, n, _)| *name == format!("shop/{host}") && *n > 0));
        if all { Ok(counted) } else { Err(format!("{counted:?}")) }
    });
    let first = hosts.map(|(host, _)| taken(&mesh, host).first().map_or(0, |(_, calls)| *calls));
    for (host, times) in hosts.into_iter().chain([("empty", 5)]) {
        for _ in 0..times {
            assert_eq!(
                buyer.get(&format!("http://{host}/items")).status,
                if host == "empty" { 503 } else { 200 },
                "{host}"
            );
        }
    }
    let more = [
        ("shop/catalog", 30, 0),
        ("shop/catalog-v1", 60, 0),
        ("shop/empty", 5, 5),
        ("shop/shelf", 0, 0),
        ("shop/wares", 20, 0),
    ];
    wait_for("all calls are told", || {
        let now = counted(&mesh);
        let grown = now.iter().zip(&before).map(|((name, calls, unsent), (_, n, u))| (&**name, calls - n, unsent - u));
        let grown: Vec<_> = grown.collect();
        if grown == more { Ok(()) } else { Err(format!("{grown:?}")) }
    });
    for ((host, times), first) in hosts.into_iter().zip(first).take(2) {
        assert_eq!(taken(&mesh, host), [("shop/catalog-v1".to_owned(), first + times)], "of {host}");
    }
    // Who called whom: each call once, where it went.
    let edges = json(mesh.weft(&["edges", "-n", "shop", "--from", "buyer", "--window", "5m", "-o", "json"]).ok());
    let of =
        |service: &str| edges["items"].as_array().unwrap().iter().filter(|edge| edge["service"] == service).count();
    assert_eq!((of("shop/catalog-v1"), of("shop/catalog"), of("shop/wares")), (1, 0, 0), "{edges:#}");
}
