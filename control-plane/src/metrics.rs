//! What the control plane counts of itself, for Prometheus: names, types and labels are those of [`weft_proto::metrics`]. Whoever does
//! something records it here; what is a state of others (streams, who waits) is asked for when it is scraped.

use crate::store::StoreError;
use http::StatusCode;
use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
    exponential_buckets,
};
use std::time::Duration;
use weft_proto::metrics::{self as names, Family};

/// What roles know; anything else is `other`, and what needs no role `none`.
const VERBS: [&str; 11] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "post", "impersonate", "head"];

/// All of them. Shared by the parts of one process.
pub struct Metrics {
    registry: Registry,
    streams: IntGaugeVec,
    waiting: IntGaugeVec,
    lag: prometheus::GaugeVec,
    generation: IntGaugeVec,
    opened: IntCounterVec,
    resources: IntCounterVec,
    refusals: IntCounterVec,
    convergence: HistogramVec,
    compile: HistogramVec,
    store: HistogramVec,
    store_errors: IntCounterVec,
    requests: IntCounterVec,
    durations: HistogramVec,
    /// One scrape at a time.
    scrape: Mutex<()>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// What others know, at the moment of a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// Open streams for configuration, and for reports.
    pub streams: (usize, usize),
    /// Streams for configuration since the start.
    pub opened: u64,
    /// Resources sent, held already, and removed since the start.
    pub resources: [u64; 3],
    /// Responses that were refused since the start.
    pub refusals: u64,
    /// Sidecars that wait for the newest of what they need.
    pub waiting: usize,
    /// For how long.
    pub lag: Duration,
    /// The newest compilation.
    pub generation: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let opts = |family: &Family, help: &str| Opts::new(family.name, help);
        // From 100 µs to 26 s, each twice the one before.
        let bounds = exponential_buckets(0.0001, 2.0, 19).unwrap_or_default();
        let timed = |family: &Family, help: &str| {
            let opts = HistogramOpts::new(family.name, help).buckets(bounds.clone());
            registered(&registry, HistogramVec::new(opts, family.labels))
        };
        let counter =
            |family: &Family, help: &str| registered(&registry, IntCounterVec::new(opts(family, help), family.labels));
        let gauge =
            |family: &Family, help: &str| registered(&registry, IntGaugeVec::new(opts(family, help), family.labels));
        let lag = opts(&names::CONTROL_LAG, "For how long some sidecar has been waiting for what is newest.");
        Self {
            streams: gauge(&names::CONTROL_STREAMS, "Open streams with sidecars."),
            waiting: gauge(&names::CONTROL_WAITING, "Sidecars that do not hold the newest of what they need."),
            lag: registered(&registry, prometheus::GaugeVec::new(lag, names::CONTROL_LAG.labels)),
            generation: gauge(&names::CONTROL_GENERATION, "The newest compilation."),
            opened: counter(&names::CONTROL_XDS_STREAMS, "Streams for configuration that were opened."),
            resources: counter(&names::CONTROL_XDS_RESOURCES, "Resources sent, held already, or removed."),
            refusals: counter(&names::CONTROL_XDS_REFUSALS, "Responses that a sidecar refused, wholly or in part."),
            convergence: timed(&names::CONTROL_CONVERGENCE, "From a change to its last acknowledgement."),
            compile: timed(&names::CONTROL_COMPILE, "Compilations of the mesh."),
            store: timed(&names::CONTROL_STORE, "What the store was asked for."),
            store_errors: counter(&names::CONTROL_STORE_ERRORS, "What the store could not do."),
            requests: counter(&names::CONTROL_API_REQUESTS, "Requests to the API."),
            durations: timed(&names::CONTROL_API_DURATION, "Until requests to the API were answered."),
            registry,
            scrape: Mutex::default(),
        }
    }
}

/// Of the list, whose names and labels are good and are there once.
fn registered<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let Ok(family) = made else { unreachable!("the list has good names") };
    let Ok(()) = registry.register(Box::new(family.clone())) else { unreachable!("the list names each once") };
    family
}

impl Metrics {
    /// The mesh was compiled.
    pub fn compiled(&self, took: Duration) {
        self.compile.with_label_values(&[] as &[&str]).observe(took.as_secs_f64());
    }

    /// Every sidecar that needs a change holds it.
    pub fn converged(&self, after: Duration) {
        self.convergence.with_label_values(&[] as &[&str]).observe(after.as_secs_f64());
    }

    /// The store answered. What a caller expected wrongly is no error of its.
    pub fn stored(&self, operation: &'static str, took: Duration, error: Option<&StoreError>) {
        self.store.with_label_values(&[operation]).observe(took.as_secs_f64());
        let kind = match error {
            Some(StoreError::Failed(_)) => "failed",
            Some(StoreError::Refused(_)) => "refused",
            _ => return,
        };
        self.store_errors.with_label_values(&[operation, kind]).inc();
    }

    /// A request to the API was answered; `verb` as roles call it, empty where none was needed.
    pub fn answered(&self, verb: &str, code: StatusCode, took: Duration) {
        let known = VERBS.iter().find(|known| **known == verb).copied();
        let verb = known.unwrap_or(if verb.is_empty() { "none" } else { "other" });
        self.requests.with_label_values(&[verb, code.as_str()]).inc();
        self.durations.with_label_values(&[verb]).observe(took.as_secs_f64());
    }

    /// Everything, in Prometheus' text format.
    pub fn render(&self, state: &State) -> String {
        let _one = self.scrape.lock();
        let none: &[&str] = &[];
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (xds, control) = state.streams;
        for (kind, open) in [("xds", xds), ("control", control)] {
            self.streams.with_label_values(&[kind]).set(signed(open as u64));
        }
        self.waiting.with_label_values(none).set(signed(state.waiting as u64));
        self.lag.with_label_values(none).set(state.lag.as_secs_f64());
        self.generation.with_label_values(none).set(signed(state.generation));
        // Counted elsewhere, from the start or from when this replica began to lead.
        let count = |family: &IntCounterVec, labels: &[&str], total: u64| {
            let counter = family.with_label_values(labels);
            counter.reset();
            counter.inc_by(total);
        };
        count(&self.opened, none, state.opened);
        for (action, total) in ["sent", "held", "removed"].into_iter().zip(state.resources) {
            count(&self.resources, &[action], total);
        }
        count(&self.refusals, none, state.refusals);
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics of the control plane cannot be written");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_of_the_list_is_there_with_its_type_and_nothing_else() {
        let metrics = Metrics::default();
        metrics.compiled(Duration::from_millis(3));
        metrics.converged(Duration::from_millis(30));
        metrics.stored("get", Duration::from_micros(50), None);
        metrics.stored("transact", Duration::from_secs(5), Some(&StoreError::Failed("away".to_owned())));
        metrics.answered("list", StatusCode::OK, Duration::from_millis(1));
        let text = metrics.render(&State::default());
        let told: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let mut wanted: Vec<String> =
            names::CONTROL_FAMILIES.iter().map(|family| format!("{} {}", family.name, family.kind)).collect();
        wanted.sort_unstable();
        assert_eq!(told, wanted);
        assert!(text.contains("weft_control_store_errors_total{kind=\"failed\",operation=\"transact\"} 1\n"), "{text}");
    }

    #[test]
    fn what_callers_choose_is_no_label_and_what_others_count_is_what_they_say() {
        let metrics = Metrics::default();
        for verb in ["list", "made-up", "", "x".repeat(10_000).as_str()] {
            metrics.answered(verb, StatusCode::FORBIDDEN, Duration::ZERO);
        }
        let state = State {
            streams: (3, 2),
            resources: [7, 0, 1],
            waiting: 1,
            lag: Duration::from_millis(1500),
            ..State::default()
        };
        let (_, text) = (metrics.render(&state), metrics.render(&state));
        for line in [
            "weft_control_api_requests_total{code=\"403\",verb=\"list\"} 1",
            "weft_control_api_requests_total{code=\"403\",verb=\"none\"} 1",
            "weft_control_api_requests_total{code=\"403\",verb=\"other\"} 2",
            "weft_control_streams{kind=\"xds\"} 3",
            "weft_control_xds_resources_total{action=\"sent\"} 7",
            "weft_control_lag_seconds 1.5",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}: {text}");
        }
    }
}
