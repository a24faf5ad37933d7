//! `weft admin audit`: what was asked of the API, by whom, and what became of it.

use crate::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Format};
use serde_json::Value;

/// Flags of `weft admin audit`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// How many records, the last ones
    #[arg(short = 'n', long, default_value = "100", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    last: u32,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

/// Prints the last records.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let path = format!("/weft/v1/audit?last={}", args.last);
    let answer: Value = client.read(&path).await.map_err(|error| error.into_failure("read the audit record"))?;
    let records = answer.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    output::print(&match args.output {
        Format::Json => output::json(&answer)?,
        Format::Yaml => output::yaml(&answer)?,
        Format::Name => records.iter().map(|record| format!("{}\n", text(record, "user"))).collect(),
        Format::Table | Format::Wide => table(&records, args.output == Format::Wide),
    })?;
    Ok(0)
}

fn text<'v>(record: &'v Value, key: &str) -> &'v str {
    record.get(key).and_then(Value::as_str).unwrap_or("-")
}

/// `resource.group/subresource`, or the path.
fn target(record: &Value) -> String {
    let Some(resource) = record.get("resource").and_then(Value::as_str) else { return text(record, "path").to_owned() };
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let group = record.get("group").and_then(Value::as_str).map(|group| format!(".{group}")).unwrap_or_default();
    let subresource = if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
    format!("{resource}{group}{subresource}")
}

fn table(records: &[Value], wide: bool) -> String {
    let row = |record: &Value| {
        let time = text(record, "time").split('.').next().unwrap_or_default().trim_end_matches('Z');
        let name = match (text(record, "namespace"), text(record, "name")) {
            ("-", name) => name.to_owned(),
            (namespace, name) => format!("{namespace}/{name}"),
        };
        let code = record.get("code").and_then(Value::as_u64).map_or_else(|| "-".to_owned(), |code| code.to_string());
        let field = |key| text(record, key).to_owned();
        let mut row = vec![format!("{time}Z"), field("user"), field("verb"), target(record), name, code];
        if wide {
            row.extend([field("address"), field("userAgent")]);
        }
        row
    };
    let rows: Vec<_> = records.iter().map(row).collect();
    let mut header = vec!["TIME", "USER", "VERB", "RESOURCE", "NAME", "CODE"];
    if wide {
        header.extend(["ADDRESS", "AGENT"]);
    }
    output::table(&header, &rows, &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_is_a_line() {
        let records = [
            json!({ "time": "2026-11-22T10:00:00.123Z", "user": "ana", "verb": "get", "resource": "workloads/config",
                "group": "weft.mesh", "namespace": "shop", "name": "cart-1", "code": 200, "address": "192.0.2.7:1" }),
            json!({ "time": "2026-11-22T10:00:01Z", "user": "ben", "verb": "get", "path": "/metrics", "code": 403 }),
        ];
        assert_eq!(
            table(&records, false),
            "TIME                  USER  VERB  RESOURCE                    NAME         CODE\n\
             2026-11-22T10:00:00Z  ana   get   workloads.weft.mesh/config  shop/cart-1  200\n\
             2026-11-22T10:00:01Z  ben   get   /metrics                    -            403\n"
        );
        assert!(table(&records, true).lines().nth(1).unwrap().ends_with("192.0.2.7:1  -"));
    }
}
