//! Facts are judged by what was seen, and every one of them is in the book.

use super::*;
use crate::compile::{Condition, Kind, Output, Packed, ParentVerdict, Variants, Verdict};
use crate::world::World;
use crate::xds::convergence::Refused;
use std::collections::BTreeSet;
use std::sync::Arc;
use weft_proto::v1;

const NOW: i64 = 1_800_000_000;

/// A mesh of which nothing is known.
fn seen() -> Seen {
    Seen {
        compiled: Compiled { generation: 1, ..Compiled::default() },
        instances: HashMap::new(),
        sidecars: Vec::new(),
        certificates: BTreeMap::new(),
        progress: Vec::new(),
        authority: Err("its directory is gone".into()),
        lead: Lead::default(),
        store: Ok(7),
        room: Ok(Room { free: 90 << 30, all: 100 << 30 }),
        now: NOW,
    }
}

fn sidecar(workload: &str) -> Sidecar {
    Sidecar {
        workload: workload.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ready: true,
        draining: false,
        connected_seconds: 100,
        last_report_seconds: Some(2),
        clock_ahead_ms: Some(-40),
    }
}

fn certificate(age: i64, left: i64) -> Option<Certificate> {
    Some(Certificate { not_before: NOW - age, not_after: NOW + left, ..Certificate::default() })
}

fn find(seen: &Seen, name: &str) -> Fact {
    seen.judge().into_iter().find(|fact| fact.name == name).unwrap()
}

fn verdict(kind: Kind, conditions: Vec<Condition>, shapes: &[&str]) -> Arc<Verdict> {
    let shapes: BTreeSet<_> = shapes.iter().map(|name| (weft_proto::type_url::INBOUND, (*name).to_owned())).collect();
    Arc::new(Verdict {
        kind,
        namespace: "shop".into(),
        name: "x".into(),
        uid: String::new(),
        generation: 1,
        parents: vec![ParentVerdict { parent: None, conditions, shapes }],
        rollout: None,
    })
}

#[test]
fn every_fact_leads_to_the_page_that_explains_it() {
    let page = include_str!("../../../../../docs/src/reference/checks.md");
    for fact in seen().judge() {
        assert!(page.contains(&format!("| {} |", fact.name)), "the page does not have {:?}", fact.name);
        let anchor = fact.docs.split_once('#').unwrap().1;
        let heading = page.lines().filter_map(|line| line.strip_prefix("## "));
        assert!(heading.map(|h| h.to_lowercase().replace(' ', "-")).any(|h| h == anchor), "no heading for {anchor}");
        assert_eq!(fact.docs, format!("docs/src/reference/checks.md#{}", fact.category));
        assert_eq!(fact.hint.is_some(), matches!(fact.result, Outcome::Warning | Outcome::Error), "{fact:?}");
    }
}

#[test]
fn what_nobody_can_say_is_skipped_and_said_to_be() {
    let seen = seen();
    let skipped: Vec<_> = seen.judge().into_iter().filter(|f| f.result == Outcome::Skipped).map(|f| f.name).collect();
    assert_eq!(
        skipped,
        [
            "one control plane leads",
            "no rotation of the root is under way",
            "every sidecar's certificate is valid and renewed in time",
            "the clocks of sidecars and control plane agree",
        ]
    );
    assert_eq!(find(&seen, "the roots of the mesh are valid").result, Outcome::Error);
}

#[test]
fn a_clock_that_is_off_is_named_with_how_much() {
    let name = "the clocks of sidecars and control plane agree";
    let mut seen = Seen { sidecars: vec![sidecar("shop/a"), sidecar("shop/b")], ..seen() };
    assert_eq!(find(&seen, name).result, Outcome::Ok);
    seen.sidecars[1].clock_ahead_ms = Some(-7_200);
    let fact = find(&seen, name);
    assert_eq!((fact.result, fact.detail.as_str()), (Outcome::Warning, "shop/b is 7.2 s behind, the most of 2"));
    seen.sidecars[0].clock_ahead_ms = Some(3_600_000);
    assert_eq!(find(&seen, name).result, Outcome::Error);
}

#[test]
fn a_certificate_is_late_in_the_last_quarter_of_its_life() {
    let name = "every sidecar's certificate is valid and renewed in time";
    let with = |certificate| Seen { certificates: [("shop/a".to_owned(), certificate)].into(), ..seen() };
    assert_eq!(find(&with(certificate(60, 40)), name).result, Outcome::Ok);
    assert_eq!(find(&with(certificate(80, 20)), name).result, Outcome::Warning);
    assert_eq!(find(&with(certificate(80, 0)), name).result, Outcome::Error);
    assert_eq!(find(&with(None), name).result, Outcome::Skipped);
}

#[test]
fn sidecars_are_judged_by_what_they_are_what_they_say_and_what_they_refuse() {
    let mut seen = Seen { sidecars: vec![sidecar("shop/a"), sidecar("shop/b")], ..seen() };
    assert!(seen.judge().iter().filter(|f| f.category == "sidecars").all(|f| f.result == Outcome::Ok));
    seen.sidecars[0].version = "0.0.1".into();
    seen.sidecars[1].last_report_seconds = Some(50);
    assert!(find(&seen, "every sidecar is of the control plane's version").detail.starts_with("1 of 0.0.1, "));
    assert_eq!(find(&seen, "every sidecar reports").detail, "silent: shop/b");
    let refused =
        Refused { sidecar: "shop/b".into(), resource: "shop/x".into(), field: "ports[0]".into(), reason: "no".into() };
    seen.progress = vec![Progress { hold: 0, need: 2, refused: vec![refused] }];
    assert_eq!(find(&seen, "every sidecar holds the newest configuration").result, Outcome::Warning);
    let fact = find(&seen, "no sidecar has refused anything");
    assert_eq!((fact.result, fact.detail.as_str()), (Outcome::Error, "shop/b refuses shop/x: ports[0]: no"));
}

#[test]
fn policies_are_judged_by_their_conditions_and_by_what_they_shape() {
    let missing = || Condition::resolved(&[("BackendNotFound", "there is no Service shop/gone".to_owned())]);
    let all = || vec![Condition::accepted(), Condition::resolved(&[])];
    let verdicts = vec![
        verdict(Kind::HttpRoute, vec![Condition::accepted(), missing()], &["a"]),
        verdict(Kind::MeshTls, all(), &[]),
        verdict(Kind::TrafficPolicy, vec![Condition::refused("Invalid", "spec.x: no")], &["a"]),
        verdict(Kind::AuthorizationPolicy, all(), &["shop/a"]),
    ];
    let output = Arc::new(Output { verdicts, ..Output::default() });
    let seen = Seen { compiled: Compiled { output, generation: 1, ..Compiled::default() }, ..seen() };
    let told = |name| {
        let fact = find(&seen, name);
        (fact.result, fact.detail)
    };
    let route = "HTTPRoute shop/x: there is no Service shop/gone (BackendNotFound)".to_owned();
    assert_eq!(told("every backend of a route exists"), (Outcome::Error, route));
    assert_eq!(told("every target of a policy exists"), (Outcome::Ok, String::new()));
    let refused = "TrafficPolicy shop/x: spec.x: no (Invalid)".to_owned();
    assert_eq!(told("every route and policy is accepted"), (Outcome::Error, refused));
    assert_eq!(told("every policy is about somebody"), (Outcome::Warning, "about nobody: MeshTLS shop/x".into()));
}

#[test]
fn services_are_judged_by_who_answers_and_what_they_speak() {
    let mut world = World::default();
    let mut output = Output::default();
    for (name, protocol) in [("shop/a", v1::Protocol::Http1), ("shop/b", v1::Protocol::Detect)] {
        world.services.insert(name, Arc::default());
        let port = v1::ServicePort { port: 80, protocol: protocol.into(), ..Default::default() };
        let default = Packed::service(&v1::Service { name: name.into(), ports: vec![port], ..Default::default() });
        output.services.insert(name, Arc::new(Variants { default, by_namespace: BTreeMap::new() }));
    }
    let (world, output) = (Arc::new(world), Arc::new(output));
    let seen = Seen {
        compiled: Compiled { world, output, generation: 1, ..Compiled::default() },
        instances: [("shop/a".to_owned(), (0, 2))].into(),
        ..seen()
    };
    assert_eq!(find(&seen, "every service has a ready endpoint").detail, "none is ready: shop/a");
    assert_eq!(find(&seen, "every service has an endpoint").detail, "nobody serves: shop/b");
    assert_eq!(find(&seen, "the protocol of every port is said").detail, "detected: shop/b:80");
}
