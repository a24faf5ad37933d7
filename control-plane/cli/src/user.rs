//! `weft user`: client certificates for people and programs, as kubeconfigs. The key is made here and never leaves.

use crate::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output;
use crate::run::sidecar::private_file;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;
use weft_certs::KeyPair;

const ROLES: &str = "\
A user may do nothing but read what kinds there are, until a role is bound to it:
  kubectl create rolebinding ana-views --clusterrole=view --user=ana -n shop
  kubectl create rolebinding team-edits --clusterrole=edit --group=team -n shop
or the same with `weft apply`. Roles that there are: view, edit, admin, weft-observer (in a namespace with a RoleBinding,
everywhere with a ClusterRoleBinding) and cluster-admin. A certificate cannot be revoked: make it short, or take the role away.";

/// Flags of `weft user`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Write a kubeconfig with a client certificate for a user
    #[command(after_help = ROLES)]
    Add(Add),
}

#[derive(clap::Args, Debug)]
struct Add {
    /// Name of the user, as roles are bound to it
    #[arg(value_name = "NAME")]
    name: String,
    /// A group that the user is in (repeat for several)
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// How long the certificate is valid, 10m to 30d
    #[arg(long, default_value = "24h", value_parser = output::duration, value_name = "DURATION")]
    valid: Duration,
    /// Write the kubeconfig into this file (0600) instead of to stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    certificate: String,
    expires_at: String,
}

/// Does what was asked.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    match args.command {
        Command::Add(args) => add(&client, &args).await,
    }
}

async fn add(client: &Client, args: &Add) -> Result<u8, Failure> {
    let failed = |error: weft_certs::Error| Failure::not_well(format!("cannot make a key: {error}"));
    let key = KeyPair::generate().map_err(failed)?;
    let body = json!({
        "name": args.name, "groups": args.groups, "ttlSeconds": args.valid.as_secs(),
        "request": STANDARD.encode(key.csr().map_err(failed)?),
    });
    let made: Result<Made, _> = client.create("/weft/v1/users", &body).await;
    let made = made.map_err(|error| error.into_failure(&format!("add user {}", args.name)))?;
    let authority = String::from_utf8_lossy(&client.context.authority).into_owned();
    let kubeconfig = weft_control::api::access::kubeconfig_of(
        &args.name,
        &client.context.server,
        &authority,
        &made.certificate,
        &key.to_pem(),
    );
    match &args.output {
        Some(file) => {
            private_file(file, kubeconfig.as_bytes())?;
            output::print(&format!("user/{} added: {}, until {}\n", args.name, file.display(), made.expires_at))?;
        }
        None => output::print(&kubeconfig)?,
    }
    Ok(0)
}
