//! What a request asks for: its path and query become a [`Call`], and the call's verb is carried out by `resource` or `watch`.
//!
//! Everything that must hold for every request is here: who may ask at all, which `Host` is ours, the bounds on body and time.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Body;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    Api, Caller, Inner, Source, access, discovery, door,
    failure::{Failure, Result},
    front::Token,
    holding::{Holding, Right},
    object::Part,
    openapi, record, resource, reviews,
    served::Served,
    watch,
};
use crate::{
    kinds::{self, Kind},
    rbac::{Asking, Attributes, User},
};

/// Cancelled when the server that took the request stops: watches end then.
#[derive(Clone, Debug, Default)]
pub(super) struct Stopping(pub CancellationToken);

/// One request for a resource.
#[derive(Debug)]
pub(super) struct Call {
    pub kind: &'static Kind,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub part: Part,
    pub query: Query,
    pub headers: HeaderMap,
    /// Who asks; `None`: the control plane itself.
    pub user: Option<Arc<User>>,
}

impl Call {
    /// The name of who asks.
    pub fn caller(&self) -> &str {
        self.user.as_ref().map_or(super::CONTROL, |user| &user.name)
    }
}

/// The parameters of a query; of one given twice the last counts.
#[derive(Debug, Default)]
pub(super) struct Query(HashMap<String, String>);

impl Query {
    #[cfg(test)]
    pub fn of(parameters: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(parameters.into_iter().collect())
    }

    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub fn flag(&self, name: &str) -> Result<bool> {
        match self.0.get(name).map(String::as_str) {
            None | Some("false" | "0" | "False" | "FALSE" | "f" | "F") => Ok(false),
            Some("" | "true" | "1" | "True" | "TRUE" | "t" | "T") => Ok(true),
            Some(other) => Err(Failure::bad_request(format!("{other:?} is no value of {name}: true or false"))),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn number(&self, name: &str) -> Result<Option<u64>> {
        match self.text(name) {
            "" => Ok(None),
            text => match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(Failure::bad_request(format!("{text:?} is no value of {name}: a whole number"))),
            },
        }
    }
}

pub(super) async fn handle(api: &Arc<Inner>, request: Request<Body>) -> Response<Body> {
    let began = Instant::now();
    let (parts, body) = request.into_parts();
    let mut record = record::Request {
        address: parts.extensions.get::<Source>().map(|source| source.0),
        agent: record::agent(&parts.headers),
        called: (parts.method.as_str().to_ascii_lowercase(), parts.uri.path().to_owned()),
        ..record::Request::default()
    };
    let mut body = Some(body);
    let answered = answer(api, parts, &mut body, &mut record).await;
    if let Some(unread) = body {
        // A client of HTTP/2 that is answered, and told to stop (RFC 9113 §8.1), before it has sent its body may lose the answer.
        let _ = tokio::time::timeout(UNREAD, Limited::new(unread, 64 << 10).collect()).await;
    }
    let response = answered.unwrap_or_else(|failure| failure.response());
    if let Some(journal) = api.record.get() {
        journal.answered(&record, response.status(), response.extensions().get());
    }
    // What the control plane asks of itself comes from no address.
    if let Some(metrics) = api.metrics.get().filter(|_| record.address.is_some()) {
        let verb = record.asked.as_ref().map_or("", |asked| &asked.verb);
        metrics.answered(verb, response.status(), began.elapsed());
    }
    response
}

/// How long the rest of a body that nobody wants may take.
const UNREAD: Duration = Duration::from_secs(1);

async fn answer(
    api: &Arc<Inner>,
    parts: Parts,
    body: &mut Option<Body>,
    record: &mut record::Request,
) -> Result<Response<Body>> {
    let path = parts.uri.path().to_owned();
    let caller = parts.extensions.get::<Caller>().cloned().unwrap_or(Caller::Anonymous);
    if !matches!(caller, Caller::Control) && !access::is_ours(&parts.uri, &parts.headers, &api.hosts.read()) {
        return Err(Failure::misdirected());
    }
    if access::is_public(&parts.method, &path) {
        return Ok(match path.trim_end_matches('/') {
            "/version" => json_response(StatusCode::OK, &discovery::version()),
            _ => text_response("ok"),
        });
    }
    // They hold no secrets: what they show is asked for by who looks at them, through the door.
    if let Some(page) = crate::web::answer(&parts.method, &path, &parts.headers) {
        return Ok(page.map(Body::from));
    }
    let user = door::who(api, caller, &parts.headers, record).await?;
    let token = door::bearer(&parts.headers).map(|token| Token(token.into()));
    if let Some(front) = api.front.get() {
        if is_of_objects(&path) {
            let Some(Token(token)) = token else {
                let why = "the objects are the cluster's: present a token of the cluster, or ask its API server";
                return Err(Failure::forbidden(why));
            };
            let work = async {
                let body = read(body.take().unwrap_or_default(), api.settings.max_body).await?;
                front.forward(&parts, body, &token).await
            };
            // Of a watch this is until it begins.
            let answered = tokio::time::timeout(api.settings.deadline, work).await;
            return answered.unwrap_or_else(|_| Err(Failure::timeout("the cluster's API server took too long")));
        }
        if token.is_some() && parts.headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
            return Err(Failure::forbidden(
                "pages of the mesh are shown to whose token it is, and to nobody in their name",
            ));
        }
    }
    let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
        .map_err(|_| Failure::bad_request("the query of the URL cannot be read"))?;
    let query = Query(query.0.into_iter().collect());
    record.dry_run = query.has("dryRun");
    let segments = segments(&path)?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let mut admit = |asked: Attributes| {
        let asked = record.asked.insert(asked);
        door::admit(api, user.as_ref(), asked)
    };
    if let (["weft", ..] | ["metrics"], Some(pages)) = (&*segments, api.pages.get()) {
        let asked = door::page(&parts.method, &segments, &query);
        admit(asked.clone())?;
        let right = user.clone().map(|user| Right { user, asked, changed: api.rights.subscribe() });
        let stopping = parts.extensions.get::<Stopping>().cloned().unwrap_or_default().0;
        let holding = Holding { api: Api(api.clone()), right, stopping, token, request: Arc::new(record.clone()) };
        let mut request = Request::from_parts(parts, body.take().unwrap_or_default());
        request.extensions_mut().insert(holding);
        return page(api, pages.clone(), request, user).await;
    }
    if !matches!(&*segments, ["api" | "apis", _, _, ..]) || matches!(&*segments, ["apis", _, _]) {
        admit(Attributes::path(parts.method.as_str().to_ascii_lowercase(), path.as_str()))?;
    }
    let served = Served::now(api).await?;
    if let Some(document) = document(&served, &parts.method, &segments, &parts.headers) {
        return document;
    }
    let late = || Failure::timeout("the request took too long; what it wrote may have been written");
    if let Some(question) = reviews::locate(&segments) {
        admit(question.asked(&parts.method))?;
        record.harmless = !question.gives();
        if parts.method != Method::POST {
            return Err(Failure::method_not_allowed());
        }
        let work = async {
            let body = read(body.take().unwrap_or_default(), api.settings.max_body).await?;
            question.answer(api, user.as_ref(), &parts.headers, &body).await
        };
        return tokio::time::timeout(api.settings.deadline, work).await.unwrap_or_else(|_| Err(late()));
    }
    let call = Call { query, headers: parts.headers, user: user.clone(), ..locate(&served, &segments)? };
    let watch = parts.method == Method::GET
        && call.part == Part::Main
        && (call.query.flag("watch")? || is_old_watch(&segments));
    let asked = door::asked(&parts.method, &call, watch);
    admit(asked.clone())?;
    if watch {
        let stopping = parts.extensions.get::<Stopping>().cloned().unwrap_or_default();
        return watch::open(api, call, asked, stopping.0).await;
    }
    let work = async {
        let body = read(body.take().unwrap_or_default(), api.settings.max_body).await?;
        resource::serve(api, &parts.method, &call, body).await
    };
    let result = tokio::time::timeout(api.settings.deadline, work).await.unwrap_or_else(|_| Err(late()));
    if parts.method != Method::GET {
        let code = result.as_ref().map_or_else(|f| f.code, Response::status).as_u16();
        tracing::debug!(caller = call.caller(), method = %parts.method, %path, code, "the resource API was asked to write");
    }
    result
}

/// Whether a path is one of an API server's, and no page of the mesh.
fn is_of_objects(path: &str) -> bool {
    ["/api", "/apis", "/openapi"]
        .iter()
        .any(|own| path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// A page under `/weft/`, which is told who asks.
async fn page(
    api: &Inner,
    pages: axum::Router,
    mut request: Request<Body>,
    user: Option<Arc<User>>,
) -> Result<Response<Body>> {
    let user = user.unwrap_or_else(|| Arc::new(User::new(super::CONTROL, [crate::rbac::MASTERS.to_owned()])));
    request.extensions_mut().insert(Asking { user, grants: api.rights.now() });
    let answered = tokio::time::timeout(api.settings.deadline, tower::ServiceExt::oneshot(pages, request)).await;
    let answered =
        answered.map_err(|_| Failure::timeout("the request took too long; what it asked for may have been done"))?;
    Ok(answered.unwrap_or_else(|never| match never {}))
}

/// Documents that are not about objects; `None`: the path is of a resource.
fn document(
    served: &Served,
    method: &Method,
    segments: &[&str],
    headers: &HeaderMap,
) -> Option<Result<Response<Body>>> {
    let found = match segments {
        [] => {
            let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
            for (group, versions) in discovery::groups(served) {
                paths.push(format!("/apis/{group}"));
                paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
            }
            paths.extend(["/healthz", "/livez", "/metrics", "/openapi/v3", "/readyz", "/version"].map(str::to_owned));
            Ok((serde_json::json!({ "paths": paths }), "application/json"))
        }
        ["api"] => discovery::core(headers, served),
        ["apis"] => discovery::all(headers, served),
        ["apis", group] => discovery::group(group, served),
        ["api", version] => discovery::resources("", version, served),
        ["apis", group, version] => discovery::resources(group, version, served),
        ["openapi", "v3"] => Ok((openapi::index(served), "application/json")),
        ["openapi", "v3", path @ ..] => {
            let text = openapi::group(served, &path.join("/"));
            return Some(
                text.map(|text| respond(StatusCode::OK, Bytes::from_static(text.as_bytes()), "application/json")),
            );
        }
        ["api" | "apis", ..] => return None,
        _ => Err(Failure::no_such_path()),
    };
    if method != Method::GET && found.is_ok() {
        return Some(Err(Failure::method_not_allowed()));
    }
    Some(found.map(|(document, content)| respond(StatusCode::OK, document.to_string(), content)))
}

/// The parts of a path, decoded; none may be empty, hold a slash or climb.
fn segments(path: &str) -> Result<Vec<String>> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(Vec::new());
    }
    path.split('/')
        .map(|part| decode(part).filter(|p| !p.is_empty() && p != "." && p != ".." && !p.contains(['/', '\0'])))
        .collect::<Option<_>>()
        .ok_or_else(Failure::no_such_path)
}

fn decode(part: &str) -> Option<String> {
    let mut bytes = part.bytes();
    let mut decoded = Vec::with_capacity(part.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16).and_then(|d| u8::try_from(d).ok());
            decoded.push(digit()? << 4 | digit()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

/// `/api/v1/watch/…`: the form of a watch before there was a parameter for it.
fn is_old_watch(segments: &[&str]) -> bool {
    matches!(segments, ["api", _, "watch", ..] | ["apis", _, _, "watch", ..])
}

/// Which resource a path means.
fn locate(served: &Served, segments: &[&str]) -> Result<Call> {
    let (group, version, rest) = match segments {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(Failure::no_such_path()),
    };
    let rest = if is_old_watch(segments) { &rest[1..] } else { rest };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, plural, rest @ ..] if *plural != "status" && *plural != "finalize" => {
            (Some((*namespace).to_owned()), (*plural, rest))
        }
        [plural, rest @ ..] => (None, (*plural, rest)),
        [] => return Err(Failure::no_such_path()),
    };
    let (plural, rest) = rest;
    let kind = kinds::find(group, version, plural).filter(|kind| served.has(kind)).ok_or_else(Failure::no_such_path)?;
    let (name, part) = match rest {
        [] => (None, Part::Main),
        [name] => (Some((*name).to_owned()), Part::Main),
        [name, "status"] if kind.status => (Some((*name).to_owned()), Part::Status),
        _ => return Err(Failure::no_such_path()),
    };
    if kind.namespaced != namespace.is_some() && !(kind.namespaced && name.is_none()) {
        return Err(Failure::no_such_path());
    }
    let (query, headers) = (Query::default(), HeaderMap::new());
    Ok(Call { kind, namespace, name, part, query, headers, user: None })
}

async fn read(body: Body, limit: usize) -> Result<Bytes> {
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::too_large(limit)),
        Err(error) => Err(Failure::bad_request(format!("the body of the request cannot be read: {error}"))),
    }
}

pub(super) fn json_response(status: StatusCode, document: &Value) -> Response<Body> {
    respond(status, document.to_string(), "application/json")
}

fn text_response(text: &'static str) -> Response<Body> {
    respond(StatusCode::OK, text, "text/plain; charset=utf-8")
}

fn respond(status: StatusCode, body: impl Into<Body>, content: &'static str) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> Option<(String, Option<String>, Option<String>, Part)> {
        let segments = segments(path).ok()?;
        let call = locate(&Served::Own, &segments.iter().map(String::as_str).collect::<Vec<_>>()).ok()?;
        Some((call.kind.plural.to_owned(), call.namespace, call.name, call.part))
    }

    #[test]
    fn paths_mean_what_they_mean_in_kubernetes() {
        let found = |kind: &str, namespace: Option<&str>, name: Option<&str>, part| {
            Some((kind.to_owned(), namespace.map(str::to_owned), name.map(str::to_owned), part))
        };
        assert_eq!(at("/api/v1/services"), found("services", None, None, Part::Main));
        assert_eq!(at("/api/v1/namespaces/shop"), found("namespaces", None, Some("shop"), Part::Main));
        assert_eq!(at("/api/v1/namespaces/shop/status"), found("namespaces", None, Some("shop"), Part::Status));
        assert_eq!(at("/api/v1/namespaces/shop/services/"), found("services", Some("shop"), None, Part::Main));
        let route = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/a/status";
        assert_eq!(at(route), found("httproutes", Some("shop"), Some("a"), Part::Status));
        assert_eq!(at("/api/v1/watch/services"), found("services", None, None, Part::Main));
        assert_eq!(at("/api/v1/namespaces/shop/services/%61"), found("services", Some("shop"), Some("a"), Part::Main));
    }

    #[test]
    fn what_is_no_path_is_not_found() {
        for path in [
            "/api/v2/services",
            "/api/v1/pods",
            "/api/v1/namespaces/shop/namespaces/a",
            "/api/v1/services/a",
            "/api/v1/namespaces/shop/services/a/log",
            "/api/v1/namespaces/shop/serviceaccounts/a/status",
            "/api/v1/namespaces/../services",
            "/api/v1/namespaces/shop%2Fservices/a",
            "/api/v1//services",
            "/api/v1/namespaces/%zz/services",
        ] {
            assert_eq!(at(path), None, "{path}");
        }
    }
}
