//! The page of `weft endpoints`: every endpoint of every service as callers are told of it, and what sidecars report of their calls to it.

use super::super::golden::{Numbers, Row, Stat};
use super::{Failure, Sources, Window};
use crate::world::reconcile::Compiled;
use axum::Json;
use axum::extract::{Query, State};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use weft_proto::v1;

/// One endpoint of one port.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    /// "namespace/name"
    service: String,
    /// Of the service.
    port: u32,
    /// "namespace/name"; null: a host outside the mesh.
    workload: Option<String>,
    /// "<ip>:<port>", or "<host>:<port>" of a host outside.
    address: String,
    region: Option<String>,
    zone: Option<String>,
    weight: Option<u32>,
    /// `ready`, `notReady`, `draining`, `unknown`.
    health: &'static str,
    /// SPIFFE id that it must show; null: it has no sidecar.
    identity: Option<String>,
    /// Whether sidecars call it by mutual TLS.
    mtls: bool,
    /// Breakers of callers that are open or half-open for it now.
    open_breakers: usize,
    /// What callers' sidecars measured, on all ports; where none of it was for this service, of the calls for one that a route of it gives calls to.
    /// Null: nothing.
    traffic: Option<Numbers>,
}

/// `GET /weft/v1/endpoints?namespace=&service=&window=`
pub(super) async fn list(State(sources): State<Sources>, Query(query): Query<Window>) -> Result<Json<Value>, Failure> {
    let stat = sources.fleet.stat(query.length()?);
    let compiled = sources.compiled.borrow().clone();
    Ok(Json(json!({ "windowSeconds": stat.detail_seconds, "items": items(&compiled, &stat, &query) })))
}

fn items(compiled: &Compiled, stat: &Stat, query: &Window) -> Vec<Item> {
    let reported: HashMap<(&str, &str), &Row> =
        stat.endpoints.iter().map(|row| ((row.service.as_str(), row.endpoint.as_deref().unwrap_or("")), row)).collect();
    let mut found = Vec::new();
    let asked = compiled.output.services.iter().filter(|(name, _)| compiled.world.services.contains_key(name));
    for (name, variants) in asked.filter(|(name, _)| query.concerns(name)) {
        for port in &variants.default.read().ports {
            let Some(backend) = &port.backend else { continue };
            let slices = backend.slices.iter().filter_map(|slice| compiled.output.endpoints.get(slice));
            for endpoint in slices.flat_map(|slice| slice.read().endpoints) {
                let of = |service| reported.get(&(service, endpoint.uid.as_str()));
                let given = || stat.addressed.iter().filter(|calls| calls.service == **name);
                let row = of(&**name).or_else(|| given().find_map(|calls| of(calls.by.as_str())));
                found.push(item(name, port.port, &endpoint, row));
            }
            found.extend(backend.external.as_ref().map(|host| Item {
                service: name.to_string(),
                port: port.port,
                address: format!("{}:{}", host.host, host.port),
                health: "unknown",
                ..Item::default()
            }));
        }
    }
    found.sort_by(|a, b| (&a.service, a.port, &a.workload).cmp(&(&b.service, b.port, &b.workload)));
    found
}

fn item(service: &str, port: u32, endpoint: &v1::Endpoint, row: Option<&&Row>) -> Item {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let v6 = endpoint.address.contains(':');
    let (open, close) = if v6 { ("[", "]") } else { ("", "") };
    Item {
        service: service.to_owned(),
        port,
        workload: Some(endpoint.uid.clone()),
        address: format!("{open}{}{close}:{}", endpoint.address, endpoint.port),
        region: text(&endpoint.region),
        zone: text(&endpoint.zone),
        weight: Some(endpoint.weight.max(1)),
        health: match endpoint.health() {
            v1::Health::Unknown => "unknown",
            v1::Health::Ready => "ready",
            v1::Health::NotReady => "notReady",
            v1::Health::Draining => "draining",
        },
        identity: text(&endpoint.identity),
        mtls: !endpoint.tunnel.is_empty(),
        open_breakers: row.map_or(0, |row| row.open_breakers),
        traffic: row.map(|row| row.numbers.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_shown_as_callers_are_told_of_it() {
        let wire = v1::Endpoint {
            uid: "shop/cart-1".into(),
            address: "2001:db8::7".into(),
            port: 8080,
            tunnel: "[2001:db8::7]:15008".into(),
            identity: "spiffe://weft.local/ns/shop/sa/cart".into(),
            health: v1::Health::Draining.into(),
            zone: "a".into(),
            ..Default::default()
        };
        let row = Row { open_breakers: 2, numbers: Numbers { calls: 7, ..Numbers::default() }, ..Row::default() };
        let shown = item("shop/cart", 80, &wire, Some(&&row));
        assert_eq!(shown.address, "[2001:db8::7]:8080");
        assert_eq!((shown.health, shown.mtls, shown.weight, shown.region), ("draining", true, Some(1), None));
        assert_eq!((shown.open_breakers, shown.traffic.map(|t| t.calls)), (2, Some(7)));
        let plain = item("shop/cart", 80, &v1::Endpoint { address: "192.0.2.7".into(), ..Default::default() }, None);
        assert_eq!(
            (plain.address.as_str(), plain.mtls, plain.identity, plain.traffic),
            ("192.0.2.7:0", false, None, None)
        );
    }
}
