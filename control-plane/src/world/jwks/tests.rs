//! Fetching from a small server: what is believed, what is kept, what is refused.

use super::*;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

const FIRST: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const SECOND: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"b","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn answer(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Answers each connection with the next of the answers, the last again and again.
async fn server(answers: Vec<String>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut next = 0;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let text = &answers[next.min(answers.len() - 1)];
            next += 1;
            // A client that has read enough may be gone.
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (at, task)
}

fn local() -> Client {
    Client::new(Settings { roots: Vec::new(), loopback_http: true })
}

async fn fetched(answer: String) -> Result<Arc<str>, String> {
    let (at, _server) = server(vec![answer]).await;
    timeout(DEADLINE, local().fetch(&format!("http://{at}/jwks"))).await.expect("in time").map(|f| f.keys)
}

#[tokio::test]
async fn a_set_of_keys_is_fetched_and_anything_else_is_refused_without_quoting_it() {
    assert_eq!(fetched(answer("200 OK", FIRST)).await.as_deref(), Ok(FIRST));
    for (answer, why) in [
        (answer("404 Not Found", FIRST), "answered 404"),
        (answer("302 Found\r\nLocation: http://127.0.0.1/", ""), "answered 302"),
        (answer("200 OK", "<secret>"), "is no JSON Web Key Set"),
        (answer("200 OK", r#"{"keys":[]}"#), "no key"),
        (answer("200 OK", &" ".repeat(LARGEST + 1)), "longer than"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".into(), "broke off"),
        ("nonsense\r\n\r\n".into(), "HTTP"),
    ] {
        let refused = fetched(answer).await.unwrap_err();
        assert!(refused.contains(why) && !refused.contains("secret"), "{refused}");
    }
}

#[tokio::test]
async fn plain_http_is_spoken_to_loopback_only_and_only_when_it_was_asked_for() {
    let (at, _server) = server(vec![answer("200 OK", FIRST)]).await;
    let strict = Client::new(Settings::default());
    assert!(strict.fetch(&format!("http://{at}/")).await.unwrap_err().contains("plain HTTP is not spoken"));
    assert!(local().fetch(&format!("http://localhost:{}/", at.port())).await.is_ok());
}

#[test]
fn what_failed_leaves_the_last_good_keys_and_what_is_the_same_is_no_news() {
    let known = Shared::default();
    let good = |keys: &str| Ok(Fetched { keys: keys.into(), fresh: UNSAID });
    let now = |known: &Shared| (**known.lock().get("a").unwrap()).clone();
    assert!(learn(&known, "a", Err("down".into())));
    assert_eq!(now(&known), Jwks { keys: None, failure: Some("down".into()) });
    assert!(learn(&known, "a", good(FIRST)));
    assert!(!learn(&known, "a", good(FIRST)));
    assert!(learn(&known, "a", Err("down".into())));
    assert_eq!(now(&known), Jwks { keys: Some(FIRST.into()), failure: Some("down".into()) });
    assert!(learn(&known, "a", good(SECOND)), "the keys were rotated");
    assert_eq!(now(&known), Jwks { keys: Some(SECOND.into()), failure: None });
    forget(&known, &BTreeSet::new());
    assert!(known.lock().get("a").is_none());
}

#[tokio::test]
async fn wanted_addresses_are_followed_and_a_failure_is_tried_again() {
    let (at, _server) = server(vec![answer("500 Internal Server Error", ""), answer("200 OK", FIRST)]).await;
    let address = format!("http://{at}/jwks");
    let (known, (_changed, changes)) = (Shared::default(), watch::channel(0));
    let (news, mut told) = watch::channel(0);
    let wanted = BTreeSet::from([address.clone()]);
    let settings = Settings { roots: Vec::new(), loopback_http: true };
    let shared = known.clone();
    let mut task = JoinSet::new();
    task.spawn(async move {
        follow(settings, move || wanted.clone(), shared, changes, move || news.send_modify(|n| *n += 1)).await
    });
    let good = async {
        loop {
            told.changed().await.unwrap();
            let now = known.lock().get(&address).cloned().unwrap();
            match &now.failure {
                Some(failure) => assert_eq!(failure, "answered 500"),
                None => break now.keys.clone(),
            }
        }
    };
    assert_eq!(timeout(DEADLINE, good).await.expect("in time").as_deref(), Some(FIRST));
}

#[test]
fn freshness_is_what_the_issuer_says_within_bounds() {
    let of = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, value.parse().unwrap());
        freshness(&headers).as_secs()
    };
    assert_eq!(of("public, max-age=600"), 600);
    assert_eq!((of("max-age=1"), of("max-age=999999"), of("max-age=x")), (60, 3600, 300));
    assert_eq!((of("no-store, max-age=600"), of("No-Cache"), of("public")), (60, 60, 300));
    assert_eq!(freshness(&HeaderMap::new()), UNSAID);
}

#[tokio::test]
async fn a_server_is_believed_by_the_roots_and_its_name_only() {
    let now = std::time::SystemTime::now();
    let ca = weft_certs::ApiCa::ephemeral(now).unwrap();
    let credential = ca.issue_server(&["localhost"], None, now).unwrap();
    let config = tls::api_server_config(&credential, ca.certificate(), &[b"http/1.1"]).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // Who does not believe the certificate is gone now.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            let _ = stream.write_all(answer("200 OK\r\nCache-Control: max-age=120", FIRST).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let with =
        |ca: &weft_certs::ApiCa| Client::new(Settings { roots: vec![ca.certificate().clone()], loopback_http: false });
    let client = with(&ca);
    let fetched = client.fetch(&format!("https://localhost:{port}/jwks")).await.unwrap();
    assert_eq!((&*fetched.keys, fetched.fresh.as_secs()), (FIRST, 120));
    let other_name = client.fetch(&format!("https://127.0.0.1:{port}/jwks")).await.unwrap_err();
    assert!(other_name.starts_with("TLS: "), "{other_name}");
    let stranger = with(&weft_certs::ApiCa::ephemeral(now).unwrap());
    let other_root = stranger.fetch(&format!("https://localhost:{port}/jwks")).await.unwrap_err();
    assert!(other_root.starts_with("TLS: "), "{other_root}");
}
