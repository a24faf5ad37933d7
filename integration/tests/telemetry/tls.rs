//! Spans over TLS: a receiver whose certificate is of a CA that a sidecar trusts gets them over gRPC and HTTP; one whose certificate is of
//! another gets none, and the sidecar's log says why.

use crate::receiver::Receiver;
use crate::traces::tracing;
use std::path::{Path, PathBuf};
use std::process::Command;
use weft_integration::rig::stage::{Caller, Instance, apply, services, text};
use weft_integration::rig::{Mesh, Run, program, run, wait_for};

fn openssl(arguments: &[&str]) {
    run(Command::new(program("openssl")).args(arguments)).ok();
}

/// A CA of that name: its certificate and its key.
fn authority(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    let subject = format!("/CN={name}");
    let made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"];
    let into = ["-subj", &subject, "-keyout", text(&key), "-out", text(&certificate)];
    openssl(&[&made[..], &into].concat());
    (certificate, key)
}

/// A certificate for 127.0.0.1 by that CA, and its key.
fn server(folder: &Path, (ca, ca_key): &(PathBuf, PathBuf)) -> (PathBuf, PathBuf) {
    let [request, key, certificate, names] =
        ["csr", "key", "pem", "names"].map(|end| folder.join(format!("server.{end}")));
    std::fs::write(&names, "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n").unwrap();
    let asked =
        ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=receiver"];
    openssl(&[&asked[..], &["-keyout", text(&key), "-out", text(&request)]].concat());
    let signed = ["x509", "-req", "-days", "1", "-CAcreateserial", "-in", text(&request), "-extfile", text(&names)];
    openssl(&[&signed[..], &["-CA", text(ca), "-CAkey", text(ca_key), "-out", text(&certificate)]].concat());
    (certificate, key)
}

/// A caller whose sidecar takes these for the roots of the system.
fn caller(mesh: &Mesh, name: &str, roots: &Path) -> Caller {
    let (sleep, roots) = (program("sleep"), format!("SSL_CERT_FILE={}", text(roots)));
    let (before, command, flags) = (["env", &roots], [text(&sleep), "infinity"], ["--service-account", name]);
    let what = Run { name, before: &before, command: &command, flags: &flags, ..Run::default() };
    Caller::of(mesh.run_ready(&what), "shop")
}

#[test]
fn spans_go_over_tls_to_a_receiver_that_is_trusted_and_to_no_other() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["catalog"], 80, "http");
    let _catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let (ours, theirs) = (authority(mesh.folder(), "ours"), authority(mesh.folder(), "theirs"));
    let (certificate, key) = server(mesh.folder(), &ours);
    let receiver = Receiver::start_tls(mesh.folder(), &certificate, &key);
    let (trusting, stranger) = (caller(&mesh, "trusting", &ours.0), caller(&mesh, "stranger", &theirs.0));
    for (way, endpoint, more, trace) in [
        ("grpc", &receiver.grpc, "", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("http", &receiver.http, ", protocol: Http", "5bf92f3577b34da6a3ce929d0e0e4736"),
    ] {
        assert!(endpoint.starts_with("https://"), "{endpoint}");
        apply(&mesh, &tracing(endpoint, more));
        for caller in [&trusting, &stranger] {
            caller.until("its calls are traced there", "http://catalog/items", |answer| {
                let log = std::fs::read_to_string(caller.sidecar.state.join("sidecar.log")).unwrap_or_default();
                answer.status == 200 && log.contains(&format!("calls are traced receiver={endpoint}"))
            });
            let header = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01");
            assert_eq!(caller.call("GET", "http://catalog/items", &[&header]).status, 200);
        }
        let told =
            receiver.until(trace, "its spans have come", |spans| spans.iter().any(|s| s.service() == "trusting"));
        assert!(told.iter().all(|span| span.field("way") == way), "{told:#?}");
    }
    let why = "invalid peer certificate: UnknownIssuer; SSL_CERT_FILE names the roots that receivers are verified by";
    wait_for("the other says why it delivers none", || {
        let log = std::fs::read_to_string(stranger.sidecar.state.join("sidecar.log")).unwrap_or_default();
        let line = log.lines().find(|line| line.contains("spans cannot be delivered")).ok_or(log.as_str())?;
        if line.contains(why) && line.contains("127.0.0.1") { Ok(()) } else { Err(line) }.map_err(str::to_owned)
    });
    assert!(receiver.spans().iter().all(|span| span.service() != "stranger"), "{:#?}", receiver.spans());
}
