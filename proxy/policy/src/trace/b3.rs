//! B3 propagation, single header and multiple (openzipkin/b3-propagation).

use http::HeaderName;

use super::{Context, hex, span_id};
use crate::text::Text;

pub(super) const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// What B3 said: a context, or a bare sampling decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) context: Option<Context>,
    pub(super) sampled: Option<bool>,
}

/// `{TraceId}-{SpanId}[-{SamplingState}[-{ParentSpanId}]]`, or the sampling state alone.
pub(super) fn read_single(value: &[u8]) -> Option<Read> {
    let mut parts = value.trim_ascii().split(|byte| *byte == b'-');
    let first = parts.next()?;
    let Some(span) = parts.next() else {
        let (sampled, _) = state(first)?;
        return Some(Read { context: None, sampled: Some(sampled) });
    };
    let state = parts.next().map(|text| state(text).ok_or(())).transpose().ok()?;
    let parent_id = parts.next().map(|text| span_id(text).ok_or(())).transpose().ok()?;
    if parts.next().is_some() {
        return None;
    }
    let sampled = state.map(|(sampled, _)| sampled);
    let debug = state.is_some_and(|(_, debug)| debug);
    let context = Context { trace_id: trace_id(first)?, span_id: span_id(span)?, parent_id, sampled, debug };
    Some(Read { context: Some(context), sampled })
}

/// `x-b3-*`. `None` when no header says anything that could be understood.
pub(super) fn read_multi<'a>(header: &impl Fn(&HeaderName) -> Option<&'a [u8]>) -> Option<Read> {
    let debug = header(&FLAGS).is_some_and(|flags| flags == b"1");
    let sampled = match header(&SAMPLED) {
        // Older tracers write true and false.
        Some(b"1" | b"true") => Some(true),
        Some(b"0" | b"false") => Some(false),
        _ => None,
    };
    // "Debug implies an accept decision, so don't also send the X-B3-Sampled header."
    let sampled = if debug { Some(true) } else { sampled };
    let ids = header(&TRACE_ID).and_then(trace_id).zip(header(&SPAN_ID).and_then(span_id));
    let context = ids.map(|(trace_id, span_id)| {
        let parent_id = header(&PARENT_ID).and_then(self::span_id);
        Context { trace_id, span_id, parent_id, sampled, debug }
    });
    (context.is_some() || sampled.is_some()).then_some(Read { context, sampled })
}

pub(super) fn write_single(context: &Context) -> Text<68> {
    let (trace, span) = (context.trace_id, context.span_id);
    let state = match (context.debug, context.sampled) {
        (true, _) => "-d",
        (false, Some(true)) => "-1",
        (false, Some(false)) => "-0",
        (false, None) => "",
    };
    match context.parent_id.filter(|_| !state.is_empty()) {
        Some(parent) => Text::format(format_args!("{trace:032x}-{span:016x}{state}-{parent:016x}")),
        None => Text::format(format_args!("{trace:032x}-{span:016x}{state}")),
    }
}

pub(super) fn write_multi(context: &Context, mut write: impl FnMut(HeaderName, &str)) {
    write(TRACE_ID, &Text::<32>::format(format_args!("{:032x}", context.trace_id)));
    write(SPAN_ID, &Text::<16>::format(format_args!("{:016x}", context.span_id)));
    if let Some(parent) = context.parent_id {
        write(PARENT_ID, &Text::<16>::format(format_args!("{parent:016x}")));
    }
    match (context.debug, context.sampled) {
        (true, _) => write(FLAGS, "1"),
        (false, Some(sampled)) => write(SAMPLED, if sampled { "1" } else { "0" }),
        (false, None) => {}
    }
}

/// 16 or 32 digits, not all zero.
fn trace_id(text: &[u8]) -> Option<u128> {
    hex(text).filter(|id| matches!(text.len(), 16 | 32) && *id != 0)
}

/// Accept, deny or debug: whether it is sampled, and whether by debug.
fn state(text: &[u8]) -> Option<(bool, bool)> {
    match text {
        b"1" => Some((true, false)),
        b"0" => Some((false, false)),
        b"d" => Some((true, true)),
        _ => None,
    }
}
