//! Questions to a small shop and what the core says of them.

use super::*;
use crate::compile::tests::{LastGood, compile, world};
use crate::xds::Snapshot;
use std::sync::Arc;

const SHOP: &str = r#"
kind: Service
metadata: {name: catalog}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
kind: Service
metadata: {name: catalog-next}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
kind: Workload
metadata: {name: catalog-1}
spec: {serviceAccount: catalog, address: 192.0.2.1, tunnel: "192.0.2.1:15008", services: [catalog], ports: [{name: http, port: 8080}]}
---
kind: Workload
metadata: {name: catalog-2}
spec: {serviceAccount: catalog, address: 192.0.2.2, services: [catalog], ports: [{name: http, port: 8080}]}
---
kind: Workload
metadata: {name: next-1}
spec: {serviceAccount: catalog-next, address: 192.0.2.3, tunnel: "192.0.2.3:15008", services: [catalog-next], ports: [{name: http, port: 8080}]}
---
kind: Workload
metadata: {name: cart-1}
spec: {serviceAccount: cart, address: 192.0.2.4, tunnel: "192.0.2.4:15008"}
---
kind: HTTPRoute
metadata: {name: catalog}
spec:
  parentRefs: [{group: "", kind: Service, name: catalog}]
  rules:
  - name: items
    matches: [{path: {type: PathPrefix, value: /items}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: next.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}}]
    timeouts: {request: 2s}
    backendRefs: [{name: catalog, port: 80, weight: 3}, {name: catalog-next, port: 80, weight: 1}]
  - matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /items}}}]
  - matches: [{headers: [{name: x-test, value: "1"}]}]
    backendRefs: [{name: gone, port: 80}]
---
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  targetRefs: [{kind: Service, name: catalog}]
  rules: [{name: cart-reads, from: [{serviceAccounts: [cart]}], to: [{methods: [GET], paths: [/v2*]}]}]
"#;

fn shop() -> Compiled {
    let world = world(SHOP);
    let (output, _) = compile(&world, &LastGood::default());
    let snapshot = Arc::new(Snapshot::next(&Snapshot::default(), &output).0);
    Compiled { world: Arc::new(world), output: Arc::new(output), snapshot, generation: 1, ..Compiled::default() }
}

fn ask(from: &str, to: &str, method: &str, path: &str) -> Question {
    Question { from: from.into(), to: to.into(), method: method.into(), path: path.into(), headers: Vec::new() }
}

#[test]
fn a_call_is_followed_from_its_rule_to_every_endpoint_that_it_may_reach() {
    let shop = shop();
    let explained = explain(&shop, &ask("shop/cart-1", "catalog", "GET", "/items/7?full=1")).unwrap();
    assert_eq!(explained.from.as_deref(), Some("spiffe://weft.local/ns/shop/sa/cart"));
    assert_eq!((explained.to.as_str(), &explained.outcome), ("shop/catalog:80", &Outcome::Forwarded));
    let rule = explained.rule.as_ref().unwrap();
    assert_eq!((rule.route.as_str(), rule.index, rule.name.as_str()), ("shop/catalog", 0, "items"));
    assert_eq!((rule.request_timeout_ms, rule.retries), (Some(2000), 2));
    let [catalog, next] = &explained.backends[..] else { panic!("{explained:#?}") };
    assert_eq!((catalog.share, next.share), (0.75, 0.25));
    assert_eq!((catalog.path.as_deref(), catalog.host.as_deref()), (Some("/v2/7?full=1"), Some("next.example")));
    assert_eq!((catalog.endpoints, next.endpoints), (2, 1));
    // The core is asked about the path that arrives, not the one that was written.
    let of = |uid: &str| catalog.admissions.iter().find(|a| a.endpoints == [uid]).unwrap();
    let meshed = of("shop/catalog-1");
    assert_eq!((meshed.allowed, meshed.mtls, meshed.tls_mode), (true, true, Some("Strict")));
    assert_eq!((meshed.policy.as_deref(), meshed.rule.as_deref()), (Some("shop/readers"), Some("cart-reads")));
    let bare = of("shop/catalog-2");
    assert_eq!((bare.allowed, bare.mtls, bare.tls_mode), (true, false, None));
    assert_eq!(next.admissions[0].reason, "no policy restricts the port");
    assert_eq!(explained.allowed, Some(true));
}

#[test]
fn a_refusal_names_what_refuses() {
    let shop = shop();
    let of = |from: &str, method: &str, path: &str| {
        let explained = explain(&shop, &ask(from, "catalog.shop:80", method, path)).unwrap();
        let first = explained.backends[0].admissions.iter().find(|a| a.endpoints == ["shop/catalog-1"]).unwrap();
        (explained.allowed, first.reason.clone())
    };
    for (from, method, path) in [("shop/cart", "POST", "/items"), ("shop/storefront", "GET", "/items")] {
        assert_eq!(
            of(from, method, path),
            (Some(false), "no rule of shop/readers allows it".into()),
            "{from} {method}"
        );
    }
    let (allowed, reason) = of("", "GET", "/items");
    assert!(allowed == Some(false) && reason.contains("has no certificate"), "{reason}");
}

#[test]
fn what_is_not_sent_on_is_said() {
    let shop = shop();
    let redirected = explain(&shop, &ask("shop/cart", "catalog", "GET", "/old")).unwrap();
    let location = "http://catalog/items".to_owned();
    assert_eq!(redirected.outcome, Outcome::Redirected { status: 302, location });
    assert_eq!(explain(&shop, &ask("shop/cart", "catalog", "GET", "/")).unwrap().outcome, Outcome::NoRoute);
    let question = Question { headers: vec![("X-Test".into(), "1".into())], ..ask("shop/cart", "catalog", "GET", "/") };
    let unresolved = explain(&shop, &question).unwrap();
    assert!(
        !unresolved.backends[0].resolved
            && unresolved.backends[0].target.starts_with("BackendNotFound: there is no Service shop/"),
        "{unresolved:#?}"
    );
    assert_eq!(unresolved.allowed, None);
}

#[test]
fn a_question_that_makes_no_sense_is_refused_by_its_field() {
    let shop = shop();
    for (question, begins) in [
        (ask("cart", "catalog", "GET", "/"), "from: "),
        (ask("spiffe://weft.local", "catalog", "GET", "/"), "from: "),
        (ask("shop/cart", "catalog:http", "GET", "/"), "to: \"http\" is no port"),
        (ask("shop/cart", "catalog:81", "GET", "/"), "to: shop/catalog has no such port, but 80"),
        (ask("shop/cart", "nobody", "GET", "/"), "to: \"nobody\" is no Service"),
        (ask("bank/cart", "catalog", "GET", "/"), "to: \"catalog\" is no Service"),
        (ask("shop/cart", "catalog", "G T", "/"), "method: "),
        (ask("shop/cart", "catalog", "GET", "items"), "path: "),
        (
            Question { headers: vec![("a b".into(), String::new())], ..ask("shop/cart", "catalog", "GET", "/") },
            "headers[0]: ",
        ),
    ] {
        let refused = explain(&shop, &question).unwrap_err().to_string();
        assert!(refused.starts_with(begins), "{refused}");
    }
}
