//! What questions and answers look like: the schemas of `spec` and `status`, by which questions are judged and described.

use super::About;
use serde_json::{Map, Value, json};

fn object(properties: &Value) -> Value {
    json!({ "type": "object", "properties": properties })
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn texts(description: &str) -> Value {
    json!({ "type": "array", "description": description, "items": { "type": "string" } })
}

/// Of a user: what a certificate or a token says besides names and groups.
fn extra() -> Value {
    json!({ "type": "object", "description": "What else is known.",
        "additionalProperties": { "type": "array", "items": { "type": "string" } } })
}

fn user() -> Value {
    object(&json!({ "username": text("Name."), "uid": text("Of a service account."), "groups": texts("Groups."),
        "extra": extra() }))
}

/// Asks about an object, or about a path.
fn asks(more: Value) -> Value {
    let selector =
        json!({ "type": "object", "description": "Not looked at.", "x-kubernetes-preserve-unknown-fields": true });
    let mut properties = json!({
        "resourceAttributes": object(&json!({
            "namespace": text("Empty: of no namespace, or of all."), "verb": text("get, list, create…; *: all."),
            "group": text("Empty: the core group; *: all."), "version": text("Not looked at."),
            "resource": text("Plural of the kind; *: all."), "subresource": text("status, config…"),
            "name": text("Empty: any."), "fieldSelector": selector, "labelSelector": selector,
        })),
        "nonResourceAttributes": object(&json!({ "path": text("Path of the URL."), "verb": text("Method in lower case.") })),
    });
    if let (Some(all), Value::Object(more)) = (properties.as_object_mut(), more) {
        all.extend(more);
    }
    object(&properties)
}

/// The schema of `spec`; `None`: there is none.
pub(in crate::api) fn spec(about: About) -> Option<Value> {
    Some(match about {
        About::Me => return None,
        About::MyAccess => asks(json!({})),
        About::MyRules => object(&json!({ "namespace": text("In which roles are looked for.") })),
        About::Access => asks(json!({
            "user": text("Name of who is asked about."), "groups": texts("Groups of who is asked about."),
            "uid": text("Not looked at."), "extra": extra(),
        })),
        About::Token => object(&json!({
            "token": text("The token."), "audiences": texts("One of them must be meant; none: this API."),
        })),
        About::NewToken => object(&json!({
            "audiences": texts("Whom the token is for; none: this API."),
            "expirationSeconds": { "type": "integer", "format": "int64", "description": "600 to 172800; absent: 3600." },
            "boundObjectRef": { "type": "object", "nullable": true, "description": "Nothing: tokens are bound to no object.",
                "properties": { "kind": text("Kind."), "apiVersion": text("Version."), "name": text("Name."), "uid": text("UID.") } },
        })),
    })
}

/// The schema of `status`.
pub(in crate::api) fn status(about: About) -> Value {
    let flag = |description: &str| json!({ "type": "boolean", "description": description });
    let rules = |names: &[&str]| {
        let properties: Map<String, Value> =
            names.iter().map(|name| ((*name).to_owned(), texts("Names; *: all."))).collect();
        json!({ "type": "array", "items": object(&properties.into()) })
    };
    object(&match about {
        About::Me => json!({ "userInfo": user() }),
        About::MyAccess | About::Access => json!({
            "allowed": flag("Whether a role allows it."), "denied": flag("Never: no role forbids."),
            "reason": text("The binding that allows it."), "evaluationError": text("What could not be judged."),
        }),
        About::MyRules => json!({
            "resourceRules": rules(&["verbs", "apiGroups", "resources", "resourceNames"]),
            "nonResourceRules": rules(&["verbs", "nonResourceURLs"]),
            "incomplete": flag("Whether there may be more."), "evaluationError": text("What could not be judged."),
        }),
        About::Token => json!({
            "authenticated": flag("Whether the token is good."), "user": user(),
            "audiences": texts("Those asked for that are meant."), "error": text("Why it is not."),
        }),
        About::NewToken => json!({
            "token": text("The token."),
            "expirationTimestamp": { "type": "string", "format": "date-time", "description": "When it ends." },
        }),
    })
}
