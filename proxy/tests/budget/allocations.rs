//! Allocations of each sidecar for a request, asserted exactly against `allocations.json`.

use crate::child::{self, Parent};
use crate::load::{Callers, Hot, application};
use crate::pair::{Pair, Side};
use crate::recorded::{self, Mode};
use crate::sites;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Calls before any is counted: connections are open, tables and buffers have their size.
const WARM: usize = 200;
/// Calls that are counted, one by one, twice.
const CALLS: usize = 40;
/// Calls whose allocations are traced where a number is wrong.
const TRACED: usize = 25;
/// How far the mean may be above the recorded one.
const MARGIN: f64 = 0.35;

/// What the file says of itself.
const ABOUT: &[&str] = &[
    "Calls of the allocator (a reallocation is one) by the data worker of each sidecar, for one request on a warm connection; for tcp, for one",
    "connection from connect to close. Asserted by proxy/tests/budget; record again: WEFT_BUDGET=record cargo test -p weft-proxy --test budget",
    "each: what most requests cost, each counted alone. Asserted exactly, in both directions: what was saved is recorded, or it is lost again.",
    "mean: over all requests that were counted; at most 0.35 above. It has a fraction where not every request pays: an HPACK table that is full",
    "evicts an entry every few requests, a read buffer is replaced when it is used up, random ids are sometimes shorter.",
    "sites: who allocates, by functions (innermost first), from 25 requests. Not asserted: they name what changed when a number is wrong.",
];

/// What one side allocates for one request.
#[derive(Debug, Deserialize, Serialize)]
struct Budget {
    each: u64,
    mean: f64,
    sites: BTreeMap<String, f64>,
}

type Budgets = BTreeMap<String, BTreeMap<String, Budget>>;

/// Counts for each call of a run.
struct Counts(Vec<u64>);

impl Counts {
    /// The most frequent count.
    fn each(&self) -> u64 {
        let often = |count: &u64| self.0.iter().filter(|other| *other == count).count();
        self.0.iter().copied().max_by_key(often).unwrap_or_default()
    }

    fn mean(&self) -> f64 {
        (self.0.iter().sum::<u64>() as f64 / self.0.len() as f64 * 100.0).round() / 100.0
    }
}

/// A pair whose sidecars count, with one caller.
struct Stage {
    pair: Pair,
    asks: [Parent; 2],
    callers: Callers,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new(hot: Hot) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pair = Pair::start(&[(hot, application(hot))], folder.path(), |_, settings| child::command(settings));
        let asks = pair.sides().map(|(side, _)| Parent::connect(&folder.path().join(side.name())));
        let callers = Callers::connect(hot, pair.at(hot), 1);
        Self { pair, asks, callers, _folder: folder }
    }

    fn call(&mut self, calls: usize) {
        self.callers.call(calls);
        self.pair.settle();
    }

    /// What each of `CALLS` calls allocates, on each side.
    fn count(&mut self) -> [Counts; 2] {
        let mut counts = [Counts(Vec::new()), Counts(Vec::new())];
        let mut before = self.asks.each_mut().map(Parent::counted);
        for _ in 0..CALLS {
            self.call(1);
            let now = self.asks.each_mut().map(Parent::counted);
            for side in 0..2 {
                counts[side].0.push(now[side] - before[side]);
            }
            before = now;
        }
        counts
    }

    fn sites(&mut self) -> [sites::Sites; 2] {
        self.asks.iter_mut().for_each(Parent::trace);
        self.call(TRACED);
        self.asks.each_mut().map(|ask| sites::of(&ask.traces(), TRACED))
    }
}

/// What was measured of a path: each side's budget, with its sites as text.
fn measure(hot: Hot, recorded: Option<&BTreeMap<String, Budget>>, wrong: &mut String) -> BTreeMap<String, Budget> {
    let mut stage = Stage::new(hot);
    stage.call(WARM);
    let [first, second] = [stage.count(), stage.count()];
    let mut found = Vec::new();
    for (i, side) in [Side::Outbound, Side::Inbound].into_iter().enumerate() {
        let (each, again) = (first[i].each(), second[i].each());
        let (hot, side) = (hot.name(), side.name());
        assert_eq!(each, again, "{hot} {side}: two runs of {CALLS} calls: {:?}", [&first[i].0, &second[i].0]);
        let mean = Counts([first[i].0.as_slice(), &second[i].0].concat()).mean();
        eprintln!("{hot:>6} {side:>8}: {each} allocations for each request, {mean} on average");
        found.push((side, each, mean));
    }
    let meets = |(side, each, mean): &(&str, u64, f64)| {
        recorded.is_some_and(|all| all[*side].each == *each && *mean <= all[*side].mean + MARGIN)
    };
    let mut measured = BTreeMap::new();
    if found.iter().all(meets) {
        return measured;
    }
    for ((side, each, mean), sites) in found.into_iter().zip(stage.sites()) {
        let was = recorded.map(|all| &all[side]).filter(|_| !meets(&(side, each, mean)));
        if let Some(was) = was {
            let (hot, recorded) = (hot.name(), format!("{} ({})", was.each, was.mean));
            let _ = writeln!(
                wrong,
                "{hot} {side}: {each} allocations for each request ({mean} on average), recorded {recorded}. Changed:"
            );
            wrong.push_str(&sites::changes(&sites, &was.sites));
        } else if recorded::mode() == Mode::Report {
            let _ = writeln!(wrong, "{} {side}: {each} allocations for each request ({mean} on average)", hot.name());
            wrong.push_str(&sites::changes(&sites, &BTreeMap::new()));
        }
        let sites = sites.into_iter().map(|(key, (each, _))| (key, each)).collect();
        measured.insert(side.to_owned(), Budget { each, mean, sites });
    }
    measured
}

#[test]
fn a_request_allocates_on_each_hot_path_what_was_recorded() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/budget/allocations.json");
    let mode = recorded::mode();
    let recorded: Option<Budgets> = (mode == Mode::Assert).then(|| recorded::read(&file));
    let mut report = String::new();
    let measured: Budgets = Hot::ALL
        .into_iter()
        .map(|hot| (hot.name().to_owned(), measure(hot, recorded.as_ref().map(|all| &all[hot.name()]), &mut report)))
        .collect();
    match mode {
        Mode::Record => recorded::write(&file, ABOUT, measured),
        Mode::Report => eprintln!("{report}"),
        Mode::Assert => {
            let how = "If that is meant: WEFT_BUDGET=record cargo test -p weft-proxy --test budget, and say why in the commit";
            assert!(report.is_empty(), "\n{report}\n{how}");
        }
    }
}
