//! What a frontend does besides routing: `weft.v1.Fault`, `weft.v1.Fallback` and `weft.v1.Hedge`.

use std::time::Duration;

use http::HeaderValue;
use weft_proto::v1;

use super::matching::call_matches;
use super::{Refusal, check, target};
use crate::config::{Fallback, FixedResponse, Hedge};
use crate::fault::{Abort, Fault, Faults};
use crate::route::Share;

const MOST_FAULTS: usize = 64;
const LARGEST_BODY: usize = 64 << 10;
const MILLION: u32 = 1_000_000;
/// A delay longer than this keeps a call beyond every timeout that a client has.
const LONGEST_DELAY: Duration = Duration::from_secs(3600);
const HEDGE_PERCENTILE: u32 = 95;
const HEDGE_DELAY: Duration = Duration::from_millis(1);

pub(super) fn faults(wire: &[v1::Fault]) -> Result<Faults, Refusal> {
    check::bounded("faults", wire, MOST_FAULTS)?;
    let each = wire.iter().enumerate().map(|(i, wire)| fault(wire).map_err(|r| r.under(format_args!("faults[{i}]"))));
    each.collect::<Result<_, _>>().map(Faults::new)
}

fn fault(wire: &v1::Fault) -> Result<Fault, Refusal> {
    if wire.delay.is_none() && wire.abort.is_none() {
        return Err(Refusal::new("", "neither delays nor aborts"));
    }
    Ok(Fault {
        matches: call_matches(&wire.matches)?,
        delay: wire.delay.as_ref().map(delay).transpose().map_err(|r| r.under("delay"))?,
        abort: wire.abort.as_ref().map(abort).transpose().map_err(|r| r.under("abort"))?,
    })
}

fn delay(wire: &v1::fault::Delay) -> Result<(Duration, Share), Refusal> {
    if wire.fixed.is_none() {
        return Err(Refusal::new("fixed", "is required"));
    }
    let bounds = (Duration::from_nanos(1), LONGEST_DELAY);
    Ok((check::span_within("fixed", wire.fixed.as_ref(), Duration::ZERO, bounds)?, share(wire.share.as_ref())?))
}

fn abort(wire: &v1::fault::Abort) -> Result<(Abort, Share), Refusal> {
    let status = check::within("status", wire.status, 200, 599)? as u16;
    let grpc_status = match wire.grpc_status {
        Some(code) => check::within("grpcStatus", code, 1, 16)? as u8,
        None => Abort::grpc_status_of(status),
    };
    Ok((Abort { status, grpc_status }, share(wire.share.as_ref())?))
}

/// Absent: all calls.
fn share(wire: Option<&v1::Share>) -> Result<Share, Refusal> {
    let Some(wire) = wire else { return Ok(Share::ALL) };
    Ok(Share::new(check::within("share.millionths", wire.millionths, 0, MILLION)?, MILLION))
}

pub(super) fn fallback(wire: &v1::Fallback) -> Result<Fallback, Refusal> {
    use v1::fallback::To;
    match &wire.to {
        Some(To::Backend(wire)) => {
            target(&wire.service, wire.port, &wire.unresolved).map(Fallback::Backend).map_err(|r| r.under("backend"))
        }
        Some(To::Response(wire)) => fixed_response(wire).map(Fallback::Response).map_err(|r| r.under("response")),
        None => Err(Refusal::new("", "backend or response is required")),
    }
}

fn fixed_response(wire: &v1::FixedResponse) -> Result<FixedResponse, Refusal> {
    let content_type = match wire.content_type.as_str() {
        "" => None,
        text => Some(
            HeaderValue::from_str(text)
                .ok()
                .filter(|_| text.len() <= 256 && text.contains('/'))
                .ok_or_else(|| Refusal::new("contentType", format!("{text:?} is no media type")))?,
        ),
    };
    if wire.body.len() > LARGEST_BODY {
        return Err(Refusal::new("body", format!("{} bytes are more than {LARGEST_BODY}", wire.body.len())));
    }
    let status = check::within("status", wire.status, 200, 599)? as u16;
    if matches!(status, 204 | 205 | 304) && !wire.body.is_empty() {
        return Err(Refusal::new("body", format!("a response of status {status} has none")));
    }
    Ok(FixedResponse { status, content_type, body: wire.body.as_slice().into() })
}

pub(super) fn hedge(wire: &v1::Hedge) -> Result<Hedge, Refusal> {
    let percentile = if wire.percentile == 0 { HEDGE_PERCENTILE } else { wire.percentile };
    Ok(Hedge {
        percentile: check::within("percentile", percentile, 1, 99)? as u8,
        min_delay: check::span_within(
            "minDelay",
            wire.min_delay.as_ref(),
            HEDGE_DELAY,
            (Duration::from_micros(1), Duration::from_secs(3600)),
        )?,
    })
}
