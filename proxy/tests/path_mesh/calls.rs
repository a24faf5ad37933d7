//! HTTP/1 through a pair of sidecars: what arrives, what is retried and what is not, limits, refusals, upgrades.

use crate::rig::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_proto::v1::{self, Protocol};
use weft_proxy::outbound::Credentials;

fn millis(ms: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: ms / 1000, nanos: i32::try_from(ms % 1000).unwrap() * 1_000_000 })
}

/// A client's sidecar that reaches these servers without sidecars of their own.
async fn direct(servers: &[&Server], edit: impl FnOnce(&mut v1::ServicePort)) -> (Mesh, Sidecar) {
    let mesh = Mesh::new();
    let endpoints =
        servers.iter().enumerate().map(|(i, server)| bare(&format!("orders-{i}"), server.at)).collect::<Vec<_>>();
    let resources = v1::Resources {
        services: vec![service("orders", Protocol::Http1, edit)],
        endpoints: vec![slice("orders", endpoints)],
        ..Default::default()
    };
    let client = mesh.sidecar("storefront", resources).await;
    (mesh, client)
}

#[tokio::test]
async fn a_call_crosses_both_sidecars_with_case_order_and_reason_intact() {
    let app = Server::start(|seen: Seen| async move {
        let body = format!("{}\n{}", seen.head, String::from_utf8_lossy(&seen.body));
        format!(
            "HTTP/1.1 202 Very Fine\r\nX-ReSponse: A\r\nContent-Length: {}\r\nx-Second: b\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    })
    .await;
    let pair = pair(app.at, Protocol::Http1).await;
    let mut client = Client::connect(pair.client.outbound).await;
    let answer = client
        .send("POST http://orders/a?b=c HTTP/1.1\r\nhOsT: orders\r\nX-One: 1\r\nx-tWo: 2\r\nContent-Length: 5\r\nProxy-Connection: keep-alive\r\n\r\nhello")
        .await;
    assert!(answer.head.starts_with("HTTP/1.1 202 Very Fine\r\nX-ReSponse: A\r\n"), "{}", answer.head);
    assert!(
        answer.body.starts_with("POST /a?b=c HTTP/1.1\r\nhOsT: orders\r\nX-One: 1\r\nx-tWo: 2\r\n"),
        "{}",
        answer.body
    );
    assert!(answer.body.ends_with("\nhello"), "{}", answer.body);
    assert!(answer.body.contains("traceparent: 00-") && answer.body.contains("x-request-id: "), "{}", answer.body);
    assert!(
        !answer.body.to_lowercase().contains("proxy-connection") && !answer.body.contains("weft-"),
        "{}",
        answer.body
    );
    for _ in 0..20 {
        assert_eq!(client.get("http://orders/again").await.status(), 202);
    }
    assert_eq!(app.connections.load(SeqCst), 1, "pooled all the way");
    let labels = [
        "direction=\"outbound\"",
        "source=\"shop/storefront\"",
        "destination=\"shop/orders\"",
        "tls=\"mutual\"",
        "code=\"202\"",
    ];
    assert_eq!(pair.client.count("weft_requests_total", &labels), 21.0, "{}", pair.client.metrics());
    let labels =
        ["direction=\"inbound\"", "source=\"shop/storefront\"", "destination=\"shop/orders\"", "tls=\"mutual\""];
    assert_eq!(pair.server.count("weft_requests_total", &labels), 21.0, "{}", pair.server.metrics());
    let line = pair.client.logged("\"/a?b=c\"").await.remove(0);
    assert_eq!((&line["status"], &line["attempts"], &line["mtls"]), (&202.into(), &1.into(), &true.into()), "{line}");
    assert_eq!(line["sourceIdentity"], pair.mesh.id("storefront"));
    assert_eq!(line["destinationIdentity"], pair.mesh.id("orders"));
    let other = pair.server.logged("\"/a?b=c\"").await.remove(0);
    assert_eq!((&other["traceId"], &other["requestId"]), (&line["traceId"], &line["requestId"]), "{other}");
}

#[tokio::test]
async fn a_trace_that_came_in_goes_on_and_weft_headers_of_an_application_do_not() {
    let app = Server::start(|seen: Seen| async move { ok(&seen.head) }).await;
    let pair = pair(app.at, Protocol::Http1).await;
    let mut client = Client::connect(pair.client.outbound).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = client
        .send(&format!("GET http://orders/ HTTP/1.1\r\nHost: orders\r\ntraceparent: {trace}\r\nweft-source: bank/x\r\nx-request-id: mine\r\n\r\n"))
        .await;
    assert!(answer.body.contains(trace) && answer.body.contains("x-request-id: mine"), "{}", answer.body);
    assert!(!answer.body.contains("weft-"), "{}", answer.body);
    assert_eq!(pair.client.logged("0af7651916cd43dd8448eb211c80319c").await[0]["requestId"], "mine");
}

#[tokio::test]
async fn the_explicit_listener_is_no_open_relay() {
    let app = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let pair = pair(app.at, Protocol::Http1).await;
    let mut client = Client::connect(pair.client.outbound).await;
    let unknown = client.get("http://nobody/").await;
    assert_eq!((unknown.status(), unknown.header("weft-error")), (421, Some("unknown-host")), "{unknown:?}");
    for url in [
        format!("http://{}/", app.at),
        format!("http://{}/", pair.client.outbound),
        "http://[::1]/".into(),
        "http://169.254.169.254/".into(),
    ] {
        let answer = client.get(&url).await;
        assert_eq!((answer.status(), answer.header("weft-error")), (403, Some("forbidden-destination")), "{url}");
    }
    let plain = client.send("GET /by-host HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    assert_eq!(plain.status(), 200);
    assert_eq!(client.send("GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n").await.status(), 421);
    for to in ["nobody:80", "192.0.2.1:443", "orders:81"] {
        assert_eq!(connect_through(pair.client.outbound, to).await.0.status(), 421, "{to}");
    }
    assert_eq!(connect_through(pair.client.outbound, &app.at.to_string()).await.0.status(), 403);
    assert_eq!(app.count(), 1);
    assert!(pair.client.count("weft_refused_total", &["unknown_host"]) >= 5.0, "{}", pair.client.metrics());
}

#[tokio::test]
async fn credentials_are_asked_for_in_every_form_and_never_passed_on() {
    let app = Server::start(|seen: Seen| async move { ok(&seen.head) }).await;
    let mesh = Mesh::new();
    let resources = v1::Resources {
        services: vec![service("orders", Protocol::Http1, |_| {})],
        endpoints: vec![slice("orders", vec![bare("orders-1", app.at)])],
        ..Default::default()
    };
    let sidecar = mesh.sidecar_with("storefront", resources, Some(Credentials::new("weft", "secret")), &[]).await;
    let mut client = Client::connect(sidecar.outbound).await;
    let absolute = client.get("http://orders/").await;
    assert_eq!(absolute.status(), 407);
    assert!(absolute.header("proxy-authenticate").is_some());
    assert_eq!(client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await.status(), 407);
    assert_eq!(connect_through(sidecar.outbound, "orders:80").await.0.status(), 407);
    let admitted = client
        .send("GET http://orders/ HTTP/1.1\r\nHost: orders\r\nProxy-Authorization: Basic d2VmdDpzZWNyZXQ=\r\n\r\n")
        .await;
    assert_eq!(admitted.status(), 200);
    assert!(!admitted.body.to_lowercase().contains("proxy-authorization"), "{}", admitted.body);
}

#[tokio::test]
async fn bytes_inside_connect_are_detected_again() {
    let app = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    let pair = pair(app.at, Protocol::Detect).await;
    let (answer, mut stream) = connect_through(pair.client.outbound, "orders:80").await;
    assert_eq!(answer.status(), 200);
    stream.write_all(b"GET /inside HTTP/1.1\r\nHost: anything\r\n\r\n").await.unwrap();
    let inner = Client(tokio::io::BufReader::new(stream)).read().await;
    assert_eq!(inner.body, "hi");
    assert_eq!(pair.client.logged("/inside").await[0]["protocol"], "http1");
}

#[tokio::test]
async fn an_idempotent_call_that_meets_a_503_is_tried_at_another_endpoint_and_a_post_is_not() {
    let bad = Server::always("HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno").await;
    let good = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes").await;
    let (_mesh, sidecar) = direct(&[&bad, &good], |port| {
        port.backend.as_mut().unwrap().breaker =
            Some(v1::CircuitBreaker { disabled: Some(true), ..Default::default() });
        let retry_budget = Some(v1::RetryBudget { percent: Some(100), ..Default::default() });
        port.frontend = Some(v1::Frontend { retry_budget, ..Default::default() });
    })
    .await;
    let mut client = Client::connect(sidecar.outbound).await;
    for _ in 0..40 {
        let answer = client.get("http://orders/").await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    let retried = bad.count();
    assert!(retried > 0, "the bad endpoint was never drawn");
    assert_eq!(sidecar.count("weft_retries_total", &["reason=\"503\""]), retried as f64);
    let mut statuses = Vec::new();
    while !statuses.contains(&503) {
        statuses.push(client.post("http://orders/", "x").await.status());
        assert!(statuses.len() < 200, "{statuses:?}");
    }
    assert_eq!(sidecar.count("weft_retries_total", &[]), retried as f64, "no POST was repeated");
}

#[tokio::test]
async fn a_post_that_its_route_opts_in_is_repeated_with_its_whole_body() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let app = Server::start(move |seen: Seen| {
        let n = counted.fetch_add(1, SeqCst);
        async move {
            if n == 0 {
                b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec()
            } else {
                ok(&seen.body.len().to_string())
            }
        }
    })
    .await;
    let (_mesh, sidecar) = direct(&[&app], |port| {
        port.frontend = Some(v1::Frontend {
            retry: Some(v1::RetryPolicy { methods: vec!["POST".into()], ..Default::default() }),
            ..Default::default()
        });
    })
    .await;
    let mut client = Client::connect(sidecar.outbound).await;
    let answer = client.post("http://orders/", &"x".repeat(50_000)).await;
    assert_eq!((answer.status(), answer.body.as_str()), (200, "50000"));
    calls.store(0, SeqCst);
    let large = client.post("http://orders/", &"x".repeat(200_000)).await;
    assert_eq!(large.status(), 503, "more than is kept is not repeated");
    assert_eq!(sidecar.count("weft_retries_denied_total", &["reason=\"body\""]), 1.0);
}

#[tokio::test]
async fn retries_cannot_become_a_storm() {
    let app = Server::always("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await;
    let (_mesh, sidecar) = direct(&[&app], |_| {}).await;
    let began = Instant::now();
    let calls = 1000;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let to = sidecar.outbound;
        clients.spawn(async move {
            let mut client = Client::connect(to).await;
            for _ in 0..calls / 10 {
                assert_eq!(client.get("http://orders/").await.status(), 503);
            }
        });
    }
    clients.join_all().await;
    // 20 % of the calls and 10 a second, the first second's at once.
    let most = 1.2 * f64::from(calls) + 10.0 * (began.elapsed().as_secs_f64() + 1.0);
    let sent = app.count();
    assert!(sent as f64 <= most, "{sent} were sent for {calls}");
    assert!(sent as f64 > f64::from(calls), "retries happen");
    assert!(sidecar.count("weft_retries_denied_total", &["reason=\"budget\""]) > 0.0);
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_made_elsewhere_and_a_call_that_does_is_a_504() {
    let slow = Server::start(|_| async {
        tokio::time::sleep(PATIENCE).await;
        Vec::new()
    })
    .await;
    let good = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let timeouts = |port: &mut v1::ServicePort| {
        port.frontend = Some(v1::Frontend {
            request_timeout: millis(2000),
            backend_request_timeout: millis(100),
            ..Default::default()
        });
    };
    let (_mesh, sidecar) = direct(&[&slow, &good], timeouts).await;
    let mut client = Client::connect(sidecar.outbound).await;
    for _ in 0..10 {
        assert_eq!(client.get("http://orders/").await.status(), 200);
    }
    let (_mesh, lone) = direct(&[&slow], timeouts).await;
    let mut client = Client::connect(lone.outbound).await;
    let began = Instant::now();
    let answer = client.get("http://orders/").await;
    assert_eq!((answer.status(), answer.header("weft-error")), (504, Some("try-timeout")), "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn the_deadline_travels_to_the_next_sidecar_and_ends_the_call_there_too() {
    let app = Server::start(|_| async {
        tokio::time::sleep(PATIENCE).await;
        Vec::new()
    })
    .await;
    let pair = pair_with(app.at, Protocol::Http1, |port| {
        port.frontend = Some(v1::Frontend {
            request_timeout: millis(300),
            retry: Some(v1::RetryPolicy { attempts: Some(0), ..Default::default() }),
            ..Default::default()
        });
    })
    .await;
    let mut client = Client::connect(pair.client.outbound).await;
    let answer = client.get("http://orders/slow").await;
    assert_eq!(answer.status(), 504, "{answer:?}");
    let line = pair.server.logged("/slow").await.remove(0);
    let micros = line["durationUs"].as_u64().unwrap();
    assert!(micros < 2_000_000 && !line["reason"].as_str().unwrap_or_default().is_empty(), "{line}");
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_ejected_and_comes_back_when_it_recovers() {
    let healthy = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let state = Arc::clone(&healthy);
    let flaky = Server::start(move |_| {
        let fine = state.load(SeqCst);
        async move { if fine { ok("flaky") } else { b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec() } }
    })
    .await;
    let good = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood").await;
    let (_mesh, sidecar) = direct(&[&flaky, &good], |port| {
        let breaker = v1::CircuitBreaker { base_open: millis(200), max_open: millis(400), ..Default::default() };
        port.backend.as_mut().unwrap().breaker = Some(breaker);
    })
    .await;
    let mut client = Client::connect(sidecar.outbound).await;
    let open = || {
        sidecar
            .metrics()
            .lines()
            .any(|l| l.starts_with("weft_breaker_state") && l.contains("orders-0") && l.ends_with(" 1"))
    };
    let mut calls = 0;
    while !open() {
        client.post("http://orders/", "x").await;
        calls += 1;
        assert!(calls < 500, "never ejected");
    }
    let before = flaky.count();
    for _ in 0..10 {
        assert_eq!(client.post("http://orders/", "x").await.body, "good");
    }
    assert_eq!(flaky.count(), before, "ejected endpoints get nothing");
    healthy.store(true, SeqCst);
    let until = Instant::now() + PATIENCE;
    while client.post("http://orders/", "x").await.body != "flaky" {
        assert!(Instant::now() < until, "never came back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_replaced_whatever_the_method() {
    let good = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let dead = Server::always("").await;
    let (_mesh, sidecar) = direct(&[&dead, &good], |_| {}).await;
    drop(dead);
    let mut client = Client::connect(sidecar.outbound).await;
    for _ in 0..50 {
        assert_eq!(client.post("http://orders/", "x").await.status(), 200);
    }
}

#[tokio::test]
async fn an_application_that_is_down_behind_its_sidecar_counts_as_unsent_and_is_replaced() {
    let good = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let dead = Server::always("").await;
    let mesh = Mesh::new();
    let one = mesh.sidecar("orders", inbound(&mesh, "orders", dead.at, Protocol::Http1, |_| {})).await;
    let two = mesh.sidecar("orders", inbound(&mesh, "orders", good.at, Protocol::Http1, |_| {})).await;
    let endpoints = vec![
        meshed("orders-1", dead.at, one.tunnel, mesh.id("orders")),
        meshed("orders-2", good.at, two.tunnel, mesh.id("orders")),
    ];
    drop(dead);
    let resources = v1::Resources {
        services: vec![service("orders", Protocol::Http1, |_| {})],
        endpoints: vec![slice("orders", endpoints)],
        ..Default::default()
    };
    let sidecar = mesh.sidecar("storefront", resources).await;
    let mut client = Client::connect(sidecar.outbound).await;
    for _ in 0..30 {
        let answer = client.post("http://orders/", "x").await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert!(answer.header("weft-unsent").is_none());
    }
}

#[tokio::test]
async fn without_endpoints_there_is_a_fast_503_and_without_a_route_a_404() {
    let mesh = Mesh::new();
    let lost = service("lost", Protocol::Http1, |port| {
        let rule = v1::RouteRule {
            matches: vec![v1::RouteMatch {
                path: Some(v1::route_match::Path::PathPrefix("/v2".into())),
                ..Default::default()
            }],
            backends: vec![v1::WeightedBackend {
                service: "shop/orders".into(),
                port: 80,
                weight: 1,
                ..Default::default()
            }],
            ..Default::default()
        };
        let route = v1::Route {
            name: "shop/lost".into(),
            kind: v1::RouteKind::Http.into(),
            created: 1,
            rules: vec![rule],
            ..Default::default()
        };
        port.frontend = Some(v1::Frontend { routes: vec![route], ..Default::default() });
    });
    let resources = v1::Resources {
        services: vec![service("orders", Protocol::Http1, |_| {}), lost],
        endpoints: vec![slice("orders", vec![]), slice("lost", vec![])],
        ..Default::default()
    };
    let sidecar = mesh.sidecar("storefront", resources).await;
    let mut client = Client::connect(sidecar.outbound).await;
    let empty = client.get("http://orders/").await;
    assert_eq!((empty.status(), empty.header("weft-error")), (503, Some("no-endpoint")), "{empty:?}");
    let unrouted = client.get("http://lost/v2example").await;
    assert_eq!((unrouted.status(), unrouted.header("weft-error")), (404, Some("no-route")), "{unrouted:?}");
    assert_eq!(client.get("http://lost/v2/x").await.status(), 503);
}

#[tokio::test]
async fn weights_split_calls() {
    let (one, two) = (
        Server::always("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1").await,
        Server::always("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2").await,
    );
    let mesh = Mesh::new();
    let split = |name: &str, weight| v1::WeightedBackend {
        service: format!("shop/{name}"),
        port: 80,
        weight,
        ..Default::default()
    };
    let front = service("catalog", Protocol::Http1, |port| {
        let rule = v1::RouteRule { backends: vec![split("v1", 90), split("v2", 10)], ..Default::default() };
        let route = v1::Route {
            name: "shop/catalog".into(),
            kind: v1::RouteKind::Http.into(),
            created: 1,
            rules: vec![rule],
            ..Default::default()
        };
        port.frontend = Some(v1::Frontend { routes: vec![route], ..Default::default() });
    });
    let resources = v1::Resources {
        services: vec![front, service("v1", Protocol::Http1, |_| {}), service("v2", Protocol::Http1, |_| {})],
        endpoints: vec![
            slice("catalog", vec![]),
            slice("v1", vec![bare("v1-1", one.at)]),
            slice("v2", vec![bare("v2-1", two.at)]),
        ],
        ..Default::default()
    };
    let sidecar = mesh.sidecar("storefront", resources).await;
    let mut client = Client::connect(sidecar.outbound).await;
    for _ in 0..1000 {
        client.get("http://catalog/").await;
    }
    assert!((60..=140).contains(&two.count()), "{} of 1000 went to v2", two.count());
    assert_eq!(
        sidecar.count("weft_requests_total", &["destination=\"shop/v2\"", "route=\"shop/catalog\""]),
        two.count() as f64
    );
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_is_complete_reaches_the_caller() {
    let (app, _tasks) = raw_server(|stream| async move {
        let mut stream = tokio::io::BufReader::new(stream);
        let Some(_) = read_head(&mut stream).await else { return };
        let _ = stream.write_all(b"HTTP/1.1 413 Too Much\r\nContent-Length: 4\r\nConnection: close\r\n\r\nstop").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let pair = pair(app, Protocol::Http1).await;
    let mut client = Client::connect(pair.client.outbound).await;
    let head = "POST http://orders/ HTTP/1.1\r\nHost: orders\r\nContent-Length: 1000000\r\n\r\nonly the beginning";
    let answer = client.send(head).await;
    assert_eq!((answer.status(), answer.body.as_str()), (413, "stop"));
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_the_call_at_the_application() {
    let (told, mut cancelled) = tokio::sync::mpsc::channel::<()>(1);
    let (began, mut begun) = tokio::sync::mpsc::channel::<()>(1);
    let (app, _tasks) = raw_server(move |stream| {
        let (told, began) = (told.clone(), began.clone());
        async move {
            let mut stream = tokio::io::BufReader::new(stream);
            let Some(_) = read_head(&mut stream).await else { return };
            let _ = began.send(()).await;
            // The end of the connection is all that comes.
            let _ = stream.read_to_end(&mut Vec::new()).await;
            let _ = told.send(()).await;
        }
    })
    .await;
    let pair = pair(app, Protocol::Http1).await;
    let mut client = Client::connect(pair.client.outbound).await;
    client.0.write_all(b"GET http://orders/wait HTTP/1.1\r\nHost: orders\r\n\r\n").await.unwrap();
    begun.recv().await.unwrap();
    drop(client);
    tokio::time::timeout(PATIENCE, cancelled.recv()).await.expect("cancelled").unwrap();
    assert_eq!(pair.client.logged("/wait").await[0]["reason"], "client_gone");
}

#[tokio::test]
async fn an_upgrade_carries_bytes_both_ways_afterwards() {
    let (app, _tasks) = raw_server(|stream| async move {
        let mut stream = tokio::io::BufReader::new(stream);
        let Some(head) = read_head(&mut stream).await else { return };
        assert!(header(&head, "upgrade").is_some_and(|v| v == "chat"), "{head}");
        let _ = stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nhello")
            .await;
        let mut buffer = [0; 64];
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            let _ = stream.write_all(&buffer[..n]).await;
        }
    })
    .await;
    let pair = pair(app, Protocol::Http1).await;
    let mut client = Client::connect(pair.client.outbound).await;
    client
        .0
        .write_all(b"GET http://orders/chat HTTP/1.1\r\nHost: orders\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n")
        .await
        .unwrap();
    let head = read_head(&mut client.0).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut text = [0; 5];
    client.0.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"hello");
    client.0.write_all(b"12345").await.unwrap();
    client.0.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"12345");
}

#[tokio::test]
async fn a_streamed_response_arrives_as_it_is_made() {
    let (next, steps) = tokio::sync::mpsc::channel::<()>(1);
    let steps = Arc::new(tokio::sync::Mutex::new(steps));
    let (app, _tasks) = raw_server(move |stream| {
        let steps = Arc::clone(&steps);
        async move {
            let mut stream = tokio::io::BufReader::new(stream);
            let Some(_) = read_head(&mut stream).await else { return };
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
            steps.lock().await.recv().await;
            let _ = stream.write_all(b"6\r\nsecond\r\n0\r\nX-Trailer: t\r\n\r\n").await;
        }
    })
    .await;
    let pair = pair(app, Protocol::Http1).await;
    let mut client = Client::connect(pair.client.outbound).await;
    client.0.write_all(b"GET http://orders/ HTTP/1.1\r\nHost: orders\r\nTE: trailers\r\n\r\n").await.unwrap();
    let head = read_head(&mut client.0).await.unwrap();
    assert!(head.contains("200 OK"), "{head}");
    let mut chunk = [0; 10];
    tokio::time::timeout(PATIENCE, client.0.read_exact(&mut chunk)).await.unwrap().unwrap();
    assert_eq!(&chunk, b"5\r\nfirst\r\n", "before the second was made");
    next.send(()).await.unwrap();
    let mut rest = vec![0; b"6\r\nsecond\r\n0\r\nX-Trailer: t\r\n\r\n".len()];
    tokio::time::timeout(PATIENCE, client.0.read_exact(&mut rest)).await.unwrap().unwrap();
    assert!(
        String::from_utf8_lossy(&rest).to_lowercase().contains("x-trailer: t"),
        "{}",
        String::from_utf8_lossy(&rest)
    );
}
