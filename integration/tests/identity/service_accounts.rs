//! Workloads that prove who they are by the token of their service account, as the control plane's own API or another server reviews it.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;
use weft_integration::rig::stage::text;
use weft_integration::rig::{Mesh, Process, Run, binary, http_get, kubectls, program, run, wait_for};

const SHOP: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: Service\n\
                    metadata: {name: cart, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}\n---\napiVersion: v1\nkind: ServiceAccount\n\
                    metadata: {name: cart, namespace: shop, annotations: {weft.mesh/services: cart}}\n";

/// A token of `shop/cart` by the API of a control plane.
#[track_caller]
fn token(mesh: &Mesh, audience: &str) -> String {
    let kubectl = kubectls().pop().expect("a kubectl");
    let mut command = Command::new(kubectl);
    command.args(["--kubeconfig", text(&mesh.kubeconfig()), "create", "token", "cart", "-n", "shop"]);
    run(command.args(["--audience", audience])).ok().trim().to_owned()
}

/// A sidecar as a pod has it: what is mounted, and no join token.
struct Pod {
    process: Process,
    home: PathBuf,
}

impl Pod {
    fn start(mesh: &Mesh, name: &str, service: &str) -> Self {
        let home = mesh.folder().join(name);
        std::fs::create_dir_all(&home).unwrap();
        std::fs::write(home.join("roots.pem"), mesh.weft(&["identity", "bundle"]).ok()).unwrap();
        Self { process: Self::launch(mesh, &home, name, service), home }
    }

    fn launch(mesh: &Mesh, home: &Path, name: &str, service: &str) -> Process {
        let mut command = Command::new(binary("weft-proxy"));
        command.args(["--control-plane", &mesh.grpc().to_string(), "--namespace", "shop", "--service-account", "cart"]);
        command.args(["--name", name, "--service", service, "--port", "8080:http"]);
        command.args(["--state-dir", text(&home.join("state")), "--roots-file", text(&home.join("roots.pem"))]);
        command.args(["--service-account-token-file", text(&home.join("token"))]);
        for listener in ["--outbound", "--tunnel", "--admin"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        Process::start(home, "sidecar", &mut command)
    }

    fn mount(&self, token: &str) {
        let new = self.home.join("token.new");
        std::fs::write(&new, token).unwrap();
        std::fs::rename(new, self.home.join("token")).unwrap();
    }

    #[track_caller]
    fn ready(&mut self) {
        wait_for("the sidecar is ready", || {
            self.process.assert_running();
            let ready = std::fs::read(self.home.join("state/ready.json")).map_err(|e| e.to_string())?;
            let ready: Value = serde_json::from_slice(&ready).map_err(|e| e.to_string())?;
            match http_get(ready["admin"].as_str().unwrap_or_default(), "/ready")? {
                (200, _) => Ok(()),
                other => Err(format!("{other:?} {}", self.process.log())),
            }
        });
    }

    #[track_caller]
    fn refused(&mut self, why: &str) {
        assert_eq!(self.process.wait(), 1);
        let log = self.process.log();
        assert!(log.contains(why), "{log}");
    }
}

#[test]
fn a_projected_token_gets_a_workload_in_and_no_other_token_does() {
    let mesh = Mesh::start();
    mesh.apply(SHOP).ok();
    let mut pod = Pod::start(&mesh, "cart-1", "cart");
    pod.process.wait_for_log("no certificate yet");
    pod.mount(&token(&mesh, "weft.mesh"));
    pod.ready();
    let workload = mesh.object("workload", "shop", "cart-1");
    assert_eq!(workload["spec"]["services"][0], "cart", "{workload:#}");
    let records = mesh.weft(&["identity", "audit", "-o", "json"]).ok();
    let records: Value = serde_json::from_str(&records).unwrap();
    let issued =
        records["items"].as_array().unwrap().iter().find(|r| r["identity"] == "spiffe://weft.local/ns/shop/sa/cart");
    let uid = mesh.object("serviceaccount", "shop", "cart")["metadata"]["uid"].clone();
    assert_eq!(issued.unwrap()["by"]["serviceAccount"], uid, "{records:#}");

    let mut other = Pod::start(&mesh, "cart-2", "cart");
    other.mount(&token(&mesh, "vault"));
    other.refused("the service-account token is not accepted");
    let mut greedy = Pod::start(&mesh, "cart-3", "payments");
    greedy.mount(&token(&mesh, "weft.mesh"));
    greedy.refused("may not register as an endpoint of \"payments\"");

    // What was made before a revocation proves nothing after it.
    let before = token(&mesh, "weft.mesh");
    mesh.weft(&["identity", "revoke", "shop/cart-1"]).ok();
    let mut thief = Pod::start(&mesh, "cart-4", "cart");
    thief.mount(&before);
    thief.refused("after this service-account token was made");
    let seconds = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let revoked = seconds();
    wait_for("a later second", || if seconds() > revoked { Ok(()) } else { Err(String::new()) });
    let mut next = Pod::start(&mesh, "cart-5", "cart");
    next.mount(&token(&mesh, "weft.mesh"));
    next.ready();
}

#[test]
fn another_api_servers_word_counts_where_it_is_named() {
    let cluster = Mesh::start();
    cluster.apply(SHOP).ok();
    let mesh = Mesh::start_with(&["--token-review", text(&cluster.kubeconfig())]);
    mesh.apply(SHOP).ok();
    let mut pod = Pod::start(&mesh, "cart-1", "cart");
    pod.mount(&token(&cluster, "weft.mesh"));
    pod.ready();
    let mut own = Pod::start(&mesh, "cart-2", "cart");
    own.mount(&token(&mesh, "weft.mesh"));
    own.refused("the service-account token is not accepted");
    drop(cluster);
    let mut late = Pod::start(&mesh, "cart-3", "cart");
    late.mount(&token(&mesh, "weft.mesh"));
    late.process.wait_for_log("does not answer");
    pod.ready();
}

#[test]
fn weft_run_passes_a_token_of_a_service_account_on_and_makes_none_of_its_own() {
    let mesh = Mesh::start();
    mesh.apply(SHOP).ok();
    let (roots, file) = (mesh.folder().join("roots.pem"), mesh.folder().join("token"));
    std::fs::write(&roots, mesh.weft(&["identity", "bundle"]).ok()).unwrap();
    std::fs::write(&file, token(&mesh, "weft.mesh")).unwrap();
    let sleep = program("sleep");
    let cart = mesh.run_ready(&Run {
        name: "cart-1",
        services: &["cart"],
        ports: &["80:8080:http".to_owned()],
        flags: &["--service-account-token-file", text(&file), "--roots-file", text(&roots)],
        command: &[text(&sleep), "infinity"],
        ..Run::default()
    });
    let workload = mesh.object("workload", "shop", "cart-1");
    assert_eq!(workload["spec"]["serviceAccount"], "cart", "{workload:#}");
    assert!(!cart.state.join("join-token").exists());
    let tokens: Value = serde_json::from_str(&mesh.weft(&["token", "list", "-o", "json"]).ok()).unwrap();
    assert_eq!(tokens["items"].as_array().map(Vec::len), Some(0), "{tokens:#}");
    let both = mesh.weft(&[
        "run",
        "--service-account-token-file",
        "a",
        "--roots-file",
        "b",
        "--join-token-file",
        "c",
        "--",
        "true",
    ]);
    assert!(both.code == 2 && both.err.contains("cannot be used with"), "{both:?}");
}
