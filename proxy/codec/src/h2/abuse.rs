//! What a peer may do for nothing. Everything that costs work and brings no call forward is counted, and too much of it ends the
//! connection with ENHANCE_YOUR_CALM (RFC 9113 §10.5).

use std::time::{Duration, Instant};

/// Calls of a peer that it reset before they were answered (CVE-2023-44487), in one [`SPAN`]: so many, and as many as it let be answered.
const EARLY: u32 = 1000;
const SPAN: Duration = Duration::from_secs(10);
/// PINGs and SETTINGS that were answered, and the answers not yet written.
const ANSWERS: u32 = 256;
/// Frames that bring nothing forward: credit, priorities, unknown types, empty DATA.
const NOISE: u32 = 10_000;
/// So many of them are made good by a frame that does.
const WORTH: u32 = 20;
/// An empty DATA frame counts for this many.
const EMPTY: u32 = 10;
/// CONTINUATION frames of one header block.
const CONTINUATIONS: usize = 64;

/// Too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Calm(pub &'static str);

/// Counts of one connection.
#[derive(Debug, Default)]
pub(super) struct Abuse {
    answers: u32,
    noise: u32,
    early: u32,
    answered: u32,
    since: Option<Instant>,
}

impl Abuse {
    /// A frame that brings a call forward.
    pub(super) const fn useful(&mut self) {
        self.noise = self.noise.saturating_sub(WORTH);
    }

    /// One that does not.
    pub(super) const fn noise(&mut self) -> Result<(), Calm> {
        self.noise += 1;
        if self.noise > NOISE { Err(Calm("too many frames to no purpose")) } else { Ok(()) }
    }

    /// A DATA frame without data or end.
    pub(super) const fn empty(&mut self) -> Result<(), Calm> {
        self.noise += EMPTY;
        self.noise()
    }

    /// A PING or SETTINGS that must be answered.
    pub(super) const fn answer(&mut self) -> Result<(), Calm> {
        self.answers += 1;
        if self.answers > ANSWERS { Err(Calm("too many PINGs and SETTINGS at once")) } else { Ok(()) }
    }

    /// Everything was written.
    pub(super) const fn flushed(&mut self) {
        self.answers = 0;
    }

    /// A call was answered in full.
    pub(super) const fn answered(&mut self) {
        self.answered = self.answered.saturating_add(1);
    }

    /// The peer reset a call before it was answered.
    pub(super) fn early(&mut self, now: impl FnOnce() -> Instant) -> Result<(), Calm> {
        self.early += 1;
        if self.early <= EARLY.saturating_add(self.answered) {
            if self.since.is_none() {
                self.since = Some(now());
            }
            return Ok(());
        }
        let now = now();
        if self.since.is_some_and(|since| now.duration_since(since) < SPAN) {
            return Err(Calm("too many calls reset before their answer"));
        }
        (self.early, self.answered, self.since) = (1, 0, Some(now));
        Ok(())
    }

    /// A header block has so many CONTINUATION frames.
    pub(super) const fn continued(frames: usize) -> Result<(), Calm> {
        if frames > CONTINUATIONS { Err(Calm("too many CONTINUATION frames")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_counted_within_a_span_and_against_answers() {
        let start = Instant::now();
        let mut abuse = Abuse::default();
        for n in 0..EARLY * 5 {
            abuse.early(|| start + SPAN * (n / 1000)).expect("spread over time");
        }
        let mut abuse = Abuse::default();
        for _ in 0..EARLY * 5 {
            abuse.answered();
            abuse.early(|| start).expect("as many were answered");
        }
        let mut abuse = Abuse::default();
        for _ in 0..EARLY {
            abuse.early(|| start).expect("some");
        }
        assert!(abuse.early(|| start).is_err());
    }

    #[test]
    fn noise_is_made_good_by_work() {
        let mut abuse = Abuse::default();
        for _ in 0..NOISE {
            abuse.noise().expect("a lot");
            abuse.noise().expect("a lot");
            abuse.useful();
        }
        let ended = (0..=NOISE).any(|_| abuse.noise().is_err());
        assert!(ended);
    }
}
