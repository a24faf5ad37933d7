//! A support bundle: everything that was asked for is in it, and nothing that is secret.

use crate::{Shop, json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use weft_integration::rig::{Issuer, Mesh, wait_for};

/// What users may have written that nobody else is to see. The last is a private key of no use.
const PASSWORD: &str = "correct-horse-battery-staple";
const BASIC: &str = "Basic c2hvcDpsZXQtbWUtaW4tcGxlYXNl";
const KEY: &str = "MHcCAQEEIPneverusedanywhereoAoGCCqGSM49";

fn objects(jwks: &str, bearer: &str) -> String {
    let encoded = STANDARD.encode(PASSWORD);
    let last = format!("{{\\\"kind\\\":\\\"Secret\\\",\\\"stringData\\\":{{\\\"password\\\":\\\"{PASSWORD}\\\"}}}}");
    format!(
        "apiVersion: v1
kind: Secret
metadata:
  name: db
  namespace: shop
  annotations: {{kubectl.kubernetes.io/last-applied-configuration: \"{last}\"}}
type: Opaque
data: {{password: {encoded}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: notes, namespace: shop, annotations: {{note: 'try Bearer {bearer}'}}}}
data:
  pem: \"-----BEGIN EC PRIVATE KEY-----\\n{KEY}\\n-----END EC PRIVATE KEY-----\\n\"
  color: teal
---
apiVersion: weft.mesh/v1alpha1
kind: RequestAuthentication
metadata: {{name: people, namespace: shop}}
spec:
  optional: true
  rules:
  - issuer: https://issuer.example
    jwks: '{jwks}'
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: keyed, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: catalog, port: 80}}]
  rules:
  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {{set: [{{name: Authorization, value: {BASIC}}}]}}
    backendRefs: [{{name: catalog, port: 80}}]
"
    )
}

/// Unpacks a bundle; its directory.
fn unpack(mesh: &Mesh, file: &str) -> std::path::PathBuf {
    let status = Command::new("tar").arg("-xzf").arg(file).current_dir(mesh.folder()).status().unwrap();
    assert!(status.success());
    let entries = std::fs::read_dir(mesh.folder()).unwrap().flatten().map(|entry| entry.path());
    let is_it = |path: &std::path::PathBuf| path.is_dir() && path.to_string_lossy().contains("weft-diagnose-");
    entries.into_iter().find(is_it).expect("a bundle unpacks into a directory of its own")
}

fn read(folder: &Path, name: &str) -> Value {
    let path = folder.join(name);
    json(std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// All that a directory holds, as one text.
fn everything(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        text.push_str(&path.to_string_lossy());
        if path.is_dir() {
            text.push_str(&everything(&path));
        } else {
            text.push_str(&String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
        }
    }
    text
}

#[test]
fn a_bundle_has_what_helps_and_no_secret() {
    let shop = Shop::open();
    let issuer = Issuer::new(shop.mesh.folder(), "https://issuer.example");
    let (jwks, bearer) = (issuer.jwks(), issuer.token("ana", "shop", Duration::from_secs(600)));
    let objects = weft_integration::rig::stage::file(&shop.mesh, &objects(&jwks, &bearer));
    shop.mesh.weft(&["apply", "-f", objects.to_str().unwrap()]).ok();
    let token = shop.mesh.weft(&["token", "create", "-n", "shop", "--service", "catalog"]).ok();
    wait_for("the route has a status", || {
        let route = shop.mesh.object("httproute", "shop", "keyed");
        if route["status"]["parents"].is_array() { Ok(()) } else { Err(route.to_string()) }
    });
    let printed = shop.mesh.weft(&["diagnose", "-o", "b.tar.gz"]).ok();
    assert!(printed.starts_with("b.tar.gz: ") && printed.contains(" files, "), "{printed}");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(shop.mesh.folder().join("b.tar.gz")).unwrap());
    assert_eq!(mode & 0o777, 0o600);

    let folder = unpack(&shop.mesh, "b.tar.gz");
    let manifest = read(&folder, "manifest.json");
    for file in manifest["files"].as_array().unwrap() {
        let content = std::fs::read(folder.join(file["name"].as_str().unwrap())).unwrap();
        assert_eq!(file["bytes"].as_u64().unwrap(), content.len() as u64, "{file}");
    }
    assert!(manifest["secretsRemoved"].as_u64() >= Some(4), "{manifest:#}");
    assert!(read(&folder, "check.json")["counts"]["ok"].as_u64() > Some(10));
    assert!(read(&folder, "process.json")["residentBytes"].as_u64() > Some(1 << 20));
    assert!(read(&folder, "audit-api.json")["items"].as_array().is_some_and(|items| !items.is_empty()));
    let config = read(&folder, "sidecars/001-shop.caller/config.json");
    assert!(config["services"].as_array().is_some_and(|services| !services.is_empty()), "{config:#}");
    let metrics = std::fs::read_to_string(folder.join("sidecars/002-shop.catalog-1/metrics.txt")).unwrap();
    assert!(metrics.contains("weft_requests_total{"), "{metrics}");
    let routes = read(&folder, "objects/httproutes.gateway.networking.k8s.io.json");
    assert_eq!(routes["items"][0]["metadata"]["name"], "keyed");
    assert!(routes["items"][0]["status"].is_object(), "{routes:#}");
    assert_eq!(read(&folder, "objects/secrets.json")["items"][0]["data"]["password"], "(removed)");
    assert_eq!(read(&folder, "objects/configmaps.json")["items"][0]["data"]["color"], "teal");

    let text = everything(&folder);
    let kubeconfig = std::fs::read_to_string(shop.mesh.kubeconfig()).unwrap();
    let of_admin = kubeconfig.split("\"client-key-data\":").nth(1).and_then(|rest| rest.split('"').nth(1)).unwrap();
    assert!(of_admin.len() > 100, "{kubeconfig}");
    let key_file = std::fs::read_to_string(shop.caller.sidecar.state.join("settings.json")).unwrap();
    let proxy_password = json(key_file)["outbound"]["credentials"]["password"].as_str().unwrap().to_owned();
    let encoded = STANDARD.encode(PASSWORD);
    let keys = json(jwks.clone());
    let modulus = keys["keys"][0]["n"].as_str().unwrap();
    let secrets = [
        PASSWORD,
        &encoded,
        modulus,
        &bearer,
        &BASIC[6..],
        KEY,
        token.trim(),
        of_admin,
        &proxy_password,
        "PRIVATE KEY",
    ];
    for secret in secrets {
        assert!(!text.contains(secret), "the bundle holds {secret}");
    }
}

#[test]
fn what_does_not_answer_is_said_and_the_rest_is_there() {
    let shop = Shop::open();
    // Stopped, it keeps its stream and says nothing.
    let pid = shop.caller.sidecar.sidecar_pid().and_then(|pid| i32::try_from(pid).ok()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let output = shop.mesh.weft(&["diagnose", "-o", "b.tar.gz"]);
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    output.ok();
    let folder = unpack(&shop.mesh, "b.tar.gz");
    let why = std::fs::read_to_string(folder.join("sidecars/001-shop.caller/config.json.error.txt")).unwrap();
    assert!(why.contains("did not answer in time"), "{why}");
    assert!(folder.join("sidecars/002-shop.catalog-1/config.json").is_file());

    let Shop { mut mesh, .. } = shop;
    mesh.kill();
    let output = mesh.weft(&["diagnose", "-o", "c.tar.gz"]);
    assert_eq!(output.code, 3, "{output:?}");
    assert!(mesh.folder().join("c.tar.gz").is_file());
}
