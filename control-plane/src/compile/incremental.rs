//! That a compilation after a change gives what one from nothing would: random edits of a small world, compared after each.

use super::tests::{key, of_kind, put, world};
use super::*;
use crate::kinds::Phase;
use crate::rollout::Rollouts;
use crate::rollout::record::Progress;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng};
use serde_json::{Value, json};

const NAMESPACES: [&str; 2] = ["shop", "bank"];
const ISSUERS: [&str; 2] = ["https://a.test/jwks", "https://b.test/jwks"];
const NAMES: [&str; 4] = ["cart", "catalog", "orders", "web"];

fn pick<'a>(random: &mut StdRng, of: &[&'a str]) -> &'a str {
    of.choose(random).copied().unwrap_or_default()
}

/// An object of a random kind, name and content; with `faults`, some are such that they are refused.
fn object(random: &mut StdRng, faults: bool) -> Value {
    let (namespace, name) = (pick(random, &NAMESPACES), pick(random, &NAMES));
    let kinds = [
        "Service",
        "Workload",
        "Workload",
        "HTTPRoute",
        "GRPCRoute",
        "TLSRoute",
        "TCPRoute",
        "TrafficPolicy",
        "TrafficPolicy",
        "RateLimitPolicy",
        "AuthorizationPolicy",
        "MeshTLS",
        "RequestAuthentication",
        "MeshSettings",
        "FederatedTrustDomain",
    ];
    // Reading roots takes long.
    let kind = match pick(random, &kinds) {
        "FederatedTrustDomain" if !faults => "MeshSettings",
        kind => kind,
    };
    let bad = faults && random.random_bool(0.2);
    let spec = match kind {
        "Service" => service(random),
        "Workload" => workload(random),
        "HTTPRoute" | "GRPCRoute" => route(random, kind, bad),
        "TLSRoute" | "TCPRoute" => connections(random, kind, bad),
        "TrafficPolicy" => traffic(random, bad),
        "RateLimitPolicy" => limits(random, bad),
        "MeshSettings" => settings(random),
        "FederatedTrustDomain" => federated(random, bad),
        _ => policy(random, kind, bad),
    };
    let mut made = json!({
        "kind": kind, "spec": spec,
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": pick(random, &NAMES), "tier": pick(random, &["a", "b"])}},
    });
    made["metadata"]["generation"] = random.random_range(1..1_000_000).into();
    if kind == "MeshSettings" {
        made["metadata"]["name"] = if random.random_bool(0.8) { "default" } else { name }.into();
    } else if random.random_bool(0.3) {
        made["metadata"]["annotations"] =
            json!({endpoints::ALLOWED_SERVICES: pick(random, &["cart", "*", "web,orders"])});
    }
    if kind == "Workload" {
        let phases = [Phase::Ready, Phase::NotReady, Phase::Draining, Phase::Lost];
        made["status"] = json!({"phase": phases.choose(random)});
    }
    made
}

fn service(random: &mut StdRng) -> Value {
    let mut ports = vec![json!({"name": pick(random, &["http", "grpc", "x"]), "port": 80, "targetPort": "http"})];
    if random.random_bool(0.3) {
        ports.push(json!({"name": "admin", "port": 81, "targetPort": 8081}));
    }
    let mut spec = json!({"clusterIP": pick(random, &["198.18.0.1", "198.18.0.2", "None"]), "ports": ports});
    if random.random_bool(0.7) {
        spec["selector"] = json!({"app": pick(random, &NAMES)});
        if random.random_bool(0.3) {
            spec["selector"]["tier"] = "a".into();
        }
    }
    if random.random_bool(0.15) {
        spec["type"] = "ExternalName".into();
        spec["externalName"] = pick(random, &["example.com", "192.0.2.99", "web.shop.svc.cluster.local"]).into();
    }
    if random.random_bool(0.1) {
        spec["ports"] = json!([{"name": "tls-a", "port": 443}]);
    }
    spec
}

fn workload(random: &mut StdRng) -> Value {
    let mut spec = json!({
        "serviceAccount": pick(random, &NAMES), "address": pick(random, &["192.0.2.1", "192.0.2.2", "127.0.0.1"]),
        "ports": [{"name": "http", "port": 8080, "protocol": pick(random, &["http", "grpc", "detect"])}, {"name": "admin", "port": 8081}],
    });
    if random.random_bool(0.8) {
        spec["tunnel"] = "192.0.2.1:15008".into();
    }
    if random.random_bool(0.3) {
        spec["services"] = json!([pick(random, &NAMES)]);
    }
    spec
}

fn reference(random: &mut StdRng) -> Value {
    let mut made = json!({"group": "", "kind": "Service", "name": pick(random, &NAMES), "port": 80});
    if random.random_bool(0.4) {
        made["namespace"] = pick(random, &NAMESPACES).into();
    }
    made
}

fn parents(random: &mut StdRng) -> Value {
    if random.random_bool(0.1) {
        return json!([{"name": "edge"}]);
    }
    let mut parents = vec![reference(random)];
    if random.random_bool(0.3) {
        parents.push(json!({"group": "", "kind": "Service", "name": pick(random, &NAMES)}));
    }
    if random.random_bool(0.2) {
        let section = pick(random, &["http", "admin", "tls-a"]);
        parents.push(json!({"group": "", "kind": "Service", "name": pick(random, &NAMES), "sectionName": section}));
    }
    parents.into()
}

fn route(random: &mut StdRng, kind: &str, bad: bool) -> Value {
    let parents = parents(random);
    let mut rule = json!({"backendRefs": [reference(random), reference(random)]});
    if random.random_bool(0.4) {
        let mirror = json!({"backendRef": reference(random), "percent": random.random_range(0..100)});
        let filter = json!({"type": "RequestMirror", "requestMirror": mirror});
        let at = if random.random_bool(0.5) { &mut rule } else { &mut rule["backendRefs"][1] };
        at["filters"] = json!([filter]);
    }
    if random.random_bool(0.2) {
        rule["sessionPersistence"] = json!({"sessionName": pick(random, &["a", "b"])});
    }
    if bad {
        rule["sessionPersistence"] = json!({"idleTimeout": "1s"});
    }
    if kind == "HTTPRoute" && random.random_bool(0.5) {
        rule["matches"] = json!([{"path": {"type": "PathPrefix", "value": "/a"}}]);
    }
    json!({"parentRefs": parents, "rules": [rule]})
}

fn connections(random: &mut StdRng, kind: &str, bad: bool) -> Value {
    let mut rules = vec![json!({"backendRefs": [reference(random)]})];
    if bad {
        rules.push(json!({}));
    }
    let mut spec = json!({"parentRefs": parents(random), "rules": rules});
    if kind == "TLSRoute" {
        spec["hostnames"] = json!([pick(random, &["a.example.com", "*.example.com"])]);
    }
    spec
}

fn target(random: &mut StdRng) -> Value {
    let mut target = json!({"kind": "Service", "name": pick(random, &NAMES)});
    if random.random_bool(0.3) {
        target["sectionName"] = pick(random, &["http", "admin"]).into();
    }
    target
}

fn traffic(random: &mut StdRng, bad: bool) -> Value {
    let request = if bad { "99999h".to_owned() } else { format!("{}s", random.random_range(1..4)) };
    let mut spec = json!({"targetRefs": [target(random)], "timeouts": {"request": request}});
    if random.random_bool(0.4) {
        let mut to = reference(random);
        to.as_object_mut().unwrap().retain(|field, _| ["name", "namespace", "port"].contains(&field.as_str()));
        spec["fallback"] = json!({ "backendRef": to });
    }
    if random.random_bool(0.3) {
        spec["adaptiveConcurrency"] = json!({"maxRequests": random.random_range(10..13)});
    }
    if random.random_bool(0.3) {
        let ignore = random.random_bool(0.5);
        spec["loadBalancer"] = json!({"policy": "Maglev", "hash": [{"header": "x"}], "ignoreLocality": ignore});
    }
    if random.random_bool(0.2) {
        spec["faults"] = json!([{"matches": [{"method": "GET"}], "abort": {"status": 503, "percent": 10}}]);
    }
    spec
}

fn limits(random: &mut StdRng, bad: bool) -> Value {
    let workload = json!({"group": "weft.mesh", "kind": "Workload", "name": pick(random, &NAMES)});
    let targets = if random.random_bool(0.3) { vec![workload] } else { vec![target(random), target(random)] };
    let per = if bad { "48h" } else { "1s" };
    let limit = json!({"name": "all", "requests": random.random_range(1..4), "per": per, "keys": [{"identity": true}]});
    json!({"targetRefs": targets, "limits": [limit]})
}

fn settings(random: &mut StdRng) -> Value {
    match random.random_range(0..4) {
        0 => json!({"egress": pick(random, &["Any", "Registered"])}),
        3 => json!({"tracing": {"endpoint": "http://192.0.2.7:4317", "sampling": random.random_range(0..100)}}),
        1 => json!({"rollout": {"percent": random.random_range(1..50)}}),
        _ => json!({}),
    }
}

fn federated(random: &mut StdRng, bad: bool) -> Value {
    static ROOTS: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let ca = weft_certs::MeshCa::ephemeral(&"partner.example".parse().unwrap(), std::time::SystemTime::now());
        ca.unwrap().bundle().to_pem()
    });
    let roots = if bad { "none" } else { &ROOTS };
    json!({"trustDomain": pick(random, &["partner.example", "weft.local", "other.example"]), "roots": roots})
}

fn policy(random: &mut StdRng, kind: &str, bad: bool) -> Value {
    let target = target(random);
    let mut spec = json!({});
    match random.random_range(0..4) {
        0 => {}
        1 => spec["selector"] = json!({"matchLabels": {"app": pick(random, &NAMES)}}),
        2 => spec["targetRefs"] = json!([{"group": "weft.mesh", "kind": "Workload", "name": pick(random, &NAMES)}]),
        _ => spec["targetRefs"] = json!([target]),
    }
    if bad {
        (spec["targetRefs"], spec["selector"]) = (json!([{"kind": "Service", "name": "cart"}]), json!({}));
    }
    if kind == "MeshTLS" {
        spec["mode"] = pick(random, &["Strict", "Permissive"]).into();
    } else if kind == "RequestAuthentication" {
        spec["rules"] = json!([{"issuer": pick(random, &NAMES), "jwksUri": pick(random, &ISSUERS)}]);
    } else {
        spec["action"] = pick(random, &["Allow", "Deny"]).into();
        spec["rules"] = json!([{"from": [{"namespaces": [pick(random, &NAMESPACES)]}]}]);
    }
    spec
}

/// Replaces, adds or removes an object.
fn edit(world: &mut World, random: &mut StdRng, created: i64, faults: bool) {
    if random.random_bool(0.05) {
        let keys = random.random_bool(0.7).then(|| pick(random, &NAMES).into());
        let failure = random.random_bool(0.3).then(|| "down".to_owned());
        world.jwks.insert(pick(random, &ISSUERS).to_owned(), Arc::new(crate::world::jwks::Jwks { keys, failure }));
        return;
    }
    let object = object(random, faults);
    if random.random_bool(0.3) {
        let key = key(&object);
        match object["kind"].as_str().unwrap_or_default() {
            "Service" => drop(world.services.remove(&key)),
            "Workload" => drop(world.workloads.remove(&key)),
            "TrafficPolicy" => drop(world.traffic.remove(&key)),
            "AuthorizationPolicy" => drop(world.authorization.remove(&key)),
            "MeshTLS" => drop(world.mesh_tls.remove(&key)),
            "RateLimitPolicy" => drop(world.limits.remove(&key)),
            "RequestAuthentication" => drop(world.authentication.remove(&key)),
            "MeshSettings" => {
                drop(world.settings.remove(&format!("/{}", object["metadata"]["name"].as_str().unwrap())))
            }
            "FederatedTrustDomain" => {
                drop(world.federated.remove(&format!("/{}", object["metadata"]["name"].as_str().unwrap())));
            }
            route => {
                let kind = Kind::ROUTES.into_iter().find(|k| k.name() == route).unwrap();
                of_kind(world, kind).remove(&key);
            }
        }
    } else {
        put(world, object, created);
    }
}

fn start() -> World {
    world("kind: Service\nmetadata: {name: cart}\nspec: {clusterIP: 198.18.0.1, ports: [{name: http, port: 80}]}")
}

/// Both are the same; if not, what differs first.
fn assert_same(is: &Output, wanted: &Output, what: &str) {
    assert_eq!(is.services, wanted.services, "{what}");
    assert_eq!(is.endpoints, wanted.endpoints, "{what}");
    assert_eq!(is.inbound, wanted.inbound, "{what}");
    assert_eq!(is.verdicts, wanted.verdicts, "{what}");
    assert_eq!(is, wanted, "{what}");
}

#[test]
fn after_any_change_the_output_is_what_a_compilation_from_nothing_gives() {
    let mut random = StdRng::seed_from_u64(7);
    for run in 0..12 {
        let (mut world, mut compiler) = (start(), Compiler::default());
        for step in 0..150 {
            for _ in 0..random.random_range(1..4) {
                edit(&mut world, &mut random, 1_700_000_000 + step / 3, false);
            }
            if step % 50 == 49 {
                world.mesh.domain = format!("cluster-{step}.local");
            }
            let output = compiler.compile(&world);
            assert_same(&output, &Compiler::default().compile(&world), &format!("run {run}, step {step}"));
        }
    }
}

#[test]
fn with_refused_objects_too_it_does_not_matter_what_else_is_compiled_again() {
    let mut random = StdRng::seed_from_u64(11);
    for run in 0..12 {
        let (mut world, mut compiler) = (start(), Compiler::default());
        for step in 0..150 {
            edit(&mut world, &mut random, 1_700_000_000 + step / 3, true);
            // The same history, but all of it is read again at this step.
            let mut all = compiler.clone();
            all.world.mesh.domain = "another".into();
            let output = compiler.compile(&world);
            assert_same(&output, &all.compile(&world), &format!("run {run}, step {step}"));
        }
    }
}

/// Versions of everything that is offered: they are hashes of what is encoded.
fn versions(output: &Output) -> Vec<(&'static str, String, Vec<u8>)> {
    use weft_proto::Resource as _;
    let variants = output.services.iter().flat_map(|(name, of)| {
        let all = of.by_namespace.iter().map(move |(namespace, s)| (format!("{name}@{namespace}"), s));
        all.chain([(name.to_string(), &of.default)])
    });
    let mut all: Vec<_> = variants.map(|(name, s)| ("service", name, s.value.to_vec())).collect();
    all.extend(output.endpoints.iter().map(|(name, m)| ("endpoints", name.to_string(), m.value.to_vec())));
    for (name, alone) in &output.alone {
        all.push(("service", name.to_string(), alone.service().value.to_vec()));
        all.extend(alone.slices().iter().map(|slice| ("endpoints", slice.name.to_string(), slice.value.to_vec())));
    }
    all.extend(output.inbound.iter().map(|(name, m)| ("inbound", name.to_string(), m.inbound.value.to_vec())));
    all.extend(output.bundles.iter().map(|(name, m)| ("bundle", name.clone(), m.to_any().value.to_vec())));
    all.push(("settings", String::new(), output.settings.to_any().value.to_vec()));
    all
}

#[test]
fn the_same_objects_in_any_order_give_the_same_bytes() {
    use rand::seq::SliceRandom as _;
    let mut random = StdRng::seed_from_u64(5);
    for run in 0..60 {
        // Of several objects of one name the last would count: there is one of each.
        let mut objects = std::collections::BTreeMap::new();
        for i in 0..60 {
            let made = object(&mut random, true);
            let kind = made["kind"].as_str().unwrap_or_default();
            let of_cluster = ["MeshSettings", "FederatedTrustDomain"].contains(&kind);
            let own = if of_cluster { made["metadata"]["name"].to_string() } else { key(&made) };
            let name = (kind.to_owned(), own);
            // Two of one age are told apart by their names.
            objects.insert(name, (made, 1_700_000_000 + i / 4));
        }
        let mut objects: Vec<_> = objects.into_values().collect();
        let mut made = (0..3).map(|_| {
            objects.shuffle(&mut random);
            let mut world = start();
            objects.iter().for_each(|(object, created)| put(&mut world, object.clone(), *created));
            Compiler::default().compile(&world)
        });
        let first = made.next().unwrap();
        for again in made {
            assert_same(&again, &first, &format!("run {run}"));
            assert_eq!(versions(&again), versions(&first), "run {run}");
        }
    }
}

/// Decides at random about changes that are held back, as whoever conducts rollouts would.
fn move_on(rollouts: &Rollouts, random: &mut StdRng, revision: u64, world: &World) {
    let held = rollouts.held();
    let Some(held) = held.choose(random) else { return };
    let uids: Vec<String> =
        world.workloads.keys().filter(|_| random.random_bool(0.3)).map(ToString::to_string).collect();
    let progress = match random.random_range(0..4) {
        0 => Progress::Waiting,
        1 => Progress::Trying { of: uids.len(), sample: uids, began: 0 },
        2 => Progress::RolledBack { message: "worse".into() },
        _ => Progress::Promoted { message: "no worse".into() },
    };
    rollouts.note(held.id.clone(), revision, Some(held.record(progress)));
}

#[test]
fn while_changes_are_rolled_out_both_outputs_are_what_a_compilation_from_nothing_gives_and_share_what_is_equal() {
    let mut random = StdRng::seed_from_u64(13);
    let (mut trials, mut shared, mut others) = (0, 0, 0);
    for run in 0..8 {
        let (mut world, mut compiler, rollouts) = (start(), Compiler::default(), Rollouts::default());
        put(
            &mut world,
            json!({"kind": "MeshSettings", "metadata": {"name": "default"}, "spec": {"rollout": {"percent": 20}}}),
            1,
        );
        let mut offer = crate::xds::Offer::default();
        for step in 0..120_i64 {
            let settings = world.settings.clone();
            edit(&mut world, &mut random, 1_700_000_000 + step / 3, false);
            if random.random_bool(0.95) {
                world.settings = settings;
            }
            if random.random_bool(0.5) {
                move_on(&rollouts, &mut random, u64::try_from(step).unwrap() + 1, &world);
            }
            let what = format!("run {run}, step {step}");
            let plan = rollouts.stage(&world);
            let stable = plan.stable.as_deref().unwrap_or(&world);
            let output = compiler.compile(stable);
            assert_same(&output, &Compiler::default().compile(stable), &what);
            let trial = plan.trial.as_ref().map(|trial| {
                let tried = compiler.clone().compile(trial);
                assert_same(&tried, &Compiler::default().compile(trial), &what);
                tried
            });
            if let Some(tried) = &trial {
                trials += 1;
                let differ = tried.services.changes(&output.services, Arc::ptr_eq).len();
                for (name, was, is) in tried.services.changes(&output.services, Arc::ptr_eq) {
                    assert_ne!(was, is, "{what}: {name} is equal and not shared");
                }
                (shared, others) = (shared + tried.services.len() - differ.min(tried.services.len()), others + differ);
            }
            // What is offered is what was compiled, to everybody, whatever was offered before.
            offer = offer.next(&output, trial.as_ref().map(|tried| (tried, plan.sample.clone()))).0;
            for (uid, workload) in world.workloads.iter() {
                let own = trial.as_ref().filter(|_| plan.sample.contains(&**uid)).unwrap_or(&output);
                let namespace = workload.namespace.to_string();
                let identity = own.inbound.get(uid).map(|i| i.identity.to_string()).unwrap_or_default();
                let client = crate::xds::Client { identity, namespace: namespace.clone() };
                let snapshot = offer.of(Some(uid));
                let inbound = snapshot.lookup(&client, weft_proto::type_url::INBOUND, uid).map(|e| &*e.value);
                assert_eq!(inbound, own.inbound.get(uid).map(|m| &*m.inbound.value), "{what}");
                for (name, wanted) in own.alone.iter() {
                    let found = |url, name: &str| snapshot.lookup(&client, url, name).map(|e| e.value.clone());
                    let (service, slices) = wanted.read();
                    let is = found(weft_proto::type_url::SERVICE, name);
                    assert_eq!(is.as_deref(), Some(&*service.encode_to_vec()), "{what}: {name}");
                    assert_eq!(found(weft_proto::type_url::SERVICE, &wanted.alias()), is, "{what}: {name}");
                    for slice in slices {
                        let is = found(weft_proto::type_url::ENDPOINTS, &slice.name);
                        assert_eq!(is.as_deref(), Some(&*slice.encode_to_vec()), "{what}: {}", slice.name);
                    }
                }
                for (name, variants) in own.services.iter() {
                    let wanted = variants.of(&namespace);
                    let found = snapshot.lookup(&client, weft_proto::type_url::SERVICE, name).unwrap();
                    assert_eq!(found.value, wanted.value, "{what}: {name}");
                }
            }
        }
    }
    println!("{trials} trials; {shared} services shared, {others} not");
    assert!(trials > 300 && shared > others, "{trials} trials, {shared} shared, {others} not");
}

#[test]
fn one_change_makes_anew_what_it_concerns_and_nothing_else() {
    let mut world = start();
    let mut compiler = Compiler::default();
    for i in 0..100 {
        let labels = json!({"app": format!("item-{i}")});
        let port = json!({"name": "http", "port": 80, "targetPort": "http"});
        put(
            &mut world,
            json!({
                "kind": "Service", "metadata": {"namespace": "shop", "name": format!("item-{i}")},
                "spec": {"clusterIP": "198.18.1.1", "selector": labels, "ports": [port]},
            }),
            1,
        );
        put(
            &mut world,
            json!({
                "kind": "Workload", "metadata": {"namespace": "shop", "name": format!("item-{i}"), "labels": labels},
                "spec": {"serviceAccount": "x", "address": format!("192.0.2.{i}"), "tunnel": "192.0.2.1:15008",
                         "ports": [{"name": "http", "port": 8080}]},
                "status": {"phase": "Ready"},
            }),
            1,
        );
    }
    let before = compiler.compile(&world);
    assert_eq!(compiler.compile(&world), before);
    assert_eq!(compiler.recompiled(), 0);
    let mut changed = (*world.workloads["shop/item-7"]).clone();
    changed.phase = Some(Phase::Draining);
    world.workloads.insert("shop/item-7", Arc::new(changed));
    let after = compiler.compile(&world);
    // Two slices, two variants of the service, the service of the address, the Inbound.
    assert_eq!(compiler.recompiled(), 6);
    let slices = after.endpoints.changes(&before.endpoints, Packed::ptr_eq);
    let slices: Vec<_> = slices.into_iter().map(|(name, _, _)| &**name).collect();
    assert_eq!(slices, ["shop/item-7:80/0"]);
    let alone = after.alone.changes(&before.alone, |a, b| a.same(b));
    assert_eq!(alone.into_iter().map(|(name, _, _)| &**name).collect::<Vec<_>>(), ["shop/~item-7"]);
    assert!(after.services.changes(&before.services, Arc::ptr_eq).is_empty(), "what is as it was is the same value");
    assert!(after.inbound.changes(&before.inbound, Arc::ptr_eq).is_empty());
}
