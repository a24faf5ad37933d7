//! `weft.v1.Filter`: what a rule or a backend does besides sending on, and which filters go together.

use http::{HeaderName, HeaderValue};
use weft_proto::v1;

use super::matching::{LONGEST_PATH, header_name, method};
use super::{Refusal, check, target};
use crate::route::{
    Allowed, Cors, Extra, Filters, HeaderEdit, Kind, Match, Mirror, OriginPattern, Origins, PathEdit, PathMatch,
    Redirect, Rewrite, Scheme, Share,
};

/// Framing and routing of the message itself: editing these would let a route smuggle requests.
const UNTOUCHABLE: [&str; 8] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];
/// The longest that a preflight's answer may be kept: browsers stop at a day at most.
const LONGEST_MAX_AGE: u32 = 366 * 24 * 3600;

/// Filters of a rule or of one of its backends; `matches` are the rule's.
pub(super) fn filters(wire: &[v1::Filter], kind: Kind, matches: &[Match]) -> Result<Filters, Refusal> {
    use v1::filter::Filter;
    check::bounded("filters", wire, 32)?;
    let (mut filters, mut extra) = (Filters::default(), Extra::default());
    for (i, filter) in wire.iter().enumerate() {
        let Some(filter) = &filter.filter else {
            let reason = "says nothing, or something that this version does not know";
            return Err(Refusal::new(format!("filters[{i}]"), reason));
        };
        let name = match filter {
            Filter::RequestHeaders(_) => "requestHeaders",
            Filter::ResponseHeaders(_) => "responseHeaders",
            Filter::Redirect(_) => "redirect",
            Filter::Rewrite(_) => "rewrite",
            Filter::Mirror(_) => "mirror",
            Filter::Cors(_) => "cors",
        };
        let of_http = matches!(filter, Filter::Redirect(_) | Filter::Rewrite(_) | Filter::Cors(_));
        let taken = match filter {
            _ if of_http && kind != Kind::Http => Err(Refusal::new("", "belongs to HTTPRoutes")),
            Filter::RequestHeaders(edit) => header_edit(edit).map(|edit| filters.request.push(edit)),
            Filter::ResponseHeaders(edit) => header_edit(edit).map(|edit| filters.response.push(edit)),
            Filter::Mirror(wire) => mirror(wire).map(|mirror| extra.mirrors.push(mirror)),
            Filter::Redirect(_) if extra.rewrite.is_some() => Err(Refusal::new("", "cannot stand beside a rewrite")),
            Filter::Rewrite(_) if extra.redirect.is_some() => Err(Refusal::new("", "cannot stand beside a redirect")),
            Filter::Redirect(wire) => redirect(wire, matches).and_then(|redirect| once(&mut extra.redirect, redirect)),
            Filter::Rewrite(wire) => rewrite(wire, matches).and_then(|rewrite| once(&mut extra.rewrite, rewrite)),
            Filter::Cors(wire) => cors(wire).and_then(|cors| once(&mut extra.cors, cors)),
        };
        taken.map_err(|r| r.under(name).under(format_args!("filters[{i}]")))?;
    }
    if extra != Extra::default() {
        filters.extra = Some(Box::new(extra));
    }
    Ok(filters)
}

/// "Specifying the same filter multiple times is not supported unless explicitly indicated in the filter."
fn once<F>(place: &mut Option<F>, filter: F) -> Result<(), Refusal> {
    match place.replace(filter) {
        Some(_) => Err(Refusal::new("", "occurs twice")),
        None => Ok(()),
    }
}

fn redirect(wire: &v1::Redirect, matches: &[Match]) -> Result<Redirect, Refusal> {
    let scheme = match wire.scheme.as_str() {
        "" => None,
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        other => return Err(Refusal::new("scheme", format!("{other:?} is neither http nor https"))),
    };
    let status = match wire.status {
        0 => 302,
        status @ (301 | 302 | 303 | 307 | 308) => status as u16,
        other => return Err(Refusal::new("status", format!("{other} is none of 301, 302, 303, 307 and 308"))),
    };
    Ok(Redirect {
        scheme,
        hostname: hostname(&wire.hostname)?.map(Into::into),
        path: wire.path.as_ref().map(|path| path_edit(path, matches)).transpose()?,
        port: (wire.port != 0).then(|| check::port("port", wire.port)).transpose()?,
        status,
    })
}

fn rewrite(wire: &v1::Rewrite, matches: &[Match]) -> Result<Rewrite, Refusal> {
    let hostname = hostname(&wire.hostname)?.map(HeaderValue::try_from).transpose();
    let rewrite = Rewrite {
        hostname: hostname.map_err(|_| Refusal::new("hostname", "is no header value"))?,
        path: wire.path.as_ref().map(|path| path_edit(path, matches)).transpose()?,
    };
    if rewrite == Rewrite::default() {
        return Err(Refusal::new("", "changes neither hostname nor path"));
    }
    Ok(rewrite)
}

/// `PreciseHostname`: no wildcard, no port; empty: none.
fn hostname(text: &str) -> Result<Option<String>, Refusal> {
    if text.is_empty() { Ok(None) } else { check::hostname("hostname", text).map(Some) }
}

fn path_edit(wire: &v1::PathModifier, matches: &[Match]) -> Result<PathEdit, Refusal> {
    use v1::path_modifier::Modifier;
    match &wire.modifier {
        Some(Modifier::Full(text)) => Ok(PathEdit::Full(match new_path("path.full", text)? {
            "" => "/".into(),
            path => path.into(),
        })),
        // "ReplacePrefixMatch is only compatible with a PathPrefix HTTPRouteMatch", which is also what a match without a path is.
        Some(Modifier::Prefix(_))
            if !matches.iter().all(|m| matches!(m.path, PathMatch::Prefix(_) | PathMatch::Any)) =>
        {
            Err(Refusal::new("path.prefix", "needs a pathPrefix in every match of the rule"))
        }
        Some(Modifier::Prefix(text)) => {
            Ok(PathEdit::Prefix(new_path("path.prefix", text)?.trim_end_matches('/').into()))
        }
        None => Err(Refusal::new("path", "full or prefix is required")),
    }
}

/// A path to put in place of another; may be empty.
fn new_path<'a>(field: &str, path: &'a str) -> Result<&'a str, Refusal> {
    if path.len() > LONGEST_PATH {
        return Err(Refusal::new(field, format!("is longer than {LONGEST_PATH} bytes")));
    }
    if !path.is_empty() && !path.starts_with('/') {
        return Err(Refusal::new(field, format!("{path:?} does not begin with '/'")));
    }
    if path.starts_with("//") {
        return Err(Refusal::new(field, format!("{path:?} begins with two slashes, which names a host")));
    }
    match path.bytes().find(|b| !b.is_ascii_graphic() || matches!(b, b'?' | b'#')) {
        Some(bad) => Err(Refusal::new(field, format!("contains {:?}, which a path cannot", char::from(bad)))),
        None => Ok(path),
    }
}

fn mirror(wire: &v1::Mirror) -> Result<Mirror, Refusal> {
    let share = match wire.denominator {
        0 => Share::ALL,
        all if wire.numerator > all => {
            return Err(Refusal::new("numerator", format!("{} of {all} are more than all", wire.numerator)));
        }
        all => Share::new(wire.numerator, all),
    };
    Ok(Mirror { target: target(&wire.service, wire.port, &wire.unresolved)?, share })
}

fn cors(wire: &v1::Cors) -> Result<Cors, Refusal> {
    let any = |field: &str, list: &[String], most| match list {
        [only] if only == "*" => Ok(true),
        list if list.iter().any(|entry| entry == "*") => Err(Refusal::new(field, "has '*' beside other entries")),
        list => check::bounded(field, list, most).map(|()| false),
    };
    let origins = if any("allowOrigins", &wire.allow_origins, 64)? {
        Origins::Any
    } else {
        let pattern = |(i, text): (usize, &String)| {
            OriginPattern::parse(text).filter(|_| text.len() <= 253).ok_or_else(|| {
                let reason = format!("{text:?} is no origin (http or https, a host name, perhaps a port)");
                Refusal::new(format!("allowOrigins[{i}]"), reason)
            })
        };
        Origins::These(wire.allow_origins.iter().enumerate().map(pattern).collect::<Result<_, _>>()?)
    };
    let list = |field: &str, list: &[String], most, named: &dyn Fn(&str, &str) -> Result<(), Refusal>| {
        if any(field, list, most)? {
            return Ok(Allowed::Any);
        }
        for (i, name) in list.iter().enumerate() {
            named(&format!("{field}[{i}]"), name)?;
        }
        let joined = HeaderValue::try_from(list.join(", ")).map_err(|_| Refusal::new(field, "is no header value"))?;
        Ok(if list.is_empty() { Allowed::Safelisted } else { Allowed::These(joined) })
    };
    let header = |field: &str, text: &str| match header_name(text) {
        Ok(_) => Ok(()),
        Err(refusal) => Err(Refusal::new(field, refusal.reason)),
    };
    let expose = match list("exposeHeaders", &wire.expose_headers, 64, &header)? {
        // "the gateway cannot use the `*`" with credentials, where browsers would read it as a name.
        Allowed::Any => (!wire.allow_credentials).then(|| HeaderValue::from_static("*")),
        Allowed::These(names) => Some(names),
        Allowed::Safelisted => None,
    };
    Ok(Cors {
        origins,
        credentials: wire.allow_credentials,
        methods: list("allowMethods", &wire.allow_methods, 32, &|field, text| method(field, text).map(drop))?,
        headers: list("allowHeaders", &wire.allow_headers, 64, &header)?,
        expose,
        max_age: check::within("maxAge", wire.max_age, 0, LONGEST_MAX_AGE)?.into(),
    })
}

fn header_edit(wire: &v1::HeaderModifier) -> Result<HeaderEdit, Refusal> {
    let mut edit = HeaderEdit {
        set: header_values("set", &wire.set)?,
        add: header_values("add", &wire.add)?,
        remove: Vec::with_capacity(wire.remove.len()),
    };
    check::bounded("remove", &wire.remove, 64)?;
    for (i, name) in wire.remove.iter().enumerate() {
        let field = format!("remove[{i}]");
        let name = header_name(name).map_err(|r| Refusal::new(&field, r.reason))?;
        touchable(&field, &name)?;
        edit.remove.push(name);
    }
    let host = |name: &HeaderName| *name == http::header::HOST;
    if edit.add.iter().any(|(name, _)| host(name)) {
        return Err(Refusal::new("add", "a request has one Host: set it instead"));
    }
    if edit.remove.iter().any(host) {
        return Err(Refusal::new("remove", "a request has one Host: it cannot be removed"));
    }
    Ok(edit)
}

fn header_values(list: &str, wire: &[v1::HeaderValue]) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    check::bounded(list, wire, 64)?;
    let mut values: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(wire.len());
    for (i, header) in wire.iter().enumerate() {
        let field = format!("{list}[{i}]");
        let name = header_name(&header.name).map_err(|r| r.under(&field))?;
        touchable(&field, &name)?;
        let value = HeaderValue::from_str(&header.value)
            .ok()
            .filter(|_| header.value.len() <= 4096)
            .ok_or_else(|| Refusal::new(format!("{field}.value"), "is no header value"))?;
        // "If multiple entries specify equivalent header names, the first entry … MUST be considered".
        if values.iter().all(|(held, _)| *held != name) {
            values.push((name, value));
        }
    }
    Ok(values)
}

fn touchable(field: &str, name: &HeaderName) -> Result<(), Refusal> {
    if UNTOUCHABLE.contains(&name.as_str()) || name.as_str().starts_with("weft-") {
        return Err(Refusal::new(field, format!("{name} belongs to the message's framing or to the mesh")));
    }
    Ok(())
}
