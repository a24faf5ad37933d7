//! The scrape: every family as it is now, the state of every breaker, and how many series there are.

use super::Telemetry;
use super::exposition::{Format, header, label_set, sample};
use crate::endpoint::Cluster;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

impl Telemetry {
    /// The scrape: every family, and the state of every endpoint's breaker as it is now.
    pub fn render<'a>(&self, clusters: impl Iterator<Item = (&'a str, u16, &'a Arc<Cluster>)>) -> String {
        self.render_as(Format::Text, clusters)
    }

    /// The same in one of the formats.
    pub fn render_as<'a>(
        &self,
        format: Format,
        clusters: impl Iterator<Item = (&'a str, u16, &'a Arc<Cluster>)>,
    ) -> String {
        let now = Instant::now();
        let mut out = self.registry.render_as(now, format);
        let mut lines = Vec::new();
        for (service, port, cluster) in clusters {
            let port = port.to_string();
            for status in cluster.breakers(now) {
                let state = match status.state() {
                    weft_proto::v1::BreakerState::Closed => 0,
                    weft_proto::v1::BreakerState::Open => 1,
                    weft_proto::v1::BreakerState::HalfOpen => 2,
                };
                let labels = label_set(&["destination", "port", "endpoint"], &[service, &port, &status.endpoint]);
                let mut line = String::new();
                sample(&mut line, "weft_breaker_state", "", &labels, "", state);
                lines.push(line);
            }
        }
        if !lines.is_empty() {
            lines.sort_unstable();
            header(&mut out, "weft_breaker_state", "0 closed, 1 open, 2 half-open.", "gauge", format);
            out.extend(lines);
        }
        self.render_sizes(&mut out, format);
        if format == Format::OpenMetrics {
            out.push_str("# EOF\n");
        }
        out
    }

    /// How many series there are, and what found no room among them.
    fn render_sizes(&self, out: &mut String, format: Format) {
        let sizes = self.registry.sizes();
        let calls = self.overflow.load(Relaxed);
        header(out, "weft_metrics_series", "Series of each family.", "gauge", format);
        for (family, series, _) in &sizes {
            sample(out, "weft_metrics_series", "", &label_set(&["family"], &[family]), "", series);
        }
        let overflows = sizes.iter().map(|(family, _, overflow)| (*family, *overflow)).chain([("calls", calls)]);
        let name = "weft_metrics_overflow_total";
        header(out, name, "Label sets that found no room, and were counted as other.", "counter", format);
        for (family, overflow) in overflows.filter(|(family, overflow)| *overflow > 0 || *family == "calls") {
            sample(out, name, "", &label_set(&["family"], &[family]), "", overflow);
        }
    }
}
