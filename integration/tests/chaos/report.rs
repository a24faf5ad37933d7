//! What users saw, as numbers and as a table.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// Something that goes wrong.
pub struct Fault {
    pub name: &'static str,
    pub lasts: Duration,
    /// What it did not touch, or what helped.
    pub right: &'static str,
}

/// Calls that began within some time.
#[derive(Debug)]
pub struct Calls {
    pub calls: usize,
    pub failed: usize,
    pub p99: Duration,
}

impl Calls {
    /// Of calls by outcome and duration.
    pub fn of(mut took: Vec<Duration>, failed: usize) -> Self {
        took.sort_unstable();
        let p99 = took.get(took.len() * 99 / 100).copied().unwrap_or_default();
        Self { calls: took.len(), failed, p99 }
    }

    pub fn is_perfect(&self) -> bool {
        self.calls > 0 && self.failed == 0
    }

    /// Per cent that succeeded.
    pub fn share(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "some thousand calls")]
        let share = (self.calls - self.failed) as f64 * 100.0 / self.calls.max(1) as f64;
        share
    }

    /// What is slow, where these are ordinary: a busy machine is not.
    pub fn slow(&self) -> Duration {
        (self.p99 * 3).max(Duration::from_secs(1))
    }
}

/// A fault and what users saw of it.
pub struct Row {
    pub fault: Fault,
    pub before: Calls,
    pub during: Calls,
    pub after: Calls,
    /// From its end to the beginning of the last call that failed or was slow.
    pub recovery: Duration,
}

impl Row {
    pub fn line(&self) -> String {
        let share = |calls: &Calls| match calls.failed {
            0 => "100 %".to_owned(),
            _ => format!("{:.1} %", calls.share()),
        };
        let ratio = self.during.p99.as_secs_f64() / self.before.p99.as_secs_f64().max(1e-6);
        let calls = self.before.calls + self.during.calls + self.after.calls;
        format!(
            "| {} | {} s | {calls} | {} | {} | {} | {} → {} ms (×{ratio:.1}) | {:.1} s | {} |",
            self.fault.name,
            self.fault.lasts.as_secs(),
            share(&self.before),
            share(&self.during),
            share(&self.after),
            self.before.p99.as_millis(),
            self.during.p99.as_millis(),
            self.recovery.as_secs_f64(),
            self.fault.right,
        )
    }
}

pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| fault | lasted | calls | well before | during | after | p99 before → during | well again after | what stayed right |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        writeln!(text, "{}", row.line()).unwrap();
    }
    text
}

/// Writes into the target folder.
pub fn write(name: &str, text: &str) {
    let test = std::env::current_exe().unwrap();
    let target: &Path = test.ancestors().nth(3).expect("tests live in target/<profile>/deps");
    std::fs::write(target.join(name), text).unwrap();
}
