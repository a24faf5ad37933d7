//! The admission webhook as an API server meets it: over TLS, believing what the configuration says, with reviews of whole pods.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret};
use kube::api::{Api, Patch, PatchParams, PostParams};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;
use weft_control::{api, inject, inject::webhook, install, store};

const DEADLINE: Duration = Duration::from_secs(30);

/// An API that stands for a cluster's, and a webhook beside it.
struct Rig {
    folder: tempfile::TempDir,
    client: kube::Client,
    address: SocketAddr,
    leads: watch::Sender<bool>,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), String>>,
}

impl Rig {
    async fn start(lifetime: Duration, settings: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = store::Embedded::open(&folder.path().join("weft.redb"), store::Options::default()).unwrap();
        let cluster = api::Settings { cluster: true, ..api::Settings::default() };
        let api = api::Api::open(Arc::new(store), cluster).await.unwrap();
        let client = api::client(&api);
        let all = install::manifests(&install::Values::default(), "weft-system");
        let of = |kind: &str| all.iter().find(|object| object["kind"] == kind).unwrap().clone();
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
        let namespace = serde_json::from_value(of("Namespace")).unwrap();
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
        let configuration = serde_json::from_value(of("MutatingWebhookConfiguration")).unwrap();
        configurations.create(&PostParams::default(), &configuration).await.unwrap();
        let injection = settings.map(|text| {
            let path = folder.path().join("settings.yaml");
            std::fs::write(&path, text).unwrap();
            path
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let (leads, led) = watch::channel(false);
        let settings = webhook::Settings { namespace: "weft-system".into(), injection, lifetime };
        let running = tokio::spawn(webhook::run(listener, client.clone(), settings, led, shutdown.clone()));
        Self { folder, client, address, leads, shutdown, running }
    }

    fn configurations(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.client.clone())
    }

    /// What each webhook of the configuration believes, where they agree and believe anybody.
    async fn believed(&self) -> Option<String> {
        let there = self.configurations().get(webhook::CONFIGURATION).await.unwrap();
        let mut all = there.webhooks.unwrap().into_iter().map(|one| one.client_config.ca_bundle);
        let first = all.next().unwrap()?;
        all.all(|other| other.as_ref() == Some(&first)).then(|| String::from_utf8(first.0).unwrap())
    }

    async fn once_believed(&self, fits: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(bundle) = self.believed().await.filter(|bundle| fits(bundle)) {
                return bundle;
            }
            assert!(Instant::now() < until, "the configuration does not come to believe");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the certificate that is served is believed, and keeps a connection.
    async fn connected(&self, bundle: &str) -> Connection {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Ok(connection) = Connection::open(self.address, bundle).await {
                return connection;
            }
            assert!(Instant::now() < until, "what is served is not what is believed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(DEADLINE, self.running).await.unwrap().unwrap().unwrap();
    }
}

/// HTTP/1.1 over TLS, as an API server that believes the bundle and no one else.
struct Connection(hyper::client::conn::http1::SendRequest<Full<bytes::Bytes>>);

impl Connection {
    async fn open(address: SocketAddr, bundle: &str) -> Result<Self, String> {
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from("weft-control.weft-system.svc").unwrap();
        let stream: TlsStream<TcpStream> =
            TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| error.to_string())?;
        let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Ok(Self(send))
    }

    async fn call(&mut self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let request = http::Request::builder().method(method).uri(path).header("host", "weft-control.weft-system.svc");
        let request = request.header("content-type", kind).body(Full::from(body.to_vec())).unwrap();
        let answer = timeout(DEADLINE, self.0.send_request(request)).await.unwrap().unwrap();
        let status = answer.status().as_u16();
        (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    async fn review(&mut self, pod: &Value) -> Value {
        let (status, text) = self.call("POST", "/inject", "application/json", review(pod).to_string().as_bytes()).await;
        assert_eq!(status, 200, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&answer["apiVersion"], &answer["kind"]),
            (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
        );
        assert_eq!(answer["response"]["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
        answer["response"].clone()
    }
}

/// As an API server asks of a pod that a ReplicaSet makes.
fn review(pod: &Value) -> Value {
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": kind, "requestKind": kind,
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop", "operation": "CREATE", "dryRun": false, "oldObject": null,
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
            "object": pod,
        },
    })
}

fn patched(pod: &Value, response: &Value) -> Value {
    let mut patched = pod.clone();
    if let Some(patch) = response["patch"].as_str() {
        assert_eq!(response["patchType"], "JSONPatch");
        let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
        json_patch::patch(&mut patched, &patch).unwrap();
    }
    patched
}

/// Every pod of the corpus of `weft inject`, as a controller makes it of its template, and the same once injected.
fn corpus() -> Vec<(Value, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../integration/tests/injection/corpus");
    let mut pods = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        if file.to_str().unwrap().ends_with(".injected.yaml") {
            continue;
        }
        let read = |file: &Path| -> Vec<Value> {
            let documents: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(file).unwrap()).unwrap();
            documents.into_iter().filter(|document| !document.is_null()).collect()
        };
        // Those that are skipped are their own result.
        let golden = file.with_extension("injected.yaml");
        let (before, after) = (read(&file), read(if golden.exists() { &golden } else { &file }));
        for (before, after) in before.iter().zip(&after) {
            for (one, other) in inject::templates(before).iter().zip(inject::templates(after)) {
                let of = |object: &Value, pointer: &str| {
                    let mut pod = object.pointer(pointer).unwrap().clone();
                    pod["apiVersion"] = "v1".into();
                    pod["kind"] = "Pod".into();
                    pod
                };
                pods.push((of(before, &one.pointer), of(after, &other.pointer)));
            }
        }
    }
    pods
}

#[tokio::test]
async fn pods_get_over_the_wire_what_weft_inject_gives_them() {
    let rig = Rig::start(Duration::from_secs(3600), None).await;
    rig.leads.send_replace(true);
    let bundle = rig.once_believed(|bundle| !bundle.is_empty()).await;
    let mut api_server = rig.connected(&bundle).await;
    let (mut injected, mut skipped) = (0, 0);
    for (pod, wanted) in corpus() {
        let response = api_server.review(&pod).await;
        assert_eq!(response["allowed"], true, "{response}");
        assert_eq!(patched(&pod, &response), wanted);
        match response["patch"].is_string() {
            true => injected += 1,
            false => {
                skipped += 1;
                assert!(response["warnings"][0].as_str().unwrap().starts_with("weft: no sidecar: "), "{response}");
            }
        }
        // Called again within one admission: nothing is left to do.
        let again = api_server.review(&wanted).await;
        assert_eq!((again["allowed"].clone(), again.get("patch")), (true.into(), None), "{again}");
    }
    assert!(injected >= 35 && skipped == 6, "{injected} injected, {skipped} skipped");
    rig.stop().await;
}

#[tokio::test]
async fn what_an_api_server_adds_between_two_calls_of_one_admission_stays_and_is_not_injected_twice() {
    let rig = Rig::start(Duration::from_secs(3600), None).await;
    rig.leads.send_replace(true);
    let mut api_server = rig.connected(&rig.once_believed(|bundle| !bundle.is_empty()).await).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "cart-"}, "spec": {"containers": [
        {"name": "web", "image": "shop/cart:1", "livenessProbe": {"tcpSocket": {"port": 8080}}}]}});
    let mut once = patched(&pod, &api_server.review(&pod).await);
    // The plug-in of service accounts runs between the two, and defaults are filled in.
    let token = json!({"name": "kube-api-access-x7k2p", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true});
    for list in ["initContainers", "containers"] {
        for container in once["spec"][list].as_array_mut().unwrap() {
            container["terminationMessagePath"] = "/dev/termination-log".into();
            container["imagePullPolicy"] = "IfNotPresent".into();
            let mounts = container.as_object_mut().unwrap().entry("volumeMounts").or_insert_with(|| json!([]));
            mounts.as_array_mut().unwrap().push(token.clone());
        }
    }
    once["spec"]["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "kube-api-access-x7k2p", "projected": {"sources": []}}));
    let twice = api_server.review(&once).await;
    assert_eq!(twice, json!({"uid": twice["uid"], "allowed": true}));
    // What another webhook adds has its probes asked through the sidecar too.
    once["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "extra", "image": "x", "livenessProbe": {"tcpSocket": {"port": 7000}}}));
    let third = patched(&once, &api_server.review(&once).await);
    assert_eq!(third["spec"]["containers"][1]["livenessProbe"]["httpGet"]["port"], 15021);
    assert_eq!(third["spec"]["initContainers"].as_array().unwrap().len(), 2);
    rig.stop().await;
}

#[tokio::test]
async fn a_mistake_is_refused_where_the_pod_asks_and_said_where_its_namespace_does() {
    let rig = Rig::start(Duration::from_secs(3600), None).await;
    rig.leads.send_replace(true);
    let mut api_server = rig.connected(&rig.once_believed(|bundle| !bundle.is_empty()).await).await;
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "cart", "annotations": {"config.weft.mesh/proxy-uid": "root"}},
        "spec": {"containers": [{"name": "web", "image": "shop/cart:1"}]}});
    let field = "metadata.annotations[config.weft.mesh/proxy-uid]";
    let said = api_server.review(&pod).await;
    assert_eq!((said["allowed"].clone(), said.get("patch")), (true.into(), None));
    assert!(said["warnings"][0].as_str().unwrap().contains(field), "{said}");
    pod["metadata"]["labels"] = json!({"weft.mesh/inject": "enabled"});
    let said = api_server.review(&pod).await;
    assert_eq!((said["allowed"].clone(), said["status"]["code"].clone()), (false.into(), 422.into()));
    assert!(said["status"]["message"].as_str().unwrap().contains("\"root\" is no number"), "{said}");
    assert_eq!(said["status"]["details"]["causes"][0]["field"], field);
    // Not what it is asked about: left as it is.
    let mut other = review(&pod);
    other["request"]["operation"] = "UPDATE".into();
    let (status, text) = api_server.call("POST", "/inject", "application/json", other.to_string().as_bytes()).await;
    assert!(status == 200 && text.contains("\"allowed\":true") && !text.contains("patch"), "{status} {text}");
    rig.stop().await;
}

#[tokio::test]
async fn what_is_no_review_is_answered_by_what_is_wrong_with_it() {
    let rig = Rig::start(Duration::from_secs(3600), None).await;
    rig.leads.send_replace(true);
    let bundle = rig.once_believed(|bundle| !bundle.is_empty()).await;
    let json = "application/json";
    let mut old = review(&json!({"spec": {}}));
    old["apiVersion"] = "admission.k8s.io/v1beta1".into();
    let mut nameless = review(&json!({"spec": {}}));
    nameless["request"]["uid"] = "".into();
    let absent = review(&Value::Null);
    for (method, path, kind, body, status, why) in [
        ("POST", "/inject", json, b"{".to_vec(), 400, "is no JSON"),
        ("POST", "/inject", json, b"{}".to_vec(), 400, "is no AdmissionReview"),
        ("POST", "/inject", json, old.to_string().into_bytes(), 400, "v1beta1"),
        ("POST", "/inject", json, nameless.to_string().into_bytes(), 400, "request.uid"),
        ("POST", "/inject", json, absent.to_string().into_bytes(), 400, "request.object"),
        ("POST", "/inject", "text/plain", b"{}".to_vec(), 415, "application/json"),
        ("GET", "/inject", json, Vec::new(), 405, "POST /inject"),
        ("GET", "/", json, Vec::new(), 404, "/readyz"),
        ("GET", "/livez", json, Vec::new(), 200, "ok"),
        ("GET", "/readyz", json, Vec::new(), 200, "ok"),
    ] {
        // One that is refused unread ends its connection.
        let said = rig.connected(&bundle).await.call(method, path, kind, &body).await;
        assert!(said.0 == status && said.1.contains(why), "{method} {path}: {said:?}");
    }
    let long = vec![b' '; (8 << 20) + 1];
    let (status, _) = rig.connected(&bundle).await.call("POST", "/inject", json, &long).await;
    assert_eq!(status, 413);
    rig.stop().await;
}

#[tokio::test]
async fn the_certificate_is_replaced_half_way_and_no_connection_ends_for_it() {
    let rig = Rig::start(Duration::from_secs(8), None).await;
    // Nobody leads: nothing is made, nothing is believed, and it is not ready.
    assert_eq!(rig.believed().await, None);
    rig.leads.send_replace(true);
    let first = rig.once_believed(|bundle| !bundle.is_empty()).await;
    assert_eq!(first.matches("BEGIN").count(), 1);
    let mut early = rig.connected(&first).await;
    let second = rig.once_believed(|bundle| bundle.matches("BEGIN").count() == 2).await;
    // Whom it believed before it believes still: somebody may be served by a replica that has not heard.
    assert!(second.ends_with(&first), "{second}");
    let only_new = second.strip_suffix(first.as_str()).unwrap();
    rig.connected(only_new).await;
    assert_eq!(early.call("GET", "/readyz", "application/json", b"").await.0, 200);
    // The key of the authority is nowhere: neither the Secret nor the configuration can sign another certificate.
    let secrets: Api<Secret> = Api::namespaced(rig.client.clone(), "weft-system");
    let data = secrets.get(webhook::SECRET).await.unwrap().data.unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["ca.crt", "tls.crt", "tls.key"]);
    let text = |entry: &str| String::from_utf8(data[entry].0.clone()).unwrap();
    assert!(text("tls.crt").matches("BEGIN").count() == 1 && !text("ca.crt").contains("KEY"));
    rig.stop().await;
}

#[tokio::test]
async fn whoever_overwrites_what_is_believed_or_deletes_the_secret_finds_it_restored() {
    let rig = Rig::start(Duration::from_secs(3600), None).await;
    rig.leads.send_replace(true);
    let good = rig.once_believed(|bundle| !bundle.is_empty()).await;
    let patch = json!([{"op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": STANDARD.encode("nobody")}]);
    let patch = Patch::<()>::Json(serde_json::from_value(patch).unwrap());
    rig.configurations().patch(webhook::CONFIGURATION, &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(rig.once_believed(|bundle| bundle == good).await, good);
    let secrets: Api<Secret> = Api::namespaced(rig.client.clone(), "weft-system");
    secrets.delete(webhook::SECRET, &kube::api::DeleteParams::default()).await.unwrap();
    let other = rig.once_believed(|bundle| bundle != good).await;
    rig.connected(&other).await;
    // One that leads no longer writes nothing more.
    rig.leads.send_replace(false);
    rig.stop().await;
}

#[tokio::test]
async fn the_file_of_settings_is_read_again_and_a_bad_one_changes_nothing() {
    let rig = Rig::start(Duration::from_secs(3600), Some("image: example.com/one:1\naccessLog: 'off'\n")).await;
    rig.leads.send_replace(true);
    let mut api_server = rig.connected(&rig.once_believed(|bundle| !bundle.is_empty()).await).await;
    let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
    let image = |response: &Value| patched(&pod, response)["spec"]["initContainers"][1]["image"].clone();
    assert_eq!(image(&api_server.review(&pod).await), "example.com/one:1");
    let file = rig.folder.path().join("settings.yaml");
    std::fs::write(&file, "image: example.com/two:1\n").unwrap();
    let until = Instant::now() + DEADLINE;
    while image(&api_server.review(&pod).await) != "example.com/two:1" {
        assert!(Instant::now() < until, "the file is not read again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It is looked at every second: longer than that, a bad one changes nothing.
    std::fs::write(&file, "imgae: x\n").unwrap();
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        assert_eq!(image(&api_server.review(&pod).await), "example.com/two:1");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rig.stop().await;
    // At the start there is no last good one.
    let refused = Rig::start(Duration::from_secs(3600), Some("imgae: x\n")).await;
    let why = timeout(DEADLINE, refused.running).await.unwrap().unwrap().unwrap_err();
    assert!(why.contains("settings.yaml") && why.contains("imgae"), "{why}");
}
