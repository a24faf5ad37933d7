//! `weft-load idle`: connections that made one call and then do nothing, for measuring what they cost.

use crate::caller;
use crate::clock;
use crate::flags::Idle;
use crate::measure::{Tally, rounded};
use crate::plan::Plan;
use serde_json::{Value, json};
use std::rc::Rc;
use tokio::task::JoinSet;

/// Calls made at a time.
const CALLING: usize = 64;

/// Opens, calls, says so, holds, and counts what is left; whether any connection was held.
///
/// # Errors
///
/// A line for people when the call cannot be made up.
pub async fn run(flags: Idle) -> Result<bool, String> {
    let plan = Plan::new(&flags.call, None)?;
    let tally = Rc::new(Tally::default());
    let began = clock::now();
    let mut waiting = caller::open(&plan, &tally, flags.connections, 1).await.into_iter();
    let (mut calling, mut held) = (JoinSet::new(), Vec::new());
    loop {
        while calling.len() < CALLING
            && let Some(mut caller) = waiting.next()
        {
            calling.spawn_local(async move {
                let started = clock::now();
                let result = caller.call(started).await;
                (caller, clock::now() - started, result)
            });
        }
        match calling.join_next().await {
            Some(Ok((caller, nanos, Ok(bytes)))) => {
                tally.right(true, nanos, bytes);
                held.push(caller);
            }
            Some(Ok((_, _, Err(failure)))) => tally.wrong(failure),
            Some(Err(_panic)) => {}
            None => break,
        }
    }
    let (ready, nanos) = (held.len(), clock::now() - began);
    let seconds = rounded(nanos as f64 / clock::SECOND as f64, 3);
    crate::emit(&json!({"ready": ready, "errors": tally.failures.json(), "seconds": seconds}));
    tokio::select! {
        () = crate::stdin_closes() => {}
        () = tokio::time::sleep(flags.hold) => {}
    }
    let alive = held.iter().filter(|caller| caller.is_alive()).count();
    let mut result = tally.json("idle", nanos);
    result.insert("protocol".into(), plan.protocol.name().into());
    result.insert("ready".into(), ready.into());
    result.insert("held".into(), alive.into());
    result.insert("lost".into(), (ready - alive).into());
    crate::emit(&Value::Object(result));
    eprintln!("idle {}: {alive} of {ready} connections held to the end", plan.protocol.name());
    Ok(ready > 0)
}
