//! Handshakes over real sockets: who is let in, who is not, and what each side is told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests may unwrap, helpers of tests as well: a panic there is the report"
)]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::{CipherSuite, HandshakeKind, NamedGroup, ProtocolVersion};
use rustls_pki_types::ServerName;
use support::*;
use time::OffsetDateTime;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use weft_certs::ca::ClientName;
use weft_certs::tls::{self, ClientAuth, ClientConfigs, peer_identity};
use weft_certs::{ApiCa, Error, Identity, LiveIdentity, MeshCa, PeerFault, SpiffeId, Svid, TrustBundles};

const ALPN: &[&[u8]] = &[tls::ALPN_HBONE];

fn strict(live: &Arc<LiveIdentity>) -> Arc<rustls::ServerConfig> {
    tls::server_config(live, ClientAuth::Required, ALPN).unwrap()
}

fn to(live: &Arc<LiveIdentity>, expected: &SpiffeId) -> Arc<rustls::ClientConfig> {
    ClientConfigs::new(live.clone()).to_peer(expected, ALPN).unwrap()
}

#[tokio::test]
async fn two_workloads_of_a_mesh_meet_with_hybrid_tls_1_3() {
    let ca = mesh();
    let (cart, catalog) = (live(&ca, "cart"), live(&ca, "catalog"));
    let (server, client) = handshake(strict(&catalog), to(&cart, catalog.id())).await.good();
    let (server, client) = (server.get_ref().1, client.get_ref().1);
    assert_eq!(peer_identity(server).as_ref(), Some(cart.id()));
    assert_eq!(peer_identity(client).as_ref(), Some(catalog.id()));
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(server.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(server.negotiated_cipher_suite().unwrap().suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(server.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(server.server_name(), None);
}

#[tokio::test]
async fn sni_and_alpn_reach_the_server_unchanged() {
    let ca = mesh();
    let (cart, catalog) = (live(&ca, "cart"), live(&ca, "catalog"));
    let server = tls::server_config(&catalog, ClientAuth::Required, &[tls::ALPN_HBONE, tls::ALPN_NATIVE]).unwrap();
    let client = ClientConfigs::new(cart).to_peer(catalog.id(), &[tls::ALPN_NATIVE]).unwrap();
    let name = ServerName::try_from("8080.catalog.shop.svc.cluster.local").unwrap();
    let (server, _) = named_handshake(server, client, name).await.good();
    assert_eq!(server.get_ref().1.server_name(), Some("8080.catalog.shop.svc.cluster.local"));
    assert_eq!(server.get_ref().1.alpn_protocol(), Some(b"weft-h2".as_slice()));
}

#[tokio::test]
async fn a_client_without_certificate_is_refused_where_strict_and_anonymous_where_permissive() {
    let catalog = live(&mesh(), "catalog");
    let outcome = handshake(strict(&catalog), any_client(None)).await;
    assert!(matches!(outcome.server, Err(Error::PeerMisbehaved(PeerFault::NoCertificate))));
    let told = outcome.client.unwrap_err().to_string();
    assert_eq!(told, "peer requires a certificate, and this side presented none");

    let permissive = tls::server_config(&catalog, ClientAuth::Optional, ALPN).unwrap();
    let (server, _) = handshake(permissive, any_client(None)).await.good();
    assert_eq!(peer_identity(server.get_ref().1), None);
}

#[tokio::test]
async fn a_bad_certificate_is_refused_even_where_none_is_required() {
    let (forge, ca) = (Forge::new(), mesh());
    let permissive = tls::server_config(&live(&ca, "catalog"), ClientAuth::Optional, ALPN).unwrap();
    let text = handshake(permissive, any_client(Some(forge.leaf(&workload("cart"), |_| {})))).await.refused_by_server();
    assert!(text.contains("does not lead to a root of trust domain \"weft.test\""), "{text}");
}

/// A leaf with one thing wrong must be refused from either side, for that reason.
async fn both_sides_refuse(forge: &Forge, make: impl Fn() -> Presented, reason: &str) {
    let catalog = forge.live("catalog");
    let by_server = handshake(strict(&catalog), any_client(Some(make()))).await;
    assert!(matches!(by_server.server, Err(Error::PeerMisbehaved(_))));
    assert!(matches!(by_server.client, Err(Error::PeerRefused(_))), "the client learns that it was refused");
    let text = by_server.refused_by_server();
    assert!(text.contains(reason), "as a client: {text}");

    let by_client = handshake(any_server(make()), to(&catalog, &workload("cart"))).await;
    assert!(matches!(by_client.client, Err(Error::PeerMisbehaved(_))));
    let text = by_client.refused_by_client();
    assert!(text.contains(reason), "as a server: {text}");
}

#[tokio::test]
async fn the_forge_makes_leaves_that_pass_when_nothing_is_wrong() {
    let forge = Forge::new();
    let catalog = forge.live("catalog");
    handshake(strict(&catalog), any_client(Some(forge.leaf(&workload("cart"), |_| {})))).await.good();
    let server = any_server(forge.leaf(&workload("cart"), |_| {}));
    handshake(server, to(&catalog, &workload("cart"))).await.good();
}

#[tokio::test]
async fn an_expired_certificate_is_refused_with_both_clocks() {
    let forge = Forge::new();
    let expired = || {
        forge.leaf(&workload("cart"), |p| {
            p.not_before = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
            p.not_after = OffsetDateTime::from_unix_timestamp(1_700_086_400).unwrap();
        })
    };
    both_sides_refuse(&forge, expired, "peer's certificate expired at 2023-11-15T22:13:20Z; it is 20").await;
    let told = handshake(strict(&forge.live("catalog")), any_client(Some(expired()))).await.refused_by_client();
    assert!(told.contains("peer refused this side's certificate: expired"), "{told}");
}

#[tokio::test]
async fn a_certificate_of_the_future_is_refused() {
    let forge = Forge::new();
    let early = || {
        forge.leaf(&workload("cart"), |p| {
            p.not_before = OffsetDateTime::now_utc() + Duration::from_secs(3600);
            p.not_after = OffsetDateTime::now_utc() + Duration::from_secs(7200);
        })
    };
    both_sides_refuse(&forge, early, "peer's certificate is valid from ").await;
}

#[tokio::test]
async fn a_peer_of_an_unknown_trust_domain_is_refused_by_name() {
    let forge = Forge::new();
    let id = "spiffe://other.test/ns/shop/sa/cart".parse().unwrap();
    let reason = "this side trusts no trust domain \"other.test\" (trusted here: weft.test)";
    both_sides_refuse(&forge, || forge.leaf(&id, |_| {}), reason).await;
}

#[tokio::test]
async fn a_root_of_one_trust_domain_vouches_for_no_other() {
    let (here, there) = (Forge::new(), Forge::new());
    let live = here.live("catalog");
    let mut bundles = TrustBundles::from(here.bundle("weft.test"));
    bundles.insert(there.bundle("peer.test"));
    live.replace_bundles(bundles);
    // The federated domain's authority may name its own workloads …
    let own: SpiffeId = "spiffe://peer.test/ns/shop/sa/cart".parse().unwrap();
    let (server, _) = handshake(strict(&live), any_client(Some(there.leaf(&own, |_| {})))).await.good();
    assert_eq!(peer_identity(server.get_ref().1), Some(own));
    // … and not ours.
    let posing = any_client(Some(there.leaf(&workload("cart"), |_| {})));
    let text = handshake(strict(&live), posing).await.refused_by_server();
    assert!(text.contains("does not lead to a root of trust domain \"weft.test\""), "{text}");
}

#[tokio::test]
async fn a_server_that_is_somebody_else_is_refused_by_both_names() {
    let ca = mesh();
    let (cart, payments) = (live(&ca, "cart"), live(&ca, "payments"));
    let outcome = handshake(strict(&payments), to(&cart, &workload("catalog"))).await;
    assert_eq!(
        outcome.refused_by_client(),
        "peer is spiffe://weft.test/ns/shop/sa/payments, but spiffe://weft.test/ns/shop/sa/catalog was expected"
    );
}

#[tokio::test]
async fn exactly_one_uri_name_is_demanded() {
    let forge = Forge::new();
    let id = workload("cart");
    let with = |names: Vec<SanType>| forge.leaf(&id, |p| p.subject_alt_names = names);
    let two = || with(vec![uri(id.as_str()), uri("spiffe://weft.test/ns/shop/sa/payments")]);
    both_sides_refuse(&forge, two, "has 2 URI names, but an SVID has exactly one").await;
    both_sides_refuse(&forge, || with(vec![uri(id.as_str()), uri(id.as_str())]), "has 2 URI names").await;
    both_sides_refuse(&forge, || with(vec![SanType::DnsName("cart.shop".try_into().unwrap())]), "has 0 URI names")
        .await;
    both_sides_refuse(&forge, || with(vec![uri("https://weft.test/ns/shop/sa/cart")]), "which is no SPIFFE id").await;
    both_sides_refuse(&forge, || with(vec![uri("spiffe://weft.test")]), "names the trust domain \"weft.test\" itself")
        .await;
}

#[tokio::test]
async fn a_leaf_that_is_an_authority_or_may_sign_is_refused() {
    let forge = Forge::new();
    let id = workload("cart");
    let authority = || forge.leaf(&id, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    both_sides_refuse(&forge, authority, "peer presented a CA certificate as its own").await;
    let usages = |usages: &[KeyUsagePurpose]| forge.leaf(&id, |p| p.key_usages = usages.to_vec());
    use KeyUsagePurpose::*;
    both_sides_refuse(&forge, || usages(&[DigitalSignature, KeyCertSign]), "it may sign certificates").await;
    both_sides_refuse(&forge, || usages(&[DigitalSignature, CrlSign]), "it may sign certificates").await;
    both_sides_refuse(&forge, || usages(&[KeyEncipherment]), "it may not sign handshakes").await;
    both_sides_refuse(&forge, || usages(&[]), "it states none").await;
    let other = || forge.leaf(&id, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]);
    both_sides_refuse(&forge, other, "it is not for this side of a handshake").await;
}

#[tokio::test]
async fn a_workload_cannot_sign_for_another() {
    let forge = Forge::new();
    let posing = Forge::with_intermediate(|p| p.is_ca = IsCa::ExplicitNoCa);
    let catalog = forge.live("catalog");
    catalog.replace_bundle(&posing.bundle("weft.test"));
    let text = handshake(strict(&catalog), any_client(Some(posing.leaf(&workload("cart"), |_| {})))).await;
    assert!(text.refused_by_server().contains("an issuer of its chain may not sign certificates"));

    // CA:TRUE alone is not enough either: the key usage must allow it.
    let silent = Forge::with_intermediate(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    catalog.replace_bundle(&silent.bundle("weft.test"));
    let text = handshake(strict(&catalog), any_client(Some(silent.leaf(&workload("cart"), |_| {})))).await;
    assert!(text.refused_by_server().contains("an issuer of its chain may not sign certificates"));
}

#[tokio::test]
async fn a_client_that_speaks_tls_1_2_only_is_refused() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = tokio::process::Command::new("openssl")
        .args(["s_client", "-tls1_2", "-connect", &address])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl is installed");
    let accept = async {
        let (socket, _) = listener.accept().await.unwrap();
        tokio_rustls::TlsAcceptor::from(strict(&live(&mesh(), "catalog"))).accept(socket).await
    };
    let error = tokio::time::timeout(DEADLINE, accept).await.unwrap().unwrap_err();
    let error = Error::from_handshake(&error);
    assert!(matches!(error, Error::PeerIncompatible(_)), "{error}");
    assert!(error.to_string().contains("TLS 1.3 only"), "{error}");
    let status = tokio::time::timeout(DEADLINE, client.wait()).await.unwrap().unwrap();
    assert!(!status.success());
}

#[tokio::test]
async fn a_server_that_speaks_tls_1_2_only_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ca = mesh();
    Identity::new(ca.issue(&workload("catalog"), None, SystemTime::now()).unwrap(), ca.bundle())
        .write_files(dir.path())
        .unwrap();
    let mut server = tokio::process::Command::new("openssl")
        .args(["s_server", "-tls1_2", "-accept", "127.0.0.1:0", "-cert", "cert.pem", "-key", "key.pem"])
        .current_dir(dir.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl is installed");
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let address = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("openssl says where it listens");
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                return address.to_owned();
            }
        }
    };
    let address = tokio::time::timeout(DEADLINE, address).await.unwrap();
    let socket = tokio::net::TcpStream::connect(&address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(to(&live(&ca, "cart"), &workload("catalog")));
    let connect = tokio::time::timeout(DEADLINE, connector.connect(tls::unnamed(), socket)).await.unwrap();
    let text = Error::from_handshake(&connect.unwrap_err()).to_string();
    assert!(text.contains("TLS 1.3"), "{text}");
    server.kill().await.unwrap();
}

#[tokio::test]
async fn a_peer_that_speaks_no_tls_or_hangs_up_is_told_apart() {
    let catalog = live(&mesh(), "catalog");
    for (sent, reason) in
        [(b"GET / HTTP/1.1\r\n\r\n".as_slice(), "peer does not speak TLS"), (b"", "peer closed the connection")]
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        peer.write_all(sent).await.unwrap();
        peer.shutdown().await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let accept = tokio_rustls::TlsAcceptor::from(strict(&catalog)).accept(socket);
        let error = tokio::time::timeout(DEADLINE, accept).await.unwrap().unwrap_err();
        let text = Error::from_handshake(&error).to_string();
        assert!(text.contains(reason), "{text}");
    }
}

#[tokio::test]
async fn no_common_application_protocol_is_said_on_both_sides() {
    let ca = mesh();
    let (cart, catalog) = (live(&ca, "cart"), live(&ca, "catalog"));
    let client = ClientConfigs::new(cart).to_peer(catalog.id(), &[tls::ALPN_NATIVE]).unwrap();
    let outcome = handshake(strict(&catalog), client).await;
    assert!(outcome.server.unwrap_err().to_string().contains("no application protocol (ALPN)"));
    assert!(outcome.client.unwrap_err().to_string().contains("no application protocol (ALPN)"));
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let ca = mesh();
    let (cart, catalog) = (live(&ca, "cart"), live(&ca, "catalog"));
    let (server, client) = (strict(&catalog), to(&cart, catalog.id()));
    let willing = {
        let chain = cart.current().svid.chain().to_vec();
        let key = weft_certs::KeyPair::from_pem("key", cart.current().svid.key_pem()).unwrap().private_der();
        any_client(Some((chain, key)))
    };
    // Full every time. The hybrid group is offered with its share at once, so there is no second round either.
    for client in [&client, &client, &willing, &willing] {
        let (mut there, mut here) = handshake(server.clone(), client.clone()).await.good();
        // A ticket would arrive before these bytes.
        let (a, b) = tokio::join!(exchange(&mut there), exchange(&mut here));
        a.and(b).unwrap();
        assert_eq!(here.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(here.get_ref().1.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn a_swap_keeps_open_connections_and_new_ones_get_the_new_certificate() {
    let ca = mesh();
    let (cart, catalog) = (live(&ca, "cart"), live(&ca, "catalog"));
    let (server, client) = (strict(&catalog), to(&cart, catalog.id()));
    let (mut there, mut here) = handshake(server.clone(), client.clone()).await.good();
    let leaf = |stream: &tokio_rustls::client::TlsStream<tokio::net::TcpStream>| {
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let before = leaf(&here);
    assert_eq!(before, catalog.current().svid.chain()[0]);

    for live in [&catalog, &cart] {
        live.replace_svid(ca.issue(live.id(), None, SystemTime::now()).unwrap()).unwrap();
    }
    let (a, b) = tokio::join!(exchange(&mut there), exchange(&mut here));
    a.and(b).unwrap();
    assert_eq!(leaf(&here), before, "the open connection keeps what it was made with");

    let (there, here) = handshake(server, client).await.good();
    assert_ne!(leaf(&here), before);
    assert_eq!(leaf(&here), catalog.current().svid.chain()[0]);
    assert_eq!(there.get_ref().1.peer_certificates().unwrap()[0], cart.current().svid.chain()[0]);
}

#[tokio::test]
async fn a_root_rotates_without_a_moment_in_which_nobody_talks() {
    let (old, new) = (mesh(), mesh());
    let (cart, catalog) = (live(&old, "cart"), live(&old, "catalog"));
    let (server, client) = (strict(&catalog), to(&cart, catalog.id()));
    let meet = || async { handshake(server.clone(), client.clone()).await };
    let renew =
        |live: &LiveIdentity| live.replace_svid(new.issue(live.id(), None, SystemTime::now()).unwrap()).unwrap();
    let (mut there, mut here) = meet().await.good();

    // The new root first, one sidecar after the other; then new certificates; then the old root goes.
    let both = old.bundle().with_roots_of(&new.bundle()).unwrap();
    assert!(cart.replace_bundle(&both));
    meet().await.good();
    assert!(catalog.replace_bundle(&both));
    meet().await.good();
    renew(&cart);
    meet().await.good();
    renew(&catalog);
    meet().await.good();
    cart.replace_bundle(&new.bundle());
    catalog.replace_bundle(&new.bundle());
    meet().await.good();

    let (a, b) = tokio::join!(exchange(&mut there), exchange(&mut here));
    a.and(b).unwrap();

    // Who missed the rotation is refused now.
    let text = handshake(server, to(&live(&old, "late"), catalog.id())).await.refused_by_client();
    assert!(text.contains("does not lead to a root of trust domain \"weft.test\""), "{text}");
}

#[tokio::test]
async fn client_configurations_are_made_once_for_each_peer_and_protocol() {
    let ca = mesh();
    let configs = ClientConfigs::new(live(&ca, "cart"));
    let one = configs.to_peer(&workload("catalog"), ALPN).unwrap();
    assert!(Arc::ptr_eq(&one, &configs.to_peer(&workload("catalog"), ALPN).unwrap()));
    assert!(!Arc::ptr_eq(&one, &configs.to_peer(&workload("catalog"), &[tls::ALPN_NATIVE]).unwrap()));
    assert!(!Arc::ptr_eq(&one, &configs.to_peer(&workload("payments"), ALPN).unwrap()));
}

fn control_plane(ca: &MeshCa) -> Arc<rustls::ServerConfig> {
    let svid = ca.issue_control_plane(SystemTime::now()).unwrap();
    let live = LiveIdentity::new(Identity::new(svid, ca.bundle()));
    tls::server_config(&live, ClientAuth::Optional, &[tls::ALPN_GRPC]).unwrap()
}

#[tokio::test]
async fn a_fingerprint_alone_verifies_the_control_plane_and_yields_the_root() {
    let ca = mesh();
    let pin = ca.root_fingerprint().unwrap();
    let client = tls::bootstrap_client_config(pin, ca.trust_domain(), &[tls::ALPN_GRPC]).unwrap();
    let (server, client) = handshake(control_plane(&ca), client).await.good();
    assert_eq!(peer_identity(server.get_ref().1), None);
    let chain = client.get_ref().1.peer_certificates().unwrap();
    assert_eq!(tls::bootstrap_root(chain, &pin), Some(ca.root()));
    assert_eq!(peer_identity(client.get_ref().1), Some(SpiffeId::control_plane(ca.trust_domain())));
}

#[tokio::test]
async fn bootstrap_refuses_other_roots_and_everybody_but_the_control_plane() {
    let (ca, other) = (mesh(), mesh());
    let pin = ca.root_fingerprint().unwrap();
    let bootstrap = || tls::bootstrap_client_config(pin, ca.trust_domain(), &[tls::ALPN_GRPC]).unwrap();

    let text = handshake(control_plane(&other), bootstrap()).await.refused_by_client();
    assert!(text.contains("holds none with the pinned root key sha256:"), "{text}");

    // A workload of the same mesh, with the root at the end of its chain, as the control plane would have it.
    let posing = |id: &SpiffeId, with_root: bool| {
        let svid = ca.issue(id, None, SystemTime::now()).unwrap();
        let mut chain = svid.chain().to_vec();
        if with_root {
            chain.push(ca.root().clone());
        }
        any_server((chain, weft_certs::KeyPair::from_pem("key", svid.key_pem()).unwrap().private_der()))
    };
    let text = handshake(posing(&workload("cart"), true), bootstrap()).await.refused_by_client();
    assert_eq!(
        text,
        "peer is spiffe://weft.test/ns/shop/sa/cart, but spiffe://weft.test/ns/weft-system/sa/weft-control was expected"
    );

    // Without the root there is nothing to hold the pin against.
    let own = SpiffeId::control_plane(ca.trust_domain());
    let text = handshake(posing(&own, false), bootstrap()).await.refused_by_client();
    assert!(text.contains("chain of 2 certificates holds none with the pinned root key"), "{text}");

    // Another authority's chain with our root thrown in.
    let svid = other.issue_control_plane(SystemTime::now()).unwrap();
    let chain = [svid.chain(), &[ca.root().clone()]].concat();
    let mixed = any_server((chain, weft_certs::KeyPair::from_pem("key", svid.key_pem()).unwrap().private_der()));
    let text = handshake(mixed, bootstrap()).await.refused_by_client();
    assert!(text.contains("does not lead to a root"), "{text}");

    // Another trust domain under the same root key.
    let elsewhere = tls::bootstrap_client_config(pin, &domain("other.test"), &[tls::ALPN_GRPC]).unwrap();
    let text = handshake(control_plane(&ca), elsewhere).await.refused_by_client();
    assert!(text.contains("spiffe://other.test/ns/weft-system/sa/weft-control was expected"), "{text}");
}

#[tokio::test]
async fn given_roots_verify_the_control_plane_and_nobody_else() {
    let (ca, other) = (mesh(), mesh());
    let rooted = || tls::rooted_client_config(ca.bundle(), &[tls::ALPN_GRPC]).unwrap();
    let (_, client) = handshake(control_plane(&ca), rooted()).await.good();
    assert_eq!(peer_identity(client.get_ref().1), Some(SpiffeId::control_plane(ca.trust_domain())));

    let text = handshake(control_plane(&other), rooted()).await.refused_by_client();
    assert!(text.contains("does not lead to a root"), "{text}");
    let text = handshake(strict(&live(&ca, "payments")), rooted()).await.refused_by_client();
    assert!(text.contains("peer is spiffe://weft.test/ns/shop/sa/payments"), "{text}");
}

#[tokio::test]
async fn a_renewal_proves_itself_to_the_control_plane_and_demands_exactly_it() {
    let ca = mesh();
    let cart = live(&ca, "cart");
    let client = ClientConfigs::new(cart.clone()).to_control_plane(&[tls::ALPN_GRPC]).unwrap();
    let (server, _) = handshake(control_plane(&ca), client.clone()).await.good();
    assert_eq!(peer_identity(server.get_ref().1).as_ref(), Some(cart.id()));
    let text = handshake(strict(&live(&ca, "payments")), client).await.refused_by_client();
    assert!(text.contains("peer is spiffe://weft.test/ns/shop/sa/payments"), "{text}");
}

#[tokio::test]
async fn the_api_knows_its_own_clients_and_refuses_svids() {
    let now = SystemTime::now();
    let (api, ca) = (ApiCa::ephemeral(now).unwrap(), mesh());
    let server = || {
        let credential = api.issue_server(&["localhost", "127.0.0.1", "::1"], None, now).unwrap();
        tls::api_server_config(&credential, api.certificate(), &[b"h2", b"http/1.1"]).unwrap()
    };
    let name = || ServerName::try_from("127.0.0.1").unwrap();
    let admin = api.issue_client("admin", &["weft:admins"], None, now).unwrap();
    let client = |credential| tls::api_client_config([api.certificate()], credential, &[b"http/1.1"]).unwrap();

    let (stream, _) = named_handshake(server(), client(Some(&admin)), name()).await.good();
    let presented = stream.get_ref().1.peer_certificates().unwrap();
    let who = ClientName::of(&presented[0]).unwrap();
    assert_eq!(who, ClientName { user: "admin".into(), groups: vec!["weft:admins".into()] });

    let (stream, _) = named_handshake(server(), client(None), name()).await.good();
    assert!(stream.get_ref().1.peer_certificates().is_none());

    let svid = ca.issue(&workload("cart"), None, now).unwrap();
    let key = weft_certs::KeyPair::from_pem("key", svid.key_pem()).unwrap().private_der();
    let outcome = named_handshake(server(), any_client(Some((svid.chain().to_vec(), key))), name()).await;
    assert!(outcome.server.is_err() && matches!(outcome.client, Err(Error::PeerRefused(_))));

    let elsewhere = ServerName::try_from("api.example.com").unwrap();
    let text = named_handshake(server(), client(Some(&admin)), elsewhere).await.refused_by_client();
    assert!(text.contains("api.example.com"), "{text}");

    // And the other way: a person's certificate is no identity of the mesh.
    let key = admin.key().private_der();
    let person = any_client(Some((admin.chain().to_vec(), key)));
    let text = handshake(strict(&live(&ca, "catalog")), person).await.refused_by_server();
    assert!(text.contains("has 0 URI names"), "{text}");
}

#[tokio::test]
async fn an_identity_from_disk_speaks_as_before() {
    let ca = mesh();
    let dir = tempfile::tempdir().unwrap();
    let svid = ca.issue(&workload("cart"), None, SystemTime::now()).unwrap();
    Identity::new(svid, ca.bundle()).save(dir.path()).unwrap();
    let cart = LiveIdentity::new(Identity::load(dir.path(), &workload("cart")).unwrap().unwrap());
    let catalog = live(&ca, "catalog");
    let (mut server, mut client) = handshake(strict(&catalog), to(&cart, catalog.id())).await.good();
    // Closing is orderly on both sides: close_notify, then the end.
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(DEADLINE, server.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn an_svid_over_a_request_of_another_process_works_with_its_key() {
    let ca = mesh();
    let key = weft_certs::KeyPair::generate().unwrap();
    let issued = ca.sign(&key.csr().unwrap(), &workload("cart"), None, SystemTime::now()).unwrap();
    let svid = Svid::new(issued.chain, &key).unwrap();
    let cart = LiveIdentity::new(Identity::new(svid, ca.bundle()));
    let catalog = live(&ca, "catalog");
    handshake(strict(&catalog), to(&cart, catalog.id())).await.good();
}
