//! `weft-load open`: calls are sent on a schedule, whatever became of earlier ones, and timed from when they should have been sent. A
//! slow target so cannot slow the measurement down and hide its own delay (coordinated omission).

use crate::caller::{self, Caller};
use crate::clock::{self, Alarm, SECOND};
use crate::failure::Failure;
use crate::flags::Open;
use crate::measure::{Spread, Tally};
use crate::plan::Plan;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::task::JoinSet;

/// Intended send times: constant gaps, or exponential ones.
pub struct Schedule {
    at: f64,
    gap: f64,
    random: Option<StdRng>,
}

impl Schedule {
    /// From `begin` (nanoseconds), `rate` calls a second; with a seed the gaps are exponential.
    pub fn new(begin: u64, rate: f64, seed: Option<u64>) -> Self {
        Self { at: begin as f64, gap: SECOND as f64 / rate, random: seed.map(StdRng::seed_from_u64) }
    }

    fn next(&mut self) -> u64 {
        let at = self.at;
        self.at += match &mut self.random {
            // 1 - u is in (0, 1], whose logarithm is finite.
            Some(random) => -(1.0 - random.random::<f64>()).ln() * self.gap,
            None => self.gap,
        };
        at as u64
    }
}

/// Calls that are due, and workers that wait for one. First come, first served on both sides.
#[derive(Default)]
pub struct Due {
    calls: RefCell<VecDeque<u64>>,
    idle: RefCell<VecDeque<usize>>,
    /// Invariant: a worker that waits has its waker here and its index in `idle`; an index whose waker is gone is skipped.
    wakers: RefCell<Vec<Option<Waker>>>,
    over: Cell<bool>,
}

impl Due {
    /// For so many workers.
    pub fn new(workers: usize) -> Rc<Self> {
        let due = Self::default();
        due.wakers.borrow_mut().resize_with(workers, || None);
        Rc::new(due)
    }

    /// A call is due; false when no worker was free.
    fn push(&self, at: u64) -> bool {
        self.calls.borrow_mut().push_back(at);
        let (mut idle, mut wakers) = (self.idle.borrow_mut(), self.wakers.borrow_mut());
        while let Some(index) = idle.pop_front() {
            if let Some(waker) = wakers.get_mut(index).and_then(Option::take) {
                waker.wake();
                return true;
            }
        }
        false
    }

    /// No more calls come.
    fn close(&self) {
        self.over.set(true);
        for waker in self.wakers.borrow_mut().iter_mut().filter_map(Option::take) {
            waker.wake();
        }
    }

    /// Takes away what nobody came for.
    fn abandon(&self) -> Vec<u64> {
        self.calls.borrow_mut().drain(..).collect()
    }

    /// The next call for worker `index`; `None` when no more come.
    async fn next(&self, index: usize) -> Option<u64> {
        poll_fn(|cx| {
            let mut wakers = self.wakers.borrow_mut();
            let Some(place) = wakers.get_mut(index) else { return Poll::Ready(None) };
            if let Some(at) = self.calls.borrow_mut().pop_front() {
                *place = None;
                return Poll::Ready(Some(at));
            }
            if self.over.get() {
                return Poll::Ready(None);
            }
            if place.replace(cx.waker().clone()).is_none() {
                self.idle.borrow_mut().push_back(index);
            }
            Poll::Pending
        })
        .await
    }
}

/// What a schedule came to.
pub struct Outcome {
    pub late: Rc<Spread>,
    pub scheduled: u64,
    pub waited: u64,
    pub unsent: u64,
}

/// How long, and how fast.
pub struct Pattern {
    pub rate: f64,
    pub poisson: Option<u64>,
    pub warmup: Duration,
    pub duration: Duration,
    /// How long calls still waiting at the end are waited for.
    pub grace: Duration,
}

/// Makes the calls of a schedule with `callers`, which come back. Calls intended in the warm-up are not measured.
///
/// # Errors
///
/// A line for people when the system has no timer.
pub async fn play(callers: Vec<Caller>, tally: Rc<Tally>, pattern: &Pattern) -> Result<(Outcome, Vec<Caller>), String> {
    let alarm = Alarm::new().map_err(|e| format!("no timer: {e}"))?;
    let start = clock::now() + 1_000_000;
    let begin = start + clock::span(pattern.warmup);
    let end = begin + clock::span(pattern.duration);
    let (due, late) = (Due::new(callers.len()), Rc::new(Spread::default()));
    let mut workers = JoinSet::new();
    for (index, caller) in callers.into_iter().enumerate() {
        workers.spawn_local(work(caller, index, due.clone(), begin, tally.clone(), late.clone()));
    }
    let mut schedule = Schedule::new(start, pattern.rate, pattern.poisson);
    let (mut scheduled, mut waited) = (0, 0);
    let mut at = schedule.next();
    while at < end {
        alarm.until(at).await.map_err(|e| format!("timer: {e}"))?;
        let now = clock::now();
        while at <= now && at < end {
            let found_worker = due.push(at);
            if at >= begin {
                scheduled += 1;
                waited += u64::from(!found_worker);
            }
            at = schedule.next();
        }
        if at <= clock::now() {
            // The schedule is behind: the alarm will not wait, and workers must run.
            tokio::task::yield_now().await;
        }
    }
    due.close();
    let wait = async move {
        let mut back = Vec::new();
        while let Some(worker) = workers.join_next().await {
            back.extend(worker.ok());
        }
        back
    };
    // What waits in the queue past the grace is abandoned; calls that were sent end by their own deadlines.
    let (mut wait, mut unsent) = (std::pin::pin!(wait), 0);
    let back = if let Ok(back) = tokio::time::timeout(pattern.grace, &mut wait).await {
        back
    } else {
        unsent = due.abandon().iter().filter(|at| **at >= begin).count() as u64;
        tally.failures.add_many(Failure::Unsent, unsent);
        wait.await
    };
    Ok((Outcome { late, scheduled, waited, unsent }, back))
}

async fn work(
    mut caller: Caller,
    index: usize,
    due: Rc<Due>,
    begin: u64,
    tally: Rc<Tally>,
    late: Rc<Spread>,
) -> Caller {
    while let Some(at) = due.next(index).await {
        let sent = clock::now();
        let measured = at >= begin;
        if measured {
            late.record(sent.saturating_sub(at));
        }
        match caller.call(sent).await {
            Ok(bytes) => tally.right(measured, clock::now().saturating_sub(at), bytes),
            Err(failure) => {
                tally.wrong(failure);
                caller.pause().await;
            }
        }
    }
    caller
}

/// Runs it and prints what came of it; whether anything succeeded.
///
/// # Errors
///
/// A line for people when the call cannot be made up.
pub async fn run(flags: Open) -> Result<bool, String> {
    let plan = Plan::new(&flags.call, flags.churn.then_some(flags.close))?;
    let tally = Rc::new(Tally::default());
    let callers = caller::open(&plan, &tally, flags.width.connections, flags.width.streams).await;
    let pattern = Pattern {
        rate: flags.rate,
        poisson: flags.poisson.then_some(flags.seed),
        warmup: flags.warmup,
        duration: flags.duration,
        grace: plan.timeout,
    };
    let (outcome, callers) = play(callers, tally.clone(), &pattern).await?;
    caller::finish(callers, &tally).await;
    let nanos = clock::span(flags.duration);
    let mut result = tally.json("open", nanos);
    result.insert("protocol".into(), plan.protocol.name().into());
    result.insert("connections".into(), flags.width.connections.into());
    result.insert("streams".into(), flags.width.streams.into());
    result.insert("churn".into(), flags.churn.into());
    result.insert("rate".into(), flags.rate.into());
    result.insert("poisson".into(), flags.poisson.into());
    result.insert("scheduled".into(), outcome.scheduled.into());
    result.insert("lateUs".into(), outcome.late.json());
    result.insert("waited".into(), outcome.waited.into());
    result.insert("unsent".into(), outcome.unsent.into());
    crate::emit(&Value::Object(result));
    let late = outcome.late.micros(0.99);
    eprintln!("{}, p99 of lateness {late:.0} µs", tally.line(&format!("open {}", plan.protocol.name()), nanos));
    Ok(tally.total.get() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_schedule_does_not_drift() {
        let mut schedule = Schedule::new(1_000_000_000_000, 3000.0, None);
        let times: Vec<u64> = (0..=30_000).map(|_| schedule.next()).collect();
        assert_eq!(times[0], 1_000_000_000_000);
        assert!(times[30_000].abs_diff(1_010_000_000_000) < 1_000, "{}", times[30_000]);
    }

    #[test]
    fn a_poisson_schedule_is_the_seeds_and_keeps_the_rate() {
        let times = |seed| {
            let mut schedule = Schedule::new(0, 1000.0, Some(seed));
            (0..20_000).map(|_| schedule.next()).collect::<Vec<u64>>()
        };
        assert_eq!(times(7), times(7));
        assert_ne!(times(7), times(8));
        let last = times(7)[19_999] as f64 / SECOND as f64;
        assert!((19.0..21.0).contains(&last), "{last}");
        let gaps: Vec<u64> = times(7).windows(2).map(|w| w[1] - w[0]).collect();
        let short = gaps.iter().filter(|gap| **gap < 100_000).count() as f64 / gaps.len() as f64;
        assert!((0.08..0.11).contains(&short), "1 - e^-0.1 of the gaps are under a tenth of the mean: {short}");
    }
}
