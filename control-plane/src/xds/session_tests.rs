//! The stream's protocol, driven without a network: resumption, aliases, variants, removals, refusals, bounds.

use super::*;
use crate::compile::{Output, Variants};
use weft_proto::rpc;

fn client(namespace: &str) -> Client {
    Client { identity: format!("spiffe://weft.local/ns/{namespace}/sa/default"), namespace: namespace.into() }
}

fn service(name: &str, hostnames: &[&str]) -> v1::Service {
    v1::Service {
        name: name.into(),
        hostnames: hostnames.iter().map(|h| (*h).to_owned()).collect(),
        vips: vec!["198.18.0.7".into()],
        ..Default::default()
    }
}

fn output() -> Output {
    let mut output = Output::default();
    let mut own = service("shop/catalog", &["catalog.shop"]);
    own.hostnames.push("catalog".into());
    output.services.insert(
        "shop/catalog".into(),
        Arc::new(Variants {
            default: service("shop/catalog", &["catalog.shop"]),
            by_namespace: [("shop".to_owned(), own)].into_iter().collect(),
        }),
    );
    let slice = v1::Endpoints { name: "shop/catalog:80/0".into(), ..Default::default() };
    output.endpoints.insert("shop/catalog:80/0".into(), Arc::new(slice));
    let identity = client("shop").identity;
    let inbound = v1::Inbound { workload: "shop/cart-1".into(), identity, ..Default::default() };
    output.inbound.insert("shop/cart-1".into(), Arc::new(inbound));
    output
}

fn ask(url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: url.into(),
        resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
        ..Default::default()
    }
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|r| r.name.as_str()).collect()
}

#[test]
fn an_alias_is_answered_with_the_resource_and_all_its_aliases() {
    let snapshot = Snapshot::next(&Snapshot::default(), &output());
    let mut session = Session::new(client("shop"));
    session.request(ask(type_url::SERVICE, &["host:catalog"]), &snapshot).unwrap();
    let response = session.response(&snapshot).unwrap();
    assert_eq!(names(&response), ["shop/catalog"]);
    assert_eq!(response.resources[0].aliases, ["host:catalog.shop", "host:catalog", "vip:198.18.0.7"]);
    assert!(session.response(&snapshot).is_none(), "nothing is sent twice");
    // Another alias of what is held already: the client asked, so it is answered.
    session.request(ask(type_url::SERVICE, &["vip:198.18.0.7"]), &snapshot).unwrap();
    assert_eq!(names(&session.response(&snapshot).unwrap()), ["shop/catalog"]);
}

#[test]
fn a_short_name_means_the_clients_own_namespace_only() {
    let snapshot = Snapshot::next(&Snapshot::default(), &output());
    let mut session = Session::new(client("bank"));
    session.request(ask(type_url::SERVICE, &["host:catalog", "host:catalog.shop"]), &snapshot).unwrap();
    let response = session.response(&snapshot).unwrap();
    assert_eq!(names(&response), ["shop/catalog"]);
    assert_eq!(response.resources[0].aliases, ["host:catalog.shop", "vip:198.18.0.7"]);
    let absent = session.response(&snapshot).unwrap();
    assert_eq!(absent.removed_resources, ["host:catalog"]);
    assert!(session.response(&snapshot).is_none());
}

#[test]
fn what_was_absent_is_sent_when_it_appears_and_removed_when_it_goes() {
    let empty = Snapshot::next(&Snapshot::default(), &Output::default());
    let full = Snapshot::next(&empty, &output());
    let mut session = Session::new(client("shop"));
    session.request(ask(type_url::SERVICE, &["host:catalog"]), &empty).unwrap();
    assert_eq!(session.response(&empty).unwrap().removed_resources, ["host:catalog"]);
    assert_eq!(names(&session.response(&full).unwrap()), ["shop/catalog"]);
    let gone = session.response(&empty).unwrap();
    assert_eq!(gone.removed_resources, ["host:catalog", "shop/catalog"]);
    let events = session.request(ack(&gone), &empty).unwrap();
    assert!(events.contains(&Event::Dropped { type_url: type_url::SERVICE, name: "shop/catalog".into() }));
}

#[test]
fn a_resuming_client_is_sent_only_what_it_does_not_hold() {
    let snapshot = Snapshot::next(&Snapshot::default(), &output());
    let version = snapshot.lookup(&client("shop"), type_url::SERVICE, "shop/catalog").unwrap().version.clone();
    let mut session = Session::new(client("shop"));
    let mut request = ask(type_url::SERVICE, &["host:catalog", "host:nobody"]);
    request.initial_resource_versions = [("shop/catalog", &*version), ("shop/gone", "1")]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    let events = session.request(request, &snapshot).unwrap();
    assert_eq!(events, [Event::Holds { type_url: type_url::SERVICE, name: "shop/catalog".into(), version }]);
    let response = session.response(&snapshot).unwrap();
    assert!(response.resources.is_empty());
    assert_eq!(response.removed_resources, ["host:nobody", "shop/gone"], "deletions made meanwhile are told");
    assert_eq!(session.counts(), Counts { sent: 0, resumed: 1, removed: 2, refused: 0 });
    assert!(session.response(&snapshot).is_none());
}

#[test]
fn a_refusal_names_its_resource_and_the_others_count_as_held() {
    let mut first = output();
    first.services.insert(
        "shop/orders".into(),
        Arc::new(Variants { default: service("shop/orders", &["orders.shop"]), ..Default::default() }),
    );
    let snapshot = Snapshot::next(&Snapshot::default(), &first);
    let mut session = Session::new(client("shop"));
    session.request(ask(type_url::SERVICE, &["shop/catalog", "shop/orders"]), &snapshot).unwrap();
    let response = session.response(&snapshot).unwrap();
    let mut nack = ack(&response);
    let refusal = v1::ResourceRefusal {
        name: "shop/orders".into(),
        version: String::new(),
        field: "ports[0].port".into(),
        reason: "must not be 0".into(),
    };
    nack.error_detail = Some(rpc::Status { code: 3, message: "refused".into(), details: vec![refusal.to_any()] });
    let events = session.request(nack, &snapshot).unwrap();
    assert!(matches!(&events[0], Event::Holds { name, .. } if **name == *"shop/catalog"));
    assert!(
        matches!(&events[1], Event::Refused { name, field, .. } if **name == *"shop/orders" && field == "ports[0].port")
    );
    assert!(session.response(&snapshot).is_none(), "what was refused is not sent again before it changes");
}

#[test]
fn an_inbound_goes_to_its_own_identity_alone() {
    let snapshot = Snapshot::next(&Snapshot::default(), &output());
    let mut own = Session::new(client("shop"));
    own.request(ask(type_url::INBOUND, &["shop/cart-1"]), &snapshot).unwrap();
    assert_eq!(names(&own.response(&snapshot).unwrap()), ["shop/cart-1"]);
    let mut other = Session::new(client("bank"));
    other.request(ask(type_url::INBOUND, &["shop/cart-1"]), &snapshot).unwrap();
    assert_eq!(other.response(&snapshot).unwrap().removed_resources, ["shop/cart-1"]);
}

#[test]
fn wildcards_and_unknown_types_end_the_stream_except_for_the_mesh_settings() {
    let snapshot = Snapshot::next(&Snapshot::default(), &output());
    let mut session = Session::new(client("shop"));
    assert!(matches!(session.request(ask(type_url::SERVICE, &[]), &snapshot), Err(PeerMisbehaved::Wildcard(_))));
    let mut session = Session::new(client("shop"));
    assert!(matches!(session.request(ask(type_url::SERVICE, &["*"]), &snapshot), Err(PeerMisbehaved::Wildcard(_))));
    assert!(matches!(
        session.request(ask("type.googleapis.com/envoy.config.cluster.v3.Cluster", &["x"]), &snapshot),
        Err(PeerMisbehaved::UnknownType(_))
    ));
    let mut session = Session::new(client("shop"));
    session.request(ask(type_url::MESH_SETTINGS, &["*"]), &snapshot).unwrap();
    assert_eq!(names(&session.response(&snapshot).unwrap()), ["mesh"]);
}

#[test]
fn unsubscribing_one_of_two_names_keeps_the_resource_until_the_other_goes_too() {
    let snapshot = Snapshot::next(&Snapshot::default(), &output());
    let mut session = Session::new(client("shop"));
    session.request(ask(type_url::SERVICE, &["host:catalog", "shop/catalog"]), &snapshot).unwrap();
    session.response(&snapshot).unwrap();
    let leave = |name: &str| DeltaDiscoveryRequest {
        type_url: type_url::SERVICE.into(),
        resource_names_unsubscribe: vec![name.into()],
        ..Default::default()
    };
    assert!(session.request(leave("host:catalog"), &snapshot).unwrap().is_empty());
    assert_eq!(session.request(leave("shop/catalog"), &snapshot).unwrap().len(), 1);
    assert_eq!(session.held().count(), 0);
}

#[test]
fn equal_output_keeps_the_very_same_encoding() {
    let first = Snapshot::next(&Snapshot::default(), &output());
    let second = Snapshot::next(&first, &output());
    for (url, name) in [(type_url::SERVICE, "shop/catalog"), (type_url::ENDPOINTS, "shop/catalog:80/0")] {
        let a = first.lookup(&client("shop"), url, name).unwrap();
        let b = second.lookup(&client("shop"), url, name).unwrap();
        assert!(Arc::ptr_eq(a, b));
    }
}

#[test]
fn the_next_offer_is_what_one_from_nothing_would_be_and_costs_what_differs() {
    let mut output = output();
    let first = Snapshot::next(&Snapshot::default(), &output);
    assert_eq!(first.encoded(), first.len());
    // A service that claims a name and an address of another, in order of name before it; and one that is gone.
    let rival = Variants { default: service("shop/a", &["catalog.shop", "a.shop"]), ..Default::default() };
    output.services.insert("shop/a".into(), Arc::new(rival));
    output.endpoints.remove("shop/catalog:80/0");
    let second = Snapshot::next(&first, &output);
    assert_eq!((second.encoded(), second.len()), (1, first.len()));
    output.services.remove("shop/catalog");
    let third = Snapshot::next(&second, &output);
    assert_eq!(third.encoded(), 0);
    output.services.remove("shop/a");
    let fourth = Snapshot::next(&third, &output);
    for (what, snapshot) in [("second", &second), ("third", &third), ("fourth", &fourth)] {
        let of = |name: &str| snapshot.lookup(&client("shop"), type_url::SERVICE, name).map(|e| e.name.to_string());
        let (rival, catalog) = (what != "fourth", what == "second");
        for name in ["host:catalog.shop", "vip:198.18.0.7", "host:a.shop", "shop/a"] {
            assert_eq!(of(name), rival.then(|| "shop/a".to_owned()), "{what} {name}");
        }
        for name in ["host:catalog", "shop/catalog"] {
            assert_eq!(of(name), catalog.then(|| "shop/catalog".to_owned()), "{what} {name}");
        }
        assert!(snapshot.lookup(&client("shop"), type_url::ENDPOINTS, "shop/catalog:80/0").is_none());
    }
    assert!(first.lookup(&client("shop"), type_url::ENDPOINTS, "shop/catalog:80/0").is_some());
}
