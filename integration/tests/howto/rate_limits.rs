//! `docs/src/howto/rate-limits.md`

use crate::page::Page;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use weft_integration::rig::stage::services;
use weft_integration::rig::{Answer, Caller, DEADLINE, Mesh, Upstream, wait_for};

#[track_caller]
fn assert_limited(answer: &Answer, limit: &str) {
    assert_eq!((answer.status, answer.header("weft-error")), (429, Some("rate-limited")), "{answer:?}");
    assert!(answer.body.contains(&format!("shop/catalog/{limit} ")), "{answer:?}");
    let wait: u32 = answer.header("retry-after").and_then(|v| v.parse().ok()).expect("Retry-After in seconds");
    assert!((1..=60).contains(&wait), "{answer:?}");
    assert!(answer.header("ratelimit").is_some() && answer.header("ratelimit-policy").is_some(), "{answer:?}");
}

/// Calls until one is not answered 200: how many were, and what that one got.
fn until_limited(call: impl Fn() -> Answer) -> (f64, Answer) {
    let end = Instant::now() + DEADLINE;
    let mut admitted = 0.0;
    loop {
        let answer = call();
        if answer.status != 200 {
            return (admitted, answer);
        }
        admitted += 1.0;
        assert!(Instant::now() < end, "{admitted} calls and no limit");
    }
}

#[test]
fn a_call_over_a_limit_is_told_when_to_come_back_and_one_over_the_bearable_is_shed_by_its_priority() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["catalog"], 80, "http");
    let (holds, under_way) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let (held, entered) = (Arc::clone(&holds), Arc::clone(&under_way));
    let application = Upstream::start(move |_| {
        entered.fetch_add(1, SeqCst);
        let end = Instant::now() + DEADLINE;
        while held.load(SeqCst) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        (200, String::new())
    });
    let _instance = application.instance(&mesh, "catalog", "catalog-1");
    let callers = ["ann", "bob", "cid"].map(|name| Caller::start(&mesh, "shop", name));
    let [ann, bob, cid] = &callers;
    ann.until("catalog answers", "http://catalog/", |answer| answer.status == 200);
    let mut page = Page::open("rate-limits", &mesh);
    page.file();
    let said = page.run();
    assert!(said.contains("HTTP/1.1 200 ") && said.contains("ratelimit: "), "{said}");

    // Each caller by its certificate: one is over its burst, another is not.
    let start = Instant::now();
    let (admitted, answer) = until_limited(|| ann.get("http://catalog/items"));
    println!("{admitted} in {:?}, then {}\n{}", start.elapsed(), answer.head, answer.body);
    assert_limited(&answer, "each-caller");
    let most = 40.0 + 20.0 * start.elapsed().as_secs_f64().ceil();
    assert!(admitted >= 40.0 && admitted <= most, "{admitted}, at most {most}");
    assert_eq!(bob.get("http://catalog/items").status, 200);

    // By a header, on one path; the page's own call was one of ann's five.
    let search = |user: &str| bob.call("GET", "http://catalog/search/warp", &[&format!("x-user: {user}")]);
    let (found, answer) = until_limited(|| search("ann"));
    let regained = (start.elapsed().as_secs_f64() / 12.0).ceil();
    assert!(found >= 4.0 && found <= 4.0 + regained, "{found}");
    assert_limited(&answer, "searches");
    assert_eq!(search("eve").status, 200);

    // Together, and only what writes. Tokens are leased ahead of need: at most so many in a minute.
    let start = Instant::now();
    let (written, answer) = until_limited(|| cid.call("POST", "http://catalog/items", &[]));
    println!("{written} writes");
    assert!(written >= 1.0 && written <= 30.0 + (start.elapsed().as_secs_f64() / 2.0).ceil(), "{written}");
    assert_limited(&answer, "writes");
    assert_eq!(cid.get("http://catalog/items").status, 200, "reading is not writing");

    // What is under way. Without the rates, which would come first.
    mesh.weft(&["delete", "-f", "limits.yaml"]).ok();
    page.file();
    mesh.weft(&["apply", "--wait", "-f", "limits.yaml"]).ok();
    let said = page.run();
    assert!(said.contains("catalog-load"), "{said}");
    mesh.weft(&["delete", "-f", "limits.yaml"]).ok();
    wait_for("the rates are lifted", || match (0..50).map(|_| ann.get("http://catalog/items").status).max() {
        Some(200) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    holds.store(true, SeqCst);
    let before = under_way.load(SeqCst);
    std::thread::scope(|threads| {
        let call = |priority: &'static str| move || ann.call("POST", "http://catalog/items", &[priority]);
        // Over four fifths of any limit that there may be.
        let plain: Vec<_> = (0..70).map(|_| threads.spawn(call("weft-priority: default"))).collect();
        let (mut shed, mut waiting) = (Vec::new(), plain);
        wait_for("plain calls are shed", || {
            let (ended, open): (Vec<_>, Vec<_>) = waiting.drain(..).partition(|call| call.is_finished());
            waiting = open;
            shed.extend(ended.into_iter().map(|call| call.join().unwrap()));
            let all = under_way.load(SeqCst) - before + shed.len() as u64;
            if all == 70 && !shed.is_empty() { Ok(()) } else { Err(format!("{all}, {} shed", shed.len())) }
        });
        let taken = under_way.load(SeqCst);
        let critical = threads.spawn(call("weft-priority: critical"));
        let admitted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for("a critical call gets in", || match under_way.load(SeqCst) {
                now if now == taken + 1 => Ok(()),
                now => Err(format!("{now}, {taken} before")),
            });
        }));
        holds.store(false, SeqCst);
        println!("{} of 70 under way, {} shed", taken - before, shed.len());
        for answer in &shed {
            assert_eq!((answer.status, answer.header("weft-error")), (503, Some("overflow")), "{answer:?}");
        }
        assert_eq!(critical.join().unwrap().status, 200);
        assert!(waiting.into_iter().all(|call| call.join().unwrap().status == 200));
        admitted.unwrap();
    });
    mesh.weft(&["apply", "-f", "limits.yaml"]).ok();
    page.run();
}
