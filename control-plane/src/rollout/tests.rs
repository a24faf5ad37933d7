//! Changes from the moment that they are seen to their end, restarts included; and the streams of sidecars meanwhile.

use super::book::Rollouts;
use super::object::{Id, Object};
use super::record::{self, Progress, Record};
use super::*;
use crate::compile::tests::{put, world};
use crate::compile::{Compiler, Output, Stage};
use crate::store;
use crate::xds::interest::Topic;
use crate::xds::session::Session;
use crate::xds::{Client, Offer};
use prost::Message as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_proto::discovery::DeltaDiscoveryRequest;
use weft_proto::{type_url, v1};

#[path = "conduct_tests.rs"]
mod conducting;

const SHOP: &str = "kind: Service\nmetadata: {name: cart}\nspec: {clusterIP: 198.18.0.1, ports: [{name: http, port: 80}]}\n---\n\
    kind: MeshSettings\nmetadata: {name: default}\nspec: {rollout: {percent: 5, duration: 60s}}";

fn policy(generation: i64, timeout: &str) -> Value {
    json!({
        "kind": "TrafficPolicy",
        "metadata": {"namespace": "shop", "name": "cart", "uid": "u", "generation": generation},
        "spec": {"targetRefs": [{"kind": "Service", "name": "cart"}], "timeouts": {"request": timeout}},
    })
}

/// A mesh whose sidecars and store are here.
struct Plane {
    world: World,
    compiler: Compiler,
    rollouts: Rollouts,
    offer: Offer,
    /// What streams have been told of since they looked.
    topics: Vec<Topic>,
    revision: u64,
    stored: BTreeMap<String, (u64, Vec<u8>)>,
}

impl Plane {
    fn new() -> Self {
        let mut plane = Self {
            world: world(SHOP),
            compiler: Compiler::default(),
            rollouts: Rollouts::default(),
            offer: Offer::default(),
            topics: Vec::new(),
            revision: 0,
            stored: BTreeMap::new(),
        };
        plane.apply(policy(1, "1s"));
        // What is there at the start is in force.
        plane.rollouts = Rollouts::default();
        plane.compile();
        plane
    }

    fn apply(&mut self, object: Value) {
        put(&mut self.world, object, 1_700_000_000);
        self.compile();
    }

    /// Everything that follows from the world; the output for all.
    fn compile(&mut self) -> Output {
        let plan = self.rollouts.stage(&self.world);
        let output = self.compiler.compile(plan.stable.as_deref().unwrap_or(&self.world));
        let [trial, unknown] =
            [&plan.trial, &plan.unknown].map(|w| w.as_ref().map(|w| self.compiler.clone().compile(w)));
        let made = [&trial, &unknown].into_iter().flatten();
        self.rollouts.learn(made.flat_map(|output| &output.verdicts));
        let trial = trial.as_ref().filter(|_| !plan.sample.is_empty());
        let (offer, topics) = self.offer.next(&output, trial.map(|trial| (trial, plan.sample.clone())));
        self.offer = offer;
        self.topics.extend(topics);
        output
    }

    /// Writes that the only change has got so far.
    fn write(&mut self, progress: Progress) {
        let held = self.rollouts.held();
        let write = record::write(&held[0].id, held[0].revision, Some(&held[0].record(progress))).unwrap();
        self.revision += 1;
        let value = write.value.unwrap();
        self.stored.insert(write.key.name.to_string(), (self.revision, value.to_vec()));
        let stored = store::Record { key: write.key, revision: self.revision, value };
        let (id, record) = record::read(&stored).unwrap();
        self.rollouts.note(id, self.revision, Some(record));
        self.compile();
    }

    fn trying(&mut self) {
        self.write(Progress::Trying { sample: vec!["shop/web-1".into()], of: 20, began: 7 });
    }

    /// Another process, with what is in the store and the API.
    fn restart(&mut self) {
        let read = |(name, (revision, value)): (&String, &(u64, Vec<u8>))| {
            let key = store::Key::new(record::RESOURCE, "shop", name.as_str());
            let stored = store::Record { key, revision: *revision, value: value.clone().into() };
            let (id, record) = record::read(&stored).unwrap();
            (id, (*revision, record))
        };
        let rollouts = Rollouts::default();
        rollouts.replace(self.stored.iter().map(read).collect());
        (self.rollouts, self.compiler, self.offer) = (rollouts, Compiler::default(), Offer::default());
        self.compile();
    }

    /// The timeout of calls to cart in seconds, for the sidecar of a workload.
    fn timeout(&self, workload: &str) -> i64 {
        let client = Client { identity: "spiffe://weft.local/ns/shop/sa/web".into(), namespace: "shop".into() };
        let found = self.offer.of(Some(workload)).lookup(&client, type_url::SERVICE, "shop/cart").unwrap();
        let service = v1::Service::decode(&*found.value).unwrap();
        service.ports[0].frontend.as_ref().and_then(|f| f.request_timeout).map_or(0, |timeout| timeout.seconds)
    }

    /// For one in the sample, and one that is not.
    fn timeouts(&self) -> (i64, i64) {
        (self.timeout("shop/web-1"), self.timeout("shop/web-2"))
    }

    fn note(&mut self) -> Option<(Stage, String)> {
        let output = self.compile();
        let all = self.rollouts.verdicts(&output.verdicts);
        let own = all.iter().find(|verdict| verdict.name == "cart").unwrap();
        own.rollout.clone().map(|note| (note.stage, note.message))
    }
}

#[test]
fn a_change_is_held_back_tried_by_the_sample_and_then_in_force_for_all() {
    let mut plane = Plane::new();
    assert_eq!(plane.timeouts(), (1, 1));
    assert!(plane.rollouts.held().is_empty() && plane.note().is_none());
    plane.apply(policy(2, "2s"));
    assert_eq!(plane.timeouts(), (1, 1), "nobody has decided anything yet");
    assert_eq!(plane.note().unwrap().0, Stage::Waiting);
    plane.trying();
    assert_eq!(plane.timeouts(), (2, 1));
    let (stage, message) = plane.note().unwrap();
    assert_eq!(stage, Stage::Trying);
    assert!(message.starts_with("1 of 20 sidecars run generation 2 for 1m,"), "{message}");
    plane.write(Progress::Promoted { message: String::new() });
    assert_eq!(plane.timeouts(), (2, 2));
    assert!(plane.note().is_none() && plane.rollouts.held().is_empty());
    plane.restart();
    assert_eq!(plane.timeouts(), (2, 2));
}

#[test]
fn what_is_rolled_back_stays_so_until_it_is_written_anew_and_no_restart_lets_it_in() {
    let mut plane = Plane::new();
    plane.apply(policy(2, "2s"));
    plane.trying();
    plane.write(Progress::RolledBack { message: "error rate rose".into() });
    let check = |plane: &mut Plane| {
        assert_eq!(plane.timeouts(), (1, 1));
        let (stage, message) = plane.note().unwrap();
        assert_eq!(stage, Stage::RolledBack);
        assert!(message.contains("generation 2 is rolled back") && message.ends_with("error rate rose"), "{message}");
    };
    check(&mut plane);
    plane.apply(policy(2, "2s"));
    check(&mut plane);
    plane.restart();
    check(&mut plane);
    // Nor does it come back when nobody rolls out changes any more.
    plane.apply(json!({"kind": "MeshSettings", "metadata": {"name": "default"}, "spec": {}}));
    check(&mut plane);
    plane.restart();
    check(&mut plane);
    plane.apply(json!({"kind": "MeshSettings", "metadata": {"name": "default"}, "spec": {"rollout": {}}}));
    plane.apply(policy(3, "3s"));
    assert_eq!(plane.timeouts(), (1, 1), "it begins anew");
    plane.trying();
    assert_eq!(plane.timeouts(), (3, 1));
    plane.apply(policy(4, "1s"));
    assert_eq!(plane.timeouts(), (1, 1));
    assert!(plane.rollouts.held().is_empty(), "what is in force already needs no rollout");
    assert_eq!(plane.rollouts.useless().len(), 1, "and its record says nothing any more");
}

#[test]
fn a_restart_in_the_middle_goes_on_with_the_same_sample() {
    let mut plane = Plane::new();
    plane.apply(policy(2, "2s"));
    plane.write(Progress::Waiting);
    plane.restart();
    assert_eq!((plane.timeouts(), plane.note().unwrap().0), ((1, 1), Stage::Waiting));
    plane.trying();
    plane.restart();
    assert_eq!((plane.timeouts(), plane.note().unwrap().0), ((2, 1), Stage::Trying));
    let held = plane.rollouts.held().remove(0);
    assert_eq!(held.progress, Some(Progress::Trying { sample: vec!["shop/web-1".into()], of: 20, began: 7 }));
    assert_eq!(held.last_good.unwrap().generation(), 1);
}

#[test]
fn new_objects_wait_deleted_ones_go_at_once_and_an_annotation_has_the_last_word() {
    let mut plane = Plane::new();
    let mut off = policy(2, "2s");
    off["metadata"]["annotations"] = json!({"weft.mesh/rollout": "off"});
    plane.apply(off.clone());
    assert_eq!(plane.timeouts(), (2, 2), "at once");
    plane.apply(policy(3, "3s"));
    plane.write(Progress::RolledBack { message: String::new() });
    assert_eq!(plane.timeouts(), (2, 2));
    off["metadata"]["generation"] = 3.into();
    off["spec"]["timeouts"]["request"] = "3s".into();
    plane.apply(off);
    assert_eq!(plane.timeouts(), (3, 3), "who says so gets what was rolled back");
    plane.world.traffic.remove("shop/cart");
    plane.compile();
    let without = plane.timeouts();
    assert!(plane.rollouts.held().is_empty());
    assert_eq!(plane.rollouts.useless().len(), 1, "its record goes with it");
    let mut anew = policy(1, "5s");
    anew["metadata"]["uid"] = "v".into();
    plane.apply(anew);
    assert_eq!(plane.timeouts(), without, "nothing was in force before");
    assert_eq!(plane.note().unwrap().0, Stage::Waiting, "it has a fate before it is in force");
    plane.trying();
    assert_eq!(plane.timeouts(), (5, without.1));
}

#[test]
fn a_second_change_waits_for_the_first_and_turning_rollouts_off_ends_them() {
    let mut plane = Plane::new();
    plane.apply(policy(2, "2s"));
    plane.trying();
    let mut second = policy(1, "7s");
    second["metadata"]["name"] = "other".into();
    second["metadata"]["uid"] = "w".into();
    second["spec"]["targetRefs"] = json!([{"kind": "Service", "name": "nobody"}]);
    plane.apply(second);
    let output = plane.compile();
    let said = plane.rollouts.verdicts(&output.verdicts);
    let of = |name: &str| said.iter().find(|verdict| verdict.name == name).unwrap().rollout.clone().unwrap();
    assert_eq!(of("other").message, "generation 1 waits for the rollout of TrafficPolicy shop/cart");
    assert_eq!((of("other").stage, of("cart").stage), (Stage::Waiting, Stage::Trying));
    plane.apply(json!({"kind": "MeshSettings", "metadata": {"name": "default"}, "spec": {}}));
    assert_eq!(plane.timeouts(), (2, 2));
    assert!(plane.rollouts.held().is_empty());
}

#[test]
fn every_kind_is_kept_as_a_document_and_read_again() {
    let meta = json!({"namespace": "shop", "name": "x", "uid": "u"});
    let route = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "cart"}], "rules": []});
    let policies = [
        ("AuthorizationPolicy", json!({"action": "Deny"})),
        ("MeshTLS", json!({"mode": "Permissive"})),
        ("RateLimitPolicy", json!({"targetRefs": [], "limits": [{"name": "a", "requests": 1, "per": "1s"}]})),
        ("RequestAuthentication", json!({"rules": [{"issuer": "a", "jwksUri": "https://a.test/"}]})),
        ("TrafficPolicy", json!({"targetRefs": [{"kind": "Service", "name": "cart"}], "timeouts": {"request": "1s"}})),
    ];
    let routes = ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"].map(|kind| (kind, route.clone()));
    let mut seen = 0;
    for (kind, spec) in policies.into_iter().chain(routes) {
        let mut one = World::default();
        put(&mut one, json!({"apiVersion": "weft.mesh/v1alpha1", "kind": kind, "metadata": meta, "spec": spec}), 7);
        let id = Id { kind: kind_named(kind).unwrap(), key: "shop/x".into() };
        let object = object::get(&one, &id).unwrap();
        let record =
            Record { uid: "u".into(), generation: 1, progress: Progress::Waiting, last_good: Some(object.document()) };
        let write = record::write(&id, None, Some(&record)).unwrap();
        let stored = store::Record { key: write.key, revision: 1, value: write.value.unwrap() };
        let (read_id, read) = record::read(&stored).unwrap();
        assert_eq!((&read_id, &read), (&id, &record), "{kind}");
        let again = Object::read(id.kind, &read.last_good.unwrap()).unwrap();
        assert!(again.is_same(&object) && (again.uid(), again.generation()) == ("u", 1), "{kind}");
        let mut two = World::default();
        object::put(&mut two, &id, Some(again));
        assert!(object::get(&two, &id).unwrap().is_same(&object), "{kind}");
        assert_eq!(object::changes(&World::default(), &two).len(), 1, "{kind}");
        object::put(&mut two, &id, None);
        assert!(object::get(&two, &id).is_none(), "{kind}");
        seen += 1;
    }
    assert_eq!(seen, object::KINDS.len());
}

#[test]
fn tls_that_is_switched_off_is_switched_off_for_all_at_once() {
    let mut plane = Plane::new();
    let tls = |generation: i64, mode: &str| json!({"kind": "MeshTLS", "metadata": {"namespace": "shop", "name": "t", "uid": "t", "generation": generation}, "spec": {"mode": mode}});
    plane.apply(tls(1, "Disabled"));
    assert!(plane.rollouts.held().is_empty());
    plane.apply(tls(2, "Strict"));
    assert!(plane.rollouts.held().is_empty(), "nor is it switched on for some");
    plane.apply(tls(3, "Permissive"));
    assert_eq!(plane.rollouts.held().len(), 1);
}

/// The sidecar of a workload that calls cart.
struct Stream {
    session: Session,
    workload: &'static str,
    /// Versions of cart that it was sent.
    seen: Vec<String>,
}

impl Stream {
    fn open(workload: &'static str, offer: &Offer) -> Self {
        let client = Client { identity: "spiffe://weft.local/ns/shop/sa/web".into(), namespace: "shop".into() };
        let mut session = Session::new(client);
        let ask = DeltaDiscoveryRequest {
            type_url: type_url::SERVICE.into(),
            resource_names_subscribe: vec!["host:cart.shop".into()],
            ..Default::default()
        };
        session.request(ask, offer.of(Some(workload))).unwrap();
        Self { session, workload, seen: Vec::new() }
    }

    fn poll(&mut self, plane: &Plane) -> usize {
        let before = self.seen.len();
        self.session.changed(plane.topics.iter().cloned());
        while let Some(response) = self.session.response(plane.offer.of(Some(self.workload))) {
            self.seen.extend(response.resources.into_iter().map(|resource| resource.version));
        }
        self.seen.len() - before
    }
}

#[test]
fn streams_of_the_sample_get_the_change_and_are_woken_for_it_and_all_end_on_the_same_version() {
    let mut plane = Plane::new();
    let (mut web1, mut web2) = (Stream::open("shop/web-1", &plane.offer), Stream::open("shop/web-2", &plane.offer));
    // They have just asked, and need not be woken.
    assert_eq!((web1.poll(&plane), web2.poll(&plane)), (1, 1));
    let mut step = |plane: &mut Plane, act: &dyn Fn(&mut Plane)| {
        plane.topics.clear();
        act(plane);
        let sent = (web1.poll(plane), web2.poll(plane));
        (sent, web1.seen.last().cloned(), web2.seen.last().cloned())
    };
    let (_, first, _) = step(&mut plane, &|_| {});
    assert_eq!(step(&mut plane, &|plane| plane.apply(policy(2, "2s"))).0, (0, 0));
    let (sent, tried, old) = step(&mut plane, &Plane::trying);
    assert_eq!((sent, &old), ((1, 0), &first));
    // What changes for all meanwhile reaches both, each in its own edition.
    let more = json!({
        "kind": "Service", "metadata": {"namespace": "shop", "name": "cart"},
        "spec": {"clusterIP": "198.18.0.9", "ports": [{"name": "http", "port": 80}]},
    });
    let (sent, both_tried, both_old) = step(&mut plane, &|plane| plane.apply(more.clone()));
    assert_eq!(sent, (1, 1));
    assert!(both_tried != tried && both_old != old && both_tried != both_old);
    let back = Progress::RolledBack { message: String::new() };
    let (sent, is, was) = step(&mut plane, &|plane| plane.write(back.clone()));
    assert_eq!((sent, &is), ((1, 0), &was));
    step(&mut plane, &|plane| plane.apply(policy(3, "3s")));
    let (sent, tried, _) = step(&mut plane, &Plane::trying);
    assert_eq!(sent, (1, 0));
    let promoted = Progress::Promoted { message: String::new() };
    let (sent, last, other) = step(&mut plane, &|plane| plane.write(promoted.clone()));
    assert_eq!((sent, &last, &other), ((0, 1), &tried, &tried), "who had it already is sent nothing");
    assert!(plane.offer.canary.is_none(), "one snapshot is left");
    drop(Arc::clone(&plane.offer.stable));
}
