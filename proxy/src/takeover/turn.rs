//! Whose turn it is: a process that takes over waits for its own, and one that was relieved has had it.

use tokio_util::sync::CancellationToken;

/// The time in which a process has the listeners, and in which it speaks for the workload: registers it, keeps its
/// state directory.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    begun: CancellationToken,
    over: CancellationToken,
}

impl Turn {
    /// One that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that has begun.
    #[must_use]
    pub fn now() -> Self {
        let turn = Self::default();
        turn.begin();
        turn
    }

    /// Begins it.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    /// Ends it: a successor's has begun.
    pub fn end(&self) {
        self.over.cancel();
    }

    /// Whether it has begun and is not over.
    #[must_use]
    pub fn is_now(&self) -> bool {
        self.begun.is_cancelled() && !self.is_over()
    }

    /// Whether a successor has taken over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Waits for its beginning.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Waits for its end.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }
}
