//! `weft identity revoke`, `revoked` and `audit`.

use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Format};
use serde_json::{Value, json};

/// Flags of `weft identity revoke`.
#[derive(clap::Args, Debug)]
pub struct Revoke {
    /// Whose: a workload (every certificate of its identity), a SPIFFE id, or the serial number of one certificate
    #[arg(value_name = "NAMESPACE/WORKLOAD|SPIFFE-ID|SERIAL")]
    subject: String,
    /// Why, as RFC 5280 writes it: keyCompromise, affiliationChanged, superseded, cessationOfOperation, privilegeWithdrawn
    #[arg(long, default_value = "unspecified", value_name = "REASON")]
    reason: String,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

/// Flags of `weft identity audit`.
#[derive(clap::Args, Debug)]
pub struct Audit {
    /// How many records, the last ones
    #[arg(short = 'n', long, default_value = "100", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    last: u32,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

const REVOCATIONS: &str = "/weft/v1/identity/revocations";

/// Revokes.
pub async fn revoke(client: &Client, args: Revoke) -> Result<u8, Failure> {
    let body = json!({ "subject": args.subject, "reason": args.reason });
    let answer: Value = client
        .create(REVOCATIONS, &body)
        .await
        .map_err(|error| error.into_failure(&format!("revoke {}", args.subject)))?;
    let revoked = items(&answer, "revoked");
    output::print(&match args.output {
        Format::Json => output::json(&answer)?,
        Format::Yaml => output::yaml(&answer)?,
        Format::Name => revoked.iter().map(|one| format!("certificate/{}\n", text(one, "serial"))).collect(),
        Format::Table | Format::Wide => done(&answer, &revoked),
    })?;
    Ok(0)
}

fn done(answer: &Value, revoked: &[Value]) -> String {
    let mut said: String = revoked
        .iter()
        .map(|one| format!("certificate/{} of {} revoked\n", text(one, "serial"), text(one, "identity")))
        .collect();
    for token in items(answer, "tokens").iter().filter_map(Value::as_str) {
        said.push_str(&format!("token/{token} revoked\n"));
    }
    if let Some(identity) = answer.get("identity").and_then(Value::as_str) {
        if revoked.is_empty() {
            said.push_str(&format!(
                "{identity} has no certificate that is valid; what it may still hold cannot be renewed\n"
            ));
        }
        let shared = items(answer, "workloads");
        let shared: Vec<_> = shared.iter().filter_map(Value::as_str).collect();
        if !shared.is_empty() {
            said.push_str(&format!(
                "{identity} was the identity of {}; a new join token gets it back\n",
                shared.join(", ")
            ));
        }
    }
    said
}

/// Lists what is revoked.
pub async fn revoked(client: &Client, format: Format) -> Result<u8, Failure> {
    let answer: Value =
        client.read(REVOCATIONS).await.map_err(|error| error.into_failure("list revoked certificates"))?;
    let all = items(&answer, "items");
    output::print(&match format {
        Format::Json => output::json(&answer)?,
        Format::Yaml => output::yaml(&answer)?,
        Format::Name => all.iter().map(|one| format!("certificate/{}\n", text(one, "serial"))).collect(),
        Format::Table | Format::Wide => {
            let now = output::now();
            let ago = |one: &Value| {
                let at = output::epoch(text(one, "revokedAt")).and_then(|at| u64::try_from(now - at).ok());
                at.map_or_else(|| "-".to_owned(), |seconds| format!("{} ago", output::age(seconds)))
            };
            let left = |one: &Value| match output::epoch(text(one, "notAfter")).map(|at| u64::try_from(at - now)) {
                Some(Ok(seconds)) => format!("in {}", output::age(seconds)),
                _ => "expired".to_owned(),
            };
            let rows: Vec<_> = all
                .iter()
                .map(|one| {
                    let field = |key| text(one, key).to_owned();
                    vec![field("serial"), field("identity"), field("reason"), ago(one), left(one)]
                })
                .collect();
            output::table(&["SERIAL", "IDENTITY", "REASON", "REVOKED", "EXPIRES"], &rows, &[])
        }
    })?;
    Ok(0)
}

/// Shows the last records of the audit.
pub async fn audit(client: &Client, args: &Audit) -> Result<u8, Failure> {
    let path = format!("/weft/v1/identity/audit?last={}", args.last);
    let answer: Value = client.read(&path).await.map_err(|error| error.into_failure("read the audit record"))?;
    let all = items(&answer, "items");
    output::print(&match args.output {
        Format::Json => output::json(&answer)?,
        Format::Yaml => output::yaml(&answer)?,
        Format::Name => all.iter().map(|record| format!("{}\n", text(record, "event"))).collect(),
        Format::Table | Format::Wide => {
            let rows: Vec<_> = all
                .iter()
                .map(|record| {
                    let time = text(record, "time").split('.').next().unwrap_or_default().trim_end_matches('Z');
                    vec![format!("{time}Z"), text(record, "event").to_owned(), subject(record), details(record)]
                })
                .collect();
            output::table(&["TIME", "EVENT", "SUBJECT", "DETAILS"], &rows, &[])
        }
    })?;
    Ok(0)
}

/// What a record is about.
fn subject(record: &Value) -> String {
    let known = ["identity", "token", "root", "issuer"].into_iter().map(|key| (key, text(record, key)));
    match known.into_iter().find(|(_, value)| *value != "-") {
        Some(("token", id)) => format!("token/{id}"),
        Some((_, value)) => value.to_owned(),
        None => "-".to_owned(),
    }
}

/// What else it says, `key=value`.
fn details(record: &Value) -> String {
    let Some(fields) = record.as_object() else { return String::new() };
    let shown = fields.iter().filter(|(key, value)| {
        !["time", "event", "identity", "token", "root", "notBefore", "notAfter", "issuer"].contains(&key.as_str())
            && !value.is_null()
            && **value != json!(0)
    });
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Object(one) => {
            one.iter().map(|(key, value)| format!("{key}/{}", value.as_str().unwrap_or("-"))).collect()
        }
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    };
    shown.map(|(key, value)| format!("{key}={}", word(value))).collect::<Vec<_>>().join(" ")
}

fn items(value: &Value, key: &str) -> Vec<Value> {
    value.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_line_that_names_its_subject_and_its_proof() {
        let record = json!({
            "time": "2026-11-22T10:00:00.123Z", "event": "issued", "identity": "spiffe://weft.local/ns/shop/sa/cart",
            "serial": "4a", "notBefore": 1, "notAfter": 2, "issuer": "ab", "by": {"token": "t1"}, "address": null,
        });
        assert_eq!(subject(&record), "spiffe://weft.local/ns/shop/sa/cart");
        assert_eq!(details(&record), "by=token/t1 serial=4a");
        assert_eq!(subject(&json!({"event": "tokenUsed", "token": "t1"})), "token/t1");
    }

    #[test]
    fn revoking_says_whom_it_hit() {
        let answer = json!({"identity": "spiffe://d/ns/shop/sa/cart", "workloads": ["shop/cart-1", "shop/cart-2"]});
        let said = done(&answer, &[json!({"serial": "4a", "identity": "spiffe://d/ns/shop/sa/cart"})]);
        assert_eq!(
            said,
            "certificate/4a of spiffe://d/ns/shop/sa/cart revoked\nspiffe://d/ns/shop/sa/cart was the identity of shop/cart-1, shop/cart-2; a new join token gets it back\n"
        );
        assert!(done(&answer, &[]).contains("has no certificate that is valid"));
    }
}
