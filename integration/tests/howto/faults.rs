//! `docs/src/howto/faults.md`

use crate::page::Page;
use std::time::{Duration, Instant};
use weft_integration::rig::stage::{Instance, services};
use weft_integration::rig::{Answer, Caller, Mesh, wait_for};

#[test]
fn marked_calls_are_delayed_and_half_of_them_aborted_and_one_other_in_a_hundred_is_late() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["payments"], 80, "http");
    let payments = Instance::start(&mesh, "payments", "payments-1", &["catalog", "--version", "v1"]);
    let mut page = Page::open("faults", &mesh);
    page.file();
    let said = page.run();
    assert!(said.contains("weft-error: fault") || said.contains("x-catalog-version: v1"), "{said}");

    let caller = Caller::start(&mesh, "shop", "caller");
    let call = |headers: &[&str]| -> (Answer, Duration) {
        let start = Instant::now();
        (caller.call("GET", "http://payments/charges", headers), start.elapsed())
    };
    assert_eq!(call(&[]).0.status, 200);
    let before = payments.served();
    let marked: Vec<_> = std::thread::scope(|threads| {
        let calls: Vec<_> = (0..60).map(|_| threads.spawn(|| call(&["x-chaos: on"]))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let aborted = |answer: &Answer| (answer.status, answer.header("weft-error")) == (503, Some("fault"));
    for (answer, took) in &marked {
        assert!(*took >= Duration::from_secs(2), "{took:?}: {answer:?}");
        assert!(answer.status == 200 || aborted(answer), "{answer:?}");
    }
    let count = marked.iter().filter(|(answer, _)| aborted(answer)).count();
    println!("{count} of 60 aborted");
    // 30 are expected; five standard deviations to either side.
    assert!((11..=49).contains(&count), "{count} of 60");
    let sent = f64::from(u32::try_from(60 - count).unwrap());
    wait_for("those that were not aborted are counted where they arrived", || {
        let served = payments.served() - before;
        assert!(served < sent + 0.5, "an aborted call reaches nobody: {served} of {sent}");
        if served > sent - 0.5 { Ok(()) } else { Err(format!("{served} of {sent}")) }
    });
    assert!(caller.sidecar.metric("weft_requests_total", &["reason=\"fault\""]) > 0.5);

    // The rest: never aborted, and late now and then.
    let mut calls = 0;
    wait_for("one call is late", || {
        calls += 1;
        let (answer, took) = call(&[]);
        assert_eq!(answer.status, 200, "{answer:?}");
        if took >= Duration::from_millis(300) { Ok(()) } else { Err(format!("none of {calls}")) }
    });
    println!("the {calls}th was late");
    assert!(caller.sidecar.metric("weft_breaker_state", &[]) < 0.5, "no breaker opens");
    page.run();
    wait_for("calls are left alone", || match call(&["x-chaos: on"]) {
        (answer, took) if answer.status == 200 && took < Duration::from_secs(2) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
