//! Leaving without failing a call: the state of a drain, and the tokens and guards by which listeners and connections take part.
//!
//! The order (ARCHITECTURE §4) is driven by [`Drain::run`] on the control thread: unready and withdrawn → keep accepting until the
//! withdrawal is acknowledged or 5 s → inbound connections are asked to end (GOAWAY 2³¹−1, `Connection: close`) and their listeners
//! stop → inbound idle → outbound stays until the application has exited → what outlives the deadline is cut and counted.
//! What a connection does when it is asked to end is the codecs' business and not written here.
//!
//! SIGTERM or `POST /drain` on the socket starts the drain. Whoever started the sidecar then tells it when the application is gone: end
//! of file on standard input (with `untilStdinCloses`), `POST /drain?phase=outbound`, or a second SIGTERM. Where nobody can know
//! (`drain.waitForApplication: false`, the default without a control plane) it is taken as gone once the drain begins. SIGINT, a person
//! at a terminal, says both at once.
//!
//! A successor that has taken the listeners over ([`Drain::relieve`]) makes it another thing: nobody is told to go elsewhere, nothing is
//! withdrawn, and what is open has a long time to end by itself.

use crate::codec::Leave;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Whose traffic a listener or connection carries: calls to the application, or calls of the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Towards the application.
    Inbound,
    /// From the application.
    Outbound,
}

/// How far a drain has come. Stages only go forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Ready, or on the way to it.
    Serving,
    /// A successor has the listeners; what is open is served to its end.
    Relieved,
    /// Unready, withdrawal asked for; everything is still accepted.
    Withdrawing,
    /// Inbound connections were asked to end and no new ones are accepted; outbound serves as ever.
    Inbound,
    /// Inbound is idle and the application is still there: only outbound serves.
    Outbound,
    /// The application is gone: outbound connections were asked to end.
    Closing,
    /// Nothing is left, or what was left was cut.
    Done,
}

/// The drain of one process, shared by every listener, connection, and the control thread.
#[derive(Clone, Debug)]
pub struct Drain(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stage: watch::Sender<Stage>,
    begin: CancellationToken,
    /// How long a relieved process has for what is open, and less if its successor leaves meanwhile.
    relieved: watch::Sender<Option<Duration>>,
    application_gone: CancellationToken,
    withdrawn: CancellationToken,
    inbound: SideState,
    outbound: SideState,
    cut: AtomicU64,
}

#[derive(Debug, Default)]
struct SideState {
    leave: Leave,
    cut: CancellationToken,
    open: AtomicUsize,
    idle: tokio::sync::Notify,
}

impl SideState {
    /// Asks what is open to end, also what is idle.
    fn ask(&self) {
        self.leave.after_calls.cancel();
        self.leave.idle.cancel();
    }
}

/// One open connection (or call outside a connection). Dropping it is how the drain learns of its end.
#[derive(Debug)]
pub struct Session {
    drain: Drain,
    side: Side,
}

impl Drop for Session {
    fn drop(&mut self) {
        let state = self.drain.side(self.side);
        if state.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            state.idle.notify_waiters();
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// How long new inbound connections are accepted while the withdrawal is not acknowledged.
    pub const WITHDRAWAL: Duration = Duration::from_secs(5);

    /// The same where the application is gone already.
    pub const LATE_WITHDRAWAL: Duration = Duration::from_millis(500);

    /// A drain that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            stage: watch::Sender::new(Stage::Serving),
            begin: CancellationToken::new(),
            relieved: watch::Sender::new(None),
            application_gone: CancellationToken::new(),
            withdrawn: CancellationToken::new(),
            inbound: SideState::default(),
            outbound: SideState::default(),
            cut: AtomicU64::new(0),
        }))
    }

    fn side(&self, side: Side) -> &SideState {
        match side {
            Side::Inbound => &self.0.inbound,
            Side::Outbound => &self.0.outbound,
        }
    }

    /// Cancelled when `side` must take no new connections and ask open ones to end: GOAWAY, `Connection: close`. Listeners and
    /// codecs watch it.
    #[must_use]
    pub fn graceful(&self, side: Side) -> CancellationToken {
        self.side(side).leave.after_calls.clone()
    }

    /// How connections of `side` are asked to end.
    #[must_use]
    pub fn leave(&self, side: Side) -> Leave {
        self.side(side).leave.clone()
    }

    /// Cancelled when the deadline has passed: what is still open on `side` must be dropped.
    #[must_use]
    pub fn cut(&self, side: Side) -> CancellationToken {
        self.side(side).cut.clone()
    }

    /// Counts a connection until the value is dropped.
    #[must_use]
    pub fn session(&self, side: Side) -> Session {
        self.side(side).open.fetch_add(1, Ordering::AcqRel);
        Session { drain: self.clone(), side }
    }

    /// Connections open on `side`.
    #[must_use]
    pub fn open(&self, side: Side) -> usize {
        self.side(side).open.load(Ordering::Acquire)
    }

    /// Connections that were cut at the deadline.
    #[must_use]
    pub fn cut_count(&self) -> u64 {
        self.0.cut.load(Ordering::Relaxed)
    }

    /// Where the drain stands.
    #[must_use]
    pub fn stage(&self) -> Stage {
        *self.0.stage.borrow()
    }

    /// Follows the stage.
    #[must_use]
    pub fn stages(&self) -> watch::Receiver<Stage> {
        self.0.stage.subscribe()
    }

    /// Starts the drain. Calling it again changes nothing.
    pub fn begin(&self) {
        self.0.begin.cancel();
    }

    /// Cancelled when the drain begins.
    #[must_use]
    pub fn beginning(&self) -> CancellationToken {
        self.0.begin.clone()
    }

    /// Whether the drain was asked for.
    #[must_use]
    pub fn begun(&self) -> bool {
        self.0.begin.is_cancelled()
    }

    /// A successor takes new connections from now on: listeners stop, and what is open has at most `patience` to end. False once a drain has
    /// begun, which nobody can take over. Said again, it can only shorten what is left.
    #[must_use]
    pub fn relieve(&self, patience: Duration) -> bool {
        if self.begun() && !self.is_relieved() {
            return false;
        }
        self.0.relieved.send_modify(|left| *left = Some(patience));
        self.0.inbound.leave.after_calls.cancel();
        self.0.outbound.leave.after_calls.cancel();
        true
    }

    /// Whether a successor has taken over.
    #[must_use]
    pub fn is_relieved(&self) -> bool {
        self.0.relieved.borrow().is_some()
    }

    /// The control plane told the peers (or there is none to tell).
    pub fn withdrawal_acknowledged(&self) {
        self.0.withdrawn.cancel();
    }

    /// The application has exited: nothing will ask for outbound any more. Implies [`Drain::begin`].
    pub fn application_gone(&self) {
        self.0.application_gone.cancel();
        self.begin();
    }

    fn enter(&self, stage: Stage) {
        self.0.stage.send_replace(stage);
        tracing::info!(?stage, inbound = self.open(Side::Inbound), outbound = self.open(Side::Outbound), "drain");
    }

    async fn idle(&self, side: Side) {
        let state = self.side(side);
        loop {
            let notified = state.idle.notified();
            tokio::pin!(notified);
            // Registered before the count is read, so that the last drop in between is not missed.
            notified.as_mut().enable();
            if state.open.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Drives the drain from the moment it begins to its end; returns how many connections were cut. `deadline` counts from the
    /// beginning of the drain for inbound, and from the application's exit (at the latest the same deadline again) for outbound.
    pub async fn run(&self, deadline: Duration) -> u64 {
        let mut relieved = self.0.relieved.subscribe();
        tokio::select! {
            biased;
            _ = relieved.wait_for(Option::is_some) => {}
            () = self.0.begin.cancelled() => {}
        }
        if self.is_relieved() {
            return self.run_relieved(relieved, deadline).await;
        }
        let until = Instant::now() + deadline;
        self.enter(Stage::Withdrawing);
        let withdrawal = Self::WITHDRAWAL.min(deadline);
        // Once the application is gone there is nothing to keep accepting for; peers are still told.
        let gone = async {
            self.0.application_gone.cancelled().await;
            tokio::time::sleep(Self::LATE_WITHDRAWAL).await;
        };
        tokio::select! {
            () = self.0.withdrawn.cancelled() => {}
            () = gone => {}
            () = tokio::time::sleep(withdrawal) => tracing::warn!("the withdrawal was not acknowledged within {withdrawal:?}"),
        }

        self.enter(Stage::Inbound);
        self.0.inbound.ask();
        let gone = async {
            tokio::join!(self.idle(Side::Inbound), self.0.application_gone.cancelled());
        };
        let progress = async {
            self.idle(Side::Inbound).await;
            self.enter(Stage::Outbound);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = gone => {}
            () = progress => {}
            () = tokio::time::sleep_until(until) => {}
        }
        self.cut_side(Side::Inbound);

        self.enter(Stage::Closing);
        self.0.outbound.ask();
        // An application that goes late leaves its last calls no time: they get a short while of their own.
        let until = until.max(Instant::now() + Duration::from_secs(1).min(deadline));
        if tokio::time::timeout_at(until, self.idle(Side::Outbound)).await.is_err() {
            self.cut_side(Side::Outbound);
        }
        self.enter(Stage::Done);
        self.cut_count()
    }

    /// The end of a process whose successor serves. `deadline`: once somebody wants it gone.
    async fn run_relieved(&self, mut relieved: watch::Receiver<Option<Duration>>, deadline: Duration) -> u64 {
        self.enter(Stage::Relieved);
        let left = |relieved: &mut watch::Receiver<Option<Duration>>| relieved.borrow_and_update().unwrap_or_default();
        let mut until = Instant::now() + left(&mut relieved);
        let mut begun = false;
        loop {
            let ended = async { tokio::join!(self.idle(Side::Inbound), self.idle(Side::Outbound)) };
            tokio::select! {
                _ = ended => break,
                () = tokio::time::sleep_until(until) => break,
                () = self.0.begin.cancelled(), if !begun => {
                    begun = true;
                    until = until.min(Instant::now() + deadline);
                }
                Ok(()) = relieved.changed() => until = until.min(Instant::now() + left(&mut relieved)),
            }
            self.0.inbound.ask();
            self.0.outbound.ask();
        }
        self.cut_side(Side::Inbound);
        self.cut_side(Side::Outbound);
        self.enter(Stage::Done);
        self.cut_count()
    }

    fn cut_side(&self, side: Side) {
        let state = self.side(side);
        let left = state.open.load(Ordering::Acquire);
        state.cut.cancel();
        if left > 0 {
            self.0.cut.fetch_add(left as u64, Ordering::Relaxed);
            tracing::warn!(?side, connections = left, "cut at the drain deadline");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    /// Lets the other tasks run until they wait.
    async fn settle() {
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
    }

    fn started() -> (Drain, tokio::task::JoinHandle<u64>) {
        let drain = Drain::new();
        let running = drain.clone();
        (drain, tokio::spawn(async move { running.run(DEADLINE).await }))
    }

    #[tokio::test(start_paused = true)]
    async fn inbound_ends_first_and_outbound_stays_until_the_application_is_gone() {
        let (drain, running) = started();
        let (inbound, outbound) = (drain.session(Side::Inbound), drain.session(Side::Outbound));
        settle().await;
        assert_eq!(drain.stage(), Stage::Serving);
        drain.begin();
        settle().await;
        assert_eq!(drain.stage(), Stage::Withdrawing);
        assert!(!drain.graceful(Side::Inbound).is_cancelled(), "everything is still accepted");
        drain.withdrawal_acknowledged();
        settle().await;
        assert_eq!(drain.stage(), Stage::Inbound);
        assert!(drain.graceful(Side::Inbound).is_cancelled() && !drain.graceful(Side::Outbound).is_cancelled());
        drop(inbound);
        settle().await;
        assert_eq!(drain.stage(), Stage::Outbound);
        assert!(!drain.graceful(Side::Outbound).is_cancelled(), "the application is still there");
        drain.application_gone();
        settle().await;
        assert_eq!(drain.stage(), Stage::Closing);
        assert!(drain.graceful(Side::Outbound).is_cancelled() && !drain.cut(Side::Outbound).is_cancelled());
        drop(outbound);
        assert_eq!(running.await.unwrap(), 0);
        assert_eq!(drain.stage(), Stage::Done);
    }

    #[tokio::test(start_paused = true)]
    async fn a_withdrawal_that_nobody_acknowledges_holds_new_connections_for_five_seconds() {
        let (drain, _running) = started();
        drain.begin();
        settle().await;
        tokio::time::sleep(Drain::WITHDRAWAL - Duration::from_millis(1)).await;
        assert_eq!(drain.stage(), Stage::Withdrawing);
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(drain.graceful(Side::Inbound).is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn what_outlives_the_deadline_is_cut_and_counted() {
        let (drain, running) = started();
        let _stuck = (drain.session(Side::Inbound), drain.session(Side::Inbound), drain.session(Side::Outbound));
        drain.begin();
        drain.withdrawal_acknowledged();
        let began = Instant::now();
        assert_eq!(running.await.unwrap(), 3);
        assert_eq!(began.elapsed(), DEADLINE + Duration::from_secs(1), "outbound gets a moment of its own");
        assert!(drain.cut(Side::Inbound).is_cancelled() && drain.cut(Side::Outbound).is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_relieved_withdraws_nothing_and_serves_what_is_open_until_it_ends() {
        let (drain, running) = started();
        let (inbound, outbound) = (drain.session(Side::Inbound), drain.session(Side::Outbound));
        settle().await;
        assert!(drain.relieve(Duration::from_secs(3600)));
        for side in [Side::Inbound, Side::Outbound] {
            assert!(drain.graceful(side).is_cancelled() && !drain.leave(side).idle.is_cancelled());
        }
        tokio::time::sleep(10 * DEADLINE).await;
        assert_eq!(drain.stage(), Stage::Relieved);
        drop((inbound, outbound));
        assert_eq!(running.await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_relieved_ends_by_its_deadline_and_sooner_when_its_successor_leaves() {
        for (hurry, lasts) in [(None, 3600), (Some(7200), 3600), (Some(5), 15)] {
            let (drain, running) = started();
            let _stuck = drain.session(Side::Inbound);
            let began = Instant::now();
            assert!(drain.relieve(Duration::from_secs(3600)));
            tokio::time::sleep(Duration::from_secs(10)).await;
            if let Some(seconds) = hurry {
                assert!(drain.relieve(Duration::from_secs(seconds)));
                settle().await;
                assert!(drain.leave(Side::Inbound).idle.is_cancelled());
            }
            assert_eq!(running.await.unwrap(), 1);
            assert_eq!(began.elapsed().as_secs(), lasts, "{hurry:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_has_begun_cannot_be_relieved_and_a_relieved_process_can_be_told_to_leave() {
        let (drain, _running) = started();
        drain.begin();
        assert!(!drain.relieve(Duration::from_secs(1)) && !drain.is_relieved());
        let (drain, running) = started();
        let _stuck = drain.session(Side::Outbound);
        assert!(drain.relieve(Duration::from_secs(3600)));
        settle().await;
        drain.begin();
        let began = Instant::now();
        assert_eq!(running.await.unwrap(), 1);
        assert_eq!(began.elapsed(), DEADLINE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_went_first_is_not_waited_for() {
        let (drain, running) = started();
        let outbound = drain.session(Side::Outbound);
        let began = Instant::now();
        drain.application_gone();
        settle().await;
        assert_eq!(drain.stage(), Stage::Withdrawing, "peers are still told");
        tokio::time::sleep(Drain::LATE_WITHDRAWAL).await;
        drop(outbound);
        assert_eq!(running.await.unwrap(), 0);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}
