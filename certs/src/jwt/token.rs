//! One token: taken apart, then verified against what a rule expects. Nothing of it is believed, or kept, before its signature.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::Algorithm;
use super::{Issuer, Reason};

/// Objects and lists within each other.
const DEPTH: usize = 16;
/// 9999-12-31T23:59:59Z: later times are mistakes of units.
const LAST: f64 = 253_402_300_799.0;

/// A token whose parts could be read. Invariant: nothing of it is trusted.
pub(super) struct Parsed<'t> {
    /// Header and claims as they were signed.
    message: &'t str,
    algorithm: Algorithm,
    key: Option<String>,
    signature: Vec<u8>,
    claims: Map<String, Value>,
}

/// The claims of a token that was verified.
pub struct Verified {
    rule: usize,
    claims: Map<String, Value>,
    principal: Option<Box<str>>,
    until: SystemTime,
}

/// Says nothing of what the token says.
impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verified(rule {})", self.rule)
    }
}

/// JOSE header (RFC 7515 §4.1). A member twice is refused by the derived reader.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

impl<'t> Parsed<'t> {
    pub fn parse(token: &'t str) -> Result<Self, Reason> {
        let (message, signature) = token.rsplit_once('.').ok_or(Reason::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(Reason::Malformed)?;
        let part = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| Reason::Malformed);
        let header: Header = serde_json::from_slice(&part(header)?).map_err(|_| Reason::Malformed)?;
        let algorithm = Algorithm::parse(&header.alg)?;
        if header.crit.is_some() {
            return Err(Reason::Extension);
        }
        let Unique(claims) = serde_json::from_slice(&part(claims)?).map_err(|_| Reason::Malformed)?;
        if claims.values().any(|value| !is_shallow(value, DEPTH)) {
            return Err(Reason::Malformed);
        }
        Ok(Self { message, algorithm, key: header.kid, signature: part(signature)?, claims })
    }

    /// Who is said to have issued it.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    pub fn verify(&self, rule: usize, expected: &Issuer, now: SystemTime) -> Result<Verified, Reason> {
        expected.keys.verify(self.key.as_deref(), self.algorithm, self.message.as_bytes(), &self.signature)?;
        let skew = expected.skew;
        let expiry = self.time("exp")?.ok_or(Reason::ExpiryMissing)?;
        let until = expiry.checked_add(skew).ok_or(Reason::Malformed)?;
        if until <= now {
            return Err(Reason::Expired);
        }
        let latest = now.checked_add(skew).unwrap_or(now);
        if self.time("nbf")?.is_some_and(|from| from > latest) {
            return Err(Reason::NotYetValid);
        }
        if self.time("iat")?.is_some_and(|issued| issued > latest) {
            return Err(Reason::IssuedInFuture);
        }
        let meant = |audience: &Value| expected.audiences.iter().any(|a| audience.as_str() == Some(a));
        let admitted = expected.audiences.is_empty()
            || match self.claims.get("aud") {
                Some(Value::Array(all)) => all.iter().any(meant),
                Some(one) => meant(one),
                None => false,
            };
        if !admitted {
            return Err(Reason::Audience);
        }
        let text = |name: &str| self.claims.get(name)?.as_str().filter(|text| !text.is_empty());
        let principal = text("iss").zip(text("sub")).map(|(issuer, subject)| format!("{issuer}/{subject}").into());
        Ok(Verified { rule, claims: self.claims.clone(), principal, until })
    }

    /// A `NumericDate` (RFC 7519 §2).
    fn time(&self, name: &str) -> Result<Option<SystemTime>, Reason> {
        let Some(value) = self.claims.get(name) else { return Ok(None) };
        let seconds = value.as_f64().filter(|s| (0.0..=LAST).contains(s)).ok_or(Reason::Malformed)?;
        Ok(Some(UNIX_EPOCH + Duration::from_secs_f64(seconds)))
    }
}

impl Verified {
    /// The rule that verified it.
    #[must_use]
    pub const fn rule(&self) -> usize {
        self.rule
    }

    /// `<iss>/<sub>`; `None` where either is missing or empty.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// When it is no longer valid, skew included.
    #[must_use]
    pub const fn until(&self) -> SystemTime {
        self.until
    }

    /// What is found by following names from the whole set of claims.
    #[must_use]
    pub fn claim(&self, path: &[Box<str>]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.claims.get(&**first)?, |at, name| at.get(&**name))
    }
}

fn is_shallow(value: &Value, left: usize) -> bool {
    match (value, left.checked_sub(1)) {
        (Value::Array(_) | Value::Object(_), None) => false,
        (Value::Array(list), Some(left)) => list.iter().all(|v| is_shallow(v, left)),
        (Value::Object(map), Some(left)) => map.values().all(|v| is_shallow(v, left)),
        _ => true,
    }
}

/// An object without a member twice: RFC 7519 §4 lets a reader refuse them, and two readers might believe different ones.
struct Unique(Map<String, Value>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> serde::de::Visitor<'de> for Members {
            type Value = Unique;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut access: A) -> Result<Unique, A::Error> {
                let mut map = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if map.insert(name, value).is_some() {
                        return Err(serde::de::Error::custom("a member occurs twice"));
                    }
                }
                Ok(Unique(map))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
