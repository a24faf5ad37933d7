//! `docs/src/howto/rollouts.md`

use crate::page::Page;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use weft_integration::rig::stage::{Instance, services};
use weft_integration::rig::{Caller, Mesh, wait_for};

#[test]
fn a_change_gets_to_all_when_it_is_good_and_back_when_it_is_not() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["catalog"], 80, "http");
    let _instance = Instance::catalog(&mesh, "catalog-1", "v1");
    let callers = ["ann", "bob", "cid", "eve"].map(|name| Caller::start(&mesh, "shop", name));
    for caller in &callers {
        caller.until("catalog answers", "http://catalog/items", |answer| answer.status == 200);
    }
    let mut page = Page::open("rollouts", &mesh);
    let (over, calls, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|threads| {
        for caller in &callers {
            threads.spawn(|| {
                while !over.load(SeqCst) {
                    let answer = caller.get("http://catalog/items");
                    calls.fetch_add(1, SeqCst);
                    failed.fetch_add(u64::from(answer.status != 200), SeqCst);
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            page.file();
            page.run();
            page.file();
            let start = Instant::now();
            page.run();
            assert!(start.elapsed() >= Duration::from_secs(20), "watched for its time: {:?}", start.elapsed());
            assert_eq!(failed.load(SeqCst), 0, "a good change breaks nothing");
            page.file();
            let start = Instant::now();
            let said = page.run();
            println!(
                "rolled back after {:?}, {} of {} calls failed",
                start.elapsed(),
                failed.load(SeqCst),
                calls.load(SeqCst)
            );
            assert!(start.elapsed() < Duration::from_secs(20), "sooner than its time: {:?}", start.elapsed());
            for word in ["RolledBack", "RolloutStarted", "error rate of 1 of 4 sidecars", "of the others it was 0.0 %"]
            {
                assert!(said.contains(word), "{word}: {said}");
            }
            assert!(failed.load(SeqCst) > 0);
            let (broken, made) = (failed.load(SeqCst), calls.load(SeqCst));
            wait_for("calls go on", || match calls.load(SeqCst) {
                now if now >= made + 200 => Ok(()),
                now => Err(format!("{now}")),
            });
            assert!(failed.load(SeqCst) <= broken + 1, "nobody has it any more, but for a call that was under way");
            let start = Instant::now();
            page.run();
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "what was good is in force at once: {:?}",
                start.elapsed()
            );
        }));
        over.store(true, SeqCst);
        tried.unwrap();
    });
}
