//! Bodies that typed clients send: `kubectl create role`, `create token` and `auth can-i` write protobuf and no JSON. Read into the same document
//! as JSON would give, for the kinds of Kubernetes itself that such commands make; answers are JSON, which these clients take as well.
//!
//! Numbers of fields are those of Kubernetes' published `generated.proto` files. Fields that this API does not use are passed over.

use serde_json::{Map, Value, json};

use super::failure::{Failure, Result};

/// The content type.
pub(super) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// What such a body begins with.
const MAGIC: &[u8] = b"k8s\0";

type Fields = &'static [(u64, &'static str, Of)];

/// What a field holds.
#[derive(Clone, Copy)]
enum Of {
    Text,
    Texts,
    Int,
    Bool,
    /// Texts by text.
    Map,
    Part(Fields),
    Parts(Fields),
}

use Of::{Bool, Int, Map as Texted, Part, Parts, Text, Texts};

const UNKNOWN: Fields = &[(1, "typeMeta", Part(&[(1, "apiVersion", Text), (2, "kind", Text)]))];
const METADATA: Of = Part(&[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (11, "labels", Texted),
    (12, "annotations", Texted),
    (14, "finalizers", Texts),
]);
const RULES: Of = Parts(&[
    (1, "verbs", Texts),
    (2, "apiGroups", Texts),
    (3, "resources", Texts),
    (4, "resourceNames", Texts),
    (5, "nonResourceURLs", Texts),
]);
const EXPRESSIONS: Of = Parts(&[(1, "key", Text), (2, "operator", Text), (3, "values", Texts)]);
const SELECTORS: Of = Parts(&[(1, "matchLabels", Texted), (2, "matchExpressions", EXPRESSIONS)]);
const BINDING: Fields = &[
    (1, "metadata", METADATA),
    (2, "subjects", Parts(&[(1, "kind", Text), (2, "apiGroup", Text), (3, "name", Text), (4, "namespace", Text)])),
    (3, "roleRef", Part(&[(1, "apiGroup", Text), (2, "kind", Text), (3, "name", Text)])),
];
const RESOURCE: Of = Part(&[
    (1, "namespace", Text),
    (2, "verb", Text),
    (3, "group", Text),
    (4, "version", Text),
    (5, "resource", Text),
    (6, "subresource", Text),
    (7, "name", Text),
]);
const PATH: Of = Part(&[(1, "path", Text), (2, "verb", Text)]);
const ACCESS: Fields = &[
    (1, "metadata", METADATA),
    (
        2,
        "spec",
        Part(&[
            (1, "resourceAttributes", RESOURCE),
            (2, "nonResourceAttributes", PATH),
            (3, "user", Text),
            (4, "groups", Texts),
            (6, "uid", Text),
        ]),
    ),
];

const KINDS: &[(&str, &str, Fields)] = &[
    ("v1", "Namespace", &[(1, "metadata", METADATA)]),
    ("v1", "ServiceAccount", &[(1, "metadata", METADATA), (4, "automountServiceAccountToken", Bool)]),
    ("rbac.authorization.k8s.io/v1", "Role", &[(1, "metadata", METADATA), (2, "rules", RULES)]),
    (
        "rbac.authorization.k8s.io/v1",
        "ClusterRole",
        &[
            (1, "metadata", METADATA),
            (2, "rules", RULES),
            (3, "aggregationRule", Part(&[(1, "clusterRoleSelectors", SELECTORS)])),
        ],
    ),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", BINDING),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", BINDING),
    ("authorization.k8s.io/v1", "SubjectAccessReview", ACCESS),
    ("authorization.k8s.io/v1", "LocalSubjectAccessReview", ACCESS),
    (
        "authorization.k8s.io/v1",
        "SelfSubjectAccessReview",
        &[
            (1, "metadata", METADATA),
            (2, "spec", Part(&[(1, "resourceAttributes", RESOURCE), (2, "nonResourceAttributes", PATH)])),
        ],
    ),
    (
        "authorization.k8s.io/v1",
        "SelfSubjectRulesReview",
        &[(1, "metadata", METADATA), (2, "spec", Part(&[(1, "namespace", Text)]))],
    ),
    ("authentication.k8s.io/v1", "SelfSubjectReview", &[(1, "metadata", METADATA)]),
    (
        "authentication.k8s.io/v1",
        "TokenReview",
        &[(1, "metadata", METADATA), (2, "spec", Part(&[(1, "token", Text), (2, "audiences", Texts)]))],
    ),
    (
        "authentication.k8s.io/v1",
        "TokenRequest",
        &[
            (1, "metadata", METADATA),
            (
                2,
                "spec",
                Part(&[
                    (1, "audiences", Texts),
                    (3, "boundObjectRef", Part(&[(1, "kind", Text), (2, "apiVersion", Text), (3, "name", Text)])),
                    (4, "expirationSeconds", Int),
                ]),
            ),
        ],
    ),
];

/// The document of a body.
pub(super) fn parse(body: &[u8]) -> Result<Value> {
    let bad = || Failure::bad_request("the body of the request is no protobuf of Kubernetes");
    let envelope = body.strip_prefix(MAGIC).ok_or_else(bad)?;
    let about = message(UNKNOWN, envelope).ok_or_else(bad)?;
    let (mut raw, mut rest) = (&[][..], envelope);
    while !rest.is_empty() {
        if let (2, Wire::Bytes(bytes)) = field(&mut rest).ok_or_else(bad)? {
            raw = bytes;
        }
    }
    let said = |name: &str| about["typeMeta"][name].as_str().unwrap_or_default();
    let (version, kind) = (said("apiVersion"), said("kind"));
    let known = KINDS.iter().find(|(of, named, _)| *of == version && *named == kind);
    let Some((_, _, fields)) = known else {
        return Err(Failure::unsupported_media_type(&["application/json", "application/yaml"]));
    };
    let mut document = message(fields, raw).ok_or_else(bad)?;
    document["apiVersion"] = version.into();
    document["kind"] = kind.into();
    Ok(document)
}

/// A value on the wire; numbers of fixed width are not used.
enum Wire<'b> {
    Number(u64),
    Bytes(&'b [u8]),
    Other,
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take<'b>(rest: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

/// The next field and its number; `None`: it is malformed, or a group, which Kubernetes has none of.
fn field<'b>(rest: &mut &'b [u8]) -> Option<(u64, Wire<'b>)> {
    let key = varint(rest)?;
    let value = match key & 7 {
        0 => Wire::Number(varint(rest)?),
        1 => take(rest, 8).map(|_| Wire::Other)?,
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Wire::Bytes(take(rest, length)?)
        }
        5 => take(rest, 4).map(|_| Wire::Other)?,
        _ => return None,
    };
    Some((key >> 3, value))
}

/// A message as JSON. Empty texts are left out: Kubernetes writes them where nothing was given. Depth is bounded by the tables.
fn message(fields: Fields, mut rest: &[u8]) -> Option<Value> {
    let mut object = Map::new();
    while !rest.is_empty() {
        let (number, value) = field(&mut rest)?;
        let Some((_, name, of)) = fields.iter().find(|(own, ..)| *own == number) else { continue };
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        match (of, value) {
            (Text, Wire::Bytes(b"")) => {}
            (Text, Wire::Bytes(bytes)) => drop(object.insert((*name).into(), text(bytes)?.into())),
            (Int, Wire::Number(number)) => drop(object.insert((*name).into(), json!(number.cast_signed()))),
            (Bool, Wire::Number(number)) => drop(object.insert((*name).into(), (number != 0).into())),
            (Part(fields), Wire::Bytes(bytes)) => drop(object.insert((*name).into(), message(fields, bytes)?)),
            (Texts, Wire::Bytes(bytes)) => push(&mut object, name, text(bytes)?.into()),
            (Parts(fields), Wire::Bytes(bytes)) => push(&mut object, name, message(fields, bytes)?),
            (Texted, Wire::Bytes(bytes)) => {
                let entry = message(&[(1, "key", Text), (2, "value", Text)], bytes)?;
                let part = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
                object.entry(*name).or_insert_with(|| json!({}))[part("key")] = part("value").into();
            }
            _ => return None,
        }
    }
    Some(object.into())
}

fn push(object: &mut Map<String, Value>, name: &str, value: Value) {
    if let Value::Array(list) = object.entry(name).or_insert_with(|| json!([])) {
        list.push(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    fn body(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC, &bytes(1, &meta), &bytes(2, raw), &bytes(3, b""), &bytes(4, b"")].concat()
    }

    #[test]
    fn a_role_is_read_as_its_json_would_be() {
        let label = [bytes(1, b"a"), bytes(2, b"b")].concat();
        // The time of birth (8) is there, and empty; a generation (7) too.
        let metadata = [bytes(1, b"reader"), bytes(2, b""), vec![7 << 3, 0], bytes(8, b""), bytes(11, &label)].concat();
        let rule = [bytes(1, b"get"), bytes(1, b"list"), bytes(2, b""), bytes(3, b"services")].concat();
        let raw = [bytes(1, &metadata), bytes(2, &rule)].concat();
        assert_eq!(
            parse(&body("rbac.authorization.k8s.io/v1", "Role", &raw)).unwrap(),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                "metadata": { "name": "reader", "labels": { "a": "b" } },
                "rules": [{ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["services"] }],
            })
        );
        let spec = bytes(2, &[vec![4 << 3, 0xd8, 0x04], bytes(1, b"vault")].concat());
        let request = parse(&body("authentication.k8s.io/v1", "TokenRequest", &spec)).unwrap();
        assert_eq!(request["spec"], json!({ "audiences": ["vault"], "expirationSeconds": 600 }));
    }

    #[test]
    fn what_is_none_of_it_is_refused() {
        let good = body("v1", "Namespace", &bytes(1, &bytes(1, b"shop")));
        assert_eq!(parse(&good).unwrap()["metadata"]["name"], "shop");
        assert_eq!(parse(&body("v1", "Pod", b"")).unwrap_err().code, 415);
        for bad in [&b"{}"[..], b"", MAGIC, &good[4..], &good[..good.len() - 10], &body("v1", "Namespace", b"\x0b")] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        // A number where a text is due, bytes that are no text, a length beyond the end, a number without end.
        for raw in [
            &b"\x08\x01"[..],
            b"\x0a\x03\x0a\x01\xff",
            b"\x0a\x7f",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            assert!(parse(&body("v1", "Namespace", raw)).is_err(), "{raw:?}");
        }
    }

    proptest! {
        #[test]
        fn no_body_whatever_breaks_the_reader(raw in proptest::collection::vec(any::<u8>(), 0..100)) {
            for (version, kind, _) in KINDS {
                drop(parse(&body(version, kind, &raw)));
            }
            drop(parse(&[MAGIC, &raw].concat()));
        }
    }
}
