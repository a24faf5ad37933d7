//! The control plane's port serves gRPC by a codec of Weft's own; here gRPC's own client talks to it, over TLS by OpenSSL.

use crate::peer::{Peer, Token, block};
use crate::stage::StandIn;
use std::path::Path;
use std::process::Command;
use weft_certs::KeyPair;
use weft_integration::rig::stage::apply;
use weft_integration::rig::{Mesh, Process, python_env};

/// Changes what callers of payments are told of it.
const SLOWER: &str = "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: payments, namespace: shop}\n\
    spec: {targetRefs: [{kind: Service, name: payments}], timeouts: {request: 7s}}\n";

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

#[test]
fn grpcs_own_client_gets_a_certificate_and_discovery_and_a_status_for_every_refusal() {
    let mesh = Mesh::start();
    let _cart = StandIn::start(&mesh, "cart", "http");
    let _payments = StandIn::start(&mesh, "payments", "http");
    let peer = block(Peer::join(&mesh, "cart"));
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| std::fs::write(folder.path().join(name), content).unwrap();
    write("token", Token::create(&mesh, "cart", &[]).0.as_bytes());
    write("csr.der", &KeyPair::generate().unwrap().csr().unwrap());
    write("chain.pem", peer.chain.iter().map(|der| pem("CERTIFICATE", der)).collect::<String>().as_bytes());
    write("key.pem", peer.key.to_pem().as_bytes());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trust/grpc_client.py");
    let mut python = Command::new(python_env("grpc"));
    python.arg(script).arg(mesh.grpc().to_string()).arg(folder.path());
    let mut client = Process::start(folder.path(), "client", &mut python);
    client.wait_for_log("waits");
    apply(&mesh, SLOWER);
    assert_eq!(client.wait(), 0, "{}", client.log());
    let said = client.log();
    println!("{said}");
    for line in [
        "issued spiffe://weft.local/ns/shop/sa/cart 2",
        "issue UNAUTHENTICATED ",
        "discovery UNAUTHENTICATED ",
        "holds Inbound ['shop/cart']",
        "holds Service ['shop/payments']",
        "absent ['shop/nobody']",
        "pushed type.googleapis.com/weft.v1.Service ['shop/payments']",
        "wildcard INVALID_ARGUMENT ",
        "whole UNIMPLEMENTED state of the world is not served",
        "unknown UNIMPLEMENTED no such service",
        "compressed UNIMPLEMENTED ",
    ] {
        assert!(said.lines().any(|said| said.starts_with(line)), "{line}: {said}");
    }
}
