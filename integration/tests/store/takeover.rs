//! Any replica serves any sidecar, whichever of them leads, is killed, or is stopped and goes on.

use crate::replicas::Replicas;
use serde_json::Value;
use weft_integration::rig::stage::{Caller, Instance, Load, apply, assert_all_well, condition};
use weft_integration::rig::wait_for;

/// Instances of catalog; with the load driver, two tills and a buyer they are twelve sidecars.
const CATALOGS: usize = 8;
const SIDECARS: usize = CATALOGS + 4;
/// Calls of the global limit.
const LIMIT: usize = 30;

/// Applies a policy that concerns every catalog, at the replica that is asked, and waits until each holds it.
#[track_caller]
fn policy(replicas: &Replicas, name: &str) {
    apply(
        &replicas.mesh,
        &format!(
            "apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
             targetRefs: [{{kind: Service, name: catalog}}]\n  action: Deny\n  rules: [{{to: [{{paths: ['/{name}']}}]}}]\n"
        ),
    );
    wait_for("all of them hold it", || {
        let object = replicas.mesh.object("authorizationpolicy", "shop", name);
        let message = condition(&object, "Programmed")["message"].to_string();
        if message.contains(&format!("{CATALOGS} of {CATALOGS}")) { Ok(()) } else { Err(message) }
    });
}

/// The calls of the last ten seconds, as the replica that is asked counts them.
fn counted(replicas: &Replicas) -> Result<(), String> {
    let stat = replicas.mesh.weft(&["stat", "-n", "shop", "-o", "json"]).ok();
    let stat: Value = serde_json::from_str(&stat).map_err(|e| e.to_string())?;
    let mut rows = stat["services"].as_array().into_iter().flatten();
    let row = rows.find(|row| row["service"] == "shop/catalog").cloned().unwrap_or_default();
    let whole = row["readyEndpoints"] == CATALOGS && row["rps"].as_f64() > Some(20.0) && row["success"] == 1.0;
    if whole { Ok(()) } else { Err(row.to_string()) }
}

#[test]
fn any_replica_serves_any_sidecar_and_whichever_is_killed_or_stopped_no_call_fails() {
    let mut replicas = Replicas::start(3);
    assert_eq!(replicas.leading(), [0]);
    // Sidecars join through whichever they come to.
    let mesh = &replicas.mesh;
    let (catalogs, tills) = std::thread::scope(|scope| {
        let start = |service: &'static str, count: usize| -> Vec<_> {
            let one = move |i| {
                scope.spawn(move || {
                    Instance::start(mesh, service, &format!("{service}-{i}"), &["catalog", "--version", "v1"])
                })
            };
            (0..count).map(one).collect()
        };
        let (catalogs, tills) = (start("catalog", CATALOGS), start("till", 2));
        let end = |all: Vec<std::thread::ScopedJoinHandle<'_, Instance>>| -> Vec<Instance> {
            all.into_iter().map(|one| one.join().unwrap()).collect()
        };
        (end(catalogs), end(tills))
    });
    let buyer = Caller::start(&replicas.mesh, "shop", "buyer");
    let mut load = Load::start(&replicas.mesh, "http://catalog", 40);
    load.go_on_well(40);
    replicas.wait_for_sidecars(SIDECARS);
    let spread = replicas.connections();
    println!("connections to each: {spread:?}");
    assert!(spread.iter().filter(|n| **n > 0).count() > 1, "{spread:?}");

    // What is asked of one that does not lead is done, and told by all.
    replicas.ask(2);
    policy(&replicas, "first");
    for number in replicas.awake() {
        replicas.ask(number);
        let (ok, detail) = replicas.check("one control plane leads");
        assert!(ok && detail.contains(&replicas.grpc(0)) && detail.contains("of 3"), "{detail}");
        wait_for("it counts the calls", || counted(&replicas));
    }

    // A limit over sidecars of different replicas.
    apply(
        &replicas.mesh,
        &format!(
            "apiVersion: weft.mesh/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{name: till, namespace: shop}}\nspec:\n  \
             targetRefs: [{{kind: Service, name: till}}]\n  limits: [{{name: all, scope: Global, requests: {LIMIT}, per: 1h}}]\n"
        ),
    );
    let admitted = (0..LIMIT * 6).filter(|_| buyer.call("GET", "http://till/", &[]).status == 200).count();
    println!("{admitted} of a limit of {LIMIT} were admitted by two");
    // What each admits before its first lease may come on top, once. Apart they would admit twice as many, and more after a restart.
    assert!((LIMIT / 2..=LIMIT + LIMIT / 2).contains(&admitted), "{admitted}");

    // One that does not lead is killed.
    replicas.kill(1);
    load.go_on_well(40);
    replicas.wait_for_sidecars(SIDECARS);
    replicas.ask(2);
    policy(&replicas, "second");
    replicas.launch(1);

    // The one that leads is killed.
    replicas.kill(0);
    let leader = replicas.wait_for_leader(None);
    load.go_on_well(40);
    replicas.wait_for_sidecars(SIDECARS);
    for number in replicas.awake() {
        replicas.ask(number);
        policy(&replicas, &format!("after-{number}"));
        wait_for("it counts the calls", || counted(&replicas));
    }
    replicas.launch(0);
    assert_eq!(replicas.leading(), [leader]);

    // The one that leads is stopped, for longer than its lead lasts, and goes on.
    replicas.freeze(leader);
    let next = replicas.wait_for_leader(Some(leader));
    load.go_on_well(40);
    replicas.wake(leader);
    assert_eq!(replicas.leading(), [next]);
    replicas.wait_for_sidecars(SIDECARS);
    // It serves again, through the other.
    replicas.ask(leader);
    policy(&replicas, "last");

    // It leads again, when nobody else is left.
    replicas.kill(next);
    replicas.awake().into_iter().filter(|number| *number != leader).for_each(|number| replicas.kill(number));
    assert_eq!(replicas.wait_for_leader(None), leader);
    load.go_on_well(40);
    replicas.wait_for_sidecars(SIDECARS);
    policy(&replicas, "alone");
    for name in ["catalog-0", "till-1", "buyer", "load"] {
        let workload = replicas.mesh.object("workload", "shop", name);
        assert_eq!(workload["status"]["phase"], "Ready", "{workload}");
    }
    load.go_on_well(40);
    assert_all_well(&load.stop());
    assert_eq!(replicas.count(), 3);
    drop((catalogs, tills, buyer));
}
