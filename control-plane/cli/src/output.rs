//! How answers are printed: aligned tables without borders, JSON, YAML, names. Output is an interface: scripts read it.
//!
//! Cells carry their units; missing data is `-` in a table and `null` in a document. What is printed is decided by the commands.

use crate::failure::Failure;
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns
    Table,
    /// More columns
    Wide,
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
    /// kind/name, one a line
    Name,
}

/// Renders aligned columns with two spaces between them and no trailing blanks. Columns listed in `right` hold numbers.
pub fn table<H: AsRef<str>>(header: &[H], rows: &[Vec<String>], right: &[usize]) -> String {
    let mut lines: Vec<Vec<String>> = vec![header.iter().map(|cell| cell.as_ref().to_owned()).collect()];
    // A cell that holds a newline would break the rows that scripts count.
    lines.extend(rows.iter().map(|row| row.iter().map(|cell| cell.replace('\n', " ")).collect()));
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (column, cell) in line.iter().enumerate() {
            let pad = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
            let gap = if column == 0 { "" } else { "  " };
            row.push_str(gap);
            if right.contains(&column) {
                row.push_str(&pad);
                row.push_str(cell);
            } else {
                row.push_str(cell);
                row.push_str(&pad);
            }
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// One JSON document, pretty, newline at the end.
pub fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| Failure::not_well(format!("cannot write JSON: {error}")))
}

/// One YAML document.
pub fn yaml(value: &impl Serialize) -> Result<String, Failure> {
    serde_saphyr::to_string(value).map_err(|error| Failure::not_well(format!("cannot write YAML: {error}")))
}

/// Writes to stdout; a reader that went away (`| head`) ends the command quietly.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Err(Failure { exit: crate::failure::Exit::NotWell, message: String::new(), hint: None })
        }
        Err(error) => Err(Failure::not_well(format!("cannot write to stdout: {error}"))),
    }
}

/// Says how long work goes on, on stderr, when somebody looks.
pub fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{text}");
    }
}

/// `7s`, `5m`, `3h12m`, `4d2h`: the two largest units where the first is small, as kubectl prints ages.
pub fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => with_rest(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => with_rest(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => with_rest(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

fn with_rest(first: u64, unit: &str, rest: u64, rest_unit: &str) -> String {
    if rest == 0 { format!("{first}{unit}") } else { format!("{first}{unit}{rest}{rest_unit}") }
}

/// Seconds since the Unix epoch of an RFC 3339 time in UTC ("2026-01-02T03:04:05Z"), as Kubernetes writes them.
pub fn epoch(rfc3339: &str) -> Option<i64> {
    let field = |range: std::ops::Range<usize>| rfc3339.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (field(0..4)?, field(5..7)?, field(8..10)?);
    let (hour, minute, second) = (field(11..13)?, field(14..16)?, field(17..19)?);
    if !rfc3339.ends_with('Z') || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days from civil (Howard Hinnant): years begin in March so that the leap day is the last.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// The time of so many seconds since the Unix epoch, in UTC, as [`epoch`] reads it.
pub fn rfc3339(epoch: i64) -> String {
    let (days, second) = (epoch.div_euclid(86_400), epoch.rem_euclid(86_400));
    // Civil from days (Howard Hinnant), the inverse of the above.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

/// Seconds since the Unix epoch, now.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A duration as the API reads it (GEP-2257): seconds, and milliseconds where there are any, since no part may have more than five digits.
#[must_use]
pub fn written(duration: std::time::Duration) -> String {
    match (duration.as_secs(), duration.subsec_millis()) {
        (0, millis) => format!("{millis}ms"),
        (seconds, 0) => format!("{seconds}s"),
        (seconds, millis) => format!("{seconds}s{millis}ms"),
    }
}

/// A duration as Kubernetes and Gateway API write it: "1h30m", "10s", "250ms"; a bare number is seconds.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let bad = || format!("'{text}' is no duration; write 10s, 1m30s or 24h");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(std::time::Duration::from_secs(seconds));
    }
    let (mut total, mut rest) = (std::time::Duration::ZERO, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let millis = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        rest = &rest[letters..];
        let part = number.checked_mul(millis).ok_or_else(bad)?;
        total = total.checked_add(std::time::Duration::from_millis(part)).ok_or_else(bad)?;
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_blanks() {
        let rows = vec![vec!["catalog".into(), "12.5".into()], vec!["users".into(), "3.0".into()]];
        assert_eq!(table(&["NAME", "RPS"], &rows, &[1]), "NAME      RPS\ncatalog  12.5\nusers     3.0\n");
    }

    #[test]
    fn ages_are_written_as_kubectl_writes_them() {
        let cases =
            [(0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (700, "11m"), (11_100, "3h5m"), (200_000, "2d7h")];
        for (seconds, text) in cases {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn times_are_read_as_kubernetes_writes_them() {
        assert_eq!(epoch("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(epoch("2026-11-21T23:04:17Z"), Some(1_795_302_257));
        assert_eq!(epoch("2024-02-29T12:00:00Z"), Some(1_709_208_000));
        assert_eq!(epoch("yesterday"), None);
        for time in ["1970-01-01T00:00:00Z", "2024-02-29T12:00:00Z", "2026-12-31T23:59:59Z", "2100-03-01T00:00:01Z"] {
            assert_eq!(epoch(time).map(rfc3339).as_deref(), Some(time));
        }
    }

    #[test]
    fn durations_are_read_in_every_usual_spelling() {
        assert_eq!(duration("90").unwrap().as_secs(), 90);
        assert_eq!(duration("1m30s").unwrap().as_secs(), 90);
        assert_eq!(duration("250ms").unwrap().as_millis(), 250);
        for text in ["0ms", "250ms", "10s", "300s", "86400s", "1s500ms"] {
            assert_eq!(written(duration(text).unwrap()), text);
        }
        assert!(duration("soon").is_err());
        assert!(duration("").is_err());
        assert!(duration("5x").is_err());
    }
}
