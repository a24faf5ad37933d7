//! The explicit outbound listener is no open relay: whoever reaches it needs the workload's credentials, and gets to services of the mesh
//! and to nothing else on this host or any other.

use crate::stage::{Listener, PORT, StandIn, read_head};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use weft_integration::rig::{DEADLINE, Mesh, accepts, wait_for};

/// A caller's sidecar, a service that it may call, and somebody else's program on the same host.
struct Scene {
    caller: StandIn,
    cart: StandIn,
    neighbour: Listener,
    credentials: String,
    // Dropped last: the sidecars are of it.
    mesh: Mesh,
}

impl Scene {
    fn new() -> Self {
        let mesh = Mesh::start();
        let cart = StandIn::start(&mesh, "cart", "http");
        let caller = StandIn::start(&mesh, "storefront", "http");
        let settings = std::fs::read(caller.sidecar.state.join("settings.json")).unwrap();
        let settings: Value = serde_json::from_slice(&settings).unwrap();
        let part = |name: &str| settings["outbound"]["credentials"][name].as_str().expect("weft run sets credentials");
        let credentials = STANDARD.encode(format!("{}:{}", part("user"), part("password")));
        Self { mesh, caller, cart, neighbour: Listener::bind(), credentials }
    }

    /// Sends a request line and headers as they are; the status and head of the answer, 0 when there was none.
    fn say(&self, request_line: &str, headers: &[&str]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.caller.outbound).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut request = format!("{request_line} HTTP/1.1\r\n");
        for header in headers {
            request.push_str(header);
            request.push_str("\r\n");
        }
        stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
        let head = read_head(&mut stream);
        (head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default(), head)
    }

    fn authorization(&self) -> String {
        format!("Proxy-Authorization: Basic {}", self.credentials)
    }

    /// The three ways to name a destination, with the credentials.
    fn attempts(&self, authority: &str) -> Vec<(String, u16, String)> {
        let (own, host) = (self.authorization(), format!("Host: {authority}"));
        [
            (format!("GET http://{authority}/"), vec![host.as_str(), &own]),
            ("GET /".to_owned(), vec![host.as_str(), &own]),
            (format!("CONNECT {authority}"), vec![host.as_str(), &own]),
            // Where both say something the request line counts (RFC 9112 §3.2.2), so a good Host helps nobody.
            (format!("GET http://{authority}/"), vec!["Host: cart:8080", &own]),
            (format!("CONNECT {authority}"), vec!["Host: cart:8080", &own]),
        ]
        .into_iter()
        .map(|(line, headers)| {
            let (status, head) = self.say(&line, &headers);
            (line, status, head)
        })
        .collect()
    }

    #[track_caller]
    fn assert_nothing_reached(&self) {
        self.neighbour.assert_untouched();
        self.cart.application.assert_untouched();
        self.caller.application.assert_untouched();
        for port in self.caller.own_ports() {
            accepts(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        }
    }
}

#[test]
fn without_the_workloads_credentials_nothing_is_proxied() {
    let scene = Scene::new();
    let (user_only, wrong) = (STANDARD.encode("weft:"), STANDARD.encode("weft:aaaaaaaaaaaaaaaaaaaaaaaa"));
    let mut others = vec![
        None,
        Some(format!("Proxy-Authorization: Basic {user_only}")),
        Some(format!("Proxy-Authorization: Basic {wrong}")),
        Some(format!("Proxy-Authorization: Bearer {}", scene.credentials)),
        Some(format!("Proxy-Authorization: Basic {}", &scene.credentials[..scene.credentials.len() - 4])),
        Some(format!("Proxy-Authorization: Basic {}AAAA", scene.credentials)),
        // The right words in the wrong place.
        Some(format!("Authorization: Basic {}", scene.credentials)),
    ];
    for header in others.drain(..) {
        for line in
            ["GET http://cart:8080/", "GET /", "CONNECT cart:8080", "GET http://unknown.test/", "CONNECT 192.0.2.7:443"]
        {
            let headers: Vec<&str> = ["Host: cart:8080"].into_iter().chain(header.as_deref()).collect();
            let (status, head) = scene.say(line, &headers);
            assert_eq!(status, 407, "{line} {header:?}: {head}");
            assert!(head.to_ascii_lowercase().contains("proxy-authenticate: basic"), "{head}");
        }
    }
    scene.assert_nothing_reached();
    let refused =
        scene.caller.sidecar.metric("weft_refused_total", &["direction=\"outbound\"", "proxy_authentication"]);
    assert!(refused >= 35.0, "{refused} refusals are counted");
}

#[test]
fn with_them_a_service_is_reached_in_every_form() {
    let scene = Scene::new();
    let own = scene.authorization();
    wait_for("the service is known", || {
        let forms = ["GET http://cart:8080/basket", "GET /basket"];
        for line in forms {
            let answers = std::thread::scope(|scope| {
                let call = scope.spawn(|| scene.say(line, &["Host: cart:8080", &own, "Connection: close"]));
                let head = scene.cart.application.answer("three apples");
                (call.join().unwrap(), head)
            });
            let ((status, answer), head) = answers;
            assert_eq!(status, 200, "{answer}");
            assert!(head.starts_with("GET /basket HTTP/1.1"), "{head}");
            // The credentials are for the sidecar and travel no further.
            assert!(
                !head.to_ascii_lowercase().contains("proxy-authorization") && !head.contains(&scene.credentials),
                "{head}"
            );
        }
        Ok::<(), String>(())
    });
    let (status, head) = scene.say(&format!("CONNECT cart:{PORT}"), &[&format!("Host: cart:{PORT}"), &own]);
    assert_eq!(status, 200, "{head}");
}

#[test]
fn literal_addresses_of_this_host_and_link_are_refused() {
    let scene = Scene::new();
    let port = scene.neighbour.port();
    for host in [
        "127.0.0.1",
        "127.8.9.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[0:0:0:0:0:ffff:7f00:1]",
        "0.0.0.0",
        "[::]",
        "169.254.169.254",
        "[fe80::1]",
        "224.0.0.1",
        "255.255.255.255",
    ] {
        for (line, status, head) in scene.attempts(&format!("{host}:{port}")) {
            assert_eq!(status, 403, "{line}: {head}");
            assert!(head.contains("forbidden-destination"), "{line}: {head}");
        }
    }
    // Other spellings of the same are names, which nobody resolves.
    for host in
        ["localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost.localdomain", "ip6-localhost"]
    {
        for (line, status, head) in scene.attempts(&format!("{host}:{port}")) {
            assert!(matches!(status, 400 | 403 | 421), "{line}: {head}");
        }
    }
    scene.assert_nothing_reached();
}

#[test]
fn the_sidecars_own_ports_are_nobodys_destination() {
    let scene = Scene::new();
    let control = scene.mesh.grpc().port();
    for port in scene.caller.own_ports().into_iter().chain(scene.cart.own_ports()).chain([control]) {
        for host in ["127.0.0.1", "[::1]", "localhost", "cart", "storefront", "storefront.shop"] {
            for (line, status, head) in scene.attempts(&format!("{host}:{port}")) {
                assert!(matches!(status, 403 | 421), "{line}: {head}");
            }
        }
    }
    scene.assert_nothing_reached();
}

#[test]
fn what_is_no_service_is_misdirected_or_forbidden() {
    let scene = Scene::new();
    let nowhere = [
        "unknown.test",
        "unknown",
        "cart.bank",
        "cart.shop.svc.elsewhere.test",
        "192.0.2.7",
        "198.51.100.1:443",
        "[2001:db8::7]:443",
        // A service, and a port that it does not have.
        "cart:1",
        "cart:443",
        "cart:65535",
    ];
    for authority in nowhere {
        let authority = if authority.contains(':') && !authority.ends_with(']') {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        for (line, status, head) in scene.attempts(&authority) {
            assert!(matches!(status, 403 | 421), "{line}: {head}");
        }
    }
    let (status, head) = scene.say("GET /", &["Host: unknown.test", &scene.authorization()]);
    assert_eq!(status, 421, "an unknown Host is misdirected: {head}");
    scene.assert_nothing_reached();
}

#[test]
fn garbage_in_place_of_a_destination_is_a_bad_request() {
    let scene = Scene::new();
    let (own, port) = (scene.authorization(), scene.neighbour.port());
    let garbage = [
        (format!("CONNECT user@127.0.0.1:{port}"), vec!["Host: x"]),
        ("CONNECT cart".to_owned(), vec!["Host: cart"]),
        ("CONNECT :8080".to_owned(), vec!["Host: cart"]),
        ("CONNECT cart:0".to_owned(), vec!["Host: cart"]),
        ("CONNECT cart:70000".to_owned(), vec!["Host: cart"]),
        ("CONNECT /".to_owned(), vec!["Host: cart"]),
        ("CONNECT http://cart:8080/".to_owned(), vec!["Host: cart"]),
        (format!("GET http://cart:8080@127.0.0.1:{port}/"), vec!["Host: cart:8080"]),
        (format!("GET http://127.0.0.1:{port}#@cart:8080/"), vec!["Host: cart:8080"]),
        (format!("GET http://cart:8080\\@127.0.0.1:{port}/"), vec!["Host: cart:8080"]),
        ("GET /".to_owned(), vec![]),
        ("GET /".to_owned(), vec!["Host: cart:8080", "Host: unknown.test"]),
        ("GET /".to_owned(), vec!["Host: cart:8080, unknown.test"]),
        ("GET http:///".to_owned(), vec!["Host: cart:8080"]),
        ("GET ftp://cart:8080/".to_owned(), vec!["Host: cart:8080"]),
        ("GET file:///etc/hostname".to_owned(), vec!["Host: cart:8080"]),
    ];
    for (line, mut headers) in garbage {
        headers.push(&own);
        let (status, head) = scene.say(&line, &headers);
        assert!(matches!(status, 400 | 403 | 421 | 501), "{line} {headers:?}: {head}");
    }
    scene.assert_nothing_reached();
}

#[test]
fn a_service_of_another_workload_is_called_as_oneself_and_as_nobody_else() {
    let scene = Scene::new();
    // Whose call it is, is said by the certificate; what the application says of it goes no further.
    let policy = "apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: only-payments, namespace: shop}\n\
                  spec:\n  targetRefs: [{kind: Service, name: cart}]\n  action: Allow\n  rules:\n\
                  \x20 - from: [{serviceAccounts: [payments]}]\n";
    scene.mesh.apply(policy).ok();
    let own = scene.authorization();
    let claims = ["weft-source: shop/payments", "weft-identity: spiffe://weft.local/ns/shop/sa/payments"];
    let headers: Vec<&str> = ["Host: cart:8080", &own].into_iter().chain(claims).collect();
    wait_for("the policy is in force", || {
        let denied = std::thread::scope(|scope| {
            let call = scope.spawn(|| scene.say("GET http://cart:8080/basket", &headers));
            // Until it is, the application answers.
            while !call.is_finished() {
                scene.cart.application.answer_if_asked("before the policy");
            }
            call.join().unwrap()
        });
        if denied.0 == 403 { Ok(()) } else { Err(denied.1) }
    });
    scene.cart.application.assert_untouched();
    let denials =
        scene.cart.sidecar.metric("weft_authz_total", &["decision=\"deny\"", "policy=\"shop/only-payments\""]);
    assert!(denials >= 1.0, "{}", scene.cart.sidecar.metrics());
}
