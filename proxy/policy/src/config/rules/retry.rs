//! `weft.v1.RetryPolicy` and `weft.v1.RetryBudget`.

use std::time::Duration;

use weft_proto::v1;

use super::matching::method;
use super::{HEAVIEST, Refusal, Span, check};
use crate::retry;

pub(in crate::config) fn retry_policy(wire: &v1::RetryPolicy) -> Result<retry::Policy, Refusal> {
    let default = retry::Policy::default();
    let attempts = check::within("attempts", wire.attempts.unwrap_or(default.attempts), 0, 100)?;
    check::bounded("codes", &wire.codes, 200)?;
    let mut codes = Vec::with_capacity(wire.codes.len());
    for (i, code) in wire.codes.iter().enumerate() {
        // GEP-1731: "HTTPRouteRetryStatusCode … Minimum=400, Maximum=599".
        codes.push(check::within(&format!("codes[{i}]"), *code, 400, 599)? as u16);
    }
    codes.sort_unstable();
    codes.dedup();
    check::bounded("methods", &wire.methods, 32)?;
    let methods = wire
        .methods
        .iter()
        .enumerate()
        .map(|(i, text)| method(&format!("methods[{i}]"), text))
        .collect::<Result<_, _>>()?;
    let backoff = match check::span("backoff", wire.backoff.as_ref())? {
        Span::Absent => default.backoff,
        Span::Zero => Duration::ZERO,
        Span::Of(long) if long > Duration::from_secs(60) => {
            return Err(Refusal::new("backoff", format!("{long:?} is longer than a minute")));
        }
        Span::Of(backoff) => backoff,
    };
    let mut grpc_codes = 0;
    for (i, code) in wire.grpc_codes.iter().enumerate() {
        grpc_codes |= 1 << check::within(&format!("grpcCodes[{i}]"), *code, 1, 16)?;
    }
    let codes = if codes.is_empty() { default.codes } else { codes };
    Ok(retry::Policy { attempts, codes, methods, backoff, grpc_codes })
}

pub(super) fn retry_budget(wire: &v1::RetryBudget) -> Result<retry::BudgetSettings, Refusal> {
    let default = retry::BudgetSettings::default();
    Ok(retry::BudgetSettings {
        percent: check::within("percent", wire.percent.unwrap_or(default.percent), 0, 100)?,
        min_per_second: check::within(
            "minPerSecond",
            wire.min_per_second.unwrap_or(default.min_per_second),
            0,
            HEAVIEST,
        )?,
        window: check::span_within(
            "window",
            wire.window.as_ref(),
            default.window,
            (Duration::from_secs(1), Duration::from_secs(3600)),
        )?,
    })
}
