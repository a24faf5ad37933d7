//! `docs/src/howto/prometheus.md`.

use crate::page::Page;
use std::process::Command;
use weft_integration::rig::stage::text;
use weft_integration::rig::{Mesh, program, run};

#[test]
fn prometheus_takes_the_rules_and_grafana_the_dashboard() {
    let mesh = Mesh::start();
    let mut page = Page::open("prometheus", &mesh);
    page.file();
    page.file();
    let said = page.run();
    assert!(said.contains("SUCCESS") && said.contains("rules found"), "{said}");
    let dashboard = std::fs::read(mesh.folder().join("weft-dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_slice(&dashboard).unwrap();
    assert_eq!(dashboard["title"], "Weft");

    // Whom the role was given to reads the control plane's own, with a token, and nothing else.
    page.file();
    page.run();
    let (papers, api) = (mesh.papers(), mesh.api());
    let curl = |path: &str, more: &[&str]| {
        let common = ["-sS", "--noproxy", "*", "--max-time", "20", "-w", "%{stderr}%{http_code}", "--cacert"];
        let url = format!("{api}{path}");
        run(Command::new(program("curl")).args(common).arg(&papers.root).args(more).arg(url))
    };
    let ask = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}"#;
    let admin =
        ["--cert", text(&papers.chain), "--key", text(&papers.key), "-H", "Content-Type: application/json", "-d", ask];
    let made = curl("/api/v1/namespaces/default/serviceaccounts/prometheus/token", &admin);
    let made: serde_json::Value = serde_json::from_str(&made.out).unwrap();
    let token = format!("Authorization: Bearer {}", made["status"]["token"].as_str().unwrap());
    let told = curl("/metrics", &["-H", &token]);
    assert!(told.err.trim() == "200" && told.out.contains("\nweft_control_generation "), "{} {}", told.err, told.out);
    assert_eq!(curl("/weft/v1/stat", &["-H", &token]).err.trim(), "403");
}
