//! The programs and what is asked of each. Every check asserts what the client got *and* that the server's sidecar saw it by mTLS.

use crate::place::{Place, Service};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use weft_integration::rig::{program, python_env, run, wait_for};

/// The sidecar of `service` counted calls or connections, every one of them mutually authenticated.
#[track_caller]
fn was_mtls(service: &Service, metric: &str) {
    wait_for(&format!("{} counted mTLS in {metric}", service.name), || {
        let all = service.sidecar.metric(metric, &["direction=\"inbound\""]);
        let mutual = service.sidecar.metric(metric, &["direction=\"inbound\"", "tls=\"mutual\""]);
        if all >= 1.0 && (all - mutual).abs() < 0.5 {
            Ok(())
        } else {
            Err(format!("{mutual} of {all} by mTLS:\n{}", service.sidecar.metrics()))
        }
    });
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// Retries a client until its server has started: the sidecar is ready before its program listens.
#[track_caller]
fn until_ok(what: &str, mut call: impl FnMut() -> weft_integration::rig::Output) -> String {
    wait_for(what, || {
        let output = call();
        if output.code == 0 {
            Ok(output.out)
        } else {
            Err(format!("code {}: {} {}", output.code, output.out, output.err))
        }
    })
}

pub fn python_http_server_and_curl(place: &Place) {
    let site = place.mesh.folder().join("site");
    std::fs::create_dir(&site).unwrap();
    std::fs::write(site.join("hello.txt"), "from python").unwrap();
    let (bind, port) = place.bind(8080);
    let python = program("python3");
    let listens = port.to_string();
    let command = [text(&python), "-m", "http.server", &listens, "--bind", bind, "--directory", text(&site)];
    let service = place.serve("web", 8080, port, "http", &command);
    let curl = program("curl");
    let body = until_ok("curl gets the file", || place.call(&[text(&curl), "-sSf", "http://web:8080/hello.txt"]));
    assert_eq!(body, "from python");
    let missing = place.call(&[text(&curl), "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://web:8080/nothing"]);
    assert_eq!(missing.ok(), "404", "the application's own 404 comes through");
    was_mtls(&service, "weft_requests_total");
}

pub fn nginx_and_curl(place: &Place) {
    let (bind, port) = place.bind(80);
    let folder = place.mesh.folder().join("nginx");
    std::fs::create_dir(&folder).unwrap();
    let at = text(&folder).to_owned();
    let configuration = folder.join("nginx.conf");
    std::fs::write(
        &configuration,
        format!(
            "daemon off; worker_processes 1; user root; pid {at}/pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off;\n\
             client_body_temp_path {at}; proxy_temp_path {at}; fastcgi_temp_path {at}; uwsgi_temp_path {at}; scgi_temp_path {at};\n\
             server {{ listen {bind}:{port}; location / {{ return 200 \"hello from nginx\\n\"; }}\n\
             location /echo {{ client_max_body_size 10m; return 200 \"$http_x_mixed_case|$request_method\"; }} }} }}"
        ),
    )
    .unwrap();
    let nginx = program("nginx");
    let service = place.serve("pages", 80, port, "http", &[text(&nginx), "-c", text(&configuration), "-p", &at]);
    let curl = program("curl");
    let body = until_ok("curl gets the page", || place.call(&[text(&curl), "-sSf", "http://pages/"]));
    assert_eq!(body, "hello from nginx\n");
    // Twenty calls over one connection, with a header that the application reads.
    let urls: Vec<&str> = std::iter::repeat_n("http://pages/echo", 20).collect();
    let mut command = vec![text(&curl), "-sSf", "-X", "POST", "-d", "x", "-H", "X-Mixed-Case: Kept"];
    command.extend(urls);
    assert_eq!(place.call(&command).ok(), "Kept|POST".repeat(20));
    was_mtls(&service, "weft_requests_total");
}

pub fn redis(place: &Place) {
    let (bind, port) = place.bind(6379);
    let server = program("redis-server");
    let listens = port.to_string();
    let folder = place.mesh.folder().join("redis");
    std::fs::create_dir(&folder).unwrap();
    let command = [
        text(&server),
        "--port",
        &listens,
        "--bind",
        bind,
        "--save",
        "",
        "--protected-mode",
        "no",
        "--dir",
        text(&folder),
    ];
    let service = place.serve("cache", 6379, port, "tcp", &command);
    let client = program("redis-cli");
    let call = |words: &[&str]| {
        place.call_tcp(&service, |host, port| {
            let mut command = vec![text(&client).to_owned(), "-h".into(), host.into(), "-p".into(), port.to_string()];
            command.extend(words.iter().map(|w| (*w).to_owned()));
            command
        })
    };
    let pong = until_ok("redis answers", || {
        let output = call(&["PING"]);
        // redis-cli exits with 0 when it cannot connect.
        if output.out.trim() == "PONG" { output } else { weft_integration::rig::Output { code: 1, ..output } }
    });
    assert_eq!(pong.trim(), "PONG");
    assert_eq!(call(&["SET", "thread", "weft"]).ok().trim(), "OK");
    assert_eq!(call(&["GET", "thread"]).ok().trim(), "weft");
    was_mtls(&service, "weft_tcp_connections_opened_total");
}

/// A folder that another user may enter and that goes away with the value.
fn open_folder(prefix: &str) -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix(prefix).tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

pub fn postgresql(place: &Place) {
    let (bind, port) = place.bind(5432);
    let folder = open_folder("weft-pg-");
    let data = folder.path().join("data");
    // PostgreSQL refuses to run as root; the package made a user for it.
    let root = rustix::process::geteuid().is_root();
    let setpriv = program("setpriv");
    let prefix = [text(&setpriv), "--reuid", "postgres", "--regid", "postgres", "--clear-groups"];
    let prefix: &[&str] = if root { &prefix } else { &[] };
    if root {
        run(Command::new("chown").arg("postgres").arg(folder.path())).ok();
    }
    let (initdb, postgres) = (program("initdb"), program("postgres"));
    let mut init: Vec<&str> = prefix.to_vec();
    init.extend([
        text(&initdb),
        "-D",
        text(&data),
        "-U",
        "postgres",
        "--auth",
        "trust",
        "--no-sync",
        "-E",
        "UTF8",
        "--locale",
        "C",
    ]);
    run(Command::new(init[0]).args(&init[1..])).ok();
    let access = "host all all 0.0.0.0/0 trust\nlocal all all trust\n";
    std::fs::write(data.join("pg_hba.conf"), access).unwrap();
    let listens = port.to_string();
    let (addresses, sockets) =
        (format!("listen_addresses={bind}"), format!("unix_socket_directories={}", text(folder.path())));
    let mut command: Vec<&str> = prefix.to_vec();
    command.extend([
        text(&postgres),
        "-D",
        text(&data),
        "-p",
        &listens,
        "-c",
        &addresses,
        "-c",
        &sockets,
        "-c",
        "fsync=off",
    ]);
    let service = place.serve("db", 5432, port, "tcp", &command);
    let psql = program("psql");
    let query = |sql: &str| {
        place.call_tcp(&service, |host, port| {
            [text(&psql), "-h", host, "-p", &port.to_string(), "-U", "postgres", "-Atc", sql]
                .map(str::to_owned)
                .to_vec()
        })
    };
    assert_eq!(until_ok("PostgreSQL answers", || query("select 6 * 7")).trim(), "42");
    let rows = query("select sum(n) from generate_series(1, 200000) as n").ok();
    assert_eq!(rows.trim(), "20000100000");
    let bulk = query("select repeat('weft', 500000)").ok();
    assert_eq!(bulk.trim().len(), 2_000_000, "two megabytes come through");
    was_mtls(&service, "weft_tcp_connections_opened_total");
}

static INSTALLING: Mutex<()> = Mutex::new(());

/// The server speaks first. `protocol` empty: nobody declared what the port speaks.
pub fn mariadb(place: &Place, name: &'static str, port: u16, protocol: &str) {
    let (bind, listens) = place.bind(port);
    let folder = open_folder("weft-maria-");
    let (install, server, client) = (program("mariadb-install-db"), program("mariadbd"), program("mariadb"));
    let data = format!("--datadir={}", text(&folder.path().join("data")));
    // Two installations at once have been seen to fail each other.
    let alone = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    run(Command::new(&install)
        .args(["--no-defaults", &data, "--auth-root-authentication-method=normal", "--skip-test-db", "--user=root"])
        .env("HOME", folder.path()))
    .ok();
    drop(alone);
    let (socket, at, bind) = (
        format!("--socket={}", text(&folder.path().join("socket"))),
        format!("--port={listens}"),
        format!("--bind-address={bind}"),
    );
    let pid = format!("--pid-file={}", text(&folder.path().join("pid")));
    // A sidecar's connection is local in one place and not in the other: the user may come from anywhere. One statement a line.
    let grant = folder.path().join("init.sql");
    let statements = ["create user 'shop'@'%'", "grant all on *.* to 'shop'@'%'", "flush privileges"];
    std::fs::write(&grant, statements.map(|s| format!("{s};\n")).concat()).unwrap();
    let init = format!("--init-file={}", text(&grant));
    let command =
        [text(&server), "--no-defaults", "--user=root", "--skip-name-resolve", &data, &socket, &at, &bind, &pid, &init];
    let service = place.serve(name, port, listens, protocol, &command);
    let query = |sql: &str| {
        place.call_tcp(&service, |host, port| {
            let port = port.to_string();
            let words = [
                text(&client),
                "--no-defaults",
                "--protocol=tcp",
                "-h",
                host,
                "-P",
                &port,
                "-u",
                "shop",
                "-N",
                "-e",
                sql,
            ];
            words.map(str::to_owned).to_vec()
        })
    };
    assert_eq!(until_ok("MariaDB answers", || query("select 6 * 7")).trim(), "42");
    let version = query("select version()").ok();
    assert!(version.contains("MariaDB"), "{version}");
    was_mtls(&service, "weft_tcp_connections_opened_total");
}

pub fn python_grpc(place: &Place) {
    let (bind, port) = place.bind(50051);
    let python = python_env("grpc");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/grpc_program.py");
    let listens = format!("{bind}:{port}");
    let service = place.serve("greeter", 50051, port, "grpc", &[text(&python), text(&script), "serve", &listens]);
    let report =
        until_ok("the gRPC client is content", || place.call(&[text(&python), text(&script), "call", "greeter:50051"]));
    for kind in
        ["unary", "server-streaming", "client-streaming", "bidirectional", "error", "large", "cancel", "deadline"]
    {
        assert!(report.contains(&format!("{kind} ok")), "{kind}: {report}");
    }
    was_mtls(&service, "weft_requests_total");
}
