//! Certificates that are revoked while they are in use.

use crate::join::log;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use weft_integration::rig::stage::{Caller, Instance, text};
use weft_integration::rig::{Mesh, Run, Sidecar, program, run, wait_for};

/// A service that says back what it hears, over plain TCP, whose application is the test.
fn echo(mesh: &Mesh, service: &str) -> Sidecar {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok(read @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let (sleep, ports, name) = (program("sleep"), [format!("7000:{port}:tcp")], format!("{service}-1"));
    let command = [text(&sleep), "infinity"];
    mesh.run_ready(&Run { name: &name, services: &[service], ports: &ports, command: &command, ..Run::default() })
}

/// Says something and hears it back.
fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"hello")?;
    stream.read_exact(&mut [0; 5])
}

/// Opens a connection, and goes on until the service behind it answers.
#[track_caller]
fn open(caller: &Caller, authority: &str) -> TcpStream {
    wait_for("bytes come back", || {
        let mut stream = caller.connect(authority);
        exchange(&mut stream).map(|()| stream).map_err(|e| e.to_string())
    })
}

/// How long it takes until the other side ends a connection, a second at most.
#[track_caller]
fn ends(stream: &mut TcpStream, since: Instant) -> Duration {
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    match stream.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
        other => panic!("still open after {:?}: {other:?}", since.elapsed()),
    }
    since.elapsed()
}

fn revoked(mesh: &Mesh) -> Value {
    serde_json::from_str(&mesh.weft(&["identity", "revoked", "-o", "json"]).ok()).unwrap()
}

#[test]
fn who_is_revoked_loses_every_connection_within_a_second_and_nobody_else_loses_one() {
    let mut mesh = Mesh::start();
    let (_echo, _vault) = (echo(&mesh, "echo"), echo(&mesh, "vault"));
    let catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let (thief, honest) = (Caller::start(&mesh, "shop", "thief"), Caller::start(&mesh, "shop", "honest"));
    let url = "http://catalog/items";
    for caller in [&thief, &honest] {
        caller.until("the catalog answers", url, |answer| answer.status == 200);
    }
    // One that the thief made, one that others made to somebody who will be revoked, and one that concerns neither.
    let (mut made, mut taken, mut others) =
        (open(&thief, "echo:7000"), open(&honest, "vault:7000"), open(&honest, "echo:7000"));

    let said = mesh.weft(&["identity", "revoke", "shop/thief", "--reason", "keyCompromise"]).ok();
    let since = Instant::now();
    println!("{said}as a client: cut after {:?}", ends(&mut made, since));
    assert!(said.contains("of spiffe://weft.local/ns/shop/sa/thief revoked"), "{said}");
    exchange(&mut taken).unwrap();
    let said = mesh.weft(&["identity", "revoke", "spiffe://weft.local/ns/shop/sa/vault"]).ok();
    let since = Instant::now();
    println!("{said}as a server: cut after {:?}", ends(&mut taken, since));
    exchange(&mut others).expect("who was not revoked keeps what is open");

    // New connections: the side that refuses and the one that is refused both say why.
    let answer = thief.until("the thief is refused", url, |a| a.header("weft-error") == Some("certificate-revoked"));
    assert!(answer.status == 502 && answer.body.contains("certificate revoked"), "{answer:?}");
    assert_eq!(honest.get(url).status, 200);
    wait_for("both sides count it", || {
        let refused = catalog.sidecar.metric("weft_refused_total", &["inbound", "certificate_revoked"]);
        let attempts = thief.sidecar.metrics();
        let told = attempts.lines().any(|line| line.contains("certificate_revoked") && !line.ends_with(" 0"));
        if refused > 0.0 && told { Ok(()) } else { Err(format!("{refused} {told}")) }
    });
    assert!(log(&catalog.sidecar).contains("certificate revoked"));
    wait_for("the access log says why", || {
        let lines = thief.sidecar.access();
        let said = lines.iter().any(|line| line["reason"] == "certificate_revoked");
        if said { Ok(()) } else { Err(format!("{:?}", lines.last())) }
    });
    wait_for("the thief's sidecar knows it", || {
        let said = log(&thief.sidecar);
        if said.contains("this workload's certificate was revoked") { Ok(()) } else { Err(said) }
    });

    let listed = revoked(&mesh);
    let items = listed["items"].as_array().unwrap();
    assert_eq!(items.len(), 2, "{listed:#}");
    let entry = items.iter().find(|one| one["identity"].as_str().unwrap().ends_with("/thief")).unwrap();
    assert_eq!(entry["reason"], "keyCompromise");
    let table = mesh.weft(&["identity", "revoked"]).ok();
    assert!(table.contains(entry["serial"].as_str().unwrap()) && table.contains("keyCompromise"), "{table}");
    // The list is one that others read.
    let file = mesh.folder().join("list.pem");
    std::fs::write(&file, listed["lists"].as_str().unwrap()).unwrap();
    let shown = run(Command::new(program("openssl")).args(["crl", "-noout", "-text", "-in", text(&file)])).ok();
    let serial = entry["serial"].as_str().unwrap().to_ascii_uppercase();
    assert!(shown.contains(&serial) && shown.contains("Key Compromise"), "{shown}");

    // It outlives the control plane, and while there is none it holds too.
    mesh.kill();
    assert_eq!(thief.get(url).status / 100, 5);
    assert_eq!(honest.get(url).status, 200);
    mesh.up(&[]);
    assert_eq!(revoked(&mesh)["items"], listed["items"]);
    assert_eq!(thief.get(url).status / 100, 5);
    exchange(&mut others).unwrap();

    // A join token lets it back: `weft run` makes one.
    drop(thief);
    let back = Caller::start(&mesh, "shop", "thief");
    back.until("it is back with another certificate", url, |answer| answer.status == 200);
    let again = mesh.weft(&["identity", "revoke", entry["serial"].as_str().unwrap()]);
    assert!(again.code != 0 && again.err.contains("revoked already"), "{again:?}");
}
