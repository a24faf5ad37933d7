//! Bounds on the connections of a backend: places that are taken and given back, and what tells one backend's connections from another's.

use super::connect::Target;
use crate::codec::Hold;
use crate::error::{Kind, ProxyError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound on connections, shared by all endpoints of a backend and all workers.
#[derive(Debug)]
pub struct ConnectionLimit {
    open: AtomicUsize,
    most: AtomicUsize,
}

impl ConnectionLimit {
    /// At most `most` connections.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { open: AtomicUsize::new(0), most: AtomicUsize::new(most) }
    }

    /// Changes the bound; open connections stay.
    pub fn set(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes one connection out of the bound until the permit is dropped.
    pub fn acquire(self: &Arc<Self>) -> Result<ConnectionPermit, ProxyError> {
        let most = self.most.load(Ordering::Relaxed);
        self.open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| (open < most).then_some(open + 1))
            .map(|_| ConnectionPermit(self.clone()))
            .map_err(|open| {
                ProxyError::because(Kind::Overflow, format!("{open} connections are open, which is the limit"))
            })
    }
}

/// A [`ConnectionLimit`], as itself and not by what it counts.
#[derive(Clone)]
pub(super) struct Bound(Arc<ConnectionLimit>);

impl Bound {
    pub fn of(target: &Target) -> Self {
        Self(Arc::clone(&target.connections))
    }

    pub fn is(&self, other: &Arc<ConnectionLimit>) -> bool {
        Arc::ptr_eq(&self.0, other)
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for Bound {}

impl std::hash::Hash for Bound {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        std::ptr::hash(Arc::as_ptr(&self.0), state);
    }
}

/// One connection of a [`ConnectionLimit`].
#[derive(Debug)]
pub struct ConnectionPermit(Arc<ConnectionLimit>);

impl ConnectionPermit {
    /// Whether it was taken out of this bound.
    pub(super) fn is_of(&self, limit: &Arc<ConnectionLimit>) -> bool {
        Arc::ptr_eq(&self.0, limit)
    }
}

impl Hold for ConnectionPermit {}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}
