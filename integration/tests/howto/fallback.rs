//! `docs/src/howto/fallback.md`

use crate::page::Page;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use weft_integration::rig::stage::{Instance, services};
use weft_integration::rig::{Caller, Mesh, Upstream, wait_for};

#[test]
fn a_fixed_answer_or_another_service_stands_in_while_nobody_is_there() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["recommendations", "catalog", "catalog-cache"], 80, "http");
    let _cache = Instance::start(&mesh, "catalog-cache", "catalog-cache-1", &["catalog", "--version", "cached"]);
    let mut page = Page::open("fallback", &mesh);
    page.file();
    page.file();
    let said = page.run();
    assert!(said.contains("HTTP/1.1 200 ") && said.ends_with("[]"), "{said}");
    assert!(said.contains("content-type: application/json"), "{said}");

    let caller = Caller::start(&mesh, "shop", "caller");
    let recommended = || {
        let answer = caller.call("POST", "http://recommendations/for/me", &[]);
        (answer.status, answer.body)
    };
    let fixed = (200, "[]".to_owned());
    assert_eq!(recommended(), fixed, "no endpoint");
    let catalog = || caller.get("http://catalog/items");
    assert_eq!(catalog().header("x-catalog-version"), Some("cached"));

    // An endpoint that answers badly is no reason; its breaker is.
    let well = Arc::<AtomicBool>::default();
    let is_well = Arc::clone(&well);
    let application =
        Upstream::start(move |_| if is_well.load(SeqCst) { (200, "warp".into()) } else { (503, "closed".into()) });
    let _instance = application.instance(&mesh, "recommendations", "recommendations-1");
    let bad = (503, "closed".to_owned());
    wait_for("the endpoint is there", || match recommended() {
        answer if answer == bad => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    let answers: Vec<_> = (0..2).map(|_| recommended()).collect();
    assert_eq!(answers, [bad.clone(), bad], "two more, and the breaker opens");
    wait_for("it falls back again", || match recommended() {
        answer if answer == fixed => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    let counted = caller.sidecar.metric("weft_requests_total", &["reason=\"fallback\""]);
    assert!(counted > 1.5, "{}", caller.sidecar.metrics());
    well.store(true, SeqCst);
    wait_for("the endpoint answers when it is well", || match recommended() {
        (200, body) if body == "warp" => Ok(()),
        answer => Err(format!("{answer:?}")),
    });

    let own = Instance::catalog(&mesh, "catalog-1", "own");
    caller
        .until("catalog answers for itself", "http://catalog/items", |a| a.header("x-catalog-version") == Some("own"));
    drop(own);
    caller.until("its cache again", "http://catalog/items", |a| a.header("x-catalog-version") == Some("cached"));
    page.run();
    caller
        .until("nobody", "http://catalog/items", |a| (a.status, a.header("weft-error")) == (503, Some("no-endpoint")));
}
