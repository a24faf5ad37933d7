//! JSON Web Tokens through real sidecars: what is refused and how that is told, what the application gets, what claims decide.

use crate::rig::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use weft_proto::v1::{self, Protocol};

/// The key of RFC 8037, appendix A, as PKCS #8.
const SEED: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const JWKS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
    {"kty":"OKP","crv":"Ed25519","kid":"b","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn key() -> Arc<dyn SigningKey> {
    let der = [&PKCS8[..], &URL_SAFE_NO_PAD.decode(SEED).unwrap()].concat();
    rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(der)).unwrap()
}

fn signed(header: &Value, claims: &Value) -> String {
    let message =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signer = key().choose_scheme(&[SignatureScheme::ED25519]).unwrap();
    let signature = signer.sign(message.as_bytes()).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    json!({"iss": "https://id.test", "sub": "ann", "aud": "orders", "exp": now() + 600, "groups": ["staff"]})
}

fn token(change: impl FnOnce(&mut Value)) -> String {
    let mut claims = claims();
    change(&mut claims);
    signed(&json!({"alg": "EdDSA", "kid": "a"}), &claims)
}

fn login(edit: impl FnOnce(&mut v1::TokenRule)) -> v1::RequestAuthentication {
    let mut rule = v1::TokenRule {
        issuer: "https://id.test".into(),
        audiences: vec!["orders".into()],
        jwks: JWKS.into(),
        ..Default::default()
    };
    edit(&mut rule);
    v1::RequestAuthentication { name: "shop/login".into(), rules: vec![rule], optional: false }
}

/// An application that keeps what it is sent, behind a port with these objects.
async fn scene(objects: Vec<v1::RequestAuthentication>) -> (Server, Arc<Mutex<Vec<String>>>, Pair) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let app = Server::start(move |request: Seen| {
        kept.lock().push(request.head);
        async { ok("hello") }
    })
    .await;
    let pair = pair(app.at, Protocol::Http1).await;
    let resources =
        inbound(&pair.mesh, "orders", app.at, Protocol::Http1, |port| port.request_authentication = objects);
    pair.server.update(resources).await;
    (app, seen, pair)
}

async fn get(client: &mut Client, target: &str, headers: &str) -> Answer {
    client.send(&format!("GET http://orders{target} HTTP/1.1\r\nHost: orders\r\n{headers}\r\n")).await
}

#[tokio::test]
async fn each_token_that_is_not_acceptable_is_refused_with_its_reason() {
    let (app, _, pair) = scene(vec![login(|_| {})]).await;
    let mut client = Client::connect(pair.client.outbound).await;
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let good = token(|_| {});
    let cases = [
        ("token_unsigned", format!("{}.{}.", part(json!({"alg": "none"})), part(claims()))),
        ("token_symmetric", format!("{}.{}.AAAA", part(json!({"alg": "HS256", "kid": "a"})), part(claims()))),
        ("token_algorithm_mismatch", format!("{}.{}.AAAA", part(json!({"alg": "RS256", "kid": "a"})), part(claims()))),
        ("token_key_missing", signed(&json!({"alg": "EdDSA"}), &claims())),
        ("token_key_unknown", signed(&json!({"alg": "EdDSA", "kid": "c"}), &claims())),
        ("token_expired", token(|c| c["exp"] = (now() - 61).into())),
        ("token_expiry_missing", token(|c| drop(c.as_object_mut().unwrap().remove("exp")))),
        ("token_not_yet_valid", token(|c| c["nbf"] = (now() + 120).into())),
        ("token_audience", token(|c| c["aud"] = "payments".into())),
        ("token_issuer", token(|c| c["iss"] = "https://evil.test".into())),
        ("token_too_long", token(|c| c["x"] = "x".repeat(8192).into())),
        ("token_malformed", "nonsense".into()),
        ("token_signature", format!("{}A", &good[..good.len() - 2])),
    ];
    for (reason, token) in &cases {
        let reason = if *reason == "token_signature" { "token_" } else { *reason };
        let answer = get(&mut client, "/", &format!("Authorization: Bearer {token}\r\n")).await;
        assert_eq!((answer.status(), answer.header("weft-error")), (401, Some("token-refused")), "{reason}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""), "{reason}");
        assert!(answer.body.contains(reason) && answer.body.contains("shop/login"), "{reason}: {}", answer.body);
        assert!(!answer.body.contains(token.as_str()), "{reason}");
    }
    for (reason, _) in cases.iter().filter(|(reason, _)| *reason != "token_signature") {
        let line = pair.server.logged(&format!("\"rule\":\"{reason}\"")).await.remove(0);
        assert_eq!((&line["policy"], &line["reason"]), (&"shop/login".into(), &"token_refused".into()), "{line}");
        let labels = ["policy=\"shop/login\"", &format!("decision=\"{reason}\"")];
        assert!(pair.server.count("weft_authz_total", &labels) >= 1.0, "{reason}");
    }
    assert_eq!(app.count(), 0, "none reached the application");
    let grpc = get(&mut client, "/", "Content-Type: application/grpc\r\nAuthorization: Bearer x\r\n").await;
    assert_eq!((grpc.status(), grpc.header("grpc-status")), (200, Some("16")));
    assert_eq!(get(&mut client, "/", &format!("Authorization: bearer {good}\r\n")).await.status(), 200);
}

#[tokio::test]
async fn the_application_gets_the_claims_that_it_is_to_see_and_not_the_token() {
    let (app, seen, pair) = scene(vec![login(|rule| {
        rule.output_claim_to_headers = vec![
            v1::ClaimHeader { header: "x-user".into(), claim: "sub".into() },
            v1::ClaimHeader { header: "x-groups".into(), claim: "groups".into() },
        ];
        rule.from_headers = vec![v1::TokenHeader { name: "x-token".into(), prefix: String::new() }];
        rule.from_params = vec!["access_token".into()];
        rule.from_cookies = vec!["session".into()];
    })])
    .await;
    let mut client = Client::connect(pair.client.outbound).await;
    let good = token(|c| c["groups"] = json!(["staff", "night"]));
    for (target, headers) in [
        ("/a?b=c".to_owned(), format!("x-token: {good}\r\nCookie: theme=dark\r\n")),
        (format!("/a?access_token={good}&b=c"), "Cookie: theme=dark\r\n".to_owned()),
        ("/a?b=c".to_owned(), format!("Cookie: session={good}; theme=dark\r\n")),
    ] {
        seen.lock().clear();
        let answer = get(&mut client, &target, &format!("x-user: root\r\nx-groups: admins\r\n{headers}")).await;
        assert_eq!(answer.status(), 200, "{target} {headers}: {}", answer.body);
        let head = seen.lock()[0].clone();
        assert!(head.starts_with("GET /a?b=c HTTP/1.1"), "{head}");
        assert_eq!((header(&head, "x-user"), header(&head, "x-groups")), (Some("ann"), Some("staff,night")), "{head}");
        assert_eq!(header(&head, "cookie"), Some("theme=dark"), "{head}");
        assert!(!head.contains(&good) && !head.contains("root") && !head.contains("admins"), "{head}");
    }
    let two = format!("x-token: {good}\r\nCookie: session={}\r\n", token(|c| c["sub"] = "bob".into()));
    assert!(get(&mut client, "/", &two).await.body.contains("token_ambiguous"));
    let forward = inbound(&pair.mesh, "orders", app.at, Protocol::Http1, |port| {
        port.request_authentication = vec![login(|rule| rule.forward_original_token = true)];
    });
    pair.server.update(forward).await;
    assert_eq!(get(&mut client, "/kept", &format!("Authorization: Bearer {good}\r\n")).await.status(), 200);
    assert!(seen.lock().last().unwrap().contains(&good));
}

#[tokio::test]
async fn a_request_without_a_token_is_admitted_only_where_every_object_is_optional() {
    let optional = || v1::RequestAuthentication { optional: true, ..login(|_| {}) };
    let strict = || v1::RequestAuthentication { name: "shop/strict".into(), ..login(|_| {}) };
    for (objects, status) in [
        (vec![optional()], 200),
        (vec![strict()], 401),
        (vec![optional(), strict()], 401),
        (vec![strict(), optional()], 401),
    ] {
        let (_app, _, pair) = scene(objects).await;
        let mut client = Client::connect(pair.client.outbound).await;
        let answer = get(&mut client, "/", "").await;
        assert_eq!(answer.status(), status);
        if status == 401 {
            assert_eq!(answer.header("weft-error"), Some("token-missing"));
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            assert!(answer.body.contains("shop/strict"), "{}", answer.body);
        }
        let basic = get(&mut client, "/", "Authorization: Basic dXNlcjpwYXNz\r\n").await;
        assert_eq!(basic.status(), status, "that is no token");
        let bad = get(&mut client, "/", "Authorization: Bearer x.y.z\r\n").await;
        assert_eq!(bad.status(), 401, "a bad token is worse than none");
        let good = get(&mut client, "/", &format!("Authorization: Bearer {}\r\n", token(|_| {}))).await;
        assert_eq!(good.status(), 200);
    }
}

#[tokio::test]
async fn claims_decide_who_may_call() {
    let (app, _, pair) = scene(vec![]).await;
    let condition = v1::AuthorizationCondition {
        key: "request.auth.claims[groups]".into(),
        values: vec!["staff".into()],
        ..Default::default()
    };
    let source = v1::AuthorizationSource { request_principals: vec!["https://id.test/*".into()], ..Default::default() };
    let rule =
        v1::AuthorizationRule { name: "staff".into(), from: vec![source], when: vec![condition], ..Default::default() };
    let policy = v1::Authorization { name: "shop/staff".into(), action: v1::Action::Allow.into(), rules: vec![rule] };
    let resources = inbound(&pair.mesh, "orders", app.at, Protocol::Http1, |port| {
        port.request_authentication = vec![v1::RequestAuthentication { optional: true, ..login(|_| {}) }];
        port.authorization = vec![policy];
    });
    pair.server.update(resources).await;
    let mut client = Client::connect(pair.client.outbound).await;
    for (token, status) in [
        (Some(token(|_| {})), 200),
        (Some(token(|c| c["groups"] = json!(["guests"]))), 403),
        (Some(token(|c| drop(c.as_object_mut().unwrap().remove("sub")))), 403),
        (None, 403),
    ] {
        let line = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        assert_eq!(get(&mut client, "/", &line).await.status(), status, "{line}");
    }
}

#[tokio::test]
async fn opaque_bytes_cannot_bring_a_token_so_a_port_that_demands_one_refuses_them() {
    let (app, _tasks) = raw_server(|mut stream| async move {
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let pair = pair(app, Protocol::Tcp).await;
    let resources =
        inbound(&pair.mesh, "orders", app, Protocol::Tcp, |port| port.request_authentication = vec![login(|_| {})]);
    pair.server.update(resources).await;
    let mut stream = TcpStream::connect(pair.client.named[0]).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("in time");
    assert_eq!(ended.unwrap_or(0), 0);
    assert!(pair.server.count("weft_authz_total", &["decision=\"token_missing\""]) >= 1.0);
}
