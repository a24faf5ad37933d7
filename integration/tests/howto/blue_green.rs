//! `docs/src/howto/blue-green.md`

use crate::page::Page;
use weft_integration::rig::stage::{Instance, services};
use weft_integration::rig::{Load, Mesh, assert_all_well};

/// Calls that each release has answered so far.
fn answered(load: &Load) -> [u64; 2] {
    let report = load.report().unwrap();
    ["blue", "green"].map(|release| report["variants"][release].as_u64().unwrap_or_default())
}

/// Every call of the next hundred goes to one release, of which no other gets any.
#[track_caller]
fn all_go_to(load: &mut Load, release: usize) {
    // What began before the switch is over by then.
    load.go_on_well(50);
    let before = answered(load);
    load.go_on_well(100);
    let after = answered(load);
    assert!(after[release] >= before[release] + 100, "{before:?}, {after:?}");
    assert_eq!(after[1 - release], before[1 - release], "{before:?}, {after:?}");
}

#[test]
fn all_calls_change_over_to_green_and_back_and_none_fails() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["orders", "orders-blue", "orders-green"], 80, "http");
    let [_blue, mut green] = ["blue", "green"].map(|release| {
        let service = format!("orders-{release}");
        Instance::start(&mesh, &service, &format!("{service}-1"), &["catalog", "--version", release])
    });
    let mut page = Page::open("blue-green", &mesh);
    page.file();
    page.file();
    let said = page.run();
    assert!(said.contains("x-catalog-version: green"), "green can be tried by its own name: {said}");

    let mut load = Load::start(&mesh, "http://orders", 100);
    all_go_to(&mut load, 0);
    let said = page.run();
    assert!(said.contains("shop/orders-blue ") && said.contains("shop/orders-green "), "{said}");
    all_go_to(&mut load, 1);
    page.run();
    all_go_to(&mut load, 0);
    // What gets no calls may be stopped.
    assert_eq!(green.sidecar.process.stop(), 0, "{}", green.sidecar.process.log());
    load.go_on_well(50);
    assert_all_well(&load.stop());
}
