//! Tests of an agent's messages and of following them: what is chosen and what refused, and an agent that denies, drops and comes back.

use super::super::material::{Material, Unusable, Wanted};
use super::*;
use std::pin::Pin;
use tokio::net::UnixListener;
use tokio::time::Instant;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Response, Status};
use weft_certs::ca::{Reason, Revocation};
use weft_certs::{KeyPair, MeshCa, SpiffeId};
use weft_proto::spiffe::X509svid;
use weft_proto::spiffe::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};

fn ca(domain: &str) -> MeshCa {
    MeshCa::ephemeral(&domain.parse().unwrap(), SystemTime::now()).unwrap()
}

fn sequence<'c>(certificates: impl IntoIterator<Item = &'c weft_certs::CertificateDer<'static>>) -> Vec<u8> {
    certificates.into_iter().flat_map(|one| one.to_vec()).collect()
}

/// An identity of `shop` with its account's name for a hint, and how it would be revoked.
fn offered(ca: &MeshCa, account: &str) -> (X509svid, Revocation) {
    let id = SpiffeId::workload(ca.trust_domain(), "shop", account).unwrap();
    let (key, now) = (KeyPair::generate().unwrap(), SystemTime::now());
    let issued = ca.sign(&key.csr().unwrap(), &id, None, now).unwrap();
    let svid = X509svid {
        spiffe_id: id.to_string(),
        x509_svid: sequence(&issued.chain),
        x509_svid_key: key.private_der().secret_der().to_vec(),
        bundle: sequence(ca.bundle().roots()),
        hint: account.to_owned(),
    };
    (svid, Revocation { issuer: issued.issuer, serial: issued.serial, at: now, reason: Reason::Unspecified })
}

fn message(ca: &MeshCa, accounts: &[&str]) -> X509svidResponse {
    X509svidResponse { svids: accounts.iter().map(|name| offered(ca, name).0).collect(), ..X509svidResponse::default() }
}

#[test]
fn the_identity_is_the_first_or_the_one_that_is_asked_for() {
    let ca = ca("example.org");
    let said = message(&ca, &["web", "cart", "orders"]);
    let chosen = |wanted: &Wanted| Material::read(said.clone(), wanted).map(|material| material.svid.id().to_string());
    let id = |name: &str| format!("spiffe://example.org/ns/shop/sa/{name}");
    let by_id = |name: &str| Wanted { id: Some(SpiffeId::new(&id(name)).unwrap()), ..Wanted::default() };
    let by_hint = |hint: &str| Wanted { hint: Some(hint.to_owned()), ..Wanted::default() };
    let of = |account: &str| Wanted { workload: Some(("shop".to_owned(), account.to_owned())), ..Wanted::default() };
    assert_eq!(chosen(&Wanted::default()).unwrap(), id("web"));
    assert_eq!(chosen(&by_id("orders")).unwrap(), id("orders"));
    assert_eq!(chosen(&by_hint("cart")).unwrap(), id("cart"));
    assert_eq!(chosen(&of("cart")).unwrap(), id("cart"));
    for wanted in [by_id("payments"), by_hint("payments")] {
        let error = chosen(&wanted).unwrap_err().to_string();
        assert!(error.contains("payments") && error.contains(&id("web")), "{error}");
    }
    let error = chosen(&of("payments")).unwrap_err().to_string();
    assert!(error.contains("would be spiffe://example.org/ns/shop/sa/payments"), "{error}");
    // "the first message in the list SHOULD be selected" of those with one hint.
    let mut twice = message(&ca, &["web", "cart"]);
    twice.svids[1].hint = "web".to_owned();
    assert_eq!(Material::read(twice, &by_hint("web")).unwrap().svid.id().as_str(), id("web"));
    let none = Material::read(X509svidResponse::default(), &Wanted::default()).unwrap_err();
    assert!(matches!(none, Unusable::NotOffered { .. }), "{none}");
}

#[test]
fn what_is_missing_wrong_or_damaged_is_refused_and_no_key_is_in_the_reason() {
    let ca = ca("example.org");
    let change = |change: fn(&mut X509svid)| {
        let mut said = message(&ca, &["web"]);
        change(&mut said.svids[0]);
        Material::read(said, &Wanted::default()).unwrap_err().to_string()
    };
    for (error, reason) in [
        (change(|svid| svid.spiffe_id.clear()), "without a SPIFFE id"),
        (change(|svid| svid.x509_svid.clear()), "without a certificate"),
        (change(|svid| svid.x509_svid_key.clear()), "without a key"),
        (change(|svid| svid.bundle.clear()), "without a bundle"),
        (
            change(|svid| svid.spiffe_id = "spiffe://example.org/other".to_owned()),
            "is of spiffe://example.org/ns/shop/sa/web",
        ),
        (
            change(|svid| svid.x509_svid_key = KeyPair::generate().unwrap().private_der().secret_der().to_vec()),
            "do not fit",
        ),
        (change(|svid| svid.x509_svid_key.truncate(20)), "private key that cannot be used"),
        (change(|svid| svid.x509_svid.truncate(100)), "no certificate in DER"),
        (change(|svid| svid.bundle.truncate(100)), "trust bundle of \"example.org\""),
    ] {
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn other_domains_and_revocation_lists_come_with_it_and_a_bad_one_spoils_nothing() {
    let (ca, other) = (ca("example.org"), self::ca("partner.example"));
    let mut said = message(&ca, &["web"]);
    let (_, revoked) = offered(&ca, "thief");
    ca.revoke(vec![revoked], SystemTime::now()).unwrap();
    said.crl = vec![b"nonsense".to_vec(), ca.bundle().revocations()[0].der().to_vec()];
    let roots = |ca: &MeshCa| sequence(ca.bundle().roots());
    said.federated_bundles = [
        ("spiffe://partner.example".to_owned(), roots(&other)),
        ("spiffe://broken.example".to_owned(), vec![1, 2, 3]),
        ("spiffe://not a domain".to_owned(), roots(&other)),
        // Nobody else says whom the own domain trusts.
        ("spiffe://example.org".to_owned(), roots(&other)),
    ]
    .into();
    let read = Material::read(said, &Wanted::default()).unwrap();
    let domains: Vec<_> = read.bundles.domains().map(ToString::to_string).collect();
    assert_eq!(domains, ["example.org", "partner.example"]);
    assert_eq!(*read.bundles.get(ca.trust_domain()).unwrap(), ca.bundle());
}

/// An agent whose word is set from outside.
struct Fake(watch::Receiver<Result<X509svidResponse, Code>>);

#[tonic::async_trait]
impl SpiffeWorkloadApi for Fake {
    type FetchX509SVIDStream = Pin<Box<dyn Stream<Item = Result<X509svidResponse, Status>> + Send>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        if request.metadata().get("workload.spiffe.io").is_none_or(|value| value != "true") {
            return Err(Status::invalid_argument("security header missing"));
        }
        let words = WatchStream::new(self.0.clone());
        Ok(Response::new(Box::pin(words.map(|word| word.map_err(|code| Status::new(code, "asked to"))))))
    }
}

async fn until(what: &str, mut right: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !right() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_agent_is_followed_through_denials_rotations_and_broken_streams() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let (word, heard) = watch::channel(Err(Code::PermissionDenied));
    let listener = UnixListener::bind(&socket).unwrap();
    let accepted = futures_util::stream::unfold(listener, |listener| async {
        let stream = listener.accept().await.map(|(stream, _)| stream);
        Some((stream, listener))
    });
    let server = tonic::transport::Server::builder().add_service(SpiffeWorkloadApiServer::new(Fake(heard)));
    tokio::spawn(server.serve_with_incoming(Box::pin(accepted)));
    let says = |said| drop(word.send_replace(said));
    let denied = Agent::new(&socket, Wanted::default()).ask().await.unwrap_err().to_string();
    assert!(denied.contains("PERMISSION_DENIED") && denied.contains("registration entry"), "{denied}");
    let registry = Arc::new(Registry::default());
    let counted = Arc::clone(&registry);
    let failed = || {
        let shown = registry.render(std::time::Instant::now());
        let line =
            shown.lines().find_map(|line| line.strip_prefix(r#"weft_certificate_renewals_total{result="failed"} "#));
        line.map_or(0, |count| count.parse::<u32>().unwrap())
    };
    let first = tokio::spawn({
        let agent = Agent::new(&socket, Wanted::default());
        async move { agent.first(&counted).await }
    });
    let ca = ca("example.org");
    says(Ok(message(&ca, &["web"])));
    let (discover, discovered) = watch::channel(Bundles::default());
    let followed = first.await.unwrap().unwrap().with_discovered(discovered);
    let live = followed.live();
    let running = tokio::spawn(followed.run());
    let chain = || live.current().svid.chain().to_vec();

    let before = chain();
    says(Ok(message(&ca, &["web"])));
    until("a rotation is taken", || chain() != before).await;
    // An identity of somebody else is not: who a process is never changes.
    let before = chain();
    says(Ok(message(&ca, &["cart"])));
    until("it is refused", || failed() == 1).await;
    assert_eq!((chain(), live.id().service_account()), (before.clone(), Some("web")));
    // A stream that is broken off.
    says(Err(Code::Unavailable));
    until("the stream is broken off", || failed() > 1).await;
    assert_eq!(chain(), before);
    says(Ok(message(&ca, &["web"])));
    until("it is opened anew", || chain() != before).await;
    // Discovery names another domain, and the own one with other roots: there the agent's word counts.
    let (partner, impostor) = (self::ca("partner.example"), self::ca("example.org"));
    let wire = |ca: &MeshCa| {
        let roots = ca.bundle().to_der();
        let wire =
            weft_proto::v1::TrustBundle { trust_domain: ca.trust_domain().to_string(), roots, ..Default::default() };
        (wire.trust_domain.clone(), Arc::new(weft_policy::config::TrustBundle::from_wire(&wire).unwrap()))
    };
    discover.send_replace(Arc::new([wire(&partner), wire(&impostor)].into()));
    until("the other domain is trusted", || live.current().bundles.get(partner.trust_domain()).is_some()).await;
    assert_eq!(*live.current().bundles.get(ca.trust_domain()).unwrap(), ca.bundle());
    discover.send_replace(Bundles::default());
    until("and no longer", || live.current().bundles.get(partner.trust_domain()).is_none()).await;
    running.abort();
}
