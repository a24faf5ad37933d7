//! `weft tap`: calls as they end, from the sidecars that carry them, filtered there.
//!
//! Ends with `--limit`, `--duration`, Ctrl-C, or the control plane's word; then a summary on stderr says how many calls were shown, and how
//! many matched and were not. What a line looks like is `line`'s.

mod line;

use crate::Global;
use crate::client::{Client, encode};
use crate::failure::{Exit, Failure};
use crate::output;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Flags of `weft tap`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Whose calls: [namespace/]name of a service, either side of the call, or workload/NAME (default: all of the namespace)
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Namespace whose sidecars are asked
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Only calls to this service: [namespace/]name
    #[arg(long, value_name = "SERVICE")]
    to: Option<String>,
    /// Only calls of this service or workload: [namespace/]name
    #[arg(long, value_name = "SERVICE")]
    from: Option<String>,
    /// Only as callers' sidecars see them (outbound), or those of the called (inbound); by default a call between two is shown twice
    #[arg(long, value_enum)]
    direction: Option<Direction>,
    /// Only this method
    #[arg(long)]
    method: Option<String>,
    /// Only paths that begin so; with '*' for any text, whole paths
    #[arg(long)]
    path: Option<String>,
    /// Only this status: 503, a class such as 5xx, or 'error'
    #[arg(long)]
    status: Option<String>,
    /// Only calls that ended for this reason, as metrics name it: denied
    #[arg(long)]
    reason: Option<String>,
    /// Only a part of them, drawn at random: 0.1
    #[arg(long, value_name = "RATIO")]
    sample: Option<f64>,
    /// Calls a second that are shown at most, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 100)]
    max_rps: u32,
    /// End after so many calls
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// End after this long, at most 10m
    #[arg(long, default_value = "10m", value_parser = output::duration)]
    duration: Duration,
    /// How to print: json is one document a line
    #[arg(short, long, value_enum, default_value = "table")]
    output: Form,
}

/// Which side tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Direction {
    /// The sidecar of the called
    Inbound,
    /// The caller's
    Outbound,
}

/// Forms of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// Aligned columns
    Table,
    /// More columns, and attempts and decisions on lines of their own
    Wide,
    /// One JSON document a line
    Json,
}

#[derive(Deserialize)]
struct Event {
    event: String,
    #[serde(default)]
    data: Value,
}

/// What was shown and what was not.
#[derive(Default)]
struct Tally {
    shown: u64,
    dropped: BTreeMap<String, u64>,
}

impl Tally {
    fn summary(&self) -> String {
        let calls = if self.shown == 1 { "call" } else { "calls" };
        let dropped: u64 = self.dropped.values().sum();
        if dropped == 0 {
            return format!("{} {calls} shown, none left out", self.shown);
        }
        let by = |(by, calls): (&String, &u64)| {
            let by = match by.as_str() {
                "sidecar" => "by sidecars, beyond --max-rps",
                "controlPlane" => "by the control plane, beyond --max-rps",
                _ => "because this terminal did not keep up",
            };
            format!("{calls} {by}")
        };
        let by: Vec<_> = self.dropped.iter().map(by).collect();
        format!("{} {calls} shown, {dropped} left out: {}", self.shown, by.join(", "))
    }
}

fn path(client: &Client, args: &Args) -> Result<String, Failure> {
    let (namespace, service) = match args.service.as_deref().map(|service| service.split_once('/')) {
        Some(Some(("workload" | "workloads", _))) | None => (None, None),
        Some(Some((namespace, _))) => (Some(namespace), args.service.clone()),
        Some(None) => (None, args.service.clone()),
    };
    let workload = args.service.as_deref().and_then(|service| {
        service.strip_prefix("workload/").or_else(|| service.strip_prefix("workloads/")).map(str::to_owned)
    });
    let namespace = match (namespace, args.namespace.as_deref()) {
        (Some(named), Some(flag)) if named != flag => {
            return Err(Failure::usage(format!("the service is of {named}, and --namespace says {flag}")));
        }
        (named, flag) => client.namespace(flag.or(named)),
    };
    let number = |number: u64| Some(number.to_string());
    let direction = args.direction.map(|direction| match direction {
        Direction::Inbound => "inbound".to_owned(),
        Direction::Outbound => "outbound".to_owned(),
    });
    let query = [
        ("namespace", Some(namespace)),
        ("workload", workload),
        ("service", service),
        ("source", args.from.clone()),
        ("destination", args.to.clone()),
        ("direction", direction),
        ("method", args.method.clone()),
        ("path", args.path.clone()),
        ("status", args.status.clone()),
        ("reason", args.reason.clone()),
        ("sample", args.sample.map(|ratio| ratio.to_string())),
        ("perSecond", number(args.max_rps.into())),
        ("limit", args.limit.and_then(number)),
        ("seconds", number(args.duration.as_secs().max(1))),
    ];
    let query = query.iter().filter_map(|(name, value)| Some(format!("{name}={}", encode(value.as_deref()?))));
    Ok(format!("/weft/v1/tap?{}", query.collect::<Vec<_>>().join("&")))
}

/// Shows calls until the end.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let path = path(&client, &args)?;
    let listen = |kind| signal(kind).map_err(|error| Failure::not_well(format!("cannot listen for signals: {error}")));
    let (mut int, mut term) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut events = client.lines(&path, "application/x-ndjson").await.map_err(|error| error.into_failure("tap"))?;
    let mut printer = line::Printer::new(args.output == Form::Wide);
    let mut tally = Tally::default();
    let ended = loop {
        let event = tokio::select! {
            event = events.next() => event?,
            _ = int.recv() => break "interrupted".to_owned(),
            _ = term.recv() => break "interrupted".to_owned(),
        };
        let Some(event) = event else { break "broken".to_owned() };
        let Event { event, data } = serde_json::from_value(event)
            .map_err(|error| Failure::not_well(format!("an event of the tap cannot be read: {error}")))?;
        match event.as_str() {
            "begin" => {
                let sidecars = data["sidecars"].as_u64().unwrap_or_default();
                output::progress(&format!("{sidecars} sidecars tell; Ctrl-C ends it"));
                if args.output != Form::Json {
                    output::print(&printer.header())?;
                }
            }
            "call" => {
                tally.shown += 1;
                output::print(&match args.output {
                    Form::Json => format!("{data}\n"),
                    _ => printer.line(&data),
                })?;
            }
            "dropped" => {
                let by = data["by"].as_str().unwrap_or_default().to_owned();
                *tally.dropped.entry(by).or_default() += data["calls"].as_u64().unwrap_or_default();
            }
            "end" => break data["reason"].as_str().unwrap_or_default().to_owned(),
            // A newer control plane may say more.
            _ => {}
        }
    };
    eprintln!("{}", tally.summary());
    match ended.as_str() {
        "limit" | "time" | "interrupted" => Ok(0),
        "forbidden" => Err(Failure::not_well("the right to tap was taken away").hint("it takes get workloads/tap")),
        "expired" => Err(Failure::not_well("the credentials have expired")),
        "stopping" | "broken" => {
            Err(Failure::unreachable(format!("the control plane at {} ended the tap", client.context.server)))
        }
        _ => Ok(Exit::NotWell.code()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_says_what_was_left_out_and_by_whom() {
        let mut tally = Tally { shown: 1, ..Tally::default() };
        assert_eq!(tally.summary(), "1 call shown, none left out");
        tally.dropped = [("sidecar".to_owned(), 7), ("reader".to_owned(), 3)].into();
        let text = tally.summary();
        assert!(text.starts_with("1 call shown, 10 left out: 3 because this terminal did not keep up, 7 by"), "{text}");
    }
}
