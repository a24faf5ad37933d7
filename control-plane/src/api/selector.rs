//! Label and field selectors of lists and watches.

use std::borrow::Cow;

use serde_json::Value;

use super::failure::{Failure, Result};
use crate::kinds::{
    Kind,
    check::{is_label_key, is_label_value},
};

/// Which objects of a list are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Field>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    Absent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    pointer: &'static str,
    equal: bool,
    value: String,
}

/// Fields that can be selected by, with their JSON pointers: of every kind, and of those of which Kubernetes knows more.
fn field(kind: &Kind, name: &str) -> Option<&'static str> {
    Some(match (kind.group, kind.plural, name) {
        (_, _, "metadata.name") => "/metadata/name",
        (_, _, "metadata.namespace") => "/metadata/namespace",
        ("", "events", "involvedObject.kind") => "/involvedObject/kind",
        ("", "events", "involvedObject.namespace") => "/involvedObject/namespace",
        ("", "events", "involvedObject.name") => "/involvedObject/name",
        ("", "events", "involvedObject.uid") => "/involvedObject/uid",
        ("", "events", "involvedObject.apiVersion") => "/involvedObject/apiVersion",
        ("", "events", "involvedObject.resourceVersion") => "/involvedObject/resourceVersion",
        ("", "events", "involvedObject.fieldPath") => "/involvedObject/fieldPath",
        ("", "events", "reason") => "/reason",
        ("", "events", "reportingComponent") => "/reportingComponent",
        ("", "events", "source") => "/source/component",
        ("", "events" | "secrets", "type") => "/type",
        ("", "services", "spec.clusterIP") => "/spec/clusterIP",
        ("", "services", "spec.type") => "/spec/type",
        ("", "namespaces", "status.phase") => "/status/phase",
        _ => return None,
    })
}

impl Selector {
    pub fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self> {
        let mut selector = Self::default();
        for part in split(labels) {
            let requirement = requirement(part);
            let bad = || {
                Failure::bad_request(format!("unable to parse requirement {part:?} of the label selector {labels:?}"))
            };
            selector.labels.push(requirement.ok_or_else(bad)?);
        }
        for part in fields.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (name, equal, value) = comparison(part).ok_or_else(|| {
                Failure::bad_request(format!("invalid field selector {fields:?}: {part:?} is no comparison"))
            })?;
            let Some(pointer) = field(kind, name) else {
                return Err(Failure::bad_request(format!("field label not supported: {name}")));
            };
            selector.fields.push(Field { pointer, equal, value: value.to_owned() });
        }
        Ok(selector)
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether the object is meant.
    pub fn matches(&self, object: &Value) -> bool {
        self.labels.iter().all(|r| r.holds(&object["metadata"]["labels"]))
            && self.fields.iter().all(|f| {
                let found = object.pointer(f.pointer).and_then(Value::as_str).unwrap_or_default();
                (found == f.value) == f.equal
            })
    }
}

impl Requirement {
    fn holds(&self, labels: &Value) -> bool {
        let value = labels.get(&self.key).and_then(Value::as_str);
        let listed = value.is_some_and(|v| self.values.iter().any(|w| w == v));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::Absent => value.is_none(),
        }
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0usize;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|p| !p.is_empty())
}

fn comparison(text: &str) -> Option<(&str, bool, &str)> {
    for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((name, value)) = text.split_once(operator) {
            return Some((name.trim(), equal, value.trim()));
        }
    }
    None
}

fn requirement(text: &str) -> Option<Requirement> {
    let make = |key: &str, operator, values: Vec<Cow<'_, str>>| {
        let fits = is_label_key(key) && values.iter().all(|v| is_label_value(v));
        fits.then(|| Requirement {
            key: key.to_owned(),
            operator,
            values: values.into_iter().map(Cow::into_owned).collect(),
        })
    };
    if let Some((head, list)) = text.split_once('(') {
        let list = list.strip_suffix(')')?;
        let values = list.split(',').map(|v| Cow::Borrowed(v.trim())).collect();
        let mut words = head.split_whitespace();
        return match (words.next()?, words.next()?, words.next()) {
            (key, "in", None) => make(key, Operator::In, values),
            (key, "notin", None) => make(key, Operator::NotIn, values),
            _ => None,
        };
    }
    if let Some((key, equal, value)) = comparison(text) {
        return make(key, if equal { Operator::In } else { Operator::NotIn }, vec![value.into()]);
    }
    match text.strip_prefix('!') {
        Some(key) => make(key.trim(), Operator::Absent, Vec::new()),
        None => make(text, Operator::Exists, Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use serde_json::json;

    fn parse(plural: &str, labels: &str, fields: &str) -> Result<Selector> {
        let kind = kinds::all().iter().find(|k| k.plural == plural).unwrap();
        Selector::parse(kind, labels, fields)
    }

    fn holds(selector: &str) -> bool {
        let object = json!({"metadata": {"name": "a", "labels": {"app": "cart", "tier": "web"}}});
        parse("services", selector, "").unwrap().matches(&object)
    }

    #[test]
    fn labels_select_as_kubernetes_has_it() {
        for yes in [
            "",
            "app",
            "app=cart",
            "app==cart, tier",
            "app in (x, cart)",
            "none!=x",
            "none notin (x)",
            "!none",
            "app in (cart),tier",
        ] {
            assert!(holds(yes), "{yes}");
        }
        for no in ["none", "app=x", "app!=cart", "app notin (cart,x)", "!app", "app=cart,tier=db", "app="] {
            assert!(!holds(no), "{no}");
        }
        for bad in ["app in x", "app in (x", "a b", "=x", "app=a b"] {
            assert!(parse("services", bad, "").is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_select_by_name_and_namespace() {
        let object = json!({"metadata": {"name": "a", "namespace": "shop"}});
        let holds = |fields| parse("services", "", fields).unwrap().matches(&object);
        assert!(holds("metadata.name=a,metadata.namespace=shop"));
        assert!(!holds("metadata.name!=a"));
        assert!(parse("workloads", "", "spec.type=x").is_err());
    }

    #[test]
    fn events_are_found_by_their_object() {
        let event = json!({"involvedObject": {"kind": "Service", "name": "cart", "uid": "u"}, "type": "Warning"});
        let holds = |fields| parse("events", "", fields).unwrap().matches(&event);
        assert!(holds("involvedObject.kind=Service,involvedObject.name=cart,involvedObject.uid=u,type!=Normal"));
        assert!(!holds("involvedObject.name=catalog"));
        assert!(parse("services", "", "involvedObject.name=cart").is_err());
    }
}
