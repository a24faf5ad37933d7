//! `docs/src/howto/mirroring.md`

use crate::page::Page;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use weft_integration::rig::stage::{Instance, services};
use weft_integration::rig::{Caller, DEADLINE, Mesh, Upstream, wait_for};

#[test]
fn a_tenth_of_the_calls_is_copied_and_no_caller_notices_the_mirror() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["orders", "orders-next"], 80, "http");
    let _orders = Instance::start(&mesh, "orders", "orders-1", &["catalog", "--version", "v1"]);
    // The mirror answers nothing while calls are made, and nonsense afterwards.
    let (released, copies) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<String>>>::default());
    let (release, copied) = (Arc::clone(&released), Arc::clone(&copies));
    let next = Upstream::start(move |request| {
        copied.lock().unwrap().push(format!("{} {} {:?}", request.method, request.path, request.header("x-order")));
        let end = Instant::now() + DEADLINE;
        while !release.load(Ordering::SeqCst) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        (500, "nobody sees this".to_owned())
    });
    let mut sidecar = next.instance(&mesh, "orders-next", "orders-next-1");
    let mut page = Page::open("mirroring", &mesh);
    page.file();
    let said = page.run();
    assert!(said.contains("orders"), "{said}");

    let caller = Caller::start(&mesh, "shop", "caller");
    let call = || {
        let answer = caller.call("POST", "http://orders/orders?of=ann", &["x-order: 7"]);
        assert_eq!((answer.status, answer.header("x-catalog-version")), (200, Some("v1")), "{answer:?}");
    };
    let mirrored = |outcome: &str| caller.sidecar.metric("weft_mirrored_total", &[outcome]);
    (0..400).for_each(|_| call());
    assert!(mirrored("outcome=\"answered\"") < 0.5, "all were answered before any copy was");
    released.store(true, Ordering::SeqCst);
    // 40 are expected; five standard deviations to either side.
    let expected = 10..=70;
    wait_for("copies arrive, and what became of them is counted", || {
        let (seen, ended, answered) = (next.seen(), mirrored(""), mirrored("outcome=\"answered\""));
        let all = (ended - f64::from(u32::try_from(seen).unwrap())).abs() < 0.5 && answered > 0.5;
        if all && expected.contains(&seen) {
            Ok(())
        } else {
            Err(format!("{seen} copies, {ended} ended, {answered} answered"))
        }
    });
    let copies = copies.lock().unwrap().clone();
    println!("{} of 400 copied: {}", copies.len(), copies[0]);
    assert!(copies.iter().all(|copy| copy == "POST /orders?of=ann Some(\"7\")"), "{copies:?}");

    // A mirror that is away loses its copies, and the calls none of their answers.
    sidecar.process.stop();
    (0..50).for_each(|_| call());
    page.run();
    let before = mirrored("");
    wait_for("nothing is copied any more", || {
        let before = mirrored("");
        (0..60).for_each(|_| call());
        let after = mirrored("");
        if (after - before).abs() < 0.5 { Ok(()) } else { Err(format!("{before}, {after}")) }
    });
    assert!(before > 0.0);
}
