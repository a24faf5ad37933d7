//! `docs/src/howto/canary.md`

use crate::page::Page;
use weft_integration::rig::stage::{Instance, services};
use weft_integration::rig::{Caller, Mesh};

#[test]
fn a_canary_gets_its_testers_its_share_and_its_sessions_and_goes_back() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["catalog", "catalog-v1", "catalog-v2"], 80, "http");
    let _instances = [("catalog", "v0"), ("catalog-v1", "v1"), ("catalog-v2", "v2")].map(|(service, version)| {
        Instance::start(&mesh, service, &format!("{service}-1"), &["catalog", "--version", version])
    });
    let mut page = Page::open("canary", &mesh);
    let route = page.file();
    let said = page.run();
    assert!(said.contains("x-catalog-version: v2"), "a tester gets the canary");
    for release in ["shop/catalog-v1 ", "shop/catalog-v2 "] {
        assert!(said.contains(release), "weft stat has a line for each release: {said}");
    }

    let caller = Caller::start(&mesh, "shop", "caller");
    let call = |headers: &[&str]| {
        let answer = caller.call("GET", "http://catalog/items", headers);
        assert_eq!(answer.status, 200, "{answer:?}");
        let cookie = answer.header("set-cookie").map(|c| c.split(';').next().unwrap_or_default().to_owned());
        (answer.header("x-catalog-version").unwrap_or_default().to_owned(), cookie)
    };
    for _ in 0..20 {
        assert_eq!(call(&["x-canary: yes"]).0, "v2");
    }
    let drawn: Vec<_> = (0..400).map(|_| call(&[])).collect();
    let canary: Vec<_> = drawn.iter().filter(|(version, _)| version == "v2").collect();
    println!("{} of 400 to the canary", canary.len());
    // 20 are expected; five and more standard deviations to either side.
    assert!((2..=45).contains(&canary.len()), "{} of 400", canary.len());
    let cookie = canary[0].1.clone().expect("a session begins");
    assert!(cookie.starts_with("release="), "{cookie}");
    let session = format!("cookie: {cookie}");

    // The way back that the page describes.
    assert!(route.contains("weight: 5}"));
    std::fs::write(mesh.folder().join("back.yaml"), route.replace("weight: 5}", "weight: 0}")).unwrap();
    mesh.weft(&["apply", "--wait", "-f", "back.yaml"]).ok();
    for _ in 0..50 {
        assert_eq!(call(&[]).0, "v1", "no new calls to the canary");
    }
    for _ in 0..10 {
        assert_eq!(call(&[&session]).0, "v2", "the session stays");
    }
    page.run();
    caller.until("the endpoints of catalog itself answer", "http://catalog/items", |a| {
        a.header("x-catalog-version") == Some("v0")
    });
}
