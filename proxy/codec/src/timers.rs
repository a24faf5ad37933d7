//! Timers that stay armed from one use to the next.
//!
//! Arming one that fires before all others of its runtime wakes the runtime by a system call, and most deadlines of a proxy are never
//! reached: the call or the connection that they bound ends long before.

use parking_lot::Mutex;
use std::pin::Pin;
use std::time::Instant;
use tokio::time::Sleep;

/// Armed timers of one worker that wait for their next use. One serves thousands of deadlines of about the same length: it fires too
/// early for the current one now and then, and is moved only then. Uses of very different lengths want a set each.
#[derive(Default)]
pub struct Timers(Mutex<Vec<Pin<Box<Sleep>>>>);

/// Timers that wait at most; more than that many uses at once are rare on one worker.
const WAITING: usize = 256;

impl Timers {
    /// A timer that fires at `at` or before: whoever takes it looks at the clock then, and moves it.
    pub fn take(&self, at: Instant) -> Pin<Box<Sleep>> {
        match self.0.lock().pop() {
            Some(mut sleep) => {
                if sleep.is_elapsed() || sleep.deadline().into_std() > at {
                    sleep.as_mut().reset(at.into());
                }
                sleep
            }
            None => Box::pin(tokio::time::sleep_until(at.into())),
        }
    }

    /// Gives a timer back, armed as it is.
    pub fn put(&self, sleep: Pin<Box<Sleep>>) {
        let mut waiting = self.0.lock();
        if waiting.len() < WAITING {
            waiting.push(sleep);
        }
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_timer_left_armed_is_moved_only_where_it_would_fire_too_late() {
        let timers = Timers::default();
        let in_seconds = |seconds| tokio::time::Instant::now().into_std() + Duration::from_secs(seconds);
        let first = in_seconds(5);
        timers.put(timers.take(first));
        for (at, fires) in [(in_seconds(9), first), (in_seconds(3), in_seconds(3))] {
            let sleep = timers.take(at);
            assert_eq!(sleep.deadline().into_std(), fires);
            timers.put(sleep);
        }
        tokio::time::advance(Duration::from_secs(4)).await;
        let again = in_seconds(5);
        let mut sleep = timers.take(again);
        assert_eq!(sleep.deadline().into_std(), again, "one that has fired is armed again");
        sleep.as_mut().await;
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_are_kept() {
        let timers = Timers::default();
        let at = tokio::time::Instant::now().into_std() + Duration::from_secs(1);
        let held: Vec<_> = (0..WAITING + 10).map(|_| timers.take(at)).collect();
        held.into_iter().for_each(|sleep| timers.put(sleep));
        assert_eq!(timers.waiting(), WAITING);
    }
}
