//! `weft-load first`: asks again and again, on a new connection each time, until the first answer with the status waited for.

use crate::clock::{self, Alarm, Watch};
use crate::failure::{Failure, Failures};
use crate::flags::{Call, First, Length, Protocol};
use crate::http1;
use crate::http2::Link;
use crate::measure::rounded;
use crate::plan::Plan;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Polls; whether the answer came before the deadline.
///
/// # Errors
///
/// A line for people when the call cannot be made up.
pub async fn run(flags: First) -> Result<bool, String> {
    // Both clocks read together: what is waited for is measured on the monotonic one.
    let (started, epoch) = (clock::now(), clock::epoch());
    let before = flags.since.map_or(0.0, |since| epoch as f64 - since as f64);
    if matches!(flags.protocol, Protocol::Grpc | Protocol::GrpcStream) {
        return Err("--protocol: http1 or http2".to_owned());
    }
    let call = Call {
        protocol: flags.protocol,
        target: flags.target,
        authority: flags.authority,
        path: Some(flags.path),
        body: None,
        header: Vec::new(),
        expect_status: flags.until,
        expect_length: Some(Length::Any),
        timeout: flags.timeout,
        sources: 0,
    };
    let plan = Plan::new(&call, None)?;
    let alarm = Alarm::new().map_err(|e| format!("no timer: {e}"))?;
    let (failures, mut statuses) = (Failures::default(), BTreeMap::<u16, u64>::new());
    let (mut attempts, mut refused, mut ok) = (0u64, 0u64, false);
    let deadline = started + clock::span(flags.deadline);
    let mut ended = started;
    while ended < deadline {
        attempts += 1;
        match Watch::new(flags.timeout).within(ended, attempt(&plan)).await {
            Ok(status) if status == flags.until => ok = true,
            Ok(status) => *statuses.entry(status).or_default() += 1,
            Err(Failure::Connect) => refused += 1,
            Err(failure) => failures.add(failure),
        }
        ended = clock::now();
        if ok {
            break;
        }
        alarm.until(ended + clock::span(flags.interval)).await.map_err(|e| format!("timer: {e}"))?;
        ended = clock::now();
    }
    let since = (before + (ended - started) as f64) / 1e6;
    let statuses: Map<String, Value> = statuses.into_iter().map(|(s, n)| (s.to_string(), n.into())).collect();
    crate::emit(&json!({
        "mode": "first", "protocol": plan.protocol.name(), "ok": ok, "sinceMs": rounded(since, 3), "attempts": attempts,
        "refused": refused, "errors": failures.json(), "statuses": statuses,
    }));
    let outcome = if ok { "answered" } else { "not answered" };
    eprintln!("first: {outcome} after {since:.2} ms and {attempts} attempts");
    Ok(ok)
}

/// The status of one answer that came whole.
async fn attempt(plan: &Plan) -> Result<u16, Failure> {
    if plan.protocol == Protocol::Http1 {
        return http1::Connection::open(&plan.target).await?.status(&plan.bytes).await;
    }
    let link = Link::open(&plan.target).await?;
    let status = crate::http2::status(&mut link.sender(), plan).await;
    link.close().await;
    status
}
