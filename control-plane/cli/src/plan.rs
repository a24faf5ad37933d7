//! `weft plan`: what a change would do to the calls of the last hour, before it is made. Nothing is written.
//!
//! Exit code 1 when a live call would be denied, or an object would be refused.

use crate::Global;
use crate::apply::read;
use crate::client::{Client, encode};
use crate::failure::{Exit, Failure};
use crate::output::{self, Format};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Flags of `weft plan`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Files and directories of resources; - is stdin
    #[arg(short, long, required = true, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// Directories within directories too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Namespace of objects without one; calls that begin or end in it are judged
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Judge calls of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    window_seconds: u64,
    calls: u64,
    changes: Vec<Change>,
    #[serde(default)]
    omitted: usize,
    edges: Vec<Edge>,
    would_deny: bool,
    objects: Vec<Object>,
    unknown: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    kind: String,
    source: Option<String>,
    destination: String,
    method: Option<String>,
    path: Option<String>,
    calls: u64,
    rps: f64,
    share: f64,
    before: String,
    after: String,
    policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Edge {
    source: Option<String>,
    destination: String,
    calls: u64,
    denied_share: f64,
    rerouted_share: f64,
    limited_share: f64,
    allowed_share: f64,
    failing_share: f64,
}

#[derive(Deserialize)]
struct Object {
    kind: String,
    name: String,
    change: Option<String>,
    problems: Vec<String>,
}

/// Asks and prints.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let documents = read(&args.filename, args.recursive)?;
    let client = Client::new(global)?;
    let namespace = client.namespace(args.namespace.as_deref());
    let items: Vec<Value> = documents
        .into_iter()
        .map(|document| {
            let mut object = document.value;
            if document.namespace.is_none()
                && let Some(metadata) = object["metadata"].as_object_mut()
            {
                // The server takes it away again from what is of the whole cluster.
                metadata.insert("namespace".to_owned(), namespace.clone().into());
            }
            object
        })
        .collect();
    // Where every object is of one namespace, a role in that one suffices.
    let own = |item: &Value| item["metadata"]["namespace"].as_str().map(str::to_owned);
    let first = items.first().and_then(own).unwrap_or(namespace);
    let one = items.iter().all(|item| own(item).is_none_or(|own| own == first));
    let path = match args.all_namespaces || !one {
        true => "/weft/v1/plan".to_owned(),
        false => format!("/weft/v1/plan?namespace={}", encode(&first)),
    };
    let body = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let answer: Value = client.create(&path, &body).await.map_err(|error| error.into_failure("plan the change"))?;
    let plan: Plan = serde_json::from_value(answer.clone())
        .map_err(|error| Failure::not_well(format!("the control plane's answer cannot be read: {error}")))?;
    output::print(&match args.output {
        Format::Json => output::json(&answer)?,
        Format::Yaml => output::yaml(&answer)?,
        Format::Name => plan.objects.iter().map(|one| format!("{}/{}\n", one.kind.to_lowercase(), one.name)).collect(),
        format => render(&plan, format == Format::Wide),
    })?;
    let is_well = !plan.would_deny && plan.objects.iter().all(|object| object.problems.is_empty());
    Ok(if is_well { 0 } else { Exit::NotWell.code() })
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        _ if percent == 0.0 => "-".to_owned(),
        ..0.1 => "<0.1%".to_owned(),
        _ if (percent - percent.round()).abs() < 0.05 => format!("{percent:.0}%"),
        _ => format!("{percent:.1}%"),
    }
}

fn render(plan: &Plan, is_wide: bool) -> String {
    let mut out = String::new();
    for object in &plan.objects {
        out += &format!("{} {} {}\n", object.kind, object.name, object.change.as_deref().unwrap_or("would be refused"));
        for problem in &object.problems {
            out += &format!("  {problem}\n");
        }
    }
    let minutes = plan.window_seconds.div_ceil(60);
    out += &format!("\njudged by {} calls of the last {minutes} min\n\n", plan.calls);
    if plan.changes.is_empty() {
        out += "no call of them would fare otherwise\n";
    } else {
        let unknown = || "outside the mesh".to_owned();
        let edges = plan.edges.iter().filter(|edge| {
            [edge.denied_share, edge.rerouted_share, edge.limited_share, edge.allowed_share, edge.failing_share]
                .iter()
                .any(|share| *share > 0.0)
        });
        let rows: Vec<Vec<String>> = edges
            .map(|edge| {
                vec![
                    edge.source.clone().unwrap_or_else(unknown),
                    edge.destination.clone(),
                    edge.calls.to_string(),
                    percent(edge.denied_share),
                    percent(edge.limited_share),
                    percent(edge.failing_share),
                    percent(edge.rerouted_share),
                    percent(edge.allowed_share),
                ]
            })
            .collect();
        let header = ["SOURCE", "DESTINATION", "CALLS", "DENIED", "LIMITED", "FAILING", "REROUTED", "ALLOWED"];
        out += &output::table(&header, &rows, &[2, 3, 4, 5, 6, 7]);
        out.push('\n');
        let row = |change: &Change| {
            let request =
                format!("{} {}", change.method.as_deref().unwrap_or("TCP"), change.path.as_deref().unwrap_or(""));
            let mut row = vec![
                change.kind.clone(),
                change.source.clone().unwrap_or_else(unknown),
                change.destination.clone(),
                request.trim_end().to_owned(),
                format!("{:.1}/s", change.rps),
                percent(change.share),
                change.policy.clone().unwrap_or_else(|| "-".to_owned()),
            ];
            if is_wide {
                row.extend([change.calls.to_string(), change.before.clone(), change.after.clone()]);
            }
            row
        };
        let rows: Vec<Vec<String>> = plan.changes.iter().map(row).collect();
        let mut header = vec!["CHANGE", "SOURCE", "DESTINATION", "REQUEST", "RATE", "SHARE", "POLICY"];
        if is_wide {
            header.extend(["CALLS", "BEFORE", "AFTER"]);
        }
        out += &output::table(&header, &rows, &[4, 5]);
        if plan.omitted > 0 {
            out += &format!("and {} more\n", plan.omitted);
        }
    }
    if !plan.unknown.is_empty() {
        out += "\nnot judged:\n";
        for unknown in &plan.unknown {
            out += &format!("  {unknown}\n");
        }
    }
    if plan.would_deny {
        out += "\ncalls that are made now would be denied\n";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_printed_with_what_changes_and_what_nobody_knows() {
        let answer = json!({
            "windowSeconds": 600, "calls": 1000, "wouldDeny": true, "unknown": ["7 calls: too many kinds"],
            "objects": [{"kind": "AuthorizationPolicy", "name": "shop/guard", "change": "created", "problems": []}],
            "edges": [
                {"source": "shop/orders", "destination": "shop/payments", "calls": 800, "deniedShare": 0.75, "reroutedShare": 0.0,
                 "limitedShare": 0.0, "allowedShare": 0.0, "failingShare": 0.0},
                {"source": "shop/cart", "destination": "shop/payments", "calls": 200, "deniedShare": 0.0, "reroutedShare": 0.0,
                 "limitedShare": 0.0, "allowedShare": 0.0, "failingShare": 0.0}],
            "changes": [{"kind": "denied", "source": "shop/orders", "destination": "shop/payments", "method": "POST", "path": "/charges/{number}",
                "calls": 600, "rps": 60.0, "share": 0.75, "before": "admitted", "after": "denied", "policy": "shop/guard"}],
        });
        let text = render(&serde_json::from_value(answer).unwrap(), false);
        assert!(
            text.starts_with("AuthorizationPolicy shop/guard created\n\njudged by 1000 calls of the last 10 min\n"),
            "{text}"
        );
        assert!(text.contains("shop/orders  shop/payments    800     75%        -"), "{text}");
        assert!(!text.contains("shop/cart"), "{text}");
        assert!(
            text.contains("denied  shop/orders  shop/payments  POST /charges/{number}  60.0/s    75%  shop/guard\n"),
            "{text}"
        );
        assert!(text.contains("not judged:\n  7 calls") && text.ends_with("would be denied\n"), "{text}");
    }
}
