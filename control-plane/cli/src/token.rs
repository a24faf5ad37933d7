//! `weft token`: the secrets with which workloads join, bound to what they may join as.
//!
//! A token is printed or written to a 0600 file once and stored hashed by the control plane; it is never taken as an argument,
//! since arguments are everybody's to read.

use crate::Global;
use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::run::sidecar::private_file;
use clap::Subcommand;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// Flags of `weft token`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Make a token; it is shown once
    Create(Create),
    /// List the tokens there are, without their secrets
    List(List),
    /// Make tokens useless from now on; who has joined stays
    Revoke(Revoke),
}

#[derive(clap::Args, Debug)]
struct Create {
    /// Service that the workload may register for (repeat for several); none: it may only call others
    #[arg(long = "service", value_name = "NAME")]
    services: Vec<String>,
    /// Service account: with the namespace, the identity that is issued (default: the first service, else default)
    #[arg(long, value_name = "NAME")]
    service_account: Option<String>,
    /// Namespace
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// How long it may be used
    #[arg(long, default_value = "1h", value_parser = output::duration)]
    ttl: Duration,
    /// How many workloads may join with it (default: any number until it expires)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    uses: Option<u32>,
    /// Write the token into this file (0600) instead of to stdout; or table, json, yaml, name
    #[arg(short, long, value_name = "FILE|FORMAT")]
    output: Option<String>,
}

#[derive(clap::Args, Debug)]
struct List {
    /// Only this namespace (default: all)
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(clap::Args, Debug)]
struct Revoke {
    /// Only tokens of this namespace
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Ids, as `weft token list` shows them
    #[arg(required = true)]
    ids: Vec<String>,
}

/// What a new token may do.
pub struct Claims<'a> {
    /// Namespace of the identity.
    pub namespace: &'a str,
    /// Service account of the identity.
    pub service_account: &'a str,
    /// Services it may register for.
    pub services: &'a [String],
    /// How long it may be used.
    pub ttl: Duration,
    /// How often; `None`: any number of times.
    pub uses: Option<u32>,
}

/// A token as the control plane made it.
#[derive(Clone, Debug, Deserialize)]
pub struct Made {
    /// What to revoke it by.
    pub id: String,
    /// The secret.
    pub token: String,
}

const TOKENS: &str = "/weft/v1/tokens";

/// A path that is asked for in one namespace, which takes a role in that one alone.
fn here(path: &str, namespace: Option<&str>) -> String {
    namespace.map_or_else(|| path.to_owned(), |namespace| format!("{path}?namespace={}", encode(namespace)))
}

/// Makes a token.
pub async fn make(client: &Client, claims: &Claims<'_>) -> Result<Made, Failure> {
    let body = json!({
        "namespace": claims.namespace,
        "serviceAccount": claims.service_account,
        "services": claims.services,
        "ttlSeconds": claims.ttl.as_secs(),
        "uses": claims.uses,
    });
    client
        .create(&here(TOKENS, Some(claims.namespace)), &body)
        .await
        .map_err(|error| error.into_failure("create a join token"))
}

/// Ends a token. Who has joined with it stays.
pub async fn revoke(client: &Client, id: &str, namespace: Option<&str>) -> Result<(), Failure> {
    let path = here(&format!("{TOKENS}/{}", encode(id)), namespace);
    let answer: Result<Value, _> = client.request(Method::DELETE, &path, None).await;
    answer.map(drop).map_err(|error| error.into_failure(&format!("revoke {id}")))
}

/// Does what was asked.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    match args.command {
        Command::Create(args) => create(&client, args).await,
        Command::List(args) => list(&client, &args).await,
        Command::Revoke(args) => {
            for id in &args.ids {
                revoke(&client, id, args.namespace.as_deref()).await?;
                output::print(&format!("token/{id} revoked\n"))?;
            }
            Ok(0)
        }
    }
}

async fn create(client: &Client, args: Create) -> Result<u8, Failure> {
    let namespace = client.namespace(args.namespace.as_deref());
    let account = args.service_account.as_deref().or(args.services.first().map(String::as_str)).unwrap_or("default");
    let claims = Claims {
        namespace: &namespace,
        service_account: account,
        services: &args.services,
        ttl: args.ttl,
        uses: args.uses,
    };
    let made = make(client, &claims).await?;
    match args.output.as_deref() {
        None | Some("table" | "wide") => output::print(&format!("{}\n", made.token))?,
        Some("name") => output::print(&format!("token/{}\n", made.id))?,
        Some(format @ ("json" | "yaml")) => {
            let document = json!({
                "id": made.id, "token": made.token, "namespace": namespace, "serviceAccount": account,
                "services": args.services, "ttlSeconds": args.ttl.as_secs(), "uses": args.uses,
            });
            output::print(&if format == "json" { output::json(&document)? } else { output::yaml(&document)? })?;
        }
        Some(file) => {
            private_file(&PathBuf::from(file), format!("{}\n", made.token).as_bytes())?;
            output::print(&format!("token/{} created\n", made.id))?;
        }
    }
    Ok(0)
}

async fn list(client: &Client, args: &List) -> Result<u8, Failure> {
    let format = args.output;
    let answer: Value = client
        .read(&here(TOKENS, args.namespace.as_deref()))
        .await
        .map_err(|error| error.into_failure("list tokens"))?;
    let items = answer.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |item: &Value, key: &str| match item.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Array(items)) if !items.is_empty() => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        _ => "-".to_owned(),
    };
    match format {
        Format::Json => output::print(&output::json(&answer)?)?,
        Format::Yaml => output::print(&output::yaml(&answer)?)?,
        Format::Name => {
            output::print(&items.iter().map(|item| format!("token/{}\n", text(item, "id"))).collect::<String>())?;
        }
        Format::Table | Format::Wide => {
            let rows: Vec<Vec<String>> = items
                .iter()
                .map(|item| {
                    let uses = match text(item, "uses").as_str() {
                        "-" => text(item, "used"),
                        limit => format!("{} of {limit}", text(item, "used")),
                    };
                    let identity = format!("{}/{}", text(item, "namespace"), text(item, "serviceAccount"));
                    let expires = item.get("expiresAt").and_then(Value::as_str).and_then(output::epoch);
                    vec![text(item, "id"), identity, text(item, "services"), uses, expiry(expires, output::now())]
                })
                .collect();
            output::print(&output::table(&["ID", "SERVICE ACCOUNT", "SERVICES", "USED", "EXPIRES"], &rows, &[]))?;
        }
    }
    Ok(0)
}

fn expiry(at: Option<i64>, now: i64) -> String {
    match at.map(|at| u64::try_from(at - now)) {
        None => "never".into(),
        Some(Ok(seconds)) if seconds > 0 => format!("in {}", output::age(seconds)),
        Some(_) => "expired".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_said_relative_to_now() {
        assert_eq!(expiry(Some(160), 100), "in 60s");
        assert_eq!(expiry(Some(100), 100), "expired");
        assert_eq!(expiry(None, 100), "never");
    }
}
