//! Bulkheads and rates: how much may be under way at once, and how often something may begin. Permits release
//! themselves when dropped. Nothing here queues or waits: what is over the limit is told so at once.
//!
//! Here are the fixed limits on what is under way; [`adaptive`] follows latency, [`rate`] counts calls over time, and
//! [`lease`] shares one rate between many.

pub mod adaptive;
mod bucket;
pub mod lease;
pub mod rate;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub use bucket::TokenBucket;

/// Limits of a backend or an inbound port. Default 1024 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Connections, HTTP pools and opaque TCP together.
    pub connections: u32,
    /// Calls waiting for a connection.
    pub pending: u32,
    /// Calls under way.
    pub requests: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { connections: 1024, pending: 1024, requests: 1024 }
    }
}

/// The three bulkheads of a backend or port, shared by all workers.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections.
    pub connections: Arc<Bulkhead>,
    /// Calls waiting for a connection.
    pub pending: Arc<Bulkhead>,
    /// Calls under way.
    pub requests: Arc<Bulkhead>,
}

impl Limits {
    /// With nothing under way.
    pub fn new(settings: Settings) -> Self {
        Limits {
            connections: Arc::new(Bulkhead::new(settings.connections)),
            pending: Arc::new(Bulkhead::new(settings.pending)),
            requests: Arc::new(Bulkhead::new(settings.requests)),
        }
    }

    /// New limits; what is under way stays, even where it is now too much.
    pub fn update(&self, settings: Settings) {
        self.connections.resize(settings.connections);
        self.pending.resize(settings.pending);
        self.requests.resize(settings.requests);
    }
}

/// The limit was reached: 503 at once, `weft-error: overflow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit of {limit} is reached")]
pub struct Overflow {
    /// The limit.
    pub limit: u32,
}

/// At most so many at once.
#[derive(Debug)]
pub struct Bulkhead {
    limit: AtomicU32,
    used: AtomicU32,
}

/// A place in a bulkhead, free again when dropped.
#[derive(Debug)]
#[must_use = "dropping a permit releases it"]
pub struct Permit {
    bulkhead: Arc<Bulkhead>,
}

impl Bulkhead {
    /// Empty.
    pub fn new(limit: u32) -> Self {
        Bulkhead { limit: AtomicU32::new(limit), used: AtomicU32::new(0) }
    }

    /// A place, or the news that there is none.
    ///
    /// # Errors
    /// [`Overflow`] when as many are under way as may be.
    pub fn enter(self: &Arc<Self>) -> Result<Permit, Overflow> {
        let limit = self.limit.load(Ordering::Relaxed);
        // Acquire and release pair up so that whoever takes a freed place sees what its holder did.
        let taken =
            self.used.fetch_update(Ordering::Acquire, Ordering::Relaxed, |used| (used < limit).then(|| used + 1));
        match taken {
            Ok(_) => Ok(Permit { bulkhead: Arc::clone(self) }),
            Err(_) => Err(Overflow { limit }),
        }
    }

    /// How many are under way.
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// How many may be.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// A new limit. What is over it stays; nothing new enters until enough have left.
    pub fn resize(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.bulkhead.used.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_permit_is_dropped() {
        let bulkhead = Arc::new(Bulkhead::new(2));
        let first = bulkhead.enter().unwrap();
        let second = bulkhead.enter().unwrap();
        assert_eq!(bulkhead.enter().unwrap_err(), Overflow { limit: 2 });
        drop(first);
        assert_eq!(bulkhead.used(), 1);
        assert!(bulkhead.enter().is_ok());
        drop(second);
        assert_eq!(bulkhead.used(), 0);
    }

    #[test]
    fn a_smaller_limit_throws_nobody_out_but_lets_nobody_in() {
        let limits = Limits::new(Settings { requests: 3, ..Settings::default() });
        assert_eq!(limits.requests.limit(), 3);
        let mut held: Vec<Permit> = (0..3).map(|_| limits.requests.enter().unwrap()).collect();
        limits.update(Settings { requests: 1, ..Settings::default() });
        assert_eq!((limits.requests.used(), limits.requests.limit()), (3, 1));
        while held.pop().is_some() {
            assert_eq!(limits.requests.enter().is_ok(), held.is_empty());
        }
    }

    #[test]
    fn threads_together_never_exceed_the_limit() {
        let bulkhead = Arc::new(Bulkhead::new(3));
        let refused = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        match bulkhead.enter() {
                            Ok(_permit) => assert!((1..=3).contains(&bulkhead.used())),
                            Err(_) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(bulkhead.used(), 0);
    }
}
