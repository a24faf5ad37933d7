//! The meaning of verdicts, stages and disguised paths. What each condition means is in the cases of `tests/authorization`.

use super::*;
use crate::config::Inbound;
use crate::route::Head;
use weft_proto::v1;

const CART: &str = "spiffe://weft.local/ns/shop/sa/cart";
const SPY: &str = "spiffe://other.local/ns/shop/sa/cart";

type Written<'w> = (&'w str, v1::Action, &'w [v1::AuthorizationRule]);

fn policies(all: &[Written<'_>]) -> Policies {
    let named = |rule: &v1::AuthorizationRule| v1::AuthorizationRule { name: "r".into(), ..rule.clone() };
    let wire = all.iter().map(|(name, action, rules)| v1::Authorization {
        name: (*name).into(),
        action: (*action).into(),
        rules: rules.iter().map(named).collect(),
    });
    let port =
        v1::InboundPort { port: 80, local: "127.0.0.1:80".into(), authorization: wire.collect(), ..Default::default() };
    let identity = "spiffe://weft.local/ns/shop/sa/orders".into();
    let wire = v1::Inbound { workload: "shop/orders-1".into(), identity, ports: vec![port], ..Default::default() };
    Inbound::from_wire(&wire).unwrap().ports[0].authorization.clone()
}

fn deny(rule: v1::AuthorizationRule) -> Policies {
    policies(&[("shop/d", v1::Action::Deny, &[rule])])
}

fn allow(rule: v1::AuthorizationRule) -> Policies {
    policies(&[("shop/a", v1::Action::Allow, &[rule])])
}

fn from(change: impl FnOnce(&mut v1::AuthorizationSource)) -> v1::AuthorizationRule {
    let mut source = v1::AuthorizationSource::default();
    change(&mut source);
    v1::AuthorizationRule { from: vec![source], ..Default::default() }
}

fn to(change: impl FnOnce(&mut v1::AuthorizationOperation)) -> v1::AuthorizationRule {
    let mut operation = v1::AuthorizationOperation::default();
    change(&mut operation);
    v1::AuthorizationRule { to: vec![operation], ..Default::default() }
}

fn cart() -> v1::AuthorizationRule {
    from(|source| source.identities = vec![CART.into()])
}

fn methods(method: &str) -> v1::AuthorizationRule {
    to(|operation| operation.methods = vec![method.into()])
}

fn paths(path: &str) -> v1::AuthorizationRule {
    to(|operation| operation.paths = vec![path.into()])
}

fn peer(identity: Option<&str>) -> Connection<'_> {
    Connection { identity, ..Connection::default() }
}

fn ask<'p>(policies: &'p Policies, identity: Option<&str>, method: &str, path: &str) -> Decision<'p> {
    policies.request(&peer(identity), &Head::new(method, path, &http::HeaderMap::new()), None)
}

#[test]
fn without_policies_everyone_is_admitted() {
    assert_eq!(ask(&Policies::default(), None, "GET", "/").verdict, Verdict::Unrestricted);
}

#[test]
fn deny_comes_before_allow_and_the_rule_is_named() {
    let all = policies(&[
        ("shop/cart", v1::Action::Allow, &[cart()]),
        ("shop/no-delete", v1::Action::Deny, &[methods("PUT"), methods("DELETE")]),
    ]);
    let cause = |policy, index| Cause { policy, index, rule: "r" };
    assert_eq!(ask(&all, Some(CART), "GET", "/").verdict, Verdict::Allowed(cause("shop/cart", 0)));
    assert_eq!(ask(&all, Some(CART), "DELETE", "/").verdict, Verdict::Denied(cause("shop/no-delete", 1)));
    assert_eq!(ask(&all, Some(SPY), "GET", "/").verdict, Verdict::NotAllowed { policy: "shop/cart" });
    assert!(!ask(&all, None, "GET", "/").is_allowed());
}

#[test]
fn an_allow_policy_without_rules_denies_all_and_a_deny_policy_without_rules_denies_nothing() {
    assert!(!ask(&policies(&[("shop/none", v1::Action::Allow, &[])]), Some(CART), "GET", "/").is_allowed());
    assert!(ask(&policies(&[("shop/none", v1::Action::Deny, &[])]), Some(CART), "GET", "/").is_allowed());
}

#[test]
fn a_rule_without_conditions_holds_for_the_anonymous_too() {
    assert!(allow(v1::AuthorizationRule::default()).opaque(&peer(None)).is_allowed());
    let known = allow(from(|source| source.identities = vec!["*".into()]));
    assert!(known.opaque(&peer(Some(CART))).is_allowed());
    assert!(!known.opaque(&peer(None)).is_allowed());
}

#[test]
fn a_namespace_of_another_trust_domain_is_another_namespace() {
    let shop = allow(from(|source| source.namespaces = vec!["shop".into()]));
    assert!(ask(&shop, Some(CART), "GET", "/").is_allowed());
    assert!(!ask(&shop, Some(SPY), "GET", "/").is_allowed());
    assert!(!ask(&shop, Some("spiffe://weft.local/ns/shop"), "GET", "/").is_allowed());
}

#[test]
fn opaque_bytes_meet_deny_rules_in_full_and_allow_rules_about_requests_never() {
    for rule in
        [methods("GET"), to(|o| o.not_paths = vec!["/x".into()]), from(|s| s.not_request_principals = vec!["*".into()])]
    {
        assert!(!deny(rule.clone()).opaque(&peer(Some(CART))).is_allowed(), "{rule:?}");
        assert!(!allow(rule.clone()).opaque(&peer(Some(CART))).is_allowed(), "{rule:?}");
    }
}

#[test]
fn a_connection_is_refused_only_when_every_request_would_be() {
    let get = || v1::AuthorizationRule { from: cart().from, to: methods("GET").to, ..Default::default() };
    assert!(deny(get()).connection(&peer(Some(CART))).is_allowed());
    assert!(allow(get()).connection(&peer(Some(CART))).is_allowed());
    assert!(!allow(get()).connection(&peer(Some(SPY))).is_allowed());
    assert!(!deny(cart()).connection(&peer(Some(CART))).is_allowed());
    let either = v1::AuthorizationRule {
        from: [cart().from, from(|s| s.request_principals = vec!["*".into()]).from].concat(),
        ..Default::default()
    };
    assert!(!deny(either.clone()).connection(&peer(Some(CART))).is_allowed());
    assert!(deny(either).connection(&peer(Some(SPY))).is_allowed());
}

#[test]
fn audit_rules_watch_without_deciding() {
    let all = policies(&[("shop/watch", v1::Action::Audit, &[paths("/admin*")])]);
    let decision = ask(&all, Some(CART), "GET", "/admin/x");
    assert_eq!(decision.verdict, Verdict::Unrestricted);
    assert_eq!(decision.audit.map(|cause| cause.policy), Some("shop/watch"));
    assert_eq!(ask(&all, Some(CART), "GET", "/").audit, None);
}

#[test]
fn a_path_in_disguise_is_denied_and_not_allowed() {
    let denied = deny(paths("/admin*"));
    let others = deny(to(|o| o.not_paths = vec!["/public/*".into()]));
    let allowed = allow(paths("/public/*"));
    let rest = allow(to(|o| o.not_paths = vec!["/admin*".into()]));
    for path in [
        "/public/../admin",
        "/public/%2e%2e/admin",
        "//admin",
        "/%61dmin",
        "/public\\..\\admin",
        "/./admin",
        "/public/..;/admin",
        "/public/x/../../admin/",
        "/public/..%2fadmin",
    ] {
        for all in [&denied, &others, &allowed, &rest] {
            assert!(!ask(all, Some(CART), "GET", path).is_allowed(), "{path}");
        }
    }
    for path in ["/public/a%20b", "/public/x/../y", "/public/..a", "/public//z", "/public/p;v=1"] {
        for all in [&denied, &others, &allowed, &rest] {
            assert!(ask(all, Some(CART), "GET", path).is_allowed(), "{path}");
        }
    }
}
