//! Recorded budgets: a JSON file beside the test that asserts them, written anew by `WEFT_BUDGET=record`. Shared with
//! `integration/tests/budget`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Deserialize, Serialize)]
struct File<T> {
    /// For whoever opens the file: what the numbers are, and how to record them again.
    about: Vec<String>,
    budget: T,
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Compares with what was recorded.
    Assert,
    /// Records.
    Record,
    /// Prints what it measures, in full, and compares nothing.
    Report,
}

/// `WEFT_BUDGET`: nothing, `record` or `report`.
pub fn mode() -> Mode {
    match std::env::var("WEFT_BUDGET").as_deref() {
        Err(_) | Ok("") => Mode::Assert,
        Ok("record") => Mode::Record,
        Ok("report") => Mode::Report,
        Ok(other) => panic!("WEFT_BUDGET={other:?}: there are \"record\" and \"report\""),
    }
}

/// What was recorded.
pub fn read<T: DeserializeOwned>(file: &Path) -> T {
    let text = std::fs::read_to_string(file)
        .unwrap_or_else(|e| panic!("{}: {e}: run with WEFT_BUDGET=record", file.display()));
    let file: File<T> =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}: run with WEFT_BUDGET=record", file.display()));
    file.budget
}

/// Records.
pub fn write(file: &Path, about: &[&str], budget: impl Serialize) {
    let file_of = File { about: about.iter().map(|line| (*line).to_owned()).collect(), budget };
    let text = serde_json::to_string_pretty(&file_of).expect("plain data") + "\n";
    std::fs::write(file, text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    eprintln!("recorded {}", file.display());
}
