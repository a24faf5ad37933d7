//! schemathesis over everything that the API says of itself: whatever the description allows is answered, never by an error of the
//! server, and as the description says.

use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::Command;
use weft_integration::rig::{ApiPapers, Mesh, python_env, run};

/// Seconds that it may go on.
const LONGEST: &str = "45";
/// Cases of each operation.
const CASES: &str = "4";

/// The documents of all groups as one: their components have names of their own.
fn description(mesh: &Mesh) -> Value {
    let index = mesh.fetch("/openapi/v3");
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for group in index["paths"].as_object().expect("an index of groups").values() {
        let mut document = mesh.fetch(group["serverRelativeURL"].as_str().expect("each has its address"));
        for (all, part) in [(&mut paths, "/paths"), (&mut schemas, "/components/schemas")] {
            let part = document.pointer_mut(part).map(Value::take).unwrap_or_default();
            all.extend(part.as_object().expect("an object").clone());
        }
    }
    assert!(paths.len() > 40, "{}", paths.len());
    assert!(paths.contains_key("/apis/authentication.k8s.io/v1/tokenreviews"), "questions are described too");
    assert!(paths.contains_key("/weft/v1/problems"), "the pages of the mesh are described too");
    json!({
        "openapi": "3.0.0", "info": {"title": "Weft", "version": "1"}, "paths": paths, "components": {"schemas": schemas},
    })
}

#[test]
fn what_the_api_says_of_itself_is_true() {
    let mesh = Mesh::start();
    let ApiPapers { root, chain, key } = mesh.papers();
    let file = mesh.folder().join("openapi.json");
    std::fs::write(&file, description(&mesh).to_string()).unwrap();
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/openapi_hooks.py");
    let program = python_env("kubernetes").with_file_name("schemathesis");
    let mut schemathesis = Command::new(program);
    schemathesis.arg("run").arg(&file).args(["--url", mesh.api(), "--max-time", LONGEST, "--max-examples", CASES]);
    schemathesis.args(["--phases", "fuzzing", "--mode", "all", "--seed", "1", "--no-shrink", "--continue-on-failure"]);
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance";
    schemathesis.args(["--checks", checks, "--suppress-health-check", "all", "--warnings", "off"]);
    // Streams go on for as long as somebody reads them.
    schemathesis.args(["--exclude-path", "/weft/v1/live", "--exclude-path", "/weft/v1/tap"]);
    schemathesis.args(["--request-timeout", "20", "--output-truncate", "true"]);
    schemathesis.arg("--tls-verify").arg(root).arg("--request-cert").arg(chain).arg("--request-cert-key").arg(key);
    schemathesis
        .env("SCHEMATHESIS_HOOKS", hooks)
        .env("HOME", mesh.folder())
        .env("NO_PROXY", "*")
        .current_dir(mesh.folder());
    let output = run(&mut schemathesis);
    println!("{}", output.out);
    assert_eq!(output.code, 0, "{}\n{}", output.out, output.err);
}
