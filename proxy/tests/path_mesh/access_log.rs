//! What the access log says of thirty ways in which calls and connections end, over real sockets: each line is compared with the one that
//! stands in `access_log.txt`, but for times, ids, ports and what is written for people.

use crate::rig::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_proto::v1;

const LINES: &str = include_str!("access_log.txt");

/// An application whose answer is named by the last segment of the path.
async fn application() -> Server {
    let again = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    Server::start(move |seen| {
        let again = std::sync::Arc::clone(&again);
        async move {
            let path = seen.head.split(' ').nth(1).unwrap_or_default().to_owned();
            let status = |line: &str| format!("HTTP/1.1 {line}\r\nContent-Length: 3\r\n\r\nno\n").into_bytes();
            match path.rsplit('/').next().unwrap_or_default() {
                "missing" => status("404 Not Found"),
                "broken" => status("500 Oops"),
                "busy" => status("503 Busy"),
                "again" if again.fetch_add(1, std::sync::atomic::Ordering::SeqCst).is_multiple_of(2) => {
                    status("503 Busy")
                }
                "empty" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
                "garbage" => b"SMTP 200\r\n\r\n".to_vec(),
                "gone" => Vec::new(),
                "slow" => {
                    tokio::time::sleep(PATIENCE).await;
                    Vec::new()
                }
                "socket" => {
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n".to_vec()
                }
                _ => ok("fine"),
            }
        }
    })
    .await
}

/// A service of the shop with one endpoint, and more of its port.
fn service(name: &str, protocol: &str, more: Value) -> Value {
    let mut port = json!({
        "port": 80, "protocol": protocol, "backend": {"slices": [format!("shop/{name}:80/a")]},
    });
    for (key, value) in more.as_object().unwrap() {
        port[key] = value.clone();
    }
    json!({"name": format!("shop/{name}"), "hostnames": [name], "ports": [port]})
}

fn endpoints(name: &str, at: Option<SocketAddr>, more: Value) -> Value {
    let of = |at: SocketAddr| {
        let mut endpoint = json!({
            "uid": format!("shop/{name}-1"), "address": at.ip().to_string(), "port": at.port(), "health": "HEALTH_READY", "weight": 1,
        });
        for (key, value) in more.as_object().unwrap() {
            endpoint[key] = value.clone();
        }
        endpoint
    };
    json!({"name": format!("shop/{name}:80/a"), "endpoints": at.into_iter().map(of).collect::<Vec<_>>()})
}

fn rules(rule: Value) -> Value {
    json!({"frontend": {"routes": [{"name": "shop/mine", "kind": "ROUTE_KIND_HTTP", "rules": [rule]}]}})
}

fn read(resources: Value) -> v1::Resources {
    weft_proto::json::deserialize("weft.v1.Resources", resources).unwrap()
}

/// A line without what differs from run to run.
fn settled(mut line: Value, ports: &[(SocketAddr, &str)]) -> String {
    let object = line.as_object_mut().unwrap();
    for name in ["time", "durationUs", "traceId", "requestId", "detail"] {
        object.remove(name);
    }
    ports.iter().fold(line.to_string(), |text, (at, name)| text.replace(&at.port().to_string(), name))
}

#[tokio::test]
async fn every_way_in_which_a_call_ends_leaves_its_line() {
    let app = application().await;
    let (echo, _echo) = raw_server(|mut stream| async move {
        let mut buffer = [0; 64];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            if stream.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    })
    .await;
    let (half, _half) = raw_server(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    })
    .await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mesh = Mesh::new();

    // The sidecar of orders: what lets calls in, and keeps them out.
    let allow = json!({"name": "shop/readers", "action": "ACTION_ALLOW", "rules": [{"name": "get", "to": [{"methods": ["GET"]}]}]});
    let deny = json!({"name": "shop/secrets", "action": "ACTION_DENY", "rules": [{"to": [{"paths": ["/secret"]}]}]});
    let limit =
        json!({"name": "shop/limits/one", "matches": [{"pathPrefix": "/limited"}], "requests": 1, "per": "3600s"});
    let port = |at: SocketAddr, more: Value| {
        let mut port = json!({
            "port": at.port(), "authorities": [at.to_string()], "serverNames": [format!("{}.orders.shop.svc.cluster.local", at.port())],
            "local": at.to_string(), "protocol": "PROTOCOL_HTTP1", "service": "shop/orders",
        });
        for (key, value) in more.as_object().unwrap() {
            port[key] = value.clone();
        }
        port
    };
    let inbound = read(json!({"inbound": {
        "workload": "shop/orders-1", "identity": mesh.id("orders"),
        "ports": [
            port(app.at, json!({"authorization": [allow, deny], "rateLimits": [limit]})),
            port(closed, json!({})),
        ],
    }}));
    let server = mesh.sidecar("orders", inbound).await;
    let behind = |at: SocketAddr, account: &str| {
        let name = format!("{}.orders.shop.svc.cluster.local", at.port());
        json!({"tunnel": server.tunnel.to_string(), "identity": mesh.id(account), "serverName": name})
    };

    // The sidecar of storefront: where calls go.
    let retry = json!({"attempts": 1, "codes": [503], "backoff": "0.001s"});
    let none = json!({});
    let forward = |name: &str, more: Value| {
        let mut rule =
            json!({"name": "all", "backends": [{"service": format!("shop/{name}"), "port": 80, "weight": 1}]});
        for (key, value) in more.as_object().unwrap() {
            rule[key] = value.clone();
        }
        rules(rule)
    };
    let http = "PROTOCOL_HTTP1";
    let all = json!({"millionths": 1_000_000});
    let services = vec![
        service("catalog", http, none.clone()),
        service("half", http, none.clone()),
        service("retried", http, forward("retried", json!({"retry": retry}))),
        service(
            "routed",
            http,
            rules(
                json!({"matches": [{"pathPrefix": "/only"}], "backends": [{"service": "shop/catalog", "port": 80, "weight": 1}]}),
            ),
        ),
        service(
            "redirected",
            http,
            rules(json!({"filters": [{"redirect": {"hostname": "shop.example.com", "status": 301}}]})),
        ),
        service(
            "unresolved",
            http,
            rules(
                json!({"backends": [{"service": "shop/nobody", "port": 80, "weight": 1, "unresolved": "BackendNotFound: shop/nobody"}]}),
            ),
        ),
        service("hurried", http, forward("hurried", json!({"requestTimeout": "0.05s", "retry": {"attempts": 0}}))),
        service("tried", http, forward("tried", json!({"backendRequestTimeout": "0.05s", "retry": {"attempts": 0}}))),
        service("faulty", http, json!({"frontend": {"faults": [{"abort": {"status": 418, "share": all}}]}})),
        service("empty", http, none.clone()),
        service(
            "spared",
            http,
            json!({"frontend": {"fallback": {"response": {"status": 200, "contentType": "text/plain", "body": "ZmluZQ=="}}}}),
        ),
        service("closed", http, forward("closed", json!({"retry": {"attempts": 0}}))),
        service("full", http, json!({"backend": {"slices": ["shop/full:80/a"], "limits": {"requests": 1}}})),
        service("orders", http, none.clone()),
        service("silent", http, none.clone()),
        service("impostor", http, forward("impostor", json!({"retry": {"attempts": 0}}))),
        service("users", "PROTOCOL_GRPC", none.clone()),
        service("echo", "PROTOCOL_TCP", none.clone()),
        service("shut", "PROTOCOL_TCP", none.clone()),
    ];
    let at_app = ["catalog", "retried", "hurried", "tried", "faulty", "full"];
    let mut slices: Vec<Value> = at_app.iter().map(|name| endpoints(name, Some(app.at), none.clone())).collect();
    slices.extend(
        ["empty", "spared", "users", "routed", "redirected", "unresolved"]
            .map(|name| endpoints(name, None, none.clone())),
    );
    slices.extend([
        endpoints("closed", Some(closed), none.clone()),
        endpoints("orders", Some(app.at), behind(app.at, "orders")),
        endpoints("silent", Some(closed), behind(closed, "orders")),
        endpoints("impostor", Some(app.at), behind(app.at, "payments")),
        endpoints("half", Some(half), none.clone()),
        endpoints("echo", Some(echo), none.clone()),
        endpoints("shut", Some(closed), none.clone()),
    ]);
    let resources = read(json!({"services": services, "endpoints": slices}));
    let client = mesh.sidecar_with("storefront", resources, None, &[("echo", 80), ("shut", 80)]).await;

    let ports = [
        (app.at, "APP"),
        (echo, "ECHO"),
        (half, "HALF"),
        (closed, "CLOSED"),
        (server.tunnel, "TUNNEL"),
        (client.outbound, "OUTBOUND"),
    ];
    let mut table = String::new();
    let began = std::time::Instant::now();
    let mut note = |name: &str, lines: Vec<Value>| {
        let last = lines.last().cloned().unwrap();
        // Times are of this run: no line says nothing of it, none more than there was, and a deadline passes before it is missed.
        let took = std::time::Duration::from_micros(last["durationUs"].as_u64().unwrap());
        let limited = ["request_timeout", "try_timeout"].iter().any(|reason| last["reason"] == **reason);
        let least = std::time::Duration::from_micros(if limited { 50_000 } else { 1 });
        assert!(took >= least && took < began.elapsed(), "{name}: {took:?} of {:?}: {last}", began.elapsed());
        table.push_str(&format!("{name}\n  {}\n", settled(last, &ports)));
    };

    // Calls of storefront that get an answer; each has a path of its own to be found by.
    for (name, method, url) in [
        ("success", "GET", "http://catalog/items?token=hidden"),
        ("without a body", "GET", "http://catalog/empty"),
        ("the application knows no such thing", "GET", "http://catalog/missing"),
        ("the application fails", "GET", "http://catalog/broken"),
        ("success after a retry", "GET", "http://retried/again"),
        ("retries are exhausted", "GET", "http://retried/busy"),
        ("what may not be repeated is not", "POST", "http://retried/post/busy"),
        ("no route", "GET", "http://routed/other"),
        ("redirected", "GET", "http://redirected/elsewhere"),
        ("a backend that does not resolve", "GET", "http://unresolved/backend"),
        ("no answer in time", "GET", "http://hurried/call/slow"),
        ("an attempt without an answer in time", "GET", "http://tried/attempt/slow"),
        ("a fault on purpose", "GET", "http://faulty/teapot"),
        ("no endpoint", "GET", "http://empty/nobody"),
        ("a fallback", "GET", "http://spared/instead"),
        ("nobody listens", "GET", "http://closed/door"),
        ("an answer that is none", "GET", "http://catalog/garbage"),
        ("closed without an answer", "POST", "http://catalog/gone"),
        ("an unknown host", "GET", "http://unknown.example.com/where"),
        ("the endpoint is somebody else", "GET", "http://impostor/who"),
        ("mutual TLS", "GET", "http://orders/list"),
        ("denied by a rule", "GET", "http://orders/secret"),
        ("allowed by none", "DELETE", "http://orders/all"),
        ("the first within the limit", "GET", "http://orders/limited/first"),
        ("the second is not", "GET", "http://orders/limited/second"),
        ("the application is away", "GET", "http://silent/application"),
    ] {
        let mut caller = Client::connect(client.outbound).await;
        let (host, path) = url.trim_start_matches("http://").split_once('/').unwrap();
        caller.send(&format!("{method} {url} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n")).await;
        let path = path.split('?').next().unwrap();
        note(name, client.logged(&format!("\"path\":\"/{path}")).await);
        if ["orders", "silent"].contains(&host) {
            note(&format!("{name}, as its sidecar saw it"), server.logged(&format!("\"path\":\"/{path}")).await);
        }
    }

    // Calls that end otherwise.
    let mut caller = Client::connect(client.outbound).await;
    caller.0.write_all(b"GET http://half/half HTTP/1.1\r\nHost: half\r\n\r\n").await.unwrap();
    let _ = timeout(PATIENCE, caller.0.read_to_end(&mut Vec::new())).await;
    note("broken off in the middle", client.logged("\"path\":\"/half").await);

    let before = app.count();
    let mut caller = Client::connect(client.outbound).await;
    caller.0.write_all(b"GET http://catalog/left/slow HTTP/1.1\r\nHost: catalog\r\n\r\n").await.unwrap();
    eventually(|| (app.count() > before).then_some(())).await;
    drop(caller);
    note("the caller is gone", client.logged("\"path\":\"/left/slow").await);

    let before = app.count();
    let mut first = Client::connect(client.outbound).await;
    first.0.write_all(b"GET http://full/first/slow HTTP/1.1\r\nHost: full\r\n\r\n").await.unwrap();
    eventually(|| (app.count() > before).then_some(())).await;
    assert_eq!(Client::connect(client.outbound).await.get("http://full/house").await.status(), 503);
    drop(first);
    note("too many at once", client.logged("\"path\":\"/house").await);

    let mut caller = Client::connect(client.outbound).await;
    let upgrade = "GET http://catalog/socket HTTP/1.1\r\nHost: catalog\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n";
    caller.0.write_all(upgrade.as_bytes()).await.unwrap();
    let head = timeout(PATIENCE, read_head(&mut caller.0)).await.unwrap().unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    drop(caller);
    note("upgraded", client.logged("\"path\":\"/socket").await);

    let (refused, _stream) = connect_through(client.outbound, "127.0.0.1:22").await;
    assert_eq!(refused.status(), 403);
    note("a destination that nobody may reach", client.logged("\"method\":\"CONNECT\"").await);

    let (mut send, _tasks) = h2_over(TcpStream::connect(client.outbound).await.unwrap()).await;
    let request = http::Request::post("http://users/shop.v1.Users/Find")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.headers()["grpc-status"], "14");
    note("gRPC without an endpoint", client.logged("/shop.v1.Users/Find").await);

    // Opaque connections.
    let mut stream = TcpStream::connect(client.named[0]).await.unwrap();
    stream.write_all(b"warp and weft").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut echoed)).await.unwrap().unwrap();
    assert_eq!(echoed, b"warp and weft");
    note("an opaque connection", client.logged("\"destination\":\"shop/echo\"").await);

    let mut stream = TcpStream::connect(client.named[1]).await.unwrap();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
    note("an opaque connection to nobody", client.logged("\"destination\":\"shop/shut\"").await);

    let rows = table.lines().filter(|line| !line.starts_with(' ')).count();
    assert!(rows >= 30, "{rows}");
    if std::env::var_os("WEFT_WRITE_LINES").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/path_mesh/access_log.txt"), &table).unwrap();
    } else {
        for (is, was) in table.lines().zip(LINES.lines()) {
            assert_eq!(is, was);
        }
        assert_eq!(table.lines().count(), LINES.lines().count());
    }
}
