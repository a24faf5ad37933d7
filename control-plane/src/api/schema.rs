//! Walking a document along its structural schema: unknown fields are dropped and named, defaults set, values judged.
//!
//! The rules are those of Kubernetes for custom resources. Meaning beyond the schema is judged in `kinds::check`.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::{failure::Problem, json::child};
use crate::kinds::check::{Cause, Findings};

/// What a walk found. The document has been changed: unknown fields and nulls are gone, defaults are there.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub unknown: Vec<Problem>,
    findings: Findings,
}

impl Walk {
    pub fn over(schema: &Value, document: &mut Value, path: &str) -> Self {
        let mut walk = Self::default();
        walk.value(schema, document, path);
        walk
    }

    pub fn causes(self) -> Vec<Cause> {
        self.findings.0
    }

    fn value(&mut self, schema: &Value, value: &mut Value, path: &str) {
        if schema["x-kubernetes-int-or-string"] == true {
            if !value.is_string() && !value.is_i64() && !value.is_u64() {
                self.findings.wrong_type(path, value, "integer or string");
            }
            return;
        }
        match (schema["type"].as_str(), &mut *value) {
            (Some("object"), Value::Object(map)) => self.object(schema, map, path),
            (Some("array"), Value::Array(list)) => self.array(schema, list, path),
            (Some("string"), Value::String(text)) => {
                let text = text.clone();
                self.string(schema, &text, value, path);
            }
            (Some("integer"), Value::Number(number)) if number.is_i64() || number.is_u64() => {
                self.number(schema, value, path)
            }
            (Some("number"), Value::Number(_)) => self.number(schema, value, path),
            (Some("boolean"), Value::Bool(_)) | (None, _) => {}
            (Some(wanted), _) => self.findings.wrong_type(path, value, wanted),
        }
        if let Some(known) = schema["enum"].as_array()
            && !known.contains(value)
        {
            let known: Vec<&str> = known.iter().filter_map(Value::as_str).collect();
            self.findings.unsupported(path, value, &known);
        }
    }

    fn object(&mut self, schema: &Value, map: &mut Map<String, Value>, path: &str) {
        let preserved = schema["x-kubernetes-preserve-unknown-fields"] == true;
        let properties = schema["properties"].as_object();
        let property = |key: &str| properties.and_then(|p| p.get(key));
        let additional = schema.get("additionalProperties").filter(|a| a.is_object() || **a == true);
        if !preserved {
            map.retain(|key, value| {
                let known = additional.is_some() || property(key).is_some();
                if !known {
                    self.unknown.push(Problem::Unknown(child(path, key)));
                }
                known && !value.is_null()
            });
        }
        for (key, schema) in properties.into_iter().flatten() {
            if let Some(default) = schema.get("default")
                && !map.contains_key(key)
            {
                map.insert(key.clone(), default.clone());
            }
        }
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !map.contains_key(key) {
                self.findings.required(child(path, key), "must be given");
            }
        }
        if let Some(most) = schema["maxProperties"].as_u64()
            && map.len() as u64 > most
        {
            self.findings.too_long(path, format_args!("Too many: {}: must have at most {most} items", map.len()));
        }
        if let Some(least) = schema["minProperties"].as_u64()
            && (map.len() as u64) < least
        {
            let count = Value::from(map.len());
            self.findings.invalid(path, &count, format_args!("should have at least {least} properties"));
        }
        for (key, value) in map {
            let schema = property(key).or(additional.filter(|a| a.is_object()));
            if let Some(schema) = schema {
                self.value(schema, value, &child(path, key));
            }
        }
    }

    fn array(&mut self, schema: &Value, list: &mut [Value], path: &str) {
        let count = list.len() as u64;
        if schema["maxItems"].as_u64().is_some_and(|most| count > most) {
            let most = &schema["maxItems"];
            self.findings.too_long(path, format_args!("Too many: {count}: must have at most {most} items"));
            // A list that is far too long is not worth a cause for each of its entries.
            return;
        }
        if let Some(least) = schema["minItems"].as_u64()
            && count < least
        {
            let count = Value::from(count);
            self.findings.invalid(path, &count, format_args!("should have at least {least} items"));
        }
        for (i, value) in list.iter_mut().enumerate() {
            self.value(&schema["items"], value, &format!("{path}[{i}]"));
        }
        let keys: Vec<&str> =
            schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let identity = |value: &Value| -> Option<String> {
            match schema["x-kubernetes-list-type"].as_str()? {
                "map" => Some(Value::Array(keys.iter().map(|k| value[k].clone()).collect()).to_string()),
                "set" => Some(value.to_string()),
                _ => None,
            }
        };
        let mut seen = std::collections::HashSet::new();
        for (i, value) in list.iter().enumerate() {
            if let Some(identity) = identity(value)
                && !seen.insert(identity)
            {
                let shown = keys.iter().map(|k| ((*k).to_owned(), value[k].clone())).collect::<Map<_, _>>();
                let shown = if keys.is_empty() { value.clone() } else { Value::Object(shown) };
                self.findings.duplicate(format!("{path}[{i}]"), &shown);
            }
        }
    }

    fn string(&mut self, schema: &Value, text: &str, value: &Value, path: &str) {
        let length = text.chars().count() as u64;
        if let Some(most) = schema["maxLength"].as_u64()
            && length > most
        {
            return self.findings.too_long(path, format_args!("Too long: may not be more than {most} characters"));
        }
        if let Some(least) = schema["minLength"].as_u64()
            && length < least
        {
            self.findings.invalid(path, value, format_args!("should be at least {least} chars long"));
        }
        if let Some(pattern) = schema["pattern"].as_str()
            && let Some(regex) = compiled(pattern)
            && !regex.is_match(text)
        {
            self.findings.invalid(path, value, format_args!("should match '{pattern}'"));
        }
        if schema["format"] == "date-time"
            && time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).is_err()
        {
            self.findings.invalid(path, value, "must be of type date-time (RFC 3339)");
        }
    }

    fn number(&mut self, schema: &Value, value: &Value, path: &str) {
        let Some(number) = value.as_f64() else { return };
        if let Some(least) = schema["minimum"].as_f64()
            && number < least
        {
            self.findings.invalid(path, value, format_args!("should be greater than or equal to {least}"));
        }
        if let Some(most) = schema["maximum"].as_f64()
            && number > most
        {
            self.findings.invalid(path, value, format_args!("should be less than or equal to {most}"));
        }
        if schema["format"] == "int32" && value.as_i64().is_none_or(|n| i32::try_from(n).is_err()) {
            self.findings.invalid(path, value, "must be a 32-bit integer");
        }
    }
}

/// Patterns come from our own schemas only, so the cache is bounded by them.
fn compiled(pattern: &str) -> Option<Arc<regex::Regex>> {
    static CACHE: LazyLock<Mutex<HashMap<String, Option<Arc<regex::Regex>>>>> = LazyLock::new(Mutex::default);
    let mut cache = CACHE.lock();
    if let Some(known) = cache.get(pattern) {
        return known.clone();
    }
    let regex = regex::Regex::new(pattern).map(Arc::new).ok();
    cache.insert(pattern.to_owned(), regex.clone());
    regex
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use serde_json::json;

    fn walk(kind: &str, document: &mut Value) -> Walk {
        let kind = kinds::all().iter().find(|k| k.kind == kind).unwrap();
        Walk::over(&kind.schema, document, "")
    }

    #[test]
    fn every_pattern_of_every_schema_compiles() {
        fn all(schema: &Value) {
            match schema {
                Value::Object(map) => {
                    if let Some(pattern) = map.get("pattern").and_then(Value::as_str) {
                        assert!(compiled(pattern).is_some(), "{pattern}");
                    }
                    for keyword in ["anyOf", "oneOf", "allOf", "not"] {
                        assert!(!map.get(keyword).is_some_and(|v| v.is_array()), "{keyword} is not judged: {schema}");
                    }
                    map.values().for_each(all);
                }
                Value::Array(list) => list.iter().for_each(all),
                _ => {}
            }
        }
        kinds::all().iter().for_each(|k| all(&k.schema));
    }

    #[test]
    fn defaults_are_set_where_gateway_api_sets_them() {
        let mut route = json!({"spec": {"parentRefs": [{"kind": "Service", "group": "", "name": "a"}], "rules": [{
            "backendRefs": [{"name": "b", "port": 80}]}]}});
        let found = walk("HTTPRoute", &mut route);
        assert!(found.unknown.is_empty() && found.causes().is_empty());
        let rule = &route["spec"]["rules"][0];
        assert_eq!(rule["matches"], json!([{"path": {"type": "PathPrefix", "value": "/"}}]));
        assert_eq!(rule["backendRefs"][0]["weight"], 1);
        assert_eq!(rule["backendRefs"][0]["kind"], "Service");
    }

    #[test]
    fn unknown_fields_are_dropped_and_named_with_their_path() {
        let mut policy = json!({"spec": {"targetRefs": [{"kind": "Service", "name": "a", "nam": 1}], "retries": {}}});
        let found = walk("TrafficPolicy", &mut policy);
        let mut unknown: Vec<String> = found.unknown.iter().map(ToString::to_string).collect();
        unknown.sort();
        assert_eq!(unknown, [r#"unknown field "spec.retries""#, r#"unknown field "spec.targetRefs[0].nam""#]);
        assert_eq!(policy["spec"], json!({"targetRefs": [{"kind": "Service", "name": "a"}]}));
    }

    #[test]
    fn wrong_values_are_named_with_their_path() {
        let mut policy = json!({"spec": {
            "targetRefs": [],
            "loadBalancer": {"policy": "Magic"},
            "connectionLimits": {"maxRequests": 0},
            "retry": {"attempts": "2", "codes": [500, 500, 42]},
            "timeouts": {"request": "10"}}});
        let fields: Vec<String> = walk("TrafficPolicy", &mut policy).causes().into_iter().map(|c| c.field).collect();
        for field in [
            "spec.targetRefs",
            "spec.loadBalancer.policy",
            "spec.connectionLimits.maxRequests",
            "spec.retry.attempts",
            "spec.retry.codes[1]",
            "spec.retry.codes[2]",
            "spec.timeouts.request",
        ] {
            assert!(fields.iter().any(|f| f == field), "{field} in {fields:?}");
        }
        assert_eq!(fields.len(), 7, "{fields:?}");
    }

    #[test]
    fn a_port_outside_its_range_is_refused_in_built_in_kinds_too() {
        let mut service = json!({"spec": {"ports": [{"port": 70000}, {"port": 1, "protocol": "TCPX"}]}});
        let causes = walk("Service", &mut service).causes();
        assert_eq!(causes.len(), 2, "{causes:?}");
        assert_eq!(service["spec"]["ports"][0]["protocol"], "TCP");
        assert_eq!(service["spec"]["type"], "ClusterIP");
    }
}
