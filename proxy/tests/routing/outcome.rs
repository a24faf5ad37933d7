//! What came of a case: what its backend saw, what its caller got, and whether that is what the case expects.

use crate::case::{Expect, texts};
use crate::sidecar::app::Call;
use crate::sidecar::client::Answer;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How much later than its delay a call may be answered, on a busy machine.
const LATE: Duration = Duration::from_millis(900);

/// A call as its backend saw it. It travels back in a header of the answer.
#[derive(Debug, Default)]
pub struct Seen {
    pub backend: String,
    pub path: String,
    pub host: String,
    pub headers: Vec<(String, String)>,
}

impl Seen {
    pub fn of(backend: &str, call: &Call) -> Self {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = call.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Self { backend: backend.to_owned(), path: call.path.clone(), host: call.host.clone(), headers }
    }

    pub fn encode(&self) -> String {
        let text = json!([self.backend, self.path, self.host, self.headers]).to_string();
        STANDARD.encode(text)
    }

    pub fn decode(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text).ok()?;
        let (backend, path, host, headers) = serde_json::from_slice(&bytes).ok()?;
        Some(Self { backend, path, host, headers })
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub seen: Option<Seen>,
    pub answer: Answer,
    pub took: Duration,
}

fn differ<T: PartialEq + std::fmt::Debug>(what: &str, expected: Option<&T>, seen: Option<&T>) -> Result<(), String> {
    match expected {
        Some(_) if expected != seen => Err(format!("{what} {seen:?}, not {expected:?}")),
        _ => Ok(()),
    }
}

fn headers_are<'h>(
    what: &str,
    expected: &BTreeMap<String, Value>,
    absent: &[String],
    seen: impl Fn(&str) -> Vec<&'h str>,
) -> Result<(), String> {
    for (name, values) in expected {
        if seen(name) != texts(values) {
            return Err(format!("{what} {name} is {:?}, not {values}", seen(name)));
        }
    }
    match absent.iter().find(|name| !seen(name).is_empty()) {
        Some(name) => Err(format!("{what} {name} is there")),
        None => Ok(()),
    }
}

impl Expect {
    pub fn check(&self, outcome: &Outcome) -> Result<(), String> {
        let Outcome { seen, answer, took } = outcome;
        differ("backend", self.backend.as_ref(), seen.as_ref().map(|seen| &seen.backend))?;
        // A refused connection has no status of its own.
        let refused = answer.status == 0 && matches!(self.status, Some(404 | 500));
        if !refused {
            differ("status", self.status.as_ref(), Some(&answer.status))?;
        }
        differ("gRPC status", self.grpc_status.as_ref(), answer.grpc_status().as_ref())?;
        differ("location", self.location.as_deref().as_ref(), Some(&answer.header("location")))?;
        differ("path", self.path.as_ref(), seen.as_ref().map(|seen| &seen.path))?;
        differ("host", self.host.as_ref(), seen.as_ref().map(|seen| &seen.host))?;
        if let Some(delay) = self.delay.map(Duration::from_millis)
            && (*took < delay || *took > delay + LATE)
        {
            return Err(format!("answered after {took:?}, not {delay:?}"));
        }
        headers_are("the request's", &self.headers, &self.absent, |name| {
            let all = seen.iter().flat_map(|seen| &seen.headers);
            all.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
        })?;
        headers_are("the response's", &self.response.headers, &self.response.absent, |name| {
            answer.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
        })
    }
}
