//! What a rule or a frontend may say beside matches and backends: one mistake at a time in what is otherwise good, and what good ones
//! become.

use std::time::Duration;

use weft_proto::v1;
use weft_proto::v1::filter::Filter;
use weft_proto::v1::path_modifier::Modifier;

use crate::config::tests::{frontend, matching, refuse, route, rule, seconds, service};
use crate::config::{Fallback, FixedResponse, Hedge, Service};
use crate::fault::Injection;
use crate::route::{Carrier, Decision, Head, PathEdit, Redirect, Rule, Target};

const RULE: &str = "ports[0].frontend.routes[0].rules[0]";

fn add(wire: &mut v1::Service, filter: Filter) {
    rule(wire).filters.push(v1::Filter { filter: Some(filter) });
}

fn path(modifier: Modifier) -> Option<v1::PathModifier> {
    Some(v1::PathModifier { modifier: Some(modifier) })
}

fn to(modifier: Modifier) -> Filter {
    Filter::Redirect(v1::Redirect { path: path(modifier), ..Default::default() })
}

fn cors(origins: &[&str]) -> v1::Cors {
    v1::Cors { allow_origins: origins.iter().map(|text| (*text).to_owned()).collect(), ..Default::default() }
}

fn session(wire: &mut v1::Service) -> &mut v1::SessionPersistence {
    rule(wire).session_persistence.get_or_insert_default()
}

fn fault(wire: &mut v1::Service) -> &mut v1::Fault {
    let abort = v1::fault::Abort { status: 503, ..Default::default() };
    let faults = &mut frontend(wire).faults;
    if faults.is_empty() {
        faults.push(v1::Fault { abort: Some(abort), ..Default::default() });
    }
    &mut faults[0]
}

fn fixed(wire: &mut v1::Service, response: v1::FixedResponse) {
    frontend(wire).fallback = Some(v1::Fallback { to: Some(v1::fallback::To::Response(response)) });
}

fn converted(change: impl Fn(&mut v1::Service)) -> Service {
    let mut wire = service();
    change(&mut wire);
    Service::from_wire(&wire).unwrap()
}

fn first_rule(service: &Service) -> &Rule {
    &service.ports[0].frontend.routes.rules()[0]
}

#[test]
fn filters_are_refused_by_field() {
    let field = |inner: &str| -> &'static str { format!("{RULE}.{inner}").leak() };
    refuse(
        &service(),
        Service::from_wire,
        &[
            (|s| rule(s).filters.push(v1::Filter::default()), field("filters[0]"), "does not know"),
            (
                |s| add(s, Filter::Redirect(v1::Redirect { scheme: "ftp".into(), ..Default::default() })),
                field("filters[0].redirect.scheme"),
                "neither http nor https",
            ),
            (
                |s| add(s, Filter::Redirect(v1::Redirect { status: 304, ..Default::default() })),
                field("filters[0].redirect.status"),
                "304 is none of",
            ),
            (
                |s| add(s, Filter::Redirect(v1::Redirect { port: 65_536, ..Default::default() })),
                field("filters[0].redirect.port"),
                "not a port",
            ),
            (
                |s| add(s, Filter::Redirect(v1::Redirect { hostname: "*.a.example".into(), ..Default::default() })),
                field("filters[0].redirect.hostname"),
                "wildcard",
            ),
            (|s| add(s, to(Modifier::Full("x".into()))), field("filters[0].redirect.path.full"), "begin with '/'"),
            (|s| add(s, to(Modifier::Full("//x".into()))), field("filters[0].redirect.path.full"), "two slashes"),
            (|s| add(s, to(Modifier::Full("/x?y".into()))), field("filters[0].redirect.path.full"), "'?'"),
            (|s| add(s, to(Modifier::Full("/x y".into()))), field("filters[0].redirect.path.full"), "' '"),
            (
                |s| add(s, to(Modifier::Prefix(format!("/{}", "x".repeat(1024))))),
                field("filters[0].redirect.path.prefix"),
                "longer than",
            ),
            (
                |s| {
                    let redirect = v1::Redirect { path: Some(v1::PathModifier::default()), ..Default::default() };
                    add(s, Filter::Redirect(redirect));
                },
                field("filters[0].redirect.path"),
                "full or prefix",
            ),
            (
                |s| {
                    matching(s).path = Some(v1::route_match::Path::ExactPath("/orders".into()));
                    add(s, to(Modifier::Prefix("/x".into())));
                },
                field("filters[0].redirect.path.prefix"),
                "pathPrefix in every match",
            ),
            (
                |s| {
                    let regex = v1::route_match::Path::PathRegex("/o.*".into());
                    rule(s).matches.push(v1::RouteMatch { path: Some(regex), ..Default::default() });
                    let rewrite = v1::Rewrite { path: path(Modifier::Prefix("/x".into())), ..Default::default() };
                    rule(s).backends[0].filters.push(v1::Filter { filter: Some(Filter::Rewrite(rewrite)) });
                },
                field("backends[0].filters[0].rewrite.path.prefix"),
                "pathPrefix in every match",
            ),
            (|s| add(s, Filter::Rewrite(v1::Rewrite::default())), field("filters[0].rewrite"), "changes neither"),
            (
                |s| {
                    add(s, to(Modifier::Full("/x".into())));
                    let rewrite = v1::Rewrite { hostname: "a.example".into(), ..Default::default() };
                    add(s, Filter::Rewrite(rewrite));
                },
                field("filters[1].rewrite"),
                "beside a redirect",
            ),
            (
                |s| {
                    let rewrite = v1::Rewrite { hostname: "a.example".into(), ..Default::default() };
                    add(s, Filter::Rewrite(rewrite));
                    add(s, to(Modifier::Full("/x".into())));
                },
                field("filters[1].redirect"),
                "beside a rewrite",
            ),
            (
                |s| (0..2).for_each(|_| add(s, to(Modifier::Full("/x".into())))),
                field("filters[1].redirect"),
                "occurs twice",
            ),
            (|s| (0..2).for_each(|_| add(s, Filter::Cors(cors(&["*"])))), field("filters[1].cors"), "occurs twice"),
            (
                |s| add(s, Filter::Mirror(v1::Mirror { service: "a".into(), port: 80, ..Default::default() })),
                field("filters[0].mirror.service"),
                "namespace/name",
            ),
            (
                |s| add(s, Filter::Mirror(v1::Mirror { service: "shop/a".into(), ..Default::default() })),
                field("filters[0].mirror.port"),
                "not a port",
            ),
            (
                |s| {
                    let share = v1::Mirror { numerator: 3, denominator: 2, ..Default::default() };
                    add(s, Filter::Mirror(v1::Mirror { service: "shop/a".into(), port: 80, ..share }));
                },
                field("filters[0].mirror.numerator"),
                "more than all",
            ),
            (
                |s| add(s, Filter::Cors(cors(&["*", "https://a.example"]))),
                field("filters[0].cors.allowOrigins"),
                "beside other entries",
            ),
            (
                |s| add(s, Filter::Cors(cors(&["https://a.example", "a.example"]))),
                field("filters[0].cors.allowOrigins[1]"),
                "no origin",
            ),
            (
                |s| add(s, Filter::Cors(cors(&["https://a.*.example"]))),
                field("filters[0].cors.allowOrigins[0]"),
                "no origin",
            ),
            (
                |s| add(s, Filter::Cors(cors(&["https://a.example:0"]))),
                field("filters[0].cors.allowOrigins[0]"),
                "no origin",
            ),
            (
                |s| add(s, Filter::Cors(v1::Cors { allow_methods: vec!["get".into()], ..cors(&["*"]) })),
                field("filters[0].cors.allowMethods[0]"),
                "upper case",
            ),
            (
                |s| add(s, Filter::Cors(v1::Cors { allow_headers: vec!["x y".into()], ..cors(&["*"]) })),
                field("filters[0].cors.allowHeaders[0]"),
                "no header name",
            ),
            (
                |s| add(s, Filter::Cors(v1::Cors { expose_headers: vec!["*".into(), "x".into()], ..cors(&["*"]) })),
                field("filters[0].cors.exposeHeaders"),
                "beside other entries",
            ),
            (
                |s| {
                    s.ports[0].protocol = 0;
                    route(s).kind = v1::RouteKind::Grpc.into();
                    matching(s).path = None;
                    add(s, Filter::Cors(cors(&["*"])));
                },
                field("filters[0].cors"),
                "belongs to HTTPRoutes",
            ),
            (
                |s| {
                    s.ports[0].protocol = 0;
                    route(s).kind = v1::RouteKind::Tls.into();
                    rule(s).matches.clear();
                    session(s);
                },
                field("sessionPersistence"),
                "TCP or TLS",
            ),
            (
                |s| {
                    s.ports[0].protocol = 0;
                    route(s).kind = v1::RouteKind::Tls.into();
                    rule(s).matches.clear();
                    rule(s).backends[0].filters.push(v1::Filter::default());
                },
                field("backends[0].filters"),
                "TCP or TLS",
            ),
        ],
    );
}

#[test]
fn sessions_are_refused_by_field() {
    let field = |inner: &str| -> &'static str { format!("{RULE}.sessionPersistence.{inner}").leak() };
    refuse(
        &service(),
        Service::from_wire,
        &[
            (|s| session(s).name = "a b".into(), field("name"), "no name of a cookie"),
            (|s| session(s).kind = 7, field("kind"), "7 is no kind"),
            (|s| session(s).kind = v1::SessionKind::Header.into(), field("name"), "is required for a header"),
            (|s| session(s).permanent = true, field("absoluteTimeout"), "is required"),
            (|s| session(s).path = "/;".into(), field("path"), "no path"),
            (|s| session(s).absolute_timeout = seconds(-1), field("absoluteTimeout"), "negative"),
            (
                |s| {
                    let header = v1::SessionKind::Header.into();
                    let timeout = seconds(60);
                    *session(s) = v1::SessionPersistence {
                        name: "x-s".into(),
                        kind: header,
                        absolute_timeout: timeout,
                        permanent: true,
                        ..Default::default()
                    };
                },
                field("permanent"),
                "about cookies",
            ),
            (
                |s| {
                    let kind = v1::SessionKind::Header.into();
                    *session(s) =
                        v1::SessionPersistence { name: "x-s".into(), kind, path: "/".into(), ..Default::default() };
                },
                field("path"),
                "about cookies",
            ),
        ],
    );
}

#[test]
fn what_a_frontend_does_besides_routing_is_refused_by_field() {
    refuse(
        &service(),
        Service::from_wire,
        &[
            (|s| fault(s).abort = None, "ports[0].frontend.faults[0]", "neither delays nor aborts"),
            (
                |s| fault(s).abort.as_mut().unwrap().status = 199,
                "ports[0].frontend.faults[0].abort.status",
                "between 200 and 599",
            ),
            (
                |s| fault(s).abort.as_mut().unwrap().grpc_status = Some(0),
                "ports[0].frontend.faults[0].abort.grpcStatus",
                "between 1 and 16",
            ),
            (
                |s| fault(s).abort.as_mut().unwrap().share = Some(v1::Share { millionths: 1_000_001 }),
                "ports[0].frontend.faults[0].abort.share.millionths",
                "between 0 and 1000000",
            ),
            (|s| fault(s).delay = Some(Default::default()), "ports[0].frontend.faults[0].delay.fixed", "is required"),
            (
                |s| fault(s).delay = Some(v1::fault::Delay { fixed: seconds(0), share: None }),
                "ports[0].frontend.faults[0].delay.fixed",
                "must not be zero",
            ),
            (
                |s| fault(s).delay = Some(v1::fault::Delay { fixed: seconds(3601), share: None }),
                "ports[0].frontend.faults[0].delay.fixed",
                "is not between",
            ),
            (
                |s| fault(s).matches.push(v1::RouteMatch { method: "get".into(), ..Default::default() }),
                "ports[0].frontend.faults[0].matches[0].method",
                "upper case",
            ),
            (
                |s| frontend(s).faults = vec![fault(s).clone(); 65],
                "ports[0].frontend.faults",
                "65 entries are more than the 64",
            ),
            (|s| frontend(s).fallback = Some(Default::default()), "ports[0].frontend.fallback", "is required"),
            (
                |s| {
                    let to = v1::FallbackBackend { service: "shop/b".into(), ..Default::default() };
                    frontend(s).fallback = Some(v1::Fallback { to: Some(v1::fallback::To::Backend(to)) });
                },
                "ports[0].frontend.fallback.backend.port",
                "not a port",
            ),
            (
                |s| fixed(s, v1::FixedResponse { status: 600, ..Default::default() }),
                "ports[0].frontend.fallback.response.status",
                "between 200 and 599",
            ),
            (
                |s| fixed(s, v1::FixedResponse { status: 200, content_type: "html".into(), ..Default::default() }),
                "ports[0].frontend.fallback.response.contentType",
                "no media type",
            ),
            (
                |s| fixed(s, v1::FixedResponse { status: 200, body: vec![0; 65_537], ..Default::default() }),
                "ports[0].frontend.fallback.response.body",
                "more than 65536",
            ),
            (
                |s| fixed(s, v1::FixedResponse { status: 204, body: vec![0], ..Default::default() }),
                "ports[0].frontend.fallback.response.body",
                "has none",
            ),
            (
                |s| frontend(s).hedge = Some(v1::Hedge { percentile: 100, min_delay: None }),
                "ports[0].frontend.hedge.percentile",
                "between 1 and 99",
            ),
            (
                |s| frontend(s).hedge = Some(v1::Hedge { percentile: 0, min_delay: seconds(0) }),
                "ports[0].frontend.hedge.minDelay",
                "must not be zero",
            ),
            (|s| route(s).server_names = vec!["a".into()], "ports[0].frontend.routes[0].serverNames", "TLSRoutes"),
            (
                |s| route(s).kind = v1::RouteKind::Tls.into(),
                "ports[0].frontend.routes[0].kind",
                "a TLSRoute cannot apply",
            ),
            (
                |s| {
                    s.ports[0].protocol = 0;
                    route(s).kind = v1::RouteKind::Tls.into();
                    rule(s).matches.clear();
                    route(s).server_names = vec!["*.a.example".into(), "a*.example".into()];
                },
                "ports[0].frontend.routes[0].serverNames[1]",
                "wildcard",
            ),
        ],
    );
}

#[test]
fn rare_filters_become_what_they_say_and_cost_nothing_where_there_are_none() {
    let plain = converted(|_| ());
    assert!(first_rule(&plain).filters.extra.is_none() && first_rule(&plain).session.is_none());
    let redirected = converted(|s| add(s, to(Modifier::Prefix("/new/".into()))));
    let expected =
        Redirect { scheme: None, hostname: None, path: Some(PathEdit::Prefix("/new".into())), port: None, status: 302 };
    assert_eq!(first_rule(&redirected).filters.redirect(), Some(&expected));
    // "redirect on a rule with backends": the redirect answers.
    let headers = http::HeaderMap::new();
    let decision = redirected.ports[0].frontend.routes.decide(&Head::new("GET", "/orders/7", &headers), 0);
    assert!(matches!(decision, Decision::Redirect { prefix: Some("/orders"), .. }), "{decision:?}");
}

#[test]
fn sessions_become_what_they_say() {
    let service = converted(|s| {
        *session(s) = v1::SessionPersistence { absolute_timeout: seconds(60), permanent: true, ..Default::default() };
    });
    let held = first_rule(&service).session.as_ref().unwrap();
    assert_eq!((held.timeout, held.permanent, &*held.path), (Some(Duration::from_secs(60)), true, "/"));
    let Carrier::Cookie(name) = &held.carrier else { panic!("{held:?}") };
    assert!(name.strip_prefix("weft-session-").is_some_and(|key| key.len() == 8), "{name}");
    let service = converted(|s| {
        let kind = v1::SessionKind::Header.into();
        *session(s) = v1::SessionPersistence { name: "x-session".into(), kind, ..Default::default() };
    });
    let held = first_rule(&service).session.as_ref().unwrap();
    assert_eq!(held.carrier, Carrier::Header(http::HeaderName::from_static("x-session")));
    let service = converted(|s| session(s).path = "/shop".into());
    assert_eq!(&*first_rule(&service).session.as_ref().unwrap().path, "/shop");
    // A backend without a weight stays within reach of the sessions that it has.
    let drained = converted(|s| {
        rule(s).backends[0].weight = 0;
        session(s);
    });
    assert_eq!(first_rule(&drained).targets().count(), 1);
    let without = converted(|s| rule(s).backends[0].weight = 0);
    assert_eq!(first_rule(&without).targets().count(), 0);
}

#[test]
fn frontends_become_what_they_say() {
    let service = converted(|s| {
        fault(s).abort.as_mut().unwrap().status = 429;
        frontend(s).hedge = Some(v1::Hedge::default());
        let body = b"closed".to_vec();
        fixed(s, v1::FixedResponse { status: 503, content_type: "text/plain".into(), body });
        let mirror = v1::Mirror { service: "shop/copy".into(), port: 81, ..Default::default() };
        add(s, Filter::Mirror(mirror));
    });
    let made = &service.ports[0].frontend;
    let headers = http::HeaderMap::new();
    let Some(Injection { delay: None, abort: Some(abort) }) = made.faults.draw(&Head::new("GET", "/", &headers), 0)
    else {
        panic!("{:?}", made.faults)
    };
    assert_eq!((abort.status, abort.grpc_status), (429, 14), "what an HTTP status stands for");
    assert_eq!(made.hedge, Some(Hedge { percentile: 95, min_delay: Duration::from_millis(1) }));
    let Some(Fallback::Response(FixedResponse { status: 503, body, .. })) = &made.fallback else {
        panic!("{:?}", made.fallback)
    };
    assert_eq!(&**body, b"closed");
    let names: Vec<String> = made.targets().map(ToString::to_string).collect();
    assert_eq!(names, ["shop/orders:80", "shop/copy:81"]);

    let unresolved = converted(|s| {
        let to = v1::FallbackBackend { unresolved: "BackendNotFound: gone".into(), ..Default::default() };
        frontend(s).fallback = Some(v1::Fallback { to: Some(v1::fallback::To::Backend(to)) });
    });
    let expected = Fallback::Backend(Target::Unresolved("BackendNotFound: gone".into()));
    assert_eq!(unresolved.ports[0].frontend.fallback, Some(expected));
}
