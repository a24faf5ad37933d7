//! Instructions of the whole request path, both sidecars together, for one request.

use crate::callgrind::{self, Costs};
use crate::load::{Callers, Hot, application};
use crate::pair::Pair;
use crate::recorded::{self, Mode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// Paths that are counted.
const PATHS: [Hot; 3] = [Hot::Http1, Hot::Http2, Hot::Grpc];
/// Calls before any is counted.
const WARM: usize = 60;
/// Calls that are counted together, twice; the cheaper counts.
const CALLS: u64 = 50;
/// How much more than recorded is still within the budget.
const SLACK: f64 = 1.05;
/// Functions that are recorded of each side, and shown when the budget is exceeded.
const FUNCTIONS: (usize, usize) = (60, 12);

/// What the file says of itself.
const ABOUT: &[&str] = &[
    "Instructions of the data worker of each sidecar for one request on one warm connection, counted by valgrind's callgrind in the build that",
    "`make test` makes (opt-level 1, overflow checks). Asserted by integration/tests/budget for both sidecars together, with 5 % slack.",
    "Record again: WEFT_BUDGET=record cargo test -p weft-integration --test budget",
    "functions: the 60 dearest of each side by their own cost. Not asserted: they name what grew when the budget is exceeded.",
    "valgrind counts one instruction for each step of `rep movsb`: __memcpy_… is roughly the bytes moved in blocks of 2 KiB and more.",
    "Another compiler, or a processor without AVX2 or AES-NI, makes other numbers (AVX-512 makes none: valgrind hides it).",
];

#[derive(Debug, Deserialize, Serialize)]
struct Recorded {
    toolchain: String,
    /// Largest difference between two runs of the same path when this was recorded, in per cent.
    noise_percent: f64,
    paths: BTreeMap<String, BTreeMap<String, Budget>>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
struct Budget {
    instructions: u64,
    functions: Costs,
}

/// Costs of a run by side.
type Sides = BTreeMap<String, Costs>;

fn total(sides: &Sides) -> u64 {
    sides.values().flat_map(Costs::values).sum()
}

/// The two sidecars, and how often they have written what they counted.
struct Stage {
    pair: Pair,
    folder: tempfile::TempDir,
    dumps: u32,
}

impl Stage {
    fn dump(&mut self) -> u32 {
        self.pair.settle();
        callgrind::dump(self.pair.sides().map(|(_, sidecar)| sidecar.pid));
        self.dumps += 1;
        self.dumps
    }

    /// What `CALLS` calls cost on each side.
    fn count(&mut self, callers: &mut Callers) -> Sides {
        self.dump();
        callers.call(usize::try_from(CALLS).unwrap());
        let number = self.dump();
        let read = |side: &str| callgrind::read_worker(&self.folder.path().join(side), number);
        self.pair.sides().map(|(side, _)| (side.name().to_owned(), read(side.name()))).into()
    }

    /// Two runs of a path.
    fn path(&mut self, hot: Hot) -> [Sides; 2] {
        let mut callers = Callers::connect(hot, self.pair.at(hot), 1);
        callers.call(WARM);
        [self.count(&mut callers), self.count(&mut callers)]
    }
}

/// Costs of one request, the dearest functions only.
fn budget(costs: &Costs) -> Budget {
    let mut functions: Vec<_> = costs.iter().map(|(name, cost)| (name.clone(), cost / CALLS)).collect();
    functions.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
    functions.truncate(FUNCTIONS.0);
    Budget { instructions: costs.values().sum::<u64>() / CALLS, functions: functions.into_iter().collect() }
}

/// The functions that grew most, with their cost for a request now and as recorded.
fn grown(now: &Costs, recorded: &Budget) -> String {
    // Of a function that is not recorded it is known that it cost no more than the least that is.
    let least = recorded.functions.values().copied().min().unwrap_or_default();
    let was = |name: &str| recorded.functions.get(name).copied();
    let mut grown: Vec<_> = now.iter().map(|(name, cost)| (cost / CALLS, was(name), name)).collect();
    grown.retain(|(cost, was, _)| *cost > was.unwrap_or(least));
    grown.sort_by_key(|(cost, was, _)| std::cmp::Reverse(cost - was.unwrap_or(least)));
    let mut out = String::new();
    for (cost, was, name) in grown.into_iter().take(FUNCTIONS.1) {
        let was = was.map_or_else(|| format!("below {least}"), |was| was.to_string());
        let _ = writeln!(out, "      {cost:>7} (recorded: {was}) {name}");
    }
    out
}

fn toolchain() -> String {
    let version = Command::new("rustc").arg("--version").output().ok().filter(|done| done.status.success());
    version.map_or_else(|| "unknown".to_owned(), |done| String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

#[test]
fn a_request_costs_no_more_instructions_than_its_budget() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/budget/instructions.json");
    let folder = tempfile::tempdir().unwrap();
    let paths = PATHS.map(|hot| (hot, application(hot)));
    let pair = Pair::start(&paths, folder.path(), |_, settings| callgrind::command(settings));
    let mut stage = Stage { pair, folder, dumps: 0 };
    let mut measured = Recorded { toolchain: toolchain(), noise_percent: 0.0, paths: BTreeMap::new() };
    let recorded: Option<Recorded> = (recorded::mode() == Mode::Assert).then(|| recorded::read(&file));
    let mut wrong = String::new();
    for hot in PATHS {
        let [first, second] = stage.path(hot);
        let noise = (total(&first).abs_diff(total(&second))) as f64 / total(&first) as f64 * 100.0;
        measured.noise_percent = measured.noise_percent.max((noise * 100.0).round() / 100.0);
        let costs = if total(&first) <= total(&second) { first } else { second };
        let now = total(&costs) / CALLS;
        eprintln!("{:>6}: {now} instructions for each request, two runs differ by {noise:.2} %", hot.name());
        if let Some(all) = &recorded {
            let was = &all.paths[hot.name()];
            let budget: u64 = was.values().map(|side| side.instructions).sum();
            if now as f64 > budget as f64 * SLACK {
                let percent = (now as f64 / budget as f64 - 1.0) * 100.0;
                let _ = writeln!(
                    wrong,
                    "{}: {now} instructions for each request, {percent:.1} % above the recorded {budget}",
                    hot.name()
                );
                for (side, costs) in &costs {
                    let _ = writeln!(
                        wrong,
                        "   {side}, {} (recorded {}), grew most:",
                        budget_of(costs),
                        was[side].instructions
                    );
                    wrong += &grown(costs, &was[side]);
                }
            }
        }
        measured
            .paths
            .insert(hot.name().to_owned(), costs.iter().map(|(side, costs)| (side.clone(), budget(costs))).collect());
    }
    match (recorded::mode(), recorded) {
        (Mode::Record, _) => recorded::write(&file, ABOUT, measured),
        (Mode::Assert, Some(recorded)) => {
            let made = format!("Recorded with {}, this is {}.", recorded.toolchain, measured.toolchain);
            let how = "If that is meant: WEFT_BUDGET=record cargo test -p weft-integration --test budget, and say why in the commit";
            assert!(wrong.is_empty(), "\n{wrong}{made}\n{how}");
        }
        _ => report(&measured),
    }
}

fn budget_of(costs: &Costs) -> u64 {
    costs.values().sum::<u64>() / CALLS
}

/// Everything, dearest first.
fn report(measured: &Recorded) {
    for (hot, sides) in &measured.paths {
        for (side, budget) in sides {
            eprintln!("{hot} {side}: {} instructions for each request", budget.instructions);
            let mut functions: Vec<_> = budget.functions.iter().collect();
            functions.sort_by_key(|(_, cost)| std::cmp::Reverse(**cost));
            functions.iter().for_each(|(name, cost)| eprintln!("   {cost:>7} {name}"));
        }
    }
}

#[test]
fn the_functions_that_grew_are_named_dearest_first() {
    let costs =
        |text: &[(&str, u64)]| text.iter().map(|(name, cost)| ((*name).to_owned(), cost * CALLS)).collect::<Costs>();
    let recorded = budget(&costs(&[("weft_proxy::a", 100), ("weft_proxy::b", 50)]));
    let now =
        costs(&[("weft_proxy::a", 90), ("weft_proxy::b", 70), ("weft_proxy::new", 200), ("weft_proxy::small", 10)]);
    let lines: Vec<String> = grown(&now, &recorded).lines().map(|line| line.trim().to_owned()).collect();
    assert_eq!(lines, ["200 (recorded: below 50) weft_proxy::new", "70 (recorded: 50) weft_proxy::b"]);
}
