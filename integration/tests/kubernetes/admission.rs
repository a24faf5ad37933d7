//! The admission webhook of a running control plane: what the API server is told to believe, and what it is answered.

use crate::cluster::{Cluster, Control, installed};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::process::Command;
use weft_integration::rig::stage::text;
use weft_integration::rig::{free_port, program, run, wait_for};

#[test]
fn a_pod_is_answered_with_its_sidecar_over_a_certificate_that_the_api_server_was_told_of() {
    let cluster = Cluster::open();
    if cluster.is_real() && cluster.object("mutatingwebhookconfiguration", "", "weft-injector").is_ok() {
        // Of a mesh that is installed there: it is not this test's to change.
        return;
    }
    let port = free_port();
    let at = format!("127.0.0.1:{port}");
    let _first = Control::start(&cluster, "weft-control-0", &["--webhook", &at]);
    let other = free_port();
    let _second = Control::start(&cluster, "weft-control-1", &["--webhook", &format!("127.0.0.1:{other}")]);
    for object in installed(&["--no-crds", "--namespace", &cluster.system()]) {
        if object["kind"] == "MutatingWebhookConfiguration" {
            cluster.apply(&object.to_string());
        }
    }
    let bundle = wait_for("the API server is told whom to believe", || {
        let configuration = cluster.object("mutatingwebhookconfiguration", "", "weft-injector")?;
        let webhooks = configuration["webhooks"].as_array().cloned().unwrap_or_default();
        let told =
            |w: &Value| w["clientConfig"]["caBundle"].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let bundles: Option<Vec<String>> = webhooks.iter().map(told).collect();
        bundles.and_then(|all| all.first().cloned()).ok_or_else(|| configuration.to_string())
    });
    let roots = cluster.file("webhook.pem", &STANDARD.decode(bundle).unwrap());
    let pod = json!({
        "metadata": {"name": "cart-1", "namespace": cluster.shop()},
        "spec": {"containers": [{"name": "cart", "image": "example.com/cart"}]},
    });
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "1", "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "operation": "CREATE", "namespace": cluster.shop(), "object": pod,
        },
    });
    let body = cluster.file("review.json", review.to_string().as_bytes());
    // Whichever replica is asked, under the name of the Service.
    for port in [port, other] {
        let host = format!("weft-control.{}.svc", cluster.system());
        let answer = wait_for("the webhook answers", || {
            let mut curl = Command::new(program("curl"));
            curl.args(["-sS", "--fail", "--noproxy", "*", "--max-time", "10", "--cacert", text(&roots)]);
            curl.args(["--resolve", &format!("{host}:{port}:127.0.0.1"), "-H", "content-type: application/json"]);
            let said = run(curl
                .arg("--data-binary")
                .arg(format!("@{}", body.display()))
                .arg(format!("https://{host}:{port}/inject")));
            if said.code == 0 { Ok(said.out) } else { Err(said.err) }
        });
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["response"]["allowed"], true, "{answer}");
        let patch = STANDARD.decode(answer["response"]["patch"].as_str().unwrap()).unwrap();
        let patch = String::from_utf8(patch).unwrap();
        assert!(patch.contains("weft-proxy") && patch.contains("weft-init"), "{patch}");
    }
    if cluster.is_real() {
        cluster.kubectl(&["delete", "mutatingwebhookconfiguration", "weft-injector"]).ok();
    }
}
