//! `weft proxy stats`: what a sidecar counts, as a scrape would have it, or as one JSON document.

use super::{path, place};
use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::output;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Flags of `weft proxy stats`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Whose: [namespace/]name of a workload
    #[arg(value_name = "WORKLOAD")]
    workload: String,
    /// Only metrics whose names contain this
    #[arg(value_name = "METRIC", default_value = "")]
    name: String,
    /// Namespace of a workload that is named without one
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "prometheus")]
    output: Form,
}

/// Forms of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// The Prometheus text format
    Prometheus,
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
}

/// One family of metrics.
#[derive(Debug, Serialize)]
struct Family {
    name: String,
    /// `counter`, `gauge`, `histogram`.
    #[serde(rename = "type")]
    kind: String,
    help: String,
    samples: Vec<Sample>,
}

#[derive(Debug, Serialize)]
struct Sample {
    /// With the ending that a histogram's samples have.
    name: String,
    labels: Map<String, Value>,
    /// Null: no finite number.
    value: Option<f64>,
}

/// Asks and prints.
pub async fn run(client: &Client, args: &Args) -> Result<u8, Failure> {
    let place = place(client, &args.workload, args.namespace.as_deref());
    let path = format!("{}?name={}", path(&place, "metrics"), encode(&args.name));
    let what = format!("metrics of {}/{}", place.0, place.1);
    let text = client.text(&path).await.map_err(|error| error.into_failure(&what))?;
    if text.is_empty() && !args.name.is_empty() {
        return Err(Failure::not_well(format!("{}/{} counts nothing named like '{}'", place.0, place.1, args.name))
            .hint("the names are in docs/src/reference/metrics.md; leave the name out to see all"));
    }
    let document = || json!({ "workload": format!("{}/{}", place.0, place.1), "families": families(&text) });
    output::print(&match args.output {
        Form::Prometheus => text,
        Form::Json => output::json(&document())?,
        Form::Yaml => output::yaml(&document())?,
    })?;
    Ok(0)
}

/// Reads the text format; a line that is none of it is left out.
fn families(text: &str) -> Vec<Family> {
    let mut all: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            let (name, help) = (name.to_owned(), help.to_owned());
            all.push(Family { name, kind: String::new(), help, samples: Vec::new() });
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            if let Some(family) = all.last_mut().filter(|family| family.name == name) {
                family.kind = kind.to_owned();
            }
        } else if let (Some(family), Some(sample)) = (all.last_mut(), sample(line)) {
            family.samples.push(sample);
        }
    }
    all
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, labels(rest.strip_suffix('}')?)?),
        None => (series, Map::new()),
    };
    let value = value.parse::<f64>().ok()?;
    Some(Sample { name: name.to_owned(), labels, value: value.is_finite().then_some(value) })
}

/// `a="b",c="d"` with the escapes of the format.
fn labels(text: &str) -> Option<Map<String, Value>> {
    let mut found = Map::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"")?;
        let mut text = String::new();
        let mut letters = value.char_indices();
        let end = loop {
            match letters.next()? {
                (end, '"') => break end,
                (_, '\\') => match letters.next()?.1 {
                    'n' => text.push('\n'),
                    other => text.push(other),
                },
                (_, other) => text.push(other),
            }
        };
        found.insert(name.trim_start_matches(',').to_owned(), text.into());
        rest = &value[end + 1..];
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_becomes_a_document() {
        let text = "# HELP weft_calls_total Calls, all of them.\n# TYPE weft_calls_total counter\n\
            weft_calls_total{of=\"a\\\"b,c=\\\\\",code=\"200\"} 4\n\
            # HELP weft_wait_seconds Waits.\n# TYPE weft_wait_seconds histogram\n\
            weft_wait_seconds_bucket{le=\"+Inf\"} 3\nweft_wait_seconds_sum 0.5\n";
        let document = serde_json::to_value(families(text)).unwrap();
        assert_eq!(
            document,
            json!([
                { "name": "weft_calls_total", "type": "counter", "help": "Calls, all of them.", "samples": [
                    { "name": "weft_calls_total", "labels": { "of": "a\"b,c=\\", "code": "200" }, "value": 4.0 },
                ] },
                { "name": "weft_wait_seconds", "type": "histogram", "help": "Waits.", "samples": [
                    { "name": "weft_wait_seconds_bucket", "labels": { "le": "+Inf" }, "value": 3.0 },
                    { "name": "weft_wait_seconds_sum", "labels": {}, "value": 0.5 },
                ] },
            ])
        );
    }

    #[test]
    fn what_is_no_metric_is_left_out() {
        assert!(families("x 1\nnonsense\n").is_empty());
        assert_eq!(families("# HELP a A.\na{b=\"} 1\na NaN\n")[0].samples.len(), 1);
    }
}
