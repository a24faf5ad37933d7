//! `weft stat`: success, latency and load of services, once or live.

use crate::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::fleet::{self, Service, Stat};
use crate::output::{self, Format};
use std::io::IsTerminal;
use std::time::Duration;

/// Flags of `weft stat`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to show: services, or the names of some
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,
    /// Only this namespace (default: all)
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Over which time
    #[arg(long, default_value = "10s", value_parser = output::duration)]
    window: Duration,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    /// Go on, once a second
    #[arg(short, long)]
    watch: bool,
}

/// Shows the table, or goes on showing it.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let window = output::written(args.window);
    let live = args.watch && args.output == Format::Table && std::io::stdout().is_terminal();
    loop {
        let stat = fleet::stat(&client, &window, args.namespace.as_deref()).await;
        let mut stat = stat.map_err(|error| error.into_failure("read statistics"))?;
        if let Some(namespace) = &args.namespace {
            stat.services.retain(|row| row.service.split('/').next() == Some(namespace.as_str()));
        }
        // `weft stat services` and `weft stat` are one; other words are names.
        let named: Vec<&str> = args
            .names
            .iter()
            .map(String::as_str)
            .filter(|name| !["services", "service", "svc"].contains(name))
            .collect();
        if !named.is_empty() {
            stat.services.retain(|row| named.iter().any(|name| is_named(&row.service, name)));
        }
        if let Some(missing) = named.iter().find(|name| !stat.services.iter().any(|row| is_named(&row.service, name))) {
            return Err(
                Failure::not_well(format!("no service '{missing}'")).hint("list them with: weft get services -A")
            );
        }
        let text = match args.output {
            Format::Table | Format::Wide => {
                let clear = if live { "\x1b[H\x1b[2J" } else { "" };
                format!("{clear}{}", table(&stat))
            }
            Format::Json => output::json(&stat)?,
            Format::Yaml => output::yaml(&stat)?,
            Format::Name => stat.services.iter().map(|row| format!("service/{}\n", row.service)).collect(),
        };
        output::print(&text)?;
        if !args.watch {
            return Ok(0);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Whether a service is meant by its own name, or by it and its namespace's.
pub fn is_named(service: &str, name: &str) -> bool {
    service == name || service.rsplit_once('/').is_some_and(|(_, own)| own == name)
}

/// The table of services; `-` where there is no data.
pub fn table(stat: &Stat) -> String {
    let header = ["SERVICE", "READY", "RPS", "SUCCESS", "UNRETRIED", "P50", "P95", "P99", "MTLS", "RETRIES", "OPEN"];
    let rows: Vec<Vec<String>> = stat.services.iter().map(|service| row(service, stat.window_seconds)).collect();
    output::table(&header, &rows, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
}

fn row(service: &Service, seconds: f64) -> Vec<String> {
    let cell = |value: Option<f64>, text: fn(f64) -> String| value.map_or_else(|| "-".to_owned(), text);
    let called = service.calls > 0;
    let retries = u32::try_from(service.retries).map_or(f64::MAX, f64::from) / seconds.max(0.001);
    vec![
        service.service.clone(),
        match (service.ready_endpoints, service.endpoints) {
            (Some(ready), Some(all)) => format!("{ready}/{all}"),
            _ => "-".to_owned(),
        },
        cell(called.then_some(service.rps), |value| format!("{value:.1}/s")),
        cell(service.success, percent),
        cell(service.success_before_retries, percent),
        cell(service.p50_ms, milliseconds),
        cell(service.p95_ms, milliseconds),
        cell(service.p99_ms, milliseconds),
        cell(service.mtls, percent),
        cell(called.then_some(retries), |value| format!("{value:.1}/s")),
        service.open_breakers.to_string(),
    ]
}

/// `100%`, `99.95%`: never rounded up to what it is not.
pub fn percent(share: f64) -> String {
    let hundredths = (share * 10_000.0 + 1e-6).floor();
    if hundredths >= 10_000.0 { "100%".into() } else { format!("{:.2}%", hundredths / 100.0) }
}

/// `0.8ms`, `12ms`, `1.20s`
pub fn milliseconds(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.1}ms"),
        10.0..1000.0 => format!("{value:.0}ms"),
        _ => format!("{:.2}s", value / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_units_in_its_cells_and_a_dash_for_no_data() {
        let stat = Stat {
            services: vec![
                Service {
                    service: "shop/payments".into(),
                    rps: 30.04,
                    calls: 300,
                    retries: 15,
                    success: Some(0.99996),
                    success_before_retries: Some(0.951),
                    p50_ms: Some(1.24),
                    p95_ms: Some(18.4),
                    p99_ms: Some(1203.0),
                    mtls: Some(1.0),
                    ready_endpoints: Some(1),
                    endpoints: Some(1),
                    ..Service::default()
                },
                Service { service: "shop/users".into(), ..Service::default() },
            ],
            window_seconds: 10.0,
            ..Stat::default()
        };
        assert_eq!(
            table(&stat),
            "SERVICE        READY     RPS  SUCCESS  UNRETRIED    P50   P95    P99  MTLS  RETRIES  OPEN\n\
             shop/payments    1/1  30.0/s   99.99%     95.10%  1.2ms  18ms  1.20s  100%    1.5/s     0\n\
             shop/users         -       -        -          -      -     -      -     -        -     0\n"
        );
    }

    #[test]
    fn a_percentage_is_never_rounded_up_to_perfect() {
        assert_eq!(percent(1.0), "100%");
        assert_eq!(percent(0.999_999), "99.99%");
        assert_eq!(percent(0.57), "57.00%");
    }
}
