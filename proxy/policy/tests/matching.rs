//! The compiled table against a matcher that has no index: every match is looked at, straight from the words of the specification
//! (Gateway API v1.6, `HTTPRouteRule.matches`, `GRPCRouteRule.matches`, `HTTPPathMatch`, `HTTPHeaderMatch`, `HTTPQueryParamMatch`).
//! Tables and requests are random by a seed, which a failure prints; `WEFT_SEED=n` runs that one alone,
//! `WEFT_TEST_PERCENT=n` so much of them all.
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report, in its fixtures too")]

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use regex::Regex;
use weft_policy::config::Service;
use weft_policy::route::{Choice, Decision, Head, Table};
use weft_proto::v1;
use weft_proto::v1::key_match::Value;
use weft_proto::v1::route_match::Path;

/// Tables of each kind, each asked several requests.
const TABLES: u64 = 1_500;
const REQUESTS: usize = 8;

/// A sequence of numbers (SplitMix64).
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn seeds() -> Vec<u64> {
    match number("WEFT_SEED") {
        Some(seed) => vec![seed],
        None => (0..TABLES * number("WEFT_TEST_PERCENT").unwrap_or(100) / 100).collect(),
    }
}

struct Asked {
    method: &'static str,
    path: String,
    query: Option<String>,
    headers: Vec<(&'static str, &'static str)>,
}

fn compile(kind: v1::RouteKind, routes: &[v1::Route]) -> Table {
    let routes = routes.iter().cloned().map(|route| v1::Route { kind: kind.into(), ..route }).collect();
    let frontend = v1::Frontend { routes, ..Default::default() };
    let port = v1::ServicePort { port: 80, frontend: Some(frontend), ..Default::default() };
    let wire = v1::Service { name: "shop/orders".into(), ports: vec![port], ..Default::default() };
    Service::from_wire(&wire).unwrap().ports[0].frontend.routes.clone()
}

/// What the table says: route and rule.
fn by_table(table: &Table, asked: &Asked) -> Option<(String, usize)> {
    let mut headers = HeaderMap::new();
    for (name, value) in &asked.headers {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let head = Head { method: asked.method, path: &asked.path, query: asked.query.as_deref(), headers: &headers };
    table.find(&head).map(|met| (met.rule.route.to_string(), met.rule.index))
}

/// What the words say: of all matches that hold, the one that comes first.
fn by_the_words<K: Ord>(
    routes: &[v1::Route],
    holds: impl Fn(&v1::RouteMatch) -> bool,
    precedence: impl Fn(&v1::RouteMatch) -> K,
) -> Option<(String, usize)> {
    let everything = v1::RouteMatch::default();
    let mut held = Vec::new();
    for route in routes {
        for (index, rule) in route.rules.iter().enumerate() {
            // "If no matches are specified …, matching every HTTP request."
            let matches = if rule.matches.is_empty() { std::slice::from_ref(&everything) } else { &rule.matches[..] };
            for m in matches.iter().filter(|m| holds(m)) {
                // "The oldest Route based on creation timestamp. The Route appearing first in alphabetical order by
                // "{namespace}/{name}"." "the FIRST matching rule (in list order)".
                held.push((precedence(m), route.created, route.name.clone(), index));
            }
        }
    }
    held.into_iter().min().map(|(_, _, name, index)| (name, index))
}

/// "Matching is based on a URL path prefix split by `/`. Matching is case-sensitive and done on a path element by element basis."
fn has_prefix(path: &str, prefix: &str) -> bool {
    let wanted: Vec<&str> = prefix.split('/').filter(|element| !element.is_empty()).collect();
    let elements: Vec<&str> = path.split('/').skip(1).collect();
    elements.len() >= wanted.len() && wanted.iter().zip(&elements).all(|(a, b)| a == b)
}

/// Whether the whole text matches. Patterns are few, and compiling one costs more than a request.
fn whole(pattern: &str, text: &str) -> bool {
    thread_local! {
        static COMPILED: RefCell<HashMap<String, Regex>> = RefCell::default();
    }
    COMPILED.with_borrow_mut(|compiled| {
        let regex =
            compiled.entry(pattern.to_owned()).or_insert_with(|| Regex::new(&format!("^({pattern})$")).unwrap());
        regex.is_match(text)
    })
}

/// "If multiple entries specify equivalent header names, only the first entry with an equivalent name MUST be considered".
fn considered(keys: &[v1::KeyMatch], same: fn(&str, &str) -> bool) -> Vec<&v1::KeyMatch> {
    let first = |i: usize| !keys[..i].iter().any(|before| same(&before.name, &keys[i].name));
    (0..keys.len()).filter(|i| first(*i)).map(|i| &keys[i]).collect()
}

fn same_header(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

fn same_query(a: &str, b: &str) -> bool {
    a == b
}

fn value_holds(key: &v1::KeyMatch, text: &str) -> bool {
    match key.value.as_ref().unwrap() {
        Value::Exact(exact) => exact == text,
        Value::Regex(pattern) => whole(pattern, text),
    }
}

fn headers_hold(m: &v1::RouteMatch, asked: &Asked) -> bool {
    considered(&m.headers, same_header)
        .iter()
        .all(|key| asked.headers.iter().any(|(name, value)| same_header(name, &key.name) && value_holds(key, value)))
}

/// "implementations should match against the first value of the param".
fn queries_hold(m: &v1::RouteMatch, asked: &Asked) -> bool {
    let pairs: Vec<(&str, &str)> = asked
        .query
        .as_deref()
        .unwrap_or_default()
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    considered(&m.queries, same_query)
        .iter()
        .all(|key| pairs.iter().find(|(name, _)| *name == key.name).is_some_and(|(_, value)| value_holds(key, value)))
}

fn http_holds(m: &v1::RouteMatch, asked: &Asked) -> bool {
    let path = match &m.path {
        None => true,
        Some(Path::ExactPath(exact)) => *exact == asked.path,
        Some(Path::PathPrefix(prefix)) => has_prefix(&asked.path, prefix),
        Some(Path::PathRegex(pattern)) => whole(pattern, &asked.path),
        Some(Path::Grpc(_)) => unreachable!("no HTTP table has one"),
    };
    path && (m.method.is_empty() || m.method == asked.method) && headers_hold(m, asked) && queries_hold(m, asked)
}

/// "precedence must be given to the match having: "Exact" path match. "Prefix" path match with largest number of characters. Method
/// match. Largest number of header matches. Largest number of query param matches." Regular expressions, whose place is left open, stand
/// between, the longer first. A trailing slash of a prefix is ignored, so it counts for nothing.
fn http_precedence(m: &v1::RouteMatch) -> impl Ord + use<> {
    let path = match &m.path {
        Some(Path::ExactPath(_)) => (0, Reverse(0)),
        Some(Path::PathRegex(pattern)) => (1, Reverse(pattern.chars().count())),
        Some(Path::PathPrefix(prefix)) => (2, Reverse(prefix.trim_end_matches('/').len())),
        _ => (2, Reverse(0)),
    };
    (
        path,
        m.method.is_empty(),
        Reverse(considered(&m.headers, same_header).len()),
        Reverse(considered(&m.queries, same_query).len()),
    )
}

fn grpc_holds(m: &v1::RouteMatch, asked: &Asked) -> bool {
    let grpc = match &m.path {
        Some(Path::Grpc(grpc)) => grpc,
        _ => return headers_hold(m, asked),
    };
    let any = grpc.service.is_empty() && grpc.method.is_empty();
    let Some((service, method)) = asked.path[1..].rsplit_once('/') else { return any && headers_hold(m, asked) };
    let part = |wanted: &str, text: &str| match grpc.regex {
        _ if wanted.is_empty() => true,
        true => whole(wanted, text),
        false => wanted == text,
    };
    part(&grpc.service, service) && part(&grpc.method, method) && headers_hold(m, asked)
}

/// "the rule with the largest number of: … Characters in a matching service. Characters in a matching method. Header matches."
fn grpc_precedence(m: &v1::RouteMatch) -> impl Ord + use<> {
    let (service, method) = match &m.path {
        Some(Path::Grpc(grpc)) => (grpc.service.chars().count(), grpc.method.chars().count()),
        _ => (0, 0),
    };
    (Reverse(service), Reverse(method), Reverse(considered(&m.headers, same_header).len()))
}

fn keys(random: &mut Seeded, names: &[&str], most: usize) -> Vec<v1::KeyMatch> {
    let count = if random.one_in(2) { 0 } else { random.below(most + 1) };
    (0..count)
        .map(|_| {
            let value = match random.below(4) {
                0 => Value::Regex(random.of(&["1|2", "[0-9]+", ".*", "x"]).into()),
                _ => Value::Exact(random.of(&["1", "2"]).into()),
            };
            v1::KeyMatch { name: random.of(names).into(), value: Some(value) }
        })
        .collect()
}

/// A path of few different elements, so that tables and requests meet.
fn any_path(random: &mut Seeded, deepest: usize) -> String {
    let depth = random.below(deepest + 1);
    let path: String = (0..depth).map(|_| format!("/{}", random.of(&["a", "b", "ab", "a%20b", "c.d"]))).collect();
    if path.is_empty() || random.one_in(5) { path + "/" } else { path }
}

fn any_rule(random: &mut Seeded, any_match: fn(&mut Seeded) -> v1::RouteMatch) -> v1::RouteRule {
    let matches = (0..random.below(4)).map(|_| any_match(random)).collect();
    let backend = v1::WeightedBackend { service: "shop/a".into(), port: 80, weight: 1, ..Default::default() };
    v1::RouteRule { matches, backends: vec![backend], ..Default::default() }
}

fn any_routes(random: &mut Seeded, any_match: fn(&mut Seeded) -> v1::RouteMatch) -> Vec<v1::Route> {
    let mut routes: Vec<v1::Route> = Vec::new();
    for _ in 0..1 + random.below(5) {
        let name = format!("{}/r{}", random.of(&["home", "shop"]), random.below(20));
        if routes.iter().all(|route| route.name != name) {
            let rules = (0..1 + random.below(6)).map(|_| any_rule(random, any_match)).collect();
            routes.push(v1::Route { name, created: random.below(3) as i64, rules, ..Default::default() });
        }
    }
    routes
}

fn any_http_match(random: &mut Seeded) -> v1::RouteMatch {
    let path = match random.below(8) {
        0 => None,
        1 | 2 => Some(Path::ExactPath(any_path(random, 4))),
        3 => Some(Path::PathRegex(random.of(&["/a/.*", "/[ab]+", "/(a|ab)/b", "/.*b", "/a", ".*"]).into())),
        _ => Some(Path::PathPrefix(any_path(random, 4))),
    };
    v1::RouteMatch {
        path,
        method: random.of(&["", "", "GET", "POST"]).into(),
        headers: keys(random, &["v", "V", "w"], 3),
        queries: keys(random, &["q", "Q", "p"], 2),
    }
}

fn any_grpc_match(random: &mut Seeded) -> v1::RouteMatch {
    let regex = random.one_in(3);
    let pick = |random: &mut Seeded, exact: &[&'static str], patterns: &[&'static str]| -> String {
        if random.one_in(3) { String::new() } else { random.of(if regex { patterns } else { exact }).to_owned() }
    };
    let service = pick(random, &["shop.A", "shop.Ab", "home.A"], &["shop[.].*", ".*A", "[a-z.]+A|x"]);
    let method = pick(random, &["Get", "GetAll", "List"], &["Get.*", ".*", "List|Get"]);
    let path = (!random.one_in(8)).then_some(Path::Grpc(v1::GrpcMethod { service, method, regex }));
    v1::RouteMatch { path, headers: keys(random, &["v", "V", "w"], 3), ..Default::default() }
}

fn any_headers(random: &mut Seeded) -> Vec<(&'static str, &'static str)> {
    (0..random.below(4)).map(|_| (random.of(&["v", "w"]), random.of(&["1", "2", "x"]))).collect()
}

fn any_http_request(random: &mut Seeded) -> Asked {
    let query = (!random.one_in(3)).then(|| {
        let pairs = (0..random.below(4)).map(|_| format!("{}={}", random.of(&["q", "Q", "p"]), random.of(&["1", "2"])));
        pairs.collect::<Vec<_>>().join("&")
    });
    let mut path = any_path(random, 5);
    if random.one_in(12) {
        path.insert(1, '/');
    }
    Asked { method: random.of(&["GET", "POST", "PUT"]), path, query, headers: any_headers(random) }
}

fn any_grpc_request(random: &mut Seeded) -> Asked {
    let service = random.of(&["shop.A", "shop.Ab", "home.A", "x"]);
    let path =
        if random.one_in(10) { "/Get".into() } else { format!("/{service}/{}", random.of(&["Get", "GetAll", "List"])) };
    Asked { method: "POST", path, query: None, headers: any_headers(random) }
}

#[test]
fn http_tables_agree_with_the_words_of_the_specification() {
    let mut met = 0;
    for seed in seeds() {
        let random = &mut Seeded(seed);
        let routes = any_routes(random, any_http_match);
        let table = compile(v1::RouteKind::Http, &routes);
        for _ in 0..REQUESTS {
            let asked = any_http_request(random);
            let expected = by_the_words(&routes, |m| http_holds(m, &asked), http_precedence);
            met += usize::from(expected.is_some());
            let Asked { method, path, query, headers } = &asked;
            assert_eq!(by_table(&table, &asked), expected, "WEFT_SEED={seed}: {method} {path} {query:?} {headers:?}");
        }
    }
    assert!(met == 0 || seeds().len() == 1 || met > seeds().len(), "only {met} requests met a rule");
}

#[test]
fn grpc_tables_agree_with_the_words_of_the_specification() {
    for seed in seeds() {
        let random = &mut Seeded(seed ^ 0x6772_7063);
        let routes = any_routes(random, any_grpc_match);
        let table = compile(v1::RouteKind::Grpc, &routes);
        for _ in 0..REQUESTS {
            let asked = any_grpc_request(random);
            let expected = by_the_words(&routes, |m| grpc_holds(m, &asked), grpc_precedence);
            let Asked { path, headers, .. } = &asked;
            assert_eq!(by_table(&table, &asked), expected, "WEFT_SEED={seed}: {path} {headers:?}");
        }
    }
}

/// TLSRoute: "more specific hostnames … take precedence"; a wildcard stands for one label or more.
#[test]
fn tls_tables_agree_with_the_words_of_the_specification() {
    for seed in seeds() {
        let random = &mut Seeded(seed ^ 0x74_6C73);
        let name = |random: &mut Seeded| {
            let labels: Vec<&str> = (0..1 + random.below(4)).map(|_| random.of(&["a", "b", "c"])).collect();
            labels.join(".")
        };
        let routes: Vec<v1::Route> = (0..1 + random.below(8))
            .map(|i| {
                let names =
                    (0..random.below(4)).map(|_| format!("{}{}", random.of(&["", "*."]), name(random))).collect();
                v1::Route {
                    name: format!("shop/r{i}"),
                    created: random.below(3) as i64,
                    server_names: names,
                    rules: vec![any_rule(random, |_| v1::RouteMatch::default())],
                    ..Default::default()
                }
            })
            .map(|mut route| {
                route.rules[0].matches.clear();
                route
            })
            .collect();
        let table = compile(v1::RouteKind::Tls, &routes);
        for _ in 0..REQUESTS {
            let asked = name(random);
            let holds = |wanted: &str| match wanted.strip_prefix("*.") {
                Some(rest) => asked.strip_suffix(rest).is_some_and(|left| left.len() > 1 && left.ends_with('.')),
                None => asked == wanted,
            };
            let mut held = Vec::new();
            for route in &routes {
                let every = [String::new()];
                let names = if route.server_names.is_empty() { &every[..] } else { &route.server_names[..] };
                for wanted in names.iter().filter(|wanted| wanted.is_empty() || holds(wanted)) {
                    let exactness = (wanted.starts_with('*') || wanted.is_empty(), Reverse(wanted.len()));
                    held.push((exactness, route.created, route.name.clone()));
                }
            }
            let expected = held.into_iter().min().map(|(_, _, name)| name);
            let met = match table.decide_tls(Some(&asked), 0) {
                Decision::Forward { rule, .. } => Some(rule.route.to_string()),
                Decision::NoRoute => None,
                other => panic!("WEFT_SEED={seed}: {other:?}"),
            };
            assert_eq!(met, expected, "WEFT_SEED={seed}: {asked}");
        }
    }
}

/// "Weight specifies the proportion of requests forwarded to the referenced backend … computed as weight/(sum of all weights)".
#[test]
fn shares_converge_to_their_weights() {
    const DRAWS: usize = 20_000;
    for seed in 0..100 {
        let random = &mut Seeded(seed);
        let weights: Vec<u32> = (0..1 + random.below(6))
            .map(|_| match random.below(4) {
                0 => 0,
                1 => 1 + random.below(1_000_000) as u32,
                _ => 1 + random.below(10) as u32,
            })
            .collect();
        let backend = |(i, weight): (usize, &u32)| v1::WeightedBackend {
            service: format!("shop/b{i}"),
            port: 80,
            weight: *weight,
            ..Default::default()
        };
        let rule = v1::RouteRule { backends: weights.iter().enumerate().map(backend).collect(), ..Default::default() };
        let route = v1::Route { name: "shop/r".into(), rules: vec![rule], ..Default::default() };
        let table = compile(v1::RouteKind::Http, &[route]);
        let mut counts = vec![0_usize; weights.len()];
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        for _ in 0..DRAWS {
            match table.rules()[0].choose(random.next()) {
                Choice::Backend(_, name) => counts[name.service["shop/b".len()..].parse::<usize>().unwrap()] += 1,
                Choice::Unresolved(_) => assert!(total == 0.0, "WEFT_SEED={seed}"),
            }
        }
        for (count, weight) in counts.iter().zip(&weights) {
            let share = if total == 0.0 { 0.0 } else { f64::from(*weight) / total };
            // Five standard deviations of a binomial draw, and none at all for a share of nothing.
            let bound = 5.0 * (share * (1.0 - share) * DRAWS as f64).sqrt();
            let off = (*count as f64 - share * DRAWS as f64).abs();
            assert!(off <= bound, "WEFT_SEED={seed}: {weights:?} gave {counts:?}");
        }
    }
}
