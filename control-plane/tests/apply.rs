//! Server-side apply as a client library does it, over TLS: who owns what, who is refused, and what is left when somebody gives up.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic in a test is the report")]

mod support;

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderValue, Request, header};
use hyper_util::rt::TokioIo;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};
use support::Server;
use tokio::net::TcpStream;
use tower::BoxError;
use weft_certs::tls::api_client_config;
use weft_control::kinds::{ConfigMap, Secret, Service, Workload};

const PATIENCE: Duration = Duration::from_secs(20);

/// A client as any program is one: TCP, TLS with the administrator's certificate, HTTP/1.1.
fn remote(server: &Server) -> Client {
    let config = api_client_config([server.ca.certificate()], Some(&server.admin), &[b"http/1.1"]).unwrap();
    let (tls, address) = (tokio_rustls::TlsConnector::from(config), server.address);
    let service = tower::service_fn(move |mut request: Request<kube::client::Body>| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let stream = tls.connect("localhost".try_into()?, stream).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
            request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("shopkeeper/1.0 (test)"));
            Ok::<_, BoxError>(sender.send_request(request).await?)
        }
    });
    Client::new(service, "default")
}

fn cart(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "cart"}, "spec": spec})
}

async fn apply(api: &Api<Service>, who: &str, spec: Value) -> kube::Result<Service> {
    api.patch("cart", &PatchParams::apply(who), &Patch::Apply(cart(spec))).await
}

fn refusal(result: kube::Result<Service>) -> kube::core::Status {
    match result {
        Err(kube::Error::Api(status)) => *status,
        other => panic!("{other:?}"),
    }
}

/// Manager and operation of each entry.
fn owners(object: &impl ResourceExt) -> Vec<(String, String)> {
    let entries = object.managed_fields().iter();
    entries.map(|e| (e.manager.clone().unwrap_or_default(), e.operation.clone().unwrap_or_default())).collect()
}

#[tokio::test]
async fn managers_share_an_object_and_are_told_what_is_anothers() {
    let server = Server::start().await;
    let services: Api<Service> = Api::default_namespaced(remote(&server));
    let http = json!([{"port": 80, "name": "http"}]);
    let made = apply(&services, "ana", json!({"ports": http})).await.unwrap();
    let fields = serde_json::to_value(&made.managed_fields()[0].fields_v1).unwrap();
    let port = r#"k:{"port":80,"protocol":"TCP"}"#;
    assert_eq!(fields, json!({"f:spec": {"f:ports": {port: {".": {}, "f:name": {}, "f:port": {}}}}}));
    assert!(made.spec.as_ref().unwrap().cluster_ip.is_some());
    let again = apply(&services, "ana", json!({"ports": http})).await.unwrap();
    assert_eq!(again, made, "the same again is no change");

    // Somebody else's part of it, and a part of a part.
    let both =
        json!({"selector": {"app": "cart"}, "ports": [{"port": 80, "targetPort": 9000}, {"port": 81, "name": "more"}]});
    let shared = apply(&services, "ben", both.clone()).await.unwrap().spec.unwrap();
    let ports = shared.ports.unwrap();
    assert_eq!((ports.len(), ports[0].name.as_deref()), (2, Some("http")));

    let other = json!({"ports": [{"port": 80, "name": "web"}]});
    let refused = refusal(apply(&services, "cleo", other.clone()).await);
    let field = r#".spec.ports[port=80,protocol="TCP"].name"#;
    assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
    assert_eq!(refused.message, format!("Apply failed with 1 conflict: conflict with \"ana\": {field}"));
    let cause = &refused.details.unwrap().causes[0];
    assert_eq!(
        (cause.reason.as_str(), cause.message.as_str(), cause.field.as_str()),
        ("FieldManagerConflict", "conflict with \"ana\"", field)
    );
    let two = json!({"selector": {"app": "x"}, "ports": [{"port": 80, "name": "web"}, {"port": 81, "name": "x"}]});
    let refused = refusal(apply(&services, "cleo", two).await).message;
    let lines: Vec<&str> = refused.lines().collect();
    assert_eq!(lines[0], "Apply failed with 3 conflicts: conflicts with \"ana\":", "{refused}");
    assert_eq!(lines[1..3], [format!("- {field}").as_str(), "conflicts with \"ben\":"], "{refused}");

    // A dry run takes nothing; force does.
    let force = PatchParams::apply("cleo").force();
    let dry = services.patch("cart", &force.clone().dry_run(), &Patch::Apply(cart(other.clone()))).await.unwrap();
    assert_eq!(dry.spec.unwrap().ports.unwrap()[0].name.as_deref(), Some("web"));
    assert_eq!(services.get("cart").await.unwrap().spec.unwrap().ports.unwrap()[0].name.as_deref(), Some("http"));
    let taken = services.patch("cart", &force, &Patch::Apply(cart(other))).await.unwrap();
    let apply_of = |who: &str| (who.to_owned(), "Apply".to_owned());
    assert_eq!(owners(&taken), [apply_of("ana"), apply_of("ben"), apply_of("cleo")]);

    // Who gives up takes along what nobody else wants.
    let left = apply(&services, "ben", json!({"selector": {"app": "cart"}})).await.unwrap().spec.unwrap();
    let ports = left.ports.unwrap();
    assert_eq!((ports.len(), ports[0].name.as_deref()), (1, Some("web")));

    // Writes of other kinds own what they change, by name or by the program that sent them.
    let patch = Patch::Merge(json!({"spec": {"selector": {"app": "hand"}}}));
    let patched = services.patch("cart", &PatchParams::default(), &patch).await.unwrap();
    assert!(owners(&patched).contains(&("shopkeeper".to_owned(), "Update".to_owned())), "{:?}", owners(&patched));
    let refused = refusal(apply(&services, "ben", json!({"selector": {"app": "cart"}})).await).message;
    assert_eq!(refused, "Apply failed with 1 conflict: conflict with \"shopkeeper\" using v1: .spec.selector");
    let forgotten = Patch::Merge(json!({"metadata": {"managedFields": [{}]}}));
    let forgotten = services.patch("cart", &PatchParams::default(), &forgotten).await.unwrap();
    assert!(forgotten.managed_fields().is_empty());
    let refused = refusal(apply(&services, "ben", json!({"selector": {"app": "cart"}})).await).message;
    assert!(refused.contains("conflict with \"before-first-apply\" using v1: .spec.selector"), "{refused}");
    server.stop().await;
}

#[tokio::test]
async fn a_status_is_applied_apart_and_what_cannot_be_applied_is_refused() {
    let server = Server::start().await;
    let client = remote(&server);
    let workloads: Api<Workload> = Api::default_namespaced(client.clone());
    let one = |rest: Value| {
        let mut one = json!({"apiVersion": "weft.mesh/v1alpha1", "kind": "Workload", "metadata": {"name": "one"}});
        one.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        one
    };
    let spec = json!({"spec": {"address": "192.0.2.1"}, "status": {"phase": "Lost"}});
    let ana = PatchParams::apply("ana");
    let made = workloads.patch("one", &ana, &Patch::Apply(one(spec))).await.unwrap();
    assert!(made.status.is_none(), "a status is not written along");
    let status = json!({"spec": {"address": "192.0.2.9"}, "status": {"phase": "Ready"}});
    let told = workloads.patch_status("one", &ana, &Patch::Apply(one(status))).await.unwrap();
    assert_eq!((told.spec.address.as_str(), told.status.is_some()), ("192.0.2.1", true));
    assert_eq!(told.managed_fields()[1].subresource.as_deref(), Some("status"));
    assert_eq!(told.metadata.generation, Some(1));
    // Without a status of its own to say, the manager of the rest does not touch it.
    let spec = json!({"spec": {"address": "192.0.2.1", "zone": "b"}});
    assert!(workloads.patch("one", &ana, &Patch::Apply(one(spec))).await.unwrap().status.is_some());

    let send = async |query: &str, body: &str| -> Value {
        let path = format!("/apis/weft.mesh/v1alpha1/namespaces/default/workloads/two{query}");
        let request = Request::patch(path).header(header::CONTENT_TYPE, "application/apply-patch+yaml");
        match client.request::<Value>(request.body(body.as_bytes().to_vec()).unwrap()).await {
            Ok(object) => object,
            Err(kube::Error::Api(status)) => serde_json::to_value(&*status).unwrap(),
            Err(other) => panic!("{other}"),
        }
    };
    let yaml = "apiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {name: two}\nspec: {address: 192.0.2.2, zone: null}\n";
    let refused = send("", yaml).await;
    assert_eq!(
        (&refused["code"], refused["message"].as_str().unwrap().contains("fieldManager: Required value")),
        (&json!(422), true)
    );
    for (body, code, said) in [
        (yaml.replace("zone", "zones"), 400, "unknown field \"spec.zones\""),
        (yaml.replace("192.0.2.2", "nowhere"), 422, "spec.address"),
        (yaml.replace("{name: two}", "{name: three}"), 400, "does not match"),
        (yaml.replace("{name: two}", "{name: two, managedFields: [{}]}"), 400, "metadata.managedFields must be nil"),
        (yaml.replace("{name: two}", "{name: two, resourceVersion: '7'}"), 409, "does not exist"),
        (yaml.replace("zone: null", "ports: [{port: 1}, {port: 1}]"), 400, ".spec.ports: entries of the list"),
        ("{".to_owned(), 400, "JSON"),
    ] {
        let refused = send("?fieldManager=ana", &body).await;
        assert_eq!(refused["code"], code, "{body}: {refused}");
        assert!(refused["message"].as_str().unwrap().contains(said), "{body}: {refused}");
    }
    let made = send("?fieldManager=ana", yaml).await;
    assert_eq!(made["spec"], json!({"address": "192.0.2.2", "serviceAccount": "default"}), "{made}");
    let stale = yaml.replace("{name: two}", "{name: two, resourceVersion: '1'}").replace("null", "c");
    assert_eq!(send("?fieldManager=ana", &stale).await["code"], 409);
    server.stop().await;
}

#[tokio::test]
async fn a_program_lists_watches_and_meets_a_conflict_over_tls() {
    let server = Server::start().await;
    let services: Api<Service> = Api::default_namespaced(remote(&server));
    let made = apply(&services, "ana", json!({"ports": [{"port": 80}]})).await.unwrap();
    let listed = services.list(&ListParams::default()).await.unwrap();
    assert_eq!(listed.items, std::slice::from_ref(&made));
    let from = listed.metadata.resource_version.unwrap();
    let mut watch = services.watch(&WatchParams::default().timeout(15), &from).await.unwrap().boxed();
    let mut changed = made.clone();
    changed.labels_mut().insert("tier".into(), "back".into());
    let replaced = services.replace("cart", &PostParams::default(), &changed).await.unwrap();
    let event = tokio::time::timeout(PATIENCE, watch.try_next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(&event, WatchEvent::Modified(s) if *s == replaced), "{event:?}");
    let stale = services.replace("cart", &PostParams::default(), &changed).await.unwrap_err();
    assert!(matches!(&stale, kube::Error::Api(s) if s.code == 409 && s.reason == "Conflict"), "{stale}");
    server.stop().await;
}

#[tokio::test]
async fn secrets_and_config_maps_are_kept_and_what_is_fixed_stays() {
    let server = Server::start().await;
    let client = remote(&server);
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let secret = json!({"metadata": {"name": "key"}, "stringData": {"password": "hunter2"}});
    let made = secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    assert_eq!((made.type_.as_deref(), &made.data.unwrap()["password"].0), (Some("Opaque"), &b"hunter2".to_vec()));
    assert!(made.string_data.is_none());
    let wrong = Patch::Merge(json!({"data": {"password": 7}, "type": "other"}));
    let refused = secrets.patch("key", &PatchParams::default(), &wrong).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(s) if s.code == 422 && s.message.contains("<hidden>")), "{refused}");
    let other = Patch::Merge(json!({"type": "other"}));
    let refused = secrets.patch("key", &PatchParams::default(), &other).await.unwrap_err();
    assert!(refused.to_string().contains("field is immutable"), "{refused}");
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "1"}, "immutable": true});
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    let refused =
        maps.patch("m", &PatchParams::default(), &Patch::Merge(json!({"data": {"a": "2"}}))).await.unwrap_err();
    assert!(refused.to_string().contains("data: Forbidden"), "{refused}");
    let labelled = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    maps.patch("m", &PatchParams::default(), &labelled).await.unwrap();
    server.stop().await;
}
