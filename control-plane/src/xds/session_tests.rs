//! The stream's protocol, driven without a network: resumption, aliases, variants, removals, refusals, bounds.

use super::*;
use crate::compile::{Guarded, Output, Packed, Variants};
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

fn alone(service: &v1::Service) -> Variants {
    Variants { default: Packed::service(service), by_namespace: BTreeMap::new() }
}

fn output() -> Output {
    let mut output = Output::default();
    let mut own = service("shop/catalog", &["catalog.shop"]);
    own.hostnames.push("catalog".into());
    output.services.insert(
        "shop/catalog",
        Arc::new(Variants {
            default: Packed::service(&service("shop/catalog", &["catalog.shop"])),
            by_namespace: [("shop".to_owned(), Packed::service(&own))].into(),
        }),
    );
    let slice = v1::Endpoints { name: "shop/catalog:80/0".into(), ..Default::default() };
    output.endpoints.insert("shop/catalog:80/0", Packed::new("shop/catalog:80/0", &slice));
    let identity = client("shop").identity;
    let inbound = v1::Inbound { workload: "shop/cart-1".into(), identity, ..Default::default() };
    output.inbound.insert("shop/cart-1", Arc::new(Guarded::new("shop/cart-1", &inbound)));
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
    let snapshot = Snapshot::next(&Snapshot::default(), &output()).0;
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
    let snapshot = Snapshot::next(&Snapshot::default(), &output()).0;
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
    let empty = Snapshot::next(&Snapshot::default(), &Output::default()).0;
    let (full, topics) = Snapshot::next(&empty, &output());
    let mut session = Session::new(client("shop"));
    session.request(ask(type_url::SERVICE, &["host:catalog"]), &empty).unwrap();
    assert_eq!(session.response(&empty).unwrap().removed_resources, ["host:catalog"]);
    session.changed(topics);
    assert_eq!(names(&session.response(&full).unwrap()), ["shop/catalog"]);
    assert!(session.response(&empty).is_none(), "what nobody says has changed is not looked at");
    let (empty, topics) = Snapshot::next(&full, &Output::default());
    session.changed(topics);
    let gone = session.response(&empty).unwrap();
    assert_eq!(gone.removed_resources, ["host:catalog", "shop/catalog"]);
    let events = session.request(ack(&gone), &empty).unwrap();
    assert!(events.contains(&Event::Dropped { type_url: type_url::SERVICE, name: "shop/catalog".into() }));
}

#[test]
fn a_resuming_client_is_sent_only_what_it_does_not_hold() {
    let snapshot = Snapshot::next(&Snapshot::default(), &output()).0;
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
    first.services.insert("shop/orders", Arc::new(alone(&service("shop/orders", &["orders.shop"]))));
    let snapshot = Snapshot::next(&Snapshot::default(), &first).0;
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
    let snapshot = Snapshot::next(&Snapshot::default(), &output()).0;
    let mut own = Session::new(client("shop"));
    own.request(ask(type_url::INBOUND, &["shop/cart-1"]), &snapshot).unwrap();
    assert_eq!(names(&own.response(&snapshot).unwrap()), ["shop/cart-1"]);
    let mut other = Session::new(client("bank"));
    other.request(ask(type_url::INBOUND, &["shop/cart-1"]), &snapshot).unwrap();
    assert_eq!(other.response(&snapshot).unwrap().removed_resources, ["shop/cart-1"]);
}

#[test]
fn wildcards_and_unknown_types_end_the_stream_except_for_the_mesh_settings() {
    let snapshot = Snapshot::next(&Snapshot::default(), &output()).0;
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
    let snapshot = Snapshot::next(&Snapshot::default(), &output()).0;
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
fn the_next_offer_is_what_one_from_nothing_would_be_and_costs_what_differs() {
    let mut output = output();
    let first = Snapshot::next(&Snapshot::default(), &output).0;
    assert_eq!(first.renewed(), first.len());
    // A service that claims a name and an address of another, in order of name before it; and one that is gone.
    let rival = alone(&service("shop/a", &["catalog.shop", "a.shop"]));
    output.services.insert("shop/a", Arc::new(rival));
    output.endpoints.remove("shop/catalog:80/0");
    let second = Snapshot::next(&first, &output).0;
    assert_eq!((second.renewed(), second.len()), (1, first.len()));
    output.services.remove("shop/catalog");
    let third = Snapshot::next(&second, &output).0;
    assert_eq!(third.renewed(), 0);
    output.services.remove("shop/a");
    let fourth = Snapshot::next(&third, &output).0;
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

/// What may be on offer: of four services, whether each is there, with which port, and which of three names it claims.
fn offer(drawn: &[(bool, u16, u8)]) -> Output {
    let mut output = Output::default();
    for (i, (_, port, claims)) in drawn.iter().enumerate().filter(|(_, (there, _, _))| *there) {
        let name = format!("shop/s{i}");
        let claimed: Vec<String> = (0..3).filter(|n| claims & 1 << n != 0).map(|n| format!("n{n}")).collect();
        let mut made = service(&name, &claimed.iter().map(String::as_str).collect::<Vec<_>>());
        made.vips = vec![format!("198.18.0.{i}")];
        made.ports = vec![v1::ServicePort { port: (*port).into(), ..Default::default() }];
        output.services.insert(name, Arc::new(alone(&made)));
    }
    output
}

mod told_of_changes_alone {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const NAMES: [&str; 8] =
        ["host:n0", "host:n1", "host:n2", "shop/s0", "shop/s1", "shop/s2", "vip:198.18.0.2", "vip:198.18.0.3"];

    #[derive(Clone, Debug)]
    enum Step {
        Offer(Vec<(bool, u16, u8)>),
        Subscribe(usize),
        Unsubscribe(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let offer = prop::collection::vec((prop::bool::weighted(0.7), 80..82_u16, 0..8_u8), 4);
        prop_oneof![
            offer.prop_map(Step::Offer),
            (0..8_usize).prop_map(Step::Subscribe),
            (0..8_usize).prop_map(Step::Unsubscribe)
        ]
    }

    proptest! {
        #[test]
        fn a_client_holds_what_every_name_of_its_stands_for(steps in prop::collection::vec(step(), 1..40)) {
            let mut snapshot = Snapshot::next(&Snapshot::default(), &Output::default()).0;
            let (mut session, client) = (Session::new(client("shop")), client("shop"));
            let (mut names, mut held) = (BTreeSet::new(), BTreeMap::<String, String>::new());
            for step in steps {
                match step {
                    Step::Offer(drawn) => {
                        let (next, topics) = Snapshot::next(&snapshot, &offer(&drawn));
                        // As `Interest` does.
                        session.changed(topics.into_iter().filter(|(_, name)| names.contains(&**name)));
                        snapshot = next;
                    }
                    Step::Subscribe(i) => {
                        session.request(ask(type_url::SERVICE, &[NAMES[i]]), &snapshot).unwrap();
                        names.insert(NAMES[i].to_owned());
                    }
                    Step::Unsubscribe(i) if names.remove(NAMES[i]) => {
                        let resource_names_unsubscribe = vec![NAMES[i].to_owned()];
                        let leave = DeltaDiscoveryRequest {
                            type_url: type_url::SERVICE.into(), resource_names_unsubscribe, ..Default::default()
                        };
                        for event in session.request(leave, &snapshot).unwrap() {
                            if let Event::Dropped { name, .. } = event {
                                held.remove(&*name);
                            }
                        }
                    }
                    Step::Unsubscribe(_) => {}
                }
                while let Some(response) = session.response(&snapshot) {
                    for resource in &response.resources {
                        held.insert(resource.name.clone(), resource.version.clone());
                    }
                    for name in &response.removed_resources {
                        held.remove(name);
                    }
                    session.request(ack(&response), &snapshot).unwrap();
                }
                for name in &names {
                    match snapshot.lookup(&client, type_url::SERVICE, name) {
                        Some(is) => prop_assert_eq!(held.get(&*is.name).map(String::as_str), Some(&*is.version), "{}", name),
                        None => prop_assert!(!held.contains_key(name), "{} is held and gone", name),
                    }
                }
                for name in held.keys() {
                    prop_assert!(snapshot.lookup(&client, type_url::SERVICE, name).is_some(), "{} is held and gone", name);
                }
            }
        }
    }
}
