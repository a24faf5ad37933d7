//! How long a connection of mutual TLS lives: no longer than the certificates that it was made with, on both sides alike. When the first
//! of them ends the connection takes no more calls; those that are under way have a grace, after which it is cut and counted. New
//! connections are made with what is current then.

use crate::telemetry::metrics::Counter;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// The longest sleep: clocks are set, machines are suspended, and a timer knows neither.
const LOOK: Duration = Duration::from_secs(600);
/// Whoever dials leaves a little before the end, so that no call meets the peer's farewell.
const EARLY: Duration = Duration::from_secs(1);

/// The term of one connection.
#[derive(Clone, Debug)]
pub struct Term {
    /// End of the first certificate.
    ends: Moment,
    /// For what is under way then.
    grace: Duration,
    /// Connections that were cut.
    cut: Counter,
}

impl Term {
    /// Of a connection that was made with this side's certificate and the peer's, by their ends. `None` where neither is known.
    #[must_use]
    pub fn new(own: Option<SystemTime>, peer: Option<SystemTime>, grace: Duration, cut: Counter) -> Option<Self> {
        let ends = [own, peer].into_iter().flatten().min()?;
        Some(Self { ends: Moment::new(ends), grace, cut })
    }

    /// Ready when whoever dialled is to take no more calls to the connection.
    pub(crate) async fn leave(&self) {
        self.ends.earlier(EARLY).reached().await;
    }

    /// Ready when the connection is to be cut. Counted.
    pub(crate) async fn over(&self) {
        self.ends.later(self.grace).reached().await;
        self.cut.increment();
    }

    /// Serves a connection to its end: `leave` is called when its certificates end, and what has not left within the grace is cut.
    pub(crate) async fn limit<F: Future<Output = ()>>(self, mut served: Pin<&mut F>, leave: impl FnOnce()) {
        tokio::select! {
            biased;
            () = served.as_mut() => return,
            () = self.ends.reached() => leave(),
        }
        tokio::select! {
            biased;
            () = served => {}
            () = self.over() => {}
        }
    }
}

/// A moment by the clock that certificates go by, and by the one that cannot be set. Whichever reaches it first counts.
#[derive(Clone, Copy, Debug)]
struct Moment {
    told: SystemTime,
    /// `None`: never.
    measured: Option<Instant>,
}

impl Moment {
    fn new(told: SystemTime) -> Self {
        let left = told.duration_since(SystemTime::now()).unwrap_or_default();
        Self { told, measured: Instant::now().checked_add(left) }
    }

    fn earlier(self, by: Duration) -> Self {
        let measured = self.measured.map(|at| at.checked_sub(by).unwrap_or(at));
        Self { told: self.told.checked_sub(by).unwrap_or(self.told), measured }
    }

    fn later(self, by: Duration) -> Self {
        let measured = self.measured.and_then(|at| at.checked_add(by));
        Self { told: self.told.checked_add(by).unwrap_or(self.told), measured }
    }

    async fn reached(self) {
        let Some(end) = self.measured else { return std::future::pending().await };
        while Instant::now() < end && SystemTime::now() < self.told {
            tokio::time::sleep_until(end.min(Instant::now() + LOOK)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    fn term(left: u64, grace: u64) -> (Term, Counter) {
        let cut = Counter::default();
        let ends = SystemTime::now() + Duration::from_secs(left);
        let later = ends + Duration::from_secs(1000);
        (Term::new(Some(later), Some(ends), Duration::from_secs(grace), cut.clone()).unwrap(), cut)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_told_to_leave_when_its_first_certificate_ends_and_cut_after_the_grace() {
        let (term, cut) = term(100, 30);
        let begin = Instant::now();
        let mut told = None;
        term.limit(pin!(std::future::pending::<()>()), || told = Some(begin.elapsed())).await;
        let (told, ended) = (told.unwrap().as_secs_f64(), begin.elapsed().as_secs_f64());
        assert!((99.0..=101.0).contains(&told) && (129.0..=131.0).contains(&ended), "{told} {ended}");
        assert_eq!(cut.value(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_leaves_in_time_is_not_cut() {
        let (term, cut) = term(100, 30);
        let leaving = tokio_util::sync::CancellationToken::new();
        let left = async {
            leaving.cancelled().await;
            tokio::time::sleep(Duration::from_secs(20)).await;
        };
        term.limit(pin!(left), || leaving.cancel()).await;
        assert!(leaving.is_cancelled());
        assert_eq!(cut.value(), 0);
    }

    #[test]
    fn a_connection_without_certificates_has_no_term() {
        assert!(Term::new(None, None, Duration::ZERO, Counter::default()).is_none());
    }
}
