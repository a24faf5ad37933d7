//! `weft metrics`: what Prometheus and Grafana need to know of the mesh's metrics, made from the one list of their names.
//!
//! Nothing here asks a control plane: what is printed goes into the files of others.

mod grafana;
mod rules;

use crate::failure::Failure;
use crate::output;
use clap::Subcommand;
use weft_proto::metrics::Family;

/// Flags of `weft metrics`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Print Prometheus rules: recorded rates, shares and quantiles, and alerts
    Rules,
    /// Print a Grafana dashboard
    Grafana,
}

/// Prints a file.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let text = match args.what {
        What::Rules => output::yaml(&rules::document())?,
        What::Grafana => output::json(&grafana::document())?,
    };
    output::print(&text)?;
    Ok(0)
}

/// `name{selector}[5m]` as a rate.
fn rate(family: &Family, selector: &str) -> String {
    format!("rate({}{{{selector}}}[5m])", family.name)
}

/// The rate of the calls of a direction that failed for a reason that is not their caller's, as `weft stat` counts them. `more` narrows them.
fn failures(direction: &str, more: &str) -> String {
    use weft_proto::metrics::REQUESTS;
    let of = |how: &str| rate(&REQUESTS, &format!("direction=\"{direction}\",{how}{more}"));
    [
        of("grpc_code=~\"2|4|13|14|15\""),
        of("grpc_code=\"\",code=~\"5..\""),
        of("grpc_code=\"\",code=\"\",reason!=\"client_gone\""),
    ]
    .join(" or ")
}

/// The quantile of the durations of calls to the application.
fn quantile(share: &str, by: &str, more: &str) -> String {
    use weft_proto::metrics::REQUEST_DURATION;
    let name = REQUEST_DURATION.name;
    format!("histogram_quantile({share}, sum by ({by}, le) (rate({name}_bucket{{direction=\"inbound\"{more}}}[5m])))")
}

/// The quantile of a histogram that the control plane has.
fn control_quantile(share: &str, family: &Family, by: &str) -> String {
    let name = family.name;
    format!("histogram_quantile({share}, sum by ({by}le) (rate({name}_bucket[5m])))")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use weft_proto::metrics::{CONTROL_FAMILIES, FAMILIES};

    /// Every text under a key, anywhere in a document.
    fn under<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(name, value)| match value.as_str() {
                Some(text) if name == key => found.push(text),
                _ => under(value, key, found),
            }),
            Value::Array(all) => all.iter().for_each(|value| under(value, key, found)),
            _ => {}
        }
    }

    fn names(expression: &str) -> impl Iterator<Item = &str> {
        let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
        words.filter(|word| word.starts_with("weft_"))
    }

    #[test]
    fn what_is_asked_of_prometheus_has_the_names_of_the_list() {
        let known = |name: &str| {
            let of = |family: &&Family| {
                let rest = name.strip_prefix(family.name);
                rest.is_some_and(|rest| rest.is_empty() || family.kind == "histogram" && rest == "_bucket")
            };
            FAMILIES.iter().chain(CONTROL_FAMILIES).any(|family| of(&family))
        };
        for document in [rules::document(), grafana::document()] {
            let mut expressions = Vec::new();
            under(&document, "expr", &mut expressions);
            assert!(expressions.len() > 10, "{document}");
            for expression in &expressions {
                assert!(names(expression).all(known), "{expression}");
            }
        }
    }

    #[test]
    fn what_is_recorded_is_what_alerts_ask_for() {
        let document = rules::document();
        let (mut recorded, mut expressions) = (Vec::new(), Vec::new());
        under(&document, "record", &mut recorded);
        under(&document, "expr", &mut expressions);
        let words = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':');
        for expression in expressions {
            for name in expression.split(words).filter(|word| word.starts_with("weft:")) {
                assert!(recorded.contains(&name), "{name} of {expression}");
            }
        }
    }
}
