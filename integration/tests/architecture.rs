//! The plan of the house, asserted: which crate may know which, what must not be in the sidecar's tree, and that every source
//! file says on its first line what lives in it. The plan itself is in `docs/src/design/architecture.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test says what is wrong")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Doors: crate → workspace crates it may use. Development dependencies count too, except those of `weft-integration`, which knows everyone.
const DOORS: &[(&str, &[&str])] = &[
    ("weft-proto", &[]),
    ("weft-certs", &[]),
    ("weft-policy", &["weft-proto"]),
    ("weft-codec", &[]),
    ("weft-resident", &[]),
    ("weft-proxy", &["weft-codec", "weft-resident", "weft-policy", "weft-certs", "weft-proto"]),
    ("weft-control", &["weft-codec", "weft-resident", "weft-policy", "weft-certs", "weft-proto"]),
    ("weft-cli", &["weft-control", "weft-policy", "weft-certs", "weft-proto"]),
    ("weft-integration", &["weft-cli", "weft-control", "weft-proxy", "weft-policy", "weft-certs", "weft-proto"]),
    // What measures the mesh shares nothing with it.
    ("weft-load", &[]),
];

/// What the sidecar must build without: the control plane's heavy dependencies.
const NOT_IN_THE_SIDECAR: &[&str] =
    &["kube", "kube-client", "k8s-openapi", "gateway-api", "etcd-client", "redb", "axum-server", "rust-embed"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("integration/ is in the workspace").to_path_buf()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

#[test]
fn crates_use_only_the_doors_of_the_plan() {
    let metadata: serde_json::Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"])).unwrap();
    let used: BTreeMap<String, BTreeSet<String>> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let uses = package["dependencies"].as_array().unwrap().iter();
            let ours = uses.filter_map(|d| d["name"].as_str()).filter(|name| name.starts_with("weft-"));
            (package["name"].as_str().unwrap().to_owned(), ours.map(str::to_owned).collect())
        })
        .collect();
    let plan: BTreeSet<&str> = DOORS.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        used.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        plan,
        "a crate is missing from the plan, or from the workspace"
    );
    for (name, allowed) in DOORS {
        for other in &used[*name] {
            assert!(allowed.contains(&other.as_str()), "{name} uses {other}, and the plan has no such door");
        }
    }
}

#[test]
fn the_sidecar_builds_and_tests_without_kubernetes_store_or_dashboard() {
    let tree = cargo(&["tree", "-p", "weft-proxy", "-e", "normal,build,dev", "--prefix", "none", "--locked"]);
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains("weft-policy"), "cargo tree printed something else: {tree}");
    for name in NOT_IN_THE_SIDECAR {
        assert!(!names.contains(name), "{name} is in the sidecar's tree");
    }
}

#[test]
fn the_data_path_has_no_hyper_in_it() {
    let proxy = root().join("proxy/src");
    for path in [sources(&proxy), sources(&root().join("proxy/codec/src"))].concat() {
        let text = std::fs::read_to_string(&path).unwrap();
        // tonic's connector wants hyper-util's IO adapter; only the rooms that speak gRPC may name it.
        let grpc = ["discovery", "identity", "telemetry/spans", "admin/app_probe.rs"]
            .iter()
            .any(|room| path.starts_with(proxy.join(room)));
        assert!(grpc || !(text.contains("hyper::") || text.contains("hyper_util::")), "{} names hyper", path.display());
        let exchange = path.starts_with(proxy.join("exchange"));
        assert!(
            !exchange || !text.contains("h2::"),
            "{}: the protocols of the wire stay behind weft-codec",
            path.display()
        );
    }
}

#[test]
fn every_source_file_opens_by_saying_what_lives_in_it() {
    let bare: Vec<_> = ["proto", "certs", "proxy", "control-plane", "integration"]
        .iter()
        .flat_map(|room| sources(&root().join(room)))
        .filter(|path| !std::fs::read_to_string(path).unwrap().starts_with("//! "))
        .collect();
    assert!(bare.is_empty(), "these do not open with `//! `: {bare:?}");
}

/// Every `.rs` file under `folder`, build output and installed packages left out.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != "node_modules" {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}
