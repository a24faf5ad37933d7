//! The columns that `kubectl get` shows of a kind where an API server makes the table: those of [`column`](crate::kinds::column) as far
//! as a JSONPath can say them.
//!
//! Of a path with several results an API server shows the first only, so that lists of plain values are shown whole and of references
//! the first one's name.

use serde_json::{Value, json};

use crate::kinds::{column::Cell, registry::Kind};

/// Heading of a column, the kind it is of (any where empty), type and JSONPath.
const PATHS: &[(&str, &str, &str, &str)] = &[
    ("Accepted", "", "string", ".status.conditions[?(@.type==\"Accepted\")].status"),
    ("Account", "", "string", ".spec.serviceAccount"),
    ("Action", "", "string", ".spec.action"),
    ("Address", "", "string", ".spec.address"),
    ("Egress", "", "string", ".spec.egress"),
    ("Issuers", "", "string", ".spec.rules[*].issuer"),
    ("Keys", "", "string", ".status.conditions[?(@.type==\"JwksFetched\")].status"),
    ("Limits", "", "string", ".spec.limits[*].name"),
    ("Mode", "", "string", ".spec.mode"),
    ("Phase", "", "string", ".status.phase"),
    ("Ports", "MeshTLS", "string", ".spec.ports"),
    ("Ports", "Workload", "string", ".spec.ports[*].port"),
    ("Rollout", "", "string", ".spec.rollout"),
    ("Services", "", "string", ".spec.services"),
    ("Targets", "", "string", ".spec.targetRefs[*].name"),
    ("Trust-Domain", "", "string", ".spec.trustDomain"),
    ("Tunnel", "", "string", ".spec.tunnel"),
    ("Zone", "", "string", ".spec.zone"),
];
/// Headings of counts, for which JSONPath has no word.
const COUNTS: &[&str] = &["Rules"];

/// `additionalPrinterColumns` of a kind.
pub(super) fn of(kind: &Kind) -> Vec<Value> {
    let columns = kind.columns.iter().filter(|column| !COUNTS.contains(&column.name));
    columns
        .filter_map(|column| {
            let known =
                |entry: &&(&str, &str, &str, &str)| entry.0 == column.name && ["", kind.kind].contains(&entry.1);
            let (of, path) = match column.cell {
                Cell::Age => ("date", ".metadata.creationTimestamp"),
                _ => PATHS.iter().find(known).map(|(_, _, of, path)| (*of, *path))?,
            };
            Some(json!({ "name": column.name, "type": of, "jsonPath": path, "priority": column.priority }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{self, GROUP};

    #[test]
    fn every_column_has_a_path_unless_it_is_a_count() {
        for kind in kinds::all().iter().filter(|kind| kind.group == GROUP) {
            let shown: Vec<_> = of(kind).iter().map(|column| column["name"].clone()).collect();
            let wanted = kind.columns.iter().filter(|column| !COUNTS.contains(&column.name));
            assert_eq!(shown, wanted.map(|column| Value::from(column.name)).collect::<Vec<_>>(), "{}", kind.kind);
        }
    }
}
