//! Laws of server-side apply over documents made at random, and what Kubernetes words as it does.

use std::{collections::BTreeMap, sync::LazyLock};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::kinds::{self, Kind};

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let number = json!({"type": "integer"});
    let item = json!({"type": "object", "properties": {
        "name": {"type": "string"}, "proto": {"type": "string", "default": "TCP"}, "v": number, "w": number}});
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "a": number, "b": number,
        "nested": {"type": "object", "properties": {"p": number, "q": number}},
        "map": {"type": "object", "additionalProperties": number},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "proto"], "items": item},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "whole": {"type": "array", "items": number},
        "atom": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": number},
    }}}})
});

fn schema() -> Schema<'static> {
    Schema::new(&SCHEMA)
}

/// What can be said of an object, one thing each.
const LEAVES: usize = 13;

fn say(spec: &mut Value, leaf: usize, value: i64) {
    let in_list = |spec: &mut Value, name: &str, field: &str| {
        let list = spec["list"].take();
        let mut list = list.as_array().cloned().unwrap_or_default();
        if !list.iter().any(|e| e["name"] == name) {
            list.push(json!({"name": name}));
        }
        for entry in list.iter_mut().filter(|e| e["name"] == name) {
            entry[field] = value.into();
        }
        spec["list"] = list.into();
    };
    let in_set = |spec: &mut Value, text: String| {
        let mut set = spec["set"].take().as_array().cloned().unwrap_or_default();
        set.push(text.into());
        spec["set"] = set.into();
    };
    match leaf {
        0 => spec["a"] = value.into(),
        1 => spec["b"] = value.into(),
        2 => spec["nested"]["p"] = value.into(),
        3 => spec["nested"]["q"] = value.into(),
        4 => spec["map"]["k1"] = value.into(),
        5 => spec["map"]["k2"] = value.into(),
        6 => in_list(spec, "x", "v"),
        7 => in_list(spec, "x", "w"),
        8 => in_list(spec, "y", "v"),
        9 => in_set(spec, format!("s{value}")),
        10 => in_set(spec, format!("t{value}")),
        11 => spec["whole"] = json!([value, value]),
        _ => spec["atom"] = json!({"k": value}),
    }
}

type Said = BTreeMap<usize, i64>;

fn document(said: &Said) -> Value {
    let mut spec = json!({});
    said.iter().for_each(|(leaf, value)| say(&mut spec, *leaf, *value));
    if spec == json!({}) { json!({}) } else { json!({ "spec": spec }) }
}

fn said() -> impl Strategy<Value = Said> {
    prop::collection::btree_map(0..LEAVES, 1i64..4, 0..LEAVES)
}

/// What two managers say, nothing of it both.
fn apart() -> impl Strategy<Value = (Said, Said)> {
    (said(), prop::collection::vec(any::<bool>(), LEAVES))
        .prop_map(|(all, whose)| all.into_iter().partition(|(leaf, _)| whose.get(*leaf).copied().unwrap_or_default()))
}

fn writer(manager: &str, time: &str) -> Writer {
    Writer { manager: manager.into(), api_version: "v1".into(), subresource: "", time: time.into() }
}

/// Applies to an object of a kind that the API serves.
fn to(kind: &'static Kind, live: &Value, known: &Managers, wish: Wish<'_>) -> Result<(Value, Managers), Refusal> {
    applied(Schema::of(kind), live, known.clone(), wish, |_| {})
}

struct Object {
    value: Value,
    managers: Managers,
}

impl Object {
    fn none() -> Self {
        Self { value: Value::Null, managers: Managers::default() }
    }

    fn apply(&self, manager: &str, wanted: &Value, force: bool) -> Result<Self, Refusal> {
        let writer = writer(manager, "2026-01-01T00:00:00Z");
        let managers = self.managers.clone();
        let wish = Wish { wanted, writer: &writer, reach: Reach::All, force };
        let (value, managers) = applied(schema(), &self.value, managers, wish, |_| {})?;
        let managers = Managers::decode(&managers.encode()).unwrap_or_default();
        Ok(Self { value, managers })
    }

    fn update(&self, manager: &str, value: Value) -> Self {
        let writer = writer(manager, "2026-01-02T00:00:00Z");
        let managers = updated(schema(), &self.value, &value, self.managers.clone(), &writer, Reach::All);
        Self { value, managers }
    }

    fn fields(&self, manager: &str) -> Vec<String> {
        self.managers.0.iter().filter(|e| e.manager == manager).flat_map(|e| e.fields.paths()).collect()
    }
}

/// Lists that merge have an order that depends on who came first, and which says nothing.
fn sorted(mut value: Value) -> Value {
    for list in ["list", "set"] {
        if let Some(Value::Array(list)) = value.pointer_mut(&format!("/spec/{list}")) {
            list.sort_by_key(ToString::to_string);
        }
    }
    // An empty spec is none.
    if value["spec"] == json!({}) { json!({}) } else { value }
}

proptest! {
    #[test]
    fn what_is_applied_twice_changes_nothing_the_second_time(first in said(), other in said()) {
        let object = Object::none().apply("ana", &document(&first), false).unwrap();
        let object = object.apply("ben", &document(&other), true).unwrap();
        let object = object.apply("ana", &document(&first), true).unwrap();
        let again = object.apply("ana", &document(&first), false).unwrap();
        prop_assert_eq!((&again.value, &again.managers), (&object.value, &object.managers));
    }

    #[test]
    fn managers_that_say_different_things_may_come_in_any_order((ana, ben) in apart()) {
        let (ana, ben) = (document(&ana), document(&ben));
        let one = Object::none().apply("ana", &ana, false).unwrap().apply("ben", &ben, false).unwrap();
        let two = Object::none().apply("ben", &ben, false).unwrap().apply("ana", &ana, false).unwrap();
        prop_assert_eq!(sorted(one.value.clone()), sorted(two.value.clone()));
        for who in ["ana", "ben"] {
            prop_assert_eq!(one.fields(who), two.fields(who));
        }
    }

    #[test]
    fn who_gives_up_takes_exactly_its_own_along((ana, ben) in apart()) {
        let (ana, ben) = (document(&ana), document(&ben));
        let alone = Object::none().apply("ben", &ben, false).unwrap();
        let both = Object::none().apply("ana", &ana, false).unwrap().apply("ben", &ben, false).unwrap();
        let left = both.apply("ana", &json!({}), false).unwrap();
        prop_assert_eq!(sorted(left.value.clone()), sorted(alone.value.clone()));
        prop_assert_eq!(left.fields("ben"), alone.fields("ben"));
        prop_assert!(left.fields("ana").is_empty());
    }

    #[test]
    fn only_another_value_of_anothers_field_is_a_conflict(ana in said(), ben in said()) {
        let there = Object::none().apply("ana", &document(&ana), false).unwrap();
        // Sets have no fields with values: each value is an entry of its own.
        let disputed = ben.iter().any(|(leaf, value)| {
            !matches!(leaf, 9 | 10) && ana.get(leaf).is_some_and(|theirs| theirs != value)
        });
        let tried = there.apply("ben", &document(&ben), false);
        prop_assert_eq!(disputed, matches!(tried, Err(Refusal::Conflicts(_))));
        let taken = there.apply("ben", &document(&ben), true).unwrap();
        let kept: Said = ana.into_iter().filter(|(leaf, _)| matches!(leaf, 9 | 10) || !ben.contains_key(leaf)).collect();
        let wanted = Object::none().apply("x", &document(&kept), false).unwrap().apply("y", &document(&ben), false).unwrap();
        prop_assert_eq!(sorted(taken.value), sorted(wanted.value));
    }
}

#[test]
fn a_conflict_names_the_manager_and_the_field() {
    let there = Object::none().apply("ana", &document(&Said::from([(0, 1), (6, 1)])), false).unwrap();
    let Err(Refusal::Conflicts(found)) = there.apply("ben", &document(&Said::from([(0, 2), (6, 2)])), false) else {
        panic!("ana owns both");
    };
    let found: Vec<(&str, &str)> = found.iter().map(|c| (c.manager.as_str(), c.field.as_str())).collect();
    assert_eq!(found, [("\"ana\"", ".spec.a"), ("\"ana\"", ".spec.list[name=\"x\",proto=\"TCP\"].v")]);
    let written = there.update("hand", document(&Said::from([(0, 3), (6, 1)])));
    assert_eq!(written.fields("ana").iter().filter(|f| *f == ".spec.a").count(), 0, "it is the hand's now");
    let Err(Refusal::Conflicts(found)) = written.apply("ana", &document(&Said::from([(0, 1), (6, 1)])), false) else {
        panic!("the hand owns it");
    };
    assert_eq!((found[0].manager.as_str(), found.len()), ("\"hand\" using v1", 1));
}

#[test]
fn what_two_want_alike_stays_until_neither_does() {
    let same = document(&Said::from([(0, 1), (4, 2)]));
    let both = Object::none().apply("ana", &same, false).unwrap().apply("ben", &same, false).unwrap();
    let one = both.apply("ana", &json!({}), false).unwrap();
    assert_eq!(one.value, same);
    assert_eq!(one.apply("ben", &json!({}), false).unwrap().value, json!({}));
}

#[test]
fn what_was_there_before_anybody_applied_has_an_owner() {
    let old = Object { value: document(&Said::from([(0, 1), (1, 1)])), managers: Managers::default() };
    let Err(Refusal::Conflicts(found)) = old.apply("ana", &document(&Said::from([(0, 2)])), false) else {
        panic!("somebody wrote it");
    };
    assert_eq!(found[0].manager, "\"before-first-apply\" using v1");
    let taken = old.apply("ana", &document(&Said::from([(0, 2)])), true).unwrap();
    assert_eq!(taken.fields("before-first-apply"), [".spec.b"]);
}

#[test]
fn a_client_side_apply_is_taken_over_by_its_heir_alone() {
    let service = kinds::find("", "v1", "services").unwrap();
    let wanted = |port: u16| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "cart"}, "spec": {"ports": [{"name": "http", "port": port}], "type": "ClusterIP"}});
    let mut live = wanted(80);
    live["metadata"]["annotations"] = json!({ LAST_APPLIED: wanted(80).to_string() });
    live["spec"]["ports"][0]["protocol"] = "TCP".into();
    let known = updated(
        Schema::of(service),
        &json!({}),
        &live,
        Managers::default(),
        &writer("kubectl-client-side-apply", "t"),
        Reach::Main,
    );
    let mut next = wanted(80);
    next["spec"]["type"] = "NodePort".into();
    let by = |who: &str| {
        to(service, &live, &known, Wish { wanted: &next, writer: &writer(who, "t"), reach: Reach::Main, force: false })
    };
    assert!(by("kubectl").is_ok() && by("weft").is_ok());
    assert!(matches!(by("ana"), Err(Refusal::Conflicts(c)) if c[0].field == ".spec.type"));
    // What somebody changed since is theirs, whatever the record says.
    let mut hand = live.clone();
    hand["spec"]["type"] = "LoadBalancer".into();
    let known = updated(Schema::of(service), &live, &hand, known, &writer("hand", "t"), Reach::Main);
    let kubectl = writer("kubectl", "t");
    let tried = to(service, &hand, &known, Wish { wanted: &next, writer: &kubectl, reach: Reach::Main, force: false });
    assert!(matches!(tried, Err(Refusal::Conflicts(c)) if c[0].manager == "\"hand\" using v1"));
}

#[test]
fn entries_that_cannot_be_told_apart_are_refused() {
    for list in [json!([{"v": 1}]), json!([{"name": "a"}, {"name": "a", "proto": "TCP"}])] {
        let tried = Object::none().apply("ana", &json!({"spec": {"list": list}}), false);
        assert!(matches!(tried, Err(Refusal::Ambiguous(path)) if path == ".spec.list"));
    }
}

#[test]
fn owners_are_bounded_in_number() {
    let mut object = Object::none();
    for i in 0..40 {
        let mut value = if object.value.is_null() { json!({"spec": {}}) } else { object.value.clone() };
        value["spec"]["map"][format!("k{i}")] = i.into();
        object = object.update(&format!("m{i}"), value);
    }
    let known = Managers::decode(&object.managers.clone().encode()).unwrap();
    assert_eq!(known.0.len(), 10);
    let old = known.0.iter().find(|e| e.manager == "ancient-changes").unwrap();
    assert!(old.fields.paths().contains(&".spec.map.k0".to_owned()));
    let mut object = Object::none();
    let applies = (0..80).map(|i| {
        object = object.apply(&format!("m{i}"), &json!({"spec": {"map": {format!("k{i}"): 1}}}), false)?;
        Ok(())
    });
    assert_eq!(applies.collect::<Result<Vec<()>, Refusal>>().err(), Some(Refusal::Full));
}

#[test]
fn status_and_the_rest_have_owners_of_their_own() {
    let kind = kinds::find("weft.mesh", "v1alpha1", "workloads").unwrap();
    let wanted = json!({"metadata": {"name": "a", "labels": {"app": "a"}}, "spec": {"address": "192.0.2.1"}});
    let ana = writer("ana", "t");
    let wish = Wish { wanted: &wanted, writer: &ana, reach: Reach::Main, force: false };
    let (live, known) = to(kind, &Value::Null, &Managers::default(), wish).unwrap();
    let status = Writer { subresource: "status", ..ana };
    let said = json!({"metadata": {"name": "a"}, "status": {"phase": "Ready"}});
    let wish = Wish { wanted: &said, writer: &status, reach: Reach::Status, force: false };
    let (live, known) = to(kind, &live, &known, wish).unwrap();
    assert_eq!((&live["status"]["phase"], &live["spec"]["address"]), (&json!("Ready"), &json!("192.0.2.1")));
    let encoded = known.encode();
    assert_eq!(encoded[0]["fieldsV1"], json!({"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:address": {}}}));
    assert_eq!(
        (&encoded[1]["subresource"], &encoded[1]["fieldsV1"]),
        (&json!("status"), &json!({"f:status": {"f:phase": {}}}))
    );
}

#[test]
fn whoever_says_all_owners_is_believed_and_nonsense_is_not() {
    let there = Object::none().apply("ana", &document(&Said::from([(0, 1)])), false).unwrap().managers.encode();
    let moved = json!([{"manager": "ben", "operation": "Apply", "apiVersion": "v1", "time": "t", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:a": {}}}}]);
    assert_eq!(owners(&moved, &there).0[0].manager, "ben");
    for nonsense in [Value::Null, json!([]), json!([{"manager": "x"}]), json!(7)] {
        assert_eq!(owners(&nonsense, &there).0[0].manager, "ana", "{nonsense}");
    }
    assert!(owners(&json!([{}]), &there).0.is_empty());
}
