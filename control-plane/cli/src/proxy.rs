//! `weft proxy`: commands to one sidecar, by way of the control plane and the stream that the sidecar keeps open to it.
//!
//! Exit code 1 when the sidecar is not connected or does not answer in time.

mod stats;

use crate::Global;
use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::output;
use clap::Subcommand;
use http::Method;
use serde_json::Value;

/// Flags of `weft proxy`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Print the configuration that a sidecar has in force (role: get workloads/config)
    Config(Config),
    /// Print what a sidecar counts (role: get workloads/stats)
    Stats(stats::Args),
    /// Change what a sidecar logs, until it restarts (role: update workloads/log)
    Log(Log),
}

#[derive(clap::Args, Debug)]
struct Config {
    /// Whose: [namespace/]name of a workload
    #[arg(value_name = "WORKLOAD")]
    workload: String,
    /// Namespace of a workload that is named without one
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "yaml")]
    output: Form,
}

#[derive(clap::Args, Debug)]
struct Log {
    /// Whose: [namespace/]name of a workload
    #[arg(value_name = "WORKLOAD")]
    workload: String,
    /// A level, or directives such as info,weft_proxy=debug
    #[arg(value_name = "LEVEL", default_value = "info")]
    level: String,
    /// Namespace of a workload that is named without one
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

/// Forms of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
}

/// Does what was asked.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    match args.command {
        Command::Config(args) => config(&client, &args).await,
        Command::Stats(args) => stats::run(&client, &args).await,
        Command::Log(args) => log(&client, &args).await,
    }
}

/// Namespace and name of a workload that is named with its namespace or without.
pub fn place<'w>(client: &Client, workload: &'w str, namespace: Option<&str>) -> (String, &'w str) {
    match workload.split_once('/') {
        Some((namespace, name)) => (namespace.to_owned(), name),
        None => (client.namespace(namespace), workload),
    }
}

/// The page of a sidecar.
pub fn path((namespace, name): &(String, &str), what: &str) -> String {
    format!("/weft/v1/fleet/{}/{}/{what}", encode(namespace), encode(name))
}

async fn config(client: &Client, args: &Config) -> Result<u8, Failure> {
    let place = place(client, &args.workload, args.namespace.as_deref());
    let answer: Result<Value, _> = client.read(&path(&place, "config")).await;
    let answer = answer.map_err(|error| error.into_failure(&format!("configuration of {}/{}", place.0, place.1)))?;
    output::print(&match args.output {
        Form::Json => output::json(&answer)?,
        Form::Yaml => output::yaml(&answer)?,
    })?;
    Ok(0)
}

async fn log(client: &Client, args: &Log) -> Result<u8, Failure> {
    let place = place(client, &args.workload, args.namespace.as_deref());
    let path = format!("{}?filter={}", path(&place, "log"), encode(&args.level));
    let answer: Result<Value, _> = client.request(Method::PUT, &path, None).await;
    answer.map_err(|error| error.into_failure(&format!("log of {}/{}", place.0, place.1)))?;
    output::print(&format!("workload/{}/{} logs {}\n", place.0, place.1, args.level))?;
    Ok(0)
}
