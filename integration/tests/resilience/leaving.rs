//! SIGTERM to a `weft run` under load, on both sides: whoever leaves finishes what was begun, and nobody is sent to who has left.

use crate::stage::{Caller, Instance, Load, assert_all_well, text};
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use weft_integration::rig::{DEADLINE, Mesh, Run, Sidecar, Upstream, program, wait_for};
use weft_integration::shop::proto::FindRequest;
use weft_integration::shop::proto::users_client::UsersClient;

#[test]
fn an_instance_that_is_asked_to_leave_under_load_fails_no_call() {
    let mesh = Mesh::start();
    let mut one = Instance::catalog(&mesh, "catalog-1", "v1");
    let two = Instance::catalog(&mesh, "catalog-2", "v2");
    let mut load = Load::start(&mesh, "http://catalog", 200);
    load.go_on_well(400);
    let served = (one.served(), two.served());
    assert!(served.0 > 0.0 && served.1 > 0.0, "both get calls: {served:?}");

    let code = one.sidecar.process.stop();
    let at_exit = load.report().unwrap()["variants"]["v1"].clone();
    load.go_on_well(400);
    let report = load.stop();
    println!("exit code {code}; {served:?} served before, v1 {at_exit} at its exit");
    assert_all_well(&report);
    assert_eq!(code, 0, "the program ended in order: {}", one.sidecar.process.log());
    assert!(mesh.object("workload", "shop", "catalog-1")["status"]["phase"] != "Ready");
}

#[test]
fn an_instance_of_a_grpc_service_that_is_asked_to_leave_fails_no_call() {
    let mesh = Mesh::start();
    let mut one = Instance::start(&mesh, "users", "users-1", &["users"]);
    let two = Instance::start(&mesh, "users", "users-2", &["users"]);
    let caller = Caller::start(&mesh, "shop", "caller");
    let (done, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    let (code, served) = std::thread::scope(|threads| {
        // Each has a connection of its own, and one call at a time on it: Find is not what HTTP calls idempotent.
        let callers: Vec<_> = (0..4)
            .map(|_| {
                threads.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        let mut users = UsersClient::new(caller.tunnel("users:9000"));
                        while !done.load(Ordering::SeqCst) {
                            let answer = users.find(FindRequest { id: 7 }).await;
                            assert_eq!(answer.map(|user| user.into_inner().id).map_err(|e| e.to_string()), Ok(7));
                            calls.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                })
            })
            .collect();
        let go_on = |more: u64| {
            let from = calls.load(Ordering::SeqCst);
            wait_for("calls go on", || {
                assert!(callers.iter().all(|caller| !caller.is_finished()), "a call failed");
                let now = calls.load(Ordering::SeqCst);
                if now >= from + more { Ok(()) } else { Err(format!("{now} calls")) }
            });
        };
        // However it ends, the callers end too.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            go_on(300);
            let served = (one.served(), two.served());
            let code = one.sidecar.process.stop();
            go_on(300);
            (code, served)
        }));
        done.store(true, Ordering::SeqCst);
        for caller in callers {
            caller.join().unwrap();
        }
        outcome.unwrap()
    });
    println!(
        "{} calls, none failed; {served:?} served before the first left with {code}",
        calls.load(Ordering::SeqCst)
    );
    assert!(served.0 > 0.0 && served.1 > 0.0, "both get calls: {served:?}");
    assert_eq!(code, 0, "{}", one.sidecar.process.log());
}

#[test]
fn calls_under_way_are_answered_by_the_instance_that_leaves() {
    let mesh = Mesh::start();
    let released = Arc::<AtomicBool>::default();
    let release = Arc::clone(&released);
    let application = Upstream::start(move |_| {
        let end = Instant::now() + DEADLINE;
        while !release.load(Ordering::SeqCst) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        (200, "late".to_owned())
    });
    let mut inventory = application.instance(&mesh, "inventory", "inventory-1");
    let caller = Caller::start(&mesh, "shop", "caller");
    let stage = |sidecar: &Sidecar| -> Result<String, String> {
        let stats: serde_json::Value = serde_json::from_str(&sidecar.admin("/stats")?).map_err(|e| e.to_string())?;
        Ok(stats["drain"]["stage"].to_string())
    };
    let serving = stage(&inventory).unwrap();
    std::thread::scope(|threads| {
        // Not idempotent: one that breaks off is not tried again.
        let calls: Vec<_> =
            (0..5).map(|_| threads.spawn(|| caller.call("POST", "http://inventory/stock", &[]))).collect();
        wait_for("all of them are under way", || match application.seen() {
            5 => Ok(()),
            n => Err(format!("{n} of 5")),
        });
        inventory.process.signal(Signal::TERM);
        wait_for("the sidecar drains", || match stage(&inventory) {
            Ok(now) if now == serving => Err(now),
            other => other,
        });
        released.store(true, Ordering::SeqCst);
        for call in calls {
            let answer = call.join().unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (200, "late"), "{answer:?}");
        }
    });
    // The program is `sleep`, which SIGTERM ends: 128 + 15.
    assert_eq!(inventory.process.wait(), 143, "{}", inventory.process.log());
    println!("five POSTs under way at SIGTERM were answered; the stage had been {serving}");
}

#[test]
fn the_calls_of_a_client_that_is_asked_to_leave_all_succeed() {
    let mesh = Mesh::start();
    let _catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let mut load = Load::start(&mesh, "http://catalog", 300);
    load.go_on_well(300);
    // The driver itself gets SIGTERM from `weft run`, stops calling and waits for what is under way.
    assert_all_well(&load.stop());
}

#[test]
fn a_program_may_go_on_calling_until_it_exits() {
    let mesh = Mesh::start();
    let _catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let (bash, curl) = (program("bash"), program("curl"));
    // Asked to end, it makes forty more calls, each of a connection of its own, and exits with the number of those that failed.
    let script = format!(
        "leave() {{ failed=0; for i in $(seq 40); do {curl} -sSf -o /dev/null http://catalog/items || failed=$((failed + 1)); done; \
         echo \"failed $failed\"; exit $failed; }}\ntrap leave TERM\n{curl} -sSf -o /dev/null http://catalog/items && echo begun\n\
         while :; do {sleep} 0.05; done",
        curl = text(&curl),
        sleep = text(&program("sleep")),
    );
    let command = [text(&bash), "-c", &script];
    let mut client = mesh.run(&Run { name: "client", command: &command, ..Run::default() });
    client.process.wait_for_log("begun");
    let code = client.process.stop();
    println!("{}", client.process.log());
    assert_eq!(code, 0, "{}", client.process.log());
    assert!(client.process.log().contains("failed 0"), "{}", client.process.log());
}
