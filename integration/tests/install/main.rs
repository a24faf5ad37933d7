//! `weft install` and `weft uninstall`, the Helm chart that says the same (by Helm itself), and `weft check --pre` of a cluster.
//!
//! The chart is written down in `charts/weft` and read in review (`WEFT_WRITE_GOLDEN=1` writes it anew).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod cluster;

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use weft_integration::rig::{binary, python_env, run};

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/weft")
}

pub(crate) fn weft(arguments: &[&str]) -> weft_integration::rig::Output {
    run(Command::new(binary("weft")).args(arguments))
}

/// The objects of a stream, by kind, namespace and name.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let named = documents.into_iter().filter(|document| !document.is_null()).map(|object| {
        let part = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = format!("{} {}/{}", part("/kind"), part("/metadata/namespace"), part("/metadata/name"));
        (name, object)
    });
    named.collect()
}

/// What the objects say: a text that is YAML itself counts by what it says, an empty list is none, and of definitions only Helm is told that
/// they stay.
fn read(mut all: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    fn without_empty(value: &mut Value) {
        if let Value::Object(fields) = value {
            fields.retain(|_, field| !field.is_null() && *field != json!([]));
            fields.values_mut().for_each(without_empty);
        } else if let Value::Array(items) = value {
            items.iter_mut().for_each(without_empty);
        }
    }
    for object in all.values_mut() {
        if object["kind"] == "ConfigMap" {
            for text in object["data"].as_object_mut().unwrap().values_mut() {
                *text = serde_saphyr::from_str(text.as_str().unwrap()).unwrap();
            }
        }
        if object["kind"] == "CustomResourceDefinition" {
            object["metadata"].as_object_mut().unwrap().remove("annotations");
        }
        without_empty(object);
    }
    all
}

fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder_within) = open.pop() {
        for entry in std::fs::read_dir(folder_within).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => {
                    let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                    found.insert(name, std::fs::read_to_string(&path).unwrap());
                }
            }
        }
    }
    found
}

#[test]
fn the_chart_is_the_one_that_was_reviewed() {
    if std::env::var_os("WEFT_WRITE_GOLDEN").is_some() {
        let _ = std::fs::remove_dir_all(chart());
        weft(&["install", "--chart", chart().to_str().unwrap()]).ok();
    }
    let folder = tempfile::tempdir().unwrap();
    weft(&["install", "--chart", folder.path().to_str().unwrap()]).ok();
    let (now, reviewed) = (files(folder.path()), files(&chart()));
    assert_eq!(now.keys().collect::<Vec<_>>(), reviewed.keys().collect::<Vec<_>>());
    for (name, text) in now {
        assert_eq!(text, reviewed[&name], "{name}");
    }
}

fn helm(arguments: &[&str]) -> weft_integration::rig::Output {
    // It has a home to look for plug-ins and caches in; it needs none.
    let home = tempfile::tempdir().unwrap();
    let program = python_env("helm").with_file_name("helm");
    run(Command::new(program).args(arguments).env("HOME", home.path()).env_remove("KUBECONFIG"))
}

#[test]
fn helm_renders_what_weft_install_prints() {
    let folder = tempfile::tempdir().unwrap();
    let values = folder.path().join("values.yaml");
    let said = json!({
        "image": "registry.example.com/weft:2", "imagePullPolicy": "Always", "imagePullSecrets": ["one", "two"], "replicas": 2,
        "trustDomain": "mesh.example.com", "clusterDomain": "k8s.example.com", "egress": "registered-only", "listen": "[::]",
        "log": "info,weft_control=debug", "extraArgs": ["--log-json", "--service-cidr=10.0.0.0/8"],
        "resources": {"cpuRequest": "1", "memoryRequest": "1Gi", "memoryLimit": "2Gi"},
        "nodeSelector": {"kubernetes.io/os": "linux", "disk": "yes"}, "priorityClassName": "system-cluster-critical",
        "tolerations": [{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Equal", "value": "c", "effect": "NoSchedule"}],
        "webhook": {"failurePolicy": "Ignore", "timeoutSeconds": 5},
        "injection": {"image": "registry.example.com/weft-proxy:2", "accessLog": "stdout", "excludeOutboundPorts": [3306, 6379],
            "includeOutboundCidrs": ["10.0.0.0/8"], "workers": 2, "interceptDns": false},
    });
    std::fs::write(&values, said.to_string()).unwrap();
    let revision = folder.path().join("revision.yaml");
    std::fs::write(&revision, "revision: canary\n").unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let ha = path(&chart().join("values-ha.yaml"));
    let (chart, values, revision) = (path(&chart()), path(&values), path(&revision));
    for (of_helm, of_weft, namespace) in [
        (vec![], vec![], "weft-system"),
        (vec!["-f", &ha], vec!["--ha"], "weft-system"),
        (vec!["-f", &values], vec!["-f", &values], "mesh"),
        (vec!["-f", &revision], vec!["-f", &revision], "weft-canary"),
        (
            vec!["--set", "replicas=5,injection.image=a:b"],
            vec!["--set", "replicas=5", "--set", "injection.image=a:b"],
            "weft-system",
        ),
    ] {
        let rendered = helm(&[&["template", "weft", &chart, "--namespace", namespace][..], &of_helm].concat()).ok();
        let printed = weft(&[&["install", "--namespace", namespace][..], &of_weft].concat()).ok();
        let (rendered, mut printed) = (read(objects(&rendered)), read(objects(&printed)));
        // Helm makes it itself.
        assert!(printed.remove(&format!("Namespace /{namespace}")).is_some());
        let keys = |all: &BTreeMap<String, Value>| all.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(keys(&rendered), keys(&printed), "{of_weft:?}");
        for (name, object) in &printed {
            assert_eq!(&rendered[name], object, "{of_weft:?}");
        }
    }
    let without = objects(&helm(&["template", "weft", &chart, "--set", "crds=false"]).ok());
    assert!(!without.keys().any(|name| name.starts_with("CustomResourceDefinition")), "{without:?}");
    let linted = helm(&["lint", "--strict", &chart]);
    assert_eq!(linted.code, 0, "{}{}", linted.out, linted.err);
    for (slip, word) in [
        ("replica=3", "replica"),
        ("webhook.failurePolicy=Perhaps", "failurePolicy"),
        ("injection.cpuReqest=1", "cpuReqest"),
    ] {
        let refused = helm(&["template", "weft", &chart, "--set", slip]);
        assert!(refused.code != 0 && refused.err.contains(word), "{slip}: {}", refused.err);
        let refused = weft(&["install", "--set", slip]);
        assert!(refused.code == 2 && refused.out.is_empty() && refused.err.contains(word), "{slip}: {}", refused.err);
    }
}

#[test]
fn kubernetes_schemas_take_every_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (i, flags) in
        [&["install"][..], &["install", "--ha", "--namespace", "mesh", "--set", "nodeSelector=a=b"]].iter().enumerate()
    {
        let file = folder.path().join(format!("{i}.yaml"));
        std::fs::write(&file, weft(flags).ok()).unwrap();
        files.push(file);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/injection/validate.py");
    let mut validate = Command::new(python_env("manifests"));
    validate.arg(&script).arg("1.29,1.33,1.37").args(&files);
    let count: usize = run(&mut validate).ok().trim().parse().unwrap();
    let printed = objects(&std::fs::read_to_string(&files[0]).unwrap()).len();
    assert_eq!(count, 2 * printed);
    assert_eq!(printed, 22, "8 definitions and 14 others");
}

#[test]
fn what_is_printed_is_always_the_same_and_means_the_same_to_older_readers_of_yaml() {
    let yaml = weft(&["install", "--ha"]).ok();
    assert_eq!(yaml, weft(&["install", "--ha"]).ok());
    let json: Value = serde_json::from_str(&weft(&["install", "--ha", "-o", "json"]).ok()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("install.yaml");
    std::fs::write(&file, yaml).unwrap();
    // YAML 1.1, to which `off` and `on` are no texts: what kubectl reads.
    let program = "import json, sys, yaml; print(json.dumps([d for d in yaml.safe_load_all(open(sys.argv[1])) if d]))";
    let mut python = Command::new(python_env("manifests"));
    let old: Value = serde_json::from_str(&run(python.args(["-c", program]).arg(&file)).ok()).unwrap();
    assert_eq!(old, json["items"]);
    let settings = json["items"].as_array().unwrap().iter().find(|o| o["kind"] == "ConfigMap").unwrap();
    std::fs::write(&file, settings["data"]["settings.yaml"].as_str().unwrap()).unwrap();
    let program = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let mut python = Command::new(python_env("manifests"));
    let old: Value = serde_json::from_str(&run(python.args(["-c", program]).arg(&file)).ok()).unwrap();
    assert_eq!((&old["accessLog"], &old["controlPlane"]), (&json!("off"), &json!("weft-control.weft-system:15010")));
}

#[test]
fn the_control_plane_may_do_little_and_is_nobody() {
    let all = objects(&weft(&["install"]).ok());
    let pod = &all["Deployment weft-system/weft-control"]["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(
        container["securityContext"],
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
    );
    assert_eq!(
        (&pod["securityContext"]["runAsNonRoot"], &pod["securityContext"]["seccompProfile"]["type"]),
        (&json!(true), &json!("RuntimeDefault"))
    );
    assert_eq!(pod["volumes"][0]["emptyDir"]["medium"], "Memory");
    // Of secrets those of its own namespace, and nothing by a star.
    let whole = all["ClusterRole /weft-control"]["rules"].as_array().unwrap();
    for rule in whole {
        assert!(!rule.to_string().contains("\"*\"") && !rule["resources"].to_string().contains("secrets"), "{rule}");
    }
    for webhook in all["MutatingWebhookConfiguration /weft-injector"]["webhooks"].as_array().unwrap() {
        let spared = webhook["namespaceSelector"]["matchExpressions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|e| e["operator"] == "NotIn" && e["key"] == "kubernetes.io/metadata.name")
            .unwrap();
        for namespace in ["kube-system", "weft-system"] {
            assert!(spared["values"].as_array().unwrap().contains(&namespace.into()), "{webhook}");
        }
        assert!(webhook["clientConfig"].get("caBundle").is_none());
    }
}

#[test]
fn uninstall_names_everything_but_what_policies_are_made_of_and_a_namespace_of_others() {
    let installed: BTreeSet<String> = objects(&weft(&["install", "--no-crds"]).ok()).into_keys().collect();
    let removed = weft(&["uninstall"]);
    assert!(removed.err.contains("pods keep their sidecars") && removed.err.contains("weft-roots"), "{}", removed.err);
    assert_eq!(objects(&removed.out).into_keys().collect::<BTreeSet<_>>(), installed);
    // First what would have API servers wait for answers that nobody gives.
    assert!(removed.out.contains("kind: MutatingWebhookConfiguration"));
    assert!(removed.out.find("kind: MutatingWebhookConfiguration") < removed.out.find("---"), "{}", removed.out);
    let all: BTreeSet<String> = objects(&weft(&["install"]).ok()).into_keys().collect();
    assert_eq!(objects(&weft(&["uninstall", "--crds"]).out).into_keys().collect::<BTreeSet<_>>(), all);
    let elsewhere = weft(&["uninstall", "--namespace", "mesh"]);
    assert!(
        !elsewhere.out.contains("kind: Namespace") && elsewhere.err.contains("the namespace mesh"),
        "{}",
        elsewhere.err
    );
    for command in ["install", "uninstall"] {
        let refused = weft(&[command, "--namespace", "kube-system"]);
        assert!(
            refused.code == 2 && refused.out.is_empty() && refused.err.contains("is not Weft's to have"),
            "{}",
            refused.err
        );
    }
}

#[test]
fn the_root_of_an_image_holds_all_that_its_programs_load_and_no_shell() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/rootfs");
    let programs = [binary("weft"), binary("weft-proxy"), "/usr/sbin/nft".into()];
    run(Command::new(script).arg(&root).args(&programs)).ok();
    for program in &programs {
        let mut inside = Command::new(weft_integration::rig::program("chroot"));
        // As the image's user, who may write nowhere.
        inside.arg("--userspec=65532:65532").arg(&root).arg(program).arg("--version").env_clear();
        let said = run(&mut inside);
        let said = said.ok();
        assert!(said.contains(char::is_numeric), "{}: {said}", program.display());
    }
    let all = files_of(&root);
    assert!(!all.iter().any(|path| path.ends_with("bin/sh") || path.ends_with("bin/bash")), "{all:?}");
}

fn files_of(root: &Path) -> Vec<PathBuf> {
    let listed = run(Command::new("find").arg(root).args(["-type", "f"])).ok();
    listed.lines().map(PathBuf::from).collect()
}
