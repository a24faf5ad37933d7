//! What the how-to pages of the book show is accepted as it stands.

use super::tests::{LastGood, compile, world};
use std::collections::BTreeSet;
use std::path::Path;

/// Services that pages take for granted.
const SERVICES: [&str; 16] = [
    "catalog",
    "catalog-v1",
    "catalog-v2",
    "catalog-cache",
    "orders",
    "orders-next",
    "orders-blue",
    "orders-green",
    "inventory",
    "payments",
    "recommendations",
    "cart",
    "storefront",
    "storefront-a",
    "storefront-b",
    "users",
];

#[test]
fn every_example_of_the_how_to_pages_is_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/howto");
    let (mut pages, mut failed) = (BTreeSet::new(), Vec::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let page = path.file_stem().unwrap().to_str().unwrap().to_owned();
        for example in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("\n```").next()) {
            // Settings of a sidecar are not for the control plane.
            if !example.contains("apiVersion:") {
                continue;
            }
            pages.insert(page.clone());
            let mut all = example.to_owned();
            for name in SERVICES {
                all.push_str(&format!(
                    "\n---\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80}}]}}"
                ));
            }
            let (output, _) = compile(&world(&all), &LastGood::default());
            for verdict in &output.verdicts {
                let bad = verdict.parents.iter().flat_map(|parent| &parent.conditions);
                for condition in bad.filter(|c| matches!(c.r#type, "Accepted" | "ResolvedRefs") && !c.status) {
                    failed.push(format!("{page}: {}: {condition:?}", verdict.name));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    let shown = [
        "ab-tests",
        "authorization",
        "blue-green",
        "breakers",
        "canary",
        "egress",
        "fallback",
        "faults",
        "mirroring",
        "policy",
        "rate-limits",
        "retries",
        "rollouts",
    ];
    assert!(shown.iter().all(|page| pages.contains(*page)), "{pages:?}");
}
