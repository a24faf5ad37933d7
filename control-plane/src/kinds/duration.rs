//! The `10s` of the resource API: a Gateway API duration (GEP-2257), as text in objects and as a `std::time::Duration` in code.
//!
//! Nothing here knows what a duration is used for; defaults and bounds belong to the kind that holds it.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// GEP-2257: one to four parts of at most five digits, each with a unit.
pub const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// A duration as people write it: `1h30m`, `250ms`, `0s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub std::time::Duration);

impl Duration {
    /// Whether it is `0s`, which disables what it bounds.
    pub fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

impl From<Duration> for std::time::Duration {
    fn from(value: Duration) -> Self {
        value.0
    }
}

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a duration such as \"10s\", \"250ms\" or \"1h30m\" (at most four parts of at most five digits, units h, m, s, ms)"
)]
pub struct NotADuration;

impl FromStr for Duration {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        let mut rest = text;
        let mut millis: u64 = 0;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            parts += 1;
            if digits == 0 || digits > 5 || parts > 4 {
                return Err(NotADuration);
            }
            let amount: u64 = rest[..digits].parse().map_err(|_| NotADuration)?;
            rest = &rest[digits..];
            let (unit, length) = match rest.as_bytes() {
                [b'm', b's', ..] => (1, 2),
                [b'h', ..] => (3_600_000, 1),
                [b'm', ..] => (60_000, 1),
                [b's', ..] => (1_000, 1),
                _ => return Err(NotADuration),
            };
            rest = &rest[length..];
            millis += amount * unit;
        }
        if parts == 0 {
            return Err(NotADuration);
        }
        Ok(Self(std::time::Duration::from_millis(millis)))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            let amount = millis / size;
            if amount > 0 {
                write!(f, "{amount}{unit}")?;
            }
            millis %= size;
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Four parts of five digits and a unit of two letters: without the bound an API server takes rules about it for too dear.
        json_schema!({ "type": "string", "pattern": PATTERN, "maxLength": 28 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read_and_written_back() {
        for (text, millis) in [("10s", 10_000), ("250ms", 250), ("1h30m", 5_400_000), ("1m500ms", 60_500), ("0s", 0)] {
            let read: Duration = text.parse().unwrap();
            assert_eq!(read.0.as_millis(), millis);
            assert_eq!(read.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "10", "s", "-1s", "1.5s", "123456s", "1h1m1s1ms1h", "1d", "1 s"] {
            assert_eq!(text.parse::<Duration>(), Err(NotADuration), "{text}");
        }
    }
}
