//! The resource API as client libraries meet it: `kube::Client` within the process, and HTTP over TLS as it is on the wire.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

mod support;

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, TryStreamExt};
use kube::{
    Api, Client, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
    },
    core::ObjectMeta,
    runtime::{WatchStreamExt, reflector, watcher},
};
use serde_json::{Value, json};
use support::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft_certs::{ca::Credential, tls::api_client_config};
use weft_control::{
    api::{self, Settings},
    kinds::{MeshSettings, Service, TargetRef, TrafficPolicy, TrafficPolicySpec, Workload, WorkloadSpec},
    store,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn workload(name: &str, address: &str) -> Workload {
    let mut workload = Workload::new(name, WorkloadSpec { address: address.into(), ..WorkloadSpec::default() });
    workload.spec.service_account = "default".into();
    workload.metadata.labels = Some(BTreeMap::from([("app".into(), name.into())]));
    workload
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

#[tokio::test]
async fn a_client_in_this_process_reads_and_writes() {
    let server = Server::start().await;
    let client = api::client(&server.api);
    let workloads: Api<Workload> = Api::default_namespaced(client.clone());
    for i in 0..5 {
        workloads
            .create(&PostParams::default(), &workload(&format!("w{i}"), &format!("192.0.2.{}", i + 1)))
            .await
            .unwrap();
    }
    let first = workloads.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!((first.items.len(), first.metadata.remaining_item_count), (2, Some(3)));
    workloads.delete("w3", &DeleteParams::default()).await.unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let rest = workloads.list(&ListParams::default().limit(9).continue_token(&token)).await.unwrap();
    let names: Vec<String> = rest.items.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["w2", "w3", "w4"], "pages show one moment");
    assert_eq!(rest.metadata.resource_version, first.metadata.resource_version);
    let labelled = workloads.list(&ListParams::default().labels("app in (w1,w4)").limit(1)).await.unwrap();
    assert_eq!((labelled.items.len(), labelled.metadata.continue_.is_some()), (1, true));

    let status = json!({ "status": { "phase": "Ready" } });
    let patched = workloads.patch_status("w1", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    assert_eq!((patched.metadata.generation, patched.status.unwrap().phase.is_some()), (Some(1), true));
    let mut current = workloads.get("w1").await.unwrap();
    current.spec.zone = Some("b".into());
    current.status = None;
    let replaced = workloads.replace("w1", &PostParams::default(), &current).await.unwrap();
    assert_eq!((replaced.metadata.generation, replaced.status.is_some()), (Some(2), true));
    let stale = workloads.replace("w1", &PostParams::default(), &current).await.unwrap_err();
    assert!(matches!(&stale, kube::Error::Api(s) if s.code == 409 && s.reason == "Conflict"), "{stale}");
    let mut orphan = workload("x", "192.0.2.1");
    orphan.metadata.generate_name = Some("x-".into());
    orphan.metadata.name = None;
    assert_eq!(workloads.create(&PostParams::default(), &orphan).await.unwrap().name_any().len(), 7);
    // Finalizers hold an object until they are gone.
    let held = json!({ "metadata": { "finalizers": ["weft.mesh/test"] } });
    workloads.patch("w1", &PatchParams::default(), &Patch::Merge(&held)).await.unwrap();
    let marked = workloads.delete("w1", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    let freed = json!({ "metadata": { "finalizers": null } });
    workloads.patch("w1", &PatchParams::default(), &Patch::Merge(&freed)).await.unwrap();
    assert!(workloads.get_opt("w1").await.unwrap().is_none());
    workloads.delete_collection(&DeleteParams::default(), &ListParams::default().labels("app=w2")).await.unwrap();
    assert!(workloads.get_opt("w2").await.unwrap().is_none());
    assert!(workloads.get_opt("w4").await.unwrap().is_some());
    server.stop().await;
}

#[tokio::test]
async fn reflectors_follow_through_both_kinds_of_lists() {
    let server = Server::start().await;
    for config in [watcher::Config::default().page_size(2), watcher::Config::default().streaming_lists()] {
        let workloads: Api<Workload> = Api::default_namespaced(api::client(&server.api));
        for i in 0..3 {
            workloads.create(&PostParams::default(), &workload(&format!("w{i}"), "192.0.2.1")).await.unwrap();
        }
        let (reader, writer) = reflector::store();
        let stream = watcher(workloads.clone(), config).reflect(writer);
        let mut following = tokio::task::JoinSet::new();
        following.spawn(stream.for_each(|event| async move { drop(event.unwrap()) }));
        let until = async |count: usize| {
            let reached = async {
                while reader.len() != count {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            soon(reached).await;
        };
        until(3).await;
        workloads.delete("w0", &DeleteParams::default()).await.unwrap();
        until(2).await;
        workloads.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        until(0).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_watch_by_label_tells_what_comes_and_goes_for_it() {
    let server = Server::start().await;
    let workloads: Api<Workload> = Api::default_namespaced(api::client(&server.api));
    let from = workloads.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let watch = workloads.watch(&WatchParams::default().labels("app=a").timeout(15), &from).await.unwrap();
    tokio::pin!(watch);
    workloads.create(&PostParams::default(), &workload("b", "192.0.2.1")).await.unwrap();
    workloads.create(&PostParams::default(), &workload("a", "192.0.2.1")).await.unwrap();
    let label = |value: &str| json!({ "metadata": { "labels": { "app": value } } });
    workloads.patch("a", &PatchParams::default(), &Patch::Merge(label("c"))).await.unwrap();
    workloads.patch("a", &PatchParams::default(), &Patch::Merge(label("a"))).await.unwrap();
    workloads.delete("a", &DeleteParams::default()).await.unwrap();
    let mut seen = Vec::new();
    let mut revisions = Vec::new();
    while seen.len() < 4 {
        let (what, object) = match soon(watch.try_next()).await.unwrap().unwrap() {
            WatchEvent::Added(o) => ("added", o),
            WatchEvent::Modified(o) => ("modified", o),
            WatchEvent::Deleted(o) => ("deleted", o),
            other => panic!("{other:?}"),
        };
        seen.push(what);
        revisions.push(object.resource_version().unwrap().parse::<u64>().unwrap());
    }
    assert_eq!(seen, ["added", "deleted", "added", "deleted"]);
    assert!(revisions.is_sorted_by(|a, b| a < b), "{revisions:?}");
    server.stop().await;
}

#[tokio::test]
async fn history_that_is_gone_is_410_for_lists_and_watches() {
    let options = store::Options { history_events: 4, ..store::Options::default() };
    let server = Server::open(tempfile::tempdir().unwrap(), Settings::default(), options, "127.0.0.1:0").await;
    let workloads: Api<Workload> = Api::default_namespaced(api::client(&server.api));
    workloads.create(&PostParams::default(), &workload("a", "192.0.2.1")).await.unwrap();
    workloads.create(&PostParams::default(), &workload("b", "192.0.2.1")).await.unwrap();
    let page = workloads.list(&ListParams::default().limit(1)).await.unwrap();
    let version = page.metadata.resource_version.unwrap();
    for i in 0..6 {
        let zone = json!({ "spec": { "zone": i.to_string() } });
        workloads.patch("a", &PatchParams::default(), &Patch::Merge(zone)).await.unwrap();
    }
    let token = page.metadata.continue_.unwrap();
    let gone = workloads.list(&ListParams::default().limit(1).continue_token(&token)).await.unwrap_err();
    assert!(matches!(&gone, kube::Error::Api(s) if s.code == 410 && s.reason == "Expired"), "{gone}");
    let mut watch = workloads.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let event = soon(watch.try_next()).await.unwrap().unwrap();
    assert!(matches!(&event, WatchEvent::Error(e) if e.code == 410), "{event:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_objects_versions_and_watches() {
    let server = Server::start().await;
    let address = server.address.to_string();
    let services = |client: Client| Api::<Service>::default_namespaced(client);
    let service = |name: &str| -> Service {
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "ports": [{ "port": 80 }] } })).unwrap()
    };
    let made = services(api::client(&server.api)).create(&PostParams::default(), &service("a")).await.unwrap();
    let dir = server.stop().await;
    let server = Server::open(dir, Settings::default(), store::Options::default(), &address).await;
    let services = services(api::client(&server.api));
    assert_eq!(services.get("a").await.unwrap(), made);
    let other = services.create(&PostParams::default(), &service("b")).await.unwrap();
    assert_ne!(other.spec.unwrap().cluster_ip, made.spec.unwrap().cluster_ip);
    let version = made.metadata.resource_version.unwrap();
    let mut watch = services.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let event = soon(watch.try_next()).await.unwrap().unwrap();
    assert!(matches!(&event, WatchEvent::Added(s) if s.name_any() == "b"), "{event:?}");
    server.stop().await;
}

#[tokio::test]
async fn what_a_namespace_held_goes_with_it() {
    let server = Server::start().await;
    let client = api::client(&server.api);
    let namespaces: Api<weft_control::kinds::Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({ "metadata": { "name": "shop" } })).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let policies: Api<TrafficPolicy> = Api::namespaced(client.clone(), "shop");
    let target = TargetRef { kind: "Service".into(), name: "a".into(), ..TargetRef::default() };
    let policy = TrafficPolicy {
        metadata: ObjectMeta { name: Some("p".into()), ..ObjectMeta::default() },
        spec: TrafficPolicySpec { target_refs: vec![target], ..TrafficPolicySpec::default() },
        status: None,
    };
    policies.create(&PostParams::default(), &policy).await.unwrap();
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    assert!(policies.get_opt("p").await.unwrap().is_none());
    let missing = policies.create(&PostParams::default(), &policy).await.unwrap_err();
    assert!(matches!(&missing, kube::Error::Api(s) if s.code == 404), "{missing}");
    server.stop().await;
}

#[tokio::test]
async fn an_object_is_the_same_in_every_version_that_serves_its_kind() {
    let server = Server::start().await;
    let client = api::client(&server.api);
    let namespace = serde_json::from_value(json!({ "metadata": { "name": "shop" } })).unwrap();
    let namespaces: Api<weft_control::kinds::Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let of = |version: &str| -> Api<DynamicObject> {
        let resource = ApiResource {
            group: "gateway.networking.k8s.io".into(),
            version: version.into(),
            api_version: format!("gateway.networking.k8s.io/{version}"),
            kind: "TCPRoute".into(),
            plural: "tcproutes".into(),
        };
        Api::namespaced_with(client.clone(), "shop", &resource)
    };
    let said =
        |object: &DynamicObject| object.types.as_ref().unwrap().api_version.rsplit('/').next().unwrap().to_owned();
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1alpha2", "kind": "TCPRoute", "metadata": {"name": "db"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "db"}], "rules": [{"backendRefs": [{"name": "db", "port": 5432}]}]},
    });
    let made = of("v1alpha2").create(&PostParams::default(), &serde_json::from_value(route).unwrap()).await.unwrap();
    assert_eq!(said(&made), "v1alpha2");
    let seen = of("v1").get("db").await.unwrap();
    assert_eq!((said(&seen), &seen.metadata, &seen.data), ("v1".into(), &made.metadata, &made.data));
    assert_eq!(said(&of("v1").list(&ListParams::default()).await.unwrap().items[0]), "v1");
    // Another version is no change of what is wanted; another weight is.
    let same = of("v1").replace("db", &PostParams::default(), &seen).await.unwrap();
    assert_eq!(same.metadata, made.metadata);
    let patch = json!({"spec": {"rules": [{"backendRefs": [{"name": "db", "port": 5433}]}]}});
    of("v1").patch("db", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let changed = of("v1alpha2").get("db").await.unwrap();
    assert_eq!((said(&changed), changed.metadata.generation), ("v1alpha2".into(), Some(2)));
    assert_eq!(changed.data["spec"]["rules"][0]["backendRefs"][0]["port"], 5433);
    let version = made.metadata.resource_version.clone().unwrap();
    let mut watch = of("v1alpha2").watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let event = soon(watch.try_next()).await.unwrap().unwrap();
    assert!(matches!(&event, WatchEvent::Modified(o) if said(o) == "v1alpha2"), "{event:?}");
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    assert!(of("v1").get_opt("db").await.unwrap().is_none());
    let (_, _, group) = raw(&server, Some(&server.admin), &get("/apis/gateway.networking.k8s.io", "")).await.unwrap();
    let group: Value = serde_json::from_str(&group).unwrap();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    assert_eq!(group["versions"].as_array().unwrap().len(), 2);
    server.stop().await;
}

/// One HTTP/1.1 request over TLS: status, head and body.
async fn raw(
    server: &Server,
    credential: Option<&Credential>,
    request: &str,
) -> std::io::Result<(u16, String, String)> {
    let config = api_client_config([server.ca.certificate()], credential, &[b"http/1.1"]).unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    let stream = TcpStream::connect(server.address).await?;
    let mut stream = soon(connector.connect("localhost".try_into().unwrap(), stream)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Ok((status, head.to_owned(), body.to_owned()))
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n")
}

fn post(path: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    let head = "Host: localhost\r\nConnection: close\r\nContent-Type: application/json";
    format!("POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn only_the_administrator_of_this_host_is_answered() {
    let server = Server::start().await;
    for path in ["/livez", "/readyz", "/healthz", "/version"] {
        assert_eq!(raw(&server, None, &get(path, "")).await.unwrap().0, 200, "{path}");
    }
    for path in ["/", "/api", "/apis", "/openapi/v3", "/api/v1/namespaces"] {
        let (status, _, body) = raw(&server, None, &get(path, "")).await.unwrap();
        assert_eq!(status, 401, "{path}");
        assert!(body.contains(r#""reason":"Unauthorized""#), "{body}");
        assert_eq!(raw(&server, Some(&server.admin), &get(path, "")).await.unwrap().0, 200, "{path}");
    }
    let foreign = get("/api", "").replace("Host: localhost", "Host: rebound.example");
    assert_eq!(raw(&server, Some(&server.admin), &foreign).await.unwrap().0, 421);
    assert_eq!(
        raw(&server, Some(&server.admin), &get("/api", "Origin: https://rebound.example\r\n")).await.unwrap().0,
        421
    );
    // An identity of the mesh is no identity here: its authority is another.
    let other = weft_certs::ApiCa::ephemeral(std::time::SystemTime::now()).unwrap();
    let stranger = other.issue_client("admin", &[api::ADMIN_GROUP], None, std::time::SystemTime::now()).unwrap();
    let refused = raw(&server, Some(&stranger), &get("/version", "")).await;
    assert!(refused.is_err() || refused.as_ref().is_ok_and(|r| r.0 == 0), "{refused:?}");
    let svid = svid();
    let refused = raw(&server, Some(&svid), &get("/version", "")).await;
    assert!(refused.is_err() || refused.as_ref().is_ok_and(|r| r.0 == 0), "{refused:?}");
    server.stop().await;
}

fn svid() -> Credential {
    let now = std::time::SystemTime::now();
    let domain: weft_certs::TrustDomain = "weft.local".parse().unwrap();
    let ca = weft_certs::MeshCa::ephemeral(&domain, now).unwrap();
    let key = weft_certs::KeyPair::generate().unwrap();
    let id = weft_certs::SpiffeId::workload(&domain, "shop", "catalog").unwrap();
    let issued = ca.sign(&key.csr().unwrap(), &id, None, now).unwrap();
    let pem = |der: &weft_certs::CertificateDer<'_>| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    let chain: String = issued.chain.iter().map(pem).collect();
    Credential::from_pem("svid", &chain, &key.to_pem()).unwrap()
}

#[tokio::test]
async fn what_a_client_sends_is_bounded_and_judged() {
    let settings = Settings { max_body: 10_000, max_watches: 0, ..Settings::default() };
    let server = Server::open(tempfile::tempdir().unwrap(), settings, store::Options::default(), "127.0.0.1:0").await;
    let admin = Some(&server.admin);
    let path = "/apis/weft.mesh/v1alpha1/namespaces/default/workloads";
    let object = json!({ "metadata": { "name": "a" }, "spec": { "address": "192.0.2.1", "adress": "x" } });
    let (status, head, _) = raw(&server, admin, &post(path, &object)).await.unwrap();
    assert_eq!(status, 201, "{head}");
    assert!(head.contains(r#"warning: 299 - "unknown field \"spec.adress\"""#), "{head}");
    let strict = format!("{path}?fieldValidation=Strict");
    let (status, _, body) = raw(&server, admin, &post(&strict, &object)).await.unwrap();
    assert_eq!(status, 400);
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["details"]["causes"][0]["field"], "spec.adress", "{body}");
    let bad = json!({ "metadata": { "name": "b" }, "spec": { "address": "nowhere", "ports": [{ "port": 0 }] } });
    let (status, _, body) = raw(&server, admin, &post(path, &bad)).await.unwrap();
    assert_eq!(status, 422);
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["details"]["causes"][0]["field"], "spec.ports[0].port", "{body}");
    let large = json!({ "metadata": { "name": "c", "annotations": { "a": "x".repeat(20_000) } } });
    assert_eq!(raw(&server, admin, &post(path, &large)).await.unwrap().0, 413);
    let form = post(path, &object).replace("application/json", "application/x-www-form-urlencoded");
    assert_eq!(raw(&server, admin, &form).await.unwrap().0, 415);
    let (status, head, _) = raw(&server, admin, &get(&format!("{path}?watch=true"), "")).await.unwrap();
    assert_eq!(status, 429, "{head}");
    assert!(head.contains("retry-after: 1"), "{head}");
    for (query, wanted) in
        [("labelSelector=a%20b", 400), ("limit=x", 400), ("continue=zz", 400), ("resourceVersion=x", 400)]
    {
        assert_eq!(raw(&server, admin, &get(&format!("{path}?{query}"), "")).await.unwrap().0, wanted, "{query}");
    }
    assert_eq!(
        raw(&server, admin, &get(path, "Accept: application/vnd.kubernetes.protobuf\r\n")).await.unwrap().0,
        406
    );
    server.stop().await;
}

#[tokio::test]
async fn a_watch_says_when_it_has_sent_what_was_there() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let (status, _, body) = raw(&server, Some(&server.admin), &get(path, "")).await.unwrap();
    assert_eq!(status, 200);
    let at = |needle: &str| body.find(needle).unwrap_or_else(|| panic!("{needle} in {body}"));
    assert!(at(r#""type":"ADDED""#) < at("k8s.io/initial-events-end"), "{body}");
    // The last line before the time is over is a bookmark, from which the client can go on.
    assert!(body.matches(r#""type":"BOOKMARK""#).count() >= 2, "{body}");
    server.stop().await;
}

#[tokio::test]
async fn discovery_names_every_kind_in_one_document() {
    let server = Server::start().await;
    let accept = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json\r\n";
    let (_, head, body) = raw(&server, Some(&server.admin), &get("/apis", accept)).await.unwrap();
    assert!(
        head.contains("content-type: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
        "{head}"
    );
    for kind in weft_control::kinds::all().iter().filter(|k| !k.group.is_empty() && !k.of_cluster) {
        assert!(body.contains(&format!("\"resource\":\"{}\"", kind.plural)), "{}", kind.plural);
        let path = format!("/apis/{}/{}", kind.group, kind.version);
        let (_, _, list) = raw(&server, Some(&server.admin), &get(&path, "")).await.unwrap();
        assert!(list.contains(&format!("\"kind\":\"{}\"", kind.kind)), "{list}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_mesh_has_one_settings_object_and_what_is_wrong_with_it_is_named() {
    let server = Server::start().await;
    let all: Api<MeshSettings> = Api::all(api::client(&server.api));
    let of = |name: &str, spec: Value| -> MeshSettings {
        let (api_version, kind) = ("weft.mesh/v1alpha1", "MeshSettings");
        serde_json::from_value(
            json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec}),
        )
        .unwrap()
    };
    let made = all.create(&PostParams::default(), &of("default", json!({"rollout": {"percent": 10}}))).await.unwrap();
    assert_eq!((&made.metadata.namespace, made.spec.rollout.as_ref().unwrap().percent), (&None, Some(10)));
    let named = |result: kube::Result<MeshSettings>| match result.unwrap_err() {
        kube::Error::Api(status) => (status.code, status.message),
        other => panic!("{other}"),
    };
    let (code, message) = named(all.create(&PostParams::default(), &of("other", json!({}))).await);
    assert!(code == 422 && message.contains("metadata.name") && message.contains("\"default\""), "{code} {message}");
    for (spec, field) in [
        (json!({"rollout": {"percent": 51}}), "spec.rollout.percent"),
        (json!({"rollout": {"duration": "1s"}}), "spec.rollout.duration"),
        (json!({"rollout": {"maxErrorIncrease": 101.0}}), "spec.rollout.maxErrorIncrease"),
    ] {
        let (code, message) = named(all.create(&PostParams::default(), &of("default", spec)).await);
        assert!(code == 422 && message.contains(field), "{field}: {code} {message}");
    }
    let mut wish = made.clone();
    wish.metadata.annotations = Some([("weft.mesh/rollout".to_owned(), "half".to_owned())].into());
    let (code, message) = named(all.replace("default", &PostParams::default(), &wish).await);
    assert!(code == 422 && message.contains("metadata.annotations[weft.mesh/rollout]"), "{code} {message}");
}
