//! Precedence, ties and shares: one line a case, named after the rule of the Gateway API that it shows. Routes go
//! through [`crate::config`], as they do in the sidecar.
//!
//! A match is written `METHOD =/exact|/prefix|~regex h:name=value h:name~regex ?name=value ?name~regex`, for gRPC
//! `s=service m=method s~regex m~regex`; `or` stands between the matches of a rule. A request is `METHOD target
//! name:value…`.

use http::{HeaderMap, HeaderName, HeaderValue};
use weft_proto::v1;

use super::*;
use crate::config::Service;

/// Name, creation time and rules of a route.
type Route<'a> = (&'a str, i64, &'a [&'a str]);
/// Rule of the Gateway API, routes, request, and the `route#rule` it meets (`-`: none).
type Case<'a> = (&'a str, &'a [Route<'a>], &'a str, &'a str);

fn key(text: &str) -> v1::KeyMatch {
    let at = text.find(['=', '~']).unwrap();
    let value = text[at + 1..].to_owned();
    let value = if text[at..].starts_with('=') {
        v1::key_match::Value::Exact(value)
    } else {
        v1::key_match::Value::Regex(value)
    };
    v1::KeyMatch { name: text[..at].to_owned(), value: Some(value) }
}

fn wire_match(text: &str) -> v1::RouteMatch {
    use v1::route_match::Path;
    let (mut wire, mut grpc) = (v1::RouteMatch::default(), None::<v1::GrpcMethod>);
    for part in text.split_whitespace() {
        if let Some(path) = part.strip_prefix('=') {
            wire.path = Some(Path::ExactPath(path.into()));
        } else if part.starts_with('/') {
            wire.path = Some(Path::PathPrefix(part.into()));
        } else if let Some(regex) = part.strip_prefix('~') {
            wire.path = Some(Path::PathRegex(regex.into()));
        } else if let Some(header) = part.strip_prefix("h:") {
            wire.headers.push(key(header));
        } else if let Some(query) = part.strip_prefix('?') {
            wire.queries.push(key(query));
        } else if let Some((which, value)) = part.split_once(['=', '~']) {
            let grpc = grpc.get_or_insert_default();
            grpc.regex |= part.contains('~');
            *(if which == "s" { &mut grpc.service } else { &mut grpc.method }) = value.into();
        } else if part != "*" {
            wire.method = part.into();
        }
    }
    if let Some(grpc) = grpc {
        wire.path = Some(Path::Grpc(grpc));
    }
    wire
}

fn backend(service: &str, weight: u32) -> v1::WeightedBackend {
    v1::WeightedBackend { service: service.into(), port: 80, weight, ..Default::default() }
}

fn table(kind: v1::RouteKind, routes: &[Route<'_>]) -> Table {
    let routes = routes
        .iter()
        .map(|(name, created, rules)| v1::Route {
            name: (*name).into(),
            kind: kind.into(),
            created: *created,
            rules: rules
                .iter()
                .map(|rule| v1::RouteRule {
                    matches: rule.split(" or ").filter(|m| !m.is_empty()).map(wire_match).collect(),
                    backends: vec![backend("shop/orders", 1)],
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        })
        .collect();
    let port = v1::ServicePort {
        port: 80,
        frontend: Some(v1::Frontend { routes, ..Default::default() }),
        ..Default::default()
    };
    let service = v1::Service { name: "shop/orders".into(), ports: vec![port], ..Default::default() };
    Service::from_wire(&service).unwrap().ports[0].frontend.routes.clone()
}

fn meet(table: &Table, request: &str) -> String {
    let mut parts = request.split_whitespace();
    let (method, target) = (parts.next().unwrap(), parts.next().unwrap());
    let mut headers = HeaderMap::new();
    for header in parts {
        let (name, value) = header.split_once(':').unwrap();
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    match table.find(&Head::new(method, target, &headers)) {
        Some(Met { rule, .. }) => format!("{}#{}", rule.route.trim_start_matches("shop/"), rule.index),
        None => "-".into(),
    }
}

fn check(kind: v1::RouteKind, cases: &[Case<'_>]) {
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|(rule, routes, request, expected)| {
            let met = meet(&table(kind, routes), request);
            (met != *expected).then(|| format!("{rule}: {request} met {met}, not {expected}"))
        })
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn http_routes_are_matched_as_the_gateway_api_says() {
    let cases: &[Case<'_>] = &[
        // HTTPPathMatch: Exact
        ("Exact: the whole path", &[("shop/a", 0, &["=/cart"])], "GET /cart", "a#0"),
        ("Exact: not a longer path", &[("shop/a", 0, &["=/cart"])], "GET /cart/1", "-"),
        ("Exact: a trailing slash is another path", &[("shop/a", 0, &["=/cart"])], "GET /cart/", "-"),
        ("Exact: with a trailing slash, that one", &[("shop/a", 0, &["=/cart/"])], "GET /cart/", "a#0"),
        ("Exact: case-sensitive", &[("shop/a", 0, &["=/cart"])], "GET /Cart", "-"),
        ("Exact: the query is no part of the path", &[("shop/a", 0, &["=/cart"])], "GET /cart?x=/y", "a#0"),
        // HTTPPathMatch: PathPrefix
        ("PathPrefix: itself", &[("shop/a", 0, &["/v2"])], "GET /v2", "a#0"),
        ("PathPrefix: with a trailing slash", &[("shop/a", 0, &["/v2"])], "GET /v2/", "a#0"),
        ("PathPrefix: what is below", &[("shop/a", 0, &["/v2"])], "GET /v2/x/y", "a#0"),
        ("PathPrefix: element by element, not by characters", &[("shop/a", 0, &["/v2"])], "GET /v2example", "-"),
        ("PathPrefix: a trailing slash in the match is ignored", &[("shop/a", 0, &["/v2/"])], "GET /v2", "a#0"),
        ("PathPrefix: case-sensitive", &[("shop/a", 0, &["/v2"])], "GET /V2/x", "-"),
        ("PathPrefix: / matches every path", &[("shop/a", 0, &["/"])], "GET /any/thing", "a#0"),
        ("PathPrefix: / matches the asterisk form too", &[("shop/a", 0, &["/"])], "OPTIONS *", "a#0"),
        ("PathPrefix: not where the path is shorter", &[("shop/a", 0, &["/v2/x"])], "GET /v2", "-"),
        ("PathPrefix: the query does not lengthen the path", &[("shop/a", 0, &["/v2"])], "GET /v2?a=b", "a#0"),
        ("PathPrefix: doubled slashes are no boundary trick", &[("shop/a", 0, &["/v2"])], "GET //v2", "-"),
        // HTTPPathMatch: RegularExpression
        ("RegularExpression: anchored at both ends", &[("shop/a", 0, &["~/[0-9]+"])], "GET /12", "a#0"),
        ("RegularExpression: not at the beginning alone", &[("shop/a", 0, &["~/[0-9]+"])], "GET /12/x", "-"),
        ("RegularExpression: not at the end alone", &[("shop/a", 0, &["~[0-9]+"])], "GET /12", "-"),
        ("RegularExpression: alternatives are anchored together", &[("shop/a", 0, &["~/a|/b"])], "GET /b/c", "-"),
        ("RegularExpression: either alternative", &[("shop/a", 0, &["~/a|/b"])], "GET /b", "a#0"),
        // HTTPRouteMatch: defaults
        ("matches: none specified is prefix /", &[("shop/a", 0, &[""])], "DELETE /x", "a#0"),
        ("matches: any of several", &[("shop/a", 0, &["=/x or =/y"])], "GET /y", "a#0"),
        ("matches: none of several", &[("shop/a", 0, &["=/x or =/y"])], "GET /z", "-"),
        ("match: all parts must hold", &[("shop/a", 0, &["POST /x h:v=2 ?q=1"])], "POST /x?q=1 v:1", "-"),
        ("match: all parts hold", &[("shop/a", 0, &["POST /x h:v=2 ?q=1"])], "POST /x/y?q=1 v:2", "a#0"),
        ("no rule matches: no route", &[("shop/a", 0, &["=/x", "=/y"])], "GET /", "-"),
        // Method
        ("method: matched exactly", &[("shop/a", 0, &["POST /"])], "GET /", "-"),
        ("method: any when unspecified", &[("shop/a", 0, &["/"])], "PATCH /", "a#0"),
        // HTTPHeaderMatch
        ("header: the name is case-insensitive", &[("shop/a", 0, &["h:X-Canary=yes"])], "GET / x-canary:yes", "a#0"),
        ("header: the value is case-sensitive", &[("shop/a", 0, &["h:x-canary=yes"])], "GET / x-canary:Yes", "-"),
        ("header: all of several", &[("shop/a", 0, &["h:a=1 h:b=2"])], "GET / a:1", "-"),
        (
            "header: the second entry of an equal name is ignored",
            &[("shop/a", 0, &["h:v=1 h:V=2"])],
            "GET / v:1",
            "a#0",
        ),
        ("header: the ignored entry does not match", &[("shop/a", 0, &["h:v=1 h:V=2"])], "GET / v:2", "-"),
        ("header: any of its values", &[("shop/a", 0, &["h:v=2"])], "GET / v:1 v:2", "a#0"),
        ("header: RegularExpression, anchored", &[("shop/a", 0, &["h:v~[0-9]"])], "GET / v:12", "-"),
        ("header: RegularExpression matches", &[("shop/a", 0, &["h:v~[0-9]+"])], "GET / v:12", "a#0"),
        ("header: missing", &[("shop/a", 0, &["h:v~.*"])], "GET /", "-"),
        // HTTPQueryParamMatch
        ("query: the exact name", &[("shop/a", 0, &["?debug=1"])], "GET /?Debug=1", "-"),
        ("query: among others", &[("shop/a", 0, &["?debug=1"])], "GET /?x=2&debug=1", "a#0"),
        ("query: a repeated parameter counts by its first value", &[("shop/a", 0, &["?v=1"])], "GET /?v=1&v=2", "a#0"),
        ("query: not by its second", &[("shop/a", 0, &["?v=2"])], "GET /?v=1&v=2", "-"),
        ("query: percent-decoded", &[("shop/a", 0, &["?v=a/b"])], "GET /?v=a%2Fb", "a#0"),
        ("query: a plus is a space", &[("shop/a", 0, &["?v~a.b"])], "GET /?v=a+b", "a#0"),
        ("query: an expression sees the decoded value", &[("shop/a", 0, &["?v~a[^+%]b"])], "GET /?v=a+b", "a#0"),
        ("query: the second entry of an equal name is ignored", &[("shop/a", 0, &["?v=1 ?v=2"])], "GET /?v=1", "a#0"),
        ("query: RegularExpression, anchored", &[("shop/a", 0, &["?v~[a-c]"])], "GET /?v=ab", "-"),
        ("query: no query at all", &[("shop/a", 0, &["?v=1"])], "GET /", "-"),
        // HTTPRouteRule.matches: precedence
        ("precedence: exact before prefix", &[("shop/a", 0, &["/x", "=/x"])], "GET /x", "a#1"),
        (
            "precedence: exact before a prefix with more conditions",
            &[("shop/a", 0, &["GET /x h:a=1 ?b=2", "=/x"])],
            "GET /x?b=2 a:1",
            "a#1",
        ),
        ("precedence: the longest prefix", &[("shop/a", 0, &["/", "/a", "/a/b", "/a/b/c"])], "GET /a/b/d", "a#2"),
        ("precedence: a longer prefix before a method", &[("shop/a", 0, &["GET /a", "/a/b"])], "GET /a/b", "a#1"),
        ("precedence: method before headers", &[("shop/a", 0, &["/ h:a=1 h:b=2", "GET /"])], "GET / a:1 b:2", "a#1"),
        ("precedence: more headers", &[("shop/a", 0, &["h:a=1", "h:a=1 h:b=2"])], "GET / a:1 b:2", "a#1"),
        ("precedence: headers before queries", &[("shop/a", 0, &["?a=1 ?b=2", "h:a=1"])], "GET /?a=1&b=2 a:1", "a#1"),
        ("precedence: more queries", &[("shop/a", 0, &["?a=1", "?a=1 ?b=2"])], "GET /?a=1&b=2", "a#1"),
        (
            "precedence: ignored entries do not count",
            &[("shop/a", 0, &["h:a=1", "h:a=1 h:A=2", "h:a=1 h:b=1"])],
            "GET / a:1 b:1",
            "a#2",
        ),
        (
            "precedence: a regular expression before prefixes",
            &[("shop/a", 0, &["/users", "~/users/[0-9]+"])],
            "GET /users/7",
            "a#1",
        ),
        (
            "precedence: exact before a regular expression",
            &[("shop/a", 0, &["~/users/.*", "=/users/7"])],
            "GET /users/7",
            "a#1",
        ),
        (
            "precedence: falls through to what is less specific",
            &[("shop/a", 0, &["=/x h:a=1", "POST /x", "/"])],
            "GET /x",
            "a#2",
        ),
        ("precedence: from exact to prefix", &[("shop/a", 0, &["=/x h:a=1", "/x"])], "GET /x", "a#1"),
        ("precedence: across the matches of a rule", &[("shop/a", 0, &["/a or =/b", "/b"])], "GET /b", "a#0"),
        (
            "precedence: a trailing slash does not lengthen a prefix",
            &[("shop/a", 0, &["/a/", "/a"])],
            "GET /a/x",
            "a#0",
        ),
        (
            "precedence: headers decide within equal prefixes",
            &[("shop/a", 0, &["/a", "/a h:v=2"])],
            "GET /a/x v:2",
            "a#1",
        ),
        ("precedence: from a longer prefix to a shorter", &[("shop/a", 0, &["/a", "POST /a/b"])], "GET /a/b/c", "a#0"),
        (
            "precedence: the longer regular expression",
            &[("shop/a", 0, &["~/users/.*", "~/users/[0-9]+"])],
            "GET /users/7",
            "a#1",
        ),
        // Conditions do not mix what is said of one path with what is said of another.
        (
            "precedence: a method of another exact path",
            &[("shop/a", 0, &["POST =/a", "DELETE =/b", "GET =/a"])],
            "DELETE /a",
            "-",
        ),
        (
            "precedence: a method of another prefix",
            &[("shop/a", 0, &["POST /a", "DELETE /b", "GET /a"])],
            "DELETE /a",
            "-",
        ),
        (
            "precedence: a method of a prefix among exact paths",
            &[("shop/a", 0, &["POST =/a", "DELETE /b", "GET =/a"])],
            "DELETE /a",
            "-",
        ),
        (
            "precedence: a method of any path among those of prefixes",
            &[("shop/a", 0, &["POST /", "DELETE /b", "GET /"])],
            "GET /x",
            "a#2",
        ),
        // Ties, across routes merged on the same parent
        ("ties: the oldest route", &[("shop/a", 2, &["/x"]), ("shop/b", 1, &["/x"])], "GET /x", "b#0"),
        ("ties: specificity before age", &[("shop/a", 1, &["/"]), ("shop/b", 2, &["/x"])], "GET /x", "b#0"),
        ("ties: the name, when equally old", &[("shop/b", 1, &["/x"]), ("shop/a", 1, &["/x"])], "GET /x", "a#0"),
        (
            "ties: the namespace before the name",
            &[("shop/a", 1, &["/x"]), ("home/z", 1, &["/x"])],
            "GET /x",
            "home/z#0",
        ),
        ("ties: the first rule of a route", &[("shop/a", 1, &["/x", "/x"])], "GET /x", "a#0"),
        (
            "ties: age before the order of rules",
            &[("shop/a", 2, &["/x"]), ("shop/b", 1, &["/y", "/x"])],
            "GET /x",
            "b#1",
        ),
        (
            "ties: merged routes fill each other's gaps",
            &[("shop/a", 1, &["=/x"]), ("shop/b", 2, &["=/y"])],
            "GET /y",
            "b#0",
        ),
    ];
    assert!(cases.len() >= 60, "{} cases", cases.len());
    check(v1::RouteKind::Http, cases);
}

#[test]
fn grpc_routes_are_matched_as_the_gateway_api_says() {
    check(
        v1::RouteKind::Grpc,
        &[
            ("method: service and method", &[("shop/a", 0, &["s=shop.Orders m=Get"])], "POST /shop.Orders/Get", "a#0"),
            ("method: another method", &[("shop/a", 0, &["s=shop.Orders m=Get"])], "POST /shop.Orders/List", "-"),
            ("method: any method of a service", &[("shop/a", 0, &["s=shop.Orders"])], "POST /shop.Orders/List", "a#0"),
            ("method: that method of any service", &[("shop/a", 0, &["m=Get"])], "POST /shop.Users/Get", "a#0"),
            ("method: case-sensitive", &[("shop/a", 0, &["s=shop.Orders"])], "POST /shop.orders/Get", "-"),
            (
                "method: RegularExpression, anchored",
                &[("shop/a", 0, &["s~shop[.].* m~Get|List"])],
                "POST /shop.Orders/GetAll",
                "-",
            ),
            (
                "method: RegularExpression matches",
                &[("shop/a", 0, &["s~shop[.].* m~Get|List"])],
                "POST /shop.Orders/List",
                "a#0",
            ),
            ("matches: none specified takes every call", &[("shop/a", 0, &[""])], "POST /shop.Orders/Get", "a#0"),
            ("headers: all must hold", &[("shop/a", 0, &["s=shop.Orders h:v=2"])], "POST /shop.Orders/Get v:1", "-"),
            ("precedence: characters in the service", &[("shop/a", 0, &["s=a", "s~a[a-z]*"])], "POST /a/M", "a#1"),
            (
                "precedence: service before method",
                &[("shop/a", 0, &["m=GetEverythingAtOnce", "s=shop.Orders"])],
                "POST /shop.Orders/GetEverythingAtOnce",
                "a#1",
            ),
            (
                "precedence: characters in the method",
                &[("shop/a", 0, &["s=shop.Orders h:a=1 h:b=2", "s=shop.Orders m=Get"])],
                "POST /shop.Orders/Get a:1 b:2",
                "a#1",
            ),
            (
                "precedence: number of headers",
                &[("shop/a", 0, &["s=shop.Orders", "s=shop.Orders h:a=1"])],
                "POST /shop.Orders/Get a:1",
                "a#1",
            ),
            (
                "precedence: anything before everything",
                &[("shop/a", 0, &["", "m=Get"])],
                "POST /shop.Orders/Get",
                "a#1",
            ),
            ("ties: the oldest route", &[("shop/a", 2, &["m=Get"]), ("shop/b", 1, &["m=Get"])], "POST /x/Get", "b#0"),
            ("ties: the name", &[("shop/b", 1, &["m=Get"]), ("shop/a", 1, &["m=Get"])], "POST /x/Get", "a#0"),
            ("no rule matches: UNIMPLEMENTED", &[("shop/a", 0, &["m=Get"])], "POST /x/List", "-"),
            ("a path that is no gRPC path", &[("shop/a", 0, &["m=Get"])], "POST /Get", "-"),
        ],
    );
}

fn weighted(backends: Vec<v1::WeightedBackend>) -> Table {
    let rule = v1::RouteRule { backends, ..Default::default() };
    let route =
        v1::Route { name: "shop/a".into(), kind: v1::RouteKind::Http.into(), rules: vec![rule], ..Default::default() };
    let frontend = v1::Frontend { routes: vec![route], ..Default::default() };
    let port = v1::ServicePort { port: 80, frontend: Some(frontend), ..Default::default() };
    let service = v1::Service { name: "shop/orders".into(), ports: vec![port], ..Default::default() };
    Service::from_wire(&service).unwrap().ports[0].frontend.routes.clone()
}

/// Shares in percent, by backend or reason.
fn shares(table: &Table) -> std::collections::BTreeMap<String, f64> {
    const DRAWS: u64 = 100_000;
    let headers = HeaderMap::new();
    let mut shares = std::collections::BTreeMap::new();
    for draw in 0..DRAWS {
        let random = draw.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let drawn = match table.decide(&Head::new("GET", "/", &headers), random) {
            Decision::Forward { name, .. } => name.to_string(),
            Decision::Unresolved { reason, .. } => reason.to_owned(),
            other => panic!("{other:?}"),
        };
        *shares.entry(drawn).or_insert(0.0) += 100.0 / DRAWS as f64;
    }
    shares
}

#[test]
fn calls_are_split_by_weight_and_zero_gets_nothing() {
    let split = shares(&weighted(vec![backend("shop/a", 90), backend("shop/none", 0), backend("shop/b", 10)]));
    assert_eq!(split.len(), 2, "{split:?}");
    assert!((split["shop/a:80"] - 90.0).abs() < 0.5 && (split["shop/b:80"] - 10.0).abs() < 0.5, "{split:?}");
}

#[test]
fn only_the_share_of_an_unresolved_backend_fails() {
    let missing = v1::WeightedBackend {
        unresolved: "BackendNotFound: no Service shop/x".into(),
        weight: 1,
        ..Default::default()
    };
    let split = shares(&weighted(vec![missing, backend("shop/a", 3)]));
    assert!((split["BackendNotFound: no Service shop/x"] - 25.0).abs() < 0.5, "{split:?}");
    assert!((split["shop/a:80"] - 75.0).abs() < 0.5, "{split:?}");
}

#[test]
fn a_rule_without_any_weight_has_nowhere_to_send_to() {
    for table in [weighted(Vec::new()), weighted(vec![backend("shop/a", 0)])] {
        assert_eq!(shares(&table).keys().collect::<Vec<_>>(), ["no backend of the rule has a weight"]);
    }
}

#[test]
fn a_port_without_routes_sends_everything_to_itself() {
    let table = table(v1::RouteKind::Http, &[]);
    assert!(table.is_implicit());
    let headers = HeaderMap::new();
    for decision in [table.decide(&Head::new("BREW", "*", &headers), 7), table.decide_tcp(7)] {
        let Decision::Forward { rule, name, .. } = decision else { panic!("{decision:?}") };
        assert_eq!((&*rule.route, name.to_string().as_str()), ("default", "shop/orders:80"));
    }
}

#[test]
fn opaque_connections_meet_tcp_routes_and_pass_by_http_routes() {
    let tcp = table(v1::RouteKind::Tcp, &[("shop/b", 2, &[""]), ("shop/a", 1, &[""])]);
    let http = table(v1::RouteKind::Http, &[("shop/a", 1, &["=/only"])]);
    assert_eq!((tcp.kind(), http.kind()), (Kind::Tcp, Kind::Http));
    let route = |table: &Table| match table.decide_tcp(0) {
        Decision::Forward { rule, .. } => rule.route.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!((route(&tcp).as_str(), route(&http).as_str()), ("shop/a", "default"));
}

/// Steps of one match: look-ups, sets and entries tried.
fn steps(table: &Table, request: &str) -> u64 {
    let before = table::STEPS.with(std::cell::Cell::get);
    drop(meet(table, request));
    table::STEPS.with(std::cell::Cell::get) - before
}

#[test]
fn a_path_of_nothing_but_slashes_is_cut_no_more_often_than_prefixes_have_lengths() {
    let table = table(v1::RouteKind::Http, &[("shop/a", 0, &["/a", "/b/c", "=/x"])]);
    let path = "/".repeat(1 << 20);
    assert_eq!(meet(&table, &format!("GET {path}")), "-");
    assert!(steps(&table, &format!("GET {path}")) <= 3);
}

/// `n` rules, each with an exact path and a prefix whose lengths differ widely.
fn wide(n: usize) -> Table {
    let texts: Vec<String> =
        (0..n).map(|i| format!("=/exact/{i:05} or /prefix/{}{i:05}/x", "y".repeat(i % 400))).collect();
    let rules: Vec<&str> = texts.iter().map(String::as_str).collect();
    let names: Vec<String> = (0..n.div_ceil(100)).map(|i| format!("shop/r{i:05}")).collect();
    let routes: Vec<Route<'_>> =
        names.iter().zip(rules.chunks(100)).map(|(name, rules)| (name.as_str(), 0, rules)).collect();
    table(v1::RouteKind::Http, &routes)
}

#[test]
fn the_steps_of_a_match_grow_no_faster_than_the_logarithm_of_the_routes() {
    let mut before = None;
    for n in [10, 100, 1_000, 10_000] {
        let table = wide(n);
        let requests = [0, 1, n / 2, n - 1].map(|i| {
            [
                format!("GET /exact/{i:05}"),
                format!("GET /prefix/{}{i:05}/x/deeper", "y".repeat(i % 400)),
                format!("GET /none/{i}"),
            ]
        });
        let most = requests.iter().flatten().map(|request| steps(&table, request)).max().unwrap();
        let bound = 4 + u64::from(usize::BITS - n.leading_zeros());
        assert!((1..=bound).contains(&most), "{most} steps for {n} rules");
        // Ten times the routes are at most four steps more: log2(10) is 3.3.
        assert!(before.is_none_or(|before| most <= before + 4), "{before:?} steps became {most} at {n} rules");
        before = Some(most);
    }
}

#[test]
fn regular_expressions_are_not_tried_one_by_one() {
    let texts: Vec<String> = (0..2_000).map(|i| format!("~/items/{i}/[a-z]+")).collect();
    let rules: Vec<Vec<&str>> = texts.chunks(100).map(|chunk| chunk.iter().map(String::as_str).collect()).collect();
    let names: Vec<String> = (0..rules.len()).map(|i| format!("shop/r{i:02}")).collect();
    let routes: Vec<Route<'_>> =
        names.iter().zip(&rules).map(|(name, rules)| (name.as_str(), 0, rules.as_slice())).collect();
    let table = table(v1::RouteKind::Http, &routes);
    for (path, met) in
        [("/items/0/a", "r00#0"), ("/items/1999/z", "r19#99"), ("/items/777/q", "r07#77"), ("/items/1/1", "-")]
    {
        assert_eq!(meet(&table, &format!("GET {path}")), met);
        let steps = steps(&table, &format!("GET {path}"));
        assert!((1..=50).contains(&steps), "{steps} steps for {path}");
    }
}

#[test]
fn grpc_methods_are_looked_up_and_expressions_tried_where_they_come_first() {
    let texts: Vec<String> = (0..1_000).map(|i| format!("s=shop.S{i:04} m=Get")).collect();
    let mut rules: Vec<&str> = texts.iter().map(String::as_str).take(100).collect();
    rules.extend(["s=shop.S0007", "m=Get", "s~shop[.]S00.* m~G.*", "s=shop.S0001 m=Get h:v=2"]);
    let table = table(v1::RouteKind::Grpc, &[("shop/a", 0, &rules)]);
    for (request, met) in [
        ("POST /shop.S0099/Get", "a#102"),
        ("POST /shop.S0007/List", "a#100"),
        ("POST /shop.S0500/Get", "a#101"),
        ("POST /shop.S0001/Get v:2", "a#102"),
        ("POST /shop.S0099/List", "-"),
        ("POST /a/b/Get", "a#101"),
        ("POST /Get", "-"),
    ] {
        assert_eq!(meet(&table, request), met, "{request}");
        assert!((1..=6).contains(&steps(&table, request)), "{request}");
    }
}

#[test]
fn tls_connections_are_told_apart_by_server_name() {
    let route = |name: &str, created, names: &[&str], to: &str| v1::Route {
        name: name.into(),
        kind: v1::RouteKind::Tls.into(),
        created,
        server_names: names.iter().map(|name| (*name).to_owned()).collect(),
        rules: vec![v1::RouteRule { backends: vec![backend(to, 1)], ..Default::default() }],
    };
    let routes = vec![
        route("shop/z", 1, &["*.example.com", "Old.example.com"], "shop/wild"),
        route("shop/y", 2, &["old.example.com", "*.deep.example.com"], "shop/young"),
        route("shop/b", 3, &["tie.example.org"], "shop/b"),
        route("shop/a", 3, &["tie.example.org"], "shop/a"),
    ];
    let compiled = |routes| {
        let frontend = v1::Frontend { routes, ..Default::default() };
        let port = v1::ServicePort { port: 443, frontend: Some(frontend), ..Default::default() };
        let service = v1::Service { name: "shop/orders".into(), ports: vec![port], ..Default::default() };
        Service::from_wire(&service).unwrap().ports[0].frontend.routes.clone()
    };
    let to = |table: &Table, name| match table.decide_tls(name, 0) {
        Decision::Forward { name, .. } => name.service.to_string(),
        Decision::NoRoute => "-".into(),
        other => panic!("{other:?}"),
    };
    let table = compiled(routes.clone());
    for (name, met) in [
        (Some("old.example.com"), "shop/wild"),
        (Some("OLD.Example.COM."), "shop/wild"),
        (Some("a.example.com"), "shop/wild"),
        (Some("a.b.example.com"), "shop/wild"),
        (Some("a.deep.example.com"), "shop/young"),
        (Some("deep.example.com"), "shop/wild"),
        (Some("example.com"), "-"),
        (Some("badexample.com"), "-"),
        (Some("tie.example.org"), "shop/a"),
        (None, "-"),
    ] {
        assert_eq!(to(&table, name), met, "{name:?}");
    }
    let with_any = compiled([routes, vec![route("shop/any", 9, &[], "shop/any")]].concat());
    assert_eq!((to(&with_any, None).as_str(), to(&with_any, Some("x.y")).as_str()), ("shop/any", "shop/any"));
    assert_eq!(to(&with_any, Some("a.example.com")), "shop/wild");
    // A connection that is not TLS, or a port without routes: the service itself.
    let Decision::Forward { name, .. } = with_any.decide_tcp(0) else { panic!("no route") };
    assert_eq!(name.to_string(), "shop/orders:443");
    assert_eq!(to(&compiled(Vec::new()), Some("a.b")), "shop/orders");
}
