//! Reading objects that Go programs send: Kubernetes' clients write its own kinds in Protocol Buffers, since 1.33 without being asked.
//!
//! An envelope (`k8s\0` and `runtime.Unknown`) names the kind; what the numbers of its fields mean is in [`kinds`]. A field that has the
//! zero value of its type was not set, as in the JSON of the same programs, unless it can be absent by itself. Answers are JSON, which they
//! all accept. Sources: <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>,
//! <https://protobuf.dev/programming-guides/encoding/>.

mod kinds;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::failure::{Failure, Result};
use kinds::{Field, Type};

/// The media type.
pub(super) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";

/// An object in its envelope.
pub(super) fn parse(body: &[u8]) -> Result<Value> {
    let bad = || Failure::bad_request("the body of the request is no Kubernetes object in Protocol Buffers");
    let envelope = read(kinds::UNKNOWN, body.strip_prefix(MAGIC).ok_or_else(bad)?).ok_or_else(bad)?;
    let text = |pointer: &str| envelope.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("/typeMeta/apiVersion"), text("/typeMeta/kind"));
    let fields = kinds::fields(version, kind)
        .ok_or_else(|| Failure::unsupported_media_type(&["application/json", "application/yaml"]))?;
    let raw = STANDARD.decode(text("/raw")).map_err(|_| bad())?;
    let mut object = read(fields, &raw).ok_or_else(bad)?;
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    Ok(object)
}

/// One field as it stands in a message.
enum Wire<'b> {
    Number(u64),
    Bytes(&'b [u8]),
    /// Of a fixed width: none of ours is.
    Other,
}

/// Takes the fields of a message one after another.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Wire<'b>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => self.take(8).map(|_| Wire::Other)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Wire::Other)?,
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

/// A message as an object; `None`: it is none. Fields that are not known are left out.
fn read(fields: &[Field], bytes: &[u8]) -> Option<Value> {
    let mut object = Map::new();
    let mut reader = Reader(bytes);
    while !reader.0.is_empty() {
        let (number, wire) = reader.field()?;
        let Some(field) = fields.iter().find(|f| f.number == number) else { continue };
        match field.kind {
            Type::Texts | Type::Binaries => {
                let Wire::Bytes(entry) = wire else { return None };
                let entries = if matches!(field.kind, Type::Texts) { kinds::TEXT_ENTRY } else { kinds::BINARY_ENTRY };
                let entry = read(entries, entry)?;
                let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
                let map = object.entry(field.name).or_insert_with(|| json!({}));
                map[text("key")] = text("value").into();
            }
            _ => {
                let value = single(field, wire)?;
                if field.many {
                    let list = object.entry(field.name).or_insert_with(|| json!([]));
                    list.as_array_mut()?.push(value);
                } else if field.keep || !is_zero(&value) {
                    object.insert(field.name.to_owned(), value);
                }
            }
        }
    }
    Some(Value::Object(object))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn single(field: &Field, wire: Wire<'_>) -> Option<Value> {
    Some(match (field.kind, wire) {
        (Type::Int, Wire::Number(number)) => Value::from(number.cast_signed()),
        (Type::Bool, Wire::Number(number)) => Value::from(number != 0),
        (Type::Text, Wire::Bytes(bytes)) => Value::from(std::str::from_utf8(bytes).ok()?),
        (Type::Bytes, Wire::Bytes(bytes)) => Value::from(STANDARD.encode(bytes)),
        (Type::Message(fields), Wire::Bytes(bytes)) => read(fields, bytes)?,
        (Type::Time, Wire::Bytes(bytes)) => {
            let time = read(kinds::TIME, bytes)?;
            match time["seconds"].as_i64() {
                None => Value::Null,
                Some(seconds) => {
                    let nanos = time["nanos"].as_i64().unwrap_or_default();
                    let at = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
                    let at = at.checked_add(time::Duration::nanoseconds(nanos))?;
                    Value::from(at.format(&Rfc3339).ok()?)
                }
            }
        }
        (Type::IntOrText, Wire::Bytes(bytes)) => {
            let either = read(kinds::INT_OR_TEXT, bytes)?;
            match either["type"].as_i64() {
                Some(1) => either["strVal"].clone(),
                _ => either["intVal"].clone(),
            }
        }
        (Type::Fields, Wire::Bytes(bytes)) => {
            let raw = read(kinds::FIELDS_V1, bytes)?;
            let raw = STANDARD.decode(raw["Raw"].as_str().unwrap_or_default()).ok()?;
            serde_json::from_slice(&raw).ok()?
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn varint(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number >= 0x80 {
            bytes.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    }

    fn bytes(number: u64, content: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
    }

    fn text(number: u64, content: &str) -> Vec<u8> {
        bytes(number, content.as_bytes())
    }

    fn int(number: u64, value: u64) -> Vec<u8> {
        [varint(number << 3), varint(value)].concat()
    }

    fn enveloped(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let about = [text(1, version), text(2, kind)].concat();
        [MAGIC.to_vec(), bytes(1, &about), bytes(2, raw), text(3, ""), text(4, "")].concat()
    }

    #[test]
    fn a_secret_of_a_go_program_is_read() {
        let entry = [text(1, "password"), bytes(2, b"hunter2")].concat();
        let metadata =
            [text(1, "key"), text(3, ""), bytes(8, &[]), bytes(11, &[text(1, "a"), text(2, "b")].concat())].concat();
        let raw = [bytes(1, &metadata), bytes(2, &entry), text(3, "Opaque"), int(5, 0)].concat();
        let read = parse(&enveloped("v1", "Secret", &raw)).unwrap();
        assert_eq!(
            read,
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key", "labels": {"a": "b"}},
                "data": {"password": "aHVudGVyMg=="}, "type": "Opaque", "immutable": false})
        );
    }

    #[test]
    fn a_role_is_read_as_its_json_would_be() {
        let label = [text(1, "a"), text(2, "b")].concat();
        // The time of birth (8) is there, and empty; a generation (7) too.
        let metadata = [bytes(1, b"reader"), bytes(2, b""), int(7, 0), bytes(8, b""), bytes(11, &label)].concat();
        let rule = [bytes(1, b"get"), bytes(1, b"list"), bytes(2, b""), bytes(3, b"services")].concat();
        let raw = [bytes(1, &metadata), bytes(2, &rule)].concat();
        assert_eq!(
            parse(&enveloped("rbac.authorization.k8s.io/v1", "Role", &raw)).unwrap(),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                "metadata": { "name": "reader", "labels": { "a": "b" } },
                "rules": [{ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["services"] }],
            })
        );
        let spec = bytes(2, &[int(4, 600), bytes(1, b"vault")].concat());
        let request = parse(&enveloped("authentication.k8s.io/v1", "TokenRequest", &spec)).unwrap();
        assert_eq!(request["spec"], json!({ "audiences": ["vault"], "expirationSeconds": 600 }));
    }

    #[test]
    fn ports_and_times_have_the_form_of_json() {
        let named = [int(1, 1), int(2, 0), text(3, "web")].concat();
        let numbered = [int(1, 0), int(2, 8080), text(3, "")].concat();
        let port = |number: u64, target: &[u8]| {
            [text(1, ""), text(2, "TCP"), int(3, number), bytes(4, target), int(5, 0)].concat()
        };
        let spec = [bytes(1, &port(80, &named)), bytes(1, &port(81, &numbered)), text(3, ""), int(13, 0)].concat();
        let metadata = [text(1, "cart"), bytes(8, &[int(1, 60), int(2, 0)].concat())].concat();
        let read = parse(&enveloped("v1", "Service", &[bytes(1, &metadata), bytes(2, &spec)].concat())).unwrap();
        assert_eq!(read["metadata"], json!({"name": "cart", "creationTimestamp": "1970-01-01T00:01:00Z"}));
        assert_eq!(
            read["spec"],
            json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": "web"}, {"port": 81, "protocol": "TCP", "targetPort": 8080}]})
        );
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert_eq!(parse(&enveloped("v1", "Pod", &[])).unwrap_err().code, 415);
        for bad in [&b""[..], b"{}", b"k8s\0\xff", &enveloped("v1", "Secret", &[0x0a, 0x7f])] {
            assert_eq!(parse(bad).unwrap_err().code, 400, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_breaks_it(raw in prop::collection::vec(any::<u8>(), 0..64)) {
            for (version, kind) in [("v1", "Secret"), ("v1", "Service"), ("v1", "Event"), ("v1", "DeleteOptions"), ("authentication.k8s.io/v1", "TokenRequest")] {
                let _ = parse(&enveloped(version, kind, &raw));
            }
            let _ = parse(&[MAGIC, &raw].concat());
        }
    }
}
