//! `weft routes`: by which rules calls of services go, with what callers' sidecars measured of each route.
//!
//! Sidecars count by route and by the service that answered: where a route has several rules with the same backend, its figures stand
//! once, beside the first.

use crate::Global;
use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::stat;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

/// Flags of `weft routes`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only these services: [namespace/]name
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,
    /// Only this namespace (default: all)
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Over which time figures are
    #[arg(long, default_value = "10s", value_parser = output::duration)]
    window: Duration,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Item {
    pub service: String,
    pub port: u32,
    pub protocol: String,
    pub clients: Option<String>,
    pub kind: Option<String>,
    pub route: Option<String>,
    pub rules: Vec<Rule>,
    pub traffic: Vec<Traffic>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    pub index: usize,
    pub name: Option<String>,
    pub matches: Vec<String>,
    pub filters: Vec<String>,
    pub request_timeout_ms: Option<u64>,
    pub backend_request_timeout_ms: Option<u64>,
    pub retries: Option<u32>,
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Backend {
    pub service: Option<String>,
    pub port: Option<u32>,
    pub unresolved: Option<String>,
    pub weight: u32,
    pub share: f64,
}

/// What was measured of a route where one service answered, or of an endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Traffic {
    pub service: String,
    pub calls: u64,
    pub rps: f64,
    pub success: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

/// Asks for a page about services, of those named if any are.
pub async fn page(
    client: &Client,
    page: &str,
    namespace: Option<&str>,
    names: &[String],
    window: Duration,
) -> Result<Value, Failure> {
    let mut path = format!("/weft/v1/{page}?window={}", output::written(window));
    // One name in one namespace is found by the control plane, and takes a role in that one alone.
    let (namespace, name) = match names {
        [one] => match one.split_once('/') {
            Some((namespace, name)) => (Some(namespace), Some(name)),
            None => (namespace, Some(one.as_str())),
        },
        _ => (namespace, None),
    };
    for (key, value) in [("namespace", namespace), ("service", name)] {
        path.extend(value.map(|value| format!("&{key}={}", encode(value))));
    }
    let mut answer: Value = client.read(&path).await.map_err(|error| error.into_failure(&format!("read {page}")))?;
    let items = answer.get_mut("items").and_then(Value::as_array_mut);
    let Some(items) = items else {
        return Err(Failure::not_well(format!("the control plane's answer has no {page}"))
            .hint("is it of an older version? see: weft version"));
    };
    let of = |item: &Value| item["service"].as_str().unwrap_or_default().to_owned();
    if let Some(missing) = names.iter().find(|name| !items.iter().any(|item| stat::is_named(&of(item), name))) {
        return Err(Failure::not_well(format!("no {page} of a service '{missing}'"))
            .hint("list services with: weft get services -A"));
    }
    if !names.is_empty() {
        items.retain(|item| names.iter().any(|name| stat::is_named(&of(item), name)));
    }
    Ok(answer)
}

/// Reads the items of an answer.
pub fn items<T: serde::de::DeserializeOwned>(answer: &Value) -> Result<Vec<T>, Failure> {
    serde_json::from_value(answer.get("items").cloned().unwrap_or_default())
        .map_err(|error| Failure::not_well(format!("the control plane's answer cannot be read: {error}")))
}

/// Asks and prints.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let answer = page(&client, "routes", args.namespace.as_deref(), &args.names, args.window).await?;
    output::print(&match args.output {
        Format::Json => output::json(&answer)?,
        Format::Yaml => output::yaml(&answer)?,
        Format::Name => names(&items(&answer)?),
        Format::Table | Format::Wide => table(&items(&answer)?, args.output == Format::Wide),
    })?;
    Ok(0)
}

/// Every route once, as `kubectl` names it.
fn names(items: &[Item]) -> String {
    let named = |item: &Item| Some(format!("{}/{}\n", item.kind.as_ref()?.to_lowercase(), item.route.as_ref()?));
    items.iter().filter_map(named).collect::<BTreeSet<_>>().into_iter().collect()
}

fn table(items: &[Item], wide: bool) -> String {
    let mut header =
        vec!["SERVICE", "ROUTE", "RULE", "MATCH", "BACKEND", "WEIGHT", "TIMEOUT", "RETRIES", "RPS", "SUCCESS", "P99"];
    let mut right = vec![5, 6, 7, 8, 9, 10];
    if wide {
        header.extend(["P50", "P95", "KIND", "PROTOCOL", "A TRY", "FILTERS"]);
        right.extend([11, 12]);
    }
    let mut rows = Vec::new();
    let mut said = BTreeSet::new();
    for item in items {
        for rule in &item.rules {
            // A rule that only redirects has no backend.
            let none = Backend::default();
            let backends = if rule.backends.is_empty() { vec![&none] } else { rule.backends.iter().collect() };
            for (place, backend) in backends.into_iter().enumerate() {
                let key = (item.route.clone().unwrap_or_else(|| item.service.clone()), backend.service.clone());
                let first = backend.service.is_some() && said.insert(key);
                rows.push(row(item, rule, (place, backend), first, wide));
            }
        }
    }
    output::table(&header, &rows, &right)
}

fn row(item: &Item, rule: &Rule, (place, backend): (usize, &Backend), figures: bool, wide: bool) -> Vec<String> {
    let first = |text: String| if place == 0 { text } else { String::new() };
    let ms = |limit: Option<u64>| limit.map_or_else(|| "-".to_owned(), time);
    let clients = item.clients.as_ref().map(|namespace| format!(" (for {namespace})")).unwrap_or_default();
    let measured = item.traffic.iter().find(|of| figures && Some(&of.service) == backend.service.as_ref());
    let cell = |value: Option<f64>, text: fn(f64) -> String| match (value, figures) {
        (Some(value), _) => text(value),
        (None, true) => "-".to_owned(),
        (None, false) => String::new(),
    };
    let of = |pick: fn(&Traffic) -> Option<f64>| measured.and_then(pick);
    let target = match (&backend.service, backend.port, &backend.unresolved) {
        (Some(service), Some(port), _) => format!("{service}:{port}"),
        (_, _, Some(why)) => format!("500: {why}"),
        _ => "-".to_owned(),
    };
    let is_backend = backend.service.is_some() || backend.unresolved.is_some();
    let mut row = vec![
        first(format!("{}:{}", item.service, item.port)),
        first(format!("{}{clients}", item.route.as_deref().unwrap_or("-"))),
        first(rule.name.clone().unwrap_or_else(|| rule.index.to_string())),
        first(if rule.matches.is_empty() { "*".to_owned() } else { rule.matches.join(" or ") }),
        target,
        if is_backend { percent_of(backend.share) } else { "-".to_owned() },
        first(ms(rule.request_timeout_ms)),
        first(rule.retries.map_or_else(|| "-".to_owned(), |retries| retries.to_string())),
        cell(of(|traffic| Some(traffic.rps)), |value| format!("{value:.1}/s")),
        cell(of(|traffic| traffic.success), stat::percent),
        cell(of(|traffic| traffic.p99_ms), stat::milliseconds),
    ];
    if wide {
        let filters = if rule.filters.is_empty() { "-".to_owned() } else { rule.filters.join("; ") };
        row.extend([
            cell(of(|traffic| traffic.p50_ms), stat::milliseconds),
            cell(of(|traffic| traffic.p95_ms), stat::milliseconds),
            first(item.kind.clone().unwrap_or_else(|| "-".into())),
            first(item.protocol.clone()),
            first(ms(rule.backend_request_timeout_ms)),
            first(filters),
        ]);
    }
    row
}

/// `90%`, `33.3%`
fn percent_of(share: f64) -> String {
    let tenths = (share * 1000.0).round() / 10.0;
    format!("{tenths}%")
}

/// `250ms`, `15s`
fn time(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_has_a_line_for_each_backend_and_figures_once() {
        let items: Vec<Item> = serde_json::from_value(json!([
            { "service": "shop/catalog", "port": 80, "protocol": "http", "clients": null, "kind": "HTTPRoute",
              "route": "shop/canary", "rules": [
                { "index": 0, "name": "new", "matches": ["GET /items/*", "x-canary: yes"], "filters": ["cors"],
                  "requestTimeoutMs": 15000, "backendRequestTimeoutMs": 250, "retries": 2, "backends": [
                    { "service": "shop/catalog", "port": 80, "unresolved": null, "weight": 2, "share": 0.666_666 },
                    { "service": "shop/catalog-v2", "port": 80, "unresolved": null, "weight": 1, "share": 0.333_333 }] },
                { "index": 1, "name": null, "matches": [], "filters": [], "requestTimeoutMs": null,
                  "backendRequestTimeoutMs": null, "retries": 0, "backends": [
                    { "service": "shop/catalog", "port": 80, "unresolved": null, "weight": 1, "share": 1.0 },
                    { "service": null, "port": null, "unresolved": "BackendNotFound", "weight": 0, "share": 0.0 }] }],
              "traffic": [{ "service": "shop/catalog", "calls": 90, "rps": 9.0, "success": 0.9999,
                "p50Ms": 1.0, "p95Ms": 4.0, "p99Ms": 12.0 }] },
            { "service": "shop/users", "port": 80, "protocol": "detect", "clients": "office", "kind": null, "route": null,
              "rules": [{ "index": 0, "retries": 2, "requestTimeoutMs": 15000, "backends": [
                { "service": "shop/users", "port": 80, "weight": 1, "share": 1.0 }] }], "traffic": [] },
        ]))
        .unwrap();
        assert_eq!(
            table(&items, false),
            "SERVICE          ROUTE           RULE  MATCH                          BACKEND               WEIGHT  TIMEOUT  RETRIES    RPS  SUCCESS   P99\n\
             shop/catalog:80  shop/canary     new   GET /items/* or x-canary: yes  shop/catalog:80        66.7%      15s        2  9.0/s   99.99%  12ms\n\
             \u{20}                                                                     shop/catalog-v2:80     33.3%                        -        -     -\n\
             shop/catalog:80  shop/canary     1     *                              shop/catalog:80         100%        -        0\n\
             \u{20}                                                                     500: BackendNotFound      0%\n\
             shop/users:80    - (for office)  0     *                              shop/users:80           100%      15s        2      -        -     -\n"
        );
        let wide = table(&items, true);
        assert!(wide.lines().next().unwrap().ends_with("  KIND       PROTOCOL  A TRY  FILTERS"), "{wide}");
        assert!(wide.lines().nth(1).unwrap().ends_with("  1.0ms  4.0ms  HTTPRoute  http      250ms  cors"), "{wide}");
        assert_eq!(names(&items), "httproute/shop/canary\n");
    }

    #[test]
    fn times_are_written_in_whole_seconds_where_they_are() {
        assert_eq!((time(15_000), time(250)), ("15s".into(), "250ms".into()));
    }
}
