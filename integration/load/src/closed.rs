//! `weft-load closed`: each worker sends its next call when the last was answered.

use crate::caller::{self, Caller};
use crate::clock;
use crate::flags::Closed;
use crate::measure::Tally;
use crate::plan::Plan;
use serde_json::Value;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinSet;

/// When is measured, in nanoseconds of the monotonic clock.
struct Window {
    begin: u64,
    end: Cell<u64>,
    /// Measured calls after which the end is moved to now.
    most: u64,
}

/// Runs it and prints what came of it; whether anything succeeded.
///
/// # Errors
///
/// A line for people when the call cannot be made up.
pub async fn run(flags: Closed) -> Result<bool, String> {
    let plan = Plan::new(&flags.call, flags.churn.then_some(flags.close))?;
    let tally = Rc::new(Tally::default());
    let callers = caller::open(&plan, &tally, flags.width.connections, flags.width.streams).await;
    let (nanos, callers) = play(callers, &tally, flags.warmup, flags.duration, flags.requests).await;
    caller::finish(callers, &tally).await;
    let mut result = tally.json("closed", nanos);
    result.insert("protocol".into(), plan.protocol.name().into());
    result.insert("connections".into(), flags.width.connections.into());
    result.insert("streams".into(), flags.width.streams.into());
    result.insert("churn".into(), flags.churn.into());
    crate::emit(&Value::Object(result));
    eprintln!("{}", tally.line(&format!("closed {}", plan.protocol.name()), nanos));
    Ok(tally.total.get() > 0)
}

/// Lets each caller call without pause; the measured nanoseconds, and the callers back.
pub async fn play(
    callers: Vec<Caller>,
    tally: &Rc<Tally>,
    warmup: Duration,
    duration: Duration,
    most: Option<u64>,
) -> (u64, Vec<Caller>) {
    let begin = clock::now() + clock::span(warmup);
    let end = Cell::new(begin + clock::span(duration));
    let window = Rc::new(Window { begin, end, most: most.unwrap_or(u64::MAX) });
    let mut workers = JoinSet::new();
    for caller in callers {
        workers.spawn_local(work(caller, tally.clone(), window.clone()));
    }
    let mut back = Vec::new();
    while let Some(worker) = workers.join_next().await {
        back.extend(worker.ok());
    }
    (window.end.get().saturating_sub(begin), back)
}

async fn work(mut caller: Caller, tally: Rc<Tally>, window: Rc<Window>) -> Caller {
    let mut started = clock::now();
    while started < window.end.get() {
        let result = caller.call(started).await;
        let ended = clock::now();
        match result {
            Ok(bytes) => {
                let measured = (window.begin..=window.end.get()).contains(&ended);
                tally.right(measured, ended - started, bytes);
                if measured && tally.requests.get() >= window.most {
                    window.end.set(ended);
                }
                started = ended;
            }
            Err(failure) => {
                tally.wrong(failure);
                caller.pause().await;
                started = clock::now();
            }
        }
    }
    caller
}
