//! Retry storms cannot happen: whatever a route opts in to, the budget bounds what reaches an upstream that fails every call.

use crate::stage::{Load, apply};
use std::time::Instant;
use weft_integration::rig::{Mesh, Upstream};

/// What reached the upstream, of how many calls, in how many seconds.
struct Storm {
    calls: f64,
    sent: f64,
    seconds: f64,
}

impl Storm {
    /// A fifth of the calls, and ten a second: those of the second that has begun are there at its beginning.
    #[track_caller]
    fn assert_bounded(&self) {
        let most = 1.2 * self.calls + 10.0 * self.seconds.ceil();
        assert!(self.sent <= most, "{} of {} calls in {:.1} s, at most {most}", self.sent, self.calls, self.seconds);
    }
}

/// Three instances that fail every call, a route that retries up to five times, and load.
fn blow(policy: &str) -> Storm {
    let mesh = Mesh::start();
    let upstream = Upstream::start(|_| (503, "closed".to_owned()));
    let _instances = ["ledger-1", "ledger-2", "ledger-3"].map(|name| upstream.instance(&mesh, "ledger", name));
    apply(
        &mesh,
        &format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: ledger, namespace: shop}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: ledger, port: 80}}]\n  \
             rules: [{{retry: {{attempts: 5, codes: [502, 503, 504], backoff: 1ms}}, backendRefs: [{{name: ledger, port: 80}}]}}]\n\
             ---\napiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: ledger, namespace: shop}}\nspec:\n  \
             targetRefs: [{{kind: Service, name: ledger}}]\n{policy}"
        ),
    );
    let start = Instant::now();
    let load = Load::during(&mesh, "http://ledger", 250, "6s");
    let report = load.end();
    let seconds = start.elapsed().as_secs_f64();
    let (calls, failed) = (report["total"].as_f64().unwrap(), report["failed"].as_f64().unwrap());
    assert!((calls - failed).abs() < 0.5 && calls >= 1400.0, "every call fails, and there are many: {report:#}");
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let sent = upstream.seen() as f64;
    println!(
        "{calls} calls in {seconds:.1} s, {sent} reached the upstream: {:.3} a call; {}",
        sent / calls,
        report["status"]
    );
    Storm { calls, sent, seconds }
}

#[test]
fn an_upstream_that_fails_every_call_gets_at_most_a_fifth_more_calls_and_ten_a_second() {
    let storm = blow("  circuitBreaker: {disabled: true}\n");
    storm.assert_bounded();
    // And the budget is there to be used: without retries nothing would have been shown.
    assert!(storm.sent >= 1.15 * storm.calls, "{} of {}", storm.sent, storm.calls);
}

#[test]
fn breakers_only_lower_what_an_upstream_that_fails_every_call_gets() {
    let storm = blow("  retryBudget: {percent: 20, minPerSecond: 10}\n");
    storm.assert_bounded();
}
