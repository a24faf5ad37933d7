//! `docs/src/howto/ab-tests.md`

use crate::page::Page;
use weft_integration::rig::stage::{Instance, services};
use weft_integration::rig::{Caller, Mesh};

#[test]
fn a_header_or_a_cookie_chooses_the_variant_and_the_answer_says_which_it_was() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["storefront", "storefront-a", "storefront-b"], 80, "http");
    let _instances = [("storefront", "own"), ("storefront-a", "a"), ("storefront-b", "b")].map(|(service, version)| {
        Instance::start(&mesh, service, &format!("{service}-1"), &["catalog", "--version", version])
    });
    let mut page = Page::open("ab-tests", &mesh);
    page.file();
    let said = page.run();
    // Three calls in the page's order, and who served them.
    let variants: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("x-variant: ")).map(str::trim).collect();
    assert_eq!(variants, ["a", "b", "b"], "{said}");
    assert!(said.contains("shop/storefront-a ") && said.contains("shop/storefront-b "), "{said}");

    let caller = Caller::start(&mesh, "shop", "caller");
    let cases: [(&[&str], &str); 9] = [
        (&[], "a"),
        (&["x-variant: b"], "b"),
        (&["X-Variant: b"], "b"),
        (&["x-variant: B"], "a"),
        (&["cookie: variant=b"], "b"),
        (&["cookie: theme=dark; variant=b"], "b"),
        (&["cookie: variant=b; theme=dark"], "b"),
        (&["cookie: invariant=b"], "a"),
        (&["cookie: variant=bb"], "a"),
    ];
    for _ in 0..5 {
        for (headers, variant) in cases {
            let answer = caller.call("GET", "http://storefront/", headers);
            let said = (answer.status, answer.header("x-variant"), answer.header("x-catalog-version"));
            assert_eq!(said, (200, Some(variant), Some(variant)), "{headers:?}: {answer:?}");
        }
    }
    page.run();
    caller.until("storefront's own endpoints answer", "http://storefront/", |answer| {
        answer.header("x-catalog-version") == Some("own") && answer.header("x-variant").is_none()
    });
}
