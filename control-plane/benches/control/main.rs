//! What the control plane costs: compiling and encoding, memory, and the way of a change to its sidecars.
//!
//! `cargo bench -p weft-control --bench control -- [quick|full] [compile] [sessions] [scale] [streams] [fleet]`; without sections: all of them
//! but `fleet`.
//! Results go to stdout, and as `control.md` and `control.json` to `$WEFT_BENCH_OUT` (default `target/bench`).
//!
//! [`shop`] makes the mesh that is measured, [`offline`] runs compiler and encoder alone, [`sessions`] the protocol of many streams without
//! a network, [`fleet`] and [`sidecars`] real streams to a control plane in a process of its own ([`plane`]).
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot be made ends the program"
)]

mod fleet;
mod memory;
mod offline;
mod plane;
mod report;
mod sessions;
mod shop;
mod sidecars;

use report::Report;
use shop::Size;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn main() {
    // `cargo bench` adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [serve, directory] = arguments.as_slice()
        && serve == "serve"
    {
        return plane::serve(Path::new(directory));
    }
    let quick = arguments.iter().any(|a| a == "quick");
    let sections: Vec<&String> = arguments.iter().filter(|a| !["quick", "full"].contains(&a.as_str())).collect();
    let wanted = |name: &str| sections.is_empty() || sections.iter().any(|s| *s == name);

    let mut report = Report::default();
    report.text("# What the control plane costs");
    report.text(&format!("\n{}", machine()));
    let many = |services| Size { services, in_namespace: 100, endpoints: 0 };
    let alone = |services| Size { services, in_namespace: services, endpoints: 0 };
    let rounds = if quick { 5 } else { 15 };
    if wanted("compile") {
        let sizes = [many(100), many(1_000), alone(1_000), many(10_000)];
        let budget = Duration::from_millis(if quick { 400 } else { 2000 });
        offline::run(&mut report, if quick { &sizes[..3] } else { &sizes }, budget);
    }
    if wanted("sessions") {
        sessions::run(&mut report, many(1_000), 1_000);
    }
    if wanted("scale") {
        let sizes = [None, Some(many(100)), Some(many(1_000)), Some(many(10_000))];
        sidecars::scale(&mut report, if quick { &sizes[..3] } else { &sizes }, rounds);
    }
    if wanted("streams") {
        let steps: &[usize] = if quick { &[100, 500] } else { &[100, 1_000] };
        sidecars::run(&mut report, Size { services: 1_000, in_namespace: 500, endpoints: 0 }, steps, rounds);
    }
    // By its name alone: it takes minutes, and a core for each side.
    if sections.iter().any(|s| *s == "fleet") {
        fleet::run(&mut report, quick);
    }
    let out = std::env::var_os("WEFT_BENCH_OUT")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench")), PathBuf::from);
    report.write(&out);
    eprintln!("written to {}", out.join("control.md").display());
}

/// Where it ran.
fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or(": an unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} × {}", cores, model.trim_start_matches([' ', '\t', ':']))
}
