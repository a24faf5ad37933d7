//! `docs/src/howto/tap.md`

use crate::page::Page;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use weft_integration::rig::stage::{Instance, services};
use weft_integration::rig::{Caller, Mesh};

#[test]
fn calls_are_watched_by_who_may() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["catalog"], 80, "http");
    let _catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let caller = Caller::start(&mesh, "shop", "caller");
    caller.until("catalog answers", "http://catalog/items", |answer| answer.status == 200);
    // The page's commands end once they have seen calls.
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let calls = std::thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            caller.get("http://catalog/items");
        }
    });
    let mut page = Page::open("tap", &mesh);
    let lines = page.run();
    assert_eq!(lines.lines().count(), 3, "a header and two calls: {lines}");
    assert!(lines.contains("GET /items") && lines.contains("shop/catalog"), "{lines}");
    let more = page.run();
    assert!(more.contains("ENDPOINT") && more.contains("shop/catalog-1"), "{more}");
    assert!(more.contains("\"requestHeaders\":[["), "{more}");
    page.file();
    let audited = page.run();
    assert!(audited.contains("workloads.weft.mesh/tap"), "{audited}");
    over.store(true, Ordering::SeqCst);
    calls.join().unwrap();
}
