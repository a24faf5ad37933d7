//! Nothing that is secret is written where it may be read: join tokens, JSON Web Tokens, cookies, credentials and private keys pass through a
//! mesh that logs all it can and meets errors of many kinds, and then everything that it wrote and says is searched for them.

use crate::peer::Token;
use crate::stage::text;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use weft_integration::rig::stage::{Answer, Caller, apply};
use weft_integration::rig::{DEADLINE, Issuer, Mesh, Process, Run, Sidecar, Upstream, binary, program, wait_for};

const COOKIE: &str = "c00kie-that-nobody-may-read";
const BASIC: &str = "Ym9iOnBhc3N3b3JkLXRoYXQtbm9ib2R5LW1heS1yZWFk";
const HEADER: &str = "api-key-that-nobody-may-read";
const DEADLINE_OF_A_TOKEN: Duration = Duration::from_secs(600);
/// Where keys and credentials are kept on purpose, 0600.
const KEEPERS: [&str; 7] =
    ["identity.pem", "settings.json", "kubeconfig", "root.pem", "issuing.pem", "issuer.key", "join-token"];

/// What is searched for.
struct Secrets(Vec<(String, Vec<u8>)>);

impl Secrets {
    fn text(&mut self, what: &str, secret: &str) {
        assert!(secret.len() >= 16, "{what}: {secret:?} may be anywhere");
        self.0.push((what.to_owned(), secret.as_bytes().to_vec()));
    }

    /// A private key in every form in which it may slip out: PEM, DER, hexadecimal, and as Rust prints bytes.
    fn key(&mut self, file: &Path) {
        let all = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let (_, rest) = all.split_once("PRIVATE KEY-----\n").expect("a key in PEM");
        let body = rest.split("-----END").next().unwrap();
        let name = file.display();
        let der = STANDARD.decode(body.replace('\n', "")).unwrap();
        // ECPrivateKey (RFC 5915 §3): version 1, then the octets of the key.
        let at = der.windows(5).position(|w| w == [2, 1, 1, 4, 32]).expect("a P-256 key") + 5;
        // What follows is the public key, which certificates have too.
        for line in body.lines().take((at + 32).div_ceil(48)) {
            self.text(&format!("a line of {name}"), line);
        }
        let octets = &der[at..at + 32];
        self.0.push((format!("the octets of {name}"), octets.to_vec()));
        let hex: String = octets.iter().map(|byte| format!("{byte:02x}")).collect();
        self.text(&format!("the digits of {name}"), &hex);
        let printed = format!("{:?}", &octets[..12]);
        self.text(&format!("the bytes of {name}"), printed.trim_matches(['[', ']']));
    }

    /// Those that stand in `content`.
    fn found(&self, content: &[u8]) -> Vec<&str> {
        let there = |needle: &[u8]| {
            let first = needle[0];
            let mut rest = content;
            while let Some(at) = rest.iter().position(|byte| *byte == first) {
                if rest[at..].starts_with(needle) {
                    return true;
                }
                rest = &rest[at + 1..];
            }
            false
        };
        self.0.iter().filter(|(_, needle)| there(needle)).map(|(what, _)| what.as_str()).collect()
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries
        .flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] })
        .filter(|path| path.is_file())
        .collect()
}

/// Everything that was written, and everything that is said.
fn everything(mesh: &Mesh, sidecars: &[&Sidecar], said: &[(String, String)]) -> Vec<(String, Vec<u8>)> {
    let kept = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        KEEPERS.contains(&name)
            || path.parent().is_some_and(|folder| folder.ends_with("control-plane/api") || folder.ends_with("given"))
    };
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    for path in walk(mesh.folder()).into_iter().filter(|path| !kept(path)) {
        // A file may go while others are read.
        all.extend(std::fs::read(&path).map(|content| (path.display().to_string(), content)));
    }
    for (nth, sidecar) in sidecars.iter().enumerate() {
        for path in ["/metrics", "/config_dump", "/stats", "/certificate"] {
            let content = sidecar.admin(path).unwrap_or_else(|e| panic!("{path}: {e}"));
            all.push((format!("{path} of sidecar {nth}"), content.into_bytes()));
        }
    }
    all.extend(said.iter().map(|(place, content)| (place.clone(), content.clone().into_bytes())));
    all
}

/// A request as it stands, to the sidecar's explicit listener.
fn raw(caller: &Caller, request: &str) -> String {
    let (outbound, _) = caller.proxy();
    let mut stream = TcpStream::connect(outbound).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn no_secret_is_in_any_log_metric_dump_answer_or_file_but_those_that_keep_it() {
    let mesh = Mesh::start_with(&["--log", "trace"]);
    let given = mesh.folder().join("given");
    std::fs::create_dir(&given).unwrap();
    let mut secrets = Secrets(Vec::new());
    secrets.text("a cookie", COOKIE);
    secrets.text("basic credentials", BASIC);
    secrets.text("a key in a header", HEADER);

    // A service behind a sidecar that logs all it can, one that is not there, and one that breaks off.
    let application = Upstream::start(|request| {
        if request.path.starts_with("/fail") { (503, "busy".to_owned()) } else { (200, "well".to_owned()) }
    });
    let sleep = program("sleep");
    let start = |name: &str, port: u16| {
        mesh.run_ready(&Run {
            name: &format!("{name}-1"),
            services: &[name],
            ports: &[format!("80:{port}:http")],
            flags: &["--sidecar-log", "trace"],
            command: &[text(&sleep), "infinity"],
            ..Run::default()
        })
    };
    let nobody = weft_integration::rig::free_port();
    let (shop, gone) = (start("orders", application.port), start("gone", nobody));
    let caller = Caller::start_with(&mesh, "shop", "clerk", &["--sidecar-log", "trace"]);
    let issuer = Issuer::new(&given, "https://id.example.com");
    apply(
        &mesh,
        &format!(
            "apiVersion: weft.mesh/v1alpha1\nkind: RequestAuthentication\nmetadata: {{name: login, namespace: shop}}\nspec: {{targetRefs: [{{kind: Service, name: orders}}], \
             rules: [{{issuer: 'https://id.example.com', audiences: [orders], jwks: '{}', fromHeaders: [{{name: Authorization, prefix: 'Bearer '}}], fromParams: [token], fromCookies: [id]}}]}}\n---\n\
             apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: closed, namespace: shop}}\nspec: {{targetRefs: [{{kind: Service, name: orders}}], action: Deny, responseHeader: true, \
             rules: [{{to: [{{paths: ['/closed/*']}}], when: [{{key: 'request.headers[x-api-key]', values: ['{HEADER}']}}]}}]}}\n",
            issuer.jwks()
        ),
    );
    // The policy itself says what it compares with: it is configuration, and the API and the dump show it.
    secrets.0.retain(|(what, _)| what != "a key in a header");

    let good = issuer.token("ann", "orders", DEADLINE_OF_A_TOKEN);
    let elsewhere = issuer.token("ann", "payments", DEADLINE_OF_A_TOKEN);
    let other = given.join("other");
    std::fs::create_dir(&other).unwrap();
    let forged = Issuer::new(&other, "https://id.example.com").token("ann", "orders", DEADLINE_OF_A_TOKEN);
    for (what, token) in [("a good JWT", &good), ("a JWT for others", &elsewhere), ("a forged JWT", &forged)] {
        // Whole, and the signature alone: with that one who knows the claims has the token.
        secrets.text(what, token);
        secrets.text(&format!("the signature of {what}"), token.rsplit('.').next().unwrap());
    }

    let mut said: Vec<(String, String)> = Vec::new();
    let mut note = |what: &str, answer: Answer, status: u16| {
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        said.push((format!("the answer to {what}"), format!("{}\n{}", answer.head, answer.body)));
    };
    let cookie = format!("Cookie: session={COOKIE}");
    let bearer = |token: &str| format!("Authorization: Bearer {token}");
    let basic = format!("Authorization: Basic {BASIC}");
    note("a good call", caller.call("GET", "http://orders/", &[&cookie, &bearer(&good)]), 200);
    note(
        "a call with the token in its target",
        caller.call("GET", &format!("http://orders/?token={good}"), &[&cookie]),
        200,
    );
    note(
        "a call with the token in a cookie",
        caller.call("GET", "http://orders/", &[&format!("Cookie: id={good}")]),
        200,
    );
    note("a failing call", caller.call("GET", "http://orders/fail", &[&cookie, &bearer(&good)]), 503);
    note("no token", caller.call("GET", "http://orders/", &[&cookie, &basic]), 401);
    note("a token for others", caller.call("GET", "http://orders/", &[&cookie, &bearer(&elsewhere)]), 401);
    note("a forged token", caller.call("GET", "http://orders/", &[&cookie, &bearer(&forged)]), 401);
    note("half a token", caller.call("GET", "http://orders/", &[&bearer(&good[..good.len() - 20])]), 401);
    let key = format!("X-Api-Key: {HEADER}");
    note("a denied call", caller.call("GET", "http://orders/closed/1", &[&cookie, &bearer(&good), &key]), 403);
    note("an unknown host", caller.call("GET", "http://nowhere.test/", &[&cookie, &basic]), 421);
    note("an application that is gone", caller.call("GET", "http://gone/", &[&cookie, &basic]), 502);
    let (outbound, credentials) = caller.proxy();
    let proxy = format!("Proxy-Authorization: Basic {credentials}");
    secrets.text("the credentials of the explicit listener", &credentials);
    for (what, request) in [
        (
            "wrong credentials",
            format!(
                "GET http://orders/ HTTP/1.1\r\nHost: orders\r\nProxy-Authorization: Basic {BASIC}\r\n{cookie}\r\n\r\n"
            ),
        ),
        (
            "two lengths",
            format!(
                "POST http://orders/ HTTP/1.1\r\nHost: orders\r\n{proxy}\r\n{cookie}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
            ),
        ),
        (
            "a head without end",
            format!(
                "GET http://orders/ HTTP/1.1\r\nHost: orders\r\n{proxy}\r\n{cookie}\r\nX-Long: {}\r\n\r\n",
                "x".repeat(70_000)
            ),
        ),
        (
            "a broken line",
            format!("GET http://orders/ HTTP/1.1\r\nHost: orders\r\n{proxy}\r\n{cookie}\r\nno colon\r\n\r\n"),
        ),
        ("no HTTP", format!("{cookie}\r\n{proxy}\r\n\r\n")),
    ] {
        let answer = raw(&caller, &request);
        assert!(!answer.starts_with("HTTP/1.1 200"), "{what}: {answer}");
        said.push((format!("the answer to {what}"), answer));
    }

    // Join tokens: one that is redeemed, one that is not good any more, one that is garbled.
    let tokens = [Token::create(&mesh, "orders", &[]), Token::create(&mesh, "orders", &[])];
    mesh.weft(&["token", "revoke", &tokens[1].field("id")]).ok();
    let secret = tokens[0].field("secret");
    let garbled = tokens[0].with("secret", &secret.chars().rev().collect::<String>());
    for token in tokens.iter().chain([&garbled]) {
        secrets.text("a join token", &token.0);
        secrets.text("a join token's secret", &token.field("secret"));
        secrets.text("a join token's body", token.0.rsplit('.').next().unwrap());
    }
    let mut joining = Vec::new();
    for (name, token, word) in
        [("good", &tokens[0], "is ready"), ("revoked", &tokens[1], "revoked"), ("garbled", &garbled, "not known here")]
    {
        let file = given.join(format!("token-{name}"));
        std::fs::write(&file, &token.0).unwrap();
        let mut command = Command::new(binary("weft-proxy"));
        command.args(["--namespace", "shop", "--name", name, "--service-account", "orders", "--service", "orders"]);
        command.args([
            "--outbound",
            "127.0.0.1:0",
            "--tunnel",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--log",
            "trace",
        ]);
        command.arg("--control-plane").arg(mesh.grpc().to_string()).arg("--join-token-file").arg(file);
        command.arg("--state-dir").arg(mesh.folder().join(format!("{name}-state")));
        let process = Process::start(mesh.folder(), &format!("join-{name}"), &mut command);
        wait_for(&format!("the one with the {name} token says so"), || {
            let ready = mesh.folder().join(format!("{name}-state/ready.json")).exists() && word == "is ready";
            let log = process.log();
            if ready || log.contains(word) { Ok(()) } else { Err(log) }
        });
        joining.push(process);
    }
    // What the API refuses, with what it was told.
    let manifest = format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {{name: bad, namespace: shop}}\nspec: {{address: {COOKIE}}}\n"
    );
    let refused = mesh.apply(&manifest);
    assert_ne!(refused.code, 0);
    // It quotes the field to whoever wrote it, and to nobody else.
    assert!(
        !std::fs::read_to_string(mesh.folder().join("up.log")).unwrap().contains(COOKIE),
        "the control plane logs what it was told"
    );
    let kubeconfig: Value = serde_json::from_slice(&std::fs::read(mesh.kubeconfig()).unwrap()).unwrap();
    let kept = kubeconfig["users"][0]["user"]["client-key-data"].as_str().expect("a key in the kubeconfig");
    let admin = mesh.folder().join("given/admin.key");
    std::fs::write(&admin, STANDARD.decode(kept).unwrap()).unwrap();

    // Keys.
    for file in [mesh.data().join("identity/root.pem"), mesh.data().join("identity/issuing.pem"), admin] {
        secrets.key(&file);
    }
    let sidecars = [&shop, &gone, &caller.sidecar];
    for sidecar in sidecars {
        secrets.key(&sidecar.state.join("identity.pem"));
        let settings: Value =
            serde_json::from_slice(&std::fs::read(sidecar.state.join("settings.json")).unwrap()).unwrap();
        let password = settings["outbound"]["credentials"]["password"].as_str().expect("weft run sets credentials");
        secrets.text("a password of an explicit listener", password);
    }
    for command in [
        &["identity", "show", "-o", "json"][..],
        &["token", "list", "-o", "json"],
        &["get", "workloads", "-A", "-o", "yaml"],
    ] {
        let output = mesh.weft(command);
        said.push((format!("weft {}", command.join(" ")), output.out + &output.err));
    }
    assert!(outbound.starts_with("127.0.0.1:"));

    // It finds what is there: each secret, planted in a log.
    for (what, needle) in &secrets.0 {
        let line = [b"a line of a log: ".as_slice(), needle, b"\n"].concat();
        assert!(secrets.found(&line).contains(&what.as_str()), "{what} is not found");
    }
    let planted = mesh.folder().join("planted.log");
    std::fs::write(&planted, format!("2026-01-01 cookie: session={COOKIE}\n")).unwrap();
    let leaks = |all: &[(String, Vec<u8>)]| -> Vec<String> {
        all.iter()
            .flat_map(|(place, content)| {
                secrets.found(content).into_iter().map(move |what| format!("{what} in {place}"))
            })
            .collect()
    };
    let found = leaks(&everything(&mesh, &sidecars, &said));
    assert!(found.iter().any(|leak| leak.contains("planted.log")), "what was planted is not found: {found:?}");
    std::fs::remove_file(planted).unwrap();
    // Logs are written a little later than calls are answered.
    wait_for("the access log has the calls", || {
        let log = std::fs::read_to_string(&caller.sidecar.access_log).unwrap_or_default();
        if log.contains("nowhere.test") && log.contains("/closed/1") { Ok(()) } else { Err(log) }
    });
    let all = everything(&mesh, &sidecars, &said);
    let size: usize = all.iter().map(|(_, content)| content.len()).sum();
    println!("{} places, {size} bytes, {} secrets", all.len(), secrets.0.len());
    assert!(
        all.iter().any(|(place, _)| place.ends_with("sidecar.log"))
            && all.iter().any(|(place, _)| place.ends_with("up.log"))
    );
    assert!(
        all.iter().any(|(place, _)| place.ends_with("weft.redb"))
            && all.iter().any(|(place, _)| place.ends_with("last-known-good"))
    );
    let trace = all.iter().filter(|(place, _)| place.ends_with("sidecar.log") || place.ends_with("up.log"));
    for (place, content) in trace {
        let content = String::from_utf8_lossy(content);
        assert!(content.contains("TRACE") || content.contains("DEBUG"), "{place} is not a log of everything");
    }
    let found = leaks(&all);
    assert!(found.is_empty(), "{}", found.join("\n"));
    drop(joining);
}
