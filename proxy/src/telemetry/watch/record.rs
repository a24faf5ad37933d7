//! One finished call as taps are told it: texts and lists bounded, credentials left out. No body ever comes here.

use super::{Draft, Facts};
use crate::codec::Headers;
use crate::telemetry::{Direction, redact};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use weft_proto::v1;

/// Headers of one side that are told.
const HEADERS: usize = 48;
/// Bytes of a value, and of a name.
const VALUE: usize = 256;
const NAME: usize = 64;
/// Bytes of a path with its query, and of every other text.
const PATH: usize = 1024;

/// Who calls whom.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Parties<'p> {
    pub source: &'p str,
    pub source_identity: &'p str,
    pub destination_identity: &'p str,
    pub endpoint: &'p str,
    pub protocol: &'p str,
    pub authority: &'p str,
    pub mtls: bool,
}

/// How it was decided, and what it is known by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ruled<'r> {
    pub route: &'r str,
    /// `allow` or `deny`; empty: no policy decided.
    pub verdict: &'r str,
    pub policy: &'r str,
    pub rule: &'r str,
    /// W3C trace id; 0: none.
    pub trace_id: u128,
    pub request_id: &'r str,
    pub ended: Instant,
}

/// The record.
pub(super) fn of(draft: Draft, parties: &Parties<'_>, facts: &Facts<'_>, ruled: &Ruled<'_>) -> v1::TappedCall {
    let outcome = &facts.outcome;
    let micros = |length: Duration| u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
    let ended = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let began = ended.saturating_sub(outcome.duration);
    let attempts = draft.attempts.into_iter().map(|attempt| v1::TappedAttempt {
        endpoint: attempt.endpoint.to_string(),
        duration_us: micros(attempt.ended.unwrap_or(ruled.ended).saturating_duration_since(attempt.began)),
        status: attempt.status.into(),
        reason: attempt.reason.to_owned(),
    });
    v1::TappedCall {
        taps: Vec::new(),
        began_us: i64::try_from(began.as_micros()).unwrap_or(i64::MAX),
        direction: match facts.direction {
            Direction::Inbound => v1::Direction::Inbound,
            Direction::Outbound => v1::Direction::Outbound,
        }
        .into(),
        source: text(facts.source),
        source_identity: text(parties.source_identity),
        destination: text(facts.destination),
        destination_identity: text(parties.destination_identity),
        endpoint: text(parties.endpoint),
        protocol: parties.protocol.to_owned(),
        method: text(facts.method),
        authority: text(parties.authority),
        path: text(&String::from_utf8_lossy(&redact::target(facts.path.as_bytes()))),
        status: outcome.status.into(),
        grpc_status: outcome.grpc_status.map(u32::from),
        reason: outcome.reason.to_owned(),
        route: text(ruled.route),
        duration_us: micros(outcome.duration),
        attempts: attempts.collect(),
        bytes_sent: outcome.sent,
        bytes_received: outcome.received,
        mtls: parties.mtls,
        decision: (!ruled.policy.is_empty()).then(|| v1::TapDecision {
            allowed: ruled.verdict != "deny",
            policy: text(ruled.policy),
            rule: text(ruled.rule),
        }),
        trace_id: if ruled.trace_id == 0 { String::new() } else { format!("{:032x}", ruled.trace_id) },
        request_id: text(ruled.request_id),
        request_headers: draft.request.as_ref().map(shown).unwrap_or_default(),
        response_headers: draft.response.as_ref().map(shown).unwrap_or_default(),
        workload: String::new(),
    }
}

/// Headers as they may be shown.
fn shown(headers: &Headers) -> Vec<v1::HeaderValue> {
    let shown = headers.iter().take(HEADERS).map(|field| {
        let secret = field.value.is_sensitive() || redact::is_secret(field.name.as_str(), field.value.as_bytes());
        let value = match secret {
            true => "***".to_owned(),
            // Of a URL the query may hold what a header of its own would.
            false => cut(&String::from_utf8_lossy(&redact::target(field.value.as_bytes())), VALUE),
        };
        v1::HeaderValue { name: cut(field.name.as_str(), NAME), value }
    });
    shown.collect()
}

fn text(text: &str) -> String {
    cut(text, PATH)
}

/// The beginning of a text, whole characters; what is cut is marked.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(most)])
}
