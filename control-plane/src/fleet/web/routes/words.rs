//! Kinds, protocols, matches and filters in words, for one cell of a table.

use weft_proto::v1::{self, filter, key_match, path_modifier, route_match};

/// What a port speaks.
pub(super) const fn protocol(protocol: v1::Protocol) -> &'static str {
    match protocol {
        v1::Protocol::Detect => "detect",
        v1::Protocol::Http1 => "http",
        v1::Protocol::Http2 => "http2",
        v1::Protocol::Grpc => "grpc",
        v1::Protocol::Tcp => "tcp",
    }
}

/// Name of the kind.
pub(super) const fn kind(kind: v1::RouteKind) -> Option<&'static str> {
    match kind {
        v1::RouteKind::Unspecified => None,
        v1::RouteKind::Http => Some("HTTPRoute"),
        v1::RouteKind::Grpc => Some("GRPCRoute"),
        v1::RouteKind::Tcp => Some("TCPRoute"),
        v1::RouteKind::Tls => Some("TLSRoute"),
    }
}

/// `GET /orders/* x-canary: yes ?v=2`
pub(super) fn of_match(wire: &v1::RouteMatch) -> String {
    let mut parts = Vec::new();
    if !wire.method.is_empty() {
        parts.push(wire.method.clone());
    }
    parts.extend(wire.path.as_ref().map(|path| match path {
        route_match::Path::ExactPath(path) => path.clone(),
        route_match::Path::PathPrefix(path) => format!("{}/*", path.trim_end_matches('/')),
        route_match::Path::PathRegex(path) => format!("~{path}"),
        route_match::Path::Grpc(method) => {
            let any = |text: &String| if text.is_empty() { "*".to_owned() } else { text.clone() };
            let regex = if method.regex { "~" } else { "" };
            format!("{regex}{}/{}", any(&method.service), any(&method.method))
        }
    }));
    parts.extend(wire.headers.iter().map(|header| format!("{}: {}", header.name, value(header))));
    parts.extend(wire.queries.iter().map(|query| format!("?{}={}", query.name, value(query))));
    if parts.is_empty() { "*".to_owned() } else { parts.join(" ") }
}

fn value(of: &v1::KeyMatch) -> String {
    match &of.value {
        Some(key_match::Value::Exact(text)) => text.clone(),
        Some(key_match::Value::Regex(text)) => format!("~{text}"),
        None => String::new(),
    }
}

/// `redirect 301 to https`, `mirror shop/audit:80 (10%)`
pub(super) fn of_filter(wire: &v1::Filter) -> Option<String> {
    let path = |path: &Option<v1::PathModifier>| {
        path.as_ref().and_then(|path| path.modifier.as_ref()).map(|modifier| match modifier {
            path_modifier::Modifier::Full(path) => path.clone(),
            path_modifier::Modifier::Prefix(path) => format!("{}/*", path.trim_end_matches('/')),
        })
    };
    let headers = |which: &str, of: &v1::HeaderModifier| {
        let named = |sign: &str, list: &[v1::HeaderValue]| {
            list.iter().map(|header| format!("{sign}{}", header.name)).collect::<Vec<_>>()
        };
        let mut all = named("=", &of.set);
        all.extend(named("+", &of.add));
        all.extend(of.remove.iter().map(|name| format!("-{name}")));
        format!("{which} headers {}", all.join(" "))
    };
    Some(match wire.filter.as_ref()? {
        filter::Filter::RequestHeaders(of) => headers("request", of),
        filter::Filter::ResponseHeaders(of) => headers("response", of),
        filter::Filter::Redirect(to) => {
            let status = if to.status == 0 { 302 } else { to.status };
            let scheme = Some(to.scheme.clone()).filter(|scheme| !scheme.is_empty());
            let host = Some(to.hostname.clone()).filter(|host| !host.is_empty());
            let where_to: Vec<String> = scheme.into_iter().chain(host).chain(path(&to.path)).collect();
            format!("redirect {status} {}", where_to.join(" ")).trim_end().to_owned()
        }
        filter::Filter::Rewrite(to) => {
            let host = Some(to.hostname.clone()).filter(|host| !host.is_empty());
            let what: Vec<String> = host.into_iter().chain(path(&to.path)).collect();
            format!("rewrite {}", what.join(" "))
        }
        filter::Filter::Mirror(to) if !to.unresolved.is_empty() => format!("mirror to nowhere: {}", to.unresolved),
        filter::Filter::Mirror(to) => {
            let share = match to.denominator {
                0 => 100.0,
                all => f64::from(to.numerator) * 100.0 / f64::from(all),
            };
            format!("mirror {}:{} ({share}%)", to.service, to.port)
        }
        filter::Filter::Cors(_) => "cors".to_owned(),
    })
}
