//! `weft endpoints`: every endpoint of services as callers are told of it; with `--from`, as the sidecar of one caller sees it.

use crate::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::routes::{self, Traffic};
use crate::{proxy, stat};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// Flags of `weft endpoints`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only these services: [namespace/]name
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,
    /// Only this namespace (default: all)
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// As the sidecar of this workload sees them: [namespace/]name (role: get workloads/stats)
    #[arg(long, value_name = "WORKLOAD")]
    from: Option<String>,
    /// Over which time figures are
    #[arg(long, default_value = "10s", value_parser = output::duration)]
    window: Duration,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Item {
    service: String,
    port: u32,
    workload: Option<String>,
    address: String,
    region: Option<String>,
    zone: Option<String>,
    weight: Option<u32>,
    health: String,
    identity: Option<String>,
    mtls: bool,
    open_breakers: u32,
    traffic: Option<Traffic>,
}

/// An endpoint as a caller's sidecar sees it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Seen {
    /// "namespace/name:port"
    backend: String,
    /// "namespace/name", or what an address of a host outside is known by.
    endpoint: String,
    address: String,
    zone: Option<String>,
    weight: Option<u32>,
    /// `ready`, `notReady`, `draining`, `unknown`: discovery's word and that of active checks together.
    health: String,
    identity: Option<String>,
    /// Of its breaker: `closed`, `open`, `halfOpen`.
    state: String,
    /// Times that it opened.
    opened: u64,
    in_flight: u64,
    /// What balancing takes its latency to be.
    latency_ms: Option<f64>,
}

impl Seen {
    fn service(&self) -> &str {
        self.backend.rsplit_once(':').map_or(self.backend.as_str(), |(service, _)| service)
    }
}

/// Asks and prints.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    if let Some(from) = &args.from {
        return seen(&client, from, &args).await;
    }
    let answer = routes::page(&client, "endpoints", args.namespace.as_deref(), &args.names, args.window).await?;
    output::print(&match args.output {
        Format::Json => output::json(&answer)?,
        Format::Yaml => output::yaml(&answer)?,
        Format::Name => {
            let items: Vec<Item> = routes::items(&answer)?;
            names(items.iter().filter_map(|item| item.workload.as_deref()))
        }
        Format::Table | Format::Wide => table(&routes::items(&answer)?, args.output == Format::Wide),
    })?;
    Ok(0)
}

fn names<'n>(workloads: impl Iterator<Item = &'n str>) -> String {
    workloads.map(|name| format!("workload/{name}\n")).collect::<BTreeSet<_>>().into_iter().collect()
}

fn dash(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| "-".to_owned())
}

fn table(items: &[Item], wide: bool) -> String {
    let mut header =
        vec!["SERVICE", "WORKLOAD", "ADDRESS", "HEALTH", "MTLS", "ZONE", "WEIGHT", "RPS", "SUCCESS", "P99", "OPEN"];
    let right = [6, 7, 8, 9, 10];
    if wide {
        header.extend(["REGION", "IDENTITY"]);
    }
    let row = |item: &Item| {
        let cell = |pick: fn(&Traffic) -> Option<f64>, text: fn(f64) -> String| {
            item.traffic.as_ref().and_then(pick).map_or_else(|| "-".to_owned(), text)
        };
        let mut row = vec![
            format!("{}:{}", item.service, item.port),
            dash(&item.workload),
            item.address.clone(),
            item.health.clone(),
            if item.mtls { "yes" } else { "no" }.to_owned(),
            dash(&item.zone),
            item.weight.map_or_else(|| "-".to_owned(), |weight| weight.to_string()),
            cell(|traffic| Some(traffic.rps), |value| format!("{value:.1}/s")),
            cell(|traffic| traffic.success, stat::percent),
            cell(|traffic| traffic.p99_ms, stat::milliseconds),
            item.open_breakers.to_string(),
        ];
        if wide {
            row.extend([dash(&item.region), dash(&item.identity)]);
        }
        row
    };
    output::table(&header, &items.iter().map(row).collect::<Vec<_>>(), &right)
}

/// As one sidecar sees them: those that it has been told of, which are those that its workload calls.
async fn seen(client: &Client, from: &str, args: &Args) -> Result<u8, Failure> {
    let place = proxy::place(client, from, args.namespace.as_deref());
    let answer: Result<Value, _> = client.read(&proxy::path(&place, "stats")).await;
    let answer = answer.map_err(|error| error.into_failure(&format!("endpoints of {}/{}", place.0, place.1)))?;
    let mut all: Vec<Seen> = serde_json::from_value(answer.get("endpoints").cloned().unwrap_or_default())
        .map_err(|error| Failure::not_well(format!("the sidecar's answer cannot be read: {error}")))?;
    if let Some(missing) = args.names.iter().find(|name| !all.iter().any(|one| stat::is_named(one.service(), name))) {
        let text = format!("the sidecar of {}/{} knows no endpoint of '{missing}'", place.0, place.1);
        return Err(Failure::not_well(text).hint("it is told of a service when its workload first calls it"));
    }
    all.retain(|one| args.names.is_empty() || args.names.iter().any(|name| stat::is_named(one.service(), name)));
    all.sort_by(|a, b| (&a.backend, &a.endpoint).cmp(&(&b.backend, &b.endpoint)));
    let document = json!({ "from": format!("{}/{}", place.0, place.1), "items": all });
    output::print(&match args.output {
        Format::Json => output::json(&document)?,
        Format::Yaml => output::yaml(&document)?,
        Format::Name => names(all.iter().map(|one| one.endpoint.as_str())),
        Format::Table | Format::Wide => as_seen(&all, args.output == Format::Wide),
    })?;
    Ok(0)
}

fn as_seen(all: &[Seen], wide: bool) -> String {
    let mut header =
        vec!["SERVICE", "WORKLOAD", "ADDRESS", "HEALTH", "BREAKER", "OPENED", "IN FLIGHT", "LATENCY", "MTLS", "ZONE"];
    if wide {
        header.extend(["WEIGHT", "IDENTITY"]);
    }
    let row = |one: &Seen| {
        let mut row = vec![
            one.backend.clone(),
            one.endpoint.clone(),
            one.address.clone(),
            one.health.clone(),
            one.state.clone(),
            one.opened.to_string(),
            one.in_flight.to_string(),
            one.latency_ms.map_or_else(|| "-".to_owned(), stat::milliseconds),
            if one.identity.is_some() { "yes" } else { "no" }.to_owned(),
            dash(&one.zone),
        ];
        if wide {
            row.extend([one.weight.map_or_else(|| "-".to_owned(), |weight| weight.to_string()), dash(&one.identity)]);
        }
        row
    };
    output::table(&header, &all.iter().map(row).collect::<Vec<_>>(), &[5, 6, 7])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_their_units_and_a_dash_for_no_data() {
        let items: Vec<Item> = serde_json::from_value(json!([
            { "service": "shop/cart", "port": 80, "workload": "shop/cart-1", "address": "192.0.2.7:8080", "region": null,
              "zone": "a", "weight": 1, "health": "ready", "identity": "spiffe://weft.local/ns/shop/sa/cart", "mtls": true,
              "openBreakers": 1, "traffic": { "rps": 4.0, "success": 1.0, "p99Ms": 2.5 } },
            { "service": "shop/pay", "port": 443, "workload": null, "address": "pay.example.com:443", "weight": null,
              "health": "unknown", "mtls": false, "openBreakers": 0, "traffic": null },
        ]))
        .unwrap();
        assert_eq!(
            table(&items, false),
            "SERVICE       WORKLOAD     ADDRESS              HEALTH   MTLS  ZONE  WEIGHT    RPS  SUCCESS    P99  OPEN\n\
             shop/cart:80  shop/cart-1  192.0.2.7:8080       ready    yes   a          1  4.0/s     100%  2.5ms     1\n\
             shop/pay:443  -            pay.example.com:443  unknown  no    -          -      -        -      -     0\n"
        );
        assert!(table(&items, true).contains("-       spiffe://weft.local/ns/shop/sa/cart\n"));
    }

    #[test]
    fn a_callers_view_says_what_is_ejected() {
        let all: Vec<Seen> = serde_json::from_value(json!([{ "backend": "shop/cart:80", "endpoint": "shop/cart-1",
            "address": "192.0.2.7:8080", "zone": null, "weight": 1, "health": "ready", "state": "open", "opened": 3,
            "inFlight": 2, "latencyMs": 7.25, "identity": "spiffe://weft.local/ns/shop/sa/cart" }]))
        .unwrap();
        assert_eq!(
            as_seen(&all, false),
            "SERVICE       WORKLOAD     ADDRESS         HEALTH  BREAKER  OPENED  IN FLIGHT  LATENCY  MTLS  ZONE\n\
             shop/cart:80  shop/cart-1  192.0.2.7:8080  ready   open          3          2    7.2ms  yes   -\n"
        );
        assert_eq!(all[0].service(), "shop/cart");
    }
}
