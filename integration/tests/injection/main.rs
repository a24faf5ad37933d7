//! `weft inject` and `weft uninject` on pods in the shapes of well-known charts: what comes out is written down and read in review
//! (`corpus/*.injected.yaml`; `WEFT_WRITE_GOLDEN=1` writes it anew), and Kubernetes' own schemas take it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use weft_integration::rig::{binary, python_env, run};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/injection/corpus")
}

/// The files of the corpus as somebody wrote them.
fn files() -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| {
        file.extension().is_some_and(|e| e == "yaml") && !file.to_str().unwrap().ends_with(".injected.yaml")
    });
    files.sort();
    files
}

fn weft(what: &str, file: &Path) -> (String, String) {
    let output = run(Command::new(binary("weft")).arg(what).arg(file));
    assert_eq!(output.code, 0, "{}: {}", file.display(), output.err);
    (output.out, output.err)
}

fn objects(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

#[test]
fn pods_of_well_known_shapes_come_out_as_it_was_reviewed_and_injecting_again_changes_no_byte() {
    let (mut injected, mut skipped) = (0, 0);
    for file in files() {
        let (out, said) = weft("inject", &file);
        injected += said.lines().filter(|line| line.ends_with(": injected")).count();
        skipped += said.lines().filter(|line| line.contains(": skipped: ")).count();
        assert!(!said.contains("comments in them are lost"), "{}: {said}", file.display());
        let golden = file.with_extension("injected.yaml");
        if std::env::var_os("WEFT_WRITE_GOLDEN").is_some() {
            std::fs::write(&golden, &out).unwrap();
        }
        assert_eq!(out, std::fs::read_to_string(&golden).unwrap(), "{}", golden.display());
        let (again, said) = weft("inject", &golden);
        assert_eq!(again, out, "{}", golden.display());
        assert!(!said.contains(": injected"), "{said}");
        // Every comment is where it was: after the same text.
        let before = std::fs::read_to_string(&file).unwrap();
        for line in before.lines().filter(|line| line.trim_start().starts_with('#')) {
            assert!(out.lines().any(|have| have == line), "{}: {line}", file.display());
        }
    }
    assert!(injected + skipped >= 40 && skipped == 6, "{injected} injected, {skipped} skipped");
}

#[test]
fn taking_sidecars_out_again_leaves_what_was_written() {
    for file in files() {
        let folder = tempfile::tempdir().unwrap();
        let injected = folder.path().join("injected.yaml");
        std::fs::write(&injected, weft("inject", &file).0).unwrap();
        let (restored, _) = weft("uninject", &injected);
        let written = std::fs::read_to_string(&file).unwrap();
        assert_eq!(objects(&restored), objects(&written), "{}", file.display());
    }
}

#[test]
fn kubernetes_schemas_take_every_manifest() {
    // The first with native sidecars on by default, and the newest that the package knows.
    let mut validate = Command::new(python_env("manifests"));
    validate.arg(corpus().with_file_name("validate.py")).arg("1.29,1.33,1.37");
    validate.args(files().iter().map(|file| file.with_extension("injected.yaml")));
    let count: usize = run(&mut validate).ok().trim().parse().unwrap();
    assert!(count >= 40, "{count}");
    // A validator that takes everything would say nothing.
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.yaml");
    let text = std::fs::read_to_string(corpus().join("web.injected.yaml")).unwrap();
    std::fs::write(&wrong, text.replace("volumeMounts:", "volumeMount:")).unwrap();
    let mut validate = Command::new(python_env("manifests"));
    validate.arg(corpus().with_file_name("validate.py")).arg("1.33").arg(&wrong);
    let refused = run(&mut validate);
    assert!(refused.code != 0 && refused.err.contains("volumeMount"), "{}", refused.err);
}

#[test]
fn who_gets_no_sidecar_hears_why() {
    let (out, said) = weft("inject", &corpus().join("skipped.yaml"));
    for (of, why) in [
        ("DaemonSet/node-exporter", "spec.hostNetwork is true"),
        ("Deployment/opted-out", "the pod says weft.mesh/inject: disabled"),
        ("Deployment/opted-out-by-label", "the pod says weft.mesh/inject: disabled"),
        ("Deployment/windows", "spec.os.name is windows"),
        ("Pod/of-istio", "the sidecar istio-proxy of another mesh"),
        ("Pod/of-linkerd", "the sidecar linkerd-proxy of another mesh"),
    ] {
        let line = said.lines().find(|line| line.starts_with(&format!("{of}: "))).unwrap();
        assert!(line.contains("skipped: ") && line.contains(why), "{line}");
    }
    assert_eq!(out, std::fs::read_to_string(corpus().join("skipped.yaml")).unwrap());
}

#[test]
fn one_mistake_and_nothing_is_printed_but_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.yaml");
    let good = "apiVersion: v1\nkind: Pod\nmetadata: {name: cart}\nspec: {containers: [{name: a, image: b}]}\n";
    let bad = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: orders}\nspec:\n  template:\n    metadata:\n      annotations:\n        \
               config.weft.mesh/proxy-uid: root\n    spec: {containers: [{name: a, image: b}]}\n";
    std::fs::write(&file, format!("{good}---\n{bad}")).unwrap();
    let refused = run(Command::new(binary("weft")).arg("inject").arg("-f").arg(&file));
    assert_eq!((refused.code, refused.out.as_str()), (1, ""), "{}", refused.err);
    let place = "shop.yaml#2: Deployment/orders: spec.template.metadata.annotations[config.weft.mesh/proxy-uid]: \"root\" is no number";
    assert!(refused.err.contains(place) && refused.err.contains("hint: nothing was printed"), "{}", refused.err);
    std::fs::write(&file, "{\"kind\": ").unwrap();
    let refused = run(Command::new(binary("weft")).arg("inject").arg(&file));
    assert_eq!((refused.code, refused.out.as_str()), (2, ""), "{}", refused.err);
}

#[test]
fn json_stays_json_and_flags_and_settings_reach_the_sidecar() {
    let folder = tempfile::tempdir().unwrap();
    let (file, settings) = (folder.path().join("pod.json"), folder.path().join("settings.yaml"));
    std::fs::write(&file, r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"cart"},"spec":{"containers":[{"name":"a","image":"b"}]}}"#)
        .unwrap();
    std::fs::write(&settings, "cpuRequest: 50m\nexcludeOutboundPorts: [3306]\n").unwrap();
    let flags = ["--image", "example.com/weft-proxy:2", "--control-plane", "192.0.2.1:15010", "--settings"];
    let out = run(Command::new(binary("weft")).arg("inject").args(flags).arg(&settings).arg(&file)).ok();
    let pod: Value = serde_json::from_str(&out).unwrap();
    let [rules, sidecar] = [0, 1].map(|i| pod["spec"]["initContainers"][i].clone());
    assert_eq!(sidecar["image"], "example.com/weft-proxy:2");
    assert_eq!(sidecar["resources"]["requests"]["cpu"], "50m");
    assert!(sidecar["args"].as_array().unwrap().contains(&"192.0.2.1:15010".into()), "{sidecar}");
    assert!(rules["args"].to_string().contains(r#""--exclude-outbound-ports","3306""#), "{rules}");
    std::fs::write(&settings, "cpuReqest: 50m\n").unwrap();
    let refused = run(Command::new(binary("weft")).arg("inject").arg("--settings").arg(&settings).arg(&file));
    assert!(refused.code == 2 && refused.err.contains("cpuReqest"), "{}", refused.err);
}
