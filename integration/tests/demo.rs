//! `weft demo` as a user runs it: unattended with its script, where it passes its own checks and leaves nothing behind; and
//! interrupted, where every process that it started ends. And as a shop that somebody changes for the worse.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use weft_integration::rig::stage::text;
use weft_integration::rig::{Output, Process, accepts, binary, free_port, run, wait_for};

/// Two demos at once on two cores would measure each other.
static ALONE: Mutex<()> = Mutex::new(());

/// Command lines of processes that mention `folder`: control plane, sidecars, programs.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().expect("UTF-8 path");
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(folder))
        .collect()
}

#[test]
fn the_unattended_demo_passes_its_own_checks_and_leaves_no_process_behind() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::Builder::new().prefix("weft-demo-test-").tempdir().unwrap();
    let demo = folder.path().join("demo");
    let output = Command::new(binary("weft"))
        .args(["demo", "--duration", "30s", "--output", "json", "--dir"])
        .arg(&demo)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let document: Value =
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("stdout is one JSON document: {e}\n{out}\n{err}"));
    assert_eq!(document["passed"], true, "{document:#}\n{err}");
    assert!(output.status.success(), "{err}");
    let checks = document["checks"].as_array().unwrap();
    assert!(checks.len() >= 5 && checks.iter().all(|c| c["ok"] == true && c["detail"].is_string()), "{document:#}");
    let services: Vec<&str> =
        document["services"].as_array().unwrap().iter().filter_map(|s| s["service"].as_str()).collect();
    for name in ["storefront", "catalog-v1", "catalog-v2", "orders", "inventory", "payments", "users"] {
        assert!(services.contains(&format!("shop/{name}").as_str()), "{name}: {services:?}");
    }
    wait_for("every process of the demo ends", || {
        let left = processes_of(&demo);
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
}

#[test]
fn an_interrupted_demo_stops_every_process_that_it_started() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::Builder::new().prefix("weft-demo-test-").tempdir().unwrap();
    let demo = folder.path().join("demo");
    let mut command = Command::new(binary("weft"));
    let mut process = Process::start(folder.path(), "output", command.arg("demo").arg("--dir").arg(&demo));
    process.wait_for_log("the shop is open");
    assert!(processes_of(&demo).len() > 10, "control plane, sidecars and programs run");
    process.signal(Signal::INT);
    process.wait();
    wait_for("every process of the demo ends", || {
        let left = processes_of(&demo);
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
}

#[test]
fn a_killed_demo_leaves_no_orphan() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::Builder::new().prefix("weft-demo-test-").tempdir().unwrap();
    let demo = folder.path().join("demo");
    let mut command = Command::new(binary("weft"));
    let mut process = Process::start(folder.path(), "output", command.arg("demo").arg("--dir").arg(&demo));
    process.wait_for_log("the shop is open");
    process.signal(Signal::KILL);
    process.wait();
    wait_for("every process of the demo ends", || {
        let left = processes_of(&demo);
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
}

/// Instances of the storefront in the scene of a bad change, the demo's own included: 5 % of those who call catalog are one of them.
const STOREFRONTS: usize = 20;

const ROLLOUT: &str = "apiVersion: weft.mesh/v1alpha1\nkind: MeshSettings\nmetadata: {name: default}\n\
    spec: {rollout: {percent: 5, duration: 12s}}\n";

/// A release that is announced and that nobody runs yet, and the demo's own route with all calls given to it.
const BROKEN: &str = "apiVersion: v1
kind: Service
metadata: {name: catalog-v3, namespace: shop}
spec: {ports: [{name: http, port: 80, targetPort: http, appProtocol: http}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: catalog, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: catalog, port: 80}]
  rules: [{backendRefs: [{name: catalog-v3, port: 80}]}]
";

/// A demo that runs until the test ends.
struct Shop {
    demo: Process,
    more: Vec<Process>,
    /// The last to go.
    folder: tempfile::TempDir,
}

impl Drop for Shop {
    fn drop(&mut self) {
        // All at once: each takes its leave.
        self.more.iter().for_each(|process| process.signal(Signal::TERM));
    }
}

impl Shop {
    fn open() -> Self {
        let folder = tempfile::Builder::new().prefix("weft-demo-test-").tempdir().unwrap();
        let mut command = Command::new(binary("weft"));
        let command = command.args(["demo", "--rps", "200", "--dir"]).arg(folder.path().join("demo"));
        let mut demo = Process::start(folder.path(), "output", command);
        demo.wait_for_log("the shop is open");
        Self { demo, more: Vec::new(), folder }
    }

    /// Any command, for the demo's mesh.
    fn command(&self) -> Command {
        let mut command = Command::new(binary("weft"));
        command.env("KUBECONFIG", self.folder.path().join("demo/control-plane/kubeconfig"));
        command.current_dir(self.folder.path());
        command
    }

    #[track_caller]
    fn weft(&self, arguments: &[&str]) -> Output {
        run(self.command().args(arguments))
    }

    /// `weft apply --wait`.
    #[track_caller]
    fn apply(&self, yaml: &str) -> Output {
        let file = self.folder.path().join("change.yaml");
        std::fs::write(&file, yaml).unwrap();
        self.weft(&["apply", "--wait", "--timeout", "45s", "-f", text(&file)])
    }

    /// One more storefront, as anybody runs a program in the demo's mesh.
    fn storefront(&mut self, number: usize) {
        let (name, port) = (format!("storefront-{number}"), free_port());
        let (spec, listen) = (format!("http={port}:http"), format!("127.0.0.1:{port}"));
        let mut command = self.command();
        command.args(["run", "--death", "kill", "-n", "shop", "--name", &name, "--service-account", "storefront"]);
        command.args(["--service", "storefront", "--port", &spec, "--", text(&binary("weft-shop")), "storefront"]);
        self.more.push(Process::start(self.folder.path(), &name, command.args(["--listen", &listen])));
        wait_for("the program listens", || accepts(([127, 0, 0, 1], port).into()));
    }

    fn object(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.weft(&[arguments, &["-n", "shop", "-o", "json"]].concat()).ok()).unwrap()
    }

    /// What the demo's users have seen: calls, and those that failed.
    fn users(&self) -> Result<[u64; 2], String> {
        let text = std::fs::read(self.folder.path().join("demo/load.json")).map_err(|e| e.to_string())?;
        let report: Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
        Ok(["total", "failed"].map(|count| report[count].as_u64().unwrap_or_default()))
    }

    /// Waits for so many more calls; what users saw meanwhile.
    #[track_caller]
    fn go_on(&self, calls: u64) -> [u64; 2] {
        let [total, failed] = self.users().unwrap();
        wait_for("users go on", || match self.users()? {
            [now, bad] if now >= total + calls => Ok([now - total, bad - failed]),
            [now, _] => Err(format!("{} calls", now - total)),
        })
    }
}

#[test]
fn a_change_that_breaks_a_twentieth_of_the_shop_goes_back_by_itself_and_users_hardly_notice() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut shop = Shop::open();
    (2..=STOREFRONTS).for_each(|number| shop.storefront(number));
    wait_for("every storefront takes calls", || {
        let list = shop.object(&["get", "workloads"]);
        let items = list["items"].as_array().unwrap();
        let is_ready = |item: &&Value| {
            let name = item["metadata"]["name"].as_str().unwrap_or_default();
            name.starts_with("storefront-") && item["status"]["phase"] == "Ready"
        };
        let ready = items.iter().filter(is_ready).count();
        if ready == STOREFRONTS { Ok(()) } else { Err(format!("{ready} are ready")) }
    });
    shop.apply(ROLLOUT).ok();
    // Each storefront has called catalog before.
    shop.go_on(2000);

    let before = shop.users().unwrap();
    let output = shop.apply(BROKEN);
    println!("{}", output.err);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.err.contains("RolledBack"), "{output:?}");
    let told = wait_for("an event says why", || {
        let events = shop.object(&["get", "events"]);
        let events = events["items"].as_array().unwrap();
        let is_of_route = |event: &&Value| event["involvedObject"]["kind"] == "HTTPRoute";
        let found = events.iter().filter(is_of_route).find(|event| event["reason"] == "RolledBack");
        found.cloned().ok_or_else(|| format!("{events:?}"))
    });
    assert_eq!((&told["involvedObject"]["name"], &told["type"]), (&"catalog".into(), &"Warning".into()), "{told}");
    let why = told["message"].as_str().unwrap();
    assert!(why.contains("error rate of 1 of 20 sidecars went from 0.0 % to"), "{why}");

    let after = shop.users().unwrap();
    let [total, failed] = [after[0] - before[0], after[1] - before[1]];
    println!("{why}\n{failed} of {total} calls of the demo's users failed meanwhile");
    assert!(total > 1000, "the scene took {total} calls");
    assert!(failed * 100 < total, "{failed} of {total} calls failed");
    // Nobody has it any more.
    let [calls, failed] = shop.go_on(1000);
    assert_eq!(failed, 0, "of {calls} calls after it went back");
    shop.demo.assert_running();
}
