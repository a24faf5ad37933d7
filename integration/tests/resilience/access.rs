//! Who may call what: AuthorizationPolicy by identity, enforced by the sidecar of the callee, with an answer that names the policy.

use crate::stage::{Answer, Caller, Instance, apply};
use weft_integration::rig::{Mesh, wait_for};

fn policy(action: &str, rules: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: catalog, namespace: shop}}\nspec: \
         {{targetRefs: [{{kind: Service, name: catalog}}], action: {action}, rules: [{rules}]}}\n"
    )
}

#[track_caller]
fn assert_denied(answer: &Answer, who: &str) {
    assert_eq!((answer.status, answer.header("weft-error")), (403, Some("denied")), "{answer:?}");
    for part in ["AuthorizationPolicy shop/catalog", who] {
        assert!(answer.body.contains(part), "{part}: {answer:?}");
    }
}

#[test]
fn an_identity_that_is_denied_gets_403_with_the_policy_that_denied_it() {
    let mesh = Mesh::start();
    let catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let (clerk, thief) = (Caller::start(&mesh, "shop", "clerk"), Caller::start(&mesh, "shop", "thief"));
    assert_eq!((clerk.get("http://catalog/items").status, thief.get("http://catalog/items").status), (200, 200));
    let before = catalog.sidecar.metric("weft_authz_total", &["decision=\"deny\""]);

    apply(&mesh, &policy("Deny", "{name: no-thieves, from: [{serviceAccounts: [thief]}]}"));
    let answer = thief.get("http://catalog/items");
    println!("{} {}", answer.status, answer.body.trim());
    assert_denied(&answer, &thief.identity("thief"));
    assert!(answer.body.contains("no-thieves"), "{answer:?}");
    assert_eq!(clerk.get("http://catalog/items").status, 200);
    wait_for("the denial is counted with its policy", || {
        let denied = catalog.sidecar.metric("weft_authz_total", &["policy=\"shop/catalog\"", "decision=\"deny\""]);
        if denied > before { Ok(()) } else { Err(catalog.sidecar.metrics()) }
    });

    // By operation: reading is one thing and writing another.
    let rule = "{from: [{identities: ['spiffe://weft.local/ns/shop/sa/thief']}], to: [{methods: [POST], paths: ['/items/*']}]}";
    apply(&mesh, &policy("Deny", rule));
    for (method, path, status) in [("GET", "/items/1", 200), ("POST", "/items/1", 403), ("POST", "/other", 200)] {
        let answer = thief.call(method, &format!("http://catalog{path}"), &[]);
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 403 {
            assert_denied(&answer, "thief");
        }
        // What would become of it is what does become of it.
        let explained = mesh.weft(&["explain", "-n", "shop", "--from", "thief", "--to", "catalog", method, path]);
        assert_eq!(explained.code, i32::from(status != 200), "{explained:?}");
        let said = if status == 200 {
            "allowed by shop/catalog-1"
        } else {
            "DENIED by shop/catalog-1: shop/catalog rules[0] denies it"
        };
        assert!(explained.out.contains(said), "{}", explained.out);
    }

    mesh.weft(&["delete", "authz", "catalog", "-n", "shop"]).ok();
    wait_for("without the policy all is as before", || match thief.call("POST", "http://catalog/items/1", &[]) {
        answer if answer.status == 200 => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
}

#[test]
fn with_a_list_of_who_is_allowed_nobody_else_is() {
    let mesh = Mesh::start();
    let _catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let (clerk, thief) = (Caller::start(&mesh, "shop", "clerk"), Caller::start(&mesh, "shop", "thief"));
    let stranger = Caller::start(&mesh, "press", "critic");
    apply(&mesh, &policy("Allow", "{name: clerks, from: [{serviceAccounts: [clerk]}]}"));
    assert_eq!(clerk.get("http://catalog/items").status, 200);
    assert_denied(&thief.get("http://catalog/items"), &thief.identity("thief"));
    let answer = stranger.get("http://catalog.shop/items");
    println!("{} {}", answer.status, answer.body.trim());
    assert_denied(&answer, &stranger.identity("critic"));
    apply(&mesh, &policy("Allow", "{from: [{serviceAccounts: [clerk]}]}, {from: [{namespaces: [press]}]}"));
    assert_eq!(stranger.get("http://catalog.shop/items").status, 200);
    // An allow policy without a rule allows nobody.
    apply(&mesh, &policy("Allow", ""));
    assert_denied(&clerk.get("http://catalog/items"), &clerk.identity("clerk"));
}
