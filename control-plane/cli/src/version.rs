//! `weft version`.

use crate::Global;
use crate::client::{Client, kubeconfig};
use crate::failure::Failure;
use crate::output::{self, Format};
use serde_json::{Value, json};

/// Flags of `weft version`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only this command's own version
    #[arg(long)]
    client: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

/// Prints both versions; without a kubeconfig only our own.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let mut server = Value::Null;
    let mut failure = None;
    if !args.client && kubeconfig::find(global).is_some() {
        match Client::new(global)?.read::<Value>("/version").await {
            Ok(version) => server = version,
            Err(error) => failure = Some(error.into_failure("ask for the server's version")),
        }
    }
    let document = json!({"client": {"version": own}, "server": server});
    let text = match args.output {
        Format::Json => output::json(&document)?,
        Format::Yaml => output::yaml(&document)?,
        Format::Table | Format::Wide | Format::Name => {
            let version = server.get("gitVersion").and_then(Value::as_str);
            let line = version.map(|version| format!("server {version}\n")).unwrap_or_default();
            format!("client v{own}\n{line}")
        }
    };
    output::print(&text)?;
    failure.map_or(Ok(0), Err)
}
