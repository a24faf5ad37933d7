//! The tokens of requests: where they stand, by which rules they are verified, and what the application gets of them.
//!
//! Invariant: nothing of a token is logged, counted or told, and a header that a rule fills with a claim is never the caller's.

use crate::codec::{ByteStr, RequestHead};
use crate::exchange::View;
use http::header::{self, HeaderName, HeaderValue};
use serde_json::Value;
use std::sync::Arc;
use std::time::SystemTime;
use weft_certs::jwt::{Issuer, Keys, LONGEST, Reason, SKEW, Verified, Verifier};
use weft_policy::authorize;
use weft_policy::config::{Authentication, TokenPlace, TokenRule};
use weft_policy::route::{any_cookie, split_target};

/// Tokens that a request may bring to a port.
#[derive(Debug)]
pub struct Tokens {
    config: Arc<Authentication>,
    verifier: Verifier,
    /// Invariant: no place twice; values are indices of the rules.
    places: Vec<(TokenPlace, Vec<usize>)>,
}

/// A token that was verified.
pub struct Token(Arc<Verified>);

impl Token {
    /// When it is no longer valid, skew included.
    pub fn until(&self) -> SystemTime {
        self.0.until()
    }
}

impl authorize::Token for Token {
    fn principal(&self) -> Option<&str> {
        self.0.principal()
    }

    fn any_claim(&self, path: &[Box<str>], test: &mut dyn FnMut(&str) -> bool) -> bool {
        let mut one = |value: &Value| match value {
            Value::String(text) => test(text),
            Value::Bool(_) | Value::Number(_) => test(&value.to_string()),
            _ => false,
        };
        match self.0.claim(path) {
            Some(Value::Array(list)) => list.iter().any(&mut one),
            Some(value) => one(value),
            None => false,
        }
    }
}

impl Tokens {
    /// Reads the keys. A rule whose keys cannot be read refuses every token.
    pub fn new(config: Arc<Authentication>) -> Self {
        let mut places: Vec<(TokenPlace, Vec<usize>)> = Vec::new();
        for (i, rule) in config.rules.iter().enumerate() {
            for place in &rule.places {
                match places.iter_mut().find(|(known, _)| known == place) {
                    Some((_, rules)) => rules.push(i),
                    None => places.push((place.clone(), vec![i])),
                }
            }
        }
        let verifier = Verifier::new(config.rules.iter().map(issuer).collect());
        Self { config, verifier, places }
    }

    /// The token of a request, verified; `None`: it brings none, and need not.
    ///
    /// # Errors
    /// The policy that refuses it, and why.
    pub fn find(&self, head: &RequestHead) -> Result<Option<Token>, (&str, Reason)> {
        let mut found: Option<(String, Vec<usize>)> = None;
        let mut ambiguous = false;
        for (place, rules) in &self.places {
            each(place, head, &mut |text| {
                match &mut found {
                    None => {
                        // What is longer is refused all the same.
                        let end = text.len().min(LONGEST + 1);
                        let text = String::from_utf8_lossy(text.get(..end).unwrap_or_default()).into_owned();
                        found = Some((text, rules.clone()));
                    }
                    Some((known, of)) if known.as_bytes() == text => of.extend(rules),
                    Some(_) => ambiguous = true,
                }
            });
        }
        let Some((text, rules)) = found else {
            return match &self.config.required_by {
                Some(policy) => Err((&**policy, Reason::Missing)),
                None => Ok(None),
            };
        };
        let policy = || rules.first().and_then(|rule| self.config.rules.get(*rule)).map_or("", |rule| &*rule.policy);
        if ambiguous {
            return Err((policy(), Reason::Ambiguous));
        }
        match self.verifier.verify(&text, |rule| rules.contains(&rule), SystemTime::now()) {
            Ok(verified) => Ok(Some(Token(verified))),
            Err(reason) => Err((policy(), reason)),
        }
    }

    /// Takes away what the application is not to see, and adds what it is.
    pub fn apply(&self, head: &mut RequestHead, token: Option<&Token>) {
        for output in self.config.rules.iter().flat_map(|rule| &rule.outputs) {
            head.headers.remove(&output.header);
        }
        let Some(token) = token else { return };
        let Some(rule) = self.config.rules.get(token.0.rule()) else { return };
        if !rule.forward {
            rule.places.iter().for_each(|place| strip(place, head));
        }
        for output in &rule.outputs {
            let value = token.0.claim(&output.claim).and_then(text).and_then(|text| HeaderValue::try_from(text).ok());
            if let Some(value) = value {
                head.headers.append(output.header.clone(), value);
            }
        }
    }
}

fn issuer(rule: &TokenRule) -> Issuer {
    let keys = if rule.jwks.is_empty() { Ok(Keys::default()) } else { Keys::parse(&rule.jwks) };
    let keys = keys.unwrap_or_else(|fault| {
        tracing::warn!(policy = %rule.policy, %fault, "the keys of an issuer cannot be read: its tokens are refused");
        Keys::default()
    });
    Issuer { issuer: rule.issuer.clone(), audiences: rule.audiences.clone(), keys, skew: rule.skew.unwrap_or(SKEW) }
}

/// Each value that stands at a place.
fn each(place: &TokenPlace, head: &RequestHead, found: &mut dyn FnMut(&[u8])) {
    match place {
        TokenPlace::Header(name, prefix) => {
            for value in head.headers.get_all(name) {
                if let Some(token) = after(prefix, value.as_bytes()) {
                    found(token);
                }
            }
        }
        TokenPlace::Parameter(name) => {
            let pairs = split_target(&head.path).1.unwrap_or_default().split('&');
            for value in pairs.filter_map(|pair| pair.strip_prefix(&**name)?.strip_prefix('=')) {
                found(value.as_bytes());
            }
        }
        TokenPlace::Cookie(name) => {
            any_cookie(&View::new(head), name, &mut |value| {
                found(value);
                false
            });
        }
    }
}

/// What follows a prefix that is written in any case (RFC 9110 §11.1); `None`: the value has not that prefix.
fn after<'v>(prefix: &str, value: &'v [u8]) -> Option<&'v [u8]> {
    let (start, token) = value.trim_ascii().split_at_checked(prefix.len())?;
    let token = token.trim_ascii();
    (start.eq_ignore_ascii_case(prefix.as_bytes()) && !token.is_empty()).then_some(token)
}

/// Takes the token away from a place.
fn strip(place: &TokenPlace, head: &mut RequestHead) {
    match place {
        TokenPlace::Header(name, prefix) => {
            let ours = |known: &HeaderName, value: &[u8]| known == name && after(prefix, value).is_some();
            head.headers.retain(|known, value| !ours(known, value.as_bytes()));
        }
        TokenPlace::Parameter(name) => {
            let (path, query) = split_target(&head.path);
            let Some(query) = query else { return };
            let ours = |pair: &&str| pair.strip_prefix(&**name).is_some_and(|rest| rest.starts_with('='));
            let kept: Vec<&str> = query.split('&').filter(|pair| !ours(pair)).collect();
            let target = if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) };
            head.path = ByteStr::from(&*target);
        }
        TokenPlace::Cookie(name) => {
            let mut kept: Vec<Vec<u8>> = Vec::new();
            for line in head.headers.get_all(&header::COOKIE) {
                let ours = |pair: &&[u8]| {
                    let key = pair.split(|b| *b == b'=').next().unwrap_or_default();
                    key.trim_ascii() == name.as_bytes()
                };
                let pairs = line.as_bytes().split(|b| *b == b';').filter(|pair| !ours(pair)).map(<[u8]>::trim_ascii);
                kept.push(pairs.collect::<Vec<_>>().join(&b"; "[..]));
            }
            head.headers.remove(&header::COOKIE);
            for line in kept.into_iter().filter(|line| !line.is_empty()) {
                if let Ok(value) = HeaderValue::try_from(line) {
                    head.headers.append(header::COOKIE, value);
                }
            }
        }
    }
}

/// A claim as the value of a header: texts, numbers and truth values, and lists of them joined by commas.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(list) => {
            let texts: Vec<String> = list.iter().filter(|v| !v.is_array()).filter_map(text).collect();
            (!texts.is_empty()).then(|| texts.join(","))
        }
        _ => None,
    }
}
