//! The one door: who asks is known here, by certificate or token, and what a request would do is said here as roles say it. Every request
//! passes before anything is read or written for it; the control plane itself is let through.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, Method, header};

use super::{
    Caller, Inner,
    failure::{Failure, Result},
    object::Part,
    record,
    route::{Call, Query},
};
use crate::kinds::GROUP;
use crate::rbac::{AUTHENTICATED, Attributes, Resource, SERVICE_ACCOUNT, User};

/// Who asks; `None`: the control plane itself. What is known of it goes into the record.
pub(super) async fn who(
    api: &Inner,
    caller: Caller,
    headers: &HeaderMap,
    record: &mut record::Request,
) -> Result<Option<Arc<User>>> {
    let user = match caller {
        Caller::Control => return Ok(None),
        Caller::Known(user) if user.until.is_some_and(|until| until <= SystemTime::now()) => {
            record.unknown = "the certificate has ended";
            return Err(Failure::unauthorized());
        }
        Caller::Known(user) => user,
        Caller::Anonymous => {
            record.unknown = "no credentials";
            let token = bearer(headers).ok_or_else(Failure::unauthorized)?;
            if let Some(front) = api.front.get() {
                record.unknown = "the token is not good here";
                let user = front.user(token).await?.ok_or_else(Failure::unauthorized)?;
                record.user = Some(user.clone());
                return Ok(Some(user));
            }
            let accounts = api.accounts.get().ok_or_else(Failure::unauthorized)?;
            record.unknown = "the token is not good here";
            let known = accounts.authenticate(&*api.store, token, &[], SystemTime::now());
            let known = tokio::time::timeout(api.settings.deadline, known).await;
            match known.map_err(|_| Failure::timeout("the store took too long"))?? {
                Ok(known) => Arc::new(known.user),
                Err(reason) => {
                    tracing::debug!(%reason, "a bearer token was refused");
                    return Err(Failure::unauthorized());
                }
            }
        }
    };
    record.user = Some(user.clone());
    if let Some(other) = impersonated(headers)? {
        for asked in impersonations(&other) {
            admit(api, Some(&user), record.asked.insert(asked))?;
        }
        record.asked = None;
        record.user = Some(Arc::new(User { until: user.until, ..other }));
        record.behind = Some(user);
    }
    Ok(record.user.clone())
}

/// As whom a request asks to be taken (`kubectl --as`); the headers of Kubernetes.
fn impersonated(headers: &HeaderMap) -> Result<Option<User>> {
    let texts = |name: &str| -> Result<Vec<String>> {
        let bad = |_| Failure::bad_request(format!("the header {name} cannot be read"));
        headers.get_all(name).iter().map(|value| value.to_str().map(str::to_owned).map_err(bad)).collect()
    };
    let (users, groups) = (texts("impersonate-user")?, texts("impersonate-group")?);
    let other = |name: &&header::HeaderName| {
        let name = name.as_str();
        name.starts_with("impersonate-") && !["impersonate-user", "impersonate-group"].contains(&name)
    };
    if let Some(other) = headers.keys().find(other) {
        return Err(Failure::bad_request(format!(
            "the header {other} is not understood: impersonate users and groups"
        )));
    }
    match (users.as_slice(), groups) {
        ([], groups) if groups.is_empty() => Ok(None),
        ([name], mut groups) if !name.is_empty() => {
            let account = name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'));
            if let Some((namespace, _)) = account.filter(|_| groups.is_empty()) {
                groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            }
            Ok(Some(User::new(name, groups)))
        }
        _ => Err(Failure::bad_request("requested impersonation without impersonating one user")),
    }
}

/// The rights that it takes to be taken as a user.
fn impersonations(user: &User) -> Vec<Attributes> {
    let on = |resource: &str, namespace: &str, name: &str| {
        let (resource, namespace, name) = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        Attributes::on("impersonate", Resource { resource, namespace, name, ..Resource::default() })
    };
    let account = user.name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'));
    let own = match account {
        Some((namespace, name)) => on("serviceaccounts", namespace, name),
        None => on("users", "", &user.name),
    };
    // Groups that come with being what one is take no right of their own.
    let given = |group: &&String| {
        let own = account.is_some_and(|(namespace, _)| match group.strip_prefix("system:serviceaccounts") {
            Some("") => true,
            Some(rest) => rest.strip_prefix(':') == Some(namespace),
            None => false,
        });
        **group != AUTHENTICATED && !own
    };
    std::iter::once(own).chain(user.groups.iter().filter(given).map(|group| on("groups", "", group))).collect()
}

/// The token of the only `Authorization` header, of the scheme Bearer (RFC 6750 §2.1).
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let (field, None) = (fields.next()?.to_str().ok()?, fields.next()) else { return None };
    let (scheme, token) = field.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Lets pass who may.
pub(super) fn admit(api: &Inner, user: Option<&Arc<User>>, asked: &Attributes) -> Result<()> {
    match user {
        Some(user) if api.rights.now().allows(user, asked).is_none() => Err(Failure::denied(asked, &user.name)),
        _ => Ok(()),
    }
}

/// What a call for objects would do.
pub(super) fn asked(method: &Method, call: &Call, watch: bool) -> Attributes {
    let verb = match (method, &call.name) {
        (&Method::GET, _) if watch => "watch",
        (&Method::GET, Some(_)) => "get",
        (&Method::GET, None) => "list",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, Some(_)) => "delete",
        (&Method::DELETE, None) => "deletecollection",
        (other, _) => return Attributes::on(other.as_str().to_ascii_lowercase(), about(call, None)),
    };
    // A list or watch of one name is about that one.
    let selected =
        call.query.text("fieldSelector").split(',').find_map(|part| part.trim().strip_prefix("metadata.name="));
    Attributes::on(verb, about(call, selected.map(|name| name.trim_start_matches('='))))
}

fn about(call: &Call, selected: Option<&str>) -> Resource {
    let name = call.name.as_deref().or(selected).unwrap_or_default().to_owned();
    // Whoever has a role in a namespace may have one for the namespace itself.
    let own =
        (call.kind.group.is_empty() && call.kind.plural == "namespaces").then_some(call.name.as_deref()).flatten();
    Resource {
        group: call.kind.group.to_owned(),
        resource: call.kind.plural.to_owned(),
        subresource: match call.part {
            Part::Main => String::new(),
            Part::Status => "status".to_owned(),
        },
        namespace: call.namespace.as_deref().or(own).unwrap_or_default().to_owned(),
        name,
    }
}

/// What a request for a page under `/weft/` would do. The pages whose questions can be put for one namespace name it in the query, and
/// answer for it alone.
pub(super) fn page(method: &Method, segments: &[&str], query: &Query) -> Attributes {
    let on = |verb: &str, resource: &str, subresource: &str, (namespace, name): (&str, &str)| {
        let (group, resource, subresource) = (GROUP.to_owned(), resource.to_owned(), subresource.to_owned());
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Attributes::on(verb, Resource { group, resource, subresource, namespace, name })
    };
    let here = query.text("namespace");
    let Some((["weft", "v1"], rest)) = segments.split_at_checked(2) else {
        return Attributes::path(method.as_str().to_ascii_lowercase(), format!("/{}", segments.join("/")));
    };
    match (method.as_str(), rest) {
        ("GET", ["stat"]) => on("get", "stats", "", (here, "")),
        ("GET", ["routes" | "endpoints" | "series" | "live" | "problems"]) => on("get", "stats", "", (here, "")),
        ("GET", ["tap"]) => on("get", "workloads", "tap", (here, query.text("workload"))),
        ("POST", ["plan"]) => on("create", "plans", "", (here, "")),
        ("GET", ["fleet"]) => on("list", "sidecars", "", ("", "")),
        ("GET", ["check" | "process" | "controlplane"]) => on("get", "checks", "", ("", "")),
        ("GET", ["tokens"]) => on("list", "jointokens", "", (here, "")),
        ("POST", ["tokens"]) => on("create", "jointokens", "", (here, "")),
        ("DELETE", ["tokens", id]) => on("delete", "jointokens", "", (here, id)),
        ("POST", ["explain"]) => on("create", "explanations", "", (here, "")),
        ("GET", ["identity"]) => on("get", "identities", "", ("", "")),
        ("GET", ["identity", "bundle"]) => on("get", "trustbundles", "", ("", "")),
        ("POST", ["identity", "rotation"]) => on("create", "rotations", "", ("", "")),
        ("GET", ["identity", "revocations"]) => on("list", "revocations", "", ("", "")),
        ("POST", ["identity", "revocations"]) => on("create", "revocations", "", ("", "")),
        ("GET", ["audit"] | ["identity", "audit"]) => on("list", "auditrecords", "", ("", "")),
        ("POST", ["users"]) => on("create", "users", "", ("", "")),
        ("GET", ["fleet", namespace, name, "config"]) => on("get", "workloads", "config", (namespace, name)),
        ("GET", ["fleet", namespace, name, "stats" | "metrics"]) => on("get", "workloads", "stats", (namespace, name)),
        ("PUT", ["fleet", namespace, name, "log"]) => on("update", "workloads", "log", (namespace, name)),
        ("POST", ["fleet", namespace, name, "drain"]) => on("create", "workloads", "drain", (namespace, name)),
        (method, _) => Attributes::path(method.to_ascii_lowercase(), format!("/{}", segments.join("/"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_roles_call_it() {
        let query = |text: &str| Query::of([("namespace".to_owned(), text.to_owned())]);
        let asked = |method: Method, path: &str, namespace: &str| {
            let segments: Vec<&str> = path.split('/').skip(1).collect();
            page(&method, &segments, &query(namespace)).denied("ana")
        };
        let config = asked(Method::GET, "/weft/v1/fleet/shop/cart-1/config", "office");
        assert!(config.contains(r#"get resource "workloads/config" in API group "weft.mesh" in the namespace "shop""#));
        for path in ["/weft/v1/fleet/shop/cart-1/stats", "/weft/v1/fleet/shop/cart-1/metrics"] {
            let stats = asked(Method::GET, path, "office");
            assert!(
                stats.contains(r#"get resource "workloads/stats""#) && stats.ends_with(r#"in the namespace "shop""#)
            );
        }
        for path in ["stat", "routes", "endpoints", "series", "live", "problems"].map(|page| format!("/weft/v1/{page}"))
        {
            assert!(asked(Method::GET, &path, "shop").contains(r#"get resource "stats""#), "{path}");
            assert!(asked(Method::GET, &path, "shop").ends_with(r#"in the namespace "shop""#), "{path}");
        }
        assert!(asked(Method::GET, "/weft/v1/tap", "shop").contains(r#"get resource "workloads/tap""#));
        assert!(asked(Method::GET, "/weft/v1/tap", "").ends_with("at the cluster scope"));
        assert!(asked(Method::POST, "/weft/v1/plan", "shop").contains(r#"create resource "plans""#));
        assert!(asked(Method::POST, "/weft/v1/tokens", "shop").ends_with(r#"in the namespace "shop""#));
        assert!(asked(Method::GET, "/weft/v1/stat", "").ends_with("at the cluster scope"));
        // What is of the whole mesh is asked for in no namespace, whatever the query says.
        for page in ["identity", "audit", "fleet", "check", "process", "controlplane"] {
            let path = &format!("/weft/v1/{page}");
            assert!(asked(Method::GET, path, "shop").ends_with("at the cluster scope"), "{path}");
        }
        assert_eq!(asked(Method::GET, "/weft/v1/other", "shop"), r#"User "ana" cannot get path "/weft/v1/other""#);
        assert_eq!(asked(Method::GET, "/weft", ""), r#"User "ana" cannot get path "/weft""#);
    }

    #[test]
    fn whom_a_request_asks_to_be_taken_as_takes_a_right_for_each_name() {
        let read = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().unwrap());
            }
            impersonated(&headers).map(|user| {
                let rights = user.as_ref().map(impersonations).unwrap_or_default();
                rights.iter().map(|asked| asked.denied("root")).collect::<Vec<_>>()
            })
        };
        assert!(read(&[]).unwrap().is_empty());
        let rights = read(&[("impersonate-user", "ana"), ("impersonate-group", "team")]).unwrap();
        assert!(rights.len() == 2 && rights[0].contains("\"users\"") && rights[1].contains("\"groups\""), "{rights:?}");
        let rights = read(&[("impersonate-user", "system:serviceaccount:shop:cart")]).unwrap();
        assert!(
            rights.len() == 1 && rights[0].contains(r#""serviceaccounts" in API group "" in the namespace "shop""#)
        );
        let rights = read(&[("impersonate-user", "ana"), ("impersonate-group", "system:masters")]).unwrap();
        assert_eq!(rights.len(), 2);
        let other = [
            ("impersonate-user", "system:serviceaccount:shop:cart"),
            ("impersonate-group", "system:serviceaccounts:bank"),
        ];
        assert_eq!(read(&other).unwrap().len(), 2);
        // One that is no service account does not get into their groups for nothing.
        let rights = read(&[("impersonate-user", "ana"), ("impersonate-group", "system:serviceaccounts")]).unwrap();
        assert_eq!(rights.len(), 2);
        for bad in [
            &[("impersonate-group", "team")][..],
            &[("impersonate-user", "ana"), ("impersonate-user", "ben")],
            &[("impersonate-user", "")],
            &[("impersonate-user", "ana"), ("impersonate-uid", "1")],
            &[("impersonate-user", "ana"), ("impersonate-extra-a", "1")],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_bearer_token_is_read_and_nothing_else() {
        let read = |fields: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(header::AUTHORIZATION, field.parse().unwrap());
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(read(&["Bearer a.b.c"]).as_deref(), Some("a.b.c"));
        assert_eq!(read(&["bearer  a.b.c "]).as_deref(), Some("a.b.c"));
        for none in [&[][..], &["Bearer"], &["Bearer "], &["Basic YTpi"], &["Bearer a", "Bearer b"]] {
            assert_eq!(read(none), None, "{none:?}");
        }
    }
}
