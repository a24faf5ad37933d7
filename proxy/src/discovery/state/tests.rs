//! What goes into force, when, and what is subscribed to.

use super::*;
use weft_proto::{Resource as _, version_of};

const T0: u64 = 1_000;

fn at(millis: u64) -> Instant {
    use std::sync::LazyLock;
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START + Duration::from_millis(T0 + millis)
}

fn host(name: &str) -> Alias {
    Alias::Host(name.to_owned())
}

fn resource<R: weft_proto::Resource>(name: &str, wire: &R, aliases: &[&str]) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version_of(&wire.encode_to_vec()),
        aliases: aliases.iter().map(ToString::to_string).collect(),
        resource: Some(wire.to_any()),
        ttl: None,
    }
}

/// A service with one port, one slice for it, and routes to `backends` with equal weights.
fn service(name: &str, backends: &[&str]) -> Resource {
    let slice = format!("{name}:80/0");
    let backends = backends.iter().map(|b| v1::WeightedBackend {
        service: (*b).to_owned(),
        port: 80,
        weight: 1,
        ..Default::default()
    });
    let rule = v1::RouteRule { backends: backends.collect(), ..Default::default() };
    let routes = if rule.backends.is_empty() {
        Vec::new()
    } else {
        let name = "shop/split".into();
        vec![v1::Route { name, kind: v1::RouteKind::Http.into(), created: 1, rules: vec![rule], ..Default::default() }]
    };
    let wire = v1::Service {
        name: name.to_owned(),
        ports: vec![v1::ServicePort {
            port: 80,
            protocol: v1::Protocol::Http1.into(),
            frontend: Some(v1::Frontend { routes, ..Default::default() }),
            backend: Some(v1::Backend { slices: vec![slice], ..Default::default() }),
            ..Default::default()
        }],
        ..Default::default()
    };
    let short = name.rsplit('/').next().unwrap();
    resource(name, &wire, &[&format!("host:{short}")])
}

fn slice(service: &str, port: u32) -> Resource {
    let name = format!("{service}:80/0");
    let endpoint = v1::Endpoint {
        uid: format!("{service}-1"),
        address: "192.0.2.1".into(),
        port,
        health: v1::Health::Ready.into(),
        ..Default::default()
    };
    resource(&name, &v1::Endpoints { name: name.clone(), endpoints: vec![endpoint] }, &[])
}

fn services(resources: Vec<Resource>) -> Delta {
    Delta { type_url: type_url::SERVICE.into(), resources, removed: Vec::new() }
}

fn slices(resources: Vec<Resource>) -> Delta {
    Delta { type_url: type_url::ENDPOINTS.into(), resources, removed: Vec::new() }
}

fn removed(type_url: &str, names: &[&str]) -> Delta {
    Delta { type_url: type_url.into(), removed: names.iter().map(ToString::to_string).collect(), ..Delta::default() }
}

fn state() -> State {
    let mut state = State::on_demand("shop/cart-1", "weft.local", Duration::from_secs(600));
    state.connected = true;
    state
}

/// What an alias means in the next snapshot.
fn meaning(state: &State, name: &str) -> Option<Option<String>> {
    state.aliases().get(&host(name)).map(|(service, _)| service.as_ref().map(|s| s.held.resource.version.clone()))
}

fn subscribed(state: &State, url: &'static str) -> Vec<String> {
    state.wanted().remove(url).unwrap_or_default().into_iter().collect()
}

#[test]
fn nothing_is_subscribed_to_without_a_name() {
    let state = state();
    let wanted = state.wanted();
    assert_eq!(wanted[type_url::MESH_SETTINGS], BTreeSet::from(["mesh".to_owned()]));
    assert_eq!(wanted[type_url::TRUST_BUNDLE], BTreeSet::from(["weft.local".to_owned()]));
    assert_eq!(wanted[type_url::INBOUND], BTreeSet::from(["shop/cart-1".to_owned()]));
    assert!(!wanted.contains_key(type_url::SERVICE) && !wanted.contains_key(type_url::ENDPOINTS));
}

#[test]
fn a_service_is_in_force_once_the_endpoints_of_every_backend_are_answered() {
    let mut state = state();
    state.ask(at(0), host("catalog"));
    assert_eq!(subscribed(&state, type_url::SERVICE), ["host:catalog"]);
    state.apply(at(1), &services(vec![service("shop/catalog", &["shop/catalog-v1", "shop/catalog-v2"])]));
    state.settle(at(1));
    assert_eq!(meaning(&state, "catalog"), None, "asked for, and warming");
    assert_eq!(subscribed(&state, type_url::SERVICE), ["host:catalog", "shop/catalog-v1", "shop/catalog-v2"]);

    state.apply(at(2), &services(vec![service("shop/catalog-v1", &[]), service("shop/catalog-v2", &[])]));
    state.settle(at(2));
    assert_eq!(
        subscribed(&state, type_url::ENDPOINTS),
        ["shop/catalog-v1:80/0", "shop/catalog-v2:80/0", "shop/catalog:80/0"]
    );
    state.apply(at(3), &slices(vec![slice("shop/catalog", 80), slice("shop/catalog-v1", 80)]));
    state.settle(at(3));
    assert_eq!(meaning(&state, "catalog"), None, "one backend is still unanswered");
    // That there is none is an answer as well.
    state.apply(at(4), &removed(type_url::ENDPOINTS, &["shop/catalog-v2:80/0"]));
    state.settle(at(4));
    assert!(meaning(&state, "catalog").unwrap().is_some());
    assert_eq!(state.wake(), None);
}

#[test]
fn a_new_version_waits_while_the_old_one_serves_and_is_in_force_after_five_seconds_at_the_latest() {
    let mut state = state();
    state.ask(at(0), host("catalog"));
    state.apply(at(0), &services(vec![service("shop/catalog", &[])]));
    state.settle(at(0));
    state.apply(at(0), &slices(vec![slice("shop/catalog", 80)]));
    state.settle(at(0));
    let old = meaning(&state, "catalog").unwrap().unwrap();

    state.apply(at(10), &services(vec![service("shop/catalog", &["shop/catalog", "shop/catalog-v2"])]));
    state.settle(at(10));
    assert_eq!(meaning(&state, "catalog").unwrap().unwrap(), old, "a shift of weights never meets an empty backend");
    assert_eq!(state.wake(), Some(at(10) + WARMING));
    state.settle(at(10) + WARMING - Duration::from_millis(1));
    assert_eq!(meaning(&state, "catalog").unwrap().unwrap(), old);
    state.settle(at(10) + WARMING);
    assert_ne!(meaning(&state, "catalog").unwrap().unwrap(), old);
    assert_eq!(state.wake(), None);
}

#[test]
fn what_is_refused_keeps_its_last_good_version_while_its_neighbours_apply() {
    let mut state = state();
    state.ask(at(0), host("catalog"));
    state.ask(at(0), host("orders"));
    let good = service("shop/catalog", &[]);
    state.apply(at(0), &services(vec![good.clone()]));
    state.apply(at(0), &slices(vec![slice("shop/catalog", 80), slice("shop/orders", 80)]));
    state.settle(at(0));
    let mut bad = service("shop/catalog", &[]);
    let mut wire = v1::Service::from_any(bad.resource.as_ref().unwrap()).unwrap();
    wire.ports[0].port = 0;
    (bad.resource, bad.version) = (Some(wire.to_any()), "bad".into());
    let refusals = state.apply(at(1), &services(vec![bad, service("shop/orders", &[])]));
    state.settle(at(1));
    assert_eq!(refusals.len(), 1);
    assert_eq!((refusals[0].name.as_str(), refusals[0].version.as_str()), ("shop/catalog", "bad"));
    assert!(refusals[0].field.contains("ports[0].port"), "{refusals:?}");
    assert_eq!(
        state.versions(type_url::SERVICE)["shop/catalog"],
        good.version,
        "a resume offers the last good version"
    );
    assert_eq!(state.refused.len(), 1);
    state.apply(at(2), &slices(vec![slice("shop/orders", 80)]));
    state.settle(at(2));
    assert!(meaning(&state, "orders").unwrap().is_some());
    state.apply(at(3), &services(vec![good]));
    assert!(state.refused.is_empty());
}

#[test]
fn a_name_that_is_not_the_resources_own_is_refused() {
    let mut state = state();
    let mut wrong = service("shop/catalog", &[]);
    wrong.name = "shop/payments".into();
    let refusals = state.apply(at(0), &services(vec![wrong]));
    assert_eq!(refusals[0].field, "name");
}

#[test]
fn an_alias_that_is_absent_is_answered_and_one_that_moves_follows() {
    let mut state = state();
    state.ask(at(0), host("catalog"));
    state.apply(at(0), &removed(type_url::SERVICE, &["host:catalog"]));
    state.settle(at(0));
    assert_eq!(meaning(&state, "catalog"), Some(None), "absent");
    assert_eq!(subscribed(&state, type_url::SERVICE), ["host:catalog"], "and still followed");

    state.apply(at(1), &services(vec![service("shop/catalog", &[])]));
    state.settle(at(1));
    state.apply(at(1), &slices(vec![slice("shop/catalog", 80)]));
    state.settle(at(1));
    assert!(meaning(&state, "catalog").unwrap().is_some());

    // The alias goes to another service, in whichever order the two come.
    let mut other = service("shop/books", &[]);
    other.aliases = vec!["host:catalog".into()];
    state.apply(at(2), &services(vec![other]));
    state.apply(at(2), &slices(vec![slice("shop/books", 80)]));
    let mut without = service("shop/catalog", &["shop/catalog"]);
    without.aliases.clear();
    state.apply(at(2), &services(vec![without]));
    state.settle(at(2));
    state.apply(at(2), &slices(vec![slice("shop/books", 80)]));
    state.settle(at(2));
    let aliases = state.aliases();
    let (service, _) = &aliases[&host("catalog")];
    assert_eq!(&*service.as_ref().unwrap().held.value.name, "shop/books");

    state.apply(at(3), &removed(type_url::SERVICE, &["shop/books"]));
    state.settle(at(3));
    assert_eq!(meaning(&state, "catalog"), Some(None));
}

#[test]
fn an_idle_service_leaves_the_stream_and_serves_again_at_once_when_nobody_answers() {
    let mut state = state();
    state.ask(at(0), host("catalog"));
    state.apply(at(0), &services(vec![service("shop/catalog", &["shop/catalog-v2"])]));
    state.settle(at(0));
    state.apply(at(0), &services(vec![service("shop/catalog-v2", &[])]));
    state.settle(at(0));
    state.apply(at(0), &slices(vec![slice("shop/catalog", 80), slice("shop/catalog-v2", 80)]));
    state.settle(at(0));
    let version = meaning(&state, "catalog").unwrap();
    // In use: stays.
    state.services["shop/catalog"].used.store(true, Ordering::Relaxed);
    state.sweep(at(1_000));
    state.sweep(at(500_000));
    state.settle(at(500_000));
    assert_eq!(subscribed(&state, type_url::SERVICE), ["host:catalog", "shop/catalog-v2"]);
    // Idle for ten minutes: goes, with everything it needed.
    state.sweep(at(601_001));
    state.settle(at(601_001));
    assert_eq!(meaning(&state, "catalog"), None);
    assert!(subscribed(&state, type_url::SERVICE).is_empty() && subscribed(&state, type_url::ENDPOINTS).is_empty());

    state.connected = false;
    state.ask(at(700_000), host("catalog"));
    state.settle(at(700_000));
    assert_eq!(meaning(&state, "catalog").unwrap(), version, "last-known-good");
    assert!(state.services["shop/catalog-v2"].active.is_some(), "with its backends");

    // Connected, it waits a moment for something fresher.
    state.sweep(at(700_001));
    state.sweep(at(1_400_000));
    state.settle(at(1_400_000));
    state.connected = true;
    state.ask(at(1_400_000), host("catalog"));
    state.settle(at(1_400_000));
    assert_eq!(meaning(&state, "catalog"), None);
    state.settle(at(1_400_000) + REFRESH);
    assert_eq!(meaning(&state, "catalog").unwrap(), version);
}

#[test]
fn what_is_remembered_is_in_force_at_once_and_resumes_with_its_versions() {
    let mut first = state();
    first.ask(at(0), host("catalog"));
    first.apply(at(0), &services(vec![service("shop/catalog", &["shop/catalog-v2"]), service("shop/catalog-v2", &[])]));
    first.settle(at(0));
    first.apply(at(0), &services(vec![service("shop/catalog-v2", &[])]));
    first.apply(at(0), &slices(vec![slice("shop/catalog", 80), slice("shop/catalog-v2", 80)]));
    first.settle(at(0));
    let (deltas, aliases) = first.remember();

    let mut second = State::on_demand("shop/cart-1", "weft.local", Duration::from_secs(600));
    assert!(second.recall(at(0), &deltas, aliases).is_empty());
    assert_eq!(meaning(&second, "catalog"), meaning(&first, "catalog"));
    assert!(second.services["shop/catalog-v2"].active.is_some());
    assert_eq!(second.versions(type_url::SERVICE), first.versions(type_url::SERVICE));
    assert_eq!(second.versions(type_url::ENDPOINTS), first.versions(type_url::ENDPOINTS));
    assert_eq!(second.versions(type_url::ENDPOINTS).len(), 2);
    assert_eq!(second.wanted(), first.wanted());
}

#[test]
fn asks_are_bounded_and_the_oldest_unanswered_makes_room() {
    let mut state = state();
    for n in 0..MOST_ASKS as u64 {
        state.ask(at(n), host(&format!("h{n}")));
    }
    state.ask(at(1_000_000), host("new"));
    assert_eq!(state.asks.len(), MOST_ASKS);
    assert!(state.asks.contains_key(&host("new")) && !state.asks.contains_key(&host("h0")));
    state.sweep(at(1_000_000) + PATIENCE);
    assert!(state.asks.is_empty(), "nobody answered");
}

#[test]
fn the_inbound_of_another_workload_is_refused() {
    let mut state = state();
    let other = v1::Inbound { workload: "shop/payments-1".into(), ..Default::default() };
    let delta = Delta {
        type_url: type_url::INBOUND.into(),
        resources: vec![resource("shop/payments-1", &other, &[])],
        removed: Vec::new(),
    };
    assert_eq!(state.apply(at(0), &delta).len(), 1);
    assert!(state.inbound.held.is_none());
}

#[test]
fn roots_and_settings_outlive_a_control_plane_that_forgot_them() {
    let mut state = state();
    let wire =
        v1::MeshSettings { trust_domain: "weft.local".into(), domain: "cluster.local".into(), ..Default::default() };
    let delta = Delta {
        type_url: type_url::MESH_SETTINGS.into(),
        resources: vec![resource("mesh", &wire, &[])],
        removed: Vec::new(),
    };
    assert!(state.apply(at(0), &delta).is_empty());
    state.apply(at(1), &removed(type_url::MESH_SETTINGS, &["mesh"]));
    assert!(state.settings.held.is_some());
}
