//! How long a connection of mutual TLS lives: no longer than the certificates that it was made with, on both sides alike. When the first
//! of them ends the connection takes no more calls; those that are under way have a grace, after which it is cut and counted. New
//! connections are made with what is current then.

use crate::codec::h2;
use crate::moment::{Alarm, Moment};
use crate::telemetry::metrics::Counter;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

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

    /// As whoever dialled goes by it.
    pub(crate) fn dialled(self) -> Dialled {
        Dialled { alarm: Alarm::new(self.ends.earlier(EARLY)), term: self }
    }

    /// When what is open then is to be cut.
    fn over(&self) -> Moment {
        self.ends.later(self.grace)
    }

    /// Serves a connection to its end: `leave` is called when its certificates end, and what has not left within the grace is cut.
    pub(crate) async fn limit<F: Future<Output = ()>>(self, mut served: Pin<&mut F>, leave: impl FnOnce()) {
        let mut alarm = Alarm::new(self.ends);
        if ended(served.as_mut(), &mut alarm).await {
            return;
        }
        leave();
        alarm.set(self.over());
        if !ended(served, &mut alarm).await {
            self.cut.increment();
        }
    }
}

/// The term of a connection that this side has dialled.
pub(crate) struct Dialled {
    term: Term,
    alarm: Alarm,
}

impl h2::Term for Dialled {
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.alarm.poll(cx));
        self.alarm.set(self.term.over());
        Poll::Ready(())
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.alarm.poll(cx));
        self.term.cut.increment();
        Poll::Ready(())
    }
}

/// Whether it ended before the alarm went off.
async fn ended<F: Future<Output = ()>>(mut served: Pin<&mut F>, alarm: &mut Alarm) -> bool {
    poll_fn(|cx| {
        if served.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        alarm.poll(cx).map(|()| false)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use tokio::time::Instant;

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
