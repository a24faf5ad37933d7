//! `weft-load fairness`: what small calls take alone, and beside those who take more than their share: a receiver that never reads, one
//! that reads slowly, and bulk downloads. Phases take turns, so that the machine's moods fall on all alike.

use crate::caller::{self, Caller};
use crate::clock::{self, Pace};
use crate::failure::Failure;
use crate::flags::{Call, Fairness, Phase, Protocol};
use crate::http2::{self, Link, Sender};
use crate::measure::{Spread, Tally, add, rounded};
use crate::open::{self, Pattern};
use crate::plan::Plan;
use crate::{closed, http1};
use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

/// Between asking for trouble and measuring beside it, so that windows have filled; and after it, so that they have emptied.
const SETTLE: Duration = Duration::from_millis(100);
/// After a failed download.
const PAUSE: Duration = Duration::from_millis(10);

/// The phases in their order, with their names in the result.
const PHASES: [(&str, Option<Phase>); 4] =
    [("alone", None), ("stalled", Some(Phase::Stalled)), ("slow", Some(Phase::Slow)), ("bulk", Some(Phase::Bulk))];

/// What a phase came to, in one cycle or in all.
#[derive(Default)]
struct Total {
    tally: Tally,
    late: Spread,
    other: u64,
}

impl Total {
    fn add(&mut self, more: &Self) {
        self.tally.latency.add(&more.tally.latency);
        self.late.add(&more.late);
        add(&self.tally.requests, more.tally.requests.get());
        self.tally.failures.add_all(&more.tally.failures);
        self.other += more.other;
    }
}

/// Runs it and prints what came of it; whether anything succeeded.
///
/// # Errors
///
/// A line for people when the call cannot be made up or the system has no timer.
pub async fn run(flags: Fairness) -> Result<bool, String> {
    if flags.call.protocol == Protocol::GrpcStream {
        return Err("--protocol: http1, http2 or grpc".to_owned());
    }
    let plan = Plan::new(&flags.call, None)?;
    let target = flags.bulk_target.unwrap_or(flags.call.target);
    let large = Plan::download(&flags.call, flags.bulk_body)?;
    let bulk = Plan::download(&Call { target, ..flags.call.clone() }, flags.bulk_body)?;
    let opened = Rc::new(Tally::default());
    let (connections, streams) = if plan.protocol == Protocol::Http1 { (flags.streams, 1) } else { (1, flags.streams) };
    let mut callers = caller::open(&plan, &opened, connections, streams).await;
    let phases: Vec<_> =
        PHASES.into_iter().filter(|(_, phase)| phase.is_none_or(|p| !flags.without.contains(&p))).collect();
    let mut totals: Vec<Total> = phases.iter().map(|_| Total::default()).collect();
    let mut cycles = Vec::new();
    for _ in 0..flags.cycles {
        let mut cycle = Map::new();
        for ((name, phase), total) in phases.iter().zip(&mut totals) {
            let beside = Beside { phase: *phase, flags: &flags, large: &large, bulk: &bulk };
            let once = beside.measure(&mut callers).await?;
            cycle.insert(
                (*name).to_owned(),
                json!({"requests": once.tally.requests.get(), "p50": once.tally.latency.micros(0.5),
                       "p99": once.tally.latency.micros(0.99), "otherBytes": once.other}),
            );
            total.add(&once);
        }
        cycles.push(Value::Object(cycle));
    }
    Ok(report(&plan, &flags, &phases, &totals, cycles))
}

fn report(
    plan: &Plan,
    flags: &Fairness,
    phases: &[(&str, Option<Phase>)],
    totals: &[Total],
    cycles: Vec<Value>,
) -> bool {
    let (mut by_phase, mut ratios, mut lines) = (Map::new(), Map::new(), Vec::new());
    for ((name, phase), total) in phases.iter().zip(totals) {
        by_phase.insert(
            (*name).to_owned(),
            json!({"requests": total.tally.requests.get(), "errors": total.tally.failures.json(),
                   "latencyUs": total.tally.latency.json(), "lateUs": total.late.json(), "otherBytes": total.other}),
        );
        lines.push(format!("{name} p50 {:.0} µs", total.tally.latency.micros(0.5)));
        if phase.is_some() {
            ratios.insert(
                (*name).to_owned(),
                json!({"p50": ratio(&cycles, name, "p50"), "p99": ratio(&cycles, name, "p99")}),
            );
        }
    }
    let succeeded = totals.iter().all(|total| total.tally.requests.get() > 0);
    crate::emit(&json!({
        "mode": "fairness", "protocol": plan.protocol.name(), "streams": flags.streams, "rate": flags.rate, "phases": by_phase,
        "cycles": cycles, "ratios": ratios, "cpuSeconds": rounded(clock::cpu_seconds(), 6),
    }));
    eprintln!("fairness {}: {}", plan.protocol.name(), lines.join(", "));
    succeeded
}

/// The median over cycles of a phase's quantile by that of `alone`.
fn ratio(cycles: &[Value], phase: &str, quantile: &str) -> Value {
    let at = |cycle: &Value, phase: &str| cycle[phase][quantile].as_f64().filter(|value| *value > 0.0);
    let mut all: Vec<f64> = cycles.iter().filter_map(|c| Some(at(c, phase)? / at(c, "alone")?)).collect();
    all.sort_by(f64::total_cmp);
    match all.len() {
        0 => Value::Null,
        n if n % 2 == 1 => rounded(all[n / 2], 3).into(),
        n => rounded(f64::midpoint(all[n / 2 - 1], all[n / 2]), 3).into(),
    }
}

/// Who is beside the small calls in one phase.
struct Beside<'a> {
    phase: Option<Phase>,
    flags: &'a Fairness,
    large: &'a Rc<Plan>,
    bulk: &'a Rc<Plan>,
}

/// What those beside took, and their failures.
#[derive(Default)]
struct Others {
    bytes: Cell<u64>,
    failures: crate::failure::Failures,
}

impl Beside<'_> {
    /// One phase of one cycle. The callers come back, all of them.
    async fn measure(&self, callers: &mut Vec<Caller>) -> Result<Total, String> {
        let others = Rc::new(Others::default());
        // The bad receiver takes one worker's place on the connection.
        let mut aside = match self.phase {
            Some(Phase::Stalled | Phase::Slow) => callers.pop(),
            _ => None,
        };
        let mut tasks = JoinSet::new();
        self.start(&mut tasks, aside.as_mut().or(callers.first_mut()), &others).await;
        tokio::time::sleep(SETTLE).await;
        let before = others.bytes.get();
        let total = self.calls(callers).await?;
        let other = others.bytes.get() - before;
        tasks.shutdown().await;
        callers.extend(aside);
        tokio::time::sleep(SETTLE).await;
        total.tally.failures.add_all(&others.failures);
        Ok(Total { other, ..total })
    }

    async fn calls(&self, callers: &mut Vec<Caller>) -> Result<Total, String> {
        let tally = Rc::new(Tally::default());
        let mine = std::mem::take(callers);
        let late = if self.flags.rate > 0.0 {
            let pattern = Pattern {
                rate: self.flags.rate,
                poisson: None,
                warmup: Duration::ZERO,
                duration: self.flags.phase,
                grace: self.flags.call.timeout,
            };
            let (outcome, back) = open::play(mine, tally.clone(), &pattern).await?;
            *callers = back;
            Rc::into_inner(outcome.late).unwrap_or_default()
        } else {
            (_, *callers) = closed::play(mine, &tally, Duration::ZERO, self.flags.phase, None).await;
            Spread::default()
        };
        Ok(Total { tally: Rc::into_inner(tally).unwrap_or_default(), late, other: 0 })
    }

    async fn start(&self, tasks: &mut JoinSet<()>, caller: Option<&mut Caller>, others: &Rc<Others>) {
        let (flags, http1) = (self.flags, self.bulk.protocol == Protocol::Http1);
        let own = match caller {
            Some(caller) if !http1 => caller.sender().await,
            _ => None,
        };
        let result: Result<(), Failure> = match self.phase {
            None => Ok(()),
            Some(Phase::Stalled) => stall(tasks, self.large, own).await,
            Some(Phase::Slow) => {
                let way = if http1 { Way::Http1 } else { own.map_or(Way::Http1, Way::Http2) };
                tasks.spawn_local(downloads(way, self.large.clone(), flags.slow_rate, others.clone()));
                Ok(())
            }
            Some(Phase::Bulk) => self.start_bulk(tasks, own, others).await,
        };
        if let Err(failure) = result {
            others.failures.add(failure);
        }
    }

    async fn start_bulk(
        &self,
        tasks: &mut JoinSet<()>,
        own: Option<Sender>,
        others: &Rc<Others>,
    ) -> Result<(), Failure> {
        let flags = self.flags;
        let rate = flags.bulk_rate / u64::from(flags.bulk);
        let mut senders = Vec::new();
        if self.bulk.protocol != Protocol::Http1 {
            for _ in 0..flags.bulk_connections {
                let link = Link::open(&self.bulk.target).await?;
                senders.push(link.sender());
                tasks.spawn_local(keep(link));
            }
            if senders.is_empty() {
                senders.extend(own);
            }
        }
        let mut turns = senders.iter().cycle();
        for _ in 0..flags.bulk {
            let way = turns.next().map_or(Way::Http1, |sender| Way::Http2(sender.clone()));
            tasks.spawn_local(downloads(way, self.bulk.clone(), rate, others.clone()));
        }
        Ok(())
    }
}

/// Holds a connection until the phase is over.
async fn keep<T>(held: T) {
    std::future::pending::<()>().await;
    drop(held);
}

/// Asks for the large body and never reads it.
async fn stall(tasks: &mut JoinSet<()>, plan: &Plan, own: Option<Sender>) -> Result<(), Failure> {
    if let Some(mut sender) = own {
        let (response, stream) = http2::begin(&mut sender, plan, true).await?;
        let body = tokio::time::timeout(plan.timeout, response).await.map_err(|_| Failure::Timeout)??;
        tasks.spawn_local(keep((body, stream)));
    } else {
        let mut stream = plan.target.connect().await?;
        stream.write_all(&plan.bytes).await?;
        tasks.spawn_local(keep(stream));
    }
    Ok(())
}

/// How a download comes.
enum Way {
    /// On a connection of its own.
    Http1,
    Http2(Sender),
}

/// Downloads again and again until the phase is over.
async fn downloads(mut way: Way, plan: Rc<Plan>, rate: u64, others: Rc<Others>) {
    let mut pace = Pace::new(rate);
    loop {
        let seen = |count| add(&others.bytes, count);
        let result = match &mut way {
            Way::Http2(sender) => http2::download(sender, &plan, &mut pace, seen).await,
            Way::Http1 => match http1::Connection::open(&plan.target).await {
                Ok(mut connection) => connection.download(&plan.bytes, plan.expect, &mut pace, seen).await,
                Err(failure) => Err(failure),
            },
        };
        if let Err(failure) = result {
            others.failures.add(failure);
            tokio::time::sleep(PAUSE).await;
        }
    }
}
