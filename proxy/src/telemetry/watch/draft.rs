//! What is gathered of one call while it is under way, for a record or a summary of it.

use super::traffic::Addressed;
use crate::codec::{Headers, RequestHead};
use std::sync::Arc;
use std::time::Instant;

/// Attempts that are told; more are counted.
const ATTEMPTS: usize = 16;

/// One attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    pub endpoint: Arc<str>,
    pub began: Instant,
    /// When its response head came, or it was given up.
    pub ended: Option<Instant>,
    pub status: u16,
    pub reason: &'static str,
}

/// What is known so far.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    /// As they came; only where a tap may want them.
    pub(super) request: Option<Headers>,
    /// As the caller gets them.
    pub(super) response: Option<Headers>,
    pub(super) attempts: Vec<Attempt>,
    /// Calls that this one stands for in summaries; 0: none.
    pub(super) weight: u32,
    pub(super) addressed: Option<Owned>,
}

/// Whom the call was addressed to, and what policies ask of it.
#[derive(Debug)]
pub(super) struct Owned {
    pub service: Arc<str>,
    pub port: u16,
    pub headers: Vec<(Arc<str>, Box<str>)>,
    pub queries: Vec<(Arc<str>, Box<str>)>,
}

impl Draft {
    pub(super) fn begin(head: &RequestHead, is_tapped: bool, weight: u32) -> Self {
        Self { request: is_tapped.then(|| head.headers.clone()), weight, ..Self::default() }
    }

    /// Where the call goes is known: what policies there ask of it is kept.
    pub(crate) fn addressed(&mut self, watch: &super::Watch, to: &Addressed<'_>, head: &RequestHead) {
        if self.weight > 0 {
            self.addressed = Some(watch.traffic.named(to, head));
        }
    }

    pub(super) fn is_tapped(&self) -> bool {
        self.request.is_some()
    }

    /// An attempt begins.
    pub(crate) fn attempts(&mut self, endpoint: &Arc<str>) {
        if self.is_tapped() && self.attempts.len() < ATTEMPTS {
            let (endpoint, began) = (Arc::clone(endpoint), now());
            self.attempts.push(Attempt { endpoint, began, ended: None, status: 0, reason: "" });
        }
    }

    /// The attempt that is out has its response head, or is given up.
    pub(crate) fn attempted(&mut self, status: u16, reason: &'static str) {
        if let Some(attempt) = self.attempts.last_mut()
            && attempt.ended.is_none()
        {
            (attempt.ended, attempt.status, attempt.reason) = (Some(now()), status, reason);
        }
    }

    /// What the caller is answered with.
    pub(crate) fn answered(&mut self, headers: &Headers) {
        if self.is_tapped() {
            self.response = Some(headers.clone());
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
