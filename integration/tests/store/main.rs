//! Control planes over one etcd: one leads, the other stands by, and takes over when the first is killed while calls go on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use weft_integration::rig::etcd::Etcd;
use weft_integration::rig::stage::{Instance, Load, apply, assert_all_well, text};
use weft_integration::rig::{Mesh, Process, binary, free_port, program, run, wait_for};

fn openssl(arguments: &[&str]) {
    run(Command::new(program("openssl")).args(arguments)).ok();
}

/// Chain, key and roots of an intermediate.
fn intermediate(folder: &Path) -> [PathBuf; 3] {
    let path = |name: &str| folder.join(name);
    let [root, root_key, chain, key, request, extensions] =
        ["roots.pem", "roots.key", "chain.pem", "chain.key", "chain.csr", "chain.ext"].map(path);
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let usage = "basicConstraints=critical,CA:TRUE";
    let made =
        ["req", "-x509", "-days", "30", "-subj", "/CN=shop root", "-keyout", text(&root_key), "-out", text(&root)];
    openssl(&[&made[..], &curve, &["-addext", usage, "-addext", "keyUsage=critical,keyCertSign,cRLSign"]].concat());
    let asked = ["req", "-new", "-subj", "/CN=shop mesh", "-keyout", text(&key), "-out", text(&request)];
    openssl(&[&asked[..], &curve].concat());
    let lines = [
        &format!("{usage},pathlen:0"),
        "keyUsage=critical,keyCertSign,cRLSign",
        "subjectKeyIdentifier=hash",
        "authorityKeyIdentifier=keyid",
    ];
    std::fs::write(&extensions, lines.join("\n")).unwrap();
    let signed =
        ["x509", "-req", "-days", "20", "-in", text(&request), "-out", text(&chain), "-extfile", text(&extensions)];
    openssl(&[&signed[..], &["-CA", text(&root), "-CAkey", text(&root_key), "-CAcreateserial"]].concat());
    [chain, key, root]
}

#[test]
fn the_one_that_stands_by_takes_over_when_the_leader_is_killed_and_no_call_fails() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::single(folder.path(), [free_port(), free_port()], &["--max-txn-ops=1024"]);
    let store = format!("etcd://{}", etcd.addresses());
    let [chain, key, roots] = intermediate(folder.path());
    let shared = ["--store", &store, "--ca-chain", text(&chain), "--ca-key", text(&key), "--ca-roots", text(&roots)];
    let mut mesh = Mesh::start_with(&shared);
    let _catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let mut load = Load::start(&mesh, "http://catalog", 50);
    load.go_on_well(50);

    // Its own directory, the same addresses, the same authority of the API.
    let second = folder.path().join("second");
    run(Command::new("mkdir").args(["-m", "700", text(&second)])).ok();
    run(Command::new("cp").args(["-a", text(&mesh.data().join("api")), text(&second)])).ok();
    let (grpc, api) = (mesh.grpc().to_string(), mesh.api().trim_start_matches("https://").to_owned());
    let mut command = Command::new(binary("weft"));
    command.args(["up", "--data-dir", text(&second), "--grpc", &grpc, "--api", &api]).args(shared);
    let mut standby = Process::start(folder.path(), "second", &mut command);
    standby.wait_for_log("standing by");
    let leads = |mesh: &Mesh| -> String {
        let output = mesh.weft(&["check", "-o", "json"]);
        let health: Value = serde_json::from_str(&output.out).unwrap_or_default();
        let checks = health["checks"].as_array().cloned().unwrap_or_default();
        let lead = checks.iter().find(|check| check["name"] == "one control plane leads");
        lead.map(|check| check["detail"].to_string()).unwrap_or_default()
    };
    assert!(leads(&mesh).contains("127.0.0.1:0"), "{}", leads(&mesh));

    mesh.kill();
    standby.wait_for_log("the control plane is up");
    load.go_on_well(100);
    // The kubeconfig of before is good: the authority of the API is the same.
    wait_for("the other one leads", || match leads(&mesh) {
        lead if lead.contains(&grpc) => Ok(()),
        other => Err(other),
    });
    for name in ["catalog-1", "load"] {
        let workload = mesh.object("workload", "shop", name);
        assert_eq!(workload["status"]["phase"], "Ready", "{workload}");
    }
    // What it is told, sidecars do.
    apply(
        &mesh,
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: catalog, namespace: shop}\n\
         spec:\n  parentRefs: [{group: '', kind: Service, name: catalog}]\n  rules: [{backendRefs: [{name: catalog, port: 80}]}]\n",
    );
    load.go_on_well(50);
    assert_all_well(&load.stop());
    assert_eq!(standby.stop(), 0);
}
