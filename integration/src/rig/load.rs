//! The shop's load driver as tests use it: meshed, and asked for its report while it runs.

use super::stage::text;
use super::{Mesh, Run, Sidecar, binary, wait_for};
use serde_json::Value;
use std::path::PathBuf;

/// The load driver, itself meshed.
pub struct Load {
    /// Its sidecar.
    pub sidecar: Sidecar,
    report: PathBuf,
}

impl Load {
    /// Calls `target` `rps` times a second until it is told to stop.
    #[track_caller]
    pub fn start(mesh: &Mesh, target: &str, rps: u32) -> Self {
        Self::drive(mesh, target, rps, &[])
    }

    /// Calls `target` for `duration`.
    #[track_caller]
    pub fn during(mesh: &Mesh, target: &str, rps: u32, duration: &str) -> Self {
        Self::drive(mesh, target, rps, &["--duration", duration])
    }

    fn drive(mesh: &Mesh, target: &str, rps: u32, more: &[&str]) -> Self {
        let shop = binary("weft-shop");
        let report = mesh.folder().join("report.json");
        let rps = rps.to_string();
        let mut command = vec![text(&shop), "load", "--target", target, "--rps", &rps, "--report", text(&report)];
        command.extend(more);
        let sidecar = mesh.run(&Run { name: "load", command: &command, ..Run::default() });
        Self { sidecar, report }
    }

    /// The report as it is now.
    pub fn report(&self) -> Result<Value, String> {
        let text = std::fs::read(&self.report).map_err(|e| e.to_string())?;
        serde_json::from_slice(&text).map_err(|e| e.to_string())
    }

    /// Calls that were made so far.
    pub fn total(&self) -> u64 {
        self.report().ok().and_then(|r| r["total"].as_u64()).unwrap_or_default()
    }

    /// Waits for `more` calls, none of which may fail.
    #[track_caller]
    pub fn go_on_well(&mut self, more: u64) {
        let from = self.total();
        let process = &mut self.sidecar.process;
        let report = &self.report;
        wait_for("the load goes on", || {
            process.assert_running();
            let text = std::fs::read(report).map_err(|e| e.to_string())?;
            let report: Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
            assert_eq!(report["failed"], 0, "{report:#}");
            let total = report["total"].as_u64().unwrap_or_default();
            if total >= from + more { Ok(()) } else { Err(format!("{total} calls")) }
        });
    }

    /// Stops it by SIGTERM; the last report.
    #[track_caller]
    pub fn stop(mut self) -> Value {
        assert_eq!(self.sidecar.process.stop(), 0, "{}", self.sidecar.process.log());
        self.last()
    }

    /// Waits for its end; the last report.
    #[track_caller]
    pub fn end(mut self) -> Value {
        assert_eq!(self.sidecar.process.wait(), 0, "{}", self.sidecar.process.log());
        self.last()
    }

    fn last(&self) -> Value {
        let report = self.report().expect("the load driver wrote its report");
        assert_eq!(report["done"], true, "{report:#}");
        report
    }
}

/// Nobody who made these calls saw a failure.
#[track_caller]
pub fn assert_all_well(report: &Value) {
    println!("{} calls, {} failed, by variant {}", report["total"], report["failed"], report["variants"]);
    assert_eq!(report["failed"], 0, "{report:#}");
    assert!(report["total"].as_u64() > Some(0), "{report:#}");
}
