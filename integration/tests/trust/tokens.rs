//! Join tokens and what they are good for: the identity and the services of their claims, as long and as often as they say, and no more.
//! Asked over gRPC as a sidecar does, and with real sidecars.

use crate::peer::{Peer, Token, block, id, issue};
use crate::stage::{PORT, text};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use tonic::{Code, Status};
use weft_certs::{KeyPair, Svid};
use weft_integration::rig::{Mesh, Process, binary, http_get, program, run, wait_for};
use weft_proto::v1;

const SHOP: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: payments, namespace: shop}
spec: {ports: [{name: http, port: 8080}]}
";

fn shop() -> Mesh {
    let mesh = Mesh::start();
    mesh.apply(SHOP).ok();
    mesh
}

/// A registration as a workload of `services`.
fn registration(name: &str, services: &[&str], token: Option<&Token>) -> v1::RegisterRequest {
    v1::RegisterRequest {
        join_token: token.map(|t| t.0.clone()).unwrap_or_default(),
        name: name.to_owned(),
        services: services.iter().map(|s| (*s).to_owned()).collect(),
        ports: vec![v1::WorkloadPort { name: "http".into(), port: PORT.into(), ..Default::default() }],
        address: "127.0.0.1".into(),
        tunnel: "127.0.0.1:1".into(),
        ..Default::default()
    }
}

#[track_caller]
fn refused<T>(answer: Result<T, Status>, codes: &[Code], word: &str) {
    let Err(status) = answer else { panic!("not refused; expected {word:?}") };
    eprintln!("{:?}: {}", status.code(), status.message());
    assert!(codes.contains(&status.code()), "{status:?}");
    assert!(status.message().contains(word), "no {word:?} in {status:?}");
}

const DENIED: &[Code] = &[Code::PermissionDenied];
const UNAUTHENTICATED: &[Code] = &[Code::Unauthenticated];

/// Nothing in the store says that a workload of `payments` is anybody's but its own.
#[track_caller]
fn assert_no_payments(mesh: &Mesh, but: &[&str]) {
    let all: Value = serde_json::from_str(&mesh.weft(&["get", "workload", "-n", "shop", "-o", "json"]).ok()).unwrap();
    for item in all["items"].as_array().expect("a list of workloads") {
        let name = item["metadata"]["name"].as_str().unwrap();
        let of_payments = item["spec"]["services"].as_array().into_iter().flatten().any(|s| s == "payments");
        assert!(!of_payments || but.contains(&name), "{item}");
    }
}

#[test]
fn a_token_of_cart_cannot_register_a_workload_of_payments() {
    let mesh = shop();
    block(async {
        let token = Token::create(&mesh, "cart", &[]);
        let cart = Peer::redeem(&mesh, &token).await.unwrap();
        assert_eq!(cart.id(), id("cart"));
        let own = cart.register(registration("cart-1", &["cart"], Some(&token))).await.unwrap();
        assert_eq!(own, "shop/cart-1");
        for services in [&["payments"][..], &["cart", "payments"], &["*"], &["PAYMENTS"], &["payments "]] {
            let answer = cart.register(registration("cart-2", services, Some(&token))).await;
            refused(answer, &[Code::PermissionDenied, Code::InvalidArgument], "services");
        }
        // A name is taken by who came first under it.
        let theirs = Token::create(&mesh, "payments", &[]);
        let payments = Peer::redeem(&mesh, &theirs).await.unwrap();
        payments.register(registration("payments-1", &["payments"], Some(&theirs))).await.unwrap();
        let answer = cart.register(registration("payments-1", &["cart"], Some(&token))).await;
        refused(answer, DENIED, "belongs to service account");
        // Somebody else's token is no proof of who presents it, nor one's own certificate of what it never was.
        refused(
            cart.register(registration("cart-3", &["payments"], Some(&theirs))).await,
            DENIED,
            "the join token is for",
        );
        refused(cart.register(registration("cart-3", &["cart"], None)).await, DENIED, "not registered");
        refused(cart.register(registration("cart-1", &["payments"], None)).await, DENIED, "payments");
        // Labels that say what the mesh vouches for, and the ports and addresses of others.
        let mut labelled = registration("cart-1", &["cart"], Some(&token));
        labelled.labels.insert("weft.mesh/registered-by".into(), "nobody".into());
        refused(cart.register(labelled).await, &[Code::InvalidArgument], "labels");
        for name in ["", "../payments", "payments/payments-1", "Cart"] {
            let answer = cart.register(registration(name, &["cart"], Some(&token))).await;
            refused(answer, &[Code::InvalidArgument], "name");
        }
        // Without any certificate nobody registers, token or not.
        let mut anonymous = v1::identity_client::IdentityClient::new(token.channel(mesh.grpc()));
        refused(anonymous.register(registration("cart-4", &["cart"], Some(&token))).await, UNAUTHENTICATED, "SVID");
    });
    assert_no_payments(&mesh, &["payments-1"]);
    let workload = mesh.object("workload", "shop", "payments-1");
    assert_eq!(workload["spec"]["serviceAccount"], "payments", "{workload}");
}

#[test]
fn a_certificate_is_for_the_tokens_identity_whatever_the_request_asks_for() {
    let mesh = shop();
    // A request that names payments, made with openssl, since our own can name nobody.
    let (key, csr) = (mesh.folder().join("csr.key"), mesh.folder().join("csr.der"));
    let payments = id("payments");
    let name = format!("subjectAltName=URI:{},DNS:payments.shop,IP:127.0.0.1", payments.as_str());
    let arguments =
        ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=payments"];
    let mut openssl = Command::new(program("openssl"));
    openssl.args(arguments).args(["-addext", &name, "-addext", "basicConstraints=CA:TRUE"]);
    run(openssl.args(["-keyout", text(&key), "-outform", "DER", "-out", text(&csr)])).ok();
    let csr = std::fs::read(&csr).unwrap();
    block(async {
        let token = Token::create(&mesh, "cart", &[]);
        let answer = issue(token.channel(mesh.grpc()), csr.clone(), Some(&token.0)).await.unwrap();
        assert_eq!(answer.identity, id("cart").as_str());
        let chain: Vec<_> = answer.chain.iter().map(|der| weft_certs::CertificateDer::from(der.to_vec())).collect();
        let key = KeyPair::from_pem("key", &std::fs::read_to_string(&key).unwrap()).unwrap();
        let svid = Svid::new(chain, &key).unwrap();
        assert_eq!(svid.id(), &id("cart"));
        let pem = mesh.folder().join("leaf.pem");
        std::fs::write(&pem, svid.chain_pem()).unwrap();
        let shown = run(Command::new(program("openssl")).args(["x509", "-in", text(&pem), "-noout", "-text"])).ok();
        assert!(!shown.contains("payments") && !shown.contains("CA:TRUE") && !shown.contains("DNS:"), "{shown}");
        // With cart's certificate and payments' token it is the certificate that counts.
        let theirs = Token::create(&mesh, "payments", &[]);
        let cart = Peer::redeem(&mesh, &token).await.unwrap();
        let renewed = issue(cart.channel(), csr, Some(&theirs.0)).await.unwrap();
        assert_eq!(renewed.identity, id("cart").as_str());
    });
    // Nobody gets the control plane's own name, not even from the administrator.
    let output = mesh.weft(&["token", "create", "-n", "weft-system", "--service-account", "weft-control"]);
    assert_ne!(output.code, 0, "{}", output.out);
    assert!(output.err.contains("weft-system"), "{}", output.err);
}

#[test]
fn a_token_that_is_not_good_is_worth_nothing() {
    let mesh = shop();
    block(async {
        let ask = async |token: &Token, pin: &Token| {
            let csr = KeyPair::generate().unwrap().csr().unwrap();
            issue(pin.channel(mesh.grpc()), csr, Some(&token.0)).await
        };
        let good = Token::create(&mesh, "cart", &[]);
        ask(&good, &good).await.unwrap();
        // No proof at all.
        let csr = KeyPair::generate().unwrap().csr().unwrap();
        refused(issue(good.channel(mesh.grpc()), csr, None).await, UNAUTHENTICATED, "join token");
        // Garbled, and made up.
        let other = Token::create(&mesh, "payments", &[]);
        let (secret, mut wrong) = (good.field("secret"), good.field("secret").into_bytes());
        wrong[0] = if wrong[0] == b'A' { b'B' } else { b'A' };
        let wrong = String::from_utf8(wrong).unwrap();
        for secret in [&wrong, &secret[1..], "", &other.field("secret")] {
            refused(ask(&good.with("secret", secret), &good).await, UNAUTHENTICATED, "not known here");
        }
        // Its secret under the name of another.
        refused(ask(&good.with("id", &other.field("id")), &good).await, UNAUTHENTICATED, "not known here");
        refused(ask(&good.with("id", "nobody"), &good).await, UNAUTHENTICATED, "not known here");
        let text = &good.0;
        let garbage = ["", "weft-join.", "weft-join.!!", "nonsense", &text[..text.len() / 2], &text[10..]];
        for garbage in garbage.map(|g| Token(g.to_owned())).into_iter().chain([Token("x".repeat(100_000))]) {
            let codes = [Code::Unauthenticated, Code::InvalidArgument];
            refused(ask(&garbage, &good).await, &codes, "join token");
        }
        // Used up.
        let once = Token::create(&mesh, "cart", &["--uses", "1"]);
        ask(&once, &once).await.unwrap();
        refused(ask(&once, &once).await, UNAUTHENTICATED, "used up");
        // Revoked.
        let revoked = Token::create(&mesh, "cart", &[]);
        ask(&revoked, &revoked).await.unwrap();
        mesh.weft(&["token", "revoke", &revoked.field("id")]).ok();
        refused(ask(&revoked, &revoked).await, UNAUTHENTICATED, "revoked");
        assert_ne!(mesh.weft(&["token", "revoke", &revoked.field("id")]).code, 0, "there is nothing left to revoke");
        // Expired.
        let brief = Token::create(&mesh, "cart", &["--ttl", "1s"]);
        let mut answer = ask(&brief, &brief).await;
        let end = tokio::time::Instant::now() + weft_integration::rig::DEADLINE;
        while answer.is_ok() && tokio::time::Instant::now() < end {
            answer = ask(&brief, &brief).await;
        }
        refused(answer, UNAUTHENTICATED, "expired");
        // None of this hurt the good one.
        ask(&good, &good).await.unwrap();
    });
}

#[test]
fn a_use_of_a_token_is_never_spent_twice() {
    let mesh = shop();
    let token = Token::create(&mesh, "cart", &["--uses", "3"]);
    let good = block(async {
        let tries = (0..12).map(|_| {
            let (token, control) = (token.clone(), mesh.grpc());
            let csr = KeyPair::generate().unwrap().csr().unwrap();
            async move { issue(token.channel(control), csr, Some(&token.0)).await.is_ok() }
        });
        let mut all: tokio::task::JoinSet<bool> = tries.collect();
        let mut good = 0;
        while let Some(one) = all.join_next().await {
            good += usize::from(one.unwrap());
        }
        good
    });
    assert_eq!(good, 3, "of twelve at once");
}

#[test]
fn a_list_of_tokens_shows_no_secret_and_neither_does_the_disk() {
    let mesh = shop();
    let tokens = [Token::create(&mesh, "cart", &[]), Token::create(&mesh, "payments", &["--uses", "2"])];
    let mut everything = Vec::new();
    for format in ["table", "json", "yaml", "name"] {
        let listed = mesh.weft(&["token", "list", "-o", format]).ok();
        assert!(tokens.iter().all(|t| listed.contains(&t.field("id"))), "{listed}");
        everything.push((format.to_owned(), listed.into_bytes()));
    }
    for entry in walk(&mesh.data()).into_iter().chain([mesh.folder().join("up.log")]) {
        everything.push((entry.display().to_string(), std::fs::read(&entry).unwrap()));
    }
    assert!(everything.iter().any(|(place, _)| place.ends_with("weft.redb")), "the store was looked at");
    for token in &tokens {
        let (secret, whole) = (token.field("secret"), token.0.clone());
        for (place, content) in &everything {
            for needle in [secret.as_bytes(), whole.as_bytes()] {
                assert!(!content.windows(needle.len()).any(|w| w == needle), "{place} shows a secret");
            }
        }
    }
    // Written to a file, a token is its owner's alone.
    let file = mesh.folder().join("token");
    let said = mesh.weft(&["token", "create", "-n", "shop", "--service", "cart", "-o", text(&file)]).ok();
    assert!(!said.contains("weft-join."), "{said}");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).filter(|p| p.is_file()).collect()
}

/// A sidecar that claims to be of `account` and `service`, with whatever token.
fn sidecar(mesh: &Mesh, name: &str, account: &str, service: &str, token: &Token) -> Process {
    let state = mesh.folder().join(format!("{name}-state"));
    let file = mesh.folder().join(format!("{name}-token"));
    std::fs::write(&file, &token.0).unwrap();
    let mut command = Command::new(binary("weft-proxy"));
    command.args(["--namespace", "shop", "--name", name, "--service-account", account, "--service", service]);
    command.args([
        "--outbound",
        "127.0.0.1:0",
        "--tunnel",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--port",
        "8080:http",
    ]);
    command.arg("--control-plane").arg(mesh.grpc().to_string()).arg("--join-token-file").arg(file);
    Process::start(mesh.folder(), name, command.arg("--state-dir").arg(state))
}

/// Whether the sidecar `name` says that it is ready.
pub fn is_ready(mesh: &Mesh, name: &str) -> bool {
    let file = mesh.folder().join(format!("{name}-state/ready.json"));
    let ready = std::fs::read(file).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    ready
        .is_some_and(|r| http_get(r["admin"].as_str().unwrap_or_default(), "/ready").is_ok_and(|(code, _)| code == 200))
}

#[test]
fn a_sidecar_with_a_token_of_cart_cannot_pose_as_payments() {
    let mesh = shop();
    let token = Token::create(&mesh, "cart", &[]);
    let mut account = sidecar(&mesh, "thief", "payments", "payments", &token);
    let log = wait_for("the sidecar says why it gets no certificate", || {
        let log = account.log();
        if log.contains("sa/cart") && log.contains("sa/payments") { Ok(log) } else { Err(log) }
    });
    assert!(!log.contains(&token.0) && !log.contains(&token.field("secret")), "{log}");
    let mut service = sidecar(&mesh, "fence", "cart", "payments", &token);
    service_is_refused(&service);
    // As they should be, they come up.
    let honest = sidecar(&mesh, "honest", "cart", "cart", &token);
    wait_for("an honest sidecar is ready", || if is_ready(&mesh, "honest") { Ok(()) } else { Err(honest.log()) });
    assert!(!is_ready(&mesh, "thief") && !is_ready(&mesh, "fence"));
    assert_no_payments(&mesh, &[]);
    for process in [&mut account, &mut service] {
        process.signal(rustix::process::Signal::TERM);
    }
}

#[track_caller]
fn service_is_refused(process: &Process) {
    wait_for("the sidecar says why it is not registered", || {
        let log = process.log();
        let found = log.lines().find(|l| l.contains("may not register as an endpoint of") && l.contains("payments"));
        found.map(|line| eprintln!("{line}")).ok_or(log.clone())
    });
}
