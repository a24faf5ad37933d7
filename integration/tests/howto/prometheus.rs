//! `docs/src/howto/prometheus.md`.

use crate::page::Page;
use weft_integration::rig::Mesh;

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
}
