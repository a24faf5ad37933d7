//! How many certificates an identity may have, and that all of it is written down.

use crate::join::{block, body, redeem, token};
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use tonic::Code;
use weft_integration::rig::stage::text;
use weft_integration::rig::{Mesh, Run, program};

fn audit(mesh: &Mesh) -> Vec<Value> {
    let answer: Value = serde_json::from_str(&mesh.weft(&["identity", "audit", "-o", "json"]).ok()).unwrap();
    answer["items"].as_array().unwrap().clone()
}

#[test]
fn an_identity_gets_its_number_of_certificates_and_everything_is_written_down_but_secrets() {
    let mesh = Mesh::start_with(&["--certificates-per-identity", "3"]);
    mesh.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n").ok();
    let (cart, orders) = (token(&mesh, "cart"), token(&mesh, "orders"));
    let refused = block(async {
        for _ in 0..3 {
            redeem(&mesh, &cart).await.unwrap();
        }
        let refused = redeem(&mesh, &cart).await.unwrap_err();
        redeem(&mesh, &orders).await.expect("another identity has its own number");
        refused
    });
    assert_eq!(refused.code(), Code::ResourceExhausted);
    // Three in half a day: one in four hours.
    let wait: u64 = refused.metadata().get("retry-after").unwrap().to_str().unwrap().parse().unwrap();
    assert!((14_000..=14_401).contains(&wait) && refused.message().contains(&format!("in {wait} s")), "{refused:?}");

    // A sidecar says so and waits; it neither ends nor asks in a loop.
    let sleep = program("sleep");
    let mut sidecar = mesh.run(&Run {
        name: "cart-1",
        flags: &["--service-account", "cart"],
        command: &[text(&sleep), "infinity"],
        ..Run::default()
    });
    sidecar.process.wait_for_log("no certificate yet");
    let log = sidecar.process.log();
    assert!(log.contains("as many certificates as it may have"), "{log}");

    let records = audit(&mesh);
    let of = |event: &str, account: &str| {
        let named = format!("spiffe://weft.local/ns/shop/sa/{account}");
        records.iter().filter(|r| r["event"] == event && r["identity"] == *named).count()
    };
    assert_eq!((of("issued", "cart"), of("issued", "orders")), (3, 1), "{records:#?}");
    assert_eq!(of("refused", "cart"), 2, "the test and the sidecar: {records:#?}");
    let id = body(&cart)["id"].clone();
    let uses = records.iter().filter(|r| r["event"] == "tokenUsed" && r["token"] == id);
    assert_eq!(uses.count(), 3, "a refusal spends no use");
    let issued = records.iter().find(|r| r["event"] == "issued").unwrap();
    assert_eq!(issued["by"]["token"], id);
    for field in ["time", "serial", "notBefore", "notAfter", "issuer", "address"] {
        assert!(!issued[field].is_null(), "{field}: {issued:#}");
    }
    mesh.weft(&["token", "revoke", id.as_str().unwrap()]).ok();
    let shown = mesh.weft(&["identity", "audit", "-n", "1"]).ok();
    assert!(shown.contains("tokenRevoked") && shown.contains(id.as_str().unwrap()), "{shown}");
    // What is said of a rotation is there too.
    mesh.weft(&["identity", "rotate", "--detach"]).ok();
    let last = audit(&mesh).into_iter().rev().find(|r| r["event"] == "rotation").unwrap();
    assert_eq!((&last["step"], &last["stage"]), (&"begun".into(), &"publishing".into()));

    let file = mesh.data().join("audit/audit.jsonl");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.contains(id.as_str().unwrap()), "the search finds what is there");
    for token in [&cart, &orders] {
        let secret = body(token)["secret"].as_str().unwrap().to_owned();
        assert!(!written.contains(&secret) && !written.contains(token.as_str()), "a secret is in the record");
    }
    assert!(!written.contains("PRIVATE"));
}
