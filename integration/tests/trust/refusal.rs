//! Callers that a sidecar must refuse at its mTLS listener, made with openssl as a stranger would: each gets nothing, and the sidecar's
//! log and metrics say why.

use crate::frames::{Met, Raw};
use crate::peer::{Peer, block, id};
use crate::stage::{DOMAIN, PORT, StandIn, text};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use weft_certs::tls::ALPN_HBONE;
use weft_certs::{ApiCa, MeshCa, Svid};
use weft_integration::rig::{DEADLINE, Mesh, Output, program, run, wait_for};

/// A mesh with the sidecar of `cart`.
struct Door {
    cart: StandIn,
    // Dropped last: the sidecar is of it.
    mesh: Mesh,
}

impl Door {
    fn new() -> Self {
        let mesh = Mesh::start();
        let cart = StandIn::start(&mesh, "cart", "http");
        Self { mesh, cart }
    }

    /// The mesh's own authority, as the control plane keeps it on disk: to sign what it would not sign.
    fn authority(&self) -> MeshCa {
        MeshCa::open(&self.mesh.data().join("identity"), &DOMAIN.parse().unwrap(), SystemTime::now()).unwrap()
    }

    /// `openssl s_client` to the mTLS listener; with an answer of the server it waits until that closes the connection.
    fn s_client(&self, arguments: &[&str]) -> Output {
        let address = self.cart.tunnel.to_string();
        let mut command = Command::new(program("openssl"));
        command.args(["s_client", "-connect", &address, "-alpn", "h2", "-ign_eof", "-msg"]).args(arguments);
        run(&mut command)
    }

    /// Runs `attempt`, and checks that it was refused: a line of the log with `words`, a metric, and silence at the application.
    #[track_caller]
    fn refuses(&self, words: &[&str], attempt: impl FnOnce()) {
        let (lines, count) = (self.cart.log().lines().count(), self.cart.refused());
        attempt();
        let line = wait_for(&format!("the sidecar logs {words:?}"), || {
            let log = self.cart.log();
            let mut fresh = log.lines().skip(lines);
            let found = fresh.find(|line| words.iter().all(|word| line.contains(word)));
            found.map(str::to_owned).ok_or_else(|| log.lines().skip(lines).collect::<Vec<_>>().join("\n"))
        });
        eprintln!("{}", line.trim());
        assert!(line.contains("refused"), "{line}");
        wait_for("the refusal is counted", || {
            let now = self.cart.refused();
            if now > count { Ok(()) } else { Err(format!("{now} refusals, {count} before")) }
        });
        self.cart.application.assert_untouched();
    }

    /// Writes what openssl needs to present a certificate, and gives the arguments for it.
    fn present(&self, name: &str, chain: &str, key: &str) -> Vec<String> {
        let write = |suffix: &str, text: &str| -> PathBuf {
            let path = self.mesh.folder().join(format!("{name}.{suffix}"));
            std::fs::write(&path, text).unwrap();
            path
        };
        let (chain, key) = (write("pem", chain), write("key", key));
        let words = ["-cert", text(&chain), "-cert_chain", text(&chain), "-key", text(&key)];
        words.map(str::to_owned).to_vec()
    }

    fn present_svid(&self, name: &str, svid: &Svid) -> Vec<String> {
        self.present(name, &svid.chain_pem(), svid.key_pem())
    }
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// openssl's word for the alert with which the server broke off.
#[track_caller]
fn broke_off_with(output: &Output, alert: &str) {
    let all = format!("{}{}", output.out, output.err);
    assert!(all.contains(alert), "no {alert:?} in {all}");
}

#[test]
fn a_client_without_a_certificate_is_refused_and_the_log_says_why() {
    let door = Door::new();
    door.refuses(&["peer presented no certificate", "requires one"], || {
        broke_off_with(&door.s_client(&["-tls1_3"]), "certificate_required");
    });
}

#[test]
fn a_client_of_tls_1_2_is_refused_and_the_log_says_why() {
    let door = Door::new();
    door.refuses(&["TLS 1.3 only"], || {
        broke_off_with(&door.s_client(&["-tls1_2"]), "protocol_version");
    });
}

#[test]
fn certificates_of_others_are_refused_and_the_log_says_why() {
    let door = Door::new();
    let now = SystemTime::now();
    // The same name from another authority.
    let forged = MeshCa::ephemeral(&DOMAIN.parse().unwrap(), now).unwrap().issue(&id("cart"), None, now).unwrap();
    let arguments = door.present_svid("forged", &forged);
    door.refuses(&["spiffe://weft.local/ns/shop/sa/cart", "does not lead to a root"], || {
        assert_ne!(door.s_client(&words(&arguments)).code, 0);
    });
    // A good one of a mesh that nobody here knows.
    let abroad = "elsewhere.test".parse().unwrap();
    let stranger = weft_certs::SpiffeId::workload(&abroad, "shop", "cart").unwrap();
    let foreign = MeshCa::ephemeral(&abroad, now).unwrap().issue(&stranger, None, now).unwrap();
    let arguments = door.present_svid("foreign", &foreign);
    door.refuses(&["trusts no trust domain \"elsewhere.test\""], || {
        assert_ne!(door.s_client(&words(&arguments)).code, 0);
    });
    // The administrator's, which is good for the resource API and for nothing else.
    let admin = ApiCa::open(&door.mesh.data().join("api"), now).unwrap();
    let admin = admin.issue_client("admin", &["weft:admin"], None, now).unwrap();
    let arguments = door.present("admin", &admin.chain_pem(), &admin.key().to_pem());
    door.refuses(&["URI names"], || {
        assert_ne!(door.s_client(&words(&arguments)).code, 0);
    });
}

#[test]
fn an_expired_svid_is_refused_and_the_log_says_since_when() {
    let door = Door::new();
    let then = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    let expired = door.authority().issue(&id("cart"), None, then).unwrap();
    let arguments = door.present_svid("expired", &expired);
    door.refuses(&["peer's certificate expired at"], || {
        broke_off_with(&door.s_client(&words(&arguments)), "certificate_expired");
    });
    // It was the date: one of today, made in the same way, opens the workload's port.
    let authority = format!("127.0.0.1:{}", door.cart.application.port());
    let connect = |svid: Svid| {
        let peer = Peer::holding(&door.mesh, svid, &door.authority());
        block(async {
            let tls = peer.dial(door.cart.tunnel, &id("cart"), &[ALPN_HBONE], None).await?;
            Raw::open(tls).await?.request(&[(":method", b"CONNECT"), (":authority", authority.as_bytes())], false).await
        })
    };
    let (then, now) =
        (door.authority().issue(&id("cart"), None, then), door.authority().issue(&id("cart"), None, SystemTime::now()));
    assert!(!matches!(connect(then.unwrap()), Ok(Met::Status(_))));
    assert_eq!(connect(now.unwrap()).unwrap(), Met::Status(200));
}

#[test]
fn a_client_that_speaks_plaintext_is_refused_and_the_log_says_why() {
    let door = Door::new();
    let requests = [
        format!("GET / HTTP/1.1\r\nHost: cart:{PORT}\r\nConnection: close\r\n\r\n"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_owned(),
        "SSH-2.0-stranger\r\n".to_owned(),
    ];
    for request in requests {
        door.refuses(&["takes mutual TLS only", "speaks plaintext"], || {
            let mut stream = TcpStream::connect(door.cart.tunnel).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = Vec::new();
            // A reset is a refusal as well as an end.
            let _ = stream.read_to_end(&mut answer);
            let answer = String::from_utf8_lossy(&answer);
            assert!(!answer.contains("HTTP/"), "{answer}");
        });
    }
}

#[test]
fn a_silent_client_is_let_go_and_holds_nothing_up() {
    let door = Door::new();
    let mut silent = TcpStream::connect(door.cart.tunnel).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    door.refuses(&["peer presented no certificate"], || {
        broke_off_with(&door.s_client(&["-tls1_3"]), "certificate_required");
    });
    let mut byte = [0];
    let ended = silent.read(&mut byte);
    assert!(
        matches!(ended, Ok(0)) || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset),
        "it is let go"
    );
}

#[test]
fn the_secrets_on_disk_are_their_owners_alone() {
    use std::os::unix::fs::MetadataExt;
    let door = Door::new();
    let state = &door.cart.sidecar.state;
    let mode =
        |path: &Path| std::fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).mode() & 0o777;
    assert_eq!(mode(state), 0o700);
    for name in ["identity.pem", "admin.sock", "settings.json", "sidecar.log"] {
        assert_eq!(mode(&state.join(name)), 0o600, "{name}");
    }
    assert!(!state.join("join-token").exists(), "a join token does not outlive the join");
    let log = door.cart.log() + &door.cart.sidecar.process.log();
    assert!(!log.contains("weft-join.") && !log.contains("PRIVATE KEY"), "{log}");
    let listeners = [door.cart.outbound, door.cart.tunnel, door.cart.admin];
    assert!(listeners.iter().all(|address| address.ip().is_loopback()), "{listeners:?}");
}
