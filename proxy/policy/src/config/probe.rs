//! `weft.v1.HealthCheck`: what an endpoint is asked, and how often.

use std::time::Duration;

use http::HeaderValue;
use weft_proto::v1;

use super::Refusal;
use super::check;
use crate::health::{Check, Settings};

/// An endpoint is not asked more often than this, by each sidecar that calls it.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 3600);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);

pub(super) fn settings(wire: &v1::HealthCheck) -> Result<Settings, Refusal> {
    use v1::health_check::Probe;
    let check = match &wire.probe {
        Some(Probe::Http(http)) => self::http(http).map_err(|r| r.under("http"))?,
        Some(Probe::Grpc(grpc)) => {
            check::bounded("grpc.service", grpc.service.as_bytes(), 253)?;
            Check::Grpc { service: grpc.service.as_str().into() }
        }
        Some(Probe::Tcp(v1::TcpProbe {})) => Check::Tcp,
        None => return Err(Refusal::new("http", "http, grpc or tcp is required")),
    };
    let default = Settings::new(check);
    let bounds = (SHORTEST_INTERVAL, LONGEST_INTERVAL);
    let interval = check::span_within("interval", wire.interval.as_ref(), default.interval, bounds)?;
    // A probe that outlasts its interval would be late for the next one.
    let timeout = default.timeout.min(interval);
    let timeout = check::span_within("timeout", wire.timeout.as_ref(), timeout, (SHORTEST_TIMEOUT, interval))?;
    let threshold = |field: &str, wire: u32, default: u32| match wire {
        0 => Ok(default),
        count => check::within(field, count, 1, 100),
    };
    Ok(Settings {
        interval,
        timeout,
        healthy_threshold: threshold("healthyThreshold", wire.healthy_threshold, default.healthy_threshold)?,
        unhealthy_threshold: threshold("unhealthyThreshold", wire.unhealthy_threshold, default.unhealthy_threshold)?,
        check: default.check,
    })
}

fn http(wire: &v1::HttpProbe) -> Result<Check, Refusal> {
    let path = if wire.path.is_empty() { "/" } else { wire.path.as_str() };
    let is_target =
        path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if !is_target {
        return Err(Refusal::new(
            "path",
            format!("{path:?} is no path: 1 to 1024 visible characters, the first a '/'"),
        ));
    }
    let is_host = wire.host.len() <= 261
        && wire.host.bytes().all(|b| b.is_ascii_graphic())
        && HeaderValue::from_str(&wire.host).is_ok();
    if !is_host {
        return Err(Refusal::new("host", format!("{:?} cannot be said in a Host header", wire.host)));
    }
    check::bounded("statuses", &wire.statuses, 64)?;
    let mut statuses = Vec::with_capacity(wire.statuses.len());
    for (i, status) in wire.statuses.iter().enumerate() {
        let status = check::within(&format!("statuses[{i}]"), *status, 100, 599)?;
        statuses.push(u16::try_from(status).unwrap_or_default());
    }
    statuses.sort_unstable();
    Ok(Check::Http { path: path.into(), host: wire.host.as_str().into(), statuses })
}
