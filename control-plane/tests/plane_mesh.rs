//! The control plane as sidecars meet it: a whole one in a directory of its own, real sockets, real certificates.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod plane_support;

use plane_support::{Plane, issue, say, soon, xds};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use tonic::Code;
use weft_proto::v1::control_up::Message as Up;
use weft_proto::v1::issue_certificate_request::Proof;
use weft_proto::{Resource as _, discovery, type_url, v1};

async fn shop() -> Plane {
    let plane = Plane::start().await;
    plane.namespace("shop").await;
    plane.service("shop", "catalog").await;
    plane.service("shop", "catalog-v2").await;
    plane
}

fn names(response: &discovery::DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|r| r.name.as_str()).collect()
}

fn service(response: &discovery::DeltaDiscoveryResponse) -> v1::Service {
    v1::Service::from_any(response.resources[0].resource.as_ref().unwrap()).unwrap()
}

fn routes(service: &v1::Service) -> Vec<&str> {
    service.ports[0].frontend.as_ref().unwrap().routes.iter().map(|r| r.name.as_str()).collect()
}

fn condition<'v>(object: &'v Value, kind: &str) -> &'v Value {
    let parents = object["status"]["parents"][0]["conditions"].as_array();
    parents.into_iter().flatten().find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_gets_a_certificate_as_often_as_it_may_and_an_svid_renews_itself_alone() {
    let plane = shop().await;
    let token = plane.token("shop", "cart", &["cart"], Some(1)).await;
    let sidecar = plane.join(&token).await;
    let again = issue(plane.anonymous(&token), Some(Proof::JoinToken(token.clone()))).await.unwrap_err();
    assert_eq!(again.code(), Code::Unauthenticated, "{again}");
    assert!(again.message().contains("used up"), "{again}");
    // A renewal: whatever else is offered as proof, the certificate of the connection decides.
    let other = plane.token("shop", "payments", &["payments"], None).await;
    let (renewed, _) = issue(sidecar.channel.clone(), Some(Proof::JoinToken(other))).await.unwrap();
    assert_eq!(renewed.id().to_string(), "spiffe://weft.local/ns/shop/sa/cart");
    let nothing = issue(plane.anonymous(&token), None).await.unwrap_err();
    assert_eq!(nothing.code(), Code::Unauthenticated);
    let listed = plane.ok("GET", "/weft/v1/tokens", None).await;
    let item = listed["items"].as_array().unwrap().iter().find(|i| i["serviceAccount"] == "cart").unwrap();
    assert_eq!(
        (item["used"].as_u64(), item["uses"].as_u64(), item["serviceAccount"].as_str()),
        (Some(1), Some(1), Some("cart"))
    );
    assert!(item["secret"].is_null() && item["hash"].is_null() && item["token"].is_null());
    let id = item["id"].as_str().unwrap();
    plane.ok("DELETE", &format!("/weft/v1/tokens/{id}"), None).await;
    assert_eq!(plane.api("DELETE", &format!("/weft/v1/tokens/{id}"), None).await.0, 404);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_becomes_the_control_plane_and_the_administrators_pages_are_not_for_others() {
    let plane = shop().await;
    let body = json!({"namespace": "weft-system", "serviceAccount": "weft-control", "services": ["*"]});
    let (status, answer) = plane.api("POST", "/weft/v1/tokens", Some(body)).await;
    assert_eq!(status, 422, "{answer}");
    let token = plane.token("shop", "cart", &["*"], None).await;
    let sidecar = plane.join(&token).await;
    // Without a certificate there is neither configuration nor control.
    let refused = xds(plane.anonymous(&token)).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    // A stream for somebody else's workload.
    sidecar.register(&token, "cart-1", &["catalog"]).await.unwrap();
    let payments = plane.token("shop", "payments", &["payments"], None).await;
    let other = plane.join(&payments).await;
    let (_up, mut down) = other.control("shop/cart-1").await;
    let refused = soon("a refusal", down.message()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let mode = |name: &str| std::fs::metadata(plane.data().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("."), mode("kubeconfig"), mode("identity")), (0o700, 0o600, 0o700));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn carts_token_cannot_register_a_workload_of_payments() {
    let plane = shop().await;
    let token = plane.token("shop", "cart", &["cart"], None).await;
    let cart = plane.join(&token).await;
    let refused = cart.register(&token, "cart-1", &["payments"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("payments"), "{refused}");
    assert_eq!(cart.register("", "cart-1", &["cart"]).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(cart.register(&token, "cart-1", &["cart"]).await.unwrap(), "shop/cart-1");
    assert_eq!(cart.register("", "cart-1", &["cart"]).await.unwrap(), "shop/cart-1", "renewed by its SVID");
    assert_eq!(cart.register("", "cart-1", &["payments"]).await.unwrap_err().code(), Code::PermissionDenied);
    let payments = plane.token("shop", "payments", &["payments"], None).await;
    let thief = plane.join(&payments).await;
    assert_eq!(thief.register(&payments, "cart-1", &["payments"]).await.unwrap_err().code(), Code::PermissionDenied);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_aliases_variants_removals_and_resumes_without_resending() {
    let plane = shop().await;
    plane.namespace("bank").await;
    let shop = plane.join(&plane.token("shop", "cart", &["cart"], None).await).await;
    let bank = plane.join(&plane.token("bank", "teller", &["teller"], None).await).await;
    let (mut ours, mut theirs) = (shop.xds().await, bank.xds().await);
    ours.subscribe(type_url::SERVICE, &["host:catalog", "host:nobody"]).await;
    let first = ours.take().await;
    assert_eq!(names(&first), ["shop/catalog"]);
    assert!(first.resources[0].aliases.contains(&"host:catalog".to_owned()));
    let vip = service(&first).vips.remove(0);
    assert!(vip.starts_with("198.18."), "{vip}");
    assert_eq!(ours.take().await.removed_resources, ["host:nobody"]);
    theirs.subscribe(type_url::SERVICE, &[&format!("vip:{vip}")]).await;
    assert_eq!(names(&theirs.take().await), ["shop/catalog"]);

    // A consumer route shows to its own namespace alone.
    plane.route("bank", "canary", "shop/catalog", "shop/catalog-v2").await;
    assert_eq!(routes(&service(&theirs.take().await)), ["bank/canary"]);
    // A producer route shows to everybody else.
    plane.route("shop", "own", "shop/catalog", "shop/catalog-v2").await;
    let newest = ours.take().await;
    assert_eq!(routes(&service(&newest)), ["shop/own"]);
    let version = newest.resources[0].version.clone();

    // Resumed: what is held is not sent again, and what has gone meanwhile is told.
    let before = plane.ok("GET", "/weft/v1/fleet", None).await["xds"].clone();
    let mut again = xds(plane.reconnect(&shop)).await.unwrap();
    again.resume(type_url::SERVICE, &["host:catalog"], &[("shop/catalog", &version), ("shop/gone", "1")]).await;
    assert_eq!(again.take().await.removed_resources, ["shop/gone"]);
    let after = plane.ok("GET", "/weft/v1/fleet", None).await["xds"].clone();
    assert_eq!(after["resourcesSent"], before["resourcesSent"], "nothing is sent that is held");
    assert_eq!(after["resourcesResumed"].as_u64().unwrap(), before["resourcesResumed"].as_u64().unwrap() + 1);

    plane.ok("DELETE", "/api/v1/namespaces/shop/services/catalog", None).await;
    let gone = again.take().await;
    assert_eq!(gone.removed_resources, ["host:catalog", "shop/catalog"]);
    plane.service("shop", "nobody").await;
    assert_eq!(names(&ours_next(&mut ours).await), ["shop/nobody"], "what was absent is sent when it appears");

    // What the protocol does not allow ends the stream with the reason.
    let mut wild = shop.xds().await;
    wild.subscribe(type_url::SERVICE, &[]).await;
    assert_eq!(wild.next().await.unwrap_err().code(), Code::InvalidArgument);
    let mut mesh = shop.xds().await;
    mesh.subscribe(type_url::MESH_SETTINGS, &[]).await;
    assert_eq!(names(&mesh.take().await), ["mesh"]);
    mesh.subscribe(type_url::TRUST_BUNDLE, &["weft.local"]).await;
    assert_eq!(names(&mesh.take().await), ["weft.local"]);
    plane.stop().await;
}

/// The next response that brings resources.
async fn ours_next(stream: &mut plane_support::Xds) -> discovery::DeltaDiscoveryResponse {
    loop {
        let response = stream.take().await;
        if !response.resources.is_empty() {
            return response;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routes_status_says_who_holds_it_and_who_refused_it_and_why() {
    let plane = shop().await;
    let cart = plane.join(&plane.token("shop", "cart", &["cart"], None).await).await;
    let mut stream = cart.xds().await;
    stream.subscribe(type_url::SERVICE, &["shop/catalog"]).await;
    stream.take().await;
    plane.route("shop", "split", "shop/catalog", "shop/catalog-v2").await;
    let offered = stream.next().await.unwrap();
    let path = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/split";
    let pending = |o: &Value| condition(o, "Programmed")["message"] == "0 of 1 sidecars hold generation 1";
    let route = plane.until(path, "pending", pending).await;
    assert_eq!(condition(&route, "Accepted")["status"], "True");
    assert_eq!(condition(&route, "ResolvedRefs")["status"], "True");
    assert_eq!(condition(&route, "Programmed")["status"], "False");
    assert_eq!(condition(&route, "Programmed")["observedGeneration"], 1);

    stream.nack(&offered, "ports[0].port", "must not be 80").await;
    let refused = |o: &Value| condition(o, "Programmed")["reason"] == "Refused";
    let route = plane.until(path, "refused", refused).await;
    let message = condition(&route, "Programmed")["message"].as_str().unwrap();
    assert!(message.contains("ports[0].port: must not be 80"), "{message}");

    // A newer edition that it takes.
    let spec = json!({"spec": {"rules": [{"backendRefs": [{"name": "catalog", "port": 80}]}]}});
    plane.ok("PATCH", path, Some(spec)).await;
    stream.take().await;
    let done = |o: &Value| condition(o, "Programmed")["message"] == "1 of 1 sidecars hold generation 2";
    let route = plane.until(path, "programmed", done).await;
    assert_eq!(condition(&route, "Programmed")["status"], "True");

    // What this version cannot do is said, and what is in force stays.
    let spec = json!({"spec": {"rules": [{"filters": [{"type": "ExtensionRef",
        "extensionRef": {"group": "example.com", "kind": "Cache", "name": "c"}}], "backendRefs": [{"name": "catalog", "port": 80}]}]}});
    plane.ok("PATCH", path, Some(spec)).await;
    let unsupported = |o: &Value| condition(o, "Accepted")["reason"] == "UnsupportedValue";
    let route = plane.until(path, "unsupported", unsupported).await;
    let message = condition(&route, "Accepted")["message"].as_str().unwrap();
    assert!(message.contains("spec.rules[0].filters[0].extensionRef"), "{message}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_takes_calls_while_it_is_ready_drains_when_it_asks_and_goes_when_it_is_lost() {
    let plane = shop().await;
    let token = plane.token("shop", "catalog", &["catalog"], None).await;
    let catalog = plane.join(&token).await;
    let watcher = plane.join(&plane.token("shop", "cart", &["cart"], None).await).await;
    let mut stream = watcher.xds().await;
    stream.subscribe(type_url::ENDPOINTS, &["shop/catalog:80/0"]).await;
    let endpoints = |r: &discovery::DeltaDiscoveryResponse| {
        v1::Endpoints::from_any(r.resources[0].resource.as_ref().unwrap()).unwrap().endpoints
    };
    assert!(endpoints(&stream.take().await).is_empty(), "an empty backend is answered");

    catalog.register(&token, "catalog-1", &["catalog"]).await.unwrap();
    let registered = endpoints(&stream.take().await);
    assert_eq!(registered[0].health, i32::from(v1::Health::NotReady), "not before its sidecar says so");
    assert_eq!(registered[0].identity, "spiffe://weft.local/ns/shop/sa/catalog");

    let (up, mut down) = catalog.control("shop/catalog-1").await;
    let ready = |ready, withdraw| say(Up::Readiness(v1::Readiness { ready, withdraw }));
    up.send(ready(true, false)).await.unwrap();
    assert_eq!(endpoints(&stream.take().await)[0].health, i32::from(v1::Health::Ready));
    let mut inbound = catalog.xds().await;
    inbound.subscribe(type_url::INBOUND, &["shop/catalog-1"]).await;
    assert_eq!(names(&inbound.take().await), ["shop/catalog-1"]);
    let mut thief = watcher.xds().await;
    thief.subscribe(type_url::INBOUND, &["shop/catalog-1"]).await;
    assert_eq!(thief.take().await.removed_resources, ["shop/catalog-1"]);

    // Its calls are counted.
    let calls = v1::CallStats {
        direction: v1::Direction::Inbound.into(),
        source: "shop/cart".into(),
        destination: "shop/catalog".into(),
        calls: 40,
        failures: 1,
        attempts: 40,
        mtls: 40,
        ..Default::default()
    };
    up.send(say(Up::Report(v1::Report { interval_ms: 1000, calls: vec![calls], breakers: Vec::new() }))).await.unwrap();
    let row = |stat: &Value| {
        stat["services"].as_array().into_iter().flatten().find(|r| r["service"] == "shop/catalog").cloned()
    };
    let counted = |stat: &Value| row(stat).is_some_and(|r| r["calls"] == 40);
    let stat = plane.until("/weft/v1/stat?window=60s", "calls counted", counted).await;
    let row = row(&stat).unwrap();
    assert_eq!(
        (row["success"].as_f64(), row["mtls"].as_f64(), row["readyEndpoints"].as_u64()),
        (Some(0.975), Some(1.0), Some(1))
    );

    // Withdrawn: peers are told first, then it is.
    up.send(ready(false, true)).await.unwrap();
    let draining = stream.next().await.unwrap();
    assert_eq!(endpoints(&draining)[0].health, i32::from(v1::Health::Draining));
    stream.ack(&draining).await;
    // What it is told to look at comes first.
    let ack = loop {
        match soon("an acknowledgement", down.message()).await.unwrap().unwrap().message {
            Some(v1::control_down::Message::Command(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(ack, Some(v1::control_down::Message::WithdrawalAck(_))));

    // Lost: a second workload whose stream just ends.
    catalog.register(&token, "catalog-2", &["catalog"]).await.unwrap();
    let (up, down) = catalog.control("shop/catalog-2").await;
    up.send(ready(true, false)).await.unwrap();
    let path = "/apis/weft.mesh/v1alpha1/namespaces/shop/workloads/catalog-2";
    plane.until(path, "ready", |w| w["status"]["phase"] == "Ready").await;
    drop((up, down));
    let lost = plane.until(path, "lost", |w| w["status"]["phase"] == "Lost").await;
    assert_eq!(lost["status"]["conditions"][0]["reason"], "StreamLost");
    let check = plane.ok("GET", "/weft/v1/check", None).await;
    assert_eq!(check["ok"], false, "{check}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_ports_objects_tokens_and_versions() {
    let plane = shop().await;
    let token = plane.token("shop", "cart", &["cart"], None).await;
    let cart = plane.join(&token).await;
    let mut stream = cart.xds().await;
    stream.subscribe(type_url::SERVICE, &["shop/catalog"]).await;
    let version = stream.take().await.resources[0].version.clone();
    let endpoints = plane.endpoints.clone();
    let ended = async { while stream.next().await.is_ok() {} };
    let dir = tokio::join!(plane.stop(), ended).0;

    let plane = Plane::start_in(dir).await;
    assert_eq!(plane.endpoints, endpoints, "where sidecars look for it");
    let mut stream = xds(plane.reconnect(&cart)).await.unwrap();
    stream.resume(type_url::SERVICE, &["shop/catalog", "host:x"], &[("shop/catalog", &version)]).await;
    let first = stream.take().await;
    assert_eq!((names(&first).len(), first.removed_resources.as_slice()), (0, &["host:x".to_owned()][..]));
    plane.join(&token).await;
    plane.stop().await;
}
