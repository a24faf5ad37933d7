//! `weft edges`: who calls whom, how much, and how that goes.

use crate::Global;
use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::stat::{is_named, milliseconds, percent};
use serde::{Deserialize, Serialize};
use std::io::IsTerminal;
use std::time::Duration;

/// Flags of `weft edges`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only edges that begin or end at these services: [namespace/]name
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,
    /// Only edges with an end in this namespace (default: all)
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Only calls of this caller: [namespace/]name
    #[arg(long, value_name = "CALLER")]
    from: Option<String>,
    /// Only calls to this service: [namespace/]name
    #[arg(long, value_name = "SERVICE")]
    to: Option<String>,
    /// Over which time
    #[arg(long, default_value = "10s", value_parser = output::duration)]
    window: Duration,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    /// Go on, once a second
    #[arg(short, long)]
    watch: bool,
}

/// The part of the page `stat` that is about edges.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Page {
    detail_seconds: f64,
    edges: Vec<Edge>,
}

/// Calls of one caller to one service.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Edge {
    /// "namespace/name" of the caller.
    source: String,
    /// "namespace/name" of the service.
    service: String,
    rps: f64,
    calls: u64,
    failures: u64,
    success: Option<f64>,
    success_before_retries: Option<f64>,
    retries: u64,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    mtls: Option<f64>,
    tcp_connections: u64,
    bytes_sent: u64,
    bytes_received: u64,
    open_breakers: u32,
}

/// What is printed as one document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'e> {
    window_seconds: f64,
    items: &'e [Edge],
}

/// Shows the table, or goes on showing it.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let namespace = args.namespace.as_deref().map(|name| format!("&namespace={}", encode(name))).unwrap_or_default();
    let path = format!("/weft/v1/stat?window={}{namespace}", output::written(args.window));
    let live = args.watch && args.output == Format::Table && std::io::stdout().is_terminal();
    loop {
        let page: Page = client.read(&path).await.map_err(|error| error.into_failure("read statistics"))?;
        let edges: Vec<Edge> = page.edges.into_iter().filter(|edge| args.wants(edge)).collect();
        let document = Document { window_seconds: page.detail_seconds, items: &edges };
        output::print(&match args.output {
            Format::Table | Format::Wide => {
                let clear = if live { "\x1b[H\x1b[2J" } else { "" };
                format!("{clear}{}", table(&edges, page.detail_seconds, args.output == Format::Wide))
            }
            Format::Json => output::json(&document)?,
            Format::Yaml => output::yaml(&document)?,
            Format::Name => edges.iter().map(|edge| format!("{} {}\n", edge.source, edge.service)).collect(),
        })?;
        if !args.watch {
            return Ok(0);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

impl Args {
    fn wants(&self, edge: &Edge) -> bool {
        let at = |name: &String| is_named(&edge.source, name) || is_named(&edge.service, name);
        (self.names.is_empty() || self.names.iter().any(at))
            && self.from.as_ref().is_none_or(|from| is_named(&edge.source, from))
            && self.to.as_ref().is_none_or(|to| is_named(&edge.service, to))
    }
}

fn table(edges: &[Edge], seconds: f64, wide: bool) -> String {
    let mut header = vec!["SOURCE", "DESTINATION", "RPS", "SUCCESS", "P50", "P95", "P99", "MTLS", "RETRIES", "OPEN"];
    let mut right = vec![2, 3, 4, 5, 6, 7, 8, 9];
    if wide {
        header.extend(["UNRETRIED", "CALLS", "FAILURES", "CONNECTIONS", "SENT", "RECEIVED"]);
        right.extend([10, 11, 12, 13, 14, 15]);
    }
    let rows: Vec<Vec<String>> = edges.iter().map(|edge| row(edge, seconds, wide)).collect();
    output::table(&header, &rows, &right)
}

fn row(edge: &Edge, seconds: f64, wide: bool) -> Vec<String> {
    let cell = |value: Option<f64>, text: fn(f64) -> String| value.map_or_else(|| "-".to_owned(), text);
    let rate = |value: f64| format!("{value:.1}/s");
    let called = edge.calls > 0;
    let retries = u32::try_from(edge.retries).map_or(f64::MAX, f64::from) / seconds.max(0.001);
    let source = if edge.source.is_empty() { "-" } else { &edge.source };
    let mut row = vec![
        source.to_owned(),
        edge.service.clone(),
        cell(called.then_some(edge.rps), rate),
        cell(edge.success, percent),
        cell(edge.p50_ms, milliseconds),
        cell(edge.p95_ms, milliseconds),
        cell(edge.p99_ms, milliseconds),
        cell(edge.mtls, percent),
        cell(called.then_some(retries), rate),
        edge.open_breakers.to_string(),
    ];
    if wide {
        let counts = [edge.calls, edge.failures, edge.tcp_connections, edge.bytes_sent, edge.bytes_received];
        row.push(cell(edge.success_before_retries, percent));
        row.extend(counts.map(|count| count.to_string()));
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(source: &str, service: &str) -> Edge {
        Edge { source: source.into(), service: service.into(), ..Edge::default() }
    }

    #[test]
    fn the_table_has_an_edge_a_line_with_units_and_a_dash_for_no_data() {
        let busy = Edge {
            rps: 30.04,
            calls: 300,
            failures: 3,
            retries: 15,
            success: Some(0.99),
            success_before_retries: Some(0.951),
            p50_ms: Some(1.24),
            p95_ms: Some(18.4),
            p99_ms: Some(1203.0),
            mtls: Some(1.0),
            bytes_sent: 12,
            ..edge("shop/orders", "shop/payments")
        };
        let edges = [busy, edge("", "shop/users")];
        assert_eq!(
            table(&edges, 10.0, false),
            "SOURCE       DESTINATION       RPS  SUCCESS    P50   P95    P99  MTLS  RETRIES  OPEN\n\
             shop/orders  shop/payments  30.0/s   99.00%  1.2ms  18ms  1.20s  100%    1.5/s     0\n\
             -            shop/users          -        -      -     -      -     -        -     0\n"
        );
        let wide = table(&edges, 10.0, true);
        assert!(
            wide.lines().next().unwrap().ends_with("UNRETRIED  CALLS  FAILURES  CONNECTIONS  SENT  RECEIVED"),
            "{wide}"
        );
    }

    #[test]
    fn edges_are_chosen_by_either_end_or_by_both() {
        let args = |names: &[&str], from: Option<&str>, to: Option<&str>| Args {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            namespace: None,
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
            window: Duration::from_secs(10),
            output: Format::Table,
            watch: false,
        };
        let one = edge("shop/orders", "shop/payments");
        assert!(args(&[], None, None).wants(&one) && args(&["orders"], None, None).wants(&one));
        assert!(args(&["x", "shop/payments"], Some("orders"), Some("payments")).wants(&one));
        assert!(!args(&["users"], None, None).wants(&one) && !args(&[], Some("payments"), None).wants(&one));
    }
}
