//! What the Gateway API asks of its routes beyond the types of the `gateway-api` crate: defaults, bounds, alphabets of names, and which
//! entries of a list must differ.
//!
//! The crate's types carry the shape, the enumerations and what is required; their derived schemas carry nothing else. This is the rest,
//! written down from the specification (<https://gateway-api.sigs.k8s.io/reference/spec/>). Where version 0.22 of the crate and the
//! specification differ, the crate's shape is served: it has `sessionPersistence.idleTimeout`, which v1.6 no longer has. Weft's own kinds
//! borrow the matches of an HTTPRoute, and get them from here too. What several fields mean together is judged in `check::gateway`, not
//! here.

use serde_json::{Value, json};

use super::{GATEWAY_GROUP, duration};

const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const WILD_SUBDOMAIN: &str = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A subdomain, or nothing for the core group.
const API_GROUP: &str = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$";
const API_KIND: &str = "^[A-Za-z]([-A-Za-z0-9]*[A-Za-z0-9])?$";
/// RFC 9110 token.
const TOKEN: &str = "^[-A-Za-z0-9!#$%&'*+.^_`|~]+$";
/// RFC 9110 field value of visible ASCII: words with one space or tab between them.
const FIELD_VALUE: &str = r"^[!-~]+([ \t][!-~]+)*$";
/// Slashes and RFC 3986 `pchar`.
const PATH: &str = "^([-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+$";
/// `*`, or `http://` or `https://`, a host whose first label may be `*`, and perhaps a port.
const ORIGIN: &str = r"^(\*|https?://(\*|(\*\.)?[-A-Za-z0-9]+(\.[-A-Za-z0-9]+)*)(:[0-9]{1,5})?)$";
/// A subdomain, a slash, and a path.
const CONTROLLER: &str =
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[-A-Za-z0-9/._~%!$&'()*+,;=:]+$";
const CONDITION_TYPE: &str =
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$";
const CONDITION_REASON: &str = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$";

/// Pointers into the schema of a kind of route, and what is merged there.
pub type Additions = Vec<(String, Value)>;

/// What HTTPRoute's derived schema lacks.
pub fn http_route() -> Additions {
    let everything = json!({ "path": { "type": "PathPrefix", "value": "/" } });
    let mut fields = Fields::default();
    fields.calls();
    fields.add("spec.rules", json!({ "minItems": 1, "default": [{ "matches": [everything] }] }));
    let rule = "spec.rules[]";
    fields.add(format!("{rule}.matches"), json!({ "default": [everything] }));

    fields.http_match(&format!("{rule}.matches[]"));

    fields.duration(&format!("{rule}.retry.backoff"));
    fields.add(format!("{rule}.retry.attempts"), json!({ "minimum": 1 }));
    fields.add(format!("{rule}.retry.codes"), json!({ "x-kubernetes-list-type": "set" }));
    fields.add(format!("{rule}.retry.codes[]"), json!({ "minimum": 400, "maximum": 599 }));
    fields.duration(&format!("{rule}.timeouts.request"));
    fields.duration(&format!("{rule}.timeouts.backendRequest"));

    for filter in [format!("{rule}.filters[]"), format!("{rule}.backendRefs[].filters[]")] {
        fields.common_filters(&filter);
        fields.rewriting_filters(&filter);
        fields.cors(&format!("{filter}.cors"));
        fields.external_auth(&format!("{filter}.externalAuth"));
    }
    fields.0
}

/// What GRPCRoute's derived schema lacks.
pub fn grpc_route() -> Additions {
    let mut fields = Fields::default();
    fields.calls();
    let matched = "spec.rules[].matches[]";
    fields.add(format!("{matched}.method.type"), json!({ "default": "Exact" }));
    fields.add(format!("{matched}.method.service"), json!({ "maxLength": 1024 }));
    fields.add(format!("{matched}.method.method"), json!({ "maxLength": 1024 }));
    fields.named(&format!("{matched}.headers"), 4096);
    fields.add(format!("{matched}.headers[].type"), json!({ "default": "Exact" }));
    for filter in ["spec.rules[].filters[]", "spec.rules[].backendRefs[].filters[]"] {
        fields.common_filters(filter);
    }
    fields.0
}

/// What TCPRoute's derived schema lacks.
pub fn tcp_route() -> Additions {
    let mut fields = Fields::default();
    fields.connections();
    fields.0
}

/// What TLSRoute's derived schema lacks.
pub fn tls_route() -> Additions {
    let mut fields = Fields::default();
    fields.connections();
    fields.list("spec.hostnames", 1024);
    fields.add("spec.hostnames", json!({ "minItems": 1 }));
    fields.add("spec.hostnames[]", name(WILD_SUBDOMAIN));
    fields.0
}

/// What a kind of Weft's own that borrows the matches of an HTTPRoute lacks; `lists` are where they stand.
pub fn borrowed(lists: &[&str]) -> Additions {
    let mut fields = Fields::default();
    for list in lists {
        fields.add(list, json!({ "x-kubernetes-list-type": "atomic" }));
        fields.http_match(&format!("{list}[]"));
    }
    fields.0
}

/// Collects additions by the field's path, `spec.rules[].name`.
#[derive(Default)]
struct Fields(Additions);

impl Fields {
    fn add(&mut self, field: impl AsRef<str>, addition: Value) {
        self.0.push((pointer(field.as_ref()), addition));
    }

    /// A list that is replaced as a whole.
    fn list(&mut self, field: &str, most: u32) {
        self.add(field, json!({ "x-kubernetes-list-type": "atomic", "maxItems": most }));
    }

    /// A list of texts that all differ.
    fn set(&mut self, field: &str, most: u32, of: Value) {
        self.add(field, json!({ "x-kubernetes-list-type": "set", "maxItems": most }));
        self.add(format!("{field}[]"), of);
    }

    /// At most sixteen names, each once, with a value of at most so many characters.
    fn named(&mut self, field: &str, longest: u32) {
        self.add(
            field,
            json!({ "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "maxItems": 16 }),
        );
        self.add(format!("{field}[].name"), token());
        self.add(format!("{field}[].value"), json!({ "minLength": 1, "maxLength": longest }));
    }

    fn duration(&mut self, field: &str) {
        self.add(field, json!({ "pattern": duration::PATTERN }));
    }

    fn port(&mut self, field: &str) {
        self.add(field, json!({ "minimum": 1, "maximum": 65_535 }));
    }

    /// Group, kind and name of any object; the defaults are those of the field that refers.
    fn object(&mut self, field: &str, default: Option<(&str, &str)>) {
        self.add(format!("{field}.group"), json!({ "maxLength": 253, "pattern": API_GROUP }));
        self.add(format!("{field}.kind"), json!({ "minLength": 1, "maxLength": 63, "pattern": API_KIND }));
        self.add(format!("{field}.name"), json!({ "minLength": 1, "maxLength": 253 }));
        if let Some((group, kind)) = default {
            self.add(format!("{field}.group"), json!({ "default": group }));
            self.add(format!("{field}.kind"), json!({ "default": kind }));
        }
    }

    /// An object that may be in another namespace, and a port of it.
    fn reference(&mut self, field: &str, group: &str, kind: &str) {
        self.object(field, Some((group, kind)));
        self.add(format!("{field}.namespace"), json!({ "minLength": 1, "maxLength": 63, "pattern": LABEL }));
        self.port(&format!("{field}.port"));
    }

    fn parent(&mut self, field: &str) {
        self.reference(field, GATEWAY_GROUP, "Gateway");
        self.add(format!("{field}.sectionName"), name(SUBDOMAIN));
    }

    fn http_match(&mut self, matched: &str) {
        self.add(format!("{matched}.path"), json!({ "default": { "type": "PathPrefix", "value": "/" } }));
        self.add(format!("{matched}.path.type"), json!({ "default": "PathPrefix" }));
        self.add(format!("{matched}.path.value"), json!({ "default": "/", "maxLength": 1024 }));
        self.named(&format!("{matched}.headers"), 4096);
        self.add(format!("{matched}.headers[].type"), json!({ "default": "Exact" }));
        self.add(format!("{matched}.headers[].value"), json!({ "pattern": FIELD_VALUE }));
        self.named(&format!("{matched}.queryParams"), 1024);
        self.add(format!("{matched}.queryParams[].type"), json!({ "default": "Exact" }));
    }

    /// What the routes of connections have in common: one rule, which matches them all.
    fn connections(&mut self) {
        self.route();
        self.list("spec.rules", 1);
        self.add("spec.rules", json!({ "minItems": 1 }));
        self.add("spec.rules[].backendRefs", json!({ "minItems": 1 }));
    }

    /// What the routes of calls have in common.
    fn calls(&mut self) {
        self.route();
        self.list("spec.hostnames", 16);
        self.add("spec.hostnames[]", name(WILD_SUBDOMAIN));
        self.list("spec.rules", 16);
        self.list("spec.rules[].matches", 64);
        self.list("spec.rules[].filters", 16);
        self.list("spec.rules[].backendRefs[].filters", 16);

        let session = "spec.rules[].sessionPersistence";
        self.duration(&format!("{session}.absoluteTimeout"));
        self.duration(&format!("{session}.idleTimeout"));
        self.add(format!("{session}.sessionName"), json!({ "maxLength": 128 }));
        self.add(format!("{session}.type"), json!({ "default": "Cookie" }));
        self.add(format!("{session}.cookieConfig.lifetimeType"), json!({ "default": "Session" }));
    }

    /// What all kinds of route have in common.
    fn route(&mut self) {
        self.list("spec.parentRefs", 32);
        self.parent("spec.parentRefs[]");
        self.add("spec.rules[].name", name(SUBDOMAIN));
        self.list("spec.rules[].backendRefs", 16);
        self.reference("spec.rules[].backendRefs[]", "", "Service");
        self.add("spec.rules[].backendRefs[].weight", json!({ "default": 1, "minimum": 0, "maximum": 1_000_000 }));

        self.list("status.parents", 32);
        self.parent("status.parents[].parentRef");
        self.add("status.parents[].controllerName", name(CONTROLLER));
        let conditions = "status.parents[].conditions";
        self.add(
            conditions,
            json!({ "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"], "minItems": 1, "maxItems": 8 }),
        );
        self.add(format!("{conditions}[].type"), json!({ "maxLength": 316, "pattern": CONDITION_TYPE }));
        self.add(format!("{conditions}[].status"), json!({ "enum": ["True", "False", "Unknown"] }));
        self.add(
            format!("{conditions}[].reason"),
            json!({ "minLength": 1, "maxLength": 1024, "pattern": CONDITION_REASON }),
        );
        self.add(format!("{conditions}[].message"), json!({ "maxLength": 32_768 }));
        self.add(format!("{conditions}[].observedGeneration"), json!({ "minimum": 0 }));
    }

    /// The filters that both kinds of route know.
    fn common_filters(&mut self, filter: &str) {
        for modifier in ["requestHeaderModifier", "responseHeaderModifier"] {
            for list in ["set", "add"] {
                self.named(&format!("{filter}.{modifier}.{list}"), 4096);
                self.add(format!("{filter}.{modifier}.{list}[].value"), json!({ "pattern": FIELD_VALUE }));
            }
            // What the names may be is judged in `check::gateway`.
            self.set(&format!("{filter}.{modifier}.remove"), 16, json!({}));
        }
        let mirror = format!("{filter}.requestMirror");
        self.reference(&format!("{mirror}.backendRef"), "", "Service");
        self.add(format!("{mirror}.percent"), json!({ "minimum": 0, "maximum": 100 }));
        self.add(format!("{mirror}.fraction.numerator"), json!({ "minimum": 0 }));
        self.add(format!("{mirror}.fraction.denominator"), json!({ "default": 100, "minimum": 1 }));
        self.object(&format!("{filter}.extensionRef"), None);
    }

    fn rewriting_filters(&mut self, filter: &str) {
        for rewriting in ["requestRedirect", "urlRewrite"] {
            let field = format!("{filter}.{rewriting}");
            self.add(format!("{field}.hostname"), name(SUBDOMAIN));
            self.add(format!("{field}.path.replaceFullPath"), json!({ "maxLength": 1024 }));
            self.add(format!("{field}.path.replacePrefixMatch"), json!({ "maxLength": 1024 }));
        }
        let redirect = format!("{filter}.requestRedirect");
        self.port(&format!("{redirect}.port"));
        // The crate has a type for these that its field does not use.
        self.add(format!("{redirect}.statusCode"), json!({ "default": 302, "enum": [301, 302, 303, 307, 308] }));
    }

    fn cors(&mut self, cors: &str) {
        let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"];
        self.set(&format!("{cors}.allowOrigins"), 64, json!({ "minLength": 1, "maxLength": 253, "pattern": ORIGIN }));
        self.set(&format!("{cors}.allowMethods"), 9, json!({ "enum": methods }));
        self.set(&format!("{cors}.allowHeaders"), 64, token());
        self.set(&format!("{cors}.exposeHeaders"), 64, token());
        self.add(format!("{cors}.maxAge"), json!({ "default": 5, "minimum": 1 }));
    }

    fn external_auth(&mut self, auth: &str) {
        self.reference(&format!("{auth}.backendRef"), "", "Service");
        for list in ["grpc.allowedHeaders", "http.allowedHeaders", "http.allowedResponseHeaders"] {
            self.set(&format!("{auth}.{list}"), 64, json!({}));
        }
        self.add(format!("{auth}.http.path"), json!({ "maxLength": 1024, "pattern": PATH }));
        self.add(format!("{auth}.forwardBody.maxSize"), json!({ "minimum": 0 }));
    }
}

/// A text of one to 253 characters.
fn name(pattern: &str) -> Value {
    json!({ "minLength": 1, "maxLength": 253, "pattern": pattern })
}

fn token() -> Value {
    json!({ "minLength": 1, "maxLength": 256, "pattern": TOKEN })
}

/// `spec.rules[].name` as a JSON pointer into a schema.
pub(super) fn pointer(field: &str) -> String {
    let steps = field.split('.').map(|step| match step.strip_suffix("[]") {
        Some(list) => format!("/properties/{list}/items"),
        None => format!("/properties/{step}"),
    });
    steps.collect()
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt;

    use super::*;
    use crate::kinds::{
        GrpcRoute, HttpRoute, RateLimitPolicy, TcpRoute, TlsRoute, TrafficPolicy, find_kind, structural,
    };

    #[test]
    fn every_field_that_is_added_to_is_one_of_the_types() {
        let kinds = [
            (HttpRoute::crd(), http_route()),
            (GrpcRoute::crd(), grpc_route()),
            (TcpRoute::crd(), tcp_route()),
            (TlsRoute::crd(), tls_route()),
            (TrafficPolicy::crd(), borrowed(&["spec.faults[].matches"])),
            (RateLimitPolicy::crd(), borrowed(&["spec.limits[].matches"])),
        ];
        for (crd, additions) in kinds {
            let schema = structural::derived(&crd);
            for (pointer, _) in additions {
                assert!(schema.pointer(&pointer).is_some_and(Value::is_object), "{}: {pointer}", crd.spec.names.kind);
            }
        }
    }

    #[test]
    fn every_list_and_every_number_of_a_route_has_its_bounds() {
        // Each is one of 200 codes, and no two are the same.
        const UNBOUNDED: &str = "retry/codes";
        fn walk(schema: &Value, path: &str) {
            let bounded = |keyword: &str| schema.get(keyword).is_some();
            let excused = path.ends_with(UNBOUNDED);
            match schema["type"].as_str() {
                Some("array") => {
                    assert!(excused || bounded("maxItems"), "{path}");
                    assert!(bounded("x-kubernetes-list-type"), "{path}");
                    walk(&schema["items"], path);
                }
                Some("integer") => assert!(bounded("minimum") || bounded("enum"), "{path}"),
                _ => {}
            }
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                walk(schema, &format!("{path}/{name}"));
            }
        }
        for kind in ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"] {
            walk(&find_kind("gateway.networking.k8s.io/v1", kind).unwrap().schema, kind);
        }
    }

    #[test]
    fn enumerations_come_from_the_types() {
        let schema = &find_kind("gateway.networking.k8s.io/v1", "HTTPRoute").unwrap().schema;
        let known = |field: &str| schema.pointer(&pointer(field)).unwrap()["enum"].clone();
        assert_eq!(known("spec.rules[].matches[].path.type"), json!(["Exact", "PathPrefix", "RegularExpression"]));
        assert_eq!(known("spec.rules[].matches[].headers[].type"), json!(["Exact", "RegularExpression"]));
        assert_eq!(known("spec.rules[].matches[].method").as_array().unwrap().len(), 9);
        assert_eq!(known("spec.rules[].filters[].type").as_array().unwrap().len(), 8);
        assert_eq!(known("spec.rules[].filters[].requestRedirect.scheme"), json!(["http", "https"]));
    }

    #[test]
    fn alphabets_take_what_they_should_and_no_more() {
        let samples: [(&str, &[&str], &[&str]); 8] = [
            (WILD_SUBDOMAIN, &["shop", "*.shop.test"], &["*", "a.*.test", "Shop", "a..b", "-a"]),
            (API_GROUP, &["", "weft.mesh"], &["Weft", "a/b", "."]),
            (API_KIND, &["Service", "a-1"], &["", "1a", "a-", "a.b"]),
            (TOKEN, &["x-user", "a`b|c~"], &["", "a b", "a:b", "a/b"]),
            (FIELD_VALUE, &["a", "a b\tc"], &["", " a", "a ", "a  b", "a\nb", "\u{e9}"]),
            (PATH, &["/a/b", "/%2A"], &["", "/a?b", "/%2", "/a b"]),
            (
                ORIGIN,
                &["*", "https://*.shop.test:8443", "http://shop"],
                &["shop", "ftp://shop", "http://shop/", "http://"],
            ),
            (CONTROLLER, &["weft.mesh/control"], &["weft.mesh", "/control", "weft.mesh/"]),
        ];
        for (pattern, taken, refused) in samples {
            let regex = regex::Regex::new(pattern).unwrap();
            taken.iter().for_each(|text| assert!(regex.is_match(text), "{text:?} {pattern}"));
            refused.iter().for_each(|text| assert!(!regex.is_match(text), "{text:?} {pattern}"));
        }
    }

    #[test]
    fn a_description_is_one_sentence() {
        let schema = &find_kind("gateway.networking.k8s.io/v1", "HTTPRoute").unwrap().schema;
        let field = schema.pointer(&pointer("spec.rules[].matches")).unwrap();
        let text = field["description"].as_str().unwrap();
        assert!(text.starts_with("Matches define") && text.ends_with('.') && !text.contains('\n'), "{text}");
    }
}
