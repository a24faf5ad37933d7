//! A peer of the mesh, with a good SVID, that names in CONNECT or in SNI what it has no business with: it reaches nothing. Authorities and
//! server names are only keys into what the workload serves.

use crate::frames::{Met, Raw};
use crate::peer::{Peer, Token, block, id};
use crate::stage::{Listener, PORT, StandIn};
use crate::tokens::is_ready;
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use weft_certs::tls::{ALPN_HBONE, ALPN_NATIVE};
use weft_integration::rig::{Mesh, Process, accepts, binary, free_port, wait_for};

const HBONE: &[&[u8]] = &[ALPN_HBONE];
const NATIVE: &[&[u8]] = &[ALPN_NATIVE];

/// The sidecar of `cart`, a peer of the mesh, and what it must not reach.
struct Scene {
    cart: StandIn,
    peer: Peer,
    /// Somebody else's program on the same host.
    neighbour: Listener,
    // Dropped last: the sidecar is of it.
    mesh: Mesh,
}

impl Scene {
    fn new(protocol: &str) -> Self {
        let mesh = Mesh::start();
        let cart = StandIn::start(&mesh, "cart", protocol);
        let peer = block(Peer::join(&mesh, "storefront"));
        Self { mesh, cart, peer, neighbour: Listener::bind() }
    }

    async fn dial(
        &self,
        alpn: &'static [&'static [u8]],
        server_name: Option<&str>,
    ) -> io::Result<Raw<TlsStream<TcpStream>>> {
        let tls = self.peer.dial(self.cart.tunnel, &id("cart"), alpn, server_name).await?;
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(alpn[0]), "the protocol that was offered");
        Raw::open(tls).await
    }

    /// One request on a connection of its own. A connection that ends during the handshake met its end as well.
    async fn meet(&self, alpn: &'static [&'static [u8]], server_name: Option<&str>, fields: &[(&str, &[u8])]) -> Met {
        let attempt = async {
            let mut raw = self.dial(alpn, server_name).await?;
            raw.request(fields, alpn == NATIVE).await
        };
        let met: io::Result<Met> =
            tokio::time::timeout(Duration::from_secs(20), attempt).await.expect("the sidecar answers");
        // With TLS 1.3 a refusal of the server arrives with the first read.
        met.unwrap_or(Met::Closed)
    }

    /// Nobody was reached: not the neighbour, not the application, and the sidecar is as well as before.
    #[track_caller]
    fn assert_nothing_reached(&self) {
        self.neighbour.assert_untouched();
        self.cart.application.assert_untouched();
        for port in self.cart.own_ports() {
            accepts(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        }
    }
}

fn connect(authority: &[u8]) -> [(&str, &[u8]); 2] {
    [(":method", b"CONNECT"), (":authority", authority)]
}

#[test]
fn a_connect_opens_what_the_workload_serves() {
    let scene = Scene::new("http");
    block(async {
        let mut raw = scene.dial(HBONE, None).await.unwrap();
        let authority = format!("127.0.0.1:{}", scene.cart.application.port());
        assert_eq!(raw.request(&connect(authority.as_bytes()), false).await.unwrap(), Met::Status(200));
        raw.send(b"GET /basket HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n").await.unwrap();
        let head = scene.cart.application.answer("three apples");
        assert!(head.starts_with("GET /basket HTTP/1.1\r\n"), "{head}");
        let answer = raw.receive().await.unwrap();
        assert!(answer.ends_with(b"three apples"), "{}", String::from_utf8_lossy(&answer));
    });
}

#[test]
fn a_connect_to_anything_else_reaches_nothing() {
    let scene = Scene::new("http");
    let (neighbour, own) = (scene.neighbour.port(), scene.cart.application.port());
    let mut authorities: Vec<Vec<u8>> = [neighbour, scene.mesh.grpc().port(), 1, 0, PORT]
        .into_iter()
        .chain(scene.cart.own_ports())
        .flat_map(|port| {
            ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "2130706433"]
                .map(|host| format!("{host}:{port}").into_bytes())
        })
        .collect();
    authorities.extend(
        [
            // Names of the mesh are the caller's sidecar's to resolve, not the callee's.
            format!("cart:{PORT}"),
            format!("payments.shop:{PORT}"),
            format!("cart.shop.svc.cluster.local:{PORT}"),
            "192.0.2.7:80".to_owned(),
            "unknown.test:80".to_owned(),
            // Near the key, and not it.
            format!("localhost:{own}"),
            format!("127.0.0.1:{own}/"),
            format!("127.0.0.1:{own}@127.0.0.1:{neighbour}"),
            format!("user@127.0.0.1:{own}"),
            format!("127.0.0.1:0{own}"),
            format!("127.0.0.1:+{own}"),
            format!(" 127.0.0.1:{own}"),
            format!("127.0.0.1:{own} "),
            format!("127.0.0.1:{}", u32::from(own) + 65_536),
            "127.0.0.1".to_owned(),
            format!(":{own}"),
            own.to_string(),
            String::new(),
            ":".to_owned(),
            "/".to_owned(),
            "*".to_owned(),
            "\u{0}".to_owned(),
            "127.0.0.1:80\r\nHost: cart".to_owned(),
            "[::1".to_owned(),
            "a".repeat(5000),
        ]
        .map(String::into_bytes),
    );
    authorities.push(vec![0xff, 0xfe, 0x80]);
    block(async {
        for authority in &authorities {
            let met = scene.meet(HBONE, None, &connect(authority)).await;
            assert!(met.is_refusal(), "{:?} met {met:?}", String::from_utf8_lossy(authority));
        }
    });
    scene.assert_nothing_reached();
    assert!(scene.cart.refused() >= 1.0, "refusals are counted:\n{}", scene.cart.sidecar.metrics());
    assert!(scene.cart.log().contains("refused"), "refusals are logged: {}", scene.cart.log());
}

#[test]
fn a_request_that_is_no_good_connect_reaches_nothing() {
    let scene = Scene::new("http");
    let authority = format!("127.0.0.1:{}", scene.cart.application.port());
    let authority = authority.as_bytes();
    let requests: [&[(&str, &[u8])]; 7] = [
        &[(":method", b"CONNECT")],
        &[(":method", b"CONNECT"), ("host", authority)],
        &[(":authority", authority)],
        &[(":method", b"CONNECT"), (":scheme", b"https"), (":path", b"/"), (":authority", authority)],
        &[(":method", b"GET"), (":scheme", b"https"), (":path", b"/"), (":authority", authority)],
        &[(":method", b"CONNECT"), (":authority", authority), (":authority", b"127.0.0.1:1")],
        &[
            (":method", b"CONNECT"),
            (":protocol", b"websocket"),
            (":scheme", b"https"),
            (":path", b"/"),
            (":authority", authority),
        ],
    ];
    block(async {
        for fields in requests {
            let met = scene.meet(HBONE, None, fields).await;
            assert!(met.is_refusal(), "{fields:?} met {met:?}");
        }
    });
    scene.assert_nothing_reached();
}

fn get(authority: &[u8]) -> [(&str, &[u8]); 4] {
    [(":method", b"GET"), (":scheme", b"https"), (":path", b"/"), (":authority", authority)]
}

#[test]
fn a_server_name_opens_what_the_workload_serves() {
    let scene = Scene::new("http2");
    let own = scene.cart.application.port();
    for name in [format!("{PORT}.cart.shop.svc.cluster.local"), format!("{own}.cart.shop.workload.cluster.local")] {
        std::thread::scope(|scope| {
            // The application hangs up on the sidecar that reached it, and so the caller gets an answer.
            let reached = scope.spawn(|| drop(scene.cart.application.accept()));
            block(scene.meet(NATIVE, Some(&name), &get(b"cart")));
            reached.join().expect("the application was reached");
        });
    }
}

#[test]
fn any_other_server_name_reaches_nothing() {
    let scene = Scene::new("http2");
    let (neighbour, own) = (scene.neighbour.port(), scene.cart.application.port());
    let mut names: Vec<String> = scene
        .cart
        .own_ports()
        .into_iter()
        .chain([neighbour, scene.mesh.grpc().port(), 1, 0])
        .flat_map(|port| {
            [format!("{port}.cart.shop.svc.cluster.local"), format!("{port}.cart.shop.workload.cluster.local")]
        })
        .collect();
    names.extend([
        format!("{PORT}.payments.shop.svc.cluster.local"),
        format!("{PORT}.cart.bank.svc.cluster.local"),
        format!("{PORT}.cart.shop.svc.elsewhere.test"),
        format!("{own}.payments.shop.workload.cluster.local"),
        format!("{own}.cart.shop.svc.cluster.local"),
        format!("0{PORT}.cart.shop.svc.cluster.local"),
        format!("{PORT}.cart.shop.svc.cluster.local.elsewhere.test"),
        "cart.shop.svc.cluster.local".to_owned(),
        "cart".to_owned(),
        "localhost".to_owned(),
    ]);
    block(async {
        for name in &names {
            // What the request itself names is not what opens a port.
            for authority in [format!("cart:{PORT}"), format!("127.0.0.1:{own}"), format!("127.0.0.1:{neighbour}")] {
                let met = scene.meet(NATIVE, Some(name), &get(authority.as_bytes())).await;
                assert!(met.is_refusal(), "{name} with {authority} met {met:?}");
            }
        }
        let met = scene.meet(NATIVE, None, &get(format!("127.0.0.1:{own}").as_bytes())).await;
        assert!(met.is_refusal(), "no name at all met {met:?}");
        // Nor is a native connection a tunnel.
        let good = format!("{PORT}.cart.shop.svc.cluster.local");
        let met = scene.meet(NATIVE, Some(&good), &connect(format!("127.0.0.1:{neighbour}").as_bytes())).await;
        assert!(met.is_refusal(), "CONNECT on a native connection met {met:?}");
    });
    scene.neighbour.assert_untouched();
    assert!(scene.cart.refused() >= 1.0, "refusals are counted:\n{}", scene.cart.sidecar.metrics());
}

#[test]
fn a_protocol_that_is_not_spoken_between_sidecars_is_refused() {
    let scene = Scene::new("http");
    const OTHER: &[&[u8]] = &[b"http/1.1"];
    block(async {
        let met = scene.peer.dial(scene.cart.tunnel, &id("cart"), OTHER, None).await;
        let error = met.map(drop).unwrap_err();
        let text = weft_certs::Error::from_handshake(&error).to_string();
        assert!(text.contains("ALPN"), "{text}");
        // And a peer that expects somebody else finds out before it says anything.
        let met = scene.peer.dial(scene.cart.tunnel, &id("payments"), HBONE, None).await;
        let text = weft_certs::Error::from_handshake(&met.map(drop).unwrap_err()).to_string();
        assert!(text.contains("peer is spiffe://weft.local/ns/shop/sa/cart") && text.contains("sa/payments"), "{text}");
    });
    scene.assert_nothing_reached();
}

#[test]
fn a_port_that_leads_to_the_sidecars_own_listeners_reaches_nothing() {
    let mesh = Mesh::start();
    mesh.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n").ok();
    let token = mesh.folder().join("token");
    std::fs::write(&token, Token::create(&mesh, "cart", &[]).0).unwrap();
    let own = free_port();
    let neighbour = Listener::bind();
    // Port 7000 leads where it should; the others are spellings of the sidecar's own readiness and metrics.
    let spellings = ["127.0.0.1", "[::ffff:127.0.0.1]"];
    let mut ports = vec![json!({"port": 7000, "protocol": "http", "local": format!("127.0.0.1:{}", neighbour.port())})];
    for (i, host) in spellings.iter().enumerate() {
        for (j, protocol) in ["http", "tcp", "detect"].iter().enumerate() {
            ports.push(json!({"port": 7001 + 3 * i + j, "protocol": protocol, "local": format!("{host}:{own}")}));
        }
    }
    let settings = json!({
        "workload": {"namespace": "shop", "name": "cart", "serviceAccount": "cart", "ports": ports},
        "controlPlane": {"address": mesh.grpc()},
        "joinTokenFile": token,
        "stateDir": mesh.folder().join("cart-state"),
        "outbound": {"listen": "127.0.0.1:0"},
        "inbound": {"tunnel": "127.0.0.1:0"},
        "admin": {"listen": format!("127.0.0.1:{own}")},
    });
    let file = mesh.folder().join("settings.json");
    std::fs::write(&file, settings.to_string()).unwrap();
    let sidecar = Process::start(mesh.folder(), "cart", Command::new(binary("weft-proxy")).arg("--config").arg(&file));
    wait_for("the sidecar is ready", || if is_ready(&mesh, "cart") { Ok(()) } else { Err(sidecar.log()) });
    let ready = std::fs::read(mesh.folder().join("cart-state/ready.json")).unwrap();
    let ready: serde_json::Value = serde_json::from_slice(&ready).unwrap();
    let tunnel: SocketAddr = ready["tunnel"].as_str().unwrap().parse().unwrap();
    let peer = block(Peer::join(&mesh, "storefront"));
    let ask = async |port: usize| -> io::Result<Vec<u8>> {
        let mut raw = Raw::open(peer.dial(tunnel, &id("cart"), HBONE, None).await?).await?;
        if raw.request(&connect(format!("127.0.0.1:{port}").as_bytes()), false).await?.is_refusal() {
            return Ok(Vec::new());
        }
        raw.send(b"GET /metrics HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n").await?;
        raw.receive().await
    };
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| neighbour.answer("weft_is_here"));
        let answer = block(ask(7000)).unwrap();
        assert!(answer.ends_with(b"weft_is_here"), "{}", String::from_utf8_lossy(&answer));
        answering.join().unwrap();
    });
    block(async {
        for port in 7001..7001 + 3 * spellings.len() {
            let answer = tokio::time::timeout(Duration::from_secs(20), ask(port)).await.expect("the sidecar answers");
            // A reset is a refusal as well.
            let answer = String::from_utf8(answer.unwrap_or_default()).unwrap();
            assert!(!answer.contains("weft_") && !answer.contains("200 OK"), "port {port}: {answer}");
        }
    });
}
