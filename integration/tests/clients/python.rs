//! The Python client of Kubernetes, as an operator or a script uses it.

use std::path::Path;
use std::process::Command;
use weft_integration::rig::{Mesh, python_env, run};

#[test]
fn the_python_client_of_kubernetes_lists_watches_writes_and_meets_conflicts() {
    let mesh = Mesh::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/client.py");
    let mut python = Command::new(python_env("kubernetes"));
    python.arg(script).arg(mesh.kubeconfig()).env("HOME", mesh.folder());
    let report = run(&mut python).ok();
    println!("{report}");
    for part in ["pages", "conflict", "patches", "apply", "watch", "gone", "secret", "events", "delete"] {
        assert!(report.contains(&format!("{part} ok")), "{part}: {report}");
    }
}
