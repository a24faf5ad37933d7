//! A part of an object as it was written: kept as text, which takes a tenth of what the same takes once it is read.

use serde_json::Value;

/// JSON. Two that are equal are written alike: fields are in order of name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(Box<str>);

impl From<&Value> for Text {
    fn from(value: &Value) -> Self {
        match value {
            // Of nothing nothing is kept.
            Value::Null => Self::default(),
            other => Self(other.to_string().into()),
        }
    }
}

impl Text {
    /// What it says; null where it was nothing.
    #[must_use]
    pub fn read(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_kept_as_text_reads_as_it_was_written() {
        for value in [json!({"b": [1, null, "x\u{7}"], "a": {"c": 0.5}}), json!(null), json!([]), json!("")] {
            assert_eq!(Text::from(&value).read(), value);
        }
        assert_eq!(Text::from(&json!({"a": 1, "b": 2})), Text::from(&json!({"b": 2, "a": 1})));
        assert_ne!(Text::from(&json!({"a": 1})), Text::from(&json!({"a": 2})));
    }
}
