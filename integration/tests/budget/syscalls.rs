//! Syscalls of each sidecar for a request: asserted exactly for one call at a time, bounded for 64 at once.

use crate::load::{Callers, Hot, application};
use crate::pair::{Pair, Side};
use crate::recorded::{self, Mode};
use crate::strace::{self, Calls};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

/// Calls before any is counted.
const WARM: usize = 60;
/// Calls that are counted, one by one.
const CALLS: usize = 30;
/// Connections of the second run, and calls of each.
const MANY: (usize, usize) = (64, 15);
/// Not asserted by name, but within the means: the race between two processes decides how much one wake-up finds.
const WAIT: &str = "epoll_wait";
/// Asserted upwards only: the worker wakes itself for a timer that is due before all others, unless one was armed before.
const WAKE: &str = "write";
/// How far means may be above the recorded ones, alone and with many connections, for the same reason.
const SLACK: (f64, f64) = (1.3, 1.5);
/// The same where numbers are small.
const MARGIN: f64 = 0.5;

/// What the file says of itself.
const ABOUT: &[&str] = &[
    "Syscalls of the data worker of each sidecar for one request on a warm connection; for tcp, for one connection from connect to close.",
    "Asserted by integration/tests/budget with strace; record again: WEFT_BUDGET=record cargo test -p weft-integration --test budget",
    "each: the least that any of 30 requests made, each counted alone, by name. Asserted exactly, in both directions, except for epoll_wait, and for fewer of write (a wake-up for a timer). The",
    "least, because the clock only adds: a timer of the worker, a sidecar that wakes before the second half of a message was written.",
    "mean: all of them, over all requests counted; at most 30 % + 0.5 above. It includes what is rare: futex (the access log's thread is woken",
    "once in 20 ms), mprotect and madvise (the allocator), a read more when a buffer ends in the middle of a frame.",
    "at64: the same mean (at most 50 % + 0.5 above) with 64 connections that call at the same time. strace slows the sidecars, so that each wake-up finds more to do",
    "than it would alone: a bound against regressions, not a figure to publish.",
];

/// What one side calls for one request.
#[derive(Debug, Deserialize, Serialize)]
struct Budget {
    each: Calls,
    mean: f64,
    at64: f64,
}

type Budgets = BTreeMap<String, BTreeMap<String, Budget>>;

/// A moment to another, in strace's clock, and the calls made meanwhile.
struct Window {
    from: u128,
    to: u128,
    calls: usize,
}

impl Window {
    fn around(pair: &Pair, callers: &mut Callers, each: usize, callers_count: usize) -> Self {
        let from = strace::now();
        callers.call(each);
        pair.settle();
        Self { from, to: strace::now(), calls: each * callers_count }
    }
}

fn measure(hot: Hot) -> BTreeMap<String, Budget> {
    let folder = tempfile::tempdir().unwrap();
    let pair = Pair::start(&[(hot, application(hot))], folder.path(), |_, settings| strace::command(settings));
    let mut callers = Callers::connect(hot, pair.at(hot), 1);
    callers.call(WARM);
    pair.settle();
    let threads = pair.sides().map(|(_, sidecar)| sidecar.workers());
    let alone: Vec<Window> = (0..CALLS).map(|_| Window::around(&pair, &mut callers, 1, 1)).collect();
    drop(callers);
    let mut callers = Callers::connect(hot, pair.at(hot), MANY.0);
    callers.call(3);
    pair.settle();
    let many = Window::around(&pair, &mut callers, MANY.1, MANY.0);
    drop((callers, pair));
    let sides = [Side::Outbound, Side::Inbound].into_iter().zip(threads);
    let read = |(side, threads): (Side, Vec<u32>)| {
        let log = std::fs::read_to_string(folder.path().join(side.name()).join("strace")).unwrap();
        let count = |window: &Window| strace::between(&log, &threads, window.from, window.to);
        (side.name().to_owned(), budget(&alone.iter().map(count).collect::<Vec<_>>(), &count(&many), many.calls))
    };
    sides.map(read).collect()
}

fn budget(alone: &[Calls], many: &Calls, many_calls: usize) -> Budget {
    let names: BTreeSet<&String> = alone.iter().flat_map(Calls::keys).collect();
    let least = |name: &String| alone.iter().map(|calls| calls.get(name).copied().unwrap_or_default()).min();
    let each = names.into_iter().filter_map(|name| Some((name.clone(), least(name).filter(|n| *n > 0)?)));
    let mean = |calls: u64, of: usize| (calls as f64 / of as f64 * 100.0).round() / 100.0;
    Budget {
        each: each.collect(),
        mean: mean(alone.iter().flat_map(Calls::values).sum(), alone.len()),
        at64: mean(many.values().sum(), many_calls),
    }
}

/// What is not as recorded.
fn compare(now: &Budget, recorded: &Budget) -> Vec<String> {
    let mut wrong = Vec::new();
    for name in now.each.keys().chain(recorded.each.keys()).collect::<BTreeSet<_>>() {
        let [is, was] = [now, recorded].map(|budget| budget.each.get(name).copied().unwrap_or_default());
        if name == WAIT || name == WAKE && is < was {
            continue;
        }
        if is != was {
            wrong.push(format!("{name} {is}, recorded {was}"));
        }
    }
    for (what, is, was, slack) in [
        ("on average", now.mean, recorded.mean, SLACK.0),
        ("on average at 64 connections", now.at64, recorded.at64, SLACK.1),
    ] {
        if is > was * slack + MARGIN {
            wrong.push(format!("{is} {what}, recorded {was}"));
        }
    }
    wrong
}

#[test]
fn a_request_makes_on_each_hot_path_the_syscalls_that_were_recorded() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/budget/syscalls.json");
    let measured: Budgets = Hot::ALL.into_iter().map(|hot| (hot.name().to_owned(), measure(hot))).collect();
    for (hot, sides) in &measured {
        for (side, Budget { each, mean, at64 }) in sides {
            eprintln!(
                "{hot:>6} {side:>8}: {mean} syscalls for each request, {at64} at {} connections; {each:?}",
                MANY.0
            );
        }
    }
    if recorded::mode() == Mode::Record {
        recorded::write(&file, ABOUT, measured);
    } else if recorded::mode() == Mode::Assert {
        let recorded: Budgets = recorded::read(&file);
        let mut wrong = String::new();
        for (hot, sides) in &measured {
            for (side, now) in sides {
                for complaint in compare(now, &recorded[hot][side]) {
                    let _ = writeln!(wrong, "{hot} {side}: {complaint}");
                }
            }
        }
        let how = "If that is meant: WEFT_BUDGET=record cargo test -p weft-integration --test budget, and say why in the commit";
        assert!(wrong.is_empty(), "syscalls for each request:\n{wrong}{how}");
    }
}

#[test]
fn the_least_is_exact_and_what_comes_and_goes_is_in_the_mean() {
    let calls = |reads, writes| Calls::from([("read".to_owned(), reads), ("write".to_owned(), writes)]);
    let now = budget(&[calls(2, 1), calls(2, 0), calls(2, 3), calls(2, 1)], &calls(2, 2), 4);
    assert_eq!(now.each, Calls::from([("read".to_owned(), 2)]));
    assert_eq!((now.mean, now.at64), (3.25, 1.0));
    assert!(compare(&now, &now).is_empty());
    let other = budget(&[calls(3, 2), calls(3, 2)], &calls(2, 2), 4);
    assert_eq!(compare(&other, &now), ["read 3, recorded 2", "write 2, recorded 0", "5 on average, recorded 3.25"]);
    let waits =
        |count| Budget { each: Calls::from([(WAIT.to_owned(), count)]), ..budget(&[calls(2, 2)], &calls(2, 2), 4) };
    assert!(compare(&waits(5), &waits(6)).is_empty());
    assert_eq!(compare(&now, &other), ["read 2, recorded 3"], "fewer wake-ups are nobody's fault");
}
