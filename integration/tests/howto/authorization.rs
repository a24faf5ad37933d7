//! `docs/src/howto/authorization.md`

use crate::page::Page;
use weft_integration::rig::stage::{Instance, services};
use weft_integration::rig::{Caller, Mesh, wait_for};

#[test]
fn readers_read_strangers_are_watched_and_who_brings_no_token_is_sent_away() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["catalog", "orders"], 80, "http");
    let catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let _orders = Instance::start(&mesh, "orders", "orders-1", &["catalog"]);
    let (storefront, thief) = (Caller::start(&mesh, "shop", "storefront"), Caller::start(&mesh, "shop", "thief"));
    let editor = Caller::start(&mesh, "office", "editor");
    for caller in [&storefront, &thief, &editor] {
        assert_eq!(caller.get("http://catalog.shop/items").status, 200);
        assert_eq!(caller.get("http://orders.shop/items").status, 200);
    }

    let mut page = Page::open("authorization", &mesh);
    page.file();
    let said = page.run();
    assert!(said.contains("allowed by shop/catalog-1: shop/catalog readers allows it"), "{said}");
    assert_eq!(storefront.get("http://catalog.shop/items/7").status, 200);
    for (caller, method) in [(&storefront, "DELETE"), (&thief, "GET"), (&editor, "GET")] {
        let answer = caller.call(method, "http://catalog.shop/items/7", &[]);
        assert_eq!((answer.status, answer.header("weft-error")), (403, Some("denied")), "{answer:?}");
        assert!(answer.body.contains("shop/catalog"), "{answer:?}");
    }
    let change =
        |headers: &[&str], path: &str| editor.call("DELETE", &format!("http://catalog.shop{path}"), headers).status;
    assert_eq!(change(&["x-change: 42"], "/items/7"), 200);
    assert_eq!((change(&[], "/items/7"), change(&["x-change: 42"], "/other/7")), (403, 403));

    page.file();
    page.run();
    let watched = |who: &Caller| {
        let before =
            catalog.sidecar.metric("weft_authz_total", &["decision=\"audit\"", "policy=\"shop/no-strangers\""]);
        who.call("DELETE", "http://catalog.shop/items/7", &["x-change: 42"]);
        let after = catalog.sidecar.metric("weft_authz_total", &["decision=\"audit\"", "policy=\"shop/no-strangers\""]);
        after - before
    };
    assert!(watched(&storefront) < 0.5 && watched(&editor) < 0.5, "neither is a stranger");
    let stranger = Caller::start(&mesh, "press", "critic");
    assert!(watched(&stranger) > 0.5, "who is one is counted");

    page.file();
    let said = page.run();
    assert!(said.contains("id.example.com"), "{said}");
    // Whoever issues these tokens cannot be reached from here: no token is good, and the page says where that stands.
    wait_for("a request without a token is sent away", || {
        let answer = storefront.get("http://orders.shop/items");
        let challenged = answer.header("www-authenticate").is_some_and(|with| with.starts_with("Bearer"));
        let refused = (answer.status, answer.header("weft-error")) == (401, Some("token-missing")) && challenged;
        if refused { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    let answer = storefront.call("GET", "http://orders.shop/items", &["Authorization: Bearer e30.e30.e30"]);
    assert_eq!((answer.status, answer.header("weft-error")), (401, Some("token-refused")), "{answer:?}");
    wait_for("the object says why there are no keys", || {
        let object = mesh.object("requestauthentication", "shop", "login");
        let conditions = object["status"].to_string();
        if conditions.contains("JwksFetched") { Ok(()) } else { Err(conditions) }
    });
}
