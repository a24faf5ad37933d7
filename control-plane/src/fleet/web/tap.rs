//! `GET /weft/v1/tap`: calls as they end, as server-sent events (WHATWG HTML §9.2) or, asked for `application/x-ndjson`, a line each. It
//! ends with its time, its number of calls, the right that it was begun with, its reader, or the control plane. What was asked and how much
//! was shown is in the audit record.

use super::{Failure, Sources};
use crate::api::Holding;
use crate::api::record::Record;
use crate::fleet::taps::{LONGEST, PER_SECOND, Refused, Tapping, Wanted};
use crate::rbac::Asking;
use axum::body::Body;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};
use weft_proto::v1;

/// Calls a second where nobody says.
const USUAL: u32 = 100;
/// How often it is said how many calls were not shown.
const DROPS: Duration = Duration::from_secs(1);
/// How often something is sent to who sees no call.
const ALIVE: Duration = Duration::from_secs(15);
/// Bytes of a text of the query.
const TEXT: usize = 512;

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Question {
    #[serde(default)]
    namespace: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    workload: String,
    /// Either side.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    service: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    source: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    destination: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    direction: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    method: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    path: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    /// Part of the calls, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sample: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    per_second: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
}

fn bad(text: impl Into<String>) -> Failure {
    Failure(StatusCode::BAD_REQUEST, "BadRequest", text.into())
}

impl Question {
    fn filter(&self) -> Result<v1::TapFilter, Failure> {
        let texts = [&self.service, &self.source, &self.destination, &self.method, &self.path, &self.reason];
        if texts.iter().any(|text| text.len() > TEXT) {
            return Err(bad(format!("no text of the query may be longer than {TEXT} bytes")));
        }
        let direction = match self.direction.as_str() {
            "" => v1::Direction::Unspecified,
            "inbound" => v1::Direction::Inbound,
            "outbound" => v1::Direction::Outbound,
            other => return Err(bad(format!("direction: {other:?} is neither inbound nor outbound"))),
        };
        let is_status = match self.status.as_bytes() {
            [] | b"error" | [b'1'..=b'5', b'x', b'x'] => true,
            digits => digits.len() == 3 && digits.iter().all(u8::is_ascii_digit),
        };
        if !is_status {
            return Err(bad(format!("status: {:?} is neither a status, a class such as 5xx, nor error", self.status)));
        }
        let sample = self.sample.unwrap_or(1.0);
        if !(sample > 0.0 && sample <= 1.0) {
            return Err(bad("sample: must be more than 0, and 1 at most"));
        }
        let millionths = if sample >= 1.0 { 0 } else { (sample * 1e6).max(1.0) as u32 };
        Ok(v1::TapFilter {
            direction: direction.into(),
            source: self.source.clone(),
            destination: self.destination.clone(),
            either: self.service.clone(),
            method: self.method.clone(),
            path: self.path.clone(),
            status: self.status.clone(),
            reason: self.reason.clone(),
            sample_millionths: millionths,
        })
    }

    fn wanted(&self, user: &str) -> Result<Wanted, Failure> {
        let per_second = self.per_second.unwrap_or(USUAL);
        if !(1..=PER_SECOND).contains(&per_second) {
            return Err(bad(format!("perSecond: must be from 1 to {PER_SECOND}")));
        }
        let seconds = self.seconds.unwrap_or(LONGEST.as_secs());
        if !(1..=LONGEST.as_secs()).contains(&seconds) {
            return Err(bad(format!("seconds: must be from 1 to {}", LONGEST.as_secs())));
        }
        Ok(Wanted {
            user: user.to_owned(),
            namespace: self.namespace.clone(),
            workload: self.workload.clone(),
            filter: self.filter()?,
            per_second,
            lasting: Duration::from_secs(seconds),
        })
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", refused.to_string())
    }
}

pub(super) async fn open(
    State(sources): State<Sources>,
    Extension(asking): Extension<Asking>,
    Extension(holding): Extension<Holding>,
    headers: HeaderMap,
    question: Result<Query<Question>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Failure> {
    let Query(question) = question.map_err(|error| bad(error.body_text()))?;
    let wanted = question.wanted(&asking.user.name)?;
    let ends_at = Instant::now() + wanted.lasting;
    let tapping = sources.fleet.tap(wanted)?;
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let lines = accepted.flat_map(|accept| accept.split(',')).any(|one| one.trim().starts_with("application/x-ndjson"));
    let asked = serde_json::to_value(&question).unwrap_or_default();
    holding.note(&sources.record, &json!({ "tap": asked, "sidecars": tapping.sidecars }));
    let mut ticks = tokio::time::interval(DROPS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stream = Stream {
        // Once it is known that the answer began: a reader need not wait for the first call.
        waiting: [event(lines, "begin", &json!({ "sidecars": tapping.sidecars }))].into(),
        tapping,
        holding,
        lines,
        left: question.limit.unwrap_or(u64::MAX),
        ends_at,
        ticks,
        quiet_since: Instant::now(),
        is_over: false,
        tally: Tally { record: sources.record, asked, shown: 0, dropped: BTreeMap::new(), why: "gone" },
    };
    let body = Body::from_stream(futures_util::stream::unfold(Box::new(stream), |mut stream| async move {
        stream.next().await.map(|event| (Ok::<_, std::convert::Infallible>(event), stream))
    }));
    let media = if lines { "application/x-ndjson" } else { "text/event-stream" };
    let fields = [(header::CONTENT_TYPE, media), (header::CACHE_CONTROL, "no-cache, private")];
    Ok((fields, body).into_response())
}

struct Stream {
    tapping: Tapping,
    holding: Holding,
    lines: bool,
    waiting: VecDeque<Bytes>,
    left: u64,
    ends_at: Instant,
    ticks: tokio::time::Interval,
    quiet_since: Instant,
    is_over: bool,
    tally: Tally,
}

/// What came of it, written down however it ended.
struct Tally {
    record: Arc<Record>,
    asked: Value,
    shown: u64,
    dropped: BTreeMap<&'static str, u64>,
    why: &'static str,
}

enum Happened {
    Call(Arc<v1::TappedCall>),
    Tick,
    End(&'static str),
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                self.quiet_since = Instant::now();
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            let happened = tokio::select! {
                // First: what happens after a right has gone is not seen.
                biased;
                why = self.holding.ended() => Happened::End(why),
                () = tokio::time::sleep_until(self.ends_at) => Happened::End("time"),
                _ = self.ticks.tick() => Happened::Tick,
                call = self.tapping.next() => Happened::Call(call),
            };
            match happened {
                Happened::Call(call) => {
                    self.tally.shown += 1;
                    self.left = self.left.saturating_sub(1);
                    self.waiting.push_back(event(self.lines, "call", &shown(&call)));
                    if self.left == 0 {
                        self.end("limit");
                    }
                }
                Happened::Tick => {
                    self.drops();
                    if self.waiting.is_empty() && self.quiet_since.elapsed() >= ALIVE {
                        let alive =
                            if self.lines { event(true, "alive", &json!({})) } else { Bytes::from_static(b":\n\n") };
                        self.waiting.push_back(alive);
                    }
                }
                Happened::End(why) => self.end(why),
            }
        }
    }

    fn drops(&mut self) {
        for (by, calls) in self.tapping.drops().take() {
            *self.tally.dropped.entry(by).or_default() += calls;
            self.waiting.push_back(event(self.lines, "dropped", &json!({ "calls": calls, "by": by })));
        }
    }

    fn end(&mut self, why: &'static str) {
        self.drops();
        self.waiting.push_back(event(self.lines, "end", &json!({ "reason": why })));
        self.tally.why = why;
        self.is_over = true;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        for (by, calls) in self.tapping.drops().take() {
            *self.tally.dropped.entry(by).or_default() += calls;
        }
        let Tally { record, asked, shown, dropped, why } = &self.tally;
        let detail = json!({ "tap": asked, "calls": shown, "dropped": dropped, "ended": why });
        self.holding.note(record, &detail);
    }
}

/// An event of the stream, or a line.
fn event(lines: bool, name: &str, data: &Value) -> Bytes {
    Bytes::from(match lines {
        true => format!("{}\n", json!({ "event": name, "data": data })),
        false => format!("event: {name}\ndata: {data}\n\n"),
    })
}

/// A call as it is shown.
fn shown(call: &v1::TappedCall) -> Value {
    let millis = |micros: u64| f64::from(u32::try_from(micros).unwrap_or(u32::MAX)) / 1000.0;
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    let pairs =
        |all: &[v1::HeaderValue]| all.iter().map(|one| [one.name.clone(), one.value.clone()]).collect::<Vec<_>>();
    let attempts = call.attempts.iter().map(|attempt| {
        json!({
            "endpoint": attempt.endpoint,
            "durationMs": millis(attempt.duration_us),
            "status": (attempt.status != 0).then_some(attempt.status),
            "reason": text(&attempt.reason),
        })
    });
    let time = k8s_openapi::jiff::Timestamp::from_microsecond(call.began_us).unwrap_or_default();
    json!({
        "time": format!("{time:.6}"),
        "direction": match call.direction() {
            v1::Direction::Inbound => "inbound",
            v1::Direction::Outbound | v1::Direction::Unspecified => "outbound",
        },
        "workload": call.workload,
        "source": text(&call.source),
        "sourceIdentity": text(&call.source_identity),
        "destination": text(&call.destination),
        "destinationIdentity": text(&call.destination_identity),
        "endpoint": text(&call.endpoint),
        "protocol": call.protocol,
        "method": text(&call.method),
        "authority": text(&call.authority),
        "path": text(&call.path),
        "status": (call.status != 0).then_some(call.status),
        "grpcStatus": call.grpc_status,
        "reason": text(&call.reason),
        "route": text(&call.route),
        "durationMs": millis(call.duration_us),
        "attempts": attempts.collect::<Vec<_>>(),
        "retries": call.attempts.len().saturating_sub(1),
        "bytesSent": call.bytes_sent,
        "bytesReceived": call.bytes_received,
        "mtls": call.mtls,
        "decision": call.decision.as_ref().map(|decision| json!({
            "allowed": decision.allowed, "policy": decision.policy, "rule": text(&decision.rule),
        })),
        "traceId": text(&call.trace_id),
        "requestId": text(&call.request_id),
        "requestHeaders": pairs(&call.request_headers),
        "responseHeaders": pairs(&call.response_headers),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(query: &str) -> Result<Wanted, Failure> {
        let uri = format!("/weft/v1/tap?{query}").parse().unwrap();
        Query::<Question>::try_from_uri(&uri).map_err(|error| bad(error.body_text()))?.0.wanted("ana")
    }

    #[test]
    fn a_question_is_read_with_its_bounds() {
        let wanted = question("namespace=shop&service=cart&status=5xx&sample=0.25&perSecond=7&seconds=30").unwrap();
        assert_eq!((wanted.namespace.as_str(), wanted.per_second, wanted.lasting.as_secs()), ("shop", 7, 30));
        assert_eq!((wanted.filter.either.as_str(), wanted.filter.sample_millionths), ("cart", 250_000));
        let usual = question("namespace=shop").unwrap();
        assert_eq!((usual.per_second, usual.lasting), (USUAL, LONGEST));
        for query in [
            "status=6xx",
            "status=many",
            "direction=up",
            "sample=0",
            "sample=2",
            "perSecond=0",
            "perSecond=1001",
            "seconds=601",
            "limit=x",
        ] {
            assert!(question(query).is_err(), "{query}");
        }
    }

    #[test]
    fn a_call_without_an_answer_has_null_where_there_is_no_data() {
        let call = v1::TappedCall {
            began_us: 1_795_302_257_123_456,
            duration_us: 1500,
            workload: "shop/cart-1".into(),
            ..v1::TappedCall::default()
        };
        let shown = shown(&call);
        assert_eq!((&shown["status"], &shown["decision"], &shown["route"]), (&Value::Null, &Value::Null, &Value::Null));
        assert_eq!((&shown["time"], &shown["durationMs"]), (&"2026-11-21T23:04:17.123456Z".into(), &1.5.into()));
        let text = event(false, "call", &json!({ "a": 1 }));
        assert_eq!(text, "event: call\ndata: {\"a\":1}\n\n");
        assert_eq!(event(true, "end", &json!({})), "{\"data\":{},\"event\":\"end\"}\n");
    }
}
