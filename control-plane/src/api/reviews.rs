//! Questions that are put as objects and answered at once, nothing being kept: may I, may they, who am I, whose token is this, and a token for a
//! service account. `authorization.k8s.io/v1`, `authentication.k8s.io/v1` and `serviceaccounts/token`.

mod shape;

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
use serde_json::{Value, json};

use super::{
    Inner,
    failure::{Failure, Result},
    json, object,
    protobuf::{self, PROTOBUF},
    route::json_response,
    schema::Walk,
    table::negotiate,
};
use crate::rbac::{Attributes, MASTERS, Resource, User};

const AUTHORIZATION: &str = "authorization.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// One sort of question.
#[derive(Debug)]
pub(super) struct Review {
    /// Of the path, with `v1`.
    pub group: &'static str,
    /// Of the object, with `v1`.
    pub of: &'static str,
    pub kind: &'static str,
    /// `plural`, or `plural/subresource`.
    pub resource: &'static str,
    pub singular: &'static str,
    pub namespaced: bool,
    about: About,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    Me,
    MyAccess,
    MyRules,
    Access,
    Token,
    NewToken,
}

const fn review(
    (group, of): (&'static str, &'static str),
    kind: &'static str,
    (resource, singular): (&'static str, &'static str),
    namespaced: bool,
    about: About,
) -> Review {
    Review { group, of, kind, resource, singular, namespaced, about }
}

impl Review {
    /// The schema of its `spec`; `None`: it has none.
    pub fn spec(&self) -> Option<Value> {
        shape::spec(self.about)
    }

    /// The schema of its `status`.
    pub fn status(&self) -> Value {
        shape::status(self.about)
    }
}

/// All of them.
pub(super) const ALL: [Review; 7] = [
    review(("", AUTHENTICATION), "TokenRequest", ("serviceaccounts/token", ""), true, About::NewToken),
    review(
        (AUTHENTICATION, AUTHENTICATION),
        "SelfSubjectReview",
        ("selfsubjectreviews", "selfsubjectreview"),
        false,
        About::Me,
    ),
    review((AUTHENTICATION, AUTHENTICATION), "TokenReview", ("tokenreviews", "tokenreview"), false, About::Token),
    review(
        (AUTHORIZATION, AUTHORIZATION),
        "LocalSubjectAccessReview",
        ("localsubjectaccessreviews", "localsubjectaccessreview"),
        true,
        About::Access,
    ),
    review(
        (AUTHORIZATION, AUTHORIZATION),
        "SelfSubjectAccessReview",
        ("selfsubjectaccessreviews", "selfsubjectaccessreview"),
        false,
        About::MyAccess,
    ),
    review(
        (AUTHORIZATION, AUTHORIZATION),
        "SelfSubjectRulesReview",
        ("selfsubjectrulesreviews", "selfsubjectrulesreview"),
        false,
        About::MyRules,
    ),
    review(
        (AUTHORIZATION, AUTHORIZATION),
        "SubjectAccessReview",
        ("subjectaccessreviews", "subjectaccessreview"),
        false,
        About::Access,
    ),
];

/// A question at its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'s> {
    pub review: &'static Review,
    namespace: &'s str,
    name: &'s str,
}

/// The question of a path.
pub(super) fn locate<'s>(segments: &[&'s str]) -> Option<Question<'s>> {
    let (group, resource, namespace, name) = match segments {
        ["api", "v1", "namespaces", namespace, "serviceaccounts", name, "token"] => {
            ("", "serviceaccounts/token", *namespace, *name)
        }
        ["apis", group, "v1", resource] => (*group, *resource, "", ""),
        ["apis", group, "v1", "namespaces", namespace, resource] => (*group, *resource, *namespace, ""),
        _ => return None,
    };
    let review = ALL.iter().find(|review| {
        review.group == group && review.resource == resource && review.namespaced != namespace.is_empty()
    })?;
    Some(Question { review, namespace, name })
}

impl Question<'_> {
    /// What putting it is, as roles say it.
    pub fn asked(&self, method: &Method) -> Attributes {
        let (resource, subresource) = self.review.resource.split_once('/').unwrap_or((self.review.resource, ""));
        let verb = if method == Method::POST { "create".to_owned() } else { method.as_str().to_ascii_lowercase() };
        Attributes::on(
            verb,
            Resource {
                group: self.review.group.to_owned(),
                resource: resource.to_owned(),
                subresource: subresource.to_owned(),
                namespace: self.namespace.to_owned(),
                name: self.name.to_owned(),
            },
        )
    }

    /// Whether the answer gives something to have: a record of it is kept.
    pub fn gives(&self) -> bool {
        self.review.about == About::NewToken
    }

    /// The answer. Who asks is known unless it is the control plane itself.
    pub async fn answer(
        &self,
        api: &Inner,
        user: Option<&Arc<User>>,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response<Body>> {
        negotiate(headers, "")?;
        let mut asked = read(headers, body)?;
        let version = format!("{}/v1", self.review.of);
        for (field, wanted) in [("apiVersion", version.as_str()), ("kind", self.review.kind)] {
            match asked[field].as_str().unwrap_or_default() {
                said if said.is_empty() || said == wanted => {}
                said => {
                    let why = format!("{field} in the data ({said}) does not match the expected one ({wanted})");
                    return Err(Failure::bad_request(why));
                }
            }
        }
        // A new token's fields are named one by one where they are read.
        if self.review.about != About::NewToken
            && let Some(schema) = self.review.spec()
            && !asked["spec"].is_null()
            && let Some(cause) = Walk::over(&schema, &mut asked["spec"], "spec").causes().first()
        {
            return Err(Failure::bad_request(format!("{}: {}", cause.field, cause.message)));
        }
        let own = Arc::new(User::new(super::CONTROL, [MASTERS.to_owned()]));
        let user = user.unwrap_or(&own);
        let mut metadata = json!({});
        let (spec, status) = match self.review.about {
            About::Me => {
                metadata["creationTimestamp"] = object::timestamp(time::OffsetDateTime::now_utc()).into();
                (Value::Null, json!({ "userInfo": shown(user) }))
            }
            About::MyAccess => {
                let status = decide(api, user, &asked["spec"], None)?;
                (asked["spec"].take(), status)
            }
            About::Access => {
                let subject = subject(&asked["spec"])?;
                let status = decide(api, &subject, &asked["spec"], Some(self.namespace).filter(|n| !n.is_empty()))?;
                (asked["spec"].take(), status)
            }
            About::MyRules => {
                let namespace = asked["spec"]["namespace"].as_str().unwrap_or_default().to_owned();
                if namespace.is_empty() {
                    return Err(Failure::bad_request("no namespace on request"));
                }
                (json!({}), rules(api, user, &namespace))
            }
            About::Token => {
                let status = token(api, &asked["spec"]).await?;
                (asked["spec"].take(), status)
            }
            About::NewToken => {
                let accounts = api.accounts.get().ok_or_else(Failure::no_such_path)?;
                metadata = json!({ "name": self.name, "namespace": self.namespace,
                    "creationTimestamp": object::timestamp(time::OffsetDateTime::now_utc()) });
                let place = (self.namespace, self.name);
                accounts.request(&*api.store, place, &asked, SystemTime::now()).await?
            }
        };
        let mut answer =
            json!({ "kind": self.review.kind, "apiVersion": version, "metadata": metadata, "status": status });
        if !spec.is_null() {
            answer["spec"] = spec;
        }
        Ok(json_response(StatusCode::CREATED, &answer))
    }
}

fn read(headers: &HeaderMap, body: &Bytes) -> Result<Value> {
    let content = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let asked = match content.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "" | "application/json" => json::parse(body)?.0,
        "application/yaml" => json::parse_yaml(body)?,
        PROTOBUF => protobuf::parse(body)?,
        _ => return Err(Failure::unsupported_media_type(&["application/json", "application/yaml"])),
    };
    if asked.is_object() { Ok(asked) } else { Err(Failure::bad_request("the body of the request must be an object")) }
}

/// A user as `UserInfo`.
fn shown(user: &User) -> Value {
    let mut info = json!({ "username": user.name, "groups": user.groups });
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// Whom a `SubjectAccessReview` is about. Groups are those that it names, and no others.
fn subject(spec: &Value) -> Result<User> {
    let name = spec["user"].as_str().unwrap_or_default().to_owned();
    let groups: Vec<String> =
        spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    if name.is_empty() && groups.is_empty() {
        return Err(Failure::bad_request("spec.user: at least one of user or group must be specified"));
    }
    Ok(User { name, groups, ..User::default() })
}

fn decide(api: &Inner, user: &User, spec: &Value, only: Option<&str>) -> Result<Value> {
    let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_default().to_owned();
    let asked = match (&spec["resourceAttributes"], &spec["nonResourceAttributes"]) {
        (Value::Object(_), Value::Null) => {
            let of = &spec["resourceAttributes"];
            let namespace = text(of, "namespace");
            if only.is_some_and(|only| only != namespace) {
                return Err(Failure::bad_request("spec.resourceAttributes.namespace must match metadata.namespace"));
            }
            Attributes::on(
                text(of, "verb"),
                Resource {
                    group: text(of, "group"),
                    resource: text(of, "resource"),
                    subresource: text(of, "subresource"),
                    namespace,
                    name: text(of, "name"),
                },
            )
        }
        (Value::Null, of @ Value::Object(_)) if only.is_none() => Attributes::path(text(of, "verb"), text(of, "path")),
        _ => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            return Err(Failure::bad_request(why));
        }
    };
    Ok(match api.rights.now().allows(user, &asked) {
        Some(reason) if reason.is_empty() => json!({ "allowed": true }),
        Some(reason) => json!({ "allowed": true, "reason": reason }),
        None => json!({ "allowed": false }),
    })
}

fn rules(api: &Inner, user: &User, namespace: &str) -> Value {
    let rules = api.rights.now().rules(user, namespace);
    let (paths, resources): (Vec<_>, Vec<_>) = rules.into_iter().partition(|rule| !rule.non_resource_urls.is_empty());
    json!({ "resourceRules": resources, "nonResourceRules": paths, "incomplete": false })
}

/// The status of a `TokenReview`. A token that is no good is an answer, not an error.
async fn token(api: &Inner, spec: &Value) -> Result<Value> {
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(Failure::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let accounts = api.accounts.get().ok_or_else(Failure::no_such_path)?;
    Ok(match accounts.authenticate(&*api.store, token, &audiences, SystemTime::now()).await? {
        Ok(known) => json!({ "authenticated": true, "user": shown(&known.user), "audiences": known.audiences }),
        Err(reason) => json!({ "authenticated": false, "user": {}, "error": reason }),
    })
}
