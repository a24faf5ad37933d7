//! `docs/src/howto/policy.md`

use crate::page::Page;
use weft_integration::rig::stage::{Instance, services};
use weft_integration::rig::{Caller, Mesh};

#[test]
fn a_route_a_traffic_policy_and_who_may_call_are_applied_and_say_what_became_of_them() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["catalog", "catalog-v1", "catalog-v2", "payments"], 80, "http");
    let _instances = [("catalog-v1", "v1"), ("catalog-v2", "v2"), ("payments", "p")].map(|(service, version)| {
        Instance::start(&mesh, service, &format!("{service}-1"), &["catalog", "--version", version])
    });
    let (orders, other) = (Caller::start(&mesh, "shop", "orders"), Caller::start(&mesh, "shop", "other"));
    // What calls a service holds its policies: so the page finds someone who does.
    for caller in [&orders, &other] {
        caller.until("payments answers", "http://payments/charges", |answer| answer.status == 200);
        caller.get("http://catalog/items");
    }
    let mut page = Page::open("policy", &mesh);
    (0..3).for_each(|_| drop(page.file()));
    let said = page.run();
    for condition in ["Accepted", "ResolvedRefs", "Programmed", "2 of 2 sidecars", "the mesh is well"] {
        assert!(said.contains(condition), "{condition}: {said}");
    }

    let canary = (0..300).filter(|_| {
        let answer = other.get("http://catalog/items");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.header("x-catalog-version") == Some("v2")
    });
    let canary = canary.count();
    // 30 are expected; five standard deviations to either side.
    assert!((4..=56).contains(&canary), "{canary} of 300");
    let charge = |caller: &Caller, method: &str, path: &str| {
        let answer = caller.call(method, &format!("http://payments{path}"), &[]);
        (answer.status, answer.header("weft-error").map(str::to_owned))
    };
    let denied = (403, Some("denied".to_owned()));
    assert_eq!(charge(&orders, "POST", "/charges/7"), (200, None));
    assert_eq!(charge(&orders, "GET", "/charges/7"), denied);
    assert_eq!(charge(&orders, "POST", "/refunds"), denied);
    assert_eq!(charge(&other, "POST", "/charges/7"), denied);
}
