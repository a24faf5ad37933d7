//! What routes and policies say of themselves: the control plane counts, what is wrong with each is in its status.

use super::Category;
use crate::apply::conditions::{self, Fate};
use crate::client::kinds::Kinds;
use crate::client::{Client, Error};
use crate::failure::Failure;
use serde_json::Value;

/// The fact.
const NAME: &str = "every route and policy is in force";

/// Reads every object that has a fate.
pub async fn look(client: &Client, found: &mut Category) -> Result<(), Failure> {
    let kinds = Kinds::discover(client).await?;
    let (mut objects, mut hidden) = (Vec::new(), Vec::new());
    for kind in kinds.preferred().filter(|kind| conditions::has_fate(&kind.group, &kind.kind)) {
        match client.read::<Value>(&kind.collection(None)).await {
            Ok(list) => {
                let items = list.get("items").and_then(Value::as_array).into_iter().flatten();
                objects.extend(items.map(|object| (kind.singular.clone(), object.clone())));
            }
            Err(Error::Refused(refusal)) if refusal.code == 403 => hidden.push(kind.plural.clone()),
            Err(error) => return Err(error.into_failure(&format!("list {}", kind.plural))),
        }
    }
    judge(&objects, &hidden, found);
    Ok(())
}

fn judge(objects: &[(String, Value)], hidden: &[String], found: &mut Category) {
    let (mut refused, mut pending) = (Vec::new(), Vec::new());
    for (kind, object) in objects {
        let at = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let name = format!("{kind} {}/{}", at("/metadata/namespace"), at("/metadata/name"));
        match conditions::fate(object) {
            // What is rolled out is on its way, and ends by itself.
            Fate::InForce(_) | Fate::RollingOut(_) => {}
            Fate::Pending(message) => pending.push(format!("{name}: {message}")),
            Fate::Refused(reason) => refused.push(format!("{name}: {reason}")),
        }
    }
    let hint = "see one with: weft describe KIND NAME -n NAMESPACE";
    if !refused.is_empty() {
        refused.append(&mut pending);
        found.error(NAME, refused.join("; "), hint);
    } else if !pending.is_empty() {
        found.warning(NAME, pending.join("; "), hint);
    } else if objects.is_empty() && !hidden.is_empty() {
        found.skipped(NAME, format!("this role may not list {}", hidden.join(", ")));
    } else {
        found.good(NAME, format!("{} of {0}", objects.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_refused_is_an_error_and_what_is_on_its_way_a_warning() {
        let object = |status: &str, reason: &str| {
            let condition = json!({ "type": "Accepted", "status": status, "reason": reason, "message": "m" });
            let metadata = json!({ "namespace": "shop", "name": "x" });
            ("meshtls".to_owned(), json!({ "metadata": metadata, "status": { "conditions": [condition] } }))
        };
        let unseen = ("meshtls".to_owned(), json!({ "metadata": { "namespace": "shop", "name": "y" } }));
        let judged = |objects: &[(String, Value)], hidden: &[String]| {
            let mut found = Category::new("policies");
            judge(objects, hidden, &mut found);
            (found.facts[0].result, found.facts[0].detail.clone())
        };
        assert_eq!(judged(&[object("True", "Accepted")], &[]), (Outcome::Ok, "1 of 1".into()));
        let pending = judged(&[object("True", "Accepted"), unseen.clone()], &[]);
        assert_eq!(pending, (Outcome::Warning, "meshtls shop/y: no status yet".into()));
        let refused = judged(&[unseen, object("False", "Invalid")], &[]);
        assert!(refused.0 == Outcome::Error && refused.1.starts_with("meshtls shop/x: Accepted=False (Invalid): m; "));
        assert_eq!(judged(&[], &["meshtlses".into()]).0, Outcome::Skipped);
    }
}
