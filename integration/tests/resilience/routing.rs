//! Where calls go: weights, consumer routes, matches, timeouts, references to nothing, gRPC by method. Each as its callers see it.

use crate::stage::{Caller, Instance, Load, apply, condition, services};
use std::fmt::Write as _;
use std::time::Duration;
use tonic::{Code, Status};
use weft_integration::rig::{DEADLINE, Mesh};
use weft_integration::shop::proto::users_client::UsersClient;
use weft_integration::shop::proto::{FindRequest, ListRequest, User};

/// A route of `catalog` in the namespace `shop`, as `kind`, in `namespace`.
fn route(namespace: &str, name: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: catalog, namespace: shop, port: 80}}]\n  rules:\n{rules}"
    )
}

/// The service that people call, and two editions of it with an instance each.
fn editions(mesh: &Mesh) -> [Instance; 2] {
    services(mesh, "shop", &["catalog", "catalog-v1", "catalog-v2"], 80, "http");
    ["v1", "v2"].map(|v| {
        let service = format!("catalog-{v}");
        Instance::start(mesh, &service, &format!("{service}-1"), &["catalog", "--version", v])
    })
}

#[test]
fn weights_are_kept_within_three_points() {
    let mesh = Mesh::start();
    let _editions = editions(&mesh);
    let rules =
        "  - backendRefs: [{name: catalog-v1, port: 80, weight: 90}, {name: catalog-v2, port: 80, weight: 10}]\n";
    apply(&mesh, &route("shop", "catalog", rules));
    let report = Load::during(&mesh, "http://catalog", 300, "8s").end();
    println!("{} calls, {}", report["total"], report["variants"]);
    assert_eq!(report["failed"], 0, "{report:#}");
    let of = |v: &str| report["variants"][v].as_f64().unwrap_or_default();
    let share = 100.0 * of("v1") / (of("v1") + of("v2"));
    assert!(of("v1") + of("v2") >= 2000.0, "{report:#}");
    assert!((87.0..=93.0).contains(&share), "{share:.1} %");
    // A weight of nought gets nothing, though it names nobody.
    let rules = "  - backendRefs: [{name: catalog-v1, port: 80, weight: 0}, {name: catalog-v2, port: 80}, {name: nobody, port: 80, weight: 0}]\n";
    apply(&mesh, &route("shop", "catalog", rules));
    let caller = Caller::start(&mesh, "shop", "caller");
    for _ in 0..50 {
        assert_eq!(caller.get("http://catalog/items").header("x-catalog-version"), Some("v2"));
    }
}

#[test]
fn a_consumer_route_shows_only_to_its_own_namespace() {
    let mesh = Mesh::start();
    let _editions = editions(&mesh);
    services(&mesh, "press", &["unused"], 80, "http");
    apply(&mesh, &route("shop", "catalog", "  - backendRefs: [{name: catalog-v1, port: 80}]\n"));
    let (shop, press) = (Caller::start(&mesh, "shop", "clerk"), Caller::start(&mesh, "press", "critic"));
    let version = |caller: &Caller, url: &str| caller.get(url).header("x-catalog-version").map(str::to_owned);
    assert_eq!(version(&shop, "http://catalog/items").as_deref(), Some("v1"));
    assert_eq!(
        version(&press, "http://catalog.shop/items").as_deref(),
        Some("v1"),
        "the producer's route holds for all"
    );
    let consumer = route("press", "preview", "  - backendRefs: [{name: catalog-v2, namespace: shop, port: 80}]\n");
    apply(&mesh, &consumer);
    for _ in 0..20 {
        assert_eq!(version(&press, "http://catalog.shop/items").as_deref(), Some("v2"), "it replaces the producer's");
        assert_eq!(version(&shop, "http://catalog/items").as_deref(), Some("v1"));
    }
    mesh.weft(&["delete", "httproute", "preview", "-n", "press"]).ok();
    press.until("the producer's route holds again", "http://catalog.shop/items", |a| {
        a.header("x-catalog-version") == Some("v1")
    });
}

#[test]
fn a_header_a_path_and_a_method_choose_the_rule() {
    let mesh = Mesh::start();
    let _editions = editions(&mesh);
    let mut rules = String::new();
    for (matches, backend) in [
        ("headers: [{name: X-Canary, value: 'yes'}]", "catalog-v2"),
        ("path: {type: Exact, value: /new}", "catalog-v2"),
        ("path: {value: /v2}", "catalog-v2"),
        ("path: {value: /}, method: DELETE", "catalog-v2"),
        ("path: {value: /items}", "catalog-v1"),
    ] {
        writeln!(rules, "  - {{matches: [{{{matches}}}], backendRefs: [{{name: {backend}, port: 80}}]}}").unwrap();
    }
    apply(&mesh, &route("shop", "catalog", &rules));
    let caller = Caller::start(&mesh, "shop", "caller");
    for (method, path, header, expected) in [
        ("GET", "/items", "", Ok("v1")),
        ("GET", "/items/7", "", Ok("v1")),
        // Longer prefix before headers, by Gateway API's precedence.
        ("GET", "/items", "x-canary: yes", Ok("v1")),
        ("GET", "/other", "x-canary: yes", Ok("v2")),
        ("GET", "/other", "x-canary: no", Err(404)),
        ("GET", "/new", "", Ok("v2")),
        ("GET", "/new/er", "", Err(404)),
        ("GET", "/v2/a", "", Ok("v2")),
        ("GET", "/v2example", "", Err(404)),
        ("DELETE", "/other", "", Ok("v2")),
    ] {
        let headers: &[&str] = if header.is_empty() { &[] } else { &[header] };
        let answer = caller.call(method, &format!("http://catalog{path}"), headers);
        let got = answer.header("x-catalog-version").ok_or(answer.status);
        assert_eq!(got, expected, "{method} {path} {header}: {answer:?}");
        if expected.is_err() {
            assert_eq!(answer.header("weft-error"), Some("no-route"), "{answer:?}");
        }
    }
}

#[test]
fn a_call_that_takes_longer_than_its_route_allows_is_504() {
    let mesh = Mesh::start();
    let slow = ["inventory", "--slow-percent", "100", "--slow-for", "20s"];
    let _inventory = Instance::start(&mesh, "inventory", "inventory-1", &slow);
    let limit = |timeouts: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: inventory, namespace: shop}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: inventory, port: 80}}]\n  \
             rules: [{{timeouts: {timeouts}, backendRefs: [{{name: inventory, port: 80}}]}}]\n"
        )
    };
    let caller = Caller::start(&mesh, "shop", "caller");
    for (timeouts, reason, method) in [
        ("{request: 300ms}", "request-timeout", "GET"),
        ("{request: 300ms}", "request-timeout", "POST"),
        ("{request: 5s, backendRequest: 200ms}", "try-timeout", "POST"),
    ] {
        apply(&mesh, &limit(timeouts));
        let start = std::time::Instant::now();
        let answer = caller.call(method, "http://inventory/stock", &[]);
        println!(
            "{timeouts} {method}: {} {:?} after {:?}",
            answer.status,
            answer.header("weft-error"),
            start.elapsed()
        );
        assert_eq!((answer.status, answer.header("weft-error")), (504, Some(reason)), "{answer:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}

#[test]
fn a_reference_to_nothing_fails_its_share_only_and_the_status_says_so() {
    let mesh = Mesh::start();
    let _editions = editions(&mesh);
    let rules = "  - backendRefs: [{name: catalog-v1, port: 80, weight: 1}, {name: nowhere, port: 80, weight: 1}]\n";
    mesh.apply(&route("shop", "catalog", rules)).ok();
    let caller = Caller::start(&mesh, "shop", "caller");
    caller
        .until("the route is there", "http://catalog/items", |a| a.header("weft-error") == Some("unresolved-backend"));
    let (mut good, mut bad) = (0, 0);
    for _ in 0..400 {
        let answer = caller.get("http://catalog/items");
        match answer.status {
            200 => good += 1,
            500 if answer.header("weft-error") == Some("unresolved-backend") => bad += 1,
            _ => panic!("{answer:?}"),
        }
    }
    println!("{good} to the one that exists, {bad} answered with 500");
    assert!((140..=260).contains(&bad), "half of 400, not {bad}");
    let object = mesh.object("httproute", "shop", "catalog");
    let (accepted, resolved) = (condition(&object, "Accepted"), condition(&object, "ResolvedRefs"));
    assert_eq!(accepted["status"], "True", "{accepted}");
    assert_eq!((&resolved["status"], &resolved["reason"]), (&"False".into(), &"BackendNotFound".into()), "{resolved}");
    assert!(resolved["message"].as_str().unwrap_or_default().contains("shop/nowhere"), "{resolved}");
}

#[test]
fn a_grpc_route_chooses_by_method() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["users", "readers", "listers"], 9000, "grpc");
    let readers = Instance::start(&mesh, "readers", "readers-1", &["users"]);
    let listers = Instance::start(&mesh, "listers", "listers-1", &["users"]);
    apply(
        &mesh,
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: users, namespace: shop}\nspec:\n  \
         parentRefs: [{group: '', kind: Service, name: users, port: 9000}]\n  rules:\n  \
         - {matches: [{method: {service: shop.v1.Users, method: Find}}], backendRefs: [{name: readers, port: 9000}]}\n  \
         - {matches: [{method: {service: shop.v1.Users, method: List}}], backendRefs: [{name: listers, port: 9000}]}\n",
    );
    let caller = Caller::start(&mesh, "shop", "caller");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused: Status = runtime.block_on(async {
        let mut users = UsersClient::new(caller.tunnel("users:9000"));
        let calls = async {
            for id in 1..=10 {
                assert_eq!(users.find(FindRequest { id }).await.unwrap().into_inner().id, id);
            }
            let mut list = users.list(ListRequest { count: 5 }).await.unwrap().into_inner();
            let mut count = 0;
            while list.message().await.unwrap().is_some() {
                count += 1;
            }
            assert_eq!(count, 5);
            // An answer of the application, not of the mesh.
            assert_eq!(users.find(FindRequest { id: 0 }).await.unwrap_err().code(), Code::NotFound);
            users.import(tokio_stream::iter(vec![User::default()])).await.unwrap_err()
        };
        tokio::time::timeout(DEADLINE, calls).await.expect("the calls end")
    });
    println!("Find {} times at readers, List {} at listers; Import: {refused:?}", readers.served(), listers.served());
    assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
    assert!((readers.served() - 11.0).abs() < 0.5 && (listers.served() - 1.0).abs() < 0.5);
}
