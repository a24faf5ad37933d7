//! Medians, Markdown and JSON.

use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// What a run has found: the text for people and the same numbers for machines.
#[derive(Default)]
pub struct Report {
    markdown: String,
    json: Map<String, Value>,
}

impl Report {
    pub fn text(&mut self, line: &str) {
        println!("{line}");
        self.markdown.push_str(line);
        self.markdown.push('\n');
    }

    /// A section of its own, told as it is found.
    pub fn section(&mut self, title: &str) {
        self.text(&format!("\n## {title}\n"));
    }

    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        self.text(&format!("| {} |", head.join(" | ")));
        self.text(&format!("|{}", " --- |".repeat(head.len())));
        for row in rows {
            self.text(&format!("| {} |", row.join(" | ")));
        }
        self.text("");
    }

    pub fn value(&mut self, name: &str, value: Value) {
        self.json.insert(name.to_owned(), value);
    }

    pub fn write(&self, directory: &std::path::Path) {
        std::fs::create_dir_all(directory).expect("a directory for the results");
        std::fs::write(directory.join("control.md"), &self.markdown).expect("control.md");
        let json = format!("{:#}\n", Value::Object(self.json.clone()));
        std::fs::write(directory.join("control.json"), json).expect("control.json");
    }
}

/// Rounds of one measurement.
#[derive(Clone, Debug, Default)]
pub struct Rounds(pub Vec<f64>);

impl Rounds {
    /// The value below which this share of the rounds is.
    pub fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get((share * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
    }

    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    pub fn max(&self) -> f64 {
        self.at(1.0)
    }

    pub fn json(&self) -> Value {
        json!({"median": self.median(), "min": self.at(0.0), "max": self.max(), "rounds": self.0.len()})
    }
}

/// Runs until there were `least` rounds and `budget` is used up, at most `most`; the round returns its own figure.
pub fn rounds(least: usize, most: usize, budget: Duration, mut round: impl FnMut(usize) -> f64) -> Rounds {
    let started = Instant::now();
    let mut all = Vec::new();
    while all.len() < least || (all.len() < most && started.elapsed() < budget) {
        all.push(round(all.len()));
    }
    Rounds(all)
}

/// Milliseconds that something took, and what it returned.
pub fn timed<T>(run: impl FnOnce() -> T) -> (T, f64) {
    let started = Instant::now();
    let value = run();
    (value, started.elapsed().as_secs_f64() * 1e3)
}

/// `1.23`, `45.6`, `789`, `1,234`: three digits that mean something.
pub fn figure(value: f64) -> String {
    match value.abs() {
        v if v < 0.095 => format!("{value:.3}"),
        v if v < 9.95 => format!("{value:.2}"),
        v if v < 99.5 => format!("{value:.1}"),
        _ => count(value.round() as i64),
    }
}

pub fn count(value: impl TryInto<i64>) -> String {
    let value: i64 = value.try_into().unwrap_or_default();
    let digits = value.unsigned_abs().to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0 { format!("-{out}") } else { out }
}
