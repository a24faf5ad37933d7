//! `docs/src/reference/peers.md`, row by row: what a peer gets that comes with this or that certificate, or with none, and what one gets that
//! answers with it. The page's tables are what is expected: a cell that is wrong fails here. Callers are rustls, openssl and Python, of
//! which nobody here tuned the last two; who answers is rustls, or openssl where rustls would not.

use crate::certificates::{Forge, Papers};
use crate::clients::{Client, hears, server};
use crate::sidecars::{Mesh as Files, Sidecar};
use crate::stage::text;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use weft_integration::rig::{DEADLINE, Upstream, binary, http_get, wait_for};

const PAGE: &str = include_str!("../../../docs/src/reference/peers.md");
const MODES: [&str; 3] = ["strict", "permissive", "disabled"];

/// The rows of the table that follows the heading, each as its cells.
fn table(heading: &str) -> Vec<Vec<String>> {
    let section = PAGE.split("\n## ").find(|section| section.starts_with(heading)).expect("the page has the section");
    let lines = section.lines().skip_while(|line| !line.starts_with("| ---")).skip(1);
    let rows = lines.take_while(|line| line.starts_with('|'));
    rows.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// Sample of a metric in a scrape: the sum of those whose labels contain all of these.
fn count(sidecar: &Sidecar, name: &str, labels: &[&str]) -> f64 {
    let (_, scrape) = http_get(&sidecar.address("admin").to_string(), "/metrics").expect("a sidecar has metrics");
    let lines = scrape.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn handshakes(sidecar: &Sidecar, direction: &str, result: &str) -> f64 {
    let labels = [format!("direction=\"{direction}\""), format!("result=\"{result}\"")];
    count(sidecar, "weft_tls_handshakes_total", &labels.each_ref().map(String::as_str))
}

/// Waits for so many handshakes more than there were.
#[track_caller]
fn counted(what: &str, sidecar: &Sidecar, direction: &str, result: &str, least: f64) {
    wait_for(&format!("{what}: {direction} handshakes are counted as {result}"), || {
        let now = handshakes(sidecar, direction, result);
        if now >= least { Ok(()) } else { Err(format!("{now} of {least}")) }
    });
}

/// A sidecar from files, before an application of the test.
struct Guard {
    sidecar: Sidecar,
    log: std::path::PathBuf,
}

impl Guard {
    fn start(folder: &Path, papers: &Path, account: &str, resources: Value) -> Self {
        let files = Files::new(folder);
        let more = json!({"certificates": papers, "inbound": {"tunnel": "127.0.0.1:0", "plaintext": "127.0.0.1:0"}});
        let launch = |settings: &Path| {
            let mut command = Command::new(binary("weft-proxy"));
            command.arg("--config").arg(settings);
            command
        };
        let sidecar = files.start(account, account, &more, resources, launch);
        Self { sidecar, log: folder.join(account).join("log") }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// The `Inbound` of the only port of an application.
fn inbound(account: &str, port: u16, mode: &str) -> Value {
    let at = format!("127.0.0.1:{port}");
    json!({"inbound": {
        "workload": format!("shop/{account}-1"), "identity": format!("spiffe://weft.local/ns/shop/sa/{account}"),
        "ports": [{"port": port, "authorities": [at], "serverNames": [format!("80.{account}.shop.svc.cluster.local")], "local": at,
            "protocol": "PROTOCOL_HTTP1", "tls": format!("TLS_MODE_{}", mode.to_uppercase()), "service": format!("shop/{account}")}],
    }})
}

/// What a plaintext request to the application's port gets.
fn plainly(at: SocketAddr) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Words of the log line of a refusal, by what is counted.
fn words(counted: &str) -> &'static str {
    match counted {
        "no_tls" => "speaks plaintext",
        "no_certificate" => "presented no certificate",
        "expired" => "certificate expired at",
        "not_yet_valid" => "certificate is valid from",
        "unknown_trust_domain" => "trusts no trust domain",
        "untrusted_chain" => "does not lead to a root",
        "uri_names" => "2 URI names",
        "certificate_authority" => "a CA certificate as its own",
        "key_usage" => "wrong key usage",
        "wrong_identity" => "was expected",
        "revoked" => "revocation list of its issuer",
        "incompatible" => "TLS",
        other => panic!("{other} is a new way to be refused: say what its log line says"),
    }
}

#[test]
fn a_peer_that_calls_gets_what_the_page_says_whatever_library_it_calls_with() {
    let folder = tempfile::tempdir().unwrap();
    let forge = Forge::with_revoked(folder.path(), "server");
    let application = Upstream::start(|_| (200, "well".to_owned()));
    let guards = MODES.map(|mode| {
        let papers = forge.directory(mode, &forge.good(mode));
        Guard::start(folder.path(), &papers, mode, inbound(mode, application.port, mode))
    });
    let rows = table("A peer that calls");
    assert!(rows.len() >= 15, "{rows:?}");
    for row in rows {
        let [what, cells @ .., reason] = row.as_slice() else { panic!("{row:?}") };
        let reason = reason.trim_matches('`');
        assert_eq!(cells.len(), MODES.len(), "{row:?}");
        for (guard, (mode, expected)) in guards.iter().zip(MODES.iter().zip(cells)) {
            let label = format!("{what}, {mode}");
            let (before, seen) = (handshakes(&guard.sidecar, "inbound", reason), application.seen());
            let lines = guard.log().lines().count();
            let tunnel = guard.sidecar.address("tunnel");
            let mut tries = 0;
            let mut admitted = Vec::new();
            match what.as_str() {
                "no TLS, to the application's port" => {
                    let answer = plainly(guard.sidecar.address("plaintext"));
                    let well = answer.starts_with("HTTP/1.1 200") && answer.ends_with("well");
                    assert!(well || answer.contains("weft-error: plaintext-refused"), "{label}: {answer}");
                    admitted.push(("anybody", well));
                }
                "no TLS, to the mTLS listener" => {
                    admitted.push(("anybody", plainly(tunnel).starts_with("HTTP/1.1")));
                    tries = 1;
                }
                _ => {
                    let papers = presented(&forge, what);
                    let old = what == "TLS 1.2";
                    for client in Client::ALL.iter().filter(|client| !old || client.speaks_tls12()) {
                        let got = client.dial(folder.path(), tunnel, papers.as_ref(), old);
                        println!("{label}, {}: {got:?}", client.name());
                        admitted.push((client.name(), got.is_ok()));
                        tries += 1;
                    }
                    if let (Some(papers), "admitted") = (&papers, expected.as_str()) {
                        let authority = format!("127.0.0.1:{}", application.port);
                        assert_eq!(hears(tunnel, papers, &authority), Ok(200), "{label}: a tunnel to the port");
                    }
                }
            }
            for (who, well) in admitted {
                assert_eq!(if well { "admitted" } else { "refused" }, expected, "{label}: {who}");
            }
            if tries > 0 {
                counted(&label, &guard.sidecar, "inbound", reason, before + f64::from(tries));
            }
            if expected == "refused" {
                assert_eq!(application.seen(), seen, "{label}: the application heard of it");
                let word = if tries == 0 { "presented no certificate" } else { words(reason) };
                wait_for(&format!("{label}: the log says why"), || {
                    let log = guard.log();
                    let mut fresh = log.lines().skip(lines);
                    let found = fresh.any(|line| line.contains("refused") && line.contains(word));
                    if found { Ok(()) } else { Err(log.lines().skip(lines).collect::<Vec<_>>().join("\n")) }
                });
            }
        }
    }
}

/// What the row says that the peer has; `None`: no certificate.
fn presented(forge: &Forge, what: &str) -> Option<Papers> {
    Some(match what {
        "TLS without a certificate" => return None,
        "an expired certificate" => forge.expired("server"),
        "a certificate that is not valid yet" => forge.future("server"),
        "a revoked certificate" => forge.revoked(),
        "a certificate of another trust domain" => forge.foreign("server"),
        "the certificate of another workload" => forge.good("somebody"),
        "a certificate with two URI names" => forge.two_names("server"),
        "a CA certificate as its own" => forge.authority("server"),
        "a certificate that may not sign handshakes" => {
            forge.usage("server", "keyEncipherment", "serverAuth,clientAuth")
        }
        "a certificate for another purpose" => forge.usage("server", "digitalSignature", "emailProtection"),
        "a certificate of the same name from another root" => forge.unrooted("server"),
        "TLS 1.2" | "its own good certificate" => forge.good("server"),
        other => panic!("{other}: the page has a row that nobody tries"),
    })
}

#[test]
fn a_peer_that_answers_gets_what_the_page_says_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let forge = Forge::with_revoked(folder.path(), "server");
    let application = Upstream::start(|_| (200, "well".to_owned()));
    let good = forge.directory("server", &forge.good("server"));
    let guard = Guard::start(folder.path(), &good, "server", inbound("server", application.port, "strict"));
    let rows = table("A peer that answers");
    assert!(rows.len() >= 13, "{rows:?}");
    let servers: Vec<_> = (rows.iter().zip(0..))
        .map(|(row, nth)| match row[0].as_str() {
            "its own good certificate" => (guard.sidecar.address("tunnel"), None),
            "no TLS" => (plain_server(), None),
            what => {
                let papers = presented(&forge, what).expect("a server has a certificate");
                let server = server(folder.path(), &format!("server-{nth}"), &papers, what == "TLS 1.2");
                (server.address(), Some(server))
            }
        })
        .collect();
    let named = |nth: usize| format!("row-{nth}");
    let services = (0..rows.len()).map(|nth| {
        json!({"name": format!("shop/{}", named(nth)), "hostnames": [named(nth)], "ports": [{"port": 80, "protocol": "PROTOCOL_HTTP1",
            "frontend": {"requestTimeout": "5s"}, "backend": {"slices": [format!("shop/{}:80/0", named(nth))]}}]})
    });
    let endpoints = servers.iter().enumerate().map(|(nth, (tunnel, _))| {
        json!({"name": format!("shop/{}:80/0", named(nth)), "endpoints": [{"uid": format!("shop/{}", named(nth)),
            "address": "127.0.0.1", "port": application.port, "tunnel": tunnel.to_string(), "health": "HEALTH_READY",
            "identity": "spiffe://weft.local/ns/shop/sa/server", "serverName": "80.server.shop.svc.cluster.local"}]})
    });
    let resources = json!({"services": services.collect::<Vec<_>>(), "endpoints": endpoints.collect::<Vec<_>>()});
    let papers = forge.directory("caller", &forge.good("caller"));
    let caller = Guard::start(folder.path(), &papers, "caller", resources);
    for (nth, row) in rows.iter().enumerate() {
        let [what, gets, reason] = row.as_slice() else { panic!("{row:?}") };
        let reason = reason.trim_matches('`');
        let (before, seen) = (handshakes(&caller.sidecar, "outbound", reason), application.seen());
        let answer = through(caller.sidecar.address("outbound"), &named(nth));
        println!("{what}: {}", answer.lines().last().unwrap_or_default());
        if gets == "200" {
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("well"), "{what}: {answer}");
        } else {
            let kind = gets.strip_prefix("502 `").and_then(|rest| rest.strip_suffix('`')).expect("502 and a kind");
            assert!(
                answer.starts_with("HTTP/1.1 502") && answer.contains(&format!("weft-error: {kind}")),
                "{what}: {answer}"
            );
            assert!(
                answer.contains("spiffe://weft.local/ns/shop/sa/server") && answer.contains(words_of_server(reason)),
                "{what}: {answer}"
            );
            assert_eq!(application.seen(), seen, "{what}: the application heard of it");
            let logged = folder.path().join("caller/access.log");
            wait_for(&format!("{what}: the access log says why"), || {
                let log = std::fs::read_to_string(&logged).unwrap_or_default();
                let line = log.lines().find(|line| line.contains(&format!("\"{}\"", named(nth)))).unwrap_or_default();
                let found = line.contains(&kind.replace('-', "_")) && line.contains(words_of_server(reason));
                if found { Ok(()) } else { Err(log) }
            });
        }
        counted(what, &caller.sidecar, "outbound", reason, before + 1.0);
        if let (_, Some(server)) = &servers[nth] {
            let heard =
                wait_for(&format!("{what}: the server learns of it"), || server.heard().ok_or_else(String::new));
            println!("   the server: {heard}");
            assert!(
                heard.contains("refused") || heard.contains("alert") || heard.contains("TLS 1.3"),
                "{what}: {heard}"
            );
        }
    }
    // Whose certificate is refused at the other end reads that it is its own.
    let papers = forge.directory("late", &forge.expired("late"));
    let resources = json!({
        "services": [{"name": "shop/server", "hostnames": ["server"], "ports": [{"port": 80, "protocol": "PROTOCOL_HTTP1",
            "backend": {"slices": ["shop/server:80/0"]}}]}],
        "endpoints": [{"name": "shop/server:80/0", "endpoints": [{"uid": "shop/server-1", "address": "127.0.0.1",
            "port": application.port, "tunnel": guard.sidecar.address("tunnel").to_string(), "health": "HEALTH_READY",
            "identity": "spiffe://weft.local/ns/shop/sa/server", "serverName": "80.server.shop.svc.cluster.local"}]}],
    });
    let late = Guard::start(folder.path(), &papers, "late", resources);
    let answer = through(late.sidecar.address("outbound"), "server");
    println!("{answer}");
    assert!(
        answer.contains("weft-error: tls-failed") && answer.contains("peer refused this side's certificate: expired"),
        "{answer}"
    );
    counted("an expired caller", &late.sidecar, "outbound", "refused_by_peer", 1.0);
    counted("an expired caller", &guard.sidecar, "inbound", "expired", 1.0);
}

/// Says in plain HTTP what it thinks of whoever connects.
fn plain_server() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test program.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut hello = [0; 4096];
            let _ = stream.read(&mut hello);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.read(&mut hello);
        }
    });
    address
}

/// As [`words`], of a peer that answers.
fn words_of_server(counted: &str) -> &'static str {
    match counted {
        "incompatible" => "peer",
        "refused_by_peer" => "peer does not speak TLS 1.3",
        other => words(other),
    }
}

/// A call to `host` by way of a sidecar.
fn through(outbound: SocketAddr, host: &str) -> String {
    let mut stream = TcpStream::connect(outbound).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn the_key_exchange_is_hybrid_and_a_client_that_cannot_is_counted_with_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let forge = Forge::new(folder.path());
    let application = Upstream::start(|_| (200, "well".to_owned()));
    let papers = forge.directory("server", &forge.good("server"));
    let guard = Guard::start(folder.path(), &papers, "server", inbound("server", application.port, "strict"));
    let (tunnel, own) = (guard.sidecar.address("tunnel"), forge.good("caller"));
    let by = |group: &str| {
        let label = format!("group=\"{group}\"");
        count(
            &guard.sidecar,
            "weft_tls_handshakes_total",
            &["direction=\"inbound\"", "version=\"1.3\"", "result=\"ok\"", &label],
        )
    };
    assert_eq!(Client::Rustls.dial(folder.path(), tunnel, Some(&own), false), Ok(()));
    wait_for("the default is hybrid", || if by("X25519MLKEM768") >= 1.0 { Ok(()) } else { Err(String::new()) });
    for (group, name) in [("X25519", "x25519"), ("P-256", "secp256r1"), ("P-384", "secp384r1")] {
        let got = crate::clients::openssl(folder.path(), tunnel, Some(&own), &["-tls1_3", "-groups", group]);
        assert_eq!(got, Ok(()), "{group}");
        wait_for(group, || if by(name) >= 1.0 { Ok(()) } else { Err(format!("{}", by(name))) });
    }
    let got = crate::clients::openssl(folder.path(), tunnel, Some(&own), &["-tls1_3", "-groups", "P-521"]);
    assert!(got.is_err(), "a group that is not offered");
    // Two sidecars.
    let resources = json!({
        "services": [{"name": "shop/server", "hostnames": ["server"], "ports": [{"port": 80, "protocol": "PROTOCOL_HTTP1",
            "backend": {"slices": ["shop/server:80/0"]}}]}],
        "endpoints": [{"name": "shop/server:80/0", "endpoints": [{"uid": "shop/server-1", "address": "127.0.0.1",
            "port": application.port, "tunnel": tunnel.to_string(), "health": "HEALTH_READY",
            "identity": "spiffe://weft.local/ns/shop/sa/server", "serverName": "80.server.shop.svc.cluster.local"}]}],
    });
    let papers = forge.directory("caller", &own);
    let caller = Guard::start(folder.path(), &papers, "caller", resources);
    assert!(through(caller.sidecar.address("outbound"), "server").ends_with("well"));
    let labels = ["direction=\"outbound\"", "result=\"ok\"", "version=\"1.3\"", "group=\"X25519MLKEM768\""];
    assert!(count(&caller.sidecar, "weft_tls_handshakes_total", &labels) >= 1.0);
    println!("{}", text(&caller.log));
}
