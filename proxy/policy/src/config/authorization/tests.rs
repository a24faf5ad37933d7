//! What is refused, and by which name; what ports decide once for all.

use super::super::tests::{Change, inbound, refuse};
use super::{authorization_key, authorization_value};
use crate::authorize::{Connection, Verdict};
use crate::config::Inbound;
use crate::route::Head;
use weft_proto::v1;

fn rule(wire: &mut v1::Inbound) -> &mut v1::AuthorizationRule {
    &mut wire.ports[0].authorization[0].rules[0]
}

fn from(wire: &mut v1::Inbound) -> &mut v1::AuthorizationSource {
    &mut rule(wire).from[0]
}

fn to(wire: &mut v1::Inbound) -> &mut v1::AuthorizationOperation {
    &mut rule(wire).to[0]
}

fn when(wire: &mut v1::Inbound, key: &str, value: &str) {
    rule(wire).when =
        vec![v1::AuthorizationCondition { key: key.into(), values: vec![value.into()], ..Default::default() }];
}

/// Mistakes in the one rule, their fields from the rule down, and a part of the reason.
type Mistakes = [(Change<v1::Inbound>, &'static str, &'static str)];

fn refused(mistakes: &Mistakes) {
    for (mistake, field, reason) in mistakes {
        let field = format!("ports[0].authorization[0].rules[0].{field}");
        refuse(&inbound(), Inbound::from_wire, &[(*mistake, &field, reason)]);
    }
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    refuse(
        &inbound(),
        Inbound::from_wire,
        &[
            (|i| i.ports[0].authorization[0].action = 7, "ports[0].authorization[0].action", "no action"),
            (|i| i.ports[0].authorization[0].name = "x".into(), "ports[0].authorization[0].name", "namespace/name"),
        ],
    );
    refused(&[
        (|i| from(i).identities = vec!["cart".into()], "from[0].identities[0]", "neither a SPIFFE id"),
        (|i| from(i).not_identities = vec!["*cart*".into()], "from[0].notIdentities[0]", "neither"),
        (|i| from(i).identities = vec!["weft.local/*".into()], "from[0].identities[0]", "neither"),
        (|i| from(i).namespaces = vec!["Shop".into()], "from[0].namespaces[0]", "no namespace"),
        (|i| from(i).not_namespaces = vec!["s*p".into()], "from[0].notNamespaces[0]", "no namespace"),
        (|i| from(i).ip_blocks = vec!["192.0.2.1/24".into()], "from[0].ipBlocks[0]", "bits set"),
        (|i| from(i).ip_blocks = vec!["192.0.2.0/33".into()], "from[0].ipBlocks[0]", "no address range"),
        (|i| from(i).not_ip_blocks = vec!["192.0.2".into()], "from[0].notIpBlocks[0]", "no address range"),
        (|i| from(i).request_principals = vec!["a*b".into()], "from[0].requestPrincipals[0]", "'*'"),
        (|i| from(i).not_request_principals = vec![String::new()], "from[0].notRequestPrincipals[0]", "'*'"),
        (|i| from(i).service_accounts = vec!["cart".into()], "from[0].serviceAccounts[0]", "no service account"),
        (
            |i| from(i).not_service_accounts = vec!["shop/*".into()],
            "from[0].notServiceAccounts[0]",
            "no service account",
        ),
        (|i| to(i).hosts = vec!["a b".into()], "to[0].hosts[0]", "neither a host"),
        (|i| to(i).not_hosts = vec!["a:x".into()], "to[0].notHosts[0]", "neither a host"),
        (|i| to(i).ports = vec![0], "to[0].ports[0]", "is not a port"),
        (|i| to(i).not_ports = vec![80, 65_536], "to[0].notPorts[1]", "is not a port"),
        (|i| to(i).methods = vec!["Get".into()], "to[0].methods[0]", "upper case"),
        (|i| to(i).not_methods = vec!["G T".into()], "to[0].notMethods[0]", "no method"),
        (|i| to(i).paths = vec!["admin".into()], "to[0].paths[0]", "begins with '/'"),
        (|i| to(i).paths = vec!["/a*b".into()], "to[0].paths[0]", "'*' at most at its end"),
        (|i| to(i).paths = vec!["/a/../b".into()], "to[0].paths[0]", "dot segments"),
        (|i| to(i).not_paths = vec!["/%61".into()], "to[0].notPaths[0]", "percent-encoding"),
        (|i| to(i).not_paths = vec!["/{*}x".into()], "to[0].notPaths[0]", "whole segment"),
        (|i| when(i, "remote.ip", "192.0.2.1"), "when[0].key", "known are source.ip"),
        (|i| when(i, "request.headers", "x"), "when[0].key", "names no header"),
        (|i| when(i, "request.headers[:path]", "x"), "when[0].key", "names no header"),
        (|i| when(i, "request.auth.claims", "x"), "when[0].key", "names no claim"),
        (|i| when(i, "request.auth.claims[a][]", "x"), "when[0].key", "names no claim"),
        (|i| when(i, "request.auth.claims[a]b", "x"), "when[0].key", "names no claim"),
        (|i| when(i, "destination.port", "http"), "when[0].values[0]", "is not a port"),
        (|i| when(i, "destination.port", "+80"), "when[0].values[0]", "is not a port"),
        (|i| when(i, "source.ip", "*"), "when[0].values[0]", "no address range"),
        (|i| when(i, "connection.sni", "a/b"), "when[0].values[0]", "server name"),
        (|i| rule(i).when = vec![v1::AuthorizationCondition::default()], "when[0].values", "values or notValues"),
        (|i| rule(i).from = vec![Default::default(); 65], "from", "65 entries"),
    ]);
}

#[test]
fn what_can_be_read_is_accepted() {
    let mut wire = inbound();
    to(&mut wire).paths = vec!["*".into(), "/.well-known/*".into(), "/a".into(), "*.json".into(), "/{*}/x/{**}".into()];
    to(&mut wire).hosts = vec!["*".into(), "*.shop.test:*".into(), "[2001:db8::1]:80".into()];
    to(&mut wire).methods = vec!["*".into(), "P*".into()];
    from(&mut wire).identities = vec!["*".into(), "spiffe://weft.local/ns/shop/*".into(), "*/sa/cart".into()];
    from(&mut wire).ip_blocks =
        vec!["0.0.0.0/0".into(), "::/0".into(), "192.0.2.7".into(), "::ffff:192.0.2.0/120".into()];
    when(&mut wire, "request.auth.claims[realm_access][roles]", "admin");
    Inbound::from_wire(&wire).unwrap();
}

#[test]
fn each_list_takes_values_of_its_own_kind_where_they_are_checked_one_by_one() {
    for (lists, good, bad) in [
        (&["identities", "notIdentities", "source.principal"][..], "spiffe://weft.local/ns/shop/sa/cart", "cart"),
        (&["namespaces", "notNamespaces", "source.namespace"], "shop", "Shop"),
        (&["serviceAccounts", "notServiceAccounts"], "shop/cart", "cart"),
        (&["ipBlocks", "notIpBlocks", "source.ip"], "192.0.2.0/24", "cart"),
        (&["hosts", "notHosts"], "*.shop.test:80", "a b"),
        (&["methods", "notMethods"], "GET", "Get"),
        (&["paths", "notPaths"], "/cart", "cart"),
        (&["destination.port"], "80", "http"),
        (&["connection.sni"], "*.shop.test", "a/b"),
        (&["requestPrincipals", "request.headers[x-tenant]"], "anything at all", "a*b"),
    ] {
        for list in lists {
            assert_eq!(authorization_value(list, good), Ok(()), "{list}: {good}");
            let refusal = authorization_value(list, bad).unwrap_err();
            assert_eq!(refusal.field, "", "{list}: {refusal}");
        }
    }
}

#[test]
fn a_key_is_judged_without_its_values() {
    for key in [
        "source.ip",
        "source.namespace",
        "source.principal",
        "destination.port",
        "connection.sni",
        "request.headers[x-tenant]",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "request.auth.claims[realm][roles]",
    ] {
        assert_eq!(authorization_key(key), Ok(()), "{key}");
    }
    for key in ["", "remote.ip", "request.headers", "request.auth.claims[]"] {
        assert_eq!(authorization_key(key).map_err(|refusal| refusal.field), Err("key".to_owned()), "{key}");
    }
}

#[test]
fn ports_decide_for_each_port_which_rules_there_are() {
    let headers = http::HeaderMap::new();
    let verdict = |change: Change<v1::Inbound>| {
        let mut wire = inbound();
        from(&mut wire).namespaces.clear();
        change(&mut wire);
        let port = &Inbound::from_wire(&wire).unwrap().ports[0];
        let asked = (Connection::default(), Head::new("GET", "/", &headers));
        let allowed = port.authorization.request(&asked.0, &asked.1, None).is_allowed();
        assert_eq!(port.authorization.opaque(&asked.0).is_allowed(), allowed, "a port is known of opaque bytes too");
        matches!(port.authorization.request(&asked.0, &asked.1, None).verdict, Verdict::Allowed(c) if c.index == 0)
    };
    assert!(verdict(|i| to(i).ports = vec![80, 8080]));
    assert!(!verdict(|i| to(i).ports = vec![80]));
    assert!(!verdict(|i| to(i).not_ports = vec![80, 8080]));
    assert!(verdict(|i| to(i).not_ports = vec![80]));
    assert!(verdict(|i| when(i, "destination.port", "8080")));
    assert!(!verdict(|i| when(i, "destination.port", "80")));
    assert!(verdict(|i| rule(i).to.insert(0, v1::AuthorizationOperation { ports: vec![80], ..Default::default() })));
}
