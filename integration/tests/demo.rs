//! `weft demo` as a user runs it: unattended with its script, where it passes its own checks and leaves nothing behind; and
//! interrupted, where every process that it started ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use weft_integration::rig::{Process, binary, wait_for};

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
