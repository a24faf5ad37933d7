//! A moment that certificates and tokens name, and an alarm for it that costs nothing while it has not gone off.

use std::future::Future as _;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep};

/// The longest sleep: clocks are set, machines are suspended, and a timer knows neither.
const LOOK: Duration = Duration::from_secs(600);

/// A moment by the clock that certificates and tokens go by, and by the one that cannot be set. Whichever reaches it first counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    told: SystemTime,
    /// `None`: never.
    measured: Option<Instant>,
}

impl Moment {
    /// By how far it is now.
    pub fn new(told: SystemTime) -> Self {
        let left = told.duration_since(SystemTime::now()).unwrap_or_default();
        Self { told, measured: Instant::now().checked_add(left) }
    }

    /// A little before.
    pub fn earlier(self, by: Duration) -> Self {
        let measured = self.measured.map(|at| at.checked_sub(by).unwrap_or(at));
        Self { told: self.told.checked_sub(by).unwrap_or(self.told), measured }
    }

    /// A little after.
    pub fn later(self, by: Duration) -> Self {
        let measured = self.measured.and_then(|at| at.checked_add(by));
        Self { told: self.told.checked_add(by).unwrap_or(self.told), measured }
    }

    fn is_past(self) -> bool {
        self.measured.is_some_and(|end| Instant::now() >= end || SystemTime::now() >= self.told)
    }

    /// When to look again.
    fn look(self) -> Instant {
        let latest = Instant::now() + LOOK;
        self.measured.map_or(latest, |end| end.min(latest))
    }
}

/// Goes off at a moment. Whoever has it polls it at every turn of a connection or a call: its timer is asked only when it has fired, or
/// when somebody else is to be woken.
#[derive(Debug)]
pub(crate) struct Alarm {
    at: Moment,
    sleep: Pin<Box<Sleep>>,
    /// Who is woken by the timer.
    waker: Option<Waker>,
}

impl Alarm {
    /// One that is set.
    pub fn new(at: Moment) -> Self {
        Self { at, sleep: Box::pin(tokio::time::sleep_until(at.look())), waker: None }
    }

    /// Sets it anew.
    pub fn set(&mut self, at: Moment) {
        self.at = at;
        self.waker = None;
        self.sleep.as_mut().reset(at.look());
    }

    /// Ready, again and again, once the moment has come.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waits = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if waits && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        while !self.at.is_past() {
            // Outside of tokio's budget: where a busy task has used it up, the timer would not even be set.
            ready!(pin!(unconstrained(self.sleep.as_mut())).poll(cx));
            self.sleep.as_mut().reset(self.at.look());
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    async fn gone_off(mut alarm: Alarm) {
        std::future::poll_fn(|cx| alarm.poll(cx)).await;
    }

    fn in_seconds(seconds: u64) -> Moment {
        Moment::new(SystemTime::now() + Duration::from_secs(seconds))
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_wakes_whoever_asked_last_and_goes_off_again_when_it_is_set_again() {
        let (first, second) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        let wakers = [Waker::from(Arc::clone(&first)), Waker::from(Arc::clone(&second))];
        let mut alarm = Alarm::new(in_seconds(10));
        for waker in [&wakers[0], &wakers[0], &wakers[1]] {
            assert!(alarm.poll(&mut Context::from_waker(waker)).is_pending());
        }
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert_eq!((first.0.load(SeqCst), second.0.load(SeqCst)), (0, 1));
        assert!(alarm.poll(&mut Context::from_waker(&wakers[1])).is_ready());
        alarm.set(in_seconds(10));
        assert!(alarm.poll(&mut Context::from_waker(&wakers[1])).is_pending());
        let begin = Instant::now();
        gone_off(alarm).await;
        assert!((9..=11).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_is_set_by_a_task_that_has_used_up_its_budget() {
        let mut alarm = Alarm::new(in_seconds(10));
        let set = std::future::poll_fn(|cx| {
            while pin!(tokio::task::coop::consume_budget()).poll(cx).is_ready() {}
            Poll::Ready(alarm.poll(cx))
        });
        assert!(set.await.is_pending());
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(std::future::poll_fn(|cx| Poll::Ready(alarm.poll(cx))).await.is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_passed_goes_off_at_once_and_a_far_one_after_all_its_looks() {
        gone_off(Alarm::new(Moment::new(SystemTime::UNIX_EPOCH))).await;
        let begin = Instant::now();
        gone_off(Alarm::new(in_seconds(3 * LOOK.as_secs()))).await;
        assert!(begin.elapsed() > 2 * LOOK, "{:?}", begin.elapsed());
    }
}
