//! Cold mutual TLS handshakes against the binary's own TLS listener.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test says what is wrong")]

mod rig;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rig::{Upstream, number, run, succeeds};
use std::path::Path;
use tempfile::TempDir;

/// A root, and leaves that it signed.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let (folder, key) = (tempfile::tempdir().unwrap(), KeyPair::generate().unwrap());
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        write(folder.path(), "roots.pem", &root.self_signed(&key).unwrap().pem());
        Self { folder, issuer: Issuer::new(root, key) }
    }

    fn leaf(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names.push(SanType::URI(identity(name).try_into().unwrap()));
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        write(self.folder.path(), &format!("{name}.pem"), &leaf.signed_by(&key, &self.issuer).unwrap().pem());
        write(self.folder.path(), &format!("{name}.key"), &key.serialize_pem());
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

fn identity(name: &str) -> String {
    format!("spiffe://shop.test/ns/shop/sa/{name}")
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

fn secure(authority: &Authority) -> Upstream {
    let (cert, key, roots) = (authority.file("web.pem"), authority.file("web.key"), authority.file("roots.pem"));
    let any = "127.0.0.1:0";
    Upstream::with(&["--tls", any, "--status", any, "--cert", &cert, "--key", &key, "--roots", &roots])
}

fn arguments(target: &str, authority: &Authority, more: &[&str]) -> Vec<String> {
    let (cert, key, roots) = (authority.file("cart.pem"), authority.file("cart.key"), authority.file("roots.pem"));
    let fixed =
        ["handshake", "--target", target, "--cert", &cert, "--key", &key, "--roots", &roots, "--sni", "web.shop"];
    fixed.iter().chain(more).map(|word| (*word).to_owned()).collect()
}

#[test]
fn handshakes_are_full_mutual_and_checked_whatever_follows_them() {
    let authority = Authority::new();
    authority.leaf("web");
    authority.leaf("cart");
    for after in [
        &["--after", "close"][..],
        &["--after", "bytes", "--alpn", "tcp"],
        &["--after", "request", "--alpn", "http/1.1"],
        &["--after", "connect", "--alpn", "h2"],
    ] {
        let upstream = secure(&authority);
        let expected = identity("web");
        let more =
            [after, &["--connections-in-all", "20", "--concurrency", "3", "--expect-identity", &expected]].concat();
        let all = arguments(&upstream.at("tls"), &authority, &more);
        let result = succeeds(&all.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((&result["requests"], &result["opened"]), (&20.into(), &20.into()), "{result}");
        assert_eq!(upstream.count("tls", "requests"), 20, "the server finished them too");
        assert_eq!(result["identity"], expected);
        assert_eq!(result["suite"].as_str().map(|suite| &suite[..5]), Some("TLS13"), "{result}");
        assert_eq!(result["alpn"].as_str(), after.get(3).copied(), "{result}");
        assert!(number(&result, "/handshakeUs/p50") <= number(&result, "/latencyUs/p50"), "{result}");
    }
}

#[test]
fn strangers_are_refused_on_both_sides() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    for authority in [&ours, &theirs] {
        authority.leaf("web");
        authority.leaf("cart");
    }
    let upstream = secure(&ours);
    let failing = |words: Vec<String>| {
        let (code, result) = run(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(code, 1, "{result}");
        result["errors"].clone()
    };
    let errors = failing(arguments(&upstream.at("tls"), &theirs, &["--connections-in-all", "2"]));
    assert_eq!(errors["tls"], 2, "the server is signed by a root that the client does not know: {errors}");
    let mut words = arguments(&upstream.at("tls"), &theirs, &["--connections-in-all", "2"]);
    let roots = words.iter().position(|word| word == "--roots").unwrap();
    words[roots + 1] = ours.file("roots.pem");
    let errors = failing(words);
    assert_eq!(errors["total"], 2, "the client is signed by a root that the server does not know: {errors}");
    let other = identity("cart");
    let errors =
        failing(arguments(&upstream.at("tls"), &ours, &["--connections-in-all", "2", "--expect-identity", &other]));
    assert_eq!(errors["identity"], 2, "{errors}");
    assert_eq!(upstream.count("tls", "requests"), 2, "only those that were right for the server");
}
