//! The resource API's door, tried with curl: anonymous callers, SVIDs, certificates of nobody's authority, certificates of no group, and
//! names and origins that are not the API's own.

use crate::peer::{Peer, block};
use crate::stage::text;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;
use weft_certs::{ApiCa, Credential};
use weft_integration::rig::{ApiPapers, DEADLINE, Mesh, program, run};

/// A client certificate and its key in files.
struct Papers {
    chain: PathBuf,
    key: PathBuf,
}

/// A control plane, its API's root and the administrator's papers, both out of the kubeconfig.
struct Api {
    mesh: Mesh,
    root: PathBuf,
    admin: Papers,
}

/// The group of those who may do everything, as Kubernetes has it.
const ADMINISTRATORS: &str = "system:masters";
const NAMESPACES: &str = "/api/v1/namespaces";
/// What there is to see, and what only a health check or `kubectl version` needs.
const CLOSED: [&str; 15] = [
    "/",
    "/api",
    "/apis",
    "/openapi/v3",
    NAMESPACES,
    "/api/v1/namespaces/default/services",
    "/apis/weft.mesh/v1alpha1/workloads",
    "/apis/gateway.networking.k8s.io/v1/httproutes?watch=true",
    "/weft/v1/tokens",
    "/weft/v1/stat",
    "/weft/v1/fleet",
    "/weft/v1/check",
    "/version/../api",
    "//livez",
    "/metrics",
];
/// What there is to ask for, without any of it: whoever is known may read that.
const DESCRIBED: [&str; 4] = ["/", "/api", "/apis", "/openapi/v3"];
const OPEN: [&str; 3] = ["/livez", "/readyz", "/version"];

impl Api {
    fn start() -> Self {
        let mesh = Mesh::start();
        let ApiPapers { root, chain, key } = mesh.papers();
        Self { mesh, root, admin: Papers { chain, key } }
    }

    fn papers(&self, name: &str, chain: &str, key: &str) -> Papers {
        let write = |suffix: &str, content: &str| -> PathBuf {
            let path = self.mesh.folder().join(format!("{name}.{suffix}"));
            std::fs::write(&path, content).unwrap();
            path
        };
        Papers { chain: write("pem", chain), key: write("key", key) }
    }

    fn credential(&self, name: &str, credential: &Credential) -> Papers {
        self.papers(name, &credential.chain_pem(), &credential.key().to_pem())
    }

    /// curl's exit code, the HTTP status (0: there was no answer) and the body.
    fn curl(&self, papers: Option<&Papers>, arguments: &[&str], path: &str) -> (i32, u16, String) {
        let mut command = Command::new(program("curl"));
        command.args(["-sS", "--noproxy", "*", "--path-as-is", "--max-time", "20", "--cacert", text(&self.root)]);
        if let Some(papers) = papers {
            command.args(["--cert", text(&papers.chain), "--key", text(&papers.key)]);
        }
        command.args(["-w", "\n%{http_code}"]).args(arguments).arg(format!("{}{path}", self.mesh.api()));
        let output = run(&mut command);
        let (body, status) = output.out.rsplit_once('\n').unwrap_or((&output.out, "0"));
        (output.code, status.parse().unwrap_or_default(), format!("{body}{}", output.err))
    }

    #[track_caller]
    fn expect(&self, papers: Option<&Papers>, arguments: &[&str], path: &str, wanted: &[u16]) -> String {
        let (_, status, body) = self.curl(papers, arguments, path);
        assert!(wanted.contains(&status), "{arguments:?} {path}: {status}, wanted {wanted:?}: {body}");
        body
    }
}

const WRITE: [&str; 5] = ["-X", "POST", "-H", "Content-Type: application/json", "-d"];
const NAMESPACE: &str = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"thief"}}"#;

#[test]
fn without_a_certificate_there_is_health_and_the_version_and_nothing_else() {
    let api = Api::start();
    for version in ["--http1.1", "--http2"] {
        for path in OPEN {
            api.expect(None, &[version], path, &[200]);
        }
        for path in CLOSED {
            let body = api.expect(None, &[version], path, &[401]);
            assert!(!body.contains("weft.mesh") && !body.contains("\"items\""), "{path}: {body}");
        }
    }
    for path in OPEN.iter().chain(&CLOSED) {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            api.expect(None, &["-X", method, "-H", "Content-Type: application/json", "-d", "{}"], path, &[401, 405]);
        }
    }
    let [flags @ .., last] = WRITE;
    let write: Vec<&str> = flags.into_iter().chain([last, NAMESPACE]).collect();
    let body = api.expect(None, &write, NAMESPACES, &[401]);
    eprintln!("{body}");
    // Credentials of another kind are none.
    for header in ["Authorization: Bearer admin", "Authorization: Basic YWRtaW46YWRtaW4=", "X-Remote-User: admin"] {
        api.expect(None, &["-H", header], NAMESPACES, &[401]);
    }
    // With the administrator's papers the same is answered, so it was the papers.
    api.expect(Some(&api.admin), &write, NAMESPACES, &[201]);
    api.expect(Some(&api.admin), &[], "/weft/v1/tokens", &[200]);
}

#[test]
fn an_svid_opens_nothing_at_the_api() {
    let api = Api::start();
    let peer = block(Peer::join(&api.mesh, "cart"));
    let svid = weft_certs::Svid::new(peer.chain.clone(), &peer.key).unwrap();
    let papers = api.papers("svid", &svid.chain_pem(), svid.key_pem());
    for path in OPEN.iter().chain(&CLOSED) {
        let (code, status, body) = api.curl(Some(&papers), &[], path);
        assert!(code != 0 && status == 0, "{path}: curl ends with {code}, status {status}: {body}");
    }
    let (_, _, why) = api.curl(Some(&papers), &[], "/api");
    eprintln!("{}", why.trim());
    let log = std::fs::read_to_string(api.mesh.folder().join("up.log")).unwrap();
    let line = log.lines().find(|line| line.contains("the resource API refused a TLS handshake"));
    eprintln!("{}", line.expect("the control plane's log says why"));
}

#[test]
fn a_certificate_of_another_authority_opens_nothing() {
    let api = Api::start();
    let now = SystemTime::now();
    let other = ApiCa::ephemeral(now).unwrap().issue_client("admin", &[ADMINISTRATORS], None, now).unwrap();
    let papers = api.credential("other", &other);
    for path in CLOSED {
        let (code, status, body) = api.curl(Some(&papers), &[], path);
        assert!(code != 0 && status == 0, "{path}: curl ends with {code}, status {status}: {body}");
    }
}

#[test]
fn a_certificate_of_no_group_that_counts_opens_nothing() {
    let api = Api::start();
    let now = SystemTime::now();
    let own = ApiCa::open(&api.mesh.data().join("api"), now).unwrap();
    for (i, (user, groups)) in [
        ("clerk", &[][..]),
        ("clerk", &["weft:clerks"]),
        ("weft:admin", &[]),
        ("admin", &["weft:admins"]),
        ("admin", &["WEFT:ADMIN"]),
    ]
    .into_iter()
    .enumerate()
    {
        let papers = api.credential(&format!("clerk-{i}"), &own.issue_client(user, groups, None, now).unwrap());
        for path in CLOSED {
            let codes = if DESCRIBED.contains(&path) { &[200][..] } else { &[403, 404] };
            let body = api.expect(Some(&papers), &[], path, codes);
            assert!(!body.contains("\"items\""), "{path}: {body}");
        }
        api.expect(Some(&papers), &[], "/version", &[200]);
        let [flags @ .., last] = WRITE;
        let write: Vec<&str> = flags.into_iter().chain([last, NAMESPACE]).collect();
        api.expect(Some(&papers), &write, NAMESPACES, &[403]);
    }
    // Of the same authority with the group that counts: so it was the group.
    let papers = api.credential("deputy", &own.issue_client("deputy", &[ADMINISTRATORS], None, now).unwrap());
    api.expect(Some(&papers), &[], NAMESPACES, &[200]);
}

#[test]
fn names_and_origins_that_are_not_the_apis_own_are_refused() {
    let api = Api::start();
    let port = api.mesh.api().rsplit_once(':').unwrap().1.to_owned();
    for version in ["--http1.1", "--http2"] {
        for host in ["rebound.example", "192.0.2.1", "127.0.0.1.rebound.example", "localhost.rebound.example"] {
            for path in [NAMESPACES, "/weft/v1/tokens"] {
                let header = format!("Host: {host}:{port}");
                api.expect(Some(&api.admin), &[version, "-H", &header], path, &[403, 421]);
            }
        }
        for origin in ["https://rebound.example", "http://127.0.0.1", "null", "https://127.0.0.1:1"] {
            for path in [NAMESPACES, "/weft/v1/tokens"] {
                let header = format!("Origin: {origin}");
                api.expect(Some(&api.admin), &[version, "-H", &header], path, &[403, 421]);
            }
        }
        let own = format!("Origin: {}", api.mesh.api());
        api.expect(Some(&api.admin), &[version, "-H", &own], NAMESPACES, &[200]);
        let named = format!("Host: localhost:{port}");
        api.expect(Some(&api.admin), &[version, "-H", &named], NAMESPACES, &[200]);
    }
    // A request without any Host is nobody's; curl cannot send two.
    api.expect(Some(&api.admin), &["--http1.1", "-H", "Host;"], NAMESPACES, &[400, 403, 421]);
}

#[test]
fn plaintext_gets_no_answer() {
    let api = Api::start();
    let address = api.mesh.api().trim_start_matches("https://").to_owned();
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = format!("GET /livez HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    // The connection may end under it: that is a refusal as well.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/"), "{answer:?}");
}

#[test]
fn what_the_control_plane_keeps_is_its_owners_alone() {
    let api = Api::start();
    let mode =
        |path: &Path| std::fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).mode() & 0o777;
    let data = api.mesh.data();
    assert_eq!(mode(&api.mesh.kubeconfig()), 0o600);
    for folder in [data.clone(), data.join("identity"), data.join("api")] {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
    }
    assert_eq!(mode(&data.join("weft.redb")), 0o600);
    for folder in [data.join("identity"), data.join("api")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let secret = std::fs::read_to_string(&path).is_ok_and(|text| text.contains("PRIVATE KEY"));
            assert!(!secret || mode(&path) == 0o600, "{} is {:o}", path.display(), mode(&path));
        }
    }
    let log = std::fs::read_to_string(api.mesh.folder().join("up.log")).unwrap();
    assert!(!log.contains("PRIVATE KEY"), "{log}");
    // Not by the names of the API either: what it keeps for itself is no resource.
    for path in ["/apis/internal.weft.mesh/v1/jointokens", "/apis/internal.weft.mesh/v1alpha1/jointokens"] {
        api.expect(Some(&api.admin), &[], path, &[404]);
    }
}
