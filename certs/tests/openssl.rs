//! What openssl says of the certificates made here: somebody else's reading of the same standards.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests may unwrap, helpers of tests as well: a panic there is the report"
)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use support::*;
use tokio::io::AsyncWriteExt;
use weft_certs::tls::{self, ClientAuth, peer_identity};
use weft_certs::{ApiCa, CertificateDer, Identity, MeshCa, Svid};

/// Runs openssl in a directory; its output, or a panic with what it said.
fn openssl(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("openssl is installed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "openssl {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn write(directory: &Path, name: &str, der: &CertificateDer<'_>) {
    std::fs::write(directory.join(format!("{name}.der")), der).unwrap();
    let der = format!("{name}.der");
    openssl(directory, &["x509", "-inform", "der", "-in", &der, "-out", &format!("{name}.pem")]);
}

fn written(svid: &Svid, ca: &MeshCa) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "root", &ca.root());
    write(dir.path(), "intermediate", &svid.chain()[1]);
    write(dir.path(), "leaf", &svid.chain()[0]);
    dir
}

#[test]
fn openssl_accepts_the_chain_strictly_for_both_purposes() {
    let ca = mesh();
    let svid = ca.issue(&workload("cart"), None, SystemTime::now()).unwrap();
    let dir = written(&svid, &ca);
    for purpose in ["sslserver", "sslclient"] {
        let said = openssl(
            dir.path(),
            &[
                "verify",
                "-x509_strict",
                "-purpose",
                purpose,
                "-CAfile",
                "root.pem",
                "-untrusted",
                "intermediate.pem",
                "leaf.pem",
            ],
        );
        assert_eq!(said, "leaf.pem: OK\n");
    }
    let said = openssl(dir.path(), &["verify", "-x509_strict", "-CAfile", "root.pem", "intermediate.pem"]);
    assert_eq!(said, "intermediate.pem: OK\n");
}

#[test]
fn openssl_shows_exactly_the_uri_name_and_a_leafs_usages() {
    let ca = mesh();
    let svid = ca.issue(&workload("cart"), None, SystemTime::now()).unwrap();
    let dir = written(&svid, &ca);
    let extension = |name: &str| {
        let text = openssl(dir.path(), &["x509", "-in", "leaf.pem", "-noout", "-ext", name]);
        text.lines().map(str::trim).collect::<Vec<_>>().join("|")
    };
    assert_eq!(
        extension("subjectAltName"),
        "X509v3 Subject Alternative Name: critical|URI:spiffe://weft.test/ns/shop/sa/cart"
    );
    assert_eq!(extension("basicConstraints"), "X509v3 Basic Constraints: critical|CA:FALSE");
    assert_eq!(extension("keyUsage"), "X509v3 Key Usage: critical|Digital Signature");
    assert_eq!(
        extension("extendedKeyUsage"),
        "X509v3 Extended Key Usage:|TLS Web Server Authentication, TLS Web Client Authentication"
    );
    let subject = openssl(dir.path(), &["x509", "-in", "leaf.pem", "-noout", "-subject"]);
    assert_eq!(subject.trim(), "subject=");
}

#[test]
fn openssl_computes_the_same_fingerprint_of_the_roots_key() {
    let ca = mesh();
    let svid = ca.issue(&workload("cart"), None, SystemTime::now()).unwrap();
    let dir = written(&svid, &ca);
    openssl(dir.path(), &["x509", "-in", "root.pem", "-noout", "-pubkey", "-out", "public.pem"]);
    openssl(dir.path(), &["pkey", "-pubin", "-in", "public.pem", "-outform", "der", "-out", "public.der"]);
    let said = openssl(dir.path(), &["dgst", "-sha256", "-r", "public.der"]);
    assert!(said.starts_with(&ca.root_fingerprint().unwrap().to_string()), "{said}");
}

#[test]
fn openssl_verifies_our_requests_and_we_sign_only_the_key_of_its() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ours.der"), weft_certs::KeyPair::generate().unwrap().csr().unwrap()).unwrap();
    openssl(dir.path(), &["req", "-inform", "der", "-in", "ours.der", "-verify", "-noout"]);

    openssl(dir.path(), &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem"]);
    openssl(
        dir.path(),
        &[
            "req",
            "-new",
            "-key",
            "key.pem",
            "-subj",
            "/O=system:masters/CN=admin",
            "-outform",
            "der",
            "-out",
            "wishes.der",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=keyCertSign,cRLSign",
            "-addext",
            "subjectAltName=URI:spiffe://weft.test/ns/shop/sa/payments,DNS:payments,IP:192.0.2.1",
        ],
    );
    let asked = openssl(dir.path(), &["req", "-inform", "der", "-in", "wishes.der", "-noout", "-text"]);
    assert!(asked.contains("CA:TRUE") && asked.contains("sa/payments"), "{asked}");

    let ca = mesh();
    let csr = std::fs::read(dir.path().join("wishes.der")).unwrap();
    let issued = ca.sign(&csr, &workload("cart"), None, SystemTime::now()).unwrap();
    write(dir.path(), "leaf", &issued.chain[0]);
    let text = openssl(dir.path(), &["x509", "-in", "leaf.pem", "-noout", "-text"]);
    assert!(text.contains("URI:spiffe://weft.test/ns/shop/sa/cart\n") && text.contains("CA:FALSE"), "{text}");
    for never in ["payments", "admin", "system:masters", "192.0.2.1", "CA:TRUE", "Certificate Sign"] {
        assert!(!text.contains(never), "{never}: {text}");
    }
    // The key that openssl made, in the SEC1 form in which it wrote it, fits.
    let key = weft_certs::KeyPair::from_pem("key.pem", &std::fs::read_to_string(dir.path().join("key.pem")).unwrap())
        .unwrap();
    let svid = Svid::new(issued.chain, &key).unwrap();
    assert_eq!(svid.id(), &workload("cart"));
    assert!(svid.key_pem().starts_with("-----BEGIN EC PRIVATE KEY-----"));
    Svid::from_pem(&svid.chain_pem(), svid.key_pem()).unwrap();
}

#[test]
fn openssl_accepts_the_apis_certificates_for_their_names_alone() {
    let now = SystemTime::now();
    let api = ApiCa::ephemeral(now).unwrap();
    let server = api.issue_server(&["localhost", "127.0.0.1", "::1"], None, now).unwrap();
    let client = api.issue_client("admin", &["weft:admins"], None, now).unwrap();
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "root", api.certificate());
    write(dir.path(), "server", &server.chain()[0]);
    write(dir.path(), "client", &client.chain()[0]);
    let verify = ["verify", "-x509_strict", "-CAfile", "root.pem", "-purpose"];
    let with = |more: &[&'static str]| openssl(dir.path(), &[&verify[..], more].concat());
    with(&["sslserver", "-verify_hostname", "localhost", "server.pem"]);
    with(&["sslserver", "-verify_ip", "::1", "server.pem"]);
    with(&["sslclient", "client.pem"]);
    let subject = openssl(dir.path(), &["x509", "-in", "client.pem", "-noout", "-subject"]);
    assert_eq!(subject.trim(), "subject=O = weft:admins, CN = admin");
}

#[tokio::test]
async fn openssl_as_a_client_meets_our_server() {
    let ca = mesh();
    let dir = tempfile::tempdir().unwrap();
    let cart = Identity::new(ca.issue(&workload("cart"), None, SystemTime::now()).unwrap(), ca.bundle());
    cart.write_files(dir.path()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let client = tokio::process::Command::new("openssl")
        .args([
            "s_client",
            "-tls1_3",
            "-connect",
            &address,
            "-CAfile",
            "roots.pem",
            "-verify_return_error",
            "-alpn",
            "h2",
        ])
        .args(["-cert", "cert.pem", "-key", "key.pem", "-cert_chain", "cert.pem", "-quiet"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl is installed");
    let server = tls::server_config(&live(&ca, "catalog"), ClientAuth::Required, &[tls::ALPN_HBONE]).unwrap();
    let serve = async {
        let (socket, _) = listener.accept().await.unwrap();
        let mut stream = tokio_rustls::TlsAcceptor::from(server).accept(socket).await.unwrap();
        assert_eq!(peer_identity(stream.get_ref().1), Some(workload("cart")));
        stream.write_all(b"good evening\n").await.unwrap();
        stream.shutdown().await.unwrap();
    };
    tokio::time::timeout(DEADLINE, serve).await.unwrap();
    let output = tokio::time::timeout(DEADLINE, client.wait_with_output()).await.unwrap().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("good evening"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
