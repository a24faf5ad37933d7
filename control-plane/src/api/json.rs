//! Reading JSON (and YAML) that a client sent: into a document, with the paths of the fields that it gave twice.
//!
//! Nesting is bounded by the parsers (128 levels), size by the caller.

use std::{cell::RefCell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::failure::{Failure, Problem, Result};

/// A JSON document; of a field given twice the last counts, and its path is reported.
pub(super) fn parse(bytes: &[u8]) -> Result<(Value, Vec<Problem>)> {
    let duplicates = RefCell::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Seed { path: String::new(), duplicates: &duplicates }.deserialize(&mut deserializer);
    let value = value.and_then(|value| deserializer.end().map(|()| value));
    let value = value.map_err(|e| Failure::bad_request(format!("the body of the request is no JSON: {e}")))?;
    Ok((value, duplicates.into_inner()))
}

/// A YAML document; one with a field given twice is refused.
pub(super) fn parse_yaml(bytes: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(bytes).map_err(|_| Failure::bad_request("the body of the request is no UTF-8"))?;
    serde_saphyr::from_str(text).map_err(|e| Failure::bad_request(format!("the body of the request is no YAML: {e}")))
}

/// `a.b` or, for a key that has dots of its own, `a[b.c]`.
pub(super) fn child(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path if key.contains(['.', '/']) => format!("{path}[{key}]"),
        path => format!("{path}.{key}"),
    }
}

struct Seed<'d> {
    path: String,
    duplicates: &'d RefCell<Vec<Problem>>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that JSON cannot hold"))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list
            .next_element_seed(Seed { path: format!("{}[{}]", self.path, values.len()), duplicates: self.duplicates })?
        {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = child(&self.path, &key);
            let value = entries.next_value_seed(Seed { path: path.clone(), duplicates: self.duplicates })?;
            if map.insert(key, value).is_some() {
                let mut duplicates = self.duplicates.borrow_mut();
                if duplicates.len() >= 100 {
                    return Err(A::Error::custom("more than 100 duplicate fields"));
                }
                duplicates.push(Problem::Duplicate(path));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_given_twice_is_named_and_the_last_counts() {
        let (value, problems) = parse(br#"{"spec":{"a":1,"list":[{"b":1,"b":2}],"a":3}}"#).unwrap();
        assert_eq!(value["spec"]["a"], 3);
        assert_eq!(problems, [Problem::Duplicate("spec.list[0].b".into()), Problem::Duplicate("spec.a".into())]);
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for text in ["", "{", "{} {}", "{\"a\":}", "\u{feff}{}"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
